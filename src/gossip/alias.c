/* alias.c - short numbers for authors, for one session: a key is 32 bytes, a number one or two.
 *
 * Where both ends knew the same authors when they said HELLO, these are numbered by their order and
 * nothing is sent.  All others get the sender's next number by an ALIAS before they are first
 * named. An author of whom we do not know yet that it is a member is a stranger, and so is a
 * member's incarnation before the one that precedes it has signed anything: a few of them are
 * remembered with what the peer holds of them, and if there were more, the peer is asked to say its
 * aliases once again when somebody was admitted or has signed for the first time.
 */
#include "state.h"

void pd_alias_base(pd_core *c, pd_link *l) {
    if (l->peer_hash != l->base_hash)
        return;
    for (uint32_t i = 0; i < c->n_authors; i++) {
        uint16_t a = c->order[i];
        if (a >= l->base_n && !PD_BUG(PD_BUG_ALIAS_KEPT))
            continue; /* learned since our HELLO left */
        l->in[l->n_base] = a;
        l->out[a] = (uint16_t)l->n_base;
        l->by_out[l->n_base++] = a;
    }
    l->n_out = l->again = l->n_base;
}

static pd_stranger *stranger(pd_link *l, uint32_t alias) {
    for (uint32_t i = 0; i < l->n_strangers; i++)
        if (l->stranger[i].alias == alias)
            return &l->stranger[i];
    return NULL;
}

void pd_alias_take(pd_core *c, pd_link *l, uint32_t alias, const pd_author *a) {
    if (alias >= c->authors_max) {
        l->missed = true;
        return;
    }
    l->in[alias] = pd_author_named(c, a);
    pd_stranger *s = stranger(l, alias); /* unless that has made it known */
    if (l->in[alias] != PD_NONE) {
        if (s)
            *s = l->stranger[--l->n_strangers];
        return;
    }
    if (!s && l->n_strangers == PD_STRANGERS_MAX) {
        l->missed = true;
        return;
    }
    s = s ? s : &l->stranger[l->n_strangers++];
    *s = (pd_stranger){.id = *a, .alias = (uint16_t)alias};
}

uint16_t pd_alias_author(const pd_core *c, const pd_link *l, uint32_t alias) {
    return alias < c->authors_max ? l->in[alias] : PD_NONE;
}

uint32_t pd_alias_log(const pd_core *c, const pd_link *l, uint32_t theirs) {
    uint16_t a = pd_alias_author(c, l, theirs / PD_STREAMS);
    return a == PD_NONE ? PD_NONE : (uint32_t)a * PD_STREAMS + theirs % PD_STREAMS;
}

void pd_alias_note(pd_link *l, uint32_t theirs, uint64_t n) {
    pd_stranger *s = stranger(l, theirs / PD_STREAMS);
    if (s && s->n[theirs % PD_STREAMS] < n)
        s->n[theirs % PD_STREAMS] = (uint32_t)n;
}

/* For the aliases that there was no room for. */
static void ask_again(pd_link *l) {
    if (l->missed)
        l->vv_due = l->vv_want = l->vv_again = l->want = true;
    l->missed = false;
}

void pd_alias_admitted(pd_core *c, uint16_t author) {
    const pd_author *id = &c->author[author].id;
    for (unsigned i = 0; i < PD_LINKS_MAX; i++) {
        pd_link *l = &c->link[i];
        if (!pd_link_live(l))
            continue;
        for (uint32_t k = l->n_strangers; k-- > 0;) {
            pd_stranger s = l->stranger[k];
            if (s.id.inc != id->inc || memcmp(s.id.key, id->key, 32))
                continue;
            l->stranger[k] = l->stranger[--l->n_strangers];
            l->in[s.alias] = author;
            for (uint32_t stream = 0; stream < PD_STREAMS; stream++)
                pd_heads_note(c, l, (uint32_t)author * PD_STREAMS + stream, s.n[stream]);
        }
        ask_again(l);
    }
}

void pd_alias_proven(pd_core *c, uint16_t author) {
    pd_author next = c->author[author].id;
    bool named = false;
    if (++next.inc == PD_INCARNATIONS || pd_author_find(c, &next) != PD_NONE)
        return;
    for (unsigned i = 0; i < PD_LINKS_MAX; i++) {
        const pd_link *l = &c->link[i];
        for (uint32_t k = 0; pd_link_live(l) && k < l->n_strangers; k++)
            named |= l->stranger[k].id.inc == next.inc &&
                     !memcmp(l->stranger[k].id.key, next.key, sizeof next.key);
    }
    if (named)
        pd_author_get(c, &next);
    for (unsigned i = 0; i < PD_LINKS_MAX; i++)
        if (pd_link_live(&c->link[i]))
            ask_again(&c->link[i]);
}

bool pd_alias_announce(pd_core *c, pd_link *l, pd_writer *w, uint32_t author) {
    if (l->out[author] != PD_NONE)
        return true;
    pd_item it = {.kind = PD_ITEM_ALIAS, .u.alias = {l->n_out, c->author[author].id}};
    if (!pd_frame_put(w, &it))
        return false;
    l->out[author] = (uint16_t)l->n_out;
    l->by_out[l->n_out++] = (uint16_t)author;
    l->again = l->again == l->n_out - 1 ? l->n_out : l->again;
    return true;
}
