/* learn.c - how far bytes carry: one process, sites in turn, every constant free.  A bench, not a
 * test.
 *
 *   learn --model M --calibrate C --test T [options] SITE.jsonl ...
 *
 * Calibrates, proposes constants (or takes them), lets the sites make bytes in turn, by probes or
 * from gradients, each byte encoded, decoded and replayed as in a run, and prints the test loss
 * along the way, with the records that were read for it and the processor seconds it took; then,
 * if asked, each site alone, first-order Adam on the pooled sites and on the calibration text
 * alone, in the same space and as LoRA, and the captured share of the sites' gradient.  What the
 * figures of README and LEARNING.md and the choice of defaults come from.
 */
#include "learn.h"
#include "peerd/file.h"
#include "peerd/flags.h"
#include "peerd/identity.h"
#include "peerd/log.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

double processor_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void check(pd_err e) {
    if (!e)
        return;
    fprintf(stderr, "learn: %s\n", pd_fail_text());
    exit(1);
}

void show(learn *b, const char *what, uint64_t n, const pd_adapter *a) {
    pd_loss l;
    pd_subset all = pd_subset_all(b->test);
    check(pd_evaluate(&b->two, &all, a, &l));
    printf("%-24s %6llu   %.4f / %.3f   %8llu records %8.2f s\n", what, (unsigned long long)n,
           pd_loss_mean(&l), l.choices ? (double)l.correct / (double)l.choices : NAN,
           (unsigned long long)b->read, b->seconds);
    fflush(stdout);
}

void open_space(learn *b) {
    const pd_model_info *info = pd_model_info_of(b->model);
    pd_prober_close(&b->prober);
    pd_projector_close(&b->projector);
    pd_space_close(b->space);
    b->manifest = (pd_manifest){.space = PD_SPACE_ALIGNED,
                                .rank = b->basis->r2,
                                .targets = b->basis->targets,
                                .unit_bits = 26};
    b->manifest.n_coords = pd_space_size(&b->manifest, info);
    check(pd_space_open(&b->manifest, info, b->basis, &b->space));
    check(pd_prober_open(&b->two, b->space, &b->prober));
    check(pd_projector_open(&b->one, b->space, &b->manifest, &b->projector));
    b->projector.feedback = b->o.feedback;
}

static void calibrate(learn *b) {
    pd_calibrate_opts co = pd_calibrate_defaults;
    pd_calibrate_report r;
    co.rank = b->o.rank;
    co.targets = pd_model_targets(pd_model_info_of(b->model));
    co.warm_steps = strcmp(b->o.warm, "auto") == 0 ? PD_WARM_CHOOSE : atoi(b->o.warm);
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
}

/* A basis costs a minute: with --basis it is kept in that file and taken from there. */
static void find_basis(learn *b) {
    uint8_t *p;
    size_t n;
    if (b->o.basis && pd_file_exists(b->o.basis)) {
        check(pd_file_read(b->o.basis, PD_BASIS_MAX, &p, &n));
        check(pd_basis_read(p, n, pd_model_info_of(b->model), &b->basis));
        free(p);
    } else {
        calibrate(b);
    }
    if (b->o.basis && !pd_file_exists(b->o.basis)) {
        check(pd_basis_write(b->basis, &p, &n));
        check(pd_file_replace(b->o.basis, p, n, 0644));
        free(p);
    }
}

static pd_schedule_kind schedule_of(const char *text) {
    return strcmp(text, "linear") == 0   ? PD_SCHEDULE_LINEAR
           : strcmp(text, "cosine") == 0 ? PD_SCHEDULE_COSINE
                                         : PD_SCHEDULE_CONSTANT;
}

void choose_constants(learn *b) {
    pd_proposal p = {0};
    pd_subset own = pd_subset_all(b->site[0]);
    if (!(b->o.eps > 0 && b->o.lr > 0 && b->o.clip > 0)) {
        check(pd_propose(&b->prober, &own, b->o.propose, b->o.batch, b->o.seed, &p));
        printf("proposal: loss %.3f curvature %.1f spread %.2f -> eps %.2g lr %.2g clip %.2f\n",
               p.loss, p.curvature, p.spread, p.eps, p.lr, p.scale * 2048);
    }
    double eps = b->o.eps > 0 ? b->o.eps : p.eps, lr = b->o.lr > 0 ? b->o.lr : p.lr;
    double scale = b->o.clip > 0 ? b->o.clip / 2048 : p.scale;
    check(pd_fixed_of(eps, &b->manifest.eps));
    check(pd_fixed_of(lr, &b->manifest.lr));
    check(pd_fixed_of(scale, &b->manifest.scale));
    b->manifest.schedule = schedule_of(b->o.schedule);
    b->manifest.lr_min = (uint64_t)((double)b->manifest.lr * b->o.lr_min);
    printf("d %llu, eps %.3g, lr %.3g, clip %.3g, batch %u\n",
           (unsigned long long)b->manifest.n_coords, eps, lr, scale * 2048, b->o.batch);
}

static void parse(learn *b, int argc, char **argv, pd_flag_list *sites) {
    options *o = &b->o;
    *o = (options){.rank = pd_calibrate_defaults.rank,
                   .groups = pd_calibrate_defaults.groups,
                   .whiten = (double)pd_calibrate_defaults.whiten,
                   .warm = "auto",
                   .schedule = "cosine",
                   .lr_min = 0.1,
                   .batch = 16,
                   .every = 25,
                   .bases = 1,
                   .bytes = 300,
                   .seed = 1,
                   .propose = 48,
                   .probes = 1,
                   .local_steps = 1,
                   .feedback = 1,
                   .climb = 10,
                   .adam_lr = 5e-3,
                   .lora_lr = 5e-4,
                   .first_lr = 5e-3,
                   .first_lora_lr = 3e-4};
    const pd_flag flags[] = {
        {"model", 0, PD_FLAG_TEXT, &o->model, 0, 0, "FILE", "GGUF"},
        {"calibrate", 0, PD_FLAG_TEXT, &o->calibrate, 0, 0, "FILE", "public records"},
        {"test", 0, PD_FLAG_TEXT, &o->test, 0, 0, "FILE", "records to judge by"},
        {"site", 0, PD_FLAG_LIST, sites, 0, 0, "FILE", "a site's records; again for each"},
        {"basis", 0, PD_FLAG_TEXT, &o->basis, 0, 0, "FILE", "kept here once calibrated"},
        {"rank", 0, PD_FLAG_U32, &o->rank, 1, 32, "R", "of the space"},
        {"warm", 0, PD_FLAG_TEXT, &o->warm, 0, 0, "N", "steps of the start adapter, or auto"},
        {"groups", 0, PD_FLAG_U32, &o->groups, 1, 64, "N", "batch gradients stacked"},
        {"whiten", 0, PD_FLAG_REAL, &o->whiten, 0, 2, "P", "as of peerd init"},
        {"bases", 0, PD_FLAG_U32, &o->bases, 1, 8, "N",
         "the bytes go through so many bases in turn"},
        {"bytes", 0, PD_FLAG_U64, &o->bytes, 0, 1e8, "N", "records of all sites together"},
        {"batch", 0, PD_FLAG_U32, &o->batch, 1, 64, "N", "records a probe or local step"},
        {"every", 0, PD_FLAG_U32, &o->every, 1, 1e8, "N", "bytes between two tests"},
        {"seed", 0, PD_FLAG_U64, &o->seed, 0, 1e15, "N", "of everything drawn"},
        {"lr", 0, PD_FLAG_REAL, &o->lr, 1e-9, 10, "X", "instead of the proposed one"},
        {"eps", 0, PD_FLAG_REAL, &o->eps, 1e-6, 10, "X", "likewise"},
        {"clip", 0, PD_FLAG_REAL, &o->clip, 1e-6, 1e6, "X", "likewise"},
        {"propose", 0, PD_FLAG_U32, &o->propose, 1, 64, "N", "probes to propose from"},
        {"schedule", 0, PD_FLAG_TEXT, &o->schedule, 0, 0, "KIND", "constant, linear, cosine"},
        {"lr-min", 0, PD_FLAG_REAL, &o->lr_min, 0, 1, "X", "its floor, a share"},
        {"lag", 0, PD_FLAG_U32, &o->lag, 0, 1e6, "N", "records until a record is replayed"},
        {"project", 0, PD_FLAG_SWITCH, &o->project, 0, 0, NULL, "bytes from gradients"},
        {"probes", 0, PD_FLAG_U32, &o->probes, 1, 65536, "K", "bytes of one gradient"},
        {"local-steps", 0, PD_FLAG_U32, &o->local_steps, 1, 4096, "E", "before they are sent"},
        {"feedback", 0, PD_FLAG_REAL, &o->feedback, 0, 1, "X", "project: 0 keeps the rest"},
        {"alone", 0, PD_FLAG_SWITCH, &o->alone, 0, 0, NULL, "each site alone, too"},
        {"capture", 0, PD_FLAG_SWITCH, &o->capture, 0, 0, NULL, "share of the sites' gradient"},
        {"f32", 0, PD_FLAG_SWITCH, &o->f32, 0, 0, NULL, "do not measure bf16"},
        {"climb", 0, PD_FLAG_U32, &o->climb, 1, 1e6, "N", "first-order steps between two tests"},
        {"adam", 0, PD_FLAG_U32, &o->adam, 0, 1e6, "N", "pooled first-order steps in the space"},
        {"adam-lr", 0, PD_FLAG_REAL, &o->adam_lr, 1e-9, 10, "X", "their rate"},
        {"lora", 0, PD_FLAG_U32, &o->lora, 0, 1e6, "N", "pooled first-order steps of LoRA r = 8"},
        {"lora-lr", 0, PD_FLAG_REAL, &o->lora_lr, 1e-9, 10, "X", "their rate"},
        {"first", 0, PD_FLAG_U32, &o->first, 0, 1e6, "N", "in the space, calibration text alone"},
        {"first-lr", 0, PD_FLAG_REAL, &o->first_lr, 1e-9, 10, "X", "their rate"},
        {"first-lora", 0, PD_FLAG_U32, &o->first_lora, 0, 1e6, "N", "LoRA, that text alone"},
        {"first-lora-lr", 0, PD_FLAG_REAL, &o->first_lora_lr, 1e-9, 10, "X", "their rate"},
        {.name = NULL}};
    static const pd_command_help help = {
        .usage = "learn --model FILE --calibrate FILE --test FILE --site FILE ... [flags]",
        .what = "How far bytes carry: one process, sites in turn.",
        .example = "learn --model m.gguf --calibrate c.jsonl --test t.jsonl --site a.jsonl"};
    bool asked;
    size_t n;
    check(pd_flags_parse(argc, argv, flags, NULL, 0, 0, &n, &asked));
    if (asked || !o->model || !o->calibrate || !o->test || !sites->n) {
        pd_flags_help(&help, flags);
        exit(2);
    }
}

static void open_inputs(learn *b, const pd_flag_list *sites) {
    pd_model_opts mo = {.compute = b->o.f32 ? PD_COMPUTE_F32 : 0, .threads = 1, .backward = true};
    pd_data_opts dopts = {.max_tokens = 1024};
    check(pd_crypto_init());
    check(pd_gguf_open(b->o.model, &b->file));
    check(pd_tokenizer_open(b->file, &b->tokenizer));
    check(pd_model_open(b->file, &mo, &b->model));
    check(pd_data_open(b->o.calibrate, b->tokenizer, &dopts, &b->calibration));
    check(pd_data_open(b->o.test, b->tokenizer, &dopts, &b->test));
    for (uint32_t i = 0; i < sites->n; i++)
        check(pd_data_open(sites->at[i], b->tokenizer, &dopts, &b->site[b->n_sites++]));
    check(pd_bench_open(b->model, 1024, 2, false, &b->two));
    check(pd_bench_open(b->model, 1024, 1, true, &b->one));
}

int main(int argc, char **argv) {
    learn b = {0};
    pd_flag_list sites = {0};
    parse(&b, argc, argv, &sites);
    open_inputs(&b, &sites);
    if (b.o.lora || b.o.first_lora)
        show(&b, "before", 0, NULL);
    if (b.o.bytes || b.o.adam || b.o.first) {
        find_basis(&b);
        open_space(&b);
        show(&b, "after calibration", 0, pd_view_adapter(b.prober.plus));
    }
    for (uint32_t s = 0; b.o.capture && s < b.n_sites; s++) {
        double share;
        check(pd_basis_capture(b.model, b.site[s], b.basis, 1024, &share));
        printf("captured share of site %u's squared gradient: %.3f\n", s, share);
    }
    first_order(&b);
    if (b.o.bytes)
        swarm(&b, "together", 0, b.n_sites, b.o.bytes);
    for (uint32_t s = 0; b.o.alone && s < b.n_sites; s++) {
        char name[32];
        snprintf(name, sizeof name, "site %u alone", s);
        swarm(&b, name, s, 1, b.o.bytes / b.n_sites);
    }
    return 0;
}
