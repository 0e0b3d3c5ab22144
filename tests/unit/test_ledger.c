/* test_ledger.c - byte strings under one lock: exactly once, whatever is sent twice; readers while
 * a writer writes. */
#include "peerd/ledger.h"
#include "test.h"

#include <pthread.h>
#include <string.h>

static const uint8_t seal_a[64] = {1}, seal_b[64] = {2};

START_TEST(overlaps_are_dropped_and_gaps_refused) {
    pd_ledger *l;
    pd_log_info info;
    uint32_t i, again;
    uint8_t out[8];
    pd_author a = {{7}, 0}, b = {{7}, 1};
    ck_assert_int_eq(pd_ledger_open(&l), PD_OK);
    ck_assert(!pd_ledger_info(l, 0, &info));
    ck_assert_uint_eq(pd_ledger_read(l, 0, 0, 0, out, 8), 0);
    ck_assert_int_eq(pd_ledger_author(l, &a, &i), PD_OK);
    ck_assert_int_eq(pd_ledger_author(l, &b, &again), PD_OK);
    ck_assert(i == 0 && again == 1 && pd_ledger_authors(l) == 2);
    ck_assert_int_eq(pd_ledger_author(l, &a, &again), PD_OK);
    ck_assert_uint_eq(again, 0);

    ck_assert_int_eq(pd_ledger_append(l, 0, 0, 0, (const uint8_t *)"abcd", 4, seal_a), PD_OK);
    ck_assert_int_eq(pd_ledger_append(l, 0, 0, 5, (const uint8_t *)"f", 1, seal_b), PD_EMISMATCH);
    ck_assert_int_eq(pd_ledger_append(l, 0, 0, 1, (const uint8_t *)"bc", 2, seal_b),
                     PD_OK); /* held already */
    ck_assert(pd_ledger_info(l, 0, &info) && info.n[0] == 4 && info.n[1] == 0);
    ck_assert_mem_eq(info.seal[0], seal_a, 64);
    ck_assert_int_eq(pd_ledger_append(l, 0, 0, 2, (const uint8_t *)"cdef", 4, seal_b), PD_OK);
    ck_assert_int_eq(pd_ledger_append(l, 0, 1, 0, (const uint8_t *)"ctl", 3, seal_a), PD_OK);
    ck_assert(pd_ledger_info(l, 0, &info) && info.n[0] == 6 && info.n[1] == 3 &&
              info.author.key[0] == 7);
    ck_assert_mem_eq(info.seal[0], seal_b, 64);
    ck_assert_uint_eq(pd_ledger_read(l, 0, 0, 3, out, 8), 3);
    ck_assert_mem_eq(out, "def", 3);
    ck_assert_uint_eq(pd_ledger_read(l, 0, 0, 6, out, 8), 0);
    ck_assert_uint_eq(pd_ledger_records(l), 6); /* control bytes are no records */
    pd_ledger_close(l);
    pd_ledger_close(NULL);
}
END_TEST

START_TEST(ten_thousand_authors_keep_their_indices) {
    pd_ledger *l;
    uint32_t i;
    ck_assert_int_eq(pd_ledger_open(&l), PD_OK);
    for (int round = 0; round < 2; round++)
        for (uint32_t k = 0; k < 10000; k++) {
            pd_author a = {.inc = k % 3};
            memcpy(a.key, &(uint32_t){k / 3 * 2654435761u}, 4);
            ck_assert_int_eq(pd_ledger_author(l, &a, &i), PD_OK);
            ck_assert_uint_eq(i, k);
        }
    ck_assert_uint_eq(pd_ledger_authors(l), 10000);
    pd_ledger_close(l);
}
END_TEST

enum { WRITTEN = 200000 };

static void *writer(void *l) {
    uint8_t part[97];
    for (uint64_t at = 0; at < WRITTEN;) {
        size_t n = WRITTEN - at < sizeof part ? (size_t)(WRITTEN - at) : sizeof part;
        for (size_t k = 0; k < n; k++)
            part[k] = (uint8_t)((at + k) * 31);
        ck_assert_int_eq(pd_ledger_append(l, 0, 0, at, part, n, seal_a), PD_OK);
        at += n;
    }
    return NULL;
}

/* The trainer reads while the core appends: it must only ever see whole, right bytes. */
START_TEST(a_reader_beside_a_writer_sees_right_bytes) {
    pd_ledger *l;
    uint32_t i;
    pthread_t t;
    uint8_t out[1000];
    ck_assert_int_eq(pd_ledger_open(&l), PD_OK);
    ck_assert_int_eq(pd_ledger_author(l, &(pd_author){{1}, 0}, &i), PD_OK);
    ck_assert_int_eq(pthread_create(&t, NULL, writer, l), 0);
    for (uint64_t at = 0; at < WRITTEN;) {
        size_t n = pd_ledger_read(l, 0, 0, at, out, sizeof out);
        for (size_t k = 0; k < n; k++)
            ck_assert_uint_eq(out[k], (uint8_t)((at + k) * 31));
        at += n;
    }
    pthread_join(t, NULL);
    ck_assert_uint_eq(pd_ledger_records(l), WRITTEN);
    pd_ledger_close(l);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, overlaps_are_dropped_and_gaps_refused);
    tcase_add_test(tc, ten_thousand_authors_keep_their_indices);
    tcase_add_test(tc, a_reader_beside_a_writer_sees_right_bytes);
}

PD_TEST_MAIN("ledger", 60)
