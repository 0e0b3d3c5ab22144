/* prefix.c - logs that begin at a base: what lies before it is fetched last of all, and whoever
 * asks for it is told that it is not here.
 *
 *   [0, base) not held │ [base, n) held, sealed by its author          base = 1024 j, C_j known
 *
 * C_j has been proven by the author's seal over what follows it, so the bytes before it need no
 * seal and nobody's word: they are right if their chain ends in C_j.  They come in order, one log
 * after the other, at lowest priority, and go on where they stopped, at whoever holds them.
 */
#include "state.h"

#include <assert.h>

void pd_prefix_begin(pd_core *c, pd_log *log, uint64_t base) {
    c->prefix.n_based += (base > 0) - (log->base > 0);
    log->base = base;
}

void pd_prefix_chain(pd_core *c, uint32_t index, pd_chain *out) {
    const pd_author *id = &c->author[index / PD_STREAMS].id;
    const pd_log *log = pd_log_at_index(c, index);
    pd_chain_init(out, c->conf.run, id, (uint8_t)(index % PD_STREAMS));
    if (!log->base)
        return;
    uint64_t base = c->store.base(c->store.ctx, id, out->c);
    assert(base == log->base); /* the ledger holds what it said it holds */
    out->n = base;
}

/* ---- telling ---- */

void pd_prefix_refuse(pd_link *l, uint32_t index) {
    l->log[index].flags |= PD_SAY_BASE;
    pd_set_add(l->ask, index);
    l->want = true;
}

bool pd_prefix_put_base(pd_core *c, pd_link *l, pd_writer *w, uint32_t index) {
    pd_link_log *ll = &l->log[index];
    const pd_log *log = pd_log_at_index(c, index);
    pd_item it = {.kind = PD_ITEM_BASE,
                  .u.pull = {.log = pd_alias_number(l, index), .from = log->base}};
    if (!(ll->flags & PD_SAY_BASE))
        return true;
    if (!pd_frame_put(w, &it))
        return false;
    ll->flags =
        (uint16_t)((ll->flags & ~(PD_SAY_BASE | PD_SAID_BASE)) | (log->base ? PD_SAID_BASE : 0));
    return true;
}

/* It cannot help us here: whoever else told of these bytes can. */
void pd_prefix_based(pd_core *c, pd_link *l, const pd_item *it) {
    uint32_t index = pd_alias_log(c, l, it->u.pull.log);
    if (index == PD_NONE)
        return;
    pd_log *log = pd_log_at_index(c, index);
    pd_link_log *ll = &l->log[index];
    ll->flags &= (uint16_t) ~(PD_BASED | PD_NO_PREFIX);
    if (it->u.pull.from > log->chain.n)
        ll->flags |= PD_BASED;
    if (it->u.pull.from)
        ll->flags |= PD_NO_PREFIX;
    if (!(ll->flags & PD_BASED))
        return;
    if (log->parent == pd_link_index(c, l))
        log->parent = PD_NONE;
    if (log->pull == pd_link_index(c, l)) {
        pd_tree_close_pull(c, index);
        log->backoff_ms = 0;
        pd_tree_look(c, index, c->now);
    }
}

/* ---- answering ---- */

void pd_prefix_asked(pd_core *c, pd_link *l, const pd_item *it) {
    uint32_t index = pd_alias_log(c, l, it->u.pull.log);
    if (index == PD_NONE)
        return;
    uint64_t limit = it->u.pull.limit < PD_PREFIX_ASK ? it->u.pull.limit : PD_PREFIX_ASK;
    bool goes_on = l->prefix_due && l->prefix_log == index && it->u.pull.from == l->prefix_end;
    if (!goes_on) {
        l->prefix_log = index;
        l->prefix_next = it->u.pull.from;
    }
    l->prefix_end = it->u.pull.from + limit;
    l->prefix_due = l->want = true;
}

static bool put_answer(pd_core *c, pd_link *l, pd_writer *w) {
    const size_t head = 1 + 3 + 5 + 3;
    while (l->prefix_due) {
        uint32_t index = l->prefix_log;
        if (!pd_alias_announce(c, l, w, index / PD_STREAMS))
            return false;
        size_t room = (size_t)(w->end - w->p);
        if (room < head + 512)
            return false;
        uint64_t held = pd_log_at_index(c, index)->held;
        uint64_t end = l->prefix_end < held ? l->prefix_end : held;
        size_t most = room - head < PD_PIECE_MAX ? room - head : PD_PIECE_MAX, got = 0;
        if (l->prefix_next < end) {
            most = most < end - l->prefix_next ? most : (size_t)(end - l->prefix_next);
            got = c->store.read(c->store.ctx, &c->author[index / PD_STREAMS].id,
                                (uint8_t)(index % PD_STREAMS), l->prefix_next, c->piece, most);
        }
        pd_item it = {.kind = PD_ITEM_PREFIXA,
                      .u.part = {.log = pd_alias_number(l, index),
                                 .offset = l->prefix_next,
                                 .bytes = c->piece,
                                 .count = (uint32_t)got}};
        if (!pd_frame_put(w, &it))
            return false;
        l->prefix_next += got;
        l->prefix_due = got > 0 && l->prefix_next < end;
    }
    return true;
}

/* ---- asking ---- */

/* The next log that begins at a base, in turn: one that nobody has now holds up no other. */
static bool begin(pd_core *c) {
    pd_prefix *p = &c->prefix;
    for (uint32_t k = 0; k < c->n_authors; k++) {
        uint32_t index = (p->turn + k) % c->n_authors * PD_STREAMS + PD_STREAM_GRADIENTS;
        const pd_log *log = pd_log_at_index(c, index);
        if (!log->base)
            continue;
        p->turn = index / PD_STREAMS + 1;
        p->log = index;
        p->mixed = false;
        p->f = (pd_fetch){.on = true, .total = log->base, .link = PD_NONE, .last = p->f.last};
        pd_chain_init(&p->chain, c->conf.run, &c->author[index / PD_STREAMS].id,
                      PD_STREAM_GRADIENTS);
        return true;
    }
    return false;
}

static void ask(pd_core *c) {
    pd_fetch *f = &c->prefix.f;
    uint32_t index = c->prefix.log;
    for (unsigned k = 1; k <= PD_LINKS_MAX && f->link == PD_NONE; k++) {
        unsigned i = (f->last + k) % PD_LINKS_MAX;
        pd_link *l = &c->link[i];
        if (!l->session || !pd_link_live(l) || !l->vv_in || l->suspect || l->compare ||
            (l->log[index].flags & PD_NO_PREFIX) || l->log[index].peer < f->total)
            continue;
        c->prefix.mixed |= f->next > 0 && i != f->last;
        f->link = f->last = (uint16_t)i;
        f->asked_end = f->next;
        f->until_ms = c->now + PD_FILE_MS;
        l->want = true;
    }
}

void pd_prefix_lost(pd_core *c, const pd_link *l) {
    if (c->prefix.f.link == pd_link_index(c, l))
        c->prefix.f.link = PD_NONE;
}

/* All of it is here: does it lead to the mark? */
static void conclude(pd_core *c, pd_link *l) {
    pd_prefix *p = &c->prefix;
    pd_log *log = pd_log_at_index(c, p->log);
    pd_chain mark;
    pd_prefix_chain(c, p->log, &mark);
    bool right = p->chain.n == mark.n && !memcmp(p->chain.c, mark.c, 32);
    pd_action *a = pd_emit(c, PD_ACT_PREFIX);
    a->author = c->author[p->log / PD_STREAMS].id;
    a->own = right;
    p->f.on = false;
    if (!right) {
        if (!p->mixed) /* else nobody knows whose bytes were wrong: once more, from one peer */
            l->log[p->log].flags |= PD_NO_PREFIX;
        pd_note(c, PD_LOG_WARN,
                "what %s sent from before a checkpoint does not lead to it; asking another",
                pd_short(l->key, (char[9]){0}));
        return;
    }
    pd_prefix_begin(c, log, 0);
    c->fresh[c->n_fresh++] = p->log; /* to be read from the next step on */
    if (log->v.void_at != PD_VOID_NEVER)
        c->judge_due = true;
    for (unsigned i = 0; i < PD_LINKS_MAX; i++)
        if (c->link[i].session && pd_link_live(&c->link[i]) &&
            (c->link[i].log[p->log].flags & PD_SAID_BASE))
            pd_prefix_refuse(&c->link[i], p->log); /* of which nothing is refused any more */
}

void pd_prefix_piece(pd_core *c, pd_link *l, const pd_item *it) {
    pd_prefix *p = &c->prefix;
    pd_fetch *f = &p->f;
    uint64_t left = f->total - f->next;
    if (!f->on || f->link != pd_link_index(c, l) || pd_alias_log(c, l, it->u.part.log) != p->log ||
        it->u.part.offset != f->next)
        return;
    if (it->u.part.count == 0) {
        l->log[p->log].flags |= PD_NO_PREFIX;
        f->link = PD_NONE;
        pd_wake_at(c, c->now);
        return;
    }
    size_t n = it->u.part.count < left ? it->u.part.count : (size_t)left;
    pd_action *a = pd_emit(c, PD_ACT_PREFIX);
    a->author = c->author[p->log / PD_STREAMS].id;
    a->at = f->next;
    a->p = it->u.part.bytes;
    a->n = n;
    pd_chain_add(&p->chain, it->u.part.bytes, n);
    f->next += n;
    f->until_ms = c->now + PD_FILE_MS;
    if (f->next == f->total)
        conclude(c, l);
    else if (f->next == f->asked_end)
        l->want = true;
}

/* One question at a time: this is what nobody waits for. */
static bool put_question(pd_core *c, pd_link *l, pd_writer *w) {
    pd_fetch *f = &c->prefix.f;
    if (!f->on || f->link != pd_link_index(c, l) || f->asked_end > f->next)
        return true;
    if (!pd_alias_announce(c, l, w, c->prefix.log / PD_STREAMS))
        return false;
    uint64_t left = f->total - f->next, most = left < PD_PREFIX_ASK ? left : PD_PREFIX_ASK;
    pd_item it = {.kind = PD_ITEM_PREFIXQ,
                  .u.pull = {pd_alias_number(l, c->prefix.log), f->next, most}};
    if (!pd_frame_put(w, &it))
        return false;
    f->asked_end = f->next + most;
    return true;
}

bool pd_prefix_fill(pd_core *c, pd_link *l, pd_writer *w) {
    return put_question(c, l, w) && put_answer(c, l, w);
}

void pd_prefix_tick(pd_core *c) {
    pd_fetch *f = &c->prefix.f;
    if (c->conf.hold || (!f->on && !(c->prefix.n_based && begin(c))))
        return;
    if (f->link != PD_NONE && c->now >= f->until_ms)
        f->link = PD_NONE; /* nothing came: another */
    if (f->link == PD_NONE)
        ask(c);
    if (f->link != PD_NONE) {
        pd_wake_at(c, f->until_ms);
    } else if (f->next == 0) {
        f->on = false; /* nobody has it: the next log's turn, when something changes */
    }
}
