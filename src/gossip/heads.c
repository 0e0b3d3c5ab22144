/* heads.c - who holds how much: HEADS as logs grow, SUMMARY and VV as the backstop.
 *
 * A HEADS tells what the trees have not brought to a link some seconds after it came here, and so
 * finds the holes in them.  A VV tells all; it opens a session, and after that it is sent only
 * where a SUMMARY shows a difference that does not move.
 */
#include "state.h"

#include <assert.h>

void pd_heads_note(pd_core *c, pd_link *l, uint32_t index, uint64_t n) {
    pd_log *log = pd_log_at_index(c, index);
    if (n <= l->log[index].peer)
        return;
    l->log[index].peer = (uint32_t)n;
    if (n <= log->chain.n || pd_log_is_closed(log))
        return;
    bool lacked = log->goal > log->chain.n;
    log->goal = n > log->goal ? n : log->goal;
    pd_set_add(c->lack, index);
    if (!lacked)
        log->told_ms = c->now;
    pd_tree_lacks(c, l, index); /* also where it was known: this link may be a nearer one */
}

static void note(pd_core *c, pd_link *l, uint32_t theirs, uint64_t n) {
    uint32_t log = pd_alias_log(c, l, theirs);
    if (log == PD_NONE) {
        pd_alias_note(l, theirs, n);
        return;
    }
    pd_heads_note(c, l, log, n);
}

static void compared(pd_core *c, pd_link *l) {
    bool first = !l->vv_in;
    l->vv_in = l->want = true;
    if (first)
        pd_tree_begin(c, l);
}

void pd_heads_take(pd_core *c, pd_link *l, const pd_item *it) {
    pd_heads_walk w;
    pd_head h;
    pd_heads_begin(it, &w);
    while (pd_heads_next(&w, &h))
        note(c, l, h.log, h.n);
    if (it->kind != PD_ITEM_VV)
        return;
    if (it->u.heads.flags & PD_VV_AGAIN) {
        l->again = l->n_base;
        l->vv_due = l->want = true;
        l->vv_next = 0;
    }
    if ((it->u.heads.flags & PD_VV_WANT) && (!l->vv_out || c->now >= l->vv_ms + PD_QUIET_MS))
        l->vv_due = l->want = true;
    if (!(it->u.heads.flags & PD_VV_MORE))
        compared(c, l);
}

static void all_equal(pd_core *c, pd_link *l) {
    for (uint32_t i = 0; i < pd_logs(c); i++) {
        uint64_t n = pd_log_at_index(c, i)->chain.n;
        if (l->log[i].peer < n)
            l->log[i].peer = (uint32_t)n;
        pd_set_remove(l->tell, i);
    }
    compared(c, l);
}

/* While everything moves no two nodes are ever equal, and HEADS do the work: a VV is due where
 * nothing moves and they still differ.
 */
void pd_heads_summary(pd_core *c, pd_link *l, uint64_t vv_hash, uint64_t total, bool hello) {
    if (vv_hash == c->vv_hash && total == c->total) {
        all_equal(c, l);
        return;
    }
    bool still = c->now >= c->grown_ms + PD_QUIET_MS;
    if (hello || c->now >= l->vv_ms + (still ? PD_LAZY_MS : PD_VV_MS))
        l->vv_due = l->vv_want = l->want = true;
    if (!l->vv_in)
        return;
    /* While all moves, what is sealed next shows by itself whether its log was forked: only what
     * rests has to be asked for, and that can wait. */
    if (still && total == c->total) {
        pd_fork_compare(c, l, true);
    } else if (c->now >= l->compare_ms + PD_COMPARE_MS) {
        pd_fork_compare(c, l, false);
        l->compare_ms = c->now;
    }
}

/* ---- telling ---- */

static bool say_again(pd_core *c, pd_link *l, pd_writer *w) {
    for (; l->again < l->n_out; l->again++) {
        pd_item it = {.kind = PD_ITEM_ALIAS,
                      .u.alias = {l->again, c->author[l->by_out[l->again]].id}};
        if (!pd_frame_put(w, &it))
            return false;
    }
    return true;
}

/* The author behind our alias `alias`; the first unannounced one gets it if it is the next. */
static bool by_alias(pd_core *c, pd_link *l, pd_writer *w, uint32_t alias, uint32_t *author) {
    if (alias < l->n_out) {
        *author = l->by_out[alias];
        return true;
    }
    uint32_t a = 0;
    while (l->out[a] != PD_NONE) /* there is one: aliases are as many as authors announced */
        a++;
    assert(a < c->n_authors);
    *author = a;
    return pd_alias_announce(c, l, w, a);
}

static bool put_list(pd_core *c, pd_writer *w, pd_item_kind kind, uint8_t flags, uint32_t n) {
    pd_item it = {.kind = kind, .u.heads = {.flags = flags, .count = n, .heads = c->heads}};
    return pd_frame_put(w, &it);
}

/* Is there room for a list of n heads and one more, and before it for the ALIAS that this one may
 * need?  An ALIAS that took the room of heads already counted would leave a list that does not fit.
 */
static bool has_room(const pd_writer *w, uint32_t n) {
    const size_t head = 1 + 1 + 3, entry = 3 + 5, alias = 1 + 3 + 32 + 1; /* at most */
    return (size_t)(w->end - w->p) >= head + (n + 1) * entry + alias;
}

/* One part: as many heads as fit behind the aliases they need. */
static bool put_part(pd_core *c, pd_link *l, pd_writer *w) {
    uint32_t n = 0, next = l->vv_next, first = next;
    for (; next < pd_logs(c) && n < PD_HEADS_MAX; next++) {
        uint32_t a;
        if (!has_room(w, n) || !by_alias(c, l, w, next / PD_STREAMS, &a))
            break;
        uint64_t held = c->author[a].log[next % PD_STREAMS].chain.n;
        if (held)
            c->heads[n++] = (pd_head){next, held};
    }
    bool more = next < pd_logs(c);
    if (more && next == first)
        return false;
    uint8_t flags = (uint8_t)((l->vv_want && first == 0 ? PD_VV_WANT : 0) |
                              (l->vv_again ? PD_VV_AGAIN : 0) | (more ? PD_VV_MORE : 0));
    bool put = put_list(c, w, PD_ITEM_VV, flags, n);
    assert(put);
    (void)put;
    for (uint32_t k = first; k < next; k++)
        pd_set_remove(l->tell, (uint32_t)l->by_out[k / PD_STREAMS] * PD_STREAMS + k % PD_STREAMS);
    l->vv_next = next;
    l->vv_again = false;
    return !more;
}

bool pd_heads_put_vv(pd_core *c, pd_link *l, pd_writer *w) {
    if (!say_again(c, l, w))
        return false;
    do {
        uint32_t was = l->vv_next;
        if (put_part(c, l, w))
            break;
        if (l->vv_next == was)
            return false;
    } while (l->vv_next < pd_logs(c));
    l->vv_due = l->vv_want = false;
    l->vv_next = 0;
    l->vv_out = true;
    l->vv_ms = c->now;
    return true;
}

static void sort(pd_head *h, uint32_t n) { /* by our aliases; they come nearly in that order */
    for (uint32_t i = 1; i < n; i++) {
        pd_head x = h[i];
        uint32_t k = i;
        for (; k > 0 && h[k - 1].log > x.log; k--)
            h[k] = h[k - 1];
        h[k] = x;
    }
}

/* Does this link have to be told of this log? */
static bool is_news(const pd_core *c, const pd_link *l, uint32_t index) {
    const pd_author_state *a = &c->author[index / PD_STREAMS];
    uint64_t held = a->log[index % PD_STREAMS].held;
    return held > l->log[index].peer && held > l->log[index].sent && a->member != l->member &&
           !pd_tree_pushes(c, l, index);
}

bool pd_heads_put(pd_core *c, pd_link *l, pd_writer *w) {
    uint32_t n = 0, end = pd_logs(c);
    bool all = true;
    for (uint32_t i = pd_set_next(l->tell, 0, end); i < end; i = pd_set_next(l->tell, i + 1, end)) {
        if (!is_news(c, l, i)) {
            pd_set_remove(l->tell, i);
            continue;
        }
        all = n < PD_HEADS_MAX && has_room(w, n) && pd_alias_announce(c, l, w, i / PD_STREAMS);
        if (!all)
            break;
        const pd_log *log = pd_log_at_index(c, i);
        uint64_t held = PD_BUG(PD_BUG_HEADS_AS_OWN) ? log->goal : log->held;
        c->heads[n++] = (pd_head){pd_alias_number(l, i), held};
        pd_set_remove(l->tell, i);
    }
    sort(c->heads, n);
    bool put = n == 0 || put_list(c, w, PD_ITEM_HEADS, 0, n);
    assert(put);
    (void)put;
    if (all)
        l->heads_ms = 0;
    return all;
}

uint64_t pd_heads_wait(pd_core *c, const pd_link *l) {
    uint64_t frame_ms = pd_view_frame_ms(c, l);
    uint64_t slower = frame_ms > PD_FRAME_VIEW_MS ? 2 * (frame_ms - PD_FRAME_VIEW_MS) : 0;
    return pd_jitter(c, l->observer ? PD_LAZY_OBSERVER_MS : PD_LAZY_MS + slower, 25);
}

uint64_t pd_heads_due(const pd_core *c, const pd_link *l, bool alone) {
    if (!l->heads_ms)
        return PD_NEVER;
    if (c->view.mesh)
        return l->heads_ms + (alone ? PD_LAZY_MESH_MS : 0);
    /* A frame of their own costs more than all the HEADS in it: they get on an earlier one. */
    uint64_t early = alone ? 0 : PD_LAZY_MS / 2;
    return l->heads_ms > early ? l->heads_ms - early : 0;
}

void pd_heads_tick(pd_core *c) {
    for (unsigned i = 0; i < PD_LINKS_MAX; i++) {
        pd_link *l = &c->link[i];
        if (!pd_link_used(c, i) || !pd_link_live(l) || !l->vv_in)
            continue;
        uint64_t sync = l->sync_ms + PD_SYNC_ALONE_MS - PD_SYNC_MS,
                 heads = pd_heads_due(c, l, true);
        l->want |= c->now >= heads || c->now >= sync;
        if (heads > c->now)
            pd_wake_at(c, heads);
        if (sync > c->now)
            pd_wake_at(c, sync);
    }
}
