/* Convolution backward to weights and bias: the reduction runs over pixels.
 *
 * A tile of MR rows (tap, channel) by NV vectors of maps stays in registers while pixels go by: per pixel NV loads of
 * dy, MR broadcasts of x, MR * NV fused multiply-adds. Every sum belongs to one task, so there are no races and no
 * atomics; where there are few tasks (first layers, 1x1), pixels are cut into parts whose sums are added afterwards.
 */
#include "twice.h"

#ifdef REAL
#include "conv.h"

INLINE void FN(weight_tile)(const REAL *x, const REAL *dy, int64_t pixels, vec acc[MR][NV]) {
    for (int64_t p = 0; p < pixels; p++, x += MR, dy += BLOCK) {
        vec lanes[NV];
        UNROLL for (int v = 0; v < NV; v++) lanes[v] = FN(load)(dy + v * V);
        UNROLL for (int m = 0; m < MR; m++) {
            UNROLL for (int v = 0; v < NV; v++) acc[m][v] += lanes[v] * x[m];
        }
    }
}

/* One tile of rows of x for `count` pixels, as [pixel][MR]. Rows behind the last are the last again. */
static void FN(pack_rows)(REAL *to, const REAL *x, const int64_t *in, int64_t count, const int64_t *offset,
                          int64_t rows) {
    if (rows >= MR && offset[MR - 1] - offset[0] == MR - 1) {
        for (int64_t i = 0; i < count; i++) memcpy(to + i * MR, x + in[i] + offset[0], MR * sizeof(REAL));
        return;
    }
    for (int m = 0; m < MR; m++)
        for (int64_t i = 0; i < count; i++) to[i * MR + m] = x[in[i] + offset[MIN(m, rows - 1)]];
}

/* Blocks of maps of dy, as [block][PIXELS][BLOCK]. A pixel's maps follow each other, so it is read whole. */
static void FN(pack_maps)(REAL *to, const REAL *dy, const int64_t *out, int64_t count, int64_t blocks, int64_t maps) {
    for (int64_t i = 0; i < count; i++)
        for (int64_t v = 0; v < blocks * NV; v++)
            FN(store)(to + (v / NV * PIXELS + i) * BLOCK + v % NV * V, FN(load_n)(dy + out[i] + v * V, maps - v * V));
}

/* How backward to w is cut: tasks of ROWS rows by `blocks` blocks of maps, each in `parts` parts of the pixels. Only
 * shapes decide, and parts are added in order, so that results do not depend on the number of threads. */
#define weight_cut FN(cc_weight_cut)
typedef struct { int64_t row_tasks, map_tasks, blocks, parts; } weight_cut;

static weight_cut FN(cut_weights)(int64_t rows, int64_t maps, int64_t pixels) {
    weight_cut c = {cc_ceil_div(rows, ROWS)};
    c.blocks = MIN(WEIGHT_MAP_BLOCKS, cc_ceil_div(maps, BLOCK));
    c.map_tasks = cc_ceil_div(maps, c.blocks * BLOCK);
    c.parts = MAX(1, MIN(32 / (c.row_tasks * c.map_tasks), pixels / (16 * PIXELS))); /* 32: work for many threads */
    return c;
}

/* Elements of scratch that cc_scatter_weights wants. */
int64_t FN(cc_weight_sums)(int64_t rows, int64_t maps, int64_t pixels) {
    const weight_cut c = FN(cut_weights)(rows, maps, pixels);
    return c.row_tasks * c.map_tasks * c.parts * c.blocks * ROWS * BLOCK;
}

/* sum[block][row][lane] = sum over pixels p0 ... p1 - 1 of x[in + row.offset] dy[out + map]. Both are copied side by
 * side for PIXELS pixels at a time: at their own strides they would fall into few sets of the cache. */
static void FN(weight_part)(const pixel_grid *g, const int64_t *offset, int64_t rows, REAL *sum, const REAL *x,
                            const REAL *dy, int64_t maps, int64_t p0, int64_t p1) {
    const int64_t blocks = cc_ceil_div(maps, BLOCK);
    REAL from[ROWS * PIXELS], above[WEIGHT_MAP_BLOCKS * PIXELS * BLOCK];
    memset(sum, 0, blocks * ROWS * BLOCK * sizeof(REAL));
    for (int64_t p = p0; p < p1; p += PIXELS) {
        const int64_t count = MIN(PIXELS, p1 - p);
        int64_t in[PIXELS], out[PIXELS];
        FN(locate)(g, p, count, in, out);
        FN(pack_maps)(above, dy, out, count, blocks, maps);
        for (int64_t r = 0; r < rows; r += MR) FN(pack_rows)(from + r * PIXELS, x, in, count, offset + r, rows - r);
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t r = 0; r < rows; r += MR) {
                vec acc[MR][NV];
                /* added to the sum only after PIXELS terms: two levels round less than one */
                UNROLL for (int m = 0; m < MR; m++) {
                    UNROLL for (int v = 0; v < NV; v++) acc[m][v] = (vec){0};
                }
                FN(weight_tile)(from + r * PIXELS, above + b * PIXELS * BLOCK, count, acc);
                UNROLL for (int m = 0; m < MR; m++) {
                    UNROLL for (int v = 0; v < NV; v++) {
                        REAL *to = sum + (b * ROWS + r + m) * BLOCK + v * V;
                        FN(store)(to, FN(load)(to) + acc[m][v]);
                    }
                }
            }
    }
}

/* dw[row.weight + k * map_stride] = sum over pixels of x[in + row.offset] dy[out + k]; dy is channels last. */
void FN(cc_scatter_weights)(const pixel_grid *g, const row_list *rows, REAL *dw, const REAL *x, const REAL *dy,
                            int64_t maps, int64_t map_stride, REAL *sums) {
    const int64_t pixels = FN(grid_pixels)(g);
    const weight_cut c = FN(cut_weights)(rows->count, maps, pixels);
    const int64_t size = c.blocks * ROWS * BLOCK, tasks = c.row_tasks * c.map_tasks;
    PARALLEL_FOR
    for (int64_t i = 0; i < tasks * c.parts; i++) {
        const int64_t task = i / c.parts, part = i % c.parts;
        const int64_t row = task / c.map_tasks * ROWS, k = task % c.map_tasks * c.blocks * BLOCK;
        FN(weight_part)(g, rows->offset + row, MIN(ROWS, rows->count - row), sums + i * size, x, dy + k,
                        MIN(c.blocks * BLOCK, maps - k), pixels * part / c.parts, pixels * (part + 1) / c.parts);
    }
    PARALLEL_FOR
    for (int64_t task = 0; task < tasks; task++) {
        const int64_t row = task / c.map_tasks * ROWS, k = task % c.map_tasks * c.blocks * BLOCK;
        const REAL *sum = sums + task * c.parts * size;
        for (int64_t r = 0; r < MIN(ROWS, rows->count - row); r++)
            for (int64_t j = 0; j < MIN(c.blocks * BLOCK, maps - k); j++) {
                const int64_t at = (j / BLOCK * ROWS + r) * BLOCK + j % BLOCK;
                REAL total = sum[at];
                for (int64_t part = 1; part < c.parts; part++) total += sum[part * size + at];
                dw[rows->weight[row + r] + (k + j) * map_stride] = total;
            }
    }
}

/* db[k] = sum over pixels of dy, in two levels (blocks of PIXELS, then their sums), which rounds less than one. */
void FN(cc_sum_maps)(const pixel_grid *g, REAL *db, const REAL *dy, int64_t maps) {
    const int64_t pixels = FN(grid_pixels)(g);
    PARALLEL_FOR
    for (int64_t b = 0; b < cc_ceil_div(maps, V); b++) {
        const int64_t lanes = MIN(V, maps - b * V);
        vec sum = {0};
        for (int64_t p = 0; p < pixels; p += PIXELS) {
            int64_t in[PIXELS], out[PIXELS];
            const int64_t count = MIN(PIXELS, pixels - p);
            vec part = {0};
            FN(locate)(g, p, count, in, out);
            for (int64_t i = 0; i < count; i++) part += FN(load_n)(dy + out[i] + b * V, lanes);
            sum += part;
        }
        FN(store_n)(db + b * V, sum, lanes);
    }
}
#endif
