/* history.h - the newest lines that this process logged, for `peerctl log`; private to src/node. */
#ifndef PD_HISTORY_H
#define PD_HISTORY_H

#include <stdint.h>

enum { PD_HISTORY_LINES = 1000 };

/* Keep lines from now on.  Once is enough. */
void pd_history_start(void);

/* Show the lines kept whose number is above `after`, oldest first; the first line of the process is
 * number 1.  Returns the number of the newest.  fn must not log.
 */
uint64_t pd_history_each(uint64_t after, void (*fn)(void *ctx, const char *line), void *ctx);

#endif
