/* test_base.c - bytes, files and error texts: the ground every parser stands on. */
#include "peerd/bytes.h"
#include "peerd/file.h"
#include "peerd/flags.h"
#include "test.h"

/* Two encodings of one number would make two digests of one message. */
START_TEST(varint_is_minimal_and_round_trips) {
    const uint64_t v[] = {0, 1, 127, 128, 16383, 16384, UINT32_MAX, UINT64_MAX};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        uint8_t b[10];
        pd_writer w = pd_writer_of(b, sizeof b);
        pd_put_varint(&w, v[i]);
        ck_assert(w.ok);
        size_t n = (size_t)(w.p - b);
        ck_assert_uint_eq(n, pd_varint_size(v[i]));
        pd_reader r = pd_reader_of(b, n);
        ck_assert(pd_get_varint(&r) == v[i] && r.ok && pd_reader_left(&r) == 0);
        for (size_t cut = 0; cut < n; cut++) {
            r = pd_reader_of(b, cut);
            pd_get_varint(&r);
            ck_assert(!r.ok);
        }
    }
    const uint8_t padded[] = {0x81, 0x00};
    pd_reader r = pd_reader_of(padded, 2);
    pd_get_varint(&r);
    ck_assert(!r.ok);
    const uint8_t wide[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02};
    r = pd_reader_of(wide, 10);
    pd_get_varint(&r);
    ck_assert(!r.ok);
}
END_TEST

/* A short buffer must stay failed: a parser checks once, at its end. */
START_TEST(reader_never_runs_past_its_end) {
    const uint8_t b[3] = {1, 2, 3};
    pd_reader r = pd_reader_of(b, 3);
    ck_assert_uint_eq(pd_get_u32(&r), 0);
    ck_assert(!r.ok);
    ck_assert_uint_eq(pd_get_u8(&r), 0);
    ck_assert(!r.ok);
}
END_TEST

START_TEST(hex_and_base32_round_trip) {
    uint8_t p[21], q[21];
    char s[64];
    for (size_t n = 0; n <= sizeof p; n++) {
        for (size_t i = 0; i < n; i++)
            p[i] = (uint8_t)(37 * i + n);
        pd_base32(p, n, s);
        ck_assert_uint_eq(strlen(s), pd_base32_size(n));
        ck_assert_int_eq(pd_unbase32(s, strlen(s), q, sizeof q), (int)n);
        ck_assert_mem_eq(p, q, n);
        pd_hex(p, n, s);
        ck_assert(pd_unhex(s, q, n));
        ck_assert_mem_eq(p, q, n);
    }
    ck_assert_int_eq(pd_unbase32("a", 1, q, sizeof q), -1);
    ck_assert_int_eq(pd_unbase32("ab", 2, q, sizeof q), -1);
    ck_assert_int_eq(pd_unbase32("0000", 4, q, sizeof q), -1);
    ck_assert(!pd_unhex("0g", q, 1));
}
END_TEST

START_TEST(replace_writes_whole_files_and_errors_name_the_path) {
    char path[] = "/tmp/pd-base-XXXXXX";
    close(mkstemp(path));
    ck_assert_int_eq(pd_file_replace(path, "hello", 5, 0600), PD_OK);
    uint8_t *p;
    size_t n;
    ck_assert_int_eq(pd_file_read(path, 100, &p, &n), PD_OK);
    ck_assert(n == 5 && memcmp(p, "hello", 6) == 0);
    free(p);
    ck_assert_int_eq(pd_file_read(path, 4, &p, &n), PD_EFORMAT);
    unlink(path);
    ck_assert_int_eq(pd_file_read(path, 100, &p, &n), PD_ENOENT);
    ck_assert(strstr(pd_fail_text(), path) != NULL);
}
END_TEST

static bool holds(const char *path, const char *text) {
    uint8_t *p = NULL;
    size_t n;
    bool same = pd_file_read(path, 100, &p, &n) == PD_OK && strcmp((char *)p, text) == 0;
    free(p);
    return same;
}

/* What is written in pieces is there whole or not at all, and leaves no half of it behind. */
START_TEST(a_file_in_pieces_appears_when_it_is_whole) {
    char dir[] = "/tmp/pd-base-XXXXXX", path[64], tmp[70], none[80];
    ck_assert(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/file", dir);
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    snprintf(none, sizeof none, "%s/none/file", dir);
    pd_file_out *f = NULL;
    ck_assert_int_eq(pd_file_begin(none, 0600, &f), PD_ENOENT);
    ck_assert_ptr_null(f);
    ck_assert_int_eq(pd_file_begin(path, 0600, &f), PD_OK);
    ck_assert_int_eq(pd_file_append(f, "one, ", 5), PD_OK);
    ck_assert(!pd_file_exists(path));
    ck_assert_int_eq(pd_file_append(f, "two", 3), PD_OK);
    ck_assert_int_eq(pd_file_commit(f), PD_OK);
    ck_assert(holds(path, "one, two"));
    ck_assert_int_eq(pd_file_begin(path, 0600, &f), PD_OK);
    ck_assert_int_eq(pd_file_append(f, "three", 5), PD_OK);
    pd_file_drop(f);
    ck_assert(holds(path, "one, two"));
    ck_assert(!pd_file_exists(tmp));
    pd_file_drop(NULL);
    unlink(path);
    ck_assert_int_eq(rmdir(dir), 0);
}
END_TEST

/* A mistyped flag must be named, never taken as something else. */
START_TEST(flags_are_parsed_by_the_table) {
    bool on = false, help;
    const char *text = "default", *pos[2];
    uint32_t count = 7;
    double real = 0;
    pd_flag_list list = {.n = 0};
    size_t n;
    const pd_flag flags[] = {{"on", 0, PD_FLAG_SWITCH, &on, 0, 0, NULL, ""},
                             {"text", 't', PD_FLAG_TEXT, &text, 0, 0, "T", ""},
                             {"count", 0, PD_FLAG_U32, &count, 1, 9, "N", ""},
                             {"real", 0, PD_FLAG_REAL, &real, 0, 0, "X", ""},
                             {"list", 0, PD_FLAG_LIST, &list, 0, 0, "F", ""},
                             {.name = NULL}};
    char *good[] = {"cmd",  "a",      "--on", "-t",     "x", "--count=3", "--real",
                    "1e-3", "--list", "p",    "--list", "q", "--",        "--b"};
    ck_assert_int_eq(pd_flags_parse(14, good, flags, pos, 1, 2, &n, &help), PD_OK);
    ck_assert(on && count == 3 && n == 2 && list.n == 2 && !help && real == 1e-3);
    ck_assert_str_eq(text, "x");
    ck_assert_str_eq(pos[1], "--b");
    char *bad[][3] = {{"cmd", "--onn", "a"},     {"cmd", "--count", "0"}, {"cmd", "--count", "1.5"},
                      {"cmd", "--count", "ten"}, {"cmd", "a", "--text"},  {"cmd", "--on=1", "a"},
                      {"cmd", "--real", "nan"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_int_eq(pd_flags_parse(3, bad[i], flags, pos, 0, 2, &n, &help), PD_EUSAGE);
    ck_assert_int_eq(pd_flags_parse(1, bad[0], flags, pos, 1, 2, &n, &help), PD_EUSAGE);
    char *ask[] = {"cmd", "--nonsense", "--help"};
    ck_assert_int_eq(pd_flags_parse(3, ask, flags, pos, 1, 2, &n, &help), PD_OK);
    ck_assert(help);
    uint64_t s;
    ck_assert(pd_duration_parse("24h", &s) == PD_OK && s == 86400);
    ck_assert(pd_duration_parse("90", &s) == PD_OK && s == 90);
    ck_assert(pd_duration_parse("1y", &s) == PD_EUSAGE && pd_duration_parse("-1", &s) == PD_EUSAGE);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, varint_is_minimal_and_round_trips);
    tcase_add_test(tc, reader_never_runs_past_its_end);
    tcase_add_test(tc, hex_and_base32_round_trip);
    tcase_add_test(tc, replace_writes_whole_files_and_errors_name_the_path);
    tcase_add_test(tc, a_file_in_pieces_appears_when_it_is_whole);
    tcase_add_test(tc, flags_are_parsed_by_the_table);
}

PD_TEST_MAIN("base", 30)
