/* export.c - PEFT and GGUF adapter files; see export.h. */
#include "export.h"
#include "peerd/bytes.h"
#include "peerd/file.h"

#include <assert.h>
#include <cjson/cJSON.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    LINE_MAX_BYTES = 256, /* a tensor in either directory, its name included */
    HEADER_MAX_BYTES = 1024,
    GGUF_ALIGN = 32,
};

const char *const pd_export_hf_names[PD_TARGETS] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
const char *const pd_export_gguf_names[PD_TARGETS] = {
    "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"};

/* What is exported, and one of its tensors: A (r, in) or B (out, r) of one matrix. */
typedef struct adapter {
    const pd_model_info *info;
    const pd_view *view;
    uint32_t first_layer, targets, rank;
    uint32_t (*qk_row)(uint32_t o, uint32_t width); /* ours that becomes row o; NULL: o itself */
} adapter;

typedef struct tensor {
    uint32_t layer;
    pd_target target;
    bool b;
    uint32_t rows, cols; /* cols fastest */
} tensor;

static adapter adapter_of(const pd_model_info *info, const pd_manifest *m, const pd_view *v) {
    adapter a = {.info = info, .view = v, .first_layer = m->first_layer, .targets = m->targets};
    for (uint32_t t = 0; t < PD_TARGETS && !a.rank; t++)
        if (m->targets >> t & 1)
            a.rank = pd_view_at(v, m->first_layer, (pd_target)t)->rank;
    assert(a.rank); /* a manifest has a target */
    return a;
}

/* The adapter's tensors in file order: by layer, by target, A before B.  *i counts candidates;
 * false at the end.
 */
static bool next_tensor(const adapter *a, uint32_t *i, tensor *out) {
    for (; *i < a->info->n_layers * PD_TARGETS * 2; (*i)++) {
        pd_target t = (pd_target)(*i / 2 % PD_TARGETS);
        if (*i / 2 / PD_TARGETS < a->first_layer || !(a->targets >> t & 1))
            continue;
        uint32_t rows, cols;
        pd_model_shape(a->info, t, &rows, &cols);
        bool b = *i % 2;
        *out = (tensor){*i / 2 / PD_TARGETS, t, b, b ? rows : a->rank, b ? a->rank : cols};
        (*i)++;
        return true;
    }
    return false;
}

static size_t tensor_bytes(const tensor *t) {
    return (size_t)t->rows * t->cols * 4;
}

uint32_t pd_export_paired_row(uint32_t o, uint32_t width) {
    uint32_t head = o / width, at = o % width, half = width / 2;
    return head * width + (at % half) * 2 + at / half;
}

static uint32_t halved_row(uint32_t o, uint32_t width) {
    uint32_t head = o / width, at = o % width, half = width / 2;
    return head * width + at % 2 * half + at / 2;
}

static bool is_llama_kin(const pd_model_info *info) { /* its tensors are called as Llama's */
    return strcmp(info->arch, "llama") == 0 || strcmp(info->arch, "qwen2") == 0 ||
           strcmp(info->arch, "qwen3") == 0;
}

static void put_f32(pd_writer *w, float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    pd_put_u32(w, u);
}

static void put_tensor(pd_writer *w, const adapter *a, const tensor *t) {
    const pd_lowrank *x = pd_view_at(a->view, t->layer, t->target);
    bool reorder = a->qk_row && (t->target == PD_Q || t->target == PD_K);
    for (uint32_t i = 0; i < t->rows; i++) {
        uint32_t row = t->b && reorder ? a->qk_row(i, a->info->head_width) : i;
        for (uint32_t j = 0; j < t->cols; j++)
            put_f32(w, t->b ? x->up[(size_t)j * t->rows + row] : x->down[(size_t)i * t->cols + j]);
    }
}

/* Room for all tensors, their directory and `more` bytes of text: at least what is then written. */
static pd_err open_file(const adapter *a, size_t more, uint8_t **p, pd_writer *w) {
    size_t room = HEADER_MAX_BYTES + more;
    tensor t;
    for (uint32_t i = 0; next_tensor(a, &i, &t);)
        room += LINE_MAX_BYTES + tensor_bytes(&t) + GGUF_ALIGN;
    *p = malloc(room);
    if (!*p)
        return pd_fail(PD_ENOMEM, "no memory for an adapter file of %zu bytes", room);
    *w = pd_writer_of(*p, room);
    return PD_OK;
}

static void pad(pd_writer *w, const uint8_t *start, size_t align, uint8_t with) {
    while ((size_t)(w->p - start) % align)
        pd_put_u8(w, with);
}

/* Replace `path` by what was written; frees it. */
static pd_err save(const char *path, uint8_t *p, const pd_writer *w) {
    assert(w->ok);
    pd_err e = pd_file_replace(path, p, (size_t)(w->p - p), 0644);
    free(p);
    return e;
}

/* ---- PEFT ---- */

/* length of header u64 | header: JSON, padded with spaces to 8 bytes | data */
static void put_safetensors(const adapter *a, pd_writer *w) {
    uint8_t *start = w->p;
    size_t at = 0;
    tensor t;
    char line[LINE_MAX_BYTES];
    pd_put_u64(w, 0);
    static const char head[] = "{\"__metadata__\":{\"format\":\"pt\"}";
    pd_put_bytes(w, head, sizeof head - 1);
    for (uint32_t i = 0; next_tensor(a, &i, &t); at += tensor_bytes(&t)) {
        int n =
            snprintf(line, sizeof line,
                     ",\"base_model.model.model.layers.%u.%s.lora_%c.weight\":{\"dtype\":\"F32\","
                     "\"shape\":[%u,%u],\"data_offsets\":[%zu,%zu]}",
                     t.layer, pd_export_hf_names[t.target], t.b ? 'B' : 'A', t.rows, t.cols, at,
                     at + tensor_bytes(&t));
        assert(n > 0 && n < (int)sizeof line);
        pd_put_bytes(w, line, (size_t)n);
    }
    pd_put_u8(w, '}');
    pad(w, start, 8, ' ');
    pd_store64(start, (uint64_t)(w->p - start) - 8);
    for (uint32_t i = 0; next_tensor(a, &i, &t);)
        put_tensor(w, a, &t);
}

static pd_err write_weights(const char *path, const adapter *a) {
    uint8_t *p;
    pd_writer w;
    pd_err e = open_file(a, 0, &p, &w);
    if (e)
        return e;
    put_safetensors(a, &w);
    return save(path, p, &w);
}

static pd_err write_config(const char *path, const adapter *a, const char *base_name) {
    cJSON *j = cJSON_CreateObject();
    cJSON_AddStringToObject(j, "peft_type", "LORA");
    cJSON_AddStringToObject(j, "task_type", "CAUSAL_LM");
    cJSON_AddStringToObject(j, "base_model_name_or_path", base_name);
    cJSON_AddNumberToObject(j, "r", a->rank);
    cJSON_AddNumberToObject(j, "lora_alpha", a->rank);
    cJSON_AddNumberToObject(j, "lora_dropout", 0);
    cJSON_AddStringToObject(j, "bias", "none");
    cJSON_AddBoolToObject(j, "fan_in_fan_out", false);
    cJSON_AddBoolToObject(j, "inference_mode", true);
    cJSON *modules = cJSON_AddArrayToObject(j, "target_modules");
    for (uint32_t t = 0; t < PD_TARGETS; t++)
        if (a->targets >> t & 1)
            cJSON_AddItemToArray(modules,
                                 cJSON_CreateString(strchr(pd_export_hf_names[t], '.') + 1));
    /* Without it PEFT would put fresh matrices into the layers that the file has none for. */
    cJSON *layers = a->first_layer ? cJSON_AddArrayToObject(j, "layers_to_transform") : NULL;
    for (uint32_t l = a->first_layer; layers && l < a->info->n_layers; l++)
        cJSON_AddItemToArray(layers, cJSON_CreateNumber(l));
    char *text = cJSON_Print(j);
    cJSON_Delete(j);
    if (!text)
        return pd_fail(PD_ENOMEM, "no memory for %s", path);
    pd_err e = pd_file_replace(path, text, strlen(text), 0644);
    free(text);
    return e;
}

pd_err pd_export_peft(const char *dir, const char *base_name, const pd_model_info *info,
                      const pd_manifest *m, const pd_view *v) {
    if (!is_llama_kin(info))
        return pd_fail(PD_EUNSUPPORTED,
                       "a PEFT adapter of a %s model is not written here (llama, qwen2 and qwen3)",
                       info->arch);
    adapter a = adapter_of(info, m, v);
    if (info->position == PD_POSITION_PAIRS)
        a.qk_row = pd_export_paired_row;
    char weights[PATH_MAX], config[PATH_MAX];
    pd_err e = pd_path_join(weights, sizeof weights, dir, "adapter_model.safetensors");
    if (!e)
        e = pd_path_join(config, sizeof config, dir, "adapter_config.json");
    if (!e)
        e = pd_dir_make(dir);
    if (!e)
        e = write_weights(weights, &a);
    return e ? e : write_config(config, &a, base_name);
}

/* ---- GGUF ---- */

enum { GGUF_VERSION = 3, GGUF_KEY_F32 = 6, GGUF_KEY_STRING = 8 };

static void put_text(pd_writer *w, const char *s) {
    pd_put_u64(w, strlen(s));
    pd_put_bytes(w, s, strlen(s));
}

static void put_key(pd_writer *w, const char *key, const char *value) {
    put_text(w, key);
    pd_put_u32(w, GGUF_KEY_STRING);
    put_text(w, value);
}

/* magic, version, counts | keys | directory | data, each tensor at a multiple of 32 bytes; names
 * and shapes as llama.cpp's adapter loader wants them: lora_a ne = (in, r), lora_b ne = (r, out),
 * ne[0] fastest.
 */
static void put_gguf(const adapter *a, const char *base_name, pd_writer *w) {
    uint8_t *start = w->p;
    uint64_t count = 0, at = 0;
    tensor t;
    char name[PD_GGUF_NAME_MAX];
    for (uint32_t i = 0; next_tensor(a, &i, &t);)
        count++;
    pd_put_bytes(w, "GGUF", 4);
    pd_put_u32(w, GGUF_VERSION);
    pd_put_u64(w, count);
    pd_put_u64(w, 5);
    put_key(w, "general.type", "adapter");
    put_key(w, "general.architecture", a->info->arch);
    put_key(w, "general.name", base_name);
    put_key(w, "adapter.type", "lora");
    put_text(w, "adapter.lora.alpha");
    pd_put_u32(w, GGUF_KEY_F32);
    put_f32(w, (float)a->rank);
    for (uint32_t i = 0; next_tensor(a, &i, &t);) {
        snprintf(name, sizeof name, "blk.%u.%s.weight.lora_%c", t.layer,
                 pd_export_gguf_names[t.target], t.b ? 'b' : 'a');
        put_text(w, name);
        pd_put_u32(w, 2);
        pd_put_u64(w, t.cols);
        pd_put_u64(w, t.rows);
        pd_put_u32(w, PD_GGML_F32);
        pd_put_u64(w, at);
        at += (tensor_bytes(&t) + GGUF_ALIGN - 1) / GGUF_ALIGN * GGUF_ALIGN;
    }
    for (uint32_t i = 0; next_tensor(a, &i, &t);) {
        pad(w, start, GGUF_ALIGN, 0);
        put_tensor(w, a, &t);
    }
    pad(w, start, GGUF_ALIGN, 0);
}

pd_err pd_export_gguf(const char *path, const char *base_name, const pd_model_info *info,
                      const pd_manifest *m, const pd_view *v) {
    bool fused = strcmp(info->arch, "gpt2") == 0 || strcmp(info->arch, "gptneox") == 0;
    if (!is_llama_kin(info) && !fused)
        return pd_fail(PD_EUNSUPPORTED, "GGUF has no word for a %s model", info->arch);
    if (fused && m->targets & (1u << PD_Q | 1u << PD_K | 1u << PD_V))
        return pd_fail(PD_EUNSUPPORTED,
                       "a GGUF file of a %s model holds q, k and v as one matrix: an adapter that "
                       "has them apart is not written here",
                       info->arch);
    adapter a = adapter_of(info, m, v);
    if (strcmp(info->arch, "llama") == 0 && info->position == PD_POSITION_HALVES)
        a.qk_row = halved_row;
    uint8_t *p;
    pd_writer w;
    pd_err e = open_file(&a, strlen(base_name), &p, &w);
    if (e)
        return e;
    put_gguf(&a, base_name, &w);
    return save(path, p, &w);
}
