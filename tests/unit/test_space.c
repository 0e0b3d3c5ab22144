/* test_space.c - what a coordinate means: an addition to one matrix, compared with the dense
 * definition; and what the loss says about it, compared with differences of the loss itself.
 */
#include "micro.h"
#include "peerd/bytes.h"
#include "peerd/direction.h"
#include "peerd/space.h"
#include "train.h"

enum { SAMPLES = 4 };

static pd_model_info tiny(void) {
    return (pd_model_info){
        .n_layers = 2, .width = 12, .n_heads = 2, .n_kv_heads = 1, .head_width = 4, .ff = 10};
}

/* A space with a view; a basis for an aligned one. */
typedef struct subject {
    pd_model_info info;
    pd_manifest m;
    pd_basis *basis;
    pd_space *space;
    pd_view *view;
} subject;

static subject open_from(pd_space_kind kind, uint32_t first, uint32_t start, uint32_t rank,
                         uint32_t targets, const pd_model_info *info) {
    subject s = {.info = *info, .m = manifest_of(kind, rank, targets, info)};
    s.m.first_layer = first;
    s.m.n_coords = pd_space_size(&s.m, info);
    if (kind == PD_SPACE_ALIGNED)
        s.basis = random_basis_of(info, first, targets, start, rank, 11);
    ck_ok(pd_space_open(&s.m, info, s.basis, &s.space));
    ck_ok(pd_view_open(s.space, &s.view));
    ck_assert_uint_eq(pd_space_coords(s.space), s.m.n_coords);
    return s;
}

static subject open_subject(pd_space_kind kind, uint32_t start, uint32_t rank, uint32_t targets,
                            const pd_model_info *info) {
    return open_from(kind, 0, start, rank, targets, info);
}

static void close_subject(subject *s) {
    pd_view_close(s->view);
    pd_space_close(s->space);
    pd_basis_free(s->basis);
}

/* dW of one matrix of a view, dense. */
static void dense(const subject *s, uint32_t layer, pd_target t, double *w) {
    uint32_t out, in;
    pd_model_shape(&s->info, t, &out, &in);
    const pd_lowrank *x = pd_view_at(s->view, layer, t);
    memset(w, 0, (size_t)out * in * sizeof *w);
    for (uint32_t k = 0; k < x->rank; k++)
        for (uint32_t o = 0; o < out; o++)
            for (uint32_t i = 0; i < in; i++)
                w[o * in + i] += (double)x->up[k * out + o] * (double)x->down[k * in + i];
}

/* The definition, by coordinates in their documented order: layer, target, then (i, j) or A, B. */
static void defined(const subject *s, const double *c, uint32_t layer, pd_target t, const float *a0,
                    double *w) {
    uint32_t out, in, r = s->m.rank;
    pd_model_shape(&s->info, t, &out, &in);
    memset(w, 0, (size_t)out * in * sizeof *w);
    if (s->m.space == PD_SPACE_ALIGNED) {
        const pd_basis_matrix *b = &s->basis->at[layer * PD_TARGETS + t];
        for (uint32_t o = 0; o < out; o++)
            for (uint32_t i = 0; i < in; i++) {
                double *at = &w[o * in + i];
                for (uint32_t p = 0; p < s->basis->r1; p++)
                    for (uint32_t q = 0; q < s->basis->r1; q++)
                        *at += (double)b->u1[p * out + o] * (double)b->c1[p * s->basis->r1 + q] *
                               (double)b->v1[q * in + i];
                for (uint32_t p = 0; p < r; p++)
                    for (uint32_t q = 0; q < r; q++)
                        *at += (double)b->u2[p * out + o] * (double)b->d2[p * r + q] *
                               c[p * r + q] * (double)b->v2[q * in + i];
            }
        return;
    }
    const double *cb = c + (size_t)r * in;
    for (uint32_t o = 0; o < out; o++)
        for (uint32_t i = 0; i < in; i++)
            for (uint32_t k = 0; k < r; k++)
                w[o * in + i] += (double)s->m.alpha / r * cb[k * out + o] *
                                 ((double)a0[k * in + i] + c[k * in + i]);
}

static uint64_t matrix_coords(const subject *s, pd_target t) {
    uint32_t out, in, r = s->m.rank;
    pd_model_shape(&s->info, t, &out, &in);
    return s->m.space == PD_SPACE_ALIGNED ? r * r : r * (out + in);
}

/* Compare every matrix of the view with the definition at coordinates c (d). */
static void compare(const subject *s, const double *c, const float *const *a0) {
    double got[20 * 20], want[20 * 20];
    for (uint32_t l = 0; l < s->info.n_layers; l++)
        for (uint32_t t = 0; t < PD_TARGETS; t++) {
            if (l < s->m.first_layer || !(s->m.targets >> t & 1)) {
                ck_assert_uint_eq(pd_view_at(s->view, l, (pd_target)t)->rank, 0);
                continue;
            }
            uint32_t out, in;
            pd_model_shape(&s->info, (pd_target)t, &out, &in);
            dense(s, l, (pd_target)t, got);
            defined(s, c, l, (pd_target)t, a0 ? a0[l * PD_TARGETS + t] : NULL, want);
            for (uint32_t i = 0; i < out * in; i++)
                ck_assert_double_le(fabs(got[i] - want[i]), 2e-6 * (1 + fabs(want[i])));
            c += matrix_coords(s, (pd_target)t);
        }
}

/* A0 as a new view shows it: `down` at the start. */
static void copy_a0(const subject *s, float **a0) {
    for (uint32_t k = 0; k < s->info.n_layers * PD_TARGETS; k++) {
        uint32_t out, in;
        if (k / PD_TARGETS < s->m.first_layer || !(s->m.targets >> (k % PD_TARGETS) & 1))
            continue;
        pd_model_shape(&s->info, (pd_target)(k % PD_TARGETS), &out, &in);
        size_t n = (size_t)s->m.rank * in * sizeof **a0;
        a0[k] = malloc(n);
        memcpy(a0[k], pd_view_at(s->view, k / PD_TARGETS, (pd_target)(k % PD_TARGETS))->down, n);
    }
}

static void check_meaning(subject *s) {
    uint64_t d = s->m.n_coords;
    double *c = calloc(d, sizeof *c), unit = ldexp(1, -(int)s->m.unit_bits);
    int32_t *a = calloc(d, sizeof *a);
    float *f = calloc(d, sizeof *f);
    uint8_t *signs = calloc(d / 8 + 1, 1);
    float *a0[2 * PD_TARGETS] = {0};
    const float *const *fixed = s->m.space == PD_SPACE_LORA ? (const float *const *)a0 : NULL;
    pd_rng rng = {17};
    if (fixed)
        copy_a0(s, a0);
    compare(s, c, fixed); /* a new view is the start: for LoRA exactly nothing */
    for (uint64_t i = 0; i<d; i += d> 200 ? 5 : 1) { /* one coordinate alone */
        a[i] = 1 << s->m.unit_bits;
        c[i] = 1;
        pd_view_set(s->view, a, NULL, 0);
        compare(s, c, fixed);
        a[i] = 0;
        c[i] = 0;
    }
    for (uint64_t i = 0; i < d; i++) { /* all of them, and a side of a probe */
        a[i] = (int32_t)pd_rng_next(&rng) >> 11;
        if (pd_rng_below(&rng, 2))
            signs[i / 8] |= (uint8_t)(1 << i % 8);
        c[i] = a[i] * unit + (signs[i / 8] >> (i % 8) & 1 ? 0.125 : -0.125);
        f[i] = (float)c[i];
    }
    pd_view_set(s->view, a, signs, 0.125f);
    compare(s, c, fixed);
    pd_view_set(s->view, NULL, NULL, 0);
    pd_view_set_float(s->view, f);
    compare(s, c, fixed);
    for (int k = 0; k < 2 * PD_TARGETS; k++)
        free(a0[k]);
    free(a);
    free(c);
    free(f);
    free(signs);
}

START_TEST(aligned_is_its_definition) {
    static const uint32_t shapes[][3] = {
        {0, 1, ALL_TARGETS}, {0, 3, ALL_TARGETS}, {2, 2, ALL_TARGETS}, {3, 1, 0x4a}};
    pd_model_info info = tiny();
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        subject s = open_subject(PD_SPACE_ALIGNED, shapes[i][0], shapes[i][1], shapes[i][2], &info);
        check_meaning(&s);
        close_subject(&s);
    }
}
END_TEST

START_TEST(lora_is_its_definition) {
    static const uint32_t shapes[][2] = {{1, ALL_TARGETS}, {3, 0x29}};
    pd_model_info info = tiny();
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        subject s = open_subject(PD_SPACE_LORA, 0, shapes[i][0], shapes[i][1], &info);
        check_meaning(&s);
        close_subject(&s);
    }
}
END_TEST

/* A0 is everybody's: from the seed alone, within its bound, spread over it, and another one for
 * each matrix and seed.
 */
START_TEST(lora_start) {
    pd_model_info info = tiny();
    subject s = open_subject(PD_SPACE_LORA, 0, 8, ALL_TARGETS, &info);
    subject same = open_subject(PD_SPACE_LORA, 0, 8, ALL_TARGETS, &info), other = {.info = info};
    other.m = s.m;
    other.m.seed[31] ^= 1;
    ck_ok(pd_space_open(&other.m, &info, NULL, &other.space));
    ck_ok(pd_view_open(other.space, &other.view));
    double sum = 0, square = 0, n = 0;
    for (uint32_t l = 0; l < info.n_layers; l++)
        for (uint32_t t = 0; t < PD_TARGETS; t++) {
            uint32_t out, in;
            pd_model_shape(&info, (pd_target)t, &out, &in);
            const float *x = pd_view_at(s.view, l, (pd_target)t)->down;
            ck_assert_mem_eq(x, pd_view_at(same.view, l, (pd_target)t)->down, 8 * in * 4);
            ck_assert_mem_ne(x, pd_view_at(other.view, l, (pd_target)t)->down, 8 * in * 4);
            if (l || t)
                ck_assert_mem_ne(x, pd_view_at(s.view, 0, PD_Q)->down, 8 * 10 * 4);
            for (uint32_t i = 0; i < 8 * in; i++, n++) {
                double y = (double)x[i] * sqrt(in);
                ck_assert(y >= -1 && y < 1);
                sum += y;
                square += y * y;
            }
        }
    ck_assert_double_le(fabs(sum / n), 4 / sqrt(3 * n)); /* four standard deviations */
    ck_assert_double_le(fabs(square / n - 1.0 / 3), 4 * sqrt(4.0 / 45 / n));
    close_subject(&s);
    close_subject(&same);
    close_subject(&other);
}
END_TEST

/* From a layer on: the first coordinate is that layer's, and below it no adapter adds anything. */
START_TEST(lower_layers_are_left_alone) {
    static const pd_space_kind kinds[] = {PD_SPACE_ALIGNED, PD_SPACE_LORA};
    pd_model_info info = tiny();
    for (int k = 0; k < 2; k++) {
        subject all = open_subject(kinds[k], 2, 2, ALL_TARGETS, &info),
                upper = open_from(kinds[k], 1, 2, 2, ALL_TARGETS, &info);
        ck_assert_uint_eq(pd_space_first_layer(all.space), 0);
        ck_assert_uint_eq(pd_space_first_layer(upper.space), 1);
        ck_assert_uint_eq(2 * upper.m.n_coords, all.m.n_coords);
        check_meaning(&upper);
        close_subject(&all);
        close_subject(&upper);
    }
}
END_TEST

/* A run, a basis and a model that do not belong together. */
START_TEST(mismatches_are_refused) {
    pd_model_info info = tiny(), deeper = tiny();
    deeper.n_layers = 3;
    pd_manifest m = manifest_of(PD_SPACE_ALIGNED, 2, ALL_TARGETS, &info), bad = m;
    pd_basis *b = random_basis(&info, ALL_TARGETS, 1, 2, 1), *few = random_basis(&info, 3, 1, 2, 1),
             *thin = random_basis(&info, ALL_TARGETS, 2, 1, 1);
    pd_space *s = NULL;
    bad.n_coords++;
    ck_assert_int_eq(pd_space_open(&m, &info, NULL, &s), PD_EMISMATCH);
    ck_assert_int_eq(pd_space_open(&m, &info, few, &s), PD_EMISMATCH);
    ck_assert_int_eq(pd_space_open(&m, &info, thin, &s), PD_EMISMATCH);
    ck_assert_int_eq(pd_space_open(&m, &deeper, b, &s), PD_EMISMATCH);
    ck_assert_int_eq(pd_space_open(&bad, &info, b, &s), PD_EMISMATCH);
    bad = m;
    bad.first_layer = 1; /* and the basis begins at 0 */
    bad.n_coords = pd_space_size(&bad, &info);
    ck_assert_int_eq(pd_space_open(&bad, &info, b, &s), PD_EMISMATCH);
    ck_assert_ptr_nonnull(strstr(pd_fail_text(), "layers differ"));
    ck_assert_ptr_null(s);
    m = manifest_of(PD_SPACE_LORA, 2, ALL_TARGETS, &info);
    ck_assert_int_eq(pd_space_open(&m, &deeper, NULL, &s), PD_EMISMATCH);
    m.first_layer = 2;
    ck_assert_int_eq(pd_space_open(&m, &info, NULL, &s), PD_EMISMATCH);
    ck_assert_ptr_nonnull(strstr(pd_fail_text(), "from layer 2 on, and this model has 2"));
    pd_model_info gateless = info; /* as many coordinates, were gate not counted */
    gateless.no_gate = true;
    m = manifest_of(PD_SPACE_LORA, 2, ALL_TARGETS, &gateless);
    ck_assert_int_eq(pd_space_open(&m, &gateless, NULL, &s), PD_EMISMATCH);
    ck_assert_ptr_null(s);
    pd_basis *none = NULL;
    ck_assert_int_eq(pd_basis_new(&gateless, 0, 1u << PD_GATE, 0, 2, &none), PD_EMISMATCH);
    m = manifest_of(PD_SPACE_LORA, 2, pd_model_targets(&gateless), &gateless);
    ck_assert_int_eq(pd_space_open(&m, &gateless, NULL, &s), PD_OK);
    pd_space_close(s);
    pd_space_close(NULL);
    pd_view_close(NULL);
    pd_basis_free(b);
    pd_basis_free(few);
    pd_basis_free(thin);
}
END_TEST

/* ---- gradients ---- */

typedef struct grads {
    const pd_view *view;
    float *grad;
} grads;

static void sink(void *ctx, uint32_t layer, pd_target t, uint32_t rows, const float *x,
                 const float *dy) {
    grads *g = ctx;
    pd_view_grad(g->view, layer, t, rows, x, dy, g->grad);
}

static double loss_at(const pd_model *m, pd_work *w, const pd_batch *b, pd_view *v,
                      const float *c) {
    pd_loss loss;
    pd_view_set_float(v, c);
    const pd_adapter *side = pd_view_adapter(v);
    pd_model_forward(m, w, b, &side, 1, &loss, NULL);
    return pd_loss_mean(&loss);
}

/* Every coordinate's derivative against a central difference of the loss.  The loss is float32, so
 * the difference carries about 1e-6 / eps; the third derivative adds eps^2.
 */
static void check_gradient(pd_space_kind kind) {
    micro mic = make(false, false, 24);
    pd_gguf *g;
    pd_model *model;
    pd_work *w;
    pd_batch *b;
    pd_model_opts o = {.compute = PD_COMPUTE_F32, .threads = 1, .backward = true};
    ck_ok(pd_gguf_open(mic.path, &g));
    ck_ok(pd_model_open(g, &o, &model));
    ck_ok(pd_work_open(model, 64, 1, true, &w));
    ck_ok(pd_batch_open(64, 8, &b));
    pd_rng rng = {23};
    for (int i = 0; i < SAMPLES; i++) {
        uint32_t ids[12], len = 12;
        uint8_t scored[12] = {0};
        for (int k = 0; k < 12; k++) {
            ids[k] = pd_rng_below(&rng, 24);
            scored[k] = k > 3;
        }
        pd_example e = {.kind = PD_EXAMPLE_NLL,
                        .n_seqs = 1,
                        .seq_len = &len,
                        .ids = ids,
                        .scored = scored,
                        .n_tokens = 12};
        ck_assert(pd_batch_add(b, &e));
    }
    subject s = open_subject(kind, 2, 2, ALL_TARGETS, pd_model_info_of(model));
    uint64_t d = s.m.n_coords;
    float *c = malloc(d * sizeof *c), *grad = calloc(d, sizeof *grad);
    for (uint64_t i = 0; i < d; i++)
        c[i] = (float)(0.2 * signed_uniform(&rng));
    pd_view_set_float(s.view, c);
    grads task = {s.view, grad};
    pd_loss loss;
    pd_model_backward(model, w, b, pd_view_adapter(s.view), sink, &task, &loss);
    double worst = 0, norm = 0;
    const float eps = 1.0f / 64;
    for (uint64_t i = 0; i < d; i += kind == PD_SPACE_ALIGNED ? 1 : 7) {
        float was = c[i];
        c[i] = was + eps;
        double up = loss_at(model, w, b, s.view, c);
        c[i] = was - eps;
        double down = loss_at(model, w, b, s.view, c);
        c[i] = was;
        double fd = (up - down) / (2 * (double)eps);
        worst = fmax(worst, fabs(fd - (double)grad[i]));
        norm = fmax(norm, fabs(fd));
    }
    ck_assert_double_gt(norm, 0.05); /* there is something to be seen */
    ck_assert_msg(worst < 2e-3 * (1 + norm), "off by %g of %g", worst, norm);
    free(c);
    free(grad);
    close_subject(&s);
    pd_batch_close(b);
    pd_work_close(w);
    pd_model_close(model);
    pd_gguf_close(g);
    drop(&mic);
}

START_TEST(aligned_gradient) {
    check_gradient(PD_SPACE_ALIGNED);
}
END_TEST

START_TEST(lora_gradient) {
    check_gradient(PD_SPACE_LORA);
}
END_TEST

START_TEST(full_gradient) {
    check_gradient(PD_SPACE_FULL);
}
END_TEST

/* Every entry of every target in the documented order, and of the integers what 2^-F makes of them:
 * a space that took another order would fold the same bytes into another model. */
START_TEST(full_is_its_definition) {
    pd_model_info info = tiny();
    const uint32_t targets = ALL_TARGETS & ~(1u << PD_K);
    subject s = open_subject(PD_SPACE_FULL, 0, 0, targets, &info);
    uint64_t d = s.m.n_coords, at = 0;
    int32_t *a = malloc(d * sizeof *a);
    uint8_t *signs = malloc((d + 7) / 8);
    for (uint64_t i = 0; i < d; i++)
        a[i] = (int32_t)i - 100;
    pd_direction_signs(s.m.seed, signs, d);
    pd_view_set(s.view, a, signs, 0.25f);
    const pd_dense *x = pd_view_adapter(s.view)->dense;
    ck_assert(x && x->n == d);
    for (uint32_t k = 0; k < info.n_layers * PD_TARGETS; k++) {
        uint32_t out, in;
        pd_model_shape(&info, (pd_target)(k % PD_TARGETS), &out, &in);
        ck_assert_uint_eq(pd_view_at(s.view, k / PD_TARGETS, (pd_target)(k % PD_TARGETS))->rank, 0);
        ck_assert_uint_eq(x->first[k], targets >> (k % PD_TARGETS) & 1 ? at : PD_DENSE_NONE);
        at += targets >> (k % PD_TARGETS) & 1 ? (uint64_t)out * in : 0;
    }
    ck_assert_uint_eq(at, d);
    for (uint64_t i = 0; i < d; i++) {
        double want = ldexp((double)a[i], -20) + 0.25 * pd_direction_sign(signs, i);
        ck_assert_double_le(fabs((double)pd_dense_at(x, i) - want), 1e-6);
    }
    free(a);
    free(signs);
    close_subject(&s);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, aligned_is_its_definition);
    tcase_add_test(tc, lora_is_its_definition);
    tcase_add_test(tc, lora_start);
    tcase_add_test(tc, lower_layers_are_left_alone);
    tcase_add_test(tc, mismatches_are_refused);
    tcase_add_test(tc, aligned_gradient);
    tcase_add_test(tc, lora_gradient);
    tcase_add_test(tc, full_is_its_definition);
    tcase_add_test(tc, full_gradient);
}

PD_TEST_MAIN("space", 60)
