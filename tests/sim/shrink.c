/* shrink.c - runs in processes of their own, many at a time, and the smallest run that still fails.
 *
 * A run in a child can crash, leak or be taken over by a sanitizer without taking the others along.
 * Shrinking is ddmin [1] over the numbered faults, then fewer nodes, then a shorter run; a smaller
 * run counts when it fails by the same law.
 *
 * [1] Zeller, Hildebrandt 2002, Simplifying and isolating failure-inducing input,
 * doi 10.1109/32.988498
 */
#include "shrink.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- a run in a child ---- */

typedef struct child {
    pid_t pid;
    int fd;
} child;

static sim *current; /* of this process: for its last words */

static void last_words(int signal_number) {
    if (current && current->o.tracing)
        sim_last_words(current);
    _exit(signal_number == SIGABRT ? CRASHED : CRASHED + 100);
}

static outcome outcome_of(const sim *s) {
    outcome o = {.code = s->code,
                 .trace = s->trace,
                 .steps = s->steps,
                 .frames = s->frames,
                 .records = s->records};
    o.forks = s->forks;
    o.begun = s->begun;
    o.refused = s->refused;
    o.until_ms = s->until;
    o.failed_ms = s->now;
    o.healed_ms = s->now > s->until ? s->now - s->until : 0;
    o.n_nodes = s->n_members;
    o.node_ms = s->now * s->n_members;
    o.n_faults = s->n_faults;
    memcpy(o.law, s->law, sizeof o.law);
    memcpy(o.failure, s->failure, sizeof o.failure);
    return o;
}

static void tell(int fd, const outcome *o) {
    if (write(fd, o, sizeof *o) != (ssize_t)sizeof *o)
        _exit(1);
}

/* Tells how large the run is before it begins, so that one that crashes can be made smaller, too.
 */
static void live(const options *o, int fd, bool aloud) {
    signal(SIGABRT, last_words);
    signal(SIGSEGV, last_words);
    current = sim_open(o);
    outcome plan = outcome_of(current), end;
    plan.failed_ms = plan.until_ms;
    tell(fd, &plan);
    sim_judge(current);
    end = outcome_of(current);
    if (aloud && end.code)
        sim_last_words(current);
    sim_close(current);
    current = NULL;
    tell(fd, &end);
    _exit(0);
}

static child begin(const options *o, bool aloud) {
    int fd[2];
    fflush(stdout);
    if (pipe(fd)) {
        perror("peersim: pipe");
        exit(1);
    }
    child c = {fork(), fd[0]};
    if (c.pid < 0) {
        perror("peersim: fork");
        exit(1);
    }
    if (c.pid == 0)
        live(o, fd[1], aloud);
    close(fd[1]);
    return c;
}

static outcome end_of(child c) {
    outcome o = {0}, plan = {0};
    int status;
    if (read(c.fd, &plan, sizeof plan) != (ssize_t)sizeof plan)
        plan = (outcome){0};
    ssize_t got = read(c.fd, &o, sizeof o);
    close(c.fd);
    while (waitpid(c.pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (got == (ssize_t)sizeof o && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return o;
    o = plan;
    o.code = CRASHED;
    snprintf(o.law, sizeof o.law, "crash");
    snprintf(o.failure, sizeof o.failure,
             "the run ended in a crash, an assert or a sanitizer's report");
    return o;
}

outcome run_apart(const options *o, bool aloud) {
    return end_of(begin(o, aloud));
}

/* ---- many ---- */

/* The second run of a seed has another clock: 24 years later. */
#define EPOCH_LATER_MS UINT64_C(777777777777)

static void count(batch *b, size_t i, const outcome *o) {
    b->steps += o->steps;
    b->frames += o->frames;
    b->records += o->records;
    b->forks += o->forks;
    b->begun += o->begun;
    b->refused += o->refused;
    b->simulated_ms += o->until_ms + o->healed_ms;
    b->node_ms += o->node_ms;
    b->healed_ms = o->healed_ms > b->healed_ms ? o->healed_ms : b->healed_ms;
    b->trace = b->trace * UINT64_C(0x9fb21c651e98df25) + o->trace;
    if (o->code == NO_JUDGE && !b->until_law) {
        b->unjudged++;
        return;
    }
    if (!o->code || (b->until_law && strcmp(b->until_law, o->law)))
        return;
    if (b->failed++ == 0) {
        b->first_failed = i;
        b->first = *o;
    }
    printf("seed %llu: %s\n", (unsigned long long)b->seeds[i], o->failure);
    fflush(stdout);
}

static outcome compare(outcome a, const outcome *again) {
    if (!a.code && !again->code && a.trace != again->trace) {
        a.code = UNEQUAL;
        snprintf(a.law, sizeof a.law, "S14");
        snprintf(a.failure, sizeof a.failure, "S14: two runs of one seed differ: %016llx, %016llx",
                 (unsigned long long)a.trace, (unsigned long long)again->trace);
    }
    return a;
}

/* In windows of `jobs` runs, taken in the order of the seeds. */
void run_batch(const options *o, batch *b) {
    enum { JOBS_MAX = 64 };
    child running[JOBS_MAX], again[JOBS_MAX];
    unsigned jobs = b->jobs < 1 ? 1 : b->jobs > JOBS_MAX ? JOBS_MAX : b->jobs;
    size_t begun = 0;
    for (size_t i = 0; i < b->n && (b->all || !b->failed); i++) {
        for (; begun < b->n && begun < i + jobs; begun++) {
            options one = *o;
            one.seed = b->seeds[begun];
            running[begun % jobs] = begin(&one, false);
            one.epoch_ms += EPOCH_LATER_MS;
            if (b->twice)
                again[begun % jobs] = begin(&one, false);
        }
        outcome end = end_of(running[i % jobs]);
        if (b->twice) {
            outcome second = end_of(again[i % jobs]);
            end = compare(end, &second);
        }
        count(b, i, &end);
        if (!b->all && b->failed)
            for (size_t k = i + 1; k < begun; k++) {
                end_of(running[k % jobs]);
                if (b->twice)
                    end_of(again[k % jobs]);
            }
    }
}

/* ---- smaller ---- */

typedef struct search {
    options o;
    outcome first;
    bool twice; /* it is two runs of one seed that differ */
    time_t until;
    unsigned runs;
} search;

static bool fails_alike(search *s, const options *o, outcome *end) {
    *end = run_apart(o, false);
    if (s->twice) {
        options later = *o;
        later.epoch_ms += EPOCH_LATER_MS;
        outcome second = run_apart(&later, false);
        *end = compare(*end, &second);
    }
    s->runs++;
    return end->code == s->first.code && !strcmp(end->law, s->first.law);
}

static bool out_of_time(const search *s) {
    return time(NULL) >= s->until;
}

/* Drop chunks of what is left, smaller and smaller. */
static void fewer_faults(search *s) {
    outcome end;
    uint8_t *try = malloc(s->o.n_drop + 1u);
    if (!try)
        abort();
    for (uint32_t chunk = s->o.n_drop; chunk && !out_of_time(s); chunk /= 2)
        for (uint32_t at = 0; at < s->o.n_drop && !out_of_time(s); at += chunk) {
            options o = s->o;
            bool any = false;
            memcpy(try, s->o.drop, s->o.n_drop);
            for (uint32_t i = at; i < at + chunk && i < s->o.n_drop; i++) {
                any |= !try[i];
                try[i] = 1;
            }
            o.drop = try;
            if (any && fails_alike(s, &o, &end))
                memcpy(s->o.drop, try, s->o.n_drop);
        }
    free(try);
}

static void fewer_nodes(search *s) {
    outcome end;
    for (uint32_t n = 2; n < s->first.n_nodes && !out_of_time(s); n++) {
        options o = s->o;
        o.nodes = n;
        if (fails_alike(s, &o, &end)) {
            s->o.nodes = n;
            return;
        }
    }
}

static void shorter(search *s) {
    outcome end;
    uint64_t lo = 2000,
             hi = s->first.failed_ms < s->first.until_ms ? s->first.failed_ms : s->first.until_ms;
    while (lo + 1000 < hi && !out_of_time(s)) {
        options o = s->o;
        o.until_ms = (lo + hi) / 2;
        if (fails_alike(s, &o, &end)) {
            hi = o.until_ms;
            s->o.until_ms = hi;
        } else
            lo = o.until_ms;
    }
}

static void print_drop(const options *o) {
    const char *between = " --drop ";
    for (uint32_t i = 0; i < o->n_drop; i++) {
        uint32_t last = i;
        if (!o->drop[i])
            continue;
        while (last + 1 < o->n_drop && o->drop[last + 1])
            last++;
        printf(last > i ? "%s%u-%u" : "%s%u", between, i, last);
        between = ",";
        i = last;
    }
}

#ifdef PD_PLANTED
#define PROGRAM "peersim_planted"
#else
#define PROGRAM "peersim"
#endif

static void print_command(const search *s, const char *plant, const char *breakage) {
    const options *o = &s->o;
    printf(PROGRAM " --seed %llu", (unsigned long long)o->seed);
    if (s->twice)
        printf(" --twice");
    if (o->ed25519)
        printf(" --real-keys");
    if (o->nodes)
        printf(" --nodes %u", o->nodes);
    if (o->node_hours)
        printf(" --node-hours %llu", (unsigned long long)o->node_hours);
    if (o->until_ms)
        printf(" --until %llu.%03llu", (unsigned long long)o->until_ms / 1000,
               (unsigned long long)o->until_ms % 1000);
    if (plant)
        printf(" --plant %s", plant);
    if (breakage)
        printf(" --broken %s", breakage);
    print_drop(o);
    printf("\n");
}

void shrink(const options *o, const outcome *first, const char *plant, const char *breakage) {
    enum { SECONDS = 60 };
    search s = {
        .o = *o, .first = *first, .until = time(NULL) + SECONDS, .twice = first->code == UNEQUAL};
    uint32_t room = 0;
    s.o.drop = grow(NULL, &room, first->n_faults + 1, 1);
    s.o.n_drop = first->n_faults;
    for (uint32_t i = 0; i < o->n_drop && i < s.o.n_drop; i++)
        s.o.drop[i] = o->drop[i];
    fewer_faults(&s);
    fewer_nodes(&s);
    if (!o->until_ms)
        shorter(&s);
    uint32_t left = 0;
    for (uint32_t i = 0; i < s.o.n_drop; i++)
        left += !s.o.drop[i];
    printf("%u of %u faults are left after %u runs; the last of its trace:\n", left, s.o.n_drop,
           s.runs);
    s.o.tracing = true;
    outcome end = run_apart(&s.o, true);
    printf("%s\nto repeat: ", s.twice ? first->failure : end.failure);
    print_command(&s, plant, breakage);
    free(s.o.drop);
}
