/* engine.h - what the engine's files share: the packed model, a packed batch, a work area.
 *
 * Row order everywhere: side 0's T tokens, then side 1's.  Buffers hold pd_gemm_rows(rows) rows,
 * since products read and write that many.
 */
#ifndef PEERD_LM_ENGINE_H
#define PEERD_LM_ENGINE_H

#include "arena.h"
#include "gemm.h"
#include "kernels.h"
#include "pool.h"

enum {
    PD_SLICE =
        4096, /* columns of the head a product makes: logits stay in the second-level cache ... */
    PD_HEAD_ROWS = 256,  /* ... 4 MB of them */
    PD_FFN_ROWS = 256,   /* rows of gate | up made at a time: 3 MB at F = 1,536 stay in the
                            second-level cache */
    PD_BLOCK = 16,       /* rows of one parallel item */
    PD_SPILL_ROWS = 128, /* more than a product's rows can be rounded up by */
};

typedef struct pd_norm {
    float *w, *b; /* (C); b: NULL where the family's norms are RMS */
} pd_norm;

typedef struct pd_layer {
    pd_norm attn_norm, ffn_norm;
    pd_matrix qkv, o, gate_up, down; /* q|k|v and gate|up are one product each */
    float *qkv_bias, *o_bias, *gate_up_bias, *down_bias; /* as the products' rows; NULL: none */
    float *q_norm, *k_norm;                              /* (HD), NULL: none */
    pd_matrix back[PD_TARGETS]; /* dX = dY W, where opened for reverse mode */
} pd_layer;

struct pd_model {
    pd_model_info info;
    bool half, backward; /* half: products in bf16 */
    pd_heads heads;
    pd_arena arena;
    pd_layer *layers; /* (L) */
    pd_norm out_norm;
    float *positions; /* (context, C) where they are learned, else NULL */
    void *embed;      /* (V, C), float or bf16 */
    const void *head; /* (V, C) plain rows: embed where tied */
    uint32_t n_slices;
    pd_matrix *slices, *slices_back; /* (n_slices) the head by PD_SLICE rows */
    const pd_kernels *k;
};

typedef struct pd_seq {
    uint32_t row, len; /* of side 0 */
} pd_seq;

typedef struct pd_item { /* one example */
    pd_example_kind kind;
    uint32_t scored, n_scored; /* its range of scored predictions (NLL and wide choices) */
    uint32_t n_choices, answer;
    uint32_t choice; /* first of its n_choices entries of `choices` */
    uint32_t single; /* index among one-token choice records, or UINT32_MAX */
} pd_item;

struct pd_batch {
    uint32_t max_tokens, max_items;
    uint32_t n_tokens, n_seqs, n_scored, n_items, n_choices, n_singles, n_units;
    uint32_t *ids, *pos;     /* (max_tokens) */
    pd_seq *seqs;            /* (max_tokens) */
    uint32_t *from, *target; /* (max_tokens) scored: row that predicts, token predicted */
    pd_item *items;          /* (max_items) */
    uint32_t *choices;       /* wide: scored tokens of each choice; one-token: its token */
    uint32_t max_choices;
    uint32_t *single_row; /* (max_items) last row of each one-token choice record */
    uint64_t edition;     /* grows with every change: what was made of an older one is stale */
};

struct pd_stem {
    uint32_t layer, width, max_tokens;
    const pd_batch *batch; /* what x was made of, and which edition of it; NULL: of nothing yet */
    uint64_t edition;
    float *x; /* (max_tokens, C) the residual stream at the start of `layer` */
};

typedef struct pd_task { /* queries of one sequence against the keys before them */
    uint32_t row, n, first, slot;
} pd_task;

struct pd_work {
    uint32_t width, vocab, n_layers; /* of the model it was made for */
    uint32_t max_tokens, max_rows;   /* max_rows = sides * max_tokens */
    unsigned sides;
    bool backward;
    pd_arena arena;
    float *rot;    /* (max positions, rotated/2, 2) */
    float *x;      /* (R, C) the residual stream */
    void *h;       /* (R, C) normed, input of products */
    void *h_ffn;   /* (R, C) input of the feed-forward part: h, or its own in parallel families */
    float *qkv;    /* (R, (H + 2 KV) HD) */
    float *kt, *v; /* (KV, HD, ld), (KV, ld, padded) */
    size_t ld;
    void *att;         /* (R, H HD) */
    uint32_t ffn_rows; /* rows that pass the feed-forward part at a time */
    float *gu;         /* (ffn_rows, 2 F), or (ffn_rows, F) without a gate */
    void *act;         /* (ffn_rows, F) */
    pd_task *tasks;
    uint32_t n_tasks;
    /* the head: rows are side by side the batch's scored predictions */
    void *hs;               /* (rows, C) normed rows that predict */
    float *singles;         /* (sides * singles, C) the same of one-token choices, float */
    float *logits;          /* (PD_HEAD_ROWS, PD_SLICE) */
    float *max, *sum, *hit; /* (rows) running maximum, sum, and the target's logit; after it: hit =
                               log-probability */
    float *choice_logp;     /* (sides * max_choices) */
    uint32_t max_choices;
    pd_arena copies;            /* of those below; untouched, so without memory, until an adapter
                                   has a whole addition (dense.h) */
    void *own[PD_SIDES_MAX][2]; /* a side's own weights, packed */
    float *spill;               /* (PD_SPILL_ROWS, C) */
    struct pd_reverse *back;    /* or NULL */
    uint32_t lowest;            /* layer where reverse mode ends */
};

/* One traversal. */
typedef struct pd_run {
    const pd_model *m;
    pd_work *w;
    uint32_t tokens, n_sides;  /* rows = tokens * n_sides */
    const uint32_t *ids, *pos; /* (tokens) */
    uint32_t slot;             /* key slot of row 0: 0, or the tokens a session holds */
    float *kt, *v;             /* where keys and values lie (a session's are its own, by layer) */
    float *lse;                /* (H, rows) of attention, or NULL */
    float *raw;                /* (R, (H + KV) HD) q and k from before their norms, or NULL */
    const pd_adapter *side[PD_SIDES_MAX];
} pd_run;

/* The angles of positions 0 .. n-1. */
/* Memory that reverse mode adds to a model's weights, into its info; is as much as all of them take
 * available? */
PD_CHECKED pd_err pd_reverse_fits(pd_model *m, uint64_t available);
/* The same with what this machine has. */
PD_CHECKED pd_err pd_room_for_reverse(pd_model *m);
float *pd_rot_make(pd_arena *a, const pd_model_info *info, uint32_t rotated, uint32_t n);

void pd_run_embed(const pd_run *r);                          /* x = E[ids] (+ P[pos]) */
void pd_run_norm(const pd_run *r, uint32_t layer);           /* h = the layer's first norm of x */
void pd_run_attention(const pd_run *r, uint32_t layer);      /* h -> x += O(..) */
void pd_run_ffn(const pd_run *r, uint32_t layer, bool down); /* h -> gu, act; down: x += D act */
void pd_run_tasks(pd_work *w, const pd_seq *seqs, uint32_t n_seqs, uint32_t tokens, uint32_t sides);
void pd_run_layers(const pd_run *r, uint32_t from, uint32_t to); /* x through layers [from, to) */

/* Log-probabilities of the batch's predictions from x: w->hit and w->choice_logp. */
void pd_head_forward(const pd_run *r, const pd_batch *b);
/* Losses of one side from them. */
void pd_head_loss(const pd_work *w, const pd_batch *b, uint32_t side, pd_loss *out, float *nll);
/* dx (T, C) = dL/dx from the same, side 0; L = sum / units. */
void pd_head_backward(const pd_run *r, const pd_batch *b, float *dx);

static inline const pd_lowrank *pd_lowrank_at(const pd_adapter *a, uint32_t layer, pd_target t) {
    return a && a->at && a->at[layer * PD_TARGETS + t].rank ? &a->at[layer * PD_TARGETS + t] : NULL;
}

/* out = norm(x), and dx += its gradient, of rows of C. */
static inline void pd_norm_rows(const pd_model *m, const pd_norm *n, uint32_t rows, const float *x,
                                void *out, bool half) {
    if (n->b)
        m->k->layer(rows, m->info.width, x, n->w, n->b, m->info.eps, out, half);
    else
        m->k->rms(rows, m->info.width, x, n->w, m->info.eps, out, half);
}
static inline void pd_norm_back(const pd_model *m, const pd_norm *n, uint32_t rows, const float *x,
                                const float *dy, float *dx) {
    if (n->b)
        m->k->layer_back(rows, m->info.width, x, n->w, m->info.eps, dy, dx);
    else
        m->k->rms_back(rows, m->info.width, x, n->w, m->info.eps, dy, dx);
}

/* Row r of an array of the products' type. */
static inline void *pd_row(void *p, size_t r, size_t width, bool half) {
    return (char *)p + r * width * (half ? 2 : 4);
}

#endif
