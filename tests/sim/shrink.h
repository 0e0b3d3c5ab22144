/* shrink.h - runs in processes of their own, many at a time, and a failing one made small. */
#ifndef SHRINK_H
#define SHRINK_H

#include "sim.h"

typedef struct outcome {
    int code;
    char law[8], failure[256];
    uint64_t trace, steps, frames, records, forks, until_ms, healed_ms, failed_ms, node_ms;
    uint64_t begun, refused;
    uint32_t n_nodes, n_faults;
} outcome;
/* Run one world in a child; prints its last words if it fails and `aloud`. */
outcome run_apart(const options *o, bool aloud);
/* Find fewer faults, fewer nodes and a shorter run that fail alike; prints the command that repeats
 * it.  plant and breakage: what o has been given of them, by name, or NULL. */
void shrink(const options *o, const outcome *first, const char *plant, const char *breakage);

typedef struct batch {
    const uint64_t *seeds;
    size_t n;
    unsigned jobs;
    bool twice;            /* each again, with another clock: S13, S14 */
    bool all;              /* go on after a failure */
    const char *until_law; /* only failures by this law count; NULL: all */
    uint64_t trace;        /* of all runs, in the order of the seeds */
    uint64_t steps, frames, records, forks, simulated_ms, node_ms, healed_ms;
    uint64_t begun, refused;
    size_t failed, unjudged, first_failed; /* index of the first in order */
    outcome first;
} batch;
void run_batch(const options *o, batch *b);

#endif
