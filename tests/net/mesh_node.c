/* mesh_node.c - one node around its core: keys, ledger and store, the driver that carries actions
 * out. */
#include "mesh.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- the ledger and the store ---- */

slog *node_log(node *n, const pd_author *a, uint8_t stream, bool make) {
    for (uint32_t i = 0; i < n->n_logs; i++)
        if (n->logs[i].stream == stream && n->logs[i].author.inc == a->inc &&
            !memcmp(n->logs[i].author.key, a->key, 32))
            return &n->logs[i];
    if (!make)
        return NULL;
    assert(n->n_logs < LOGS_MAX);
    slog *l = &n->logs[n->n_logs++];
    *l = (slog){.author = *a, .stream = stream, .void_at = PD_VOID_NEVER};
    return l;
}

static void grow(uint8_t **p, uint64_t *room, uint64_t n) {
    if (n <= *room)
        return;
    *room = n * 2 + 256;
    *p = realloc(*p, *room);
}

truth *mesh_truth(mesh *m, const pd_author *a, uint8_t stream) {
    for (uint32_t i = 0; i < m->n_truths; i++)
        if (m->truths[i].stream == stream && m->truths[i].author.inc == a->inc &&
            !memcmp(m->truths[i].author.key, a->key, 32))
            return &m->truths[i];
    assert(m->n_truths < LOGS_MAX);
    truth *t = &m->truths[m->n_truths++];
    *t = (truth){.author = *a, .stream = stream};
    return t;
}

static node *owner_of(mesh *m, const uint8_t key[32]) {
    for (uint32_t i = 0; i < m->n_nodes; i++)
        if (!memcmp(m->nodes[i].id.pub, key, 32))
            return &m->nodes[i];
    return NULL;
}

/* Someone other than the author took these bytes: from now on they are what the author said, for
 * ever. */
static void witness(mesh *m, const node *n, const slog *l) {
    if (evil_is_forked(m, &l->author, l->stream))
        return;
    truth *t = mesh_truth(m, &l->author, l->stream);
    uint64_t common = t->n < l->n ? t->n : l->n;
    if (t->n < l->base)
        return; /* it begins behind what anybody can compare */
    if (common && memcmp(t->bytes + l->base, l->bytes + l->base, common - l->base)) {
        uint64_t at = l->base;
        while (t->bytes[at] == l->bytes[at])
            at++;
        mesh_fail(m,
                  "S1: node %u took another byte for step %llu of an author (stream %u) than was "
                  "seen before",
                  n->index, (unsigned long long)at, l->stream);
        return;
    }
    if (l->n > t->n) {
        grow(&t->bytes, &t->room, l->n);
        memcpy(t->bytes + t->n, l->bytes + t->n, l->n - t->n);
        t->n = l->n;
    }
}

static void append(mesh *m, node *n, const pd_author *a, uint8_t stream, uint64_t from,
                   const uint8_t *p, size_t size, const uint8_t seal[64]) {
    slog *l = node_log(n, a, stream, true);
    if (from != l->n) {
        mesh_fail(m, "S3: node %u stores at %llu of a log of %llu", n->index,
                  (unsigned long long)from, (unsigned long long)l->n);
        return;
    }
    grow(&l->bytes, &l->room, from + size);
    memcpy(l->bytes + from, p, size);
    l->n = from + size;
    memcpy(l->seal, seal, 64);
}

void node_commit(mesh *m, node *n) {
    n->incarnation = n->next_incarnation;
    for (uint32_t i = 0; i < n->n_logs; i++) {
        slog *l = &n->logs[i];
        l->durable = l->n;
        memcpy(l->durable_seal, l->seal, 64);
        if (l->n && memcmp(l->author.key, n->id.pub, 32) && !n->ever_restored && !n->restored &&
            !n->banned && !evil_is_forked(m, &l->author, l->stream)) {
            truth *t = mesh_truth(m, &l->author, l->stream);
            t->kept = t->kept < l->n ? l->n : t->kept;
        }
    }
}

void node_take_snapshot(node *n) {
    snapshot *s = &n->snap;
    s->taken = true;
    s->n_logs = n->n_logs;
    s->incarnation = n->incarnation;
    for (uint32_t i = 0; i < n->n_logs; i++) {
        s->n[i] = n->logs[i].durable;
        memcpy(s->seal[i], n->logs[i].durable_seal, 64);
    }
}

/* What only memory held is gone, and with a restored author's backup perhaps for good: nobody can
 * know it any more. */
static void forget_lost(mesh *m) {
    for (uint32_t i = 0; i < m->n_truths; i++) {
        truth *t = &m->truths[i];
        node *author = owner_of(m, t->author.key);
        uint64_t most = 0;
        for (uint32_t k = 0; k < m->n_nodes; k++) {
            slog *l = node_log(&m->nodes[k], &t->author, t->stream, false);
            most = l && l->n > most ? l->n : most;
        }
        if (author->ever_restored && t->n > most)
            t->n = most;
    }
}

void node_restore(mesh *m, node *n) {
    snapshot *s = &n->snap;
    node_crash(m, n);
    for (uint32_t i = 0; i < n->n_logs; i++) {
        slog *l = &n->logs[i];
        l->n = l->durable = i < s->n_logs ? s->n[i] : 0;
        memcpy(l->seal, s->seal[i], 64);
        memcpy(l->durable_seal, s->seal[i], 64);
    }
    n->incarnation = n->next_incarnation = s->incarnation;
    n->restored = true;
    forget_lost(m);
}

/* ---- what the core is given ---- */

static void cheap_sign(uint64_t secret, const void *msg, size_t n, uint8_t sig[64]) {
    for (unsigned i = 0; i < 8; i++)
        pd_store64(sig + 8 * i, pd_xxh64(msg, n, secret + i));
}

static void sign(void *ctx, const void *msg, size_t size, uint8_t sig[64]) {
    node *n = ctx;
    if (n->net->ed25519)
        pd_sign(&n->id, msg, size, sig);
    else
        cheap_sign(n->secret, msg, size, sig);
}

void node_sign(node *n, const void *msg, size_t size, uint8_t sig[64]) {
    sign(n, msg, size, sig);
}

static bool verify(void *ctx, const uint8_t pub[32], const void *msg, size_t size,
                   const uint8_t sig[64]) {
    node *n = ctx;
    if (n->net->ed25519)
        return pd_verify(pub, msg, size, sig);
    node *who = owner_of(n->net, pub);
    uint8_t right[64];
    if (!who)
        return false;
    cheap_sign(who->secret, msg, size, right);
    return !memcmp(right, sig, 64);
}

static uint64_t entropy(void *ctx) {
    return rng_next(&((node *)ctx)->r);
}

static bool log_seal(void *ctx, const pd_author *a, uint8_t stream, uint64_t *n, uint8_t seal[64]) {
    slog *l = node_log(ctx, a, stream, false);
    *n = l ? l->n : 0;
    if (l)
        memcpy(seal, l->seal, 64);
    return *n > 0;
}

static size_t log_read(void *ctx, const pd_author *a, uint8_t stream, uint64_t from, uint8_t *out,
                       size_t room) {
    slog *l = node_log(ctx, a, stream, false);
    if (!l || from >= l->n || from < l->base)
        return 0;
    size_t n = l->n - from < room ? (size_t)(l->n - from) : room;
    memcpy(out, l->bytes + from, n);
    return n;
}

uint8_t file_byte(uint64_t at) {
    return (uint8_t)(at * 2654435761u >> 13);
}

static size_t log_file(void *ctx, const uint8_t digest[16], uint64_t offset, uint8_t *out,
                       size_t room, uint64_t *total) {
    node *n = ctx;
    if (digest[0] != 7)
        return ckpt_file(n, digest, offset, out, room, total);
    *total = FILE_BYTES;
    if (offset >= n->file_got || n->file_got < FILE_BYTES)
        return 0;
    size_t size = FILE_BYTES - offset < room ? (size_t)(FILE_BYTES - offset) : room;
    for (size_t i = 0; i < size; i++)
        out[i] = file_byte(offset + i);
    return size;
}

static uint64_t log_base(void *ctx, const pd_author *a, uint8_t mark[32]) {
    const slog *l = node_log(ctx, a, PD_STREAM_GRADIENTS, false);
    if (l && l->base)
        memcpy(mark, l->mark, 32);
    return l ? l->base : 0;
}

static uint8_t *log_room(void *ctx, unsigned stage, size_t bytes) {
    node *n = ctx;
    if (bytes > ROOM_MAX)
        return NULL;
    n->stage[stage] = realloc(n->stage[stage], bytes + 1);
    return n->stage[stage];
}

/* ---- processes ---- */

void node_init(mesh *m, uint32_t i) {
    node *n = &m->nodes[i];
    uint8_t seed[32] = {0};
    n->net = m;
    n->index = i;
    n->r.s = m->seed * 1000003 + i * 7919 + 17;
    n->secret = rng_next(&n->r);
    for (unsigned k = 0; k < 4; k++)
        pd_store64(seed + 8 * k, rng_next(&n->r));
    if (m->ed25519)
        pd_identity_from_seed(seed, &n->id);
    else
        memcpy(n->id.pub, seed, 32);
    n->rate_ms = rng_between(&m->r, 200, 4000);
}

static pd_addr addr_of(uint32_t i) {
    pd_addr a = {.family = 4, .ip = {10, 0, 0, (uint8_t)(i + 1)}, .port = (uint16_t)(i + 1)};
    return a;
}

static const pd_core_crypto *crypto_of(node *n, pd_core_crypto *c) {
    *c = (pd_core_crypto){n, sign, verify, entropy};
    return c;
}

void node_start(mesh *m, node *n) {
    pd_core_conf conf = {.incarnation = n->incarnation,
                         .manifest = m->manifest_text,
                         .manifest_bytes = m->manifest_bytes,
                         .n_listen = 1,
                         .members_max = NODES_MAX + PD_MEMBERS_SPARE,
                         .stage_bytes = 1 << 12,
                         .restored = n->restored,
                         .hold = n->hold};
    memcpy(conf.run, m->run, 32);
    memcpy(conf.key, n->id.pub, 32);
    memcpy(conf.founder, m->nodes[0].id.pub, 32);
    snprintf(conf.name, sizeof conf.name, "n%u", n->index);
    conf.listen[0] = addr_of(n->index);
    pd_known_addr known[2];
    memcpy(known[0].key, m->nodes[n->ticket_from].id.pub, 32);
    known[0].addr = addr_of(n->ticket_from);
    conf.known = known;
    conf.n_known = 1;
    pd_core_crypto c;
    pd_core_log log = {.ctx = n,
                       .seal = log_seal,
                       .read = log_read,
                       .file = log_file,
                       .room = log_room,
                       .base = log_base};
    if (!n->arena)
        n->arena = aligned_alloc(64, (pd_core_bytes(&conf) + 63) / 64 * 64);
    if (pd_core_open(&conf, crypto_of(n, &c), &log, m->now, n->arena, pd_core_bytes(&conf),
                     &n->core)) {
        mesh_fail(m, "node %u does not open: %s", n->index, pd_fail_text());
        return;
    }
    for (uint32_t i = 0; i < n->n_logs; i++)
        n->logs[i].void_at = pd_core_void_at(n->core, &n->logs[i].author);
    memset(n->denied, 0, sizeof n->denied);
    n->up = n->member = true;
    n->stopping = false;
    n->tick_at = 0;
    if (n->index == 0)
        n->file_got = FILE_BYTES;
    pd_event e = {.kind = PD_EV_TICK};
    node_step(m, n, &e);
    if (n->file_got < FILE_BYTES && !n->hold) {
        pd_event f = {.kind = PD_EV_FETCH, .at = n->file_got, .n = FILE_BYTES, .digest = {7}};
        node_step(m, n, &f);
    }
    mesh_push(m, m->now + rng_below(&m->r, n->rate_ms), W_GRADIENT, n->index);
    mesh_push(m, m->now + 1000, W_LAZY, n->index);
}

void node_join(mesh *m, node *n, uint32_t inviter) {
    node *from = &m->nodes[inviter];
    if (!n->join_arena)
        n->join_arena = malloc(pd_join_bytes());
    if (!from->n_invites || memcmp(from->invites[from->n_invites - 1].guest, n->guest, 32) ||
        inviter != n->ticket_from) {
        assert(from->n_invites < INVITES_MAX);
        for (unsigned k = 0; k < 4; k++)
            pd_store64(n->guest + 8 * k, rng_next(&n->r));
        invite *inv = &from->invites[from->n_invites++];
        *inv = (invite){.id = rng_next(&m->r)};
        memcpy(inv->guest, n->guest, 32);
    }
    n->ticket_from = inviter;
    pd_addr addr = addr_of(inviter);
    pd_join_conf conf = {.addrs = &addr, .n_addrs = 1, .listen = addr_of(n->index)};
    memcpy(conf.net, m->run, 16);
    memcpy(conf.inviter, from->id.pub, 32);
    memcpy(conf.guest, n->guest, 32);
    memcpy(conf.key, n->id.pub, 32);
    snprintf(conf.name, sizeof conf.name, "n%u", n->index);
    pd_core_crypto c;
    pd_err e =
        pd_join_open(&conf, crypto_of(n, &c), m->now, n->join_arena, pd_join_bytes(), &n->join);
    assert(!e);
    (void)e;
    n->up = true;
    n->tick_at = 0;
    pd_event tick = {.kind = PD_EV_TICK};
    node_step(m, n, &tick);
}

void node_crash(mesh *m, node *n) {
    n->up = false;
    n->core = NULL;
    n->join = NULL;
    n->n_clogged = 0;
    n->paused_until = 0;
    n->epoch++;
    net_crash(m, n->index);
    n->next_incarnation = n->incarnation;
    for (uint32_t i = 0; i < n->n_logs; i++) {
        n->logs[i].n = n->logs[i].durable;
        memcpy(n->logs[i].seal, n->logs[i].durable_seal, 64);
    }
    forget_lost(m);
}

/* ---- actions ---- */

static void store(mesh *m, node *n, const pd_action *a) {
    if (!a->own) {
        append(m, n, &a->author, a->stream, a->at, a->p, a->n, a->seal);
        if (memcmp(a->author.key, n->id.pub, 32))
            witness(m, n, node_log(n, &a->author, a->stream, true));
        return;
    }
    happening *h = mesh_push(m, m->now + rng_between(&n->r, 1, 60), W_STORED, n->index);
    h->author = a->author;
    h->b = a->stream;
    h->c = a->at;
    h->n = a->n;
    h->p = malloc(a->n);
    memcpy(h->p, a->p, a->n);
    memcpy(h->seal, a->seal, 64);
}

void node_stored(mesh *m, node *n, const happening *h) {
    pd_event e = {
        .kind = PD_EV_STORED, .author = h->author, .stream = (uint8_t)h->b, .at = h->c + h->n};
    if (m->now < n->disk_full_until)
        e.kind = PD_EV_STORE_FAILED;
    else {
        n->incarnation = n->next_incarnation;
        append(m, n, &h->author, (uint8_t)h->b, h->c, h->p, h->n, h->seal);
        node_commit(m, n);
        m->records += h->b == PD_STREAM_GRADIENTS ? h->n : 0;
    }
    node_step(m, n, &e);
}

/* A liar changes one byte of somebody else's log that it passes on. */
static size_t lie(mesh *m, node *n, uint64_t session, const uint8_t *p, size_t size, uint8_t *out) {
    pipe_end *e = net_end(m, session);
    pd_reader r;
    pd_item it;
    uint64_t ack;
    memcpy(out, p, size);
    if (!n->liar || m->quiet || !pd_frame_open(p, size, &r, &ack))
        return size;
    while (pd_frame_next(&r, &it))
        if (it.kind == PD_ITEM_SEG && memcmp(e->alias[it.u.seg.alias].key, n->id.pub, 32) &&
            rng_percent(&m->r, 50))
            out[it.u.seg.bytes - p] ^= out[it.u.seg.bytes - p] == 0x81 ? 2 : 1;
    return size;
}

static void send(mesh *m, node *n, const pd_action *a) {
    uint8_t frame[PD_FRAME_MAX];
    if (n->core)
        net_watch(m, n, a->session, a->p, a->n);
    size_t size = lie(m, n, a->session, a->p, a->n, frame);
    evil_two_faces(m, n, a->session, frame, size);
    pipe_end *e = net_end(m, a->session);
    bool clog = n->core && m->faults && rng_percent(&m->r, 2);
    if (e->clogged_until > m->now)
        return; /* a BYE behind the frame that is kept: it may be lost */
    if (!clog) {
        net_send(m, n, a->session, frame, size);
        return;
    }
    happening *h = mesh_push(m, m->now + rng_between(&m->r, 20, 3000), W_FLOWING, n->index);
    h->a = a->session;
    h->p = malloc(size);
    h->n = size;
    memcpy(h->p, frame, size);
    e->clogged_until = h->at;
    n->clogged[n->n_clogged++] = a->session;
}

static void joined(mesh *m, node *n) {
    node_commit(m, n);
    n->join = NULL;
    n->hold = m->ckpts && rng_percent(&m->r, 60);
    n->hold_until = m->now + 60000;
    n->want = FILES_MAX;
    node_start(m, n);
}

static void stopped(mesh *m, node *n, bool fatal) {
    if (fatal)
        mesh_fail(m, "S8: node %u ends itself, though nobody copied it", n->index);
    n->left = true;
    node_commit(m, n);
    node_crash(m, n);
}

static void take_piece(mesh *m, node *n, const pd_action *a) {
    for (size_t i = 0; i < a->n; i++)
        n->file_bad |= a->p[i] != file_byte(a->at + i);
    if (a->at != n->file_got || n->file_bad)
        mesh_fail(m, "node %u gets a wrong piece of the file at %llu", n->index,
                  (unsigned long long)a->at);
    n->file_got += a->n;
}

/* Returns false if the process is no more. */
static bool carry_out(mesh *m, node *n, const pd_action *a) {
    switch (a->kind) {
    case PD_ACT_SEND:
        send(m, n, a);
        break;
    case PD_ACT_CLOSE:
        net_close(m, n, a->session);
        break;
    case PD_ACT_DIAL:
        net_dial(m, n, a);
        break;
    case PD_ACT_STORE:
        store(m, n, a);
        break;
    case PD_ACT_ALLOW:
    case PD_ACT_DENY:
        if (owner_of(m, a->key))
            n->denied[owner_of(m, a->key)->index] = a->kind == PD_ACT_DENY;
        break;
    case PD_ACT_VOID:
        node_log(n, &a->author, PD_STREAM_GRADIENTS, true)->void_at = a->at;
        break;
    case PD_ACT_META:
        n->next_incarnation = (uint32_t)a->at;
        break;
    case PD_ACT_INVITE_USED:
        for (uint32_t i = 0; i < n->n_invites; i++)
            n->invites[i].spent |= n->invites[i].id == a->invite;
        break;
    case PD_ACT_FILE:
        if (n->hold)
            ckpt_piece(m, n, a);
        else
            take_piece(m, n, a);
        break;
    case PD_ACT_INSTALLED:
        ckpt_installed(m, n, a);
        break;
    case PD_ACT_PREFIX:
        ckpt_prefix(m, n, a);
        break;
    case PD_ACT_NOTE:
        if (getenv("MESH_NOTES"))
            printf("%8.3f n%u: %s\n", (double)m->now / 1000, n->index, a->text);
        break;
    case PD_ACT_REFUSED:
        if (getenv("MESH_NOTES"))
            printf("%8.3f n%u: refused: %s\n", (double)m->now / 1000, n->index, a->text);
        n->join = NULL;
        n->up = false;
        break;
    case PD_ACT_JOINED:
        joined(m, n);
        return false;
    case PD_ACT_STOPPED:
    case PD_ACT_FATAL:
        stopped(m, n, a->kind == PD_ACT_FATAL);
        return false;
    default:
        break;
    }
    return true;
}

void node_step(mesh *m, node *n, const pd_event *e) {
    pd_action *acts =
        malloc(PD_ACTIONS_MAX * sizeof *acts); /* a process that starts in here steps too */
    size_t k = n->core ? pd_core_step(n->core, m->now, e, acts, PD_ACTIONS_MAX)
                       : pd_join_step(n->join, m->now, e, acts, PD_ACTIONS_MAX);
    m->steps++;
    mesh_mix(m, m->now << 8 ^ (uint64_t)n->index << 4 ^ (uint64_t)e->kind);
    assert(!n->n_clogged || e->kind == PD_EV_CLOGGED);
    bool alive = true;
    for (size_t i = 0; alive && i < k && !*m->failure; i++) {
        mesh_mix(m, (uint64_t)acts[i].kind ^ acts[i].n << 8 ^ acts[i].at << 24);
        alive = carry_out(m, n, &acts[i]);
    }
    free(acts);
    if (!alive || !n->up || *m->failure)
        return;
    if (n->n_clogged) {
        pd_event c = {.kind = PD_EV_CLOGGED, .session = n->clogged[--n->n_clogged]};
        node_step(m, n, &c);
        return;
    }
    char why[128];
    if (n->core && m->steps % 4 == 0 && !pd_core_check(n->core, why, sizeof why))
        mesh_fail(m, "node %u: %s", n->index, why);
    if (n->core && m->steps % 64 == 0)
        mesh_mix(m, pd_core_state_hash(n->core));
    uint64_t wake = n->core ? pd_core_wake(n->core) : pd_join_wake(n->join);
    if (wake == UINT64_MAX)
        return;
    wake = wake < m->now ? m->now : wake;
    if (n->tick_at <= m->now || wake < n->tick_at) {
        n->tick_at = wake;
        mesh_push(m, wake, W_TICK, n->index);
    }
}

/* ---- replay ---- */

void node_digest(mesh *m, const node *n, uint8_t out[16]) {
    int32_t a[COORDS];
    if (!ckpt_coords(m, n, n->lied_to, a))
        memset(a, 0xff, sizeof a); /* equal to nobody's */
    pd_replay_digest(a, COORDS, out);
}
