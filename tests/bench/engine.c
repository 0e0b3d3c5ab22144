/* engine.c - how fast the engine is, and how near to its own matrix products.
 *
 * usage: engine MODEL.gguf [f32|bf16] [threads] [tokens] [rounds]
 *
 * One process alternates the products alone (the same packed matrices, the same rows) with whole
 * steps, because machines drift: only ratios taken in one run mean anything.  Prints wall and
 * processor time; the latter stands a busy machine better.
 */
#include "engine.h"
#include "peerd/file.h"
#include "peerd/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { SEQUENCE = 64 }; /* tokens of one text in the batch */

typedef struct clocks {
    double wall, cpu;
} clocks;

static clocks now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (clocks){(double)pd_clock_us() * 1e-6, (double)t.tv_sec + (double)t.tv_nsec * 1e-9};
}

/* The least of what each round took. */
static void keep_least(clocks *best, clocks start) {
    clocks end = now();
    best->wall = fmin(best->wall, end.wall - start.wall);
    best->cpu = fmin(best->cpu, end.cpu - start.cpu);
}

/* Every product of one step of `rows` rows, `predictions` of them with logits, on the work's own
 * buffers. */
static void products(const pd_model *m, pd_work *w, uint32_t rows, uint32_t predictions) {
    for (uint32_t l = 0; l < m->info.n_layers; l++) {
        pd_gemm_run(&m->layers[l].qkv, rows, w->h, w->qkv, false);
        pd_gemm_run(&m->layers[l].o, rows, w->att, w->x, true);
        for (uint32_t at = 0; at < rows; at += w->ffn_rows) {
            uint32_t n = rows - at < w->ffn_rows ? rows - at : w->ffn_rows;
            pd_gemm_run(&m->layers[l].gate_up, n, pd_row(w->h, at, m->info.width, m->half), w->gu,
                        false);
            pd_gemm_run(&m->layers[l].down, n, w->act, w->x + at * m->info.width, true);
        }
    }
    for (uint32_t at = 0; at < predictions; at += PD_HEAD_ROWS)
        for (uint32_t s = 0; s < m->n_slices; s++) {
            uint32_t n = predictions - at < PD_HEAD_ROWS ? predictions - at : PD_HEAD_ROWS;
            pd_gemm_run(&m->slices[s], n, pd_row(w->hs, at, m->info.width, m->half), w->logits,
                        false);
        }
}

static void fill(pd_batch *b, uint32_t tokens, uint32_t vocab) {
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

static void no_sink(void *ctx, uint32_t layer, pd_target t, uint32_t rows, const float *x,
                    const float *dy) {
    (void)ctx, (void)layer, (void)t, (void)rows, (void)x, (void)dy;
}

/* An adapter of rank r on every target, small enough to change nothing much. */
static pd_lowrank *make_adapter(const pd_model *m, uint32_t rank) {
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

static void report(const char *what, double tokens, clocks c) {
    printf("%-28s %8.1f ms wall, %8.1f ms processor: %8.0f tokens/s\n", what, c.wall * 1e3,
           c.cpu * 1e3, tokens / c.wall);
}

static void measure(const pd_model *m, uint32_t tokens, int rounds) {
    const clocks never = {INFINITY, INFINITY};
    clocks alone = never, one = never, two = never, adapted = never, back = never;
    pd_work *w, *wb;
    pd_batch *b;
    pd_loss loss[2];
    if (pd_work_open(m, tokens, 2, false, &w) || pd_work_open(m, tokens, 1, true, &wb) ||
        pd_batch_open(tokens, tokens, &b)) {
        fprintf(stderr, "engine: %s\n", pd_fail_text());
        exit(1);
    }
    fill(b, tokens, m->info.vocab);
    pd_adapter a = {make_adapter(m, 8)};
    const pd_adapter *plain[2] = {NULL, NULL}, *with[2] = {&a, &a};
    for (int i = 0; i <= rounds;
         i++) { /* the first round makes the products' code and is not counted */
        if (i == 1)
            alone = one = two = adapted = back = never;
        clocks start = now();
        products(m, w, b->n_tokens, b->n_scored);
        keep_least(&alone, start);
        start = now();
        pd_model_forward(m, w, b, plain, 1, loss, NULL);
        keep_least(&one, start);
        start = now();
        pd_model_forward(m, w, b, plain, 2, loss, NULL);
        keep_least(&two, start);
        start = now();
        pd_model_forward(m, w, b, with, 2, loss, NULL);
        keep_least(&adapted, start);
        start = now();
        pd_model_backward(m, wb, b, NULL, no_sink, NULL, loss);
        keep_least(&back, start);
    }
    double n = b->n_tokens;
    report("products alone", n, alone);
    report("forward", n, one);
    report("forward, two sides", n, two);
    report("forward, two sides, rank 8", n, adapted);
    report("forward and backward", n, back);
    printf("forward at %.0f %% of its products (%.0f %% by processor time); memory: model %zu MB, "
           "work %zu MB, reverse %zu MB\n",
           100 * alone.wall / one.wall, 100 * alone.cpu / one.cpu, m->info.packed_bytes >> 20,
           pd_work_bytes(w) >> 20, pd_work_bytes(wb) >> 20);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: engine MODEL.gguf [f32|bf16] [threads] [tokens] [rounds]\n");
        return 2;
    }
    pd_model_opts o = {.backward = true, .threads = argc > 3 ? (unsigned)atoi(argv[3]) : 0};
    if (argc > 2)
        o.compute = strcmp(argv[2], "bf16") == 0 ? PD_COMPUTE_BF16 : PD_COMPUTE_F32;
    pd_gguf *g;
    pd_model *m;
    if (pd_gguf_open(argv[1], &g) || pd_model_open(g, &o, &m)) {
        fprintf(stderr, "engine: %s\n", pd_fail_text());
        return 1;
    }
    pd_gguf_close(g);
    printf("%s, %s, %u threads, kernels %s\n", argv[1], m->half ? "bf16" : "f32", pd_pool_threads(),
           m->k->name);
    measure(m, argc > 4 ? (uint32_t)atoi(argv[4]) : 1024, argc > 5 ? atoi(argv[5]) : 5);
    pd_model_close(m);
    return 0;
}
