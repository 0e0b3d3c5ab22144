/* door.h - the one door to libzmq: its sockets, with our options and its traps; private to src/net.
 *
 * One context and I/O thread; a REP for ZAP and a ROUTER for whoever dials us; a DEALER for each
 * dial of ours.  Sessions, their numbers and their ends are net.c's.
 */
#ifndef PD_DOOR_H
#define PD_DOOR_H

#include "peerd/addr.h"

#include <poll.h>
#include <stdbool.h>

enum {
    PD_RID = 5,              /* routing ids that a ROUTER makes: 0 and a 32-bit counter */
    PD_DOOR_LINGER_MS = 300, /* what was sent before a close may still leave */
    PD_DOOR_FDS = 64,        /* of the caller, in pd_door_wait */
};

typedef struct pd_door pd_door;

/* A dial: a DEALER and the monitor that tells how it fares. */
typedef struct pd_call {
    void *socket, *monitor;
} pd_call;

/* Open with room to wait for `calls` dials.  gives *out.  Errors: PD_ENOMEM. */
PD_CHECKED pd_err pd_door_open(bool thin, uint32_t calls, pd_door **out);
/* Open the ROUTER and its gate and listen; a port 0 becomes the real one.
 * Errors: PD_EBUSY, PD_EUSAGE, PD_EIO, PD_ENOMEM.
 */
PD_CHECKED pd_err pd_door_listen(pd_door *d, const uint8_t curve_sec[32], pd_addr *at);
/* Stop listening, which ends the inbound sessions too; and listen again. */
void pd_door_shut(pd_door *d, const pd_addr *at);
PD_CHECKED pd_err pd_door_reopen(pd_door *d, pd_addr *at);
/* Close all calls before. */
void pd_door_free(pd_door *d);

/* The gate: is a peer waiting, and by which key (all zero: not one that CURVE gave)?  Each true is
 * followed by one answer: `user` is attached to every frame of an admitted peer.
 */
bool pd_door_asked(pd_door *d, uint8_t curve[32]);
typedef enum pd_verdict { PD_ADMIT, PD_LATER, PD_REFUSE } pd_verdict;
void pd_door_answer(pd_door *d, pd_verdict v, const char *user);

/* The descriptor of an inbound connection that ended; false: no more. */
bool pd_door_ended(pd_door *d, int *fd);

/* The last frame received; good until the next receive. */
typedef struct pd_door_frame {
    const uint8_t *bytes;
    size_t n;
    bool split;          /* it had more parts, which are gone */
    const char *user;    /* inbound: what the gate attached; NULL: nothing */
    int fd;              /* inbound: its connection; only right now, numbers are reused */
    uint8_t rid[PD_RID]; /* inbound; meaningless if `named` */
    bool named;          /* inbound: it chose its own routing id, which no honest peer does */
} pd_door_frame;
/* One frame of whoever dialled us; false: none. */
bool pd_door_recv(pd_door *d, pd_door_frame *out);
bool pd_call_recv(pd_door *d, pd_call *c, pd_door_frame *out);

/* Errors: PD_EAGAIN (full), PD_EGONE. */
PD_CHECKED pd_err pd_door_send(pd_door *d, const uint8_t rid[PD_RID], const void *p, size_t n);
PD_CHECKED pd_err pd_call_send(pd_call *c, const void *p, size_t n);

/* Dial.  Errors: PD_EFULL (descriptors), PD_EIO, PD_ENOMEM; nothing is left open. */
PD_CHECKED pd_err pd_call_open(pd_door *d, const pd_addr *to, const uint8_t server[32],
                               const uint8_t pub[32], const uint8_t sec[32], uint64_t id,
                               pd_call *out);
void pd_call_close(pd_call *c);

typedef enum pd_call_news {
    PD_CALL_NONE,
    PD_CALL_UP,
    PD_CALL_REFUSED,    /* by the gate there */
    PD_CALL_BUSY,       /* the gate there says later */
    PD_CALL_UNANSWERED, /* no connection */
    PD_CALL_BROKEN,     /* no handshake, or the connection ended */
} pd_call_news;
pd_call_news pd_call_next(pd_call *c);

/* Wait for anything at the door, at the calls, or at fds (revents are filled). */
PD_CHECKED pd_err pd_door_wait(pd_door *d, int timeout_ms, const pd_call *const *calls,
                               size_t n_calls, struct pollfd *fds, size_t n_fds);

#endif
