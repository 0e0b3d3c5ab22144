/* tokenizer.h - text to token ids and back, by the tokenizer of a GGUF file or of a Hugging Face folder.
 *
 *   data > TOKENS > loss pair > byte > ledger > gossip > replay > weights
 *
 * Of a GGUF file two kinds: `gpt2`, byte-level BPE [1] (ranks from the merges; pre-tokenizers `smollm`, `gpt-2`,
 * `qwen2`, `llama-bpe`, `default`, by PCRE2) and `llama`, SentencePiece-style BPE by score with byte fallback.  Of a folder's tokenizer.json:
 * BPE by merges, over bytes (ByteLevel behind Split, Digits and NFC) or characters (Metaspace, or Prepend and Replace,
 * with byte fallback).  Anything else is refused by name.  Ids equal llama.cpp's and the `tokenizers` package's on the
 * test vectors; merging takes n log n, whatever the text.  A tokenizer is read-only after open (any thread may use it)
 * and keeps nothing of the file it was read from; encode allocates a scratch of its own and frees it.
 *
 * [1] Sennrich, Haddow, Birch 2016, Neural machine translation of rare words with subword units, 1508.07909
 */
#ifndef PEERD_TOKENIZER_H
#define PEERD_TOKENIZER_H

#include "peerd/gguf.h"

typedef struct pd_tokenizer pd_tokenizer;

/* The longest text that encode takes at once. */
enum { PD_TOKENIZER_TEXT_MAX = 1 << 26 };

/* Read the tokenizer of a file.  gives *out; pd_tokenizer_close takes it (NULL is fine).
 * Errors: PD_EUNSUPPORTED (kind or pre-tokenizer, named), PD_EFORMAT (a list missing, of the wrong length, or naming a
 *         token that is not there), PD_ENOMEM.
 */
PD_CHECKED pd_err pd_tokenizer_open(const pd_gguf *g, pd_tokenizer **out);
void pd_tokenizer_close(pd_tokenizer *t);

/* Paths of a folder's files; all but the first may be NULL: not there. */
typedef struct pd_tokenizer_files {
    const char *tokenizer; /* tokenizer.json: vocabulary, merges and rules */
    const char *settings;  /* tokenizer_config.json: names of BOS and EOS, add_bos_token, chat template */
    const char *config;    /* config.json: their ids, where the settings name none */
    const char *chat;      /* chat_template.jinja: the chat template, before the settings' */
} pd_tokenizer_files;

/* Read the tokenizer of a folder.  gives *out.
 * Errors: PD_ENOENT, PD_EIO, PD_EUNSUPPORTED (a model that is not BPE, a normaliser, pre-tokenizer, post-processor,
 *         pattern or flag of an added token that is not done; named), PD_EFORMAT (no JSON, too large, a list missing,
 *         an id twice or out of range, a merge or name of a token that is not there), PD_ENOMEM.  The text names the
 *         file.
 */
PD_CHECKED pd_err pd_tokenizer_open_json(const pd_tokenizer_files *files, pd_tokenizer **out);

/* Token ids of a text.
 *
 *   text     in   UTF-8 (invalid bytes are taken as bytes), n bytes
 *   special  in   true: the texts of control tokens in `text` become those tokens (user-defined ones always do)
 *   ids      out  fresh memory (gives), *count ids, each < vocabulary; no BOS or EOS is added
 *
 * Errors: PD_ENOMEM, PD_EFORMAT (longer than PD_TOKENIZER_TEXT_MAX).
 */
PD_CHECKED pd_err pd_tokenizer_encode(const pd_tokenizer *t, const char *text, size_t n, bool special, uint32_t **ids,
                                      size_t *count);

/* The same for a text that continues another one: where the file asks for a space before a text's first word, none is
 * put before this one.  Differs from pd_tokenizer_encode only for such files.
 */
PD_CHECKED pd_err pd_tokenizer_encode_more(const pd_tokenizer *t, const char *text, size_t n, bool special,
                                           uint32_t **ids, size_t *count);

/* The bytes of one token as they appear in text (control tokens give their name).  Borrowed from the tokenizer, *n
 * bytes, not terminated, perhaps a part of a character.
 */
const char *pd_tokenizer_piece(const pd_tokenizer *t, uint32_t id, size_t *n);

uint32_t pd_tokenizer_vocab(const pd_tokenizer *t);
bool pd_tokenizer_adds_bos(const pd_tokenizer *t);
/* Ids, or UINT32_MAX where the file names none. */
uint32_t pd_tokenizer_bos(const pd_tokenizer *t);
uint32_t pd_tokenizer_eos(const pd_tokenizer *t);
/* Id of a token by its exact text, or UINT32_MAX. */
uint32_t pd_tokenizer_find(const pd_tokenizer *t, const char *text);

/* Chat template family, told from the file's template by its markers.  PD_CHAT_NONE: `messages` are refused. */
typedef enum pd_chat { PD_CHAT_NONE, PD_CHAT_CHATML, PD_CHAT_LLAMA2, PD_CHAT_ZEPHYR } pd_chat;
pd_chat pd_tokenizer_chat(const pd_tokenizer *t);

/* Digest of everything the ids depend on (kind, pre-tokenizer, tokens, types, scores, merges, BOS and space rules). */
void pd_tokenizer_digest(const pd_tokenizer *t, uint8_t out[32]);

#endif
