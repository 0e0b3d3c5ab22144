/* test_folder_family.c - folders of every class that is done, against what Hugging Face
 * transformers computes with them (vectors/families, made by make_families.py).
 */
#include "gguf_writer.h"
#include "peerd/base.h"
#include "peerd/file.h"
#include "test.h"

#include <cjson/cJSON.h>
#include <math.h>

static const char *const families[] = {"llama", "llama-linear", "llama3",  "mistral", "qwen2",
                                       "qwen3", "gpt2",         "gptneox", "opt"};
enum { FAMILIES = sizeof families / sizeof *families, TOKENS = 400, SEQS = 2 };

static const char tokenizer[] =
    "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}";

static const char *const files[] = {"config.json", "tokenizer.json", "model.safetensors"};
static char dir[] = "/tmp/pd-family-XXXXXX";

static const char *in_dir(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void make_dir(void) {
    strcpy(dir, "/tmp/pd-family-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    gw_write(in_dir("tokenizer.json"), tokenizer, sizeof tokenizer - 1);
}

static void remove_dir(void) {
    for (int i = 0; i < 3; i++)
        unlink(in_dir(files[i]));
    rmdir(dir);
}

static cJSON *read_json(const char *rel) {
    uint8_t *p;
    size_t n;
    ck_assert_msg(pd_file_read(pd_test_path(rel), 1 << 20, &p, &n) == PD_OK, "%s", pd_fail_text());
    cJSON *j = cJSON_Parse((char *)p);
    free(p);
    ck_assert_ptr_nonnull(j);
    return j;
}

static void move(cJSON *from, const char *key, cJSON *to, const char *name) {
    cJSON *v = cJSON_DetachItemFromObject(from, key);
    if (v)
        cJSON_AddItemToObject(to, name, v);
}

/* The config as versions before 5 wrote it: no rope_parameters. */
static void make_old(cJSON *config) {
    cJSON *rope = cJSON_DetachItemFromObject(config, "rope_parameters");
    const char *type = cJSON_GetStringValue(cJSON_GetObjectItem(rope, "rope_type"));
    bool neox = cJSON_HasObjectItem(rope, "partial_rotary_factor");
    if (!rope)
        return;
    move(rope, "rope_theta", config, neox ? "rotary_emb_base" : "rope_theta");
    move(rope, "partial_rotary_factor", config, "rotary_pct");
    if (strcmp(type, "default") == 0) {
        cJSON_AddNullToObject(config, "rope_scaling");
        cJSON_Delete(rope);
        return;
    }
    if (strcmp(type, "linear") == 0) /* older still */
        move(rope, "rope_type", rope, "type");
    cJSON_AddItemToObject(config, "rope_scaling", rope);
}

static void write_folder(const char *name, bool old) {
    char rel[128];
    snprintf(rel, sizeof rel, "tests/vectors/families/%s/config.json", name);
    cJSON *config = read_json(rel);
    if (old)
        make_old(config);
    char *text = cJSON_Print(config);
    gw_write(in_dir("config.json"), text, strlen(text));
    free(text);
    cJSON_Delete(config);
    snprintf(rel, sizeof rel, "tests/vectors/families/%s/model.safetensors", name);
    ck_assert_int_eq(symlink(pd_test_path(rel), in_dir("model.safetensors")), 0);
}

static pd_model *open_model(void) {
    static const pd_model_opts opts = {.compute = PD_COMPUTE_F32, .threads = 1};
    pd_base *b;
    pd_model *m;
    ck_assert_msg(pd_base_open(dir, &b) == PD_OK, "%s", pd_fail_text());
    ck_assert_msg(pd_base_model(b, &opts, &m) == PD_OK, "%s", pd_fail_text());
    pd_base_close(b);
    return m;
}

/* The sequences of the vectors as a batch; every token but the first is scored. */
static pd_batch *read_batch(const cJSON *vectors) {
    static uint8_t scored[TOKENS];
    uint32_t ids[TOKENS], n;
    const cJSON *s, *x;
    pd_batch *b;
    memset(scored, 1, sizeof scored);
    ck_assert_int_eq(pd_batch_open(TOKENS, SEQS, &b), PD_OK);
    cJSON_ArrayForEach(s, cJSON_GetObjectItem(vectors, "sequences")) {
        n = 0;
        cJSON_ArrayForEach(x, s) ids[n++] = (uint32_t)x->valuedouble;
        pd_example e = {.kind = PD_EXAMPLE_NLL,
                        .n_seqs = 1,
                        .seq_len = &n,
                        .ids = ids,
                        .scored = scored,
                        .n_tokens = n};
        ck_assert(pd_batch_add(b, &e));
    }
    return b;
}

/* A wrong name, order of rows, transposition or key computes another model. */
START_TEST(losses_equal_the_reference) {
    static float nll[TOKENS];
    const char *name = families[_i / 2];
    char rel[128];
    const cJSON *s, *x;
    pd_loss loss;
    pd_work *w;
    uint32_t u = 0;
    double worst = 0.0;
    snprintf(rel, sizeof rel, "tests/vectors/families/%s.json", name);
    cJSON *vectors = read_json(rel);
    write_folder(name, _i % 2);
    pd_model *m = open_model();
    pd_batch *b = read_batch(vectors);
    ck_assert_int_eq(pd_work_open(m, TOKENS, 1, false, &w), PD_OK);
    pd_model_forward(m, w, b, NULL, 1, &loss, nll);
    cJSON_ArrayForEach(s, cJSON_GetObjectItem(vectors, "nll")) cJSON_ArrayForEach(x, s) {
        double off = fabs(nll[u] - x->valuedouble);
        ck_assert_msg(off <= 1e-3 + 1e-3 * fabs(x->valuedouble), "%s token %u: %.6f, not %.6f",
                      name, u, (double)nll[u], x->valuedouble);
        worst = fmax(worst, off);
        u++;
    }
    ck_assert_uint_eq(loss.units, u);
    printf("%s, config of %s: losses off by %.1e at most\n", name, _i % 2 ? "old" : "now", worst);
    pd_work_close(w);
    pd_batch_close(b);
    pd_model_close(m);
    cJSON_Delete(vectors);
}
END_TEST

/* A setting of a class that the engine has no word for must not pass as if it were not there. */
START_TEST(what_a_class_may_say_and_we_do_not_do_is_refused) {
    const struct {
        const char *family, *key, *value, *says;
    } c[] = {
        {"gpt2", "scale_attn_by_inverse_layer_idx", "true", "scale_attn_by_inverse_layer_idx"},
        {"gpt2", "scale_attn_weights", "false", "scale_attn_weights = false"},
        {"gpt2", "add_cross_attention", "true", "add_cross_attention"},
        {"gpt2", "activation_function", "\"tanh\"", "activation_function = tanh"},
        {"gpt2", "n_inner", "96", "mlp.c_fc.weight has shape 32 x 128"},
        {"gptneox", "rope_parameters", "{\"rope_type\":\"yarn\"}", "type yarn"},
        {"gptneox", "rope_parameters", "{\"partial_rotary_factor\":1.5}", "share of a head"},
        {"opt", "do_layer_norm_before", "false", "do_layer_norm_before"},
        {"opt", "word_embed_proj_dim", "16", "word_embed_proj_dim"},
        {"opt", "enable_bias", "false", "enable_bias"},
        {"opt", "_remove_final_layer_norm", "true", "_remove_final_layer_norm"},
        {"opt", "layer_norm_elementwise_affine", "false", "layer_norm_elementwise_affine"},
        {"opt", "max_position_embeddings", "319", "embed_positions.weight has shape 322 x 32"},
        {"qwen3", "layer_types", "[\"full_attention\",\"sliding_attention\"]", "layer_types"},
        {"qwen2", "use_sliding_window", "true", "use_sliding_window"},
    };
    static const pd_model_opts opts = {.compute = PD_COMPUTE_F32, .threads = 1};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        char rel[128];
        pd_base *b;
        pd_model *m;
        snprintf(rel, sizeof rel, "tests/vectors/families/%s/config.json", c[i].family);
        write_folder(c[i].family, false);
        cJSON *config = read_json(rel);
        cJSON_DeleteItemFromObject(config, c[i].key);
        cJSON_AddItemToObject(config, c[i].key, cJSON_Parse(c[i].value));
        char *text = cJSON_Print(config);
        gw_write(in_dir("config.json"), text, strlen(text));
        free(text);
        cJSON_Delete(config);
        ck_assert_int_eq(pd_base_open(dir, &b), PD_OK);
        pd_err e = pd_base_model(b, &opts, &m);
        ck_assert_msg(e && strstr(pd_fail_text(), c[i].says), "%s: %s", c[i].says,
                      e ? pd_fail_text() : "it opened");
        pd_base_close(b);
        unlink(in_dir("model.safetensors"));
    }
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_checked_fixture(tc, make_dir, remove_dir);
    tcase_add_loop_test(tc, losses_equal_the_reference, 0, 2 * FAMILIES);
    tcase_add_test(tc, what_a_class_may_say_and_we_do_not_do_is_refused);
}

PD_TEST_MAIN("folder_family", 60)
