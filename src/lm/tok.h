/* tok.h - the parts of the tokenizer: vocabulary (tokenizer.c), texts (tokenizer_encode.c), words (tokenizer_split.c),
 * merging (tokenizer_merge.c), chat templates (chat.c).  Private to src/lm.
 */
#ifndef PD_LM_TOK_H
#define PD_LM_TOK_H

#include "peerd/tokenizer.h"

#define TOK_NONE UINT32_MAX

typedef enum tok_kind { TOK_BPE, TOK_SPM } tok_kind;

/* Token types as in the file (tokenizer.ggml.token_type). */
enum { TOK_NORMAL = 1, TOK_UNKNOWN, TOK_CONTROL, TOK_USER, TOK_UNUSED, TOK_BYTE };

typedef struct tok_ids {
    uint32_t *p;
    size_t n, room;
} tok_ids;

/* Append k ids.  Errors: PD_ENOMEM. */
PD_CHECKED pd_err tok_append(tok_ids *v, const uint32_t *ids, size_t k);

typedef struct tok_merge {
    uint32_t left, right; /* left == TOK_NONE: a free slot */
    uint32_t rank, made;
} tok_merge;

typedef struct tok_split tok_split;

struct pd_tokenizer {
    tok_kind kind;
    uint32_t n;        /* tokens */
    pd_str *text;      /* (n) as the file spells them */
    pd_str *piece;     /* (n) as they appear in text */
    uint8_t *type;     /* (n) */
    char *text_bytes;  /* what `text` points into */
    char *piece_bytes; /* what `piece` points into */
    size_t longest;    /* of text, bytes */
    uint32_t *slots;   /* text -> id, open addressing */
    size_t slot_mask;
    uint32_t *specials; /* control, user-defined and unknown tokens, longest first */
    size_t n_specials;
    uint32_t byte_id[256]; /* the token of one byte, or TOK_NONE */
    uint32_t unknown, bos, eos;
    bool adds_bos, adds_space;

    tok_merge *merges; /* BPE: pair -> rank, open addressing */
    size_t merge_mask;
    tok_split *split; /* BPE */
    uint32_t *order;  /* (n) SPM: merging order of each token, lower first, ties are equal */

    pd_chat chat;
    char *chat_system; /* the template's own system message, or NULL where it has none */
    uint8_t digest[32];
};

/* Id of a token by its text; TOK_NONE. */
uint32_t tok_find(const pd_tokenizer *t, const char *p, size_t n);

/* ---- words ---- */

/* Errors: PD_EUNSUPPORTED (the text names the pre-tokenizer), PD_ENOMEM. */
PD_CHECKED pd_err tok_split_open(pd_str pre, tok_split **out);
void tok_split_close(tok_split *s);

typedef pd_err tok_word(void *ctx, const char *p, size_t n);
/* Call `word` for every word of a text in order; together they are the text.  Errors: PD_ENOMEM,
 * and those of `word`. */
PD_CHECKED pd_err tok_split_each(const tok_split *s, const char *p, size_t n, tok_word *word,
                                 void *ctx);

/* ---- merging ---- */

/* The token made of two neighbours and its place in the order of merging; false where there is
 * none. */
bool tok_pair(const pd_tokenizer *t, uint32_t left, uint32_t right, uint32_t *rank, uint32_t *made);
/* Errors: PD_EFORMAT (a merge of tokens that are not there), PD_ENOMEM. */
PD_CHECKED pd_err tok_merges_open(pd_tokenizer *t, const pd_str *merges, size_t n);

/* Memory of one encode, used again for each of its words. */
typedef struct tok_work {
    struct tok_symbol *symbols;
    uint64_t *heap;
    size_t room;
    tok_ids out;
} tok_work;
void tok_work_free(tok_work *w); /* all but `out` */

/* Append the tokens of one word (BPE) or one escaped text (SPM).  Errors: PD_ENOMEM. */
PD_CHECKED pd_err tok_merge_text(const pd_tokenizer *t, tok_work *w, const char *p, size_t n);

/* ---- chat ---- */

/* Tell the family and the default system message from the file's template.  Errors: PD_ENOMEM. */
PD_CHECKED pd_err tok_chat_open(pd_tokenizer *t, pd_str template);

typedef struct tok_turn {
    const char *role, *content; /* terminated */
} tok_turn;

/* The token sequence of a conversation, BOS excluded, and for each token whether it is scored: the
 * assistant's contents and the tokens that end them.  ids and scored are appended to, in step.
 * Errors: PD_EUNSUPPORTED (no template that we know), PD_EFORMAT (a role that we do not know),
 * PD_ENOMEM.
 */
PD_CHECKED pd_err tok_chat_encode(const pd_tokenizer *t, const tok_turn *turns, size_t n,
                                  tok_ids *ids, tok_ids *scored);

#endif
