/* test_model.c - the transformer against another implementation's numbers (vectors/lm, made by
 * make_lm.py), and the ways a batch may be laid out, which must not matter.
 */
#include "peerd/file.h"
#include "peerd/model.h"
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
static const struct {
    const char *model, *vectors;
} cases[] = {{"models/house-2m.gguf", "vectors/lm/house-2m.jsonl"},
             {"data/stories260K/stories260K.gguf", "vectors/lm/stories260K.jsonl"},
             {NULL, "vectors/lm/smollm2-135m-q4_1.jsonl"}};

/* Paths of case i; false, saying so, where a file is missing. */
static bool case_paths(int i, char model[4096], char vectors[4096]) {
    const char *p = cases[i].model ? pd_test_shared(cases[i].model) : getenv("PD_SMOLLM2");
    if (!p) {
        if (!cases[i].model)
            printf("skipped: PD_SMOLLM2 does not name SmolLM2's GGUF file\n");
        return false;
    }
    snprintf(model, 4096, "%s", p);
    p = pd_test_shared(cases[i].vectors);
    if (!p)
        return false;
    snprintf(vectors, 4096, "%s", p);
    return true;
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
    char model[4096], vectors[4096];
    if (!case_paths(i, model, vectors))
        return;
    pd_model *m = open_model(model, compute, false);
    pd_work *w;
    pd_batch *b;
    ck_assert_int_eq(pd_work_open(m, TOKENS_MAX, 1, false, &w), PD_OK);
    ck_assert_int_eq(pd_batch_open(TOKENS_MAX, 1, &b), PD_OK);
    FILE *f = fopen(vectors, "r");
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
    printf("%s %s: worst %.3f%s\n", cases[i].vectors, compute == PD_COMPUTE_F32 ? "f32" : "bf16",
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
    const char *path = pd_test_shared(cases[0].model);
    if (!path)
        return;
    ck_assert_int_eq(pd_gguf_open(path, &g), PD_OK);
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

static void add_tests(TCase *tc) {
    tcase_add_loop_test(tc, every_nll_equals_the_reference_in_f32, 0, 3);
    tcase_add_loop_test(tc, mean_nll_is_near_the_reference_in_bf16, 0, 3);
}

PD_TEST_MAIN("model", 120)
