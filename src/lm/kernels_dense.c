/* kernels_dense.c - W + dW in packed form: the loop that makes a side's own weights; see
 * kernels.h, dense.c.
 *
 * Four bytes of W, four of a coordinate and a bit come in, four bytes a side go out, so memory is
 * the bound; chunks of one word of sign bits keep everything else in registers.
 */
#include "simd.h"

#include <string.h>

enum { CHUNK = 32 };

/* Signs of coordinates k .. k + 31; those past the end are zero bits. */
PD_INLINE uint32_t signs_at(const pd_dense *d, uint64_t k) {
    uint64_t bytes = (d->n + 7) / 8, at = k / 8, left = bytes - at;
    uint64_t word = 0; /* little-endian, as this file's processors are */
    if (left >= sizeof word)
        memcpy(&word, d->signs + at, sizeof word);
    else
        for (uint64_t b = 0; b < left; b++)
            word |= (uint64_t)d->signs[at + b] << (8 * b);
    return (uint32_t)(word >> (k % 8));
}

PD_INLINE float flip(float eps, uint32_t bit) {
    union {
        float f;
        uint32_t u;
    } c = {.f = eps};
    c.u ^= (bit ^ 1) << 31;
    return c.f;
}

/* x_k .. x_{k+n-1}, n <= CHUNK. */
PD_INLINE void values(const pd_dense *d, uint64_t k, uint32_t n, float *x) {
    if (d->c) {
        memcpy(x, d->c + k, n * sizeof *x);
        return;
    }
    if (d->a) {
        const int32_t *a = d->a + k;
        float unit = d->unit;
        PD_SIMD
        for (uint32_t l = 0; l < n; l++)
            x[l] = (float)a[l] * unit;
    } else {
        memset(x, 0, n * sizeof *x);
    }
    if (d->signs) {
        uint32_t word = signs_at(d, k);
        float eps = d->eps;
        PD_SIMD
        for (uint32_t l = 0; l < n; l++)
            x[l] += flip(eps, word >> l & 1);
    }
}

PD_INLINE float as_float(uint32_t u) {
    union {
        uint32_t u;
        float f;
    } c = {.u = u};
    return c.f;
}

PD_INLINE void shift_chunk(const pd_dense *d, uint64_t k, uint32_t n, const float *w, float *out) {
    float x[CHUNK];
    values(d, k, n, x);
    PD_SIMD
    for (uint32_t l = 0; l < n; l++)
        out[l] = w[l] + x[l];
}

void PD_KERNEL(pd_shift)(const pd_dense *d, uint64_t k, uint32_t n, const float *w, float *out) {
    uint32_t i = 0;
    for (; i + CHUNK <= n; i += CHUNK) /* a constant count, which vectorises whole */
        shift_chunk(d, k + i, CHUNK, w + i, out + i);
    if (i < n)
        shift_chunk(d, k + i, n - i, w + i, out + i);
}

PD_INLINE void pairs_chunk(const pd_dense *d, uint64_t k0, uint64_t k1, uint32_t n,
                           const uint32_t *w, uint32_t *out) {
    float x0[CHUNK], x1[CHUNK];
    values(d, k0, n, x0);
    values(d, k1, n, x1);
    PD_SIMD
    for (uint32_t l = 0; l < n; l++) {
        uint32_t low = pd_float_to_bf16(as_float(w[l] << 16) + x0[l]);
        uint32_t high = pd_float_to_bf16(as_float(w[l] & 0xffff0000u) + x1[l]);
        out[l] = low | high << 16;
    }
}

void PD_KERNEL(pd_shift_pairs)(const pd_dense *d, uint64_t k0, uint64_t k1, uint32_t n,
                               const uint32_t *w, uint32_t *out) {
    uint32_t i = 0;
    for (; i + CHUNK <= n; i += CHUNK)
        pairs_chunk(d, k0 + i, k1 + i, CHUNK, w + i, out + i);
    if (i < n)
        pairs_chunk(d, k0 + i, k1 + i, n - i, w + i, out + i);
}
