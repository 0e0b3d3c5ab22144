/* tokenizer_json.c - the tokenizer of a Hugging Face folder: tokenizer.json, and the names beside
 * it.
 *
 *   model.vocab {TOKEN: id}, model.merges ["left right"] or [["left", "right"]], added_tokens [{id,
 * content, flags}]
 *
 * What the files say of a text's way is tokenizer_pipe.c's.  Lists are borrowed from the parsed
 * file until tok_build has copied them.
 */
#include "peerd/file.h"
#include "peerd/tokenizer.h"
#include "tok_json.h"
#include "utf8.h"

#include <stdlib.h>
#include <string.h>

enum {
    FILE_MAX = 1 << 26,     /* the largest in use have 33 MB; parsing takes up to 40 times that */
    SETTINGS_MAX = 1 << 24, /* they repeat the added tokens, and hold the chat template */
    VOCAB_MAX = 1 << 22,    /* the engine's */
};

typedef struct reader {
    cJSON *file, *settings, *config;
    pd_tokenizer *t;
    tok_lists l;
    bool spells; /* the normaliser spells spaces U+2581 */
    char *pre;   /* what l.pre shows */
} reader;

/* ---- vocabulary ---- */

static pd_err read_model_flags(reader *r, const cJSON *model) {
    const char *type = json_text(model, "type");
    char shown[PD_SHOW_ROOM];
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    if (!cJSON_IsObject(model))
        return pd_fail(PD_EFORMAT, "the file has no model");
    if (type && strcmp(type, "BPE") != 0)
        return pd_fail(PD_EUNSUPPORTED, "model %s is not supported (BPE is)",
                       pd_show(type, strlen(type), shown));
    for (int i = 0; i < 2; i++) {
        const char *affix = json_text(model, affixes[i]);
        if (affix && *affix)
            return pd_fail(PD_EUNSUPPORTED, "a model with %s is not supported", affixes[i]);
    }
    const cJSON *dropout = json_at(model, "dropout");
    if (dropout && !(cJSON_IsNumber(dropout) && dropout->valuedouble == 0))
        return pd_fail(PD_EUNSUPPORTED, "a model with dropout is not supported");
    r->t->whole_words = json_true(model, "ignore_merges");
    r->t->fuses_unknown = json_true(model, "fuse_unk");
    return PD_OK;
}

static pd_err read_id(const cJSON *v, const char *text, uint64_t *id) {
    char shown[PD_SHOW_ROOM];
    if (json_count(v, id) && *id < VOCAB_MAX)
        return PD_OK;
    return pd_fail(PD_EFORMAT, "token %s has an id that is not one of 0 to %d",
                   pd_show(text, strlen(text), shown), VOCAB_MAX - 1);
}

/* Room for every id; they need not be without gap, but a small file must not ask for much memory.
 */
static pd_err make_room(reader *r, const cJSON *vocab, const cJSON *added) {
    const cJSON *j;
    uint64_t n = 0, entries = 0, id;
    cJSON_ArrayForEach(j, vocab) {
        pd_err e = read_id(j, j->string, &id);
        if (e)
            return e;
        n = id >= n ? id + 1 : n;
        entries++;
    }
    cJSON_ArrayForEach(j, added) {
        const char *text = json_text(j, "content");
        if (!text)
            return pd_fail(PD_EFORMAT, "an added token has no content");
        pd_err e = read_id(json_at(j, "id"), text, &id);
        if (e)
            return e;
        n = id >= n ? id + 1 : n;
        entries++;
    }
    if (n == 0 || n > 2 * entries + 1024)
        return pd_fail(PD_EFORMAT, "the ids go up to %llu, but there are %llu tokens",
                       (unsigned long long)n - (n > 0), (unsigned long long)entries);
    r->l.n = n;
    r->l.tokens = calloc(n, sizeof *r->l.tokens);
    r->l.types = calloc(n, sizeof *r->l.types);
    r->t->late = calloc(n, sizeof *r->t->late);
    return r->l.tokens && r->l.types && r->t->late
               ? PD_OK
               : pd_fail(PD_ENOMEM, "no memory for %llu tokens", (unsigned long long)n);
}

static pd_err place(reader *r, const char *text, uint64_t id, int32_t type) {
    char a[PD_SHOW_ROOM], b[PD_SHOW_ROOM];
    pd_str *at = &r->l.tokens[id];
    size_t n = strlen(text);
    if (r->l.types[id] && (at->n != n || memcmp(at->p, text, n) != 0))
        return pd_fail(PD_EFORMAT, "id %llu is both %s and %s", (unsigned long long)id,
                       pd_show(at->p, at->n, a), pd_show(text, n, b));
    *at = (pd_str){text, n};
    r->l.types[id] = type;
    return PD_OK;
}

/* Is this the form that it would be normalised to? */
static pd_err check_form(const pd_tokenizer *t, const char *text, const char *shown) {
    char *form;
    size_t n;
    if (!t->nfc)
        return PD_OK;
    pd_err e = tok_nfc(text, strlen(text), &form, &n);
    if (e)
        return e;
    bool same = n == strlen(text) && memcmp(form, text, n) == 0;
    free(form);
    return same ? PD_OK
                : pd_fail(PD_EUNSUPPORTED, "added token %s is not in normalisation form C", shown);
}

static pd_err read_added(reader *r, const cJSON *j) {
    static const char *const flags[] = {"single_word", "lstrip", "rstrip"};
    const char *text = json_text(j, "content");
    char shown[PD_SHOW_ROOM];
    uint64_t id;
    pd_err e = PD_OK;
    if (!json_count(json_at(j, "id"), &id) || !*text)
        return pd_fail(PD_EFORMAT, "an added token is empty");
    pd_show(text, strlen(text), shown);
    for (int i = 0; i < 3; i++)
        if (json_true(j, flags[i]))
            return pd_fail(PD_EUNSUPPORTED, "added token %s with %s is not supported", shown,
                           flags[i]);
    if (json_true(j, "normalized")) {
        if (r->spells)
            return pd_fail(PD_EUNSUPPORTED,
                           "added token %s is looked for in the normalised text, which is not "
                           "supported where spaces are replaced",
                           shown);
        e = check_form(r->t, text, shown);
        r->t->late[id] = true;
    }
    return e ? e : place(r, text, id, json_true(j, "special") ? TOK_CONTROL : TOK_USER);
}

static bool is_byte_token(const char *s) {
    return strlen(s) == 6 && strncmp(s, "<0x", 3) == 0 && s[5] == '>';
}

static pd_err read_vocab(reader *r, const cJSON *model) {
    const cJSON *vocab = json_at(model, "vocab"), *added = json_at(r->file, "added_tokens"), *j;
    bool bytes = json_true(model, "byte_fallback") && r->t->kind == TOK_SPM;
    if (!cJSON_IsObject(vocab))
        return pd_fail(PD_EFORMAT, "the model has no vocab");
    pd_err e = make_room(r, vocab, added);
    if (e)
        return e;
    for (size_t i = 0; i < r->l.n; i++)
        r->l.tokens[i] = (pd_str){"", 0};
    cJSON_ArrayForEach(j, vocab) {
        e = place(r, j->string, (uint64_t)j->valuedouble,
                  bytes && is_byte_token(j->string) ? TOK_BYTE : TOK_NORMAL);
        if (e)
            return e;
    }
    cJSON_ArrayForEach(j, added) {
        e = read_added(r, j);
        if (e)
            return e;
    }
    for (size_t i = 0; i < r->l.n; i++)
        if (!r->l.types[i])
            r->l.types[i] = TOK_UNUSED;
    return PD_OK;
}

static pd_str str_of(const char *s) {
    return (pd_str){s, strlen(s)};
}

static bool read_merge(const cJSON *j, tok_pair_text *m) {
    if (cJSON_IsString(j)) { /* before 2024: tokens without spaces, parted by one */
        const char *s = j->valuestring, *space = strchr(s, ' ');
        if (!space || strchr(space + 1, ' '))
            return false;
        *m = (tok_pair_text){{s, (size_t)(space - s)}, str_of(space + 1)};
    } else if (cJSON_GetArraySize(j) == 2 && cJSON_IsString(j->child) &&
               cJSON_IsString(j->child->next)) {
        *m = (tok_pair_text){str_of(j->child->valuestring), str_of(j->child->next->valuestring)};
    } else {
        return false;
    }
    return m->left.n && m->right.n;
}

static pd_err read_merges(reader *r, const cJSON *model) {
    const cJSON *merges = json_at(model, "merges"), *j;
    if (!cJSON_IsArray(merges))
        return pd_fail(PD_EFORMAT, "the model has no merges");
    r->l.merges = calloc((size_t)cJSON_GetArraySize(merges) + 1, sizeof *r->l.merges);
    if (!r->l.merges)
        return pd_fail(PD_ENOMEM, "no memory for %d merges", cJSON_GetArraySize(merges));
    cJSON_ArrayForEach(j, merges) {
        if (!read_merge(j, &r->l.merges[r->l.n_merges]))
            return pd_fail(PD_EFORMAT, "merge %zu of the tokenizer is not two tokens",
                           r->l.n_merges);
        r->l.n_merges++;
    }
    return PD_OK;
}

/* ---- rules ---- */

static uint32_t find(const tok_lists *l, const char *text) {
    size_t n = strlen(text);
    for (size_t i = l->n; n && i--;)
        if (l->tokens[i].n == n && memcmp(l->tokens[i].p, text, n) == 0)
            return (uint32_t)i;
    return TOK_NONE;
}

/* A token that must be there if it is named. */
static pd_err find_named(const reader *r, const char *what, const char *text, uint32_t *id) {
    char shown[PD_SHOW_ROOM];
    *id = text ? find(&r->l, text) : TOK_NONE;
    if (text && *id == TOK_NONE)
        return pd_fail(PD_EFORMAT, "%s is %s, which is no token", what,
                       pd_show(text, strlen(text), shown));
    return PD_OK;
}

/* bos or eos: by name in tokenizer_config.json, else by id in config.json (the first of several).
 */
static pd_err read_end(const reader *r, const char *token, const char *token_id, uint32_t *id) {
    const cJSON *named = json_at(r->settings, token), *number = json_at(r->config, token_id);
    uint64_t v;
    const char *text =
        cJSON_IsObject(named) ? json_text(named, "content") : cJSON_GetStringValue(named);
    if (text)
        return find_named(r, token, text, id);
    *id = TOK_NONE;
    if (cJSON_IsArray(number))
        number = number->child;
    if (!number)
        return PD_OK;
    if (!json_count(number, &v) || v >= r->l.n)
        return pd_fail(PD_EFORMAT, "%s is not one of the %zu tokens", token_id, r->l.n);
    *id = (uint32_t)v;
    return PD_OK;
}

/* A text gets BOS where the post-processor puts it; tokenizer_config.json's add_bos_token overrules
 * that, as in the library's classes that know the key. */
static pd_err read_rules(reader *r, const cJSON *model) {
    pd_tokenizer *t = r->t;
    uint32_t put;
    pd_err e = find_named(r, "unk_token", json_text(model, "unk_token"), &t->unknown);
    if (!e)
        e = read_end(r, "eos_token", "eos_token_id", &t->eos);
    if (!e)
        e = read_end(r, "bos_token", "bos_token_id", &t->bos);
    if (!e)
        e = tok_json_bos(json_at(r->file, "post_processor"), r->l.n, &put);
    if (e)
        return e;
    const cJSON *adds = json_at(r->settings, "add_bos_token");
    t->bos = put != TOK_NONE ? put : t->bos;
    t->adds_bos = adds ? cJSON_IsTrue(adds) : put != TOK_NONE;
    if (t->adds_bos && t->bos == TOK_NONE)
        return pd_fail(PD_EFORMAT, "the tokenizer asks for a BOS token but names none");
    return PD_OK;
}

/* The parts that ids depend on as they stand in the file, for the digest. */
static pd_err show_rules(reader *r, const cJSON *model) {
    cJSON *j = cJSON_CreateObject();
    static const char *const parts[] = {"normalizer", "pre_tokenizer", "added_tokens"};
    for (int i = 0; i < 3; i++)
        if (json_at(r->file, parts[i]))
            cJSON_AddItemReferenceToObject(j, parts[i],
                                           cJSON_GetObjectItemCaseSensitive(r->file, parts[i]));
    cJSON_AddBoolToObject(j, "byte_fallback", json_true(model, "byte_fallback"));
    cJSON_AddBoolToObject(j, "fuse_unk", r->t->fuses_unknown);
    cJSON_AddBoolToObject(j, "ignore_merges", r->t->whole_words);
    r->pre = cJSON_PrintUnformatted(j);
    cJSON_Delete(j);
    if (!r->pre)
        return pd_fail(PD_ENOMEM, "no memory for the tokenizer's rules");
    r->l.kind = str_of("tokenizer.json");
    r->l.pre = str_of(r->pre);
    return PD_OK;
}

/* ---- what only shows once all of it is there ---- */

static pd_err check_bytes(pd_tokenizer *t, bool fallback) {
    if (t->kind == TOK_SPM && !fallback) /* tokens that look like a byte's are texts */
        memset(t->byte_id, 0xff, sizeof t->byte_id);
    for (unsigned b = 0; fallback && b < 256; b++)
        if (t->byte_id[b] == TOK_NONE)
            return pd_fail(PD_EFORMAT, "byte_fallback is asked for, but byte %u has no token", b);
    return PD_OK;
}

/* The library would give such a token the vocabulary's id, whatever its own says. */
static pd_err check_added(const pd_tokenizer *t) {
    char shown[PD_SHOW_ROOM];
    for (uint32_t id = 0; id < t->n; id++) {
        pd_str s = t->text[id];
        uint32_t other = s.n ? tok_find(t, s.p, s.n) : id;
        if (other != id && (t->type[id] != TOK_NORMAL || t->type[other] != TOK_NORMAL))
            return pd_fail(PD_EFORMAT, "token %s has two ids, %u and %u", pd_show(s.p, s.n, shown),
                           id, other);
    }
    return PD_OK;
}

static pd_err read_file(reader *r) {
    const cJSON *model = json_at(r->file, "model");
    r->t->json = true;
    pd_err e = read_model_flags(r, model);
    if (!e)
        e = tok_json_pipe(r->t, json_at(r->file, "normalizer"), json_at(r->file, "pre_tokenizer"),
                          &r->spells);
    if (!e)
        e = read_vocab(r, model);
    if (!e)
        e = read_merges(r, model);
    if (!e)
        e = read_rules(r, model);
    if (!e)
        e = show_rules(r, model);
    if (!e)
        e = tok_build(r->t, &r->l);
    if (!e)
        e = check_bytes(r->t, json_true(model, "byte_fallback"));
    return e ? e : check_added(r->t);
}

/* ---- chat ---- */

/* One template, or several with names, of which `default` counts. */
static const char *template_of(const cJSON *settings) {
    const cJSON *v = json_at(settings, "chat_template"), *j;
    if (!cJSON_IsArray(v))
        return cJSON_GetStringValue(v);
    cJSON_ArrayForEach(j, v) {
        const char *name = json_text(j, "name");
        if (name && strcmp(name, "default") == 0)
            return json_text(j, "template");
    }
    return NULL;
}

static pd_err read_chat(reader *r, const char *path) {
    uint8_t *text;
    size_t n;
    if (!path) {
        const char *template = template_of(r->settings);
        return tok_chat_open(r->t, template ? str_of(template) : (pd_str){"", 0});
    }
    pd_err e = pd_file_read(path, SETTINGS_MAX, &text, &n);
    if (e)
        return e;
    e = tok_chat_open(r->t, (pd_str){(const char *)text, n});
    free(text);
    return e;
}

pd_err pd_tokenizer_open_json(const pd_tokenizer_files *files, pd_tokenizer **out) {
    reader r = {.t = calloc(1, sizeof *r.t)};
    pd_err e = r.t ? PD_OK : pd_fail(PD_ENOMEM, "no memory for a tokenizer");
    if (!e)
        e = json_read(files->tokenizer, FILE_MAX, &r.file);
    if (!e && files->settings)
        e = json_read(files->settings, SETTINGS_MAX, &r.settings);
    if (!e && files->config)
        e = json_read(files->config, SETTINGS_MAX, &r.config);
    if (!e && (e = read_file(&r)) != PD_OK)
        e = pd_fail_in(e, "%s", files->tokenizer);
    if (!e)
        e = read_chat(&r, files->chat);
    cJSON_Delete(r.file);
    cJSON_Delete(r.settings);
    cJSON_Delete(r.config);
    tok_lists_free(&r.l);
    free(r.pre);
    if (e) {
        pd_tokenizer_close(r.t);
        return e;
    }
    *out = r.t;
    return PD_OK;
}
