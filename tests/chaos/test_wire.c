/* test_wire.c - the model of lines alone, in its own time: what it does to packets is measured. */
#include "test.h"
#include "wire.h"

#include <stdlib.h>
#include <string.h>

enum { MANY = 20000, SIZE = 100 };

static wire *w;

static void open_wire(void) {
    w = wire_open(3, 7);
    ck_assert_ptr_nonnull(w);
}

static void close_wire(void) {
    wire_free(w);
}

/* Send `n` packets of `size` bytes from 0 to 1, one each `gap_us`; the number is in the first 4. */
static void send_many(uint32_t n, size_t size, uint64_t gap_us) {
    uint8_t p[WIRE_PACKET_MAX] = {0};
    for (uint32_t i = 0; i < n; i++) {
        memcpy(p, &i, sizeof i);
        wire_put(w, i * gap_us, 0, 1, p, size);
    }
}

/* The next packet that ever arrives: its number and when; false: none is left. */
static bool next(uint32_t *number, uint64_t *at_us) {
    uint8_t p[WIRE_PACKET_MAX];
    uint32_t to;
    size_t n;
    do {
        *at_us = wire_wake(w);
        if (*at_us == UINT64_MAX)
            return false;
    } while (!wire_take(w, *at_us, &to, p, &n));
    ck_assert_uint_eq(to, 1);
    memcpy(number, p, sizeof *number);
    return true;
}

static wire_counts counts(uint32_t node) {
    wire_counts c;
    wire_counts_get(w, node, &c);
    return c;
}

/* A line that is told nothing would disturb every measurement. */
START_TEST(an_ideal_line_delivers_all_at_once_in_order) {
    uint32_t number, want = 0;
    uint64_t at;
    send_many(1000, SIZE, 10);
    for (; next(&number, &at); want++) {
        ck_assert_uint_eq(number, want);
        ck_assert_uint_eq(at, want * 10);
    }
    ck_assert_uint_eq(want, 1000);
    ck_assert_uint_eq(counts(0).sent, 1000);
    ck_assert_uint_eq(counts(1).delivered_bytes, 1000 * SIZE);
}
END_TEST

/* Up and down each at the slower of the two: the last bit of the last packet comes when all bits
 * have passed. */
START_TEST(a_rate_is_that_rate_in_both_directions) {
    wire_line thin = {.rate = 64000, .queue = 1 << 20}, thinner = {.rate = 32000, .queue = 1 << 20};
    uint32_t number, n = 0;
    uint64_t at, last = 0;
    wire_set(w, 0, &thin);
    wire_set(w, 1, &thinner);
    send_many(80, 1000, 0);
    for (; next(&number, &at); n++)
        last = at;
    ck_assert_uint_eq(n, 80);
    ck_assert_uint_eq(last, 1000 * 8 * 1000000ull / 64000 + 80 * 1000 * 8 * 1000000ull / 32000);
}
END_TEST

START_TEST(a_queue_drops_what_does_not_fit) {
    wire_line thin = {.rate = 64000, .queue = 5000};
    uint32_t number, n = 0;
    uint64_t at;
    wire_set(w, 0, &thin);
    send_many(100, 1000, 0);
    while (next(&number, &at))
        n++;
    ck_assert_uint_eq(n, 5);
    ck_assert_uint_eq(counts(0).overflowed, 95);
    wire_line one = {.rate = 64000};
    wire_set(w, 0, &one); /* without any queue one packet still passes */
    wire_put(w, 10000000, 0, 1, &number, sizeof number);
    ck_assert(next(&number, &at));
}
END_TEST

/* Without this, "150 +- 10 ms" would be anything, and jitter would reorder. */
START_TEST(delay_and_jitter_stay_in_bounds_and_keep_the_order) {
    wire_line far = {.delay_us = 150000, .jitter_us = 10000};
    uint32_t number, want = 0;
    uint64_t at, least = UINT64_MAX, most = 0, sum = 0;
    wire_set(w, 0, &far);
    send_many(MANY, SIZE, 20000);
    for (; next(&number, &at); want++) {
        uint64_t took = at - number * 20000ull;
        ck_assert_uint_eq(number, want);
        least = took < least ? took : least;
        most = took > most ? took : most;
        sum += took;
    }
    ck_assert_uint_eq(want, MANY);
    ck_assert(least >= 140000 && least < 140100 && most <= 160000 && most > 159900);
    ck_assert(llabs((long long)(sum / MANY) - 150000) < 100);
}
END_TEST

/* Chances are drawn apart; 6 standard deviations around what was asked for. */
START_TEST(chances_are_what_was_asked_for) {
    wire_line bad = {
        .delay_us = 1000, .loss_ppm = 50000, .double_ppm = 10000, .overtake_ppm = 20000};
    uint32_t number, n = 0, last = 0, behind = 0;
    uint64_t at;
    wire_set(w, 0, &bad);
    send_many(MANY, SIZE, 100);
    for (; next(&number, &at); n++) {
        behind += number < last;
        last = number;
    }
    wire_counts c = counts(0);
    ck_assert(llabs((long long)c.lost - 1000) < 185);
    ck_assert(llabs((long long)c.doubled - 190) < 83);
    ck_assert(llabs((long long)c.overtook - 384) < 118);
    ck_assert_uint_eq(n, MANY - c.lost + c.doubled);
    ck_assert_uint_eq(counts(1).delivered, n);
    ck_assert_uint_gt(behind, 200); /* who was overtaken comes later, with a lower number */
}
END_TEST

START_TEST(a_block_has_a_direction_and_an_end) {
    uint8_t p[SIZE] = {0}, out[WIRE_PACKET_MAX];
    uint32_t to;
    size_t n;
    wire_block(w, 0, 1, true);
    wire_put(w, 1, 0, 1, p, sizeof p);
    ck_assert(!wire_take(w, 9, &to, out, &n));
    wire_put(w, 2, 1, 0, p, sizeof p);
    ck_assert(wire_take(w, 9, &to, out, &n) && to == 0);
    wire_put(w, 3, 0, 2, p, sizeof p);
    ck_assert(wire_take(w, 9, &to, out, &n) && to == 2);
    wire_block(w, 0, 1, false);
    wire_put(w, 4, 0, 1, p, sizeof p);
    ck_assert(wire_take(w, 9, &to, out, &n) && to == 1);
    ck_assert_uint_eq(counts(0).blocked, 1);
}
END_TEST

/* The Internet's checksum, as a receiver computes it: 0 over a packet that is whole. */
static uint16_t checksum(const uint8_t *p, size_t n, uint8_t protocol) {
    uint32_t sum = protocol + (uint32_t)(n - 20);
    for (size_t i = 12; i < n; i++) /* the addresses of the header, then what it carries */
        sum += (uint32_t)p[i] << (i % 2 ? 0 : 8);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

/* A packet of n bytes with a checksum that fits. */
static void make_packet(uint8_t *p, size_t n, uint8_t protocol) {
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(37 * i + n);
    p[0] = 0x45;
    p[6] = p[7] = 0;
    p[9] = protocol;
    p[32] = 5 << 4;
    uint8_t *sum = p + 20 + (protocol == 6 ? 16 : 6);
    sum[0] = sum[1] = 0;
    uint16_t v = checksum(p, n, protocol);
    sum[0] = (uint8_t)(v >> 8);
    sum[1] = (uint8_t)v;
}

/* If the checksum did not follow, TCP would drop the packet and CURVE would never see it. */
START_TEST(a_flipped_byte_passes_the_checksum) {
    for (unsigned kind = 0; kind < 2; kind++)
        for (size_t n = 41; n < 200; n++)
            for (uint64_t chance = 0; chance < 65536; chance += 1021) {
                uint8_t p[200], was[200], protocol = kind ? 17 : 6;
                size_t payload = kind ? 28 : 40, changed = 0;
                make_packet(p, n, protocol);
                ck_assert_uint_eq(checksum(p, n, protocol), 0);
                memcpy(was, p, n);
                ck_assert(wire_flip(p, n, chance));
                ck_assert_uint_eq(checksum(p, n, protocol), 0);
                for (size_t i = payload; i < n; i++)
                    changed += p[i] != was[i];
                ck_assert_uint_eq(changed, 1);
            }
}
END_TEST

/* What carries nothing, and what is no packet at all, stays as it is. */
START_TEST(nothing_else_is_flipped) {
    uint8_t p[60], was[60];
    for (size_t n = 0; n <= 40; n++) {
        make_packet(p, sizeof p, 6);
        memcpy(was, p, sizeof p);
        ck_assert(!wire_flip(p, n, 12345));
        ck_assert_mem_eq(p, was, sizeof p);
    }
    make_packet(p, sizeof p, 1);
    ck_assert(!wire_flip(p, sizeof p, 12345));
    make_packet(p, sizeof p, 17);
    p[7] = 1; /* a later fragment has no header */
    ck_assert(!wire_flip(p, sizeof p, 12345));
}
END_TEST

/* A hash of what arrives and when. */
static uint64_t trace(uint64_t seed) {
    wire_line bad = {.rate = 1000000,
                     .queue = 20000,
                     .delay_us = 5000,
                     .jitter_us = 4000,
                     .loss_ppm = 20000,
                     .double_ppm = 10000,
                     .overtake_ppm = 30000};
    uint32_t number;
    uint64_t at, h = 0;
    wire_free(w);
    w = wire_open(2, seed);
    wire_set(w, 0, &bad);
    send_many(5000, SIZE, 700);
    while (next(&number, &at))
        h = (h ^ number ^ at << 20) * 0x9e3779b97f4a7c15u;
    return h;
}

START_TEST(a_seed_repeats) {
    uint64_t h = trace(5);
    ck_assert_uint_eq(trace(5), h);
    ck_assert_uint_ne(trace(6), h);
}
END_TEST

static void add_tests(TCase *c) {
    tcase_add_checked_fixture(c, open_wire, close_wire);
    tcase_add_test(c, an_ideal_line_delivers_all_at_once_in_order);
    tcase_add_test(c, a_rate_is_that_rate_in_both_directions);
    tcase_add_test(c, a_queue_drops_what_does_not_fit);
    tcase_add_test(c, delay_and_jitter_stay_in_bounds_and_keep_the_order);
    tcase_add_test(c, chances_are_what_was_asked_for);
    tcase_add_test(c, a_block_has_a_direction_and_an_end);
    tcase_add_test(c, a_flipped_byte_passes_the_checksum);
    tcase_add_test(c, nothing_else_is_flipped);
    tcase_add_test(c, a_seed_repeats);
}

PD_TEST_MAIN("wire", 60)
