/* export.c - peerctl export: the adapter as files that other programs read. */
#include "ctl.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

static void say(cJSON *r, const char *out) {
    const cJSON *f;
    printf("%s: the adapter of %.0f records, %s\n", out, ctl_number(r, "records"),
           ctl_bytes(ctl_number(r, "bytes")));
    cJSON_ArrayForEach(f, cJSON_GetObjectItemCaseSensitive(r, "files"))
        printf("  %s\n", cJSON_IsString(f) ? cJSON_GetStringValue(f) : "?");
}

int ctl_export(ctl *c, int argc, char **argv) {
    const char *format = "peft", *out = NULL;
    char path[PATH_MAX];
    const pd_flag flags[] = {
        CTL_DIR_FLAG(c),
        {"format", 0, PD_FLAG_TEXT, &format, 0, 0, "FORMAT",
         "peft: a folder for PEFT; gguf: a file for llama.cpp (peft)"},
        {0},
    };
    const pd_command_help text = {
        "peerctl [-d DIR] export [--format peft|gguf] OUT",
        "Write the adapter as it stands, as rank-r LoRA. Works on a stopped node too (peerd "
        "export).",
        "peerctl -d site-a export --format peft adapter",
    };
    cJSON *r;
    pd_err e;
    if (ctl_help(argc, argv, flags, &text, &out, 1, &e))
        return 0;
    if (!e && strcmp(format, "peft") != 0 && strcmp(format, "gguf") != 0)
        e = pd_fail(PD_EUSAGE, "--format takes peft or gguf, not '%s'", format);
    if (!e)
        e = ctl_dir(c);
    if (!e)
        e = ctl_absolute(out, path);
    if (e)
        return ctl_fail(e);
    if (ctl_is_node(c->dir) && !pd_control_runs(c->dir)) {
        const char *args[] = {"export", c->dir, "--format", format, path, NULL};
        return ctl_exec_peerd(args);
    }
    cJSON *q = cJSON_CreateObject();
    cJSON_AddStringToObject(q, "format", format);
    cJSON_AddStringToObject(q, "out", path);
    e = ctl_ask(c, "export", q, CTL_LONG_MS, &r);
    if (e)
        return ctl_fail(e);
    say(r, out);
    cJSON_Delete(r);
    return 0;
}
