/* layers.c - which layers a run should train: the loss that a second of processor buys, under three
 * policies.  A bench, not a test.
 *
 *   layers --model M --calibrate C --test T [--policy all|upper|block] [options] SITE.jsonl ...
 *
 * all, upper: peerd init --layers; the second runs the lower half once a batch (probe.h).
 * block: a record's direction is zero outside one of --blocks equal blocks of layers, drawn for it.
 * Both sides then share the layers below its block, under the adapter of the moment; curvature and
 * squared slope of a block are its share of the whole, so eps, lr and byte scale follow from those
 * of `all`.  No run can have this policy: it is here to show what it would be worth.
 *
 * Sites make bytes in turn, --probes of each batch, each encoded, decoded and replayed as in a run.
 * Lines: policy, records, test loss, accuracy, processor seconds that the bytes took.
 */
#include "peerd/calibrate.h"
#include "peerd/probe.h"
#include "peerd/replay.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SITES_MAX = 16, BLOCKS_MAX = 64 };

typedef struct options {
    const char *model, *calibrate, *test, *policy;
    uint32_t rank, batch, every, probes, blocks, bytes, tokens;
    uint64_t seed;
} options;

typedef struct state {
    options o;
    pd_gguf *file;
    pd_tokenizer *tokenizer;
    pd_model *model;
    const pd_model_info *info;
    pd_data *test, *site[SITES_MAX];
    uint32_t n_sites;
    pd_basis *basis;
    pd_manifest manifest;
    pd_space *space;
    pd_bench two;
    pd_prober prober;
    double eps, scale;
    /* block */
    pd_stem *stem[BLOCKS_MAX]; /* at each block's first layer; none at 0 */
    float *c;                  /* (d) */
    int32_t *a;                /* (d) */
    pd_rng rng;
    double seconds; /* of processor, for bytes */
} state;

static double cpu_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void check(pd_err e) {
    if (!e)
        return;
    fprintf(stderr, "layers: %s\n", pd_fail_text());
    exit(1);
}

static bool is(const state *s, const char *policy) {
    return strcmp(s->o.policy, policy) == 0;
}

static void show(state *s, uint32_t records) {
    pd_loss l;
    pd_subset all = pd_subset_all(s->test);
    pd_view_set(s->prober.plus, s->a, NULL, 0);
    check(pd_evaluate(&s->two, &all, pd_view_adapter(s->prober.plus), &l));
    printf("%-6s %6u  %.4f  %.3f  %8.2f s\n", s->o.policy, records, pd_loss_mean(&l),
           l.choices ? (double)l.correct / (double)l.choices : NAN, s->seconds);
    fflush(stdout);
}

static void calibrate(state *s) {
    pd_calibrate_opts co = pd_calibrate_defaults;
    pd_calibrate_report r;
    pd_data *text;
    pd_data_opts opts = {.max_tokens = s->o.tokens};
    check(pd_data_open(s->o.calibrate, s->tokenizer, &opts, &text));
    co.rank = s->o.rank;
    co.seed = s->o.seed;
    co.first_layer = is(s, "upper") ? s->info->n_layers / 2 : 0;
    check(pd_calibrate(s->model, text, &co, &s->basis, &r));
    pd_data_close(text);
    s->manifest = (pd_manifest){.space = PD_SPACE_ALIGNED,
                                .rank = co.rank,
                                .targets = co.targets,
                                .first_layer = co.first_layer,
                                .unit_bits = 26};
    s->manifest.n_coords = pd_space_size(&s->manifest, s->info);
    check(pd_space_open(&s->manifest, s->info, s->basis, &s->space));
    check(pd_prober_open(&s->two, s->space, &s->prober));
    printf("%s: d %llu, calibration %.1f s, loss %.3f with a start adapter of %d steps\n",
           s->o.policy, (unsigned long long)s->manifest.n_coords, r.seconds, r.loss_start,
           r.warm_steps);
}

static void choose(state *s) {
    pd_proposal p;
    pd_subset own = pd_subset_all(s->site[0]);
    double parts = is(s, "block") ? s->o.blocks : 1;
    check(pd_propose(&s->prober, &own, 48, s->o.batch, s->o.seed, &p));
    s->eps = p.eps * sqrt(parts);
    s->scale = p.scale / sqrt(parts);
    check(pd_fixed_of(p.lr * parts, &s->manifest.lr));
    check(pd_fixed_of(s->scale, &s->manifest.scale));
    s->manifest.lr_min = s->manifest.lr / 10;
    s->manifest.schedule = PD_SCHEDULE_LINEAR;
    s->manifest.decay_records = s->o.bytes / s->n_sites;
    printf("%s: eps %.3g, lr %.3g, clip %.3g\n", s->o.policy, s->eps, p.lr * parts,
           s->scale * 2048);
}

/* One record of `block`: its gradient along the signs of the block's coordinates [from, from + n).
 * The batch's layers below the block are run here, for both sides of this record alone: the next
 * one meets another a.
 */
static double probe_block(state *s, uint32_t block, size_t from, size_t n, const uint8_t *signs) {
    const pd_bench *b = &s->two;
    pd_prober *p = &s->prober;
    float unit = ldexpf(1.0f, -(int)s->manifest.unit_bits), eps = (float)s->eps;
    const pd_adapter *sides[2] = {pd_view_adapter(p->plus), pd_view_adapter(p->minus)};
    pd_loss loss[2];
    for (size_t i = 0; i < s->manifest.n_coords; i++)
        s->c[i] = (float)s->a[i] * unit;
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < n; i++)
            s->c[from + i] = (float)s->a[from + i] * unit +
                             (float)pd_direction_sign(signs, i) * (side ? -eps : eps);
        pd_view_set_float(side ? p->minus : p->plus, s->c);
    }
    if (block == 0) {
        pd_model_forward(b->model, b->work, b->batch, sides, 2, loss, NULL);
    } else {
        pd_model_stem(b->model, b->work, b->batch, sides[0], s->stem[block]);
        pd_model_forward_from(b->model, b->work, b->batch, s->stem[block], sides, 2, loss, NULL);
    }
    return (pd_loss_mean(&loss[0]) - pd_loss_mean(&loss[1])) / (2.0 * s->eps);
}

static void make_record(state *s, const pd_replay *replay, uint32_t site, uint64_t step) {
    size_t d = s->manifest.n_coords, n = d, from = 0;
    uint8_t seed[1][32], *signs = malloc((d + 7) / 8);
    uint32_t block = 0;
    pd_author author = {.key = {(uint8_t)site}};
    double g;
    pd_direction_seed(replay->run, &author, step, seed[0]);
    if (is(s, "block")) {
        block = pd_rng_below(&s->rng, s->o.blocks);
        n = d / s->o.blocks;
        from = block * n;
    }
    pd_direction_signs(seed[0], signs, n);
    if (is(s, "block")) {
        g = probe_block(s, block, from, n, signs);
    } else {
        pd_probe probe;
        pd_probe_at(&s->prober, s->a, signs, (float)s->eps, &probe);
        g = probe.g;
    }
    uint8_t byte = isfinite(g) ? pd_byte_encode(g, s->scale, pd_rng_uniform(&s->rng)) : 0;
    int64_t q =
        pd_byte_coefficient(byte, pd_schedule_at(&replay->schedule, step), s->manifest.unit_bits);
    pd_replay_apply(s->a + from, n, (const uint8_t(*)[32])seed, &q, 1);
    free(signs);
}

/* A batch of the site's records, drawn anew, and its probes. */
static void make_batch(state *s, const pd_replay *replay, uint32_t site, uint64_t turn) {
    uint32_t pick[256];
    size_t next = 0;
    for (uint32_t i = 0; i < s->o.batch; i++)
        pick[i] = pd_rng_below(&s->rng, pd_data_count(s->site[site]));
    pd_subset batch = {s->site[site], pick, s->o.batch};
    check(pd_bench_fill(&s->two, &batch, &next, batch.n));
    for (uint32_t k = 0; k < s->o.probes; k++)
        make_record(s, replay, site, turn * s->o.probes + k);
}

static void train(state *s) {
    pd_replay replay;
    pd_replay_of(&s->manifest, &replay);
    memset(replay.run, 0, sizeof replay.run);
    memcpy(replay.run, &s->o.seed, sizeof s->o.seed);
    s->rng = (pd_rng){s->o.seed + 77};
    show(s, 0);
    uint32_t made = 0, shown = 0;
    for (uint64_t turn = 0; made < s->o.bytes; turn++) {
        double began = cpu_s();
        make_batch(s, &replay, (uint32_t)(turn % s->n_sites), turn / s->n_sites);
        s->seconds += cpu_s() - began;
        made += s->o.probes;
        if (made - shown >= s->o.every) {
            show(s, made);
            shown = made;
        }
    }
    printf("%s: %.2f ms of processor a record\n", s->o.policy, 1e3 * s->seconds / made);
}

static void open_all(state *s, char **sites) {
    pd_model_opts mo = {.compute = PD_COMPUTE_F32, .threads = 1, .backward = true};
    pd_data_opts opts = {.max_tokens = s->o.tokens};
    check(pd_gguf_open(s->o.model, &s->file));
    check(pd_tokenizer_open(s->file, &s->tokenizer));
    check(pd_model_open(s->file, &mo, &s->model));
    s->info = pd_model_info_of(s->model);
    check(pd_data_open(s->o.test, s->tokenizer, &opts, &s->test));
    for (; sites[s->n_sites] && s->n_sites < SITES_MAX; s->n_sites++)
        check(pd_data_open(sites[s->n_sites], s->tokenizer, &opts, &s->site[s->n_sites]));
    check(pd_bench_open(s->model, s->o.tokens, 2, false, &s->two));
    for (uint32_t k = 1; is(s, "block") && k < s->o.blocks; k++)
        check(pd_stem_open(s->model, s->o.tokens, k * (s->info->n_layers / s->o.blocks),
                           &s->stem[k]));
}

static void close_all(state *s) {
    for (uint32_t k = 0; k < BLOCKS_MAX; k++)
        pd_stem_close(s->stem[k]);
    pd_prober_close(&s->prober);
    pd_space_close(s->space);
    pd_basis_free(s->basis);
    pd_bench_close(&s->two);
    for (uint32_t i = 0; i < s->n_sites; i++)
        pd_data_close(s->site[i]);
    pd_data_close(s->test);
    pd_model_close(s->model);
    pd_tokenizer_close(s->tokenizer);
    pd_gguf_close(s->file);
    free(s->a);
    free(s->c);
}

static void usage(void) {
    fprintf(stderr,
            "usage: layers --model M --calibrate C --test T [--policy all|upper|block "
            "--blocks N --probes K\n"
            "  --bytes N --every N --batch N --rank R --tokens N --seed S] SITE.jsonl ...\n");
    exit(2);
}

static options parse(int argc, char **argv) {
    static const struct option longs[] = {
        {"model", 1, 0, 'm'},  {"calibrate", 1, 0, 'c'}, {"test", 1, 0, 't'},
        {"policy", 1, 0, 'p'}, {"blocks", 1, 0, 'b'},    {"probes", 1, 0, 'K'},
        {"bytes", 1, 0, 'n'},  {"every", 1, 0, 'e'},     {"batch", 1, 0, 'B'},
        {"rank", 1, 0, 'r'},   {"seed", 1, 0, 's'},      {"tokens", 1, 0, 'T'},
        {0, 0, 0, 0}};
    options o = {.policy = "all",
                 .rank = 4,
                 .batch = 16,
                 .every = 60,
                 .probes = 1,
                 .blocks = 4,
                 .bytes = 300,
                 .tokens = 1024,
                 .seed = 1};
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        const char **text = c == 'm'   ? &o.model
                            : c == 'c' ? &o.calibrate
                            : c == 't' ? &o.test
                            : c == 'p' ? &o.policy
                                       : NULL;
        uint32_t *number = c == 'b'   ? &o.blocks
                           : c == 'K' ? &o.probes
                           : c == 'n' ? &o.bytes
                           : c == 'e' ? &o.every
                           : c == 'B' ? &o.batch
                           : c == 'r' ? &o.rank
                           : c == 'T' ? &o.tokens
                                      : NULL;
        if (c == 's')
            o.seed = strtoull(optarg, NULL, 10);
        else if (text)
            *text = optarg;
        else if (number)
            *number = (uint32_t)strtoul(optarg, NULL, 10);
        else
            usage();
    }
    bool known = strcmp(o.policy, "all") == 0 || strcmp(o.policy, "upper") == 0 ||
                 strcmp(o.policy, "block") == 0;
    if (!o.model || !o.calibrate || !o.test || optind == argc || !known || !o.probes ||
        o.batch < 1 || o.batch > 256 || o.blocks < 1 || o.blocks > BLOCKS_MAX)
        usage();
    return o;
}

int main(int argc, char **argv) {
    state s = {.o = parse(argc, argv)};
    open_all(&s, argv + optind);
    if (s.info->n_layers % s.o.blocks) {
        fprintf(stderr, "layers: %u blocks do not divide %u layers\n", s.o.blocks,
                s.info->n_layers);
        return 2;
    }
    calibrate(&s);
    s.a = calloc(s.manifest.n_coords, sizeof *s.a);
    s.c = calloc(s.manifest.n_coords, sizeof *s.c);
    if (!s.a || !s.c)
        check(pd_fail(PD_ENOMEM, "no memory for the coordinates"));
    choose(&s);
    train(&s);
    close_all(&s);
    return 0;
}
