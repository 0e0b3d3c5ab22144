/* model.c - a reader's matrices to packed weights.
 *
 * Matrices are read one at a time, so that opening needs one matrix beside the result, and of the
 * file no more than a layer in memory.  What a file may hold, and that everything is there, is the
 * reader's to check (weights.h).
 */
#include "engine.h"
#include "peerd/weights.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

typedef struct loader {
    const pd_weights *w;
    pd_model *m;
    float *buffer; /* one matrix, or one slice of the head */
} loader;

/* What is packed is not held a second time as pages of the file. */
static void forget(const loader *l) {
    if (l->w->forget)
        l->w->forget(l->w);
}

static pd_err no_memory(void) {
    return pd_fail(PD_ENOMEM, "not enough memory for the model");
}

/* ---- rows ---- */

typedef struct read_job {
    const pd_weights *w;
    pd_slot slot;
    uint32_t first, rows, cols; /* rows of the slot from `first` on */
    float *out;
    pd_err failed;
    char text[128]; /* why; a failure's text belongs to the thread that met it */
} read_job;

enum { READ_ROWS = 64 };

static void read_block(void *ctx, size_t i) {
    read_job *j = ctx;
    uint32_t r = (uint32_t)i * READ_ROWS, n = j->rows - r < READ_ROWS ? j->rows - r : READ_ROWS;
    pd_err e = j->w->read(j->w, j->slot, j->first + r, n, j->out + (size_t)r * j->cols), none = 0;
    if (e && __atomic_compare_exchange_n(&j->failed, &none, e, false, __ATOMIC_ACQ_REL,
                                         __ATOMIC_ACQUIRE)) {
        strncpy(j->text, pd_fail_text(), sizeof j->text - 1);
    }
}

static pd_err read_rows(const pd_weights *w, pd_slot s, uint32_t first, uint32_t rows, float *out) {
    read_job j = {.w = w, .slot = s, .first = first, .rows = rows, .out = out};
    uint32_t all;
    bool there = pd_slot_shape(&w->info, s, &all, &j.cols);
    assert(there && first + rows <= all);
    pd_parallel((rows + READ_ROWS - 1) / READ_ROWS, read_block, &j);
    return j.failed ? pd_fail(j.failed, "%s", j.text) : PD_OK;
}

/* A whole slot; out stays NULL where the family has none. */
static pd_err load_plain(loader *l, pd_slot s, float **out) {
    uint32_t rows, cols;
    if (!pd_slot_shape(&l->w->info, s, &rows, &cols))
        return PD_OK;
    *out = pd_arena_take(&l->m->arena, (size_t)rows * cols * sizeof(float));
    return *out ? read_rows(l->w, s, 0, rows, *out) : no_memory();
}

static pd_err load_norm(loader *l, pd_role role, uint32_t layer, pd_norm *norm) {
    pd_err e = load_plain(l, (pd_slot){role, false, layer}, &norm->w);
    return e ? e : load_plain(l, (pd_slot){role, true, layer}, &norm->b);
}

/* ---- matrices ---- */

static const pd_role role_of[PD_TARGETS] = {PD_ROLE_Q,    PD_ROLE_K,  PD_ROLE_V,   PD_ROLE_O,
                                            PD_ROLE_GATE, PD_ROLE_UP, PD_ROLE_DOWN};

/* Read the targets [from, to] of a layer one below the other, pack each one's reverse and all of
 * them as one matrix, and their biases as one vector. */
static pd_err load_targets(loader *l, uint32_t layer, pd_target from, pd_target to, pd_matrix *m,
                           float **bias) {
    const pd_model_info *info = &l->w->info;
    uint32_t out, in, at = 0, width = 0, n_bias = 0, cols, one;
    pd_err e = PD_OK;
    for (uint32_t t = from; t <= to && !e; t++) {
        pd_model_shape(info, (pd_target)t, &out, &in);
        if (!out)
            continue;
        float *w = l->buffer + (size_t)at * in;
        e = read_rows(l->w, (pd_slot){role_of[t], false, layer}, 0, out, w);
        if (!e && l->m->backward)
            e = pd_gemm_pack(&l->m->arena, w, in, out, true, l->m->half,
                             &l->m->layers[layer].back[t]);
        at += out;
        width = in;
        if (pd_slot_shape(info, (pd_slot){role_of[t], true, layer}, &one, &cols))
            n_bias += cols;
    }
    if (!e)
        e = pd_gemm_pack(&l->m->arena, l->buffer, at, width, false, l->m->half, m);
    if (e || !n_bias)
        return e;
    assert(n_bias == at && "all of a product's targets have a bias, or none");
    *bias = pd_arena_take(&l->m->arena, n_bias * sizeof(float));
    if (!*bias)
        return no_memory();
    float *b = *bias;
    for (uint32_t t = from; t <= to && !e; t++)
        if (pd_slot_shape(info, (pd_slot){role_of[t], true, layer}, &one, &cols)) {
            e = read_rows(l->w, (pd_slot){role_of[t], true, layer}, 0, 1, b);
            b += cols;
        }
    return e;
}

static pd_err load_layer(loader *l, uint32_t n) {
    pd_layer *layer = &l->m->layers[n];
    pd_err e = load_norm(l, PD_ROLE_ATTN_NORM, n, &layer->attn_norm);
    if (!e)
        e = load_norm(l, PD_ROLE_FFN_NORM, n, &layer->ffn_norm);
    if (!e)
        e = load_plain(l, (pd_slot){PD_ROLE_Q_NORM, false, n}, &layer->q_norm);
    if (!e)
        e = load_plain(l, (pd_slot){PD_ROLE_K_NORM, false, n}, &layer->k_norm);
    if (!e)
        e = load_targets(l, n, PD_Q, PD_V, &layer->qkv, &layer->qkv_bias);
    if (!e)
        e = load_targets(l, n, PD_O, PD_O, &layer->o, &layer->o_bias);
    if (!e)
        e = load_targets(l, n, PD_GATE, PD_UP, &layer->gate_up, &layer->gate_up_bias);
    return e ? e : load_targets(l, n, PD_DOWN, PD_DOWN, &layer->down, &layer->down_bias);
}

/* Keep a (V, C) table as plain rows and, where asked, packed by slices of the head. */
static pd_err load_table(loader *l, pd_role role, bool packed, void **table) {
    pd_model *m = l->m;
    uint32_t v = m->info.vocab, c = m->info.width;
    *table = pd_arena_take(&m->arena, (size_t)v * c * (m->half ? 2 : 4));
    if (!*table)
        return no_memory();
    pd_err e = PD_OK;
    for (uint32_t first = 0, s = 0; first < v && !e; first += PD_SLICE, s++) {
        uint32_t rows = v - first < PD_SLICE ? v - first : PD_SLICE;
        e = read_rows(l->w, (pd_slot){role, false, 0}, first, rows, l->buffer);
        if (e)
            break;
        if (m->half)
            m->k->to_half((size_t)rows * c, l->buffer, (uint16_t *)*table + (size_t)first * c);
        else
            memcpy((float *)*table + (size_t)first * c, l->buffer,
                   (size_t)rows * c * sizeof(float));
        if (packed)
            e = pd_gemm_pack(&m->arena, l->buffer, rows, c, false, m->half, &m->slices[s]);
        if (packed && !e && m->backward)
            e = pd_gemm_pack(&m->arena, l->buffer, c, rows, true, m->half, &m->slices_back[s]);
        forget(l);
    }
    return e;
}

static pd_err load_head(loader *l) {
    pd_model *m = l->m;
    void *rows = NULL;
    pd_err e = load_norm(l, PD_ROLE_OUT_NORM, 0, &m->out_norm);
    if (!e)
        e = load_plain(l, (pd_slot){PD_ROLE_POSITIONS, false, 0}, &m->positions);
    if (!e)
        e = load_table(l, PD_ROLE_EMBED, m->info.tied, &m->embed);
    if (!e && !m->info.tied)
        e = load_table(l, PD_ROLE_HEAD, true, &rows);
    m->head = m->info.tied ? m->embed : rows;
    return e;
}

/* ---- the whole ---- */

static pd_err choose_compute(pd_model *m, pd_compute want) {
    if (want == PD_COMPUTE_BF16 && !pd_gemm_has_bf16())
        return pd_fail(PD_EUNSUPPORTED, "this processor has no bf16 products (use --compute f32)");
    m->half = want == PD_COMPUTE_BF16 || (want == PD_COMPUTE_AUTO && pd_gemm_bf16_pays());
    m->info.compute = m->half ? PD_COMPUTE_BF16 : PD_COMPUTE_F32;
    return PD_OK;
}

static void describe(pd_model *m, const pd_model_info *i) {
    uint32_t rows, cols;
    pd_compute chosen = m->info.compute;
    m->info = *i;
    m->info.compute = chosen;
    m->info.n_params = 0;
    for (pd_slot s = {.role = PD_ROLES}; pd_slot_next(i, &s);)
        if (pd_slot_shape(i, s, &rows, &cols))
            m->info.n_params += (uint64_t)rows * cols;
    m->n_slices = (i->vocab + PD_SLICE - 1) / PD_SLICE;
    m->heads = (pd_heads){.n = i->n_heads,
                          .n_kv = i->n_kv_heads,
                          .width = i->head_width,
                          .padded = (i->head_width + PD_LANES - 1) / PD_LANES * PD_LANES,
                          .rotated = i->rotated,
                          .halves = i->position == PD_POSITION_HALVES};
}

static pd_err load(const pd_weights *w, pd_model *m) {
    const pd_model_info *i = &m->info;
    size_t rows = 2 * (size_t)i->ff,
           wide = (size_t)(i->n_heads + 2 * i->n_kv_heads) * i->head_width;
    rows = rows > wide ? rows : wide;
    rows = rows > PD_SLICE ? rows : PD_SLICE;
    size_t q = (size_t)i->n_heads * i->head_width *
               i->width; /* the o matrix, where heads are wider than C */
    size_t elements = rows * i->width > q ? rows * i->width : q;
    loader l = {.w = w, .m = m};
    l.buffer = malloc(elements * sizeof(float));
    m->layers = pd_arena_take(&m->arena, i->n_layers * sizeof(pd_layer));
    m->slices = pd_arena_take(&m->arena, m->n_slices * sizeof(pd_matrix));
    m->slices_back = pd_arena_take(&m->arena, m->n_slices * sizeof(pd_matrix));
    pd_err e = l.buffer && m->layers && m->slices && m->slices_back ? PD_OK : no_memory();
    forget(&l); /* its digest took all of it */
    for (uint32_t n = 0; n < i->n_layers && !e; n++) {
        e = load_layer(&l, n);
        forget(&l);
    }
    if (!e)
        e = load_head(&l);
    free(l.buffer);
    return e;
}

pd_err pd_model_pack(const pd_weights *w, const pd_model_opts *opts, pd_model **out) {
    pd_model *m = calloc(1, sizeof *m);
    if (!m)
        return no_memory();
    (void)pd_pool_set(opts->threads);
    m->k = pd_kernels_get();
    m->backward = opts->backward;
    pd_err e = choose_compute(m, opts->compute);
    if (!e) {
        describe(m, &w->info);
        e = m->backward ? pd_room_for_reverse(m) : PD_OK;
    }
    if (!e)
        e = load(w, m);
    if (e) {
        pd_model_close(m);
        return e;
    }
    m->info.packed_bytes = m->arena.used_bytes;
    *out = m;
    return PD_OK;
}

pd_err pd_model_open(const pd_gguf *g, const pd_model_opts *opts, pd_model **out) {
    pd_weights *w;
    pd_err e = pd_weights_of_gguf(g, &w);
    if (e)
        return e;
    e = pd_model_pack(w, opts, out);
    pd_weights_close(w);
    return e;
}

void pd_model_close(pd_model *m) {
    if (!m)
        return;
    pd_arena_free(&m->arena);
    free(m);
}

const pd_model_info *pd_model_info_of(const pd_model *m) {
    return &m->info;
}
