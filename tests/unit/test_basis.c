/* test_basis.c - everybody computes with the stored values: what is written is what is read, and a
 * damaged or foreign file is an error, never a crash.
 */
#include "train.h"

#include "peerd/bytes.h"

#include <math.h>

static pd_model_info tiny(void) {
    return (pd_model_info){
        .n_layers = 2, .width = 12, .n_heads = 2, .n_kv_heads = 1, .head_width = 4, .ff = 10};
}

static void expect_equal(const pd_basis *a, const pd_basis *b) {
    ck_assert(a->n_layers == b->n_layers && a->targets == b->targets && a->r1 == b->r1 &&
              a->r2 == b->r2);
    for (size_t m = 0; m < (size_t)a->n_layers * PD_TARGETS; m++) {
        const pd_basis_matrix *x = &a->at[m], *y = &b->at[m];
        ck_assert(x->out == y->out && x->in == y->in);
        if (!x->out)
            continue;
        ck_assert_mem_eq(x->u2, y->u2, (size_t)a->r2 * x->out * 4);
        ck_assert_mem_eq(x->v2, y->v2, (size_t)a->r2 * x->in * 4);
        ck_assert_mem_eq(x->d2, y->d2, (size_t)a->r2 * a->r2 * 4);
        if (!a->r1)
            continue;
        ck_assert_mem_eq(x->u1, y->u1, (size_t)a->r1 * x->out * 4);
        ck_assert_mem_eq(x->v1, y->v1, (size_t)a->r1 * x->in * 4);
        ck_assert_mem_eq(x->c1, y->c1, (size_t)a->r1 * a->r1 * 4);
    }
}

/* Written, read, written: the same numbers and the same bytes, with and without a start adapter,
 * with all targets and with some.
 */
START_TEST(test_round_trip) {
    static const uint32_t shapes[][3] = {
        {0, 1, ALL_TARGETS}, {0, 3, 1u << PD_DOWN}, {2, 2, ALL_TARGETS}, {1, 4, 0x15}};
    pd_model_info info = tiny();
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        pd_basis *b = random_basis(&info, shapes[i][2], shapes[i][0], shapes[i][1], i + 1), *back;
        uint8_t *p, *q;
        size_t n, m;
        ck_ok(pd_basis_write(b, &p, &n));
        ck_ok(pd_basis_read(p, n, &info, &back));
        expect_equal(b, back);
        ck_ok(pd_basis_write(back, &q, &m));
        ck_assert_uint_eq(n, m);
        ck_assert_mem_eq(p, q, n);
        free(p);
        free(q);
        pd_basis_free(b);
        pd_basis_free(back);
    }
    pd_basis_free(NULL);
}
END_TEST

/* A basis of the upper layers is another format, so that an older peerd names what it cannot read;
 * only those layers are in it, and a first layer that is none is refused.
 */
START_TEST(test_from_a_layer) {
    pd_model_info info = tiny();
    pd_basis *all = random_basis(&info, ALL_TARGETS, 1, 2, 4),
             *b = random_basis_of(&info, 1, ALL_TARGETS, 1, 2, 4), *back = NULL;
    uint8_t *p, *q;
    size_t n, m;
    ck_ok(pd_basis_write(all, &q, &m));
    ck_ok(pd_basis_write(b, &p, &n));
    ck_assert_mem_eq(q, "PDBASIS1", 8);
    ck_assert_mem_eq(p, "PDBASIS2", 8);
    ck_assert_uint_eq(2 * (n - 28), m - 24); /* two layers, one layer */
    ck_ok(pd_basis_read(p, n, &info, &back));
    expect_equal(b, back);
    ck_assert_uint_eq(back->first_layer, 1);
    ck_assert_uint_eq(back->at[PD_Q].out, 0);
    pd_basis_free(back);
    static const uint8_t bad[] = {0, 2, 255};
    for (size_t i = 0; i < sizeof bad; i++) {
        p[12] = bad[i];
        ck_assert_int_eq(pd_basis_read(p, n, &info, &back), PD_EFORMAT);
        ck_assert_ptr_nonnull(strstr(pd_fail_text(), "begins at layer"));
    }
    for (size_t k = 0; k < n; k++)
        ck_assert_int_eq(pd_basis_read(p, k, &info, &back), PD_EFORMAT);
    ck_assert_int_eq(pd_basis_new(&info, 2, ALL_TARGETS, 0, 1, &back), PD_EUSAGE);
    ck_assert_ptr_nonnull(strstr(pd_fail_text(), "no layer is left"));
    free(p);
    free(q);
    pd_basis_free(all);
    pd_basis_free(b);
}
END_TEST

/* Rounding twice is rounding once, or a second writer would make another file; the error is at most
 * half a step.
 */
START_TEST(test_rounding) {
    pd_rng rng = {3};
    for (int trial = 0; trial < 2000; trial++) {
        float x[33], once[33], top = 0;
        size_t n = 1 + pd_rng_below(&rng, 33);
        for (size_t i = 0; i < n; i++) {
            x[i] = (float)(signed_uniform(&rng) * ldexp(1, (int)pd_rng_below(&rng, 60) - 30));
            top = fmaxf(top, fabsf(x[i]));
        }
        memcpy(once, x, sizeof x);
        pd_basis_round(once, n);
        for (size_t i = 0; i < n; i++)
            ck_assert(fabsf(once[i] - x[i]) <= top / 127 * 0.5001f);
        memcpy(x, once, sizeof x);
        pd_basis_round(x, n);
        ck_assert_mem_eq(x, once, n * sizeof *x);
    }
    float zero[3] = {0};
    pd_basis_round(zero, 3);
    ck_assert(zero[0] == 0 && zero[1] == 0 && zero[2] == 0);
}
END_TEST

/* A file that ends anywhere, or goes on, is refused. */
START_TEST(test_truncation) {
    pd_model_info info = tiny();
    pd_basis *b = random_basis(&info, ALL_TARGETS, 1, 2, 1), *back = NULL;
    uint8_t *p;
    size_t n;
    ck_ok(pd_basis_write(b, &p, &n));
    for (size_t k = 0; k < n; k++) {
        uint8_t *exact = malloc(k ? k : 1); /* so that a sanitizer sees the end */
        memcpy(exact, p, k);
        ck_assert_int_eq(pd_basis_read(exact, k, &info, &back), PD_EFORMAT);
        free(exact);
    }
    uint8_t *longer = calloc(1, n + 1);
    memcpy(longer, p, n);
    ck_assert_int_eq(pd_basis_read(longer, n + 1, &info, &back), PD_EFORMAT);
    ck_assert_ptr_null(back);
    free(longer);
    free(p);
    pd_basis_free(b);
}
END_TEST

/* Any one byte damaged: read as other finite numbers (its digest tells) or refused, never a crash.
 */
START_TEST(test_damage) {
    pd_model_info info = tiny();
    pd_basis *b = random_basis(&info, ALL_TARGETS, 1, 1, 2);
    uint8_t *p;
    size_t n, refused = 0;
    ck_ok(pd_basis_write(b, &p, &n));
    static const uint8_t flips[] = {0x01, 0x80, 0xff, 0x7f};
    for (size_t k = 0; k < n; k++)
        for (size_t f = 0; f < sizeof flips; f++) {
            pd_basis *back = NULL;
            p[k] ^= flips[f];
            pd_err e = pd_basis_read(p, n, &info, &back);
            ck_assert(e == PD_OK || e == PD_EFORMAT || e == PD_EMISMATCH);
            ck_assert((e == PD_OK) == (back != NULL));
            refused += e != PD_OK;
            if (back && back->at[0].u2)
                ck_assert(isfinite(back->at[0].u2[0]));
            pd_basis_free(back);
            p[k] ^= flips[f];
        }
    ck_assert_uint_ge(refused, 24 * sizeof flips); /* the head at least, every byte of it */
    free(p);
    pd_basis_free(b);
}
END_TEST

static void put(uint8_t *p, size_t at, uint32_t v) {
    pd_store32(p + at, v);
}

/* Numbers that would ask for all the memory there is, or for none, and values that are not numbers.
 */
START_TEST(test_hostile) {
    pd_model_info info = tiny();
    pd_basis *b = random_basis(&info, ALL_TARGETS, 1, 1, 4), *back = NULL;
    uint8_t *p;
    size_t n;
    ck_ok(pd_basis_write(b, &p, &n));
    static const struct {
        size_t at;
        uint32_t v;
        pd_err want;
    } bad[] = {{8, 0, PD_EMISMATCH},
               {8, UINT32_MAX, PD_EMISMATCH},
               {12, 0, PD_EFORMAT},
               {12, 1u << PD_TARGETS, PD_EFORMAT},
               {12, 1, PD_EFORMAT},
               {16, UINT32_MAX, PD_EFORMAT},
               {16, PD_RANK_MAX, PD_EFORMAT},
               {16, 0, PD_EFORMAT},
               {20, 0, PD_EFORMAT},
               {20, UINT32_MAX, PD_EFORMAT},
               {24, 0, PD_EMISMATCH},
               {28, 13, PD_EMISMATCH},
               {32, 0x7f800000, PD_EFORMAT} /* infinity */,
               {32, 0x7fc00001, PD_EFORMAT}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint32_t was = pd_load32(p + bad[i].at);
        put(p, bad[i].at, bad[i].v);
        pd_err e = pd_basis_read(p, n, &info, &back);
        ck_assert_msg(e == bad[i].want, "case %zu: %s", i, e ? pd_fail_text() : "no error");
        ck_assert_ptr_null(back);
        put(p, bad[i].at, was);
    }
    free(p);
    pd_basis_free(b);
}
END_TEST

/* A scale that is finite may still make products that are not: 3e38 * 127. */
START_TEST(test_overflow) {
    pd_model_info info = tiny();
    pd_basis *b = random_basis(&info, ALL_TARGETS, 0, 1, 4), *back = NULL;
    uint8_t *p;
    size_t n;
    ck_ok(pd_basis_write(b, &p, &n));
    put(p, 32, 0x7f7fffff);
    ck_assert_int_eq(pd_basis_read(p, n, &info, &back), PD_EFORMAT);
    ck_assert_ptr_null(back);
    free(p);
    pd_basis_free(b);
}
END_TEST

/* Another model's basis is refused by its shapes, and the text says which. */
START_TEST(test_wrong_model) {
    pd_model_info info = tiny(), other = tiny();
    pd_basis *b = random_basis(&info, ALL_TARGETS, 0, 1, 4), *back = NULL;
    uint8_t *p;
    size_t n;
    ck_ok(pd_basis_write(b, &p, &n));
    other.n_layers = 3;
    ck_assert_int_eq(pd_basis_read(p, n, &other, &back), PD_EMISMATCH);
    ck_assert_ptr_nonnull(strstr(pd_fail_text(), "layers"));
    other = tiny();
    other.ff = 11;
    pd_err e = pd_basis_read(p, n, &other, &back);
    ck_assert(e == PD_EMISMATCH || e == PD_EFORMAT); /* also another length */
    other = tiny();
    other.width = 10;
    other.ff = 12; /* the same length: only the shapes tell */
    e = pd_basis_read(p, n, &other, &back);
    ck_assert(e == PD_EMISMATCH || e == PD_EFORMAT);
    ck_assert_ptr_null(back);
    free(p);
    pd_basis_free(b);
}
END_TEST

START_TEST(test_ranks) {
    pd_model_info info = tiny();
    pd_basis *b = NULL;
    static const uint32_t bad[][3] = {{0, 0, 1},           {0, PD_RANK_MAX + 1, 1},
                                      {PD_RANK_MAX, 1, 1}, {UINT32_MAX, 1, 1},
                                      {0, 1, 0},           {0, 1, 1u << PD_TARGETS}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_int_eq(pd_basis_new(&info, 0, bad[i][2], bad[i][0], bad[i][1], &b), PD_EUSAGE);
    ck_assert_ptr_null(b);
    ck_ok(pd_basis_new(&info, 0, 2, 0, 3, &b)); /* a new one scales nothing */
    for (uint32_t i = 0; i < 9; i++)
        ck_assert(b->at[1].d2[i] == 1);
    pd_basis_free(b);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, test_round_trip);
    tcase_add_test(tc, test_from_a_layer);
    tcase_add_test(tc, test_rounding);
    tcase_add_test(tc, test_truncation);
    tcase_add_test(tc, test_damage);
    tcase_add_test(tc, test_hostile);
    tcase_add_test(tc, test_overflow);
    tcase_add_test(tc, test_wrong_model);
    tcase_add_test(tc, test_ranks);
}

PD_TEST_MAIN("basis", 60)
