/* ticket.c - invitations as strings; see ticket.h. */
#include "peerd/ticket.h"
#include "peerd/identity.h"

#include <assert.h>
#include <ctype.h>
#include <strings.h>

enum {
    VERSION = 1,
    CHECKSUM = 4,
    FIXED = 1 + 16 + 32 + 16 + 1 + 4 + CHECKSUM, /* without addresses */
    BYTES_MIN = FIXED + 7,
    BYTES_MAX = FIXED + PD_TICKET_ADDRS * PD_ADDR_BYTES_MAX,
};
static const char prefix[] = "peerd1";
enum { PREFIX = sizeof prefix - 1 };
_Static_assert(PREFIX + (BYTES_MAX * 8 + 4) / 5 < PD_TICKET_TEXT,
               "the longest ticket fits its text");

static void checksum(const uint8_t *p, size_t n, uint8_t out[CHECKSUM]) {
    static const char label[] = "peerd.ticket";
    uint8_t full[32];
    pd_hash h;
    pd_hash_init(&h);
    pd_hash_add(&h, label, sizeof label - 1);
    pd_hash_add(&h, p, n);
    pd_hash_end(&h, full);
    memcpy(out, full, CHECKSUM);
}

void pd_ticket_write(const pd_ticket *t, char out[PD_TICKET_TEXT]) {
    uint8_t b[BYTES_MAX], sum[CHECKSUM];
    pd_writer w = pd_writer_of(b, sizeof b);
    assert(t->n_addrs >= 1 && t->n_addrs <= PD_TICKET_ADDRS);
    pd_put_u8(&w, VERSION);
    pd_put_bytes(&w, t->net, 16);
    pd_put_bytes(&w, t->inviter, 32);
    pd_put_bytes(&w, t->secret, 16);
    pd_put_u8(&w, (uint8_t)t->n_addrs);
    for (uint32_t i = 0; i < t->n_addrs; i++) {
        assert((t->addrs[i].family == 4 || t->addrs[i].family == 6) && t->addrs[i].port != 0);
        pd_put_addr(&w, &t->addrs[i]);
    }
    pd_put_u32(&w, t->expiry_s);
    checksum(b, (size_t)(w.p - b), sum);
    pd_put_bytes(&w, sum, CHECKSUM);
    assert(w.ok);
    memcpy(out, prefix, PREFIX);
    pd_base32(b, (size_t)(w.p - b), out + PREFIX);
    pd_wipe(b, sizeof b);
}

/* The bytes after the version, once the checksum says that they are as written. */
static pd_err parse(const uint8_t *b, size_t n, pd_ticket *out) {
    pd_ticket t = {0};
    pd_reader r = pd_reader_of(b, n);
    pd_get_u8(&r);
    const uint8_t *net = pd_get_bytes(&r, 16), *inviter = pd_get_bytes(&r, 32),
                  *secret = pd_get_bytes(&r, 16);
    t.n_addrs = pd_get_u8(&r);
    if (!r.ok || t.n_addrs < 1 || t.n_addrs > PD_TICKET_ADDRS)
        return pd_fail(PD_EFORMAT, "the ticket names %u addresses, not 1 to %d", t.n_addrs,
                       PD_TICKET_ADDRS);
    for (uint32_t i = 0; i < t.n_addrs; i++)
        t.addrs[i] = pd_get_addr(&r);
    t.expiry_s = pd_get_u32(&r);
    if (!r.ok || pd_reader_left(&r) != CHECKSUM)
        return pd_fail(PD_EFORMAT,
                       "the ticket's addresses do not fit its length (ask for a new one)");
    memcpy(t.net, net, 16);
    memcpy(t.inviter, inviter, 32);
    memcpy(t.secret, secret, 16);
    *out = t;
    return PD_OK;
}

pd_err pd_ticket_read(const char *text, pd_ticket *out) {
    uint8_t b[BYTES_MAX], sum[CHECKSUM];
    while (isspace((unsigned char)*text))
        text++;
    size_t len = strlen(text);
    while (len && isspace((unsigned char)text[len - 1]))
        len--;
    if (len < PREFIX || strncasecmp(text, prefix, PREFIX) != 0)
        return pd_fail(
            PD_EFORMAT,
            "this is not a ticket (it would begin with %s; make one with: peerctl -d DIR invite)",
            prefix);
    for (size_t i = PREFIX; i < len; i++)
        if (!isalpha((unsigned char)text[i]) && !(text[i] >= '2' && text[i] <= '7'))
            return pd_fail(
                PD_EFORMAT,
                "character %zu of the ticket is none of a-z and 2-7 (was it copied whole?)", i + 1);
    ptrdiff_t n = pd_unbase32(text + PREFIX, len - PREFIX, b, sizeof b);
    if (len - PREFIX < pd_base32_size(BYTES_MIN))
        return pd_fail(PD_EFORMAT,
                       "the ticket is cut short: %zu characters, at least %zu are needed", len,
                       PREFIX + pd_base32_size(BYTES_MIN));
    if (n < BYTES_MIN)
        return pd_fail(PD_EFORMAT,
                       "the ticket has a wrong length or last character (was it copied whole?)");
    checksum(b, (size_t)n - CHECKSUM, sum);
    if (memcmp(sum, b + n - CHECKSUM, CHECKSUM) != 0)
        return pd_fail(
            PD_EFORMAT,
            "the ticket is mistyped or cut: its checksum does not match (copy it again)");
    if (b[0] != VERSION)
        return pd_fail(
            PD_EUNSUPPORTED,
            "the ticket is of version %u and this peerd reads version %d (bring the older "
            "peerd up to date)",
            b[0], VERSION);
    pd_err e = parse(b, (size_t)n, out);
    pd_wipe(b, sizeof b);
    return e;
}
