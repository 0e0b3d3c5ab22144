/* test_replica.c - equal sets are equal bits: whatever order, repetition or cut the records of a
 * set arrive in, and whatever this node had said before.
 */
#include "peerd/replica.h"
#include "peerd/rng.h"
#include "test.h"

#include <string.h>

#define ck_ok(e) ck_assert_msg((e) == PD_OK, "%s", pd_fail_text())

enum { D = 203, AUTHORS = 4, LOG_MAX = 300 };
static const uint8_t seal[64];

static pd_manifest manifest(pd_schedule_kind kind) {
    return (pd_manifest){.space = PD_SPACE_LORA,
                         .rank = 1,
                         .alpha = 1,
                         .targets = 1,
                         .unit_bits = 26,
                         .n_coords = D,
                         .eps = 1,
                         .scale = UINT64_C(1) << 34,
                         .lr = UINT64_C(1) << 31,
                         .lr_min = kind == PD_SCHEDULE_CONSTANT ? 0 : 1 << 20,
                         .schedule = kind,
                         .decay_records = kind == PD_SCHEDULE_CONSTANT ? 0 : 150};
}

/* The records of a run. */
typedef struct set {
    pd_author author[AUTHORS];
    uint8_t bytes[AUTHORS][LOG_MAX];
    size_t n[AUTHORS];
} set;

static set random_set(pd_rng *rng) {
    set s = {0};
    for (uint32_t i = 0; i < AUTHORS; i++) {
        s.author[i].key[0] = (uint8_t)(i / 2 + 1);
        s.author[i].inc = i % 2; /* two incarnations of a key are two authors */
        s.n[i] = pd_rng_below(rng, LOG_MAX + 1);
        for (size_t k = 0; k < s.n[i]; k++) {
            uint8_t b = (uint8_t)pd_rng_below(rng, 256);
            s.bytes[i][k] = b == PD_BYTE_RESERVED ? 0 : b;
        }
    }
    return s;
}

/* What the definition says: every record, one by one. */
static void fold_all(const pd_manifest *m, const set *s, int32_t a[D]) {
    pd_replay r;
    pd_replay_of(m, &r);
    memset(a, 0, D * sizeof *a);
    for (int i = 0; i < AUTHORS; i++)
        for (size_t k = 0; k < s->n[i]; k++)
            pd_replay_fold(&r, a, D, &s->author[i], k, &s->bytes[i][k], 1);
}

static uint32_t index_of(pd_ledger *l, const pd_author *a) {
    uint32_t i;
    ck_ok(pd_ledger_author(l, a, &i));
    return i;
}

/* The sealed bytes [from, to) of author i reach the ledger. */
static void deliver(pd_ledger *l, const set *s, uint32_t i, size_t from, size_t to) {
    ck_ok(pd_ledger_append(l, index_of(l, &s->author[i]), PD_STREAM_GRADIENTS, from,
                           s->bytes[i] + from, to - from, seal));
}

static void follow_all(pd_replica *r, pd_ledger *l) {
    uint64_t folded;
    do
        ck_ok(pd_replica_follow(r, l, UINT64_MAX, &folded));
    while (folded);
}

static void expect(const pd_replica *r, const int32_t want[D]) {
    int32_t a[D];
    uint8_t digest[PD_DIGEST_BYTES], right[PD_DIGEST_BYTES];
    pd_replica_sealed(r, a, digest);
    pd_replay_digest(want, D, right);
    ck_assert_mem_eq(a, want, sizeof a);
    ck_assert_mem_eq(digest, right, sizeof digest);
}

/* The property the whole design stands on: pieces of any length, from any author in turn, some
 * twice and some overlapping, folded at any time and in any portions, give the bits of the
 * definition.
 */
START_TEST(any_arrival_gives_the_same_bits) {
    for (uint64_t trial = 0; trial < 60; trial++) {
        pd_rng rng = {trial};
        pd_manifest m = manifest((pd_schedule_kind)(trial % 3));
        set s = random_set(&rng);
        int32_t want[D];
        size_t held[AUTHORS] = {0}, total = 0, all = 0;
        fold_all(&m, &s, want);
        for (int i = 0; i < AUTHORS; i++)
            all += s.n[i];
        pd_ledger *l;
        pd_replica r;
        ck_ok(pd_ledger_open(&l));
        ck_ok(pd_replica_open(&m, &r));
        while (total < all) {
            uint32_t i = pd_rng_below(&rng, AUTHORS);
            size_t from = pd_rng_below(&rng, held[i] + 1);
            size_t to = from + pd_rng_below(&rng, s.n[i] - from + 1);
            deliver(l, &s, i, from, to);
            if (to > held[i]) {
                total += to - held[i];
                held[i] = to;
            }
            uint64_t folded;
            if (pd_rng_below(&rng, 2))
                ck_ok(pd_replica_follow(&r, l, pd_rng_below(&rng, 40), &folded));
        }
        follow_all(&r, l);
        ck_assert_uint_eq(r.records, all);
        expect(&r, want);
        ck_assert_mem_eq(r.a, want, sizeof want); /* nothing of its own */
        pd_replica_close(&r);
        pd_ledger_close(l);
    }
}
END_TEST

/* What counts is a function of the records and of where each log becomes void, whatever came first
 * and however often a replica had folded what does not count: evidence falls, and what rested on
 * void records rises again.
 */
START_TEST(any_order_of_records_and_voids_gives_the_same_bits) {
    for (uint64_t trial = 0; trial < 80; trial++) {
        pd_rng rng = {trial + 1000};
        pd_manifest m = manifest((pd_schedule_kind)(trial % 3));
        set s = random_set(&rng), counted = s;
        int32_t want[D];
        uint64_t void_at[AUTHORS], all = 0, folded;
        pd_ledger *l;
        pd_replica r;
        ck_ok(pd_ledger_open(&l));
        ck_ok(pd_replica_open(&m, &r));
        for (int round = 0; round < 60; round++) {
            uint32_t i = pd_rng_below(&rng, AUTHORS), at = index_of(l, &s.author[i]);
            pd_log_info info;
            ck_assert(pd_ledger_info(l, at, &info));
            size_t from = (size_t)info.n[0], to = from + pd_rng_below(&rng, s.n[i] - from + 1);
            if (pd_rng_below(&rng, 2))
                deliver(l, &s, i, from, to);
            else
                pd_ledger_void(l, at,
                               pd_rng_below(&rng, 3) ? pd_rng_below(&rng, LOG_MAX) : PD_VOID_NEVER);
            ck_ok(pd_replica_follow(&r, l, pd_rng_below(&rng, 100), &folded));
        }
        for (uint32_t i = 0; i < AUTHORS; i++) {
            void_at[i] = pd_rng_below(&rng, 2) ? pd_rng_below(&rng, LOG_MAX) : PD_VOID_NEVER;
            pd_ledger_void(l, index_of(l, &s.author[i]), void_at[i]);
            deliver(l, &s, i, 0, s.n[i]);
            counted.n[i] = s.n[i] < void_at[i] ? s.n[i] : (size_t)void_at[i];
            all += counted.n[i];
        }
        follow_all(&r, l);
        fold_all(&m, &counted, want);
        ck_assert_uint_eq(r.records, all);
        ck_assert_uint_eq(pd_ledger_records(l), all);
        expect(&r, want);
        ck_assert_mem_eq(r.a, want, sizeof want);
        pd_replica_close(&r);
        pd_ledger_close(l);
    }
}
END_TEST

/* At most `most` records a call, and exactly that many while there are more. */
START_TEST(follows_in_portions) {
    pd_rng rng = {1};
    pd_manifest m = manifest(PD_SCHEDULE_CONSTANT);
    set s = random_set(&rng);
    s.n[0] = LOG_MAX;
    pd_ledger *l;
    pd_replica r;
    uint64_t folded;
    ck_ok(pd_ledger_open(&l));
    ck_ok(pd_replica_open(&m, &r));
    deliver(l, &s, 0, 0, LOG_MAX);
    ck_ok(pd_replica_follow(&r, l, 0, &folded));
    ck_assert_uint_eq(folded, 0);
    for (uint64_t left = LOG_MAX; left; left -= folded) {
        ck_ok(pd_replica_follow(&r, l, 7, &folded));
        ck_assert_uint_eq(folded, left < 7 ? left : 7);
    }
    pd_replica_close(&r);
    pd_ledger_close(l);
}
END_TEST

/* A replica that speaks as author 0 of the set, whose bytes are its own. */
typedef struct speaker {
    pd_manifest m;
    set s;
    pd_ledger *l;
    pd_replica r;
} speaker;

static speaker speaker_open(uint64_t from) {
    pd_rng rng = {from};
    speaker x = {.m = manifest(PD_SCHEDULE_COSINE), .s = random_set(&rng)};
    x.s.n[0] = LOG_MAX;
    for (size_t k = 0; k < LOG_MAX; k++)
        x.s.bytes[0][k] = (uint8_t)(1 + pd_rng_below(&rng, 127));
    ck_ok(pd_ledger_open(&x.l));
    ck_ok(pd_replica_open(&x.m, &x.r));
    ck_ok(pd_replica_own(&x.r, x.l, &x.s.author[0]));
    return x;
}

static void speaker_close(speaker *x) {
    pd_replica_close(&x->r);
    pd_ledger_close(x->l);
}

static void say(speaker *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        ck_assert(pd_replica_add(&x->r, x->s.bytes[0][pd_replica_next_step(&x->r)]));
}

/* The set with only the first n bytes of author 0, and of the others what `others` says. */
static void want_of(const speaker *x, size_t n, bool others, int32_t want[D]) {
    set s = x->s;
    s.n[0] = n;
    for (int i = 1; i < AUTHORS && !others; i++)
        s.n[i] = 0;
    fold_all(&x->m, &s, want);
}

/* Own bytes count for where the node probes next and not for what others can have, until they come
 * back sealed; then they only change their place, in whatever portions, with others' in between.
 */
START_TEST(own_bytes_count_once) {
    int32_t want[D];
    for (uint64_t trial = 0; trial < 20; trial++) {
        speaker x = speaker_open(trial);
        pd_rng rng = {trial + 100};
        size_t sealed = 0;
        while (sealed < LOG_MAX) {
            size_t said = (size_t)pd_replica_next_step(&x.r);
            ck_assert_uint_eq(said, sealed + x.r.n_pending);
            say(&x, pd_rng_below(&rng, LOG_MAX - said + 1));
            said = (size_t)pd_replica_next_step(&x.r);
            size_t more = pd_rng_below(&rng, said - sealed + 1);
            deliver(x.l, &x.s, 0, sealed, sealed + more);
            follow_all(&x.r, x.l);
            sealed += more;
            ck_assert_uint_eq(x.r.n_pending, said - sealed);
            want_of(&x, sealed, false, want);
            expect(&x.r, want);
            want_of(&x, said, false, want);
            ck_assert_mem_eq(x.r.a, want, sizeof want);
        }
        for (uint32_t i = 1; i < AUTHORS; i++)
            deliver(x.l, &x.s, i, 0, x.s.n[i]);
        follow_all(&x.r, x.l);
        want_of(&x, LOG_MAX, true, want);
        expect(&x.r, want);
        speaker_close(&x);
    }
}
END_TEST

/* The ledger may seal more than is pending here: after a restart, what was said before. */
START_TEST(sealed_beyond_pending) {
    int32_t want[D];
    speaker x = speaker_open(1);
    say(&x, 10);
    deliver(x.l, &x.s, 0, 0, 25);
    follow_all(&x.r, x.l);
    ck_assert_uint_eq(x.r.n_pending, 0);
    ck_assert_uint_eq(pd_replica_next_step(&x.r), 25);
    want_of(&x, 25, false, want);
    expect(&x.r, want);
    speaker_close(&x);
}
END_TEST

/* Taking back is exact: it leaves what would be there had the bytes never been said. */
START_TEST(take_back) {
    int32_t want[D];
    speaker x = speaker_open(2);
    say(&x, 40);
    deliver(x.l, &x.s, 0, 0, 15);
    follow_all(&x.r, x.l);
    static const struct {
        uint64_t at;
        size_t left;
    } steps[] = {{UINT64_MAX, 40}, {40, 40}, {31, 31}, {31, 31}, {30, 30}, {3, 15}, {0, 15}};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        pd_replica_take_back(&x.r, steps[i].at);
        ck_assert_uint_eq(pd_replica_next_step(&x.r), steps[i].left);
        want_of(&x, steps[i].left, false, want);
        ck_assert_mem_eq(x.r.a, want, sizeof want);
    }
    say(&x, 5);
    want_of(&x, 20, false, want);
    ck_assert_mem_eq(x.r.a, want, sizeof want);
    speaker_close(&x);
    pd_replica nobody; /* who has no author has nothing to take back */
    ck_ok(pd_replica_open(&x.m, &nobody));
    pd_replica_take_back(&nobody, 0);
    pd_replica_close(&nobody);
}
END_TEST

/* Speaking as another incarnation takes back what the first one had not sealed. */
START_TEST(another_incarnation) {
    int32_t want[D];
    speaker x = speaker_open(3);
    say(&x, 12);
    deliver(x.l, &x.s, 0, 0, 5);
    follow_all(&x.r, x.l);
    ck_ok(pd_replica_own(&x.r, x.l, &x.s.author[0])); /* the same: nothing changes */
    ck_assert_uint_eq(x.r.n_pending, 7);
    ck_ok(pd_replica_own(&x.r, x.l, &x.s.author[1]));
    ck_assert_uint_eq(x.r.n_pending, 0);
    ck_assert_uint_eq(pd_replica_next_step(&x.r), 0);
    want_of(&x, 5, false, want);
    ck_assert_mem_eq(x.r.a, want, sizeof want);
    expect(&x.r, want);
    speaker_close(&x);
}
END_TEST

/* A log that says something else than this node did: told, nothing folded twice; after taking back
 * the replica follows the log.
 */
START_TEST(mismatch) {
    int32_t want[D];
    speaker x = speaker_open(4);
    uint64_t folded;
    say(&x, 12);
    x.s.bytes[0][9] ^= 3;
    deliver(x.l, &x.s, 0, 0, 20);
    ck_assert_int_eq(pd_replica_follow(&x.r, x.l, UINT64_MAX, &folded), PD_EMISMATCH);
    ck_assert_uint_eq(x.r.n_pending, 12);
    ck_assert_uint_eq(x.r.records, 0);
    pd_replica_take_back(&x.r, 0);
    follow_all(&x.r, x.l);
    want_of(&x, 20, false, want);
    expect(&x.r, want);
    speaker_close(&x);
}
END_TEST

/* No more bytes may wait for a seal than there is room for; the refused one leaves no trace. */
START_TEST(full) {
    speaker x = speaker_open(5);
    int32_t before[D];
    for (int i = 0; i < PD_REPLICA_PENDING_MAX; i++)
        ck_assert(pd_replica_add(&x.r, 1));
    memcpy(before, x.r.a, sizeof before);
    ck_assert(!pd_replica_add(&x.r, 1));
    ck_assert_mem_eq(before, x.r.a, sizeof before);
    ck_assert_uint_eq(pd_replica_next_step(&x.r), PD_REPLICA_PENDING_MAX);
    speaker_close(&x);
}
END_TEST

/* From a checkpoint with fewer records than the ledger: the rest is folded, and the bits are those
 * of a replica that began at the base.  Authors stand in another order in the checkpoint.
 */
START_TEST(restore) {
    for (uint64_t trial = 0; trial < 20; trial++) {
        int32_t want[D], a[D];
        uint8_t digest[PD_DIGEST_BYTES];
        speaker x = speaker_open(trial);
        pd_rng rng = {trial};
        for (uint32_t i = 0; i < AUTHORS; i++)
            deliver(x.l, &x.s, i, 0, pd_rng_below(&rng, x.s.n[i] + 1));
        follow_all(&x.r, x.l);
        pd_replica_sealed(&x.r, a, digest);
        pd_author authors[AUTHORS];
        uint64_t n[AUTHORS];
        for (uint32_t i = 0; i < x.r.n_authors; i++) {
            authors[i] = x.r.author[x.r.n_authors - 1 - i];
            n[i] = x.r.n[x.r.n_authors - 1 - i];
        }
        for (uint32_t i = 0; i < AUTHORS; i++)
            deliver(x.l, &x.s, i, 0, x.s.n[i]);
        pd_replica back;
        ck_ok(pd_replica_open(&x.m, &back));
        ck_ok(pd_replica_restore(&back, x.l, a, authors, n, x.r.n_authors));
        ck_assert_uint_eq(back.records, x.r.records);
        expect(&back, a);
        follow_all(&back, x.l);
        fold_all(&x.m, &x.s, want);
        expect(&back, want);
        pd_replica_close(&back);
        speaker_close(&x);
    }
}
END_TEST

/* A checkpoint that is ahead of the log cannot be followed up: refused, the replica unchanged. */
START_TEST(restore_ahead) {
    speaker x = speaker_open(6);
    int32_t a[D] = {1}, want[D];
    uint64_t n = 11;
    deliver(x.l, &x.s, 0, 0, 10);
    follow_all(&x.r, x.l);
    ck_assert_int_eq(pd_replica_restore(&x.r, x.l, a, x.s.author, &n, 1), PD_EMISMATCH);
    want_of(&x, 10, false, want);
    expect(&x.r, want);
    ck_assert_int_eq(pd_replica_restore(&x.r, x.l, a, x.s.author, &n, PD_AUTHORS_MAX + 1),
                     PD_EFULL);
    speaker_close(&x);
}
END_TEST

/* More authors than a replica follows: said, not written past the end. */
START_TEST(too_many_authors) {
    pd_manifest m = manifest(PD_SCHEDULE_CONSTANT);
    pd_ledger *l;
    pd_replica r;
    uint64_t folded;
    ck_ok(pd_ledger_open(&l));
    ck_ok(pd_replica_open(&m, &r));
    for (uint32_t i = 0; i <= PD_AUTHORS_MAX; i++) {
        pd_author a = {.key = {(uint8_t)i, (uint8_t)(i >> 8)}};
        (void)index_of(l, &a);
        pd_err e = pd_replica_follow(&r, l, 1, &folded);
        ck_assert_int_eq(e, i < PD_AUTHORS_MAX ? PD_OK : PD_EFULL);
    }
    pd_replica_close(&r);
    pd_replica_close(NULL);
    pd_ledger_close(l);
}
END_TEST

/* This node's own log was forked (a copy of it ran): what it still had to say under that name goes
 * with what does not count, and it can go on as its next incarnation at once.
 */
START_TEST(own_bytes_of_a_void_log_are_taken_back) {
    int32_t want[D];
    for (uint64_t void_at = 0; void_at < 14; void_at++) {
        speaker x = speaker_open(void_at);
        uint64_t folded;
        say(&x, 10);
        deliver(x.l, &x.s, 0, 0, 6);
        follow_all(&x.r, x.l);
        pd_ledger_void(x.l, x.r.own, void_at);
        ck_ok(pd_replica_follow(&x.r, x.l, UINT64_MAX, &folded));
        ck_assert_uint_eq(x.r.n_pending, void_at <= 6 ? 0 : void_at < 10 ? void_at - 6 : 4);
        ck_ok(pd_replica_own(&x.r, x.l, &x.s.author[1]));
        want_of(&x, void_at < 6 ? (size_t)void_at : 6, false, want);
        expect(&x.r, want);
        ck_assert_mem_eq(x.r.a, want, sizeof want);
        speaker_close(&x);
    }
}
END_TEST

/* The log it was taken of may have been another branch than the one that is held now: what it holds
 * beyond the void step cannot be taken back, so it is not begun with.
 */
START_TEST(a_checkpoint_of_void_records_is_refused) {
    speaker x = speaker_open(7);
    int32_t a[D] = {0};
    uint64_t n = 100;
    deliver(x.l, &x.s, 0, 0, LOG_MAX);
    pd_ledger_void(x.l, x.r.own, 99);
    ck_assert_int_eq(pd_replica_restore(&x.r, x.l, a, &x.s.author[0], &n, 1), PD_EMISMATCH);
    pd_ledger_void(x.l, x.r.own, 100);
    ck_ok(pd_replica_restore(&x.r, x.l, a, &x.s.author[0], &n, 1));
    speaker_close(&x);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, any_arrival_gives_the_same_bits);
    tcase_add_test(tc, any_order_of_records_and_voids_gives_the_same_bits);
    tcase_add_test(tc, follows_in_portions);
    tcase_add_test(tc, own_bytes_of_a_void_log_are_taken_back);
    tcase_add_test(tc, a_checkpoint_of_void_records_is_refused);
    tcase_add_test(tc, own_bytes_count_once);
    tcase_add_test(tc, sealed_beyond_pending);
    tcase_add_test(tc, take_back);
    tcase_add_test(tc, another_incarnation);
    tcase_add_test(tc, mismatch);
    tcase_add_test(tc, full);
    tcase_add_test(tc, restore);
    tcase_add_test(tc, restore_ahead);
    tcase_add_test(tc, too_many_authors);
}

PD_TEST_MAIN("replica", 60)
