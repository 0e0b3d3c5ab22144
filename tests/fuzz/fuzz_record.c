/* fuzz_record.c - a member's control log: every record is read, passed over or waited for, and what
 * was read is written as a record that reads the same.
 */
#include "fuzz.h"

#include "peerd/frame.h"

#include <string.h>

static void check_same(const pd_control *a) {
    static uint8_t out[2 * PD_EVIDENCE_MAX];
    pd_writer w = pd_writer_of(out, sizeof out);
    pd_control b;
    if (!pd_control_put(&w, a))
        return; /* of a kind that this version does not write */
    FUZZ_CHECK(pd_control_get(out, (size_t)(w.p - out), &b) == w.p - out);
    FUZZ_CHECK(a->kind == b.kind && a->flags == b.flags && a->invite == b.invite &&
               a->reason == b.reason && a->step == b.step && a->inc == b.inc &&
               a->control == b.control && a->n_addrs == b.n_addrs && a->proof_size == b.proof_size);
    FUZZ_CHECK(memcmp(a->subject, b.subject, 32) == 0 && strcmp(a->name, b.name) == 0 &&
               memcmp(a->sig, b.sig, 64) == 0);
    FUZZ_CHECK(a->proof_size == 0 || memcmp(a->proof, b.proof, a->proof_size) == 0);
    for (uint32_t i = 0; i < a->n_addrs; i++)
        FUZZ_CHECK(pd_addr_equal(&a->addrs[i], &b.addrs[i]));
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    while (n > 0) {
        pd_control rec;
        ptrdiff_t took = pd_control_get(p, n, &rec);
        FUZZ_CHECK(took >= -1 && took <= (ptrdiff_t)n);
        if (took <= 0)
            break;
        if (rec.kind)
            check_same(&rec);
        p += took;
        n -= (size_t)took;
    }
    return 0;
}
