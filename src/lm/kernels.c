/* kernels.c - norms, activations, adapters, head layout and log-sum-exp: row loops that the
 * compiler vectorises. */
#include "simd.h"

#include <string.h>

static void to_half(size_t n, const float *restrict x, uint16_t *restrict out) {
    for (size_t i = 0; i < n; i++)
        out[i] = pd_float_to_bf16(x[i]);
}

static void from_half(size_t n, const uint16_t *restrict x, float *restrict out) {
    for (size_t i = 0; i < n; i++)
        out[i] = pd_bf16_to_float(x[i]);
}

PD_INLINE void rms_rows(uint32_t rows, uint32_t width, const float *x, const float *w, float eps,
                        void *out, bool half) {
    for (uint32_t r = 0; r < rows; r++, x += width) {
        float inv = pd_rms_inverse(width, x, eps);
        size_t at = (size_t)r * width;
        PD_SIMD
        for (uint32_t i = 0; i < width; i++)
            pd_put(out, at + i, x[i] * inv * w[i], half);
    }
}

static void rms(uint32_t rows, uint32_t width, const float *x, const float *w, float eps, void *out,
                bool half) {
    if (half)
        rms_rows(rows, width, x, w, eps, out, true);
    else
        rms_rows(rows, width, x, w, eps, out, false);
}

PD_INLINE void silu_rows(uint32_t rows, uint32_t n, const float *gu, void *out, bool half) {
    for (uint32_t r = 0; r < rows; r++) {
        const float *g = gu + (size_t)r * 2 * n, *u = g + n;
        size_t at = (size_t)r * n;
        PD_SIMD
        for (uint32_t i = 0; i < n; i++)
            pd_put(out, at + i, g[i] / (1.0f + pd_exp(-g[i])) * u[i], half);
    }
}

static void silu(uint32_t rows, uint32_t n, const float *gu, void *out, bool half) {
    if (half)
        silu_rows(rows, n, gu, out, true);
    else
        silu_rows(rows, n, gu, out, false);
}

/* h (rank) = down x, four rows of `down` a pass so that x is read a quarter as often. */
PD_INLINE void low_project(uint32_t in, uint32_t rank, const void *x, size_t at, bool half,
                           const float *down, float *h) {
    uint32_t k = 0;
    for (; k + 4 <= rank; k += 4) {
        const float *a = down + (size_t)k * in, *b = a + in, *c = b + in, *d = c + in;
        float ha = 0, hb = 0, hc = 0, hd = 0;
        PD_SIMD_SUM(ha, hb, hc, hd)
        for (uint32_t i = 0; i < in; i++) {
            float v = pd_get(x, at + i, half);
            ha += a[i] * v;
            hb += b[i] * v;
            hc += c[i] * v;
            hd += d[i] * v;
        }
        h[k] = ha, h[k + 1] = hb, h[k + 2] = hc, h[k + 3] = hd;
    }
    for (; k < rank; k++) {
        const float *a = down + (size_t)k * in;
        float ha = 0;
        PD_SIMD_SUM(ha)
        for (uint32_t i = 0; i < in; i++)
            ha += a[i] * pd_get(x, at + i, half);
        h[k] = ha;
    }
}

/* y (out) += up^T h. */
PD_INLINE void low_expand(uint32_t out, uint32_t rank, const float *h, const float *up,
                          float *restrict y) {
    uint32_t k = 0;
    for (; k + 4 <= rank; k += 4) {
        const float *a = up + (size_t)k * out, *b = a + out, *c = b + out, *d = c + out;
        float ha = h[k], hb = h[k + 1], hc = h[k + 2], hd = h[k + 3];
        PD_SIMD
        for (uint32_t i = 0; i < out; i++)
            y[i] += (ha * a[i] + hb * b[i]) + (hc * c[i] + hd * d[i]);
    }
    for (; k < rank; k++) {
        const float *a = up + (size_t)k * out;
        float ha = h[k];
        PD_SIMD
        for (uint32_t i = 0; i < out; i++)
            y[i] += ha * a[i];
    }
}

static void lowrank(uint32_t rows, uint32_t in, uint32_t out, const void *x, bool half,
                    const pd_lowrank *a, float *y, size_t y_ld) {
    float h[PD_RANK_MAX];
    for (uint32_t r = 0; r < rows; r++) {
        size_t at = (size_t)r * in;
        if (half)
            low_project(in, a->rank, x, at, true, a->down, h);
        else
            low_project(in, a->rank, x, at, false, a->down, h);
        low_expand(out, a->rank, h, a->up, y + (size_t)r * y_ld);
    }
}

/* Pairs (a, b) -> (a cos - b sin, a sin + b cos), times scale; the elements beyond `rotated` are
 * only scaled. */
PD_INLINE void turn(float *x, uint32_t width, uint32_t rotated, const float *rot, float scale) {
    for (uint32_t i = 0; i < rotated; i += 2) {
        float a = x[i] * scale, b = x[i + 1] * scale, c = rot[i], s = rot[i + 1];
        x[i] = a * c - b * s;
        x[i + 1] = a * s + b * c;
    }
    for (uint32_t i = rotated; i < width; i++)
        x[i] *= scale;
}

/* The same for pairs (i, i + rotated/2); angles as above. */
PD_INLINE void turn_halves(float *x, uint32_t width, uint32_t rotated, const float *rot,
                           float scale) {
    uint32_t n = rotated / 2;
    for (uint32_t i = 0; i < n; i++) {
        float a = x[i] * scale, b = x[i + n] * scale, c = rot[2 * i], s = rot[2 * i + 1];
        x[i] = a * c - b * s;
        x[i + n] = a * s + b * c;
    }
    for (uint32_t i = rotated; i < width; i++)
        x[i] *= scale;
}

/* All heads of q and k of one row. */
PD_INLINE void turn_row(const pd_heads *h, float *qkv, const float *angles, float scale,
                        bool halves) {
    for (uint32_t i = 0; i < h->n + h->n_kv; i++) {
        float *x = qkv + i * h->width, by = i < h->n ? scale : 1.0f;
        if (halves)
            turn_halves(x, h->width, h->rotated, angles, by);
        else
            turn(x, h->width, h->rotated, angles, by);
    }
}

/* Keys go out sixteen rows at a time, so that each line of kt is written whole. */
static void lay_transposed(uint32_t rows, uint32_t width, const float *x, size_t x_ld, float *out,
                           size_t ld) {
    for (uint32_t d = 0; d < width; d++)
        for (uint32_t r = 0; r < rows; r++)
            out[d * ld + r] = x[r * x_ld + d];
}

static void lay_padded(uint32_t rows, uint32_t width, uint32_t padded, const float *x, size_t x_ld,
                       float *out) {
    for (uint32_t r = 0; r < rows; r++) {
        memcpy(out + (size_t)r * padded, x + r * x_ld, width * sizeof(float));
        for (uint32_t i = width; i < padded; i++)
            out[(size_t)r * padded + i] = 0.0f;
    }
}

static void split(const pd_heads *h, uint32_t rows, float *qkv, const uint32_t *pos,
                  const float *rot, uint32_t slot, float *kt, float *v, size_t ld) {
    size_t row = (size_t)(h->n + 2 * h->n_kv) * h->width;
    float scale = 1.0f / __builtin_sqrtf((float)h->width);
    for (uint32_t r0 = 0; r0 < rows; r0 += PD_LANES) {
        uint32_t n = rows - r0 < PD_LANES ? rows - r0 : PD_LANES;
        float *block = qkv + r0 * row;
        for (uint32_t r = 0; r < n; r++) {
            const float *angles = rot + (size_t)pos[r0 + r] * h->rotated;
            if (h->halves)
                turn_row(h, block + r * row, angles, scale, true);
            else
                turn_row(h, block + r * row, angles, scale, false);
        }
        const float *k = block + h->n * h->width, *val = k + h->n_kv * h->width;
        for (uint32_t g = 0; g < h->n_kv; g++) {
            size_t at = slot + r0;
            lay_transposed(n, h->width, k + g * h->width, row, kt + g * h->width * ld + at, ld);
            lay_padded(n, h->width, h->padded, val + g * h->width, row,
                       v + (g * ld + at) * h->padded);
        }
    }
}

static void split_back(const pd_heads *h, uint32_t rows, const float *qkv, uint32_t slot, float *k,
                       float *vt, size_t ld) {
    size_t row = (size_t)(h->n + 2 * h->n_kv) * h->width;
    const float *key = qkv + h->n * h->width, *val = key + h->n_kv * h->width;
    for (uint32_t r0 = 0; r0 < rows; r0 += PD_LANES) {
        uint32_t n = rows - r0 < PD_LANES ? rows - r0 : PD_LANES;
        for (uint32_t g = 0; g < h->n_kv; g++) {
            size_t at = slot + r0;
            lay_transposed(n, h->width, val + r0 * row + g * h->width, row,
                           vt + g * h->width * ld + at, ld);
            lay_padded(n, h->width, h->padded, key + r0 * row + g * h->width, row,
                       k + (g * ld + at) * h->padded);
        }
    }
}

PD_INLINE void unturn_rows(const pd_heads *h, uint32_t rows, uint32_t n, float *d,
                           const uint32_t *pos, const float *rot, bool halves) {
    uint32_t far = halves ? h->rotated / 2 : 1, step = halves ? 1 : 2;
    for (uint32_t r = 0; r < rows; r++) {
        const float *angles = rot + (size_t)pos[r] * h->rotated;
        for (uint32_t head = 0; head < n; head++) {
            float *x = d + ((size_t)r * n + head) * h->width;
            for (uint32_t i = 0; i < h->rotated / 2; i++, x += step) {
                float a = x[0], b = x[far], c = angles[2 * i], s = angles[2 * i + 1];
                x[0] = a * c + b * s;
                x[far] = b * c - a * s;
            }
        }
    }
}

static void unturn(const pd_heads *h, uint32_t rows, uint32_t n, float *d, const uint32_t *pos,
                   const float *rot) {
    if (h->halves)
        unturn_rows(h, rows, n, d, pos, rot, true);
    else
        unturn_rows(h, rows, n, d, pos, rot, false);
}

static void fold(uint32_t rows, uint32_t n, const float *logits, float *max, float *sum) {
    for (uint32_t r = 0; r < rows; r++, logits += n) {
        float m = max[r], s = 0.0f;
        PD_SIMD_MAX(m)
        for (uint32_t i = 0; i < n; i++)
            m = logits[i] > m ? logits[i] : m;
        PD_SIMD_SUM(s)
        for (uint32_t i = 0; i < n; i++)
            s += pd_exp(logits[i] - m);
        sum[r] = sum[r] * pd_exp(max[r] - m) + s;
        max[r] = m;
    }
}

PD_INLINE float dot_of(uint32_t n, const float *a, const void *b, bool half) {
    float s = 0.0f;
    PD_SIMD_SUM(s)
    for (uint32_t i = 0; i < n; i++)
        s += a[i] * pd_get(b, i, half);
    return s;
}

static float dot(uint32_t n, const float *a, const void *b, bool half) {
    return half ? dot_of(n, a, b, true) : dot_of(n, a, b, false);
}

/* y = x inv w, inv = (mean x^2 + eps)^-1/2:  dx += inv (w dy) - x inv^3 mean(w dy x). */
static void rms_back(uint32_t rows, uint32_t width, const float *x, const float *w, float eps,
                     const float *dy, float *restrict dx) {
    for (uint32_t r = 0; r < rows; r++, x += width, dy += width, dx += width) {
        float inv = pd_rms_inverse(width, x, eps), s = 0.0f;
        PD_SIMD_SUM(s)
        for (uint32_t i = 0; i < width; i++)
            s += w[i] * dy[i] * x[i];
        float back = inv * inv * inv * s / (float)width;
        PD_SIMD
        for (uint32_t i = 0; i < width; i++)
            dx[i] += inv * w[i] * dy[i] - x[i] * back;
    }
}

/* a = g sig(g) u:  du = da g sig,  dg = da u sig (1 + g (1 - sig)). */
static void silu_back(uint32_t rows, uint32_t n, const float *gu, const float *dact,
                      float *restrict dgate, float *restrict dup) {
    for (uint32_t r = 0; r < rows; r++, gu += 2 * (size_t)n, dact += n, dgate += n, dup += n) {
        const float *g = gu, *u = gu + n;
        PD_SIMD
        for (uint32_t i = 0; i < n; i++) {
            float sig = 1.0f / (1.0f + pd_exp(-g[i]));
            dup[i] = dact[i] * g[i] * sig;
            dgate[i] = dact[i] * u[i] * sig * (1.0f + g[i] * (1.0f - sig));
        }
    }
}

static void lowrank_back(uint32_t rows, uint32_t in, uint32_t out, const float *dy,
                         const pd_lowrank *a, float *dx) {
    float h[PD_RANK_MAX];
    for (uint32_t r = 0; r < rows; r++) {
        low_project(out, a->rank, dy, (size_t)r * out, false, a->up, h);
        low_expand(in, a->rank, h, a->down, dx + (size_t)r * in);
    }
}

static void softmax_back(uint32_t rows, uint32_t n, const float *logits, const float *lse,
                         const float *weight, void *d, bool half) {
    for (uint32_t r = 0; r < rows; r++) {
        const float *x = logits + (size_t)r * n;
        size_t at = (size_t)r * n;
        float l = lse[r], w = weight[r];
        if (half) {
            PD_SIMD
            for (uint32_t i = 0; i < n; i++)
                pd_put(d, at + i, w * pd_exp(x[i] - l), true);
        } else {
            PD_SIMD
            for (uint32_t i = 0; i < n; i++)
                pd_put(d, at + i, w * pd_exp(x[i] - l), false);
        }
    }
}

extern const pd_kernels PD_KERNEL(pd_kernels);
const pd_kernels PD_KERNEL(pd_kernels) = {
    .name = PD_TEXT(PD_GENERATION),
    .to_half = to_half,
    .from_half = from_half,
    .rms = rms,
    .silu = silu,
    .lowrank = lowrank,
    .split = split,
    .attend = PD_KERNEL(pd_attend),
    .fold = fold,
    .dot = dot,
    .rms_back = rms_back,
    .silu_back = silu_back,
    .lowrank_back = lowrank_back,
    .split_back = split_back,
    .unturn = unturn,
    .attend_back = PD_KERNEL(pd_attend_back),
    .softmax_back = softmax_back,
    .layer = PD_KERNEL(pd_layer),
    .layer_back = PD_KERNEL(pd_layer_back),
    .bias = PD_KERNEL(pd_bias),
    .norm_heads = PD_KERNEL(pd_norm_heads),
    .norm_heads_back = PD_KERNEL(pd_norm_heads_back),
    .act = PD_KERNEL(pd_act),
    .act_back = PD_KERNEL(pd_act_back),
    .shift = PD_KERNEL(pd_shift),
    .shift_pairs = PD_KERNEL(pd_shift_pairs),
};
