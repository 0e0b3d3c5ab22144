/* sketch.h - leading singular vectors of stacked gradients that are never formed; private to
 * src/train. */
#ifndef PD_SKETCH_H
#define PD_SKETCH_H

#include "peerd/rng.h"

#include <stdint.h>

/* Subspace iteration on a symmetric positive A (n, n): q holds k orthonormal rows, y collects A q^T
 * as rows. */
typedef struct pd_sketch {
    uint32_t n, k;
    float *q, *y; /* (k, n) each */
} pd_sketch;

enum { PD_SKETCH_MORE = 6 }; /* oversampling p of Halko et al.: 5 or 10 is their advice */

/* Take memory (2 k n floats) and draw a random orthonormal start. */
void pd_sketch_init(pd_sketch *s, uint32_t n, uint32_t k, float *memory, pd_rng *rng);
/* q = orth(y), y = 0: the next round. */
void pd_sketch_next(pd_sketch *s);
/* The r leading eigenvectors of A by Rayleigh-Ritz from q and y = A q, as rows of out (r, n). */
void pd_sketch_leading(const pd_sketch *s, uint32_t r, float *out);

/* Eigenvalues w (descending) and eigenvectors (rows of v) of a symmetric a (n, n), n <= 70, by
 * cyclic Jacobi; a is destroyed.
 */
void pd_jacobi(uint32_t n, double *a, double *w, double *v);

#endif
