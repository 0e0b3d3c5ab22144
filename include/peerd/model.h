/* model.h - a decoder-only transformer: packed batches in, losses (and gradients) out.
 *
 *   data > tokens > LOSS PAIR > byte > ledger > gossip > replay > weights
 *
 *   x = E[ids];  per layer:  x += O(attn(rope(Q h), rope(K h), V h)), h = rms(x);   x += D(silu(G h) . U h), h = rms(x)
 *   logits = W_head rms(x)                          [1], [2], [3]; every matrix W may carry a low-rank or a whole addition
 *
 * That is Llama.  Qwen2, Qwen3, Mistral, GPT-2, GPT-NeoX and OPT are the same passes with the differences that
 * pd_model_info names.
 *
 * Weights are const after open, packed once for oneDNN (bf16 or f32) in huge pages.  A work area is sized once; after
 * that no step allocates.  One traversal evaluates several sides: the batch is laid once a side, base products run once
 * over all rows, the low-rank addition per side.  Sequences are packed without padding; attention stays within a
 * sequence.  Logits exist only in slices, and only for positions that carry loss.
 * Losses need not be bit-equal between machines.  Uses one pool of threads, oneDNN's; one caller at a time per work.
 *
 * Shapes: T tokens of a batch, S sides, R = S*T rows, C width, F feed-forward width, H heads, HD head width, V vocabulary,
 *         L layers, r rank.  Fastest last.
 *
 * [1] Touvron et al. 2023, LLaMA, 2302.13971       [2] Su et al. 2021, RoFormer, 2104.09864
 * [3] Ainslie et al. 2023, GQA, 2305.13245         [4] Hu et al. 2021, LoRA, 2106.09685
 * The judge of every family is Hugging Face transformers (tests/vectors/make_families.py).
 */
#ifndef PEERD_MODEL_H
#define PEERD_MODEL_H

#include "peerd/data.h"

typedef enum pd_compute { PD_COMPUTE_AUTO, PD_COMPUTE_F32, PD_COMPUTE_BF16 } pd_compute;

/* The matrices of a layer that may carry an addition, in this order everywhere (spaces, files, gradients). */
typedef enum pd_target { PD_Q, PD_K, PD_V, PD_O, PD_GATE, PD_UP, PD_DOWN, PD_TARGETS } pd_target;
extern const char *const pd_target_names[PD_TARGETS]; /* "q" "k" "v" "o" "gate" "up" "down" */

enum { PD_ROTATED_MAX = 256 }; /* elements of a head that RoPE may turn */

typedef struct pd_model_opts {
    pd_compute compute; /* AUTO: bf16 where the processor has it (AVX-512 BF16 or AMX) and a short measurement finds it
                           faster, else f32 */
    unsigned threads;   /* 0: as many as the cores this process may use */
    bool backward;      /* also pack what reverse mode needs (doubles the memory of the targets) */
} pd_model_opts;

/* What families of decoder-only transformers differ in.  All zero is Llama. */
typedef enum pd_norm_kind { PD_NORM_RMS, PD_NORM_LAYER } pd_norm_kind; /* LAYER: minus the mean, plus a bias */
typedef enum pd_activation { PD_ACT_SILU, PD_ACT_GELU, PD_ACT_GELU_TANH, PD_ACT_RELU } pd_activation;
typedef enum pd_position {
    PD_POSITION_PAIRS,  /* RoPE turns elements 2i and 2i + 1 of a head together: GGUF's llama */
    PD_POSITION_HALVES, /* elements i and i + rotated/2: Hugging Face, and every other architecture of GGUF */
    PD_POSITION_LEARNED /* x = E[id] + P[position]; no sequence may be longer than `context` */
} pd_position;

typedef struct pd_model_info {
    char name[64], arch[16];   /* arch: as GGUF calls it, "opt" where GGUF has no word */
    uint32_t n_layers, width, n_heads, n_kv_heads, head_width, ff, vocab, context;
    float eps;                 /* of every norm */
    bool tied;                 /* the head is the embedding */
    pd_norm_kind norm;
    pd_activation activation;
    bool no_gate;              /* D act(U h) instead of D (act(G h) . U h): there is no target PD_GATE */
    bool qkv_bias, o_bias, ffn_bias; /* y = W x + b of q, k and v; of o; of up and down */
    bool qk_norm;              /* each head of q and of k through an RMS norm of its own before RoPE */
    bool parallel;             /* x += O(attn(norm1 x)) + FFN(norm2 x), both of the same x */
    uint32_t window;           /* keys a query sees, its own included; 0: all before it */
    pd_position position;
    uint32_t rotated;          /* leading elements of a head that RoPE turns; even, 0 where positions are learned */
    float rope_base;
    float rope_divisor[PD_ROTATED_MAX / 2]; /* frequency i = base^(-2i / rotated) / divisor[i]; 0 stands for 1 */
    uint64_t n_params;
    pd_compute compute;        /* what was chosen */
    size_t packed_bytes;       /* memory of the packed weights */
    size_t reverse_bytes;      /* of them, what reverse mode added: about as much as the targets and the head */
} pd_model_info;

typedef struct pd_model pd_model;

/* Pack a GGUF file's model (weights.h has the way for other files).  Borrows nothing from g after return.  gives *out.
 * Errors: PD_EUNSUPPORTED (architecture, tensor type, bf16 asked for on a processor without it; named),
 *         PD_EFORMAT (missing tensor, wrong shape; named), PD_ENOMEM (with `backward` also where this machine has
 *         less memory free than the weights would take; both are named).
 */
PD_CHECKED pd_err pd_model_open(const pd_gguf *g, const pd_model_opts *opts, pd_model **out);
void pd_model_close(pd_model *m);
const pd_model_info *pd_model_info_of(const pd_model *m);

/* Shape of a target matrix W (out, in): y = W x.  The same in every layer; 0, 0 where the family has none. */
void pd_model_shape(const pd_model_info *info, pd_target t, uint32_t *out, uint32_t *in);

/* The targets that the family has: bit t for target t. */
uint32_t pd_model_targets(const pd_model_info *info);

/* Low-rank additions to the target matrices: y += up^T (down x), i.e. dW = sum_k up[k] down[k]^T.
 * Entry [layer * PD_TARGETS + target]; rank 0 = none.  Everything borrowed.  The factor of a LoRA (alpha / r) is the
 * caller's to fold into `up`.
 */
typedef struct pd_lowrank {
    uint32_t rank;
    const float *down; /* (rank, in)  */
    const float *up;   /* (rank, out) : transposed, so that rank is slowest in both */
} pd_lowrank;

/* Whole additions to target matrices W (out, in): dW[o][i] = x_k,  k = first + i out + o  (o runs fastest, as packed
 * weights lie), where
 *
 *   x_k = c_k,  or  unit a_k + s_k eps
 *
 * Nothing is stored a matrix: W + dW is made in packed form just before its product, a copy a side.  Everything
 * borrowed.
 */
#define PD_DENSE_NONE UINT64_MAX
typedef struct pd_dense {
    const uint64_t *first; /* (L * PD_TARGETS) of each matrix; PD_DENSE_NONE: it is W alone */
    uint64_t n;            /* entries of the arrays below */
    const float *c;        /* or NULL: */
    const int32_t *a;      /* or NULL for zero */
    const uint8_t *signs;  /* s_k = +1 where bit k%8 of byte k/8 is set, else -1; or NULL for no perturbation */
    float unit, eps;
} pd_dense;

typedef struct pd_adapter {
    const pd_lowrank *at;  /* (L * PD_TARGETS), or NULL for none */
    const pd_dense *dense; /* or NULL */
} pd_adapter;

/* x_k. */
static inline float pd_dense_at(const pd_dense *d, uint64_t k) {
    if (d->c)
        return d->c[k];
    float x = d->a ? (float)d->a[k] * d->unit : 0.0f;
    if (d->signs)
        x += d->signs[k / 8] >> (k % 8) & 1 ? d->eps : -d->eps;
    return x;
}

enum {
    PD_SIDES_MAX = 2,
    PD_RANK_MAX = 64,
    PD_BATCH_CHOICES = 16, /* a batch of T tokens and N examples holds T + 16 N choices */
};

/* A batch of examples, packed.  Capacity is fixed at open.  Ids must be below the model's vocabulary. */
typedef struct pd_batch pd_batch;
PD_CHECKED pd_err pd_batch_open(uint32_t max_tokens, uint32_t max_examples, pd_batch **out);
void pd_batch_close(pd_batch *b);
void pd_batch_clear(pd_batch *b);
/* Append one example; false (batch unchanged) if it does not fit.  Copies. */
bool pd_batch_add(pd_batch *b, const pd_example *e);
uint32_t pd_batch_tokens(const pd_batch *b);
uint32_t pd_batch_examples(const pd_batch *b);
uint32_t pd_batch_units(const pd_batch *b); /* losses: scored tokens and choice records, in the order added */

/* Loss of one side.  A unit is a scored token (NLL) or a record (CHOICE); loss = sum / units. */
typedef struct pd_loss {
    double sum;        /* of the units' losses, nats; not finite if any is not */
    uint64_t units;
    uint64_t choices;  /* units that were choice records ... */
    uint64_t correct;  /* ... and those whose best choice was the answer */
} pd_loss;
static inline double pd_loss_mean(const pd_loss *l) {
    return l->units ? l->sum / (double)l->units : 0.0;
}

/* Activations of one caller.  sides is 1 or 2.  backward keeps the residual stream of every layer as well (T C 4 bytes
 * a layer) and computes a layer's other activations again when its turn comes.
 */
typedef struct pd_work pd_work;
PD_CHECKED pd_err pd_work_open(const pd_model *m, uint32_t max_tokens, unsigned sides, bool backward, pd_work **out);
void pd_work_close(pd_work *w);
size_t pd_work_bytes(const pd_work *w);
/* From now on reverse mode ends at this layer (0 after open): the sink sees none of those below, which saves two of
 * the three passes that they cost.  Needs a work opened with `backward`.
 */
void pd_work_backward_to(pd_work *w, uint32_t layer);

/* Losses of a batch under each side's adapter.  Where positions are learned, no sequence of the batch may be longer
 * than info->context: whoever reads data sees to that (pd_data_opts.max_tokens).
 *
 *   sides  in   (n) adapters, n <= sides of the work; NULL = the base alone.  Rank may differ between sides and targets.
 *   out    out  (n) losses
 *   nll    out  if not NULL: the losses of the units of side 0 in batch order (pd_batch units), for tests and eval
 */
void pd_model_forward(const pd_model *m, pd_work *w, const pd_batch *b, const pd_adapter *const sides[], unsigned n,
                      pd_loss *out, float *nll);

/* The lower layers' part of a batch, made once: the residual stream (T, C) at the start of `layer`.  Probes that differ
 * from there on alone (space.h) begin with it, both sides of all probes of the batch: K of them cost l/L + 2 K (1 - l/L)
 * forward passes instead of 2 K.
 *
 * Errors: PD_EUSAGE (layer outside 1 .. L - 1), PD_ENOMEM.
 */
typedef struct pd_stem pd_stem;
PD_CHECKED pd_err pd_stem_open(const pd_model *m, uint32_t max_tokens, uint32_t layer, pd_stem **out);
void pd_stem_close(pd_stem *s);
/* Was it made of this batch, which has not changed since? */
bool pd_stem_holds(const pd_stem *s, const pd_batch *b);
/* Run the layers below the stem's, under one side (NULL: the base).  Overwrites what it held. */
void pd_model_stem(const pd_model *m, pd_work *w, const pd_batch *b, const pd_adapter *side, pd_stem *out);
/* pd_model_forward from there on, of the batch that the stem holds.  The losses are pd_model_forward's, if below the
 * stem's layer each side is as the stem's was: bit for bit on one side, whose products are the same; on two up to
 * rounding, since a product of T rows may run in other blocks than one of 2 T (in f32 with AVX2, on all models of the
 * tests, the bits are equal, too).
 */
void pd_model_forward_from(const pd_model *m, pd_work *w, const pd_batch *b, const pd_stem *stem,
                           const pd_adapter *const sides[], unsigned n, pd_loss *out, float *nll);

/* Loss and its gradient through one side.  For each target matrix that the family has, in backward order, `sink` sees
 * what its gradient is made of:  dL/dW = dy^T x  (out, in), L = loss sum / units, both matrices row-major over the T rows of the batch.
 * They are borrowed until sink returns.  Needs a model and a work opened with `backward`.
 */
typedef void pd_grad_sink(void *ctx, uint32_t layer, pd_target t, uint32_t rows, const float *x, const float *dy);
void pd_model_backward(const pd_model *m, pd_work *w, const pd_batch *b, const pd_adapter *side, pd_grad_sink *sink,
                       void *ctx, pd_loss *out);

/* Generation: append ids to a sequence's cache and get the logits (V) of the last one.
 * Errors: PD_ENOMEM, PD_EUSAGE (more tokens than there are learned positions).
 */
typedef struct pd_session pd_session;
PD_CHECKED pd_err pd_session_open(const pd_model *m, uint32_t max_tokens, pd_session **out);
void pd_session_close(pd_session *s);
/* Errors: PD_EFULL (max_tokens reached). */
PD_CHECKED pd_err pd_session_push(pd_session *s, const pd_adapter *side, const uint32_t *ids, uint32_t n, float *logits);

/* Dense helper on the same engine and threads (the one door to oneDNN): c (m, n) = alpha * op(a) op(b) + beta * c,
 * float32, row-major; ta: a is stored (k, m); tb: b is stored (n, k).
 */
void pd_gemm(bool ta, bool tb, size_t m, size_t n, size_t k, float alpha, const float *a, const float *b, float beta,
             float *c);

/* Run fn(ctx, i) for i in [0, n) on the engine's pool. */
void pd_parallel(size_t n, void (*fn)(void *ctx, size_t i), void *ctx);

#endif
