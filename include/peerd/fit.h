/* fit.h - what training without bytes does: loss of a data set under an adapter, and first-order
 * steps in a space.
 *
 *   data > tokens > LOSS pair > byte > ledger > gossip > replay > weights
 *
 * pd_fit is the honest ceiling that a run is set beside (and makes the start adapter): Adam [1] on
 * float coordinates.
 *
 * [1] Kingma, Ba 2014, Adam, 1412.6980, algorithm 1
 */
#ifndef PEERD_FIT_H
#define PEERD_FIT_H

#include "peerd/rng.h"
#include "peerd/space.h"

/* A model with the work area and the batch that one caller computes with. */
typedef struct pd_bench {
    const pd_model *model; /* borrowed */
    pd_work *work;
    pd_batch *batch;
    uint32_t max_tokens;
} pd_bench;

/* max_tokens a batch and side; sides 1 or 2 (probes).  Errors: PD_ENOMEM. */
PD_CHECKED pd_err pd_bench_open(const pd_model *m, uint32_t max_tokens, unsigned sides,
                                bool backward, pd_bench *out);
void pd_bench_close(pd_bench *b);

/* Tokens of a data set's longest example: what max_tokens must hold at least. */
uint32_t pd_data_longest(const pd_data *d);

/* Some examples of a data set, in an order. */
typedef struct pd_subset {
    const pd_data *data;
    const uint32_t *index; /* NULL: all, in file order */
    size_t n;
} pd_subset;
pd_subset pd_subset_all(const pd_data *d);

/* Fill the batch with examples from *next on, as many as fit (at least one must); advances *next.
 * Errors: PD_EUSAGE (an example is longer than max_tokens).
 */
PD_CHECKED pd_err pd_bench_fill(pd_bench *b, const pd_subset *s, size_t *next, size_t most);

/* Loss of a subset under an adapter (NULL: the base), summed over batches. */
PD_CHECKED pd_err pd_evaluate(pd_bench *b, const pd_subset *s, const pd_adapter *a, pd_loss *out);

/* Loss of a subset and the gradient of the mean loss with respect to a view's float coordinates:
 * grad (d), overwritten. */
PD_CHECKED pd_err pd_space_gradient(pd_bench *b, const pd_subset *s, const pd_view *v,
                                    uint64_t n_coords, float *grad, pd_loss *out);

/* Adam's state over d coordinates; c starts at zero. */
typedef struct pd_adam {
    uint64_t d, t;
    float lr, *c, *m, *v, *grad;
} pd_adam;
PD_CHECKED pd_err pd_adam_open(uint64_t d, float lr, pd_adam *out);
void pd_adam_close(pd_adam *a);
/* One step: m, v and c from grad, beta 0.9 and 0.999, epsilon 1e-8, bias-corrected. */
void pd_adam_step(pd_adam *a);

#endif
