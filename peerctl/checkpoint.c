/* checkpoint.c - peerctl checkpoint: make one now. */
#include "ctl.h"

#include <stdio.h>

int ctl_checkpoint(ctl *c, int argc, char **argv) {
    bool json = false;
    const pd_flag flags[] = {
        CTL_DIR_FLAG(c),
        {"json", 0, PD_FLAG_SWITCH, &json, 0, 0, NULL, "as one JSON object"},
        {0},
    };
    const pd_command_help text = {
        "peerctl [-d DIR] checkpoint [--json]",
        "Make a checkpoint of the records held now, attest it, and serve it to newcomers, who "
        "begin\n"
        "with it once enough members have reproduced it. One is made every four hours anyway\n"
        "(\"checkpoint_hours\" in node.json), by one of the members.",
        "peerctl -d site-a checkpoint",
    };
    cJSON *r;
    int status = ctl_simple(c, argc, argv, flags, &text, "checkpoint", CTL_LONG_MS, &r);
    if (!r)
        return status;
    const char *digest = ctl_text(r, "digest");
    if (json)
        ctl_print_json(r);
    else
        printf("%s records, digest %s, %s\n", ctl_count(ctl_number(r, "records")),
               digest ? digest : "-", ctl_bytes(ctl_number(r, "bytes")));
    cJSON_Delete(r);
    return 0;
}
