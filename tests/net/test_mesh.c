/* test_mesh.c - seeds of a small swarm under faults: nothing wrong while they last, everyone equal
 * after they end.
 *
 *   test_mesh            400 seeds and one with Ed25519; every tenth twice, for equal traces
 *   test_mesh A B        seeds A..B
 *   test_mesh SEED       one seed; MESH_NOTES=1 prints what the nodes say
 *   test_mesh_planted    each planted bug must be found
 *
 * Safety, at every event: S1 one byte a step, S2 persist before send, S3 contiguity, S9 bounds and
 * parsing, S12 what is announced is held, pd_core_check.  After healing: equal version vectors,
 * logs and digests of a real replay, nothing acknowledged lost (S5, S6, L1, L2), what does not
 * count the same everywhere and its author's own fault (S7, L9), everyone linked and speaking, the
 * file complete.  Some newcomers begin with a checkpoint: never with one that too few attest or
 * that is wrong (S15), and what lies before it is there in the end, bit for bit.
 */
#include "mesh.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum fault {
    F_KILL_THIS,
    F_KILL,
    F_BLOCK,
    F_UNBLOCK,
    F_CRASH,
    F_START,
    F_PAUSE,
    F_DISK,
    F_SNAPSHOT,
    F_RESTORE,
    F_JOIN,
    F_STOP,
    F_BAN
};

enum { BOUND_MS = 900000 };

static void fault_at(mesh *m, uint64_t at, enum fault f, uint32_t n, uint64_t a, uint64_t c) {
    happening *h = mesh_push(m, at, W_FAULT, n);
    h->b = f;
    h->a = a;
    h->c = c;
}

/* ---- the world of a seed ---- */

static void make_run(mesh *m) {
    pd_manifest *r = &m->manifest;
    *r = (pd_manifest){.model_name = "mesh",
                       .model_arch = "llama",
                       .space = PD_SPACE_ALIGNED,
                       .rank = 1,
                       .targets = 1};
    r->basis_bytes = FILE_BYTES;
    r->unit_bits = 26;
    r->n_coords = COORDS;
    r->eps = UINT64_C(1) << 33;
    r->scale = UINT64_C(1) << 40;
    r->lr = UINT64_C(1) << 30;
    r->seal_bytes_per_s = 1000;
    r->rate_max = 10;
    r->invites_max = 8;
    memcpy(r->founder, m->nodes[0].id.pub, 32);
    pd_store64(r->nonce, m->seed);
    pd_manifest_write(r, m->manifest_text, &m->manifest_bytes);
    pd_manifest_run_id(r, m->run);
    pd_replay_of(r, &m->replay);
}

static uint64_t some_time(mesh *m, uint64_t until) {
    return rng_between(&m->r, 5000, until);
}

/* One of a kind, at some node, with some number.  Drawn one after the other: C leaves the order of
 * arguments open. */
static void fault_some_time(mesh *m, uint64_t until, enum fault f, uint64_t lo, uint64_t hi) {
    uint64_t at = some_time(m, until);
    uint32_t n = (uint32_t)rng_below(&m->r, m->n_nodes);
    fault_at(m, at, f, n, rng_between(&m->r, lo, hi), 0);
}

/* A few of the nodes on the one side, one or both ways. */
static void plan_partition(mesh *m, uint64_t until) {
    uint64_t at = some_time(m, until), side = rng_next(&m->r) & ((UINT64_C(1) << m->n_nodes) - 1);
    uint64_t lasts = rng_between(&m->r, 2000, 90000);
    bool one_way = rng_percent(&m->r, 40);
    fault_at(m, at, F_BLOCK, 0, side, one_way);
    fault_at(m, at + lasts < until ? at + lasts : until, F_UNBLOCK, 0, side, 0);
}

static void plan_crash(mesh *m, uint64_t until, uint32_t n) {
    uint64_t at = some_time(m, until), down = rng_between(&m->r, 500, 40000);
    fault_at(m, at, F_CRASH, n, 0, 0);
    fault_at(m, at + down, F_START, n, 0, 0);
}

/* Members that break the rules, and one that is put out.  A founder that forgets its ban cannot be
 * told. */
static void plan_evil(mesh *m, uint64_t until, bool restores) {
    uint32_t n = m->n_nodes;
    bool forks = rng_percent(&m->r, 20), bans = rng_percent(&m->r, 20);
    uint32_t two_faced = (uint32_t)rng_below(&m->r, n),
             banned = 1 + (uint32_t)rng_below(&m->r, n - 1);
    uint64_t fork_at = rng_below(&m->r, 60), at = some_time(m, until);
    if (forks && n > 2 && !restores) {
        m->nodes[two_faced].two_faced = true;
        m->nodes[two_faced].fork_at = fork_at;
    }
    if (bans && n > 2 && !restores)
        fault_at(m, at, F_BAN, banned, 0, 0);
}

/* Swarm testing: each kind of fault is in about half of the runs, since some bugs need the absence
 * of others. */
static void plan(mesh *m, uint64_t until) {
    bool kills = rng_percent(&m->r, 60), blocks = rng_percent(&m->r, 50),
         crashes = rng_percent(&m->r, 60);
    bool pauses = rng_percent(&m->r, 40), disks = rng_percent(&m->r, 30),
         restores = rng_percent(&m->r, 40);
    bool stops = rng_percent(&m->r, 30);
    uint32_t n = m->n_nodes;
    for (uint64_t i = kills ? rng_below(&m->r, 20) : 0; i; i--)
        fault_some_time(m, until, F_KILL, 0, UINT64_MAX - 1);
    for (uint64_t i = blocks ? rng_below(&m->r, 4) : 0; i; i--)
        plan_partition(m, until);
    for (uint64_t i = crashes ? rng_below(&m->r, 8) : 0; i; i--)
        plan_crash(m, until, (uint32_t)rng_below(&m->r, n));
    for (uint64_t i = pauses ? rng_below(&m->r, 5) : 0; i; i--)
        fault_some_time(m, until, F_PAUSE, 100, 70000);
    for (uint64_t i = disks ? rng_below(&m->r, 3) : 0; i; i--)
        fault_some_time(m, until, F_DISK, 1000, 60000);
    if (restores) {
        uint32_t who = (uint32_t)rng_below(&m->r, n);
        uint64_t at = some_time(m, until / 2), back = at + rng_between(&m->r, 10000, until / 2);
        m->nodes[who].ever_restored = true;
        fault_at(m, at, F_SNAPSHOT, who, 0, 0);
        fault_at(m, back, F_RESTORE, who, 0, 0);
        fault_at(m, back + rng_between(&m->r, 500, 20000), F_START, who, 0, 0);
    }
    if (stops) {
        uint32_t who = (uint32_t)rng_below(&m->r, n);
        uint64_t at = some_time(m, until);
        fault_at(m, at, F_STOP, who, rng_percent(&m->r, 50), 0);
        fault_at(m, at + rng_between(&m->r, 5000, 60000), F_START, who, 0, 0);
    }
    if (n > 2 && !restores &&
        rng_percent(&m->r, 30)) /* a restored node whose only peer lies is lost */
        m->nodes[rng_below(&m->r, n)].liar = true;
    plan_evil(m, until, restores);
}

static mesh *make(uint64_t seed, bool ed25519) {
    mesh *m = mesh_open(seed);
    m->ed25519 = ed25519;
    uint64_t size = rng_below(&m->r, 100); /* mostly small, some a full mesh, some a partial view */
    m->n_nodes = (uint32_t)(size < 88   ? rng_between(&m->r, 2, 7)
                            : size < 96 ? rng_between(&m->r, 8, PD_MESH_MAX)
                                        : rng_between(&m->r, PD_MESH_MAX + 1, NODES_MAX));
    m->faults = rng_percent(&m->r, 85);
    for (uint32_t i = 0; i < m->n_nodes; i++)
        node_init(m, i);
    uint64_t slow = rng_percent(&m->r, 30) ? 400 : 60;
    for (uint32_t i = 0; i < m->n_nodes; i++)
        for (uint32_t k = 0; k < m->n_nodes; k++)
            m->delay[i][k] = rng_between(&m->r, 1, slow);
    if (rng_percent(&m->r, 15)) /* logs of many pieces */
        for (uint32_t i = 0; i < m->n_nodes; i++)
            m->nodes[i].rate_ms = rng_between(&m->r, 15, 60);
    rng apart = {seed ^ UINT64_C(0xc0ffee)}; /* the other seeds' worlds stay as they were */
    m->ckpts = rng_percent(&apart, 30);
    m->forged = rng_percent(&apart, 30);
    make_run(m);
    uint64_t until = rng_between(&m->r, 40000, 200000);
    if (m->faults)
        plan(m, until);
    for (uint32_t i = 1; i < m->n_nodes; i++)
        fault_at(m,
                 m->now + 100 +
                     (rng_percent(&m->r, 60) ? rng_below(&m->r, 5000) : rng_below(&m->r, until)),
                 F_JOIN, i, 0, 0);
    node_start(m, &m->nodes[0]);
    mesh_run(m, until);
    return m;
}

/* ---- what happens ---- */

static void block(mesh *m, uint64_t side, bool one_way, bool on) {
    for (uint32_t i = 0; i < m->n_nodes; i++)
        for (uint32_t k = 0; k < m->n_nodes; k++)
            if ((side >> i & 1) && !(side >> k & 1)) {
                m->blocked[i][k] = on;
                if (!one_way)
                    m->blocked[k][i] = on;
            }
}

static void start(mesh *m, node *n) {
    n->left = false;
    if (!n->core && n->member)
        node_start(m, n);
}

static void try_join(mesh *m, node *n) {
    if (n->member)
        return;
    fault_at(m, m->now + 15000, F_JOIN, n->index, 0, 0); /* and again if it comes to nothing */
    uint32_t inviter = n->n_logs ? n->ticket_from : (uint32_t)rng_below(&m->r, m->n_nodes);
    if (n->guest[0] && rng_percent(&m->r, 50) && !m->nodes[n->ticket_from].banned)
        inviter = n->ticket_from;
    if (m->nodes[inviter].banned)
        return; /* whom it admits is no member */
    node *from = &m->nodes[inviter];
    if (!n->join && from->core && from->up && from->n_invites < INVITES_MAX)
        node_join(m, n, inviter);
}

static void strike(mesh *m, const happening *h) {
    node *n = &m->nodes[h->node];
    if (m->quiet && h->b != F_KILL_THIS && h->b != F_JOIN && h->b != F_START)
        return; /* planned for later, and over too */
    static const char *const name[] = {"reset", "reset some", "block",     "unblock",  "crash",
                                       "start", "pause",      "disk full", "snapshot", "restore",
                                       "join",  "stop",       "ban"};
    if (getenv("MESH_NOTES"))
        printf("%8.3f n%u: -- %s\n", (double)m->now / 1000, h->node, name[h->b]);
    switch ((enum fault)h->b) {
    case F_KILL_THIS:
        net_kill(m, (h->a - 1) / 2);
        break;
    case F_KILL:
        for (size_t tries = 0, at = m->n_pipes ? h->a % m->n_pipes : 0; tries < m->n_pipes;
             tries++, at++)
            if (m->pipes[at % m->n_pipes].end[0].open) {
                net_kill(m, at % m->n_pipes);
                break;
            }
        break;
    case F_BLOCK:
    case F_UNBLOCK:
        block(m, h->a, h->c, h->b == F_BLOCK);
        break;
    case F_CRASH:
        if (n->core)
            node_crash(m, n);
        break;
    case F_START:
        start(m, n);
        break;
    case F_PAUSE:
        if (n->paused_until < m->now + h->a)
            n->paused_until = m->now + h->a;
        break;
    case F_DISK:
        n->disk_full_until = m->now + h->a;
        break;
    case F_SNAPSHOT:
        if (n->core &&
            (n->index || n->n_logs > 2)) { /* a founder that forgets everyone cannot be told */
            node_take_snapshot(n);
            net_turn_out(m, n); /* see net_dial: nor may one who is inside be admitted now */
        }
        break;
    case F_RESTORE:
        if (n->core && n->snap.taken)
            node_restore(m, n);
        break;
    case F_JOIN:
        try_join(m, n);
        break;
    case F_BAN:
        m->bans += evil_ban(m, n->index);
        break;
    case F_STOP:
        if (n->core && n->paused_until <= m->now) {
            pd_event e = {.kind = PD_EV_STOP, .leave = h->a};
            node_step(m, n, &e);
        }
        break;
    }
}

static void gradient(mesh *m, node *n) {
    pd_event e = {.kind = PD_EV_GRADIENT};
    if (m->quiet)
        return;
    mesh_push(m, m->now + rng_between(&n->r, n->rate_ms / 2, n->rate_ms * 3 / 2), W_GRADIENT,
              n->index);
    if (!n->core || !pd_core_may_speak(n->core, &e.author, &e.at))
        return;
    e.byte = (uint8_t)rng_next(&n->r);
    e.byte = e.byte == 0x80 ? 0 : e.byte;
    node_step(m, n, &e);
}

static void frame(mesh *m, node *n, const happening *h, bool down) {
    pipe_end *e = net_end(m, h->a);
    if (!e->open || e->epoch != n->epoch || (!down && net_other(m, h->a)->doomed))
        return;
    if (down)
        e->open = false;
    else if (n->denied[net_other(m, h->a)->node])
        mesh_fail(m, "S11: node %u takes a frame of node %u, which is banned", n->index,
                  net_other(m, h->a)->node);
    pd_event ev = {
        .kind = down ? PD_EV_SESSION_DOWN : PD_EV_FRAME, .session = h->a, .p = h->p, .n = h->n};
    node_step(m, n, &ev);
}

static void happen(mesh *m, happening *h) {
    node *n = &m->nodes[h->node];
    if (h->kind == W_FAULT) {
        strike(m, h);
        return;
    }
    if (!n->up || h->epoch != n->epoch)
        return;
    if (n->paused_until > m->now) {
        happening *later = mesh_push(m, n->paused_until, h->kind, h->node);
        uint64_t at = later->at, seq = later->seq;
        *later = *h;
        later->at = at;
        later->seq = seq;
        h->p = NULL;
        return;
    }
    pd_event e = {.session = h->a};
    switch (h->kind) {
    case W_TICK:
        e.kind = PD_EV_TICK;
        if (n->tick_at <= m->now)
            node_step(m, n, &e);
        break;
    case W_FRAME:
    case W_DOWN:
        frame(m, n, h, h->kind == W_DOWN);
        break;
    case W_UP:
        e.kind = PD_EV_SESSION_UP;
        memcpy(e.key, h->author.key, 32);
        e.outbound = h->c & 1;
        e.guest = h->c >> 1 & 1;
        e.spent = h->c >> 2 & 1;
        e.invite = h->b;
        if (net_end(m, h->a)->open)
            node_step(m, n, &e);
        break;
    case W_DIAL_FAILED:
        e.kind = PD_EV_DIAL_FAILED;
        memcpy(e.key, h->author.key, 32);
        node_step(m, n, &e);
        break;
    case W_STORED:
        if (n->core)
            node_stored(m, n, h);
        break;
    case W_FLOWING:
        if (net_end(m, h->a)->open)
            net_send(m, n, h->a, h->p, h->n);
        e.kind = PD_EV_FLOWING;
        node_step(m, n, &e);
        break;
    case W_GRADIENT:
        gradient(m, n);
        break;
    case W_LAZY:
        node_commit(m, n);
        mesh_push(m, m->now + 1000, W_LAZY, n->index);
        ckpt_turn(m, n);
        break;
    case W_INSTALL:
    case W_INSTALLED:
        ckpt_go_on(m, n, h);
        break;
    case W_FAULT:
        break;
    }
}

void mesh_run(mesh *m, uint64_t until) {
    happening h;
    uint64_t at = 0, steps = 0;
    while (!*m->failure && m->n_heap && m->heap[0].at <= until && mesh_pop(m, &h)) {
        if (h.at > at) {
            at = h.at;
            steps = m->steps;
        } else if (m->steps - steps > 20000)
            mesh_fail(m, "S9: the nodes spin without time passing");
        m->now = h.at;
        happen(m, &h);
        free(h.p);
    }
    if (!*m->failure)
        m->now = until;
}

static void heal(mesh *m) {
    m->faults = false;
    m->quiet = true;
    memset(m->blocked, 0, sizeof m->blocked);
    for (uint32_t i = 0; i < m->n_nodes; i++) {
        node *n = &m->nodes[i];
        n->disk_full_until =
            0; /* a pause ends when it ends: what waits behind it must not be overtaken */
        start(m, n);
        pd_event e = {.kind = PD_EV_FLUSH};
        if (n->core && n->paused_until <= m->now)
            node_step(m, n, &e);
    }
}

typedef struct outcome {
    uint64_t trace, steps, frames, records, healed_ms, begun, refused;
    char failure[300];
} outcome;

static outcome run_seed(uint64_t seed, bool ed25519) {
    outcome o = {0};
    char why[200] = "";
    mesh *m = make(seed, ed25519);
    uint64_t from = m->now;
    if (!*m->failure)
        heal(m);
    while (!*m->failure && !mesh_converged(m, why, sizeof why)) {
        if (m->now > from + BOUND_MS)
            mesh_fail(m, "L1: no agreement %d s after healing: %s", BOUND_MS / 1000, why);
        mesh_run(m, m->now + 1000);
        for (uint32_t i = 0; i < m->n_nodes; i++)
            start(m, &m->nodes[i]);
    }
    o = (outcome){m->trace,      m->steps,   m->frames,    m->records,
                  m->now - from, m->n_begun, m->n_refused, ""};
    snprintf(o.failure, sizeof o.failure, "%s", m->failure);
    mesh_close(m);
    return o;
}

#ifdef PD_PLANTED
extern int pd_planted;

static int planted(void) {
    static const char *const bug[] = {"",
                                      "send before STORED",
                                      "restart without listening",
                                      "a range without its seal",
                                      "sent[] kept across sessions",
                                      [10] = "a checkpoint without attestations"};
    int bad = 0;
    for (int b = 1; b <= 10; b++) {
        if (!bug[b])
            continue; /* those of tests/sim */
        pd_planted = b;
        uint64_t seed = 1;
        outcome o;
        for (o = run_seed(seed, false); !*o.failure && seed < 500; o = run_seed(++seed, false))
            ;
        bad += !*o.failure;
        printf("%-28s %s seed %llu: %s\n", bug[b], *o.failure ? "found," : "NOT FOUND,",
               (unsigned long long)seed, o.failure);
        fflush(stdout);
    }
    return bad ? 1 : 0;
}
#endif

static int one(uint64_t seed, bool ed25519, bool twice, outcome *sum) {
    outcome o = run_seed(seed, ed25519);
    if (!*o.failure && twice && run_seed(seed, ed25519).trace != o.trace)
        snprintf(o.failure, sizeof o.failure, "S14: two runs of one seed differ");
    sum->steps += o.steps;
    sum->frames += o.frames;
    sum->records += o.records;
    sum->begun += o.begun;
    sum->refused += o.refused;
    sum->healed_ms = o.healed_ms > sum->healed_ms ? o.healed_ms : sum->healed_ms;
    sum->trace = o.trace;
    if (*o.failure)
        printf("seed %llu: %s\n", (unsigned long long)seed, o.failure);
    fflush(stdout);
    return *o.failure != 0;
}

int main(int argc, char **argv) {
    if (pd_crypto_init())
        return 1;
#ifdef PD_PLANTED
    (void)argc, (void)argv, (void)one;
    return planted();
#else
    uint64_t from = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t to = argc > 2 ? strtoull(argv[2], NULL, 10) : argc > 1 ? from : 400;
    outcome sum = {0};
    int failed = 0;
    clock_t began = clock();
    for (uint64_t seed = from; seed <= to; seed++)
        failed += one(seed, false, argc == 1 && seed % 10 == 0, &sum);
    if (argc == 1)
        failed += one(11, true, false, &sum);
    printf("%llu seeds, %d failed; %llu steps, %llu frames, %llu records, %llu nodes that began "
           "with a checkpoint, %llu that were refused one; agreement after %.0f s at most; %.1f s "
           "of CPU; "
           "last trace %016llx\n",
           (unsigned long long)(to - from + 1), failed, (unsigned long long)sum.steps,
           (unsigned long long)sum.frames, (unsigned long long)sum.records,
           (unsigned long long)sum.begun, (unsigned long long)sum.refused,
           (double)sum.healed_ms / 1000, (double)(clock() - began) / CLOCKS_PER_SEC,
           (unsigned long long)sum.trace);
    return failed ? 1 : 0;
#endif
}
