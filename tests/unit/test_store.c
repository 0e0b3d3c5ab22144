/* test_store.c - what was committed is there after any end; what is damaged never reaches the
 * ledger.
 * Rows are damaged by overwriting their bytes in the closed database file; a full disk is a small
 * tmpfs (root only).
 */
#include "peerd/bytes.h"
#include "peerd/file.h"
#include "peerd/replay.h"
#include "peerd/store.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { LOG_MAX = 1 << 20 };

static char dir[64];
static pd_identity me, other;
static uint8_t run[32] = {42};

static void start(void) {
    ck_assert_int_eq(pd_crypto_init(), PD_OK);
    strcpy(dir, "/tmp/pd-store-XXXXXX");
    ck_assert(mkdtemp(dir) != NULL);
    pd_identity_from_seed((const uint8_t[32]){1}, &me);
    pd_identity_from_seed((const uint8_t[32]){2}, &other);
}

static const char *in_dir(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void clean(void) {
    static const char *const names[] = {"ledger.db", "ledger.db-wal", "ledger.db-journal",
                                        "instance",  "ballast",       "copy.db",
                                        "kept.db",   "copy.db-wal"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unlink(in_dir(names[i]));
    if (rmdir(dir) && errno == EBUSY && umount(dir) == 0) /* a test of full disks failed */
        rmdir(dir);
}

static pd_store *open_store(void) {
    pd_store *s;
    pd_err e = pd_store_open(dir, true, run, &s);
    ck_assert_msg(e == PD_OK, "%s", e ? pd_fail_text() : "");
    return s;
}

static pd_author author_of(const pd_identity *id) {
    pd_author a = {.inc = 0};
    memcpy(a.key, id->pub, 32);
    return a;
}

/* Seal of the first n bytes. */
static void seal_of(const pd_identity *id, uint8_t stream, const uint8_t *bytes, size_t n,
                    uint8_t seal[64]) {
    pd_author a = author_of(id);
    pd_chain c;
    uint8_t message[PD_SEAL_MESSAGE_BYTES];
    pd_chain_init(&c, run, &a, stream);
    pd_chain_add(&c, bytes, n);
    pd_seal_message(&c, run, &a, stream, message);
    pd_sign(id, message, sizeof message, seal);
}

static pd_err append(pd_store *s, const pd_identity *id, uint8_t stream, const uint8_t *log,
                     size_t from, size_t to) {
    pd_author a = author_of(id);
    uint8_t seal[64];
    seal_of(id, stream, log, to, seal);
    return pd_store_append(s, &a, stream, from, log + from, to - from, seal);
}

static void fill(uint8_t *log, size_t n, uint32_t x) {
    for (size_t i = 0; i < n; i++)
        log[i] = (uint8_t)((x = x * 1664525 + 1013904223) >> 24);
}

static pd_ledger *load(pd_store *s, pd_store_report *report) {
    pd_ledger *l;
    ck_assert_int_eq(pd_ledger_open(&l), PD_OK);
    pd_err e = pd_store_load(s, me.pub, l, report);
    ck_assert_msg(e == PD_OK, "%s", e ? pd_fail_text() : "");
    return l;
}

/* Bytes of an author in a ledger. */
static size_t read_log(pd_ledger *l, const pd_identity *id, uint8_t stream, uint8_t *out) {
    pd_author a = author_of(id);
    uint32_t index;
    ck_assert_int_eq(pd_ledger_author(l, &a, &index), PD_OK);
    return pd_ledger_read(l, index, stream, 0, out, LOG_MAX);
}

static uint8_t log_a[LOG_MAX], log_b[LOG_MAX], got[LOG_MAX];

/* ---- open ---- */

START_TEST(refusals_name_the_cause) {
    pd_store *s, *again;
    uint8_t foreign[32] = {43}, back[32];
    ck_assert_int_eq(pd_store_open(dir, false, run, &s), PD_ENOENT);
    ck_assert(strstr(pd_fail_text(), "peerd init") != NULL);
    s = open_store();
    ck_assert(!pd_store_restored(s));
    struct stat st;
    ck_assert(stat(in_dir("ledger.db"), &st) == 0 &&
              (st.st_mode & 0777) == 0600); /* it holds tickets */
    ck_assert(stat(in_dir("ledger.db-wal"), &st) == 0 && (st.st_mode & 0777) == 0600);
    ck_assert_int_eq(pd_store_open(dir, false, run, &again), PD_EBUSY);
    pid_t child = fork();
    if (child == 0)
        _exit((int)pd_store_open(dir, false, run, &again));
    int status;
    waitpid(child, &status, 0);
    ck_assert_int_eq(WEXITSTATUS(status), PD_EBUSY);
    pd_store_close(s);
    ck_assert_int_eq(pd_store_open(dir, true, foreign, &s), PD_EMISMATCH);
    ck_assert(strstr(pd_fail_text(), "2a00000000000000") != NULL);
    ck_assert_int_eq(pd_store_open(dir, false, NULL, &s), PD_OK);
    ck_assert(!pd_file_exists(in_dir("ledger.db-shm"))); /* mapped, a full disk would kill us */
    pd_store_run(s, back);
    ck_assert_mem_eq(back, run, 32);
    ck_assert(!pd_store_restored(s));
    pd_store_close(s);
    pd_store_close(NULL);

    int fd = open(in_dir("ledger.db"), O_RDWR);
    ck_assert(fd >= 0 && pwrite(fd, "\0\0\0\3", 4, 60) == 4); /* user_version of the file format */
    ck_assert_int_eq(pd_store_open(dir, true, run, &s), PD_EUNSUPPORTED);
    ck_assert(pwrite(fd, "\0\0\0\1GP10", 8, 60) == 8 &&
              pwrite(fd, "GP10", 4, 68) == 4); /* application_id */
    ck_assert_int_eq(pd_store_open(dir, true, run, &s), PD_EFORMAT);
    ck_assert(pwrite(fd, "not a database at all", 21, 0) == 21);
    ck_assert_int_eq(pd_store_open(dir, true, run, &s), PD_EFORMAT);
    ck_assert(strstr(pd_fail_text(), "ledger.db") != NULL);
    close(fd);
}
END_TEST

/* ---- logs ---- */

START_TEST(logs_come_back_in_any_pieces) {
    static const size_t cuts[] = {0, 1, 1023, 1024, 1025, 3000, 5 * 1024, 5 * 1024 + 1, 20000};
    pd_store_report report;
    fill(log_a, 20000, 1);
    fill(log_b, 20000, 2);
    pd_store *s = open_store();
    for (size_t i = 0; i + 1 < sizeof cuts / sizeof *cuts; i++) {
        ck_assert_int_eq(append(s, &me, 0, log_a, cuts[i], cuts[i + 1]), PD_OK);
        ck_assert_int_eq(append(s, &other, 1, log_b, i > 2 ? cuts[i - 2] : 0, cuts[i + 1]),
                         PD_OK); /* overlaps */
        if (i % 3 == 0)
            ck_assert_int_eq(pd_store_commit(s), PD_OK);
    }
    ck_assert_uint_gt(pd_store_pending(s), 0);
    ck_assert_int_eq(pd_store_commit(s), PD_OK);
    ck_assert_uint_eq(pd_store_pending(s), 0);
    pd_store_close(s);
    s = open_store();
    pd_ledger *l = load(s, &report);
    ck_assert(report.authors == 2 && report.bytes == 40000 && report.cut == 0 && !report.own_cut);
    ck_assert_uint_eq(read_log(l, &me, 0, got), 20000);
    ck_assert_mem_eq(got, log_a, 20000);
    ck_assert_uint_eq(read_log(l, &other, 1, got), 20000);
    ck_assert_mem_eq(got, log_b, 20000);
    ck_assert_uint_eq(read_log(l, &me, 1, got), 0);
    pd_ledger_close(l);
    pd_store_close(s);
}
END_TEST

/* S1, in the last place where it can be kept. */
START_TEST(other_bytes_for_a_held_step_are_refused) {
    uint64_t n;
    pd_author a = author_of(&me);
    fill(log_a, 5000, 1);
    memcpy(log_b, log_a, 5000);
    pd_store *s = open_store();
    ck_assert_int_eq(append(s, &me, 0, log_a, 0, 4000), PD_OK);
    ck_assert_int_eq(append(s, &me, 0, log_a, 4001, 4100), PD_EMISMATCH); /* a gap */
    static const size_t at[] = {0, 1023, 1024, 2500, 3999};
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        log_b[at[i]] ^= 1;
        ck_assert_int_eq(append(s, &me, 0, log_b, 0, 4500), PD_EMISMATCH);
        ck_assert_int_eq(append(s, &me, 0, log_b, at[i], 4000), PD_EMISMATCH);
        log_b[at[i]] ^= 1;
    }
    ck_assert_int_eq(pd_store_end(s, &a, 0, &n), PD_OK);
    ck_assert_uint_eq(n, 4000);
    ck_assert_int_eq(append(s, &me, 0, log_a, 100, 300), PD_OK); /* held: nothing to do */
    ck_assert_int_eq(append(s, &me, 0, log_a, 100, 5000), PD_OK);
    pd_store_rollback(s);
    ck_assert_int_eq(pd_store_end(s, &a, 0, &n), PD_OK);
    ck_assert_uint_eq(n, 0); /* nothing was committed */
    pd_store_close(s);
}
END_TEST

START_TEST(follow_stores_what_the_ledger_has) {
    pd_ledger *l, *back;
    pd_store_report report;
    uint32_t index;
    uint8_t seal[64];
    bool behind;
    pd_author a = author_of(&other);
    size_t at = 0;
    fill(log_b, LOG_MAX, 3);
    pd_store *s = open_store();
    ck_assert_int_eq(pd_ledger_open(&l), PD_OK);
    ck_assert_int_eq(pd_ledger_author(l, &a, &index), PD_OK);
    for (int i = 0; i < 40; i++) {
        size_t n = 1 + (size_t)i * 97;
        seal_of(&other, 0, log_b, at + n, seal);
        ck_assert_int_eq(pd_ledger_append(l, index, 0, at, log_b + at, n, seal), PD_OK);
        at += n;
        ck_assert_int_eq(pd_store_follow(s, l, &behind), PD_OK);
        ck_assert(!behind);
        if (i % 4 == 1)
            pd_store_rollback(s); /* as a full disk does: the next call begins again */
        else if (i % 4 == 3)
            ck_assert_int_eq(pd_store_commit(s), PD_OK);
    }
    seal_of(&other, 0, log_b, at + 10, seal);
    ck_assert_int_eq(pd_ledger_append(l, index, 0, at, log_b + at, 10, seal), PD_OK);
    at += 10;
    for (int again = 0; again < 2; again++) { /* undone, with nothing new in the ledger */
        pd_store_rollback(s);
        ck_assert_int_eq(pd_store_follow(s, l, &behind), PD_OK);
    }
    ck_assert_int_eq(pd_store_commit(s), PD_OK);
    ck_assert_int_eq(pd_store_follow(s, l, &behind), PD_OK);
    ck_assert_uint_eq(pd_store_pending(s), 0);
    back = load(s, &report);
    ck_assert_uint_eq(read_log(back, &other, 0, got), at);
    ck_assert_mem_eq(got, log_b, at);
    ck_assert_uint_eq(report.cut, 0);
    pd_ledger_close(l);
    pd_ledger_close(back);
    pd_store_close(s);
}
END_TEST

/* A node that starts again counts the same records, before it has heard of anyone: where an
 * author's records become void is kept with its log, through rollbacks, falls, and what rises
 * again.
 */
START_TEST(void_steps_are_kept) {
    static const uint64_t steps[] = {70, 12, 0, PD_VOID_NEVER, 99, 5};
    pd_store_report report;
    pd_store *s = open_store();
    pd_ledger *l = load(s, &report), *back;
    pd_author a = author_of(&other), absent = author_of(&me);
    uint32_t index, nobody;
    uint8_t seal[64];
    bool behind;
    fill(log_b, 100, 3);
    seal_of(&other, 0, log_b, 100, seal);
    ck_assert_int_eq(pd_ledger_author(l, &absent, &nobody), PD_OK); /* has no log, so no row */
    ck_assert_int_eq(pd_ledger_author(l, &a, &index), PD_OK);
    pd_ledger_void(l, nobody, 3);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        pd_log_info info;
        pd_ledger_void(l, index, steps[i]);
        if (i == 1)
            ck_assert_int_eq(pd_ledger_append(l, index, 0, 0, log_b, 100, seal), PD_OK);
        ck_assert_int_eq(pd_store_follow(s, l, &behind), PD_OK);
        if (i % 2) {
            pd_store_rollback(s);
            ck_assert_int_eq(pd_store_follow(s, l, &behind), PD_OK);
        }
        ck_assert_int_eq(pd_store_commit(s), PD_OK);
        pd_store_close(s);
        s = open_store();
        back = load(s, &report);
        bool there = pd_ledger_find(back, &a, &index);
        ck_assert(there == (i > 0));
        if (there) {
            ck_assert(pd_ledger_info(back, index, &info));
            ck_assert_uint_eq(info.void_at, steps[i]);
            ck_assert_uint_eq(pd_ledger_records(back), steps[i] < 100 ? steps[i] : 100);
        }
        if (i > 0) {
            pd_ledger_close(l);
            l = back;
        } else {
            pd_ledger_close(back);
            ck_assert_int_eq(pd_ledger_author(l, &a, &index), PD_OK);
        }
    }
    pd_ledger_close(l);
    pd_store_close(s);
}
END_TEST

/* ---- damage ---- */

/* Turn one byte of the database file where `needle` stands; how often it was found. */
static int damage(const char *path, const uint8_t *needle, size_t n) {
    uint8_t *p;
    size_t size;
    int found = 0;
    ck_assert_int_eq(pd_file_read(path, 64 << 20, &p, &size), PD_OK);
    for (size_t i = 0; i + n <= size; i++)
        if (memcmp(p + i, needle, n) == 0) {
            p[i + n / 2] ^= 0x10;
            found++;
        }
    ck_assert_int_eq(pd_file_replace(path, p, size, 0600), PD_OK);
    free(p);
    return found;
}

/* Bit rot in a chunk, in a seal, in C_j: that log is asked for again, the others are whole. */
START_TEST(a_damaged_log_is_cut_and_the_rest_is_whole) {
    uint8_t seal[64];
    fill(log_a, 9000, 1);
    fill(log_b, 9000, 2);
    for (int kind = 0; kind < 4; kind++) {
        pd_store_report report;
        const pd_identity *hit = kind == 3 ? &me : &other;
        pd_store *s = open_store();
        ck_assert_int_eq(append(s, &me, 0, log_a, 0, 9000), PD_OK);
        ck_assert_int_eq(append(s, &other, 0, log_b, 0, 9000), PD_OK);
        ck_assert_int_eq(append(s, &other, 1, log_a, 0, 700), PD_OK);
        ck_assert_int_eq(pd_store_commit(s), PD_OK);
        pd_store_close(s);
        seal_of(&other, 0, log_b, 9000, seal);
        if (kind == 0)
            ck_assert_int_eq(damage(in_dir("ledger.db"), log_b + 4096, 100), 1);
        else if (kind == 1)
            ck_assert_int_eq(damage(in_dir("ledger.db"), log_b + 8800, 100), 1);
        else if (kind == 2)
            ck_assert_int_ge(damage(in_dir("ledger.db"), seal, 64), 1);
        else
            ck_assert_int_eq(damage(in_dir("ledger.db"), log_a + 1024, 100), 1);
        s = open_store();
        pd_ledger *l = load(s, &report);
        ck_assert_uint_eq(report.cut, 1);
        ck_assert(report.own_cut == (hit == &me) && pd_store_restored(s) == (hit == &me));
        ck_assert_uint_eq(read_log(l, hit, 0, got), 0);
        ck_assert_uint_eq(read_log(l, hit == &me ? &other : &me, 0, got), 9000);
        ck_assert_uint_eq(read_log(l, &other, 1, got), 700);
        ck_assert_int_eq(append(s, hit, 0, hit == &me ? log_a : log_b, 0, 9000),
                         PD_OK); /* pulled again */
        ck_assert_int_eq(pd_store_commit(s), PD_OK);
        pd_ledger_close(l);
        l = load(s, &report);
        ck_assert_uint_eq(report.cut, 0);
        ck_assert_uint_eq(report.bytes, 18700);
        pd_ledger_close(l);
        pd_store_close(s);
    }
}
END_TEST

/* A tail that rotted must not be built upon: the sum over it would be made anew. */
START_TEST(appending_to_a_damaged_tail_is_refused) {
    fill(log_a, 3000, 1);
    pd_store *s = open_store();
    ck_assert_int_eq(append(s, &me, 0, log_a, 0, 2500), PD_OK);
    ck_assert_int_eq(pd_store_commit(s), PD_OK);
    pd_store_close(s);
    ck_assert_int_eq(damage(in_dir("ledger.db"), log_a + 2100, 100), 1);
    s = open_store();
    ck_assert_int_eq(append(s, &me, 0, log_a, 2500, 3000), PD_EFORMAT);
    pd_store_close(s);
}
END_TEST

/* Whatever bytes rot anywhere: open and load end with an error or with logs that prove themselves;
 * no crash. */
START_TEST(rot_anywhere_is_survived) {
    uint8_t *whole;
    size_t size;
    uint32_t x = 5;
    fill(log_a, 6000, 1);
    pd_store *s = open_store();
    ck_assert_int_eq(append(s, &me, 0, log_a, 0, 6000), PD_OK);
    ck_assert_int_eq(append(s, &other, 0, log_a, 0, 3000), PD_OK);
    ck_assert_int_eq(pd_store_commit(s), PD_OK);
    pd_store_close(s);
    ck_assert_int_eq(pd_file_read(in_dir("ledger.db"), 1 << 20, &whole, &size), PD_OK);
    unsigned opened = 0, refused = 0, cuts = 0;
    for (int round = 0; round < 80; round++) {
        uint8_t *p = malloc(size);
        memcpy(p, whole, size);
        for (int k = 0; k < 1 + round % 40; k++) {
            x = x * 1664525 + 1013904223;
            p[x % size] ^= (uint8_t)(1 << (x >> 28) % 8);
        }
        ck_assert_int_eq(pd_file_replace(in_dir("ledger.db"), p, size, 0600), PD_OK);
        unlink(in_dir("ledger.db-wal"));
        free(p);
        if (pd_store_open(dir, false, run, &s)) {
            refused++;
            continue;
        }
        opened++;
        pd_ledger *l;
        pd_store_report report;
        ck_assert_int_eq(pd_ledger_open(&l), PD_OK);
        if (pd_store_load(s, me.pub, l, &report) == PD_OK) {
            cuts += report.cut;
            size_t n = read_log(l, &me, 0, got);
            ck_assert(n == 0 || n == 6000);
            ck_assert_mem_eq(got, log_a, n);
        }
        pd_ledger_close(l);
        pd_store_close(s);
    }
    free(whole);
    ck_assert(opened > 10 && refused > 10 && cuts > 5);
}
END_TEST

/* ---- instance ---- */

static void copy_file(const char *from, const char *to) {
    uint8_t *p;
    size_t n;
    ck_assert_int_eq(pd_file_read(from, 64 << 20, &p, &n), PD_OK);
    ck_assert_int_eq(pd_file_replace(to, p, n, 0600), PD_OK);
    free(p);
}

/* A database put back from a backup must listen before it speaks, or it makes other bytes for old
 * steps. */
START_TEST(restored_databases_are_told) {
    char db[128], copy[128], kept[128];
    pd_store_report report;
    strcpy(db, in_dir("ledger.db"));
    strcpy(copy, in_dir("copy.db"));
    strcpy(kept, in_dir("kept.db"));
    fill(log_a, 3000, 1);
    pd_store *s = open_store();
    ck_assert_int_eq(append(s, &me, 0, log_a, 0, 1000), PD_OK);
    ck_assert_int_eq(pd_store_backup(s, copy), PD_OK); /* commits */
    ck_assert_int_eq(pd_store_backup(s, copy), PD_EEXIST);
    ck_assert_int_eq(append(s, &me, 0, log_a, 1000, 3000), PD_OK);
    ck_assert_int_eq(pd_store_commit(s), PD_OK);
    pd_store_close(s);
    copy_file(db, kept);
    for (int starts = 0; starts < 2; starts++) {
        s = open_store();
        ck_assert(!pd_store_restored(s));
        pd_store_close(s);
    }
    copy_file(kept, db); /* an old copy of the file */
    s = open_store();
    ck_assert(pd_store_restored(s));
    pd_store_close(s);
    s = open_store(); /* told once: from now on it is the node's database */
    ck_assert(!pd_store_restored(s));
    pd_store_close(s);
    copy_file(copy, db); /* the backup, beside the file of the token and without it */
    for (int without = 0; without < 2; without++) {
        if (without) {
            copy_file(copy, db);
            unlink(in_dir("instance"));
        }
        s = open_store();
        ck_assert(pd_store_restored(s));
        pd_ledger *l = load(s, &report);
        ck_assert_uint_eq(read_log(l, &me, 0, got), 1000);
        pd_ledger_close(l);
        pd_store_close(s);
    }
    unlink(db); /* the database lost, the token there */
    s = open_store();
    ck_assert(pd_store_restored(s));
    pd_store_close(s);
}
END_TEST

/* Start a child that appends and commits `to` bytes in steps and dies by SIGKILL. */
static void append_and_die(size_t from, size_t to) {
    pid_t child = fork();
    if (child == 0) {
        pd_store *s = open_store();
        if (pd_store_maintain(s, 1) ||
            pd_store_maintain(s, 61000)) /* the token is in the database file */
            _exit(2);
        for (; from < to; from += 100)
            if (append(s, &me, 0, log_a, from, from + 100) || pd_store_commit(s))
                _exit(1);
        raise(SIGKILL);
    }
    int status;
    waitpid(child, &status, 0);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

START_TEST(a_lost_write_ahead_log_is_told) {
    pd_store_report report;
    fill(log_a, 3000, 1);
    append_and_die(0, 1000);
    pd_store *s = open_store();
    ck_assert(!pd_store_restored(s)); /* a kill alone is no restore */
    pd_store_close(s);
    append_and_die(1000, 2000);
    ck_assert_int_eq(unlink(in_dir("ledger.db-wal")), 0);
    s = open_store();
    ck_assert(pd_store_restored(s));
    pd_ledger *l = load(s, &report);
    ck_assert_uint_eq(read_log(l, &me, 0, got), 1000);
    ck_assert_mem_eq(got, log_a, 1000);
    pd_ledger_close(l);
    pd_store_close(s);
}
END_TEST

/* ---- kill -9 ---- */

typedef struct said { /* one acknowledgement of the child: these bytes are durable */
    uint32_t from, n;
    uint8_t bytes[200];
} said;

/* A node: reads its log, goes on where it ends with bytes never chosen before, and says what was
 * committed. */
static void node(int out, uint32_t x) {
    pd_store_report report;
    pd_store *s = open_store();
    if (pd_store_restored(s))
        _exit(3);
    pd_ledger *l = load(s, &report);
    size_t n = read_log(l, &me, 0, log_a);
    static int32_t a[840];
    uint64_t clock = 1;
    for (;;) {
        x = x * 1664525 + 1013904223;
        said more = {.from = (uint32_t)n, .n = 1 + (x >> 8) % 200};
        fill(log_a + n, more.n, x);
        memcpy(more.bytes, log_a + n, more.n);
        if (append(s, &me, 0, log_a, n, n + more.n) || append(s, &other, 0, log_a, 0, n + more.n) ||
            pd_store_commit(s) || write(out, &more, sizeof more) != sizeof more)
            _exit(4);
        n += more.n;
        if (x % 16 == 0) { /* and all that a node does besides */
            pd_author who = author_of(&me);
            uint8_t digest[16];
            a[x % 840] = (int32_t)x;
            pd_replay_digest(a, 840, digest);
            if (pd_store_ckpt_put(s, digest, a, 840, &who, &(uint64_t){n}, 1) ||
                pd_store_commit(s) || pd_store_maintain(s, clock += 61000))
                _exit(5);
        }
    }
}

/* Nothing acknowledged is lost, and no step ever has two bytes, wherever the kill falls. */
START_TEST(kill_at_any_moment) {
    static uint8_t first[LOG_MAX];
    size_t acknowledged = 0, durable = 0;
    uint32_t x = (uint32_t)getpid();
    printf("kill_at_any_moment: seed %u\n", x);
    /* A first start that is cut off between the two tokens looks like a copy without its token: it is
     * told as one, to be safe (tests/store kills it there). */
    pd_store_close(open_store());
    for (int round = 0; round < 60 && durable < LOG_MAX / 2; round++) {
        int fds[2];
        ck_assert_int_eq(pipe(fds), 0);
        pid_t child = fork();
        if (child == 0) {
            close(fds[0]);
            node(fds[1], x + (uint32_t)round);
        }
        close(fds[1]);
        x = x * 1664525 + 1013904223;
        if (round % 3) { /* among commits; else anywhere, the start included */
            struct pollfd first_word = {.fd = fds[0], .events = POLLIN};
            ck_assert_int_eq(poll(&first_word, 1, 30000), 1);
        }
        usleep((x >> 8) % (round % 3 ? 15000 : 60000));
        kill(child, SIGKILL);
        int status;
        waitpid(child, &status, 0);
        ck_assert_msg(WIFSIGNALED(status), "the child ended by itself: %d", WEXITSTATUS(status));
        said more;
        while (read(fds[0], &more, sizeof more) == sizeof more) {
            for (size_t i = 0; i < more.n; i++)
                if (more.from + i < durable)
                    ck_assert_uint_eq(more.bytes[i], first[more.from + i]);
            memcpy(first + more.from, more.bytes, more.n);
            acknowledged = more.from + more.n;
        }
        close(fds[0]);
        pd_store_report report;
        pd_store *s = open_store();
        ck_assert(!pd_store_restored(s));
        pd_ledger *l = load(s, &report);
        size_t n = read_log(l, &me, 0, got);
        ck_assert_uint_eq(report.cut, 0);
        ck_assert_msg(n >= acknowledged, "round %d: %zu acknowledged, %zu there", round,
                      acknowledged, n);
        ck_assert_mem_eq(got, first, acknowledged);
        memcpy(first, got, n);
        durable = n;
        pd_ledger_close(l);
        pd_store_close(s);
    }
    ck_assert_uint_gt(acknowledged, 0);
}
END_TEST

/* ---- the 1st, 2nd, ... nth write fails ---- */

/* Files may not grow beyond `limit`: appends go on until one fails; returns what was committed
 * through a pipe. */
static void limited(int out, rlim_t limit) {
    struct rlimit r = {limit, limit};
    signal(SIGXFSZ, SIG_IGN);
    pd_store *s;
    uint32_t n = 0;
    setrlimit(RLIMIT_FSIZE, &r);
    if (pd_store_open(dir, true, run, &s) == PD_OK) {
        pd_author a = author_of(&me);
        uint64_t end;
        while (n < 6000) {
            pd_err e = append(s, &me, 0, log_a, n, n + 300);
            if (!e)
                e = pd_store_commit(s);
            if (e && e != PD_EIO && e != PD_EFULL)
                _exit(10);
            if (e && n && (pd_store_end(s, &a, 0, &end) != PD_OK || end != n))
                _exit(11); /* the failed transaction left something behind */
            if (e)
                break;
            n += 300;
            if (n % 1500 == 0 && pd_store_maintain(s, 100000u * n) != PD_OK)
                break;
        }
    }
    if (write(out, &n, sizeof n) != sizeof n)
        _exit(12);
    _exit(0);
}

START_TEST(every_failing_write_keeps_what_was_committed) {
    fill(log_a, 7000, 1);
    uint32_t largest = 0;
    for (rlim_t limit = 0; limit < 150 * 1024;
         limit += 4096 - 24) { /* through all offsets within a page and frame */
        int fds[2], status;
        uint32_t n = 0;
        ck_assert_int_eq(pipe(fds), 0);
        pid_t child = fork();
        if (child == 0)
            limited(fds[1], limit);
        waitpid(child, &status, 0);
        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "limit %lu: status %d",
                      (unsigned long)limit, status);
        ck_assert(read(fds[0], &n, sizeof n) == sizeof n);
        close(fds[0]), close(fds[1]);
        largest = n > largest ? n : largest;
        pd_store_report report;
        pd_store *s = open_store();
        pd_ledger *l = load(s, &report);
        ck_assert_uint_eq(report.cut, 0);
        size_t held = read_log(l, &me, 0, got);
        ck_assert_msg(held >= n && held <= n + 300, "limit %lu: %u committed, %zu there",
                      (unsigned long)limit, n, held);
        ck_assert_mem_eq(got, log_a, held);
        pd_ledger_close(l);
        pd_store_close(s);
        clean();
        ck_assert_int_eq(mkdir(dir, 0700), 0);
    }
    ck_assert_uint_ge(largest, 1500); /* the sweep went far enough to commit */
}
END_TEST

/* ---- a full disk ---- */

/* Mounted for this test's process alone: a test that fails leaves nothing behind. */
static bool small_disk(const char *options) {
    if (unshare(CLONE_NEWNS) == 0 && mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) == 0 &&
        mount("tmpfs", dir, "tmpfs", 0, options) == 0)
        return true;
    printf("skipped: no small disk can be mounted here (%s)\n", strerror(errno));
    return false;
}

/* Somebody else takes all there is. */
static void fill_disk(void) {
    static uint8_t zero[4096];
    int fd = open(in_dir("copy.db"), O_CREAT | O_WRONLY, 0600);
    while (write(fd, zero, sizeof zero) > 0)
        ;
    close(fd);
}

START_TEST(a_full_disk_loses_nothing_committed_and_goes_on_with_room) {
    if (!small_disk("size=1m"))
        return;
    fill(log_a, LOG_MAX, 1);
    size_t n = 0;
    pd_err e = PD_OK;
    pd_store *s = open_store();
    while (!e && n + 4000 < LOG_MAX) {
        e = append(s, &me, 0, log_a, n, n + 4000);
        if (!e)
            e = pd_store_commit(s);
        if (!e)
            n += 4000;
    }
    ck_assert_int_eq(e, PD_EFULL);
    ck_assert(n > 30000 && strstr(pd_fail_text(), "no space left") != NULL);
    pd_author a = author_of(&me);
    uint64_t end;
    ck_assert_int_eq(pd_store_end(s, &a, 0, &end), PD_OK);
    ck_assert_uint_eq(end, n);
    ck_assert_int_eq(mount("tmpfs", dir, "tmpfs", MS_REMOUNT, "size=8m"), 0);
    ck_assert_int_eq(append(s, &me, 0, log_a, n, n + 4000), PD_OK);
    ck_assert_int_eq(pd_store_commit(s), PD_OK);
    pd_store_close(s);
    pd_store_report report;
    s = open_store();
    pd_ledger *l = load(s, &report);
    ck_assert_uint_eq(read_log(l, &me, 0, got), n + 4000);
    ck_assert_mem_eq(got, log_a, n + 4000);
    pd_ledger_close(l);
    pd_store_close(s);
    umount(dir);
}
END_TEST

/* 8 MiB are held back for the moment when nothing is left, so that what is small (a last seal)
 * still fits. */
START_TEST(the_ballast_is_given_up_and_made_again) {
    if (!small_disk("size=20m"))
        return;
    fill(log_a, LOG_MAX, 1);
    pd_store *s = open_store();
    struct stat st;
    ck_assert(stat(in_dir("ballast"), &st) == 0 && st.st_size == 8 << 20);
    fill_disk();
    pd_err e = append(s, &me, 0, log_a, 0, 500000);
    if (!e)
        e = pd_store_commit(s);
    ck_assert_int_eq(e, PD_EFULL);
    ck_assert(!pd_file_exists(in_dir("ballast")));
    ck_assert_int_eq(append(s, &me, 0, log_a, 0, 500), PD_OK);
    ck_assert_int_eq(pd_store_commit(s), PD_OK);
    ck_assert_int_eq(pd_store_maintain(s, 1000), PD_OK);
    ck_assert_int_eq(pd_store_maintain(s, 62000), PD_OK);
    ck_assert(!pd_file_exists(in_dir("ballast"))); /* no room yet */
    unlink(in_dir("copy.db"));
    ck_assert_int_eq(pd_store_maintain(s, 123000), PD_OK);
    ck_assert(pd_file_exists(in_dir("ballast")));
    pd_store_close(s);
    fill_disk();
    s = open_store(); /* a node starts on a full disk, too */
    ck_assert(!pd_file_exists(in_dir("ballast")) && !pd_store_restored(s));
    ck_assert_int_eq(append(s, &me, 0, log_a, 500, 600), PD_OK);
    ck_assert_int_eq(pd_store_commit(s), PD_OK);
    pd_store_close(s);
    umount(dir);
}
END_TEST

/* ---- the rest ---- */

START_TEST(values_and_files_come_back) {
    uint8_t *p, digest[32], wrong[32] = {0};
    size_t n;
    pd_store *s = open_store();
    ck_assert_int_eq(pd_store_meta_get(s, "manifest", &p, &n), PD_ENOENT);
    ck_assert_int_eq(pd_store_meta_set(s, "manifest", "text", 4), PD_OK);
    ck_assert_int_eq(pd_store_meta_set(s, "empty", "", 0), PD_OK);
    ck_assert_int_eq(pd_store_meta_set(s, "manifest", "longer text", 11), PD_OK);
    pd_hash256("a basis of some bytes, and then more of it", 42, digest);
    ck_assert_int_eq(pd_store_file_put(s, wrong, "a basis", 7), PD_EMISMATCH);
    ck_assert_int_eq(pd_store_file_put(s, digest, "a basis of some bytes, and then more of it", 42),
                     PD_OK);
    ck_assert_int_eq(pd_store_commit(s), PD_OK);
    pd_store_close(s);
    s = open_store();
    ck_assert_int_eq(pd_store_meta_get(s, "manifest", &p, &n), PD_OK);
    ck_assert(n == 11 && strcmp((char *)p, "longer text") == 0);
    free(p);
    ck_assert_int_eq(pd_store_meta_get(s, "empty", &p, &n), PD_OK);
    ck_assert_uint_eq(n, 0);
    free(p);
    ck_assert_int_eq(pd_store_file_get(s, digest, &p, &n), PD_OK);
    ck_assert(n == 42 && memcmp(p, "a basis of some", 15) == 0);
    free(p);
    ck_assert_int_eq(pd_store_file_get(s, wrong, &p, &n), PD_ENOENT);
    pd_store_close(s);
    ck_assert_int_eq(damage(in_dir("ledger.db"), (const uint8_t *)"a basis of some", 15), 1);
    s = open_store();
    ck_assert_int_eq(pd_store_file_get(s, digest, &p, &n), PD_ENOENT);
    ck_assert(strstr(pd_fail_text(), "damaged") != NULL);
    pd_store_close(s);
}
END_TEST

START_TEST(invites_are_used_once) {
    pd_invite a = {.id = UINT64_MAX - 3, .secret = {1}, .uses = 1, .expires_s = 1000}, list[4];
    pd_invite b = {.id = 7, .secret = {2}, .uses = 2};
    size_t n;
    pd_store *s = open_store();
    ck_assert_int_eq(pd_store_invite_add(s, &a), PD_OK);
    ck_assert_int_eq(pd_store_invite_add(s, &b), PD_OK);
    ck_assert_int_eq(pd_store_invite_add(s, &b), PD_EEXIST);
    ck_assert_int_eq(pd_store_invite_use(s, a.id), PD_OK);
    ck_assert_int_eq(pd_store_invite_use(s, a.id), PD_EGONE);
    ck_assert_int_eq(pd_store_invite_use(s, 99), PD_ENOENT);
    ck_assert_int_eq(pd_store_invite_use(s, b.id), PD_OK);
    ck_assert_int_eq(pd_store_commit(s), PD_OK);
    pd_store_close(s);
    s = open_store();
    ck_assert_int_eq(pd_store_invites(s, list, 4, &n), PD_OK);
    ck_assert(n == 2 && list[0].id == a.id && list[0].uses == 0 && list[0].expires_s == 1000);
    ck_assert(list[1].id == 7 && list[1].uses == 1 && list[1].secret[0] == 2);
    ck_assert_int_eq(pd_store_invite_expire(s, 999), PD_OK);
    ck_assert_int_eq(pd_store_invites(s, list, 1, &n), PD_OK);
    ck_assert_uint_eq(n, 1);
    ck_assert_int_eq(pd_store_invite_expire(s, 1000), PD_OK);
    ck_assert_int_eq(pd_store_invites(s, list, 4, &n), PD_OK);
    ck_assert(n == 1 && list[0].id == 7); /* without expiry it stays */
    ck_assert_int_eq(pd_store_invite_delete(s, 7), PD_OK);
    ck_assert_int_eq(pd_store_invite_delete(s, 7), PD_ENOENT);
    pd_store_close(s);
}
END_TEST

START_TEST(addresses_come_back_best_first) {
    pd_store_addr a = {.key = {1},
                       .addr = {.family = 4, .ip = {10, 0, 0, 1}, .port = 7433},
                       .last_ok_s = 5},
                  b = {.key = {2},
                       .addr = {.family = 6, .ip = {0xfd}, .port = 1},
                       .seq = 9,
                       .last_ok_s = 6},
                  list[3];
    size_t n;
    pd_store *s = open_store();
    ck_assert_int_eq(pd_store_addr_put(s, &a), PD_OK);
    ck_assert_int_eq(pd_store_addr_put(s, &b), PD_OK);
    a.fails = 3;
    ck_assert_int_eq(pd_store_addr_put(s, &a), PD_OK);
    ck_assert_int_eq(pd_store_addrs(s, list, 3, &n), PD_OK);
    ck_assert_uint_eq(n, 2);
    ck_assert(list[0].key[0] == 2 && pd_addr_equal(&list[0].addr, &b.addr) && list[0].seq == 9);
    ck_assert(list[1].key[0] == 1 && pd_addr_equal(&list[1].addr, &a.addr) && list[1].fails == 3);
    pd_store_close(s);
}
END_TEST

/* A checkpoint that does not verify falls through to the one before, and that one to a replay from
 * the base. */
START_TEST(checkpoints_verify_or_fall_through) {
    enum { D = 2000 };
    static int32_t a[D], back[D];
    pd_author who[3] = {{{9}, 1}, {{9}, 0}, {{3}, 15}}, who_back[4];
    uint64_t n[3] = {5, 1000000, 0}, n_back[4];
    uint8_t digest[16], marks[3][16];
    uint32_t count;
    pd_store *s = open_store();
    ck_assert_int_eq(pd_store_ckpt_get(s, back, D, who_back, n_back, 4, &count), PD_ENOENT);
    for (int k = 0; k < 3; k++) {
        fill((uint8_t *)a, sizeof a, (uint32_t)k + 70);
        memcpy(marks[k], a + 900, 16);
        pd_replay_digest(a, D, digest);
        n[0] = 5 + (uint64_t)k;
        ck_assert_int_eq(pd_store_ckpt_put(s, digest, a, D, who, n, 3), PD_OK);
        ck_assert_int_eq(pd_store_commit(s), PD_OK);
    }
    ck_assert_int_eq(pd_store_ckpt_get(s, back, D, who_back, n_back, 4, &count), PD_OK);
    ck_assert_mem_eq(a, back, sizeof a);
    ck_assert(count == 3 && who_back[0].key[0] == 3 && n_back[0] == 0 && who_back[0].inc == 15);
    ck_assert(who_back[1].inc == 0 && n_back[1] == 1000000 && who_back[2].inc == 1 &&
              n_back[2] == 7);
    ck_assert_int_eq(pd_store_ckpt_get(s, back, D, who_back, n_back, 2, &count),
                     PD_ENOENT); /* no room */
    ck_assert_int_eq(pd_store_ckpt_get(s, back, D - 1, who_back, n_back, 4, &count), PD_ENOENT);
    pd_store_close(s);
    for (int k = 2; k >= 1; k--) {
        ck_assert_int_ge(damage(in_dir("ledger.db"), marks[k], 16), 1);
        s = open_store();
        pd_err e = pd_store_ckpt_get(s, back, D, who_back, n_back, 4, &count);
        ck_assert_int_eq(e, k == 2 ? PD_OK : PD_ENOENT);
        ck_assert(k != 2 || n_back[2] == 6);
        pd_store_close(s);
    }
}
END_TEST

/* The write-ahead log must not grow with the run, and a log takes little more room than its bytes.
 */
START_TEST(maintenance_keeps_the_write_ahead_log_small) {
    struct stat st;
    uint64_t now = 1;
    fill(log_a, LOG_MAX, 1);
    pd_store *s = open_store();
    for (size_t n = 0; n + 500 < 150000; n += 500) {
        ck_assert_int_eq(append(s, &me, 0, log_a, n, n + 500), PD_OK);
        ck_assert_int_eq(pd_store_maintain(s, now),
                         PD_OK); /* nothing while a transaction is open */
        ck_assert_int_eq(pd_store_commit(s), PD_OK);
        ck_assert_int_eq(pd_store_maintain(s, now += 20), PD_OK);
        ck_assert(stat(in_dir("ledger.db-wal"), &st) == 0 && st.st_size < 5 << 20);
    }
    ck_assert_int_eq(pd_store_maintain(s, now + 60000), PD_OK);
    ck_assert(stat(in_dir("ledger.db-wal"), &st) == 0 && st.st_size == 0);
    pd_store_close(s);
    ck_assert(stat(in_dir("ledger.db"), &st) == 0 && st.st_size < 150000 * 14 / 10 + 15 * 4096);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_checked_fixture(tc, start, clean);
    tcase_add_test(tc, refusals_name_the_cause);
    tcase_add_test(tc, logs_come_back_in_any_pieces);
    tcase_add_test(tc, other_bytes_for_a_held_step_are_refused);
    tcase_add_test(tc, follow_stores_what_the_ledger_has);
    tcase_add_test(tc, void_steps_are_kept);
    tcase_add_test(tc, a_damaged_log_is_cut_and_the_rest_is_whole);
    tcase_add_test(tc, appending_to_a_damaged_tail_is_refused);
    tcase_add_test(tc, rot_anywhere_is_survived);
    tcase_add_test(tc, restored_databases_are_told);
    tcase_add_test(tc, a_lost_write_ahead_log_is_told);
    tcase_add_test(tc, kill_at_any_moment);
    tcase_add_test(tc, every_failing_write_keeps_what_was_committed);
    tcase_add_test(tc, a_full_disk_loses_nothing_committed_and_goes_on_with_room);
    tcase_add_test(tc, the_ballast_is_given_up_and_made_again);
    tcase_add_test(tc, values_and_files_come_back);
    tcase_add_test(tc, invites_are_used_once);
    tcase_add_test(tc, addresses_come_back_best_first);
    tcase_add_test(tc, checkpoints_verify_or_fall_through);
    tcase_add_test(tc, maintenance_keeps_the_write_ahead_log_small);
}

PD_TEST_MAIN("store", 100)
