/* probe.c - the central probe, and the constants of a run read from a few of them; see probe.h. */
#include "peerd/probe.h"
#include "median.h"
#include "peerd/direction.h"
#include "peerd/log.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PROPOSE_MAX = 64 };

/* lr = LR_SHARE / curvature.  A step of exactly 1 / (z^T H z) would jump to the minimum along z as
 * this one batch sees it; of that the signal bears its share of E g^2.  Measured on four-desks
 * (SmolLM2, rank 4, batches of 16): 0.16 at the start adapter, falling as the loss does; at 0.15
 * one seed in three drifts away within a hundred records.
 */
static const double LR_SHARE = 0.1;
/* And never so much that one record, taken at its word, would lower the loss by more than this
 * share of it (lr g^2): where the curvature is small, and, less, where it is negative and says
 * nothing.
 */
static const double DROP_SHARE = 0.1, BLIND_DROP_SHARE = 0.02;
static const double EPS_SHARE = 0.01, CLIP_SPREADS = 3, WEIGHT_MEDIANS = 2;

pd_err pd_prober_open(pd_bench *bench, const pd_space *space, pd_prober *out) {
    pd_prober p = {.bench = bench, .space = space};
    pd_err e = pd_view_open(space, &p.plus);
    if (!e)
        e = pd_view_open(space, &p.minus);
    uint32_t first = pd_space_first_layer(space);
    if (!e && first)
        e = pd_stem_open(bench->model, bench->max_tokens, first, &p.stem);
    if (e) {
        pd_prober_close(&p);
        return e;
    }
    *out = p;
    return PD_OK;
}

void pd_prober_close(pd_prober *p) {
    if (!p)
        return;
    pd_view_close(p->plus);
    pd_view_close(p->minus);
    pd_stem_close(p->stem);
    *p = (pd_prober){0};
}

/* Losses of the bench's batch; below the space's first layer every side is the base. */
static void losses(pd_prober *p, const pd_adapter *const sides[], unsigned n, pd_loss *out) {
    const pd_bench *b = p->bench;
    if (!p->stem) {
        pd_model_forward(b->model, b->work, b->batch, sides, n, out, NULL);
        return;
    }
    if (!pd_stem_holds(p->stem, b->batch))
        pd_model_stem(b->model, b->work, b->batch, NULL, p->stem);
    pd_model_forward_from(b->model, b->work, b->batch, p->stem, sides, n, out, NULL);
}

void pd_probe_at(pd_prober *p, const int32_t *a, const uint8_t *signs, float eps, pd_probe *out) {
    pd_view_set(p->plus, a, signs, eps);
    pd_view_set(p->minus, a, signs, -eps);
    const pd_adapter *sides[2] = {pd_view_adapter(p->plus), pd_view_adapter(p->minus)};
    pd_loss loss[2];
    losses(p, sides, 2, loss);
    out->plus = pd_loss_mean(&loss[0]);
    out->minus = pd_loss_mean(&loss[1]);
    out->g = (out->plus - out->minus) / (2.0 * (double)eps);
}

/* The loss in the middle: both sides at a = 0. */
static double loss_at_zero(pd_prober *p) {
    pd_view_set(p->plus, NULL, NULL, 0);
    const pd_adapter *side = pd_view_adapter(p->plus);
    pd_loss loss;
    losses(p, &side, 1, &loss);
    return pd_loss_mean(&loss);
}

static double root_mean_square(const double *x, unsigned n) {
    double sum = 0;
    for (unsigned k = 0; k < n; k++)
        sum += x[k] * x[k];
    return sqrt(sum / n);
}

/* E[g^2 c] / E[g^2]: a step -lr g z raises the loss by lr^2 g^2 c / 2, so the curvatures of steep
 * batches are those that a rate has to stand.  No batch counts as more than WEIGHT_MEDIANS slopes.
 */
static double step_curvature(const double *slope, const double *curvature, unsigned n) {
    double steep[PROPOSE_MAX], weights = 0, sum = 0;
    for (unsigned k = 0; k < n; k++)
        steep[k] = fabs(slope[k]);
    double most = WEIGHT_MEDIANS * pd_median(steep, n);
    for (unsigned k = 0; k < n; k++) {
        double w = fmin(fabs(slope[k]), most);
        weights += w * w;
        sum += w * w * curvature[k];
    }
    return weights > 0 ? sum / weights : 0;
}

pd_err pd_propose(pd_prober *p, const pd_subset *data, unsigned count, unsigned records,
                  uint64_t seed, pd_proposal *out) {
    double curvature[PROPOSE_MAX], slope[PROPOSE_MAX], loss = 0;
    double start = pd_space_distance(pd_space_kind_of(p->space));
    pd_rng rng = {seed};
    uint32_t *pick = malloc(records * sizeof *pick);
    size_t d = pd_space_coords(p->space), n_bits = (d + 7) / 8;
    uint8_t *bits = malloc(n_bits);
    pd_err e = pick && bits ? PD_OK : pd_fail(PD_ENOMEM, "no memory for calibration probes");
    count = count > PROPOSE_MAX ? PROPOSE_MAX : count;
    for (unsigned k = 0; k < count && !e; k++) {
        uint8_t z[32];
        for (size_t i = 0; i < 4; i++) {
            uint64_t word = pd_rng_next(&rng);
            memcpy(z + 8 * i, &word, 8);
        }
        for (unsigned i = 0; i < records; i++)
            pick[i] = (uint32_t)(data->index ? data->index[pd_rng_below(&rng, data->n)]
                                             : pd_rng_below(&rng, data->n));
        pd_subset batch = {data->data, pick, records};
        size_t next = 0;
        e = pd_bench_fill(p->bench, &batch, &next, records);
        if (e)
            break;
        pd_probe probe;
        double zero = loss_at_zero(p);
        pd_direction_signs(z, bits, d);
        pd_probe_at(p, NULL, bits, (float)start, &probe);
        if (!isfinite(probe.g) || !isfinite(zero))
            e = pd_fail(PD_ENUMERIC, "the loss of a calibration probe is not finite");
        curvature[k] = (probe.plus + probe.minus - 2 * zero) / (start * start);
        slope[k] = probe.g;
        loss += zero;
        pd_progress(false, "choosing eps, lr and byte scale: probe %u of %u", k + 1, count);
    }
    free(pick);
    free(bits);
    if (e)
        return e;
    pd_proposal r = {.loss = loss / count,
                     .curvature = step_curvature(slope, curvature, count),
                     .spread = root_mean_square(slope, count),
                     .probes = count};
    double g2 = fmax(r.spread * r.spread, 1e-12), top = CLIP_SPREADS * sqrt(g2);
    bool bowl = r.curvature > 0; /* a few probes on a hill say nothing of where it ends */
    r.eps = bowl ? fmin(0.1, fmax(start / 100, sqrt(2 * EPS_SHARE * r.loss / r.curvature))) : start;
    r.lr = (bowl ? DROP_SHARE : BLIND_DROP_SHARE) * fmax(r.loss, 1e-3) / g2;
    if (bowl)
        r.lr = fmin(r.lr, LR_SHARE / r.curvature);
    r.scale = top / 2048.0; /* the largest byte is 2^11 scales */
    *out = r;
    return PD_OK;
}
