/* replica.c - the fold of the ledger, kept up to date; see replica.h. */
#include "peerd/replica.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE = 4096 }; /* bytes read from the ledger at a time */

pd_err pd_replica_open(const pd_manifest *m, pd_replica *out) {
    memset(out, 0, sizeof *out);
    pd_replay_of(m, &out->replay);
    out->d = (size_t)m->n_coords;
    out->own = UINT32_MAX;
    out->a = calloc(out->d, sizeof *out->a);
    return out->a ? PD_OK : pd_fail(PD_ENOMEM, "no memory for %zu coordinates", out->d);
}

void pd_replica_close(pd_replica *r) {
    if (r)
        free(r->a);
    if (r)
        memset(r, 0, sizeof *r);
}

void pd_replica_reset(pd_replica *r) {
    memset(r->a, 0, r->d * sizeof *r->a);
    memset(r->n, 0, sizeof r->n);
    r->records = 0;
    r->n_pending = 0;
    r->changes++;
}

/* Make room for every author of the ledger. */
static pd_err learn_authors(pd_replica *r, pd_ledger *l) {
    uint32_t count = pd_ledger_authors(l);
    if (count > PD_AUTHORS_MAX)
        return pd_fail(PD_EFULL, "%u authors, more than the %d a replica follows", count,
                       PD_AUTHORS_MAX);
    for (; r->n_authors < count; r->n_authors++) {
        pd_log_info info;
        bool there = pd_ledger_info(l, r->n_authors, &info);
        assert(there);
        (void)there;
        r->author[r->n_authors] = info.author;
    }
    return PD_OK;
}

/* Own bytes that come back sealed: they are in a already.  Returns how many of the n given ones
 * were pending. */
static size_t settle(pd_replica *r, uint32_t index, const uint8_t *bytes, size_t n, bool *same) {
    size_t k = index == r->own ? (n < r->n_pending ? n : r->n_pending) : 0;
    *same = memcmp(r->pending, bytes, k) == 0;
    if (!*same)
        return 0;
    memmove(r->pending, r->pending + k, r->n_pending - k);
    r->n_pending -= (uint32_t)k;
    return k;
}

static size_t smaller(uint64_t a, uint64_t b, size_t c) {
    uint64_t least = a < b ? a : b;
    return least < c ? (size_t)least : c;
}

static pd_err not_held(void) {
    return pd_fail(PD_ENOENT, "records from before a log's base are needed and not here yet");
}

/* Author i up to `end`. */
static pd_err fold_to(pd_replica *r, pd_ledger *l, uint32_t i, uint64_t end, uint64_t most,
                      uint64_t *folded) {
    uint8_t bytes[PIECE];
    while (*folded < most && r->n[i] < end) {
        size_t n = smaller(most - *folded, end - r->n[i], PIECE);
        bool same;
        n = pd_ledger_read(l, i, PD_STREAM_GRADIENTS, r->n[i], bytes, n);
        if (n == 0)
            return not_held();
        size_t settled = settle(r, i, bytes, n, &same);
        if (!same)
            return pd_fail(PD_EMISMATCH, "the ledger holds other bytes of this node than it made");
        pd_replay_fold(&r->replay, r->a, r->d, &r->author[i], r->n[i] + settled, bytes + settled,
                       n - settled);
        r->n[i] += n;
        r->records += n;
        *folded += n;
    }
    return PD_OK;
}

/* Author i down to `end`: its records from there on have become void. */
static pd_err take_back_to(pd_replica *r, pd_ledger *l, uint32_t i, uint64_t end, uint64_t most,
                           uint64_t *folded) {
    uint8_t bytes[PIECE];
    while (*folded < most && r->n[i] > end) {
        size_t n = smaller(most - *folded, r->n[i] - end, PIECE);
        uint64_t from = r->n[i] - n;
        if (pd_ledger_read(l, i, PD_STREAM_GRADIENTS, from, bytes, n) != n)
            return not_held(); /* a ledger never shrinks: they lie before the base */
        pd_replay_unfold(&r->replay, r->a, r->d, &r->author[i], from, bytes, n);
        r->n[i] = from;
        r->records -= n;
        *folded += n;
    }
    return PD_OK;
}

pd_err pd_replica_follow(pd_replica *r, pd_ledger *l, uint64_t most, uint64_t *folded) {
    pd_err e = learn_authors(r, l);
    *folded = 0;
    for (uint32_t i = 0; i < r->n_authors && !e; i++) {
        pd_log_info info;
        if (!pd_ledger_info(l, i, &info))
            continue;
        uint64_t n = info.n[PD_STREAM_GRADIENTS], end = n < info.void_at ? n : info.void_at;
        if (i == r->own) /* what waits for its seal stands behind what is sealed: it goes first */
            pd_replica_take_back(r, info.void_at);
        e = take_back_to(r, l, i, end, most, folded);
        if (!e)
            e = fold_to(r, l, i, end, most, folded);
    }
    r->changes += *folded;
    return e;
}

pd_err pd_replica_own(pd_replica *r, pd_ledger *l, const pd_author *own) {
    uint32_t index;
    pd_err e = pd_ledger_author(l, own, &index);
    if (!e)
        e = learn_authors(r, l);
    if (e || index == r->own)
        return e;
    pd_replica_take_back(r, 0);
    r->own = index;
    return PD_OK;
}

uint64_t pd_replica_next_step(const pd_replica *r) {
    assert(r->own != UINT32_MAX);
    return r->n[r->own] + r->n_pending;
}

bool pd_replica_add(pd_replica *r, uint8_t byte) {
    if (r->n_pending == PD_REPLICA_PENDING_MAX)
        return false;
    pd_replay_fold(&r->replay, r->a, r->d, &r->author[r->own], pd_replica_next_step(r), &byte, 1);
    r->pending[r->n_pending++] = byte;
    return true;
}

/* Fold the pending bytes from the k-th on out of coordinates. */
static void unfold(const pd_replica *r, int32_t *a, uint32_t k) {
    for (; k < r->n_pending; k++) {
        uint8_t seed[1][32];
        uint64_t step = r->n[r->own] + k;
        int64_t q = pd_byte_coefficient(r->pending[k], pd_schedule_at(&r->replay.schedule, step),
                                        r->replay.unit_bits);
        pd_direction_seed(r->replay.run, &r->author[r->own], step, seed[0]);
        pd_replay_undo(a, r->d, (const uint8_t(*)[32])seed, &q, 1);
    }
}

void pd_replica_take_back(pd_replica *r, uint64_t step) {
    if (r->own == UINT32_MAX || step >= pd_replica_next_step(r))
        return;
    uint32_t keep = step > r->n[r->own] ? (uint32_t)(step - r->n[r->own]) : 0;
    unfold(r, r->a, keep);
    r->n_pending = keep;
}

void pd_replica_sealed(const pd_replica *r, int32_t *out, uint8_t digest[PD_DIGEST_BYTES]) {
    memcpy(out, r->a, r->d * sizeof *out);
    unfold(r, out, 0);
    pd_replay_digest(out, r->d, digest);
}

pd_err pd_replica_restore(pd_replica *r, pd_ledger *l, const int32_t *a, const pd_author *authors,
                          const uint64_t *n, uint32_t count) {
    pd_err e = PD_OK;
    uint32_t index[PD_AUTHORS_MAX];
    if (count > PD_AUTHORS_MAX)
        return pd_fail(PD_EFULL, "the checkpoint names %u authors, more than %d", count,
                       PD_AUTHORS_MAX);
    for (uint32_t k = 0; k < count && !e; k++) {
        pd_log_info info;
        e = pd_ledger_author(l, &authors[k], &index[k]);
        if (e || !pd_ledger_info(l, index[k], &info))
            continue;
        if (info.n[PD_STREAM_GRADIENTS] < n[k])
            e = pd_fail(PD_EMISMATCH, "the checkpoint holds records that the log does not");
        else if (info.void_at < n[k])
            e = pd_fail(PD_EMISMATCH, "the checkpoint holds records that do not count any more");
    }
    if (!e)
        e = learn_authors(r, l);
    if (e)
        return e;
    memcpy(r->a, a, r->d * sizeof *a);
    memset(r->n, 0, sizeof r->n);
    r->records = 0;
    r->n_pending = 0;
    r->changes++;
    for (uint32_t k = 0; k < count; k++) {
        r->n[index[k]] = n[k];
        r->records += n[k];
    }
    return PD_OK;
}
