/* addr.h - where a node can be dialled: one IP address and a port.
 *
 *   family 1 (4 or 6) | ip 4 or 16 | port LE16     7 or 19 bytes: tickets, HELLO, ADDR records
 *
 * Names are resolved once, when a person types them; only numbers travel and are stored.  The
 * codec is inline, so that the pure core needs no library for it.
 */
#ifndef PEERD_ADDR_H
#define PEERD_ADDR_H

#include "peerd/bytes.h"
#include "peerd/err.h"

enum {
    PD_PORT = 7433,         /* unless the person says otherwise */
    PD_ADDR_BYTES_MAX = 19, /* encoded */
    PD_ADDR_TEXT = 64,      /* "[v6]:port" with its end, and to spare */
};

typedef struct pd_addr {
    uint8_t family; /* 4, 6, or 0: none */
    uint8_t ip[16]; /* network order; the first 4 for family 4, the rest zero */
    uint16_t port;  /* 1..65535; 0 only to listen on a port that the system chooses */
} pd_addr;

static inline size_t pd_addr_size(const pd_addr *a) {
    return a->family == 6 ? 19 : 7;
}

/* Write an address of family 4 or 6. */
static inline void pd_put_addr(pd_writer *w, const pd_addr *a) {
    pd_put_u8(w, a->family);
    pd_put_bytes(w, a->ip, a->family == 6 ? 16 : 4);
    pd_put_u16(w, a->port);
}

/* Read one; an unknown family or port 0 fails the reader and gives family 0. */
static inline pd_addr pd_get_addr(pd_reader *r) {
    pd_addr a = {0};
    uint8_t family = pd_get_u8(r);
    size_t n = family == 6 ? 16 : 4;
    if (family != 4 && family != 6)
        r->ok = false;
    const uint8_t *ip = pd_get_bytes(r, n);
    uint16_t port = pd_get_u16(r);
    if (port == 0)
        r->ok = false;
    if (!r->ok)
        return a;
    a.family = family;
    memcpy(a.ip, ip, n);
    a.port = port;
    return a;
}

static inline bool pd_addr_equal(const pd_addr *a, const pd_addr *b) {
    return a->family == b->family && a->port == b->port && memcmp(a->ip, b->ip, 16) == 0;
}

/* Read what a person types: `10.0.0.1:7433`, `10.0.0.1`, `[fd00::1]:7433`, `fd00::1`,
 * `host.example:7433`, and to listen also `:7433` and `7433` (every IPv4 address of the machine).
 * Without a port: PD_PORT.  Port 0 is taken only where `listening`.  Names ask the system's
 * resolver, which may take seconds.
 * Errors: PD_EUSAGE (the text says which part is wrong), PD_ENOENT (no such host).
 */
PD_CHECKED pd_err pd_addr_parse(const char *text, bool listening, pd_addr *out);

/* `10.0.0.1:7433` or `[fd00::1]:7433`; "-" for none. */
void pd_addr_print(const pd_addr *a, char out[PD_ADDR_TEXT]);

/* 0.0.0.0 or ::, which can be listened on and not dialled; 127.0.0.0/8 or ::1. */
bool pd_addr_is_any(const pd_addr *a);
bool pd_addr_is_loopback(const pd_addr *a);

#endif
