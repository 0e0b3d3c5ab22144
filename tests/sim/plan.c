/* plan.c - which faults a seed has: drawn before the run, numbered, begun and ended by the clock.
 *
 * Swarm testing: each class of faults is in about half of the runs, since some bugs need the
 * absence of others.  The atlas at the end takes back what would make a run that nobody can judge:
 * while a node that forgot its newest bytes listens for them, those who hold them have to be in
 * reach.
 */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>

const char *const fault_name[F_KINDS] = {
    [F_DELAY] = "delay",
    [F_RATE] = "rate",
    [F_LOSS] = "loss",
    [F_RESET] = "reset",
    [F_HALF_OPEN] = "half open",
    [F_PARTITION] = "partition",
    [F_ISOLATE] = "isolate",
    [F_FLAP] = "flap",
    [F_CLOG] = "clog",
    [F_SLOW_READER] = "slow reader",
    [F_CRASH] = "crash",
    [F_PAUSE] = "pause",
    [F_SLOW_CPU] = "slow cpu",
    [F_RESTART_ALL] = "restart all",
    [F_RESTORE] = "restore",
    [F_CLONE] = "clone",
    [F_LATENCY] = "latency",
    [F_FULL] = "disk full",
    [F_EIO] = "eio",
    [F_STALL] = "stall",
    [F_LIE] = "lying disk",
    [F_ROT] = "rot",
    [F_EQUIVOCATE] = "equivocate",
    [F_BAD_SEAL] = "bad seal",
    [F_PROMISE] = "promise",
    [F_GARBAGE] = "garbage",
    [F_STORM] = "pull storm",
    [F_REPLAY] = "replay",
    [F_SILENT] = "silent",
    [F_STOP] = "stop",
    [F_LEAVE] = "leave",
    [F_BAN] = "ban",
    [F_ROTATE] = "rotate",
    [F_CKPT] = "checkpoint",
    [F_FALSE_CKPT] = "false checkpoint",
};

/* ---- what is in force ---- */

bool fault_in_force(const sim *s, const fault *f, uint64_t at) {
    return !f->dropped && at >= f->at && at < f->end && at < s->until && !s->healed;
}

fault_walk fault_walk_of(const sim *s, fault_kind kind, uint64_t at) {
    uint32_t lo = s->first_of[kind], end = s->first_of[kind + 1], hi = end;
    uint64_t from = at > s->longest[kind] ? at - s->longest[kind] : 0;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (s->faults[s->by_kind[mid]].at < from)
            lo = mid + 1;
        else
            hi = mid;
    }
    return (fault_walk){.s = s, .at = at, .next = lo, .end = end};
}

const fault *fault_walk_next(fault_walk *w) {
    while (w->next < w->end) {
        const fault *f = &w->s->faults[w->s->by_kind[w->next++]];
        if (f->at > w->at)
            w->next = w->end;
        else if (fault_in_force(w->s, f, w->at))
            return f;
    }
    return NULL;
}

const fault *fault_at(const sim *s, fault_kind kind, uint32_t where) {
    fault_walk w = fault_walk_of(s, kind, s->now);
    const fault *f;
    while ((f = fault_walk_next(&w)) && f->node != NOBODY && f->node != where)
        ;
    return f;
}

/* ---- drawing ---- */

typedef struct planner {
    sim *s;
    uint32_t room;
    uint64_t until; /* as drawn: --until cuts a run, it does not move its faults */
} planner;

static fault *add(planner *p, fault_kind kind, uint32_t where, uint64_t at, uint64_t lasts,
                  uint64_t arg) {
    sim *s = p->s;
    s->faults = grow(s->faults, &p->room, s->n_faults + 1, sizeof *s->faults);
    fault *f = &s->faults[s->n_faults++];
    *f = (fault){.kind = kind, .at = at, .end = at + lasts, .node = where, .arg = arg};
    f->seed = seed_of(s->o.seed, fault_name[kind], s->n_faults);
    return f;
}

/* Up to `most` of a kind, when its class is on: each somewhere, some time, of some length. */
static void scatter(planner *p, fault_kind kind, uint64_t most, uint64_t min_ms, uint64_t max_ms,
                    uint32_t first) {
    pd_rng r = rng_of(p->s->o.seed, "class", kind);
    if (percent(&r, 50) || p->s->n_members <= first)
        return;
    for (uint64_t i = draw(&r, 1, most); i; i--) {
        uint64_t at = draw(&r, 3000, p->until), lasts = draw_log(&r, min_ms, max_ms);
        uint32_t where = (uint32_t)draw(&r, first, p->s->n_members - 1);
        uint64_t arg = pd_rng_next(&r);
        add(p, kind, where, at, lasts, arg);
    }
}

/* Something that holds for the whole run, in half of the runs. */
static void always(planner *p, fault_kind kind, uint64_t lo, uint64_t hi) {
    pd_rng r = rng_of(p->s->o.seed, "class", kind);
    if (percent(&r, 50))
        add(p, kind, NOBODY, 0, p->until, draw_log(&r, lo, hi));
}

static void plan_paths(planner *p, uint64_t minutes) {
    always(p, F_DELAY, 1, 400);
    always(p, F_RATE, 1000, 12500000);
    always(p, F_LOSS, 1, 30);
    scatter(p, F_RESET, 6 + 2 * minutes, 1, 1, 0);
    scatter(p, F_HALF_OPEN, 3 + minutes, 1000, 60000, 0);
    scatter(p, F_PARTITION, 2 + minutes / 3, 2000, 120000, 0);
    scatter(p, F_ISOLATE, 2 + minutes / 3, 2000, 120000, 0);
    scatter(p, F_FLAP, 2, 5000, 90000, 0);
    scatter(p, F_CLOG, 2 + minutes / 3, 2000, 60000, 0);
    scatter(p, F_SLOW_READER, 3, 1000, 60000, 0);
}

static void plan_nodes(planner *p, uint64_t minutes) {
    scatter(p, F_CRASH, 4 + minutes, 300, 60000, 0);
    scatter(p, F_PAUSE, 3 + minutes / 3, 100, 90000, 0);
    scatter(p, F_SLOW_CPU, 2, 2000, 30000, 0);
    scatter(p, F_RESTART_ALL, 1, 300, 20000, 0);
    scatter(p, F_RESTORE, 1, 5000, p->until / 2, 0);
    scatter(p, F_LIE, 1, 200, 10000, 0);
    scatter(p, F_STOP, 2, 3000, 60000, 0);
}

static void plan_stores(planner *p) {
    always(p, F_LATENCY, 1, 500);
    scatter(p, F_FULL, 3, 1000, 90000, 0);
    scatter(p, F_EIO, 2, 2000, 20000, 0);
    scatter(p, F_STALL, 2, 1000, 30000, 0);
    scatter(p, F_ROT, 2, 500, 20000, 0);
}

/* People find out sooner or later, or never. */
static void plan_ban(planner *p, pd_rng *r, uint32_t where, uint64_t at) {
    enum { TRIES_MS = 120000 };
    if (!percent(r, 50))
        return;
    uint64_t after = draw_log(r, 1000, 60000); /* before the next draw, whatever the compiler */
    add(p, F_BAN, where, at + after, TRIES_MS, pd_rng_next(r));
}

/* At most a quarter of the members, never the founder: without it a newcomer's ticket is worth
 * nothing. */
static void plan_evil(planner *p) {
    pd_rng r = rng_of(p->s->o.seed, "evil", 0), bans = rng_of(p->s->o.seed, "class", F_BAN);
    if (p->s->n_members < 3 || percent(&r, 60))
        return;
    for (uint64_t i = draw(&r, 1, 1 + p->s->n_members / 4); i; i--) {
        uint64_t at = draw(&r, 20000, p->until), lasts = draw_log(&r, 20000, p->until);
        fault_kind kind = (fault_kind)draw(&r, F_EQUIVOCATE, F_SILENT);
        kind = percent(&r, 30) ? F_EQUIVOCATE : kind; /* whom two logs convict */
        uint32_t where = (uint32_t)draw(&r, 1, p->s->n_members - 1);
        add(p, kind, where, at, lasts, pd_rng_next(&r));
        plan_ban(p, &bans, where, at);
    }
}

static void plan_clone(planner *p) {
    pd_rng r = rng_of(p->s->o.seed, "class", F_CLONE);
    if (p->s->n_members < 3 || percent(&r, 85))
        return;
    uint64_t at = draw(&r, 20000, p->until), lasts = draw_log(&r, 20000, p->until);
    uint32_t where = (uint32_t)draw(&r, 1, p->s->n_members - 1);
    add(p, F_CLONE, where, at, lasts, p->s->n_nodes++);
    plan_ban(p, &r, where, at);
}

/* Some members get a new key, each at most one. */
static void plan_rotation(planner *p) {
    pd_rng r = rng_of(p->s->o.seed, "class", F_ROTATE);
    uint32_t where = (uint32_t)draw(&r, 1, 3);
    if (percent(&r, 60))
        return;
    for (; where < p->s->n_members; where += (uint32_t)draw(&r, 1, p->s->n_members)) {
        uint64_t at = draw(&r, 5000, p->until);
        add(p, F_ROTATE, where, at, 1, p->s->n_nodes++);
    }
}

/* Up to 20 % of the members leave in a minute; most come back, one in five never does. */
static void plan_churn(planner *p, uint64_t minutes) {
    pd_rng r = rng_of(p->s->o.seed, "class", F_LEAVE);
    if (p->s->n_members < 3 || percent(&r, 60))
        return;
    uint64_t rate = draw(&r, 1, 20), n = p->s->n_members * rate * minutes / 100;
    for (n = n < 2 ? 2 : n > 60 ? 60 : n; n; n--) {
        uint64_t at = draw(&r, 10000, p->until), lasts = draw_log(&r, 2000, 120000);
        uint32_t where = (uint32_t)draw(&r, 1, p->s->n_members - 1);
        add(p, F_LEAVE, where, at, lasts, percent(&r, 20));
    }
}

/* In a third of the runs: asked for by people, or every few minutes; and at most two who lie. */
static void plan_ckpts(planner *p, uint64_t minutes) {
    sim *s = p->s;
    pd_rng r = rng_of(s->o.seed, "class", F_CKPT);
    bool wanted = percent(&r, 33);
    if (!wanted || s->n_members < 2 || BROKEN(s, BROKEN_DISKS))
        return;
    s->ckpts = true;
    s->ckpt_ms = percent(&r, 50) ? draw_log(&r, 60000, 300000) : 0;
    for (uint64_t i = draw(&r, 1, 2 + minutes / 2); i; i--) {
        uint64_t at = draw(&r, 10000, p->until);
        add(p, F_CKPT, (uint32_t)draw(&r, 0, s->n_members - 1), at, 1, 0);
    }
    uint32_t liar[2];
    for (unsigned i = 0; i < 2; i++)
        liar[i] = (uint32_t)draw(&r, 1, s->n_members - 1);
    for (uint64_t i = s->n_members > 2 && percent(&r, 50) ? draw(&r, 1, 4) : 0; i; i--) {
        uint64_t at = draw(&r, 10000, p->until);
        uint32_t who = liar[draw(&r, 0, 1)];
        add(p, F_FALSE_CKPT, who, at, 1, draw(&r, CKPT_FALSE_MODEL, CKPT_FALSE_MARK));
    }
}

/* ---- the atlas ---- */

/* While this fault lasts, somebody may be out of somebody's reach, or believed wrongly. */
static bool hides_nodes(fault_kind k) {
    return k == F_PARTITION || k == F_ISOLATE || k == F_FLAP || k == F_CLOG || k == F_HALF_OPEN ||
           k == F_SLOW_READER || k == F_CRASH || k == F_PAUSE || k == F_RESTART_ALL ||
           k == F_RESTORE || k == F_LIE || k == F_CLONE || k == F_EIO || k == F_ROT ||
           k == F_STOP || k == F_LEAVE || k == F_BAN || k == F_ROTATE ||
           (k >= F_EQUIVOCATE && k <= F_SILENT);
}

enum { BEFORE_LOSS_MS = 30000, LISTEN_RESTORED_MS = 360000, LISTEN_MS = 90000 };

static void keep_holders_in_reach(planner *p) {
    for (uint32_t i = 0; i < p->s->n_faults; i++) {
        const fault *f = &p->s->faults[i];
        if (f->dropped || (f->kind != F_RESTORE && f->kind != F_LIE))
            continue;
        uint64_t from = f->end > BEFORE_LOSS_MS ? f->end - BEFORE_LOSS_MS : 0;
        uint64_t to = f->end + (f->kind == F_RESTORE ? LISTEN_RESTORED_MS : LISTEN_MS);
        for (uint32_t k = 0; k < p->s->n_faults; k++) {
            fault *o = &p->s->faults[k];
            bool forever = o->kind == F_BAN || (o->kind >= F_EQUIVOCATE && o->kind <= F_SILENT);
            if (k != i && hides_nodes(o->kind) && o->at < to && (forever || o->end + 20000 > from))
                o->dropped = true;
        }
    }
}

/* Who hears that a key is passed on has to keep it: while disks take nothing, nobody would in a
 * small run, and the next key would be a stranger for ever. */
static void keep_rotations_heard(planner *p) {
    for (uint32_t i = 0; i < p->s->n_faults; i++)
        for (uint32_t k = 0; p->s->faults[i].kind == F_ROTATE && k < p->s->n_faults; k++) {
            const fault *o = &p->s->faults[k];
            fault *f = &p->s->faults[i];
            bool forgets = o->kind == F_FULL || o->kind == F_STALL;
            f->dropped |= forgets && o->at < f->at + LISTEN_MS && o->end > f->at;
        }
}

/* Whoever turns stays so; a second fault of that kind at the same node, or another process fault of
 * it, has no place. */
static void one_turn_a_node(planner *p) {
    for (uint32_t i = 0; i < p->s->n_faults; i++) {
        const fault *f = &p->s->faults[i];
        bool turns = f->kind == F_CLONE || (f->kind >= F_EQUIVOCATE && f->kind <= F_SILENT);
        for (uint32_t k = 0; turns && !f->dropped && k < p->s->n_faults; k++) {
            fault *o = &p->s->faults[k];
            bool same = o->kind == F_CLONE || (o->kind >= F_EQUIVOCATE && o->kind <= F_SILENT);
            if (k != i && same && o->node == f->node)
                o->dropped = true;
        }
    }
}

static void index_faults(sim *s) {
    uint32_t n = 0;
    s->by_kind = malloc((s->n_faults + 1) * sizeof *s->by_kind);
    if (!s->by_kind)
        abort();
    for (unsigned kind = 0; kind < F_KINDS; kind++) {
        s->first_of[kind] = n;
        for (uint32_t i = 0; i < s->n_faults; i++) {
            const fault *f = &s->faults[i];
            uint32_t k = n;
            if (f->kind != kind)
                continue;
            for (; k > s->first_of[kind] && s->faults[s->by_kind[k - 1]].at > f->at; k--)
                s->by_kind[k] = s->by_kind[k - 1];
            s->by_kind[k] = i;
            n++;
            s->longest[kind] =
                f->end - f->at > s->longest[kind] ? f->end - f->at : s->longest[kind];
        }
    }
    s->first_of[F_KINDS] = n;
}

static void drop_asked(sim *s) {
    for (uint32_t i = 0; i < s->n_faults; i++)
        s->faults[i].dropped |= i < s->o.n_drop && s->o.drop[i];
}

static void draw_world(sim *s, planner *p) {
    enum { FEW = 7, MANY = 16 }; /* a full mesh: N (N - 1) sessions */
    pd_rng r = rng_of(s->o.seed, "world", 0);
    uint32_t n = (uint32_t)(percent(&r, 70) ? draw(&r, 2, FEW) : draw(&r, FEW + 1, MANY));
    s->n_members = s->n_nodes = s->o.nodes ? s->o.nodes : n;
    uint64_t seconds = percent(&r, 80)   ? draw(&r, 60, 300)
                       : percent(&r, 85) ? draw(&r, 300, 900)
                                         : draw(&r, 900, 3600);
    if (s->o.node_hours)
        seconds = s->o.node_hours * 3600 / s->n_members;
    p->until = 1000 + seconds * 1000;
    s->planned = p->until;
    s->until = s->o.until_ms ? s->o.until_ms : p->until;
    s->buffer_bytes = draw_log(&r, 4096, 262144);
    s->seal_ms = percent(&r, 70) ? 0 : (uint32_t)draw_log(&r, 200, 20000);
}

/* The thin, lossy path of the table in the reference design: 64 kbit/s, 60 ms, one packet in twenty
 * sent again. */
static void plan_table(planner *p) {
    sim *s = p->s;
    table_plan(s);
    add(p, F_DELAY, NOBODY, 0, s->until, 60);
    add(p, F_RATE, NOBODY, 0, s->until, 8000);
    add(p, F_LOSS, NOBODY, 0, s->until, 5);
}

static void add_to_end(void *ctx, fault_kind kind, uint32_t where, uint64_t at, uint64_t arg) {
    planner *p = ctx;
    add(p, kind, where, at, p->s->until - at, arg);
}

static void plan_pair(planner *p) {
    sim *s = p->s;
    s->seal_ms = s->o.pair == PAIR_OVERLOAD ? 500 : 2000;
    s->buffer_bytes = 65536;
    s->planned = s->until;
    pairs_plan(s, add_to_end, p);
}

void plan_make(sim *s) {
    planner p = {.s = s};
    draw_world(s, &p);
    pd_rng r = rng_of(s->o.seed, "faults", 0);
    uint64_t minutes = p.until / 60000;
    if (s->o.table) {
        plan_table(&p);
    } else if (s->o.pair) {
        plan_pair(&p);
    } else if (!percent(&r, 5)) {
        plan_paths(&p, minutes);
        plan_nodes(&p, minutes);
        plan_stores(&p);
        plan_evil(&p);
        plan_clone(&p);
        plan_churn(&p, minutes);
        plan_rotation(&p);
        keep_holders_in_reach(&p);
        keep_rotations_heard(&p);
        one_turn_a_node(&p);
        plan_ckpts(&p, minutes);
    }
    drop_asked(s);
    index_faults(s);
    uint32_t room = 0;
    s->nodes = grow(NULL, &room, s->n_nodes, sizeof *s->nodes);
    s->author_of = malloc(s->n_nodes * (size_t)PD_INCARNATIONS * sizeof *s->author_of);
    if (!s->author_of)
        abort();
    memset(s->author_of, 0xff, s->n_nodes * (size_t)PD_INCARNATIONS * sizeof *s->author_of);
}

/* ---- beginning and ending ---- */

/* Does the founder, who never leaves nor turns, know of everybody whom this node has admitted?
 * Else whoever was admitted would be a stranger to all but its inviter, for ever. */
static bool admissions_are_known(const sim *s, const node *n) {
    const pd_core *founder = s->nodes[0].core;
    for (uint32_t i = 0; i < s->n_members; i++) {
        const node *m = &s->nodes[i];
        bool admitted = m->ticket.inviter == n->index && (m->member || m->ticket.spent);
        if (admitted && !(founder && pd_core_is_member(founder, m->id.pub)))
            return false;
    }
    return true;
}

static void stop_node(sim *s, node *n, const fault *f) {
    if (!n->core || n->busy_until > s->now)
        return;
    n->gone = f->kind == F_LEAVE && f->arg && admissions_are_known(s, n);
    pd_event e = {.kind = PD_EV_STOP, .leave = f->kind == F_LEAVE};
    node_step(s, n, &e);
}

void fault_begin(sim *s, uint32_t number) {
    fault *f = &s->faults[number];
    node *n = f->node == NOBODY ? NULL : &s->nodes[f->node];
    pd_rng r = {f->seed};
    f->begun = true;
    sim_say(s, "-- fault %u: %s %s%u for %llu ms", number, fault_name[f->kind],
            n ? "n" : "everywhere, ", n ? f->node : (uint32_t)f->arg,
            (unsigned long long)(f->end - f->at));
    switch (f->kind) {
    case F_RESET:
    case F_HALF_OPEN:
        path_reset(s, &r, f->node, f->kind == F_HALF_OPEN);
        break;
    case F_CRASH:
        node_crash(s, n, &r, percent(&r, 30));
        break;
    case F_ROT:
        node_crash(s, n, &r, false);
        disk_rot(s, n, &r);
        break;
    case F_PAUSE:
        n->busy_until = f->end < s->until ? f->end : s->until;
        break;
    case F_RESTART_ALL:
        for (uint32_t i = 0; i < s->n_nodes; i++)
            node_crash(s, &s->nodes[i], &r, percent(&r, 10));
        break;
    case F_RESTORE:
    case F_LIE:
        disk_snapshot(s, n);
        break;
    case F_CLONE:
        node_clone(s, n, f);
        break;
    case F_STOP:
    case F_LEAVE:
        stop_node(s, n, f);
        break;
    case F_BAN:
        justice_ban(s, number);
        break;
    case F_ROTATE:
        justice_rotate(s, n);
        break;
    case F_CKPT:
        n->asked = true;
        break;
    case F_FALSE_CKPT:
        n->lies = (ckpt_lie)f->arg;
        break;
    default:
        if (f->kind >= F_EQUIVOCATE && f->kind <= F_SILENT && admissions_are_known(s, n))
            node_turn(s, n, f);
        break;
    }
}

void fault_end(sim *s, uint32_t number) {
    const fault *f = &s->faults[number];
    pd_rng r = {f->seed + 1};
    sim_say(s, "-- fault %u ends: %s", number, fault_name[f->kind]);
    if (f->kind == F_RESTORE || f->kind == F_LIE) {
        node *n = &s->nodes[f->node];
        if (!n->shadow_taken || !n->core)
            return;
        node_crash(s, n, &r, false);
        disk_restore(s, n);
        n->restored = f->kind == F_RESTORE; /* a disk that lied leaves no trace */
        sim_push(s, s->now + draw(&r, 500, 15000), W_START, f->node);
    } else if (f->kind == F_CRASH || f->kind == F_ROT || f->kind == F_STOP || f->kind == F_LEAVE) {
        sim_push(s, s->now, W_START, f->node);
    } else if (f->kind == F_RESTART_ALL) {
        for (uint32_t i = 0; i < s->n_nodes; i++)
            sim_push(s, s->now + draw(&r, 0, 3000), W_START, i);
    }
}
