/* test_model.c - the transformer against another implementation's numbers (vectors/lm, made by
 * make_lm.py), and the ways a batch may be laid out, which must not matter.
 */
#include "../../src/lm/engine.h"
#include "micro.h"
#include "peerd/file.h"
#include "peerd/model.h"
#include "peerd/rng.h"
#include "test.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

enum { TOKENS_MAX = 1024, EXAMPLES_MAX = 64 };

typedef struct vector {
    uint32_t n, ids[TOKENS_MAX];
    double nll[TOKENS_MAX]; /* of ids[1..n) */
} vector;

/* Read the line's "ids_special" and "nll"; false at the file's end. */
static bool next_vector(FILE *f, vector *v) {
    static char line[1 << 17];
    if (!fgets(line, sizeof line, f))
        return false;
    cJSON *j = cJSON_Parse(line), *e;
    ck_assert(j != NULL);
    uint32_t n = 0, m = 1;
    cJSON_ArrayForEach(e, cJSON_GetObjectItem(j, "ids_special")) {
        ck_assert_uint_lt(n, TOKENS_MAX);
        v->ids[n++] = (uint32_t)e->valuedouble;
    }
    cJSON_ArrayForEach(e, cJSON_GetObjectItem(j, "nll")) v->nll[m++] = e->valuedouble;
    v->n = n;
    ck_assert(n < 2 || m == n);
    cJSON_Delete(j);
    return true;
}

static uint8_t all_scored[TOKENS_MAX];

static pd_example text_of(const vector *v) {
    memset(all_scored, 1, sizeof all_scored);
    return (pd_example){.kind = PD_EXAMPLE_NLL,
                        .n_seqs = 1,
                        .seq_len = &v->n,
                        .ids = v->ids,
                        .scored = all_scored,
                        .n_tokens = v->n};
}

static pd_model *open_model(const char *path, pd_compute compute, bool backward) {
    pd_gguf *g;
    pd_model *m;
    ck_assert_msg(pd_gguf_open(path, &g) == PD_OK, "%s", pd_fail_text());
    pd_model_opts o = {.compute = compute, .threads = 2, .backward = backward};
    ck_assert_msg(pd_model_open(g, &o, &m) == PD_OK, "%s", pd_fail_text());
    pd_gguf_close(g);
    return m;
}

/* The three public models; SmolLM2 is fetched by whoever wants it and named by PD_SMOLLM2. */
static const char *const vectors_of[] = {"tests/vectors/lm/house-2m.jsonl",
                                         "tests/vectors/lm/stories260K.jsonl",
                                         "tests/vectors/lm/smollm2-135m-q4_1.jsonl"};

/* Model i; NULL, saying so, where its file is missing. */
static const char *model_of(int i) {
    if (i == 0)
        return pd_test_path("examples/models/house-2m.gguf");
    if (i == 1)
        return pd_test_shared("data/stories260K/stories260K.gguf");
    const char *p = getenv("PD_SMOLLM2");
    if (!p)
        printf("skipped: PD_SMOLLM2 does not name SmolLM2's GGUF file\n");
    return p;
}

static void check_f32(const vector *v, const float *nll, double *worst) {
    for (uint32_t t = 1; t < v->n; t++) {
        double off = fabs(nll[t - 1] - v->nll[t]), room = 1e-3 + 1e-3 * fabs(v->nll[t]);
        ck_assert_msg(off <= room, "token %u: %.6f, not %.6f", t, (double)nll[t - 1], v->nll[t]);
        *worst = fmax(*worst, off / room);
    }
}

/* A mean over two tokens says little about rounding, so only texts are held to 2 %. */
static void check_bf16(const vector *v, const float *nll, double *worst) {
    double ours = 0.0, theirs = 0.0;
    for (uint32_t t = 1; t < v->n; t++) {
        ours += nll[t - 1];
        theirs += v->nll[t];
    }
    if (v->n < 10)
        return;
    double off = fabs(ours / theirs - 1.0);
    *worst = fmax(*worst, off);
    ck_assert_msg(off <= 0.02, "mean of %u tokens: %.4f, not %.4f", v->n, ours / v->n,
                  theirs / v->n);
}

static void parity(int i, pd_compute compute) {
    const char *path = model_of(i);
    if (!path)
        return;
    pd_model *m = open_model(path, compute, false);
    pd_work *w;
    pd_batch *b;
    ck_assert_int_eq(pd_work_open(m, TOKENS_MAX, 1, false, &w), PD_OK);
    ck_assert_int_eq(pd_batch_open(TOKENS_MAX, 1, &b), PD_OK);
    FILE *f = fopen(pd_test_path(vectors_of[i]), "r");
    ck_assert_ptr_nonnull(f);
    static vector v;
    static float nll[TOKENS_MAX];
    double worst = 0.0;
    while (next_vector(f, &v)) {
        pd_example e = text_of(&v);
        pd_loss loss;
        pd_batch_clear(b);
        ck_assert(pd_batch_add(b, &e));
        pd_model_forward(m, w, b, NULL, 1, &loss, nll);
        ck_assert_uint_eq(loss.units, v.n - 1);
        if (compute == PD_COMPUTE_F32)
            check_f32(&v, nll, &worst);
        else
            check_bf16(&v, nll, &worst);
    }
    printf("%s %s: worst %.3f%s\n", vectors_of[i], compute == PD_COMPUTE_F32 ? "f32" : "bf16",
           worst, compute == PD_COMPUTE_F32 ? " of the tolerance" : "");
    fclose(f);
    pd_batch_close(b);
    pd_work_close(w);
    pd_model_close(m);
}

START_TEST(every_nll_equals_the_reference_in_f32) {
    parity(_i, PD_COMPUTE_F32);
}
END_TEST

START_TEST(mean_nll_is_near_the_reference_in_bf16) {
    pd_gguf *g;
    pd_model *m;
    ck_assert_int_eq(pd_gguf_open(model_of(0), &g), PD_OK);
    pd_model_opts o = {.compute = PD_COMPUTE_BF16, .threads = 2};
    pd_err e = pd_model_open(g, &o, &m);
    pd_gguf_close(g);
    if (e == PD_EUNSUPPORTED) {
        printf("skipped: %s\n", pd_fail_text());
        return;
    }
    ck_assert_int_eq(e, PD_OK);
    pd_model_close(m);
    parity(_i, PD_COMPUTE_BF16);
}
END_TEST

/* ---- ways of laying out a batch ---- */

enum { SEQS = 7, SEQ_MAX = 600 };

typedef struct lot { /* sequences of random tokens, one longer than two blocks of keys */
    uint32_t len[SEQS], ids[SEQS][SEQ_MAX];
    pd_example e[SEQS];
} lot;

static void make_lot(lot *l, uint32_t vocab) {
    static const uint32_t lens[SEQS] = {5, 17, 1, 64, SEQ_MAX, 33, 130};
    pd_rng rng = {7};
    memset(all_scored, 1, sizeof all_scored);
    for (int i = 0; i < SEQS; i++) {
        l->len[i] = lens[i];
        for (uint32_t t = 0; t < lens[i]; t++)
            l->ids[i][t] = pd_rng_below(&rng, vocab);
        l->e[i] = (pd_example){.kind = PD_EXAMPLE_NLL,
                               .n_seqs = 1,
                               .seq_len = &l->len[i],
                               .ids = l->ids[i],
                               .scored = all_scored,
                               .n_tokens = lens[i]};
    }
}

typedef struct engine {
    micro mi;
    pd_model *m;
    pd_work *w;
    pd_batch *b;
    lot l;
} engine;

static void start(engine *e, unsigned sides, bool backward) {
    e->mi = make(true, false, 50);
    e->m = open_model(e->mi.path, PD_COMPUTE_F32, backward);
    ck_assert_int_eq(pd_work_open(e->m, TOKENS_MAX, sides, backward, &e->w), PD_OK);
    ck_assert_int_eq(pd_batch_open(TOKENS_MAX, EXAMPLES_MAX, &e->b), PD_OK);
    make_lot(&e->l, 50);
}

static void stop(engine *e) {
    pd_batch_close(e->b);
    pd_work_close(e->w);
    pd_model_close(e->m);
    drop(&e->mi);
}

/* A random adapter over every target; free_adapter gives back. */
static pd_adapter random_adapter(const pd_model *m, uint32_t rank, uint64_t from, float scale) {
    const pd_model_info *i = pd_model_info_of(m);
    pd_lowrank *at = calloc(i->n_layers * PD_TARGETS, sizeof *at);
    pd_rng rng = {from};
    for (uint32_t n = 0; n < i->n_layers * PD_TARGETS; n++) {
        uint32_t out, in;
        pd_model_shape(i, (pd_target)(n % PD_TARGETS), &out, &in);
        float *p = calloc((size_t)rank * (in + out), sizeof *p);
        for (uint32_t k = 0; k < rank * (in + out); k++)
            p[k] = scale * (float)(pd_rng_uniform(&rng) - 0.5);
        at[n] = (pd_lowrank){rank, p, p + (size_t)rank * in};
    }
    return (pd_adapter){.at = at};
}

static void free_adapter(const pd_model *m, pd_adapter *a) {
    for (uint32_t n = 0; n < pd_model_info_of(m)->n_layers * PD_TARGETS; n++)
        free((void *)(uintptr_t)a->at[n].down);
    free((void *)(uintptr_t)a->at);
}

/* A probe is the difference of two sides: if laying them side by side changed either, every byte
 * would be wrong. */
START_TEST(two_sides_in_one_traversal_equal_two_traversals) {
    static engine e;
    static float both[TOKENS_MAX], alone[TOKENS_MAX];
    start(&e, 2, false);
    pd_adapter a = random_adapter(e.m, 5, 1, 0.2f), b = random_adapter(e.m, 2, 2, 0.2f);
    const pd_adapter *sides[][2] = {{&a, &b}, {NULL, &b}, {&b, NULL}};
    for (int i = 0; i < SEQS; i++)
        ck_assert(pd_batch_add(e.b, &e.l.e[i]));
    for (int i = 0; i < 3; i++) {
        pd_loss two[2], one[2];
        pd_model_forward(e.m, e.w, e.b, sides[i], 2, two, both);
        pd_model_forward(e.m, e.w, e.b, &sides[i][1], 1, &one[1], alone);
        pd_model_forward(e.m, e.w, e.b, &sides[i][0], 1, &one[0], alone);
        for (uint32_t u = 0; u < pd_batch_units(e.b); u++)
            ck_assert_float_eq_tol(both[u], alone[u], 2e-5f);
        for (int s = 0; s < 2; s++)
            ck_assert_double_eq_tol(pd_loss_mean(&two[s]), pd_loss_mean(&one[s]), 1e-6);
        ck_assert(fabs(one[0].sum - one[1].sum) > 0.1);
    }
    free_adapter(e.m, &a);
    free_adapter(e.m, &b);
    stop(&e);
}
END_TEST

/* A stem serves all probes of its batch and none of the next: what it was made of has to be known.
 * Two layers, adapters that differ in the upper one alone.
 */
START_TEST(a_stem_is_of_one_batch) {
    static engine e;
    pd_stem *stem = NULL;
    pd_loss whole[2], part[2];
    start(&e, 2, false);
    pd_adapter a = random_adapter(e.m, 5, 1, 0.2f), b = random_adapter(e.m, 5, 2, 0.2f);
    pd_lowrank mixed[2 * PD_TARGETS];
    memcpy(mixed, a.at, PD_TARGETS * sizeof *mixed);
    memcpy(mixed + PD_TARGETS, b.at + PD_TARGETS, PD_TARGETS * sizeof *mixed);
    pd_adapter other = {.at = mixed};
    const pd_adapter *sides[2] = {&a, &other};
    ck_assert_int_eq(pd_stem_open(e.m, TOKENS_MAX, 1, &stem), PD_OK);
    for (int i = 0; i < SEQS; i++) {
        ck_assert(pd_batch_add(e.b, &e.l.e[i]));
        ck_assert(!pd_stem_holds(stem, e.b));
        pd_model_stem(e.m, e.w, e.b, &a, stem);
        ck_assert(pd_stem_holds(stem, e.b));
        for (int again = 0; again < 2; again++) {
            pd_model_forward(e.m, e.w, e.b, sides, 2, whole, NULL);
            pd_model_forward_from(e.m, e.w, e.b, stem, sides, 2, part, NULL);
            for (int s = 0; s < 2; s++)
                ck_assert_double_eq_tol(pd_loss_mean(&part[s]), pd_loss_mean(&whole[s]), 1e-6);
        }
        ck_assert(i < 4 || fabs(part[0].sum - part[1].sum) > 0.1);
    }
    pd_batch_clear(e.b);
    ck_assert(!pd_stem_holds(stem, e.b));
    pd_model_stem(e.m, e.w, e.b, &a, stem); /* of nothing: no losses */
    pd_model_forward_from(e.m, e.w, e.b, stem, sides, 2, part, NULL);
    ck_assert(part[0].units == 0 && part[1].units == 0);
    pd_stem_close(stem);
    free_adapter(e.m, &a);
    free_adapter(e.m, &b);
    stop(&e);
}
END_TEST

/* Nothing is below layer 0, nothing above the last. */
START_TEST(a_stem_ends_inside_the_model) {
    static engine e;
    pd_stem *stem = NULL;
    start(&e, 1, false);
    ck_assert_int_eq(pd_stem_open(e.m, 1, 0, &stem), PD_EUSAGE);
    ck_assert_int_eq(pd_stem_open(e.m, 1, 2, &stem), PD_EUSAGE);
    ck_assert_ptr_nonnull(strstr(pd_fail_text(), "2 layers"));
    ck_assert_ptr_null(stem);
    pd_stem_close(NULL);
    stop(&e);
}
END_TEST

/* Neighbours in a batch are strangers: neither their presence nor their order may be seen. */
START_TEST(losses_do_not_depend_on_what_else_is_in_the_batch) {
    static engine e;
    static float nll[TOKENS_MAX], alone[TOKENS_MAX];
    start(&e, 1, false);
    for (int turn = 0; turn < SEQS; turn++) {
        pd_loss l;
        pd_batch_clear(e.b);
        for (int i = 0; i < SEQS; i++)
            ck_assert(pd_batch_add(e.b, &e.l.e[(i + turn) % SEQS]));
        pd_model_forward(e.m, e.w, e.b, NULL, 1, &l, nll);
        uint32_t first = e.l.len[turn] - 1;
        pd_batch_clear(e.b);
        ck_assert(pd_batch_add(e.b, &e.l.e[turn]));
        pd_model_forward(e.m, e.w, e.b, NULL, 1, &l, alone);
        for (uint32_t u = 0; u < first; u++)
            ck_assert_float_eq_tol(nll[u], alone[u], 2e-5f);
    }
    stop(&e);
}
END_TEST

/* What does not fit must leave the batch as it was. */
START_TEST(a_full_batch_refuses_and_stays) {
    static engine e;
    start(&e, 1, false);
    ck_assert(pd_batch_add(e.b, &e.l.e[4]));
    ck_assert(!pd_batch_add(e.b, &e.l.e[4]));
    ck_assert_uint_eq(pd_batch_tokens(e.b), SEQ_MAX);
    ck_assert_uint_eq(pd_batch_units(e.b), SEQ_MAX - 1);
    ck_assert(pd_batch_add(e.b, &e.l.e[0]));
    ck_assert_uint_eq(pd_batch_examples(e.b), 2);
    stop(&e);
}
END_TEST

/* Generation must see the model that was trained: pushes of any size give the forward pass's
 * predictions. */
START_TEST(a_session_gives_the_same_predictions) {
    static engine e;
    static float nll[TOKENS_MAX], logits[64];
    const uint32_t pushes[] = {1, 2, 300, 1, 30, 1, 1, 200};
    pd_session *s;
    pd_loss l;
    start(&e, 1, false);
    pd_adapter a = random_adapter(e.m, 3, 3, 0.2f);
    const pd_adapter *side = &a;
    ck_assert(pd_batch_add(e.b, &e.l.e[4]));
    pd_model_forward(e.m, e.w, e.b, &side, 1, &l, nll);
    ck_assert_int_eq(pd_session_open(e.m, SEQ_MAX, &s), PD_OK);
    for (uint32_t i = 0, at = 0; i < sizeof pushes / sizeof *pushes; i++) {
        ck_assert_int_eq(pd_session_push(s, side, e.l.ids[4] + at, pushes[i], logits), PD_OK);
        at += pushes[i];
        double max = -INFINITY, sum = 0.0;
        for (int v = 0; v < 50; v++)
            max = fmax(max, logits[v]);
        for (int v = 0; v < 50; v++)
            sum += exp(logits[v] - max);
        ck_assert_double_eq_tol(max + log(sum) - logits[e.l.ids[4][at]], nll[at - 1], 2e-5);
    }
    ck_assert_int_eq(pd_session_push(s, side, e.l.ids[4], 200, logits), PD_EFULL);
    pd_session_close(s);
    free_adapter(e.m, &a);
    stop(&e);
}
END_TEST

typedef struct slope {
    const pd_adapter *a;
    double along; /* sum over targets of dL/dW . up^T down */
} slope;

static void add_slope(void *ctx, uint32_t layer, pd_target t, uint32_t rows, const float *x,
                      const float *dy) {
    slope *s = ctx;
    const pd_lowrank *l = &s->a->at[layer * PD_TARGETS + t];
    pd_model_info i = {.width = 20, .ff = 28, .n_heads = 4, .n_kv_heads = 2, .head_width = 6};
    uint32_t out, in;
    pd_model_shape(&i, t, &out, &in);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t k = 0; k < l->rank; k++) {
            double a = 0.0, b = 0.0;
            for (uint32_t j = 0; j < in; j++)
                a += (double)l->down[k * in + j] * (double)x[r * in + j];
            for (uint32_t j = 0; j < out; j++)
                b += (double)l->up[k * out + j] * (double)dy[r * out + j];
            s->along += a * b;
        }
}

/* Sequences longer than a block of keys, where the exact check of test_grad.c would take too long:
 * the slope along a low-rank direction against the losses a step to either side.
 */
START_TEST(gradient_holds_across_blocks_of_keys) {
    static engine e;
    start(&e, 1, true);
    pd_adapter plus = random_adapter(e.m, 1, 4, 0.1f), minus = random_adapter(e.m, 1, 4, 0.1f);
    const pd_adapter *side[2] = {&plus, &minus};
    for (uint32_t n = 0; n < L * PD_TARGETS; n++) {
        uint32_t out, in;
        pd_model_shape(pd_model_info_of(e.m), (pd_target)(n % PD_TARGETS), &out, &in);
        float *up = (float *)(uintptr_t)minus.at[n].up;
        for (uint32_t i = 0; i < out; i++)
            up[i] = -up[i];
    }
    for (int i = 3; i < SEQS; i++)
        ck_assert(pd_batch_add(e.b, &e.l.e[i]));
    pd_loss at, up, down;
    slope s = {.a = &plus};
    pd_model_backward(e.m, e.w, e.b, NULL, add_slope, &s, &at);
    pd_model_forward(e.m, e.w, e.b, &side[0], 1, &up, NULL);
    pd_model_forward(e.m, e.w, e.b, &side[1], 1, &down, NULL);
    double want = (pd_loss_mean(&up) - pd_loss_mean(&down)) / 2.0;
    ck_assert(fabs(want) > 1e-4);
    ck_assert_double_eq_tol(s.along, want, 0.02 * fabs(want));
    free_adapter(e.m, &plus);
    free_adapter(e.m, &minus);
    stop(&e);
}
END_TEST

/* ---- files that are not what they say ---- */

/* A model that loads is computed exactly, so whatever is not understood must be refused, by name.
 */
START_TEST(what_is_not_done_is_refused_by_name) {
    const struct {
        twist t;
        pd_err code;
        const char *names;
    } cases_bad[] = {
        {{.arch = "mamba"}, PD_EUNSUPPORTED, "mamba"},
        {{.skip = "blk.1.ffn_up.weight"}, PD_EFORMAT, "blk.1.ffn_up.weight"},
        {{.skip = "output_norm.weight"}, PD_EFORMAT, "output_norm.weight"},
        {{.odd = "blk.0.attn_q.weight"}, PD_EFORMAT, "blk.0.attn_q.weight"},
        {{.odd = "output.weight"}, PD_EFORMAT, "output.weight"},
        {{.extra = "blk.0.attn_q.bias"}, PD_EUNSUPPORTED, "blk.0.attn_q.bias"},
        {{.extra = "rope_freqs.weight"}, PD_EFORMAT, "rope_freqs.weight"},
        {{.key = "llama.attention.head_count_kv", .value = 3}, PD_EFORMAT, "3 key heads"},
        {{.key = "llama.block_count", .value = 0}, PD_EUNSUPPORTED, "llama.block_count"},
        {{.key = "llama.block_count", .value = 3}, PD_EFORMAT, "blk.2."},
        {{.key = "llama.embedding_length", .value = 1 << 30},
         PD_EUNSUPPORTED,
         "llama.embedding_length"},
        {{.key = "llama.rope.dimension_count", .value = 5}, PD_EFORMAT, "rope.dimension_count"},
        {{.key = "llama.attention.key_length", .value = 4096}, PD_EUNSUPPORTED, "4096"},
    };
    for (size_t i = 0; i < sizeof cases_bad / sizeof *cases_bad; i++) {
        micro m = make_twisted(false, false, 23, &cases_bad[i].t);
        pd_gguf *g;
        pd_model *p;
        pd_model_opts o = {.threads = 1};
        ck_assert_int_eq(pd_gguf_open(m.path, &g), PD_OK);
        ck_assert_int_eq(pd_model_open(g, &o, &p), cases_bad[i].code);
        ck_assert_msg(strstr(pd_fail_text(), cases_bad[i].names) != NULL, "%s does not name %s",
                      pd_fail_text(), cases_bad[i].names);
        pd_gguf_close(g);
        drop(&m);
    }
}
END_TEST

/* A node is told what reverse mode costs, and is refused what the machine has not got rather than
 * killed for it: the figure is what packing really takes. */
START_TEST(reverse_mode_says_what_it_takes) {
    size_t packed[2];
    pd_model *p;
    pd_gguf *g;
    ck_assert_int_eq(pd_gguf_open(pd_test_path("examples/models/house-2m.gguf"), &g), PD_OK);
    for (int backward = 0; backward < 2; backward++) {
        pd_model_opts o = {.compute = PD_COMPUTE_F32, .threads = 1, .backward = backward};
        ck_assert_int_eq(pd_model_open(g, &o, &p), PD_OK);
        packed[backward] = pd_model_info_of(p)->packed_bytes;
        if (!backward) {
            ck_assert_uint_eq(pd_model_info_of(p)->reverse_bytes, 0);
            pd_model_close(p);
        }
    }
    double more = (double)(packed[1] - packed[0]);
    size_t says = pd_model_info_of(p)->reverse_bytes;
    ck_assert_msg(fabs((double)says - more) < 0.25 * more, "%zu, really %g", says, more);
    ck_assert_int_eq(pd_reverse_fits(p, packed[1] / 2), PD_ENOMEM);
    ck_assert_ptr_nonnull(strstr(pd_fail_text(), "--estimator probe"));
    ck_assert_int_eq(pd_reverse_fits(p, 2 * packed[1]), PD_OK);
    pd_model_close(p);
    pd_gguf_close(g);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_loop_test(tc, every_nll_equals_the_reference_in_f32, 0, 3);
    tcase_add_loop_test(tc, mean_nll_is_near_the_reference_in_bf16, 0, 3);
    tcase_add_test(tc, two_sides_in_one_traversal_equal_two_traversals);
    tcase_add_test(tc, a_stem_is_of_one_batch);
    tcase_add_test(tc, a_stem_ends_inside_the_model);
    tcase_add_test(tc, losses_do_not_depend_on_what_else_is_in_the_batch);
    tcase_add_test(tc, a_full_batch_refuses_and_stays);
    tcase_add_test(tc, a_session_gives_the_same_predictions);
    tcase_add_test(tc, gradient_holds_across_blocks_of_keys);
    tcase_add_test(tc, what_is_not_done_is_refused_by_name);
    tcase_add_test(tc, reverse_mode_says_what_it_takes);
}

PD_TEST_MAIN("model", 120)
