/* tokenizer_norm.c - Unicode's normalisation form C.  The only door to utf8proc.h. */
#include "tok.h"
#include "utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

typedef struct text {
    char *p;
    size_t n, room;
} text;

static pd_err append(text *t, const void *p, size_t n) {
    if (n > t->room - t->n) {
        size_t room = t->n + n + t->room / 2 + 16;
        char *more = realloc(t->p, room);
        if (!more)
            return pd_fail(PD_ENOMEM, "no memory to normalise a text");
        t->p = more;
        t->room = room;
    }
    if (n)
        memcpy(t->p + t->n, p, n);
    t->n += n;
    return PD_OK;
}

static pd_err append_form(text *t, const char *p, size_t n) {
    utf8proc_uint8_t *form = NULL;
    utf8proc_ssize_t k = utf8proc_map((const utf8proc_uint8_t *)p, (utf8proc_ssize_t)n, &form,
                                      UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (k < 0)
        return pd_fail(PD_ENOMEM, "cannot normalise a text of %zu bytes: %s", n,
                       utf8proc_errmsg(k));
    pd_err e = append(t, form, (size_t)k);
    free(form);
    return e;
}

pd_err tok_nfc(const char *p, size_t n, char **out, size_t *m) {
    text t = {0};
    pd_err e = PD_OK;
    while (!e && n) {
        size_t good = pd_utf8_span(p, n), bad = good < n;
        if (good)
            e = append_form(&t, p, good);
        if (!e)
            e = append(&t, p + good, bad);
        p += good + bad;
        n -= good + bad;
    }
    if (e) {
        free(t.p);
        return e;
    }
    *out = t.p; /* NULL for an empty text */
    *m = t.n;
    return PD_OK;
}
