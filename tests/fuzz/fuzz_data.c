/* fuzz_data.c - a site's records: every line is read or refused by name, and what is read fits the
 * window and the vocabulary.
 *
 * Input: opts 1 | the file.  opts bit 0: skip bad lines; bit 1: which tokenizer; the rest: the
 * window.
 */
#include "fuzz.h"

#include "../unit/tiny_vocab.h"
#include "peerd/data.h"

static pd_tokenizer *tokenizer(bool llama) {
    static pd_tokenizer *kept[2];
    pd_gguf *g;
    if (kept[llama])
        return kept[llama];
    vocab *v = llama ? spm_vocab() : bpe_vocab();
    gw w = write_vocab(v, llama ? "llama" : "gpt2", llama ? NULL : "smollm");
    gw_str(&w, "tokenizer.chat_template", llama ? "<|user|> </s>" : "<|im_start|><|im_end|>");
    gw_buf file = gw_finish(&w);
    FUZZ_CHECK(pd_gguf_open(fuzz_file(file.p, file.n), &g) == PD_OK);
    FUZZ_CHECK(pd_tokenizer_open(g, &kept[llama]) == PD_OK);
    pd_gguf_close(g);
    free(file.p);
    free(v);
    return kept[llama];
}

static void check(const pd_example *e, const pd_tokenizer *t, uint32_t window) {
    const uint32_t *ids = e->ids;
    FUZZ_CHECK(e->n_seqs >= 1);
    for (uint32_t s = 0; s < e->n_seqs; s++) {
        FUZZ_CHECK(e->seq_len[s] >= 1 && e->seq_len[s] <= window);
        for (uint32_t i = 0; i < e->seq_len[s]; i++)
            FUZZ_CHECK(*ids++ < pd_tokenizer_vocab(t));
    }
    if (e->kind == PD_EXAMPLE_CHOICE)
        FUZZ_CHECK(e->answer < e->n_choices);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    fuzz_bytes in = {p, n};
    unsigned flags = fuzz_take(&in);
    pd_tokenizer *t = tokenizer(flags >> 1 & 1);
    pd_data_opts opts = {.max_tokens = PD_WINDOW_MIN + (flags >> 2), .skip_bad = flags & 1};
    pd_data *d;
    if (pd_data_open(fuzz_file(in.p, in.n), t, &opts, &d) != PD_OK)
        return 0;
    for (size_t i = 0; i < pd_data_count(d); i++)
        check(pd_data_at(d, i), t, opts.max_tokens);
    pd_data_close(d);
    return 0;
}
