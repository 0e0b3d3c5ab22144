/* ban.c - peerctl ban: put a member out of the run. */
#include "ctl.h"

#include <stdio.h>

static int say(cJSON *r, bool json) {
    if (json) {
        ctl_print_json(r);
        return 0;
    }
    const char *key = ctl_text(r, "key"), *name = ctl_text(r, "name");
    printf("%s%s%.16s: its records from %s on do not count\n", name ? name : "",
           name && *name ? " " : "", key ? key : "?", ctl_count(ctl_number(r, "from")));
    if (!ctl_true(r, "decides"))
        printf("this takes effect when two more members ban it: neither the founder nor its "
               "inviter is here\n");
    return 0;
}

int ctl_ban(ctl *c, int argc, char **argv) {
    const char *who = NULL;
    uint64_t from = UINT64_MAX;
    bool json = false;
    const pd_flag flags[] = {
        CTL_DIR_FLAG(c),
        {"from", 0, PD_FLAG_U64, &from, 0, 9007199254740992.0, "STEP",
         "its records from this one on do not count (default: all that are held do)"},
        {"json", 0, PD_FLAG_SWITCH, &json, 0, 0, NULL, "as one JSON object"},
        {0},
    };
    const pd_command_help text = {
        "peerctl [-d DIR] ban [--from STEP] [--json] MEMBER",
        "Put a member, by its name or the first digits of its key, out of the run for good: every\n"
        "node closes its links to it, refuses its key, and takes back its records from STEP on.\n"
        "The founder and who invited the member decide alone; of the others it takes three.",
        "peerctl -d site-a ban site-c",
    };
    cJSON *r;
    pd_err e;
    if (ctl_help(argc, argv, flags, &text, &who, 1, &e))
        return 0;
    if (e)
        return ctl_fail(e);
    cJSON *q = cJSON_CreateObject();
    cJSON_AddStringToObject(q, "member", who);
    if (from != UINT64_MAX)
        cJSON_AddNumberToObject(q, "from", (double)from);
    e = ctl_ask(c, "ban", q, CTL_QUICK_MS, &r);
    if (e)
        return ctl_fail(e);
    int status = say(r, json);
    cJSON_Delete(r);
    return status;
}
