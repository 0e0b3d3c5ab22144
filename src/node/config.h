/* config.h - what is local to a node and never in the manifest: files, addresses, batch size.
 * DIR/node.json. */
#ifndef PD_CONFIG_H
#define PD_CONFIG_H

#include "peerd/addr.h"
#include "peerd/core.h"
#include "peerd/model.h"

enum { PD_CONFIG_PATH = 1024 };

/* How the node makes its bytes: from loss pairs (probe.h), or from gradients (project.h), which
 * need about twice the memory. */
typedef enum pd_estimator { PD_ESTIMATOR_PROBE, PD_ESTIMATOR_PROJECT } pd_estimator;

typedef struct pd_config {
    char model[PD_CONFIG_PATH]; /* absolute paths */
    char data[PD_CONFIG_PATH];
    char heldout[PD_CONFIG_PATH]; /* "": a share of the data is held out */
    double heldout_share;         /* of the records, 0..0.5 */
    char name[PD_NAME_MAX + 1];
    char listen[PD_ADDR_TEXT];    /* where it listens; "": dials only */
    char advertise[PD_ADDR_TEXT]; /* where others reach it, if that is not `listen` */
    uint32_t batch;               /* records a probe */
    uint32_t batch_tokens;        /* capacity of a batch */
    uint32_t probes;              /* directions a batch */
    pd_estimator estimator;
    uint32_t local_steps; /* batches a gradient; 1: no local steps */
    uint32_t threads;     /* 0: all cores */
    pd_compute compute;
    bool thin;     /* a line of about 64 kbit/s: small buffers, fewer frames */
    bool observer; /* makes no records; not in a file of an older version: false */
    bool skip_bad, paused;
    double checkpoint_hours; /* between two checkpoints, if nobody else makes one; 0: this node
                                 makes none unasked */
    uint64_t seed;           /* of the held-out choice and the batches */
} pd_config;
extern const pd_config pd_config_defaults;

/* Read and write DIR/node.json.  Errors: PD_ENOENT ("DIR is not a node"), PD_EFORMAT (names the
 * key), PD_EIO, PD_EFULL. */
PD_CHECKED pd_err pd_config_read(const char *dir, pd_config *out);
PD_CHECKED pd_err pd_config_write(const char *dir, const pd_config *c);

/* "auto", "f32", "bf16".  Errors: PD_EUSAGE. */
PD_CHECKED pd_err pd_compute_parse(const char *text, pd_compute *out);
const char *pd_compute_name(pd_compute c);

/* "probe", "project".  Errors: PD_EUSAGE. */
PD_CHECKED pd_err pd_estimator_parse(const char *text, pd_estimator *out);
const char *pd_estimator_name(pd_estimator e);
/* Directions a batch where nobody says how many: another loss pair costs as much as another batch,
 * another projection nothing. */
static inline uint32_t pd_estimator_probes(pd_estimator e) {
    return e == PD_ESTIMATOR_PROJECT ? 16 : 1;
}
/* Does such a node need reverse mode?  An observer makes no bytes. */
static inline bool pd_config_projects(const pd_config *c) {
    return c->estimator == PD_ESTIMATOR_PROJECT && !c->observer;
}

/* Make a path absolute, so that the node can be started from anywhere.  Errors: PD_ENOENT,
 * PD_EUSAGE (too long). */
PD_CHECKED pd_err pd_path_absolute(const char *path, char out[PD_CONFIG_PATH]);

#endif
