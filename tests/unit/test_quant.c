/* test_quant.c - weights are what the file says, to the bit: another implementation's values, and
 * every half. */
#include "peerd/bytes.h"
#include "peerd/gguf.h"
#include "peerd/identity.h"
#include "peerd/quant.h"
#include "test.h"

#include <math.h>

/* Is a type one that we read?  No block of it is, or one. */
static bool readable(uint32_t type) {
    float out[1];
    return pd_quant_read(type, NULL, 0, out) == PD_OK;
}

/* tests/vectors/quant/quant.txt: type, bytes, values; made by make_quant.py beside it. */
START_TEST(every_type_matches_the_vectors) {
    FILE *f = fopen(pd_test_path("tests/vectors/quant/quant.txt"), "r");
    ck_assert_ptr_nonnull(f);
    static char src_hex[1024], out_hex[4096];
    unsigned type, lines = 0;
    uint64_t seen = 0;
    while (fscanf(f, "%u %1023s %4095s", &type, src_hex, out_hex) == 3) {
        static uint8_t src[512], words[2048];
        static float out[256];
        size_t bytes = strlen(src_hex) / 2, n = strlen(out_hex) / 8;
        ck_assert(pd_unhex(src_hex, src, bytes) && pd_unhex(out_hex, words, 4 * n));
        ck_assert_uint_eq(n / pd_quant_block(type) * pd_quant_block_bytes(type), bytes);
        ck_assert_int_eq(pd_quant_read(type, src, n, out), PD_OK);
        for (size_t i = 0; i < n; i++) {
            const uint8_t *w = words + 4 * i;
            uint32_t want =
                         (uint32_t)w[0] << 24 | (uint32_t)w[1] << 16 | (uint32_t)w[2] << 8 | w[3],
                     got;
            memcpy(&got, out + i, 4);
            ck_assert_msg(got == want, "%s element %zu: %08x, not %08x", pd_quant_name(type), i,
                          got, want);
        }
        lines++;
        seen |= 1ull << type;
    }
    fclose(f);
    ck_assert_uint_ge(lines, 100);
    for (uint32_t t = 0; t < 64; t++)
        ck_assert_msg((seen >> t & 1) == readable(t), "%s", pd_quant_name(t));
}
END_TEST

/* Bytes as make_quant.py draws them. */
static void splitmix64(uint64_t seed, uint8_t *out, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (i % 8 == 0)
            seed += 0x9e3779b97f4a7c15;
        uint64_t z = seed;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
        z = (z ^ z >> 27) * 0x94d049bb133111eb;
        out[i] = (uint8_t)((z ^ z >> 31) >> 8 * (i % 8));
    }
}

enum { BLOCKS = 512 };

/* So many random blocks of each type that every scale, minimum and vector of a grid is met: a wrong
 * one among a thousand would spoil a few weights of a model, and nobody would see it.
 */
START_TEST(many_blocks_have_the_same_digest) {
    FILE *f = fopen(pd_test_path("tests/vectors/quant/blocks.txt"), "r");
    ck_assert_ptr_nonnull(f);
    static uint8_t src[BLOCKS * 292];
    static float out[BLOCKS * 256];
    char offsets[16], hex[65];
    unsigned type;
    int lines = 0;
    for (; fscanf(f, "%u %15s %64s", &type, offsets, hex) == 3; lines++) {
        size_t size = pd_quant_block_bytes(type), n = BLOCKS * pd_quant_block(type);
        uint8_t want[32], got[32];
        ck_assert(pd_unhex(hex, want, 32) && size <= 292);
        splitmix64(type, src, BLOCKS * size);
        for (char *p = offsets; *p != '-' && *p;) {
            unsigned long at = strtoul(p, &p, 10);
            ck_assert_uint_lt(at, size);
            for (size_t i = 0; i < BLOCKS; i++)
                src[i * size + at] &= 0xbf;
            p += *p == ',';
        }
        ck_assert_int_eq(pd_quant_read(type, src, n, out), PD_OK);
        pd_hash h;
        pd_hash_init(&h);
        pd_hash_add(&h, out, n * sizeof *out);
        pd_hash_end(&h, got);
        ck_assert_msg(memcmp(got, want, 32) == 0, "%s", pd_quant_name(type));
    }
    fclose(f);
    ck_assert_int_eq(lines, 22);
}
END_TEST

/* Small domains are tested whole: sign * 2^(e - 15) * (1 + m / 1024), subnormals below, infinities,
 * NaN. */
START_TEST(every_half_is_exact) {
    for (uint32_t h = 0; h < 65536; h++) {
        int e = h >> 10 & 31, m = h & 1023;
        float got = pd_half_to_float((uint16_t)h), want;
        if (e == 31 && m) {
            ck_assert(isnan(got));
            continue;
        }
        want = e == 31 ? INFINITY : e ? ldexpf((float)(1024 + m), e - 25) : ldexpf((float)m, -24);
        ck_assert(got == (h >> 15 ? -want : want) && !signbit(got) == !(h >> 15));
    }
}
END_TEST

static float bf16_to_float(uint32_t h) {
    uint32_t bits = h << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* Every finite number of a 16-bit type, the middle between it and the next one, and both sides of
 * the middle; signs alike.
 */
static void check_rounding(uint32_t largest, float (*widen)(uint32_t), uint16_t (*round)(float)) {
    for (uint32_t h = 0; h <= largest; h++) {
        double above =
            h < largest ? (double)widen(h + 1) : 2 * (double)widen(h) - (double)widen(h - 1);
        float x = widen(h), middle = (float)(((double)x + above) / 2);
        uint32_t even = h + (h & 1);
        ck_assert_uint_eq(round(x), h);
        ck_assert_uint_eq(round(-x), h | 0x8000u);
        ck_assert_uint_eq(round(middle), even);
        ck_assert_uint_eq(round(-middle), even | 0x8000u);
        ck_assert_uint_eq(round(nextafterf(middle, 0)), h);
        ck_assert_uint_eq(round(nextafterf(middle, INFINITY)), h + 1);
    }
    ck_assert_uint_eq(round(INFINITY), largest + 1);
    ck_assert_uint_eq(round(-INFINITY), (largest + 1) | 0x8000u);
    ck_assert(isnan(widen(round(NAN))));
}

static float half_to_float(uint32_t h) {
    return pd_half_to_float((uint16_t)h);
}

START_TEST(rounding_is_to_nearest_even) {
    check_rounding(0x7bff, half_to_float, pd_half_from_float);
    check_rounding(0x7f7f, bf16_to_float, pd_bf16_from_float);
    ck_assert_uint_eq(pd_half_from_float(1e30f), 0x7c00);
    ck_assert_uint_eq(pd_half_from_float(-1e-30f), 0x8000);
}
END_TEST

START_TEST(other_types_are_refused_by_name) {
    float out[256];
    uint8_t src[512] = {0};
    static const struct {
        uint32_t type;
        const char *name;
        size_t block, bytes;
    } c[] = {{9, "Q8_1", 32, 36},   {15, "Q8_K", 256, 292}, {24, "I8", 1, 1},    {28, "F64", 1, 8},
             {40, "NVFP4", 64, 36}, {41, "Q1_0", 128, 18},  {42, "Q2_0", 64, 18}};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        ck_assert_int_eq(pd_quant_read(c[i].type, src, c[i].block, out), PD_EUNSUPPORTED);
        ck_assert_ptr_nonnull(strstr(pd_fail_text(), c[i].name));
        ck_assert_uint_eq(pd_quant_block(c[i].type), c[i].block);
        ck_assert_uint_eq(pd_quant_block_bytes(c[i].type), c[i].bytes);
    }
    ck_assert_int_eq(pd_quant_read(4000, src, 0, out), PD_EUNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(pd_fail_text(), "type 4000"));
    ck_assert_uint_eq(pd_quant_block(4000), 0);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, every_type_matches_the_vectors);
    tcase_add_test(tc, many_blocks_have_the_same_digest);
    tcase_add_test(tc, every_half_is_exact);
    tcase_add_test(tc, rounding_is_to_nearest_even);
    tcase_add_test(tc, other_types_are_refused_by_name);
}

PD_TEST_MAIN("quant", 60)
