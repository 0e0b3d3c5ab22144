/* records.c - control records read back from the ledger; see records.h. */
#include "records.h"
#include "peerd/frame.h"

#include <stdio.h>
#include <stdlib.h>

enum { RECORD_ROOM = PD_EVIDENCE_MAX + 8 }; /* any one record */

uint64_t pd_records_foreign(pd_ledger *l, const uint8_t own[32]) {
    uint64_t sum = 0;
    pd_log_info info;
    for (uint32_t i = 0; pd_ledger_info(l, i, &info); i++)
        for (unsigned s = 0; s < PD_STREAMS && memcmp(info.author.key, own, 32) != 0; s++)
            sum += info.n[s];
    return sum;
}

/* ---- in words ---- */

static void tell_addrs(const pd_control *rec, char *out, size_t room) {
    size_t at = 0;
    out[0] = 0;
    for (uint32_t i = 0; i < rec->n_addrs && at < room; i++) {
        char text[PD_ADDR_TEXT];
        pd_addr_print(&rec->addrs[i], text);
        at += (size_t)snprintf(out + at, room - at, "%s%s", i ? " " : "", text);
    }
    if (rec->n_addrs == 0)
        snprintf(out, room, "cannot be dialled");
}

static void tell_evidence(const pd_control *rec, pd_told *out) {
    pd_evidence e;
    char key[65];
    if (pd_evidence_get(rec->proof, rec->proof_size, &e) != PD_OK) {
        snprintf(out->text, sizeof out->text, "%zu bytes that prove nothing", rec->proof_size);
        return;
    }
    pd_hex(e.author.key, 32, key);
    snprintf(out->text, sizeof out->text, "%s signed two %s logs of incarnation %u, from %llu on",
             key, e.stream == PD_STREAM_CONTROL ? "control" : "gradient", e.author.inc,
             (unsigned long long)e.step);
}

static void tell(const pd_control *rec, pd_told *out) {
    char key[65], addrs[PD_ADDRS_MAX * (PD_ADDR_TEXT + 1)];
    switch (rec->kind) {
    case PD_RECORD_MEMBER:
        out->kind = "member";
        memcpy(out->subject, rec->subject, 32);
        pd_hex(rec->subject, 32, key);
        snprintf(out->text, sizeof out->text, "%s %s", key, rec->name);
        break;
    case PD_RECORD_ADDR:
        out->kind = "address";
        tell_addrs(rec, addrs, sizeof addrs);
        snprintf(out->text, sizeof out->text, "%s%s%s", rec->name, *rec->name ? ": " : "", addrs);
        break;
    case PD_RECORD_LEAVE:
        out->kind = "leave";
        snprintf(out->text, sizeof out->text, "after %llu records", (unsigned long long)rec->step);
        break;
    case PD_RECORD_EVIDENCE:
        out->kind = "evidence";
        tell_evidence(rec, out);
        break;
    case PD_RECORD_BAN:
        out->kind = "ban";
        pd_hex(rec->subject, 32, key);
        snprintf(out->text, sizeof out->text, "%s from record %llu of incarnation %u on", key,
                 (unsigned long long)rec->step, rec->inc);
        break;
    case PD_RECORD_ROTATE:
        out->kind = "rotate";
        memcpy(out->subject, rec->subject, 32);
        pd_hex(rec->subject, 32, key);
        snprintf(out->text, sizeof out->text, "%s after %llu records", key,
                 (unsigned long long)rec->step);
        break;
    case PD_RECORD_BEACON:
        out->kind = "beacon";
        break;
    case PD_RECORD_CKPT:
        out->kind = "checkpoint";
        pd_hex(rec->ckpt.model, PD_DIGEST_BYTES, key);
        snprintf(out->text, sizeof out->text, "%llu records give %s (a file of %llu bytes)",
                 (unsigned long long)rec->ckpt.records, key, (unsigned long long)rec->ckpt.size);
        break;
    default:
        out->kind = "other";
        snprintf(out->text, sizeof out->text, "kind %u, which this version does not read",
                 rec->kind);
        break;
    }
}

/* ---- walking ---- */

void pd_records_control(pd_ledger *l, uint32_t index, void (*fn)(void *ctx, const pd_told *t),
                        void *ctx) {
    uint8_t buf[RECORD_ROOM];
    uint64_t at = 0;
    for (;;) {
        size_t n = pd_ledger_read(l, index, PD_STREAM_CONTROL, at, buf, sizeof buf), used = 0;
        while (used < n) {
            pd_control rec;
            pd_told t = {.at = at + used};
            ptrdiff_t took = pd_control_get(buf + used, n - used, &rec);
            if (took < 0)
                return; /* the rest of this log can have no meaning */
            if (took == 0)
                break;
            tell(&rec, &t);
            fn(ctx, &t);
            used += (size_t)took;
        }
        if (used == 0)
            return;
        at += used;
    }
}

static void note_next_key(void *ctx, const pd_told *t) {
    if (strcmp(t->kind, "rotate") == 0)
        memcpy(ctx, t->subject, 32);
}

bool pd_records_next_key(pd_ledger *l, const uint8_t key[32], uint8_t next[32]) {
    static const uint8_t nobody[32];
    pd_log_info info;
    memcpy(next, nobody, 32);
    for (uint32_t i = 0; pd_ledger_info(l, i, &info); i++)
        if (memcmp(info.author.key, key, 32) == 0)
            pd_records_control(l, i, note_next_key, next);
    return memcmp(next, nobody, 32) != 0;
}

/* ---- admissions ---- */

typedef struct gather {
    pd_admission *list;
    size_t n, room;
    const uint8_t *author;
    bool failed;
} gather;

static void gather_one(void *ctx, const pd_told *t) {
    static const uint8_t nobody[32];
    gather *g = ctx;
    if (g->failed || memcmp(t->subject, nobody, 32) == 0)
        return;
    if (g->n == g->room) {
        size_t room = g->room ? 2 * g->room : 16;
        pd_admission *p = realloc(g->list, room * sizeof *p);
        g->failed = !p;
        if (!p)
            return;
        g->list = p;
        g->room = room;
    }
    memcpy(g->list[g->n].subject, t->subject, 32);
    memcpy(g->list[g->n++].inviter, g->author, 32);
}

/* Of several who admitted one at the same moment, the lowest key comes first. */
static int by_subject(const void *a, const void *b) {
    return memcmp(a, b, sizeof(pd_admission));
}

pd_err pd_records_admissions(pd_ledger *l, pd_admission **out, size_t *n) {
    gather g = {0};
    pd_log_info info;
    for (uint32_t i = 0; pd_ledger_info(l, i, &info) && !g.failed; i++) {
        g.author = info.author.key;
        pd_records_control(l, i, gather_one, &g);
    }
    if (g.failed) {
        free(g.list);
        return pd_fail(PD_ENOMEM, "no memory for a list of the members");
    }
    if (g.n)
        qsort(g.list, g.n, sizeof *g.list, by_subject);
    *out = g.list;
    *n = g.n;
    return PD_OK;
}

const uint8_t *pd_records_inviter(const pd_admission *list, size_t n, const uint8_t subject[32]) {
    size_t low = 0, high = n; /* the first that is not below */
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (memcmp(list[mid].subject, subject, 32) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low < n && memcmp(list[low].subject, subject, 32) == 0 ? list[low].inviter : NULL;
}
