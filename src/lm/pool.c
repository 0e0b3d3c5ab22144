/* pool.c - pd_parallel on libgomp, by its C entry points.
 *
 * Debian's oneDNN runs on libgomp.  A `#pragma omp` compiled by clang would bring LLVM's runtime, a
 * second pool, so the two functions that gcc's own code calls (a stable interface, GOMP_1.0 and
 * GOMP_4.0) are called by name. Idle threads of libgomp spin for milliseconds by default, which
 * starves other processes on few cores; that is set by the environment before the library loads
 * (OMP_WAIT_POLICY, see src/node/peerd.c).
 */
#include "pool.h"
#include "peerd/model.h"

#include <sched.h>
#include <stdatomic.h>

void GOMP_parallel(void (*fn)(void *), void *data, unsigned num_threads, unsigned flags);
void omp_set_num_threads(int n);
int omp_get_max_threads(void);
int omp_in_parallel(void);

static _Atomic unsigned pool_threads; /* 0 until set */

static unsigned cores(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    int n = CPU_COUNT(&set);
    return n > 0 ? (unsigned)n : 1;
}

unsigned pd_pool_set(unsigned threads) {
    enum { THREADS_MAX = 1024 };
    if (threads == 0)
        threads = cores();
    if (threads > THREADS_MAX)
        threads = THREADS_MAX;
    atomic_store(&pool_threads, threads);
    omp_set_num_threads((int)threads);
    return threads;
}

unsigned pd_pool_threads(void) {
    unsigned n = atomic_load(&pool_threads);
    return n ? n : pd_pool_set(0);
}

void pd_pool_enter(void) {
    int n = (int)pd_pool_threads();
    if (omp_get_max_threads() != n)
        omp_set_num_threads(n);
}

typedef struct job {
    void (*fn)(void *ctx, size_t i);
    void *ctx;
    size_t n;
    _Atomic size_t next;
} job;

/* Orders each thread's work after the caller's and before its return.  libgomp's barriers do the
 * same, but a thread sanitizer sees only ours.
 */
static _Atomic unsigned fence;

static void work_off(void *data) {
    (void)atomic_load_explicit(&fence, memory_order_acquire);
    job *j = data;
    for (;;) {
        size_t i = atomic_fetch_add_explicit(&j->next, 1, memory_order_relaxed);
        if (i >= j->n)
            break;
        j->fn(j->ctx, i);
    }
    atomic_fetch_add_explicit(&fence, 1, memory_order_release);
}

void pd_parallel(size_t n, void (*fn)(void *ctx, size_t i), void *ctx) {
    unsigned threads = pd_pool_threads();
    if (n <= 1 || threads == 1 || omp_in_parallel()) {
        for (size_t i = 0; i < n; i++)
            fn(ctx, i);
        return;
    }
    pd_pool_enter();
    job j = {.fn = fn, .ctx = ctx, .n = n};
    atomic_fetch_add_explicit(&fence, 1, memory_order_release);
    GOMP_parallel(work_off, &j, n < threads ? (unsigned)n : threads, 0);
    (void)atomic_load_explicit(&fence, memory_order_acquire);
}
