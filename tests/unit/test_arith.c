/* test_arith.c - byte, direction, schedule, replay: what every machine has to agree on, bit for
 * bit.
 *
 * vectors/arith.txt was made by vectors/make_arith.py, another implementation of the same text.
 */
#include "peerd/bytes.h"
#include "peerd/replay.h"
#include "test.h"

#include <math.h>

enum { LINE = 4096, D_MAX = 3 * 4096 + 77 };

/* ---- every line of the vectors ---- */

typedef struct golden { /* the whole replay of the vectors, gathered from its lines */
    pd_replay replay;
    pd_author author[3];
    uint8_t bytes[3][50];
    size_t d, n_authors;
    int32_t a[1000];
} golden;

static void check_value(const char *s) {
    unsigned c;
    unsigned long long v;
    ck_assert_int_eq(sscanf(s, "%u %llu", &c, &v), 2);
    ck_assert_uint_eq(pd_byte_fixed((uint8_t)c), v);
    ck_assert_uint_eq(pd_byte_fixed((uint8_t)(c | 128)), v);
}

static void check_coefficient(const char *s) {
    unsigned byte, F;
    unsigned long long L;
    long long q;
    ck_assert_int_eq(sscanf(s, "%u %llu %u %lld", &byte, &L, &F, &q), 4);
    ck_assert_int_eq(pd_byte_coefficient((uint8_t)byte, L, F), q);
}

static void unhex(const char *s, uint8_t *out, size_t n) {
    ck_assert(pd_unhex(s, out, n));
}

static void check_direction(const char *s) {
    char run[65], key[65], seed[65], bits[81];
    unsigned inc;
    unsigned long long step;
    ck_assert_int_eq(sscanf(s, "%64s %64s %u %llu %64s %80s", run, key, &inc, &step, seed, bits),
                     6);
    uint8_t r[32], want[32], want_bits[40], got[32], got_bits[40];
    pd_author a;
    unhex(run, r, 32);
    unhex(key, a.key, 32);
    unhex(seed, want, 32);
    unhex(bits, want_bits, 40);
    a.inc = inc;
    pd_direction_seed(r, &a, step, got);
    ck_assert_mem_eq(got, want, 32);
    pd_direction_signs(got, got_bits, 320);
    ck_assert_mem_eq(got_bits, want_bits, 40);
    memset(got_bits, 0xaa, 40);
    pd_direction_signs_at(got, 0, got_bits, 320);
    ck_assert_mem_eq(got_bits, want_bits, 40);
}

static void check_replay(const char *s, golden *g) {
    char hex[2][101];
    unsigned F;
    unsigned long long l0, n, lmin, d;
    int used = 0;
    if (sscanf(s, "run %64s F %u L0 %llu N %llu Lmin %llu d %llu", hex[0], &F, &l0, &n, &lmin,
               &d) == 6) {
        unhex(hex[0], g->replay.run, 32);
        g->replay.schedule = (pd_schedule){PD_SCHEDULE_LINEAR, l0, lmin, n};
        g->replay.unit_bits = F;
        g->d = (size_t)d;
        ck_assert(d == 1000);
    } else if (sscanf(s, "author %64s %100s", hex[0], hex[1]) == 2) {
        pd_author *a = &g->author[g->n_authors];
        unhex(hex[0], a->key, 32);
        unhex(hex[1], g->bytes[g->n_authors++], 50);
        a->inc = 0;
    } else if (strncmp(s, "a[0..15] ", 9) == 0) {
        for (size_t i = 0; i < 3; i++)
            pd_replay_fold(&g->replay, g->a, g->d, &g->author[i], 0, g->bytes[i], 50);
        s += 9;
        for (int i = 0, v; i < 16; i++, s += used) {
            ck_assert_int_eq(sscanf(s, "%d%n", &v, &used), 1);
            ck_assert_int_eq(g->a[i], v);
        }
    } else {
        ck_assert_int_eq(sscanf(s, "blake2b-256 of a as LE int32 %64s", hex[0]), 1);
        uint8_t le[4000], want[32], got[32];
        for (size_t i = 0; i < 1000; i++)
            pd_store32(le + 4 * i, (uint32_t)g->a[i]);
        unhex(hex[0], want, 32);
        pd_hash256(le, sizeof le, got);
        ck_assert_mem_eq(got, want, 32);
    }
}

START_TEST(every_line_of_the_vectors) {
    FILE *f = fopen(pd_test_path("tests/vectors/arith.txt"), "r");
    ck_assert(f != NULL);
    static char line[LINE];
    static golden g;
    int lines = 0;
    while (fgets(line, sizeof line, f)) {
        if (line[0] == '#')
            continue;
        lines++;
        if (strncmp(line, "value ", 6) == 0)
            check_value(line + 6);
        else if (strncmp(line, "coefficient ", 12) == 0)
            check_coefficient(line + 12);
        else if (strncmp(line, "direction ", 10) == 0)
            check_direction(line + 10);
        else if (strncmp(line, "replay ", 7) == 0)
            check_replay(line + 7, &g);
        else
            ck_abort_msg("unknown line: %s", line);
    }
    fclose(f);
    ck_assert_int_eq(lines, 9 + 40 + 6 + 6);
}
END_TEST

/* ---- byte ---- */

/* The six-entry table is the power of two it stands for, for every byte; only 0x80 is refused. */
START_TEST(all_bytes_decode_as_drawn) {
    for (int b = 0; b < 256; b++) {
        uint8_t byte = (uint8_t)b;
        int c = b & 127;
        double v = c ? exp2((c - 1) / 6.0 - 10) : 0;
        ck_assert(fabs(fabs(pd_byte_value(byte)) - v) <= 1e-9 * v);
        ck_assert(c == 0 || (pd_byte_value(byte) < 0) == (b > 127));
        ck_assert(pd_byte_valid(byte) == (b != 0x80));
        ck_assert(c < 2 || pd_byte_fixed(byte) > pd_byte_fixed((uint8_t)(b - 1)));
        int64_t q = pd_byte_coefficient(byte, UINT64_C(1) << 40, 26); /* lr * scale = 1 */
        ck_assert(fabs((double)q + pd_byte_value(byte) * 0x1p26) <= 0.5);
        ck_assert_int_eq(q, -pd_byte_coefficient((uint8_t)(b ^ 128), UINT64_C(1) << 40, 26));
        pd_byte_coefficient(byte, PD_STEP_MAX,
                            30); /* the largest there is: no overflow under UBSan */
    }
}
END_TEST

/* A value that a byte can hold comes back as that byte, whatever u is. */
START_TEST(every_byte_round_trips) {
    for (int b = 0; b < 256; b++)
        for (int i = -1; i < 8; i++) {
            double scale = 0.37, u = i / 8.0;
            uint8_t want = b == PD_BYTE_RESERVED ? 0 : (uint8_t)b;
            ck_assert_uint_eq(pd_byte_encode(pd_byte_value((uint8_t)b) * scale / scale, 1, u),
                              want);
            ck_assert_uint_eq(pd_byte_encode(pd_byte_value((uint8_t)b), 1, u), want);
        }
    ck_assert_uint_eq(pd_byte_encode(-0.0, 1, 0), 0);
    ck_assert_uint_eq(pd_byte_encode(1e300, 1e-300, 0.5), 127);
    ck_assert_uint_eq(pd_byte_encode(-3000, 1, 0), 255);
}
END_TEST

/* Rounding that leaned one way would add up over thousands of records. */
START_TEST(encoding_is_unbiased) {
    enum { GRID = 4000 };
    const double scale = 0.02;
    const double g[] = {0,     1e-9,  3e-6, -1.2e-5, 1.9e-5, 2e-5, -7.7e-4,
                        0.011, -0.02, 0.33, 2.7,     -39.9,  40.9};
    for (size_t k = 0; k < sizeof g / sizeof *g; k++) {
        double sum = 0, step = fabs(g[k]) / 6 + scale * 0x1p-10; /* wider than the gap it lies in */
        for (int i = 0; i < GRID; i++) {
            uint8_t byte = pd_byte_encode(g[k], scale, (i + 0.5) / GRID);
            ck_assert(pd_byte_valid(byte));
            sum += pd_byte_value(byte) * scale;
        }
        ck_assert_msg(fabs(sum / GRID - g[k]) <= step / GRID, "g %g decodes to %g on average", g[k],
                      sum / GRID);
        double nearest = pd_byte_value(pd_byte_encode(g[k], scale, -1)) * scale;
        ck_assert(fabs(nearest - g[k]) <= step / 2 + 1e-15);
    }
}
END_TEST

/* ---- direction ---- */

/* Replay makes signs block by block; a block must be the part of the whole that it stands for. */
START_TEST(signs_from_the_middle_are_the_same) {
    uint8_t seed[32] = {1, 2, 3}, whole[400], part[400];
    pd_direction_signs(seed, whole, 3200);
    for (size_t from = 0; from < 3200; from += PD_DIRECTION_BLOCK)
        for (size_t d = 1; d <= 3200 - from; d += 331) {
            pd_direction_signs_at(seed, from, part, d);
            ck_assert_mem_eq(part, whole + from / 8, (d + 7) / 8);
        }
    ck_assert_int_eq(pd_direction_sign(whole, 9), whole[1] & 2 ? 1 : -1);
}
END_TEST

/* ---- schedule ---- */

START_TEST(schedules_fall_from_first_to_floor) {
    const uint64_t l0[] = {1, 1000, 10995116278, PD_STEP_MAX}, n[] = {1, 2, 40, 100000};
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < 4; j++)
            for (int kind = PD_SCHEDULE_CONSTANT; kind <= PD_SCHEDULE_COSINE; kind++) {
                pd_schedule s = {(pd_schedule_kind)kind, l0[i], l0[i] / 10, n[j]};
                ck_assert_uint_eq(pd_schedule_at(&s, 0), l0[i]);
                uint64_t floor = kind == PD_SCHEDULE_CONSTANT ? l0[i] : l0[i] / 10;
                ck_assert_uint_eq(pd_schedule_at(&s, n[j]), floor);
                ck_assert_uint_eq(pd_schedule_at(&s, UINT64_MAX), floor);
                for (uint64_t k = 1, was = l0[i]; k < n[j]; k++) {
                    uint64_t l = pd_schedule_at(&s, k);
                    ck_assert(l <= was && l >= floor);
                    was = l;
                }
            }
}
END_TEST

/* The table and its interpolation are the cosine to a few parts in 10^5 of the first step. */
START_TEST(cosine_is_a_cosine) {
    pd_schedule s = {PD_SCHEDULE_COSINE, UINT64_C(1) << 50, 0, 100003};
    for (uint64_t k = 0; k < s.n; k += 7) {
        double want = (1 + cos(M_PI * (double)k / (double)s.n)) / 2;
        ck_assert(fabs((double)pd_schedule_at(&s, k) * 0x1p-50 - want) < 1e-5);
    }
    s.n = UINT64_MAX; /* no overflow under UBSan */
    ck_assert(pd_schedule_at(&s, UINT64_MAX - 1) < s.l0 >> 30);
    ck_assert(pd_schedule_at(&s, UINT64_MAX / 2) >> 48 == 1 ||
              pd_schedule_at(&s, UINT64_MAX / 2) >> 48 == 2);
}
END_TEST

START_TEST(schedule_of_a_manifest_is_rounded_once) {
    pd_manifest m = {
        .lr = 3, .scale = UINT64_C(1) << 39, .lr_min = 1, .schedule = PD_SCHEDULE_COSINE};
    pd_schedule s;
    m.decay_records = 9;
    pd_schedule_of(&m, &s);
    ck_assert(s.l0 == 2 && s.lmin == 1 && s.n == 9 && s.kind == PD_SCHEDULE_COSINE);
    m.lr = 1, m.scale = 1, m.lr_min = 0;
    pd_schedule_of(&m, &s);
    ck_assert(s.l0 == 1 && s.lmin == 0);
    m.lr = m.scale = UINT64_MAX; /* never read from outside; still no overflow */
    pd_schedule_of(&m, &s);
    ck_assert(s.l0 == PD_STEP_MAX);
}
END_TEST

/* ---- replay ---- */

static uint64_t state = 88172645463325252u;
static uint64_t rnd(void) { /* xorshift64: a test must repeat */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

typedef struct set {
    uint8_t seed[200][32];
    int64_t q[200];
    size_t n;
} set;

static void make_set(set *s, size_t n) {
    s->n = n;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < 32; j++)
            s->seed[i][j] = (uint8_t)rnd();
        s->q[i] = i % 7 == 3 ? 0 : (int64_t)rnd() >> (i % 40); /* wraps around often */
    }
}

/* One record and one coordinate at a time, as DESIGN writes it. */
static void plain(int32_t *a, size_t d, const set *s) {
    static uint8_t bits[(D_MAX + 7) / 8];
    for (size_t k = 0; k < s->n; k++) {
        pd_direction_signs(s->seed[k], bits, d);
        for (size_t i = 0; i < d; i++)
            a[i] = (int32_t)((uint32_t)a[i] +
                             (uint32_t)pd_direction_sign(bits, i) * (uint32_t)s->q[k]);
    }
}

static const size_t dims[] = {1, 2, 7, 8, 31, 32, 33, 210, 840, 4095, 4096, 4097, 8192, D_MAX};

START_TEST(fused_replay_is_the_plain_one) {
    static int32_t a[D_MAX], want[D_MAX];
    static set s;
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
        for (size_t n = 0; n <= 50; n += 1 + n / 3) {
            size_t d = dims[i];
            make_set(&s, n);
            for (size_t k = 0; k < D_MAX; k++)
                a[k] = want[k] = (int32_t)rnd();
            plain(want, d, &s);
            pd_replay_apply(a, d, (const uint8_t(*)[32])s.seed, s.q, n);
            ck_assert_mem_eq(a, want, sizeof a); /* and nothing beyond d was touched */
        }
}
END_TEST

START_TEST(undo_is_exact) {
    static int32_t a[D_MAX], was[D_MAX];
    static set s;
    make_set(&s, 37);
    s.q[5] = INT64_MIN;
    for (size_t k = 0; k < D_MAX; k++)
        a[k] = was[k] = (int32_t)rnd();
    pd_replay_apply(a, D_MAX, (const uint8_t(*)[32])s.seed, s.q, s.n);
    ck_assert(memcmp(a, was, sizeof a) != 0);
    pd_replay_undo(a, D_MAX, (const uint8_t(*)[32])s.seed, s.q, s.n);
    ck_assert_mem_eq(a, was, sizeof a);
}
END_TEST

/* The claim everything rests on: equal sets of records give equal digests, in any order and any
 * split. */
START_TEST(order_and_split_do_not_matter) {
    static int32_t a[D_MAX];
    static set s;
    for (int round = 0; round < 30; round++) {
        size_t d = dims[rnd() % (sizeof dims / sizeof *dims)];
        uint8_t want[16], got[16];
        make_set(&s, 1 + rnd() % 120);
        memset(a, 0, sizeof a);
        plain(a, d, &s);
        pd_replay_digest(a, d, want);
        for (size_t i = s.n; i > 1; i--) { /* shuffle */
            size_t j = rnd() % i;
            uint8_t t[32];
            memcpy(t, s.seed[i - 1], 32), memcpy(s.seed[i - 1], s.seed[j], 32),
                memcpy(s.seed[j], t, 32);
            int64_t q = s.q[i - 1];
            s.q[i - 1] = s.q[j], s.q[j] = q;
        }
        memset(a, 0, sizeof a);
        for (size_t from = 0; from < s.n;) {
            size_t part = 1 + rnd() % (s.n - from);
            pd_replay_apply(a, d, (const uint8_t(*)[32])(s.seed + from), s.q + from, part);
            from += part;
        }
        pd_replay_digest(a, d, got);
        ck_assert_mem_eq(got, want, 16);
    }
}
END_TEST

/* The trainer folds whatever has arrived of each author's log; cuts and the turn of authors must
 * not show. */
START_TEST(folding_logs_in_any_cuts_is_the_same) {
    pd_replay r = {.schedule = {PD_SCHEDULE_COSINE, 10995116278, 1000, 300}, .unit_bits = 26};
    pd_author who[3] = {{{1}, 0}, {{1}, 1}, {{2}, 0}};
    static uint8_t bytes[3][400];
    static int32_t a[840], b[840];
    uint8_t want[16], got[16];
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 400; k++)
            bytes[i][k] = (uint8_t)rnd();
    for (int i = 0; i < 3; i++)
        pd_replay_fold(&r, a, 840, &who[i], 0, bytes[i], 400);
    pd_replay_digest(a, 840, want);
    size_t at[3] = {0};
    while (at[0] + at[1] + at[2] < 1200) {
        size_t i = rnd() % 3, n = rnd() % 60;
        n = n < 400 - at[i] ? n : 400 - at[i];
        pd_replay_fold(&r, b, 840, &who[i], at[i], bytes[i] + at[i], n);
        at[i] += n;
    }
    pd_replay_digest(b, 840, got);
    ck_assert_mem_eq(got, want, 16);
}
END_TEST

/* Computed with the Python package xxhash over struct.pack('<1000i', ...). */
START_TEST(digest_is_canonical_xxh3) {
    static int32_t a[3000];
    char hex[33];
    uint8_t got[16];
    for (int i = 0; i < 3000; i++)
        a[i] = (int32_t)((uint32_t)i * 2654435761u);
    pd_replay_digest(a, 3000, got);
    pd_hex(got, 16, hex);
    ck_assert_str_eq(hex, "4eca52d1dcdf33b76a579b146bd5cc42");
    pd_replay_digest(a, 0, got);
    pd_hex(got, 16, hex);
    ck_assert_str_eq(hex, "99aa06d3014798d86001c324468d497f");
    ck_assert(pd_xxh64("peerd", 5, 7) == UINT64_C(0x58f09d642af2b5c8));
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, every_line_of_the_vectors);
    tcase_add_test(tc, all_bytes_decode_as_drawn);
    tcase_add_test(tc, every_byte_round_trips);
    tcase_add_test(tc, encoding_is_unbiased);
    tcase_add_test(tc, signs_from_the_middle_are_the_same);
    tcase_add_test(tc, schedules_fall_from_first_to_floor);
    tcase_add_test(tc, cosine_is_a_cosine);
    tcase_add_test(tc, schedule_of_a_manifest_is_rounded_once);
    tcase_add_test(tc, fused_replay_is_the_plain_one);
    tcase_add_test(tc, undo_is_exact);
    tcase_add_test(tc, order_and_split_do_not_matter);
    tcase_add_test(tc, folding_logs_in_any_cuts_is_the_same);
    tcase_add_test(tc, digest_is_canonical_xxh3);
}

PD_TEST_MAIN("arith", 60)
