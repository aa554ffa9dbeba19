/* maxout: the largest of every group of pieces, at every position. Then max_pool (pool.c), where there are windows.
 *
 * A vector holds V groups of pieces. Contiguous maps are walked plane by plane: all planes of a group at once, RUN
 * positions at a time. Channels-last maps are one row of groups, whose vectors are gathered. The limit is memory.
 *
 *   v1  one vector at a time
 *   v2  four vectors at a time, half of x for each thread: forward takes 0.83 of the time (channels last 0.87)
 *   v3  dx is written by non-temporal stores: backward takes 0.63 (0.75)
 *
 * Measurements, and what did not help: docs/kernels/pool.md. */
#include "twice.h"

#ifdef REAL

#ifndef UNITS_H
#define UNITS_H
#define RUN 512 /* positions; at least as many as a group may have pieces, 256 */
#define TASK_RUNS 32
#define VECTORS 4 /* at a time: the loads of one do not wait for the comparisons of another */
#define EACH UNROLL for (int l = 0; l < vectors; l++)

/* How the maps of x are walked: `rows` rows of `length` groups, `run` groups at a time. In x the pieces of a group are
 * `piece` apart, and groups are `group` apart. A row of x is as long as `pieces` rows of groups. */
typedef struct { int64_t rows, length, piece, group, run; } unit_rows;

static unit_rows rows_of(cc_in x, int64_t pieces) {
    const int64_t pixels = x->shape[2] * x->shape[3] * x->shape[4], maps = x->shape[0] * (x->shape[1] / pieces);
    if (x->stride[1] == 1) return (unit_rows){1, maps * pixels, 1, pieces, RUN / pieces};
    return (unit_rows){maps, pixels, pixels, 1, RUN};
}

/* A map like x with one channel per group, in other memory: the result before it is pooled. */
static cc_tensor grouped(cc_in x, int64_t pieces, void *data) {
    cc_tensor m = *x;
    m.data = data;
    m.shape[1] /= pieces;
    for (int a = 0; a < 5; a++)
        if (a == 0 || x->stride[1] == 1) m.stride[a] = a == 1 ? 1 : x->stride[a] / pieces;
    return m;
}
#endif

/* n elements, `apart` from each other */
INLINE vec FN(gather)(const REAL *x, int64_t apart, int64_t n) {
    if (apart == 1) return FN(load_n)(x, n);
    vec v = {0};
    if (n == V) UNROLL for (int l = 0; l < V; l++) v[l] = x[l * apart];
    else for (int64_t l = 0; l < n; l++) v[l] = x[l * apart];
    return v;
}

/* The largest piece of every group, and the number of that piece, for `vectors` vectors of groups. */
INLINE void FN(largest)(REAL *y, INT *number, const REAL *x, const int vectors, int64_t lanes, int64_t pieces,
                        int64_t piece, int64_t group) {
    vec best[VECTORS];
    ivec which[VECTORS];
    EACH best[l] = FN(gather)(x + l * V * group, group, lanes);
    EACH which[l] = (ivec){0};
    for (int64_t j = 1; j < pieces; j++)
        EACH {
            const vec v = FN(gather)(x + l * V * group + j * piece, group, lanes);
            const ivec better = ~(v <= best[l]) & (best[l] == best[l]); /* the first of equals, the first NaN */
            best[l] = FN(select)(better, v, best[l]);
            which[l] = FN(iselect)(better, (ivec){0} + (INT)j, which[l]);
        }
    EACH FN(store_n)(y + l * V, best[l], lanes);
    EACH FN(store_n)((REAL *)number + l * V, (vec)which[l], lanes);
}

INLINE void FN(choose)(REAL *y, uint8_t *won, const REAL *x, int64_t count, int64_t pieces, int64_t piece,
                       int64_t group) {
    INT number[RUN]; /* integers change their width in a loop of their own, which compilers vectorise well */
    int64_t i = 0;
    for (; i + VECTORS * V <= count; i += VECTORS * V)
        FN(largest)(y + i, number + i, x + i * group, VECTORS, V, pieces, piece, group);
    for (; i < count; i += V) { /* the last vector overlaps the one before it */
        const int64_t at = MAX(MIN(i, count - V), 0);
        FN(largest)(y + at, number + at, x + at * group, 1, MIN(count, V), pieces, piece, group);
    }
    for (i = 0; i < count; i++) won[i] = (uint8_t)number[i];
}

static void FN(to_winner)(REAL *restrict dx, const REAL *restrict dy, const uint8_t *restrict won, int64_t count,
                          int64_t pieces, int64_t piece, int past) {
    INT number[RUN];
    for (int64_t i = 0; i < count; i++) number[i] = won[i];
    for (INT j = 0; j < pieces; j++, dx += piece) {
        int64_t i = 0;
        for (; i + V <= count; i += V)
            FN(stream)(dx + i, (vec)((ivec)FN(load)(dy + i) & ((ivec)FN(load)((REAL *)number + i) == j)), past);
        for (; i < count; i++) dx[i] = number[i] == j ? dy[i] : 0;
    }
}

/* The same for groups whose pieces lie side by side. dy is scattered into a row that stays in the first-level cache. */
static void FN(to_neighbour)(REAL *restrict dx, const REAL *restrict dy, const uint8_t *restrict won, int64_t count,
                             int64_t pieces, int past) {
    REAL row[RUN];
    int64_t i;
    for (i = 0; i < count * pieces; i += V) FN(store)(row + i, (vec){0});
    for (i = 0; i < count; i++) row[i * pieces + won[i]] = dy[i];
    for (i = 0; i + V <= count * pieces; i += V) FN(stream)(dx + i, FN(load)(row + i), past);
    for (; i < count * pieces; i++) dx[i] = row[i];
}

/* Walks the rows in runs. Forward reads x and writes m and won. Backward reads these and writes x. */
static void FN(walk_units)(cc_in x, cc_in m, cc_in won, int64_t pieces, int backward) {
    const unit_rows r = rows_of(x, pieces);
    const int64_t runs = cc_ceil_div(r.length, r.run);
    const int past = cc_past_cache(cc_count(x) * (int64_t)sizeof(REAL));
    PARALLEL_PIECES(begin, end, r.rows * runs, TASK_RUNS) {
        for (int64_t t = begin; t < end; t++) {
            const int64_t row = t / runs, first = t % runs * r.run, count = MIN(r.run, r.length - first);
            const int64_t at = row * r.length + first;
            REAL *maps = (REAL *)x->data + row * r.length * pieces + first * r.group, *one = (REAL *)m->data + at;
            uint8_t *which = (uint8_t *)won->data + at;
            if (backward && r.group == 1) FN(to_winner)(maps, one, which, count, pieces, r.piece, past);
            else if (backward) FN(to_neighbour)(maps, one, which, count, pieces, past);
            else if (r.group == 1) FN(choose)(one, which, maps, count, pieces, r.piece, 1); /* a constant: vectors */
            else FN(choose)(one, which, maps, count, pieces, r.piece, r.group);
        }
    }
}

int64_t FN(maxout_forward)(cc_out y, cc_out piece, cc_out winner, cc_in x, const cc_maxout *p, void *scratch) {
    if (!p->pooled) {
        FN(walk_units)(x, y, piece, p->pieces, 0);
        return 0;
    }
    cc_arena arena = {scratch, 0};
    const cc_max_pool pool = {p->window};
    const cc_tensor m = grouped(x, p->pieces, cc_take(&arena, cc_count(x) / p->pieces * (int64_t)sizeof(REAL)));
    if (!scratch) return arena.used + FN(max_pool_forward)(y, winner, &m, &pool, NULL);
    FN(walk_units)(x, &m, piece, p->pieces, 0);
    return FN(max_pool_forward)(y, winner, &m, &pool, arena.base + arena.used);
}

int64_t FN(maxout_backward)(cc_out dx, cc_in dy, cc_in piece, cc_in winner, const cc_maxout *p, void *scratch) {
    if (!p->pooled) {
        FN(walk_units)(dx, dy, piece, p->pieces, 1);
        return 0;
    }
    cc_arena arena = {scratch, 0};
    const cc_max_pool pool = {p->window};
    const cc_tensor dm = grouped(dx, p->pieces, cc_take(&arena, cc_count(dx) / p->pieces * (int64_t)sizeof(REAL)));
    if (!scratch) return arena.used + FN(max_pool_backward)(&dm, dy, winner, &pool, NULL);
    FN(max_pool_backward)(&dm, dy, winner, &pool, arena.base + arena.used);
    FN(walk_units)(dx, &dm, piece, p->pieces, 1);
    return 0;
}
#endif
