/* dispatch.c - choose the kernels' generation for this processor, once. */
#include "kernels.h"

extern const pd_kernels pd_kernels_base;
#if defined(__x86_64__)
extern const pd_kernels pd_kernels_avx2, pd_kernels_avx512;
#endif

const pd_kernels *pd_kernels_get(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return &pd_kernels_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &pd_kernels_avx2;
#endif
    return &pd_kernels_base;
}
