/* test_manifest.c - one run has one text and one name. */
#include "peerd/bytes.h"
#include "peerd/identity.h"
#include "peerd/manifest.h"
#include "test.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

static pd_manifest example(pd_space_kind space) {
    pd_manifest m = {.model_name = "SmolLM2 135M Instruct",
                     .model_arch = "llama",
                     .space = space,
                     .rank = 2,
                     .targets = 0x7f,
                     .unit_bits = 26,
                     .n_coords = 840,
                     .eps = 10995116278,
                     .scale = 54975581389,
                     .lr = 329853488,
                     .lr_min = 32985349,
                     .schedule = PD_SCHEDULE_COSINE,
                     .decay_records = 100,
                     .seal_bytes_per_s = 1000,
                     .rate_max = 50,
                     .invites_max = 8};
    memset(m.model_digest, 0x11, 32);
    memset(m.tokenizer_digest, 0x22, 32);
    memset(m.founder, 0x33, 32);
    memset(m.nonce, 0x44, 16);
    if (space == PD_SPACE_ALIGNED) {
        memset(m.basis_digest, 0x55, 32);
        m.basis_bytes = 700000;
    } else if (space == PD_SPACE_FULL) {
        m.rank = 0;
    } else {
        memset(m.seed, 0x66, 32);
        m.alpha = 16;
    }
    return m;
}

static const char *const golden =
    "base.arch = llama\n"
    "base.digest = 1111111111111111111111111111111111111111111111111111111111111111\n"
    "base.name = SmolLM2 135M Instruct\n"
    "base.tokenizer = 2222222222222222222222222222222222222222222222222222222222222222\n"
    "format = 1\n"
    "founder = 3333333333333333333333333333333333333333333333333333333333333333\n"
    "nonce = 44444444444444444444444444444444\n"
    "policy.invites = 8\n"
    "policy.rate = 50\n"
    "policy.seal_bytes_per_s = 1000\n"
    "probe.eps_u40 = 10995116278\n"
    "probe.scale_u40 = 54975581389\n"
    "rule = sum\n"
    "schedule.kind = cosine\n"
    "schedule.lr_min_u40 = 32985349\n"
    "schedule.lr_u40 = 329853488\n"
    "schedule.records = 100\n"
    "space.basis = 5555555555555555555555555555555555555555555555555555555555555555\n"
    "space.basis_bytes = 700000\n"
    "space.coords = 840\n"
    "space.kind = aligned\n"
    "space.rank = 2\n"
    "space.targets = q,k,v,o,gate,up,down\n"
    "space.unit_bits = 26\n";

/* The text is the run's name: a change of its spelling would split every run. */
START_TEST(text_and_run_id_are_golden) {
    pd_manifest m = example(PD_SPACE_ALIGNED), back;
    char text[PD_MANIFEST_MAX], hex[65];
    size_t n;
    uint8_t run[32];
    pd_manifest_write(&m, text, &n);
    ck_assert_uint_eq(n, strlen(golden));
    ck_assert_mem_eq(text, golden, n);
    pd_manifest_run_id(&m, run);
    pd_hex(run, 32, hex);
    ck_assert_str_eq(
        hex,
        "0ac1b39710414688342178df6914dc91cc892f0af941363daa543ef43bd8d531"); /* hashlib.blake2b(text,
                                                                                digest_size=32) */
    ck_assert_int_eq(pd_manifest_read(text, n, &back), PD_OK);
    ck_assert_mem_eq(&m, &back, sizeof m);
}
END_TEST

START_TEST(all_spaces_and_extremes_round_trip) {
    for (int k = 0; k < 6; k++) {
        pd_manifest m = example((pd_space_kind)(k / 2)), back;
        if (k & 1) {
            memset(m.model_name, 'x', 63);
            memset(m.model_arch, 'y', 15);
            m.targets = 1 << 4;
            m.unit_bits = 30;
            m.eps = (UINT64_C(1) << 60) - 1;
            m.schedule = PD_SCHEDULE_CONSTANT;
            m.decay_records = m.lr_min = 0;
            m.rate_max = m.seal_bytes_per_s = m.invites_max = UINT32_MAX;
        }
        char text[PD_MANIFEST_MAX];
        size_t n;
        pd_manifest_write(&m, text, &n);
        ck_assert_int_eq(pd_manifest_read(text, n, &back), PD_OK);
        ck_assert_mem_eq(&m, &back, sizeof m);
    }
    pd_manifest m = example(PD_SPACE_LORA);
    strcpy(m.model_name, "tab\there \xc3\xa9");
    char text[PD_MANIFEST_MAX];
    size_t n;
    pd_manifest_write(&m, text, &n);
    text[n] = 0;
    ck_assert(strstr(text, "base.name = tab?here ??\n") != NULL);
    ck_assert_int_eq(pd_manifest_read(text, n, &m), PD_OK);
}
END_TEST

/* Who goes on from another run says so in three lines and a format that an older peerd refuses by
 * name; without one of them, or with format 1, nobody could tell what the base is made of.
 */
START_TEST(a_parent_is_three_lines_of_format_2) {
    static const char *const lines[] = {
        "format = 2\n", "parent.digest = 77777777777777777777777777777777\n",
        "parent.records = 300\n",
        "parent.run = 8888888888888888888888888888888888888888888888888888888888888888\n"};
    pd_manifest m = example(PD_SPACE_ALIGNED), back;
    char text[PD_MANIFEST_MAX], less[PD_MANIFEST_MAX];
    size_t n;
    ck_assert(!pd_manifest_has_parent(&m));
    memset(m.parent_digest, 0x77, sizeof m.parent_digest);
    memset(m.parent_run, 0x88, sizeof m.parent_run);
    m.parent_records = 300;
    ck_assert(pd_manifest_has_parent(&m));
    pd_manifest_write(&m, text, &n);
    text[n] = 0;
    ck_assert_int_eq(pd_manifest_read(text, n, &back), PD_OK);
    ck_assert_mem_eq(&m, &back, sizeof m);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        const char *at = strstr(text, lines[i]);
        ck_assert_msg(at != NULL, "%s", lines[i]);
        int cut = snprintf(less, sizeof less, "%.*s%s%s", (int)(at - text), text,
                           i == 0 ? "format = 1\n" : "", at + strlen(lines[i]));
        ck_assert_int_eq(pd_manifest_read(less, (size_t)cut, &back), PD_EFORMAT);
    }
    /* no run has the name zero, which is how none is told */
    char *run = strstr(text, lines[3]);
    memset(run + strlen("parent.run = "), '0', 64);
    ck_assert_int_eq(pd_manifest_read(text, n, &back), PD_EFORMAT);
}
END_TEST

/* A run of the upper layers says so in one line of a format that an older peerd refuses by name; it
 * would train all of them else, and end with another model.  All layers are no line at all.
 */
START_TEST(a_first_layer_is_a_line_of_format_3) {
    for (int parent = 0; parent < 2; parent++) {
        pd_manifest m = example(PD_SPACE_ALIGNED), back;
        char text[PD_MANIFEST_MAX], less[PD_MANIFEST_MAX];
        size_t n;
        m.first_layer = 15;
        if (parent) {
            memset(m.parent_digest, 0x77, sizeof m.parent_digest);
            memset(m.parent_run, 0x88, sizeof m.parent_run);
        }
        pd_manifest_write(&m, text, &n);
        text[n] = 0;
        ck_assert(strstr(text, "\nformat = 3\n") != NULL);
        ck_assert(strstr(text, "\nspace.coords = 840\nspace.first_layer = 15\nspace.kind =") !=
                  NULL);
        ck_assert_int_eq(pd_manifest_read(text, n, &back), PD_OK);
        ck_assert_mem_eq(&m, &back, sizeof m);
        const char *at = strstr(text, "space.first_layer"), *rest = strchr(at, '\n') + 1;
        int cut = snprintf(less, sizeof less, "%.*s%s", (int)(at - text), text, rest);
        ck_assert_int_eq(pd_manifest_read(less, (size_t)cut, &back), PD_EFORMAT);
        strstr(text, "format = 3")[9] = parent ? '2' : '1';
        ck_assert_int_eq(pd_manifest_read(text, n, &back), PD_EFORMAT);
        m.first_layer = 1024;
        ck_assert_int_eq(pd_manifest_check(&m), PD_EUSAGE);
        ck_assert(strstr(pd_fail_text(), "first layer") != NULL);
    }
}
END_TEST

/* Whatever is accepted is written back byte for byte, so no two texts are one run, and none crashes
 * the reader. */
START_TEST(one_byte_changes_are_refused_or_another_run) {
    char text[PD_MANIFEST_MAX], again[PD_MANIFEST_MAX];
    size_t n, n2;
    pd_manifest m = example(PD_SPACE_ALIGNED), back;
    pd_manifest_write(&m, text, &n);
    unsigned accepted = 0;
    for (size_t i = 0; i < n; i++)
        for (int c = 0; c < 256; c++) {
            char was = text[i];
            text[i] = (char)c;
            if (c != (uint8_t)was && pd_manifest_read(text, n, &back) == PD_OK) {
                accepted++;
                pd_manifest_write(&back, again, &n2);
                ck_assert(n == n2 && memcmp(text, again, n) == 0);
            }
            text[i] = was;
        }
    ck_assert_uint_gt(accepted, 1000); /* other digests and names are other runs */
    for (size_t cut = 0; cut < n; cut++)
        ck_assert_int_ne(pd_manifest_read(text, cut, &back), PD_OK);
    for (size_t i = 0; i < n; i++) { /* a byte taken out, a byte doubled */
        memcpy(again, text, i);
        memcpy(again + i, text + i + 1, n - i - 1);
        if (pd_manifest_read(again, n - 1, &back) == PD_OK) {
            char third[PD_MANIFEST_MAX];
            pd_manifest_write(&back, third, &n2);
            ck_assert(n2 == n - 1 && memcmp(again, third, n2) == 0);
        }
    }
}
END_TEST

typedef struct change {
    const char *from, *to;
    pd_err e;
} change;

/* What a person or peer gets wrong is named; what a newer peerd wrote is told apart from what is
 * broken. */
START_TEST(refusals_name_the_cause) {
    static const change changes[] = {
        {"format = 1", "format = 4", PD_EUNSUPPORTED},
        {"format = 1", "format = 2", PD_EFORMAT}, /* without a parent it is format 1 */
        {"format = 1", "format = 3", PD_EFORMAT}, /* and with all layers it is not format 3 */
        {"policy.invites", "parent.records = 7\npolicy.invites", PD_EFORMAT},
        {"rule = sum", "rule = fedavg", PD_EUNSUPPORTED},
        {"space.kind = aligned", "space.kind = half", PD_EUNSUPPORTED},
        {"space.kind", "space.first_layer = 0\nspace.kind", PD_EFORMAT},
        {"space.kind", "space.first_layer = 2\nspace.kind", PD_EFORMAT}, /* without format 3 */
        {"cosine", "steps", PD_EUNSUPPORTED},
        {"space.kind = aligned", "space.kind = full", PD_EFORMAT}, /* which has rank 0 */
        {"rank = 2", "rank = 0", PD_EFORMAT},
        {"rank = 2", "rank = 65", PD_EFORMAT},
        {"rank = 2", "rank = 02", PD_EFORMAT},
        {"rank = 2", "rank = +2", PD_EFORMAT},
        {"rank = 2", "rank = 4294967298", PD_EFORMAT},
        {"rate = 50", "rate = 99999999999999999999999", PD_EFORMAT},
        {"bits = 26", "bits = 31", PD_EFORMAT},
        {"q,k,v", "k,q,v", PD_EFORMAT},
        {"q,k,v", "q,q,v", PD_EFORMAT},
        {",down", ",", PD_EFORMAT},
        {",down", ",sideways", PD_EFORMAT},
        {"lr_u40 = 329853488", "lr_u40 = 0", PD_EFORMAT},
        {"lr_u40 = 329853488", "lr_u40 = 18446744073709551615", PD_EFORMAT},
        {"lr_u40 = 329853488", "lr_u40 = 5", PD_EFORMAT},
        {"records = 100", "records = 0", PD_EFORMAT},
        {"base.arch = llama\n", "base.arch = a name that is too long\n", PD_EFORMAT},
        {"base.arch = llama\n", "", PD_EFORMAT},
        {"nonce = 44", "nonce = 4", PD_EFORMAT},
        {"nonce = 44", "nonce = 44\nnonce = 44", PD_EFORMAT},
        {"11111111\n", "1111111A\n", PD_EFORMAT},
        {"policy.rate", "policy.pace", PD_EFORMAT},
        {" = ", "=", PD_EFORMAT},
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        const change *c = &changes[i];
        char text[PD_MANIFEST_MAX];
        const char *at = strstr(golden, c->from);
        int n = snprintf(text, sizeof text, "%.*s%s%s", (int)(at - golden), golden, c->to,
                         at + strlen(c->from));
        pd_manifest out = {.rank = 77};
        pd_err e = pd_manifest_read(text, (size_t)n, &out);
        ck_assert_msg(e == c->e, "%s -> %s gives %d: %s", c->from, c->to, e,
                      e ? pd_fail_text() : "");
        ck_assert_uint_eq(out.rank, 77);
        ck_assert(strstr(pd_fail_text(), "manifest") != NULL);
    }
}
END_TEST

START_TEST(check_names_what_is_out_of_bounds) {
    pd_manifest m = example(PD_SPACE_ALIGNED);
    ck_assert_int_eq(pd_manifest_check(&m), PD_OK);
    m.rank = 65;
    ck_assert_int_eq(pd_manifest_check(&m), PD_EUSAGE);
    ck_assert(strstr(pd_fail_text(), "rank") != NULL);
    m = example(PD_SPACE_FULL); /* whose checkpoints are as large as it is */
    m.n_coords = PD_FULL_MAX;
    ck_assert_int_eq(pd_manifest_check(&m), PD_OK);
    m.n_coords++;
    ck_assert_int_eq(pd_manifest_check(&m), PD_EUSAGE);
    ck_assert(strstr(pd_fail_text(), "--targets") != NULL);
    m = example(PD_SPACE_FULL);
    m.rank = 4;
    ck_assert_int_eq(pd_manifest_check(&m), PD_EUSAGE);
    ck_assert(strstr(pd_fail_text(), "rank") != NULL);
}
END_TEST

/* The multiple of 2^-40 nearest to a decimal, exactly. */
static uint64_t nearest(const char *text) {
    __extension__ unsigned __int128 digits = 0;
    uint64_t ten = 1;
    for (bool part = false; *text; text++)
        if (*text == '.') {
            part = true;
        } else {
            digits = 10 * digits + (unsigned)(*text - '0');
            ten *= part ? 10 : 1;
        }
    return (uint64_t)(((digits << 40) + ten / 2) / ten);
}

/* What a person reads says which integer the run has. */
START_TEST(fixed_point_comes_back) {
    static const struct {
        double v;
        const char *text;
    } known[] = {
        {0.01, "0.01"}, {3e-4, "0.0003"}, {1, "1"}, {1000.5, "1000.5"}, {7e-12, "0.000000000007"}};
    char text[32];
    uint64_t v, x = 1;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        ck_assert_int_eq(pd_fixed_of(known[i].v, &v), PD_OK);
        pd_fixed_text(v, text);
        ck_assert_str_eq(text, known[i].text);
    }
    for (int i = 0; i < 20000; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        pd_fixed_text(x >> (i % 64), text);
        ck_assert_uint_eq(nearest(text), x >> (i % 64));
    }
    pd_fixed_text(UINT64_MAX, text);
    ck_assert_str_eq(text, "16777215.999999999999");
    const double bad[] = {0, -1, NAN, INFINITY, 1e-14, 0x1p20};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_int_eq(pd_fixed_of(bad[i], &v), PD_EUSAGE);
}
END_TEST

static void start(void) {
    ck_assert_int_eq(pd_crypto_init(), PD_OK);
}

static void add_tests(TCase *tc) {
    tcase_add_checked_fixture(tc, start, NULL);
    tcase_add_test(tc, text_and_run_id_are_golden);
    tcase_add_test(tc, all_spaces_and_extremes_round_trip);
    tcase_add_test(tc, a_parent_is_three_lines_of_format_2);
    tcase_add_test(tc, a_first_layer_is_a_line_of_format_3);
    tcase_add_test(tc, one_byte_changes_are_refused_or_another_run);
    tcase_add_test(tc, refusals_name_the_cause);
    tcase_add_test(tc, check_names_what_is_out_of_bounds);
    tcase_add_test(tc, fixed_point_comes_back);
}

PD_TEST_MAIN("manifest", 60)
