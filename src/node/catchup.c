/* catchup.c - replay or checkpoint, by what each would take; see catchup.h. */
#include "catchup.h"
#include "peerd/file.h"
#include "peerd/replay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double WIRE = 1.04;   /* bytes a record, catching up with a whole log */
static const double PATIENCE = 10; /* seconds of replay that are not worth trusting anybody */

pd_err pd_catch_up_parse(const char *text, pd_catch_up *out) {
    static const char *const names[] = {"auto", "replay", "checkpoint"};
    for (int i = 0; i < 3; i++)
        if (strcmp(text, names[i]) == 0) {
            *out = (pd_catch_up)i;
            return PD_OK;
        }
    return pd_fail(PD_EUSAGE, "unknown way to catch up '%s' (auto, replay or checkpoint)", text);
}

/* Seconds that a record takes. */
static double each(const pd_way *w) {
    return WIRE / w->bytes_per_s + (double)w->d / w->updates_per_s;
}

double pd_catch_up_replay_s(const pd_way *w) {
    return (double)w->records * each(w);
}

double pd_catch_up_checkpoint_s(const pd_way *w) {
    uint64_t rest = w->records > w->ckpt_records ? w->records - w->ckpt_records : 0;
    return (double)w->ckpt_bytes / w->bytes_per_s + (double)rest * each(w);
}

bool pd_catch_up_choose(const pd_way *w, pd_catch_up wish, char text[PD_CATCH_UP_TEXT]) {
    double replay = pd_catch_up_replay_s(w);
    int at = snprintf(text, PD_CATCH_UP_TEXT,
                      "catching up with %llu records: by replay about %.0f s (%.0f kB/s, %.2f G "
                      "updates/s)",
                      (unsigned long long)w->records, replay, w->bytes_per_s / 1e3,
                      w->updates_per_s / 1e9);
    char *more = text + at;
    size_t room = (size_t)(PD_CATCH_UP_TEXT - at);
    if (!w->ckpt_bytes) {
        snprintf(more, room, "; no checkpoint is attested by enough members: replay");
        return false;
    }
    double ckpt = pd_catch_up_checkpoint_s(w);
    bool use = wish == PD_CATCH_UP_CHECKPOINT ||
               (wish == PD_CATCH_UP_AUTO && ckpt < replay && replay > PATIENCE);
    snprintf(more, room, ", by a checkpoint of %llu records about %.0f s: %s%s",
             (unsigned long long)w->ckpt_records, ckpt, use ? "checkpoint" : "replay",
             wish == PD_CATCH_UP_AUTO ? "" : ", as asked for");
    return use;
}

double pd_catch_up_measure(const pd_manifest *m) {
    enum { BATCH = 256, US = 50000 };
    size_t d = (size_t)m->n_coords;
    pd_replay r;
    pd_author nobody = {.inc = 0};
    uint8_t bytes[BATCH];
    int32_t *a = calloc(d, sizeof *a);
    uint64_t began = pd_clock_us(), took = 0, records = 0;
    if (!a)
        return 0;
    pd_replay_of(m, &r);
    memset(bytes, 60, sizeof bytes);
    for (; took < US; took = pd_clock_us() - began, records += BATCH)
        pd_replay_fold(&r, a, d, &nobody, records, bytes, BATCH);
    free(a);
    return (double)records * (double)d / ((double)took / 1e6);
}
