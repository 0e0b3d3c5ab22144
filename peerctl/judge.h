/* judge.h - what `peerctl doctor` makes of what a node says about itself: facts in, findings out.
 *
 * Pure, so that every finding can be tested without breaking a machine.
 */
#ifndef CTL_JUDGE_H
#define CTL_JUDGE_H

#include "ctl.h"

typedef enum ctl_level { CTL_OK, CTL_WARN, CTL_BAD } ctl_level;
extern const char *const ctl_level_names[]; /* "ok", "warn", "bad" */

typedef struct ctl_check {
    const char *name;
    ctl_level level;
    char text[320]; /* one line: what was found */
    char mend[256]; /* the line that mends it; "" where there is nothing to mend */
} ctl_check;

enum { CTL_CHECKS = 15 };

/* Judge the replies to `status`, `health` and `check` of the node in `dir`, in the order of a
 * person's interest.
 */
void ctl_judge(const char *dir, const cJSON *status, const cJSON *health, const cJSON *check,
               ctl_check out[CTL_CHECKS]);

void ctl_say(ctl_check *c, ctl_level level, const char *fmt, ...) PD_PRINTF(3, 4);
void ctl_mend(ctl_check *c, const char *fmt, ...) PD_PRINTF(2, 3);

#endif
