/* sync.c - which bytes are where: heads, pulls, segments taken in.
 *
 * An author sends its own new bytes to every link at once; everybody else's are told of by HEADS,
 * lazily, and pulled. SUMMARY and VV are the backstop that makes the rest an optimisation.  A log
 * has at most one open pull, all logs together at most 64; a pull that brings nothing is tried
 * elsewhere, ever later.
 */
#include "state.h"

#include "peerd/digest.h"

#include <assert.h>

/* ---- heads ---- */

static void close_pull(pd_core *c, pd_log *log) {
    if (log->pull == PD_NONE)
        return;
    log->last = log->pull;
    log->pull = PD_NONE;
    c->repairs--;
}

void pd_sync_enough(pd_core *c, uint32_t index) {
    pd_log *log = pd_log_at_index(c, index);
    pd_stage *st = pd_stage_find(c, index);
    close_pull(c, log);
    log->goal = log->chain.n;
    if (st)
        st->log = PD_NONE;
}

void pd_log_grown(pd_core *c, uint32_t index, const pd_chain *chain) {
    pd_log *log = pd_log_at_index(c, index);
    pd_author_state *a = &c->author[index / PD_STREAMS];
    uint64_t n = chain->n;
    assert(n > log->counted && n == log->chain.n);
    pd_verdict_grown(c, index, chain);
    c->member[a->member].heard_ms = c->now;
    if (log->goal < n)
        log->goal = n;
    if (log->pull != PD_NONE && n >= c->link[log->pull].log[index].peer) {
        close_pull(c, log);
        log->backoff_ms = 0;
        log->pull_ms = c->now; /* for what others may have beyond */
    }
    for (unsigned i = 0; i < PD_SESSIONS_MAX; i++) {
        pd_link *l = &c->link[i];
        if (!pd_link_live(l))
            continue;
        const pd_link_log *ll = &l->log[index];
        if (a->member == c->self)
            l->want = true;
        else if (l->member != a->member && ll->peer < n && ll->told < n && !l->heads_ms)
            l->heads_ms = c->now + pd_jitter(c, PD_LAZY_MS, 25);
    }
}

static void note_head(pd_core *c, pd_link *l, uint32_t index, uint64_t n) {
    pd_log *log = pd_log_at_index(c, index);
    if (n <= l->log[index].peer)
        return;
    l->log[index].peer = n;
    if (n <= log->goal || log->chain.n >= log->v.void_at)
        return;
    /* Where the author is linked it will send; only what is long in coming is asked for. */
    bool coming =
        !pd_is_own(c, index) && pd_link_of(c, c->author[index / PD_STREAMS].member) != NULL;
    uint64_t due = c->now + (coming ? PD_REPAIR_MS : 0);
    if (log->pull == PD_NONE && (log->goal == log->chain.n || due < log->pull_ms))
        log->pull_ms = due;
    log->goal = n;
}

/* A peer's log number as ours, or PD_NONE. */
static uint32_t log_of(pd_core *c, pd_link *l, uint32_t theirs) {
    uint16_t a = pd_alias_author(c, l, theirs / PD_STREAMS);
    return a == PD_NONE ? PD_NONE : (uint32_t)a * PD_STREAMS + theirs % PD_STREAMS;
}

void pd_sync_heads(pd_core *c, pd_link *l, const pd_item *it) {
    pd_heads_walk w;
    pd_head h;
    pd_heads_begin(it, &w);
    while (pd_heads_next(&w, &h)) {
        uint32_t log = log_of(c, l, h.log);
        if (log != PD_NONE)
            note_head(c, l, log, h.n);
    }
    if (it->kind != PD_ITEM_VV)
        return;
    l->vv_in = true;
    l->want = true;
    if (it->u.heads.want && (!l->vv_out || c->now >= l->vv_ms + 1000))
        l->vv_due = true;
}

void pd_sync_summary(pd_core *c, pd_link *l, uint64_t vv_hash, uint64_t total, bool hello) {
    if (vv_hash != c->vv_hash || total != c->total) {
        if (hello || c->now >= l->vv_ms + PD_LAZY_MS)
            l->vv_due = l->vv_want = l->want = true;
        if (l->vv_in)
            pd_fork_compare(c, l, total == c->total);
        return;
    }
    for (uint32_t i = 0; i < c->n_authors * PD_STREAMS; i++) {
        pd_link_log *ll = &l->log[i];
        uint64_t n = pd_log_at_index(c, i)->chain.n;
        ll->peer = ll->peer > n ? ll->peer : n;
        ll->told = ll->told > n ? ll->told : n;
    }
    l->vv_in = true;
}

void pd_sync_admitted(pd_core *c, const uint8_t key[32]) {
    for (unsigned i = 0; i < PD_SESSIONS_MAX; i++) {
        pd_link *l = &c->link[i];
        if (!pd_link_live(l))
            continue;
        for (unsigned k = 0; k < PD_AUTHORS_MAX; k++)
            if (!memcmp(l->alias[k].key, key, 32))
                l->vv_due = l->vv_want = l->want = true;
    }
}

/* ---- pulls ---- */

void pd_sync_pull(pd_core *c, pd_link *l, const pd_item *it, uint64_t ack) {
    uint32_t index = log_of(c, l, it->u.pull.log);
    if (index == PD_NONE)
        return;
    const pd_log *log = pd_log_at_index(c, index);
    pd_link_log *ll = &l->log[index];
    uint64_t from = it->u.pull.from;
    if (from >= log->held || log->held - from > it->u.pull.limit)
        return;
    if (from < ll->sent && ack < ll->mark)
        return; /* it asked before it saw what is on its way */
    ll->sent = from;
    ll->serve = true;
    l->want = true;
}

static pd_link *choose(pd_core *c, uint32_t index) {
    const pd_log *log = pd_log_at_index(c, index);
    pd_link *best = NULL;
    for (unsigned i = 0; i < PD_SESSIONS_MAX; i++) {
        pd_link *l = &c->link[i];
        const pd_link_log *ll = &l->log[index];
        if (!pd_link_live(l) || !l->vv_in || l->suspect || ll->bad || ll->peer <= log->chain.n)
            continue;
        if (ll->peer - log->chain.n > c->conf.stage_bytes)
            continue; /* longer than what can be held unsealed */
        bool other = i != log->last, best_other = best && pd_link_index(c, best) != log->last;
        if (!best || other > best_other ||
            (other == best_other && ll->peer > best->log[index].peer))
            best = l;
    }
    return best;
}

static void repair(pd_core *c, uint32_t index) {
    pd_log *log = pd_log_at_index(c, index);
    if (c->now < log->pull_ms) {
        pd_wake_at(c, log->pull_ms);
        return;
    }
    close_pull(c, log); /* what was open has had its time */
    if (c->repairs >= PD_REPAIRS_MAX)
        return;
    pd_link *l = choose(c, index);
    if (!l)
        return; /* whoever told of it is gone; the next session tells again */
    uint32_t twice = log->backoff_ms * 2;
    log->backoff_ms = twice < PD_REPAIR_MS       ? PD_REPAIR_MS
                      : twice > PD_REPAIR_MAX_MS ? PD_REPAIR_MAX_MS
                                                 : twice;
    log->pull = pd_link_index(c, l);
    log->pull_ms = c->now + log->backoff_ms;
    c->repairs++;
    l->log[index].ask = true;
    l->want = true;
    pd_wake_at(c, log->pull_ms);
}

void pd_sync_tick(pd_core *c) {
    for (uint32_t i = 0; i < c->n_authors * PD_STREAMS; i++)
        if (pd_log_at_index(c, i)->goal > pd_log_at_index(c, i)->chain.n)
            repair(c, i);
    for (unsigned i = 0; i < PD_SESSIONS_MAX; i++) {
        pd_link *l = &c->link[i];
        if (!pd_link_live(l) || !l->vv_in)
            continue;
        if (l->heads_ms && c->now >= l->heads_ms)
            l->want = true;
        else if (l->heads_ms)
            pd_wake_at(c, l->heads_ms);
        if (c->now >= l->sync_ms + PD_SYNC_ALONE_MS - PD_SYNC_MS)
            l->want = true;
        else
            pd_wake_at(c, l->sync_ms + PD_SYNC_ALONE_MS - PD_SYNC_MS);
    }
}

void pd_sync_lost(pd_core *c, const pd_link *l) {
    for (uint32_t i = 0; i < c->n_authors * PD_STREAMS; i++) {
        pd_log *log = pd_log_at_index(c, i);
        log->goal = log->chain.n; /* what only the lost peer told of is not known to be anywhere */
        bool closed = log->chain.n >= log->v.void_at;
        for (unsigned k = 0; k < PD_SESSIONS_MAX && !closed; k++)
            if (&c->link[k] != l && pd_link_live(&c->link[k]) && c->link[k].log[i].peer > log->goal)
                log->goal = c->link[k].log[i].peer;
        if (log->pull != pd_link_index(c, l))
            continue;
        close_pull(c, log);
        log->last = PD_NONE;
        log->backoff_ms = 0;
        log->pull_ms = c->now;
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
static void take_in(pd_core *c, uint32_t index, const pd_chain *chain, const uint8_t *bytes,
                    const uint8_t seal[64]) {
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
    log->chain = *chain;
    c->fresh = true;
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
    if (pd_is_own(c, index) && !ll->shown) { /* our own: let it prove that there is another */
        ll->shown = ll->ask_all = l->want = true;
        return;
    }
    ll->bad = true;
    if (log->pull == pd_link_index(c, l)) {
        close_pull(c, log);
        log->pull_ms = c->now;
    }
    if (!pd_is_own(c, index))
        pd_fork_suspect(c, l, index);
    if (!l->session)
        return; /* that was one too many */
    pd_note(c, PD_LOG_WARN, "a seal of %s from %s does not cover its bytes; they are not taken",
            pd_short(c->author[index / PD_STREAMS].id.key, key), pd_short(l->key, from));
    if (l->member == c->author[index / PD_STREAMS].member && !ll->shown) {
        ll->shown = ll->serve = l->want = true;
        ll->sent = 0;
    }
}

/* Pieces of a long range: keep them; with the seal, check the whole. */
static void add_piece(pd_core *c, pd_link *l, uint32_t index, const segment *s) {
    pd_log *log = pd_log_at_index(c, index);
    pd_stage *st =
        pd_stage_add(c, l, index, log->chain.n, s->start, s->bytes, (size_t)(s->end - s->start));
    if (!st)
        return; /* no room or a gap: it will be pulled again */
    if (log->pull == pd_link_index(c, l))
        log->pull_ms = c->now + log->backoff_ms;
    if (!s->seal || s->end <= log->chain.n)
        return;
    pd_chain chain = log->chain;
    const uint8_t *from = st->bytes + (log->chain.n - st->base);
    bool mixed = st->link == PD_NONE;
    st->done = true; /* its bytes stay where they are until the next step */
    if (verifies(c, index, &chain, from, (size_t)(s->end - log->chain.n), s->seal))
        take_in(c, index, &chain, from, s->seal);
    else if (mixed)
        log->pull_ms = c->now; /* nobody knows whose bytes were wrong: once more, from one peer */
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
        l->log[index].bad = true;
    } else if (differs_from_ours(c, index, bytes, n < log->held ? n : log->held)) {
        l->log[index].bad = true;
        pd_own_conflict(c, (uint16_t)(index / PD_STREAMS));
    } else if (n > log->chain.n && log->held == log->chain.n) {
        take_in(c, index, &chain, bytes + log->held, seal);
    }
}

/* Not what we wrote.  A proof needs all of it, from the first byte: begin with this piece, or ask,
 * once a session. */
static void suspect_own(pd_core *c, pd_link *l, uint32_t index, const segment *s) {
    pd_link_log *ll = &l->log[index];
    pd_stage *st = pd_stage_find(c, index);
    if (st && st->base > 0)
        st->log = PD_NONE;
    st = pd_stage_add(c, l, index, 0, s->start, s->bytes, (size_t)(s->end - s->start));
    if (st && s->seal) {
        st->done = true;
        judge_own(c, l, index, st->bytes, (size_t)s->end, s->seal);
    } else if (!st && !ll->shown) {
        ll->shown = ll->ask_all = l->want = true;
    }
}

/* May this segment of our own log be taken like anybody's, because it goes on behind what we hold?
 */
static bool own_goes_on(pd_core *c, pd_link *l, uint32_t index, const segment *s) {
    const pd_log *log = pd_log_at_index(c, index);
    const pd_stage *st = pd_stage_find(c, index);
    uint64_t n = log->held, common = s->end < n ? s->end : n;
    if (l->log[index].bad)
        return false;
    if (n == 0 || n < log->chain.n)
        return true;
    bool shown = !s->seal && s->start == 0 && s->end <= n; /* a peer shows us its version */
    bool ours = s->start >= common || same_as_ours(c, index, s->start, common, s->bytes);
    if (!shown && ours && !(st && st->base == 0)) {
        if (!s->seal || s->end <= n || s->start > n || st)
            return true;
        pd_chain chain = log->chain;
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
    note_head(c, l, index, s.end);
    if (pd_is_own(c, index) && !own_goes_on(c, l, index, &s))
        return;
    if (s.end <= log->chain.n) {
        c->duplicates++;
        return;
    }
    bool closed = log->chain.n >= log->v.void_at; /* nothing behind a fork is one log */
    if (ll->bad || closed || (s.seal && !pd_budget(c, l, 1)))
        return;
    if (!s.seal || s.start > log->chain.n || pd_stage_find(c, index)) {
        add_piece(c, l, index, &s);
        return;
    }
    pd_chain chain = log->chain;
    const uint8_t *from = s.bytes + (log->chain.n - s.start);
    if (verifies(c, index, &chain, from, (size_t)(s.end - log->chain.n), s.seal))
        take_in(c, index, &chain, from, s.seal);
    else
        refuse(c, l, index);
}
