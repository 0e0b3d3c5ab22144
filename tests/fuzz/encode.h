/* encode.h - a text through a tokenizer that was opened from anywhere, for its two fuzz targets. */
#ifndef PEERD_FUZZ_ENCODE_H
#define PEERD_FUZZ_ENCODE_H

#include "fuzz.h"
#include "peerd/tokenizer.h"

#include <stdlib.h>

static inline void fuzz_encode(const pd_tokenizer *t, const char *text, size_t n, bool special) {
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

#endif
