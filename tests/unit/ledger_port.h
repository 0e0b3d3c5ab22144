/* ledger_port.h - a ledger as a core's log, as the daemon has it (src/node/ports.c): ctx is the
 * ledger. */
#ifndef TEST_LEDGER_PORT_H
#define TEST_LEDGER_PORT_H

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

#endif
