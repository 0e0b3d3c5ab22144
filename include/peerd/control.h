/* control.h - how people's tools talk to a running node: DIR/control.sock, one JSON request and one
 * JSON reply a line.
 *
 * Only the owner of the folder reaches the socket (0600).  The server never blocks: it is polled
 * along with the transport, takes at most PD_CONTROL_CLIENTS at a time and PD_CONTROL_REQUEST_MAX
 * bytes a request.  A handler answers at once, or later (verify, export, backup, check)
 * by its call's number.
 *
 * A request is {"cmd": NAME, ...}.  A reply is {"ok": true, ...} or
 *   {"ok": false, "code": "io"|"full"|..., "error": "one line: the cause and the way out"}
 *
 * Names are snake_case, units come last, keys and digests are lower-case hex, null is "not known"
 * or "does not apply".  Requests and the fields of their replies:
 *
 *   status     -> run, key, name, dir, version: texts; pid, uptime_s
 *                 model {name, arch}  space {kind, rank, coords}  rule
 *                 state "listening" | "speaking" | "paused" | "done" | "silenced" | "stopping"
 *                 why: text, "" if there is nothing to explain
 *                 step (own records), records_wanted (null: no end)
 *                 unsealed, unsealed_age_ms, seal_ms
 *                 listen_heard, listen_wanted (while listening: members compared with, and how
 *                                              many are wanted)
 *                 store_error: why the store takes nothing; "" while it is well
 *                 loss (of the last probe, null)
 *                 heldout null or {examples, loss_before, loss_now, accuracy_before, accuracy_now
 *                                  (null without choices), at_records}
 *                 records (held, of everyone, that count), missing (known of and not held)
 *                 void_records (held, do not count), forks (authors proven to have signed two logs),
 *                 banned (members)
 *                 members, links (others; sessions with them)
 *                 counted (N: members neither gone nor left, this node among them)
 *                 bytes_in, bytes_out (frames since start), bytes_in_per_s, bytes_out_per_s
 *                 wire_bytes_per_record (bytes in and out per record that came in or went out, an
 *                                        estimate with the frame overhead; null before the first)
 *                 copies (how often a byte of others came in since the start, 1 + duplicates over
 *                         fresh ones; null before the first)
 *                 checkpoint {audit "none"|"open"|"equal"|"differs" (the one that this node began with,
 *                    replayed from the base model), voices (members it rests on), records,
 *                    lacking_bytes (of logs, from before it), audited_records, waits (replay needs
 *                    them first), wrong (checkpoints of others that the records do not give), wrong_why}
 *                 digest, digest_records (which of `records` it has replayed)
 *                 listen: address or null;  fetched_bytes, fetch_total_bytes (null: no fetch)
 *                 bad_frames, bad_seals, duplicates (segments), duplicate_bytes
 *                 peers [{key, name, addr, member "here"|"away"|"gone"|"left"|"banned",
 *                         link "none"|"dialing"|"up"|"suspect", outbound, link_why (why it has no
 *                         link; ""), records, void_records, score (0, or less after
 *                         misbehaviour), observer, missing, behind, bytes_in, bytes_out,
 *                         bytes_in_per_s, bytes_out_per_s, rtt_ms, quiet_ms}]
 *                 peers: linked ones first, then here, away, gone, left, banned; by name, then key; at most
 *                 1000 of them (members has all)
 *   members {after (0)}
 *              -> members [{key, name, self, member, link (null: this node), addr, quiet_ms (since
 *                           it was heard; null: not since the start), records, incarnation,
 *                           inviter (key; null: the founder)}]
 *                 next: call again with `after` = next; null: that was all
 *   log {author (optional: the beginning of a key, or a name), from (step, 0), limit (at most
 *        1000), control (false), after_author, after_step (of the last reply)}
 *              -> records [{author, incarnation, step, byte, value}], sealed ones; value is the
 *                 projected gradient that the byte stands for.  With control the author's control
 *                 records come first: {author, incarnation, at (byte of its control log), control
 *                 "member"|"address"|"leave"|"evidence"|"ban"|"rotate"|"beacon"|"checkpoint"|"other", text}; limit does not count them
 *                 more: call again with after_author and after_step of this reply
 *   health     -> what `peerctl doctor` judges, as it stands
 *                 called_ago_ms, called_from (when a member last dialled this node, and from where;
 *                 null: not since the start), door_open (false: shut for want of descriptors),
 *                 handshakes_refused, files, files_max, solo
 *                 wall_s, made_s (UTC: now, and when the folder was made), expiring_invites
 *                 memory_bytes, swapped_bytes (of the process), memory_free_bytes,
 *                 memory_total_bytes, cores, threads, load
 *                 trainer "starting"|"waiting"|"training"|"paused"|"done"|"stopped", made,
 *                 not_finite (probes since the start that gave a record, that gave none),
 *                 heldout_best, sealed_ago_ms (null: not since the start)
 *   check {quick (false)}
 *              -> ledger_error, disk_error, model_error: "" where all is well; quick leaves the
 *                 model file unread, and its field null.  flush_us (to make 4 KiB durable, the
 *                 median of nine; null on disk_error), disk_free_bytes, ledger_bytes, took_ms.  Own
 *                 seals wait for it
 *   backup {out (absolute path of a file that does not exist)}
 *              -> out, bytes, took_ms; training goes on, own seals wait for it
 *   invite {uses, expires_s (from now, 0: never), addr (optional text)}
 *              -> ticket, uses, expires_s (UTC, 0: never), addrs [text]
 *   join {ticket}    -> addrs [text]: dialled now; the ticket must be of this run
 *   leave            -> leaving true; the node says goodbye for good and ends
 *   ban {member (a name, or a key's first 4 or more hex digits), from (optional: the first of its
 *        records that does not count; else all that are held do)}
 *                    -> key, name, from, decides (false: two other members have to ban it too)
 *   rotate           -> key (the next one), old; the node writes it down and ends, and is that key's
 *                       from its next start on
 *   pause, resume    -> paused; a paused node relays and does not probe
 *   verify           -> equal, records, digest, digest_replayed, took_ms; or, while records from before
 *                       the checkpoint that the node began with are not here: equal null, records,
 *                       digest, voices, lacking_bytes
 *   checkpoint       -> file (BLAKE2b-256), digest, records, bytes: made, attested and served
 *   export {format "peft"|"gguf", out (absolute path)}
 *                    -> files [text], bytes, records, digest
 *   journal {after}  -> lines [text], next: call again with `after` = next; 0: all that is kept
 *   anything else    -> "usage", "unknown request ..."
 */
#ifndef PEERD_CONTROL_H
#define PEERD_CONTROL_H

#include "peerd/err.h"

#include <cjson/cJSON.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PD_CONTROL_CLIENTS = 8,
    PD_CONTROL_REQUEST_MAX = 4096,
    PD_CONTROL_REPLY_MAX = 4 << 20,
    PD_CONTROL_IDLE_MS = 30000, /* a client that asks nothing for so long is let go */
};

typedef struct pd_control pd_control;

/* Answer one request.
 *
 *   call   in   its number, for pd_control_answer
 *   reply  out  an empty object to add fields to
 *
 * PD_OK: answered.  PD_EAGAIN: pd_control_answer will follow, reply is not sent.  Anything else:
 * the caller is told pd_fail_text().
 */
typedef pd_err pd_control_handler(void *ctx, uint64_t call, const cJSON *request, cJSON *reply);

typedef struct pd_control_entry {
    const char *cmd; /* NULL ends the table */
    pd_control_handler *run;
} pd_control_entry;

/* Listen at DIR/control.sock.  A socket that a dead process left is replaced.  gives *out.
 *
 *   table  in  borrowed while open
 *
 * Errors: PD_EBUSY (a peerd answers there), PD_ENOENT (no such folder), PD_EIO, PD_ENOMEM.
 */
PD_CHECKED pd_err pd_control_open(const char *dir, const pd_control_entry *table, void *ctx,
                                  pd_control **out);
/* Stop listening; calls without an answer are told that the node ends.  NULL is fine. */
void pd_control_close(pd_control *c);

/* The descriptors to poll, at most `room` (1 + PD_CONTROL_CLIENTS are enough); returns how many.
 * Call before every wait.
 */
size_t pd_control_fds(const pd_control *c, struct pollfd *fds, size_t room);
/* Read, answer and write what the wait found ready: the same fds, with revents. */
void pd_control_serve(pd_control *c, const struct pollfd *fds, size_t n);

/* Answer a call that its handler put off.  takes reply (may be NULL).  code not PD_OK: the text is
 * pd_fail_text().  A caller that has gone away is fine.
 */
void pd_control_answer(pd_control *c, uint64_t call, pd_err code, cJSON *reply);

/* Does a process answer at DIR/control.sock? */
bool pd_control_runs(const char *dir);

/* Ask the node at dir, wait for its reply.
 *
 *   request  in   borrowed
 *   reply    out  gives; cJSON_Delete() it.  Only on PD_OK
 *
 * Errors: PD_ENOENT (no node answers there; the text says how to start it), PD_EIO (it hung up or
 *         did not answer in time), PD_EFORMAT (not a reply), PD_ENOMEM, or the code and text that
 *         the node answered with.
 */
PD_CHECKED pd_err pd_control_call(const char *dir, const cJSON *request, uint32_t timeout_ms,
                                  cJSON **reply);

#endif
