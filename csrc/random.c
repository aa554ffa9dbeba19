/* Philox4x32-10 in lanes: LANES blocks side by side, so that the compiler multiplies them as vectors. The numbers are
 * those of cnncore/ops/random.py, which is the definition. */
#include "twice.h"

#ifdef REAL

#ifndef RANDOM_H
#define RANDOM_H
#define LANES 16
static void philox(uint64_t first, uint64_t seed, uint64_t counter, uint32_t word[4][LANES]) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    uint32_t c0[LANES], c1[LANES], c2[LANES], c3[LANES];
    for (int i = 0; i < LANES; i++) {
        c0[i] = (uint32_t)(first + i);
        c1[i] = (uint32_t)((first + i) >> 32);
        c2[i] = (uint32_t)counter;
        c3[i] = (uint32_t)(counter >> 32);
    }
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < LANES; i++) {
            const uint64_t p0 = 0xD2511F53u * (uint64_t)c0[i], p1 = 0xCD9E8D57u * (uint64_t)c2[i];
            c0[i] = (uint32_t)(p1 >> 32) ^ c1[i] ^ k0;
            c1[i] = (uint32_t)p1;
            c2[i] = (uint32_t)(p0 >> 32) ^ c3[i] ^ k1;
            c3[i] = (uint32_t)p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    memcpy(word[0], c0, sizeof c0);
    memcpy(word[1], c1, sizeof c1);
    memcpy(word[2], c2, sizeof c2);
    memcpy(word[3], c3, sizeof c3);
}
#endif

void FN(cc_uniform)(REAL *u, int64_t count, uint64_t seed, uint64_t counter) {
    PARALLEL_FOR
    for (int64_t i0 = 0; i0 < count; i0 += 64 * 4 * LANES) {
        for (int64_t i = i0; i < MIN(i0 + 64 * 4 * LANES, count); i += 4 * LANES) {
            uint32_t word[4][LANES];
            philox((uint64_t)i / 4, seed, counter, word);
            for (int64_t j = 0; j < MIN(4 * LANES, count - i); j++)
                u[i + j] = (REAL)(word[j % 4][j / 4] >> 8) * (REAL)(1.0 / (1 << 24));
        }
    }
}
#endif
