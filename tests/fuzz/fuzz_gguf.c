/* fuzz_gguf.c - a model file from anywhere: refused, or every name, key and extent lies inside it;
 * and refused as a model, or every tensor that the engine asks for can be read.
 */
#include "read_weights.h"

#include "peerd/gguf.h"
#include "peerd/quant.h"

#include <string.h>

static const char *const keys[] = {"general.architecture",  "general.alignment",
                                   "llama.block_count",     "tokenizer.ggml.tokens",
                                   "tokenizer.ggml.scores", "tokenizer.ggml.token_type"};

static void ask(const pd_gguf *g, const char *key) {
    uint64_t u;
    double f;
    bool b;
    pd_str s, strs[16];
    float f32[16];
    int32_t i32[16];
    size_t n;
    unsigned sum = 0;
    (void)pd_gguf_u64(g, key, &u);
    (void)pd_gguf_f64(g, key, &f);
    (void)pd_gguf_bool(g, key, &b);
    if (pd_gguf_str(g, key, &s))
        for (size_t i = 0; i < s.n; i++)
            sum += (unsigned char)s.p[i];
    if (!pd_gguf_count(g, key, &n))
        return;
    n = n < 16 ? n : 16;
    if (pd_gguf_strs(g, key, strs, n))
        for (size_t i = 0; i < n; i++)
            for (size_t k = 0; k < strs[i].n; k++)
                sum += (unsigned char)strs[i].p[k];
    (void)pd_gguf_f32s(g, key, f32, n);
    (void)pd_gguf_i32s(g, key, i32, n);
    FUZZ_CHECK(sum < UINT32_MAX); /* the bytes are read */
}

/* Every block of a tensor to floats, of whatever type. */
static void dequantise(const pd_tensor *t) {
    float out[256];
    size_t bytes = pd_quant_block_bytes(t->type), n = pd_quant_block(t->type);
    FUZZ_CHECK(n >= 1 && n <= 256 && t->size_bytes % bytes == 0);
    for (size_t at = 0; at < t->size_bytes; at += bytes)
        if (pd_quant_read(t->type, t->data + at, n, out) != PD_OK)
            return;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    pd_gguf *g;
    uint8_t digest[32];
    if (pd_gguf_open(fuzz_file(p, n), &g) != PD_OK)
        return 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        ask(g, keys[i]);
    for (size_t i = 0; i < pd_gguf_tensors(g); i++) {
        const pd_tensor *t = pd_gguf_tensor_at(g, i);
        FUZZ_CHECK(pd_gguf_tensor(g, t->name) == t);
        FUZZ_CHECK(t->n_dims >= 1 && t->n_dims <= PD_GGUF_DIMS_MAX && t->size_bytes <= n);
        dequantise(t);
    }
    pd_weights *w;
    if (pd_weights_of_gguf(g, &w) == PD_OK) {
        fuzz_read_weights(w);
        pd_weights_close(w);
    }
    pd_gguf_digest(g, digest); /* reads every tensor's bytes */
    pd_gguf_close(g);
    return 0;
}
