/* send.c - what a link has to say, packed into one frame, at most every T_frame (view.c).
 *
 * Queues hold heads, not copies: the bytes are read from the ledger when a frame leaves, so a link
 * that was slow sends one long range with one seal instead of many short ones.  In order: what
 * keeps the session alive; who holds what; control logs, since gradients of an unknown member
 * cannot be taken; own gradients; pulls, and their answers in a quarter of the frame; what comes
 * down the trees; heads; files.  What does not fit the credit waits, and a PING asks for the
 * acknowledgement.
 */
#include "state.h"

#include <assert.h>

enum { PIECE_MIN = 256 }; /* a range is not cut into less */

static void put_hello(pd_core *c, pd_link *l, pd_writer *w) {
    pd_item it = {.kind = PD_ITEM_HELLO};
    pd_hello *h = &it.u.hello;
    memcpy(h->net, c->conf.run, 32);
    h->nonce = c->nonce;
    h->inc = c->author[c->own.author].id.inc;
    h->proto = PD_PROTO;
    if (c->conf.n_listen)
        h->addr = c->conf.listen[0];
    h->members = c->n_members;
    h->memb_hash = c->memb_hash;
    h->vv_hash = c->vv_hash;
    h->total = c->total;
    h->links = (uint8_t)pd_view_links(c);
    h->caps = (uint16_t)((c->conf.observer || c->conf.hold ? PD_CAP_OBSERVER : 0) |
                         (l->compare ? PD_CAP_COMPARE : 0));
    l->hello_out = pd_frame_put(w, &it);
    l->base_n = c->n_authors;
    l->base_hash = c->memb_hash;
    if (l->hello_in)
        pd_alias_base(c, l);
}

static void put_ping(pd_core *c, pd_link *l, pd_writer *w) {
    l->ping_nonce = (uint32_t)c->crypto.random(c->crypto.ctx);
    pd_item it = {.kind = PD_ITEM_PING, .u.ping = {l->ping_nonce, 0}};
    if (pd_frame_put(w, &it)) {
        l->ping_ms = c->now;
        l->ping_due = false;
    }
}

/* Bytes [from, from + count) of a log as one item, with the seal if they reach its head. */
static bool put_range(pd_core *c, pd_link *l, pd_writer *w, uint32_t index, uint32_t count,
                      const uint8_t *seal) {
    const pd_author *id = &c->author[index / PD_STREAMS].id;
    uint8_t stream = (uint8_t)(index % PD_STREAMS);
    pd_link_log *ll = &l->log[index];
    size_t got = c->store.read(c->store.ctx, id, stream, ll->sent, c->piece, count);
    assert(got == count); /* the ledger holds what it said it holds */
    pd_item it = {.kind = stream == PD_STREAM_CONTROL ? PD_ITEM_CTL : PD_ITEM_SEG};
    it.u.seg.alias = l->out[index / PD_STREAMS];
    it.u.seg.start = ll->sent == ll->tx_end ? 0 : ll->sent + 1;
    it.u.seg.bytes = c->piece;
    it.u.seg.count = count;
    it.u.seg.seal = seal;
    if (!pd_frame_put(w, &it))
        return false;
    ll->sent += (uint32_t)count;
    ll->tx_end = ll->sent;
    ll->mark = l->tx + 1; /* any acknowledgement of this frame passes it */
    return true;
}

static void done(pd_link *l, uint32_t index) {
    l->log[index].flags &= (uint16_t)~PD_SERVE;
    pd_set_remove(l->due, index);
}

static bool put_log(pd_core *c, pd_link *l, pd_writer *w, uint32_t index) {
    const pd_log *log = pd_log_at_index(c, index);
    pd_link_log *ll = &l->log[index];
    bool serve = ll->flags & PD_SERVE;
    if (!serve && ll->sent < ll->peer)
        ll->sent = ll->peer;
    if (ll->sent >= log->held || ll->sent < log->base || !(serve || pd_tree_pushes(c, l, index))) {
        done(l, index);
        return true;
    }
    uint64_t n = 0;
    uint8_t seal[64];
    if (!c->store.seal(c->store.ctx, &c->author[index / PD_STREAMS].id,
                       (uint8_t)(index % PD_STREAMS), &n, seal) ||
        n != log->held)
        return true; /* the ledger is a commit ahead of us: its event is on the way */
    if (!pd_alias_announce(c, l, w, index / PD_STREAMS))
        return false;
    while (ll->sent < log->held) {
        const size_t head = 1 + 2 * 3 + 10; /* kind, alias and count, start */
        size_t room = (size_t)(w->end - w->p);
        uint64_t left = log->held - ll->sent;
        bool last = left <= PD_PIECE_MAX && left + head + 64 <= room;
        if (!last && room < PIECE_MIN + head)
            return false;
        uint64_t most = room - head < PD_PIECE_MAX ? room - head : PD_PIECE_MAX;
        /* A piece without the seal leaves at least one byte for the last. */
        uint64_t count = last ? left : most < left ? most : left - 1;
        if (count == 0 || !put_range(c, l, w, index, (uint32_t)count, last ? seal : NULL))
            return false;
    }
    done(l, index);
    return true;
}

/* In order: what a link is sent, by whose it is and why. */
typedef enum order { CONTROL_OWN, CONTROL, OWN, ANSWERS, TREES } order;

static bool is_of(const pd_core *c, const pd_link *l, uint32_t index, order o) {
    bool control = index % PD_STREAMS == PD_STREAM_CONTROL, own = pd_is_own(c, index);
    bool serve = l->log[index].flags & PD_SERVE;
    switch (o) {
    case CONTROL_OWN:
        return control && own;
    case CONTROL:
        return control && !own;
    case OWN:
        return !control && own;
    case ANSWERS:
        return !control && !own && serve;
    default:
        return !control && !own && !serve;
    }
}

/* The logs of one order that are due, going on where the last frame was full. */
static bool put_logs(pd_core *c, pd_link *l, pd_writer *w, order o) {
    uint32_t end = pd_logs(c), turn = l->turn < end ? l->turn : 0;
    for (unsigned pass = 0; pass < 2; pass++) {
        uint32_t from = pass ? 0 : turn, to = pass ? turn : end;
        for (uint32_t i = pd_set_next(l->due, from, to); i < to; i = pd_set_next(l->due, i + 1, to))
            if (is_of(c, l, i, o) && !put_log(c, l, w, i)) {
                l->turn = i + 1;
                return false;
            }
    }
    return true;
}

/* Answers take a quarter of a frame at first, so that one who catches up does not hold up what is
 * new; and what the trees leave of it. */
static bool put_gradients(pd_core *c, pd_link *l, pd_writer *w) {
    uint8_t *end = w->end;
    if (!put_logs(c, l, w, OWN) || !pd_tree_put(c, l, w))
        return false;
    size_t quarter = (size_t)(end - w->p) / 4;
    w->end = w->p + quarter;
    bool all = quarter > PIECE_MIN && put_logs(c, l, w, ANSWERS);
    w->end = end;
    return put_logs(c, l, w, TREES) && (all || put_logs(c, l, w, ANSWERS));
}

static bool put_summary(pd_core *c, pd_link *l, pd_writer *w) {
    pd_item it = {.kind = PD_ITEM_SUMMARY,
                  .u.summary = {c->memb_hash, c->vv_hash, c->total, c->n_members}};
    if (!pd_frame_put(w, &it))
        return false;
    l->sync_ms = c->now + pd_jitter(c, PD_SYNC_MS, 20);
    return true;
}

/* What counts against the credit.  False: something did not fit. */
static bool fill(pd_core *c, pd_link *l, pd_writer *w, const uint8_t *empty) {
    if (l->guest)
        return pd_guest_fill(c, l, w);
    if (!l->hello_in)
        return true;
    if (l->vv_due && !pd_heads_put_vv(c, l, w))
        return false;
    if (!l->vv_in)
        return true;
    bool all =
        put_logs(c, l, w, CONTROL_OWN) && put_logs(c, l, w, CONTROL) && put_gradients(c, l, w);
    if (all && c->now >= pd_heads_due(c, l, w->p == empty))
        all = pd_heads_put(c, l, w);
    uint64_t due = l->sync_ms + (w->p == empty ? PD_SYNC_ALONE_MS - PD_SYNC_MS : 0);
    if (all && c->now >= due)
        all = put_summary(c, l, w);
    return all && pd_fetch_fill(c, l, w) && pd_prefix_fill(c, l, w);
}

static void send(pd_core *c, pd_link *l, const uint8_t *frame, size_t n) {
    pd_action *a = pd_emit(c, PD_ACT_SEND);
    a->session = l->session;
    a->p = frame;
    a->n = n;
    c->frames_used += n;
    l->tx += n;
    l->sent_ms = c->now;
    l->acked_out = l->rx;
    c->bytes_out += n;
    c->frames_out++;
    if (l->member != PD_NONE)
        c->member[l->member].bytes_out += n;
}

/* Build one frame.  False: the room of this step is used up. */
static bool build(pd_core *c, pd_link *l) {
    uint8_t *frame = c->frames + c->frames_used;
    if (PD_OUT_BYTES - c->frames_used < PD_FRAME_MAX)
        return false;
    pd_writer w = pd_writer_of(frame, PD_FRAME_MAX);
    bool ack = l->rx - l->acked_out >= PD_ACK_BYTES;
    pd_frame_begin(&w, l->rx);
    const uint8_t *empty = w.p;
    if (!l->guest && !l->hello_out)
        put_hello(c, l, &w);
    if (l->pong_due) {
        pd_item pong = {.kind = PD_ITEM_PONG, .u.ping = {l->pong_nonce, 0}};
        l->pong_due = !pd_frame_put(&w, &pong);
    }
    if (l->ping_due)
        put_ping(c, l, &w);
    uint64_t used = l->tx - l->acked, credit = used < l->window ? l->window - used : 0;
    uint64_t room = PD_FRAME_MAX - 16; /* a last PING fits behind it */
    w.end = frame + (credit < room ? credit : room);
    if (w.end < w.p)
        w.end = w.p;
    bool all = fill(c, l, &w, empty);
    w.end = frame + PD_FRAME_MAX;
    l->blocked = !all && credit < room;
    if (!l->blocked)
        l->blocked_ms = 0;
    else if (!l->blocked_ms)
        l->blocked_ms = c->now;
    l->full = !all && !l->blocked;
    l->want = l->full;
    if (l->blocked && !l->ping_ms)
        put_ping(c, l, &w);
    if (w.p > empty || ack)
        send(c, l, frame, (size_t)(w.p - frame));
    return true;
}

void pd_send_frames(pd_core *c) {
    unsigned first = c->turn;
    if (c->n_fresh || c->installed) { /* not to be read before the next step, which is at once */
        pd_wake_at(c, c->now);
        return;
    }
    for (unsigned k = 0; k < PD_SESSIONS_MAX; k++) {
        unsigned i = (first + k) % PD_SESSIONS_MAX;
        pd_link *l = &c->link[i];
        if (!pd_link_used(c, i) || !l->want || l->clogged || l->bye_ms)
            continue;
        uint64_t at = l->sent_ms + pd_view_frame_ms(c, l);
        bool now = l->full || l->pong_due || !l->sent_ms || c->now >= at;
        if (!now)
            pd_wake_at(c, at);
        else if (!build(c, l)) {
            c->turn = i; /* no room for more in this step: the next begins here */
            pd_wake_at(c, c->now);
            return;
        } else if (l->want)
            pd_wake_at(c, c->now);
    }
}

void pd_send_item(pd_core *c, pd_link *l, const pd_item *it) {
    if (PD_OUT_BYTES - c->frames_used < PD_FRAME_MAX || l->clogged)
        return;
    uint8_t *frame = c->frames + c->frames_used;
    pd_writer w = pd_writer_of(frame, PD_FRAME_MAX);
    pd_frame_begin(&w, l->rx);
    if (pd_frame_put(&w, it))
        send(c, l, frame, (size_t)(w.p - frame));
}

bool pd_send_fork(pd_core *c, pd_link *l, const pd_item *it) {
    if (PD_OUT_BYTES - c->frames_used < PD_FRAME_MAX || c->n_said == PD_SAID_MAX || l->clogged ||
        !l->hello_out || !l->hello_in)
        return false;
    uint8_t *frame = c->frames + c->frames_used;
    pd_writer w = pd_writer_of(frame, PD_FRAME_MAX);
    pd_item theirs = *it;
    pd_frame_begin(&w, l->rx);
    if (!pd_alias_announce(c, l, &w, it->u.fork.log / PD_STREAMS))
        return false;
    theirs.u.fork.log = pd_alias_number(l, it->u.fork.log);
    if (!pd_frame_put(&w, &theirs))
        return false;
    c->n_said++;
    send(c, l, frame, (size_t)(w.p - frame));
    return true;
}
