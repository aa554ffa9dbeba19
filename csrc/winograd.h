/* Winograd convolution, F(4x4, 3x3) and F(4x4, 5x5): 4 and 6.25 times fewer multiplications than the direct kernel.
 *
 * A tile of 4 x 4 outputs reads alpha x alpha inputs, alpha = 3 + kernel. With d a tile of x, g a filter, e a tile of
 * dy and * elementwise (Winograd; Lavin and Gray 2016; the matrices are Toom-Cook's):
 *
 *     y  = A' [(B' d B) * (G g G')] A          forward; backward to x the same on dy, with the filter turned round
 *     dw = G' [(B' d B) * (A e A')] G          backward to w, the bracket summed over tiles: the transposed map
 *
 * Summed over channels (or tiles), each of the alpha^2 elements is a matrix product of its own.
 *
 * The matrices evaluate polynomials at 0, +-p, +-q, ..., infinity. Rows +p and -p are an even part plus and minus an
 * odd one, so the tables hold the parts and one addition and one subtraction do the rest. One pair of functions does
 * every transform: `spread` multiplies by B', G or A, `collect` by A' or G'. Tables are constants, so that unrolled loops
 * drop their zeros. Points decide the error: those of 3x3 are exact in few bits and near 1.
 *
 * Float only. Channels last inside: one vector is V channels (or maps) of a tile's pixel. Products use conv_direct.c's
 * register block. Tiles are cut by shape, each sum belongs to one task, and its order never changes.
 *
 * What the steps gained (AVX2, Zen 3; docs/winograd.md): rows of a product at constant strides, so that the inner loop
 * holds one pointer instead of reloading six: 8x64 maps of 56x56 forward 14.7 to 9.5 ms on one thread; the next panel of
 * filters fetched while one is used: 53 to 65 GFLOP/s where 70 is the rate from L1; dw's loops turned so that a panel of
 * dy's tiles is read once, tiles in portions of 2 MB, filters and results transposed in registers: dw of 64x32 -> 64 maps
 * of 14x14 14.5 to 8.1 ms. No gain: 24, 48, 64 or 96 tiles a task; portions of dw of 1 MB, or as large as the sums.
 */
#ifndef CNNCORE_WINOGRAD_H
#define CNNCORE_WINOGRAD_H
#define REAL float
#define REAL_IS_FLOAT 1
#include "simd.h"
#include "channels_last.h"
#include "conv.h"
#include "conv_winograd.h"

#define M 4 /* outputs of a tile, per axis */
#define MOST 8
#define LINE 16 /* floats of a cache line */
#define PAD 16 /* floats behind a matrix, so that alpha^2 of them do not fall into one set of the cache */

typedef float table[MOST][MOST];

/* Whether NaN or Inf is among `count` vectors. */
INLINE int spoilt(const vec *values, int count) {
    vec zero = {0};
    for (int i = 0; i < count; i++) zero += 0 * values[i];
    const ivec bad = zero != 0;
    int any = 0;
    for (int v = 0; v < V; v++) any |= bad[v];
    return any;
}

/* Points 0, +-p, +-q, infinity (P = p^2, Q = q^2): rows are 0, even p, odd p, even q, odd q, infinity. N = M'(p), where
 * M(x) = x (x^2 - P) (x^2 - Q). */
#define p 0.75
#define q 1.5
#define P (p * p)
#define Q (q * q)
#define Np (2 * P * (P - Q))
#define Nq (2 * Q * (Q - P))
static const table b3 = {{P * Q, 0, -(P + Q), 0, 1}, {0, 0, -Q, 0, 1}, {0, -p *Q, 0, p}, {0, 0, -P, 0, 1},
                         {0, -q *P, 0, q},           {0, P * Q, 0, -(P + Q), 0, 1}};
static const table g3 = {{1 / (P * Q)}, {1 / Np, 0, P / Np}, {0, p / Np}, {1 / Nq, 0, Q / Nq}, {0, q / Nq}, {0, 0, 1}};
static const table a3 = {{1}, {1, 0, P}, {0, p, 0, p *P}, {1, 0, Q}, {0, q, 0, q *Q}, {0, 0, 0, 1}};
#undef p
#undef q
#undef P
#undef Q
#undef Np
#undef Nq

/* The same with a third pair, +-r. */
#define p 0.5
#define q 1.0
#define r 2.0
#define P (p * p)
#define Q (q * q)
#define R (r * r)
#define Np (2 * P * (P - Q) * (P - R))
#define Nq (2 * Q * (Q - P) * (Q - R))
#define Nr (2 * R * (R - P) * (R - Q))
static const table b5 = {{-P * Q * R, 0, P *Q + P *R + Q *R, 0, -(P + Q + R), 0, 1},
                         {0, 0, Q *R, 0, -(Q + R), 0, 1},
                         {0, p *Q *R, 0, -p *(Q + R), 0, p},
                         {0, 0, P *R, 0, -(P + R), 0, 1},
                         {0, q *P *R, 0, -q *(P + R), 0, q},
                         {0, 0, P *Q, 0, -(P + Q), 0, 1},
                         {0, r *P *Q, 0, -r *(P + Q), 0, r},
                         {0, -P * Q * R, 0, P *Q + P *R + Q *R, 0, -(P + Q + R), 0, 1}};
static const table g5 = {{-1 / (P * Q * R)},
                         {1 / Np, 0, P / Np, 0, P *P / Np},
                         {0, p / Np, 0, p *P / Np},
                         {1 / Nq, 0, Q / Nq, 0, Q *Q / Nq},
                         {0, q / Nq, 0, q *Q / Nq},
                         {1 / Nr, 0, R / Nr, 0, R *R / Nr},
                         {0, r / Nr, 0, r *R / Nr},
                         {0, 0, 0, 0, 1}};
static const table a5 = {{1},       {1, 0, P}, {0, p, 0, p *P}, {1, 0, Q}, {0, q, 0, q *Q},
                         {1, 0, R}, {0, r, 0, r *R}, {0, 0, 0, 1}};
#undef p
#undef q
#undef r
#undef P
#undef Q
#undef R
#undef Np
#undef Nq
#undef Nr

/* to = T from: `n` values at the alpha points. */
INLINE void spread(int alpha, const table t, int n, const vec *from, int from_step, vec *to, int to_step) {
    vec part[MOST];
    UNROLL for (int i = 0; i < alpha; i++) {
        part[i] = (vec){0};
        UNROLL for (int j = 0; j < n; j++)
            if (t[i][j] != 0) part[i] = part[i] + t[i][j] * from[j * from_step];
    }
    to[0] = part[0];
    UNROLL for (int i = 1; i < alpha - 1; i += 2) {
        to[i * to_step] = part[i] + part[i + 1];
        to[(i + 1) * to_step] = part[i] - part[i + 1];
    }
    to[(alpha - 1) * to_step] = part[alpha - 1];
}

/* to = T' from: the alpha points to `n` values. */
INLINE void collect(int alpha, const table t, int n, const vec *from, int from_step, vec *to, int to_step) {
    vec part[MOST];
    part[0] = from[0];
    UNROLL for (int i = 1; i < alpha - 1; i += 2) {
        part[i] = from[i * from_step] + from[(i + 1) * from_step];
        part[i + 1] = from[i * from_step] - from[(i + 1) * from_step];
    }
    part[alpha - 1] = from[(alpha - 1) * from_step];
    UNROLL for (int j = 0; j < n; j++) {
        vec sum = {0};
        UNROLL for (int i = 0; i < alpha; i++)
            if (t[i][j] != 0) sum = sum + t[i][j] * part[i];
        to[j * to_step] = sum;
    }
}

/* The second half of a square's transform, and its first: rows of `half` to alpha^2 points, stored `stride` apart, and
 * points to rows. */
INLINE void spread_rows(int alpha, const table t, int n, const vec *half, float *to, int64_t stride) {
    UNROLL for (int i = 0; i < alpha; i++) {
        vec points[MOST];
        spread(alpha, t, n, half + i * n, 1, points, 1);
        UNROLL for (int j = 0; j < alpha; j++, to += stride) store_f32(to, points[j]);
    }
}
/* to = T' from T: alpha^2 points, `stride` apart, to a square of n x n. */
INLINE void collect_square(int alpha, const table t, int n, const float *from, int64_t stride, vec *to) {
    vec half[MOST * MOST];
    UNROLL for (int j = 0; j < alpha; j++) {
        vec points[MOST];
        UNROLL for (int i = 0; i < alpha; i++) points[i] = load_f32(from + (i * alpha + j) * stride);
        collect(alpha, t, n, points, 1, half + j, alpha);
    }
    UNROLL for (int i = 0; i < n; i++) collect(alpha, t, n, half + i * alpha, 1, to + i * n, 1);
}

/* A convolution of `images` maps `in` of size[0] x size[1], read from -begin on, to out_size maps; with `relu`, max(y, 0)
 * of it. Weight (map k, channel c, tap t) is w[k * map_stride + c * channel_stride + t], turned: its taps in the opposite
 * order. */
typedef struct {
    int alpha, kernel, turned, relu;
    int64_t images, channels, maps, size[2], begin[2], out_size[2], tiles[2];
    map_view in;
    int64_t out_n, out_s[2], out_channel;
    const float *w;
    int64_t map_stride, channel_stride;
} layer;

static void locate_tile(const layer *l, int64_t tile, int64_t *n, int64_t at[2]) {
    at[1] = tile % l->tiles[1] * M;
    at[0] = tile / l->tiles[1] % l->tiles[0] * M;
    *n = tile / l->tiles[1] / l->tiles[0];
}

static int64_t count_tiles(const layer *l) { return l->images * l->tiles[0] * l->tiles[1]; }

/* Pointers to the n x n pixels of a map from `at` on; outside, to zeros. */
static void locate_pixels(const float **pixel, int n, const map_view *map, int64_t image, const int64_t size[2],
                          const int64_t at[2], const float *zeros) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            const int64_t h = at[0] + i, w = at[1] + j;
            const int inside = h >= 0 && h < size[0] && w >= 0 && w < size[1];
            pixel[i * n + j] = inside ? map->origin + image * map->n + h * map->s[1] + w * map->s[2] : zeros;
        }
}

/* The n x n pixels at `pixel`, transformed, to alpha^2 matrices `stride` apart; channel c at to + c / width * block +
 * c % width. */
INLINE void spread_tile(int alpha, const table t, int n, const float *const *pixel, int64_t channels, float *to,
                        int64_t stride, int64_t width, int64_t block) {
    for (int64_t c = 0; c < channels; c += V) {
        vec half[MOST * MOST];
        const int64_t lanes = channels - c;
        UNROLL for (int j = 0; j < n; j++) {
            vec column[MOST];
            UNROLL for (int i = 0; i < n; i++) column[i] = load_n_f32(pixel[i * n + j] + c, lanes);
            spread(alpha, t, n, column, 1, half + j, n);
        }
        spread_rows(alpha, t, n, half, to + c / width * block + c % width, stride);
    }
}

/* MR rows of one block of maps: to[m][lane] = sum over t of from[m * row_step + t * term_step] factor[t][lane], or that
 * added. */
#define TERMS 32 /* sums are cut: two levels round less than one */
INLINE void multiply_tile(float *to, const float *from, int64_t row_step, int64_t term_step, const float *factor,
                          int64_t terms, int add) {
    vec acc[MR][NV];
    UNROLL for (int m = 0; m < MR; m++) {
        UNROLL for (int v = 0; v < NV; v++) acc[m][v] = (vec){0};
    }
    for (int64_t t = 0; t < terms; t++) {
        vec lanes[NV];
        UNROLL for (int v = 0; v < NV; v++) lanes[v] = load_f32(factor + t * BLOCK + v * V);
        UNROLL for (int m = 0; m < MR; m++) {
            UNROLL for (int v = 0; v < NV; v++) acc[m][v] += lanes[v] * from[m * row_step + t * term_step];
        }
    }
    UNROLL for (int m = 0; m < MR; m++) {
        UNROLL for (int v = 0; v < NV; v++) {
            float *at = to + m * BLOCK + v * V;
            store_f32(at, add ? load_f32(at) + acc[m][v] : acc[m][v]);
        }
    }
}

/* to[block][row][lane] = sum over terms of from[row][term] factor[block][term][lane], or that added. Rows, a multiple of
 * MR, stand row_step apart, terms term_step, their panels of TERMS panel_step. A panel of factors stays in L1 while the
 * rows go by. */
INLINE void multiply(float *to, int64_t rows, const float *from, int64_t row_step, int64_t term_step,
                     int64_t panel_step, const float *factor, int64_t factor_block, int64_t terms, int64_t blocks,
                     int add) {
    const int64_t share = cc_ceil_div(TERMS * MR, rows); /* of the next panel of factors, fetched during one tile */
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t t = 0; t < terms; t += TERMS)
            for (int64_t r = 0; r < rows; r += MR) {
                const float *panel = factor + b * factor_block + t * BLOCK;
                for (int64_t i = 0; i < share * BLOCK; i += LINE)
                    __builtin_prefetch(panel + TERMS * BLOCK + r / MR * share * BLOCK + i);
                multiply_tile(to + (b * rows + r) * BLOCK, from + r * row_step + t / TERMS * panel_step, row_step,
                              term_step, panel, MIN(TERMS, terms - t), add || t > 0);
            }
}

/* The transforms of both kernels are chosen inside the parallel loops: what OpenMP takes out of a function no longer
 * sees that function's constants. */
static void tile_in(const layer *l, const float *const *pixel, float *to, int64_t stride, int64_t width,
                    int64_t block) {
    if (l->kernel == 3) spread_tile(6, b3, 6, pixel, l->channels, to, stride, width, block);
    else spread_tile(8, b5, 8, pixel, l->channels, to, stride, width, block);
}

/* to[j * to_stride + i] = from[i * from_stride + j], i < rows, j < columns: in squares of V, the last ones moved back
 * into the rectangle. */
static void turn(float *to, int64_t to_stride, const float *from, int64_t from_stride, int64_t rows, int64_t columns) {
    if (rows < V || columns < V) {
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++) to[j * to_stride + i] = from[i * from_stride + j];
        return;
    }
    for (int64_t i = 0; i < rows; i += V)
        for (int64_t j = 0; j < columns; j += V) {
            const int64_t row = MIN(i, rows - V), column = MIN(j, columns - V);
            transpose_f32(to + column * to_stride + row, to_stride, from + row * from_stride + column, from_stride);
        }
}

/* Filters are transformed V maps at a time; their taps come and go by way of a strip [channel][tap][lane] of STRIP
 * channels. */
#define STRIP 4
#define STRIP_FLOATS (STRIP * 25 * V)

/* What all three share: `in` is read, tiles are of `out`. */
static layer make_layer(const cc_conv *c, cc_in in, cc_in out, cc_arena *arena) {
    const int64_t kernel = c->window.kernel[1], none[3] = {0};
    layer l = {kernel + M - 1, kernel};
    l.images = in->shape[0];
    for (int a = 0; a < 2; a++) {
        l.size[a] = in->shape[3 + a];
        l.out_size[a] = out->shape[3 + a];
        l.out_s[a] = out->stride[3 + a];
        l.tiles[a] = cc_ceil_div(l.out_size[a], M);
    }
    l.out_n = out->stride[0];
    l.out_channel = out->stride[1];
    l.in = view_f32(in, none, in->shape + 2, arena);
    return l;
}

/* From x to y (or dy), filters as they stand: forward, and backward to w. */
static layer forward_layer(const cc_conv *c, cc_in x, cc_in y, cc_in w, cc_arena *arena) {
    layer l = make_layer(c, x, y, arena);
    l.channels = w->shape[1];
    l.maps = w->shape[0] / c->groups;
    l.channel_stride = l.kernel * l.kernel;
    l.map_stride = l.channels * l.channel_stride;
    for (int a = 0; a < 2; a++) l.begin[a] = c->window.begin[1 + a];
    return l;
}
#endif
