/* test_probe.c - the number that a byte stands for: the projected gradient against the exact one,
 * the constants read from a few probes, first-order steps beside it.
 *
 * On the small model of the tree with a made-up task.
 */
#include "peerd/byte.h"
#include "peerd/direction.h"
#include "peerd/probe.h"
#include "train.h"

#include <math.h>

enum { TOKENS = 512, RANK = 1 };

typedef struct subject {
    house h;
    pd_data *data;
    pd_subset all;
    pd_bench two, one;
    pd_manifest m;
    pd_basis *basis;
    pd_space *space;
    pd_prober prober;
    uint64_t d;
} subject;

static void open_from(subject *s, uint32_t first_layer) {
    *s = (subject){.h = house_open(true)};
    const pd_model_info *info = pd_model_info_of(s->h.model);
    s->data = choice_data(&s->h, 1, 16);
    s->all = pd_subset_all(s->data);
    ck_ok(pd_bench_open(s->h.model, TOKENS, 2, false, &s->two));
    ck_ok(pd_bench_open(s->h.model, TOKENS, 1, true, &s->one));
    s->m = manifest_of(PD_SPACE_ALIGNED, RANK, ALL_TARGETS, info);
    s->m.first_layer = first_layer;
    s->m.n_coords = pd_space_size(&s->m, info);
    s->basis = random_basis_of(info, first_layer, ALL_TARGETS, first_layer ? 2 : 0, RANK, 3);
    ck_ok(pd_space_open(&s->m, info, s->basis, &s->space));
    ck_ok(pd_prober_open(&s->two, s->space, &s->prober));
    s->d = s->m.n_coords;
}

static void open_subject(subject *s) {
    open_from(s, 0);
}

static void close_subject(subject *s) {
    pd_prober_close(&s->prober);
    pd_space_close(s->space);
    pd_basis_free(s->basis);
    pd_bench_close(&s->two);
    pd_bench_close(&s->one);
    pd_data_close(s->data);
    house_close(&s->h);
}

static void fill(subject *s) {
    size_t next = 0;
    ck_ok(pd_bench_fill(&s->two, &s->all, &next, 16));
    ck_assert_uint_eq(next, 16);
}

/* g is the derivative along z: (grad, z) up to eps^2, and the two losses are those of the two sides
 * evaluated alone.  At a place that is not the start.
 */
START_TEST(projected_gradient) {
    subject s;
    open_subject(&s);
    int32_t *a = calloc(s.d, sizeof *a);
    float *grad = malloc(s.d * sizeof *grad);
    uint8_t *bits = malloc((s.d + 7) / 8);
    pd_rng rng = {7};
    pd_loss loss;
    for (uint64_t i = 0; i < s.d; i++)
        a[i] = (int32_t)(signed_uniform(&rng) * (1 << 14)); /* +- 2^-6 */
    pd_view_set(s.prober.plus, a, NULL, 0);
    ck_ok(pd_space_gradient(&s.one, &s.all, s.prober.plus, s.d, grad, &loss));
    double length = 0;
    for (uint64_t i = 0; i < s.d; i++)
        length += (double)grad[i] * (double)grad[i];
    length = sqrt(length);
    ck_assert_double_gt(length, 0.01);
    for (int k = 0; k < 6; k++) {
        uint8_t seed[32] = {(uint8_t)k};
        double want = 0;
        pd_direction_signs(seed, bits, s.d);
        for (uint64_t i = 0; i < s.d; i++)
            want += bits[i / 8] >> (i % 8) & 1 ? (double)grad[i] : -(double)grad[i];
        pd_probe p;
        fill(&s);
        pd_probe_at(&s.prober, a, bits, 1e-2f, &p);
        ck_assert_msg(fabs(p.g - want) < 0.02 * length, "%g, exactly %g of %g", p.g, want, length);
        for (int side = 0; side < 2; side++) {
            pd_view_set(s.prober.plus, a, bits, side ? -1e-2f : 1e-2f);
            ck_ok(pd_evaluate(&s.one, &s.all, pd_view_adapter(s.prober.plus), &loss));
            double alone = pd_loss_mean(&loss), got = side ? p.minus : p.plus;
            ck_assert_double_le(fabs(alone - got), 1e-5 * (1 + alone));
        }
        ck_assert_double_le(fabs(p.g - (p.plus - p.minus) / (2 * (double)1e-2f)), 1e-9);
    }
    free(a);
    free(grad);
    free(bits);
    close_subject(&s);
}
END_TEST

/* Where the lower layers are left alone they are run once a batch; the losses and the bytes of its
 * probes are those of whole passes, batch after batch, or a byte would tell of another batch or of
 * another model.  The whole pass has 2 T rows below the stem where the stem has T, which may round
 * in another order: a processor where it does is allowed a last digit.
 */
START_TEST(lower_layers_once_a_batch) {
    enum { PROBES = 3 };
    const double SCALE = 1.0 / 256;
    for (uint32_t first = 1; first < 4; first++) {
        subject s;
        open_from(&s, first);
        ck_assert_uint_eq(pd_space_first_layer(s.space), first);
        uint8_t *bits = malloc((s.d + 7) / 8);
        int32_t *a = calloc(s.d, sizeof *a);
        size_t next = 0;
        while (next < s.all.n) {
            ck_ok(pd_bench_fill(&s.two, &s.all, &next, 5));
            for (uint32_t k = 0; k < PROBES; k++) {
                uint8_t seed[32] = {(uint8_t)next, (uint8_t)k};
                pd_direction_signs(seed, bits, s.d);
                pd_probe p;
                pd_probe_at(&s.prober, a, bits, 1e-2f, &p);
                const pd_adapter *sides[2] = {pd_view_adapter(s.prober.plus),
                                              pd_view_adapter(s.prober.minus)};
                pd_loss whole[2];
                pd_model_forward(s.h.model, s.two.work, s.two.batch, sides, 2, whole, NULL);
                double plus = pd_loss_mean(&whole[0]), minus = pd_loss_mean(&whole[1]);
                ck_assert_double_eq_tol(p.plus, plus, 1e-6 * plus);
                ck_assert_double_eq_tol(p.minus, minus, 1e-6 * minus);
                ck_assert(fabs(p.plus - p.minus) > 1e-5 * plus);
                int byte = pd_byte_encode(p.g, SCALE, 0.5),
                    want = pd_byte_encode((plus - minus) / (2 * (double)1e-2f), SCALE, 0.5);
                ck_assert_msg(byte == want || (p.plus != plus && abs(byte - want) == 1),
                              "byte %d, not %d", byte, want);
                for (uint64_t i = 0; i < s.d; i++)
                    a[i] += pd_direction_sign(bits, i) * 100;
            }
        }
        free(a);
        free(bits);
        close_subject(&s);
    }
}
END_TEST

/* A place where the model gives no numbers makes no gradient either, whatever the sign. */
START_TEST(not_finite) {
    subject s;
    open_subject(&s);
    uint8_t *bits = calloc((s.d + 7) / 8, 1);
    pd_probe p;
    fill(&s);
    pd_probe_at(&s.prober, NULL, bits, 1e30f, &p);
    ck_assert(!isfinite(p.g));
    free(bits);
    close_subject(&s);
}
END_TEST

/* The proposal: finite, within its bounds, the same for a seed, and such that a step along one
 * direction does not overshoot that direction's minimum.
 */
START_TEST(proposal) {
    subject s;
    open_subject(&s);
    pd_proposal p, again;
    ck_ok(pd_propose(&s.prober, &s.all, 6, 8, 5, &p));
    ck_ok(pd_propose(&s.prober, &s.all, 6, 8, 5, &again));
    ck_assert(p.loss == again.loss && p.lr == again.lr && p.scale == again.scale);
    ck_assert_uint_eq(p.probes, 6);
    ck_assert(p.eps >= 1e-4 && p.eps <= 0.1);
    ck_assert(p.loss > 0.1 && p.loss < 5);
    ck_assert(isfinite(p.curvature) && p.spread > 0);
    ck_assert(p.lr > 0 && p.lr * fmax(p.curvature, 1e-6) < 1);
    ck_assert_double_ge(p.scale * 2048, 2 * p.spread); /* ordinary gradients are not clipped */
    close_subject(&s);
}
END_TEST

/* Batches end where the next example does not fit, lose none and repeat none; one that can never
 * fit is named.
 */
START_TEST(batches_lose_nothing) {
    subject s;
    open_subject(&s);
    uint32_t longest = pd_data_longest(s.data), order[16];
    pd_bench b;
    for (uint32_t i = 0; i < 16; i++)
        order[i] = 15 - i;
    pd_subset back = {s.data, order, 16};
    ck_ok(pd_bench_open(s.h.model, longest + 3, 1, false, &b));
    size_t next = 0, batches = 0;
    while (next < back.n) {
        size_t before = next;
        ck_ok(pd_bench_fill(&b, &back, &next, 3));
        ck_assert(next > before && next - before <= 3);
        ck_assert_uint_eq(pd_batch_examples(b.batch), next - before);
        batches++;
    }
    ck_assert_uint_ge(batches, 6);
    pd_loss whole, parts;
    ck_ok(pd_evaluate(&s.one, &s.all, NULL, &whole));
    ck_ok(pd_evaluate(&b, &back, NULL, &parts));
    ck_assert(whole.units == 16 && parts.units == 16 && whole.correct == parts.correct);
    ck_assert_double_le(fabs(whole.sum - parts.sum), 1e-4 * whole.sum);
    pd_bench_close(&b);
    ck_ok(pd_bench_open(s.h.model, longest - 1, 1, false, &b));
    ck_assert_int_eq(pd_evaluate(&b, &s.all, NULL, &parts), PD_EUSAGE);
    ck_assert_ptr_nonnull(strstr(pd_fail_text(), "tokens"));
    pd_bench_close(&b);
    pd_bench_close(NULL);
    close_subject(&s);
}
END_TEST

/* The gradient does not depend on how the data falls into batches. */
START_TEST(gradient_over_batches) {
    subject s;
    open_subject(&s);
    float *whole = malloc(s.d * sizeof *whole), *parts = malloc(s.d * sizeof *parts);
    pd_bench small;
    pd_loss loss;
    ck_ok(pd_bench_open(s.h.model, pd_data_longest(s.data) * 2, 1, true, &small));
    ck_ok(pd_space_gradient(&s.one, &s.all, s.prober.plus, s.d, whole, &loss));
    ck_ok(pd_space_gradient(&small, &s.all, s.prober.plus, s.d, parts, &loss));
    double diff = 0, all = 0;
    for (uint64_t i = 0; i < s.d; i++) {
        diff += pow((double)(whole[i] - parts[i]), 2);
        all += pow((double)whole[i], 2);
    }
    ck_assert_msg(sqrt(diff) < 1e-3 * sqrt(all), "%g of %g", sqrt(diff), sqrt(all));
    free(whole);
    free(parts);
    pd_bench_close(&small);
    close_subject(&s);
}
END_TEST

/* Adam against the recurrences of its paper, written out for two coordinates in double precision.
 */
START_TEST(adam) {
    pd_adam a;
    double m[2] = {0}, v[2] = {0}, c[2] = {0};
    ck_ok(pd_adam_open(2, 0.01f, &a));
    for (int t = 1; t <= 50; t++) {
        for (int i = 0; i < 2; i++) {
            double g = (i ? 3e-3 : 40.0) * cos(t * (i + 0.7));
            a.grad[i] = (float)g;
            m[i] = 0.9 * m[i] + 0.1 * g;
            v[i] = 0.999 * v[i] + 0.001 * g * g;
            c[i] -= 0.01 * (m[i] / (1 - pow(0.9, t))) / (sqrt(v[i] / (1 - pow(0.999, t))) + 1e-8);
        }
        pd_adam_step(&a);
        for (int i = 0; i < 2; i++)
            ck_assert_double_le(fabs((double)a.c[i] - c[i]), 1e-4 * (0.01 + fabs(c[i])));
    }
    pd_adam_close(&a);
    pd_adam_close(NULL);
}
END_TEST

/* And it learns: the loss of the task falls in a random space, on data it has not seen as well. */
START_TEST(fit_learns) {
    subject s;
    open_subject(&s);
    pd_data *held = choice_data(&s.h, 99, 24);
    pd_subset unseen = pd_subset_all(held);
    pd_loss before, after, loss;
    pd_adam a;
    ck_ok(pd_adam_open(s.d, 5e-2f, &a));
    ck_ok(pd_evaluate(&s.one, &unseen, NULL, &before));
    for (int i = 0; i < 25; i++) {
        pd_view_set_float(s.prober.plus, a.c);
        ck_ok(pd_space_gradient(&s.one, &s.all, s.prober.plus, s.d, a.grad, &loss));
        pd_adam_step(&a);
    }
    pd_view_set_float(s.prober.plus, a.c);
    ck_ok(pd_evaluate(&s.one, &unseen, pd_view_adapter(s.prober.plus), &after));
    ck_assert_double_lt(pd_loss_mean(&after), 0.9 * pd_loss_mean(&before));
    pd_adam_close(&a);
    pd_data_close(held);
    close_subject(&s);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, projected_gradient);
    tcase_add_test(tc, lower_layers_once_a_batch);
    tcase_add_test(tc, not_finite);
    tcase_add_test(tc, proposal);
    tcase_add_test(tc, batches_lose_nothing);
    tcase_add_test(tc, gradient_over_batches);
    tcase_add_test(tc, adam);
    tcase_add_test(tc, fit_learns);
}

PD_TEST_MAIN("probe", 100)
