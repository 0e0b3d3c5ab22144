/* flags.h - a command's flags as one table: parsing, its errors and its help come from the same
 * lines.
 *
 * `--name VALUE`, `--name=VALUE`, `--name` for a switch, `-x` where the table says so; `--` ends
 * flags; the rest are positional.  An unknown flag, a missing value or one out of range is
 * PD_EUSAGE with the way out.
 */
#ifndef PEERD_FLAGS_H
#define PEERD_FLAGS_H

#include "peerd/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum pd_flag_kind {
    PD_FLAG_SWITCH,
    PD_FLAG_TEXT,
    PD_FLAG_U32,
    PD_FLAG_U64,
    PD_FLAG_REAL,
    PD_FLAG_LIST
} pd_flag_kind;

enum { PD_FLAG_LIST_MAX = 16 };

/* A flag that may be given several times. */
typedef struct pd_flag_list {
    const char *at[PD_FLAG_LIST_MAX];
    uint32_t n;
} pd_flag_list;

typedef struct pd_flag {
    const char *name; /* without dashes; NULL ends a table */
    char letter;      /* or 0 */
    pd_flag_kind kind;
    void *out; /* bool, const char *, uint32_t, uint64_t, double, pd_flag_list: left alone if not
                  given */
    double least, most; /* of numbers; both 0: any */
    const char *value;  /* in the help: "FILE" */
    const char *help;   /* one line */
} pd_flag;

typedef struct pd_command_help {
    const char *usage;   /* "peerd init DIR --model FILE ..." */
    const char *what;    /* a line or two */
    const char *example; /* one command line */
} pd_command_help;

/* Parse argv[1..]; argv[0] is the command's name.
 *
 *   positional  out  at most `most` arguments, *n of them, borrowed
 *
 * Errors: PD_EUSAGE.  *help is set (and nothing else is checked) if --help or -h is there; the
 * caller prints pd_flags_help.
 */
PD_CHECKED pd_err pd_flags_parse(int argc, char **argv, const pd_flag *flags,
                                 const char **positional, size_t least, size_t most, size_t *n,
                                 bool *help);

/* Print usage, text, flags and example on standard output. */
void pd_flags_help(const pd_command_help *h, const pd_flag *flags);

/* "90", "90s", "15m", "24h", "7d" as seconds.  Errors: PD_EUSAGE. */
PD_CHECKED pd_err pd_duration_parse(const char *text, uint64_t *seconds);

#endif
