/* join.c - the newcomer's driver: what loop.c and act.c are to a running node, for the few seconds
 * before there is one; see join.h. */
#include "join.h"
#include "peerd/core.h"
#include "peerd/file.h"
#include "peerd/log.h"
#include "peerd/net.h"
#include "ports.h"

#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    ANSWER_MS = 30000, /* to be welcomed */
    QUIET_MS = 60000,  /* without a piece of the basis file, or anything else ... */
    MOVING = 1024,     /* ... of so many bytes: more than the pings of a link at rest */
    TRIES = 3,         /* to fetch one that is what the manifest names */
    MORE_AUTHORS = 64, /* whose logs a checkpoint may hold: incarnations without a control record */
    AHEAD_MS = 15000,  /* to hear what there is to catch up with */
    MEASURED = 1 << 16, /* bytes of the basis that tell how fast the line is */
    WAIT_MS = 250,
    NET_EVENTS = 64,
    DEFERRED_MAX = PD_ACTIONS_MAX + 64,
};

typedef struct joiner {
    const pd_ticket *ticket;
    const pd_identity *id;
    const pd_config *config;
    pd_joined *got;
    pd_ports ports;
    pd_net *net;
    pd_join *join; /* first */
    pd_core *core; /* then */
    void *arena;
    pd_action actions[PD_ACTIONS_MAX];
    pd_event deferred[DEFERRED_MAX]; /* events that carrying out an action made */
    uint32_t n_deferred;
    bool done;
    pd_err err;
    char text[PD_TEXT_MAX];      /* of err */
    char last_dial[PD_NET_TEXT]; /* why the last one failed */
    pd_addr dialled;
    struct { /* the file being fetched */
        const char *what;
        uint8_t *p;
        uint64_t n;
        uint8_t digest[32];
        int tries;
    } file;
    uint64_t fetched, heard, news_ms; /* bytes of the file, of all; when some of them came */
    double bytes_per_s;               /* of the line, 0: not measured */
    pd_err installed;                 /* what the core says of the checkpoint */
    char install_text[PD_TEXT_MAX];
} joiner;

static volatile sig_atomic_t interrupted;

static void on_signal(int number) {
    (void)number;
    interrupted = 1;
}

static void fail(joiner *j, pd_err e, const char *text) {
    j->done = true;
    j->err = e;
    snprintf(j->text, sizeof j->text, "%s", text);
}

/* ---- actions ---- */

static void defer(joiner *j, const pd_event *e) {
    assert(j->n_deferred < DEFERRED_MAX);
    j->deferred[j->n_deferred++] = *e;
}

static void send_frame(joiner *j, const pd_action *a) {
    pd_err e = pd_net_send(j->net, a->session, a->p, a->n);
    pd_event v = {.kind = e == PD_EAGAIN ? PD_EV_CLOGGED : PD_EV_SESSION_DOWN,
                  .session = a->session};
    if (e)
        defer(j, &v);
}

static void dial(joiner *j, const pd_action *a) {
    uint64_t session;
    const uint8_t *secret = j->join ? j->ticket->secret : NULL;
    if (j->join)
        j->dialled = a->addr;
    if (pd_net_dial(j->net, &a->addr, a->key, secret, &session) == PD_OK)
        return;
    pd_event v = {.kind = PD_EV_DIAL_FAILED};
    memcpy(v.key, a->key, 32);
    snprintf(j->last_dial, sizeof j->last_dial, "%s", pd_fail_text());
    defer(j, &v);
}

/* Into memory.  Own bytes count as durable there: the key that signed them is no more durable than
 * they are, and both are written together at the end.
 */
static void store(joiner *j, const pd_action *a) {
    uint32_t index;
    pd_err e = pd_ledger_author(j->got->ledger, &a->author, &index);
    if (!e)
        e = pd_ledger_append(j->got->ledger, index, a->stream, a->at, a->p, a->n, a->seal);
    if (e)
        fail(j, e, pd_fail_text());
    pd_event v = {
        .kind = PD_EV_STORED, .author = a->author, .stream = a->stream, .at = a->at + a->n};
    if (a->own && !e)
        defer(j, &v);
}

static void ask_for_file(joiner *j) {
    pd_event v = {.kind = PD_EV_FETCH, .at = 0, .n = (size_t)j->file.n};
    memcpy(v.digest, j->file.digest, sizeof v.digest);
    j->fetched = 0;
    defer(j, &v);
}

static void take_piece(joiner *j, const pd_action *a) {
    uint8_t digest[32];
    char why[PD_TEXT_MAX];
    if (!j->file.p || a->at != j->fetched || a->n > j->file.n - j->fetched)
        return;
    memcpy(j->file.p + j->fetched, a->p, a->n);
    j->fetched += a->n;
    j->news_ms = pd_clock_ms();
    pd_progress(false, "fetching the %s: %llu of %llu bytes", j->file.what,
                (unsigned long long)j->fetched, (unsigned long long)j->file.n);
    if (j->fetched < j->file.n)
        return;
    pd_hash256(j->file.p, (size_t)j->file.n, digest);
    if (memcmp(digest, j->file.digest, 32) == 0) {
        j->done = true;
    } else if (++j->file.tries < TRIES) {
        pd_warn("the %s is not the one that was asked for; fetching it again", j->file.what);
        ask_for_file(j);
    } else {
        snprintf(why, sizeof why, "the %s that the members send is not the one that was asked for",
                 j->file.what);
        fail(j, PD_EMISMATCH, why);
    }
}

static void take_verdict(joiner *j, const pd_action *a) {
    j->installed = (pd_err)a->at;
    j->got->voices = (uint32_t)a->invite;
    snprintf(j->install_text, sizeof j->install_text, "%s", a->text);
}

static void take_manifest(joiner *j, const pd_action *a) {
    pd_joined *got = j->got;
    assert(a->n <= sizeof got->manifest_text); /* the machine has parsed it */
    memcpy(got->manifest_text, a->p, a->n);
    got->manifest_bytes = a->n;
    pd_err e = pd_manifest_read(got->manifest_text, got->manifest_bytes, &got->manifest);
    if (e)
        fail(j, e, pd_fail_text());
    else
        pd_manifest_run_id(&got->manifest, got->run);
}

static void carry_out(joiner *j, const pd_action *a) {
    switch (a->kind) {
    case PD_ACT_SEND:
        send_frame(j, a);
        break;
    case PD_ACT_CLOSE:
        pd_net_close(j->net, a->session);
        break;
    case PD_ACT_DIAL:
        dial(j, a);
        break;
    case PD_ACT_STORE:
        store(j, a);
        break;
    case PD_ACT_META:
        j->got->incarnation = (uint32_t)a->at;
        break;
    case PD_ACT_FILE:
        take_piece(j, a);
        break;
    case PD_ACT_NOTE:
        /* links and listening are of no use to who waits for the folder */
        PD_LOG(a->level <= PD_LOG_WARN ? (pd_log_level)a->level : PD_LOG_DEBUG, "%s", a->text);
        break;
    case PD_ACT_MANIFEST:
        take_manifest(j, a);
        break;
    case PD_ACT_JOINED:
    case PD_ACT_STOPPED:
        j->done = true;
        break;
    case PD_ACT_INSTALLED:
        take_verdict(j, a);
        break;
    case PD_ACT_REFUSED:
        fail(j, (pd_err)a->at, a->text);
        break;
    case PD_ACT_FATAL:
        fail(j, PD_EBUSY, a->text);
        break;
    case PD_ACT_PREFIX: /* while it holds it asks for none */
    case PD_ACT_CKPT_DUE:
    case PD_ACT_ALLOW: /* it listens nowhere and makes no record */
    case PD_ACT_DENY:
    case PD_ACT_VOID: /* the first start finds it again */
    case PD_ACT_SPEAK:
    case PD_ACT_INVITE_USED:
    case PD_ACT_PASSED:
        break;
    }
}

/* ---- the loop ---- */

static void one_step(joiner *j, const pd_event *e) {
    uint64_t now = pd_clock_ms();
    size_t n = j->join ? pd_join_step(j->join, now, e, j->actions, PD_ACTIONS_MAX)
                       : pd_core_step(j->core, now, e, j->actions, PD_ACTIONS_MAX);
    for (size_t i = 0; i < n; i++)
        carry_out(j, &j->actions[i]);
}

static void step(joiner *j, const pd_event *e) {
    one_step(j, e);
    for (uint32_t i = 0; i < j->n_deferred; i++) { /* grows while it is worked off */
        pd_event next = j->deferred[i];
        one_step(j, &next);
    }
    j->n_deferred = 0;
}

static void on_net(joiner *j, const pd_net_event *x) {
    static const pd_event_kind kinds[] = {[PD_NET_UP] = PD_EV_SESSION_UP,
                                          [PD_NET_FRAME] = PD_EV_FRAME,
                                          [PD_NET_FLOWING] = PD_EV_FLOWING,
                                          [PD_NET_DOWN] = PD_EV_SESSION_DOWN,
                                          [PD_NET_DIAL_FAILED] = PD_EV_DIAL_FAILED};
    pd_event e = {.kind = kinds[x->kind],
                  .session = x->session,
                  .outbound = x->outbound,
                  .refused = x->refused,
                  .p = x->bytes,
                  .n = x->n};
    memcpy(e.key, x->peer, 32);
    if (x->kind == PD_NET_DIAL_FAILED)
        memcpy(j->last_dial, x->text, sizeof j->last_dial);
    step(j, &e);
}

static uint64_t wake_of(const joiner *j) {
    return j->join ? pd_join_wake(j->join) : pd_core_wake(j->core);
}

static void turn(joiner *j) {
    const pd_event tick = {.kind = PD_EV_TICK};
    uint64_t wake = wake_of(j), now = pd_clock_ms();
    uint64_t wait = wake <= now ? 0 : wake - now < WAIT_MS ? wake - now : WAIT_MS;
    if (pd_net_wait(j->net, (int)wait, NULL, 0) != PD_OK) {
        fail(j, PD_EIO, pd_fail_text());
        return;
    }
    pd_net_event x;
    for (int i = 0; i < NET_EVENTS && !j->done && pd_net_next(j->net, &x); i++)
        on_net(j, &x);
    if (!j->done && wake_of(j) <= pd_clock_ms())
        step(j, &tick);
    if (interrupted && !j->done)
        fail(j, PD_EGONE, "stopped before the node was made");
}

/* ---- two phases ---- */

static pd_err make_arena(joiner *j, size_t bytes) {
    free(j->arena);
    j->arena = aligned_alloc(64, (bytes + 63) / 64 * 64);
    return j->arena ? PD_OK : pd_fail(PD_ENOMEM, "no memory to join (%zu bytes)", bytes);
}

/* By this machine's clock; the inviter's is what counts. */
static bool is_expired(const pd_ticket *t) {
    return t->expiry_s && pd_wall_s() >= t->expiry_s;
}

/* One text: what the machine says, and where and why the last attempt failed. */
static pd_err explain(const joiner *j) {
    char at[PD_ADDR_TEXT];
    pd_addr_print(&j->dialled, at);
    if (j->err == PD_EAUTH && is_expired(j->ticket))
        return pd_fail(PD_EAUTH, "the ticket has expired; ask for a new one: peerctl invite");
    if (j->err == PD_EGONE && is_expired(j->ticket))
        return pd_fail(PD_EAUTH, "the ticket has expired (%s); ask for a new one: peerctl invite",
                       j->text);
    if (j->err == PD_EGONE && j->last_dial[0] && !interrupted)
        return pd_fail(j->err,
                       "%s; the last try, %s: %s (is the inviter running and reachable? "
                       "else ask for a new ticket: peerctl invite)",
                       j->text, at, j->last_dial);
    return pd_fail(j->err, "%s", j->text);
}

/* Where others will reach this node, as far as it is known before it listens. */
static pd_addr own_address(const pd_config *c) {
    pd_addr a = {0};
    const char *text = c->advertise[0] ? c->advertise : c->listen;
    if (!text[0] || pd_addr_parse(text, true, &a) != PD_OK || !a.port || pd_addr_is_any(&a))
        a = (pd_addr){0};
    return a;
}

static pd_err be_admitted(joiner *j) {
    uint8_t secret[32];
    pd_core_crypto crypto = pd_ports_crypto(&j->ports);
    pd_join_conf conf = {.addrs = j->ticket->addrs,
                         .n_addrs = j->ticket->n_addrs,
                         .listen = own_address(j->config),
                         .timeout_ms = ANSWER_MS};
    memcpy(conf.net, j->ticket->net, sizeof conf.net);
    memcpy(conf.inviter, j->ticket->inviter, 32);
    memcpy(conf.key, j->id->pub, 32);
    snprintf(conf.name, sizeof conf.name, "%s", j->config->name);
    pd_curve_from_ticket(j->ticket->secret, conf.guest, secret);
    pd_wipe(secret, sizeof secret);
    pd_err e = make_arena(j, pd_join_bytes());
    if (!e)
        e = pd_join_open(&conf, &crypto, pd_clock_ms(), j->arena, pd_join_bytes(), &j->join);
    if (e)
        return e;
    while (!j->done) {
        pd_progress(false, "asking to be admitted%s%s", j->last_dial[0] ? ": " : "", j->last_dial);
        turn(j);
        if (!j->done && j->last_dial[0] && is_expired(j->ticket))
            fail(j, PD_EGONE, j->last_dial); /* it will not become younger */
    }
    j->join = NULL;
    j->got->inviter = j->dialled;
    return j->err ? explain(j) : PD_OK;
}

static pd_err open_core(joiner *j) {
    pd_joined *got = j->got;
    pd_core_crypto crypto = pd_ports_crypto(&j->ports);
    pd_core_log log = pd_ports_log(&j->ports);
    pd_known_addr known = {.addr = got->inviter};
    pd_core_conf conf = {.manifest = got->manifest_text,
                         .manifest_bytes = got->manifest_bytes,
                         .known = &known,
                         .n_known = 1,
                         .hold = true,
                         .seal_bytes_per_s = got->manifest.seal_bytes_per_s};
    memcpy(known.key, j->ticket->inviter, 32);
    memcpy(conf.run, got->run, 32);
    memcpy(conf.key, j->id->pub, 32);
    memcpy(conf.founder, got->manifest.founder, 32);
    snprintf(conf.name, sizeof conf.name, "%s", j->config->name);
    size_t bytes = pd_core_bytes(&conf);
    pd_err e = make_arena(j, bytes);
    return e ? e : pd_core_open(&conf, &crypto, &log, pd_clock_ms(), j->arena, bytes, &j->core);
}

/* Control logs come before the file: over a thin link it may stand behind many of them. */
static void note_progress(joiner *j) {
    pd_core_status s;
    pd_core_status_get(j->core, pd_clock_ms(), &s);
    if (s.bytes_in - j->heard < MOVING)
        return;
    j->heard = s.bytes_in;
    j->news_ms = pd_clock_ms();
}

/* Until the whole file is there; gives *out. */
static pd_err fetch(joiner *j, const char *what, const uint8_t digest[32], uint64_t bytes,
                    uint8_t **out) {
    const pd_event tick = {.kind = PD_EV_TICK};
    char why[PD_TEXT_MAX];
    *out = malloc((size_t)bytes);
    if (!*out)
        return pd_fail(PD_ENOMEM, "no memory for the %s (%llu bytes)", what,
                       (unsigned long long)bytes);
    j->file.what = what;
    j->file.p = *out;
    j->file.n = bytes;
    j->file.tries = 0;
    memcpy(j->file.digest, digest, 32);
    j->done = false;
    j->last_dial[0] = 0;
    j->news_ms = pd_clock_ms();
    snprintf(why, sizeof why, "admitted, but no member sends the %s", what);
    ask_for_file(j);
    step(j, &tick);
    while (!j->done) {
        turn(j);
        note_progress(j);
        if (!j->done && pd_clock_ms() - j->news_ms > QUIET_MS)
            fail(j, PD_EGONE, why);
    }
    j->file.p = NULL;
    if (!j->err)
        pd_progress(true, "fetched the %s: %llu bytes", what, (unsigned long long)bytes);
    return j->err ? explain(j) : PD_OK;
}

/* The first file's way here is the line's measure. */
static pd_err fetch_basis(joiner *j) {
    const pd_manifest *m = &j->got->manifest;
    uint64_t began = pd_clock_ms();
    pd_err e = fetch(j, "basis file", m->basis_digest, m->basis_bytes, &j->got->basis);
    if (!e && m->basis_bytes >= MEASURED)
        j->bytes_per_s = (double)m->basis_bytes * 1000 / (double)(pd_clock_ms() - began + 1);
    return e;
}

/* ---- replay or a checkpoint ---- */

/* Wait until members have told what they hold.  False: nobody has. */
static bool look_ahead(joiner *j, uint64_t *records) {
    const pd_event tick = {.kind = PD_EV_TICK};
    uint64_t end = pd_clock_ms() + AHEAD_MS;
    j->done = false;
    step(j, &tick);
    while (!j->done && !pd_core_ahead(j->core, records) && pd_clock_ms() < end)
        turn(j);
    return !j->done && pd_core_ahead(j->core, records);
}

static bool choose(joiner *j, pd_catch_up wish, pd_ckpt_name *name) {
    const pd_manifest *m = &j->got->manifest;
    char text[PD_CATCH_UP_TEXT];
    pd_core_ckpt_status s;
    uint64_t authors = pd_ledger_authors(j->got->ledger) + MORE_AUTHORS;
    uint64_t most = pd_ckpt_most(m->n_coords, authors);
    pd_way w = {.d = m->n_coords, .bytes_per_s = j->bytes_per_s};
    if (!look_ahead(j, &w.records) || !w.records)
        return false;
    /* else by default what the settings say of the line: 64 kbit/s, or 1 Mbit/s */
    w.bytes_per_s = w.bytes_per_s > 0 ? w.bytes_per_s : j->config->thin ? 6900 : 125000;
    w.updates_per_s = pd_catch_up_measure(m);
    if (pd_core_ckpt(j->core, 0, &s) && s.enough && s.name.size <= most) {
        *name = s.name;
        w.ckpt_bytes = s.name.size;
        w.ckpt_records = s.name.records;
    }
    bool use = w.updates_per_s > 0 && pd_catch_up_choose(&w, wish, text);
    if (w.updates_per_s > 0)
        pd_info("%s", text);
    if (wish == PD_CATCH_UP_CHECKPOINT && !use)
        pd_warn("no checkpoint to begin with: the records are replayed");
    return use;
}

/* Let the core judge the file, and the ledger begin at its marks. */
static pd_err install(joiner *j, const uint8_t *file, size_t size) {
    pd_event e = {.kind = PD_EV_INSTALL, .p = file, .n = size};
    pd_ledger *l = j->got->ledger;
    pd_ckpt c;
    pd_ckpt_log log;
    j->installed = PD_EGONE;
    step(j, &e);
    if (j->installed)
        return pd_fail(j->installed, "%s", j->install_text);
    pd_err err = pd_ckpt_open(file, size, j->got->run, &c);
    for (const uint8_t *at = c.entries; !err && pd_ckpt_next(&c, &at, &log);) {
        uint32_t index;
        pd_log_info info;
        err = pd_ledger_author(l, &log.author, &index);
        if (!err && pd_ledger_info(l, index, &info) && info.n[PD_STREAM_GRADIENTS] < log.chain.n)
            err =
                pd_ledger_begin_at(l, index, pd_ckpt_base(log.chain.n), log.chain.c, log.chain.tail,
                                   (size_t)(log.chain.n % PD_CHUNK_BYTES), log.seal);
    }
    return err;
}

/* Nothing here is needed to be a node: whatever goes wrong, the records are replayed. */
static void catch_up(joiner *j, pd_catch_up wish) {
    pd_joined *got = j->got;
    uint8_t *file = NULL;
    if (wish == PD_CATCH_UP_REPLAY || !choose(j, wish, &got->ckpt_name))
        return;
    pd_err e = fetch(j, "checkpoint", got->ckpt_name.file, got->ckpt_name.size, &file);
    if (!e)
        e = install(j, file, (size_t)got->ckpt_name.size);
    if (e) {
        pd_warn("no checkpoint to begin with, the records are replayed: %s", pd_fail_text());
        free(file);
        j->err = PD_OK;
        return;
    }
    got->ckpt = file;
    pd_info("beginning with a checkpoint of %llu records that %u members attest; it is replayed in "
            "the background",
            (unsigned long long)got->ckpt_name.records, got->voices);
}

/* As a member now. */
static pd_err fetch_what_is_needed(joiner *j, pd_catch_up wish) {
    const pd_event stop = {.kind = PD_EV_STOP};
    pd_err e = open_core(j);
    if (!e && j->got->manifest.space == PD_SPACE_ALIGNED)
        e = fetch_basis(j);
    if (e)
        return e;
    catch_up(j, wish);
    j->done = false;
    step(j, &stop); /* says goodbye; the transport still sends it while it closes */
    return interrupted ? pd_fail(PD_EGONE, "stopped before the node was made") : PD_OK;
}

static void catch_signals(struct sigaction old[2]) {
    struct sigaction sa = {.sa_handler = on_signal};
    sigemptyset(&sa.sa_mask);
    interrupted = 0;
    sigaction(SIGINT, &sa, &old[0]);
    sigaction(SIGTERM, &sa, &old[1]);
}

pd_err pd_join_run(const pd_ticket *t, const pd_identity *id, const pd_config *config,
                   pd_catch_up wish, pd_join_check *check, void *ctx, pd_joined *out) {
    struct sigaction old[2];
    pd_net_conf conf = {.identity = id, .thin = config->thin};
    joiner *j = calloc(1, sizeof *j);
    memset(out, 0, sizeof *out);
    if (!j)
        return pd_fail(PD_ENOMEM, "no memory to join");
    j->ticket = t;
    j->id = id;
    j->config = config;
    j->got = out;
    catch_signals(old);
    pd_err e = pd_ledger_open(&out->ledger);
    j->ports = (pd_ports){.identity = id, .ledger = out->ledger};
    if (!e)
        e = pd_net_open(&conf, &j->net);
    if (!e)
        e = be_admitted(j);
    if (!e)
        e = check(ctx, &out->manifest);
    if (!e)
        e = fetch_what_is_needed(j, wish);
    pd_net_free(j->net);
    sigaction(SIGINT, &old[0], NULL);
    sigaction(SIGTERM, &old[1], NULL);
    free(j->arena);
    pd_ports_finish(&j->ports);
    free(j);
    if (e)
        pd_joined_close(out);
    return e;
}

void pd_joined_close(pd_joined *j) {
    pd_ledger_close(j->ledger);
    free(j->basis);
    free(j->ckpt);
    memset(j, 0, sizeof *j);
}
