/* dense.h - a side's own weights: W + dW in packed form, made just before their product.
 *
 * A whole addition (pd_dense) has no cheaper form than the weights that it makes.  oneDNN's reorder
 * would take longer than the product; here each packed tile is read once, its coordinates are added
 * where they belong, and both sides' tiles are written in the same pass.  W itself is never
 * written.  Room for one layer's largest copies, a side, lies in the work.
 */
#ifndef PEERD_LM_DENSE_H
#define PEERD_LM_DENSE_H

#include "engine.h"

/* Which of the work's copies: q|k|v, o and gate|up take turns in the first, down has the other,
 * since the feed-forward part needs both at once. */
enum { PD_COPY_A, PD_COPY_B, PD_COPIES };

/* What a product of the run multiplies with: the model's W for all sides, or each side's own. */
typedef struct pd_own {
    pd_matrix side[PD_SIDES_MAX];
    bool apart;
} pd_own;

/* Make it for targets [from, to], which are the packed matrix m. */
pd_own pd_own_make(const pd_run *r, uint32_t layer, pd_target from, pd_target to,
                   const pd_matrix *m, unsigned copy);

/* y (+)= x W^T over rows [first, first + rows) of the run; x and y begin at the first of them. */
void pd_own_run(const pd_run *r, const pd_own *o, uint32_t first, uint32_t rows, const void *x,
                float *y, bool add);

/* Rows of [first, first + most) that can pass together, most at a time, no further than `all`:
 * those of one side where sides have their own weights. */
uint32_t pd_own_rows(const pd_run *r, uint32_t first, uint32_t most, uint32_t all);

/* Bytes of the copies of one side. */
void pd_own_bytes(const pd_model *m, size_t bytes[PD_COPIES]);

/* dW of one target, plain (in, out), which is the coordinates' order; false where it has none. */
bool pd_dense_plain(const pd_adapter *a, const pd_model_info *info, uint32_t layer, pd_target t,
                    float *out);

/* The copying itself, for its test: any layout, any split of a matrix into targets. */
typedef struct pd_shift {
    const pd_kernels *k;
    const pd_matrix *m;
    pd_layout layout;
    unsigned sides;
    const pd_dense *dense[PD_SIDES_MAX]; /* NULL: W alone */
    void *out[PD_SIDES_MAX];             /* layout.bytes each */
    uint32_t n_parts;
    struct {
        uint32_t from, n; /* outputs */
        uint64_t first[PD_SIDES_MAX];
    } part[3];
} pd_shift;
void pd_shift_run(const pd_shift *s);

#endif
