/* maxout: over the pieces at every position, then over windows by max_pool (pool.c), where there are windows.
 *
 * A vector holds V groups of pieces. Contiguous maps are walked plane by plane, `pieces` planes at once and RUN
 * positions at a time; of channels-last maps, a row of pixels is walked map by map, and vectors are gathered.
 *
 * The limit is memory: x is read once, y and the winners are written once, backward the reverse. With 2 pieces,
 * winners of 4 bytes are a quarter of that, and are fetched before they are written. With winners of one byte, chosen in
 * registers instead of in passes over y, forward is 1.2 (contiguous, 2 pieces) to 1.5 (4) times as fast, backward 1.2. */
#include "twice.h"

#ifdef REAL

#ifndef UNITS_H
#define UNITS_H
#define RUN 512

/* How x's maps become groups of `pieces`: `rows` rows of `length` groups; in x, the pieces of a group are `piece` apart
 * and groups are `group` apart; a row of x is pieces times a row of the groups. */
typedef struct { int64_t rows, length, piece, group; } unit_rows;

static unit_rows rows_of(cc_in x, int64_t pieces) {
    const int64_t pixels = x->shape[2] * x->shape[3] * x->shape[4];
    if (x->stride[1] == 1) return (unit_rows){x->shape[0] * pixels, x->shape[1] / pieces, 1, pieces};
    return (unit_rows){x->shape[0] * (x->shape[1] / pieces), pixels, pixels, 1};
}

/* A map like x, with another number of channels and other memory: what a unit makes before it is pooled. */
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

INLINE void FN(largest)(REAL *y, uint8_t *won, const REAL *x, int64_t count, int64_t pieces, int64_t piece,
                        int64_t group) {
    const int64_t lanes = MIN(count, V);
    INT number[RUN]; /* widths change in loops of their own, which compilers turn into good vectors */
    for (int64_t k = 0; k < count; k += V) {
        const int64_t i = MIN(k, count - lanes); /* the last vector overlaps the one before it */
        vec best = FN(gather)(x + i * group, group, lanes);
        ivec which = {0};
        for (int64_t j = 1; j < pieces; j++) {
            const vec v = FN(gather)(x + i * group + j * piece, group, lanes);
            const ivec better = ~(v <= best) & (best == best); /* the first of equals, the first NaN */
            best = FN(select)(better, v, best);
            which = FN(iselect)(better, (ivec){0} + (INT)j, which);
        }
        FN(store_n)(y + i, best, lanes);
        FN(store_n)((REAL *)number + i, (vec)which, lanes);
    }
    for (int64_t i = 0; i < count; i++) won[i] = (uint8_t)number[i];
}

static void FN(to_winner)(REAL *restrict dx, const REAL *restrict dy, const uint8_t *restrict won, int64_t count,
                          int64_t pieces, int64_t piece, int64_t group) {
    INT number[RUN];
    for (int64_t i = 0; i < count; i++) number[i] = won[i];
    if (group == 1) {
        for (INT j = 0; j < pieces; j++)
            for (int64_t i = 0; i < count; i++) dx[i + j * piece] = number[i] == j ? dy[i] : 0;
    } else {
        for (int64_t i = 0; i < count * pieces; i++) dx[i] = 0;
        for (int64_t i = 0; i < count; i++) dx[i * group + number[i] * piece] = dy[i];
    }
}

/* Rows in runs: forward writes `m` and `won` from `x`, backward writes `x` from them. */
static void FN(walk_units)(cc_in x, cc_in m, cc_in won, int64_t pieces, int backward) {
    const unit_rows r = rows_of(x, pieces);
    const int64_t runs = cc_ceil_div(r.length, RUN), step = cc_ceil_div(16384, MIN(r.length, RUN) * pieces);
    PARALLEL_FOR
    for (int64_t t0 = 0; t0 < r.rows * runs; t0 += step)
        for (int64_t t = t0; t < MIN(t0 + step, r.rows * runs); t++) {
            const int64_t row = t / runs, first = t % runs * RUN, count = MIN(RUN, r.length - first);
            const int64_t at = row * r.length + first;
            REAL *maps = (REAL *)x->data + row * r.length * pieces + first * r.group, *one = (REAL *)m->data + at;
            uint8_t *which = (uint8_t *)won->data + at;
            if (backward) FN(to_winner)(maps, one, which, count, pieces, r.piece, r.group);
            else if (r.group == 1) FN(largest)(one, which, maps, count, pieces, r.piece, 1); /* a constant: vectors */
            else FN(largest)(one, which, maps, count, pieces, r.piece, r.group);
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
