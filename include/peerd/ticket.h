/* ticket.h - an invitation into a run, as one string that a person can copy.
 *
 *   "peerd1" + base32( version 1 | net 16 | inviter 32 | secret 16 | n_addr 1
 *                      | addresses 7 or 19 each | expiry LE32 | checksum 4 )
 *                                                    81 bytes, 136 characters with one IPv4
 *
 *   net       first 16 bytes of the run id: the guest checks the manifest it is given by them
 *   inviter   Ed25519 key of the member who answers: the guest knows whom it talks to
 *   secret    its CURVE key is the only stranger's key that the inviter's door accepts
 *             (pd_curve_from_ticket)
 *   expiry    UTC seconds, 0 = never; only the inviter's clock judges it
 *   checksum  first 4 bytes of BLAKE2b-256("peerd.ticket" | everything before): finds typing
 *             errors, proves nothing
 *
 * Whoever holds the string can join until it is used or expires: a secret, never logged.
 */
#ifndef PEERD_TICKET_H
#define PEERD_TICKET_H

#include "peerd/addr.h"

enum { PD_TICKET_ADDRS = 4, PD_TICKET_TEXT = 256 };

typedef struct pd_ticket {
    uint8_t net[16];
    uint8_t inviter[32];
    uint8_t secret[16];
    uint32_t n_addrs; /* 1..PD_TICKET_ADDRS */
    pd_addr addrs[PD_TICKET_ADDRS];
    uint32_t expiry_s;
} pd_ticket;

/* The string of a ticket whose n_addrs and addresses are in range (ours: asserted). */
void pd_ticket_write(const pd_ticket *t, char out[PD_TICKET_TEXT]);

/* Read a string; white space around it is passed over, letters may be of either case.
 * Errors: PD_EFORMAT (not a ticket, a part is missing, mistyped, inconsistent: the text says
 * which), PD_EUNSUPPORTED (made by a newer peerd).
 */
PD_CHECKED pd_err pd_ticket_read(const char *text, pd_ticket *out);

#endif
