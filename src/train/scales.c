/* scales.c - how far each coordinate of a basis reaches: one over the spread of its gradient
 * between records; see calibrate.h. */
#include "calibration.h"
#include "median.h"
#include "peerd/file.h"
#include "peerd/log.h"

#include <math.h>
#include <stdlib.h>

static const double DAMPING = 0.1; /* of the median variance */

/* Moments over records of each coordinate's gradient, with what the sink needs of the batch. */
typedef struct moments {
    const pd_basis *basis;
    const pd_subset *all;
    size_t from, to; /* examples of this batch */
    float units;
    double *sum, *square; /* (matrices, r2, r2) */
    float *scratch;
} moments;

/* Gradient of one record in one matrix: its rows of P = dY U^T and Q = X V^T. */
static void add_record(moments *s, size_t m, uint32_t rows, const float *p, const float *q) {
    uint32_t r = s->basis->r2;
    for (uint32_t i = 0; i < r; i++)
        for (uint32_t j = 0; j < r; j++) {
            double g = 0;
            for (uint32_t t = 0; t < rows; t++)
                g += (double)p[(size_t)t * r + i] * (double)q[(size_t)t * r + j];
            g *= (double)s->units; /* the sink's dY belongs to the mean over the batch */
            s->sum[(m * r + i) * r + j] += g;
            s->square[(m * r + i) * r + j] += g * g;
        }
}

static void add_moments(void *ctx, uint32_t layer, pd_target t, uint32_t rows, const float *x,
                        const float *dy) {
    moments *s = ctx;
    size_t m = (size_t)layer * PD_TARGETS + t;
    const pd_basis_matrix *b = &s->basis->at[m];
    uint32_t r = s->basis->r2;
    if (!b->out)
        return;
    float *p = s->scratch, *q = p + (size_t)rows * r;
    pd_gemm(false, true, rows, r, b->out, 1.0f, dy, b->u2, 0.0f, p);
    pd_gemm(false, true, rows, r, b->in, 1.0f, x, b->v2, 0.0f, q);
    for (size_t k = s->from; k < s->to; k++) {
        uint32_t n = pd_data_at(s->all->data, k)->n_tokens;
        add_record(s, m, n, p, q);
        p += (size_t)n * r;
        q += (size_t)n * r;
    }
}

/* D2 = (var + DAMPING median)^(-whiten / 2), then all by one factor, so that sum D2^2 var stays
 * sum var. */
static pd_err set_scales(const pd_calibration *c, const moments *s, pd_basis *b) {
    size_t r2 = (size_t)b->r2 * b->r2, n = (size_t)c->info->n_layers * PD_TARGETS * r2, count = 0;
    double *var = malloc(2 * n * sizeof *var), *sorted = var + n, before = 0, after = 0;
    if (!var)
        return pd_fail(PD_ENOMEM, "no memory for the scales of a basis");
    for (size_t k = 0; k < n; k++) {
        double mean = s->sum[k] / (double)c->all.n;
        var[k] = fmax(0, s->square[k] / (double)c->all.n - mean * mean);
        if (b->at[k / r2].out)
            sorted[count++] = var[k];
    }
    double damping = DAMPING * pd_median(sorted, count);
    for (size_t k = 0; k < n && damping > 0; k++)
        if (b->at[k / r2].out) {
            double d = pow(var[k] + damping, -(double)c->opts->whiten / 2);
            b->at[k / r2].d2[k % r2] = (float)d;
            before += var[k];
            after += d * d * var[k];
        }
    for (size_t k = 0; k < n && after > 0; k++)
        if (b->at[k / r2].out)
            b->at[k / r2].d2[k % r2] *= (float)sqrt(before / after);
    free(var);
    return PD_OK;
}

pd_err pd_find_scales(pd_calibration *c, const pd_adapter *side, pd_basis *b) {
    size_t n = (size_t)c->info->n_layers * PD_TARGETS * b->r2 * b->r2;
    moments s = {.basis = b, .all = &c->all};
    s.sum = calloc(2 * n, sizeof *s.sum);
    s.scratch = malloc(2 * (size_t)c->bench.max_tokens * b->r2 * sizeof *s.scratch);
    pd_err e = s.sum && s.scratch ? PD_OK : pd_fail(PD_ENOMEM, "no memory for a basis' scales");
    s.square = e ? NULL : s.sum + n;
    while (s.to < c->all.n && !e) {
        pd_loss loss;
        s.from = s.to;
        e = pd_bench_fill(&c->bench, &c->all, &s.to, c->all.n);
        if (e)
            break;
        s.units = (float)pd_batch_units(c->bench.batch);
        pd_model_backward(c->bench.model, c->bench.work, c->bench.batch, side, add_moments, &s,
                          &loss);
        pd_progress(false, "calibrating: scales, %zu of %zu examples", s.to, c->all.n);
    }
    if (!e)
        e = set_scales(c, &s, b);
    free(s.sum);
    free(s.scratch);
    return e;
}
