/* identity.c - keys, hashes and randomness over libsodium; see identity.h. */
#include "peerd/identity.h"
#include "peerd/bytes.h"
#include "peerd/file.h"

#include <assert.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(pd_hash) >= sizeof(crypto_generichash_state),
               "pd_hash holds libsodium's state");
_Static_assert(_Alignof(pd_hash) >= _Alignof(crypto_generichash_state), "and aligns it");

pd_err pd_crypto_init(void) {
    return sodium_init() < 0 ? pd_fail(PD_EIO, "libsodium cannot start: no source of randomness")
                             : PD_OK;
}

void pd_identity_new(pd_identity *out) {
    crypto_sign_keypair(out->pub, out->sec);
}

void pd_identity_from_seed(const uint8_t seed[32], pd_identity *out) {
    crypto_sign_seed_keypair(out->pub, out->sec, seed);
}

void pd_identity_wipe(pd_identity *id) {
    if (id)
        sodium_memzero(id, sizeof *id);
}

pd_err pd_identity_load(const char *path, pd_identity *out) {
    uint8_t *text, seed[32];
    size_t n;
    pd_err e = pd_file_read(path, 256, &text, &n);
    if (e)
        return e;
    while (n && (text[n - 1] == '\n' || text[n - 1] == '\r'))
        text[--n] = 0;
    if (strlen((char *)text) != n || !pd_unhex((char *)text, seed, sizeof seed))
        e = pd_fail(PD_EFORMAT, "%s is not a key file (64 hex digits)", path);
    else
        pd_identity_from_seed(seed, out);
    sodium_memzero(text, n);
    sodium_memzero(seed, sizeof seed);
    free(text);
    return e;
}

pd_err pd_identity_save(const char *path, const pd_identity *id) {
    char text[66];
    pd_hex(id->sec, 32, text); /* the first half of libsodium's secret key is the seed */
    text[64] = '\n';
    pd_err e = pd_file_replace(path, text, 65, 0600);
    sodium_memzero(text, sizeof text);
    return e;
}

void pd_sign(const pd_identity *id, const void *msg, size_t n, uint8_t sig[64]) {
    int r = crypto_sign_detached(sig, NULL, msg, n, id->sec);
    assert(r == 0);
    (void)r;
}

bool pd_verify(const uint8_t pub[32], const void *msg, size_t n, const uint8_t sig[64]) {
    return crypto_sign_verify_detached(sig, msg, n, pub) == 0;
}

pd_err pd_curve_public(const uint8_t ed_pub[32], uint8_t out[32]) {
    return crypto_sign_ed25519_pk_to_curve25519(out, ed_pub) == 0
               ? PD_OK
               : pd_fail(PD_EAUTH, "a key of small order is no node's key");
}

pd_err pd_curve_secret(const pd_identity *id, uint8_t out[32]) {
    return crypto_sign_ed25519_sk_to_curve25519(out, id->sec) == 0
               ? PD_OK
               : pd_fail(PD_EAUTH, "the node's key is not valid");
}

void pd_curve_from_ticket(const uint8_t secret[16], uint8_t pub[32], uint8_t sec[32]) {
    static const char tag[] = "peerd.guest.v1";
    pd_hash h;
    pd_hash_init(&h);
    pd_hash_add(&h, tag, sizeof tag - 1);
    pd_hash_add(&h, secret, 16);
    pd_hash_end(&h, sec);
    crypto_scalarmult_base(pub, sec);
    sodium_memzero(&h, sizeof h);
}

void pd_hash_init(pd_hash *h) {
    crypto_generichash_init((crypto_generichash_state *)(void *)h->state, NULL, 0, 32);
}

void pd_hash_add(pd_hash *h, const void *p, size_t n) {
    crypto_generichash_update((crypto_generichash_state *)(void *)h->state, p, n);
}

void pd_hash_end(pd_hash *h, uint8_t out[32]) {
    crypto_generichash_final((crypto_generichash_state *)(void *)h->state, out, 32);
}

void pd_hash256(const void *p, size_t n, uint8_t out[32]) {
    crypto_generichash(out, 32, p, n, NULL, 0);
}

void pd_random(void *p, size_t n) {
    randombytes_buf(p, n);
}

uint64_t pd_random64(void) {
    uint64_t v;
    randombytes_buf(&v, sizeof v);
    return v;
}

void pd_wipe(void *p, size_t n) {
    sodium_memzero(p, n);
}

bool pd_equal(const void *a, const void *b, size_t n) {
    return sodium_memcmp(a, b, n) == 0;
}
