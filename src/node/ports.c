/* ports.c - a core's questions answered from the identity and the ledger; see ports.h. */
#include "ports.h"

#include <stdlib.h>
#include <string.h>

static void sign(void *ctx, const void *msg, size_t size, uint8_t sig[64]) {
    pd_sign(((pd_ports *)ctx)->identity, msg, size, sig);
}

static bool verify(void *ctx, const uint8_t pub[32], const void *msg, size_t size,
                   const uint8_t sig[64]) {
    (void)ctx;
    return pd_verify(pub, msg, size, sig);
}

static uint64_t random64(void *ctx) {
    (void)ctx;
    return pd_random64();
}

static bool seal(void *ctx, const pd_author *a, uint8_t stream, uint64_t *n, uint8_t out[64]) {
    pd_ledger *l = ((pd_ports *)ctx)->ledger;
    uint32_t index;
    pd_log_info info;
    *n = 0;
    if (!pd_ledger_find(l, a, &index) || !pd_ledger_info(l, index, &info) || !info.n[stream])
        return false;
    *n = info.n[stream];
    memcpy(out, info.seal[stream], 64);
    return true;
}

static size_t read_log(void *ctx, const pd_author *a, uint8_t stream, uint64_t from, uint8_t *out,
                       size_t room) {
    pd_ledger *l = ((pd_ports *)ctx)->ledger;
    uint32_t index;
    return pd_ledger_find(l, a, &index) ? pd_ledger_read(l, index, stream, from, out, room) : 0;
}

static size_t read_file(void *ctx, const uint8_t digest[16], uint64_t offset, uint8_t *out,
                        size_t room, uint64_t *total) {
    const pd_ports *p = ctx;
    const struct pd_port_file *f = p->files;
    while (f < p->files + PD_PORT_FILES && (!f->p || memcmp(digest, f->digest, 16) != 0))
        f++;
    bool there = f < p->files + PD_PORT_FILES;
    *total = there ? f->n : 0;
    if (!there || offset >= f->n)
        return 0;
    size_t n = f->n - offset < room ? (size_t)(f->n - offset) : room;
    memcpy(out, f->p + offset, n);
    return n;
}

static uint64_t base_of(void *ctx, const pd_author *a, uint8_t mark[32]) {
    pd_ledger *l = ((pd_ports *)ctx)->ledger;
    uint32_t index;
    pd_log_info info;
    if (!pd_ledger_find(l, a, &index) || !pd_ledger_info(l, index, &info) || !info.base)
        return 0;
    memcpy(mark, info.mark, 32);
    return info.base;
}

/* A quarter of a gigabyte is 8 years of one author at a record a second; four of them are what a
 * member who lies about its logs can make a node hold. */
enum { ROOM_MAX = 1 << 28 };

static uint8_t *room_for(void *ctx, unsigned stage, size_t bytes) {
    pd_ports *p = ctx;
    if (bytes > ROOM_MAX)
        return NULL;
    if (bytes == 0) {
        free(p->stage[stage]);
        p->stage[stage] = NULL;
        return NULL;
    }
    uint8_t *more = realloc(p->stage[stage], bytes);
    if (more)
        p->stage[stage] = more;
    return more;
}

pd_core_crypto pd_ports_crypto(pd_ports *p) {
    return (pd_core_crypto){p, sign, verify, random64};
}

pd_core_log pd_ports_log(pd_ports *p) {
    return (pd_core_log){.ctx = p,
                         .seal = seal,
                         .read = read_log,
                         .file = read_file,
                         .room = room_for,
                         .base = base_of};
}

void pd_ports_finish(pd_ports *p) {
    for (unsigned i = 0; i < PD_STAGES; i++)
        free(p->stage[i]);
    memset(p->stage, 0, sizeof p->stage);
}
