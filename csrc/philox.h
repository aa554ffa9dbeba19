/* Philox4x32-10 in lanes: a vector holds the same 32-bit word of L blocks. The numbers are those of
 * cnncore/ops/random.py. Included by kernel files, after twice.h and channels_last.h.
 *
 * A round multiplies two words, 32 x 32 to 64 bits. AVX2 makes the four even and the four odd products of a vector. The
 * upper three words of the counter are the same in all lanes, and so is half of what the first three rounds compute:
 * that is computed once. The limit is the chain of rounds: registers have room for two vectors side by side, not more.
 *
 *   v1  one word of 4 blocks in 64-bit lanes: 1.7 cycles a word (uniforms 3.4)
 *   v2  the constant part of the first rounds once: 1.7
 *   v3  32-bit lanes, upper halves by a shift and a blend: 1.55
 *   v4  upper halves by a shuffle: 1.4 (uniforms 1.8)
 *
 * Measurements, and what did not help: docs/kernels/random.md. */

#ifndef PHILOX_H
#define PHILOX_H
#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef uint32_t words __attribute__((vector_size(CC_VECTOR_BYTES)));
typedef int32_t signed_words __attribute__((vector_size(CC_VECTOR_BYTES)));
typedef float word_floats __attribute__((vector_size(CC_VECTOR_BYTES)));
typedef uint64_t longs __attribute__((vector_size(CC_VECTOR_BYTES)));
#define L (CC_VECTOR_BYTES / 4)
#define PAIR 2
#define AT_ONCE (PAIR * L * 4) /* uniforms that are made at once */
#define ROUNDS 10
#define M0 0xD2511F53u
#define M1 0xCD9E8D57u
#define PIECE_WORDS 8192 /* words of a piece of maps, which stays in cache; it divides SAME_UPPER */
#define SAME_UPPER ((int64_t)4 << 32) /* so many uniforms belong to blocks whose numbers have the same upper half */

/* The keys of all rounds. They include what words 2 and 3 of the counter bring into rounds 1 and 2; these words are the
 * same for the whole draw. c0 is word 0 after round 1, without the upper half of the block's number. */
typedef struct { words k0[ROUNDS], k1[ROUNDS]; uint32_t c0; } philox_key;

static philox_key spread_key(const uint64_t key[2]) {
    const words zero = {0};
    const uint64_t p1 = (uint64_t)M1 * (uint32_t)key[1];
    uint32_t k0 = (uint32_t)key[0], k1 = (uint32_t)(key[0] >> 32);
    philox_key k = {.c0 = (uint32_t)(p1 >> 32) ^ k0};
    for (int round = 0; round < ROUNDS; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        k.k0[round] = zero + k0;
        k.k1[round] = zero + k1;
    }
    k.k1[0] ^= (uint32_t)(key[1] >> 32);
    k.k0[1] ^= (uint32_t)p1;
    return k;
}

/* The part of rounds 2 and 3 that is the same for all blocks whose numbers have this upper half: the two halves of the
 * product of word 0, each combined with its key. */
typedef struct { words second, third; } philox_start;

static inline philox_start start_blocks(const philox_key *k, int64_t upper) {
    const uint64_t p0 = (uint64_t)M0 * (k->c0 ^ (uint32_t)upper);
    return (philox_start){k->k1[1] ^ (uint32_t)(p0 >> 32), k->k1[2] ^ (uint32_t)p0};
}

/* The products of the even words of a with b. */
INLINE longs product(longs a, uint32_t b) {
#if defined(__AVX512F__) && CC_VECTOR_BYTES == 64
    return (longs)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi32((int)b));
#elif defined(__AVX2__) && CC_VECTOR_BYTES == 32
    return (longs)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi32((int)b));
#elif defined(__SSE2__) && CC_VECTOR_BYTES == 16
    return (longs)_mm_mul_epu32((__m128i)a, _mm_set1_epi32((int)b));
#else
    return (a & 0xFFFFFFFFu) * b;
#endif
}

/* From every four lanes of a (numbers 0 to 3) and the same four lanes of b (numbers 4 to 7): those with numbers w, x,
 * y, z. For GCC the words are floats here, since then the shuffle is one instruction. */
INLINE words pick(words a, words b, int w, int x, int y, int z) {
    const int number[4] = {w, x, y, z};
    words picked;
#ifdef __clang__
    UNROLL for (int i = 0; i < L; i++) {
        const int from = number[i % 4];
        picked[i] = from < 4 ? a[i / 4 * 4 + from] : b[i / 4 * 4 + from - 4];
    }
#else
    UNROLL for (int i = 0; i < L; i++) picked[i] = i / 4 * 4 + number[i % 4] % 4 + number[i % 4] / 4 * L;
    picked = (words)__builtin_shuffle((word_floats)a, (word_floats)b, (signed_words)picked);
#endif
    return picked;
}

/* The upper halves of a b. In every four lanes, the two middle ones are exchanged. */
INLINE words high_product(words a, uint32_t b) {
    const words even = (words)product((longs)a, b), odd = (words)product((longs)a >> 32, b);
    return pick(even, odd, 1, 3, 5, 7);
}

/* One round. high_product exchanges lanes, and its results become words 0 and 2. They are combined with words 1 and 3,
 * which come from the round before and have one exchange less than words 0 and 2 had. Two exchanges cancel, so lanes of
 * the same block meet. */
INLINE void philox_round(words c[4], words k0, words k1) {
    const words high0 = high_product(c[0], M0), high1 = high_product(c[2], M1), low0 = c[0] * M0, low1 = c[2] * M1;
    c[0] = high1 ^ c[1] ^ k0;
    c[1] = low1;
    c[2] = high0 ^ c[3] ^ k1;
    c[3] = low0;
}

/* The words of blocks. The lower halves of the blocks' numbers come in as word 0. */
INLINE void philox(words c[PAIR][4], const philox_key *k, const philox_start *start) {
    for (int j = 0; j < PAIR; j++) {
        const words number = c[j][0], c2 = high_product(number, M0) ^ k->k1[0];
        c[j][0] = high_product(c2, M1) ^ k->k0[1];
        c[j][1] = c2 * M1;
        c[j][2] = (number * M0) ^ start->second;
        c[j][3] = (words){0};
        philox_round(c[j], k->k0[2], start->third);
    }
    UNROLL for (int round = 3; round < ROUNDS; round++)
        for (int j = 0; j < PAIR; j++) philox_round(c[j], k->k0[round], k->k1[round]);
    for (int j = 0; j < PAIR; j++)
        for (int w = 1; w < 4; w += 2) c[j][w] = pick(c[j][w], c[j][w], 0, 2, 1, 3);
}

/* `bit` in every lane whose word is at least 2^8 * least, else 0. */
INLINE words at_least(words w, int32_t least, uint32_t bit) {
    return (words)((signed_words)(w >> 8) > (signed_words){0} + (least - 1)) & bit;
}

/* kept[i] = 1 if uniform number i of the blocks from `number` on is at least 2^-24 * least, else 0. The four words of a
 * block become four adjacent bytes. */
INLINE void keep_some(uint8_t kept[AT_ONCE], uint32_t number, int32_t least, const philox_key *key,
                      const philox_start *start) {
    words c[PAIR][4], four[PAIR];
    for (int j = 0; j < PAIR; j++) {
        for (int l = 0; l < L; l++) c[j][0][l] = (uint32_t)(j * L + l);
        c[j][0] += number;
    }
    philox(c, key, start);
    for (int j = 0; j < PAIR; j++)
        four[j] = at_least(c[j][0], least, 1) | at_least(c[j][1], least, 1 << 8) |
                  at_least(c[j][2], least, 1 << 16) | at_least(c[j][3], least, 1 << 24);
    memcpy(kept, four, AT_ONCE);
}

/* The same for the `count` uniforms from number `first` on. The memory at `soon`, which is read next, is fetched on the
 * way. */
static inline void draw_kept(uint8_t *kept, int64_t first, int64_t count, int32_t least, const philox_key *key,
                             const char *soon, int64_t soon_bytes) {
    const int64_t same = SAME_UPPER - first % SAME_UPPER;
    if (count > same)
        draw_kept(kept + same, first + same, count - same, least, key, soon + same * soon_bytes, soon_bytes);
    count = MIN(count, same);
    const philox_start start = start_blocks(key, first / SAME_UPPER);
    for (int64_t i = -(first % 4); i < count; i += AT_ONCE) {
        uint8_t some[AT_ONCE];
        keep_some(some, (uint32_t)((first + i) / 4), least, key, &start);
        const int64_t from = MAX(i, 0), to = MIN(i + AT_ONCE, count);
        if (to - from == AT_ONCE) memcpy(kept + i, some, AT_ONCE);
        else memcpy(kept + from, some + (from - i), to - from);
        for (int64_t line = 0; line < AT_ONCE * soon_bytes; line += 64) __builtin_prefetch(soon + from * soon_bytes + line);
    }
}

/* Transposes a square of 8 x 8 bytes in every lane: two quarters of the square change places, then two quarters of
 * every quarter, and so on. */
INLINE void turn_squares(longs row[8]) {
    static const uint64_t keep[] = {0x00FF00FF00FF00FF, 0x0000FFFF0000FFFF, 0x00000000FFFFFFFF};
    UNROLL for (int step = 2; step >= 0; step--) {
        UNROLL for (int i = 0; i < 8; i++) {
            const int far = 1 << step;
            if (i & far) continue;
            const longs other = ((row[i] >> 8 * far) ^ row[i + far]) & keep[step];
            row[i + far] ^= other;
            row[i] ^= other << 8 * far;
        }
    }
}

/* to[column][row] = from[row][column] */
static inline void turn_bytes(uint8_t *to, const uint8_t *from, int64_t rows, int64_t columns) {
    const int64_t even_rows = rows - rows % 8, even_columns = columns - columns % (int64_t)sizeof(longs);
    for (int64_t c = 0; c < even_columns; c += (int64_t)sizeof(longs))
        for (int64_t r = 0; r < even_rows; r += 8) {
            longs row[8];
            for (int i = 0; i < 8; i++) memcpy(&row[i], from + (r + i) * columns + c, sizeof(longs));
            turn_squares(row);
            for (int i = 0; i < 8; i++)
                for (int l = 0; l < L / 2; l++) memcpy(to + (c + 8 * l + i) * rows + r, (uint64_t *)&row[i] + l, 8);
        }
    for (int64_t c = 0; c < columns; c++)
        for (int64_t r = c < even_columns ? even_rows : 0; r < rows; r++) to[c * rows + r] = from[r * columns + c];
}

/* Transposes every square of four lanes: lane q of vector w changes places with lane w of vector q. */
INLINE void turn_fours(words c[4]) {
    const words low02 = pick(c[0], c[2], 0, 4, 1, 5), high02 = pick(c[0], c[2], 2, 6, 3, 7);
    const words low13 = pick(c[1], c[3], 0, 4, 1, 5), high13 = pick(c[1], c[3], 2, 6, 3, 7);
    c[0] = pick(low02, low13, 0, 4, 1, 5);
    c[1] = pick(low02, low13, 2, 6, 3, 7);
    c[2] = pick(high02, high13, 0, 4, 1, 5);
    c[3] = pick(high02, high13, 2, 6, 3, 7);
}
#endif

/* The `count` uniforms of a key from number `first` on. Blocks are arranged in lanes so that their words come out in
 * order. */
static void FN(uniforms)(REAL *u, int64_t first, int64_t count, const philox_key *key) {
    const int64_t same = SAME_UPPER - first % SAME_UPPER;
    if (count > same) FN(uniforms)(u + same, first + same, count - same, key);
    count = MIN(count, same);
    const philox_start start = start_blocks(key, first / SAME_UPPER);
    for (int64_t i = -(first % 4); i < count; i += AT_ONCE) {
        words c[PAIR][4];
        uint32_t word[AT_ONCE];
        REAL number[AT_ONCE];
        for (int j = 0; j < PAIR; j++) {
            for (int l = 0; l < L; l++) c[j][0][l] = (uint32_t)(j * L + l % 4 * (L / 4) + l / 4);
            c[j][0] += (uint32_t)((first + i) / 4);
        }
        philox(c, key, &start);
        for (int j = 0; j < PAIR; j++) turn_fours(c[j]);
        memcpy(word, c, sizeof word);
        for (int j = 0; j < AT_ONCE; j++) number[j] = (REAL)(int32_t)(word[j] >> 8) * (REAL)(1.0 / (1 << 24));
        const int64_t from = MAX(i, 0), to = MIN(i + AT_ONCE, count);
        if (to - from == AT_ONCE) memcpy(u + i, number, sizeof number);
        else memcpy(u + from, number + (from - i), (to - from) * sizeof(REAL));
    }
}

/* The uniforms of maps, in pieces that stay in cache. Uniform i of a key belongs to element i of the maps as (N, C, S).
 * A piece is a run of memory. Of channels-last maps it is `pixels` pixels of an image with all channels; it is drawn
 * map by map and transposed. Contiguous maps count as one image of one channel. */
#define map_draw FN(cc_map_draw)
typedef struct {
    const REAL *given; /* the uniforms, if the caller has drawn them */
    philox_key key;
    int64_t images, pixels, channels, step, pieces;
} map_draw;

static inline map_draw FN(map_draw_of)(cc_in u) {
    const int64_t pixels = u->shape[2] * u->shape[3] * u->shape[4], channels = u->shape[1];
    const int last = u->stride[1] == 1 && pixels > 1;
    map_draw d = {u->data, spread_key(u->key), last ? u->shape[0] : 1, last ? pixels : cc_count(u), last ? channels : 1};
    d.step = cc_round_up(MAX(PIECE_WORDS / d.channels, 1), AT_ONCE);
    d.pieces = d.images * cc_ceil_div(d.pixels, d.step);
    return d;
}

/* Bytes of scratch for one piece that has to be transposed. */
static inline int64_t FN(map_draw_bytes)(const map_draw *d) {
    return d->channels > 1 ? cc_round_up(d->step * d->channels * (int64_t)sizeof(REAL), 64) : 0;
}

#define map_piece FN(cc_map_piece)
typedef struct {
    int64_t at, count;     /* its place in memory and its elements */
    int64_t pixels, first; /* number of the first uniform of the first map; the next map is d->pixels behind */
    const REAL *u;
} map_piece;

/* Piece i. u is NULL unless the uniforms are given. */
static inline map_piece FN(piece_of)(const map_draw *d, int64_t i) {
    const int64_t per = cc_ceil_div(d->pixels, d->step), image = i / per, pixel = i % per * d->step;
    const int64_t pixels = MIN(d->step, d->pixels - pixel), at = (image * d->pixels + pixel) * d->channels;
    return (map_piece){at, pixels * d->channels, pixels, image * d->channels * d->pixels + pixel,
                       d->given ? d->given + at : NULL};
}

/* Draws piece i of the uniforms into their array. */
static inline void FN(draw_piece)(const map_draw *d, int64_t i, REAL *u, char *scratch) {
    const map_piece piece = FN(piece_of)(d, i);
    REAL *drawn = d->channels > 1 ? (REAL *)scratch : u + piece.at;
    for (int64_t c = 0; c < d->channels; c++)
        FN(uniforms)(drawn + c * piece.pixels, piece.first + c * d->pixels, piece.pixels, &d->key);
    if (d->channels > 1) FN(pack_row)(u + piece.at, drawn, piece.pixels, d->channels, 1, piece.pixels);
}
