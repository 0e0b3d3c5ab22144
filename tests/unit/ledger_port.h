/* ledger_port.h - a ledger as a core's log, as the daemon has it (src/node/ports.c): ctx is the
 * ledger; and seals for what is written into one. */
#ifndef TEST_LEDGER_PORT_H
#define TEST_LEDGER_PORT_H

#include "peerd/chain.h"
#include "peerd/identity.h"
#include "peerd/ledger.h"

#include <string.h>

static inline bool port_seal(void *ctx, const pd_author *a, uint8_t stream, uint64_t *n,
                             uint8_t seal[64]) {
    uint32_t i;
    pd_log_info info;
    *n = 0;
    if (!pd_ledger_find(ctx, a, &i) || !pd_ledger_info(ctx, i, &info))
        return false;
    *n = info.n[stream];
    memcpy(seal, info.seal[stream], 64);
    return *n > 0;
}

static inline size_t port_read(void *ctx, const pd_author *a, uint8_t stream, uint64_t from,
                               uint8_t *out, size_t room) {
    uint32_t i;
    return pd_ledger_find(ctx, a, &i) ? pd_ledger_read(ctx, i, stream, from, out, room) : 0;
}

/* The seal of a log of n bytes, signed by its author. */
static inline void port_sign(const pd_identity *id, const uint8_t run[32], const pd_author *a,
                             uint8_t stream, const uint8_t *p, size_t n, uint8_t seal[64]) {
    pd_chain c;
    uint8_t msg[PD_SEAL_MESSAGE_BYTES];
    pd_chain_init(&c, run, a, stream);
    pd_chain_add(&c, p, n);
    pd_seal_message(&c, run, a, stream, msg);
    pd_sign(id, msg, sizeof msg, seal);
}

#endif
