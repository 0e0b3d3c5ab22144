/* test_merged_folder.c - a Hugging Face folder with an adapter merged into it is such a folder
 * again, and computes what base and adapter do.
 *
 * The bases are the families of vectors/families whose adapters have a word in Hugging Face.
 */
#include "../../src/node/export_kind.h"
#include "peerd/base.h"
#include "peerd/file.h"
#include "peerd/quant.h"
#include "safetensors_writer.h"
#include "train.h"

#include <cjson/cJSON.h>

enum { TOKENS = 24, TARGETS_KV = 1 << PD_K | 1 << PD_V | 1 << PD_GATE };

static const char *const families[] = {"llama",   "llama-linear", "llama3",
                                       "mistral", "qwen2",        "qwen3"};
enum { FAMILIES = sizeof families / sizeof *families };

static const char tokenizer[] =
    "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}";
static const char settings[] = "{\"add_bos_token\": false}";
static const char *const files[] = {"base/config.json",
                                    "base/tokenizer.json",
                                    "base/tokenizer_config.json",
                                    "base/model.safetensors",
                                    "base/model-1.safetensors",
                                    "base/model-2.safetensors",
                                    "base/model.safetensors.index.json",
                                    "base",
                                    "out/config.json",
                                    "out/tokenizer.json",
                                    "out/tokenizer_config.json",
                                    "out/model.safetensors",
                                    "out/model-1.safetensors",
                                    "out/model-2.safetensors",
                                    "out/model.safetensors.index.json",
                                    "out"};
static char dir[] = "/tmp/pd-merged-XXXXXX";

static const char *in_dir(const char *name) {
    static char path[2][256];
    static int k;
    k = !k;
    snprintf(path[k], sizeof path[k], "%s/%s", dir, name);
    return path[k];
}

static void copy_from(const char *family, const char *name) {
    char rel[128], to[64];
    uint8_t *p;
    size_t n;
    snprintf(rel, sizeof rel, "tests/vectors/families/%s/%s", family, name);
    snprintf(to, sizeof to, "base/%s", name);
    ck_ok(pd_file_read(pd_test_path(rel), 1 << 24, &p, &n));
    gw_write(in_dir(to), p, n);
    free(p);
}

static void make_base(const char *family) {
    strcpy(dir, "/tmp/pd-merged-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    ck_ok(pd_dir_make(in_dir("base")));
    gw_write(in_dir("base/tokenizer.json"), tokenizer, sizeof tokenizer - 1);
    gw_write(in_dir("base/tokenizer_config.json"), settings, sizeof settings - 1);
    copy_from(family, "config.json");
    copy_from(family, "model.safetensors");
}

static void remove_all(void) {
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        (void)remove(in_dir(files[i]));
    ck_assert_int_eq(rmdir(dir), 0); /* nothing else was left there */
}

/* The base's one file as two shards, tensors in turn, and an index. */
static void make_shards(void) {
    const char *path = in_dir("base/model.safetensors");
    pd_safetensors *s;
    sw w[2] = {{{0}, {0}}, {{0}, {0}}};
    cJSON *index = cJSON_CreateObject(), *map = cJSON_AddObjectToObject(index, "weight_map");
    ck_ok(pd_safetensors_open(&path, 1, &s));
    for (size_t i = 0; i < pd_safetensors_count(s); i++) {
        const pd_tensor *t = pd_safetensors_at(s, i);
        bool matrix = t->n_dims == 2;
        sw_tensor(&w[i % 2], t->name, pd_safetensors_dtype(s, i), matrix ? t->shape[1] : 0,
                  t->shape[0], (unsigned)pd_quant_block_bytes(t->type), t->data);
        cJSON_AddStringToObject(map, t->name,
                                i % 2 ? "model-2.safetensors" : "model-1.safetensors");
    }
    sw_save(&w[0], in_dir("base/model-1.safetensors"));
    sw_save(&w[1], in_dir("base/model-2.safetensors"));
    pd_safetensors_close(s);
    ck_assert_int_eq(unlink(in_dir("base/model.safetensors")), 0);
    char *text = cJSON_Print(index);
    gw_write(in_dir("base/model.safetensors.index.json"), text, strlen(text));
    free(text);
    cJSON_Delete(index);
}

/* ---- what it computes ---- */

static pd_model *open_model(const char *folder, uint8_t digest[32]) {
    static const pd_model_opts opts = {.compute = PD_COMPUTE_F32, .threads = 1};
    pd_base *b;
    pd_model *m;
    ck_ok(pd_base_open(in_dir(folder), &b));
    ck_ok(pd_base_model(b, &opts, &m));
    pd_base_digest(b, digest);
    pd_base_close(b);
    return m;
}

static double loss_of(const pd_model *m, const pd_adapter *side) {
    static uint8_t scored[TOKENS];
    uint32_t ids[TOKENS], n = TOKENS;
    pd_batch *b;
    pd_work *w;
    pd_loss loss;
    for (uint32_t i = 0; i < TOKENS; i++)
        ids[i] = (7 * i + i * i) % pd_model_info_of(m)->vocab;
    memset(scored, 1, sizeof scored);
    pd_example e = {.kind = PD_EXAMPLE_NLL,
                    .n_seqs = 1,
                    .seq_len = &n,
                    .ids = ids,
                    .scored = scored,
                    .n_tokens = n};
    ck_ok(pd_batch_open(TOKENS, 1, &b));
    ck_assert(pd_batch_add(b, &e));
    ck_ok(pd_work_open(m, TOKENS, 1, false, &w));
    pd_model_forward(m, w, b, side ? &side : NULL, 1, &loss, NULL);
    pd_work_close(w);
    pd_batch_close(b);
    return pd_loss_mean(&loss);
}

typedef struct subject {
    pd_model *model;
    pd_manifest manifest;
    pd_space *space;
    pd_view *view;
    pd_merged merged;
} subject;

static subject open_subject(uint32_t targets) {
    subject s = {0};
    pd_rng rng = {9};
    static char base[256];
    uint8_t digest[32];
    s.model = open_model("base", digest);
    const pd_model_info *info = pd_model_info_of(s.model);
    s.manifest = manifest_of(PD_SPACE_LORA, 2, targets, info);
    memcpy(s.manifest.model_digest, digest, 32);
    ck_ok(pd_space_open(&s.manifest, info, NULL, &s.space));
    ck_ok(pd_view_open(s.space, &s.view));
    int32_t *a = malloc(s.manifest.n_coords * sizeof *a);
    for (uint64_t i = 0; i < s.manifest.n_coords; i++)
        a[i] = (int32_t)(signed_uniform(&rng) * (1 << 18));
    pd_view_set(s.view, a, NULL, 0);
    free(a);
    snprintf(base, sizeof base, "%s", in_dir("base"));
    s.merged = (pd_merged){.base = base, .info = info, .view = s.view, .type = PD_GGML_F32};
    return s;
}

static pd_err export(subject *s, const char *format, const char *type) {
    pd_export_kind k;
    s->merged.manifest = &s->manifest;
    ck_ok(pd_export_kind_parse(format, type, &k));
    return pd_export_kind_write(&k, in_dir("out"), &s->merged);
}

static void close_subject(subject *s) {
    pd_view_close(s->view);
    pd_space_close(s->space);
    pd_model_close(s->model);
}

static void check_loss(subject *s, double most) {
    uint8_t digest[32];
    pd_model *m = open_model("out", digest);
    double base = loss_of(s->model, NULL), with = loss_of(s->model, pd_view_adapter(s->view)),
           merged = loss_of(m, NULL);
    ck_assert_msg(fabs(with - base) > 10 * most, "the adapter does nothing: %g, %g", base, with);
    ck_assert_msg(fabs(merged - with) <= most, "%g merged, %g apart", merged, with);
    pd_model_close(m);
}

static void same_file(const char *name) {
    char path[2][64];
    uint8_t *p, *q;
    size_t n, m;
    snprintf(path[0], sizeof path[0], "base/%s", name);
    snprintf(path[1], sizeof path[1], "out/%s", name);
    ck_ok(pd_file_read(in_dir(path[0]), 1 << 24, &p, &n));
    ck_ok(pd_file_read(in_dir(path[1]), 1 << 24, &q, &m));
    ck_assert_uint_eq(n, m);
    ck_assert_mem_eq(p, q, n);
    free(p);
    free(q);
}

/* Rows of q and k that stand in another order than the adapter's, a target left out, a name in the
 * folder that was not found: each is another loss.
 */
START_TEST(merged_computes_what_base_and_adapter_do) {
    make_base(families[_i / 2]);
    subject s = open_subject(_i % 2 ? TARGETS_KV : ALL_TARGETS);
    ck_ok(export(&s, "merged-safetensors", "f32"));
    check_loss(&s, 1e-5);
    same_file("tokenizer.json");
    same_file("tokenizer_config.json");
    close_subject(&s);
    remove_all();
}
END_TEST

/* What a base has in several files has the merged model too, and its types; what is no target of
 * the run stays byte for byte.
 */
START_TEST(shards_and_types_are_the_bases) {
    make_base("qwen2");
    make_shards();
    subject s = open_subject(TARGETS_KV);
    pd_base *a, *b;
    ck_ok(export(&s, "merged-safetensors", NULL));
    check_loss(&s, 1e-3); /* rounded */
    same_file("config.json");
    ck_ok(pd_base_open(in_dir("base"), &a));
    ck_ok(pd_base_open(in_dir("out"), &b));
    ck_assert_uint_eq(pd_base_shards(b), 2);
    const pd_safetensors *was = pd_base_tensors(a), *is = pd_base_tensors(b);
    ck_assert_uint_eq(pd_safetensors_count(was), pd_safetensors_count(is));
    size_t changed = 0;
    for (size_t i = 0; i < pd_safetensors_count(is); i++) {
        const pd_tensor *t = pd_safetensors_at(was, i), *u = pd_safetensors_at(is, i);
        ck_assert_str_eq(t->name, u->name);
        ck_assert(t->type == u->type && t->size_bytes == u->size_bytes);
        ck_assert_uint_eq(pd_safetensors_file(was, i), pd_safetensors_file(is, i));
        changed += memcmp(t->data, u->data, t->size_bytes) != 0;
    }
    ck_assert_uint_eq(changed, 3 * pd_model_info_of(s.model)->n_layers);
    pd_base_close(a);
    pd_base_close(b);
    close_subject(&s);
    remove_all();
}
END_TEST

/* transformers loads every tensor as the type that config.json names. */
START_TEST(the_config_names_the_type) {
    uint8_t *p;
    size_t n;
    make_base("llama");
    subject s = open_subject(ALL_TARGETS);
    ck_ok(export(&s, "merged-safetensors", "f16"));
    ck_ok(pd_file_read(in_dir("out/config.json"), 1 << 16, &p, &n));
    cJSON *j = cJSON_Parse((const char *)p), *type = cJSON_GetObjectItem(j, "dtype");
    type = type ? type : cJSON_GetObjectItem(j, "torch_dtype");
    ck_assert_ptr_nonnull(type);
    ck_assert_str_eq(type->valuestring, "float16");
    cJSON_Delete(j);
    free(p);
    close_subject(&s);
    remove_all();
}
END_TEST

static void refuse(pd_err e, pd_err code, const char *says) {
    ck_assert_msg(e == code, "%d: %s", e, pd_fail_text());
    ck_assert_msg(strstr(pd_fail_text(), says) != NULL, "%s", pd_fail_text());
    ck_assert(!pd_file_exists(in_dir("out/config.json")));
}

/* Nothing is written over, and what is not done is said before anything is made. */
START_TEST(refusals) {
    make_base("llama");
    subject s = open_subject(ALL_TARGETS);
    refuse(export(&s, "merged-gguf", NULL), PD_EUNSUPPORTED, "--format merged-safetensors");
    ck_ok(pd_dir_make(in_dir("out")));
    gw_write(in_dir("out/tokenizer.json"), "x", 1);
    refuse(export(&s, "merged-safetensors", NULL), PD_EEXIST, "out/tokenizer.json");
    s.manifest.model_digest[0] ^= 1;
    refuse(export(&s, "merged-safetensors", NULL), PD_EMISMATCH, "base");
    close_subject(&s);
    remove_all();
    make_base("opt");
    s = open_subject(TARGETS_KV & ~(1u << PD_GATE));
    refuse(export(&s, "merged-safetensors", NULL), PD_EUNSUPPORTED, "opt");
    close_subject(&s);
    remove_all();
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_loop_test(tc, merged_computes_what_base_and_adapter_do, 0, 2 * FAMILIES);
    tcase_add_test(tc, shards_and_types_are_the_bases);
    tcase_add_test(tc, the_config_names_the_type);
    tcase_add_test(tc, refusals);
}

PD_TEST_MAIN("merged folder", 60)
