/* question.c - the control socket's `verify` and `export`: the trainer's thread answers between two
 * probes, because it owns the replica, and the answer comes back through the inbox. */
#include "answer.h"
#include "export.h"
#include "peerd/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { FOLLOW_STEP = 1 << 16, PASSES_MAX = 1000, ERROR_TEXT = 512 };

typedef struct question {
    pd_node *n; /* on the trainer's thread: inbox, ledger and what of the site does not change */
    uint64_t call, asked_ms;
    bool gguf;
    char out[PD_CONFIG_PATH];
    pd_err err;
    char text[ERROR_TEXT]; /* pd_fail_text is of one thread */
    cJSON *reply;
} question;

/* ---- on the trainer's thread ---- */

static void answer(question *q, pd_err e) {
    pd_mail m = {.kind = PD_MAIL_ANSWER, .answer = q};
    q->err = e;
    snprintf(q->text, sizeof q->text, "%s", e ? pd_fail_text() : "");
    pd_inbox_put(&q->n->inbox, &m);
}

static void add_digest(cJSON *j, const char *name, const uint8_t digest[PD_DIGEST_BYTES]) {
    char text[2 * PD_DIGEST_BYTES + 1];
    pd_hex(digest, PD_DIGEST_BYTES, text);
    cJSON_AddStringToObject(j, name, text);
}

static pd_err catch_up(pd_replica *r, pd_ledger *l) {
    uint64_t folded = 1;
    pd_err e = PD_OK;
    while (folded && !e)
        e = pd_replica_follow(r, l, FOLLOW_STEP, &folded);
    return e;
}

static bool same_records(const pd_replica *a, const pd_replica *b) {
    uint32_t most = a->n_authors > b->n_authors ? a->n_authors : b->n_authors;
    for (uint32_t i = 0; i < most; i++)
        if ((i < a->n_authors ? a->n[i] : 0) != (i < b->n_authors ? b->n[i] : 0))
            return false;
    return true;
}

/* Both to the same records, while the ledger goes on growing. */
static pd_err meet(pd_replica *running, pd_replica *fresh, pd_ledger *l) {
    for (int i = 0; i < PASSES_MAX; i++) {
        pd_err e = catch_up(fresh, l);
        if (!e)
            e = catch_up(running, l);
        if (e || same_records(running, fresh))
            return e;
    }
    return pd_fail(PD_EBUSY, "records come in faster than they are replayed; try again");
}

static pd_err compare(question *q, const pd_replica *running, const pd_replica *fresh) {
    uint8_t digest[PD_DIGEST_BYTES], replayed[PD_DIGEST_BYTES];
    int32_t *a = malloc(running->d * sizeof *a);
    if (!a)
        return pd_fail(PD_ENOMEM, "no memory for %zu coordinates", running->d);
    pd_replica_sealed(running, a, digest);
    pd_replica_sealed(fresh, a, replayed);
    free(a);
    cJSON_AddBoolToObject(q->reply, "equal", memcmp(digest, replayed, sizeof digest) == 0);
    cJSON_AddNumberToObject(q->reply, "records", (double)fresh->records);
    add_digest(q->reply, "digest", digest);
    add_digest(q->reply, "digest_replayed", replayed);
    cJSON_AddNumberToObject(q->reply, "took_ms", (double)(pd_clock_ms() - q->asked_ms));
    return PD_OK;
}

static void verify(void *ctx, pd_replica *running, const pd_space *space) {
    (void)space;
    question *q = ctx;
    pd_replica fresh;
    pd_err e = pd_replica_open(&q->n->site->manifest, &fresh);
    if (!e) {
        e = meet(running, &fresh, q->n->site->ledger);
        if (!e)
            e = compare(q, running, &fresh);
        pd_replica_close(&fresh);
    }
    answer(q, e);
}

/* Name a file in the reply; its size. */
static double add_file(cJSON *files, const char *path) {
    struct stat st;
    cJSON_AddItemToArray(files, cJSON_CreateString(path));
    return stat(path, &st) == 0 ? (double)st.st_size : 0;
}

static pd_err list_files(const question *q) {
    static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors"};
    char path[PD_CONFIG_PATH + 32];
    cJSON *files = cJSON_AddArrayToObject(q->reply, "files");
    double bytes = 0;
    pd_err e = PD_OK;
    if (q->gguf)
        bytes = add_file(files, q->out);
    for (int i = 0; !q->gguf && i < 2 && !e; i++) {
        e = pd_path_join(path, sizeof path, q->out, names[i]);
        if (!e)
            bytes += add_file(files, path);
    }
    cJSON_AddNumberToObject(q->reply, "bytes", bytes);
    return e;
}

static pd_err write_adapter(const question *q, const pd_view *v) {
    const pd_site *s = q->n->site;
    const pd_model_info *info = pd_model_info_of(s->model);
    return q->gguf ? pd_export_gguf(q->out, s->manifest.model_name, info, &s->manifest, v)
                   : pd_export_peft(q->out, s->manifest.model_name, info, &s->manifest, v);
}

static void export(void *ctx, pd_replica *r, const pd_space *space) {
    question *q = ctx;
    uint8_t digest[PD_DIGEST_BYTES];
    pd_view *v = NULL;
    int32_t *a = malloc(r->d * sizeof *a);
    pd_err e =
        a ? pd_view_open(space, &v) : pd_fail(PD_ENOMEM, "no memory for %zu coordinates", r->d);
    if (!e) {
        pd_replica_sealed(r, a, digest);
        pd_view_set(v, a, NULL, 0);
        e = write_adapter(q, v);
    }
    if (!e) {
        cJSON_AddNumberToObject(q->reply, "records", (double)r->records);
        add_digest(q->reply, "digest", digest);
        e = list_files(q);
    }
    pd_view_close(v);
    free(a);
    answer(q, e);
}

/* ---- on the loop ---- */

static void question_free(question *q) {
    if (q)
        cJSON_Delete(q->reply);
    free(q);
}

/* Hand q to the trainer's thread.  takes q. */
static pd_err ask(pd_node *n, uint64_t call, question *q, pd_trainer_question *fn) {
    pd_err e = PD_OK;
    q->n = n;
    q->call = call;
    q->asked_ms = pd_clock_ms();
    q->reply = cJSON_CreateObject();
    if (n->question || n->stopping)
        e = pd_fail(PD_EBUSY, n->stopping ? "the node is stopping"
                                          : "the node is verifying or exporting; try again when "
                                            "that is done");
    else if (!q->reply)
        e = pd_fail(PD_ENOMEM, "no memory for an answer");
    else if (pd_trainer_ask(n->trainer, fn, q) != PD_OK)
        e = pd_fail(PD_EBUSY, "%s", "the node has just answered another question; try again");
    if (e) {
        question_free(q);
        return e;
    }
    n->question = q;
    return PD_EAGAIN; /* pd_node_answered will follow */
}

static question *question_new(void) {
    question *q = calloc(1, sizeof *q);
    if (!q)
        (void)pd_fail(PD_ENOMEM, "no memory for a question");
    return q;
}

pd_err pd_answer_verify(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)request;
    (void)reply;
    question *q = question_new();
    return q ? ask(ctx, call, q, verify) : PD_ENOMEM;
}

pd_err pd_answer_export(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)reply;
    const char *out = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(request, "out"));
    const char *format = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(request, "format"));
    if (!format || (strcmp(format, "peft") != 0 && strcmp(format, "gguf") != 0))
        return pd_fail(PD_EUSAGE, "export needs \"format\": \"peft\" or \"gguf\"");
    if (!out || out[0] != '/' || strlen(out) >= PD_CONFIG_PATH)
        return pd_fail(PD_EUSAGE, "export needs \"out\", an absolute path of fewer than %d bytes",
                       PD_CONFIG_PATH);
    question *q = question_new();
    if (!q)
        return PD_ENOMEM;
    q->gguf = strcmp(format, "gguf") == 0;
    strcpy(q->out, out);
    return ask(ctx, call, q, export);
}

void pd_node_answered(pd_node *n, void *arg) {
    question *q = arg;
    if (q->err)
        (void)pd_fail(q->err, "%s", q->text);
    pd_control_answer(n->control, q->call, q->err, q->err ? NULL : q->reply);
    if (!q->err)
        q->reply = NULL; /* taken */
    n->question = NULL;
    question_free(q);
}

void pd_answer_drop(pd_node *n) {
    question_free(n->question);
    n->question = NULL;
}
