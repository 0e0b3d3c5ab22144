/* question.h - requests that another thread answers, one at a time; private to src/node.
 *
 * The trainer's thread owns the replica, the store's thread the database.  A handler makes a
 * question and asks one of them; it fills `reply` and calls pd_question_done; the answer comes back
 * through the inbox.
 */
#ifndef PD_QUESTION_H
#define PD_QUESTION_H

#include "export_kind.h"
#include "node.h"
#include "peerd/ckpt.h"

enum { PD_QUESTION_TEXT = 512 };

typedef struct pd_question {
    pd_node *n; /* on other threads: inbox, ledger, what of the site does not
                 * change, and of ckpts what is to be reproduced */
    uint64_t call, asked_ms;
    pd_export_kind kind;      /* export */
    bool quick;               /* check */
    char out[PD_CONFIG_PATH]; /* export, backup */
    pd_err err;
    char text[PD_QUESTION_TEXT]; /* pd_fail_text is of one thread */
    cJSON *reply;
    /* checkpoints (ckpts.c): what was made, or what reproducing another's has shown */
    uint8_t *file; /* the question's */
    size_t file_size;
    pd_ckpt_name name;
    pd_ckpt_verdict verdict;
    const char *why;
    void (*then)(struct pd_question *q); /* on the loop, before the answer leaves; NULL: nothing */
} pd_question;

/* NULL and pd_fail without memory. */
pd_question *pd_question_new(void);
/* Hand q over; call 0: nobody waits for the answer.  takes q.  PD_EAGAIN: the answer will follow;
 * else it is refused. */
PD_CHECKED pd_err pd_question_trainer(pd_node *n, uint64_t call, pd_question *q,
                                      pd_trainer_question *fn);
PD_CHECKED pd_err pd_question_store(pd_node *n, uint64_t call, pd_question *q,
                                    pd_storer_question *fn);
/* On the thread that was asked: q is answered, with pd_fail_text() if e says so. */
void pd_question_done(pd_question *q, pd_err e);
/* After the other threads have stopped: forget what was never answered. */
void pd_question_drop(pd_node *n);

/* An absolute path from a request.  Errors: PD_EUSAGE. */
PD_CHECKED pd_err pd_question_path(const cJSON *request, const char *name,
                                   char out[PD_CONFIG_PATH]);

#endif
