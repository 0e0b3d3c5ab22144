/* merge.h - the base's tensors with the adapter added, one after the other into a file; private to
 * the writers of merged models (export_merged.h).
 */
#ifndef PD_MERGE_H
#define PD_MERGE_H

#include "export_merged.h"
#include "peerd/file.h"

typedef struct pd_merge_tensor {
    const pd_tensor *t;
    const pd_lowrank *add; /* NULL: no target of the run, or: */
    const pd_dense *dense; /* a whole addition, from coordinate `first` on */
    uint64_t first;
    uint32_t type; /* as it is written */
} pd_merge_tensor;

typedef struct pd_merge {
    const pd_merged *of;
    pd_gguf *base;
    pd_merge_tensor *at; /* in the base's order */
    size_t n;
    uint64_t written; /* bytes of tensors, for the progress line */
    float *rows;      /* some rows of a tensor */
    uint8_t *bytes;
} pd_merge;

/* Open the base and look up the targets; other tensors keep their type.  pd_merge_close also after
 * an error.  Errors: as pd_export_merged_gguf.
 */
PD_CHECKED pd_err pd_merge_open(const pd_merged *of, pd_merge *out);
void pd_merge_close(pd_merge *x);

uint64_t pd_merge_rows(const pd_merge_tensor *t); /* of shape[0] elements */
size_t pd_merge_bytes(const pd_merge_tensor *t);  /* as written */
size_t pd_merge_bytes_all(const pd_merge *x);
/* The type that a matrix of this type becomes. */
uint32_t pd_merge_type(const pd_merged *of, uint32_t type);

/* Append a tensor.
 *
 *   halves  in  width of a head whose rows go from pairs to halves; 0: rows stay where they are
 *
 * Errors: PD_ENUMERIC, PD_EIO, PD_EFULL.
 */
PD_CHECKED pd_err pd_merge_put(pd_merge *x, const pd_merge_tensor *t, uint32_t halves,
                               pd_file_out *f);

/* Is nothing there yet?  PD_EEXIST says what to do. */
PD_CHECKED pd_err pd_merge_vacant(const char *path);

#endif
