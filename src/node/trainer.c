/* trainer.c - the training thread; see trainer.h.  The loop is `run`. */
#include "estimate.h"
#include "peerd/file.h"
#include "peerd/log.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    FOLLOW_MOST = 1 << 16, /* records folded before anything else is looked at */
    WAIT_MS = 500,
    AUDIT_MOST = 1 << 12, /* records of the audit replayed between two probes */
    QUIET_MS = 3000,      /* nothing new for so long: time to judge what stands */
    DIGEST_MS = 1000,
    DIGEST_SHARE = 20, /* at least that, and twenty times what one takes */
    CHECKPOINT_MS = 60000,
    CHECKPOINT_BYTES_MS = 1000, /* and no more than a megabyte a second to the disk */
    HELD_MS = 10000,            /* at least this between two held-out losses, */
    HELD_SHARE = 10,            /* and ten times what one takes */
    RISING_MOST = 8,            /* this many in a row above the best by the margin: stop speaking */
};
/* Nor more of them than make so many updates of coordinates: a second or so of one core. */
static const uint64_t UPDATES_MOST = UINT64_C(1) << 35;
static const double RISING_SHARE = 0.05, RISING_LEAST = 0.02;

const char *const pd_trainer_state_names[] = {"starting", "waiting", "training",
                                              "paused",   "done",    "stopped"};

/* ---- what stands still: held-out loss, digest, checkpoint ---- */

static void judge(pd_trainer *t, double loss) {
    double best = t->status.held_best;
    bool worse = !(loss <= best + fmax(RISING_LEAST, RISING_SHARE * best));
    t->rising = worse ? t->rising + 1 : 0;
    if (loss < best)
        t->status.held_best = loss;
}

static void say_held(const pd_loss *loss, uint64_t records) {
    char accuracy[32] = "";
    if (loss->choices)
        snprintf(accuracy, sizeof accuracy, ", accuracy %.3f",
                 (double)loss->correct / (double)loss->choices);
    pd_info("held-out loss %.4f%s (%llu records in the model)", pd_loss_mean(loss), accuracy,
            (unsigned long long)records);
}

/* The held-out loss where the replica stands.  held_at says that it was asked for, also where there
 * is nothing held out or nothing could be had: who waits for it waits no longer.
 */
static void evaluate(pd_trainer *t) {
    pd_loss loss = {0};
    uint64_t began = pd_clock_ms(), records = t->conf.replica->records;
    pd_view_set(t->view, t->conf.replica->a, NULL, 0);
    if (pd_evaluate(&t->bench, &t->conf.held, pd_view_adapter(t->view), &loss) != PD_OK)
        pd_warn("no held-out loss: %s", pd_fail_text());
    pthread_mutex_lock(&t->lock);
    t->status.held_at = records;
    if (loss.units) {
        if (!t->status.held_first.units) {
            t->status.held_first = loss;
            t->status.held_best = pd_loss_mean(&loss);
        }
        t->status.held_now = loss;
        judge(t, pd_loss_mean(&loss));
    }
    pthread_mutex_unlock(&t->lock);
    uint64_t took = pd_clock_ms() - began;
    t->held_due_ms = pd_clock_ms() + (took * HELD_SHARE > HELD_MS ? took * HELD_SHARE : HELD_MS);
    if (loss.units)
        say_held(&loss, records);
}

/* Between two checkpoints. */
static uint64_t checkpoint_ms(const pd_trainer *t) {
    uint64_t slow = t->conf.replica->d * sizeof(int32_t) / CHECKPOINT_BYTES_MS;
    return slow > CHECKPOINT_MS ? slow : CHECKPOINT_MS;
}

/* Is a checkpoint too much for each record that comes while nothing else is done? */
static bool is_large(const pd_trainer *t) {
    return checkpoint_ms(t) > CHECKPOINT_MS;
}

static void publish(pd_trainer *t, bool now) {
    uint64_t ms = pd_clock_ms();
    pd_replica *r = t->conf.replica;
    bool changed = r->changes != t->digest_changes;
    if (changed && (now || ms >= t->digest_due_ms)) {
        uint8_t digest[PD_DIGEST_BYTES];
        pd_replica_sealed(r, t->sealed, digest);
        pthread_mutex_lock(&t->lock);
        memcpy(t->status.digest, digest, sizeof digest);
        t->status.records = r->records;
        pthread_mutex_unlock(&t->lock);
        uint64_t took = pd_clock_ms() - ms;
        t->digest_changes = r->changes;
        t->digest_due_ms = ms + (took * DIGEST_SHARE > DIGEST_MS ? took * DIGEST_SHARE : DIGEST_MS);
    }
    if (t->waits)
        return; /* it holds what does not count: not to be kept */
    if (r->changes != t->checkpoint_changes && (now || ms >= t->checkpoint_due_ms)) {
        uint8_t digest[PD_DIGEST_BYTES];
        pd_replica_sealed(r, t->sealed, digest);
        t->conf.hooks.checkpoint(t->conf.hooks.ctx, r, t->sealed, digest);
        t->checkpoint_changes = r->changes;
        t->checkpoint_due_ms = ms + checkpoint_ms(t);
    }
}

/* ---- one batch ---- */

static void train(pd_trainer *t) {
    uint32_t rate = t->conf.manifest->rate_max, k = 0;
    uint64_t now = pd_clock_ms();
    pd_err e = pd_trainer_make(t, &k);
    if (e) {
        pd_error("training stops: %s", pd_fail_text());
        t->lost = true;
        return;
    }
    t->due_ms = rate ? now + 1000 * (uint64_t)k / rate : 0; /* the run's pace: rate_max a second */
}

/* Take own records back from this step on; what a projector keeps no longer says what is missing.
 */
static void take_back(pd_trainer *t, uint64_t step) {
    pd_replica_take_back(t->conf.replica, step);
    if (t->conf.project)
        pd_project_forget(&t->projector);
}

/* ---- the loop ---- */

/* Speak as this author; where the core stood with another one says nothing about it. */
static void take_voice(pd_trainer *t, const pd_author *author) {
    pd_replica *r = t->conf.replica;
    uint32_t was = r->own;
    if (pd_replica_own(r, t->conf.ledger, author) != PD_OK) {
        pd_error("training stops: %s", pd_fail_text());
        t->lost = true;
    } else if (r->own != was) {
        t->core_step = 0;
    }
}

/* Can a record made now be the core's next one?  Not while the ledger has more to fold or lacks
 * what is to be, nor while the core stands further on than the replica: what it took from us and we
 * took back comes sealed.
 */
static bool in_step(const pd_trainer *t) {
    const pd_replica *r = t->conf.replica;
    return !t->behind && !t->waits && pd_has_room(r) && pd_replica_next_step(r) >= t->core_step;
}

/* Take what others left for the thread; returns whether it should end. */
static bool take_orders(pd_trainer *t, bool *may) {
    pd_replica *r = t->conf.replica;
    pthread_mutex_lock(&t->lock);
    bool stop = t->stop, refused = t->refused, speak = t->speak, pause = t->pause;
    uint64_t refused_step = t->refused_step;
    pd_author author = t->author;
    pd_trainer_question *question = t->question;
    void *question_ctx = t->question_ctx;
    t->question = NULL; /* who gets the answer may ask the next one at once */
    if (t->resumed)
        t->rising = 0;
    t->refused = t->news = t->resumed = false;
    pthread_mutex_unlock(&t->lock);

    if (speak)
        take_voice(t, &author);
    if (refused) {
        take_back(t, refused_step);
        t->core_step = refused_step;
    }
    *may = speak && !pause && !t->lost && !t->waits && t->rising < RISING_MOST;
    if (question)
        question(question_ctx, r, t->conf.space);
    return stop;
}

/* Something is to be folded or taken back that lies before a log's base: a checkpoint was begun
 * with whose records count no longer, or it is gone.  Once every log is whole, replay begins anew.
 */
static void wait_for_prefixes(pd_trainer *t) {
    bool whole = pd_ledger_lacking(t->conf.ledger) == 0;
    if (!t->waits && !whole)
        pd_warn("replay waits for records from before the checkpoint that this node began with");
    if (whole)
        pd_replica_reset(t->conf.replica);
    t->waits = !whole;
    t->behind = whole;
}

static uint64_t at_once(const pd_trainer *t, uint64_t records) {
    uint64_t most = UPDATES_MOST / t->conf.replica->d;
    return most < PD_REPLAY_FUSED ? PD_REPLAY_FUSED : most < records ? most : records;
}

static void follow(pd_trainer *t) {
    uint64_t folded = 0, most = at_once(t, FOLLOW_MOST);
    t->behind = false;
    pd_err e = pd_replica_follow(t->conf.replica, t->conf.ledger, most, &folded);
    if (e == PD_ENOENT) {
        wait_for_prefixes(t);
        return;
    }
    t->waits = false;
    if (e == PD_EMISMATCH) {
        /* The log was continued by what we had said before a crash or elsewhere: that is what
         * counts. */
        pd_warn("own unsealed records are taken back: %s", pd_fail_text());
        take_back(t, 0);
    } else if (e && !t->lost) {
        pd_error("replay stops: %s", pd_fail_text());
        t->lost = true;
    } else {
        t->behind = folded == most;
    }
}

/* ---- the audit ---- */

static bool same_records(const pd_replica *a, const pd_replica *b) {
    for (uint32_t i = 0; i < a->n_authors || i < b->n_authors; i++)
        if ((i < a->n_authors ? a->n[i] : 0) != (i < b->n_authors ? b->n[i] : 0))
            return false;
    return true;
}

/* Both hold the same records now, one from the checkpoint on, the other from the base model: equal
 * coordinates show that the checkpoint was right, since what came after it is the same in both.  If
 * they differ, replay is what counts.
 */
static void conclude_audit(pd_trainer *t) {
    pd_replica *r = t->conf.replica;
    uint8_t begun[PD_DIGEST_BYTES], replayed[PD_DIGEST_BYTES];
    pd_replica_sealed(r, t->sealed, begun);
    pd_replay_digest(t->fresh.a, r->d, replayed);
    bool equal = memcmp(begun, replayed, sizeof begun) == 0;
    if (!equal) {
        take_back(t, 0);
        memcpy(r->a, t->fresh.a, r->d * sizeof *r->a);
        r->changes++;
    }
    t->audit = false;
    pd_replica_close(&t->fresh);
    t->conf.hooks.audited(t->conf.hooks.ctx, equal ? PD_AUDIT_EQUAL : PD_AUDIT_DIFFERS);
}

/* A step of it, as soon as every log is whole. */
static void audit(pd_trainer *t) {
    uint64_t folded = 0, most = at_once(t, AUDIT_MOST);
    if (!t->audit || t->behind || t->waits || t->lost || pd_ledger_lacking(t->conf.ledger))
        return;
    pd_err e = t->fresh.a ? PD_OK : pd_replica_open(t->conf.manifest, &t->fresh);
    if (!e)
        e = pd_replica_follow(&t->fresh, t->conf.ledger, most, &folded);
    if (e)
        pd_warn("the checkpoint's audit does not go on: %s", pd_fail_text());
    pthread_mutex_lock(&t->lock);
    t->status.audited = t->fresh.records;
    pthread_mutex_unlock(&t->lock);
    if (!e && folded < most && same_records(t->conf.replica, &t->fresh))
        conclude_audit(t);
}

static void wait_for_news(pd_trainer *t, uint64_t ms) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)ms * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&t->lock);
    if (!t->news && !t->stop)
        pthread_cond_timedwait(&t->wake, &t->lock, &until);
    pthread_mutex_unlock(&t->lock);
}

static pd_trainer_state state_of(const pd_trainer *t, bool may, bool more) {
    if (!more)
        return PD_TRAINER_DONE;
    if (may)
        return PD_TRAINER_TRAINING;
    if (t->pause)
        return PD_TRAINER_PAUSED;
    return t->lost || t->rising >= RISING_MOST ? PD_TRAINER_STOPPED : PD_TRAINER_WAITING;
}

static void *run(void *arg) {
    pd_trainer *t = arg;
    pd_replica *r = t->conf.replica;
    bool may = false, was_rising = false;
    uint64_t quiet_ms = 0; /* since when nothing has come */
    follow(t);
    publish(t, true);
    evaluate(t);
    while (!take_orders(t, &may)) {
        uint64_t before = r->changes;
        follow(t);
        audit(t);
        bool more = r->own == UINT32_MAX || pd_replica_next_step(r) < t->conf.records;
        may = may && in_step(t);
        pthread_mutex_lock(&t->lock);
        t->status.state = state_of(t, may, more);
        t->status.waits = t->waits;
        pthread_mutex_unlock(&t->lock);
        publish(t, (!may || !more) && !t->behind && !is_large(t));
        if (may && more) {
            if (pd_clock_ms() >= t->held_due_ms)
                evaluate(t);
            uint64_t ms = pd_clock_ms();
            if (ms >= t->due_ms)
                train(t);
            else
                wait_for_news(t, t->due_ms - ms < WAIT_MS ? t->due_ms - ms : WAIT_MS);
        } else {
            bool still = r->changes == before && r->n_pending == 0;
            quiet_ms = still ? quiet_ms ? quiet_ms : pd_clock_ms() : 0;
            if (still && t->status.held_at != r->records && pd_clock_ms() - quiet_ms >= QUIET_MS)
                evaluate(t); /* the end, or a pause: what stands now */
            if (r->changes == before && !(t->audit && t->fresh.a))
                wait_for_news(t, WAIT_MS);
        }
        if (t->rising >= RISING_MOST && !was_rising)
            pd_warn("held-out loss rose %u times in a row: this node follows and no longer speaks "
                    "(let it speak again with: peerctl resume)",
                    t->rising);
        was_rising = t->rising >= RISING_MOST;
    }
    publish(t, true);
    return NULL;
}

/* ---- from outside ---- */

static void trainer_free(pd_trainer *t) {
    pd_replica_close(&t->fresh);
    pd_prober_close(&t->prober);
    pd_projector_close(&t->projector);
    pd_bench_close(&t->bench);
    free(t->signs);
    free(t->sealed);
    free(t->order);
    pthread_cond_destroy(&t->wake);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static pd_err prepare(pd_trainer *t) {
    size_t d = t->conf.replica->d, n = t->conf.train.n;
    bool project = t->conf.project;
    pd_err e =
        pd_bench_open(t->conf.model, t->conf.batch_tokens, project ? 1 : 2, project, &t->bench);
    if (!e)
        e = project ? pd_projector_open(&t->bench, t->conf.space, t->conf.manifest, &t->projector)
                    : pd_prober_open(&t->bench, t->conf.space, &t->prober);
    if (e)
        return e;
    pd_info("memory: %zu MiB of weights, %zu MiB of activations",
            pd_model_info_of(t->conf.model)->packed_bytes >> 20,
            pd_work_bytes(t->bench.work) >> 20);
    if (project)
        pd_info("bytes from gradients, K %u, E %u: reverse mode takes %zu MiB for weights and "
                "%zu MiB for activations",
                t->conf.probes, t->conf.local_steps,
                pd_model_info_of(t->conf.model)->reverse_bytes >> 20,
                pd_work_bytes(t->bench.work) >> 20);
    t->view = project ? t->projector.view : t->prober.plus;
    t->signs = malloc((d + 7) / 8);
    t->sealed = malloc(d * sizeof *t->sealed);
    t->order = malloc(n * sizeof *t->order);
    if (!t->signs || !t->sealed || !t->order)
        return pd_fail(PD_ENOMEM, "no memory to train %zu coordinates", d);
    for (size_t i = 0; i < n; i++)
        t->order[i] = t->conf.train.index ? t->conf.train.index[i] : (uint32_t)i;
    t->at = n;
    pd_replica_sealed(t->conf.replica, t->sealed, t->status.digest);
    t->digest_changes = t->checkpoint_changes = t->conf.replica->changes;
    t->status.records = t->conf.replica->records;
    t->checkpoint_due_ms = is_large(t) ? pd_clock_ms() + checkpoint_ms(t) : 0;
    return PD_OK;
}

pd_err pd_trainer_start(const pd_trainer_conf *conf, pd_trainer **out) {
    if (!conf->train.n)
        return pd_fail(PD_EUSAGE, "there is no record to train on");
    pd_trainer *t = calloc(1, sizeof *t);
    if (!t)
        return pd_fail(PD_ENOMEM, "no memory for the trainer");
    t->conf = *conf;
    t->rng.state = conf->seed;
    t->audit = conf->audit;
    t->status.loss = NAN;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->wake, &attr);
    pthread_condattr_destroy(&attr);
    pd_err e = prepare(t);
    if (!e && pthread_create(&t->thread, NULL, run, t) != 0)
        e = pd_fail(PD_ENOMEM, "cannot start the training thread");
    if (e) {
        trainer_free(t);
        return e;
    }
    *out = t;
    return PD_OK;
}

void pd_trainer_stop(pd_trainer *t) {
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);
    trainer_free(t);
}

void pd_trainer_speak(pd_trainer *t, bool may, const pd_author *author) {
    pthread_mutex_lock(&t->lock);
    t->speak = may;
    if (may)
        t->author = *author;
    t->news = true;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
}

void pd_trainer_wake(pd_trainer *t) {
    pthread_mutex_lock(&t->lock);
    t->news = true;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
}

void pd_trainer_refused(pd_trainer *t, uint64_t step) {
    pthread_mutex_lock(&t->lock);
    if (!t->refused || step < t->refused_step)
        t->refused_step = step;
    t->refused = t->news = true;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
}

void pd_trainer_pause(pd_trainer *t, bool pause) {
    pthread_mutex_lock(&t->lock);
    t->pause = pause;
    t->resumed = !pause;
    t->news = true;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
}

void pd_trainer_status_get(pd_trainer *t, pd_trainer_status *out) {
    pthread_mutex_lock(&t->lock);
    *out = t->status;
    pthread_mutex_unlock(&t->lock);
}

pd_err pd_trainer_ask(pd_trainer *t, pd_trainer_question *fn, void *ctx) {
    pd_err e = PD_OK;
    pthread_mutex_lock(&t->lock);
    if (t->question)
        e = PD_EAGAIN;
    else {
        t->question = fn;
        t->question_ctx = ctx;
        t->news = true;
        pthread_cond_signal(&t->wake);
    }
    pthread_mutex_unlock(&t->lock);
    return e ? pd_fail(e, "the node is answering another question; try again") : PD_OK;
}
