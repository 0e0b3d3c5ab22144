/* test_project.c - bytes from a gradient: each is what the definition of a projected gradient says,
 * and nothing of a gradient is lost between what was sent and what is kept.
 *
 * On the small model of the tree with a made-up task, in every kind of space.
 */
#include "peerd/byte.h"
#include "peerd/direction.h"
#include "peerd/probe.h"
#include "peerd/project.h"
#include "train.h"

#include <math.h>

enum { TOKENS = 512 };
static const pd_space_kind kinds[] = {PD_SPACE_ALIGNED, PD_SPACE_LORA, PD_SPACE_FULL};

typedef struct subject {
    house h;
    pd_data *data;
    pd_subset all;
    pd_bench two, one;
    pd_manifest m;
    pd_basis *basis;
    pd_space *space;
    pd_projector p;
    uint64_t d;
    int32_t *a; /* a place that is not the start, +- 2^-6; 2^-10 where all matrices move */
    uint8_t *bits;
} subject;

static void open_subject(subject *s, pd_space_kind kind) {
    *s = (subject){.h = house_open(true)};
    const pd_model_info *info = pd_model_info_of(s->h.model);
    pd_rng rng = {7};
    s->data = choice_data(&s->h, 1, 16);
    s->all = pd_subset_all(s->data);
    ck_ok(pd_bench_open(s->h.model, TOKENS, 2, false, &s->two));
    ck_ok(pd_bench_open(s->h.model, TOKENS, 1, true, &s->one));
    s->m = manifest_of(kind, 1, ALL_TARGETS, info);
    if (kind == PD_SPACE_ALIGNED)
        s->basis = random_basis(info, ALL_TARGETS, 0, 1, 3);
    ck_ok(pd_space_open(&s->m, info, s->basis, &s->space));
    ck_ok(pd_projector_open(&s->one, s->space, &s->m, &s->p));
    s->d = s->m.n_coords;
    s->a = malloc(s->d * sizeof *s->a);
    s->bits = malloc((s->d + 7) / 8);
    for (uint64_t i = 0; i < s->d; i++)
        s->a[i] = (int32_t)(signed_uniform(&rng) * (kind == PD_SPACE_FULL ? 1 << 10 : 1 << 14));
}

static void close_subject(subject *s) {
    free(s->a);
    free(s->bits);
    pd_projector_close(&s->p);
    pd_projector_close(NULL);
    pd_space_close(s->space);
    pd_basis_free(s->basis);
    pd_bench_close(&s->two);
    pd_bench_close(&s->one);
    pd_data_close(s->data);
    house_close(&s->h);
}

static void direction(subject *s, int k) {
    uint8_t seed[32] = {(uint8_t)k, (uint8_t)(k >> 8)};
    pd_direction_signs(seed, s->bits, s->d);
}

static double length(const float *x, uint64_t n) {
    double sum = 0;
    for (uint64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

/* The gradient where the node stands. */
static void take(subject *s) {
    pd_loss loss;
    pd_project_begin(&s->p, s->a);
    ck_ok(pd_project_step(&s->p, &s->all, 0, &loss));
    ck_assert(isfinite(loss.sum) && loss.units == 16);
    ck_assert(pd_project_end(&s->p));
}

/* A node that probes and one that projects have to mean the same number: the exact projection is
 * the central difference, up to its eps^2. */
START_TEST(is_the_central_difference) {
    static const float distance[] = {1e-2f, 1e-3f, 1e-3f};
    subject s;
    open_subject(&s, kinds[_i]);
    pd_prober prober;
    ck_ok(pd_prober_open(&s.two, s.space, &prober));
    take(&s);
    double norm = length(s.p.sum, s.d);
    ck_assert_double_gt(norm, 0.01);
    for (int k = 0; k < 6; k++) {
        pd_probe probe;
        size_t next = 0;
        direction(&s, k);
        ck_ok(pd_bench_fill(&s.two, &s.all, &next, 16));
        pd_probe_at(&prober, s.a, s.bits, distance[_i], &probe);
        double g = pd_project_on(&s.p, s.bits);
        ck_assert_msg(fabs(g - probe.g) < 0.02 * norm, "%g, probed %g, of %g", g, probe.g, norm);
    }
    pd_prober_close(&prober);
    close_subject(&s);
}
END_TEST

/* What bytes could not say must not be lost, however coarse and clamped they are:
 * sum of sent z + R = sum of G, one a record. */
START_TEST(nothing_is_lost) {
    subject s;
    open_subject(&s, kinds[_i]);
    double *wanted = calloc(2 * s.d, sizeof *wanted), *sent = wanted + s.d;
    pd_rng rng = {11};
    uint32_t clamped = 0;
    for (int k = 0; k < 60; k++) {
        if (k % 20 == 0) {
            s.a[(uint64_t)k % s.d] += 1 << 18;
            take(&s);
        }
        direction(&s, k);
        double g = pd_project_on(&s.p, s.bits), scale = length(s.p.sum, s.d) / 2048;
        uint8_t byte = pd_byte_encode(g, scale, pd_rng_uniform(&rng));
        double says = pd_byte_value(byte) * scale;
        clamped += (byte & 0x7f) == 127;
        pd_project_sent(&s.p, s.bits, says);
        for (uint64_t i = 0; i < s.d; i++) {
            wanted[i] += (double)s.p.sum[i];
            sent[i] += pd_direction_sign(s.bits, i) * says;
        }
    }
    ck_assert_uint_gt(clamped, 2);
    double most = 0, worst = 0;
    for (uint64_t i = 0; i < s.d; i++) {
        most = fmax(most, fmax(fabs(wanted[i]), fabs(sent[i])));
        worst = fmax(worst, fabs(sent[i] + (double)s.p.residual[i] - wanted[i]));
    }
    ck_assert_msg(worst < 60 * 1e-6 * most, "%g of %g", worst, most);
    ck_assert_double_gt(length(s.p.residual, s.d), 0);
    pd_project_forget(&s.p);
    ck_assert_double_eq(length(s.p.residual, s.d), 0);
    free(wanted);
    close_subject(&s);
}
END_TEST

/* The rest is sent: what is kept of one gradient, sent on and on, stays bounded by about d |G|;
 * never sent, it would grow as the square root of the records. */
START_TEST(the_rest_stays_bounded) {
    subject s;
    open_subject(&s, PD_SPACE_ALIGNED);
    double size[2];
    take(&s);
    for (int feedback = 0; feedback < 2; feedback++) {
        s.p.feedback = feedback;
        pd_project_forget(&s.p);
        for (int k = 0; k < 60 * (int)s.d; k++) {
            direction(&s, k);
            pd_project_sent(&s.p, s.bits, pd_project_on(&s.p, s.bits));
        }
        size[feedback] = length(s.p.residual, s.d) / length(s.p.sum, s.d) / (double)s.d;
    }
    ck_assert_msg(size[1] < 2.5 && size[0] > 1.5 * size[1], "%g, %g without", size[1], size[0]);
    close_subject(&s);
}
END_TEST

/* Local steps: the mean of the gradients along the way. */
START_TEST(local_steps) {
    subject s;
    open_subject(&s, kinds[_i]);
    float *at = malloc(3 * s.d * sizeof *at), *first = at + s.d, *second = first + s.d;
    pd_view *view;
    pd_loss loss, was;
    const double rate = kinds[_i] == PD_SPACE_FULL ? 1e-4 : 0.05;
    ck_ok(pd_view_open(s.space, &view));
    for (uint64_t i = 0; i < s.d; i++)
        at[i] = ldexpf((float)s.a[i], -(int)s.m.unit_bits);
    pd_view_set_float(view, at);
    ck_ok(pd_space_gradient(&s.one, &s.all, view, s.d, first, &was));
    for (uint64_t i = 0; i < s.d; i++)
        at[i] -= (float)rate * first[i];
    pd_view_set_float(view, at);
    ck_ok(pd_space_gradient(&s.one, &s.all, view, s.d, second, &loss));
    ck_assert_double_lt(loss.sum, was.sum);
    pd_project_begin(&s.p, s.a);
    ck_ok(pd_project_step(&s.p, &s.all, rate, &loss));
    ck_assert_double_le(fabs(loss.sum - was.sum), 1e-6 * was.sum);
    ck_ok(pd_project_step(&s.p, &s.all, rate, &loss));
    ck_assert(pd_project_end(&s.p));
    double norm = length(first, s.d);
    for (uint64_t i = 0; i < s.d; i++)
        ck_assert_double_le(fabs((double)(s.p.sum[i] - (first[i] + second[i]) / 2)), 1e-5 * norm);
    pd_view_close(view);
    free(at);
    close_subject(&s);
}
END_TEST

/* Where the model gives no numbers there is no gradient: a step too far does not count, and with no
 * step that does nothing is to be sent. */
START_TEST(not_finite) {
    subject s;
    open_subject(&s, PD_SPACE_ALIGNED);
    pd_loss loss;
    take(&s);
    double g;
    direction(&s, 1);
    g = pd_project_on(&s.p, s.bits);
    pd_project_begin(&s.p, s.a);
    ck_ok(pd_project_step(&s.p, &s.all, 1e30, &loss));
    ck_ok(pd_project_step(&s.p, &s.all, 1e30, &loss));
    ck_assert(!isfinite(loss.sum));
    ck_assert(pd_project_end(&s.p));
    ck_assert_double_le(fabs(pd_project_on(&s.p, s.bits) - g), 1e-5 * fabs(g));
    pd_project_begin(&s.p, s.a);
    ck_assert(!pd_project_end(&s.p));
    close_subject(&s);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_loop_test(tc, is_the_central_difference, 0, 3);
    tcase_add_loop_test(tc, nothing_is_lost, 0, 3);
    tcase_add_test(tc, the_rest_stays_bounded);
    tcase_add_loop_test(tc, local_steps, 0, 3);
    tcase_add_test(tc, not_finite);
}

PD_TEST_MAIN("project", 100)
