/* export.c - peerctl export: the adapter, or base and adapter, as files that other programs read.
 */
#include "ctl.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

static void say(cJSON *r, const char *format, const char *out) {
    const cJSON *f;
    printf("%s: the %s of %.0f records, %s\n", out,
           strncmp(format, "merged", 6) == 0 ? "base with the adapter" : "adapter",
           ctl_number(r, "records"), ctl_bytes(ctl_number(r, "bytes")));
    cJSON_ArrayForEach(f, cJSON_GetObjectItemCaseSensitive(r, "files"))
        printf("  %s\n", cJSON_IsString(f) ? cJSON_GetStringValue(f) : "?");
}

static pd_err check_format(const char *format) {
    static const char *const known[] = {"peft", "gguf", "merged-gguf", "merged-safetensors"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(format, known[i]) == 0)
            return PD_OK;
    return pd_fail(PD_EUSAGE,
                   "--format takes peft, gguf, merged-gguf or merged-safetensors, not '%s'",
                   format);
}

/* On a stopped node: `peerd export` takes this process's place. */
static int become_peerd(const ctl *c, const char *format, const char *type, const char *path) {
    const char *args[8] = {"export", c->dir, "--format", format};
    size_t n = 4;
    if (type) {
        args[n++] = "--type";
        args[n++] = type;
    }
    args[n] = path;
    return ctl_exec_peerd(args);
}

int ctl_export(ctl *c, int argc, char **argv) {
    const char *format = "peft", *type = NULL, *out = NULL;
    char path[PATH_MAX];
    const pd_flag flags[] = {
        CTL_DIR_FLAG(c),
        {"format", 0, PD_FLAG_TEXT, &format, 0, 0, "FORMAT", "as above (peft)"},
        {"type", 0, PD_FLAG_TEXT, &type, 0, 0, "TYPE",
         "f16, bf16 or f32, of merged matrices (f32 and bf16 where the base's are, else f16)"},
        {0},
    };
    const pd_command_help text = {
        "peerctl [-d DIR] export [--format FORMAT] [--type TYPE] OUT",
        "Write what the node has learnt. Works on a stopped node too (peerd export).\n"
        "  peft                OUT/: the adapter as a rank-r LoRA for PEFT (not of a full space)\n"
        "  gguf                OUT: the same for llama.cpp (--lora OUT)\n"
        "  merged-gguf         OUT: base, a GGUF file, and adapter as one model\n"
        "  merged-safetensors  OUT/: the same for Hugging Face; of a GGUF file without a "
        "tokenizer,\n"
        "                      which is the base's, to be copied there",
        "peerctl -d site-a export --format merged-gguf merged.gguf",
    };
    cJSON *r;
    pd_err e;
    if (ctl_help(argc, argv, flags, &text, &out, 1, &e))
        return 0;
    if (!e)
        e = check_format(format);
    if (!e)
        e = ctl_dir(c);
    if (!e)
        e = ctl_absolute(out, path);
    if (e)
        return ctl_fail(e);
    if (ctl_is_node(c->dir) && !pd_control_runs(c->dir))
        return become_peerd(c, format, type, path);
    cJSON *q = cJSON_CreateObject();
    cJSON_AddStringToObject(q, "format", format);
    if (type)
        cJSON_AddStringToObject(q, "type", type);
    cJSON_AddStringToObject(q, "out", path);
    e = ctl_ask(c, "export", q, CTL_LONG_MS, &r);
    if (e)
        return ctl_fail(e);
    say(r, format, out);
    cJSON_Delete(r);
    return 0;
}
