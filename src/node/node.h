/* node.h - everything one running node holds; private to src/node.
 *
 *   data > tokens > loss pair > byte > ledger > gossip > replay > weights          (all of it,
 * joined here)
 *
 * Threads: this loop (core, transport, control socket); the store (one SQLite connection); the
 * trainer (and oneDNN's pool); libzmq's own. The store and the trainer answer through the inbox, a
 * bounded ring with an event descriptor.
 */
#ifndef PD_NODE_H
#define PD_NODE_H

#include "ckpts.h"
#include "config.h"
#include "peerd/control.h"
#include "peerd/core.h"
#include "peerd/ledger.h"
#include "peerd/net.h"
#include "ports.h"
#include "site.h"
#include "storer.h"
#include "trainer.h"
#include "watch.h"

#include <pthread.h>

enum { PD_INBOX_MAX = 8192, PD_DEFERRED_MAX = PD_ACTIONS_MAX + 64 };

typedef enum pd_mail_kind {
    PD_MAIL_GRADIENT,
    PD_MAIL_STORED,
    PD_MAIL_STORE_FAILED,
    PD_MAIL_ANSWER,
    PD_MAIL_AUDITED /* at: pd_audit_state */
} pd_mail_kind;

/* What another thread tells the loop. */
typedef struct pd_mail {
    pd_mail_kind kind;
    pd_author author;
    uint8_t stream, byte;
    uint64_t at;  /* step, or n */
    pd_err err;   /* STORE_FAILED */
    void *answer; /* ANSWER */
} pd_mail;

typedef struct pd_inbox {
    pthread_mutex_t lock;
    int fd; /* eventfd */
    uint32_t first, n;
    pd_mail at[PD_INBOX_MAX];
} pd_inbox;

typedef struct pd_run_opts {
    uint64_t records;       /* own records in all; UINT64_MAX: no end */
    uint64_t until_records; /* stop when the ledger holds so many of everyone; 0: never */
    uint32_t until_idle_s;  /* stop when own records are made and nothing new came for so long; 0:
                               never */
    uint32_t seal_ms, seal_records; /* 0: the manifest's budget */
    bool solo;                      /* alone: no transport, speak at once */
    bool quiet;                     /* no progress line */
} pd_run_opts;

typedef struct pd_node {
    pd_site *site;
    pd_run_opts opts;
    pd_ports ports; /* of core */
    pd_core *core;
    void *arena;
    pd_net *net;
    pd_control *control;
    pd_storer *storer;
    pd_trainer *trainer;
    pd_ckpts ckpts;
    pd_inbox inbox;
    pd_event deferred[PD_DEFERRED_MAX]; /* events that carrying out an action made */
    uint32_t n_deferred;
    pd_action actions[PD_ACTIONS_MAX];
    uint64_t last_news_ms;                   /* the ledger grew */
    uint64_t started_ms, core_ms;            /* core: since then it has heard of peers */
    uint64_t records_before, foreign_before; /* of answer.c: held when it started */
    pd_watch watch;
    bool stopping, stopped, leaving;
    int exit_status;
    void *question; /* of question.c: being answered by another thread */
} pd_node;

/* Keep SIGTERM and SIGINT for the loop.  Before the model is opened: its pool's threads inherit the
 * mask, and a signal that one of them took would end the process unsealed.
 */
void pd_node_hold_signals(void);
/* Run until stopped, signals held; the process' exit status.  site is borrowed. */
int pd_node_run(pd_site *site, const pd_run_opts *opts);

/* loop.c: one event through the core, its actions carried out, and whatever these made. */
void pd_node_step(pd_node *n, const pd_event *e);
void pd_node_stop(pd_node *n, bool leave);
void pd_inbox_put(pd_inbox *b, const pd_mail *m); /* any thread; waits while the ring is full */
bool pd_inbox_take(pd_inbox *b, pd_mail *m);

/* act.c */
void pd_node_act(pd_node *n, const pd_action *a);

/* answer.c: the handlers of the control socket (control.h says what each request and reply holds).
 */
pd_err pd_node_control_open(pd_node *n);
void pd_node_control_close(pd_node *n); /* after the trainer has stopped */
void pd_node_answered(pd_node *n, void *answer);
void pd_node_measure(pd_node *n); /* once a second: rates, state changes, expired invites */

#endif
