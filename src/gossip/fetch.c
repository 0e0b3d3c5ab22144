/* fetch.c - files in pieces, at lowest priority: the basis of an aligned space, asked of one linked
 * member at a time.
 *
 * Pieces come in order and resume where they stopped, at whoever is there.  The next range is asked
 * for while the last one comes, so that a question's way back and forth costs nothing.  Whether the
 * whole is the file that the manifest names, the driver judges by its digest.
 */
#include "state.h"

void pd_fetch_start(pd_core *c, const pd_event *e) {
    pd_fetch *f = &c->fetch;
    uint16_t last = f->last;
    *f =
        (pd_fetch){.on = e->at < e->n, .next = e->at, .total = e->n, .link = PD_NONE, .last = last};
    memcpy(f->digest, e->digest, 16);
}

static void ask(pd_core *c) {
    pd_fetch *f = &c->fetch;
    pd_link *best = NULL;
    for (unsigned k = 1; k <= PD_SESSIONS_MAX && !best; k++) {
        pd_link *l = &c->link[(f->last + k) % PD_SESSIONS_MAX];
        if (pd_link_live(l) && l->vv_in && !l->suspect)
            best = l;
    }
    if (!best)
        return;
    f->link = f->last = pd_link_index(c, best);
    f->asked_end = f->next;
    f->until_ms = c->now + PD_FILE_MS;
    best->want = true;
}

/* Is there a range to ask for, and no more than one on its way? */
static bool may_ask(const pd_fetch *f) {
    return f->on && f->asked_end < f->total && f->asked_end - f->next < PD_FILE_ASK;
}

void pd_fetch_lost(pd_core *c, const pd_link *l) {
    if (c->fetch.link == pd_link_index(c, l))
        c->fetch.link = PD_NONE;
}

void pd_fetch_tick(pd_core *c) {
    pd_fetch *f = &c->fetch;
    if (!f->on)
        return;
    if (f->link != PD_NONE && c->now >= f->until_ms)
        f->link = PD_NONE; /* nothing came: another */
    if (f->link == PD_NONE)
        ask(c);
    if (f->link != PD_NONE)
        pd_wake_at(c, f->until_ms);
}

void pd_fetch_piece(pd_core *c, pd_link *l, const pd_item *it) {
    pd_fetch *f = &c->fetch;
    if (!f->on || f->link != pd_link_index(c, l) || memcmp(it->u.part.digest, f->digest, 16))
        return;
    if (it->u.part.total != f->total || it->u.part.offset != f->next || it->u.part.count == 0) {
        if (it->u.part.total !=
            f->total) { /* it has no such file: not before the others are asked */
            f->until_ms = c->now + PD_REPAIR_MS;
            f->asked_end = f->total;
        }
        return;
    }
    pd_action *a = pd_emit(c, PD_ACT_FILE);
    memcpy(a->digest, f->digest, 16);
    a->at = f->next;
    a->p = it->u.part.bytes;
    a->n = it->u.part.count;
    f->next += it->u.part.count;
    f->until_ms = c->now + PD_FILE_MS;
    f->on = f->next < f->total;
    if (may_ask(f))
        l->want = true;
}

void pd_fetch_asked(pd_core *c, pd_link *l, const pd_item *it) {
    (void)c;
    uint64_t limit = it->u.part.limit < PD_FILE_ASK ? it->u.part.limit : PD_FILE_ASK;
    bool goes_on =
        l->file_due && !memcmp(l->file, it->u.part.digest, 16) && it->u.part.offset == l->file_end;
    if (!goes_on) {
        memcpy(l->file, it->u.part.digest, 16);
        l->file_next = it->u.part.offset;
    }
    l->file_end = it->u.part.offset + limit;
    l->file_due = l->want = true;
}

static bool put_question(pd_core *c, pd_link *l, pd_writer *w) {
    pd_fetch *f = &c->fetch;
    while (f->link == pd_link_index(c, l) && may_ask(f)) {
        pd_item it = {.kind = PD_ITEM_FILEQ,
                      .u.part = {.offset = f->asked_end, .limit = PD_FILE_ASK}};
        memcpy(it.u.part.digest, f->digest, 16);
        if (!pd_frame_put(w, &it))
            return false;
        uint64_t left = f->total - f->asked_end;
        f->asked_end += left < PD_FILE_ASK ? left : PD_FILE_ASK;
    }
    return true;
}

bool pd_fetch_fill(pd_core *c, pd_link *l, pd_writer *w) {
    if (!put_question(c, l, w))
        return false;
    while (l->file_due) {
        size_t head = 1 + 16 + 3 * 10, room = (size_t)(w->end - w->p);
        if (room < head + 512)
            return false;
        size_t most = room - head < PD_PIECE_MAX ? room - head : PD_PIECE_MAX;
        if (most > l->file_end - l->file_next)
            most = (size_t)(l->file_end - l->file_next);
        pd_item it = {.kind = PD_ITEM_FILEA};
        size_t n = c->store.file ? c->store.file(c->store.ctx, l->file, l->file_next, c->piece,
                                                 most, &it.u.part.total)
                                 : 0;
        memcpy(it.u.part.digest, l->file, 16);
        it.u.part.offset = n ? l->file_next : 0;
        it.u.part.total = n ? it.u.part.total : 0;
        it.u.part.bytes = c->piece;
        it.u.part.count = (uint32_t)n;
        if (!pd_frame_put(w, &it))
            return false;
        l->file_next += n;
        l->file_due = n > 0 && l->file_next < l->file_end && l->file_next < it.u.part.total;
    }
    return true;
}
