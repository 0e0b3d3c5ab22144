/* fuzz_items.c - what is on the wire has one encoding: every item that the reader takes, version
 * vectors and heads among them, is written as the very bytes it was read from.
 *
 * Without it two nodes could see one frame differently, or a vector could count what it does not
 * hold.
 */
#include "fuzz.h"

#include "peerd/frame.h"

#include <string.h>

static void walk_heads(pd_item *it) {
    static pd_head heads[PD_FRAME_MAX];
    pd_heads_walk w;
    uint32_t n = 0;
    pd_heads_begin(it, &w);
    while (pd_heads_next(&w, &heads[n])) {
        FUZZ_CHECK(heads[n].log < PD_LOGS_MAX && (n == 0 || heads[n].log > heads[n - 1].log));
        n++;
    }
    FUZZ_CHECK(n == it->u.heads.count);
    it->u.heads.heads = heads;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    static uint8_t out[2 * PD_FRAME_MAX];
    pd_reader r;
    pd_item it;
    uint64_t ack;
    if (n > PD_FRAME_MAX || !pd_frame_open(p, n, &r, &ack))
        return 0;
    for (;;) {
        const uint8_t *from = r.p;
        if (!pd_frame_next(&r, &it))
            return 0;
        size_t size = (size_t)(r.p - from);
        if (it.kind == PD_ITEM_HEADS || it.kind == PD_ITEM_VV)
            walk_heads(&it);
        pd_writer w = pd_writer_of(out, sizeof out);
        FUZZ_CHECK(pd_frame_put(&w, &it));
        FUZZ_CHECK((size_t)(w.p - out) == size && memcmp(out, from, size) == 0);
        FUZZ_CHECK(pd_item_size(&it) == size);
    }
}
