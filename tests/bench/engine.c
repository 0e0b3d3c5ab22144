/* engine.c - how fast the engine is, and how near to its own matrix products.
 *
 * usage: engine MODEL.gguf [f32|bf16] [threads] [tokens] [rounds] [rank]
 *
 * One process alternates the products alone (the same packed matrices, the same rows) with whole
 * steps, because machines drift: only ratios taken in one run mean anything.  Prints the least wall
 * and processor time of the rounds; the latter stands a busy machine better.  With "-" for rounds
 * it is tests/bench/run's: the model's shape as a line of JSON, then a round for each line it
 * reads, answered by one line with the seconds of each step, wall and processor.
 */
#include "bench.h"
#include "peerd/direction.h"
#include "peerd/replay.h"
#include "peerd/space.h"

#include <math.h>
#include <stdio.h>

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

static void no_sink(void *ctx, uint32_t layer, pd_target t, uint32_t rows, const float *x,
                    const float *dy) {
    (void)ctx, (void)layer, (void)t, (void)rows, (void)x, (void)dy;
}

/* A run in the full space of all targets, with one record's direction. */
typedef struct full {
    pd_space *space;
    pd_view *side[2];
    size_t d;
    int32_t *a;
    uint8_t *signs;
} full;

static pd_err full_open(const pd_model_info *info, full *f) {
    pd_manifest m = {.space = PD_SPACE_FULL, .targets = pd_model_targets(info), .unit_bits = 30};
    m.n_coords = pd_space_size(&m, info);
    f->d = (size_t)m.n_coords;
    f->a = calloc(f->d, sizeof *f->a);
    f->signs = malloc((f->d + 7) / 8);
    pd_err e = f->a && f->signs ? pd_space_open(&m, info, NULL, &f->space)
                                : pd_fail(PD_ENOMEM, "no memory for %zu coordinates", f->d);
    for (int s = 0; s < 2 && !e; s++)
        e = pd_view_open(f->space, &f->side[s]);
    return e;
}

static void full_close(full *f) {
    pd_view_close(f->side[0]);
    pd_view_close(f->side[1]);
    pd_space_close(f->space);
    free(f->a);
    free(f->signs);
}

typedef struct bench {
    const pd_model *m;
    pd_work *w, *back; /* back: opened for reverse mode */
    pd_batch *b;
    pd_adapter a;
    full full;
    pd_loss loss[2];
} bench;

static void run_products(bench *x) {
    products(x->m, x->w, x->b->n_tokens, x->b->n_scored);
}

static void run_forward(bench *x) {
    pd_model_forward(x->m, x->w, x->b, NULL, 1, x->loss, NULL);
}

static void run_two(bench *x) {
    pd_model_forward(x->m, x->w, x->b, NULL, 2, x->loss, NULL);
}

static void run_probe(bench *x) {
    const pd_adapter *side[2] = {&x->a, &x->a};
    pd_model_forward(x->m, x->w, x->b, side, 2, x->loss, NULL);
}

static void run_backward(bench *x) {
    pd_model_backward(x->m, x->back, x->b, NULL, no_sink, NULL, x->loss);
}

static void run_full(bench *x) {
    const pd_adapter *side[2];
    for (int s = 0; s < 2; s++) {
        pd_view_set(x->full.side[s], x->full.a, x->full.signs, s ? -1e-3f : 1e-3f);
        side[s] = pd_view_adapter(x->full.side[s]);
    }
    pd_model_forward(x->m, x->w, x->b, side, 2, x->loss, NULL);
}

/* All that a record costs: its direction, the two losses, its place in the coordinates. */
static void run_full_step(bench *x) {
    static const uint8_t seed[1][32] = {{1}};
    int64_t q = 100;
    pd_direction_signs(seed[0], x->full.signs, x->full.d);
    run_full(x);
    pd_replay_apply(x->full.a, x->full.d, seed, &q, 1);
}

static const struct {
    const char *key, *name;
    void (*run)(bench *x);
} steps[] = {
    {"products", "products alone", run_products},
    {"forward", "forward", run_forward},
    {"two", "forward, two sides", run_two},
    {"probe", "two sides with an adapter", run_probe},
    {"full", "two sides, full space", run_full},
    {"full_step", "a record in a full space", run_full_step},
    {"backward", "forward and backward", run_backward},
};
enum { STEPS = sizeof steps / sizeof *steps };

static clocks timed(bench *x, int step) {
    clocks start = now();
    steps[step].run(x);
    clocks end = now();
    return (clocks){end.wall - start.wall, end.cpu - start.cpu};
}

static void report(bench *x, int rounds) {
    clocks least[STEPS];
    double tokens = x->b->n_tokens;
    for (int i = 0; i < rounds; i++)
        for (int s = 0; s < STEPS; s++) {
            clocks c = timed(x, s);
            least[s].wall = i ? fmin(least[s].wall, c.wall) : c.wall;
            least[s].cpu = i ? fmin(least[s].cpu, c.cpu) : c.cpu;
        }
    for (int s = 0; s < STEPS; s++)
        printf("%-28s %8.1f ms wall, %8.1f ms processor: %8.0f tokens/s\n", steps[s].name,
               least[s].wall * 1e3, least[s].cpu * 1e3, tokens / least[s].wall);
    printf("forward at %.0f %% of its products (%.0f %% by processor time); memory: model %zu MB, "
           "work %zu MB, reverse %zu MB\n",
           100 * least[0].wall / least[1].wall, 100 * least[0].cpu / least[1].cpu,
           x->m->info.packed_bytes >> 20, pd_work_bytes(x->w) >> 20, pd_work_bytes(x->back) >> 20);
}

static void answer(bench *x) {
    const pd_model_info *i = &x->m->info;
    char line[16];
    printf("{\"compute\":\"%s\",\"kernels\":\"%s\",\"threads\":%u,\"tokens\":%u,\"sequence\":%d,"
           "\"layers\":%u,\"width\":%u,\"heads\":%u,\"kv_heads\":%u,\"head_width\":%u,\"ff\":%u,"
           "\"vocab\":%u,\"tied\":%s,\"packed_bytes\":%zu,\"huge_bytes\":%llu}\n",
           x->m->half ? "bf16" : "f32", x->m->k->name, pd_pool_threads(), x->b->n_tokens, SEQUENCE,
           i->n_layers, i->width, i->n_heads, i->n_kv_heads, i->head_width, i->ff, i->vocab,
           i->tied ? "true" : "false", i->packed_bytes, huge_bytes());
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        for (int s = 0; s < STEPS; s++) {
            clocks c = timed(x, s);
            printf("%s\"%s\":[%.6f,%.6f]", s ? "," : "{", steps[s].key, c.wall, c.cpu);
        }
        printf("}\n");
        fflush(stdout);
    }
}

static void measure(const pd_model *m, uint32_t tokens, const char *rounds, uint32_t rank) {
    bench x = {.m = m};
    if (pd_work_open(m, tokens, 2, false, &x.w) || pd_work_open(m, tokens, 1, true, &x.back) ||
        pd_batch_open(tokens, tokens, &x.b) || full_open(&m->info, &x.full)) {
        fprintf(stderr, "engine: %s\n", pd_fail_text());
        exit(1);
    }
    fill(x.b, tokens, m->info.vocab);
    x.a.at = make_adapter(m, rank);
    for (int s = 0; s < STEPS; s++) /* the first time makes the products' code */
        steps[s].run(&x);
    if (strcmp(rounds, "-") == 0)
        answer(&x);
    else
        report(&x, atoi(rounds) > 0 ? atoi(rounds) : 1);
    full_close(&x.full);
    pd_work_close(x.w);
    pd_work_close(x.back);
    pd_batch_close(x.b);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: engine MODEL.gguf [f32|bf16] [threads] [tokens] [rounds] [rank]\n");
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
    fprintf(stderr, "%s, %s, %u threads, kernels %s\n", argv[1], m->half ? "bf16" : "f32",
            pd_pool_threads(), m->k->name);
    measure(m, argc > 4 ? (uint32_t)atoi(argv[4]) : 1024, argc > 5 ? argv[5] : "5",
            argc > 6 ? (uint32_t)atoi(argv[6]) : 8);
    pd_model_close(m);
    return 0;
}
