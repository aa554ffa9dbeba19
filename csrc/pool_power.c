/* Pools of powers: lp_pool, gaussian_lp_pool, expectation_pool, entropy_pool (formulas: cnncore/ops/pool.py).
 *
 * Let m be the largest magnitude in a window. y is computed from powers of |x| / m; where m is 0, infinite or NaN, y is
 * m. Where the powers are products, they are taken of x itself first (`plain_*`). A lane whose sum overflowed, or is so
 * small that a vanished term matters, is computed again with m (`scaled_*`). So no lane's bits depend on its
 * neighbours. lp_pool is gaussian_lp_pool with other weights: 1 for every element, or 1 / n with `normalize`.
 *
 *   v1  every power is of |x| / m
 *   v2  powers of x itself, m only where it is needed: forward takes 0.81 to 0.86 of the time
 *   v3  the walk along a row (pool.h): 0.89 to 0.96
 *   v4  global pools read their list once, not three times: lp 0.71, expectation 0.68, entropy 0.90
 *   v5  backward: odd powers keep the sign of x, the power is chosen once per call; with v3, p = 4 takes 0.81
 *
 * Measurements, and what did not help: docs/kernels/pool.md. */
#include "twice.h"

#ifdef REAL
#include "pool.h"
#include "pool_walk.h"
#include "vmath.h"

INLINE vec FN(positive)(vec v) { return FN(magnitude)(FN(rectify)(v)); } /* max(0, v); NaN stays, without its sign */
INLINE vec FN(sign)(vec v) { return FN(select)(v > 0, (vec){0} + 1, FN(select)(v < 0, (vec){0} - 1, v)); }
INLINE ivec FN(is_number)(vec m) { return (m > 0) & (m < (REAL)INFINITY); }

/* --- powers ---
 * A power that is a multiple of 1/2, up to 4, is computed by products and a square root. The power is chosen once per
 * row, outside of all loops. */

#ifndef POOL_POWER_H
#define POOL_POWER_H
enum { MOST_HALVES = 8, ANY_POWER };

static int halves_of(double e) {
    return e >= 0 && e <= MOST_HALVES / 2 && 2 * e == (int)(2 * e) ? (int)(2 * e) : ANY_POWER;
}

/* The parameters `p` of a variant of powers: the exponent e, and 2 e where it is one of the chosen ones. */
typedef struct {
    double e;
    int halves;
} power;
INLINE power power_of(double e) { return (power){e, halves_of(e)}; }

/* VARIANT for a ONE(..., int halves). A POWER_CASE is a walk in which halves is a constant. For LONG lists the walk
 * takes `most` vectors at a time. Forward takes WIDE; backward divides for every element and gains nothing beyond
 * VECTORS. Every case takes a second to compile. So only float has cases, for p = 1 to 4 and for power = 1 and 2. Other
 * powers, and double, choose the power at every element. */
#define POWER_VARIANT(name, cases)                                                                                  \
    static void FN(name)(const pool_row *row, const void *p) {                                                      \
        const int halves = ((const power *)p)->halves;                                                              \
        switch (REAL_IS_FLOAT ? halves : ANY_POWER) {                                                               \
        cases                                                                                                       \
        default: {                                                                                                  \
            EACH_PIXEL(GROUPS(name, FEW, halves) while (c < channels) { REST(name, halves) c += V; })               \
        }                                                                                                           \
        }                                                                                                           \
    }
#define POWER_CASE(name, most, halves)                                                                              \
    case halves: {                                                                                                  \
        EACH_PIXEL(if (most > VECTORS && l->count > LONG) GROUPS(name, most, halves)                                \
                   GROUPS(name, VECTORS, halves) GROUPS(name, FEW, halves) GROUPS(name, 1, halves) REST(name, halves)) \
        break;                                                                                                      \
    }
#endif

/* Not inlined: in every walk it would take seconds to compile. */
OUT_OF_LINE vec FN(any_power)(vec v, double e) { return FN(pow)(v, FN(splat)((REAL)e)); }

/* v^e for v >= 0 */
INLINE vec FN(power)(vec v, double e, int halves) {
    if (halves == ANY_POWER) return FN(any_power)(v, e);
    const vec square = v * v;
    vec y = halves & 1 ? FN(square_root)(v) : FN(splat)(1);
    if (halves & 2) y *= v;
    if (halves & 4) y *= square;
    if (halves & 8) y *= square * square;
    return y;
}

/* v^(1/p) */
INLINE vec FN(root)(vec v, double p, int halves) {
    if (halves == 2) return v;
    if (halves == 4) return FN(square_root)(v);
    if (halves == 8) return FN(square_root)(FN(square_root)(v));
    return FN(any_power)(v, 1 / p);
}

/* --- a window's largest element --- */

/* The larger of two numbers, for numbers >= 0 and NaNs without a sign. Their bits, read as integers, have the same
 * order, and a NaN is above every number. */
INLINE vec FN(higher)(vec a, vec b) {
    ivec best = (ivec)a, v = (ivec)b;
#if REAL_IS_FLOAT
    UNROLL for (int j = 0; j < V; j++) best[j] = v[j] > best[j] ? v[j] : best[j]; /* one instruction */
#else
    best = FN(iselect)(v > best, v, best);
#endif
    return (vec)best;
}

/* Whether a sum of powers of x itself can be used: nothing overflowed, and terms that vanished do not matter beside
 * it. */
#define LEAST_SUM (REAL_IS_FLOAT ? (REAL)0x1p-90 : (REAL)0x1p-960)
INLINE ivec FN(in_range)(vec sum) { return (sum >= LEAST_SUM) & (sum < (REAL)INFINITY); }
/* Whether it cannot be used. A window of zeros is fine: `seen` is the OR of its bits, and only sign bits are set. */
INLINE ivec FN(odd_sum)(vec sum, ivec seen) { return ~FN(in_range)(sum) & ((vec)seen != 0); }
/* a / best is computed as a * step * inverse, so there is no division per element. `step` is a power of two. With it
 * the inverse neither overflows nor loses bits to underflow. */
#define window_unit FN(cc_window_unit)
typedef struct { vec step, inverse; } window_unit;

INLINE window_unit FN(unit)(vec best) {
    const REAL far = REAL_IS_FLOAT ? (REAL)0x1p64 : (REAL)0x1p512;
    const vec up = FN(select)(best < 1 / far, FN(splat)(far), FN(splat)(1));
    const vec step = FN(select)(best > far, FN(splat)(1 / far), up);
    return (window_unit){step, 1 / (best * step)};
}

/* --- lp_pool, gaussian_lp_pool: `share` holds the weights --------------------------------------------------------- */

/* lp of n vectors at x, for elements of any size. */
INLINE void FN(scaled_lp)(const pool_list *l, const REAL *x, const int n, int64_t lanes, double e, int halves, vec *y) {
    vec best[WIDE] = {{0}};
    window_unit unit[WIDE];
    for (int64_t i = 0; i < l->count; i++)
        EACH_VECTOR best[u] = FN(higher)(best[u], FN(magnitude)(FN(load_n)(x + l->at[i] + u * V, lanes)));
    EACH_VECTOR unit[u] = FN(unit)(best[u]);
    SUM_LIST(1, EACH_VECTOR {
        const vec r = FN(magnitude)(FN(load_n)(x + l->at[i] + u * V, lanes)) * unit[u].step * unit[u].inverse;
        sum[0][u] += l->share[i] * FN(power)(r, e, halves);
    })
    EACH_VECTOR y[u] = FN(select)(FN(is_number)(best[u]), best[u] * FN(root)(sum[0][u], e, halves), best[u]);
}

static vec FN(scaled_lp_vector)(const pool_list *l, const REAL *x, int64_t lanes, double e, int halves) {
    vec y;
    FN(scaled_lp)(l, x, 1, lanes, e, halves, &y);
    return y;
}

/* lp from powers of x itself. Only where the root is a square root or none: any other root multiplies the rounding of
 * 1 / p by the logarithm of the sum. */
INLINE void FN(plain_lp)(const pool_list *l, const REAL *x, const int n, int64_t lanes, double e, int halves, vec *y) {
    ivec seen[WIDE] = {{0}}, odd[WIDE], any = {0};
    SUM_LIST(1, {
        FN(fetch_ahead)(l, x, i, n);
        EACH_VECTOR {
            const vec v = FN(load_n)(x + l->at[i] + u * V, lanes);
            seen[u] |= (ivec)v;
            sum[0][u] += l->share[i] * FN(power)(halves == 2 ? FN(magnitude)(v) : v, e, halves);
        }
    })
    EACH_VECTOR odd[u] = FN(odd_sum)(sum[0][u], seen[u]), y[u] = FN(root)(sum[0][u], e, halves);
    EACH_VECTOR any |= odd[u];
    if (FN(any)(any))
        for (int u = 0; u < n; u++)
            y[u] = FN(select)(odd[u], FN(scaled_lp_vector)(l, x + u * V, lanes, e, halves), y[u]);
}

ONE(reduce_lp, int halves) {
    const double e = ((const power *)p)->e;
    vec y[WIDE];
    if (halves == 2 || halves == 4 || halves == 8) FN(plain_lp)(l, m->in[0] + c, n, lanes, e, halves, y);
    else FN(scaled_lp)(l, m->in[0] + c, n, lanes, e, halves, y);
    EACH_VECTOR PUT(0, y[u]);
}
POWER_VARIANT(reduce_lp,
              POWER_CASE(reduce_lp, WIDE, 2) POWER_CASE(reduce_lp, WIDE, 4)
              POWER_CASE(reduce_lp, WIDE, 6) POWER_CASE(reduce_lp, WIDE, 8))

/* in: dy, y; here: x. The power is p - 1. An odd power keeps the sign of x; otherwise the sign is multiplied in. */
ONE(spread_lp, int halves) {
    const double e = ((const power *)p)->e;
    const int odd = halves == 2 || halves == 6;
    vec x[VECTORS], sum[VECTORS] = {{0}};
    EACH_VECTOR x[u] = HERE;
    for (int64_t i = 0; i < l->count; i++) EACH_VECTOR {
        const vec y = ELEMENT(1, i), r = FN(quotient)(odd ? x[u] : FN(magnitude)(x[u]), y);
        sum[u] += l->share[i] * ELEMENT(0, i) * FN(power)(FN(select)(y == 0, (vec){0}, r), e, halves);
    }
    EACH_VECTOR PUT(0, odd ? sum[u] : FN(sign)(x[u]) * sum[u]);
}
POWER_VARIANT(spread_lp,
              POWER_CASE(spread_lp, VECTORS, 0) POWER_CASE(spread_lp, VECTORS, 2)
              POWER_CASE(spread_lp, VECTORS, 4) POWER_CASE(spread_lp, VECTORS, 6))
DEEP_VARIANT(spread_lp, ((const power *)p)->halves)

/* p = inf */
ONE(reduce_peak) {
    PEAK(FN(magnitude))
    EACH_VECTOR {
        PUT(0, best[u]);
        CHOOSE(0, won[u]);
    }
}
VARIANT(reduce_peak)

/* in: dy; chosen: winner; here: x. */
ONE(spread_peak) {
    vec sum[WIDE] = {{0}};
    for (int64_t i = 0; i < l->count; i++) EACH_VECTOR sum[u] += (vec)((ivec)ELEMENT(0, i) & WON(0, i));
    EACH_VECTOR PUT(0, FN(sign)(HERE) * sum[u]);
}
VARIANT(spread_peak)
DEEP_VARIANT(spread_peak)

/* --- expectation_pool ------------------------------------------------------------------------------------------- */

/* The expectation of n vectors at x, for elements of any size. */
INLINE void FN(scaled_expectation)(const pool_list *l, const REAL *x, const int n, int64_t lanes, double e, int halves,
                                   vec *y, vec *total) {
    vec best[WIDE] = {{0}};
    window_unit unit[WIDE];
    for (int64_t i = 0; i < l->count; i++)
        EACH_VECTOR best[u] = FN(higher)(best[u], FN(positive)(FN(load_n)(x + l->at[i] + u * V, lanes)));
    EACH_VECTOR unit[u] = FN(unit)(best[u]);
    SUM_LIST(2, EACH_VECTOR {
        const vec r = FN(positive)(FN(load_n)(x + l->at[i] + u * V, lanes)) * unit[u].step * unit[u].inverse;
        const vec w = FN(power)(r, e, halves);
        sum[0][u] += w;
        sum[1][u] += w * r;
    })
    EACH_VECTOR {
        const ivec number = FN(is_number)(best[u]);
        const vec share = FN(quotient)(sum[1][u], sum[0][u]), most = FN(splat)((REAL)INFINITY);
        y[u] = FN(select)(number, best[u] * share, best[u]);
        total[u] = FN(select)(number, FN(quotient)(sum[0][u], FN(power)(share, e, halves)), most);
    }
}

static vec FN(scaled_expectation_vector)(const pool_list *l, const REAL *x, int64_t lanes, double e, int halves,
                                         vec *total) {
    vec y;
    FN(scaled_expectation)(l, x, 1, lanes, e, halves, &y, total);
    return y;
}

INLINE void FN(plain_expectation)(const pool_list *l, const REAL *x, const int n, int64_t lanes, double e, int halves,
                                  vec *y, vec *total) {
    ivec seen[WIDE] = {{0}}, odd[WIDE], any = {0};
    SUM_LIST(2, {
        FN(fetch_ahead)(l, x, i, n);
        EACH_VECTOR {
            const vec a = FN(rectify)(FN(load_n)(x + l->at[i] + u * V, lanes)), w = FN(power)(a, e, halves);
            if (halves != 2) seen[u] |= (ivec)a;
            sum[0][u] += w;
            sum[1][u] += w * a;
        }
    })
    EACH_VECTOR { /* where sum[1] is in range, so is sum[0]: a^e > a^(e + 1), or both are at least 1 */
        if (halves == 2) seen[u] = (ivec)sum[0][u];
        odd[u] = FN(odd_sum)(sum[1][u], seen[u]);
        any |= odd[u];
        y[u] = FN(select)(sum[0][u] == 0, (vec){0}, FN(quotient)(sum[1][u], sum[0][u]));
        const vec rest = FN(quotient)(sum[0][u], FN(power)(y[u], e, halves));
        total[u] = FN(select)(sum[0][u] == 0, FN(splat)((REAL)INFINITY), rest);
    }
    if (FN(any)(any))
        for (int u = 0; u < n; u++) {
            vec scaled, y_scaled = FN(scaled_expectation_vector)(l, x + u * V, lanes, e, halves, &scaled);
            y[u] = FN(select)(odd[u], y_scaled, y[u]);
            total[u] = FN(select)(odd[u], scaled, total[u]);
        }
}

ONE(reduce_expectation, int halves) {
    const double e = ((const power *)p)->e;
    vec y[WIDE], total[WIDE];
    if (halves != ANY_POWER) FN(plain_expectation)(l, m->in[0] + c, n, lanes, e, halves, y, total);
    else FN(scaled_expectation)(l, m->in[0] + c, n, lanes, e, halves, y, total);
    EACH_VECTOR {
        PUT(0, y[u]);
        PUT(1, total[u]);
    }
}
POWER_VARIANT(reduce_expectation,
              POWER_CASE(reduce_expectation, WIDE, 2) POWER_CASE(reduce_expectation, WIDE, 4))

/* in: dy, y, total; here: x. With r = a / y the slope is (power + 1) r^power - power r^(power-1). e is power - 1. */
ONE(spread_expectation, int halves) {
    const double e = ((const power *)p)->e;
    vec a[VECTORS], sum[VECTORS] = {{0}};
    EACH_VECTOR a[u] = FN(rectify)(HERE);
    for (int64_t i = 0; i < l->count; i++) EACH_VECTOR {
        const vec y = ELEMENT(1, i), r = FN(quotient)(a[u], y), share = FN(quotient)(ELEMENT(0, i), ELEMENT(2, i));
        const vec slope = FN(power)(r, e, halves) * ((REAL)(e + 2) * r - (REAL)(e + 1));
        sum[u] += FN(select)(y == 0, (vec){0}, slope * share);
    }
    EACH_VECTOR PUT(0, FN(select)(a[u] == 0, (vec){0}, sum[u]));
}
POWER_VARIANT(spread_expectation,
              POWER_CASE(spread_expectation, VECTORS, 0) POWER_CASE(spread_expectation, VECTORS, 2))
DEEP_VARIANT(spread_expectation, ((const power *)p)->halves)

/* --- entropy_pool: `share` holds 1 / n -------------------------------------------------------------------------- */

/* One vector, for elements of any size: to[0] is y, to[1] the ratio. Returns the winners. */
static ivec FN(scaled_entropy)(const pool_list *l, const pool_maps *m, int64_t c, int64_t lanes, vec to[2]) {
    enum { n = 1, u = 0 };
    PEAK(FN(positive))
    const window_unit unit = FN(unit)(best[0]);
    const ivec number = FN(is_number)(best[0]);
    SUM_LIST(1, sum[0][0] += l->share[i] * (FN(positive)(ELEMENT(0, i)) * unit.step * unit.inverse);)
    const vec mean = sum[0][0];
    to[0] = FN(select)(number, best[0] * (1 / mean), best[0]);
    to[1] = FN(select)(number, 1 / mean, (vec){0});
    return won[0] | (best[0] == 0); /* -1 where no element is positive */
}

/* Read as integers, the bits of positive numbers have the numbers' order, and the bits of negative numbers are below
 * 0. */
ONE(reduce_entropy) {
    vec y[WIDE], ratio[WIDE];
    ivec best[WIDE] = {{0}}, won[WIDE], odd[WIDE], any = {0};
    EACH_VECTOR won[u] = (ivec){0} - 1;
    SUM_LIST(1, {
        FN(fetch_ahead)(l, m->in[0] + c, i, n);
        EACH_VECTOR {
            const vec v = ELEMENT(0, i);
            const ivec better = (ivec)v > best[u];
            sum[0][u] += FN(rectify)(v);
            won[u] = FN(iselect)(better, TAP(i), won[u]);
            best[u] = (ivec)FN(higher)((vec)best[u], v);
        }
    })
    EACH_VECTOR {
        odd[u] = FN(odd_sum)(sum[0][u], (ivec)sum[0][u]);
        ratio[u] = FN(select)(sum[0][u] == 0, (vec){0}, FN(quotient)((vec)best[u], sum[0][u] * l->share[0]));
        y[u] = (vec)best[u] * ratio[u];
        any |= odd[u];
    }
    if (FN(any)(any))
        for (int u = 0; u < n; u++) {
            vec scaled[2];
            const ivec winner = FN(scaled_entropy)(l, m, c + u * V, lanes, scaled);
            y[u] = FN(select)(odd[u], scaled[0], y[u]);
            ratio[u] = FN(select)(odd[u], scaled[1], ratio[u]);
            won[u] = FN(iselect)(odd[u], winner, won[u]);
        }
    EACH_VECTOR {
        PUT(0, y[u]);
        PUT(1, ratio[u]);
        CHOOSE(0, won[u]);
    }
}
VARIANT(reduce_entropy)

/* in: dy, ratio; chosen: winner; here: x. */
ONE(spread_entropy) {
    vec sum[WIDE] = {{0}};
    for (int64_t i = 0; i < l->count; i++) EACH_VECTOR {
        const vec dy = ELEMENT(0, i), ratio = ELEMENT(1, i);
        sum[u] += FN(select)(WON(0, i), 2 * ratio * dy, (vec){0}) - ratio * ratio * l->share[i] * dy;
    }
    EACH_VECTOR PUT(0, FN(select)(HERE <= 0, (vec){0}, sum[u]));
}
VARIANT(spread_entropy)
DEEP_VARIANT(spread_entropy)

/* --- the kernels -------------------------------------------------------------------------------------------------- */

#define MEANS(backward) AS(backward, WEIGHTS, 0, INFINITY)

int64_t FN(lp_pool_forward)(cc_out y, cc_out winner, cc_in x, const cc_lp_pool *p, void *scratch) {
    const walk_kind kind = p->normalize ? (walk_kind)MEANS(0) : (walk_kind){0, ONES};
    const pool_tensors t = {.in = {x}, .out = {y}, .choice = {isinf(p->p) ? winner : NULL}};
    const power e = power_of(p->p);
    if (isinf(p->p)) return FN(pool)(t, &p->window, kind, FN(reduce_peak), NULL, scratch);
    return FN(pool)(t, &p->window, kind, FN(reduce_lp), &e, scratch);
}

int64_t FN(lp_pool_backward)(cc_out dx, cc_in dy, cc_in x, cc_in y, cc_in winner, const cc_lp_pool *p, void *scratch) {
    const walk_kind kind = p->normalize ? (walk_kind)MEANS(1) : (walk_kind){1, ONES};
    const pool_tensors peak = {.in = {dy}, .here = x, .chosen = {winner}, .out = {dx}, .deep = FN(spread_peak_deep)};
    const pool_tensors t = {.in = {dy, y}, .here = x, .out = {dx}, .deep = FN(spread_lp_deep)};
    const power e = power_of(p->p - 1);
    if (isinf(p->p)) return FN(pool)(peak, &p->window, kind, FN(spread_peak), NULL, scratch);
    return FN(pool)(t, &p->window, kind, FN(spread_lp), &e, scratch);
}

int64_t FN(gaussian_lp_pool_forward)(cc_out y, cc_in x, const cc_gaussian_lp_pool *p, void *scratch) {
    const power e = power_of(p->p);
    POOL(AS(.in = {x}, .out = {y}), AS(0, WEIGHTS, 0, p->sigma), FN(reduce_lp), &e)
}

int64_t FN(gaussian_lp_pool_backward)(cc_out dx, cc_in dy, cc_in x, cc_in y, const cc_gaussian_lp_pool *p,
                                      void *scratch) {
    const power e = power_of(p->p - 1);
    POOL(AS(.in = {dy, y}, .here = x, .out = {dx}, .deep = FN(spread_lp_deep)), AS(1, WEIGHTS, 0, p->sigma),
         FN(spread_lp), &e)
}

int64_t FN(expectation_pool_forward)(cc_out y, cc_out total, cc_in x, const cc_expectation_pool *p, void *scratch) {
    const power e = power_of(p->power);
    POOL(AS(.in = {x}, .out = {y, total}), AS(0), FN(reduce_expectation), &e)
}

int64_t FN(expectation_pool_backward)(cc_out dx, cc_in dy, cc_in x, cc_in y, cc_in total, const cc_expectation_pool *p,
                                      void *scratch) {
    const power e = power_of(p->power - 1);
    POOL(AS(.in = {dy, y, total}, .here = x, .out = {dx}, .deep = FN(spread_expectation_deep)), AS(1),
         FN(spread_expectation), &e)
}

int64_t FN(entropy_pool_forward)(cc_out y, cc_out ratio, cc_out winner, cc_in x, const cc_entropy_pool *p,
                                 void *scratch) {
    POOL(AS(.in = {x}, .out = {y, ratio}, .choice = {winner}), MEANS(0), FN(reduce_entropy), NULL)
}

int64_t FN(entropy_pool_backward)(cc_out dx, cc_in dy, cc_in x, cc_in ratio, cc_in winner, const cc_entropy_pool *p,
                                  void *scratch) {
    POOL(AS(.in = {dy, ratio}, .here = x, .chosen = {winner}, .out = {dx}, .deep = FN(spread_entropy_deep)), MEANS(1),
         FN(spread_entropy), NULL)
}
#endif
