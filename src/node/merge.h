/* merge.h - the base's tensors with the adapter added, one after the other into a file; private to
 * the writers of merged models (export_merged.h).
 */
#ifndef PD_MERGE_H
#define PD_MERGE_H

#include "export_merged.h"
#include "peerd/base.h"
#include "peerd/file.h"

typedef struct pd_merge_tensor {
    const pd_tensor *t;
    const pd_lowrank *add; /* NULL: no target of the run, or: */
    const pd_dense *dense; /* a whole addition, from coordinate `first` on */
    uint64_t first;
    uint32_t type;                   /* as it is written */
    char name[PD_GGUF_NAME_MAX + 1]; /* and how it is called there */
    uint32_t halves; /* width of a head whose rows are written in halves, where the adapter has
                        them in pairs; 0: as they are */
} pd_merge_tensor;

typedef struct pd_merge {
    const pd_merged *of;
    pd_gguf *base;       /* a file, whose rows stand as the adapter's do */
    pd_base *folder;     /* or a folder, whose rows stand as they are written */
    pd_merge_tensor *at; /* in the base's order; a folder's by shard */
    size_t n;
    uint64_t written; /* bytes of tensors, for the progress line */
    float *rows;      /* some rows of a tensor */
    uint8_t *bytes;
} pd_merge;

/* Open the base and look up the targets; other tensors keep their type.  Names are the base's, and
 * halves are set where it is a folder.  pd_merge_close also after an error.
 * Errors: as pd_export_merged_gguf.
 */
PD_CHECKED pd_err pd_merge_open(const pd_merged *of, pd_merge *out);
PD_CHECKED pd_err pd_merge_open_folder(const pd_merged *of, pd_merge *out);
void pd_merge_close(pd_merge *x);

uint64_t pd_merge_rows(const pd_merge_tensor *t); /* of shape[0] elements */
size_t pd_merge_bytes(const pd_merge_tensor *t);  /* as written */
size_t pd_merge_bytes_all(const pd_merge *x);
/* The type that a matrix of this type becomes. */
uint32_t pd_merge_type(const pd_merged *of, uint32_t type);

/* Append a tensor.  Errors: PD_ENUMERIC, PD_EIO, PD_EFULL. */
PD_CHECKED pd_err pd_merge_put(pd_merge *x, const pd_merge_tensor *t, pd_file_out *f);

/* Write the tensors [first, first + n) as one file of safetensors, under their names.
 * Errors: PD_ENUMERIC, PD_ENOENT, PD_EIO, PD_EFULL, PD_ENOMEM.
 */
PD_CHECKED pd_err pd_merge_save(pd_merge *x, size_t first, size_t n, const char *path);

/* What config.json calls a type; "float32". */
const char *pd_merge_dtype(uint32_t type);

/* A folder's merge, called by pd_export_merged_hf. */
PD_CHECKED pd_err pd_merge_folder(const char *dir, const pd_merged *m);

/* Is nothing there yet?  PD_EEXIST says what to do. */
PD_CHECKED pd_err pd_merge_vacant(const char *path);

#endif
