/* test_swarm.c - real cores over real sockets: join by ticket, gossip, break, return.
 *
 * What the simulated network cannot show: that the transport gives the core what it was promised
 * (who is there, in which order frames come, that a full buffer holds nobody up), and what a record
 * costs on a real connection.  The driver below is the daemon without its disk and its model: the
 * ledger is in memory, records are counted up.
 */
#include "../unit/test.h"
#include "peerd/core.h"
#include "peerd/file.h"
#include "peerd/ledger.h"
#include "peerd/manifest.h"
#include "peerd/net.h"
#include "peerd/ticket.h"

#include <string.h>

enum { NODES = 4, DEFERRED = 1024, BASIS = 40000, WAIT_MS = 20000 };

typedef struct node {
    pd_identity id;
    pd_net *net;
    pd_core *core;
    pd_join *join;
    void *arena;
    pd_ledger *ledger;
    uint8_t run[32];
    pd_manifest manifest;
    char text[PD_MANIFEST_MAX];
    size_t text_n;
    pd_action actions[PD_ACTIONS_MAX];
    pd_event deferred[DEFERRED];
    uint32_t n_deferred;
    uint8_t *basis; /* of BASIS bytes, as far as it has come */
    size_t basis_n;
    pd_ticket ticket; /* joining by it */
    bool joined, refused, stopped, ends_used;
} node;

static node nodes[NODES];
static uint8_t the_basis[BASIS];

/* ---- the driver ---- */

static void sign(void *ctx, const void *msg, size_t n, uint8_t sig[64]) {
    pd_sign(&((node *)ctx)->id, msg, n, sig);
}
static bool verify(void *ctx, const uint8_t pub[32], const void *msg, size_t n,
                   const uint8_t sig[64]) {
    (void)ctx;
    return pd_verify(pub, msg, n, sig);
}
static uint64_t random64(void *ctx) {
    (void)ctx;
    return pd_random64();
}

static bool log_seal(void *ctx, const pd_author *a, uint8_t stream, uint64_t *n, uint8_t seal[64]) {
    pd_ledger *l = ((node *)ctx)->ledger;
    pd_log_info info;
    *n = 0;
    for (uint32_t i = 0; pd_ledger_info(l, i, &info); i++)
        if (memcmp(info.author.key, a->key, 32) == 0 && info.author.inc == a->inc &&
            info.n[stream]) {
            *n = info.n[stream];
            memcpy(seal, info.seal[stream], 64);
            return true;
        }
    return false;
}
static size_t log_read(void *ctx, const pd_author *a, uint8_t stream, uint64_t from, uint8_t *out,
                       size_t room) {
    pd_ledger *l = ((node *)ctx)->ledger;
    uint32_t index;
    ck_assert_int_eq(pd_ledger_author(l, a, &index), PD_OK);
    return pd_ledger_read(l, index, stream, from, out, room);
}
static size_t log_file(void *ctx, const uint8_t digest[16], uint64_t offset, uint8_t *out,
                       size_t room, uint64_t *total) {
    const node *x = ctx;
    *total = 0;
    if (memcmp(digest, x->manifest.basis_digest, 16) != 0 || x->basis_n < BASIS)
        return 0;
    *total = BASIS;
    size_t n = offset >= BASIS ? 0 : BASIS - offset < room ? (size_t)(BASIS - offset) : room;
    memcpy(out, x->basis + offset, n);
    return n;
}

static void defer(node *x, const pd_event *e) {
    ck_assert_uint_lt(x->n_deferred, DEFERRED);
    x->deferred[x->n_deferred++] = *e;
}

static void store(node *x, const pd_action *a) {
    uint32_t index;
    ck_assert_int_eq(pd_ledger_author(x->ledger, &a->author, &index), PD_OK);
    ck_assert_msg(pd_ledger_append(x->ledger, index, a->stream, a->at, a->p, a->n, a->seal) ==
                      PD_OK,
                  "%s", pd_fail_text());
    pd_event e = {
        .kind = PD_EV_STORED, .author = a->author, .stream = a->stream, .at = a->at + a->n};
    if (a->own)
        defer(x, &e);
}

static void dial(node *x, const pd_action *a) {
    uint64_t id;
    const uint8_t *guest = x->join ? x->ticket.secret : NULL;
    if (pd_net_dial(x->net, &a->addr, a->key, guest, &id) == PD_OK)
        return;
    pd_event e = {.kind = PD_EV_DIAL_FAILED};
    memcpy(e.key, a->key, 32);
    defer(x, &e);
}

static void send_frame(node *x, const pd_action *a) {
    pd_err r = pd_net_send(x->net, a->session, a->p, a->n);
    pd_event e = {.kind = r == PD_EAGAIN ? PD_EV_CLOGGED : PD_EV_SESSION_DOWN,
                  .session = a->session};
    ck_assert_msg(r == PD_OK || r == PD_EAGAIN || r == PD_EGONE, "%s", pd_fail_text());
    if (r)
        defer(x, &e);
}

static void act(node *x, const pd_action *a) {
    switch (a->kind) {
    case PD_ACT_SEND:
        send_frame(x, a);
        break;
    case PD_ACT_CLOSE:
        pd_net_close(x->net, a->session);
        break;
    case PD_ACT_DIAL:
        dial(x, a);
        break;
    case PD_ACT_ALLOW:
        ck_assert_int_eq(pd_net_allow(x->net, a->key), PD_OK);
        break;
    case PD_ACT_STORE:
        store(x, a);
        break;
    case PD_ACT_INVITE_USED:
        pd_net_deny_guest(x->net, a->invite);
        break;
    case PD_ACT_FILE:
        ck_assert_uint_eq(a->at, x->basis_n);
        ck_assert_uint_le(a->at + a->n, BASIS);
        memcpy(x->basis + a->at, a->p, a->n);
        x->basis_n += a->n;
        break;
    case PD_ACT_STOPPED:
        x->stopped = true;
        break;
    case PD_ACT_FATAL:
        ck_abort_msg("fatal: %s", a->text);
    case PD_ACT_MANIFEST:
        memcpy(x->text, a->p, a->n);
        x->text_n = a->n;
        break;
    case PD_ACT_JOINED:
        x->joined = true;
        break;
    case PD_ACT_REFUSED:
        x->refused = true;
        break;
    default: /* META, SPEAK, NOTE */
        break;
    }
}

static void step_one(node *x, const pd_event *e) {
    size_t n = x->join ? pd_join_step(x->join, pd_clock_ms(), e, x->actions, PD_ACTIONS_MAX)
                       : pd_core_step(x->core, pd_clock_ms(), e, x->actions, PD_ACTIONS_MAX);
    for (size_t i = 0; i < n; i++)
        act(x, &x->actions[i]);
}

static void step(node *x, const pd_event *e) {
    char why[200];
    step_one(x, e);
    for (uint32_t i = 0; i < x->n_deferred; i++) {
        pd_event next = x->deferred[i];
        step_one(x, &next);
    }
    x->n_deferred = 0;
    if (x->core)
        ck_assert_msg(pd_core_check(x->core, why, sizeof why), "%s", why);
}

static void turn(node *x) {
    pd_net_event v;
    ck_assert_int_eq(pd_net_wait(x->net, 1, NULL, 0), PD_OK);
    for (int i = 0; i < 64 && pd_net_next(x->net, &v); i++) {
        static const pd_event_kind kinds[] = {PD_EV_SESSION_UP, PD_EV_FRAME, PD_EV_FLOWING,
                                              PD_EV_SESSION_DOWN, PD_EV_DIAL_FAILED};
        pd_event e = {.kind = kinds[v.kind],
                      .session = v.session,
                      .outbound = v.outbound,
                      .refused = v.refused,
                      .invite = v.invite,
                      .guest = v.invite != 0,
                      .p = v.bytes,
                      .n = v.n};
        memcpy(e.key, v.peer, 32);
        step(x, &e);
    }
    uint64_t wake = x->join ? pd_join_wake(x->join) : pd_core_wake(x->core);
    if (wake <= pd_clock_ms()) {
        pd_event e = {.kind = PD_EV_TICK};
        step(x, &e);
    }
}

/* Let the nodes of a mask take turns until cond or WAIT_MS; what cond said last. */
typedef bool condition(void *arg);
static bool run_until(unsigned mask, condition *cond, void *arg) {
    uint64_t until = pd_clock_ms() + WAIT_MS;
    while (!cond(arg)) {
        if (pd_clock_ms() > until)
            return false;
        for (int i = 0; i < NODES; i++)
            if (mask >> i & 1)
                turn(&nodes[i]);
    }
    return true;
}

/* ---- starting nodes ---- */

static void node_init(node *x, uint8_t seed) {
    uint8_t s[32];
    memset(x, 0, sizeof *x);
    memset(s, seed, 32);
    ck_assert_int_eq(pd_crypto_init(), PD_OK);
    pd_identity_from_seed(s, &x->id);
    pd_net_conf conf = {.identity = &x->id,
                        .thin = true,
                        .handshakes_per_s = 1000,
                        .listen = {.family = 4, .ip = {127, 0, 0, 1}}};
    ck_assert_msg(pd_net_open(&conf, &x->net) == PD_OK, "%s", pd_fail_text());
    ck_assert_int_eq(pd_ledger_open(&x->ledger), PD_OK);
    x->basis = malloc(BASIS);
}

static void found(node *x) {
    pd_manifest *m = &x->manifest;
    for (size_t i = 0; i < BASIS; i++)
        the_basis[i] = (uint8_t)(i * 2654435761u >> 13);
    memcpy(x->basis, the_basis, BASIS);
    x->basis_n = BASIS;
    *m = (pd_manifest){.space = PD_SPACE_ALIGNED,
                       .rank = 1,
                       .targets = 1,
                       .unit_bits = 26,
                       .n_coords = 64,
                       .eps = 1u << 30,
                       .scale = 1u << 30,
                       .lr = 1u << 30,
                       .lr_min = 0,
                       .basis_bytes = BASIS,
                       .seal_bytes_per_s = 1000,
                       .rate_max = 10,
                       .invites_max = 8};
    strcpy(m->model_name, "none");
    strcpy(m->model_arch, "llama");
    pd_hash256(the_basis, BASIS, m->basis_digest);
    memcpy(m->founder, x->id.pub, 32);
    pd_manifest_write(m, x->text, &x->text_n);
    pd_manifest_run_id(m, x->run);
}

/* Open a core on what the node's ledger holds. */
static void core_open(node *x, uint32_t seal_ms, uint32_t seal_records, const pd_known_addr *known,
                      uint32_t n_known) {
    pd_core_crypto crypto = {x, sign, verify, random64};
    pd_core_log log = {.ctx = x, .seal = log_seal, .read = log_read, .file = log_file};
    pd_core_conf conf = {.manifest = x->text,
                         .manifest_bytes = x->text_n,
                         .n_listen = 1,
                         .known = known,
                         .n_known = n_known,
                         .seal_ms = seal_ms,
                         .seal_records = seal_records,
                         .solo = n_known == 0};
    memcpy(conf.run, x->run, 32);
    memcpy(conf.key, x->id.pub, 32);
    memcpy(conf.founder, x->manifest.founder, 32);
    conf.listen[0] = pd_net_listening(x->net);
    size_t bytes = pd_core_bytes(&conf);
    x->arena = aligned_alloc(64, (bytes + 63) / 64 * 64);
    ck_assert_msg(pd_core_open(&conf, &crypto, &log, pd_clock_ms(), x->arena, bytes, &x->core) ==
                      PD_OK,
                  "%s", pd_fail_text());
    pd_event e = {.kind = PD_EV_TICK};
    step(x, &e);
}

static void node_free(node *x) {
    pd_net_free(x->net);
    pd_ledger_close(x->ledger);
    free(x->arena);
    free(x->basis);
    memset(x, 0, sizeof *x);
}

static bool has_ended(void *arg) {
    return ((node *)arg)->joined || ((node *)arg)->refused;
}

/* x joins at host, by a ticket that crosses as text; then its core opens. */
static void join(node *x, node *host, unsigned others, uint64_t invite, uint32_t seal_ms,
                 uint32_t seal_records) {
    pd_ticket t = {.n_addrs = 1};
    char text[PD_TICKET_TEXT];
    uint8_t pub[32], sec[32];
    memcpy(t.net, host->run, 16);
    memcpy(t.inviter, host->id.pub, 32);
    pd_random(t.secret, 16);
    t.addrs[0] = pd_net_listening(host->net);
    pd_ticket_write(&t, text);
    pd_curve_from_ticket(t.secret, pub, sec);
    ck_assert_int_eq(pd_net_allow_guest(host->net, pub, invite), PD_OK);

    ck_assert_int_eq(pd_ticket_read(text, &x->ticket), PD_OK);
    pd_join_conf conf = {
        .addrs = x->ticket.addrs, .n_addrs = 1, .listen = pd_net_listening(x->net)};
    memcpy(conf.net, x->ticket.net, 16);
    memcpy(conf.inviter, x->ticket.inviter, 32);
    memcpy(conf.guest, pub, 32);
    memcpy(conf.key, x->id.pub, 32);
    pd_core_crypto crypto = {x, sign, verify, random64};
    void *arena = aligned_alloc(64, (pd_join_bytes() + 63) / 64 * 64);
    ck_assert_int_eq(pd_join_open(&conf, &crypto, pd_clock_ms(), arena, pd_join_bytes(), &x->join),
                     PD_OK);
    ck_assert(run_until(others | 1u << (x - nodes), has_ended, x));
    ck_assert(x->joined);
    x->join = NULL;
    free(arena);
    ck_assert_int_eq(pd_manifest_read(x->text, x->text_n, &x->manifest), PD_OK);
    pd_manifest_run_id(&x->manifest, x->run);
    ck_assert_mem_eq(x->run, host->run, 32);
    pd_known_addr known = {.addr = x->ticket.addrs[0]};
    memcpy(known.key, x->ticket.inviter, 32);
    core_open(x, seal_ms, seal_records, &known, 1);
    pd_event e = {.kind = PD_EV_FETCH, .n = BASIS};
    memcpy(e.digest, x->manifest.basis_digest, 16);
    step(x, &e);
}

/* ---- what is waited for ---- */

static unsigned waiting; /* the nodes that a condition looks at */
static uint64_t wanted;

static bool speak_all(void *arg) {
    (void)arg;
    pd_author a;
    uint64_t at;
    for (int i = 0; i < NODES; i++)
        if ((waiting >> i & 1) && !pd_core_may_speak(nodes[i].core, &a, &at))
            return false;
    return true;
}
static bool hold_all(void *arg) {
    (void)arg;
    for (int i = 0; i < NODES; i++)
        if ((waiting >> i & 1) && pd_ledger_records(nodes[i].ledger) < wanted)
            return false;
    return true;
}
static bool have_basis(void *arg) {
    return ((node *)arg)->basis_n == BASIS;
}
static bool is_stopped(void *arg) {
    return ((node *)arg)->stopped;
}
static bool linked_all(void *arg) {
    (void)arg;
    for (int i = 0; i < NODES; i++) {
        pd_core_status st;
        if (!(waiting >> i & 1))
            continue;
        pd_core_status_get(nodes[i].core, pd_clock_ms(), &st);
        if (st.links + 1 < (unsigned)__builtin_popcount(waiting))
            return false;
    }
    return true;
}

/* Make n records at x; their bytes tell author and step. */
static void speak(node *x, int n) {
    for (int i = 0; i < n; i++) {
        pd_event e = {.kind = PD_EV_GRADIENT};
        ck_assert(pd_core_may_speak(x->core, &e.author, &e.at));
        e.byte = (uint8_t)(1 + (e.at + e.author.key[0]) % 127);
        step(x, &e);
    }
}

static void check_equal_ledgers(unsigned mask) {
    pd_core_status first = {0}, st;
    bool have = false;
    for (int i = 0; i < NODES; i++)
        if (mask >> i & 1) {
            pd_core_status_get(nodes[i].core, pd_clock_ms(), &st);
            ck_assert_uint_eq(st.bad_frames, 0);
            ck_assert_uint_eq(st.bad_seals, 0);
            if (have)
                ck_assert_uint_eq(st.vv_hash, first.vv_hash);
            first = st;
            have = true;
        }
}

/* Four nodes: three join by ticket, at the founder and at a guest of yesterday; all speak; one link
 * is cut and comes back; one node leaves politely; all hold the same records.
 */
START_TEST(four_nodes_join_speak_and_agree) {
    node_init(&nodes[0], 1);
    found(&nodes[0]);
    core_open(&nodes[0], 200, 0, NULL, 0);
    for (int i = 1; i < NODES; i++) {
        node_init(&nodes[i], (uint8_t)(i + 1));
        join(&nodes[i], &nodes[i == 3], (1u << i) - 1, (uint64_t)(100 + i), 200, 0);
        ck_assert(run_until((2u << i) - 1, have_basis, &nodes[i]));
        ck_assert_mem_eq(nodes[i].basis, the_basis, BASIS);
    }
    waiting = 15;
    ck_assert(run_until(15, linked_all, NULL));
    ck_assert(run_until(15, speak_all, NULL));
    for (int i = 0; i < NODES; i++)
        speak(&nodes[i], 50 + i);
    wanted = 4 * 50 + 6;
    ck_assert(run_until(15, hold_all, NULL));
    check_equal_ledgers(15);

    node *x = &nodes[2]; /* its transport dies and it comes back with what it holds */
    pd_net_free(x->net);
    x->core = NULL;
    free(x->arena);
    for (int i = 0; i < NODES; i++)
        if (i != 2)
            speak(&nodes[i], 30);
    waiting = 11;
    wanted += 90;
    ck_assert(run_until(11, hold_all, NULL));
    pd_net_conf conf = {.identity = &x->id,
                        .thin = true,
                        .handshakes_per_s = 1000,
                        .listen = {.family = 4, .ip = {127, 0, 0, 1}}};
    ck_assert_int_eq(pd_net_open(&conf, &x->net), PD_OK);
    pd_known_addr known = {.addr = pd_net_listening(nodes[0].net)};
    memcpy(known.key, nodes[0].id.pub, 32);
    core_open(x, 200, 0, &known, 1);
    waiting = 15;
    ck_assert(run_until(15, hold_all, NULL));
    ck_assert(run_until(15, speak_all, NULL));
    speak(x, 10);
    wanted += 10;
    ck_assert(run_until(15, hold_all, NULL));
    check_equal_ledgers(15);

    pd_event stop = {.kind = PD_EV_STOP, .leave = true};
    speak(&nodes[3], 7);
    wanted += 7;
    step(&nodes[3], &stop);
    ck_assert(run_until(15, is_stopped, &nodes[3]));
    waiting = 7;
    ck_assert(run_until(7, hold_all, NULL));
    for (int i = 0; i < NODES; i++)
        node_free(&nodes[i]);
}
END_TEST

/* Ticket of another inviter, spent ticket: refused in words at the first answer and not when time
 * is up, nothing is left behind. */
START_TEST(a_used_ticket_is_refused) {
    pd_ticket t = {.n_addrs = 1};
    uint8_t pub[32], sec[32];
    node_init(&nodes[0], 1);
    found(&nodes[0]);
    core_open(&nodes[0], 200, 0, NULL, 0);
    node_init(&nodes[1], 2);
    memcpy(t.net, nodes[0].run, 16);
    memcpy(t.inviter, nodes[0].id.pub, 32);
    t.addrs[0] = pd_net_listening(nodes[0].net);
    nodes[1].ticket = t;
    pd_curve_from_ticket(t.secret, pub, sec); /* never allowed: as after its use */
    pd_join_conf conf = {.addrs = t.addrs, .n_addrs = 1, .timeout_ms = 10 * WAIT_MS};
    memcpy(conf.net, t.net, 16);
    memcpy(conf.inviter, t.inviter, 32);
    memcpy(conf.guest, pub, 32);
    memcpy(conf.key, nodes[1].id.pub, 32);
    pd_core_crypto crypto = {&nodes[1], sign, verify, random64};
    void *arena = aligned_alloc(64, (pd_join_bytes() + 63) / 64 * 64);
    ck_assert_int_eq(
        pd_join_open(&conf, &crypto, pd_clock_ms(), arena, pd_join_bytes(), &nodes[1].join), PD_OK);
    ck_assert(run_until(3, has_ended, &nodes[1]));
    ck_assert(nodes[1].refused);
    ck_assert_uint_eq(pd_ledger_authors(nodes[1].ledger), 0);
    free(arena);
    node_free(&nodes[0]);
    node_free(&nodes[1]);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, four_nodes_join_speak_and_agree);
    tcase_add_test(tc, a_used_ticket_is_refused);
}

PD_TEST_MAIN("swarm", 120)
