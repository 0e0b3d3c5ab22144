/* replica.h - this node's copy of the coordinates: the fold of the records it has seen.
 *
 *   data > tokens > loss pair > byte > ledger > gossip > REPLAY > weights
 *
 *   a = sum over authors, over steps < n[author] of s(record) q(record)   (+ this node's own bytes
 * not yet sealed)
 *
 * n[author] follows min(sealed bytes held, the author's void step): up by folding, down by taking
 * records back, both exact.
 *
 * Own bytes enter a when they are made, so that a node never probes where it has already been; they
 * are kept apart, to give the sealed state (what others can have) at any time, exactly.
 */
#ifndef PEERD_REPLICA_H
#define PEERD_REPLICA_H

#include "peerd/ledger.h"
#include "peerd/replay.h"

enum { PD_REPLICA_PENDING_MAX = 4096, PD_AUTHORS_MAX = 1024 };

typedef struct pd_replica {
    pd_replay replay;
    size_t d;
    int32_t *a;                       /* (d) sealed records and own pending ones */
    uint64_t n[PD_AUTHORS_MAX];       /* records folded, by the ledger's index */
    pd_author author[PD_AUTHORS_MAX]; /* whose they are */
    uint32_t n_authors;
    uint64_t records; /* sealed records folded */
    uint64_t
        changes;  /* records ever folded or taken back: tells whether the sealed state is another */
    uint32_t own; /* index of this node's author, or UINT32_MAX while it has none */
    uint8_t pending[PD_REPLICA_PENDING_MAX]; /* own bytes folded at steps n[own], n[own] + 1, ... */
    uint32_t n_pending;
} pd_replica;

/* At the base: no records.  Errors: PD_ENOMEM. */
PD_CHECKED pd_err pd_replica_open(const pd_manifest *m, pd_replica *out);
void pd_replica_close(pd_replica *r);

/* Back to the base model: no records, no pending bytes. */
void pd_replica_reset(pd_replica *r);

/* Fold what the ledger holds and the replica has not, and take back what does not count any more,
 * at most `most` records; returns how many.  Own records that were pending only change their place.
 * Errors: PD_EFULL (more authors than PD_AUTHORS_MAX), PD_EMISMATCH (the ledger's own log is not
 * what was pending: the caller has to speak as another incarnation), PD_ENOENT (what is to be
 * folded or taken back lies before a log's base: when the ledger is whole, pd_replica_reset and
 * follow again).
 */
PD_CHECKED pd_err pd_replica_follow(pd_replica *r, pd_ledger *l, uint64_t most, uint64_t *folded);

/* Speak as this author from now on; pending bytes of another one are taken back. */
PD_CHECKED pd_err pd_replica_own(pd_replica *r, pd_ledger *l, const pd_author *own);

/* Step of the next own byte; and fold it.  false when PD_REPLICA_PENDING_MAX bytes wait for their
 * seal. */
uint64_t pd_replica_next_step(const pd_replica *r);
bool pd_replica_add(pd_replica *r, uint8_t byte);
/* Take back the pending bytes at `step` and after it. */
void pd_replica_take_back(pd_replica *r, uint64_t step);

/* The sealed coordinates into out (d), and their digest. */
void pd_replica_sealed(const pd_replica *r, int32_t *out, uint8_t digest[PD_DIGEST_BYTES]);

/* Start from a checkpoint: coordinates and how many records of each author they hold.
 * Errors: PD_EFULL, PD_ENOMEM, PD_EMISMATCH (it holds records that the ledger does not, or that do
 * not count: the bytes of a forked log may have been another branch's when it was taken).
 */
PD_CHECKED pd_err pd_replica_restore(pd_replica *r, pd_ledger *l, const int32_t *a,
                                     const pd_author *authors, const uint64_t *n, uint32_t count);

#endif
