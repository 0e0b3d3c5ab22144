/* test_merged.c - a merged model is the base plus the adapter, element by element, and nothing
 * else.
 *
 * That it computes what base and adapter do is shown on processes by tests/ctl/test_ctl.py; that
 * another engine reads it alike, by examples/peft_eval.py.
 */
#include "../../src/node/export_kind.h"
#include "../../src/node/merge.h"
#include "export_subject.h"
#include "peerd/bytes.h"
#include "peerd/file.h"
#include "peerd/quant.h"

#include <cjson/cJSON.h>
#include <signal.h>
#include <sys/resource.h>

static const char *const gguf_names[PD_TARGETS] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                                   "ffn_gate", "ffn_up", "ffn_down"};
static const char *const hf_names[PD_TARGETS] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

static pd_merged merged_of(const subject *s, uint32_t type) {
    return (pd_merged){.base = s->m.path,
                       .info = s->info,
                       .manifest = &s->manifest,
                       .view = s->view,
                       .type = type};
}

/* Element (o, i) of a target with what the view adds to it, in double. */
static double want(const subject *s, uint32_t l, uint32_t t, uint32_t o, uint32_t i) {
    uint32_t out, in;
    pd_model_shape(s->info, (pd_target)t, &out, &in);
    double sum = s->m.w[l][t][(size_t)o * in + i];
    const pd_lowrank *x = pd_view_at(s->view, l, (pd_target)t);
    for (uint32_t k = 0; (s->manifest.targets >> t & 1) && k < x->rank; k++)
        sum += (double)x->up[(size_t)k * out + o] * (double)x->down[(size_t)k * in + i];
    const pd_dense *d = pd_view_adapter(s->view)->dense;
    if (d && s->manifest.targets >> t & 1)
        sum += (double)pd_dense_at(d, d->first[l * PD_TARGETS + t] + (uint64_t)i * out + o);
    return sum;
}

/* Half a unit of the last place of a type, relative. */
static double unit(uint32_t type) {
    return type == PD_GGML_F32 ? 0x1p-22 : type == PD_GGML_F16 ? 0x1p-11 : 0x1p-8;
}

/* A whole target as it was written; hf: row o of Hugging Face's is one of the pair's halves. */
static void check_target(const subject *s, uint32_t l, uint32_t t, uint32_t type, bool hf,
                         const uint8_t *data) {
    uint32_t out, in, w = s->info->head_width;
    pd_model_shape(s->info, (pd_target)t, &out, &in);
    float *got = malloc((size_t)out * in * sizeof *got);
    ck_ok(pd_quant_read(type, data, (size_t)out * in, got));
    for (uint32_t o = 0; o < out; o++) {
        uint32_t row = o;
        if (hf && (t == PD_Q || t == PD_K))
            row = o / w * w + (o % w < w / 2 ? 2 * (o % w) : 2 * (o % w - w / 2) + 1);
        for (uint32_t i = 0; i < in; i++) {
            double x = want(s, l, t, row, i);
            ck_assert_double_le(fabs((double)got[(size_t)o * in + i] - x),
                                fabs(x) * unit(type) + 1e-6);
        }
    }
    free(got);
}

static void check_keys(const pd_gguf *base, const pd_gguf *g, bool retyped) {
    size_t at = 0;
    for (size_t i = 0; i < pd_gguf_keys(base); i++) {
        pd_str name, other, raw = pd_gguf_key_at(base, i, &name);
        if (retyped && name.n == 17 && memcmp(name.p, "general.file_type", 17) == 0)
            continue;
        pd_str copy = pd_gguf_key_at(g, at++, &other);
        ck_assert(raw.n == copy.n && memcmp(raw.p, copy.p, raw.n) == 0);
    }
    ck_assert_uint_eq(at, pd_gguf_keys(g));
}

/* The merged GGUF: keys, tensors that are no targets byte for byte, targets by their sum. */
static void check_gguf(const subject *s, uint32_t asked, uint32_t type) {
    pd_merged m = merged_of(s, asked);
    pd_gguf *g;
    ck_ok(pd_export_merged_gguf(in_dir(s, "merged.gguf"), &m));
    ck_ok(pd_gguf_open(in_dir(s, "merged.gguf"), &g));
    check_keys(s->file, g, type != PD_GGML_F32);
    ck_assert_uint_eq(pd_gguf_tensors(g), pd_gguf_tensors(s->file));
    for (size_t i = 0; i < pd_gguf_tensors(g); i++) {
        const pd_tensor *was = pd_gguf_tensor_at(s->file, i), *is = pd_gguf_tensor_at(g, i);
        char name[64];
        bool target = false;
        ck_assert_str_eq(was->name, is->name);
        ck_assert_mem_eq(was->shape, is->shape, sizeof was->shape);
        for (uint32_t k = 0; k < s->info->n_layers * PD_TARGETS; k++) {
            uint32_t l = k / PD_TARGETS, t = k % PD_TARGETS;
            snprintf(name, sizeof name, "blk.%u.%s.weight", l, gguf_names[t]);
            if (strcmp(name, is->name) != 0 || l < s->manifest.first_layer ||
                !(s->manifest.targets >> t & 1))
                continue;
            target = true;
            ck_assert_uint_eq(is->type, type);
            check_target(s, l, t, type, false, is->data);
        }
        if (!target) {
            ck_assert(is->type == was->type && is->size_bytes == was->size_bytes);
            ck_assert_mem_eq(is->data, was->data, was->size_bytes);
        }
    }
    pd_gguf_close(g);
    unlink(in_dir(s, "merged.gguf"));
}

START_TEST(test_gguf) {
    subject s = open_subject(PD_SPACE_ALIGNED, ALL_TARGETS);
    check_gguf(&s, PD_MERGED_AUTO, PD_GGML_F32);
    check_gguf(&s, PD_GGML_F16, PD_GGML_F16);
    check_gguf(&s, PD_GGML_BF16, PD_GGML_BF16);
    close_subject(&s);
    s = open_subject(PD_SPACE_LORA, 1u << PD_K | 1u << PD_DOWN);
    check_gguf(&s, PD_GGML_F16, PD_GGML_F16);
    close_subject(&s);
    s = open_twisted(PD_SPACE_ALIGNED, 1, ALL_TARGETS, true, &(twist){0}); /* layer 0 as it was */
    check_gguf(&s, PD_GGML_F16, PD_GGML_F16);
    close_subject(&s);
    s = open_subject(PD_SPACE_FULL, ALL_TARGETS);
    check_gguf(&s, PD_GGML_F32, PD_GGML_F32);
    close_subject(&s);
    s = open_subject(PD_SPACE_FULL, 1u << PD_V | 1u << PD_UP);
    check_gguf(&s, PD_GGML_BF16, PD_GGML_BF16);
    close_subject(&s);
}
END_TEST

/* Two nodes that hold the same records write the same bytes: a sum in another order, or fused,
 * would give the new run of each another base.
 */
START_TEST(test_same_everywhere) {
    subject s = open_subject(PD_SPACE_ALIGNED, ALL_TARGETS);
    pd_merged m = merged_of(&s, PD_GGML_F32);
    pd_gguf *g;
    char name[64];
    ck_ok(pd_export_merged_gguf(in_dir(&s, "merged.gguf"), &m));
    ck_ok(pd_gguf_open(in_dir(&s, "merged.gguf"), &g));
    for (uint32_t k = 0; k < s.info->n_layers * PD_TARGETS; k++) {
        uint32_t l = k / PD_TARGETS, t = k % PD_TARGETS, out, in;
        pd_model_shape(s.info, (pd_target)t, &out, &in);
        const pd_lowrank *x = pd_view_at(s.view, l, (pd_target)t);
        snprintf(name, sizeof name, "blk.%u.%s.weight", l, gguf_names[t]);
        const pd_tensor *got = pd_gguf_tensor(g, name);
        for (uint32_t i = 0; i < out * in; i++) {
            volatile float sum = (float)s.m.w[l][t][i];
            for (uint32_t r = 0; r < x->rank; r++) {
                volatile float product = x->up[r * out + i / in] * x->down[r * in + i % in];
                sum += product;
            }
            float is;
            memcpy(&is, got->data + 4 * i, 4);
            ck_assert_msg(is == sum, "%s %u: %a, not %a", name, i, (double)is, (double)sum);
        }
    }
    pd_gguf_close(g);
    close_subject(&s);
}
END_TEST

/* By default a matrix keeps a type that holds it, and what was quantised becomes F16. */
START_TEST(test_default_type) {
    pd_merged m = {.type = PD_MERGED_AUTO};
    ck_assert_uint_eq(pd_merge_type(&m, PD_GGML_F32), PD_GGML_F32);
    ck_assert_uint_eq(pd_merge_type(&m, PD_GGML_BF16), PD_GGML_BF16);
    ck_assert_uint_eq(pd_merge_type(&m, PD_GGML_F16), PD_GGML_F16);
    ck_assert_uint_eq(pd_merge_type(&m, PD_GGML_Q4_K), PD_GGML_F16);
    m.type = PD_GGML_BF16;
    ck_assert_uint_eq(pd_merge_type(&m, PD_GGML_F32), PD_GGML_BF16);
}
END_TEST

/* A quantised matrix is widened, added to and rounded once; more rows than go through memory at a
 * time. */
START_TEST(test_quantised) {
    enum { ROWS = 300, COLS = 64, BLOCK = 34 };
    static uint8_t blocks[ROWS * COLS / 32 * BLOCK];
    static float was[ROWS * COLS], is[ROWS * COLS], down[COLS], up[ROWS], rows[ROWS * COLS];
    static uint8_t bytes[4 * ROWS * COLS];
    subject s = open_subject(PD_SPACE_LORA, 1);
    pd_rng rng = {3};
    for (size_t i = 0; i < sizeof blocks; i++)
        blocks[i] =
            (uint8_t)(i % BLOCK < 2 ? 0x2c : pd_rng_uniform(&rng) * 256); /* d = 0x2c2c: 0.065 */
    for (int i = 0; i < COLS; i++)
        down[i] = (float)signed_uniform(&rng);
    for (int o = 0; o < ROWS; o++)
        up[o] = (float)signed_uniform(&rng);
    ck_ok(pd_quant_read(PD_GGML_Q8_0, blocks, ROWS * COLS, was));
    const pd_tensor t = {.name = "w",
                         .type = PD_GGML_Q8_0,
                         .n_dims = 2,
                         .shape = {COLS, ROWS, 1, 1},
                         .data = blocks,
                         .size_bytes = sizeof blocks};
    const pd_lowrank add = {.rank = 1, .down = down, .up = up};
    pd_merge_tensor at = {.t = &t, .add = &add, .type = PD_GGML_F16};
    pd_merge x = {.at = &at, .n = 1, .rows = rows, .bytes = bytes};
    pd_file_out *f;
    uint8_t *p;
    size_t n;
    ck_ok(pd_file_begin(in_dir(&s, "merged.gguf"), 0600, &f));
    ck_ok(pd_merge_put(&x, &at, f));
    ck_ok(pd_file_commit(f));
    ck_ok(pd_file_read(in_dir(&s, "merged.gguf"), 1 << 20, &p, &n));
    ck_assert_uint_eq(n, 2 * ROWS * COLS);
    ck_ok(pd_quant_read(PD_GGML_F16, p, ROWS * COLS, is));
    for (int i = 0; i < ROWS * COLS; i++) {
        double sum = (double)was[i] + (double)up[i / COLS] * (double)down[i % COLS];
        ck_assert_double_le(fabs((double)is[i] - sum), fabs(sum) * unit(PD_GGML_F16) + 1e-6);
    }
    free(p);
    close_subject(&s);
}
END_TEST

/* ---- Hugging Face ---- */

typedef struct safetensors {
    uint8_t *p;
    cJSON *header;
    const uint8_t *data;
    size_t n;
} safetensors;

static safetensors open_safetensors(const char *path) {
    safetensors f;
    ck_ok(pd_file_read(path, 1 << 24, &f.p, &f.n));
    uint64_t n = pd_load64(f.p);
    ck_assert(n % 8 == 0 && n + 8 <= f.n);
    f.header = cJSON_ParseWithLength((const char *)f.p + 8, n);
    ck_assert(f.header);
    f.data = f.p + 8 + n;
    f.n -= 8 + n;
    return f;
}

/* Bytes of a tensor of this type and shape (rows 0: a vector). */
static const uint8_t *tensor(const safetensors *f, const char *name, const char *dtype,
                             uint32_t rows, uint32_t cols) {
    cJSON *x = cJSON_GetObjectItemCaseSensitive(f->header, name);
    ck_assert_msg(x != NULL, "%s", name);
    cJSON *shape = cJSON_GetObjectItem(x, "shape"), *span = cJSON_GetObjectItem(x, "data_offsets");
    ck_assert_str_eq(cJSON_GetObjectItem(x, "dtype")->valuestring, dtype);
    int d = 0;
    ck_assert_int_eq(cJSON_GetArraySize(shape), rows ? 2 : 1);
    if (rows)
        ck_assert_int_eq(cJSON_GetArrayItem(shape, d++)->valueint, (int)rows);
    ck_assert_int_eq(cJSON_GetArrayItem(shape, d)->valueint, (int)cols);
    size_t from = (size_t)cJSON_GetArrayItem(span, 0)->valueint,
           to = (size_t)cJSON_GetArrayItem(span, 1)->valueint;
    ck_assert_uint_eq(to - from,
                      (size_t)(rows ? rows : 1) * cols * (strcmp(dtype, "F32") == 0 ? 4u : 2u));
    ck_assert_uint_le(to, f->n);
    return f->data + from;
}

static void check_vector(const safetensors *f, const char *name, const double *p, uint32_t n) {
    float *got = malloc(n * sizeof *got);
    ck_ok(pd_quant_read(PD_GGML_F32, tensor(f, name, "F32", 0, n), n, got));
    for (uint32_t i = 0; i < n; i++)
        ck_assert((double)got[i] == p[i]);
    free(got);
}

static void check_config(const subject *s) {
    uint8_t *p;
    size_t n;
    ck_ok(pd_file_read(in_dir(s, "hf/config.json"), 1 << 16, &p, &n));
    cJSON *j = cJSON_Parse((const char *)p);
    ck_assert(j);
    static const char *const names[] = {
        "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim",
        "vocab_size",  "intermediate_size",   "num_hidden_layers"};
    const uint32_t values[] = {s->m.c, s->m.h, s->m.kv, s->m.hd, s->m.v, s->m.f, L};
    for (int i = 0; i < 7; i++)
        ck_assert_msg(cJSON_GetObjectItem(j, names[i])->valueint == (int)values[i], "%s", names[i]);
    ck_assert_str_eq(cJSON_GetObjectItem(j, "model_type")->valuestring, "llama");
    ck_assert_str_eq(cJSON_GetObjectItem(j, "torch_dtype")->valuestring, "float16");
    ck_assert(!cJSON_IsTrue(cJSON_GetObjectItem(j, "tie_word_embeddings")));
    ck_assert((float)cJSON_GetObjectItem(j, "rms_norm_eps")->valuedouble == 1e-5f);
    ck_assert(cJSON_GetObjectItem(j, "rope_theta")->valuedouble == 10000);
    cJSON_Delete(j);
    free(p);
}

START_TEST(test_hf) {
    const twist whole_heads = {.key = "llama.rope.dimension_count", .value = 6};
    static const pd_space_kind kinds[] = {PD_SPACE_LORA, PD_SPACE_FULL};
    subject s = open_twisted(kinds[_i], 0, ALL_TARGETS & ~(1u << PD_K), false, &whole_heads);
    pd_merged m = merged_of(&s, PD_GGML_F16);
    char name[96];
    ck_ok(pd_export_merged_hf(in_dir(&s, "hf"), &m));
    safetensors f = open_safetensors(in_dir(&s, "hf/model.safetensors"));
    for (uint32_t l = 0; l < L; l++) {
        for (uint32_t t = 0; t < PD_TARGETS; t++) {
            bool added = s.manifest.targets >> t & 1; /* k is no target, but its rows move too */
            uint32_t out, in;
            pd_model_shape(s.info, (pd_target)t, &out, &in);
            snprintf(name, sizeof name, "model.layers.%u.%s.weight", l, hf_names[t]);
            check_target(&s, l, t, added ? PD_GGML_F16 : PD_GGML_F32, true,
                         tensor(&f, name, added ? "F16" : "F32", out, in));
        }
        snprintf(name, sizeof name, "model.layers.%u.input_layernorm.weight", l);
        check_vector(&f, name, s.m.attn_norm[l], s.m.c);
        snprintf(name, sizeof name, "model.layers.%u.post_attention_layernorm.weight", l);
        check_vector(&f, name, s.m.ffn_norm[l], s.m.c);
    }
    check_vector(&f, "model.norm.weight", s.m.out_norm, s.m.c);
    tensor(&f, "model.embed_tokens.weight", "F32", s.m.v, s.m.c);
    tensor(&f, "lm_head.weight", "F32", s.m.v, s.m.c);
    ck_assert_int_eq(cJSON_GetArraySize(f.header), 1 + 3 + L * (PD_TARGETS + 2));
    check_config(&s);
    cJSON_Delete(f.header);
    free(f.p);
    close_subject(&s);
}
END_TEST

/* ---- what goes wrong ---- */

static void refuse(pd_err e, pd_err code, const char *says) {
    ck_assert_msg(e == code, "%d: %s", e, pd_fail_text());
    ck_assert_msg(strstr(pd_fail_text(), says) != NULL, "%s", pd_fail_text());
}

/* A model of gigabytes is not replaced by mistake, the base least of all; another file than the
 * run's is not merged; and no half of a file stays.
 */
START_TEST(test_refusals) {
    subject s = open_subject(PD_SPACE_LORA, ALL_TARGETS);
    pd_merged m = merged_of(&s, PD_MERGED_AUTO);
    refuse(pd_export_merged_gguf(s.m.path, &m), PD_EEXIST, "is there already");
    refuse(pd_export_merged_gguf(in_dir(&s, "no/such.gguf"), &m), PD_ENOENT, "no/such.gguf");
    refuse(pd_export_merged_hf(in_dir(&s, "hf"), &m), PD_EUNSUPPORTED,
           "merged-gguf"); /* 4 of 6 turned */
    pd_manifest other = s.manifest;
    other.model_digest[0] ^= 1;
    m.manifest = &other;
    refuse(pd_export_merged_gguf(in_dir(&s, "merged.gguf"), &m), PD_EMISMATCH, s.m.path);
    close_subject(&s);
}
END_TEST

START_TEST(test_beyond_f16) {
    subject s = open_subject(PD_SPACE_LORA, ALL_TARGETS);
    pd_merged m = merged_of(&s, PD_GGML_F16);
    int32_t *a = malloc(s.manifest.n_coords * sizeof *a);
    for (uint64_t i = 0; i < s.manifest.n_coords; i++)
        a[i] = 1 << 30;
    pd_view_set(s.view, a, NULL, 0);
    free(a);
    refuse(pd_export_merged_gguf(in_dir(&s, "merged.gguf"), &m), PD_ENUMERIC, "--type bf16");
    m.type = PD_GGML_BF16;
    ck_ok(pd_export_merged_gguf(in_dir(&s, "merged.gguf"), &m));
    close_subject(&s);
}
END_TEST

/* A disk that takes no more is said, and gets its room back. */
START_TEST(test_no_room) {
    subject s = open_subject(PD_SPACE_LORA, ALL_TARGETS);
    pd_merged m = merged_of(&s, PD_MERGED_AUTO);
    const struct rlimit little = {4096, RLIM_INFINITY}, all = {RLIM_INFINITY, RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &little), 0);
    pd_err e = pd_export_merged_gguf(in_dir(&s, "merged.gguf"), &m);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &all), 0);
    refuse(e, PD_EIO, "merged.gguf.tmp: File too large");
    close_subject(&s);
}
END_TEST

START_TEST(test_kinds) {
    pd_export_kind k;
    ck_ok(pd_export_kind_parse("merged-gguf", "bf16", &k));
    ck_assert(k.format == PD_EXPORT_MERGED_GGUF && k.type == PD_GGML_BF16);
    ck_assert(!pd_export_kind_is_folder(&k));
    ck_ok(pd_export_kind_parse("merged-safetensors", NULL, &k));
    ck_assert(k.format == PD_EXPORT_MERGED_HF && k.type == PD_MERGED_AUTO);
    ck_assert(pd_export_kind_is_folder(&k));
    subject s = open_subject(PD_SPACE_FULL, 1u << PD_Q); /* no low rank to be written */
    pd_merged m = merged_of(&s, PD_MERGED_AUTO);
    ck_ok(pd_export_kind_parse("gguf", NULL, &k));
    refuse(pd_export_kind_write(&k, in_dir(&s, "adapter.gguf"), &m), PD_EUNSUPPORTED,
           "merged-gguf");
    ck_ok(pd_export_kind_parse("peft", NULL, &k));
    refuse(pd_export_kind_write(&k, in_dir(&s, "peft"), &m), PD_EUNSUPPORTED, "merged-gguf");
    close_subject(&s);
    refuse(pd_export_kind_parse("onnx", NULL, &k), PD_EUSAGE, "merged-safetensors");
    refuse(pd_export_kind_parse("merged-gguf", "q8_0", &k), PD_EUSAGE, "f16, bf16 or f32");
    refuse(pd_export_kind_parse("peft", "f16", &k), PD_EUSAGE, "--type");
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, test_gguf);
    tcase_add_test(tc, test_same_everywhere);
    tcase_add_test(tc, test_default_type);
    tcase_add_test(tc, test_quantised);
    tcase_add_loop_test(tc, test_hf, 0, 2);
    tcase_add_test(tc, test_refusals);
    tcase_add_test(tc, test_beyond_f16);
    tcase_add_test(tc, test_no_room);
    tcase_add_test(tc, test_kinds);
}

PD_TEST_MAIN("merged", 60)
