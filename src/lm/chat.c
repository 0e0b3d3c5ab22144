/* chat.c - conversations to tokens: the families of chat templates that we know, told by their
 * markers.
 *
 *   ChatML   <|im_start|>ROLE\nCONTENT<|im_end|>\n                           each turn
 *   Llama 2  BOS [INST] <<SYS>>\nSYSTEM\n<</SYS>>\n\nUSER [/INST] ANSWER EOS    each exchange
 *   Zephyr   <|ROLE|>\nCONTENT EOS \n                                        each turn
 *
 * A template is a program (Jinja); we do not run it but write its family's form out, and refuse
 * files of other families.  What stands before an answer and the answer are tokenised separately,
 * because that is the boundary that generation meets.  Contents never become control tokens,
 * whatever they say: only the template's own markers do.
 */
#include "tok.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool has(pd_str s, const char *marker) {
    return s.p && memmem(s.p, s.n, marker, strlen(marker)) != NULL;
}

/* ChatML templates that bring a system message of their own spell it
 *   '<|im_start|>system\nYou are ...<|im_end|>\n'
 * in one literal; the line feed is one, or an escape.
 */
static pd_err find_system(pd_tokenizer *t, pd_str template) {
    static const char *const starts[] = {"<|im_start|>system\n", "<|im_start|>system\\n"};
    for (int i = 0; i < 2; i++) {
        const char *p = memmem(template.p, template.n, starts[i], strlen(starts[i]));
        if (!p)
            continue;
        p += strlen(starts[i]);
        size_t left = (size_t)(template.p + template.n - p);
        const char *end = memmem(p, left, "<|im_end|>", 10);
        if (!end || end == p || memchr(p, '\'', (size_t)(end - p)) ||
            memchr(p, '\\', (size_t)(end - p)) || memchr(p, '{', (size_t)(end - p)) ||
            memchr(p, '"', (size_t)(end - p)))
            continue;
        t->chat_system = strndup(p, (size_t)(end - p));
        return t->chat_system ? PD_OK : pd_fail(PD_ENOMEM, "no memory for a chat template");
    }
    return PD_OK;
}

pd_err tok_chat_open(pd_tokenizer *t, pd_str template) {
    if (has(template, "<|im_start|>") && tok_find(t, "<|im_start|>", 12) != TOK_NONE &&
        tok_find(t, "<|im_end|>", 10) != TOK_NONE) {
        t->chat = PD_CHAT_CHATML;
        return find_system(t, template);
    }
    if (has(template, "[INST]") && has(template, "<<SYS>>") && t->eos != TOK_NONE)
        t->chat = PD_CHAT_LLAMA2;
    else if (has(template, "<|user|>") && has(template, "<|assistant|>") &&
             has(template, "eos_token") && !has(template, "<|end|>") && t->eos != TOK_NONE)
        t->chat = PD_CHAT_ZEPHYR;
    return PD_OK;
}

/* Where tokens go, and whether a marker stands last, after which a text starts anew
 * (pd_tokenizer_encode). */
typedef struct sink {
    const pd_tokenizer *t;
    tok_ids *ids, *scored;
    bool fresh;
} sink;

static pd_err put(sink *s, const uint32_t *ids, size_t n, uint32_t scored) {
    pd_err e = tok_append(s->ids, ids, n);
    for (size_t i = 0; !e && i < n; i++)
        e = tok_append(s->scored, &scored, 1);
    return e;
}

static pd_err put_marker(sink *s, uint32_t id, uint32_t scored) {
    s->fresh = s->t->space != TOK_SPACE_FIRST;
    return put(s, &id, 1, scored);
}

/* A text whose parts are tokenised together. */
static pd_err put_text(sink *s, uint32_t scored, const char *fmt, ...) PD_PRINTF(3, 4);
static pd_err put_text(sink *s, uint32_t scored, const char *fmt, ...) {
    char *text;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    if (n < 0)
        return pd_fail(PD_ENOMEM, "no memory for a conversation");
    uint32_t *ids;
    size_t count;
    pd_err e = (s->fresh ? pd_tokenizer_encode : pd_tokenizer_encode_more)(s->t, text, (size_t)n,
                                                                           false, &ids, &count);
    free(text);
    if (e)
        return e;
    s->fresh = s->fresh && n == 0;
    e = put(s, ids, count, scored);
    free(ids);
    return e;
}

static bool is(const char *role, const char *name) {
    return strcmp(role, name) == 0;
}

/* The form that ChatML and Zephyr share: opening (a marker, or text), role, line feed, content, end
 * marker, line feed. */
static pd_err framed_turn(sink *s, uint32_t open, const char *head, const char *content,
                          uint32_t close, bool answer) {
    pd_err e = open != TOK_NONE ? put_marker(s, open, 0) : PD_OK;
    if (!e && answer) {
        e = put_text(s, 0, "%s\n", head);
        if (!e)
            e = put_text(s, 1, "%s", content);
    } else if (!e) {
        e = put_text(s, 0, "%s\n%s", head, content);
    }
    if (!e)
        e = put_marker(s, close, answer);
    return e ? e : put_text(s, 0, "\n");
}

static pd_err chatml_turn(sink *s, const char *role, const char *content) {
    return framed_turn(s, tok_find(s->t, "<|im_start|>", 12), role, content,
                       tok_find(s->t, "<|im_end|>", 10), is(role, "assistant"));
}

static pd_err zephyr_turn(sink *s, const char *role, const char *content) {
    char marker[32];
    snprintf(marker, sizeof marker, "<|%s|>", role);
    uint32_t id =
        tok_find(s->t, marker, strlen(marker)); /* a token in some files, text in others */
    return framed_turn(s, id, id == TOK_NONE ? marker : "", content, s->t->eos,
                       is(role, "assistant"));
}

/* A string without the white space at its ends. */
static pd_str strip(const char *p) {
    static const char space[] = " \t\n\r\v\f";
    p += strspn(p, space);
    size_t n = strlen(p);
    while (n && strchr(space, p[n - 1]))
        n--;
    return (pd_str){p, n};
}

/* One turn of Llama 2's form; the system message waits in *system for the user's. */
static pd_err llama2_turn(sink *s, const char *role, const char *content, const char **system) {
    pd_str text = strip(content);
    pd_err e = PD_OK;
    if (is(role, "system")) {
        *system = content;
        return PD_OK;
    }
    if (is(role, "assistant")) {
        e = put_text(s, 1, " %.*s ", (int)text.n, text.p);
        return e ? e : put_marker(s, s->t->eos, 1);
    }
    if (s->ids->n && s->t->bos != TOK_NONE) /* the first BOS is the sequence's own */
        e = put_marker(s, s->t->bos, 0);
    const char *sys = *system;
    *system = NULL;
    if (e)
        return e;
    return put_text(s, 0, "[INST] %s%s%s%.*s [/INST]", sys ? "<<SYS>>\n" : "", sys ? sys : "",
                    sys ? "\n<</SYS>>\n\n" : "", (int)text.n, text.p);
}

pd_err tok_chat_encode(const pd_tokenizer *t, const tok_turn *turns, size_t n, tok_ids *ids,
                       tok_ids *scored) {
    /* Llama 2's form begins with BOS, so its first words are not the text's. */
    bool fresh = t->space != TOK_SPACE_FIRST || t->chat != PD_CHAT_LLAMA2;
    sink s = {t, ids, scored, fresh};
    const char *system = NULL;
    if (t->chat == PD_CHAT_NONE)
        return pd_fail(
            PD_EUNSUPPORTED,
            "the model's file has no chat template that we know (ChatML, Llama 2, Zephyr): "
            "use prompt and completion");
    pd_err e = PD_OK;
    if (t->chat == PD_CHAT_CHATML && t->chat_system && n && !is(turns[0].role, "system"))
        e = chatml_turn(&s, "system", t->chat_system);
    for (size_t i = 0; !e && i < n; i++) {
        const char *role = turns[i].role, *content = turns[i].content;
        if (!is(role, "system") && !is(role, "user") && !is(role, "assistant"))
            return pd_fail(PD_EFORMAT, "the role of message %zu is not system, user or assistant",
                           i);
        e = t->chat == PD_CHAT_CHATML   ? chatml_turn(&s, role, content)
            : t->chat == PD_CHAT_ZEPHYR ? zephyr_turn(&s, role, content)
                                        : llama2_turn(&s, role, content, &system);
    }
    return e;
}
