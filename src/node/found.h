/* found.h - a new run and its founder's node, as init and rebase make them; private to src/node. */
#ifndef PD_FOUND_H
#define PD_FOUND_H

#include "local.h"
#include "peerd/base.h"
#include "peerd/basis.h"
#include "peerd/data.h"
#include "peerd/manifest.h"

enum { PD_FOUNDING_FLAGS = 48 };

typedef struct pd_founding {
    const char *dir; /* to be made */
    const char *calibrate, *space, *targets, *layers, *schedule, *warm_steps;
    pd_local local;
    uint32_t rank, alpha, probe_count, seal_bytes, rate, groups;
    uint64_t decay;
    double eps, lr, lr_min_share, clip, warm_lr, whiten;
    pd_manifest manifest; /* a parent may be set before; the rest is made */

    /* made on the way */
    pd_config config;
    pd_base *base;
    pd_tokenizer *tokenizer;
    pd_model *model;
    pd_data *data, *calibration;
    pd_basis *basis;
    uint8_t *basis_file;
    size_t basis_bytes;
} pd_founding;

/* Start values of the flags. */
pd_founding pd_founding_of_defaults(void);

/* The table of flags that set x, ended; without --model where somebody else says which. */
void pd_founding_flags(pd_founding *x, bool model, pd_flag out[PD_FOUNDING_FLAGS]);

/* Look at what needs no file: is there no node yet, do the flags go together?
 * Errors: PD_EEXIST, PD_EUSAGE.
 */
PD_CHECKED pd_err pd_founding_check(pd_founding *x);

/* Open model and records, calibrate, propose what the person has not set, write the folder; says on
 * standard output what it does.  pd_founding_close also after an error.
 *
 * Errors: those of pd_founding_check, pd_local_config, pd_base_open, pd_data_open, pd_calibrate and
 * pd_site_create.
 */
PD_CHECKED pd_err pd_found(pd_founding *x);
void pd_founding_close(pd_founding *x);

#endif
