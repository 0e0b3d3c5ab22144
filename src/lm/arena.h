/* arena.h - memory for weights and activations: few large blocks in huge pages, freed together.
 *
 * Packed weights and activations in 2 MiB pages decide between 800 and 2,000 Gop/s of the same
 * product on processors with AMX, and help everywhere: a traversal walks the whole model, far more
 * than the TLB covers in 4 KiB pages.
 */
#ifndef PEERD_LM_ARENA_H
#define PEERD_LM_ARENA_H

#include "peerd/err.h"

#include <stddef.h>

typedef struct pd_arena_block pd_arena_block;

/* Zeroed = empty. */
typedef struct pd_arena {
    pd_arena_block *blocks;
    size_t used_bytes; /* handed out, with rounding */
} pd_arena;

/* Zeroed bytes at a multiple of 64, or NULL (the caller says what it was for). */
void *pd_arena_take(pd_arena *a, size_t bytes);
void pd_arena_free(pd_arena *a);

#endif
