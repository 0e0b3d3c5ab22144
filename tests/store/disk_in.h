/* disk_in.h - the operations of the disk, for its two doors. */
#ifndef TEST_DISK_IN_H
#define TEST_DISK_IN_H

#include "disk.h"

typedef struct disk_file disk_file;

/* Is this path on the disk? */
bool disk_has(const char *path);

/* Every operation counts as one; returns 0, or an errno.  One that fails has no effect, but for
 * disk_write, which sets *done. */
int disk_open(const char *path, bool create, bool truncate, disk_file **out, bool *created);
int disk_read(disk_file *f, uint64_t at, void *p, size_t n, size_t *done);
int disk_write(disk_file *f, uint64_t at, const void *p, size_t n, size_t *done);
int disk_truncate(disk_file *f, uint64_t n);
int disk_allocate(disk_file *f, uint64_t n); /* zeros up to n */
int disk_sync(disk_file *f);
int disk_size(disk_file *f, uint64_t *n);
int disk_sync_dir(void);
int disk_unlink(const char *path);
int disk_rename(const char *from, const char *to);
int disk_exists(const char *path, bool *there, uint64_t *n);
int disk_free_bytes(uint64_t *n);

#endif
