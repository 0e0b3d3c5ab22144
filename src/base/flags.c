/* flags.c - command lines from a table; see flags.h. */
#include "peerd/flags.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pd_err put_number(const pd_flag *f, const char *text) {
    char *end;
    errno = 0;
    double x = strtod(text, &end);
    bool whole = f->kind != PD_FLAG_REAL;
    if (end == text || *end || errno || !isfinite(x) || (whole && (x != floor(x) || x < 0)))
        return pd_fail(PD_EUSAGE, "--%s takes a %snumber, not '%s'", f->name, whole ? "whole " : "",
                       text);
    if ((f->least != 0 || f->most != 0) && (x < f->least || x > f->most))
        return pd_fail(PD_EUSAGE, "--%s takes %.10g to %.10g, not %s", f->name, f->least, f->most,
                       text);
    if (f->kind == PD_FLAG_REAL)
        *(double *)f->out = x;
    else if (f->kind == PD_FLAG_U64 && x < 18446744073709551615.0)
        *(uint64_t *)f->out = strtoull(text, NULL, 10);
    else if (f->kind == PD_FLAG_U32 && x <= 4294967295.0)
        *(uint32_t *)f->out = (uint32_t)x;
    else
        return pd_fail(PD_EUSAGE, "--%s: %s is too large", f->name, text);
    return PD_OK;
}

static pd_err put(const pd_flag *f, const char *value) {
    pd_flag_list *list = f->out;
    switch (f->kind) {
    case PD_FLAG_SWITCH:
        *(bool *)f->out = true;
        return PD_OK;
    case PD_FLAG_TEXT:
        *(const char **)f->out = value;
        return PD_OK;
    case PD_FLAG_LIST:
        if (list->n == PD_FLAG_LIST_MAX)
            return pd_fail(PD_EUSAGE, "--%s can be given %d times at most", f->name,
                           PD_FLAG_LIST_MAX);
        list->at[list->n++] = value;
        return PD_OK;
    case PD_FLAG_U32:
    case PD_FLAG_U64:
    case PD_FLAG_REAL:
        return put_number(f, value);
    }
    return pd_fail(PD_EUSAGE, "--%s is of no kind", f->name);
}

/* The flag that an argument names; *value is what stands behind '='. */
static const pd_flag *find(const pd_flag *flags, const char *arg, const char **value) {
    *value = NULL;
    for (const pd_flag *f = flags; f->name; f++) {
        size_t n = strlen(f->name);
        if (arg[1] == '-' && strncmp(arg + 2, f->name, n) == 0 &&
            (!arg[2 + n] || arg[2 + n] == '=')) {
            *value = arg[2 + n] ? arg + 3 + n : NULL;
            return f;
        }
        if (f->letter && arg[1] == f->letter && !arg[2])
            return f;
    }
    return NULL;
}

/* "-5" is a positional number, "-" alone a file. */
static bool is_flag(const char *arg) {
    return arg[0] == '-' && arg[1] && !(arg[1] >= '0' && arg[1] <= '9');
}

pd_err pd_flags_parse(int argc, char **argv, const pd_flag *flags, const char **positional,
                      size_t least, size_t most, size_t *n, bool *help) {
    const char *command = argv[0];
    size_t count = 0;
    bool ended = false;
    *help = false;
    for (int i = 1; i < argc && !ended; i++) {
        ended = strcmp(argv[i], "--") == 0;
        *help = *help || (!ended && (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0));
    }
    if (*help)
        return PD_OK;
    ended = false;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], *value;
        if (!ended && strcmp(arg, "--") == 0) {
            ended = true;
            continue;
        }
        if (ended || !is_flag(arg)) {
            if (count == most)
                return pd_fail(PD_EUSAGE, "'%s' is one argument too many (see: %s --help)", arg,
                               command);
            positional[count++] = arg;
            continue;
        }
        const pd_flag *f = find(flags, arg, &value);
        if (!f)
            return pd_fail(PD_EUSAGE, "unknown flag %s (see: %s --help)", arg, command);
        if (f->kind == PD_FLAG_SWITCH && value)
            return pd_fail(PD_EUSAGE, "--%s takes no value", f->name);
        if (f->kind != PD_FLAG_SWITCH && !value) {
            if (i + 1 == argc)
                return pd_fail(PD_EUSAGE, "--%s needs a value (%s)", f->name,
                               f->value ? f->value : "VALUE");
            value = argv[++i];
        }
        pd_err e = put(f, value);
        if (e)
            return e;
    }
    if (count < least)
        return pd_fail(PD_EUSAGE, "an argument is missing (see: %s --help)", command);
    *n = count;
    return PD_OK;
}

void pd_flags_help(const pd_command_help *h, const pd_flag *flags) {
    printf("usage: %s\n\n%s\n", h->usage, h->what);
    for (const pd_flag *f = flags; f->name; f++) {
        char left[64], letter[8] = "";
        if (f->letter)
            snprintf(letter, sizeof letter, "-%c, ", f->letter);
        snprintf(left, sizeof left, "%s--%s%s%s", letter, f->name, f->value ? " " : "",
                 f->value ? f->value : "");
        printf("%s  %-26s %s\n", f == flags ? "\n" : "", left, f->help);
    }
    printf("\nexample: %s\n", h->example);
}

pd_err pd_duration_parse(const char *text, uint64_t *seconds) {
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    uint64_t unit = *end == 0 || *end == 's' ? 1
                    : *end == 'm'            ? 60
                    : *end == 'h'            ? 3600
                    : *end == 'd'            ? 86400
                                             : 0;
    if (end == text || text[0] == '-' || errno || !unit || (*end && end[1]) || n > (1ull << 32))
        return pd_fail(PD_EUSAGE, "'%s' is not a duration (90s, 15m, 24h, 7d)", text);
    *seconds = n * unit;
    return PD_OK;
}
