/* fuzz_ckpt.c - a checkpoint's file from anybody: it opens whole or not at all, what opens is
 * walked to its last byte, and a node that reproduces it never calls right what is not its own
 * state.
 *
 * Input: a switch, then the file.  Switch not 0: the run's id is put in its place first, so that a
 * search gets past it.
 */
#include "fuzz.h"

#include "peerd/ckpt.h"

#include <string.h>

enum { D = 8, AUTHORS = 3, RUN_AT = 13 };

static pd_ledger *ledger;
static pd_replica replica;

/* Any signature that begins with the key's first byte. */
static bool verify(void *ctx, const uint8_t pub[32], const void *msg, size_t n,
                   const uint8_t sig[64]) {
    (void)ctx, (void)msg, (void)n;
    return sig[0] == 'S' && sig[1] == pub[0];
}

static void walk(const uint8_t *p, size_t n, const pd_ckpt *c) {
    const uint8_t *at = c->entries;
    pd_ckpt_log e;
    uint64_t records = 0;
    uint32_t count = 0;
    for (; pd_ckpt_next(c, &at, &e); count++)
        records += e.chain.n;
    FUZZ_CHECK(at == c->coords && count == c->count && records == c->records);
    FUZZ_CHECK(c->coords + 4 * c->d == p + n);
}

/* Reproduced: then its coordinates are those of its own vector, folded from nothing. */
static pd_ckpt_verdict judge(const uint8_t *p, size_t n, const pd_ckpt *c) {
    pd_ckpt_verdict v = PD_CKPT_UNKNOWN;
    const char *why;
    int32_t a[D] = {0}, is[D];
    pd_ckpt_log e;
    if (pd_ckpt_check(p, n, &replica, ledger, UINT64_MAX, verify, NULL, &v, &why) != PD_OK ||
        v != PD_CKPT_RIGHT)
        return v;
    for (const uint8_t *at = c->entries; pd_ckpt_next(c, &at, &e);) {
        static uint8_t bytes[2048];
        uint32_t i;
        FUZZ_CHECK(pd_ledger_find(ledger, &e.author, &i));
        FUZZ_CHECK(pd_ledger_read(ledger, i, PD_STREAM_GRADIENTS, 0, bytes, (size_t)e.chain.n) ==
                   e.chain.n);
        pd_replay_fold(&replica.replay, a, D, &e.author, 0, bytes, (size_t)e.chain.n);
    }
    pd_ckpt_coords(c, is);
    FUZZ_CHECK(memcmp(a, is, sizeof a) == 0);
    return v;
}

static void start(void) {
    static const size_t n[AUTHORS] = {1030, 5, 1024};
    pd_manifest m = {.space = PD_SPACE_LORA,
                     .rank = 1,
                     .alpha = 1,
                     .targets = 1,
                     .unit_bits = 26,
                     .n_coords = D,
                     .eps = 1,
                     .scale = UINT64_C(1) << 34,
                     .lr = UINT64_C(1) << 31};
    uint64_t folded = 1;
    FUZZ_CHECK(pd_ledger_open(&ledger) == PD_OK && pd_replica_open(&m, &replica) == PD_OK);
    memset(replica.replay.run, 0x55, 32);
    for (int i = 0; i < AUTHORS; i++) {
        pd_author a = {.key = {(uint8_t)(0x10 * (i + 1))}};
        uint8_t bytes[2048], seal[64] = {'S', a.key[0]};
        uint32_t index;
        memset(bytes, 5 + i, sizeof bytes);
        FUZZ_CHECK(pd_ledger_author(ledger, &a, &index) == PD_OK);
        FUZZ_CHECK(pd_ledger_append(ledger, index, PD_STREAM_GRADIENTS, 0, bytes, n[i], seal) ==
                   PD_OK);
    }
    while (folded)
        FUZZ_CHECK(pd_replica_follow(&replica, ledger, UINT64_MAX, &folded) == PD_OK);
    uint8_t *own;
    size_t size;
    pd_ckpt_name name;
    pd_ckpt c;
    FUZZ_CHECK(pd_ckpt_make(&replica, ledger, &own, &size, &name) == PD_OK);
    FUZZ_CHECK(pd_ckpt_open(own, size, replica.replay.run, &c) == PD_OK);
    walk(own, size, &c);
    FUZZ_CHECK(judge(own, size, &c) == PD_CKPT_RIGHT);
    free(own);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    pd_ckpt c;
    if (!ledger)
        start();
    if (n == 0)
        return 0;
    uint8_t *file = malloc(n);
    memcpy(file, p + 1, n - 1);
    if (p[0] && n - 1 >= RUN_AT + 32)
        memset(file + RUN_AT, 0x55, 32);
    if (pd_ckpt_open(file, n - 1, replica.replay.run, &c) == PD_OK) {
        walk(file, n - 1, &c);
        (void)judge(file, n - 1, &c);
    }
    free(file);
    return 0;
}
