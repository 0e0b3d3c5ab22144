/* looked.h - which checkpoints of others this node has looked at, and which it looks at next;
 * private to src/node.
 *
 *   attested names ─> the one tried least often, the best of these ─> fetch ─┬─> judged: done with
 *                                                                           └─> not had: later, a
 *                                                                               few times
 *
 * Bytes that are not those of their name say something about who sent them and nothing about the
 * checkpoint: another member is asked, later each time.  A name that was judged, right or wrong, is
 * not looked at again for as long as members attest it.  Names are told apart whole: a liar's name
 * for a right file must not stand for the right name.
 *
 * Pure: time and names are arguments.
 */
#ifndef PD_LOOKED_H
#define PD_LOOKED_H

#include "peerd/core.h"

enum {
    PD_LOOKED_TRIES = 5,  /* to get the bytes of a name: with one liar among those asked two do */
    PD_LOOKED_MS = 15000, /* until the second; four times as long each time, 21 min in all */
};

/* Zeroed: nothing was looked at. */
typedef struct pd_looked {
    struct pd_look {
        pd_ckpt_name name;
        uint32_t tries;   /* that did not give its bytes; TRIES: no more */
        uint64_t next_ms; /* not before */
    } at[PD_CKPTS_MAX];
    uint32_t n;
} pd_looked;

/* Of these names, the best first, the one to look at now; n: none. */
uint32_t pd_looked_pick(const pd_looked *l, const pd_ckpt_name *names, uint32_t n, uint64_t now_ms);
/* Its bytes were not to be had, or were others.  names (n <= PD_CKPTS_MAX): what members attest,
 * `name` among them; one that is not is forgotten for it.  How long to wait, ms; 0: it is given up.
 */
uint64_t pd_looked_failed(pd_looked *l, const pd_ckpt_name *name, const pd_ckpt_name *names,
                          uint32_t n, uint64_t now_ms);
/* It was judged. */
void pd_looked_done(pd_looked *l, const pd_ckpt_name *name, const pd_ckpt_name *names, uint32_t n);

#endif
