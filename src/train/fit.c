/* fit.c - evaluation over batches, gradients in a space, Adam; see fit.h. */
#include "peerd/fit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

pd_err pd_bench_open(const pd_model *m, uint32_t max_tokens, unsigned sides, bool backward,
                     pd_bench *out) {
    pd_bench b = {.model = m, .max_tokens = max_tokens};
    pd_err e = pd_work_open(m, max_tokens, sides, backward, &b.work);
    if (!e)
        e = pd_batch_open(max_tokens, max_tokens, &b.batch);
    if (e) {
        pd_bench_close(&b);
        return e;
    }
    *out = b;
    return PD_OK;
}

void pd_bench_close(pd_bench *b) {
    if (!b)
        return;
    pd_batch_close(b->batch);
    pd_work_close(b->work);
    *b = (pd_bench){0};
}

uint32_t pd_data_longest(const pd_data *d) {
    uint32_t most = 1;
    for (size_t i = 0; i < pd_data_count(d); i++)
        if (pd_data_at(d, i)->n_tokens > most)
            most = pd_data_at(d, i)->n_tokens;
    return most;
}

pd_subset pd_subset_all(const pd_data *d) {
    return (pd_subset){d, NULL, pd_data_count(d)};
}

static const pd_example *subset_at(const pd_subset *s, size_t i) {
    return pd_data_at(s->data, s->index ? s->index[i] : i);
}

pd_err pd_bench_fill(pd_bench *b, const pd_subset *s, size_t *next, size_t most) {
    pd_batch_clear(b->batch);
    size_t i = *next;
    while (i < s->n && i - *next < most && pd_batch_add(b->batch, subset_at(s, i)))
        i++;
    if (i == *next && i < s->n)
        return pd_fail(PD_EUSAGE,
                       "line %u has %u tokens, more than the %u of a batch (raise --batch-tokens)",
                       subset_at(s, i)->line, subset_at(s, i)->n_tokens, b->max_tokens);
    *next = i;
    return PD_OK;
}

static void loss_add(pd_loss *sum, const pd_loss *x) {
    sum->sum += x->sum;
    sum->units += x->units;
    sum->choices += x->choices;
    sum->correct += x->correct;
}

pd_err pd_evaluate(pd_bench *b, const pd_subset *s, const pd_adapter *a, pd_loss *out) {
    pd_loss total = {0};
    for (size_t i = 0; i < s->n;) {
        pd_err e = pd_bench_fill(b, s, &i, s->n);
        if (e)
            return e;
        pd_loss loss;
        pd_model_forward(b->model, b->work, b->batch, &a, 1, &loss, NULL);
        loss_add(&total, &loss);
    }
    *out = total;
    return PD_OK;
}

typedef struct grad_task {
    const pd_view *view;
    float *grad;
} grad_task;

static void add_gradient(void *ctx, uint32_t layer, pd_target t, uint32_t rows, const float *x,
                         const float *dy) {
    const grad_task *task = ctx;
    pd_view_grad(task->view, layer, t, rows, x, dy, task->grad);
}

pd_err pd_space_gradient(pd_bench *b, const pd_subset *s, const pd_view *v, uint64_t n_coords,
                         float *grad, pd_loss *out) {
    pd_loss total = {0};
    float *part = calloc(n_coords, sizeof *part);
    if (!part)
        return pd_fail(PD_ENOMEM, "no memory for a gradient of %llu coordinates",
                       (unsigned long long)n_coords);
    memset(grad, 0, n_coords * sizeof *grad);
    pd_work_backward_to(b->work, pd_space_first_layer(pd_view_space(v)));
    pd_err e = PD_OK;
    for (size_t i = 0; i < s->n && !e;) {
        e = pd_bench_fill(b, s, &i, s->n);
        if (e)
            break;
        pd_loss loss;
        grad_task task = {v, part};
        memset(part, 0, n_coords * sizeof *part);
        pd_model_backward(b->model, b->work, b->batch, pd_view_adapter(v), add_gradient, &task,
                          &loss);
        loss_add(&total, &loss);
        for (uint64_t k = 0; k < n_coords; k++) /* each batch gives the gradient of its own mean */
            grad[k] += part[k] * (float)loss.units;
    }
    for (uint64_t k = 0; k < n_coords && total.units; k++)
        grad[k] /= (float)total.units;
    free(part);
    if (!e)
        *out = total;
    return e;
}

pd_err pd_adam_open(uint64_t d, float lr, pd_adam *out) {
    float *p = calloc(4 * d, sizeof *p);
    if (!p)
        return pd_fail(PD_ENOMEM, "no memory for %llu coordinates", (unsigned long long)d);
    *out = (pd_adam){.d = d, .lr = lr, .c = p, .m = p + d, .v = p + 2 * d, .grad = p + 3 * d};
    return PD_OK;
}

void pd_adam_close(pd_adam *a) {
    if (!a)
        return;
    free(a->c);
    *a = (pd_adam){0};
}

void pd_adam_step(pd_adam *a) {
    const float b1 = 0.9f, b2 = 0.999f, eps = 1e-8f;
    a->t++;
    float c1 = 1.0f - powf(b1, (float)a->t), c2 = 1.0f - powf(b2, (float)a->t);
    for (uint64_t i = 0; i < a->d; i++) {
        float g = a->grad[i];
        a->m[i] = b1 * a->m[i] + (1 - b1) * g;
        a->v[i] = b2 * a->v[i] + (1 - b2) * g * g;
        a->c[i] -= a->lr * (a->m[i] / c1) / (sqrtf(a->v[i] / c2) + eps);
    }
}
