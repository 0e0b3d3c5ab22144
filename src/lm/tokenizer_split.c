/* tokenizer_split.c - byte-level BPE's words: the pre-tokenizers, by PCRE2.  The only door to
 * pcre2.h.
 *
 * A pre-tokenizer is a list of patterns.  Each pattern cuts every piece that the ones before it
 * left: its matches are pieces, and so is what stands between them.  A pattern sees one piece only,
 * so that "a 1" under `smollm` is "a", " ", "1": the digit is cut off first and the space is then
 * at an end.
 *
 * Bytes that are not UTF-8 are words of their own.  The text is checked here once, because PCRE2
 * would check the rest of the text before every match, which is quadratic.  No JIT: its code reads
 * past a text's end, where valgrind sees it.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "tok.h"
#include "utf8.h"

#include <assert.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

/* White space as Unicode defines it.  PCRE2's \s takes U+180E besides, which no tokenizer was
 * trained with. */
#define SPACE                                                                                      \
    "\\t-\\r "                                                                                     \
    "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
/* GPT-2's pattern, as its authors published it. */
#define GPT2                                                                                       \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" SPACE "\\p{L}\\p{N}]+|[" SPACE              \
    "]+(?![^" SPACE "])|[" SPACE "]+"

enum { PATTERNS_MAX = 4 };

static const struct {
    const char *name;
    const char *patterns[PATTERNS_MAX];
} known[] = {
    {"gpt-2", {GPT2}},
    {"smollm", {"\\p{N}", GPT2}},
    {"default", {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
};

struct tok_split {
    pcre2_code *patterns[PATTERNS_MAX];
    int n;
};

pd_err tok_split_open(pd_str pre, tok_split **out) {
    char shown[PD_SHOW_ROOM];
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (pre.n != strlen(known[i].name) || memcmp(pre.p, known[i].name, pre.n) != 0)
            continue;
        tok_split *s = calloc(1, sizeof *s);
        while (s && s->n < PATTERNS_MAX && known[i].patterns[s->n]) {
            int code;
            PCRE2_SIZE at;
            pcre2_code *c = pcre2_compile((PCRE2_SPTR)known[i].patterns[s->n],
                                          PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, NULL);
            if (!c) {
                assert(code == PCRE2_ERROR_HEAP_FAILED); /* the patterns are ours */
                tok_split_close(s);
                s = NULL;
                break;
            }
            s->patterns[s->n++] = c;
        }
        if (!s)
            return pd_fail(PD_ENOMEM, "no memory for the tokenizer's patterns");
        *out = s;
        return PD_OK;
    }
    return pd_fail(PD_EUNSUPPORTED,
                   "pre-tokenizer %s is not supported (gpt-2, smollm and default are)",
                   pd_show(pre.p, pre.n, shown));
}

void tok_split_close(tok_split *s) {
    if (!s)
        return;
    for (int i = 0; i < s->n; i++)
        pcre2_code_free(s->patterns[i]);
    free(s);
}

typedef struct cutter {
    const tok_split *split;
    pcre2_match_data *match;
    tok_word *word;
    void *ctx;
} cutter;

static pd_err cut(const cutter *c, int level, const char *p, size_t n) {
    if (n == 0)
        return PD_OK;
    if (level == c->split->n)
        return c->word(c->ctx, p, n);
    pd_err e = PD_OK;
    size_t at = 0;
    while (!e && at < n) {
        int rc = pcre2_match(c->split->patterns[level], (PCRE2_SPTR)p, n, at, PCRE2_NO_UTF_CHECK,
                             c->match, NULL);
        if (rc == PCRE2_ERROR_NOMATCH)
            return cut(c, level + 1, p + at, n - at);
        if (rc < 0)
            return pd_fail(PD_ENOMEM, "no memory to cut a text of %zu bytes into words", n);
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(c->match);
        size_t start = span[0], end = span[1]; /* the next level writes there */
        assert(start >= at && end > start);
        e = cut(c, level + 1, p + at, start - at);
        if (!e)
            e = cut(c, level + 1, p + start, end - start);
        at = end;
    }
    return e;
}

pd_err tok_split_each(const tok_split *s, const char *p, size_t n, tok_word *word, void *ctx) {
    cutter c = {s, pcre2_match_data_create(1, NULL), word, ctx};
    if (!c.match)
        return pd_fail(PD_ENOMEM, "no memory to cut a text into words");
    pd_err e = PD_OK;
    while (!e && n) {
        size_t good = pd_utf8_span(p, n), bad = 0;
        while (good + bad < n && pd_utf8_char(p + good + bad, n - good - bad) == 0)
            bad++;
        e = cut(&c, 0, p, good);
        if (!e && bad)
            e = word(ctx, p + good, bad);
        p += good + bad;
        n -= good + bad;
    }
    pcre2_match_data_free(c.match);
    return e;
}
