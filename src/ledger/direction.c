/* direction.c - seeds and key streams; see direction.h. */
#include "peerd/direction.h"
#include "peerd/bytes.h"

#include <assert.h>
#include <sodium.h>

void pd_direction_seed(const uint8_t run[32], const pd_author *author, uint64_t step,
                       uint8_t out[32]) {
    static const char tag[] = "peerd.direction.v1";
    uint8_t tail[12];
    pd_store32(tail, author->inc);
    pd_store64(tail + 4, step);
    pd_hash h;
    pd_hash_init(&h);
    pd_hash_add(&h, tag, sizeof tag - 1);
    pd_hash_add(&h, run, 32);
    pd_hash_add(&h, author->key, 32);
    pd_hash_add(&h, tail, sizeof tail);
    pd_hash_end(&h, out);
}

void pd_direction_signs(const uint8_t seed[32], uint8_t *bits, size_t d) {
    randombytes_buf_deterministic(bits, (d + 7) / 8, seed);
}

/* randombytes_buf_deterministic always begins at counter 0; from the middle the same stream is
 * asked for by its name. */
void pd_direction_signs_at(const uint8_t seed[32], size_t from, uint8_t *bits, size_t d) {
    static const uint8_t nonce[] = {'L', 'i', 'b', 's', 'o', 'd', 'i', 'u', 'm', 'D', 'R', 'G'};
    _Static_assert(sizeof nonce == crypto_stream_chacha20_ietf_NONCEBYTES, "12 bytes");
    assert(from % PD_DIRECTION_BLOCK == 0);
    size_t n = (d + 7) / 8;
    memset(bits, 0, n);
    crypto_stream_chacha20_ietf_xor_ic(bits, bits, n, nonce, (uint32_t)(from / PD_DIRECTION_BLOCK),
                                       seed);
}
