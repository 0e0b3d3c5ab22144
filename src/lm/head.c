/* head.c - from the residual stream to losses: predictions in slices of the vocabulary, choices by
 * rows.
 *
 * log p(target) = logit[target] - log sum_v e^logit[v].  The sum is folded slice by slice, so
 * (rows, V) never exists. A one-token choice needs only its candidates' rows: the full sum cancels
 * in the softmax over the choices.
 */
#include "engine.h"
#include "reverse.h"

#include <assert.h>
#include <math.h>
#include <string.h>

typedef struct head_pass {
    const pd_run *r;
    const pd_batch *b;
    uint32_t first, rows;      /* chunk of predictions */
    uint32_t slice, column, n; /* slice of the vocabulary */
    float *dx;                 /* reverse mode only */
} head_pass;

enum { FOLD_ROWS = 4 };

static uint32_t slice_width(const pd_model *m, uint32_t s) {
    return m->slices[s].out;
}

/* Residual row of prediction i: side by side, in batch order. */
static uint32_t row_of(const pd_run *r, const pd_batch *b, uint32_t i) {
    return i / b->n_scored * r->tokens + b->from[i % b->n_scored];
}

static void gather_rows(void *ctx, size_t i) {
    const head_pass *p = ctx;
    const pd_model *m = p->r->m;
    pd_work *w = p->r->w;
    uint32_t c = m->info.width, row = row_of(p->r, p->b, (uint32_t)i);
    pd_norm_rows(m, &m->out_norm, 1, w->x + (size_t)row * c, pd_row(w->hs, i, c, m->half), m->half);
    w->max[i] = -INFINITY;
    w->sum[i] = w->hit[i] = 0.0f;
}

static void fold_rows(void *ctx, size_t i) {
    const head_pass *p = ctx;
    const pd_model *m = p->r->m;
    pd_work *w = p->r->w;
    uint32_t r0 = (uint32_t)i * FOLD_ROWS, n = p->rows - r0 < FOLD_ROWS ? p->rows - r0 : FOLD_ROWS;
    const float *logits = w->logits + (size_t)r0 * p->n;
    m->k->fold(n, p->n, logits, w->max + p->first + r0, w->sum + p->first + r0);
    for (uint32_t j = 0; j < n; j++) {
        uint32_t at = p->first + r0 + j, target = p->b->target[at % p->b->n_scored];
        assert(target < m->info.vocab);
        if (target >= p->column && target - p->column < p->n)
            w->hit[at] = logits[(size_t)j * p->n + target - p->column];
    }
}

/* Run fn on the logits of every chunk of predictions and every slice of the vocabulary. */
static void over_logits(head_pass *p, uint32_t predictions, void (*fn)(head_pass *p)) {
    const pd_model *m = p->r->m;
    pd_work *w = p->r->w;
    for (p->first = 0; p->first < predictions; p->first += PD_HEAD_ROWS) {
        p->rows = predictions - p->first < PD_HEAD_ROWS ? predictions - p->first : PD_HEAD_ROWS;
        for (p->slice = p->column = 0; p->slice < m->n_slices; p->column += p->n, p->slice++) {
            p->n = slice_width(m, p->slice);
            pd_gemm_run(&m->slices[p->slice], p->rows,
                        pd_row(w->hs, p->first, m->info.width, m->half), w->logits, false);
            fn(p);
        }
    }
}

static void fold_chunk(head_pass *p) {
    pd_parallel((p->rows + FOLD_ROWS - 1) / FOLD_ROWS, fold_rows, p);
}

/* Candidates' logits of one one-token choice record on one side, by plain dot products. */
static void single_item(void *ctx, size_t i) {
    const head_pass *p = ctx;
    const pd_run *r = p->r;
    const pd_model *m = r->m;
    const pd_batch *b = p->b;
    uint32_t side = (uint32_t)(i / b->n_items), c = m->info.width;
    const pd_item *it = &b->items[i % b->n_items];
    if (it->single == UINT32_MAX)
        return;
    uint32_t row = side * r->tokens + b->single_row[it->single];
    float *h = r->w->singles + (size_t)(side * b->n_singles + it->single) * c;
    pd_norm_rows(m, &m->out_norm, 1, r->w->x + (size_t)row * c, h, false);
    for (uint32_t k = 0; k < it->n_choices; k++) {
        uint32_t id = b->choices[it->choice + k];
        assert(id < m->info.vocab);
        r->w->choice_logp[side * b->n_choices + it->choice + k] =
            m->k->dot(c, h, pd_row((void *)(uintptr_t)m->head, id, c, m->half), m->half);
    }
}

void pd_head_forward(const pd_run *r, const pd_batch *b) {
    pd_work *w = r->w;
    uint32_t predictions = r->n_sides * b->n_scored;
    head_pass p = {.r = r, .b = b};
    pd_parallel(predictions, gather_rows, &p);
    over_logits(&p, predictions, fold_chunk);
    for (uint32_t i = 0; i < predictions; i++) {
        w->sum[i] = w->max[i] + logf(w->sum[i]); /* from here on the log-sum-exp */
        w->hit[i] -= w->sum[i];
    }
    assert(r->n_sides * b->n_choices <= w->max_choices);
    if (b->n_singles)
        pd_parallel((size_t)r->n_sides * b->n_items, single_item, &p);
    for (uint32_t side = 0; side < r->n_sides; side++)
        for (uint32_t n = 0; n < b->n_items; n++) { /* wide choices: sums of their tokens */
            const pd_item *it = &b->items[n];
            if (it->single != UINT32_MAX)
                continue;
            uint32_t at = side * b->n_scored + it->scored;
            for (uint32_t k = 0; k < it->n_choices; k++) {
                float sum = 0.0f;
                for (uint32_t t = 0; t < b->choices[it->choice + k]; t++)
                    sum += w->hit[at++];
                w->choice_logp[side * b->n_choices + it->choice + k] = sum;
            }
        }
}

/* log-sum-exp of n log-probabilities, and the best. */
static double choice_norm(const float *logp, uint32_t n, uint32_t *best) {
    double max = -INFINITY, sum = 0.0;
    *best = 0;
    for (uint32_t k = 0; k < n; k++)
        if (logp[k] > max) {
            max = logp[k];
            *best = k;
        }
    for (uint32_t k = 0; k < n; k++)
        sum += exp(logp[k] - max);
    return max + log(sum);
}

void pd_head_loss(const pd_work *w, const pd_batch *b, uint32_t side, pd_loss *out, float *nll) {
    pd_loss l = {0};
    for (uint32_t n = 0; n < b->n_items; n++) {
        const pd_item *it = &b->items[n];
        if (it->kind == PD_EXAMPLE_CHOICE) {
            const float *logp = w->choice_logp + side * b->n_choices + it->choice;
            uint32_t best;
            double loss = choice_norm(logp, it->n_choices, &best) - logp[it->answer];
            l.choices++;
            l.correct += best == it->answer;
            l.sum += loss;
            if (nll)
                nll[l.units] = (float)loss;
            l.units++;
            continue;
        }
        for (uint32_t i = 0; i < it->n_scored; i++) {
            float loss = -w->hit[side * b->n_scored + it->scored + i];
            l.sum += loss;
            if (nll)
                nll[l.units] = loss;
            l.units++;
        }
    }
    *out = l;
}

/* ---- reverse ---- */

/* dL/d(-log p) of every prediction:  1/units for a token;  for a wide choice  (answer's 1 - p) /
 * units. */
static void weigh(const pd_work *w, const pd_batch *b) {
    float unit = 1.0f / (float)b->n_units, *weight = w->back->weight;
    for (uint32_t n = 0; n < b->n_items; n++) {
        const pd_item *it = &b->items[n];
        if (it->kind == PD_EXAMPLE_NLL)
            for (uint32_t i = 0; i < it->n_scored; i++)
                weight[it->scored + i] = unit;
        if (it->kind == PD_EXAMPLE_NLL || it->single != UINT32_MAX)
            continue;
        uint32_t best, at = it->scored;
        const float *logp = w->choice_logp + it->choice;
        double norm = choice_norm(logp, it->n_choices, &best);
        for (uint32_t k = 0; k < it->n_choices; k++)
            for (uint32_t t = 0; t < b->choices[it->choice + k]; t++)
                weight[at++] = unit * (float)((k == it->answer) - exp(logp[k] - norm));
    }
}

static void dlogits_rows(void *ctx, size_t i) {
    const head_pass *p = ctx;
    const pd_model *m = p->r->m;
    pd_work *w = p->r->w;
    uint32_t r0 = (uint32_t)i * FOLD_ROWS, n = p->rows - r0 < FOLD_ROWS ? p->rows - r0 : FOLD_ROWS;
    uint32_t at = p->first + r0;
    const float *weight = w->back->weight + at;
    void *d = pd_row(w->back->dlogits, r0, p->n, m->half);
    const float *logits = w->logits + (size_t)r0 * p->n;
    m->k->softmax_back(n, p->n, logits, w->sum + at, weight, d, m->half);
    for (uint32_t j = 0; j < n; j++) {
        uint32_t target = p->b->target[at + j] - p->column;
        if (p->b->target[at + j] < p->column || target >= p->n)
            continue;
        float v = weight[j] * (expf(logits[(size_t)j * p->n + target] - w->sum[at + j]) - 1.0f);
        void *row = pd_row(d, j, p->n, m->half);
        if (m->half)
            ((uint16_t *)row)[target] = pd_float_to_bf16(v);
        else
            ((float *)row)[target] = v;
    }
}

static void dlogits_chunk(head_pass *p) {
    pd_reverse *v = p->r->w->back;
    pd_parallel((p->rows + FOLD_ROWS - 1) / FOLD_ROWS, dlogits_rows, p);
    pd_gemm_run(&p->r->m->slices_back[p->slice], p->rows, v->dlogits,
                v->dhs + (size_t)p->first * p->r->m->info.width, p->slice > 0);
}

/* Through the last norm into the residual stream. */
static void ungather(const head_pass *p, uint32_t row, const float *dhs) {
    const pd_model *m = p->r->m;
    size_t at = (size_t)row * m->info.width;
    pd_norm_back(m, &m->out_norm, 1, p->r->w->x + at, dhs, p->dx + at);
}

static void single_back(const head_pass *p, const pd_item *it) {
    const pd_model *m = p->r->m;
    const pd_batch *b = p->b;
    pd_work *w = p->r->w;
    float *dh = w->back->dsingle;
    uint32_t c = m->info.width, best;
    const float *logit = w->choice_logp + it->choice;
    double norm = choice_norm(logit, it->n_choices, &best);
    memset(dh, 0, c * sizeof *dh);
    for (uint32_t k = 0; k < it->n_choices; k++) {
        float d = (float)((exp(logit[k] - norm) - (k == it->answer)) / b->n_units);
        const void *row =
            pd_row((void *)(uintptr_t)m->head, b->choices[it->choice + k], c, m->half);
        for (uint32_t i = 0; i < c; i++)
            dh[i] += d * (m->half ? pd_bf16_to_float(((const uint16_t *)row)[i])
                                  : ((const float *)row)[i]);
    }
    ungather(p, b->single_row[it->single], dh);
}

void pd_head_backward(const pd_run *r, const pd_batch *b, float *dx) {
    pd_work *w = r->w;
    head_pass p = {.r = r, .b = b, .dx = dx};
    memset(dx, 0, (size_t)r->tokens * w->width * sizeof *dx);
    weigh(w, b);
    over_logits(&p, b->n_scored, dlogits_chunk);
    for (uint32_t i = 0; i < b->n_scored; i++)
        ungather(&p, b->from[i], w->back->dhs + (size_t)i * w->width);
    for (uint32_t n = 0; n < b->n_items; n++)
        if (b->items[n].single != UINT32_MAX)
            single_back(&p, &b->items[n]);
}
