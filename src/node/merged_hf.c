/* merged_hf.c - a GGUF file and an adapter as a Hugging Face folder; see export_merged.h.
 *
 * The names, shapes and order of rows are those of transformers' Llama.  Tensors stand in the
 * base's order.  The tokenizer is not written: GGUF keeps a tokenizer's tables, not the pipeline of
 * rules that a tokenizer.json is.
 */
#include "export.h"
#include "merge.h"
#include "peerd/bytes.h"

#include <assert.h>
#include <cjson/cJSON.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const files[] = {"model.safetensors", "README.md", "config.json"};

static const char readme[] =
    "# A model merged by peerd\n\n"
    "`model.safetensors` holds the base model with the adapter of a run added to it, `config.json` "
    "its\n"
    "shape.  The tokenizer is the base's and is not in this folder: copy `tokenizer.json`,\n"
    "`tokenizer_config.json` and what else belongs to them from the base model's own folder.\n";

/* ---- names ---- */

static const char *const whole[][2] = {{"token_embd.weight", "model.embed_tokens.weight"},
                                       {"output_norm.weight", "model.norm.weight"},
                                       {"output.weight", "lm_head.weight"}};
static const char *const norms[][2] = {{"attn_norm.weight", "input_layernorm"},
                                       {"ffn_norm.weight", "post_attention_layernorm"}};

/* Name of a tensor of a layer, and which target it is (PD_TARGETS: none). */
static const char *in_layer(const char *part, pd_target *t) {
    *t = PD_TARGETS;
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++)
        if (strcmp(part, norms[i][0]) == 0)
            return norms[i][1];
    for (int i = 0; i < PD_TARGETS; i++) {
        size_t n = strlen(pd_export_gguf_names[i]);
        if (strncmp(part, pd_export_gguf_names[i], n) == 0 && strcmp(part + n, ".weight") == 0) {
            *t = (pd_target)i;
            return pd_export_hf_names[i];
        }
    }
    return NULL;
}

/* What Hugging Face calls a tensor, and whether its rows change places. */
static pd_err rename_tensor(const pd_merge *x, pd_merge_tensor *at) {
    unsigned layer;
    int n = 0;
    pd_target target = PD_TARGETS;
    const char *part = NULL, *was = at->t->name;
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        if (strcmp(was, whole[i][0]) == 0) {
            snprintf(at->name, sizeof at->name, "%s", whole[i][1]);
            return PD_OK;
        }
    if (sscanf(was, "blk.%u.%n", &layer, &n) == 1 && n)
        part = in_layer(was + n, &target);
    if (!part)
        return pd_fail(PD_EUNSUPPORTED,
                       "tensor %s has no place in Hugging Face's Llama: use --format merged-gguf",
                       was);
    snprintf(at->name, sizeof at->name, "model.layers.%u.%s.weight", layer, part);
    if (target == PD_Q || target == PD_K)
        at->halves = x->of->info->head_width;
    return PD_OK;
}

/* ---- config.json ---- */

static void add_token(cJSON *j, const pd_merge *x, const char *name, const char *key) {
    uint64_t id;
    if (pd_gguf_u64(x->base, key, &id))
        cJSON_AddNumberToObject(j, name, (double)id);
    else
        cJSON_AddNullToObject(j, name);
}

/* Type of the first target, which stands for the model's. */
static uint32_t main_type(const pd_merge *x) {
    for (size_t i = 0; i < x->n; i++)
        if (x->at[i].add || x->at[i].dense)
            return x->at[i].type;
    return PD_GGML_F32;
}

static cJSON *config(const pd_merge *x) {
    const pd_model_info *i = x->of->info;
    double eps = 1e-6;
    (void)pd_gguf_f64(x->base, "llama.attention.layer_norm_rms_epsilon", &eps);
    cJSON *j = cJSON_CreateObject();
    cJSON *classes = cJSON_AddArrayToObject(j, "architectures");
    cJSON_AddItemToArray(classes, cJSON_CreateString("LlamaForCausalLM"));
    cJSON_AddStringToObject(j, "model_type", "llama");
    cJSON_AddNumberToObject(j, "vocab_size", i->vocab);
    cJSON_AddNumberToObject(j, "hidden_size", i->width);
    cJSON_AddNumberToObject(j, "intermediate_size", i->ff);
    cJSON_AddNumberToObject(j, "num_hidden_layers", i->n_layers);
    cJSON_AddNumberToObject(j, "num_attention_heads", i->n_heads);
    cJSON_AddNumberToObject(j, "num_key_value_heads", i->n_kv_heads);
    cJSON_AddNumberToObject(j, "head_dim", i->head_width);
    cJSON_AddNumberToObject(j, "max_position_embeddings", i->context);
    cJSON_AddNumberToObject(j, "rope_theta", (double)i->rope_base);
    cJSON_AddNumberToObject(j, "rms_norm_eps", eps);
    cJSON_AddStringToObject(j, "hidden_act", "silu");
    cJSON_AddBoolToObject(j, "attention_bias", false);
    cJSON_AddBoolToObject(j, "mlp_bias", false);
    cJSON_AddBoolToObject(j, "tie_word_embeddings", i->tied);
    cJSON_AddStringToObject(j, "torch_dtype", pd_merge_dtype(main_type(x)));
    add_token(j, x, "bos_token_id", "tokenizer.ggml.bos_token_id");
    add_token(j, x, "eos_token_id", "tokenizer.ggml.eos_token_id");
    return j;
}

static pd_err write_config(const char *path, const pd_merge *x) {
    cJSON *j = config(x);
    char *text = cJSON_Print(j);
    cJSON_Delete(j);
    if (!text)
        return pd_fail(PD_ENOMEM, "no memory for %s", path);
    pd_err e = pd_file_replace(path, text, strlen(text), 0644);
    free(text);
    return e;
}

/* Can a configuration of Hugging Face's Llama say what the base does? */
static pd_err check_family(const pd_merge *x) {
    const pd_model_info *i = x->of->info;
    uint64_t rotated = i->head_width;
    pd_str scaling;
    (void)pd_gguf_u64(x->base, "llama.rope.dimension_count", &rotated);
    if (strcmp(i->arch, "llama") != 0)
        return pd_fail(PD_EUNSUPPORTED,
                       "merged-safetensors is for the llama architecture, and the base is %s: use "
                       "--format merged-gguf",
                       i->arch);
    if (rotated != i->head_width || i->window ||
        (pd_gguf_str(x->base, "llama.rope.scaling.type", &scaling) &&
         !(scaling.n == 4 && memcmp(scaling.p, "none", 4) == 0)))
        return pd_fail(
            PD_EUNSUPPORTED,
            "the base turns only a part of each head, scales positions or attends within "
            "a window, which merged-safetensors does not write: use --format merged-gguf");
    return PD_OK;
}

/* ---- the folder ---- */

/* Safetensors has no blocks: what is quantised becomes floats. */
static void widen(pd_merge *x) {
    for (size_t i = 0; i < x->n; i++) {
        uint32_t *type = &x->at[i].type;
        if (*type != PD_GGML_F32 && *type != PD_GGML_F16 && *type != PD_GGML_BF16)
            *type = pd_merge_type(x->of, *type);
    }
}

static pd_err write_folder(const char *dir, char path[3][PATH_MAX], pd_merge *x) {
    widen(x);
    pd_err e = check_family(x);
    for (size_t i = 0; i < x->n && !e; i++)
        e = rename_tensor(x, &x->at[i]);
    if (!e)
        e = pd_dir_make(dir);
    if (!e)
        e = pd_merge_save(x, 0, x->n, path[0]);
    if (!e)
        e = pd_file_replace(path[1], readme, sizeof readme - 1, 0644);
    return e ? e : write_config(path[2], x);
}

pd_err pd_export_merged_hf(const char *dir, const pd_merged *m) {
    char path[3][PATH_MAX];
    pd_merge x;
    pd_err e = PD_OK;
    if (pd_base_is_folder(m->base))
        return pd_merge_folder(dir, m);
    for (int i = 0; i < 3 && !e; i++) {
        e = pd_path_join(path[i], PATH_MAX, dir, files[i]);
        if (!e)
            e = pd_merge_vacant(path[i]);
    }
    if (e)
        return e;
    e = pd_merge_open(m, &x);
    if (!e)
        e = write_folder(dir, path, &x);
    pd_merge_close(&x);
    return e;
}
