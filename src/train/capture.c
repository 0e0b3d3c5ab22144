/* capture.c - how much of a data set's gradient a basis holds; see calibrate.h. */
#include "calibration.h"

#include <math.h>
#include <stdlib.h>

/* Sum of the batches' gradients of one data set, whole: (out, in) a matrix.  Only here, where it is
 * what is asked for. */
typedef struct gradient {
    const pd_basis *basis;
    float **g;
    float weight;
} gradient;

static void add_whole(void *ctx, uint32_t layer, pd_target t, uint32_t rows, const float *x,
                      const float *dy) {
    gradient *sum = ctx;
    size_t k = (size_t)layer * PD_TARGETS + t;
    const pd_basis_matrix *b = &sum->basis->at[k];
    if (sum->g[k])
        pd_gemm(true, false, b->out, b->in, rows, sum->weight, dy, x, 1.0f, sum->g[k]);
}

static double square(const float *x, size_t n) {
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += (double)x[i] * (double)x[i];
    return s;
}

/* |U G V^T|^2 for the rows of u (r, out) and v (r, in). */
static double inside(const pd_basis_matrix *b, uint32_t r, const float *g) {
    float p[PD_RANK_MAX * PD_RANK_MAX];
    float *ug = malloc((size_t)r * b->in * sizeof *ug);
    if (!ug)
        return NAN;
    pd_gemm(false, false, r, b->in, b->out, 1.0f, b->u2, g, 0.0f, ug);
    pd_gemm(false, true, r, r, b->in, 1.0f, ug, b->v2, 0.0f, p);
    free(ug);
    return square(p, (size_t)r * r);
}

static pd_err sum_gradient(pd_bench *bench, const pd_subset *all, const pd_adapter *side,
                           gradient *sum) {
    for (size_t i = 0; i < all->n;) {
        size_t from = i;
        pd_err e = pd_bench_fill(bench, all, &i, all->n);
        if (e)
            return e;
        pd_loss loss;
        sum->weight = (float)(i - from) / (float)all->n;
        pd_model_backward(bench->model, bench->work, bench->batch, side, add_whole, sum, &loss);
    }
    return PD_OK;
}

pd_err pd_basis_capture(const pd_model *m, const pd_data *data, const pd_basis *b,
                        uint32_t max_tokens, double *share) {
    const pd_model_info *info = pd_model_info_of(m);
    size_t n = (size_t)info->n_layers * PD_TARGETS;
    pd_subset all = pd_subset_all(data);
    pd_bench bench = {0};
    pd_start s = {0};
    gradient sum = {.basis = b, .g = calloc(n, sizeof *sum.g)};
    pd_err e = sum.g ? pd_bench_open(m, max_tokens, 1, true, &bench)
                     : pd_fail(PD_ENOMEM, "no memory for gradients");
    for (size_t k = 0; !e && k < n; k++)
        if (b->at[k].out && !(sum.g[k] = calloc((size_t)b->at[k].out * b->at[k].in, sizeof(float))))
            e = pd_fail(PD_ENOMEM, "no memory for whole gradients");
    if (!e)
        e = pd_start_open(info, b, &s);
    if (!e)
        e = sum_gradient(&bench, &all, pd_view_adapter(s.view), &sum);
    double in = 0, whole = 0;
    for (size_t k = 0; !e && k < n; k++)
        if (sum.g[k]) {
            in += inside(&b->at[k], b->r2, sum.g[k]);
            whole += square(sum.g[k], (size_t)b->at[k].out * b->at[k].in);
        }
    if (!e)
        *share = whole > 0 ? in / whole : 0;
    for (size_t k = 0; sum.g && k < n; k++)
        free(sum.g[k]);
    free(sum.g);
    pd_start_close(&s);
    pd_bench_close(&bench);
    return e;
}
