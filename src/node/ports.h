/* ports.h - what a gossip core asks of its node, answered from one identity and one ledger: a
 * running node and a newcomer (join.c) alike; private to src/node. */
#ifndef PD_PORTS_H
#define PD_PORTS_H

#include "peerd/core.h"
#include "peerd/identity.h"
#include "peerd/ledger.h"

typedef struct pd_ports {
    const pd_identity *identity;
    pd_ledger *ledger;
    const uint8_t *file; /* the one file that is served, 16 bytes of its digest; NULL: none */
    size_t file_bytes;
    const uint8_t *file_digest;
    uint8_t *stage[PD_STAGES]; /* what the core has asked for to catch up with long logs */
} pd_ports;

/* Signing, checking and chance.  *p is borrowed as long as the core lives. */
pd_core_crypto pd_ports_crypto(pd_ports *p);
/* Seals, bytes and the file.  Likewise. */
pd_core_log pd_ports_log(pd_ports *p);
/* After the core's end. */
void pd_ports_finish(pd_ports *p);

#endif
