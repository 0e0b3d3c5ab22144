/* history.c - a ring of log lines; see history.h.  Of the process, as the log itself is. */
#include "history.h"
#include "peerd/log.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *ring[PD_HISTORY_LINES]; /* line i at i % PD_HISTORY_LINES; NULL: no memory for it */
static uint64_t newest;

static void keep(void *ctx, const char *line) {
    (void)ctx;
    char *copy = strdup(line);
    pthread_mutex_lock(&lock);
    newest++;
    free(ring[newest % PD_HISTORY_LINES]);
    ring[newest % PD_HISTORY_LINES] = copy;
    pthread_mutex_unlock(&lock);
}

void pd_history_start(void) {
    pd_log_tap(keep, NULL);
}

uint64_t pd_history_each(uint64_t after, void (*fn)(void *ctx, const char *line), void *ctx) {
    pthread_mutex_lock(&lock);
    uint64_t from = newest > PD_HISTORY_LINES ? newest - PD_HISTORY_LINES : 0, last = newest;
    if (after > from && after <= newest)
        from = after;
    for (uint64_t i = from + 1; i <= last; i++)
        if (ring[i % PD_HISTORY_LINES])
            fn(ctx, ring[i % PD_HISTORY_LINES]);
    pthread_mutex_unlock(&lock);
    return last;
}
