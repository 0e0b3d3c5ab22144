/* test_power.c - the store on a disk that loses power or fails at any one operation.
 *
 *   test_power SCENARIO ...              each of its operations in turn, every fault, every outcome
 *   test_power --all SCENARIO ...        the same with 16 draws of what is lost instead of 2
 *   test_power SCENARIO FAULT K END SEED one case again, as a failure prints it
 *   test_power --lying-disk              the test's own test: a disk that lies about syncs is found
 *
 * A scenario is what a node does with its store.  It runs once whole, which counts its operations;
 * then once for every operation and fault: the power goes there, or that operation fails with EIO,
 * ENOSPC or half done, or the disk is full from there on.  Then the process is killed or the
 * machine loses power, keeping all, none or some of what was not synced.  After the next start, on
 * a healthy disk: what was acknowledged is there (S3) and every step has the byte the world heard
 * (S1), no damage is found, the node goes on with bytes never made before and loses power once
 * more, and the database is whole for SQLite itself.
 */
#include "world.h"

#include "peerd/file.h"
#include "peerd/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum end { END_ALL, END_NONE, END_SOME, END_JUNK, END_KILL, ENDS } end;
enum { FAULTS = DISK_FULL + 1, FAILURES_MAX = 5 };

static const char *const fault_names[] = {"healthy", "power", "eio", "enospc", "short", "full"};
static const char *const end_names[] = {"all", "none", "some", "junk", "kill"};

/* ---- scenarios ---- */

static void nothing(world *w) {
    (void)w;
}

static void new_store(world *w) {
    node_start(w, true);
    node_make(w);
    node_say(w, PD_STREAM_CONTROL, 60);
    node_close(w);
    node_start(w, !w->made);
    node_say(w, PD_STREAM_CONTROL, 40);
}

static void a_node(world *w) {
    node_start(w, true);
    node_make(w);
    node_say(w, PD_STREAM_CONTROL, 200);
    node_say(w, PD_STREAM_GRADIENTS, 900);
    node_hear(w, 2000);
    node_checkpoint(w);
    node_close(w);
}

/* Ends without a close: its commits are in the write-ahead log alone. */
static void a_killed_node(world *w) {
    a_node(w);
    node_start(w, false);
    node_say(w, PD_STREAM_GRADIENTS, 500);
    node_hear(w, 2500);
    node_kill(w);
}

static void own_seals(world *w) {
    static const size_t sizes[] = {1, 100, 24, 1, 1024, 2500};
    node_start(w, false);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        node_say(w, PD_STREAM_GRADIENTS, sizes[i]);
        if (i % 2)
            node_say(w, PD_STREAM_CONTROL, 50);
    }
}

static void others_segments(world *w) {
    node_start(w, false);
    node_hear(w, 2600);
    node_say(w, PD_STREAM_GRADIENTS, 300);
    node_hear(w, 6000);
    node_hear(w, 6001);
    node_close(w);
}

static void checkpoints(world *w) {
    node_start(w, false);
    for (uint32_t i = 0; i < 3; i++) {
        node_say(w, PD_STREAM_GRADIENTS, 300);
        node_hear(w, 2600 + 700 * i);
        node_checkpoint(w);
    }
}

static void upkeep(world *w) {
    node_start(w, false);
    for (uint32_t i = 0; i < 3; i++) {
        node_say(w, PD_STREAM_GRADIENTS, 700);
        node_hear(w, 2600 + 1500 * i);
        node_maintain(w, 61000);
        node_say(w, PD_STREAM_GRADIENTS, 30);
    }
    node_close(w);
    node_start(w, false);
    node_say(w, PD_STREAM_GRADIENTS, 10);
}

static void a_node_with_rot(world *w) {
    a_node(w);
    world_rot(w, false);
}

static void damaged_rows(world *w) {
    node_start(w, false);
    node_say(w, PD_STREAM_GRADIENTS, 300);
    node_hear(w, 3000);
    node_close(w);
}

static void a_node_with_own_rot(world *w) {
    a_node(w);
    world_rot(w, true);
}

static void incarnation(world *w) {
    node_start(w, false);
    node_say(w, PD_STREAM_GRADIENTS, 300);
    node_incarnate(w);
    node_say(w, PD_STREAM_CONTROL, 30);
    node_say(w, PD_STREAM_GRADIENTS, 300);
    node_close(w);
}

static void the_rest(world *w) {
    node_start(w, false);
    node_invite(w);
    node_address(w);
    node_say(w, PD_STREAM_GRADIENTS, 20);
    node_invite(w);
    node_close(w);
}

static void backup(world *w) {
    node_start(w, false);
    node_say(w, PD_STREAM_GRADIENTS, 20);
    node_backup(w);
    node_say(w, PD_STREAM_GRADIENTS, 20);
}

/* A newcomer's logs begin at a base; what lies before comes later, and then it is as others are. */
static void newcomer(world *w) {
    node_start(w, false);
    node_begin(w);
    node_say(w, PD_STREAM_GRADIENTS, 300);
    node_hear(w, 3000);
    node_fill(w);
    node_hear(w, 3500);
    node_audit(w, PD_AUDIT_EQUAL);
    node_close(w);
}

static void a_newcomer(world *w) {
    a_node(w);
    node_start(w, false);
    node_begin(w);
    node_share(w);
    node_kill(w);
}

/* The other end of it: what it began with was made up. */
static void misled(world *w) {
    node_start(w, false);
    node_share(w);
    node_checkpoint(w);
    node_fill(w);
    node_audit(w, PD_AUDIT_DIFFERS);
    node_share(w);
}

typedef struct scenario {
    const char *name;
    void (*before)(world *w); /* on a healthy disk */
    void (*run)(world *w);
} scenario;

static const scenario scenarios[] = {
    {"new_store", nothing, new_store},
    {"own_seals", a_node, own_seals},
    {"after_a_kill", a_killed_node, own_seals},
    {"others_segments", a_node, others_segments},
    {"checkpoints", a_node, checkpoints},
    {"upkeep", a_killed_node, upkeep},
    {"damaged_rows", a_node_with_rot, damaged_rows},
    {"own_damaged", a_node_with_own_rot, damaged_rows},
    {"incarnation", a_node, incarnation},
    {"the_rest", a_node, the_rest},
    {"backup", a_node, backup},
    {"newcomer", a_node, newcomer},
    {"misled", a_newcomer, misled},
};
enum { SCENARIOS = sizeof scenarios / sizeof *scenarios };

/* ---- one case ---- */

typedef struct prepared {
    const scenario *of;
    disk_image *disk;
    world world;
} prepared;

typedef struct one_case {
    disk_fault fault;
    uint64_t k, seed;
    end end;
} one_case;

enum { OPERATIONS_MAX = 1 << 14 };
typedef struct trace {
    uint64_t n;
    disk_op kinds[OPERATIONS_MAX]; /* from 1 */
} trace;

static void trace_take(trace *t) {
    t->n = disk_count();
    for (uint64_t k = 1; k <= t->n && k < OPERATIONS_MAX; k++)
        t->kinds[k] = disk_kind(k);
}

static void lose(end how, uint64_t seed) {
    static const disk_keep keep[] = {DISK_KEEP_ALL, DISK_KEEP_NONE, DISK_KEEP_SOME, DISK_KEEP_JUNK};
    if (how == END_KILL)
        disk_heal();
    else
        disk_power_loss(keep[how], seed);
}

/* The node goes on, and everything it does succeeds. */
static void go_on(world *w) {
    node_say(w, PD_STREAM_GRADIENTS, 130);
    node_hear(w, 6500);
    node_checkpoint(w);
    node_say(w, PD_STREAM_CONTROL, 20);
    node_maintain(w, 61000);
    node_say(w, PD_STREAM_GRADIENTS, 1100);
}

static void judge_backup(world *w) {
    if (w->backup)
        world_integrity(w, DISK_DIR "/copy.db");
}

/* "" or what was wrong.  trace, or NULL: the scenario's operations. */
static const char *run_case(const prepared *p, const one_case *c, bool lies, trace *out) {
    static world w;
    w = p->world;
    disk_load(p->disk);
    disk_lies(lies);
    disk_arm(c->fault, c->k);
    p->of->run(&w);
    if (out)
        trace_take(out);
    node_kill(&w);
    if (c->fault != DISK_HEALTHY)
        w.restored_may_be = c->fault != DISK_POWER;
    lose(c->end, c->seed);
    world_judge(&w);
    if (w.store) {
        go_on(&w);
        node_kill(&w);
        lose(END_NONE, 0);
        w.restored_may_be = false;
        judge_backup(&w);
        world_judge(&w);
        node_close(&w);
    }
    if (!*w.failure)
        world_integrity(&w, DISK_DIR "/ledger.db");
    disk_clear();
    return w.failure;
}

static void prepare(prepared *p, const scenario *of) {
    p->of = of;
    disk_clear();
    world_new(&p->world);
    of->before(&p->world);
    p->disk = disk_save();
}

/* ---- all cases ---- */

typedef struct tally {
    unsigned cases, failures;
    unsigned draws; /* of what is lost, where some is */
} tally;

static void try_case(const prepared *p, const one_case *c, tally *t) {
    const char *failure = run_case(p, c, false, NULL);
    t->cases++;
    if (!*failure)
        return;
    if (t->failures++ < FAILURES_MAX)
        printf("%s\n  again: test_power %s %s %llu %s %llu\n", failure, p->of->name,
               fault_names[c->fault], (unsigned long long)c->k, end_names[c->end],
               (unsigned long long)c->seed);
}

static bool applies(disk_fault f, disk_op op) {
    switch (f) {
    case DISK_HEALTHY:
        return false;
    case DISK_EIO:
        return true;
    case DISK_SHORT:
        return op == DISK_WRITE;
    case DISK_FULL:
        return op == DISK_WRITE || op == DISK_NAME;
    case DISK_POWER: /* before one that only reads is before the next that writes */
    case DISK_ENOSPC:
        return op == DISK_WRITE || op == DISK_NAME || op == DISK_SYNC;
    }
    return false;
}

static void try_power(const prepared *p, uint64_t k, tally *t) {
    for (end e = END_ALL; e <= END_JUNK; e++)
        for (unsigned seed = 1; seed <= (e < END_SOME ? 1 : t->draws); seed++)
            try_case(p, &(one_case){DISK_POWER, k, seed * 1000 + k, e}, t);
}

static void try_faults(const prepared *p, uint64_t k, disk_op op, tally *t) {
    for (disk_fault f = DISK_EIO; f <= DISK_FULL; f++) {
        if (!applies(f, op))
            continue;
        try_case(p, &(one_case){f, k, 0, END_KILL}, t);
        try_case(p, &(one_case){f, k, 0, END_NONE}, t);
    }
}

static unsigned sweep(const scenario *of, unsigned draws) {
    static const one_case healthy = {DISK_HEALTHY, 0, 0, END_NONE};
    static trace first, second;
    prepared p;
    tally t = {.draws = draws};
    uint64_t began = pd_clock_ms();
    prepare(&p, of);
    char failure[256];
    snprintf(failure, sizeof failure, "%s", run_case(&p, &healthy, false, &first));
    if (*failure)
        printf("without a fault: %s\n", failure), t.failures++;
    (void)run_case(&p, &healthy, false, &second);
    if (first.n >= OPERATIONS_MAX || first.n != second.n ||
        memcmp(first.kinds, second.kinds, sizeof first.kinds) != 0)
        printf("two runs differ: %llu and %llu operations\n", (unsigned long long)first.n,
               (unsigned long long)second.n),
            t.failures++;
    for (uint64_t k = 1; k <= first.n && t.failures < FAILURES_MAX && !*failure; k++) {
        if (applies(DISK_POWER, first.kinds[k]))
            try_power(&p, k, &t);
        try_faults(&p, k, first.kinds[k], &t);
    }
    try_power(&p, first.n + 1, &t);
    printf("%-16s %5llu operations, %6u cases, %u failed, %.1f s\n", of->name,
           (unsigned long long)first.n, t.cases, t.failures,
           (double)(pd_clock_ms() - began) / 1000);
    disk_image_free(p.disk);
    return t.failures;
}

static const scenario *find(const char *name) {
    for (size_t i = 0; i < SCENARIOS; i++)
        if (strcmp(scenarios[i].name, name) == 0)
            return &scenarios[i];
    return NULL;
}

static int index_of(const char *const *names, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -1;
}

static int again(char **argv) {
    prepared p;
    const scenario *of = find(argv[1]);
    int f = index_of(fault_names, FAULTS, argv[2]), e = index_of(end_names, ENDS, argv[4]);
    if (!of || f < 0 || e < 0) {
        fprintf(stderr, "test_power: SCENARIO FAULT K END SEED\n");
        return 2;
    }
    prepare(&p, of);
    one_case c = {(disk_fault)f, strtoull(argv[3], NULL, 10), strtoull(argv[5], NULL, 10), (end)e};
    const char *failure = run_case(&p, &c, false, NULL);
    printf("%s\n", *failure ? failure : "nothing is wrong");
    disk_image_free(p.disk);
    return *failure ? 1 : 0;
}

/* A disk that says synced and is not: what was acknowledged must be found missing. */
static int lying_disk(void) {
    prepared p;
    unsigned found = 0;
    prepare(&p, find("own_seals"));
    for (uint64_t k = 50; k < 150; k++) {
        const char *failure = run_case(&p, &(one_case){DISK_POWER, k, k, END_NONE}, true, NULL);
        found += strncmp(failure, "S3:", 3) == 0;
    }
    printf("a disk that lies about syncs: found in %u of 100 losses of power\n", found);
    disk_image_free(p.disk);
    return found > 50 ? 0 : 1;
}

int main(int argc, char **argv) {
    unsigned failures = 0, draws = 2;
    if (pd_crypto_init())
        return 1;
    pd_log_set(getenv("PD_SAY") ? PD_LOG_INFO : PD_LOG_ERROR);
    setvbuf(stdout, NULL, _IOLBF, 0);
    disk_register();
    world_init();
    if (argc == 6)
        return again(argv);
    if (argc == 2 && strcmp(argv[1], "--lying-disk") == 0)
        return lying_disk();
    int first = 1;
    if (argc > 1 && strcmp(argv[1], "--all") == 0)
        draws = 16, first++;
    for (int i = first; i < argc; i++)
        if (!find(argv[i])) {
            fprintf(stderr, "test_power: no scenario %s\n", argv[i]);
            return 2;
        }
    for (size_t i = 0; i < SCENARIOS; i++)
        if (first == argc ||
            index_of((const char *const *)argv + first, argc - first, scenarios[i].name) >= 0)
            failures += sweep(&scenarios[i], draws);
    return failures ? 1 : 0;
}
