/* log.c - peerctl log: the ledger's records, one a line. */
#include "ctl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PAGE = 1000 };

typedef struct question {
    const char *author;
    uint64_t from, limit; /* limit 0: no end */
    bool control, json;
} question;

static void print_one(const cJSON *r, bool json) {
    if (json) {
        char *text = cJSON_PrintUnformatted(r);
        puts(text ? text : "{}");
        cJSON_free(text);
    } else if (ctl_text(r, "control")) {
        printf("%s %2.0f control %-8s %s\n", ctl_key(ctl_text(r, "author")),
               ctl_number(r, "incarnation"), ctl_text(r, "control"),
               ctl_or_dash(ctl_text(r, "text")));
    } else {
        printf("%s %2.0f %9.0f  0x%02x  %+.4e\n", ctl_key(ctl_text(r, "author")),
               ctl_number(r, "incarnation"), ctl_number(r, "step"), (unsigned)ctl_number(r, "byte"),
               ctl_number(r, "value"));
    }
}

/* Print one page; where[] moves on, *left goes down, *more: is there another? */
static pd_err page(ctl *c, const question *q, double where[2], uint64_t *left, bool *more) {
    cJSON *r, *ask = cJSON_CreateObject();
    const cJSON *one;
    if (q->author)
        cJSON_AddStringToObject(ask, "author", q->author);
    cJSON_AddNumberToObject(ask, "from", (double)q->from);
    cJSON_AddNumberToObject(ask, "limit", *left < PAGE ? (double)*left : PAGE);
    cJSON_AddBoolToObject(ask, "control", q->control);
    cJSON_AddNumberToObject(ask, "after_author", where[0]);
    cJSON_AddNumberToObject(ask, "after_step", where[1]);
    pd_err e = ctl_ask(c, "log", ask, CTL_QUICK_MS, &r);
    if (e)
        return e;
    cJSON_ArrayForEach(one, cJSON_GetObjectItemCaseSensitive(r, "records")) {
        print_one(one, q->json);
        *left -= !ctl_text(one, "control");
    }
    where[0] = ctl_number(r, "after_author");
    where[1] = ctl_number(r, "after_step");
    *more = ctl_true(r, "more") && !isnan(where[0]) && !isnan(where[1]);
    cJSON_Delete(r);
    return PD_OK;
}

int ctl_log(ctl *c, int argc, char **argv) {
    question q = {0};
    bool more = true;
    const pd_flag flags[] = {
        CTL_DIR_FLAG(c),
        {"author", 0, PD_FLAG_TEXT, &q.author, 0, 0, "WHO",
         "only this one: a name, or how its key begins"},
        {"from", 0, PD_FLAG_U64, &q.from, 0, 0, "STEP", "from this step of each author on (0)"},
        {"limit", 0, PD_FLAG_U64, &q.limit, 1, 1e12, "N", "at most so many records (default: all)"},
        {"control", 0, PD_FLAG_SWITCH, &q.control, 0, 0, NULL,
         "control records too, before each author's records"},
        {"json", 0, PD_FLAG_SWITCH, &q.json, 0, 0, NULL, "a JSON object a line, with whole keys"},
        {0},
    };
    const pd_command_help text = {
        "peerctl [-d DIR] log [--author WHO] [--from STEP] [--limit N] [--control] [--json]",
        "Print the records that this node holds, sealed ones, one a line:\n\n"
        "  author incarnation step byte value\n\n"
        "value is the projected gradient that the byte stands for. Control records (who was\n"
        "admitted, addresses, goodbyes) read: author incarnation control kind text.\n"
        "What the node says about itself is in: peerctl journal.",
        "peerctl -d site-a log --author shop --from 100 --limit 20",
    };
    double where[2] = {0, 0};
    pd_err e;
    if (ctl_help(argc, argv, flags, &text, NULL, 0, &e))
        return 0;
    uint64_t left = q.limit ? q.limit : UINT64_MAX;
    while (!e && more && left && !ferror(stdout))
        e = page(c, &q, where, &left, &more);
    return e ? ctl_fail(e) : 0;
}
