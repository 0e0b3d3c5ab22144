/* backward.c - reverse mode: the gradient of the loss at every target matrix, as the two factors of
 * its outer product.
 *
 * Layers from the last to the first; each is computed again from its kept input, then walked
 * backwards.  Gradients of norms and embedding are nobody's, so they are not made.  In bf16 the
 * products round their inputs as the forward does; everything between them is float.
 */
#include "dense.h"
#include "reverse.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static void *take(pd_work *w, size_t bytes, bool *ok) {
    void *p = *ok ? pd_arena_take(&w->arena, bytes) : NULL;
    *ok = p != NULL;
    return p;
}

/* One target's whole addition. */
static float *take_plain(pd_work *w, const pd_model_info *i) {
    size_t most = 0;
    for (uint32_t t = 0; t < PD_TARGETS; t++) {
        uint32_t out, in;
        pd_model_shape(i, (pd_target)t, &out, &in);
        most = (size_t)out * in > most ? (size_t)out * in : most;
    }
    return pd_arena_take(&w->copies, most * sizeof(float));
}

bool pd_reverse_open(pd_work *w, const pd_model *m) {
    const pd_model_info *i = &m->info;
    const pd_heads *h = &m->heads;
    size_t rows = pd_gemm_rows(w->max_rows), f = sizeof(float), q = h->n * h->width,
           kv = h->n_kv * h->width;
    size_t predictions = ((size_t)w->max_rows + PD_HEAD_ROWS - 1) / PD_HEAD_ROWS * PD_HEAD_ROWS;
    size_t widest = q > i->width ? q : i->width;
    widest = widest > i->ff ? widest : i->ff;
    bool ok = true;
    pd_reverse *v = take(w, sizeof *v, &ok);
    if (!ok)
        return false;
    v->kept = take(w, (size_t)i->n_layers * rows * i->width * f, &ok);
    v->lse = take(w, (size_t)h->n * w->max_rows * f, &ok);
    v->dx = take(w, rows * i->width * f, &ok);
    v->dh = take(w, rows * i->width * f, &ok);
    v->dh_ffn = i->parallel ? take(w, rows * i->width * f, &ok) : v->dh;
    v->raw = i->qk_norm ? take(w, rows * (q + kv) * f, &ok) : NULL;
    v->datt = take(w, (rows * q + PD_LANES) * f, &ok);
    v->dq = take(w, rows * q * f, &ok);
    v->dk = take(w, rows * kv * f, &ok);
    v->dv = take(w, rows * kv * f, &ok);
    v->dact = take(w, rows * i->ff * f, &ok);
    v->dgate = take(w, rows * i->ff * f, &ok);
    v->dup = take(w, rows * i->ff * f, &ok);
    v->k = take(w, (size_t)h->n_kv * w->ld * h->padded * f, &ok);
    v->vt = take(w, h->n_kv * (h->width * w->ld + PD_KEYS_PAD) * f, &ok);
    v->dk_rows = take(w, (size_t)h->n_kv * w->ld * h->padded * f, &ok);
    v->dv_rows = take(w, (size_t)h->n_kv * w->ld * h->padded * f, &ok);
    v->x32 = take(w, rows * widest * f, &ok);
    v->att32 = take(w, (rows * q + PD_LANES) * f, &ok);
    v->half = take(w, rows * widest * 2, &ok);
    v->weight = take(w, predictions * f, &ok);
    v->dlogits = take(w, (size_t)PD_HEAD_ROWS * PD_SLICE * f, &ok);
    v->dhs = take(w, predictions * i->width * f, &ok);
    v->dsingle = take(w, i->width * f, &ok);
    v->plain = take_plain(w, i);
    ok &= v->plain != NULL;
    w->back = v;
    return ok;
}

typedef struct back_pass {
    const pd_run *r;
    const pd_batch *b;
    uint32_t layer;
    pd_target t;
    const pd_norm *norm;
    const float *dy;
    const void *x;
    void *out;
    uint32_t width;
} back_pass;

/* Rows [row, row + n) of parallel item i. */
static uint32_t rows_at(const back_pass *p, size_t i, uint32_t *n) {
    uint32_t row = (uint32_t)i * PD_BLOCK, left = p->r->tokens - row;
    *n = left < PD_BLOCK ? left : PD_BLOCK;
    return row;
}

static void over_rows(back_pass *p, void (*fn)(void *ctx, size_t i)) {
    pd_parallel((p->r->tokens + PD_BLOCK - 1) / PD_BLOCK, fn, p);
}

static void to_float_rows(void *ctx, size_t i) {
    const back_pass *p = ctx;
    uint32_t n, row = rows_at(p, i, &n);
    size_t at = (size_t)row * p->width;
    p->r->m->k->from_half((size_t)n * p->width, (const uint16_t *)p->x + at, (float *)p->out + at);
}

static void to_half_rows(void *ctx, size_t i) {
    const back_pass *p = ctx;
    uint32_t n, row = rows_at(p, i, &n);
    size_t at = (size_t)row * p->width;
    p->r->m->k->to_half((size_t)n * p->width, (const float *)p->x + at, (uint16_t *)p->out + at);
}

/* A product's input as float: itself, or unrounded into `out`. */
static const float *as_float(const pd_run *r, const void *x, uint32_t width, float *out) {
    if (!r->m->half)
        return x;
    back_pass p = {.r = r, .x = x, .out = out, .width = width};
    over_rows(&p, to_float_rows);
    return out;
}

static void lowrank_rows(void *ctx, size_t i) {
    const back_pass *p = ctx;
    const pd_run *r = p->r;
    uint32_t n, row = rows_at(p, i, &n), out, in;
    pd_model_shape(&r->m->info, p->t, &out, &in);
    r->m->k->lowrank_back(n, in, out, p->dy + (size_t)row * out,
                          pd_lowrank_at(r->side[0], p->layer, p->t),
                          (float *)p->out + (size_t)row * in);
}

/* Gradient through one target:  dx = (or +=) dy (W + dW), with dW's part by factors,
 * (dy up^T) down, or plain: it is there in the other order, so W's packed form cannot be shifted by
 * it as forwards, and this costs a product more. */
static void target_back(const pd_run *r, uint32_t layer, pd_target t, const float *dy, float *dx,
                        bool add) {
    uint32_t out, in;
    const void *input = dy;
    pd_model_shape(&r->m->info, t, &out, &in);
    back_pass p = {.r = r, .layer = layer, .t = t, .x = dy, .out = r->w->back->half, .width = out};
    if (r->m->half) {
        over_rows(&p, to_half_rows);
        input = r->w->back->half;
    }
    pd_gemm_run(&r->m->layers[layer].back[t], r->tokens, input, dx, add);
    if (pd_lowrank_at(r->side[0], layer, t)) {
        p.dy = dy;
        p.out = dx;
        over_rows(&p, lowrank_rows);
    }
    if (pd_dense_plain(r->side[0], &r->m->info, layer, t, r->w->back->plain))
        pd_gemm(false, true, r->tokens, in, out, 1.0f, dy, r->w->back->plain, 1.0f, dx);
}

static void norm_back_rows(void *ctx, size_t i) {
    const back_pass *p = ctx;
    const pd_model *m = p->r->m;
    uint32_t n, row = rows_at(p, i, &n), c = m->info.width;
    size_t at = (size_t)row * c;
    pd_norm_back(m, p->norm, n, (const float *)p->x + at, p->dy + at, (float *)p->out + at);
}

static void act_back_rows(void *ctx, size_t i) {
    const back_pass *p = ctx;
    const pd_model *m = p->r->m;
    const pd_reverse *v = p->r->w->back;
    uint32_t n, row = rows_at(p, i, &n), f = m->info.ff;
    size_t at = (size_t)row * f;
    const float *gu = p->r->w->gu;
    if (m->info.no_gate)
        m->k->act_back(m->info.activation, (size_t)n * f, gu + at, v->dact + at, v->dup + at);
    else
        m->k->silu_back(n, f, gu + 2 * at, v->dact + at, v->dgate + at, v->dup + at);
}

/* dx += gradient through one of a layer's norms, of x. */
static void norm_back(const pd_run *r, const pd_norm *norm, const float *x, const float *dy) {
    back_pass p = {.r = r, .x = x, .norm = norm, .dy = dy, .out = r->w->back->dx};
    over_rows(&p, norm_back_rows);
}

/* dx holds the gradient at the layer's end; after this, at its middle.  In a parallel family it
 * stays, since attention ends there too, and dh_ffn waits for attention_back. */
static void ffn_back(const pd_run *r, uint32_t l, pd_grad_sink *sink, void *ctx) {
    const pd_model_info *i = &r->m->info;
    pd_work *w = r->w;
    pd_reverse *v = w->back;
    sink(ctx, l, PD_DOWN, r->tokens, as_float(r, w->act, i->ff, v->x32), v->dx);
    target_back(r, l, PD_DOWN, v->dx, v->dact, false);
    back_pass p = {.r = r};
    over_rows(&p, act_back_rows);
    const float *x = as_float(r, w->h_ffn, i->width, v->x32);
    sink(ctx, l, PD_UP, r->tokens, x, v->dup);
    if (!i->no_gate)
        sink(ctx, l, PD_GATE, r->tokens, x, v->dgate);
    target_back(r, l, PD_UP, v->dup, v->dh_ffn, false);
    if (!i->no_gate)
        target_back(r, l, PD_GATE, v->dgate, v->dh_ffn, true);
    if (!i->parallel)
        norm_back(r, &r->m->layers[l].ffn_norm, w->x, v->dh_ffn);
}

static void lay_rows(void *ctx, size_t i) {
    const back_pass *p = ctx;
    const pd_heads *h = &p->r->m->heads;
    pd_work *w = p->r->w;
    uint32_t n, row = rows_at(p, i, &n);
    p->r->m->k->split_back(h, n, w->qkv + (size_t)row * (h->n + 2 * h->n_kv) * h->width, row,
                           w->back->k, w->back->vt, w->ld);
}

/* One key head of one sequence with all its query heads. */
static void attend_back_task(void *ctx, size_t i) {
    const back_pass *p = ctx;
    const pd_model *m = p->r->m;
    const pd_heads *h = &m->heads;
    pd_work *w = p->r->w;
    pd_reverse *v = w->back;
    pd_seq s = p->b->seqs[i / h->n_kv];
    uint32_t kv = (uint32_t)(i % h->n_kv), share = h->n / h->n_kv, width = h->n * h->width;
    size_t ld = (size_t)(h->n + 2 * h->n_kv) * h->width, keys = (kv * w->ld + s.row) * h->padded;
    memset(v->dk_rows + keys, 0, (size_t)s.len * h->padded * sizeof(float));
    memset(v->dv_rows + keys, 0, (size_t)s.len * h->padded * sizeof(float));
    for (uint32_t head = kv * share; head < (kv + 1) * share; head++) {
        size_t at = (size_t)s.row * width + head * h->width;
        pd_attend_back a = {
            .q = w->qkv + s.row * ld + head * h->width,
            .q_ld = ld,
            .dout = v->datt + at,
            .out = (const float *)p->x + at,
            .out_ld = width,
            .n = s.len,
            .window = m->info.window,
            .kt = w->kt + kv * h->width * w->ld + s.row,
            .vt = v->vt + kv * h->width * w->ld + s.row,
            .kt_ld = w->ld,
            .k = v->k + keys,
            .width = h->width,
            .padded = h->padded,
            .lse = v->lse + head * (size_t)w->max_rows + s.row,
            .scale = 1.0f / sqrtf((float)h->width),
            .dq = v->dq + at,
            .dq_ld = width,
            .dk = v->dk_rows + keys,
            .dv = v->dv_rows + keys,
        };
        m->k->attend_back(&a);
    }
}

/* Key heads' sums to rows, and both turned back to before RoPE and their norms. */
static void unturn_rows(void *ctx, size_t i) {
    const back_pass *p = ctx;
    const pd_model *m = p->r->m;
    const pd_layer *l = &m->layers[p->layer];
    const pd_heads *h = &m->heads;
    pd_work *w = p->r->w;
    pd_reverse *v = w->back;
    uint32_t n, row = rows_at(p, i, &n);
    size_t q = h->n * h->width, kv = h->n_kv * h->width, bytes = h->width * sizeof(float);
    for (uint32_t g = 0; g < h->n_kv; g++)
        for (uint32_t r = row; r < row + n; r++) {
            memcpy(v->dk + r * kv + g * h->width, v->dk_rows + (g * w->ld + r) * h->padded, bytes);
            memcpy(v->dv + r * kv + g * h->width, v->dv_rows + (g * w->ld + r) * h->padded, bytes);
        }
    const uint32_t *pos = p->r->pos + row;
    m->k->unturn(h, n, h->n, v->dq + row * q, pos, w->rot);
    m->k->unturn(h, n, h->n_kv, v->dk + row * kv, pos, w->rot);
    if (!m->info.qk_norm)
        return;
    const float *raw = v->raw + row * (q + kv);
    m->k->norm_heads_back(n, h->n, h->width, l->q_norm, m->info.eps, raw, q + kv, v->dq + row * q);
    m->k->norm_heads_back(n, h->n_kv, h->width, l->k_norm, m->info.eps, raw + q, q + kv,
                          v->dk + row * kv);
}

/* dx holds the gradient at the layer's middle; after this, at its start.  w->x becomes the layer's
 * input again. */
static void attention_back(const pd_run *r, const pd_batch *b, uint32_t l, const float *kept,
                           pd_grad_sink *sink, void *ctx) {
    const pd_model *m = r->m;
    const pd_layer *layer = &m->layers[l];
    pd_work *w = r->w;
    pd_reverse *v = w->back;
    const float *att = as_float(r, w->att, m->heads.n * m->heads.width, v->att32);
    sink(ctx, l, PD_O, r->tokens, att, v->dx);
    target_back(r, l, PD_O, v->dx, v->datt, false);
    back_pass p = {.r = r, .b = b, .layer = l, .x = att};
    over_rows(&p, lay_rows);
    pd_parallel((size_t)b->n_seqs * m->heads.n_kv, attend_back_task, &p);
    over_rows(&p, unturn_rows);
    memcpy(w->x, kept, (size_t)r->tokens * m->info.width * sizeof(float));
    pd_run_norm(r, l);
    const float *x = as_float(r, w->h, m->info.width, v->x32);
    sink(ctx, l, PD_V, r->tokens, x, v->dv);
    sink(ctx, l, PD_K, r->tokens, x, v->dk);
    sink(ctx, l, PD_Q, r->tokens, x, v->dq);
    target_back(r, l, PD_V, v->dv, v->dh, false);
    target_back(r, l, PD_K, v->dk, v->dh, true);
    target_back(r, l, PD_Q, v->dq, v->dh, true);
    norm_back(r, &layer->attn_norm, kept, v->dh);
    if (m->info.parallel)
        norm_back(r, &layer->ffn_norm, kept, v->dh_ffn);
}

void pd_model_backward(const pd_model *m, pd_work *w, const pd_batch *b, const pd_adapter *side,
                       pd_grad_sink *sink, void *ctx, pd_loss *out) {
    assert(w->backward && m->backward && b->n_tokens <= w->max_tokens && w->width == m->info.width);
    *out = (pd_loss){0};
    if (b->n_tokens == 0 || b->n_units == 0)
        return;
    pd_reverse *v = w->back;
    size_t stream = (size_t)b->n_tokens * w->width;
    pd_run r = {.m = m,
                .w = w,
                .tokens = b->n_tokens,
                .n_sides = 1,
                .ids = b->ids,
                .pos = b->pos,
                .kt = w->kt,
                .v = w->v};
    r.side[0] = side;
    pd_run_tasks(w, b->seqs, b->n_seqs, b->n_tokens, 1);
    pd_run_embed(&r);
    pd_run_norm(&r, 0);
    for (uint32_t l = 0; l < m->info.n_layers; l++) {
        if (l >= w->lowest)
            memcpy(v->kept + l * stream, w->x, stream * sizeof(float));
        pd_run_attention(&r, l);
        pd_run_ffn(&r, l, true);
    }
    pd_head_forward(&r, b);
    pd_head_loss(w, b, 0, out, NULL);
    pd_head_backward(&r, b, v->dx);
    r.lse = v->lse;
    r.raw = v->raw;
    for (uint32_t l = m->info.n_layers; l-- > w->lowest;) {
        const float *kept = v->kept + l * stream;
        memcpy(w->x, kept, stream * sizeof(float));
        pd_run_norm(&r, l);
        pd_run_attention(&r, l);
        pd_run_ffn(&r, l, false);
        ffn_back(&r, l, sink, ctx);
        attention_back(&r, b, l, kept, sink, ctx);
    }
}
