/* safetensors.h - tensors of the safetensors format, in one file or several shards, memory-mapped
 * and checked whole at open.
 *
 *   DATA > tokens > LOSS pair > byte > ledger > gossip > replay > weights
 *
 *   n:u64, little-endian | header: n bytes of JSON, padded with spaces | data
 *   header = {NAME: {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [begin, end]}, ...,
 *             "__metadata__": {...}}                                                            [1]
 *
 * Promises: after pd_safetensors_open every tensor's bytes lie inside its file and are as many as
 * its shape and type ask for, and the tensors of a file cover its data without hole or overlap, as
 * the format demands.  Nothing is copied but the directory.  A type that we do not compute with
 * (I64, F8_E4M3) is measured but not refused here, because files carry masks and counters beside
 * the weights; whoever reads the tensor refuses it.
 *
 * [1] The format's page in its repository, huggingface/safetensors, README.md ("Format")
 */
#ifndef PEERD_SAFETENSORS_H
#define PEERD_SAFETENSORS_H

#include "peerd/gguf.h"

enum {
    PD_SAFETENSORS_HEADER_MAX =
        1 << 24, /* a hundred thousand tensors; parsing takes up to 40 times that */
    PD_SAFETENSORS_FILES_MAX = 1024,
};

/* pd_tensor.type of a tensor whose dtype is none of F32, F16 and BF16. */
#define PD_SAFETENSORS_OTHER UINT32_C(0xffff)

typedef struct pd_safetensors pd_safetensors;

/* Map and check files as one set of tensors.  gives *out; pd_safetensors_close takes it (NULL is
 * fine).
 *
 *   paths  in  (n) files, 1..PD_SAFETENSORS_FILES_MAX
 *
 * Errors: PD_ENOENT, PD_EIO, PD_EFORMAT (truncated, header too long or no JSON, offsets out of
 * range, overlapping or not as long as the shape says, a name that stands twice), PD_EUNSUPPORTED
 * (a dtype whose size we do not know, more than 4 dimensions), PD_ENOMEM.  Every text names the
 * file.
 */
PD_CHECKED pd_err pd_safetensors_open(const char *const *paths, size_t n, pd_safetensors **out);
void pd_safetensors_close(pd_safetensors *s);
/* Let go of the memory that looking at the files took so far (pd_map_forget). */
void pd_safetensors_forget(const pd_safetensors *s);

/* Tensors in order of name.  shape is fastest first, as pd_tensor's everywhere; a scalar has one
 * dimension of 1. */
size_t pd_safetensors_count(const pd_safetensors *s);
const pd_tensor *pd_safetensors_at(const pd_safetensors *s, size_t i);
const pd_tensor *pd_safetensors_find(const pd_safetensors *s, const char *name); /* or NULL */
size_t pd_safetensors_index(const pd_safetensors *s, const pd_tensor *t); /* of one of its tensors */
/* The dtype as the file spells it, and the index in `paths` of the file that the tensor i lies in.
 */
const char *pd_safetensors_dtype(const pd_safetensors *s, size_t i);
size_t pd_safetensors_file(const pd_safetensors *s, size_t i);
/* The bytes of file k as mapped; for its digest. */
const uint8_t *pd_safetensors_bytes(const pd_safetensors *s, size_t k, size_t *n);

#endif
