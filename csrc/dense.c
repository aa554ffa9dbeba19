/* softmax, softmax_cross_entropy (linear: linear.c).
 *
 * softmax makes three passes over what stays in cache: maximum, exponentials and their sum, scaling. Channels last, that
 * is a pixel's row of channels; of contiguous maps, it is PIXELS pixels at once, to read whole cache lines. */
#include "twice.h"

#ifdef REAL
#include "vmath.h"

#ifndef DENSE_H
#define DENSE_H
#define PIXELS 64
#endif

INLINE REAL FN(total)(vec v) {
    REAL sum = 0;
    for (int i = 0; i < V; i++) sum += v[i];
    return sum;
}

/* Softmax of adjacent numbers; returns the sum of exp(x - most). */
static REAL FN(softmax_row)(REAL *y, const REAL *x, int64_t count, REAL *most) {
    vec large = FN(splat)(x[0]), sums = {0};
    int64_t j = 0;
    for (; j + V <= count; j += V) large = FN(larger)(FN(load)(x + j), large);
    for (; j < count; j++) large = FN(larger)(FN(splat)(x[j]), large);
    *most = large[0];
    for (int i = 1; i < V; i++) *most = large[i] > *most ? large[i] : *most;
    for (j = 0; j < count; j += V) {
        FN(store_n)(y + j, FN(exp)(FN(load_n)(x + j, count - j) - *most), count - j);
        sums += FN(load_n)(y + j, count - j);
    }
    const REAL sum = FN(total)(sums), inverse = 1 / sum;
    for (j = 0; j < count; j++) y[j] *= inverse;
    return sum;
}

static void FN(softmax_gradient_row)(REAL *dx, const REAL *dy, const REAL *y, int64_t count) {
    vec dots = {0};
    for (int64_t j = 0; j < count; j += V) dots += FN(load_n)(dy + j, count - j) * FN(load_n)(y + j, count - j);
    const REAL dot = FN(total)(dots);
    for (int64_t j = 0; j < count; j++) dx[j] = y[j] * (dy[j] - dot);
}

/* Up to PIXELS adjacent pixels of maps that are `map` apart. */
static void FN(softmax_group)(REAL *y, const REAL *x, int64_t channels, int64_t map, int64_t pixels) {
    REAL most[PIXELS], sum[PIXELS] = {0};
    for (int64_t i = 0; i < pixels; i++) most[i] = x[i];
    for (int64_t c = 1; c < channels; c++)
        for (int64_t i = 0; i < pixels; i++) most[i] = x[c * map + i] > most[i] ? x[c * map + i] : most[i];
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = 0; i < pixels; i += V) {
            const int64_t lanes = pixels - i, at = c * map + i;
            const vec e = FN(exp)(FN(load_n)(x + at, lanes) - FN(load_n)(most + i, lanes));
            FN(store_n)(y + at, e, lanes);
            FN(store_n)(sum + i, FN(load_n)(sum + i, lanes) + e, lanes);
        }
    for (int64_t i = 0; i < pixels; i++) sum[i] = 1 / sum[i];
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = 0; i < pixels; i++) y[c * map + i] *= sum[i];
}

static void FN(softmax_gradient_group)(REAL *dx, const REAL *dy, const REAL *y, int64_t channels, int64_t map,
                                       int64_t pixels) {
    REAL dot[PIXELS] = {0};
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = 0; i < pixels; i++) dot[i] += dy[c * map + i] * y[c * map + i];
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = 0; i < pixels; i++) dx[c * map + i] = y[c * map + i] * (dy[c * map + i] - dot[i]);
}

/* The groups of all images; with y_saved the gradient, from dy in x. */
static void FN(softmax_walk)(cc_out to, cc_in from, cc_in y_saved) {
    const int64_t pixels = to->shape[2] * to->shape[3] * to->shape[4], channels = to->shape[1];
    const int64_t map = to->stride[1], pixel = to->stride[4], groups = cc_ceil_div(pixels, PIXELS);
    PARALLEL_FOR
    for (int64_t task = 0; task < to->shape[0] * groups; task++) {
        const int64_t first = task % groups * PIXELS, at = task / groups * to->stride[0] + first * pixel;
        const int64_t count = MIN(PIXELS, pixels - first);
        const REAL *in = (const REAL *)from->data + at, *kept = y_saved ? (const REAL *)y_saved->data + at : NULL;
        REAL *out = (REAL *)to->data + at, most;
        if (map > 1 && kept) FN(softmax_gradient_group)(out, in, kept, channels, map, count);
        else if (map > 1) FN(softmax_group)(out, in, channels, map, count);
        else
            for (int64_t i = 0; i < count * pixel; i += pixel)
                if (kept) FN(softmax_gradient_row)(out + i, in + i, kept + i, channels);
                else FN(softmax_row)(out + i, in + i, channels, &most);
    }
}

int64_t FN(softmax_forward)(cc_out y, cc_in x, const void *p, void *scratch) {
    FN(softmax_walk)(y, x, NULL);
    return 0;
}

int64_t FN(softmax_backward)(cc_out dx, cc_in dy, cc_in y, const void *p, void *scratch) {
    FN(softmax_walk)(dx, dy, y);
    return 0;
}

/* Row losses go to scratch and are added in order, in double: the same for every number of threads. */
int64_t FN(softmax_cross_entropy_forward)(cc_out y, cc_out probabilities, cc_in logits, cc_in labels,
                                          const cc_softmax_cross_entropy *p, void *scratch) {
    const int64_t n = logits->shape[0], k = logits->shape[1];
    if (!scratch) return cc_round_up((n + 1) * (int64_t)sizeof(double), 64);
    double *loss = scratch, total = 0;
    PARALLEL_FOR
    for (int64_t i0 = 0; i0 < n; i0 += 16)
        for (int64_t i = i0; i < MIN(i0 + 16, n); i++) {
            const REAL *x = (const REAL *)logits->data + i * k;
            REAL most;
            const REAL sum = FN(softmax_row)((REAL *)probabilities->data + i * k, x, k, &most);
            loss[i] = log((double)sum) - (double)(x[((const int64_t *)labels->data)[i]] - most);
        }
    for (int64_t i = 0; i < n; i++) total += loss[i];
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
            for (int64_t j = 0; j < k; j++) to[j] = (from[j] - (j == label)) * scale;
        }
    return 0;
}
#endif
