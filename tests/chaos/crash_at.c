/* crash_at.c - loaded into a node (LD_PRELOAD): the process ends with SIGKILL at the n-th call that
 * writes, cuts or flushes a file, n = PEERD_CRASH_AT; of a write, half has gone out by then.
 *
 * So a kill falls inside a commit, which one from outside hardly ever does.  The product knows
 * nothing of this: SQLite calls these functions of libc by name.
 */
#undef _FILE_OFFSET_BITS /* each function under its own name */
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long left;

__attribute__((constructor)) static void begin(void) {
    const char *n = getenv("PEERD_CRASH_AT");
    atomic_store(&left, n ? strtol(n, NULL, 10) : 0);
}

/* Is this the call?  `left` 0 from the start: never. */
static int is_last(void) {
    return atomic_load(&left) > 0 && atomic_fetch_sub(&left, 1) == 1;
}

static void crash(void) {
    kill(getpid(), SIGKILL);
}

typedef ssize_t pwrite_call(int, const void *, size_t, off64_t);

static ssize_t write_at(const char *name, int fd, const void *p, size_t n, off64_t at) {
    pwrite_call *real;
    *(void **)&real = dlsym(RTLD_NEXT, name);
    if (is_last()) {
        real(fd, p, n / 2, at);
        crash();
    }
    return real(fd, p, n, at);
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t at) {
    return write_at("pwrite", fd, p, n, at);
}

ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at) {
    return write_at("pwrite64", fd, p, n, at);
}

typedef int flush_call(int);

static int flush(const char *name, int fd) {
    flush_call *real;
    *(void **)&real = dlsym(RTLD_NEXT, name);
    if (is_last())
        crash();
    return real(fd);
}

int fsync(int fd) {
    return flush("fsync", fd);
}

int fdatasync(int fd) {
    return flush("fdatasync", fd);
}

typedef int cut_call(int, off64_t);

int ftruncate64(int fd, off64_t n) {
    cut_call *real;
    *(void **)&real = dlsym(RTLD_NEXT, "ftruncate64");
    if (is_last())
        crash();
    return real(fd, n);
}
