/* micro.h - a model of a few thousand parameters: in double precision here, as a GGUF file for the
 * engine, and a second transformer that is as plain as can be (no packing, no blocks, one sequence
 * at a time).
 */
#ifndef PD_MICRO_H
#define PD_MICRO_H

#include "gguf_writer.h"
#include "peerd/model.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

enum { L = 2, RANK = 3 };

typedef struct micro { /* a tiny model, its parameters in double and in a file */
    uint32_t c, f, h, kv, hd, rot, v;
    bool tied;
    double *w[L][PD_TARGETS]; /* (out, in) */
    double *attn_norm[L], *ffn_norm[L], *out_norm, *embed, *head;
    double *down[L][PD_TARGETS], *up[L][PD_TARGETS]; /* adapter, or NULL */
    char path[64];
} micro;

static uint64_t seed = 1;
static inline double uniform(void) { /* -1 .. 1, and exactly a float */
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(float)((double)(seed >> 33) / (double)(1u << 30) - 1.0);
}
static inline double *fill(size_t n, double scale, double shift) {
    double *p = malloc(n * sizeof *p);
    for (size_t i = 0; i < n; i++)
        p[i] = (double)(float)(uniform() * scale + shift);
    return p;
}

static inline void shape(const micro *m, pd_target t, uint32_t *out, uint32_t *in) {
    pd_model_info i = {
        .width = m->c, .ff = m->f, .n_heads = m->h, .n_kv_heads = m->kv, .head_width = m->hd};
    pd_model_shape(&i, t, out, in);
}

static inline float *floats(const double *p, size_t n) {
    float *f = malloc(n * sizeof *f);
    for (size_t i = 0; i < n; i++)
        f[i] = (float)p[i];
    return f;
}

/* What is wrong with the file; all zero: nothing. */
typedef struct twist {
    const char *arch;       /* another architecture */
    const char *skip, *odd; /* a tensor left out, one with a row less */
    const char *extra;      /* a tensor that does not belong */
    const char *key;        /* a key with another value */
    uint32_t value;
} twist;

static inline void put_u32(gw *g, const twist *t, const char *key, uint32_t v) {
    gw_u32(g, key, t->key && strcmp(t->key, key) == 0 ? t->value : v);
}

static inline bool is_named(const char *a, const char *name) {
    return a && strcmp(a, name) == 0;
}

static inline void put(gw *g, const twist *t, const char *name, uint32_t cols, uint32_t rows,
                       const double *p) {
    if (is_named(t->skip, name))
        return;
    if (is_named(t->odd, name))
        rows--;
    size_t n = (size_t)cols * (rows ? rows : 1);
    uint64_t dims[2] = {cols, rows};
    float *f = floats(p, n);
    gw_tensor(g, name, 0, rows ? 2 : 1, dims, f, n * sizeof *f);
    free(f);
}

static inline void save(micro *m, const twist *tw) {
    static const char *const names[PD_TARGETS] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                                  "ffn_gate", "ffn_up", "ffn_down"};
    gw g = gw_new();
    gw_str(&g, "general.architecture", tw->arch ? tw->arch : "llama");
    put_u32(&g, tw, "llama.block_count", L);
    put_u32(&g, tw, "llama.embedding_length", m->c);
    put_u32(&g, tw, "llama.feed_forward_length", m->f);
    put_u32(&g, tw, "llama.context_length", 64);
    put_u32(&g, tw, "llama.attention.head_count", m->h);
    put_u32(&g, tw, "llama.attention.head_count_kv", m->kv);
    put_u32(&g, tw, "llama.attention.key_length", m->hd);
    put_u32(&g, tw, "llama.rope.dimension_count", m->rot);
    gw_f32(&g, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    put(&g, tw, "token_embd.weight", m->c, m->v, m->embed);
    put(&g, tw, "output_norm.weight", m->c, 0, m->out_norm);
    if (!m->tied)
        put(&g, tw, "output.weight", m->c, m->v, m->head);
    for (int l = 0; l < L; l++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.attn_norm.weight", l);
        put(&g, tw, name, m->c, 0, m->attn_norm[l]);
        snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", l);
        put(&g, tw, name, m->c, 0, m->ffn_norm[l]);
        for (int t = 0; t < PD_TARGETS; t++) {
            uint32_t out, in;
            shape(m, t, &out, &in);
            snprintf(name, sizeof name, "blk.%d.%s.weight", l, names[t]);
            put(&g, tw, name, in, out, m->w[l][t]);
        }
    }
    if (tw->extra)
        put(&g, &(twist){0}, tw->extra, m->c, 0, m->out_norm);
    snprintf(m->path, sizeof m->path, "/tmp/pd-micro-XXXXXX");
    close(mkstemp(m->path));
    gw_save(&g, m->path);
}

static inline micro make_twisted(bool tied, bool adapted, uint32_t vocab, const twist *tw) {
    micro m = {.c = 20, .f = 28, .h = 4, .kv = 2, .hd = 6, .rot = 4, .v = vocab, .tied = tied};
    m.embed = fill((size_t)m.v * m.c, 1.0, 0.0);
    m.head = tied ? m.embed : fill((size_t)m.v * m.c, 0.7, 0.0);
    m.out_norm = fill(m.c, 0.3, 1.0);
    for (int l = 0; l < L; l++) {
        m.attn_norm[l] = fill(m.c, 0.3, 1.0);
        m.ffn_norm[l] = fill(m.c, 0.3, 1.0);
        for (int t = 0; t < PD_TARGETS; t++) {
            uint32_t out, in;
            shape(&m, t, &out, &in);
            m.w[l][t] = fill((size_t)out * in, 0.5, 0.0);
            m.down[l][t] = adapted ? fill((size_t)RANK * in, 0.3, 0.0) : NULL;
            m.up[l][t] = adapted ? fill((size_t)RANK * out, 0.3, 0.0) : NULL;
        }
    }
    save(&m, tw);
    return m;
}

static inline micro make(bool tied, bool adapted, uint32_t vocab) {
    return make_twisted(tied, adapted, vocab, &(twist){0});
}

static inline void drop(micro *m) {
    unlink(m->path);
    if (!m->tied)
        free(m->head);
    free(m->embed);
    free(m->out_norm);
    for (int l = 0; l < L; l++) {
        free(m->attn_norm[l]);
        free(m->ffn_norm[l]);
        for (int t = 0; t < PD_TARGETS; t++) {
            free(m->w[l][t]);
            free(m->down[l][t]);
            free(m->up[l][t]);
        }
    }
}

/* ---- the plain transformer ---- */

static inline void apply(const micro *m, int l, pd_target t, const double *x, double *y) {
    uint32_t out, in;
    shape(m, t, &out, &in);
    for (uint32_t o = 0; o < out; o++) {
        y[o] = 0.0;
        for (uint32_t i = 0; i < in; i++)
            y[o] += m->w[l][t][o * in + i] * x[i];
    }
    for (int k = 0; k < RANK && m->down[l][t]; k++) {
        double a = 0.0;
        for (uint32_t i = 0; i < in; i++)
            a += m->down[l][t][(uint32_t)k * in + i] * x[i];
        for (uint32_t o = 0; o < out; o++)
            y[o] += m->up[l][t][(uint32_t)k * out + o] * a;
    }
}

static inline void rms(const micro *m, const double *x, const double *w, double *y) {
    double s = 0.0;
    for (uint32_t i = 0; i < m->c; i++)
        s += x[i] * x[i];
    s = 1.0 / sqrt(s / m->c + (double)1e-5f);
    for (uint32_t i = 0; i < m->c; i++)
        y[i] = x[i] * s * w[i];
}

static inline void rope(const micro *m, double *x, uint32_t heads, uint32_t pos) {
    for (uint32_t h = 0; h < heads; h++)
        for (uint32_t i = 0; i < m->rot; i += 2) {
            double a = pos * pow(10000.0, -(double)i / m->rot), *p = x + h * m->hd + i;
            double re = p[0] * cos(a) - p[1] * sin(a), im = p[0] * sin(a) + p[1] * cos(a);
            p[0] = re, p[1] = im;
        }
}

static inline void attend(const micro *m, const double *q, double (*k)[64], double (*v)[64],
                          uint32_t t, double *out) {
    for (uint32_t h = 0; h < m->h; h++) {
        uint32_t at = h / (m->h / m->kv) * m->hd;
        double p[64], max = -INFINITY, sum = 0.0;
        for (uint32_t j = 0; j <= t; j++) {
            p[j] = 0.0;
            for (uint32_t d = 0; d < m->hd; d++)
                p[j] += q[h * m->hd + d] * k[j][at + d] / sqrt(m->hd);
            max = fmax(max, p[j]);
        }
        for (uint32_t j = 0; j <= t; j++)
            sum += p[j] = exp(p[j] - max);
        for (uint32_t d = 0; d < m->hd; d++) {
            out[h * m->hd + d] = 0.0;
            for (uint32_t j = 0; j <= t; j++)
                out[h * m->hd + d] += p[j] / sum * v[j][at + d];
        }
    }
}

/* Final normed rows of one sequence. */
static inline void plain(const micro *m, const uint32_t *ids, uint32_t n, double (*out)[64]) {
    static double x[64][64], q[64][64], k[64][64], v[64][64];
    for (uint32_t t = 0; t < n; t++)
        memcpy(x[t], m->embed + (size_t)ids[t] * m->c, m->c * sizeof(double));
    for (int l = 0; l < L; l++) {
        double h[64], y[64], g[64], u[64];
        for (uint32_t t = 0; t < n; t++) {
            rms(m, x[t], m->attn_norm[l], h);
            apply(m, l, PD_Q, h, q[t]);
            apply(m, l, PD_K, h, k[t]);
            apply(m, l, PD_V, h, v[t]);
            rope(m, q[t], m->h, t);
            rope(m, k[t], m->kv, t);
        }
        for (uint32_t t = 0; t < n; t++) {
            attend(m, q[t], k, v, t, h);
            apply(m, l, PD_O, h, y);
            for (uint32_t i = 0; i < m->c; i++)
                x[t][i] += y[i];
            rms(m, x[t], m->ffn_norm[l], h);
            apply(m, l, PD_GATE, h, g);
            apply(m, l, PD_UP, h, u);
            for (uint32_t i = 0; i < m->f; i++)
                g[i] = g[i] / (1.0 + exp(-g[i])) * u[i];
            apply(m, l, PD_DOWN, g, y);
            for (uint32_t i = 0; i < m->c; i++)
                x[t][i] += y[i];
        }
    }
    for (uint32_t t = 0; t < n; t++)
        rms(m, x[t], m->out_norm, out[t]);
}

static inline double logit(const micro *m, const double *h, uint32_t id) {
    double s = 0.0;
    for (uint32_t i = 0; i < m->c; i++)
        s += m->head[(size_t)id * m->c + i] * h[i];
    return s;
}

static inline double log_sum(const double *x, uint32_t n) {
    double max = -INFINITY, sum = 0.0;
    for (uint32_t i = 0; i < n; i++)
        max = fmax(max, x[i]);
    for (uint32_t i = 0; i < n; i++)
        sum += exp(x[i] - max);
    return max + log(sum);
}

/* Losses of one example's units; returns their number. */
static inline uint32_t plain_losses(const micro *m, const pd_example *e, double *loss) {
    static double rows[64][64], all[8192];
    double choice[16] = {0};
    uint32_t at = 0, units = 0;
    for (uint32_t s = 0; s < e->n_seqs; s++) {
        uint32_t n = e->seq_len[s];
        plain(m, e->ids + at, n, rows);
        for (uint32_t t = 1; t < n && e->scored; t++) {
            if (!e->scored[at + t])
                continue;
            for (uint32_t i = 0; i < m->v; i++)
                all[i] = logit(m, rows[t - 1], i);
            double logp = all[e->ids[at + t]] - log_sum(all, m->v);
            if (e->kind == PD_EXAMPLE_NLL)
                loss[units++] = -logp;
            else
                choice[s] += logp;
        }
        for (uint32_t i = 0; e->choice_ids && i < e->n_choices; i++)
            choice[i] = logit(m, rows[n - 1], e->choice_ids[i]);
        at += n;
    }
    if (e->kind == PD_EXAMPLE_CHOICE)
        loss[units++] = log_sum(choice, e->n_choices) - choice[e->answer];
    return units;
}

#endif
