/* rng.h - a node's private pseudo-random numbers: shuffles, test vectors, stochastic rounding.
 * Never keys (identity.h) and never directions (direction.h).  SplitMix64 [1]: 64 bits of state,
 * any seed is good.
 *
 * [1] Steele, Lea, Flood 2014, Fast splittable pseudorandom number generators,
 * doi 10.1145/2660193.2660195
 */
#ifndef PEERD_RNG_H
#define PEERD_RNG_H

#include <stddef.h>
#include <stdint.h>

typedef struct pd_rng {
    uint64_t state;
} pd_rng;

static inline uint64_t pd_rng_next(pd_rng *r) {
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Uniform in [0, 1), 53 bits. */
static inline double pd_rng_uniform(pd_rng *r) {
    return (double)(pd_rng_next(r) >> 11) * 0x1p-53;
}

/* Uniform in [0, n), 0 < n < 2^32; the bias of the multiplication is below n 2^-32. */
static inline uint32_t pd_rng_below(pd_rng *r, uint64_t n) {
    return (uint32_t)(((pd_rng_next(r) >> 32) * n) >> 32);
}

/* Fisher-Yates. */
static inline void pd_rng_shuffle(pd_rng *r, uint32_t *x, size_t n) {
    for (size_t i = n; i > 1; i--) {
        size_t j = pd_rng_below(r, i);
        uint32_t t = x[i - 1];
        x[i - 1] = x[j];
        x[j] = t;
    }
}

#endif
