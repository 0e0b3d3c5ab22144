/* merge.c - W + up^T down, or W + a, some rows at a time; see merge.h.
 *
 * The sums are plain loops in one order, not the engine's products: two nodes that hold the same
 * records must write the same bytes, for a run can go on from what one of them wrote (parent.h).
 */
#include "merge.h"
#include "export.h"
#include "peerd/bytes.h"
#include "peerd/log.h"
#include "peerd/quant.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK = 256
}; /* rows in memory at a time: 14 MiB of the widest matrices of 7e9 parameters */

uint64_t pd_merge_rows(const pd_merge_tensor *t) {
    return t->t->shape[1] * t->t->shape[2] * t->t->shape[3];
}

size_t pd_merge_bytes(const pd_merge_tensor *t) {
    if (t->type == t->t->type)
        return t->t->size_bytes;
    return (size_t)(t->t->shape[0] / pd_quant_block(t->type) * pd_merge_rows(t)) *
           pd_quant_block_bytes(t->type);
}

size_t pd_merge_bytes_all(const pd_merge *x) {
    size_t sum = 0;
    for (size_t i = 0; i < x->n; i++)
        sum += pd_merge_bytes(&x->at[i]);
    return sum;
}

uint32_t pd_merge_type(const pd_merged *of, uint32_t type) {
    if (of->type != PD_MERGED_AUTO)
        return of->type;
    return type == PD_GGML_F32 || type == PD_GGML_BF16 ? type : PD_GGML_F16;
}

pd_err pd_merge_vacant(const char *path) {
    return pd_file_exists(path)
               ? pd_fail(PD_EEXIST, "%s is there already: remove it or name another place", path)
               : PD_OK;
}

/* ---- opening ---- */

static pd_err check_digest(const pd_merge *x) {
    uint8_t digest[32];
    if (x->folder)
        pd_base_digest(x->folder, digest);
    else
        pd_gguf_digest(x->base, digest);
    if (memcmp(digest, x->of->manifest->model_digest, 32) != 0)
        return pd_fail(PD_EMISMATCH, "%s is not the model that the run is about any more",
                       x->of->base);
    return PD_OK;
}

static void name_target(const pd_merge *x, uint32_t layer, pd_target t, char *out, size_t room) {
    if (x->folder)
        snprintf(out, room, "model.layers.%u.%s.weight", layer, pd_export_hf_names[t]);
    else
        snprintf(out, room, "blk.%u.%s.weight", layer, pd_export_gguf_names[t]);
}

/* Some folders leave "model." out (weights_hf.c). */
static bool is_called(const pd_merge *x, const pd_merge_tensor *at, const char *name) {
    static const char prefix[] = "model.";
    return strcmp(at->t->name, name) == 0 ||
           (x->folder && strcmp(at->t->name, name + sizeof prefix - 1) == 0);
}

/* A low-rank adapter has other formats; a full space has none. */
static const char *otherwise(const pd_merge *x) {
    return x->of->manifest->space == PD_SPACE_FULL ? "" : " (export it with --format peft or gguf)";
}

/* Every target of the run must be a tensor of its own, of the shape that the view adds to. */
static pd_err find_target(pd_merge *x, uint32_t layer, pd_target t) {
    char name[PD_GGUF_NAME_MAX];
    uint32_t out, in;
    pd_model_shape(x->of->info, t, &out, &in);
    name_target(x, layer, t, name, sizeof name);
    for (size_t i = 0; i < x->n; i++) {
        pd_merge_tensor *at = &x->at[i];
        if (!is_called(x, at, name))
            continue;
        if (at->t->shape[0] != in || pd_merge_rows(at) != out)
            break;
        at->dense = pd_view_adapter(x->of->view)->dense;
        if (at->dense)
            at->first = at->dense->first[layer * PD_TARGETS + t];
        else
            at->add = pd_view_at(x->of->view, layer, t);
        at->type = pd_merge_type(x->of, at->t->type);
        if (x->folder && (t == PD_Q || t == PD_K) && x->of->info->position == PD_POSITION_PAIRS)
            at->halves = x->of->info->head_width;
        return PD_OK;
    }
    return pd_fail(PD_EUNSUPPORTED,
                   "%s has no tensor %s of %u x %u: what was learnt cannot be merged into it%s",
                   x->of->base, name, out, in, otherwise(x));
}

static pd_err find_targets(pd_merge *x) {
    pd_err e = PD_OK;
    for (uint32_t l = x->of->manifest->first_layer; l < x->of->info->n_layers; l++)
        for (uint32_t t = 0; t < PD_TARGETS && !e; t++)
            if (x->of->manifest->targets >> t & 1)
                e = find_target(x, l, (pd_target)t);
    return e;
}

static pd_err take_buffers(pd_merge *x) {
    uint64_t cols = 1;
    for (size_t i = 0; i < x->n; i++)
        cols = x->at[i].t->shape[0] > cols ? x->at[i].t->shape[0] : cols;
    x->rows = calloc(cols, CHUNK * sizeof *x->rows);
    x->bytes = calloc(cols, CHUNK * 4);
    return x->rows && x->bytes ? PD_OK
                               : pd_fail(PD_ENOMEM, "no memory for rows of %llu elements",
                                         (unsigned long long)cols);
}

/* The list, and what is looked up in it. */
static pd_err list(pd_merge *x, size_t n, const pd_tensor *(*tensor)(const pd_merge *x, size_t i)) {
    x->at = calloc(n + 1, sizeof *x->at);
    if (!x->at)
        return pd_fail(PD_ENOMEM, "no memory for a list of %zu tensors", n);
    for (; x->n < n; x->n++) {
        const pd_tensor *t = tensor(x, x->n);
        pd_merge_tensor *at = &x->at[x->n];
        *at = (pd_merge_tensor){.t = t, .type = t->type};
        strcpy(at->name, t->name);
    }
    pd_err e = find_targets(x);
    return e ? e : take_buffers(x);
}

static const pd_tensor *of_file(const pd_merge *x, size_t i) {
    return pd_gguf_tensor_at(x->base, i);
}

pd_err pd_merge_open(const pd_merged *of, pd_merge *out) {
    *out = (pd_merge){.of = of};
    if (pd_base_is_folder(of->base))
        return pd_fail(PD_EUNSUPPORTED,
                       "the base %s is a Hugging Face folder, and a merged GGUF file is made from "
                       "a GGUF file: use --format merged-safetensors",
                       of->base);
    pd_err e = pd_gguf_open(of->base, &out->base);
    if (!e)
        e = check_digest(out);
    return e ? e : list(out, pd_gguf_tensors(out->base), of_file);
}

static const pd_tensor *of_folder(const pd_merge *x, size_t i) {
    return pd_safetensors_at(pd_base_tensors(x->folder), i);
}

pd_err pd_merge_open_folder(const pd_merged *of, pd_merge *out) {
    *out = (pd_merge){.of = of};
    pd_err e = pd_base_open(of->base, &out->folder);
    if (!e)
        e = check_digest(out);
    return e ? e : list(out, pd_safetensors_count(pd_base_tensors(out->folder)), of_folder);
}

void pd_merge_close(pd_merge *x) {
    pd_gguf_close(x->base);
    pd_base_close(x->folder);
    free(x->at);
    free(x->rows);
    free(x->bytes);
    *x = (pd_merge){0};
}

/* ---- rows ---- */

/* Add what the adapter adds to a row: sum_k up[k] down[k], k ascending. */
static void add_row(const pd_lowrank *add, uint64_t out, uint64_t row, size_t cols, float *y) {
    for (uint32_t k = 0; k < add->rank; k++) {
        float u = add->up[k * out + row];
        const float *down = add->down + (size_t)k * cols;
        for (size_t i = 0; i < cols; i++)
            y[i] += u * down[i];
    }
}

static uint64_t row_of(uint64_t at, uint32_t halves) {
    return halves ? pd_export_paired_row((uint32_t)at, halves) : at;
}

/* The same of n rows [first, first + n) of the written order, where the addition is whole. */
static void add_dense(pd_merge *x, const pd_merge_tensor *t, uint64_t first, size_t n) {
    size_t cols = (size_t)t->t->shape[0], out = (size_t)pd_merge_rows(t);
    for (size_t c = 0; c < cols; c++)
        for (size_t i = 0; i < n; i++)
            x->rows[i * cols + c] +=
                pd_dense_at(t->dense, t->first + c * out + row_of(first + i, t->halves));
}

/* n rows of the result to x->rows, in the order of the file that is written. */
static pd_err merge_rows(pd_merge *x, const pd_merge_tensor *t, uint64_t first, size_t n) {
    size_t cols = (size_t)t->t->shape[0];
    size_t row_bytes = cols / pd_quant_block(t->t->type) * pd_quant_block_bytes(t->t->type);
    for (size_t i = 0; i < n; i++) {
        uint64_t row = row_of(first + i, t->halves), from = x->folder ? first + i : row;
        pd_err e =
            pd_quant_read(t->t->type, t->t->data + from * row_bytes, cols, x->rows + i * cols);
        if (e)
            return pd_fail_in(e, "%s", t->t->name);
        if (t->add)
            add_row(t->add, pd_merge_rows(t), row, cols, x->rows + i * cols);
    }
    if (t->dense)
        add_dense(x, t, first, n);
    return PD_OK;
}

/* x->rows to x->bytes in the type that is written. */
static pd_err round_rows(pd_merge *x, const pd_merge_tensor *t, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint16_t h = t->type == PD_GGML_F16 ? pd_half_from_float(x->rows[i])
                                            : pd_bf16_from_float(x->rows[i]);
        if (t->type == PD_GGML_F32) {
            uint32_t u;
            memcpy(&u, &x->rows[i], 4);
            pd_store32(x->bytes + 4 * i, u);
            continue;
        }
        if (t->type == PD_GGML_F16 && (h & 0x7c00u) == 0x7c00u)
            return pd_fail(PD_ENUMERIC,
                           "%s has an element of %g, beyond what F16 holds: export with --type "
                           "bf16 or f32",
                           t->t->name, (double)x->rows[i]);
        x->bytes[2 * i] = (uint8_t)h;
        x->bytes[2 * i + 1] = (uint8_t)(h >> 8);
    }
    return PD_OK;
}

static pd_err append(pd_merge *x, const pd_merge_tensor *t, const uint8_t *p, size_t n,
                     pd_file_out *f) {
    pd_err e = pd_file_append(f, p, n);
    size_t all = pd_merge_bytes_all(x);
    x->written += n;
    pd_progress(e || x->written == all, "%llu of %zu MiB, %s",
                (unsigned long long)(x->written >> 20), all >> 20, t->t->name);
    return e;
}

pd_err pd_merge_put(pd_merge *x, const pd_merge_tensor *t, pd_file_out *f) {
    if (!t->add && !t->dense && !t->halves && t->type == t->t->type)
        return append(x, t, t->t->data, t->t->size_bytes, f);
    uint64_t rows = pd_merge_rows(t);
    size_t cols = (size_t)t->t->shape[0];
    for (uint64_t first = 0; first < rows; first += CHUNK) {
        size_t n = rows - first < CHUNK ? (size_t)(rows - first) : CHUNK;
        pd_err e = merge_rows(x, t, first, n);
        if (!e)
            e = round_rows(x, t, n * cols);
        if (!e)
            e = append(x, t, x->bytes, n * cols * pd_quant_block_bytes(t->type), f);
        if (e)
            return e;
    }
    return PD_OK;
}
