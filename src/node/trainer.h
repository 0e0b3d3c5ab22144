/* trainer.h - the thread that trains: follows the ledger, turns batches into bytes, watches the
 * held-out loss.
 *
 *   data > tokens > LOSS PAIR > BYTE > ledger > gossip > REPLAY > WEIGHTS
 *
 * Owns the replica while it runs.  Speaks only when the core says so; what it makes goes to the
 * core through a hook and comes back sealed through the ledger.  Between two probes it serves
 * questions (digest, verify, export).
 */
#ifndef PD_TRAINER_H
#define PD_TRAINER_H

#include "peerd/probe.h"
#include "peerd/project.h"
#include "peerd/replica.h"
#include "peerd/store.h"

typedef struct pd_trainer pd_trainer;

typedef struct pd_trainer_hooks { /* called on the trainer's thread */
    void *ctx;
    /* One own record. */
    void (*gradient)(void *ctx, const pd_author *author, uint64_t step, uint8_t byte);
    /* The sealed state, to be kept: a (d) and the replica's n, n_authors, author.  Copy what is
     * needed. */
    void (*checkpoint)(void *ctx, const pd_replica *r, const int32_t *a,
                       const uint8_t digest[PD_DIGEST_BYTES]);
    /* The checkpoint that the node began with was replayed from the base model: PD_AUDIT_EQUAL, or
     * PD_AUDIT_DIFFERS, and the model is now what replay gives. */
    void (*audited)(void *ctx, pd_audit_state state);
} pd_trainer_hooks;

typedef struct pd_trainer_conf {
    const pd_manifest *manifest;
    pd_ledger *ledger;
    const pd_model *model;
    const pd_space *space;
    pd_replica *replica;   /* borrowed until pd_trainer_stop returns */
    pd_subset train, held; /* held may be empty */
    bool project; /* bytes from gradients, not from loss pairs; the model does reverse mode */
    uint32_t local_steps;   /* batches a gradient, >= 1; project only */
    uint32_t batch_records; /* examples a probe, or a local step */
    uint32_t batch_tokens;  /* capacity of a batch */
    uint32_t probes;        /* directions a batch */
    uint64_t records;       /* own records to make in all; UINT64_MAX: no end */
    uint64_t seed;
    bool audit; /* the replica began with a checkpoint that is not audited yet */
    pd_trainer_hooks hooks;
} pd_trainer_conf;

typedef enum pd_trainer_state {
    PD_TRAINER_STARTING, /* the first held-out loss */
    PD_TRAINER_WAITING,  /* the core does not let it speak */
    PD_TRAINER_TRAINING,
    PD_TRAINER_PAUSED,
    PD_TRAINER_DONE,    /* all its records are made */
    PD_TRAINER_STOPPED, /* its held-out loss rose for long: it follows and does not speak */
} pd_trainer_state;
extern const char *const pd_trainer_state_names[];

typedef struct pd_trainer_status {
    pd_trainer_state state;
    uint64_t made;                   /* own records since start */
    uint64_t next_step;              /* step of the next own record */
    uint64_t not_finite;             /* probes that gave no byte */
    uint64_t records;                /* sealed records in the model */
    uint8_t digest[PD_DIGEST_BYTES]; /* of exactly those */
    double loss;                     /* of recent batches, smoothed; NAN before the first */
    double probe_s;                  /* seconds a record, smoothed; 0 before the first */
    uint64_t tokens;                 /* of one side, all batches */
    pd_loss held_first, held_now;    /* units 0: none yet */
    double held_best;
    uint64_t held_at; /* records in the model at held_now */
    uint64_t audited; /* records that the audit has replayed; 0 while there is none */
    bool waits;       /* the model needs records from before a base, so it stands still */
} pd_trainer_status;

PD_CHECKED pd_err pd_trainer_start(const pd_trainer_conf *conf, pd_trainer **out);
/* End the thread after the probe or local step it is in, with a last checkpoint; frees.  NULL is fine. */
void pd_trainer_stop(pd_trainer *t);

/* From the core's thread: may it speak, as whom, from which step on; the ledger grew; the core did
 * not take a record and stands at `step`.
 */
void pd_trainer_speak(pd_trainer *t, bool may, const pd_author *author);
void pd_trainer_wake(pd_trainer *t);
void pd_trainer_refused(pd_trainer *t, uint64_t step);

/* From people: pause is kept until resume, which also lets a stopped node speak again. */
void pd_trainer_pause(pd_trainer *t, bool pause);

void pd_trainer_status_get(pd_trainer *t, pd_trainer_status *out);

/* Run fn on the trainer's thread, between probes; it must not keep what it is given.  One question
 * at a time. Errors: PD_EAGAIN (another one is being answered).
 */
typedef void pd_trainer_question(void *ctx, pd_replica *r, const pd_space *space);
PD_CHECKED pd_err pd_trainer_ask(pd_trainer *t, pd_trainer_question *fn, void *ctx);

#endif
