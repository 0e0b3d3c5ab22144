/* pause.c - peerctl pause and resume: whether the node trains; it relays either way. */
#include "ctl.h"

#include <stdio.h>

static int turn(ctl *c, int argc, char **argv, const char *cmd, const pd_command_help *text,
                const char *done) {
    const pd_flag flags[] = {CTL_DIR_FLAG(c), {0}};
    cJSON *r;
    int status = ctl_simple(c, argc, argv, flags, text, cmd, CTL_QUICK_MS, &r);
    if (!r)
        return status;
    cJSON_Delete(r);
    puts(done);
    return 0;
}

int ctl_pause(ctl *c, int argc, char **argv) {
    const pd_command_help text = {
        "peerctl [-d DIR] pause",
        "Stop making records and free the processor; go on holding and relaying those of others.\n"
        "The node stays paused over a restart.",
        "peerctl -d site-a pause",
    };
    return turn(c, argc, argv, "pause", &text, "paused (peerctl resume ends it)");
}

int ctl_resume(ctl *c, int argc, char **argv) {
    const pd_command_help text = {"peerctl [-d DIR] resume", "Train again after a pause.",
                                  "peerctl -d site-a resume"};
    return turn(c, argc, argv, "resume", &text, "training again");
}
