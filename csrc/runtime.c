/* The number of threads, and what the CPU can do. Compiled for the least CPU, so that every module can be asked. */
#include "twice.h"

#ifndef REAL /* once */

int cc_threads = 1;

void cc_set_threads(int threads) {
#ifdef _OPENMP
    cc_threads = threads;
#endif
}
int cc_get_threads(void) { return cc_threads; }

int cc_cpu_supports(const char *isa) {
    if (!strcmp(isa, "baseline")) return 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!strcmp(isa, "avx2"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    if (!strcmp(isa, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
#endif
    return 0;
}
#endif
