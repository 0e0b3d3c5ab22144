/* test_answer.c - a real node in a process of its own, asked everything that control.h promises.
 *
 * What peerctl and people's scripts rely on: every field is there, with its kind; what cannot be
 * done is refused with its cause; a paused node stays paused; a node that leaves ends.
 */
#include "../../src/node/history.h"
#include "../../src/node/node.h"
#include "peerd/file.h"
#include "peerd/log.h"
#include "peerd/ticket.h"
#include "test.h"

#include <math.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char dir[64];
static pid_t child;

#define ck_ok(call)                                                                                \
    do {                                                                                           \
        pd_err ck_e = (call);                                                                      \
        ck_assert_msg(ck_e == PD_OK, "%s", pd_fail_text());                                        \
    } while (0)

/* ---- a node ---- */

static void in_dir(char out[128], const char *name) {
    snprintf(out, 128, "%s/%s", dir, name);
}

static void write_data(const char *path) {
    FILE *f = fopen(path, "w");
    ck_assert(f != NULL);
    for (int i = 0; i < 30; i++)
        fprintf(f,
                "{\"prompt\": \"Number %d is\", \"choices\": [\" even\", \" odd\"], "
                "\"answer\": %d}\n",
                i, i % 2);
    fclose(f);
}

static void found_run(const pd_gguf *g, const pd_identity *id, const pd_config *c) {
    pd_manifest m = {.model_name = "house-2m", .model_arch = "llama", .space = PD_SPACE_LORA};
    pd_model_opts opts = {.compute = PD_COMPUTE_F32, .threads = 1};
    pd_model *model;
    pd_tokenizer *t;
    char text[PD_MANIFEST_MAX];
    size_t n;
    ck_ok(pd_model_open(g, &opts, &model));
    ck_ok(pd_tokenizer_open(g, &t));
    m.rank = 1, m.alpha = 1, m.targets = 1u << PD_Q, m.unit_bits = 26;
    m.n_coords = pd_space_size(&m, pd_model_info_of(model));
    ck_ok(pd_fixed_of(0.01, &m.eps));
    ck_ok(pd_fixed_of(0.01, &m.scale));
    ck_ok(pd_fixed_of(1e-4, &m.lr));
    m.schedule = PD_SCHEDULE_CONSTANT, m.seal_bytes_per_s = 1000, m.rate_max = 100;
    m.invites_max = 3;
    pd_gguf_digest(g, m.model_digest);
    pd_tokenizer_digest(t, m.tokenizer_digest);
    memcpy(m.founder, id->pub, 32);
    pd_tokenizer_close(t);
    pd_model_close(model);
    pd_manifest_write(&m, text, &n);
    ck_ok(pd_site_create(dir, c, id, text, n, NULL, 0, NULL, 0));
}

/* In the child: make the node's folder. */
static void make_node(void) {
    pd_identity id;
    pd_gguf *g;
    pd_config c = pd_config_defaults;
    char data[128];
    in_dir(data, "data.jsonl");
    write_data(data);
    ck_ok(pd_path_absolute(pd_test_path("examples/models/house-2m.gguf"), c.model));
    snprintf(c.data, sizeof c.data, "%s", data);
    strcpy(c.name, "alpha");
    strcpy(c.listen, "127.0.0.1:0");
    c.threads = 1;
    c.batch = 2;
    c.batch_tokens = 64;
    c.compute = PD_COMPUTE_F32;
    ck_ok(pd_gguf_open(c.model, &g));
    pd_identity_new(&id);
    found_run(g, &id, &c);
    pd_gguf_close(g);
}

/* In the child: run the node of this folder. */
static void run_node(void) {
    pd_site site;
    pd_run_opts opts = {.records = 1000000, .seal_ms = 200, .quiet = true};
    ck_ok(pd_site_open(dir, PD_SITE_DATA, &pd_site_as_set, &site));
    int status = pd_node_run(&site, &opts);
    pd_site_close(&site);
    exit(status);
}

static void launch(bool make) {
    fflush(NULL);
    child = fork();
    ck_assert(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed check leaves nothing running */
        if (make)
            make_node();
        run_node();
    }
    for (int i = 0; i < 300 && !pd_control_runs(dir); i++)
        pd_sleep_ms(100);
    ck_assert_msg(pd_control_runs(dir), "the node does not answer");
}

static void start(void) {
    snprintf(dir, sizeof dir, "/tmp/pd-answer-XXXXXX");
    ck_assert(mkdtemp(dir) != NULL);
    ck_ok(pd_crypto_init());
    setenv("OMP_NUM_THREADS", "1", 1);
    launch(true);
}

static int ended(void) {
    int status = 0;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    child = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void finish(void) {
    char cmd[96];
    if (child) {
        kill(child, SIGKILL);
        ended();
    }
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    ck_assert_int_eq(system(cmd), 0);
}

/* ---- asking ---- */

/* Ask a request given as JSON; gives the reply, or NULL and *e. */
static cJSON *try(const char *request, pd_err *e) {
    cJSON *q = cJSON_Parse(request), *r = NULL;
    ck_assert_msg(q != NULL, "%s", request);
    *e = pd_control_call(dir, q, 20000, &r);
    cJSON_Delete(q);
    return r;
}

static cJSON *ask(const char *request) {
    pd_err e;
    cJSON *r = try(request, &e);
    ck_assert_msg(e == PD_OK, "%s: %s", request, pd_fail_text());
    return r;
}

static void refused(const char *request, pd_err code, const char *word) {
    pd_err e;
    cJSON *r = try(request, &e);
    cJSON_Delete(r);
    ck_assert_msg(e == code && strstr(pd_fail_text(), word), "%s: %d, %s", request, (int)e,
                  pd_fail_text());
}

static const cJSON *at(const cJSON *r, const char *name) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(r, name);
    ck_assert_msg(v != NULL, "no %s", name);
    return v;
}
static double number(const cJSON *r, const char *name) {
    ck_assert_msg(cJSON_IsNumber(at(r, name)), "%s is no number", name);
    return at(r, name)->valuedouble;
}
static const char *word(const cJSON *r, const char *name) {
    ck_assert_msg(cJSON_IsString(at(r, name)), "%s is no text", name);
    return at(r, name)->valuestring;
}

static cJSON *wait_for(const char *state, double records) {
    for (int i = 0; i < 200; i++) {
        cJSON *r = ask("{\"cmd\": \"status\"}");
        if (strcmp(word(r, "state"), state) == 0 && number(r, "digest_records") >= records)
            return r;
        cJSON_Delete(r);
        pd_sleep_ms(50);
    }
    ck_abort_msg("never %s with %.0f records", state, records);
}

/* ---- tests ---- */

static void check_status(void) {
    static const char *const texts[] = {"run",   "key", "name",   "dir",    "version",    "rule",
                                        "state", "why", "listen", "digest", "store_error"};
    static const char *const numbers[] = {"pid",
                                          "uptime_s",
                                          "step",
                                          "records_wanted",
                                          "unsealed",
                                          "unsealed_age_ms",
                                          "seal_ms",
                                          "loss",
                                          "records",
                                          "missing",
                                          "members",
                                          "links",
                                          "bytes_in",
                                          "bytes_out",
                                          "bytes_in_per_s",
                                          "bytes_out_per_s",
                                          "wire_bytes_per_record",
                                          "digest_records",
                                          "bad_frames",
                                          "bad_seals",
                                          "duplicates",
                                          "duplicate_bytes",
                                          "listen_heard",
                                          "listen_wanted",
                                          "counted"};
    cJSON *r = wait_for("speaking", 5);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        word(r, texts[i]);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        number(r, numbers[i]);
    ck_assert_str_eq(word(at(r, "model"), "name"), "house-2m");
    ck_assert_str_eq(word(at(r, "model"), "arch"), "llama");
    ck_assert_str_eq(word(at(r, "space"), "kind"), "lora");
    ck_assert(number(at(r, "space"), "rank") == 1 && number(at(r, "space"), "coords") > 1);
    ck_assert(cJSON_IsNull(at(r, "fetched_bytes")) && cJSON_IsNull(at(r, "fetch_total_bytes")));
    ck_assert(cJSON_IsArray(at(r, "peers")) && cJSON_GetArraySize(at(r, "peers")) == 0);
    ck_assert(cJSON_IsNull(at(r, "copies")) && number(r, "counted") == 1);
    const cJSON *h = at(r, "heldout");
    ck_assert(number(h, "examples") == 3 && number(h, "loss_before") > 0);
    ck_assert(number(h, "loss_now") > 0 && number(h, "accuracy_before") <= 1);
    ck_assert(number(h, "accuracy_now") <= 1 && number(h, "at_records") >= 0);
    ck_assert_uint_eq(strlen(word(r, "run")), 64);
    ck_assert_uint_eq(strlen(word(r, "digest")), 2 * PD_DIGEST_BYTES);
    ck_assert_int_eq((int)number(r, "pid"), (int)child);
    cJSON_Delete(r);
}

static void check_invites(void) {
    pd_ticket t;
    refused("{\"cmd\": \"invite\"}", PD_EUSAGE, "uses");
    refused("{\"cmd\": \"invite\", \"uses\": 0, \"expires_s\": 5}", PD_EUSAGE, "uses");
    refused("{\"cmd\": \"invite\", \"uses\": 1.5, \"expires_s\": 5}", PD_EUSAGE, "uses");
    refused("{\"cmd\": \"invite\", \"uses\": 1, \"expires_s\": -1}", PD_EUSAGE, "expires_s");
    refused("{\"cmd\": \"invite\", \"uses\": 1, \"expires_s\": 1e300}", PD_EUSAGE, "expires_s");
    refused("{\"cmd\": \"invite\", \"uses\": 1, \"expires_s\": 9, \"addr\": \"1.2.3.4:x\"}",
            PD_EUSAGE, "");
    cJSON *r = ask("{\"cmd\": \"invite\", \"uses\": 2, \"expires_s\": 0}");
    ck_ok(pd_ticket_read(word(r, "ticket"), &t));
    ck_assert(t.expiry_s == 0 && t.n_addrs == 1 && pd_addr_is_loopback(&t.addrs[0]));
    ck_assert(number(r, "uses") == 2 && number(r, "expires_s") == 0);
    ck_assert_int_eq(cJSON_GetArraySize(at(r, "addrs")), 1);
    char own[PD_TICKET_TEXT + 64], text[PD_TICKET_TEXT];
    snprintf(own, sizeof own, "{\"cmd\": \"join\", \"ticket\": \"%s\"}", word(r, "ticket"));
    refused(own, PD_EUSAGE, "made the ticket itself");
    t.net[0] ^= 1;
    pd_ticket_write(&t, text);
    snprintf(own, sizeof own, "{\"cmd\": \"join\", \"ticket\": \"%s\"}", text);
    refused(own, PD_EMISMATCH, "another run");
    refused("{\"cmd\": \"join\"}", PD_EUSAGE, "ticket");
    refused("{\"cmd\": \"join\", \"ticket\": \"peerd1\"}", PD_EFORMAT, "");
    cJSON_Delete(r);
    r = ask("{\"cmd\": \"invite\", \"uses\": 1, \"expires_s\": 1, \"addr\": \"192.0.2.7:7000\"}");
    ck_assert_str_eq(cJSON_GetArrayItem(at(r, "addrs"), 0)->valuestring, "192.0.2.7:7000");
    ck_assert(fabs(number(r, "expires_s") - (double)pd_wall_s()) <= 2);
    cJSON_Delete(r);
    cJSON_Delete(ask("{\"cmd\": \"invite\", \"uses\": 1, \"expires_s\": 900}"));
    refused("{\"cmd\": \"invite\", \"uses\": 1, \"expires_s\": 900}", PD_EFULL, "3 invites");
    pd_sleep_ms(3500); /* the one that was good for a second makes room */
    cJSON_Delete(ask("{\"cmd\": \"invite\", \"uses\": 1, \"expires_s\": 900}"));
}

static void check_pause(void) {
    pd_config c;
    cJSON *r = ask("{\"cmd\": \"pause\"}");
    ck_assert(cJSON_IsTrue(at(r, "paused")));
    cJSON_Delete(r);
    cJSON_Delete(wait_for("paused", 0));
    ck_ok(pd_config_read(dir, &c));
    ck_assert(c.paused);
    r = ask("{\"cmd\": \"resume\"}");
    ck_assert(cJSON_IsFalse(at(r, "paused")));
    cJSON_Delete(r);
    cJSON_Delete(wait_for("speaking", 0));
    ck_ok(pd_config_read(dir, &c));
    ck_assert(!c.paused);
}

static void check_questions(void) {
    char request[256], path[128];
    struct stat st;
    cJSON *r = ask("{\"cmd\": \"verify\"}");
    ck_assert(cJSON_IsTrue(at(r, "equal")) && number(r, "records") >= 5);
    ck_assert_str_eq(word(r, "digest"), word(r, "digest_replayed"));
    number(r, "took_ms");
    cJSON_Delete(r);
    refused("{\"cmd\": \"export\", \"format\": \"onnx\", \"out\": \"/x\"}", PD_EUSAGE, "format");
    refused("{\"cmd\": \"export\", \"format\": \"peft\", \"out\": \"x\"}", PD_EUSAGE, "absolute");
    refused("{\"cmd\": \"export\", \"format\": \"gguf\", \"out\": \"/no/such/x\"}", PD_ENOENT,
            "/no/");
    static const struct {
        const char *format, *name;
        int files;
    } exports[] = {{"peft", "adapter", 2},
                   {"gguf", "adapter.gguf", 1},
                   {"merged-gguf", "merged.gguf", 1},
                   {"merged-safetensors", "merged", 3}};
    for (int i = 0; i < 4; i++) {
        in_dir(path, exports[i].name);
        snprintf(request, sizeof request,
                 "{\"cmd\": \"export\", \"format\": \"%s\", \"out\": \"%s\"}", exports[i].format,
                 path);
        r = ask(request);
        ck_assert_int_eq(cJSON_GetArraySize(at(r, "files")), exports[i].files);
        double bytes = 0;
        const cJSON *f;
        cJSON_ArrayForEach(f, at(r, "files")) {
            ck_assert_int_eq(stat(f->valuestring, &st), 0);
            bytes += (double)st.st_size;
        }
        ck_assert(bytes == number(r, "bytes") && number(r, "records") >= 5);
        ck_assert_uint_eq(strlen(word(r, "digest")), 2 * PD_DIGEST_BYTES);
        cJSON_Delete(r);
    }
}

/* What the doctor judges: all of it is there on a node that is well. */
static void check_health(void) {
    static const char *const numbers[] = {"files",
                                          "files_max",
                                          "handshakes_refused",
                                          "wall_s",
                                          "made_s",
                                          "cores",
                                          "memory_free_bytes",
                                          "memory_total_bytes",
                                          "memory_bytes",
                                          "swapped_bytes",
                                          "threads",
                                          "expiring_invites",
                                          "made",
                                          "not_finite",
                                          "heldout_best",
                                          "sealed_ago_ms"};
    cJSON *r = ask("{\"cmd\": \"health\"}");
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        number(r, numbers[i]);
    ck_assert(cJSON_IsNull(at(r, "called_ago_ms")) && cJSON_IsNull(at(r, "called_from")));
    ck_assert(cJSON_IsTrue(at(r, "door_open")) && cJSON_IsFalse(at(r, "solo")));
    ck_assert_str_eq(word(r, "trainer"), "training");
    ck_assert(number(r, "threads") == 1 && number(r, "files") > 3);
    cJSON_Delete(r);
    r = ask("{\"cmd\": \"check\"}");
    ck_assert(!*word(r, "ledger_error") && !*word(r, "disk_error") && !*word(r, "model_error"));
    ck_assert(number(r, "ledger_bytes") > 0 && number(r, "disk_free_bytes") > 0);
    ck_assert(number(r, "flush_us") >= 0 && number(r, "took_ms") >= 0);
    cJSON_Delete(r);
    r = ask("{\"cmd\": \"check\", \"quick\": true}");
    ck_assert(cJSON_IsNull(at(r, "model_error")));
    cJSON_Delete(r);
}

static void check_ledger(void) {
    cJSON *r = ask("{\"cmd\": \"members\"}");
    const cJSON *m = cJSON_GetArrayItem(at(r, "members"), 0);
    ck_assert(cJSON_IsTrue(at(m, "self")) && cJSON_IsNull(at(m, "inviter")));
    ck_assert(cJSON_IsNull(at(r, "next")) && number(m, "records") >= 5);
    cJSON_Delete(r);
    r = ask("{\"cmd\": \"log\", \"from\": 2, \"limit\": 1}");
    m = cJSON_GetArrayItem(at(r, "records"), 0);
    ck_assert(cJSON_GetArraySize(at(r, "records")) == 1 && number(m, "step") == 2);
    ck_assert(number(m, "byte") < 256 && number(m, "byte") != 128 && fabs(number(m, "value")) < 21);
    ck_assert(cJSON_IsTrue(at(r, "more")) && number(r, "after_step") == 3);
    cJSON_Delete(r);
    refused("{\"cmd\": \"log\", \"limit\": 1001}", PD_EUSAGE, "limit");
    refused("{\"cmd\": \"log\", \"from\": -1}", PD_EUSAGE, "from");
    refused("{\"cmd\": \"log\", \"author\": \"zz\"}", PD_ENOENT, "zz");
    refused("{\"cmd\": \"members\", \"after\": 0.5}", PD_EUSAGE, "after");
    refused("{\"cmd\": \"backup\"}", PD_EUSAGE, "absolute");
    refused("{\"cmd\": \"backup\", \"out\": \"/no/such/x\"}", PD_EIO, "/no/");
}

static void check_log(void) {
    char request[64];
    cJSON *r = ask("{\"cmd\": \"journal\", \"after\": 0}");
    double next = number(r, "next");
    ck_assert(next >= 1 && cJSON_GetArraySize(at(r, "lines")) == (int)next);
    cJSON_Delete(r);
    snprintf(request, sizeof request, "{\"cmd\": \"journal\", \"after\": %.0f}", next - 1);
    r = ask(request);
    ck_assert_int_eq(cJSON_GetArraySize(at(r, "lines")), (int)(number(r, "next") - next + 1));
    cJSON_Delete(r);
    refused("{\"cmd\": \"journal\", \"after\": -1}", PD_EUSAGE, "after");
}

/* A key that is passed on: the node ends, and the next start is another key with the same place,
 * speaking and founder still, its records counted on. */
static void check_ban_and_rotate(void) {
    char old[65], next[65], path[128];
    refused("{\"cmd\": \"ban\"}", PD_EUSAGE, "needs");
    refused("{\"cmd\": \"ban\", \"member\": \"beta\"}", PD_ENOENT, "no other member");
    cJSON *r = ask("{\"cmd\": \"rotate\"}");
    snprintf(old, sizeof old, "%s", cJSON_GetStringValue(at(r, "old")));
    snprintf(next, sizeof next, "%s", cJSON_GetStringValue(at(r, "key")));
    cJSON_Delete(r);
    ck_assert_int_eq(ended(), 0);
    launch(false);
    r = ask("{\"cmd\": \"status\"}");
    ck_assert_str_eq(cJSON_GetStringValue(at(r, "key")), next);
    ck_assert_str_ne(old, next);
    for (int i = 0; i < 300 && strcmp(cJSON_GetStringValue(at(r, "state")), "speaking") != 0; i++) {
        cJSON_Delete(r);
        pd_sleep_ms(100);
        r = ask("{\"cmd\": \"status\"}");
    }
    ck_assert_str_eq(cJSON_GetStringValue(at(r, "state")), "speaking");
    ck_assert_str_eq(cJSON_GetStringValue(at(r, "key")), next);
    cJSON_Delete(r);
    in_dir(path, "key.next");
    ck_assert(!pd_file_exists(path));
    in_dir(path, "key.old");
    ck_assert(pd_file_exists(path));
}

START_TEST(a_node_answers_all_that_control_h_promises) {
    start();
    check_status();
    check_questions();
    check_pause();
    check_invites();
    check_log();
    check_health();
    check_ledger();
    refused("{\"cmd\": \"dance\"}", PD_EUSAGE, "dance");
    check_ban_and_rotate();
    cJSON *r = ask("{\"cmd\": \"leave\"}");
    ck_assert(cJSON_IsTrue(at(r, "leaving")));
    cJSON_Delete(r);
    ck_assert_int_eq(ended(), 0);
    ck_assert(!pd_control_runs(dir));
    finish();
}
END_TEST

/* ---- log lines kept ---- */

static uint32_t seen;
static char last[128];

static void see(void *ctx, const char *line) {
    (void)ctx;
    seen++;
    snprintf(last, sizeof last, "%s", line);
}

/* A line lost in the middle, or shown twice, would mislead who follows the log. */
START_TEST(the_newest_lines_are_kept_in_order) {
    enum { LINES = PD_HISTORY_LINES + 7 };
    pd_history_start();
    ck_assert_uint_eq(pd_history_each(0, see, NULL), 0);
    for (int i = 1; i <= LINES; i++) {
        pd_log_site site = {0}; /* a new place each time, or most would be held back */
        pd_log_at(&site, PD_LOG_WARN, "line %d", i);
    }
    ck_assert_uint_eq(pd_history_each(0, see, NULL), LINES);
    ck_assert_uint_eq(seen, PD_HISTORY_LINES);
    ck_assert(strstr(last, " warn line ") && strstr(last, " 1007"));
    seen = 0;
    ck_assert_uint_eq(pd_history_each(LINES - 3, see, NULL), LINES);
    ck_assert_uint_eq(seen, 3);
    seen = 0;
    pd_history_each(LINES, see, NULL);
    ck_assert_uint_eq(seen, 0);
    pd_history_each(LINES + 1, see, NULL); /* numbers of an earlier process */
    ck_assert_uint_eq(seen, PD_HISTORY_LINES);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, the_newest_lines_are_kept_in_order);
    tcase_add_test(tc, a_node_answers_all_that_control_h_promises);
}

PD_TEST_MAIN("answer", 100)
