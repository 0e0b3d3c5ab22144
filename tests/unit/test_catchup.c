/* test_catchup.c - replay or checkpoint: where the one becomes shorter than the other, and whose
 * wish counts. */
#include "../../src/node/catchup.h"
#include "test.h"

/* A newcomer on a thin line that chose the longer way would wait for hours.  The crossings were
 * computed from the formula by another hand (records; 2 G updates/s, 4 bytes a coordinate). */
START_TEST(the_crossing_is_where_it_was_computed) {
    static const struct {
        uint64_t d, records;
        double bytes_per_s;
    } cross[] = {
        {260000, 520000, 6900},     {260000, 69000, 108000},    {260000, 640, 12.5e6},
        {3300000, 1060000, 6900},   {3300000, 74000, 108000},   {3300000, 640, 12.5e6},
        {135000000, 1160000, 6900}, {135000000, 74000, 108000}, {135000000, 640, 12.5e6},
    };
    for (size_t i = 0; i < sizeof cross / sizeof *cross; i++) {
        pd_way w = {.d = cross[i].d, .bytes_per_s = cross[i].bytes_per_s, .updates_per_s = 2e9};
        w.ckpt_bytes = 4 * w.d;
        w.records = w.ckpt_records = cross[i].records * 9 / 10;
        ck_assert_double_lt(pd_catch_up_replay_s(&w), pd_catch_up_checkpoint_s(&w));
        w.records = w.ckpt_records = cross[i].records * 11 / 10;
        ck_assert_double_gt(pd_catch_up_replay_s(&w), pd_catch_up_checkpoint_s(&w));
    }
}
END_TEST

/* What came after the checkpoint has to be replayed in any case: an old one is worth less. */
START_TEST(what_came_after_it_counts) {
    pd_way w = {.records = 1000000, .d = 3360, .bytes_per_s = 6900, .updates_per_s = 1e9};
    w.ckpt_bytes = 30000;
    w.ckpt_records = 1000000;
    double fresh = pd_catch_up_checkpoint_s(&w);
    w.ckpt_records = 0;
    ck_assert_double_gt(pd_catch_up_checkpoint_s(&w), pd_catch_up_replay_s(&w));
    w.ckpt_records = 2000000; /* of which this node holds some already */
    ck_assert_double_eq(pd_catch_up_checkpoint_s(&w), fresh);
}
END_TEST

/* A person's wish goes before the estimate, but there has to be a checkpoint; and for a few seconds
 * nobody is trusted. */
START_TEST(a_wish_counts_and_seconds_do_not) {
    char text[PD_CATCH_UP_TEXT];
    pd_way w = {.records = 1000000, .d = 3360, .bytes_per_s = 6900, .updates_per_s = 1e9};
    ck_assert(!pd_catch_up_choose(&w, PD_CATCH_UP_CHECKPOINT, text));
    ck_assert(strstr(text, "no checkpoint is attested"));
    w.ckpt_bytes = 30000;
    w.ckpt_records = 990000;
    ck_assert(pd_catch_up_choose(&w, PD_CATCH_UP_AUTO, text));
    ck_assert(strstr(text, "1000000 records") && strstr(text, "of 990000 records") &&
              strstr(text, ": checkpoint"));
    ck_assert(!pd_catch_up_choose(&w, PD_CATCH_UP_REPLAY, text));
    ck_assert(strstr(text, "replay, as asked for"));
    w.bytes_per_s = 1e6; /* 4.4 s */
    ck_assert(!pd_catch_up_choose(&w, PD_CATCH_UP_AUTO, text));
    ck_assert(pd_catch_up_choose(&w, PD_CATCH_UP_CHECKPOINT, text));
}
END_TEST

/* A misspelt wish must not be taken for another. */
START_TEST(only_three_words_are_ways) {
    pd_catch_up way;
    ck_assert(pd_catch_up_parse("auto", &way) == PD_OK && way == PD_CATCH_UP_AUTO);
    ck_assert(pd_catch_up_parse("replay", &way) == PD_OK && way == PD_CATCH_UP_REPLAY);
    ck_assert(pd_catch_up_parse("checkpoint", &way) == PD_OK && way == PD_CATCH_UP_CHECKPOINT);
    ck_assert_int_eq(pd_catch_up_parse("Replay", &way), PD_EUSAGE);
    ck_assert_int_eq(pd_catch_up_parse("", &way), PD_EUSAGE);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, the_crossing_is_where_it_was_computed);
    tcase_add_test(tc, what_came_after_it_counts);
    tcase_add_test(tc, a_wish_counts_and_seconds_do_not);
    tcase_add_test(tc, only_three_words_are_ways);
}

PD_TEST_MAIN("catchup", 20)
