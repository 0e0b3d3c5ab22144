/* core.h - the gossip core: who is a member, who is linked, which bytes are where, what to say next.
 *
 *   data > tokens > loss pair > byte > ledger <> GOSSIP <> other peers
 *
 * Pure: events in, actions out.  No clock, no I/O, no globals, no allocation after open, no floats,
 * no randomness but the caller's; so the daemon and the test network run the same code and a seed
 * repeats a run to the byte.  Times are milliseconds of any steady clock that never goes back.
 *
 * What it promises: a byte of one's own leaves only after it is durable (persist before send);
 * after a start it listens before it speaks; every byte it hands on is covered by a member's seal;
 * whatever a peer sends, the answer is bounded work.  What it does not: keep log bytes (the driver's
 * ledger does, and the core reads them when a frame leaves), judge a gradient, replay.
 *
 * Up to 16 members are a full mesh.  Above, each node keeps 4 to 8 links, 3 of them dialled by itself
 * at random, and the bytes of each author travel down a tree of their own.  A frame's layout is in
 * frame.h.
 */
#ifndef PEERD_CORE_H
#define PEERD_CORE_H

#include "peerd/addr.h"
#include "peerd/chain.h"
#include "peerd/ckpt.h"

enum {
    PD_MEMBERS_TOP = 16384, /* the most that conf.members_max may be */
    PD_MEMBERS_MAX = 256,   /* members a node can know unless its configuration says otherwise ... */
    PD_MEMBERS_SPARE = 16,  /* ... of them room for invites honoured at the same moment */
    PD_PEERS_MAX = PD_MEMBERS_MAX - PD_MEMBERS_SPARE, /* members such a run admits */
    PD_MESH_MAX = 16,       /* up to so many everyone links with everyone */
    PD_LINKS_MAX = 20,      /* sessions with members: 16 in a mesh, or 8 and 4 to compare with */
    PD_SESSIONS_MAX = 24,   /* and 4 guests */
    PD_ADDRS_MAX = 4,     /* addresses kept a member */
    PD_NAME_MAX = 32,     /* bytes of a node's name */
    PD_PENDING_MAX = 4096, /* own gradients not yet sealed */
    PD_FRAME_MAX = 16384,
    PD_TEXT_MAX = 160,    /* a note, with its end */
    PD_STAGES = 4,        /* logs that catch up at a time */
    PD_BAN_QUORUM = 3,    /* members whose bans together count like the founder's or the inviter's */
    PD_INVITES_ALL = 64,  /* members that one key may admit; the founder's are not limited */
    PD_INVITE_DEPTH = 4,  /* invitations between the founder and anybody */
    PD_VOICES = 3,        /* attestations that a checkpoint needs (pd_core_ckpt) */
    /* A frame holds at most 16384 / 69 sealed segments; the rest is bounded by the sessions or
     * spread over steps. */
    PD_ACTIONS_MAX = 512,
};

typedef struct pd_core pd_core;

/* ---- what the core is given ---- */

typedef struct pd_core_crypto {
    void *ctx;
    void (*sign)(void *ctx, const void *msg, size_t n, uint8_t sig[64]); /* by the node's own key */
    bool (*verify)(void *ctx, const uint8_t pub[32], const void *msg, size_t n, const uint8_t sig[64]);
    uint64_t (*random)(void *ctx);
} pd_core_crypto;

/* The driver's ledger, read from memory, and its files.  `seal` says where a log stands: n bytes and
 * their seal; false (n = 0) for a log it does not hold.  `read` copies up to `room` sealed bytes and
 * returns how many there were.  `file` serves a file by the first 16 bytes of its digest: returns the
 * bytes copied from `offset` and sets *total, 0 where there is no such file; may be NULL.  `room` gives
 * stage 0..PD_STAGES - 1 memory of `bytes` that begins with what it held there before (realloc), or NULL
 * if that is too much; 0 bytes: it is not needed any more.  Without it (NULL) a gap in one log that is
 * longer than conf.stage_bytes cannot be caught up.  `base` says where a gradient log begins that is not held
 * from its first byte on, and C_j there; 0: it is whole.  NULL: all are.
 */
typedef struct pd_core_log {
    void *ctx;
    bool (*seal)(void *ctx, const pd_author *a, uint8_t stream, uint64_t *n, uint8_t seal[64]);
    size_t (*read)(void *ctx, const pd_author *a, uint8_t stream, uint64_t from, uint8_t *out, size_t room);
    size_t (*file)(void *ctx, const uint8_t digest[16], uint64_t offset, uint8_t *out, size_t room,
                   uint64_t *total);
    uint8_t *(*room)(void *ctx, unsigned stage, size_t bytes);
    uint64_t (*base)(void *ctx, const pd_author *a, uint8_t mark[32]);
} pd_core_log;

typedef struct pd_known_addr {
    uint8_t key[32];
    pd_addr addr;
} pd_known_addr;

typedef struct pd_core_conf {
    uint32_t members_max; /* members its tables hold, at most PD_MEMBERS_TOP; 0: PD_MEMBERS_MAX */
    uint8_t run[32], key[32], founder[32]; /* key: the node's own */
    uint32_t incarnation;                  /* as last given by PD_ACT_META, else 0 */
    const char *manifest;                  /* canonical text, for guests; borrowed while open */
    size_t manifest_bytes;
    char name[PD_NAME_MAX + 1];
    pd_addr listen[PD_ADDRS_MAX]; /* where others can dial this node; published when it changes */
    uint32_t n_listen;            /* 0: others cannot */
    const pd_known_addr *known;   /* addresses from a ticket or remembered; borrowed during open */
    uint32_t n_known;
    uint32_t seal_bytes_per_s; /* B_sig of T_seal = clamp(N * 69 / B_sig, 2 s, 900 s); 0: 1000 */
    uint32_t seal_ms;          /* T_seal itself, 0: from B_sig */
    uint32_t seal_records;     /* seal at so many unsealed records; 0: 4096 */
    uint32_t stage_bytes;      /* unsealed bytes held in the arena for each of 4 logs catching up;
                                * 0: 1 MiB.  A longer gap asks the driver for `room` */
    uint32_t repair_ms;        /* a wait for bytes on their way, for measurements; 0: as measured */
    bool thin;                 /* a line of less than 128 kbit/s: fewer frames, small buffers */
    bool observer;             /* makes no records, and hears of others' by asking, not as a link in
                                * anybody's tree: for a line too thin for the run's rate */
    bool hold;                 /* ask for no gradients: a newcomer who has not chosen yet how to catch up */
    uint64_t ckpt_ms;          /* a checkpoint so long after the last one, by one of those here; 0: never */
    bool solo;                 /* speak without listening first */
    bool restored;             /* the store was copied or restored: listen for 5 minutes */
} pd_core_conf;

/* ---- events ---- */

typedef enum pd_event_kind {
    PD_EV_TICK,         /* time passed                          -                                   */
    PD_EV_SESSION_UP,   /* an authenticated session             session, key, outbound;             */
                        /*   inbound by a one-time key:         guest, invite, key = that CURVE key;
                         *   spent: all its uses are used up, so only who used it is welcomed again
                         *   (a guest whose welcome was cut off); keep its key admitted for a while */
    PD_EV_SESSION_DOWN, /* it is no more                        session                             */
    PD_EV_FRAME,        /* one message of it                    session, p, n                       */
    PD_EV_DIAL_FAILED,  /* a PD_ACT_DIAL came to nothing        key; refused: the peer's gate said so */
    PD_EV_CLOGGED,      /* the transport took no more; the driver keeps the one frame   session     */
    PD_EV_FLOWING,      /* that frame has left                  session                             */
    PD_EV_GRADIENT,     /* one own record                       author, at = its step, byte         */
    PD_EV_FLUSH,        /* seal what is pending, now            -                                   */
    PD_EV_STORED,       /* own bytes are durable                author, stream, at = n, all of them */
    PD_EV_STORE_FAILED, /* own bytes could not be stored        author, stream                      */
    PD_EV_LISTEN,       /* own addresses changed                addrs, n = how many                 */
    PD_EV_ADDRESS,      /* someone may be dialled there         key, addrs (one)                    */
    PD_EV_BAN,          /* write a BAN                          key; author.inc, at: its records from there
                         *                                      on do not count (pd_core_may_ban first) */
    PD_EV_ROTATE,       /* write a ROTATE                       key = the next one, p = its signature of
                         *                                      pd_rotate_message, n = 64              */
    PD_EV_FETCH,        /* get a file in pieces                 digest, at = offset, n = total bytes; n = at: no more */
    PD_EV_ATTEST,       /* this node has reproduced a checkpoint: write so   ckpt                    */
    PD_EV_INSTALL,      /* go on from this checkpoint           p, n = its file; PD_ACT_INSTALLED answers */
    PD_EV_STOP,         /* seal, store, tell, close; with `leave`, for good                         */
} pd_event_kind;

typedef struct pd_event {
    pd_event_kind kind;
    uint64_t session; /* the driver's number, never reused */
    uint8_t key[32];
    uint64_t invite;
    bool outbound, guest, spent, leave, refused;
    uint8_t stream, byte;
    pd_author author;
    uint64_t at;
    const uint8_t *p; /* borrowed until the actions of this step have been carried out */
    size_t n;
    const pd_addr *addrs;
    uint8_t digest[16];
    const pd_ckpt_name *ckpt;
} pd_event;

/* ---- actions ---- */

typedef enum pd_action_kind {
    PD_ACT_SEND,   /* session, p, n: one message.  No room: keep it, and give PD_EV_CLOGGED; what is sent there
                    *   in the same step besides can only be a BYE and may be dropped               */
    PD_ACT_CLOSE,  /* session, text: close it; no PD_EV_SESSION_DOWN need follow                   */
    PD_ACT_DIAL,   /* key, addr: PD_EV_SESSION_UP or PD_EV_DIAL_FAILED must follow                 */
    PD_ACT_ALLOW,  /* key: a member; the transport admits it from now on                           */
    PD_ACT_DENY,   /* key: banned, or no member any more; the transport refuses it and closes its
                    *   sessions, until an ALLOW                                                   */
    PD_ACT_VOID,   /* author, at: its gradients from this step on do not count; PD_VOID_NEVER: all do */
    PD_ACT_STORE,  /* author, stream, at = from, p, n, seal (of at + n), own.  Someone else's: append
                    *   to the ledger at once, persist when convenient.  Own: commit, then append,
                    *   then PD_EV_STORED; or PD_EV_STORE_FAILED.  A commit holds all STOREs before it */
    PD_ACT_META,   /* at = own incarnation from now on: durable no later than the next own STORE    */
    PD_ACT_SPEAK,  /* pd_core_may_speak has a new answer: own step, author or leave to speak        */
    PD_ACT_PASSED, /* after PD_EV_ROTATE, or in a later process: enough peers keep the ROTATE record, so
                    *   its next key will be let in.  Only now may the node start under that key     */
    PD_ACT_INVITE_USED, /* invite, key: its MEMBER record for that key is durable                   */
    PD_ACT_FILE,   /* digest, at = offset, p, n: a piece of a fetched file, in order; the driver
                    *   checks the digest of the whole and fetches again from 0 if it is wrong      */
    PD_ACT_INSTALLED, /* at = pd_err, text: PD_OK: the logs of the event's file that hold less begin at its marks
                    *   (pd_ledger_begin_at, now); else nothing has changed.  invite = voices that it rests on */
    PD_ACT_PREFIX, /* author, at, p, n: bytes before its gradients' base, in order (pd_ledger_prefix_add); n = 0:
                    *   they are all there, own: they lead to its mark, and the log is whole (pd_ledger_prefix_end) */
    PD_ACT_CKPT_DUE, /* it is this node's turn to make a checkpoint                                    */
    PD_ACT_NOTE,   /* level (pd_log_level), text: a state change worth a log line                    */
    PD_ACT_STOPPED, /* after PD_EV_STOP: everything said, sessions closed                           */
    PD_ACT_FATAL,  /* at = exit status, text: the process must end (75: another live copy of us)    */
    PD_ACT_MANIFEST, /* joining only: p, n = the manifest's text, checked against the ticket         */
    PD_ACT_JOINED, /* joining only: the STOREs before it hold everything that was sent               */
    PD_ACT_REFUSED, /* joining only: at = pd_err, text                                               */
} pd_action_kind;

typedef struct pd_action {
    pd_action_kind kind;
    uint64_t session;
    const uint8_t *p; /* the core's or the event's; good until the next step */
    size_t n;
    uint64_t at, invite;
    pd_author author;
    uint8_t stream;
    bool own;
    int level;
    uint8_t key[32], seal[64], digest[16];
    pd_addr addr;
    const char *text; /* good until the next step */
} pd_action;

/* ---- the core ---- */

/* Memory that a core of this configuration needs: the bound of everything it will ever hold. */
size_t pd_core_bytes(const pd_core_conf *conf);

/* Build a core in the caller's memory (aligned to 64), from what the ledger holds: members by fixpoint over the control
 * logs from the founder, then every member's logs, whose chains are checked against their seals.
 * Actions of the start (ALLOW for each member) come out of the first step.
 *
 * Errors: PD_EUSAGE (own or founder's key missing), PD_ENOMEM (arena too small), PD_EMISMATCH (a
 *         log in the ledger is not what its seal covers), PD_EFULL (more incarnations than the tables hold).
 */
PD_CHECKED pd_err pd_core_open(const pd_core_conf *conf, const pd_core_crypto *crypto, const pd_core_log *log,
                               uint64_t now_ms, void *arena, size_t arena_bytes, pd_core **out);

/* Take one event, say what to do.  `max` >= PD_ACTIONS_MAX.  Carry the actions out in order before
 * the next step.  Returns how many.
 */
size_t pd_core_step(pd_core *c, uint64_t now_ms, const pd_event *e, pd_action *out, size_t max);

/* When the next PD_EV_TICK is due; may lie in the past (at once); UINT64_MAX: never. */
uint64_t pd_core_wake(const pd_core *c);

/* May an own record be made now, and which?  Gives author and step of the next one.  False while
 * listening, stopping, or when 4096 records wait for a store that fails.
 */
bool pd_core_may_speak(const pd_core *c, pd_author *author, uint64_t *step);

/* ---- checkpoints ---- */

/* A checkpoint that members attest.  A voice is an attester that can be told from the others: of all
 * who were invited by the same member one counts, since one person can invite any number of keys; but
 * each of the founder's own, whom the run rests on anyway.  Banned and rotated keys have none, nor has
 * this node.  `enough`: PD_VOICES of them, or, where fewer others than that are in the run, all of these.
 */
typedef struct pd_core_ckpt_status {
    pd_ckpt_name name;
    uint32_t attesters, voices;
    bool enough, own; /* own: this node attests it */
} pd_core_ckpt_status;

enum { PD_CKPTS_MAX = 64 }; /* looked at; the rest of what members claim is passed over */
/* The i-th best: enough voices, then more records, first.  False past the last. */
bool pd_core_ckpt(const pd_core *c, uint32_t i, pd_core_ckpt_status *out);
/* What a newcomer knows of the way ahead.  False: too little, as no member has told all it holds yet, or
 * a control log is still missing.  *records: gradients that linked members hold and this node does not.
 */
bool pd_core_ahead(const pd_core *c, uint64_t *records);

/* Local invariants.  false and a reason if one is broken: that is our bug. */
bool pd_core_check(const pd_core *c, char *why, size_t room);
/* From which step on an author's gradients do not count; PD_VOID_NEVER: all do.  The first steps say
 * it by PD_ACT_VOID of every author that is not PD_VOID_NEVER, later ones what changes; ask after open
 * for what a ledger remembers.
 */
uint64_t pd_core_void_at(const pd_core *c, const pd_author *author);
/* Would a MEMBER record of this node admit anybody?
 * Errors: PD_EAUTH (it is no member itself), PD_EFULL (too many invitations from the founder, or as many
 *         admitted as one key may; the text says which).
 */
PD_CHECKED pd_err pd_core_may_invite(const pd_core *c);
/* May a BAN of this key be written, and from where on?  Gives the place behind all that is held of it.
 * Errors: PD_ENOENT (nobody of that key), PD_EEXIST (banned already), PD_EUSAGE (the node itself),
 *         PD_EBUSY (the node may not speak now; the text says why).
 */
PD_CHECKED pd_err pd_core_may_ban(const pd_core *c, const uint8_t key[32], pd_author *author, uint64_t *step);
/* Does this node's word alone ban that key (founder, or its inviter), or are PD_BAN_QUORUM needed? */
bool pd_core_bans_alone(const pd_core *c, const uint8_t key[32]);
/* A hash of what the core knows, for traces. */
uint64_t pd_core_state_hash(const pd_core *c);

/* ---- rotation ---- */

/* The bytes that the next key signs when `old` passes its place on to it. */
enum { PD_ROTATE_MESSAGE_BYTES = 15 + 32 + 32 + 32 };
void pd_rotate_message(const uint8_t run[32], const uint8_t old[32], const uint8_t next[32],
                       uint8_t out[PD_ROTATE_MESSAGE_BYTES]);
/* Does a control log of n bytes name this key as its author's next? */
bool pd_control_rotates(const uint8_t *log, size_t n, const uint8_t next[32]);

/* ---- what people see ---- */

typedef enum pd_voice { PD_VOICE_LISTENING, PD_VOICE_SPEAKING, PD_VOICE_STOPPING, PD_VOICE_SILENCED } pd_voice;
typedef enum pd_member_state { PD_MEMBER_HERE, PD_MEMBER_AWAY, PD_MEMBER_GONE, PD_MEMBER_LEFT, PD_MEMBER_BANNED } pd_member_state;
typedef enum pd_link_state { PD_LINK_NONE, PD_LINK_DIALING, PD_LINK_UP, PD_LINK_SUSPECT } pd_link_state;

typedef struct pd_core_status {
    pd_author own;
    uint64_t step;        /* own records in all, unsealed ones included */
    uint64_t sealed;      /* of them, sealed and durable */
    uint32_t unsealed;    /* of them, not yet */
    uint64_t unsealed_ms; /* age of the oldest of those */
    uint64_t seal_ms;     /* T_seal */
    pd_voice voice;
    uint32_t heard, wanted; /* listening: sessions compared with, and how many are wanted */
    const char *why;        /* one phrase for a person: why it does not speak; "" if it does */
    uint32_t members, links; /* others; sessions with them */
    uint32_t wanted_links;   /* as many as it would like: all in a mesh, else 6 */
    uint32_t repairs;        /* pulls under way */
    bool observer;
    uint64_t records;        /* gradient bytes held that count, of everyone */
    uint64_t missing;        /* bytes that someone linked has and this node lacks */
    uint64_t bytes_in, bytes_out, frames_in, frames_out; /* frames as handed over, all sessions */
    uint64_t bad_seals, bad_frames, duplicates; /* duplicates: whole segments held already */
    uint64_t duplicate_bytes; /* bytes of logs that came though they were held already */
    uint64_t voids;  /* gradients held that do not count */
    uint32_t forks;  /* logs that are proven to be two */
    uint32_t banned; /* members */
    uint64_t vv_hash;
    uint64_t fetched, fetch_total; /* the file being fetched; total 0: none */
} pd_core_status;

typedef struct pd_peer_status {
    uint8_t key[32];
    char name[PD_NAME_MAX + 1];
    pd_addr addr; /* the last one known */
    pd_member_state member;
    pd_link_state link;
    uint64_t session;     /* 0: none */
    bool outbound, observer; /* observer: by its own word; linked peers only */
    uint32_t incarnation;  /* the newest */
    uint64_t records;      /* gradient bytes of theirs that we hold and that count, all incarnations */
    uint64_t voids;        /* ... and that do not */
    int32_t score;         /* 0, or less after provable misbehaviour */
    uint64_t missing;      /* bytes they told of that we lack */
    uint64_t behind;       /* bytes we hold that they are not known to have; linked peers only */
    uint64_t bytes_in, bytes_out; /* all sessions since start */
    uint32_t rtt_ms;       /* 0: not known */
    uint64_t quiet_ms;     /* since anything was heard of them, over whomever */
    uint64_t link_quiet_ms; /* since anything came over that session; 0: none */
} pd_peer_status;

void pd_core_status_get(const pd_core *c, uint64_t now_ms, pd_core_status *out);
/* The i-th other member, in the order of admission; false past the last. */
bool pd_core_peer_get(const pd_core *c, uint64_t now_ms, uint32_t i, pd_peer_status *out);
bool pd_core_is_member(const pd_core *c, const uint8_t key[32]);
/* The authors it knows, in the order of (key, incarnation), into out (room); returns how many there are.
 * Sessions number them so where both ends know the same.
 */
uint32_t pd_core_authors(const pd_core *c, pd_author *out, uint32_t room);

/* ---- joining: the other side of an invite ---- */

/* A node without a run has no core yet.  This second machine dials the inviter with the ticket's
 * one-time key, proves its own key, receives manifest and control logs, checks them, and ends.
 * It takes PD_EV_TICK, SESSION_UP, SESSION_DOWN, FRAME, DIAL_FAILED and gives DIAL (to be dialled with the
 * one-time key), SEND, CLOSE, NOTE, and at the end either MANIFEST, STORE..., JOINED or REFUSED.
 */
typedef struct pd_join pd_join;

typedef struct pd_join_conf {
    uint8_t net[16];     /* from the ticket: the run id begins with it */
    uint8_t inviter[32];
    uint8_t guest[32];   /* one-time CURVE public key */
    const pd_addr *addrs; /* the inviter's; borrowed during open */
    uint32_t n_addrs;     /* 1..PD_ADDRS_MAX */
    uint8_t key[32];      /* own */
    pd_addr listen;       /* family 0: cannot be dialled */
    char name[PD_NAME_MAX + 1];
    uint64_t timeout_ms;  /* give up after; 0: 60 s */
} pd_join_conf;

size_t pd_join_bytes(void);
/* Errors: PD_EUSAGE, PD_ENOMEM. */
PD_CHECKED pd_err pd_join_open(const pd_join_conf *conf, const pd_core_crypto *crypto, uint64_t now_ms, void *arena,
                               size_t arena_bytes, pd_join **out);
size_t pd_join_step(pd_join *j, uint64_t now_ms, const pd_event *e, pd_action *out, size_t max);
uint64_t pd_join_wake(const pd_join *j);

#endif
