/* leave.c - peerctl leave: goodbye for good. */
#include "ctl.h"

#include <stdio.h>

int ctl_leave(ctl *c, int argc, char **argv) {
    const pd_flag flags[] = {CTL_DIR_FLAG(c), {0}};
    const pd_command_help text = {
        "peerctl [-d DIR] leave",
        "Leave the run: the node seals what is pending, tells its peers that it will not come "
        "back,\n"
        "and ends. Its records stay in the run and its folder stays on disk. To stop for a while\n"
        "end peerd instead (Ctrl-C or SIGTERM).",
        "peerctl -d site-b leave",
    };
    cJSON *r;
    int status = ctl_simple(c, argc, argv, flags, &text, "leave", CTL_QUICK_MS, &r);
    if (!r)
        return status;
    cJSON_Delete(r);
    printf("leaving the run; the node ends\n");
    return 0;
}
