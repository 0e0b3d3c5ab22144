/* fuzz_basis.c - a basis file comes from other members: refused, or every number in it is one and
 * it has the size it would be written with. */
#include "fuzz.h"

#include "peerd/basis.h"

#include <math.h>

static const pd_model_info tiny = {
    .n_layers = 2, .width = 12, .n_heads = 2, .n_kv_heads = 1, .head_width = 4, .ff = 10};

static void check_finite(const float *x, size_t n) {
    for (size_t i = 0; x && i < n; i++)
        FUZZ_CHECK(isfinite(x[i]));
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    pd_basis *b = NULL;
    uint8_t *out = NULL;
    size_t size = 0;
    if (pd_basis_read(p, n, &tiny, &b) != PD_OK)
        return 0;
    for (size_t m = 0; m < (size_t)b->n_layers * PD_TARGETS; m++) {
        const pd_basis_matrix *x = &b->at[m];
        check_finite(x->u1, (size_t)b->r1 * x->out);
        check_finite(x->v1, (size_t)b->r1 * x->in);
        check_finite(x->u2, (size_t)b->r2 * x->out);
        check_finite(x->v2, (size_t)b->r2 * x->in);
        check_finite(x->c1, x->out ? (size_t)b->r1 * b->r1 : 0);
        check_finite(x->d2, x->out ? (size_t)b->r2 * b->r2 : 0);
    }
    FUZZ_CHECK(pd_basis_write(b, &out, &size) == PD_OK && size == n);
    free(out);
    pd_basis_free(b);
    return 0;
}
