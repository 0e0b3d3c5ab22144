/* project.c - the exact gradient, its projections and what they left out; see project.h. */
#include "peerd/project.h"
#include "peerd/direction.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

pd_err pd_projector_open(pd_bench *bench, const pd_space *space, const pd_manifest *m,
                         pd_projector *out) {
    uint64_t d = pd_space_coords(space);
    pd_projector p = {
        .bench = bench, .d = d, .unit = ldexpf(1.0f, -(int)m->unit_bits), .feedback = 1};
    p.at = calloc(4 * d, sizeof *p.at);
    if (!p.at)
        return pd_fail(PD_ENOMEM, "no memory for a gradient of %llu coordinates",
                       (unsigned long long)d);
    p.grad = p.at + d;
    p.sum = p.grad + d;
    p.residual = p.sum + d;
    pd_err e = pd_view_open(space, &p.view);
    if (e) {
        pd_projector_close(&p);
        return e;
    }
    *out = p;
    return PD_OK;
}

void pd_projector_close(pd_projector *p) {
    if (!p)
        return;
    pd_view_close(p->view);
    free(p->at);
    *p = (pd_projector){0};
}

void pd_project_begin(pd_projector *p, const int32_t *a) {
    for (uint64_t i = 0; i < p->d; i++)
        p->at[i] = (float)a[i] * p->unit;
    memset(p->sum, 0, p->d * sizeof *p->sum);
    p->steps = 0;
}

pd_err pd_project_step(pd_projector *p, const pd_subset *batch, double rate, pd_loss *out) {
    pd_loss loss;
    pd_view_set_float(p->view, p->at);
    pd_err e = pd_space_gradient(p->bench, batch, p->view, p->d, p->grad, &loss);
    if (e)
        return e;
    *out = loss;
    bool finite = isfinite(loss.sum);
    for (uint64_t i = 0; i < p->d && finite; i++)
        finite = isfinite(p->grad[i]);
    if (!finite) {
        out->sum = NAN;
        return PD_OK;
    }
    for (uint64_t i = 0; i < p->d; i++) {
        p->sum[i] += p->grad[i];
        p->at[i] -= (float)rate * p->grad[i];
    }
    p->steps++;
    return PD_OK;
}

bool pd_project_end(pd_projector *p) {
    float factor = p->steps ? 1.0f / (float)p->steps : 0.0f;
    for (uint64_t i = 0; i < p->d; i++)
        p->sum[i] *= factor;
    return p->steps > 0;
}

double pd_project_on(const pd_projector *p, const uint8_t *signs) {
    double fresh = 0, rest = 0;
    for (uint64_t i = 0; i < p->d; i++) {
        int z = pd_direction_sign(signs, i);
        fresh += z * (double)p->sum[i];
        rest += z * (double)p->residual[i];
    }
    return fresh + p->feedback * rest / (double)p->d;
}

void pd_project_sent(pd_projector *p, const uint8_t *signs, double sent) {
    for (uint64_t i = 0; i < p->d; i++)
        p->residual[i] += p->sum[i] - (float)(pd_direction_sign(signs, i) * sent);
}

void pd_project_forget(pd_projector *p) {
    memset(p->residual, 0, p->d * sizeof *p->residual);
}
