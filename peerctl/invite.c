/* invite.c - peerctl invite: a ticket on standard output and nothing else there. */
#include "ctl.h"

#include <math.h>
#include <stdio.h>

int ctl_invite(ctl *c, int argc, char **argv) {
    const char *expires = "24h", *address = NULL;
    uint32_t uses = 1;
    const pd_flag flags[] = {
        CTL_DIR_FLAG(c),
        {"expires", 0, PD_FLAG_TEXT, &expires, 0, 0, "TIME", "90s, 15m, 24h, 7d; 0: never (24h)"},
        {"reusable", 0, PD_FLAG_U32, &uses, 1, 1000, "N", "good for N nodes (1)"},
        {"address", 0, PD_FLAG_TEXT, &address, 0, 0, "HOST:PORT",
         "where the guest can reach this node, if not where it listens"},
        {0},
    };
    const pd_command_help text = {
        "peerctl [-d DIR] invite [--expires TIME] [--reusable N] [--address HOST:PORT]",
        "Print a ticket. Whoever holds it can join until it is used or expires, so hand it over\n"
        "as you would a password. This node must be running when the guest joins.",
        "peerctl -d site-a invite --expires 1h",
    };
    uint64_t seconds;
    cJSON *r = NULL;
    pd_err e;
    if (ctl_help(argc, argv, flags, &text, NULL, 0, &e))
        return 0;
    if (!e)
        e = pd_duration_parse(expires, &seconds);
    if (e)
        return ctl_fail(e);
    cJSON *q = cJSON_CreateObject();
    cJSON_AddNumberToObject(q, "uses", uses);
    cJSON_AddNumberToObject(q, "expires_s", (double)seconds);
    if (address)
        cJSON_AddStringToObject(q, "addr", address);
    e = ctl_ask(c, "invite", q, CTL_QUICK_MS, &r);
    if (e)
        return ctl_fail(e);
    const char *ticket = ctl_text(r, "ticket");
    if (!ticket)
        e = pd_fail(PD_EFORMAT, "the node answered without a ticket");
    else
        puts(ticket);
    cJSON_Delete(r);
    if (e)
        return ctl_fail(e);
    fprintf(stderr,
            "good for %u node%s%s%s; join with: peerd join DIR TICKET --model FILE --data FILE\n",
            uses, uses == 1 ? "" : "s", seconds ? " within " : "", seconds ? expires : "");
    return 0;
}
