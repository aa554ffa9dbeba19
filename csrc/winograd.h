/* Winograd convolution, F(4x4, 3x3) and F(4x4, 5x5): tiles, transforms and products. Float only.
 *
 * A tile of 4 x 4 outputs reads alpha x alpha inputs, alpha = 3 + kernel. Let d be a tile of x, g a filter, e a tile of
 * dy, and * the elementwise product (Winograd; Lavin and Gray 2016; the matrices are Toom-Cook's):
 *
 *     y  = A' [(B' d B) * (G g G')] A          forward; backward to x is the same on dy, with the filter turned round
 *     dw = G' [(B' d B) * (A e A')] G          backward to w; the bracket is summed over tiles
 *
 * Summed over channels (or tiles), each of the alpha^2 elements is a matrix product of its own. Maps are channels last
 * inside. Each sum belongs to one task and its order never changes.
 *
 *   v1  rows of the products at arbitrary addresses: six pointers
 *   v2  rows at constant strides, one pointer: forward takes 0.65 of the time
 *   v3  the next filters are fetched while these are used: 53 to 65 GFLOP/s
 *   v4  backward to w reads every panel of dy once and transposes in registers: 0.56
 *   v5  one block of maps at a time, so that tiles stay in L2: forward 0.85
 *   v6  backward to w: rows cut into sixes and fives, hardly one is empty: its products 0.89
 *
 * Measurements, errors, and what did not help: docs/kernels/winograd.md. */
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
#define PAD 16 /* floats behind a matrix: so matrices are an odd number of lines apart and use all sets of the cache */

/* The matrices evaluate polynomials at 0, +-p, +-q, ..., infinity. The value at +p is an even part plus p times an odd
 * part, and the value at -p is the even part minus that. So a table holds the rows of these parts, most of them led by
 * a 1, and row MOST holds p, q, ... in the columns of the even parts. `spread` multiplies by B', G or A, `collect` by
 * A' or G'. Tables are constants, so that unrolled loops drop their zeros. */
typedef float table[MOST + 1][MOST];

/* Whether NaN or Inf is among `count` vectors (at least 4), or whether their sum overflows. */
INLINE int spoilt(const vec *values, int count) {
    vec sum[4] = {values[0], values[1], values[2], values[3]};
    UNROLL for (int i = 4; i < count; i++) sum[i % 4] += values[i];
    return any_f32(0 * (sum[0] + sum[1] + (sum[2] + sum[3])) != 0);
}

/* Points 0, +-p, +-q, infinity (P = p^2, Q = q^2): rows are 0, even p, odd p, even q, odd q, infinity. N = M'(p), where
 * M(x) = x (x^2 - P) (x^2 - Q). */
#define p 0.75
#define q 1.5
#define P (p * p)
#define Q (q * q)
#define Np (2 * P * (P - Q))
#define Nq (2 * Q * (Q - P))
static const table b3 = {{P * Q, 0, -(P + Q), 0, 1}, {0, 0, -Q, 0, 1}, {0, -Q, 0, 1}, {0, 0, -P, 0, 1},
                         {0, -P, 0, 1}, {0, P * Q, 0, -(P + Q), 0, 1}, [MOST] = {0, p, 0, q}};
static const table g3 = {{1 / (P * Q)}, {1 / Np, 0, P / Np}, {0, 1 / Np}, {1 / Nq, 0, Q / Nq}, {0, 1 / Nq}, {0, 0, 1},
                         [MOST] = {0, p, 0, q}};
static const table a3 = {{1}, {1, 0, P}, {0, 1, 0, P}, {1, 0, Q}, {0, 1, 0, Q}, {0, 0, 0, 1}, [MOST] = {0, p, 0, q}};
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
                         {0, Q *R, 0, -(Q + R), 0, 1},
                         {0, 0, P *R, 0, -(P + R), 0, 1},
                         {0, P *R, 0, -(P + R), 0, 1},
                         {0, 0, P *Q, 0, -(P + Q), 0, 1},
                         {0, P *Q, 0, -(P + Q), 0, 1},
                         {0, -P * Q * R, 0, P *Q + P *R + Q *R, 0, -(P + Q + R), 0, 1},
                         [MOST] = {0, p, 0, q, 0, r}};
static const table g5 = {{-1 / (P * Q * R)},
                         {1 / Np, 0, P / Np, 0, P *P / Np},
                         {0, 1 / Np, 0, P / Np},
                         {1 / Nq, 0, Q / Nq, 0, Q *Q / Nq},
                         {0, 1 / Nq, 0, Q / Nq},
                         {1 / Nr, 0, R / Nr, 0, R *R / Nr},
                         {0, 1 / Nr, 0, R / Nr},
                         {0, 0, 0, 0, 1},
                         [MOST] = {0, p, 0, q, 0, r}};
static const table a5 = {{1},       {1, 0, P}, {0, 1, 0, P}, {1, 0, Q}, {0, 1, 0, Q},
                         {1, 0, R}, {0, 1, 0, R}, {0, 0, 0, 1}, [MOST] = {0, p, 0, q, 0, r}};
#undef p
#undef q
#undef r
#undef P
#undef Q
#undef R
#undef Np
#undef Nq
#undef Nr

/* Sum over j of t[j] from[j]. It begins with the last j, whose factor is 1 in most rows. */
INLINE vec combine(const float *t, int n, const vec *from, int from_step) {
    vec sum = {0};
    int begun = 0;
    UNROLL for (int j = n - 1; j >= 0; j--) {
        if (t[j] == 0) continue;
        sum = begun ? sum + t[j] * from[j * from_step] : t[j] * from[j * from_step];
        begun = 1;
    }
    return sum;
}

/* to = T from: from n values to alpha points. */
INLINE void spread(int alpha, const table t, int n, const vec *from, int from_step, vec *to, int to_step) {
    to[0] = combine(t[0], n, from, from_step);
    UNROLL for (int i = 1; i < alpha - 1; i += 2) {
        const vec even = combine(t[i], n, from, from_step), odd = combine(t[i + 1], n, from, from_step);
        to[i * to_step] = even + t[MOST][i] * odd;
        to[(i + 1) * to_step] = even - t[MOST][i] * odd;
    }
    to[(alpha - 1) * to_step] = combine(t[alpha - 1], n, from, from_step);
}

/* to = T' from: from alpha points to n values. */
INLINE void collect(int alpha, const table t, int n, const vec *from, int from_step, vec *to, int to_step) {
    vec part[MOST];
    part[0] = from[0];
    UNROLL for (int i = 1; i < alpha - 1; i += 2) {
        part[i] = from[i * from_step] + from[(i + 1) * from_step];
        part[i + 1] = from[i * from_step] - from[(i + 1) * from_step];
    }
    part[alpha - 1] = from[(alpha - 1) * from_step];
    UNROLL for (int j = 0; j < n; j++) {
        float factor[MOST];
        UNROLL for (int i = 0; i < alpha; i++) factor[i] = t[i][j] * (i % 2 || i == 0 ? 1 : t[MOST][i - 1]);
        factor[alpha - 1] = t[alpha - 1][j];
        to[j * to_step] = combine(factor, alpha, part, 1);
    }
}

/* The second half of the transform of a square: from rows of `half` to alpha^2 points, which are stored `stride`
 * apart. */
INLINE void spread_rows(int alpha, const table t, int n, const vec *half, float *to, int64_t stride) {
    UNROLL for (int i = 0; i < alpha; i++) {
        vec points[MOST];
        spread(alpha, t, n, half + i * n, 1, points, 1);
        UNROLL for (int j = 0; j < alpha; j++, to += stride) store_f32(to, points[j]);
    }
}
/* to = T' from T: from alpha^2 points, `stride` apart, to a square of n x n. */
INLINE void collect_square(int alpha, const table t, int n, const float *from, int64_t stride, vec *to) {
    vec half[MOST * MOST];
    UNROLL for (int j = 0; j < alpha; j++) {
        vec points[MOST];
        UNROLL for (int i = 0; i < alpha; i++) points[i] = load_f32(from + (i * alpha + j) * stride);
        collect(alpha, t, n, points, 1, half + j, alpha);
    }
    UNROLL for (int i = 0; i < n; i++) collect(alpha, t, n, half + i * alpha, 1, to + i * n, 1);
}

/* A convolution of `images` images. `in` has size[0] x size[1] pixels and is read from -begin on; the result has
 * out_size pixels. With `relu` the result is max(y, 0). The weight of map k, channel c, tap t is w[k * map_stride + c *
 * channel_stride + t]; with `turned` the taps are in the opposite order. */
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

/* Pointers to the n x n pixels of a map from `at` on. Pixels outside the map point to zeros. */
static void locate_pixels(const float **pixel, int n, const map_view *map, int64_t image, const int64_t size[2],
                          const int64_t at[2], const float *zeros) {
    for (int i = 0; i < n; i++) {
        const int64_t h = at[0] + i, columns = h >= 0 && h < size[0] ? size[1] : 0;
        const float *row = map->origin + image * map->n + h * map->s[1];
        for (int j = 0; j < n; j++) {
            const int64_t w = at[1] + j;
            pixel[i * n + j] = w >= 0 && w < columns ? row + w * map->s[2] : zeros;
        }
    }
}

/* Where transformed tiles stand: channel c of point p of tile i is at i / MR * panel + i % MR * row + p * point +
 * c / width * block + c % width. */
typedef struct {
    int64_t panel, row, point, width, block;
} tile_layout;

/* Transforms the n x n pixels at `pixel`. The pixels at `next` are fetched at the same time. */
INLINE void spread_tile(int alpha, const table t, int n, const float *const *pixel, const float *const *next,
                        int64_t channels, float *to, const tile_layout *layout) {
    for (int64_t c = 0; c < channels; c += V) {
        vec half[MOST * MOST], rest[MOST * MOST];
        const float *from[MOST * MOST];
        UNROLL for (int i = 0; i < n * n; i++) from[i] = pixel[i] + c;
        if (c % LINE == 0)
            for (int i = 0; i < n * n; i++) __builtin_prefetch(next[i] + c);
        if (channels - c < V) /* the last channels are filled up with 0, so that the loads below are whole vectors */
            for (int i = 0; i < n * n; i++) {
                rest[i] = load_n_f32(from[i], channels - c);
                from[i] = (const float *)(rest + i);
            }
        UNROLL for (int j = 0; j < n; j++) {
            vec column[MOST];
            UNROLL for (int i = 0; i < n; i++) column[i] = load_f32(from[i * n + j]);
            spread(alpha, t, n, column, 1, half + j, n);
        }
        spread_rows(alpha, t, n, half, to + c / layout->width * layout->block + c % layout->width, layout->point);
    }
}

/* The transforms are chosen here, inside the parallel loops. OpenMP moves the body of a loop to a function of its own,
 * which does not see constants of the function around it. */
static void tile_in(const layer *l, int of_outputs, const float *const *pixel, const float *const *next, float *to,
                    const tile_layout *layout) {
    if (l->kernel == 3) {
        if (of_outputs) spread_tile(6, a3, M, pixel, next, l->channels, to, layout);
        else spread_tile(6, b3, 6, pixel, next, l->channels, to, layout);
    } else {
        if (of_outputs) spread_tile(8, a5, M, pixel, next, l->channels, to, layout);
        else spread_tile(8, b5, 8, pixel, next, l->channels, to, layout);
    }
}

/* Transforms `rows` tiles of l->in from number `first` on: B' d B, or A e A' for a map `of_outputs`. There are `count`
 * tiles; rows behind them repeat the last one. */
static void tiles_in(const layer *l, int of_outputs, int64_t first, int64_t count, int64_t rows, const float *zeros,
                     float *to, const tile_layout *layout) {
    const float *pixel[2][MOST * MOST];
    for (int64_t i = -1; i < rows; i++) {
        int64_t n, at[2];
        locate_tile(l, first + MIN(i + 1, count - 1), &n, at);
        for (int a = 0; a < 2; a++) at[a] -= l->begin[a];
        locate_pixels(pixel[(i + 1) % 2], of_outputs ? M : l->alpha, &l->in, n, l->size, at, zeros);
        if (i >= 0)
            tile_in(l, of_outputs, pixel[i % 2], pixel[(i + 1) % 2], to + i / MR * layout->panel + i % MR * layout->row,
                    layout);
    }
}

/* MR rows, or MR - 1, of one block of maps: to[m][lane] = sum over t of from[m * row_step + t * term_step]
 * factor[t][lane]. With `add` the sum is added to `to`. */
#define TERMS 32 /* of a sum, at most: two levels of sums round less than one */
INLINE void multiply_tile(int rows, float *to, const float *from, int64_t row_step, int64_t term_step,
                          const float *factor, int64_t terms, int add) {
    vec acc[MR][NV];
    UNROLL for (int m = 0; m < rows; m++) {
        UNROLL for (int v = 0; v < NV; v++) acc[m][v] = (vec){0};
    }
    UNROLL_8 for (int64_t t = 0; t < terms; t++) {
        vec lanes[NV];
        UNROLL for (int v = 0; v < NV; v++) lanes[v] = load_f32(factor + t * BLOCK + v * V);
        UNROLL for (int m = 0; m < rows; m++) {
            UNROLL for (int v = 0; v < NV; v++) acc[m][v] += lanes[v] * from[m * row_step + t * term_step];
        }
    }
    UNROLL for (int m = 0; m < rows; m++) {
        UNROLL for (int v = 0; v < NV; v++) {
            float *at = to + m * BLOCK + v * V;
            store_f32(at, add ? load_f32(at) + acc[m][v] : acc[m][v]);
        }
    }
}

/* Fetches part `i` of `parts` of the next TERMS factors. */
INLINE void fetch_factors(const float *factor, int64_t i, int64_t parts) {
    const int64_t share = cc_ceil_div(TERMS, parts) * BLOCK;
    for (int64_t j = 0; j < share; j += LINE) __builtin_prefetch(factor + TERMS * BLOCK + i * share + j);
}

/* to[j * to_stride + i] = from[i * from_stride + j], i < rows, j < columns. Squares of V x V elements are transposed;
 * the last squares are moved back into the rectangle and overlap others. */
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

/* Filters are transformed V maps at a time. Their taps pass through a strip, [channel][tap][lane] of STRIP channels. */
#define STRIP 4
#define STRIP_FLOATS (STRIP * 25 * V)

/* What all three products share: `in` is read, and tiles are of `out`. */
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

/* From x to y (or dy) with the filters unturned: for forward, and for backward to w. */
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
