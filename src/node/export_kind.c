/* export_kind.c - names of formats to their writers; see export_kind.h. */
#include "export_kind.h"
#include "export.h"

#include <string.h>

static const struct {
    const char *name;
    bool folder, merged;
} formats[] = {
    [PD_EXPORT_PEFT] = {"peft", true, false},
    [PD_EXPORT_GGUF] = {"gguf", false, false},
    [PD_EXPORT_MERGED_GGUF] = {"merged-gguf", false, true},
    [PD_EXPORT_MERGED_HF] = {"merged-safetensors", true, true},
};

static const struct {
    const char *name;
    uint32_t type;
} types[] = {{"f16", PD_GGML_F16}, {"bf16", PD_GGML_BF16}, {"f32", PD_GGML_F32}};

pd_err pd_export_kind_parse(const char *format, const char *type, pd_export_kind *out) {
    pd_export_kind k = {.type = PD_MERGED_AUTO};
    size_t f = 0, t = 0, n_formats = sizeof formats / sizeof *formats,
           n_types = sizeof types / sizeof *types;
    while (f < n_formats && strcmp(format, formats[f].name) != 0)
        f++;
    if (f == n_formats)
        return pd_fail(PD_EUSAGE,
                       "unknown format '%s' (peft, gguf, merged-gguf or merged-safetensors)",
                       format);
    k.format = (pd_export_format)f;
    if (type && !formats[f].merged)
        return pd_fail(PD_EUSAGE, "--type is of merged models; the format %s is float32", format);
    while (type && t < n_types && strcmp(type, types[t].name) != 0)
        t++;
    if (t == n_types)
        return pd_fail(PD_EUSAGE, "unknown type '%s' (f16, bf16 or f32)", type);
    if (type)
        k.type = types[t].type;
    *out = k;
    return PD_OK;
}

bool pd_export_kind_is_folder(const pd_export_kind *k) {
    return formats[k->format].folder;
}

pd_err pd_export_kind_write(const pd_export_kind *k, const char *out, const pd_merged *m) {
    pd_merged merged = *m;
    merged.type = k->type;
    if (m->manifest->space == PD_SPACE_FULL && !formats[k->format].merged)
        return pd_fail(PD_EUNSUPPORTED,
                       "a full space changes whole matrices and is no adapter: export it with "
                       "--format merged-gguf or merged-safetensors");
    switch (k->format) {
    case PD_EXPORT_PEFT:
        return pd_export_peft(out, m->manifest->model_name, m->info, m->manifest, m->view);
    case PD_EXPORT_GGUF:
        return pd_export_gguf(out, m->manifest->model_name, m->info, m->manifest, m->view);
    case PD_EXPORT_MERGED_GGUF:
        return pd_export_merged_gguf(out, &merged);
    case PD_EXPORT_MERGED_HF:
        break;
    }
    return pd_export_merged_hf(out, &merged);
}
