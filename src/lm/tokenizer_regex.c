/* tokenizer_regex.c - the expressions of tokenizer.json in PCRE2's words.
 *
 * They are written for Oniguruma with Ruby's syntax.  The two languages agree on what tokenizers
 * use, with exceptions that would cut texts elsewhere without a word: \s and \h, anchors (lines in
 * Ruby), {n,m}+ (possessive here, a repetition there), sets within sets, && in them.  So an
 * expression is walked through and only what is known to mean the same passes; \s, \S and \d are
 * written out, because PCRE2's are ASCII's or have U+180E besides.
 */
#include "tok.h"
#include "utf8.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

typedef struct walk {
    const char *p; /* what is left of the expression */
    char *out;
    bool in_class;
} walk;

enum { GROWTH = 100 }; /* bytes that one byte may become: "[^" TOK_WHITE "]" */

static void put(walk *w, const char *s, size_t n) {
    memcpy(w->out, s, n);
    w->out += n;
    *w->out = 0;
}

static void put_text(walk *w, const char *s) {
    put(w, s, strlen(s));
}

/* Copy n bytes and step over them. */
static bool copy(walk *w, size_t n) {
    put(w, w->p, n);
    w->p += n;
    return true;
}

/* Step over n bytes that became `s`. */
static bool become(walk *w, size_t n, const char *s) {
    put_text(w, s);
    w->p += n;
    return true;
}

/* Length of \p{Name}, or 0. */
static size_t property(const char *p) {
    size_t n = 2;
    if (p[n++] != '{')
        return 0;
    while (isalpha((unsigned char)p[n]) || p[n] == '_')
        n++;
    return p[n] == '}' && n > 3 ? n + 1 : 0;
}

static bool escape(walk *w) {
    char c = w->p[1];
    size_t n = 0;
    if (c == 's')
        return become(w, 2, w->in_class ? TOK_WHITE : "[" TOK_WHITE "]");
    if (c == 'S' && !w->in_class)
        return become(w, 2, "[^" TOK_WHITE "]");
    if (c == 'd')
        return become(w, 2, "\\p{Nd}");
    if ((c == 'p' || c == 'P') && (n = property(w->p)) != 0)
        return copy(w, n);
    return c && (strchr("rnt", c) || ispunct((unsigned char)c)) ? copy(w, 2) : false;
}

static bool within_class(walk *w) {
    if (w->p[0] == '\\')
        return escape(w);
    if (w->p[0] == '[' || (w->p[0] == '&' && w->p[1] == '&'))
        return false;
    if (w->p[0] == ']')
        w->in_class = false;
    return copy(w, 1);
}

static bool group(walk *w) {
    static const char *const kinds[] = {"(?:", "(?=", "(?!", "(?i:", "(?<=", "(?<!"};
    if (w->p[1] != '?')
        return w->p[1] != '*' && copy(w, 1);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strncmp(w->p, kinds[i], strlen(kinds[i])) == 0)
            return copy(w, strlen(kinds[i]));
    return false;
}

static bool outside_class(walk *w) {
    switch (w->p[0]) {
    case '\\':
        return escape(w);
    case '[':
        w->in_class = true;
        copy(w, w->p[1] == '^' ? 2 : 1);
        return w->p[0] != ']';
    case '(':
        return group(w);
    case '{':
        return isdigit((unsigned char)w->p[1]) && copy(w, 1);
    case '}':
        return w->p[1] != '+' && w->p[1] != '?' && copy(w, 1);
    case '.':
    case '^':
    case '$':
        return false;
    default:
        return copy(w, 1);
    }
}

pd_err tok_regex(const char *pattern, char **out) {
    char shown[PD_SHOW_ROOM], *p = malloc(strlen(pattern) * GROWTH + 1);
    walk w = {.p = pattern, .out = p};
    if (!p)
        return pd_fail(PD_ENOMEM, "no memory for a pattern");
    *p = 0;
    while (*w.p)
        if (!(w.in_class ? within_class(&w) : outside_class(&w))) {
            free(p);
            return pd_fail(PD_EUNSUPPORTED, "the pattern ...%s is not supported from there on",
                           pd_show(w.p, strlen(w.p), shown));
        }
    *out = p;
    return PD_OK;
}
