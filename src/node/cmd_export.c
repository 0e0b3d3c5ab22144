/* cmd_export.c - peerd export: a stopped node's adapter for other engines. */
#include "cmd.h"
#include "export.h"
#include "peerd/flags.h"
#include "site.h"

#include <stdio.h>

static const pd_command_help help = {
    .usage = "peerd export DIR OUT",
    .what = "Write a stopped node's adapter, start adapter included, as a LoRA. (A running one: peerctl export.)",
    .example = "peerd export ./site-a ./adapter --format peft"};

static pd_err export_to(const char *dir, const char *format, const char *out) {
    pd_site s;
    pd_view *v = NULL;
    bool peft = strcmp(format, "peft") == 0;
    if (!peft && strcmp(format, "gguf") != 0)
        return pd_fail(PD_EUSAGE, "unknown format '%s' (peft or gguf)", format);
    pd_err e = pd_site_open(dir, PD_SITE_MODEL, &pd_site_as_set, &s);
    if (e)
        return e;
    const pd_model_info *info = pd_model_info_of(s.model);
    e = pd_site_view(&s, &v);
    if (!e && peft)
        e = pd_export_peft(out, info->name, info, &s.manifest, v);
    else if (!e)
        e = pd_export_gguf(out, info->name, info, &s.manifest, v);
    if (!e)
        printf("%s: %llu records\n", out, (unsigned long long)s.replica.records);
    pd_view_close(v);
    pd_site_close(&s);
    return e;
}

int pd_cmd_export(int argc, char **argv) {
    const char *at[2], *format = "peft";
    bool asked;
    size_t n;
    const pd_flag flags[] = {
        {"format", 0, PD_FLAG_TEXT, &format, 0, 0, "KIND", "peft (a folder) or gguf (a file); default peft"},
        {.name = NULL}};
    pd_err e = pd_flags_parse(argc, argv, flags, at, 2, 2, &n, &asked);
    if (!e && asked) {
        pd_flags_help(&help, flags);
        return 0;
    }
    if (!e)
        e = export_to(at[0], format, at[1]);
    if (e)
        fprintf(stderr, "peerd export: %s\n", pd_fail_text());
    return e ? pd_err_exit(e) : 0;
}
