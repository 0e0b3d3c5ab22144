/* test_family.c - every family of transformers against another implementation: tiny random models
 * and what Hugging Face transformers computes with them (vectors/families, made by
 * make_families.py), forward and reverse.
 */
#include "folder.h"
#include "peerd/model.h"
#include "peerd/rng.h"
#include "peerd/weights.h"
#include "test.h"

#include <math.h>

enum { SEQS = 2, TOKENS = 340, CONTEXT = 320, VOCAB = 288, LAYERS = 2 };

static const char *const families[] = {"llama", "llama-linear", "llama3",  "mistral", "qwen2",
                                       "qwen3", "gpt2",         "gptneox", "opt"};
enum { FAMILIES = sizeof families / sizeof *families };

/* ---- models ---- */

static const char *const opt_names[PD_ROLES] = {
    [PD_ROLE_EMBED] = "model.decoder.embed_tokens",
    [PD_ROLE_POSITIONS] = "model.decoder.embed_positions",
    [PD_ROLE_OUT_NORM] = "model.decoder.final_layer_norm",
    [PD_ROLE_ATTN_NORM] = "model.decoder.layers.%u.self_attn_layer_norm",
    [PD_ROLE_Q] = "model.decoder.layers.%u.self_attn.q_proj",
    [PD_ROLE_K] = "model.decoder.layers.%u.self_attn.k_proj",
    [PD_ROLE_V] = "model.decoder.layers.%u.self_attn.v_proj",
    [PD_ROLE_O] = "model.decoder.layers.%u.self_attn.out_proj",
    [PD_ROLE_FFN_NORM] = "model.decoder.layers.%u.final_layer_norm",
    [PD_ROLE_UP] = "model.decoder.layers.%u.fc1",
    [PD_ROLE_DOWN] = "model.decoder.layers.%u.fc2",
};

static const char *const llama_names[PD_ROLES] = {
    [PD_ROLE_EMBED] = "model.embed_tokens",
    [PD_ROLE_OUT_NORM] = "model.norm",
    [PD_ROLE_HEAD] = "lm_head",
    [PD_ROLE_ATTN_NORM] = "model.layers.%u.input_layernorm",
    [PD_ROLE_Q] = "model.layers.%u.self_attn.q_proj",
    [PD_ROLE_K] = "model.layers.%u.self_attn.k_proj",
    [PD_ROLE_V] = "model.layers.%u.self_attn.v_proj",
    [PD_ROLE_O] = "model.layers.%u.self_attn.o_proj",
    [PD_ROLE_FFN_NORM] = "model.layers.%u.post_attention_layernorm",
    [PD_ROLE_GATE] = "model.layers.%u.mlp.gate_proj",
    [PD_ROLE_UP] = "model.layers.%u.mlp.up_proj",
    [PD_ROLE_DOWN] = "model.layers.%u.mlp.down_proj",
};

static const pd_model_info opt_info = {
    .arch = "opt",
    .n_layers = LAYERS,
    .width = 32,
    .n_heads = 4,
    .n_kv_heads = 4,
    .head_width = 8,
    .ff = 64,
    .vocab = VOCAB,
    .context = CONTEXT,
    .eps = 1e-5f,
    .tied = true,
    .norm = PD_NORM_LAYER,
    .activation = PD_ACT_RELU,
    .no_gate = true,
    .qkv_bias = true,
    .o_bias = true,
    .ffn_bias = true,
    .position = PD_POSITION_LEARNED,
};

static pd_err open_gguf(const char *name, const pd_model_opts *o, pd_model **m) {
    char path[256];
    pd_gguf *g;
    snprintf(path, sizeof path, "tests/vectors/families/%s.gguf", name);
    ck_assert_msg(pd_gguf_open(pd_test_path(path), &g) == PD_OK, "%s", pd_fail_text());
    pd_err e = pd_model_open(g, o, m);
    pd_gguf_close(g);
    return e;
}

static pd_err open_folder(const char *name, const pd_model_info *info,
                          const char *const names[PD_ROLES], uint32_t skip, const pd_model_opts *o,
                          pd_model **m) {
    char path[256];
    snprintf(path, sizeof path, "tests/vectors/families/%s/model.safetensors", name);
    pd_weights *w = folder_open(pd_test_path(path), info, names, skip);
    ck_assert_msg(pd_info_check(&w->info) == PD_OK, "%s", pd_fail_text());
    pd_err e = pd_model_pack(w, o, m);
    pd_weights_close(w);
    return e;
}

static pd_err open_as(const char *name, pd_compute compute, pd_model **m) {
    pd_model_opts o = {.compute = compute, .threads = 1, .backward = true};
    if (strcmp(name, "opt") == 0)
        return open_folder(name, &opt_info, opt_names, 2, &o, m);
    return open_gguf(name, &o, m);
}

static pd_model *open_family(const char *name) {
    pd_model *m;
    ck_assert_msg(open_as(name, PD_COMPUTE_F32, &m) == PD_OK, "%s: %s", name, pd_fail_text());
    return m;
}

/* ---- vectors ---- */

typedef struct vectors {
    cJSON *json;
    uint32_t len[SEQS], ids[TOKENS], units;
    double nll[TOKENS];
    uint8_t scored[TOKENS];
    pd_example e[SEQS];
} vectors;

static void read_vectors(const char *name, vectors *v) {
    static char text[1 << 16];
    char path[256];
    const cJSON *s, *x;
    *v = (vectors){0};
    snprintf(path, sizeof path, "tests/vectors/families/%s.json", name);
    FILE *f = fopen(pd_test_path(path), "r");
    ck_assert_ptr_nonnull(f);
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    v->json = cJSON_Parse(text);
    ck_assert_ptr_nonnull(v->json);
    uint32_t at = 0, n = 0;
    memset(v->scored, 1, sizeof v->scored);
    cJSON_ArrayForEach(s, cJSON_GetObjectItem(v->json, "sequences")) {
        uint32_t from = at;
        cJSON_ArrayForEach(x, s) v->ids[at++] = (uint32_t)x->valuedouble;
        v->len[n] = at - from;
        v->e[n] = (pd_example){.kind = PD_EXAMPLE_NLL,
                               .n_seqs = 1,
                               .seq_len = &v->len[n],
                               .ids = v->ids + from,
                               .scored = v->scored,
                               .n_tokens = at - from};
        n++;
    }
    cJSON_ArrayForEach(s, cJSON_GetObjectItem(v->json, "nll")) cJSON_ArrayForEach(x, s)
        v->nll[v->units++] = x->valuedouble;
    ck_assert_uint_eq(n, SEQS);
    ck_assert_uint_eq(v->units, at - SEQS);
}

static pd_batch *batch_of(const vectors *v) {
    pd_batch *b;
    ck_assert_int_eq(pd_batch_open(TOKENS, SEQS, &b), PD_OK);
    for (int i = 0; i < SEQS; i++)
        ck_assert(pd_batch_add(b, &v->e[i]));
    return b;
}

/* ---- gradients ---- */

typedef struct grads {
    const pd_model_info *info;
    double *g[LAYERS][PD_TARGETS];
} grads;

static void sink(void *ctx, uint32_t layer, pd_target t, uint32_t rows, const float *x,
                 const float *dy) {
    grads *g = ctx;
    uint32_t out, in;
    pd_model_shape(g->info, t, &out, &in);
    ck_assert(out && !g->g[layer][t]);
    g->g[layer][t] = calloc((size_t)out * in, sizeof(double));
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t o = 0; o < out; o++)
            for (uint32_t i = 0; i < in; i++)
                g->g[layer][t][o * in + i] += (double)dy[r * out + o] * (double)x[r * in + i];
}

/* Every element within 1e-4 of the matrix's own size; gives the worst share of that. */
static double check_matrix(const grads *g, const char *name, uint32_t l, pd_target t,
                           const cJSON *want) {
    uint32_t out, in;
    double square = 0.0, worst = 0.0, norm = cJSON_GetObjectItem(want, "norm")->valuedouble;
    const cJSON *p;
    pd_model_shape(g->info, t, &out, &in);
    ck_assert_msg(g->g[l][t] != NULL, "%s: no gradient of layer %u %s", name, l,
                  pd_target_names[t]);
    for (uint32_t i = 0; i < out * in; i++)
        square += g->g[l][t][i] * g->g[l][t][i];
    ck_assert_msg(fabs(sqrt(square) / norm - 1.0) < 1e-4, "%s layer %u %s: norm %.6g, not %.6g",
                  name, l, pd_target_names[t], sqrt(square), norm);
    cJSON_ArrayForEach(p, cJSON_GetObjectItem(want, "at")) {
        uint32_t r = (uint32_t)cJSON_GetArrayItem(p, 0)->valuedouble,
                 c = (uint32_t)cJSON_GetArrayItem(p, 1)->valuedouble;
        double d = cJSON_GetArrayItem(p, 2)->valuedouble;
        ck_assert(r < out && c < in);
        double off = fabs(g->g[l][t][r * in + c] - d) / (1e-4 * norm);
        ck_assert_msg(off < 1.0, "%s layer %u %s row %u column %u: %.8g, not %.8g", name, l,
                      pd_target_names[t], r, c, g->g[l][t][r * in + c], d);
        worst = fmax(worst, off);
    }
    return worst;
}

static double check_gradients(const grads *g, const char *name, const vectors *v) {
    const cJSON *all = cJSON_GetObjectItem(v->json, "gradients");
    double worst = 0.0;
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t t = 0; t < PD_TARGETS; t++) {
            char key[32];
            snprintf(key, sizeof key, "%u.%s", l, pd_target_names[t]);
            const cJSON *want = cJSON_GetObjectItem(all, key);
            ck_assert(!want == !(pd_model_targets(g->info) >> t & 1));
            if (want)
                worst = fmax(worst, check_matrix(g, name, l, (pd_target)t, want));
        }
    return worst;
}

/* A wrong bias, norm, rotation or window would train another model than the one that is named. */
START_TEST(losses_and_gradients_equal_the_reference) {
    static vectors v;
    static float nll[TOKENS];
    const char *name = families[_i];
    read_vectors(name, &v);
    pd_model *m = open_family(name);
    pd_work *w;
    pd_batch *b = batch_of(&v);
    pd_loss loss;
    double worst = 0.0;
    ck_assert_int_eq(pd_work_open(m, TOKENS, 1, true, &w), PD_OK);
    pd_model_forward(m, w, b, NULL, 1, &loss, nll);
    ck_assert_uint_eq(loss.units, v.units);
    for (uint32_t u = 0; u < v.units; u++) {
        double off = fabs(nll[u] - v.nll[u]), room = 1e-3 + 1e-3 * fabs(v.nll[u]);
        ck_assert_msg(off <= room, "%s token %u: %.6f, not %.6f", name, u, (double)nll[u],
                      v.nll[u]);
        worst = fmax(worst, off / room);
    }
    grads g = {.info = pd_model_info_of(m)};
    pd_model_backward(m, w, b, NULL, sink, &g, &loss);
    printf("%s: losses off by %.4f of the tolerance, gradients by %.4f\n", name, worst,
           check_gradients(&g, name, &v));
    grads upper = {.info = g.info}; /* the same, ended early */
    pd_work_backward_to(w, 1);
    pd_model_backward(m, w, b, NULL, sink, &upper, &loss);
    for (uint32_t t = 0; t < PD_TARGETS; t++) {
        uint32_t out, in;
        pd_model_shape(g.info, (pd_target)t, &out, &in);
        ck_assert_ptr_null(upper.g[0][t]);
        if (out)
            ck_assert_mem_eq(upper.g[1][t], g.g[1][t], (size_t)out * in * sizeof(double));
        free(upper.g[1][t]);
    }
    for (uint32_t k = 0; k < LAYERS * PD_TARGETS; k++)
        free(g.g[k / PD_TARGETS][k % PD_TARGETS]);
    cJSON_Delete(v.json);
    pd_batch_close(b);
    pd_work_close(w);
    pd_model_close(m);
}
END_TEST

/* A folder's llama has the rows of q and k in halves where a GGUF file has them in pairs. */
START_TEST(halves_and_pairs_are_one_model) {
    static vectors v;
    static float pairs[TOKENS], halves[TOKENS];
    pd_model_opts o = {.compute = PD_COMPUTE_F32, .threads = 1};
    pd_model *m[2];
    pd_loss loss;
    read_vectors("llama", &v);
    pd_batch *b = batch_of(&v);
    ck_assert_int_eq(open_gguf("llama", &o, &m[0]), PD_OK);
    pd_model_info info = *pd_model_info_of(m[0]);
    info.position = PD_POSITION_HALVES;
    ck_assert_int_eq(open_folder("llama", &info, llama_names, 0, &o, &m[1]), PD_OK);
    ck_assert_uint_eq(pd_model_info_of(m[1])->n_params, info.n_params);
    for (int i = 0; i < 2; i++) {
        pd_work *w;
        ck_assert_int_eq(pd_work_open(m[i], TOKENS, 1, false, &w), PD_OK);
        pd_model_forward(m[i], w, b, NULL, 1, &loss, i ? halves : pairs);
        pd_work_close(w);
        pd_model_close(m[i]);
    }
    for (uint32_t u = 0; u < v.units; u++)
        ck_assert_float_eq_tol(halves[u], pairs[u], 2e-5f);
    cJSON_Delete(v.json);
    pd_batch_close(b);
}
END_TEST

/* Generation keeps keys from push to push: positions, window and norms have to go on. */
START_TEST(a_session_gives_the_same_predictions) {
    static vectors v;
    static float logits[VOCAB];
    const uint32_t pushes[] = {1, 2, 33, 1, 200, 1, 5};
    pd_session *s;
    read_vectors(families[_i], &v);
    pd_model *m = open_family(families[_i]);
    ck_assert_int_eq(pd_session_open(m, CONTEXT, &s), PD_OK);
    for (uint32_t i = 0, at = 0; i < sizeof pushes / sizeof *pushes; i++) {
        ck_assert_int_eq(pd_session_push(s, NULL, v.e[1].ids + at, pushes[i], logits), PD_OK);
        at += pushes[i];
        double max = -INFINITY, sum = 0.0, want = v.nll[v.len[0] - 1 + at - 1];
        for (int k = 0; k < VOCAB; k++)
            max = fmax(max, logits[k]);
        for (int k = 0; k < VOCAB; k++)
            sum += exp(logits[k] - max);
        double nll = max + log(sum) - logits[v.e[1].ids[at]];
        ck_assert_msg(fabs(nll - want) < 1e-3, "%s token %u: %.6f, not %.6f", families[_i], at, nll,
                      want);
    }
    pd_session_close(s);
    if (pd_model_info_of(m)->position == PD_POSITION_LEARNED) {
        ck_assert_int_eq(pd_session_open(m, CONTEXT + 1, &s), PD_EUSAGE);
        ck_assert_ptr_nonnull(strstr(pd_fail_text(), "320"));
    }
    pd_model_close(m);
    cJSON_Delete(v.json);
}
END_TEST

/* ---- from a layer on ---- */

/* Positions and the first layer enter through the stem alone: what goes on from it must be the same
 * model.  One side is the same products, so the same bits; two sides above the stem are products of
 * 2 T rows, which may run in other blocks.
 */
START_TEST(going_on_from_a_layer_is_the_same_model) {
    static vectors v;
    static float whole[TOKENS], part[TOKENS];
    pd_loss a, b[2];
    pd_work *w;
    pd_stem *stem = NULL;
    read_vectors(families[_i], &v);
    pd_model *m = open_family(families[_i]);
    pd_batch *batch = batch_of(&v);
    ck_assert_int_eq(pd_work_open(m, TOKENS, 2, false, &w), PD_OK);
    ck_assert_int_eq(pd_stem_open(m, TOKENS, 1, &stem), PD_OK);
    pd_model_forward(m, w, batch, NULL, 1, &a, whole);
    pd_model_stem(m, w, batch, NULL, stem);
    for (unsigned n = 1; n <= 2; n++) {
        pd_model_forward_from(m, w, batch, stem, NULL, n, b, part);
        for (uint32_t u = 0; u < v.units; u++)
            ck_assert_msg(n == 1 ? part[u] == whole[u] : fabsf(part[u] - whole[u]) < 2e-5f,
                          "%s, %u sides, token %u: %.9g, not %.9g", families[_i], n, u,
                          (double)part[u], (double)whole[u]);
    }
    ck_assert(b[0].sum == b[1].sum && b[0].units == a.units);
    pd_stem_close(stem);
    pd_batch_close(batch);
    pd_work_close(w);
    pd_model_close(m);
    cJSON_Delete(v.json);
}
END_TEST

/* ---- adapters ---- */

typedef struct sides {
    pd_lowrank at[2][LAYERS * PD_TARGETS]; /* the second is the first mirrored */
    float *down[LAYERS * PD_TARGETS], *up[LAYERS * PD_TARGETS], *mirror[LAYERS * PD_TARGETS];
    const pd_model_info *info;
} sides;

/* up += dL/dW down */
static void add_up(void *ctx, uint32_t layer, pd_target t, uint32_t rows, const float *x,
                   const float *dy) {
    sides *s = ctx;
    uint32_t out, in, n = layer * PD_TARGETS + t;
    pd_model_shape(s->info, t, &out, &in);
    for (uint32_t r = 0; r < rows; r++) {
        float a = 0.0f;
        for (uint32_t j = 0; j < in; j++)
            a += s->down[n][j] * x[r * in + j];
        for (uint32_t j = 0; j < out; j++)
            s->up[n][j] += a * dy[r * out + j];
    }
}

/* Rank one over every target that the family has: down at random, up along the gradient, so that
 * every target's share of the slope, |up|^2, is positive; and in all it is `slope`. */
static void make_sides(const pd_model *m, pd_work *w, const pd_batch *b, double slope, sides *s) {
    pd_rng rng = {11};
    pd_loss loss;
    double square = 0.0;
    *s = (sides){.info = pd_model_info_of(m)};
    for (uint32_t n = 0; n < LAYERS * PD_TARGETS; n++) {
        uint32_t out, in;
        pd_model_shape(s->info, (pd_target)(n % PD_TARGETS), &out, &in);
        s->down[n] = calloc(in + 1, sizeof(float));
        s->up[n] = calloc(out + 1, sizeof(float));
        s->mirror[n] = calloc(out + 1, sizeof(float));
        for (uint32_t k = 0; k < in; k++)
            s->down[n][k] = (float)(pd_rng_uniform(&rng) - 0.5);
    }
    pd_model_backward(m, w, b, NULL, add_up, s, &loss);
    for (int turn = 0; turn < 2; turn++)
        for (uint32_t n = 0; n < LAYERS * PD_TARGETS; n++) {
            uint32_t out, in;
            pd_model_shape(s->info, (pd_target)(n % PD_TARGETS), &out, &in);
            for (uint32_t k = 0; k < out && turn == 0; k++)
                square += (double)s->up[n][k] * (double)s->up[n][k];
            for (uint32_t k = 0; k < out && turn == 1; k++)
                s->mirror[n][k] = -(s->up[n][k] *= (float)(slope / square));
            s->at[0][n] = (pd_lowrank){out > 0, s->down[n], s->up[n]};
            s->at[1][n] = (pd_lowrank){out > 0, s->down[n], s->mirror[n]};
        }
}

static void free_sides(sides *s) {
    for (uint32_t n = 0; n < LAYERS * PD_TARGETS; n++) {
        free(s->down[n]);
        free(s->up[n]);
        free(s->mirror[n]);
    }
}

/* An addition has to enter where its matrix does, before biases and norms, on both sides of a
 * probe: the difference of the sides against the slope that the gradient promises. */
START_TEST(adapters_move_losses_as_gradients_say) {
    static vectors v;
    static sides s;
    const double slope = 0.02;
    pd_model *m = open_family(families[_i]);
    pd_work *w;
    pd_loss at, side[2];
    read_vectors(families[_i], &v);
    pd_batch *b = batch_of(&v);
    ck_assert_int_eq(pd_work_open(m, TOKENS, 2, true, &w), PD_OK);
    make_sides(m, w, b, slope, &s);
    pd_adapter plus = {.at = s.at[0]}, minus = {.at = s.at[1]};
    const pd_adapter *both[2] = {&plus, &minus};
    pd_model_forward(m, w, b, both, 2, side, NULL);
    double got = (pd_loss_mean(&side[0]) - pd_loss_mean(&side[1])) / 2.0;
    printf("%s: slope %.6f\n", families[_i], got);
    ck_assert_double_eq_tol(got, slope, 0.01 * slope);
    pd_model_backward(m, w, b, &minus, add_up, &s, &at); /* and reverse mode sees the same side */
    ck_assert_double_eq_tol(pd_loss_mean(&at), pd_loss_mean(&side[1]), 1e-5);
    free_sides(&s);
    cJSON_Delete(v.json);
    pd_batch_close(b);
    pd_work_close(w);
    pd_model_close(m);
}
END_TEST

/* ---- the rest ---- */

START_TEST(mean_loss_in_bf16_is_near_the_reference) {
    static vectors v;
    pd_model *m;
    pd_work *w;
    pd_loss loss;
    pd_err e = open_as(families[_i], PD_COMPUTE_BF16, &m);
    if (e == PD_EUNSUPPORTED) {
        printf("skipped: %s\n", pd_fail_text());
        return;
    }
    ck_assert_int_eq(e, PD_OK);
    read_vectors(families[_i], &v);
    pd_batch *b = batch_of(&v);
    double want = 0.0;
    for (uint32_t u = 0; u < v.units; u++)
        want += v.nll[u] / v.units;
    ck_assert_int_eq(pd_work_open(m, TOKENS, 1, true, &w), PD_OK);
    pd_model_forward(m, w, b, NULL, 1, &loss, NULL);
    ck_assert_double_eq_tol(pd_loss_mean(&loss), want, 0.02 * want);
    cJSON_Delete(v.json);
    pd_batch_close(b);
    pd_work_close(w);
    pd_model_close(m);
}
END_TEST

/* A reader that has a scaling's parameters and no table of divisors makes the table. */
START_TEST(rope_scalings_give_the_reference_s_frequencies) {
    static vectors v;
    pd_model_info three = {.rotated = 16, .rope_base = 500000.0f},
                  linear = {.rotated = 8, .rope_base = 10000.0f};
    pd_rope_llama3(&three, 8.0, 1.0, 4.0, 64.0);
    pd_rope_linear(&linear, 4.0);
    for (int i = 0; i < 2; i++) {
        const float *ours = i ? linear.rope_divisor : three.rope_divisor;
        uint32_t k = 0;
        const cJSON *x;
        read_vectors(i ? "llama-linear" : "llama3", &v);
        cJSON_ArrayForEach(x, cJSON_GetObjectItem(v.json, "divisors")) {
            ck_assert_double_eq_tol(ours[k], x->valuedouble, 1e-5 * x->valuedouble);
            k++;
        }
        ck_assert_uint_eq(k, i ? 4 : 8);
        cJSON_Delete(v.json);
    }
}
END_TEST

/* What walks the targets has to pass over one that is not there. */
START_TEST(a_family_without_a_gate_has_no_such_target) {
    uint32_t out = 1, in = 1, all = (1u << PD_TARGETS) - 1;
    pd_model *m = open_family("gpt2"), *q = open_family("qwen2");
    ck_assert_uint_eq(pd_model_targets(pd_model_info_of(m)), all & ~(1u << PD_GATE));
    ck_assert_uint_eq(pd_model_targets(pd_model_info_of(q)), all);
    pd_model_shape(pd_model_info_of(m), PD_GATE, &out, &in);
    ck_assert_uint_eq(out + in, 0);
    pd_model_close(m);
    pd_model_close(q);
}
END_TEST

/* A copy of a family's file in which `from` became `to`, of the same length, everywhere. */
static pd_err open_changed(const char *name, const char *from, const char *to) {
    static char bytes[1 << 18];
    char path[256], copy[] = "/tmp/pd-family-XXXXXX";
    snprintf(path, sizeof path, "tests/vectors/families/%s.gguf", name);
    FILE *f = fopen(pd_test_path(path), "rb");
    ck_assert_ptr_nonnull(f);
    size_t n = fread(bytes, 1, sizeof bytes, f), len = strlen(from), found = 0;
    fclose(f);
    ck_assert(n < sizeof bytes && strlen(to) == len);
    for (size_t i = 0; i + len <= n; i++)
        if (memcmp(bytes + i, from, len) == 0) {
            memcpy(bytes + i, to, len);
            found++;
        }
    ck_assert_uint_gt(found, 0);
    int fd = mkstemp(copy);
    ck_assert(write(fd, bytes, n) == (ssize_t)n);
    close(fd);
    pd_gguf *g;
    pd_model *m;
    pd_model_opts o = {.threads = 1};
    ck_assert_msg(pd_gguf_open(copy, &g) == PD_OK, "%s", pd_fail_text());
    pd_err e = pd_model_open(g, &o, &m);
    pd_gguf_close(g);
    unlink(copy);
    return e;
}

/* A tensor that is not taken, or a scaling that is not done, would be another model in silence. */
START_TEST(what_a_family_lacks_is_refused_by_name) {
    const struct {
        const char *family, *from, *to;
        pd_err code;
        const char *names;
    } cases_bad[] = {
        {"qwen2", "blk.1.attn_k.bias", "blk.1.attn_z.bias", PD_EFORMAT, "blk.1.attn_k.bias"},
        {"qwen3", "blk.0.attn_q_norm", "blk.0.attn_z_norm", PD_EFORMAT, "blk.0.attn_q_norm"},
        {"gpt2", "position_embd", "position_embz", PD_EFORMAT, "position_embd"},
        {"gpt2", "blk.1.attn_qkv.weight", "blk.1.attn_qkw.weight", PD_EFORMAT, "blk.1.attn_qkv"},
        {"gptneox", "output_norm.bias", "output_norm.bios", PD_EFORMAT, "output_norm.bias"},
        {"llama3", "rope_freqs.weight", "rope_freqz.weight", PD_EUNSUPPORTED, "rope_freqz.weight"},
        {"llama-linear", "linear", "yarnxx", PD_EUNSUPPORTED, "yarnxx"},
        {"llama-linear", "rope.scaling.factor", "rope.scaling.fakter", PD_EFORMAT, "factor"},
        {"qwen3", "qwen3", "qwen9", PD_EUNSUPPORTED, "qwen9"},
    };
    for (size_t i = 0; i < sizeof cases_bad / sizeof *cases_bad; i++) {
        pd_err e = open_changed(cases_bad[i].family, cases_bad[i].from, cases_bad[i].to);
        ck_assert_msg(e == cases_bad[i].code, "%s: %d, %s", cases_bad[i].from, (int)e,
                      pd_fail_text());
        ck_assert_msg(strstr(pd_fail_text(), cases_bad[i].names) != NULL, "%s does not name %s",
                      pd_fail_text(), cases_bad[i].names);
    }
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_loop_test(tc, losses_and_gradients_equal_the_reference, 0, FAMILIES);
    tcase_add_test(tc, halves_and_pairs_are_one_model);
    tcase_add_loop_test(tc, going_on_from_a_layer_is_the_same_model, 0, FAMILIES);
    tcase_add_loop_test(tc, a_session_gives_the_same_predictions, 0, FAMILIES);
    tcase_add_loop_test(tc, adapters_move_losses_as_gradients_say, 0, FAMILIES);
    tcase_add_loop_test(tc, mean_loss_in_bf16_is_near_the_reference, 0, FAMILIES);
    tcase_add_test(tc, rope_scalings_give_the_reference_s_frequencies);
    tcase_add_test(tc, a_family_without_a_gate_has_no_such_target);
    tcase_add_test(tc, what_a_family_lacks_is_refused_by_name);
}

PD_TEST_MAIN("family", 120)
