/* forward.c - the layers: four products each, and four passes of row loops between them.
 *
 * A pass does everything that a row needs between two products (the adapter of the product before,
 * positions, norm), so that activations are walked once while they are near.  Row blocks never
 * straddle two sides, whose adapters differ.
 */
#include "dense.h"

#include <assert.h>
#include <math.h>
#include <string.h>

typedef struct pass {
    const pd_run *r;
    uint32_t layer, first, rows; /* rows [first, first + rows) */
    const pd_norm *norm;         /* of the residual stream to h, or NULL */
    const pd_norm *norm_ffn;     /* also to h_ffn, or NULL */
} pass;

typedef struct block { /* rows [row, row + n) */
    uint32_t row, n;
} block;

static block block_at(const pass *p, size_t i) {
    uint32_t at = (uint32_t)i * PD_BLOCK, left = p->rows - at;
    return (block){.row = p->first + at, .n = left < PD_BLOCK ? left : PD_BLOCK};
}

static void over_rows(pass *p, void (*fn)(void *ctx, size_t i)) {
    pd_parallel((p->rows + PD_BLOCK - 1) / PD_BLOCK, fn, p);
}

static pass all_rows(const pd_run *r, uint32_t layer) {
    return (pass){.r = r, .layer = layer, .rows = r->tokens * r->n_sides};
}

/* The norms that stand before a layer: its first, and where its parts run from one x, the second.
 */
static void norms_before(pass *p, uint32_t layer) {
    const pd_model *m = p->r->m;
    p->norm = &m->layers[layer].attn_norm;
    p->norm_ffn = m->info.parallel ? &m->layers[layer].ffn_norm : NULL;
}

/* Take the rows of a block that belong to one side off its front. */
static block take_side(const pd_run *r, block *b, uint32_t *side) {
    *side = b->row / r->tokens;
    uint32_t left = (*side + 1) * r->tokens - b->row;
    block part = {.row = b->row, .n = b->n < left ? b->n : left};
    b->row += part.n;
    b->n -= part.n;
    return part;
}

/* y += the block's low-rank additions; x (rows, in) and y (rows, y_ld) begin at row `origin`, y at
 * the target's first column.
 */
static void add_lowrank(const pass *p, block b, pd_target t, void *x, float *y, size_t y_ld,
                        uint32_t origin) {
    const pd_model *m = p->r->m;
    uint32_t out, in, side;
    pd_model_shape(&m->info, t, &out, &in);
    while (b.n) {
        block part = take_side(p->r, &b, &side);
        const pd_lowrank *a = pd_lowrank_at(p->r->side[side], p->layer, t);
        size_t row = part.row - origin;
        if (a)
            m->k->lowrank(part.n, in, out, pd_row(x, row, in, m->half), m->half, a, y + row * y_ld,
                          y_ld);
    }
}

/* y (rows, y_ld) += the product's bias; y begins at row `origin`. */
static void add_bias(const pass *p, block b, const float *bias, uint32_t n, float *y,
                     uint32_t origin) {
    if (bias)
        p->r->m->k->bias(b.n, n, bias, y + (size_t)(b.row - origin) * n, n);
}

static void embed_rows(void *ctx, size_t i) {
    const pass *p = ctx;
    const pd_run *r = p->r;
    const pd_model *m = r->m;
    block b = block_at(p, i);
    size_t c = m->info.width;
    for (uint32_t j = b.row; j < b.row + b.n; j++) {
        float *x = r->w->x + j * c;
        size_t id = r->ids[j % r->tokens];
        assert(id < m->info.vocab);
        if (m->half)
            m->k->from_half(c, (const uint16_t *)m->embed + id * c, x);
        else
            memcpy(x, (const float *)m->embed + id * c, c * sizeof(float));
        if (m->positions) {
            size_t pos = r->pos[j % r->tokens];
            assert(pos < m->info.context);
            m->k->bias(1, (uint32_t)c, m->positions + pos * c, x, c);
        }
    }
}

void pd_run_embed(const pd_run *r) {
    pass p = all_rows(r, 0);
    over_rows(&p, embed_rows);
}

static void norm_rows(void *ctx, size_t i) {
    const pass *p = ctx;
    const pd_model *m = p->r->m;
    pd_work *w = p->r->w;
    block b = block_at(p, i);
    size_t c = m->info.width;
    const float *x = w->x + b.row * c;
    pd_norm_rows(m, p->norm, b.n, x, pd_row(w->h, b.row, c, m->half), m->half);
    if (p->norm_ffn)
        pd_norm_rows(m, p->norm_ffn, b.n, x, pd_row(w->h_ffn, b.row, c, m->half), m->half);
}

void pd_run_norm(const pd_run *r, uint32_t layer) {
    pass p = all_rows(r, layer);
    norms_before(&p, layer);
    over_rows(&p, norm_rows);
}

/* Heads of q and k through their norms; what they were before goes to r->raw where reverse mode
 * will ask. */
static void norm_qk(const pass *p, block b, size_t ld) {
    const pd_run *r = p->r;
    const pd_model *m = r->m;
    const pd_layer *l = &m->layers[p->layer];
    const pd_heads *h = &m->heads;
    float *qkv = r->w->qkv + b.row * ld;
    size_t q = (size_t)h->n * h->width, qk = q + (size_t)h->n_kv * h->width;
    for (uint32_t i = 0; r->raw && i < b.n; i++)
        memcpy(r->raw + (b.row + i) * qk, qkv + i * ld, qk * sizeof(float));
    m->k->norm_heads(b.n, h->n, h->width, l->q_norm, m->info.eps, qkv, ld);
    m->k->norm_heads(b.n, h->n_kv, h->width, l->k_norm, m->info.eps, qkv + q, ld);
}

static void qkv_rows(void *ctx, size_t i) {
    const pass *p = ctx;
    const pd_run *r = p->r;
    const pd_heads *h = &r->m->heads;
    pd_work *w = r->w;
    block b = block_at(p, i);
    size_t ld = (size_t)(h->n + 2 * h->n_kv) * h->width;
    add_lowrank(p, b, PD_Q, w->h, w->qkv, ld, 0);
    add_lowrank(p, b, PD_K, w->h, w->qkv + h->n * h->width, ld, 0);
    add_lowrank(p, b, PD_V, w->h, w->qkv + (h->n + h->n_kv) * h->width, ld, 0);
    add_bias(p, b, r->m->layers[p->layer].qkv_bias, (uint32_t)ld, w->qkv, 0);
    if (r->m->info.qk_norm)
        norm_qk(p, b, ld);
    while (b.n) {
        uint32_t side;
        block part = take_side(r, &b, &side);
        r->m->k->split(h, part.n, w->qkv + part.row * ld, r->pos + part.row % r->tokens, w->rot,
                       r->slot + part.row, r->kt, r->v, w->ld);
    }
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
        .window = m->info.window,
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
    const pd_model *m = p->r->m;
    pd_work *w = p->r->w;
    block b = block_at(p, i);
    add_lowrank(p, b, PD_O, w->att, w->x, m->info.width, 0);
    add_bias(p, b, m->layers[p->layer].o_bias, m->info.width, w->x, 0);
    if (p->norm)
        norm_rows(ctx, i);
}

void pd_run_attention(const pd_run *r, uint32_t layer) {
    const pd_layer *l = &r->m->layers[layer];
    pd_work *w = r->w;
    pass p = all_rows(r, layer);
    if (!r->m->info.parallel)
        p.norm = &l->ffn_norm;
    pd_own qkv = pd_own_make(r, layer, PD_Q, PD_V, &l->qkv, PD_COPY_A);
    pd_own_run(r, &qkv, 0, p.rows, w->h, w->qkv, false);
    over_rows(&p, qkv_rows);
    pd_parallel((size_t)w->n_tasks * r->m->heads.n, attend_task, &p);
    pd_own o = pd_own_make(r, layer, PD_O, PD_O, &l->o, PD_COPY_A);
    pd_own_run(r, &o, 0, p.rows, w->att, w->x, true);
    over_rows(&p, o_rows);
}

/* gu and act begin at the chunk's first row. */
static void gate_up_rows(void *ctx, size_t i) {
    const pass *p = ctx;
    const pd_model *m = p->r->m;
    pd_work *w = p->r->w;
    block b = block_at(p, i);
    const float *bias = m->layers[p->layer].gate_up_bias;
    uint32_t f = m->info.ff, gate = m->info.no_gate ? 0 : f, ld = gate + f;
    size_t row = b.row - p->first;
    void *h = pd_row(w->h_ffn, p->first, m->info.width, m->half);
    float *gu = w->gu + row * ld;
    void *act = pd_row(w->act, row, f, m->half);
    if (gate)
        add_lowrank(p, b, PD_GATE, h, w->gu, ld, p->first);
    add_lowrank(p, b, PD_UP, h, w->gu + gate, ld, p->first);
    add_bias(p, b, bias, ld, w->gu, p->first);
    if (gate)
        m->k->silu(b.n, f, gu, act, m->half);
    else
        m->k->act(m->info.activation, (size_t)b.n * f, gu, act, m->half);
}

static void down_rows(void *ctx, size_t i) {
    const pass *p = ctx;
    const pd_model *m = p->r->m;
    pd_work *w = p->r->w;
    block b = block_at(p, i);
    uint32_t c = m->info.width;
    float *x = w->x + (size_t)p->first * c;
    add_lowrank(p, b, PD_DOWN, w->act, x, c, p->first);
    add_bias(p, b, m->layers[p->layer].down_bias, c, x, p->first);
    if (p->norm)
        norm_rows(ctx, i);
}

void pd_run_ffn(const pd_run *r, uint32_t layer, bool down) {
    const pd_model *m = r->m;
    const pd_layer *l = &m->layers[layer];
    pd_work *w = r->w;
    bool last = layer + 1 == m->info.n_layers;
    size_t c = m->info.width;
    uint32_t rows = r->tokens * r->n_sides, n;
    pd_own gate_up = pd_own_make(r, layer, PD_GATE, PD_UP, &l->gate_up, PD_COPY_A), own = {0};
    if (down)
        own = pd_own_make(r, layer, PD_DOWN, PD_DOWN, &l->down, PD_COPY_B);
    for (uint32_t at = 0; at < rows; at += n) {
        n = pd_own_rows(r, at, w->ffn_rows, rows);
        pass p = {.r = r, .layer = layer, .first = at, .rows = n};
        if (!last)
            norms_before(&p, layer + 1);
        pd_own_run(r, &gate_up, at, n, pd_row(w->h_ffn, at, c, m->half), w->gu, false);
        over_rows(&p, gate_up_rows);
        if (!down)
            continue;
        pd_own_run(r, &own, at, n, w->act, w->x + at * c, true);
        over_rows(&p, down_rows);
    }
}

void pd_run_layers(const pd_run *r, uint32_t from, uint32_t to) {
    pd_run_norm(r, from);
    for (uint32_t l = from; l < to; l++) {
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

/* A traversal of a batch for n sides, its tasks laid out. */
static pd_run run_of(const pd_model *m, pd_work *w, const pd_batch *b,
                     const pd_adapter *const sides[], unsigned n) {
    assert(n >= 1 && n <= w->sides && b->n_tokens <= w->max_tokens && w->width == m->info.width);
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
    return r;
}

static void losses(const pd_run *r, const pd_batch *b, pd_loss *out, float *nll) {
    pd_head_forward(r, b);
    for (unsigned s = 0; s < r->n_sides; s++)
        pd_head_loss(r->w, b, s, &out[s], s == 0 ? nll : NULL);
}

void pd_model_forward(const pd_model *m, pd_work *w, const pd_batch *b,
                      const pd_adapter *const sides[], unsigned n, pd_loss *out, float *nll) {
    for (unsigned s = 0; s < n; s++)
        out[s] = (pd_loss){0};
    if (b->n_tokens == 0)
        return;
    pd_run r = run_of(m, w, b, sides, n);
    pd_run_embed(&r);
    pd_run_layers(&r, 0, m->info.n_layers);
    losses(&r, b, out, nll);
}

void pd_model_stem(const pd_model *m, pd_work *w, const pd_batch *b, const pd_adapter *side,
                   pd_stem *out) {
    assert(out->layer < m->info.n_layers && out->width == m->info.width &&
           b->n_tokens <= out->max_tokens);
    if (b->n_tokens > 0) {
        pd_run r = run_of(m, w, b, &side, 1);
        pd_run_embed(&r);
        pd_run_layers(&r, 0, out->layer);
        memcpy(out->x, w->x, (size_t)b->n_tokens * out->width * sizeof *out->x);
    }
    out->batch = b;
    out->edition = b->edition;
}

void pd_model_forward_from(const pd_model *m, pd_work *w, const pd_batch *b, const pd_stem *stem,
                           const pd_adapter *const sides[], unsigned n, pd_loss *out, float *nll) {
    assert(pd_stem_holds(stem, b) && stem->width == m->info.width);
    for (unsigned s = 0; s < n; s++)
        out[s] = (pd_loss){0};
    if (b->n_tokens == 0)
        return;
    pd_run r = run_of(m, w, b, sides, n);
    size_t stream = (size_t)b->n_tokens * stem->width;
    for (unsigned s = 0; s < n; s++)
        memcpy(w->x + s * stream, stem->x, stream * sizeof *stem->x);
    pd_run_layers(&r, stem->layer, m->info.n_layers);
    losses(&r, b, out, nll);
}
