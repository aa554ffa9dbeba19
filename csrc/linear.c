/* linear: three products of matrices, and a sum.
 *
 *     product      c[m][n] = start[n] + sum over k of a(m, k) b(k, n)
 *     forward      y = x w^T + b        dx = dy w        dw = dy^T x
 *
 * a and b are read at any strides, once: a is copied to tiles of MR rows, [tile][k][MR], for all threads; of b, every task
 * copies KC rows of a block of columns, [k][lane], which stay in L1 while all tiles of a pass by; the same KC of the tiles
 * stay in L2 for the task's other blocks. Registers are used as in conv_direct.c: MR rows by NV vectors of sums, per step
 * NV loads and MR broadcasts for MR NV fused multiply-adds. The sums of KC terms are added up after that: two levels
 * round less than one.
 *
 * 128 x 3136 -> 512, AVX2, ms; at the multiply-add peak one core would take 4.0 for each of the three:
 *
 *   1x1 convolution of one-pixel images   two cores, forward 3.8, backward 8.2: it packs w element by element
 *   these products                        one core, y 7.0, dx 7.3, dw 6.2
 *   sums side by side, not in c           one core, y 5.2, dx 5.2, dw 5.6: 4.4 in tiles, 0.35 to copy a and b
 *   KC of all blocks before the next KC   y the same, dx 3 % faster, dw 28 % (two cores, caches cold: 15 %), in turns:
 *                                         4 BLOCK elements of a row of c are stored at once
 *   rows of b, where contiguous, copied   dx 5 %, dw 2 % faster (two cores, caches cold, in turns), dx of 32 x 4096 ->
 *   for all blocks at once                4096 27 %: of one block, a row is a line in a page of its own
 *   b fetched ahead while it is copied    (AVX-512, Zen 4, in turns) y 5 % faster, dx and dw 2 %
 *   the same columns for a thread always  dx and dw 3 %, and 25 % where threads have no cache in common
 *
 * The inner loop runs at 99 % of the multiply-add peak with 256 terms from L1 (93 % with 32), and unrolling it, or 4 rows
 * by 3 vectors, changes nothing. Of y's time on one core 85 % are tiles, 10 % copying w turned, 3 % copying x; of dx 79,
 * 15 and 1 %; of dw 76 %, 9 % copying x, 15 % storing. No gain, in turns: asking for the next columns of b, or for the
 * lines of c that will be stored, while tiles are multiplied (y and dx within 2 %, dw 0 to 8 % slower); transposing with
 * half the shuffles (those within 16 bytes first: 24 for 48, alone 10 to 8 ns), y the same.
 */
#include "twice.h"

#ifdef REAL
#include "conv.h"

#ifndef LINEAR_H
#define LINEAR_H
#define TILES 32       /* of a, per task: so many rows share a copy of b */
#define COLUMN_BLOCKS 4 /* of b, per task */
#define ROWS_AHEAD 16   /* of b, while it is copied: what is fetched into the second cache, */
#define LINES_AHEAD 8   /* and where its columns are contiguous, vectors of each */
#endif
#define STRIP (COLUMN_BLOCKS * BLOCK) /* their columns */
#define SUMS (COLUMN_BLOCKS * TILES * MR * BLOCK) /* of a task */

/* Element (i, j) stands at data[i * down + j * along]. */
#define matrix FN(cc_matrix)
typedef struct { const REAL *data; int64_t down, along; } matrix;

/* Rows of a as [tile][k][MR]; rows behind the last are 0. */
static void FN(pack_tiles)(REAL *to, matrix a, int64_t rows, int64_t depth) {
    PARALLEL_TASKS(t, cc_ceil_div(rows, MR)) {
        const int64_t some = MIN(MR, rows - t * MR);
        const REAL *from = a.data + t * MR * a.down;
        for (int64_t k = 0; k < depth; k++)
            for (int m = 0; m < MR; m++) to[(t * depth + k) * MR + m] = m < some ? from[m * a.down + k * a.along] : 0;
    }
}

/* `depth` rows of a strip of b whose rows are contiguous, as [block][KC][lane]: a row's lines are read together. */
static void FN(pack_strip)(REAL *to, matrix b, int64_t depth) {
    for (int64_t k = 0; k < depth; k++)
        for (int v = 0; v < STRIP / V; v++) {
            __builtin_prefetch(b.data + (k + ROWS_AHEAD) * b.down + v * V, 0, 2);
            FN(store)(to + (v / NV * KC + k) * BLOCK + v % NV * V, FN(load)(b.data + k * b.down + v * V));
        }
}

/* `depth` rows of a block of `lanes` columns of b as [k][lane]; lanes behind the last are 0. */
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

/* COLUMN_BLOCKS blocks of columns of c, or less, and up to TILES * MR rows. KC rows of b are gone through before the next,
 * so that the same KC of all tiles are read from L2 by all blocks but the first. Sums wait side by side: in c they would
 * share few sets of the cache. `whole`: room for SUMS sums of more than DEEP terms. */
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
            REAL *block = columns[strip ? n / BLOCK : 0]; /* alone, it stays in L1 */
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

/* Scratch of a product; returns its bytes. */
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
