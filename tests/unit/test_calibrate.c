/* test_calibrate.c - where the basis comes from: the eigensolver and the subspace iteration against
 * matrices whose answer is known, then both stages on the small model of the tree.
 */
#include "../../src/train/sketch.h"
#include "peerd/calibrate.h"
#include "train.h"

#include <math.h>

enum { N = 40 };

static double dot(const double *x, const double *y, uint32_t n) {
    double s = 0;
    for (uint32_t i = 0; i < n; i++)
        s += x[i] * y[i];
    return s;
}

/* k orthonormal rows (k, n) of a random matrix, by Gram-Schmidt in double precision. */
static void random_frame(double *q, uint32_t k, uint32_t n, pd_rng *rng) {
    for (uint32_t i = 0; i < k; i++) {
        for (uint32_t l = 0; l < n; l++)
            q[i * n + l] = signed_uniform(rng);
        for (uint32_t twice = 0; twice < 2; twice++)
            for (uint32_t j = 0; j < i; j++) {
                double c = dot(q + i * n, q + j * n, n);
                for (uint32_t l = 0; l < n; l++)
                    q[i * n + l] -= c * q[j * n + l];
            }
        double f = 1 / sqrt(dot(q + i * n, q + i * n, n));
        for (uint32_t l = 0; l < n; l++)
            q[i * n + l] *= f;
    }
}

/* a = q^T diag(w) q */
static void compose(double *a, const double *q, const double *w, uint32_t k, uint32_t n) {
    memset(a, 0, (size_t)n * n * sizeof *a);
    for (uint32_t m = 0; m < k; m++)
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = 0; j < n; j++)
                a[i * n + j] += w[m] * q[m * n + i] * q[m * n + j];
}

/* Known eigenvalues, well apart, double, zero and negative: found, in order, with their vectors. */
START_TEST(jacobi) {
    static const double known[3][4] = {{9, 4, 1, 0.25}, {5, 5, 2, 0}, {3, 1e-6, -1, -7}};
    pd_rng rng = {1};
    for (int trial = 0; trial < 30; trial++) {
        uint32_t n = 4 + pd_rng_below(&rng, N - 4);
        double q[N * N], a[N * N], whole[N * N], w[N], v[N * N], want[N] = {0};
        random_frame(q, n, n, &rng);
        for (uint32_t i = 0; i < 4; i++)
            want[i < 3 ? i : n - 1] = known[trial % 3][i];
        for (uint32_t i = 3; i + 1 < n; i++)
            want[i] = trial % 3 == 2 ? -1.0 - i * 0.01 : want[2] / (i + 1);
        compose(a, q, want, n, n);
        memcpy(whole, a, sizeof a);
        pd_jacobi(n, a, w, v);
        for (uint32_t i = 0; i < n; i++) {
            ck_assert(i == 0 || w[i] <= w[i - 1]);
            for (uint32_t j = 0; j < n; j++) /* orthonormal */
                ck_assert_double_le(fabs(dot(v + i * n, v + j * n, n) - (i == j)), 1e-10);
            for (uint32_t l = 0; l < n; l++) /* A v = w v */
                ck_assert_double_le(fabs(dot(whole + l * n, v + i * n, n) - w[i] * v[i * n + l]),
                                    1e-9);
        }
    }
}
END_TEST

/* y = A q, as a pass over the data gives it. */
static void multiply(pd_sketch *s, const double *a) {
    for (uint32_t i = 0; i < s->k; i++)
        for (uint32_t l = 0; l < s->n; l++) {
            double sum = 0;
            for (uint32_t j = 0; j < s->n; j++)
                sum += a[l * s->n + j] * (double)s->q[i * s->n + j];
            s->y[i * s->n + l] += (float)sum;
        }
}

/* Share of the true leading r eigenvectors that lies within the found ones. */
static double overlap(const double *q, const float *found, uint32_t r, uint32_t n) {
    double sum = 0;
    for (uint32_t i = 0; i < r; i++)
        for (uint32_t j = 0; j < r; j++) {
            double c = 0;
            for (uint32_t l = 0; l < n; l++)
                c += q[i * n + l] * (double)found[j * n + l];
            sum += c * c;
        }
    return sum / r;
}

/* A of rank 3 is found whole in one pass, and what is asked for beyond its rank is zero, not noise;
 * one whose eigenvalues fall off by halves is found in two.
 */
START_TEST(subspace_iteration) {
    for (uint64_t trial = 0; trial < 10; trial++) {
        pd_rng rng = {trial};
        double q[N * N], a[N * N], w[N] = {4, 2, 1};
        float memory[2 * N * N], out[N * N];

        pd_sketch s;
        random_frame(q, N, N, &rng);
        compose(a, q, w, 3, N);
        pd_sketch_init(&s, N, 3 + PD_SKETCH_MORE, memory, &rng);
        multiply(&s, a);
        pd_sketch_next(&s);
        multiply(&s, a);
        pd_sketch_leading(&s, 5, out);
        ck_assert_double_ge(overlap(q, out, 3, N), 1 - 1e-6);
        for (uint32_t i = 0; i < N; i++)
            w[i] = pow(0.5, i);
        compose(a, q, w, N, N);
        pd_sketch_init(&s, N, 2 + PD_SKETCH_MORE, memory, &rng);
        multiply(&s, a);
        pd_sketch_next(&s);
        multiply(&s, a);
        pd_sketch_leading(&s, 2, out);
        ck_assert_double_ge(overlap(q, out, 2, N), 0.995);
    }
}
END_TEST

/* A matrix narrower than the sketch, and one that is zero: no number that is none. */
START_TEST(small_and_zero) {
    pd_rng rng = {1};
    float memory[2 * 5 * 5], out[4 * 5];
    double a[25] = {0};
    pd_sketch s;
    pd_sketch_init(&s, 5, 4 + PD_SKETCH_MORE, memory, &rng);
    ck_assert_uint_eq(s.k, 5);
    for (int zero = 0; zero < 2; zero++) {
        for (uint32_t i = 0; i < 5; i++)
            a[i * 6] = zero ? 0 : 5 - i;
        multiply(&s, a);
        pd_sketch_next(&s);
        multiply(&s, a);
        pd_sketch_leading(&s, 4, out);
        for (uint32_t i = 0; i < 20; i++)
            ck_assert(isfinite(out[i]));
        if (!zero)
            for (uint32_t i = 0; i < 4; i++)
                ck_assert_double_ge(fabs((double)out[i * 5 + i]), 0.9999);
    }
}
END_TEST

/* ---- on the small model ---- */

static pd_calibrate_opts options(uint32_t rank, int warm) {
    pd_calibrate_opts o = pd_calibrate_defaults;
    o.rank = rank;
    o.warm_steps = warm;
    return o;
}

static double start_loss(const house *h, const pd_basis *b, const pd_data *d, pd_loss *loss) {
    const pd_model_info *info = pd_model_info_of(h->model);
    pd_manifest m = manifest_of(PD_SPACE_ALIGNED, b->r2, b->targets, info);
    m.first_layer = b->first_layer;
    m.n_coords = pd_space_size(&m, info);
    pd_space *s;
    pd_view *v;
    pd_bench bench;
    pd_subset all = pd_subset_all(d);
    ck_ok(pd_space_open(&m, info, b, &s));
    ck_ok(pd_view_open(s, &v));
    ck_ok(pd_bench_open(h->model, 512, 1, false, &bench));
    ck_ok(pd_evaluate(&bench, &all, pd_view_adapter(v), loss));
    pd_bench_close(&bench);
    pd_view_close(v);
    pd_space_close(s);
    return pd_loss_mean(loss);
}

/* Both stages: the start adapter lowers the loss of records it has not seen, by the number of steps
 * that the unseen halves chose; the report says what was measured; a seed gives one file.
 */
START_TEST(two_stages) {
    house h = house_open(true);
    pd_data *text = choice_data(&h, 1, 24), *held = choice_data(&h, 50, 40);
    pd_calibrate_opts o = options(2, PD_WARM_CHOOSE);
    pd_calibrate_report r;
    pd_basis *b, *again, *none;
    pd_loss loss;
    ck_ok(pd_calibrate(h.model, text, &o, &b, &r));
    ck_assert(r.warm_steps > 0 && r.warm_steps <= PD_WARM_STEPS_MAX);
    ck_assert(r.held_steps >= r.warm_steps && r.held[r.warm_steps] < r.held[0]);
    for (int s = 0; s <= r.held_steps; s++)
        ck_assert(r.held[s] >= r.held[r.warm_steps]);
    ck_assert_double_lt(r.loss_start, r.loss_before);
    ck_assert_double_le(fabs(start_loss(&h, b, text, &loss) - r.loss_start), 1e-4);
    ck_assert_double_le(fabs((double)loss.correct / 24 - r.accuracy_start), 1e-9);

    o.warm_steps = 0;
    pd_calibrate_report plain;
    ck_ok(pd_calibrate(h.model, text, &o, &none, &plain));
    ck_assert(none->r1 == 0 && plain.loss_start == plain.loss_before && plain.warm_steps == 0);
    double before = start_loss(&h, none, held, &loss), after = start_loss(&h, b, held, &loss);
    ck_assert_msg(after < 0.95 * before, "%g from %g", after, before);

    uint8_t *p, *q;
    size_t n, m;
    o.warm_steps = PD_WARM_CHOOSE;
    ck_ok(pd_calibrate(h.model, text, &o, &again, &r));
    ck_ok(pd_basis_write(b, &p, &n));
    ck_ok(pd_basis_write(again, &q, &m));
    ck_assert_uint_eq(n, m);
    ck_assert_mem_eq(p, q, n);
    free(p);
    free(q);
    pd_basis_free(b);
    pd_basis_free(again);
    pd_basis_free(none);
    pd_data_close(text);
    pd_data_close(held);
    house_close(&h);
}
END_TEST

/* From a layer on: nothing of the lower layers is in the basis, and the start adapter of the upper
 * ones alone teaches.
 */
START_TEST(upper_layers_alone) {
    house h = house_open(true);
    pd_data *text = choice_data(&h, 1, 24), *held = choice_data(&h, 50, 40);
    pd_calibrate_opts o = options(2, 4);
    pd_calibrate_report r;
    pd_basis *b;
    pd_loss loss;
    o.first_layer = 2;
    ck_ok(pd_calibrate(h.model, text, &o, &b, &r));
    ck_assert(b->first_layer == 2 && b->n_layers == 4);
    for (uint32_t m = 0; m < 4 * PD_TARGETS; m++)
        ck_assert((b->at[m].out > 0) == (m >= 2 * PD_TARGETS));
    ck_assert_double_lt(r.loss_start, r.loss_before);
    ck_assert_double_le(fabs(start_loss(&h, b, text, &loss) - r.loss_start), 1e-4);
    double after = start_loss(&h, b, held, &loss);
    pd_basis_free(b);
    o.warm_steps = 0;
    ck_ok(pd_calibrate(h.model, text, &o, &b, &r));
    double before = start_loss(&h, b, held, &loss);
    ck_assert_msg(after < 0.97 * before, "%g from %g", after, before);
    pd_basis_free(b);
    o.first_layer = 4;
    ck_assert_int_eq(pd_calibrate(h.model, text, &o, &b, &r), PD_EUSAGE);
    ck_assert_ptr_nonnull(strstr(pd_fail_text(), "no layer is left"));
    pd_data_close(text);
    pd_data_close(held);
    house_close(&h);
}
END_TEST

/* Going on: coordinates that were trained become part of the start, so that the new space at zero
 * is the old one at those coordinates, and the new basis holds the gradient there; ranks that add
 * up to more than a basis may hold are refused.
 */
START_TEST(going_on) {
    house h = house_open(true);
    const pd_model_info *info = pd_model_info_of(h.model);
    pd_data *text = choice_data(&h, 1, 24);
    pd_calibrate_opts o = options(2, 3);
    pd_calibrate_report r;
    pd_basis *b, *next;
    pd_space *s;
    pd_view *v;
    pd_bench bench;
    pd_loss loss;
    ck_ok(pd_calibrate(h.model, text, &o, &b, &r));
    pd_manifest m = manifest_of(PD_SPACE_ALIGNED, 2, ALL_TARGETS, info);
    float *a = malloc(m.n_coords * sizeof *a);
    pd_rng rng = {5};
    for (uint64_t i = 0; i < m.n_coords; i++)
        a[i] = (float)signed_uniform(&rng) / 4;
    pd_subset all = pd_subset_all(text);
    ck_ok(pd_space_open(&m, info, b, &s));
    ck_ok(pd_view_open(s, &v));
    pd_view_set_float(v, a);
    ck_ok(pd_bench_open(h.model, 512, 1, false, &bench));
    ck_ok(pd_evaluate(&bench, &all, pd_view_adapter(v), &loss));
    double there = pd_loss_mean(&loss), share;
    ck_assert_double_ge(fabs(there - start_loss(&h, b, text, &loss)), 1e-2);

    o.rank = 3;
    ck_ok(pd_calibrate_on(h.model, text, &o, b, a, &next, &r));
    ck_assert(next->r1 == 4 && next->r2 == 3);
    ck_assert_double_le(fabs(start_loss(&h, next, text, &loss) - there), 1e-4);
    ck_assert_double_le(fabs(r.loss_start - there), 1e-4);
    ck_ok(pd_basis_capture(h.model, text, next, 1024, &share));
    ck_assert_double_ge(share, 0.7);
    pd_basis_free(next);
    o.rank = PD_RANK_MAX - 3;
    ck_assert_int_eq(pd_calibrate_on(h.model, text, &o, b, a, &next, &r), PD_EUSAGE);

    free(a);
    pd_bench_close(&bench);
    pd_view_close(v);
    pd_space_close(s);
    pd_basis_free(b);
    pd_data_close(text);
    house_close(&h);
}
END_TEST

/* The basis of a text holds the gradient of that text: nearly all of it at the rank that the
 * gradient has (its rank is at most that of what flows back, a handful here), most of it at rank 1,
 * more with each rank; a random one holds next to nothing.
 */
START_TEST(captured_share) {
    static const uint32_t ranks[] = {1, 4, 16};
    house h = house_open(true);
    const pd_model_info *info = pd_model_info_of(h.model);
    pd_data *text = choice_data(&h, 1, 24), *like = choice_data(&h, 9, 24);
    double last = 0, share, of_like;
    for (int i = 0; i < 3; i++) {
        pd_calibrate_opts o = options(ranks[i], 0);
        pd_calibrate_report r;
        pd_basis *b;
        ck_ok(pd_calibrate(h.model, text, &o, &b, &r));
        ck_ok(pd_basis_capture(h.model, text, b, 1024, &share));
        ck_ok(pd_basis_capture(h.model, like, b, 1024, &of_like));
        ck_assert_msg(share > last && share < 1.02, "rank %u: %g", ranks[i], share);
        ck_assert_msg(of_like > 0.6 * share, "rank %u: %g of %g", ranks[i], of_like, share);
        last = share;
        pd_basis_free(b);
        ck_assert_double_ge(share, i ? 0.9 : 0.5);
    }
    ck_assert_double_ge(last, 0.98);
    pd_basis *random = random_basis(info, ALL_TARGETS, 0, 4, 1);
    ck_ok(pd_basis_capture(h.model, text, random, 1024, &share));
    ck_assert_double_le(share, 0.01);
    pd_basis_free(random);
    pd_data_close(text);
    pd_data_close(like);
    house_close(&h);
}
END_TEST

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* What D2 should be, from each record's gradient by itself: one over the root of the variance
 * between records, damped by a tenth of its median, and sum D2^2 var = sum var.  want (d), all
 * targets.
 */
static void scales_by_definition(const house *h, const pd_data *text, const pd_basis *b,
                                 double *want) {
    pd_manifest m = manifest_of(PD_SPACE_ALIGNED, b->r2, ALL_TARGETS, pd_model_info_of(h->model));
    size_t d = (size_t)m.n_coords, n = pd_data_count(text);
    pd_space *s;
    pd_view *v;
    pd_bench bench;
    ck_ok(pd_space_open(&m, pd_model_info_of(h->model), b, &s));
    ck_ok(pd_view_open(s, &v));
    ck_ok(pd_bench_open(h->model, 64, 1, true, &bench));
    float *grad = malloc(d * sizeof *grad);
    double *sum = calloc(4 * d, sizeof *sum), *square = sum + d, *var = sum + 2 * d,
           *sorted = sum + 3 * d, before = 0, after = 0;
    for (uint32_t i = 0; i < n; i++) {
        pd_subset one = {text, &i, 1};
        pd_loss loss;
        ck_ok(pd_space_gradient(&bench, &one, v, d, grad, &loss));
        for (size_t k = 0; k < d; k++) {
            sum[k] += (double)grad[k] / (double)n;
            square[k] += (double)grad[k] * (double)grad[k] / (double)n;
        }
    }
    for (size_t k = 0; k < d; k++)
        sorted[k] = var[k] = fmax(0, square[k] - sum[k] * sum[k]);
    qsort(sorted, d, sizeof *sorted, by_value);
    double damping = sorted[d / 2] / 10;
    for (size_t k = 0; k < d; k++) {
        before += var[k];
        after += var[k] / (var[k] + damping);
    }
    for (size_t k = 0; k < d; k++)
        want[k] = sqrt(before / after / (var[k] + damping));
    free(grad);
    free(sum);
    pd_bench_close(&bench);
    pd_view_close(v);
    pd_space_close(s);
}

START_TEST(scales) {
    house h = house_open(true);
    pd_data *text = choice_data(&h, 1, 22); /* the last batch is a small one */
    pd_calibrate_opts o = options(2, 3);
    pd_calibrate_report r;
    pd_basis *plain, *scaled;
    double want[4 * PD_TARGETS * 4]; /* 4 layers, rank 2 */
    o.max_tokens = 64;               /* several batches */
    o.whiten = 0;
    ck_ok(pd_calibrate(h.model, text, &o, &plain, &r));
    o.whiten = 1;
    ck_ok(pd_calibrate(h.model, text, &o, &scaled, &r));
    scales_by_definition(&h, text, plain, want);
    for (size_t k = 0; k < 4 * PD_TARGETS * 4; k++) {
        ck_assert(plain->at[k / 4].d2[k % 4] == 1);
        ck_assert_double_le(fabs((double)scaled->at[k / 4].d2[k % 4] - want[k]), 0.01 * want[k]);
    }
    ck_assert_mem_eq(plain->at[3].u2, scaled->at[3].u2, 2 * plain->at[3].out * sizeof(float));
    pd_basis_free(plain);
    pd_basis_free(scaled);
    pd_data_close(text);
    house_close(&h);
}
END_TEST

START_TEST(some_targets) {
    house h = house_open(true);
    pd_data *text = choice_data(&h, 1, 8);
    pd_calibrate_opts o = options(1, 2);
    pd_calibrate_report r;
    pd_basis *b;
    o.targets = 1u << PD_V | 1u << PD_UP;
    ck_ok(pd_calibrate(h.model, text, &o, &b, &r));
    for (uint32_t k = 0; k < b->n_layers * PD_TARGETS; k++)
        ck_assert((b->at[k].out > 0) == (k % PD_TARGETS == PD_V || k % PD_TARGETS == PD_UP));
    ck_assert_int_eq(r.warm_steps, 2);
    pd_basis_free(b);
    pd_data_close(text);
    house_close(&h);
}
END_TEST

START_TEST(misuse) {
    house h = house_open(true);
    pd_data *three = choice_data(&h, 1, 3), *text = choice_data(&h, 1, 8);
    pd_calibrate_report r;
    pd_basis *b = NULL;
    pd_calibrate_opts o = options(1, 0);
    ck_assert_int_eq(pd_calibrate(h.model, three, &o, &b, &r), PD_EUSAGE);
    o = options(0, 0);
    ck_assert_int_eq(pd_calibrate(h.model, text, &o, &b, &r), PD_EUSAGE);
    o = options(PD_RANK_MAX + 1, 0);
    ck_assert_int_eq(pd_calibrate(h.model, text, &o, &b, &r), PD_EUSAGE);
    o = options(PD_RANK_MAX, 1); /* both stages must fit */
    ck_assert_int_eq(pd_calibrate(h.model, text, &o, &b, &r), PD_EUSAGE);
    o = options(1, 0);
    o.groups = 0;
    ck_assert_int_eq(pd_calibrate(h.model, text, &o, &b, &r), PD_EUSAGE);
    o = options(1, PD_WARM_STEPS_MAX + 1);
    ck_assert_int_eq(pd_calibrate(h.model, text, &o, &b, &r), PD_EUSAGE);
    ck_assert_ptr_null(b);
    pd_data_close(three);
    pd_data_close(text);
    house_close(&h);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, jacobi);
    tcase_add_test(tc, subspace_iteration);
    tcase_add_test(tc, small_and_zero);
    tcase_add_test(tc, two_stages);
    tcase_add_test(tc, upper_layers_alone);
    tcase_add_test(tc, going_on);
    tcase_add_test(tc, captured_share);
    tcase_add_test(tc, scales);
    tcase_add_test(tc, some_targets);
    tcase_add_test(tc, misuse);
}

PD_TEST_MAIN("calibrate", 100)
