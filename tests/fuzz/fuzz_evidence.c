/* fuzz_evidence.c - what anybody may hand on as a proof: it is read whole or refused, names a step
 * that both branches reach, and has one encoding.
 *
 * Every signature holds here, so that the hashing of both branches runs on whatever was read.
 */
#include "fuzz.h"

#include "peerd/evidence.h"

#include <string.h>

static bool believe(void *ctx, const uint8_t pub[32], const void *msg, size_t n,
                    const uint8_t sig[64]) {
    (void)ctx, (void)pub, (void)msg, (void)sig;
    return n == PD_SEAL_MESSAGE_BYTES;
}

static size_t put_branch(const pd_branch *b, uint8_t out[PD_EVIDENCE_MAX]) {
    pd_writer w = pd_writer_of(out, PD_EVIDENCE_MAX);
    pd_put_varint(&w, b->n);
    pd_put_bytes(&w, b->chunk, b->chunk_size);
    pd_put_bytes(&w, b->hashes, 32 * b->n_hashes);
    pd_put_bytes(&w, b->tail, b->tail_size);
    pd_put_bytes(&w, b->seal, 64);
    FUZZ_CHECK(w.ok);
    return (size_t)(w.p - out);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    static uint8_t half[2][PD_EVIDENCE_MAX], again[PD_EVIDENCE_MAX];
    static const uint8_t run[32] = {7};
    pd_evidence e;
    if (pd_evidence_get(p, n, &e) != PD_OK)
        return 0;
    size_t size[2];
    for (int i = 0; i < 2; i++) {
        FUZZ_CHECK(e.step < e.branch[i].n && e.step / PD_CHUNK_BYTES == e.j);
        size[i] = put_branch(&e.branch[i], half[i]);
    }
    FUZZ_CHECK(pd_evidence_proves(&e, run, believe, NULL));
    for (int first = 0; first < 2; first++) { /* whichever branch was met first */
        pd_writer w = pd_writer_of(again, sizeof again);
        FUZZ_CHECK(pd_evidence_put(&w, &e.author, e.stream, e.j, e.c, half[first], size[first],
                                   half[1 - first], size[1 - first]));
        FUZZ_CHECK((size_t)(w.p - again) == n && memcmp(again, p, n) == 0);
    }
    return 0;
}
