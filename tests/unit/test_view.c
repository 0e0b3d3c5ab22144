/* test_view.c - one core of a large run, its peers played by hand: which links it keeps, how it
 * asks for bytes and passes them on, and that nothing it holds or says is longer than it may be.
 *
 * What many such cores make of each other is tested by the network of tests/net.
 */
#include "ledger_port.h"
#include "peerd/frame.h"
#include "peerd/ledger.h"
#include "test.h"

#include <string.h>

enum { SESSIONS = 32 };

typedef struct world {
    pd_identity *id; /* 0: the core's own, founder */
    uint32_t members;
    uint8_t run[32];
    pd_core_conf conf;
    pd_ledger *ledger;
    pd_core *core;
    void *arena;
    uint64_t now, random;
    pd_action acts[PD_ACTIONS_MAX];
    size_t n;
    uint64_t rx[SESSIONS]; /* by session, as the peer counts */
    bool closed[SESSIONS];
    uint8_t *lent[PD_STAGES];
    size_t most_lent;
} world;

/* ---- what the core is given ---- */

static void sign(void *ctx, const void *msg, size_t n, uint8_t sig[64]) {
    pd_sign(&((world *)ctx)->id[0], msg, n, sig);
}

static bool verify(void *ctx, const uint8_t pub[32], const void *msg, size_t n,
                   const uint8_t sig[64]) {
    (void)ctx;
    return pd_verify(pub, msg, n, sig);
}

static uint64_t chance(void *ctx) {
    uint64_t z = ((world *)ctx)->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    return z ^ z >> 27;
}

static bool log_seal(void *ctx, const pd_author *a, uint8_t stream, uint64_t *n, uint8_t seal[64]) {
    return port_seal(((world *)ctx)->ledger, a, stream, n, seal);
}

static size_t log_read(void *ctx, const pd_author *a, uint8_t stream, uint64_t from, uint8_t *out,
                       size_t room) {
    return port_read(((world *)ctx)->ledger, a, stream, from, out, room);
}

static uint8_t *lend(void *ctx, unsigned stage, size_t bytes) {
    world *w = ctx;
    w->most_lent = bytes > w->most_lent ? bytes : w->most_lent;
    uint8_t *p = realloc(w->lent[stage], bytes + 1);
    ck_assert(p != NULL);
    return w->lent[stage] = p;
}

static void append(world *w, const pd_author *a, uint8_t stream, uint64_t from, const uint8_t *p,
                   size_t n, const uint8_t seal[64]) {
    uint32_t i;
    ck_assert_int_eq(pd_ledger_author(w->ledger, a, &i), PD_OK);
    ck_assert_int_eq(pd_ledger_append(w->ledger, i, stream, from, p, n, seal), PD_OK);
}

static pd_author author(const world *w, uint32_t member) {
    pd_author a = {.inc = 0};
    memcpy(a.key, w->id[member].pub, 32);
    return a;
}

/* Seal a whole log as its author would. */
static void seal_log(world *w, uint32_t member, uint8_t stream, const uint8_t *p, size_t n,
                     uint8_t seal[64]) {
    pd_author a = author(w, member);
    pd_chain chain;
    uint8_t msg[PD_SEAL_MESSAGE_BYTES];
    pd_chain_init(&chain, w->run, &a, stream);
    pd_chain_add(&chain, p, n);
    pd_seal_message(&chain, w->run, &a, stream, msg);
    pd_sign(&w->id[member], msg, sizeof msg, seal);
}

static void hold(world *w, uint32_t member, uint8_t stream, const uint8_t *p, size_t n) {
    pd_author a = author(w, member);
    uint8_t seal[64];
    seal_log(w, member, stream, p, n, seal);
    append(w, &a, stream, 0, p, n, seal);
}

/* ---- steps ---- */

static void step(world *w, const pd_event *e) {
    char why[128] = "";
    w->n = pd_core_step(w->core, w->now, e, w->acts, PD_ACTIONS_MAX);
    for (size_t i = 0; i < w->n; i++) {
        const pd_action *a = &w->acts[i];
        if (a->kind == PD_ACT_STORE)
            append(w, &a->author, a->stream, a->at, a->p, a->n, a->seal);
        if (a->kind == PD_ACT_SEND)
            w->rx[a->session] += a->n;
        if (a->kind == PD_ACT_CLOSE)
            w->closed[a->session] = true;
    }
    ck_assert_msg(pd_core_check(w->core, why, sizeof why), "%s", why);
}

static void tick(world *w, uint64_t ms) {
    w->now += ms;
    step(w, &(pd_event){.kind = PD_EV_TICK});
}

static void say(world *w, uint64_t session, const pd_item *items, size_t n) {
    static uint8_t frame[PD_FRAME_MAX];
    pd_writer f = pd_writer_of(frame, sizeof frame);
    pd_frame_begin(&f, w->rx[session]);
    for (size_t i = 0; i < n; i++)
        ck_assert(pd_frame_put(&f, &items[i]));
    step(w, &(pd_event){
                .kind = PD_EV_FRAME, .session = session, .p = frame, .n = (size_t)(f.p - frame)});
}

/* The next item of a kind in the frames to a session of the last step, after `skip` of them. */
static bool said(world *w, uint64_t session, pd_item_kind kind, unsigned skip, pd_item *it) {
    pd_reader r;
    uint64_t ack;
    for (size_t i = 0; i < w->n; i++)
        if (w->acts[i].kind == PD_ACT_SEND && w->acts[i].session == session &&
            pd_frame_open(w->acts[i].p, w->acts[i].n, &r, &ack))
            while (pd_frame_next(&r, it))
                if (it->kind == kind && skip-- == 0)
                    return true;
    return false;
}

/* Tick until it says so; false after `ms`. */
static bool will_say(world *w, uint64_t session, pd_item_kind kind, uint64_t ms, pd_item *it) {
    for (uint64_t t = 0; t <= ms; t += 50) {
        if (said(w, session, kind, 0, it))
            return true;
        tick(w, 50);
    }
    return false;
}

/* A peer's session, equal in all it holds or not; `links` as it says. */
static void session_up(world *w, uint64_t session, uint32_t member, bool outbound, bool equal,
                       uint8_t links, uint16_t caps) {
    pd_event e = {.kind = PD_EV_SESSION_UP, .session = session, .outbound = outbound};
    pd_item it = {
        .kind = PD_ITEM_HELLO,
        .u.hello = {.nonce = 77 + member, .proto = PD_PROTO, .links = links, .caps = caps}};
    pd_core_status s;
    memcpy(e.key, w->id[member].pub, 32);
    step(w, &e);
    pd_core_status_get(w->core, w->now, &s);
    memcpy(it.u.hello.net, w->run, 32);
    it.u.hello.vv_hash = s.vv_hash + !equal;
    for (uint32_t i = 0; i < w->members; i++) {
        pd_author a = author(w, i);
        uint64_t n = 0;
        uint8_t seal[64];
        for (uint8_t k = 0; k < PD_STREAMS; k++)
            it.u.hello.total += log_seal(w, &a, k, &n, seal) ? n : 0;
    }
    say(w, session, &it, 1);
}

static void link_up(world *w, uint64_t session, uint32_t member, bool outbound, bool equal,
                    uint8_t links) {
    session_up(w, session, member, outbound, equal, links, 0);
}

static void open_core(world *w) {
    pd_core_crypto crypto = {w, sign, verify, chance};
    pd_core_log log = {.ctx = w, .seal = log_seal, .read = log_read, .room = lend};
    size_t bytes = pd_core_bytes(&w->conf);
    w->arena = aligned_alloc(64, (bytes + 63) / 64 * 64);
    ck_assert_int_eq(pd_core_open(&w->conf, &crypto, &log, w->now, w->arena, bytes, &w->core),
                     PD_OK);
    tick(w, 0);
}

static void write_members(world *w) {
    size_t room = (size_t)w->members * 64;
    uint8_t *control = malloc(room);
    pd_writer c = pd_writer_of(control, room);
    for (uint32_t i = 1; i < w->members; i++) {
        pd_control rec = {.kind = PD_RECORD_MEMBER};
        memcpy(rec.subject, w->id[i].pub, 32);
        ck_assert(pd_control_put(&c, &rec));
    }
    hold(w, 0, PD_STREAM_CONTROL, control, (size_t)(c.p - control));
    free(control);
}

/* A founder that has admitted all others. */
static world *make(uint32_t members) {
    world *w = calloc(1, sizeof *w);
    ck_assert_int_eq(pd_crypto_init(), PD_OK);
    w->members = members;
    w->id = calloc(members, sizeof *w->id);
    for (uint32_t i = 0; i < members; i++) {
        uint8_t seed[32] = {(uint8_t)i, (uint8_t)(i >> 8), 1};
        pd_identity_from_seed(seed, &w->id[i]);
    }
    memset(w->run, 0x55, 32);
    ck_assert_int_eq(pd_ledger_open(&w->ledger), PD_OK);
    write_members(w);
    memcpy(w->conf.run, w->run, 32);
    memcpy(w->conf.key, w->id[0].pub, 32);
    memcpy(w->conf.founder, w->id[0].pub, 32);
    w->conf.manifest = "text";
    w->conf.manifest_bytes = 4;
    w->conf.members_max = members + 16;
    w->conf.stage_bytes = 4096;
    w->now = 1000;
    return w;
}

static void drop(world *w) {
    pd_ledger_close(w->ledger);
    for (unsigned i = 0; i < PD_STAGES; i++)
        free(w->lent[i]);
    free(w->arena);
    free(w->id);
    free(w);
}

static pd_item alias_of(const world *w, uint32_t member) {
    return (pd_item){.kind = PD_ITEM_ALIAS, .u.alias = {member, author(w, member)}};
}

/* ---- bounds ---- */

/* What a node may ever hold is known before it starts; a run of thousands fits in a small machine.
 */
START_TEST(tables_are_as_large_as_the_configuration_says) {
    static const struct {
        uint32_t members, stage_bytes; /* 0: as a node has them */
        size_t most;
    } bound[] = {{16, 4096, 1 << 20},
                 {1000, 4096, 4 << 20},
                 {PD_MEMBERS_TOP, 4096, 50 << 20},
                 {16, 0, 5 << 20},
                 {0, 0, 6 << 20}, /* what peerd asks for */
                 {1000, 0, 8 << 20},
                 {PD_MEMBERS_TOP, 0, 54 << 20}};
    for (size_t i = 0; i < sizeof bound / sizeof *bound; i++) {
        pd_core_conf conf = {.members_max = bound[i].members, .stage_bytes = bound[i].stage_bytes};
        ck_assert_uint_le(pd_core_bytes(&conf), bound[i].most);
    }
    ck_assert_uint_le(pd_join_bytes(), 8 << 20);
    world *w = make(20);
    w->conf.members_max = PD_MEMBERS_TOP + 1;
    pd_core_crypto crypto = {w, sign, verify, chance};
    pd_core_log log = {.ctx = w, .seal = log_seal, .read = log_read};
    uint8_t *arena = aligned_alloc(64, 64 << 20);
    ck_assert_int_eq(pd_core_open(&w->conf, &crypto, &log, 1, arena, 64 << 20, &w->core),
                     PD_EUSAGE);
    free(arena);
    drop(w);
}
END_TEST

/* A seal is 64 bytes, and everyone's go to everyone: what they may take of a thin line together is
 * the run's, so each waits the longer the more there are. */
START_TEST(seals_are_as_rare_as_the_run_is_large) {
    static const struct {
        uint32_t bytes_per_s; /* 0: 1000 */
        uint64_t ms;
    } bound[] = {{0, 2000}, {100, 13800}, {20, 69000}, {1, 900000}};
    for (size_t i = 0; i < sizeof bound / sizeof *bound; i++) {
        world *w = make(20);
        pd_core_status s;
        w->conf.seal_bytes_per_s = bound[i].bytes_per_s;
        open_core(w);
        tick(w, 1000);
        pd_core_status_get(w->core, w->now, &s);
        ck_assert_uint_eq(s.seal_ms, bound[i].ms);
        drop(w);
    }
}
END_TEST

/* The numbers of authors come from their order; if two ends counted differently, no seal would
 * hold. */
START_TEST(authors_are_given_in_the_order_of_their_keys) {
    world *w = make(40);
    pd_author a[40];
    open_core(w);
    ck_assert_uint_eq(pd_core_authors(w->core, a, 40), 40);
    for (int i = 1; i < 40; i++)
        ck_assert_int_lt(memcmp(a[i - 1].key, a[i].key, 32), 0);
    drop(w);
}
END_TEST

/* ---- places ---- */

/* Eight links are the most, but a node that has nobody is never turned away; of many such, none
 * loses its place to the next one at once: thirty newcomers drove each other out for a minute. */
START_TEST(a_full_node_refuses_but_takes_who_has_nobody) {
    world *w = make(30);
    pd_core_status s;
    pd_item it;
    open_core(w);
    for (uint32_t i = 1; i <= 8; i++)
        link_up(w, i, i, false, true, 6);
    pd_core_status_get(w->core, w->now, &s);
    ck_assert_uint_eq(s.links, 8);
    link_up(w, 9, 9, false, true, 6);
    ck_assert(said(w, 9, PD_ITEM_BYE, 0, &it));
    ck_assert(it.u.bye.why == PD_BYE_FULL && it.u.bye.count == 0); /* it knows no numbers of ours */
    for (int i = 0; i < 5; i++)
        tick(w, 1000);
    for (uint32_t m = 10; m <= 11; m++) {
        link_up(w, m, m, false, true, 1);
        ck_assert(!said(w, m, PD_ITEM_BYE, 0, &it));
        unsigned told = 0;
        for (uint64_t i = 1; i <= 8; i++)
            told += said(w, i, PD_ITEM_BYE, 0, &it);
        ck_assert_uint_eq(told, 1);
    }
    session_up(w, 12, 12, false, true, 0, PD_CAP_OBSERVER); /* one who is joining takes no place */
    for (uint64_t i = 1; i <= 12; i++)
        ck_assert(!said(w, i, PD_ITEM_BYE, 0, &it));
    pd_core_status_get(w->core, w->now, &s);
    ck_assert_uint_eq(s.links, 8);
    tick(w, 1000);
    ck_assert(w->closed[9] && !w->closed[10]);
    drop(w);
}
END_TEST

/* Nobody but ourselves may choose all our neighbours; and not everyone is called at once. */
START_TEST(a_view_dials_three_of_its_own_in_three_networks) {
    world *w = make(40);
    pd_known_addr known[39];
    unsigned dials = 0;
    for (uint32_t i = 1; i < 40; i++) {
        memcpy(known[i - 1].key, w->id[i].pub, 32);
        known[i - 1].addr = (pd_addr){4, {10, 0, (uint8_t)(i % 4), (uint8_t)i}, 7433};
    }
    w->conf.known = known;
    w->conf.n_known = 39;
    open_core(w);
    uint8_t nets[4] = {0};
    for (int i = 0; i < 100; i++) {
        tick(w, 50);
        for (size_t k = 0; k < w->n; k++)
            if (w->acts[k].kind == PD_ACT_DIAL && ++dials <= 3)
                ck_assert_uint_eq(nets[w->acts[k].addr.ip[2]]++, 0);
    }
    ck_assert_uint_ge(dials, 3);
    ck_assert_uint_le(dials, 6);
    drop(w);
}
END_TEST

/* ---- trees ---- */

static world *linked_with_two(void) {
    world *w = make(30);
    open_core(w);
    link_up(w, 1, 1, false, true, 6);
    link_up(w, 2, 2, false, true, 6);
    for (int i = 0; i < 60; i++)
        tick(w, 100);
    return w;
}

static void tell(world *w, uint64_t session, uint32_t member, uint32_t n) {
    pd_head head = {member * PD_STREAMS, n};
    pd_item items[2] = {alias_of(w, member), {.kind = PD_ITEM_HEADS}};
    items[1].u.heads.count = 1;
    items[1].u.heads.heads = &head;
    say(w, session, items, 2);
}

static void give(world *w, uint64_t session, uint32_t member, const uint8_t *p, uint32_t from,
                 uint32_t n, bool sealed) {
    uint8_t seal[64];
    pd_item items[2] = {alias_of(w, member), {.kind = PD_ITEM_SEG}};
    seal_log(w, member, 0, p, from + n, seal);
    items[1].u.seg.alias = member;
    items[1].u.seg.start = from + 1;
    items[1].u.seg.bytes = p + from;
    items[1].u.seg.count = n;
    items[1].u.seg.seal = sealed ? seal : NULL;
    say(w, session, items, 2);
}

/* The way a log takes: GRAFT for the first that is heard of it, PRUNE for what comes twice, pushed
 * to who grafts, told to who does not. */
START_TEST(a_log_finds_its_tree) {
    const uint8_t log[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    world *w = linked_with_two();
    pd_item it;
    tell(w, 1, 7, 3);
    ck_assert(will_say(w, 1, PD_ITEM_GRAFT, 2000, &it));
    ck_assert_uint_eq(it.u.pull.from, 0);
    give(w, 1, 7, log, 0, 3, true);
    ck_assert(will_say(w, 2, PD_ITEM_HEADS, 8000, &it)); /* nobody grafted: told, later */
    ck_assert(!said(w, 2, PD_ITEM_SEG, 0, &it));
    pd_item graft[2] = {alias_of(w, 7), {.kind = PD_ITEM_GRAFT}};
    graft[1].u.pull.log = 7 * PD_STREAMS;
    graft[1].u.pull.limit = 65536;
    say(w, 2, graft, 2);
    ck_assert(will_say(w, 2, PD_ITEM_SEG, 2000, &it) && it.u.seg.count == 3);
    tick(w, 2000);
    give(w, 1, 7, log, 3, 3, true);
    ck_assert(will_say(w, 2, PD_ITEM_SEG, 2000, &it) && it.u.seg.count == 3); /* pushed */
    tick(w, 2000);
    give(w, 2, 7, log, 3, 3, true); /* a second time, from elsewhere */
    ck_assert(will_say(w, 2, PD_ITEM_PRUNE, 2000, &it));
    tick(w, 2000);
    give(w, 1, 7, log, 6, 3, true);
    ck_assert(will_say(w, 2, PD_ITEM_HEADS, 8000, &it)); /* who sent it to us hangs on another */
    drop(w);
}
END_TEST

/* Log 7 hangs on link 1, which has brought its first three bytes. */
static world *hanging_on_one(const uint8_t *log) {
    world *w = linked_with_two();
    pd_item it;
    tell(w, 1, 7, 3);
    ck_assert(will_say(w, 1, PD_ITEM_GRAFT, 2000, &it));
    give(w, 1, 7, log, 0, 3, true);
    tick(w, 2000);
    return w;
}

/* A tree whose link breaks is hung at once on a peer that holds more, ... */
START_TEST(a_lost_link_moves_its_trees) {
    const uint8_t log[5] = {1, 2, 3, 4, 5};
    world *w = hanging_on_one(log);
    pd_item it;
    tell(w, 2, 7, 5);
    tick(w, 50);
    step(w, &(pd_event){.kind = PD_EV_SESSION_DOWN, .session = 1});
    ck_assert(will_say(w, 2, PD_ITEM_GRAFT, 100, &it));
    ck_assert_uint_eq(it.u.pull.from, 3);
    drop(w);
}
END_TEST

/* ... and waits where nobody is known to: the others may hang on the same lost branch, and trees in
 * a circle bring everything twice.  The first who tells of more is the new way. */
START_TEST(a_tree_without_a_way_waits_for_one) {
    const uint8_t log[5] = {1, 2, 3, 4, 5};
    world *w = hanging_on_one(log);
    pd_item it;
    tell(w, 2, 7, 3);
    step(w, &(pd_event){.kind = PD_EV_SESSION_DOWN, .session = 1});
    ck_assert(!will_say(w, 2, PD_ITEM_GRAFT, 3000, &it));
    tell(w, 2, 7, 5);
    ck_assert(will_say(w, 2, PD_ITEM_GRAFT, 2000, &it));
    ck_assert_uint_eq(it.u.pull.from, 3);
    drop(w);
}
END_TEST

/* A pull that the tree overtook shows how long the tree takes: the next wait is longer.  Without
 * that, pulls would race with the trees for ever and most bytes would come twice. */
START_TEST(a_pull_that_the_tree_overtakes_makes_the_next_wait_longer) {
    enum { ROUNDS = 2 }; /* a third would wait longer than a tree may be silent */
    uint8_t log[3 + 2 * ROUNDS];
    for (size_t i = 0; i < sizeof log; i++)
        log[i] = (uint8_t)(i + 1);
    world *w = hanging_on_one(log);
    pd_item it, alive = {.kind = PD_ITEM_PONG};
    uint64_t first = 0, last = 0;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t n = 3 + 2 * i;
        uint64_t at = w->now;
        tell(w, 2, 7, n + 2);
        while (!will_say(w, 2, PD_ITEM_PULL, 5000, &it)) { /* the links are not silent */
            ck_assert_uint_lt(w->now, at + 60000);
            say(w, 1, &alive, 1);
            if (said(w, 2, PD_ITEM_PULL, 0, &it))
                break;
            say(w, 2, &alive, 1);
        }
        last = w->now - at;
        first = first ? first : last;
        tick(w, 4000); /* the peer is slow to answer, and then the tree brings them */
        give(w, 1, 7, log, n, 2, true);
        tick(w, 2000);
    }
    ck_assert_uint_gt(last, first + 4000); /* gap + 4 of its deviation */
    drop(w);
}
END_TEST

/* Who had to ask elsewhere tells its own way at once: it may lack the bytes itself, and need not
 * send them any more. */
START_TEST(a_way_that_was_late_is_told_at_once) {
    const uint8_t log[5] = {1, 2, 3, 4, 5};
    world *w = hanging_on_one(log);
    pd_item it;
    tell(w, 2, 7, 5);
    ck_assert(will_say(w, 2, PD_ITEM_PULL, 20000, &it));
    give(w, 2, 7, log, 3, 2, true);
    ck_assert(will_say(w, 1, PD_ITEM_HEADS, 1500, &it)); /* a frame's time, not 5 s */
    drop(w);
}
END_TEST

/* A tree that has brought nothing for long may hang on a link that is gone somewhere above: what is
 * told of is not left to it, and is told on at once. */
START_TEST(a_tree_that_is_silent_for_long_is_not_waited_for) {
    const uint8_t log[7] = {1, 2, 3, 4, 5, 6, 7};
    world *w = hanging_on_one(log);
    pd_item it, alive = {.kind = PD_ITEM_PONG};
    tell(w, 2, 7, 5);
    ck_assert(!will_say(w, 2, PD_ITEM_GRAFT, 2000, &it)); /* it comes down the tree */
    give(w, 1, 7, log, 3, 2, true);
    for (int i = 0; i < 60; i++) {
        tick(w, 1000);
        say(w, 1, &alive, 1);
        say(w, 2, &alive, 1);
    }
    tell(w, 2, 7, 7);
    ck_assert(will_say(w, 2, PD_ITEM_GRAFT, 2000, &it));
    ck_assert_uint_eq(it.u.pull.from, 5);
    give(w, 2, 7, log, 5, 2, true);
    ck_assert(will_say(w, 1, PD_ITEM_HEADS, 2000, &it));
    drop(w);
}
END_TEST

/* What a member is heard of over others says nothing of the link to it. */
START_TEST(a_silent_link_is_told_from_a_silent_member) {
    const uint8_t log[3] = {1, 2, 3};
    world *w = linked_with_two();
    pd_item alive = {.kind = PD_ITEM_PONG};
    pd_peer_status p = {.key = {0}};
    for (int i = 0; i < 31; i++) {
        tick(w, 1000);
        say(w, 2, &alive, 1);
    }
    give(w, 2, 1, log, 0, 3, true);
    for (uint32_t i = 0; memcmp(p.key, w->id[1].pub, 32); i++)
        ck_assert(pd_core_peer_get(w->core, w->now, i, &p));
    ck_assert_int_eq(p.link, PD_LINK_SUSPECT);
    ck_assert_uint_eq(p.quiet_ms, 0);
    ck_assert_uint_ge(p.link_quiet_ms, 31000);
    drop(w);
}
END_TEST

/* What was first heard of in a session only to compare is asked for as soon as a link tells of it
 * too. */
START_TEST(a_link_is_asked_for_what_a_comparison_has_shown) {
    world *w = linked_with_two();
    pd_item it, hello = {.kind = PD_ITEM_HELLO, .u.hello = {.nonce = 5, .proto = PD_PROTO}};
    pd_event up = {.kind = PD_EV_SESSION_UP, .session = 3};
    memcpy(up.key, w->id[3].pub, 32);
    memcpy(hello.u.hello.net, w->run, 32);
    hello.u.hello.caps = PD_CAP_COMPARE;
    step(w, &up);
    say(w, 3, &hello, 1);
    tell(w, 3, 7, 3);
    tick(w, 1000);
    tell(w, 1, 7, 3);
    ck_assert(will_say(w, 1, PD_ITEM_GRAFT, 2000, &it));
    drop(w);
}
END_TEST

/* Where there is a tree, what is late is asked for once before the tree is changed; and a node that
 * knows a hundred logs to be longer has at most 64 questions open. */
START_TEST(repairs_are_few_and_patient) {
    world *w = make(120);
    pd_core_status s;
    open_core(w);
    link_up(w, 1, 1, false, true, 6);
    tick(w, 2000);
    for (uint32_t i = 2; i < 120; i++)
        tell(w, 1, i, 100);
    for (int i = 0; i < 40; i++) {
        tick(w, 100);
        pd_core_status_get(w->core, w->now, &s);
        ck_assert_uint_le(s.repairs, 64);
    }
    ck_assert_uint_eq(s.repairs, 64);
    ck_assert_uint_eq(s.missing, 118 * 100);
    drop(w);
}
END_TEST

/* An observer asks, and is nobody's way to anything. */
START_TEST(an_observer_pulls_and_makes_nothing) {
    world *w = make(30);
    pd_item it;
    pd_author a;
    uint64_t at;
    w->conf.observer = true;
    w->conf.solo = true;
    open_core(w);
    link_up(w, 1, 1, false, true, 6);
    tell(w, 1, 7, 3);
    ck_assert(will_say(w, 1, PD_ITEM_PULL, 8000, &it));
    ck_assert(!pd_core_may_speak(w->core, &a, &at));
    pd_core_status s;
    pd_core_status_get(w->core, w->now, &s);
    ck_assert(s.observer && s.voice == PD_VOICE_SPEAKING && *s.why);
    drop(w);
}
END_TEST

/* Own STOREs of control records within so long. */
static unsigned control_records(world *w, uint64_t ms) {
    unsigned n = 0;
    for (uint64_t t = 0; t < ms; t += 10000) {
        tick(w, 10000);
        for (size_t i = 0; i < w->n; i++)
            n += w->acts[i].kind == PD_ACT_STORE && w->acts[i].stream == PD_STREAM_CONTROL;
    }
    return n;
}

/* Who has nothing to say shows every ten minutes that it lives; who is about to seal need not, or
 * a large run, which seals every quarter of an hour, would pay for both. */
START_TEST(a_seal_to_come_is_life_enough) {
    for (int records = 0; records < 2; records++) {
        world *w = make(30);
        pd_event e = {.kind = PD_EV_GRADIENT, .byte = 1};
        w->conf.solo = true;
        w->conf.seal_ms = 900000;
        open_core(w);
        tick(w, 1000);
        ck_assert(pd_core_may_speak(w->core, &e.author, &e.at));
        if (records)
            step(w, &e);
        ck_assert_uint_eq(control_records(w, 700000), !records);
        drop(w);
    }
}
END_TEST

/* ---- what is longer than a frame or a stage ---- */

/* A node that knows thousands of authors tells all of them, in as many frames as it takes. */
START_TEST(a_version_vector_of_thousands_comes_in_parts) {
    enum { MEMBERS = 3000 };
    const uint8_t byte[1] = {5};
    world *w = make(MEMBERS);
    static bool heard[PD_LOGS_MAX];
    uint32_t heads = 0, parts = 0;
    bool more = true;
    for (uint32_t i = 1; i < MEMBERS; i++)
        hold(w, i, 0, byte, 1);
    open_core(w);
    link_up(w, 1, 1, false, false, 6);
    for (int i = 0; i < 200 && more; i++) {
        pd_item it, pong = {.kind = PD_ITEM_PONG};
        for (unsigned k = 0; more && said(w, 1, PD_ITEM_VV, k, &it); k++) {
            pd_heads_walk walk;
            pd_head h;
            pd_heads_begin(&it, &walk);
            while (pd_heads_next(&walk, &h)) {
                ck_assert(!heard[h.log]);
                heard[h.log] = true;
                heads++;
            }
            parts++;
            more = it.u.heads.flags & PD_VV_MORE;
        }
        say(w, 1, &pong, 1); /* acknowledges */
        if (!said(w, 1, PD_ITEM_VV, 0, &it))
            tick(w, 300);
    }
    ck_assert(!more);
    ck_assert_uint_eq(heads, MEMBERS); /* and the founder's control log */
    ck_assert_uint_gt(parts, 1);
    drop(w);
}
END_TEST

/* A log that grew by more than the arena holds while a node was away comes whole. */
START_TEST(a_gap_longer_than_a_stage_is_caught_up) {
    enum { LONG = 3 << 20, PIECE = PD_PIECE_MAX };
    uint8_t *log = malloc(LONG);
    world *w = linked_with_two();
    pd_item it;
    pd_core_status s;
    for (size_t i = 0; i < LONG; i++)
        log[i] = (uint8_t)(i * 7 % 127);
    tell(w, 1, 7, LONG);
    ck_assert(will_say(w, 1, PD_ITEM_GRAFT, 2000, &it));
    ck_assert_uint_ge(it.u.pull.limit, LONG);
    for (uint32_t at = 0; at < LONG; at += PIECE) {
        uint8_t seal[64];
        pd_item items[1] = {{.kind = PD_ITEM_SEG}};
        if (at + PIECE == LONG)
            seal_log(w, 7, 0, log, LONG, seal);
        items[0].u.seg.alias = 7;
        items[0].u.seg.start = at + 1;
        items[0].u.seg.bytes = log + at;
        items[0].u.seg.count = PIECE;
        items[0].u.seg.seal = at + PIECE == LONG ? seal : NULL;
        say(w, 1, items, 1);
    }
    pd_core_status_get(w->core, w->now, &s);
    ck_assert_uint_eq(s.records, LONG);
    ck_assert_uint_ge(w->most_lent, LONG);
    drop(w);
    free(log);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, tables_are_as_large_as_the_configuration_says);
    tcase_add_test(tc, seals_are_as_rare_as_the_run_is_large);
    tcase_add_test(tc, authors_are_given_in_the_order_of_their_keys);
    tcase_add_test(tc, a_full_node_refuses_but_takes_who_has_nobody);
    tcase_add_test(tc, a_view_dials_three_of_its_own_in_three_networks);
    tcase_add_test(tc, a_log_finds_its_tree);
    tcase_add_test(tc, a_lost_link_moves_its_trees);
    tcase_add_test(tc, a_tree_without_a_way_waits_for_one);
    tcase_add_test(tc, a_pull_that_the_tree_overtakes_makes_the_next_wait_longer);
    tcase_add_test(tc, a_way_that_was_late_is_told_at_once);
    tcase_add_test(tc, a_tree_that_is_silent_for_long_is_not_waited_for);
    tcase_add_test(tc, a_silent_link_is_told_from_a_silent_member);
    tcase_add_test(tc, a_link_is_asked_for_what_a_comparison_has_shown);
    tcase_add_test(tc, repairs_are_few_and_patient);
    tcase_add_test(tc, an_observer_pulls_and_makes_nothing);
    tcase_add_test(tc, a_seal_to_come_is_life_enough);
    tcase_add_test(tc, a_version_vector_of_thousands_comes_in_parts);
    tcase_add_test(tc, a_gap_longer_than_a_stage_is_caught_up);
}

PD_TEST_MAIN("view", 120)
