/* mesh.h - many gossip cores in one process: one seed, virtual time, one heap of events.
 *
 * Everything outside the core is played here: the network (delay, sessions that die with what was
 * in flight, one-way partitions, back-pressure), the store (what is committed survives, the rest
 * does not), crashes, pauses, restored backups, joins by ticket, and a peer that changes bytes it
 * relays, one that
 * signs two logs, one that is banned.  Chains, seals' layout, codec and replay are the real ones.
 * A watcher reads every frame and checks what must never happen.
 */
#ifndef MESH_H
#define MESH_H

#include "peerd/core.h"
#include "peerd/frame.h"
#include "peerd/identity.h"
#include "peerd/manifest.h"
#include "peerd/replay.h"

enum { NODES_MAX = 40, AUTHORS_MAX = NODES_MAX * 4, LOGS_MAX = AUTHORS_MAX * PD_STREAMS };
enum { INVITES_MAX = 16, COORDS = 64, ROOM_MAX = 1 << 20 };

typedef struct rng {
    uint64_t s;
} rng;
uint64_t rng_next(rng *r);
uint64_t rng_below(rng *r, uint64_t n); /* [0, n) */
uint64_t rng_between(rng *r, uint64_t lo, uint64_t hi);
bool rng_percent(rng *r, unsigned p);

typedef struct slog { /* one log at one node; bytes [0, durable) survive a crash */
    pd_author author;
    uint8_t stream;
    uint8_t *bytes;
    uint64_t n, durable, room;
    uint8_t seal[64], durable_seal[64];
    uint64_t void_at; /* as the core has said */
    uint64_t base;    /* bytes before it are not held */
    uint8_t mark[32]; /* the chain there */
    uint64_t begun;   /* records of it in the checkpoint that the node began with */
} slog;

typedef struct snapshot {
    bool taken;
    uint32_t n_logs, incarnation;
    uint64_t n[LOGS_MAX];
    uint8_t seal[LOGS_MAX][64];
} snapshot;

typedef struct invite {
    uint8_t guest[32];
    uint64_t id;
    bool spent;
} invite;

typedef struct mesh mesh;

/* A checkpoint file, somewhere in the world. */
typedef struct file {
    uint8_t *p;
    size_t n;
    pd_ckpt_name name;
} file;

enum { FILES_MAX = 24 };

typedef struct node {
    mesh *net;
    uint32_t index, epoch; /* epoch: processes so far */
    pd_identity id;
    uint64_t secret; /* of the cheap signature */
    rng r;
    bool up, member, left, restored, ever_restored, liar, stopping, banned;
    bool denied[NODES_MAX]; /* whom its transport refuses */
    bool two_faced;         /* shows every other node another log of its first incarnation ... */
    uint64_t fork_at;       /* ... from this step on */
    uint64_t paused_until, disk_full_until, tick_at;
    pd_core *core;
    pd_join *join;
    void *arena, *join_arena;
    uint8_t *stage[PD_STAGES];
    uint32_t incarnation, next_incarnation; /* next: durable with the next commit */
    slog logs[LOGS_MAX];
    uint32_t n_logs;
    invite invites[INVITES_MAX];
    uint32_t n_invites;
    uint32_t ticket_from; /* the inviter of the ticket it joins with */
    uint8_t guest[32];
    snapshot snap;
    uint64_t rate_ms; /* mean time between own records */
    uint64_t file_got;
    uint64_t clogged[PD_SESSIONS_MAX]; /* sessions, to be told after this step */
    uint32_t n_clogged;
    bool file_bad;
    /* mesh_ckpt.c */
    bool hold; /* a newcomer who looks for a checkpoint */
    uint64_t hold_until;
    uint32_t files;     /* held, one bit each */
    uint32_t looked_at; /* judged, one bit each */
    uint32_t want;      /* the file being fetched; FILES_MAX: none */
    uint64_t want_got;
    bool begun, lied_to;
    int32_t a[COORDS]; /* of the checkpoint it began with */
} node;

typedef struct pipe_end {
    uint64_t session;
    uint32_t node, epoch;
    bool open;     /* this end knows the session */
    bool doomed;   /* nothing sent from here arrives any more */
    uint64_t last; /* FIFO: nothing from here arrives before */
    uint64_t clogged_until;
    pd_author alias[AUTHORS_MAX], base[AUTHORS_MAX]; /* base: what it knew when it said HELLO */
    uint32_t n_base;
    uint64_t memb_hash;
    bool hello;
    uint64_t at[LOGS_MAX]; /* end of the last segment, by alias */
    uint64_t face_at;      /* of the two-faced log, as it leaves */
} pipe_end;

typedef struct pipe_state {
    bool guest;
    pipe_end end[2];
} pipe_state;

typedef enum what {
    W_TICK,
    W_FRAME,
    W_UP,
    W_DOWN,
    W_DIAL_FAILED,
    W_STORED,
    W_FLOWING,
    W_GRADIENT,
    W_LAZY,
    W_INSTALL,
    W_INSTALLED,
    W_FAULT
} what;

typedef struct happening {
    uint64_t at, seq;
    what kind;
    uint32_t node, epoch;
    uint64_t a, b, c;
    uint8_t *p;
    size_t n;
    uint8_t seal[64];
    pd_author author;
} happening;

typedef struct truth { /* what the world has seen of a log */
    pd_author author;
    uint8_t stream;
    uint8_t *bytes;
    uint64_t n, room;
    uint64_t kept; /* durable somewhere that never loses it: must be everywhere in the end */
} truth;

struct mesh {
    uint64_t seed, now, seq, trace;
    rng r;
    bool ed25519, faults, quiet;
    uint32_t bans; /* written so far */
    bool ckpts;    /* checkpoints are made, attested and begun with */
    bool forged;   /* the liar's have a false mark instead of false coordinates */
    file file[FILES_MAX];
    uint32_t n_files, n_begun, n_refused;
    pd_manifest manifest;
    char manifest_text[PD_MANIFEST_MAX];
    size_t manifest_bytes;
    uint8_t run[32];
    pd_replay replay;
    node nodes[NODES_MAX];
    uint32_t n_nodes;
    pipe_state *pipes;
    size_t n_pipes, room_pipes;
    happening *heap;
    size_t n_heap, room_heap;
    bool blocked[NODES_MAX][NODES_MAX];
    uint64_t delay[NODES_MAX][NODES_MAX];
    truth truths[LOGS_MAX];
    uint32_t n_truths;
    uint64_t steps, frames, bytes, records;
    char failure[256]; /* "" while all is well */
    pd_action actions[PD_ACTIONS_MAX];
};

void mesh_fail(mesh *m, const char *fmt, ...) PD_PRINTF(2, 3);
void mesh_mix(mesh *m, uint64_t v);
happening *mesh_push(mesh *m, uint64_t at, what kind, uint32_t node);
bool mesh_pop(mesh *m, happening *out);

/* mesh_evil.c */
/* What a two-faced node sends instead, in place. */
void evil_two_faces(mesh *m, node *n, uint64_t session, uint8_t *frame, size_t size);
/* Is this log one that nobody can agree on behind its fork? */
bool evil_is_forked(const mesh *m, const pd_author *a, uint8_t stream);
/* Is the node in the run, as the founder sees it? */
bool evil_is_in(const mesh *m, uint32_t i);
/* The founder bans a node; false: not now. */
bool evil_ban(mesh *m, uint32_t i);
/* S7: every void is somebody's fault, exactly where it began; the same everywhere. */
bool evil_voids_are_right(mesh *m, char *why, size_t room);
uint64_t evil_counts(const node *n, const slog *l); /* bytes of a log that count at a node */

/* mesh_ckpt.c */
/* A second has passed for a running node: it makes checkpoints, judges those of others, or looks
 * for one. */
void ckpt_turn(mesh *m, node *n);
/* A file of what the node holds, attested by it; a liar's is wrong. */
void ckpt_make(mesh *m, node *n);
/* Attest whatever it is. */
void ckpt_attest(mesh *m, node *n, uint32_t which);
void ckpt_piece(mesh *m, node *n, const pd_action *a);
void ckpt_installed(mesh *m, node *n, const pd_action *a);
void ckpt_go_on(mesh *m, node *n, const happening *h); /* W_INSTALL, W_INSTALLED */
void ckpt_prefix(mesh *m, node *n, const pd_action *a);
size_t ckpt_file(const node *n, const uint8_t digest[16], uint64_t offset, uint8_t *out,
                 size_t room, uint64_t *total);
bool ckpt_is_whole(const node *n);
/* The model's coordinates from the checkpoint begun with, or from the base model.  False: bytes
 * before a base are needed. */
bool ckpt_coords(mesh *m, const node *n, bool from_base, int32_t a[COORDS]);

/* net.c */
void net_dial(mesh *m, node *from, const pd_action *a);
void net_send(mesh *m, node *from, uint64_t session, const uint8_t *p, size_t n);
void net_close(mesh *m, node *from, uint64_t session);
void net_kill(mesh *m, size_t pipe);       /* a TCP reset: what was in flight is lost */
void net_turn_out(mesh *m, const node *n); /* the newcomers who are just being admitted by n */
void net_crash(mesh *m, uint32_t index);   /* all its sessions */
pipe_end *net_end(mesh *m, uint64_t session);
static inline pipe_end *net_other(mesh *m, uint64_t session) {
    return net_end(m, ((session - 1) ^ 1) + 1);
}
void net_watch(mesh *m, node *from, uint64_t session, const uint8_t *p, size_t n);

/* node.c */
void node_init(mesh *m, uint32_t i);
void node_start(mesh *m, node *n); /* a process: a core from what is durable */
void node_join(mesh *m, node *n, uint32_t inviter);
void node_crash(mesh *m, node *n);
void node_step(mesh *m, node *n, const pd_event *e);
void node_commit(mesh *m, node *n);
void node_take_snapshot(node *n);
void node_restore(mesh *m, node *n);
void node_stored(mesh *m, node *n, const happening *h);
slog *node_log(node *n, const pd_author *a, uint8_t stream, bool make);
void node_digest(mesh *m, const node *n, uint8_t out[16]);
void node_sign(node *n, const void *msg, size_t size, uint8_t sig[64]);
truth *mesh_truth(mesh *m, const pd_author *a, uint8_t stream);

/* a file that every member can serve, to test pieces */
enum { FILE_BYTES = 300001 };
uint8_t file_byte(uint64_t at);

/* mesh_world.c */
enum fault {
    F_KILL_THIS,
    F_KILL,
    F_BLOCK,
    F_UNBLOCK,
    F_CRASH,
    F_START,
    F_PAUSE,
    F_DISK,
    F_SNAPSHOT,
    F_RESTORE,
    F_JOIN,
    F_STOP,
    F_BAN
};
/* A fault of the world at a time; a and c as the fault reads them. */
void mesh_fault_at(mesh *m, uint64_t at, enum fault f, uint32_t n, uint64_t a, uint64_t c);
void mesh_make_run(mesh *m);       /* its manifest, once the nodes are there */
void mesh_start(mesh *m, node *n); /* a member that does not run */
/* All faults are over and nothing new is made. */
void mesh_heal(mesh *m);

mesh *mesh_open(uint64_t seed);
void mesh_close(mesh *m);
/* Run until `until` or a failure. */
void mesh_run(mesh *m, uint64_t until);
bool mesh_converged(mesh *m, char *why, size_t room);

#endif
