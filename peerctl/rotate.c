/* rotate.c - peerctl rotate: the node's next key. */
#include "ctl.h"

#include <stdio.h>

int ctl_rotate(ctl *c, int argc, char **argv) {
    bool json = false;
    const pd_flag flags[] = {
        CTL_DIR_FLAG(c),
        {"json", 0, PD_FLAG_SWITCH, &json, 0, 0, NULL, "as one JSON object"},
        {0},
    };
    const pd_command_help text = {
        "peerctl [-d DIR] rotate [--json]",
        "Give the node a new key: the old one signs its place over to it, and the node ends. "
        "Start\n"
        "it again to go on; what it made stays in the run. If no other member could be told, it\n"
        "first tells them under the old key. Before a key might be known to others;\n"
        "for a key that is, let another member ban it.",
        "peerctl -d site-a rotate && peerd run site-a",
    };
    cJSON *r;
    int status = ctl_simple(c, argc, argv, flags, &text, "rotate", CTL_QUICK_MS, &r);
    if (!r)
        return status;
    const char *key = ctl_text(r, "key");
    if (json)
        ctl_print_json(r);
    else
        printf("the next key is %.16s; the node ends, start it again: peerd run %s\n",
               key ? key : "?", c->dir);
    cJSON_Delete(r);
    return 0;
}
