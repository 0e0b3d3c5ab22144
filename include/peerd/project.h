/* project.h - bytes from one backward pass: the exact gradient in the space, projected on the next
 * directions of the node.
 *
 *   data > tokens > LOSS PAIR > BYTE > ledger > gossip > replay > weights
 *
 *   G    = 1 / E  sum_e dL_e/da (a_e),   a_0 = a,  a_{e+1} = a_e - rate dL_e/da (a_e)
 *   g_k  = G . z_k + feedback (R . z_k) / d                                      k = 1..K
 *   R   += G - sent(g_k) z_k                         sent: what the byte of g_k stands for
 *
 * The other way to make a byte than probe.h; a record does not say which way it was made, and
 * replay does not care.  A probe buys one projection for two forward passes; a backward pass (about
 * two forwards beside its own) buys as many as are wanted, exact, and so leaves time for larger
 * batches.
 *
 * Measured (tests/bench/learn: small model of the tree, fed-debian, d = 448, mean test loss of
 * three seeds): 144 probes of 16 records 0.758 after 36 s; 144 bytes of K = 16 and 64 records 0.782
 * after 12 s, 432 of them 0.729 after 45 s.  So a byte costs a third of the time and says a little
 * less, since 16 of them rest on one gradient; that is why probes stay the default.  Without
 * feedback 0.779: below d bytes it makes no difference.
 *
 * E = 1: the gradient where the node stands.  E > 1: what E local steps of plain descent add up to,
 * the client's step of federated averaging; with rate = lr K / E the K records move the model as
 * far, on average, as the local steps went.
 *
 * R is the error feedback [1]: what the byte rounded or clamped, and what K directions of d cannot
 * span, stays with the node and is sent later, so that  sum of sent z + R = sum of G, one G a
 * record.  [1] sends C(G + R) for a contracting C; on the span of one direction that is
 * z ((G + R) . z) / d, which would hold the first G back for d records.  Here G goes out whole (z
 * z^T is the identity on average) and only R at the contracting rate 1/d, which keeps |R| bounded
 * by about d |G|.  R lives in memory: who stops loses it and no more than it.
 *
 * [1] Karimireddy, Rebjock, Stich, Jaggi 2019, Error feedback fixes SignSGD, 1901.09847; read in
 * the authors' code, github.com/epfml/error-feedback-SGD, utils/convex_opt.py, SGD.step
 */
#ifndef PEERD_PROJECT_H
#define PEERD_PROJECT_H

#include "peerd/fit.h"

typedef struct pd_projector {
    pd_bench *bench; /* one side, with reverse mode; borrowed */
    pd_view *view;
    uint64_t d;
    float unit;        /* 2^-F */
    double feedback;   /* 1: as above; 0: R is kept and never sent */
    float *at;         /* (d) a_e */
    float *grad, *sum; /* (d) of the last step, and of all of them; after pd_project_end sum is G */
    float *residual;   /* (d) R */
    uint32_t steps;
} pd_projector;

/* A projector over a run's space; feedback 1, R = 0.  Errors: PD_ENOMEM. */
PD_CHECKED pd_err pd_projector_open(pd_bench *bench, const pd_space *space, const pd_manifest *m,
                                    pd_projector *out);
void pd_projector_close(pd_projector *p);

/* Begin at coordinates a (d). */
void pd_project_begin(pd_projector *p, const int32_t *a);
/* One local step of rate >= 0 on all of `batch`, which may be more than one batch of the bench.
 *
 *   out  out  its loss, before the step; if it is not finite the step does not count
 *
 * Errors: PD_EUSAGE (an example does not fit), PD_ENOMEM.
 */
PD_CHECKED pd_err pd_project_step(pd_projector *p, const pd_subset *batch, double rate,
                                  pd_loss *out);
/* Make G of the steps since begin; false if none counted. */
bool pd_project_end(pd_projector *p);

/* g_k for the direction with these signs (bits of z, as probe.h). */
double pd_project_on(const pd_projector *p, const uint8_t *signs);
/* The record along `signs` was made and stands for `sent`: R += G - sent z. */
void pd_project_sent(pd_projector *p, const uint8_t *signs, double sent);
/* R = 0: records were taken back, so R does not say any more what is missing. */
void pd_project_forget(pd_projector *p);

#endif
