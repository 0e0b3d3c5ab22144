/* calibrate.h - the aligned space of a run, from a few public examples: gradients, their singular
 * vectors, a start adapter.
 *
 *   data > tokens > LOSS PAIR > byte > ledger > gossip > replay > weights
 *
 * Two stages (DESIGN section 5).  1. For every target matrix the leading singular vectors of the
 * mean loss gradient; in that basis a few first-order steps of Adam [1] give the start adapter C1,
 * their number chosen by two-fold cross-validation on the calibration text itself.  2. With the
 * start adapter applied, a second basis from several batch gradients stacked, which holds the
 * directions in which batches differ, not only their mean.  warm_steps = 0 gives the plain single
 * basis.
 *
 * Scales. Along most coordinates records pull against each other (the bias of a label, say) and a
 * probe reads mostly that noise. What a step gains is quadratic in the signal, what it loses is
 * noise times curvature, so coordinates are scaled by one over the spread that their gradient has
 * between records: D2 = var^(-1/2), a diagonal Fisher scaling, damped, its total kept. Measured on
 * four-desks (SmolLM2, 32 sentences, at the start adapter), expected gain of a first step, nats:
 * 5e-5 at rank 2 and 1.7e-4 at rank 4 without it, 4.9e-4 and 9.6e-4 with it.
 *
 * Singular vectors by randomised subspace iteration [2] on A = sum_b G_b G_b^T (left) and sum_b
 * G_b^T G_b (right), where G_b = dY_b^T X_b is never formed: only products with k = r + 6 columns.
 * One pass over the data an iteration.
 *
 * [1] Kingma, Ba 2014, Adam, 1412.6980, algorithm 1
 * [2] Halko, Martinsson, Tropp 2009, Finding structure with randomness, 0909.4061, algorithm 4.4
 */
#ifndef PEERD_CALIBRATE_H
#define PEERD_CALIBRATE_H

#include "peerd/space.h"

enum { PD_WARM_CHOOSE = -1, PD_WARM_STEPS_MAX = 16 };

typedef struct pd_calibrate_opts {
    uint32_t rank, targets;
    uint32_t first_layer; /* the basis has no matrix below it */
    int warm_steps;       /* steps of the start adapter, PD_WARM_CHOOSE, or 0 for none */
    float warm_lr;        /* of Adam */
    float whiten;         /* D2 = (variance between records)^(-whiten / 2); 0: all alike */
    unsigned groups;      /* batch gradients stacked for the second basis */
    uint32_t max_tokens;  /* of one backward pass: bounds memory */
    uint64_t seed;
} pd_calibrate_opts;
extern const pd_calibrate_opts pd_calibrate_defaults; /* rank 4, all targets, chosen steps, 5e-3,
                                                         whiten 1, 4 groups, 1,024 tokens */

typedef struct pd_calibrate_report {
    double loss_before,
        loss_start; /* on the calibration text, without and with the start adapter */
    double accuracy_before, accuracy_start; /* choice records; NAN if there are none */
    double held[PD_WARM_STEPS_MAX +
                1]; /* mean loss on the unseen halves after s steps (PD_WARM_CHOOSE) */
    int held_steps; /* how many of them were tried, 0 if none */
    int warm_steps; /* what was taken */
    double seconds;
} pd_calibrate_report;

/* Calibrate on all of `data`.  The model must be open for backward.  gives *out.
 * Errors: PD_EUSAGE (fewer than 4 examples, bad rank), PD_ENUMERIC (the loss is not finite),
 * PD_ENOMEM.
 */
PD_CHECKED pd_err pd_calibrate(const pd_model *m, const pd_data *data,
                               const pd_calibrate_opts *opts, pd_basis **out,
                               pd_calibrate_report *report);

/* Go on from a basis and coordinates a (d) in it: both together become the start adapter, of rank
 * r1 + r2 of `from`, and a second basis is taken there.  What `peerd rebase` does by adding them to
 * the base, without a new base; opts' targets and warm-up are not used.
 * Errors: as pd_calibrate; PD_EUSAGE also if the ranks together pass PD_RANK_MAX.
 */
PD_CHECKED pd_err pd_calibrate_on(const pd_model *m, const pd_data *data,
                                  const pd_calibrate_opts *opts, const pd_basis *from,
                                  const float *a, pd_basis **out, pd_calibrate_report *report);

/* Share of the squared gradient of `data` (mean loss at the basis' start adapter) that lies inside
 * the second basis: sum_t |U2 G_t V2^T|^2 / sum_t |G_t|^2, the captured share of DESIGN section 5.
 */
PD_CHECKED pd_err pd_basis_capture(const pd_model *m, const pd_data *data, const pd_basis *b,
                                   uint32_t max_tokens, double *share);

#endif
