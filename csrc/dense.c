/* linear, softmax, softmax_cross_entropy.
 *
 * linear is a 1x1 convolution of one-pixel images, and runs on that kernel: the tiles of conv_direct.c span images.
 *
 * softmax walks pixels in groups of PIXELS, so that both layouts read whole cache lines, three passes over a group that
 * stays in cache: maximum, exponentials and their sum, division. */
#include "twice.h"

#ifdef REAL
#include "vmath.h"

#ifndef DENSE_H
#define DENSE_H
#define PIXELS 64
static const cc_conv one_by_one = {
    {{1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {0, 0, 0}, {1, 1, 1}, {1, 1, 1}}, 1};
#endif

int64_t FN(linear_forward)(cc_out y, cc_in x, cc_in w, cc_in b, const void *p, void *scratch) {
    return FN(conv_forward)(y, x, w, b, &one_by_one, scratch);
}

int64_t FN(linear_backward)(cc_out dx, cc_out dw, cc_out db, cc_in dy, cc_in x, cc_in w, const void *p,
                            void *scratch) {
    return FN(conv_backward)(dx, dw, db, dy, x, w, &one_by_one, scratch);
}

/* Element (channel c, pixel i of the group) stands at c * channel + i * pixel. */
static void FN(softmax_group)(REAL *y, const REAL *x, int64_t channels, int64_t channel, int64_t pixels,
                              int64_t pixel) {
    REAL most[PIXELS], sum[PIXELS];
    for (int64_t i = 0; i < pixels; i++) {
        most[i] = x[i * pixel];
        sum[i] = 0;
    }
    for (int64_t c = 1; c < channels; c++)
        for (int64_t i = 0; i < pixels; i++) {
            const REAL v = x[c * channel + i * pixel];
            most[i] = v <= most[i] ? most[i] : v; /* a NaN enters and, being in the sum anyway, makes all NaN */
        }
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = 0; i < pixels; i++) y[c * channel + i * pixel] = x[c * channel + i * pixel] - most[i];
    if (channel == 1) FN(exp_run)(y, channels * pixels); /* dense, whichever layout */
    else
        for (int64_t c = 0; c < channels; c++) FN(exp_run)(y + c * channel, pixels);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = 0; i < pixels; i++) sum[i] += y[c * channel + i * pixel];
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = 0; i < pixels; i++) y[c * channel + i * pixel] /= sum[i];
}

static void FN(softmax_gradient_group)(REAL *dx, const REAL *dy, const REAL *y, int64_t channels, int64_t channel,
                                       int64_t pixels, int64_t pixel) {
    REAL dot[PIXELS] = {0};
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = 0; i < pixels; i++) dot[i] += dy[c * channel + i * pixel] * y[c * channel + i * pixel];
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = 0; i < pixels; i++) {
            const int64_t at = c * channel + i * pixel;
            dx[at] = y[at] * (dy[at] - dot[i]);
        }
}

/* The groups of all images; with y_saved the gradient, from dy in x. */
static void FN(softmax_walk)(cc_out to, cc_in from, cc_in y_saved) {
    const int64_t pixels = to->shape[2] * to->shape[3] * to->shape[4], channels = to->shape[1];
    const int64_t channel = to->stride[1], pixel = to->stride[4], groups = cc_ceil_div(pixels, PIXELS);
    PARALLEL_FOR
    for (int64_t task = 0; task < to->shape[0] * groups; task++) {
        const int64_t first = task % groups * PIXELS, at = task / groups * to->stride[0] + first * pixel;
        const int64_t count = MIN(PIXELS, pixels - first);
        const REAL *in = (const REAL *)from->data + at;
        REAL *out = (REAL *)to->data + at;
        if (y_saved)
            FN(softmax_gradient_group)(out, in, (const REAL *)y_saved->data + at, channels, channel, count, pixel);
        else
            FN(softmax_group)(out, in, channels, channel, count, pixel);
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
            REAL *e = (REAL *)probabilities->data + i * k, most = x[0], sum = 0;
            for (int64_t j = 1; j < k; j++) most = x[j] <= most ? most : x[j];
            for (int64_t j = 0; j < k; j++) e[j] = x[j] - most;
            FN(exp_run)(e, k);
            for (int64_t j = 0; j < k; j++) sum += e[j];
            for (int64_t j = 0; j < k; j++) e[j] /= sum;
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
