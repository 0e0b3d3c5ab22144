/* doctor.c - peerctl doctor: what is wrong, and the line that mends it. */
#include "judge.h"

#include <stdio.h>

static ctl_level worst(const ctl_check *c, int n) {
    ctl_level most = CTL_OK;
    for (int i = 0; i < n; i++)
        most = c[i].level > most ? c[i].level : most;
    return most;
}

static void print_json(const ctl_check *c, int n) {
    cJSON *out = cJSON_CreateObject();
    cJSON_AddStringToObject(out, "level", ctl_level_names[worst(c, n)]);
    cJSON *list = cJSON_AddArrayToObject(out, "checks");
    for (int i = 0; i < n; i++) {
        cJSON *j = cJSON_CreateObject();
        cJSON_AddStringToObject(j, "name", c[i].name);
        cJSON_AddStringToObject(j, "level", ctl_level_names[c[i].level]);
        cJSON_AddStringToObject(j, "text", c[i].text);
        if (*c[i].mend)
            cJSON_AddStringToObject(j, "mend", c[i].mend);
        else
            cJSON_AddNullToObject(j, "mend");
        cJSON_AddItemToArray(list, j);
    }
    ctl_print_json(out);
    cJSON_Delete(out);
}

static int say(const ctl_check *c, int n, bool json) {
    int wrong = 0;
    for (int i = 0; i < n; i++)
        wrong += c[i].level == CTL_BAD;
    if (json) {
        print_json(c, n);
        return wrong > 0;
    }
    for (int i = 0; i < n; i++) {
        char label[32];
        snprintf(label, sizeof label, "%-5s%s", ctl_level_names[c[i].level], c[i].name);
        ctl_wrap(16, label, c[i].text);
        if (*c[i].mend)
            ctl_wrap(18, "                >", c[i].mend);
    }
    if (wrong)
        printf("\n%d of %d checks found something wrong\n", wrong, n);
    return wrong > 0;
}

/* Ask for the facts. */
static pd_err ask(ctl *c, bool quick, cJSON *facts[3]) {
    cJSON *q = cJSON_CreateObject();
    cJSON_AddBoolToObject(q, "quick", quick);
    pd_err e = ctl_ask(c, "status", NULL, CTL_QUICK_MS, &facts[0]);
    if (!e)
        e = ctl_ask(c, "health", NULL, CTL_QUICK_MS, &facts[1]);
    if (e) {
        cJSON_Delete(q);
        return e;
    }
    return ctl_ask(c, "check", q, CTL_LONG_MS, &facts[2]);
}

/* No facts: the one finding is that the node does not answer. */
static int say_silent(const ctl *c, pd_err e, bool json) {
    ctl_check check = {.name = "node"};
    ctl_say(&check, CTL_BAD, "%s", pd_fail_text());
    ctl_mend(&check, e == PD_ENOENT ? "peerd run %s" : "end its process, then: peerd run %s",
             c->dir);
    return say(&check, 1, json);
}

int ctl_doctor(ctl *c, int argc, char **argv) {
    bool json = false, quick = false;
    const pd_flag flags[] = {
        CTL_DIR_FLAG(c),
        {"quick", 0, PD_FLAG_SWITCH, &quick, 0, 0, NULL, "do not read the whole model file"},
        {"json", 0, PD_FLAG_SWITCH, &json, 0, 0, NULL, "as one JSON object"},
        {0},
    };
    const pd_command_help text = {
        "peerctl [-d DIR] doctor [--quick] [--json]",
        "Check the node and its machine: a line a check, ok, warn or bad, and under what is not "
        "ok\n"
        "the line that mends it. Exit status 1 if something is bad; a warning leaves it 0.\n\n"
        "  node       does it answer, and speak          ledger  is the database whole\n"
        "  version    peerd's and peerctl's              disk    room, and does it flush\n"
        "  links      members without a link, and why    model   is the file the run's\n"
        "  reachable  has a member ever dialled it        memory  free, swapped\n"
        "  peers      refused frames and seals           cores   threads, load\n"
        "  sealing    own records that wait too long     files   descriptors\n"
        "  loss       the held-out trend                 clock   for the expiry of invites\n"
        "  checkpoint what its state rests on, and what others attest wrongly",
        "peerctl -d site-a doctor",
    };
    cJSON *facts[3] = {NULL};
    ctl_check checks[CTL_CHECKS];
    int status;
    pd_err e;
    if (ctl_help(argc, argv, flags, &text, NULL, 0, &e))
        return 0;
    if (!e)
        e = ctl_dir(c);
    if (e)
        return ctl_fail(e);
    e = ask(c, quick, facts);
    if (!e) {
        ctl_judge(c->dir, facts[0], facts[1], facts[2], checks);
        status = say(checks, CTL_CHECKS, json);
    } else {
        status = ctl_is_node(c->dir) && !facts[0] ? say_silent(c, e, json) : ctl_fail(e);
    }
    for (int i = 0; i < 3; i++)
        cJSON_Delete(facts[i]);
    return status;
}
