/* tokenizer_encode.c - a text's way to ids: special tokens, words, merges.
 *
 * Special tokens are cut out of the text first: of a GGUF file the longest first, as llama.cpp
 * does; of a tokenizer.json from left to right, the longest where several begin, as its library
 * does, and those that it calls normalised in a second turn, from the normalised text.  What is
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

/* The special token that begins at p, the longest, or TOK_NONE. */
static uint32_t special_here(const pd_tokenizer *t, const char *p, size_t n, bool special,
                             bool late) {
    unsigned first = (uint8_t)*p;
    for (uint32_t i = t->special_at[first]; i < t->special_at[first + 1]; i++) {
        uint32_t id = t->specials[i];
        pd_str s = t->text[id];
        if ((special || t->type[id] == TOK_USER) && t->late[id] == late && s.n <= n &&
            memcmp(s.p, p, s.n) == 0)
            return id;
    }
    return TOK_NONE;
}

static pd_err cut_leftmost(const pd_tokenizer *t, const char *p, size_t n, bool special, bool late,
                           fragments *out) {
    pd_err e = PD_OK;
    size_t from = 0;
    for (size_t i = 0; !e && i < n;) {
        uint32_t id = special_here(t, p + i, n - i, special, late);
        if (id == TOK_NONE) {
            i++;
            continue;
        }
        e = add_fragment(out, (fragment){p + from, i - from, TOK_NONE});
        if (!e)
            e = add_fragment(out, (fragment){p + i, 0, id});
        from = i += t->text[id].n;
    }
    return e ? e : add_fragment(out, (fragment){p + from, n - from, TOK_NONE});
}

/* Does a stretch begin with a space, however spelled? */
static bool begins_with_space(const pd_tokenizer *t, const char *p, size_t n) {
    return *p == ' ' || (t->kind == TOK_SPM && n >= 3 && memcmp(p, "\xe2\x96\x81", 3) == 0);
}

/* SPM: the words of an escaped text, each from its U+2581 on. */
static pd_err merge_split(const pd_tokenizer *t, tok_work *w, const char *p, size_t n) {
    pd_err e = PD_OK;
    while (!e && n) {
        const char *next = n > 1 ? memmem(p + 1, n - 1, "\xe2\x96\x81", 3) : NULL;
        size_t k = next ? (size_t)(next - p) : n;
        e = tok_merge_text(t, w, p, k);
        p += k;
        n -= k;
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
    pd_err e = (t->splits_space ? merge_split : tok_merge_text)(t, w, escaped, k);
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

/* BPE: the words, of the text with a space before it where it is to have one. */
static pd_err merge_words(const pd_tokenizer *t, tok_work *w, const char *p, size_t n, bool space) {
    word_ctx c = {t, w};
    if (!space)
        return tok_split_each(t->split, p, n, merge_word, &c);
    char *copy = malloc(n + 1);
    if (!copy)
        return pd_fail(PD_ENOMEM, "no memory to tokenise a text of %zu bytes", n);
    copy[0] = ' ';
    memcpy(copy + 1, p, n);
    pd_err e = tok_split_each(t->split, copy, n + 1, merge_word, &c);
    free(copy);
    return e;
}

/* Where a stretch of text stands: at the text's very beginning, behind a special token, or neither.
 */
typedef enum place { PLACE_WITHIN, PLACE_ANEW, PLACE_FIRST } place;

static pd_err encode_plain(const pd_tokenizer *t, tok_work *w, const char *p, size_t n, place at) {
    bool space = at != PLACE_WITHIN && t->space != TOK_SPACE_NONE &&
                 (t->space != TOK_SPACE_FIRST || at == PLACE_FIRST) &&
                 (t->space == TOK_SPACE_ALWAYS || !begins_with_space(t, p, n));
    return (t->kind == TOK_BPE ? merge_words : merge_escaped)(t, w, p, n, space);
}

/* What is left between the tokens that are looked for first: normalised, searched for the others.
 */
static pd_err encode_rest(const pd_tokenizer *t, tok_work *w, const char *p, size_t n, bool special,
                          place at) {
    fragments v = {0};
    char *form = NULL;
    pd_err e = t->nfc ? tok_nfc(p, n, &form, &n) : PD_OK;
    if (!e)
        e = cut_leftmost(t, t->nfc ? form : p, n, special, true, &v);
    for (size_t i = 0; !e && i < v.n; i++) {
        const fragment *f = &v.p[i];
        e = f->id != TOK_NONE ? tok_append(&w->out, &f->id, 1)
                              : encode_plain(t, w, f->p, f->n, i ? PLACE_ANEW : at);
    }
    free(v.p);
    free(form);
    return e;
}

static pd_err encode_fragments(const pd_tokenizer *t, tok_work *w, const fragments *v, bool special,
                               place at) {
    pd_err e = PD_OK;
    for (size_t i = 0; !e && i < v->n; i++) {
        const fragment *f = &v->p[i];
        if (f->id != TOK_NONE)
            e = tok_append(&w->out, &f->id, 1);
        else if (t->json)
            e = encode_rest(t, w, f->p, f->n, special, at);
        else
            e = encode_plain(t, w, f->p, f->n, at);
        at = f->id != TOK_NONE ? PLACE_ANEW : PLACE_WITHIN; /* a special token starts a text anew */
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
    pd_err e = PD_OK;
    if (n)
        e = t->json ? cut_leftmost(t, p, n, special, false, &v)
                    : cut_specials(t, p, n, special, &v);
    if (!e)
        e = encode_fragments(t, &w, &v, special, first ? PLACE_FIRST : PLACE_WITHIN);
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
