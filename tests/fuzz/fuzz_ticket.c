/* fuzz_ticket.c - a ticket is copied by people: whatever they paste is read or refused, and what is
 * read is written as the same ticket. */
#include "fuzz.h"

#include "peerd/ticket.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    char *text = malloc(n + 1), out[PD_TICKET_TEXT];
    pd_ticket t, again;
    memcpy(text, p, n);
    text[n] = 0;
    if (pd_ticket_read(text, &t) == PD_OK) {
        pd_ticket_write(&t, out);
        FUZZ_CHECK(pd_ticket_read(out, &again) == PD_OK);
        FUZZ_CHECK(t.n_addrs == again.n_addrs && t.expiry_s == again.expiry_s &&
                   memcmp(t.net, again.net, sizeof t.net) == 0 &&
                   memcmp(t.inviter, again.inviter, sizeof t.inviter) == 0 &&
                   memcmp(t.secret, again.secret, sizeof t.secret) == 0);
        for (uint32_t i = 0; i < t.n_addrs; i++)
            FUZZ_CHECK(pd_addr_equal(&t.addrs[i], &again.addrs[i]));
    }
    free(text);
    return 0;
}
