/* stochastic_pool: draws one element of every window. Backward gives the gradient to the element that was drawn.
 *
 * A draw must choose the same element on every backend. Its definition is sums in double of a / max a, in which no
 * product is fused with a sum (so this file turns fusing off). For double maps these sums are computed (`draw`). For
 * float maps the choice is first made with float sums of a itself (`choose`). Where rounding could have changed the
 * choice in one lane, its group of lanes is drawn again by `draw`.
 *
 *   v1  all draws in double
 *   v2  float first: forward takes 0.45 of the time with 2x2 windows, 0.38 with 3x3, 0.41 with 3x3 and power 2
 *   v3  power 3 by vmath.h's pow: 0.66 of the time; without the powers of 0: 0.36
 *   v4  uniforms drawn in half the cycles (philox.h) and transposed straight into their array: 0.85
 *
 * Measurements: docs/kernels/pool.md. */
#ifndef __clang__
#pragma GCC optimize("fp-contract=off")
#endif
#include "twice.h"
#ifdef __clang__ /* after simd.h, which turns fusing on */
#pragma STDC FP_CONTRACT OFF
#endif

#ifdef REAL
#include "channels_last.h"
#include "philox.h"
#include "pool.h"
#include "pool_walk.h"
#include "vmath.h"

#ifndef POOL_DRAW_H
#define POOL_DRAW_H
#define W (CC_VECTOR_BYTES / 8)
#define MOST_CHOICES 64 /* longer lists are drawn in double at once: too many vectors would have a lane in doubt */
typedef double wide __attribute__((vector_size(CC_VECTOR_BYTES)));
typedef int64_t wide_mask __attribute__((vector_size(CC_VECTOR_BYTES)));

INLINE wide wide_select(wide_mask mask, wide a, wide b) { return (wide)((mask & (wide_mask)a) | (~mask & (wide_mask)b)); }

INLINE wide positive(wide v) { return wide_select(v <= 0, (wide){0}, v); } /* NaN stays */

INLINE wide weigh(wide r, double power) {
    if (power == 1) return r;
    if (power == 2) return r * r;
    for (int j = 0; j < W; j++) r[j] = pow(r[j], power);
    return r;
}
#endif

/* W channels as doubles. Lanes from `lanes` on are 0. */
INLINE wide FN(widen)(const REAL *x, int64_t lanes) {
    wide v = {0};
    if (lanes == W) { /* a constant number of lanes is one instruction */
        UNROLL for (int j = 0; j < W; j++) v[j] = x[j];
    } else
        for (int j = 0; j < lanes; j++) v[j] = x[j];
    return v;
}

/* A channel whose window holds a NaN or an Inf is not drawn: y is the first NaN, or else the first Inf. */
static void FN(first_odd)(const pool_list *l, const REAL *x, REAL *y, int32_t *winner) {
    int64_t first = -1;
    for (int64_t i = 0; i < l->count; i++) {
        const REAL v = x[l->at[i]];
        const int nan = v != v;
        if (nan || (v == (REAL)INFINITY && first < 0)) first = i;
        if (nan) break;
    }
    *y = x[l->at[first]];
    *winner = (int32_t)(l->tap[first] + l->turn);
}

/* Draws for W channels from c on. here: u. */
INLINE void FN(draw)(const pool_list *l, const pool_maps *m, double power, int64_t c, int64_t lanes) {
    const REAL *x = m->in[0] + c;
    wide *weight = l->room, best = {0}, total = {0}, running = {0}, y = {0};
    for (int64_t i = 0; i < l->count; i++) {
        const wide a = FN(widen)(x + l->at[i], lanes);
        best = wide_select(a > best, a, best);
    }
    const wide largest = wide_select(best == 0, best + 1, best);
    for (int64_t i = 0; i < l->count; i++) {
        weight[i] = weigh(positive(FN(widen)(x + l->at[i], lanes)) / largest, power);
        total += weight[i];
    }
    const wide limit = FN(widen)(m->here + c, lanes) * total;
    wide_mask open = (wide_mask){0} - 1, won = (wide_mask){0} - 1; /* open: lanes whose sum has not passed the limit */
    for (int64_t i = 0; i < l->count; i++) {
        const wide_mask take = open & (weight[i] > 0); /* the last positive element before the sum passes the limit */
        y = wide_select(take, FN(widen)(x + l->at[i], lanes), y);
        won = (take & ((wide_mask){0} + (l->tap[i] + l->turn))) | (~take & won);
        running += weight[i];
        open &= ~(running > limit);
    }
    for (int j = 0; j < lanes; j++) {
        m->out[0][c + j] = (REAL)y[j];
        m->choice[0][c + j] = (int32_t)won[j];
        if (total[j] != total[j]) FN(first_odd)(l, x + j, m->out[0] + c + j, m->choice[0] + c + j);
    }
}

#if REAL_IS_FLOAT
#define LEAST 0x1p-90f /* in a smaller total, terms that vanished may matter */
/* weight[i] = (a / best)^power. Returns a bound of its error, in roundings. */
static double FN(weigh_room)(const pool_list *l, const REAL *x, int64_t lanes, double power) {
    vec *weight = l->room, best = {0};
    for (int64_t i = 0; i < l->count; i++) {
        weight[i] = FN(rectify)(FN(load_n)(x + l->at[i], lanes));
        best = FN(select)(weight[i] > best, weight[i], best);
    }
    const vec inverse = 1 / best;
    for (int64_t i = 0; i < l->count; i++) { /* no power of 0 is taken: it would pass subnormals, which are slow */
        const ivec some = ~(weight[i] <= 0);
        const vec r = FN(select)(some, weight[i] * inverse, FN(splat)(1));
        weight[i] = (vec)((ivec)FN(pow)(r, FN(splat)((REAL)power)) & some);
    }
    return 4 * power + 8;
}

INLINE ivec FN(lower)(ivec a, ivec b) {
    UNROLL for (int j = 0; j < V; j++) a[j] = b[j] < a[j] ? b[j] : a[j]; /* one instruction */
    return a;
}

/* The choice from float weights. It is certain where every running sum is farther from the limit than rounding can have
 * moved it. A sum of n weights errs by n / 2 units in the last place, squares add half a unit, and the limit adds
 * another half and the error of its own sum. A vector with a lane in doubt or out of range is drawn again in double. */
ONE(choose, const int squared, const int any_power) {
    const double power = *(const double *)p;
    const double units = (double)l->count + 8 + (any_power ? FN(weigh_room)(l, m->in[0] + c, lanes, power) : 0);
    const vec *weight = l->room;
#define WEIGHT(i, v) (any_power ? weight[i] : squared ? FN(rectify)(v) * FN(rectify)(v) : FN(rectify)(v))
    vec total[VECTORS] = {{0}}, past[VECTORS], y[VECTORS] = {{0}};
    ivec seen[VECTORS] = {{0}}, won[VECTORS] = {{0}}, near[VECTORS], doubt = {0};
    for (int64_t i = 0; i < l->count; i++) EACH_VECTOR {
        const vec v = ELEMENT(0, i);
        if (squared) seen[u] |= ~(v <= 0);
        total[u] += WEIGHT(i, v);
    }
    EACH_VECTOR past[u] = -(HERE * total[u]), near[u] = (ivec)total[u]; /* past: the running sum minus the limit */
    for (int64_t i = 0; i < l->count; i++) EACH_VECTOR {
        const vec v = ELEMENT(0, i);
        const ivec open = (ivec)past[u] < 0;
        y[u] = FN(select)(open, v, y[u]);
        won[u] = FN(iselect)(open, TAP(i), won[u]);
        past[u] += WEIGHT(i, v);
        near[u] = FN(lower)(near[u], (ivec)FN(magnitude)(past[u]));
    }
    EACH_VECTOR {
        const ivec any = squared ? seen[u] : total[u] != 0, in_range = (total[u] >= LEAST) & (total[u] < (REAL)INFINITY);
        PUT(0, (vec)((ivec)y[u] & any));
        CHOOSE(0, won[u] | ~any); /* -1 where no element is positive */
        doubt |= any & ~(in_range & ((vec)near[u] > total[u] * (REAL)(units * 0x1p-23)));
    }
    const int64_t end = c + (n - 1) * V + MIN(lanes, V);
    for (int64_t again = FN(any)(doubt) ? c : end; again < end; again += W) FN(draw)(l, m, power, again, MIN(W, end - again));
}
#endif

#define DRAW_REST                                                                                                   \
    for (; c + W <= channels; c += W) FN(draw)(l, m, power, c, W);                                                  \
    if (c < channels) FN(draw)(l, m, power, c, channels - c);

static void FN(reduce_stochastic)(const pool_row *row, const void *p) {
    const double power = *(const double *)p;
#if REAL_IS_FLOAT
    if (power == 1) {
        EACH_PIXEL(if (l->count <= MOST_CHOICES) GROUPS(choose, PAIR, 0, 0) DRAW_REST)
    } else if (power == 2) {
        EACH_PIXEL(if (l->count <= MOST_CHOICES) GROUPS(choose, PAIR, 1, 0) DRAW_REST)
    } else {
        EACH_PIXEL(if (l->count <= MOST_CHOICES) GROUPS(choose, 1, 0, 1) DRAW_REST)
    }
#else
    EACH_PIXEL(DRAW_REST)
#endif
}

VARIANT(spread_winner)
DEEP_VARIANT(spread_winner)

int64_t FN(stochastic_pool_forward)(cc_out y, cc_out winner, cc_in x, cc_in u, const cc_stochastic_pool *p,
                                    void *scratch) {
    cc_arena arena = {scratch, 0};
    const map_draw draw = FN(map_draw_of)(u);
    const int64_t own = FN(map_draw_bytes)(&draw);
    cc_tensor drawn = *u;
    if (!u->data) {
        char *pieces = cc_take(&arena, own * cc_threads);
        drawn.data = cc_take(&arena, cc_count(u) * (int64_t)sizeof(REAL));
        if (scratch) {
            PARALLEL_TASKS(task, draw.pieces)
                FN(draw_piece)(&draw, task, drawn.data, pieces + own * cc_thread());
        }
    }
    const pool_tensors t = {.in = {x}, .here = &drawn, .out = {y}, .choice = {winner}};
    const int64_t wanted = FN(pool)(t, &p->window, (walk_kind){.room = sizeof(wide)}, FN(reduce_stochastic), &p->power,
                                    scratch ? arena.base + arena.used : NULL);
    return wanted ? arena.used + wanted : 0;
}

int64_t FN(stochastic_pool_backward)(cc_out dx, cc_in dy, cc_in winner, const cc_stochastic_pool *p, void *scratch) {
    POOL(AS(.in = {dy}, .chosen = {winner}, .out = {dx}, .deep = FN(spread_winner_deep)), AS(.backward = 1),
         FN(spread_winner), NULL)
}
#endif
