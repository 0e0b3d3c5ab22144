/* bench.h - what the benches of the engine measure with and on: clocks, a batch of texts, an
 * adapter.
 */
#ifndef PD_BENCH_H
#define PD_BENCH_H

#include "engine.h"
#include "peerd/file.h"
#include "peerd/rng.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SEQUENCE = 64 }; /* tokens of one text in the batch */

typedef struct clocks {
    double wall, cpu; /* seconds; cpu: of all threads */
} clocks;

static inline clocks now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (clocks){(double)pd_clock_us() * 1e-6, (double)t.tv_sec + (double)t.tv_nsec * 1e-9};
}

/* As many texts of random tokens, all scored, as there is room for. */
static inline void fill(pd_batch *b, uint32_t tokens, uint32_t vocab) {
    static uint32_t ids[SEQUENCE], len = SEQUENCE;
    static uint8_t scored[SEQUENCE];
    pd_rng rng = {1};
    memset(scored, 1, sizeof scored);
    pd_example e = {.kind = PD_EXAMPLE_NLL,
                    .n_seqs = 1,
                    .seq_len = &len,
                    .ids = ids,
                    .scored = scored,
                    .n_tokens = len};
    while (pd_batch_tokens(b) + SEQUENCE <= tokens) {
        for (uint32_t i = 0; i < SEQUENCE; i++)
            ids[i] = pd_rng_below(&rng, vocab);
        if (!pd_batch_add(b, &e))
            break;
    }
}

/* An adapter of rank r on every target, of zeros: what it costs does not depend on them. */
static inline pd_lowrank *make_adapter(const pd_model *m, uint32_t rank) {
    pd_lowrank *at = calloc(m->info.n_layers * PD_TARGETS, sizeof *at);
    for (uint32_t l = 0; l < m->info.n_layers; l++)
        for (int t = 0; t < PD_TARGETS; t++) {
            uint32_t out, in;
            pd_model_shape(&m->info, (pd_target)t, &out, &in);
            float *p = calloc((size_t)rank * (in + out), sizeof *p);
            at[l * PD_TARGETS + t] = (pd_lowrank){rank, p, p + (size_t)rank * in};
        }
    return at;
}

/* Bytes of this process that lie in huge pages; 0 where the kernel does not say. */
static inline unsigned long long huge_bytes(void) {
    uint64_t n = 0;
    (void)pd_proc_bytes("/proc/self/smaps_rollup", "AnonHugePages", &n);
    return n;
}

#endif
