/* forward.c - the layers: four products each, and four passes of row loops between them.
 *
 * A pass does everything that a row needs between two products (the adapter of the product before,
 * positions, norm), so that activations are walked once while they are near.  Row blocks never
 * straddle two sides, whose adapters differ.
 */
#include "engine.h"

#include <assert.h>
#include <math.h>
#include <string.h>

typedef struct pass {
    const pd_run *r;
    uint32_t layer;
    const float *norm;
} pass;

typedef struct block { /* rows [row, row + n) of side `side` */
    uint32_t row, n, side, token;
} block;

static uint32_t blocks_per_side(const pd_run *r) {
    return (r->tokens + PD_BLOCK - 1) / PD_BLOCK;
}

static block block_at(const pd_run *r, size_t i) {
    uint32_t per = blocks_per_side(r), side = (uint32_t)i / per,
             token = ((uint32_t)i % per) * PD_BLOCK;
    uint32_t n = r->tokens - token < PD_BLOCK ? r->tokens - token : PD_BLOCK;
    return (block){.row = side * r->tokens + token, .n = n, .side = side, .token = token};
}

static void over_rows(const pd_run *r, uint32_t layer, const float *norm,
                      void (*fn)(void *ctx, size_t i)) {
    pass p = {.r = r, .layer = layer, .norm = norm};
    pd_parallel((size_t)blocks_per_side(r) * r->n_sides, fn, &p);
}

/* y (y_ld), whose first column is the target's, += the block's low-rank addition. */
static void add_lowrank(const pass *p, const block *b, pd_target t, void *x, float *y,
                        size_t y_ld) {
    const pd_model *m = p->r->m;
    const pd_lowrank *a = pd_lowrank_at(p->r->side[b->side], p->layer, t);
    if (!a)
        return;
    uint32_t out, in;
    pd_model_shape(&m->info, t, &out, &in);
    m->k->lowrank(b->n, in, out, pd_row(x, b->row, in, m->half), m->half, a, y + b->row * y_ld,
                  y_ld);
}

static void embed_rows(void *ctx, size_t i) {
    const pass *p = ctx;
    const pd_run *r = p->r;
    const pd_model *m = r->m;
    block b = block_at(r, i);
    size_t c = m->info.width;
    for (uint32_t j = 0; j < b.n; j++) {
        float *x = r->w->x + (b.row + j) * c;
        size_t id = r->ids[b.token + j];
        assert(id < m->info.vocab);
        if (m->half)
            m->k->from_half(c, (const uint16_t *)m->embed + id * c, x);
        else
            memcpy(x, (const float *)m->embed + id * c, c * sizeof(float));
    }
}

void pd_run_embed(const pd_run *r) {
    over_rows(r, 0, NULL, embed_rows);
}

static void norm_rows(void *ctx, size_t i) {
    const pass *p = ctx;
    const pd_model *m = p->r->m;
    pd_work *w = p->r->w;
    block b = block_at(p->r, i);
    uint32_t c = m->info.width;
    m->k->rms(b.n, c, w->x + (size_t)b.row * c, p->norm, m->info.rms_eps,
              pd_row(w->h, b.row, c, m->half), m->half);
}

void pd_run_norm(const pd_run *r, const float *norm) {
    over_rows(r, 0, norm, norm_rows);
}

static void qkv_rows(void *ctx, size_t i) {
    const pass *p = ctx;
    const pd_run *r = p->r;
    const pd_model *m = r->m;
    const pd_heads *h = &m->heads;
    pd_work *w = r->w;
    block b = block_at(r, i);
    size_t ld = (size_t)(h->n + 2 * h->n_kv) * h->width;
    add_lowrank(p, &b, PD_Q, w->h, w->qkv, ld);
    add_lowrank(p, &b, PD_K, w->h, w->qkv + h->n * h->width, ld);
    add_lowrank(p, &b, PD_V, w->h, w->qkv + (h->n + h->n_kv) * h->width, ld);
    m->k->split(h, b.n, w->qkv + b.row * ld, r->pos + b.token, w->rot, r->slot + b.row, r->kt, r->v,
                w->ld);
}

/* One head of one task. */
static void attend_task(void *ctx, size_t i) {
    const pass *p = ctx;
    const pd_run *r = p->r;
    const pd_model *m = r->m;
    const pd_heads *h = &m->heads;
    pd_work *w = r->w;
    const pd_task *t = &w->tasks[i / h->n];
    uint32_t head = (uint32_t)(i % h->n), kv = head / (h->n / h->n_kv), width = h->n * h->width;
    size_t ld = (size_t)(h->n + 2 * h->n_kv) * h->width;
    pd_attend a = {
        .q = w->qkv + t->row * ld + head * h->width,
        .q_ld = ld,
        .n = t->n,
        .first = t->first,
        .kt = r->kt + kv * h->width * w->ld + t->slot,
        .kt_ld = w->ld,
        .v = r->v + (kv * w->ld + t->slot) * h->padded,
        .width = h->width,
        .padded = h->padded,
        .out = pd_row(pd_row(w->att, t->row, width, m->half), head, h->width, m->half),
        .out_ld = width,
        .half = m->half,
        .lse = r->lse ? r->lse + head * (size_t)w->max_rows + t->row : NULL,
    };
    m->k->attend(&a);
}

static void o_rows(void *ctx, size_t i) {
    const pass *p = ctx;
    block b = block_at(p->r, i);
    pd_work *w = p->r->w;
    add_lowrank(p, &b, PD_O, w->att, w->x, p->r->m->info.width);
    norm_rows(ctx, i);
}

void pd_run_attention(const pd_run *r, uint32_t layer) {
    const pd_layer *l = &r->m->layers[layer];
    pd_work *w = r->w;
    uint32_t rows = r->tokens * r->n_sides;
    pd_gemm_run(&l->qkv, rows, w->h, w->qkv, false);
    over_rows(r, layer, NULL, qkv_rows);
    pass p = {.r = r, .layer = layer};
    pd_parallel((size_t)w->n_tasks * r->m->heads.n, attend_task, &p);
    pd_gemm_run(&l->o, rows, w->att, w->x, true);
    over_rows(r, layer, l->ffn_norm, o_rows);
}

static void gate_up_rows(void *ctx, size_t i) {
    const pass *p = ctx;
    const pd_model *m = p->r->m;
    pd_work *w = p->r->w;
    block b = block_at(p->r, i);
    uint32_t f = m->info.ff;
    add_lowrank(p, &b, PD_GATE, w->h, w->gu, 2 * (size_t)f);
    add_lowrank(p, &b, PD_UP, w->h, w->gu + f, 2 * (size_t)f);
    m->k->silu(b.n, f, w->gu + b.row * 2 * (size_t)f, pd_row(w->act, b.row, f, m->half), m->half);
}

static void down_rows(void *ctx, size_t i) {
    const pass *p = ctx;
    block b = block_at(p->r, i);
    pd_work *w = p->r->w;
    add_lowrank(p, &b, PD_DOWN, w->act, w->x, p->r->m->info.width);
    if (p->norm)
        norm_rows(ctx, i);
}

void pd_run_ffn(const pd_run *r, uint32_t layer, bool down) {
    const pd_layer *l = &r->m->layers[layer];
    pd_work *w = r->w;
    uint32_t rows = r->tokens * r->n_sides;
    pd_gemm_run(&l->gate_up, rows, w->h, w->gu, false);
    over_rows(r, layer, NULL, gate_up_rows);
    if (!down)
        return;
    pd_gemm_run(&l->down, rows, w->act, w->x, true);
    bool last = layer + 1 == r->m->info.n_layers;
    over_rows(r, layer, last ? NULL : r->m->layers[layer + 1].attn_norm, down_rows);
}

void pd_run_body(const pd_run *r) {
    pd_run_embed(r);
    pd_run_norm(r, r->m->layers[0].attn_norm);
    for (uint32_t l = 0; l < r->m->info.n_layers; l++) {
        pd_run_attention(r, l);
        pd_run_ffn(r, l, true);
    }
}

/* Queries of each sequence in groups, the last group, which sees the most keys, first. */
void pd_run_tasks(pd_work *w, const pd_seq *seqs, uint32_t n_seqs, uint32_t tokens,
                  uint32_t sides) {
    w->n_tasks = 0;
    for (uint32_t side = 0; side < sides; side++)
        for (uint32_t s = 0; s < n_seqs; s++) {
            uint32_t start = side * tokens + seqs[s].row;
            uint32_t groups = (seqs[s].len + PD_QUERIES_MAX - 1) / PD_QUERIES_MAX;
            for (uint32_t g = groups; g-- > 0;) {
                uint32_t first = g * PD_QUERIES_MAX, left = seqs[s].len - first;
                w->tasks[w->n_tasks++] =
                    (pd_task){.row = start + first,
                              .n = left < PD_QUERIES_MAX ? left : PD_QUERIES_MAX,
                              .first = first,
                              .slot = start};
            }
        }
}

void pd_model_forward(const pd_model *m, pd_work *w, const pd_batch *b,
                      const pd_adapter *const sides[], unsigned n, pd_loss *out, float *nll) {
    assert(n >= 1 && n <= w->sides && b->n_tokens <= w->max_tokens && w->width == m->info.width);
    for (unsigned s = 0; s < n; s++)
        out[s] = (pd_loss){0};
    if (b->n_tokens == 0)
        return;
    pd_run r = {.m = m,
                .w = w,
                .tokens = b->n_tokens,
                .n_sides = n,
                .ids = b->ids,
                .pos = b->pos,
                .kt = w->kt,
                .v = w->v};
    for (unsigned s = 0; s < n; s++)
        r.side[s] = sides ? sides[s] : NULL;
    pd_run_tasks(w, b->seqs, b->n_seqs, b->n_tokens, n);
    pd_run_body(&r);
    pd_head_forward(&r, b);
    for (unsigned s = 0; s < n; s++)
        pd_head_loss(w, b, s, &out[s], s == 0 ? nll : NULL);
}
