/* ledger.h - the set of records held, as one byte string per author and stream, in memory.
 *
 *   data > tokens > loss pair > byte > LEDGER > gossip > replay > weights
 *
 * The one structure that the core's thread (writer) and the trainer (reader) share; every call
 * takes its lock for as long as a memcpy.  Holds sealed bytes only.  What it does not do: verify
 * (gossip/ did, before), persist (state/ does).
 */
#ifndef PEERD_LEDGER_H
#define PEERD_LEDGER_H

#include "peerd/chain.h"

typedef struct pd_ledger pd_ledger;

/* What a log stands at. */
typedef struct pd_log_info {
    pd_author author;
    uint64_t n[PD_STREAMS]; /* sealed bytes */
    uint64_t void_at;       /* records at this step and after it do not count */
    uint64_t base;          /* first gradient held; 0 but after a checkpoint, a whole chunk's end */
    uint8_t mark[32];       /* C_j of the gradients' chain there; meaningless where base is 0 */
    uint8_t seal[PD_STREAMS][64];
} pd_log_info;

PD_CHECKED pd_err pd_ledger_open(pd_ledger **out);
void pd_ledger_close(pd_ledger *l);

/* Index of an author, added if new.  Indices are local, dense, in order of first sight; never
 * reused. Errors: PD_ENOMEM.
 */
PD_CHECKED pd_err pd_ledger_author(pd_ledger *l, const pd_author *a, uint32_t *index);
/* Index of an author that is there already; false if it is not. */
bool pd_ledger_find(pd_ledger *l, const pd_author *a, uint32_t *index);
uint32_t pd_ledger_authors(pd_ledger *l);
/* false if there is no such index. */
bool pd_ledger_info(pd_ledger *l, uint32_t index, pd_log_info *out);

/* Append sealed bytes at `from`, which must be the log's end (bytes before it are dropped as
 * already held). Errors: PD_EMISMATCH (a gap), PD_ENOMEM.
 */
PD_CHECKED pd_err pd_ledger_append(pd_ledger *l, uint32_t index, uint8_t stream, uint64_t from,
                                   const uint8_t *bytes, size_t n, const uint8_t seal[64]);
/* Copy up to `room` bytes from `from`; returns how many there were: none before the base. */
size_t pd_ledger_read(pd_ledger *l, uint32_t index, uint8_t stream, uint64_t from, uint8_t *out,
                      size_t room);

/* ---- logs that begin at a base ---- */

/* Go on with an author's gradients from byte `base` = 1024 j on, of which n_bytes are given.  What
 * is held of them must be less, and goes.
 *
 *   mark  in  C_j (chain.h): the chain of the bytes before the base
 *   seal  in  covers base + n bytes
 *
 * Errors: PD_EMISMATCH (as much is held already), PD_ENOMEM.
 */
PD_CHECKED pd_err pd_ledger_begin_at(pd_ledger *l, uint32_t index, uint64_t base,
                                     const uint8_t mark[32], const uint8_t *bytes, size_t n,
                                     const uint8_t seal[64]);
/* The bytes before the base, as they come: not to be read before `end` says that they lead to the
 * mark, which makes the log whole; else they are forgotten.  From 0 on at first, then where the
 * last ended.
 *
 * Errors: PD_EMISMATCH (they do not follow, or go past the base), PD_ENOMEM.
 */
PD_CHECKED pd_err pd_ledger_prefix_add(pd_ledger *l, uint32_t index, uint64_t from,
                                       const uint8_t *bytes, size_t n);
/* Errors: PD_EMISMATCH (right, but not all is there), PD_ENOMEM. */
PD_CHECKED pd_err pd_ledger_prefix_end(pd_ledger *l, uint32_t index, bool right);
/* Bytes before bases that are not here yet, of everyone; 0: every log is whole. */
uint64_t pd_ledger_lacking(pd_ledger *l);

/* From this step on an author's records do not count: its log was forked there, or it is banned.
 * Bytes that are held stay: they are what replay takes back.  The core says it (PD_ACT_VOID), as a
 * function of the control records alone; it may fall, and rise when what it rested on is void
 * itself.
 */
void pd_ledger_void(pd_ledger *l, uint32_t index, uint64_t void_at);

/* How many records are held that count. */
uint64_t pd_ledger_records(pd_ledger *l);

#endif
