/* merged_safetensors.c - merged tensors as a file of safetensors; see merge.h.
 *
 *   length of header u64 | header: JSON, padded with spaces to 8 bytes | data
 */
#include "merge.h"
#include "peerd/bytes.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static const struct {
    uint32_t type;
    const char *format, *config;
} dtypes[] = {{PD_GGML_F32, "F32", "float32"},
              {PD_GGML_F16, "F16", "float16"},
              {PD_GGML_BF16, "BF16", "bfloat16"}};

static size_t dtype_at(uint32_t type) {
    size_t i = 0;
    while (i < sizeof dtypes / sizeof *dtypes && dtypes[i].type != type)
        i++;
    assert(i < sizeof dtypes / sizeof *dtypes);
    return i;
}

const char *pd_merge_dtype(uint32_t type) {
    return dtypes[dtype_at(type)].config;
}

/* As the base spells it, where it stays what it is: a mask's, for instance. */
static const char *spell(const pd_merge *x, const pd_merge_tensor *t) {
    const pd_safetensors *base = x->folder ? pd_base_tensors(x->folder) : NULL;
    if (base && t->type == t->t->type)
        return pd_safetensors_dtype(base, pd_safetensors_index(base, t->t));
    return dtypes[dtype_at(t->type)].format;
}

static void put_shape(FILE *f, const pd_tensor *t) {
    for (uint32_t d = t->n_dims; d--;)
        fprintf(f, "%" PRIu64 "%s", t->shape[d], d ? "," : "");
}

/* The header with its length before it; *out is free()'d by the caller. */
static pd_err make_header(const pd_merge *x, size_t first, size_t n, char **out, size_t *size) {
    FILE *f = open_memstream(out, size);
    if (!f)
        return pd_fail(PD_ENOMEM, "no memory for a header");
    size_t at = 0;
    fprintf(f, "%8s{\"__metadata__\":{\"format\":\"pt\"}", "");
    for (const pd_merge_tensor *t = x->at + first; t < x->at + first + n; t++) {
        fprintf(f, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t->name, spell(x, t));
        put_shape(f, t->t);
        fprintf(f, "],\"data_offsets\":[%zu,%zu]}", at, at + pd_merge_bytes(t));
        at += pd_merge_bytes(t);
    }
    fputc('}', f);
    for (long k = ftell(f); k % 8; k++)
        fputc(' ', f);
    if (fclose(f) != 0)
        return pd_fail(PD_ENOMEM, "no memory for a header");
    pd_store64((uint8_t *)*out, *size - 8);
    return PD_OK;
}

pd_err pd_merge_save(pd_merge *x, size_t first, size_t n, const char *path) {
    char *header = NULL;
    size_t size = 0;
    pd_file_out *f = NULL;
    pd_err e = make_header(x, first, n, &header, &size);
    if (!e)
        e = pd_file_begin(path, 0644, &f);
    if (!e)
        e = pd_file_append(f, header, size);
    for (size_t i = first; i < first + n && !e; i++)
        e = pd_merge_put(x, &x->at[i], f);
    free(header);
    if (e) {
        pd_file_drop(f);
        return e;
    }
    return pd_file_commit(f);
}
