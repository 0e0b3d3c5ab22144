/* test_evidence.c - proofs of two logs of one author: exact where there is a fork, impossible where
 * there is none, and no byte of a proof can be other than it is.
 */
#include "peerd/evidence.h"
#include "peerd/rng.h"
#include "test.h"

enum { LOG = 12000 };
static pd_identity id;
static const uint8_t run[32] = {7};

typedef struct two_logs {
    pd_author author;
    uint8_t stream, log[2][LOG], seal[2][64];
    uint64_t n[2], at; /* at: the first byte that differs */
} two_logs;

static bool verify(void *ctx, const uint8_t pub[32], const void *msg, size_t n,
                   const uint8_t sig[64]) {
    (void)ctx;
    return pd_verify(pub, msg, n, sig);
}

static void sign_log(two_logs *f, int side) {
    pd_chain c;
    uint8_t msg[PD_SEAL_MESSAGE_BYTES];
    pd_chain_init(&c, run, &f->author, f->stream);
    pd_chain_add(&c, f->log[side], (size_t)f->n[side]);
    pd_seal_message(&c, run, &f->author, f->stream, msg);
    pd_sign(&id, msg, sizeof msg, f->seal[side]);
}

/* Two logs of random lengths that part at a random byte; often near a chunk's border. */
static void random_fork(pd_rng *r, two_logs *f) {
    memset(f, 0, sizeof *f);
    f->author.inc = pd_rng_below(r, PD_INCARNATIONS);
    f->stream = (uint8_t)pd_rng_below(r, 2);
    memcpy(f->author.key, id.pub, 32);
    f->at = pd_rng_below(r, 2) ? pd_rng_below(r, LOG - 1)
                               : 1024 * (1 + pd_rng_below(r, 10)) - pd_rng_below(r, 2);
    for (uint32_t i = 0; i < LOG; i++) {
        f->log[0][i] = (uint8_t)pd_rng_below(r, 256);
        bool same = i < f->at || (i > f->at && pd_rng_below(r, 2));
        f->log[1][i] = same ? f->log[0][i] : (uint8_t)(f->log[0][i] + 1 + pd_rng_below(r, 255));
    }
    for (int side = 0; side < 2; side++) {
        uint32_t after = LOG - (uint32_t)f->at - 1;
        f->n[side] = f->at + 1 + pd_rng_below(r, pd_rng_below(r, 2) ? after + 1 : 1);
        sign_log(f, side);
    }
}

typedef struct side_of {
    const two_logs *f;
    int side;
} side_of;

static size_t source(void *ctx, const pd_author *a, uint8_t stream, uint64_t from, uint8_t *out,
                     size_t room) {
    const side_of *s = ctx;
    uint64_t n = s->f->n[s->side];
    (void)a, (void)stream;
    size_t size = from >= n ? 0 : n - from < room ? (size_t)(n - from) : room;
    memcpy(out, s->f->log[s->side] + from, size);
    return size;
}

/* The evidence from chunk j on, `first` being the side given first; its size, 0 if there is none.
 */
static size_t prove_from(const two_logs *f, int first, uint64_t j, uint8_t out[PD_EVIDENCE_MAX]) {
    static uint8_t half[2][PD_BRANCH_MAX];
    size_t size[2];
    for (int i = 0; i < 2; i++) {
        side_of s = {f, i ^ first};
        pd_writer w = pd_writer_of(half[i], sizeof half[i]);
        if (!pd_branch_put(&w, &f->author, f->stream, j, f->n[i ^ first], f->seal[i ^ first],
                           source, &s))
            return 0;
        size[i] = (size_t)(w.p - half[i]);
    }
    pd_chain c;
    pd_chain_init(&c, run, &f->author, f->stream);
    pd_chain_add(&c, f->log[0], (size_t)j * PD_CHUNK_BYTES);
    pd_writer w = pd_writer_of(out, PD_EVIDENCE_MAX);
    return pd_evidence_put(&w, &f->author, f->stream, j, c.c, half[0], size[0], half[1], size[1])
               ? (size_t)(w.p - out)
               : 0;
}

static size_t prove(const two_logs *f, int first, uint8_t out[PD_EVIDENCE_MAX]) {
    return prove_from(f, first, f->at / PD_CHUNK_BYTES, out);
}

static bool proves(const uint8_t *p, size_t n, pd_evidence *e) {
    return pd_evidence_get(p, n, e) == PD_OK && pd_evidence_proves(e, run, verify, NULL);
}

/* Wherever the logs part and however far they go on, the step is exact and the bytes the same
 * whichever branch was met first: everyone who finds the fork writes the same record.
 */
START_TEST(every_fork_gives_its_step) {
    static two_logs f;
    static uint8_t one[PD_EVIDENCE_MAX], other[PD_EVIDENCE_MAX];
    pd_rng r = {1};
    for (int round = 0; round < 400; round++) {
        pd_evidence e;
        random_fork(&r, &f);
        size_t n = prove(&f, 0, one);
        ck_assert_uint_gt(n, 0);
        ck_assert_uint_eq(prove(&f, 1, other), n);
        ck_assert_mem_eq(one, other, n);
        ck_assert_msg(proves(one, n, &e), "round %d: %s", round, pd_fail_text());
        ck_assert_uint_eq(e.step, f.at);
        ck_assert_uint_eq(e.stream, f.stream);
        ck_assert_uint_eq(e.author.inc, f.author.inc);
        ck_assert_mem_eq(e.author.key, id.pub, 32);
    }
}
END_TEST

/* An author that only went on, in however many seals, is never convicted: not by what the writer
 * makes, and not by what a liar puts together by hand.
 */
START_TEST(an_honest_log_cannot_be_convicted) {
    static two_logs f;
    static uint8_t out[PD_EVIDENCE_MAX];
    pd_rng r = {2};
    for (int round = 0; round < 300; round++) {
        random_fork(&r, &f);
        memcpy(f.log[1], f.log[0], LOG);
        sign_log(&f, 0);
        sign_log(&f, 1);
        uint64_t least = f.n[0] < f.n[1] ? f.n[0] : f.n[1];
        for (uint64_t j = 0; j * PD_CHUNK_BYTES < least; j++)
            ck_assert_uint_eq(prove_from(&f, 0, j, out), 0);
        /* a liar: one branch with a byte changed, under the true seal */
        pd_evidence e;
        f.log[1][pd_rng_below(&r, (uint32_t)least)] ^= 1;
        for (uint64_t j = 0; j * PD_CHUNK_BYTES < least; j++) {
            size_t n = prove_from(&f, 0, j, out);
            ck_assert(n == 0 || !proves(out, n, &e));
        }
    }
}
END_TEST

/* What is not whole or not as written proves nothing: a relay can neither hide a fork behind a
 * false step nor blame another author, stream, incarnation or run.
 */
START_TEST(no_byte_of_it_can_be_another) {
    static two_logs f;
    static uint8_t out[PD_EVIDENCE_MAX];
    pd_rng r = {3};
    for (int round = 0; round < 6; round++) {
        pd_evidence e;
        random_fork(&r, &f);
        size_t n = prove(&f, 0, out);
        for (size_t k = 0; k < n; k++)
            ck_assert(pd_evidence_get(out, k, &e) == PD_EFORMAT);
        ck_assert(pd_evidence_get(out, n + 1, &e) == PD_EFORMAT);
        for (size_t k = 0; k < n; k++) {
            uint8_t was = out[k];
            out[k] ^= (uint8_t)(1 + pd_rng_below(&r, 255));
            ck_assert_msg(!proves(out, n, &e), "byte %zu of %zu", k, n);
            out[k] = was;
        }
        ck_assert(proves(out, n, &e));
        ck_assert(!pd_evidence_proves(&e, (const uint8_t[32]){8}, verify, NULL));
    }
}
END_TEST

/* Lengths of anything: no read beyond the end, no large allocation, no overflow (sanitizers watch).
 */
START_TEST(noise_is_refused) {
    static uint8_t noise[4096];
    pd_rng r = {4};
    for (int round = 0; round < 20000; round++) {
        pd_evidence e;
        size_t n = pd_rng_below(&r, sizeof noise);
        for (size_t k = 0; k < n; k++)
            noise[k] = (uint8_t)pd_rng_below(&r, round % 2 ? 256 : 3);
        ck_assert(!proves(noise, n, &e));
    }
}
END_TEST

/* Two lone bytes are the least of forks, and a fork too old for the bound is refused, not cut. */
START_TEST(the_bound_holds) {
    static two_logs f;
    static uint8_t out[PD_EVIDENCE_MAX], branch[PD_BRANCH_MAX];
    pd_evidence e;
    memset(&f, 0, sizeof f);
    memcpy(f.author.key, id.pub, 32);
    f.log[1][0] = 1;
    f.n[0] = f.n[1] = 1;
    sign_log(&f, 0);
    sign_log(&f, 1);
    size_t n = prove(&f, 0, out);
    ck_assert_uint_eq(n, 32 + 1 + 1 + 1 + 32 + 2 * (1 + 1 + 64));
    ck_assert(proves(out, n, &e));
    ck_assert_uint_eq(e.step, 0);
    side_of s = {&f, 0};
    pd_writer w = pd_writer_of(branch, sizeof branch);
    ck_assert(!pd_branch_put(&w, &f.author, 0, 0, UINT64_C(1) << 40, f.seal[0], source, &s));
    w = pd_writer_of(branch, sizeof branch);
    ck_assert(
        !pd_branch_put(&w, &f.author, 0, 0, 2, f.seal[0], source, &s)); /* the source has less */
}
END_TEST

static void start(void) {
    ck_assert_int_eq(pd_crypto_init(), PD_OK);
    pd_identity_from_seed((const uint8_t[32]){1, 2, 3}, &id);
}

static void add_tests(TCase *tc) {
    tcase_add_unchecked_fixture(tc, start, NULL);
    tcase_add_test(tc, every_fork_gives_its_step);
    tcase_add_test(tc, an_honest_log_cannot_be_convicted);
    tcase_add_test(tc, no_byte_of_it_can_be_another);
    tcase_add_test(tc, noise_is_refused);
    tcase_add_test(tc, the_bound_holds);
}

PD_TEST_MAIN("evidence", 60)
