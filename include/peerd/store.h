/* store.h - what a node remembers: logs, checkpoints, files, invites, addresses, in one SQLite
 * database.
 *
 *   data > tokens > loss pair > byte > LEDGER > gossip > REPLAY > weights
 *
 * Promises: what was committed survives kill -9 and, on a disk that honours flushes, a loss of
 * power.  Damage to a row is found at start and never reaches the ledger.  One owner thread. Beside
 * `ledger.db` lie `instance` (tells a restored database from one that simply stopped) and `ballast`
 * (8 MiB to give up when the disk is full).
 *
 * Every write joins the open transaction, or begins one; pd_store_commit makes all of them durable.
 * After PD_EFULL, PD_EIO, PD_ENOMEM or PD_EFORMAT from a write or commit the whole transaction is
 * gone and the database is as it was at the last commit; the other errors refuse before they write
 * and leave it open.  PD_EFULL: the ballast has been given up, so that what is small may now
 * succeed: stop producing, and pd_store_follow brings the rest when there is room.  PD_EIO from a
 * commit: nobody knows what the disk holds; stop signing, exit 74 and let the next start read it.
 *
 * One connection for everything, in EXCLUSIVE mode: SQLite 3.7.0 to 3.51.2 can lose commits when a
 * second connection checkpoints the write-ahead log while one commits.
 */
#ifndef PEERD_STORE_H
#define PEERD_STORE_H

#include "peerd/addr.h"
#include "peerd/digest.h"
#include "peerd/ledger.h"

typedef struct pd_store pd_store;

/* Open the node's database in folder `dir`, or make it.
 *
 *   create  in   make it where there is none
 *   run     in   the run it must belong to; NULL (not with create): whichever it belongs to
 *   out     out  gives
 *
 * Errors: PD_ENOENT (no database there), PD_EBUSY (a process has it open), PD_EMISMATCH (another
 * run's), PD_EUNSUPPORTED (a newer peerd's), PD_EFORMAT (not ours, or damaged beyond rows), PD_EIO,
 * PD_EFULL, PD_ENOMEM.
 */
PD_CHECKED pd_err pd_store_open(const char *dir, bool create, const uint8_t run[32],
                                pd_store **out);
/* Rolls back what was not committed. */
void pd_store_close(pd_store *s);

void pd_store_run(const pd_store *s, uint8_t run[32]);
/* The database is older than the node: a backup put back, a lost write-ahead log, an own log
 * damaged.  The node must listen long before it speaks.
 */
bool pd_store_restored(const pd_store *s);

PD_CHECKED pd_err pd_store_commit(pd_store *s);
void pd_store_rollback(pd_store *s);
/* Bytes written since the last commit; commit foreign ones once a second or at 64 KiB. */
size_t pd_store_pending(const pd_store *s);

/* Call about once a second: moves the write-ahead log into the database when it is larger than 4
 * MiB or 60 s old, and makes the ballast again when there is room.  Does nothing while a
 * transaction is open.  Errors: PD_EIO, PD_EFULL.
 */
PD_CHECKED pd_err pd_store_maintain(pd_store *s, uint64_t now_ms);

/* A whole copy at `path`, which must not exist yet, readable by its owner alone; commits first. The
 * copy, put in place of ledger.db, counts as restored.  Errors: PD_EEXIST, PD_EIO, PD_EFULL.
 */
PD_CHECKED pd_err pd_store_backup(pd_store *s, const char *path);

/* Read every page and index of the database, and the token beside it.  Takes as long as reading the
 * file.  Errors: PD_EFORMAT (damaged), PD_EMISMATCH (another start has put its token there: the
 * folder was restored or is used twice), PD_EIO.
 */
PD_CHECKED pd_err pd_store_check(pd_store *s);

/* ---- logs ---- */

typedef struct pd_store_report {
    uint32_t authors; /* with at least one whole log */
    uint64_t bytes;   /* loaded, both streams */
    uint32_t cut; /* logs thrown away: a row or the chain is damaged or the seal does not fit; ask
                     peers again */
    bool own_cut; /* one of this node's own was among them: speak as the next incarnation */
} pd_store_report;

/* Fill an empty ledger with every log and its void step, each checked row by row and against its seal.  A log that
 * does not prove itself is deleted (committed), counted and named in a log line; nothing of it is
 * loaded, as only its newest seal was kept.
 *
 *   own  in   this node's key, or NULL
 *
 * Errors: PD_EIO, PD_EFULL, PD_ENOMEM.
 */
PD_CHECKED pd_err pd_store_load(pd_store *s, const uint8_t own[32], pd_ledger *l,
                                pd_store_report *out);

/* Append sealed bytes at `from`, at most the log's end; what is held already is compared.
 *
 *   seal  in  covers from + n bytes
 *
 * Errors: PD_EMISMATCH (a gap, or other bytes for a step that is held: nothing written), and those
 * of every write.
 */
PD_CHECKED pd_err pd_store_append(pd_store *s, const pd_author *author, uint8_t stream,
                                  uint64_t from, const uint8_t *bytes, size_t n,
                                  const uint8_t seal[64]);
/* Bytes of a log in the database, those of the open transaction among them. */
PD_CHECKED pd_err pd_store_end(pd_store *s, const pd_author *author, uint8_t stream, uint64_t *n);

/* Go on with a gradient log from byte `base` = 1024 j on, as pd_ledger_begin_at: what the database has
 * of it must be less, and goes.  fill: the bytes [0, base) that lead to its mark; the log is whole then.
 *
 * Errors: PD_EMISMATCH (as much is held already; or the bytes do not lead there), and those of every write.
 */
PD_CHECKED pd_err pd_store_begin_at(pd_store *s, const pd_author *author, uint64_t base,
                                    const uint8_t mark[32], const uint8_t *bytes, size_t n,
                                    const uint8_t seal[64]);
PD_CHECKED pd_err pd_store_fill(pd_store *s, const pd_author *author, const uint8_t *bytes, size_t n);

/* Append all that the ledger holds and the store does not, a log's base and what has come before it among them, and keep each author's void step; for the
 * logs of others, whose loss costs only a pull.  After an error the next call begins where the last commit ended.  *behind: is there
 * more than this call took (about 1 MiB)?
 */
PD_CHECKED pd_err pd_store_follow(pd_store *s, pd_ledger *l, bool *behind);

/* ---- the rest ---- */

/* Small values by name.  get: gives *v (free it); PD_ENOENT.  The names `run` and `instance` are
 * the store's own. */
PD_CHECKED pd_err pd_store_meta_set(pd_store *s, const char *name, const void *v, size_t n);
PD_CHECKED pd_err pd_store_meta_get(pd_store *s, const char *name, uint8_t **v, size_t *n);

/* Files by BLAKE2b-256.  put: PD_EMISMATCH where the bytes are not what the digest says.  get:
 * gives *p (free it); PD_ENOENT, also where the bytes are no longer what the digest says (the row
 * is deleted).
 */
PD_CHECKED pd_err pd_store_file_put(pd_store *s, const uint8_t digest[32], const void *p, size_t n);
PD_CHECKED pd_err pd_store_file_get(pd_store *s, const uint8_t digest[32], uint8_t **p, size_t *n);

/* Checkpoint files that are served to newcomers: put keeps this one and the one before it.  gives *file
 * of get (free it), the newest for i = 0; PD_ENOENT past the last, PD_EMISMATCH where it is damaged or gone.
 */
PD_CHECKED pd_err pd_store_shared_put(pd_store *s, const uint8_t digest[32], const void *p, size_t n);
PD_CHECKED pd_err pd_store_shared_get(pd_store *s, unsigned i, uint8_t digest[32], uint8_t **file, size_t *n);

/* The checkpoint that this node began with, until its audit is done. */
typedef enum pd_audit_state {
    PD_AUDIT_NONE,    /* it has replayed everything itself */
    PD_AUDIT_OPEN,    /* what lies before the bases is still to come, or to be replayed */
    PD_AUDIT_EQUAL,   /* replayed from the base model: the same */
    PD_AUDIT_DIFFERS, /* not the same: those who attested it said what is not so */
} pd_audit_state;
typedef struct pd_store_begun {
    pd_audit_state state;
    uint8_t digest[32]; /* of its file, kept by pd_store_file_put until it is right */
    uint32_t voices;    /* attestations that it was taken on */
    uint64_t records;
} pd_store_begun;
PD_CHECKED pd_err pd_store_begun_set(pd_store *s, const pd_store_begun *b);
/* set: one that is right (PD_AUDIT_EQUAL) is served from now on; of one that is not (PD_AUDIT_DIFFERS)
 * or is forgotten (PD_AUDIT_NONE) file and what pd_store_ckpt_put keeps are deleted with it.  get: PD_AUDIT_NONE where there was none. */
PD_CHECKED pd_err pd_store_begun_get(pd_store *s, pd_store_begun *out);

/* Invites.  A used-up one stays, with 0 uses, until it expires or is deleted. */
typedef struct pd_invite {
    uint64_t id;
    uint8_t secret[16];
    uint32_t uses;     /* left */
    int64_t expires_s; /* UTC; 0: never */
} pd_invite;
PD_CHECKED pd_err pd_store_invite_add(pd_store *s, const pd_invite *v); /* PD_EEXIST */
PD_CHECKED pd_err pd_store_invite_use(pd_store *s,
                                      uint64_t id); /* PD_ENOENT, PD_EGONE (none left) */
PD_CHECKED pd_err pd_store_invite_delete(pd_store *s, uint64_t id);   /* PD_ENOENT */
PD_CHECKED pd_err pd_store_invite_expire(pd_store *s, int64_t now_s); /* delete what has expired */
/* Up to `room` of them, by id; *n: how many. */
PD_CHECKED pd_err pd_store_invites(pd_store *s, pd_invite *out, size_t room, size_t *n);

/* Addresses that worked, one a key; the best first (reached last). */
typedef struct pd_store_addr {
    uint8_t key[32];
    pd_addr addr;
    uint64_t seq;      /* of the ADDR record it came from; 0: none */
    int64_t last_ok_s; /* UTC; 0: never */
    uint32_t fails;    /* since then */
} pd_store_addr;
PD_CHECKED pd_err pd_store_addr_put(pd_store *s, const pd_store_addr *a);
PD_CHECKED pd_err pd_store_addrs(pd_store *s, pd_store_addr *out, size_t room, size_t *n);

/* Checkpoints: the coordinates and which records they hold.
 *
 *   vv in the database: count varint, then by (key, incarnation) ascending: key 32 | incarnation
 * varint | n varint
 *
 * put keeps the last two; digest is pd_replay_digest(a).  get: the newest whose digest and vector
 * verify.
 *
 *   a              out  (d)
 *   authors, n     out  at most `room`; *count
 *
 * Errors of get: PD_ENOENT (none that verifies and has d coordinates: replay from the base).
 */
PD_CHECKED pd_err pd_store_ckpt_put(pd_store *s, const uint8_t digest[PD_DIGEST_BYTES],
                                    const int32_t *a, size_t d, const pd_author *authors,
                                    const uint64_t *n, uint32_t count);
PD_CHECKED pd_err pd_store_ckpt_get(pd_store *s, int32_t *a, size_t d, pd_author *authors,
                                    uint64_t *n, uint32_t room, uint32_t *count);

#endif
