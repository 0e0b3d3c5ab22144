/* peersim.c - the command: seeds of a swarm under faults, each judged; a failing one is made small
 * and repeated.
 *
 *   peersim --seed S                 one run; --twice: again with another clock, for an equal trace
 *   peersim --seeds A..B             many; --file F: those listed in a file; --fresh K: K new ones
 *   peersim --hours H                new ones until the time is over (0.5: half an hour) or ^C
 *   peersim --table                  what a gradient costs: copies, latency, bytes
 *   peersim --pairs                  runs of one seed with and without one odd member, compared
 *
 *   --nodes N --until T --drop LIST  a smaller run: members, seconds, without faults 3,9-41
 *   --node-hours H                   each run as long as its nodes take for H hours in all
 *   --trace FILE                     every event of the run
 *   --jobs J                         runs at a time (2)
 *   --hash                           print only the trace of all runs
 *   --real-keys                      Ed25519 instead of keyed hashes
 *   --records K --authors A --settle R --rounds R --dies P --repair MS --thin
 *                                    --table: one row: records a seal, nodes that make them, rounds
 *                                    before and while measuring, percent that die, a T_rep, thin
 *                                    lines
 *   --large, --json                  --table: the rows of large runs; for scripts
 *   --plant NAME                     with a bug planted in the core; all: each must be found
 *   --broken NAME                    with the world broken; all: each law must tell
 *                                    (these two: peersim_planted)
 *
 * Exit status: 0 all is well, 2 misused, 10 safety, 11 liveness, 12 bound, 13 crash, 14 two runs of
 * one seed differ, 20 no run can be judged.
 */
#include "shrink.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

typedef struct command {
    options o;
    uint64_t *seeds;
    uint32_t n_seeds, room_seeds;
    uint64_t fresh, soak_ms; /* of a clock on the wall */
    unsigned jobs;
    bool twice, hash, table, pairs;
    const char *plant, *broken; /* as asked for; NULL: not */
} command;

/* ---- planted bugs ---- */

#ifdef PD_PLANTED
extern int pd_planted;
typedef struct plant {
    const char *name, *law; /* law: the one that has to find it; NULL: whichever does */
} plant;
static const plant plants[] = {{"", NULL},
                               {"send-before-stored", NULL},
                               {"restart-without-listening", NULL},
                               {"range-without-seal", NULL},
                               {"sent-across-sessions", NULL},
                               {"heads-trusted-as-own", NULL},
                               {"repair-without-patience", "L6"},
                               {"acknowledge-failed-store", NULL},
                               {"void-as-first-seen", NULL},
                               {"alias-kept-over-members", NULL},
                               {"checkpoint-unattested", "S15"}};
enum { PLANTS = sizeof plants / sizeof *plants };

static bool choose_plant(const char *name) {
    for (int i = 1; i < PLANTS; i++)
        if (!strcmp(plants[i].name, name)) {
            pd_planted = i;
            return true;
        }
    return !strcmp(name, "all");
}

/* A simulator that finds nothing proves nothing: each bug shows itself within 500 seeds. */
static int find_planted(const command *c) {
    enum { SEEDS = 500 };
    uint64_t seeds[SEEDS];
    int missed = 0;
    for (uint64_t i = 0; i < SEEDS; i++)
        seeds[i] = i + 1;
    for (int i = 1; i < PLANTS; i++) {
        pd_planted = i;
        printf("%s\n  ", plants[i].name);
        batch b = {.seeds = seeds, .n = SEEDS, .jobs = c->jobs, .until_law = plants[i].law};
        run_batch(&c->o, &b);
        if (!b.failed)
            printf("NOT FOUND in %d seeds\n", (int)SEEDS);
        missed += !b.failed;
    }
    return missed ? 1 : 0;
}

typedef struct breakage {
    const char *name, *law;
    int code;
} breakage;
static const breakage breakages[BROKEN_KINDS] = {
    [BROKEN_COMMIT] = {"commit", "S2", SAFETY},
    [BROKEN_APPEND] = {"append", "S3", SAFETY},
    [BROKEN_DIGEST] = {"digest", "S5", SAFETY},
    [BROKEN_WIRE] = {"wire", "S8", SAFETY},
    [BROKEN_TRUST] = {"trust", "S8", SAFETY},
    [BROKEN_PEACE] = {"peace", "S10", SAFETY},
    [BROKEN_GATE] = {"gate", "S11", SAFETY},
    [BROKEN_ENTROPY] = {"entropy", "S14", UNEQUAL},
    [BROKEN_PATH] = {"path", "L1", LIVENESS},
    [BROKEN_DISKS] = {"disks", "L2", LIVENESS},
    [BROKEN_STORE] = {"store", "L3", LIVENESS},
    [BROKEN_SESSIONS] = {"sessions", "L5", LIVENESS},
    [BROKEN_BOUND] = {"bound", "L1", BOUND},
    [BROKEN_PROCESS] = {"process", "crash", CRASHED},
    [BROKEN_SILENCE] = {"silence", "atlas", NO_JUDGE},
    [BROKEN_JUSTICE] = {"justice", "S8", SAFETY},
    [BROKEN_MERCY] = {"mercy", "S5", SAFETY},
    [BROKEN_VOID] = {"void", "S7", SAFETY},
    [BROKEN_BARS] = {"bars", "S11", SAFETY},
    [BROKEN_RULE] = {"rule", "L9", LIVENESS},
    [BROKEN_ATTEST] = {"attest", "S15", SAFETY},
};

static bool choose_broken(options *o, const char *name) {
    for (int i = 1; i < BROKEN_KINDS; i++)
        if (!strcmp(name, breakages[i].name)) {
            o->broken = (broken)i;
            return true;
        }
    return !strcmp(name, "all");
}

/* Each breakage of the world is told, by the law it breaks. */
static int find_broken(const command *c) {
    enum { SEEDS = 40 };
    uint64_t seeds[SEEDS];
    int missed = 0;
    for (uint64_t i = 0; i < SEEDS; i++)
        seeds[i] = i + 1;
    for (int i = 1; i < BROKEN_KINDS; i++) {
        options o = c->o;
        o.broken = (broken)i;
        printf("%s\n  ", breakages[i].name);
        batch b = {.seeds = seeds,
                   .n = SEEDS,
                   .jobs = c->jobs,
                   .twice = i == BROKEN_ENTROPY,
                   .until_law = breakages[i].law};
        run_batch(&o, &b);
        bool found =
            b.failed && b.first.code == breakages[i].code && !strcmp(b.first.law, breakages[i].law);
        if (!found)
            printf("  NOT FOUND: %s with exit status %d\n", breakages[i].law, breakages[i].code);
        missed += !found;
    }
    return missed ? 1 : 0;
}
#else
static bool choose_plant(const char *name) {
    (void)name;
    return false;
}
static bool choose_broken(options *o, const char *name) {
    (void)o, (void)name;
    return false;
}
static int find_broken(const command *c) {
    (void)c;
    return 2;
}
static int find_planted(const command *c) {
    (void)c;
    return 2;
}
#endif

/* ---- the command line ---- */

static int misused(const char *what, const char *arg) {
    fprintf(stderr, "peersim: %s%s (see the head of tests/sim/peersim.c)\n", what, arg);
    return 2;
}

static bool number(const char *text, uint64_t *out) {
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return !errno && end != text && !*end;
}

static void add_seed(command *c, uint64_t seed) {
    c->seeds = grow(c->seeds, &c->room_seeds, c->n_seeds + 1, sizeof *c->seeds);
    c->seeds[c->n_seeds++] = seed;
}

static bool add_range(command *c, const char *text) {
    unsigned long long a, b;
    if (sscanf(text, "%llu..%llu", &a, &b) != 2 || b < a || b - a > 10000000)
        return false;
    for (; a <= b; a++)
        add_seed(c, a);
    return true;
}

/* One seed a line; what follows it on the line says why it is there. */
static bool add_file(command *c, const char *path) {
    char line[256];
    FILE *f = fopen(path, "r");
    unsigned long long seed;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "%llu", &seed) == 1)
            add_seed(c, seed);
    return f && fclose(f) == 0;
}

static bool seconds(const char *text, uint64_t *ms) {
    unsigned long long s = 0, fraction = 0;
    char digits[4] = "000", more;
    int n = sscanf(text, "%llu.%3[0-9]%c", &s, digits, &more);
    if (n < 1 || n > 2)
        return false;
    for (size_t i = 0; i < 3; i++)
        fraction = fraction * 10 + (unsigned)(digits[i] ? digits[i] - '0' : 0);
    *ms = s * 1000 + fraction;
    return *ms > 0;
}

static bool drop_list(command *c, const char *text) {
    enum { FAULTS_MAX = 100000 };
    for (const char *p = text; *p;) {
        char *end;
        unsigned long a = strtoul(p, &end, 10), b = a;
        if (end == p)
            return false;
        if (*end == '-') {
            p = end + 1;
            b = strtoul(p, &end, 10);
            if (end == p)
                return false;
        }
        if (b < a || b >= FAULTS_MAX || (*end && *end != ','))
            return false;
        uint32_t room = c->o.n_drop;
        c->o.drop = grow(c->o.drop, &room, (uint32_t)b + 1, 1);
        c->o.n_drop = room;
        memset(c->o.drop + a, 1, b - a + 1);
        p = *end ? end + 1 : end;
    }
    return true;
}

static bool value(command *c, const char *name, const char *v) {
    uint64_t n = 0;
    if (!strcmp(name, "--seeds"))
        return add_range(c, v);
    if (!strcmp(name, "--file"))
        return add_file(c, v);
    if (!strcmp(name, "--until"))
        return seconds(v, &c->o.until_ms);
    if (!strcmp(name, "--hours")) {
        enum { HOURS_MAX = 10000 };
        bool ok = seconds(v, &n) && n <= HOURS_MAX * UINT64_C(1000);
        c->soak_ms = n * 3600;
        return ok;
    }
    if (!strcmp(name, "--drop"))
        return drop_list(c, v);
    if (!strcmp(name, "--trace")) {
        c->o.trace_path = v;
        return c->o.tracing = true;
    }
    if (!strcmp(name, "--plant")) {
        c->plant = v;
        return choose_plant(v);
    }
    if (!strcmp(name, "--broken")) {
        c->broken = v;
        return choose_broken(&c->o, v);
    }
    if (!number(v, &n))
        return false;
    if (!strcmp(name, "--seed"))
        add_seed(c, n);
    else if (!strcmp(name, "--nodes") && n >= 1 && n <= 60000)
        c->o.nodes = (uint32_t)n;
    else if (!strcmp(name, "--node-hours") && n >= 1 && n <= 100000)
        c->o.node_hours = n;
    else if (!strcmp(name, "--fresh") && n >= 1 && n <= 1000000)
        c->fresh = n;
    else if (!strcmp(name, "--jobs") && n >= 1 && n <= 64)
        c->jobs = (unsigned)n;
    else if (!strcmp(name, "--records") && n >= 1 && n <= 4096)
        c->o.t.records_a_seal = (uint32_t)n;
    else if (!strcmp(name, "--authors") && n >= 2 && n <= 60000)
        c->o.t.authors = (uint32_t)n;
    else if (!strcmp(name, "--rounds") && n >= 1 && n <= 1000)
        c->o.t.rounds = (uint32_t)n;
    else if (!strcmp(name, "--settle") && n >= 1 && n <= 1000)
        c->o.t.settle = (uint32_t)n;
    else if (!strcmp(name, "--dies") && n >= 1 && n <= 90)
        c->o.t.dies = (uint32_t)n;
    else if (!strcmp(name, "--repair") && n >= 1 && n <= 600000)
        c->o.t.repair_ms = (uint32_t)n;
    else
        return false;
    return true;
}

static bool flag(command *c, const char *name) {
    if (!strcmp(name, "--twice"))
        return c->twice = true;
    if (!strcmp(name, "--hash"))
        return c->hash = true;
    if (!strcmp(name, "--table"))
        return c->table = true;
    if (!strcmp(name, "--thin"))
        return c->o.t.thin = true;
    if (!strcmp(name, "--large"))
        return c->o.t.large = true;
    if (!strcmp(name, "--json"))
        return c->o.t.json = true;
    if (!strcmp(name, "--pairs"))
        return c->pairs = true;
    if (!strcmp(name, "--real-keys"))
        return c->o.ed25519 = true;
    return false;
}

/* ---- running ---- */

/* Says which, so that all of them can be run again. */
static void add_fresh(command *c, uint64_t n) {
    uint8_t b[8];
    pd_random(b, sizeof b);
    uint64_t from = pd_load64(b) >> 24;
    if (!c->hash)
        printf("fresh: --seeds %llu..%llu\n", (unsigned long long)from,
               (unsigned long long)(from + n - 1));
    for (; n; n--)
        add_seed(c, from++);
}

static void print_sum(const batch *b, time_t began) {
    printf("%zu runs, %zu failed, %zu not judgeable; %.1f hours simulated, %.0f node-hours, %llu "
           "steps, %llu frames, %llu records; the longest ended %.0f s "
           "after its faults; %llu logs of more than one version; %llu began with a checkpoint, "
           "%llu were refused one; trace %016llx; %lld s\n",
           b->n, b->failed, b->unjudged, (double)b->simulated_ms / 3600000,
           (double)b->node_ms / 3600000, (unsigned long long)b->steps,
           (unsigned long long)b->frames, (unsigned long long)b->records,
           (double)b->healed_ms / 1000, (unsigned long long)b->forks, (unsigned long long)b->begun,
           (unsigned long long)b->refused, (unsigned long long)b->trace,
           (long long)(time(NULL) - began));
    fflush(stdout);
}

/* Adds the node-hours simulated. */
static int run(command *c, double *node_hours) {
    time_t began = time(NULL);
    batch b = {.seeds = c->seeds, .n = c->n_seeds, .jobs = c->jobs, .twice = c->twice, .all = true};
    run_batch(&c->o, &b);
    *node_hours += (double)b.node_ms / 3600000;
    if (c->hash)
        printf("%016llx\n", (unsigned long long)b.trace);
    else
        print_sum(&b, began);
    if (!b.failed)
        return b.unjudged == b.n ? NO_JUDGE : OK;
    options o = c->o;
    o.seed = c->seeds[b.first_failed];
    shrink(&o, &b.first, c->plant, c->broken);
    return b.first.code;
}

static double cpu_minutes(void) {
    struct rusage u;
    if (getrusage(RUSAGE_CHILDREN, &u))
        return 0;
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) / 60;
}

/* ^C ends a soak at the end of a batch, so that what was found is told; a second one at once.  The
 * runs, processes of their own that a terminal interrupts as well, go on. */
static volatile sig_atomic_t interrupted;
static pid_t soaking;

static void interrupt(int number) {
    static const char text[] = "peersim: ends after these seeds; again: ends at once\n";
    (void)number;
    interrupted = 1;
    if (getpid() == soaking && write(STDERR_FILENO, text, sizeof text - 1) < 0)
        interrupted = 2; /* nobody reads it: it ends all the same */
}

static void catch_interrupts(void) {
    struct sigaction a = {.sa_handler = interrupt, .sa_flags = SA_RESTART | (int)SA_RESETHAND};
    soaking = getpid();
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
}

/* New seeds until the time is over or one fails, with what is done so far after every batch. */
static int soak(command *c) {
    enum { AT_ONCE = 200 };
    time_t began = time(NULL), end = began + (time_t)(c->soak_ms / 1000);
    uint64_t seeds = 0;
    double hours = 0;
    int code = OK;
    catch_interrupts();
    while (!code && !interrupted && time(NULL) < end) {
        c->n_seeds = 0;
        add_fresh(c, AT_ONCE);
        code = run(c, &hours);
        seeds += AT_ONCE;
        double minutes = (double)(time(NULL) - began) / 60, cpu = cpu_minutes();
        printf(
            "  in all %llu seeds, %.0f node-hours, %.0f seeds a minute, %.0f node-hours a minute "
            "of CPU\n",
            (unsigned long long)seeds, hours, minutes > 0 ? (double)seeds / minutes : 0,
            cpu > 0 ? hours / cpu : 0);
        fflush(stdout);
    }
    return code;
}

static int compare_all(command *c) {
    int code = OK;
    for (uint32_t i = 0; i < c->n_seeds && !code; i++) {
        c->o.seed = c->seeds[i];
        code = pairs_judge(&c->o);
    }
    return c->n_seeds ? code : misused("which seed?", "");
}

int main(int argc, char **argv) {
    command c = {.jobs = 2};
    if (pd_crypto_init())
        return 1;
    for (int i = 1; i < argc; i++) {
        if (flag(&c, argv[i]))
            continue;
        if (i + 1 == argc || !value(&c, argv[i], argv[i + 1]))
            return misused("cannot use ", argv[i]);
        i++;
    }
    if (c.fresh)
        add_fresh(&c, c.fresh);
    int code;
    if (c.plant && !strcmp(c.plant, "all"))
        code = find_planted(&c);
    else if (c.broken && !strcmp(c.broken, "all"))
        code = find_broken(&c);
    else if (c.table) {
        c.o.seed = c.n_seeds ? c.seeds[0] : 2;
        code = table_print(&c.o);
    } else if (c.pairs) {
        code = compare_all(&c);
    } else if (c.soak_ms)
        code = soak(&c);
    else
        code = c.n_seeds ? run(&c, &(double){0}) : misused("which seed?", "");
    free(c.seeds);
    free(c.o.drop);
    return code;
}
