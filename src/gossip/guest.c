/* guest.c - the inviter's side of joining: one JOIN in, a MEMBER record durable, a WELCOME out.
 *
 * A guest is whoever holds a one-time key of an outstanding invite; nothing but JOIN is legal in
 * its session.  It proves the key it wants to be known by, bound to this run and to that one-time
 * key.
 */
#include "state.h"

#include <assert.h>

static uint32_t admitted(const pd_core *c) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_members; i++)
        n += !c->member[i].left && c->member[i].v.admitted && !c->member[i].v.banned;
    return n;
}

/* Places of the table kept for what others admit at this moment. */
static uint32_t spare(const pd_core *c) {
    uint32_t quarter = c->members_max / 4;
    return quarter < PD_MEMBERS_SPARE ? quarter : PD_MEMBERS_SPARE;
}

/* Another guest of the same invite, whose record is not durable yet. */
static bool in_use(const pd_core *c, const pd_link *l) {
    for (unsigned i = 0; i < PD_SESSIONS_MAX; i++) {
        const pd_link *o = &c->link[i];
        if (o != l && o->session && o->guest && o->joined && o->invite == l->invite &&
            memcmp(o->subject, l->subject, 32) && pd_member_find(c, o->subject) == PD_NONE)
            return true;
    }
    return false;
}

void pd_guest_join(pd_core *c, pd_link *l, const pd_item *it) {
    uint8_t msg[PD_JOIN_MESSAGE_BYTES];
    pd_join_message(c->conf.run, l->key, msg);
    if (!c->crypto.verify(c->crypto.ctx, it->u.join.key, msg, sizeof msg, it->u.join.sig)) {
        pd_link_bye(c, l, PD_BYE_REFUSED);
        return;
    }
    memcpy(l->subject, it->u.join.key, 32);
    l->addr = it->u.join.addr;
    uint16_t m = pd_member_find(c, l->subject);
    if (m != PD_NONE) { /* its welcome was cut off, or it lost its files */
        bool theirs = (!l->spent || c->member[m].invite == l->invite) && !c->member[m].v.banned;
        if (!theirs)
            pd_link_bye(c, l, PD_BYE_REFUSED);
        l->joined = theirs;
        return;
    }
    pd_control rec = {.kind = PD_RECORD_MEMBER, .invite = l->invite};
    memcpy(rec.subject, l->subject, 32);
    memcpy(rec.name, it->u.join.name, it->u.join.name_size);
    for (char *p = rec.name; *p; p++)
        *p = *p >= 0x20 && *p < 0x7f ? *p : '?';
    if (l->spent)
        pd_link_bye(c, l, PD_BYE_REFUSED);
    else if (c->own.rotates) /* behind a ROTATE nothing counts, and the ticket would be spent */
        pd_link_bye(c, l, PD_BYE_LEAVING);
    else if (in_use(c, l))
        pd_link_bye(c, l, PD_BYE_NOT_NOW);
    else if (admitted(c) >= c->members_max - spare(c) || c->n_members == c->members_max ||
             !pd_verdict_may_invite(c))
        pd_link_bye(c, l, PD_BYE_FULL);
    else if (!pd_own_write(c, &rec))
        pd_link_bye(c, l, PD_BYE_NOT_NOW);
    else
        l->joined = true;
}

/* Everything a newcomer needs to check for itself: the manifest, and all control logs with their
 * seals. */
static bool write_welcome(pd_core *c) {
    pd_writer w = pd_writer_of(c->welcome, c->welcome_room);
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_authors; i++)
        n += c->author[i].log[PD_STREAM_CONTROL].held > 0;
    pd_put_varint(&w, c->conf.manifest_bytes);
    pd_put_bytes(&w, c->conf.manifest, c->conf.manifest_bytes);
    pd_put_varint(&w, n);
    for (uint32_t i = 0; i < c->n_authors; i++) {
        const pd_author_state *a = &c->author[i];
        uint64_t size = a->log[PD_STREAM_CONTROL].held, head = 0;
        uint8_t seal[64];
        if (size == 0)
            continue;
        bool there = c->store.seal(c->store.ctx, &a->id, PD_STREAM_CONTROL, &head, seal);
        pd_put_bytes(&w, a->id.key, 32);
        pd_put_varint(&w, a->id.inc);
        pd_put_varint(&w, size);
        if (!there || head != size || !w.ok || size > (size_t)(w.end - w.p))
            return false;
        w.p += c->store.read(c->store.ctx, &a->id, PD_STREAM_CONTROL, 0, w.p, (size_t)size);
        pd_put_bytes(&w, seal, 64);
    }
    c->welcome_size = (size_t)(w.p - c->welcome);
    return w.ok;
}

bool pd_guest_fill(pd_core *c, pd_link *l, pd_writer *w) {
    if (c->welcome_session != l->session)
        return true;
    while (l->welcomed < c->welcome_size) {
        size_t head = 1 + 4 * 3, room = (size_t)(w->end - w->p),
               left = c->welcome_size - (size_t)l->welcomed;
        size_t count = left < PD_PIECE_MAX ? left : PD_PIECE_MAX;
        if (count + head > room && room < 512)
            return false;
        count = count + head > room ? room - head : count;
        pd_item it = {.kind = PD_ITEM_WELCOME};
        it.u.part.offset = l->welcomed;
        it.u.part.total = c->welcome_size;
        it.u.part.bytes = c->welcome + l->welcomed;
        it.u.part.count = (uint32_t)count;
        if (!pd_frame_put(w, &it))
            return false;
        l->welcomed += count;
    }
    return true;
}

void pd_guest_tick(pd_core *c) {
    for (unsigned i = 0; i < PD_SESSIONS_MAX; i++) {
        pd_link *l = &c->link[i];
        if (!pd_link_used(c, i) || !l->guest || !l->joined || l->bye_ms || c->welcome_session)
            continue;
        if (pd_member_find(c, l->subject) == PD_NONE)
            continue; /* its record is not durable yet */
        if (!write_welcome(c)) {
            pd_link_bye(c, l, PD_BYE_NOT_NOW);
            continue;
        }
        pd_member_hint(&c->member[pd_member_find(c, l->subject)], &l->addr);
        c->welcome_session = l->session;
        l->want = true;
    }
}
