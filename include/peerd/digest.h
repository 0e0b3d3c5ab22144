/* digest.h - XXH3, for comparing replicas and finding bit rot.  The one door to xxHash.
 *
 *   data > tokens > loss pair > byte > LEDGER > gossip > REPLAY > weights
 *
 * Not for anything that must resist an adversary: whatever authenticates bytes is BLAKE2b
 * (identity.h).
 */
#ifndef PEERD_DIGEST_H
#define PEERD_DIGEST_H

#include <stddef.h>
#include <stdint.h>

enum { PD_DIGEST_BYTES = 16 };

/* XXH3-128, in its canonical (big-endian) form, of the coordinates as little-endian int32.  Equal
 * digests mean equal models.
 */
void pd_replay_digest(const int32_t *a, size_t d, uint8_t out[PD_DIGEST_BYTES]);

/* XXH3-64. */
uint64_t pd_xxh64(const void *p, size_t n, uint64_t seed);

#endif
