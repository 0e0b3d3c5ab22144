/* fuzz_tokenizer_json.c - a tokenizer.json from anywhere, and a text for it.
 *
 * Input: the file up to the first 0 byte | the text.
 */
#include "encode.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    const uint8_t *end = n ? memchr(p, 0, n) : NULL;
    size_t file = end ? (size_t)(end - p) : n, text = n - file - (end != NULL);
    pd_tokenizer_files files = {.tokenizer = fuzz_file(p, file)};
    pd_tokenizer *t;
    uint8_t digest[32];
    if (pd_tokenizer_open_json(&files, &t) != PD_OK)
        return 0;
    fuzz_encode(t, (const char *)p + n - text, text, false);
    fuzz_encode(t, (const char *)p + n - text, text, true);
    pd_tokenizer_digest(t, digest);
    pd_tokenizer_close(t);
    return 0;
}
