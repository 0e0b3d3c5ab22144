/* test_core.c - one gossip core, its peer and its store played by hand: the rules that must hold at
 * any single node.
 *
 * What many cores make of each other is tested by the network of tests/net.
 */
#include "peerd/frame.h"
#include "peerd/ledger.h"
#include "test.h"

typedef struct world {
    pd_identity a, b, guest; /* a: the core's own, founder; b: a member */
    uint8_t run[32];
    pd_core_conf conf;
    pd_known_addr known; /* b's */
    pd_ledger *ledger;
    pd_core *core;
    void *arena;
    uint64_t now, random;
    pd_action acts[PD_ACTIONS_MAX];
    size_t n;
    uint64_t rx, tx; /* of session 1, as the peer counts */
} world;

/* ---- what the core is given ---- */

static void sign(void *ctx, const void *msg, size_t n, uint8_t sig[64]) {
    pd_sign(&((world *)ctx)->a, msg, n, sig);
}

static bool verify(void *ctx, const uint8_t pub[32], const void *msg, size_t n,
                   const uint8_t sig[64]) {
    (void)ctx;
    return pd_verify(pub, msg, n, sig);
}

static uint64_t count(void *ctx) {
    return ((world *)ctx)->random += UINT64_C(0x9e3779b97f4a7c15);
}

static bool log_seal(void *ctx, const pd_author *a, uint8_t stream, uint64_t *n, uint8_t seal[64]) {
    world *w = ctx;
    uint32_t i;
    pd_log_info info;
    if (pd_ledger_author(w->ledger, a, &i) || !pd_ledger_info(w->ledger, i, &info))
        return false;
    *n = info.n[stream];
    memcpy(seal, info.seal[stream], 64);
    return *n > 0;
}

static size_t log_read(void *ctx, const pd_author *a, uint8_t stream, uint64_t from, uint8_t *out,
                       size_t room) {
    world *w = ctx;
    uint32_t i;
    return pd_ledger_author(w->ledger, a, &i)
               ? 0
               : pd_ledger_read(w->ledger, i, stream, from, out, room);
}

static void append(world *w, const pd_author *a, uint8_t stream, uint64_t from, const uint8_t *p,
                   size_t n, const uint8_t seal[64]) {
    uint32_t i;
    ck_assert_int_eq(pd_ledger_author(w->ledger, a, &i), PD_OK);
    ck_assert_int_eq(pd_ledger_append(w->ledger, i, stream, from, p, n, seal), PD_OK);
}

/* Seal a whole log as its author would. */
static void seal_log(world *w, const pd_identity *id, uint32_t inc, uint8_t stream,
                     const uint8_t *p, size_t n, uint8_t seal[64]) {
    pd_author a = {.inc = inc};
    pd_chain chain;
    uint8_t msg[PD_SEAL_MESSAGE_BYTES];
    memcpy(a.key, id->pub, 32);
    pd_chain_init(&chain, w->run, &a, stream);
    pd_chain_add(&chain, p, n);
    pd_seal_message(&chain, w->run, &a, stream, msg);
    pd_sign(id, msg, sizeof msg, seal);
}

static void hold_log(world *w, const pd_identity *id, uint8_t stream, const uint8_t *p, size_t n) {
    pd_author a = {.inc = 0};
    uint8_t seal[64];
    memcpy(a.key, id->pub, 32);
    seal_log(w, id, 0, stream, p, n, seal);
    append(w, &a, stream, 0, p, n, seal);
}

/* ---- steps ---- */

static pd_action *find(world *w, pd_action_kind kind) {
    for (size_t i = 0; i < w->n; i++)
        if (w->acts[i].kind == kind)
            return &w->acts[i];
    return NULL;
}

static void step(world *w, const pd_event *e) {
    char why[128] = "";
    w->n = pd_core_step(w->core, w->now, e, w->acts, PD_ACTIONS_MAX);
    for (size_t i = 0; i < w->n; i++) {
        const pd_action *a = &w->acts[i];
        if (a->kind == PD_ACT_STORE && !a->own)
            append(w, &a->author, a->stream, a->at, a->p, a->n, a->seal);
        if (a->kind == PD_ACT_SEND && a->session == 1)
            w->rx += a->n;
    }
    ck_assert_msg(pd_core_check(w->core, why, sizeof why), "%s", why);
}

static void tick(world *w, uint64_t ms) {
    w->now += ms;
    step(w, &(pd_event){.kind = PD_EV_TICK});
}

static void up(world *w, uint64_t session, const uint8_t key[32]) {
    pd_event e = {.kind = PD_EV_SESSION_UP, .session = session};
    memcpy(e.key, key, 32);
    step(w, &e);
}

static size_t frame_of(world *w, uint8_t *out, size_t room, const pd_item *items, size_t n) {
    pd_writer f = pd_writer_of(out, room);
    pd_frame_begin(&f, w->rx);
    for (size_t i = 0; i < n; i++)
        ck_assert(pd_frame_put(&f, &items[i]));
    return (size_t)(f.p - out);
}

static void say(world *w, const pd_item *items, size_t n) {
    uint8_t frame[PD_FRAME_MAX];
    pd_event e = {.kind = PD_EV_FRAME, .session = 1, .p = frame};
    e.n = frame_of(w, frame, sizeof frame, items, n);
    step(w, &e);
}

static void gradient(world *w, uint8_t byte) {
    pd_event e = {.kind = PD_EV_GRADIENT, .byte = byte};
    pd_core_may_speak(w->core, &e.author, &e.at);
    step(w, &e);
}

/* Carry an own STORE out as the store would, and say so. */
static void stored(world *w) {
    pd_action *a = find(w, PD_ACT_STORE);
    ck_assert(a && a->own);
    append(w, &a->author, a->stream, a->at, a->p, a->n, a->seal);
    pd_event e = {
        .kind = PD_EV_STORED, .author = a->author, .stream = a->stream, .at = a->at + a->n};
    step(w, &e);
}

/* The first item of a kind in the frames of the last step. */
static bool said(world *w, pd_item_kind kind, pd_item *it) {
    pd_reader r;
    uint64_t ack;
    for (size_t i = 0; i < w->n; i++)
        if (w->acts[i].kind == PD_ACT_SEND && pd_frame_open(w->acts[i].p, w->acts[i].n, &r, &ack))
            while (pd_frame_next(&r, it))
                if (it->kind == kind)
                    return true;
    return false;
}

static pd_item hello(world *w, bool equal) {
    pd_core_status s;
    pd_item it = {.kind = PD_ITEM_HELLO, .u.hello = {.nonce = 77, .proto = PD_PROTO}};
    pd_core_status_get(w->core, w->now, &s);
    memcpy(it.u.hello.net, w->run, 32);
    it.u.hello.vv_hash = s.vv_hash + !equal;
    for (unsigned i = 0; i < 2; i++) {
        pd_author a = {.inc = 0};
        uint64_t n[2] = {0};
        uint8_t seal[64];
        memcpy(a.key, i ? w->b.pub : w->a.pub, 32);
        log_seal(w, &a, 0, &n[0], seal);
        log_seal(w, &a, 1, &n[1], seal);
        it.u.hello.total += n[0] + n[1];
    }
    return it;
}

static void open_core(world *w) {
    pd_core_crypto crypto = {w, sign, verify, count};
    pd_core_log log = {.ctx = w, .seal = log_seal, .read = log_read};
    w->rx = w->tx = 0;
    ck_assert_int_eq(
        pd_core_open(&w->conf, &crypto, &log, w->now, w->arena, pd_core_bytes(&w->conf), &w->core),
        PD_OK);
    tick(w, 0);
}

/* A founder that has admitted one member, b, and holds `own` gradients of its own. */
static world *make(const uint8_t *own, size_t n) {
    world *w = calloc(1, sizeof *w);
    uint8_t seed[32] = {1}, control[128];
    ck_assert_int_eq(pd_crypto_init(), PD_OK);
    pd_identity_from_seed(seed, &w->a);
    seed[0] = 2;
    pd_identity_from_seed(seed, &w->b);
    seed[0] = 3;
    pd_identity_from_seed(seed, &w->guest);
    memset(w->run, 0x55, 32);
    ck_assert_int_eq(pd_ledger_open(&w->ledger), PD_OK);
    pd_control rec = {.kind = PD_RECORD_MEMBER, .name = "b"};
    memcpy(rec.subject, w->b.pub, 32);
    pd_writer c = pd_writer_of(control, sizeof control);
    ck_assert(pd_control_put(&c, &rec));
    hold_log(w, &w->a, PD_STREAM_CONTROL, control, (size_t)(c.p - control));
    if (n)
        hold_log(w, &w->a, PD_STREAM_GRADIENTS, own, n);
    memcpy(w->conf.run, w->run, 32);
    memcpy(w->conf.key, w->a.pub, 32);
    memcpy(w->conf.founder, w->a.pub, 32);
    w->known.addr = (pd_addr){4, {10, 0, 0, 2}, 7433};
    memcpy(w->known.key, w->b.pub, 32);
    w->conf.known = &w->known;
    w->conf.n_known = 1;
    w->conf.manifest = "text";
    w->conf.manifest_bytes = 4;
    w->conf.stage_bytes = 65536;
    w->now = 1000;
    w->arena = aligned_alloc(64, (pd_core_bytes(&w->conf) + 63) / 64 * 64);
    open_core(w);
    return w;
}

static void drop(world *w) {
    pd_ledger_close(w->ledger);
    free(w->arena);
    free(w);
}

/* Linked with b, who holds the same, so that it may speak. */
static world *speaking(const uint8_t *own, size_t n) {
    world *w = make(own, n);
    up(w, 1, w->b.pub);
    pd_item h = hello(w, true);
    say(w, &h, 1);
    tick(w, 300);
    return w;
}

static bool may_speak(world *w) {
    pd_author a;
    uint64_t at;
    return pd_core_may_speak(w->core, &a, &at);
}

/* ---- speaking ---- */

/* A node that speaks right after a start may say other bytes than it said before its disk was set
 * back. */
START_TEST(it_listens_before_it_speaks) {
    world *w = make(NULL, 0);
    ck_assert(!may_speak(w));
    tick(w, 3600000);
    ck_assert(!may_speak(w)); /* nobody heard yet */
    up(w, 1, w->b.pub);
    pd_item h = hello(w, true);
    say(w, &h, 1);
    ck_assert(may_speak(w));
    w->conf.n_known = 0; /* nobody can be called: somebody may call within a minute */
    open_core(w);
    tick(w, 59000);
    ck_assert(!may_speak(w));
    tick(w, 1000);
    ck_assert(may_speak(w));
    w->conf.restored = true;
    open_core(w);
    tick(w, 299000);
    ck_assert(!may_speak(w));
    tick(w, 1000);
    ck_assert(may_speak(w));
    drop(w);
}
END_TEST

/* Who is refused says nothing: a founder left with a banned member alone listened for ever. */
START_TEST(a_banned_member_is_not_waited_for) {
    world *w = speaking(NULL, 0);
    pd_event e = {.kind = PD_EV_BAN};
    memcpy(e.key, w->b.pub, 32);
    ck_assert_int_eq(pd_core_may_ban(w->core, e.key, &e.author, &e.at), PD_OK);
    step(w, &e);
    stored(w);
    open_core(w);
    ck_assert(may_speak(w));
    drop(w);
}
END_TEST

START_TEST(it_takes_only_its_next_record) {
    world *w = speaking(NULL, 0);
    pd_event e = {.kind = PD_EV_GRADIENT, .byte = 5};
    pd_core_status s;
    ck_assert(pd_core_may_speak(w->core, &e.author, &e.at) && e.at == 0);
    e.at = 1;
    step(w, &e); /* not the next */
    e.at = 0;
    e.byte = 0x80;
    step(w, &e); /* the reserved byte */
    e.byte = 5;
    e.author.inc = 1;
    step(w, &e); /* another incarnation's */
    pd_core_status_get(w->core, w->now, &s);
    ck_assert_uint_eq(s.step, 0);
    gradient(w, 5);
    pd_core_status_get(w->core, w->now, &s);
    ck_assert(s.step == 1 && s.unsealed == 1 && s.sealed == 0);
    drop(w);
}
END_TEST

/* What was said before it was durable would be said differently after a crash. */
START_TEST(nothing_own_leaves_before_it_is_stored) {
    world *w = speaking(NULL, 0);
    pd_item it;
    gradient(w, 5);
    step(w, &(pd_event){.kind = PD_EV_FLUSH});
    pd_action first = *find(w, PD_ACT_STORE);
    ck_assert(first.own && first.at == 0 && first.n == 1 && first.p[0] == 5);
    for (int i = 0; i < 10; i++) {
        tick(w, 300);
        ck_assert(!said(w, PD_ITEM_SEG, &it));
    }
    pd_event failed = {.kind = PD_EV_STORE_FAILED, .author = first.author, .stream = 0};
    step(w, &failed);
    ck_assert(!find(w, PD_ACT_STORE));
    gradient(w, 6); /* goes on while the disk is full */
    tick(w, 1000);
    pd_action *again = find(w, PD_ACT_STORE);
    ck_assert(again && again->n == 1 &&
              !memcmp(again->seal, first.seal, 64)); /* the same seal, never another */
    stored(w);
    if (!said(w, PD_ITEM_SEG, &it)) {
        tick(w, 300);
        ck_assert(said(w, PD_ITEM_SEG, &it));
    }
    ck_assert(it.u.seg.count == 1 && it.u.seg.bytes[0] == 5 && it.u.seg.seal);
    drop(w);
}
END_TEST

START_TEST(a_store_that_takes_nothing_stops_the_trainer_at_4096) {
    world *w = speaking(NULL, 0);
    int taken = 0;
    for (; may_speak(w) && taken < 10000; taken++)
        gradient(w, (uint8_t)(taken % 100));
    ck_assert_int_eq(taken, PD_PENDING_MAX);
    drop(w);
}
END_TEST

/* ---- another log under our name ---- */

static pd_item own_alias(world *w) {
    pd_item it = {.kind = PD_ITEM_ALIAS, .u.alias = {.alias = 9}};
    memcpy(it.u.alias.author.key, w->a.pub, 32);
    return it;
}

static void show_own(world *w, uint32_t inc, uint64_t start, const uint8_t *p, size_t n,
                     const uint8_t seal[64]) {
    pd_item items[2] = {own_alias(w), {.kind = PD_ITEM_SEG}};
    items[0].u.alias.author.inc = inc;
    items[1].u.seg.alias = 9;
    items[1].u.seg.start = start + 1;
    items[1].u.seg.bytes = p;
    items[1].u.seg.count = (uint32_t)n;
    items[1].u.seg.seal = seal;
    say(w, items, 2);
}

START_TEST(a_longer_own_log_is_taken_back_and_continued) {
    const uint8_t log[5] = {1, 2, 3, 4, 5};
    world *w = make(log, 2);
    uint8_t seal[64];
    seal_log(w, &w->a, 0, 0, log, 5, seal);
    up(w, 1, w->b.pub);
    pd_head heads[1] = {{18, 5}};
    pd_item items[3] = {hello(w, false),
                        own_alias(w),
                        {.kind = PD_ITEM_VV, .u.heads = {.count = 1, .heads = heads}}};
    say(w, items, 3);
    ck_assert(!may_speak(w)); /* b claims to hold more of us */
    show_own(w, 0, 2, log + 2, 3, seal);
    tick(w, 0);
    pd_author a;
    uint64_t at;
    ck_assert(pd_core_may_speak(w->core, &a, &at));
    ck_assert(at == 5 && a.inc == 0);
    drop(w);
}
END_TEST

START_TEST(a_proven_double_opens_the_next_incarnation_and_a_second_ends_the_process) {
    const uint8_t ours[4] = {1, 2, 3, 4}, other[6] = {1, 2, 9, 9, 9, 9};
    uint8_t seal[64], forged[64] = {0};
    world *w = speaking(ours, 4);
    show_own(w, 0, 0, other, 6, forged);
    ck_assert(!find(w, PD_ACT_META) && may_speak(w)); /* anyone can claim */
    drop(w);
    w = speaking(ours, 4);
    seal_log(w, &w->a, 0, 0, other, 6, seal);
    show_own(w, 0, 0, other, 6, seal);
    tick(w, 0);
    pd_author a;
    uint64_t at;
    ck_assert(pd_core_may_speak(w->core, &a, &at));
    ck_assert(a.inc == 1 && at == 0);
    gradient(w, 1);
    step(w, &(pd_event){.kind = PD_EV_FLUSH});
    stored(w);
    seal_log(w, &w->a, 1, 0, other, 3, seal);
    show_own(w, 1, 0, other + 2, 3, seal); /* does not verify: proves nothing */
    ck_assert(!find(w, PD_ACT_FATAL));
    drop(w);
    w = speaking(ours, 4);
    gradient(w, 7);
    step(w, &(pd_event){.kind = PD_EV_FLUSH});
    stored(w);
    const uint8_t longer[6] = {1, 2, 3,
                               4, 7, 8}; /* somebody goes on behind what only we can know */
    seal_log(w, &w->a, 0, 0, longer, 6, seal);
    show_own(w, 0, 5, longer + 5, 1, seal);
    ck_assert(find(w, PD_ACT_FATAL) && find(w, PD_ACT_FATAL)->at == 75);
    ck_assert(!may_speak(w));
    drop(w);
}
END_TEST

/* Of two copies that run at once one has to stay: both saw each other's log and ended, and the node
 * was gone.  Each waits; who is first to open the next incarnation stays. */
START_TEST(of_two_living_copies_the_first_to_go_on_stays) {
    const uint8_t ours[4] = {1, 2, 3, 4}, other[6] = {1, 2, 9, 9, 9, 9};
    uint8_t seal[64];
    for (int first = 0; first < 2; first++) {
        world *w = speaking(ours, 4);
        seal_log(w, &w->a, 0, 0, other, 6, seal);
        show_own(w, 0, 0, other, 6, seal);
        tick(w, 0);
        gradient(w, 1); /* the first of incarnation 1 */
        step(w, &(pd_event){.kind = PD_EV_FLUSH});
        stored(w);
        seal_log(w, &w->a, 1, 0, other + 2, 3, seal);
        show_own(w, 1, 0, other + 2, 3, seal); /* another process has opened it, too */
        ck_assert(!find(w, PD_ACT_FATAL) && !may_speak(w));
        if (!first) {
            seal_log(w, &w->a, 2, 0, other, 2, seal);
            show_own(w, 2, 0, other, 2, seal);
            ck_assert(find(w, PD_ACT_FATAL) && find(w, PD_ACT_FATAL)->at == 75);
        }
        for (int s = 0; s < 30 && first && !may_speak(w); s++) {
            pd_item pong = {.kind = PD_ITEM_PONG};
            say(w, &pong, 1);
            tick(w, 1000);
        }
        pd_author a;
        uint64_t at;
        ck_assert_int_eq(pd_core_may_speak(w->core, &a, &at), first);
        ck_assert(!first || (a.inc == 2 && at == 0));
        drop(w);
    }
}
END_TEST

/* Else whoever names fifteen incarnations of everybody fills the table, and an honest member's next
 * one finds no room in it. */
START_TEST(a_later_incarnation_is_known_once_that_before_it_has_signed) {
    enum { OWN = 9, OTHERS = 30 };
    const uint8_t log[3] = {7, 8, 9};
    uint8_t seal[64];
    world *w = speaking(log, 3);
    pd_author all[8];
    pd_item items[2 * PD_INCARNATIONS];
    for (uint32_t inc = 0; inc < PD_INCARNATIONS; inc++) {
        items[2 * inc] = items[2 * inc + 1] = own_alias(w);
        items[2 * inc].u.alias.alias = OWN + inc;
        items[2 * inc + 1].u.alias.alias = OTHERS + inc;
        memcpy(items[2 * inc + 1].u.alias.author.key, w->b.pub, 32);
        items[2 * inc].u.alias.author.inc = items[2 * inc + 1].u.alias.author.inc = inc;
    }
    say(w, items, 4); /* both, and the next of both */
    ck_assert_uint_eq(pd_core_authors(w->core, all, 8), 3);
    say(w, items, 2 * PD_INCARNATIONS);
    ck_assert_uint_eq(pd_core_authors(w->core, all, 8), 3);
    seal_log(w, &w->b, 0, 0, log, 3, seal);
    pd_item seg = {.kind = PD_ITEM_SEG,
                   .u.seg = {.alias = OTHERS, .start = 1, .bytes = log, .count = 3, .seal = seal}};
    say(w, &seg, 1);
    ck_assert_uint_eq(pd_core_authors(w->core, all, 8), 4);
    seal_log(w, &w->b, 1, 0, log, 3, seal);
    seg.u.seg.alias++;
    say(w, &seg, 1);
    pd_core_status s;
    pd_core_status_get(w->core, w->now, &s);
    ck_assert_uint_eq(s.records, 9);
    drop(w);
}
END_TEST

/* Both ends see the same two numbers, so that one of the two goes on. */
START_TEST(of_two_processes_with_our_key_the_higher_number_ends) {
    for (int lower = 0; lower < 2; lower++) {
        world *w = make(NULL, 0);
        up(w, 1, w->a.pub);
        pd_item h = hello(w, true);
        h.u.hello.nonce = lower ? UINT64_MAX : 0;
        say(w, &h, 1);
        ck_assert(!find(w, PD_ACT_FATAL) == !!lower);
        ck_assert(find(w, PD_ACT_CLOSE));
        ck_assert(lower || find(w, PD_ACT_FATAL)->at == 75);
        drop(w);
    }
}
END_TEST

/* ---- hostile bytes ---- */

/* Nothing of a frame counts unless all of it parses, and no byte of it can break the core. */
START_TEST(every_changed_byte_of_a_frame_is_harmless) {
    const uint8_t log[3] = {7, 8, 9};
    uint8_t frame[1024], seal[64];
    world *w = make(NULL, 0);
    up(w, 1, w->b.pub);
    seal_log(w, &w->b, 0, 0, log, 3, seal);
    pd_head heads[2] = {{6, 3}, {18, 4}};
    pd_item items[8] = {
        hello(w, false), {.kind = PD_ITEM_ALIAS, .u.alias = {.alias = 3}}, own_alias(w)};
    memcpy(items[1].u.alias.author.key, w->b.pub, 32);
    items[3] =
        (pd_item){.kind = PD_ITEM_VV, .u.heads = {.flags = PD_VV_WANT, .count = 2, .heads = heads}};
    items[4] = (pd_item){.kind = PD_ITEM_SEG,
                         .u.seg = {.alias = 3, .bytes = log, .count = 3, .seal = seal}};
    items[5] = (pd_item){.kind = PD_ITEM_PULL, .u.pull = {19, 0, 4096}};
    items[6] = (pd_item){.kind = PD_ITEM_FILEQ, .u.part = {.limit = 9}};
    items[7] = (pd_item){.kind = PD_ITEM_PING, .u.ping = {5, 0}};
    size_t n = frame_of(w, frame, sizeof frame, items, 8), bytes = pd_core_bytes(&w->conf);
    uint8_t *was = malloc(bytes);
    memcpy(was, w->arena, bytes);
    static const uint8_t flips[] = {0x01, 0x02, 0x40, 0x80, 0xff};
    for (size_t i = 0; i < n * sizeof flips; i++) {
        uint8_t changed[1024];
        char why[128];
        memcpy(changed, frame, n);
        changed[i / sizeof flips] ^= flips[i % sizeof flips];
        memcpy(w->arena, was, bytes);
        pd_event e = {.kind = PD_EV_FRAME, .session = 1, .p = changed, .n = n};
        w->n = pd_core_step(w->core, w->now, &e, w->acts, PD_ACTIONS_MAX);
        const pd_action *a = find(w, PD_ACT_STORE);
        ck_assert(!a || (a->n == 3 && !memcmp(a->p, log, 3))); /* what is taken is true */
        ck_assert_msg(pd_core_check(w->core, why, sizeof why), "%s", why);
    }
    for (size_t cut = 0; cut < n; cut++) {
        memcpy(w->arena, was, bytes);
        pd_event e = {.kind = PD_EV_FRAME, .session = 1, .p = frame, .n = cut};
        pd_core_step(w->core, w->now, &e, w->acts, PD_ACTIONS_MAX);
    }
    free(was);
    drop(w);
}
END_TEST

START_TEST(what_is_out_of_order_closes_the_session) {
    pd_item ping = {.kind = PD_ITEM_PING};
    world *w = make(NULL, 0);
    up(w, 1, w->b.pub);
    say(w, &ping, 1); /* before HELLO */
    ck_assert(find(w, PD_ACT_CLOSE));
    drop(w);
    w = speaking(NULL, 0);
    pd_item h = hello(w, true);
    say(w, &h, 1); /* a second HELLO */
    ck_assert(find(w, PD_ACT_CLOSE));
    drop(w);
    w = speaking(NULL, 0);
    w->rx += 100000; /* acknowledges what was never sent */
    say(w, &ping, 1);
    ck_assert(find(w, PD_ACT_CLOSE));
    drop(w);
    w = make(NULL, 0);
    up(w, 1, w->guest.pub); /* not a member */
    ck_assert(find(w, PD_ACT_CLOSE));
    drop(w);
}
END_TEST

/* ---- guests ---- */

static void knock(world *w, bool right, bool spent) {
    uint8_t msg[PD_JOIN_MESSAGE_BYTES], curve[32] = {0xcc};
    pd_event e = {
        .kind = PD_EV_SESSION_UP, .session = 1, .guest = true, .invite = 42, .spent = spent};
    pd_item it = {.kind = PD_ITEM_JOIN, .u.join = {.name = "c\x1b[", .name_size = 3}};
    memcpy(e.key, curve, 32);
    step(w, &e);
    pd_join_message(w->run, curve, msg);
    msg[0] ^= !right;
    memcpy(it.u.join.key, w->guest.pub, 32);
    pd_sign(&w->guest, msg, sizeof msg, it.u.join.sig);
    w->rx = 0;
    say(w, &it, 1);
}

/* Else who tried a newer program is refused for ten minutes after it went back to the old one. */
START_TEST(another_frame_version_is_no_crime) {
    const uint8_t other[3] = {PD_FRAME_VERSION + 1, 0, 0};
    world *w = make(NULL, 0);
    pd_peer_status p;
    for (uint64_t s = 1; s < 9; s++) {
        up(w, s, w->b.pub);
        ck_assert(!find(w, PD_ACT_CLOSE));
        pd_event e = {.kind = PD_EV_FRAME, .session = s, .p = other, .n = sizeof other};
        step(w, &e);
        ck_assert(find(w, PD_ACT_CLOSE));
        ck_assert(pd_core_peer_get(w->core, w->now, 0, &p) && p.score == 0);
    }
    drop(w);
}
END_TEST

static bool is_taken(world *w, uint64_t session) {
    up(w, session, w->b.pub);
    return !find(w, PD_ACT_CLOSE);
}

static int32_t score_after_junk(world *w, uint64_t session) {
    static const uint8_t junk[3] = {PD_FRAME_VERSION, 0, 0x80};
    pd_peer_status p;
    step(w, &(pd_event){.kind = PD_EV_FRAME, .session = session, .p = junk, .n = sizeof junk});
    ck_assert(find(w, PD_ACT_CLOSE));
    ck_assert(pd_core_peer_get(w->core, w->now, 0, &p));
    return p.score;
}

/* One who sends rubbish costs a session each time; without an end to it, all of them. */
START_TEST(who_sends_rubbish_twice_is_refused_for_longer_each_time) {
    world *w = make(NULL, 0);
    uint64_t s = 1, wait_ms = 600000;
    ck_assert(is_taken(w, s));
    for (int round = 0; round < 3; round++, wait_ms *= 2) {
        ck_assert_int_eq(score_after_junk(w, s), -50);
        ck_assert(is_taken(w, ++s));
        ck_assert_int_eq(score_after_junk(w, s), 0); /* it has been answered for */
        ck_assert(!is_taken(w, ++s));
        tick(w, wait_ms - 1);
        ck_assert(!is_taken(w, ++s));
        tick(w, 1);
        ck_assert(is_taken(w, ++s));
    }
    ck_assert_int_eq(score_after_junk(w, s), -50);
    tick(w, 50 * 60000); /* a point a minute is forgotten */
    ck_assert(is_taken(w, ++s));
    ck_assert_int_eq(score_after_junk(w, s), -50);
    drop(w);
}
END_TEST

START_TEST(a_guest_is_welcomed_only_when_its_record_is_durable) {
    world *w = speaking(NULL, 0);
    pd_item it;
    step(w, &(pd_event){.kind = PD_EV_SESSION_DOWN, .session = 1});
    knock(w, true, false);
    ck_assert(find(w, PD_ACT_STORE) && find(w, PD_ACT_STORE)->stream == PD_STREAM_CONTROL);
    ck_assert(!pd_core_is_member(w->core, w->guest.pub) && !said(w, PD_ITEM_WELCOME, &it));
    stored(w);
    tick(w, 0);
    ck_assert(pd_core_is_member(w->core, w->guest.pub));
    ck_assert(find(w, PD_ACT_INVITE_USED) && find(w, PD_ACT_INVITE_USED)->invite == 42 &&
              find(w, PD_ACT_ALLOW));
    ck_assert(said(w, PD_ITEM_WELCOME, &it));
    ck_assert(it.u.part.offset == 0 && it.u.part.count == it.u.part.total);
    ck_assert(it.u.part.bytes[0] == 4 && !memcmp(it.u.part.bytes + 1, "text", 4));
    pd_peer_status p;
    ck_assert(pd_core_peer_get(w->core, w->now, 1, &p));
    ck_assert_str_eq(p.name, "c?[");
    drop(w);
}
END_TEST

/* Behind its ROTATE its word has no weight: the guest would not be in, and its ticket used up. */
START_TEST(who_passes_its_place_on_admits_nobody) {
    world *w = speaking(NULL, 0);
    uint8_t seed[32] = {9}, msg[PD_ROTATE_MESSAGE_BYTES], sig[64];
    pd_identity next;
    pd_event e = {.kind = PD_EV_ROTATE, .p = sig, .n = sizeof sig};
    pd_item it;
    pd_identity_from_seed(seed, &next);
    pd_rotate_message(w->run, w->a.pub, next.pub, msg);
    pd_sign(&next, msg, sizeof msg, sig);
    memcpy(e.key, next.pub, 32);
    step(w, &(pd_event){.kind = PD_EV_SESSION_DOWN, .session = 1});
    step(w, &e);
    knock(w, true, false);
    ck_assert(said(w, PD_ITEM_BYE, &it) && it.u.bye.why == PD_BYE_LEAVING);
    drop(w);
}
END_TEST

START_TEST(a_guest_without_its_key_or_with_a_used_ticket_is_refused) {
    for (int k = 0; k < 3; k++) {
        world *w = k < 2 ? speaking(NULL, 0) : make(NULL, 0);
        pd_item it;
        if (k < 2)
            step(w, &(pd_event){.kind = PD_EV_SESSION_DOWN, .session = 1});
        knock(w, k != 0, k == 1);
        ck_assert(!find(w, PD_ACT_STORE) && said(w, PD_ITEM_BYE, &it));
        ck_assert_int_eq(it.u.bye.why,
                         k < 2 ? PD_BYE_REFUSED : PD_BYE_NOT_NOW); /* 2: it still listens itself */
        tick(w, 1000);
        ck_assert(find(w, PD_ACT_CLOSE));
        drop(w);
    }
}
END_TEST

/* ---- health and credits ---- */

START_TEST(silence_is_asked_about_and_then_ends_the_session) {
    world *w = speaking(NULL, 0);
    pd_item it;
    int pings = 0;
    for (uint64_t s = 0; s < 44; s++) {
        tick(w, 1000);
        pings += said(w, PD_ITEM_PING, &it);
        ck_assert(!find(w, PD_ACT_CLOSE));
    }
    ck_assert_int_eq(pings, 2);
    tick(w, 1000);
    ck_assert(find(w, PD_ACT_CLOSE));
    drop(w);
}
END_TEST

/* A suspended laptop must not blame its peers for its own silence. */
START_TEST(a_late_wake_up_blames_nobody) {
    world *w = speaking(NULL, 0);
    tick(w, 600000);
    ck_assert(!find(w, PD_ACT_CLOSE));
    drop(w);
}
END_TEST

START_TEST(an_unread_session_holds_at_most_its_window) {
    static uint8_t log[60000];
    world *w = make(log, sizeof log);
    up(w, 1, w->b.pub);
    pd_item items[4] = {
        hello(w, false), {.kind = PD_ITEM_VV}, own_alias(w), {.kind = PD_ITEM_PULL}};
    items[3].u.pull.log = 18;
    items[3].u.pull.limit = sizeof log;
    say(w, items, 4); /* b holds nothing, and asks for it */
    for (int i = 0; i < 100; i++)
        tick(w, 100);
    ck_assert_uint_le(w->rx, 16384 + 64); /* the first window, and the pings behind it */
    ck_assert_uint_ge(w->rx, 15000);
    uint64_t before = w->rx;
    pd_item pong = {.kind = PD_ITEM_PONG};
    say(w, &pong, 1); /* its frame acknowledges all */
    for (int i = 0; i < 10; i++)
        tick(w, 100);
    ck_assert_uint_gt(w->rx, before + 3000);
    drop(w);
}
END_TEST

/* Three authors who push a million records at a newcomer that pulls them already send each twice,
 * and a newcomer keeps the unsealed bytes of four logs only. */
START_TEST(a_long_gap_is_asked_for_and_not_pushed) {
    static uint8_t log[60000];
    pd_item it;
    world *w = make(log, sizeof log);
    up(w, 1, w->b.pub);
    pd_head heads[1] = {{6, 60000}}; /* b's own log */
    pd_item items[3] = {hello(w, false),
                        {.kind = PD_ITEM_ALIAS, .u.alias = {.alias = 3}},
                        {.kind = PD_ITEM_VV, .u.heads = {.count = 1, .heads = heads}}};
    memcpy(items[1].u.alias.author.key, w->b.pub, 32);
    say(w, items, 3); /* b holds nothing of ours, and much that we lack */
    bool asked = said(w, PD_ITEM_PULL, &it);
    for (int i = 0; i < 3; i++) {
        tick(w, 100);
        asked |= said(w, PD_ITEM_PULL, &it);
        ck_assert(!said(w, PD_ITEM_SEG, &it));
    }
    ck_assert(asked); /* at once: an author's own log is otherwise waited for */
    pd_item pull[2] = {own_alias(w), {.kind = PD_ITEM_PULL, .u.pull = {18, 60000, 1 << 20}}};
    say(w, pull, 2); /* it has had it from somebody else: from here on it is pushed again */
    gradient(w, 1);
    step(w, &(pd_event){.kind = PD_EV_FLUSH});
    stored(w);
    for (int i = 0; i < 3 && !said(w, PD_ITEM_SEG, &it); i++)
        tick(w, 100);
    ck_assert(said(w, PD_ITEM_SEG, &it) && it.u.seg.count == 1 && it.u.seg.seal);
    drop(w);
}
END_TEST

START_TEST(an_open_refuses_what_cannot_be) {
    const uint8_t log[3] = {1, 2, 3}, forged[64] = {1};
    pd_author b = {.inc = 0};
    world *w = make(NULL, 0);
    pd_core_crypto crypto = {w, sign, verify, count};
    pd_core_log vt = {.ctx = w, .seal = log_seal, .read = log_read};
    pd_core *c;
    size_t n = pd_core_bytes(&w->conf);
    ck_assert_int_eq(pd_core_open(&w->conf, &crypto, &vt, 1, w->arena, n - 1, &c), PD_ENOMEM);
    memcpy(w->conf.key, w->guest.pub, 32);
    ck_assert_int_eq(pd_core_open(&w->conf, &crypto, &vt, 1, w->arena, n, &c), PD_EUSAGE);
    memcpy(w->conf.key, w->a.pub, 32);
    memcpy(b.key, w->b.pub, 32);
    append(w, &b, 0, 0, log, 3, forged);
    ck_assert_int_eq(pd_core_open(&w->conf, &crypto, &vt, 1, w->arena, n, &c), PD_EMISMATCH);
    drop(w);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, it_listens_before_it_speaks);
    tcase_add_test(tc, a_banned_member_is_not_waited_for);
    tcase_add_test(tc, a_later_incarnation_is_known_once_that_before_it_has_signed);
    tcase_add_test(tc, who_passes_its_place_on_admits_nobody);
    tcase_add_test(tc, it_takes_only_its_next_record);
    tcase_add_test(tc, nothing_own_leaves_before_it_is_stored);
    tcase_add_test(tc, a_store_that_takes_nothing_stops_the_trainer_at_4096);
    tcase_add_test(tc, a_longer_own_log_is_taken_back_and_continued);
    tcase_add_test(tc, a_proven_double_opens_the_next_incarnation_and_a_second_ends_the_process);
    tcase_add_test(tc, of_two_living_copies_the_first_to_go_on_stays);
    tcase_add_test(tc, of_two_processes_with_our_key_the_higher_number_ends);
    tcase_add_test(tc, every_changed_byte_of_a_frame_is_harmless);
    tcase_add_test(tc, what_is_out_of_order_closes_the_session);
    tcase_add_test(tc, another_frame_version_is_no_crime);
    tcase_add_test(tc, who_sends_rubbish_twice_is_refused_for_longer_each_time);
    tcase_add_test(tc, a_guest_is_welcomed_only_when_its_record_is_durable);
    tcase_add_test(tc, a_guest_without_its_key_or_with_a_used_ticket_is_refused);
    tcase_add_test(tc, silence_is_asked_about_and_then_ends_the_session);
    tcase_add_test(tc, a_late_wake_up_blames_nobody);
    tcase_add_test(tc, an_unread_session_holds_at_most_its_window);
    tcase_add_test(tc, a_long_gap_is_asked_for_and_not_pushed);
    tcase_add_test(tc, an_open_refuses_what_cannot_be);
}

PD_TEST_MAIN("core", 120)
