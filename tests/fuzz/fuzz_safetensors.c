/* fuzz_safetensors.c - weights from anywhere: refused, or every tensor lies inside the file.
 *
 * Input: the header's text up to the first line feed, or all of it | data.  The length before the
 * header is right unless the first byte is odd, so that the search is spent on what the header
 * says.
 */
#include "fuzz.h"

#include "../unit/gguf_writer.h"
#include "peerd/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    gw_buf file = {0};
    pd_safetensors *s;
    unsigned sum = 0;
    if (n && p[0] % 2 == 0) {
        const uint8_t *end = memchr(p + 1, '\n', n - 1);
        size_t header = end ? (size_t)(end - p - 1) : n - 1;
        gw_int(&file, header, 8);
        gw_put(&file, p + 1, header);
        gw_put(&file, p + 1 + header + (end != NULL), n - 1 - header - (end != NULL));
    } else if (n) {
        gw_put(&file, p + 1, n - 1);
    }
    const char *path = fuzz_file(file.p, file.n);
    size_t size = file.n;
    free(file.p);
    if (pd_safetensors_open(&path, 1, &s) != PD_OK)
        return 0;
    for (size_t i = 0; i < pd_safetensors_count(s); i++) {
        const pd_tensor *t = pd_safetensors_at(s, i);
        FUZZ_CHECK(pd_safetensors_find(s, t->name) == t);
        FUZZ_CHECK(t->n_dims >= 1 && t->n_dims <= PD_GGUF_DIMS_MAX && t->size_bytes <= size);
        for (size_t k = 0; k < t->size_bytes; k++)
            sum += t->data[k];
    }
    FUZZ_CHECK(sum < UINT32_MAX); /* the bytes are read */
    pd_safetensors_close(s);
    return 0;
}
