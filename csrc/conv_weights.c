/* Convolution backward to weights and bias. The reduction runs over pixels.
 *
 * A tile of MR rows (tap, channel) by NV vectors of maps stays in registers while pixels go by (gather_tile in conv.h).
 * A pixel is NV loads of dy, MR broadcasts of x, and MR * NV fused multiply-adds. Every sum belongs to one task, so
 * there are no races and no atomics. Where there are few tasks (first layers, 1x1), pixels are cut into parts, and the
 * sums of the parts are added afterwards. The bias' gradient is summed on the way, while its pixels of dy are in cache.
 *
 *   v1  x and dy are packed, db is summed on its own
 *   v2  x is read where it stands, db is summed with dw: 0.72 to 0.94 of the time
 *   v3  one pointer per row, dy is packed whole: dw takes 0.78 to 1
 *   v4  dy is packed block by block, db on the way: dw and db take 0.83 to 0.97
 *   v5  dy is packed pixel by pixel and read in order: 0.87 to 0.97
 *   v6  the next pixels of dy are fetched ahead: 0.94 to 0.98
 *
 * Measurements: docs/kernels/conv.md. */
#include "twice.h"

#ifdef REAL
#include "conv.h"

/* Packs dy to [block of maps][PIXELS][BLOCK]. So dy is read once and in order. At its own strides it would use few sets
 * of the cache. */
static void FN(pack_maps)(REAL *to, const REAL *dy, const int64_t *out, int64_t count, int64_t maps) {
    for (int64_t i = 0; i < count; i++, to += BLOCK) {
        const REAL *from = dy + out[i];
        REAL *at = to;
        for (int64_t k = 0; k < maps; k += BLOCK, at += PIXELS * BLOCK)
            UNROLL for (int v = 0; v < NV; v++)
                FN(store)(at + v * V, FN(load_n)(from + k + v * V, maps - k - v * V));
    }
}

/* Fetches the maps of pixels `first` to `last` - 1. */
INLINE void FN(fetch_maps)(const REAL *dy, const int64_t *out, int64_t first, int64_t last, int64_t maps) {
    for (int64_t i = first; i < last; i++)
        for (int64_t k = 0; k < maps; k += 64 / (int64_t)sizeof(REAL)) __builtin_prefetch(dy + out[i] + k);
}

/* sum += packed dy, summed over pixels, block by block. Two levels of sums round less than one. */
static void FN(add_pixels)(REAL *sum, const REAL *above, int64_t count, int64_t blocks) {
    for (int64_t b = 0; b < blocks; b++, above += PIXELS * BLOCK, sum += BLOCK) {
        vec part[NV] = {{0}};
        for (int64_t i = 0; i < count; i++)
            UNROLL for (int v = 0; v < NV; v++) part[v] += FN(load)(above + i * BLOCK + v * V);
        UNROLL for (int v = 0; v < NV; v++) FN(store)(sum + v * V, FN(load)(sum + v * V) + part[v]);
    }
}

/* How backward to w is cut: into tasks of `rows` rows by `blocks` blocks of maps, each in `parts` parts of the pixels.
 * Only shapes decide, and parts are added in order, so results do not depend on the number of threads. A part has
 * `size` sums [block][row][lane], with those of the bias behind them. Where a part is long, sums over DEEP_PARTS *
 * PIXELS pixels are added up in double, behind these. `own` is the memory of a part with all of that. */
#define weight_cut FN(cc_weight_cut)
typedef struct { int64_t row_tasks, map_tasks, rows, blocks, parts, size, own; } weight_cut;

static weight_cut FN(cut_weights)(int64_t rows, int64_t maps, int64_t pixels) {
    weight_cut c = {MAX(1, cc_ceil_div(rows, ROWS)), cc_ceil_div(maps, WEIGHT_MAPS), cc_round_up(MIN(rows, ROWS), MR)};
    c.blocks = cc_ceil_div(cc_ceil_div(maps, BLOCK), c.map_tasks);
    c.parts = MAX(1, MIN(32 / (c.row_tasks * c.map_tasks), pixels / (16 * PIXELS))); /* 32: work for many threads */
    c.size = c.blocks * (c.rows + 1) * BLOCK;
    c.own = c.size * (pixels / c.parts > DEEP_PARTS * PIXELS ? 1 + (int64_t)(sizeof(double) / sizeof(REAL)) : 1);
    return c;
}

/* Elements of scratch that cc_scatter_weights wants. */
int64_t FN(cc_weight_sums)(int64_t rows, int64_t maps, int64_t pixels) {
    const weight_cut c = FN(cut_weights)(rows, maps, pixels);
    return c.row_tasks * c.map_tasks * c.parts * c.own;
}

/* sum[block][row][lane] = sum over pixels p0 ... p1 - 1 of x[in + row.offset] dy[out + map]. If `bias` is given,
 * bias[map] = sum of dy[out + map]. The next pixels of dy are fetched while tiles are computed. */
static void FN(weight_part)(const pixel_grid *g, const weight_cut *c, const int64_t *offset, int64_t rows, REAL *sum,
                            REAL *bias, const REAL *x, const REAL *dy, int64_t maps, int64_t p0, int64_t p1) {
    REAL above[WEIGHT_MAPS * PIXELS];
    int64_t in[2][PIXELS], out[2][PIXELS], count = MIN(PIXELS, p1 - p0), turn = 0;
    const int64_t share = cc_ceil_div(PIXELS, MAX(1, cc_ceil_div(rows, MR) * c->blocks)); /* to fetch, per tile */
    double *whole = (double *)(sum + c->size);
    memset(sum, 0, c->own * sizeof(REAL));
    FN(locate)(g, p0, count, in[0], out[0]);
    for (int64_t p = p0; p < p1; p += PIXELS, turn = !turn) {
        const int64_t next = MAX(0, MIN(PIXELS, p1 - p - PIXELS));
        FN(pack_maps)(above, dy, out[turn], count, maps);
        if (bias) FN(add_pixels)(bias, above, count, c->blocks);
        FN(locate)(g, p + PIXELS, next, in[!turn], out[!turn]);
        for (int64_t b = 0, asked = 0; b < c->blocks; b++)
            for (int64_t r = 0; r < rows; r += MR, asked += share) {
                const REAL *from[MR]; /* behind the last row, it is repeated */
                vec acc[MR][NV];
                FN(fetch_maps)(dy, out[!turn], asked, MIN(asked + share, next), maps);
                for (int m = 0; m < MR; m++) from[m] = x + offset[MIN(r + m, rows - 1)];
                /* PIXELS terms have a sum of their own: two levels of sums round less than one */
                UNROLL for (int m = 0; m < MR; m++) {
                    UNROLL for (int v = 0; v < NV; v++) acc[m][v] = (vec){0};
                }
                FN(gather_tile)(in[turn], count, from, above + b * PIXELS * BLOCK, acc);
                UNROLL for (int m = 0; m < MR; m++) {
                    UNROLL for (int v = 0; v < NV; v++) {
                        REAL *to = sum + (b * c->rows + r + m) * BLOCK + v * V;
                        FN(store)(to, FN(load)(to) + acc[m][v]);
                    }
                }
            }
        count = next;
        if (c->own == c->size || (next && (p - p0) / PIXELS % DEEP_PARTS < DEEP_PARTS - 1)) continue;
        FN(add_run)(whole, sum, c->size);
        if (next) memset(sum, 0, c->size * sizeof(REAL));
        else FN(round_runs)(sum, whole, c->size);
    }
}

/* dw[row.weight + k * map_stride] = sum over pixels of x[in + row.offset] dy[out + k]. Unless db is NULL, db[k] = sum
 * over pixels of dy[out + k]. dy is channels last. Without rows only db is computed. */
void FN(cc_scatter_weights)(const pixel_grid *g, const row_list *rows, REAL *dw, REAL *db, const REAL *x,
                            const REAL *dy, int64_t maps, int64_t map_stride, REAL *sums) {
    const int64_t pixels = FN(grid_pixels)(g);
    const weight_cut c = FN(cut_weights)(rows->count, maps, pixels);
    const int64_t tasks = c.row_tasks * c.map_tasks, biases = c.blocks * c.rows * BLOCK;
    PARALLEL_TASKS(i, tasks * c.parts) {
        const int64_t task = i / c.parts, part = i % c.parts;
        const int64_t row = task / c.map_tasks * ROWS, k = task % c.map_tasks * c.blocks * BLOCK;
        REAL *sum = sums + i * c.own;
        FN(weight_part)(g, &c, rows->offset + row, MIN(ROWS, rows->count - row), sum, db && !row ? sum + biases : NULL,
                        x, dy + k, MIN(c.blocks * BLOCK, maps - k), pixels * part / c.parts,
                        pixels * (part + 1) / c.parts);
    }
    PARALLEL_TASKS(i, tasks * c.blocks) {
        const int64_t task = i / c.blocks, b = i % c.blocks;
        const int64_t row = task / c.map_tasks * ROWS, k = (task % c.map_tasks * c.blocks + b) * BLOCK;
        REAL *sum = sums + task * c.parts * c.own, *block = sum + b * c.rows * BLOCK, *bias = sum + biases + b * BLOCK;
        for (int64_t part = 1; part < c.parts; part++) {
            for (int64_t j = 0; j < c.rows * BLOCK; j++) block[j] += block[part * c.own + j];
            for (int64_t j = 0; j < BLOCK; j++) bias[j] += bias[part * c.own + j];
        }
        for (int64_t j = 0; j < MIN(BLOCK, maps - k); j++) {
            for (int64_t r = 0; r < MIN(ROWS, rows->count - row); r++)
                dw[rows->weight[row + r] + (k + j) * map_stride] = block[r * BLOCK + j];
            if (db && !row) db[k + j] = bias[j];
        }
    }
}
#endif
