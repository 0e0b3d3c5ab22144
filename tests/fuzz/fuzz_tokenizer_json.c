/* fuzz_tokenizer_json.c - a tokenizer.json from anywhere, and a text for it.
 *
 * Input: the file up to the first 0 byte | the text.
 */
#include "fuzz.h"

#include "peerd/tokenizer.h"

#include <string.h>

static void encode(const pd_tokenizer *t, const char *text, size_t n, bool special) {
    uint32_t *ids = NULL;
    size_t count = 0, size;
    if (pd_tokenizer_encode(t, text, n, special, &ids, &count) != PD_OK)
        return;
    for (size_t i = 0; i < count; i++) {
        FUZZ_CHECK(ids[i] < pd_tokenizer_vocab(t));
        FUZZ_CHECK(pd_tokenizer_piece(t, ids[i], &size) != NULL || size == 0);
    }
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    const uint8_t *end = n ? memchr(p, 0, n) : NULL;
    size_t file = end ? (size_t)(end - p) : n, text = n - file - (end != NULL);
    pd_tokenizer_files files = {.tokenizer = fuzz_file(p, file)};
    pd_tokenizer *t;
    uint8_t digest[32];
    if (pd_tokenizer_open_json(&files, &t) != PD_OK)
        return 0;
    encode(t, (const char *)p + n - text, text, false);
    encode(t, (const char *)p + n - text, text, true);
    pd_tokenizer_digest(t, digest);
    pd_tokenizer_close(t);
    return 0;
}
