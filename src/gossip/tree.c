/* tree.c - down which links each log travels, and how holes are mended: PULL, GRAFT, PRUNE.
 *
 * Every log has a tree of its own, made of one bit a link: is what comes new sent over it unasked?
 * Trees begin empty.  The first HEADS of a log is answered by a GRAFT, which asks for it now and
 * for all that follows; bytes that arrive a second time are answered by a PRUNE.  In a mesh an
 * author sends to everyone itself and a PULL comes first.
 *
 * Repair is what could break a slow network, so: what is on its way on a living session is not sent
 * again; at most 64 pulls are open; a PULL comes before a GRAFT where there is a tree, and what
 * brings nothing is tried elsewhere, ever later.
 *
 * A long gap, as a newcomer has, is not pushed: it is asked for, of one link a log and of as many
 * logs at a time as there are stages for their unsealed bytes.  Else every author would send what
 * somebody else is sending already, and most of it would be dropped.
 */
#include "state.h"

#include <assert.h>

static bool is_live(const pd_core *c, uint16_t link) {
    return link != PD_NONE && pd_link_live(&c->link[link]) && !c->link[link].suspect;
}

/* More than one item with its seal can carry. */
static bool is_long(uint64_t from, uint64_t to) {
    return to > from + PD_PIECE_MAX;
}

/* ---- what a link is sent ---- */

bool pd_tree_pushes(const pd_core *c, const pd_link *l, uint32_t index) {
    bool own = pd_is_own(c, index);
    const pd_log *log = &c->author[index / PD_STREAMS].log[index % PD_STREAMS];
    if (l->compare || l->observer || (own && log->v.void_at != PD_VOID_NEVER) ||
        (l->log[index].flags & PD_WAITS))
        return false;
    return (l->log[index].flags & PD_EAGER) || (c->view.mesh && own);
}

void pd_tree_due(pd_core *c, pd_link *l, uint32_t index) {
    const pd_link_log *ll = &l->log[index];
    if (!(ll->flags & PD_SERVE) && !pd_tree_pushes(c, l, index))
        return;
    if (ll->peer >= pd_log_at_index(c, index)->chain.n && !(ll->flags & PD_SERVE))
        return;
    pd_set_add(l->due, index);
    l->want = true;
}

void pd_tree_begin(pd_core *c, pd_link *l) {
    for (uint32_t i = 0; i < pd_logs(c); i++) {
        pd_link_log *ll = &l->log[i];
        if (pd_is_own(c, i) && is_long(ll->peer, pd_log_at_index(c, i)->chain.n))
            ll->flags |= PD_WAITS;
        pd_tree_due(c, l, i);
    }
}

/* ---- when to repair ---- */

void pd_tree_look(pd_core *c, uint32_t index, uint64_t ms) {
    pd_log_at_index(c, index)->pull_ms = ms;
    if (ms < c->repair_ms)
        c->repair_ms = ms;
}

/* T_rep: what the tree takes longer than the telling, as measured. */
static uint64_t repair_wait(const pd_core *c) {
    if (c->conf.repair_ms)
        return c->conf.repair_ms;
    uint64_t ms = c->gap_ms ? c->gap_ms + 4 * (uint64_t)c->gap_var_ms : PD_REPAIR_MS;
    uint64_t least = PD_REPAIR_LEAST_MS + 2 * pd_view_frame_ms(c, NULL);
    return ms < least ? least : ms > PD_REPAIR_MOST_MS ? PD_REPAIR_MOST_MS : ms;
}

static void measure_gap(pd_core *c, uint64_t ms) {
    uint32_t gap = (uint32_t)(ms > PD_REPAIR_MOST_MS ? PD_REPAIR_MOST_MS : ms);
    if (!c->gap_ms) {
        c->gap_ms = gap + 1;
        c->gap_var_ms = gap / 2;
        return;
    }
    uint32_t off = gap > c->gap_ms ? gap - c->gap_ms : c->gap_ms - gap;
    c->gap_var_ms = (3 * c->gap_var_ms + off) / 4;
    c->gap_ms = (7 * c->gap_ms + gap + 1) / 8;
}

bool pd_tree_is_stale(const pd_core *c, uint32_t index) {
    const pd_log *log = &c->author[index / PD_STREAMS].log[index % PD_STREAMS];
    return c->now >= log->grown_ms + PD_DEAD_MS + 2 * pd_own_seal_ms(c);
}

/* Is it on its way already, so that only what is long in coming is asked for? */
static bool is_coming(const pd_core *c, uint32_t index) {
    const pd_author_state *a = &c->author[index / PD_STREAMS];
    if (pd_is_own(c, index))
        return false;
    if (c->view.mesh)
        for (unsigned i = 0; i < PD_LINKS_MAX; i++)
            if (c->link[i].session && c->link[i].member == a->member && pd_link_live(&c->link[i]))
                return true;
    return is_live(c, a->log[index % PD_STREAMS].parent) &&
           (c->view.mesh || !pd_tree_is_stale(c, index));
}

void pd_tree_lacks(pd_core *c, pd_link *l, uint32_t index) {
    pd_log *log = pd_log_at_index(c, index);
    uint64_t wait = pd_is_own(c, index)   ? 0
                    : is_coming(c, index) ? repair_wait(c)
                    : c->view.mesh        ? 0
                                          : PD_GRAFT_MS;
    bool author = l->member == c->author[index / PD_STREAMS].member;
    if (author && !l->vv_in && is_long(log->chain.n, log->goal))
        wait = 0; /* it begins with this session, and does not send that much unasked */
    if (c->conf.observer && !wait)
        wait = PD_LAZY_MS;
    if (l->compare && !pd_is_own(c, index))
        wait = PD_REPAIR_MOST_MS; /* our links should tell of it too */
    if (log->pull == PD_NONE && (log->told_ms == c->now || c->now + wait < log->pull_ms))
        pd_tree_look(c, index, c->now + wait);
}

void pd_tree_close_pull(pd_core *c, uint32_t index) {
    pd_log *log = pd_log_at_index(c, index);
    if (log->pull == PD_NONE)
        return;
    log->last = log->pull;
    c->link[log->pull].pulls--;
    log->pull = PD_NONE;
    c->repairs--;
}

void pd_tree_ask(pd_link *l, uint32_t index, uint16_t flags) {
    l->log[index].flags |= flags;
    pd_set_add(l->ask, index);
    l->want = true;
}

/* We hang on this link from now on; what goes down it is not sent up. */
static void hang_on(pd_core *c, pd_link *l, uint32_t index) {
    pd_log_at_index(c, index)->parent = pd_link_index(c, l);
    l->log[index].flags &= (uint16_t) ~(PD_EAGER | PD_PRUNE);
}

/* ---- repair ---- */

static bool may_serve(const pd_core *c, const pd_link *l, uint32_t index) {
    const pd_log *log = &c->author[index / PD_STREAMS].log[index % PD_STREAMS];
    const pd_link_log *ll = &l->log[index];
    return pd_link_live(l) && l->vv_in && !l->suspect && !(ll->flags & (PD_BAD | PD_BASED)) &&
           ll->peer > log->chain.n && (!l->compare || pd_is_own(c, index));
}

/* Not the one that was asked last, if there is another; the one with the fewest open pulls; the one
 * that holds most. */
static pd_link *choose(pd_core *c, uint32_t index) {
    const pd_log *log = pd_log_at_index(c, index);
    pd_link *best = NULL;
    bool best_other = false;
    for (unsigned i = 0; i < PD_LINKS_MAX; i++) {
        pd_link *l = &c->link[i];
        if (!pd_link_used(c, i) || !may_serve(c, l, index))
            continue;
        bool other = i != log->last;
        bool better = !best || other > best_other ||
                      (other == best_other &&
                       (l->pulls < best->pulls ||
                        (l->pulls == best->pulls && l->log[index].peer > best->log[index].peer)));
        if (better) {
            best = l;
            best_other = other;
        }
    }
    return best;
}

/* The link asked is busy answering: it will come to this log. */
static bool is_served(pd_core *c, pd_log *log) {
    return log->pull != PD_NONE && pd_link_live(&c->link[log->pull]) &&
           c->link[log->pull].answer_ms + PD_REPAIR_LEAST_MS > c->now &&
           c->link[log->pull].pulls > 1;
}

/* Stages in use, and those that open pulls will need. */
static uint32_t stages(pd_core *c) {
    uint32_t n = 0, end = pd_logs(c);
    for (unsigned i = 0; i < PD_STAGES; i++)
        n += c->stage[i].log != PD_NONE;
    for (uint32_t i = pd_set_next(c->lack, 0, end); i < end; i = pd_set_next(c->lack, i + 1, end)) {
        const pd_log *log = pd_log_at_index(c, i);
        n += log->pull != PD_NONE && is_long(log->chain.n, log->goal) && !pd_stage_find(c, i);
    }
    return n;
}

/* May it be asked for now?  A log that takes a stage only if there is one. */
static bool may_ask(pd_core *c, uint32_t index) {
    const pd_log *log = pd_log_at_index(c, index);
    return log->pull != PD_NONE || !is_long(log->chain.n, log->goal) || pd_stage_find(c, index) ||
           stages(c) < PD_STAGES;
}

static void repair(pd_core *c, uint32_t index) {
    pd_log *log = pd_log_at_index(c, index);
    if (c->conf.hold && index % PD_STREAMS == PD_STREAM_GRADIENTS && !pd_is_own(c, index)) {
        pd_tree_look(c, index, PD_NEVER);
        return;
    }
    if (!may_ask(c, index)) {
        pd_tree_look(c, index, c->now + PD_REPAIR_LEAST_MS / 2);
        return;
    }
    if (is_served(c, log)) {
        pd_tree_look(c, index, c->now + PD_REPAIR_LEAST_MS);
        return;
    }
    pd_tree_close_pull(c, index); /* what was open has had its time */
    bool room = c->repairs < PD_REPAIRS_MAX || PD_BUG(PD_BUG_NO_PATIENCE);
    pd_link *l = room ? choose(c, index) : NULL;
    if (!l) { /* later; or whoever told of it is gone, and the next session tells again */
        pd_tree_look(c, index, c->now + PD_REPAIR_LEAST_MS / 2);
        return;
    }
    bool gap = is_long(log->chain.n, log->goal);
    uint64_t least = gap ? PD_LONG_MS : repair_wait(c), backoff = 2 * (uint64_t)log->backoff_ms;
    log->backoff_ms = (uint32_t)(backoff < least              ? least
                                 : backoff > PD_REPAIR_MAX_MS ? PD_REPAIR_MAX_MS
                                                              : backoff);
    if (PD_BUG(PD_BUG_NO_PATIENCE))
        log->backoff_ms = 50;
    bool coming = is_coming(c, index);
    log->late = (uint8_t)(log->late + (log->late < 255));
    bool graft = !c->conf.observer && !pd_is_own(c, index) &&
                 (log->late >= PD_GRAFT_TRIES || (!coming && !c->view.mesh));
    log->pull = pd_link_index(c, l);
    l->pulls++;
    c->repairs++;
    pd_tree_look(c, index, c->now + log->backoff_ms);
    if (graft)
        hang_on(c, l, index);
    pd_tree_ask(l, index, graft ? PD_ASK | PD_GRAFT : PD_ASK);
}

void pd_tree_tick(pd_core *c) {
    if (c->now >= c->repair_ms) {
        uint32_t end = pd_logs(c);
        uint64_t next = PD_NEVER;
        c->repair_ms = PD_NEVER;
        for (uint32_t i = pd_set_next(c->lack, 0, end); i < end;
             i = pd_set_next(c->lack, i + 1, end)) {
            if (c->now >= pd_log_at_index(c, i)->pull_ms)
                repair(c, i);
            uint64_t ms = pd_log_at_index(c, i)->pull_ms;
            next = ms < next ? ms : next;
        }
        c->repair_ms = next;
    }
    pd_wake_at(c, c->repair_ms);
}

/* ---- what arrives ---- */

/* Is this the late answer to a pull that is not open any more?  Then it says nothing of a tree. */
static bool is_late_answer(pd_log *log, uint16_t link) {
    bool late = log->last == link && log->parent != link;
    if (late)
        log->last = PD_NONE;
    return late;
}

void pd_tree_arrived(pd_core *c, pd_link *l, uint32_t index) {
    pd_log *log = pd_log_at_index(c, index);
    uint16_t link = pd_link_index(c, l);
    if (log->pull == link) {
        l->answer_ms = c->now;
        if (!c->view.mesh && log->parent != link && is_live(c, log->parent)) {
            /* It need not send this any more, and may lack it itself. */
            pd_set_add(c->link[log->parent].tell, index);
            c->link[log->parent].heads_ms = c->now;
        }
        return;
    }
    if (pd_is_own(c, index) || l->compare || is_late_answer(log, link))
        return;
    /* Also where it overtook a pull from elsewhere: the pull was too early, and if that did not
     * count, pulls would race with the trees for ever. */
    if (log->told_ms && !pd_tree_is_stale(c, index))
        measure_gap(c, c->now - log->told_ms);
    log->late = 0;
    hang_on(c, l, index);
}

void pd_tree_staged(pd_core *c, pd_link *l, uint32_t index) {
    pd_log *log = pd_log_at_index(c, index);
    if (log->pull == pd_link_index(c, l)) {
        l->answer_ms = c->now;
        pd_tree_look(c, index, c->now + log->backoff_ms);
    } else if (log->pull == PD_NONE) {
        pd_tree_look(c, index, c->now + PD_REPAIR_MS); /* it comes unasked: no reason to ask */
    }
}

void pd_tree_caught_up(pd_core *c, pd_link *l, uint32_t index) {
    const pd_author_state *a = &c->author[index / PD_STREAMS];
    for (unsigned i = 0; i < PD_LINKS_MAX && c->view.mesh && l->member != a->member; i++)
        if (pd_link_live(&c->link[i]) && c->link[i].member == a->member && c->link[i].vv_in)
            pd_tree_ask(&c->link[i], index, PD_ASK);
}

void pd_tree_duplicate(pd_core *c, pd_link *l, uint32_t index) {
    pd_log *log = pd_log_at_index(c, index);
    const pd_author_state *a = &c->author[index / PD_STREAMS];
    uint16_t link = pd_link_index(c, l);
    l->duplicates++;
    if (log->parent == link || l->compare || pd_is_own(c, index) || is_late_answer(log, link))
        return;
    if (!is_live(c, log->parent)) {
        hang_on(c, l, index);
        return;
    }
    pd_link *out = l; /* the author's own link is the shortest way */
    if (l->member == a->member) {
        out = &c->link[log->parent];
        hang_on(c, l, index);
    }
    out->log[index].flags &= (uint16_t)~PD_EAGER;
    pd_tree_ask(out, index, PD_PRUNE);
}

/* PULL or GRAFT. */
void pd_tree_pull(pd_core *c, pd_link *l, const pd_item *it, uint64_t ack) {
    uint32_t index = pd_alias_log(c, l, it->u.pull.log);
    if (index == PD_NONE)
        return;
    pd_log *log = pd_log_at_index(c, index);
    pd_link_log *ll = &l->log[index];
    uint32_t from = (uint32_t)it->u.pull.from;
    if (from < log->base) {
        pd_prefix_refuse(l, index);
        return;
    }
    if (it->kind == PD_ITEM_GRAFT && !l->compare) {
        ll->flags |= PD_EAGER;
        if (log->parent == pd_link_index(c, l))
            log->parent = PD_NONE; /* it hangs on us: we cannot hang on it */
        if (ll->peer < log->chain.n)
            pd_tree_due(c, l, index);
    }
    if (from < log->held && log->held - from > it->u.pull.limit)
        return;
    ll->flags &= (uint16_t)~PD_WAITS;
    if (from >= log->held) { /* it has had this much of somebody else */
        ll->sent = (uint32_t)log->held;
        return;
    }
    if (from < ll->sent && ack < ll->mark)
        return; /* it asked before it saw what is on its way */
    ll->sent = from;
    ll->flags |= PD_SERVE;
    pd_tree_due(c, l, index);
}

void pd_tree_prune(pd_core *c, pd_link *l, uint32_t theirs) {
    uint32_t index = pd_alias_log(c, l, theirs);
    if (index != PD_NONE)
        l->log[index].flags &= (uint16_t)~PD_EAGER;
}

/* ---- a link is gone ---- */

/* Another link for a tree: the one whose peer holds most, if that is more than we hold; it does not
 * hang on the lost branch, as others near us may.  With none the log waits until somebody tells of
 * more: a GRAFT on a peer that is as cut off as we are makes circles, and circles make copies. */
static pd_link *foster(pd_core *c, const pd_link *gone, uint32_t index) {
    uint64_t most = pd_log_at_index(c, index)->chain.n;
    pd_link *best = NULL;
    for (unsigned i = 0; i < PD_LINKS_MAX; i++) {
        pd_link *l = &c->link[i];
        if (l == gone || !pd_link_used(c, i) || !pd_link_live(l) || !l->vv_in || l->suspect ||
            l->compare || l->observer || (l->log[index].flags & (PD_EAGER | PD_BAD | PD_BASED)))
            continue;
        if (l->log[index].peer > most) {
            most = l->log[index].peer;
            best = l;
        }
    }
    return best;
}

static void lost(pd_core *c, pd_link *l, uint32_t index) {
    pd_log *log = pd_log_at_index(c, index);
    uint64_t goal = log->chain.n; /* what only the lost peer told of is not known to be anywhere */
    bool ours = log->parent == pd_link_index(c, l);
    bool closed = pd_log_is_closed(log);
    for (unsigned k = 0; k < PD_LINKS_MAX && !closed; k++)
        if (&c->link[k] != l && pd_link_used(c, k) && pd_link_live(&c->link[k]) &&
            c->link[k].log[index].peer > goal)
            goal = c->link[k].log[index].peer;
    log->goal = goal;
    if (goal == log->chain.n)
        pd_set_remove(c->lack, index);
    if (log->pull == pd_link_index(c, l)) {
        pd_tree_close_pull(c, index);
        log->last = PD_NONE;
        log->backoff_ms = 0;
        pd_tree_look(c, index, c->now);
    }
    if (log->last == pd_link_index(c, l))
        log->last = PD_NONE;
    if (!ours)
        return;
    log->parent = PD_NONE;
    if (c->view.mesh || c->conf.observer || closed)
        return;
    if (is_long(log->chain.n, log->goal)) {
        pd_tree_look(c, index, c->now);
        return;
    }
    pd_link *other = foster(c, l, index);
    if (!other)
        return;
    hang_on(c, other, index);
    pd_tree_ask(other, index, PD_ASK | PD_GRAFT);
}

void pd_tree_lost(pd_core *c, pd_link *l) {
    if (!l->log || !l->hello_in)
        return; /* nothing hangs on it yet */
    for (uint32_t i = 0; i < pd_logs(c); i++)
        lost(c, l, i);
}

/* ---- asking ---- */

static bool put_pull(pd_core *c, pd_link *l, pd_writer *w, uint32_t index) {
    const pd_stage *st = pd_stage_find(c, index);
    pd_link_log *ll = &l->log[index];
    const pd_log *log = pd_log_at_index(c, index);
    uint64_t n = log->chain.n, end = st && st->base <= n ? st->base + st->have : 0;
    pd_item it = {.kind = ll->flags & PD_GRAFT ? PD_ITEM_GRAFT : PD_ITEM_PULL};
    it.u.pull.log = pd_alias_number(l, index);
    it.u.pull.limit = c->store.room ? PD_LOG_BYTES_MAX : c->conf.stage_bytes;
    it.u.pull.from = ll->flags & PD_ASK_ALL ? 0 : end > n ? end : n;
    if (!pd_frame_put(w, &it))
        return false;
    ll->flags &= (uint16_t) ~(PD_ASK | PD_ASK_ALL | PD_GRAFT);
    if (log->pull == pd_link_index(c, l)) /* a full link may have kept it: patience begins now */
        pd_tree_look(c, index, c->now + log->backoff_ms);
    return true;
}

bool pd_tree_put(pd_core *c, pd_link *l, pd_writer *w) {
    uint32_t end = pd_logs(c);
    for (uint32_t i = pd_set_next(l->ask, 0, end); i < end; i = pd_set_next(l->ask, i + 1, end)) {
        pd_link_log *ll = &l->log[i];
        if (!pd_alias_announce(c, l, w, i / PD_STREAMS))
            return false;
        bool came = ll->peer <= pd_log_at_index(c, i)->chain.n; /* meanwhile, from elsewhere */
        if (came && !(ll->flags & (PD_GRAFT | PD_ASK_ALL)))
            ll->flags &= (uint16_t)~PD_ASK;
        if ((ll->flags & (PD_ASK | PD_ASK_ALL)) && !put_pull(c, l, w, i))
            return false;
        if (!pd_prefix_put_base(c, l, w, i))
            return false;
        pd_item prune = {.kind = PD_ITEM_PRUNE, .u.prune = pd_alias_number(l, i)};
        if ((ll->flags & PD_PRUNE) && !pd_frame_put(w, &prune))
            return false;
        ll->flags &= (uint16_t)~PD_PRUNE;
        pd_set_remove(l->ask, i);
    }
    return true;
}
