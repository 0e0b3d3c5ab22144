/* tokenizer_gguf.c - the tokenizer that a GGUF file brings along in its metadata. */
#include "peerd/tokenizer.h"
#include "tok.h"
#include "utf8.h"

#include <stdlib.h>
#include <string.h>

#define KEY(name) "tokenizer.ggml." name

static pd_err read_id(const pd_gguf *g, const char *key, size_t n, uint32_t *out) {
    uint64_t id;
    *out = TOK_NONE;
    if (!pd_gguf_u64(g, key, &id))
        return PD_OK;
    if (id >= n)
        return pd_fail(PD_EFORMAT, "%s is %llu, but there are %zu tokens", key,
                       (unsigned long long)id, n);
    *out = (uint32_t)id;
    return PD_OK;
}

static pd_err read_list_of_strs(const pd_gguf *g, const char *key, pd_str **out, size_t *n) {
    if (!pd_gguf_count(g, key, n) || *n == 0 || *n >= INT32_MAX)
        return pd_fail(PD_EFORMAT, "the file has no %s", key);
    *out = calloc(*n, sizeof **out);
    if (!*out)
        return pd_fail(PD_ENOMEM, "no memory for %zu strings of %s", *n, key);
    return pd_gguf_strs(g, key, *out, *n) ? PD_OK
                                          : pd_fail(PD_EFORMAT, "%s is not a list of strings", key);
}

static pd_err read_types(const pd_gguf *g, tok_lists *l) {
    size_t n;
    if (!pd_gguf_count(g, KEY("token_type"), &n))
        return PD_OK; /* all normal */
    l->types = calloc(l->n, sizeof *l->types);
    if (!l->types)
        return pd_fail(PD_ENOMEM, "no memory for %zu token types", l->n);
    if (!pd_gguf_i32s(g, KEY("token_type"), l->types, l->n))
        return pd_fail(PD_EFORMAT, KEY("token_type") " is not a list of %zu integers, one a token",
                       l->n);
    for (size_t i = 0; i < l->n; i++)
        if (l->types[i] < 0 || l->types[i] > TOK_BYTE)
            return pd_fail(PD_EFORMAT, "token %zu has type %d, which GGUF does not define", i,
                           l->types[i]);
    return PD_OK;
}

static pd_err read_scores(const pd_gguf *g, tok_lists *l) {
    l->scores = calloc(l->n, sizeof *l->scores);
    if (!l->scores)
        return pd_fail(PD_ENOMEM, "no memory for %zu scores", l->n);
    if (!pd_gguf_f32s(g, KEY("scores"), l->scores, l->n))
        return pd_fail(PD_EFORMAT, KEY("scores") " is not a list of %zu float32, one a token",
                       l->n);
    return PD_OK;
}

/* Which tokens mean what; llama.cpp's defaults where a file is silent: SPM adds BOS and a leading
 * space, BPE neither, but Llama 3's pre-tokenizer the BOS. */
static pd_err read_rules(const pd_gguf *g, size_t n, pd_tokenizer *t) {
    bool spm = t->kind == TOK_SPM;
    pd_err e = read_id(g, KEY("bos_token_id"), n, &t->bos);
    if (!e)
        e = read_id(g, KEY("eos_token_id"), n, &t->eos);
    if (!e)
        e = read_id(g, KEY("unknown_token_id"), n, &t->unknown);
    if (e)
        return e;
    bool space = spm;
    t->adds_bos = spm || (t->whole_words && t->bos != TOK_NONE);
    pd_gguf_bool(g, KEY("add_space_prefix"), &space);
    t->space = space && spm ? TOK_SPACE_ALWAYS : TOK_SPACE_NONE;
    if (pd_gguf_bool(g, KEY("add_bos_token"), &t->adds_bos) && t->adds_bos && t->bos == TOK_NONE)
        return pd_fail(PD_EFORMAT, "the tokenizer asks for a BOS token but names none");
    t->adds_bos = t->adds_bos && t->bos != TOK_NONE;
    return PD_OK;
}

static pd_err read_kind(const pd_gguf *g, pd_tokenizer *t, tok_lists *l) {
    char shown[PD_SHOW_ROOM];
    if (!pd_gguf_str(g, KEY("model"), &l->kind))
        return pd_fail(PD_EFORMAT,
                       "the file has no tokenizer (" KEY("model") "): use a file of a whole model");
    if (l->kind.n == 4 && memcmp(l->kind.p, "gpt2", 4) == 0) {
        t->kind = TOK_BPE;
        if (!pd_gguf_str(g, KEY("pre"), &l->pre))
            l->pre = (pd_str){"default", 7};
        return PD_OK;
    }
    t->kind = TOK_SPM;
    l->pre = (pd_str){"", 0}; /* SPM has no use for it, whatever the file says */
    if (l->kind.n == 5 && memcmp(l->kind.p, "llama", 5) == 0)
        return PD_OK;
    return pd_fail(PD_EUNSUPPORTED, "tokenizer %s is not supported (gpt2 and llama are)",
                   pd_show(l->kind.p, l->kind.n, shown));
}

static pd_err read_merges(const pd_gguf *g, tok_lists *l) {
    pd_str *lines = NULL;
    pd_err e = read_list_of_strs(g, KEY("merges"), &lines, &l->n_merges);
    if (!e && !(l->merges = calloc(l->n_merges, sizeof *l->merges)))
        e = pd_fail(PD_ENOMEM, "no memory for %zu merges", l->n_merges);
    /* "left right": the first space after the first byte parts them. */
    for (size_t i = 0; !e && i < l->n_merges; i++) {
        pd_str s = lines[i];
        const char *space = s.n > 2 ? memchr(s.p + 1, ' ', s.n - 2) : NULL;
        if (!space) {
            e = pd_fail(PD_EFORMAT, "merge %zu of the tokenizer is not two tokens", i);
            break;
        }
        size_t n = (size_t)(space - s.p);
        l->merges[i] = (tok_pair_text){{s.p, n}, {space + 1, s.n - n - 1}};
    }
    free(lines);
    return e;
}

static pd_err read_all(const pd_gguf *g, pd_tokenizer *t, tok_lists *l) {
    pd_str template = {"", 0};
    pd_err e = read_kind(g, t, l);
    if (!e)
        e = read_list_of_strs(g, KEY("tokens"), &l->tokens, &l->n);
    if (!e)
        e = read_types(g, l);
    if (!e && t->kind == TOK_SPM)
        e = read_scores(g, l);
    if (!e && t->kind == TOK_BPE)
        e = tok_split_open(l->pre, &t->split, &t->whole_words);
    if (!e && t->kind == TOK_BPE)
        e = read_merges(g, l);
    if (!e)
        e = read_rules(g, l->n, t);
    if (!e)
        e = tok_build(t, l);
    if (e)
        return e;
    pd_gguf_str(g, "tokenizer.chat_template", &template);
    return tok_chat_open(t, template);
}

pd_err pd_tokenizer_open(const pd_gguf *g, pd_tokenizer **out) {
    tok_lists l = {0};
    pd_tokenizer *t = calloc(1, sizeof *t);
    pd_err e = t ? read_all(g, t, &l) : pd_fail(PD_ENOMEM, "no memory for a tokenizer");
    tok_lists_free(&l);
    if (e) {
        pd_tokenizer_close(t);
        return e;
    }
    *out = t;
    return PD_OK;
}
