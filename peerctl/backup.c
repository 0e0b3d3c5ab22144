/* backup.c - peerctl backup: a copy of the ledger while the node runs. */
#include "ctl.h"

#include <stdio.h>

static void say(cJSON *r, bool json) {
    if (json)
        ctl_print_json(r);
    else
        printf("%s: %s, copied in %s; the node's key is not in it\n",
               ctl_or_dash(ctl_text(r, "out")), ctl_bytes(ctl_number(r, "bytes")),
               ctl_age(ctl_number(r, "took_ms")));
}

int ctl_backup(ctl *c, int argc, char **argv) {
    const char *out = NULL;
    char path[PATH_MAX];
    bool json = false;
    const pd_flag flags[] = {
        CTL_DIR_FLAG(c),
        {"json", 0, PD_FLAG_SWITCH, &json, 0, 0, NULL, "as one JSON object"},
        {0},
    };
    const pd_command_help text = {
        "peerctl [-d DIR] backup [--json] OUT",
        "Write a consistent copy of the node's ledger (every record, checkpoints, the basis) to "
        "the\n"
        "file OUT, which must not exist, while the node trains on. Keep node.json, manifest and "
        "key\n"
        "of the folder beside it: they do not change.\n\n"
        "To restore: stop the node, delete ledger.db-wal in its folder, put the copy in the place "
        "of\n"
        "ledger.db, start it. It then listens to every member before it speaks, and takes back "
        "from\n"
        "them what it had said since. Never run two nodes from one key.",
        "peerctl -d site-a backup site-a.backup",
    };
    cJSON *r;
    pd_err e;
    if (ctl_help(argc, argv, flags, &text, &out, 1, &e))
        return 0;
    if (!e)
        e = ctl_absolute(out, path);
    if (e)
        return ctl_fail(e);
    cJSON *q = cJSON_CreateObject();
    cJSON_AddStringToObject(q, "out", path);
    e = ctl_ask(c, "backup", q, CTL_LONG_MS, &r);
    if (e)
        return ctl_fail(e);
    say(r, json);
    cJSON_Delete(r);
    return 0;
}
