/* mesh_net.c - the network between the cores: sessions like TCP under libzmq, seen by a watcher. */
#include "mesh.h"

#include <assert.h>
#include <stdlib.h>

pipe_end *net_end(mesh *m, uint64_t session) {
    assert(session >= 1 && session <= 2 * m->n_pipes);
    return &m->pipes[(session - 1) / 2].end[(session - 1) % 2];
}

static uint64_t path_delay(mesh *m, uint32_t from, uint32_t to) {
    uint64_t d = m->delay[from][to];
    uint64_t extra =
        m->faults && rng_percent(&m->r, 3) ? rng_between(&m->r, 200, 1500) : 0; /* a lost segment */
    return d + rng_below(&m->r, d / 2 + 1) + extra;
}

static void dial_failed(mesh *m, node *from, const uint8_t key[32], uint64_t after) {
    happening *h = mesh_push(m, m->now + after, W_DIAL_FAILED, from->index);
    memcpy(h->author.key, key, 32);
}

/* Does `to` admit this key, and as whom? */
static invite *outstanding(node *to, const uint8_t guest[32]) {
    for (uint32_t i = 0; i < to->n_invites; i++)
        if (!memcmp(to->invites[i].guest, guest, 32))
            return &to->invites[i];
    return NULL;
}

void net_dial(mesh *m, node *from, const pd_action *a) {
    uint32_t t = a->addr.port - 1u;
    node *to = t < m->n_nodes ? &m->nodes[t] : NULL;
    bool guest = from->join != NULL;
    uint64_t rtt = to ? m->delay[from->index][t] + m->delay[t][from->index] : 100;
    /* A record that only a restored node and its newcomer ever saw is lost and the newcomer shut
     * out: nobody can tell. */
    bool forgets = to && to->ever_restored && to->snap.taken && !to->restored;
    invite *inv = to && guest && !forgets ? outstanding(to, from->guest) : NULL;
    bool admitted =
        to && to->core && (guest ? inv != NULL : pd_core_is_member(to->core, from->id.pub));
    bool reachable = to && to->up && to->paused_until <= m->now && !m->blocked[from->index][t] &&
                     !m->blocked[t][from->index];
    if (!reachable || !admitted || memcmp(to->id.pub, a->key, 32)) {
        dial_failed(m, from, a->key, admitted ? rng_between(&m->r, 1000, 15000) : rtt * 3);
        return;
    }
    if (m->n_pipes == m->room_pipes) {
        m->room_pipes = m->room_pipes ? 2 * m->room_pipes : 64;
        m->pipes = realloc(m->pipes, m->room_pipes * sizeof *m->pipes);
    }
    pipe_state *p = &m->pipes[m->n_pipes++];
    memset(p, 0, sizeof *p);
    p->guest = guest;
    for (unsigned i = 0; i < 2; i++) {
        node *n = i ? to : from;
        p->end[i] = (pipe_end){
            .session = 2 * m->n_pipes - 1 + i, .node = n->index, .epoch = n->epoch, .open = true};
        uint64_t at = m->now + rtt * 3 + (i ? 0 : m->delay[t][from->index]);
        p->end[1 - i].last = at; /* what comes from the other end arrives after this end is up */
        happening *h = mesh_push(m, at, W_UP, n->index);
        h->a = p->end[i].session;
        h->b = inv && i ? inv->id : 0;
        h->c =
            (uint64_t)(i == 0) | (uint64_t)(guest && i) << 1 | (uint64_t)(inv && inv->spent) << 2;
        memcpy(h->author.key, i == 0 ? to->id.pub : guest ? from->guest : from->id.pub, 32);
    }
}

void net_send(mesh *m, node *from, uint64_t session, const uint8_t *p, size_t n) {
    pipe_end *e = net_end(m, session), *o = net_other(m, session);
    assert(e->node == from->index);
    m->frames++;
    m->bytes += n;
    if (!e->open || !o->open || e->doomed)
        return;
    if (m->blocked[e->node][o->node]) {
        /* Nothing passes: TCP would send again for a while and then give up; no later byte can pass
         * the gap. */
        e->doomed = true;
        mesh_push(m, m->now + rng_between(&m->r, 5000, 60000), W_FAULT, e->node)->a = session;
        return;
    }
    uint64_t at = m->now + path_delay(m, e->node, o->node);
    if (at < e->last)
        at = e->last;
    e->last = at;
    happening *h = mesh_push(m, at, W_FRAME, o->node);
    h->a = o->session;
    h->p = malloc(n);
    h->n = n;
    memcpy(h->p, p, n);
}

static void tell_down(mesh *m, pipe_end *e, uint64_t at) {
    happening *h = mesh_push(m, at < e->last ? e->last : at, W_DOWN, e->node);
    h->a = e->session;
    h->epoch = e->epoch;
}

void net_close(mesh *m, node *from, uint64_t session) {
    pipe_end *e = net_end(m, session), *o = net_other(m, session);
    assert(e->node == from->index);
    if (!e->open)
        return;
    e->open = false;
    if (rng_percent(&m->r, 50)) /* LINGER 0: what had not left is dropped */
        o->last = 0;
    if (o->open)
        tell_down(m, o, m->now + path_delay(m, e->node, o->node));
    if (rng_percent(&m->r, 50))
        o->doomed = e->doomed = true;
}

void net_kill(mesh *m, size_t pipe) {
    for (unsigned i = 0; i < 2; i++) {
        pipe_end *e = &m->pipes[pipe].end[i];
        if (!e->open)
            continue;
        e->doomed = true;
        e->last = 0;
        tell_down(m, e, m->now + rng_below(&m->r, 2000));
    }
}

void net_turn_out(mesh *m, const node *n) {
    for (size_t i = 0; i < m->n_pipes; i++)
        if (m->pipes[i].guest &&
            (m->pipes[i].end[0].node == n->index || m->pipes[i].end[1].node == n->index))
            net_kill(m, i);
}

void net_crash(mesh *m, uint32_t index) {
    for (size_t i = 0; i < m->n_pipes; i++)
        for (unsigned k = 0; k < 2; k++) {
            pipe_end *e = &m->pipes[i].end[k], *o = &m->pipes[i].end[1 - k];
            if (e->node != index || !e->open)
                continue;
            e->open = false;
            e->doomed = o->doomed = true;
            if (o->open) /* a killed process resets; a machine that died is silent */
                tell_down(m, o,
                          m->now + (rng_percent(&m->r, 70) ? m->delay[index][o->node]
                                                           : rng_between(&m->r, 20000, 60000)));
        }
}

/* ---- the watcher ---- */

/* Where both ends knew the same authors, their order is their numbers. */
static void watch_hello(node *from, pipe_end *e, pipe_end *o, uint64_t memb_hash) {
    e->n_base = pd_core_authors(from->core, e->base, AUTHORS_MAX);
    e->memb_hash = memb_hash;
    e->hello = true;
    if (!o->hello || o->memb_hash != memb_hash)
        return;
    memcpy(e->alias, e->base, e->n_base * sizeof *e->base);
    memcpy(o->alias, o->base, o->n_base * sizeof *o->base);
}

static void watch_segment(mesh *m, node *from, pipe_end *e, const pd_item *it) {
    const pd_author *a = &e->alias[it->u.seg.alias];
    uint8_t stream = it->kind == PD_ITEM_CTL;
    uint64_t *at = &e->at[it->u.seg.alias * PD_STREAMS + stream];
    uint64_t start = it->u.seg.start ? it->u.seg.start - 1 : *at, end = start + it->u.seg.count;
    *at = end;
    slog *l = node_log(from, a, stream, false);
    if (!l || l->n < end || memcmp(l->bytes + start, it->u.seg.bytes, it->u.seg.count)) {
        mesh_fail(m, "S12: node %u sends bytes it does not hold (%llu..%llu)", from->index,
                  (unsigned long long)start, (unsigned long long)end);
        return;
    }
    /* Bytes that others showed it and that it took back need not be durable again. */
    bool ours = !memcmp(a->key, from->id.pub, 32) && from->incarnation == a->inc;
    if (ours && l->durable < end && mesh_truth(m, a, stream)->n < end)
        mesh_fail(m, "S2: node %u sends own bytes up to %llu, durable are %llu", from->index,
                  (unsigned long long)end, (unsigned long long)l->durable);
}

void net_watch(mesh *m, node *from, uint64_t session, const uint8_t *p, size_t n) {
    pipe_end *e = net_end(m, session);
    pd_reader r;
    pd_item it;
    uint64_t ack;
    if (n > PD_FRAME_MAX || !pd_frame_open(p, n, &r, &ack)) {
        mesh_fail(m, "S9: node %u sends a frame that is none", from->index);
        return;
    }
    while (pd_frame_next(&r, &it)) {
        if (it.kind == PD_ITEM_HELLO)
            watch_hello(from, e, net_other(m, session), it.u.hello.memb_hash);
        else if (it.kind == PD_ITEM_ALIAS)
            e->alias[it.u.alias.alias] = it.u.alias.author;
        else if (it.kind == PD_ITEM_SEG || it.kind == PD_ITEM_CTL)
            watch_segment(m, from, e, &it);
    }
    if (!r.ok)
        mesh_fail(m, "S9: node %u sends an item that does not parse", from->index);
}
