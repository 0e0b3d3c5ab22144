/* replay.c - the fused integer update; see replay.h.
 *
 * A block of coordinates stays in the first-level cache while up to 16 records pass over it, and
 * their signs are made for that block alone.  Per record, s * q = -q + 2q [bit]: the -q of all
 * records are added once, and a set bit adds 2q, which the compiler turns into a masked addition.
 */
#include "peerd/replay.h"
#include "peerd/bytes.h"

#include <string.h>

enum {
    BLOCK = 4096, /* coordinates: 16 KiB of a and 16 * 512 bytes of signs fit 32 KiB */
    LANES = 32,   /* coordinates a step: one word of sign bits a record */
};
_Static_assert(BLOCK % PD_DIRECTION_BLOCK == 0, "blocks of signs begin where the key stream can");

/* One machine code for every processor would halve the speed; the answer is the same in all. */
#if defined(__x86_64__) && defined(__linux__) && !defined(__SANITIZE_ADDRESS__) &&                 \
    !defined(__SANITIZE_THREAD__)
#if defined(__clang__)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __clang_major__ < 14
#define CLONES
#endif
#endif
#ifndef CLONES
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#else
#define CLONES
#endif

typedef struct sweep {
    uint32_t base;                   /* -sum of q */
    uint32_t twice[PD_REPLAY_FUSED]; /* 2 q */
    uint8_t bits[PD_REPLAY_FUSED][BLOCK / 8];
} sweep;

/* a += the records' sum, over m coordinates, m a multiple of LANES. */
CLONES static void sweep_block(const sweep *s, size_t records, uint32_t *a, size_t m) {
    for (size_t i = 0; i < m; i += LANES) {
        uint32_t sum[LANES];
        for (size_t l = 0; l < LANES; l++)
            sum[l] = a[i + l] + s->base;
        for (size_t k = 0; k < records; k++) {
            uint32_t word = pd_load32(s->bits[k] + i / 8), twice = s->twice[k];
            for (size_t l = 0; l < LANES; l++)
                sum[l] += word & UINT32_C(1) << l ? twice : 0;
        }
        memcpy(a + i, sum, sizeof sum);
    }
}

/* Up to 16 records over all of a. */
static void sweep_all(uint32_t *a, size_t d, const uint8_t *const *seeds, const uint32_t *q,
                      size_t records) {
    sweep s = {0};
    for (size_t k = 0; k < records; k++) {
        s.base -= q[k];
        s.twice[k] = 2 * q[k];
    }
    for (size_t from = 0; from < d; from += BLOCK) {
        size_t m = d - from < BLOCK ? d - from : BLOCK;
        /* libsodium makes 512 bytes of key stream in hardly more time than 256. */
        size_t signs = m > BLOCK / 2 ? BLOCK : m;
        for (size_t k = 0; k < records; k++)
            pd_direction_signs_at(seeds[k], from, s.bits[k], signs);
        size_t whole = m / LANES * LANES;
        sweep_block(&s, records, a + from, whole);
        if (whole < m) {
            uint32_t last[LANES] = {0};
            memcpy(last, a + from + whole, (m - whole) * sizeof *a);
            for (size_t k = 0; k < records; k++)
                memmove(s.bits[k], s.bits[k] + whole / 8, LANES / 8);
            sweep_block(&s, records, last, LANES);
            memcpy(a + from + whole, last, (m - whole) * sizeof *a);
        }
    }
}

/* sign = 1, or 2^32 - 1 to take back. */
static void apply(int32_t *a, size_t d, const uint8_t (*seeds)[32], const int64_t *q, size_t n,
                  uint32_t sign) {
    const uint8_t *seed[PD_REPLAY_FUSED];
    uint32_t low[PD_REPLAY_FUSED];
    size_t records = 0;
    for (size_t k = 0; k < n; k++) {
        if ((uint32_t)q[k] == 0) /* only q mod 2^32 is ever added */
            continue;
        seed[records] = seeds[k];
        low[records++] = sign * (uint32_t)q[k];
        if (records == PD_REPLAY_FUSED) {
            sweep_all((uint32_t *)a, d, seed, low, records);
            records = 0;
        }
    }
    if (records)
        sweep_all((uint32_t *)a, d, seed, low, records);
}

void pd_replay_apply(int32_t *a, size_t d, const uint8_t (*seeds)[32], const int64_t *q, size_t n) {
    apply(a, d, seeds, q, n, 1);
}

void pd_replay_undo(int32_t *a, size_t d, const uint8_t (*seeds)[32], const int64_t *q, size_t n) {
    apply(a, d, seeds, q, n, UINT32_MAX);
}

void pd_replay_of(const pd_manifest *m, pd_replay *out) {
    pd_manifest_run_id(m, out->run);
    pd_schedule_of(m, &out->schedule);
    out->unit_bits = m->unit_bits;
}

/* sign as in apply. */
static void fold(const pd_replay *r, int32_t *a, size_t d, const pd_author *author, uint64_t from,
                 const uint8_t *bytes, size_t n, uint32_t sign) {
    uint8_t seeds[PD_REPLAY_FUSED][32];
    int64_t q[PD_REPLAY_FUSED];
    for (size_t done = 0; done < n;) {
        size_t k = 0;
        for (; k < PD_REPLAY_FUSED && done < n; done++) {
            uint64_t step = from + done;
            q[k] =
                pd_byte_coefficient(bytes[done], pd_schedule_at(&r->schedule, step), r->unit_bits);
            if (q[k] != 0)
                pd_direction_seed(r->run, author, step, seeds[k++]);
        }
        apply(a, d, (const uint8_t(*)[32])seeds, q, k, sign);
    }
}

void pd_replay_fold(const pd_replay *r, int32_t *a, size_t d, const pd_author *author,
                    uint64_t from, const uint8_t *bytes, size_t n) {
    fold(r, a, d, author, from, bytes, n, 1);
}

void pd_replay_unfold(const pd_replay *r, int32_t *a, size_t d, const pd_author *author,
                      uint64_t from, const uint8_t *bytes, size_t n) {
    fold(r, a, d, author, from, bytes, n, UINT32_MAX);
}
