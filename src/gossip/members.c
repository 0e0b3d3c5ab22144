/* members.c - who is in the run, by the control logs; where they can be dialled; which authors that
 * allows.
 *
 * A log is taken only from a member's key, and a MEMBER record counts wherever it stands in such a
 * log: the fixpoint over all control logs from the founder, found as the bytes come in.
 */
#include "state.h"

#include "peerd/digest.h"

#include <stdio.h>

uint16_t pd_member_find(const pd_core *c, const uint8_t key[32]) {
    uint16_t slot = *pd_table_slot(c, key);
    return slot ? (uint16_t)(slot - 1) : PD_NONE;
}

uint16_t pd_member_add(pd_core *c, const uint8_t key[32], uint64_t invite, const char *name) {
    uint16_t *slot = pd_table_slot(c, key);
    if (*slot)
        return (uint16_t)(*slot - 1);
    if (c->n_members == c->members_max)
        return PD_NONE;
    uint16_t m = (uint16_t)c->n_members++;
    *slot = (uint16_t)c->n_members;
    pd_member *p = &c->member[m];
    memcpy(p->key, key, 32);
    snprintf(p->name, sizeof p->name, "%s", name);
    p->invite = invite;
    p->heard_ms = c->now;
    p->author = PD_NONE;
    p->issuer = PD_NONE;
    pd_verdict_new_member(c, p);
    pd_dial_start(c, p);
    pd_view_changed(c);
    pd_author id = {.inc = 0};
    memcpy(id.key, key, 32);
    pd_author_get(c, &id);
    return m;
}

static void add_addr(pd_addr *list, uint32_t *n, const pd_addr *a) {
    if (a->family == 0)
        return;
    for (uint32_t i = 0; i < *n; i++)
        if (pd_addr_equal(&list[i], a))
            return;
    if (*n == PD_ADDRS_MAX) { /* the oldest goes */
        memmove(list, list + 1, (PD_ADDRS_MAX - 1) * sizeof *list);
        --*n;
    }
    list[(*n)++] = *a;
}

void pd_member_hint(pd_member *m, const pd_addr *a) {
    add_addr(m->hints, &m->n_hints, a);
}

static uint16_t author_of(const pd_core *c, uint16_t member, uint32_t inc) {
    uint16_t a = member == PD_NONE ? PD_NONE : c->member[member].author;
    while (a != PD_NONE && c->author[a].id.inc != inc)
        a = c->author[a].next;
    return a;
}

uint16_t pd_author_find(const pd_core *c, const pd_author *a) {
    return author_of(c, pd_member_find(c, a->key), a->inc);
}

/* Every member has room for its first incarnation; later ones share what is left. */
static bool has_room(const pd_core *c, uint32_t inc) {
    return inc == 0 || c->n_authors - c->n_members < c->authors_max - c->members_max;
}

static uint64_t author_hash(const pd_author *a) {
    uint8_t b[36];
    memcpy(b, a->key, 32);
    pd_store32(b + 32, a->inc);
    return pd_xxh64(b, sizeof b, 0);
}

uint16_t pd_author_get(pd_core *c, const pd_author *a) {
    uint16_t m = pd_member_find(c, a->key), i = author_of(c, m, a->inc);
    if (i != PD_NONE || m == PD_NONE || a->inc >= PD_INCARNATIONS || !has_room(c, a->inc))
        return i;
    i = (uint16_t)c->n_authors++;
    pd_author_state *s = &c->author[i];
    s->id = *a;
    s->member = m;
    s->next = c->member[m].author;
    c->member[m].author = i;
    for (uint8_t k = 0; k < PD_STREAMS; k++) {
        pd_chain chain;
        pd_chain_init(&chain, c->conf.run, a, k);
        memcpy(s->log[k].chain.c, chain.c, sizeof chain.c);
        s->log[k].pull = s->log[k].last = s->log[k].parent = PD_NONE;
        s->log[k].grown_ms = c->now;
    }
    pd_verdict_new_author(c, s);
    c->memb_hash += author_hash(a);
    pd_table_order(c, i);
    pd_alias_admitted(c, i);
    return i;
}

static bool has_signed(const pd_author_state *a) {
    bool signed_it = false;
    for (int k = 0; k < PD_STREAMS; k++)
        signed_it |= a->log[k].chain.n > 0 || a->log[k].v.void_at != PD_VOID_NEVER;
    return signed_it;
}

uint16_t pd_author_named(pd_core *c, const pd_author *a) {
    if (a->inc == 0 || pd_author_find(c, a) != PD_NONE)
        return pd_author_get(c, a);
    uint16_t before = author_of(c, pd_member_find(c, a->key), a->inc - 1);
    return before != PD_NONE && has_signed(&c->author[before]) ? pd_author_get(c, a) : PD_NONE;
}

/* The newest incarnation's word counts: where a key lives and whether it left. */
static bool is_newest(const pd_core *c, const pd_author_state *a) {
    for (uint16_t i = c->member[a->member].author; i != PD_NONE; i = c->author[i].next)
        if (c->author[i].id.inc > a->id.inc && c->author[i].parsed > 0)
            return false;
    return true;
}

static void admit(pd_core *c, uint16_t author, const pd_control *rec) {
    const pd_author_state *issuer = &c->author[author];
    bool known = pd_member_find(c, rec->subject) != PD_NONE,
         now = pd_verdict_admits(c, author, rec);
    if (known)
        return;
    if (c->max_out && issuer->member == c->self) {
        pd_action *a = pd_emit(c, PD_ACT_INVITE_USED);
        a->invite = rec->invite;
        memcpy(a->key, rec->subject, 32);
    }
    if (!now)
        return;
    char key[9];
    uint16_t m = pd_member_add(c, rec->subject, rec->invite, rec->name);
    if (m == PD_NONE) {
        if (c->max_out)
            pd_note(c, PD_LOG_WARN,
                    "member %s was admitted elsewhere, but this node's tables hold %u",
                    pd_short(rec->subject, key), c->members_max);
        return;
    }
    c->member[m].issuer = issuer->member;
    pd_verdict_admitted(c, author, m);
    if (c->max_out) /* at the start nothing is new */
        pd_note(c, PD_LOG_INFO, "%s%s%s is a member now", rec->name, *rec->name ? " " : "",
                pd_short(rec->subject, key));
}

static void apply(pd_core *c, uint16_t author, const pd_control *rec) {
    const pd_author_state *a = &c->author[author];
    pd_member *m = &c->member[a->member];
    pd_verdict_read(c, rec);
    switch (rec->kind) {
    case PD_RECORD_MEMBER:
        admit(c, author, rec);
        break;
    case PD_RECORD_ADDR:
        if (!is_newest(c, a))
            break;
        memcpy(m->addrs, rec->addrs, sizeof m->addrs);
        m->n_addrs = rec->n_addrs;
        m->left = false;
        if (*rec->name)
            memcpy(m->name, rec->name, sizeof m->name);
        if (!m->dialing && a->member != c->self)
            pd_dial_start(c, m);
        pd_view_changed(c);
        break;
    case PD_RECORD_LEAVE:
        if (is_newest(c, a))
            m->left = true;
        pd_view_changed(c);
        break;
    case PD_RECORD_CKPT:
        pd_attest_read(c, author, rec);
        break;
    default: /* a newer version's record */
        break;
    }
}

void pd_members_read(pd_core *c, uint16_t author) {
    pd_author_state *a = &c->author[author];
    const pd_log *log = &a->log[PD_STREAM_CONTROL];
    uint8_t *buf = c->record;
    while (!a->broken && a->parsed < log->held) {
        size_t n = c->store.read(c->store.ctx, &a->id, PD_STREAM_CONTROL, a->parsed, buf,
                                 sizeof c->record);
        size_t at = 0;
        while (at < n) {
            pd_control rec;
            ptrdiff_t took = pd_control_get(buf + at, n - at, &rec);
            a->broken =
                took < 0; /* the rest of this log can have no meaning; its bytes still travel */
            if (took <= 0)
                break;
            at += (size_t)took;
            a->parsed += (uint64_t)took;
            apply(c, author, &rec);
        }
        if (at == 0)
            break; /* a record whose end is not sealed yet */
    }
}

pd_member_state pd_member_state_of(const pd_core *c, const pd_member *m, uint64_t now) {
    uint64_t quiet = now > m->heard_ms ? now - m->heard_ms : 0, seal_ms = pd_own_seal_ms(c);
    uint64_t away =
        PD_AWAY_MS > 2 * seal_ms ? PD_AWAY_MS : 2 * seal_ms; /* seals may be that rare */
    if (pd_member_is_out(m))
        return PD_MEMBER_BANNED;
    if (m->left)
        return PD_MEMBER_LEFT;
    if (m == &c->member[c->self])
        return PD_MEMBER_HERE;
    return quiet >= PD_GONE_MS ? PD_MEMBER_GONE : quiet >= away ? PD_MEMBER_AWAY : PD_MEMBER_HERE;
}

void pd_members_tick(pd_core *c) {
    uint32_t end =
        c->n_members - c->n_told < PD_ALLOWS_MAX ? c->n_members : c->n_told + PD_ALLOWS_MAX;
    for (; c->n_told < end; c->n_told++)
        if (c->n_told != c->self && !c->member[c->n_told].v.denied)
            memcpy(pd_emit(c, PD_ACT_ALLOW)->key, c->member[c->n_told].key, 32);
    if (c->n_told < c->n_members)
        pd_wake_at(c, c->now);
}
