/* weights.h - what a model file gives to the engine: the description of its family, and tensors by
 * what they do.
 *
 *   DATA > TOKENS > LOSS PAIR > byte > ledger > gossip > replay > weights
 *
 * A reader (GGUF, a Hugging Face folder) turns names, keys, element types and layouts into this;
 * the engine packs from it and knows no file.  A reader checks everything at its open: every tensor
 * that the description needs is there with the shape below, and every tensor of the file has a
 * role; so that nothing of a model that opens is computed approximately, and reading fails only for
 * want of memory or of the file's bytes.
 *
 * Conventions of the engine, to which a reader converts:
 *   - a matrix is W (out, in), y = W x, rows slowest (GPT-2's Conv1D of a Hugging Face folder lies
 * transposed);
 *   - q, k and v are asked for one by one; a reader of a fused matrix answers with the rows of each
 *     (GPT-NeoX's folder interleaves them by head, its GGUF file holds q, k, v one after the
 * other);
 *   - row p of PD_ROLE_POSITIONS is added at position p (OPT's table begins with two rows that
 * never are);
 *   - rows of q and k within a head stand as the file has them: info->position says which rows RoPE
 * turns together.  Adapters and gradients are in the same order.
 */
#ifndef PEERD_WEIGHTS_H
#define PEERD_WEIGHTS_H

#include "peerd/model.h"

typedef enum pd_role { /* (rows, columns); a norm's weight and every bias are one row */
                       PD_ROLE_EMBED,     /* (V, C) */
                       PD_ROLE_POSITIONS, /* (context, C) */
                       PD_ROLE_OUT_NORM,  /* (1, C) */
                       PD_ROLE_HEAD,      /* (V, C); not asked for where info->tied */
                       PD_ROLE_ATTN_NORM, /* (1, C), the first of a layer */
                       PD_ROLE_Q,         /* (H HD, C) */
                       PD_ROLE_K,
                       PD_ROLE_V,        /* (KV HD, C) */
                       PD_ROLE_O,        /* (C, H HD) */
                       PD_ROLE_Q_NORM,   /* (1, HD) */
                       PD_ROLE_K_NORM,   /* (1, HD) */
                       PD_ROLE_FFN_NORM, /* (1, C) */
                       PD_ROLE_GATE,
                       PD_ROLE_UP,   /* (F, C) */
                       PD_ROLE_DOWN, /* (C, F) */
                       PD_ROLES
} pd_role;

/* One tensor by what it does.  layer is 0 for those that no layer owns. */
typedef struct pd_slot {
    pd_role role;
    bool bias;
    uint32_t layer;
} pd_slot;

/* Shape of a slot under a description; false where the family has no such tensor (then nothing asks
 * for it). */
bool pd_slot_shape(const pd_model_info *info, pd_slot s, uint32_t *rows, uint32_t *cols);

/* "layer 3 q bias", for messages. */
enum { PD_SLOT_TEXT = 32 };
const char *pd_slot_text(pd_slot s, char out[PD_SLOT_TEXT]);

/* The next slot that the description has, by layer and role (layer 0 first has what no layer owns);
 * begin with {.role = PD_ROLES}.  False at the end.  For a reader's check of its file.
 */
bool pd_slot_next(const pd_model_info *info, pd_slot *s);

/* A slot's number, below 2 * PD_ROLES * n_layers: for tables of slots. */
static inline uint32_t pd_slot_number(pd_slot s) {
    return (s.layer * PD_ROLES + (uint32_t)s.role) * 2 + s.bias;
}

typedef struct pd_weights pd_weights;
struct pd_weights {
    /* Filled by the reader: everything but n_params, compute and packed_bytes. */
    pd_model_info info;
    /* Rows [first, first + rows) of a slot to out (rows, columns of pd_slot_shape), as float32.
     * Called from several threads at once, for slots that pd_slot_shape has and rows inside their
     * shape only. Errors: PD_EIO, PD_ENOMEM, PD_EUNSUPPORTED (an element type that is not done;
     * names the tensor).
     */
    pd_err (*read)(const pd_weights *w, pd_slot s, uint32_t first, uint32_t rows, float *out);
    void (*forget)(const pd_weights *w); /* let go of the memory that reading took so far; NULL: none */
    void (*close)(pd_weights *w);        /* frees w too */
};

/* Description and tensors of a GGUF file: architectures llama, qwen2, qwen3, gpt2 and gptneox.
 * gives *out, which borrows g until its close. Errors: PD_EUNSUPPORTED (architecture, a key's
 * value, a tensor without a role; named), PD_EFORMAT (missing key or tensor, wrong shape; named),
 * PD_ENOMEM.
 */
PD_CHECKED pd_err pd_weights_of_gguf(const pd_gguf *g, pd_weights **out);
/* NULL is fine. */
static inline void pd_weights_close(pd_weights *w) {
    if (w)
        w->close(w);
}

/* What is wrong with a description that no engine could run (zero or absurd counts, heads that do
 * not divide); a reader calls it once its numbers are filled in, before pd_slot_shape. Errors:
 * PD_EFORMAT, PD_EUNSUPPORTED; the text names the number and its bounds.
 */
PD_CHECKED pd_err pd_info_check(const pd_model_info *info);

/* Divisors of the rotary frequencies, info->rope_divisor, from a scaling's parameters; rotated and
 * rope_base have to be there already. linear  every frequency over `factor` llama3  wavelengths
 * beyond original / low over `factor`, below original / high untouched, between them blended
 * Source: Hugging Face transformers, modeling_rope_utils.py,
 * _compute_linear_scaling_rope_parameters and _compute_llama3_parameters.
 */
void pd_rope_linear(pd_model_info *info, double factor);
void pd_rope_llama3(pd_model_info *info, double factor, double low, double high, double original);

/* Pack a model from a reader.  As pd_model_open, which does this for a GGUF file; borrows nothing
 * after return. */
PD_CHECKED pd_err pd_model_pack(const pd_weights *w, const pd_model_opts *opts, pd_model **out);

#endif
