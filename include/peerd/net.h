/* net.h - sessions: authenticated, encrypted, framed; the one door to libzmq.
 *
 *   data > tokens > loss pair > byte > ledger <> GOSSIP <> other peers
 *
 * One ROUTER takes inbound sessions, one DEALER each makes an outbound one, CURVE under all of
 * them.  A session is one TCP connection: it is never reconnected under the hood, because what was
 * in flight when a connection broke is lost, and only the core knows what to say again.  A frame
 * is one single-part message of at most PD_NET_FRAME_MAX bytes.
 *
 * Promises: no byte from a key that is neither a member's nor an outstanding guest's reaches the
 * caller; a peer that reads nothing costs PD_NET_KEPT_MAX and some 60 KB (thin) of buffers and never
 * blocks the caller; every dial ends in PD_NET_UP or PD_NET_DIAL_FAILED; session numbers are never
 * reused.  Does not: know members, retry, redial, or look into frames.
 *
 * Everything is called from one thread, the core's: no lock, and a key is refused the moment it is
 * denied.  libzmq's own I/O thread does the rest.  Other threads wake the caller through a file
 * descriptor that it polls along (pd_net_wait).  One open net a process: libzmq 4.3.4 is not safe
 * with several CURVE contexts (tests may, when they open and close them from one thread).
 */
#ifndef PEERD_NET_H
#define PEERD_NET_H

#include "peerd/addr.h"
#include "peerd/identity.h"

#include <poll.h>

enum {
    PD_NET_FRAME_MAX = 65536,
    PD_NET_KEPT_MAX = 81920, /* of a clogged session: what one step of the core says at most, 64 KB */
    PD_NET_SESSIONS = 64, /* default table: 24 of the core's, dials, and those on their way out */
    PD_NET_TEXT = 120,
};

typedef struct pd_net pd_net;

typedef struct pd_net_conf {
    const pd_identity *identity; /* borrowed during open */
    pd_addr listen;              /* family 0: dials only; port 0: one that the system chooses */
    bool thin;                   /* 16 KB socket buffers: for links of about 64 kbit/s */
    uint32_t sessions_max;       /* 0: PD_NET_SESSIONS */
    uint32_t handshakes_per_s;   /* admitted a second, 0: 20; beyond it peers are told to retry */
} pd_net_conf;

typedef enum pd_net_kind {
    PD_NET_UP,          /* an authenticated session; always before its first frame            */
    PD_NET_FRAME,       /* bytes, n: one frame of it                                           */
    PD_NET_FLOWING,     /* the kept frames of pd_net_send have left                            */
    PD_NET_DOWN,        /* text: why.  The session is no more                                  */
    PD_NET_DIAL_FAILED, /* text: why.  It never was                                            */
} pd_net_kind;

typedef struct pd_net_event {
    pd_net_kind kind;
    uint64_t session;
    bool outbound;
    bool refused;         /* DIAL_FAILED: the peer itself answered, and does not admit the key used */
    uint64_t invite;      /* UP, inbound, by a one-time key: pd_net_allow_guest's number; else 0 */
    uint8_t peer[32];     /* the peer's Ed25519 key; of a guest its one-time CURVE key */
    pd_addr addr;         /* dialled, or where the peer's end is */
    const uint8_t *bytes; /* FRAME: borrowed until the next pd_net_next or pd_net_close */
    size_t n;
    char text[PD_NET_TEXT]; /* DOWN, DIAL_FAILED: one phrase for a person; else "" */
} pd_net_event;

/* Open and listen.  Raises the limit of open files to 4096 where it may.  gives *out.
 *
 * Errors: PD_EBUSY (the port is in use), PD_EUSAGE (not an address of this machine, no right to
 *         the port), PD_EIO, PD_ENOMEM, PD_EAUTH (own key unusable).
 */
PD_CHECKED pd_err pd_net_open(const pd_net_conf *conf, pd_net **out);
/* Close all; what was sent leaves within 300 ms or is lost.  NULL is fine. */
void pd_net_free(pd_net *net);

/* Where it listens, with the real port; family 0 if it does not. */
pd_addr pd_net_listening(const pd_net *net);

/* Who may come in.  A member by its Ed25519 key; a guest by its one-time CURVE key, under a number
 * (not 0) of the caller's, as often as it likes until denied.  Denying a member closes its
 * sessions; denying an invite leaves the running session, in which the guest is being welcomed.
 * Errors: PD_EAUTH (no valid key), PD_ENOMEM.
 */
PD_CHECKED pd_err pd_net_allow(pd_net *net, const uint8_t ed_pub[32]);
PD_CHECKED pd_err pd_net_allow_guest(pd_net *net, const uint8_t curve_pub[32], uint64_t invite);
void pd_net_deny(pd_net *net, const uint8_t ed_pub[32]);
void pd_net_deny_guest(pd_net *net, uint64_t invite);

/* Dial a node whose key is known.
 *
 *   addr    in   where
 *   peer    in   its Ed25519 key: nobody else can answer
 *   guest   in   one-time secret of a ticket (16), or NULL: by the own identity
 *   session out  its number
 *
 * Errors: PD_EFULL (sessions or files), PD_EAUTH (no valid key), PD_EIO.  Then no event follows.
 */
PD_CHECKED pd_err pd_net_dial(pd_net *net, const pd_addr *addr, const uint8_t peer[32],
                              const uint8_t *guest, uint64_t *session);

/* Send one frame, 1..PD_NET_FRAME_MAX bytes, copied.
 *
 * Errors: PD_EAGAIN  the peer's buffers are full: the frame is kept, behind those kept before, and
 *                    PD_NET_FLOWING will say when all have left
 *         PD_EFULL   more than PD_NET_KEPT_MAX would be kept: this one is not taken
 *         PD_EGONE   no such session (any more)
 *         PD_ENOMEM
 */
PD_CHECKED pd_err pd_net_send(pd_net *net, uint64_t session, const void *bytes, size_t n);

/* Close a session, or give up a dial; no event of it follows.  What was sent before still leaves,
 * within 300 ms.  A number that is no more is fine.
 */
void pd_net_close(pd_net *net, uint64_t session);

/* Wait until something can be taken with pd_net_next, one of the caller's descriptors is ready, a
 * signal comes, or timeout_ms passes (-1: as long as it takes).  Fills fds[i].revents.
 * Errors: PD_EIO.
 */
PD_CHECKED pd_err pd_net_wait(pd_net *net, int timeout_ms, struct pollfd *fds, size_t n_fds);

/* Take the next event, without waiting; false: none now.  Sessions take turns, so a caller that
 * stops after some events a turn lets nobody starve.
 */
bool pd_net_next(pd_net *net, pd_net_event *out);

/* What is going on, for status. */
typedef struct pd_net_stats {
    uint32_t sessions, dialing; /* now */
    uint64_t admitted, refused; /* handshakes since open, by the gate */
    uint64_t retried;           /* told to come back later */
    uint32_t files, files_max;  /* descriptors in use (looked at once a second), and the limit */
    bool listening;             /* false while the door is shut for want of descriptors */
} pd_net_stats;
void pd_net_stats_get(const pd_net *net, pd_net_stats *out);

#endif
