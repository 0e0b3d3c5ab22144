/* test_grad.c - reverse mode against central differences of a second transformer, written here in
 * double precision.
 *
 * The second one is as plain as can be (no packing, no blocks, one sequence at a time), so it is
 * also the check of the forward pass with adapters and with every kind of loss, which the reference
 * vectors do not have.
 */
#include "gguf_writer.h"
#include "peerd/model.h"
#include "test.h"

#include <math.h>
#include <string.h>

enum { L = 2, ROWS_MAX = 200, RANK = 3 };

typedef struct micro { /* a tiny model, its parameters in double and in a file */
    uint32_t c, f, h, kv, hd, rot, v;
    bool tied;
    double *w[L][PD_TARGETS]; /* (out, in) */
    double *attn_norm[L], *ffn_norm[L], *out_norm, *embed, *head;
    double *down[L][PD_TARGETS], *up[L][PD_TARGETS]; /* adapter, or NULL */
    char path[64];
} micro;

static uint64_t seed = 1;
static double uniform(void) { /* -1 .. 1, and exactly a float */
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(float)((double)(seed >> 33) / (double)(1u << 30) - 1.0);
}
static double *fill(size_t n, double scale, double shift) {
    double *p = malloc(n * sizeof *p);
    for (size_t i = 0; i < n; i++)
        p[i] = (double)(float)(uniform() * scale + shift);
    return p;
}

static void shape(const micro *m, pd_target t, uint32_t *out, uint32_t *in) {
    pd_model_info i = {
        .width = m->c, .ff = m->f, .n_heads = m->h, .n_kv_heads = m->kv, .head_width = m->hd};
    pd_model_shape(&i, t, out, in);
}

static float *floats(const double *p, size_t n) {
    float *f = malloc(n * sizeof *f);
    for (size_t i = 0; i < n; i++)
        f[i] = (float)p[i];
    return f;
}

static void put(gw *g, const char *name, uint32_t cols, uint32_t rows, const double *p) {
    size_t n = (size_t)cols * (rows ? rows : 1);
    uint64_t dims[2] = {cols, rows};
    float *f = floats(p, n);
    gw_tensor(g, name, 0, rows ? 2 : 1, dims, f, n * sizeof *f);
    free(f);
}

static void save(micro *m) {
    static const char *const names[PD_TARGETS] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                                  "ffn_gate", "ffn_up", "ffn_down"};
    gw g = gw_new();
    gw_str(&g, "general.architecture", "llama");
    gw_u32(&g, "llama.block_count", L);
    gw_u32(&g, "llama.embedding_length", m->c);
    gw_u32(&g, "llama.feed_forward_length", m->f);
    gw_u32(&g, "llama.context_length", 64);
    gw_u32(&g, "llama.attention.head_count", m->h);
    gw_u32(&g, "llama.attention.head_count_kv", m->kv);
    gw_u32(&g, "llama.attention.key_length", m->hd);
    gw_u32(&g, "llama.rope.dimension_count", m->rot);
    gw_f32(&g, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    put(&g, "token_embd.weight", m->c, m->v, m->embed);
    put(&g, "output_norm.weight", m->c, 0, m->out_norm);
    if (!m->tied)
        put(&g, "output.weight", m->c, m->v, m->head);
    for (int l = 0; l < L; l++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.attn_norm.weight", l);
        put(&g, name, m->c, 0, m->attn_norm[l]);
        snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", l);
        put(&g, name, m->c, 0, m->ffn_norm[l]);
        for (int t = 0; t < PD_TARGETS; t++) {
            uint32_t out, in;
            shape(m, t, &out, &in);
            snprintf(name, sizeof name, "blk.%d.%s.weight", l, names[t]);
            put(&g, name, in, out, m->w[l][t]);
        }
    }
    snprintf(m->path, sizeof m->path, "/tmp/pd-micro-XXXXXX");
    close(mkstemp(m->path));
    gw_save(&g, m->path);
}

static micro make(bool tied, bool adapted, uint32_t vocab) {
    micro m = {.c = 20, .f = 28, .h = 4, .kv = 2, .hd = 6, .rot = 4, .v = vocab, .tied = tied};
    m.embed = fill((size_t)m.v * m.c, 1.0, 0.0);
    m.head = tied ? m.embed : fill((size_t)m.v * m.c, 0.7, 0.0);
    m.out_norm = fill(m.c, 0.3, 1.0);
    for (int l = 0; l < L; l++) {
        m.attn_norm[l] = fill(m.c, 0.3, 1.0);
        m.ffn_norm[l] = fill(m.c, 0.3, 1.0);
        for (int t = 0; t < PD_TARGETS; t++) {
            uint32_t out, in;
            shape(&m, t, &out, &in);
            m.w[l][t] = fill((size_t)out * in, 0.5, 0.0);
            m.down[l][t] = adapted ? fill((size_t)RANK * in, 0.3, 0.0) : NULL;
            m.up[l][t] = adapted ? fill((size_t)RANK * out, 0.3, 0.0) : NULL;
        }
    }
    save(&m);
    return m;
}

static void drop(micro *m) {
    unlink(m->path);
    if (!m->tied)
        free(m->head);
    free(m->embed);
    free(m->out_norm);
    for (int l = 0; l < L; l++) {
        free(m->attn_norm[l]);
        free(m->ffn_norm[l]);
        for (int t = 0; t < PD_TARGETS; t++) {
            free(m->w[l][t]);
            free(m->down[l][t]);
            free(m->up[l][t]);
        }
    }
}

/* ---- the plain transformer ---- */

static void apply(const micro *m, int l, pd_target t, const double *x, double *y) {
    uint32_t out, in;
    shape(m, t, &out, &in);
    for (uint32_t o = 0; o < out; o++) {
        y[o] = 0.0;
        for (uint32_t i = 0; i < in; i++)
            y[o] += m->w[l][t][o * in + i] * x[i];
    }
    for (int k = 0; k < RANK && m->down[l][t]; k++) {
        double a = 0.0;
        for (uint32_t i = 0; i < in; i++)
            a += m->down[l][t][(uint32_t)k * in + i] * x[i];
        for (uint32_t o = 0; o < out; o++)
            y[o] += m->up[l][t][(uint32_t)k * out + o] * a;
    }
}

static void rms(const micro *m, const double *x, const double *w, double *y) {
    double s = 0.0;
    for (uint32_t i = 0; i < m->c; i++)
        s += x[i] * x[i];
    s = 1.0 / sqrt(s / m->c + (double)1e-5f);
    for (uint32_t i = 0; i < m->c; i++)
        y[i] = x[i] * s * w[i];
}

static void rope(const micro *m, double *x, uint32_t heads, uint32_t pos) {
    for (uint32_t h = 0; h < heads; h++)
        for (uint32_t i = 0; i < m->rot; i += 2) {
            double a = pos * pow(10000.0, -(double)i / m->rot), *p = x + h * m->hd + i;
            double re = p[0] * cos(a) - p[1] * sin(a), im = p[0] * sin(a) + p[1] * cos(a);
            p[0] = re, p[1] = im;
        }
}

static void attend(const micro *m, const double *q, double (*k)[64], double (*v)[64], uint32_t t,
                   double *out) {
    for (uint32_t h = 0; h < m->h; h++) {
        uint32_t at = h / (m->h / m->kv) * m->hd;
        double p[64], max = -INFINITY, sum = 0.0;
        for (uint32_t j = 0; j <= t; j++) {
            p[j] = 0.0;
            for (uint32_t d = 0; d < m->hd; d++)
                p[j] += q[h * m->hd + d] * k[j][at + d] / sqrt(m->hd);
            max = fmax(max, p[j]);
        }
        for (uint32_t j = 0; j <= t; j++)
            sum += p[j] = exp(p[j] - max);
        for (uint32_t d = 0; d < m->hd; d++) {
            out[h * m->hd + d] = 0.0;
            for (uint32_t j = 0; j <= t; j++)
                out[h * m->hd + d] += p[j] / sum * v[j][at + d];
        }
    }
}

/* Final normed rows of one sequence. */
static void plain(const micro *m, const uint32_t *ids, uint32_t n, double (*out)[64]) {
    static double x[64][64], q[64][64], k[64][64], v[64][64];
    for (uint32_t t = 0; t < n; t++)
        memcpy(x[t], m->embed + (size_t)ids[t] * m->c, m->c * sizeof(double));
    for (int l = 0; l < L; l++) {
        double h[64], y[64], g[64], u[64];
        for (uint32_t t = 0; t < n; t++) {
            rms(m, x[t], m->attn_norm[l], h);
            apply(m, l, PD_Q, h, q[t]);
            apply(m, l, PD_K, h, k[t]);
            apply(m, l, PD_V, h, v[t]);
            rope(m, q[t], m->h, t);
            rope(m, k[t], m->kv, t);
        }
        for (uint32_t t = 0; t < n; t++) {
            attend(m, q[t], k, v, t, h);
            apply(m, l, PD_O, h, y);
            for (uint32_t i = 0; i < m->c; i++)
                x[t][i] += y[i];
            rms(m, x[t], m->ffn_norm[l], h);
            apply(m, l, PD_GATE, h, g);
            apply(m, l, PD_UP, h, u);
            for (uint32_t i = 0; i < m->f; i++)
                g[i] = g[i] / (1.0 + exp(-g[i])) * u[i];
            apply(m, l, PD_DOWN, g, y);
            for (uint32_t i = 0; i < m->c; i++)
                x[t][i] += y[i];
        }
    }
    for (uint32_t t = 0; t < n; t++)
        rms(m, x[t], m->out_norm, out[t]);
}

static double logit(const micro *m, const double *h, uint32_t id) {
    double s = 0.0;
    for (uint32_t i = 0; i < m->c; i++)
        s += m->head[(size_t)id * m->c + i] * h[i];
    return s;
}

static double log_sum(const double *x, uint32_t n) {
    double max = -INFINITY, sum = 0.0;
    for (uint32_t i = 0; i < n; i++)
        max = fmax(max, x[i]);
    for (uint32_t i = 0; i < n; i++)
        sum += exp(x[i] - max);
    return max + log(sum);
}

/* Losses of one example's units; returns their number. */
static uint32_t plain_losses(const micro *m, const pd_example *e, double *loss) {
    static double rows[64][64], all[8192];
    double choice[16] = {0};
    uint32_t at = 0, units = 0;
    for (uint32_t s = 0; s < e->n_seqs; s++) {
        uint32_t n = e->seq_len[s];
        plain(m, e->ids + at, n, rows);
        for (uint32_t t = 1; t < n && e->scored; t++) {
            if (!e->scored[at + t])
                continue;
            for (uint32_t i = 0; i < m->v; i++)
                all[i] = logit(m, rows[t - 1], i);
            double logp = all[e->ids[at + t]] - log_sum(all, m->v);
            if (e->kind == PD_EXAMPLE_NLL)
                loss[units++] = -logp;
            else
                choice[s] += logp;
        }
        for (uint32_t i = 0; e->choice_ids && i < e->n_choices; i++)
            choice[i] = logit(m, rows[n - 1], e->choice_ids[i]);
        at += n;
    }
    if (e->kind == PD_EXAMPLE_CHOICE)
        loss[units++] = log_sum(choice, e->n_choices) - choice[e->answer];
    return units;
}

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
