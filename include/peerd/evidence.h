/* evidence.h - the proof that an author signed two logs where there may be one.
 *
 *   data > tokens > loss pair > byte > LEDGER <> GOSSIP <> other peers
 *
 *   evidence   key 32 | inc v | stream 1 | j v | C_j 32 | branch | branch
 *   branch     n v | chunk j as far as n reaches, 1..1024 bytes
 *              | H(chunk) 32 of each later whole chunk | bytes after the last whole chunk | seal(n)
 * 64
 *
 *   the last two only if n >= 1024 (j + 1), else chunk j is the tail.  v: LEB128, minimal.
 *
 * Both branches begin with the same C_j, hence with the same 1024 j bytes, and differ inside chunk
 * j: the first differing byte is step d of the author.  Of the two, the branch with the lower byte
 * at d comes first, so a fork has one encoding.  Anybody can check it alone, with nothing but the
 * run id: C_j need not be known, because no other C_j leads to heads that the author has signed.
 *
 * Promises: what is proved is a fault of the author's key, whoever hands it on; one log that
 * extends the other never convicts; every length is checked and the size bounded.  Does not: find
 * the fork (gossip/fork.c does).  Pure: no I/O, no clock, no allocation.
 */
#ifndef PEERD_EVIDENCE_H
#define PEERD_EVIDENCE_H

#include "peerd/bytes.h"
#include "peerd/chain.h"

enum {
    /* Room for some 440 later chunks a branch: 450,000 records that an author made on each side
     * before the sides met, 12 hours at 10 a second.  An older fork is ended by a ban. */
    PD_EVIDENCE_MAX = 32768,
    PD_BRANCH_MAX = PD_EVIDENCE_MAX / 2,
};

typedef bool pd_evidence_verify(void *ctx, const uint8_t pub[32], const void *msg, size_t n,
                                const uint8_t sig[64]);
/* Bytes [from, from + room) of a log, as pd_core_log.read; returns how many there were. */
typedef size_t pd_evidence_source(void *ctx, const pd_author *a, uint8_t stream, uint64_t from,
                                  uint8_t *out, size_t room);

/* A parsed branch; pointers lie in the bytes it was read from. */
typedef struct pd_branch {
    uint64_t n;
    const uint8_t *chunk, *hashes, *tail, *seal; /* hashes: (n_hashes, 32) */
    size_t chunk_size, n_hashes, tail_size;
} pd_branch;

typedef struct pd_evidence {
    pd_author author;
    uint8_t stream;
    uint64_t j;
    uint8_t c[32]; /* C_j */
    pd_branch branch[2];
    uint64_t step; /* d: the first byte that differs */
} pd_evidence;

/* Write a log's branch from chunk j on.
 *
 *   n, seal  in  where the log stands; n > 1024 j
 *
 * False where it does not fit: the log goes on for too long behind chunk j, or the source has fewer
 * bytes than n.
 */
bool pd_branch_put(pd_writer *w, const pd_author *a, uint8_t stream, uint64_t j, uint64_t n,
                   const uint8_t seal[64], pd_evidence_source *source, void *ctx);
/* Read one; a failed reader for what is not one. */
void pd_branch_get(pd_reader *r, uint64_t j, pd_branch *out);

/* Join two branches, as written by pd_branch_put, into evidence.  False where their chunk j does
 * not differ (one log may extend the other: no fault), they do not parse, or there is no room.
 */
bool pd_evidence_put(pd_writer *w, const pd_author *a, uint8_t stream, uint64_t j,
                     const uint8_t c[32], const uint8_t *one, size_t one_size, const uint8_t *other,
                     size_t other_size);

/* Read evidence and find d; nothing is proved yet.
 * Errors: PD_EFORMAT.
 */
PD_CHECKED pd_err pd_evidence_get(const uint8_t *p, size_t n, pd_evidence *out);

/* Did the author sign this branch, continued from C_j? */
bool pd_branch_sealed(const pd_branch *b, const uint8_t run[32], const pd_author *a, uint8_t stream,
                      uint64_t j, const uint8_t c[32], pd_evidence_verify *verify, void *ctx);
/* Did it sign both? */
bool pd_evidence_proves(const pd_evidence *e, const uint8_t run[32], pd_evidence_verify *verify,
                        void *ctx);

#endif
