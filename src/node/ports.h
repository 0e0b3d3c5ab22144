/* ports.h - what a gossip core asks of its node, answered from one identity and one ledger: a
 * running node and a newcomer (join.c) alike; private to src/node. */
#ifndef PD_PORTS_H
#define PD_PORTS_H

#include "peerd/core.h"
#include "peerd/identity.h"
#include "peerd/ledger.h"

enum { PD_PORT_FILES = 3 }; /* the basis, and two checkpoints */

typedef struct pd_ports {
    const pd_identity *identity;
    pd_ledger *ledger;
    struct pd_port_file { /* files that are served, by the first 16 bytes of their digest */
        const uint8_t *p; /* NULL: none */
        size_t n;
        uint8_t digest[32];
    } files[PD_PORT_FILES];
    uint8_t *stage[PD_STAGES]; /* what the core has asked for to catch up with long logs */
} pd_ports;

/* Signing, checking and chance.  *p is borrowed as long as the core lives. */
pd_core_crypto pd_ports_crypto(pd_ports *p);
/* Seals, bytes and files.  Likewise. */
pd_core_log pd_ports_log(pd_ports *p);
/* After the core's end. */
void pd_ports_finish(pd_ports *p);

#endif
