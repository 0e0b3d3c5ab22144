/* chain.c - the two-level hash chain and the bytes a seal signs; see chain.h. */
#include "peerd/chain.h"
#include "peerd/bytes.h"

#include <assert.h>
#include <string.h>

int pd_author_order(const pd_author *a, const pd_author *b) {
    int by_key = memcmp(a->key, b->key, 32);
    return by_key ? by_key : (a->inc > b->inc) - (a->inc < b->inc);
}

void pd_chain_init(pd_chain *c, const uint8_t run[32], const pd_author *a, uint8_t stream) {
    static const char tag[] = "peerd.log.v1";
    uint8_t inc[4];
    pd_store32(inc, a->inc);
    c->n = 0;
    pd_hash h;
    pd_hash_init(&h);
    pd_hash_add(&h, tag, sizeof tag - 1);
    pd_hash_add(&h, run, 32);
    pd_hash_add(&h, a->key, 32);
    pd_hash_add(&h, inc, sizeof inc);
    pd_hash_add(&h, &stream, 1);
    pd_hash_end(&h, c->c);
}

/* C_{j+1} from C_j and the hash of a full chunk. */
static void close_chunk(pd_chain *c, uint64_t j, const uint8_t inner[32]) {
    static const char tag[] = "peerd.chunk.v1";
    uint8_t index[8];
    pd_store64(index, j);
    pd_hash h;
    pd_hash_init(&h);
    pd_hash_add(&h, tag, sizeof tag - 1);
    pd_hash_add(&h, c->c, 32);
    pd_hash_add(&h, index, sizeof index);
    pd_hash_add(&h, inner, 32);
    pd_hash_end(&h, c->c);
}

void pd_chain_add_hash(pd_chain *c, const uint8_t inner[32]) {
    assert(c->n % PD_CHUNK_BYTES == 0);
    close_chunk(c, c->n / PD_CHUNK_BYTES, inner);
    c->n += PD_CHUNK_BYTES;
}

void pd_chain_add(pd_chain *c, const uint8_t *bytes, size_t n) {
    while (n) {
        size_t at = c->n % PD_CHUNK_BYTES, room = PD_CHUNK_BYTES - at;
        size_t take = n < room ? n : room;
        const uint8_t *chunk = bytes; /* a whole chunk is hashed where it lies */
        if (take < PD_CHUNK_BYTES) {
            memcpy(c->tail + at, bytes, take);
            chunk = c->tail;
        }
        if (take == room) {
            uint8_t inner[32];
            pd_hash256(chunk, PD_CHUNK_BYTES, inner);
            close_chunk(c, c->n / PD_CHUNK_BYTES, inner);
        }
        c->n += take;
        bytes += take;
        n -= take;
    }
}

void pd_chain_head(const pd_chain *c, uint8_t out[32]) {
    static const char tag[] = "peerd.head.v1";
    uint8_t length[8];
    pd_store64(length, c->n);
    pd_hash h;
    pd_hash_init(&h);
    pd_hash_add(&h, tag, sizeof tag - 1);
    pd_hash_add(&h, c->c, 32);
    pd_hash_add(&h, length, sizeof length);
    pd_hash_add(&h, c->tail, c->n % PD_CHUNK_BYTES);
    pd_hash_end(&h, out);
}

void pd_seal_message(const pd_chain *c, const uint8_t run[32], const pd_author *a, uint8_t stream,
                     uint8_t out[PD_SEAL_MESSAGE_BYTES]) {
    uint8_t head[32];
    pd_chain_head(c, head);
    pd_writer w = pd_writer_of(out, PD_SEAL_MESSAGE_BYTES);
    pd_put_bytes(&w, "peerd.seal.v1", 13);
    pd_put_bytes(&w, run, 32);
    pd_put_bytes(&w, a->key, 32);
    pd_put_u32(&w, a->inc);
    pd_put_u8(&w, stream);
    pd_put_u64(&w, c->n);
    pd_put_bytes(&w, head, 32);
    assert(w.ok && w.p == w.end);
}
