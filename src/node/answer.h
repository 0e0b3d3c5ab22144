/* answer.h - the handlers of the control socket that have a file of their own; private to src/node.
 * What each request and reply holds is in peerd/control.h; ctx is the pd_node.
 */
#ifndef PD_ANSWER_H
#define PD_ANSWER_H

#include "node.h"

/* answer_status.c */
pd_control_handler pd_answer_status;
const char *pd_answer_member(pd_member_state m); /* as replies call it */
const char *pd_answer_link(pd_link_state l);

/* answer_ledger.c */
pd_control_handler pd_answer_members, pd_answer_log;

/* answer_health.c */
pd_control_handler pd_answer_health;

/* answer_ban.c */
pd_control_handler pd_answer_ban, pd_answer_rotate;

/* question.c: answered by the trainer's thread. */
pd_control_handler pd_answer_verify, pd_answer_export;
/* answer_store.c: answered by the store's thread. */
pd_control_handler pd_answer_backup, pd_answer_check;

#endif
