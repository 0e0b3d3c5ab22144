/* space.h - the trainable coordinates a of a run and how they enter the weights.
 *
 *   data > tokens > LOSS PAIR > byte > ledger > gossip > REPLAY > WEIGHTS
 *
 *   aligned   C_t = a_t (r, r) per target matrix:  dW_t = U1 C1 V1 + U2 (D2 . a_t) V2
 *             coordinate (i, j): left i, right j
 *   lora      A_t = A0_t + a (r, in), B_t = a (r, out):  dW_t = alpha / r B_t^T A_t
 *             A's coordinates first, then B's
 *   full      dW_t = a_t^T,  a_t (in, out): every entry of the target matrices, for small models
 * [2] (embedding, head, norms and biases stay as the base has them)
 *
 * Matrices follow each other by layer, from the run's first on, then target.  Below the first layer
 * every adapter of the space is empty, so what is made of a batch there is the same at every a.
 *
 * a counts units of 2^-F.  The base is never written; a space only makes adapters (model.h). LoRA's
 * A0 is uniform in +-1/sqrt(in), from the manifest's seed and the matrix's number [1].  A view of a
 * full space holds no weights of its own: it says where coordinates and signs lie, and the engine
 * adds them as it goes.
 *
 * [1] Hu et al. 2021, LoRA, 2106.09685 (B0 = 0, factor alpha / r)
 * [2] Malladi et al. 2023, MeZO, 2305.17333, which trains all parameters along one random direction
 */
#ifndef PEERD_SPACE_H
#define PEERD_SPACE_H

#include "peerd/basis.h"
#include "peerd/manifest.h"

typedef struct pd_space pd_space;

extern const char *const pd_space_names[]; /* "aligned" "lora" "full" NULL, by kind */

/* Distance of a first probe of a space that nothing is known of: 0.01, for full 0.001 [2]. */
double pd_space_distance(pd_space_kind kind);

/* Number of coordinates of the space that a manifest describes over a model: of its kind, rank (not
 * looked at for full), targets and first layer, a layer of the model. */
uint64_t pd_space_size(const pd_manifest *m, const pd_model_info *info);

/* Open the space a manifest describes.  basis: aligned only, borrowed for the space's life.
 * Errors: PD_EMISMATCH (basis, rank, targets, first layer or coordinate count do not fit the
 * model), PD_ENOMEM.
 */
PD_CHECKED pd_err pd_space_open(const pd_manifest *m, const pd_model_info *info,
                                const pd_basis *basis, pd_space **out);
void pd_space_close(pd_space *s);
uint64_t pd_space_coords(const pd_space *s);
uint32_t pd_space_first_layer(const pd_space *s);
pd_space_kind pd_space_kind_of(const pd_space *s);

/* Memory of one adapter of the space. */
typedef struct pd_view pd_view;
PD_CHECKED pd_err pd_view_open(const pd_space *s, pd_view **out);
void pd_view_close(pd_view *v);
const pd_adapter *pd_view_adapter(const pd_view *v);
const pd_space *pd_view_space(const pd_view *v);

/* Set the view to  a 2^-F + eps z.  What is given is borrowed until the view is set again (only a
 * full space's view looks at it later).
 *
 *   a      in  (d) int32, or NULL for zero
 *   signs  in  bits of z, coordinate i = bit i%8 of byte i/8, or NULL for no perturbation
 *   eps    in  signed distance
 */
void pd_view_set(pd_view *v, const int32_t *a, const uint8_t *signs, float eps);
/* Set the view to float coordinates (d). */
void pd_view_set_float(pd_view *v, const float *c);

/* Add one target matrix's share of the gradient with respect to float coordinates: grad (d) +=
 * dL/dc, at the view's present coordinates, from dL/dW = dy^T x (pd_grad_sink's arguments).
 */
void pd_view_grad(const pd_view *v, uint32_t layer, pd_target t, uint32_t rows, const float *x,
                  const float *dy, float *grad);

/* One target matrix's whole addition, where it is of low rank (not in a full space: there rank is 0
 * and pd_view_adapter(v)->dense has it), as plain low-rank factors with every factor folded in (for
 * export): dW = sum_k up[k] down[k]^T, rank as pd_lowrank.  Borrowed from the view.
 */
const pd_lowrank *pd_view_at(const pd_view *v, uint32_t layer, pd_target t);

#endif
