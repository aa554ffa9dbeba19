/* linear: three products of matrices, and a sum.
 *
 *     product      c[m][n] = start[n] + sum over k of a(m, k) b(k, n)
 *     forward      y = x w^T + b        dx = dy w        dw = dy^T x
 *
 * a and b are read once, at any strides. a is copied to tiles of MR rows, [tile][k][MR], for all threads. Of b every
 * task copies KC rows of a block of columns, [k][lane]. They stay in L1 while the tiles go by; KC columns of the tiles
 * stay in L2. Registers are used as in conv_direct.c. Sums of KC terms are added to the total: two levels of sums round
 * less than one.
 *
 *   v1  a 1x1 convolution of one-pixel images packs w element by element
 *   v2  these products: y, dx, dw take 7.0, 7.3, 6.2 ms (one core, 128 x 3136 -> 512; 4.0 at the peak)
 *   v3  sums side by side, not in c: 5.2, 5.2, 5.6 ms
 *   v4  KC terms of all blocks before the next KC: dw is 28 % faster, dx 3 %
 *   v5  contiguous rows of b copied for all blocks at once: dx is 5 to 27 % faster, dw 2 %
 *   v6  b fetched ahead while it is copied: y is 5 % faster, dx and dw 2 %
 *   v7  a thread always has the same columns: dx and dw are 3 % faster, 25 % where threads share no cache
 *
 * What limits it, measurements, and what did not help: docs/kernels/linear.md. */
#include "twice.h"

#ifdef REAL
#include "conv.h"

#ifndef LINEAR_H
#define LINEAR_H
#define TILES 32        /* tiles of a, per task: they share a copy of b */
#define COLUMN_BLOCKS 4 /* blocks of columns of b, per task */
#define ROWS_AHEAD 16   /* b is fetched into the second-level cache while it is copied: so many rows ahead, */
#define LINES_AHEAD 8   /* or, where columns are contiguous, so many vectors of every column */
#endif
#define STRIP (COLUMN_BLOCKS * BLOCK) /* columns of a task */
#define SUMS (COLUMN_BLOCKS * TILES * MR * BLOCK) /* sums of a task */

/* Element (i, j) stands at data[i * down + j * along]. */
#define matrix FN(cc_matrix)
typedef struct { const REAL *data; int64_t down, along; } matrix;

/* Packs a to [tile][k][MR]. Rows behind the last are 0. */
static void FN(pack_tiles)(REAL *to, matrix a, int64_t rows, int64_t depth) {
    PARALLEL_TASKS(t, cc_ceil_div(rows, MR)) {
        const int64_t some = MIN(MR, rows - t * MR);
        const REAL *from = a.data + t * MR * a.down;
        for (int64_t k = 0; k < depth; k++)
            for (int m = 0; m < MR; m++) to[(t * depth + k) * MR + m] = m < some ? from[m * a.down + k * a.along] : 0;
    }
}

/* Packs `depth` rows of a strip of b to [block][KC][lane]. Rows of b are contiguous, and all lines of a row are read
 * together. */
static void FN(pack_strip)(REAL *to, matrix b, int64_t depth) {
    for (int64_t k = 0; k < depth; k++)
        for (int v = 0; v < STRIP / V; v++) {
            __builtin_prefetch(b.data + (k + ROWS_AHEAD) * b.down + v * V, 0, 2);
            FN(store)(to + (v / NV * KC + k) * BLOCK + v % NV * V, FN(load)(b.data + k * b.down + v * V));
        }
}

/* Packs `depth` rows of a block of `lanes` columns of b to [k][lane]. Lanes behind the last are 0. */
static void FN(pack_columns)(REAL *to, matrix b, int64_t depth, int64_t lanes) {
    int64_t k = 0;
    if (lanes == BLOCK && b.along == 1)
        for (; k < depth; k++)
            for (int v = 0; v < NV; v++) FN(store)(to + k * BLOCK + v * V, FN(load)(b.data + k * b.down + v * V));
    if (lanes == BLOCK && b.down == 1)
        for (; k + V <= depth; k += V) {
            for (int64_t j = 0; j < BLOCK; j++) __builtin_prefetch(b.data + k + LINES_AHEAD * V + j * b.along, 0, 2);
            for (int v = 0; v < NV; v++) FN(transpose)(to + k * BLOCK + v * V, BLOCK, b.data + k + v * V * b.along, b.along);
        }
    for (; k < depth; k++)
        for (int64_t j = 0; j < BLOCK; j++) to[k * BLOCK + j] = j < lanes ? b.data[k * b.down + j * b.along] : 0;
}

/* total[m][lane] += sum over k of a[k][m] b[k][lane] */
INLINE void FN(multiply_tile)(REAL total[MR * BLOCK], const REAL *a, const REAL *b, int64_t depth) {
    vec acc[MR][NV];
    UNROLL for (int m = 0; m < MR; m++) {
        UNROLL for (int v = 0; v < NV; v++) acc[m][v] = (vec){0};
    }
    for (int64_t k = 0; k < depth; k++, a += MR, b += BLOCK) {
        vec lanes[NV];
        UNROLL for (int v = 0; v < NV; v++) lanes[v] = FN(load)(b + v * V);
        UNROLL for (int m = 0; m < MR; m++) {
            UNROLL for (int v = 0; v < NV; v++) acc[m][v] += lanes[v] * a[m];
        }
    }
    UNROLL for (int m = 0; m < MR; m++) {
        UNROLL for (int v = 0; v < NV; v++) {
            REAL *to = total + m * BLOCK + v * V;
            FN(store)(to, FN(load)(to) + acc[m][v]);
        }
    }
}

/* One task: up to COLUMN_BLOCKS blocks of columns of c and up to TILES * MR rows. KC terms of all blocks come before
 * the next KC terms, so all blocks but the first read these terms of the tiles from L2. Sums wait side by side in
 * `total`, since in c they would use few sets of the cache. `whole` has room for SUMS doubles, for sums of more than
 * DEEP terms. */
static void FN(multiply_columns)(REAL *c, int64_t width, int64_t rows, int64_t lanes, int64_t depth, const REAL *tiles,
                                 matrix b, const REAL *start, double *whole) {
    const int strip = lanes == STRIP && b.along == 1;
    REAL columns[COLUMN_BLOCKS][KC * BLOCK] __attribute__((aligned(64)));
    REAL total[COLUMN_BLOCKS][TILES * MR * BLOCK] __attribute__((aligned(64)));
    for (int64_t n = 0; n < lanes; n += BLOCK) {
        REAL first[BLOCK] = {0};
        if (start) memcpy(first, start + n, MIN(BLOCK, lanes - n) * sizeof(REAL));
        for (int64_t m = 0; m < cc_round_up(rows, MR); m++) memcpy(total[n / BLOCK] + m * BLOCK, first, sizeof first);
    }
    if (depth > DEEP) memset(whole, 0, SUMS * sizeof(double));
    for (int64_t k = 0; k < depth; k += KC) {
        const int64_t some = MIN(KC, depth - k), end = k + some;
        const matrix part = {b.data + k * b.down, b.down, b.along};
        if (strip) FN(pack_strip)(columns[0], part, some);
        for (int64_t n = 0; n < lanes; n += BLOCK) {
            REAL *block = columns[strip ? n / BLOCK : 0]; /* a single block stays in L1 */
            if (!strip)
                FN(pack_columns)(block, (matrix){part.data + n * b.along, b.down, b.along}, some, MIN(BLOCK, lanes - n));
            for (int64_t m = 0; m < rows; m += MR)
                FN(multiply_tile)(total[n / BLOCK] + m * BLOCK, tiles + m * depth + k * MR, block, some);
        }
        if (depth > DEEP && (end % DEEP == 0 || end == depth))
            for (int64_t n = 0; n < lanes; n += BLOCK) {
                const int64_t count = cc_round_up(rows, MR) * BLOCK;
                double *sum = whole + n / BLOCK * (TILES * MR * BLOCK);
                FN(add_run)(sum, total[n / BLOCK], count);
                if (end < depth) memset(total[n / BLOCK], 0, count * sizeof(REAL));
                else FN(round_runs)(total[n / BLOCK], sum, count);
            }
    }
    for (int64_t m = 0; m < rows; m++)
        for (int64_t j = 0; j < lanes; j += V)
            FN(store_n)(c + m * width + j, FN(load)(total[j / BLOCK] + m * BLOCK + j % BLOCK), lanes - j);
}

/* The scratch of a product. take_space returns its bytes. */
#define space FN(cc_space)
typedef struct { REAL *tiles; double *whole; } space;
static int64_t FN(take_space)(space *s, int64_t rows, int64_t depth, void *scratch) {
    cc_arena arena = {scratch, 0};
    s->tiles = cc_take(&arena, cc_round_up(rows, MR) * depth * (int64_t)sizeof(REAL));
    s->whole = cc_take(&arena, depth > DEEP ? cc_threads * SUMS * (int64_t)sizeof(double) : 0);
    return arena.used;
}

static void FN(multiply)(REAL *c, int64_t rows, int64_t width, int64_t depth, matrix a, matrix b, const REAL *start,
                         void *scratch) {
    space s;
    FN(take_space)(&s, rows, depth, scratch);
    const int64_t row_step = TILES * MR, column_step = STRIP, column_tasks = cc_ceil_div(width, column_step);
    FN(pack_tiles)(s.tiles, a, rows, depth);
    PARALLEL_TASKS(task, cc_ceil_div(rows, row_step) * column_tasks) {
        const int64_t m = task / column_tasks * row_step, n = task % column_tasks * column_step;
        FN(multiply_columns)(c + m * width + n, width, MIN(row_step, rows - m), MIN(column_step, width - n), depth,
                             s.tiles + m * depth, (matrix){b.data + n * b.along, b.down, b.along},
                             start ? start + n : NULL, s.whole + cc_thread() * SUMS);
    }
}

/* sum[n] = sum over rows of a[m][n] */
static void FN(sum_rows)(REAL *sum, const REAL *a, int64_t rows, int64_t width) {
    for (int64_t n = 0; n < width; n += V) {
        double whole[V] = {0};
        vec total = {0};
        for (int64_t m = 0; m < rows; m += SUM_RUN) {
            vec part = {0};
            for (int64_t i = m; i < MIN(m + SUM_RUN, rows); i++) part += FN(load_n)(a + i * width + n, width - n);
            total = FN(end_run)(whole, part);
        }
        FN(store_n)(sum + n, total, width - n);
    }
}

int64_t FN(linear_forward)(cc_out y, cc_in x, cc_in w, cc_in b, const void *p, void *scratch) {
    const int64_t images = x->shape[0], features = w->shape[1], outputs = w->shape[0];
    space s;
    if (!scratch) return FN(take_space)(&s, images, features, NULL);
    FN(multiply)(y->data, images, outputs, features, (matrix){x->data, features, 1}, (matrix){w->data, 1, features},
                 b ? b->data : NULL, scratch);
    return 0;
}

int64_t FN(linear_backward)(cc_out dx, cc_out dw, cc_out db, cc_in dy, cc_in x, cc_in w, const void *p,
                            void *scratch) {
    const int64_t images = dy->shape[0], features = w->shape[1], outputs = w->shape[0];
    space s;
    if (!scratch)
        return MAX(FN(take_space)(&s, images, outputs, NULL), FN(take_space)(&s, outputs, images, NULL));
    if (cc_wanted(dx))
        FN(multiply)(dx->data, images, features, outputs, (matrix){dy->data, outputs, 1}, (matrix){w->data, features, 1},
                     NULL, scratch);
    if (cc_wanted(dw))
        FN(multiply)(dw->data, outputs, features, images, (matrix){dy->data, 1, outputs}, (matrix){x->data, features, 1},
                     NULL, scratch);
    if (cc_wanted(db)) FN(sum_rows)(db->data, dy->data, images, outputs);
    return 0;
}
#endif
