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
#define LINES 2 /* vectors per transposed block: a cache line of 16 floats at least */
/* Along one axis: which (index, tap) pairs belong to a pixel, from first[i] to first[i + 1]; how many elements of an
 * output's window an average counts; and whether a pixel's pairs are those of the pixel `period` before it with every
 * index `shift` higher (and counted alike), so that its list need not be made again. Away from borders they are. */
typedef struct {
    int64_t *first, *index, *tap, *counted, *again, period, shift;
} axis_list;

static axis_list take_axis(const cc_window *w, int a, int backward, cc_arena *arena) {
    const int64_t pixels = backward ? w->size[a] : w->out[a];
    const int64_t pairs = pixels * MIN(w->kernel[a], backward ? w->out[a] : w->size[a]);
    return (axis_list){
        cc_take(arena, (pixels + 1) * sizeof(int64_t)), cc_take(arena, pairs * sizeof(int64_t)),
        cc_take(arena, pairs * sizeof(int64_t)),        cc_take(arena, w->out[a] * sizeof(int64_t)),
        cc_take(arena, pixels * sizeof(int64_t)),       backward ? MIN(w->stride[a], pixels) : 1,
        backward ? 1 : w->stride[a]};
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

static void fill_again(axis_list *l, int64_t pixels, int backward) {
    for (int64_t i = 0; i < pixels; i++) {
        const int64_t now = l->first[i], count = l->first[i + 1] - now;
        const int64_t then = i < l->period ? 0 : l->first[i - l->period];
        l->again[i] = i >= l->period && count == l->first[i - l->period + 1] - then &&
                      (backward || l->counted[i] == l->counted[i - 1]);
        for (int64_t j = 0; l->again[i] && j < count; j++)
            l->again[i] = l->index[now + j] == l->index[then + j] + l->shift && l->tap[now + j] == l->tap[then + j] &&
                          (!backward || l->counted[l->index[now + j]] == l->counted[l->index[then + j]]);
    }
}
#endif
#define BLOCK (LINES * V)

/* One pixel's list: `at` offsets in elements (behind `base`), `tap` numbers in the window, `share` what an average
 * divides by. */
#define pool_list FN(cc_pool_list)
typedef struct {
    int64_t count, base, *at, *tap;
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
        k.axis[a] = take_axis(w, a, backward, arena);
        if (!arena->base) continue;
        fill_axis(&k.axis[a], w, a, backward);
        fill_counted(&k.axis[a], w, a, count_include_pad);
        fill_again(&k.axis[a], k.size[a], backward);
    }
    return k;
}

/* The list of one pixel. `in` holds the strides of the map that is read. */
INLINE void FN(fill_list)(const pool_walk *k, const int64_t at[3], const int64_t in[3], int shares, pool_list *l) {
    const axis_list *x = k->axis;
    const cc_window *w = k->w;
    l->count = l->base = 0;
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

/* Row `row` (of size[0] * size[1]) of the maps; `lists` has one list per pixel of a period. */
INLINE void FN(walk_row)(const pool_walk *k, const pool_maps *m, int64_t row, int shares, pool_list *lists,
                         pool_fn *variant) {
    const axis_list *line = &k->axis[2];
    int64_t at[3] = {row / k->size[1], row % k->size[1], 0}, turn = 0;
    for (at[2] = 0; at[2] < k->size[2]; at[2]++) {
        const int64_t out = at[0] * m->out[0] + at[1] * m->out[1] + at[2] * m->out[2];
        pool_list *l = lists + turn;
        turn = turn + 1 == line->period ? 0 : turn + 1;
        if (line->again[at[2]]) l->base += line->shift * m->in[2];
        else FN(fill_list)(k, at, m->in, shares, l);
        const REAL *a = m->a + l->base;
        const int32_t *b = m->b ? m->b + l->base : NULL;
        int64_t c = 0;
        for (; c + V <= m->channels; c += V)
            variant(l, a + c, b ? b + c : NULL, m->y + out + c, m->z ? m->z + out + c : NULL, V);
        if (c < m->channels)
            variant(l, a + c, b ? b + c : NULL, m->y + out + c, m->z ? m->z + out + c : NULL, m->channels - c);
    }
}

/* [channels][pixels] to [pixels][BLOCK] and back. V x V elements at a time in registers, the rest one by one. */
static void FN(real_in)(REAL *to, const REAL *from, int64_t pixels, int64_t channels) {
    const int64_t even_p = pixels - pixels % V, even_c = channels - channels % V;
    for (int64_t c = 0; c < even_c; c += V)
        for (int64_t p = 0; p < even_p; p += V) FN(transpose)(to + p * BLOCK + c, BLOCK, from + c * pixels + p, pixels);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t p = c < even_c ? even_p : 0; p < pixels; p++) to[p * BLOCK + c] = from[c * pixels + p];
}

static void FN(real_out)(REAL *to, const REAL *from, int64_t pixels, int64_t channels) {
    const int64_t even_p = pixels - pixels % V, even_c = channels - channels % V;
    for (int64_t c = 0; c < even_c; c += V)
        for (int64_t p = 0; p < even_p; p += V) FN(transpose)(to + c * pixels + p, pixels, from + p * BLOCK + c, BLOCK);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t p = c < even_c ? even_p : 0; p < pixels; p++) to[c * pixels + p] = from[p * BLOCK + c];
}

/* The same for winners; a float's transpose moves any four bytes. */
static void FN(winner_in)(int32_t *to, const int32_t *from, int64_t pixels, int64_t channels) {
#if REAL_IS_FLOAT
    FN(real_in)((REAL *)to, (const REAL *)from, pixels, channels);
#else
    for (int64_t p0 = 0; p0 < pixels; p0 += 16)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t p = p0; p < MIN(p0 + 16, pixels); p++) to[p * BLOCK + c] = from[c * pixels + p];
#endif
}

static void FN(winner_out)(int32_t *to, const int32_t *from, int64_t pixels, int64_t channels) {
#if REAL_IS_FLOAT
    FN(real_out)((REAL *)to, (const REAL *)from, pixels, channels);
#else
    for (int64_t p0 = 0; p0 < pixels; p0 += 16)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t p = p0; p < MIN(p0 + 16, pixels); p++) to[c * pixels + p] = from[p * BLOCK + c];
#endif
}

/* One call: the maps, and how its work is cut. `a`, `y` are maps of REAL, `b`, `z` their int32 companions or NULL. */
#define pool_job FN(cc_pool_job)
typedef struct {
    pool_walk walk;
    cc_in y, z, a, b;
    int last; /* channels last: a task is a row of an image; else it is a block of channels of an image */
    int64_t tasks, rows, blocks, ins, outs, list_bytes, own_bytes, bytes;
    char *own; /* per thread: lists, then the transposed blocks */
} pool_job;

static pool_job FN(plan)(cc_in y, cc_in z, cc_in a, cc_in b, const cc_window *w, int backward,
                         int64_t count_include_pad, void *scratch) {
    cc_arena arena = {scratch, 0};
    pool_job j = {FN(start_walk)(w, backward, count_include_pad, &arena), y, z, a, b};
    const int64_t entry = 2 * sizeof(int64_t) + sizeof(REAL), period = j.walk.axis[2].period;
    j.ins = a->shape[2] * a->shape[3] * a->shape[4];
    j.outs = y->shape[2] * y->shape[3] * y->shape[4];
    /* Both, since a contiguous map of one pixel has the channel's stride 1 as well. */
    j.last = (y->stride[1] == 1 && a->stride[1] == 1) || y->shape[1] == 1;
    j.rows = j.walk.size[0] * j.walk.size[1];
    j.blocks = cc_ceil_div(y->shape[1], BLOCK);
    j.tasks = y->shape[0] * (j.last ? j.rows : j.blocks);
    j.list_bytes = cc_round_up(period * (j.walk.most * entry + (int64_t)sizeof(pool_list)), 64);
    j.own_bytes = j.list_bytes;
    if (!j.last) j.own_bytes += cc_round_up((j.ins + j.outs) * BLOCK * (int64_t)(sizeof(REAL) + sizeof(int32_t)), 64);
    j.own = cc_take(&arena, j.own_bytes * cc_threads);
    j.bytes = arena.used;
    return j;
}

static pool_list *FN(thread_lists)(const pool_job *j, char *own) {
    const int64_t period = j->walk.axis[2].period, most = j->walk.most;
    pool_list *lists = (pool_list *)own;
    int64_t *pairs = (int64_t *)(lists + period);
    REAL *shares = (REAL *)(pairs + 2 * period * most);
    for (int64_t i = 0; i < period; i++)
        lists[i] = (pool_list){0, 0, pairs + 2 * i * most, pairs + (2 * i + 1) * most, shares + i * most};
    return lists;
}

INLINE void FN(run_task)(const pool_job *j, int64_t task, int shares, pool_fn *variant) {
    char *own = j->own + j->own_bytes * cc_thread();
    pool_list *lists = FN(thread_lists)(j, own);
    const int64_t i = task / (j->last ? j->rows : j->blocks);
    const REAL *a = (const REAL *)j->a->data + i * j->a->stride[0];
    const int32_t *b = j->b ? (const int32_t *)j->b->data + i * j->b->stride[0] : NULL;
    REAL *y = (REAL *)j->y->data + i * j->y->stride[0];
    int32_t *z = j->z ? (int32_t *)j->z->data + i * j->z->stride[0] : NULL;
    const int64_t *in = j->a->stride + 2, *out = j->y->stride + 2;
    if (j->last) {
        pool_maps m = {j->y->shape[1], {in[0], in[1], in[2]}, {out[0], out[1], out[2]}, a, b, y, z};
        FN(walk_row)(&j->walk, &m, task % j->rows, shares, lists, variant);
        return;
    }
    const int64_t c = task % j->blocks * BLOCK, channels = MIN(BLOCK, j->y->shape[1] - c);
    REAL *a_block = (REAL *)(own + j->list_bytes), *y_block = a_block + j->ins * BLOCK;
    int32_t *b_block = (int32_t *)(y_block + j->outs * BLOCK), *z_block = b_block + j->ins * BLOCK;
    FN(real_in)(a_block, a + c * j->ins, j->ins, channels);
    if (b) FN(winner_in)(b_block, b + c * j->ins, j->ins, channels);
    pool_maps m = {channels,
                   {in[0] * BLOCK, in[1] * BLOCK, in[2] * BLOCK},
                   {out[0] * BLOCK, out[1] * BLOCK, out[2] * BLOCK},
                   a_block, b ? b_block : NULL, y_block, z ? z_block : NULL};
    for (int64_t row = 0; row < j->rows; row++) FN(walk_row)(&j->walk, &m, row, shares, lists, variant);
    FN(real_out)(y + c * j->outs, y_block, j->outs, channels);
    if (z) FN(winner_out)(z + c * j->outs, z_block, j->outs, channels);
}

/* --- the ops: each repeats the parallel loop, so that its variant is inlined into it --------------------------------- */

int64_t FN(max_pool_forward)(cc_out y, cc_out winner, cc_in x, const cc_max_pool *p, void *scratch) {
    const pool_job job = FN(plan)(y, winner, x, NULL, &p->window, 0, 0, scratch);
    if (!scratch) return job.bytes;
    PARALLEL_FOR
    for (int64_t task = 0; task < job.tasks; task++) FN(run_task)(&job, task, 0, FN(reduce_max));
    return 0;
}

int64_t FN(max_pool_backward)(cc_out dx, cc_in dy, cc_in winner, const cc_max_pool *p, void *scratch) {
    const pool_job job = FN(plan)(dx, NULL, dy, winner, &p->window, 1, 0, scratch);
    if (!scratch) return job.bytes;
    PARALLEL_FOR
    for (int64_t task = 0; task < job.tasks; task++) FN(run_task)(&job, task, 0, FN(spread_max));
    return 0;
}

int64_t FN(avg_pool_forward)(cc_out y, cc_in x, const cc_avg_pool *p, void *scratch) {
    const pool_job job = FN(plan)(y, NULL, x, NULL, &p->window, 0, p->count_include_pad, scratch);
    if (!scratch) return job.bytes;
    PARALLEL_FOR
    for (int64_t task = 0; task < job.tasks; task++) FN(run_task)(&job, task, 1, FN(reduce_avg));
    return 0;
}

int64_t FN(avg_pool_backward)(cc_out dx, cc_in dy, const cc_avg_pool *p, void *scratch) {
    const pool_job job = FN(plan)(dx, NULL, dy, NULL, &p->window, 1, p->count_include_pad, scratch);
    if (!scratch) return job.bytes;
    PARALLEL_FOR
    for (int64_t task = 0; task < job.tasks; task++) FN(run_task)(&job, task, 1, FN(spread_avg));
    return 0;
}
#endif
