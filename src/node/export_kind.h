/* export_kind.h - what `export` was asked for: a format by its name, and its writer. */
#ifndef PD_EXPORT_KIND_H
#define PD_EXPORT_KIND_H

#include "export_merged.h"

typedef enum pd_export_format {
    PD_EXPORT_PEFT,
    PD_EXPORT_GGUF,
    PD_EXPORT_MERGED_GGUF,
    PD_EXPORT_MERGED_HF,
} pd_export_format;

typedef struct pd_export_kind {
    pd_export_format format;
    uint32_t type; /* of merged matrices: pd_merged's */
} pd_export_kind;

/* Names as they are given: "peft", "gguf", "merged-gguf" or "merged-safetensors"; "f16", "bf16",
 * "f32" or NULL.  Errors: PD_EUSAGE (which names there are; a type where nothing is merged).
 */
PD_CHECKED pd_err pd_export_kind_parse(const char *format, const char *type, pd_export_kind *out);

/* Is OUT a folder, not a file? */
bool pd_export_kind_is_folder(const pd_export_kind *k);

/* Write it.  m->type is taken from k.  Errors: as the format's writer (export.h, export_merged.h).
 */
PD_CHECKED pd_err pd_export_kind_write(const pd_export_kind *k, const char *out,
                                       const pd_merged *m);

#endif
