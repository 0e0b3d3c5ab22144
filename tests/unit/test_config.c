/* test_config.c - a node's own settings: what is written is what is read; a file that a person
 * edited wrongly is named by its key.
 */
#include "../../src/node/config.h"
#include "peerd/file.h"
#include "test.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define ck_ok(e) ck_assert_msg((e) == PD_OK, "%s", pd_fail_text())

static char dir[64], file[96];

static void make_dir(void) {
    snprintf(dir, sizeof dir, "/tmp/pd-config-XXXXXX");
    ck_assert(mkdtemp(dir));
    snprintf(file, sizeof file, "%s/node.json", dir);
}

static void remove_dir(void) {
    unlink(file);
    ck_assert_int_eq(rmdir(dir), 0);
}

static pd_config example(void) {
    pd_config c = pd_config_defaults;
    snprintf(c.model, sizeof c.model, "/models/a \"b\" \\ c\n%s.gguf", "\xc3\xa4");
    snprintf(c.data, sizeof c.data, "/data.jsonl");
    snprintf(c.name, sizeof c.name, "site-a");
    snprintf(c.listen, sizeof c.listen, "[::1]:7000");
    snprintf(c.advertise, sizeof c.advertise, "example.org:7000");
    c.heldout_share = 0.25;
    c.batch = 8;
    c.batch_tokens = 2048;
    c.probes = 3;
    c.estimator = PD_ESTIMATOR_PROJECT;
    c.local_steps = 5;
    c.threads = 2;
    c.compute = PD_COMPUTE_BF16;
    c.thin = c.observer = c.paused = true;
    c.seed = (UINT64_C(1) << 53) - 1;
    return c;
}

static void expect_equal(const pd_config *a, const pd_config *b) {
    ck_assert_str_eq(a->model, b->model);
    ck_assert_str_eq(a->data, b->data);
    ck_assert_str_eq(a->heldout, b->heldout);
    ck_assert_str_eq(a->name, b->name);
    ck_assert_str_eq(a->listen, b->listen);
    ck_assert_str_eq(a->advertise, b->advertise);
    ck_assert(a->heldout_share == b->heldout_share && a->seed == b->seed);
    ck_assert(a->batch == b->batch && a->batch_tokens == b->batch_tokens &&
              a->probes == b->probes && a->estimator == b->estimator &&
              a->local_steps == b->local_steps && a->threads == b->threads);
    ck_assert(a->compute == b->compute && a->thin == b->thin && a->skip_bad == b->skip_bad &&
              a->paused == b->paused && a->observer == b->observer);
}

START_TEST(round_trip) {
    make_dir();
    pd_config c = example(), back;
    for (int i = 0; i < 2; i++) { /* with odd values, then with the defaults */
        ck_ok(pd_config_write(dir, &c));
        ck_ok(pd_config_read(dir, &back));
        expect_equal(&c, &back);
        c = pd_config_defaults;
    }
    struct stat st;
    ck_assert(stat(file, &st) == 0 && (st.st_mode & 0777) == 0600);
    remove_dir();
}
END_TEST

/* Each key left out, of another kind or out of range: the text names file and key. */
START_TEST(bad_keys) {
    static const char *const keys[] = {
        "model",  "data",         "heldout",  "heldout_share", "name",       "listen", "advertise",
        "batch",  "batch_tokens", "probes",   "threads",       "compute",    "thin",   "skip_bad",
        "paused", "seed",         "observer", "estimator",     "local_steps"};
    static const char *const values[] = {"null", "[]", "1e300", "-1", "\"\\u00e9 and more\"", "{}"};
    make_dir();
    pd_config c = example(), back = pd_config_defaults;
    uint8_t *text;
    size_t n;
    ck_ok(pd_config_write(dir, &c));
    ck_ok(pd_file_read(file, 1 << 16, &text, &n));
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        char quoted[32], line[256], whole[4096];
        int refused = 0;
        snprintf(quoted, sizeof quoted, "\"%s\":", keys[k]);
        const char *at = strstr((const char *)text, quoted);
        ck_assert_msg(at != NULL, "%s", keys[k]);
        const char *end = strchr(at, '\n');
        if (end[-1] == ',')
            end--;
        for (size_t v = 0; v <= sizeof values / sizeof *values; v++) {
            if (v < sizeof values / sizeof *values)
                snprintf(line, sizeof line, "%s %s", quoted, values[v]);
            else
                snprintf(line, sizeof line, "\"x\": 0"); /* the key is missing */
            bool later = v == sizeof values / sizeof *values &&
                         (!strcmp(keys[k], "observer") || !strcmp(keys[k], "estimator") ||
                          !strcmp(keys[k], "local_steps"));
            snprintf(whole, sizeof whole, "%.*s%s%s", (int)(at - (const char *)text), text, line,
                     end);
            ck_ok(pd_file_replace(file, whole, strlen(whole), 0600));
            pd_err e = pd_config_read(dir, &back);
            refused += e != PD_OK;
            ck_assert(!later || !e); /* a file of an older version */
            if (e) {
                ck_assert_int_eq(e, PD_EFORMAT);
                snprintf(quoted, sizeof quoted, "`%s`", keys[k]);
                ck_assert_msg(strstr(pd_fail_text(), quoted) && strstr(pd_fail_text(), file), "%s",
                              pd_fail_text());
                snprintf(quoted, sizeof quoted, "\"%s\":", keys[k]);
            }
        }
        /* a text may well be strange; everything else was wrong */
        ck_assert_msg(refused >= 6, "%s: %d", keys[k], refused);
    }
    expect_equal(&back, &back);
    free(text);
    remove_dir();
}
END_TEST

/* Cut anywhere, or not JSON at all. */
START_TEST(truncated) {
    make_dir();
    pd_config c = example(), back;
    uint8_t *text;
    size_t n;
    ck_ok(pd_config_write(dir, &c));
    ck_ok(pd_file_read(file, 1 << 16, &text, &n));
    for (size_t k = 0; k < n; k++) {
        ck_ok(pd_file_replace(file, text, k, 0600));
        ck_assert_int_eq(pd_config_read(dir, &back), PD_EFORMAT);
    }
    free(text);
    remove_dir();
}
END_TEST

/* A folder that is no node, and no folder at all. */
START_TEST(not_a_node) {
    pd_config c;
    make_dir();
    ck_assert_int_eq(pd_config_read(dir, &c), PD_ENOENT);
    ck_assert_ptr_nonnull(strstr(pd_fail_text(), "peerd init"));
    remove_dir();
    ck_assert_int_eq(pd_config_read(dir, &c), PD_ENOENT);
    ck_assert_int_ne(pd_config_write(dir, &pd_config_defaults), PD_OK);
}
END_TEST

START_TEST(words) {
    static const char *const names[] = {"auto", "f32", "bf16"};
    pd_compute c;
    for (int i = 0; i < 3; i++) {
        ck_ok(pd_compute_parse(names[i], &c));
        ck_assert_int_eq(c, i);
        ck_assert_str_eq(pd_compute_name(c), names[i]);
    }
    ck_assert_int_eq(pd_compute_parse("fp16", &c), PD_EUSAGE);
    pd_estimator e = PD_ESTIMATOR_PROBE;
    ck_ok(pd_estimator_parse("project", &e));
    ck_assert_int_eq(e, PD_ESTIMATOR_PROJECT);
    ck_assert_str_eq(pd_estimator_name(PD_ESTIMATOR_PROBE), "probe");
    ck_assert_int_eq(pd_estimator_parse("gradient", &e), PD_EUSAGE);
    char out[PD_CONFIG_PATH], here[PD_CONFIG_PATH];
    make_dir();
    ck_ok(pd_file_replace(file, "x", 1, 0600));
    char odd[160];
    snprintf(odd, sizeof odd, "%s/../%s/./node.json", dir, dir + 5);
    ck_ok(pd_path_absolute(odd, out));
    ck_ok(pd_path_absolute(file, here));
    ck_assert_str_eq(out, here);
    ck_assert_int_eq(out[0], '/');
    ck_assert_int_eq(pd_path_absolute("/no/such/file", out), PD_ENOENT);
    remove_dir();
}
END_TEST

/* A file of an older version: the node goes on as it was. */
START_TEST(older_version) {
    make_dir();
    pd_config c = pd_config_defaults, back;
    uint8_t *text;
    size_t n;
    ck_ok(pd_config_write(dir, &c));
    ck_ok(pd_file_read(file, 1 << 16, &text, &n));
    for (const char *const *key =
             (const char *const[]){"observer", "estimator", "local_steps", NULL};
         *key; key++) {
        char quoted[32];
        snprintf(quoted, sizeof quoted, "\"%s\":", *key);
        char *at = strstr((char *)text, quoted);
        ck_assert_msg(at != NULL, "%s", *key);
        at[1] = '#'; /* another key, which nobody asks for */
    }
    ck_ok(pd_file_replace(file, text, strlen((char *)text), 0600));
    ck_ok(pd_config_read(dir, &back));
    expect_equal(&c, &back);
    free(text);
    remove_dir();
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, round_trip);
    tcase_add_test(tc, bad_keys);
    tcase_add_test(tc, older_version);
    tcase_add_test(tc, truncated);
    tcase_add_test(tc, not_a_node);
    tcase_add_test(tc, words);
}

PD_TEST_MAIN("config", 60)
