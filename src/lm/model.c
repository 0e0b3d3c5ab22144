/* model.c - a GGUF file of the Llama family to packed weights: every shape checked, every tensor
 * accounted for.
 *
 * A tensor that the engine does not know (a bias, experts, scaled rotary frequencies) is refused by
 * name: a model that loads is computed exactly.  Matrices are read one at a time, so that opening
 * needs one matrix beside the result.
 */
#include "engine.h"
#include "peerd/quant.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const pd_target_names[PD_TARGETS] = {"q", "k", "v", "o", "gate", "up", "down"};

void pd_model_shape(const pd_model_info *info, pd_target t, uint32_t *out, uint32_t *in) {
    uint32_t q = info->n_heads * info->head_width, kv = info->n_kv_heads * info->head_width;
    switch (t) {
    case PD_Q:
        *out = q, *in = info->width;
        return;
    case PD_K:
    case PD_V:
        *out = kv, *in = info->width;
        return;
    case PD_O:
        *out = info->width, *in = q;
        return;
    case PD_GATE:
    case PD_UP:
        *out = info->ff, *in = info->width;
        return;
    case PD_DOWN:
        *out = info->width, *in = info->ff;
        return;
    case PD_TARGETS:
        break;
    }
    assert(false && "a target");
}

/* ---- metadata ---- */

/* A required count in 1..max. */
static pd_err count_of(const pd_gguf *g, const char *key, uint32_t max, uint32_t *out) {
    uint64_t v;
    if (!pd_gguf_u64(g, key, &v))
        return pd_fail(PD_EFORMAT, "the model file has no %s", key);
    if (v < 1 || v > max)
        return pd_fail(PD_EUNSUPPORTED, "%s is %" PRIu64 ", but this engine takes 1 to %" PRIu32,
                       key, v, max);
    *out = (uint32_t)v;
    return PD_OK;
}

static void copy_text(char *out, size_t room, pd_str s) {
    size_t n = s.n < room - 1 ? s.n : room - 1;
    for (size_t i = 0; i < n; i++)
        out[i] = s.p[i] >= 32 && s.p[i] < 127 ? s.p[i] : '?';
    out[n] = 0;
}

static pd_err read_rope(const pd_gguf *g, pd_model *m) {
    pd_model_info *i = &m->info;
    uint64_t rotated = i->head_width;
    (void)pd_gguf_u64(g, "llama.rope.dimension_count", &rotated);
    double base = 10000.0;
    (void)pd_gguf_f64(g, "llama.rope.freq_base", &base);
    pd_str scaling;
    if (pd_gguf_str(g, "llama.rope.scaling.type", &scaling) &&
        !(scaling.n == 4 && memcmp(scaling.p, "none", 4) == 0)) {
        char text[32];
        copy_text(text, sizeof text, scaling);
        return pd_fail(PD_EUNSUPPORTED, "rope scaling of type %s is not done here", text);
    }
    if (rotated > i->head_width || rotated % 2)
        return pd_fail(PD_EFORMAT,
                       "llama.rope.dimension_count %" PRIu64 " does not fit heads of %" PRIu32,
                       rotated, i->head_width);
    if (!(base > 0.0 && base < 1e12))
        return pd_fail(PD_EFORMAT, "llama.rope.freq_base is not a positive number");
    i->rope_base = (float)base;
    m->heads = (pd_heads){.n = i->n_heads,
                          .n_kv = i->n_kv_heads,
                          .width = i->head_width,
                          .padded = (i->head_width + PD_LANES - 1) / PD_LANES * PD_LANES,
                          .rotated = (uint32_t)rotated};
    return PD_OK;
}

static pd_err read_heads(const pd_gguf *g, pd_model_info *i) {
    pd_err e = count_of(g, "llama.attention.head_count", 1024, &i->n_heads);
    if (e)
        return e;
    uint64_t kv = i->n_heads, key, value;
    size_t per_layer;
    if (pd_gguf_count(g, "llama.attention.head_count_kv", &per_layer))
        return pd_fail(PD_EUNSUPPORTED, "head counts that differ between layers are not done here");
    (void)pd_gguf_u64(g, "llama.attention.head_count_kv", &kv);
    if (kv < 1 || kv > i->n_heads || i->n_heads % kv)
        return pd_fail(PD_EFORMAT, "%" PRIu32 " heads cannot share %" PRIu64 " key heads",
                       i->n_heads, kv);
    i->n_kv_heads = (uint32_t)kv;
    if (!pd_gguf_u64(g, "llama.attention.key_length", &key)) {
        if (i->width % i->n_heads)
            return pd_fail(PD_EFORMAT, "width %" PRIu32 " is not a multiple of %" PRIu32 " heads",
                           i->width, i->n_heads);
        key = i->width / i->n_heads;
    }
    if (pd_gguf_u64(g, "llama.attention.value_length", &value) && value != key)
        return pd_fail(PD_EUNSUPPORTED,
                       "keys of %" PRIu64 " and values of %" PRIu64 " elements are not done here",
                       key, value);
    if (key < 1 || key > PD_HEAD_WIDTH_MAX)
        return pd_fail(PD_EUNSUPPORTED, "heads of %" PRIu64 " elements: this engine takes up to %d",
                       key, PD_HEAD_WIDTH_MAX);
    i->head_width = (uint32_t)key;
    return PD_OK;
}

static pd_err read_info(const pd_gguf *g, pd_model *m) {
    pd_model_info *i = &m->info;
    pd_str s;
    if (!pd_gguf_str(g, "general.architecture", &s))
        return pd_fail(PD_EFORMAT, "the model file names no architecture");
    copy_text(i->arch, sizeof i->arch, s);
    if (strcmp(i->arch, "llama") != 0)
        return pd_fail(PD_EUNSUPPORTED, "architecture %s is not done here (only llama is)",
                       i->arch);
    if (pd_gguf_str(g, "general.name", &s))
        copy_text(i->name, sizeof i->name, s);
    const struct {
        const char *key;
        uint32_t max, *out;
    } counts[] = {{"llama.block_count", 1024, &i->n_layers},
                  {"llama.embedding_length", 1 << 16, &i->width},
                  {"llama.feed_forward_length", 1 << 20, &i->ff},
                  {"llama.context_length", 1 << 24, &i->context}};
    pd_err e = PD_OK;
    for (size_t k = 0; k < sizeof counts / sizeof *counts && !e; k++)
        e = count_of(g, counts[k].key, counts[k].max, counts[k].out);
    double eps = 0.0;
    if (!e && (!pd_gguf_f64(g, "llama.attention.layer_norm_rms_epsilon", &eps) ||
               !(eps >= 0.0 && eps < 1.0)))
        e = pd_fail(PD_EFORMAT,
                    "llama.attention.layer_norm_rms_epsilon is missing or not a small number");
    i->rms_eps = (float)eps;
    if (!e)
        e = read_heads(g, i);
    return e ? e : read_rope(g, m);
}

/* ---- tensors ---- */

typedef struct loader {
    const pd_gguf *g;
    pd_model *m;
    bool *seen;    /* a flag a tensor of the file */
    float *buffer; /* one matrix, or one slice of the head */
} loader;

/* Find a tensor (rows, cols), rows 0 = a vector; PD_EFORMAT names it where it is missing or of
 * another shape. */
static pd_err find(loader *l, const char *name, uint32_t rows, uint32_t cols,
                   const pd_tensor **out) {
    const pd_tensor *t = pd_gguf_tensor(l->g, name);
    if (!t)
        return pd_fail(PD_EFORMAT, "the model file has no tensor %s", name);
    uint64_t want = rows ? rows : 1;
    if (t->shape[0] != cols || t->shape[1] != want || t->shape[2] != 1 || t->shape[3] != 1)
        return pd_fail(PD_EFORMAT,
                       "tensor %s has shape %" PRIu64 " x %" PRIu64
                       ", but the file's own keys ask for %" PRIu32 " x %" PRIu64,
                       name, t->shape[0], t->shape[1], cols, want);
    size_t block = pd_quant_block(t->type);
    if (!block)
        return pd_fail(PD_EUNSUPPORTED, "tensor %s is of type %s, which is not done here", name,
                       pd_quant_name(t->type));
    if (cols % block || t->size_bytes < want * cols / block * pd_quant_block_bytes(t->type))
        return pd_fail(PD_EFORMAT, "tensor %s is shorter than its shape", name);
    for (size_t i = 0; i < pd_gguf_tensors(l->g); i++)
        if (pd_gguf_tensor_at(l->g, i) == t)
            l->seen[i] = true;
    l->m->info.n_params += want * cols;
    *out = t;
    return PD_OK;
}

typedef struct read_job {
    const pd_tensor *t;
    uint32_t first, rows, cols; /* rows of the tensor from `first` on */
    float *out;
} read_job;

enum { READ_ROWS = 64 };

static void read_block(void *ctx, size_t i) {
    const read_job *j = ctx;
    uint32_t r = (uint32_t)i * READ_ROWS, n = j->rows - r < READ_ROWS ? j->rows - r : READ_ROWS;
    size_t row_bytes = j->cols / pd_quant_block(j->t->type) * pd_quant_block_bytes(j->t->type);
    pd_err e = pd_quant_read(j->t->type, j->t->data + (j->first + r) * row_bytes,
                             (size_t)n * j->cols, j->out + (size_t)r * j->cols);
    assert(e == PD_OK && "the type was looked up by find");
}

static void read_rows(const pd_tensor *t, uint32_t first, uint32_t rows, uint32_t cols,
                      float *out) {
    read_job j = {.t = t, .first = first, .rows = rows, .cols = cols, .out = out};
    pd_parallel((rows + READ_ROWS - 1) / READ_ROWS, read_block, &j);
}

static pd_err no_memory(void) {
    return pd_fail(PD_ENOMEM, "not enough memory for the model");
}

static pd_err load_vector(loader *l, const char *name, uint32_t n, float **out) {
    const pd_tensor *t;
    pd_err e = find(l, name, 0, n, &t);
    if (e)
        return e;
    *out = pd_arena_take(&l->m->arena, n * sizeof(float));
    return *out ? pd_quant_read(t->type, t->data, n, *out) : no_memory();
}

/* Read one target into the buffer at `rows` rows from its start, and pack its reverse. */
static pd_err load_target(loader *l, uint32_t layer, pd_target t, const char *tensor,
                          uint32_t at_row) {
    char name[64];
    uint32_t out, in;
    const pd_tensor *found = NULL;
    pd_model_shape(&l->m->info, t, &out, &in);
    snprintf(name, sizeof name, "blk.%" PRIu32 ".%s.weight", layer, tensor);
    pd_err e = find(l, name, out, in, &found);
    if (e)
        return e;
    float *w = l->buffer + (size_t)at_row * in;
    read_rows(found, 0, out, in, w);
    if (l->m->backward)
        e = pd_gemm_pack(&l->m->arena, w, in, out, true, l->m->half, &l->m->layers[layer].back[t]);
    return e;
}

static pd_err pack(loader *l, uint32_t out, uint32_t in, pd_matrix *m) {
    return pd_gemm_pack(&l->m->arena, l->buffer, out, in, false, l->m->half, m);
}

static pd_err load_layer(loader *l, uint32_t n) {
    const pd_model_info *i = &l->m->info;
    pd_layer *layer = &l->m->layers[n];
    uint32_t q = i->n_heads * i->head_width, kv = i->n_kv_heads * i->head_width;
    char name[64];
    snprintf(name, sizeof name, "blk.%" PRIu32 ".attn_norm.weight", n);
    pd_err e = load_vector(l, name, i->width, &layer->attn_norm);
    snprintf(name, sizeof name, "blk.%" PRIu32 ".ffn_norm.weight", n);
    if (!e)
        e = load_vector(l, name, i->width, &layer->ffn_norm);
    if (!e)
        e = load_target(l, n, PD_Q, "attn_q", 0);
    if (!e)
        e = load_target(l, n, PD_K, "attn_k", q);
    if (!e)
        e = load_target(l, n, PD_V, "attn_v", q + kv);
    if (!e)
        e = pack(l, q + 2 * kv, i->width, &layer->qkv);
    if (!e)
        e = load_target(l, n, PD_O, "attn_output", 0);
    if (!e)
        e = pack(l, i->width, q, &layer->o);
    if (!e)
        e = load_target(l, n, PD_GATE, "ffn_gate", 0);
    if (!e)
        e = load_target(l, n, PD_UP, "ffn_up", i->ff);
    if (!e)
        e = pack(l, 2 * i->ff, i->width, &layer->gate_up);
    if (!e)
        e = load_target(l, n, PD_DOWN, "ffn_down", 0);
    return e ? e : pack(l, i->width, i->ff, &layer->down);
}

/* Keep a (V, C) tensor as plain rows and, where asked, packed by slices of the head. */
static pd_err load_table(loader *l, const pd_tensor *t, bool keep, bool packed, void **table) {
    pd_model *m = l->m;
    uint32_t v = m->info.vocab, c = m->info.width;
    if (keep) {
        *table = pd_arena_take(&m->arena, (size_t)v * c * (m->half ? 2 : 4));
        if (!*table)
            return no_memory();
    }
    pd_err e = PD_OK;
    for (uint32_t first = 0, s = 0; first < v && !e; first += PD_SLICE, s++) {
        uint32_t rows = v - first < PD_SLICE ? v - first : PD_SLICE;
        read_rows(t, first, rows, c, l->buffer);
        if (keep && m->half)
            m->k->to_half((size_t)rows * c, l->buffer, (uint16_t *)*table + (size_t)first * c);
        else if (keep)
            memcpy((float *)*table + (size_t)first * c, l->buffer,
                   (size_t)rows * c * sizeof(float));
        if (packed)
            e = pack(l, rows, c, &m->slices[s]);
        if (packed && !e && m->backward)
            e = pd_gemm_pack(&m->arena, l->buffer, c, rows, true, m->half, &m->slices_back[s]);
    }
    return e;
}

static pd_err load_head(loader *l) {
    pd_model *m = l->m;
    const pd_tensor *embed, *head = NULL;
    pd_err e = find(l, "token_embd.weight", m->info.vocab, m->info.width, &embed);
    m->info.tied = !pd_gguf_tensor(l->g, "output.weight");
    if (!e && !m->info.tied)
        e = find(l, "output.weight", m->info.vocab, m->info.width, &head);
    if (!e)
        e = load_vector(l, "output_norm.weight", m->info.width, &m->out_norm);
    if (!e)
        e = load_table(l, embed, true, m->info.tied, &m->embed);
    if (e)
        return e;
    void *rows = m->embed;
    if (head)
        e = load_table(l, head, true, true, &rows);
    m->head = rows;
    return e;
}

static pd_err check_all_seen(const loader *l) {
    for (size_t i = 0; i < pd_gguf_tensors(l->g); i++)
        if (!l->seen[i])
            return pd_fail(PD_EUNSUPPORTED,
                           "tensor %s is not part of the llama architecture done here",
                           pd_gguf_tensor_at(l->g, i)->name);
    return PD_OK;
}

/* ---- the whole ---- */

static pd_err choose_compute(pd_model *m, pd_compute want) {
    if (want == PD_COMPUTE_BF16 && !pd_gemm_has_bf16())
        return pd_fail(PD_EUNSUPPORTED, "this processor has no bf16 products (use --compute f32)");
    m->half = want == PD_COMPUTE_BF16 || (want == PD_COMPUTE_AUTO && pd_gemm_bf16_pays());
    m->info.compute = m->half ? PD_COMPUTE_BF16 : PD_COMPUTE_F32;
    return PD_OK;
}

static pd_err read_vocab(const pd_gguf *g, pd_model *m) {
    const pd_tensor *t = pd_gguf_tensor(g, "token_embd.weight");
    if (!t)
        return pd_fail(PD_EFORMAT, "the model file has no tensor token_embd.weight");
    if (t->shape[1] < 1 || t->shape[1] > 1 << 22)
        return pd_fail(PD_EFORMAT, "a vocabulary of %" PRIu64 " tokens", t->shape[1]);
    m->info.vocab = (uint32_t)t->shape[1];
    m->n_slices = (m->info.vocab + PD_SLICE - 1) / PD_SLICE;
    return PD_OK;
}

static pd_err load(const pd_gguf *g, pd_model *m) {
    const pd_model_info *i = &m->info;
    size_t rows = 2 * (size_t)i->ff,
           wide = (size_t)(i->n_heads + 2 * i->n_kv_heads) * i->head_width;
    rows = rows > wide ? rows : wide;
    rows = rows > PD_SLICE ? rows : PD_SLICE;
    size_t q = (size_t)i->n_heads * i->head_width *
               i->width; /* the o matrix, where heads are wider than C */
    size_t elements = rows * i->width > q ? rows * i->width : q;
    loader l = {.g = g, .m = m};
    l.seen = calloc(pd_gguf_tensors(g) + 1, sizeof *l.seen);
    l.buffer = malloc(elements * sizeof(float));
    m->layers = pd_arena_take(&m->arena, i->n_layers * sizeof(pd_layer));
    m->slices = pd_arena_take(&m->arena, m->n_slices * sizeof(pd_matrix));
    m->slices_back = pd_arena_take(&m->arena, m->n_slices * sizeof(pd_matrix));
    pd_err e = l.seen && l.buffer && m->layers && m->slices && m->slices_back ? PD_OK : no_memory();
    for (uint32_t n = 0; n < i->n_layers && !e; n++)
        e = load_layer(&l, n);
    if (!e)
        e = load_head(&l);
    if (!e)
        e = check_all_seen(&l);
    free(l.seen);
    free(l.buffer);
    return e;
}

pd_err pd_model_open(const pd_gguf *g, const pd_model_opts *opts, pd_model **out) {
    pd_model *m = calloc(1, sizeof *m);
    if (!m)
        return no_memory();
    (void)pd_pool_set(opts->threads);
    m->k = pd_kernels_get();
    m->backward = opts->backward;
    pd_err e = choose_compute(m, opts->compute);
    if (!e)
        e = read_info(g, m);
    if (!e)
        e = read_vocab(g, m);
    if (!e && m->backward)
        e = pd_room_for_reverse(m);
    if (!e)
        e = load(g, m);
    if (e) {
        pd_model_close(m);
        return e;
    }
    m->info.packed_bytes = m->arena.used_bytes;
    *out = m;
    return PD_OK;
}

void pd_model_close(pd_model *m) {
    if (!m)
        return;
    pd_arena_free(&m->arena);
    free(m);
}

const pd_model_info *pd_model_info_of(const pd_model *m) {
    return &m->info;
}
