/* file.c - files as whole things, and the clocks; see file.h. */
#include "peerd/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static pd_err fail_errno(const char *what, const char *path) {
    pd_err e = errno == ENOENT ? PD_ENOENT : errno == ENOSPC || errno == EDQUOT ? PD_EFULL : PD_EIO;
    return pd_fail(e, "cannot %s %s: %s", what, path, strerror(errno));
}

static pd_err open_regular(const char *path, int *fd, size_t *n) {
    struct stat st;
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0)
        return fail_errno("open", path);
    if (fstat(*fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(*fd);
        return pd_fail(PD_EIO, "cannot read %s: not a regular file", path);
    }
    *n = (size_t)st.st_size;
    return PD_OK;
}

pd_err pd_map_open(const char *path, pd_map *out) {
    int fd;
    size_t n;
    pd_err e = open_regular(path, &fd, &n);
    if (e)
        return e;
    void *p = n ? mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
    if (p == MAP_FAILED)
        e = fail_errno("map", path);
    else
        *out = (pd_map){p, n};
    close(fd);
    return e;
}

void pd_map_close(pd_map *m) {
    if (m && m->p)
        munmap((void *)(uintptr_t)m->p, m->n);
    if (m)
        *m = (pd_map){0};
}

void pd_map_forget(const pd_map *m) {
    if (m->p)
        madvise((void *)(uintptr_t)m->p, m->n, MADV_DONTNEED); /* read-only: nothing is lost */
}

pd_err pd_file_read(const char *path, size_t max, uint8_t **out, size_t *n) {
    int fd;
    size_t size;
    pd_err e = open_regular(path, &fd, &size);
    if (e)
        return e;
    if (size > max) {
        close(fd);
        return pd_fail(PD_EFORMAT, "%s has %zu bytes, more than the %zu it may have", path, size,
                       max);
    }
    uint8_t *p = malloc(size + 1);
    size_t got = 0;
    if (!p)
        e = pd_fail(PD_ENOMEM, "no memory for the %zu bytes of %s", size, path);
    while (!e && got < size) {
        ssize_t k = read(fd, p + got, size - got);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            e = fail_errno("read", path);
        else if (k == 0)
            e = pd_fail(PD_EIO, "%s became shorter while it was read", path);
        else
            got += (size_t)k;
    }
    close(fd);
    if (e) {
        free(p);
        return e;
    }
    p[size] = 0;
    *out = p;
    *n = size;
    return PD_OK;
}

static pd_err write_all(int fd, const uint8_t *p, size_t n, const char *path) {
    while (n) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return fail_errno("write", path);
        p += k;
        n -= (size_t)k;
    }
    return PD_OK;
}

static pd_err sync_dir_of(const char *path) {
    char dir[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (!slash)
        strcpy(dir, ".");
    else
        snprintf(dir, sizeof dir, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail_errno("open", dir);
    int r = fsync(fd);
    close(fd);
    return r ? fail_errno("flush", dir) : PD_OK;
}

struct pd_file_out {
    int fd;
    char path[PATH_MAX], tmp[PATH_MAX];
};

pd_err pd_file_begin(const char *path, unsigned mode, pd_file_out **out) {
    pd_file_out *f = malloc(sizeof *f);
    if (!f)
        return pd_fail(PD_ENOMEM, "no memory to write %s", path);
    if (snprintf(f->tmp, sizeof f->tmp, "%s.tmp", path) >= (int)sizeof f->tmp) {
        free(f);
        return pd_fail(PD_EUSAGE, "path too long: %s", path);
    }
    strcpy(f->path, path);
    f->fd = open(f->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, (mode_t)mode);
    if (f->fd < 0) {
        pd_err e = fail_errno("create", f->tmp);
        free(f);
        return e;
    }
    *out = f;
    return PD_OK;
}

pd_err pd_file_append(pd_file_out *f, const void *p, size_t n) {
    return write_all(f->fd, p, n, f->tmp);
}

void pd_file_drop(pd_file_out *f) {
    if (!f)
        return;
    close(f->fd);
    unlink(f->tmp);
    free(f);
}

pd_err pd_file_commit(pd_file_out *f) {
    pd_err e = fsync(f->fd) != 0 ? fail_errno("flush", f->tmp) : PD_OK;
    if (close(f->fd) != 0 && !e)
        e = fail_errno("close", f->tmp);
    if (!e && rename(f->tmp, f->path) != 0)
        e = fail_errno("rename to", f->path);
    if (e)
        unlink(f->tmp);
    else
        e = sync_dir_of(f->path);
    free(f);
    return e;
}

pd_err pd_file_replace(const char *path, const void *p, size_t n, unsigned mode) {
    pd_file_out *f;
    pd_err e = pd_file_begin(path, mode, &f);
    if (e)
        return e;
    e = pd_file_append(f, p, n);
    if (e) {
        pd_file_drop(f);
        return e;
    }
    return pd_file_commit(f);
}

bool pd_file_exists(const char *path) {
    return access(path, F_OK) == 0;
}

pd_err pd_dir_make(const char *path) {
    struct stat st;
    if (mkdir(path, 0700) == 0)
        return PD_OK;
    if (errno != EEXIST)
        return fail_errno("make folder", path);
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
        return pd_fail(PD_EEXIST, "%s exists and is not a folder", path);
    return PD_OK;
}

pd_err pd_path_join(char *out, size_t room, const char *dir, const char *name) {
    int n = snprintf(out, room, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= room)
        return pd_fail(PD_EUSAGE, "path too long: %s/%s", dir, name);
    return PD_OK;
}

uint64_t pd_clock_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

uint64_t pd_clock_ms(void) {
    return pd_clock_us() / 1000u;
}

int64_t pd_wall_s(void) {
    return (int64_t)time(NULL);
}

void pd_sleep_ms(uint32_t ms) {
    struct timespec t = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000L};
    while (nanosleep(&t, &t) != 0 && errno == EINTR) {
    }
}

bool pd_proc_bytes(const char *path, const char *name, uint64_t *out) {
    char line[256];
    size_t n = strlen(name);
    bool found = false;
    FILE *f = fopen(path, "re");
    while (f && !found && fgets(line, sizeof line, f))
        if (strncmp(line, name, n) == 0 && line[n] == ':') {
            *out = strtoull(line + n + 1, NULL, 10) * 1024;
            found = true;
        }
    if (f)
        fclose(f);
    return found;
}
