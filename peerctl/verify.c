/* verify.c - peerctl verify: do the weights follow from the records? */
#include "ctl.h"

#include <stdio.h>

static int say(cJSON *r, bool json) {
    bool equal = ctl_true(r, "equal");
    const char *digest = ctl_text(r, "digest"), *replayed = ctl_text(r, "digest_replayed");
    if (json)
        ctl_print_json(r);
    else if (cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(r, "equal")))
        fprintf(
            stderr,
            "peerctl: not verified yet: %.0f records, digest %s, on the word of %.0f members who "
            "attest the checkpoint that this node began with; %s from before it are still to "
            "come\n",
            ctl_number(r, "records"), digest ? digest : "-", ctl_number(r, "voices"),
            ctl_bytes(ctl_number(r, "lacking_bytes")));
    else if (equal)
        printf("equal: %.0f records replayed from the base give %s (%s)\n",
               ctl_number(r, "records"), digest ? digest : "-", ctl_age(ctl_number(r, "took_ms")));
    else
        fprintf(stderr,
                "peerctl: the coordinates differ from the records: %s, replayed %s (stop the node "
                "and mend it with: peerd verify DIR)\n",
                digest ? digest : "-", replayed ? replayed : "-");
    return equal ? 0 : 1;
}

int ctl_verify(ctl *c, int argc, char **argv) {
    bool json = false;
    const pd_flag flags[] = {
        CTL_DIR_FLAG(c),
        {"json", 0, PD_FLAG_SWITCH, &json, 0, 0, NULL, "as one JSON object"},
        {0},
    };
    const pd_command_help text = {
        "peerctl [-d DIR] verify [--json]",
        "Replay every record held from the base and compare the digest with that of the node's\n"
        "coordinates. Nodes that hold the same records have the same digest. Works on a stopped\n"
        "node too (peerd verify). Exit status 1 where they differ, and while a node that began "
        "with a\n"
        "checkpoint still lacks records from before it: then it says on whose word its state "
        "rests.",
        "peerctl -d site-a verify",
    };
    cJSON *r;
    pd_err e;
    if (ctl_help(argc, argv, flags, &text, NULL, 0, &e))
        return 0;
    if (!e)
        e = ctl_dir(c);
    if (e)
        return ctl_fail(e);
    if (ctl_is_node(c->dir) && !pd_control_runs(c->dir)) {
        const char *args[] = {"verify", c->dir, json ? "--json" : NULL, NULL};
        return ctl_exec_peerd(args);
    }
    e = ctl_ask(c, "verify", NULL, CTL_LONG_MS, &r);
    if (e)
        return ctl_fail(e);
    int status = say(r, json);
    cJSON_Delete(r);
    return status;
}
