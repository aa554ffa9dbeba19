/* Pooling, forward and backward, from one walk over windows.
 *
 * Channels are the vector: with the channel's stride 1, V maps are pooled at once, whatever kernel, stride, padding or
 * dilation. Channels-last maps are like that. Of contiguous maps, a block of BLOCK channels of one image is transposed
 * into scratch that stays in cache, pooled there, and transposed back; that costs about as much as the pooling, and far
 * less than pooling along a row with its strides and borders.
 *
 * forward    For every output pixel, the list of its window's real elements: (offset from the window's first element,
 *            tap). Windows that lie inside the image share one list.
 * backward   Gathers: for every pixel of dx, the list of the windows that hold it, as (output pixel, tap). Every dx is
 *            written once, by one thread: no zeroing, no races.
 *
 * A variant is one function over such a list for up to V channels: `reduce_*` and `spread_*` below. The walks are
 * inlined into each, so the calls cost nothing.
 */
#include "twice.h"

#ifdef REAL

#ifndef POOL_H
#define POOL_H
#define LINES 4 /* vectors per transposed block: a cache line of 16 floats at least */
/* Along one axis: which (index, tap) pairs belong to a pixel, from first[i] to first[i + 1]; and how many elements of
 * an output's window an average counts. */
typedef struct { int64_t *first, *index, *tap, *counted; } axis_list;

static axis_list take_axis(int64_t pixels, int64_t pairs, int64_t outputs, cc_arena *arena) {
    return (axis_list){cc_take(arena, (pixels + 1) * sizeof(int64_t)), cc_take(arena, pairs * sizeof(int64_t)),
                       cc_take(arena, pairs * sizeof(int64_t)), cc_take(arena, outputs * sizeof(int64_t))};
}

/* The real inputs of every output (backward = 0), or the outputs that hold every input (backward = 1). */
static void fill_axis(axis_list *l, const cc_window *w, int a, int backward) {
    int64_t used = 0;
    for (int64_t i = 0; i < (backward ? w->size[a] : w->out[a]); i++) {
        l->first[i] = used;
        for (int64_t t = 0; t < w->kernel[a]; t++) {
            const int64_t shift = t * w->dilation[a] - w->begin[a];
            const int64_t at = backward ? (i - shift) / w->stride[a] : i * w->stride[a] + shift;
            if (backward && ((i - shift) % w->stride[a] || i < shift || at >= w->out[a])) continue;
            if (!backward && (at < 0 || at >= w->size[a])) continue;
            l->index[used] = at;
            l->tap[used++] = t;
        }
        l->first[i + 1] = used;
    }
}

/* Elements of a window that an average counts, along one axis: the real ones, or with count_include_pad all but those
 * that ceil_mode lets hang over. */
static void fill_counted(axis_list *l, const cc_window *w, int a, int64_t count_include_pad) {
    for (int64_t o = 0; o < w->out[a]; o++) {
        const int64_t start = o * w->stride[a] - w->begin[a], d = w->dilation[a];
        const int64_t stop = w->size[a] + (count_include_pad ? w->end[a] : 0);
        const int64_t skipped = count_include_pad || start >= 0 ? 0 : cc_ceil_div(-start, d);
        l->counted[o] = MIN(w->kernel[a], cc_ceil_div(stop - start, d)) - skipped;
    }
}
#endif
#define BLOCK (LINES * V)

/* One pixel's list: `at` offsets in elements, `tap` numbers in the window, `share` what the variant precomputed. */
#define pool_list FN(cc_pool_list)
typedef struct {
    int64_t count, *at, *tap;
    REAL *share;
} pool_list;

/* The maps a walk reads (a, b) and writes (y, z), as strides in elements; channels stand 1 apart. `a` is x or dy, `b`
 * what backward saved, `y` is y or dx, `z` what forward saves. */
#define pool_maps FN(cc_pool_maps)
typedef struct {
    int64_t channels, in[3], out[3];
    const REAL *a;
    const int32_t *b;
    REAL *y;
    int32_t *z;
} pool_maps;

#define pool_fn FN(cc_pool_fn)
typedef void pool_fn(const pool_list *l, const REAL *a, const int32_t *b, REAL *y, int32_t *z, int64_t lanes);

/* --- variants --------------------------------------------------------------------------------------------------- */

INLINE ivec FN(load_winner)(const int32_t *p, int64_t lanes) {
    ivec v;
#if REAL_IS_FLOAT
    if (lanes >= V) {
        memcpy(&v, p, sizeof v);
        return v;
    }
#endif
    for (int64_t i = 0; i < V; i++) v[i] = i < lanes ? p[i] : -1;
    return v;
}

INLINE void FN(store_winner)(int32_t *p, ivec v, int64_t lanes) {
#if REAL_IS_FLOAT
    if (lanes >= V) {
        memcpy(p, &v, sizeof v);
        return;
    }
#endif
    for (int64_t i = 0; i < MIN(lanes, V); i++) p[i] = (int32_t)v[i];
}

/* The first of equals wins; a NaN beats every number, and no later NaN beats it. */
INLINE void FN(reduce_max)(const pool_list *l, const REAL *x, const int32_t *b, REAL *y, int32_t *winner,
                           int64_t lanes) {
    vec best = FN(load_n)(x + l->at[0], lanes);
    ivec won = (ivec){0} + (INT)l->tap[0];
    for (int64_t i = 1; i < l->count; i++) {
        vec v = FN(load_n)(x + l->at[i], lanes);
        ivec better = ~(v <= best) & (best == best);
        best = FN(select)(better, v, best);
        won = FN(iselect)(better, (ivec){0} + (INT)l->tap[i], won);
    }
    FN(store_n)(y, best, lanes);
    if (winner) FN(store_winner)(winner, won, lanes);
}

INLINE void FN(spread_max)(const pool_list *l, const REAL *dy, const int32_t *winner, REAL *dx, int32_t *z,
                           int64_t lanes) {
    vec sum = {0};
    for (int64_t i = 0; i < l->count; i++) {
        ivec won = FN(load_winner)(winner + l->at[i], lanes) == (ivec){0} + (INT)l->tap[i];
        sum += (vec)((ivec)FN(load_n)(dy + l->at[i], lanes) & won);
    }
    FN(store_n)(dx, sum, lanes);
}

INLINE void FN(reduce_avg)(const pool_list *l, const REAL *x, const int32_t *b, REAL *y, int32_t *z, int64_t lanes) {
    vec sum = {0};
    for (int64_t i = 0; i < l->count; i++) sum += FN(load_n)(x + l->at[i], lanes);
    FN(store_n)(y, sum / l->share[0], lanes);
}

INLINE void FN(spread_avg)(const pool_list *l, const REAL *dy, const int32_t *b, REAL *dx, int32_t *z, int64_t lanes) {
    vec sum = {0};
    for (int64_t i = 0; i < l->count; i++) sum += FN(load_n)(dy + l->at[i], lanes) / l->share[i];
    FN(store_n)(dx, sum, lanes);
}

/* --- the walk --------------------------------------------------------------------------------------------------- */

#define pool_walk FN(cc_pool_walk)
typedef struct {
    const cc_window *w;
    int backward;
    int64_t size[3]; /* the pixels that are written */
    axis_list axis[3];
    int64_t most; /* entries of the longest list */
} pool_walk;

static pool_walk FN(start_walk)(const cc_window *w, int backward, int64_t count_include_pad, cc_arena *arena) {
    pool_walk k = {w, backward, {0}, {{0}}, 1};
    for (int a = 0; a < 3; a++) {
        const int64_t per = backward ? MIN(w->kernel[a], w->out[a]) : MIN(w->kernel[a], w->size[a]);
        k.size[a] = backward ? w->size[a] : w->out[a];
        k.most *= per;
        k.axis[a] = take_axis(k.size[a], k.size[a] * per, w->out[a], arena);
        if (!arena->base) continue;
        fill_axis(&k.axis[a], w, a, backward);
        fill_counted(&k.axis[a], w, a, count_include_pad);
    }
    return k;
}

/* The list of one pixel. `in` holds the strides of the map that is read. */
INLINE void FN(fill_list)(const pool_walk *k, const int64_t at[3], const int64_t in[3], int shares, pool_list *l) {
    const axis_list *x = k->axis;
    const cc_window *w = k->w;
    l->count = 0;
    for (int64_t i = x[0].first[at[0]]; i < x[0].first[at[0] + 1]; i++)
        for (int64_t j = x[1].first[at[1]]; j < x[1].first[at[1] + 1]; j++)
            for (int64_t m = x[2].first[at[2]]; m < x[2].first[at[2] + 1]; m++) {
                l->at[l->count] = x[0].index[i] * in[0] + x[1].index[j] * in[1] + x[2].index[m] * in[2];
                l->tap[l->count] = (x[0].tap[i] * w->kernel[1] + x[1].tap[j]) * w->kernel[2] + x[2].tap[m];
                if (shares && k->backward)
                    l->share[l->count] = (REAL)(x[0].counted[x[0].index[i]] * x[1].counted[x[1].index[j]] *
                                                x[2].counted[x[2].index[m]]);
                l->count++;
            }
    if (shares && !k->backward)
        l->share[0] = (REAL)(x[0].counted[at[0]] * x[1].counted[at[1]] * x[2].counted[at[2]]);
}

/* Row `row` (of size[0] * size[1]) of the maps. */
INLINE void FN(walk_row)(const pool_walk *k, const pool_maps *m, int64_t row, int shares, pool_list *l,
                         pool_fn *variant) {
    int64_t at[3] = {row / k->size[1], row % k->size[1], 0};
    for (at[2] = 0; at[2] < k->size[2]; at[2]++) {
        const int64_t out = at[0] * m->out[0] + at[1] * m->out[1] + at[2] * m->out[2];
        FN(fill_list)(k, at, m->in, shares, l);
        int64_t c = 0;
        for (; c + V <= m->channels; c += V)
            variant(l, m->a + c, m->b ? m->b + c : NULL, m->y + out + c, m->z ? m->z + out + c : NULL, V);
        if (c < m->channels)
            variant(l, m->a + c, m->b ? m->b + c : NULL, m->y + out + c, m->z ? m->z + out + c : NULL,
                    m->channels - c);
    }
}

/* [channels][pixels] to [pixels][BLOCK] and back, 4 bytes or 8 at a time. */
#define TRANSPOSE(name, T)                                                                                      \
    static void FN(name##_in)(T *to, const T *from, int64_t pixels, int64_t channels) {                         \
        for (int64_t p0 = 0; p0 < pixels; p0 += 16)                                                             \
            for (int64_t c = 0; c < channels; c++)                                                              \
                for (int64_t p = p0; p < MIN(p0 + 16, pixels); p++) to[p * BLOCK + c] = from[c * pixels + p];   \
    }                                                                                                           \
    static void FN(name##_out)(T *to, const T *from, int64_t pixels, int64_t channels) {                        \
        for (int64_t p0 = 0; p0 < pixels; p0 += 16)                                                             \
            for (int64_t c = 0; c < channels; c++)                                                              \
                for (int64_t p = p0; p < MIN(p0 + 16, pixels); p++) to[c * pixels + p] = from[p * BLOCK + c];   \
    }
TRANSPOSE(real, REAL)
TRANSPOSE(winner, int32_t)

/* All images and channels. a, y are REAL maps, b, z their int32 companions (or NULL). */
INLINE int64_t FN(walk)(cc_in y, cc_in z, cc_in a, cc_in b, const cc_window *w, int backward, int shares,
                        int64_t count_include_pad, void *scratch, pool_fn *variant) {
    cc_arena arena = {scratch, 0};
    const pool_walk k = FN(start_walk)(w, backward, count_include_pad, &arena);
    const int64_t n = y->shape[0], channels = y->shape[1];
    const int64_t ins = a->shape[2] * a->shape[3] * a->shape[4], outs = y->shape[2] * y->shape[3] * y->shape[4];
    const int last = y->stride[1] == 1 || channels == 1; /* channels last */
    const int64_t rows = k.size[0] * k.size[1], blocks = cc_ceil_div(channels, BLOCK);
    const int64_t tasks = last ? n * rows : n * blocks;
    const int64_t list_bytes = cc_round_up(k.most * (2 * sizeof(int64_t) + sizeof(REAL)), 64);
    const int64_t block_bytes = last ? 0 : (ins + outs) * BLOCK * (int64_t)(sizeof(REAL) + sizeof(int32_t));
    const int64_t mine = list_bytes + cc_round_up(block_bytes, 64);
    char *private = cc_take(&arena, mine * cc_threads);
    if (!scratch) return arena.used;

    PARALLEL_FOR
    for (int64_t task = 0; task < tasks; task++) {
        char *own = private + mine * cc_thread();
        pool_list l = {0, (int64_t *)own, (int64_t *)own + k.most, (REAL *)((int64_t *)own + 2 * k.most)};
        if (last) {
            const int64_t i = task / rows;
            pool_maps m = {channels, {a->stride[2], a->stride[3], a->stride[4]},
                           {y->stride[2], y->stride[3], y->stride[4]},
                           (const REAL *)a->data + i * a->stride[0], b ? (const int32_t *)b->data + i * b->stride[0] : NULL,
                           (REAL *)y->data + i * y->stride[0], z ? (int32_t *)z->data + i * z->stride[0] : NULL};
            FN(walk_row)(&k, &m, task % rows, shares, &l, variant);
            continue;
        }
        const int64_t i = task / blocks, c = task % blocks * BLOCK, count = MIN(BLOCK, channels - c);
        REAL *a_block = (REAL *)(own + list_bytes), *y_block = a_block + ins * BLOCK;
        int32_t *b_block = (int32_t *)(y_block + outs * BLOCK), *z_block = b_block + ins * BLOCK;
        FN(real_in)(a_block, (const REAL *)a->data + i * a->stride[0] + c * ins, ins, count);
        if (b) FN(winner_in)(b_block, (const int32_t *)b->data + i * b->stride[0] + c * ins, ins, count);
        pool_maps m = {count, {0}, {0}, a_block, b ? b_block : NULL, y_block, z ? z_block : NULL};
        for (int axis = 0; axis < 3; axis++) {
            m.in[axis] = a->stride[2 + axis] * BLOCK;
            m.out[axis] = y->stride[2 + axis] * BLOCK;
        }
        for (int64_t row = 0; row < rows; row++) FN(walk_row)(&k, &m, row, shares, &l, variant);
        FN(real_out)((REAL *)y->data + i * y->stride[0] + c * outs, y_block, outs, count);
        if (z) FN(winner_out)((int32_t *)z->data + i * z->stride[0] + c * outs, z_block, outs, count);
    }
    return 0;
}

/* --- the ops ----------------------------------------------------------------------------------------------------- */

int64_t FN(max_pool_forward)(cc_out y, cc_out winner, cc_in x, const cc_max_pool *p, void *scratch) {
    return FN(walk)(y, winner, x, NULL, &p->window, 0, 0, 0, scratch, FN(reduce_max));
}

int64_t FN(max_pool_backward)(cc_out dx, cc_in dy, cc_in winner, const cc_max_pool *p, void *scratch) {
    return FN(walk)(dx, NULL, dy, winner, &p->window, 1, 0, 0, scratch, FN(spread_max));
}

int64_t FN(avg_pool_forward)(cc_out y, cc_in x, const cc_avg_pool *p, void *scratch) {
    return FN(walk)(y, NULL, x, NULL, &p->window, 0, 1, p->count_include_pad, scratch, FN(reduce_avg));
}

int64_t FN(avg_pool_backward)(cc_out dx, cc_in dy, const cc_avg_pool *p, void *scratch) {
    return FN(walk)(dx, NULL, dy, NULL, &p->window, 1, 1, p->count_include_pad, scratch, FN(spread_avg));
}
#endif
