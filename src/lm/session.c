/* session.c - generation: one growing sequence, whose keys and values stay.
 *
 * A push runs the same layers as a batch does, with a work area of CHUNK tokens and each layer's
 * own key store.
 */
#include "engine.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 256 };

struct pd_session {
    const pd_model *m;
    pd_work *w;
    uint32_t max_tokens, held;
    pd_arena arena;
    float *kt, *v; /* (L, KV, HD, ld), (L, KV, ld, padded) */
    size_t ld, kt_layer, v_layer;
    uint32_t pos[CHUNK];
};

pd_err pd_session_open(const pd_model *m, uint32_t max_tokens, pd_session **out) {
    const pd_heads *h = &m->heads;
    if (m->positions && max_tokens > m->info.context)
        return pd_fail(PD_EUSAGE, "%u tokens: this model has learned positions for %u, and no more",
                       max_tokens, m->info.context);
    pd_session *s = calloc(1, sizeof *s);
    if (!s)
        return pd_fail(PD_ENOMEM, "no memory for a session");
    s->m = m;
    s->max_tokens = max_tokens;
    s->ld = ((size_t)max_tokens + PD_KEYS_PAD + PD_LANES) | PD_LANES;
    s->kt_layer = h->n_kv * h->width * s->ld + PD_KEYS_PAD;
    s->v_layer = h->n_kv * s->ld * h->padded;
    pd_err e = pd_work_open(m, CHUNK, 1, false, &s->w);
    if (!e) {
        s->kt = pd_arena_take(&s->arena, m->info.n_layers * s->kt_layer * sizeof(float));
        s->v = pd_arena_take(&s->arena, m->info.n_layers * s->v_layer * sizeof(float));
        float *rot = pd_rot_make(&s->arena, &m->info, h->rotated, max_tokens);
        if (!s->kt || !s->v || !rot)
            e = pd_fail(PD_ENOMEM, "no memory for a session of %u tokens", max_tokens);
        else {
            s->w->rot = rot;
            s->w->ld = s->ld;
        }
    }
    if (e) {
        pd_session_close(s);
        return e;
    }
    *out = s;
    return PD_OK;
}

void pd_session_close(pd_session *s) {
    if (!s)
        return;
    pd_work_close(s->w);
    pd_arena_free(&s->arena);
    free(s);
}

/* n <= CHUNK tokens through all layers. */
static void push_chunk(pd_session *s, const pd_adapter *side, const uint32_t *ids, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        s->pos[i] = s->held + i;
    pd_run r = {.m = s->m,
                .w = s->w,
                .tokens = n,
                .n_sides = 1,
                .ids = ids,
                .pos = s->pos,
                .slot = s->held};
    r.side[0] = side;
    s->w->n_tasks = 0;
    for (uint32_t i = 0; i < n; i += PD_QUERIES_MAX)
        s->w->tasks[s->w->n_tasks++] =
            (pd_task){.row = i,
                      .n = n - i < PD_QUERIES_MAX ? n - i : PD_QUERIES_MAX,
                      .first = s->held + i,
                      .slot = 0};
    pd_run_embed(&r);
    pd_run_norm(&r, 0);
    for (uint32_t l = 0; l < s->m->info.n_layers; l++) {
        r.kt = s->kt + l * s->kt_layer;
        r.v = s->v + l * s->v_layer;
        pd_run_attention(&r, l);
        pd_run_ffn(&r, l, true);
    }
    s->held += n;
}

pd_err pd_session_push(pd_session *s, const pd_adapter *side, const uint32_t *ids, uint32_t n,
                       float *logits) {
    const pd_model *m = s->m;
    assert(n > 0);
    if (n > s->max_tokens - s->held)
        return pd_fail(PD_EFULL, "the sequence is longer than the %u tokens of this session",
                       s->max_tokens);
    uint32_t done = 0, last = 0;
    while (done < n) {
        uint32_t chunk = n - done < CHUNK ? n - done : CHUNK;
        push_chunk(s, side, ids + done, chunk);
        done += chunk;
        last = chunk - 1;
    }
    pd_norm_rows(m, &m->out_norm, 1, s->w->x + (size_t)last * m->info.width, s->w->hs, m->half);
    for (uint32_t i = 0; i < m->n_slices; i++) {
        pd_gemm_run(&m->slices[i], 1, s->w->hs, s->w->logits, false);
        memcpy(logits + (size_t)i * PD_SLICE, s->w->logits, m->slices[i].out * sizeof(float));
    }
    return PD_OK;
}
