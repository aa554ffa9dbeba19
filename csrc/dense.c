/* softmax and softmax_cross_entropy (linear is in linear.c).
 *
 * Every number is read from memory once. Three steps: the largest of a pixel's channels; exponentials and their sum,
 * into scratch; the scaled exponentials, from scratch to the result. In channels-last maps a pixel is a row, and the
 * three steps run side by side in one loop, each on another row. In contiguous maps, PIXELS pixels go through the steps
 * one after the other, so that whole cache lines are read.
 *
 *   v1  exp, plain stores
 *   v2  exp_down, non-temporal stores, several rows step by step: forward takes 0.80 of the time (contiguous 0.61)
 *   v3  x fetched ahead while exponentials are computed: 0.86 (1.0)
 *   v4  all steps in one loop: 0.97; with rows of 1000, 0.84
 *   backward, non-temporal stores: 0.92 (0.73)
 *
 * What limits it, measurements, and what did not help: docs/kernels/softmax.md. */
#include "twice.h"

#ifdef REAL
#include "vmath.h"

#ifndef DENSE_H
#define DENSE_H
#define NUMBERS 16384 /* numbers of a block of rows, at most, unless one row has more */
#define PIXELS 64     /* pixels of a block, at most */
#define MOST_LANES 16 /* lanes of any vector, at most */
#define EACH_ROW for (int64_t r = 0; r < rows; r++)
#define EACH_MAP(sums, channels)                                                                                    \
    for (double whole_[PIXELS], *once_ = whole_; once_; once_ = NULL)                                               \
        for (int64_t c = 0; FN(next_map)(sums, whole_, c, channels); c++)

/* How arrays are cut into blocks of `each` pixels. "Channels" run along the axis of the softmax. "Pixels" are the axes
 * that lie inside it in memory, "images" the axes outside. The channels of a pixel are `map` apart, and pixels are
 * `step` apart. */
typedef struct { int64_t images, pixels, channels, map, step, each, blocks; } pixel_blocks;

static pixel_blocks blocks_of(cc_in x, int64_t axis) {
    static const int64_t in_memory[2][5] = {{0, 1, 2, 3, 4}, {0, 2, 3, 4, 1}};
    int64_t images = 1, pixels = 1, behind = 0;
    for (int i = 0; i < 5; i++) {
        const int64_t a = in_memory[x->stride[1] == 1][i];
        if (a == axis) behind = 1;
        else *(behind ? &pixels : &images) *= x->shape[a];
    }
    const int64_t channels = x->shape[axis];
    pixel_blocks b = {images, pixels, channels, pixels, 1, MIN(PIXELS, cc_round_up(pixels, MOST_LANES))};
    if (pixels == 1) b = (pixel_blocks){1, images, channels, 1, channels, MAX(1, MIN(PIXELS, NUMBERS / channels))};
    b.blocks = cc_ceil_div(b.pixels, b.each);
    return b;
}
#endif

/* Bytes of a thread's scratch. It holds the exponentials of a block of pixels, or of two rows. */
static int64_t FN(block_bytes)(const pixel_blocks *b) {
    const int64_t numbers = b->images && b->pixels ? (b->map == 1 ? 2 : b->each) * b->channels : 0;
    return cc_round_up(numbers * (int64_t)sizeof(REAL), 64);
}

INLINE REAL FN(total)(vec v) {
    REAL lane[V];
    memcpy(lane, &v, sizeof v);
    UNROLL for (int far = V / 2; far; far /= 2) UNROLL for (int i = 0; i < far; i++) lane[i] += lane[i + far];
    return lane[0];
}

INLINE REAL FN(largest_lane)(vec v) {
    REAL lane[V];
    memcpy(lane, &v, sizeof v);
    UNROLL for (int far = V / 2; far; far /= 2)
        UNROLL for (int i = 0; i < far; i++) lane[i] = lane[i] > lane[i + far] ? lane[i] : lane[i + far];
    return lane[0];
}

static REAL FN(row_most)(const REAL *x, int64_t count) {
    vec large = FN(splat)(x[0]);
    int64_t j = 0;
    for (; j + V <= count; j += V) large = FN(larger)(FN(load)(x + j), large);
    for (; j < count; j++) large = FN(larger)(FN(splat)(x[j]), large);
    return FN(largest_lane)(large);
}

static void FN(scale_row)(REAL *y, const REAL *e, REAL scale, int64_t count, int past) {
    int64_t j = 0;
    for (; j + V <= count; j += V) FN(stream)(y + j, FN(load)(e + j) * scale, past);
    for (; j < count; j++) y[j] = e[j] * scale;
}

/* Softmax of adjacent rows. Also gives the largest number of each row and the sum of its exponentials. While the
 * exponentials of a row are computed, the row before it is written, and the largest of the next row is found. `e` has
 * room for two rows. */
static void FN(softmax_rows)(REAL *y, const REAL *x, int64_t rows, int64_t count, REAL *most, REAL *sum, REAL *e,
                             int past) {
    const int64_t whole = count - count % V, rest = count % V, last = rows - 1;
    most[0] = FN(row_most)(x, count);
    EACH_ROW {
        const REAL *now = x + r * count, *next = x + MIN(r + 1, last) * count, *before = e + (r + 1) % 2 * count;
        const REAL here = most[r], scale = r ? 1 / sum[r - 1] : 0;
        REAL *to = e + r % 2 * count, *done = y + MAX(r - 1, 0) * count;
        vec large = FN(splat)(next[0]);
        double total = 0;
        for (int64_t j = 0; j < whole;) {
            vec run = {0};
            for (const int64_t end = MIN(j + SUM_RUN * V, whole); j < end; j += V) {
                const vec v = FN(exp_down)(FN(load)(now + j) - here);
                FN(store)(to + j, v);
                run += v;
                large = FN(larger)(FN(load)(next + j), large);
                if (r) FN(stream)(done + j, FN(load)(before + j) * scale, past);
            }
            total += (double)FN(total)(run);
        }
        if (rest) {
            FN(store_n)(to + whole, FN(exp_down)(FN(load_n)(now + whole, rest) - here), rest);
            total += (double)FN(total)(FN(load_n)(to + whole, rest));
            for (int64_t j = whole; j < count; j++) large = FN(larger)(FN(splat)(next[j]), large);
            if (r) FN(store_n)(done + whole, FN(load_n)(before + whole, rest) * scale, rest);
        }
        sum[r] = (REAL)total;
        if (r < last) most[r + 1] = FN(largest_lane)(large);
    }
    FN(scale_row)(y + last * count, e + last % 2 * count, 1 / sum[last], count, past);
}

static void FN(softmax_gradient_rows)(REAL *dx, const REAL *dy, const REAL *y, int64_t rows, int64_t count, int past) {
    REAL dot[PIXELS];
    EACH_ROW {
        const REAL *a = dy + r * count, *b = y + r * count;
        double total = 0;
        for (int64_t j = 0; j < count;) {
            vec run = {0};
            for (const int64_t end = MIN(j + SUM_RUN * V, count); j < end; j += V)
                run += FN(load_n)(a + j, count - j) * FN(load_n)(b + j, count - j);
            total += (double)FN(total)(run);
        }
        dot[r] = (REAL)total;
    }
    EACH_ROW {
        const REAL *a = dy + r * count, *b = y + r * count;
        REAL *to = dx + r * count;
        int64_t j = 0;
        for (; j + V <= count; j += V) FN(stream)(to + j, FN(load)(b + j) * (FN(load)(a + j) - dot[r]), past);
        for (; j < count; j++) to[j] = b[j] * (a[j] - dot[r]);
    }
}

/* EACH_MAP is a loop over channels c, and its body adds to sums[PIXELS]. This function runs before every channel: it
 * begins sums, and adds runs of SUM_RUN channels up in double. */
static int FN(next_map)(REAL *sums, double *whole, int64_t c, int64_t channels) {
    if (!c) memset(whole, 0, PIXELS * sizeof(double));
    else if (c == channels && channels <= SUM_RUN) return 0;
    else if (c == channels || c % SUM_RUN == 0) FN(add_run)(whole, sums, PIXELS);
    if (c == channels) FN(round_runs)(sums, whole, PIXELS);
    else if (c % SUM_RUN == 0) memset(sums, 0, PIXELS * sizeof(REAL));
    return c < channels;
}

/* Softmax of `pixels` adjacent pixels of maps that are `map` apart. */
static void FN(softmax_maps)(REAL *y, const REAL *x, int64_t pixels, int64_t channels, int64_t map, int64_t each,
                             REAL *e, int past) {
    REAL most[PIXELS], sum[PIXELS];
    for (int64_t i = 0; i < pixels; i += V) FN(store)(most + i, FN(load_n)(x + i, pixels - i));
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = 0; i < pixels; i += V) {
            const vec v = FN(load_n)(x + c * map + i, pixels - i);
            FN(store)(e + c * each + i, v);
            FN(store)(most + i, FN(larger)(v, FN(load)(most + i)));
        }
    EACH_MAP(sum, channels) for (int64_t i = 0; i < pixels; i += V) {
        REAL *at = e + c * each + i;
        const vec v = FN(exp_down)(FN(load)(at) - FN(load)(most + i));
        FN(store)(at, v);
        FN(store)(sum + i, FN(load)(sum + i) + v);
        __builtin_prefetch(x + c * map + i + each);
    }
    for (int64_t i = 0; i < pixels; i++) sum[i] = 1 / sum[i];
    for (int64_t c = 0; c < channels; c++) {
        const REAL *from = e + c * each;
        REAL *to = y + c * map;
        int64_t i = 0;
        for (; i + V <= pixels; i += V) FN(stream)(to + i, FN(load)(from + i) * FN(load)(sum + i), past);
        for (; i < pixels; i++) to[i] = from[i] * sum[i];
    }
}

static void FN(softmax_gradient_maps)(REAL *dx, const REAL *dy, const REAL *y, int64_t pixels, int64_t channels,
                                      int64_t map, int past) {
    REAL dot[PIXELS];
    EACH_MAP(dot, channels) for (int64_t i = 0; i < pixels; i++) dot[i] += dy[c * map + i] * y[c * map + i];
    for (int64_t c = 0; c < channels; c++) {
        const REAL *a = dy + c * map, *b = y + c * map;
        REAL *to = dx + c * map;
        int64_t i = 0;
        for (; i + V <= pixels; i += V)
            FN(stream)(to + i, FN(load)(b + i) * (FN(load)(a + i) - FN(load)(dot + i)), past);
        for (; i < pixels; i++) to[i] = b[i] * (a[i] - dot[i]);
    }
}

int64_t FN(softmax_forward)(cc_out y, cc_in x, const cc_softmax *p, void *scratch) {
    const pixel_blocks b = blocks_of(x, p->axis);
    const int64_t own = FN(block_bytes)(&b);
    const int past = cc_past_cache(cc_count(y) * (int64_t)sizeof(REAL));
    if (!scratch) return own * cc_threads;
    PARALLEL_TASKS(task, b.images * b.blocks) {
        const int64_t first = task % b.blocks * b.each, count = MIN(b.each, b.pixels - first);
        const int64_t at = task / b.blocks * b.pixels * b.channels + first * b.step;
        const REAL *from = (const REAL *)x->data + at;
        REAL *to = (REAL *)y->data + at, *e = (REAL *)((char *)scratch + own * cc_thread()), most[PIXELS], sum[PIXELS];
        if (b.map == 1) FN(softmax_rows)(to, from, count, b.channels, most, sum, e, past);
        else FN(softmax_maps)(to, from, count, b.channels, b.map, b.each, e, past);
    }
    return 0;
}

int64_t FN(softmax_backward)(cc_out dx, cc_in dy, cc_in y, const cc_softmax *p, void *scratch) {
    const pixel_blocks b = blocks_of(y, p->axis);
    const int past = cc_past_cache(cc_count(y) * (int64_t)sizeof(REAL));
    PARALLEL_TASKS(task, b.images * b.blocks) {
        const int64_t first = task % b.blocks * b.each, count = MIN(b.each, b.pixels - first);
        const int64_t at = task / b.blocks * b.pixels * b.channels + first * b.step;
        const REAL *from = (const REAL *)dy->data + at, *kept = (const REAL *)y->data + at;
        REAL *to = (REAL *)dx->data + at;
        if (b.map == 1) FN(softmax_gradient_rows)(to, from, kept, count, b.channels, past);
        else FN(softmax_gradient_maps)(to, from, kept, count, b.channels, b.map, past);
    }
    return 0;
}

/* The losses of rows go to scratch and are added in order, in double. So the sum is the same for every number of
 * threads. */
int64_t FN(softmax_cross_entropy_forward)(cc_out y, cc_out probabilities, cc_in logits, cc_in labels,
                                          const cc_softmax_cross_entropy *p, void *scratch) {
    const pixel_blocks b = blocks_of(logits, 1);
    const int64_t k = b.channels, own = FN(block_bytes)(&b);
    const int past = cc_past_cache(cc_count(logits) * (int64_t)sizeof(REAL));
    cc_arena arena = {scratch, 0};
    double *loss = cc_take(&arena, (b.pixels + 1) * (int64_t)sizeof(double)), total = 0;
    char *rows = cc_take(&arena, own * cc_threads);
    if (!scratch) return arena.used;
    PARALLEL_PIECES(first, last, b.pixels, b.each) {
        const REAL *x = (const REAL *)logits->data + first * k;
        const int64_t *label = (const int64_t *)labels->data + first;
        REAL most[PIXELS], sum[PIXELS];
        FN(softmax_rows)((REAL *)probabilities->data + first * k, x, last - first, k, most, sum,
                         (REAL *)(rows + own * cc_thread()), past);
        for (int64_t r = 0; r < last - first; r++)
            loss[first + r] = log((double)sum[r]) - (double)(x[r * k + label[r]] - most[r]);
    }
    for (int64_t i = 0; i < b.pixels; i++) total += loss[i];
    *(REAL *)y->data = (REAL)(total * p->scale);
    return 0;
}

int64_t FN(softmax_cross_entropy_backward)(cc_out dlogits, cc_in dy, cc_in probabilities, cc_in labels,
                                           const cc_softmax_cross_entropy *p, void *scratch) {
    const int64_t n = probabilities->shape[0], k = probabilities->shape[1];
    const REAL scale = *(const REAL *)dy->data * (REAL)p->scale;
    PARALLEL_PIECES(first, last, n, 16)
        for (int64_t i = first; i < last; i++) {
            const REAL *from = (const REAL *)probabilities->data + i * k;
            REAL *to = (REAL *)dlogits->data + i * k;
            const int64_t label = ((const int64_t *)labels->data)[i];
            for (int64_t j = 0; j < k; j++) to[j] = from[j] * scale;
            to[label] = (from[label] - 1) * scale;
        }
    return 0;
}
#endif
