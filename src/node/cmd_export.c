/* cmd_export.c - peerd export: a stopped node's adapter, or model, for other engines. */
#include "cmd.h"
#include "export_kind.h"
#include "peerd/flags.h"
#include "site.h"

#include <stdio.h>

static const pd_command_help help = {
    .usage = "peerd export DIR OUT",
    .what = "Write what a stopped node has learnt. (A running one: peerctl export.)\n"
            "  peft                OUT/: the adapter as a LoRA, start adapter included, for PEFT\n"
            "                      (not of a full space, which is merged)\n"
            "  gguf                OUT: the same, for llama.cpp (--lora OUT)\n"
            "  merged-gguf         OUT: base, a GGUF file, and adapter as one model\n"
            "  merged-safetensors  OUT/: the same for Hugging Face; of a GGUF file without a "
            "tokenizer,\n"
            "                      which is the base's, to be copied there",
    .example = "peerd export ./site-a ./merged.gguf --format merged-gguf --type bf16"};

static pd_err export_to(const char *dir, const pd_export_kind *kind, const char *out) {
    pd_site s;
    pd_view *v = NULL;
    pd_err e = pd_site_open(dir, PD_SITE_MODEL, &pd_site_as_set, &s);
    if (e)
        return e;
    e = pd_site_view(&s, &v);
    if (!e) {
        pd_merged m = {.base = s.config.model,
                       .info = pd_model_info_of(s.model),
                       .manifest = &s.manifest,
                       .view = v};
        e = pd_export_kind_write(kind, out, &m);
    }
    if (!e)
        printf("%s: %llu records\n", out, (unsigned long long)s.replica.records);
    pd_view_close(v);
    pd_site_close(&s);
    return e;
}

int pd_cmd_export(int argc, char **argv) {
    const char *at[2], *format = "peft", *type = NULL;
    pd_export_kind kind;
    bool asked;
    size_t n;
    const pd_flag flags[] = {
        {"format", 0, PD_FLAG_TEXT, &format, 0, 0, "KIND", "as above; default peft"},
        {"type", 0, PD_FLAG_TEXT, &type, 0, 0, "TYPE",
         "f16, bf16 or f32, of merged matrices (default: f32 and bf16 where the "
         "base's are, else f16)"},
        {.name = NULL}};
    pd_err e = pd_flags_parse(argc, argv, flags, at, 2, 2, &n, &asked);
    if (!e && asked) {
        pd_flags_help(&help, flags);
        return 0;
    }
    if (!e)
        e = pd_export_kind_parse(format, type, &kind);
    if (!e)
        e = export_to(at[0], &kind, at[1]);
    if (e)
        fprintf(stderr, "peerd export: %s\n", pd_fail_text());
    return e ? pd_err_exit(e) : 0;
}
