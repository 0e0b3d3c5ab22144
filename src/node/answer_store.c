/* answer_store.c - the control socket's `backup` and `check`: answered by the store's thread, which
 * owns the one connection to the database.  Training goes on meanwhile; own seals wait. */
#include "answer.h"
#include "json.h"
#include "peerd/file.h"
#include "peerd/log.h"
#include "question.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { FLUSHES = 9, FLUSH_BYTES = 4096 };

static double size_of(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 ? (double)st.st_size : 0;
}

/* ---- backup ---- */

static void backup(void *ctx, pd_store *store) {
    pd_question *q = ctx;
    bool behind = true;
    pd_err e = PD_OK;
    while (behind && !e) { /* the ledger holds more of others than the store does, for a second */
        e = pd_store_follow(store, q->n->site->ledger, &behind);
        if (!e)
            e = pd_store_commit(store);
    }
    if (!e)
        e = pd_store_backup(store, q->out);
    if (!e) {
        cJSON_AddStringToObject(q->reply, "out", q->out);
        cJSON_AddNumberToObject(q->reply, "bytes", size_of(q->out));
        pd_json_count(q->reply, "took_ms", pd_clock_ms() - q->asked_ms);
    }
    pd_question_done(q, e);
}

pd_err pd_answer_backup(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)reply;
    char out[PD_CONFIG_PATH];
    pd_err e = pd_question_path(request, "out", out);
    if (e)
        return pd_fail_in(e, "backup");
    pd_question *q = pd_question_new();
    if (!q)
        return PD_ENOMEM;
    strcpy(q->out, out);
    return pd_question_store(ctx, call, q, backup);
}

/* ---- check ---- */

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* How long the disk takes to make 4 KiB durable: the median of a few, microseconds. */
static pd_err time_flush(const char *dir, uint64_t *median_us) {
    char path[PD_CONFIG_PATH + 16];
    uint8_t bytes[FLUSH_BYTES] = {0};
    uint64_t took[FLUSHES];
    pd_err e = pd_path_join(path, sizeof path, dir, "flush-check");
    if (e)
        return e;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return pd_fail(errno == ENOSPC ? PD_EFULL : PD_EIO, "%s: %s", path, strerror(errno));
    for (int i = 0; i < FLUSHES && !e; i++) {
        bytes[0] = (uint8_t)i;
        uint64_t began = pd_clock_us();
        if (pwrite(fd, bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes || fsync(fd) != 0)
            e = pd_fail(errno == ENOSPC ? PD_EFULL : PD_EIO, "%s: %s", path, strerror(errno));
        took[i] = pd_clock_us() - began;
    }
    close(fd);
    unlink(path);
    if (e)
        return e;
    qsort(took, FLUSHES, sizeof *took, by_size);
    *median_us = took[FLUSHES / 2];
    return PD_OK;
}

/* The next start will want the file that the manifest names. */
static pd_err check_model(const pd_site *s) {
    pd_base *b;
    pd_err e = pd_base_open(s->config.model, &b);
    if (e)
        return e;
    e = pd_site_check_model(&s->manifest, b, s->tokenizer, s->config.model);
    pd_base_close(b);
    return e;
}

/* A finding is not an error of the request: "" where all is well. */
static void add_finding(cJSON *reply, const char *name, pd_err e) {
    cJSON_AddStringToObject(reply, name, e ? pd_fail_text() : "");
}

static void check(void *ctx, pd_store *store) {
    pd_question *q = ctx;
    const pd_site *s = q->n->site;
    struct statvfs disk;
    uint64_t us = 0;
    char path[PD_CONFIG_PATH + 16];
    add_finding(q->reply, "ledger_error", pd_store_check(store));
    pd_err e = time_flush(s->dir, &us);
    add_finding(q->reply, "disk_error", e);
    if (e)
        cJSON_AddNullToObject(q->reply, "flush_us");
    else
        pd_json_count(q->reply, "flush_us", us);
    if (statvfs(s->dir, &disk) == 0)
        pd_json_count(q->reply, "disk_free_bytes", (uint64_t)disk.f_bavail * disk.f_frsize);
    else
        cJSON_AddNullToObject(q->reply, "disk_free_bytes");
    if (pd_path_join(path, sizeof path, s->dir, "ledger.db") == PD_OK)
        cJSON_AddNumberToObject(q->reply, "ledger_bytes", size_of(path));
    if (q->quick)
        cJSON_AddNullToObject(q->reply, "model_error");
    else
        add_finding(q->reply, "model_error", check_model(s));
    pd_json_count(q->reply, "took_ms", pd_clock_ms() - q->asked_ms);
    pd_question_done(q, PD_OK);
}

pd_err pd_answer_check(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)reply;
    pd_question *q = pd_question_new();
    if (!q)
        return PD_ENOMEM;
    q->quick = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(request, "quick"));
    return pd_question_store(ctx, call, q, check);
}
