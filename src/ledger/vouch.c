/* vouch.c - checkpoints made of a replica, and reproduced from one; see ckpt.h.
 *
 *   replica at n[author]  ──fold or take back the difference──>  the file's vector  ──>  equal?
 *
 * Integer updates are taken back exactly, so any vector can be reached from any other, and what it
 * costs is the difference.  Nothing here changes what the replica holds but pd_ckpt_make's
 * following of the ledger, which its owner does all the time.
 */
#include "peerd/bytes.h"
#include "peerd/ckpt.h"

#include <assert.h>
#include <stdlib.h>

enum { PIECE = 4096, FOLLOW_STEP = 1 << 16 };

/* A set of records: how many of each author, by the ledger's index. */
typedef struct vector {
    uint64_t n[PD_AUTHORS_MAX];
    uint8_t seal[PD_AUTHORS_MAX][64];
    uint32_t authors;
} vector;

static uint64_t apart(uint64_t a, uint64_t b) {
    return a > b ? a - b : b - a;
}

/* Author i of `a` from n records to want.  False: the ledger does not hold those between. */
static bool move_author(const pd_replica *r, pd_ledger *l, uint32_t i, uint64_t n, uint64_t want,
                        int32_t *a) {
    uint8_t bytes[PIECE];
    while (n != want) {
        size_t k = apart(n, want) < PIECE ? (size_t)apart(n, want) : PIECE;
        uint64_t from = n < want ? n : n - k;
        if (pd_ledger_read(l, i, PD_STREAM_GRADIENTS, from, bytes, k) != k)
            return false;
        if (n < want)
            pd_replay_fold(&r->replay, a, r->d, &r->author[i], from, bytes, k);
        else
            pd_replay_unfold(&r->replay, a, r->d, &r->author[i], from, bytes, k);
        n = n < want ? n + k : from;
    }
    return true;
}

/* The replica's sealed coordinates, moved to v, into a (d).  False: see move_author. */
static bool move_to(const pd_replica *r, pd_ledger *l, const vector *v, int32_t *a) {
    uint8_t digest[PD_DIGEST_BYTES];
    pd_replica_sealed(r, a, digest);
    for (uint32_t i = 0; i < r->n_authors; i++)
        if (!move_author(r, l, i, r->n[i], i < v->authors ? v->n[i] : 0, a))
            return false;
    return true;
}

/* The chain over the first n bytes of a log that is held from its first byte on. */
static bool chain_at(const pd_replica *r, pd_ledger *l, uint32_t i, uint64_t n, pd_chain *out) {
    uint8_t bytes[PIECE];
    pd_chain_init(out, r->replay.run, &r->author[i], PD_STREAM_GRADIENTS);
    while (out->n < n) {
        size_t k = n - out->n < PIECE ? (size_t)(n - out->n) : PIECE;
        if (pd_ledger_read(l, i, PD_STREAM_GRADIENTS, out->n, bytes, k) != k)
            return false;
        pd_chain_add(out, bytes, k);
    }
    return true;
}

/* ---- make ---- */

/* Where every log stands whose records all count. */
static pd_err take_vector(pd_ledger *l, vector *v) {
    pd_log_info info;
    v->authors = pd_ledger_authors(l);
    if (v->authors > PD_AUTHORS_MAX)
        return pd_fail(PD_EFULL, "%u authors, more than a checkpoint of %d holds", v->authors,
                       PD_AUTHORS_MAX);
    for (uint32_t i = 0; i < v->authors; i++) {
        bool there = pd_ledger_info(l, i, &info);
        assert(there);
        (void)there;
        if (info.base)
            return pd_fail(PD_EAGAIN, "this node's own state rests on a checkpoint whose audit is "
                                      "not done: it cannot vouch for one yet");
        uint64_t n = info.n[PD_STREAM_GRADIENTS];
        v->n[i] = n <= info.void_at ? n : 0;
        memcpy(v->seal[i], info.seal[PD_STREAM_GRADIENTS], 64);
    }
    return PD_OK;
}

typedef struct place { /* an author, and where it stands in the ledger */
    pd_author author;
    uint32_t index;
} place;

static int by_author(const void *x, const void *y) {
    return pd_author_order(&((const place *)x)->author, &((const place *)y)->author);
}

static void put_entry(pd_writer *w, const pd_author *a, const pd_chain *c, const uint8_t seal[64]) {
    pd_put_bytes(w, a->key, 32);
    pd_put_varint(w, a->inc);
    pd_put_varint(w, c->n);
    pd_put_bytes(w, c->c, 32);
    pd_put_bytes(w, c->tail, (size_t)(c->n % PD_CHUNK_BYTES));
    pd_put_bytes(w, seal, 64);
}

/* False: a log is not held whole. */
static bool put_entries(const pd_replica *r, pd_ledger *l, const vector *v, const place *order,
                        uint32_t count, pd_writer *w) {
    for (uint32_t k = 0; k < count; k++) {
        pd_chain chain;
        uint32_t i = order[k].index;
        if (!chain_at(r, l, i, v->n[i], &chain))
            return false;
        put_entry(w, &order[k].author, &chain, v->seal[i]);
    }
    return true;
}

static pd_err write_file(const pd_replica *r, pd_ledger *l, const vector *v, const int32_t *a,
                         uint8_t *file, size_t room, size_t *size) {
    place order[PD_AUTHORS_MAX];
    uint32_t count = 0;
    uint64_t records = 0;
    for (uint32_t i = 0; i < v->authors; i++) {
        if (v->n[i])
            order[count++] = (place){r->author[i], i};
        records += v->n[i];
    }
    if (!count)
        return pd_fail(PD_ENOENT, "there are no records to make a checkpoint of");
    qsort(order, count, sizeof *order, by_author);
    pd_writer w = pd_writer_of(file, room);
    pd_put_bytes(&w, PD_CKPT_TAG, sizeof PD_CKPT_TAG - 1);
    pd_put_bytes(&w, r->replay.run, 32);
    pd_put_varint(&w, r->d);
    pd_put_varint(&w, records);
    pd_put_varint(&w, count);
    if (!put_entries(r, l, v, order, count, &w))
        return pd_fail(PD_EAGAIN, "a log is not held whole");
    for (size_t i = 0; i < r->d; i++)
        pd_put_u32(&w, (uint32_t)a[i]);
    assert(w.ok);
    *size = (size_t)(w.p - file);
    return PD_OK;
}

static pd_err make(pd_replica *r, pd_ledger *l, const vector *v, int32_t *a, uint8_t *file,
                   size_t room, size_t *size, pd_ckpt_name *name) {
    uint64_t folded = 1;
    pd_err e = PD_OK;
    while (folded && !e)
        e = pd_replica_follow(r, l, FOLLOW_STEP, &folded);
    if (!e && !move_to(r, l, v, a))
        e = pd_fail(PD_EAGAIN, "a log is not held whole");
    if (!e)
        e = write_file(r, l, v, a, file, room, size);
    pd_ckpt c;
    if (!e)
        e = pd_ckpt_open(file, *size, r->replay.run, &c);
    if (!e)
        pd_ckpt_name_of(file, *size, &c, a, name);
    return e;
}

/* The seals are taken first: while the replica follows, the ledger grows and keeps only newer ones.
 */
pd_err pd_ckpt_make(pd_replica *r, pd_ledger *l, uint8_t **file, size_t *size, pd_ckpt_name *name) {
    vector v;
    pd_err e = take_vector(l, &v);
    if (e)
        return e;
    size_t room = (size_t)pd_ckpt_most(r->d, v.authors);
    int32_t *a = malloc(r->d * sizeof *a);
    uint8_t *p = malloc(room);
    e = a && p ? make(r, l, &v, a, p, room, size, name)
               : pd_fail(PD_ENOMEM, "no memory for a checkpoint of %zu bytes", room);
    free(a);
    if (e)
        free(p);
    else
        *file = p;
    return e;
}

/* ---- check ---- */

/* The file's vector by the ledger's index, and whether its marks are those of the bytes held. */
static pd_ckpt_verdict read_marks(const pd_ckpt *c, const pd_replica *r, pd_ledger *l,
                                  pd_evidence_verify *verify, void *ctx, vector *v,
                                  const char **why) {
    const uint8_t *at = c->entries;
    pd_ckpt_log e;
    memset(v, 0, sizeof *v);
    v->authors = r->n_authors;
    while (pd_ckpt_next(c, &at, &e)) {
        pd_log_info info;
        pd_chain ours;
        uint32_t i;
        *why = "it holds records that are not held here";
        if (!pd_ledger_find(l, &e.author, &i) || i >= r->n_authors ||
            !pd_ledger_info(l, i, &info) || info.base || info.n[PD_STREAM_GRADIENTS] < e.chain.n)
            return PD_CKPT_UNKNOWN;
        *why = "it holds records that do not count here";
        if (info.void_at < e.chain.n)
            return PD_CKPT_UNKNOWN;
        *why = "a mark in it is not that of its author's log";
        if (!chain_at(r, l, i, e.chain.n, &ours) || memcmp(ours.c, e.chain.c, 32) != 0 ||
            memcmp(ours.tail, e.chain.tail, (size_t)(ours.n % PD_CHUNK_BYTES)) != 0 ||
            !pd_ckpt_sealed(&e, r->replay.run, verify, ctx))
            return PD_CKPT_WRONG;
        v->n[i] = e.chain.n;
    }
    return PD_CKPT_RIGHT;
}

static uint64_t cost(const pd_replica *r, const vector *v) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < r->n_authors; i++)
        sum += apart(r->n[i], v->n[i]);
    return sum;
}

static pd_err compare(const pd_ckpt *c, const pd_replica *r, pd_ledger *l, const vector *v,
                      pd_ckpt_verdict *out, const char **why) {
    int32_t *a = malloc(r->d * sizeof *a);
    if (!a)
        return pd_fail(PD_ENOMEM, "no memory for %zu coordinates", r->d);
    bool moved = move_to(r, l, v, a), same = moved;
    for (size_t i = 0; i < r->d && same; i++)
        same = (uint32_t)a[i] == pd_load32(c->coords + 4 * i);
    free(a);
    *out = same ? PD_CKPT_RIGHT : moved ? PD_CKPT_WRONG : PD_CKPT_UNKNOWN;
    *why = moved ? "its coordinates are not what its records give"
                 : "it holds records that are not held here";
    return PD_OK;
}

pd_err pd_ckpt_check(const uint8_t *file, size_t size, const pd_replica *r, pd_ledger *l,
                     uint64_t most, pd_evidence_verify *verify, void *ctx, pd_ckpt_verdict *out,
                     const char **why) {
    pd_ckpt c;
    vector v;
    pd_err e = pd_ckpt_open(file, size, r->replay.run, &c);
    if (e)
        return e;
    if (c.d != r->d)
        return pd_fail(PD_EMISMATCH, "it has %llu coordinates, the run %zu",
                       (unsigned long long)c.d, r->d);
    *out = read_marks(&c, r, l, verify, ctx, &v, why);
    if (*out != PD_CKPT_RIGHT)
        return PD_OK;
    if (cost(r, &v) > most) {
        *out = PD_CKPT_UNKNOWN;
        *why = "it is too far from where this node stands";
        return PD_OK;
    }
    return compare(&c, r, l, &v, out, why);
}

/* ---- restore ---- */

pd_err pd_ckpt_restore(const uint8_t *file, size_t size, pd_replica *r, pd_ledger *l) {
    pd_ckpt c;
    pd_ckpt_log log;
    pd_author authors[PD_AUTHORS_MAX];
    uint64_t n[PD_AUTHORS_MAX];
    uint32_t count = 0;
    pd_err e = pd_ckpt_open(file, size, r->replay.run, &c);
    if (e)
        return e;
    if (c.d != r->d || c.count > PD_AUTHORS_MAX)
        return pd_fail(PD_EMISMATCH, "a checkpoint of %llu coordinates and %u authors",
                       (unsigned long long)c.d, c.count);
    for (const uint8_t *at = c.entries; pd_ckpt_next(&c, &at, &log); count++) {
        authors[count] = log.author;
        n[count] = log.chain.n;
    }
    int32_t *a = malloc(r->d * sizeof *a);
    if (!a)
        return pd_fail(PD_ENOMEM, "no memory for %zu coordinates", r->d);
    pd_ckpt_coords(&c, a);
    e = pd_replica_restore(r, l, a, authors, n, count);
    free(a);
    return e;
}
