/* test_export.c - another engine must compute what this one does: names, shapes, order of rows,
 * factor.
 *
 * The layouts are read back by the engine's own GGUF reader and by a plain reading of the
 * safetensors header; examples/peft_eval.py is the check in another engine.
 */
#include "../../src/node/export.h"
#include "export_subject.h"
#include "peerd/bytes.h"
#include "peerd/file.h"

#include <cjson/cJSON.h>
#include <sys/stat.h>

static float file_f32(const uint8_t *p, size_t i) {
    uint32_t u = pd_load32(p + 4 * i);
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* Every element of A and B, bit for bit; hf: rows of q and k by the rule of the converter that made
 * such files: reshape (heads, 2, width / 2, in), swap the middle axes.
 */
static void compare(const subject *s, uint32_t layer, pd_target t, bool hf, const uint8_t *a,
                    const uint8_t *b) {
    const pd_lowrank *x = pd_view_at(s->view, layer, t);
    uint32_t out, in, w = s->info->head_width;
    pd_model_shape(s->info, t, &out, &in);
    for (size_t i = 0; i < (size_t)x->rank * in; i++)
        ck_assert(file_f32(a, i) == x->down[i]);
    for (uint32_t o = 0; o < out; o++) {
        uint32_t gguf = o;
        if (hf && (t == PD_Q || t == PD_K))
            for (uint32_t side = 0; side < 2; side++)
                for (uint32_t i = 0; i < w / 2; i++)
                    if (o % w == side * (w / 2) + i)
                        gguf = o / w * w + 2 * i + side;
        for (uint32_t k = 0; k < x->rank; k++)
            ck_assert(file_f32(b, (size_t)o * x->rank + k) == x->up[(size_t)k * out + gguf]);
    }
}

static const char *const gguf_names[PD_TARGETS] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                                   "ffn_gate", "ffn_up", "ffn_down"};
static const char *const hf_names[PD_TARGETS] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

static void check_gguf(const subject *s) {
    ck_ok(pd_export_gguf(in_dir(s, "adapter.gguf"), "micro", s->info, &s->manifest, s->view));
    pd_gguf *g;
    ck_ok(pd_gguf_open(in_dir(s, "adapter.gguf"), &g));
    const char *const texts[3][2] = {
        {"general.type", "adapter"}, {"general.architecture", "llama"}, {"adapter.type", "lora"}};
    for (int i = 0; i < 3; i++) {
        pd_str v;
        ck_assert(pd_gguf_str(g, texts[i][0], &v));
        ck_assert(v.n == strlen(texts[i][1]) && memcmp(v.p, texts[i][1], v.n) == 0);
    }
    double alpha;
    uint32_t rank = s->manifest.rank + (s->basis ? s->basis->r1 : 0), count = 0;
    ck_assert(pd_gguf_f64(g, "adapter.lora.alpha", &alpha) && alpha == rank);
    for (uint32_t l = 0; l < s->info->n_layers; l++)
        for (uint32_t t = 0; t < PD_TARGETS; t++) {
            if (l < s->manifest.first_layer || !(s->manifest.targets >> t & 1))
                continue;
            char name[2][64];
            const pd_tensor *x[2];
            for (int k = 0; k < 2; k++) {
                snprintf(name[k], sizeof name[k], "blk.%u.%s.weight.lora_%c", l, gguf_names[t],
                         'a' + k);
                x[k] = pd_gguf_tensor(g, name[k]);
                ck_assert_msg(x[k] && x[k]->type == PD_GGML_F32 && x[k]->n_dims == 2, "%s",
                              name[k]);
            }
            uint32_t out, in;
            pd_model_shape(s->info, (pd_target)t, &out, &in);
            ck_assert(x[0]->shape[0] == in && x[0]->shape[1] == rank);
            ck_assert(x[1]->shape[0] == rank && x[1]->shape[1] == out);
            compare(s, l, (pd_target)t, false, x[0]->data, x[1]->data);
            count += 2;
        }
    ck_assert_uint_eq(pd_gguf_tensors(g), count);
    pd_gguf_close(g);
}

/* One tensor of the header: its data; checks shape and that it begins where the last one ended. */
static const uint8_t *tensor(cJSON *header, const char *name, uint32_t rows, uint32_t cols,
                             const uint8_t *data, size_t *at) {
    cJSON *x = cJSON_GetObjectItemCaseSensitive(header, name);
    ck_assert_msg(x != NULL, "%s", name);
    cJSON *shape = cJSON_GetObjectItem(x, "shape"), *span = cJSON_GetObjectItem(x, "data_offsets");
    ck_assert_str_eq(cJSON_GetObjectItem(x, "dtype")->valuestring, "F32");
    ck_assert_int_eq(cJSON_GetArrayItem(shape, 0)->valueint, (int)rows);
    ck_assert_int_eq(cJSON_GetArrayItem(shape, 1)->valueint, (int)cols);
    ck_assert_int_eq(cJSON_GetArrayItem(span, 0)->valueint, (int)*at);
    const uint8_t *p = data + *at;
    *at += (size_t)rows * cols * 4;
    ck_assert_int_eq(cJSON_GetArrayItem(span, 1)->valueint, (int)*at);
    return p;
}

static void check_weights(const subject *s) {
    uint8_t *p;
    size_t n, at = 0;
    ck_ok(pd_file_read(in_dir(s, "peft/adapter_model.safetensors"), 1 << 24, &p, &n));
    uint64_t header_bytes = pd_load64(p);
    ck_assert(header_bytes % 8 == 0 && header_bytes < n);
    cJSON *header = cJSON_ParseWithLength((const char *)p + 8, header_bytes);
    ck_assert(header);
    uint32_t rank = s->manifest.rank + (s->basis ? s->basis->r1 : 0);
    int count = 1; /* __metadata__ */
    for (uint32_t l = 0; l < s->info->n_layers; l++)
        for (uint32_t t = 0; t < PD_TARGETS; t++) {
            if (l < s->manifest.first_layer || !(s->manifest.targets >> t & 1))
                continue;
            char name[2][128];
            for (int k = 0; k < 2; k++)
                snprintf(name[k], sizeof name[k],
                         "base_model.model.model.layers.%u.%s.lora_%c.weight", l, hf_names[t],
                         'A' + k);
            uint32_t out, in;
            pd_model_shape(s->info, (pd_target)t, &out, &in);
            const uint8_t *a = tensor(header, name[0], rank, in, p + 8 + header_bytes, &at);
            const uint8_t *b = tensor(header, name[1], out, rank, p + 8 + header_bytes, &at);
            compare(s, l, (pd_target)t, true, a, b);
            count += 2;
        }
    ck_assert_int_eq(cJSON_GetArraySize(header), count);
    ck_assert_uint_eq(8 + header_bytes + at, n);
    cJSON_Delete(header);
    free(p);
}

static void check_config(const subject *s) {
    uint8_t *p;
    size_t n;
    ck_ok(pd_file_read(in_dir(s, "peft/adapter_config.json"), 1 << 16, &p, &n));
    cJSON *j = cJSON_Parse((const char *)p);
    ck_assert(j);
    int rank = (int)(s->manifest.rank + (s->basis ? s->basis->r1 : 0));
    ck_assert_str_eq(cJSON_GetObjectItem(j, "peft_type")->valuestring, "LORA");
    ck_assert_str_eq(cJSON_GetObjectItem(j, "task_type")->valuestring, "CAUSAL_LM");
    ck_assert_str_eq(cJSON_GetObjectItem(j, "base_model_name_or_path")->valuestring,
                     "a \"name\"\nof two lines");
    ck_assert_int_eq(cJSON_GetObjectItem(j, "r")->valueint, rank);
    ck_assert_int_eq(cJSON_GetObjectItem(j, "lora_alpha")->valueint, rank);
    cJSON *modules = cJSON_GetObjectItem(j, "target_modules");
    int k = 0;
    for (uint32_t t = 0; t < PD_TARGETS; t++)
        if (s->manifest.targets >> t & 1)
            ck_assert_str_eq(cJSON_GetArrayItem(modules, k++)->valuestring,
                             strchr(hf_names[t], '.') + 1);
    ck_assert_int_eq(cJSON_GetArraySize(modules), k);
    cJSON *layers = cJSON_GetObjectItem(j, "layers_to_transform");
    ck_assert_int_eq(layers != NULL, s->manifest.first_layer > 0);
    for (uint32_t l = s->manifest.first_layer; layers && l < s->info->n_layers; l++)
        ck_assert_int_eq(cJSON_GetArrayItem(layers, (int)(l - s->manifest.first_layer))->valueint,
                         (int)l);
    ck_assert(!layers ||
              cJSON_GetArraySize(layers) == (int)(s->info->n_layers - s->manifest.first_layer));
    cJSON_Delete(j);
    free(p);
}

static void check_both(pd_space_kind kind, uint32_t first_layer, uint32_t targets) {
    subject s = open_twisted(kind, first_layer, targets, true, &(twist){0});
    check_gguf(&s);
    for (int again = 0; again < 2; again++) /* a second export replaces the first */
        ck_ok(pd_export_peft(in_dir(&s, "peft"), "a \"name\"\nof two lines", s.info, &s.manifest,
                             s.view));
    check_weights(&s);
    check_config(&s);
    close_subject(&s);
}

START_TEST(test_aligned) {
    check_both(PD_SPACE_ALIGNED, 0, ALL_TARGETS);
}
END_TEST

START_TEST(test_lora) {
    check_both(PD_SPACE_LORA, 0, ALL_TARGETS);
}
END_TEST

/* Only what the run trains may be named: PEFT would make zeros of the rest and warn. */
START_TEST(test_some_targets) {
    check_both(PD_SPACE_ALIGNED, 0, 1u << PD_K | 1u << PD_DOWN);
    check_both(PD_SPACE_LORA, 0, 1u << PD_Q | 1u << PD_GATE);
}
END_TEST

/* Layers that are left alone are not in the file, and PEFT is told not to make any there. */
START_TEST(test_upper_layers) {
    check_both(PD_SPACE_ALIGNED, 1, ALL_TARGETS);
    check_both(PD_SPACE_LORA, 1, 1u << PD_K | 1u << PD_DOWN);
}
END_TEST

/* A file in the way, or no folder to stand in: said, and nothing is left behind. */
START_TEST(test_refusals) {
    subject s = open_subject(PD_SPACE_ALIGNED, ALL_TARGETS);
    ck_assert_int_eq(pd_export_gguf(in_dir(&s, "no/such.gguf"), "m", s.info, &s.manifest, s.view),
                     PD_ENOENT);
    ck_assert_int_eq(pd_export_peft(in_dir(&s, "no/such"), "m", s.info, &s.manifest, s.view),
                     PD_ENOENT);
    ck_ok(pd_export_gguf(in_dir(&s, "adapter.gguf"), "m", s.info, &s.manifest, s.view));
    ck_assert_int_eq(pd_export_peft(in_dir(&s, "adapter.gguf"), "m", s.info, &s.manifest, s.view),
                     PD_EEXIST);
    close_subject(&s);
}
END_TEST

/* A base that has q and k in halves, as a folder's llama does: PEFT takes them as they are, GGUF's
 * llama wants pairs; qwen2 has halves in both. */
START_TEST(test_halves) {
    subject s = open_subject(PD_SPACE_LORA, 1u << PD_Q);
    const pd_lowrank *x = pd_view_at(s.view, 1, PD_Q);
    pd_model_info info = *s.info;
    uint32_t out, in, w = info.head_width;
    pd_model_shape(&info, PD_Q, &out, &in);
    info.position = PD_POSITION_HALVES;
    for (int qwen = 0; qwen < 2; qwen++) {
        strcpy(info.arch, qwen ? "qwen2" : "llama");
        ck_ok(pd_export_gguf(in_dir(&s, "adapter.gguf"), "m", &info, &s.manifest, s.view));
        pd_gguf *g;
        ck_ok(pd_gguf_open(in_dir(&s, "adapter.gguf"), &g));
        const pd_tensor *b = pd_gguf_tensor(g, "blk.1.attn_q.weight.lora_b");
        ck_assert_ptr_nonnull(b);
        for (uint32_t o = 0; o < out; o++) {
            uint32_t ours = qwen ? o : o / w * w + (o % 2) * (w / 2) + o % w / 2;
            for (uint32_t k = 0; k < x->rank; k++)
                ck_assert(file_f32(b->data, (size_t)o * x->rank + k) ==
                          x->up[(size_t)k * out + ours]);
        }
        pd_gguf_close(g);
    }
    close_subject(&s);
}
END_TEST

/* An adapter under names that the other engine has not would be dropped there, or worse. */
START_TEST(test_families) {
    subject s = open_subject(PD_SPACE_LORA, 1u << PD_V | 1u << PD_DOWN);
    pd_model_info info = *s.info;
    const char *const archs[] = {"gpt2", "gptneox", "opt"};
    for (int i = 0; i < 3; i++) {
        strcpy(info.arch, archs[i]);
        ck_assert_int_eq(pd_export_peft(in_dir(&s, "peft"), "m", &info, &s.manifest, s.view),
                         PD_EUNSUPPORTED);
        ck_assert_ptr_nonnull(strstr(pd_fail_text(), archs[i]));
        ck_assert_int_eq(
            pd_export_gguf(in_dir(&s, "adapter.gguf"), "m", &info, &s.manifest, s.view),
            PD_EUNSUPPORTED);
        ck_assert_ptr_nonnull(strstr(pd_fail_text(), archs[i]));
    }
    s.manifest.targets = 1u << PD_DOWN;
    strcpy(info.arch, "gpt2");
    ck_ok(pd_export_gguf(in_dir(&s, "adapter.gguf"), "m", &info, &s.manifest, s.view));
    close_subject(&s);
}
END_TEST

/* A name longer than anything planned for must not run out of the file's room. */
START_TEST(test_long_name) {
    subject s = open_subject(PD_SPACE_LORA, 1);
    char name[8192];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = 0;
    ck_ok(pd_export_gguf(in_dir(&s, "adapter.gguf"), name, s.info, &s.manifest, s.view));
    pd_gguf *g;
    pd_str v;
    ck_ok(pd_gguf_open(in_dir(&s, "adapter.gguf"), &g));
    ck_assert(pd_gguf_str(g, "general.name", &v) && v.n == sizeof name - 1);
    pd_gguf_close(g);
    close_subject(&s);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, test_aligned);
    tcase_add_test(tc, test_lora);
    tcase_add_test(tc, test_some_targets);
    tcase_add_test(tc, test_upper_layers);
    tcase_add_test(tc, test_refusals);
    tcase_add_test(tc, test_halves);
    tcase_add_test(tc, test_families);
    tcase_add_test(tc, test_long_name);
}

PD_TEST_MAIN("export", 60)
