/* ctl.h - what the commands of peerctl share; one file a command. */
#ifndef CTL_H
#define CTL_H

#include "peerd/control.h"
#include "peerd/flags.h"

#include <limits.h>

typedef struct ctl {
    const char *dir; /* the node's folder, or NULL: not named */
} ctl;

/* argv[0] is "peerctl NAME"; the return value is the exit status. */
typedef int ctl_command(ctl *c, int argc, char **argv);
ctl_command ctl_status, ctl_members, ctl_log, ctl_journal, ctl_doctor, ctl_invite, ctl_join,
    ctl_leave, ctl_ban, ctl_rotate, ctl_pause, ctl_resume, ctl_verify, ctl_backup, ctl_checkpoint,
    ctl_export;

/* The line that every command's table of flags begins with. */
#define CTL_DIR_FLAG(c)                                                                            \
    { "dir", 'd', PD_FLAG_TEXT, &(c)->dir, 0, 0, "DIR", "the node's folder ($PEERD_DIR, else .)" }

/* Read a command's flags and its n further words into rest; *e: pd_flags_parse's.  True: help was
 * asked for, and has been printed. */
bool ctl_help(int argc, char **argv, const pd_flag *flags, const pd_command_help *text,
              const char **rest, size_t n, pd_err *e);

/* Print `peerctl: ` and the last pd_fail_text; the exit status. */
int ctl_fail(pd_err e);

/* Settle the node's folder: -d, $PEERD_DIR, or the current one if it holds a node. */
PD_CHECKED pd_err ctl_dir(ctl *c);
bool ctl_is_node(const char *dir);

/* Ask {"cmd": cmd} or the given request (taken).  gives *reply. */
PD_CHECKED pd_err ctl_ask(ctl *c, const char *cmd, cJSON *request, uint32_t timeout_ms,
                          cJSON **reply);

/* A command without words that asks one thing: flags, help, {"cmd": cmd}.  gives *reply; NULL: it
 * is done, and this is its exit status.
 */
int ctl_simple(ctl *c, int argc, char **argv, const pd_flag *flags, const pd_command_help *text,
               const char *cmd, uint32_t timeout_ms, cJSON **reply);

/* Fields of a reply: NAN, NULL, false where they are missing or null. */
double ctl_number(const cJSON *o, const char *name);
const char *ctl_text(const cJSON *o, const char *name);
bool ctl_true(const cJSON *o, const char *name);
/* The first 8 digits of a key; a text; "-" where there is none. */
const char *ctl_key(const char *hex);
const char *ctl_or_dash(const char *text);
/* Print a label, padded to `indent`, and a text beside it, broken at spaces for a terminal of 80
 * columns. */
void ctl_wrap(int indent, const char *label, const char *text);
/* Print a reply as JSON, without its envelope. */
void ctl_print_json(cJSON *reply);

/* A whole number, or "-" for NAN.  Of these texts up to 8 can be used in one statement. */
const char *ctl_count(double n);
/* At most 6 characters: "99999", "812k", "14.2M". */
const char *ctl_short(double n);
/* "812 B", "14.2 kB", "-" for NAN. */
const char *ctl_bytes(double bytes);
/* "350 ms", "12.5 s", "4 min 10 s", "3 h 5 min", "2 d 4 h". */
const char *ctl_age(double ms);

/* Print the reply to `status`, for a terminal of 80 columns. */
void ctl_print_status(const cJSON *status);

/* A path as the node's process sees it.  Errors: PD_EUSAGE (too long), PD_EIO. */
PD_CHECKED pd_err ctl_absolute(const char *path, char out[PATH_MAX]);

/* Become `peerd ARGS...`, the one beside this program, else on PATH.  Returns only on failure. */
int ctl_exec_peerd(const char *const args[]);

enum { CTL_QUICK_MS = 10000, CTL_LONG_MS = 1800 * 1000 };

#endif
