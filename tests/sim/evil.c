/* evil.c - a member that turned against the others: it has a key, the logs as of the day it turned,
 * and no core.
 *
 * It dials and takes sessions like anybody, begins each with a proper HELLO and its version vector
 * (so that it is believed as long as it can be), and then does its one thing: some suffixes of its
 * log to some parts of the swarm (equivocate), bytes under seals of nobody (bad seal), heads that
 * it never delivers (promise), noise (garbage), pulls of everything again and again (storm),
 * another run's seals (replay), or nothing (silent).
 */
#include "sim.h"

#include <assert.h>
#include <stdlib.h>

enum { BRANCH_MAX = 4096, BRANCHES = 4, PEERS_MAX = 32, REDIAL_MS = 4000 };

typedef struct talk { /* a session */
    uint64_t session, rx;
    uint32_t peer;
    bool greeted;
} talk;

struct evil {
    sim *s;
    node *n;
    fault_kind kind;
    uint64_t until, dial_ms;
    pd_rng r;
    talk talk[PEERS_MAX];
    uint32_t n_talks;
    pd_author own;
    uint32_t own_log;
    uint64_t forked_at, n_branch; /* suffixes behind the own log's first forked_at bytes; ... */
    uint64_t common[BRANCHES];    /* ... each begins with so much of the first */
    uint8_t branch[BRANCHES][BRANCH_MAX];
};

evil *evil_open(sim *s, node *n, const fault *f) {
    evil *e = calloc(1, sizeof *e);
    if (!e)
        abort();
    *e = (evil){.s = s,
                .n = n,
                .kind = f->kind,
                .until = f->end,
                .r = {f->seed},
                .own = {.inc = n->incarnation}};
    memcpy(e->own.key, n->id.pub, 32);
    e->own_log = log_number(s, &e->own, PD_STREAM_GRADIENTS);
    e->forked_at = disk_log(s, n, e->own_log)->n;
    for (unsigned b = 2; b < BRANCHES; b++)
        e->common[b] = draw_log(&e->r, 1, 64);
    return e;
}

void evil_close(evil *e) {
    free(e);
}

/* ---- sessions ---- */

static talk *find(evil *e, uint64_t session) {
    for (uint32_t i = 0; i < e->n_talks; i++)
        if (e->talk[i].session == session)
            return &e->talk[i];
    return NULL;
}

void evil_up(evil *e, uint64_t session) {
    if (e->n_talks == PEERS_MAX) {
        path_close(e->s, e->n, session);
        return;
    }
    e->talk[e->n_talks++] = (talk){.session = session, .peer = path_other(e->s, session)->node};
}

void evil_down(evil *e, uint64_t session) {
    talk *t = find(e, session);
    if (t)
        *t = e->talk[--e->n_talks];
}

void evil_frame(evil *e, uint64_t session, const uint8_t *p, size_t n) {
    (void)p; /* it does not listen */
    talk *t = find(e, session);
    if (t)
        t->rx += n;
}

/* ---- what it says ---- */

static void put_alias(evil *e, pd_writer *w, uint32_t author) {
    pd_item it = {.kind = PD_ITEM_ALIAS,
                  .u.alias = {author, e->s->truths[author * PD_STREAMS].author}};
    pd_frame_put(w, &it);
}

static void greet(evil *e, talk *t, pd_writer *w) {
    pd_item it = {.kind = PD_ITEM_HELLO};
    pd_hello *h = &it.u.hello;
    memcpy(h->net, e->s->run, 32);
    if (e->kind == F_REPLAY && percent(&e->r, 50))
        h->net[0] ^= 1;
    h->nonce = pd_rng_next(&e->r);
    h->proto = PD_PROTO;
    h->members = e->s->n_members;
    h->vv_hash = h->nonce; /* ask for a version vector */
    t->greeted = pd_frame_put(w, &it);
}

/* All logs as held; promised: with what nobody ever wrote. */
static void put_vector(evil *e, pd_writer *w, uint64_t promised) {
    uint32_t n = 0, most = e->s->n_authors * PD_STREAMS < PD_LOGS_MAX ? e->s->n_authors * PD_STREAMS
                                                                      : PD_LOGS_MAX;
    pd_head *heads = calloc(most + 1, sizeof *heads);
    if (!heads)
        abort();
    for (uint32_t log = 0; log < most; log++) {
        uint64_t held = log < e->n->n_logs ? e->n->logs[log].n : 0;
        if (log % PD_STREAMS == 0)
            put_alias(e, w, log / PD_STREAMS);
        if (held + promised)
            heads[n++] = (pd_head){log, held + promised};
    }
    pd_item it = {.kind = PD_ITEM_VV, .u.heads = {.flags = PD_VV_WANT, .count = n, .heads = heads}};
    pd_frame_put(w, &it);
    free(heads);
}

/* The author's own seal over the first `n` bytes of one branch. */
static void seal_branch(evil *e, unsigned b, uint64_t n, const uint8_t run[32], uint8_t seal[64]) {
    pd_chain chain;
    uint8_t msg[PD_SEAL_MESSAGE_BYTES], piece[1024];
    pd_chain_init(&chain, run, &e->own, PD_STREAM_GRADIENTS);
    for (size_t got; chain.n < e->forked_at; pd_chain_add(&chain, piece, got)) {
        got = disk_read(e->s, e->n, e->own_log, chain.n, piece, sizeof piece);
        assert(got > 0);
    }
    pd_chain_add(&chain, e->branch[b], (size_t)(n - e->forked_at));
    pd_seal_message(&chain, run, &e->own, PD_STREAM_GRADIENTS, msg);
    node_sign(e->n, msg, sizeof msg, seal);
}

static void put_segment(evil *e, pd_writer *w, uint32_t log, uint64_t start, const uint8_t *p,
                        uint32_t n, const uint8_t *seal) {
    put_alias(e, w, log / PD_STREAMS);
    pd_item it = {.kind = log % PD_STREAMS == PD_STREAM_CONTROL ? PD_ITEM_CTL : PD_ITEM_SEG};
    it.u.seg.alias = log / PD_STREAMS;
    it.u.seg.start = start + 1;
    it.u.seg.bytes = p;
    it.u.seg.count = n;
    it.u.seg.seal = seal;
    pd_frame_put(w, &it);
}

static uint8_t some_byte(evil *e) {
    uint8_t b = (uint8_t)pd_rng_next(&e->r);
    return b == PD_BYTE_RESERVED ? 1 : b;
}

static void grow_branches(evil *e) {
    for (uint64_t k = draw(&e->r, 1, 6); k && e->n_branch < BRANCH_MAX; k--, e->n_branch++) {
        for (unsigned b = 0; b < BRANCHES; b++)
            e->branch[b][e->n_branch] =
                e->n_branch < e->common[b] ? e->branch[0][e->n_branch] : some_byte(e);
    }
}

static void say_branch(evil *e, const talk *t, pd_writer *w, const uint8_t run[32]) {
    uint8_t seal[64];
    unsigned b = t->peer % BRANCHES;
    if (e->n_branch == 0)
        return;
    seal_branch(e, b, e->forked_at + e->n_branch, run, seal);
    put_segment(e, w, e->own_log, e->forked_at, e->branch[b], (uint32_t)e->n_branch, seal);
}

static uint32_t some_log(evil *e) {
    return (uint32_t)draw(&e->r, 0, e->s->n_authors * PD_STREAMS - 1);
}

static void say_bad_seal(evil *e, pd_writer *w) {
    uint8_t bytes[64], seal[64];
    uint32_t log = some_log(e), count = (uint32_t)draw(&e->r, 1, sizeof bytes);
    for (uint32_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = some_byte(e);
        seal[i] = (uint8_t)pd_rng_next(&e->r);
    }
    uint64_t n = disk_log(e->s, e->n, log)->n,
             start = n > 0 && percent(&e->r, 30) ? draw(&e->r, 0, n - 1) : n;
    put_segment(e, w, log, start, bytes, count, percent(&e->r, 70) ? seal : NULL);
}

static void say_pulls(evil *e, pd_writer *w) {
    for (unsigned i = 0; i < 40; i++) {
        uint32_t log = some_log(e);
        put_alias(e, w, log / PD_STREAMS);
        pd_item it = {.kind = PD_ITEM_PULL, .u.pull = {.log = log, .from = 0, .limit = 1 << 20}};
        pd_frame_put(w, &it);
    }
}

/* A frame of its own with bits turned over, cut off, or bytes of no meaning at all. */
static size_t spoil(evil *e, uint8_t *frame, size_t n) {
    if (percent(&e->r, 30))
        return (size_t)draw(&e->r, 1, n);
    uint64_t flips = percent(&e->r, 50) ? draw(&e->r, 1, 4) : n;
    for (; flips; flips--)
        frame[draw(&e->r, 0, n - 1)] ^= (uint8_t)draw(&e->r, 1, 255);
    return n;
}

static void speak(evil *e, talk *t) {
    uint8_t frame[PD_FRAME_MAX];
    pd_writer w = pd_writer_of(frame, sizeof frame);
    uint8_t other_run[32] = {7};
    bool first = !t->greeted;
    pd_frame_begin(&w, t->rx);
    if (first) {
        greet(e, t, &w);
        put_vector(e, &w, e->kind == F_PROMISE ? draw(&e->r, 1, 5000) : 0);
    }
    if (e->kind == F_EQUIVOCATE)
        say_branch(e, t, &w, e->s->run);
    else if (e->kind == F_BAD_SEAL)
        say_bad_seal(e, &w);
    else if (e->kind == F_PROMISE)
        put_vector(e, &w, draw(&e->r, 1, 5000));
    else if (e->kind == F_STORM)
        say_pulls(e, &w);
    else if (e->kind == F_REPLAY)
        say_branch(e, t, &w, other_run);
    size_t n = (size_t)(w.p - frame);
    bool noise = e->kind == F_GARBAGE && !first;
    if (noise)
        n = spoil(e, frame, n);
    path_send(e->s, e->n, t->session, frame, n, noise);
}

void evil_act(evil *e) {
    sim *s = e->s;
    if (s->now >= e->until || s->healed) { /* caught: its machine is taken away */
        sim_say(s, "n%u is gone", e->n->index);
        node_halt(s, e->n);
        return;
    }
    sim_push(s, s->now + draw(&e->r, 100, 2000), W_EVIL, e->n->index);
    if (e->kind == F_EQUIVOCATE || e->kind == F_REPLAY)
        grow_branches(e);
    for (uint32_t i = 0; i < e->n_talks; i++)
        if (!e->talk[i].greeted || (e->kind != F_SILENT && percent(&e->r, 60)))
            speak(e, &e->talk[i]);
    if (s->now < e->dial_ms)
        return;
    e->dial_ms = s->now + REDIAL_MS;
    node *to = &s->nodes[draw(&e->r, 0, s->n_members - 1)];
    pd_addr at = node_addr(to);
    for (uint32_t i = 0; i < e->n_talks; i++)
        if (e->talk[i].peer == to->index)
            return;
    path_dial(s, e->n, to->id.pub, &at);
}
