/* tokenizer_pipe.c - the way of a text by tokenizer.json: normalizer, pre_tokenizer,
 * post_processor.
 *
 * The library behind these files puts parts together freely.  We do the chains that model families
 * use and refuse any other part or order by name:
 *
 *   [NFC] > [Split, Digits ...] > ByteLevel                   GPT-2, GPT-NeoX, Qwen, Llama 3,
 * SmolLM2 [NFC] > [Prepend U+2581] > Replace " " by U+2581          Llama 2, TinyLlama, Mistral
 *   [NFC] > Metaspace                                         the same, as written since 2024
 *
 * "truncation" and "padding" say how batches were once made and change no token: they are not read.
 */
#include "tok_json.h"
#include "utf8.h"

#include <stdlib.h>
#include <string.h>

#define SPACE_SIGN "\xe2\x96\x81" /* U+2581 */

typedef struct pipe {
    pd_tokenizer *t;
    bool bytes, prepends, replaces, metaspace;
} pipe;

static pd_err unsupported(const char *what, const cJSON *j, const char *why) {
    char shown[PD_SHOW_ROOM];
    const char *type = json_text(j, "type");
    type = type ? type : "without a type";
    return pd_fail(PD_EUNSUPPORTED, "%s %s is not supported%s", what,
                   pd_show(type, strlen(type), shown), why);
}

static bool is(const char *text, const char *want) {
    return text && strcmp(text, want) == 0;
}

/* ---- normalizer ---- */

static pd_err read_one_normalizer(pipe *p, const cJSON *j) {
    const char *type = json_text(j, "type");
    if (is(type, "NFC")) {
        p->t->nfc = true;
    } else if (is(type, "Prepend") && is(json_text(j, "prepend"), SPACE_SIGN)) {
        p->prepends = true;
    } else if (is(type, "Replace") && is(json_text(json_at(j, "pattern"), "String"), " ") &&
               is(json_text(j, "content"), SPACE_SIGN)) {
        p->replaces = true;
    } else {
        bool known = is(type, "Prepend") || is(type, "Replace");
        return unsupported("normalizer", j, known ? " but for spaces by U+2581" : "");
    }
    return PD_OK;
}

/* Parts in a row; a Sequence within a Sequence is refused as a part. */
typedef pd_err read_part(pipe *p, const cJSON *j);

static pd_err read_parts(pipe *p, const cJSON *j, const char *list, read_part *part) {
    const cJSON *one;
    pd_err e = PD_OK;
    if (!j)
        return PD_OK;
    if (!is(json_text(j, "type"), "Sequence"))
        return part(p, j);
    if (!cJSON_IsArray(json_at(j, list)))
        return pd_fail(PD_EFORMAT, "a Sequence has no list %s", list);
    cJSON_ArrayForEach(one, json_at(j, list)) {
        e = part(p, one);
        if (e)
            return e;
    }
    return PD_OK;
}

/* ---- pre_tokenizer ---- */

static pd_err read_byte_level(pipe *p, const cJSON *j) {
    const cJSON *regex = json_at(j, "use_regex"); /* files from before 2022 do not say: true */
    if (json_true(j, "add_prefix_space")) {
        if (p->t->split)
            return unsupported("pre_tokenizer", j, " with add_prefix_space behind others");
        p->t->space = TOK_SPACE_UNLESS;
    }
    p->bytes = true;
    return regex && !cJSON_IsTrue(regex)
               ? PD_OK
               : tok_split_add(&p->t->split, tok_split_gpt2, false, false);
}

static pd_err read_split(pipe *p, const cJSON *j) {
    const cJSON *pattern = json_at(j, "pattern");
    const char *behavior = json_text(j, "behavior"), *text = json_text(pattern, "String"),
               *regex = json_text(pattern, "Regex");
    bool drops = is(behavior, "Removed") && json_true(j, "invert");
    char *ours;
    if (!is(behavior, "Isolated") && !drops)
        return unsupported("pre_tokenizer", j,
                           " with a behavior other than Isolated, or Removed and invert");
    if (text && *text)
        return tok_split_add(&p->t->split, text, true, drops);
    if (!regex)
        return pd_fail(PD_EFORMAT, "a pre_tokenizer Split has no pattern");
    pd_err e = tok_regex(regex, &ours);
    if (e)
        return e;
    e = tok_split_add(&p->t->split, ours, false, drops);
    free(ours);
    return e;
}

static pd_err read_metaspace(pipe *p, const cJSON *j) {
    const char *scheme = json_text(j, "prepend_scheme");
    const cJSON *split = json_at(j, "split");
    if (!is(json_text(j, "replacement"), SPACE_SIGN))
        return unsupported("pre_tokenizer", j, " with a replacement other than U+2581");
    if (!scheme) /* before 2024 */
        scheme = json_true(j, "add_prefix_space") ? "always" : "never";
    if (!is(scheme, "always") && !is(scheme, "first") && !is(scheme, "never"))
        return pd_fail(PD_EFORMAT,
                       "a Metaspace has a prepend_scheme that is not always, first or never");
    p->t->space = is(scheme, "always")  ? TOK_SPACE_UNLESS
                  : is(scheme, "first") ? TOK_SPACE_FIRST
                                        : TOK_SPACE_NONE;
    p->t->splits_space = !split || cJSON_IsTrue(split);
    p->metaspace = true;
    return PD_OK;
}

static pd_err read_one_pre(pipe *p, const cJSON *j) {
    const char *type = json_text(j, "type");
    if (p->bytes || p->metaspace)
        return unsupported("pre_tokenizer", j, " behind ByteLevel or Metaspace");
    if (is(type, "ByteLevel"))
        return read_byte_level(p, j);
    if (is(type, "Split"))
        return read_split(p, j);
    if (is(type, "Metaspace"))
        return p->t->split ? unsupported("pre_tokenizer", j, " behind others")
                           : read_metaspace(p, j);
    if (is(type, "Digits"))
        return tok_split_add(&p->t->split, json_true(j, "individual_digits") ? "\\p{N}" : "\\p{N}+",
                             false, false);
    return unsupported("pre_tokenizer", j, "");
}

pd_err tok_json_pipe(pd_tokenizer *t, const cJSON *normalizer, const cJSON *pre, bool *spells) {
    pipe p = {.t = t};
    pd_err e = read_parts(&p, normalizer, "normalizers", read_one_normalizer);
    if (!e)
        e = read_parts(&p, pre, "pretokenizers", read_one_pre);
    if (e)
        return e;
    bool spelled = p.prepends || p.replaces;
    if (p.bytes + p.metaspace + p.replaces != 1 || (p.prepends && !p.replaces) ||
        (spelled && t->split))
        return pd_fail(PD_EUNSUPPORTED,
                       "this normalizer and pre_tokenizer together are not supported (ByteLevel, "
                       "Metaspace, or Replace by U+2581 is: one of them)");
    t->kind = p.bytes ? TOK_BPE : TOK_SPM;
    if (p.prepends)
        t->space = TOK_SPACE_ALWAYS;
    *spells = p.replaces;
    return PD_OK;
}

/* ---- post_processor ---- */

static pd_err read_template(const cJSON *j, size_t n, uint32_t *bos) {
    const cJSON *single = json_at(j, "single"), *part = single ? single->child : NULL;
    const cJSON *special = json_at(part, "SpecialToken");
    uint64_t id;
    if (special) {
        const char *name = json_text(special, "id");
        const cJSON *known = name ? json_at(json_at(j, "special_tokens"), name) : NULL;
        const cJSON *ids = json_at(known, "ids");
        if (cJSON_GetArraySize(ids) != 1 || !json_count(ids->child, &id) || id >= n)
            return pd_fail(PD_EFORMAT, "the post_processor names a token that is not there");
        *bos = (uint32_t)id;
        part = part->next;
    }
    return json_at(part, "Sequence") && !part->next
               ? PD_OK
               : unsupported("post_processor", j, " unless it puts one token before a text");
}

pd_err tok_json_bos(const cJSON *post, size_t n, uint32_t *bos) {
    const char *type = json_text(post, "type");
    const cJSON *one;
    pd_err e = PD_OK;
    *bos = TOK_NONE;
    if (!post || is(type, "ByteLevel")) /* ByteLevel's only trims offsets */
        return PD_OK;
    if (is(type, "TemplateProcessing"))
        return read_template(post, n, bos);
    if (!is(type, "Sequence"))
        return unsupported("post_processor", post, "");
    cJSON_ArrayForEach(one, json_at(post, "processors")) {
        bool template = is(json_text(one, "type"), "TemplateProcessing");
        e = template && *bos == TOK_NONE ? read_template(one, n, bos)
            : is(json_text(one, "type"), "ByteLevel")
                ? PD_OK
                : unsupported("post_processor", one, " in a Sequence");
        if (e)
            return e;
    }
    return PD_OK;
}
