/* err.c - the text of the last failure, one a thread; see err.h for whose fault is what. */
#include "peerd/err.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char text[512];

pd_err pd_fail(pd_err code, const char *fmt, ...) {
    assert(code != PD_OK);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return code;
}

pd_err pd_fail_in(pd_err code, const char *fmt, ...) {
    assert(code != PD_OK);
    char line[sizeof text];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof line)
        n = (int)sizeof line - 1;
    snprintf(line + n, sizeof line - (size_t)n, ": %s", pd_fail_text());
    memcpy(text, line, sizeof text);
    return code;
}

const char *pd_fail_text(void) {
    return text[0] ? text : "no cause was given";
}

const char *pd_err_text(pd_err code) {
    switch (code) {
    case PD_OK:
        return "done";
    case PD_EIO:
        return "disk or socket failure";
    case PD_EFULL:
        return "no space left";
    case PD_ENOMEM:
        return "out of memory";
    case PD_ENOENT:
        return "not found";
    case PD_EEXIST:
        return "exists already";
    case PD_EFORMAT:
        return "malformed data";
    case PD_EUNSUPPORTED:
        return "not supported";
    case PD_EMISMATCH:
        return "does not match";
    case PD_EAUTH:
        return "not authentic";
    case PD_EAGAIN:
        return "try again";
    case PD_EGONE:
        return "peer is gone";
    case PD_EBUSY:
        return "in use";
    case PD_EUSAGE:
        return "wrong usage";
    case PD_ENUMERIC:
        return "not a finite number";
    }
    return "unknown error";
}

int pd_err_exit(pd_err code) {
    return code == PD_EUSAGE ? 2 : 1;
}
