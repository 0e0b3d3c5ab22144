/* core.c - one step of the gossip core: an event in, every part looks at the time, frames out.
 *
 *   data > tokens > loss pair > byte > ledger <> GOSSIP <> other peers
 *
 * See core.h for the contract and state.h for what is kept and where.
 */
#include "state.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

#ifdef PD_PLANTED
int pd_planted;
#endif

pd_action *pd_emit(pd_core *c, pd_action_kind kind) {
    assert(c->n_out < c->max_out);
    pd_action *a = &c->out[c->n_out++];
    memset(a, 0, sizeof *a);
    a->kind = kind;
    return a;
}

const char *pd_note(pd_core *c, pd_log_level level, const char *fmt, ...) {
    if (c->n_notes == PD_NOTES_MAX)
        return "";
    char *text = c->notes[c->n_notes++];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, PD_TEXT_MAX, fmt, ap);
    va_end(ap);
    pd_action *a = pd_emit(c, PD_ACT_NOTE);
    a->level = (int)level;
    a->text = text;
    return text;
}

uint64_t pd_jitter(pd_core *c, uint64_t ms, unsigned percent) {
    uint64_t span = ms * percent / 100;
    return ms - span + c->crypto.random(c->crypto.ctx) % (2 * span + 1);
}

const char *pd_short(const uint8_t key[32], char out[9]) {
    pd_hex(key, 4, out);
    return out;
}

/* ---- opening ---- */

size_t pd_core_bytes(const pd_core_conf *conf) {
    return pd_table_lay(conf, NULL);
}

/* Bring one log's chain to where the ledger stands and check its seal. */
static pd_err load_log(pd_core *c, uint16_t author, uint8_t stream) {
    pd_author_state *a = &c->author[author];
    pd_log *log = &a->log[stream];
    uint64_t n = 0;
    uint8_t seal[64], msg[PD_SEAL_MESSAGE_BYTES];
    pd_chain chain;
    if (!c->store.seal(c->store.ctx, &a->id, stream, &n, seal) || n == 0)
        return PD_OK;
    if (stream == PD_STREAM_GRADIENTS && c->store.base)
        pd_prefix_begin(c, log, c->store.base(c->store.ctx, &a->id, msg)); /* its mark: below */
    pd_prefix_chain(c, (uint32_t)author * PD_STREAMS + stream, &chain);
    while (chain.n < n) {
        size_t want = n - chain.n < PD_PIECE_MAX ? (size_t)(n - chain.n) : PD_PIECE_MAX;
        size_t got = c->store.read(c->store.ctx, &a->id, stream, chain.n, c->piece, want);
        if (got == 0)
            break;
        pd_chain_add(&chain, c->piece, got);
    }
    pd_seal_message(&chain, c->conf.run, &a->id, stream, msg);
    char key[9];
    if (chain.n != n || n > PD_LOG_BYTES_MAX ||
        !c->crypto.verify(c->crypto.ctx, a->id.key, msg, sizeof msg, seal))
        return pd_fail(PD_EMISMATCH,
                       "the log of %s (stream %u) in the ledger is not what its seal covers",
                       pd_short(a->id.key, key), stream);
    memcpy(log->chain.c, chain.c, sizeof log->chain.c);
    log->chain.n = log->held = n;
    pd_log_grown(c, (uint32_t)author * PD_STREAMS + stream, &chain);
    return PD_OK;
}

/* Members by fixpoint: reading an author's control log may add members, who come later in the
 * table. */
static pd_err load_members(pd_core *c, uint32_t from) {
    for (uint32_t m = from; m < c->n_members; m++) {
        for (uint32_t inc = 0; inc < PD_INCARNATIONS; inc++) {
            pd_author id = {.inc = inc};
            memcpy(id.key, c->member[m].key, 32);
            uint64_t n = 0;
            uint8_t seal[64];
            bool held = false;
            for (uint8_t s = 0; s < PD_STREAMS; s++)
                held |= c->store.seal(c->store.ctx, &id, s, &n, seal) && n > 0;
            if (!held && inc > 0)
                continue;
            uint16_t a = pd_author_get(c, &id);
            if (a == PD_NONE)
                return pd_fail(PD_EFULL, "the ledger holds more authors than the tables: raise "
                                         "the number of members");
            for (uint8_t s = 0; s < PD_STREAMS; s++) {
                pd_err e = load_log(c, a, s);
                if (e)
                    return e;
            }
            pd_members_read(c, a);
        }
    }
    return PD_OK;
}

/* Judging may admit more, whose logs may say more. */
static pd_err load(pd_core *c) {
    if (pd_member_add(c, c->conf.founder, 0, "") == PD_NONE)
        return pd_fail(PD_EFULL, "the member table is full");
    for (uint32_t done = 0; done < c->n_members;) {
        uint32_t from = done;
        done = c->n_members;
        pd_err e = load_members(c, from);
        if (e)
            return e;
        done = done < c->n_members ? c->n_members : done;
        pd_verdict_judge(c);
    }
    return PD_OK;
}

static pd_err find_self(pd_core *c) {
    c->self = pd_member_find(c, c->conf.key);
    if (c->self == PD_NONE)
        return pd_fail(PD_EUSAGE,
                       "this node's key is not a member of the run: join it with a ticket");
    pd_author id = {.inc = c->conf.incarnation < PD_INCARNATIONS ? c->conf.incarnation : 0};
    memcpy(id.key, c->conf.key, 32);
    for (uint16_t a = c->member[c->self].author; a != PD_NONE; a = c->author[a].next)
        if (c->author[a].id.inc > id.inc)
            id.inc = c->author[a].id.inc;
    c->own.author = pd_author_get(c, &id);
    return c->own.author == PD_NONE ? pd_fail(PD_EFULL, "no room for this node's own log") : PD_OK;
}

/* The arena as it is before anything is known. */
static pd_core *lay_out(const pd_core_conf *conf, const pd_core_crypto *crypto,
                        const pd_core_log *log, uint64_t now_ms, void *arena) {
    pd_core *c = arena;
    memset(c, 0, offsetof(pd_core, gradients));
    pd_table_lay(conf, c);
    c->conf = *conf;
    c->conf.name[PD_NAME_MAX] = 0;
    c->conf.known = NULL;
    c->conf.members_max = c->members_max;
    c->crypto = *crypto;
    c->store = *log;
    c->now = now_ms ? now_ms : 1; /* 0 means never in what is kept, so time begins at 1 */
    c->calm_ms = c->wake = c->now;
    c->repair_ms = PD_NEVER;
    c->nonce = crypto->random(crypto->ctx);
    c->fetch.link = c->prefix.f.link = PD_NONE;
    c->attest.since_ms = c->now;
    if (c->conf.stage_bytes == 0)
        c->conf.stage_bytes = PD_STAGE_BYTES;
    c->own.pending[PD_STREAM_GRADIENTS].bytes = c->gradients;
    c->own.pending[PD_STREAM_GRADIENTS].room = sizeof c->gradients;
    c->own.pending[PD_STREAM_CONTROL].bytes = c->control;
    c->own.pending[PD_STREAM_CONTROL].room = sizeof c->control;
    c->own.said_ms = c->now;
    for (unsigned i = 0; i < PD_FORKS_MAX; i++)
        c->fork[i] = (pd_fork){.log = PD_NONE, .branch = c->branches[i]};
    c->report.bytes = c->evidence;
    for (unsigned i = 0; i < PD_STAGES; i++)
        pd_stage_drop(c, &c->stage[i]);
    if (c->conf.seal_bytes_per_s == 0)
        c->conf.seal_bytes_per_s = 1000;
    if (c->conf.seal_records == 0)
        c->conf.seal_records = PD_PENDING_MAX;
    return c;
}

pd_err pd_core_open(const pd_core_conf *conf, const pd_core_crypto *crypto, const pd_core_log *log,
                    uint64_t now_ms, void *arena, size_t arena_bytes, pd_core **out) {
    static const uint8_t zero[32];
    if (!memcmp(conf->key, zero, 32) || !memcmp(conf->founder, zero, 32) ||
        conf->n_listen > PD_ADDRS_MAX || conf->seal_records > PD_PENDING_MAX ||
        conf->members_max > PD_MEMBERS_TOP)
        return pd_fail(PD_EUSAGE, "the core's configuration lacks a key or is out of range");
    if (arena_bytes < pd_core_bytes(conf) || (uintptr_t)arena % 64 != 0)
        return pd_fail(PD_ENOMEM, "the core needs %zu bytes in one piece", pd_core_bytes(conf));
    pd_core *c = lay_out(conf, crypto, log, now_ms, arena);
    pd_err e = load(c);
    if (!e)
        e = find_self(c);
    if (e)
        return e;
    for (uint32_t i = 0; i < conf->n_known; i++) {
        uint16_t m = pd_member_find(c, conf->known[i].key);
        if (m != PD_NONE)
            pd_member_hint(&c->member[m], &conf->known[i].addr);
    }
    *out = c;
    return PD_OK;
}

/* ---- a step ---- */

static void learn_address(pd_core *c, const pd_event *e) {
    uint16_t m = pd_member_find(c, e->key);
    if (m == PD_NONE || m == c->self || !e->addrs)
        return;
    pd_member_hint(&c->member[m], e->addrs);
    c->member[m].backoff_ms = 0;
    if (!c->member[m].dialing)
        c->member[m].dial_ms = c->now;
    pd_dial_soon(c, c->now);
}

static void listen_at(pd_core *c, const pd_event *e) {
    c->conf.n_listen = (uint32_t)(e->n < PD_ADDRS_MAX ? e->n : PD_ADDRS_MAX);
    for (uint32_t i = 0; i < c->conf.n_listen; i++)
        c->conf.listen[i] = e->addrs[i];
    c->own.addr_written = false;
}

static void take(pd_core *c, const pd_event *e) {
    pd_link *l = pd_link_find(c, e->session);
    switch (e->kind) {
    case PD_EV_TICK:
        break;
    case PD_EV_SESSION_UP:
        pd_link_up(c, e);
        break;
    case PD_EV_SESSION_DOWN:
        if (l)
            pd_link_down(c, l);
        break;
    case PD_EV_FRAME:
        pd_recv(c, e);
        break;
    case PD_EV_DIAL_FAILED:
        pd_dial_failed(c, e->key);
        break;
    case PD_EV_CLOGGED:
    case PD_EV_FLOWING:
        if (l)
            l->clogged = e->kind == PD_EV_CLOGGED;
        break;
    case PD_EV_GRADIENT:
        pd_own_gradient(c, e);
        break;
    case PD_EV_FLUSH:
        c->own.flush = true;
        break;
    case PD_EV_STORED:
        pd_own_stored(c, e);
        break;
    case PD_EV_STORE_FAILED:
        pd_own_store_failed(c, e);
        break;
    case PD_EV_LISTEN:
        listen_at(c, e);
        break;
    case PD_EV_ADDRESS:
        learn_address(c, e);
        break;
    case PD_EV_BAN:
        pd_enforce_ban(c, e);
        break;
    case PD_EV_ROTATE:
        pd_enforce_rotate(c, e);
        break;
    case PD_EV_FETCH:
        pd_fetch_start(c, e);
        break;
    case PD_EV_ATTEST:
        pd_attest_write(c, e);
        break;
    case PD_EV_INSTALL:
        pd_attest_install(c, e);
        break;
    case PD_EV_STOP:
        pd_own_stop(c, e->leave);
        break;
    }
}

/* What was handed to the driver in the last step can be read now. */
static void settle(pd_core *c) {
    for (unsigned i = 0; i < PD_STAGES; i++) {
        if (c->stage[i].done)
            pd_stage_drop(c, &c->stage[i]);
    }
    uint32_t n = c->n_fresh;
    c->n_fresh = 0;
    pd_attest_settle(c);
    for (uint32_t i = 0; i < n; i++) {
        pd_log *log = pd_log_at_index(c, c->fresh[i]);
        log->held = log->chain.n;
    }
    for (uint32_t i = 0; i < n; i++)
        if (c->fresh[i] % PD_STREAMS == PD_STREAM_CONTROL)
            pd_members_read(c, (uint16_t)(c->fresh[i] / PD_STREAMS));
    pd_verdict_judge(c);
}

/* Woken much too late (a stopped process, a suspended machine): the silence was ours.  Every link
 * gets that time back.
 */
static void excuse_lateness(pd_core *c, uint64_t now) {
    if (c->wake == PD_NEVER || now <= c->wake || now - c->wake <= PD_LATE_MS)
        return;
    uint64_t late = now - c->wake;
    for (unsigned i = 0; i < PD_SESSIONS_MAX; i++)
        c->link[i].heard_ms += pd_link_used(c, i) ? late : 0;
    c->calm_ms = now + PD_PING_MS;
    pd_note(c, PD_LOG_WARN, "woken %llu s late; links get that time back",
            (unsigned long long)(late / 1000));
}

size_t pd_core_step(pd_core *c, uint64_t now_ms, const pd_event *e, pd_action *out, size_t max) {
    assert(max >= PD_ACTIONS_MAX);
    c->out = out;
    c->n_out = 0;
    c->max_out = max;
    c->n_notes = 0;
    c->frames_used = 0;
    c->n_said = 0;
    if (now_ms < c->now)
        now_ms = c->now;
    c->now = now_ms;
    if (c->own.done)
        return 0;
    excuse_lateness(c, now_ms);
    c->wake = PD_NEVER;
    settle(c);
    take(c, e);
    pd_members_tick(c);
    pd_enforce_tick(c);
    pd_own_show_life(c);
    pd_fork_tick(c);
    pd_stage_tick(c);
    pd_link_tick(c);
    pd_view_tick(c);
    pd_dial_tick(c);
    pd_guest_tick(c);
    pd_own_tick(c);
    pd_tree_tick(c);
    pd_heads_tick(c);
    pd_fetch_tick(c);
    pd_prefix_tick(c);
    pd_attest_tick(c);
    pd_send_frames(c);
    if (c->n_fresh || c->installed || c->wake < now_ms)
        c->wake = now_ms;
    return c->n_out;
}

uint64_t pd_core_wake(const pd_core *c) {
    return c->own.done ? PD_NEVER : c->wake;
}
