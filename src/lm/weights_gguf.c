/* weights_gguf.c - a GGUF file as description and tensors: every shape checked, every tensor
 * accounted for; see weights.h.
 *
 * Keys and names are those of llama.cpp's gguf-py/gguf/constants.py.  A tensor that no role names
 * (experts, a bias that the architecture has not) is refused by name: a model that opens is
 * computed exactly.
 */
#include "peerd/quant.h"
#include "peerd/weights.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct place { /* where a slot's rows lie */
    const pd_tensor *t;
    size_t from; /* elements before them */
} place;

typedef struct gguf_weights {
    pd_weights base;
    const pd_gguf *g;
    bool fused; /* q, k and v are one tensor */
    bool *seen; /* a flag a tensor of the file */
    place *at;  /* by pd_slot_number */
} gguf_weights;

static const struct {
    const char *name;
    bool fused;
    pd_model_info info;
} archs[] = {
    {"llama", false, {.position = PD_POSITION_PAIRS}},
    {"qwen2", false, {.position = PD_POSITION_HALVES, .qkv_bias = true}},
    {"qwen3", false, {.position = PD_POSITION_HALVES, .qk_norm = true}},
    {"gpt2",
     true,
     {.norm = PD_NORM_LAYER,
      .activation = PD_ACT_GELU_TANH,
      .no_gate = true,
      .qkv_bias = true,
      .o_bias = true,
      .ffn_bias = true,
      .position = PD_POSITION_LEARNED}},
    {"gptneox",
     true,
     {.norm = PD_NORM_LAYER,
      .activation = PD_ACT_GELU,
      .no_gate = true,
      .qkv_bias = true,
      .o_bias = true,
      .ffn_bias = true,
      .parallel = true,
      .position = PD_POSITION_HALVES}},
};

/* ---- keys ---- */

enum { KEY = 80 };

static const char *key_of(const pd_model_info *i, const char *what, char out[KEY]) {
    snprintf(out, KEY, "%s.%s", i->arch, what);
    return out;
}

/* A required count in 1..max. */
static pd_err count_of(const gguf_weights *w, const char *what, uint32_t max, uint32_t *out) {
    uint64_t v;
    char key[KEY];
    if (!pd_gguf_u64(w->g, key_of(&w->base.info, what, key), &v))
        return pd_fail(PD_EFORMAT, "the model file has no %s", key);
    if (v < 1 || v > max)
        return pd_fail(PD_EUNSUPPORTED, "%s is %" PRIu64 ", but this engine takes 1 to %" PRIu32,
                       key, v, max);
    *out = (uint32_t)v;
    return PD_OK;
}

/* A count that need not be there; its present value is the default. */
static pd_err count_if(const gguf_weights *w, const char *what, uint32_t *out) {
    uint64_t v = *out;
    char key[KEY];
    (void)pd_gguf_u64(w->g, key_of(&w->base.info, what, key), &v);
    if (v > UINT32_MAX)
        return pd_fail(PD_EUNSUPPORTED, "%s is %" PRIu64 ", which is beyond this engine", key, v);
    *out = (uint32_t)v;
    return PD_OK;
}

static void copy_text(char *out, size_t room, pd_str s) {
    size_t n = s.n < room - 1 ? s.n : room - 1;
    for (size_t i = 0; i < n; i++)
        out[i] = s.p[i] >= 32 && s.p[i] < 127 ? s.p[i] : '?';
    out[n] = 0;
}

static pd_err read_heads(gguf_weights *w) {
    pd_model_info *i = &w->base.info;
    size_t per_layer;
    char key[KEY];
    pd_err e = count_of(w, "attention.head_count", 1024, &i->n_heads);
    if (e)
        return e;
    if (pd_gguf_count(w->g, key_of(i, "attention.head_count_kv", key), &per_layer))
        return pd_fail(PD_EUNSUPPORTED, "head counts that differ between layers are not done here");
    i->n_kv_heads = i->n_heads;
    e = count_if(w, "attention.head_count_kv", &i->n_kv_heads);
    if (!e)
        e = count_if(w, "attention.key_length", &i->head_width);
    if (e)
        return e;
    if (!i->head_width && i->width % i->n_heads)
        return pd_fail(PD_EFORMAT, "width %" PRIu32 " is not a multiple of %" PRIu32 " heads",
                       i->width, i->n_heads);
    if (!i->head_width)
        i->head_width = i->width / i->n_heads;
    uint32_t value = i->head_width;
    e = count_if(w, "attention.value_length", &value);
    if (!e && value != i->head_width)
        e = pd_fail(PD_EUNSUPPORTED,
                    "keys of %" PRIu32 " and values of %" PRIu32 " elements are not done here",
                    i->head_width, value);
    return e;
}

static bool is(pd_str s, const char *text) {
    return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

/* Linear scaling by key.  Llama 3's has no key: its file brings the divisors, as rope_freqs.weight.
 */
static pd_err read_scaling(gguf_weights *w) {
    pd_model_info *i = &w->base.info;
    char key[KEY], text[32];
    double factor = 0.0;
    pd_str type;
    if (!pd_gguf_str(w->g, key_of(i, "rope.scaling.type", key), &type) || is(type, "none"))
        return PD_OK;
    copy_text(text, sizeof text, type);
    if (!is(type, "linear"))
        return pd_fail(PD_EUNSUPPORTED, "rope scaling of type %s is not done here", text);
    if (!pd_gguf_f64(w->g, key_of(i, "rope.scaling.factor", key), &factor) ||
        !(factor >= 1.0 && factor < 1e6))
        return pd_fail(PD_EFORMAT, "%s is missing or not a factor", key);
    pd_rope_linear(i, factor);
    return PD_OK;
}

static pd_err read_rope(gguf_weights *w) {
    pd_model_info *i = &w->base.info;
    char key[KEY];
    if (i->position == PD_POSITION_LEARNED)
        return PD_OK;
    double base = 10000.0;
    (void)pd_gguf_f64(w->g, key_of(i, "rope.freq_base", key), &base);
    i->rope_base = (float)base;
    i->rotated = i->head_width;
    pd_err e = count_if(w, "rope.dimension_count", &i->rotated);
    if (!e && (i->rotated > i->head_width || i->rotated % 2))
        e = pd_fail(PD_EFORMAT,
                    "%s.rope.dimension_count %" PRIu32 " does not fit heads of %" PRIu32, i->arch,
                    i->rotated, i->head_width);
    if (!e && i->rotated > PD_ROTATED_MAX) /* scaling fills a divisor for each pair */
        e = pd_fail(PD_EUNSUPPORTED,
                    "%" PRIu32 " rotated elements of a head: this engine takes up to %d",
                    i->rotated, PD_ROTATED_MAX);
    return e ? e : read_scaling(w);
}

/* A window that only some layers have, as Gemma's, is not done. */
static pd_err read_window(gguf_weights *w) {
    pd_model_info *i = &w->base.info;
    char key[KEY];
    size_t n;
    uint64_t v;
    key_of(i, "attention.sliding_window_pattern", key);
    if (pd_gguf_count(w->g, key, &n) || pd_gguf_u64(w->g, key, &v))
        return pd_fail(PD_EUNSUPPORTED,
                       "windows of attention that differ between layers are not done here");
    if (pd_gguf_count(w->g, key_of(i, "attention.sliding_window", key), &n))
        return pd_fail(PD_EUNSUPPORTED,
                       "windows of attention that differ between layers are not done here");
    return count_if(w, "attention.sliding_window", &i->window);
}

/* Whether attention and feed-forward part run from one x is GPT-NeoX's to choose. */
static void read_parallel(gguf_weights *w) {
    char key[KEY];
    if (w->base.info.parallel)
        (void)pd_gguf_bool(w->g, key_of(&w->base.info, "use_parallel_residual", key),
                           &w->base.info.parallel);
}

static pd_err read_arch(gguf_weights *w) {
    pd_model_info *i = &w->base.info;
    char arch[sizeof i->arch];
    pd_str s;
    if (!pd_gguf_str(w->g, "general.architecture", &s))
        return pd_fail(PD_EFORMAT, "the model file names no architecture");
    copy_text(arch, sizeof arch, s);
    for (size_t k = 0; k < sizeof archs / sizeof *archs; k++)
        if (strcmp(arch, archs[k].name) == 0) {
            *i = archs[k].info;
            w->fused = archs[k].fused;
        }
    memcpy(i->arch, arch, sizeof arch);
    for (size_t k = 0; k < sizeof archs / sizeof *archs; k++)
        if (strcmp(arch, archs[k].name) == 0)
            return PD_OK;
    return pd_fail(PD_EUNSUPPORTED,
                   "architecture %s is not done here (llama, qwen2, qwen3, gpt2 and gptneox are)",
                   arch);
}

static pd_err read_vocab(gguf_weights *w) {
    const pd_tensor *t = pd_gguf_tensor(w->g, "token_embd.weight");
    if (!t)
        return pd_fail(PD_EFORMAT, "the model file has no tensor token_embd.weight");
    if (t->shape[1] < 1 || t->shape[1] > 1 << 22)
        return pd_fail(PD_EFORMAT, "a vocabulary of %" PRIu64 " tokens", t->shape[1]);
    w->base.info.vocab = (uint32_t)t->shape[1];
    w->base.info.tied = !pd_gguf_tensor(w->g, "output.weight");
    return PD_OK;
}

static pd_err read_info(gguf_weights *w) {
    pd_model_info *i = &w->base.info;
    pd_str s;
    pd_err e = read_arch(w);
    if (e)
        return e;
    if (pd_gguf_str(w->g, "general.name", &s))
        copy_text(i->name, sizeof i->name, s);
    const struct {
        const char *key;
        uint32_t max, *out;
    } counts[] = {{"block_count", 1024, &i->n_layers},
                  {"embedding_length", 1 << 16, &i->width},
                  {"feed_forward_length", 1 << 20, &i->ff},
                  {"context_length", 1 << 24, &i->context}};
    for (size_t k = 0; k < sizeof counts / sizeof *counts && !e; k++)
        e = count_of(w, counts[k].key, counts[k].max, counts[k].out);
    double eps = -1.0;
    char key[KEY];
    key_of(i,
           i->norm == PD_NORM_RMS ? "attention.layer_norm_rms_epsilon"
                                  : "attention.layer_norm_epsilon",
           key);
    if (!e && (!pd_gguf_f64(w->g, key, &eps) || !(eps >= 0.0 && eps < 1.0)))
        e = pd_fail(PD_EFORMAT, "%s is missing or not a small number", key);
    i->eps = (float)eps;
    if (!e)
        e = read_heads(w);
    if (!e)
        e = read_rope(w);
    if (!e)
        e = read_window(w);
    read_parallel(w);
    if (!e)
        e = read_vocab(w);
    return e ? e : pd_info_check(i);
}

/* ---- tensors ---- */

enum { NAME = 64 };

static bool is_qkv(pd_role role) {
    return role == PD_ROLE_Q || role == PD_ROLE_K || role == PD_ROLE_V;
}

static const char *name_of(const gguf_weights *w, pd_slot s, char out[NAME]) {
    static const char *const names[PD_ROLES] = {[PD_ROLE_EMBED] = "token_embd",
                                                [PD_ROLE_POSITIONS] = "position_embd",
                                                [PD_ROLE_OUT_NORM] = "output_norm",
                                                [PD_ROLE_HEAD] = "output",
                                                [PD_ROLE_ATTN_NORM] = "attn_norm",
                                                [PD_ROLE_Q] = "attn_q",
                                                [PD_ROLE_K] = "attn_k",
                                                [PD_ROLE_V] = "attn_v",
                                                [PD_ROLE_O] = "attn_output",
                                                [PD_ROLE_Q_NORM] = "attn_q_norm",
                                                [PD_ROLE_K_NORM] = "attn_k_norm",
                                                [PD_ROLE_FFN_NORM] = "ffn_norm",
                                                [PD_ROLE_GATE] = "ffn_gate",
                                                [PD_ROLE_UP] = "ffn_up",
                                                [PD_ROLE_DOWN] = "ffn_down"};
    const char *name = w->fused && is_qkv(s.role) ? "attn_qkv" : names[s.role];
    const char *end = s.bias ? "bias" : "weight";
    if (s.role < PD_ROLE_ATTN_NORM)
        snprintf(out, NAME, "%s.%s", name, end);
    else
        snprintf(out, NAME, "blk.%" PRIu32 ".%s.%s", s.layer, name, end);
    return out;
}

/* A tensor of the file by name, marked as seen. */
static const pd_tensor *take(gguf_weights *w, const char *name) {
    const pd_tensor *t = pd_gguf_tensor(w->g, name);
    for (size_t i = 0; t && i < pd_gguf_tensors(w->g); i++)
        if (pd_gguf_tensor_at(w->g, i) == t)
            w->seen[i] = true;
    return t;
}

/* The tensor of a name has to have rows of `cols`; one row is a vector. */
static pd_err check_shape(const pd_tensor *t, uint64_t rows, uint64_t cols) {
    size_t block = pd_quant_block(t->type);
    if (t->shape[0] != cols || t->shape[1] != rows || t->shape[2] != 1 || t->shape[3] != 1)
        return pd_fail(PD_EFORMAT,
                       "tensor %s has shape %" PRIu64 " x %" PRIu64
                       ", but the file's own keys ask for %" PRIu64 " x %" PRIu64,
                       t->name, t->shape[0], t->shape[1], cols, rows);
    if (!block)
        return pd_fail(PD_EUNSUPPORTED, "tensor %s is of type %s, which is not done here", t->name,
                       pd_quant_name(t->type));
    if (cols % block || t->size_bytes < rows * cols / block * pd_quant_block_bytes(t->type))
        return pd_fail(PD_EFORMAT, "tensor %s is shorter than its shape", t->name);
    return PD_OK;
}

/* Whether the type is one that is read: its first block is. */
static pd_err check_type(const pd_tensor *t) {
    float block[256];
    size_t n = pd_quant_block(t->type);
    pd_err e = n > sizeof block / sizeof *block ? PD_EUNSUPPORTED
                                                : pd_quant_read(t->type, t->data, n, block);
    return e ? pd_fail(PD_EUNSUPPORTED, "tensor %s is of type %s, which is not done here", t->name,
                       pd_quant_name(t->type))
             : PD_OK;
}

static pd_err place_slot(gguf_weights *w, pd_slot s) {
    const pd_model_info *i = &w->base.info;
    uint32_t rows, cols, q = i->n_heads * i->head_width, kv = i->n_kv_heads * i->head_width;
    uint64_t all_rows, all_cols;
    char name[NAME];
    place *p = &w->at[pd_slot_number(s)];
    (void)pd_slot_shape(i, s, &rows, &cols);
    all_rows = rows;
    all_cols = cols;
    p->t = take(w, name_of(w, s, name));
    if (!p->t)
        return pd_fail(PD_EFORMAT, "the model file has no tensor %s", name);
    if (w->fused && is_qkv(s.role)) {
        uint32_t before = s.role == PD_ROLE_Q ? 0 : s.role == PD_ROLE_K ? q : q + kv;
        p->from = s.bias ? before : (size_t)before * cols;
        *(s.bias ? &all_cols : &all_rows) = q + 2 * (uint64_t)kv;
    }
    pd_err e = check_shape(p->t, all_rows, all_cols);
    if (!e)
        e = check_type(p->t);
    if (!e && (p->from % pd_quant_block(p->t->type) || cols % pd_quant_block(p->t->type)))
        e = pd_fail(PD_EUNSUPPORTED, "tensor %s cannot be cut at whole blocks of %s", p->t->name,
                    pd_quant_name(p->t->type));
    return e;
}

/* Divisors of the rotary frequencies, beside what a key says. */
static pd_err read_divisors(gguf_weights *w) {
    pd_model_info *i = &w->base.info;
    float divisor[PD_ROTATED_MAX / 2];
    const pd_tensor *t = i->rotated ? pd_gguf_tensor(w->g, "rope_freqs.weight") : NULL;
    if (!t)
        return PD_OK;
    pd_err e = check_shape(take(w, t->name), 1, i->rotated / 2);
    if (!e)
        e = check_type(t);
    if (!e)
        e = pd_quant_read(t->type, t->data, i->rotated / 2, divisor);
    for (uint32_t k = 0; k < i->rotated / 2 && !e; k++) {
        if (!(divisor[k] > 0.0f))
            e = pd_fail(PD_EFORMAT, "%s holds a divisor that is not positive", t->name);
        i->rope_divisor[k] = divisor[k] * (i->rope_divisor[k] > 0.0f ? i->rope_divisor[k] : 1.0f);
    }
    return e ? e : pd_info_check(i);
}

static pd_err place_all(gguf_weights *w) {
    pd_err e = read_divisors(w);
    for (pd_slot s = {.role = PD_ROLES}; !e && pd_slot_next(&w->base.info, &s);)
        e = place_slot(w, s);
    for (size_t i = 0; i < pd_gguf_tensors(w->g) && !e; i++)
        if (!w->seen[i])
            e = pd_fail(PD_EUNSUPPORTED, "tensor %s is not part of the %s architecture done here",
                        pd_gguf_tensor_at(w->g, i)->name, w->base.info.arch);
    return e;
}

static pd_err read_slot(const pd_weights *base, pd_slot s, uint32_t first, uint32_t rows,
                        float *out) {
    const gguf_weights *w = (const gguf_weights *)base;
    const place *p = &w->at[pd_slot_number(s)];
    uint32_t all, cols;
    (void)pd_slot_shape(&base->info, s, &all, &cols);
    size_t at = p->from + (size_t)first * cols, block = pd_quant_block(p->t->type);
    return pd_quant_read(p->t->type, p->t->data + at / block * pd_quant_block_bytes(p->t->type),
                         (size_t)rows * cols, out);
}

static void forget(const pd_weights *base) {
    pd_gguf_forget(((const gguf_weights *)base)->g);
}

static void close_weights(pd_weights *base) {
    gguf_weights *w = (gguf_weights *)base;
    free(w->seen);
    free(w->at);
    free(w);
}

pd_err pd_weights_of_gguf(const pd_gguf *g, pd_weights **out) {
    gguf_weights *w = calloc(1, sizeof *w);
    if (!w)
        return pd_fail(PD_ENOMEM, "no memory for a model's tensors");
    w->g = g;
    w->base.read = read_slot;
    w->base.forget = forget;
    w->base.close = close_weights;
    pd_err e = read_info(w);
    if (!e) {
        w->seen = calloc(pd_gguf_tensors(g) + 1, sizeof *w->seen);
        w->at = calloc((size_t)w->base.info.n_layers * PD_ROLES * 2, sizeof *w->at);
        e = w->seen && w->at ? place_all(w) : pd_fail(PD_ENOMEM, "no memory for a model's tensors");
    }
    if (e) {
        close_weights(&w->base);
        return e;
    }
    *out = &w->base;
    return PD_OK;
}
