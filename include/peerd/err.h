/* err.h - one list of error codes, one text each, and a line that names the cause.
 *
 * Whose fault is it?  Ours: assert (kept in release builds).  The machine's, a file's or a peer's: a
 * pd_err that must be checked; outputs stay untouched.  The function that knows the cause says it with
 * pd_fail(); only the two main programs print it.  The text is kept per thread, like errno, so that
 * deep parsers need no extra argument and a caller that only forwards the code loses nothing.
 */
#ifndef PEERD_ERR_H
#define PEERD_ERR_H

#if defined(__GNUC__)
#define PD_CHECKED __attribute__((warn_unused_result))
#define PD_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define PD_CHECKED
#define PD_PRINTF(f, a)
#endif

typedef enum pd_err {
    PD_OK = 0,
    PD_EIO,          /* the disk or a socket failed */
    PD_EFULL,        /* no space left (disk, or a bounded table) */
    PD_ENOMEM,       /* memory could not be had */
    PD_ENOENT,       /* a file, key or record is not there */
    PD_EEXIST,       /* it is there already */
    PD_EFORMAT,      /* bytes from outside do not parse: truncated, out of range, inconsistent */
    PD_EUNSUPPORTED, /* well formed, but a kind we do not do; the text names it */
    PD_EMISMATCH,    /* two things that must agree do not (digest, run, shape) */
    PD_EAUTH,        /* a signature, key or ticket is not valid here */
    PD_EAGAIN,       /* not now: back-pressure */
    PD_EGONE,        /* the peer or session is no more */
    PD_EBUSY,        /* someone else holds it (port, node directory) */
    PD_EUSAGE,       /* the person asked for something that makes no sense */
    PD_ENUMERIC,     /* a loss or gradient is not finite */
} pd_err;

/* Say what failed and what to do about it; returns `code`, so that `return pd_fail(PD_EIO, ...)` reads well.
 *
 *   code  in  the error, not PD_OK
 *   fmt   in  lower case, no full stop, the cause and the way out, without the program's name
 */
pd_err pd_fail(pd_err code, const char *fmt, ...) PD_PRINTF(2, 3);

/* Put `fmt...: ` before the text of the last pd_fail on this thread and return its code again; how a caller
 * adds the file or peer it was working on.
 */
pd_err pd_fail_in(pd_err code, const char *fmt, ...) PD_PRINTF(2, 3);

/* Return the text of the last pd_fail on this thread, borrowed until the next one.  Never NULL. */
const char *pd_fail_text(void);

/* Return the general text of a code ("no space left"), a constant. */
const char *pd_err_text(pd_err code);

/* Exit status of a failed command: 2 for PD_EUSAGE, else 1 (75 and 74 are said where they are used). */
int pd_err_exit(pd_err code);

#endif
