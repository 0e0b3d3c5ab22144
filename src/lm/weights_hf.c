/* weights_hf.c - the tensors of a Hugging Face folder by role: every shape checked, every tensor
 * accounted for.
 *
 * Names and layouts are those of transformers' modeling_*.py of each family:
 *
 *   plain       (rows, cols) as the engine asks
 *   shifted     the first rows are never used: OPT's positions begin at row 2
 *   transposed  GPT-2's Conv1D: (cols, rows), q | k | v side by side in one
 *   by head     GPT-NeoX: rows of head 0's q, k, v, then head 1's
 *   halves      Llama's q and k: see file_row
 *
 * A tensor that no role names is refused by name, but for the tables that old versions saved with
 * the weights (masks, rotary frequencies) and for the head of a model whose embedding serves as
 * one.
 */
#include "hf.h"
#include "peerd/quant.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct names {
    const char *prefix; /* before all but the head; some files leave it out */
    const char *layers; /* before a layer's number */
    const char *of[PD_ROLES];
    const char *ignored[4]; /* tables of a layer */
} names;

static const names all_names[] = {
    [HF_LLAMA] = {.prefix = "model.",
                  .layers = "layers.",
                  .of = {[PD_ROLE_EMBED] = "embed_tokens",
                         [PD_ROLE_OUT_NORM] = "norm",
                         [PD_ROLE_HEAD] = "lm_head",
                         [PD_ROLE_ATTN_NORM] = "input_layernorm",
                         [PD_ROLE_Q] = "self_attn.q_proj",
                         [PD_ROLE_K] = "self_attn.k_proj",
                         [PD_ROLE_V] = "self_attn.v_proj",
                         [PD_ROLE_O] = "self_attn.o_proj",
                         [PD_ROLE_Q_NORM] = "self_attn.q_norm",
                         [PD_ROLE_K_NORM] = "self_attn.k_norm",
                         [PD_ROLE_FFN_NORM] = "post_attention_layernorm",
                         [PD_ROLE_GATE] = "mlp.gate_proj",
                         [PD_ROLE_UP] = "mlp.up_proj",
                         [PD_ROLE_DOWN] = "mlp.down_proj"},
                  .ignored = {"self_attn.rotary_emb.inv_freq"}},
    [HF_GPT2] = {.prefix = "transformer.",
                 .layers = "h.",
                 .of = {[PD_ROLE_EMBED] = "wte",
                        [PD_ROLE_POSITIONS] = "wpe",
                        [PD_ROLE_OUT_NORM] = "ln_f",
                        [PD_ROLE_HEAD] = "lm_head",
                        [PD_ROLE_ATTN_NORM] = "ln_1",
                        [PD_ROLE_Q] = "attn.c_attn",
                        [PD_ROLE_K] = "attn.c_attn",
                        [PD_ROLE_V] = "attn.c_attn",
                        [PD_ROLE_O] = "attn.c_proj",
                        [PD_ROLE_FFN_NORM] = "ln_2",
                        [PD_ROLE_UP] = "mlp.c_fc",
                        [PD_ROLE_DOWN] = "mlp.c_proj"},
                 .ignored = {"attn.bias", "attn.masked_bias"}},
    [HF_NEOX] = {.prefix = "gpt_neox.",
                 .layers = "layers.",
                 .of = {[PD_ROLE_EMBED] = "embed_in",
                        [PD_ROLE_OUT_NORM] = "final_layer_norm",
                        [PD_ROLE_HEAD] = "embed_out",
                        [PD_ROLE_ATTN_NORM] = "input_layernorm",
                        [PD_ROLE_Q] = "attention.query_key_value",
                        [PD_ROLE_K] = "attention.query_key_value",
                        [PD_ROLE_V] = "attention.query_key_value",
                        [PD_ROLE_O] = "attention.dense",
                        [PD_ROLE_FFN_NORM] = "post_attention_layernorm",
                        [PD_ROLE_UP] = "mlp.dense_h_to_4h",
                        [PD_ROLE_DOWN] = "mlp.dense_4h_to_h"},
                 .ignored = {"attention.bias", "attention.masked_bias",
                             "attention.rotary_emb.inv_freq"}},
    [HF_OPT] = {.prefix = "model.decoder.",
                .layers = "layers.",
                .of = {[PD_ROLE_EMBED] = "embed_tokens",
                       [PD_ROLE_POSITIONS] = "embed_positions",
                       [PD_ROLE_OUT_NORM] = "final_layer_norm",
                       [PD_ROLE_HEAD] = "lm_head",
                       [PD_ROLE_ATTN_NORM] = "self_attn_layer_norm",
                       [PD_ROLE_Q] = "self_attn.q_proj",
                       [PD_ROLE_K] = "self_attn.k_proj",
                       [PD_ROLE_V] = "self_attn.v_proj",
                       [PD_ROLE_O] = "self_attn.out_proj",
                       [PD_ROLE_FFN_NORM] = "final_layer_norm",
                       [PD_ROLE_UP] = "fc1",
                       [PD_ROLE_DOWN] = "fc2"}},
};

enum { OPT_POSITIONS_BEFORE = 2, NAME = PD_GGUF_NAME_MAX + 1 };

typedef struct hf_weights {
    pd_weights base;
    const pd_safetensors *tensors;
    hf_layout layout;
    const char *prefix;
    bool *seen;           /* a flag a tensor of the folder */
    const pd_tensor **at; /* by pd_slot_number */
} hf_weights;

static bool is_qkv(pd_role role) {
    return role == PD_ROLE_Q || role == PD_ROLE_K || role == PD_ROLE_V;
}

static bool is_fused(const hf_weights *w, pd_role role) {
    return is_qkv(role) && (w->layout == HF_GPT2 || w->layout == HF_NEOX);
}

/* GPT-2's matrices within a layer. */
static bool is_transposed(const hf_weights *w, pd_slot s) {
    return w->layout == HF_GPT2 && !s.bias && s.role > PD_ROLE_ATTN_NORM &&
           s.role != PD_ROLE_FFN_NORM;
}

/* Where the file has row `row` of q, k or v.  A matrix of the three: q's rows, k's, v's (GPT-2), or
 * those of head 0, then head 1's (GPT-NeoX); they have equally many heads there.  Llama's q and k
 * lie in halves: rows i and i + half of a head are what RoPE turns together, which the engine has
 * side by side, as GGUF's files of that architecture do.
 */
static size_t file_row(const hf_weights *w, pd_role role, uint32_t row) {
    const pd_model_info *i = &w->base.info;
    uint32_t third = role == PD_ROLE_Q ? 0 : role == PD_ROLE_K ? 1 : 2, hd = i->head_width;
    uint32_t head = row / hd, at = row % hd;
    if (w->layout == HF_NEOX)
        return ((size_t)head * 3 + third) * hd + at;
    if (w->layout == HF_GPT2)
        return (size_t)third * i->n_heads * hd + row;
    if (i->position == PD_POSITION_PAIRS && role != PD_ROLE_V)
        return (size_t)head * hd + at % 2 * (hd / 2) + at / 2;
    return row;
}

/* ---- finding ---- */

static void name_of(const hf_weights *w, pd_slot s, char out[NAME]) {
    const names *n = &all_names[w->layout];
    const char *end = s.bias ? "bias" : "weight";
    if (s.role == PD_ROLE_HEAD)
        snprintf(out, NAME, "%s.%s", n->of[s.role], end);
    else if (s.role < PD_ROLE_ATTN_NORM)
        snprintf(out, NAME, "%s%s.%s", w->prefix, n->of[s.role], end);
    else
        snprintf(out, NAME, "%s%s%" PRIu32 ".%s.%s", w->prefix, n->layers, s.layer, n->of[s.role],
                 end);
}

static const pd_tensor *take(hf_weights *w, const char *name) {
    const pd_tensor *t = pd_safetensors_find(w->tensors, name);
    if (t)
        w->seen[pd_safetensors_index(w->tensors, t)] = true;
    return t;
}

static pd_err check_tensor(const hf_weights *w, const pd_tensor *t, uint64_t rows, uint64_t cols) {
    if (t->shape[0] != cols || t->shape[1] != rows || t->shape[2] != 1 || t->shape[3] != 1)
        return pd_fail(PD_EFORMAT,
                       "tensor %s has shape %" PRIu64 " x %" PRIu64
                       ", but config.json asks for %" PRIu64 " x %" PRIu64,
                       t->name, t->shape[1], t->shape[0], rows, cols);
    if (t->type == PD_SAFETENSORS_OTHER)
        return pd_fail(PD_EUNSUPPORTED,
                       "tensor %s has dtype %s, which is not supported (F32, F16 and BF16 are)",
                       t->name,
                       pd_safetensors_dtype(w->tensors, pd_safetensors_index(w->tensors, t)));
    return PD_OK;
}

static pd_err place_slot(hf_weights *w, pd_slot s) {
    uint32_t rows, cols;
    char name[NAME];
    (void)pd_slot_shape(&w->base.info, s, &rows, &cols);
    name_of(w, s, name);
    const pd_tensor *t = w->at[pd_slot_number(s)] = take(w, name);
    if (!t)
        return pd_fail(PD_EFORMAT, "the folder has no tensor %s", name);
    uint64_t all_rows = rows, all_cols = cols;
    if (is_fused(w, s.role))
        *(s.bias ? &all_cols : &all_rows) *= 3;
    if (w->layout == HF_OPT && s.role == PD_ROLE_POSITIONS)
        all_rows += OPT_POSITIONS_BEFORE;
    return is_transposed(w, s) ? check_tensor(w, t, all_cols, all_rows)
                               : check_tensor(w, t, all_rows, all_cols);
}

/* Mark what may lie there and is not needed. */
static void ignore(hf_weights *w) {
    const names *n = &all_names[w->layout];
    char name[NAME];
    if (w->base.info.tied) { /* the embedding serves, as in transformers, whatever a file brings */
        name_of(w, (pd_slot){.role = PD_ROLE_HEAD}, name);
        (void)take(w, name);
    }
    for (uint32_t layer = 0; layer < w->base.info.n_layers; layer++)
        for (int k = 0; k < 4 && n->ignored[k]; k++) {
            snprintf(name, sizeof name, "%s%s%" PRIu32 ".%s", w->prefix, n->layers, layer,
                     n->ignored[k]);
            (void)take(w, name);
        }
}

static pd_err place_all(hf_weights *w) {
    char name[NAME];
    pd_err e = PD_OK;
    w->prefix = all_names[w->layout].prefix;
    name_of(w, (pd_slot){.role = PD_ROLE_EMBED}, name);
    if (!pd_safetensors_find(w->tensors, name) &&
        pd_safetensors_find(w->tensors, name + strlen(w->prefix)))
        w->prefix = "";
    for (pd_slot s = {.role = PD_ROLES}; !e && pd_slot_next(&w->base.info, &s);)
        e = place_slot(w, s);
    if (e)
        return e;
    ignore(w);
    for (size_t i = 0; i < pd_safetensors_count(w->tensors); i++)
        if (!w->seen[i])
            return pd_fail(PD_EUNSUPPORTED,
                           "tensor %s is not part of the %s architecture done here",
                           pd_safetensors_at(w->tensors, i)->name, w->base.info.arch);
    return PD_OK;
}

/* ---- reading ---- */

/* n elements from element `at` on. */
static pd_err read_run(const pd_tensor *t, size_t at, size_t n, float *out) {
    return pd_quant_read(t->type, t->data + at * pd_quant_block_bytes(t->type), n, out);
}

/* Rows [first, first + rows) of W from its transpose, whose rows have `stride` elements. */
static pd_err read_transposed(const pd_tensor *t, size_t first, uint32_t rows, uint32_t cols,
                              float *out) {
    float run[256];
    size_t stride = t->shape[0];
    for (uint32_t c = 0; c < cols; c++)
        for (uint32_t r = 0; r < rows; r += 256) {
            uint32_t n = rows - r < 256 ? rows - r : 256;
            pd_err e = read_run(t, c * stride + first + r, n, run);
            if (e)
                return e;
            for (uint32_t k = 0; k < n; k++)
                out[(size_t)(r + k) * cols + c] = run[k];
        }
    return PD_OK;
}

static pd_err read_by_row(const hf_weights *w, const pd_tensor *t, pd_role role, uint32_t first,
                          uint32_t rows, uint32_t cols, float *out) {
    pd_err e = PD_OK;
    for (uint32_t r = 0; r < rows && !e; r++)
        e = read_run(t, file_row(w, role, first + r) * cols, cols, out + (size_t)r * cols);
    return e;
}

static pd_err read_slot(const pd_weights *base, pd_slot s, uint32_t first, uint32_t rows,
                        float *out) {
    const hf_weights *w = (const hf_weights *)base;
    const pd_tensor *t = w->at[pd_slot_number(s)];
    uint32_t all, cols;
    (void)pd_slot_shape(&base->info, s, &all, &cols);
    if (is_transposed(w, s))
        return read_transposed(t, is_qkv(s.role) ? file_row(w, s.role, first) : first, rows, cols,
                               out);
    if (is_qkv(s.role)) /* a bias is one row: its elements are what the matrix' rows are */
        return s.bias ? read_by_row(w, t, s.role, 0, cols, 1, out)
                      : read_by_row(w, t, s.role, first, rows, cols, out);
    if (w->layout == HF_OPT && s.role == PD_ROLE_POSITIONS)
        first += OPT_POSITIONS_BEFORE;
    return read_run(t, (size_t)first * cols, (size_t)rows * cols, out);
}

/* ---- the whole ---- */

static void forget(const pd_weights *base) {
    pd_safetensors_forget(((const hf_weights *)base)->tensors);
}

static void close_weights(pd_weights *base) {
    hf_weights *w = (hf_weights *)base;
    free(w->seen);
    free(w->at);
    free(w);
}

pd_err hf_weights_open(const cJSON *config, const pd_safetensors *tensors, pd_weights **out) {
    hf_weights *w = calloc(1, sizeof *w);
    if (!w)
        return pd_fail(PD_ENOMEM, "no memory for a model's tensors");
    w->tensors = tensors;
    w->base.read = read_slot;
    w->base.forget = forget;
    w->base.close = close_weights;
    pd_err e = hf_config_read(config, &w->base.info, &w->layout);
    if (e) {
        e = pd_fail_in(e, "config.json");
    } else {
        w->seen = calloc(pd_safetensors_count(tensors), sizeof *w->seen);
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
