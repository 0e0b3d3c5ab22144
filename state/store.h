/* store.h (private) - what the files of the store share. */
#ifndef PD_STATE_STORE_H
#define PD_STATE_STORE_H

#include "peerd/store.h"
#include "sql.h"

typedef struct followed { /* what of a ledger's log is in the database already */
    uint64_t n[PD_STREAMS];
    bool base_kept; /* `base` is what the database says */
    uint64_t base;
    bool void_kept;              /* `void_at` is what the database says */
    uint64_t void_at, void_seen; /* seen: in the ledger, when this round began */
} followed;

struct pd_store {
    sql *db;
    char dir[4096], path[4096];
    uint8_t run[32], instance[16];
    bool restored;
    size_t pending;
    uint64_t checkpoint_ms, ballast_ms; /* when last; 0: never */
    followed *followed; /* by the ledger's index; good while the rollbacks are as then */
    uint32_t n_followed, follow_at;
    uint64_t follow_rollbacks;
};

/* What every write ends with: an error gives up the ballast if the disk is full and forgets what
 * was pending. */
pd_err store_wrote(pd_store *s, pd_err e, size_t bytes);

#endif
