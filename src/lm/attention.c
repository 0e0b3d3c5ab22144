/* attention.c - causal softmax attention of one head, forward and reverse, in tiles of four
 * queries.
 *
 * Scores are never held for more than KEYS keys: the running maximum and sum of [1] carry over, so
 * that cost is the triangle's and memory does not depend on the sequence.  The two tile products
 * keep their sums in registers.
 *
 * [1] Dao et al. 2022, FlashAttention, 2205.14135
 */
#include "simd.h"

#include <math.h>

enum { KEYS = 256 }; /* a block of scores, 32 KB for 32 queries: stays in the first-level cache */

#ifdef __AVX512F__
enum { WIDE = 4 }; /* vectors side by side: 4 x 4 sums of the 32 registers */
#else
enum { WIDE = 1 };
#endif

void PD_KERNEL(pd_tile_scores)(const float *const a[PD_TILE], const float *bt, size_t ld,
                               uint32_t width, uint32_t n, float *s, size_t s_ld) {
    for (uint32_t j = 0; j < n; j += WIDE * PD_LANES) {
        v16 sum[PD_TILE][WIDE] = {0};
        const float *b = bt + j;
        for (uint32_t d = 0; d < width; d++, b += ld)
            for (int w = 0; w < WIDE; w++) {
                v16 bv = *(const v16u *)(b + w * PD_LANES);
                for (int i = 0; i < PD_TILE; i++)
                    sum[i][w] += a[i][d] * bv;
            }
        for (int i = 0; i < PD_TILE; i++)
            for (int w = 0; w < WIDE; w++)
                *(v16u *)(s + i * s_ld + j + w * PD_LANES) = sum[i][w];
    }
}

/* The sums over `wide` vectors of columns, from column c on. */
#define SUM_COLUMNS(wide)                                                                          \
    do {                                                                                           \
        v16 sum[PD_TILE][wide];                                                                    \
        for (int i = 0; i < PD_TILE; i++)                                                          \
            for (int w = 0; w < wide; w++)                                                         \
                sum[i][w] = *(v16u *)(acc + i * acc_ld + c + w * PD_LANES);                        \
        for (uint32_t j = 0; j < n; j++)                                                           \
            for (int w = 0; w < wide; w++) {                                                       \
                v16 bv = *(const v16u *)(b + (size_t)j * padded + c + w * PD_LANES);               \
                for (int i = 0; i < PD_TILE; i++)                                                  \
                    sum[i][w] += p[i * p_ld + j] * bv;                                             \
            }                                                                                      \
        for (int i = 0; i < PD_TILE; i++)                                                          \
            for (int w = 0; w < wide; w++)                                                         \
                *(v16u *)(acc + i * acc_ld + c + w * PD_LANES) = sum[i][w];                        \
    } while (0)

void PD_KERNEL(pd_tile_sums)(const float *p, size_t p_ld, uint32_t n, const float *b,
                             uint32_t padded, float *acc, size_t acc_ld) {
    uint32_t c = 0;
    for (; c + WIDE * PD_LANES <= padded; c += WIDE * PD_LANES)
        SUM_COLUMNS(WIDE);
    for (; c < padded; c += PD_LANES)
        SUM_COLUMNS(1);
}

static inline uint32_t min32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* One query's scores s[0..n) of a block to weights: new maximum, weights e^(s - max), old sums
 * scaled down. */
static void soften(float *s, uint32_t n, uint32_t filled, float *max, float *total, float *acc,
                   uint32_t padded) {
    float m = *max, sum = 0.0f;
    PD_SIMD_MAX(m)
    for (uint32_t j = 0; j < n; j++)
        m = s[j] > m ? s[j] : m;
    PD_SIMD_SUM(sum)
    for (uint32_t j = 0; j < n; j++) {
        s[j] = pd_exp(s[j] - m);
        sum += s[j];
    }
    for (uint32_t j = n; j < filled; j++)
        s[j] = 0.0f;
    if (m > *max && *total > 0.0f) {
        float scale = pd_exp(*max - m);
        *total *= scale;
        for (uint32_t c = 0; c < padded; c++)
            acc[c] *= scale;
    }
    *total += sum;
    *max = m;
}

static void write_out(const pd_attend *a, uint32_t i, float total, const float *acc) {
    float inv = 1.0f / total;
    size_t at = i * a->out_ld;
    for (uint32_t c = 0; c < a->width; c++)
        pd_put(a->out, at + c, acc[c] * inv, a->half);
}

/* The first key that the query at key `own` sees. */
static inline uint32_t first_seen(uint32_t own, uint32_t window) {
    return window && own + 1 > window ? own + 1 - window : 0;
}

/* Four queries from i on; those beyond the last repeat it and are not written. */
static void attend_tile(const pd_attend *a, uint32_t i) {
    _Alignas(64) float s[PD_TILE * KEYS], acc[PD_TILE * PD_HEAD_WIDTH_MAX];
    float max[PD_TILE], total[PD_TILE] = {0};
    const float *q[PD_TILE];
    uint32_t n = min32(PD_TILE, a->n - i), seen = a->first + i; /* keys before query i */
    for (uint32_t t = 0; t < PD_TILE; t++) {
        q[t] = a->q + (i + min32(t, n - 1)) * a->q_ld;
        max[t] = -INFINITY;
        for (uint32_t c = 0; c < a->padded; c++)
            acc[t * a->padded + c] = 0.0f;
    }
    for (uint32_t j = first_seen(seen, a->window); j < seen + n; j += KEYS) {
        uint32_t block = min32(KEYS, seen + n - j);
        PD_KERNEL(pd_tile_scores)(q, a->kt + j, a->kt_ld, a->width, block, s, KEYS);
        for (uint32_t t = 0; t < PD_TILE; t++) {
            uint32_t last = seen + min32(t, n - 1); /* the query's own key */
            uint32_t visible = last < j ? 0 : min32(block, last + 1 - j);
            uint32_t first = first_seen(last, a->window), gone = first > j ? first - j : 0;
            gone = visible > gone ? gone : block; /* scores before the window, or all */
            for (uint32_t k = 0; k < gone; k++)
                s[t * KEYS + k] = 0.0f;
            if (gone < block)
                soften(s + t * KEYS + gone, visible - gone, block - gone, &max[t], &total[t],
                       acc + t * a->padded, a->padded);
        }
        PD_KERNEL(pd_tile_sums)
        (s, KEYS, block, a->v + (size_t)j * a->padded, a->padded, acc, a->padded);
    }
    for (uint32_t t = 0; t < n; t++) {
        write_out(a, i + t, total[t], acc + t * a->padded);
        if (a->lse)
            a->lse[i + t] = max[t] + logf(total[t]);
    }
}

void PD_KERNEL(pd_attend)(const pd_attend *a) {
    for (uint32_t i = 0; i < a->n; i += PD_TILE)
        attend_tile(a, i);
}

/* Weights and their gradients of four queries against a block of keys:
 *   p = e^(q k - lse),  ds = p (dout v - dout out);  both zero where the query does not see the
 * key.
 */
static void block_back(const pd_attend_back *a, uint32_t i, uint32_t n, uint32_t j, uint32_t block,
                       const float *const q[PD_TILE], const float *const dout[PD_TILE],
                       const float own[PD_TILE], float *p, float *ds) {
    PD_KERNEL(pd_tile_scores)(q, a->kt + j, a->kt_ld, a->width, block, p, KEYS);
    PD_KERNEL(pd_tile_scores)(dout, a->vt + j, a->kt_ld, a->width, block, ds, KEYS);
    for (uint32_t t = 0; t < PD_TILE; t++) {
        float *pt = p + t * KEYS, *dt = ds + t * KEYS, lse = a->lse[i + min32(t, n - 1)];
        uint32_t visible = t >= n || i + t < j ? 0 : min32(block, i + t + 1 - j);
        uint32_t first = first_seen(i + t, a->window), gone = first > j ? first - j : 0;
        gone = visible > gone ? gone : visible;
        for (uint32_t k = 0; k < gone; k++)
            pt[k] = dt[k] = 0.0f;
        PD_SIMD
        for (uint32_t k = gone; k < visible; k++) {
            pt[k] = pd_exp(pt[k] - lse);
            dt[k] = pt[k] * (dt[k] - own[t]);
        }
        for (uint32_t k = visible; k < block; k++)
            pt[k] = dt[k] = 0.0f;
    }
}

/* d (padded) of key k += sum over the four queries of weight[t][k] * row[t]. */
static void spread(const float *weight, uint32_t block, const float *const row[PD_TILE],
                   uint32_t width, uint32_t padded, float *d) {
    for (uint32_t k = 0; k < block; k++, d += padded) {
        float a = weight[k], b = weight[KEYS + k], c = weight[2 * KEYS + k],
              e = weight[3 * KEYS + k];
        PD_SIMD
        for (uint32_t i = 0; i < width; i++)
            d[i] += (a * row[0][i] + b * row[1][i]) + (c * row[2][i] + e * row[3][i]);
    }
}

static void back_tile(const pd_attend_back *a, uint32_t i) {
    _Alignas(64) float p[PD_TILE * KEYS], ds[PD_TILE * KEYS], dq[PD_TILE * PD_HEAD_WIDTH_MAX] = {0};
    const float *q[PD_TILE], *dout[PD_TILE];
    float own[PD_TILE] = {0};
    uint32_t n = min32(PD_TILE, a->n - i);
    for (uint32_t t = 0; t < PD_TILE; t++) {
        uint32_t row = i + min32(t, n - 1);
        q[t] = a->q + row * a->q_ld;
        dout[t] = a->dout + row * a->out_ld;
        const float *out = a->out + row * a->out_ld;
        for (uint32_t c = 0; c < a->width; c++)
            own[t] += dout[t][c] * out[c];
    }
    for (uint32_t j = first_seen(i, a->window); j < i + n; j += KEYS) {
        uint32_t block = min32(KEYS, i + n - j);
        block_back(a, i, n, j, block, q, dout, own, p, ds);
        PD_KERNEL(pd_tile_sums)
        (ds, KEYS, block, a->k + (size_t)j * a->padded, a->padded, dq, a->padded);
        spread(p, block, dout, a->width, a->padded, a->dv + (size_t)j * a->padded);
        spread(ds, block, q, a->width, a->padded, a->dk + (size_t)j * a->padded);
    }
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t c = 0; c < a->width; c++)
            a->dq[(i + t) * a->dq_ld + c] = dq[t * a->padded + c] * a->scale;
}

void PD_KERNEL(pd_attend_back)(const pd_attend_back *a) {
    for (uint32_t i = 0; i < a->n; i += PD_TILE)
        back_tile(a, i);
}
