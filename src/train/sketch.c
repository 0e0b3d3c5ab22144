/* sketch.c - randomised subspace iteration and a small symmetric eigensolver; see sketch.h and
 * calibrate.h [2]. */
#include "sketch.h"
#include "peerd/model.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double dot(const float *x, const float *y, uint32_t n) {
    double s = 0;
    for (uint32_t i = 0; i < n; i++)
        s += (double)x[i] * (double)y[i];
    return s;
}

/* Gram-Schmidt, twice, on the rows of x (k, n); a row that vanishes (rank reached) is replaced by
 * zero. */
static void orthonormalise(float *x, uint32_t k, uint32_t n) {
    for (uint32_t i = 0; i < k; i++) {
        float *row = x + (size_t)i * n;
        double before = sqrt(dot(row, row, n));
        for (int pass = 0; pass < 2; pass++)
            for (uint32_t j = 0; j < i; j++) {
                const float *other = x + (size_t)j * n;
                float c = (float)dot(row, other, n);
                for (uint32_t l = 0; l < n; l++)
                    row[l] -= c * other[l];
            }
        double norm = sqrt(dot(row, row, n));
        float f = norm > 1e-6 * before && norm > 0 ? (float)(1 / norm) : 0.0f;
        for (uint32_t l = 0; l < n; l++)
            row[l] *= f;
    }
}

void pd_sketch_init(pd_sketch *s, uint32_t n, uint32_t k, float *memory, pd_rng *rng) {
    if (k > n)
        k = n;
    *s = (pd_sketch){n, k, memory, memory + (size_t)k * n};
    for (size_t i = 0; i < (size_t)k * n; i++)
        s->q[i] = (float)(pd_rng_uniform(rng) - 0.5);
    orthonormalise(s->q, k, n);
    memset(s->y, 0, (size_t)k * n * sizeof *s->y);
}

void pd_sketch_next(pd_sketch *s) {
    memcpy(s->q, s->y, (size_t)s->k * s->n * sizeof *s->q);
    orthonormalise(s->q, s->k, s->n);
    memset(s->y, 0, (size_t)s->k * s->n * sizeof *s->y);
}

void pd_jacobi(uint32_t n, double *a, double *w, double *v) {
    for (uint32_t i = 0; i < n * n; i++)
        v[i] = i % (n + 1) == 0;
    for (int sweep = 0; sweep < 30; sweep++) {
        double off = 0, all = 0;
        for (uint32_t i = 0; i < n * n; i++) {
            all += a[i] * a[i];
            off += i % (n + 1) ? a[i] * a[i] : 0;
        }
        if (off <= 1e-24 * all)
            break;
        for (uint32_t p = 0; p < n; p++)
            for (uint32_t q = p + 1; q < n; q++) {
                double apq = a[p * n + q];
                if (apq == 0)
                    continue;
                double theta = (a[q * n + q] - a[p * n + p]) / (2 * apq);
                double t = (theta >= 0 ? 1 : -1) / (fabs(theta) + sqrt(theta * theta + 1));
                double c = 1 / sqrt(t * t + 1), s = t * c;
                for (uint32_t i = 0; i < n; i++) {
                    double x = a[i * n + p], y = a[i * n + q];
                    a[i * n + p] = c * x - s * y;
                    a[i * n + q] = s * x + c * y;
                }
                for (uint32_t i = 0; i < n; i++) {
                    double x = a[p * n + i], y = a[q * n + i];
                    a[p * n + i] = c * x - s * y;
                    a[q * n + i] = s * x + c * y;
                    x = v[p * n + i], y = v[q * n + i];
                    v[p * n + i] = c * x - s * y;
                    v[q * n + i] = s * x + c * y;
                }
            }
    }
    for (uint32_t i = 0; i < n; i++)
        w[i] = a[i * n + i];
    for (uint32_t i = 0; i < n; i++) { /* selection sort, largest first */
        uint32_t best = i;
        for (uint32_t j = i + 1; j < n; j++)
            best = w[j] > w[best] ? j : best;
        double t = w[i];
        w[i] = w[best];
        w[best] = t;
        for (uint32_t l = 0; l < n && best != i; l++) {
            t = v[i * n + l];
            v[i * n + l] = v[best * n + l];
            v[best * n + l] = t;
        }
    }
}

void pd_sketch_leading(const pd_sketch *s, uint32_t r, float *out) {
    enum { MOST = PD_RANK_MAX + PD_SKETCH_MORE };
    double a[MOST * MOST], w[MOST], v[MOST * MOST];
    uint32_t k = s->k;
    assert(k <= MOST);
    for (uint32_t i = 0; i < k; i++)
        for (uint32_t j = 0; j < k; j++)
            a[i * k + j] = 0.5 * (dot(s->q + (size_t)i * s->n, s->y + (size_t)j * s->n, s->n) +
                                  dot(s->q + (size_t)j * s->n, s->y + (size_t)i * s->n, s->n));
    pd_jacobi(k, a, w, v);
    memset(out, 0, (size_t)r * s->n * sizeof *out);
    for (uint32_t i = 0; i < r && i < k; i++)
        for (uint32_t j = 0; j < k; j++) {
            float c = (float)v[i * k + j];
            for (uint32_t l = 0; l < s->n; l++)
                out[(size_t)i * s->n + l] += c * s->q[(size_t)j * s->n + l];
        }
}
