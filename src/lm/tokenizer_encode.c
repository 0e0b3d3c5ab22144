/* tokenizer_encode.c - a text's way to ids: special tokens, words, merges.
 *
 * Special tokens are cut out of the text first, the longest first, as llama.cpp does; what is
 * between them goes word by word through the merges (BPE), or whole, with spaces spelled U+2581
 * (SPM).
 */
#include "peerd/tokenizer.h"
#include "tok.h"

#include <stdlib.h>
#include <string.h>

pd_err tok_append(tok_ids *v, const uint32_t *ids, size_t k) {
    if (k > v->room - v->n) {
        size_t room = v->n + k + v->room / 2 + 32;
        uint32_t *p = realloc(v->p, room * sizeof *p);
        if (!p)
            return pd_fail(PD_ENOMEM, "no memory for %zu token ids", room);
        v->p = p;
        v->room = room;
    }
    if (k)
        memcpy(v->p + v->n, ids, k * sizeof *ids);
    v->n += k;
    return PD_OK;
}

/* A stretch of text, or (id != TOK_NONE) a special token that stood there. */
typedef struct fragment {
    const char *p;
    size_t n;
    uint32_t id;
} fragment;

typedef struct fragments {
    fragment *p;
    size_t n, room;
} fragments;

static pd_err add_fragment(fragments *v, fragment f) {
    if (f.id == TOK_NONE && f.n == 0)
        return PD_OK;
    if (v->n == v->room) {
        size_t room = 2 * v->room + 8;
        fragment *p = realloc(v->p, room * sizeof *p);
        if (!p)
            return pd_fail(PD_ENOMEM, "no memory to tokenise a text");
        v->p = p;
        v->room = room;
    }
    v->p[v->n++] = f;
    return PD_OK;
}

/* Every fragment of `in` with one special token cut out of it. */
static pd_err cut_special(const pd_tokenizer *t, uint32_t id, const fragments *in, fragments *out) {
    pd_str s = t->text[id];
    pd_err e = PD_OK;
    for (size_t i = 0; !e && i < in->n; i++) {
        fragment f = in->p[i];
        const char *hit;
        while (!e && f.id == TOK_NONE && (hit = memmem(f.p, f.n, s.p, s.n)) != NULL) {
            e = add_fragment(out, (fragment){f.p, (size_t)(hit - f.p), TOK_NONE});
            if (!e)
                e = add_fragment(out, (fragment){hit, 0, id});
            f.n -= (size_t)(hit - f.p) + s.n;
            f.p = hit + s.n;
        }
        if (!e)
            e = add_fragment(out, f);
    }
    return e;
}

static pd_err cut_specials(const pd_tokenizer *t, const char *p, size_t n, bool special,
                           fragments *out) {
    bool has[256] = {false};
    for (size_t i = 0; i < n; i++)
        has[(uint8_t)p[i]] = true;
    pd_err e = add_fragment(out, (fragment){p, n, TOK_NONE});
    for (size_t i = 0; !e && i < t->n_specials; i++) {
        uint32_t id = t->specials[i];
        pd_str s = t->text[id];
        if ((!special && t->type[id] != TOK_USER) || !has[(uint8_t)s.p[0]] ||
            !memmem(p, n, s.p, s.n))
            continue;
        fragments next = {0};
        e = cut_special(t, id, out, &next);
        free(out->p);
        *out = next;
    }
    return e;
}

/* SPM: spaces as U+2581, one more before the text where the file wants it. */
static pd_err merge_escaped(const pd_tokenizer *t, tok_work *w, const char *p, size_t n,
                            bool space) {
    char *escaped = malloc(3 * n + 4);
    if (!escaped)
        return pd_fail(PD_ENOMEM, "no memory to tokenise a text of %zu bytes", n);
    size_t k = 0;
    for (size_t i = 0; i < n + space; i++) {
        char c = i < space ? ' ' : p[i - space];
        if (c == ' ') {
            memcpy(escaped + k, "\xe2\x96\x81", 3);
            k += 3;
        } else {
            escaped[k++] = c;
        }
    }
    pd_err e = tok_merge_text(t, w, escaped, k);
    free(escaped);
    return e;
}

typedef struct word_ctx {
    const pd_tokenizer *t;
    tok_work *w;
} word_ctx;

static pd_err merge_word(void *ctx, const char *p, size_t n) {
    const word_ctx *c = ctx;
    return tok_merge_text(c->t, c->w, p, n);
}

static pd_err encode_fragments(const pd_tokenizer *t, tok_work *w, const fragments *v, bool first) {
    pd_err e = PD_OK;
    word_ctx c = {t, w};
    for (size_t i = 0; !e && i < v->n; i++) {
        const fragment *f = &v->p[i];
        if (f->id != TOK_NONE)
            e = tok_append(&w->out, &f->id, 1);
        else if (t->kind == TOK_BPE)
            e = tok_split_each(t->split, f->p, f->n, merge_word, &c);
        else
            e = merge_escaped(t, w, f->p, f->n, first && t->adds_space);
        first = f->id != TOK_NONE; /* a special token starts a text anew */
    }
    return e;
}

static pd_err encode(const pd_tokenizer *t, const char *p, size_t n, bool special, bool first,
                     uint32_t **ids, size_t *count) {
    tok_work w = {0};
    fragments v = {0};
    if (n > PD_TOKENIZER_TEXT_MAX)
        return pd_fail(PD_EFORMAT,
                       "a text of %zu bytes is longer than the %d we take at once: split it", n,
                       PD_TOKENIZER_TEXT_MAX);
    pd_err e = n ? cut_specials(t, p, n, special, &v) : PD_OK;
    if (!e)
        e = encode_fragments(t, &w, &v, first);
    if (!e && !w.out.p) /* an empty text: still memory to free */
        e = (w.out.p = malloc(1)) ? PD_OK : pd_fail(PD_ENOMEM, "no memory to tokenise a text");
    free(v.p);
    tok_work_free(&w);
    if (e) {
        free(w.out.p);
        return e;
    }
    *ids = w.out.p;
    *count = w.out.n;
    return PD_OK;
}

pd_err pd_tokenizer_encode(const pd_tokenizer *t, const char *text, size_t n, bool special,
                           uint32_t **ids, size_t *count) {
    return encode(t, text, n, special, true, ids, count);
}

pd_err pd_tokenizer_encode_more(const pd_tokenizer *t, const char *text, size_t n, bool special,
                                uint32_t **ids, size_t *count) {
    return encode(t, text, n, special, false, ids, count);
}
