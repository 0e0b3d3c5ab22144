/* log.c - log lines and the progress line; see log.h.  One mutex: lines from several threads never mix. */
#include "peerd/log.h"
#include "peerd/file.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BURST = 5, WINDOW_MS = 10000, PROGRESS_MS = 100 };
enum { TEXT_BYTES = 1024, LINE_BYTES = TEXT_BYTES + 32 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pd_log_level max_level = PD_LOG_INFO;
static bool progress_open;        /* a progress line stands on the terminal */
static uint64_t progress_last_ms;
static void (*tap)(void *ctx, const char *line);
static void *tap_ctx;

void pd_log_set(pd_log_level level) {
    pthread_mutex_lock(&lock);
    max_level = level;
    pthread_mutex_unlock(&lock);
}

void pd_log_tap(void (*fn)(void *ctx, const char *line), void *ctx) {
    pthread_mutex_lock(&lock);
    tap = fn;
    tap_ctx = ctx;
    pthread_mutex_unlock(&lock);
}

static void clear_progress(void) {
    if (progress_open)
        fputs("\r\033[K", stderr);
    progress_open = false;
}

static void line(pd_log_level level, const char *text) {
    static const char *const names[] = {"error", "warn", "info", "debug"};
    time_t now = time(NULL);
    struct tm tm;
    char stamp[16], whole[LINE_BYTES];
    localtime_r(&now, &tm);
    strftime(stamp, sizeof stamp, "%H:%M:%S", &tm);
    snprintf(whole, sizeof whole, "%s %s %s", stamp, names[level], text);
    clear_progress();
    fprintf(stderr, "%s\n", whole);
    if (tap)
        tap(tap_ctx, whole);
}

/* Count one line at a site; true if it may be said. */
static bool may_say(pd_log_site *site, pd_log_level level) {
    uint64_t now = pd_clock_ms();
    if (site->said == 0 || now - site->since_ms > WINDOW_MS) {
        if (site->held) {
            char text[64];
            snprintf(text, sizeof text, "(%u more lines like the next were held back)", site->held);
            line(level, text);
        }
        *site = (pd_log_site){now, 0, 0};
    }
    if (site->said == BURST) {
        site->held++;
        return false;
    }
    site->said++;
    return true;
}

void pd_log_at(pd_log_site *site, pd_log_level level, const char *fmt, ...) {
    char text[TEXT_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    pthread_mutex_lock(&lock);
    if (level <= max_level && may_say(site, level))
        line(level, text);
    pthread_mutex_unlock(&lock);
}

void pd_progress(bool done, const char *fmt, ...) {
    if (!isatty(STDERR_FILENO))
        return;
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    pthread_mutex_lock(&lock);
    uint64_t now = pd_clock_ms();
    if (done || now - progress_last_ms >= PROGRESS_MS) {
        fprintf(stderr, "\r\033[K%s%s", text, done ? "\n" : "");
        fflush(stderr);
        progress_open = !done;
        progress_last_ms = now;
    }
    pthread_mutex_unlock(&lock);
}
