/* bytes.h - little-endian numbers, varints, hex and base32: how every format of ours is read and written.
 *
 * Bytes from outside are read through a pd_reader: it never runs past its end, and once something was short
 * or not minimal it stays failed and returns zeros, so a parser checks `ok` once, at its end.
 */
#ifndef PEERD_BYTES_H
#define PEERD_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct pd_reader {
    const uint8_t *p, *end;
    bool ok;
} pd_reader;

typedef struct pd_writer {
    uint8_t *p, *end; /* next byte to write, end of the caller's buffer */
    bool ok;          /* false once something did not fit; nothing is written from then on */
} pd_writer;

static inline pd_reader pd_reader_of(const void *p, size_t n) {
    static const uint8_t nothing[1]; /* no arithmetic on a null pointer */
    const uint8_t *from = p ? (const uint8_t *)p : nothing;
    return (pd_reader){from, from + n, true};
}
static inline pd_writer pd_writer_of(void *p, size_t n) {
    return (pd_writer){(uint8_t *)p, (uint8_t *)p + n, true};
}
static inline size_t pd_reader_left(const pd_reader *r) {
    return (size_t)(r->end - r->p);
}

/* Borrow n bytes, or NULL (and a failed reader) where fewer are left. */
const uint8_t *pd_get_bytes(pd_reader *r, size_t n);
uint8_t pd_get_u8(pd_reader *r);
uint16_t pd_get_u16(pd_reader *r);
uint32_t pd_get_u32(pd_reader *r);
uint64_t pd_get_u64(pd_reader *r);

/* LEB128, at most 10 bytes, minimal encoding only (a trailing zero group fails the reader). */
uint64_t pd_get_varint(pd_reader *r);
/* A varint that must be <= max. */
uint64_t pd_get_varint_max(pd_reader *r, uint64_t max);

void pd_put_bytes(pd_writer *w, const void *p, size_t n);
void pd_put_u8(pd_writer *w, uint8_t v);
void pd_put_u16(pd_writer *w, uint16_t v);
void pd_put_u32(pd_writer *w, uint32_t v);
void pd_put_u64(pd_writer *w, uint64_t v);
void pd_put_varint(pd_writer *w, uint64_t v);
size_t pd_varint_size(uint64_t v); /* bytes, 1..10 */

static inline uint32_t pd_load32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t pd_load64(const uint8_t *p) {
    return (uint64_t)pd_load32(p) | (uint64_t)pd_load32(p + 4) << 32;
}
static inline void pd_store32(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}
static inline void pd_store64(uint8_t *p, uint64_t v) {
    for (int i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

/* Lower-case hex.  out holds 2n+1 characters. */
void pd_hex(const uint8_t *p, size_t n, char *out);
/* Exactly 2n hex digits (either case) and nothing after; false otherwise, out untouched. */
bool pd_unhex(const char *s, uint8_t *out, size_t n);

/* RFC 4648 base32, lower case, no padding.  out holds pd_base32_size(n)+1 characters. */
static inline size_t pd_base32_size(size_t n) {
    return (n * 8 + 4) / 5;
}
void pd_base32(const uint8_t *p, size_t n, char *out);
/* Either case; the unused last bits must be zero.  Returns bytes written, or -1 (bad character, length or room). */
ptrdiff_t pd_unbase32(const char *s, size_t len, uint8_t *out, size_t room);

#endif
