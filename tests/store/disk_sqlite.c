/* disk_sqlite.c - the disk as SQLite's default VFS; see disk.h.
 *
 * Behaves as the unix VFS where the store can tell: 4096-byte sectors that power loss does not tear
 * beyond the write, the folder synced with the first sync of a new journal or write-ahead log, no
 * shared memory (iVersion 1, as the store's EXCLUSIVE mode needs none).  Locks are not played:
 * there is one connection to a file.
 */
#include "disk_in.h"

#include <errno.h>
#include <sqlite3.h>
#include <string.h>

typedef struct handle {
    sqlite3_file base;
    disk_file *file;
    bool sync_dir; /* a new journal: its name must be safe with its first bytes */
} handle;

static int last_errno;

static int code(int e, int rc) {
    last_errno = e;
    return rc;
}

/* ---- a file ---- */

static int file_close(sqlite3_file *base) {
    (void)base;
    return SQLITE_OK;
}

static int file_read(sqlite3_file *base, void *p, int n, sqlite3_int64 at) {
    size_t done = 0;
    int e = disk_read(((handle *)base)->file, (uint64_t)at, p, (size_t)n, &done);
    if (e)
        return code(e, SQLITE_IOERR_READ);
    if (done == (size_t)n)
        return SQLITE_OK;
    memset((uint8_t *)p + done, 0, (size_t)n - done);
    return SQLITE_IOERR_SHORT_READ;
}

static int file_write(sqlite3_file *base, const void *p, int n, sqlite3_int64 at) {
    size_t done;
    int e = disk_write(((handle *)base)->file, (uint64_t)at, p, (size_t)n, &done);
    return e ? code(e, e == ENOSPC ? SQLITE_FULL : SQLITE_IOERR_WRITE) : SQLITE_OK;
}

static int file_truncate(sqlite3_file *base, sqlite3_int64 n) {
    int e = disk_truncate(((handle *)base)->file, (uint64_t)n);
    return e ? code(e, SQLITE_IOERR_TRUNCATE) : SQLITE_OK;
}

static int file_sync(sqlite3_file *base, int flags) {
    handle *h = (handle *)base;
    (void)flags;
    int e = disk_sync(h->file);
    if (!e && h->sync_dir) {
        h->sync_dir = false;
        (void)disk_sync_dir(); /* the unix VFS ignores its failure, too */
    }
    return e ? code(e, SQLITE_IOERR_FSYNC) : SQLITE_OK;
}

static int file_size(sqlite3_file *base, sqlite3_int64 *n) {
    uint64_t size = 0;
    int e = disk_size(((handle *)base)->file, &size);
    *n = (sqlite3_int64)size;
    return e ? code(e, SQLITE_IOERR_FSTAT) : SQLITE_OK;
}

static int file_lock(sqlite3_file *base, int level) {
    (void)base, (void)level;
    return SQLITE_OK;
}

static int file_reserved(sqlite3_file *base, int *out) {
    (void)base;
    *out = 0;
    return SQLITE_OK;
}

static int file_control(sqlite3_file *base, int which, void *arg) {
    (void)base, (void)which, (void)arg;
    return SQLITE_NOTFOUND;
}

static int file_sector(sqlite3_file *base) {
    (void)base;
    return 4096;
}

static int file_traits(sqlite3_file *base) {
    (void)base;
    return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

static const sqlite3_io_methods methods = {
    .iVersion = 1,
    .xClose = file_close,
    .xRead = file_read,
    .xWrite = file_write,
    .xTruncate = file_truncate,
    .xSync = file_sync,
    .xFileSize = file_size,
    .xLock = file_lock,
    .xUnlock = file_lock,
    .xCheckReservedLock = file_reserved,
    .xFileControl = file_control,
    .xSectorSize = file_sector,
    .xDeviceCharacteristics = file_traits,
};

/* ---- the folder ---- */

static int vfs_open(sqlite3_vfs *vfs, const char *path, sqlite3_file *base, int flags, int *got) {
    handle *h = (handle *)base;
    bool created = false;
    (void)vfs;
    h->base.pMethods = NULL;
    if (!disk_has(path)) /* a temporary file: the store keeps those in memory */
        return SQLITE_CANTOPEN;
    int e = disk_open(path, (flags & SQLITE_OPEN_CREATE) != 0, false, &h->file, &created);
    if (e)
        return code(e, SQLITE_CANTOPEN);
    h->sync_dir =
        created &&
        (flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_SUPER_JOURNAL));
    h->base.pMethods = &methods;
    if (got)
        *got = flags;
    return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *path, int sync_dir) {
    (void)vfs;
    int e = disk_unlink(path);
    if (e)
        return e == ENOENT ? SQLITE_IOERR_DELETE_NOENT : code(e, SQLITE_IOERR_DELETE);
    if (sync_dir && (e = disk_sync_dir()) != 0)
        return code(e, SQLITE_IOERR_DIR_FSYNC);
    return SQLITE_OK;
}

/* An empty file does not exist, and one that cannot be asked for neither: so the unix VFS. */
static int vfs_access(sqlite3_vfs *vfs, const char *path, int flags, int *out) {
    (void)vfs;
    bool there;
    uint64_t n;
    last_errno = disk_exists(path, &there, &n);
    *out = there && (flags != SQLITE_ACCESS_EXISTS || n > 0);
    return SQLITE_OK;
}

static int vfs_full_path(sqlite3_vfs *vfs, const char *path, int room, char *out) {
    (void)vfs;
    sqlite3_snprintf(room, out, "%s", path);
    return SQLITE_OK;
}

static int vfs_random(sqlite3_vfs *vfs, int n, char *out) {
    (void)vfs;
    for (int i = 0; i < n; i++)
        out[i] = (char)(i * 37 + 11);
    return n;
}

static int vfs_sleep(sqlite3_vfs *vfs, int us) {
    (void)vfs;
    return us;
}

static int vfs_time(sqlite3_vfs *vfs, double *out) {
    (void)vfs;
    *out = 2460000.5;
    return SQLITE_OK;
}

static int vfs_last_error(sqlite3_vfs *vfs, int n, char *text) {
    (void)vfs, (void)n, (void)text;
    return last_errno;
}

void disk_register(void) {
    static sqlite3_vfs vfs = {
        .iVersion = 1,
        .szOsFile = (int)sizeof(handle),
        .mxPathname = 256,
        .zName = "disk",
        .xOpen = vfs_open,
        .xDelete = vfs_delete,
        .xAccess = vfs_access,
        .xFullPathname = vfs_full_path,
        .xRandomness = vfs_random,
        .xSleep = vfs_sleep,
        .xCurrentTime = vfs_time,
        .xGetLastError = vfs_last_error,
    };
    disk_clear();
    sqlite3_vfs_register(&vfs, 1);
    sqlite3_test_control(SQLITE_TESTCTRL_PRNG_SEED, 1, NULL); /* the same salts in every run */
}
