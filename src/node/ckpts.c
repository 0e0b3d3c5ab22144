/* ckpts.c - checkpoints at a running node; see ckpts.h. */
#include "ckpts.h"
#include "answer.h"
#include "json.h"
#include "peerd/file.h"
#include "peerd/log.h"
#include "question.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    TURN_MS = 1000,
    AGAIN_MS = 15000, /* until one is looked at again whose records are not all here ... */
    AGAIN_MOST = 8,   /* ... so often in a row */
    FETCH_MS = 60000, /* for a file that others attest: the core asks some members in vain
                       * meanwhile, and goes on with the next ones at the next try; longer by ... */
    BYTE_MS = 1,      /* ... for each byte that has come: at 8 kbit/s it is not given up */
    ENOUGH = 5,       /* voices after which one more helps nobody: more than any rule asks for */
    LARGE = 64 << 20, /* a file that every member would fetch every four hours: only if asked for */
    CHEAP = 1 << 20, /* records that reproducing one may cost; some seconds for 3,360 coordinates */
};
static const uint64_t CHEAP_UPDATES = UINT64_C(1) << 37; /* where there are more coordinates */

/* ---- files that are served ---- */

void pd_ckpts_serve(pd_node *n) {
    for (int i = 0; i < PD_CKPTS_KEPT; i++) {
        struct pd_port_file *f = &n->ports.files[1 + i];
        f->p = n->ckpts.kept[i];
        f->n = n->ckpts.kept_size[i];
        memcpy(f->digest, n->ckpts.kept_digest[i], 32);
    }
}

static bool is_kept(const pd_ckpts *c, const uint8_t digest[32]) {
    bool kept = false;
    for (int i = 0; i < PD_CKPTS_KEPT; i++)
        kept |= c->kept[i] && memcmp(c->kept_digest[i], digest, 32) == 0;
    return kept;
}

/* takes file. */
static void keep(pd_node *n, const uint8_t digest[32], uint8_t *file, size_t size) {
    pd_ckpts *c = &n->ckpts;
    if (is_kept(c, digest)) {
        free(file);
        return;
    }
    free(c->kept[PD_CKPTS_KEPT - 1]);
    for (int i = PD_CKPTS_KEPT - 1; i > 0; i--) {
        c->kept[i] = c->kept[i - 1];
        c->kept_size[i] = c->kept_size[i - 1];
        memcpy(c->kept_digest[i], c->kept_digest[i - 1], 32);
    }
    c->kept[0] = file;
    c->kept_size[0] = size;
    memcpy(c->kept_digest[0], digest, 32);
    pd_ckpts_serve(n);
}

void pd_ckpts_open(pd_node *n) {
    pd_ckpts *c = &n->ckpts;
    pd_err e = PD_OK;
    for (unsigned i = 0, at = 0; i < PD_CKPTS_KEPT && e != PD_ENOENT; i++) {
        e = pd_store_shared_get(n->site->store, i, c->kept_digest[at], &c->kept[at],
                                &c->kept_size[at]);
        at += !e;
        if (e && e != PD_ENOENT)
            pd_warn("a checkpoint is not served any more: %s", pd_fail_text());
    }
    const pd_store_begun *b = &n->site->begun;
    if (b->state == PD_AUDIT_OPEN &&
        pd_store_file_get(n->site->store, b->digest, &c->begun, &c->begun_size) != PD_OK)
        pd_warn("the checkpoint that this node began with will not be served: %s", pd_fail_text());
}

void pd_ckpts_close(pd_node *n) {
    for (int i = 0; i < PD_CKPTS_KEPT; i++)
        free(n->ckpts.kept[i]);
    free(n->ckpts.got);
    free(n->ckpts.begun);
}

/* ---- attesting ---- */

static void attest(pd_node *n, const pd_ckpt_name *name) {
    pd_event e = {.kind = PD_EV_ATTEST, .ckpt = name};
    pd_node_step(n, &e);
}

/* A file of ours, or one that was reproduced.  takes *file. */
static void serve(pd_node *n, const pd_ckpt_name *name, uint8_t **file) {
    pd_storer_shared(n->storer, name->file, *file, (size_t)name->size);
    keep(n, name->file, *file, (size_t)name->size);
    *file = NULL;
}

/* ---- making one ---- */

static void make(void *ctx, pd_replica *r, const pd_space *space) {
    (void)space;
    pd_question *q = ctx;
    char hex[65];
    pd_err e = pd_ckpt_make(r, q->n->site->ledger, &q->file, &q->file_size, &q->name);
    if (!e) {
        pd_hex(q->name.file, 32, hex);
        cJSON_AddStringToObject(q->reply, "file", hex);
        pd_json_hex(q->reply, "digest", q->name.model, PD_DIGEST_BYTES);
        pd_json_count(q->reply, "records", q->name.records);
        pd_json_count(q->reply, "bytes", q->name.size);
    }
    pd_question_done(q, e);
}

static void made(pd_question *q) {
    char hex[65];
    q->n->ckpts.asked = false;
    if (q->err) {
        pd_info("no checkpoint is made: %s", q->text);
        return;
    }
    pd_hex(q->name.model, PD_DIGEST_BYTES, hex);
    pd_info("a checkpoint: %llu records, digest %s, %llu bytes",
            (unsigned long long)q->name.records, hex, (unsigned long long)q->name.size);
    serve(q->n, &q->name, &q->file);
    attest(q->n, &q->name);
}

/* Over the same records as the last one there is none to make. */
static bool is_news(const pd_node *n) {
    pd_core_ckpt_status s;
    uint64_t newest = 0;
    for (uint32_t i = 0; pd_core_ckpt(n->core, i, &s); i++)
        if (s.own && s.name.records > newest)
            newest = s.name.records;
    return pd_ledger_records(n->site->ledger) > newest;
}

static pd_err ask_to_make(pd_node *n, uint64_t call) {
    pd_question *q = pd_question_new();
    if (!q)
        return PD_ENOMEM;
    q->then = made;
    pd_err e = pd_question_trainer(n, call, q, make);
    n->ckpts.asked |= e == PD_EAGAIN;
    return e;
}

void pd_ckpts_due(pd_node *n) {
    const pd_site *s = n->site;
    n->ckpts.due =
        is_news(n) && pd_ckpt_most(s->manifest.n_coords, pd_ledger_authors(s->ledger)) <= LARGE;
}

pd_err pd_answer_checkpoint(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)request;
    (void)reply;
    pd_node *n = ctx;
    pd_author own;
    uint64_t step;
    if (!pd_core_may_speak(n->core, &own, &step))
        return pd_fail(PD_EBUSY, "the node may not speak now, so nobody would hear of it");
    return ask_to_make(n, call);
}

/* ---- reproducing one ---- */

/* What members attest, as it is told apart in c->looked. */
static uint32_t attested(const pd_node *n, pd_ckpt_name names[PD_CKPTS_MAX]) {
    pd_core_ckpt_status s;
    uint32_t i = 0;
    for (; i < PD_CKPTS_MAX && pd_core_ckpt(n->core, i, &s); i++)
        names[i] = s.name;
    return i;
}

static void drop(pd_ckpts *c) {
    free(c->got);
    c->got = NULL;
    c->fetching = false;
}

static void judged(pd_node *n) {
    pd_ckpt_name names[PD_CKPTS_MAX];
    pd_looked_done(&n->ckpts.looked, &n->ckpts.want, names, attested(n, names));
    drop(&n->ckpts);
}

/* It is not here, and that says nothing about it. */
static void not_had(pd_node *n, pd_log_level level, const char *why) {
    pd_ckpts *c = &n->ckpts;
    pd_ckpt_name names[PD_CKPTS_MAX];
    uint32_t count = attested(n, names);
    uint64_t wait = pd_looked_failed(&c->looked, &c->want, names, count, pd_clock_ms());
    char hex[17];
    pd_hex(c->want.file, 8, hex);
    if (wait)
        PD_LOG(level, "the checkpoint %s that members attest: %s; tried again in %" PRIu64 " s",
               hex, why, wait / 1000);
    else
        PD_LOG(level, "the checkpoint %s that members attest: %s; given up after %d tries", hex,
               why, PD_LOOKED_TRIES);
    drop(c);
}

/* The name of the file that is here, by what it holds. */
static pd_err name_again(const pd_ckpts *c, const pd_replica *r, pd_ckpt_name *is) {
    pd_ckpt file;
    int32_t *a = malloc(r->d * sizeof *a);
    pd_err e = a ? pd_ckpt_open(c->got, (size_t)c->want.size, r->replay.run, &file)
                 : pd_fail(PD_ENOMEM, "no memory for %zu coordinates", r->d);
    if (!e) {
        pd_ckpt_coords(&file, a);
        pd_ckpt_name_of(c->got, (size_t)c->want.size, &file, a, is);
    }
    free(a);
    return e;
}

/* The loop leaves want and got alone until this has answered. */
static void check(void *ctx, pd_replica *r, const pd_space *space) {
    (void)space;
    pd_question *q = ctx;
    const pd_ckpts *c = &q->n->ckpts;
    pd_core_crypto crypto = pd_ports_crypto(&q->n->ports);
    pd_ckpt_name is;
    uint64_t cheap = CHEAP_UPDATES / r->d;
    cheap = cheap < CHEAP ? cheap : CHEAP;
    pd_err e = pd_ckpt_check(c->got, (size_t)c->want.size, r, q->n->site->ledger, cheap,
                             crypto.verify, crypto.ctx, &q->verdict, &q->why);
    bool right = !e && q->verdict == PD_CKPT_RIGHT;
    if (right)
        e = name_again(c, r, &is);
    if (right && !e && !pd_ckpt_same(&is, &c->want)) {
        q->verdict = PD_CKPT_WRONG;
        q->why = "it holds another model, or another number of records, than is attested";
    }
    pd_question_done(q, e);
}

static void shout(pd_node *n, const pd_ckpt_name *name, const char *why) {
    char hex[17];
    pd_hex(name->file, 8, hex);
    n->ckpts.wrong++;
    snprintf(n->ckpts.why, sizeof n->ckpts.why, "%s", why);
    pd_error("the checkpoint %s that members attest is wrong: %s; nobody should begin with it, and "
             "`peerctl log --control` shows who attests it",
             hex, why);
}

/* Perhaps the records are on their way; the file is kept meanwhile. */
static void look_again(pd_node *n, const char *why) {
    pd_ckpts *c = &n->ckpts;
    bool again = c->again++ < AGAIN_MOST;
    PD_LOG(again ? PD_LOG_DEBUG : PD_LOG_INFO, "a checkpoint is not attested%s: %s",
           again ? " yet" : "", why);
    if (again)
        c->next_ms = pd_clock_ms() + AGAIN_MS;
    else
        judged(n);
}

static void checked(pd_question *q) {
    pd_node *n = q->n;
    pd_ckpts *c = &n->ckpts;
    pd_ckpt_name name = c->want;
    pd_core_ckpt_status s;
    bool no_form = q->err == PD_EFORMAT || q->err == PD_EMISMATCH, needed = true;
    c->asked = false;
    if (q->err && !no_form) { /* of this machine's */
        not_had(n, PD_LOG_WARN, q->text);
        return;
    }
    if (no_form || q->verdict == PD_CKPT_WRONG) {
        shout(n, &name, no_form ? q->text : q->why);
        judged(n);
        return;
    }
    if (q->verdict == PD_CKPT_UNKNOWN) {
        look_again(n, q->why);
        return;
    }
    for (uint32_t i = 0; pd_core_ckpt(n->core, i, &s); i++)
        if (pd_ckpt_same(&s.name, &name))
            needed = s.voices < ENOUGH;
    serve(n, &name, &c->got); /* also where enough others have attested it */
    judged(n);
    if (needed)
        attest(n, &name);
}

/* The whole file is here: is it the one that was named, and do the records give it? */
static void ask_to_check(pd_node *n) {
    pd_ckpts *c = &n->ckpts;
    uint8_t digest[32];
    pd_hash256(c->got, (size_t)c->want.size, digest);
    if (memcmp(digest, c->want.file, 32) != 0) {
        not_had(n, PD_LOG_WARN, "other bytes came than those it names");
        return;
    }
    pd_question *q = pd_question_new();
    if (!q) {
        not_had(n, PD_LOG_WARN, pd_fail_text());
        return;
    }
    q->then = checked;
    c->asked = pd_question_trainer(n, 0, q, check) == PD_EAGAIN; /* busy: in a second */
}

void pd_ckpts_piece(pd_node *n, const pd_action *a) {
    pd_ckpts *c = &n->ckpts;
    if (!c->fetching || memcmp(a->digest, c->want.file, 16) != 0 || a->at != c->n_got ||
        a->n > c->want.size - c->n_got)
        return;
    memcpy(c->got + c->n_got, a->p, a->n);
    c->n_got += a->n;
    c->until_ms += a->n * BYTE_MS;
}

static void fetch(pd_node *n, const pd_ckpt_name *name) {
    pd_ckpts *c = &n->ckpts;
    pd_event e = {.kind = PD_EV_FETCH, .n = (size_t)name->size};
    memcpy(e.digest, name->file, 16);
    c->want = *name;
    c->got = malloc((size_t)name->size);
    if (!c->got) {
        not_had(n, PD_LOG_WARN, "no memory for its bytes");
        return;
    }
    c->n_got = 0;
    c->again = 0;
    c->fetching = true;
    c->until_ms = pd_clock_ms() + FETCH_MS;
    for (int i = 0; i < PD_CKPTS_KEPT; i++)
        if (c->kept[i] && memcmp(c->kept_digest[i], name->file, 32) == 0 &&
            c->kept_size[i] == name->size) {
            memcpy(c->got, c->kept[i], c->kept_size[i]);
            c->n_got = name->size;
            return;
        }
    pd_node_step(n, &e);
}

/* Of what others attest, what may be reproduced here. */
static void look(pd_node *n) {
    pd_ckpts *c = &n->ckpts;
    const pd_site *s = n->site;
    pd_ckpt_name names[PD_CKPTS_MAX];
    pd_core_ckpt_status k;
    pd_author own;
    uint64_t step, most = pd_ckpt_most(s->manifest.n_coords, pd_ledger_authors(s->ledger) + 64);
    uint32_t count = 0;
    if (pd_ledger_lacking(s->ledger) || s->begun.state == PD_AUDIT_OPEN ||
        !pd_core_may_speak(n->core, &own, &step))
        return;
    for (uint32_t i = 0; i < PD_CKPTS_MAX && pd_core_ckpt(n->core, i, &k); i++)
        if (!k.own && k.name.size <= most && k.name.records <= pd_ledger_records(s->ledger))
            names[count++] = k.name;
    uint32_t pick = pd_looked_pick(&c->looked, names, count, pd_clock_ms());
    if (pick < count)
        fetch(n, &names[pick]);
}

void pd_ckpts_turn(pd_node *n) {
    pd_ckpts *c = &n->ckpts;
    uint64_t now = pd_clock_ms();
    if (now < c->next_ms || n->stopping || !n->core)
        return;
    c->next_ms = now + TURN_MS;
    if (c->asked)
        return;
    if (c->due) {
        pd_err e = ask_to_make(n, 0);
        c->due = e && e != PD_EAGAIN; /* busy: again in a second */
        return;
    }
    if (c->fetching && c->n_got == c->want.size) {
        ask_to_check(n);
    } else if (c->fetching && now >= c->until_ms) {
        pd_event stop = {.kind = PD_EV_FETCH};
        pd_node_step(n, &stop);
        not_had(n, PD_LOG_INFO, "nobody sends it");
    } else if (!c->fetching) {
        look(n);
    }
}

/* ---- the audit of this node's own beginning ---- */

void pd_ckpts_prefix(pd_node *n, const pd_action *a) {
    uint32_t index;
    pd_err e = pd_ledger_author(n->site->ledger, &a->author, &index);
    if (!e && a->n)
        e = pd_ledger_prefix_add(n->site->ledger, index, a->at, a->p, a->n);
    else if (!e)
        e = pd_ledger_prefix_end(n->site->ledger, index, a->own);
    if (e)
        pd_error("what lies before a checkpoint is not kept: %s", pd_fail_text());
    if (!e && !a->n && a->own && pd_ledger_lacking(n->site->ledger) == 0)
        pd_info("every log is whole: the checkpoint that this node began with is being replayed");
    if (!a->n)
        pd_trainer_wake(n->trainer);
}

void pd_ckpts_audited(pd_node *n, uint64_t state) {
    pd_ckpts *c = &n->ckpts;
    pd_store_begun *b = &n->site->begun;
    b->state = (pd_audit_state)state;
    pd_storer_begun(n->storer, b);
    if (state == PD_AUDIT_EQUAL && c->begun) /* it need not come once more to be attested */
        keep(n, b->digest, c->begun, c->begun_size);
    else
        free(c->begun);
    c->begun = NULL;
    if (state == PD_AUDIT_EQUAL)
        pd_info("the checkpoint that this node began with is right: its %llu records replayed from "
                "the base model give it bit for bit",
                (unsigned long long)b->records);
    else
        pd_error("THE CHECKPOINT THAT THIS NODE BEGAN WITH WAS WRONG, though %u members attest it: "
                 "its records give another model, and this node goes on with that one",
                 b->voices);
}
