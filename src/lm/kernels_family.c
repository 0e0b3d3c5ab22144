/* kernels_family.c - the row loops that Llama does not need: layer norm, biases, norms of heads,
 * activations without a gate; forward and reverse.
 *
 *   GELU(x) = x Phi(x), Phi(x) = (1 + erf(x / sqrt 2)) / 2, or with tanh in the place of erf.
 */
#include "simd.h"

/* sum x / width, and 1 / sqrt(sum (x - mean)^2 / width + eps). */
PD_INLINE float layer_moments(uint32_t width, const float *x, float eps, float *mean) {
    float sum = 0.0f, square = 0.0f;
    PD_SIMD_SUM(sum)
    for (uint32_t i = 0; i < width; i++)
        sum += x[i];
    float m = *mean = sum / (float)width;
    PD_SIMD_SUM(square)
    for (uint32_t i = 0; i < width; i++)
        square += (x[i] - m) * (x[i] - m);
    return 1.0f / __builtin_sqrtf(square / (float)width + eps);
}

PD_INLINE void layer_rows(uint32_t rows, uint32_t width, const float *x, const float *w,
                          const float *b, float eps, void *out, bool half) {
    for (uint32_t r = 0; r < rows; r++, x += width) {
        float mean, inv = layer_moments(width, x, eps, &mean);
        size_t at = (size_t)r * width;
        PD_SIMD
        for (uint32_t i = 0; i < width; i++)
            pd_put(out, at + i, (x[i] - mean) * inv * w[i] + b[i], half);
    }
}

void PD_KERNEL(pd_layer)(uint32_t rows, uint32_t width, const float *x, const float *w,
                         const float *b, float eps, void *out, bool half) {
    if (half)
        layer_rows(rows, width, x, w, b, eps, out, true);
    else
        layer_rows(rows, width, x, w, b, eps, out, false);
}

/* n = (x - mean) inv:  dx += inv (w dy - mean(w dy) - n mean(w dy n)). */
void PD_KERNEL(pd_layer_back)(uint32_t rows, uint32_t width, const float *x, const float *w,
                              float eps, const float *dy, float *restrict dx) {
    for (uint32_t r = 0; r < rows; r++, x += width, dy += width, dx += width) {
        float mean, inv = layer_moments(width, x, eps, &mean), sum = 0.0f, along = 0.0f;
        PD_SIMD_SUM(sum, along)
        for (uint32_t i = 0; i < width; i++) {
            float g = w[i] * dy[i];
            sum += g;
            along += g * (x[i] - mean);
        }
        sum /= (float)width;
        along *= inv * inv / (float)width;
        PD_SIMD
        for (uint32_t i = 0; i < width; i++)
            dx[i] += inv * (w[i] * dy[i] - sum - (x[i] - mean) * along);
    }
}

void PD_KERNEL(pd_bias)(uint32_t rows, uint32_t n, const float *b, float *restrict y, size_t y_ld) {
    for (uint32_t r = 0; r < rows; r++, y += y_ld) {
        PD_SIMD
        for (uint32_t i = 0; i < n; i++)
            y[i] += b[i];
    }
}

void PD_KERNEL(pd_norm_heads)(uint32_t rows, uint32_t n, uint32_t width, const float *w, float eps,
                              float *x, size_t ld) {
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t h = 0; h < n; h++) {
            float *y = x + r * ld + (size_t)h * width, inv = pd_rms_inverse(width, y, eps);
            PD_SIMD
            for (uint32_t i = 0; i < width; i++)
                y[i] *= inv * w[i];
        }
}

/* As rms_back, but in place: d becomes the gradient of the raw head. */
void PD_KERNEL(pd_norm_heads_back)(uint32_t rows, uint32_t n, uint32_t width, const float *w,
                                   float eps, const float *raw, size_t raw_ld, float *restrict d) {
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t h = 0; h < n; h++, d += width) {
            const float *x = raw + r * raw_ld + (size_t)h * width;
            float inv = pd_rms_inverse(width, x, eps), s = 0.0f;
            PD_SIMD_SUM(s)
            for (uint32_t i = 0; i < width; i++)
                s += w[i] * d[i] * x[i];
            float back = inv * inv * inv * s / (float)width;
            PD_SIMD
            for (uint32_t i = 0; i < width; i++)
                d[i] = inv * w[i] * d[i] - x[i] * back;
        }
}

/* ---- activations ---- */

/* Phi(x) to 1e-7, by the rational approximation of erf in Abramowitz and Stegun, 7.1.26. */
PD_INLINE float phi(float x) {
    float z = __builtin_fabsf(x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * z);
    float p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t +
               0.254829592f) *
              t;
    float tail = 0.5f * p * pd_exp(-z * z); /* 1 - Phi(|x|) */
    return x < 0.0f ? tail : 1.0f - tail;
}

/* 0.5 (1 + tanh u) = 1 / (1 + e^-2u),  u = sqrt(2/pi) (x + 0.044715 x^3). */
PD_INLINE float phi_tanh(float x) {
    return 1.0f / (1.0f + pd_exp(-1.59576912f * (x + 0.044715f * x * x * x)));
}

PD_INLINE float act_of(pd_activation kind, float x) {
    if (kind == PD_ACT_GELU)
        return x * phi(x);
    if (kind == PD_ACT_GELU_TANH)
        return x * phi_tanh(x);
    return x > 0.0f ? x : 0.0f;
}

PD_INLINE float slope_of(pd_activation kind, float x) {
    if (kind == PD_ACT_GELU) /* Phi + x phi, 1 / sqrt(2 pi) = .39894228 */
        return phi(x) + x * 0.39894228f * pd_exp(-0.5f * x * x);
    if (kind == PD_ACT_GELU_TANH) {
        float s = phi_tanh(x);
        return s + x * s * (1.0f - s) * 1.59576912f * (1.0f + 0.134145f * x * x);
    }
    return x > 0.0f ? 1.0f : 0.0f;
}

PD_INLINE void act_all(pd_activation kind, size_t n, const float *x, void *out, bool half) {
    PD_SIMD
    for (size_t i = 0; i < n; i++)
        pd_put(out, i, act_of(kind, x[i]), half);
}

PD_INLINE void act_kinds(pd_activation kind, size_t n, const float *x, void *out, bool half) {
    if (kind == PD_ACT_GELU)
        act_all(PD_ACT_GELU, n, x, out, half);
    else if (kind == PD_ACT_GELU_TANH)
        act_all(PD_ACT_GELU_TANH, n, x, out, half);
    else
        act_all(PD_ACT_RELU, n, x, out, half);
}

void PD_KERNEL(pd_act)(pd_activation kind, size_t n, const float *x, void *out, bool half) {
    if (half)
        act_kinds(kind, n, x, out, true);
    else
        act_kinds(kind, n, x, out, false);
}

PD_INLINE void act_back_all(pd_activation kind, size_t n, const float *x, const float *dact,
                            float *restrict dx) {
    PD_SIMD
    for (size_t i = 0; i < n; i++)
        dx[i] = dact[i] * slope_of(kind, x[i]);
}

void PD_KERNEL(pd_act_back)(pd_activation kind, size_t n, const float *x, const float *dact,
                            float *restrict dx) {
    if (kind == PD_ACT_GELU)
        act_back_all(PD_ACT_GELU, n, x, dact, dx);
    else if (kind == PD_ACT_GELU_TANH)
        act_back_all(PD_ACT_GELU_TANH, n, x, dact, dx);
    else
        act_back_all(PD_ACT_RELU, n, x, dact, dx);
}
