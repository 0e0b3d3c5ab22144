/* mesh_world.c - what happens to the nodes: faults strike, events reach a core, time passes. */
#include "mesh.h"

#include <stdio.h>
#include <stdlib.h>

void mesh_fault_at(mesh *m, uint64_t at, enum fault f, uint32_t n, uint64_t a, uint64_t c) {
    happening *h = mesh_push(m, at, W_FAULT, n);
    h->b = f;
    h->a = a;
    h->c = c;
}

void mesh_make_run(mesh *m) {
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

void mesh_start(mesh *m, node *n) {
    n->left = false;
    if (!n->core && n->member)
        node_start(m, n);
}

static void try_join(mesh *m, node *n) {
    if (n->member)
        return;
    mesh_fault_at(m, m->now + 15000, F_JOIN, n->index, 0, 0); /* and again if it comes to nothing */
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
        mesh_start(m, n);
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

void mesh_heal(mesh *m) {
    m->faults = false;
    m->quiet = true;
    memset(m->blocked, 0, sizeof m->blocked);
    for (uint32_t i = 0; i < m->n_nodes; i++) {
        node *n = &m->nodes[i];
        n->disk_full_until =
            0; /* a pause ends when it ends: what waits behind it must not be overtaken */
        mesh_start(m, n);
        pd_event e = {.kind = PD_EV_FLUSH};
        if (n->core && n->paused_until <= m->now)
            node_step(m, n, &e);
    }
}
