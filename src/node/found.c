/* found.c - calibrates, proposes the run's constants, writes the founder's folder; see found.h. */
#include "found.h"
#include "peerd/calibrate.h"
#include "peerd/file.h"
#include "peerd/log.h"
#include "site.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* A coordinate of a full space is an element of a matrix and moves by lr |g| a record, 1e-8 for
 * MeZO's rate of 1e-7: nine units of 2^-30.  It may go as far as 2 from the base.
 */
enum { UNIT_BITS = 26, FULL_UNIT_BITS = 30 };

pd_founding pd_founding_of_defaults(void) {
    return (pd_founding){.space = "aligned",
                         .targets = "all",
                         .layers = "all",
                         .schedule = "constant",
                         .warm_steps = "auto",
                         .local = pd_local_of_defaults(),
                         .rank = pd_calibrate_defaults.rank,
                         .alpha = 16,
                         .probe_count = 48,
                         .seal_bytes = 1000,
                         .rate = 10,
                         .groups = pd_calibrate_defaults.groups,
                         .whiten = (double)pd_calibrate_defaults.whiten,
                         .lr_min_share = 0.1,
                         .warm_lr = (double)pd_calibrate_defaults.warm_lr};
}

void pd_founding_close(pd_founding *x) {
    free(x->basis_file);
    pd_basis_free(x->basis);
    pd_data_close(x->calibration);
    pd_data_close(x->data);
    pd_model_close(x->model);
    pd_tokenizer_close(x->tokenizer);
    pd_base_close(x->base);
}

static pd_err parse_targets(const char *text, uint32_t *mask) {
    *mask = 0;
    if (strcmp(text, "all") == 0)
        *mask = (1u << PD_TARGETS) - 1;
    for (const char *p = text; !(*mask >> PD_TARGETS) && strcmp(text, "all") != 0;) {
        size_t n = strcspn(p, ",");
        uint32_t t = 0;
        while (t < PD_TARGETS &&
               (strlen(pd_target_names[t]) != n || memcmp(p, pd_target_names[t], n) != 0))
            t++;
        if (t == PD_TARGETS)
            return pd_fail(PD_EUSAGE,
                           "unknown target matrix '%.*s' (q, k, v, o, gate, up, down, or all)",
                           (int)n, p);
        *mask |= 1u << t;
        if (!p[n])
            break;
        p += n + 1;
    }
    return PD_OK;
}

/* all, upper (half) or N-, of a model of n layers. */
static pd_err parse_layers(const char *text, uint32_t n, uint32_t *first) {
    char *end = NULL;
    unsigned long from = *text >= '0' && *text <= '9' ? strtoul(text, &end, 10) : 0;
    if (end && strcmp(end, "-") == 0) {
        if (from >= n)
            return pd_fail(PD_EUSAGE, "--layers %s: this model's layers are 0 to %u", text, n - 1);
        *first = (uint32_t)from;
    } else if (strcmp(text, "upper") == 0) {
        *first = n / 2;
    } else if (strcmp(text, "all") == 0) {
        *first = 0;
    } else {
        return pd_fail(PD_EUSAGE,
                       "--layers takes all, upper (the upper half), or N- (from layer N "
                       "on, counted from 0), not '%s'",
                       text);
    }
    return PD_OK;
}

static pd_err parse_words(pd_founding *x) {
    pd_manifest *m = &x->manifest;
    uint32_t kind = 0;
    while (pd_space_names[kind] && strcmp(x->space, pd_space_names[kind]) != 0)
        kind++;
    if (!pd_space_names[kind])
        return pd_fail(PD_EUSAGE, "unknown space '%s' (aligned, lora or full)", x->space);
    m->space = (pd_space_kind)kind;
    if (strcmp(x->schedule, "constant") == 0)
        m->schedule = PD_SCHEDULE_CONSTANT;
    else if (strcmp(x->schedule, "linear") == 0)
        m->schedule = PD_SCHEDULE_LINEAR;
    else if (strcmp(x->schedule, "cosine") == 0)
        m->schedule = PD_SCHEDULE_COSINE;
    else
        return pd_fail(PD_EUSAGE, "unknown schedule '%s' (constant, linear or cosine)",
                       x->schedule);
    if (m->schedule != PD_SCHEDULE_CONSTANT && !x->decay)
        return pd_fail(
            PD_EUSAGE,
            "--schedule %s needs --decay RECORDS, the records of one node until the floor",
            x->schedule);
    if (m->space == PD_SPACE_ALIGNED && !x->calibrate)
        return pd_fail(
            PD_EUSAGE,
            "--calibrate is missing: an aligned space is made from a few public records");
    pd_err e = parse_layers(x->layers, UINT32_MAX, &m->first_layer); /* again with the model */
    return e ? e : parse_targets(x->targets, &m->targets);
}

static pd_err open_inputs(pd_founding *x) {
    pd_data_opts opts = {.max_tokens = x->config.batch_tokens, .skip_bad = x->config.skip_bad};
    pd_model_opts mo = {.compute = x->config.compute,
                        .threads = x->config.threads,
                        .backward = x->manifest.space == PD_SPACE_ALIGNED};
    pd_err e = pd_base_open(x->config.model, &x->base);
    if (!e)
        e = pd_base_tokenizer(x->base, &x->tokenizer);
    if (!e)
        e = pd_data_open(x->config.data, x->tokenizer, &opts, &x->data);
    if (!e && x->calibrate)
        e = pd_data_open(x->calibrate, x->tokenizer, &opts, &x->calibration);
    if (!e)
        e = pd_base_model(x->base, &mo, &x->model);
    return e ? e : pd_base_check_vocab(x->base, x->tokenizer, x->model);
}

/* The model may lack a target matrix or a layer, and learned positions end. */
static pd_err fit_to_model(pd_founding *x) {
    const pd_model_info *info = pd_model_info_of(x->model);
    uint32_t have = pd_model_targets(info), *targets = &x->manifest.targets;
    if (strcmp(x->targets, "all") == 0)
        *targets = have;
    for (uint32_t t = 0; t < PD_TARGETS; t++)
        if ((*targets & ~have) >> t & 1)
            return pd_fail(PD_EUSAGE, "a %s model has no matrix '%s': leave it out of --targets",
                           info->arch, pd_target_names[t]);
    uint32_t longest = pd_data_longest(x->data);
    if (x->calibration && pd_data_longest(x->calibration) > longest)
        longest = pd_data_longest(x->calibration);
    if (info->position == PD_POSITION_LEARNED && x->config.batch_tokens > info->context &&
        longest > info->context)
        return pd_fail(PD_EUSAGE,
                       "a record of %u tokens is longer than this model's %u positions: set "
                       "--batch-tokens %u",
                       longest, info->context, info->context);
    return parse_layers(x->layers, info->n_layers, &x->manifest.first_layer);
}

/* A full space is as large as its matrices: say so, or refuse, before anything takes time. */
static pd_err look_at_full(const pd_founding *x) {
    const pd_manifest *m = &x->manifest;
    char targets[PD_TARGETS * 8] = "";
    for (uint32_t t = 0; t < PD_TARGETS; t++)
        if (m->targets >> t & 1)
            snprintf(targets + strlen(targets), sizeof targets - strlen(targets), "%s%s",
                     *targets ? "," : "", pd_target_names[t]);
    if (m->n_coords > PD_FULL_MAX)
        return pd_fail(PD_EUSAGE,
                       "a full space of %s has %llu coordinates, more than the %llu of the largest "
                       "run: train fewer --targets, or a lora or aligned space",
                       targets, (unsigned long long)m->n_coords, (unsigned long long)PD_FULL_MAX);
    printf("full space: every entry of the matrices %s, %llu coordinates; embedding, head, norms "
           "and biases stay as they are\n"
           "  a node takes %llu MiB for them beside the model\n",
           targets, (unsigned long long)m->n_coords,
           (unsigned long long)(pd_site_bytes(m, false) >> 20));
    return pd_site_room(m, pd_config_projects(&x->config));
}

static pd_err calibrate(pd_founding *x) {
    pd_calibrate_opts opts = pd_calibrate_defaults;
    pd_calibrate_report r;
    opts.rank = x->rank;
    opts.targets = x->manifest.targets;
    opts.first_layer = x->manifest.first_layer;
    opts.groups = x->groups;
    opts.warm_lr = (float)x->warm_lr;
    opts.whiten = (float)x->whiten;
    opts.seed = x->config.seed;
    if (strcmp(x->warm_steps, "auto") != 0) {
        char *end;
        long steps = strtol(x->warm_steps, &end, 10);
        if (*end || steps < 0 || steps > PD_WARM_STEPS_MAX)
            return pd_fail(PD_EUSAGE, "--warm-steps takes auto or 0 to %d", PD_WARM_STEPS_MAX);
        opts.warm_steps = (int)steps;
    }
    printf("calibrating on %zu records of %s\n", pd_data_count(x->calibration), x->calibrate);
    pd_err e = pd_calibrate(x->model, x->calibration, &opts, &x->basis, &r);
    if (!e)
        e = pd_basis_write(x->basis, &x->basis_file, &x->basis_bytes);
    if (e)
        return e;
    pd_progress(true, "calibrated in %.1f s", r.seconds);
    if (r.held_steps)
        printf("  start adapter: %d Adam steps, chosen on unseen halves (loss %.3f before, %.3f "
               "there)\n",
               r.warm_steps, r.held[0], r.held[r.warm_steps]);
    printf("  calibration loss %.3f before, %.3f with the start adapter; basis of rank %u, %zu "
           "bytes; %.1f s\n",
           r.loss_before, r.loss_start, x->rank, x->basis_bytes, r.seconds);
    pd_hash256(x->basis_file, x->basis_bytes, x->manifest.basis_digest);
    x->manifest.basis_bytes = x->basis_bytes;
    return PD_OK;
}

/* What the person has not set is proposed from a few probes on the founder's own records. */
static pd_err choose_constants(pd_founding *x) {
    pd_manifest *m = &x->manifest;
    pd_space *space = NULL;
    pd_bench bench = {0};
    pd_prober prober = {0};
    pd_proposal p = {0};
    pd_subset own = pd_subset_all(x->data);
    pd_err e = pd_space_open(m, pd_model_info_of(x->model), x->basis, &space);
    if (!e)
        e = pd_bench_open(x->model, x->config.batch_tokens, 2, false, &bench);
    if (!e)
        e = pd_prober_open(&bench, space, &prober);
    if (!e)
        e = pd_propose(&prober, &own, x->probe_count, x->config.batch, x->config.seed, &p);
    pd_prober_close(&prober);
    pd_bench_close(&bench);
    pd_space_close(space);
    if (e)
        return e;
    double eps = x->eps > 0 ? x->eps : p.eps, lr = x->lr > 0 ? x->lr : p.lr;
    double scale = x->clip > 0 ? x->clip / 2048 : p.scale;
    pd_progress(true, "%u probes", p.probes);
    printf("%u probes: loss %.3f, curvature %.1f, projected gradients of %.3g (root mean square)\n",
           p.probes, p.loss, p.curvature, p.spread);
    printf("  eps %.3g%s, learning rate %.3g%s, largest gradient %.3g%s\n", eps,
           x->eps > 0 ? " (given)" : "", lr, x->lr > 0 ? " (given)" : "", scale * 2048,
           x->clip > 0 ? " (given)" : "");
    e = pd_fixed_of(eps, &m->eps);
    if (!e)
        e = pd_fixed_of(lr, &m->lr);
    if (!e)
        e = pd_fixed_of(scale, &m->scale);
    m->lr_min =
        m->schedule == PD_SCHEDULE_CONSTANT ? 0 : (uint64_t)((double)m->lr * x->lr_min_share);
    return e;
}

static void describe_run(pd_founding *x, const pd_identity *founder) {
    const pd_model_info *info = pd_model_info_of(x->model);
    pd_manifest *m = &x->manifest;
    pd_base_digest(x->base, m->model_digest);
    pd_tokenizer_digest(x->tokenizer, m->tokenizer_digest);
    snprintf(m->model_name, sizeof m->model_name, "%s", info->name);
    snprintf(m->model_arch, sizeof m->model_arch, "%s", info->arch);
    m->rank = m->space == PD_SPACE_FULL ? 0 : x->rank;
    m->alpha = m->space == PD_SPACE_LORA ? x->alpha : 0;
    m->unit_bits = m->space == PD_SPACE_FULL ? FULL_UNIT_BITS : UNIT_BITS;
    m->n_coords = pd_space_size(m, info);
    m->decay_records = m->schedule == PD_SCHEDULE_CONSTANT ? 0 : x->decay;
    m->seal_bytes_per_s = x->seal_bytes;
    m->rate_max = x->rate;
    m->invites_max = 8;
    if (m->space == PD_SPACE_LORA)
        pd_random(m->seed, sizeof m->seed);
    memcpy(m->founder, founder->pub, 32);
    pd_random(m->nonce, sizeof m->nonce);
}

pd_err pd_founding_check(pd_founding *x) {
    if (pd_site_exists(x->dir))
        return pd_fail(PD_EEXIST, "%s holds a node already; choose another folder", x->dir);
    return parse_words(x);
}

pd_err pd_found(pd_founding *x) {
    pd_identity founder;
    char text[PD_MANIFEST_MAX], id[65];
    uint8_t run[32];
    size_t n;
    pd_err e = pd_founding_check(x);
    if (!e)
        e = pd_local_config(&x->local, x->dir, &x->config);
    if (!e)
        e = open_inputs(x);
    if (!e)
        e = fit_to_model(x);
    if (e)
        return e;
    pd_identity_new(&founder);
    describe_run(x, &founder);
    if (x->manifest.space == PD_SPACE_FULL)
        e = look_at_full(x);
    if (!e && x->manifest.space == PD_SPACE_ALIGNED)
        e = calibrate(x);
    if (!e)
        e = choose_constants(x);
    if (!e)
        e = pd_manifest_check(&x->manifest);
    if (!e) {
        pd_manifest_write(&x->manifest, text, &n);
        pd_manifest_run_id(&x->manifest, run);
        pd_hex(run, 32, id);
        e = pd_site_create(x->dir, &x->config, &founder, text, n, x->basis_file, x->basis_bytes,
                           NULL, 0);
    }
    pd_identity_wipe(&founder);
    if (!e)
        printf("run %.16s..., %llu coordinates, founded in %s\nnext: peerd run %s   and, to invite "
               "a site: peerctl -d "
               "%s invite\n",
               id, (unsigned long long)x->manifest.n_coords, x->dir, x->dir, x->dir);
    return e;
}

/* ---- flags ---- */

void pd_founding_flags(pd_founding *x, bool model, pd_flag out[PD_FOUNDING_FLAGS]) {
    const pd_flag flags[] = {
        PD_LOCAL_MODEL_FLAG(&x->local),
        {"calibrate", 0, PD_FLAG_TEXT, &x->calibrate, 0, 0, "FILE",
         "public records that give the run its basis"},
        PD_LOCAL_FLAGS(&x->local),
        {"space", 0, PD_FLAG_TEXT, &x->space, 0, 0, "KIND",
         "aligned, lora or full (default aligned)"},
        {"rank", 0, PD_FLAG_U32, &x->rank, 1, PD_RANK_MAX / 2, "R", "of each matrix (default 4)"},
        {"alpha", 0, PD_FLAG_U32, &x->alpha, 1, 1024, "N",
         "lora's factor times its rank (default 16)"},
        {"targets", 0, PD_FLAG_TEXT, &x->targets, 0, 0, "LIST",
         "q,k,v,o,gate,up,down or all (default all)"},
        {"layers", 0, PD_FLAG_TEXT, &x->layers, 0, 0, "WHICH",
         "all, upper (half), or N-: from layer N on (default all)"},
        {"warm-steps", 0, PD_FLAG_TEXT, &x->warm_steps, 0, 0, "N",
         "of the start adapter, 0: none (default: chosen)"},
        {"warm-lr", 0, PD_FLAG_REAL, &x->warm_lr, 1e-6, 1, "X",
         "Adam's rate there (default 0.005)"},
        {"groups", 0, PD_FLAG_U32, &x->groups, 1, 64, "N",
         "batch gradients stacked for the basis (default 4)"},
        {"whiten", 0, PD_FLAG_REAL, &x->whiten, 0, 2, "P",
         "scale coordinates by spread^-P between records (default 1; 0: not)"},
        {"eps", 0, PD_FLAG_REAL, &x->eps, 1e-6, 10, "X",
         "probe distance (default: proposed from probes)"},
        {"lr", 0, PD_FLAG_REAL, &x->lr, 1e-9, 10, "X", "learning rate (default: proposed)"},
        {"clip", 0, PD_FLAG_REAL, &x->clip, 1e-6, 1e6, "X",
         "largest projected gradient (default: proposed)"},
        {"schedule", 0, PD_FLAG_TEXT, &x->schedule, 0, 0, "KIND",
         "constant, linear or cosine (default constant)"},
        {"decay", 0, PD_FLAG_U64, &x->decay, 1, 1e15, "N", "records of one node until the floor"},
        {"lr-min", 0, PD_FLAG_REAL, &x->lr_min_share, 0, 1, "X",
         "that floor, a share of the rate (default 0.1)"},
        {"seal-budget", 0, PD_FLAG_U32, &x->seal_bytes, 1, 1e9, "N",
         "bytes/s for signatures (default 1000)"},
        {"rate-max", 0, PD_FLAG_U32, &x->rate, 1, 1e6, "N",
         "records a second and node (default 10)"},
        {"propose", 0, PD_FLAG_U32, &x->probe_count, 1, 64, "N",
         "probes to propose from (default 48)"},
        {.name = NULL}};
    _Static_assert(sizeof flags <= PD_FOUNDING_FLAGS * sizeof *flags, "room for every flag");
    size_t skip = model ? 0 : 1;
    memcpy(out, flags + skip, sizeof flags - skip * sizeof *flags);
}
