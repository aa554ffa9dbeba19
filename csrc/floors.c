/* Loops that no op can beat: each does only what an op of so many FLOPs, bytes or exponentials must do. They find the
 * peaks of this machine. bench/compare.py runs them in turns with the ops whose limits they are. */
#include "twice.h"

#ifdef REAL
#include "channels_last.h"
#include "philox.h"
#include "vmath.h"

/* Enough independent accumulators to hide the latency of a fused multiply-add on both pipes. */
double FN(cc_peak_fma)(int64_t rounds) {
    enum { CHAINS = 12 };
    double sink = 0;
#pragma omp parallel num_threads(cc_threads) reduction(+ : sink)
    {
        vec acc[CHAINS], a = (vec){0} + (REAL)0.999, b = (vec){0} + (REAL)1e-3;
        IN_REGISTER(a); /* the compiler must not know a and b: it left out the chain that began at b / (1 - a) */
        IN_REGISTER(b);
        for (int i = 0; i < CHAINS; i++) acc[i] = (vec){0} + (REAL)i;
        for (int64_t r = 0; r < rounds; r++) {
            UNROLL for (int i = 0; i < CHAINS; i++) acc[i] = acc[i] * a + b;
        }
        for (int i = 0; i < CHAINS; i++) sink += (double)acc[i][0];
    }
    return 2.0 * CHAINS * V * rounds * cc_threads + (sink == 0.123 ? 1 : 0);
}

/* Reads `read` bytes and writes `written` bytes: a sum and a fill, side by side. */
double FN(cc_plain_pass)(void *to, int64_t written, const void *from, int64_t read, int streamed) {
    const int64_t pieces = 256, bytes = (int64_t)sizeof(vec), reads = read / bytes, writes = written / bytes;
    double sink = 0;
    PARALLEL_TASKS(piece, pieces) {
        const REAL *f = from;
        REAL *t = to;
        vec sum[4] = {{0}}, one = (vec){0} + 1;
        int64_t i = reads * piece / pieces;
        const int64_t read_end = reads * (piece + 1) / pieces, write_end = writes * (piece + 1) / pieces;
        for (; i + 4 <= read_end; i += 4)
            UNROLL for (int j = 0; j < 4; j++) sum[j] += FN(load)(f + (i + j) * V);
        for (int64_t o = writes * piece / pieces; o < write_end; o++) FN(stream)(t + o * V, one, streamed);
        _Pragma("omp atomic") sink += (double)(sum[0] + sum[1] + sum[2] + sum[3])[0];
    }
    return sink;
}

#ifndef FLOORS_H
#define FLOORS_H
int cc_vector_bytes(void) { return CC_VECTOR_BYTES; }

#define MATH_BLOCK 1024 /* numbers, which stay in the first-level cache */
/* To a compiler this reads and changes the block. So it cannot leave the work out, or do it only once. */
#define USED(p) __asm__ volatile("" : : "r"(p) : "memory")
#endif

/* Computes so many exponentials, then logarithms, then words of Philox, on all threads and without touching memory. It
 * takes the cheapest form of each: the exponential of x <= 0, the logarithm of a normal number, words that never become
 * uniforms. */
void FN(cc_math_pass)(int64_t exponentials, int64_t logarithms, int64_t uniforms) {
    const philox_key key = spread_key((uint64_t[]){1, 2});
    const philox_start start = start_blocks(&key, 0);
#pragma omp parallel num_threads(cc_threads)
    {
        REAL x[MATH_BLOCK], y[MATH_BLOCK];
        words all = {0};
        for (int i = 0; i < MATH_BLOCK; i++) x[i] = (REAL)(i + 1) / 128;
#pragma omp for schedule(static) nowait
        for (int64_t at = 0; at < exponentials; at += MATH_BLOCK) {
            USED(x);
            for (int i = 0; i < MATH_BLOCK; i += V) FN(store)(y + i, FN(exp_down)(-FN(load)(x + i)));
            USED(y);
        }
#pragma omp for schedule(static) nowait
        for (int64_t at = 0; at < logarithms; at += MATH_BLOCK) {
            USED(x);
            for (int i = 0; i < MATH_BLOCK; i += V) FN(store)(y + i, FN(log_normal)(FN(load)(x + i)));
            USED(y);
        }
#pragma omp for schedule(static)
        for (int64_t at = 0; at < uniforms; at += MATH_BLOCK)
            for (int64_t i = 0; i < MATH_BLOCK; i += AT_ONCE) {
                words c[PAIR][4];
                for (int j = 0; j < PAIR; j++) {
                    for (int l = 0; l < L; l++) c[j][0][l] = (uint32_t)(j * L + l);
                    c[j][0] += (uint32_t)((at + i) / 4);
                }
                philox(c, &key, &start);
                UNROLL for (int j = 0; j < PAIR; j++) all ^= c[j][0] ^ c[j][1] ^ c[j][2] ^ c[j][3];
            }
        USED(&all);
    }
}

#endif
