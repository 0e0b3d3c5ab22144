/* evidence.c - proofs of two logs of one author, written, read and checked; see evidence.h. */
#include "peerd/evidence.h"

#include <string.h>

enum { BYTES_LOG2_MAX = 62 }; /* lengths beyond 2^62 bytes are nobody's log */

/* ---- branches ---- */

bool pd_branch_put(pd_writer *w, const pd_author *a, uint8_t stream, uint64_t j, uint64_t n,
                   const uint8_t seal[64], pd_evidence_source *source, void *ctx) {
    uint64_t at = j * PD_CHUNK_BYTES;
    if (n <= at || (n - at) / PD_CHUNK_BYTES > PD_BRANCH_MAX / 32)
        return false;
    pd_put_varint(w, n);
    while (w->ok && at < n) {
        uint8_t chunk[PD_CHUNK_BYTES], inner[32];
        size_t size = n - at < PD_CHUNK_BYTES ? (size_t)(n - at) : PD_CHUNK_BYTES;
        if (source(ctx, a, stream, at, chunk, size) != size)
            return false;
        bool by_hash = at > j * PD_CHUNK_BYTES && size == PD_CHUNK_BYTES;
        if (by_hash)
            pd_hash256(chunk, size, inner);
        pd_put_bytes(w, by_hash ? inner : chunk, by_hash ? sizeof inner : size);
        at += size;
    }
    pd_put_bytes(w, seal, 64);
    return w->ok;
}

void pd_branch_get(pd_reader *r, uint64_t j, pd_branch *out) {
    uint64_t from = j * PD_CHUNK_BYTES;
    memset(out, 0, sizeof *out);
    out->n = pd_get_varint_max(r, UINT64_C(1) << BYTES_LOG2_MAX);
    if (!r->ok || out->n <= from) {
        r->ok = false;
        return;
    }
    uint64_t after = out->n - from;
    out->chunk_size = after < PD_CHUNK_BYTES ? (size_t)after : PD_CHUNK_BYTES;
    out->chunk = pd_get_bytes(r, out->chunk_size);
    after -= out->chunk_size;
    if (after / PD_CHUNK_BYTES > PD_EVIDENCE_MAX / 32) { /* before it is multiplied */
        r->ok = false;
        return;
    }
    out->n_hashes = (size_t)(after / PD_CHUNK_BYTES);
    out->hashes = pd_get_bytes(r, 32 * out->n_hashes);
    out->tail_size = (size_t)(after % PD_CHUNK_BYTES);
    out->tail = pd_get_bytes(r, out->tail_size);
    out->seal = pd_get_bytes(r, 64);
}

bool pd_branch_sealed(const pd_branch *b, const uint8_t run[32], const pd_author *a, uint8_t stream,
                      uint64_t j, const uint8_t c[32], pd_evidence_verify *verify, void *ctx) {
    uint8_t msg[PD_SEAL_MESSAGE_BYTES];
    pd_chain chain = {.n = j * PD_CHUNK_BYTES};
    memcpy(chain.c, c, 32);
    pd_chain_add(&chain, b->chunk, b->chunk_size);
    for (size_t i = 0; i < b->n_hashes; i++)
        pd_chain_add_hash(&chain, b->hashes + 32 * i);
    pd_chain_add(&chain, b->tail, b->tail_size);
    pd_seal_message(&chain, run, a, stream, msg);
    return verify(ctx, a->key, msg, sizeof msg, b->seal);
}

/* ---- evidence ---- */

/* Where two branches part, in chunk j; false where they do not as far as both reach. */
static bool part(const pd_branch *x, const pd_branch *y, size_t *at) {
    size_t common = x->chunk_size < y->chunk_size ? x->chunk_size : y->chunk_size;
    for (*at = 0; *at < common; ++*at)
        if (x->chunk[*at] != y->chunk[*at])
            return true;
    return false;
}

bool pd_evidence_put(pd_writer *w, const pd_author *a, uint8_t stream, uint64_t j,
                     const uint8_t c[32], const uint8_t *one, size_t one_size, const uint8_t *other,
                     size_t other_size) {
    pd_reader r[2] = {pd_reader_of(one, one_size), pd_reader_of(other, other_size)};
    pd_branch b[2];
    size_t at;
    for (int i = 0; i < 2; i++) {
        pd_branch_get(&r[i], j, &b[i]);
        if (!r[i].ok || pd_reader_left(&r[i]))
            return false;
    }
    if (!part(&b[0], &b[1], &at))
        return false;
    bool swap = b[0].chunk[at] > b[1].chunk[at];
    pd_put_bytes(w, a->key, 32);
    pd_put_varint(w, a->inc);
    pd_put_u8(w, stream);
    pd_put_varint(w, j);
    pd_put_bytes(w, c, 32);
    pd_put_bytes(w, swap ? other : one, swap ? other_size : one_size);
    pd_put_bytes(w, swap ? one : other, swap ? one_size : other_size);
    return w->ok;
}

pd_err pd_evidence_get(const uint8_t *p, size_t n, pd_evidence *out) {
    pd_evidence e = {.j = 0};
    pd_reader r = pd_reader_of(p, n);
    size_t at = 0;
    const uint8_t *key = pd_get_bytes(&r, 32);
    if (key)
        memcpy(e.author.key, key, 32);
    e.author.inc = (uint32_t)pd_get_varint_max(&r, PD_INCARNATIONS - 1);
    e.stream = pd_get_u8(&r);
    e.j = pd_get_varint_max(&r, (UINT64_C(1) << BYTES_LOG2_MAX) / PD_CHUNK_BYTES);
    const uint8_t *c = pd_get_bytes(&r, 32);
    if (c)
        memcpy(e.c, c, 32);
    for (int i = 0; i < 2 && r.ok; i++)
        pd_branch_get(&r, e.j, &e.branch[i]);
    if (n > PD_EVIDENCE_MAX || !r.ok || pd_reader_left(&r) || e.stream >= PD_STREAMS)
        return pd_fail(PD_EFORMAT, "not evidence: cut short, too long or out of range");
    if (!part(&e.branch[0], &e.branch[1], &at) || e.branch[0].chunk[at] > e.branch[1].chunk[at])
        return pd_fail(PD_EFORMAT,
                       "not evidence: its branches do not part, or stand in the wrong order");
    e.step = e.j * PD_CHUNK_BYTES + at;
    *out = e;
    return PD_OK;
}

bool pd_evidence_proves(const pd_evidence *e, const uint8_t run[32], pd_evidence_verify *verify,
                        void *ctx) {
    return pd_branch_sealed(&e->branch[0], run, &e->author, e->stream, e->j, e->c, verify, ctx) &&
           pd_branch_sealed(&e->branch[1], run, &e->author, e->stream, e->j, e->c, verify, ctx);
}
