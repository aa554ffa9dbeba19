/* Philox4x32-10 in lanes: a vector holds one 32-bit word of L blocks in its 64-bit lanes, so that one instruction makes
 * L products of 32 x 32 bits. The upper halves hold rubbish between rounds; the products ignore them. Two vectors go
 * side by side, because a round is a chain of dependent steps. The numbers are those of cnncore/ops/random.py.
 * Included by kernel files, after twice.h and channels_last.h. */

#ifndef PHILOX_H
#define PHILOX_H
#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef uint64_t words __attribute__((vector_size(CC_VECTOR_BYTES)));
typedef int32_t halves __attribute__((vector_size(CC_VECTOR_BYTES)));
typedef uint32_t unsigned_halves __attribute__((vector_size(CC_VECTOR_BYTES)));
#define L (CC_VECTOR_BYTES / 8)
#define PAIR 2
#define AT_ONCE (PAIR * L * 4) /* uniforms */
#define ROUNDS 10

/* Every round's key, and the upper half of the blocks' counters. */
typedef struct { words k0[ROUNDS], k1[ROUNDS], c2, c3; } philox_key;

static philox_key spread_key(const uint64_t key[2]) {
    const words zero = {0};
    uint32_t k0 = (uint32_t)key[0], k1 = (uint32_t)(key[0] >> 32);
    philox_key k = {.c2 = zero + key[1], .c3 = zero + (key[1] >> 32)};
    for (int round = 0; round < ROUNDS; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        k.k0[round] = zero + k0;
        k.k1[round] = zero + k1;
    }
    return k;
}

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

/* a0 b0 a1 b1 ... */
INLINE void interleave(uint64_t *to, words a, words b) {
#ifdef __clang__
    for (int i = 0; i < L; i++) {
        to[2 * i] = a[i];
        to[2 * i + 1] = b[i];
    }
#else
    words low, high;
    UNROLL for (int i = 0; i < L; i++) {
        low[i] = i / 2 + i % 2 * L;
        high[i] = low[i] + L / 2;
    }
    low = __builtin_shuffle(a, b, low);
    high = __builtin_shuffle(a, b, high);
    memcpy(to, &low, sizeof low);
    memcpy(to + L, &high, sizeof high);
#endif
}

/* Block counters to words: c0 comes in counting from 0, and c0 to c3 are the words of blocks `first` on. */
INLINE void philox_rounds(words c0[PAIR], words c1[PAIR], words c2[PAIR], words c3[PAIR], uint64_t first,
                          const philox_key *k) {
    for (int j = 0; j < PAIR; j++) {
        c0[j] += first;
        c1[j] = c0[j] >> 32;
        c2[j] = k->c2;
        c3[j] = k->c3;
    }
    for (int round = 0; round < ROUNDS; round++)
        for (int j = 0; j < PAIR; j++) {
            const words p0 = low_product(c0[j], 0xD2511F53u), p1 = low_product(c2[j], 0xCD9E8D57u);
            c0[j] = (p1 >> 32) ^ c1[j] ^ k->k0[round];
            c1[j] = p1;
            c2[j] = (p0 >> 32) ^ c3[j] ^ k->k1[round];
            c3[j] = p0;
        }
}

/* The words of AT_ONCE / 4 blocks from block `first` on, in order. */
INLINE void philox(uint32_t word[AT_ONCE], uint64_t first, const philox_key *k) {
    words c0[PAIR], c1[PAIR], c2[PAIR], c3[PAIR];
    for (int j = 0; j < PAIR; j++)
        for (int i = 0; i < L; i++) c0[j][i] = (uint64_t)(j * L + i);
    philox_rounds(c0, c1, c2, c3, first, k);
    for (int j = 0; j < PAIR; j++) {
        uint64_t two[2 * L]; /* two words each, the lower half first */
        interleave(two, (c0[j] & 0xFFFFFFFFu) | (c1[j] << 32), (c2[j] & 0xFFFFFFFFu) | (c3[j] << 32));
        for (int i = 0; i < 2 * L; i++) {
            word[j * 4 * L + 2 * i] = (uint32_t)two[i];
            word[j * 4 * L + 2 * i + 1] = (uint32_t)(two[i] >> 32);
        }
    }
}

/* `bit` in every lane whose word is at least 2^8 `least` */
INLINE words at_least(words w, int32_t least, uint64_t bit) {
    const halves high = (halves)((unsigned_halves)w >> 8);
    return (words)(high > (halves){0} + (least - 1)) & bit;
}

/* kept[i] = 1 where uniform number first + i is at least 2^-24 `least`, else 0. Lane i of vector j is block 2 i + j, so
 * that the words of a lane become eight adjacent bytes. What is read next, at `soon`, is fetched on the way. */
static inline void draw_kept(uint8_t *kept, int64_t first, int64_t count, int32_t least, const philox_key *key,
                             const char *soon, int64_t soon_bytes) {
    for (int64_t i = -(first % 4); i < count; i += AT_ONCE) {
        words c0[PAIR], c1[PAIR], c2[PAIR], c3[PAIR], four[PAIR];
        for (int j = 0; j < PAIR; j++)
            for (int l = 0; l < L; l++) c0[j][l] = (uint64_t)(PAIR * l + j);
        philox_rounds(c0, c1, c2, c3, (uint64_t)(first + i) / 4, key);
        for (int j = 0; j < PAIR; j++)
            four[j] = at_least(c0[j], least, 1) | at_least(c1[j], least, 1 << 8) | at_least(c2[j], least, 1 << 16) |
                      at_least(c3[j], least, 1 << 24);
        const words eight = four[0] | four[1] << 32;
        const int64_t from = MAX(i, 0), to = MIN(i + AT_ONCE, count);
        if (to - from == AT_ONCE) memcpy(kept + i, &eight, AT_ONCE);
        else memcpy(kept + from, (const char *)&eight + (from - i), to - from);
        for (int64_t line = 0; line < AT_ONCE * soon_bytes; line += 64) __builtin_prefetch(soon + from * soon_bytes + line);
    }
}

/* Eight rows of eight bytes to eight columns, in every lane: quarters change places, then quarters of quarters. */
INLINE void turn_squares(words row[8]) {
    static const uint64_t keep[] = {0x00FF00FF00FF00FF, 0x0000FFFF0000FFFF, 0x00000000FFFFFFFF};
    UNROLL for (int step = 2; step >= 0; step--) {
        UNROLL for (int i = 0; i < 8; i++) {
            const int far = 1 << step;
            if (i & far) continue;
            const words other = ((row[i] >> 8 * far) ^ row[i + far]) & keep[step];
            row[i + far] ^= other;
            row[i] ^= other << 8 * far;
        }
    }
}

/* to[column][row] = from[row][column] */
static inline void turn_bytes(uint8_t *to, const uint8_t *from, int64_t rows, int64_t columns) {
    const int64_t even_rows = rows - rows % 8, even_columns = columns - columns % (8 * L);
    for (int64_t c = 0; c < even_columns; c += 8 * L)
        for (int64_t r = 0; r < even_rows; r += 8) {
            words row[8];
            for (int i = 0; i < 8; i++) memcpy(&row[i], from + (r + i) * columns + c, sizeof(words));
            turn_squares(row);
            for (int i = 0; i < 8; i++)
                for (int l = 0; l < L; l++) memcpy(to + (c + 8 * l + i) * rows + r, (uint64_t *)&row[i] + l, 8);
        }
    for (int64_t c = 0; c < columns; c++)
        for (int64_t r = c < even_columns ? even_rows : 0; r < rows; r++) to[c * rows + r] = from[r * columns + c];
}
#endif

/* Uniforms number `first` to `first + count` of a key. */
static void FN(uniforms)(REAL *u, int64_t first, int64_t count, const philox_key *key) {
    for (int64_t i = -(first % 4); i < count; i += AT_ONCE) {
        uint32_t word[AT_ONCE];
        REAL number[AT_ONCE];
        philox(word, (uint64_t)(first + i) / 4, key);
        for (int j = 0; j < AT_ONCE; j++) number[j] = (REAL)(int32_t)(word[j] >> 8) * (REAL)(1.0 / (1 << 24));
        if (i >= 0 && i + AT_ONCE <= count) memcpy(u + i, number, sizeof number);
        else
            for (int64_t j = MAX(i, 0); j < MIN(i + AT_ONCE, count); j++) u[j] = number[j - i];
    }
}

/* The uniforms of maps, in pieces that stay in cache. Element i of a key is the i-th of the maps as (N, C, S); a piece is
 * a run of memory. Channels last, that is `pixels` of an image, all channels, and the piece is drawn map by map and
 * turned. Contiguous maps are one image of one channel. */
#define map_draw FN(cc_map_draw)
typedef struct {
    const REAL *given; /* the uniforms, where the caller has drawn them */
    philox_key key;
    int64_t images, pixels, channels, step, pieces;
} map_draw;

static inline map_draw FN(map_draw_of)(cc_in u) {
    const int64_t pixels = u->shape[2] * u->shape[3] * u->shape[4], channels = u->shape[1];
    const int last = u->stride[1] == 1 && pixels > 1;
    map_draw d = {u->data, spread_key(u->key), last ? u->shape[0] : 1, last ? pixels : cc_count(u), last ? channels : 1};
    d.step = cc_round_up(8192 / d.channels + 1, AT_ONCE);
    d.pieces = d.images * cc_ceil_div(d.pixels, d.step);
    return d;
}

/* Scratch for one piece, twice: drawn, and turned. */
static inline int64_t FN(map_draw_bytes)(const map_draw *d) {
    return d->given ? 0 : 2 * cc_round_up(d->step * d->channels * (int64_t)sizeof(REAL), 64);
}

#define map_piece FN(cc_map_piece)
typedef struct {
    int64_t at, count;     /* in memory */
    int64_t pixels, first; /* the number of the first map's first uniform; the next map's stand d->pixels further */
    const REAL *u;
} map_piece;

/* Piece i; u only where they are given. */
static inline map_piece FN(piece_of)(const map_draw *d, int64_t i) {
    const int64_t per = cc_ceil_div(d->pixels, d->step), image = i / per, pixel = i % per * d->step;
    const int64_t pixels = MIN(d->step, d->pixels - pixel), at = (image * d->pixels + pixel) * d->channels;
    return (map_piece){at, pixels * d->channels, pixels, image * d->channels * d->pixels + pixel,
                       d->given ? d->given + at : NULL};
}

/* Piece i: its uniforms where they are given, or drawn into the scratch. */
static inline map_piece FN(draw_piece)(const map_draw *d, int64_t i, char *scratch) {
    map_piece piece = FN(piece_of)(d, i);
    if (d->given) return piece;
    REAL *u = (REAL *)scratch, *turned = (REAL *)(scratch + FN(map_draw_bytes)(d) / 2);
    for (int64_t c = 0; c < d->channels; c++)
        FN(uniforms)(u + c * piece.pixels, piece.first + c * d->pixels, piece.pixels, &d->key);
    if (d->channels > 1) FN(pack_row)(turned, u, piece.pixels, d->channels, 1, piece.pixels);
    piece.u = d->channels > 1 ? turned : u;
    return piece;
}
