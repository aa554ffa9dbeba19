/* The first versions of convolution, for reading and for `cnncore bench conv --versions`. No op calls these kernels.
 *
 *   v1   the definition as loops: every product costs an index, a test for padding and a scalar multiply-add
 *   v2   im2col: 4 to 40 times as fast as v1. The windows of a line of outputs are copied one behind the other, in the
 *        order of a filter's weights. Then padding and geometry are gone: an output is the inner product of two
 *        contiguous rows. A register tile has PIXELS2 by MAPS2 outputs with V partial sums each.
 *   direct, auto   the kernels in use: 5 to 14 times as fast as v2. conv_direct.c copies no windows and keeps maps in
 *        the lanes, so that no sum runs across lanes. auto takes Winograd (conv_winograd.c) where it is cheaper.
 *
 * Measurements: docs/kernels/conv.md. */
#include "twice.h"

#ifdef REAL

#ifndef PIXELS2
#define PIXELS2 4
#define MAPS2 3
#endif

/* The offset in its map of the element that output o reads through tap t; -1 for padding. */
INLINE int64_t FN(tapped)(const cc_window *w, cc_in x, const int64_t o[3], const int64_t t[3]) {
    int64_t offset = 0;
    for (int a = 0; a < 3; a++) {
        const int64_t at = o[a] * w->stride[a] + t[a] * w->dilation[a] - w->begin[a];
        if (at < 0 || at >= w->size[a]) return -1;
        offset += at * x->stride[2 + a];
    }
    return offset;
}

#define EACH(i, size)                              \
    for (i[0] = 0; i[0] < (size)[0]; i[0]++)       \
        for (i[1] = 0; i[1] < (size)[1]; i[1]++)   \
            for (i[2] = 0; i[2] < (size)[2]; i[2]++)

int64_t FN(conv_v1_forward)(cc_out y, cc_in x, cc_in w, cc_in b, const cc_conv *p, void *scratch) {
    const cc_window *win = &p->window;
    const int64_t channels = w->shape[1], maps = w->shape[0] / p->groups, all = w->shape[0];
    const int64_t taps = win->kernel[0] * win->kernel[1] * win->kernel[2];
    PARALLEL_TASKS(i, y->shape[0] * all) {
        const int64_t n = i / all, k = i % all, first = k / maps * channels;
        int64_t o[3], t[3];
        EACH(o, win->out) {
            const REAL *filter = (const REAL *)w->data + k * channels * taps;
            REAL sum = b ? ((const REAL *)b->data)[k] : 0;
            for (int64_t c = 0; c < channels; c++) {
                const REAL *map = (const REAL *)x->data + n * x->stride[0] + (first + c) * x->stride[1];
                EACH(t, win->kernel) {
                    const int64_t at = FN(tapped)(win, x, o, t);
                    sum += (at < 0 ? 0 : map[at]) * *filter++;
                }
            }
            ((REAL *)y->data)[n * y->stride[0] + k * y->stride[1] + o[0] * y->stride[2] + o[1] * y->stride[3] +
                              o[2] * y->stride[4]] = sum;
        }
    }
    return 0;
}

/* sum[i][k] = the inner product of `rows` elements at x + i * rows and w + k * rows. Behind the last pixel or map, the
 * last one is repeated. */
INLINE void FN(inner_products)(const REAL *x, int64_t pixels, const REAL *w, int64_t maps, int64_t rows,
                               REAL sum[PIXELS2][MAPS2]) {
    vec acc[PIXELS2][MAPS2] = {{{0}}};
    for (int64_t r = 0; r < rows; r += V) {
        vec weights[MAPS2];
        UNROLL for (int k = 0; k < MAPS2; k++) weights[k] = FN(load_n)(w + MIN(k, maps - 1) * rows + r, rows - r);
        UNROLL for (int i = 0; i < PIXELS2; i++) {
            const vec from = FN(load_n)(x + MIN(i, pixels - 1) * rows + r, rows - r);
            UNROLL for (int k = 0; k < MAPS2; k++) acc[i][k] += from * weights[k];
        }
    }
    for (int i = 0; i < PIXELS2; i++)
        for (int k = 0; k < MAPS2; k++) {
            sum[i][k] = 0;
            for (int v = 0; v < V; v++) sum[i][k] += acc[i][k][v];
        }
}

int64_t FN(conv_v2_forward)(cc_out y, cc_in x, cc_in w, cc_in b, const cc_conv *p, void *scratch) {
    const cc_window *win = &p->window;
    const int64_t channels = w->shape[1], maps = w->shape[0] / p->groups, line = win->out[2];
    const int64_t taps = win->kernel[0] * win->kernel[1] * win->kernel[2], rows = channels * taps;
    if (!scratch) return cc_threads * line * rows * (int64_t)sizeof(REAL);
    const int64_t lines = win->out[0] * win->out[1];
    PARALLEL_TASKS(i, y->shape[0] * p->groups * lines) {
        const int64_t n = i / lines / p->groups, group = i / lines % p->groups;
        const REAL *from = (const REAL *)x->data + n * x->stride[0] + group * channels * x->stride[1];
        const REAL *filters = (const REAL *)w->data + group * maps * rows;
        REAL *columns = (REAL *)scratch + cc_thread() * line * rows, *column = columns;
        int64_t o[3] = {i % lines / win->out[1], i % lines % win->out[1], 0}, t[3];
        for (o[2] = 0; o[2] < line; o[2]++)
            for (int64_t c = 0; c < channels; c++)
                EACH(t, win->kernel) {
                    const int64_t at = FN(tapped)(win, x, o, t);
                    *column++ = at < 0 ? 0 : from[c * x->stride[1] + at];
                }
        REAL *to = (REAL *)y->data + n * y->stride[0] + o[0] * y->stride[2] + o[1] * y->stride[3];
        for (int64_t k = 0; k < maps; k += MAPS2)
            for (int64_t j = 0; j < line; j += PIXELS2) {
                REAL sum[PIXELS2][MAPS2];
                FN(inner_products)(columns + j * rows, line - j, filters + k * rows, maps - k, rows, sum);
                for (int64_t m = 0; m < MIN(PIXELS2, line - j); m++)
                    for (int64_t l = 0; l < MIN(MAPS2, maps - k); l++) {
                        const int64_t map = group * maps + k + l;
                        to[(j + m) * y->stride[4] + map * y->stride[1]] =
                            sum[m][l] + (b ? ((const REAL *)b->data)[map] : 0);
                    }
            }
    }
    return 0;
}
#endif
