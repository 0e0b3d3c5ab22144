/* journal.c - peerctl journal: the node's last lines, and the next ones as they come. */
#include "ctl.h"
#include "peerd/file.h"

#include <math.h>
#include <stdio.h>

enum { FOLLOW_MS = 500 };

/* Print what came after *after and move it on. */
static pd_err page(ctl *c, double *after) {
    cJSON *r, *q = cJSON_CreateObject();
    cJSON_AddNumberToObject(q, "after", *after);
    pd_err e = ctl_ask(c, "journal", q, CTL_QUICK_MS, &r);
    if (e)
        return e;
    const cJSON *line;
    cJSON_ArrayForEach(line, cJSON_GetObjectItemCaseSensitive(r, "lines")) if (cJSON_IsString(line))
        puts(cJSON_GetStringValue(line));
    double next = ctl_number(r, "next");
    if (!isnan(next))
        *after = next;
    cJSON_Delete(r);
    return PD_OK;
}

int ctl_journal(ctl *c, int argc, char **argv) {
    bool follow = false;
    double after = 0;
    const pd_flag flags[] = {
        CTL_DIR_FLAG(c),
        {"follow", 'f', PD_FLAG_SWITCH, &follow, 0, 0, NULL, "go on until the node ends"},
        {0},
    };
    const pd_command_help text = {
        "peerctl [-d DIR] journal [--follow]",
        "Print the last lines (a thousand at most) that the node wrote about itself: a line for "
        "each\n"
        "change of state, with its reason. The records themselves are in: peerctl log.",
        "peerctl -d site-a journal --follow",
    };
    pd_err e;
    if (ctl_help(argc, argv, flags, &text, NULL, 0, &e))
        return 0;
    if (!e)
        e = page(c, &after);
    while (!e && follow && fflush(stdout) == 0) {
        pd_sleep_ms(FOLLOW_MS);
        e = page(c, &after);
    }
    return e ? ctl_fail(e) : 0;
}
