/* replay.c - how fast records become coordinates, and how much of that is their directions' key
 * stream.
 *
 * usage: replay [coordinates] [records] [rounds]
 *
 * One thread, through pd_replay_apply in calls of PD_REPLAY_FUSED records, as a newcomer replays a
 * log.  Each round times the key streams alone (pd_direction_signs) beside it: replay cannot be
 * faster than those.  Processor time; the median of the rounds.
 */
#include "peerd/replay.h"
#include "peerd/identity.h"
#include "peerd/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ROUNDS_MAX = 99 };

static double processor_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, size_t n) {
    qsort(v, n, sizeof *v, by_value);
    return v[n / 2];
}

int main(int argc, char **argv) {
    size_t d = argc > 1 ? strtoull(argv[1], NULL, 10) : 2400000;
    size_t records = argc > 2 ? strtoull(argv[2], NULL, 10) : 1000;
    size_t rounds = argc > 3 ? strtoull(argv[3], NULL, 10) : 5;
    if (d < 1 || records < 1 || rounds < 1 || rounds > ROUNDS_MAX) {
        fprintf(stderr, "usage: replay [coordinates] [records] [rounds]\n");
        return 2;
    }
    if (pd_crypto_init()) {
        fprintf(stderr, "replay: %s\n", pd_fail_text());
        return 1;
    }
    int32_t *a = calloc(d, sizeof *a);
    uint8_t *bits = malloc((d + 7) / 8);
    uint8_t(*seeds)[32] = malloc(records * sizeof *seeds);
    int64_t *q = malloc(records * sizeof *q);
    if (!a || !bits || !seeds || !q) {
        fprintf(stderr, "replay: no memory\n");
        return 1;
    }
    pd_rng rng = {1};
    pd_author author = {.inc = 0};
    uint8_t run[32] = {1};
    for (size_t k = 0; k < records; k++) {
        pd_direction_seed(run, &author, k, seeds[k]);
        q[k] = (int64_t)pd_rng_below(&rng, 2000001) - 1000000;
    }
    double whole[ROUNDS_MAX], stream[ROUNDS_MAX], updates = (double)d * (double)records;
    for (size_t r = 0; r < rounds; r++) {
        double start = processor_s();
        for (size_t k = 0; k < records; k += PD_REPLAY_FUSED)
            pd_replay_apply(a, d, (const uint8_t(*)[32])seeds + k, q + k,
                            records - k < PD_REPLAY_FUSED ? records - k : PD_REPLAY_FUSED);
        double mid = processor_s();
        for (size_t k = 0; k < records; k++)
            pd_direction_signs(seeds[k], bits, d);
        whole[r] = updates / (mid - start) * 1e-9;
        stream[r] = updates / (processor_s() - mid) * 1e-9;
    }
    double w = median(whole, rounds), s = median(stream, rounds);
    printf("%zu coordinates, %zu records: replay %.2f G updates/s, key streams alone %.2f G "
           "signs/s, %.0f %%\n",
           d, records, w, s, 100 * w / s);
    printf("1,000,000 records of %zu coordinates: %.0f s on one core\n", d,
           (double)d * 1e6 / w * 1e-9);
    free(a);
    free(bits);
    free(seeds);
    free(q);
    return 0;
}
