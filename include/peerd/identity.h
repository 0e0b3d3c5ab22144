/* identity.h - who signed it: Ed25519 keys, BLAKE2b-256, randomness.  One of the two doors to libsodium.
 *
 *   data > tokens > loss pair > byte > LEDGER > GOSSIP > replay > weights
 *
 * A node is an Ed25519 key; its CURVE (X25519) transport key is the converted form of the same key, so that there is one
 * key to publish, ban and put in a ticket.  Secrets are wiped when they are let go.
 */
#ifndef PEERD_IDENTITY_H
#define PEERD_IDENTITY_H

#include "peerd/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PD_KEY_BYTES = 32, PD_SIG_BYTES = 64, PD_HASH_BYTES = 32 };

typedef struct pd_identity {
    uint8_t pub[32];
    uint8_t sec[64]; /* libsodium's seed || public key */
} pd_identity;

/* Must be called once, before any thread, by every program.  Errors: PD_EIO (no randomness). */
PD_CHECKED pd_err pd_crypto_init(void);

void pd_identity_new(pd_identity *out);                             /* fresh key */
void pd_identity_from_seed(const uint8_t seed[32], pd_identity *out);
void pd_identity_wipe(pd_identity *id);
/* The key file: 64 hex digits of the seed and a newline, mode 0600.  Errors: PD_ENOENT, PD_EIO, PD_EFORMAT, PD_EFULL. */
PD_CHECKED pd_err pd_identity_load(const char *path, pd_identity *out);
PD_CHECKED pd_err pd_identity_save(const char *path, const pd_identity *id);

void pd_sign(const pd_identity *id, const void *msg, size_t n, uint8_t sig[64]);
/* libsodium's strict verification (refuses S >= L and small-order keys); part of the protocol version. */
bool pd_verify(const uint8_t pub[32], const void *msg, size_t n, const uint8_t sig[64]);

/* X25519 forms.  Errors: PD_EAUTH (a key of small order). */
PD_CHECKED pd_err pd_curve_public(const uint8_t ed_pub[32], uint8_t out[32]);
PD_CHECKED pd_err pd_curve_secret(const pd_identity *id, uint8_t out[32]);
/* CURVE key pair of a 16-byte one-time ticket secret: X25519 secret = BLAKE2b-256("peerd.guest.v1" | secret). */
void pd_curve_from_ticket(const uint8_t secret[16], uint8_t pub[32], uint8_t sec[32]);

/* BLAKE2b-256, in pieces.  Opaque, large enough for libsodium's aligned state. */
typedef struct pd_hash {
    _Alignas(64) uint8_t state[384];
} pd_hash;
void pd_hash_init(pd_hash *h);
void pd_hash_add(pd_hash *h, const void *p, size_t n);
void pd_hash_end(pd_hash *h, uint8_t out[32]);
void pd_hash256(const void *p, size_t n, uint8_t out[32]);

void pd_random(void *p, size_t n);
uint64_t pd_random64(void);
void pd_wipe(void *p, size_t n);
bool pd_equal(const void *a, const void *b, size_t n); /* constant time */

#endif
