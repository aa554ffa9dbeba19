/* What the files of convolution share: rows, runs, pixel grids, block sizes and the inner loop. Included after
 * twice.h. */

#ifndef NV
#define NV 2
#if defined(__aarch64__)
#define MR 12
#elif CC_VECTOR_BYTES == 64
#define MR 8 /* x86 has no registers for more pointers */
#elif CC_VECTOR_BYTES == 32
#define MR 6
#else
#define MR 4 /* there is no fused multiply-add, so products need registers, too */
#endif
#define DOT_PIXELS 4
#define DOT_MAPS 3
/* Sizes of what a task holds in L1 (32 KiB): a panel of KC rows of a block of maps, and the sums of PIXELS pixels.
 * Backward to w: PIXELS pixels of a block of maps of dy in L1, and the sums of ROWS rows by WEIGHT_MAPS maps in L2. */
#define KC 256
#define PIXELS (MR * 16)
#define ROWS 192
#define WEIGHT_MAPS 192
#define DEEP (4 * KC) /* terms that are added up in REAL, at most; sums of DEEP terms are added up in double */
#define DEEP_PARTS 64 /* the same backward to w: DEEP_PARTS * PIXELS terms */
#define MAP_BLOCKS 4 /* blocks of maps per task where there are few tasks */
#endif
#define BLOCK (NV * V) /* maps per block */

#define run FN(cc_run)
typedef struct { int64_t offset, length; } run;

/* The rows of a reduction. A row has an offset from the pixel in the map that is read, and a place in the weights. A
 * run is rows whose offsets follow each other. */
#define row_list FN(cc_row_list)
typedef struct {
    int64_t count, runs;
    int64_t *offset, *weight;
    run *run_list;
} row_list;

/* A grid of pixels: their strides in the map that is read and in the map that is written. */
#define pixel_grid FN(cc_pixel_grid)
typedef struct {
    int64_t images, size[3];
    int64_t in_n, in[3], out_n, out[3], out_channel;
} pixel_grid;

INLINE int64_t FN(grid_pixels)(const pixel_grid *g) { return g->images * g->size[0] * g->size[1] * g->size[2]; }

/* Offsets, in both maps, of `count` pixels from number `first` on. */
INLINE void FN(locate)(const pixel_grid *g, int64_t first, int64_t count, int64_t *in, int64_t *out) {
    int64_t at[3], rest = first;
    for (int a = 2; a >= 0; a--) {
        at[a] = rest % g->size[a];
        rest /= g->size[a];
    }
    for (int64_t i = 0; i < count;) {
        const int64_t from = rest * g->in_n + at[0] * g->in[0] + at[1] * g->in[1] + at[2] * g->in[2];
        const int64_t to = rest * g->out_n + at[0] * g->out[0] + at[1] * g->out[1] + at[2] * g->out[2];
        const int64_t line = MIN(count - i, g->size[2] - at[2]);
        for (int64_t j = 0; j < line; j++) {
            in[i + j] = from + j * g->in[2];
            out[i + j] = to + j * g->out[2];
        }
        i += line;
        at[2] = 0;
        if (++at[1] < g->size[1]) continue;
        at[1] = 0;
        if (++at[0] < g->size[0]) continue;
        at[0] = 0;
        rest++;
    }
}

/* The inner loop of all direct kernels: acc[m] += sum over i of x[m][at[i]] * lanes[i]. Forward, i counts rows, m
 * counts pixels, and lanes are maps of w. Backward to w, i counts pixels, m counts rows, and lanes are maps of dy. */
INLINE void FN(gather_tile)(const int64_t *at, int64_t count, const REAL *const x[MR], const REAL *lanes,
                            vec acc[MR][NV]) {
    for (int64_t i = 0; i < count; i++, lanes += BLOCK) {
        const int64_t place = at[i];
        vec factor[NV];
        UNROLL for (int v = 0; v < NV; v++) factor[v] = FN(load)(lanes + v * V);
        UNROLL for (int m = 0; m < MR; m++) {
            UNROLL for (int v = 0; v < NV; v++) acc[m][v] += factor[v] * x[m][place];
        }
    }
}

/* conv_weights.c */
int64_t FN(cc_weight_sums)(int64_t rows, int64_t maps, int64_t pixels);
void FN(cc_scatter_weights)(const pixel_grid *g, const row_list *rows, REAL *dw, REAL *db, const REAL *x,
                            const REAL *dy, int64_t maps, int64_t map_stride, REAL *sums);

/* conv_direct.c; conventions as in kernels.h */
int64_t FN(cc_direct_forward)(cc_out y, cc_in x, cc_in w, cc_in b, const cc_conv *p, void *scratch);
int64_t FN(cc_direct_backward)(cc_out dx, cc_out dw, cc_out db, cc_in dy, cc_in x, cc_in w, const cc_conv *p,
                               void *scratch);
