/* hf_config.c - config.json of the classes that we compute, as the engine's description; see hf.h.
 *
 * Keys and their defaults are those of Hugging Face transformers' configuration_*.py of each
 * family, both as they have been written for years (rope_theta, rope_scaling, rotary_pct) and as
 * its version 5 writes them (rope_parameters).  A setting that would change what is computed, and
 * that the engine does not do, is refused by name; settings of training (dropout, initialisers) are
 * not read.
 */
#include "hf.h"
#include "utf8.h"

#include <inttypes.h>
#include <string.h>

/* What a class is before its file says anything.  Llama is what GGUF calls so, the order of its
 * rows included (weights_hf.c), so that adapters mean the same for both. */
static const struct {
    const char *class;
    hf_layout layout;
    bool tied; /* where the file does not say */
    pd_model_info info;
} classes[] = {
    {"LlamaForCausalLM", HF_LLAMA, false, {.arch = "llama", .position = PD_POSITION_PAIRS}},
    {"MistralForCausalLM", HF_LLAMA, false, {.arch = "llama", .position = PD_POSITION_PAIRS}},
    {"Qwen2ForCausalLM",
     HF_LLAMA,
     false,
     {.arch = "qwen2", .position = PD_POSITION_HALVES, .qkv_bias = true}},
    {"Qwen3ForCausalLM",
     HF_LLAMA,
     false,
     {.arch = "qwen3", .position = PD_POSITION_HALVES, .qk_norm = true}},
    {"GPT2LMHeadModel",
     HF_GPT2,
     true,
     {.arch = "gpt2",
      .position = PD_POSITION_LEARNED,
      .norm = PD_NORM_LAYER,
      .activation = PD_ACT_GELU_TANH,
      .no_gate = true,
      .qkv_bias = true,
      .o_bias = true,
      .ffn_bias = true}},
    {"GPTNeoXForCausalLM",
     HF_NEOX,
     false,
     {.arch = "gptneox",
      .position = PD_POSITION_HALVES,
      .norm = PD_NORM_LAYER,
      .activation = PD_ACT_GELU,
      .no_gate = true,
      .qkv_bias = true,
      .o_bias = true,
      .ffn_bias = true,
      .parallel = true}},
    {"OPTForCausalLM",
     HF_OPT,
     true,
     {.arch = "opt",
      .position = PD_POSITION_LEARNED,
      .norm = PD_NORM_LAYER,
      .activation = PD_ACT_RELU,
      .no_gate = true,
      .qkv_bias = true,
      .o_bias = true,
      .ffn_bias = true}},
};

enum { CLASSES = sizeof classes / sizeof *classes };

/* ---- keys ---- */

static pd_err missing(const char *key, const char *kind) {
    return pd_fail(PD_EFORMAT, "%s is missing or not %s", key, kind);
}

/* A count that has to be there; pd_info_check knows the bounds. */
static pd_err count_of(const cJSON *c, const char *key, uint32_t *out) {
    uint64_t v;
    if (!json_count(json_at(c, key), &v) || v < 1 || v > UINT32_MAX)
        return missing(key, "a count of 1 or more");
    *out = (uint32_t)v;
    return PD_OK;
}

/* A count that may be missing or null: *out stays. */
static pd_err count_if(const cJSON *c, const char *key, uint32_t *out) {
    return json_at(c, key) ? count_of(c, key, out) : PD_OK;
}

static pd_err number_if(const cJSON *c, const char *key, double *out) {
    const cJSON *v = json_at(c, key);
    if (v && !cJSON_IsNumber(v))
        return missing(key, "a number");
    *out = v ? v->valuedouble : *out;
    return PD_OK;
}

static pd_err flag_if(const cJSON *c, const char *key, bool *out) {
    const cJSON *v = json_at(c, key);
    if (v && !cJSON_IsBool(v))
        return missing(key, "true or false");
    *out = v ? cJSON_IsTrue(v) : *out;
    return PD_OK;
}

/* A setting that has to be as given, where it is said. */
static pd_err require(const cJSON *c, const char *key, bool want) {
    bool v = want;
    pd_err e = flag_if(c, key, &v);
    return e || v == want
               ? e
               : pd_fail(PD_EUNSUPPORTED, "%s = %s is not supported", key, v ? "true" : "false");
}

static pd_err read_counts(const cJSON *c, const char *const keys[5], pd_model_info *i) {
    uint32_t *const out[5] = {&i->width, &i->n_layers, &i->n_heads, &i->context, &i->vocab};
    pd_err e = PD_OK;
    for (int k = 0; k < 5 && !e; k++)
        e = count_of(c, keys[k], out[k]);
    if (e)
        return e;
    i->n_kv_heads = i->n_heads;
    i->head_width = i->width / i->n_heads;
    return PD_OK;
}

static pd_err read_eps(const cJSON *c, const char *key, double eps, pd_model_info *i) {
    pd_err e = number_if(c, key, &eps);
    i->eps = (float)eps;
    return e;
}

static pd_err read_activation(const cJSON *c, const char *key, pd_model_info *i) {
    static const struct {
        const char *name;
        pd_activation activation;
    } known[] = {{"silu", PD_ACT_SILU},
                 {"swish", PD_ACT_SILU},
                 {"gelu", PD_ACT_GELU},
                 {"gelu_new", PD_ACT_GELU_TANH},
                 {"gelu_fast", PD_ACT_GELU_TANH},
                 {"gelu_pytorch_tanh", PD_ACT_GELU_TANH},
                 {"relu", PD_ACT_RELU}};
    char shown[PD_SHOW_ROOM];
    const char *name = json_text(c, key);
    if (!json_at(c, key))
        return PD_OK;
    if (!name)
        return missing(key, "a name");
    for (size_t k = 0; k < sizeof known / sizeof *known; k++)
        if (strcmp(name, known[k].name) == 0) {
            i->activation = known[k].activation;
            return PD_OK;
        }
    return pd_fail(PD_EUNSUPPORTED, "%s = %s is not supported", key,
                   pd_show(name, strlen(name), shown));
}

/* ---- rotary positions ---- */

/* The one number of a scaling that has to be there. */
static pd_err scaling_number(const cJSON *c, const char *key, double *out) {
    const cJSON *v = json_at(c, key);
    if (!cJSON_IsNumber(v) || !(v->valuedouble > 0 && v->valuedouble < 1e9))
        return missing(key, "a positive number");
    *out = v->valuedouble;
    return PD_OK;
}

static pd_err read_scaling(const cJSON *scaling, const char *kind, pd_model_info *i) {
    double factor = 0, low = 0, high = 0, original = 0;
    char shown[PD_SHOW_ROOM];
    bool llama3 = strcmp(kind, "llama3") == 0;
    if (!llama3 && strcmp(kind, "linear") != 0)
        return pd_fail(PD_EUNSUPPORTED, "rope scaling of type %s is not supported",
                       pd_show(kind, strlen(kind), shown));
    pd_err e = scaling_number(scaling, "factor", &factor);
    if (!e && llama3)
        e = scaling_number(scaling, "low_freq_factor", &low);
    if (!e && llama3)
        e = scaling_number(scaling, "high_freq_factor", &high);
    if (!e && llama3)
        e = scaling_number(scaling, "original_max_position_embeddings", &original);
    if (!e && llama3 && !(low < high))
        e = pd_fail(PD_EFORMAT, "low_freq_factor is not below high_freq_factor");
    if (e)
        return e;
    if (llama3)
        pd_rope_llama3(i, factor, low, high, original);
    else
        pd_rope_linear(i, factor);
    return PD_OK;
}

/* rope_parameters holds everything; before, the base stood beside rope_scaling, NeoX's as
 * rotary_emb_base. */
static pd_err read_rope(const cJSON *c, double share, pd_model_info *i) {
    const cJSON *all = json_at(c, "rope_parameters"),
                *scaling = all ? all : json_at(c, "rope_scaling");
    double base = 10000.0;
    if (scaling && !cJSON_IsObject(scaling))
        return missing(all ? "rope_parameters" : "rope_scaling", "an object");
    pd_err e = number_if(c, "rotary_emb_base", &base);
    if (!e)
        e = number_if(c, "rope_theta", &base);
    if (!e)
        e = number_if(all, "rope_theta", &base);
    if (!e)
        e = number_if(c, "rotary_pct", &share);
    if (!e)
        e = number_if(c, "partial_rotary_factor", &share);
    if (!e)
        e = number_if(all, "partial_rotary_factor", &share);
    if (!e && !(share > 0 && share <= 1))
        e = pd_fail(PD_EFORMAT, "the share of a head that turns is not above 0 and at most 1");
    if (e)
        return e;
    i->rope_base = (float)base;
    i->rotated = (uint32_t)(share * i->head_width);
    if (i->rotated > PD_ROTATED_MAX || i->rotated % 2)
        return pd_fail(PD_EUNSUPPORTED,
                       "%" PRIu32
                       " rotated elements of a head: this engine takes an even number up to %d",
                       i->rotated, PD_ROTATED_MAX);
    const char *kind = json_text(scaling, "rope_type");
    kind = kind ? kind : json_text(scaling, "type");
    return !kind || strcmp(kind, "default") == 0 ? PD_OK : read_scaling(scaling, kind, i);
}

/* ---- families ---- */

/* Windows that differ between layers (Qwen) have no place in the description. */
static pd_err read_window(const cJSON *c, pd_model_info *i) {
    const cJSON *type;
    pd_err e = require(c, "use_sliding_window", false);
    if (e)
        return e;
    bool mistral = strcmp(i->arch, "llama") == 0;
    cJSON_ArrayForEach(type, json_at(c, "layer_types")) {
        const char *text = cJSON_GetStringValue(type);
        if (!text || strcmp(text, "full_attention") != 0)
            return pd_fail(PD_EUNSUPPORTED,
                           "layer_types other than full_attention are not supported");
    }
    return mistral ? count_if(c, "sliding_window", &i->window) : PD_OK;
}

static pd_err read_llama(const cJSON *c, pd_model_info *i) {
    static const char *const keys[] = {"hidden_size", "num_hidden_layers", "num_attention_heads",
                                       "max_position_embeddings", "vocab_size"};
    bool qwen2 = strcmp(i->arch, "qwen2") == 0, bias = false;
    pd_err e = read_counts(c, keys, i);
    if (!e)
        e = count_of(c, "intermediate_size", &i->ff);
    if (!e)
        e = count_if(c, "num_key_value_heads", &i->n_kv_heads);
    if (!e)
        e = count_if(c, "head_dim", &i->head_width);
    if (!e)
        e = json_at(c, "rms_norm_eps") ? read_eps(c, "rms_norm_eps", 0, i)
                                       : missing("rms_norm_eps", "a number");
    if (!e)
        e = read_activation(c, "hidden_act", i);
    if (!e)
        e = flag_if(c, "attention_bias", &bias);
    if (!e)
        e = flag_if(c, "mlp_bias", &i->ffn_bias);
    if (e)
        return e;
    if (!qwen2) /* Qwen2's q, k and v have one, its o has none, whatever the file says */
        i->qkv_bias = i->o_bias = bias;
    if (i->activation != PD_ACT_SILU)
        return pd_fail(PD_EUNSUPPORTED, "a gate without silu is not supported");
    e = read_window(c, i);
    return e ? e : read_rope(c, 1.0, i);
}

static pd_err read_gpt2(const cJSON *c, pd_model_info *i) {
    static const char *const keys[] = {"n_embd", "n_layer", "n_head", "n_positions", "vocab_size"};
    pd_err e = read_counts(c, keys, i);
    i->ff = 4 * (i->width < 1 << 20 ? i->width : 0);
    if (!e)
        e = count_if(c, "n_inner", &i->ff);
    if (!e)
        e = read_eps(c, "layer_norm_epsilon", 1e-5, i);
    if (!e)
        e = read_activation(c, "activation_function", i);
    if (!e)
        e = require(c, "scale_attn_weights", true);
    if (!e)
        e = require(c, "scale_attn_by_inverse_layer_idx", false);
    return e ? e : require(c, "add_cross_attention", false);
}

static pd_err read_neox(const cJSON *c, pd_model_info *i) {
    static const char *const keys[] = {"hidden_size", "num_hidden_layers", "num_attention_heads",
                                       "max_position_embeddings", "vocab_size"};
    pd_err e = read_counts(c, keys, i);
    if (!e)
        e = count_of(c, "intermediate_size", &i->ff);
    if (!e)
        e = read_eps(c, "layer_norm_eps", 1e-5, i);
    if (!e)
        e = read_activation(c, "hidden_act", i);
    if (!e)
        e = flag_if(c, "use_parallel_residual", &i->parallel);
    if (!e)
        e = flag_if(c, "attention_bias", &i->qkv_bias);
    i->o_bias = i->qkv_bias;
    return e ? e : read_rope(c, 0.25, i);
}

static pd_err read_opt(const cJSON *c, pd_model_info *i) {
    static const char *const keys[] = {"hidden_size", "num_hidden_layers", "num_attention_heads",
                                       "max_position_embeddings", "vocab_size"};
    uint32_t embed = 0;
    pd_err e = read_counts(c, keys, i);
    embed = i->width;
    i->eps = 1e-5f; /* torch.nn.LayerNorm's; the file has no key for it */
    if (!e)
        e = count_of(c, "ffn_dim", &i->ff);
    if (!e)
        e = count_if(c, "word_embed_proj_dim", &embed);
    if (!e && embed != i->width)
        e = pd_fail(PD_EUNSUPPORTED, "word_embed_proj_dim other than hidden_size is not supported");
    if (!e)
        e = read_activation(c, "activation_function", i);
    if (!e)
        e = require(c, "do_layer_norm_before", true);
    if (!e)
        e = require(c, "_remove_final_layer_norm", false);
    if (!e)
        e = require(c, "layer_norm_elementwise_affine", true);
    return e ? e : require(c, "enable_bias", true);
}

/* ---- the whole ---- */

static pd_err find_class(const cJSON *c, int *found) {
    const cJSON *list = json_at(c, "architectures");
    const char *class = cJSON_GetArraySize(list) == 1 ? cJSON_GetStringValue(list->child) : NULL;
    char shown[PD_SHOW_ROOM];
    if (!class)
        return missing("architectures", "a list of one class");
    for (*found = 0; *found < CLASSES; ++*found)
        if (strcmp(class, classes[*found].class) == 0)
            return PD_OK;
    return pd_fail(PD_EUNSUPPORTED,
                   "the class %s is not supported (Llama, Mistral, Qwen2, Qwen3, GPTNeoX and "
                   "OPTForCausalLM and GPT2LMHeadModel are)",
                   pd_show(class, strlen(class), shown));
}

pd_err hf_config_read(const cJSON *config, pd_model_info *info, hf_layout *layout) {
    static pd_err (*const read[])(const cJSON *, pd_model_info *) = {
        [HF_LLAMA] = read_llama, [HF_GPT2] = read_gpt2, [HF_NEOX] = read_neox, [HF_OPT] = read_opt};
    int k;
    pd_err e = find_class(config, &k);
    if (e)
        return e;
    if (json_at(config, "quantization_config"))
        return pd_fail(PD_EUNSUPPORTED,
                       "quantised weights (quantization_config) are not supported in a folder");
    *info = classes[k].info;
    *layout = classes[k].layout;
    info->tied = classes[k].tied;
    e = flag_if(config, "tie_word_embeddings", &info->tied);
    if (!e)
        e = read[*layout](config, info);
    if (e)
        return e;
    if (info->head_width == info->width / info->n_heads && !json_at(config, "head_dim") &&
        info->width % info->n_heads)
        return pd_fail(PD_EFORMAT, "width %" PRIu32 " is not a multiple of %" PRIu32 " heads",
                       info->width, info->n_heads);
    return pd_info_check(info);
}
