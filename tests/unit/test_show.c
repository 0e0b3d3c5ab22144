/* test_show.c - peerctl status on paper: 80 columns and the same columns in every line, whatever
 * the numbers, for 30 members as for a thousand.
 */
#include "ctl.h"
#include "test.h"

#include <string.h>

static const char head[] =
    "{\"run\": \"0011223344556677\", \"key\": \"aabbccddeeff\", \"name\": "
    "\"a-name-of-thirty-two-characters!!\", \"listen\": "
    "\"255.255.255.255:65535\", \"uptime_s\": 31535999, \"model\": {\"name\": "
    "\"SmolLM2-135M-Instruct\", \"arch\": \"llama\"}, \"space\": {\"kind\": \"aligned\", "
    "\"rank\": 64, \"coords\": 9876543210}, \"rule\": \"sum\", \"state\": \"listening\", \"why\": "
    "\"its store was copied or restored: listening to every member, 5 minutes at most\", "
    "\"listen_heard\": 12, \"listen_wanted\": 16, \"step\": 987654321, \"records_wanted\": "
    "1000000000, \"unsealed\": 4096, \"unsealed_age_ms\": 86300000, \"seal_ms\": 900000, "
    "\"store_error\": \"/a/long/path/of/a/node/ledger.db: no space left on the device; 8 MiB that "
    "were held back are given up\", \"loss\": 12.3456, \"heldout\": {\"examples\": 123456, "
    "\"loss_before\": 12.3456, \"loss_now\": 11.2345, \"accuracy_before\": 0.1, \"accuracy_now\": "
    "1, \"at_records\": 987654321}, \"records\": 98765432100, \"missing\": 12345678, \"counted\": "
    "1001, \"links\": 16, \"bytes_in\": 98765432100, \"bytes_out\": 98765432100, "
    "\"bytes_in_per_s\": 999999, \"bytes_out_per_s\": 999999, \"wire_bytes_per_record\": 123.4, "
    "\"copies\": 12.34, \"digest\": \"00112233445566778899aabbccddeeff\", \"digest_records\": "
    "98765432100, \"fetched_bytes\": 1, \"fetch_total_bytes\": 2000000000, \"bad_frames\": "
    "1000000, \"bad_seals\": 1000000}";

static const char *const members[] = {"here", "away", "gone", "left"};
static const char *const links[] = {"up", "suspect", "dialing", "none"};

/* A node with `n` peers in every state, the first of them with numbers as large as they get. */
static cJSON *status_of(int n) {
    cJSON *s = cJSON_Parse(head), *peers = cJSON_AddArrayToObject(s, "peers");
    ck_assert(s != NULL);
    cJSON_AddNumberToObject(s, "members", n);
    for (int i = 0; i < n; i++) {
        double size = i == 0 ? 1e12 : i;
        char key[65], name[40];
        snprintf(key, sizeof key, "%064x", i + 0x1000000);
        snprintf(name, sizeof name, i % 2 ? "peer-%d" : "peer-with-a-long-name-%d", i);
        cJSON *p = cJSON_CreateObject();
        cJSON_AddStringToObject(p, "key", key);
        cJSON_AddStringToObject(p, "name", name);
        cJSON_AddStringToObject(p, "member", members[i < 20 ? i % 2 : 2 + i % 2]);
        cJSON_AddStringToObject(p, "link", links[i < 16 ? i % 2 : 2 + i % 2]);
        cJSON_AddBoolToObject(p, "outbound", i % 3 == 0);
        static const char *const numbers[] = {"behind",          "missing", "bytes_in_per_s",
                                              "bytes_out_per_s", "rtt_ms",  "quiet_ms"};
        for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++)
            cJSON_AddNumberToObject(p, numbers[k], size);
        cJSON_AddItemToArray(peers, p);
    }
    return s;
}

/* What is printed of it, in `out`. */
static void show(const cJSON *s, char *out, size_t room) {
    FILE *f = tmpfile();
    ck_assert(f != NULL);
    fflush(stdout);
    int was = dup(STDOUT_FILENO);
    ck_assert(dup2(fileno(f), STDOUT_FILENO) >= 0);
    ctl_print_status(s);
    fflush(stdout);
    dup2(was, STDOUT_FILENO);
    close(was);
    rewind(f);
    out[fread(out, 1, room - 1, f)] = 0;
    fclose(f);
}

/* Lines of the table of peers; each fits, and has its last digit where the head has its last
 * letter.
 */
static int check_lines(char *text) {
    size_t width = 0;
    int rows = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        ck_assert_msg(strlen(line) <= 80, "%zu columns: %s", strlen(line), line);
        if (strncmp(line, "peer ", 5) == 0) {
            width = strlen(line);
            continue;
        }
        if (!width || strstr(line, " more are gone"))
            continue;
        ck_assert_msg(strlen(line) == width, "%zu columns, not %zu: %s", strlen(line), width, line);
        rows++;
    }
    return rows;
}

START_TEST(a_status_fits_a_terminal) {
    static char text[1 << 16];
    static const struct {
        int members, rows;
        const char *rest;
    } cases[] = {{0, 0, "no peers yet"},
                 {3, 3, ""},
                 {30, 20, "10 more are gone"},
                 {1000, 20, "980 more are gone"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cJSON *s = status_of(cases[i].members);
        show(s, text, sizeof text);
        ck_assert_msg(strstr(text, cases[i].rest) != NULL, "%s", text);
        ck_assert_int_eq(check_lines(text), cases[i].rows);
        cJSON_Delete(s);
    }
}
END_TEST

/* Forty that are here are enough for a screen; the rest is counted. */
START_TEST(a_long_table_is_cut) {
    static char text[1 << 16];
    cJSON *s = status_of(16);
    cJSON *peers = cJSON_GetObjectItemCaseSensitive(s, "peers");
    for (int i = 0; i < 60; i++)
        cJSON_AddItemToArray(peers, cJSON_Duplicate(cJSON_GetArrayItem(peers, i % 16), true));
    cJSON_ReplaceItemInObjectCaseSensitive(s, "members", cJSON_CreateNumber(76));
    show(s, text, sizeof text);
    ck_assert_msg(strstr(text, "36 more are gone, have left or have no link") != NULL, "%s", text);
    ck_assert_int_eq(check_lines(text), 40);
    cJSON_Delete(s);
}
END_TEST

/* "null" in a reply, from a node that has done nothing yet, is a dash and never a number. */
START_TEST(what_is_not_known_is_a_dash) {
    static char text[1 << 16];
    cJSON *s = cJSON_Parse("{\"state\": \"speaking\", \"step\": 0, \"members\": 0, \"peers\": [], "
                           "\"records\": 0, \"copies\": null, \"loss\": null, \"heldout\": null}");
    show(s, text, sizeof text);
    ck_assert_msg(strstr(text, "nan") == NULL && strstr(text, "held-out  none yet"), "%s", text);
    cJSON_Delete(s);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, a_status_fits_a_terminal);
    tcase_add_test(tc, a_long_table_is_cut);
    tcase_add_test(tc, what_is_not_known_is_a_dash);
}

PD_TEST_MAIN("show", 10)
