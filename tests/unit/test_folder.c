/* test_folder.c - a Hugging Face folder is computed exactly as the same model's GGUF file, or it is
 * refused by name.
 */
#include "peerd/base.h"
#include "peerd/file.h"
#include "peerd/identity.h"
#include "peerd/quant.h"
#include "safetensors_writer.h"
#include "test.h"

#include <cjson/cJSON.h>

static char dir[] = "/tmp/pd-folder-XXXXXX";

static const char *const all_files[] = {"config.json",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "model.safetensors",
                                        "model-1.safetensors",
                                        "model-2.safetensors",
                                        "model.safetensors.index.json",
                                        "pytorch_model.bin"};

static const char *in_dir(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void clear(void) {
    for (size_t i = 0; i < sizeof all_files / sizeof *all_files; i++)
        unlink(in_dir(all_files[i]));
}

static void make_dir(void) {
    strcpy(dir, "/tmp/pd-folder-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void remove_dir(void) {
    clear();
    rmdir(dir);
}

static void write_text(const char *name, const char *text) {
    gw_write(in_dir(name), text, strlen(text));
}

/* ---- a model of a few numbers ---- */

static const char config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":8,\"num_hidden_layers\":1,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"intermediate_size\":12,\"vocab_size\":"
    "10,\"max_position_embeddings\":32,\"rms_norm_eps\":1e-05,\"hidden_act\":\"silu\","
    "\"rope_theta\":10000.0,\"rope_scaling\":null,\"tie_word_embeddings\":false}";
static const char tokenizer[] =
    "{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"prepend_scheme\":"
    "\"first\",\"split\":false},\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"vocab\":{"
    "\"<unk>\":0,\"a\":1,\"b\":2,\"\u2581\":3,\"\u2581a\":4},\"merges\":[\"\u2581 a\"]}}";

typedef struct spec {
    const char *name;
    uint64_t rows, cols;
} spec;

#define LAYER "model.layers.0."
static const spec tensors[] = {{"model.embed_tokens.weight", 10, 8},
                               {"model.norm.weight", 0, 8},
                               {"lm_head.weight", 10, 8},
                               {LAYER "input_layernorm.weight", 0, 8},
                               {LAYER "self_attn.q_proj.weight", 8, 8},
                               {LAYER "self_attn.k_proj.weight", 4, 8},
                               {LAYER "self_attn.v_proj.weight", 4, 8},
                               {LAYER "self_attn.o_proj.weight", 8, 8},
                               {LAYER "post_attention_layernorm.weight", 0, 8},
                               {LAYER "mlp.gate_proj.weight", 12, 8},
                               {LAYER "mlp.up_proj.weight", 12, 8},
                               {LAYER "mlp.down_proj.weight", 8, 12}};
enum { TENSORS = sizeof tensors / sizeof *tensors };

/* What is wrong with the files; all zero: nothing. */
typedef struct twist {
    const char *skip, *extra, *odd; /* a tensor left out, one more, one with a column less */
    const char *ints;               /* one of I64 */
} twist;

static void put(sw *w, const spec *s, const twist *tw) {
    static const float ones[128] = {1, 1, 1, 1, 1, 1, 1, 1, 0.5f, -1, 2};
    uint64_t cols = s->cols - (tw->odd && strcmp(tw->odd, s->name) == 0);
    if (tw->ints && strcmp(tw->ints, s->name) == 0)
        sw_tensor(w, s->name, "I64", s->rows, cols / 2, 8, ones);
    else if (!tw->skip || strcmp(tw->skip, s->name) != 0)
        sw_tensor(w, s->name, "F32", s->rows, cols, 4, ones);
}

static void write_model(const char *config_text, const twist *tw) {
    sw w = {0};
    clear();
    write_text("config.json", config_text);
    write_text("tokenizer.json", tokenizer);
    for (int i = 0; i < TENSORS; i++)
        put(&w, &tensors[i], tw);
    if (tw->extra)
        put(&w, &(spec){tw->extra, 0, 4}, tw);
    sw_save(&w, in_dir("model.safetensors"));
}

/* Tokenizer and model from the folder. */
static pd_err open_all(pd_model_info *info) {
    static const pd_model_opts opts = {.compute = PD_COMPUTE_F32, .threads = 1};
    pd_base *b;
    pd_tokenizer *t = NULL;
    pd_model *m = NULL;
    pd_err e = pd_base_open(dir, &b);
    if (e)
        return e;
    e = pd_base_tokenizer(b, &t);
    if (!e)
        e = pd_base_model(b, &opts, &m);
    if (!e)
        e = pd_base_check_vocab(b, t, m);
    if (!e)
        *info = *pd_model_info_of(m);
    pd_model_close(m);
    pd_tokenizer_close(t);
    pd_base_close(b);
    return e;
}

static void refuse(pd_err code, const char *says) {
    pd_model_info info;
    pd_err e = open_all(&info);
    ck_assert_msg(e == code && strstr(pd_fail_text(), says), "%s, not: %s",
                  e ? pd_fail_text() : "it opened", says);
    ck_assert_msg(strstr(pd_fail_text(), dir) != NULL, "%s names no file", pd_fail_text());
}

/* The config with one key changed: value as JSON, or NULL to leave it out. */
static char *changed(const char *base, const char *key, const char *value) {
    cJSON *j = cJSON_Parse(base);
    cJSON_DeleteItemFromObject(j, key);
    if (value)
        cJSON_AddItemToObject(j, key, cJSON_Parse(value));
    char *text = cJSON_PrintUnformatted(j);
    cJSON_Delete(j);
    return text;
}

/* ---- tests ---- */

START_TEST(a_sound_folder_opens) {
    pd_model_info i;
    write_model(config, &(twist){0});
    ck_assert_msg(open_all(&i) == PD_OK, "%s", pd_fail_text());
    ck_assert_str_eq(i.arch, "llama");
    ck_assert_str_eq(i.name, strrchr(dir, '/') + 1);
    ck_assert(i.n_layers == 1 && i.width == 8 && i.n_heads == 2 && i.n_kv_heads == 1 &&
              i.head_width == 4 && i.ff == 12 && i.vocab == 10 && i.context == 32 && !i.tied);
    ck_assert(i.rotated == 4 && i.rope_base == 10000.0f && i.eps == 1e-5f && !i.window);
    ck_assert(pd_base_is_folder(dir) && !pd_base_is_folder("/tmp") &&
              !pd_base_is_folder(in_dir("config.json")));
}
END_TEST

/* Old files bring tables that are not needed, and a head where the embedding is one. */
START_TEST(what_is_not_needed_may_lie_there) {
    pd_model_info i;
    char *tied = changed(config, "tie_word_embeddings", "true");
    write_model(tied, &(twist){.extra = LAYER "self_attn.rotary_emb.inv_freq"});
    ck_assert_msg(open_all(&i) == PD_OK, "%s", pd_fail_text());
    ck_assert(i.tied);
    write_model(tied, &(twist){.skip = "lm_head.weight"});
    ck_assert_msg(open_all(&i) == PD_OK, "%s", pd_fail_text());
    free(tied);
}
END_TEST

START_TEST(tensors_that_do_not_fit_are_refused_by_name) {
    for (int i = 0; i < TENSORS; i++) {
        char says[128];
        write_model(config, &(twist){.skip = tensors[i].name});
        snprintf(says, sizeof says, "no tensor %s", tensors[i].name);
        refuse(PD_EFORMAT, says);
        write_model(config, &(twist){.odd = tensors[i].name});
        snprintf(says, sizeof says, "tensor %s has shape", tensors[i].name);
        refuse(PD_EFORMAT, says);
    }
    write_model(config, &(twist){.extra = LAYER "self_attn.q_proj.bias"});
    refuse(PD_EUNSUPPORTED, "tensor model.layers.0.self_attn.q_proj.bias is not part");
    write_model(config, &(twist){.extra = LAYER "block_sparse_moe.gate.weight"});
    refuse(PD_EUNSUPPORTED, "block_sparse_moe.gate.weight is not part");
    write_model(config, &(twist){.ints = "model.norm.weight"});
    refuse(PD_EFORMAT, "tensor model.norm.weight has shape");
}
END_TEST

START_TEST(a_dtype_that_is_no_weight_is_refused) {
    static const uint8_t bytes[80];
    sw w = {0};
    write_model(config, &(twist){0});
    for (int i = 0; i < TENSORS; i++)
        if (i)
            put(&w, &tensors[i], &(twist){0});
        else
            sw_tensor(&w, tensors[i].name, "F8_E4M3", 10, 8, 1, bytes);
    sw_save(&w, in_dir("model.safetensors"));
    refuse(PD_EUNSUPPORTED, "model.embed_tokens.weight has dtype F8_E4M3");
}
END_TEST

/* Each of these would be computed as something else. */
START_TEST(settings_that_are_not_done_are_refused_by_name) {
    const struct {
        const char *key, *value;
        pd_err code;
        const char *says;
    } c[] = {
        {"architectures", "[\"FalconForCausalLM\"]", PD_EUNSUPPORTED, "class FalconForCausalLM"},
        {"architectures", "[]", PD_EFORMAT, "architectures is missing"},
        {"architectures", NULL, PD_EFORMAT, "architectures is missing"},
        {"quantization_config", "{\"bits\":4}", PD_EUNSUPPORTED, "quantization_config"},
        {"hidden_size", NULL, PD_EFORMAT, "hidden_size is missing"},
        {"hidden_size", "\"8\"", PD_EFORMAT, "hidden_size is missing or not a count"},
        {"hidden_size", "0", PD_EFORMAT, "hidden_size is missing or not a count"},
        {"hidden_size", "9", PD_EFORMAT, "not a multiple"},
        {"hidden_size", "1e9", PD_EUNSUPPORTED, "this engine takes"},
        {"num_hidden_layers", "-1", PD_EFORMAT, "num_hidden_layers"},
        {"num_hidden_layers", "1.5", PD_EFORMAT, "num_hidden_layers"},
        {"num_hidden_layers", "5000", PD_EUNSUPPORTED, "5000 layers"},
        {"num_attention_heads", NULL, PD_EFORMAT, "num_attention_heads"},
        {"num_key_value_heads", "3", PD_EFORMAT, "cannot share"},
        {"intermediate_size", NULL, PD_EFORMAT, "intermediate_size"},
        {"max_position_embeddings", NULL, PD_EFORMAT, "max_position_embeddings"},
        {"vocab_size", NULL, PD_EFORMAT, "vocab_size"},
        {"vocab_size", "11", PD_EFORMAT, "model.embed_tokens.weight has shape 10 x 8"},
        {"rms_norm_eps", NULL, PD_EFORMAT, "rms_norm_eps"},
        {"rms_norm_eps", "\"small\"", PD_EFORMAT, "rms_norm_eps"},
        {"rms_norm_eps", "2", PD_EFORMAT, "epsilon"},
        {"hidden_act", "\"gelu\"", PD_EUNSUPPORTED, "without silu"},
        {"hidden_act", "\"mish\"", PD_EUNSUPPORTED, "hidden_act = mish"},
        {"hidden_act", "3", PD_EFORMAT, "hidden_act"},
        {"head_dim", "3", PD_EUNSUPPORTED, "3 rotated elements"},
        {"head_dim", "6", PD_EFORMAT, "q_proj.weight has shape"},
        {"tie_word_embeddings", "1", PD_EFORMAT, "tie_word_embeddings"},
        {"attention_bias", "true", PD_EFORMAT, "no tensor model.layers.0.self_attn.q_proj.bias"},
        {"mlp_bias", "true", PD_EFORMAT, "no tensor model.layers.0.mlp.gate_proj.bias"},
        {"rope_theta", "-1", PD_EFORMAT, "rotary frequencies"},
        {"rope_scaling", "[]", PD_EFORMAT, "rope_scaling"},
        {"rope_scaling", "{\"type\":\"yarn\",\"factor\":4}", PD_EUNSUPPORTED, "type yarn"},
        {"rope_scaling", "{\"rope_type\":\"dynamic\",\"factor\":4}", PD_EUNSUPPORTED, "dynamic"},
        {"rope_scaling", "{\"type\":\"linear\"}", PD_EFORMAT, "factor"},
        {"rope_scaling", "{\"type\":\"linear\",\"factor\":0}", PD_EFORMAT, "factor"},
        {"rope_scaling", "{\"rope_type\":\"llama3\",\"factor\":8}", PD_EFORMAT, "low_freq_factor"},
        {"rope_scaling",
         "{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4,"
         "\"original_max_position_embeddings\":16}",
         PD_EFORMAT, "below high_freq_factor"},
        {"rope_parameters", "{\"rope_theta\":\"big\"}", PD_EFORMAT, "rope_theta"},
        {"partial_rotary_factor", "0", PD_EFORMAT, "share of a head"},
        {"use_sliding_window", "true", PD_EUNSUPPORTED, "use_sliding_window = true"},
        {"layer_types", "[\"sliding_attention\"]", PD_EUNSUPPORTED, "layer_types"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        char *text = changed(config, c[i].key, c[i].value);
        write_model(text, &(twist){0});
        refuse(c[i].code, c[i].says);
        free(text);
    }
    write_model("{", &(twist){0});
    refuse(PD_EFORMAT, "config.json: the file is not JSON");
}
END_TEST

/* ---- shards ---- */

/* Half of the tensors in each of two files, the index as given, or right where it is NULL. */
static void write_shards(const char *index) {
    sw w[2] = {0};
    cJSON *j = cJSON_CreateObject(), *map = cJSON_AddObjectToObject(j, "weight_map");
    write_model(config, &(twist){0});
    unlink(in_dir("model.safetensors"));
    for (int i = 0; i < TENSORS; i++) {
        put(&w[i % 2], &tensors[i], &(twist){0});
        cJSON_AddStringToObject(map, tensors[i].name,
                                i % 2 ? "model-2.safetensors" : "model-1.safetensors");
    }
    sw_save(&w[0], in_dir("model-1.safetensors"));
    sw_save(&w[1], in_dir("model-2.safetensors"));
    char *text = cJSON_Print(j);
    write_text("model.safetensors.index.json", index ? index : text);
    free(text);
    cJSON_Delete(j);
}

#define MAP(pairs) "{\"weight_map\":{" pairs "}}"

START_TEST(an_index_and_its_shards_have_to_agree) {
    pd_model_info i;
    write_shards(NULL);
    ck_assert_msg(open_all(&i) == PD_OK, "%s", pd_fail_text());
    unlink(in_dir("model-2.safetensors"));
    refuse(PD_ENOENT, "model-2.safetensors");
    write_shards(NULL);
    ck_assert_int_eq(truncate(in_dir("model-2.safetensors"), 1000), 0);
    refuse(PD_EFORMAT, "model-2.safetensors: tensor");
    write_shards("{}");
    refuse(PD_EFORMAT, "index.json: there is no weight_map");
    write_shards(MAP(""));
    refuse(PD_EFORMAT, "index.json: there is no weight_map");
    static const char *const names[] = {"\"../model-1.safetensors\"", "\"/etc/passwd\"",
                                        "\".hidden.safetensors\"", "\"config.json\"", "7"};
    for (int k = 0; k < 5; k++) {
        char text[128];
        snprintf(text, sizeof text, MAP("\"a\":%s"), names[k]);
        write_shards(text);
        refuse(PD_EFORMAT, "no file beside it");
    }
    write_shards(MAP("\"model.norm.weight\":\"model-1.safetensors\""));
    refuse(PD_EFORMAT, "tensor model.norm.weight is not in model-1.safetensors");
    write_shards(MAP("\"model.norm.weight\":\"model-2.safetensors\""));
    refuse(PD_EFORMAT, "hold 6 tensors, but 1 are named");
}
END_TEST

START_TEST(what_a_folder_lacks_is_named) {
    static const char *const needed[] = {"config.json", "tokenizer.json"};
    pd_base *b;
    for (int i = 0; i < 2; i++) {
        write_model(config, &(twist){0});
        unlink(in_dir(needed[i]));
        ck_assert_int_eq(pd_base_open(dir, &b), PD_ENOENT);
        ck_assert_ptr_nonnull(strstr(pd_fail_text(), needed[i]));
    }
    write_model(config, &(twist){0});
    unlink(in_dir("model.safetensors"));
    refuse(PD_ENOENT, "neither model.safetensors nor");
    write_text("pytorch_model.bin", "");
    refuse(PD_EUNSUPPORTED, "pickled");
    ck_assert_int_eq(pd_base_open("/nonexistent", &b), PD_ENOENT);
    write_model(config, &(twist){0});
    write_text("tokenizer.json", "{}");
    refuse(PD_EFORMAT, "tokenizer.json: the file has no model");
    char *text =
        changed(tokenizer, "added_tokens", "[{\"id\":10,\"content\":\"<x>\",\"special\":true}]");
    write_text("tokenizer.json", text);
    free(text);
    refuse(PD_EFORMAT, "the tokenizer has 11 tokens, but the embedding only 10");
}
END_TEST

/* ---- identity ---- */

static void digest(uint8_t out[32]) {
    pd_base *b;
    ck_assert_msg(pd_base_open(dir, &b) == PD_OK, "%s", pd_fail_text());
    pd_base_digest(b, out);
    pd_base_close(b);
}

/* The digest as the header defines it, worked out here. */
START_TEST(digest_is_of_names_sizes_and_bytes) {
    static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json"};
    uint8_t want[32], got[32], n[8];
    pd_hash h, content;
    write_model(config, &(twist){0});
    pd_hash_init(&h);
    pd_hash_add(&h, "peerd.folder.v1\3\0\0\0", 19);
    for (int i = 0; i < 3; i++) {
        uint8_t *p, one[32];
        size_t size;
        ck_assert_int_eq(pd_file_read(in_dir(names[i]), 1 << 20, &p, &size), PD_OK);
        pd_hash_init(&content);
        pd_hash_add(&content, p, size);
        pd_hash_end(&content, one);
        for (int k = 0; k < 8; k++)
            n[k] = k ? 0 : (uint8_t)strlen(names[i]);
        pd_hash_add(&h, n, 4);
        pd_hash_add(&h, names[i], strlen(names[i]));
        for (int k = 0; k < 8; k++)
            n[k] = (uint8_t)(size >> 8 * k);
        pd_hash_add(&h, n, 8);
        pd_hash_add(&h, one, 32);
        free(p);
    }
    pd_hash_end(&h, want);
    digest(got);
    ck_assert_mem_eq(got, want, 32);
}
END_TEST

START_TEST(another_model_has_another_digest) {
    uint8_t d[6][32];
    write_model(config, &(twist){0});
    digest(d[0]);
    write_text("tokenizer_config.json", "{}");
    digest(d[1]);
    ck_assert_mem_eq(d[0], d[1], 32);
    char *text = changed(config, "rope_theta", "10001");
    write_model(text, &(twist){0});
    free(text);
    digest(d[1]);
    write_model(config, &(twist){0});
    text = changed(tokenizer, "version", "\"1.0\"");
    write_text("tokenizer.json", text);
    free(text);
    digest(d[2]);
    write_model(config, &(twist){.odd = "model.norm.weight"});
    digest(d[3]);
    write_shards(NULL);
    digest(d[4]);
    write_model(config, &(twist){.extra = "more"});
    digest(d[5]);
    for (int i = 0; i < 6; i++)
        for (int k = i + 1; k < 6; k++)
            ck_assert_msg(memcmp(d[i], d[k], 32) != 0, "%d and %d", i, k);
}
END_TEST

/* ---- losses ---- */

static const char *hf_name(const char *gguf, char out[96]) {
    static const char *const names[][2] = {{"token_embd.", "model.embed_tokens."},
                                           {"output_norm.", "model.norm."},
                                           {"output.", "lm_head."},
                                           {"attn_norm.", "input_layernorm."},
                                           {"ffn_norm.", "post_attention_layernorm."},
                                           {"attn_q.", "self_attn.q_proj."},
                                           {"attn_k.", "self_attn.k_proj."},
                                           {"attn_v.", "self_attn.v_proj."},
                                           {"attn_output.", "self_attn.o_proj."},
                                           {"ffn_gate.", "mlp.gate_proj."},
                                           {"ffn_up.", "mlp.up_proj."},
                                           {"ffn_down.", "mlp.down_proj."}};
    const char *end = strrchr(gguf, '.') + 1, *at = gguf;
    char layer[32] = "";
    if (strncmp(gguf, "blk.", 4) == 0) {
        snprintf(layer, sizeof layer, "model.layers.%d.", atoi(gguf + 4));
        at = strchr(gguf + 4, '.') + 1;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strncmp(at, names[i][0], strlen(names[i][0])) == 0)
            snprintf(out, 96, "%s%s%s", layer, names[i][1], end);
    return out;
}

/* Rows 2i and 2i + 1 of each head to i and i + half. */
static void to_halves(float *w, size_t rows, size_t cols, size_t hd) {
    float *copy = malloc(rows * cols * sizeof *copy);
    memcpy(copy, w, rows * cols * sizeof *copy);
    for (size_t r = 0; r < rows; r++) {
        size_t at = r % hd, to = r - at + at % 2 * (hd / 2) + at / 2;
        memcpy(w + to * cols, copy + r * cols, cols * sizeof *w);
    }
    free(copy);
}

/* All as float32, or the matrices as BF16, which is what they are in the GGUF file. */
static void write_as_folder(const pd_gguf *g, size_t hd, bool bf16) {
    sw w = {0};
    for (size_t i = 0; i < pd_gguf_tensors(g); i++) {
        const pd_tensor *t = pd_gguf_tensor_at(g, i);
        size_t cols = t->shape[0], rows = t->shape[1], n = rows * cols;
        float *p = malloc(n * sizeof *p);
        char name[96];
        bool half = bf16 && t->type == PD_GGML_BF16;
        ck_assert_int_eq(pd_quant_read(t->type, t->data, n, p), PD_OK);
        if (strstr(t->name, "attn_q.") || strstr(t->name, "attn_k."))
            to_halves(p, rows, cols, hd);
        for (size_t k = 0; half && k < n; k++)
            memcpy((uint8_t *)p + 2 * k, (uint8_t *)(p + k) + 2, 2);
        sw_tensor(&w, hf_name(t->name, name), half ? "BF16" : "F32", t->n_dims == 1 ? 0 : rows,
                  cols, half ? 2 : 4, p);
        free(p);
    }
    sw_save(&w, in_dir("model.safetensors"));
}

static double loss_of(const char *path) {
    static const pd_model_opts opts = {.compute = PD_COMPUTE_F32, .threads = 1};
    uint32_t ids[40], len = 40;
    uint8_t scored[40];
    pd_base *b;
    pd_model *m;
    pd_batch *batch;
    pd_work *w;
    pd_loss loss;
    for (uint32_t i = 0; i < 40; i++) {
        ids[i] = i * i * 7 % 500;
        scored[i] = i > 0;
    }
    const pd_adapter *none = NULL;
    pd_example e = {
        .kind = PD_EXAMPLE_NLL, .n_seqs = 1, .seq_len = &len, .ids = ids, .scored = scored};
    ck_assert_msg(pd_base_open(path, &b) == PD_OK, "%s", pd_fail_text());
    ck_assert_msg(pd_base_model(b, &opts, &m) == PD_OK, "%s", pd_fail_text());
    ck_assert_int_eq(pd_batch_open(64, 1, &batch), PD_OK);
    ck_assert(pd_batch_add(batch, &e));
    ck_assert_int_eq(pd_work_open(m, 64, 1, false, &w), PD_OK);
    pd_model_forward(m, w, batch, &none, 1, &loss, NULL);
    pd_work_close(w);
    pd_batch_close(batch);
    pd_model_close(m);
    pd_base_close(b);
    return loss.sum;
}

/* The same weights in the same order meet the same kernels: equal to the last bit. */
START_TEST(a_folder_has_the_losses_of_its_gguf_file) {
    pd_gguf *g;
    uint64_t n[6];
    static const char *const keys[] = {
        "llama.embedding_length",        "llama.block_count",         "llama.attention.head_count",
        "llama.attention.head_count_kv", "llama.feed_forward_length", "llama.context_length"};
    double eps, base = 10000.0;
    char file[4096], text[1024];
    snprintf(file, sizeof file, "%s", pd_test_path("examples/models/house-2m.gguf"));
    ck_assert_int_eq(pd_gguf_open(file, &g), PD_OK);
    for (int i = 0; i < 6; i++)
        ck_assert(pd_gguf_u64(g, keys[i], &n[i]));
    ck_assert(pd_gguf_f64(g, "llama.attention.layer_norm_rms_epsilon", &eps));
    (void)pd_gguf_f64(g, "llama.rope.freq_base", &base);
    clear();
    snprintf(
        text, sizeof text,
        "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":%d,\"num_hidden_layers\":%d,"
        "\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"intermediate_size\":%d,"
        "\"max_position_embeddings\":%d,\"rms_norm_eps\":%.9g,\"rope_theta\":%.9g,"
        "\"tie_word_embeddings\":%s,\"vocab_size\":%d}",
        (int)n[0], (int)n[1], (int)n[2], (int)n[3], (int)n[4], (int)n[5], eps, base,
        pd_gguf_tensor(g, "output.weight") ? "false" : "true",
        (int)pd_gguf_tensor(g, "token_embd.weight")->shape[1]);
    write_text("config.json", text);
    write_text("tokenizer.json", tokenizer);
    double want = loss_of(file);
    for (int bf16 = 0; bf16 < 2; bf16++) {
        write_as_folder(g, n[0] / n[2], bf16);
        double got = loss_of(dir);
        ck_assert_msg(got == want, "%.17g, not %.17g", got, want);
    }
    pd_gguf_close(g);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_checked_fixture(tc, make_dir, remove_dir);
    tcase_add_test(tc, a_sound_folder_opens);
    tcase_add_test(tc, what_is_not_needed_may_lie_there);
    tcase_add_test(tc, tensors_that_do_not_fit_are_refused_by_name);
    tcase_add_test(tc, a_dtype_that_is_no_weight_is_refused);
    tcase_add_test(tc, settings_that_are_not_done_are_refused_by_name);
    tcase_add_test(tc, an_index_and_its_shards_have_to_agree);
    tcase_add_test(tc, what_a_folder_lacks_is_named);
    tcase_add_test(tc, digest_is_of_names_sizes_and_bytes);
    tcase_add_test(tc, another_model_has_another_digest);
    tcase_add_test(tc, a_folder_has_the_losses_of_its_gguf_file);
}

PD_TEST_MAIN("folder", 60)
