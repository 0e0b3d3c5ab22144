/* data.c - a file of JSON lines to examples; see data.h.
 *
 * A line is judged whole before anything of it is kept: what a bad line had already added is taken
 * back.  Everything is kept in four growing lists of numbers, and examples point into them once the
 * lists have stopped growing.
 */
#include "peerd/data.h"
#include "peerd/file.h"
#include "tok.h"
#include "utf8.h"

#include <assert.h>
#include <cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    LINE_MAX_BYTES =
        8 << 20, /* cJSON takes up to 64 bytes a byte: half a gigabyte for the worst line */
    CHOICES_MAX = 1024,
};

/* An example whose arrays are still positions in the lists. */
typedef struct draft {
    pd_example x;
    size_t ids_at, seqs_at, choices_at;
    bool one_token;
} draft;

struct pd_data {
    pd_example *examples;
    size_t n, skipped;
    uint32_t *ids, *seq_len, *choice_ids;
    uint8_t *scored;
};

typedef struct builder {
    const pd_tokenizer *t;
    uint32_t window; /* tokens of the longest sequence */
    uint32_t line;
    tok_ids ids, scored, seq_len, choice_ids;
    draft *drafts;
    size_t n, room;
    size_t skipped;
} builder;

/* Token ids with a mark each. */
typedef struct sequence {
    tok_ids ids, scored;
} sequence;

static void sequence_free(sequence *s) {
    free(s->ids.p);
    free(s->scored.p);
}

static pd_err put(sequence *s, const uint32_t *ids, size_t n, uint32_t scored) {
    pd_err e = tok_append(&s->ids, ids, n);
    for (size_t i = 0; !e && i < n; i++)
        e = tok_append(&s->scored, &scored, 1);
    return e;
}

static pd_err put_bos(const builder *b, sequence *s) {
    uint32_t bos = pd_tokenizer_bos(b->t);
    return pd_tokenizer_adds_bos(b->t) ? put(s, &bos, 1, 0) : PD_OK;
}

/* A text's tokens at the end of a sequence; `more`: it continues a text that stands before it. */
static pd_err put_text(const builder *b, sequence *s, const char *text, bool more,
                       uint32_t scored) {
    uint32_t *ids;
    size_t n;
    pd_err e = (more ? pd_tokenizer_encode_more : pd_tokenizer_encode)(b->t, text, strlen(text),
                                                                       true, &ids, &n);
    if (e)
        return e;
    e = put(s, ids, n, scored);
    free(ids);
    return e;
}

/* ---- examples ---- */

static pd_err begin(builder *b, pd_example_kind kind, draft **out) {
    if (b->n == b->room) {
        size_t room = 2 * b->room + 64;
        draft *p = realloc(b->drafts, room * sizeof *p);
        if (!p)
            return pd_fail(PD_ENOMEM, "no memory for %zu examples", room);
        b->drafts = p;
        b->room = room;
    }
    *out = &b->drafts[b->n++];
    **out = (draft){.x = {.kind = kind, .line = b->line},
                    .ids_at = b->ids.n,
                    .seqs_at = b->seq_len.n,
                    .choices_at = b->choice_ids.n};
    return PD_OK;
}

/* One more sequence of the example: `keep` ids of s from its start, then ids from..to-1, of which
 * the first is context only: it has nothing before it, or was scored where it stood last.
 */
static pd_err add_sequence(builder *b, draft *d, const sequence *s, size_t keep, size_t from,
                           size_t to) {
    uint32_t n = (uint32_t)(keep + to - from), zero = 0;
    assert(from < to && n <= b->window);
    pd_err e = tok_append(&b->ids, s->ids.p, keep);
    if (!e)
        e = tok_append(&b->ids, s->ids.p + from, to - from);
    if (!e)
        e = tok_append(&b->scored, s->scored.p, keep);
    if (!e)
        e = tok_append(&b->scored, &zero, 1);
    if (!e)
        e = tok_append(&b->scored, s->scored.p + from + 1, to - from - 1);
    if (!e)
        e = tok_append(&b->seq_len, &n, 1);
    d->x.n_seqs++;
    d->x.n_tokens += n;
    return e;
}

/* Drop ids from the left, behind the BOS, until at most `limit` are there. */
static void cut_left(const builder *b, sequence *s, size_t limit) {
    if (s->ids.n <= limit)
        return;
    size_t keep = pd_tokenizer_adds_bos(b->t) && limit > 0, rest = limit - keep;
    memmove(s->ids.p + keep, s->ids.p + s->ids.n - rest, rest * sizeof *s->ids.p);
    memmove(s->scored.p + keep, s->scored.p + s->scored.n - rest, rest * sizeof *s->scored.p);
    s->ids.n = s->scored.n = limit;
}

/* {"text"}: every token but the first.  A text longer than the window goes on in further examples,
 * each with BOS and the last token of the one before as its context, so that every token is scored
 * once.
 */
static pd_err text_example(builder *b, const char *text) {
    sequence s = {0};
    draft *d = NULL;
    pd_err e = put_bos(b, &s);
    if (!e)
        e = put_text(b, &s, text, false, 1);
    size_t n = s.ids.n, keep = pd_tokenizer_adds_bos(b->t);
    if (!e && n < 2)
        e = pd_fail(PD_EFORMAT, "the text is %s: nothing can be predicted in it",
                    text[0] ? "one token" : "empty");
    for (size_t from = 0; !e && from + 1 < n;) {
        size_t head = from ? keep : 0, to = from + b->window - head;
        if (to > n)
            to = n;
        e = begin(b, PD_EXAMPLE_NLL, &d);
        if (!e)
            e = add_sequence(b, d, &s, head, from, to);
        from = to - 1;
    }
    sequence_free(&s);
    return e;
}

/* BOS and a prompt.  It must leave something to predict from. */
static pd_err put_prompt(const builder *b, sequence *s, const char *prompt) {
    pd_err e = put_bos(b, s);
    if (!e)
        e = put_text(b, s, prompt, false, 0);
    if (!e && s->ids.n == 0)
        e = pd_fail(PD_EFORMAT, "the prompt is empty: there is nothing to predict from");
    return e;
}

/* The tokens of a continuation, by themselves. */
static pd_err put_continuation(const builder *b, sequence *s, const char *text, const char *what) {
    pd_err e = put_text(b, s, text, true, 1);
    if (!e && s->ids.n == 0)
        e = pd_fail(PD_EFORMAT, "%s is empty", what);
    if (!e && s->ids.n >= b->window)
        e = pd_fail(PD_EFORMAT,
                    "%s has %zu tokens and does not fit the %u of the window with a prompt", what,
                    s->ids.n, b->window);
    return e;
}

/* {"prompt", "completion"}: the completion's tokens. */
static pd_err completion_example(builder *b, const char *prompt, const char *completion) {
    sequence p = {0}, c = {0};
    draft *d = NULL;
    pd_err e = put_prompt(b, &p, prompt);
    if (!e)
        e = put_continuation(b, &c, completion, "the completion");
    if (!e) {
        cut_left(b, &p, b->window - c.ids.n);
        e = put(&p, c.ids.p, c.ids.n, 1);
    }
    if (!e)
        e = begin(b, PD_EXAMPLE_NLL, &d);
    if (!e)
        e = add_sequence(b, d, &p, 0, 0, p.ids.n);
    sequence_free(&p);
    sequence_free(&c);
    return e;
}

/* {"messages"}: the assistant's contents and the tokens that end them; the oldest turns give way to
 * the window. */
static pd_err messages_example(builder *b, const tok_turn *turns, size_t n) {
    sequence s = {0}, chat = {0};
    draft *d = NULL;
    bool any = false;
    pd_err e = put_bos(b, &s);
    if (!e)
        e = tok_chat_encode(b->t, turns, n, &chat.ids, &chat.scored);
    if (!e)
        e = tok_append(&s.ids, chat.ids.p, chat.ids.n);
    if (!e)
        e = tok_append(&s.scored, chat.scored.p, chat.scored.n);
    if (!e)
        cut_left(b, &s, b->window);
    for (size_t i = 1; !e && i < s.ids.n; i++)
        any = any || s.scored.p[i];
    if (!e && !any)
        e = pd_fail(PD_EFORMAT,
                    "no message of the assistant is there, or none in the last %u tokens",
                    b->window);
    if (!e)
        e = begin(b, PD_EXAMPLE_NLL, &d);
    if (!e)
        e = add_sequence(b, d, &s, 0, 0, s.ids.n);
    sequence_free(&s);
    sequence_free(&chat);
    return e;
}

/* Two equal choices have no answer. */
static pd_err check_distinct(const sequence *c, size_t n) {
    for (size_t i = 1; i < n; i++)
        for (size_t k = 0; k < i; k++)
            if (c[i].ids.n == c[k].ids.n &&
                memcmp(c[i].ids.p, c[k].ids.p, c[i].ids.n * sizeof *c[i].ids.p) == 0)
                return pd_fail(PD_EFORMAT, "choices %zu and %zu are the same tokens", k, i);
    return PD_OK;
}

/* The prompt p with each of the choices after it, or once by itself where every choice is one
 * token. */
static pd_err add_choices(builder *b, draft *d, sequence *p, const sequence *c, size_t n,
                          size_t longest) {
    pd_err e = PD_OK;
    d->one_token = longest == 1;
    if (d->one_token) {
        cut_left(b, p, b->window);
        e = add_sequence(b, d, p, 0, 0, p->ids.n);
        for (size_t i = 0; !e && i < n; i++)
            e = tok_append(&b->choice_ids, c[i].ids.p, 1);
        return e;
    }
    cut_left(b, p, b->window - longest);
    size_t n_prompt = p->ids.n;
    for (size_t i = 0; !e && i < n; i++) {
        p->ids.n = p->scored.n = n_prompt;
        e = put(p, c[i].ids.p, c[i].ids.n, 1);
        if (!e)
            e = add_sequence(b, d, p, 0, 0, p->ids.n);
    }
    return e;
}

/* {"prompt", "choices", "answer"} */
static pd_err choice_example(builder *b, const char *prompt, const char *const *choices, size_t n,
                             uint32_t answer) {
    sequence p = {0}, *c = calloc(n, sizeof *c);
    draft *d = NULL;
    size_t longest = 0;
    pd_err e = c ? put_prompt(b, &p, prompt) : pd_fail(PD_ENOMEM, "no memory for %zu choices", n);
    for (size_t i = 0; !e && i < n; i++) {
        e = put_continuation(b, &c[i], choices[i], "a choice");
        longest = c[i].ids.n > longest ? c[i].ids.n : longest;
    }
    if (!e)
        e = check_distinct(c, n);
    if (!e)
        e = begin(b, PD_EXAMPLE_CHOICE, &d);
    if (!e) {
        d->x.n_choices = (uint32_t)n;
        d->x.answer = answer;
        e = add_choices(b, d, &p, c, n, longest);
    }
    for (size_t i = 0; c && i < n; i++)
        sequence_free(&c[i]);
    free(c);
    sequence_free(&p);
    return e;
}

/* ---- lines ---- */

/* Member `key` of an object, NULL where there is none; two of one name are an error, because
 * readers differ there. */
static pd_err member(const cJSON *o, const char *key, const cJSON **out) {
    *out = NULL;
    const cJSON *m;
    cJSON_ArrayForEach(m, o) {
        if (!m->string || strcmp(m->string, key) != 0)
            continue;
        if (*out)
            return pd_fail(PD_EFORMAT, "\"%s\" stands twice", key);
        *out = m;
    }
    return PD_OK;
}

static pd_err string_of(const cJSON *j, const char *what, const char **out) {
    if (!cJSON_IsString(j) || !j->valuestring)
        return pd_fail(PD_EFORMAT, "%s is not a string", what);
    *out = j->valuestring;
    return PD_OK;
}

static pd_err messages_line(builder *b, const cJSON *messages) {
    int n = cJSON_IsArray(messages) ? cJSON_GetArraySize(messages) : 0;
    if (n == 0)
        return pd_fail(PD_EFORMAT, "\"messages\" is not a list of messages");
    tok_turn *turns = calloc((size_t)n, sizeof *turns), *turn = turns;
    pd_err e = turns ? PD_OK : pd_fail(PD_ENOMEM, "no memory for %d messages", n);
    const cJSON *m, *role, *content;
    cJSON_ArrayForEach(m, messages) {
        if (!e)
            e = member(m, "role", &role);
        if (!e)
            e = member(m, "content", &content);
        if (!e)
            e = string_of(role, "the \"role\" of a message", &turn->role);
        if (!e)
            e = string_of(content, "the \"content\" of a message", &turn->content);
        if (e)
            break;
        turn++;
    }
    if (!e)
        e = messages_example(b, turns, (size_t)n);
    free(turns);
    return e;
}

static pd_err choices_line(builder *b, const char *prompt, const cJSON *choices,
                           const cJSON *answer) {
    int n = cJSON_IsArray(choices) ? cJSON_GetArraySize(choices) : 0;
    if (n < 2 || n > CHOICES_MAX)
        return pd_fail(PD_EFORMAT, "\"choices\" is not a list of 2 to %d strings", CHOICES_MAX);
    double a = cJSON_IsNumber(answer) ? answer->valuedouble : -1;
    if (!(a >= 0 && a < n) || a != floor(a))
        return pd_fail(PD_EFORMAT, "\"answer\" is not the index of a choice, 0 to %d", n - 1);
    const char **texts = calloc((size_t)n, sizeof *texts);
    pd_err e = texts ? PD_OK : pd_fail(PD_ENOMEM, "no memory for %d choices", n);
    const cJSON *c;
    size_t i = 0;
    cJSON_ArrayForEach(c, choices) {
        if (!e)
            e = string_of(c, "a choice", &texts[i++]);
    }
    if (!e)
        e = choice_example(b, prompt, texts, (size_t)n, (uint32_t)a);
    free(texts);
    return e;
}

static pd_err object_line(builder *b, const cJSON *o) {
    const cJSON *text, *messages, *prompt, *completion, *choices, *answer;
    const char *s = NULL, *c = NULL;
    if (!cJSON_IsObject(o))
        return pd_fail(PD_EFORMAT, "this is not a JSON object");
    pd_err e = member(o, "text", &text);
    if (!e)
        e = member(o, "messages", &messages);
    if (!e)
        e = member(o, "prompt", &prompt);
    if (!e)
        e = member(o, "completion", &completion);
    if (!e)
        e = member(o, "choices", &choices);
    if (!e)
        e = member(o, "answer", &answer);
    if (e)
        return e;
    if ((text != NULL) + (messages != NULL) + (prompt != NULL) != 1)
        return pd_fail(PD_EFORMAT, "a record has one of \"text\", \"messages\" and \"prompt\"");
    if (prompt && (completion != NULL) + (choices != NULL) != 1)
        return pd_fail(PD_EFORMAT, "a \"prompt\" goes with either a \"completion\" or \"choices\"");
    if (text)
        return (e = string_of(text, "\"text\"", &s)) ? e : text_example(b, s);
    if (messages)
        return messages_line(b, messages);
    e = string_of(prompt, "\"prompt\"", &s);
    if (e)
        return e;
    if (choices)
        return choices_line(b, s, choices, answer);
    return (e = string_of(completion, "\"completion\"", &c)) ? e : completion_example(b, s, c);
}

/* cJSON ends a string at \u0000 without a word. */
static bool has_escaped_nul(const char *p, size_t n) {
    for (size_t i = 0; i + 6 <= n; i++) {
        if (p[i] != '\\')
            continue;
        if (memcmp(p + i + 1, "u0000", 5) == 0)
            return true;
        i++; /* the escaped character, perhaps another backslash */
    }
    return false;
}

static pd_err parse_line(builder *b, const char *p, size_t n) {
    if (n > LINE_MAX_BYTES)
        return pd_fail(PD_EFORMAT, "the line has %zu bytes, more than the %d a record may have", n,
                       LINE_MAX_BYTES);
    size_t good = pd_utf8_span(p, n);
    if (good < n)
        return pd_fail(PD_EFORMAT, "byte %zu of the line is not UTF-8", good + 1);
    if (memchr(p, 0, n) || has_escaped_nul(p, n))
        return pd_fail(PD_EFORMAT, "the line holds a NUL character");
    const char *end = p;
    cJSON *o = cJSON_ParseWithLengthOpts(p, n, &end, 0);
    pd_err e;
    size_t at = (size_t)(end - p);
    while (o && at < n && strchr(" \t\r", p[at]))
        at++;
    if (!o || at < n)
        e = pd_fail(PD_EFORMAT, "this is not JSON from byte %zu of the line on", at + 1);
    else
        e = object_line(b, o);
    cJSON_Delete(o);
    return e;
}

/* One line, whole or not at all. */
static pd_err add_line(builder *b, const char *p, size_t n) {
    size_t n_ids = b->ids.n, n_scored = b->scored.n, n_seqs = b->seq_len.n,
           n_choices = b->choice_ids.n, n_drafts = b->n;
    pd_err e = parse_line(b, p, n);
    if (e) {
        b->ids.n = n_ids;
        b->scored.n = n_scored;
        b->seq_len.n = n_seqs;
        b->choice_ids.n = n_choices;
        b->n = n_drafts;
    }
    return e;
}

/* ---- the file ---- */

static pd_err read_lines(builder *b, const char *p, size_t n, bool skip_bad) {
    if (n >= 3 &&
        memcmp(p, "\xef\xbb\xbf", 3) == 0) { /* a byte order mark that some editors write */
        p += 3;
        n -= 3;
    }
    while (n) {
        const char *nl = memchr(p, '\n', n);
        size_t len = nl ? (size_t)(nl - p) : n, blank = 0;
        b->line++;
        while (blank < len && memchr(" \t\r", p[blank], 3))
            blank++;
        pd_err e = blank < len ? add_line(b, p, len) : PD_OK;
        if (e && (!skip_bad || e == PD_ENOMEM))
            return e;
        b->skipped += e != PD_OK;
        p += len + (nl != NULL);
        n -= len + (nl != NULL);
    }
    return PD_OK;
}

static pd_err finish(builder *b, pd_data *d) {
    d->examples = calloc(b->n, sizeof *d->examples);
    d->scored = malloc(b->scored.n);
    if (!d->examples || !d->scored)
        return pd_fail(PD_ENOMEM, "no memory for %zu examples", b->n);
    for (size_t i = 0; i < b->scored.n; i++)
        d->scored[i] = (uint8_t)b->scored.p[i];
    d->ids = b->ids.p;
    d->seq_len = b->seq_len.p;
    d->choice_ids = b->choice_ids.p;
    d->n = b->n;
    d->skipped = b->skipped;
    b->ids.p = b->seq_len.p = b->choice_ids.p = NULL;
    for (size_t i = 0; i < d->n; i++) {
        const draft *f = &b->drafts[i];
        pd_example *x = &d->examples[i];
        *x = f->x;
        x->seq_len = d->seq_len + f->seqs_at;
        x->ids = d->ids + f->ids_at;
        x->scored = d->scored + f->ids_at;
        x->choice_ids = f->one_token ? d->choice_ids + f->choices_at : NULL;
    }
    return PD_OK;
}

static pd_err read_file(const char *path, builder *b, const pd_data_opts *opts, pd_data *d) {
    pd_map map;
    pd_err e = pd_map_open(path, &map);
    if (e)
        return e;
    e = read_lines(b, (const char *)map.p, map.n, opts->skip_bad);
    if (e)
        e = pd_fail_in(e, "%s:%u", path, b->line);
    else if (b->n == 0)
        e = pd_fail(PD_EFORMAT, "%s has no record that can be used (%zu bad lines)", path,
                    b->skipped);
    else
        e = finish(b, d);
    pd_map_close(&map);
    return e;
}

pd_err pd_data_open(const char *path, const pd_tokenizer *t, const pd_data_opts *opts,
                    pd_data **out) {
    builder b = {.t = t, .window = opts->max_tokens};
    pd_data *d = calloc(1, sizeof *d);
    if (b.window < PD_WINDOW_MIN) {
        free(d);
        return pd_fail(PD_EUSAGE, "a window of %u tokens is too small: at least %d", b.window,
                       PD_WINDOW_MIN);
    }
    pd_err e = d ? read_file(path, &b, opts, d) : pd_fail(PD_ENOMEM, "no memory to read %s", path);
    free(b.ids.p);
    free(b.scored.p);
    free(b.seq_len.p);
    free(b.choice_ids.p);
    free(b.drafts);
    if (e) {
        pd_data_close(d);
        return e;
    }
    *out = d;
    return PD_OK;
}

void pd_data_close(pd_data *d) {
    if (!d)
        return;
    free(d->examples);
    free(d->ids);
    free(d->scored);
    free(d->seq_len);
    free(d->choice_ids);
    free(d);
}

size_t pd_data_count(const pd_data *d) {
    return d->n;
}

const pd_example *pd_data_at(const pd_data *d, size_t i) {
    assert(i < d->n);
    return &d->examples[i];
}

size_t pd_data_skipped(const pd_data *d) {
    return d->skipped;
}
