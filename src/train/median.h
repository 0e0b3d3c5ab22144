/* median.h - the middle of a few numbers; private to src/train. */
#ifndef PD_MEDIAN_H
#define PD_MEDIAN_H

#include <stdlib.h>

static inline int pd_by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of n >= 1 numbers, which are sorted in place; the upper one of an even count. */
static inline double pd_median(double *x, size_t n) {
    qsort(x, n, sizeof *x, pd_by_value);
    return x[n / 2];
}

#endif
