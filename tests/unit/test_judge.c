/* test_judge.c - what peerctl doctor makes of what a node says: every finding, made by changing one
 * fact of a node that is well.
 *
 * A check that never fires is worse than none: people stop looking where it says ok.
 */
#include "judge.h"
#include "test.h"

#include <math.h>
#include <string.h>

static const char status_text[] =
    "{\"run\": \"00112233445566\", \"version\": \"" PD_VERSION "\", \"state\": \"speaking\", "
    "\"why\": \"\", \"step\": 12, \"uptime_s\": 600, \"listen\": \"10.0.0.1:7433\", "
    "\"store_error\": \"\", \"unsealed\": 3, \"unsealed_age_ms\": 900, \"seal_ms\": 2000, "
    "\"heldout\": {\"loss_before\": 1.0, \"loss_now\": 0.8}, \"members\": 2, \"links\": 2, "
    "\"bad_frames\": 0, \"bad_seals\": 0, "
    "\"checkpoint\": {\"audit\": \"none\", \"voices\": 3, \"wrong\": 0, \"wrong_why\": \"\", "
    "\"waits\": false, \"lacking_bytes\": 0}, \"peers\": ["
    "{\"name\": \"b\", \"member\": \"here\", \"link\": \"up\", \"link_why\": \"\"}, "
    "{\"name\": \"c\", \"member\": \"here\", \"link\": \"up\", \"link_why\": \"\"}]}";
static const char health_text[] =
    "{\"called_ago_ms\": 5000, \"called_from\": \"10.0.0.2:5000\", \"door_open\": true, "
    "\"files\": 30, \"files_max\": 4096, \"solo\": false, \"wall_s\": 1790000000, "
    "\"made_s\": 1780000000, \"expiring_invites\": 1, \"memory_bytes\": 5e8, "
    "\"swapped_bytes\": 0, \"memory_free_bytes\": 4e9, \"memory_total_bytes\": 8e9, "
    "\"cores\": 2, \"threads\": 2, \"load\": 2.1, \"trainer\": \"training\", \"made\": 12, "
    "\"not_finite\": 0, \"heldout_best\": 0.79, \"sealed_ago_ms\": 1500}";
static const char check_text[] =
    "{\"ledger_error\": \"\", \"disk_error\": \"\", \"model_error\": \"\", \"flush_us\": 900, "
    "\"disk_free_bytes\": 5e9, \"ledger_bytes\": 100000}";

/* One fact changed, and what it must lead to.  where: s(tatus), h(ealth), c(heck), p(eer c),
 * (chec)k(point). */
typedef struct change {
    char where;
    const char *name, *value; /* the value as JSON */
    const char *check;
    ctl_level level;
    const char *text, *mend; /* parts of them */
} change;

static const change changes[] = {
    {'s', "state", "\"listening\"", "node", CTL_WARN, "listening", "wait"},
    {'s', "state", "\"paused\"", "node", CTL_WARN, "paused", "peerctl -d dir resume"},
    {'s', "state", "\"silenced\"", "node", CTL_BAD, "silenced", "peerd join NEWDIR"},
    {'h', "trainer", "\"stopped\"", "node", CTL_BAD, "silenced", "peerctl -d dir resume"},
    {'s', "version", "\"9.9\"", "version", CTL_WARN, "peerd is 9.9", "one version"},
    {'s', "members", "0", "links", CTL_WARN, "nobody else", "peerctl -d dir invite"},
    {'h', "solo", "true", "links", CTL_WARN, "--solo", "peerd run dir"},
    {'s', "links", "0", "links", CTL_BAD, "none of 2", "peerctl -d dir members"},
    {'p', "link", "\"none\"", "links", CTL_WARN, "1 members that are here have no link; c",
     "peerctl -d dir members"},
    {'s', "listen", "null", "reachable", CTL_OK, "only dials", ""},
    {'h', "called_ago_ms", "null", "reachable", CTL_OK, "not known", ""},
    {'h', "called_from", "\"127.0.0.1:9\"", "reachable", CTL_OK, "says nothing about others", ""},
    {'s', "bad_frames", "1", "peers", CTL_WARN, "1 frames", "journal"},
    {'s', "bad_seals", "2", "peers", CTL_WARN, "2 seals", "journal"},
    {'s', "unsealed_age_ms", "17000", "sealing", CTL_BAD, "3 own records wait", "journal"},
    {'h', "sealed_ago_ms", "null", "sealing", CTL_OK, "nothing sealed", ""},
    {'h', "not_finite", "2", "loss", CTL_BAD, "2 of 14", "smaller --lr"},
    {'h', "heldout_best", "0.7", "loss", CTL_WARN, "it rises", "pause"},
    {'s', "heldout", "null", "loss", CTL_OK, "no held-out", ""},
    {'c', "ledger_error", "\"it is damaged\"", "ledger", CTL_BAD, "it is damaged", "backup"},
    {'s', "store_error", "\"no room\"", "disk", CTL_BAD, "no room", "make room"},
    {'c', "disk_error", "\"read-only\"", "disk", CTL_BAD, "read-only", "make room"},
    {'c', "disk_free_bytes", "15e6", "disk", CTL_BAD, "15.0 MB are free", "make room"},
    {'c', "disk_free_bytes", "2e8", "disk", CTL_WARN, "200.0 MB are free", "make room"},
    {'c', "flush_us", "49", "disk", CTL_WARN, "does not flush", "write cache"},
    {'c', "flush_us", "50", "disk", CTL_OK, "0.1 ms", ""},
    {'c', "model_error", "\"another model\"", "model", CTL_BAD, "another model", "dir/node.json"},
    {'c', "model_error", "null", "model", CTL_OK, "not read", ""},
    {'h', "swapped_bytes", "6e7", "memory", CTL_WARN, "swapped out by 60.0 MB", "--batch"},
    {'h', "memory_free_bytes", "3e8", "memory", CTL_WARN, "300.0 MB of 8.0 GB", "--batch"},
    {'h', "threads", "3", "cores", CTL_WARN, "3 threads on 2 cores", "--threads 2"},
    {'h', "load", "5.5", "cores", CTL_WARN, "load of 5.5", "--threads"},
    {'h', "load", "null", "cores", CTL_OK, "2 threads", ""},
    {'h', "files", "3500", "files", CTL_BAD, "3500 of 4096", "ulimit -n"},
    {'h', "files_max", "128", "files", CTL_WARN, "only 128", "ulimit -n"},
    {'h', "door_open", "false", "files", CTL_BAD, "no peer is accepted", "ulimit -n"},
    {'h', "wall_s", "1000", "clock", CTL_BAD, "1970-01-01", "timedatectl"},
    {'k', "audit", "\"differs\"", "checkpoint", CTL_BAD, "was wrong", "log --control"},
    {'k', "wrong", "2", "checkpoint", CTL_BAD, "2 that members attest are wrong", "log --control"},
    {'k', "waits", "true", "checkpoint", CTL_WARN, "replay waits", "peerctl -d dir members"},
    {'k', "audit", "\"open\"", "checkpoint", CTL_OK, "rests on 3 members", ""},
    {'h', "wall_s", "1779000000", "clock", CTL_BAD, "before the node was made", "timedatectl"},
};

static void judge(const change *x, size_t n, ctl_check out[CTL_CHECKS]) {
    cJSON *s = cJSON_Parse(status_text), *h = cJSON_Parse(health_text),
          *c = cJSON_Parse(check_text);
    ck_assert(s && h && c);
    for (size_t i = 0; i < n; i++) {
        cJSON *peers = cJSON_GetObjectItemCaseSensitive(s, "peers");
        cJSON *o = x[i].where == 's'   ? s
                   : x[i].where == 'h' ? h
                   : x[i].where == 'c' ? c
                   : x[i].where == 'k' ? cJSON_GetObjectItemCaseSensitive(s, "checkpoint")
                                       : cJSON_GetArrayItem(peers, 1);
        ck_assert_msg(cJSON_ReplaceItemInObjectCaseSensitive(o, x[i].name, cJSON_Parse(x[i].value)),
                      "no %s", x[i].name);
    }
    ctl_judge("dir", s, h, c, out);
    cJSON_Delete(s);
    cJSON_Delete(h);
    cJSON_Delete(c);
}

static const ctl_check *find(const ctl_check checks[CTL_CHECKS], const char *name) {
    for (int i = 0; i < CTL_CHECKS; i++)
        if (strcmp(checks[i].name, name) == 0)
            return &checks[i];
    ck_abort_msg("no check %s", name);
}

START_TEST(a_node_that_is_well_has_nothing_to_mend) {
    ctl_check checks[CTL_CHECKS];
    judge(NULL, 0, checks);
    for (int i = 0; i < CTL_CHECKS; i++)
        ck_assert_msg(checks[i].level == CTL_OK && *checks[i].text && !*checks[i].mend,
                      "%s: %s: %s", checks[i].name, checks[i].text, checks[i].mend);
}
END_TEST

START_TEST(each_fact_leads_to_its_finding_and_to_no_other) {
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        const change *x = &changes[i];
        ctl_check checks[CTL_CHECKS];
        judge(x, 1, checks);
        const ctl_check *c = find(checks, x->check);
        ck_assert_msg(c->level == x->level && strstr(c->text, x->text) && strstr(c->mend, x->mend),
                      "%s = %s: %s, %s: %s", x->name, x->value, ctl_level_names[c->level], c->text,
                      c->mend);
        ck_assert_msg((c->level == CTL_OK) == !*c->mend, "%s = %s: %s", x->name, x->value, c->mend);
        for (int k = 0; k < CTL_CHECKS; k++)
            ck_assert_msg(&checks[k] == c || checks[k].level == CTL_OK, "%s = %s also: %s", x->name,
                          x->value, checks[k].text);
    }
}
END_TEST

/* Nobody dials the member with the lowest key where all is well, so that alone is no finding. */
START_TEST(a_node_that_nobody_dialled_is_suspect_only_with_links_missing) {
    static const change both[] = {{'h', "called_ago_ms", "null", 0, 0, 0, 0},
                                  {'p', "link", "\"dialing\"", 0, 0, 0, 0},
                                  {'s', "uptime_s", "60", 0, 0, 0, 0}};
    ctl_check checks[CTL_CHECKS];
    judge(both, 2, checks);
    ck_assert_int_eq(find(checks, "reachable")->level, CTL_WARN);
    ck_assert(strstr(find(checks, "reachable")->mend, "advertise"));
    judge(both, 3, checks); /* too early to say */
    ck_assert_int_eq(find(checks, "reachable")->level, CTL_OK);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, a_node_that_is_well_has_nothing_to_mend);
    tcase_add_test(tc, each_fact_leads_to_its_finding_and_to_no_other);
    tcase_add_test(tc, a_node_that_nobody_dialled_is_suspect_only_with_links_missing);
}

PD_TEST_MAIN("judge", 10)
