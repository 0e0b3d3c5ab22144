/* records.h - the ledger as people read it: its control records in words, who admitted whom, how
 * much came from others; private to src/node.
 *
 * Reads sealed bytes of the ledger and nothing else, so it shows what every member that holds them
 * can see.
 */
#ifndef PD_RECORDS_H
#define PD_RECORDS_H

#include "peerd/ledger.h"

/* Bytes held of every author but `own`, both streams. */
uint64_t pd_records_foreign(pd_ledger *l, const uint8_t own[32]);

enum { PD_RECORDS_TEXT = 320 };

/* A control record. */
typedef struct pd_told {
    uint64_t at; /* where it begins in the log, bytes */
    const char *kind;
    uint8_t subject[32]; /* member, rotate: who is admitted; else zero */
    char text[PD_RECORDS_TEXT];
} pd_told;

/* Show the whole control records of one author's log, oldest first. */
void pd_records_control(pd_ledger *l, uint32_t index, void (*fn)(void *ctx, const pd_told *t),
                        void *ctx);

/* The key that this one's place was passed on to, by its newest ROTATE; false: none. */
bool pd_records_next_key(pd_ledger *l, const uint8_t key[32], uint8_t next[32]);

/* Who admitted whom, by the MEMBER and ROTATE records; of several, the lowest key. */
typedef struct pd_admission {
    uint8_t subject[32], inviter[32];
} pd_admission;

/* All of them, ascending by subject.  gives *out (free it), *n of them.  Errors: PD_ENOMEM. */
PD_CHECKED pd_err pd_records_admissions(pd_ledger *l, pd_admission **out, size_t *n);
/* NULL: nobody admitted it, as nobody admits the founder. */
const uint8_t *pd_records_inviter(const pd_admission *list, size_t n, const uint8_t subject[32]);

#endif
