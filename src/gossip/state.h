/* state.h - what a core holds, and the parts of it that call each other.  Private to src/gossip.
 *
 *   recv ─> sync, tree, own, members, guest, fetch ─> send      one step: an event comes in, then
 *   link (sessions, health, credits)   view, dial               every part looks at the time, then
 *                                                               frames leave
 *
 * All of it lies in one arena, its tables sized by the configuration when it is opened (table.c);
 * there are no pointers but to the arena, the configuration and the event at hand.  Everything is
 * an array and is walked in index order, so a run repeats.  What happens to one log costs a step
 * the same whatever the number of authors: each link has sets of the logs it has something to say
 * of.
 */
#ifndef PD_GOSSIP_STATE_H
#define PD_GOSSIP_STATE_H

#include "peerd/core.h"
#include "peerd/frame.h"
#include "peerd/identity.h"
#include "peerd/log.h"
#include "verdict.h"

#define PD_NEVER UINT64_MAX

/* Bugs planted on purpose, in a build for one test only: they show that the test network finds such
 * bugs. */
#ifdef PD_PLANTED
extern int pd_planted;
#define PD_BUG(n) (pd_planted == (n))
#else
#define PD_BUG(n) false
#endif
enum {
    PD_BUG_SEND_UNSTORED = 1,
    PD_BUG_NO_LISTENING,
    PD_BUG_NO_SEAL,
    PD_BUG_KEEP_SENT,
    PD_BUG_HEADS_AS_OWN,    /* what a peer told of is told on as held */
    PD_BUG_NO_PATIENCE,     /* 50 ms between repairs, and as many as there are */
    PD_BUG_FAILED_STORED,   /* a store that failed counts as done */
    PD_BUG_VOID_FIRST,      /* the evidence met first counts, not that of the least step */
    PD_BUG_ALIAS_KEPT,      /* authors are numbered with those who came in after HELLO */
    PD_BUG_CKPT_UNATTESTED, /* a checkpoint is installed whoever says that it is right */
};

enum {
    PD_NONE = 0xffff, /* no member, author, log or link of that number */

    PD_FRAME_MS = 200,       /* at most one frame a link in this time, in a mesh ... */
    PD_FRAME_VIEW_MS = 1000, /* ... in a partial view: more of it shares one frame's overhead ... */
    PD_FRAME_THIN_MS = 2000, /* ... and on a thin line that is busy */
    PD_THIN_BYTES = 16000,   /* bytes/s of a thin line: 128 kbit/s */
    PD_BUSY_MS = 10000,      /* whether it is busy is measured over so long: */
    PD_BUSY_PERCENT = 40,    /* more than this part of what a 64 kbit/s line carries */
    PD_LAZY_MS = 5000,       /* HEADS wait, +-25 %: most bytes come down a tree */
    PD_LAZY_OBSERVER_MS = 30000,
    PD_LAZY_MESH_MS = 10000, /* in a mesh they ride on a frame, and go alone only after this:
                                authors send to everyone themselves */
    PD_REPAIR_MS = 6000,     /* first wait for bytes that should be on their way, until measured */
    PD_REPAIR_LEAST_MS = 3000,
    PD_REPAIR_MOST_MS = 60000,
    PD_REPAIR_MAX_MS = 300000, /* a repair that brings nothing is tried ever later, up to this */
    PD_LONG_MS = 30000,  /* for the next piece of a long gap: four links may share a line on which
                            one frame takes 2 s, behind what its queues hold */
    PD_GRAFT_MS = 50,    /* a log that has no tree yet: as soon as somebody has it */
    PD_GRAFT_TRIES = 3,  /* the third repair in a row that the tree did not spare us */
    PD_REPAIRS_MAX = 64, /* open pulls */
    PD_SYNC_MS = 30000,  /* SUMMARY rides on the next frame after this, +-20 % ... */
    PD_SYNC_ALONE_MS = 60000, /* ... and goes alone after this */
    PD_QUIET_MS = 10000,      /* nothing grew: whoever still differs is told all */
    PD_VV_MS = 1800000,       /* and once in this time also while everything moves */
    PD_PACE_MS = 60000, /* a link that does not hold the pace of its trees so long gets none */
    PD_PING_MS = 15000,
    PD_SUSPECT_MS = 30000,
    PD_DEAD_MS = 45000,
    PD_LATE_MS = 2000,        /* woken so much too late: the fault is here, not at the others */
    PD_HELLO_WAIT_MS = 15000, /* a session without HELLO is closed */
    PD_GUEST_MS = 60000,
    PD_BYE_MS = 300, /* time for a BYE to leave before the session closes */

    PD_WINDOW_MIN = 4096, /* credits: unacknowledged bytes a session, clamp(2 * rate * rtt, ...) */
    PD_WINDOW_START = 16384,
    PD_WINDOW_MAX = 262144,
    PD_ACK_BYTES = 2048, /* unacknowledged bytes that call for a frame; half the smallest window */

    /* Two live processes with one key: each waits, drawn below this, before it goes on under the
     * next incarnation, and the first to do so stays.  Ten times what a seal takes to get about. */
    PD_RETREAT_MS = 30000,

    PD_LISTEN_PEERS = 3,
    PD_LISTEN_MS = 60000,           /* after the first comparison */
    PD_LISTEN_RESTORED_MS = 300000, /* after the first, for a store that was copied */

    PD_MESH_BACK = 14, /* so few again: back to a mesh; less than PD_MESH_MAX, so that it holds */
    PD_VIEW_LINKS = 6,
    PD_VIEW_LINKS_MAX = 8,
    PD_VIEW_LINKS_MIN = 4,
    PD_VIEW_OWN = 3,      /* of them dialled by ourselves: nobody else chooses these */
    PD_VIEW_FEW = 2,      /* who has fewer is taken even where there is no place */
    PD_COMPARES_MAX = 4,  /* sessions only to compare */
    PD_OBSERVERS_MAX = 8, /* of a view; with its links and those to compare, all that there are */
    PD_SURVEY_MS = 5000,
    PD_FILL_MS = 30000,      /* between calls for a link more than the least: places may be rare */
    PD_ROTATE_MS = 1800000,  /* +-20 %: one link is replaced by another */
    PD_COMPARE_MS = 300000,  /* +-20 %: somebody who is not linked is asked what it holds, ... */
    PD_COMPARE_MEMBERS = 64, /* ... for each so many members so much more rarely, ... */
    PD_COMPARE_RARE = 6,     /* ... up to this many times */
    PD_COMPARE_LASTS_MS = 30000,
    PD_FRESH_MS = 3600000, /* heard of within this time: a neighbour to choose */

    PD_DIAL_MS = 1000,
    PD_DIAL_MAX_MS = 600000,
    PD_DIAL_GONE_MS = 3600000, /* a member silent for a day is still called, once an hour */
    PD_DIAL_LATER_MS = 3000,   /* the higher key waits, so that one of the two dials */
    PD_DIAL_LOST_MS = 60000,   /* an answer of the driver that never came */
    PD_DIAL_ORPHAN_MS = 3000,  /* a link is replaced within this, not by all its orphans at once */
    PD_DIAL_FULL_MS = 60000,   /* a node that had no place is not asked again before */
    PD_GOOD_SESSION_MS = 60000,

    PD_PASS_MS = 3000, /* a peer that has seen a ROTATE has stored it too after this */
    PD_PASS_PEERS = 3, /* so many that keep it are enough in any run */

    PD_AWAY_MS = 900000,
    PD_GONE_MS = 86400000,

    PD_STAGE_BYTES = 1 << 20,
    PD_STAGE_IDLE_MS = 300000,
    PD_STRANGERS_MAX = 16, /* aliases a link remembers whose member is not known yet */
    PD_ALLOWS_MAX = 64,    /* members told to the transport in one step */
    PD_HEADS_MAX = 2048,   /* in one HEADS or VV; the next one goes on */
    PD_OUT_BYTES = 65536,  /* frames built in one step; more wait for the next */
    PD_NOTES_MAX = 16,
    PD_SAID_MAX = 64,     /* items about forks in one step */
    PD_FILE_ASK = 131072, /* bytes of a file asked for at a time, the next while these come:
                             together the largest window, so that the credit is the limit */
    PD_FILE_MS = 30000,
    PD_PREFIX_ASK = 65536,     /* the same of bytes before a base */
    PD_CKPT_RANK_MS = 60000,   /* whose turn it is has so long before the next in order */
    PD_CKPT_AGAIN_MS = 600000, /* and tries again after this, if nothing came of it */
};

/* A set of logs: one bit each, walked in order. */
static inline bool pd_set_has(const uint64_t *set, uint32_t i) {
    return set[i / 64] >> i % 64 & 1;
}
static inline void pd_set_add(uint64_t *set, uint32_t i) {
    set[i / 64] |= UINT64_C(1) << i % 64;
}
static inline void pd_set_remove(uint64_t *set, uint32_t i) {
    set[i / 64] &= ~(UINT64_C(1) << i % 64);
}
/* The first member at or after `from`, or `end`. */
uint32_t pd_set_next(const uint64_t *set, uint32_t from, uint32_t end);

/* Where a log's chain stands; the tail since the last whole chunk is read from the ledger. */
typedef struct pd_mark {
    uint8_t c[32];
    uint64_t n;
} pd_mark;

/* One log: one stream of one author. */
typedef struct pd_log {
    pd_mark chain;     /* chain.n: verified bytes; own: durable ones */
    uint64_t held;     /* of them, those that can be read in this step */
    uint64_t counted;  /* of them, those in vv_hash and total: before the void step */
    uint64_t goal;     /* the most that any link told of */
    uint64_t told_ms;  /* since when there was something beyond chain.n */
    uint64_t grown_ms; /* when it grew last, or was new here */
    uint64_t base;     /* first byte held; 0 but of gradients after a checkpoint */
    pd_log_verdict v;
    /* the pull that is open, or when to look for one */
    uint64_t pull_ms;    /* none open: look from here on; open: give up then */
    uint16_t pull, last; /* link asked, link asked before; PD_NONE */
    uint16_t parent;     /* the link whose tree we hang on; PD_NONE */
    uint8_t late;        /* times in a row that a pull was needed though there is a parent */
    uint32_t backoff_ms;
} pd_log;

typedef struct pd_author_state {
    pd_author id;
    uint16_t member, next; /* next: another incarnation of that member; PD_NONE */
    bool broken;           /* its control log cannot be read on */
    uint64_t parsed;       /* control bytes read */
    pd_log log[PD_STREAMS];
} pd_author_state;

typedef struct pd_member {
    uint8_t key[32];
    char name[PD_NAME_MAX + 1];
    uint64_t invite;
    uint16_t author; /* the first of its incarnations */
    uint16_t issuer; /* who admitted it first; PD_NONE: nobody, the founder */
    bool left;
    pd_ckpt_name ckpt[2]; /* the last two that it attests, the newest first; size 0: none */
    pd_member_verdict v;
    pd_addr addrs[PD_ADDRS_MAX], hints[PD_ADDRS_MAX];
    uint32_t n_addrs, n_hints, next_addr;
    bool dialing, compare; /* compare: that dial is not for a link */
    bool full;             /* it had no place when it was asked last */
    bool lost;        /* a link with it ended without a word, and nothing of it has come since */
    uint64_t dial_ms; /* next attempt, or when this one began */
    uint32_t backoff_ms;
    uint64_t heard_ms; /* of anything of it: a frame, or its log moved */
    uint64_t bytes_in, bytes_out;
    pd_addr last_addr;
} pd_member;

enum {
    PD_EAGER = 1, /* what comes new of this log is sent unasked */
    PD_SERVE = 2, /* asked for: send until our head */
    PD_ASK = 4,   /* a PULL is to be sent; from 0 ... */
    PD_ASK_ALL = 8,
    PD_GRAFT = 16,  /* ... or a GRAFT */
    PD_PRUNE = 32,  /* a PRUNE is to be sent */
    PD_BAD = 64,    /* a seal of this log failed here: not asked again in this session */
    PD_SHOWN = 128, /* the author was shown what we hold instead */
    PD_WAITS = 256, /* our own log, so far ahead at the session's start that the peer asks for it */
    PD_BASED = 512, /* the peer has told that what it holds begins behind our head */
    PD_SAY_BASE = 1024,  /* a BASE is to be sent */
    PD_SAID_BASE = 2048, /* the peer was told one above 0 */
    PD_NO_PREFIX =
        4096, /* what it sent of the bytes before our base was not right, or it has none */
};

/* One log as seen over one session. */
typedef struct pd_link_log {
    uint64_t mark;   /* bytes of frames sent when the last SEG was in: has it been seen? */
    uint32_t peer;   /* the peer has told that it holds this much */
    uint32_t sent;   /* next byte to send */
    uint32_t tx_end; /* end of the last SEG out, for `start` */
    uint16_t flags;
} pd_link_log;

/* An author that a peer named and whose member we do not know yet. */
typedef struct pd_stranger {
    pd_author id;
    uint16_t alias;
    uint32_t n[PD_STREAMS]; /* the peer holds so much */
} pd_stranger;

typedef struct pd_link {
    uint64_t session; /* 0: free */
    uint8_t key[32];  /* a guest's one-time CURVE key */
    uint16_t member;
    bool outbound, guest, hello_out, hello_in, vv_in, vv_out, clogged, suspect;
    bool compare;  /* a session only to compare */
    bool observer; /* the peer is one */
    bool want;     /* there may be something to send */
    bool blocked;  /* the last frame was cut by the credit ... */
    bool full;     /* ... or by its own size: the next need not wait */
    bool vv_due, vv_want, vv_again, pong_due, ping_due, summary_due;
    uint64_t nonce;
    uint64_t up_ms, heard_ms, sent_ms, bye_ms;
    uint64_t heads_ms, sync_ms;        /* when due; 0: HEADS have no reason */
    uint64_t blocked_ms;               /* since when without a break; 0: it is not */
    uint64_t rx, tx, acked, acked_out; /* bytes; acked_out: the ack last sent */
    uint32_t window, rtt_ms, rate;     /* rate: bytes/s while the window was the limit */
    uint64_t rate_ms, rate_acked;
    uint32_t ping_nonce, pong_nonce;
    uint64_t ping_ms;           /* 0: none open */
    uint32_t pings;             /* since something was heard */
    uint64_t vv_ms, compare_ms; /* compare: heads of a log that may be forked */
    uint32_t
        vv_next; /* the log, by our aliases, that the next part of a VV begins with; 0: the first */
    uint64_t claim_ms; /* listening: since when it has claimed more of our own log than we hold */
    uint64_t claim_n;
    uint64_t duplicates, answer_ms; /* answer: bytes came that it was asked for */
    uint32_t pulls;                 /* open, of it */
    uint32_t turn;                  /* where the next frame starts to look at logs */
    pd_link_verdict v;
    /* guest */
    uint64_t invite;
    bool spent, joined;
    uint8_t subject[32];
    pd_addr addr;
    uint64_t welcomed;
    /* file */
    bool file_due;
    uint8_t file[16];
    uint64_t file_next, file_end;
    /* bytes of a log's beginning, unsealed */
    bool prefix_due;
    uint32_t prefix_log;
    uint64_t prefix_next, prefix_end;

    /* aliases: numbers of authors in this session.  The first n_base are common to both ends. */
    uint32_t base_n;               /* authors known when HELLO left, ... */
    uint64_t base_hash, peer_hash; /* ... and what the two HELLOs said of them */
    uint32_t n_base, n_out, again; /* again: aliases from here on are to be said once more */
    pd_stranger stranger[PD_STRANGERS_MAX];
    uint32_t n_strangers;
    bool missed; /* more strangers than these */

    /* rows of conf.members_max; NULL for guests */
    uint16_t *in;     /* (authors) our author by the peer's alias */
    uint16_t *out;    /* (authors) our alias by our author */
    uint16_t *by_out; /* (authors) and back */
    uint32_t *rx_end; /* (logs) end of the last SEG in, by the peer's number of the log */
    pd_link_log *log; /* (logs) */
    uint64_t *due;    /* sets of logs: bytes to send, ... */
    uint64_t *tell;   /* ... heads to tell, ... */
    uint64_t *ask;    /* ... PULL, GRAFT or PRUNE to send */
} pd_link;

/* Unsealed bytes of a log that is catching up: bytes [base, base + have) of it. */
typedef struct pd_stage {
    uint16_t log;  /* PD_NONE: free */
    uint16_t link; /* whose bytes; PD_NONE: more than one peer's */
    bool done;     /* handed to the driver; free at the next step */
    uint64_t base, have, touched_ms;
    uint8_t *bytes; /* the arena's, or the driver's room */
    size_t room;
    bool lent; /* the latter */
} pd_stage;

/* Own bytes on their way to the store. */
typedef struct pd_pending {
    uint8_t *bytes;            /* the core's `gradients` or `control` */
    uint32_t room, n, storing; /* the first `storing` are sealed and handed over */
    uint8_t seal[64];
    uint64_t since_ms, retry_ms; /* retry 0: the store is at work */
    uint32_t backoff_ms;
} pd_pending;

typedef struct pd_own {
    uint16_t author; /* current incarnation */
    pd_voice voice;
    bool conflict; /* another log under our name is proven: next incarnation as soon as the store is
                      idle */
    bool sealed[PD_STREAMS]; /* this process has sealed something in the current incarnation's
                                stream */
    bool opened;             /* this process has opened an incarnation */
    uint64_t retreat_ms;     /* two live processes: the next one is not opened before */
    bool flush, addr_written;
    bool leave, leave_written, said_bye, done;
    uint64_t first_ms; /* of the first comparison with a peer; 0: none yet */
    uint64_t stop_ms;
    uint64_t said_ms; /* when own bytes became durable last */
    uint64_t
        heard_ms; /* since when enough peers have all of the own control log; 0: they have not */
    bool rotates, passed; /* a ROTATE is written; PD_ACT_PASSED was given */
    pd_pending pending[PD_STREAMS];
} pd_own;

/* Which members to be linked with. */
typedef struct pd_view {
    bool mesh;
    uint32_t counted; /* members neither left nor gone, self included, at the last survey */
    uint32_t here;    /* of them, those heard of lately */
    uint64_t survey_ms, dial_ms; /* when to look at all members again */
    uint64_t rotate_ms, compare_ms;
    uint64_t orphan_ms; /* a lost link is not replaced before */
    uint64_t fill_ms;   /* nor is a link beyond the least dialled before */
    bool rotating;      /* one link more than wanted: when it is up another goes */
    uint16_t suggested[PD_ALTERNATIVES_MAX]; /* members that a full node named */
    uint32_t n_suggested;
} pd_view;

typedef struct pd_fetch {
    bool on;
    uint8_t digest[16];
    uint64_t next, total, asked_end; /* asked_end: up to here asked of `link` */
    uint16_t link, last; /* asked now, PD_NONE: nobody; asked last: the next in turn follows */
    uint64_t until_ms;
} pd_fetch;

/* Bytes before a base on their way here: one log after the other. */
typedef struct pd_prefix {
    pd_fetch f; /* of `log`, to its base */
    uint32_t log, turn;
    pd_chain chain;   /* over what has come */
    bool mixed;       /* of more than one peer */
    uint32_t n_based; /* logs that begin at a base */
} pd_prefix;

/* When a checkpoint is due. */
typedef struct pd_attest {
    pd_ckpt_name newest; /* the last that was heard of, and when; also when this process began */
    uint64_t since_ms, tried_ms;
} pd_attest;

struct pd_core {
    pd_core_conf conf; /* members_max, stage_bytes and the rest with their defaults filled in */
    pd_core_crypto crypto;
    pd_core_log store;
    uint64_t now, wake, calm_ms; /* calm: nobody is declared dead before */
    uint64_t nonce;

    uint32_t members_max, authors_max, n_slots;
    pd_member *member;          /* (members_max) in the order of admission */
    uint32_t n_members, n_told; /* told: ALLOW was given */
    uint16_t *slot;             /* (n_slots) member + 1 by key, open addressing; 0: free */
    uint16_t self;
    pd_author_state *author; /* (authors_max) */
    uint16_t *order;         /* (authors_max) authors by (key, inc) */
    uint32_t n_authors;
    uint32_t fresh[PD_ACTIONS_MAX]; /* logs whose held < n since this step */
    uint32_t n_fresh;
    uint64_t vv_hash, memb_hash, total;
    uint64_t grown_ms; /* a log grew */

    bool judge_due; /* what counts has to be found anew */
    bool strict;    /* there are records that take something from somebody */
    bool untold;    /* the driver has not been told of all that follows */
    bool unproved;  /* some evidence stands only where it does not count */
    pd_fork fork[PD_FORKS_MAX];
    pd_report report;

    pd_own own;
    pd_view view;
    pd_fetch fetch;
    pd_prefix prefix;
    pd_attest attest;
    bool installed; /* logs begin at marks since this step: not to be read before the next */
    pd_stage stage[PD_STAGES];
    uint8_t *stage_arena;   /* (PD_STAGES, conf.stage_bytes) */
    uint64_t *lack;         /* set of the logs whose goal > n */
    uint64_t repair_ms;     /* when to look at them */
    uint32_t repairs, turn; /* turn: the link that the next step's frames begin with */
    uint32_t gap_ms,
        gap_var_ms; /* from hearing of bytes to having them by the tree; 0: not measured */
    uint64_t busy_ms, busy_bytes; /* the line's use is measured from here */
    bool busy;
    uint64_t used; /* set of the links that have a session: most places are empty in a view */
    pd_link link[PD_SESSIONS_MAX];

    uint64_t bytes_in, bytes_out, frames_in, frames_out, bad_seals, bad_frames, duplicates,
        duplicate_bytes;

    /* this step */
    pd_action *out;
    size_t n_out, max_out;
    uint32_t n_notes;
    size_t frames_used;
    uint32_t n_said; /* items about forks */

    uint64_t welcome_session; /* whose welcome is in `welcome`; 0: nobody's */
    size_t welcome_size, welcome_room;
    uint8_t *welcome;

    /* Room for bytes, written before they are read: what no run has needed yet costs no memory, so
     * it is not cleared when a core is opened.  It begins with `gradients`. */
    uint8_t gradients[PD_PENDING_MAX], control[PD_CONTROL_ROOM]; /* own, pending */
    uint8_t record[PD_RECORD_ROOM], branch[PD_BRANCH_MAX];
    uint8_t branches[PD_FORKS_MAX][PD_BRANCH_MAX], evidence[PD_EVIDENCE_MAX]; /* fork, report */
    char notes[PD_NOTES_MAX][PD_TEXT_MAX];
    uint8_t frames[PD_OUT_BYTES];
    uint8_t piece[PD_PIECE_MAX];
    pd_head heads[PD_HEADS_MAX]; /* of the HEADS or VV being written */
};

/* table.c */
uint32_t pd_authors_of(uint32_t members_max);
/* Lay the tables out behind `c` and return the bytes of all; c NULL: only count. */
size_t pd_table_lay(const pd_core_conf *conf, pd_core *c);
void pd_table_clear_link(pd_core *c, pd_link *l); /* its rows, for a new session */
void pd_table_order(pd_core *c, uint16_t author); /* a new author takes its place in `order` */
uint16_t *pd_table_slot(const pd_core *c, const uint8_t key[32]); /* a member's, or the free one */
/* A log's whole chain; false while its last bytes cannot be read yet. */
bool pd_chain_of(pd_core *c, uint32_t log, pd_chain *out);
static inline uint32_t pd_logs(const pd_core *c) {
    return c->n_authors * PD_STREAMS;
}

/* core.c */
pd_action *pd_emit(pd_core *c, pd_action_kind kind);
/* A line for people; returns its text, or "" when too many were written in this step. */
const char *pd_note(pd_core *c, pd_log_level level, const char *fmt, ...) PD_PRINTF(3, 4);
uint64_t pd_jitter(pd_core *c, uint64_t ms, unsigned percent); /* ms +- percent */
/* Look again at `ms`. */
static inline void pd_wake_at(pd_core *c, uint64_t ms) {
    if (ms < c->wake)
        c->wake = ms;
}
const char *pd_short(const uint8_t key[32], char out[9]);

/* members.c */
uint16_t pd_member_find(const pd_core *c, const uint8_t key[32]);
/* Add a member; PD_NONE if the table is full. */
uint16_t pd_member_add(pd_core *c, const uint8_t key[32], uint64_t invite, const char *name);
void pd_member_hint(pd_member *m, const pd_addr *a);
uint16_t pd_author_find(const pd_core *c, const pd_author *a);
/* Find or add an author whose key is a member's. */
uint16_t pd_author_get(pd_core *c, const pd_author *a);
/* The same for one that a peer has only named: a later incarnation is added once that before it has
 * signed something, so that names alone cannot fill the table.  PD_NONE: not yet. */
uint16_t pd_author_named(pd_core *c, const pd_author *a);
/* Read what came new into an author's control log. */
void pd_members_read(pd_core *c, uint16_t author);
void pd_members_tick(pd_core *c);
pd_member_state pd_member_state_of(const pd_core *c, const pd_member *m, uint64_t now);

static inline pd_log *pd_log_at_index(pd_core *c, uint32_t log) {
    return &c->author[log / PD_STREAMS].log[log % PD_STREAMS];
}
/* Nothing that lies behind what is held can belong to it: it is forked before. */
static inline bool pd_log_is_closed(const pd_log *log) {
    return log->chain.n >= log->v.void_at;
}
static inline bool pd_member_is_out(const pd_member *m) {
    return m->v.banned || !m->v.admitted;
}
static inline bool pd_is_own(const pd_core *c, uint32_t log) {
    return c->author[log / PD_STREAMS].member == c->self;
}

/* own.c */
void pd_own_gradient(pd_core *c, const pd_event *e);
void pd_own_stored(pd_core *c, const pd_event *e);
void pd_own_store_failed(pd_core *c, const pd_event *e);
void pd_own_stop(pd_core *c, bool leave);
/* Queue a control record; false if it cannot be written now. */
bool pd_own_write(pd_core *c, const pd_control *rec);
void pd_own_show_life(pd_core *c); /* nothing said for long: a BEACON */
void pd_own_tick(pd_core *c);
uint64_t pd_own_seal_ms(const pd_core *c);
/* Verified bytes of our own that we did not have: go on behind them.  False: they must not be
 * taken. */
bool pd_own_adopt(pd_core *c, uint16_t author, uint8_t stream);
/* A log under our name that is not ours is proven. */
void pd_own_conflict(pd_core *c, uint16_t author);
uint32_t pd_own_heard(const pd_core *c);
uint32_t pd_own_wanted(const pd_core *c);

/* sync.c */
/* A log has grown to chain->n: count it, close its pull, tell those who may not know. */
void pd_log_grown(pd_core *c, uint32_t log, const pd_chain *chain);
/* Nothing more of a log is wanted. */
void pd_sync_enough(pd_core *c, uint32_t log);
void pd_sync_segment(pd_core *c, pd_link *l, uint32_t log, uint64_t start, const pd_item *it);

/* heads.c */
/* The peer holds n bytes of a log. */
void pd_heads_note(pd_core *c, pd_link *l, uint32_t log, uint64_t n);
void pd_heads_take(pd_core *c, pd_link *l, const pd_item *it);
void pd_heads_summary(pd_core *c, pd_link *l, uint64_t vv_hash, uint64_t total, bool hello);
/* Put what has to be told of; false: something did not fit. */
bool pd_heads_put_vv(pd_core *c, pd_link *l, pd_writer *w);
bool pd_heads_put(pd_core *c, pd_link *l, pd_writer *w);
/* How long what came here is left to the trees before this link is told of it: longer where frames
 * are rare, and so trees slow. */
uint64_t pd_heads_wait(pd_core *c, const pd_link *l);
/* When HEADS of this link leave: on a frame that leaves anyway, or alone; PD_NEVER. */
uint64_t pd_heads_due(const pd_core *c, const pd_link *l, bool alone);
void pd_heads_tick(pd_core *c);

/* alias.c */
void pd_alias_base(pd_core *c, pd_link *l); /* both HELLOs are out and in */
void pd_alias_take(pd_core *c, pd_link *l, uint32_t alias, const pd_author *a);
/* Our author behind a peer's alias, or PD_NONE. */
uint16_t pd_alias_author(const pd_core *c, const pd_link *l, uint32_t alias);
/* A peer's log number as ours, or PD_NONE. */
uint32_t pd_alias_log(const pd_core *c, const pd_link *l, uint32_t theirs);
/* A stranger's bytes: remembered until its member is known. */
void pd_alias_note(pd_link *l, uint32_t theirs, uint64_t n);
void pd_alias_admitted(pd_core *c, uint16_t author); /* its aliases mean something now */
void pd_alias_proven(pd_core *c, uint16_t author);   /* so may those of the next incarnation */
/* Make sure that the peer knows our alias of an author; false: it does not fit. */
bool pd_alias_announce(pd_core *c, pd_link *l, pd_writer *w, uint32_t author);
static inline uint32_t pd_alias_number(const pd_link *l, uint32_t log) { /* of a log, announced */
    return (uint32_t)l->out[log / PD_STREAMS] * PD_STREAMS + log % PD_STREAMS;
}

/* tree.c */
bool pd_tree_pushes(const pd_core *c, const pd_link *l, uint32_t log); /* unasked, over this link */
void pd_tree_due(pd_core *c, pd_link *l, uint32_t log); /* it may have bytes of this log to send */
void pd_tree_begin(pd_core *c, pd_link *l); /* the peer's state is known: what it lacks can leave */
/* Nothing of this log has come for so long that its tree may end at a link which is gone. */
bool pd_tree_is_stale(const pd_core *c, uint32_t log);
/* There is more of a log than we hold: when to ask. */
void pd_tree_lacks(pd_core *c, pd_link *l, uint32_t log);
void pd_tree_arrived(pd_core *c, pd_link *l, uint32_t log); /* new bytes */
void pd_tree_duplicate(pd_core *c, pd_link *l, uint32_t log);
void pd_tree_staged(pd_core *c, pd_link *l, uint32_t log); /* new bytes, their seal still to come */
/* A long gap was filled by this link: the author, who did not push it, is told where to go on. */
void pd_tree_caught_up(pd_core *c, pd_link *l, uint32_t log);
void pd_tree_pull(pd_core *c, pd_link *l, const pd_item *it, uint64_t ack);
void pd_tree_prune(pd_core *c, pd_link *l, uint32_t theirs);
void pd_tree_ask(pd_link *l, uint32_t log, uint16_t flags);
void pd_tree_close_pull(pd_core *c, uint32_t log);
void pd_tree_look(pd_core *c, uint32_t log, uint64_t ms); /* look at a log's repair at ms */
void pd_tree_lost(pd_core *c, pd_link *l);
void pd_tree_tick(pd_core *c);
bool pd_tree_put(pd_core *c, pd_link *l, pd_writer *w); /* PULL, GRAFT, PRUNE */

/* stage.c */
pd_stage *pd_stage_find(pd_core *c, uint32_t log);
/* Add bytes [start, start + count); a new stage begins at `base`.  NULL: no room, or a gap. */
pd_stage *pd_stage_add(pd_core *c, const pd_link *l, uint32_t log, uint64_t base, uint64_t start,
                       const uint8_t *bytes, size_t count);
void pd_stage_drop(pd_core *c, pd_stage *s);
void pd_stage_tick(pd_core *c);

/* recv.c */
void pd_recv(pd_core *c, const pd_event *e);

/* link.c */
pd_link *pd_link_find(pd_core *c, uint64_t session);
pd_link *pd_link_of(pd_core *c, uint16_t member); /* with HELLO in, or NULL */
static inline bool pd_link_used(const pd_core *c, unsigned i) {
    return pd_set_has(&c->used, i);
}
static inline uint16_t pd_link_index(const pd_core *c, const pd_link *l) {
    return (uint16_t)(l - c->link);
}
void pd_link_up(pd_core *c, const pd_event *e);
void pd_link_down(pd_core *c, pd_link *l);
void pd_link_close(pd_core *c, pd_link *l, const char *why); /* the session too */
void pd_link_bye(pd_core *c, pd_link *l, pd_bye why);        /* say so, then close */
void pd_link_hello(pd_core *c, pd_link *l, const pd_hello *h);
void pd_link_heard(pd_core *c, pd_link *l, size_t n, uint64_t ack);
void pd_link_pong(pd_core *c, pd_link *l, uint32_t nonce);
void pd_link_tick(pd_core *c);
void pd_link_bye_full(pd_core *c, pd_link *l);      /* the same, naming others */
static inline bool pd_link_live(const pd_link *l) { /* a member's, past its HELLO */
    return l->session && !l->guest && l->hello_in && !l->bye_ms;
}

/* view.c */
uint64_t pd_view_frame_ms(const pd_core *c, const pd_link *l); /* T_frame */
uint32_t pd_view_links(const pd_core *c); /* live ones that are not only to compare */
uint32_t pd_view_wanted(const pd_core *c);
void pd_view_changed(pd_core *c); /* who is a member, or where: look again */
/* A member's HELLO is in.  False: there is no place for it; the link is closing. */
bool pd_view_takes(pd_core *c, pd_link *l, const pd_hello *h);
void pd_view_refused(pd_core *c, const pd_link *l, const pd_item *bye);
void pd_view_alternatives(pd_core *c, const pd_link *l, pd_item *bye);
void pd_view_tick(pd_core *c);
/* Somebody to dial for a link (or to compare with), or PD_NONE. */
uint16_t pd_view_choose(pd_core *c, bool compare);
/* A lost neighbour to call now, or PD_NONE; *ms: when the next one is due. */
uint16_t pd_view_lost(const pd_core *c, uint64_t *ms);

/* dial.c */
void pd_dial_start(pd_core *c, pd_member *m);
void pd_dial_soon(pd_core *c, uint64_t ms); /* look at whom to dial at ms */
void pd_dial_up(pd_core *c, pd_member *m);
void pd_dial_down(pd_core *c, pd_member *m, uint64_t lasted_ms);
void pd_dial_failed(pd_core *c, const uint8_t key[32]);
void pd_dial_compare(pd_core *c, uint16_t member);
bool pd_dial_has_session(const pd_core *c, uint16_t member);
void pd_dial_tick(pd_core *c);

/* guest.c */
void pd_guest_join(pd_core *c, pd_link *l, const pd_item *it);
void pd_guest_tick(pd_core *c);
bool pd_guest_fill(pd_core *c, pd_link *l, pd_writer *w); /* false: there is more than fits */

/* fetch.c */
void pd_fetch_start(pd_core *c, const pd_event *e);
void pd_fetch_asked(pd_core *c, pd_link *l, const pd_item *it);
void pd_fetch_piece(pd_core *c, pd_link *l, const pd_item *it);
void pd_fetch_lost(pd_core *c, const pd_link *l);
void pd_fetch_tick(pd_core *c);
bool pd_fetch_fill(pd_core *c, pd_link *l, pd_writer *w);

/* prefix.c */
void pd_prefix_asked(pd_core *c, pd_link *l, const pd_item *it);
void pd_prefix_piece(pd_core *c, pd_link *l, const pd_item *it);
void pd_prefix_lost(pd_core *c, const pd_link *l);
void pd_prefix_tick(pd_core *c);
bool pd_prefix_fill(pd_core *c, pd_link *l, pd_writer *w);
/* What is held of a log begins here from now on. */
void pd_prefix_begin(pd_core *c, pd_log *log, uint64_t base);
/* The chain of a log where what is held of it begins. */
void pd_prefix_chain(pd_core *c, uint32_t log, pd_chain *out);
/* A peer tells from where on it holds a log; and we a peer who asks below our base. */
void pd_prefix_based(pd_core *c, pd_link *l, const pd_item *it);
void pd_prefix_refuse(pd_link *l, uint32_t log);
bool pd_prefix_put_base(pd_core *c, pd_link *l, pd_writer *w, uint32_t log);

/* attest.c */
void pd_attest_read(pd_core *c, uint16_t author, const pd_control *rec);
void pd_attest_write(pd_core *c, const pd_event *e);
void pd_attest_install(pd_core *c, const pd_event *e);
void pd_attest_settle(pd_core *c);
void pd_attest_tick(pd_core *c);

/* verdict.c */
void pd_verdict_new_member(pd_core *c, pd_member *m);
void pd_verdict_new_author(pd_core *c, pd_author_state *a);
/* Does a MEMBER record that was just read admit its subject?  False also where that has to be
 * judged with all else. */
bool pd_verdict_admits(pd_core *c, uint16_t author, const pd_control *rec);
void pd_verdict_admitted(pd_core *c, uint16_t author, uint16_t member);
bool pd_verdict_may_invite(const pd_core *c);
void pd_verdict_read(pd_core *c, const pd_control *rec); /* any record that was just read */
void pd_verdict_judge(pd_core *c); /* if it is due; all that is held must be readable */
/* The term of a log in vv_hash, and its part of it brought up to date after it has grown. */
uint64_t pd_verdict_term(const pd_core *c, uint32_t log);
void pd_verdict_grown(pd_core *c, uint32_t log, const pd_chain *chain);
/* The log that evidence is about; NULL: of nobody that is known. */
pd_log *pd_verdict_accused(pd_core *c, const pd_evidence *e);
/* Gradients held of an author that do not count. */
uint64_t pd_verdict_voids(const pd_core *c, uint32_t author);

/* enforce.c */
const char *pd_why_out(const pd_core *c); /* why this node's records do not count; NULL: they do */
void pd_enforce_report(pd_core *c, const uint8_t *evidence, size_t n); /* to be written */
void pd_enforce_ban(pd_core *c, const pd_event *e);
void pd_enforce_rotate(pd_core *c, const pd_event *e);
void pd_enforce_tick(pd_core *c);

/* fork.c */
/* The head of the first n bytes that we hold; false if we hold less. */
bool pd_fork_head(pd_core *c, uint32_t log, uint64_t n, uint8_t head[32]);
void pd_fork_suspect(pd_core *c, pd_link *l, uint32_t log);
void pd_fork_compare(pd_core *c, pd_link *l, bool still);
void pd_fork_asked(pd_core *c, pd_link *l, uint32_t log, const pd_item *it);
void pd_fork_head_in(pd_core *c, pd_link *l, uint32_t log, const pd_item *it);
void pd_fork_branch_in(pd_core *c, pd_link *l, uint32_t log, const pd_item *it);
void pd_fork_tick(pd_core *c);

/* score.c */
/* Something that was provably done: points < 0.  May close the session. */
void pd_score(pd_core *c, pd_link *l, int points, const char *why);
bool pd_score_refuses(const pd_core *c, uint16_t member);
/* May this session have so many seals checked (or as much other work) now? */
bool pd_budget(pd_core *c, pd_link *l, uint32_t seals);

/* send.c */
/* At once: an item about a fork, by our number of its log, after the alias that it needs.  False:
 * no room now. */
bool pd_send_fork(pd_core *c, pd_link *l, const pd_item *it);
void pd_send_frames(pd_core *c);
/* A frame that a link need not wait for: only this item, at once. */
void pd_send_item(pd_core *c, pd_link *l, const pd_item *it);

#endif
