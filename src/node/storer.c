/* storer.c - the store's thread; see storer.h.  The promise in one line: commit, then ledger, then
 * STORED. */
#include "storer.h"
#include "node.h"
#include "peerd/file.h"
#include "peerd/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FOLLOW_MS = 1000, FULL_BYTES = 256 << 10, EXIT_STORE = 74 };

typedef enum job_kind {
    JOB_OWN,
    JOB_INCARNATION,
    JOB_CHECKPOINT,
    JOB_SHARED,
    JOB_BEGUN,
    JOB_INVITE_ADD,
    JOB_INVITE_USED,
    JOB_ADDR,
    JOB_ASK
} job_kind;

typedef struct job {
    struct job *next;
    job_kind kind;
    pd_author author;
    uint8_t stream, seal[64], digest[PD_DIGEST_BYTES];
    uint64_t at; /* from, incarnation or invite */
    pd_invite invite;
    uint8_t file[32];
    pd_store_begun begun;
    pd_store_addr addr;
    pd_storer_question *ask;
    void *ask_ctx;
    size_t n; /* OWN: bytes; CHECKPOINT: coordinates */
    uint32_t n_authors;
    pd_author *authors; /* CHECKPOINT: inside `bytes` too */
    uint64_t *steps;
    uint8_t bytes[];
} job;

struct pd_storer {
    pd_store *store;
    pd_ledger *ledger;
    pd_inbox *inbox;
    pthread_t thread;
    pthread_mutex_t lock; /* down to `trouble` */
    pthread_cond_t wake;
    job *first, **last;
    size_t waiting_bytes;
    bool stop;
    struct trouble {
        char text[PD_STORER_TEXT]; /* "": the last attempt succeeded */
    } own, others;
};

static job *job_new(job_kind kind, size_t bytes) {
    job *j = calloc(1, sizeof *j + bytes);
    if (j)
        j->kind = kind;
    else
        pd_error("no memory to store %zu bytes", bytes);
    return j;
}

static void put(pd_storer *s, job *j) {
    if (!j)
        return;
    pthread_mutex_lock(&s->lock);
    *s->last = j;
    s->last = &j->next;
    s->waiting_bytes += j->n;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

/* ---- the thread ---- */

static void answer(pd_storer *s, const job *j, pd_err e) {
    pd_mail m = {.kind = e ? PD_MAIL_STORE_FAILED : PD_MAIL_STORED,
                 .author = j->author,
                 .stream = j->stream,
                 .err = e};
    m.at = j->at + j->n;
    pd_inbox_put(s->inbox, &m);
}

/* One line when the store begins to fail and one when it is well again, for each kind of records:
 * they fail and are tried again at different times.
 */
static void note_trouble(pd_storer *s, struct trouble *t, const char *what, pd_err e) {
    bool was = t->text[0];
    pthread_mutex_lock(&s->lock);
    snprintf(t->text, sizeof t->text, "%s", e ? pd_fail_text() : "");
    pthread_mutex_unlock(&s->lock);
    if (e && !was)
        pd_warn("%s wait to be stored: %s", what, t->text);
    if (!e && was)
        pd_info("%s are stored again", what);
}

static void store_own(pd_storer *s, const job *j) {
    uint32_t index;
    pd_err e = pd_store_append(s->store, &j->author, j->stream, j->at, j->bytes, j->n, j->seal);
    if (!e)
        e = pd_store_commit(s->store);
    if (e == PD_EIO) {
        /* Nobody knows what the disk holds: nothing may be signed until a start has read it. */
        pd_error("own records cannot be stored, stopping: %s", pd_fail_text());
        _exit(EXIT_STORE);
    }
    if (!e)
        e = pd_ledger_author(s->ledger, &j->author, &index);
    if (!e)
        e = pd_ledger_append(s->ledger, index, j->stream, j->at, j->bytes, j->n, j->seal);
    note_trouble(s, &s->own, "own records", e);
    answer(s, j, e);
}

static pd_err do_other(pd_storer *s, const job *j) {
    uint8_t v[4];
    switch (j->kind) {
    case JOB_INCARNATION:
        pd_store32(v, (uint32_t)j->at);
        return pd_store_meta_set(s->store, "incarnation", v, sizeof v);
    case JOB_CHECKPOINT:
        return pd_store_ckpt_put(s->store, j->digest, (const int32_t *)(const void *)j->bytes, j->n,
                                 j->authors, j->steps, j->n_authors);
    case JOB_SHARED:
        return pd_store_shared_put(s->store, j->file, j->bytes, j->n);
    case JOB_BEGUN:
        return pd_store_begun_set(s->store, &j->begun);
    case JOB_INVITE_ADD:
        return pd_store_invite_add(s->store, &j->invite);
    case JOB_INVITE_USED:
        return pd_store_invite_use(s->store, j->at);
    case JOB_ADDR:
        return pd_store_addr_put(s->store, &j->addr);
    case JOB_OWN:
    case JOB_ASK:
        break;
    }
    return PD_OK;
}

/* Before a checkpoint: the records it holds, so that a start finds them. */
static pd_err follow(pd_storer *s) {
    bool behind = true;
    pd_err e = PD_OK;
    while (behind && !e) {
        e = pd_store_follow(s->store, s->ledger, &behind);
        if (!e)
            e = pd_store_commit(s->store);
    }
    return e;
}

static void do_job(pd_storer *s, const job *j) {
    static const char *const names[] = {
        [JOB_INCARNATION] = "the incarnation is",
        [JOB_CHECKPOINT] = "the model's coordinates are",
        [JOB_SHARED] = "a checkpoint, served until this node ends, is",
        [JOB_BEGUN] = "what the checkpoint's audit has shown is",
        [JOB_INVITE_ADD] = "an invite is",
        [JOB_INVITE_USED] = "the use of an invite is",
        [JOB_ADDR] = "a member's address is",
    };
    pd_err e = PD_OK;
    if (j->kind == JOB_OWN) {
        store_own(s, j);
        return;
    }
    if (j->kind == JOB_ASK) {
        j->ask(j->ask_ctx, s->store);
        return;
    }
    if (j->kind == JOB_CHECKPOINT)
        e = follow(s);
    if (!e)
        e = do_other(s, j);
    if (!e)
        e = pd_store_commit(s->store);
    if (e)
        pd_warn("%s not stored: %s", names[j->kind], pd_fail_text());
}

static void now_and_then(pd_storer *s) {
    pd_err e = follow(s);
    if (!e)
        e = pd_store_maintain(s->store, pd_clock_ms());
    note_trouble(s, &s->others, "records of others", e);
}

static job *next_job(pd_storer *s, bool *stop) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += FOLLOW_MS / 1000;
    pthread_mutex_lock(&s->lock);
    if (!s->first && !s->stop)
        pthread_cond_timedwait(&s->wake, &s->lock, &until);
    job *j = s->first;
    if (j) {
        s->first = j->next;
        if (!s->first)
            s->last = &s->first;
        s->waiting_bytes -= j->n;
    }
    *stop = s->stop && !j;
    pthread_mutex_unlock(&s->lock);
    return j;
}

static void *run(void *arg) {
    pd_storer *s = arg;
    uint64_t due = pd_clock_ms();
    for (bool stop = false; !stop;) {
        job *j = next_job(s, &stop);
        if (j)
            do_job(s, j);
        free(j);
        if (stop || pd_clock_ms() >= due) {
            now_and_then(s);
            due = pd_clock_ms() + FOLLOW_MS;
        }
    }
    return NULL;
}

/* ---- from outside ---- */

pd_err pd_storer_start(pd_store *store, pd_inbox *inbox, pd_ledger *ledger, pd_storer **out) {
    pd_storer *s = calloc(1, sizeof *s);
    if (!s)
        return pd_fail(PD_ENOMEM, "no memory for the store's thread");
    s->store = store;
    s->ledger = ledger;
    s->inbox = inbox;
    s->last = &s->first;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&s->lock, NULL);
    if (pthread_create(&s->thread, NULL, run, s) != 0) {
        free(s);
        return pd_fail(PD_ENOMEM, "cannot start the store's thread");
    }
    *out = s;
    return PD_OK;
}

void pd_storer_stop(pd_storer *s) {
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

bool pd_storer_is_full(pd_storer *s) {
    pthread_mutex_lock(&s->lock);
    bool full = s->waiting_bytes > FULL_BYTES;
    pthread_mutex_unlock(&s->lock);
    return full;
}

pd_err pd_storer_own(pd_storer *s, const pd_author *a, uint8_t stream, uint64_t from,
                     const uint8_t *bytes, size_t n, const uint8_t seal[64]) {
    job *j = job_new(JOB_OWN, n);
    if (!j)
        return pd_fail(PD_ENOMEM, "no memory to store own records");
    j->author = *a;
    j->stream = stream;
    j->at = from;
    j->n = n;
    memcpy(j->bytes, bytes, n);
    memcpy(j->seal, seal, 64);
    put(s, j);
    return PD_OK;
}

void pd_storer_incarnation(pd_storer *s, uint32_t incarnation) {
    job *j = job_new(JOB_INCARNATION, 0);
    if (j)
        j->at = incarnation;
    put(s, j);
}

void pd_storer_checkpoint(pd_storer *s, const pd_replica *r, const int32_t *a,
                          const uint8_t digest[PD_DIGEST_BYTES]) {
    size_t coords = r->d * sizeof *a, pad = (8 - coords % 8) % 8;
    job *j = job_new(JOB_CHECKPOINT,
                     coords + pad + r->n_authors * (sizeof(uint64_t) + sizeof(pd_author)));
    if (!j)
        return;
    j->n = r->d;
    j->n_authors = r->n_authors;
    j->steps = (uint64_t *)(void *)(j->bytes + coords + pad);
    j->authors = (pd_author *)(void *)(j->steps + r->n_authors);
    memcpy(j->digest, digest, PD_DIGEST_BYTES);
    memcpy(j->bytes, a, coords);
    memcpy(j->steps, r->n, r->n_authors * sizeof(uint64_t));
    memcpy(j->authors, r->author, r->n_authors * sizeof(pd_author));
    put(s, j);
}

void pd_storer_shared(pd_storer *s, const uint8_t digest[32], const uint8_t *file, size_t n) {
    job *j = job_new(JOB_SHARED, n);
    if (!j)
        return;
    j->n = n;
    memcpy(j->file, digest, 32);
    memcpy(j->bytes, file, n);
    put(s, j);
}

void pd_storer_begun(pd_storer *s, const pd_store_begun *b) {
    job *j = job_new(JOB_BEGUN, 0);
    if (j)
        j->begun = *b;
    put(s, j);
}

void pd_storer_invite_add(pd_storer *s, const pd_invite *v) {
    job *j = job_new(JOB_INVITE_ADD, 0);
    if (j)
        j->invite = *v;
    put(s, j);
}

void pd_storer_invite_used(pd_storer *s, uint64_t id) {
    job *j = job_new(JOB_INVITE_USED, 0);
    if (j)
        j->at = id;
    put(s, j);
}

pd_err pd_storer_ask(pd_storer *s, pd_storer_question *fn, void *ctx) {
    job *j = job_new(JOB_ASK, 0);
    if (!j)
        return pd_fail(PD_ENOMEM, "no memory to ask the store");
    j->ask = fn;
    j->ask_ctx = ctx;
    put(s, j);
    return PD_OK;
}

void pd_storer_trouble(pd_storer *s, char out[PD_STORER_TEXT]) {
    pthread_mutex_lock(&s->lock);
    snprintf(out, PD_STORER_TEXT, "%s", s->own.text[0] ? s->own.text : s->others.text);
    pthread_mutex_unlock(&s->lock);
}

void pd_storer_addr(pd_storer *s, const pd_store_addr *a) {
    job *j = job_new(JOB_ADDR, 0);
    if (j)
        j->addr = *a;
    put(s, j);
}
