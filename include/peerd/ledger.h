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
/* Copy up to `room` bytes from `from`; returns how many there were. */
size_t pd_ledger_read(pd_ledger *l, uint32_t index, uint8_t stream, uint64_t from, uint8_t *out,
                      size_t room);

/* From this step on an author's records do not count: its log was forked there, or it is banned.
 * Bytes that are held stay: they are what replay takes back.  The core says it (PD_ACT_VOID), as a
 * function of the control records alone; it may fall, and rise when what it rested on is void
 * itself.
 */
void pd_ledger_void(pd_ledger *l, uint32_t index, uint64_t void_at);

/* How many records are held that count. */
uint64_t pd_ledger_records(pd_ledger *l);

#endif
