/* node.c - one node: its keys, its ledger as the core reads it, and the life of its process. */
#include "sim.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

enum { JOIN_AGAIN_MS = 15000 };

/* ---- keys ---- */

void node_init(sim *s, uint32_t i) {
    node *n = &s->nodes[i];
    pd_rng r = rng_of(s->o.seed, "node", i);
    uint8_t seed[32];
    n->world = s;
    n->index = i;
    n->twin = n->successor = n->want = NOBODY;
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
    bool busy = percent(&r, s->ckpts ? 60 : 15); /* only long logs have a base */
    n->gap_ms = busy ? draw_log(&r, 50, 500) : draw_log(&r, 400, 30000);
    n->phase_ms = percent(&r, 40) ? draw(&r, 5000, 60000) : 0;
    uint64_t joins =
        percent(&r, s->ckpts ? 40 : 70) ? draw(&r, 100, 5000) : draw(&r, 100, s->planned);
    n->stage_bytes = percent(&r, 30) ? (uint32_t)draw_log(&r, 64, 4096) : 1 << 16;
    n->seal_records = percent(&r, 20) ? (uint32_t)draw_log(&r, 1, 32) : 0;
    n->members_max = percent(&r, 30) ? s->n_nodes + PD_MEMBERS_SPARE : 0;
    if (s->o.table || s->o.pair)
        n->seal_records = n->members_max = 0;
    n->r = rng_of(s->o.seed, "entropy", i);
    for (uint32_t k = 0; k < s->n_faults; k++) {
        const fault *f = &s->faults[k];
        bool forgets = f->kind == F_RESTORE || f->kind == F_LIE || f->kind == F_ROT ||
                       f->kind == F_CLONE || (f->kind == F_LEAVE && f->arg) ||
                       (f->kind >= F_EQUIVOCATE && f->kind <= F_SILENT);
        n->forgets |= f->node == i && forgets && !f->dropped;
        if (f->kind == F_ROTATE && f->node == i && !f->dropped)
            n->successor = (uint32_t)f->arg;
    }
    if (s->o.table || s->o.pair)
        n->gap_ms = s->o.table ? 1000 : s->o.pair == PAIR_OVERLOAD ? 50 : 250, n->phase_ms = 0;
    else if (i > 0 && i < s->n_members)
        sim_push(s, s->now + joins, W_JOIN, i);
}

/* A keyed hash that only the key's owner can compute: honest code cannot forge it, and it costs
 * less than a hundredth of Ed25519. */
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

static void core_sign(void *ctx, const void *msg, size_t size, uint8_t sig[64]) {
    node_sign(ctx, msg, size, sig);
}

bool node_verify(void *any_node, const uint8_t pub[32], const void *msg, size_t size,
                 const uint8_t sig[64]) {
    sim *s = ((node *)any_node)->world;
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
    *c = (pd_core_crypto){n, core_sign, node_verify, entropy};
    return c;
}

/* ---- the ledger, as the core reads it ---- */

static bool log_seal(void *ctx, const pd_author *a, uint8_t stream, uint64_t *n, uint8_t seal[64]) {
    node *me = ctx;
    *n = 0;
    if (me->world->o.table && a->inc > 0)
        return false; /* nobody is struck there: that many logs need no numbers */
    uint32_t log = log_number(me->world, a, stream);
    *n = log < me->n_logs ? me->logs[log].n : 0;
    if (*n)
        disk_seal(me->world, me, log, seal);
    return *n > 0;
}

static size_t log_read(void *ctx, const pd_author *a, uint8_t stream, uint64_t from, uint8_t *out,
                       size_t room) {
    node *me = ctx;
    uint32_t log = log_number(me->world, a, stream);
    return log == NOBODY ? 0 : disk_read(me->world, me, log, from, out, room);
}

static uint64_t log_base(void *ctx, const pd_author *a, uint8_t mark[32]) {
    node *me = ctx;
    uint32_t log = me->begun ? log_number(me->world, a, PD_STREAM_GRADIENTS) : NOBODY;
    uint64_t base = log < me->n_logs ? disk_base(&me->logs[log]) : 0;
    if (base)
        memcpy(mark, me->logs[log].begun->mark, 32);
    return base;
}

static size_t log_file(void *ctx, const uint8_t digest[16], uint64_t offset, uint8_t *out,
                       size_t room, uint64_t *total) {
    return ckpt_read(ctx, digest, offset, out, room, total);
}

static uint8_t *log_room(void *ctx, unsigned stage, size_t bytes) {
    node *me = ctx;
    uint8_t *p = bytes ? realloc(me->room[stage], bytes) : NULL;
    if (!bytes)
        free(me->room[stage]);
    else if (!p)
        abort();
    return me->room[stage] = p;
}

void node_free_rooms(node *n) {
    for (unsigned i = 0; i < PD_STAGES; i++)
        (void)log_room(n, i, 0);
}

/* ---- processes ---- */

pd_addr node_addr(const node *n) {
    uint32_t i = n->index;
    return (pd_addr){.family = 4,
                     .ip = {10, (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i},
                     .port = (uint16_t)(i + 1)};
}

static void configure(sim *s, node *n, pd_core_conf *conf, pd_known_addr *known) {
    *conf = (pd_core_conf){.incarnation = n->incarnation,
                           .manifest = s->manifest_text,
                           .manifest_bytes = s->manifest_bytes,
                           .n_listen = 1,
                           .stage_bytes = n->stage_bytes,
                           .seal_ms = s->seal_ms,
                           .seal_records = n->seal_records,
                           .members_max = n->members_max,
                           .solo = n->solo,
                           .hold = n->hold,
                           .ckpt_ms = s->ckpt_ms,
                           .restored = n->restored};
    memcpy(conf->run, s->run, 32);
    memcpy(conf->key, n->id.pub, 32);
    memcpy(conf->founder, s->nodes[0].id.pub, 32);
    snprintf(conf->name, sizeof conf->name, "n%u", n->index);
    conf->listen[0] = node_addr(n);
    const node *from = n->ticket.inviter == NOBODY || s->nodes[n->ticket.inviter].passed_on
                           ? &s->nodes[0]
                           : &s->nodes[n->ticket.inviter];
    memcpy(known->key, from->id.pub, 32);
    known->addr = node_addr(from);
    conf->known = known;
    conf->n_known = 1;
    if (s->o.table)
        table_configure(s, n, conf);
}

/* Replay begins anew, at the base model or a checkpoint, with the void steps that the ledger
 * remembers. */
static void remember_voids(sim *s, node *n) {
    memset(n->model, 0, sizeof n->model);
    if (n->begun)
        memcpy(n->model, n->began_at, sizeof n->model);
    for (uint32_t log = 0; log < n->n_logs && log < s->n_authors * PD_STREAMS; log++) {
        n->logs[log].folded = n->logs[log].begun ? n->logs[log].begun->folded : 0;
        n->logs[log].cut = pd_core_void_at(n->core, &s->truths[log].author) + 1;
    }
}

void node_start(sim *s, node *n) {
    pd_core_conf conf;
    pd_known_addr known;
    pd_core_crypto c;
    pd_core_log log = {.ctx = n,
                       .seal = log_seal,
                       .read = log_read,
                       .file = log_file,
                       .room = log_room,
                       .base = log_base};
    configure(s, n, &conf, &known);
    if (!n->arena)
        n->arena = aligned_alloc(64, (pd_core_bytes(&conf) + 63) / 64 * 64);
    if (pd_core_open(&conf, crypto_of(n, &c), &log, core_time(s), n->arena, pd_core_bytes(&conf),
                     &n->core)) {
        sim_fail(s, SAFETY, "S4", "node %u does not open: %s", n->index, pd_fail_text());
        return;
    }
    sim_say(s, "n%u starts%s", n->index, n->restored ? " from a backup" : "");
    remember_voids(s, n);
    n->up = n->member = true;
    n->spoke = n->gone = false;
    n->tick_at = 0;
    n->want = NOBODY;
    n->started = n->commit_at = s->now;
    pd_event e = {.kind = PD_EV_TICK};
    node_step(s, n, &e);
    if (s->o.table) {
        table_started(s, n);
        return;
    }
    sim_push(s, s->now + draw(&n->r, 0, n->gap_ms), W_GRADIENT, n->index);
    sim_push(s, s->now + COMMIT_MS, W_COMMIT, n->index);
}

/* Does its own control log, as it is on its disk, name its next key? */
static bool has_passed_on(sim *s, node *n) {
    bool found = false;
    for (uint32_t inc = 0; !found && inc < PD_INCARNATIONS; inc++) {
        uint32_t author = s->author_of[n->index * PD_INCARNATIONS + inc],
                 log = author * PD_STREAMS + PD_STREAM_CONTROL;
        size_t size = author == NOBODY ? 0 : (size_t)disk_log(s, n, log)->durable;
        uint8_t *text = malloc(size + 1);
        if (!text)
            abort();
        if (size)
            size = disk_read(s, n, log, 0, text, size);
        found = pd_control_rotates(text, size, s->nodes[n->successor].id.pub);
        free(text);
    }
    return found;
}

void node_pass_on(sim *s, node *n) {
    node *next = &s->nodes[n->successor];
    n->gone = n->passed_on = next->member = true;
    disk_copy(s, next, n);
    ckpt_pass_on(next, n);
    next->incarnation = next->next_incarnation = 0;
    sim_say(s, "n%u goes on as n%u", n->index, next->index);
    node_start(s, next);
}

void node_start_again(sim *s, node *n) {
    if (n->up || !n->member || n->gone || n->evil_now || (n->ended && !s->healed) ||
        (n->twin != NOBODY && s->healed))
        return;
    if (n->heard && has_passed_on(s, n))
        node_pass_on(s, n);
    else
        node_start(s, n);
}

static void join(sim *s, node *n) {
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
    pd_err e = pd_join_open(&conf, crypto_of(n, &c), core_time(s), n->join_arena, pd_join_bytes(),
                            &n->join);
    assert(!e);
    (void)e;
    n->up = true;
    n->tick_at = 0;
    pd_event tick = {.kind = PD_EV_TICK};
    node_step(s, n, &tick);
}

/* Invitations between a member and the founder, and of how many it is the inviter. */
static bool may_admit(const sim *s, const node *n) {
    uint32_t depth = 0, guests = 0;
    for (const node *m = n; m->index && m->ticket.inviter != NOBODY && depth < PD_INVITE_DEPTH;
         m = &s->nodes[m->ticket.inviter])
        depth++;
    for (uint32_t i = 0; i < s->n_members; i++)
        guests += s->nodes[i].ticket.inviter == n->index;
    return n->index == 0 || (depth < PD_INVITE_DEPTH && guests < PD_INVITES_ALL);
}

/* Whoever invites must not forget it: nobody else could tell that the newcomer was admitted. */
static bool can_invite(const sim *s, const node *n) {
    bool will_forget = false;
    for (uint32_t i = 0; n->forgets && !s->healed && i < s->n_faults; i++) {
        const fault *f = &s->faults[i];
        will_forget |= f->node == n->index && !f->dropped &&
                       (f->kind == F_RESTORE || f->kind == F_LIE) && s->now < f->end;
    }
    return n->core && !will_forget && !n->gone && !n->copied && !n->out && may_admit(s, n);
}

void node_try_join(sim *s, node *n) {
    if (n->member)
        return;
    sim_push(s, s->now + JOIN_AGAIN_MS, W_JOIN, n->index); /* again, if it comes to nothing */
    if (n->join)
        return;
    if (n->ticket.inviter == NOBODY || s->nodes[n->ticket.inviter].gone ||
        s->nodes[n->ticket.inviter].evil_now) {
        uint32_t who = (uint32_t)draw(&n->r, 0, s->n_members - 1);
        if (who == n->index || !can_invite(s, &s->nodes[who]))
            who = 0;
        if (!can_invite(s, &s->nodes[who]))
            return;
        n->ticket.inviter = who; /* another ticket, unused */
        n->ticket.spent = false;
    }
    join(s, n);
}

void node_end_process(node *n) {
    n->up = false;
    n->core = NULL;
    n->join = NULL;
    n->busy_until = 0;
    n->epoch++;
    node_free_rooms(n);
}

void node_crash(sim *s, node *n, pd_rng *r, bool silent) {
    if (!n->up || n->evil_now)
        return;
    sim_say(s, "n%u crashes%s", n->index, silent ? ", silently" : "");
    path_crash(s, n, r, silent);
    node_end_process(n);
    disk_lose(s, n);
    if (n->forgets)
        disk_forget(s);
}

/* Gone without a trace: the process, and what it did. */
void node_halt(sim *s, node *n) {
    pd_rng r = rng_of(s->o.seed, "halt", n->index);
    path_crash(s, n, &r, false);
    node_end_process(n);
    disk_lose(s, n);
    evil_close(n->puppet);
    n->puppet = NULL;
}

void node_turn(sim *s, node *n, const fault *f) {
    if (!n->core)
        return;
    node_halt(s, n);
    if (f->kind == F_EQUIVOCATE)
        disk_fork(s, n);
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
    disk_fork(s, n);
    n->copied = true;
    twin->twin = n->index;
    twin->id = n->id;
    twin->secret = n->secret;
    twin->ticket = n->ticket;
    twin->forgets = true;
    disk_copy(s, twin, n);
    node_start(s, twin);
}

/* ---- replay ---- */

void node_fold(sim *s, node *n, uint32_t log) {
    slog *l = disk_log(s, n, log);
    const truth *t = &s->truths[log];
    const uint8_t *bytes = l->own ? l->own->bytes : t->bytes;
    uint64_t counts = l->n < l->cut - 1 || BROKEN(s, BROKEN_MERCY) ? l->n : l->cut - 1;
    if (t->stream != PD_STREAM_GRADIENTS || l->folded == counts)
        return;
    if ((l->folded < counts ? l->folded : counts) < disk_base(l))
        return; /* once they are here */
    if (l->folded < counts)
        pd_replay_fold(&s->replay, n->model, COORDS, &t->author, l->folded, bytes + l->folded,
                       (size_t)(counts - l->folded));
    else
        pd_replay_unfold(&s->replay, n->model, COORDS, &t->author, counts, bytes + counts,
                         (size_t)(l->folded - counts));
    l->folded = counts;
}

void node_digest(sim *s, node *n, uint8_t out[16]) {
    for (uint32_t log = 0; log < n->n_logs && log < s->n_authors * PD_STREAMS; log++)
        node_fold(s, n, log);
    n->model[0] += BROKEN(s, BROKEN_DIGEST);
    pd_replay_digest(n->model, COORDS, out);
}
