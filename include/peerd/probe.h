/* probe.h - two losses of one batch at a +- eps z, the projected gradient, and what a run's
 * constants should be.
 *
 *   data > tokens > LOSS PAIR > BYTE > ledger > gossip > replay > weights
 *
 *   g = (L(a + eps z) - L(a - eps z)) / (2 eps)                      z in {-1, +1}^d: simultaneous
 * perturbation [1], [2]
 *
 * Both sides are computed in one traversal (model.h).  Where the space leaves the lower layers
 * alone (pd_space_first_layer) those are run once a batch, for both sides of all its probes.
 *
 * [1] Spall 1992, Multivariate stochastic approximation using a simultaneous perturbation gradient
 * approximation, doi 10.1109/9.119632 [2] Malladi et al. 2023, Fine-tuning language models with
 * just forward passes (MeZO), 2305.17333, algorithm 1
 */
#ifndef PEERD_PROBE_H
#define PEERD_PROBE_H

#include "peerd/fit.h"

/* The two sides of a probe over one space. */
typedef struct pd_prober {
    pd_bench *bench; /* two sides; its batch is what is probed */
    const pd_space *space;
    pd_view *plus, *minus;
    pd_stem *stem; /* of the bench's batch; NULL where every layer is trained */
} pd_prober;

PD_CHECKED pd_err pd_prober_open(pd_bench *bench, const pd_space *space, pd_prober *out);
void pd_prober_close(pd_prober *p);

typedef struct pd_probe {
    double plus, minus; /* mean losses, nats */
    double g;           /* projected gradient; not finite if a loss is not */
} pd_probe;

/* Probe the bench's batch at coordinates a (d) along the signs z, at distance eps > 0. */
void pd_probe_at(pd_prober *p, const int32_t *a, const uint8_t *signs, float eps, pd_probe *out);

/* What a few probes at the start say, and the constants that follow from it. */
typedef struct pd_proposal {
    double loss;      /* mean of the probed batches at a = 0 */
    double curvature; /* mean of c = z^T H z = (L+ + L- - 2 L) / eps^2, weighted by g^2 (bounded) */
    double spread;    /* root mean square of the projected gradients */
    double eps;       /* the probe moves the loss by about 1 % through its curvature */
    double lr;        /* a tenth of 1 / curvature, at most 10 % of the loss a record */
    double scale; /* byte scale: the largest byte is three spreads, so that no record weighs more */
    unsigned probes;
} pd_proposal;

/* Probe `count` random batches of `records` examples in random directions from a = 0.
 * Errors: PD_ENUMERIC (a loss is not finite), PD_EUSAGE (an example does not fit a batch).
 */
PD_CHECKED pd_err pd_propose(pd_prober *p, const pd_subset *data, unsigned count, unsigned records,
                             uint64_t seed, pd_proposal *out);

#endif
