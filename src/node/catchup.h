/* catchup.h - how a newcomer gets the records so far: all of them, or a checkpoint and what came
 * after it; private to src/node.
 *
 *   replay       1.04 R / G + R d / S
 *   checkpoint   size / G + (R - R_c) (1.04 / G + d / S)
 *
 *   R  records ahead   G  bytes/s of the line   d  coordinates   S  coordinate updates/s of this
 * machine R_c  records in the checkpoint   size  bytes of its file     1.04  bytes a record on the
 * wire, in long ranges
 *
 * Replay verifies everything; a checkpoint rests on those who attest it until its audit is done. So
 * where replay takes no longer than a person waits anyway, it is replay.
 */
#ifndef PD_CATCHUP_H
#define PD_CATCHUP_H

#include "peerd/manifest.h"

#include <stdbool.h>

typedef enum pd_catch_up {
    PD_CATCH_UP_AUTO,
    PD_CATCH_UP_REPLAY,
    PD_CATCH_UP_CHECKPOINT
} pd_catch_up;

/* "auto", "replay", "checkpoint".  Errors: PD_EUSAGE. */
PD_CHECKED pd_err pd_catch_up_parse(const char *text, pd_catch_up *out);

typedef struct pd_way {
    uint64_t records, d;
    double bytes_per_s, updates_per_s;
    uint64_t ckpt_bytes, ckpt_records; /* bytes 0: there is none to begin with */
} pd_way;

double pd_catch_up_replay_s(const pd_way *w);
double pd_catch_up_checkpoint_s(const pd_way *w); /* only with one */

enum { PD_CATCH_UP_TEXT = 320 };
/* Is it the checkpoint?  text: one line with both estimates and the choice. */
bool pd_catch_up_choose(const pd_way *w, pd_catch_up wish, char text[PD_CATCH_UP_TEXT]);

/* Coordinate updates a second of this machine in this run, as timed over some 50 ms; 0 without
 * memory. */
double pd_catch_up_measure(const pd_manifest *m);

#endif
