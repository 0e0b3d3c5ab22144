/* test_verdict.c - who is in the run and which records count, as one core finds it from the control
 * logs it holds: each rule alone, and that no order of arrival changes the answer.
 */
#include "ledger_port.h"
#include "peerd/frame.h"
#include "peerd/ledger.h"
#include "peerd/rng.h"
#include "test.h"

/* messenger: the member whose session brings everything; it does nothing else */
enum { KEYS = 90, ROOM = 60000, FOUNDER = 0, MESSENGER = 80 };

/* Everybody's control log, as its author wrote it; and what a core makes of it. */
typedef struct control_log {
    uint8_t bytes[ROOM];
    size_t n;
    uint32_t inc;
} control_log;

static pd_identity id[KEYS];
static control_log logs[KEYS];
static const uint8_t run[32] = {5};

static void sign(void *ctx, const void *msg, size_t n, uint8_t sig[64]) {
    (void)ctx;
    pd_sign(&id[FOUNDER], msg, n, sig);
}
static bool verify(void *ctx, const uint8_t pub[32], const void *msg, size_t n,
                   const uint8_t sig[64]) {
    (void)ctx;
    return pd_verify(pub, msg, n, sig);
}
static uint64_t chance(void *ctx) {
    static uint64_t x;
    (void)ctx;
    return x += 7;
}
/* ---- writing logs ---- */

static pd_author author(int who) {
    pd_author a = {.inc = logs[who].inc};
    memcpy(a.key, id[who].pub, 32);
    return a;
}

static void seal_of(int who, uint8_t stream, const uint8_t *p, size_t n, uint8_t seal[64]) {
    pd_author a = author(who);
    port_sign(&id[who], run, &a, stream, p, n, seal);
}

static void write_record(int who, const pd_control *rec) {
    pd_writer w = pd_writer_of(logs[who].bytes + logs[who].n, ROOM - logs[who].n);
    ck_assert(pd_control_put(&w, rec));
    logs[who].n = (size_t)(w.p - logs[who].bytes);
}

static void invite(int who, int guest) {
    pd_control rec = {.kind = PD_RECORD_MEMBER, .invite = 1};
    memcpy(rec.subject, id[guest].pub, 32);
    write_record(who, &rec);
}

/* Everything the subject's control log holds by now counts. */
static void ban(int who, int subject, uint64_t step) {
    pd_control rec = {.kind = PD_RECORD_BAN, .step = step, .control = logs[subject].n};
    memcpy(rec.subject, id[subject].pub, 32);
    write_record(who, &rec);
}

static void rotate(int who, int next, uint64_t step) {
    pd_control rec = {.kind = PD_RECORD_ROTATE, .step = step};
    uint8_t msg[PD_ROTATE_MESSAGE_BYTES];
    memcpy(rec.subject, id[next].pub, 32);
    pd_rotate_message(run, id[who].pub, id[next].pub, msg);
    pd_sign(&id[next], msg, sizeof msg, rec.sig);
    write_record(who, &rec);
}

typedef struct bytes_of {
    const uint8_t *p;
    size_t n;
} bytes_of;

static size_t source(void *ctx, const pd_author *a, uint8_t stream, uint64_t from, uint8_t *out,
                     size_t room) {
    const bytes_of *b = ctx;
    (void)a, (void)stream;
    size_t n = from >= b->n ? 0 : b->n - from < room ? (size_t)(b->n - from) : room;
    memcpy(out, b->p + from, n);
    return n;
}

/* `who` reports that `subject` signed these two logs, which part in their first chunk. */
static void accuse(int who, int subject, uint8_t stream, bytes_of one, bytes_of other) {
    static uint8_t half[2][PD_BRANCH_MAX], proof[PD_EVIDENCE_MAX];
    bytes_of side[2] = {one, other};
    pd_author a = author(subject);
    size_t size[2];
    for (int i = 0; i < 2; i++) {
        uint8_t seal[64];
        pd_writer w = pd_writer_of(half[i], sizeof half[i]);
        seal_of(subject, stream, side[i].p, side[i].n, seal);
        ck_assert(pd_branch_put(&w, &a, stream, 0, side[i].n, seal, source, &side[i]));
        size[i] = (size_t)(w.p - half[i]);
    }
    pd_chain c;
    pd_chain_init(&c, run, &a, stream);
    pd_writer w = pd_writer_of(proof, sizeof proof);
    ck_assert(pd_evidence_put(&w, &a, stream, 0, c.c, half[0], size[0], half[1], size[1]));
    pd_control rec = {
        .kind = PD_RECORD_EVIDENCE, .proof = proof, .proof_size = (size_t)(w.p - proof)};
    write_record(who, &rec);
}

static void accuse_at(int who, int subject, size_t step) {
    uint8_t a[64] = {0}, b[64] = {0};
    b[step] = 1;
    accuse(who, subject, PD_STREAM_GRADIENTS, (bytes_of){a, 64}, (bytes_of){b, 64});
}

/* ---- a core ---- */

typedef struct world {
    pd_ledger *ledger;
    pd_core *core;
    void *arena;
} world;

static void hold(world *w, int who, uint8_t stream, const uint8_t *p, size_t n) {
    uint8_t seal[64];
    uint32_t i;
    pd_author a = author(who);
    seal_of(who, stream, p, n, seal);
    ck_assert_int_eq(pd_ledger_author(w->ledger, &a, &i), PD_OK);
    ck_assert_int_eq(pd_ledger_append(w->ledger, i, stream, 0, p, n, seal), PD_OK);
}

static world empty(void) {
    world w = {.core = NULL};
    ck_assert_int_eq(pd_ledger_open(&w.ledger), PD_OK);
    return w;
}

static void open_core(world *w) {
    pd_core_conf conf = {.solo = true};
    pd_core_crypto crypto = {NULL, sign, verify, chance};
    pd_core_log log = {.ctx = w->ledger, .seal = port_seal, .read = port_read};
    memcpy(conf.run, run, 32);
    memcpy(conf.key, id[FOUNDER].pub, 32);
    memcpy(conf.founder, id[FOUNDER].pub, 32);
    size_t n = (pd_core_bytes(&conf) + 63) / 64 * 64;
    w->arena = aligned_alloc(64, n);
    ck_assert_msg(pd_core_open(&conf, &crypto, &log, 1, w->arena, n, &w->core) == PD_OK, "%s",
                  pd_fail_text());
}

static void close_world(world *w) {
    free(w->arena);
    pd_ledger_close(w->ledger);
}

/* A core that holds all logs. */
static world judge(void) {
    world w = empty();
    for (int i = 0; i < KEYS; i++)
        if (logs[i].n)
            hold(&w, i, PD_STREAM_CONTROL, logs[i].bytes, logs[i].n);
    open_core(&w);
    return w;
}

static bool is_in(const world *w, int who) {
    return pd_core_is_member(w->core, id[who].pub);
}

static uint64_t counts(const world *w, int who) {
    pd_author a = author(who);
    return pd_core_void_at(w->core, &a);
}

static void start(void) {
    ck_assert_int_eq(pd_crypto_init(), PD_OK);
    memset(logs, 0, sizeof logs);
    for (int i = 0; i < KEYS; i++)
        pd_identity_from_seed((const uint8_t[32]){(uint8_t)(i + 1)}, &id[i]);
}

/* ---- rules ---- */

/* The founder, and whoever invited somebody, can put it out; anybody else is one voice of three,
 * and what three agree on begins where the third of them begins. */
START_TEST(whose_ban_counts) {
    for (int i = 1; i <= 6; i++)
        invite(FOUNDER, i);
    invite(1, 7);
    ban(FOUNDER, 2, 20);
    ban(1, 7, 70);
    ban(1, 3, 30);
    ban(4, 3, 10);
    ban(4, 3, 50); /* one member is one voice, its earliest word */
    for (int i = 3; i <= 5; i++)
        ban(i, 6, (uint64_t)i * 10);
    world w = judge();
    ck_assert(is_in(&w, 1) && !is_in(&w, 2) && is_in(&w, 3) && is_in(&w, 4) && !is_in(&w, 6) &&
              !is_in(&w, 7));
    ck_assert_uint_eq(counts(&w, 2), 20);
    ck_assert_uint_eq(counts(&w, 7), 70);
    ck_assert_uint_eq(counts(&w, 3), PD_VOID_NEVER);
    ck_assert_uint_eq(counts(&w, 6), 50);
    close_world(&w);
}
END_TEST

/* Two that ban each other are both out, whoever was first: neither's word rests on the other's. */
START_TEST(mutual_bans_hit_both) {
    invite(FOUNDER, 1);
    invite(1, 2);
    invite(2, 1);
    ban(1, 2, 5);
    ban(2, 1, 6);
    world w = judge();
    ck_assert_uint_eq(counts(&w, 1), 6);
    ck_assert_uint_eq(counts(&w, 2), 5);
    close_world(&w);
}
END_TEST

/* What a banned member wrote before still counts, so nobody whom it invited is lost; what it writes
 * afterwards does not: a banned key cannot fill the run. */
START_TEST(a_ban_divides_what_was_written) {
    invite(FOUNDER, 1);
    invite(1, 2);
    ban(FOUNDER, 1, 9);
    invite(1, 3);
    world w = judge();
    ck_assert(is_in(&w, 2) && !is_in(&w, 3) && !is_in(&w, 1));
    close_world(&w);
}
END_TEST

/* Four invitations from the founder, 64 by anybody but it: one member cannot outnumber a run. */
START_TEST(invitations_are_limited) {
    for (int i = 0; i < 5; i++)
        invite(i, i + 1);
    world w = judge();
    ck_assert(is_in(&w, 4) && !is_in(&w, 5));
    close_world(&w);
    memset(logs, 0, sizeof logs);
    invite(FOUNDER, 1);
    for (int i = 0; i < PD_INVITES_ALL; i++)
        invite(1, 2); /* asked for again: counts again */
    invite(1, 3);
    w = judge();
    ck_assert(is_in(&w, 2) && !is_in(&w, 3));
    close_world(&w);
}
END_TEST

/* The next key is as good a member, the founder's as good a founder; the old one's last word is
 * said, and a signature that the next key did not give passes nothing on. */
START_TEST(a_key_passes_its_place_on) {
    invite(FOUNDER, 1);
    invite(FOUNDER, 4);
    rotate(FOUNDER, 2, 30);
    invite(FOUNDER, 3); /* too late */
    ban(2, 1, 11);      /* the founder's successor decides alone */
    pd_control stolen = {.kind = PD_RECORD_ROTATE};
    memcpy(stolen.subject, id[5].pub, 32);
    write_record(4, &stolen);
    world w = judge();
    ck_assert(is_in(&w, 2) && !is_in(&w, 3) && !is_in(&w, 1) && is_in(&w, 4) && !is_in(&w, 5));
    ck_assert_uint_eq(counts(&w, FOUNDER), 30);
    ck_assert_uint_eq(counts(&w, 4), PD_VOID_NEVER);
    close_world(&w);
}
END_TEST

/* Of several proofs the earliest step counts, and a proof counts wherever it stands, even in the
 * log of a member that is put out. */
START_TEST(evidence_counts_wherever_it_stands) {
    for (int i = 1; i <= 3; i++)
        invite(FOUNDER, i);
    accuse_at(1, 3, 40);
    ban(FOUNDER, 2, 0);
    accuse_at(2, 3, 12);
    world w = judge();
    ck_assert_uint_eq(counts(&w, 3), 12);
    ck_assert(is_in(&w, 3)); /* it goes on as its next incarnation */
    close_world(&w);
}
END_TEST

/* Two control logs of one member: whom only one of them admits is in nowhere, and comes in again
 * when somebody else admits it. */
START_TEST(a_forked_control_log_admits_nobody_behind_its_fork) {
    invite(FOUNDER, 1);
    invite(1, 2);
    control_log other = logs[1];
    invite(1, 3);
    control_log one = logs[1];
    logs[1] = other;
    invite(1, 4);
    other = logs[1];
    logs[1] = one;
    accuse(FOUNDER, 1, PD_STREAM_CONTROL, (bytes_of){one.bytes, one.n},
           (bytes_of){other.bytes, other.n});
    world w = judge();
    ck_assert(is_in(&w, 1) && is_in(&w, 2) && !is_in(&w, 3) && !is_in(&w, 4));
    close_world(&w);
    invite(FOUNDER, 3);
    w = judge();
    ck_assert(is_in(&w, 3));
    close_world(&w);
}
END_TEST

/* ---- order ---- */

/* A random society that invites, bans, forks and rotates. */
static void live(pd_rng *r) {
    memset(logs, 0, sizeof logs);
    invite(FOUNDER, MESSENGER); /* nobody's enemy */
    int known = 1;
    for (int i = 0; i < 40; i++) {
        int who = (int)pd_rng_below(r, (uint64_t)known),
            whom = (int)pd_rng_below(r, (uint64_t)known);
        switch (pd_rng_below(r, 6)) {
        case 0:
            if (who != whom)
                ban(who, whom, pd_rng_below(r, 60));
            break;
        case 1:
            if (whom != FOUNDER)
                accuse_at(who, whom, pd_rng_below(r, 60));
            break;
        case 2:
            if (who != FOUNDER && known < 15)
                rotate(who, known++, pd_rng_below(r, 60));
            break;
        default:
            invite(who, known < 15 ? known++ : whom);
        }
    }
}

typedef struct peer {
    world w;
    uint64_t rx, tx, now;
    size_t told[KEYS];
} peer;

static pd_action acts[PD_ACTIONS_MAX];

static void step(peer *p, const pd_event *e) {
    char why[128] = "";
    size_t n = pd_core_step(p->w.core, p->now, e, acts, PD_ACTIONS_MAX);
    for (size_t i = 0; i < n; i++) {
        uint32_t at;
        const pd_action *a = &acts[i];
        if (a->kind == PD_ACT_STORE && !a->own) {
            ck_assert_int_eq(pd_ledger_author(p->w.ledger, &a->author, &at), PD_OK);
            ck_assert_int_eq(
                pd_ledger_append(p->w.ledger, at, a->stream, a->at, a->p, a->n, a->seal), PD_OK);
        }
        if (a->kind == PD_ACT_VOID) {
            ck_assert_int_eq(pd_ledger_author(p->w.ledger, &a->author, &at), PD_OK);
            pd_ledger_void(p->w.ledger, at, a->at);
        }
        if (a->kind == PD_ACT_SEND && a->session == 1)
            p->rx += a->n;
    }
    ck_assert_msg(pd_core_check(p->w.core, why, sizeof why), "%s", why);
}

static void say(peer *p, const pd_item *items, size_t n) {
    uint8_t frame[PD_FRAME_MAX];
    pd_writer w = pd_writer_of(frame, sizeof frame);
    pd_frame_begin(&w, p->rx);
    for (size_t i = 0; i < n; i++)
        ck_assert(pd_frame_put(&w, &items[i]));
    step(p, &(pd_event){.kind = PD_EV_FRAME, .session = 1, .p = frame, .n = (size_t)(w.p - frame)});
}

/* One more piece of somebody's control log, through a session; false if its author is not known
 * yet. */
static void deliver(peer *p, pd_rng *r, int who) {
    size_t from = p->told[who], left = logs[who].n - from;
    if (!left)
        return;
    uint8_t seal[64];
    size_t n = 1 + pd_rng_below(r, left < PD_PIECE_MAX ? left : PD_PIECE_MAX);
    seal_of(who, PD_STREAM_CONTROL, logs[who].bytes, from + n, seal);
    pd_item it[2] = {{.kind = PD_ITEM_ALIAS, .u.alias = {(uint32_t)who, author(who)}},
                     {.kind = PD_ITEM_CTL}};
    it[1].u.seg.alias = (uint32_t)who;
    it[1].u.seg.start = from + 1;
    it[1].u.seg.bytes = logs[who].bytes + from;
    it[1].u.seg.count = (uint32_t)n;
    it[1].u.seg.seal = seal;
    say(p, it, 2);
    p->now += 300;
    step(p, &(pd_event){.kind = PD_EV_TICK});
    uint32_t at;
    pd_author a = author(who);
    pd_log_info info = {.n = {0}};
    if (pd_ledger_find(p->w.ledger, &a, &at))
        (void)pd_ledger_info(p->w.ledger, at, &info);
    p->told[who] = (size_t)info.n[PD_STREAM_CONTROL];
}

static peer linked(void) {
    peer p = {.w = empty(), .now = 1000};
    hold(&p.w, FOUNDER, PD_STREAM_CONTROL, logs[FOUNDER].bytes, logs[FOUNDER].n);
    open_core(&p.w);
    step(&p, &(pd_event){.kind = PD_EV_TICK});
    pd_event up = {.kind = PD_EV_SESSION_UP, .session = 1};
    memcpy(up.key, id[MESSENGER].pub, 32);
    step(&p, &up);
    pd_item hello = {.kind = PD_ITEM_HELLO, .u.hello = {.nonce = 7, .proto = PD_PROTO}};
    pd_item vv = {.kind = PD_ITEM_VV};
    memcpy(hello.u.hello.net, run, 32);
    pd_item both[2] = {hello, vv};
    say(&p, both, 2);
    return p;
}

/* Pieces of everybody's control logs in any order: the answer is the one that all of them at once
 * give. */
START_TEST(no_order_of_arrival_matters) {
    uint32_t bans = 0, voids = 0;
    for (uint64_t trial = 0; trial < 25; trial++) {
        pd_rng r = {trial};
        live(&r);
        world whole = judge();
        peer p = linked();
        for (int i = 0; i < 1500; i++)
            deliver(&p, &r, 1 + (int)pd_rng_below(&r, 15));
        for (int who = 0; who < 16; who++) {
            bool held = logs[who].n == 0 || p.told[who] == logs[who].n || who == FOUNDER;
            ck_assert_msg(held || !is_in(&whole, who), "trial %d: log %d is not taken", (int)trial,
                          who);
            ck_assert_msg(is_in(&p.w, who) == is_in(&whole, who),
                          "trial %d: %d in by one order alone", (int)trial, who);
            if (is_in(&whole, who))
                ck_assert_msg(counts(&p.w, who) == counts(&whole, who),
                              "trial %d: %d counts to %lld, not %lld", (int)trial, who,
                              (long long)counts(&p.w, who), (long long)counts(&whole, who));
            bans += !is_in(&whole, who);
            voids += is_in(&whole, who) && counts(&whole, who) != PD_VOID_NEVER;
        }
        close_world(&whole);
        close_world(&p.w);
    }
    ck_assert_uint_gt(bans, 20); /* the societies did quarrel */
    ck_assert_uint_gt(voids, 20);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_checked_fixture(tc, start, NULL);
    tcase_add_test(tc, whose_ban_counts);
    tcase_add_test(tc, mutual_bans_hit_both);
    tcase_add_test(tc, a_ban_divides_what_was_written);
    tcase_add_test(tc, invitations_are_limited);
    tcase_add_test(tc, a_key_passes_its_place_on);
    tcase_add_test(tc, evidence_counts_wherever_it_stands);
    tcase_add_test(tc, a_forked_control_log_admits_nobody_behind_its_fork);
    tcase_add_test(tc, no_order_of_arrival_matters);
}

PD_TEST_MAIN("verdict", 100)
