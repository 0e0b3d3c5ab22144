/* box.h - a gossip core with its ledger and store, for the targets that drive cores.
 *
 * Signatures are cheap here: a fuzzer spends its time on the core, not on Ed25519.  A lenient box
 * takes any seal that names its key, so that bytes made up by the fuzzer get beyond the seal.
 */
#ifndef FUZZ_BOX_H
#define FUZZ_BOX_H

#include "fuzz.h"

#include "peerd/frame.h"
#include "peerd/ledger.h"

enum { BOX_NODES = 3, BOX_STORES = 8 };

typedef struct box {
    unsigned index;
    uint8_t key[32];
    bool lenient, solo; /* solo: it speaks at once */
    pd_core *core;
    pd_ledger *ledger;
    void *arena;
    size_t room;
    uint64_t now, random;
    uint32_t incarnation;
    void *ctx;
    void (*act)(struct box *b, const pd_action *a); /* all but STORE and META */
    pd_event stored[BOX_STORES]; /* own bytes that are committed and not yet told */
    uint32_t n_stored;
    bool defer; /* they wait for box_tell */
} box;

void box_key(unsigned index, uint8_t key[32]);
void box_sign(const uint8_t key[32], const void *msg, size_t n, uint8_t sig[64]);

/* An empty ledger but for the founder's (node 0) control log, which admits the others. */
void box_init(box *b, unsigned index);
void box_finish(box *b);
/* A process: a core from what the ledger holds.  Errors: those of pd_core_open. */
PD_CHECKED pd_err box_open(box *b);
/* One event, its actions, and what these make; then all that must hold. */
void box_step(box *b, const pd_event *e);
void box_tell(box *b); /* the oldest store that waits */

#endif
