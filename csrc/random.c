/* Philox4x32-10 in lanes: a vector holds one 32-bit word of L blocks in its 64-bit lanes, so that one instruction makes
 * L products of 32 x 32 bits. The upper halves hold rubbish between rounds; the products ignore them. Two vectors go
 * side by side, because a round is a chain of dependent steps. The numbers are those of cnncore/ops/random.py. */
#include "twice.h"

#ifdef REAL

#ifndef RANDOM_H
#define RANDOM_H
#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef uint64_t words __attribute__((vector_size(CC_VECTOR_BYTES)));
#define L (CC_VECTOR_BYTES / 8)
#define PAIR 2
#define AT_ONCE (PAIR * L * 4) /* uniforms */

INLINE words low_product(words a, uint64_t b) {
#if defined(__AVX512F__) && CC_VECTOR_BYTES == 64
    return (words)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64((long long)b));
#elif defined(__AVX2__) && CC_VECTOR_BYTES == 32
    return (words)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x((long long)b));
#elif defined(__SSE2__) && CC_VECTOR_BYTES == 16
    return (words)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x((long long)b));
#else
    return (a & 0xFFFFFFFFu) * b;
#endif
}

/* Word w of block `first + i` to word[w][i]. */
static void philox(uint64_t first, uint64_t seed, uint64_t counter, uint64_t word[4][PAIR * L]) {
    words c0[PAIR], c1[PAIR], c2[PAIR], c3[PAIR];
    for (int j = 0; j < PAIR; j++)
        for (int i = 0; i < L; i++) {
            const uint64_t block = first + (uint64_t)(j * L + i);
            c0[j][i] = block;
            c1[j][i] = block >> 32;
            c2[j][i] = counter;
            c3[j][i] = counter >> 32;
        }
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
        for (int j = 0; j < PAIR; j++) {
            const words p0 = low_product(c0[j], 0xD2511F53u), p1 = low_product(c2[j], 0xCD9E8D57u);
            c0[j] = (p1 >> 32) ^ c1[j] ^ (uint64_t)k0;
            c1[j] = p1;
            c2[j] = (p0 >> 32) ^ c3[j] ^ (uint64_t)k1;
            c3[j] = p0;
        }
    for (int j = 0; j < PAIR; j++) {
        memcpy(&word[0][j * L], &c0[j], sizeof(words));
        memcpy(&word[1][j * L], &c1[j], sizeof(words));
        memcpy(&word[2][j * L], &c2[j], sizeof(words));
        memcpy(&word[3][j * L], &c3[j], sizeof(words));
    }
}
#endif

void FN(cc_uniform)(REAL *u, int64_t count, uint64_t seed, uint64_t counter) {
    const int64_t piece = 64 * AT_ONCE;
    PARALLEL_FOR
    for (int64_t i0 = 0; i0 < count; i0 += piece)
        for (int64_t i = i0; i < MIN(i0 + piece, count); i += AT_ONCE) {
            uint64_t word[4][PAIR * L];
            REAL number[AT_ONCE];
            philox((uint64_t)i / 4, seed, counter, word);
            for (int j = 0; j < AT_ONCE; j++)
                number[j] = (REAL)(int32_t)((uint32_t)word[j % 4][j / 4] >> 8) * (REAL)(1.0 / (1 << 24));
            memcpy(u + i, number, MIN(AT_ONCE, count - i) * sizeof(REAL));
        }
}
#endif
