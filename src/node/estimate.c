/* estimate.c - a batch or a gradient to records: the two ways in which the training thread makes
 * its bytes; see probe.h and project.h.
 *
 *   data > tokens > LOSS PAIR > BYTE > ledger > gossip > replay > weights
 *
 * Both fold each record into the replica before the next direction is taken, and both hand it to
 * the core by the same hook, so that nothing behind here can tell one from the other.
 */
#include "estimate.h"
#include "peerd/file.h"
#include "peerd/log.h"

#include <assert.h>
#include <math.h>

static const double SMOOTH = 0.1; /* weight of the newest batch in what the status shows */

/* The records left of this epoch, from t->at on. */
static pd_subset epoch(pd_trainer *t) {
    if (t->at == t->conf.train.n) {
        pd_rng_shuffle(&t->rng, t->order, t->conf.train.n);
        t->at = 0;
    }
    return (pd_subset){t->conf.train.data, t->order, t->conf.train.n};
}

/* Of batches with this mean loss (NAN: it was not finite) `made` records were made. */
static void note(pd_trainer *t, double loss, uint32_t made, uint64_t tokens, double seconds) {
    pthread_mutex_lock(&t->lock);
    pd_trainer_status *s = &t->status;
    if (isfinite(loss))
        s->loss = isnan(s->loss) ? loss : s->loss + SMOOTH * (loss - s->loss);
    else
        s->not_finite++;
    s->made += made;
    seconds /= made ? made : 1;
    s->probe_s = s->probe_s > 0 ? s->probe_s + SMOOTH * (seconds - s->probe_s) : seconds;
    s->tokens += tokens;
    s->next_step = pd_replica_next_step(t->conf.replica);
    pthread_mutex_unlock(&t->lock);
    if (!isfinite(loss))
        pd_warn("a loss is not finite: no record from this batch");
}

static bool may_add(const pd_trainer *t) {
    const pd_replica *r = t->conf.replica;
    return pd_replica_next_step(r) < t->conf.records && pd_has_room(r);
}

/* The signs of the next record's direction, into t->signs. */
static void next_direction(pd_trainer *t) {
    const pd_replica *r = t->conf.replica;
    uint8_t seed[32];
    pd_direction_seed(r->replay.run, &r->author[r->own], pd_replica_next_step(r), seed);
    pd_direction_signs(seed, t->signs, r->d);
}

/* A record of gradient g along that direction: byte, fold, speak.  Gives what the byte stands for.
 */
static double add_record(pd_trainer *t, double g) {
    pd_replica *r = t->conf.replica;
    double scale = pd_fixed_value(t->conf.manifest->scale);
    uint64_t step = pd_replica_next_step(r);
    uint8_t byte = pd_byte_encode(g, scale, pd_rng_uniform(&t->rng));
    bool taken = pd_replica_add(r, byte);
    assert(taken); /* may_add */
    (void)taken;
    t->conf.hooks.gradient(t->conf.hooks.ctx, &r->author[r->own], step, byte);
    return scale * pd_byte_value(byte);
}

/* A batch, probed along so many directions; gives how many. */
static pd_err by_probes(pd_trainer *t, uint32_t *tried) {
    pd_subset rest = epoch(t);
    pd_err e = pd_bench_fill(&t->bench, &rest, &t->at, t->conf.batch_records);
    if (e)
        return e;
    for (; *tried < t->conf.probes && may_add(t); ++*tried) {
        uint64_t began = pd_clock_us();
        pd_probe p;
        next_direction(t);
        pd_probe_at(&t->prober, t->conf.replica->a, t->signs,
                    (float)pd_fixed_value(t->conf.manifest->eps), &p);
        if (isfinite(p.g))
            add_record(t, p.g);
        note(t, isfinite(p.g) ? (p.plus + p.minus) / 2 : NAN, isfinite(p.g),
             pd_batch_tokens(t->bench.batch), (double)(pd_clock_us() - began) / 1e6);
    }
    return PD_OK;
}

/* A gradient may take minutes: who stops does not wait for it. */
static bool asked_to_stop(pd_trainer *t) {
    pthread_mutex_lock(&t->lock);
    bool stop = t->stop;
    pthread_mutex_unlock(&t->lock);
    return stop;
}

/* The gradient of E batches into the projector; *loss is that of the first, NAN if none counted. */
static pd_err take_gradient(pd_trainer *t, double *loss, uint64_t *tokens) {
    const pd_replica *r = t->conf.replica;
    uint64_t step = pd_replica_next_step(r);
    double rate = pd_fixed_value(pd_schedule_at(&r->replay.schedule, step)) /
                  pd_fixed_value(t->conf.manifest->scale) * t->conf.probes / t->conf.local_steps;
    *loss = NAN;
    pd_project_begin(&t->projector, r->a);
    for (uint32_t k = 0; k < t->conf.local_steps && !asked_to_stop(t); k++) {
        pd_loss l;
        pd_subset all = epoch(t);
        size_t left = all.n - t->at,
               n = left < t->conf.batch_records ? left : t->conf.batch_records;
        pd_subset batch = {all.data, all.index + t->at, n};
        t->at += n;
        pd_err e = pd_project_step(&t->projector, &batch, rate, &l);
        if (e)
            return e;
        for (size_t i = 0; i < n; i++)
            *tokens += pd_data_at(batch.data, batch.index[i])->n_tokens;
        if (k == 0)
            *loss = pd_loss_mean(&l);
    }
    if (!pd_project_end(&t->projector))
        *loss = NAN;
    return PD_OK;
}

/* A gradient, projected on as many directions; gives how many. */
static pd_err by_gradient(pd_trainer *t, uint32_t *tried) {
    uint64_t began = pd_clock_us(), tokens = 0;
    double loss;
    pd_err e = take_gradient(t, &loss, &tokens);
    if (e || asked_to_stop(t))
        return e;
    for (; isfinite(loss) && *tried < t->conf.probes && may_add(t); ++*tried) {
        next_direction(t);
        pd_project_sent(&t->projector, t->signs,
                        add_record(t, pd_project_on(&t->projector, t->signs)));
    }
    note(t, loss, *tried, tokens, (double)(pd_clock_us() - began) / 1e6);
    return PD_OK;
}

pd_err pd_trainer_make(pd_trainer *t, uint32_t *tried) {
    *tried = 0;
    return t->conf.project ? by_gradient(t, tried) : by_probes(t, tried);
}
