/* fuzz_tokenizer.c - the tokenizer that a model file brings along, and a text for it.
 *
 * Input: kind 1 | count 1 | (size 1 | type 1 | token) ... | merges 1 | (size 1 | merge) ... | text.
 * The rest of the file is sound, so that the search is spent on what the lists say.
 */
#include "encode.h"

#include "../unit/gguf_writer.h"

enum { TOKENS_MAX = 600, MERGES_MAX = 64 };

typedef struct lists {
    char text[TOKENS_MAX][32], merge[MERGES_MAX][32];
    const char *tokens[TOKENS_MAX], *merges[MERGES_MAX];
    int32_t types[TOKENS_MAX];
    float scores[TOKENS_MAX];
    size_t n, n_merges;
} lists;

static void take_text(fuzz_bytes *in, char out[32]) {
    size_t n = fuzz_take(in) % 31;
    for (size_t i = 0; i < n; i++)
        out[i] = (char)fuzz_take(in);
    out[n] = 0;
}

/* Half of the inputs have a whole set of byte tokens first. */
static void byte_tokens(lists *l) {
    for (unsigned b = 0; b < 256; b++) {
        snprintf(l->text[l->n], 32, "<0x%02X>", b);
        l->tokens[l->n] = l->text[l->n];
        l->types[l->n++] = 6;
    }
}

static void take_lists(fuzz_bytes *in, bool bytes, lists *l) {
    if (bytes)
        byte_tokens(l);
    for (unsigned k = fuzz_take(in); k && l->n < TOKENS_MAX; k--) {
        l->types[l->n] = (int32_t)(fuzz_take(in) % 8);
        take_text(in, l->text[l->n]);
        l->scores[l->n] = (float)l->types[l->n] - (float)(l->n % 7);
        l->tokens[l->n] = l->text[l->n];
        l->n++;
    }
    for (unsigned k = fuzz_take(in) % MERGES_MAX; k; k--) {
        take_text(in, l->merge[l->n_merges]);
        l->merges[l->n_merges] = l->merge[l->n_merges];
        l->n_merges++;
    }
}

static gw_buf file_of(fuzz_bytes *in) {
    static const char *const pres[] = {"smollm", "gpt-2", "default", "other"};
    static lists l;
    memset(&l, 0, sizeof l);
    unsigned kind = fuzz_take(in);
    take_lists(in, kind & 2, &l);
    gw w = gw_new();
    gw_str(&w, "tokenizer.ggml.model", kind & 1 ? "llama" : "gpt2");
    gw_str(&w, "tokenizer.ggml.pre", pres[kind >> 2 & 3]);
    gw_strs(&w, "tokenizer.ggml.tokens", l.tokens, l.n);
    gw_i32s(&w, "tokenizer.ggml.token_type", l.types, l.n);
    if (kind & 16)
        gw_bool(&w, "tokenizer.ggml.add_space_prefix", kind >> 5 & 1);
    if (kind & 64)
        gw_str(&w, "tokenizer.chat_template", l.n ? l.tokens[0] : "");
    gw_u32(&w, "tokenizer.ggml.bos_token_id", kind >> 7);
    if (kind & 1)
        gw_f32s(&w, "tokenizer.ggml.scores", l.scores, l.n);
    else
        gw_strs(&w, "tokenizer.ggml.merges", l.merges, l.n_merges);
    return gw_finish(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    fuzz_bytes in = {p, n};
    gw_buf file = file_of(&in);
    const char *path = fuzz_file(file.p, file.n);
    pd_gguf *g;
    pd_tokenizer *t;
    uint8_t digest[32];
    free(file.p);
    if (pd_gguf_open(path, &g) != PD_OK)
        return 0;
    if (pd_tokenizer_open(g, &t) == PD_OK) {
        fuzz_encode(t, (const char *)in.p, in.n, false);
        fuzz_encode(t, (const char *)in.p, in.n, true);
        pd_tokenizer_digest(t, digest);
        (void)pd_tokenizer_chat(t);
        pd_tokenizer_close(t);
    }
    pd_gguf_close(g);
    return 0;
}
