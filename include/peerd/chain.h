/* chain.h - an author's log: a byte string with a two-level hash chain, and the seal that covers
 * it.
 *
 *   data > tokens > loss pair > byte > LEDGER > gossip > replay > weights
 *
 *   C_0     = H("peerd.log.v1"   | run 32 | author key 32 | incarnation LE32 | stream 1)
 *   C_{j+1} = H("peerd.chunk.v1" | C_j | j LE64 | H(bytes[1024 j .. 1024 j + 1023]))            H =
 * BLAKE2b-256 Head(n) = H("peerd.head.v1"  | C_j | n LE64 | bytes[1024 j .. n-1]),  j = n div 1024
 *   seal(n) = Ed25519("peerd.seal.v1" | run 32 | author key 32 | incarnation LE32 | stream 1 | n
 * LE64 | Head(n))
 *
 * Only the newest seal matters: it covers every earlier byte.  A receiver keeps C_j, the tail and
 * n: 1.1 KB an author, whatever the log's length.  Pure: no I/O, no clock, no allocation.
 */
#ifndef PEERD_CHAIN_H
#define PEERD_CHAIN_H

#include "peerd/identity.h"

enum { PD_CHUNK_BYTES = 1024, PD_INCARNATIONS = 16 };
enum { PD_STREAM_GRADIENTS = 0, PD_STREAM_CONTROL = 1, PD_STREAMS = 2 };

typedef struct pd_author {
    uint8_t key[32];
    uint32_t inc; /* incarnation, < PD_INCARNATIONS */
} pd_author;

/* Less, equal or greater than 0: by (key, inc), the order of every list of authors. */
int pd_author_order(const pd_author *a, const pd_author *b);

#define PD_VOID_NEVER UINT64_MAX /* the void step of an author all of whose records count */

typedef struct pd_chain {
    uint8_t c[32];                /* C_j */
    uint64_t n;                   /* bytes so far */
    uint8_t tail[PD_CHUNK_BYTES]; /* bytes[1024 j .. n-1] */
} pd_chain;

void pd_chain_init(pd_chain *c, const uint8_t run[32], const pd_author *a, uint8_t stream);
void pd_chain_add(pd_chain *c, const uint8_t *bytes, size_t n);
/* Add one whole chunk of which only H(bytes) is at hand; the chain must stand at a chunk's begin. */
void pd_chain_add_hash(pd_chain *c, const uint8_t inner[32]);
void pd_chain_head(const pd_chain *c, uint8_t out[32]);

enum { PD_SEAL_MESSAGE_BYTES = 13 + 32 + 32 + 4 + 1 + 8 + 32 };
/* The signed bytes for head(n) of a chain. */
void pd_seal_message(const pd_chain *c, const uint8_t run[32], const pd_author *a, uint8_t stream,
                     uint8_t out[PD_SEAL_MESSAGE_BYTES]);

#endif
