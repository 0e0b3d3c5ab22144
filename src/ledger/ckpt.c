/* ckpt.c - the bytes of a checkpoint, read and named; see ckpt.h for the layout. */
#include "peerd/ckpt.h"
#include "peerd/bytes.h"

#include <assert.h>

/* One entry; a failed reader for what is not one. */
static void get_entry(pd_reader *r, pd_ckpt_log *out) {
    const uint8_t *key = pd_get_bytes(r, 32);
    out->author.inc = (uint32_t)pd_get_varint_max(r, PD_INCARNATIONS - 1);
    out->chain.n = pd_get_varint_max(r, UINT32_MAX);
    const uint8_t *c = pd_get_bytes(r, 32);
    size_t tail = (size_t)(out->chain.n % PD_CHUNK_BYTES);
    const uint8_t *bytes = pd_get_bytes(r, tail);
    out->seal = pd_get_bytes(r, 64);
    if (!r->ok || out->chain.n == 0) {
        r->ok = false;
        return;
    }
    memcpy(out->author.key, key, 32);
    memcpy(out->chain.c, c, 32);
    memcpy(out->chain.tail, bytes, tail);
    r->ok = !memchr(bytes, 0x80, tail); /* the one byte that is no record */
}

pd_err pd_ckpt_open(const uint8_t *p, size_t n, const uint8_t run[32], pd_ckpt *out) {
    pd_reader r = pd_reader_of(p, n);
    const uint8_t *tag = pd_get_bytes(&r, sizeof PD_CKPT_TAG - 1), *whose = pd_get_bytes(&r, 32);
    pd_ckpt c = {.d = pd_get_varint_max(&r, UINT32_MAX)};
    c.records = pd_get_varint(&r);
    c.count = (uint32_t)pd_get_varint_max(&r, UINT32_MAX);
    c.entries = r.p;
    if (!r.ok || memcmp(tag, PD_CKPT_TAG, sizeof PD_CKPT_TAG - 1) != 0 || c.d == 0)
        return pd_fail(PD_EFORMAT, "not a checkpoint");
    if (memcmp(whose, run, 32) != 0)
        return pd_fail(PD_EMISMATCH, "a checkpoint of another run");
    uint64_t records = 0;
    pd_ckpt_log last, e;
    for (uint32_t i = 0; i < c.count && r.ok; i++) {
        get_entry(&r, &e);
        if (r.ok && i && pd_author_order(&last.author, &e.author) >= 0)
            r.ok = false;
        records += e.chain.n; /* count < 2^32 of n < 2^32 */
        last.author = e.author;
    }
    c.coords = r.p;
    if (!r.ok || records != c.records || pd_reader_left(&r) != 4 * c.d)
        return pd_fail(PD_EFORMAT, "a checkpoint whose entries do not parse");
    *out = c;
    return PD_OK;
}

bool pd_ckpt_next(const pd_ckpt *c, const uint8_t **at, pd_ckpt_log *out) {
    if (*at == c->coords)
        return false;
    pd_reader r = pd_reader_of(*at, (size_t)(c->coords - *at));
    get_entry(&r, out);
    assert(r.ok); /* it was read once */
    *at = r.p;
    return true;
}

bool pd_ckpt_sealed(const pd_ckpt_log *l, const uint8_t run[32], pd_evidence_verify *verify,
                    void *ctx) {
    uint8_t msg[PD_SEAL_MESSAGE_BYTES];
    pd_seal_message(&l->chain, run, &l->author, PD_STREAM_GRADIENTS, msg);
    return verify(ctx, l->author.key, msg, sizeof msg, l->seal);
}

void pd_ckpt_coords(const pd_ckpt *c, int32_t *out) {
    for (uint64_t i = 0; i < c->d; i++)
        out[i] = (int32_t)pd_load32(c->coords + 4 * i);
}

void pd_ckpt_name_of(const uint8_t *p, size_t n, const pd_ckpt *c, const int32_t *a,
                     pd_ckpt_name *out) {
    pd_hash256(p, n, out->file);
    pd_replay_digest(a, (size_t)c->d, out->model);
    out->size = n;
    out->records = c->records;
}

bool pd_ckpt_same(const pd_ckpt_name *a, const pd_ckpt_name *b) {
    return !memcmp(a->file, b->file, 32) && !memcmp(a->model, b->model, PD_DIGEST_BYTES) &&
           a->size == b->size && a->records == b->records;
}
