/* tiny_vocab.h - two tokenizers small enough to be worked out by hand, as GGUF metadata. */
#ifndef PD_TINY_VOCAB_H
#define PD_TINY_VOCAB_H

#include "gguf_writer.h"

#include <stdbool.h>

typedef struct vocab {
    const char *tokens[400], *merges[64];
    int32_t types[400];
    float scores[400];
    size_t n, n_merges;
    char spelled[256][8];
} vocab;

static inline void add_token(vocab *v, const char *text, int32_t type, float score) {
    v->tokens[v->n] = text;
    v->types[v->n] = type;
    v->scores[v->n++] = score;
}

/* Ids 0..255 are the bytes in GPT-2's spelling; then aa, aaaa; a control and a user-defined token.
 */
static inline vocab *bpe_vocab(void) {
    vocab *v = calloc(1, sizeof *v);
    unsigned hidden = 0;
    for (unsigned b = 0; b < 256; b++) {
        bool visible = (b > 32 && b < 127) || (b > 160 && b != 173);
        unsigned c = visible ? b : 256 + hidden++;
        if (c < 128)
            snprintf(v->spelled[b], 8, "%c", (char)c);
        else
            snprintf(v->spelled[b], 8, "%c%c", (char)(0xc0 | c >> 6), (char)(0x80 | (c & 63)));
        add_token(v, v->spelled[b], 1, 0);
    }
    add_token(v, "aa", 1, 0);
    add_token(v, "aaaa", 1, 0);
    add_token(v, "<|im_end|>", 3, 0);
    add_token(v, "<tool>", 4, 0);
    v->merges[v->n_merges++] = "a a";
    v->merges[v->n_merges++] = "aa aa";
    return v;
}

/* <unk> <s> </s>, 256 byte tokens from id 3, then pieces: U+2581 259, a 260, aa 261, aaaa 262, b
 * 263, U+2581 a 264. */
static inline vocab *spm_vocab(void) {
    vocab *v = calloc(1, sizeof *v);
    add_token(v, "<unk>", 2, 0);
    add_token(v, "<s>", 3, 0);
    add_token(v, "</s>", 3, 0);
    for (unsigned b = 0; b < 256; b++) {
        snprintf(v->spelled[b], 8, "<0x%02X>", b);
        add_token(v, v->spelled[b], 6, 0);
    }
    add_token(v, "\xe2\x96\x81", 1, -9);
    add_token(v, "a", 1, -8);
    add_token(v, "aa", 1, -2);
    add_token(v, "aaaa", 1, -1);
    add_token(v, "b", 1, -7);
    add_token(v,
              "\xe2\x96\x81"
              "a",
              1, -3);
    return v;
}

static inline gw write_vocab(const vocab *v, const char *model, const char *pre) {
    gw w = gw_new();
    gw_str(&w, "tokenizer.ggml.model", model);
    if (pre)
        gw_str(&w, "tokenizer.ggml.pre", pre);
    gw_strs(&w, "tokenizer.ggml.tokens", v->tokens, v->n);
    gw_i32s(&w, "tokenizer.ggml.token_type", v->types, v->n);
    if (v->n_merges)
        gw_strs(&w, "tokenizer.ggml.merges", v->merges, v->n_merges);
    else
        gw_f32s(&w, "tokenizer.ggml.scores", v->scores, v->n);
    return w;
}

#endif
