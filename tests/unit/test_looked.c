/* test_looked.c - which checkpoint of others is looked at next: one liar must not be able to keep a
 * node from a right one, nor make it fetch for ever. */
#include "../../src/node/looked.h"

#include "test.h"

static pd_ckpt_name named(unsigned i) {
    return (pd_ckpt_name){
        .file = {(uint8_t)i, (uint8_t)(i >> 8)}, .size = 1000, .records = 1000 - i};
}

/* After wrong bytes from one member another has to be asked for the same name, but a name that
 * nobody has the bytes of must cost no more than so many tries, over some time. */
START_TEST(other_bytes_are_asked_for_again) {
    pd_looked l = {.n = 0};
    pd_ckpt_name is = named(0);
    uint64_t now = 1000, last = 0, began = now;
    for (unsigned i = 0; i < PD_LOOKED_TRIES; i++) {
        ck_assert_uint_eq(pd_looked_pick(&l, &is, 1, now), 0);
        uint64_t wait = pd_looked_failed(&l, &is, &is, 1, now);
        ck_assert_uint_eq(wait == 0, i + 1 == PD_LOOKED_TRIES);
        ck_assert(!wait || wait > last);
        ck_assert_uint_eq(pd_looked_pick(&l, &is, 1, now + wait - 1), 1);
        now += last = wait;
    }
    ck_assert_uint_eq(pd_looked_pick(&l, &is, 1, UINT64_MAX), 1);
    ck_assert_uint_eq(now - began, 1275000); /* 15 + 60 + 240 + 960 s */
}
END_TEST

/* Judged is judged, right or wrong: the trainer's time is not for sale. */
START_TEST(what_was_judged_is_done_with) {
    pd_looked l = {.n = 0};
    pd_ckpt_name is[2] = {named(0), named(1)};
    pd_looked_done(&l, &is[0], is, 2);
    ck_assert_uint_eq(pd_looked_pick(&l, is, 2, 0), 1);
    pd_looked_failed(&l, &is[1], is, 2, 0);
    pd_looked_done(&l, &is[1], is, 2);
    ck_assert_uint_eq(pd_looked_pick(&l, is, 2, UINT64_MAX), 2);
}
END_TEST

/* A liar that names a right file with another size, model or number would else take it out of
 * everybody's sight: the right name has the same file. */
START_TEST(a_false_name_does_not_stand_for_the_right_one) {
    for (int what = 0; what < 3; what++) {
        pd_looked l = {.n = 0};
        pd_ckpt_name is[2] = {named(7), named(7)};
        is[0].size += what == 0;
        is[0].model[3] ^= what == 1;
        is[0].records += what == 2;
        pd_looked_done(&l, &is[0], is, 2);
        ck_assert_uint_eq(pd_looked_pick(&l, is, 2, 0), 1);
    }
}
END_TEST

/* Names that were never looked at go before those that failed, however good these seem; among
 * equals the better goes first. */
START_TEST(what_was_tried_least_goes_first) {
    pd_looked l = {.n = 0};
    pd_ckpt_name is[3] = {named(0), named(1), named(2)};
    pd_looked_failed(&l, &is[0], is, 3, 0);
    ck_assert_uint_eq(pd_looked_pick(&l, is, 3, UINT64_MAX), 1);
    pd_looked_failed(&l, &is[1], is, 3, 0);
    ck_assert_uint_eq(pd_looked_pick(&l, is, 3, UINT64_MAX), 2);
    pd_looked_failed(&l, &is[2], is, 3, 0);
    ck_assert_uint_eq(pd_looked_pick(&l, is, 3, UINT64_MAX), 0);
    pd_looked_failed(&l, &is[0], is, 3, 0);
    ck_assert_uint_eq(pd_looked_pick(&l, is, 3, UINT64_MAX), 1);
}
END_TEST

/* As many names as members can attest are remembered, so that a round of them ends; only those that
 * nobody attests any more make room, whichever place they have. */
START_TEST(only_what_nobody_attests_is_forgotten) {
    pd_looked l = {.n = 0};
    pd_ckpt_name is[PD_CKPTS_MAX];
    for (unsigned i = 0; i < PD_CKPTS_MAX; i++) {
        is[i] = named(i);
        pd_looked_done(&l, &is[i], is, i + 1);
    }
    ck_assert_uint_eq(pd_looked_pick(&l, is, PD_CKPTS_MAX, UINT64_MAX), PD_CKPTS_MAX);
    for (unsigned i = 0; i < PD_CKPTS_MAX; i++) {
        is[i] = named(1000 + i);
        ck_assert_uint_eq(pd_looked_pick(&l, is, PD_CKPTS_MAX, UINT64_MAX), i);
        pd_looked_done(&l, &is[i], is, PD_CKPTS_MAX);
        ck_assert_uint_eq(pd_looked_pick(&l, is, PD_CKPTS_MAX, UINT64_MAX), PD_CKPTS_MAX);
    }
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, other_bytes_are_asked_for_again);
    tcase_add_test(tc, what_was_judged_is_done_with);
    tcase_add_test(tc, a_false_name_does_not_stand_for_the_right_one);
    tcase_add_test(tc, what_was_tried_least_goes_first);
    tcase_add_test(tc, only_what_nobody_attests_is_forgotten);
}

PD_TEST_MAIN("looked", 60)
