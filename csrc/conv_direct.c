/* Direct convolution, forward and backward to x, as register-blocked products without im2col. One engine, `gather`:
 *
 *     y[pixel][k] = bias[k] + sum over rows r of x[base(pixel) + offset(r)] * w[r][k]
 *
 * x is channels last and zero-padded. A row is a pair (tap, channel). Its offset does not depend on the pixel, so
 * stride, dilation and rank are in lists of offsets alone. Backward to x is the same on dy: with stride s the pixels of
 * dx fall into s phases per axis, those of a phase share their taps, and each phase is a call of gather. Backward to w:
 * conv_weights.c. With few maps most lanes would be empty; there the reduction is the vector (`dot`).
 *
 *   v1, v2  loops; im2col (conv_versions.c)
 *   v3  runs of rows walked with moving pointers, sums through memory
 *   v4  a list of offsets, sums from registers to y, a task takes all maps: 0.42 to 0.79 of the time
 *   v5  dot keeps x in a register: dx of first layers takes 0.87 of the time with AVX-512
 *
 * What limits it, measurements, and what did not help: docs/kernels/conv.md. */
#include "twice.h"

#ifdef REAL
#include "channels_last.h"
#include "conv.h"

static row_list FN(take_rows)(int64_t most, cc_arena *arena) {
    return (row_list){0, 0, cc_take(arena, most * sizeof(int64_t)), cc_take(arena, most * sizeof(int64_t)),
                      cc_take(arena, most * sizeof(run))};
}

static void FN(add_row)(row_list *rows, int64_t offset, int64_t weight) {
    run *last = rows->run_list + rows->runs - 1;
    if (rows->runs && last->length < KC && last->offset + last->length == offset) last->length++;
    else rows->run_list[rows->runs++] = (run){offset, 1};
    rows->offset[rows->count] = offset;
    rows->weight[rows->count++] = weight;
}

/* A panel is the runs from r on that together have at most `most` rows, and at least one run. Returns the run
 * behind. */
static int64_t FN(panel)(const row_list *rows, int64_t r, int64_t most, int64_t *length) {
    *length = rows->run_list[r].length;
    for (r++; r < rows->runs && *length + rows->run_list[r].length <= most; r++) *length += rows->run_list[r].length;
    return r;
}

/* Packs weights to [block][row][lane]. Lane j of block b is map b * BLOCK + j. Maps are map_stride apart in w. */
static void FN(pack_weights)(REAL *to, const REAL *w, const row_list *rows, int64_t maps, int64_t map_stride) {
    PARALLEL_TASKS(b, cc_ceil_div(maps, BLOCK)) {
        const int64_t lanes = MIN(BLOCK, maps - b * BLOCK);
        for (int64_t r = 0; r < rows->count; r++) {
            REAL *lane = to + (b * rows->count + r) * BLOCK;
            const REAL *from = w + rows->weight[r] + b * BLOCK * map_stride;
            for (int64_t j = 0; j < lanes; j++) lane[j] = from[j * map_stride];
            for (int64_t j = lanes; j < BLOCK; j++) lane[j] = 0;
        }
    }
}

/* --- gather --------------------------------------------------------------------------------------------------- */

/* Stores the sums of `count` pixels and `lanes` maps of a block to y. Where maps do not lie side by side but V pixels
 * do, squares of V x V are transposed. */
INLINE void FN(store_block)(REAL *y, const int64_t *out, int64_t count, int64_t lanes, int64_t stride,
                            const REAL *sum) {
    for (int64_t i = 0, next; i < count; i = next) {
        const int turned = stride != 1 && lanes == BLOCK && i + V <= count && out[i + V - 1] - out[i] == V - 1;
        next = i + (turned ? V : 1);
        for (int v = 0; v < NV && v * V < lanes; v++) {
            REAL *to = y + out[i] + v * V * stride;
            const REAL *from = sum + i * BLOCK + v * V;
            if (turned) FN(transpose)(to, stride, from, BLOCK);
            else if (stride == 1) FN(store_n)(to, FN(load)(from), lanes - v * V);
            else
                for (int64_t j = 0; j < MIN(V, lanes - v * V); j++) to[j * stride] = from[j];
        }
    }
}

/* What a product does with its sums: y = sum + bias, or max(0, sum + bias) with `relu`; with `past`, non-temporal
 * stores. */
#define finish FN(cc_finish)
typedef struct { const REAL *bias; int64_t relu, past; } finish;

/* One block of maps of one task, by panels of KC rows: all tiles but the first read a panel from L1. Between panels the
 * sums wait in `sum`. So do sums that cannot go from registers to y. */
INLINE void FN(gather_block)(const row_list *rows, const int64_t *in, const int64_t *out, int64_t count, REAL *y,
                             const REAL *x, const REAL *weights, const finish *f, int64_t lanes, int64_t stride) {
    const int64_t whole = lanes == BLOCK && stride == 1 ? count - count % MR : 0; /* pixels stored from registers */
    vec sum[PIXELS / MR][MR][NV];
    REAL start[BLOCK] = {0};
    if (f->bias) memcpy(start, f->bias, lanes * sizeof(REAL));
    int64_t r = 0;
    do {
        const int64_t length = MIN(KC, rows->count - r), last = r + length == rows->count;
        for (int64_t i = 0; i < count; i += MR) {
            const REAL *from[MR];
            vec acc[MR][NV];
            /* a short tile repeats its last pixel and does not store the copies */
            for (int m = 0; m < MR; m++) from[m] = x + in[MIN(i + m, count - 1)];
            UNROLL for (int m = 0; m < MR; m++) {
                UNROLL for (int v = 0; v < NV; v++) acc[m][v] = r ? sum[i / MR][m][v] : FN(load)(start + v * V);
            }
            FN(gather_tile)(rows->offset + r, length, from, weights, acc);
            if (last && f->relu) {
                UNROLL for (int m = 0; m < MR; m++) {
                    UNROLL for (int v = 0; v < NV; v++) acc[m][v] = FN(rectify)(acc[m][v]);
                }
            }
            if (last && i < whole) {
                UNROLL for (int m = 0; m < MR; m++) {
                    UNROLL for (int v = 0; v < NV; v++) FN(stream)(y + out[i + m] + v * V, acc[m][v], f->past);
                }
            } else {
                UNROLL for (int m = 0; m < MR; m++) {
                    UNROLL for (int v = 0; v < NV; v++) sum[i / MR][m][v] = acc[m][v];
                }
            }
        }
        weights += length * BLOCK;
        r += length;
    } while (r < rows->count);
    FN(store_block)(y, out + whole, count - whole, lanes, stride, (const REAL *)sum + whole * BLOCK);
}

/* gather_block for more than DEEP rows: sums of DEEP rows are added up in double. */
OUT_OF_LINE void FN(gather_deep)(const row_list *rows, const int64_t *in, const int64_t *out, int64_t count, REAL *y,
                                 const REAL *x, const REAL *weights, const finish *f, int64_t lanes, int64_t stride) {
    double whole[PIXELS * BLOCK] = {0};
    REAL part[PIXELS * BLOCK];
    int64_t place[PIXELS];
    const finish plain = {NULL, 0, 0};
    for (int64_t i = 0; i < count; i++) place[i] = i * BLOCK;
    for (int64_t r = 0; r < rows->count; r += DEEP) {
        row_list some = *rows;
        some.offset += r;
        some.count = MIN(DEEP, rows->count - r);
        FN(gather_block)(&some, in, place, count, part, x, weights + r * BLOCK, &plain, BLOCK, 1);
        FN(add_run)(whole, part, count * BLOCK);
    }
    for (int64_t i = 0; f->bias && i < count * BLOCK; i++) whole[i] += i % BLOCK < lanes ? f->bias[i % BLOCK] : 0;
    FN(round_runs)(part, whole, count * BLOCK);
    for (int64_t i = 0; f->relu && i < count * BLOCK; i += V) FN(store)(part + i, FN(rectify)(FN(load)(part + i)));
    FN(store_block)(y, out, count, lanes, stride, part);
}

/* y for every pixel of the grid and `maps` maps, from packed weights. Where there are few tasks of pixels, maps are
 * cut, too. */
static void FN(gather)(const pixel_grid *g, const row_list *rows, REAL *y, const REAL *x, const REAL *weights,
                       finish f, int64_t maps) {
    const int64_t pixels = FN(grid_pixels)(g), blocks = cc_ceil_div(maps, BLOCK);
    const int64_t pixel_tasks = cc_ceil_div(pixels, PIXELS), per_task = pixel_tasks < 64 ? MAP_BLOCKS : blocks;
    const int64_t map_tasks = cc_ceil_div(blocks, per_task);
    const REAL *bias = f.bias;
    f.past = cc_past_cache(pixels * maps * (int64_t)sizeof(REAL));
    PARALLEL_TASKS(task, pixel_tasks * map_tasks) {
        const int64_t first = task / map_tasks * PIXELS, first_block = task % map_tasks * per_task;
        const int64_t count = MIN(PIXELS, pixels - first);
        int64_t in[PIXELS], out[PIXELS];
        FN(locate)(g, first, count, in, out);
        for (int64_t b = first_block; b < MIN(first_block + per_task, blocks); b++) {
            const int64_t k = b * BLOCK;
            const finish own = {bias ? bias + k : NULL, f.relu, f.past};
            REAL *to = y + k * g->out_channel;
            const REAL *w = weights + k * rows->count;
            const int64_t lanes = MIN(BLOCK, maps - k);
            if (rows->count > DEEP) FN(gather_deep)(rows, in, out, count, to, x, w, &own, lanes, g->out_channel);
            else FN(gather_block)(rows, in, out, count, to, x, w, &own, lanes, g->out_channel);
        }
    }
}

/* Whether the reduction is the vector: there are few maps, and runs are long enough to fill vectors. */
static int FN(few_maps)(const row_list *rows, int64_t maps) {
    return 2 * maps <= BLOCK && rows->count >= rows->runs * V;
}

/* Packs weights to [map][row]. */
static void FN(pack_dot_weights)(REAL *to, const REAL *w, const row_list *rows, int64_t maps, int64_t map_stride) {
    for (int64_t k = 0; k < maps; k++)
        for (int64_t r = 0; r < rows->count; r++) to[k * rows->count + r] = w[rows->weight[r] + k * map_stride];
}

INLINE void FN(dot_step)(const REAL *const x[DOT_PIXELS], const REAL *const w[DOT_MAPS], int64_t at, int64_t row,
                         int64_t lanes, vec acc[DOT_PIXELS][DOT_MAPS]) {
    vec factor[DOT_MAPS];
    UNROLL for (int k = 0; k < DOT_MAPS; k++) factor[k] = FN(load_n)(w[k] + row, lanes);
    UNROLL for (int m = 0; m < DOT_PIXELS; m++) {
        vec from = FN(load_n)(x[m] + at, lanes);
        IN_REGISTER(from);
        UNROLL for (int k = 0; k < DOT_MAPS; k++) acc[m][k] += from * factor[k];
    }
}

INLINE void FN(dot_tile)(const run *runs, int64_t count, const REAL *const x[DOT_PIXELS],
                         const REAL *const w[DOT_MAPS], vec acc[DOT_PIXELS][DOT_MAPS]) {
    int64_t row = 0;
    for (int64_t r = 0; r < count; r++) {
        const int64_t offset = runs[r].offset, length = runs[r].length;
        int64_t i = 0;
        for (; i + V <= length; i += V) FN(dot_step)(x, w, offset + i, row + i, V, acc);
        if (i < length) FN(dot_step)(x, w, offset + i, row + i, length - i, acc);
        row += length;
    }
}

/* DOT_MAPS maps of one task, by panels as in gather_block. A lane adds up at most DEEP rows; longer sums are cut into
 * pieces, which are added up in double. */
INLINE void FN(dot_block)(const row_list *rows, const int64_t *in, const int64_t *out, int64_t count, REAL *y,
                          const REAL *x, const REAL *weights, const finish *f, int64_t maps, int64_t stride) {
    vec sum[PIXELS / DOT_PIXELS][DOT_PIXELS][DOT_MAPS];
    double whole[PIXELS][DOT_MAPS];
    const int deep = rows->count > DEEP * V;
    int64_t since = 0; /* rows that `sum` holds */
    const REAL *w[DOT_MAPS];
    for (int k = 0; k < DOT_MAPS; k++) w[k] = weights + MIN(k, maps - 1) * rows->count;
    memset(sum, 0, sizeof sum);
    if (deep) memset(whole, 0, sizeof whole);
    for (int64_t r = 0, next, length; r < rows->runs; r = next) {
        next = FN(panel)(rows, r, 4 * KC, &length);
        for (int64_t i = 0; i < count; i += DOT_PIXELS) {
            const REAL *from[DOT_PIXELS];
            vec acc[DOT_PIXELS][DOT_MAPS];
            for (int m = 0; m < DOT_PIXELS; m++) from[m] = x + in[MIN(i + m, count - 1)];
            UNROLL for (int m = 0; m < DOT_PIXELS; m++) {
                UNROLL for (int k = 0; k < DOT_MAPS; k++) acc[m][k] = sum[i / DOT_PIXELS][m][k];
            }
            FN(dot_tile)(rows->run_list + r, next - r, from, w, acc);
            UNROLL for (int m = 0; m < DOT_PIXELS; m++) {
                UNROLL for (int k = 0; k < DOT_MAPS; k++) sum[i / DOT_PIXELS][m][k] = acc[m][k];
            }
        }
        for (int k = 0; k < DOT_MAPS; k++) w[k] += length;
        since += length;
        if (!deep || (since < DEEP * V && next < rows->runs)) continue;
        since = 0;
        for (int64_t i = 0; i < count; i++)
            for (int k = 0; k < DOT_MAPS; k++)
                for (int v = 0; v < V; v++) whole[i][k] += (double)sum[i / DOT_PIXELS][i % DOT_PIXELS][k][v];
        memset(sum, 0, sizeof sum);
    }
    for (int64_t i = 0; i < count; i++)
        for (int64_t k = 0; k < maps; k++) {
            REAL total = f->bias ? f->bias[k] : 0;
            for (int v = 0; v < V; v++) total += sum[i / DOT_PIXELS][i % DOT_PIXELS][k][v];
            if (deep) total = (REAL)((double)total + whole[i][k]);
            y[out[i] + k * stride] = f->relu && total <= 0 ? 0 : total;
        }
}

/* gather, with the reduction as the vector and weights from pack_dot_weights. */
static void FN(dot)(const pixel_grid *g, const row_list *rows, REAL *y, const REAL *x, const REAL *weights,
                    finish f, int64_t maps) {
    const int64_t pixels = FN(grid_pixels)(g);
    PARALLEL_PIECES(first, last, pixels, PIXELS) {
        const int64_t count = last - first;
        int64_t in[PIXELS], out[PIXELS];
        FN(locate)(g, first, count, in, out);
        for (int64_t k = 0; k < maps; k += DOT_MAPS) {
            const finish own = {f.bias ? f.bias + k : NULL, f.relu, 0};
            FN(dot_block)(rows, in, out, count, y + k * g->out_channel, x, weights + k * rows->count, &own,
                          MIN(DOT_MAPS, maps - k), g->out_channel);
        }
    }
}

/* Packs the weights, then calls gather or dot. The weight of a row and map k is w[row.weight + k * map_stride]. */
static void FN(product)(const pixel_grid *g, const row_list *rows, REAL *y, const REAL *x, const REAL *w,
                        finish f, int64_t maps, int64_t map_stride, REAL *packed) {
    if (FN(few_maps)(rows, maps)) {
        FN(pack_dot_weights)(packed, w, rows, maps, map_stride);
        FN(dot)(g, rows, y, x, packed, f, maps);
    } else {
        FN(pack_weights)(packed, w, rows, maps, map_stride);
        FN(gather)(g, rows, y, x, packed, f, maps);
    }
}

/* --- the op ------------------------------------------------------------------------------------------------------ */

/* The rows of the forward reduction of one group: every tap and channel. */
static void FN(forward_rows)(row_list *rows, const cc_window *w, const map_view *x, int64_t channels) {
    const int64_t taps = w->kernel[0] * w->kernel[1] * w->kernel[2];
    for (int64_t t = 0; t < taps; t++) {
        const int64_t at[3] = {t / w->kernel[2] / w->kernel[1], t / w->kernel[2] % w->kernel[1], t % w->kernel[2]};
        int64_t offset = 0;
        for (int a = 0; a < 3; a++) offset += (at[a] * w->dilation[a] - w->begin[a]) * x->s[a];
        for (int64_t c = 0; c < channels; c++) FN(add_row)(rows, offset + c, c * taps + t);
    }
}

static void FN(padded_size)(const cc_window *w, int64_t padded[3]) {
    for (int a = 0; a < 3; a++)
        padded[a] = MAX(w->begin[a] + w->size[a] + w->end[a],
                        w->stride[a] * (w->out[a] - 1) + w->dilation[a] * (w->kernel[a] - 1) + 1);
}

/* The pixels of y: what they read from x, and where they stand in a map with y's strides. */
static pixel_grid FN(forward_grid)(const cc_window *w, const map_view *x, const int64_t y_n, const int64_t y_s[3],
                                   int64_t y_channel, int64_t images) {
    pixel_grid g = {images, {w->out[0], w->out[1], w->out[2]}, x->n, {0}, y_n, {y_s[0], y_s[1], y_s[2]}, y_channel};
    for (int a = 0; a < 3; a++) g.in[a] = w->stride[a] * x->s[a];
    return g;
}

int64_t FN(cc_direct_forward)(cc_out y, cc_in x, cc_in w, cc_in b, const cc_conv *p, void *scratch) {
    const int64_t channels = w->shape[1], maps = w->shape[0] / p->groups;
    const int64_t taps = p->window.kernel[0] * p->window.kernel[1] * p->window.kernel[2], rows_most = taps * channels;
    cc_arena arena = {scratch, 0};
    int64_t padded[3];
    FN(padded_size)(&p->window, padded);
    row_list rows = FN(take_rows)(rows_most, &arena);
    REAL *weights = cc_take(&arena, cc_round_up(maps, BLOCK) * rows_most * sizeof(REAL));
    map_view from = FN(view)(x, p->window.begin, padded, &arena);
    if (!scratch) return arena.used;

    FN(forward_rows)(&rows, &p->window, &from, channels);
    pixel_grid g = FN(forward_grid)(&p->window, &from, y->stride[0], y->stride + 2, y->stride[1], y->shape[0]);
    for (int64_t group = 0; group < p->groups; group++) {
        const int64_t k = group * maps;
        const finish f = {b ? (const REAL *)b->data + k : NULL, p->relu, 0};
        FN(product)(&g, &rows, (REAL *)y->data + k * y->stride[1], from.origin + group * channels,
                    (const REAL *)w->data + k * rows_most, f, maps, rows_most,
                    weights);
    }
    return 0;
}

/* One axis of one phase of dx. Its pixels are first, first + stride, ... They all take the taps in `tap`. For tap i the
 * first pixel reads dy at index base[i], the next pixel at base[i] + 1. */
#define phase FN(cc_phase)
typedef struct { int64_t pixels, taps, *tap, *base; } phase;

static void FN(fill_phase)(phase *f, const cc_window *w, int a, int64_t first) {
    const int64_t s = w->stride[a];
    f->pixels = (w->size[a] - 1 - first) / s + 1;
    f->taps = 0;
    for (int64_t t = w->kernel[a] - 1; t >= 0; t--) { /* backwards, so that bases ascend and rows join into runs */
        const int64_t distance = first + w->begin[a] - t * w->dilation[a];
        if (distance % s) continue;
        f->tap[f->taps] = t;
        f->base[f->taps++] = distance / s;
    }
}

/* How far the phases read beyond dy along an axis: `low` elements before it. `padded` is the length with both ends. */
static void FN(phase_reach)(const cc_window *w, int a, int64_t *low, int64_t *padded) {
    int64_t high = 0;
    *low = 0;
    for (int64_t first = 0; first < MIN(w->stride[a], w->size[a]); first++) {
        const int64_t pixels = (w->size[a] - 1 - first) / w->stride[a] + 1;
        for (int64_t t = 0; t < w->kernel[a]; t++) {
            const int64_t distance = first + w->begin[a] - t * w->dilation[a];
            if (distance % w->stride[a]) continue;
            *low = MAX(*low, -distance / w->stride[a]);
            high = MAX(high, distance / w->stride[a] + pixels - w->out[a]);
        }
    }
    *padded = *low + w->out[a] + high;
}

static void FN(backward_data)(cc_out dx, const map_view *dy, cc_in w, const cc_conv *p, phase axis[3], row_list *rows,
                              REAL *weights) {
    const cc_window *win = &p->window;
    const int64_t channels = w->shape[1], maps = w->shape[0] / p->groups;
    const int64_t taps = win->kernel[0] * win->kernel[1] * win->kernel[2];
    int64_t phases[3];
    for (int a = 0; a < 3; a++) phases[a] = MIN(win->stride[a], win->size[a]);
    for (int64_t f = 0; f < phases[0] * phases[1] * phases[2]; f++) {
        const int64_t first[3] = {f / phases[2] / phases[1], f / phases[2] % phases[1], f % phases[2]};
        pixel_grid g = {dx->shape[0], {0}, dy->n, {dy->s[0], dy->s[1], dy->s[2]}, dx->stride[0], {0}, dx->stride[1]};
        int64_t start = 0;
        for (int a = 0; a < 3; a++) {
            FN(fill_phase)(&axis[a], win, a, first[a]);
            g.size[a] = axis[a].pixels;
            g.out[a] = win->stride[a] * dx->stride[2 + a];
            start += first[a] * dx->stride[2 + a];
        }
        rows->count = rows->runs = 0;
        for (int64_t i = 0; i < axis[0].taps; i++)
            for (int64_t j = 0; j < axis[1].taps; j++)
                for (int64_t l = 0; l < axis[2].taps; l++) {
                    const int64_t t = (axis[0].tap[i] * win->kernel[1] + axis[1].tap[j]) * win->kernel[2] + axis[2].tap[l];
                    const int64_t offset =
                        axis[0].base[i] * dy->s[0] + axis[1].base[j] * dy->s[1] + axis[2].base[l] * dy->s[2];
                    for (int64_t k = 0; k < maps; k++) FN(add_row)(rows, offset + k, k * channels * taps + t);
                }
        for (int64_t group = 0; group < p->groups; group++) {
            FN(product)(&g, rows, (REAL *)dx->data + start + group * channels * dx->stride[1],
                        dy->origin + group * maps, (const REAL *)w->data + group * maps * channels * taps,
                        (finish){NULL, 0, 0}, channels, taps, weights);
        }
    }
}

int64_t FN(cc_direct_backward)(cc_out dx, cc_out dw, cc_out db, cc_in dy, cc_in x, cc_in w, const cc_conv *p,
                               void *scratch) {
    const cc_window *win = &p->window;
    const int64_t channels = w->shape[1], maps = w->shape[0] / p->groups;
    const int64_t taps = win->kernel[0] * win->kernel[1] * win->kernel[2];
    cc_arena arena = {scratch, 0};
    int64_t low[3] = {0}, dy_padded[3] = {dy->shape[2], dy->shape[3], dy->shape[4]}, x_padded[3];
    phase axis[3];
    row_list rows = FN(take_rows)(taps * MAX(channels, maps), &arena);
    REAL *weights = NULL;
    if (cc_wanted(dx)) {
        int64_t longest = MAX(MAX(win->kernel[0], win->kernel[1]), win->kernel[2]);
        for (int a = 0; a < 3; a++) {
            axis[a].tap = cc_take(&arena, longest * sizeof(int64_t));
            axis[a].base = cc_take(&arena, longest * sizeof(int64_t));
        }
        weights = cc_take(&arena, cc_round_up(channels, BLOCK) * taps * maps * sizeof(REAL));
        for (int a = 0; a < 3; a++) FN(phase_reach)(win, a, &low[a], &dy_padded[a]);
    }
    map_view above = FN(view)(dy, low, dy_padded, &arena), from = {0};
    if (cc_wanted(dw)) {
        FN(padded_size)(win, x_padded);
        from = FN(view)(x, win->begin, x_padded, &arena);
    }
    pixel_grid g = FN(forward_grid)(win, &from, above.n, above.s, 1, dy->shape[0]);
    REAL *sums = NULL;
    if (cc_wanted(dw) || cc_wanted(db)) {
        const int64_t rows_most = cc_wanted(dw) ? taps * channels : 0;
        sums = cc_take(&arena, FN(cc_weight_sums)(rows_most, maps, FN(grid_pixels)(&g)) * (int64_t)sizeof(REAL));
    }
    if (!scratch) return arena.used;

    if (cc_wanted(dx)) FN(backward_data)(dx, &above, w, p, axis, &rows, weights);
    if (!sums) return 0;
    rows.count = rows.runs = 0;
    if (cc_wanted(dw)) FN(forward_rows)(&rows, win, &from, channels);
    for (int64_t group = 0; group < p->groups; group++) {
        REAL *own = cc_wanted(dw) ? (REAL *)dw->data + group * maps * channels * taps : NULL;
        FN(cc_scatter_weights)(&g, &rows, own, cc_wanted(db) ? (REAL *)db->data + group * maps : NULL,
                               from.origin + group * channels, above.origin + group * maps, maps, channels * taps,
                               sums);
    }
    return 0;
}
#endif
