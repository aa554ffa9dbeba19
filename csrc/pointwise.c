/* Element by element: relu, sigmoid, tanh, dropout, add, concat, slice. All maps of a call are dense in one layout, so
 * layout does not matter: loops run over memory in order, in pieces that are small enough to share between threads and
 * large enough to be worth it. Plain scalar loops, but for the functions of vmath.h; the compiler vectorises them.
 * Memory traffic is the limit. */
#include "twice.h"

#ifdef REAL
#include "channels_last.h"
#include "philox.h"
#include "vmath.h"

#ifndef POINTWISE_H
#define POINTWISE_H
#define PIECE 16384
/* for every piece [i0, i1) of `count` elements, in parallel */
#define PIECES(count)                                                                                               \
    _Pragma("omp parallel for schedule(static) num_threads(cc_threads) if (cc_threads > 1 && (count) > PIECE)")     \
    for (int64_t i0 = 0; i0 < (count); i0 += PIECE)                                                                 \
        for (int64_t i1 = MIN(i0 + PIECE, (count)), once = 1; once; once = 0)
#endif

int64_t FN(relu_forward)(cc_out y, cc_in x, const void *p, void *scratch) {
    REAL *to = y->data;
    const REAL *from = x->data;
    const int64_t count = cc_count(x);
    PIECES(count) for (int64_t i = i0; i < i1; i++) to[i] = from[i] <= 0 ? 0 : from[i];
    return 0;
}

int64_t FN(relu_backward)(cc_out dx, cc_in dy, cc_in y, const void *p, void *scratch) {
    REAL *to = dx->data;
    const REAL *from = dy->data, *kept = y->data;
    const int64_t count = cc_count(y);
    PIECES(count) for (int64_t i = i0; i < i1; i++) to[i] = kept[i] <= 0 ? 0 : from[i];
    return 0;
}

/* y = function of x, a vector at a time */
#define EACH_VECTOR(function)                                                                                       \
    REAL *to = y->data;                                                                                             \
    const REAL *from = x->data;                                                                                     \
    const int64_t count = cc_count(x);                                                                              \
    PIECES(count) for (int64_t i = i0; i < i1; i += V)                                                              \
        FN(store_n)(to + i, function(FN(load_n)(from + i, i1 - i)), i1 - i);                                        \
    return 0;

int64_t FN(sigmoid_forward)(cc_out y, cc_in x, const void *p, void *scratch) { EACH_VECTOR(FN(sigmoid)) }
int64_t FN(tanh_forward)(cc_out y, cc_in x, const void *p, void *scratch) { EACH_VECTOR(FN(tanh)) }

int64_t FN(sigmoid_backward)(cc_out dx, cc_in dy, cc_in y, const void *p, void *scratch) {
    REAL *to = dx->data;
    const REAL *from = dy->data, *kept = y->data;
    const int64_t count = cc_count(y);
    PIECES(count) for (int64_t i = i0; i < i1; i++) to[i] = from[i] * kept[i] * (1 - kept[i]);
    return 0;
}

int64_t FN(tanh_backward)(cc_out dx, cc_in dy, cc_in y, const void *p, void *scratch) {
    REAL *to = dx->data;
    const REAL *from = dy->data, *kept = y->data;
    const int64_t count = cc_count(y);
    PIECES(count) for (int64_t i = i0; i < i1; i++) to[i] = from[i] * ((1 - kept[i]) * (1 + kept[i]));
    return 0;
}

void FN(cc_exp)(REAL *y, const REAL *x, int64_t count) {
    memmove(y, x, count * sizeof(REAL));
    FN(exp_run)(y, count);
}

void FN(cc_log)(REAL *y, const REAL *x, int64_t count) {
    for (int64_t i = 0; i < count; i += V) FN(store_n)(y + i, FN(log)(FN(load_n)(x + i, count - i)), count - i);
}

void FN(cc_pow)(REAL *y, const REAL *x, const REAL *e, int64_t count) {
    for (int64_t i = 0; i < count; i += V)
        FN(store_n)(y + i, FN(pow)(FN(load_n)(x + i, count - i), FN(load_n)(e + i, count - i)), count - i);
}

/* Map m = n C + c of `to` is scale times that of `from` where kept[m], else 0; both dense, in either layout. */
static void FN(drop_maps)(cc_out to, cc_in from, const uint8_t *kept, REAL scale) {
    const int64_t channels = from->shape[1], pixels = from->shape[2] * from->shape[3] * from->shape[4];
    const int last = from->stride[1] == 1; /* rows are pixels of all maps; else they are maps */
    const int64_t rows = from->shape[0] * (last ? pixels : channels), length = last ? channels : pixels;
    const int64_t step = cc_ceil_div(PIECE, MAX(length, 1));
    PARALLEL_FOR
    for (int64_t r0 = 0; r0 < rows; r0 += step)
        for (int64_t r = r0; r < MIN(r0 + step, rows); r++) {
            const REAL *x = (const REAL *)from->data + r * length;
            REAL *y = (REAL *)to->data + r * length;
            if (last) {
                const uint8_t *mask = kept + r / pixels * channels;
                for (int64_t i = 0; i < length; i++) y[i] = mask[i] ? x[i] * scale : 0;
            } else if (kept[r]) {
                for (int64_t i = 0; i < length; i++) y[i] = x[i] * scale;
            } else memset(y, 0, length * sizeof(REAL));
        }
}

int64_t FN(dropout_forward)(cc_out y, cc_out kept, cc_in x, cc_in u, const cc_dropout *p, void *scratch) {
    uint8_t *mask = kept->data;
    const REAL limit = (REAL)p->p, scale = (REAL)(1 / (1 - p->p));
    const map_draw draw = FN(map_draw_of)(u);
    const int64_t own = FN(map_draw_bytes)(&draw);
    if (own && !scratch) return own * cc_threads;
    PARALLEL_FOR
    for (int64_t task = 0; task < draw.pieces; task++) {
        const map_piece piece = FN(draw_piece)(&draw, task, (char *)scratch + own * cc_thread());
        REAL *to = (REAL *)y->data + piece.at;
        const REAL *from = (const REAL *)x->data + piece.at;
        for (int64_t i = 0; i < piece.count; i++) mask[piece.at + i] = piece.u[i] >= limit;
        if (!p->maps)
            for (int64_t i = 0; i < piece.count; i++) to[i] = piece.u[i] >= limit ? from[i] * scale : 0;
    }
    if (p->maps) FN(drop_maps)(y, x, mask, scale);
    return 0;
}

int64_t FN(dropout_backward)(cc_out dx, cc_in dy, cc_in kept, const cc_dropout *p, void *scratch) {
    REAL *to = dx->data;
    const uint8_t *mask = kept->data;
    const REAL *from = dy->data, scale = (REAL)(1 / (1 - p->p));
    const int64_t count = cc_count(dy);
    if (p->maps) FN(drop_maps)(dx, dy, mask, scale);
    else PIECES(count) for (int64_t i = i0; i < i1; i++) to[i] = mask[i] ? from[i] * scale : 0;
    return 0;
}

int64_t FN(add_forward)(cc_out y, cc_in xs, const cc_add *p, void *scratch) {
    REAL *to = y->data;
    const int64_t count = cc_count(y);
    PIECES(count) {
        memcpy(to + i0, (const REAL *)xs[0].data + i0, (i1 - i0) * sizeof(REAL));
        for (int64_t k = 1; k < p->count; k++) {
            const REAL *from = xs[k].data;
            for (int64_t i = i0; i < i1; i++) to[i] += from[i];
        }
    }
    return 0;
}

int64_t FN(add_backward)(cc_out dxs, cc_in dy, const cc_add *p, void *scratch) {
    const int64_t count = cc_count(dy);
    PIECES(count) for (int64_t k = 0; k < p->count; k++) {
        if (cc_wanted(dxs + k))
            memcpy((REAL *)dxs[k].data + i0, (const REAL *)dy->data + i0, (i1 - i0) * sizeof(REAL));
    }
    return 0;
}

/* Behind the axis in memory, every array holds the same `inner` elements; an array's share of one outer step is
 * inner times its own length along the axis. */
static void FN(concat)(cc_in whole, cc_in parts, const cc_concat *p, int split) {
    const int64_t axis = p->axis < 2 ? p->axis : p->axis + 5 - p->rank;
    const int64_t inner = whole->stride[axis], step = inner * whole->shape[axis];
    const int64_t outer = step ? cc_count(whole) / step : 0;
    PARALLEL_FOR
    for (int64_t o0 = 0; o0 < outer; o0 += cc_ceil_div(PIECE, step)) {
        for (int64_t o = o0; o < MIN(o0 + cc_ceil_div(PIECE, step), outer); o++) {
            REAL *at = (REAL *)whole->data + o * step;
            for (int64_t k = 0; k < p->count; k++) {
                const int64_t length = inner * parts[k].shape[axis];
                if (split && parts[k].data) memcpy((REAL *)parts[k].data + o * length, at, length * sizeof(REAL));
                if (!split) memcpy(at, (const REAL *)parts[k].data + o * length, length * sizeof(REAL));
                at += length;
            }
        }
    }
}

int64_t FN(concat_forward)(cc_out y, cc_in xs, const cc_concat *p, void *scratch) {
    FN(concat)(y, xs, p, 0);
    return 0;
}

int64_t FN(concat_backward)(cc_out dxs, cc_in dy, const cc_concat *p, void *scratch) {
    FN(concat)(dy, dxs, p, 1);
    return 0;
}

/* The same for one part of the maps: `back` writes it into a whole of zeros. */
static void FN(slice)(cc_in whole, cc_in part, const cc_slice *p, int back) {
    const int64_t inner = whole->stride[1], step = inner * whole->shape[1];
    const int64_t before = inner * p->start, length = inner * (p->stop - p->start), after = step - before - length;
    const int64_t outer = step ? cc_count(whole) / step : 0, rows = cc_ceil_div(PIECE, MAX(step, 1));
    PARALLEL_FOR
    for (int64_t o0 = 0; o0 < outer; o0 += rows)
        for (int64_t o = o0; o < MIN(o0 + rows, outer); o++) {
            REAL *x = (REAL *)whole->data + o * step, *y = (REAL *)part->data + o * length;
            if (back) {
                memset(x, 0, before * sizeof(REAL));
                memcpy(x + before, y, length * sizeof(REAL));
                memset(x + before + length, 0, after * sizeof(REAL));
            } else memcpy(y, x + before, length * sizeof(REAL));
        }
}

int64_t FN(slice_forward)(cc_out y, cc_in x, const cc_slice *p, void *scratch) {
    FN(slice)(x, y, p, 0);
    return 0;
}

int64_t FN(slice_backward)(cc_out dx, cc_in dy, const cc_slice *p, void *scratch) {
    FN(slice)(dx, dy, p, 1);
    return 0;
}
#endif
