/* looked.c - a table of the names that were looked at; see looked.h. */
#include "looked.h"

static uint32_t find(const pd_looked *l, const pd_ckpt_name *name) {
    uint32_t i = 0;
    while (i < l->n && !pd_ckpt_same(&l->at[i].name, name))
        i++;
    return i;
}

uint32_t pd_looked_pick(const pd_looked *l, const pd_ckpt_name *names, uint32_t n,
                        uint64_t now_ms) {
    uint32_t best = n, least = PD_LOOKED_TRIES;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = find(l, &names[i]);
        uint32_t tries = k < l->n ? l->at[k].tries : 0;
        if (tries < least && (k == l->n || l->at[k].next_ms <= now_ms)) {
            best = i;
            least = tries;
        }
    }
    return best;
}

/* Its place.  With as many places as there can be names, one is free for a name without: it is
 * attested itself, or was when it was picked, and then any other may go.
 */
static struct pd_look *place(pd_looked *l, const pd_ckpt_name *name, const pd_ckpt_name *names,
                             uint32_t n) {
    uint32_t i = find(l, name);
    if (i < l->n)
        return &l->at[i];
    if (l->n < PD_CKPTS_MAX) {
        l->n++;
    } else {
        for (i = 0; i + 1 < l->n; i++) {
            uint32_t k = 0;
            while (k < n && !pd_ckpt_same(&names[k], &l->at[i].name))
                k++;
            if (k == n)
                break;
        }
    }
    l->at[i] = (struct pd_look){.name = *name};
    return &l->at[i];
}

uint64_t pd_looked_failed(pd_looked *l, const pd_ckpt_name *name, const pd_ckpt_name *names,
                          uint32_t n, uint64_t now_ms) {
    struct pd_look *k = place(l, name, names, n);
    if (k->tries < PD_LOOKED_TRIES)
        k->tries++;
    if (k->tries == PD_LOOKED_TRIES)
        return 0;
    uint64_t wait = (uint64_t)PD_LOOKED_MS << 2 * (k->tries - 1);
    k->next_ms = now_ms + wait;
    return wait;
}

void pd_looked_done(pd_looked *l, const pd_ckpt_name *name, const pd_ckpt_name *names, uint32_t n) {
    place(l, name, names, n)->tries = PD_LOOKED_TRIES;
}
