/* node.c - one node around its core: keys, its process's life, the driver that carries actions out. */
#include "sim.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

enum { COMMIT_MS = 1000, JOIN_AGAIN_MS = 15000 };

/* ---- keys ---- */

void node_init(sim *s, uint32_t i) {
    node *n = &s->nodes[i];
    pd_rng r = rng_of(s->o.seed, "node", i);
    uint8_t seed[32];
    n->world = s;
    n->index = i;
    n->twin = NOBODY;
    n->ticket.inviter = NOBODY;
    n->secret = pd_rng_next(&r);
    for (unsigned k = 0; k < 4; k++)
        pd_store64(seed + 8 * k, pd_rng_next(&r));
    if (s->o.ed25519)
        pd_identity_from_seed(seed, &n->id);
    else {
        memcpy(n->id.pub, seed, 32);
        pd_store32(n->id.pub + 28, i); /* found again without a search */
    }
    for (unsigned k = 0; k < 4; k++)
        pd_store64(n->ticket.guest + 8 * k, pd_rng_next(&r));
    bool busy = percent(&r, 15);
    n->gap_ms = busy ? draw_log(&r, 50, 500) : draw_log(&r, 400, 30000);
    n->phase_ms = percent(&r, 40) ? draw(&r, 5000, 60000) : 0;
    uint64_t joins = percent(&r, 70) ? draw(&r, 100, 5000) : draw(&r, 100, s->planned);
    n->r = rng_of(s->o.seed, "entropy", i);
    for (uint32_t k = 0; k < s->n_faults; k++) {
        const fault *f = &s->faults[k];
        bool forgets = f->kind == F_RESTORE || f->kind == F_LIE || f->kind == F_ROT || f->kind == F_CLONE ||
                       (f->kind == F_LEAVE && f->arg) || (f->kind >= F_EQUIVOCATE && f->kind <= F_SILENT);
        n->forgets |= f->node == i && forgets && !f->dropped;
    }
    if (s->o.table)
        n->gap_ms = 1000, n->phase_ms = 0;
    else if (i > 0 && i < s->n_members)
        sim_push(s, s->now + joins, W_JOIN, i);
}

/* A keyed hash that only the key's owner can compute: honest code cannot forge it, and it costs less than
 * a hundredth of Ed25519. */
static void cheap_sign(uint64_t secret, const void *msg, size_t n, uint8_t sig[64]) {
    for (unsigned i = 0; i < 8; i++)
        pd_store64(sig + 8 * i, pd_xxh64(msg, n, secret + i));
}

void node_sign(node *n, const void *msg, size_t size, uint8_t sig[64]) {
    if (n->world->o.ed25519)
        pd_sign(&n->id, msg, size, sig);
    else
        cheap_sign(n->secret, msg, size, sig);
}

static void sign(void *ctx, const void *msg, size_t size, uint8_t sig[64]) {
    node_sign(ctx, msg, size, sig);
}

static bool verify(void *ctx, const uint8_t pub[32], const void *msg, size_t size, const uint8_t sig[64]) {
    sim *s = ((node *)ctx)->world;
    if (s->o.ed25519)
        return pd_verify(pub, msg, size, sig);
    const node *who = sim_node_of(s, pub);
    uint8_t right[64];
    if (!who)
        return false;
    cheap_sign(who->secret, msg, size, right);
    return !memcmp(right, sig, 64);
}

static uint64_t entropy(void *ctx) {
    node *n = ctx;
    if (BROKEN(n->world, BROKEN_ENTROPY))
        n->r.state ^= n->world->o.epoch_ms;
    return pd_rng_next(&n->r);
}

static const pd_core_crypto *crypto_of(node *n, pd_core_crypto *c) {
    *c = (pd_core_crypto){n, sign, verify, entropy};
    return c;
}

/* ---- the ledger, as the core reads it ---- */

static bool log_seal(void *ctx, const pd_author *a, uint8_t stream, uint64_t *n, uint8_t seal[64]) {
    node *me = ctx;
    uint32_t log = log_number(me->world, a, stream);
    *n = log < me->n_logs ? me->logs[log].n : 0;
    if (*n)
        disk_seal(me->world, me, log, seal);
    return *n > 0;
}

static size_t log_read(void *ctx, const pd_author *a, uint8_t stream, uint64_t from, uint8_t *out, size_t room) {
    node *me = ctx;
    uint32_t log = log_number(me->world, a, stream);
    return log == NOBODY ? 0 : disk_read(me->world, me, log, from, out, room);
}

/* ---- processes ---- */

pd_addr node_addr(const node *n) {
    uint32_t i = n->index;
    return (pd_addr){.family = 4, .ip = {10, (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i}, .port = (uint16_t)(i + 1)};
}

static uint64_t core_time(const sim *s) {
    return s->now + s->o.epoch_ms;
}

static void configure(sim *s, node *n, pd_core_conf *conf, pd_known_addr *known) {
    *conf = (pd_core_conf){.incarnation = n->incarnation,
                           .manifest = s->manifest_text,
                           .manifest_bytes = s->manifest_bytes,
                           .n_listen = 1,
                           .stage_bytes = 1 << 16,
                           .seal_ms = s->seal_ms,
                           .restored = n->restored};
    memcpy(conf->run, s->run, 32);
    memcpy(conf->key, n->id.pub, 32);
    memcpy(conf->founder, s->nodes[0].id.pub, 32);
    snprintf(conf->name, sizeof conf->name, "n%u", n->index);
    conf->listen[0] = node_addr(n);
    const node *from = n->ticket.inviter == NOBODY ? &s->nodes[0] : &s->nodes[n->ticket.inviter];
    memcpy(known->key, from->id.pub, 32);
    known->addr = node_addr(from);
    conf->known = known;
    conf->n_known = 1;
}

void node_start(sim *s, node *n) {
    pd_core_conf conf;
    pd_known_addr known;
    pd_core_crypto c;
    pd_core_log log = {n, log_seal, log_read, NULL};
    configure(s, n, &conf, &known);
    if (!n->arena)
        n->arena = aligned_alloc(64, (pd_core_bytes(&conf) + 63) / 64 * 64);
    if (pd_core_open(&conf, crypto_of(n, &c), &log, core_time(s), n->arena, pd_core_bytes(&conf), &n->core)) {
        sim_fail(s, SAFETY, "S4", "node %u does not open: %s", n->index, pd_fail_text());
        return;
    }
    sim_say(s, "n%u starts%s", n->index, n->restored ? " from a backup" : "");
    n->up = n->member = true;
    n->spoke = n->gone = false;
    n->tick_at = 0;
    n->started = n->commit_at = s->now;
    pd_event e = {.kind = PD_EV_TICK};
    node_step(s, n, &e);
    sim_push(s, s->now + draw(&n->r, 0, n->gap_ms), W_GRADIENT, n->index);
    sim_push(s, s->now + COMMIT_MS, W_COMMIT, n->index);
}

static void start_again(sim *s, node *n) {
    if (n->up || !n->member || n->gone || n->evil_now || (n->ended && !s->healed) ||
        (n->twin != NOBODY && s->healed))
        return;
    node_start(s, n);
}

/* Whoever invites must not forget it: nobody else could tell that the newcomer was admitted. */
static bool can_invite(const sim *s, const node *n) {
    bool will_forget = false;
    for (uint32_t i = 0; n->forgets && !s->healed && i < s->n_faults; i++) {
        const fault *f = &s->faults[i];
        will_forget |= f->node == n->index && !f->dropped && (f->kind == F_RESTORE || f->kind == F_LIE) &&
                       s->now < f->end;
    }
    return n->core && !will_forget && !n->gone && !n->forked;
}

static void try_join(sim *s, node *n) {
    if (n->member)
        return;
    sim_push(s, s->now + JOIN_AGAIN_MS, W_JOIN, n->index); /* again, if it comes to nothing */
    if (n->join)
        return;
    if (n->ticket.inviter == NOBODY || s->nodes[n->ticket.inviter].gone || s->nodes[n->ticket.inviter].evil_now) {
        uint32_t who = (uint32_t)draw(&n->r, 0, s->n_members - 1);
        if (who == n->index || !can_invite(s, &s->nodes[who]))
            who = 0;
        if (!can_invite(s, &s->nodes[who]))
            return;
        n->ticket.inviter = who;
    }
    node_join(s, n);
}

void node_join(sim *s, node *n) {
    node *from = &s->nodes[n->ticket.inviter];
    pd_addr addr = node_addr(from);
    pd_join_conf conf = {.addrs = &addr, .n_addrs = 1, .listen = node_addr(n)};
    memcpy(conf.net, s->run, 16);
    memcpy(conf.inviter, from->id.pub, 32);
    memcpy(conf.guest, n->ticket.guest, 32);
    memcpy(conf.key, n->id.pub, 32);
    snprintf(conf.name, sizeof conf.name, "n%u", n->index);
    pd_core_crypto c;
    if (!n->join_arena)
        n->join_arena = malloc(pd_join_bytes());
    pd_err e = pd_join_open(&conf, crypto_of(n, &c), core_time(s), n->join_arena, pd_join_bytes(), &n->join);
    assert(!e);
    (void)e;
    n->up = true;
    n->tick_at = 0;
    pd_event tick = {.kind = PD_EV_TICK};
    node_step(s, n, &tick);
}

static void end_process(node *n) {
    n->up = false;
    n->core = NULL;
    n->join = NULL;
    n->busy_until = 0;
    n->epoch++;
}

void node_crash(sim *s, node *n, pd_rng *r, bool silent) {
    if (!n->up || n->evil_now)
        return;
    sim_say(s, "n%u crashes%s", n->index, silent ? ", silently" : "");
    path_crash(s, n, r, silent);
    end_process(n);
    disk_lose(s, n);
    if (n->forgets)
        disk_forget(s);
}

/* Gone without a trace: the process, and what it did. */
void node_halt(sim *s, node *n) {
    pd_rng r = rng_of(s->o.seed, "halt", n->index);
    path_crash(s, n, &r, false);
    end_process(n);
    disk_lose(s, n);
    evil_close(n->puppet);
    n->puppet = NULL;
}

void node_turn(sim *s, node *n, const fault *f) {
    if (!n->core)
        return;
    node_halt(s, n);
    if (f->kind == F_EQUIVOCATE)
        disk_fork(s, n->index);
    s->distrust = true;
    n->up = n->evil_now = true;
    disk_forget(s);
    n->puppet = evil_open(s, n, f);
    sim_push(s, s->now + 1, W_EVIL, n->index);
}

/* A second machine from a copy of the first one's disk, key and all. */
void node_clone(sim *s, node *n, const fault *f) {
    node *twin = &s->nodes[f->arg];
    if (!n->core || twin->member)
        return;
    disk_fork(s, n->index);
    twin->twin = n->index;
    twin->id = n->id;
    twin->secret = n->secret;
    twin->ticket = n->ticket;
    twin->forgets = true;
    disk_copy(s, twin, n);
    node_start(s, twin);
}

/* ---- actions ---- */

static void store(sim *s, node *n, const pd_action *a) {
    uint32_t log = log_number(s, &a->author, a->stream);
    if (log == NOBODY) {
        sim_fail(s, SAFETY, "S4", "node %u stores a log of nobody's key", n->index);
        return;
    }
    if (!a->own) {
        disk_append(s, n, log, a->at + BROKEN(s, BROKEN_APPEND), a->p, a->n, a->seal);
        return;
    }
    disk_sealed(s, n, log, a->at, a->p, a->n, a->seal);
    const fault *slow = fault_at(s, F_LATENCY, n->index), *stall = fault_at(s, F_STALL, n->index);
    uint64_t at = s->now + draw(&n->r, 1, slow ? slow->arg : 20);
    if (stall && at < stall->end)
        at = stall->end;
    n->commit_at = at > n->commit_at ? at : n->commit_at; /* one connection: in order */
    happening *h = sim_push(s, n->commit_at, W_STORED, n->index);
    h->a = log;
    h->b = a->at;
    h->n = a->n + 64;
    h->p = malloc(h->n);
    if (!h->p)
        abort();
    memcpy(h->p, a->p, a->n);
    memcpy(h->p + a->n, a->seal, 64);
}

static void stored(sim *s, node *n, const happening *h) {
    uint32_t log = (uint32_t)h->a;
    const truth *t = &s->truths[log];
    size_t size = h->n - 64;
    pd_event e = {.kind = PD_EV_STORED, .author = t->author, .stream = t->stream, .at = h->b + size};
    if (fault_at(s, F_FULL, n->index) || (BROKEN(s, BROKEN_STORE) && s->healed))
        e.kind = PD_EV_STORE_FAILED;
    else {
        disk_append(s, n, log, h->b, h->p, size, h->p + size);
        if (fault_at(s, F_EIO, n->index)) { /* nobody knows what the disk holds: the process ends and reads it */
            pd_rng r = rng_of(s->o.seed, "eio", s->now);
            if (percent(&r, 50))
                disk_commit(s, n);
            node_crash(s, n, &r, false);
            sim_push(s, s->now + 2000, W_START, n->index);
            return;
        }
        if (!BROKEN(s, BROKEN_COMMIT))
            disk_commit(s, n);
        s->records += t->stream == PD_STREAM_GRADIENTS ? size : 0;
    }
    node_step(s, n, &e);
}

static void stopped(sim *s, node *n, const pd_action *a) {
    pd_rng r = rng_of(s->o.seed, "stopped", s->now);
    bool fatal = a->kind == PD_ACT_FATAL, copied = s->nodes[n->twin == NOBODY ? n->index : n->twin].forked;
    sim_say(s, "n%u %s %s", n->index, fatal ? "ends itself:" : "has stopped", fatal ? a->text : "");
    if (fatal && !copied)
        sim_fail(s, SAFETY, "S8", "node %u ends itself, though nobody copied it: %s", n->index, a->text);
    n->ended = fatal;
    disk_commit(s, n);
    node_crash(s, n, &r, false);
}

static void allow(sim *s, const node *n, const pd_action *a) {
    const node *who = sim_node_of(s, a->key);
    bool invited = who && (who->index == 0 || who->ticket.inviter != NOBODY);
    if (!invited)
        sim_fail(s, SAFETY, "S11", "node %u admits a key that nobody invited", n->index);
}

typedef struct clogs {
    uint64_t session[PD_SESSIONS_MAX];
    uint32_t n;
} clogs;

static void send(sim *s, node *n, const pd_action *a, clogs *full) {
    s->saw_segment = false;
    if (n->core)
        watch_frame(s, n, a->session, a->p, a->n);
    n->data_out += s->saw_segment ? path_wire_bytes(a->n) : 0;
    if (path_send(s, n, a->session, a->p, a->n) && full->n < PD_SESSIONS_MAX)
        full->session[full->n++] = a->session;
}

/* False if the process is no more. */
static bool carry_out(sim *s, node *n, const pd_action *a, clogs *full) {
    switch (a->kind) {
    case PD_ACT_SEND:
        send(s, n, a, full);
        break;
    case PD_ACT_CLOSE:
        path_close(s, n, a->session);
        break;
    case PD_ACT_DIAL:
        path_dial(s, n, a->key, &a->addr);
        break;
    case PD_ACT_STORE:
        store(s, n, a);
        break;
    case PD_ACT_META:
        n->next_incarnation = (uint32_t)a->at;
        break;
    case PD_ACT_ALLOW:
        allow(s, n, a);
        break;
    case PD_ACT_INVITE_USED:
        if (a->invite < s->n_members)
            s->nodes[a->invite].ticket.spent = true;
        break;
    case PD_ACT_NOTE:
        sim_say(s, "n%u: %s", n->index, a->text);
        break;
    case PD_ACT_REFUSED:
        sim_say(s, "n%u: refused: %s", n->index, a->text);
        end_process(n);
        return false;
    case PD_ACT_JOINED:
        disk_commit(s, n);
        n->member = true;
        if (BROKEN(s, BROKEN_GATE))
            n->ticket.inviter = NOBODY;
        end_process(n);
        sim_push(s, s->now, W_START, n->index);
        return false;
    case PD_ACT_STOPPED:
    case PD_ACT_FATAL:
        stopped(s, n, a);
        return false;
    default:
        break;
    }
    return true;
}

static void set_alarm(sim *s, node *n) {
    uint64_t wake = n->core ? pd_core_wake(n->core) : pd_join_wake(n->join);
    if (wake == UINT64_MAX)
        return;
    wake = wake < core_time(s) ? s->now : wake - s->o.epoch_ms;
    if (n->tick_at <= s->now || wake < n->tick_at) {
        n->tick_at = wake;
        sim_push(s, wake, W_TICK, n->index);
    }
}

static bool one_step(sim *s, node *n, const pd_event *e, clogs *full) {
    size_t k = n->core ? pd_core_step(n->core, core_time(s), e, s->actions, PD_ACTIONS_MAX)
                       : pd_join_step(n->join, core_time(s), e, s->actions, PD_ACTIONS_MAX);
    s->steps++;
    sim_mix(s, s->now << 16 ^ (uint64_t)n->index << 4 ^ (uint64_t)e->kind);
    bool alive = true;
    for (size_t i = 0; alive && i < k && !s->code; i++) {
        const pd_action *a = &s->actions[i];
        sim_mix(s, (uint64_t)a->kind ^ a->n << 8 ^ a->at << 24 ^ (a->kind == PD_ACT_SEND ? pd_xxh64(a->p, a->n, 0) : 0));
        alive = carry_out(s, n, a, full);
    }
    return alive && !s->code;
}

void node_step(sim *s, node *n, const pd_event *e) {
    clogs full = {.n = 0};
    bool alive = one_step(s, n, e, &full);
    while (alive && full.n) {
        pd_event c = {.kind = PD_EV_CLOGGED, .session = full.session[--full.n]};
        alive = one_step(s, n, &c, &full);
    }
    if (!alive)
        return;
    if (n->core)
        watch_core(s, n);
    set_alarm(s, n);
}

/* ---- events ---- */

static void gradient(sim *s, node *n) {
    sim_push(s, s->now + draw(&n->r, n->gap_ms / 2, n->gap_ms * 3 / 2), W_GRADIENT, n->index);
    bool idle = n->phase_ms && !s->healed && (s->now / n->phase_ms + n->index) % 2;
    pd_event e = {.kind = PD_EV_GRADIENT};
    if (!s->working || idle || !pd_core_may_speak(n->core, &e.author, &e.at))
        return;
    e.byte = (uint8_t)pd_rng_next(&n->r);
    e.byte = e.byte == PD_BYTE_RESERVED ? 0 : e.byte;
    node_step(s, n, &e);
}

/* Bytes of somebody who only makes noise change nothing but counts (S10). */
static void take_frame(sim *s, node *n, uint64_t session) {
    packet *p = path_arrive(s, session);
    uint32_t peer = path_other(s, session)->node;
    bool garbled = s->nodes[peer].evil_now && fault_at(s, F_GARBAGE, peer);
    bool noise = n->core && (garbled || BROKEN(s, BROKEN_PEACE));
    pd_core_status before, after;
    if (!p)
        return;
    if (noise)
        pd_core_status_get(n->core, core_time(s), &before);
    pd_event e = {.kind = PD_EV_FRAME, .session = session, .p = p->bytes, .n = p->n};
    if (n->puppet)
        evil_frame(n->puppet, session, p->bytes, p->n);
    else
        node_step(s, n, &e);
    if (noise && n->core) {
        pd_core_status_get(n->core, core_time(s), &after);
        if (before.vv_hash != after.vv_hash || before.records != after.records)
            sim_fail(s, SAFETY, "S10", "noise changed what node %u holds", n->index);
    }
    free(p);
    pipe_end *o = path_other(s, session); /* the sender has room again */
    node *from = &s->nodes[o->node];
    if (path_flows(s, o->session) && from->core && o->epoch == from->epoch) {
        pd_event flows = {.kind = PD_EV_FLOWING, .session = o->session};
        node_step(s, from, &flows);
    }
}

static void session_up(sim *s, node *n, const happening *h) {
    pipe_end *e = path_end(s, h->a);
    const node *peer = &s->nodes[h->b];
    bool guest = h->c >> 1 & 1;
    pd_event ev = {.kind = PD_EV_SESSION_UP, .session = h->a, .outbound = h->c & 1, .guest = guest, .spent = h->c >> 2 & 1};
    if (!e->open)
        return;
    e->up = true;
    memcpy(ev.key, guest ? peer->ticket.guest : peer->id.pub, 32);
    ev.invite = peer->index;
    if (n->puppet)
        evil_up(n->puppet, h->a);
    else
        node_step(s, n, &ev);
}

static void session_down(sim *s, node *n, uint64_t session) {
    pipe_end *e = path_end(s, session);
    bool up = e->up;
    if (!e->open)
        return;
    path_down(s, e);
    if (n->puppet)
        evil_down(n->puppet, session);
    else if (up) {
        pd_event ev = {.kind = PD_EV_SESSION_DOWN, .session = session};
        node_step(s, n, &ev);
    }
}

static void dial_failed(sim *s, node *n, const happening *h) {
    if (n->puppet || h->b == NOBODY)
        return;
    pd_event e = {.kind = PD_EV_DIAL_FAILED};
    memcpy(e.key, s->nodes[h->b].id.pub, 32);
    node_step(s, n, &e);
}

static void commit(sim *s, node *n) {
    sim_push(s, s->now + COMMIT_MS, W_COMMIT, n->index);
    if (!fault_at(s, F_FULL, n->index) && !fault_at(s, F_STALL, n->index))
        disk_commit(s, n);
    if (BROKEN(s, BROKEN_SESSIONS) && s->healed && n->index == 0 && percent(&n->r, 5))
        path_reset(s, &n->r, n->index, false);
}

/* When this event can be looked at: a stopped process sees nothing, a slow reader no frames. */
static uint64_t seen_at(const sim *s, const node *n, const happening *h) {
    if (n->busy_until > s->now)
        return n->busy_until;
    const fault *slow = h->kind == W_FRAME ? fault_at(s, F_SLOW_READER, n->index) : NULL;
    if (slow)
        return s->now + 1000 < slow->end ? s->now + 1000 : slow->end;
    bool early = h->kind == W_FRAME && path_end((sim *)s, h->a)->open && !path_end((sim *)s, h->a)->up;
    return early ? s->now + 1 : s->now;
}

void node_happen(sim *s, node *n, happening *h) {
    if (h->kind == W_START) {
        start_again(s, n);
        return;
    }
    if (h->kind == W_JOIN) {
        try_join(s, n);
        return;
    }
    if (!n->up || h->epoch != n->epoch)
        return;
    uint64_t at = seen_at(s, n, h);
    if (at > s->now) {
        happening *later = sim_push(s, at, h->kind, h->node);
        uint64_t seq = later->seq;
        *later = *h;
        later->at = at;
        later->seq = seq;
        h->p = NULL;
        return;
    }
    pd_event tick = {.kind = PD_EV_TICK};
    switch (h->kind) {
    case W_TICK:
        if (!n->puppet && n->tick_at <= s->now)
            node_step(s, n, &tick);
        break;
    case W_FRAME:
        take_frame(s, n, h->a);
        break;
    case W_UP:
        session_up(s, n, h);
        break;
    case W_DOWN:
        session_down(s, n, h->a);
        break;
    case W_DIAL_FAILED:
        dial_failed(s, n, h);
        break;
    case W_STORED:
        if (n->core)
            stored(s, n, h);
        break;
    case W_GRADIENT:
        if (n->core)
            gradient(s, n);
        break;
    case W_COMMIT:
        if (n->core)
            commit(s, n);
        break;
    case W_EVIL:
        evil_act(n->puppet);
        break;
    default:
        break;
    }
    const fault *slow = fault_at(s, F_SLOW_CPU, n->index);
    if (slow && n->up && n->busy_until <= s->now)
        n->busy_until = s->now + 1 + slow->arg % 20;
}

/* ---- replay ---- */

void node_digest(sim *s, node *n, uint8_t out[16]) {
    int32_t a[COORDS] = {0};
    for (uint32_t log = 0; log < n->n_logs; log++) {
        const slog *l = &n->logs[log];
        const truth *t = &s->truths[log];
        if (t->stream == PD_STREAM_GRADIENTS && l->n && !t->forked)
            pd_replay_fold(&s->replay, a, COORDS, &t->author, 0, t->bytes, (size_t)l->n);
    }
    a[0] += BROKEN(s, BROKEN_DIGEST);
    pd_replay_digest(a, COORDS, out);
}
