/* tokenizer_split.c - byte-level BPE's words: the pre-tokenizers, by PCRE2.  The only door to
 * pcre2.h.
 *
 * A pre-tokenizer is a list of patterns.  Each pattern cuts every piece that the ones before it
 * left: its matches are pieces, and so is what stands between them, unless that is dropped.  A
 * pattern sees one piece only, so that "a 1" under `smollm` is "a", " ", "1": the digit is cut off
 * first and the space is then at an end.
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

/* GPT-2's pattern, as its authors published it. */
#define GPT2                                                                                       \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" TOK_WHITE "\\p{L}\\p{N}]+|[" TOK_WHITE      \
    "]+(?![^" TOK_WHITE "])|[" TOK_WHITE "]+"

/* Llama 3's, and with `numbers` "\\p{N}" Qwen2's, as their authors published them. */
#define LLAMA3(numbers)                                                                            \
    "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" numbers            \
    "| ?[^" TOK_WHITE "\\p{L}\\p{N}]+[\\r\\n]*|[" TOK_WHITE "]*[\\r\\n]+|[" TOK_WHITE              \
    "]+(?![^" TOK_WHITE "])|[" TOK_WHITE "]+"

const char *const tok_split_gpt2 = GPT2;

enum { PATTERNS_MAX = 8, PATTERN_BYTES_MAX = 4096 };

static const struct {
    const char *name;
    bool llama3; /* its two rules besides */
    const char *patterns[PATTERNS_MAX];
} known[] = {
    {"gpt-2", false, {GPT2}},
    {"smollm", false, {"\\p{N}", GPT2}},
    {"qwen2", false, {LLAMA3("\\p{N}")}},
    {"llama-bpe", true, {LLAMA3("\\p{N}{1,3}")}},
    {"default", false, {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
};

struct tok_split {
    pcre2_code *patterns[PATTERNS_MAX];
    bool drops[PATTERNS_MAX];
    int n;
};

/* A pattern that may match nothing would cut between any two characters; no tokenizer means that.
 */
static pd_err refuse(const char *pattern, const char *why) {
    char shown[PD_SHOW_ROOM];
    return pd_fail(PD_EUNSUPPORTED, "the pattern %s is not supported: %s",
                   pd_show(pattern, strlen(pattern), shown), why);
}

pd_err tok_split_add(tok_split **split, const char *pattern, bool literal, bool drops) {
    char why[128];
    int code;
    uint32_t may_be_empty;
    PCRE2_SIZE at;
    tok_split *s = *split ? *split : calloc(1, sizeof *s);
    if (!s)
        return pd_fail(PD_ENOMEM, "no memory for the tokenizer's patterns");
    *split = s;
    if (s->n == PATTERNS_MAX || strlen(pattern) > PATTERN_BYTES_MAX)
        return refuse(pattern, s->n == PATTERNS_MAX ? "there are too many" : "it is too long");
    pcre2_code *c = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                  PCRE2_UTF | (literal ? PCRE2_LITERAL : 0), &code, &at, NULL);
    if (!c) {
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        return code == PCRE2_ERROR_HEAP_FAILED
                   ? pd_fail(PD_ENOMEM, "no memory for the tokenizer's patterns")
                   : refuse(pattern, why);
    }
    s->drops[s->n] = drops;
    s->patterns[s->n++] = c;
    if (pcre2_pattern_info(c, PCRE2_INFO_MATCHEMPTY, &may_be_empty) != 0 || may_be_empty)
        return refuse(pattern, "it matches nothing");
    return PD_OK;
}

pd_err tok_split_open(pd_str pre, tok_split **out, bool *llama3) {
    char shown[PD_SHOW_ROOM];
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (pre.n != strlen(known[i].name) || memcmp(pre.p, known[i].name, pre.n) != 0)
            continue;
        pd_err e = PD_OK;
        *llama3 = known[i].llama3;
        for (int k = 0; !e && k < PATTERNS_MAX && known[i].patterns[k]; k++)
            e = tok_split_add(out, known[i].patterns[k], false, false);
        assert(e != PD_EUNSUPPORTED); /* the patterns are ours */
        return e;
    }
    return pd_fail(PD_EUNSUPPORTED,
                   "pre-tokenizer %s is not supported (gpt-2, smollm, qwen2, llama-bpe and "
                   "default are)",
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

/* What PCRE2 gave up on: memory, or a pattern that tries too many ways (a file's may). */
static pd_err gave_up(int rc, size_t n) {
    if (rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_DEPTHLIMIT || rc == PCRE2_ERROR_HEAPLIMIT)
        return pd_fail(PD_EFORMAT, "the tokenizer's patterns take too long on a text of %zu bytes",
                       n);
    return pd_fail(PD_ENOMEM, "no memory to cut a text of %zu bytes into words", n);
}

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
        bool drops = c->split->drops[level];
        if (rc == PCRE2_ERROR_NOMATCH)
            return drops ? PD_OK : cut(c, level + 1, p + at, n - at);
        if (rc < 0)
            return gave_up(rc, n);
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(c->match);
        size_t start = span[0], end = span[1]; /* the next level writes there */
        assert(start >= at && end > start);
        e = drops ? PD_OK : cut(c, level + 1, p + at, start - at);
        if (!e)
            e = cut(c, level + 1, p + start, end - start);
        at = end;
    }
    return e;
}

pd_err tok_split_each(const tok_split *s, const char *p, size_t n, tok_word *word, void *ctx) {
    if (!s) /* no patterns: one word */
        return n ? word(ctx, p, n) : PD_OK;
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
