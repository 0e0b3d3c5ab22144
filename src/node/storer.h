/* storer.h - the store's thread: own seals are durable before anyone hears of them, everything else
 * soon; private.
 *
 * Jobs wait in a bounded list.  Own appends and what must come before them are committed at once;
 * records of others are taken from the ledger about once a second (they can be pulled again).
 */
#ifndef PD_STORER_H
#define PD_STORER_H

#include "peerd/replica.h"
#include "peerd/store.h"

typedef struct pd_storer pd_storer;
struct pd_inbox;

/* store and ledger are the thread's until stop.  Answers (STORED, STORE_FAILED) go to the inbox;
 * own bytes are in the ledger before STORED says so.
 */
PD_CHECKED pd_err pd_storer_start(pd_store *store, struct pd_inbox *inbox, pd_ledger *ledger,
                                  pd_storer **out);
/* Do what is waiting, commit, end the thread.  NULL is fine. */
void pd_storer_stop(pd_storer *s);
/* True while too much waits: read no more from the network. */
bool pd_storer_is_full(pd_storer *s);

/* Own sealed bytes: an answer follows.  Errors: PD_ENOMEM. */
PD_CHECKED pd_err pd_storer_own(pd_storer *s, const pd_author *a, uint8_t stream, uint64_t from,
                                const uint8_t *bytes, size_t n, const uint8_t seal[64]);
/* The rest is best effort: a failure is logged. */
void pd_storer_incarnation(pd_storer *s,
                           uint32_t incarnation); /* durable before the next own bytes */
void pd_storer_checkpoint(pd_storer *s, const pd_replica *r, const int32_t *a,
                          const uint8_t digest[PD_DIGEST_BYTES]);
/* A checkpoint file to serve, and what is known of the one that this node began with. */
void pd_storer_shared(pd_storer *s, const uint8_t digest[32], const uint8_t *file, size_t n);
void pd_storer_begun(pd_storer *s, const pd_store_begun *b);
void pd_storer_invite_add(pd_storer *s, const pd_invite *v);
void pd_storer_invite_used(pd_storer *s, uint64_t id);
void pd_storer_addr(pd_storer *s, const pd_store_addr *a);

/* Run fn on the store's thread, after the jobs before it; own bytes that are stored meanwhile wait.
 * Errors: PD_ENOMEM.
 */
typedef void pd_storer_question(void *ctx, pd_store *store);
PD_CHECKED pd_err pd_storer_ask(pd_storer *s, pd_storer_question *fn, void *ctx);

/* Why the store takes nothing, one line; "" while it is well. */
enum { PD_STORER_TEXT = 256 };
void pd_storer_trouble(pd_storer *s, char out[PD_STORER_TEXT]);

#endif
