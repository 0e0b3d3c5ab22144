/* members.c - peerctl members: everyone in the run, a line each; 80 columns, but for addresses of
 * IPv6. */
#include "ctl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* One page of members appended to `all`; *after moves on, NAN: that was the last. */
static pd_err page(ctl *c, double *after, cJSON *all) {
    cJSON *r, *q = cJSON_CreateObject();
    cJSON_AddNumberToObject(q, "after", *after);
    pd_err e = ctl_ask(c, "members", q, CTL_QUICK_MS, &r);
    if (e)
        return e;
    cJSON *list = cJSON_GetObjectItemCaseSensitive(r, "members");
    while (cJSON_GetArraySize(list) > 0)
        cJSON_AddItemToArray(all, cJSON_DetachItemFromArray(list, 0));
    *after = ctl_number(r, "next");
    cJSON_Delete(r);
    return PD_OK;
}

static const char *name_of(const cJSON *all, const char *key) {
    const cJSON *m;
    cJSON_ArrayForEach(m, all) {
        const char *is = ctl_text(m, "key");
        if (key && is && strcmp(is, key) == 0 && *ctl_or_dash(ctl_text(m, "name")) != '-')
            return ctl_text(m, "name");
    }
    return key ? ctl_key(key) : "founder";
}

static const char *heard(const cJSON *m) {
    double ms = ctl_number(m, "quiet_ms");
    return ctl_true(m, "self") ? "this node" : isnan(ms) ? "not yet" : ctl_age(ms);
}

static void print(const cJSON *all) {
    const cJSON *m;
    printf("%-8s %-10s %-5s %7s %3s %-11s %-8s %s\n", "member", "name", "state", "records", "inc",
           "last heard", "inviter", "address");
    cJSON_ArrayForEach(m, all)
        printf("%-8s %-10.10s %-5s %7s %3s %-11s %-8.8s %s\n", ctl_key(ctl_text(m, "key")),
               ctl_or_dash(ctl_text(m, "name")), ctl_or_dash(ctl_text(m, "member")),
               ctl_short(ctl_number(m, "records")), ctl_count(ctl_number(m, "incarnation")),
               heard(m), name_of(all, ctl_text(m, "inviter")), ctl_or_dash(ctl_text(m, "addr")));
}

int ctl_members(ctl *c, int argc, char **argv) {
    bool json = false;
    double after = 0;
    const pd_flag flags[] = {
        CTL_DIR_FLAG(c),
        {"json", 0, PD_FLAG_SWITCH, &json, 0, 0, NULL, "as one JSON object, with whole keys"},
        {0},
    };
    const pd_command_help text = {
        "peerctl [-d DIR] members [--json]",
        "List who is in the run, this node first, the others in the order they were admitted "
        "in.\n\n"
        "  state       here, away (silent for 15 min), gone (24 h; not counted in N), left, "
        "banned\n"
        "  records     own records of the member that this node holds\n"
        "  inc         incarnation: how often its log had to begin anew\n"
        "  last heard  ago; `not yet` since this node's start\n"
        "  inviter     who admitted it",
        "peerctl -d site-a members",
    };
    cJSON *all = cJSON_CreateArray();
    pd_err e;
    if (ctl_help(argc, argv, flags, &text, NULL, 0, &e)) {
        cJSON_Delete(all);
        return 0;
    }
    while (!e && !isnan(after))
        e = page(c, &after, all);
    if (!e && json) {
        cJSON *out = cJSON_CreateObject();
        cJSON_AddItemReferenceToObject(out, "members", all);
        ctl_print_json(out);
        cJSON_Delete(out);
    } else if (!e) {
        print(all);
    }
    cJSON_Delete(all);
    return e ? ctl_fail(e) : 0;
}
