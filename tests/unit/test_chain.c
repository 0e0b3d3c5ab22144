/* test_chain.c - the hash chain and its seals, against vectors/chain.txt (made by
 * vectors/make_chain.py). */
#include "peerd/bytes.h"
#include "peerd/chain.h"
#include "test.h"

enum { LOG = 8192 };
static uint8_t log_bytes[LOG];

static void fill_log(void) {
    for (uint32_t i = 0; i < LOG; i++)
        log_bytes[i] = (uint8_t)((i * i + 7 * i + (i >> 8)) % 251);
}

/* A node of another build, or another program, must come to the same heads and accept the same
 * seals. */
START_TEST(every_line_of_the_vectors) {
    FILE *f = fopen(pd_test_path("tests/vectors/chain.txt"), "r");
    ck_assert(f != NULL);
    char line[512], hex[2][129];
    uint8_t seed[32], run[32], key[32], want[64], got[64], message[PD_SEAL_MESSAGE_BYTES];
    pd_identity id;
    unsigned n, inc, stream, seals = 0;
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "key %64s %64s", hex[0], hex[1]) == 2) {
            ck_assert(pd_unhex(hex[0], seed, 32) && pd_unhex(hex[1], key, 32));
            pd_identity_from_seed(seed, &id);
            ck_assert_mem_eq(id.pub, key, 32);
        } else if (sscanf(line, "run %64s", hex[0]) == 1) {
            ck_assert(pd_unhex(hex[0], run, 32));
        } else {
            ck_assert_int_eq(
                sscanf(line, "seal %u %u %u %64s %128s", &n, &inc, &stream, hex[0], hex[1]), 5);
            pd_author a = {.inc = inc};
            memcpy(a.key, id.pub, 32);
            pd_chain c;
            pd_chain_init(&c, run, &a, (uint8_t)stream);
            pd_chain_add(&c, log_bytes, n);
            pd_chain_head(&c, got);
            ck_assert(pd_unhex(hex[0], want, 32));
            ck_assert_mem_eq(got, want, 32);
            pd_seal_message(&c, run, &a, (uint8_t)stream, message);
            pd_sign(&id, message, sizeof message, got);
            ck_assert(pd_unhex(hex[1], want, 64));
            ck_assert_mem_eq(got, want, 64);
            ck_assert(pd_verify(a.key, message, sizeof message, want));
            seals++;
        }
    }
    fclose(f);
    ck_assert_uint_eq(seals, 7);
}
END_TEST

/* Bytes come in frames of any size: where they were cut must not show in the head. */
START_TEST(cuts_do_not_matter) {
    pd_author a = {{1}, 2};
    uint8_t run[32] = {3}, want[32], got[32];
    uint32_t x = 1;
    for (int round = 0; round < 200; round++) {
        size_t n = (x = x * 1664525 + 1013904223) % (LOG + 1),
               largest = 1 + (x >> 16) % (round % 2 ? 40 : 4000);
        pd_chain whole, parts;
        pd_chain_init(&whole, run, &a, 0);
        pd_chain_add(&whole, log_bytes, n);
        pd_chain_head(&whole, want);
        pd_chain_init(&parts, run, &a, 0);
        for (size_t at = 0; at < n;) {
            size_t take = (x = x * 1664525 + 1013904223) % (largest + 1);
            take = take < n - at ? take : n - at;
            pd_chain_add(&parts, log_bytes + at, take);
            at += take;
        }
        pd_chain_head(&parts, got);
        ck_assert_uint_eq(parts.n, n);
        ck_assert_mem_eq(want, got, 32);
    }
}
END_TEST

/* Everything a log is bound to changes its head: run, key, incarnation, stream, length, each byte.
 */
START_TEST(the_head_depends_on_everything) {
    uint8_t run[32] = {0}, head[8][32];
    pd_author a = {{0}, 0};
    for (int i = 0; i < 8; i++) {
        uint8_t r[32] = {i == 1};
        pd_author b = {{i == 2}, i == 3};
        pd_chain c;
        log_bytes[5] ^= i == 4;
        log_bytes[1500] ^= i == 5;
        pd_chain_init(&c, r, &b, i == 6);
        pd_chain_add(&c, log_bytes, 2000 - (i == 7));
        pd_chain_head(&c, head[i]);
        log_bytes[5] ^= i == 4;
        log_bytes[1500] ^= i == 5;
        for (int j = 0; j < i; j++)
            ck_assert(memcmp(head[i], head[j], 32) != 0);
    }
    pd_chain c;
    uint8_t m[2][PD_SEAL_MESSAGE_BYTES];
    pd_chain_init(&c, run, &a, 0);
    pd_seal_message(&c, run, &a, 0, m[0]);
    pd_seal_message(&c, run, &a, 1, m[1]);
    ck_assert(memcmp(m[0], m[1], sizeof m[0]) != 0);
}
END_TEST

static void start(void) {
    ck_assert_int_eq(pd_crypto_init(), PD_OK);
    fill_log();
}

static void add_tests(TCase *tc) {
    tcase_add_checked_fixture(tc, start, NULL);
    tcase_add_test(tc, every_line_of_the_vectors);
    tcase_add_test(tc, cuts_do_not_matter);
    tcase_add_test(tc, the_head_depends_on_everything);
}

PD_TEST_MAIN("chain", 30)
