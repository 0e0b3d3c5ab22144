/* join.h - a newcomer's way into a run: ticket in; manifest, control logs and basis file out;
 * private to src/node.
 *
 * The two pure machines of core.h are driven one after the other over one transport: pd_join with
 * the ticket's one-time key until this node is a member, then, as that member, a pd_core that makes
 * no record and asks for none: it fetches the basis file, and, where that is the shorter way, a
 * checkpoint.  Nothing is written: a node exists once its folder does (cmd_join.c), and until then
 * its key is nowhere but in memory.
 */
#ifndef PD_JOIN_H
#define PD_JOIN_H

#include "catchup.h"
#include "config.h"
#include "peerd/ckpt.h"
#include "peerd/identity.h"
#include "peerd/ledger.h"
#include "peerd/manifest.h"
#include "peerd/ticket.h"

typedef struct pd_joined {
    char manifest_text[PD_MANIFEST_MAX];
    size_t manifest_bytes;
    pd_manifest manifest;
    uint8_t run[32];
    pd_ledger *ledger;    /* every control log, and what else was told meanwhile */
    uint32_t incarnation; /* this node's own */
    uint8_t *basis;  /* aligned space: the basis file, checked against the manifest; else NULL */
    pd_addr inviter; /* where it was reached */
    uint8_t *ckpt;   /* the checkpoint that the ledger's logs begin at; NULL: they are replayed */
    pd_ckpt_name ckpt_name;
    uint32_t voices; /* that it rests on */
} pd_joined;

/* Is this the run that the person meant?  Asked once the manifest is there, before the basis file
 * is fetched.
 */
typedef pd_err pd_join_check(void *ctx, const pd_manifest *m);

/* Join.  gives what is in *out; pd_joined_close frees it (a zeroed one is fine).  SIGINT and
 * SIGTERM end it.
 *
 * Errors: PD_EGONE (nobody answers, or stopped by a signal), PD_EAUTH (the ticket is used up or was
 * withdrawn; the inviter's bytes prove nothing), PD_EFULL (no place left), PD_EFORMAT, PD_ENOMEM,
 * and those of `check` and of pd_net_open.
 */
PD_CHECKED pd_err pd_join_run(const pd_ticket *t, const pd_identity *id, const pd_config *config,
                              pd_catch_up wish, pd_join_check *check, void *ctx, pd_joined *out);
void pd_joined_close(pd_joined *j);

#endif
