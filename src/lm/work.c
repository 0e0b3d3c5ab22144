/* work.c - the activations of one caller, sized once. */
#include "dense.h"
#include "reverse.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

float *pd_rot_make(pd_arena *a, const pd_model_info *info, uint32_t rotated, uint32_t n) {
    float *rot = pd_arena_take(a, (size_t)n * rotated * sizeof(float) + 64);
    if (!rot)
        return NULL;
    for (uint32_t i = 0; i < rotated; i += 2) {
        double step = pow((double)info->rope_base, -(double)i / rotated);
        if (info->rope_divisor[i / 2] > 0.0f)
            step /= (double)info->rope_divisor[i / 2];
        for (uint32_t p = 0; p < n; p++) {
            rot[(size_t)p * rotated + i] = (float)cos(p * step);
            rot[(size_t)p * rotated + i + 1] = (float)sin(p * step);
        }
    }
    return rot;
}

/* Take `bytes` and remember in *ok whether everything so far was had. */
static void *take(pd_work *w, size_t bytes, bool *ok) {
    void *p = *ok ? pd_arena_take(&w->arena, bytes) : NULL;
    *ok = p != NULL;
    return p;
}

/* A side's own weights; and where a product of one side's rows ends within the other's. */
static bool size_own(pd_work *w, const pd_model *m) {
    size_t bytes[PD_COPIES];
    bool ok = true;
    pd_own_bytes(m, bytes);
    for (unsigned side = 0; side < w->sides; side++)
        for (int copy = 0; copy < PD_COPIES; copy++)
            ok &= (w->own[side][copy] = pd_arena_take(&w->copies, bytes[copy])) != NULL;
    w->spill = pd_arena_take(&w->copies, PD_SPILL_ROWS * (size_t)m->info.width * sizeof *w->spill);
    return ok && w->spill;
}

static bool size_work(pd_work *w, const pd_model *m) {
    const pd_model_info *i = &m->info;
    const pd_heads *h = &m->heads;
    size_t rows = pd_gemm_rows(w->max_rows) + (w->sides - 1) * PD_SPILL_ROWS,
           product = m->half ? 2 : 4, f = sizeof(float);
    size_t predictions = ((size_t)w->max_rows + PD_HEAD_ROWS - 1) / PD_HEAD_ROWS * PD_HEAD_ROWS;
    bool ok = true;
    w->ld = (rows + PD_KEYS_PAD + PD_LANES) |
            PD_LANES; /* not a power of two: rows of kt fall into different sets */
    w->x = take(w, rows * i->width * f, &ok);
    w->h = take(w, rows * i->width * product, &ok);
    w->h_ffn = i->parallel ? take(w, rows * i->width * product, &ok) : w->h;
    w->qkv = take(w, (rows * (h->n + 2 * h->n_kv) * h->width + PD_LANES) * f, &ok);
    w->kt = take(w, h->n_kv * (h->width * w->ld + PD_KEYS_PAD) * f, &ok);
    w->v = take(w, (size_t)h->n_kv * w->ld * h->padded * f, &ok);
    w->att = take(w, rows * h->n * h->width * product, &ok);
    /* Reverse mode looks at all of them. */
    w->ffn_rows = w->backward || w->max_rows < PD_FFN_ROWS ? w->max_rows : PD_FFN_ROWS;
    size_t ffn = pd_gemm_rows(w->ffn_rows);
    w->gu = take(w, ffn * (i->no_gate ? 1 : 2) * i->ff * f, &ok);
    w->act = take(w, ffn * i->ff * product, &ok);
    w->tasks = take(w, w->max_rows * sizeof(pd_task), &ok);
    w->hs = take(w, predictions * i->width * product, &ok);
    w->singles = take(w, (size_t)w->max_rows * i->width * f, &ok);
    w->logits = take(w, (size_t)PD_HEAD_ROWS * PD_SLICE * f, &ok);
    w->max = take(w, predictions * f, &ok);
    w->sum = take(w, predictions * f, &ok);
    w->hit = take(w, predictions * f, &ok);
    w->max_choices =
        (1 + PD_BATCH_CHOICES) * w->max_rows; /* what a batch of so many tokens can hold */
    w->choice_logp = take(w, w->max_choices * f, &ok);
    w->rot = ok ? pd_rot_make(&w->arena, i, h->rotated, w->max_tokens) : NULL;
    return w->rot != NULL;
}

pd_err pd_work_open(const pd_model *m, uint32_t max_tokens, unsigned sides, bool backward,
                    pd_work **out) {
    if (max_tokens < 1 || max_tokens > 1 << 24 || sides < 1 || sides > PD_SIDES_MAX)
        return pd_fail(PD_EUSAGE, "a batch of %u tokens and %u sides cannot be", max_tokens, sides);
    if (backward && !m->backward)
        return pd_fail(PD_EUSAGE, "the model was opened without reverse mode");
    pd_work *w = calloc(1, sizeof *w);
    if (!w)
        return pd_fail(PD_ENOMEM, "no memory for activations");
    w->width = m->info.width;
    w->vocab = m->info.vocab;
    w->n_layers = m->info.n_layers;
    w->max_tokens = max_tokens;
    w->max_rows = max_tokens * sides;
    w->sides = sides;
    w->backward = backward;
    bool ok = size_work(w, m) && size_own(w, m) && (!backward || pd_reverse_open(w, m));
    pd_err e =
        ok ? PD_OK : pd_fail(PD_ENOMEM, "no memory for the activations of %u tokens", max_tokens);
    if (!e)
        e = pd_gemm_prepare(&m->layers[0].qkv, w->max_rows);
    if (e) {
        pd_work_close(w);
        return e;
    }
    *out = w;
    return PD_OK;
}

void pd_work_close(pd_work *w) {
    if (!w)
        return;
    pd_arena_free(&w->arena);
    pd_arena_free(&w->copies);
    free(w);
}

void pd_work_backward_to(pd_work *w, uint32_t layer) {
    assert(w->backward && layer < w->n_layers);
    w->lowest = layer;
}

size_t pd_work_bytes(const pd_work *w) {
    return w->arena.used_bytes;
}

pd_err pd_stem_open(const pd_model *m, uint32_t max_tokens, uint32_t layer, pd_stem **out) {
    if (layer < 1 || layer >= m->info.n_layers)
        return pd_fail(PD_EUSAGE,
                       "layer %u is none of 1 to %u, from which a model of %u layers can go on",
                       layer, m->info.n_layers - 1, m->info.n_layers);
    pd_stem *s = calloc(1, sizeof *s);
    if (s)
        s->x = malloc((size_t)max_tokens * m->info.width * sizeof *s->x);
    if (!s || !s->x) {
        pd_stem_close(s);
        return pd_fail(PD_ENOMEM, "no memory for the lower layers' output of %u tokens",
                       max_tokens);
    }
    s->layer = layer;
    s->width = m->info.width;
    s->max_tokens = max_tokens;
    *out = s;
    return PD_OK;
}

void pd_stem_close(pd_stem *s) {
    if (!s)
        return;
    free(s->x);
    free(s);
}

bool pd_stem_holds(const pd_stem *s, const pd_batch *b) {
    return s->batch == b && s->edition == b->edition;
}
