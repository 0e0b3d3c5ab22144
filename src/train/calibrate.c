/* calibrate.c - the two stages of calibration; see calibrate.h. */
#include "calibration.h"
#include "peerd/file.h"
#include "peerd/log.h"
#include "sketch.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const pd_calibrate_opts pd_calibrate_defaults = {
    .rank = 4,
    .targets = (1u << PD_TARGETS) - 1,
    .warm_steps = PD_WARM_CHOOSE,
    .warm_lr = 5e-3f,
    .whiten = 1,
    .groups = 4,
    .max_tokens = 1024,
    .seed = 1,
};

static const double DROP_SHARE = 0.9; /* of the held-out loss, by the steps of the start adapter */
enum {
    ROUNDS = 2,   /* power iterations */
    PATIENCE = 4, /* steps without a better held-out loss before we stop looking */
};

/* ---- a basis from gradients ---- */

/* Left and right sketches of every target matrix. */
typedef struct sketches {
    pd_sketch *left, *right; /* (L * PD_TARGETS), k = 0 where not trained */
    float *memory, *scratch; /* scratch: products of one matrix and one batch */
    pd_err err;
} sketches;

static void sketches_close(sketches *s) {
    free(s->left);
    free(s->right);
    free(s->memory);
    free(s->scratch);
}

static pd_err sketches_open(const pd_calibration *c, const pd_basis *b, uint32_t rank,
                            sketches *out) {
    size_t n = (size_t)c->info->n_layers * PD_TARGETS, floats = 0;
    uint32_t k = rank + PD_SKETCH_MORE, widest = 0;
    for (size_t m = 0; m < n; m++) {
        floats += 2 * (size_t)k * (b->at[m].out + b->at[m].in);
        widest = b->at[m].out > widest ? b->at[m].out : widest;
        widest = b->at[m].in > widest ? b->at[m].in : widest;
    }
    *out = (sketches){
        .left = calloc(n, sizeof *out->left),
        .right = calloc(n, sizeof *out->right),
        .memory = malloc(floats * sizeof *out->memory),
        .scratch = malloc((size_t)k * (c->bench.max_tokens + widest) * sizeof *out->scratch),
    };
    if (!out->left || !out->right || !out->memory || !out->scratch) {
        sketches_close(out);
        return pd_fail(PD_ENOMEM, "no memory for the sketches of a basis");
    }
    pd_rng rng = {c->opts->seed};
    float *p = out->memory;
    for (size_t m = 0; m < n; m++) {
        if (!b->at[m].out)
            continue;
        pd_sketch_init(&out->left[m], b->at[m].out, k, p, &rng);
        p += 2 * (size_t)k * b->at[m].out;
        pd_sketch_init(&out->right[m], b->at[m].in, k, p, &rng);
        p += 2 * (size_t)k * b->at[m].in;
    }
    return PD_OK;
}

/* y += A q^T for A = M^T M with M = p^T o: o (rows, n) stands on the sketch's side, p (rows, other)
 * on the other. h = o q^T (rows, k);  g = h^T p (k, other);  h = p g^T (rows, k);  y += h^T o (k,
 * n)
 */
static void add_product(pd_sketch *s, uint32_t rows, const float *o, const float *p, uint32_t other,
                        float *scratch) {
    float *h = scratch, *g = scratch + (size_t)rows * s->k;
    pd_gemm(false, true, rows, s->k, s->n, 1.0f, o, s->q, 0.0f, h);
    pd_gemm(true, false, s->k, other, rows, 1.0f, h, p, 0.0f, g);
    pd_gemm(false, true, rows, s->k, other, 1.0f, p, g, 0.0f, h);
    pd_gemm(true, false, s->k, s->n, rows, 1.0f, h, o, 1.0f, s->y);
}

static void sketch_gradient(void *ctx, uint32_t layer, pd_target t, uint32_t rows, const float *x,
                            const float *dy) {
    sketches *s = ctx;
    size_t m = (size_t)layer * PD_TARGETS + t;
    pd_sketch *left = &s->left[m], *right = &s->right[m];
    if (!left->k)
        return;
    add_product(left, rows, dy, x, right->n, s->scratch); /* G G^T = dY^T X X^T dY */
    add_product(right, rows, x, dy, left->n, s->scratch); /* G^T G */
}

/* Examples a batch, so that there are at least `groups` batches. */
static size_t group_size(const pd_calibration *c, unsigned groups) {
    return (c->all.n + groups - 1) / groups;
}

/* Leading singular vectors of the stacked batch gradients at `side`, rounded as the file holds
 * them, to u and v. */
static pd_err find_basis(pd_calibration *c, const pd_adapter *side, unsigned groups, uint32_t rank,
                         pd_basis *b, bool second) {
    sketches s;
    pd_err e = sketches_open(c, b, rank, &s);
    if (e)
        return e;
    for (int round = 0; round < ROUNDS && !e; round++) {
        for (size_t i = 0; i < c->all.n && !e;) {
            e = pd_bench_fill(&c->bench, &c->all, &i, group_size(c, groups));
            if (e)
                break;
            pd_loss loss;
            pd_model_backward(c->bench.model, c->bench.work, c->bench.batch, side, sketch_gradient,
                              &s, &loss);
            pd_progress(false, "calibrating: %s basis, pass %d of %d, %zu of %zu examples",
                        second ? "second" : "first", round + 1, ROUNDS, i, c->all.n);
            if (!isfinite(loss.sum))
                e = pd_fail(PD_ENUMERIC, "the loss of the calibration text is not finite");
        }
        for (size_t m = 0; round + 1 < ROUNDS && m < (size_t)c->info->n_layers * PD_TARGETS; m++)
            if (s.left[m].k) {
                pd_sketch_next(&s.left[m]);
                pd_sketch_next(&s.right[m]);
            }
    }
    for (size_t m = 0; !e && m < (size_t)c->info->n_layers * PD_TARGETS; m++) {
        pd_basis_matrix *x = &b->at[m];
        if (!x->out)
            continue;
        float *u = second ? x->u2 : x->u1, *v = second ? x->v2 : x->v1;
        pd_sketch_leading(&s.left[m], rank, u);
        pd_sketch_leading(&s.right[m], rank, v);
        for (uint32_t k = 0; k < rank; k++) {
            pd_basis_round(u + (size_t)k * x->out, x->out);
            pd_basis_round(v + (size_t)k * x->in, x->in);
        }
    }
    sketches_close(&s);
    return e;
}

/* ---- the start adapter ---- */

/* A space over the first basis: its vectors stand as the second of a basis without a start. */
typedef struct warm {
    pd_basis *basis;
    pd_space *space;
    pd_view *view;
} warm;

static void warm_close(warm *w) {
    pd_view_close(w->view);
    pd_space_close(w->space);
    pd_basis_free(w->basis);
}

/* A run in the space of a basis, with this rank, before there is one. */
static pd_manifest run_of(const pd_model_info *info, const pd_basis *b, uint32_t rank) {
    pd_manifest m = {.space = PD_SPACE_ALIGNED,
                     .rank = rank,
                     .targets = b->targets,
                     .first_layer = b->first_layer,
                     .unit_bits = 26};
    m.n_coords = pd_space_size(&m, info);
    return m;
}

static pd_err warm_open(const pd_calibration *c, const pd_basis *first, warm *out) {
    *out = (warm){0};
    uint32_t r = first->r1;
    pd_manifest m = run_of(c->info, first, r);
    pd_err e = pd_basis_new(c->info, first->first_layer, first->targets, 0, r, &out->basis);
    for (size_t k = 0; !e && k < (size_t)c->info->n_layers * PD_TARGETS; k++) {
        const pd_basis_matrix *x = &first->at[k];
        if (!x->out)
            continue;
        memcpy(out->basis->at[k].u2, x->u1, (size_t)r * x->out * sizeof(float));
        memcpy(out->basis->at[k].v2, x->v1, (size_t)r * x->in * sizeof(float));
    }
    if (!e)
        e = pd_space_open(&m, c->info, out->basis, &out->space);
    if (!e)
        e = pd_view_open(out->space, &out->view);
    if (e)
        warm_close(out);
    return e;
}

/* Adam on `train` from zero; after each step the loss of `held` (if any) is added to sums[step].
 * The coordinates end in c_out if it is not NULL.
 */
static pd_err warm_up(pd_calibration *c, warm *w, const pd_subset *train, const pd_subset *held,
                      int steps, double *sums, float *c_out) {
    uint64_t d = pd_space_coords(w->space);
    pd_adam adam;
    pd_err e = pd_adam_open(d, c->opts->warm_lr, &adam);
    if (e)
        return e;
    double best = INFINITY;
    int last_better = 0;
    for (int s = 0; s <= steps && !e; s++) {
        pd_loss loss = {0};
        pd_view_set_float(w->view, adam.c);
        if (held) {
            e = pd_evaluate(&c->bench, held, pd_view_adapter(w->view), &loss);
            if (e)
                break;
            double mean = pd_loss_mean(&loss);
            sums[s] += isfinite(mean) ? mean : INFINITY;
            if (mean < best) {
                best = mean;
                last_better = s;
            } else if (s - last_better >= PATIENCE) {
                for (int rest = s + 1; rest <= steps; rest++)
                    sums[rest] = INFINITY;
                break;
            }
        }
        if (s == steps)
            break;
        e = pd_space_gradient(&c->bench, train, w->view, d, adam.grad, &loss);
        if (!e && !isfinite(loss.sum))
            e = pd_fail(PD_ENUMERIC,
                        "the loss of the calibration text is not finite after %d warm-up steps", s);
        if (!e)
            pd_adam_step(&adam);
        pd_progress(false, "calibrating: start adapter, step %d of at most %d, loss %.3f", s + 1,
                    steps, pd_loss_mean(&loss));
    }
    if (!e && c_out)
        memcpy(c_out, adam.c, d * sizeof *c_out);
    pd_adam_close(&adam);
    return e;
}

/* Two-fold cross-validation: even examples train and odd ones judge, then the other way round. */
static pd_err choose_steps(pd_calibration *c, warm *w, pd_calibrate_report *report) {
    size_t n = c->all.n;
    uint32_t *index = malloc(n * sizeof *index);
    if (!index)
        return pd_fail(PD_ENOMEM, "no memory for %zu examples", n);
    size_t half = (n + 1) / 2;
    for (size_t i = 0; i < n; i++)
        index[i % 2 ? half + i / 2 : i / 2] = (uint32_t)i;
    pd_subset a = {c->all.data, index, half}, b = {c->all.data, index + half, n - half};
    double sums[PD_WARM_STEPS_MAX + 1] = {0};
    pd_err e = warm_up(c, w, &a, &b, PD_WARM_STEPS_MAX, sums, NULL);
    if (!e)
        e = warm_up(c, w, &b, &a, PD_WARM_STEPS_MAX, sums, NULL);
    free(index);
    if (e)
        return e;
    int best = 0;
    for (int s = 0; s <= PD_WARM_STEPS_MAX && isfinite(sums[s]); s++) {
        report->held[s] = sums[s] / 2;
        report->held_steps = s;
        if (sums[s] < sums[best])
            best = s;
    }
    /* The unseen half is of the same hand as the seen one; sites are not. The last steps, which
     * gain little here, are those that carry least elsewhere: the first that gives most of the drop
     * is taken.
     */
    double enough = sums[0] - DROP_SHARE * (sums[0] - sums[best]);
    while (best > 0 && sums[best - 1] <= enough)
        best--;
    report->warm_steps = best;
    return PD_OK;
}

static pd_err make_start(pd_calibration *c, pd_basis *b, pd_calibrate_report *report) {
    warm w;
    pd_err e = warm_open(c, b, &w);
    if (e)
        return e;
    report->warm_steps = c->opts->warm_steps;
    if (c->opts->warm_steps == PD_WARM_CHOOSE)
        e = choose_steps(c, &w, report);
    uint64_t d = pd_space_coords(w.space);
    float *coords = calloc(d, sizeof *coords);
    if (!e && !coords)
        e = pd_fail(PD_ENOMEM, "no memory for %llu coordinates", (unsigned long long)d);
    if (!e && report->warm_steps > 0)
        e = warm_up(c, &w, &c->all, NULL, report->warm_steps, NULL, coords);
    size_t per = (size_t)b->r1 * b->r1, at = 0;
    for (size_t k = 0; !e && k < (size_t)c->info->n_layers * PD_TARGETS; k++)
        if (b->at[k].out) {
            memcpy(b->at[k].c1, coords + at, per * sizeof(float));
            at += per;
        }
    free(coords);
    warm_close(&w);
    return e;
}

/* ---- both stages ---- */

void pd_start_close(pd_start *s) {
    pd_view_close(s->view);
    pd_space_close(s->space);
}

pd_err pd_start_open(const pd_model_info *info, const pd_basis *b, pd_start *out) {
    *out = (pd_start){0};
    pd_manifest m = run_of(info, b, b->r2);
    pd_err e = pd_space_open(&m, info, b, &out->space);
    if (!e)
        e = pd_view_open(out->space, &out->view);
    if (e)
        pd_start_close(out);
    return e;
}

static double accuracy_of(const pd_loss *l) {
    return l->choices ? (double)l->correct / (double)l->choices : NAN;
}

/* The first basis and the adapter in it; nothing where b has no room for one. */
static pd_err find_start(pd_calibration *c, pd_basis *b, pd_calibrate_report *report) {
    pd_err e = b->r1 ? find_basis(c, NULL, 1, b->r1, b, false) : PD_OK;
    return e || !b->r1 ? e : make_start(c, b, report);
}

/* b's second basis, its scales, and what the report says, at the start adapter that b holds. */
static pd_err find_second(pd_calibration *c, pd_basis *b, pd_calibrate_report *report) {
    pd_loss loss = {0};
    pd_start s = {0};
    pd_err e = pd_start_open(c->info, b, &s);
    if (!e)
        e = find_basis(c, pd_view_adapter(s.view), b->r1 ? c->opts->groups : 1, b->r2, b, true);
    if (!e && c->opts->whiten > 0)
        e = pd_find_scales(c, pd_view_adapter(s.view), b);
    if (!e)
        e = pd_evaluate(&c->bench, &c->all, pd_view_adapter(s.view), &loss);
    if (!e) {
        report->loss_start = pd_loss_mean(&loss);
        report->accuracy_start = accuracy_of(&loss);
    }
    pd_start_close(&s);
    return e;
}

static pd_err check_calibration(const pd_calibration *c) {
    if (c->all.n < 4)
        return pd_fail(PD_EUSAGE,
                       "%zu calibration examples are too few; give at least 4 (32 are usual)",
                       c->all.n);
    if (!c->opts->groups)
        return pd_fail(PD_EUSAGE, "a basis is taken from at least one group of examples");
    if (c->opts->warm_steps > PD_WARM_STEPS_MAX)
        return pd_fail(PD_EUSAGE, "at most %d warm-up steps", PD_WARM_STEPS_MAX);
    return PD_OK;
}

/* The start that goes on from `from` at coordinates a: U1 = (U1, U2), V1 = (V1, V2), and C1 = C1
 * beside D2 a. */
static pd_err continued(const pd_model_info *info, const pd_basis *from, const float *a,
                        uint32_t rank, pd_basis **out) {
    uint32_t p = from->r1, q = from->r2, r = p + q;
    pd_err e = pd_basis_new(info, from->first_layer, from->targets, r, rank, out);
    for (size_t k = 0; !e && k < (size_t)info->n_layers * PD_TARGETS; k++) {
        const pd_basis_matrix *x = &from->at[k];
        pd_basis_matrix *y = &(*out)->at[k];
        if (!x->out)
            continue;
        memcpy(y->u1, x->u1, (size_t)p * x->out * sizeof(float));
        memcpy(y->v1, x->v1, (size_t)p * x->in * sizeof(float));
        memcpy(y->u1 + (size_t)p * x->out, x->u2, (size_t)q * x->out * sizeof(float));
        memcpy(y->v1 + (size_t)p * x->in, x->v2, (size_t)q * x->in * sizeof(float));
        for (uint32_t i = 0; i < p; i++)
            memcpy(y->c1 + (size_t)i * r, x->c1 + (size_t)i * p, p * sizeof(float));
        for (uint32_t i = 0; i < q; i++)
            for (uint32_t j = 0; j < q; j++)
                y->c1[(size_t)(p + i) * r + p + j] = x->d2[i * q + j] * *a++;
    }
    return e;
}

/* Both stages, or with `from` the second alone. */
static pd_err run_stages(pd_calibration *c, const pd_basis *from, const float *a, pd_basis **out,
                         pd_calibrate_report *report) {
    uint64_t began = pd_clock_ms();
    uint32_t longest = pd_data_longest(c->all.data), most = c->opts->max_tokens;
    pd_basis *b = NULL;
    pd_loss loss;
    *report = (pd_calibrate_report){0};
    pd_err e = check_calibration(c);
    if (!e)
        e = pd_bench_open(c->bench.model, longest > most ? longest : most, 1, true, &c->bench);
    if (!e && from)
        e = continued(c->info, from, a, c->opts->rank, &b);
    else if (!e)
        e = pd_basis_new(c->info, c->opts->first_layer, c->opts->targets,
                         c->opts->warm_steps ? c->opts->rank : 0, c->opts->rank, &b);
    if (!e)
        pd_work_backward_to(c->bench.work, b->first_layer);
    if (!e)
        e = pd_evaluate(&c->bench, &c->all, NULL, &loss);
    if (!e) {
        report->loss_before = pd_loss_mean(&loss);
        report->accuracy_before = accuracy_of(&loss);
        e = from ? PD_OK : find_start(c, b, report);
    }
    if (!e)
        e = find_second(c, b, report);
    pd_bench_close(&c->bench);
    if (e) {
        pd_basis_free(b);
        return e;
    }
    report->seconds = (double)(pd_clock_ms() - began) / 1e3;
    *out = b;
    return PD_OK;
}

pd_err pd_calibrate(const pd_model *m, const pd_data *data, const pd_calibrate_opts *opts,
                    pd_basis **out, pd_calibrate_report *report) {
    pd_calibration c = {.info = pd_model_info_of(m),
                        .bench = {.model = m},
                        .all = pd_subset_all(data),
                        .opts = opts};
    return run_stages(&c, NULL, NULL, out, report);
}

pd_err pd_calibrate_on(const pd_model *m, const pd_data *data, const pd_calibrate_opts *opts,
                       const pd_basis *from, const float *a, pd_basis **out,
                       pd_calibrate_report *report) {
    pd_calibration c = {.info = pd_model_info_of(m),
                        .bench = {.model = m},
                        .all = pd_subset_all(data),
                        .opts = opts};
    return run_stages(&c, from, a, out, report);
}
