/* weights.c - which tensors a family has, and their shapes: one table that readers and the packing
 * share; see weights.h.
 */
#include "peerd/weights.h"
#include "kernels.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

const char *const pd_target_names[PD_TARGETS] = {"q", "k", "v", "o", "gate", "up", "down"};

void pd_model_shape(const pd_model_info *info, pd_target t, uint32_t *out, uint32_t *in) {
    uint32_t q = info->n_heads * info->head_width, kv = info->n_kv_heads * info->head_width;
    uint32_t outs[PD_TARGETS] = {
        q, kv, kv, info->width, info->no_gate ? 0 : info->ff, info->ff, info->width};
    uint32_t ins[PD_TARGETS] = {
        info->width, info->width, info->width, q, info->no_gate ? 0 : info->width,
        info->width, info->ff};
    assert(t < PD_TARGETS);
    *out = outs[t];
    *in = ins[t];
}

uint32_t pd_model_targets(const pd_model_info *info) {
    uint32_t all = (1u << PD_TARGETS) - 1;
    return info->no_gate ? all & ~(1u << PD_GATE) : all;
}

static bool bias_shape(const pd_model_info *i, pd_role role, uint32_t *cols) {
    uint32_t q = i->n_heads * i->head_width, kv = i->n_kv_heads * i->head_width;
    switch (role) {
    case PD_ROLE_OUT_NORM:
    case PD_ROLE_ATTN_NORM:
    case PD_ROLE_FFN_NORM:
        *cols = i->width;
        return i->norm == PD_NORM_LAYER;
    case PD_ROLE_Q:
        *cols = q;
        return i->qkv_bias;
    case PD_ROLE_K:
    case PD_ROLE_V:
        *cols = kv;
        return i->qkv_bias;
    case PD_ROLE_O:
        *cols = i->width;
        return i->o_bias;
    case PD_ROLE_GATE:
        *cols = i->ff;
        return i->ffn_bias && !i->no_gate;
    case PD_ROLE_UP:
        *cols = i->ff;
        return i->ffn_bias;
    case PD_ROLE_DOWN:
        *cols = i->width;
        return i->ffn_bias;
    case PD_ROLE_EMBED:
    case PD_ROLE_POSITIONS:
    case PD_ROLE_HEAD:
    case PD_ROLE_Q_NORM:
    case PD_ROLE_K_NORM:
    case PD_ROLES:
        break;
    }
    return false;
}

/* A matrix of a layer as the target that it is, or PD_TARGETS. */
static pd_target target_of(pd_role role) {
    static const pd_target of[PD_ROLES] = {
        [PD_ROLE_EMBED] = PD_TARGETS,
        [PD_ROLE_POSITIONS] = PD_TARGETS,
        [PD_ROLE_OUT_NORM] = PD_TARGETS,
        [PD_ROLE_HEAD] = PD_TARGETS,
        [PD_ROLE_ATTN_NORM] = PD_TARGETS,
        [PD_ROLE_Q] = PD_Q,
        [PD_ROLE_K] = PD_K,
        [PD_ROLE_V] = PD_V,
        [PD_ROLE_O] = PD_O,
        [PD_ROLE_Q_NORM] = PD_TARGETS,
        [PD_ROLE_K_NORM] = PD_TARGETS,
        [PD_ROLE_FFN_NORM] = PD_TARGETS,
        [PD_ROLE_GATE] = PD_GATE,
        [PD_ROLE_UP] = PD_UP,
        [PD_ROLE_DOWN] = PD_DOWN,
    };
    return of[role];
}

bool pd_slot_shape(const pd_model_info *i, pd_slot s, uint32_t *rows, uint32_t *cols) {
    bool table = s.role == PD_ROLE_EMBED || s.role == PD_ROLE_HEAD;
    *rows = 1;
    *cols = i->width;
    if (s.role >= PD_ROLES || s.layer >= (s.role >= PD_ROLE_ATTN_NORM ? i->n_layers : 1))
        return false;
    if (s.bias)
        return bias_shape(i, s.role, cols);
    if (target_of(s.role) != PD_TARGETS) {
        pd_model_shape(i, target_of(s.role), rows, cols);
        return *rows > 0;
    }
    if (s.role == PD_ROLE_Q_NORM || s.role == PD_ROLE_K_NORM) {
        *cols = i->head_width;
        return i->qk_norm;
    }
    if (s.role == PD_ROLE_POSITIONS) {
        *rows = i->context;
        return i->position == PD_POSITION_LEARNED;
    }
    if (table)
        *rows = i->vocab;
    return s.role != PD_ROLE_HEAD || !i->tied;
}

bool pd_slot_next(const pd_model_info *info, pd_slot *s) {
    uint32_t rows, cols, n = 2 * PD_ROLES * info->n_layers;
    uint32_t i = s->role == PD_ROLES ? 0 : pd_slot_number(*s) + 1;
    for (; i < n; i++) {
        *s = (pd_slot){
            .role = (pd_role)(i / 2 % PD_ROLES), .bias = i % 2, .layer = i / (2 * PD_ROLES)};
        if (pd_slot_shape(info, *s, &rows, &cols))
            return true;
    }
    return false;
}

const char *pd_slot_text(pd_slot s, char out[PD_SLOT_TEXT]) {
    static const char *const names[PD_ROLES] = {
        [PD_ROLE_EMBED] = "embedding",
        [PD_ROLE_POSITIONS] = "positions",
        [PD_ROLE_OUT_NORM] = "last norm",
        [PD_ROLE_HEAD] = "head",
        [PD_ROLE_ATTN_NORM] = "first norm",
        [PD_ROLE_Q] = "q",
        [PD_ROLE_K] = "k",
        [PD_ROLE_V] = "v",
        [PD_ROLE_O] = "o",
        [PD_ROLE_Q_NORM] = "q norm",
        [PD_ROLE_K_NORM] = "k norm",
        [PD_ROLE_FFN_NORM] = "second norm",
        [PD_ROLE_GATE] = "gate",
        [PD_ROLE_UP] = "up",
        [PD_ROLE_DOWN] = "down",
    };
    const char *bias = s.bias ? " bias" : "";
    if (s.role < PD_ROLE_ATTN_NORM)
        snprintf(out, PD_SLOT_TEXT, "%s%s", names[s.role], bias);
    else
        snprintf(out, PD_SLOT_TEXT, "layer %" PRIu32 " %s%s", s.layer, names[s.role], bias);
    return out;
}

/* ---- numbers ---- */

static pd_err check_heads(const pd_model_info *i) {
    if (i->n_kv_heads < 1 || i->n_kv_heads > i->n_heads || i->n_heads % i->n_kv_heads)
        return pd_fail(PD_EFORMAT, "%" PRIu32 " heads cannot share %" PRIu32 " key heads",
                       i->n_heads, i->n_kv_heads);
    if (i->head_width < 1 || i->head_width > PD_HEAD_WIDTH_MAX)
        return pd_fail(PD_EUNSUPPORTED, "heads of %" PRIu32 " elements: this engine takes 1 to %d",
                       i->head_width, PD_HEAD_WIDTH_MAX);
    if (i->rotated > i->head_width || i->rotated % 2)
        return pd_fail(PD_EFORMAT,
                       "%" PRIu32 " rotated elements do not fit heads of %" PRIu32 " elements",
                       i->rotated, i->head_width);
    return PD_OK;
}

pd_err pd_info_check(const pd_model_info *i) {
    const struct {
        const char *what;
        uint32_t n, max;
    } counts[] = {{"layers", i->n_layers, 1024},
                  {"elements of width", i->width, 1 << 16},
                  {"heads", i->n_heads, 1024},
                  {"elements of feed-forward width", i->ff, 1 << 20},
                  {"tokens of context", i->context, 1 << 24},
                  {"tokens of vocabulary", i->vocab, 1 << 22}};
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++)
        if (counts[k].n < 1 || counts[k].n > counts[k].max)
            return pd_fail(PD_EUNSUPPORTED, "%" PRIu32 " %s: this engine takes 1 to %" PRIu32,
                           counts[k].n, counts[k].what, counts[k].max);
    if (!(i->eps >= 0.0f && i->eps < 1.0f))
        return pd_fail(PD_EFORMAT, "the norms' epsilon is not a small number");
    if (i->no_gate == (i->activation == PD_ACT_SILU))
        return pd_fail(PD_EUNSUPPORTED, "an activation that is not done %s a gate",
                       i->no_gate ? "without" : "with");
    bool turns = i->position != PD_POSITION_LEARNED;
    if (turns && !(i->rope_base > 0.0f && i->rope_base < 1e12f))
        return pd_fail(PD_EFORMAT, "the base of the rotary frequencies is not a positive number");
    if (!turns && i->rotated)
        return pd_fail(PD_EFORMAT, "positions are learned and rotary at once");
    for (uint32_t k = 0; k < i->rotated / 2; k++)
        if (!(i->rope_divisor[k] >= 0.0f && i->rope_divisor[k] < 1e9f))
            return pd_fail(PD_EFORMAT,
                           "a divisor of the rotary frequencies is not a positive number");
    return check_heads(i);
}

void pd_rope_linear(pd_model_info *info, double factor) {
    for (uint32_t k = 0; k < info->rotated / 2; k++)
        info->rope_divisor[k] = (float)factor;
}

/* The blend is linear in original / wavelength between low and high. */
void pd_rope_llama3(pd_model_info *info, double factor, double low, double high, double original) {
    for (uint32_t k = 0; k < info->rotated / 2; k++) {
        double turns =
            pow((double)info->rope_base, -2.0 * k / info->rotated) / (2.0 * M_PI) * original;
        double smooth = (turns - low) / (high - low);
        smooth = smooth < 0.0 ? 0.0 : smooth > 1.0 ? 1.0 : smooth;
        info->rope_divisor[k] = (float)(1.0 / ((1.0 - smooth) / factor + smooth));
    }
}
