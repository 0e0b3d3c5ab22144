/* gguf.h - a model file of the GGUF format, versions 2 and 3, memory-mapped and checked whole at open.
 *
 *   DATA > TOKENS > LOSS pair > byte > ledger > gossip > replay > weights
 *
 * Promises: after pd_gguf_open every name, key and tensor extent lies inside the file; nothing is copied but
 * the directory.  Does not know what the tensors mean (model.h) nor how text is cut (tokenizer.h).
 */
#ifndef PEERD_GGUF_H
#define PEERD_GGUF_H

#include "peerd/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum pd_ggml_type { /* numbers as in the file; quant.h has their layouts */
    PD_GGML_F32 = 0,
    PD_GGML_F16 = 1,
    PD_GGML_Q4_0 = 2,
    PD_GGML_Q4_1 = 3,
    PD_GGML_Q5_0 = 6,
    PD_GGML_Q5_1 = 7,
    PD_GGML_Q8_0 = 8,
    PD_GGML_Q2_K = 10,
    PD_GGML_Q3_K = 11,
    PD_GGML_Q4_K = 12,
    PD_GGML_Q5_K = 13,
    PD_GGML_Q6_K = 14,
    PD_GGML_IQ2_XXS = 16,
    PD_GGML_IQ2_XS = 17,
    PD_GGML_IQ3_XXS = 18,
    PD_GGML_IQ1_S = 19,
    PD_GGML_IQ4_NL = 20,
    PD_GGML_IQ3_S = 21,
    PD_GGML_IQ2_S = 22,
    PD_GGML_IQ4_XS = 23,
    PD_GGML_IQ1_M = 29,
    PD_GGML_BF16 = 30,
    PD_GGML_TQ1_0 = 34,
    PD_GGML_TQ2_0 = 35,
    PD_GGML_MXFP4 = 39,
} pd_ggml_type;

enum { PD_GGUF_DIMS_MAX = 4, PD_GGUF_NAME_MAX = 64 };

typedef struct pd_tensor {
    char name[PD_GGUF_NAME_MAX + 1];
    uint32_t type;                     /* pd_ggml_type; one we do not do is refused when it is read */
    uint32_t n_dims;                   /* 1..4 */
    uint64_t shape[PD_GGUF_DIMS_MAX];  /* fastest first, as in the file; 1 beyond n_dims */
    const uint8_t *data;               /* borrowed from the mapping */
    size_t size_bytes;
} pd_tensor;

typedef struct pd_str {
    const char *p; /* not terminated */
    size_t n;
} pd_str;

typedef struct pd_gguf pd_gguf;

/* Map and check a file.  gives *out; pd_gguf_close takes it (NULL is fine).
 * Errors: PD_ENOENT, PD_EIO, PD_EFORMAT (truncated, bad length, duplicate name; the text says where),
 *         PD_EUNSUPPORTED (version, big-endian file), PD_ENOMEM.
 */
PD_CHECKED pd_err pd_gguf_open(const char *path, pd_gguf **out);
void pd_gguf_close(pd_gguf *g);
/* Let go of the memory that looking at the file took so far (pd_map_forget). */
void pd_gguf_forget(const pd_gguf *g);

size_t pd_gguf_tensors(const pd_gguf *g);                        /* number of tensors, in file order */
const pd_tensor *pd_gguf_tensor_at(const pd_gguf *g, size_t i);
const pd_tensor *pd_gguf_tensor(const pd_gguf *g, const char *name); /* or NULL */

/* Metadata.  Any integer type is widened; false where the key is missing or of another kind. */
bool pd_gguf_u64(const pd_gguf *g, const char *key, uint64_t *out);
bool pd_gguf_f64(const pd_gguf *g, const char *key, double *out);
bool pd_gguf_bool(const pd_gguf *g, const char *key, bool *out);
bool pd_gguf_str(const pd_gguf *g, const char *key, pd_str *out);

/* Arrays: the count, then all elements; pd_gguf_strs fills n views (caller's memory). */
bool pd_gguf_count(const pd_gguf *g, const char *key, size_t *n);
bool pd_gguf_strs(const pd_gguf *g, const char *key, pd_str *out, size_t n);
bool pd_gguf_f32s(const pd_gguf *g, const char *key, float *out, size_t n);
bool pd_gguf_i32s(const pd_gguf *g, const char *key, int32_t *out, size_t n);

/* Keys in file order, each as its bytes there (name, type and value, as gguf.c draws them): what another GGUF file
 * takes over unread.  Borrowed.
 */
size_t pd_gguf_keys(const pd_gguf *g);
pd_str pd_gguf_key_at(const pd_gguf *g, size_t i, pd_str *name);

/* Digest of the model: BLAKE2b-256 over every tensor's name, type, shape and bytes in order of name, so that it
 * does not depend on file layout or metadata (DESIGN section 3).  Reads the whole file.
 */
void pd_gguf_digest(const pd_gguf *g, uint8_t out[32]);

#endif
