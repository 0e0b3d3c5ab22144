/* disk.c - files, names and what of them is safe; see disk.h. */
#include "disk_in.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FILES_MAX = 256, NAMES_MAX = 32, NAME_BYTES = 64, KINDS_MAX = 1 << 16, SECTOR = 512 };
#define CAPACITY (UINT64_C(64) << 20)

typedef struct bytes {
    uint8_t *p;
    size_t n;          /* size of the file */
    size_t held, room; /* of p; what lies beyond is zero (the ballast is 8 MiB of it) */
} bytes;

typedef struct change { /* of a file, not synced: bytes at `at`, or (p NULL) a new size */
    uint64_t at;
    size_t n;
    uint8_t *p;
} change;

struct disk_file {
    bytes cache, safe;
    change *changes;
    size_t n_changes, room_changes;
};

typedef struct name {
    char text[NAME_BYTES];
    int file; /* -1: gone */
} name;

typedef struct names {
    name at[NAMES_MAX];
    uint32_t n;
} names;

enum { RENAMES_MAX = 64 };
typedef struct rename_op { /* a change of the folder: `to` names `file`, `from` (or "") nothing */
    name from, to;
} rename_op;

static struct {
    disk_file *files[FILES_MAX];
    names now, safe;
    rename_op changes[RENAMES_MAX];
    uint32_t n_changes;
    disk_fault fault;
    uint64_t at, count, capacity;
    bool struck, dead, frozen, lies; /* dead: no power; frozen: no process */
    uint8_t kinds[KINDS_MAX];
} disk;

struct disk_image {
    names names;
    bytes files[NAMES_MAX]; /* by the name's place */
};

/* ---- bytes ---- */

static void resize(bytes *b, uint64_t n) {
    b->n = (size_t)n;
    if (b->held > b->n)
        b->held = b->n;
}

static void hold(bytes *b, size_t n) {
    if (n > b->room) {
        b->room = n * 2;
        b->p = realloc(b->p, b->room);
        assert(b->p);
    }
    if (n > b->held) {
        memset(b->p + b->held, 0, n - b->held);
        b->held = n;
    }
}

static void put(bytes *b, uint64_t at, const uint8_t *p, size_t n) {
    hold(b, (size_t)at + n);
    if (b->held > b->n)
        b->n = b->held;
    if (n)
        memcpy(b->p + at, p, n);
}

static void get(const bytes *b, uint64_t at, uint8_t *p, size_t n) {
    size_t held = at >= b->held ? 0 : b->held - at < n ? b->held - (size_t)at : n;
    if (held)
        memcpy(p, b->p + at, held);
    memset(p + held, 0, n - held);
}

static void copy(bytes *to, const bytes *from) {
    to->held = 0;
    hold(to, from->held);
    if (from->held)
        memcpy(to->p, from->p, from->held);
    to->n = from->n;
}

static uint64_t next(uint64_t *x) { /* splitmix64 */
    uint64_t z = *x += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* ---- names ---- */

bool disk_has(const char *path) {
    return path && strncmp(path, DISK_DIR, sizeof DISK_DIR - 1) == 0 &&
           (path[sizeof DISK_DIR - 1] == '/' || path[sizeof DISK_DIR - 1] == 0);
}

static int find(const names *in, const char *path) {
    for (uint32_t i = 0; i < in->n; i++)
        if (in->at[i].file >= 0 && strcmp(in->at[i].text, path) == 0)
            return (int)i;
    return -1;
}

static disk_file *file_at(const char *path) {
    int i = find(&disk.now, path);
    return i < 0 ? NULL : disk.files[disk.now.at[i].file];
}

static void set_name(names *in, const name *as) {
    if (!as->text[0])
        return;
    int i = find(in, as->text);
    for (uint32_t k = 0; i < 0 && k < in->n; k++)
        if (in->at[k].file < 0)
            i = (int)k;
    if (i < 0) {
        assert(in->n < NAMES_MAX);
        i = (int)in->n++;
    }
    in->at[i] = *as;
}

static void apply(names *in, const rename_op *c) {
    set_name(in, &c->to);
    if (c->from.text[0] && find(in, c->from.text) >= 0)
        set_name(in, &c->from);
}

static void change_name(const char *from, const char *to, int file) {
    rename_op c = {.from.file = -1, .to.file = file};
    assert(strlen(from) < NAME_BYTES && strlen(to) < NAME_BYTES);
    strcpy(c.from.text, from);
    strcpy(c.to.text, to);
    apply(&disk.now, &c);
    assert(disk.n_changes < RENAMES_MAX);
    disk.changes[disk.n_changes++] = c;
}

static int new_file(void) {
    for (int i = 0; i < FILES_MAX; i++)
        if (!disk.files[i]) {
            disk.files[i] = calloc(1, sizeof *disk.files[i]);
            assert(disk.files[i]);
            return i;
        }
    abort(); /* a file more than a test needs */
}

static void forget_changes(disk_file *f) {
    for (size_t i = 0; i < f->n_changes; i++)
        free(f->changes[i].p);
    f->n_changes = 0;
}

static void free_file(int i) {
    disk_file *f = disk.files[i];
    if (!f)
        return;
    forget_changes(f);
    free(f->changes);
    free(f->cache.p);
    free(f->safe.p);
    free(f);
    disk.files[i] = NULL;
}

/* ---- the fault ---- */

static uint64_t used(void) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < disk.now.n; i++)
        if (disk.now.at[i].file >= 0)
            n += disk.files[disk.now.at[i].file]->cache.n;
    return n;
}

/* One operation begins.  0: go on; *half: as far as half. */
static int op(disk_op kind, bool *half) {
    if (disk.dead || disk.frozen)
        return EIO;
    disk.count++;
    if (disk.count < KINDS_MAX)
        disk.kinds[disk.count] = (uint8_t)kind;
    if (disk.count != disk.at)
        return 0;
    disk.struck = true;
    switch (disk.fault) {
    case DISK_HEALTHY:
        return 0;
    case DISK_POWER:
        disk.dead = true;
        return EIO;
    case DISK_EIO:
        return EIO;
    case DISK_ENOSPC:
        return ENOSPC;
    case DISK_SHORT:
        if (half)
            *half = true;
        return 0;
    case DISK_FULL:
        disk.capacity = used();
        return 0;
    }
    return 0;
}

static bool fits(const disk_file *f, uint64_t end) {
    return end <= f->cache.n || used() + (end - f->cache.n) <= disk.capacity;
}

/* ---- operations ---- */

int disk_open(const char *path, bool create, bool truncate, disk_file **out, bool *created) {
    disk_file *f = file_at(path);
    bool makes = create && !f;
    int e = op(makes || truncate ? DISK_NAME : DISK_LOOK, NULL);
    if (e)
        return e;
    if (!f && !create)
        return ENOENT;
    if (makes) {
        int i = new_file();
        change_name("", path, i);
        f = disk.files[i];
    }
    if (created)
        *created = makes;
    *out = f;
    return truncate && f->cache.n ? disk_truncate(f, 0) : 0;
}

int disk_read(disk_file *f, uint64_t at, void *p, size_t n, size_t *done) {
    int e = op(DISK_READ, NULL);
    if (e)
        return e;
    *done = at >= f->cache.n ? 0 : f->cache.n - at < n ? f->cache.n - (size_t)at : n;
    get(&f->cache, at, p, *done);
    return 0;
}

static void remember(disk_file *f, uint64_t at, const uint8_t *p, size_t n) {
    if (f->n_changes == f->room_changes) {
        f->room_changes = f->room_changes ? 2 * f->room_changes : 16;
        f->changes = realloc(f->changes, f->room_changes * sizeof *f->changes);
        assert(f->changes);
    }
    change *c = &f->changes[f->n_changes++];
    *c = (change){.at = at, .n = n};
    if (p) {
        c->p = malloc(n + 1);
        assert(c->p);
        memcpy(c->p, p, n);
    }
}

int disk_write(disk_file *f, uint64_t at, const void *p, size_t n, size_t *done) {
    bool half = false;
    *done = 0;
    int e = op(DISK_WRITE, &half);
    if (!e && !fits(f, at + n))
        e = ENOSPC;
    if (e)
        return e;
    *done = half ? n / 2 : n;
    put(&f->cache, at, p, *done);
    remember(f, at, p, *done);
    return half ? ENOSPC : 0;
}

static int set_size(disk_file *f, uint64_t n) {
    int e = op(DISK_NAME, NULL);
    if (!e && !fits(f, n))
        e = ENOSPC;
    if (e)
        return e;
    resize(&f->cache, n);
    remember(f, n, NULL, 0);
    return 0;
}

int disk_truncate(disk_file *f, uint64_t n) {
    return set_size(f, n);
}

int disk_allocate(disk_file *f, uint64_t n) {
    return n > f->cache.n ? set_size(f, n) : 0;
}

int disk_sync(disk_file *f) {
    int e = op(DISK_SYNC, NULL);
    if (disk.dead || disk.frozen || disk.lies)
        return e;
    for (size_t i = 0; !e && i < f->n_changes; i++) {
        const change *c = &f->changes[i];
        if (c->p)
            put(&f->safe, c->at, c->p, c->n);
        else
            resize(&f->safe, c->at);
    }
    forget_changes(f); /* saved; or given up, and readable until the power goes */
    return e;
}

int disk_size(disk_file *f, uint64_t *n) {
    int e = op(DISK_LOOK, NULL);
    if (!e)
        *n = f->cache.n;
    return e;
}

int disk_sync_dir(void) {
    int e = op(DISK_SYNC, NULL);
    if (e || disk.lies)
        return e;
    disk.safe = disk.now;
    disk.n_changes = 0;
    return 0;
}

int disk_unlink(const char *path) {
    int e = op(DISK_NAME, NULL);
    if (!e && find(&disk.now, path) < 0)
        e = ENOENT;
    if (!e)
        change_name(path, "", -1);
    return e;
}

int disk_rename(const char *from, const char *to) {
    int e = op(DISK_NAME, NULL), i = find(&disk.now, from);
    if (!e && i < 0)
        e = ENOENT;
    if (!e)
        change_name(from, to, disk.now.at[i].file);
    return e;
}

int disk_exists(const char *path, bool *there, uint64_t *n) {
    const disk_file *f = file_at(path);
    int e = op(DISK_LOOK, NULL);
    *there = !e && f;
    *n = *there ? f->cache.n : 0;
    return e;
}

int disk_free_bytes(uint64_t *n) {
    int e = op(DISK_LOOK, NULL);
    if (!e)
        *n = disk.capacity > used() ? disk.capacity - used() : 0;
    return e;
}

/* ---- from the test ---- */

void disk_clear(void) {
    for (int i = 0; i < FILES_MAX; i++)
        free_file(i);
    disk.now.n = disk.safe.n = disk.n_changes = 0;
    disk.dead = disk.frozen = disk.lies = false;
    disk.capacity = CAPACITY;
    disk_arm(DISK_HEALTHY, 0);
}

void disk_arm(disk_fault fault, uint64_t k) {
    disk.fault = fault;
    disk.at = k;
    disk.count = 0;
    disk.struck = false;
}

uint64_t disk_count(void) {
    return disk.count;
}

disk_op disk_kind(uint64_t i) {
    assert(i && i < KINDS_MAX);
    return (disk_op)disk.kinds[i];
}

bool disk_struck(void) {
    return disk.struck;
}

void disk_freeze(bool frozen) {
    disk.frozen = frozen;
}

void disk_lies(bool lies) {
    disk.lies = lies;
}

void disk_heal(void) {
    bool named[FILES_MAX] = {false};
    for (uint32_t i = 0; i < disk.now.n; i++)
        if (disk.now.at[i].file >= 0)
            named[disk.now.at[i].file] = true;
    for (uint32_t i = 0; i < disk.safe.n; i++)
        if (disk.safe.at[i].file >= 0)
            named[disk.safe.at[i].file] = true;
    for (uint32_t i = 0; i < disk.n_changes; i++)
        if (disk.changes[i].to.file >= 0)
            named[disk.changes[i].to.file] = true;
    for (int i = 0; i < FILES_MAX; i++)
        if (!named[i])
            free_file(i);
    disk.dead = disk.frozen = false;
    disk.capacity = CAPACITY;
    disk_arm(DISK_HEALTHY, 0);
}

/* One write, sector by sector. */
static void lose_sectors(disk_file *f, const change *c, disk_keep keep, uint64_t *x) {
    for (uint64_t at = c->at; at < c->at + c->n;) {
        uint64_t stop = (at / SECTOR + 1) * SECTOR;
        if (stop > c->at + c->n)
            stop = c->at + c->n;
        uint64_t draw = next(x);
        if (draw & 1) {
            put(&f->safe, at, c->p + (at - c->at), (size_t)(stop - at));
        } else if (keep == DISK_KEEP_JUNK && (draw & 2)) {
            uint8_t junk[SECTOR];
            for (uint64_t i = 0; i < stop - at; i++)
                junk[i] = (uint8_t)next(x);
            put(&f->safe, at, junk, (size_t)(stop - at));
        }
        at = stop;
    }
}

static void lose_some(disk_file *f, disk_keep keep, uint64_t *x) {
    for (size_t i = 0; i < f->n_changes; i++) {
        const change *c = &f->changes[i];
        if (c->p)
            lose_sectors(f, c, keep, x);
        else if (next(x) & 1)
            resize(&f->safe, c->at);
    }
}

void disk_power_loss(disk_keep keep, uint64_t seed) {
    uint64_t x = seed;
    for (int i = 0; i < FILES_MAX; i++) {
        disk_file *f = disk.files[i];
        if (!f)
            continue;
        if (keep == DISK_KEEP_ALL)
            copy(&f->safe, &f->cache);
        else if (keep != DISK_KEEP_NONE)
            lose_some(f, keep, &x);
        forget_changes(f);
        copy(&f->cache, &f->safe);
    }
    for (uint32_t i = 0; i < disk.n_changes; i++)
        if (keep == DISK_KEEP_ALL || (keep != DISK_KEEP_NONE && (next(&x) & 1)))
            apply(&disk.safe, &disk.changes[i]);
    disk.n_changes = 0;
    disk.now = disk.safe;
    disk_heal();
}

/* ---- images ---- */

disk_image *disk_save(void) {
    disk_image *im = calloc(1, sizeof *im);
    assert(im);
    im->names = disk.now;
    for (uint32_t i = 0; i < im->names.n; i++)
        if (im->names.at[i].file >= 0)
            copy(&im->files[i], &disk.files[im->names.at[i].file]->cache);
    return im;
}

void disk_load(const disk_image *im) {
    disk_clear();
    for (uint32_t i = 0; i < im->names.n; i++) {
        if (im->names.at[i].file < 0)
            continue;
        int k = new_file();
        copy(&disk.files[k]->cache, &im->files[i]);
        copy(&disk.files[k]->safe, &im->files[i]);
        name as = im->names.at[i];
        as.file = k;
        set_name(&disk.now, &as);
    }
    disk.safe = disk.now;
}

void disk_image_free(disk_image *im) {
    if (!im)
        return;
    for (uint32_t i = 0; i < NAMES_MAX; i++)
        free(im->files[i].p);
    free(im);
}

const uint8_t *disk_bytes(const char *path, size_t *n) {
    disk_file *f = file_at(path);
    if (!f)
        return NULL;
    hold(&f->cache, f->cache.n);
    *n = f->cache.n;
    return f->cache.p;
}

void disk_put(const char *path, const void *p, size_t n) {
    disk_file *f = file_at(path);
    if (!f) {
        int i = new_file();
        change_name("", path, i);
        f = disk.files[i];
    }
    forget_changes(f);
    resize(&f->cache, 0);
    put(&f->cache, 0, p, n);
    copy(&f->safe, &f->cache);
    disk.safe = disk.now;
    disk.n_changes = 0;
}

void disk_remove(const char *path) {
    if (find(&disk.now, path) >= 0)
        change_name(path, "", -1);
    disk.safe = disk.now;
    disk.n_changes = 0;
}
