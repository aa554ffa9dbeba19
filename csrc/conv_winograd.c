/* Winograd convolution, F(4x4, 3x3) and F(4x4, 5x5): 4 and 6.25 times fewer multiplications than the direct kernel.
 *
 * A tile of 4 x 4 outputs reads alpha x alpha inputs, alpha = 3 + kernel. With d a tile of x, g a filter, e a tile of dy
 * and * elementwise (Winograd; Lavin and Gray 2016; the matrices are Toom-Cook's):
 *
 *     y  = A' [(B' d B) * (G g G')] A          forward; backward to x the same on dy, with the filter turned round
 *     dw = G' [(B' d B) * (A e A')] G          backward to w, the bracket summed over tiles: the transposed map
 *
 * Summed over channels (or tiles), each of the alpha^2 elements is a matrix product of its own.
 *
 * The matrices evaluate polynomials at 0, +-p, +-q, ..., infinity. Rows +p and -p are an even part plus and minus an odd
 * one, so the tables hold the parts and one addition and one subtraction do the rest. One pair of functions does every
 * transform: `spread` multiplies by B', G or A, `collect` by A' or G'. Tables are constants, so that unrolled loops
 * drop their zeros. Points decide the error: those of 3x3 are exact in few bits and near 1.
 *
 * Float only. Channels last inside: one vector is V channels (or maps) of a tile's pixel. Products use conv_direct.c's
 * register block. Tiles are cut by shape, each sum belongs to one task, and its order never changes.
 */
#define REAL float
#define REAL_IS_FLOAT 1
#include "simd.h"
#include "channels_last.h"
#include "conv.h"
#include "conv_winograd.h"

#define M 4 /* outputs of a tile, per axis */
#define MOST 8
#define PAD 16 /* floats behind a matrix, so that alpha^2 of them do not fall into one set of the cache */

typedef float table[MOST][MOST];

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
static const table a5 = {{1}, {1, 0, P}, {0, p, 0, p *P}, {1, 0, Q}, {0, q, 0, q *Q}, {1, 0, R}, {0, r, 0, r *R}, {0, 0, 0, 1}};
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

/* T from T', and T' from T, of squares of vectors. */
INLINE void spread_square(int alpha, const table t, int n, const vec *from, vec *to) {
    vec half[MOST * MOST];
    UNROLL for (int j = 0; j < n; j++) spread(alpha, t, n, from + j, n, half + j, n);
    UNROLL for (int i = 0; i < alpha; i++) spread(alpha, t, n, half + i * n, 1, to + i * alpha, 1);
}
INLINE void collect_square(int alpha, const table t, int n, const vec *from, vec *to) {
    vec half[MOST * MOST];
    UNROLL for (int j = 0; j < alpha; j++) collect(alpha, t, n, from + j, alpha, half + j, alpha);
    UNROLL for (int i = 0; i < n; i++) collect(alpha, t, n, half + i * alpha, 1, to + i * n, 1);
}

/* A convolution of `images` maps `in` of size[0] x size[1], read from -begin on, to out_size maps. Weight (map k,
 * channel c, tap t) is w[k * map_stride + c * channel_stride + t], turned: its taps in the opposite order. */
typedef struct {
    int alpha, kernel, turned;
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
        vec from[MOST * MOST], points[MOST * MOST];
        float *at = to + c / width * block + c % width;
        for (int i = 0; i < n * n; i++) from[i] = load_n_f32(pixel[i] + c, channels - c);
        spread_square(alpha, t, n, from, points);
        for (int i = 0; i < alpha * alpha; i++) store_f32(at + i * stride, points[i]);
    }
}

/* The filters of the block of maps from k on to alpha^2 matrices [channel][lane], `stride` apart. */
INLINE void spread_filters(int alpha, const table t, int n, const layer *l, int64_t k, float *to, int64_t stride) {
    for (int64_t c = 0; c < l->channels; c++)
        for (int64_t v = 0; v < BLOCK; v += V) {
            const float *w = l->w + (k + v) * l->map_stride + c * l->channel_stride;
            vec from[MOST * MOST], points[MOST * MOST];
            for (int tap = 0; tap < n * n; tap++) {
                const int source = l->turned ? n * n - 1 - tap : tap;
                float lane[V] = {0};
                for (int64_t j = 0; j < MIN(V, l->maps - k - v); j++) lane[j] = w[j * l->map_stride + source];
                from[tap] = load_f32(lane);
            }
            spread_square(alpha, t, n, from, points);
            for (int i = 0; i < alpha * alpha; i++) store_f32(to + i * stride + c * BLOCK + v, points[i]);
        }
}

/* MR rows of one block of maps: to[m][lane] = sum over t of from[m * row_step + t * term_step] factor[t][lane], or that
 * added. */
#define TERMS 32 /* sums are cut: two levels round less than one */
INLINE void multiply_tile(float *to, int64_t to_stride, const float *from, int64_t row_step, int64_t term_step,
                          const float *factor, int64_t terms, int add) {
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
            float *at = to + m * to_stride + v * V;
            store_f32(at, add ? load_f32(at) + acc[m][v] : acc[m][v]);
        }
    }
}

/* to[tile][map] = sum over channels of from[tile][channel] filters[block][channel][lane]; tiles a multiple of MR. */
static void multiply_channels(float *to, int64_t to_stride, const float *from, int64_t from_stride,
                              const float *filters, int64_t tiles, int64_t channels, int64_t blocks) {
    for (int64_t b = 0; b < blocks; b++, to += BLOCK, filters += channels * BLOCK)
        for (int64_t c = 0; c < channels; c += TERMS)
            for (int64_t i = 0; i < tiles; i += MR)
                multiply_tile(to + i * to_stride, to_stride, from + i * from_stride + c, from_stride, 1,
                              filters + c * BLOCK, MIN(TERMS, channels - c), c > 0);
}

/* to[channel][map] = sum over tiles of from[tile][channel] above[block][tile][lane], or that added. Channels a multiple
 * of MR, blocks of `above` stand `above_block` apart. */
static void multiply_tiles(float *to, int64_t to_stride, const float *from, int64_t from_stride, const float *above,
                           int64_t above_block, int64_t tiles, int64_t channels, int64_t blocks, int add) {
    for (int64_t c = 0; c < channels; c += MR)
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t i = 0; i < tiles; i += TERMS)
                multiply_tile(to + c * to_stride + b * BLOCK, to_stride, from + i * from_stride + c, 1, from_stride,
                              above + b * above_block + i * BLOCK, MIN(TERMS, tiles - i), add || i > 0);
}

/* The sum that defines one output: for tiles that NaN, Inf or overflow has reached. Padding takes part forward, as 0;
 * what lies outside dy does not exist. */
static float exact(const layer *l, int64_t n, int64_t row, int64_t column, int64_t k) {
    const int taps = l->kernel * l->kernel;
    float sum = 0;
    for (int t = 0; t < taps; t++) {
        const int64_t h = row + t / l->kernel - l->begin[0], v = column + t % l->kernel - l->begin[1];
        const int inside = h >= 0 && h < l->size[0] && v >= 0 && v < l->size[1];
        if (!inside && l->turned) continue;
        const float *x = l->in.origin + n * l->in.n + h * l->in.s[1] + v * l->in.s[2];
        const float *w = l->w + k * l->map_stride + (l->turned ? taps - 1 - t : t);
        for (int64_t c = 0; c < l->channels; c++) sum += (inside ? x[c] : 0) * w[c * l->channel_stride];
    }
    return sum;
}

/* One tile of y from its alpha^2 products, `stride` apart. */
INLINE void collect_tile(int alpha, const table t, const layer *l, int64_t tile, const float *from, int64_t stride,
                         const float *bias, float *y) {
    int64_t n, at[2];
    locate_tile(l, tile, &n, at);
    const int64_t rows = MIN(M, l->out_size[0] - at[0]), columns = MIN(M, l->out_size[1] - at[1]);
    float *to = y + n * l->out_n + at[0] * l->out_s[0] + at[1] * l->out_s[1];
    for (int64_t k = 0; k < l->maps; k += V) {
        const int64_t lanes = MIN(V, l->maps - k);
        const vec offset = bias ? load_n_f32(bias + k, lanes) : (vec){0};
        vec points[MOST * MOST], out[M * M], zero = {0};
        for (int i = 0; i < alpha * alpha; i++) points[i] = load_f32(from + i * stride + k);
        collect_square(alpha, t, M, points, out);
        for (int i = 0; i < M * M; i++) zero += 0 * out[i]; /* NaN where one is not finite */
        for (int64_t j = 0; j < lanes; j++) {
            if (zero[j] == 0) continue;
            for (int64_t i = 0; i < rows * columns; i++)
                out[i / columns * M + i % columns][j] = exact(l, n, at[0] + i / columns, at[1] + i % columns, k + j);
        }
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++) {
                float *pixel = to + i * l->out_s[0] + j * l->out_s[1] + k * l->out_channel;
                const vec value = out[i * M + j] + offset;
                if (l->out_channel == 1) store_n_f32(pixel, value, lanes);
                else
                    for (int64_t v = 0; v < lanes; v++) pixel[v * l->out_channel] = value[v];
            }
    }
}

/* How tiles are cut: `tiles` per task, so that a task's tiles and products stay in L2 but filters, read once per task,
 * are used often; tasks in pairs. */
#define TILES_LEAST (8 * MR)
#define L2_FLOATS (96 * 1024)
static int64_t tiles_per_task(const layer *l) {
    const int64_t all = count_tiles(l), points = l->alpha * l->alpha;
    const int64_t fit = MAX(TILES_LEAST, L2_FLOATS / (points * (l->channels + l->maps)));
    const int64_t tasks = cc_round_up(cc_ceil_div(all, fit), 2);
    return cc_round_up(cc_ceil_div(all, tasks), MR);
}

/* Memory of a forward product: filters, and per thread the tiles and their products. */
typedef struct { int64_t tiles, channels, maps, filter_matrix, from_matrix, to_matrix; float *filters, *zeros, *own; } space;

static space take_space(const layer *l, cc_arena *arena) {
    const int64_t points = l->alpha * l->alpha;
    space s = {tiles_per_task(l), cc_round_up(l->channels, V) + PAD, cc_round_up(l->maps, BLOCK)};
    s.filter_matrix = l->channels * s.maps + PAD;
    s.from_matrix = s.tiles * s.channels + PAD;
    s.to_matrix = s.tiles * (s.maps + PAD) + PAD;
    s.filters = cc_take(arena, points * s.filter_matrix * sizeof(float));
    s.zeros = cc_take(arena, s.channels * sizeof(float));
    s.own = cc_take(arena, cc_threads * points * (s.from_matrix + s.to_matrix) * sizeof(float));
    return s;
}

/* The transforms of both kernels. Chosen inside the parallel loops: what OpenMP takes out of a function no longer sees
 * that function's constants. */
static void filters_in(const layer *l, int64_t k, float *to, int64_t stride) {
    if (l->kernel == 3) spread_filters(6, g3, 3, l, k, to, stride);
    else spread_filters(8, g5, 5, l, k, to, stride);
}
static void tile_in(const layer *l, const float *const *pixel, float *to, int64_t stride, int64_t channels) {
    if (l->kernel == 3) spread_tile(6, b3, 6, pixel, l->channels, to, stride, channels, 0);
    else spread_tile(8, b5, 8, pixel, l->channels, to, stride, channels, 0);
}
static void tile_out(const layer *l, int64_t tile, const float *from, int64_t stride, const float *bias, float *y) {
    if (l->kernel == 3) collect_tile(6, a3, l, tile, from, stride, bias, y);
    else collect_tile(8, a5, l, tile, from, stride, bias, y);
}

static void convolve(const layer *l, const space *s, const float *bias, float *y) {
    const int64_t all = count_tiles(l), points = l->alpha * l->alpha;
    memset(s->zeros, 0, s->channels * sizeof(float));
    PARALLEL_FOR
    for (int64_t k = 0; k < s->maps; k += BLOCK) filters_in(l, k, s->filters + k * l->channels, s->filter_matrix);
    PARALLEL_FOR
    for (int64_t first = 0; first < all; first += s->tiles) {
        const int64_t count = MIN(s->tiles, all - first), rounded = cc_round_up(count, MR);
        float *from = s->own + cc_thread() * points * (s->from_matrix + s->to_matrix), *to = from + points * s->from_matrix;
        for (int64_t i = 0; i < rounded; i++) {
            const float *pixel[MOST * MOST];
            int64_t n, at[2];
            locate_tile(l, first + MIN(i, count - 1), &n, at);
            at[0] -= l->begin[0];
            at[1] -= l->begin[1];
            locate_pixels(pixel, l->alpha, &l->in, n, l->size, at, s->zeros);
            tile_in(l, pixel, from + i * s->channels, s->from_matrix, s->channels);
        }
        for (int64_t i = 0; i < points; i++)
            multiply_channels(to + i * s->to_matrix, s->maps + PAD, from + i * s->from_matrix, s->channels, s->filters + i * s->filter_matrix, rounded, l->channels, s->maps / BLOCK);
        for (int64_t i = 0; i < count; i++) tile_out(l, first + i, to + i * (s->maps + PAD), s->to_matrix, bias, y);
    }
}

/* --- backward to w ------------------------------------------------------------------------------------------------ */

/* dw of channel c from the sums [point][channel][map]. */
INLINE void collect_filters(int alpha, const table t, int n, const layer *l, int64_t c, const float *from,
                            int64_t stride, float *dw) {
    for (int64_t k = 0; k < l->maps; k += V) {
        vec points[MOST * MOST], out[MOST * MOST];
        float *to = dw + k * l->map_stride + c * l->channel_stride;
        for (int i = 0; i < alpha * alpha; i++) points[i] = load_f32(from + i * stride + k);
        collect_square(alpha, t, n, points, out);
        for (int64_t j = 0; j < MIN(V, l->maps - k); j++)
            for (int tap = 0; tap < n * n; tap++) to[j * l->map_stride + tap] = out[tap][j];
    }
}

static void above_in(const layer *l, const float *const *pixel, float *to, int64_t stride, int64_t block) {
    if (l->kernel == 3) spread_tile(6, a3, M, pixel, l->maps, to, stride, BLOCK, block);
    else spread_tile(8, a5, M, pixel, l->maps, to, stride, BLOCK, block);
}
static void filters_out(const layer *l, int64_t c, const float *from, int64_t stride, float *dw) {
    if (l->kernel == 3) collect_filters(6, g3, 3, l, c, from, stride, dw);
    else collect_filters(8, g5, 5, l, c, from, stride, dw);
}

/* Memory of backward to w: tiles of x and of dy, as many as stay in L3, and the sums. */
#define L3_FLOATS (2048 * 1024)
typedef struct {
    int64_t tiles, channels, maps, row, from_matrix, above_matrix, sum_matrix;
    float *zeros, *from, *above, *sum;
} weight_space;

static weight_space take_weight_space(const layer *l, cc_arena *arena) {
    const int64_t points = l->alpha * l->alpha, fit = L3_FLOATS / (points * (l->channels + l->maps));
    weight_space s = {MIN(cc_round_up(count_tiles(l), 8), cc_round_up(fit, TERMS))};
    s.channels = cc_round_up(l->channels, MR);
    s.maps = cc_round_up(l->maps, BLOCK);
    s.row = MAX(s.channels, cc_round_up(l->channels, V)) + PAD;
    s.from_matrix = s.tiles * s.row;
    s.above_matrix = s.tiles * s.maps + PAD;
    s.sum_matrix = s.channels * s.maps + PAD;
    s.zeros = cc_take(arena, MAX(s.row, s.maps) * sizeof(float));
    s.from = cc_take(arena, points * s.from_matrix * sizeof(float));
    s.above = cc_take(arena, points * s.above_matrix * sizeof(float));
    s.sum = cc_take(arena, points * s.sum_matrix * sizeof(float));
    return s;
}

static void correlate(const layer *l, const weight_space *s, const map_view *dy, float *dw) {
    const int64_t all = count_tiles(l), points = l->alpha * l->alpha;
    memset(s->zeros, 0, MAX(s->row, s->maps) * sizeof(float));
    for (int64_t first = 0; first < all; first += s->tiles) {
        const int64_t count = MIN(s->tiles, all - first);
        PARALLEL_FOR
        for (int64_t task = 0; task < cc_ceil_div(count, 8); task++)
            for (int64_t i = task * 8; i < MIN(task * 8 + 8, count); i++) {
                const float *pixel[MOST * MOST];
                int64_t n, at[2];
                locate_tile(l, first + i, &n, at);
                locate_pixels(pixel, M, dy, n, l->out_size, at, s->zeros);
                above_in(l, pixel, s->above + i * BLOCK, s->above_matrix, s->tiles * BLOCK);
                at[0] -= l->begin[0];
                at[1] -= l->begin[1];
                locate_pixels(pixel, l->alpha, &l->in, n, l->size, at, s->zeros);
                tile_in(l, pixel, s->from + i * s->row, s->from_matrix, s->row);
            }
        PARALLEL_FOR
        for (int64_t i = 0; i < points; i++)
            multiply_tiles(s->sum + i * s->sum_matrix, s->maps, s->from + i * s->from_matrix, s->row,
                           s->above + i * s->above_matrix, s->tiles * BLOCK, count, s->channels, s->maps / BLOCK,
                           first > 0);
    }
    PARALLEL_FOR
    for (int64_t c = 0; c < l->channels; c++) filters_out(l, c, s->sum + c * s->maps, s->sum_matrix, dw);
}

/* --- the op ------------------------------------------------------------------------------------------------------ */

/* Whether there is a way at all: what conv.py's rule asks of algorithm="winograd". */
static int possible(const cc_window *w) {
    for (int a = 0; a < 3; a++)
        if (w->stride[a] != 1 || w->dilation[a] != 1) return 0;
    return w->size[0] == 1 && w->out[0] == 1 && w->kernel[0] == 1 && w->kernel[1] == w->kernel[2] &&
           (w->kernel[1] == 3 || w->kernel[1] == 5);
}

/* The cost model of algorithm="auto", in multiply-adds. Transforms cost TILE of them per element of a tile, FILTER per
 * element of a filter, and the products run at two thirds of the direct kernel's rate (measured: see above). Tiles count
 * whole. With few channels or maps the direct kernel has better ways. */
#define TILE 8
#define FILTER 30
int cc_winograd_chosen(const cc_conv *c, int64_t images, const int64_t out[2], int64_t channels, int64_t maps) {
    if (c->algorithm != AUTO || !possible(&c->window)) return c->algorithm == WINOGRAD;
    const int64_t taps = c->window.kernel[1] * c->window.kernel[2], alpha = M + c->window.kernel[1] - 1;
    const int64_t tiles = images * cc_ceil_div(out[0], M) * cc_ceil_div(out[1], M);
    const int64_t elements = tiles * (channels * maps + TILE * (channels + maps)) + FILTER * channels * maps;
    const int64_t direct = images * out[0] * out[1] * taps * channels * maps;
    return channels >= 8 && maps >= 16 && 3 * alpha * alpha * elements < 2 * direct;
}

/* What forward and backward share; in_size is the size of what is read, `out` what is written. */
static layer make_layer(const cc_conv *c, cc_in in, cc_in out, cc_in w, cc_arena *arena) {
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

int64_t cc_winograd_forward(cc_out y, cc_in x, cc_in w, cc_in bias, const cc_conv *c, void *scratch) {
    cc_arena arena = {scratch, 0};
    layer l = make_layer(c, x, y, w, &arena);
    l.channels = w->shape[1];
    l.maps = w->shape[0] / c->groups;
    l.channel_stride = l.kernel * l.kernel;
    l.map_stride = l.channels * l.channel_stride;
    for (int a = 0; a < 2; a++) l.begin[a] = c->window.begin[1 + a];
    const space s = take_space(&l, &arena);
    if (!scratch) return arena.used;
    const float *origin = l.in.origin;
    for (int64_t group = 0; group < c->groups; group++) {
        const int64_t k = group * l.maps;
        l.in.origin = origin + group * l.channels;
        l.w = (const float *)w->data + k * l.map_stride;
        convolve(&l, &s, bias ? (const float *)bias->data + k : NULL, (float *)y->data + k * l.out_channel);
    }
    return 0;
}

int64_t cc_winograd_backward_data(cc_out dx, cc_in dy, cc_in w, const cc_conv *c, void *scratch) {
    cc_arena arena = {scratch, 0};
    layer l = make_layer(c, dy, dx, w, &arena);
    l.turned = 1;
    l.channels = w->shape[0] / c->groups;
    l.maps = w->shape[1];
    l.map_stride = l.kernel * l.kernel;
    l.channel_stride = l.maps * l.map_stride;
    for (int a = 0; a < 2; a++) l.begin[a] = l.kernel - 1 - c->window.begin[1 + a];
    const space s = take_space(&l, &arena);
    if (!scratch) return arena.used;
    const float *origin = l.in.origin;
    for (int64_t group = 0; group < c->groups; group++) {
        l.in.origin = origin + group * l.channels;
        l.w = (const float *)w->data + group * l.channels * l.channel_stride;
        convolve(&l, &s, NULL, (float *)dx->data + group * l.maps * l.out_channel);
    }
    return 0;
}

/* Returns 1 where dw is not finite: NaN or Inf would have spread over the taps of a filter. */
int64_t cc_winograd_backward_weights(cc_out dw, cc_in dy, cc_in x, const cc_conv *c, void *scratch) {
    cc_arena arena = {scratch, 0};
    const int64_t none[3] = {0};
    layer l = make_layer(c, x, dy, dw, &arena);
    map_view above = view_f32(dy, none, dy->shape + 2, &arena);
    l.channels = dw->shape[1];
    l.maps = dw->shape[0] / c->groups;
    l.channel_stride = l.kernel * l.kernel;
    l.map_stride = l.channels * l.channel_stride;
    for (int a = 0; a < 2; a++) l.begin[a] = c->window.begin[1 + a];
    const weight_space s = take_weight_space(&l, &arena);
    if (!scratch) return arena.used;
    for (int64_t group = 0; group < c->groups; group++) {
        correlate(&l, &s, &above, (float *)dw->data + group * l.maps * l.map_stride);
        l.in.origin += l.channels;
        above.origin += l.maps;
    }
    const float *filter = dw->data;
    float zero = 0;
    for (int64_t i = 0; i < cc_count(dw); i++) zero += 0 * filter[i];
    return zero != 0;
}
