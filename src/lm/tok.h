/* tok.h - the parts of the tokenizer: what files say (tokenizer_gguf.c, tokenizer_json.c),
 * vocabulary (tokenizer.c), texts (tokenizer_encode.c), words (tokenizer_split.c,
 * tokenizer_regex.c), merging (tokenizer_merge.c), chat templates (chat.c).  Private to src/lm.
 */
#ifndef PD_LM_TOK_H
#define PD_LM_TOK_H

#include "peerd/tokenizer.h"

#define TOK_NONE UINT32_MAX

/* What a text is cut into before merging: bytes (spelled in GPT-2's alphabet), or characters (with
 * spaces spelled U+2581). */
typedef enum tok_kind { TOK_BPE, TOK_SPM } tok_kind;

/* Where a space is put before a text's first word: nowhere; before every stretch between special
 * tokens; the same, unless it begins with one; only where the whole text begins, unless with one.
 */
typedef enum tok_space {
    TOK_SPACE_NONE,
    TOK_SPACE_ALWAYS,
    TOK_SPACE_UNLESS,
    TOK_SPACE_FIRST
} tok_space;

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
    uint32_t *specials; /* control, user-defined and unknown tokens, longest first; of
                           tokenizer.json by first byte, then so */
    size_t n_specials;
    uint32_t
        special_at[257];   /* tokenizer.json: those that begin with byte b are [at[b], at[b + 1]) */
    bool *late;            /* (n) tokenizer.json: looked for in the normalised text; or NULL */
    uint32_t byte_id[256]; /* the token of one byte, or TOK_NONE */
    uint32_t unknown, bos, eos;
    bool adds_bos;
    tok_space space;

    tok_merge *merges; /* pair -> rank, open addressing; NULL: by `order` */
    size_t merge_mask;
    tok_split *split; /* BPE */
    uint32_t *order; /* (n) SPM of GGUF: merging order of each token, lower first, ties are equal */

    bool json;          /* the rules of tokenizer.json where they differ from llama.cpp's */
    bool nfc;           /* texts are normalised first */
    bool splits_space;  /* SPM: a word begins at each U+2581 */
    bool whole_words;   /* a word that is a token is not cut */
    bool fuses_unknown; /* characters in a row that are no token are one unknown token */

    pd_chat chat;
    char *chat_system; /* the template's own system message, or NULL where it has none */
    uint8_t digest[32];
};

/* Id of a token by its text; TOK_NONE. */
uint32_t tok_find(const pd_tokenizer *t, const char *p, size_t n);

/* ---- what a file says ---- */

typedef struct tok_pair_text {
    pd_str left, right;
} tok_pair_text;

/* The lists that a reader borrows from its file, for tok_build to check and copy.  The flags and
 * ids of the rules it sets in the tokenizer itself. */
typedef struct tok_lists {
    pd_str kind, pre; /* for the digest: which reader, and what cuts words */
    pd_str *tokens;   /* (n) */
    int32_t *types;   /* (n), or NULL: all normal */
    float *scores;    /* (n), or NULL: merging goes by `merges` */
    size_t n;
    tok_pair_text *merges; /* (n_merges) */
    size_t n_merges;
} tok_lists;

/* Copy the lists and make what encoding needs.  Errors: PD_EFORMAT (a score that is no number, a
 * merge of tokens that are not there), PD_ENOMEM. */
PD_CHECKED pd_err tok_build(pd_tokenizer *t, const tok_lists *l);
void tok_lists_free(tok_lists *l);

/* ---- words ---- */

/* The pre-tokenizer of a GGUF file by its name.  *llama3: a file of it adds BOS unless it says
 * otherwise, and does not cut a word that is a token.  Errors: PD_EUNSUPPORTED (the text names the
 * pre-tokenizer), PD_ENOMEM. */
PD_CHECKED pd_err tok_split_open(pd_str pre, tok_split **out, bool *llama3);
void tok_split_close(tok_split *s);

/* Put one more pattern behind the others; *s is made where it is NULL.  No pattern at all leaves a
 * text one word.
 *
 *   literal  in  the pattern is a text, not an expression
 *   drops    in  what stands between its matches is left out
 *
 * Errors: PD_EUNSUPPORTED (the text shows the pattern: PCRE2 does not take it, it matches nothing
 * at all, or there are too many), PD_ENOMEM. */
PD_CHECKED pd_err tok_split_add(tok_split **s, const char *pattern, bool literal, bool drops);
extern const char *const tok_split_gpt2;

/* An expression as tokenizer.json writes it (Oniguruma, Ruby's syntax) in PCRE2's words.  gives
 * *out (free). Errors: PD_EUNSUPPORTED (names what means something else in the two, or is not known
 * here), PD_ENOMEM. */
PD_CHECKED pd_err tok_regex(const char *pattern, char **out);

/* White space as Unicode defines it, for use within brackets.  PCRE2's \s takes U+180E besides,
 * which no tokenizer was trained with. */
#define TOK_WHITE                                                                                  \
    "\\t-\\r "                                                                                     \
    "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

/* Normalisation form C of a text; bytes that are not UTF-8 stay.  gives *out (free), *m bytes.
 * Errors: PD_ENOMEM. */
PD_CHECKED pd_err tok_nfc(const char *p, size_t n, char **out, size_t *m);

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
PD_CHECKED pd_err tok_merges_open(pd_tokenizer *t, const tok_pair_text *merges, size_t n);

/* Memory of one encode, used again for each of its words. */
typedef struct tok_work {
    struct tok_symbol *symbols;
    uint64_t *heap;
    size_t room;
    char *spelled; /* a word as tokens are spelled; made at need */
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
