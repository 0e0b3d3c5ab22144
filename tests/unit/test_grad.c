/* test_grad.c - reverse mode against central differences of a second transformer, written here in
 * double precision.
 *
 * The second one is as plain as can be (no packing, no blocks, one sequence at a time), so it is
 * also the check of the forward pass with adapters and with every kind of loss, which the reference
 * vectors do not have.
 */
#include "micro.h"
#include "test.h"

enum { ROWS_MAX = 200 };

/* ---- the examples: text, a completion, wide choices, one-token choices ---- */

enum { EXAMPLES = 5, IDS = 64 };
typedef struct set {
    uint32_t ids[EXAMPLES][IDS], lens[EXAMPLES][4], choices[3];
    uint8_t scored[EXAMPLES][IDS];
    pd_example e[EXAMPLES];
} set;

static void make_set(const micro *m, set *s) {
    static const uint32_t lens[EXAMPLES][3] = {{37}, {9}, {6, 7, 5}, {11}, {1}};
    *s = (set){0};
    for (int i = 0; i < EXAMPLES; i++)
        for (int j = 0; j < IDS; j++) {
            s->ids[i][j] = (uint32_t)((uniform() * 0.5 + 0.5) * (m->v - 1));
            s->scored[i][j] = i == 0 || (i == 1 && j > 4);
        }
    for (int i = 0; i < 3; i++)
        s->choices[i] = (uint32_t)(3 + 5 * i);
    for (int i = 0; i < EXAMPLES; i++) {
        uint32_t n = 0, seqs = 0;
        for (int j = 0; j < 3; j++) {
            s->lens[i][j] = lens[i][j];
            if (i == 2)
                for (uint32_t t = 4; t < lens[i][j]; t++)
                    s->scored[i][n + t] = 1;
            n += lens[i][j];
            seqs += lens[i][j] > 0;
        }
        s->e[i] = (pd_example){.kind = i < 2 ? PD_EXAMPLE_NLL : PD_EXAMPLE_CHOICE,
                               .n_seqs = seqs,
                               .seq_len = s->lens[i],
                               .ids = s->ids[i],
                               .scored = i > 2 ? NULL : s->scored[i],
                               .n_choices = i < 2 ? 0 : 3,
                               .answer = i == 2 ? 1 : 0,
                               .choice_ids = i > 2 ? s->choices : NULL,
                               .n_tokens = n};
    }
}

static double plain_mean(const micro *m, const set *s, const int *order, int n, float *units,
                         uint32_t *n_units) {
    double loss[128], sum = 0.0;
    uint32_t count = 0;
    for (int i = 0; i < n; i++) {
        uint32_t k = plain_losses(m, &s->e[order[i]], loss + count);
        for (uint32_t j = 0; j < k; j++)
            sum += loss[count + j];
        count += k;
    }
    for (uint32_t j = 0; j < count && units; j++)
        units[j] = (float)loss[j];
    if (n_units)
        *n_units = count;
    return sum / count;
}

/* ---- the engine's side ---- */

typedef struct grads {
    const micro *m;
    double *g[L][PD_TARGETS];
    int calls, last; /* calls must come in backward order */
} grads;

static void sink(void *ctx, uint32_t layer, pd_target t, uint32_t rows, const float *x,
                 const float *dy) {
    static const int order[PD_TARGETS] = {PD_DOWN, PD_UP, PD_GATE, PD_O, PD_V, PD_K, PD_Q};
    grads *g = ctx;
    uint32_t out, in;
    shape(g->m, t, &out, &in);
    ck_assert_int_eq((int)t, order[g->calls % PD_TARGETS]);
    ck_assert_int_eq((int)layer, L - 1 - g->calls / PD_TARGETS);
    g->calls++;
    g->g[layer][t] = calloc((size_t)out * in, sizeof(double));
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t o = 0; o < out; o++)
            for (uint32_t i = 0; i < in; i++)
                g->g[layer][t][o * in + i] += (double)dy[r * out + o] * (double)x[r * in + i];
}

static void free_grads(grads *g) {
    for (int l = 0; l < L; l++)
        for (int t = 0; t < PD_TARGETS; t++)
            free(g->g[l][t]);
}

typedef struct adapter_of {
    pd_lowrank at[L * PD_TARGETS];
    pd_adapter a;
} adapter_of;

static void make_adapter(const micro *m, adapter_of *a) {
    *a = (adapter_of){0};
    for (int l = 0; l < L; l++)
        for (int t = 0; t < PD_TARGETS; t++) {
            uint32_t out, in;
            shape(m, t, &out, &in);
            if (m->down[l][t])
                a->at[l * PD_TARGETS + t] = (pd_lowrank){RANK, floats(m->down[l][t], RANK * in),
                                                         floats(m->up[l][t], RANK * out)};
        }
    a->a.at = a->at;
}

static void drop_adapter(adapter_of *a) {
    for (int i = 0; i < L * PD_TARGETS; i++) {
        free((void *)(uintptr_t)a->at[i].down);
        free((void *)(uintptr_t)a->at[i].up);
    }
}

static pd_model *open_micro(const micro *m, pd_compute compute) {
    pd_gguf *g;
    pd_model *p;
    pd_model_opts o = {.compute = compute, .threads = 2, .backward = true};
    ck_assert_msg(pd_gguf_open(m->path, &g) == PD_OK, "%s", pd_fail_text());
    ck_assert_msg(pd_model_open(g, &o, &p) == PD_OK, "%s", pd_fail_text());
    pd_gguf_close(g);
    return p;
}

/* Loss and gradient of some of the examples by the engine. */
static double engine(const micro *m, pd_compute compute, const set *s, const int *order, int n,
                     grads *g, float *units) {
    pd_model *p = open_micro(m, compute);
    pd_work *w;
    pd_batch *b;
    pd_loss back, fwd;
    adapter_of a;
    make_adapter(m, &a);
    ck_assert_int_eq(pd_work_open(p, ROWS_MAX, 1, true, &w), PD_OK);
    ck_assert_int_eq(pd_batch_open(ROWS_MAX, EXAMPLES, &b), PD_OK);
    for (int i = 0; i < n; i++)
        ck_assert(pd_batch_add(b, &s->e[order[i]]));
    const pd_adapter *side = &a.a;
    pd_model_forward(p, w, b, &side, 1, &fwd, units);
    *g = (grads){.m = m};
    pd_model_backward(p, w, b, &a.a, sink, g, &back);
    ck_assert_int_eq(g->calls, L * PD_TARGETS);
    ck_assert_double_eq_tol(back.sum, fwd.sum, 1e-9);
    ck_assert_uint_eq(back.units, pd_batch_units(b));
    pd_batch_close(b);
    pd_work_close(w);
    pd_model_close(p);
    drop_adapter(&a);
    return pd_loss_mean(&back);
}

/* Central differences of `probes` elements of every matrix. */
static double compare(micro *m, const set *s, const int *order, int n, const grads *g, int probes) {
    const double eps = 1e-5;
    double worst = 0.0;
    for (int l = 0; l < L; l++)
        for (int t = 0; t < PD_TARGETS; t++) {
            uint32_t out, in;
            shape(m, t, &out, &in);
            double largest = 1e-12;
            for (uint32_t i = 0; i < out * in; i++)
                largest = fmax(largest, fabs(g->g[l][t][i]));
            for (int k = 0; k < probes; k++) {
                uint32_t i = (uint32_t)((uniform() * 0.5 + 0.5) * (out * in - 1));
                double *w = &m->w[l][t][i], old = *w;
                *w = old + eps;
                double plus = plain_mean(m, s, order, n, NULL, NULL);
                *w = old - eps;
                double minus = plain_mean(m, s, order, n, NULL, NULL);
                *w = old;
                double want = (plus - minus) / (2 * eps),
                       off = fabs(g->g[l][t][i] - want) / largest;
                ck_assert_msg(off < 1e-5, "layer %d %s element %u: %.8g, not %.8g", l,
                              pd_target_names[t], i, g->g[l][t][i], want);
                worst = fmax(worst, off);
            }
        }
    return worst;
}

static void check(bool tied, bool adapted, uint32_t vocab, const int *order, int n, int probes) {
    micro m = make(tied, adapted, vocab);
    set s;
    grads g;
    float ours[128], theirs[128];
    uint32_t units;
    make_set(&m, &s);
    double mean = engine(&m, PD_COMPUTE_F32, &s, order, n, &g, ours);
    double want = plain_mean(&m, &s, order, n, theirs, &units);
    ck_assert_double_eq_tol(mean, want, 1e-5 * want);
    for (uint32_t i = 0; i < units; i++)
        ck_assert_float_eq_tol(ours[i], theirs[i], 1e-4f);
    double worst = compare(&m, &s, order, n, &g, probes);
    printf(
        "tied %d adapter %d vocabulary %u examples %d from %d: loss %.6f, gradient off by %.1e\n",
        tied, adapted, vocab, n, order[0], want, worst);
    free_grads(&g);
    drop(&m);
}

static const int all[EXAMPLES] = {3, 0, 2, 1, 4};

START_TEST(gradient_is_exact_for_every_target_and_loss_together) {
    check(_i & 1, _i >> 1, 23, all, EXAMPLES, 6);
}
END_TEST

/* One kind alone, so that a wrong weight of one cannot hide behind the others. */
START_TEST(gradient_is_exact_for_each_kind_of_loss) {
    const int kinds[3] = {1, 2, 3};
    check(false, true, 23, &kinds[_i], 1, 6);
}
END_TEST

/* More than one slice of the head, the last one narrow. */
START_TEST(gradient_is_exact_across_slices_of_the_vocabulary) {
    const int some[2] = {1, 2};
    check(_i, false, 4099, some, 2, 1);
}
END_TEST

START_TEST(bf16_gradient_points_the_same_way) {
    micro m = make(true, true, 23);
    set s;
    grads exact, half;
    make_set(&m, &s);
    pd_gguf *g;
    pd_model *p;
    pd_model_opts o = {.compute = PD_COMPUTE_BF16};
    ck_assert_int_eq(pd_gguf_open(m.path, &g), PD_OK);
    pd_err e = pd_model_open(g, &o, &p);
    pd_gguf_close(g);
    if (e) {
        printf("skipped: %s\n", pd_fail_text());
        drop(&m);
        return;
    }
    pd_model_close(p);
    float units[128];
    engine(&m, PD_COMPUTE_F32, &s, all, EXAMPLES, &exact, units);
    engine(&m, PD_COMPUTE_BF16, &s, all, EXAMPLES, &half, units);
    for (int l = 0; l < L; l++)
        for (int t = 0; t < PD_TARGETS; t++) {
            uint32_t out, in;
            double ab = 0, aa = 0, bb = 0;
            shape(&m, t, &out, &in);
            for (uint32_t i = 0; i < out * in; i++) {
                double a = exact.g[l][t][i], b = half.g[l][t][i];
                ab += a * b, aa += a * a, bb += b * b;
            }
            ck_assert_double_gt(ab / sqrt(aa * bb), 0.995);
        }
    free_grads(&exact);
    free_grads(&half);
    drop(&m);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_loop_test(tc, gradient_is_exact_for_every_target_and_loss_together, 0, 4);
    tcase_add_loop_test(tc, gradient_is_exact_for_each_kind_of_loss, 0, 3);
    tcase_add_loop_test(tc, gradient_is_exact_across_slices_of_the_vocabulary, 0, 2);
    tcase_add_test(tc, bf16_gradient_points_the_same_way);
}

PD_TEST_MAIN("grad", 120)
