/* test_dense.c - a side's own weights: every entry in its place whatever the packing, and a model
 * with whole additions is the model whose file holds the sums.
 *
 * The packed layouts of processors that this one is not are made by hand here, so that a wrong
 * place does not wait for such a processor to be noticed.
 */
#include "../../src/lm/dense.h"
#include "micro.h"
#include "peerd/rng.h"
#include "test.h"

#include <math.h>

enum { SIDES = 2, FIRST = 21 }; /* no coordinate begins at a byte of signs */

/* ---- the copy ---- */

/* oneDNN's words for them: ab; BA16a64b, of avx512_core; BA16a64b2a, of avx512_core_bf16; BA4b2a
 * with the pair not innermost, which no path but the slow one knows. */
typedef enum order { PLAIN, BLOCKS, PAIRS, STRANGE, ORDERS } order;

static uint32_t up(uint32_t n, uint32_t to) {
    return (n + to - 1) / to * to;
}

static pd_layout layout_of(order o, uint32_t out, uint32_t in, bool bf16) {
    pd_layout l = {.run = out, .step = 1};
    uint32_t rows = in, cols = out;
    switch (o) {
    case PLAIN:
        l.in.outer = out;
        l.out.outer = 1;
        break;
    case BLOCKS:
        rows = up(in, 16), cols = up(out, 64);
        l.in = (pd_layout_dim){.n = 1, .block = {16}, .stride = {64}, .outer = 16 * 64};
        l.out = (pd_layout_dim){.n = 1, .block = {64}, .stride = {1}, .outer = (size_t)rows * 64};
        l.run = 64;
        break;
    case PAIRS:
        rows = up(in, 32), cols = up(out, 64);
        l.in = (pd_layout_dim){.n = 2, .block = {2, 16}, .stride = {1, 128}, .outer = 32 * 64};
        l.out = (pd_layout_dim){.n = 1, .block = {64}, .stride = {2}, .outer = (size_t)rows * 64};
        l.run = 64, l.step = 2;
        break;
    case STRANGE:
    case ORDERS:
        rows = up(in, 2), cols = up(out, 4);
        l.in = (pd_layout_dim){.n = 1, .block = {2}, .stride = {4}, .outer = 8};
        l.out = (pd_layout_dim){.n = 1, .block = {4}, .stride = {1}, .outer = (size_t)rows * 4};
        l.run = 4;
        break;
    }
    l.bytes = (size_t)rows * cols * (bf16 ? 2 : 4);
    l.padded = rows != in || cols != out;
    return l;
}

static float get(const void *p, size_t i, bool bf16) {
    return bf16 ? pd_bf16_to_float(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

static float rounded(float x, bool bf16) {
    return bf16 ? pd_bf16_to_float(pd_float_to_bf16(x)) : x;
}

/* A packed matrix of two targets, the second trained on one side only, with both kinds of source.
 */
static void check_copy(order o, uint32_t n0, uint32_t n1, uint32_t in, bool bf16) {
    uint32_t out = n0 + n1;
    uint64_t d = FIRST + (uint64_t)out * in; /* ends with the last coordinate, as signs do */
    pd_matrix m = {.out = out, .in = in, .bf16 = bf16};
    pd_shift s = {.k = pd_kernels_get(), .m = &m, .sides = SIDES, .n_parts = 2};
    s.layout = layout_of(o, out, in, bf16);
    int32_t *a = malloc(d * sizeof *a);
    float *c = malloc(d * sizeof *c);
    uint8_t *signs = malloc((d + 7) / 8);
    pd_rng rng = {o + 1};
    for (uint64_t i = 0; i < d; i++) {
        a[i] = (int32_t)pd_rng_below(&rng, 1 << 20) - (1 << 19);
        c[i] = (float)pd_rng_uniform(&rng);
    }
    for (uint64_t i = 0; i < (d + 7) / 8; i++)
        signs[i] = (uint8_t)pd_rng_below(&rng, 256);
    pd_dense side[SIDES] = {{.n = d, .a = a, .signs = signs, .unit = 0x1p-20f, .eps = 0.125f},
                            {.n = d, .c = c}};
    s.part[0].n = n0;
    s.part[1].from = n0;
    s.part[1].n = n1;
    for (int i = 0; i < SIDES; i++) {
        s.dense[i] = &side[i];
        s.out[i] = malloc(s.layout.bytes);
        memset(s.out[i], 0xff, s.layout.bytes);
        s.part[0].first[i] = FIRST;
        s.part[1].first[i] = i ? PD_DENSE_NONE : FIRST + (uint64_t)n0 * in;
    }
    m.data = calloc(1, s.layout.bytes);
    for (uint32_t x = 0; x < in; x++)
        for (uint32_t y = 0; y < out; y++) {
            size_t at = pd_layout_at(&s.layout.in, x) + pd_layout_at(&s.layout.out, y);
            float w = (float)pd_rng_uniform(&rng) - 0.5f;
            if (bf16)
                ((uint16_t *)m.data)[at] = pd_float_to_bf16(w);
            else
                ((float *)m.data)[at] = w;
        }
    pd_shift_run(&s);
    for (int i = 0; i < SIDES; i++) {
        size_t entries = 0, equal = 0, all = s.layout.bytes / (bf16 ? 2 : 4);
        for (uint32_t x = 0; x < in; x++)
            for (uint32_t y = 0; y < out; y++, entries++) {
                size_t at = pd_layout_at(&s.layout.in, x) + pd_layout_at(&s.layout.out, y);
                float want = get(m.data, at, bf16);
                if (y < n0)
                    want += pd_dense_at(&side[i], FIRST + (uint64_t)x * n0 + y);
                else if (i == 0)
                    want += pd_dense_at(&side[i],
                                        FIRST + (uint64_t)n0 * in + (uint64_t)x * n1 + (y - n0));
                ck_assert_float_eq_tol(get(s.out[i], at, bf16), rounded(want, bf16),
                                       bf16 ? 0.01f * fabsf(want) : 3e-7f);
            }
        for (size_t at = 0; at < all; at++) /* nor is there anything but zero between them */
            equal += get(s.out[i], at, bf16) == 0;
        ck_assert_uint_ge(equal, all - entries);
        free(s.out[i]);
    }
    free(a);
    free(c);
    free(signs);
    free(m.data);
}

START_TEST(every_entry_has_its_place) {
    static const uint32_t shapes[][3] = {
        {64, 64, 32}, {128, 192, 64}, {5, 3, 7}, {100, 29, 33}, {1, 70, 1}};
    (void)pd_pool_set(1);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        check_copy(PLAIN, shapes[i][0], shapes[i][1], shapes[i][2], false);
        check_copy(BLOCKS, shapes[i][0], shapes[i][1], shapes[i][2], false);
        check_copy(PLAIN, shapes[i][0], shapes[i][1], shapes[i][2], true);
        check_copy(PAIRS, shapes[i][0], shapes[i][1], shapes[i][2], true);
        check_copy(STRANGE, shapes[i][0], shapes[i][1], shapes[i][2], i % 2);
    }
}
END_TEST

/* The layout that is read out of oneDNN is where it packs: an entry is found where it should be. */
START_TEST(the_layout_is_where_things_are) {
    static const uint32_t shapes[][2] = {{64, 32}, {960, 576}, {37, 11}, {20, 28}};
    (void)pd_pool_set(1);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int half = 0; half <= pd_gemm_has_bf16(); half++) {
            uint32_t out = shapes[i][0], in = shapes[i][1];
            pd_arena arena = {0};
            pd_matrix m;
            pd_layout l;
            float *w = malloc((size_t)out * in * sizeof *w);
            for (uint32_t k = 0; k < out * in; k++)
                w[k] = rounded((float)k + 1, half);
            ck_assert_int_eq(pd_gemm_pack(&arena, w, out, in, false, half, &m), PD_OK);
            pd_gemm_layout(&m, &l);
            for (uint32_t o = 0; o < out; o++)
                for (uint32_t k = 0; k < in; k++) {
                    size_t at = pd_layout_at(&l.in, k) + pd_layout_at(&l.out, o);
                    ck_assert(get(m.data, at, half) == w[o * in + k]);
                }
            free(w);
            pd_arena_free(&arena);
        }
}
END_TEST

/* ---- the model ---- */

typedef struct whole { /* a space of the targets in `mask`, coordinates and signs */
    uint64_t first[L * PD_TARGETS], d;
    int32_t *a;
    uint8_t *signs;
    pd_dense dense[SIDES];
    pd_adapter side[SIDES];
} whole;

static void open_whole(whole *x, const micro *m, uint32_t mask) {
    *x = (whole){.d = 0};
    for (uint32_t k = 0; k < L * PD_TARGETS; k++) {
        uint32_t out, in;
        shape(m, (pd_target)(k % PD_TARGETS), &out, &in);
        bool trained = mask >> (k % PD_TARGETS) & 1;
        x->first[k] = trained ? x->d : PD_DENSE_NONE;
        x->d += trained ? (uint64_t)out * in : 0;
    }
    pd_rng rng = {77};
    x->a = malloc(x->d * sizeof *x->a);
    x->signs = malloc((x->d + 7) / 8);
    for (uint64_t i = 0; i < x->d; i++)
        x->a[i] = (int32_t)pd_rng_below(&rng, 1 << 18) - (1 << 17); /* +- 1/8 */
    for (uint64_t i = 0; i < (x->d + 7) / 8; i++)
        x->signs[i] = (uint8_t)pd_rng_below(&rng, 256);
    for (int s = 0; s < SIDES; s++) {
        x->dense[s] = (pd_dense){.first = x->first,
                                 .n = x->d,
                                 .a = x->a,
                                 .signs = x->signs,
                                 .unit = 0x1p-20f,
                                 .eps = s ? -0x1p-5f : 0x1p-5f};
        x->side[s].dense = &x->dense[s];
    }
}

static void close_whole(whole *x) {
    free(x->a);
    free(x->signs);
}

static void fill_batch(pd_batch *b, uint32_t seqs, uint32_t vocab) {
    uint32_t ids[50], len;
    uint8_t scored[50];
    pd_rng rng = {seqs};
    memset(scored, 1, sizeof scored);
    for (uint32_t i = 0; i < seqs; i++) {
        len = 2 + pd_rng_below(&rng, 48);
        for (uint32_t k = 0; k < len; k++)
            ids[k] = pd_rng_below(&rng, vocab);
        pd_example e = {.kind = PD_EXAMPLE_NLL,
                        .n_seqs = 1,
                        .seq_len = &len,
                        .ids = ids,
                        .scored = scored,
                        .n_tokens = len};
        ck_assert(pd_batch_add(b, &e));
    }
}

static pd_model *open_file(const char *path) {
    pd_gguf *g;
    pd_model *m;
    pd_model_opts o = {.compute = PD_COMPUTE_F32, .threads = 1};
    ck_assert_msg(pd_gguf_open(path, &g) == PD_OK && pd_model_open(g, &o, &m) == PD_OK, "%s",
                  pd_fail_text());
    pd_gguf_close(g);
    return m;
}

/* The model whose file holds W + dW of one side; drop it. */
static micro summed(const micro *m, const whole *x, int side) {
    micro sum = *m;
    for (uint32_t k = 0; k < L * PD_TARGETS; k++) {
        uint32_t out, in;
        shape(m, (pd_target)(k % PD_TARGETS), &out, &in);
        double *w = malloc((size_t)out * in * sizeof *w);
        memcpy(w, m->w[k / PD_TARGETS][k % PD_TARGETS], (size_t)out * in * sizeof *w);
        for (uint32_t i = 0; x->first[k] != PD_DENSE_NONE && i < out * in; i++)
            w[i] += (double)pd_dense_at(&x->dense[side],
                                        x->first[k] + (uint64_t)(i % in) * out + i / in);
        sum.w[k / PD_TARGETS][k % PD_TARGETS] = w;
    }
    save(&sum, &(twist){0});
    return sum;
}

static void drop_summed(micro *sum) {
    unlink(sum->path);
    for (uint32_t k = 0; k < L * PD_TARGETS; k++)
        free(sum->w[k / PD_TARGETS][k % PD_TARGETS]);
}

/* Both sides of a probe, at batches that end within a product's rows and within a chunk of the
 * feed-forward part: a row of one side that another side's product wrote over would be another
 * loss. */
static void check_model(uint32_t mask) {
    enum { TOKENS = 700 };
    micro m = make(false, false, 24);
    whole x;
    pd_work *w;
    pd_batch *b;
    open_whole(&x, &m, mask);
    micro sums[SIDES] = {summed(&m, &x, 0), summed(&m, &x, 1)};
    pd_model *base = open_file(m.path),
             *sum[SIDES] = {open_file(sums[0].path), open_file(sums[1].path)};
    ck_assert(pd_work_open(base, TOKENS, SIDES, false, &w) == PD_OK);
    ck_assert(pd_batch_open(TOKENS, 64, &b) == PD_OK);
    const uint32_t seqs[] = {1, 3, 7, 12, 20};
    for (size_t i = 0; i < sizeof seqs / sizeof *seqs; i++) {
        const pd_adapter *both[SIDES] = {&x.side[0], &x.side[1]}, *one[SIDES] = {NULL, &x.side[1]};
        pd_loss two[SIDES], mixed[SIDES], want, plain;
        pd_batch_clear(b);
        fill_batch(b, seqs[i], 24);
        pd_model_forward(base, w, b, both, SIDES, two, NULL);
        pd_model_forward(base, w, b, one, SIDES, mixed, NULL);
        pd_model_forward(base, w, b, NULL, 1, &plain, NULL);
        ck_assert_double_eq_tol(mixed[0].sum, plain.sum, 2e-6 * plain.sum);
        ck_assert_double_eq_tol(mixed[1].sum, two[1].sum, 2e-6 * plain.sum);
        for (int s = 0; s < SIDES; s++) {
            pd_model_forward(sum[s], w, b, NULL, 1, &want, NULL);
            ck_assert_double_eq_tol(two[s].sum, want.sum, 2e-6 * want.sum);
            ck_assert_double_ge(fabs(two[s].sum - plain.sum), 1e-3 * plain.sum);
        }
    }
    pd_batch_close(b);
    pd_work_close(w);
    for (int s = 0; s < SIDES; s++) {
        pd_model_close(sum[s]);
        drop_summed(&sums[s]);
    }
    pd_model_close(base);
    close_whole(&x);
    drop(&m);
}

START_TEST(whole_additions_are_the_file_with_the_sums) {
    check_model((1 << PD_TARGETS) - 1);
}
END_TEST

/* k stands between q and v in one packed matrix, and is nobody's. */
START_TEST(some_targets) {
    check_model(1 << PD_Q | 1 << PD_V | 1 << PD_DOWN);
}
END_TEST

/* A node's model is asked to continue a text while it is one: a session has to see what the probe
 * saw. */
START_TEST(a_session_sees_them) {
    enum { TOKENS = 40 };
    micro m = make(false, false, 24);
    whole x;
    pd_work *w;
    pd_batch *b;
    pd_session *s;
    pd_loss loss;
    float nll[TOKENS], logits[24];
    uint32_t ids[TOKENS], len = TOKENS;
    uint8_t scored[TOKENS];
    pd_rng rng = {5};
    open_whole(&x, &m, (1 << PD_TARGETS) - 1);
    pd_model *model = open_file(m.path);
    const pd_adapter *side = &x.side[0];
    for (uint32_t i = 0; i < TOKENS; i++)
        ids[i] = pd_rng_below(&rng, 24);
    memset(scored, 1, sizeof scored);
    pd_example e = {.kind = PD_EXAMPLE_NLL,
                    .n_seqs = 1,
                    .seq_len = &len,
                    .ids = ids,
                    .scored = scored,
                    .n_tokens = len};
    ck_assert(pd_work_open(model, TOKENS, 1, false, &w) == PD_OK);
    ck_assert(pd_batch_open(TOKENS, 1, &b) == PD_OK && pd_batch_add(b, &e));
    pd_model_forward(model, w, b, &side, 1, &loss, nll);
    ck_assert(pd_session_open(model, TOKENS, &s) == PD_OK);
    for (uint32_t i = 0; i + 1 < TOKENS; i++) {
        double sum = 0;
        ck_assert(pd_session_push(s, side, ids + i, 1, logits) == PD_OK);
        for (int v = 0; v < 24; v++)
            sum += exp((double)logits[v]);
        ck_assert_double_eq_tol(log(sum) - (double)logits[ids[i + 1]], (double)nll[i], 2e-5);
    }
    pd_session_close(s);
    pd_batch_close(b);
    pd_work_close(w);
    pd_model_close(model);
    close_whole(&x);
    drop(&m);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, every_entry_has_its_place);
    tcase_add_test(tc, the_layout_is_where_things_are);
    tcase_add_test(tc, whole_additions_are_the_file_with_the_sums);
    tcase_add_test(tc, some_targets);
    tcase_add_test(tc, a_session_sees_them);
}

PD_TEST_MAIN("dense", 60)
