/* path.c - the network between the cores: sessions as TCP under libzmq makes them.
 *
 * One direction of a session is a FIFO.  A frame waits for the sender's uplink, travels for the
 * path's delay, and when it is lost or the path is cut it is sent again after a time that doubles;
 * what is not through after 60 s kills the session.  Nothing is lost or reordered inside a session;
 * what was in flight when it dies is, from some frame on.  A session that one side has closed is
 * found out by the other when it sends, or when it hears nothing.
 */
#include "sim.h"

#include <assert.h>
#include <stdlib.h>

enum {
    RTO_MS = 200, /* Linux's least */
    DEAD_MS = 60000,
    FRAMING = 42, /* ZMTP and CURVE, a frame */
    PACKET = 52,  /* IP, TCP and time stamps, a packet */
    PACKET_BYTES = 1448,
};

pipe_end *path_end(sim *s, uint64_t session) {
    assert(session >= 1 && session <= 2 * s->n_pipes);
    return &s->pipes[(session - 1) / 2]->end[(session - 1) % 2];
}

/* ---- faults as functions of time ---- */

static bool side(const fault *f, uint32_t who) {
    return seed_of(f->seed, "side", who) & 1;
}

static bool cuts(const fault *f, uint32_t from, uint32_t to, uint64_t at) {
    bool one_way = f->arg % 100 < 40;
    switch (f->kind) {
    case F_PARTITION:
        return one_way ? side(f, from) && !side(f, to) : side(f, from) != side(f, to);
    case F_ISOLATE:
        return from == f->node || (to == f->node && !one_way);
    case F_FLAP:
        return (from == f->node || to == f->node) && (at - f->at) / (500 + f->arg % 8000) % 2 == 0;
    default:
        return false;
    }
}

bool path_blocked(const sim *s, uint32_t from, uint32_t to, uint64_t at) {
    if (BROKEN(s, BROKEN_PATH) && from + to == 1)
        return true;
    static const fault_kind cutting[] = {F_PARTITION, F_ISOLATE, F_FLAP};
    for (size_t k = 0; k < sizeof cutting / sizeof *cutting; k++) {
        fault_walk w = fault_walk_of(s, cutting[k], at);
        for (const fault *f; (f = fault_walk_next(&w));)
            if (cuts(f, from, to, at))
                return true;
    }
    return false;
}

/* Swizzle-clogging: some nodes' links clog one after the other and clear in another order. */
static uint64_t unclogged(const sim *s, uint32_t who, uint64_t at) {
    uint64_t until = at;
    fault_walk w = fault_walk_of(s, F_CLOG, at);
    for (const fault *f; (f = fault_walk_next(&w));) {
        if (!side(f, who))
            continue;
        uint64_t half = (f->end - f->at) / 2 + 1;
        uint64_t from = f->at + seed_of(f->seed, "clog", who) % half;
        uint64_t to = f->at + half + seed_of(f->seed, "clear", who) % half;
        if (at >= from && at < to && to > until)
            until = to;
    }
    return until < s->until ? until : at < s->until ? s->until : at;
}

/* What holds for the whole run, at a node or everywhere. */
static uint64_t world_number(const sim *s, fault_kind kind, uint32_t who) {
    for (uint32_t i = s->first_of[kind]; i < s->first_of[kind + 1]; i++) {
        const fault *f = &s->faults[s->by_kind[i]];
        if (!f->dropped && (f->node == NOBODY || f->node == who))
            return f->arg;
    }
    return 0;
}

uint32_t path_rate(const sim *s) {
    return (uint32_t)world_number(s, F_RATE, NOBODY);
}

/* The base is the path's own; the draw of a frame is constant, uniform or heavy of tail, by the
 * seed. */
static uint64_t delay_base(const sim *s, uint32_t from, uint32_t to) {
    uint64_t mean = world_number(s, F_DELAY, NOBODY);
    return 1 + seed_of(s->o.seed, "path", (uint64_t)from << 32 | to) % (mean ? 2 * mean : 60);
}

static uint64_t delay(const sim *s, pd_rng *r, uint32_t from, uint32_t to) {
    uint64_t base = delay_base(s, from, to);
    switch (s->healed ? 0 : s->o.seed % 3) {
    case 0:
        return base;
    case 1:
        return base + draw(r, 0, base);
    default: { /* a quarter of the frames twice or more, a sixteenth four times, ... */
        uint64_t d = base;
        while (d < 64 * base && percent(r, 25))
            d *= 2;
        return d;
    }
    }
}

static uint64_t rtt(const sim *s, uint32_t a, uint32_t b) {
    return delay_base(s, a, b) + delay_base(s, b, a);
}

/* ---- sessions ---- */

static void remember(node *n, uint64_t session) {
    n->sessions = grow(n->sessions, &n->room_sessions, n->n_sessions + 1, sizeof *n->sessions);
    n->sessions[n->n_sessions++] = session;
}

static void forget(node *n, uint64_t session) {
    for (uint32_t i = 0; i < n->n_sessions; i++)
        if (n->sessions[i] == session) {
            n->sessions[i] = n->sessions[--n->n_sessions];
            return;
        }
}

static void drop_from(packet **at) {
    while (*at) {
        packet *p = *at;
        *at = p->next;
        free(p);
    }
}

static void clear(pipe_end *e) {
    drop_from(&e->first);
    e->tail = &e->first;
    free(e->held);
    e->held = NULL;
    watch_free(e);
}

void path_down(sim *s, pipe_end *e) {
    e->open = e->up = false;
    forget(&s->nodes[e->node], e->session);
    clear(e);
}

/* The process at this end is told that the session is gone. */
static void tell_down(sim *s, pipe_end *e, uint64_t at) {
    if (!e->open || e->told)
        return;
    e->told = true;
    happening *h = sim_push(s, at, W_DOWN, e->node);
    h->a = e->session;
    h->epoch = e->epoch;
}

/* From some frame on, what is on its way to this end is lost. */
static void lose_suffix(pipe_end *e, pd_rng *r) {
    packet **at = &e->first;
    while (*at && percent(r, 60))
        at = &(*at)->next;
    drop_from(at);
    e->tail = at;
}

static void open_ends(sim *s, node *from, node *to, uint64_t takes) {
    if (s->n_pipes == s->room_pipes) {
        s->room_pipes = s->room_pipes ? 2 * s->room_pipes : 64;
        s->pipes = realloc(s->pipes, s->room_pipes * sizeof(pipe_state *));
    }
    pipe_state *p = calloc(1, sizeof *p);
    if (!p || !s->pipes)
        abort();
    s->pipes[s->n_pipes++] = p;
    bool guest = p->guest = from->join != NULL;
    for (unsigned i = 0; i < 2; i++) {
        node *n = i ? to : from, *peer = i ? from : to;
        pipe_end *e = &p->end[i];
        *e = (pipe_end){
            .session = 2 * s->n_pipes - 1 + i, .node = n->index, .epoch = n->epoch, .open = true};
        e->r = rng_of(s->o.seed, "session",
                      (uint64_t)n->index << 44 ^ (uint64_t)peer->index << 24 ^ s->now);
        e->tail = &e->first;
        remember(n, e->session);
        /* what comes from the other end arrives after this end is up */
        uint64_t at = s->now + takes + (i ? 0 : delay_base(s, to->index, from->index));
        p->end[1 - i].last = at;
        happening *h = sim_push(s, at, W_UP, n->index);
        h->a = e->session;
        h->b = peer->index;
        h->c = (uint64_t)(i == 0) | (uint64_t)(guest && i) << 1 | (uint64_t)from->ticket.spent << 2;
    }
}

static bool admits(const node *to, const node *from) {
    if (!to->up || (!to->core && !to->puppet))
        return false;
    if (from->join)
        return to->core && from->ticket.inviter == to->index;
    return to->puppet || pd_core_is_member(to->core, from->id.pub);
}

void path_dial(sim *s, node *from, const uint8_t key[32], const pd_addr *addr) {
    uint32_t t = s->o.table ? table_place(s, from, addr->port - 1u) : addr->port - 1u;
    node *to = t < s->n_nodes ? &s->nodes[t] : NULL;
    bool reachable = to && to != from && to->up && to->busy_until <= s->now &&
                     !path_blocked(s, from->index, t, s->now) &&
                     !path_blocked(s, t, from->index, s->now);
    uint64_t trip = to ? rtt(s, from->index, t) : 100;
    if (reachable && admits(to, from) && !memcmp(to->id.pub, key, 32)) {
        open_ends(s, from, to, 3 * trip);
        return;
    }
    node *known = sim_node_of(s, key);
    happening *h =
        sim_push(s, s->now + (reachable ? 3 * trip : 1000 + 14 * trip), W_DIAL_FAILED, from->index);
    h->b = known ? known->index : NOBODY;
}

/* ---- frames ---- */

uint64_t path_wire_bytes(size_t n) {
    return n + FRAMING + PACKET * ((n + FRAMING) / PACKET_BYTES + 1);
}

/* When the frame's last byte is through, or 0: the session dies of it. */
static uint64_t passes(sim *s, pipe_end *e, uint32_t to, size_t n) {
    node *from = &s->nodes[e->node];
    uint64_t rate = world_number(s, F_RATE, e->node),
             loss = s->healed ? 0 : world_number(s, F_LOSS, NOBODY), now_us = s->now * 1000;
    if (from->uplink_us < now_us)
        from->uplink_us = now_us;
    if (rate)
        from->uplink_us += path_wire_bytes(n) * 1000000 / rate;
    uint64_t at = unclogged(s, e->node, unclogged(s, to, from->uplink_us / 1000)), waited = 0;
    uint64_t rto = 2 * rtt(s, e->node, to) + RTO_MS;
    for (; path_blocked(s, e->node, to, at) || percent(&e->r, (unsigned)loss); rto *= 2) {
        at += rto;
        waited += rto;
        if (waited > DEAD_MS)
            return 0;
    }
    at += delay(s, &e->r, e->node, to);
    return at > e->last ? at : e->last;
}

static void transmit(sim *s, pipe_end *e, packet *p) {
    pipe_end *o = path_other(s, e->session);
    uint64_t at = 0;
    s->nodes[e->node].bytes_out += path_wire_bytes(p->n);
    if (e->open && o->open && !e->doomed && !o->told && (at = passes(s, e, o->node, p->n)) != 0) {
        e->last = at;
        e->flight += p->n;
        p->next = NULL;
        *o->tail = p;
        o->tail = &p->next;
        sim_push(s, at, W_FRAME, o->node)->a = o->session;
        return;
    }
    free(p);
    if (e->open && o->open && !e->doomed &&
        !o->told) { /* it gave up: no later byte can pass the gap */
        e->doomed = true;
        tell_down(s, e, s->now + DEAD_MS);
    } else if (e->open && !o->open && s->nodes[o->node].up &&
               !path_blocked(s, e->node, o->node, s->now)) {
        tell_down(s, e,
                  s->now + rtt(s, e->node, o->node)); /* the other machine knows nothing of it */
    }
}

bool path_send(sim *s, node *from, uint64_t session, const uint8_t *p, size_t n, bool noise) {
    pipe_end *e = path_end(s, session);
    assert(e->node == from->index);
    if (e->held)
        return false; /* a BYE behind the frame that is kept: it may be lost */
    s->frames++;
    s->bytes += n;
    packet *k = malloc(sizeof *k + n);
    if (!k)
        abort();
    k->n = n;
    k->noise = noise;
    memcpy(k->bytes, p, n);
    if ((BROKEN(s, BROKEN_WIRE) || (BROKEN(s, BROKEN_TRUST) && s->distrust)) && percent(&e->r, 1))
        k->bytes[draw(&e->r, 0, n - 1)] ^= 1;
    if (e->flight && e->flight + n > s->buffer_bytes && path_other(s, session)->open &&
        !e->doomed) {
        e->held = k;
        return true;
    }
    transmit(s, e, k);
    return false;
}

packet *path_arrive(sim *s, uint64_t session) {
    pipe_end *e = path_end(s, session);
    packet *p = e->first;
    if (!p || !e->open)
        return NULL;
    e->first = p->next;
    if (!e->first)
        e->tail = &e->first;
    path_other(s, session)->flight -= p->n;
    return p;
}

bool path_flows(sim *s, uint64_t session) {
    pipe_end *e = path_end(s, session);
    if (!e->held || !e->open || (e->flight && e->flight + e->held->n > s->buffer_bytes))
        return false;
    packet *p = e->held;
    e->held = NULL;
    transmit(s, e, p);
    return true;
}

/* ---- ends of sessions ---- */

void path_close(sim *s, node *from, uint64_t session) {
    pipe_end *e = path_end(s, session), *o = path_other(s, session);
    assert(e->node == from->index);
    if (!e->open)
        return;
    if (percent(&e->r, 50)) /* LINGER 0: what had not left is dropped */
        lose_suffix(o, &e->r);
    uint64_t at = s->now + delay(s, &e->r, e->node, o->node);
    if (o->open && !path_blocked(s, e->node, o->node, s->now))
        tell_down(s, o, at > e->last ? at : e->last);
    path_down(s, e);
}

void path_reset(sim *s, pd_rng *r, uint32_t who, bool half_open) {
    node *n = &s->nodes[who];
    if (n->n_sessions == 0)
        return;
    uint64_t session = n->sessions[draw(r, 0, n->n_sessions - 1)];
    for (unsigned i = 0; i < 2; i++) {
        pipe_end *e = i ? path_other(s, session) : path_end(s, session);
        e->doomed = true;
        lose_suffix(e, r);
        uint64_t after = half_open && i ? draw(r, 1000, 60000) : draw(r, 0, 2000);
        tell_down(s, e, s->now + after);
    }
}

/* A killed process resets its sessions; a machine that died is silent. */
void path_crash(sim *s, node *n, pd_rng *r, bool silent) {
    while (n->n_sessions) {
        pipe_end *e = path_end(s, n->sessions[n->n_sessions - 1]), *o = path_other(s, e->session);
        lose_suffix(o, r);
        uint64_t at = s->now + delay_base(s, e->node, o->node);
        if (!silent && o->open)
            tell_down(s, o, at > e->last && percent(r, 50) ? e->last : at);
        path_down(s, e);
    }
}
