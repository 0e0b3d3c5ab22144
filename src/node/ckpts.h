/* ckpts.h - a running node's part in checkpoints: make one when it is its turn, reproduce those of
 * others before it attests them, serve the files, and see the audit of its own beginning through;
 * private to src/node.
 *
 *   turn or `peerctl checkpoint` ─> trainer: make ─┐
 *                                                  ├─> keep and serve the file, write the CKPT
 * record CKPT record of another ─> fetch ─> trainer: reproduce ─┘        (or shout, and attest
 * nothing)
 *
 * On the loop's thread; what takes long is a question to the trainer's.
 */
#ifndef PD_CKPTS_H
#define PD_CKPTS_H

#include "looked.h"
#include "peerd/control.h"

enum { PD_CKPTS_KEPT = 2, PD_CKPT_WHY = 512 };

typedef struct pd_ckpts {
    uint8_t *kept[PD_CKPTS_KEPT]; /* files served, the newest first */
    size_t kept_size[PD_CKPTS_KEPT];
    uint8_t kept_digest[PD_CKPTS_KEPT][32];
    uint8_t *begun; /* the file that this node began with, until its audit is done */
    size_t begun_size;
    pd_ckpt_name want; /* the file being fetched or reproduced */
    uint8_t *got;
    uint64_t n_got, until_ms, next_ms;
    bool fetching, due,
        asked; /* fetching: want has its bytes in got; asked: the trainer is at work */
    pd_looked looked;
    uint32_t again;        /* times in a row that not all of want's records were here */
    uint32_t wrong;        /* checkpoints of others that the records do not give */
    char why[PD_CKPT_WHY]; /* of the last of them */
} pd_ckpts;

struct pd_node;
/* What the store keeps; before its thread starts. */
void pd_ckpts_open(struct pd_node *n);
void pd_ckpts_serve(struct pd_node *n); /* through its ports */
void pd_ckpts_close(struct pd_node *n);
/* Look what there is to do; every turn, works once a second. */
void pd_ckpts_turn(struct pd_node *n);
/* The core's actions. */
void pd_ckpts_due(struct pd_node *n);
void pd_ckpts_piece(struct pd_node *n, const pd_action *a);
void pd_ckpts_prefix(struct pd_node *n, const pd_action *a);
/* The audit is done (PD_AUDIT_EQUAL or PD_AUDIT_DIFFERS); on the loop. */
void pd_ckpts_audited(struct pd_node *n, uint64_t state);
/* `peerctl checkpoint`. */
pd_control_handler pd_answer_checkpoint;

#endif
