/* dial.c - when to call: 1 s after a failure, doubling to 10 minutes, +-50 %.
 *
 * In a mesh everyone who is not linked is called; in a partial view those that view.c chooses.  Who
 * has been silent for a day is not called in a view, and once an hour in a mesh.
 */
#include "state.h"

void pd_dial_soon(pd_core *c, uint64_t ms) {
    if (ms < c->view.dial_ms)
        c->view.dial_ms = ms;
}

void pd_dial_start(pd_core *c, pd_member *m) {
    /* The lower key dials first; where nobody can dial us there is nothing to wait for. */
    bool later = c->conf.n_listen && memcmp(c->conf.key, m->key, 32) > 0;
    m->backoff_ms = 0;
    m->dial_ms = c->now + pd_jitter(c, PD_DIAL_MS / 2, 100) + (later ? PD_DIAL_LATER_MS : 0);
    pd_dial_soon(c, m->dial_ms);
}

void pd_dial_up(pd_core *c, pd_member *m) {
    m->dialing = m->compare = m->full = m->lost = false;
    pd_dial_soon(c, c->now);
}

static void again(pd_core *c, pd_member *m) {
    uint32_t most =
        pd_member_state_of(c, m, c->now) == PD_MEMBER_GONE ? PD_DIAL_GONE_MS : PD_DIAL_MAX_MS;
    m->backoff_ms = m->backoff_ms ? m->backoff_ms * 2 : PD_DIAL_MS;
    if (m->backoff_ms > most)
        m->backoff_ms = most;
    m->dial_ms = c->now + pd_jitter(c, m->backoff_ms, 50);
    m->dialing = m->compare = false;
    pd_dial_soon(c, c->view.mesh ? m->dial_ms : c->now);
}

/* With hardly a link left, those who had no place are asked again soon: a node in need is taken. */
static void plead(pd_core *c) {
    for (uint32_t i = 0; i < c->n_members && pd_view_links(c) < PD_VIEW_FEW; i++) {
        pd_member *m = &c->member[i];
        uint64_t soon = c->now + pd_jitter(c, PD_SURVEY_MS, 50);
        if (!m->full || m->dialing || m->dial_ms <= soon)
            continue;
        m->dial_ms = soon;
        pd_dial_soon(c, soon);
    }
}

void pd_dial_down(pd_core *c, pd_member *m, uint64_t lasted_ms) {
    if (m->dialing)
        return;
    if (lasted_ms > PD_GOOD_SESSION_MS)
        m->backoff_ms = 0;
    c->view.orphan_ms = c->now + c->crypto.random(c->crypto.ctx) % PD_DIAL_ORPHAN_MS;
    again(c, m);
    plead(c);
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

bool pd_dial_has_session(const pd_core *c, uint16_t member) {
    for (unsigned i = 0; i < PD_LINKS_MAX; i++)
        if (pd_link_used(c, i) && c->link[i].member == member)
            return true;
    return false;
}

static void dial(pd_core *c, pd_member *m, bool compare) {
    const pd_addr *a = next_addr(m);
    if (!a)
        return;
    m->dialing = true;
    m->compare = compare;
    m->dial_ms = c->now;
    m->last_addr = *a;
    pd_action *act = pd_emit(c, PD_ACT_DIAL);
    memcpy(act->key, m->key, 32);
    act->addr = *a;
    pd_dial_soon(c, m->dial_ms + PD_DIAL_LOST_MS);
}

void pd_dial_compare(pd_core *c, uint16_t member) {
    dial(c, &c->member[member], true);
}

/* Dials that are under way, those to compare not counted; an answer that never came is given up. */
static uint32_t dialing(pd_core *c) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_members; i++) {
        pd_member *m = &c->member[i];
        if (!m->dialing)
            continue;
        if (c->now >= m->dial_ms + PD_DIAL_LOST_MS)
            again(c, m);
        else
            pd_dial_soon(c, m->dial_ms + PD_DIAL_LOST_MS);
        n += m->dialing && !m->compare;
    }
    return n;
}

/* Who has left is not called, except by a node that has nobody else: it may have come back. */
static void mesh(pd_core *c) {
    bool lonely = pd_view_links(c) == 0;
    for (uint32_t i = 0; i < c->n_members; i++) {
        pd_member *m = &c->member[i];
        if (i == c->self || (m->left && !lonely) || m->dialing || pd_member_is_out(m) ||
            pd_dial_has_session(c, (uint16_t)i) || !(m->n_addrs + m->n_hints))
            continue;
        uint64_t due = m->dial_ms > m->v.refused_until ? m->dial_ms : m->v.refused_until;
        if (c->now >= due)
            dial(c, m, false);
        else
            pd_dial_soon(c, due);
    }
}

/* Too few links of our own choice: at once.  Fewer than wanted: one call every few seconds, so that
 * nodes that start together leave each other places.
 */
static void partial(pd_core *c, uint32_t n) {
    uint32_t own = n;
    for (unsigned i = 0; i < PD_LINKS_MAX; i++) {
        const pd_link *l = &c->link[i];
        bool counts = l->session && !l->compare && !l->bye_ms;
        n += counts;
        own += counts && l->outbound;
    }
    if (n && c->now < c->view.orphan_ms) {
        pd_dial_soon(c, c->view.orphan_ms);
        return;
    }
    uint32_t want = PD_VIEW_LINKS + c->view.rotating;
    if (own < PD_VIEW_OWN && want < n + PD_VIEW_OWN - own)
        want =
            n + PD_VIEW_OWN - own < PD_VIEW_LINKS_MAX ? n + PD_VIEW_OWN - own : PD_VIEW_LINKS_MAX;
    while (n < want) {
        bool at_once = n < PD_VIEW_OWN || own < PD_VIEW_OWN;
        uint16_t m = at_once || c->now >= c->view.fill_ms ? pd_view_choose(c, false) : PD_NONE;
        if (m == PD_NONE)
            break;
        c->view.fill_ms =
            c->now + pd_jitter(c, n < PD_VIEW_LINKS_MIN ? PD_SURVEY_MS : PD_FILL_MS, 50);
        dial(c, &c->member[m], false);
        n++;
        own++;
    }
    if (n < want)
        pd_dial_soon(c, c->now < c->view.fill_ms ? c->view.fill_ms
                                                 : c->now + pd_jitter(c, PD_SURVEY_MS, 50));
}

/* Neighbours that went without a word, and of which nothing has come since: the run may have fallen
 * in two between us.  Whoever has found other links would not call them again for itself. */
static void call_lost(pd_core *c) {
    uint64_t next;
    uint16_t m;
    while ((m = pd_view_lost(c, &next)) != PD_NONE)
        dial(c, &c->member[m], true);
    pd_dial_soon(c, next);
}

void pd_dial_tick(pd_core *c) {
    if (c->own.stop_ms)
        return;
    if (c->now >= c->view.dial_ms) {
        c->view.dial_ms = PD_NEVER;
        uint32_t n = dialing(c);
        if (c->view.mesh)
            mesh(c);
        else {
            partial(c, n);
            call_lost(c);
        }
    }
    pd_wake_at(c, c->view.dial_ms);
}
