/* dial.c - whom to call and when: every member that is not linked, at 1 s, doubling to 10 minutes,
 * +-50 %.
 *
 * Full mesh.  Above 16 members this is where a few are chosen instead.
 */
#include "state.h"

void pd_dial_start(pd_core *c, pd_member *m) {
    bool later = memcmp(c->conf.key, m->key, 32) > 0; /* the lower key dials first */
    m->backoff_ms = 0;
    m->dial_ms = c->now + pd_jitter(c, PD_DIAL_MS / 2, 100) + (later ? PD_DIAL_LATER_MS : 0);
}

void pd_dial_up(pd_core *c, pd_member *m) {
    (void)c;
    m->dialing = false;
}

static void again(pd_core *c, pd_member *m) {
    uint32_t most =
        pd_member_state_of(c, m, c->now) == PD_MEMBER_GONE ? PD_DIAL_GONE_MS : PD_DIAL_MAX_MS;
    m->backoff_ms = m->backoff_ms ? m->backoff_ms * 2 : PD_DIAL_MS;
    if (m->backoff_ms > most)
        m->backoff_ms = most;
    m->dial_ms = c->now + pd_jitter(c, m->backoff_ms, 50);
    m->dialing = false;
}

void pd_dial_down(pd_core *c, pd_member *m, uint64_t lasted_ms) {
    if (m->dialing)
        return;
    if (lasted_ms > PD_GOOD_SESSION_MS)
        m->backoff_ms = 0;
    again(c, m);
}

void pd_dial_failed(pd_core *c, const uint8_t key[32]) {
    uint16_t m = pd_member_find(c, key);
    if (m != PD_NONE && c->member[m].dialing)
        again(c, &c->member[m]);
}

static const pd_addr *next_addr(pd_member *m) {
    uint32_t n = m->n_addrs + m->n_hints;
    if (n == 0)
        return NULL;
    uint32_t i = m->next_addr++ % n;
    return i < m->n_addrs ? &m->addrs[i] : &m->hints[i - m->n_addrs];
}

static bool has_session(const pd_core *c, uint16_t member) {
    for (unsigned i = 0; i < PD_SESSIONS_MAX; i++)
        if (c->link[i].session && !c->link[i].guest && c->link[i].member == member)
            return true;
    return false;
}

/* Who has left is not called, except by a node that has nobody else: it may have come back. */
static bool is_lonely(const pd_core *c) {
    for (unsigned i = 0; i < PD_SESSIONS_MAX; i++)
        if (pd_link_live(&c->link[i]))
            return false;
    return true;
}

void pd_dial_tick(pd_core *c) {
    bool lonely = is_lonely(c);
    for (uint32_t i = 0; i < c->n_members; i++) {
        pd_member *m = &c->member[i];
        if (i == c->self || (m->left && !lonely) || c->own.stop_ms || has_session(c, (uint16_t)i) ||
            pd_score_refuses(c, (uint16_t)i))
            continue;
        if (m->dialing) {
            if (c->now < m->dial_ms + PD_DIAL_LOST_MS) {
                pd_wake_at(c, m->dial_ms + PD_DIAL_LOST_MS);
                continue;
            }
            again(c, m);
        }
        if (c->now < m->dial_ms) {
            if (m->n_addrs + m->n_hints)
                pd_wake_at(c, m->dial_ms);
            continue;
        }
        const pd_addr *a = next_addr(m);
        if (!a)
            continue;
        m->dialing = true;
        m->dial_ms = c->now;
        m->last_addr = *a;
        pd_action *act = pd_emit(c, PD_ACT_DIAL);
        memcpy(act->key, m->key, 32);
        act->addr = *a;
        pd_wake_at(c, m->dial_ms + PD_DIAL_LOST_MS);
    }
}
