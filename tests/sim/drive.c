/* drive.c - the driver around a core: carries its actions out, brings it what happens. */
#include "sim.h"

#include "peerd/digest.h"

#include <stdlib.h>

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
    pd_event e = {
        .kind = PD_EV_STORED, .author = t->author, .stream = t->stream, .at = h->b + size};
    if (fault_at(s, F_FULL, n->index) || (BROKEN(s, BROKEN_STORE) && s->healed))
        e.kind = PD_EV_STORE_FAILED;
    else if (fault_at(s, F_EIO, n->index)) {
        /* Nobody knows what the disk holds: the process ends and reads it. */
        pd_rng r = rng_of(s->o.seed, "eio", s->now);
        if (percent(&r, 50)) {
            disk_append(s, n, log, h->b, h->p, size, h->p + size);
            disk_commit(s, n);
        }
        node_crash(s, n, &r, false);
        sim_push(s, s->now + 2000, W_START, n->index);
        return;
    } else {
        disk_append(s, n, log, h->b, h->p, size, h->p + size);
        if (!BROKEN(s, BROKEN_COMMIT))
            disk_commit(s, n);
        s->records += t->stream == PD_STREAM_GRADIENTS ? size : 0;
    }
    node_step(s, n, &e);
}

static void stopped(sim *s, node *n, const pd_action *a) {
    pd_rng r = rng_of(s->o.seed, "stopped", s->now);
    bool fatal = a->kind == PD_ACT_FATAL,
         copied = s->nodes[n->twin == NOBODY ? n->index : n->twin].forked;
    sim_say(s, "n%u %s %s", n->index, fatal ? "ends itself:" : "has stopped", fatal ? a->text : "");
    if (fatal && !copied)
        sim_fail(s, SAFETY, "S8", "node %u ends itself, though nobody copied it: %s", n->index,
                 a->text);
    n->ended = fatal;
    disk_commit(s, n);
    node_crash(s, n, &r, false);
    if (n->successor != NOBODY && !n->gone)
        sim_push(s, s->now + 1000, W_START, n->index); /* under its next key, if that is written */
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
    if (s->o.table)
        table_frame(s, a->p, a->n);
    else if (n->core)
        watch_frame(s, n, a->session, a->p, a->n);
    n->data_out += s->saw_segment ? path_wire_bytes(a->n) : 0;
    if (path_send(s, n, a->session, a->p, a->n, false) && full->n < PD_SESSIONS_MAX)
        full->session[full->n++] = a->session;
}

/* False if the process is no more. */
static bool carry_out(sim *s, node *n, const pd_action *a, clogs *full) {
    switch (a->kind) {
    case PD_ACT_SEND:
        send(s, n, a, full);
        break;
    case PD_ACT_CLOSE:
        if (!BROKEN(s, BROKEN_BARS) || !s->nodes[path_other(s, a->session)->node].banned)
            path_close(s, n, a->session);
        break;
    case PD_ACT_DIAL:
        path_dial(s, n, a->key, &a->addr);
        break;
    case PD_ACT_STORE:
        store(s, n, a);
        break;
    case PD_ACT_VOID:
        justice_void(s, n, a);
        break;
    case PD_ACT_DENY:
        justice_deny(s, n, a->key);
        break;
    case PD_ACT_PASSED:
        n->heard = true;
        sim_push(s, s->now, W_PASSED, n->index);
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
        if (!s->o.table)
            watch_note(s, n, a->text);
        break;
    case PD_ACT_REFUSED:
        sim_say(s, "n%u: refused: %s", n->index, a->text);
        node_end_process(n);
        return false;
    case PD_ACT_JOINED:
        disk_commit(s, n);
        n->member = true;
        ckpt_joined(s, n);
        if (BROKEN(s, BROKEN_GATE))
            n->ticket.inviter = NOBODY;
        node_end_process(n);
        sim_push(s, s->now, W_START, n->index);
        return false;
    case PD_ACT_CKPT_DUE:
        n->asked = true;
        break;
    case PD_ACT_FILE:
        ckpt_piece(s, n, a);
        break;
    case PD_ACT_INSTALLED:
        ckpt_installed(s, n, a);
        break;
    case PD_ACT_PREFIX:
        disk_prefix(s, n, a);
        break;
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
    wake = wake < core_time(s) ? s->now : wake - EPOCH_MS - s->o.epoch_ms;
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
        sim_mix(s, (uint64_t)a->kind ^ a->n << 8 ^ a->at << 24 ^
                       (a->kind == PD_ACT_SEND ? pd_xxh64(a->p, a->n, 0) : 0));
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
    if (n->core && !s->o.table) /* that judges; a table measures */
        watch_core(s, n);
    set_alarm(s, n);
}

/* ---- events ---- */

static void gradient(sim *s, node *n) {
    sim_push(s, s->now + draw(&n->r, n->gap_ms / 2, n->gap_ms * 3 / 2), W_GRADIENT, n->index);
    bool idle = BROKEN(s, BROKEN_SILENCE) ||
                (n->phase_ms && !s->healed && (s->now / n->phase_ms + n->index) % 2);
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
    pd_core_status before, after;
    if (!p)
        return;
    bool noise = n->core && (p->noise || BROKEN(s, BROKEN_PEACE));
    if (noise) { /* what came before it is to count before it */
        const pd_event tick = {.kind = PD_EV_TICK};
        node_step(s, n, &tick);
        noise = n->core != NULL;
    }
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
    pd_event ev = {.kind = PD_EV_SESSION_UP,
                   .session = h->a,
                   .outbound = h->c & 1,
                   .guest = guest,
                   .spent = h->c >> 2 & 1};
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
    if (BROKEN(s, BROKEN_VOID) && n->n_logs && percent(&n->r, 1))
        justice_void(s, n,
                     &(pd_action){.kind = PD_ACT_VOID, .author = s->truths[0].author, .at = 1});
    ckpt_turn(s, n);
}

/* When this event can be looked at: a stopped process sees nothing, a slow reader no frames. */
static uint64_t seen_at(const sim *s, const node *n, const happening *h) {
    if (n->busy_until > s->now)
        return n->busy_until;
    const fault *slow = h->kind == W_FRAME ? fault_at(s, F_SLOW_READER, n->index) : NULL;
    if (slow)
        return s->now + 1000 < slow->end ? s->now + 1000 : slow->end;
    bool early =
        h->kind == W_FRAME && path_end((sim *)s, h->a)->open && !path_end((sim *)s, h->a)->up;
    return early ? s->now + 1 : s->now;
}

void node_happen(sim *s, node *n, happening *h) {
    if (h->kind == W_START) {
        node_start_again(s, n);
        return;
    }
    if (h->kind == W_JOIN) {
        node_try_join(s, n);
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
    case W_PASSED:
        if (n->core)
            node_step(s, n, &(pd_event){.kind = PD_EV_STOP});
        break;
    case W_INSTALL:
    case W_INSTALLED:
        if (n->core)
            ckpt_go_on(s, n, h->kind);
        break;
    case W_BARRED:
        justice_barred(s, n, h);
        break;
    default:
        break;
    }
    const fault *slow = fault_at(s, F_SLOW_CPU, n->index);
    if (slow && n->up && n->busy_until <= s->now)
        n->busy_until = s->now + 1 + slow->arg % 20;
}
