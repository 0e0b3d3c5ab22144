/* dispatch.c - choose the kernels' generation for this processor, once.
 *
 * ONEDNN_MAX_CPU_ISA limits these as it limits oneDNN's own: to compare generations, and for tools
 * that emulate a processor and are slow at fused multiply-adds (valgrind).
 */
#include "kernels.h"

#include <stdlib.h>
#include <string.h>

extern const pd_kernels pd_kernels_base;
#if defined(__x86_64__)
extern const pd_kernels pd_kernels_avx2, pd_kernels_avx512;

enum { BASE, AVX2, AVX512 };

static int limit(void) {
    const char *isa = getenv("ONEDNN_MAX_CPU_ISA");
    if (!isa)
        return AVX512;
    if (strcmp(isa, "SSE41") == 0 || strcmp(isa, "AVX") == 0)
        return BASE;
    return strncmp(isa, "AVX2", 4) == 0 ? AVX2 : AVX512;
}
#endif

const pd_kernels *pd_kernels_get(void) {
#if defined(__x86_64__)
    int most = limit();
    __builtin_cpu_init();
    if (most >= AVX512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return &pd_kernels_avx512;
    if (most >= AVX2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &pd_kernels_avx2;
#endif
    return &pd_kernels_base;
}
