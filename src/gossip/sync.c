/* sync.c - segments: what is taken into a log, and what a log under our own name proves.
 *
 * Bytes count when a member's seal covers them and everything before them.  Which link they come
 * over is tree.c's business, who is told of them heads.c's.
 */
#include "state.h"

#include "peerd/digest.h"

#include <assert.h>

void pd_sync_enough(pd_core *c, uint32_t index) {
    pd_log *log = pd_log_at_index(c, index);
    pd_stage *st = pd_stage_find(c, index);
    pd_tree_close_pull(c, index);
    log->goal = log->chain.n;
    log->told_ms = 0;
    pd_set_remove(c->lack, index);
    if (st)
        pd_stage_drop(c, st);
}

void pd_log_grown(pd_core *c, uint32_t index, const pd_chain *chain) {
    pd_log *log = pd_log_at_index(c, index);
    pd_author_state *a = &c->author[index / PD_STREAMS];
    uint64_t n = chain->n;
    assert(n > log->counted && n == log->chain.n);
    bool first = log->counted == 0;
    pd_verdict_grown(c, index, chain);
    if (first)
        pd_alias_proven(c, (uint16_t)(index / PD_STREAMS));
    /* No tree has brought it here, so perhaps none brings it to the others. */
    bool mended = log->pull != PD_NONE && pd_tree_is_stale(c, index);
    c->member[a->member].heard_ms = c->grown_ms = log->grown_ms = c->now;
    c->member[a->member].lost = false;
    if (log->goal <= n) {
        log->goal = n;
        log->told_ms = 0;
        pd_set_remove(c->lack, index);
    }
    if (log->pull != PD_NONE && n >= c->link[log->pull].log[index].peer) {
        pd_tree_close_pull(c, index);
        log->backoff_ms = 0;
        pd_tree_look(c, index, c->now); /* for what others may have beyond */
    }
    for (unsigned i = 0; i < PD_LINKS_MAX; i++) {
        pd_link *l = &c->link[i];
        if (!pd_link_used(c, i) || !pd_link_live(l))
            continue;
        l->log[index].flags &= (uint16_t)~PD_BASED; /* perhaps it reaches down to us now */
        if (l->compare || l->log[index].peer >= n)
            continue;
        if (pd_tree_pushes(c, l, index)) {
            pd_tree_due(c, l, index);
        } else if (l->member != a->member) {
            pd_set_add(l->tell, index);
            if (mended)
                l->heads_ms = c->now;
            else if (!l->heads_ms)
                l->heads_ms = c->now + pd_heads_wait(c, l);
        }
    }
}

/* ---- segments ---- */

typedef struct segment {
    uint64_t start, end;
    const uint8_t *bytes, *seal;
} segment;

/* Add bytes to a copy of a chain and check the seal over the result. */
static bool verifies(pd_core *c, uint32_t index, pd_chain *chain, const uint8_t *bytes, size_t n,
                     const uint8_t seal[64]) {
    const pd_author *id = &c->author[index / PD_STREAMS].id;
    uint8_t msg[PD_SEAL_MESSAGE_BYTES];
    pd_chain_add(chain, bytes, n);
    pd_seal_message(chain, c->conf.run, id, (uint8_t)(index % PD_STREAMS), msg);
    return c->crypto.verify(c->crypto.ctx, id->key, msg, sizeof msg, seal) ||
           PD_BUG(PD_BUG_NO_SEAL);
}

/* Bytes [n, chain->n) are verified: they are ours now. */
static void take_in(pd_core *c, pd_link *l, uint32_t index, const pd_chain *chain,
                    const uint8_t *bytes, const uint8_t seal[64]) {
    pd_author_state *a = &c->author[index / PD_STREAMS];
    pd_log *log = pd_log_at_index(c, index);
    if (pd_is_own(c, index) &&
        !pd_own_adopt(c, (uint16_t)(index / PD_STREAMS), (uint8_t)(index % PD_STREAMS)))
        return;
    pd_action *act = pd_emit(c, PD_ACT_STORE);
    act->author = a->id;
    act->stream = (uint8_t)(index % PD_STREAMS);
    act->at = log->chain.n;
    act->p = bytes;
    act->n = (size_t)(chain->n - log->chain.n);
    memcpy(act->seal, seal, 64);
    memcpy(log->chain.c, chain->c, sizeof log->chain.c);
    log->chain.n = chain->n;
    c->fresh[c->n_fresh++] = index;
    pd_tree_arrived(c, l, index);
    pd_log_grown(c, index, chain);
}

/* The seal does not cover these bytes after ours: the sender lies or the author wrote two logs.
 * Nobody is punished for what another may have done; this log is not asked for here again, and if
 * it is the author itself, it is shown once what we hold instead, from the start, so that it can
 * find its own double.
 */
static void refuse(pd_core *c, pd_link *l, uint32_t index) {
    pd_link_log *ll = &l->log[index];
    pd_log *log = pd_log_at_index(c, index);
    char key[9], from[9];
    c->bad_seals++;
    if (pd_is_own(c, index) &&
        !(ll->flags & PD_SHOWN)) { /* our own: let it prove that there is another */
        ll->flags |= PD_SHOWN;
        pd_tree_ask(l, index, PD_ASK_ALL);
        return;
    }
    ll->flags |= PD_BAD;
    if (log->pull == pd_link_index(c, l)) {
        pd_tree_close_pull(c, index);
        pd_tree_look(c, index, c->now);
    }
    if (log->parent == pd_link_index(c, l))
        log->parent = PD_NONE;
    if (!pd_is_own(c, index))
        pd_fork_suspect(c, l, index);
    if (!l->session)
        return; /* that was one too many */
    pd_note(c, PD_LOG_WARN, "a seal of %s from %s does not cover its bytes; they are not taken",
            pd_short(c->author[index / PD_STREAMS].id.key, key), pd_short(l->key, from));
    bool whole = !log->base;
    if (l->member == c->author[index / PD_STREAMS].member && !(ll->flags & PD_SHOWN) && whole) {
        ll->flags |= PD_SHOWN | PD_SERVE;
        ll->sent = 0;
        pd_tree_due(c, l, index);
    }
}

/* Pieces of a long range: keep them; with the seal, check the whole. */
static void add_piece(pd_core *c, pd_link *l, uint32_t index, const segment *s) {
    pd_log *log = pd_log_at_index(c, index);
    pd_stage *st =
        pd_stage_add(c, l, index, log->chain.n, s->start, s->bytes, (size_t)(s->end - s->start));
    if (!st)
        return; /* no room or a gap: it will be pulled again */
    pd_tree_staged(c, l, index);
    pd_chain chain;
    if (!s->seal || s->end <= log->chain.n || !pd_chain_of(c, index, &chain))
        return;
    const uint8_t *from = st->bytes + (log->chain.n - st->base);
    bool mixed = st->link == PD_NONE;
    st->done = true; /* its bytes stay where they are until the next step */
    if (verifies(c, index, &chain, from, (size_t)(s->end - log->chain.n), s->seal)) {
        take_in(c, l, index, &chain, from, s->seal);
        pd_tree_caught_up(c, l, index);
    } else if (mixed)
        pd_tree_look(c, index,
                     c->now); /* nobody knows whose bytes were wrong: once more, from one peer */
    else
        refuse(c, l, index);
}

/* ---- our own log, seen elsewhere ---- */

/* Do bytes [start, end) with end <= n equal what the ledger holds? */
static bool same_as_ours(pd_core *c, uint32_t index, uint64_t start, uint64_t end,
                         const uint8_t *bytes) {
    size_t n = (size_t)(end - start);
    assert(n <= sizeof c->piece);
    size_t got = c->store.read(c->store.ctx, &c->author[index / PD_STREAMS].id,
                               (uint8_t)(index % PD_STREAMS), start, c->piece, n);
    return got == n && !memcmp(c->piece, bytes, n);
}

static bool differs_from_ours(pd_core *c, uint32_t index, const uint8_t *bytes, uint64_t n) {
    for (uint64_t at = 0; at < n; at += PD_PIECE_MAX) {
        uint64_t end = n - at < PD_PIECE_MAX ? n : at + PD_PIECE_MAX;
        if (!same_as_ours(c, index, at, end, bytes + at))
            return true;
    }
    return false;
}

/* A whole log from its first byte: another one than ours if its seal holds. */
static void judge_own(pd_core *c, pd_link *l, uint32_t index, const uint8_t *bytes, size_t n,
                      const uint8_t seal[64]) {
    const pd_log *log = pd_log_at_index(c, index);
    pd_chain chain;
    pd_chain_init(&chain, c->conf.run, &c->author[index / PD_STREAMS].id,
                  (uint8_t)(index % PD_STREAMS));
    if (!verifies(c, index, &chain, bytes, n, seal)) {
        c->bad_seals++;
        l->log[index].flags |= PD_BAD;
    } else if (differs_from_ours(c, index, bytes, n < log->held ? n : log->held)) {
        l->log[index].flags |= PD_BAD;
        pd_own_conflict(c, (uint16_t)(index / PD_STREAMS));
        pd_fork_suspect(c, l, index); /* perhaps nobody but us holds our branch */
    } else if (n > log->chain.n && log->held == log->chain.n) {
        take_in(c, l, index, &chain, bytes + log->held, seal);
    }
}

/* Not what we wrote.  A proof needs all of it, from the first byte: begin with this piece, or ask,
 * once a session. */
static void suspect_own(pd_core *c, pd_link *l, uint32_t index, const segment *s) {
    pd_link_log *ll = &l->log[index];
    pd_stage *st = pd_stage_find(c, index);
    if (st && st->base > 0)
        pd_stage_drop(c, st);
    st = pd_stage_add(c, l, index, 0, s->start, s->bytes, (size_t)(s->end - s->start));
    if (st && s->seal) {
        st->done = true;
        judge_own(c, l, index, st->bytes, (size_t)s->end, s->seal);
    } else if (!st && !(ll->flags & PD_SHOWN)) {
        ll->flags |= PD_SHOWN;
        pd_tree_ask(l, index, PD_ASK_ALL);
    }
}

/* May this segment of our own log be taken like anybody's, because it goes on behind what we hold?
 */
static bool own_goes_on(pd_core *c, pd_link *l, uint32_t index, const segment *s) {
    const pd_log *log = pd_log_at_index(c, index);
    const pd_stage *st = pd_stage_find(c, index);
    uint64_t n = log->held, common = s->end < n ? s->end : n;
    if (l->log[index].flags & PD_BAD)
        return false;
    if (n == 0 || n < log->chain.n)
        return true;
    bool shown = !s->seal && s->start == 0 && s->end <= n; /* a peer shows us its version */
    bool ours = s->start >= common || same_as_ours(c, index, s->start, common, s->bytes);
    if (!shown && ours && !(st && st->base == 0)) {
        if (!s->seal || s->end <= n || s->start > n || st)
            return true;
        pd_chain chain;
        if (!pd_chain_of(c, index, &chain))
            return false;
        if (verifies(c, index, &chain, s->bytes + (n - s->start), (size_t)(s->end - n), s->seal))
            return true;
    }
    suspect_own(c, l, index, s);
    return false;
}

void pd_sync_segment(pd_core *c, pd_link *l, uint32_t index, uint64_t start, const pd_item *it) {
    pd_log *log = pd_log_at_index(c, index);
    pd_link_log *ll = &l->log[index];
    segment s = {start, start + it->u.seg.count, it->u.seg.bytes, it->u.seg.seal};
    pd_heads_note(c, l, index, s.end);
    if (pd_is_own(c, index) && !own_goes_on(c, l, index, &s))
        return;
    if (s.start < log->chain.n)
        c->duplicate_bytes += (s.end < log->chain.n ? s.end : log->chain.n) - s.start;
    if (s.end <= log->chain.n) {
        c->duplicates++;
        pd_tree_duplicate(c, l, index);
        return;
    }
    if ((ll->flags & PD_BAD) || pd_log_is_closed(log) || (s.seal && !pd_budget(c, l, 1)))
        return;
    if (!s.seal || s.start > log->chain.n || pd_stage_find(c, index)) {
        add_piece(c, l, index, &s);
        return;
    }
    pd_chain chain;
    if (!pd_chain_of(c, index, &chain))
        return; /* twice in one frame: it will be pulled */
    const uint8_t *from = s.bytes + (log->chain.n - s.start);
    if (verifies(c, index, &chain, from, (size_t)(s.end - log->chain.n), s.seal))
        take_in(c, l, index, &chain, from, s.seal);
    else
        refuse(c, l, index);
}
