/* ckpt_file.c - checkpoint files of the played worlds; see ckpt_file.h. */
#include "ckpt_file.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static int by_author(const void *x, const void *y) {
    const pd_author *a = &((const ckpt_source *)x)->author, *b = &((const ckpt_source *)y)->author;
    int order = memcmp(a->key, b->key, 32);
    return order ? order : (a->inc > b->inc) - (a->inc < b->inc);
}

static void put_entry(pd_writer *w, const uint8_t run[32], const ckpt_source *l, bool forged) {
    pd_chain c;
    pd_chain_init(&c, run, &l->author, PD_STREAM_GRADIENTS);
    pd_chain_add(&c, l->bytes, (size_t)l->n);
    c.c[5] ^= forged;
    pd_put_bytes(w, l->author.key, 32);
    pd_put_varint(w, l->author.inc);
    pd_put_varint(w, l->n);
    pd_put_bytes(w, c.c, 32);
    pd_put_bytes(w, c.tail, (size_t)(c.n % PD_CHUNK_BYTES));
    pd_put_bytes(w, l->seal, 64);
}

uint8_t *ckpt_file_make(const pd_replay *r, ckpt_source *logs, uint32_t n, size_t d, ckpt_lie lie,
                        size_t *size, pd_ckpt_name *name) {
    int32_t a[CKPT_COORDS_MAX] = {0};
    uint64_t records = 0;
    size_t room = (size_t)pd_ckpt_most(d, n);
    uint8_t *p = n ? malloc(room) : NULL;
    pd_ckpt c;
    assert(d <= CKPT_COORDS_MAX);
    if (!p)
        return NULL;
    qsort(logs, n, sizeof *logs, by_author);
    for (uint32_t i = 0; i < n; i++)
        records += logs[i].n;
    pd_writer w = pd_writer_of(p, room);
    pd_put_bytes(&w, PD_CKPT_TAG, sizeof PD_CKPT_TAG - 1);
    pd_put_bytes(&w, r->run, 32);
    pd_put_varint(&w, d);
    pd_put_varint(&w, records);
    pd_put_varint(&w, n);
    for (uint32_t i = 0; i < n; i++) {
        put_entry(&w, r->run, &logs[i], lie == CKPT_FALSE_MARK && i == 0);
        pd_replay_fold(r, a, d, &logs[i].author, 0, logs[i].bytes, (size_t)logs[i].n);
    }
    a[3] += lie == CKPT_FALSE_MODEL;
    for (size_t i = 0; i < d; i++)
        pd_put_u32(&w, (uint32_t)a[i]);
    *size = (size_t)(w.p - p);
    pd_err e = pd_ckpt_open(p, *size, r->run, &c);
    assert(!e); /* what was just written opens */
    (void)e;
    pd_ckpt_name_of(p, *size, &c, a, name);
    return p;
}

bool ckpt_file_is_known(const pd_replay *r, const uint8_t *p, size_t size, size_t d,
                        ckpt_bytes *bytes, void *ctx) {
    pd_ckpt c;
    pd_ckpt_log e;
    bool known = pd_ckpt_open(p, size, r->run, &c) == PD_OK && c.d == d;
    if (known)
        for (const uint8_t *at = c.entries; pd_ckpt_next(&c, &at, &e);)
            known &= bytes(ctx, &e.author, e.chain.n) != NULL;
    return known;
}

bool ckpt_file_is_right(const pd_replay *r, const uint8_t *p, size_t size, size_t d,
                        ckpt_bytes *bytes, void *ctx) {
    pd_ckpt c;
    pd_ckpt_log e;
    int32_t a[CKPT_COORDS_MAX] = {0}, is[CKPT_COORDS_MAX];
    bool right = true;
    if (pd_ckpt_open(p, size, r->run, &c))
        return false;
    for (const uint8_t *at = c.entries; pd_ckpt_next(&c, &at, &e);) {
        pd_chain ours;
        const uint8_t *b = bytes(ctx, &e.author, e.chain.n);
        pd_chain_init(&ours, r->run, &e.author, PD_STREAM_GRADIENTS);
        pd_chain_add(&ours, b, (size_t)e.chain.n);
        right &= !memcmp(ours.c, e.chain.c, 32);
        pd_replay_fold(r, a, d, &e.author, 0, b, (size_t)e.chain.n);
    }
    pd_ckpt_coords(&c, is);
    return right && !memcmp(a, is, d * sizeof *a);
}
