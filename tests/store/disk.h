/* disk.h - a disk in memory that can lose power and fail at any one operation, under the real
 * store.
 *
 * One folder, DISK_DIR.  Two doors lead to it: a sqlite3_vfs that is SQLite's default, and the libc
 * calls of src/base/file.c and state/store.c, which the linker turns aside (--wrap) where their
 * path or descriptor is ours and passes on where not.  So the product's code runs unchanged and no
 * file is real.
 *
 * What a disk promises here is what POSIX and SQLite's unix VFS rely on, and no more: bytes are
 * safe after fsync of the file, names after fsync of the folder; until then each 512-byte sector of
 * a write and each change of a name survives a loss of power or does not, in any combination. Bytes
 * outside a write never change with it (SQLite's power-safe overwrite).  After a failed fsync its
 * writes stay readable and no later fsync saves them: what Linux does.
 */
#ifndef TEST_DISK_H
#define TEST_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DISK_DIR "/disk"

typedef enum disk_fault {
    DISK_HEALTHY,
    DISK_POWER,  /* at this operation the machine is gone: nothing has an effect any more */
    DISK_EIO,    /* this operation fails */
    DISK_ENOSPC, /* this operation fails */
    DISK_SHORT,  /* half of this write is written, then there is no space for the rest */
    DISK_FULL,   /* from here on there is no room but what is given up */
} disk_fault;

typedef enum disk_op { DISK_LOOK, DISK_READ, DISK_NAME, DISK_WRITE, DISK_SYNC } disk_op;

typedef enum disk_keep { /* of what was not synced */
                         DISK_KEEP_ALL,
                         DISK_KEEP_NONE,
                         DISK_KEEP_SOME,
                         DISK_KEEP_JUNK, /* some, and where a sector is lost it may hold anything */
} disk_keep;

/* Register the VFS as SQLite's default; once. */
void disk_register(void);

/* An empty folder, everything safe, no fault.  No handle may be open. */
void disk_clear(void);

/* The fault will be at the k-th operation from now, from 1; 0: never.  Counting begins anew. */
void disk_arm(disk_fault fault, uint64_t k);
/* Operations since, and of which kind the i-th was, from 1. */
uint64_t disk_count(void);
disk_op disk_kind(uint64_t i);
bool disk_struck(void); /* has it happened? */

/* While frozen nothing has an effect: so that the handles of a process that is gone can be freed.
 */
void disk_freeze(bool frozen);
/* After all handles are closed: the fault is over and a full disk has room again; and the machine
 * has lost power or not. */
void disk_heal(void);
void disk_power_loss(disk_keep keep, uint64_t seed);

/* Syncs do nothing but say they did: a disk no program can be safe on. */
void disk_lies(bool lies);

/* A copy of the whole disk, and back. */
typedef struct disk_image disk_image;
disk_image *disk_save(void);
void disk_load(const disk_image *im);
void disk_image_free(disk_image *im);

/* The bytes of a file as they are read now; NULL where there is none. */
const uint8_t *disk_bytes(const char *path, size_t *n);
/* Put a file there, safe at once. */
void disk_put(const char *path, const void *p, size_t n);
void disk_remove(const char *path);

#endif
