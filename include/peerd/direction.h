/* direction.h - the +-1 vector of a record, derived and never sent.  The other door to libsodium.
 *
 *   data > tokens > loss pair > byte > ledger > gossip > REPLAY > weights
 *
 *   seed  = BLAKE2b-256("peerd.direction.v1" | run 32 | author key 32 | incarnation LE32 | step
 * LE64) signs = ChaCha20 (IETF, counter 0, nonce "LibsodiumDRG") keyed by the seed, which is
 * libsodium's randombytes_buf_deterministic(seed); coordinate i = bit i mod 8 of byte i div 8; 1 ->
 * +1, 0 -> -1
 *
 * No author can choose its directions: all of the seed is fixed before the step is made.
 */
#ifndef PEERD_DIRECTION_H
#define PEERD_DIRECTION_H

#include "peerd/chain.h"

enum { PD_DIRECTION_BLOCK = 512 }; /* coordinates in one block of the key stream */

void pd_direction_seed(const uint8_t run[32], const pd_author *author, uint64_t step,
                       uint8_t out[32]);

/* The signs of coordinates 0 .. d-1; bits has (d + 7) / 8 bytes, its last unused bits are stream
 * bits too. */
void pd_direction_signs(const uint8_t seed[32], uint8_t *bits, size_t d);

/* The signs of coordinates from .. from+d-1, the same bits as above; from is a multiple of
 * PD_DIRECTION_BLOCK. */
void pd_direction_signs_at(const uint8_t seed[32], size_t from, uint8_t *bits, size_t d);

static inline int pd_direction_sign(const uint8_t *bits, size_t i) {
    return (bits[i / 8] >> (i % 8) & 1) ? 1 : -1;
}

#endif
