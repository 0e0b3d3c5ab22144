/* dense.c - W + dW tile by tile into the packed form, and the products of sides that differ so; see
 * dense.h.
 */
#include "dense.h"

#include <assert.h>
#include <string.h>

enum {
    INPUTS =
        32, /* of one parallel item: whole blocks of every layout, 8 KiB a tile of 64 outputs */
    PIECE = 1 << 18, /* bytes of one item of a plain copy */
};

/* ---- making a copy ---- */

static bool in_pairs(const pd_shift *s) {
    const pd_layout_dim *in = &s->layout.in;
    return s->m->bf16 && s->layout.step == 2 && in->n > 0 && in->block[0] == 2 &&
           in->stride[0] == 1;
}

/* Entries of any layout, one by one: what no run covers. */
static void shift_each(const pd_shift *s, unsigned side, uint32_t i, uint32_t o, uint32_t n,
                       uint64_t k) {
    size_t row = pd_layout_at(&s->layout.in, i);
    for (uint32_t j = 0; j < n; j++) {
        size_t at = row + pd_layout_at(&s->layout.out, o + j);
        float x = pd_dense_at(s->dense[side], k + j);
        if (s->m->bf16)
            ((uint16_t *)s->out[side])[at] =
                pd_float_to_bf16(pd_bf16_to_float(((const uint16_t *)s->m->data)[at]) + x);
        else
            ((float *)s->out[side])[at] = ((const float *)s->m->data)[at] + x;
    }
}

/* What is at hand: an input (or two, in pairs) and a run of outputs, and where they lie. */
typedef struct place {
    uint32_t i, from, to; /* outputs [from, to) */
    bool both;
    size_t row, col; /* elements */
} place;

/* In blocks an input's coordinates are read a run at a time, with those of other inputs between:
 * too short for the processor to see what comes next.  Measured here for 16 x 64 floats: 1.6 ns a
 * coordinate and two sides with this, 2.6 without; 1.1 where runs are whole rows, 0.9 a plain copy.
 */
static void foresee(const pd_dense *d, uint64_t k, uint32_t n) {
    enum { LINE = 16 };
    for (uint32_t l = 0; d->a && l < n && k + l < d->n; l += LINE)
        __builtin_prefetch(d->a + k + l);
}

/* n outputs from o on, whose coordinates begin at k, `width` an input. */
static void shift_run(const pd_shift *s, unsigned side, const place *at, uint32_t o, uint32_t n,
                      uint64_t k, uint32_t width) {
    const pd_dense *d = s->dense[side];
    if (side == 0 && s->layout.run < s->m->out) {
        foresee(d, k + n, n);
        foresee(d, k + n + width, at->both ? n : 0);
    }
    size_t e = at->row + at->col + (size_t)(o - at->from) * s->layout.step;
    if (at->both)
        s->k->shift_pairs(d, k, k + width, n, (const uint32_t *)s->m->data + e / 2,
                          (uint32_t *)s->out[side] + e / 2);
    else if (!s->m->bf16 && s->layout.step == 1)
        s->k->shift(d, k, n, (const float *)s->m->data + e, (float *)s->out[side] + e);
    else
        shift_each(s, side, at->i, o, n, k);
}

/* The outputs that a target has of them. */
static void shift_part(const pd_shift *s, uint32_t p, const place *at) {
    uint32_t begin = s->part[p].from, width = s->part[p].n, end = begin + width;
    uint32_t from = at->from > begin ? at->from : begin, to = at->to < end ? at->to : end;
    for (unsigned side = 0; side < s->sides && from < to; side++)
        if (s->dense[side] && s->part[p].first[side] != PD_DENSE_NONE)
            shift_run(s, side, at, from, to - from,
                      s->part[p].first[side] + (uint64_t)at->i * width + (from - begin), width);
}

static void shift_item(void *ctx, size_t item) {
    const pd_shift *s = ctx;
    uint32_t i0 = (uint32_t)item * INPUTS, left = s->m->in - i0, out = s->m->out;
    uint32_t n = left < INPUTS ? left : INPUTS, run = s->layout.run;
    size_t row[INPUTS];
    bool pairs = in_pairs(s);
    for (uint32_t i = 0; i < n; i++)
        row[i] = pd_layout_at(&s->layout.in, i0 + i);
    for (uint32_t from = 0; from < out; from += run) {
        place at = {.from = from,
                    .to = out - from < run ? out : from + run,
                    .col = pd_layout_at(&s->layout.out, from)};
        for (uint32_t i = 0; i < n; i += 1 + at.both) {
            at.i = i0 + i;
            at.row = row[i];
            at.both = pairs && i + 1 < n; /* i0 is even */
            for (uint32_t p = 0; p < s->n_parts; p++)
                shift_part(s, p, &at);
        }
    }
}

/* Is there an entry of the copy that no coordinate writes? */
static bool has_gaps(const pd_shift *s) {
    bool gaps = s->layout.padded;
    for (unsigned side = 0; side < s->sides; side++)
        for (uint32_t p = 0; p < s->n_parts; p++)
            gaps |= !s->dense[side] || s->part[p].first[side] == PD_DENSE_NONE;
    return gaps;
}

static void copy_item(void *ctx, size_t item) {
    const pd_shift *s = ctx;
    size_t at = item * PIECE, left = s->layout.bytes - at, n = left < PIECE ? left : PIECE;
    for (unsigned side = 0; side < s->sides; side++)
        memcpy((char *)s->out[side] + at, (const char *)s->m->data + at, n);
}

void pd_shift_run(const pd_shift *s) {
    if (has_gaps(s))
        pd_parallel((s->layout.bytes + PIECE - 1) / PIECE, copy_item, (void *)(uintptr_t)s);
    pd_parallel((s->m->in + INPUTS - 1) / INPUTS, shift_item, (void *)(uintptr_t)s);
}

/* ---- products ---- */

static bool is_dense(const pd_adapter *a, uint32_t layer, pd_target from, pd_target to) {
    bool any = false;
    for (uint32_t t = from; a && a->dense && t <= to; t++)
        any |= a->dense->first[layer * PD_TARGETS + t] != PD_DENSE_NONE;
    return any;
}

static bool any_side(const pd_run *r, uint32_t layer, pd_target from, pd_target to) {
    bool any = false;
    for (unsigned side = 0; side < r->n_sides; side++)
        any |= is_dense(r->side[side], layer, from, to);
    return any;
}

pd_own pd_own_make(const pd_run *r, uint32_t layer, pd_target from, pd_target to,
                   const pd_matrix *m, unsigned copy) {
    pd_own o = {.side = {*m, *m}, .apart = any_side(r, layer, from, to)};
    if (!o.apart)
        return o;
    pd_shift s = {.k = r->m->k, .m = m, .sides = r->n_sides};
    pd_gemm_layout(m, &s.layout);
    for (unsigned side = 0; side < s.sides; side++) {
        s.dense[side] = r->side[side] ? r->side[side]->dense : NULL;
        s.out[side] = o.side[side].data = r->w->own[side][copy];
    }
    uint32_t at = 0, out, in;
    for (uint32_t t = from; t <= to; t++) {
        pd_model_shape(&r->m->info, (pd_target)t, &out, &in);
        if (!out)
            continue;
        s.part[s.n_parts].from = at;
        s.part[s.n_parts].n = out;
        for (unsigned side = 0; side < s.sides; side++)
            s.part[s.n_parts].first[side] =
                s.dense[side] ? s.dense[side]->first[layer * PD_TARGETS + t] : PD_DENSE_NONE;
        s.n_parts++;
        at += out;
    }
    pd_shift_run(&s);
    return o;
}

/* A product of rows that are not the last ones writes on into the rows after them (pd_gemm_rows):
 * where it adds, they are put back. */
static void run_side(const pd_run *r, const pd_matrix *m, uint32_t rows, bool last, const void *x,
                     float *y, bool add) {
    size_t spill = last || !add ? 0 : (pd_gemm_rows(rows) - rows) * (size_t)m->out;
    assert(spill <= PD_SPILL_ROWS * (size_t)r->w->width);
    float *after = y + (size_t)rows * m->out;
    memcpy(r->w->spill, after, spill * sizeof *after);
    pd_gemm_run(m, rows, x, y, add);
    memcpy(after, r->w->spill, spill * sizeof *after);
}

void pd_own_run(const pd_run *r, const pd_own *o, uint32_t first, uint32_t rows, const void *x,
                float *y, bool add) {
    if (!o->apart) {
        pd_gemm_run(&o->side[0], rows, x, y, add);
        return;
    }
    const pd_matrix *m = &o->side[0];
    for (uint32_t done = 0; done < rows;) {
        uint32_t side = (first + done) / r->tokens, left = (side + 1) * r->tokens - first - done;
        uint32_t n = rows - done < left ? rows - done : left;
        run_side(r, &o->side[side], n, first + done + n == r->n_sides * r->tokens,
                 (const char *)x + (size_t)done * m->in * (m->bf16 ? 2 : 4),
                 y + (size_t)done * m->out, add);
        done += n;
    }
}

uint32_t pd_own_rows(const pd_run *r, uint32_t first, uint32_t most, uint32_t all) {
    bool apart = false;
    for (unsigned side = 0; side < r->n_sides; side++)
        apart |= r->side[side] && r->side[side]->dense;
    uint32_t left = apart ? r->tokens - first % r->tokens : all - first;
    return left < most ? left : most;
}

void pd_own_bytes(const pd_model *m, size_t bytes[PD_COPIES]) {
    pd_layout l;
    const pd_layer *first = &m->layers[0];
    const pd_matrix *turns[] = {&first->qkv, &first->o, &first->gate_up};
    bytes[PD_COPY_A] = 0;
    for (size_t i = 0; i < sizeof turns / sizeof *turns; i++) {
        pd_gemm_layout(turns[i], &l);
        bytes[PD_COPY_A] = l.bytes > bytes[PD_COPY_A] ? l.bytes : bytes[PD_COPY_A];
    }
    pd_gemm_layout(&first->down, &l);
    bytes[PD_COPY_B] = l.bytes;
}

/* ---- plain ---- */

typedef struct plain {
    const pd_dense *d;
    uint64_t first;
    uint32_t out;
    float *to;
} plain;

static void plain_row(void *ctx, size_t i) {
    const plain *p = ctx;
    for (uint32_t o = 0; o < p->out; o++)
        p->to[i * p->out + o] = pd_dense_at(p->d, p->first + i * p->out + o);
}

bool pd_dense_plain(const pd_adapter *a, const pd_model_info *info, uint32_t layer, pd_target t,
                    float *to) {
    uint32_t out, in;
    if (!is_dense(a, layer, t, t))
        return false;
    pd_model_shape(info, t, &out, &in);
    plain p = {a->dense, a->dense->first[layer * PD_TARGETS + t], out, to};
    pd_parallel(in, plain_row, &p);
    return true;
}
