/* read_weights.h - a model's tensors from wherever its files came, for the targets that open some:
 * all that the engine would ask for can be read, to the last row.
 */
#ifndef PEERD_FUZZ_READ_WEIGHTS_H
#define PEERD_FUZZ_READ_WEIGHTS_H

#include "fuzz.h"
#include "peerd/weights.h"

static inline void fuzz_read_weights(const pd_weights *w) {
    for (pd_slot s = {.role = PD_ROLES}; pd_slot_next(&w->info, &s);) {
        uint32_t rows, cols;
        FUZZ_CHECK(pd_slot_shape(&w->info, s, &rows, &cols));
        float *out =
            malloc(cols * sizeof *out); /* not a value more, so that a write beyond shows */
        FUZZ_CHECK(out != NULL);
        for (uint32_t row = 0; row < rows; row++)
            FUZZ_CHECK(w->read(w, s, row, 1, out) == PD_OK);
        free(out);
    }
}

#endif
