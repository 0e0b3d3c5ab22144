/* arena.c - bump allocation in anonymous mappings aligned to huge pages; see arena.h.
 *
 * mmap rather than aligned_alloc: pages arrive zeroed and untouched, so a block's unused end costs
 * no memory.
 */
#include "arena.h"

#include <assert.h>
#include <stdint.h>
#include <sys/mman.h>

enum { HUGE_BYTES = 2 << 20, BLOCK_BYTES = 64 << 20 };

struct pd_arena_block {
    pd_arena_block *next;
    void *map;
    size_t map_bytes, size, used; /* size and used count from the block's own start */
};

static pd_arena_block *block_new(size_t bytes) {
    size_t size = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
    size = (size + HUGE_BYTES - 1) & ~(size_t)(HUGE_BYTES - 1);
    size_t map_bytes = size + HUGE_BYTES;
    void *map = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return NULL;
    uintptr_t start = ((uintptr_t)map + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1);
    madvise((void *)start, size,
            MADV_HUGEPAGE); /* a wish; a kernel without huge pages is only slower */
    pd_arena_block *b = (pd_arena_block *)start;
    *b = (pd_arena_block){.map = map, .map_bytes = map_bytes, .size = size, .used = 64};
    return b;
}

void *pd_arena_take(pd_arena *a, size_t bytes) {
    static_assert(sizeof(pd_arena_block) <= 64, "the block's own record lies in its first line");
    if (bytes > SIZE_MAX / 4)
        return NULL;
    bytes = (bytes + 63) & ~(size_t)63;
    pd_arena_block *b = a->blocks;
    if (!b || b->size - b->used < bytes) {
        b = block_new(bytes + 64);
        if (!b)
            return NULL;
        b->next = a->blocks;
        a->blocks = b;
    }
    void *p = (char *)b + b->used;
    b->used += bytes;
    a->used_bytes += bytes;
    return p;
}

void pd_arena_free(pd_arena *a) {
    for (pd_arena_block *b = a->blocks; b;) {
        pd_arena_block *next = b->next;
        munmap(b->map, b->map_bytes);
        b = next;
    }
    *a = (pd_arena){0};
}
