/* Element by element: relu, sigmoid, tanh, dropout, add, concat, slice.
 *
 * All maps of a call are dense in one layout, so the layout does not matter. Loops run over memory in order, in pieces
 * that are small enough to share between threads. Memory is the limit, so every op is one pass.
 *
 *   relu      non-temporal stores: 0.82 of the time (forward and backward)
 *   add       non-temporal stores, one pass instead of a copy and a sum: 0.88
 *   concat    non-temporal stores: 0.66
 *   sigmoid   v2  non-temporal stores, exp_down, loops over whole vectors: 0.63
 *             v3  shorter chains: forward 0.91 (tanh 0.84)
 *             v4  two loops: forward 0.90 (tanh 0.89)
 *   dropout   v2  words of Philox become bytes, no floats: 0.74
 *             v3  masks are made in registers: 0.83
 *             v4  Philox in a quarter less time: 0.91
 *             v5  draws and drops in one loop: 0.91
 *
 * Measurements, and what did not help: docs/kernels/pointwise.md. */
#include "twice.h"

#ifdef REAL
#include "channels_last.h"
#include "philox.h"
#include "vmath.h"

#ifndef POINTWISE_H
#define POINTWISE_H
#define VECTORS (512 / CC_VECTOR_BYTES)
#define AHEAD (2048 / (int64_t)sizeof(REAL)) /* dropout fetches so many elements ahead while it draws words */

/* to[i] = VALUE, an expression that reads arrays by LOAD: a vector at a time, then the rest of a piece. Large results
 * are written by non-temporal stores (simd.h). */
#define LOAD(from) FN(load_n)((const REAL *)(from) + i, lanes)
#define EACH_VECTOR(RESULT, VALUE)                                                                                  \
    REAL *to = (RESULT)->data;                                                                                      \
    const int64_t count = cc_count(RESULT);                                                                         \
    const int past = cc_past_cache(count * (int64_t)sizeof(REAL));                                                  \
    PARALLEL_PIECES(i0, i1, count, PIECE) {                                                                         \
        int64_t i = i0;                                                                                             \
        for (; i + V <= i1; i += V) {                                                                               \
            const int lanes = V;                                                                                    \
            FN(stream)(to + i, VALUE, past);                                                                        \
        }                                                                                                           \
        const int64_t lanes = i1 - i;                                                                               \
        if (lanes) FN(store_n)(to + i, VALUE, lanes);                                                               \
    }                                                                                                               \
    return 0;

/* to[i] = LAST(FIRST(x[i]), x[i]), in two loops over VECTORS vectors. The chain from x to the result takes as long as
 * the instructions of ten vectors. No processor looks so far ahead. Two loops cut the chain in two. */
#define EACH_VECTOR_TWICE(RESULT, FIRST, LAST, x)                                                                   \
    REAL *to = (RESULT)->data;                                                                                      \
    const REAL *from = (x)->data;                                                                                   \
    const int64_t count = cc_count(RESULT);                                                                         \
    const int past = cc_past_cache(count * (int64_t)sizeof(REAL));                                                  \
    PARALLEL_PIECES(i0, i1, count, PIECE) {                                                                         \
        int64_t i = i0;                                                                                             \
        for (; i + VECTORS * V <= i1; i += VECTORS * V) {                                                           \
            vec half[VECTORS];                                                                                      \
            for (int j = 0; j < VECTORS; j++) half[j] = FIRST(FN(load)(from + i + j * V));                          \
            for (int j = 0; j < VECTORS; j++)                                                                       \
                FN(stream)(to + i + j * V, LAST(half[j], FN(load)(from + i + j * V)), past);                        \
        }                                                                                                           \
        for (; i < i1; i += V) {                                                                                    \
            const vec rest = FN(load_n)(from + i, i1 - i);                                                          \
            FN(store_n)(to + i, LAST(FIRST(rest), rest), i1 - i);                                                   \
        }                                                                                                           \
    }                                                                                                               \
    return 0;
#endif

/* The sum of `count` arrays, `lanes` elements from i on. */
INLINE vec FN(sum_of)(cc_in xs, int64_t count, int64_t i, int64_t lanes) {
    vec sum = FN(load_n)((const REAL *)xs[0].data + i, lanes);
    for (int64_t k = 1; k < count; k++) sum += FN(load_n)((const REAL *)xs[k].data + i, lanes);
    return sum;
}

int64_t FN(relu_forward)(cc_out y, cc_in x, const void *p, void *scratch) {
    EACH_VECTOR(y, FN(rectify)(LOAD(x->data)))
}
int64_t FN(sigmoid_forward)(cc_out y, cc_in x, const void *p, void *scratch) {
    EACH_VECTOR_TWICE(y, FN(sigmoid_first), FN(sigmoid_last), x)
}
int64_t FN(tanh_forward)(cc_out y, cc_in x, const void *p, void *scratch) {
    EACH_VECTOR_TWICE(y, FN(tanh_first), FN(tanh_last), x)
}

int64_t FN(relu_backward)(cc_out dx, cc_in dy, cc_in y, const void *p, void *scratch) {
    EACH_VECTOR(dx, FN(select)(LOAD(y->data) <= 0, (vec){0}, LOAD(dy->data)))
}
int64_t FN(sigmoid_backward)(cc_out dx, cc_in dy, cc_in y, const void *p, void *scratch) {
    EACH_VECTOR(dx, LOAD(dy->data) * LOAD(y->data) * (1 - LOAD(y->data)))
}
int64_t FN(tanh_backward)(cc_out dx, cc_in dy, cc_in y, const void *p, void *scratch) {
    EACH_VECTOR(dx, LOAD(dy->data) * ((1 - LOAD(y->data)) * (1 + LOAD(y->data))))
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

/* --- dropout ---
 * Bytes say which elements are kept. They are made from integers; uniforms are never made. The product
 * with these bytes is the second step, and it is also the backward. For channels-last maps the second step follows
 * piece by piece, since the bytes are transposed in between. For contiguous maps both steps are one loop. */

/* AT_ONCE elements: to = from * scale where kept, else 0. Their masks fit in registers. For non-temporal stores `to`
 * must be aligned to a vector. The caller tests that once, not at every store: so drop takes a tenth less time. */
INLINE void FN(drop_some)(REAL *to, const REAL *from, const uint8_t kept[AT_ONCE], REAL scale, const int past) {
    INT all[AT_ONCE]; /* all bits set, or none */
    if (past) to = __builtin_assume_aligned(to, sizeof(vec));
    for (int j = 0; j < AT_ONCE; j++) all[j] = -(INT)kept[j];
    UNROLL for (int j = 0; j < AT_ONCE; j += V) {
        ivec mask;
        memcpy(&mask, all + j, sizeof mask);
        FN(stream)(to + j, (vec)((ivec)(FN(load)(from + j) * scale) & mask), past);
    }
}

/* The same for any number of elements. */
INLINE void FN(drop_run)(REAL *to, const REAL *from, const uint8_t *kept, int64_t count, REAL scale, const int past) {
    int64_t i = 0;
    for (; i + AT_ONCE <= count; i += AT_ONCE) FN(drop_some)(to + i, from + i, kept + i, scale, past);
    for (; i < count; i++) to[i] = kept[i] ? from[i] * scale : 0;
}
static void FN(drop)(REAL *to, const REAL *from, const uint8_t *kept, int64_t count, REAL scale, int past) {
    if (past && (uintptr_t)to % sizeof(vec) == 0) FN(drop_run)(to, from, kept, count, scale, 1);
    else FN(drop_run)(to, from, kept, count, scale, 0);
}

/* A piece of contiguous maps, from uniform number `first` on: draws into `kept` and drops in one loop. So memory is
 * read and written while the processor draws. `first` is a multiple of PIECE_WORDS. So blocks are whole, and the upper
 * halves of their numbers are equal. */
INLINE void FN(draw_run)(REAL *to, uint8_t *kept, const REAL *from, int64_t first, int64_t count, int32_t least,
                         const philox_key *key, REAL scale, const int past) {
    const philox_start start = start_blocks(key, first / SAME_UPPER);
    int64_t i = 0;
    for (; i + AT_ONCE <= count; i += AT_ONCE) {
        keep_some(kept + i, (uint32_t)((first + i) / 4), least, key, &start);
        FN(drop_some)(to + i, from + i, kept + i, scale, past);
        for (int j = 0; j < AT_ONCE; j += 64 / (int)sizeof(REAL)) __builtin_prefetch(from + i + AHEAD + j);
    }
    draw_kept(kept + i, first + i, count - i, least, key, (const char *)from, 0);
    FN(drop_run)(to + i, from + i, kept + i, count - i, scale, past);
}
static void FN(draw_and_drop)(REAL *to, uint8_t *kept, const REAL *from, int64_t first, int64_t count, int32_t least,
                              const philox_key *key, REAL scale, int past) {
    if (past && (uintptr_t)to % sizeof(vec) == 0) FN(draw_run)(to, kept, from, first, count, least, key, scale, 1);
    else FN(draw_run)(to, kept, from, first, count, least, key, scale, 0);
}

/* Map m = n C + c of `to` is scale times map m of `from` if kept[m], else 0. Both are dense, in either layout. */
static void FN(drop_maps)(cc_out to, cc_in from, const uint8_t *kept, REAL scale) {
    const int64_t channels = from->shape[1], pixels = from->shape[2] * from->shape[3] * from->shape[4];
    const int last = from->stride[1] == 1; /* a row is a pixel of all maps; else a row is a map */
    const int64_t rows = from->shape[0] * (last ? pixels : channels), length = last ? channels : pixels;
    const int64_t step = cc_ceil_div(PIECE, MAX(length, 1));
    PARALLEL_PIECES(first, end, rows, step)
        for (int64_t r = first; r < end; r++) {
            const REAL *x = (const REAL *)from->data + r * length;
            REAL *y = (REAL *)to->data + r * length;
            if (last) FN(drop)(y, x, kept + r / pixels * channels, length, scale, 0);
            else if (kept[r]) {
                for (int64_t i = 0; i < length; i++) y[i] = x[i] * scale;
            } else memset(y, 0, length * sizeof(REAL));
        }
}

int64_t FN(dropout_forward)(cc_out y, cc_out kept, cc_in x, cc_in u, const cc_dropout *p, void *scratch) {
    const REAL limit = (REAL)p->p, scale = (REAL)(1 / (1 - p->p));
    const int32_t least = (int32_t)ceil((double)limit * (1 << 24)); /* u >= limit as integers */
    const map_draw draw = FN(map_draw_of)(u);
    const int64_t own = cc_round_up(draw.step * draw.channels, 64);
    const int past = cc_past_cache(cc_count(y) * (int64_t)sizeof(REAL));
    if (!scratch) return own * cc_threads;
    PARALLEL_TASKS(task, draw.pieces) {
        const map_piece piece = FN(piece_of)(&draw, task);
        const REAL *from = (const REAL *)x->data + piece.at;
        REAL *to = (REAL *)y->data + piece.at;
        uint8_t *mask = (uint8_t *)kept->data + piece.at, *drawn = (uint8_t *)scratch + own * cc_thread();
        if (piece.u)
            for (int64_t i = 0; i < piece.count; i++) mask[i] = piece.u[i] >= limit;
        else if (draw.channels > 1) {
            for (int64_t c = 0; c < draw.channels; c++) {
                const int64_t done = c * piece.pixels;
                draw_kept(drawn + done, piece.first + c * draw.pixels, piece.pixels, least, &draw.key,
                          (const char *)(from + done), sizeof(REAL));
            }
            turn_bytes(mask, drawn, draw.channels, piece.pixels);
        } else if (p->maps) draw_kept(mask, piece.first, piece.count, least, &draw.key, (const char *)mask, 1);
        else {
            FN(draw_and_drop)(to, mask, from, piece.first, piece.count, least, &draw.key, scale, past);
            continue;
        }
        if (!p->maps) FN(drop)(to, from, mask, piece.count, scale, past);
    }
    if (p->maps) FN(drop_maps)(y, x, kept->data, scale);
    return 0;
}

int64_t FN(dropout_backward)(cc_out dx, cc_in dy, cc_in kept, const cc_dropout *p, void *scratch) {
    REAL *to = dx->data;
    const uint8_t *mask = kept->data;
    const REAL *from = dy->data, scale = (REAL)(1 / (1 - p->p));
    const int64_t count = cc_count(dy);
    const int past = cc_past_cache(count * (int64_t)sizeof(REAL));
    if (p->maps) FN(drop_maps)(dx, dy, mask, scale);
    else
        PARALLEL_PIECES(i0, i1, count, PIECE) {
            FN(drop)(to + i0, from + i0, mask + i0, i1 - i0, scale, past);
        }
    return 0;
}

/* --- add, concat, slice --- */

int64_t FN(add_forward)(cc_out y, cc_in xs, const cc_add *p, void *scratch) {
    EACH_VECTOR(y, FN(sum_of)(xs, p->count, i, lanes))
}

int64_t FN(add_backward)(cc_out dxs, cc_in dy, const cc_add *p, void *scratch) {
    const int64_t count = cc_count(dy);
    const int past = cc_past_cache(count * (int64_t)sizeof(REAL));
    PARALLEL_PIECES(i0, i1, count, PIECE) {
        for (int64_t k = 0; k < p->count; k++)
            if (cc_wanted(dxs + k))
                FN(copy)((REAL *)dxs[k].data + i0, (const REAL *)dy->data + i0, i1 - i0, past);
    }
    return 0;
}

/* Copies parts side by side along an axis into `whole`, or back with `split`. The axes inside that axis in memory have
 * `inner` elements in every array. In one outer step a part gives inner times its own length along the axis. */
static void FN(concat)(cc_in whole, cc_in parts, const cc_concat *p, int split) {
    const int64_t axis = p->axis < 2 ? p->axis : p->axis + 5 - p->rank;
    const int64_t inner = whole->stride[axis], step = inner * whole->shape[axis];
    const int64_t outer = step ? cc_count(whole) / step : 0, rows = cc_ceil_div(PIECE, MAX(step, 1));
    const int past = cc_past_cache(cc_count(whole) * (int64_t)sizeof(REAL));
    PARALLEL_PIECES(first, last, outer, rows) {
        for (int64_t o = first; o < last; o++) {
            REAL *at = (REAL *)whole->data + o * step;
            for (int64_t k = 0; k < p->count; k++) {
                const int64_t length = inner * parts[k].shape[axis];
                if (split && parts[k].data) FN(copy)((REAL *)parts[k].data + o * length, at, length, past);
                if (!split) FN(copy)(at, (const REAL *)parts[k].data + o * length, length, past);
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

/* Copies some of the maps of `whole` to `part`. With `back` it copies the part to `whole` and sets the other maps to
 * 0. */
static void FN(slice)(cc_in whole, cc_in part, const cc_slice *p, int back) {
    const int64_t inner = whole->stride[1], step = inner * whole->shape[1];
    const int64_t before = inner * p->start, length = inner * (p->stop - p->start), after = step - before - length;
    const int64_t outer = step ? cc_count(whole) / step : 0, rows = cc_ceil_div(PIECE, MAX(step, 1));
    PARALLEL_PIECES(first, last, outer, rows)
        for (int64_t o = first; o < last; o++) {
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
