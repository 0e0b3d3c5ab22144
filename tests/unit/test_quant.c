/* test_quant.c - weights are what the file says, to the bit: another implementation's values, and
 * every half. */
#include "peerd/bytes.h"
#include "peerd/gguf.h"
#include "peerd/quant.h"
#include "test.h"

#include <math.h>

/* tests/vectors/quant/quant.txt: type, bytes, values; made by make_quant.py beside it. */
START_TEST(every_type_matches_the_vectors) {
    FILE *f = fopen(pd_test_path("tests/vectors/quant/quant.txt"), "r");
    ck_assert_ptr_nonnull(f);
    static char src_hex[1024], out_hex[4096];
    unsigned type, lines = 0, seen = 0;
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
        seen |= 1u << type;
    }
    fclose(f);
    ck_assert_uint_ge(lines, 80);
    ck_assert_uint_eq(seen, 1u << 0 | 1u << 1 | 1u << 2 | 1u << 3 | 1u << 6 | 1u << 7 | 1u << 8 |
                                1u << 14 | 1u << 30);
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

START_TEST(other_types_are_refused_by_name) {
    float out[256];
    uint8_t src[256] = {0};
    ck_assert_int_eq(pd_quant_read(12, src, 256, out), PD_EUNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(pd_fail_text(), "Q4_K"));
    ck_assert_uint_eq(pd_quant_block_bytes(12), 144);
    ck_assert_int_eq(pd_quant_read(4000, src, 0, out), PD_EUNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(pd_fail_text(), "type 4000"));
    ck_assert_uint_eq(pd_quant_block(4000), 0);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, every_type_matches_the_vectors);
    tcase_add_test(tc, every_half_is_exact);
    tcase_add_test(tc, other_types_are_refused_by_name);
}

PD_TEST_MAIN("quant", 60)
