/* basis.h - the basis file of an aligned space: for every target matrix a few vectors along the
 * loss gradient.
 *
 *   data > tokens > LOSS PAIR > byte > ledger > gossip > replay > WEIGHTS
 *
 *   W = W0 + U1 C1 V1 (the start adapter, fixed) + U2 (D2 . a) V2 (trained)
 *                                 U (r, out), V (r, in), C1 (r1, r1), D2 and a (r2, r2)
 *
 * D2, element by element, is the scale of each coordinate: one over the spread of its gradient from
 * record to record, so that the noise of a probe is shared evenly (calibrate.h).
 *
 * Vectors are int8 with one float32 scale each; everybody computes with the stored values, so
 * nobody but the founder needs a backward pass.  The file's BLAKE2b-256 stands in the manifest.
 * File, little-endian:
 *
 *   "PDBASIS1" | n_layers u32 |, or where layers below a first one are not trained
 *   "PDBASIS2" | n_layers u32 | first_layer u32 (1 .. n_layers - 1) |
 *       targets u32 (bit t: target t) | start rank r1 u32 | rank r2 u32
 *   per layer from the first on, per target of the mask:  out u32 | in u32
 *       | r1 x (scale f32, out x i8) | r1 x (scale f32, in x i8)
 *       | r1*r1 x f32 (C1, row i = left vector i)
 *       | r2 x (scale f32, out x i8) | r2 x (scale f32, in x i8) | r2*r2 x f32 (D2, as C1)
 */
#ifndef PEERD_BASIS_H
#define PEERD_BASIS_H

#include "peerd/model.h"

/* One target matrix's share, dequantised. */
typedef struct pd_basis_matrix {
    uint32_t out, in;
    float *u1, *v1, *c1; /* (r1, out), (r1, in), (r1, r1); NULL where r1 = 0 */
    float *u2, *v2, *d2; /* (r2, out), (r2, in), (r2, r2) */
} pd_basis_matrix;

typedef struct pd_basis {
    uint32_t n_layers, first_layer, targets, r1, r2;
    pd_basis_matrix *at; /* (n_layers * PD_TARGETS); out = 0 below the first layer and where the
                            mask has no bit */
} pd_basis;

/* An empty basis for the layers of a model from first_layer on: all zero, every scale one.
 * Errors: PD_ENOMEM, PD_EUSAGE (rank outside 1..PD_RANK_MAX, no target, no layer left),
 * PD_EMISMATCH (a target that the model has not).
 */
PD_CHECKED pd_err pd_basis_new(const pd_model_info *info, uint32_t first_layer, uint32_t targets,
                               uint32_t r1, uint32_t r2, pd_basis **out);
void pd_basis_free(pd_basis *b);

/* Round a vector to int8 with one scale, in place: x becomes what a reader of the file will see. */
void pd_basis_round(float *x, size_t n);

/* The file's bytes (gives; free() it).  Vectors must have been through pd_basis_round. */
PD_CHECKED pd_err pd_basis_write(const pd_basis *b, uint8_t **out, size_t *n);
/* Errors: PD_EFORMAT (what is wrong), PD_EMISMATCH (shapes are not this model's), PD_ENOMEM. */
PD_CHECKED pd_err pd_basis_read(const uint8_t *p, size_t n, const pd_model_info *info,
                                pd_basis **out);

#endif
