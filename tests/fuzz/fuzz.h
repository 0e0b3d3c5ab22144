/* fuzz.h - what the fuzz targets share.
 *
 * A target is one file, fuzz_NAME.c, with one function that takes bytes from outside through the
 * product's own reader and checks what must hold afterwards.  With libFuzzer it searches (run);
 * without, main.c runs the corpus through the same function as a normal test.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

/* What a reader promised and did not keep: a finding. */
#define FUZZ_CHECK(condition)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);          \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Path of a file in memory with these bytes; good until the next call. */
static inline const char *fuzz_file(const uint8_t *p, size_t n) {
    static char path[64];
    static int fd = -1;
    if (fd < 0) {
        fd = memfd_create("fuzz", MFD_CLOEXEC);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    if (fd < 0 || ftruncate(fd, 0) != 0 || pwrite(fd, p, n, 0) != (ssize_t)n)
        abort();
    return path;
}

/* Bytes taken one after the other; zeros after the end. */
typedef struct fuzz_bytes {
    const uint8_t *p;
    size_t n;
} fuzz_bytes;

static inline unsigned fuzz_take(fuzz_bytes *b) {
    if (!b->n)
        return 0;
    b->n--;
    return *b->p++;
}

static inline unsigned fuzz_take16(fuzz_bytes *b) {
    unsigned low = fuzz_take(b);
    return low | fuzz_take(b) << 8;
}

#endif
