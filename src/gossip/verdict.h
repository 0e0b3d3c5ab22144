/* verdict.h - what members have done and what follows from it; a part of state.h.
 *
 *   control logs ─> verdict: who is admitted, who is banned, which records count     (pure
 * function) a seal that does not fit ─> fork: search, two branches, EVIDENCE ─> control log  (by
 * messages) what a peer provably did ─> score: close and refuse for a while (local, forgotten)
 */
#ifndef PD_GOSSIP_VERDICT_H
#define PD_GOSSIP_VERDICT_H

#include "peerd/frame.h"

enum {
    PD_TURNS_MAX = 16,   /* keys that one place in the run may pass through by ROTATE */
    PD_BANS_MAX = 64,    /* BAN records of one key that count */
    PD_REPORT_MS = 5000, /* whoever finds a fork waits up to so long: another's word will do */
    PD_REPORT_AGAIN_MS = 60000,
    PD_BEACON_MS = 600000, /* nothing written for so long, and nothing to seal: a BEACON */

    PD_FORKS_MAX = 2,   /* searches at a time */
    PD_FORK_MS = 10000, /* an answer should be here, tried PD_FORK_TRIES times */
    PD_FORK_TRIES = 3,
    PD_COMPARE_BUSY = 1,   /* heads compared in PD_COMPARE_MS while bytes are under way ... */
    PD_COMPARE_STILL = 64, /* ... and at a SUMMARY when both hold equally many */

    PD_SCORE_LEAST = -50,        /* below it: closed and refused ... */
    PD_SCORE_MS = 60000,         /* one point is forgotten in this time */
    PD_REFUSE_MS = 600000,       /* ... for so long, each time twice as long ... */
    PD_REFUSE_MAX_MS = 86400000, /* ... up to this */
    PD_BAD_SEAL = -20,
    PD_MALFORMED = -50,
    PD_PULL_STORM = -5,
    PD_LIED = -100,
    PD_BUDGET = 200, /* seals checked for one session at once, and one for each log known; ... */
    PD_BUDGET_PER_S = 50, /* ... then so many a second, 56 us each */

    PD_CONTROL_ROOM = PD_PENDING_MAX + PD_EVIDENCE_MAX + 8, /* own control records not yet sealed */
    PD_RECORD_ROOM = PD_EVIDENCE_MAX + 8,                   /* any one record */
};

/* A place in all that a key says: incarnation, then byte of its log. */
typedef struct pd_place {
    uint32_t inc;
    uint64_t at;
} pd_place;

typedef struct pd_member_verdict {
    bool admitted; /* by records that count, from the founder on */
    bool founder;  /* it, or the key that its place was passed on to */
    bool banned, rotated, denied /* so the transport was told */;
    bool accused, look; /* while judging */
    uint8_t depth, turns;
    pd_place cut[PD_STREAMS]; /* what it says from there on does not count */
    uint32_t spent;           /* members it admitted */
    int32_t score;
    uint64_t score_ms, refuse_ms, refused_until; /* refuse: how long the last time; 0: never yet */
} pd_member_verdict;

typedef struct pd_log_verdict {
    uint64_t void_at;      /* by evidence: from this byte on it is not one log */
    uint64_t counts;       /* bytes that count, bans and all; PD_VOID_NEVER: as many as there are */
    uint64_t told;         /* of gradients: what the driver was told */
    uint64_t tag;          /* of the head that vv_hash knows of */
    uint64_t term;         /* in vv_hash now */
    uint16_t proof_author; /* whose control log holds that evidence, and where */
    uint64_t proof_at;
    bool proved; /* in a part of it that counts */
    uint64_t reported_ms;
} pd_log_verdict;

typedef struct pd_link_verdict {
    uint32_t budget; /* thousandths of a seal */
    uint64_t budget_ms;
    uint32_t compare_at;
} pd_link_verdict;

/* A search for the place where two logs of one author part. */
typedef struct pd_fork {
    uint16_t log; /* PD_NONE: free */
    uint64_t session;
    bool accused;    /* the peer's bytes did not fit their seal */
    uint64_t lo, hi; /* heads are equal at lo and differ at hi; hi 0: not known */
    uint64_t ask;    /* head asked for; when j is settled: PD_VOID_NEVER */
    uint64_t n;      /* the peer's log, of which `branch` is made */
    uint32_t got, total, tries;
    uint64_t due_ms;
    uint8_t *branch; /* (PD_BRANCH_MAX); stays where it is */
} pd_fork;

/* Evidence that waits to be written into the own control log. */
typedef struct pd_report {
    size_t size; /* 0: none */
    uint64_t due_ms;
    uint8_t *bytes; /* (PD_EVIDENCE_MAX) */
} pd_report;

#endif
