/* ckpt_file.h - checkpoint files as the played worlds (tests/net, tests/sim) make and judge them:
 * from bytes in memory and a fold, where a node has a ledger and a replica.
 */
#ifndef CKPT_FILE_H
#define CKPT_FILE_H

#include "peerd/ckpt.h"
#include "peerd/replay.h"

enum { CKPT_COORDS_MAX = 64 };

/* A log that counts whole, from its first byte on. */
typedef struct ckpt_source {
    pd_author author;
    const uint8_t *bytes, *seal;
    uint64_t n;
} ckpt_source;

typedef enum ckpt_lie {
    CKPT_HONEST,
    CKPT_FALSE_MODEL, /* a coordinate is not what the records give */
    CKPT_FALSE_MARK,  /* the first log's chain is not the author's */
} ckpt_lie;

/* The file of these logs, which come out in its order, and its name.
 *
 *   logs  in/out  (n); n = 0 gives no file
 *   d     in      coordinates, at most CKPT_COORDS_MAX
 *   size  out     of the file
 *
 * Gives the file (free it), or NULL: there are no records.  The run is that of the replay.
 */
uint8_t *ckpt_file_make(const pd_replay *r, ckpt_source *logs, uint32_t n, size_t d, ckpt_lie lie,
                        size_t *size, pd_ckpt_name *name);

/* The first n bytes of an author's gradients; NULL: they are not all here, or do not all count. */
typedef const uint8_t *ckpt_bytes(void *ctx, const pd_author *a, uint64_t n);

/* Are all bytes here that the file tells of?  Else nobody can say whether it is right. */
bool ckpt_file_is_known(const pd_replay *r, const uint8_t *p, size_t size, size_t d,
                        ckpt_bytes *bytes, void *ctx);

/* Does the file, which is known, hold what these bytes give? */
bool ckpt_file_is_right(const pd_replay *r, const uint8_t *p, size_t size, size_t d,
                        ckpt_bytes *bytes, void *ctx);

#endif
