/* log.h - one line an event on standard error, rate-limited, safe from any thread.
 *
 * A line is `HH:MM:SS level text`.  Each call site may speak 5 times in 10 s; then one line says how many
 * were held back.  Progress (pd_progress) is one line that overwrites itself on a terminal and is silent
 * elsewhere.
 */
#ifndef PEERD_LOG_H
#define PEERD_LOG_H

#include "peerd/err.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum pd_log_level { PD_LOG_ERROR, PD_LOG_WARN, PD_LOG_INFO, PD_LOG_DEBUG } pd_log_level;

typedef struct pd_log_site {
    uint64_t since_ms;
    uint32_t said, held;
} pd_log_site;

/* Speak up to and including `level`; the default is PD_LOG_INFO. */
void pd_log_set(pd_log_level level);

/* Give every line that is said to `fn` as well, without its newline; NULL ends that.  fn runs under
 * the log's lock, on any thread: it must be quick and must not log.
 */
void pd_log_tap(void (*fn)(void *ctx, const char *line), void *ctx);

void pd_log_at(pd_log_site *site, pd_log_level level, const char *fmt, ...) PD_PRINTF(3, 4);

#define PD_LOG(level, ...)                                                                         \
    do {                                                                                           \
        static pd_log_site pd_site_;                                                               \
        pd_log_at(&pd_site_, level, __VA_ARGS__);                                                  \
    } while (0)
#define pd_error(...) PD_LOG(PD_LOG_ERROR, __VA_ARGS__)
#define pd_warn(...) PD_LOG(PD_LOG_WARN, __VA_ARGS__)
#define pd_info(...) PD_LOG(PD_LOG_INFO, __VA_ARGS__)
#define pd_debug(...) PD_LOG(PD_LOG_DEBUG, __VA_ARGS__)

/* Show the state of long work: rewrites its line, at most 10 times a second; `done` ends the line. */
void pd_progress(bool done, const char *fmt, ...) PD_PRINTF(2, 3);

#endif
