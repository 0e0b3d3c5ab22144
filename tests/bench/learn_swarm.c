/* learn_swarm.c - sites that make bytes in turn, by probes or by gradients, and what their bytes
 * make of the model; see learn.c. */
#include "learn.h"
#include "peerd/replay.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One site of a swarm. */
typedef struct member {
    pd_author author;
    uint32_t *order; /* of its records, shuffled each epoch */
    size_t count, at;
    float *residual, *gradient; /* (d) what a projector keeps of it */
    uint32_t left;              /* bytes to be made of that gradient */
} member;

/* What a swarm is at. */
typedef struct work {
    learn *b;
    pd_replay replay;
    int32_t *a; /* (d) */
    uint8_t *signs;
    member site[SITES_MAX];
    uint32_t n;
    uint64_t bytes; /* of this basis */
    pd_rng rng;
} work;

static void member_open(const learn *b, uint32_t site, member *m) {
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
static pd_subset next_batch(work *w, uint32_t site, member *m) {
    uint32_t n = w->b->o.batch;
    if (m->at + n > m->count) {
        pd_rng_shuffle(&w->rng, m->order, m->count);
        m->at = 0;
    }
    pd_subset batch = {w->b->site[site], m->order + m->at, n};
    m->at += n;
    w->b->read += n;
    return batch;
}

static void direction(work *w, const member *m, uint64_t step) {
    uint8_t seed[32];
    pd_direction_seed(w->replay.run, &m->author, step, seed);
    pd_direction_signs(seed, w->signs, (size_t)w->b->manifest.n_coords);
}

/* How far a gradient of one moves the model at this step. */
static double rate_at(const work *w, uint64_t step) {
    return pd_fixed_value(pd_schedule_at(&w->replay.schedule, step)) /
           pd_fixed_value(w->b->manifest.scale);
}

static uint8_t encode(work *w, double g) {
    double scale = pd_fixed_value(w->b->manifest.scale);
    return isfinite(g) ? pd_byte_encode(g, scale, pd_rng_uniform(&w->rng)) : 0;
}

static uint8_t by_probe(work *w, uint32_t site, member *m) {
    size_t next = 0;
    pd_subset batch = next_batch(w, site, m);
    pd_probe probe;
    check(pd_bench_fill(&w->b->two, &batch, &next, batch.n));
    pd_probe_at(&w->b->prober, w->a, w->signs, (float)pd_fixed_value(w->b->manifest.eps), &probe);
    return encode(w, probe.g);
}

static uint8_t by_gradient(work *w, uint32_t site, member *m, uint64_t step) {
    learn *b = w->b;
    pd_projector *p = &b->projector;
    size_t bytes = (size_t)p->d * sizeof(float);
    for (uint32_t e = 0; !m->left && e < b->o.local_steps; e++) {
        pd_loss loss;
        pd_subset batch = next_batch(w, site, m);
        if (e == 0)
            pd_project_begin(p, w->a);
        check(pd_project_step(p, &batch, rate_at(w, step) * b->o.probes / b->o.local_steps, &loss));
    }
    if (m->left) {
        memcpy(p->sum, m->gradient, bytes);
    } else {
        m->left = pd_project_end(p) ? b->o.probes : 1;
        memcpy(m->gradient, p->sum, bytes);
    }
    m->left--;
    memcpy(p->residual, m->residual, bytes);
    uint8_t byte = encode(w, pd_project_on(p, w->signs));
    pd_project_sent(p, w->signs, pd_byte_value(byte) * pd_fixed_value(b->manifest.scale));
    memcpy(m->residual, p->residual, bytes);
    return byte;
}

static uint8_t make_byte(work *w, uint32_t site, member *m, uint64_t step) {
    double began = processor_s();
    direction(w, m, step);
    uint8_t byte = w->b->o.project ? by_gradient(w, site, m, step) : by_probe(w, site, m);
    w->b->seconds += processor_s() - began;
    return byte;
}

/* Who makes byte k, and at which of its steps: sites in turn, each as many as one gradient gives.
 */
static member *turn_of(work *w, uint64_t k, uint64_t *step) {
    const options *o = &w->b->o;
    uint64_t burst = o->project ? o->probes : 1, turn = k / burst;
    *step = turn / w->n * burst + k % burst;
    return &w->site[turn % w->n];
}

/* The bytes of one basis; a record enters the model `lag` records later.  `before`: bytes of
 * earlier bases. */
static void one_basis(work *w, const char *name, uint32_t from, uint64_t before) {
    learn *b = w->b;
    size_t d = (size_t)b->manifest.n_coords;
    uint8_t *queue = malloc(w->bytes);
    b->manifest.decay_records = w->bytes / w->n ? w->bytes / w->n : 1;
    pd_replay_of(&b->manifest, &w->replay);
    memcpy(w->replay.run, &b->o.seed, sizeof b->o.seed);
    w->replay.run[8] = (uint8_t)(before >> 8);
    for (uint64_t k = 0; k < w->bytes + b->o.lag; k++) {
        uint64_t step;
        if (k < w->bytes) {
            member *m = turn_of(w, k, &step);
            queue[k] = make_byte(w, from + (uint32_t)(m - w->site), m, step);
        }
        if (k < b->o.lag)
            continue;
        uint64_t j = k - b->o.lag;
        member *m = turn_of(w, j, &step);
        pd_replay_fold(&w->replay, w->a, d, &m->author, step, &queue[j], 1);
        if ((before + j + 1) % b->o.every == 0) {
            pd_view_set(b->prober.plus, w->a, NULL, 0);
            show(b, name, before + j + 1, pd_view_adapter(b->prober.plus));
        }
    }
    free(queue);
}

/* What was learned becomes the start of a new basis, as `peerd rebase` does it. */
static void next_basis(work *w) {
    learn *b = w->b;
    size_t d = (size_t)b->manifest.n_coords;
    pd_calibrate_opts co = pd_calibrate_defaults;
    pd_calibrate_report r;
    pd_basis *next;
    float *at = malloc(d * sizeof *at);
    for (size_t i = 0; i < d; i++)
        at[i] = ldexpf((float)w->a[i], -(int)b->manifest.unit_bits);
    co.rank = b->o.rank;
    co.groups = b->o.groups;
    co.whiten = (float)b->o.whiten;
    co.seed = b->o.seed;
    check(pd_calibrate_on(b->model, b->calibration, &co, b->basis, at, &next, &r));
    printf("next basis %.1f s: loss %.3f, accuracy %.3f\n", r.seconds, r.loss_start,
           r.accuracy_start);
    pd_basis_free(b->basis);
    b->basis = next;
    open_space(b);
    free(at);
    free(w->a);
}

void swarm(learn *b, const char *name, uint32_t from, uint32_t n, uint64_t bytes) {
    work w = {.b = b, .n = n, .bytes = bytes / b->o.bases, .rng = {b->o.seed + 77}};
    b->read = 0;
    b->seconds = 0;
    for (uint32_t basis = 0; basis < b->o.bases; basis++) {
        if (basis)
            next_basis(&w);
        size_t d = (size_t)b->manifest.n_coords;
        choose_constants(b);
        w.a = calloc(d, sizeof *w.a);
        w.signs = malloc((d + 7) / 8);
        for (uint32_t s = 0; s < n; s++)
            member_open(b, from + s, &w.site[s]);
        one_basis(&w, name, from, basis * w.bytes);
        for (uint32_t s = 0; s < n; s++)
            member_close(&w.site[s]);
        free(w.signs);
        if (basis + 1 == b->o.bases)
            free(w.a);
    }
}
