/* test_identity.c - keys and hashes: what names a node and what authenticates its bytes. */
#include "peerd/bytes.h"
#include "peerd/identity.h"
#include "test.h"

#include <string.h>
#include <sys/stat.h>

static void check_hex(const uint8_t *p, size_t n, const char *want) {
    char hex[129];
    pd_hex(p, n, hex);
    ck_assert_str_eq(hex, want);
}

/* RFC 8032, 7.1, test 2: another implementation must accept our signatures. */
START_TEST(signatures_are_ed25519) {
    uint8_t seed[32], sig[64], msg = 0x72;
    pd_identity id;
    ck_assert(
        pd_unhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb", seed, 32));
    pd_identity_from_seed(seed, &id);
    check_hex(id.pub, 32, "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
    pd_sign(&id, &msg, 1, sig);
    check_hex(sig, 64,
              "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
              "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00");
    ck_assert(pd_verify(id.pub, &msg, 1, sig));
    for (int bit = 0; bit < 512; bit += 7) {
        sig[bit / 8] ^= (uint8_t)(1 << bit % 8);
        ck_assert(!pd_verify(id.pub, &msg, 1, sig));
        sig[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    pd_identity_wipe(&id);
    ck_assert(id.sec[0] == 0 && id.pub[31] == 0);
}
END_TEST

/* A signature must have one form, or a log would have two seals: S + q is the same point and is
 * refused. */
START_TEST(malleable_signatures_are_refused) {
    static const uint8_t q[32] = {0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7,
                                  0xa2, 0xde, 0xf9, 0xde, 0x14, 0,    0,    0,    0,    0,    0,
                                  0,    0,    0,    0,    0,    0,    0,    0,    0,    0x10};
    pd_identity id;
    uint8_t sig[64];
    pd_identity_new(&id);
    pd_sign(&id, "x", 1, sig);
    for (unsigned i = 0, carry = 0; i < 32; i++) {
        carry += sig[32 + i] + q[i];
        sig[32 + i] = (uint8_t)carry;
        carry >>= 8;
    }
    ck_assert(!pd_verify(id.pub, "x", 1, sig));
    uint8_t small[32] = {1}; /* the identity point: with it, anything would verify */
    ck_assert(!pd_verify(small, "x", 1, sig));
    ck_assert_int_eq(pd_curve_public(small, small), PD_EAUTH);
}
END_TEST

START_TEST(hash_in_pieces_is_the_whole) {
    uint8_t whole[32], pieces[32], text[300];
    pd_hash256("", 0, whole);
    check_hex(whole, 32, "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8");
    for (int i = 0; i < 300; i++)
        text[i] = (uint8_t)i;
    pd_hash256(text, 300, whole);
    for (size_t cut = 0; cut <= 300; cut += 37) {
        pd_hash h;
        pd_hash_init(&h);
        pd_hash_add(&h, text, cut);
        pd_hash_add(&h, text + cut, 300 - cut);
        pd_hash_end(&h, pieces);
        ck_assert(pd_equal(whole, pieces, 32));
    }
}
END_TEST

/* Two nodes derive one CURVE key pair from one ticket, and a node's from its one key. */
START_TEST(curve_keys_fit_together) {
    pd_identity id;
    uint8_t pub[32], sec[32], pub2[32], sec2[32], ticket[16] = {9};
    pd_identity_new(&id);
    ck_assert_int_eq(pd_curve_public(id.pub, pub), PD_OK);
    ck_assert_int_eq(pd_curve_secret(&id, sec), PD_OK);
    ck_assert(memcmp(pub, id.pub, 32) != 0);
    pd_curve_from_ticket(ticket, pub, sec);
    pd_curve_from_ticket(ticket, pub2, sec2);
    ck_assert(pd_equal(pub, pub2, 32) && pd_equal(sec, sec2, 32));
}
END_TEST

START_TEST(key_file_round_trips_and_bad_ones_are_named) {
    char path[] = "/tmp/pd-key-XXXXXX";
    close(mkstemp(path));
    pd_identity a, b;
    pd_identity_new(&a);
    ck_assert_int_eq(pd_identity_save(path, &a), PD_OK);
    struct stat st;
    ck_assert(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600);
    ck_assert_int_eq(pd_identity_load(path, &b), PD_OK);
    ck_assert_mem_eq(&a, &b, sizeof a);
    static const char *const bad[] = {"", "00", "zz", "\n\n", "a key that is not one at all"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        FILE *f = fopen(path, "w");
        fputs(bad[i], f);
        fclose(f);
        ck_assert_int_eq(pd_identity_load(path, &b), PD_EFORMAT);
        ck_assert(strstr(pd_fail_text(), path) != NULL);
    }
    unlink(path);
    ck_assert_int_eq(pd_identity_load(path, &b), PD_ENOENT);
}
END_TEST

static void start(void) {
    ck_assert_int_eq(pd_crypto_init(), PD_OK);
}

static void add_tests(TCase *tc) {
    tcase_add_checked_fixture(tc, start, NULL);
    tcase_add_test(tc, signatures_are_ed25519);
    tcase_add_test(tc, malleable_signatures_are_refused);
    tcase_add_test(tc, hash_in_pieces_is_the_whole);
    tcase_add_test(tc, curve_keys_fit_together);
    tcase_add_test(tc, key_file_round_trips_and_bad_ones_are_named);
}

PD_TEST_MAIN("identity", 30)
