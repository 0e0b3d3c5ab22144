/* file.h - files as whole things: map, read, replace atomically; and the two clocks.
 *
 * Every error text names the path and what the system said.
 */
#ifndef PEERD_FILE_H
#define PEERD_FILE_H

#include "peerd/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct pd_map {
    const uint8_t *p; /* NULL for an empty file */
    size_t n;
} pd_map;

/* Map a regular file read-only; the mapping outlives the descriptor.  Errors: PD_ENOENT, PD_EIO. */
PD_CHECKED pd_err pd_map_open(const char *path, pd_map *out);
void pd_map_close(pd_map *m);
/* Let go of the memory that a mapping holds so far; what is looked at again is read again. */
void pd_map_forget(const pd_map *m);

/* Read a whole file of at most `max` bytes into fresh memory (gives; free() it), with a 0 byte after the end.
 * Errors: PD_ENOENT, PD_EIO, PD_EFORMAT (larger than max), PD_ENOMEM.
 */
PD_CHECKED pd_err pd_file_read(const char *path, size_t max, uint8_t **out, size_t *n);

/* Replace a file: temporary beside it, fsync, rename, fsync of the folder.  After a crash the old or the new
 * content is there, never a mixture.  mode as of chmod.  Errors: PD_EIO, PD_EFULL.
 */
PD_CHECKED pd_err pd_file_replace(const char *path, const void *p, size_t n, unsigned mode);

/* The same in pieces, for what is not wanted in memory whole: begin, append what follows, then commit or drop, which
 * both take f.  Until commit succeeds the file at `path` is as it was.  Drop accepts NULL.
 * Errors: PD_ENOENT (no folder), PD_EIO, PD_EFULL, PD_ENOMEM.
 */
typedef struct pd_file_out pd_file_out;
PD_CHECKED pd_err pd_file_begin(const char *path, unsigned mode, pd_file_out **out);
PD_CHECKED pd_err pd_file_append(pd_file_out *f, const void *p, size_t n);
PD_CHECKED pd_err pd_file_commit(pd_file_out *f);
void pd_file_drop(pd_file_out *f);

bool pd_file_exists(const char *path);

/* Make one folder (0700); an existing folder is fine.  Errors: PD_EIO, PD_EEXIST (something else is there). */
PD_CHECKED pd_err pd_dir_make(const char *path);

/* "dir/name" into out of `room` characters.  Errors: PD_EUSAGE (path too long). */
PD_CHECKED pd_err pd_path_join(char *out, size_t room, const char *dir, const char *name);

/* The number behind `name` in a file of "Name:   123 kB" lines (/proc/meminfo), in bytes; false if it is not there. */
bool pd_proc_bytes(const char *path, const char *name, uint64_t *out);

uint64_t pd_clock_ms(void);  /* CLOCK_MONOTONIC, for every timer */
uint64_t pd_clock_us(void);
int64_t pd_wall_s(void);     /* UTC seconds, for log lines and invite expiry only */
void pd_sleep_ms(uint32_t ms);

#endif
