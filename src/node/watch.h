/* watch.h - what changes in a running node and its peers, said in one log line each, and remembered
 * for status and doctor; private to src/node.
 *
 * Looks at the core once a second, so a state that lasts less is not said: that, and the log's own
 * limit, keep a flapping link from filling a disk.  Why a session ended is known to whoever ended
 * it, the transport or the core, and is noted when it does.
 */
#ifndef PD_WATCH_H
#define PD_WATCH_H

#include "peerd/core.h"
#include "peerd/net.h"

typedef struct pd_rate {
    uint64_t at_ms, bytes_in, bytes_out;
    double in_per_s, out_per_s;
} pd_rate;

/* One other member, in the core's order. */
typedef struct pd_watched {
    pd_peer_status now; /* of the last look */
    pd_rate rate;
    uint32_t failed_dials; /* in a row */
    char why[PD_NET_TEXT]; /* why it has no link: how the last session or dial ended; "" */
} pd_watched;

typedef struct pd_watch {
    uint64_t at_ms; /* of the last look; 0: none yet */
    pd_watched *peer;
    uint32_t n, room;
    pd_rate rate;
    pd_voice voice;
    char silent[PD_TEXT_MAX]; /* what was said of why it listens */
    bool by_count;            /* the last seal was due to the number of records, not to time */
    uint64_t sealed_ms;       /* of the last own seal of records; 0: none */
    uint64_t called_ms;       /* when a member last dialled this node; 0: not since the start */
    pd_addr called_from;
} pd_watch;

struct pd_node;

/* The transport's events and the core's orders, as they come. */
void pd_watch_net(struct pd_node *n, const pd_net_event *x);
void pd_watch_close(struct pd_node *n, const pd_action *a);
void pd_watch_seal(struct pd_node *n, const pd_action *a);
/* Look, once a second: true if it did. */
bool pd_watch_look(struct pd_node *n);
void pd_watch_finish(pd_watch *w);

#endif
