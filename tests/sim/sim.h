/* sim.h - a swarm of gossip cores in one thread: one seed, virtual time, one heap of events.
 *
 * Everything outside the core is played here, with what can go wrong in it: paths (path.c), disks
 * (disk.c), processes (node.c, drive.c), members that turn against the others (evil.c).  Chains,
 * seals' layout, codec and replay are the real ones.  Faults are a numbered list made from the seed
 * before the run (plan.c); most are pure functions of time, so that leaving one out (--drop) moves
 * no other and a failing run can be shrunk.  watch.c checks what must never happen, judge.c what
 * must have happened once the faults are over.
 *
 * All numbers are whole, every draw is a statement of its own and nothing is found by address, so a
 * seed gives the same trace under every compiler.
 */
#ifndef SIM_H
#define SIM_H

#include "peerd/core.h"
#include "peerd/frame.h"
#include "peerd/identity.h"
#include "peerd/manifest.h"
#include "peerd/replay.h"
#include "peerd/rng.h"

#include "../net/ckpt_file.h"

enum {
    COORDS = 64,     /* of the model that logs are folded into */
    WORDS_KEPT = 50, /* trace lines printed after a failure */
};

#define NOBODY UINT32_MAX /* no node, log or author of that number */

/* Exit codes, one for each kind of failure. */
enum { OK = 0, SAFETY = 10, LIVENESS = 11, BOUND = 12, CRASHED = 13, UNEQUAL = 14, NO_JUDGE = 20 };

/* ---- randomness: a tree of seeds ---- */

/* The seed of one part of the world: XXH3(name and number, seed).  Parts do not disturb each other.
 */
uint64_t seed_of(uint64_t seed, const char *name, uint64_t number);
static inline pd_rng rng_of(uint64_t seed, const char *name, uint64_t number) {
    return (pd_rng){seed_of(seed, name, number)};
}
uint64_t draw(pd_rng *r, uint64_t lo, uint64_t hi); /* [lo, hi] */
bool percent(pd_rng *r, unsigned p);
/* lo..hi with equal weight to each doubling: rates and times span decades. */
uint64_t draw_log(pd_rng *r, uint64_t lo, uint64_t hi);

/* ---- faults ---- */

typedef enum fault_kind {
    /* paths */
    F_DELAY,
    F_RATE,
    F_LOSS,
    F_RESET,
    F_HALF_OPEN,
    F_PARTITION,
    F_ISOLATE,
    F_FLAP,
    F_CLOG,
    F_SLOW_READER,
    /* nodes */
    F_CRASH,
    F_PAUSE,
    F_SLOW_CPU,
    F_RESTART_ALL,
    F_RESTORE,
    F_CLONE,
    /* stores */
    F_LATENCY,
    F_FULL,
    F_EIO,
    F_STALL,
    F_LIE,
    F_ROT,
    /* members that turn against the others */
    F_EQUIVOCATE,
    F_BAD_SEAL,
    F_PROMISE,
    F_GARBAGE,
    F_STORM,
    F_REPLAY,
    F_SILENT,
    /* what people do */
    F_STOP,
    F_LEAVE,
    F_BAN,
    F_ROTATE,
    F_CKPT,       /* asks for a checkpoint */
    F_FALSE_CKPT, /* a member makes a false one, or stands by it */
    F_KINDS,
} fault_kind;
extern const char *const fault_name[F_KINDS];

typedef struct fault {
    fault_kind kind;
    bool dropped, begun;
    uint64_t at, end; /* in force in [at, end) */
    uint32_t node;    /* where, for the kinds that have a place */
    uint64_t seed;    /* its own */
    uint64_t arg;
} fault;

/* ---- a broken world ---- */

/* A check that has never failed proves nothing: these break the world around the core, one law
 * each.  Only in the build with planted bugs. */
typedef enum broken {
    BROKEN_NOTHING,
    BROKEN_COMMIT,   /* stored is said before it is durable */
    BROKEN_APPEND,   /* bytes are stored one too late */
    BROKEN_DIGEST,   /* a replica adds one */
    BROKEN_WIRE,     /* a bit turns over on the way */
    BROKEN_TRUST,    /* the same, once a member has turned */
    BROKEN_PEACE,    /* honest frames are called noise */
    BROKEN_GATE,     /* whose ticket it was is forgotten */
    BROKEN_ENTROPY,  /* the clock gets into the random numbers */
    BROKEN_PATH,     /* two nodes never reach each other */
    BROKEN_DISKS,    /* all disks lose their last seal */
    BROKEN_STORE,    /* the stores take nothing any more, after the faults */
    BROKEN_SESSIONS, /* sessions break all the time, after the faults */
    BROKEN_BOUND,    /* agreement has to be there at once */
    BROKEN_PROCESS,  /* an assert */
    BROKEN_SILENCE,  /* nobody makes a record: nothing is there to judge */
    BROKEN_JUSTICE,  /* a member who did nothing is banned */
    BROKEN_MERCY,    /* records that are void are kept in one replica */
    BROKEN_VOID,     /* a node is told of void records that are none */
    BROKEN_BARS,     /* sessions with who is banned are not closed */
    BROKEN_RULE,     /* the rule says one step too many */
    BROKEN_ATTEST,   /* whatever others attest is attested */
    BROKEN_KINDS,
} broken;
#ifdef PD_PLANTED
#define BROKEN(s, what) ((s)->o.broken == (what))
#else
#define BROKEN(s, what) false
#endif

/* ---- what was sealed and seen ---- */

typedef struct seal_at {
    uint64_t n;
    uint8_t seal[64];
} seal_at;

/* One log as its author sealed it.  Nodes that hold it hold a length; bytes are kept once. */
typedef struct truth {
    pd_author author;
    uint32_t owner; /* node */
    uint8_t stream;
    bool forked; /* more than one version is out: its author was cloned, turned or forgot ... */
    uint64_t fork_from; /* ... and they may part from this byte on */
    uint8_t *bytes;
    uint64_t n, room; /* sealed */
    uint64_t seen;    /* held by somebody: another byte for such a step breaks S1 */
    uint64_t kept;    /* durable where nothing is forgotten: must be everywhere in the end (L2) */
    seal_at *seals;
    uint32_t n_seals, room_seals;
    uint64_t *born; /* of each seal, ms: for latencies (--table) */
} truth;

/* A log of one node's own version, for authors with more than one. */
typedef struct version {
    uint8_t *bytes;
    uint64_t room;
    uint8_t seal[64], durable_seal[64], shadow_seal[64];
} version;

/* Of a log that was in the checkpoint which its node began with. */
typedef struct beginning {
    uint64_t folded;  /* records of it in the checkpoint's model */
    uint64_t base;    /* bytes before it are not held, 0: all are ... */
    uint8_t mark[32]; /* ... and the chain there */
    bool wrong;       /* of what came of them so far, some are not the author's */
} beginning;

typedef struct slog {
    uint64_t n, durable, shadow; /* shadow: as of the snapshot */
    version *own;                /* NULL: as in truth */
    uint64_t cut;                /* records from step cut - 1 on do not count; 0: all do */
    uint64_t folded;             /* records in the node's model */
    beginning *begun;            /* NULL: it was in none */
} slog;

/* ---- nodes ---- */

typedef struct sim sim;
typedef struct evil evil;
typedef struct tally tally;

typedef struct ticket {
    uint32_t inviter; /* NOBODY: none yet */
    uint8_t guest[32];
    bool spent;
} ticket;

typedef struct node {
    sim *world;
    uint32_t index, twin; /* twin: whose key this clone has, or NOBODY */
    uint32_t epoch;       /* processes so far */
    pd_identity id;
    uint64_t secret; /* of the cheap signature */
    pd_rng r;
    bool up, member, gone, evil_now, forgets; /* forgets: a fault makes its store forget */
    bool restored, spoke, ended;              /* ended: PD_ACT_FATAL */
    bool forked;                              /* more than one process wrote with this key ... */
    bool copied;                              /* ... and may still do so */
    bool banned;                              /* by its people */
    uint64_t ban_from;                        /* at the least, in its first incarnation */
    uint32_t successor;             /* whom it passes its place on to, NOBODY: to nobody */
    bool rotates, heard, passed_on; /* its next key is named; others know it; it is in force */
    bool out;                       /* by the rule: no member any more */
    bool solo;                      /* nobody else is left: it speaks without listening */
    uint64_t busy_until, tick_at, uplink_us, started, commit_at;
    pd_core *core;
    pd_join *join;
    void *arena, *join_arena;
    evil *puppet;
    uint32_t incarnation, next_incarnation, shadow_incarnation;
    bool shadow_taken;
    slog *logs; /* by log number */
    int32_t model[COORDS];
    bool hold;                /* a newcomer that looks for a checkpoint to begin with, ... */
    bool begun;               /* ... or has found one, ... */
    int32_t began_at[COORDS]; /* ... with this model */
    uint64_t hold_until, got; /* got: bytes of the one that is wanted */
    uint32_t want;            /* NOBODY: none */
    uint64_t ckpts,
        judged;    /* those that it serves, and those that it has looked at: one bit each */
    bool asked;    /* to make one */
    ckpt_lie lies; /* what is wrong with its next one */
    uint32_t n_logs;
    uint32_t *dirty, n_dirty, room_dirty;
    ticket ticket;
    uint64_t gap_ms,
        phase_ms; /* mean time between records; time of one idle or busy phase, 0: always busy */
    uint64_t *sessions;
    uint32_t n_sessions, room_sessions;
    uint32_t stage_bytes; /* of the core's own for a log that catches up: often hardly any */
    uint32_t seal_records, members_max; /* 0: as usual; else few, and tables that just suffice */
    uint8_t *room[PD_STAGES];           /* for longer gaps */
    uint64_t pulls;                     /* sent, for L5 */
    uint64_t bytes_out,
        data_out; /* on the wire, framing included; of them in frames with segments */
} node;

/* ---- paths ---- */

typedef struct packet packet;
struct packet {
    packet *next;
    size_t n;
    bool noise; /* sent only to disturb: it must change nothing (S10) */
    uint8_t bytes[];
};

typedef struct last_pull {
    uint64_t at, from;
} last_pull;

typedef struct pipe_end {
    uint64_t session;
    uint32_t node, epoch;
    bool open;   /* this end knows the session, or will soon */
    bool up;     /* it was told so */
    bool doomed; /* nothing sent from here arrives any more */
    bool told;   /* a DOWN is on its way to it */
    pd_rng r;
    uint64_t last;         /* nothing from here arrives before what was sent before */
    packet *first, **tail; /* on its way to this end */
    packet *held;          /* the frame that the driver keeps: the way is full */
    uint64_t flight;       /* bytes on their way from here */
    uint32_t *alias;       /* of the watcher: log numbers by this end's aliases */
    uint64_t *at;          /* end of the last segment, by this end's log numbers */
    last_pull *pulled;
    uint32_t n_alias;
    pd_author *base; /* whom this end knew when it said HELLO, in their order */
    uint32_t n_base;
    uint64_t memb_hash; /* and what it said of them */
} pipe_end;

typedef struct pipe_state {
    bool guest;
    pipe_end end[2];
} pipe_state;

/* ---- the world ---- */

typedef enum event_kind {
    W_TICK,
    W_FRAME,
    W_UP,
    W_DOWN,
    W_DIAL_FAILED,
    W_STORED,
    W_GRADIENT,
    W_COMMIT,
    W_FAULT,
    W_FAULT_END,
    W_START,
    W_JOIN,
    W_EVIL,
    W_BARRED,
    W_PASSED,
    W_INSTALL,
    W_INSTALLED
} event_kind;

typedef struct happening {
    uint64_t at, seq;
    event_kind kind;
    uint32_t node, epoch;
    uint64_t a, b, c;
    uint8_t *p;
    size_t n;
} happening;

/* One row of the table; 0: as table.c has it for so many nodes. */
typedef struct table_options {
    uint32_t records_a_seal; /* K */
    uint32_t authors;        /* nodes that make records; 0: all */
    uint32_t settle;         /* rounds of K records before; all authors have sealed in the second */
    uint32_t rounds;         /* that are measured */
    uint32_t dies;           /* percent of the nodes that die at once when measuring begins */
    uint32_t repair_ms;      /* T_rep is this, whatever the core has measured */
    bool thin;               /* every node's line is said to be thin */
    bool large;              /* the rows of a thousand nodes and more */
    bool json;
} table_options;

/* Worlds without faults but one: pairs.c compares them. */
typedef enum pair_kind {
    PAIR_NONE,
    PAIR_EVEN,     /* none */
    PAIR_THIN,     /* the last member is on a thin line */
    PAIR_SILENT,   /* ... is stopped */
    PAIR_SLOW,     /* ... reads slowly */
    PAIR_LATE,     /* ... lacks a long log, and all lines are thin */
    PAIR_OVERLOAD, /* all lines are thinner than the records need */
} pair_kind;

/* What a command line asks for. */
typedef struct options {
    uint64_t seed, until_ms; /* until 0: drawn */
    uint32_t nodes;          /* 0: drawn */
    uint8_t *drop;           /* by fault number; NULL: none */
    uint32_t n_drop;
    uint64_t epoch_ms; /* added to every time that a core sees */
    bool ed25519, tracing;
    bool table; /* no faults but those of the table's path; all are members from the start */
    table_options t;
    pair_kind pair;
    uint64_t node_hours; /* of each run; 0: drawn */
    const char *trace_path;
    broken broken;
} options;

/* A checkpoint file, somewhere in the world. */
typedef struct ckpt {
    uint8_t *p;
    size_t n;
    pd_ckpt_name name;
    ckpt_lie lie;
    bool told, right; /* what the bytes that nodes share say of it: the same to everyone */
} ckpt;
enum { CKPTS_MAX = 24 };

struct sim {
    options o;
    uint64_t now, seq, until, planned, trace; /* planned: the until that the seed has */
    bool healed, working;                     /* working: nodes make records */
    pd_manifest manifest;
    char manifest_text[PD_MANIFEST_MAX];
    size_t manifest_bytes;
    uint8_t run[32];
    pd_replay replay;
    fault *faults;
    uint32_t n_faults;
    uint32_t *by_kind;              /* fault numbers: by kind, each in the order of time ... */
    uint32_t first_of[F_KINDS + 1]; /* ... from here on */
    uint64_t longest[F_KINDS];      /* of a kind, ms */
    node *nodes;
    uint32_t n_nodes, n_members; /* clones come behind the members */
    truth *truths;               /* by log number: 2 author + stream */
    uint32_t n_authors, room_authors;
    uint32_t *author_of; /* author number by node and incarnation, NOBODY: not yet */
    pipe_state **pipes;
    size_t n_pipes, room_pipes;
    happening *heap;
    size_t n_heap, room_heap;
    pd_action *actions;
    uint64_t buffer_bytes;                         /* a session's, before it clogs */
    uint32_t seal_ms;                              /* 0: by the core's own formula */
    uint64_t steps, frames, bytes, records, forks; /* forks: logs of which versions may be out */
    bool distrust;    /* a member turned, or a key was copied: some counts cannot be judged */
    bool ckpts;       /* checkpoints are made, attested and begun with ... */
    uint64_t ckpt_ms; /* ... each so long after the last, 0: only where somebody asks */
    ckpt ckpt[CKPTS_MAX];
    uint32_t n_ckpts;
    uint64_t begun, refused; /* newcomers, and checkpoints by them */
    bool strict;             /* something was taken from somebody: the rule has to be looked up */
    /* table */
    void (*on_accept)(sim *s, const node *n, const truth *t, uint64_t from, uint64_t to);
    tally *tally;
    uint64_t segment_bytes;
    uint64_t *waits; /* pairs: ms from a seal to another's store */
    uint32_t n_waits, room_waits;
    bool saw_segment; /* in the frame watched last */
    /* the verdict */
    int code;
    char law[8], failure[256];
    char (*words)[160];
    uint64_t n_words;
    void *trace_file;
};

sim *sim_open(const options *o);
void sim_close(sim *s);
/* Run events up to `until`, or to a failure. */
void sim_run(sim *s, uint64_t until);
/* The whole run: faults, healing, steady state.  The verdict is in code, law and failure. */
void sim_judge(sim *s);
void sim_fail(sim *s, int code, const char *law, const char *fmt, ...) PD_PRINTF(4, 5);
/* A line of the trace; costs nothing unless tracing. */
void sim_say(sim *s, const char *fmt, ...) PD_PRINTF(2, 3);
void sim_last_words(const sim *s);
void sim_mix(sim *s, uint64_t v);
/* Good until the next push: fill in what the event needs, but not its time. */
happening *sim_push(sim *s, uint64_t at, event_kind kind, uint32_t node);
node *sim_node_of(sim *s, const uint8_t key[32]); /* the member of that key, or NULL */
void *grow(void *p, uint32_t *room, uint32_t n,
           size_t size); /* zeroed; out of memory ends the process */

/* plan.c */
void plan_make(sim *s);
bool fault_in_force(const sim *s, const fault *f, uint64_t at);
/* The faults of one kind in force at a time; a run of hours has thousands of others. */
typedef struct fault_walk {
    const sim *s;
    uint64_t at;
    uint32_t next, end;
} fault_walk;
fault_walk fault_walk_of(const sim *s, fault_kind kind, uint64_t at);
const fault *fault_walk_next(fault_walk *w); /* NULL: no more */
/* The first fault of a kind in force at a node now, or NULL. */
const fault *fault_at(const sim *s, fault_kind kind, uint32_t where);
void fault_begin(sim *s, uint32_t number);
void fault_end(sim *s, uint32_t number);

/* path.c */
pipe_end *path_end(sim *s, uint64_t session);
static inline pipe_end *path_other(sim *s, uint64_t session) {
    return path_end(s, ((session - 1) ^ 1) + 1);
}
void path_dial(sim *s, node *from, const uint8_t key[32], const pd_addr *addr);
/* True: the way is full; the frame is kept and PD_EV_CLOGGED is due. */
bool path_send(sim *s, node *from, uint64_t session, const uint8_t *p, size_t n, bool noise);
/* The frame that arrives now; NULL: none does.  Frees with free. */
packet *path_arrive(sim *s, uint64_t session);
/* After an arrival there may be room for what was kept: true if it left. */
bool path_flows(sim *s, uint64_t session);
void path_close(sim *s, node *from, uint64_t session);
void path_down(sim *s, pipe_end *e); /* it has been told */
void path_reset(sim *s, pd_rng *r, uint32_t node, bool half_open);
void path_crash(sim *s, node *n, pd_rng *r, bool silent);
bool path_blocked(const sim *s, uint32_t from, uint32_t to, uint64_t at);
uint64_t path_wire_bytes(size_t n); /* of a frame: ZMTP, CURVE, TCP and IP included */
uint32_t path_rate(const sim *s);   /* bytes/s of the thinnest uplink; 0: no limit */

/* disk.c */
uint32_t log_number(sim *s, const pd_author *a,
                    uint8_t stream); /* NOBODY: a key that is nobody's */
slog *disk_log(sim *s, node *n, uint32_t log);
size_t disk_read(sim *s, const node *n, uint32_t log, uint64_t from, uint8_t *out, size_t room);
void disk_seal(sim *s, const node *n, uint32_t log, uint8_t seal[64]);
void disk_sealed(sim *s, node *n, uint32_t log, uint64_t from, const uint8_t *p, size_t size,
                 const uint8_t seal[64]);
void disk_append(sim *s, node *n, uint32_t log, uint64_t from, const uint8_t *p, size_t size,
                 const uint8_t seal[64]);
void disk_commit(sim *s, node *n);
void disk_lose(sim *s, node *n); /* what is not durable */
void disk_snapshot(sim *s, node *n);
void disk_restore(sim *s, node *n);
void disk_rot(sim *s, node *n, pd_rng *r); /* one log of another author is found damaged */
void disk_copy(sim *s, node *to, const node *from);
void disk_forget(sim *s); /* bytes that nobody holds any more cannot be known */
void disk_lose_last_seals(sim *s);
/* The log begins at this mark, unless more of it is held. */
void disk_begin(sim *s, node *n, const pd_ckpt_log *at);
/* The first byte held. */
static inline uint64_t disk_base(const slog *l) {
    return l->begun ? l->begun->base : 0;
}
bool disk_is_whole(const sim *s, const node *n);
/* What lies before a log's base comes, in order, and is all here. */
void disk_prefix(sim *s, node *n, const pd_action *a);
void disk_free(node *n);
/* Two versions of this node's logs may part behind what it holds durably: each node keeps its own.
 */
void disk_fork(sim *s, node *n);

/* node.c */
void node_init(sim *s, uint32_t i);
void node_start(sim *s, node *n);
void node_try_join(sim *s, node *n); /* and again later, until it is a member */
void node_start_again(sim *s, node *n);
void node_end_process(node *n);
void node_free_rooms(node *n);
void node_crash(sim *s, node *n, pd_rng *r, bool silent);
void node_turn(sim *s, node *n, const fault *f); /* against the others */
void node_clone(sim *s, node *n, const fault *f);
void node_halt(sim *s, node *n);
void node_digest(sim *s, node *n, uint8_t out[16]);
void node_fold(sim *s, node *n, uint32_t log); /* what counts of a log, no more and no less */
void node_pass_on(sim *s, node *n);            /* the same machine goes on under its next key */
pd_addr node_addr(const node *n);
void node_sign(node *n, const void *msg, size_t size, uint8_t sig[64]);
bool node_verify(void *any_node, const uint8_t pub[32], const void *msg, size_t size,
                 const uint8_t sig[64]);

/* drive.c */
enum { COMMIT_MS = 1000, EPOCH_MS = 1000000000 };
/* A core's time: the world's, behind a start of its own (S13) that is long ago for every wait. */
static inline uint64_t core_time(const sim *s) {
    return s->now + EPOCH_MS + s->o.epoch_ms;
}
void node_step(sim *s, node *n, const pd_event *e);
void node_happen(sim *s, node *n, happening *h);

/* ckpt.c */
void ckpt_joined(sim *s, node *n); /* a newcomer: does it look for one? */
/* A second has passed for a running node: it makes one, judges another's, or looks for one. */
void ckpt_turn(sim *s, node *n);
size_t ckpt_read(const node *n, const uint8_t digest[16], uint64_t offset, uint8_t *out,
                 size_t room, uint64_t *total);
void ckpt_piece(sim *s, node *n, const pd_action *a);
void ckpt_installed(sim *s, node *n, const pd_action *a);
void ckpt_go_on(sim *s, node *n, event_kind kind); /* W_INSTALL, W_INSTALLED */
void ckpt_pass_on(node *to, const node *from);

/* evil.c */
evil *evil_open(sim *s, node *n, const fault *f);
void evil_close(evil *e);
void evil_up(evil *e, uint64_t session);
void evil_down(evil *e, uint64_t session);
void evil_frame(evil *e, uint64_t session, const uint8_t *p, size_t n);
void evil_act(evil *e); /* now and then */

/* watch.c */
void watch_frame(sim *s, node *from, uint64_t session, const uint8_t *p, size_t n);
void watch_free(pipe_end *e);
void watch_speaking(sim *s, node *n);
void watch_note(sim *s, const node *n, const char *text);
void watch_core(sim *s, node *n);

/* rule.c: what follows from the control logs that a node holds */
typedef struct rule {
    bool *admitted, *banned;    /* by node */
    uint64_t *void_at, *counts; /* by log: one log so far, by evidence; what counts of it */
    uint32_t n_logs;
} rule;
void rule_find(sim *s, node *from, rule *r);
void rule_free(rule *r);

/* justice.c: evidence, bans and rotation */
void justice_void(sim *s, node *n, const pd_action *a);
void justice_deny(sim *s, node *n, const uint8_t key[32]);
void justice_barred(sim *s, node *n, const happening *h); /* 5 s later */
void justice_ban(sim *s, uint32_t fault);
void justice_rotate(sim *s, node *n);

/* judge.c */
bool judge_converged(sim *s, char *why, size_t room);
void judge_liveness(sim *s);
void judge_steady(sim *s);

/* table.c */
void table_plan(sim *s);    /* how long, and how many records a seal */
void table_members(sim *s); /* everyone knows everyone before the first process starts */
void table_configure(const sim *s, const node *n, pd_core_conf *conf);
void table_started(sim *s, node *n); /* its process runs: when it makes its first record */
void table_frame(sim *s, const uint8_t *p, size_t n);
uint32_t table_place(sim *s, node *from, uint32_t to); /* the node that is dialled by an address */
int table_print(const options *o);

/* pairs.c */
void pairs_plan(sim *s,
                void (*add)(void *ctx, fault_kind kind, uint32_t where, uint64_t at, uint64_t arg),
                void *ctx);
int pairs_judge(const options *o);

#endif
