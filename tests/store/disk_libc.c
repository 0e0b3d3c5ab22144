/* disk_libc.c - the disk behind the libc calls of the product's code; see disk.h.
 *
 * The linker (--wrap) sends every call of these names from our objects here.  A path below DISK_DIR
 * or a descriptor that was made from one is ours; everything else goes on to the C library.  The
 * names with 64 are what the headers make of the others where files may be large.
 */
#include "disk_in.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>

enum { FIRST_FD = 1 << 24, FDS_MAX = 16 };

static struct {
    bool open, dir;
    disk_file *file;
    uint64_t at;
} fds[FDS_MAX];

/* What the linker calls the C library's own. */
int __real_open(const char *path, int flags, ...);
int __real_close(int fd);
ssize_t __real_read(int fd, void *p, size_t n);
ssize_t __real_write(int fd, const void *p, size_t n);
int __real_fsync(int fd);
int __real_rename(const char *from, const char *to);
int __real_unlink(const char *path);
int __real_access(const char *path, int mode);
int __real_fstat(int fd, struct stat *st);
int __real_statvfs(const char *path, struct statvfs *st);
int __real_posix_fallocate(int fd, off_t at, off_t n);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __wrap_close(int fd);
ssize_t __wrap_read(int fd, void *p, size_t n);
ssize_t __wrap_write(int fd, const void *p, size_t n);
int __wrap_fsync(int fd);
int __wrap_rename(const char *from, const char *to);
int __wrap_unlink(const char *path);
int __wrap_access(const char *path, int mode);
int __wrap_fstat(int fd, struct stat *st);
int __wrap_fstat64(int fd, struct stat *st);
int __wrap_statvfs(const char *path, struct statvfs *st);
int __wrap_statvfs64(const char *path, struct statvfs *st);
int __wrap_posix_fallocate(int fd, off_t at, off_t n);
int __wrap_posix_fallocate64(int fd, off_t at, off_t n);

static bool ours(int fd) {
    return fd >= FIRST_FD && fd < FIRST_FD + FDS_MAX && fds[fd - FIRST_FD].open;
}

static int said(int e) {
    if (!e)
        return 0;
    errno = e;
    return -1;
}

static int open_here(const char *path, int flags) {
    for (int i = 0; i < FDS_MAX; i++) {
        if (fds[i].open)
            continue;
        bool dir = strcmp(path, DISK_DIR) == 0;
        disk_file *f = NULL;
        int e = dir ? 0 : disk_open(path, flags & O_CREAT, flags & O_TRUNC, &f, NULL);
        if (e)
            return said(e);
        fds[i].open = true;
        fds[i].dir = dir;
        fds[i].file = f;
        fds[i].at = 0;
        return FIRST_FD + i;
    }
    return said(EMFILE);
}

int __wrap_open(const char *path, int flags, ...) {
    va_list ap;
    va_start(ap, flags);
    unsigned mode = flags & O_CREAT ? va_arg(ap, unsigned) : 0;
    va_end(ap);
    return disk_has(path) ? open_here(path, flags) : __real_open(path, flags, mode);
}

int __wrap_open64(const char *path, int flags, ...) {
    va_list ap;
    va_start(ap, flags);
    unsigned mode = flags & O_CREAT ? va_arg(ap, unsigned) : 0;
    va_end(ap);
    return __wrap_open(path, flags, mode);
}

int __wrap_close(int fd) {
    if (!ours(fd))
        return __real_close(fd);
    fds[fd - FIRST_FD].open = false;
    return 0;
}

ssize_t __wrap_read(int fd, void *p, size_t n) {
    size_t done = 0;
    if (!ours(fd))
        return __real_read(fd, p, n);
    int e = disk_read(fds[fd - FIRST_FD].file, fds[fd - FIRST_FD].at, p, n, &done);
    if (e)
        return said(e);
    fds[fd - FIRST_FD].at += done;
    return (ssize_t)done;
}

ssize_t __wrap_write(int fd, const void *p, size_t n) {
    size_t done;
    if (!ours(fd))
        return __real_write(fd, p, n);
    int e = disk_write(fds[fd - FIRST_FD].file, fds[fd - FIRST_FD].at, p, n, &done);
    if (e && !done)
        return said(e);
    fds[fd - FIRST_FD].at += done;
    return (ssize_t)done;
}

int __wrap_fsync(int fd) {
    if (!ours(fd))
        return __real_fsync(fd);
    return said(fds[fd - FIRST_FD].dir ? disk_sync_dir() : disk_sync(fds[fd - FIRST_FD].file));
}

int __wrap_rename(const char *from, const char *to) {
    return disk_has(from) ? said(disk_rename(from, to)) : __real_rename(from, to);
}

int __wrap_unlink(const char *path) {
    return disk_has(path) ? said(disk_unlink(path)) : __real_unlink(path);
}

int __wrap_access(const char *path, int mode) {
    bool there;
    uint64_t n;
    if (!disk_has(path))
        return __real_access(path, mode);
    int e = disk_exists(path, &there, &n);
    return said(e ? e : there ? 0 : ENOENT);
}

int __wrap_fstat(int fd, struct stat *st) {
    uint64_t n = 0;
    if (!ours(fd))
        return __real_fstat(fd, st);
    int e = disk_size(fds[fd - FIRST_FD].file, &n);
    memset(st, 0, sizeof *st);
    st->st_mode = S_IFREG | 0600;
    st->st_size = (off_t)n;
    return said(e);
}

int __wrap_fstat64(int fd, struct stat *st) {
    return __wrap_fstat(fd, st);
}

int __wrap_statvfs(const char *path, struct statvfs *st) {
    uint64_t n = 0;
    if (!disk_has(path))
        return __real_statvfs(path, st);
    int e = disk_free_bytes(&n);
    memset(st, 0, sizeof *st);
    st->f_frsize = 1;
    st->f_bavail = n;
    return said(e);
}

int __wrap_statvfs64(const char *path, struct statvfs *st) {
    return __wrap_statvfs(path, st);
}

/* Gives the error back, as it does. */
int __wrap_posix_fallocate(int fd, off_t at, off_t n) {
    if (!ours(fd))
        return __real_posix_fallocate(fd, at, n);
    return disk_allocate(fds[fd - FIRST_FD].file, (uint64_t)(at + n));
}

int __wrap_posix_fallocate64(int fd, off_t at, off_t n) {
    return __wrap_posix_fallocate(fd, at, n);
}
