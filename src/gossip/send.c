/* send.c - what a link has to say, packed into one frame at most every 0.2 s.
 *
 * Queues hold heads, not copies: the bytes are read from the ledger when a frame leaves, so a link
 * that was slow sends one long range with one seal instead of many short ones.  In order: what
 * keeps the session alive; who holds what; control logs, since gradients of an unknown member
 * cannot be taken; own gradients; pulls and their answers; heads; files.  What does not fit the
 * credit waits, and a PING asks for the acknowledgement.
 */
#include "state.h"

#include <assert.h>

enum { PIECE_MIN = 256 }; /* a range is not cut into less */

static bool announce(pd_core *c, pd_link *l, pd_writer *w, uint32_t author) {
    if (l->announced[author])
        return true;
    pd_item it = {.kind = PD_ITEM_ALIAS, .u.alias = {author, c->author[author].id}};
    return l->announced[author] = pd_frame_put(w, &it);
}

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
    for (unsigned i = 0; i < PD_SESSIONS_MAX; i++)
        h->links = (uint8_t)(h->links + pd_link_live(&c->link[i]));
    l->hello_out = pd_frame_put(w, &it);
}

static void put_ping(pd_core *c, pd_link *l, pd_writer *w) {
    l->ping_nonce = (uint32_t)c->crypto.random(c->crypto.ctx);
    pd_item it = {.kind = PD_ITEM_PING, .u.ping = {l->ping_nonce, 0}};
    if (pd_frame_put(w, &it)) {
        l->ping_ms = c->now;
        l->ping_due = false;
    }
}

static bool put_vv(pd_core *c, pd_link *l, pd_writer *w) {
    pd_head heads[PD_LOGS_MAX];
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_authors * PD_STREAMS; i++) {
        uint64_t head = pd_log_at_index(c, i)->chain.n;
        if (head == 0)
            continue;
        if (!announce(c, l, w, i / PD_STREAMS))
            return false;
        heads[n++] = (pd_head){i, head};
    }
    pd_item it = {.kind = PD_ITEM_VV, .u.heads = {.want = l->vv_want, .count = n, .heads = heads}};
    if (!pd_frame_put(w, &it))
        return false;
    for (uint32_t i = 0; i < n; i++)
        l->log[heads[i].log].told = heads[i].n;
    l->vv_due = l->vv_want = false;
    l->vv_out = true;
    l->vv_ms = c->now;
    return true;
}

static bool put_heads(pd_core *c, pd_link *l, pd_writer *w) {
    pd_head heads[PD_LOGS_MAX];
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_authors * PD_STREAMS; i++) {
        const pd_link_log *ll = &l->log[i];
        uint64_t head = pd_log_at_index(c, i)->held;
        uint16_t author = c->author[i / PD_STREAMS].member;
        if (head <= ll->peer || head <= ll->told || head <= ll->sent || author == l->member ||
            author == c->self)
            continue;
        if (!announce(c, l, w, i / PD_STREAMS))
            return false;
        heads[n++] = (pd_head){i, head};
    }
    pd_item it = {.kind = PD_ITEM_HEADS, .u.heads = {.count = n, .heads = heads}};
    if (n && !pd_frame_put(w, &it))
        return false;
    for (uint32_t i = 0; i < n; i++)
        l->log[heads[i].log].told = heads[i].n;
    l->heads_ms = 0;
    return true;
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
    it.u.seg.alias = index / PD_STREAMS;
    it.u.seg.start = ll->sent == ll->tx_end ? 0 : ll->sent + 1;
    it.u.seg.bytes = c->piece;
    it.u.seg.count = count;
    it.u.seg.seal = seal;
    if (!pd_frame_put(w, &it))
        return false;
    ll->sent += count;
    ll->tx_end = ll->sent;
    ll->mark = l->tx + 1; /* any acknowledgement of this frame passes it */
    return true;
}

static bool put_log(pd_core *c, pd_link *l, pd_writer *w, uint32_t index) {
    const pd_log *log = pd_log_at_index(c, index);
    pd_link_log *ll = &l->log[index];
    if (!ll->serve && ll->sent < ll->peer)
        ll->sent = ll->peer;
    bool unasked = pd_is_own(c, index) && log->v.void_at == PD_VOID_NEVER;
    if (ll->sent >= log->held || !(ll->serve || unasked))
        return true;
    uint64_t n = 0;
    uint8_t seal[64];
    if (!c->store.seal(c->store.ctx, &c->author[index / PD_STREAMS].id,
                       (uint8_t)(index % PD_STREAMS), &n, seal) ||
        n != log->held)
        return true; /* the ledger is a commit ahead of us: its event is on the way */
    if (!announce(c, l, w, index / PD_STREAMS))
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
    ll->serve = false;
    return true;
}

/* All logs of one stream that this link lacks: own ones, or those asked for. */
static bool put_logs(pd_core *c, pd_link *l, pd_writer *w, uint32_t stream, bool own) {
    for (uint32_t k = 0; k < c->n_authors; k++) {
        uint32_t a = (l->turn + k) % c->n_authors;
        if (pd_is_own(c, a * PD_STREAMS) == own && !put_log(c, l, w, a * PD_STREAMS + stream)) {
            l->turn = a + 1;
            return false;
        }
    }
    return true;
}

static bool put_pulls(pd_core *c, pd_link *l, pd_writer *w) {
    for (uint32_t i = 0; i < c->n_authors * PD_STREAMS; i++) {
        pd_link_log *ll = &l->log[i];
        if (!ll->ask && !ll->ask_all)
            continue;
        if (!announce(c, l, w, i / PD_STREAMS))
            return false;
        const pd_stage *st = pd_stage_find(c, i);
        uint64_t n = pd_log_at_index(c, i)->chain.n,
                 end = st && st->base <= n ? st->base + st->have : 0;
        pd_item it = {.kind = PD_ITEM_PULL, .u.pull = {.log = i, .limit = c->conf.stage_bytes}};
        it.u.pull.from = ll->ask_all ? 0 : end > n ? end : n;
        if (!pd_frame_put(w, &it))
            return false;
        ll->ask = ll->ask_all = false;
    }
    return true;
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
    if (l->vv_due && !put_vv(c, l, w))
        return false;
    if (!l->vv_in)
        return true;
    bool all = put_logs(c, l, w, PD_STREAM_CONTROL, true) &&
               put_logs(c, l, w, PD_STREAM_CONTROL, false) &&
               put_logs(c, l, w, PD_STREAM_GRADIENTS, true) && put_pulls(c, l, w) &&
               put_logs(c, l, w, PD_STREAM_GRADIENTS, false);
    if (all && l->heads_ms && c->now >= l->heads_ms)
        all = put_heads(c, l, w);
    uint64_t due = l->sync_ms + (w->p == empty ? PD_SYNC_ALONE_MS - PD_SYNC_MS : 0);
    if (all && c->now >= due)
        all = put_summary(c, l, w);
    return all && pd_fetch_fill(c, l, w);
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
    for (unsigned k = 0; k < PD_SESSIONS_MAX; k++) {
        unsigned i = (first + k) % PD_SESSIONS_MAX;
        pd_link *l = &c->link[i];
        if (!l->session || !l->want || l->clogged || l->bye_ms)
            continue;
        bool now = l->full || l->pong_due || !l->sent_ms || c->now >= l->sent_ms + PD_FRAME_MS;
        if (!now)
            pd_wake_at(c, l->sent_ms + PD_FRAME_MS);
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

bool pd_send_announced(pd_core *c, pd_link *l, pd_item *it, uint32_t author) {
    if (PD_OUT_BYTES - c->frames_used < PD_FRAME_MAX || l->clogged || !l->hello_out)
        return false;
    uint8_t *frame = c->frames + c->frames_used;
    pd_writer w = pd_writer_of(frame, PD_FRAME_MAX);
    pd_frame_begin(&w, l->rx);
    if (!announce(c, l, &w, author) || !pd_frame_put(&w, it))
        return false;
    send(c, l, frame, (size_t)(w.p - frame));
    return true;
}
