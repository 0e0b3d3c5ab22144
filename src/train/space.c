/* space.c - coordinates to adapters and gradients back to coordinates; see space.h. */
#include "peerd/space.h"
#include "peerd/bytes.h"
#include "peerd/direction.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct matrix {
    uint32_t out, in; /* 0 where the target is not trained */
    uint64_t first;   /* its first coordinate; PD_DENSE_NONE where there is none */
    const float *a0;  /* lora: (r, in) */
} matrix;

struct pd_space {
    pd_space_kind kind;
    uint32_t rank, start; /* r of the coordinates, r1 of the start adapter */
    uint32_t first_layer;
    size_t n_matrices;
    uint64_t n_coords;
    float unit;   /* 2^-F */
    float factor; /* lora: alpha / r */
    const pd_basis *basis;
    matrix *at;
    float *a0;
    uint64_t *first; /* full: of each matrix, as pd_dense has it */
};

struct pd_view {
    const pd_space *space;
    pd_lowrank *at;
    pd_adapter adapter;
    pd_dense dense; /* full */
    float *memory;  /* factors of all matrices */
};

const char *const pd_space_names[] = {"aligned", "lora", "full", NULL};

double pd_space_distance(pd_space_kind kind) {
    return kind == PD_SPACE_FULL ? 1e-3 : 1e-2;
}

static uint64_t matrix_coords(pd_space_kind kind, uint32_t rank, uint32_t out, uint32_t in) {
    switch (kind) {
    case PD_SPACE_ALIGNED:
        return (uint64_t)rank * rank;
    case PD_SPACE_LORA:
        return (uint64_t)rank * (out + in);
    case PD_SPACE_FULL:
        break;
    }
    return (uint64_t)out * in;
}

uint64_t pd_space_size(const pd_manifest *m, const pd_model_info *info) {
    uint64_t n = 0;
    for (uint32_t t = 0; t < PD_TARGETS; t++) {
        uint32_t out, in;
        pd_model_shape(info, (pd_target)t, &out, &in);
        if (m->targets >> t & 1)
            n += matrix_coords(m->space, m->rank, out, in);
    }
    return n * (info->n_layers - m->first_layer);
}

/* A0 of one matrix: 32 random bits an element, as a signed fraction of 1/sqrt(in). */
static pd_err draw_a0(const uint8_t run_seed[32], uint32_t number, uint32_t rank, uint32_t in,
                      float *a0) {
    uint8_t seed[32], text[36];
    size_t n = (size_t)rank * in;
    uint8_t *bits = malloc(4 * n);
    if (!bits)
        return pd_fail(PD_ENOMEM, "no memory for the LoRA start values");
    memcpy(text, run_seed, 32);
    pd_store32(text + 32, number);
    pd_hash256(text, sizeof text, seed);
    pd_direction_signs(seed, bits, 32 * n);
    float bound = 1.0f / sqrtf((float)in);
    for (size_t i = 0; i < n; i++)
        a0[i] = bound * ((float)(int32_t)pd_load32(bits + 4 * i) / 2147483648.0f);
    free(bits);
    return PD_OK;
}

static pd_err list_first(pd_space *s) {
    s->first = malloc(s->n_matrices * sizeof *s->first);
    if (!s->first)
        return pd_fail(PD_ENOMEM, "no memory for a space");
    for (size_t k = 0; k < s->n_matrices; k++)
        s->first[k] = s->at[k].first;
    return PD_OK;
}

static pd_err lay_out(pd_space *s, const pd_manifest *m, const pd_model_info *info) {
    size_t n_a0 = 0;
    for (size_t k = 0; k < s->n_matrices; k++) {
        matrix *x = &s->at[k];
        x->first = PD_DENSE_NONE;
        if (k / PD_TARGETS < m->first_layer || !(m->targets >> (k % PD_TARGETS) & 1))
            continue;
        pd_model_shape(info, (pd_target)(k % PD_TARGETS), &x->out, &x->in);
        x->first = s->n_coords;
        s->n_coords += matrix_coords(s->kind, s->rank, x->out, x->in);
        n_a0 += (size_t)s->rank * x->in;
    }
    if (s->n_coords != m->n_coords)
        return pd_fail(PD_EMISMATCH, "the run has %llu coordinates, this model gives %llu",
                       (unsigned long long)m->n_coords, (unsigned long long)s->n_coords);
    if (s->kind == PD_SPACE_ALIGNED)
        return PD_OK;
    if (s->kind == PD_SPACE_FULL)
        return list_first(s);
    s->a0 = malloc(n_a0 * sizeof *s->a0);
    if (!s->a0)
        return pd_fail(PD_ENOMEM, "no memory for the LoRA start values");
    float *a0 = s->a0;
    for (size_t k = 0; k < s->n_matrices; k++) {
        matrix *x = &s->at[k];
        if (!x->out)
            continue;
        pd_err e = draw_a0(m->seed, (uint32_t)k, s->rank, x->in, a0);
        if (e)
            return e;
        x->a0 = a0;
        a0 += (size_t)s->rank * x->in;
    }
    return PD_OK;
}

pd_err pd_space_open(const pd_manifest *m, const pd_model_info *info, const pd_basis *basis,
                     pd_space **out) {
    if (m->space == PD_SPACE_ALIGNED &&
        (!basis || basis->r2 != m->rank || basis->targets != m->targets ||
         basis->n_layers != info->n_layers || basis->first_layer != m->first_layer))
        return pd_fail(PD_EMISMATCH,
                       "the basis does not fit the run (rank, target matrices or layers differ)");
    if (m->first_layer >= info->n_layers)
        return pd_fail(PD_EMISMATCH,
                       "the run trains from layer %u on, and this model has %u layers",
                       m->first_layer, info->n_layers);
    if (m->targets & ~pd_model_targets(info))
        return pd_fail(PD_EMISMATCH, "the run trains a matrix that a %s model has not", info->arch);
    pd_space *s = calloc(1, sizeof *s);
    if (!s)
        return pd_fail(PD_ENOMEM, "no memory for a space");
    s->kind = m->space;
    s->rank = m->space == PD_SPACE_FULL ? 0 : m->rank;
    s->first_layer = m->first_layer;
    s->start = m->space == PD_SPACE_ALIGNED ? basis->r1 : 0;
    s->basis = basis;
    s->unit = ldexpf(1.0f, -(int)m->unit_bits);
    s->factor = m->space == PD_SPACE_LORA ? (float)m->alpha / (float)m->rank : 1.0f;
    s->n_matrices = (size_t)info->n_layers * PD_TARGETS;
    s->at = calloc(s->n_matrices, sizeof *s->at);
    pd_err e = s->at ? lay_out(s, m, info) : pd_fail(PD_ENOMEM, "no memory for a space");
    if (e) {
        pd_space_close(s);
        return e;
    }
    *out = s;
    return PD_OK;
}

void pd_space_close(pd_space *s) {
    if (!s)
        return;
    free(s->at);
    free(s->a0);
    free(s->first);
    free(s);
}

uint64_t pd_space_coords(const pd_space *s) {
    return s->n_coords;
}

uint32_t pd_space_first_layer(const pd_space *s) {
    return s->first_layer;
}

pd_space_kind pd_space_kind_of(const pd_space *s) {
    return s->kind;
}

/* Copy what never changes: V1, V2 and the start adapter's U1 C1. */
static void set_fixed(const pd_space *s, size_t k, float *down, float *up) {
    const matrix *x = &s->at[k];
    const pd_basis_matrix *b = &s->basis->at[k];
    uint32_t r1 = s->start;
    memcpy(down, b->v1, (size_t)r1 * x->in * sizeof *down);
    memcpy(down + (size_t)r1 * x->in, b->v2, (size_t)s->rank * x->in * sizeof *down);
    for (uint32_t j = 0; j < r1; j++)
        for (uint32_t o = 0; o < x->out; o++) {
            float sum = 0;
            for (uint32_t i = 0; i < r1; i++)
                sum += b->u1[(size_t)i * x->out + o] * b->c1[i * r1 + j];
            up[(size_t)j * x->out + o] = sum;
        }
}

pd_err pd_view_open(const pd_space *s, pd_view **out) {
    pd_view *v = calloc(1, sizeof *v);
    size_t n = 0;
    for (size_t k = 0; k < s->n_matrices; k++) /* none in a full space, whose rank is 0 */
        n += (size_t)(s->start + s->rank) * (s->at[k].out + s->at[k].in);
    if (v) {
        v->at = calloc(s->n_matrices, sizeof *v->at);
        v->memory = calloc(n + 1, sizeof *v->memory);
    }
    if (!v || !v->at || !v->memory) {
        pd_view_close(v);
        return pd_fail(PD_ENOMEM, "no memory for an adapter of %zu numbers", n);
    }
    v->space = s;
    v->adapter.at = v->at;
    if (s->kind == PD_SPACE_FULL) {
        v->dense = (pd_dense){.first = s->first, .n = s->n_coords, .unit = s->unit};
        v->adapter.dense = &v->dense;
    }
    float *p = v->memory;
    for (size_t k = 0; k < s->n_matrices; k++) {
        const matrix *x = &s->at[k];
        if (!x->out)
            continue;
        uint32_t rank = s->start + s->rank;
        float *down = p, *up = p + (size_t)rank * x->in;
        p = up + (size_t)rank * x->out;
        v->at[k] = (pd_lowrank){rank, down, up};
        if (s->kind == PD_SPACE_ALIGNED)
            set_fixed(s, k, down, up);
    }
    pd_view_set(v, NULL, NULL, 0);
    *out = v;
    return PD_OK;
}

void pd_view_close(pd_view *v) {
    if (!v)
        return;
    free(v->at);
    free(v->memory);
    free(v);
}

const pd_adapter *pd_view_adapter(const pd_view *v) {
    return &v->adapter;
}

const pd_space *pd_view_space(const pd_view *v) {
    return v->space;
}

const pd_lowrank *pd_view_at(const pd_view *v, uint32_t layer, pd_target t) {
    return &v->at[(size_t)layer * PD_TARGETS + t];
}

/* Where a view's coordinates come from: integers plus a perturbation, or floats. */
typedef struct source {
    const int32_t *a;
    const uint8_t *signs;
    const float *c;
    float unit, eps;
} source;

static inline float coord(const source *s, uint64_t i) {
    if (s->c)
        return s->c[i];
    float x = s->a ? (float)s->a[i] * s->unit : 0.0f;
    if (s->signs)
        x += s->signs[i / 8] >> (i % 8) & 1 ? s->eps : -s->eps;
    return x;
}

/* up2[j] = sum_i d_ij c_ij u2[i] */
static void set_aligned(const pd_space *s, size_t k, const source *src, float *up) {
    const matrix *x = &s->at[k];
    const float *u2 = s->basis->at[k].u2, *d2 = s->basis->at[k].d2;
    uint32_t r = s->rank;
    up += (size_t)s->start * x->out;
    memset(up, 0, (size_t)r * x->out * sizeof *up);
    for (uint32_t i = 0; i < r; i++)
        for (uint32_t j = 0; j < r; j++) {
            float c = d2[i * r + j] * coord(src, x->first + (uint64_t)i * r + j);
            const float *u = u2 + (size_t)i * x->out;
            float *y = up + (size_t)j * x->out;
            for (uint32_t o = 0; o < x->out; o++)
                y[o] += c * u[o];
        }
}

static void set_lora(const pd_space *s, size_t k, const source *src, float *down, float *up) {
    const matrix *x = &s->at[k];
    size_t n_a = (size_t)s->rank * x->in, n_b = (size_t)s->rank * x->out;
    for (size_t i = 0; i < n_a; i++)
        down[i] = x->a0[i] + coord(src, x->first + i);
    for (size_t i = 0; i < n_b; i++)
        up[i] = s->factor * coord(src, x->first + n_a + i);
}

typedef struct set_task {
    pd_view *v;
    const source *src;
} set_task;

static void set_matrix(void *ctx, size_t k) {
    const set_task *t = ctx;
    const pd_space *s = t->v->space;
    if (!s->at[k].out)
        return;
    float *down = (float *)(uintptr_t)t->v->at[k].down, *up = (float *)(uintptr_t)t->v->at[k].up;
    if (s->kind == PD_SPACE_ALIGNED)
        set_aligned(s, k, t->src, up);
    else
        set_lora(s, k, t->src, down, up);
}

static void set_all(pd_view *v, const source *src) {
    if (v->space->kind == PD_SPACE_FULL) {
        v->dense.a = src->a;
        v->dense.c = src->c;
        v->dense.signs = src->signs;
        v->dense.eps = src->eps;
        return;
    }
    set_task t = {v, src};
    pd_parallel(v->space->n_matrices, set_matrix, &t);
}

void pd_view_set(pd_view *v, const int32_t *a, const uint8_t *signs, float eps) {
    source src = {.a = a, .signs = signs, .unit = v->space->unit, .eps = eps};
    set_all(v, &src);
}

void pd_view_set_float(pd_view *v, const float *c) {
    source src = {.c = c};
    set_all(v, &src);
}

/* Rows times the vectors of one factor: p (rows, r) = x (rows, n) f^T. */
static void project(uint32_t rows, uint32_t r, uint32_t n, const float *x, const float *f,
                    float *p) {
    pd_gemm(false, true, rows, r, n, 1.0f, x, f, 0.0f, p);
}

void pd_view_grad(const pd_view *v, uint32_t layer, pd_target t, uint32_t rows, const float *x,
                  const float *dy, float *grad) {
    const pd_space *s = v->space;
    size_t k = (size_t)layer * PD_TARGETS + t;
    const matrix *m = &s->at[k];
    uint32_t r = s->rank;
    if (!m->out)
        return;
    if (s->kind == PD_SPACE_FULL) { /* dL/da = X^T dY, in the coordinates' order */
        pd_gemm(true, false, m->in, m->out, rows, 1.0f, x, dy, 1.0f, grad + m->first);
        return;
    }
    float *p = malloc(2 * (size_t)rows * r * sizeof *p), *q = p + (size_t)rows * r;
    assert(p); /* a few hundred kilobytes beside the gigabyte that the backward pass holds */
    grad += m->first;
    if (s->kind == PD_SPACE_ALIGNED) {
        /* dC = D . (dY U^T)^T (X V^T) */
        float dc[PD_RANK_MAX * PD_RANK_MAX];
        project(rows, r, m->out, dy, s->basis->at[k].u2, p);
        project(rows, r, m->in, x, s->basis->at[k].v2, q);
        pd_gemm(true, false, r, r, rows, 1.0f, p, q, 0.0f, dc);
        for (uint32_t i = 0; i < r * r; i++)
            grad[i] += s->basis->at[k].d2[i] * dc[i];
    } else {
        /* dA = (dY up^T)^T X,  dB = factor (X down^T)^T dY */
        project(rows, r, m->out, dy, v->at[k].up, p);
        project(rows, r, m->in, x, v->at[k].down, q);
        pd_gemm(true, false, r, m->in, rows, 1.0f, p, x, 1.0f, grad);
        pd_gemm(true, false, r, m->out, rows, s->factor, q, dy, 1.0f, grad + (size_t)r * m->in);
    }
    free(p);
}
