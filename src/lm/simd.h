/* simd.h - what the kernel files share: one compilation a processor generation, a vector type, an
 * exponential.
 *
 * These files are compiled with -ffp-contract=fast and without errno: losses need not be bit-equal
 * between machines.
 */
#ifndef PEERD_LM_SIMD_H
#define PEERD_LM_SIMD_H

#include "kernels.h"

#ifndef PD_GENERATION
#error "compiled once a processor generation, which names its symbols"
#endif
#define PD_PASTE2(a, b) a##_##b
#define PD_PASTE(a, b)  PD_PASTE2(a, b)
#define PD_KERNEL(name) PD_PASTE(name, PD_GENERATION)
#define PD_TEXT2(a)     #a
#define PD_TEXT(a)      PD_TEXT2(a)

/* Sums run in any order; -fopenmp-simd, which needs no runtime. */
#define PD_SIMD          _Pragma("omp simd")
#define PD_PRAGMA(...)   _Pragma(#__VA_ARGS__)
#define PD_SIMD_SUM(...) PD_PRAGMA(omp simd reduction(+ : __VA_ARGS__))
#define PD_SIMD_MAX(m)   PD_PRAGMA(omp simd reduction(max : m))

#define PD_INLINE static inline __attribute__((always_inline))

typedef float v16 __attribute__((vector_size(64)));
typedef float v16u
    __attribute__((vector_size(64), aligned(4), may_alias)); /* as it lies in memory */

/* e^x to 2e-7 relative for -87.3 <= x <= 88.3, held at those ends beyond; NaN stays.  Cody-Waite
 * reduction and the minimax polynomial of Cephes' expf; the power of two comes from the low bits of
 * the number that rounding by 1.5 * 2^23 leaves.
 */
PD_INLINE float pd_exp(float x) {
    union {
        float f;
        uint32_t u;
    } n, p;
    x = x < -87.3f ? -87.3f : x;
    x = x > 88.3f ? 88.3f : x;
    n.f = x * 1.44269504f + 12582912.0f;
    float k = n.f - 12582912.0f;
    float r = x - k * 0.693359375f;
    r = r - k * -2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.0f;
    p.u = (n.u << 23) + 0x3f800000u;
    return y * p.f;
}

PD_INLINE float pd_get(const void *x, size_t i, bool half) {
    return half ? pd_bf16_to_float(((const uint16_t *)x)[i]) : ((const float *)x)[i];
}
PD_INLINE void pd_put(void *x, size_t i, float v, bool half) {
    if (half)
        ((uint16_t *)x)[i] = pd_float_to_bf16(v);
    else
        ((float *)x)[i] = v;
}

/* Four rows of products with a transposed matrix: s[i] (SCORES_LD) = a[i] . bt[:, 0..n), n rounded
 * up to PD_KEYS_PAD. */
enum { PD_TILE = 4 };
void PD_KERNEL(pd_tile_scores)(const float *const a[PD_TILE], const float *bt, size_t ld,
                               uint32_t width, uint32_t n, float *s, size_t s_ld);
/* Four rows of sums: acc[i] (padded) += sum_j p[i][j] b[j]. */
void PD_KERNEL(pd_tile_sums)(const float *p, size_t p_ld, uint32_t n, const float *b,
                             uint32_t padded, float *acc, size_t acc_ld);

/* kernels_family.c; see kernels.h. */
void PD_KERNEL(pd_layer)(uint32_t rows, uint32_t width, const float *x, const float *w,
                         const float *b, float eps, void *out, bool half);
void PD_KERNEL(pd_layer_back)(uint32_t rows, uint32_t width, const float *x, const float *w,
                              float eps, const float *dy, float *dx);
void PD_KERNEL(pd_bias)(uint32_t rows, uint32_t n, const float *b, float *y, size_t y_ld);
void PD_KERNEL(pd_norm_heads)(uint32_t rows, uint32_t n, uint32_t width, const float *w, float eps,
                              float *x, size_t ld);
void PD_KERNEL(pd_norm_heads_back)(uint32_t rows, uint32_t n, uint32_t width, const float *w,
                                   float eps, const float *raw, size_t raw_ld, float *d);
void PD_KERNEL(pd_act)(pd_activation kind, size_t n, const float *x, void *out, bool half);
void PD_KERNEL(pd_act_back)(pd_activation kind, size_t n, const float *x, const float *dact,
                            float *dx);

/* kernels_dense.c */
void PD_KERNEL(pd_shift)(const pd_dense *d, uint64_t k, uint32_t n, const float *w, float *out);
void PD_KERNEL(pd_shift_pairs)(const pd_dense *d, uint64_t k0, uint64_t k1, uint32_t n,
                               const uint32_t *w, uint32_t *out);

void PD_KERNEL(pd_attend)(const pd_attend *a);
void PD_KERNEL(pd_attend_back)(const pd_attend_back *a);

/* (mean x^2 + eps)^-1/2: of a row, or of one head. */
PD_INLINE float pd_rms_inverse(uint32_t width, const float *x, float eps) {
    float sum = 0.0f;
    PD_SIMD_SUM(sum)
    for (uint32_t i = 0; i < width; i++)
        sum += x[i] * x[i];
    return 1.0f / __builtin_sqrtf(sum / (float)width + eps);
}

#endif
