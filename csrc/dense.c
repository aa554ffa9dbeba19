/* softmax, softmax_cross_entropy (linear: linear.c).
 *
 * A block of maps passes through the first cache once: the largest of every pixel's channels, exponentials and their sums
 * into scratch, and scaled from there into the result. Channels last, a block is some rows of channels; of contiguous
 * maps it is PIXELS pixels, to read whole cache lines.
 */
#include "twice.h"

#ifdef REAL
#include "vmath.h"

#ifndef DENSE_H
#define DENSE_H
#define NUMBERS 4096 /* of a block of rows, so that they and their exponentials stay in the first cache */
#define PIXELS 64    /* of a block, at most */
#define MOST_LANES 16 /* of any vector */
#define EACH_ROW for (int64_t r = 0; r < rows; r++)

/* Maps in blocks of `each` pixels. A pixel's channels are `map` apart, and pixels `step`. */
typedef struct { int64_t images, pixels, channels, map, step, each, blocks; } pixel_blocks;

static pixel_blocks blocks_of(cc_in x) {
    const int64_t images = x->shape[0], channels = x->shape[1], pixels = x->shape[2] * x->shape[3] * x->shape[4];
    pixel_blocks b = {images, pixels, channels, pixels, 1, MIN(PIXELS, cc_round_up(pixels, MOST_LANES))};
    if (x->stride[1] == 1)
        b = (pixel_blocks){1, images * pixels, channels, 1, channels, MAX(1, MIN(PIXELS, NUMBERS / channels))};
    b.blocks = cc_ceil_div(b.pixels, b.each);
    return b;
}
#endif

/* Of a thread's scratch: a block's exponentials. */
static int64_t FN(block_bytes)(const pixel_blocks *b) {
    return b->images > 0 && b->pixels > 0 ? cc_round_up(b->each * b->channels * (int64_t)sizeof(REAL), 64) : 0;
}

INLINE REAL FN(total)(vec v) {
    REAL lane[V];
    memcpy(lane, &v, sizeof v);
    UNROLL for (int far = V / 2; far; far /= 2) UNROLL for (int i = 0; i < far; i++) lane[i] += lane[i + far];
    return lane[0];
}

static REAL FN(row_most)(const REAL *x, int64_t count) {
    vec large = FN(splat)(x[0]);
    int64_t j = 0;
    for (; j + V <= count; j += V) large = FN(larger)(FN(load)(x + j), large);
    for (; j < count; j++) large = FN(larger)(FN(splat)(x[j]), large);
    REAL most = large[0];
    for (int i = 1; i < V; i++) most = large[i] > most ? large[i] : most;
    return most;
}

/* e = exp(x - most); returns their sum. The numbers `ahead` of x are fetched on the way. */
static REAL FN(row_exponentials)(REAL *e, const REAL *x, REAL most, int64_t count, int64_t ahead) {
    vec sum = {0};
    int64_t j = 0;
    for (; j + V <= count; j += V) {
        const vec v = FN(exp_down)(FN(load)(x + j) - most);
        FN(store)(e + j, v);
        sum += v;
        __builtin_prefetch(x + j + ahead);
    }
    REAL rest = 0;
    if (j < count) {
        const vec v = FN(exp_down)(FN(load_n)(x + j, count - j) - most);
        FN(store_n)(e + j, v, count - j);
        for (int64_t i = 0; i < count - j; i++) rest += v[i];
    }
    return FN(total)(sum) + rest;
}

static void FN(scale_row)(REAL *y, const REAL *e, REAL scale, int64_t count, int past) {
    int64_t j = 0;
    for (; j + V <= count; j += V) FN(stream)(y + j, FN(load)(e + j) * scale, past);
    for (; j < count; j++) y[j] = e[j] * scale;
}

/* Of adjacent rows: step by step, so that a row does not wait for the sum of the one before it. */
static void FN(softmax_rows)(REAL *y, const REAL *x, int64_t rows, int64_t count, REAL *most, REAL *sum, REAL *e,
                             int past) {
    EACH_ROW most[r] = FN(row_most)(x + r * count, count);
    EACH_ROW sum[r] = FN(row_exponentials)(e + r * count, x + r * count, most[r], count, rows * count);
    EACH_ROW FN(scale_row)(y + r * count, e + r * count, 1 / sum[r], count, past);
}

static void FN(softmax_gradient_rows)(REAL *dx, const REAL *dy, const REAL *y, int64_t rows, int64_t count, int past) {
    REAL dot[PIXELS];
    EACH_ROW {
        const REAL *a = dy + r * count, *b = y + r * count;
        vec dots = {0};
        for (int64_t j = 0; j < count; j += V) dots += FN(load_n)(a + j, count - j) * FN(load_n)(b + j, count - j);
        dot[r] = FN(total)(dots);
    }
    EACH_ROW {
        const REAL *a = dy + r * count, *b = y + r * count;
        REAL *to = dx + r * count;
        int64_t j = 0;
        for (; j + V <= count; j += V) FN(stream)(to + j, FN(load)(b + j) * (FN(load)(a + j) - dot[r]), past);
        for (; j < count; j++) to[j] = b[j] * (a[j] - dot[r]);
    }
}

/* Of `pixels` adjacent pixels of maps that are `map` apart. */
static void FN(softmax_maps)(REAL *y, const REAL *x, int64_t pixels, int64_t channels, int64_t map, int64_t each,
                             REAL *e, int past) {
    REAL most[PIXELS], sum[PIXELS] = {0};
    for (int64_t i = 0; i < pixels; i += V) FN(store)(most + i, FN(load_n)(x + i, pixels - i));
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = 0; i < pixels; i += V) {
            const vec v = FN(load_n)(x + c * map + i, pixels - i);
            FN(store)(e + c * each + i, v);
            FN(store)(most + i, FN(larger)(v, FN(load)(most + i)));
        }
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = 0; i < pixels; i += V) {
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
    REAL dot[PIXELS] = {0};
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = 0; i < pixels; i++) dot[i] += dy[c * map + i] * y[c * map + i];
    for (int64_t c = 0; c < channels; c++) {
        const REAL *a = dy + c * map, *b = y + c * map;
        REAL *to = dx + c * map;
        int64_t i = 0;
        for (; i + V <= pixels; i += V) FN(stream)(to + i, FN(load)(b + i) * (FN(load)(a + i) - FN(load)(dot + i)), past);
        for (; i < pixels; i++) to[i] = b[i] * (a[i] - dot[i]);
    }
}

int64_t FN(softmax_forward)(cc_out y, cc_in x, const void *p, void *scratch) {
    const pixel_blocks b = blocks_of(x);
    const int64_t own = FN(block_bytes)(&b);
    const int past = cc_past_cache(cc_count(y) * (int64_t)sizeof(REAL));
    if (!scratch) return own * cc_threads;
    PARALLEL {
        REAL *e = (REAL *)((char *)scratch + own * cc_thread()), most[PIXELS], sum[PIXELS];
        _Pragma("omp for schedule(static)")
        for (int64_t task = 0; task < b.images * b.blocks; task++) {
            const int64_t first = task % b.blocks * b.each, count = MIN(b.each, b.pixels - first);
            const int64_t at = task / b.blocks * b.pixels * b.channels + first * b.step;
            const REAL *from = (const REAL *)x->data + at;
            REAL *to = (REAL *)y->data + at;
            if (b.map == 1) FN(softmax_rows)(to, from, count, b.channels, most, sum, e, past);
            else FN(softmax_maps)(to, from, count, b.channels, b.map, b.each, e, past);
        }
        cc_end_stream();
    }
    return 0;
}

int64_t FN(softmax_backward)(cc_out dx, cc_in dy, cc_in y, const void *p, void *scratch) {
    const pixel_blocks b = blocks_of(y);
    const int past = cc_past_cache(cc_count(y) * (int64_t)sizeof(REAL));
    PARALLEL {
        _Pragma("omp for schedule(static)")
        for (int64_t task = 0; task < b.images * b.blocks; task++) {
            const int64_t first = task % b.blocks * b.each, count = MIN(b.each, b.pixels - first);
            const int64_t at = task / b.blocks * b.pixels * b.channels + first * b.step;
            const REAL *from = (const REAL *)dy->data + at, *kept = (const REAL *)y->data + at;
            REAL *to = (REAL *)dx->data + at;
            if (b.map == 1) FN(softmax_gradient_rows)(to, from, kept, count, b.channels, past);
            else FN(softmax_gradient_maps)(to, from, kept, count, b.channels, b.map, past);
        }
        cc_end_stream();
    }
    return 0;
}

/* Row losses go to scratch and are added in order, in double: the same for every number of threads. */
int64_t FN(softmax_cross_entropy_forward)(cc_out y, cc_out probabilities, cc_in logits, cc_in labels,
                                          const cc_softmax_cross_entropy *p, void *scratch) {
    const pixel_blocks b = blocks_of(logits);
    const int64_t k = b.channels, own = FN(block_bytes)(&b);
    const int past = cc_past_cache(cc_count(logits) * (int64_t)sizeof(REAL));
    cc_arena arena = {scratch, 0};
    double *loss = cc_take(&arena, (b.pixels + 1) * (int64_t)sizeof(double)), total = 0;
    char *rows = cc_take(&arena, own * cc_threads);
    if (!scratch) return arena.used;
    PARALLEL {
        REAL most[PIXELS], sum[PIXELS];
        _Pragma("omp for schedule(static)")
        for (int64_t block = 0; block < b.blocks; block++) {
            const int64_t first = block * b.each, count = MIN(b.each, b.pixels - first);
            const REAL *x = (const REAL *)logits->data + first * k;
            const int64_t *label = (const int64_t *)labels->data + first;
            FN(softmax_rows)((REAL *)probabilities->data + first * k, x, count, k, most, sum,
                             (REAL *)(rows + own * cc_thread()), past);
            for (int64_t r = 0; r < count; r++)
                loss[first + r] = log((double)sum[r]) - (double)(x[r * k + label[r]] - most[r]);
        }
        cc_end_stream();
    }
    for (int64_t i = 0; i < b.pixels; i++) total += loss[i];
    *(REAL *)y->data = (REAL)(total * p->scale);
    return 0;
}

int64_t FN(softmax_cross_entropy_backward)(cc_out dlogits, cc_in dy, cc_in probabilities, cc_in labels,
                                           const cc_softmax_cross_entropy *p, void *scratch) {
    const int64_t n = probabilities->shape[0], k = probabilities->shape[1];
    const REAL scale = *(const REAL *)dy->data * (REAL)p->scale;
    PARALLEL_FOR
    for (int64_t i0 = 0; i0 < n; i0 += 16)
        for (int64_t i = i0; i < MIN(i0 + 16, n); i++) {
            const REAL *from = (const REAL *)probabilities->data + i * k;
            REAL *to = (REAL *)dlogits->data + i * k;
            const int64_t label = ((const int64_t *)labels->data)[i];
            for (int64_t j = 0; j < k; j++) to[j] = from[j] * scale;
            to[label] = (from[label] - 1) * scale;
        }
    return 0;
}
#endif
