/* view.c - which members to be linked with.
 *
 * Up to 16 members: all.  Above: 6 links (4 to 8), at least 3 of them dialled by ourselves, so that
 * nobody else can choose all our neighbours; drawn evenly from the members heard of in the last
 * hour, not two of one network if that can be had; one replaced by another every half hour.  The
 * table of members is the passive view: nothing is sent to keep the overlay.
 *
 * Whether the run has fallen apart shows where a member that is not linked, asked now and then,
 * holds bytes that our links have not brought after half a minute.
 */
#include "state.h"

static bool is_link(const pd_link *l) {
    return pd_link_live(l) && !l->compare && !l->observer;
}

uint32_t pd_view_links(const pd_core *c) {
    uint32_t n = 0;
    for (unsigned i = 0; i < PD_LINKS_MAX; i++)
        n += is_link(&c->link[i]);
    return n;
}

uint32_t pd_view_wanted(const pd_core *c) {
    uint32_t others = c->view.counted ? c->view.counted - 1 : 0;
    return c->view.mesh || others < PD_VIEW_LINKS ? others : PD_VIEW_LINKS;
}

uint64_t pd_view_frame_ms(const pd_core *c, const pd_link *l) {
    bool thin = c->conf.thin || (c->busy && l && l->rate && l->rate < PD_THIN_BYTES);
    return c->view.mesh ? PD_FRAME_MS : thin ? PD_FRAME_THIN_MS : PD_FRAME_VIEW_MS;
}

void pd_view_changed(pd_core *c) {
    if (c->view.survey_ms)
        c->view.survey_ms = c->now;
}

/* ---- choosing ---- */

static bool same_net(const pd_addr *a, const pd_addr *b) {
    return a->family == b->family && !memcmp(a->ip, b->ip, a->family == 4 ? 3 : 6);
}

static const pd_addr *place_of(const pd_member *m) {
    return m->n_addrs ? &m->addrs[0] : m->n_hints ? &m->hints[0] : NULL;
}

/* Where the neighbours are, those being dialled with them. */
typedef struct near_by {
    const pd_addr *at[PD_LINKS_MAX + PD_VIEW_LINKS_MAX];
    uint32_t n;
} near_by;

static void add_place(const pd_core *c, near_by *near, uint32_t member) {
    const pd_addr *a = place_of(&c->member[member]);
    if (a && near->n < sizeof near->at / sizeof *near->at)
        near->at[near->n++] = a;
}

static void find_neighbours(const pd_core *c, near_by *near) {
    near->n = 0;
    for (unsigned i = 0; i < PD_LINKS_MAX; i++)
        if (c->link[i].session && !c->link[i].compare)
            add_place(c, near, c->link[i].member);
    for (uint32_t i = 0; i < c->n_members; i++)
        if (c->member[i].dialing)
            add_place(c, near, i);
}

static bool is_near(const near_by *near, const pd_member *m) { /* one of a neighbour's network */
    const pd_addr *a = place_of(m);
    for (uint32_t i = 0; i < near->n; i++)
        if (same_net(a, near->at[i]))
            return true;
    return false;
}

/* With nobody linked, or with half of the run silent, anyone may be tried. */
static bool is_candidate(const pd_core *c, uint32_t i, bool anyone) {
    const pd_member *m = &c->member[i];
    bool fresh = !m->left && c->now < m->heard_ms + PD_FRESH_MS;
    return i != c->self && !m->dialing && c->now >= m->dial_ms && place_of(m) &&
           (fresh || anyone) && !pd_score_refuses(c, (uint16_t)i) &&
           !pd_dial_has_session(c, (uint16_t)i);
}

/* The k-th candidate, of those far from every neighbour or of all. */
static uint16_t kth(const pd_core *c, const near_by *near, bool anyone, bool far, uint64_t k) {
    for (uint32_t i = 0; i < c->n_members; i++)
        if (is_candidate(c, i, anyone) && !(far && is_near(near, &c->member[i])) && k-- == 0)
            return (uint16_t)i;
    return PD_NONE;
}

uint16_t pd_view_choose(pd_core *c, bool compare) {
    pd_view *v = &c->view;
    bool anyone = (!compare && pd_view_links(c) == 0) || 2 * v->here < v->counted;
    while (!compare && v->n_suggested) {
        uint16_t m = v->suggested[--v->n_suggested];
        if (is_candidate(c, m, true))
            return m;
    }
    near_by near;
    uint64_t far = 0, close = 0;
    find_neighbours(c, &near);
    for (uint32_t i = 0; i < c->n_members; i++)
        if (is_candidate(c, i, anyone))
            *(is_near(&near, &c->member[i]) ? &close : &far) += 1;
    /* A small network beside a large one has no room for a link of everyone in that. */
    bool spread = 3 * far >= close;
    uint64_t n = spread ? far : far + close;
    return n ? kth(c, &near, anyone, spread, c->crypto.random(c->crypto.ctx) % n) : PD_NONE;
}

uint16_t pd_view_lost(const pd_core *c, uint64_t *ms) {
    *ms = PD_NEVER;
    for (uint32_t i = 0; i < c->n_members; i++) {
        const pd_member *m = &c->member[i];
        if (m->lost && is_candidate(c, i, false))
            return (uint16_t)i;
        if (m->lost && !m->dialing && m->dial_ms > c->now && m->dial_ms < *ms)
            *ms = m->dial_ms;
    }
    return PD_NONE;
}

/* ---- places ---- */

static uint32_t compares(const pd_core *c) {
    uint32_t n = 0;
    for (unsigned i = 0; i < PD_LINKS_MAX; i++)
        n += pd_link_live(&c->link[i]) && c->link[i].compare;
    return n;
}

/* A newcomer's sessions are of this kind until it has the basis. */
static uint32_t observers(const pd_core *c) {
    uint32_t n = 0;
    for (unsigned i = 0; i < PD_LINKS_MAX; i++)
        n += pd_link_live(&c->link[i]) && c->link[i].observer;
    return n;
}

/* The inbound link that brought most twice, of these the oldest: each of many newcomers must have
 * time to hear of others before the next one takes its place.  NULL if all are our own. */
static pd_link *dullest(pd_core *c) {
    pd_link *worst = NULL;
    for (unsigned i = 0; i < PD_LINKS_MAX; i++) {
        pd_link *l = &c->link[i];
        bool more = worst && l->duplicates > worst->duplicates;
        bool older = worst && l->duplicates == worst->duplicates && l->up_ms < worst->up_ms;
        if (is_link(l) && !l->outbound && c->now >= l->up_ms + PD_SURVEY_MS &&
            (!worst || more || older))
            worst = l;
    }
    return worst;
}

/* A link to give up, by lot; not one of the last that we chose ourselves. */
static pd_link *any_but(pd_core *c, const pd_link *kept) {
    uint32_t own = 0, n = 0;
    for (unsigned i = 0; i < PD_LINKS_MAX; i++)
        own += is_link(&c->link[i]) && c->link[i].outbound;
    for (unsigned pass = 0; pass < 2; pass++) {
        uint64_t k = n ? c->crypto.random(c->crypto.ctx) % n : 0;
        for (unsigned i = 0; i < PD_LINKS_MAX; i++) {
            pd_link *l = &c->link[i];
            if (!is_link(l) || l == kept || (l->outbound && own <= PD_VIEW_OWN))
                continue;
            if (pass == 0)
                n++;
            else if (n && k-- == 0)
                return l;
        }
    }
    return NULL;
}

bool pd_view_takes(pd_core *c, pd_link *l, const pd_hello *h) {
    l->observer = h->caps & PD_CAP_OBSERVER;
    l->compare |= (h->caps & PD_CAP_COMPARE) != 0;
    if (l->compare)
        return compares(c) < PD_COMPARES_MAX;
    if (l->observer)
        return c->view.mesh || observers(c) < PD_OBSERVERS_MAX;
    if (c->view.mesh || pd_view_links(c) < PD_VIEW_LINKS_MAX)
        return true;
    pd_link *worst = h->links < PD_VIEW_FEW ? dullest(c) : NULL;
    if (worst)
        pd_link_bye_full(c, worst);
    return worst != NULL;
}

/* A new link is up: does it replace another? */
static void replace(pd_core *c) {
    pd_view *v = &c->view;
    if (!v->rotating || pd_view_links(c) <= PD_VIEW_LINKS)
        return;
    pd_link *newest = NULL;
    for (unsigned i = 0; i < PD_LINKS_MAX; i++)
        if (is_link(&c->link[i]) && (!newest || c->link[i].up_ms > newest->up_ms))
            newest = &c->link[i];
    pd_link *l = any_but(c, newest);
    if (l)
        pd_link_bye(c, l, PD_BYE_DONE);
    v->rotating = false;
}

void pd_view_alternatives(pd_core *c, const pd_link *l, pd_item *bye) {
    uint32_t first = (uint32_t)(c->crypto.random(c->crypto.ctx) % PD_LINKS_MAX), n = 0;
    for (uint32_t k = 0; k < PD_LINKS_MAX && n < PD_ALTERNATIVES_MAX; k++) {
        const pd_link *o = &c->link[(first + k) % PD_LINKS_MAX];
        uint16_t a = o != l && is_link(o) ? c->member[o->member].author : PD_NONE;
        if (a != PD_NONE && l->out && l->out[a] != PD_NONE)
            bye->u.bye.alias[n++] = l->out[a];
    }
    bye->u.bye.count = n;
}

/* What a full node says of others is heard only by a node in need: it could name its friends. */
void pd_view_refused(pd_core *c, const pd_link *l, const pd_item *bye) {
    if (l->member == PD_NONE || bye->u.bye.why != PD_BYE_FULL)
        return;
    c->member[l->member].backoff_ms = PD_DIAL_FULL_MS / 2;
    c->member[l->member].full = true;
    for (uint32_t i = 0; i < bye->u.bye.count; i++) {
        uint16_t a = pd_alias_author(c, l, bye->u.bye.alias[i]);
        if (a == PD_NONE || pd_view_links(c) >= PD_VIEW_FEW ||
            c->view.n_suggested == PD_ALTERNATIVES_MAX)
            continue;
        pd_member *m = &c->member[c->author[a].member];
        if (!m->dialing)
            m->dial_ms = c->now;
        c->view.suggested[c->view.n_suggested++] = c->author[a].member;
    }
}

/* ---- looking at everyone, every few seconds ---- */

/* The other way of sending has to know the own logs of every link. */
static void change_mode(pd_core *c, bool mesh) {
    c->view.mesh = mesh;
    for (unsigned i = 0; i < PD_LINKS_MAX; i++) {
        pd_link *l = &c->link[i];
        if (!is_link(l))
            continue;
        for (uint16_t a = c->member[c->self].author; a != PD_NONE; a = c->author[a].next)
            for (uint32_t s = 0; s < PD_STREAMS; s++) {
                uint32_t log = (uint32_t)a * PD_STREAMS + s;
                if (!mesh) /* the links know us as the one who sends it */
                    l->log[log].flags |= PD_EAGER;
                pd_tree_due(c, l, log);
            }
    }
    pd_dial_soon(c, c->now);
}

static void count(pd_core *c) {
    pd_view *v = &c->view;
    v->counted = v->here = 0;
    for (uint32_t i = 0; i < c->n_members; i++) {
        pd_member_state s = pd_member_state_of(c, &c->member[i], c->now);
        v->counted += s < PD_MEMBER_GONE;
        v->here += s == PD_MEMBER_HERE;
    }
    bool mesh = v->counted <= (v->mesh || !v->survey_ms ? PD_MESH_MAX : PD_MESH_BACK);
    if (mesh != v->mesh)
        change_mode(c, mesh);
}

/* Trees leave a link that has not held their pace for a minute; its peer goes on by pulls. */
static void relieve(pd_core *c, pd_link *l) {
    if (c->view.mesh || !l->blocked_ms || c->now < l->blocked_ms + PD_PACE_MS)
        return;
    for (uint32_t i = 0; i < pd_logs(c); i++) {
        if (l->log[i].flags & PD_EAGER)
            pd_set_add(l->tell, i);
        l->log[i].flags &= (uint16_t)~PD_EAGER;
    }
    l->blocked_ms = c->now;
    if (!l->heads_ms)
        l->heads_ms = c->now + pd_heads_wait(c, l);
}

static void measure_line(pd_core *c) {
    uint64_t ms = c->now - c->busy_ms, line = PD_THIN_BYTES / 2;
    if (ms < PD_BUSY_MS)
        return;
    c->busy = (c->bytes_out - c->busy_bytes) * 1000 / ms * 100 > line * PD_BUSY_PERCENT;
    c->busy_ms = c->now;
    c->busy_bytes = c->bytes_out;
}

/* Does it hold what our links have not brought?  Records of someone of whom they have brought
 * nothing for long need less time to tell. */
static bool shows_split(const pd_core *c, const pd_link *l) {
    uint32_t end = pd_logs(c);
    for (uint32_t i = pd_set_next(c->lack, 0, end); i < end; i = pd_set_next(c->lack, i + 1, end)) {
        const pd_log *log = &c->author[i / PD_STREAMS].log[i % PD_STREAMS];
        bool stale = i % PD_STREAMS == PD_STREAM_GRADIENTS && pd_tree_is_stale(c, i);
        uint64_t wait = stale ? PD_LAZY_MS : PD_COMPARE_LASTS_MS;
        if (l->log[i].peer > log->chain.n && c->now >= log->told_ms + wait)
            return true;
    }
    return false;
}

static void end_compare(pd_core *c, pd_link *l) {
    bool ours = l->outbound, split = ours && shows_split(c, l);
    if (!split && c->now < l->up_ms + (ours ? 1 : 3) * PD_COMPARE_LASTS_MS)
        return;
    if (split) {
        pd_note(c, PD_LOG_WARN,
                "a member that is not linked holds what our links do not bring: "
                "it becomes one of them");
        c->view.suggested[0] = l->member;
        c->view.n_suggested = 1;
        c->view.rotating = true;
        pd_dial_soon(c, c->now + PD_DIAL_ORPHAN_MS);
    }
    pd_link_bye(c, l, PD_BYE_DONE);
}

/* In a large run the others ask too: that a comparison crosses a split takes no longer, and what
 * each costs, a VV of all logs both ways, grows with the run. */
static uint64_t compare_wait(const pd_core *c) {
    uint32_t most = PD_COMPARE_RARE, n = c->view.counted / PD_COMPARE_MEMBERS;
    return (uint64_t)PD_COMPARE_MS * (n < 1 ? 1 : n > most ? most : n);
}

static void keep_view(pd_core *c) {
    pd_view *v = &c->view;
    uint32_t links = pd_view_links(c);
    pd_link *l = links > PD_VIEW_LINKS_MAX ? any_but(c, NULL) : NULL;
    if (l)
        pd_link_bye_full(c, l);
    if (c->now >= v->rotate_ms) {
        v->rotating = v->rotate_ms && links >= PD_VIEW_LINKS;
        v->rotate_ms = c->now + pd_jitter(c, PD_ROTATE_MS, 20);
        pd_dial_soon(c, c->now);
    }
    if (c->now >= v->compare_ms) {
        uint16_t m = v->compare_ms && links ? pd_view_choose(c, true) : PD_NONE;
        v->compare_ms = c->now + pd_jitter(c, compare_wait(c), 20);
        if (m != PD_NONE)
            pd_dial_compare(c, m);
    }
}

void pd_view_tick(pd_core *c) {
    pd_view *v = &c->view;
    if (c->now >= v->survey_ms) {
        count(c);
        measure_line(c);
        for (unsigned i = 0; i < PD_LINKS_MAX; i++) {
            if (is_link(&c->link[i]))
                relieve(c, &c->link[i]);
            else if (pd_link_live(&c->link[i]))
                end_compare(c, &c->link[i]);
        }
        if (!v->mesh && !c->own.stop_ms)
            keep_view(c);
        v->survey_ms = c->now + PD_SURVEY_MS;
    }
    if (!v->mesh)
        replace(c);
    pd_wake_at(c, v->survey_ms);
}
