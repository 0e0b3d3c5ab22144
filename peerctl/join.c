/* join.c - peerctl join: a new node is made by `peerd join`; a running one is told to dial. */
#include "ctl.h"
#include "peerd/identity.h"
#include "peerd/ticket.h"

#include <stdio.h>
#include <string.h>

enum { PASSED = 40 };

static const pd_command_help text = {
    "peerctl -d DIR join TICKET [--model FILE --data FILE ...]",
    "Join a run. Where DIR holds no node yet this is `peerd join DIR TICKET ...` and takes its\n"
    "flags (see: peerd join --help). Where a node of the same run is running it dials the\n"
    "ticket's addresses now.",
    "peerctl -d site-b join peerd1aebagba... --model model.gguf --data b.jsonl",
};

static int dial(ctl *c, const char *ticket) {
    cJSON *r, *q = cJSON_CreateObject();
    cJSON_AddStringToObject(q, "ticket", ticket);
    pd_err e = ctl_ask(c, "join", q, CTL_QUICK_MS, &r);
    if (e)
        return ctl_fail(e);
    const cJSON *a;
    printf("dialing");
    cJSON_ArrayForEach(a, cJSON_GetObjectItemCaseSensitive(r, "addrs"))
        printf(" %s", cJSON_IsString(a) ? cJSON_GetStringValue(a) : "?");
    printf(" (see: peerctl status)\n");
    cJSON_Delete(r);
    return 0;
}

int ctl_join(ctl *c, int argc, char **argv) {
    const char *ticket = NULL, *args[PASSED + 4];
    size_t n = 3;
    const pd_flag flags[] = {CTL_DIR_FLAG(c), {0}};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            pd_flags_help(&text, flags);
            return 0;
        }
        if ((strcmp(argv[i], "-d") == 0 || strcmp(argv[i], "--dir") == 0) && i + 1 < argc)
            c->dir = argv[++i];
        else if (!ticket && strncmp(argv[i], "peerd", 5) == 0)
            ticket = argv[i];
        else if (n < PASSED)
            args[n++] = argv[i];
    }
    pd_ticket t;
    pd_err e = ticket
                   ? pd_ticket_read(ticket, &t)
                   : pd_fail(PD_EUSAGE, "no ticket is given (it begins with peerd1; ask a member "
                                        "for: peerctl invite)");
    if (!e && !c->dir)
        e = ctl_dir(c);
    if (e)
        return ctl_fail(e);
    pd_wipe(&t, sizeof t);
    if (!ctl_is_node(c->dir)) {
        args[0] = "join";
        args[1] = c->dir;
        args[2] = ticket;
        args[n] = NULL;
        return ctl_exec_peerd(args);
    }
    if (n > 3)
        return ctl_fail(pd_fail(PD_EUSAGE,
                                "%s holds a node already, which takes no '%s' (only a "
                                "ticket, to dial)",
                                c->dir, args[3]));
    return dial(c, ticket);
}
