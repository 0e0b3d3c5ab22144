/* ckpt.h - a checkpoint: the coordinates after a set of records, and the place in each author's log
 * where that set ends.
 *
 *   data > tokens > loss pair > byte > LEDGER > gossip > REPLAY > weights
 *
 *   file   "peerd.ckpt.v1" 13 | run 32 | d v | records v | count v | entry ... | a (d) int32
 *   entry  key 32 | inc v | n v | C_j 32 | bytes 1024 j .. n-1 | seal(n) 64         j = n div 1024
 *
 *   v: LEB128, minimal; everything little-endian; entries ascending by (key, inc), 1 <= n < 2^32;
 *   records = the sum of n; a = the fold of the first n records of each entry, and of no other.
 *
 * An entry is all that a receiver needs to go on with a log from byte 1024 j: C_j and the bytes
 * after it hash to the head that the author itself has sealed, so nobody has to be believed about
 * the logs.  Who has to be believed is whoever says that `a` is their fold: an attestation (the
 * CKPT record of frame.h) names the file by its BLAKE2b-256, and with it the coordinates, the
 * vector and the marks at once.
 *
 * A log of which something does not count (a ban, a fork) is left out with all its records: any
 * vector names a set, and who installs the file pulls such a log whole.
 *
 * Promises: each length is checked before use, one set and one set of seals have one encoding.
 * Reading is pure and allocates nothing.
 */
#ifndef PEERD_CKPT_H
#define PEERD_CKPT_H

#include "peerd/digest.h"
#include "peerd/evidence.h"
#include "peerd/replica.h"

enum {
    PD_CKPT_HEAD_MAX = 13 + 32 + 5 + 10 + 3,
    PD_CKPT_ENTRY_MAX = 32 + 1 + 5 + 32 + PD_CHUNK_BYTES - 1 + 64,
};

/* What an attestation says: this file is right. */
typedef struct pd_ckpt_name {
    uint8_t file[32];               /* BLAKE2b-256 */
    uint8_t model[PD_DIGEST_BYTES]; /* of the coordinates, as people see it elsewhere */
    uint64_t size, records;
} pd_ckpt_name;

/* A parsed file; pointers lie in its bytes. */
typedef struct pd_ckpt {
    uint64_t d, records;
    uint32_t count;
    const uint8_t *entries, *coords; /* coords: 4 d bytes */
} pd_ckpt;

/* One entry. */
typedef struct pd_ckpt_log {
    pd_author author;
    pd_chain chain; /* C_j, n and the tail */
    const uint8_t *seal;
} pd_ckpt_log;

#define PD_CKPT_TAG "peerd.ckpt.v1" /* what a file begins with, without the zero */

/* The most bytes that a file of d coordinates and so many authors has. */
static inline uint64_t pd_ckpt_most(uint64_t d, uint64_t authors) {
    return PD_CKPT_HEAD_MAX + authors * PD_CKPT_ENTRY_MAX + 4 * d;
}
/* The first byte held by who begins with this entry: its last whole chunk's end. */
static inline uint64_t pd_ckpt_base(uint64_t n) {
    return n / PD_CHUNK_BYTES * PD_CHUNK_BYTES;
}

/* Read a file of this run and check its form, to the last byte; no seal is checked.
 * Errors: PD_EFORMAT, PD_EMISMATCH (another run's).
 */
PD_CHECKED pd_err pd_ckpt_open(const uint8_t *p, size_t n, const uint8_t run[32], pd_ckpt *out);
/* Walk the entries of an open file: *at = entries at first.  False past the last. */
bool pd_ckpt_next(const pd_ckpt *c, const uint8_t **at, pd_ckpt_log *out);
/* Did the author seal the log that this entry marks? */
bool pd_ckpt_sealed(const pd_ckpt_log *l, const uint8_t run[32], pd_evidence_verify *verify,
                    void *ctx);
/* The coordinates into out (d). */
void pd_ckpt_coords(const pd_ckpt *c, int32_t *out);
/* Its name; a (d) are its coordinates. */
void pd_ckpt_name_of(const uint8_t *p, size_t n, const pd_ckpt *c, const int32_t *a,
                     pd_ckpt_name *out);
bool pd_ckpt_same(const pd_ckpt_name *a, const pd_ckpt_name *b);

/* ---- with a replica (vouch.c) ---- */

/* Make one of what the replica and the ledger hold now.  The replica follows the ledger to its end
 * first.
 *
 *   file, size  out  gives (free it)
 *
 * Errors: PD_EAGAIN (a log here begins at a base above 0, so its prefix was not replayed here; or
 *         what counts changed meanwhile), PD_ENOENT (there are no records), PD_EFULL, PD_ENOMEM.
 */
PD_CHECKED pd_err pd_ckpt_make(pd_replica *r, pd_ledger *l, uint8_t **file, size_t *size,
                               pd_ckpt_name *name);

typedef enum pd_ckpt_verdict {
    PD_CKPT_RIGHT,   /* the ledger's own bytes give these coordinates and these marks */
    PD_CKPT_WRONG,   /* they give others: who attests this file says what is not so */
    PD_CKPT_UNKNOWN, /* not all of it is held here, or it cannot be reached cheaply, or this node
                      * knows of records in it that do not count */
} pd_ckpt_verdict;

/* Reproduce a file: from the replica's state by folding and taking back the difference, exactly.
 *
 *   most   in   records that this may cost
 *   why    out  one phrase, for a log line
 *
 * Errors: PD_EFORMAT, PD_EMISMATCH (as pd_ckpt_open), PD_ENOMEM.
 */
PD_CHECKED pd_err pd_ckpt_check(const uint8_t *file, size_t size, const pd_replica *r, pd_ledger *l,
                                uint64_t most, pd_evidence_verify *verify, void *ctx,
                                pd_ckpt_verdict *out, const char **why);

/* Start a replica at a file whose logs the ledger holds from their marks on.
 * Errors: those of pd_ckpt_open and pd_replica_restore; PD_EMISMATCH (other coordinates than d).
 */
PD_CHECKED pd_err pd_ckpt_restore(const uint8_t *file, size_t size, pd_replica *r, pd_ledger *l);

#endif
