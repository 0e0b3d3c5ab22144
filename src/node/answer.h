/* answer.h - the handlers of the control socket that have a file of their own; private to src/node.
 * What each request and reply holds is in peerd/control.h; ctx is the pd_node.
 */
#ifndef PD_ANSWER_H
#define PD_ANSWER_H

#include "node.h"

/* answer_status.c */
pd_control_handler pd_answer_status;
void pd_answer_rates(pd_node *n); /* brings them up to date, once a second */

/* answer_ban.c */
pd_control_handler pd_answer_ban, pd_answer_rotate;

/* question.c: answered by the trainer's thread, one at a time. */
pd_control_handler pd_answer_verify, pd_answer_export;
void pd_answer_drop(pd_node *n); /* after the trainer has stopped: what it never answered */

#endif
