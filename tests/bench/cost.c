/* cost.c - what a forward pass and a probe cost, of several batches and ranks in turn.
 *
 * usage: cost MODEL.gguf auto|f32|bf16 THREADS TOKENS:RANK...
 *
 * For tests/bench/run --plots: prints the model as a line of JSON, then for each line that it reads
 * a line with the seconds, wall and processor, of every TOKENS:RANK:
 *
 *   [{"forward":[wall,cpu],"probe":[wall,cpu]},...]      probe: both sides through the adapter
 *
 * The model is opened as a node that probes does it, without reverse mode.
 */
#include "bench.h"

#include <stdio.h>

typedef struct setting {
    pd_work *w;
    pd_batch *b;
    pd_adapter a;
} setting;

static void fail(const char *what) {
    fprintf(stderr, "cost: %s\n", what);
    exit(1);
}

static setting open_setting(const pd_model *m, const char *arg) {
    setting s = {0};
    uint32_t tokens, rank;
    if (sscanf(arg, "%u:%u", &tokens, &rank) != 2 || tokens < SEQUENCE || !rank ||
        rank > PD_RANK_MAX)
        fail("a setting is TOKENS:RANK, of at least one text of 64 tokens and rank 1 to 64");
    if (pd_work_open(m, tokens, 2, false, &s.w) || pd_batch_open(tokens, tokens, &s.b))
        fail(pd_fail_text());
    fill(s.b, tokens, m->info.vocab);
    s.a.at = make_adapter(m, rank);
    return s;
}

static clocks forward(const pd_model *m, const setting *s, unsigned sides) {
    const pd_adapter *side[2] = {&s->a, &s->a};
    pd_loss loss[2];
    clocks start = now();
    pd_model_forward(m, s->w, s->b, sides == 2 ? side : NULL, sides, loss, NULL);
    clocks end = now();
    return (clocks){end.wall - start.wall, end.cpu - start.cpu};
}

static void round_of(const pd_model *m, const setting *s, int n) {
    for (int i = 0; i < n; i++) {
        clocks one = forward(m, &s[i], 1), both = forward(m, &s[i], 2);
        printf("%s{\"forward\":[%.6f,%.6f],\"probe\":[%.6f,%.6f]}", i ? "," : "[", one.wall,
               one.cpu, both.wall, both.cpu);
    }
    printf("]\n");
    fflush(stdout);
}

int main(int argc, char **argv) {
    if (argc < 5)
        fail("usage: cost MODEL.gguf auto|f32|bf16 THREADS TOKENS:RANK...");
    pd_model_opts o = {.threads = (unsigned)atoi(argv[3])};
    o.compute = strcmp(argv[2], "auto") == 0   ? PD_COMPUTE_AUTO
                : strcmp(argv[2], "bf16") == 0 ? PD_COMPUTE_BF16
                                               : PD_COMPUTE_F32;
    pd_gguf *g;
    pd_model *m;
    if (pd_gguf_open(argv[1], &g) || pd_model_open(g, &o, &m))
        fail(pd_fail_text());
    pd_gguf_close(g);
    int n = argc - 4;
    setting *s = calloc((size_t)n, sizeof *s);
    for (int i = 0; i < n; i++) {
        s[i] = open_setting(m, argv[4 + i]);
        (void)forward(m, &s[i], 2); /* the first time makes the products' code */
    }
    printf("{\"compute\":\"%s\",\"kernels\":\"%s\",\"threads\":%u,\"params\":%llu,"
           "\"packed_bytes\":%zu,\"huge_bytes\":%llu}\n",
           m->half ? "bf16" : "f32", m->k->name, pd_pool_threads(),
           (unsigned long long)m->info.n_params, m->info.packed_bytes, huge_bytes());
    fflush(stdout);
    char line[16];
    while (fgets(line, sizeof line, stdin))
        round_of(m, s, n);
    return 0;
}
