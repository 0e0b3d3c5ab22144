/* bytes.c - little-endian numbers, varints, hex and base32; see bytes.h. */
#include "peerd/bytes.h"

const uint8_t *pd_get_bytes(pd_reader *r, size_t n) {
    if (!r->ok || pd_reader_left(r) < n) {
        r->ok = false;
        return NULL;
    }
    const uint8_t *p = r->p;
    r->p += n;
    return p;
}

uint8_t pd_get_u8(pd_reader *r) {
    const uint8_t *p = pd_get_bytes(r, 1);
    return p ? p[0] : 0;
}

uint16_t pd_get_u16(pd_reader *r) {
    const uint8_t *p = pd_get_bytes(r, 2);
    return p ? (uint16_t)((unsigned)p[0] | (unsigned)p[1] << 8) : 0;
}

uint32_t pd_get_u32(pd_reader *r) {
    const uint8_t *p = pd_get_bytes(r, 4);
    return p ? pd_load32(p) : 0;
}

uint64_t pd_get_u64(pd_reader *r) {
    const uint8_t *p = pd_get_bytes(r, 8);
    return p ? pd_load64(p) : 0;
}

uint64_t pd_get_varint(pd_reader *r) {
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t b = pd_get_u8(r);
        if (!r->ok)
            return 0;
        if (shift == 63 && b > 1)
            break; /* more than 64 bits */
        v |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80)) {
            if (b == 0 && shift > 0)
                break; /* not minimal: one number must have one encoding */
            return v;
        }
    }
    r->ok = false;
    return 0;
}

uint64_t pd_get_varint_max(pd_reader *r, uint64_t max) {
    uint64_t v = pd_get_varint(r);
    if (v > max) {
        r->ok = false;
        return 0;
    }
    return v;
}

void pd_put_bytes(pd_writer *w, const void *p, size_t n) {
    if (!w->ok || (size_t)(w->end - w->p) < n) {
        w->ok = false;
        return;
    }
    if (n)
        memcpy(w->p, p, n);
    w->p += n;
}

void pd_put_u8(pd_writer *w, uint8_t v) {
    pd_put_bytes(w, &v, 1);
}

void pd_put_u16(pd_writer *w, uint16_t v) {
    uint8_t b[2] = {(uint8_t)v, (uint8_t)(v >> 8)};
    pd_put_bytes(w, b, 2);
}

void pd_put_u32(pd_writer *w, uint32_t v) {
    uint8_t b[4];
    pd_store32(b, v);
    pd_put_bytes(w, b, 4);
}

void pd_put_u64(pd_writer *w, uint64_t v) {
    uint8_t b[8];
    pd_store64(b, v);
    pd_put_bytes(w, b, 8);
}

void pd_put_varint(pd_writer *w, uint64_t v) {
    uint8_t b[10];
    size_t n = 0;
    do {
        b[n++] = (uint8_t)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
        v >>= 7;
    } while (v);
    pd_put_bytes(w, b, n);
}

size_t pd_varint_size(uint64_t v) {
    size_t n = 1;
    while (v >>= 7)
        n++;
    return n;
}

void pd_hex(const uint8_t *p, size_t n, char *out) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[p[i] >> 4];
        out[2 * i + 1] = digits[p[i] & 15];
    }
    out[2 * n] = 0;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool pd_unhex(const char *s, uint8_t *out, size_t n) {
    if (strlen(s) != 2 * n)
        return false;
    for (size_t i = 0; i < 2 * n; i++)
        if (hex_digit(s[i]) < 0)
            return false;
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)(hex_digit(s[2 * i]) << 4 | hex_digit(s[2 * i + 1]));
    return true;
}

void pd_base32(const uint8_t *p, size_t n, char *out) {
    static const char digits[] = "abcdefghijklmnopqrstuvwxyz234567";
    uint32_t acc = 0;
    unsigned bits = 0;
    for (size_t i = 0; i < n; i++) {
        acc = acc << 8 | p[i];
        for (bits += 8; bits >= 5; bits -= 5)
            *out++ = digits[acc >> (bits - 5) & 31];
    }
    if (bits)
        *out++ = digits[acc << (5 - bits) & 31];
    *out = 0;
}

ptrdiff_t pd_unbase32(const char *s, size_t len, uint8_t *out, size_t room) {
    uint32_t acc = 0;
    unsigned bits = 0;
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        char c = s[i];
        uint32_t v;
        if (c >= 'a' && c <= 'z')
            v = (uint32_t)(c - 'a');
        else if (c >= 'A' && c <= 'Z')
            v = (uint32_t)(c - 'A');
        else if (c >= '2' && c <= '7')
            v = (uint32_t)(c - '2') + 26;
        else
            return -1;
        acc = acc << 5 | v;
        bits += 5;
        if (bits >= 8) {
            bits -= 8;
            if (n == room)
                return -1;
            out[n++] = (uint8_t)(acc >> bits);
        }
    }
    if (bits >= 5 || (acc & ((1u << bits) - 1)))
        return -1;
    return (ptrdiff_t)n;
}
