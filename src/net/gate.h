/* gate.h - whose CURVE key may come in: the table behind ZAP.  Pure but for its memory. */
#ifndef PD_GATE_H
#define PD_GATE_H

#include "door.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PD_GATE_USER = 2 + 16 + 1 + 64 + 1 }; /* text of a user, with its end */

typedef struct pd_gate_entry {
    uint8_t curve[32];
    uint8_t peer[32]; /* a member's Ed25519 key; a guest's CURVE key */
    uint64_t invite;  /* 0: a member */
} pd_gate_entry;

typedef struct pd_gate {
    pd_gate_entry *entries;
    size_t n, room;
    uint32_t per_s;  /* admissions a second, and twice that at once */
    uint64_t tokens; /* thousandths of an admission */
    uint64_t last_ms;
} pd_gate;

void pd_gate_init(pd_gate *g, uint32_t per_s, uint64_t now_ms);
void pd_gate_finish(pd_gate *g);

/* Let a key in; the same key twice is one entry.  Errors: PD_ENOMEM. */
PD_CHECKED pd_err pd_gate_allow(pd_gate *g, const uint8_t curve[32], const uint8_t peer[32],
                                uint64_t invite);
/* A member (invite 0) by its Ed25519 key, or a guest by its invite (peer NULL). */
void pd_gate_deny(pd_gate *g, const uint8_t *peer, uint64_t invite);

/* Judge a key.  Strangers are refused without touching the budget, so they cannot use it up. */
pd_verdict pd_gate_ask(pd_gate *g, const uint8_t curve[32], uint64_t now_ms,
                       const pd_gate_entry **who);

/* The user that libzmq attaches to every message of the session: `m` or `g`, invite, key, in hex.
 * Written and read on this side of the wire only.
 */
void pd_gate_user(const pd_gate_entry *e, char out[PD_GATE_USER]);
bool pd_gate_user_read(const char *text, uint8_t peer[32], uint64_t *invite);

#endif
