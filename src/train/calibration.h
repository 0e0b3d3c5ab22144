/* calibration.h - what the parts of calibration share; private to src/train. */
#ifndef PD_CALIBRATION_H
#define PD_CALIBRATION_H

#include "peerd/calibrate.h"
#include "peerd/fit.h"

/* Everything one calibration works with. */
typedef struct pd_calibration {
    const pd_model_info *info;
    pd_bench bench;
    pd_subset all;
    const pd_calibrate_opts *opts;
} pd_calibration;

/* scales.c: D2 of b's second basis, from every record's own gradient at `side`. */
PD_CHECKED pd_err pd_find_scales(pd_calibration *c, const pd_adapter *side, pd_basis *b);

/* A basis' start adapter as an adapter: a space whose coordinates stay zero. */
typedef struct pd_start {
    pd_space *space;
    pd_view *view;
} pd_start;

PD_CHECKED pd_err pd_start_open(const pd_model_info *info, const pd_basis *b, pd_start *out);
void pd_start_close(pd_start *s);

#endif
