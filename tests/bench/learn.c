/* learn.c - how far bytes carry: one process, sites in turn, every constant free.  A bench, not a
 * test.
 *
 *   learn --model M --calibrate C --test T [options] SITE.jsonl ...
 *
 * Calibrates, proposes constants (or takes them), lets the sites make bytes in turn, by probes or
 * by projected gradients, each byte encoded, decoded and replayed as in a run, and prints the test
 * loss along the way, with the records that were read for it and the seconds it took; then, if
 * asked, each site alone, first-order Adam in the same space on the pooled sites, and the captured
 * share of their gradient.  What the figures of README and the choice of defaults come from.
 */
#include "peerd/calibrate.h"
#include "peerd/log.h"
#include "peerd/probe.h"
#include "peerd/project.h"
#include "peerd/replay.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SITES_MAX = 16 };

typedef struct options {
    const char *model, *calibrate, *test;
    uint32_t rank, batch, every;
    int warm;
    unsigned groups;
    double lr, eps, scale, clip, whiten;
    uint64_t bytes, seed;
    uint32_t adam, alone, capture, lag;
    uint32_t propose, project, probes, local_steps; /* project: a gradient instead of a loss pair */
    double feedback;
    double adam_lr;
    pd_compute compute;
} options;

typedef struct bench_state {
    options o;
    pd_gguf *file;
    pd_tokenizer *tokenizer;
    pd_model *model;
    pd_data *calibration, *test, *site[SITES_MAX];
    uint32_t n_sites;
    pd_bench two, one; /* two sides for probes, one with reverse mode */
    pd_basis *basis;
    pd_manifest manifest;
    pd_space *space;
    pd_prober prober;
    pd_projector projector;
    uint64_t read;  /* records that went through the model for the bytes of this swarm */
    double seconds; /* that they took */
} bench_state;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void check(pd_err e) {
    if (!e)
        return;
    fprintf(stderr, "learn: %s\n", pd_fail_text());
    exit(1);
}

static void show(bench_state *b, const char *what, uint64_t bytes, const pd_adapter *a) {
    pd_loss l;
    pd_subset all = pd_subset_all(b->test);
    check(pd_evaluate(&b->two, &all, a, &l));
    printf("%-24s %6llu   %.4f / %.3f   %8llu records %8.2f s\n", what, (unsigned long long)bytes,
           pd_loss_mean(&l), l.choices ? (double)l.correct / (double)l.choices : NAN,
           (unsigned long long)b->read, b->seconds);
    fflush(stdout);
}

static void calibrate(bench_state *b) {
    pd_calibrate_opts co = pd_calibrate_defaults;
    pd_calibrate_report r;
    co.rank = b->o.rank;
    co.warm_steps = b->o.warm;
    co.groups = b->o.groups;
    co.whiten = (float)b->o.whiten;
    co.seed = b->o.seed;
    check(pd_calibrate(b->model, b->calibration, &co, &b->basis, &r));
    printf("calibration %.1f s: loss %.3f -> %.3f, accuracy %.3f -> %.3f, %d warm-up steps; unseen "
           "halves",
           r.seconds, r.loss_before, r.loss_start, r.accuracy_before, r.accuracy_start,
           r.warm_steps);
    for (int s = 0; s <= r.held_steps; s++)
        printf(" %.3f", r.held[s]);
    printf("\n");
    const pd_model_info *info = pd_model_info_of(b->model);
    b->manifest = (pd_manifest){
        .space = PD_SPACE_ALIGNED, .rank = co.rank, .targets = co.targets, .unit_bits = 26};
    b->manifest.n_coords = pd_space_size(&b->manifest, info);
    check(pd_space_open(&b->manifest, info, b->basis, &b->space));
    check(pd_prober_open(&b->two, b->space, &b->prober));
    check(pd_projector_open(&b->one, b->space, &b->manifest, &b->projector));
    b->projector.feedback = b->o.feedback;
}

static void choose(bench_state *b) {
    pd_proposal p;
    pd_subset own = pd_subset_all(b->site[0]);
    check(pd_propose(&b->prober, &own, b->o.propose, b->o.batch, b->o.seed, &p));
    printf("proposal: loss %.3f curvature %.1f spread %.2f -> eps %.2g lr %.2g scale %.2g (clip "
           "%.2f)\n",
           p.loss, p.curvature, p.spread, p.eps, p.lr, p.scale, p.scale * 2048);
    b->o.eps = b->o.eps > 0 ? b->o.eps : p.eps;
    b->o.lr = b->o.lr > 0 ? b->o.lr : p.lr;
    b->o.scale = b->o.clip > 0 ? b->o.clip / 2048 : p.scale;
    check(pd_fixed_of(b->o.lr, &b->manifest.lr));
    check(pd_fixed_of(b->o.scale, &b->manifest.scale));
    b->manifest.lr_min = b->manifest.lr / 10;
    b->manifest.schedule = PD_SCHEDULE_LINEAR;
    printf("d %llu, eps %.3g, lr %.3g, clip %.3g, batch %u, decay over %llu\n",
           (unsigned long long)b->manifest.n_coords, b->o.eps, b->o.lr, b->o.scale * 2048,
           b->o.batch, (unsigned long long)b->manifest.decay_records);
}

/* One site of a swarm. */
typedef struct member {
    pd_author author;
    uint32_t *order; /* of its records, shuffled each epoch */
    size_t count, at;
    float *residual, *gradient; /* (d) what a projector keeps of it */
    uint32_t left;              /* bytes to be made of that gradient */
} member;

static void member_open(const bench_state *b, uint32_t site, member *m) {
    size_t d = (size_t)b->manifest.n_coords;
    *m = (member){.count = pd_data_count(b->site[site])};
    m->author.key[0] = (uint8_t)site;
    m->order = malloc(m->count * sizeof *m->order);
    m->residual = calloc(2 * d, sizeof *m->residual);
    m->gradient = m->residual + d;
    for (size_t i = 0; i < m->count; i++)
        m->order[i] = (uint32_t)i;
    m->at = m->count;
}

static void member_close(member *m) {
    free(m->order);
    free(m->residual);
}

/* The next `batch` records of this epoch. */
static pd_subset next_batch(const bench_state *b, uint32_t site, member *m, pd_rng *rng) {
    if (m->at + b->o.batch > m->count) {
        pd_rng_shuffle(rng, m->order, m->count);
        m->at = 0;
    }
    pd_subset batch = {b->site[site], m->order + m->at, b->o.batch};
    m->at += b->o.batch;
    return batch;
}

/* The member's next byte at a, along the signs; `rate` is that of its step in the run. */
static uint8_t make_byte(bench_state *b, uint32_t site, member *m, const int32_t *a,
                         const uint8_t *signs, double rate, pd_rng *rng) {
    pd_projector *p = &b->projector;
    double scale = pd_fixed_value(b->manifest.scale), g;
    size_t d = (size_t)b->manifest.n_coords, bytes = d * sizeof(float), next = 0;
    if (!b->o.project) {
        pd_subset batch = next_batch(b, site, m, rng);
        pd_probe probe;
        check(pd_bench_fill(&b->two, &batch, &next, batch.n));
        pd_probe_at(&b->prober, a, signs, (float)b->o.eps, &probe);
        b->read += batch.n;
        g = probe.g;
    } else {
        for (uint32_t e = 0; !m->left && e < b->o.local_steps; e++) {
            pd_loss loss;
            pd_subset batch = next_batch(b, site, m, rng);
            if (e == 0)
                pd_project_begin(p, a);
            check(pd_project_step(p, &batch, rate * b->o.probes / b->o.local_steps, &loss));
            b->read += batch.n;
        }
        if (m->left) {
            memcpy(p->sum, m->gradient, bytes);
        } else {
            m->left = pd_project_end(p) ? b->o.probes : 1;
            memcpy(m->gradient, p->sum, bytes);
        }
        m->left--;
        memcpy(p->residual, m->residual, bytes);
        g = pd_project_on(p, signs);
    }
    uint8_t byte = isfinite(g) ? pd_byte_encode(g, scale, pd_rng_uniform(rng)) : 0;
    if (b->o.project) {
        pd_project_sent(p, signs, pd_byte_value(byte) * scale);
        memcpy(m->residual, p->residual, bytes);
    }
    return byte;
}

/* Who makes byte k of a swarm of n, and at which of its steps: sites in turn, each as many as one
 * gradient gives. */
static uint32_t turn_of(const bench_state *b, uint64_t k, uint32_t n, uint64_t *step) {
    uint64_t burst = b->o.project ? b->o.probes : 1, turn = k / burst;
    *step = turn / n * burst + k % burst;
    return (uint32_t)(turn % n);
}

/* Sites [from, from + n) in turn, `bytes` records in all; a record enters the model `lag` records
 * later. */
static void swarm(bench_state *b, const char *name, uint32_t from, uint32_t n, uint64_t bytes) {
    size_t d = (size_t)b->manifest.n_coords;
    int32_t *a = calloc(d, sizeof *a);
    uint8_t *signs = malloc((d + 7) / 8), *queue = malloc(bytes);
    member site[SITES_MAX];
    pd_rng rng = {b->o.seed + 77};
    b->manifest.decay_records = bytes / n ? bytes / n : 1;
    pd_replay replay;
    pd_replay_of(&b->manifest, &replay);
    memcpy(replay.run, &b->o.seed, sizeof b->o.seed);
    for (uint32_t s = 0; s < n; s++)
        member_open(b, from + s, &site[s]);
    b->read = 0;
    b->seconds = 0;
    for (uint64_t k = 0; k < bytes + b->o.lag; k++) {
        if (k < bytes) {
            uint8_t seed[32];
            uint64_t step;
            uint32_t s = turn_of(b, k, n, &step);
            double began = now_s(), rate = pd_fixed_value(pd_schedule_at(&replay.schedule, step)) /
                                           pd_fixed_value(b->manifest.scale);
            pd_direction_seed(replay.run, &site[s].author, step, seed);
            pd_direction_signs(seed, signs, d);
            queue[k] = make_byte(b, from + s, &site[s], a, signs, rate, &rng);
            b->seconds += now_s() - began;
        }
        if (k >= b->o.lag) {
            uint64_t j = k - b->o.lag, step;
            uint32_t s = turn_of(b, j, n, &step);
            pd_replay_fold(&replay, a, d, &site[s].author, step, &queue[j], 1);
            if ((j + 1) % b->o.every == 0) {
                pd_view_set(b->prober.plus, a, NULL, 0);
                show(b, name, j + 1, pd_view_adapter(b->prober.plus));
            }
        }
    }
    for (uint32_t s = 0; s < n; s++)
        member_close(&site[s]);
    free(queue);
    free(signs);
    free(a);
}

/* Adam on the pooled sites, batches of three times the probe's. */
static void ceiling(bench_state *b) {
    size_t d = (size_t)b->manifest.n_coords;
    pd_adam adam;
    pd_view *view;
    check(pd_adam_open(d, (float)b->o.adam_lr, &adam));
    check(pd_view_open(b->space, &view));
    pd_rng rng = {b->o.seed + 5};
    float *sum = calloc(d, sizeof *sum);
    for (uint32_t step = 0; step <= b->o.adam; step++) {
        pd_view_set_float(view, adam.c);
        if (step % 10 == 0)
            show(b, "first-order, pooled", step, pd_view_adapter(view));
        memset(sum, 0, d * sizeof *sum);
        for (uint32_t s = 0; s < b->n_sites; s++) {
            uint32_t pick[64];
            for (uint32_t i = 0; i < b->o.batch; i++)
                pick[i] = pd_rng_below(&rng, pd_data_count(b->site[s]));
            pd_subset some = {b->site[s], pick, b->o.batch};
            pd_loss l;
            check(pd_space_gradient(&b->one, &some, view, d, adam.grad, &l));
            for (size_t i = 0; i < d; i++)
                sum[i] += adam.grad[i] / (float)b->n_sites;
        }
        memcpy(adam.grad, sum, d * sizeof *sum);
        pd_adam_step(&adam);
    }
    free(sum);
    pd_view_close(view);
    pd_adam_close(&adam);
}

static void usage(void) {
    fprintf(stderr, "usage: learn --model M --calibrate C --test T [--rank R --warm N --groups G "
                    "--lr X --eps X --clip X --bytes N\n"
                    "  --batch N --every N --lag N --seed S --adam STEPS --adam-lr X --alone "
                    "--capture --f32\n"
                    "  --propose N --project --probes K --local-steps E --feedback X] "
                    "SITE.jsonl ...\n");
    exit(2);
}

static options parse(int argc, char **argv) {
    static const struct option longs[] = {{"model", 1, 0, 'm'},    {"calibrate", 1, 0, 'c'},
                                          {"test", 1, 0, 't'},     {"rank", 1, 0, 'r'},
                                          {"warm", 1, 0, 'w'},     {"groups", 1, 0, 'g'},
                                          {"lr", 1, 0, 'l'},       {"eps", 1, 0, 'e'},
                                          {"clip", 1, 0, 'k'},     {"bytes", 1, 0, 'b'},
                                          {"batch", 1, 0, 'B'},    {"every", 1, 0, 'E'},
                                          {"seed", 1, 0, 's'},     {"adam", 1, 0, 'a'},
                                          {"alone", 0, 0, 'A'},    {"capture", 0, 0, 'C'},
                                          {"adam-lr", 1, 0, 'L'},  {"f32", 0, 0, 'f'},
                                          {"lag", 1, 0, 'G'},      {"whiten", 1, 0, 'W'},
                                          {"project", 0, 0, 'p'},  {"propose", 1, 0, 'P'},
                                          {"probes", 1, 0, 'K'},   {"local-steps", 1, 0, 'S'},
                                          {"feedback", 1, 0, 'F'}, {0, 0, 0, 0}};
    options o = {.rank = 4,
                 .whiten = 1,
                 .batch = 16,
                 .every = 25,
                 .warm = PD_WARM_CHOOSE,
                 .groups = 4,
                 .bytes = 300,
                 .seed = 1,
                 .adam_lr = 5e-3,
                 .propose = 48,
                 .probes = 1,
                 .local_steps = 1,
                 .feedback = 1};
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        double x = optarg ? atof(optarg) : 0;
        switch (c) {
        case 'm':
            o.model = optarg;
            break;
        case 'c':
            o.calibrate = optarg;
            break;
        case 't':
            o.test = optarg;
            break;
        case 'r':
            o.rank = (uint32_t)x;
            break;
        case 'w':
            o.warm = (int)x;
            break;
        case 'g':
            o.groups = (unsigned)x;
            break;
        case 'l':
            o.lr = x;
            break;
        case 'e':
            o.eps = x;
            break;
        case 'k':
            o.clip = x;
            break;
        case 'b':
            o.bytes = (uint64_t)x;
            break;
        case 'B':
            o.batch = (uint32_t)x;
            break;
        case 'E':
            o.every = (uint32_t)x;
            break;
        case 's':
            o.seed = (uint64_t)x;
            break;
        case 'a':
            o.adam = (uint32_t)x;
            break;
        case 'A':
            o.alone = 1;
            break;
        case 'C':
            o.capture = 1;
            break;
        case 'L':
            o.adam_lr = x;
            break;
        case 'W':
            o.whiten = x;
            break;
        case 'G':
            o.lag = (uint32_t)x;
            break;
        case 'p':
            o.project = 1;
            break;
        case 'P':
            o.propose = (uint32_t)x;
            break;
        case 'K':
            o.probes = (uint32_t)x;
            break;
        case 'S':
            o.local_steps = (uint32_t)x;
            break;
        case 'F':
            o.feedback = x;
            break;
        case 'f':
            o.compute = PD_COMPUTE_F32;
            break;
        default:
            usage();
        }
    }
    if (!o.model || !o.calibrate || !o.test || optind == argc || !o.batch || o.batch > 64 ||
        !o.every || !o.probes || !o.local_steps)
        usage();
    return o;
}

int main(int argc, char **argv) {
    bench_state b = {.o = parse(argc, argv)};
    pd_model_opts mo = {.compute = b.o.compute, .backward = true};
    check(pd_crypto_init());
    check(pd_gguf_open(b.o.model, &b.file));
    check(pd_tokenizer_open(b.file, &b.tokenizer));
    check(pd_model_open(b.file, &mo, &b.model));
    pd_data_opts dopts = {.max_tokens = 1024};
    check(pd_data_open(b.o.calibrate, b.tokenizer, &dopts, &b.calibration));
    check(pd_data_open(b.o.test, b.tokenizer, &dopts, &b.test));
    for (int i = optind; i < argc && b.n_sites < SITES_MAX; i++)
        check(pd_data_open(argv[i], b.tokenizer, &dopts, &b.site[b.n_sites++]));
    check(pd_bench_open(b.model, 1024, 2, false, &b.two));
    check(pd_bench_open(b.model, 1024, 1, true, &b.one));
    show(&b, "before", 0, NULL);
    calibrate(&b);
    show(&b, "after calibration", 0, pd_view_adapter(b.prober.plus));
    for (uint32_t s = 0; b.o.capture && s < b.n_sites; s++) {
        double share;
        check(pd_basis_capture(b.model, b.site[s], b.basis, 1024, &share));
        printf("captured share of site %u's squared gradient: %.3f\n", s, share);
    }
    choose(&b);
    if (b.o.bytes)
        swarm(&b, "together", 0, b.n_sites, b.o.bytes);
    for (uint32_t s = 0; b.o.alone && s < b.n_sites; s++) {
        char name[32];
        snprintf(name, sizeof name, "site %u alone", s);
        swarm(&b, name, s, 1, b.o.bytes / b.n_sites);
    }
    if (b.o.adam)
        ceiling(&b);
    return 0;
}
