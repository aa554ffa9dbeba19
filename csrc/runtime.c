/* Threads, what the CPU can do, and the loops that measure this machine's peaks. */
#include "twice.h"

#ifdef REAL

/* Enough independent accumulators to hide the latency of a fused multiply-add on both pipes. */
double FN(cc_peak_fma)(int64_t rounds) {
    enum { CHAINS = 12 };
    double sink = 0;
#pragma omp parallel num_threads(cc_threads) reduction(+ : sink)
    {
        vec acc[CHAINS], a = (vec){0} + (REAL)0.999, b = (vec){0} + (REAL)1e-3;
        for (int i = 0; i < CHAINS; i++) acc[i] = (vec){0} + (REAL)i;
        for (int64_t r = 0; r < rounds; r++) {
            UNROLL for (int i = 0; i < CHAINS; i++) acc[i] = acc[i] * a + b;
        }
        for (int i = 0; i < CHAINS; i++) sink += (double)acc[i][0];
    }
    return 2.0 * CHAINS * V * rounds * cc_threads + (sink == 0.123 ? 1 : 0);
}

/* What an op cannot beat that reads `read` bytes and writes `written`: a sum and a fill, side by side. */
double FN(cc_plain_pass)(void *to, int64_t written, const void *from, int64_t read) {
    const int64_t pieces = 256, bytes = (int64_t)sizeof(vec), reads = read / bytes, writes = written / bytes;
    double sink = 0;
#pragma omp parallel for schedule(static) num_threads(cc_threads) reduction(+ : sink)
    for (int64_t piece = 0; piece < pieces; piece++) {
        const REAL *f = from;
        REAL *t = to;
        vec sum[4] = {{0}}, one = (vec){0} + 1;
        int64_t i = reads * piece / pieces;
        const int64_t read_end = reads * (piece + 1) / pieces, write_end = writes * (piece + 1) / pieces;
        for (; i + 4 <= read_end; i += 4)
            UNROLL for (int j = 0; j < 4; j++) sum[j] += FN(load)(f + (i + j) * V);
        for (int64_t o = writes * piece / pieces; o < write_end; o++) FN(store)(t + o * V, one);
        sink += (double)(sum[0] + sum[1] + sum[2] + sum[3])[0];
    }
    return sink;
}

#else /* once */

int cc_threads = 1;

void cc_set_threads(int threads) {
#ifdef _OPENMP
    cc_threads = threads;
#endif
}
int cc_get_threads(void) { return cc_threads; }
int cc_vector_bytes(void) { return CC_VECTOR_BYTES; }

int cc_cpu_supports(const char *isa) {
    if (!strcmp(isa, "baseline")) return 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!strcmp(isa, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!strcmp(isa, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return 0;
}

const char *cc_compiler(void) {
#if defined(__clang__)
    return "clang " __clang_version__;
#else
    return "gcc " __VERSION__;
#endif
}

void cc_peak_copy(void *to, const void *from, int64_t bytes) {
    const int64_t piece = 1 << 16;
    PARALLEL_FOR
    for (int64_t at = 0; at < bytes; at += piece) {
        int64_t count = MIN(piece, bytes - at);
        char *t = (char *)to + at;
        const char *f = (const char *)from + at;
#if defined(__AVX2__)
        for (int64_t i = 0; i < count; i += 32)
            _mm256_stream_si256((__m256i *)(t + i), _mm256_loadu_si256((const __m256i *)(f + i)));
#elif defined(__x86_64__)
        for (int64_t i = 0; i < count; i += 16)
            _mm_stream_si128((__m128i *)(t + i), _mm_loadu_si128((const __m128i *)(f + i)));
#else
        memcpy(t, f, count);
#endif
    }
}
#endif
