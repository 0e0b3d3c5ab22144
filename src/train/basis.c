/* basis.c - the basis file; see basis.h.  Read in one place, every length checked before use. */
#include "peerd/basis.h"
#include "peerd/bytes.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

static const char magic[8] = "PDBASIS1", magic_from[8] = "PDBASIS2";

static bool has(const pd_basis *b, size_t m) {
    return m / PD_TARGETS >= b->first_layer && b->targets >> (m % PD_TARGETS) & 1;
}

static float *zeros(size_t n, bool *ok) {
    float *p = calloc(n ? n : 1, sizeof *p);
    *ok = *ok && p;
    return p;
}

pd_err pd_basis_new(const pd_model_info *info, uint32_t first_layer, uint32_t targets, uint32_t r1,
                    uint32_t r2, pd_basis **out) {
    if (r2 < 1 || r2 > PD_RANK_MAX || r1 > PD_RANK_MAX - r2)
        return pd_fail(PD_EUSAGE, "rank %u is outside 1..%d", r2, PD_RANK_MAX);
    if (first_layer >= info->n_layers)
        return pd_fail(PD_EUSAGE, "no layer is left: the model has %u, the first would be %u",
                       info->n_layers, first_layer);
    if (!targets || targets >> PD_TARGETS)
        return pd_fail(PD_EUSAGE, "no target matrix is chosen");
    if (targets & ~pd_model_targets(info))
        return pd_fail(PD_EMISMATCH, "the basis has a matrix that a %s model has not", info->arch);
    pd_basis *b = calloc(1, sizeof *b);
    if (!b)
        return pd_fail(PD_ENOMEM, "no memory for a basis");
    *b = (pd_basis){.n_layers = info->n_layers,
                    .first_layer = first_layer,
                    .targets = targets,
                    .r1 = r1,
                    .r2 = r2};
    b->at = calloc((size_t)info->n_layers * PD_TARGETS, sizeof *b->at);
    bool ok = b->at != NULL;
    for (size_t m = 0; ok && m < (size_t)info->n_layers * PD_TARGETS; m++) {
        if (!has(b, m))
            continue;
        pd_basis_matrix *x = &b->at[m];
        pd_model_shape(info, (pd_target)(m % PD_TARGETS), &x->out, &x->in);
        x->u1 = zeros((size_t)r1 * x->out, &ok);
        x->v1 = zeros((size_t)r1 * x->in, &ok);
        x->c1 = zeros((size_t)r1 * r1, &ok);
        x->u2 = zeros((size_t)r2 * x->out, &ok);
        x->v2 = zeros((size_t)r2 * x->in, &ok);
        x->d2 = zeros((size_t)r2 * r2, &ok);
        for (uint32_t i = 0; ok && i < r2 * r2; i++)
            x->d2[i] = 1;
    }
    if (!ok) {
        pd_basis_free(b);
        return pd_fail(PD_ENOMEM, "no memory for a basis of rank %u", r1 + r2);
    }
    *out = b;
    return PD_OK;
}

void pd_basis_free(pd_basis *b) {
    if (!b)
        return;
    for (size_t m = 0; b->at && m < (size_t)b->n_layers * PD_TARGETS; m++) {
        pd_basis_matrix *x = &b->at[m];
        free(x->u1);
        free(x->v1);
        free(x->c1);
        free(x->u2);
        free(x->v2);
        free(x->d2);
    }
    free(b->at);
    free(b);
}

/* The scale of a vector, chosen so that its largest element is +-127. */
static float scale_of(const float *x, size_t n) {
    float top = 0;
    for (size_t i = 0; i < n; i++)
        top = fmaxf(top, fabsf(x[i]));
    return top / 127.0f;
}

static int8_t step_of(float x, float scale) {
    float k = scale > 0 ? roundf(x / scale) : 0;
    return (int8_t)(k > 127 ? 127 : k < -127 ? -127 : k);
}

void pd_basis_round(float *x, size_t n) {
    float scale = scale_of(x, n);
    for (size_t i = 0; i < n; i++)
        x[i] = scale * (float)step_of(x[i], scale);
}

static void put_f32(pd_writer *w, float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    pd_put_u32(w, u);
}

static float get_f32(pd_reader *r) {
    uint32_t u = pd_get_u32(r);
    float f;
    memcpy(&f, &u, 4);
    if (!isfinite(f))
        r->ok = false;
    return f;
}

static void put_numbers(pd_writer *w, const float *x, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        put_f32(w, x[i]);
}

static void get_numbers(pd_reader *r, float *x, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        x[i] = get_f32(r);
}

static void put_vectors(pd_writer *w, const float *x, uint32_t count, uint32_t n) {
    for (uint32_t k = 0; k < count; k++, x += n) {
        float scale = scale_of(x, n);
        put_f32(w, scale);
        for (uint32_t i = 0; i < n; i++)
            pd_put_u8(w, (uint8_t)step_of(x[i], scale));
    }
}

static void get_vectors(pd_reader *r, float *x, uint32_t count, uint32_t n) {
    for (uint32_t k = 0; k < count; k++, x += n) {
        float scale = get_f32(r);
        if (!isfinite(scale * 128)) /* the largest step, so that every product is a number */
            r->ok = false;
        const uint8_t *p = pd_get_bytes(r, n);
        for (uint32_t i = 0; p && i < n; i++)
            x[i] = scale * (float)(int8_t)p[i];
    }
}

static size_t file_bytes(const pd_basis *b) {
    size_t n = sizeof magic + 16 + (b->first_layer ? 4 : 0);
    for (size_t m = 0; m < (size_t)b->n_layers * PD_TARGETS; m++)
        if (has(b, m))
            n += 8 + (size_t)(b->r1 + b->r2) * (8 + b->at[m].out + b->at[m].in) +
                 ((size_t)b->r1 * b->r1 + (size_t)b->r2 * b->r2) * 4;
    return n;
}

pd_err pd_basis_write(const pd_basis *b, uint8_t **out, size_t *n) {
    size_t size = file_bytes(b);
    uint8_t *p = malloc(size);
    if (!p)
        return pd_fail(PD_ENOMEM, "no memory for a basis file of %zu bytes", size);
    pd_writer w = pd_writer_of(p, size);
    pd_put_bytes(&w, b->first_layer ? magic_from : magic, sizeof magic);
    pd_put_u32(&w, b->n_layers);
    if (b->first_layer)
        pd_put_u32(&w, b->first_layer);
    pd_put_u32(&w, b->targets);
    pd_put_u32(&w, b->r1);
    pd_put_u32(&w, b->r2);
    for (size_t m = 0; m < (size_t)b->n_layers * PD_TARGETS; m++) {
        const pd_basis_matrix *x = &b->at[m];
        if (!has(b, m))
            continue;
        pd_put_u32(&w, x->out);
        pd_put_u32(&w, x->in);
        put_vectors(&w, x->u1, b->r1, x->out);
        put_vectors(&w, x->v1, b->r1, x->in);
        put_numbers(&w, x->c1, b->r1 * b->r1);
        put_vectors(&w, x->u2, b->r2, x->out);
        put_vectors(&w, x->v2, b->r2, x->in);
        put_numbers(&w, x->d2, b->r2 * b->r2);
    }
    assert(w.ok && w.p == w.end);
    *out = p;
    *n = size;
    return PD_OK;
}

static pd_err get_matrices(pd_reader *r, pd_basis *b) {
    for (size_t m = 0; m < (size_t)b->n_layers * PD_TARGETS; m++) {
        pd_basis_matrix *x = &b->at[m];
        if (!has(b, m))
            continue;
        uint32_t rows = pd_get_u32(r), cols = pd_get_u32(r);
        if (r->ok && (rows != x->out || cols != x->in))
            return pd_fail(
                PD_EMISMATCH,
                "the basis is not of this model: layer %zu, %s is %u x %u there, %u x %u here",
                m / PD_TARGETS, pd_target_names[m % PD_TARGETS], rows, cols, x->out, x->in);
        get_vectors(r, x->u1, b->r1, x->out);
        get_vectors(r, x->v1, b->r1, x->in);
        get_numbers(r, x->c1, b->r1 * b->r1);
        get_vectors(r, x->u2, b->r2, x->out);
        get_vectors(r, x->v2, b->r2, x->in);
        get_numbers(r, x->d2, b->r2 * b->r2);
    }
    return PD_OK;
}

pd_err pd_basis_read(const uint8_t *p, size_t n, const pd_model_info *info, pd_basis **out) {
    pd_reader r = pd_reader_of(p, n);
    const uint8_t *m = pd_get_bytes(&r, sizeof magic);
    bool from = m && memcmp(m, magic_from, sizeof magic_from) == 0;
    uint32_t layers = pd_get_u32(&r), first = from ? pd_get_u32(&r) : 0, targets = pd_get_u32(&r),
             r1 = pd_get_u32(&r), r2 = pd_get_u32(&r);
    if (!r.ok || (!from && memcmp(m, magic, sizeof magic) != 0))
        return pd_fail(PD_EFORMAT, "not a basis file");
    if (r1 > PD_RANK_MAX || r2 < 1 || r2 > PD_RANK_MAX || r1 + r2 > PD_RANK_MAX || !targets ||
        targets >> PD_TARGETS)
        return pd_fail(PD_EFORMAT, "the basis file has impossible ranks (%u, %u) or targets (%u)",
                       r1, r2, targets);
    if (layers != info->n_layers)
        return pd_fail(PD_EMISMATCH, "the basis is of a model with %u layers, this one has %u",
                       layers, info->n_layers);
    if (from && (first < 1 || first >= layers))
        return pd_fail(PD_EFORMAT, "the basis file begins at layer %u of %u", first, layers);
    pd_basis *b;
    pd_err e = pd_basis_new(info, first, targets, r1, r2, &b);
    if (e)
        return e;
    if (file_bytes(b) != n)
        e = pd_fail(PD_EFORMAT, "the basis file has %zu bytes where %zu belong", n, file_bytes(b));
    if (!e)
        e = get_matrices(&r, b);
    if (!e && !r.ok)
        e = pd_fail(PD_EFORMAT, "the basis file holds a number that is not finite");
    if (e) {
        pd_basis_free(b);
        return e;
    }
    *out = b;
    return PD_OK;
}
