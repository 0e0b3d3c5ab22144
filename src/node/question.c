/* question.c - requests that another thread answers, and two of them: `verify` and `export`, which
 * the trainer's thread answers between two probes, because it owns the replica; see question.h. */
#include "question.h"
#include "answer.h"
#include "export_kind.h"
#include "json.h"
#include "peerd/file.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { FOLLOW_STEP = 1 << 16, PASSES_MAX = 1000 };

/* ---- on the trainer's thread ---- */

void pd_question_done(pd_question *q, pd_err e) {
    pd_mail m = {.kind = PD_MAIL_ANSWER, .answer = q};
    q->err = e;
    snprintf(q->text, sizeof q->text, "%s", e ? pd_fail_text() : "");
    pd_inbox_put(&q->n->inbox, &m);
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

static pd_err compare(pd_question *q, const pd_replica *running, const pd_replica *fresh) {
    uint8_t digest[PD_DIGEST_BYTES], replayed[PD_DIGEST_BYTES];
    int32_t *a = malloc(running->d * sizeof *a);
    if (!a)
        return pd_fail(PD_ENOMEM, "no memory for %zu coordinates", running->d);
    pd_replica_sealed(running, a, digest);
    pd_replica_sealed(fresh, a, replayed);
    free(a);
    cJSON_AddBoolToObject(q->reply, "equal", memcmp(digest, replayed, sizeof digest) == 0);
    cJSON_AddNumberToObject(q->reply, "records", (double)fresh->records);
    pd_json_hex(q->reply, "digest", digest, PD_DIGEST_BYTES);
    pd_json_hex(q->reply, "digest_replayed", replayed, PD_DIGEST_BYTES);
    cJSON_AddNumberToObject(q->reply, "took_ms", (double)(pd_clock_ms() - q->asked_ms));
    return PD_OK;
}

/* Nothing to compare with yet: say what the state rests on instead. */
static void cannot_verify(pd_question *q, const pd_replica *running, uint64_t lacking) {
    uint8_t digest[PD_DIGEST_BYTES];
    int32_t *a = malloc(running->d * sizeof *a);
    if (a) {
        pd_replica_sealed(running, a, digest);
        cJSON_AddNullToObject(q->reply, "equal");
        cJSON_AddNumberToObject(q->reply, "records", (double)running->records);
        pd_json_hex(q->reply, "digest", digest, PD_DIGEST_BYTES);
        pd_json_count(q->reply, "voices", q->n->site->begun.voices);
        pd_json_count(q->reply, "lacking_bytes", lacking);
    }
    free(a);
    pd_question_done(q, a ? PD_OK : pd_fail(PD_ENOMEM, "no memory to verify"));
}

static void verify(void *ctx, pd_replica *running, const pd_space *space) {
    (void)space;
    pd_question *q = ctx;
    pd_replica fresh;
    uint64_t lacking = pd_ledger_lacking(q->n->site->ledger);
    if (lacking) {
        cannot_verify(q, running, lacking);
        return;
    }
    pd_err e = pd_replica_open(&q->n->site->manifest, &fresh);
    if (!e) {
        e = meet(running, &fresh, q->n->site->ledger);
        if (!e)
            e = compare(q, running, &fresh);
        pd_replica_close(&fresh);
    }
    pd_question_done(q, e);
}

/* Name a file in the reply; its size. */
static double add_file(cJSON *files, const char *path) {
    struct stat st;
    cJSON_AddItemToArray(files, cJSON_CreateString(path));
    return stat(path, &st) == 0 ? (double)st.st_size : 0;
}

/* What lies in the folder OUT, or OUT itself. */
static pd_err list_files(const pd_question *q) {
    char path[PD_CONFIG_PATH + NAME_MAX + 2];
    struct dirent **names;
    cJSON *files = cJSON_AddArrayToObject(q->reply, "files");
    double bytes = 0;
    pd_err e = PD_OK;
    int n = pd_export_kind_is_folder(&q->kind) ? scandir(q->out, &names, NULL, alphasort) : -1;
    if (n < 0)
        bytes = add_file(files, q->out);
    for (int i = 0; i < n; i++) {
        if (!e && names[i]->d_name[0] != '.')
            e = pd_path_join(path, sizeof path, q->out, names[i]->d_name);
        if (!e && names[i]->d_name[0] != '.')
            bytes += add_file(files, path);
        free(names[i]);
    }
    if (n >= 0)
        free(names);
    cJSON_AddNumberToObject(q->reply, "bytes", bytes);
    return e;
}

static pd_err write_export(const pd_question *q, const pd_view *v) {
    const pd_site *s = q->n->site;
    pd_merged m = {.base = s->config.model,
                   .info = pd_model_info_of(s->model),
                   .manifest = &s->manifest,
                   .view = v};
    return pd_export_kind_write(&q->kind, q->out, &m);
}

static void export(void *ctx, pd_replica *r, const pd_space *space) {
    pd_question *q = ctx;
    uint8_t digest[PD_DIGEST_BYTES];
    pd_view *v = NULL;
    int32_t *a = malloc(r->d * sizeof *a);
    pd_err e =
        a ? pd_view_open(space, &v) : pd_fail(PD_ENOMEM, "no memory for %zu coordinates", r->d);
    if (!e) {
        pd_replica_sealed(r, a, digest);
        pd_view_set(v, a, NULL, 0);
        e = write_export(q, v);
    }
    if (!e) {
        cJSON_AddNumberToObject(q->reply, "records", (double)r->records);
        pd_json_hex(q->reply, "digest", digest, PD_DIGEST_BYTES);
        e = list_files(q);
    }
    pd_view_close(v);
    free(a);
    pd_question_done(q, e);
}

/* ---- on the loop ---- */

static void question_free(pd_question *q) {
    if (q) {
        cJSON_Delete(q->reply);
        free(q->file);
    }
    free(q);
}

pd_question *pd_question_new(void) {
    pd_question *q = calloc(1, sizeof *q);
    if (!q)
        (void)pd_fail(PD_ENOMEM, "no memory for a question");
    return q;
}

static pd_err prepare(pd_node *n, uint64_t call, pd_question *q) {
    q->n = n;
    q->call = call;
    q->asked_ms = pd_clock_ms();
    q->reply = cJSON_CreateObject();
    if (n->stopping)
        return pd_fail(PD_EBUSY, "the node is stopping");
    if (n->question)
        return pd_fail(PD_EBUSY, "the node is verifying, exporting, copying, checking itself or at "
                                 "a checkpoint; try again when that is done");
    return q->reply ? PD_OK : pd_fail(PD_ENOMEM, "no memory for an answer");
}

static pd_err asked(pd_node *n, pd_question *q, pd_err e) {
    if (e) {
        question_free(q);
        return e;
    }
    n->question = q;
    return PD_EAGAIN; /* pd_node_answered will follow */
}

pd_err pd_question_trainer(pd_node *n, uint64_t call, pd_question *q, pd_trainer_question *fn) {
    pd_err e = prepare(n, call, q);
    if (!e && pd_trainer_ask(n->trainer, fn, q) != PD_OK)
        e = pd_fail(PD_EBUSY, "the node has just answered another question; try again");
    return asked(n, q, e);
}

pd_err pd_question_store(pd_node *n, uint64_t call, pd_question *q, pd_storer_question *fn) {
    pd_err e = prepare(n, call, q);
    if (!e)
        e = pd_storer_ask(n->storer, fn, q);
    return asked(n, q, e);
}

pd_err pd_question_path(const cJSON *request, const char *name, char out[PD_CONFIG_PATH]) {
    const char *path = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(request, name));
    if (!path || path[0] != '/' || strlen(path) >= PD_CONFIG_PATH)
        return pd_fail(PD_EUSAGE, "needs \"%s\", an absolute path of fewer than %d bytes", name,
                       PD_CONFIG_PATH);
    strcpy(out, path);
    return PD_OK;
}

pd_err pd_answer_verify(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)request;
    (void)reply;
    pd_question *q = pd_question_new();
    return q ? pd_question_trainer(ctx, call, q, verify) : PD_ENOMEM;
}

pd_err pd_answer_export(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)reply;
    const char *format = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(request, "format"));
    const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(request, "type"));
    pd_export_kind kind;
    char out[PD_CONFIG_PATH];
    pd_err e = format ? pd_export_kind_parse(format, type, &kind)
                      : pd_fail(PD_EUSAGE, "needs a \"format\"");
    if (!e)
        e = pd_question_path(request, "out", out);
    if (e)
        return pd_fail_in(e, "export");
    pd_question *q = pd_question_new();
    if (!q)
        return PD_ENOMEM;
    q->kind = kind;
    strcpy(q->out, out);
    return pd_question_trainer(ctx, call, q, export);
}

void pd_node_answered(pd_node *n, void *arg) {
    pd_question *q = arg;
    n->question = NULL;
    if (q->then)
        q->then(q);
    if (q->err)
        (void)pd_fail(q->err, "%s", q->text);
    pd_control_answer(n->control, q->call, q->err, q->err ? NULL : q->reply);
    if (!q->err)
        q->reply = NULL; /* taken */
    question_free(q);
}

void pd_question_drop(pd_node *n) {
    question_free(n->question);
    n->question = NULL;
}
