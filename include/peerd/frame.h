/* frame.h - what two nodes say to each other, byte by byte.
 *
 *   data > tokens > loss pair > byte > ledger <> GOSSIP <> other peers
 *
 *   frame    ver 1 = 1 | flags 1 = 0 | ack v | item item ...          one message of the transport, <= 16 KB
 *            ack: bytes of frames received in this session so far (credits, and what a PULL has seen)
 *   v        LEB128, minimal;  everything else little-endian;  an item begins with its kind
 *
 *   01 HELLO    net 32 | nonce 8 | inc v | proto 2 | caps 2 | addr 1, 7 or 19 | members v | memb_hash 8
 *               | vv_hash 8 | total v | max_rate 4 | links 1              first item of a session, once
 *   02 ALIAS    alias v | key 32 | inc v               what an alias of the sender stands for, before its first use
 *   03 SEG      alias v | start v | count v | bytes | seal 64             gradients
 *   83 SEG      alias v | start v | count v | bytes                       the same, more of it follows
 *   04 HEADS    count v | (log v, head v) ...                             I hold this now
 *   05 PRUNE    log v                                                     do not send this log unasked
 *   06 PULL     log v | from v | limit v                                  send it, I can hold `limit` unsealed bytes
 *   07 GRAFT    as PULL                                                   and what follows too, unasked, from now on
 *   08, 88 CTL  as SEG                                                    control records
 *   09 SUMMARY  memb_hash 8 | vv_hash 8 | total v | n v                   in equal states these are equal
 *   0a VV       flags 1 | count v | (log v, head v) ...                   all I hold, in as many items as it takes
 *               flags: 1 answer with yours, 2 say your ALIASes again first, 4 more of it follows
 *   0b PREFIXQ  log v | from v | limit v                                  so many bytes of it from there, unsealed
 *   0c PREFIXA  log v | from v | count v | bytes                          these; count 0: I do not hold them
 *   0d BASE     log v | base v                                            of this log I hold the bytes from there on
 *   0e PING     nonce 4 | load 1           0f PONG  the same
 *   12 BYE      reason 1 | count v | (alias v) ...                        count <= 3: others, who may have a place free
 *   13 JOIN     key 32 | sig 64 | addr 1, 7 or 19 | size v | name         a guest's only word
 *   14 WELCOME  offset v | total v | count v | bytes                      a piece of the welcome (below)
 *   10 FORKQ    log v | n v                            what is the head of your first n bytes?
 *   11 FORKA    log v | n v | head 32                  this; zeros: I do not hold so much
 *   15 FILEQ    digest 16 | offset v | limit v
 *   16 FILEA    digest 16 | offset v | total v | count v | bytes          total 0: no such file here
 *   17 BRANCHQ  log v | j v | offset v                 your branch (evidence.h) from chunk j on
 *   18 BRANCHA  log v | j v | n v | offset v | total v | count v | bytes  a piece of it, as my n bytes give it
 *
 *   alias    the sender's own number of an author, for this session.  Where the memb_hash of both HELLOs is
 *            equal, 0, 1, ... are the authors of that set in the order of (key, inc); ALIAS says all others
 *   memb_hash  sum mod 2^64 of XXH3-64(key 32 | inc 4) over the authors known
 *   caps     1 an observer, who hears by PULL alone; 2 a session to compare only, not a link
 *   log      2 alias + stream; in lists ascending, each as the difference to the one before, less 1
 *   start    0: right after my last SEG or CTL of this log in this session; else 1 + the step of the first byte
 *   head     and every other place in a log: less than 2^32
 *   count    1..8192.  A range longer than that, or than the credit left, is cut; only the last piece has the seal
 *   addr     0, or as in addr.h
 *   welcome  size v | manifest text | count v | (key 32 | inc v | size v | control log | seal 64) ...
 *
 *   control log      record record ...            record = kind 1 | size v | body       (size <= 512,
 *                                                                                   of EVIDENCE <= 32768)
 *   1 MEMBER   subject 32 | flags 1 (0) | invite 8 | size v | name
 *   2 ADDR     count 1 | addr ... | size v | name            where and as what the author is known; takes LEAVE back
 *   3 LEAVE    reason 1 | step v
 *   4 EVIDENCE (evidence.h)                                the author it names signed two logs
 *   5 BAN      subject 32 | inc v | step v | control v     of the subject's records those of incarnation inc from
 *                                                          step on (gradients) or from the byte `control` on
 *                                                          (control log) and those of later ones do not count
 *   6 ROTATE   key 32 | sig 64 | step v                    this key is mine from now on: as good a member as I was;
 *                                                          my own records end here, gradients at step
 *   7 BEACON   nothing                                     still here, though there was nothing to say
 *   8 CKPT     file 32 | model 16 | size v | records v     this checkpoint (ckpt.h), of this BLAKE2b-256, is right:
 *                                                          I have reproduced it from the records themselves
 *   others are passed over
 *
 * One number has one encoding and an item no slack, so re-encoding a frame gives the same bytes; a
 * reader refuses everything else.  A kind not listed is refused; what changes it is the protocol version.
 *
 * PREFIXQ asks below a log's base, where nobody has to be believed: the bytes must lead to the C_j
 * there, and its author's seal has proven that.
 */
#ifndef PEERD_FRAME_H
#define PEERD_FRAME_H

#include "peerd/addr.h"
#include "peerd/bytes.h"
#include "peerd/ckpt.h"
#include "peerd/core.h"
#include "peerd/evidence.h"

enum {
    PD_PROTO = 3,
    PD_FRAME_VERSION = 1,
    PD_PIECE_MAX = 8192,   /* bytes in one SEG, CTL, WELCOME or FILEA */
    PD_ALIASES_MAX = PD_MEMBERS_TOP * 5 / 4 + 64, /* authors a node can number: one a member, and
                                                   * room for later incarnations */
    PD_LOGS_MAX = PD_ALIASES_MAX * PD_STREAMS,
    PD_ALTERNATIVES_MAX = 3, /* members that a BYE names */
    PD_RECORD_MAX = 512, /* body of a control record but EVIDENCE (PD_EVIDENCE_MAX) */
};

#define PD_LOG_BYTES_MAX UINT32_MAX /* one log: 13 years at the 10 records/s of the default rate */

typedef enum pd_item_kind {
    PD_ITEM_HELLO = 0x01,
    PD_ITEM_ALIAS = 0x02,
    PD_ITEM_SEG = 0x03, /* the unsealed kinds 83 and 88 are read as SEG and CTL without a seal */
    PD_ITEM_HEADS = 0x04,
    PD_ITEM_PRUNE = 0x05,
    PD_ITEM_PULL = 0x06,
    PD_ITEM_GRAFT = 0x07,
    PD_ITEM_CTL = 0x08,
    PD_ITEM_SUMMARY = 0x09,
    PD_ITEM_VV = 0x0a,
    PD_ITEM_PREFIXQ = 0x0b,
    PD_ITEM_PREFIXA = 0x0c,
    PD_ITEM_BASE = 0x0d,
    PD_ITEM_PING = 0x0e,
    PD_ITEM_PONG = 0x0f,
    PD_ITEM_BYE = 0x12,
    PD_ITEM_JOIN = 0x13,
    PD_ITEM_WELCOME = 0x14,
    PD_ITEM_FORKQ = 0x10,
    PD_ITEM_FORKA = 0x11,
    PD_ITEM_FILEQ = 0x15,
    PD_ITEM_FILEA = 0x16,
    PD_ITEM_BRANCHQ = 0x17,
    PD_ITEM_BRANCHA = 0x18,
} pd_item_kind;

typedef enum pd_bye { /* why a session ends */
    PD_BYE_LEAVING = 1, /* the node stops */
    PD_BYE_OTHER_RUN,
    PD_BYE_VERSION,
    PD_BYE_DOUBLE,  /* another session of the two is kept */
    PD_BYE_FULL,    /* to a guest: the run admits no more members; to a member: no place for a link */
    PD_BYE_REFUSED, /* the JOIN's signature is not valid */
    PD_BYE_MALFORMED,
    PD_BYE_NOT_NOW, /* the inviter may not speak itself yet: try again */
    PD_BYE_DONE,    /* compared, or replaced by another link */
    PD_BYE_LAST = PD_BYE_DONE,
} pd_bye;

enum { PD_CAP_OBSERVER = 1, PD_CAP_COMPARE = 2 };
enum { PD_VV_WANT = 1, PD_VV_AGAIN = 2, PD_VV_MORE = 4, PD_VV_FLAGS = 7 };

typedef struct pd_hello {
    uint8_t net[32];
    uint64_t nonce; /* of the sender's process */
    uint32_t inc;
    uint16_t proto, caps;
    pd_addr addr;
    uint64_t members, memb_hash, vv_hash, total;
    uint32_t max_rate;
    uint8_t links;
} pd_hello;

typedef struct pd_head {
    uint32_t log; /* 2 alias + stream, < PD_LOGS_MAX */
    uint64_t n;
} pd_head;

/* A parsed item.  Pointers lie in the frame. */
typedef struct pd_item {
    pd_item_kind kind;
    union {
        pd_hello hello;
        struct {
            uint32_t alias; /* < PD_ALIASES_MAX */
            pd_author author;
        } alias;
        struct {
            uint32_t alias;
            uint64_t start;      /* as on the wire */
            const uint8_t *bytes;
            uint32_t count;
            const uint8_t *seal; /* 64, or NULL: more follows */
        } seg;                   /* SEG and CTL */
        struct {
            uint8_t flags; /* VV: PD_VV_... */
            uint32_t count;
            const uint8_t *p; /* the pairs as on the wire, read by pd_heads_next; when writing: ... */
            size_t n;
            const pd_head *heads; /* ... `count` of them, ascending */
        } heads;                  /* HEADS and VV */
        struct {
            uint32_t log;
            uint64_t from, limit;
        } pull; /* PULL and GRAFT; PREFIXQ; BASE, whose base is `from` */
        uint32_t prune; /* log */
        struct {
            uint32_t log;
            uint64_t n; /* FORKQ, FORKA, BRANCHA */
            uint8_t head[32];
            uint64_t j, offset, total;
            const uint8_t *bytes;
            uint32_t count;
        } fork; /* FORKQ, FORKA, BRANCHQ, BRANCHA */
        struct {
            uint64_t memb_hash, vv_hash, total, n;
        } summary;
        struct {
            uint32_t nonce;
            uint8_t load; /* 0 today */
        } ping;           /* PING and PONG */
        struct {
            pd_bye why;
            uint32_t count, alias[PD_ALTERNATIVES_MAX];
        } bye;
        struct {
            uint8_t key[32], sig[64];
            pd_addr addr;
            const char *name;
            uint32_t name_size;
        } join;
        struct {
            uint8_t digest[16]; /* files */
            uint64_t offset, total, limit;
            const uint8_t *bytes;
            uint32_t count;
            uint32_t log; /* PREFIXA; ours or the peer's, as its reader needs it */
        } part; /* WELCOME, FILEQ, FILEA, PREFIXA */
    } u;
} pd_item;

/* Begin a frame in `w`. */
void pd_frame_begin(pd_writer *w, uint64_t ack);
/* Append an item; false (and nothing written) if it does not fit. */
bool pd_frame_put(pd_writer *w, const pd_item *it);
/* Bytes an item takes. */
size_t pd_item_size(const pd_item *it);

/* Read a frame's head; false for anything that is not one. */
bool pd_frame_open(const uint8_t *p, size_t n, pd_reader *r, uint64_t *ack);
/* The next item; false at the end, and r->ok is false if it was malformed. */
bool pd_frame_next(pd_reader *r, pd_item *it);
/* Walk the pairs of a parsed HEADS or VV: start with i = 0, log = 0, p = item's p. */
typedef struct pd_heads_walk {
    pd_reader r;
    uint32_t left, next;
} pd_heads_walk;
void pd_heads_begin(const pd_item *it, pd_heads_walk *w);
bool pd_heads_next(pd_heads_walk *w, pd_head *out);

/* ---- control records ---- */

typedef enum pd_record_kind {
    PD_RECORD_MEMBER = 1,
    PD_RECORD_ADDR = 2,
    PD_RECORD_LEAVE = 3,
    PD_RECORD_EVIDENCE = 4,
    PD_RECORD_BAN = 5,
    PD_RECORD_ROTATE = 6,
    PD_RECORD_BEACON = 7,
    PD_RECORD_CKPT = 8,
} pd_record_kind;

typedef struct pd_control {
    uint8_t kind; /* any; the fields below for those listed */
    uint8_t subject[32], flags;
    uint64_t invite;
    char name[PD_NAME_MAX + 1]; /* printable; other bytes became '?' */
    pd_addr addrs[PD_ADDRS_MAX];
    uint32_t n_addrs;
    uint8_t reason;
    uint64_t step;
    uint32_t inc;           /* BAN */
    uint64_t control;       /* BAN */
    uint8_t sig[64];        /* ROTATE, whose key is `subject` */
    const uint8_t *proof;   /* EVIDENCE, in the bytes it was read from */
    size_t proof_size;
    pd_ckpt_name ckpt;
} pd_control;

/* Write one record; false if it does not fit. */
bool pd_control_put(pd_writer *w, const pd_control *rec);
/* Read one record.  Returns bytes taken; 0: the record is not whole yet; -1: this can never become a record. A body
 * that does not fit its kind gives kind 0.
 */
ptrdiff_t pd_control_get(const uint8_t *p, size_t n, pd_control *out);

/* The bytes that a guest signs with the key it asks to be admitted by. */
enum { PD_JOIN_MESSAGE_BYTES = 13 + 16 + 32 };
void pd_join_message(const uint8_t net[16], const uint8_t guest[32], uint8_t out[PD_JOIN_MESSAGE_BYTES]);

#endif
