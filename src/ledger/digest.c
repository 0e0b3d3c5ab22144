/* digest.c - XXH3 over coordinates and bytes; see digest.h. */
#include "peerd/digest.h"
#include "peerd/bytes.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* Through a small little-endian buffer, so that the digest is the same on a big-endian machine; on
 * the others the compiler turns the inner loop into a copy. */
void pd_replay_digest(const int32_t *a, size_t d, uint8_t out[PD_DIGEST_BYTES]) {
    enum { BATCH = 1024 };
    uint8_t le[4 * BATCH];
    XXH3_state_t state;
    XXH3_128bits_reset(&state);
    for (size_t i = 0; i < d; i += BATCH) {
        size_t n = d - i < BATCH ? d - i : BATCH;
        for (size_t j = 0; j < n; j++)
            pd_store32(le + 4 * j, (uint32_t)a[i + j]);
        XXH3_128bits_update(&state, le, 4 * n);
    }
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state));
    memcpy(out, canonical.digest, PD_DIGEST_BYTES);
}

uint64_t pd_xxh64(const void *p, size_t n, uint64_t seed) {
    return XXH3_64bits_withSeed(p, n, seed);
}
