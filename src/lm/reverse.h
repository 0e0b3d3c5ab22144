/* reverse.h - the extra memory of reverse mode.
 *
 * Only the residual stream is kept for every layer, (L + 1, T, C); a layer's other activations are
 * computed again when its turn comes.  That is a third more work and a tenth of the memory of
 * keeping everything.
 */
#ifndef PEERD_LM_REVERSE_H
#define PEERD_LM_REVERSE_H

#include "engine.h"

typedef struct pd_reverse {
    float *kept;      /* (L, T, C) x at the start of each layer */
    float *lse;       /* (H, max_rows) of attention */
    float *raw;       /* (T, (H + KV) HD) q and k before their norms, or NULL */
    float *dx, *dh;   /* (T, C) gradients of the residual stream and of a normed row */
    float *dh_ffn;    /* (T, C) of the feed-forward part's: dh, or its own in parallel families */
    float *datt, *dq; /* (T, H HD) */
    float *dk, *dv;   /* (T, KV HD) */
    float *dact, *dgate, *dup; /* (T, F) */
    float *k, *vt;             /* keys by rows and values transposed, as split_back lays them */
    float *dk_rows, *dv_rows;  /* (KV, ld, padded) sums over a key head's queries */
    float *x32;                /* (T, max(C, H HD, F)) input of a product as float, for the sink */
    float *att32;              /* (T, H HD) */
    void *half;                /* (T, max(...)) dY as bf16, or NULL */
    float *weight;             /* (predictions) dL/d(-log p) */
    void *dlogits;             /* (PD_HEAD_ROWS, PD_SLICE), type of products */
    float *dhs;                /* (predictions, C) */
    float *dsingle;            /* (C) */
    float *plain;              /* (in, out) one target's whole addition */
} pd_reverse;

/* Take everything from the work's arena; false where memory is short. */
bool pd_reverse_open(pd_work *w, const pd_model *m);

#endif
