/* estimate.h - the training thread's own state, and how it makes records; private to trainer.c and
 * estimate.c. */
#ifndef PD_ESTIMATE_H
#define PD_ESTIMATE_H

#include "trainer.h"

#include <pthread.h>

struct pd_trainer {
    pd_trainer_conf conf;
    pthread_t thread;

    pthread_mutex_t lock; /* everything down to `status` */
    pthread_cond_t wake;
    bool stop, pause, speak, news, refused, resumed;
    pd_author author;
    uint64_t refused_step;
    pd_trainer_question *question;
    void *question_ctx;
    pd_trainer_status status;

    /* the thread's own */
    pd_bench bench;
    pd_prober prober;       /* or */
    pd_projector projector; /* see pd_trainer_conf.project */
    pd_view *view;          /* of that one: where the replica stands */
    pd_rng rng;
    uint8_t *signs;
    int32_t *sealed;
    uint32_t *order; /* of the training records, shuffled each epoch */
    size_t at;       /* next one */
    bool audit;      /* the checkpoint begun with is to be replayed, in `fresh` */
    pd_replica fresh;
    bool waits;         /* see pd_trainer_status */
    bool lost;          /* the replica does not match the ledger: silent */
    uint64_t due_ms;    /* when the run's rate allows the next batch */
    bool behind;        /* the ledger holds more than was folded */
    uint64_t core_step; /* where the core stood when it refused a record */
    uint32_t rising;
    uint64_t held_due_ms, digest_due_ms, checkpoint_due_ms, digest_changes, checkpoint_changes;
};

/* Not so many bytes wait for their seal that another one would be lost. */
static inline bool pd_has_room(const pd_replica *r) {
    return r->n_pending < PD_REPLICA_PENDING_MAX;
}

/* The next batch, or the next gradient of several, to at most conf.probes records.
 *
 *   tried  out  directions tried, records or not: what the run's rate counts
 *
 * Errors: those of pd_bench_fill and pd_space_gradient; then nothing was made.
 */
PD_CHECKED pd_err pd_trainer_make(pd_trainer *t, uint32_t *tried);

#endif
