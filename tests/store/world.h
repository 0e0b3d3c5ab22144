/* world.h - a node around its store on a disk that fails, and what the world may hold it to.
 *
 * The node does as src/node/storer.c does: own bytes are committed before anyone hears of them, a
 * failed commit is tried again with the same bytes, after PD_EIO for own bytes the process ends.
 * The world remembers what it has heard (S1, S2) and after every start compares what is there (S3).
 */
#ifndef TEST_WORLD_H
#define TEST_WORLD_H

#include "disk.h"
#include "peerd/store.h"

enum { INCARNATIONS = 3, LOG_BYTES = 16384, OTHERS = 3, COORDS = 300, BASIS_BYTES = 9000 };
enum { BASE = 2048, MARK = 2600, FILE_BYTES = 5000 }; /* where a newcomer's logs begin and stand */

typedef struct own_log {
    size_t said;  /* bytes the world has heard of, or that a start found */
    size_t tried; /* >= said: what was handed to the store besides */
    uint8_t bytes[LOG_BYTES];
} own_log;

typedef struct world {
    pd_store *store;
    pd_ledger *ledger;
    uint32_t life; /* processes so far */
    bool ended;    /* the process has ended itself */
    own_log own[INCARNATIONS][PD_STREAMS];
    uint32_t inc, durable_inc; /* durable: acknowledged */
    bool made, has_file, restored_may_be;
    uint32_t ckpt, durable_ckpt;     /* checkpoints begun, acknowledged */
    uint32_t invites, invites_used;  /* acknowledged */
    pd_audit_state begun, tried;     /* of what it began with: acknowledged, and begun to be said */
    uint32_t shared, durable_shared; /* checkpoint files for others: begun, acknowledged */
    bool rot, own_rot;               /* rows were damaged: others' logs may be cut; own ones, too */
    bool backup;                     /* a backup was acknowledged */
    bool healthy;                    /* the disk does not fail now: nor may anything else */
    uint64_t clock;
    char failure[256]; /* "" while all is well */
} world;

void world_init(void); /* keys, once */
void world_new(world *w);
/* What a failing check says; the first stays. */
void world_fail(world *w, const char *fmt, ...) PD_PRINTF(2, 3);

/* ---- the node; each does nothing once the process has ended ---- */

void node_start(world *w, bool create);
void node_make(world *w);                          /* manifest and basis, as peerd init does */
void node_say(world *w, uint8_t stream, size_t n); /* n more own bytes */
void node_hear(world *w, size_t each);             /* others' logs grow to `each`; follow, commit */
void node_checkpoint(world *w);
void node_maintain(world *w, uint64_t ms);
void node_incarnate(world *w); /* the next incarnation, durable before it speaks */
void node_invite(world *w);    /* one made, one used up */
void node_address(world *w);
void node_backup(world *w);
void node_begin(world *w);                       /* with a checkpoint: others' logs at a base */
void node_fill(world *w);                        /* what lies before the bases has come */
void node_audit(world *w, pd_audit_state state); /* what it began with is right, or is not */
void node_share(world *w);                       /* one more checkpoint file for newcomers */
void node_close(world *w);
void node_kill(world *w); /* no close: what is not committed is gone */

/* ---- the judge ---- */

/* Start on a healthy disk: everything heard is there, nothing contradicts it.  Leaves the node
 * open; from now on nothing may fail. */
void world_judge(world *w);
/* The database file is whole, whoever reads it.  The store must be closed. */
void world_integrity(world *w, const char *path);

/* Damage a row of an author's log in the closed database: which 0 others', 1 own. */
void world_rot(world *w, bool own);

#endif
