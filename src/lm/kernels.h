/* kernels.h - the loops between the matrix products, each over a range of rows in one thread.
 *
 * kernels.c, kernels_family.c, kernels_dense.c and attention.c are compiled once a processor
 * generation (plain x86-64, AVX2, AVX-512), and the right table is chosen at run time.  Compiler
 * function clones would do the same by ifunc, which runs before the sanitizers are ready; and a
 * table leaves inlining between the loops of one generation free.
 *
 * "half" arguments: true means that the array is bf16, else float.  Activations that only feed a
 * product are written in the product's type at once.
 */
#ifndef PEERD_LM_KERNELS_H
#define PEERD_LM_KERNELS_H

#include "peerd/model.h"

enum {
    PD_LANES = 16, /* floats a vector; head widths are padded to it where loops run along them */
    PD_QUERIES_MAX = 32, /* queries of one call of attend */
    PD_KEYS_PAD = 64,    /* floats readable beyond the last key of a row of kt */
    PD_HEAD_WIDTH_MAX = 256,
};

typedef struct pd_heads {            /* how a row of q | k | v is laid out */
    uint32_t n, n_kv, width, padded; /* padded: width rounded up to PD_LANES */
    uint32_t rotated;                /* leading elements of a head that RoPE turns; even */
    bool halves; /* it turns elements i and i + rotated/2 together, else 2i and 2i + 1 */
} pd_heads;

/* Softmax attention of n queries of one head over the keys before and at each. */
typedef struct pd_attend {
    const float *q; /* (n, q_ld), already times 1/sqrt(width) */
    size_t q_ld;
    uint32_t n, first; /* query i sees keys 0 .. first + i */
    uint32_t window;   /* and of these only so many last ones, where not 0 */
    const float *kt;   /* (width, kt_ld), keys transposed so that the loop runs along keys */
    size_t kt_ld;
    const float *v; /* (keys, padded) */
    uint32_t width, padded;
    void *out; /* (n, out_ld), float or bf16 */
    size_t out_ld;
    bool half;
    float *lse; /* (n) log-sum-exp of the scores, or NULL */
} pd_attend;

/* Its reverse, for all queries of one head of one sequence; adds to dk and dv. */
typedef struct pd_attend_back {
    const float *q, *dout, *out; /* (n, q_ld), (n, out_ld), (n, out_ld) */
    size_t q_ld, out_ld;
    uint32_t n, window;
    const float *kt, *vt; /* (width, kt_ld) */
    size_t kt_ld;
    const float *k; /* (n, padded) */
    uint32_t width, padded;
    const float *lse; /* (n) */
    float scale;      /* 1/sqrt(width), which q carries */
    float *dq;        /* (n, dq_ld), of the unscaled q */
    size_t dq_ld;
    float *dk, *dv; /* (n, padded) */
} pd_attend_back;

typedef struct pd_kernels {
    const char *name;
    void (*to_half)(size_t n, const float *x, uint16_t *out);
    void (*from_half)(size_t n, const uint16_t *x, float *out);

    /* out = x / sqrt(mean(x^2) + eps) * w, per row */
    void (*rms)(uint32_t rows, uint32_t width, const float *x, const float *w, float eps, void *out,
                bool half);
    /* out (rows, n) = silu(gate) * up; gu (rows, 2n) = gate | up */
    void (*silu)(uint32_t rows, uint32_t n, const float *gu, void *out, bool half);
    /* y (rows, y_ld) += (x down^T) up; x (rows, in) */
    void (*lowrank)(uint32_t rows, uint32_t in, uint32_t out, const void *x, bool half,
                    const pd_lowrank *a, float *y, size_t y_ld);
    /* Turn q and k in place by each row's position, scale q, and lay keys and values out for
     * attend. rot (positions, rotated/2, 2) cosine and sine;  kt (n_kv, width, ld), v (n_kv, ld,
     * padded): slots from `slot` on */
    void (*split)(const pd_heads *h, uint32_t rows, float *qkv, const uint32_t *pos,
                  const float *rot, uint32_t slot, float *kt, float *v, size_t ld);
    void (*attend)(const pd_attend *a);
    /* Fold a slice of logits (rows, n) into each row's running maximum and sum of exponentials. */
    void (*fold)(uint32_t rows, uint32_t n, const float *logits, float *max, float *sum);
    float (*dot)(uint32_t n, const float *a, const void *b, bool half);

    /* Reverse mode. */
    void (*rms_back)(uint32_t rows, uint32_t width, const float *x, const float *w, float eps,
                     const float *dy, float *dx);
    void (*silu_back)(uint32_t rows, uint32_t n, const float *gu, const float *dact, float *dgate,
                      float *dup);
    /* dx (rows, in) += (dy up^T) down */
    void (*lowrank_back)(uint32_t rows, uint32_t in, uint32_t out, const float *dy,
                         const pd_lowrank *a, float *dx);
    /* From q | k | v after split: k (n_kv, ld, padded) and vt (n_kv, width, ld). */
    void (*split_back)(const pd_heads *h, uint32_t rows, const float *qkv, uint32_t slot, float *k,
                       float *vt, size_t ld);
    /* Turn back gradients of n heads, (rows, n * width) in place. */
    void (*unturn)(const pd_heads *h, uint32_t rows, uint32_t n, float *d, const uint32_t *pos,
                   const float *rot);
    void (*attend_back)(const pd_attend_back *a);
    /* d = weight[row] * softmax(logits) of a slice, in the type of a product's input; the target's
     * -1 is the caller's. */
    void (*softmax_back)(uint32_t rows, uint32_t n, const float *logits, const float *lse,
                         const float *weight, void *d, bool half);

    /* What Llama does not need. */

    /* out = (x - mean) / sqrt(mean((x - mean)^2) + eps) * w + b, per row */
    void (*layer)(uint32_t rows, uint32_t width, const float *x, const float *w, const float *b,
                  float eps, void *out, bool half);
    void (*layer_back)(uint32_t rows, uint32_t width, const float *x, const float *w, float eps,
                       const float *dy, float *dx);
    /* y (rows, y_ld) += b (n) */
    void (*bias)(uint32_t rows, uint32_t n, const float *b, float *y, size_t y_ld);
    /* Each of the n heads of x (rows, ld) through an RMS norm with weights w (width), in place. */
    void (*norm_heads)(uint32_t rows, uint32_t n, uint32_t width, const float *w, float eps,
                       float *x, size_t ld);
    /* Its reverse: d (rows, n * width) in place; raw (rows, raw_ld) from before the norm. */
    void (*norm_heads_back)(uint32_t rows, uint32_t n, uint32_t width, const float *w, float eps,
                            const float *raw, size_t raw_ld, float *d);
    /* out (n) = f(x), f not SiLU;  dx = dact f'(x) */
    void (*act)(pd_activation kind, size_t n, const float *x, void *out, bool half);
    void (*act_back)(pd_activation kind, size_t n, const float *x, const float *dact, float *dx);

    /* Weights of a side's own: out (n) = w (n) + x_k, x_{k+1}, .. */
    void (*shift)(const pd_dense *d, uint64_t k, uint32_t n, const float *w, float *out);
    /* The same in bf16, two inputs a word: the low halves + x_k0.., the high halves + x_k1.. */
    void (*shift_pairs)(const pd_dense *d, uint64_t k0, uint64_t k1, uint32_t n, const uint32_t *w,
                        uint32_t *out);
} pd_kernels;

/* The table for this processor. */
const pd_kernels *pd_kernels_get(void);

static inline float pd_bf16_to_float(uint16_t h) {
    union {
        uint32_t u;
        float f;
    } c = {.u = (uint32_t)h << 16};
    return c.f;
}

/* Round to nearest even; a NaN stays one. */
static inline uint16_t pd_float_to_bf16(float f) {
    union {
        float f;
        uint32_t u;
    } c = {.f = f};
    uint32_t up = c.u + 0x7fff + (c.u >> 16 & 1);
    return (uint16_t)((f != f ? c.u | 0x400000 : up) >> 16);
}

#endif
