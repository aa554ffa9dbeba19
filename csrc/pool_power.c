/* Pools of powers: what they do with a window's list. The walk: pool.h. With m a window's largest magnitude, powers are
 * taken of |x| / m; where m is 0, infinite or NaN, y is m. See cnncore/ops/pool.py.
 *
 * lp_pool is gaussian_lp_pool with other weights: 1 for every element, or 1 / n with `normalize`. */
#include "twice.h"

#ifdef REAL
#include "pool.h"
#include "vmath.h"

INLINE vec FN(positive)(vec v) { return FN(magnitude)(FN(select)(v <= 0, (vec){0}, v)); } /* NaN stays */
INLINE vec FN(sign)(vec v) { return FN(select)(v > 0, (vec){0} + 1, FN(select)(v < 0, (vec){0} - 1, v)); }
INLINE ivec FN(is_number)(vec m) { return (m > 0) & (m < (REAL)INFINITY); }

/* --- powers ---
 * Multiples of 1/2 up to 4 are products and a square root. Which one is wanted is decided once per row, so that no loop
 * asks. */

#ifndef POOL_POWER_H
#define POOL_POWER_H
enum { MOST_HALVES = 8, ANY_POWER };

static int halves_of(double e) {
    return e >= 0 && e <= MOST_HALVES / 2 && 2 * e == (int)(2 * e) ? (int)(2 * e) : ANY_POWER;
}

/* VARIANT of a ONE(..., int halves) that takes powers to the number behind p, plus `more`: halves is a constant where
 * that is often asked for. */
#define POWER_VARIANT(name, more)                                                                                   \
    static void FN(name)(const pool_row *row, const void *p) {                                                      \
        const int halves = halves_of(*(const double *)p + (more));                                                  \
        switch (halves) {                                                                                           \
        case 0: POWER_PIXELS(name, 0) break;                                                                        \
        case 2: POWER_PIXELS(name, 2) break;                                                                        \
        case 4: POWER_PIXELS(name, 4) break;                                                                        \
        case 6: POWER_PIXELS(name, 6) break;                                                                        \
        case 8: POWER_PIXELS(name, 8) break;                                                                        \
        default: POWER_PIXELS(name, halves)                                                                         \
        }                                                                                                           \
    }
#define POWER_PIXELS(name, halves)                                                                                  \
    { EACH_PIXEL(GROUPS(name, VECTORS, halves) GROUPS(name, 1, halves) REST(name, halves)) }
#endif

/* v^e for v >= 0 */
INLINE vec FN(power)(vec v, double e, int halves) {
    if (halves == ANY_POWER) return FN(pow)(v, FN(splat)((REAL)e));
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
    return FN(pow)(v, FN(splat)((REAL)(1 / p)));
}

/* --- a window's largest element --- */

/* The larger of two, neither a negative number nor a NaN with a sign: their bits, as integers, are in the same order,
 * and a NaN beats every number. */
INLINE vec FN(higher)(vec a, vec b) {
    ivec best = (ivec)a, v = (ivec)b;
#if REAL_IS_FLOAT
    UNROLL for (int j = 0; j < V; j++) best[j] = v[j] > best[j] ? v[j] : best[j]; /* one instruction */
#else
    best = FN(iselect)(v > best, v, best);
#endif
    return (vec)best;
}

/* best[u]: the largest `of` the window's elements; PEAK: and won[u], the tap of the first of the largest. */
#define LARGEST(of)                                                                                                 \
    vec best[WIDE] = {{0}};                                                                                      \
    for (int64_t i = 0; i < l->count; i++) EACH_VECTOR best[u] = FN(higher)(best[u], FN(of)(ELEMENT(0, i)));
#define PEAK(of)                                                                                                    \
    vec best[WIDE];                                                                                              \
    ivec won[WIDE];                                                                                              \
    EACH_VECTOR best[u] = FN(of)(ELEMENT(0, 0)), won[u] = TAP(0);                                                   \
    for (int64_t i = 1; i < l->count; i++) EACH_VECTOR {                                                            \
        const vec v = FN(of)(ELEMENT(0, i));                                                                        \
        const ivec better = ~(v <= best[u]) & (best[u] == best[u]);                                                 \
        best[u] = FN(select)(better, v, best[u]);                                                                   \
        won[u] = FN(iselect)(better, TAP(i), won[u]);                                                               \
    }

/* a / best is a * step * inverse: no division per element. The step, a power of two, keeps the inverse from overflow
 * and its bits from underflow. */
#define window_unit FN(cc_window_unit)
typedef struct { vec step, inverse; } window_unit;

INLINE window_unit FN(unit)(vec best) {
    const REAL far = REAL_IS_FLOAT ? (REAL)0x1p64 : (REAL)0x1p512;
    const vec up = FN(select)(best < 1 / far, FN(splat)(far), FN(splat)(1));
    const vec step = FN(select)(best > far, FN(splat)(1 / far), up);
    return (window_unit){step, 1 / (best * step)};
}

/* --- lp_pool, gaussian_lp_pool: `share` holds the weights --------------------------------------------------------- */

ONE(reduce_lp, int halves) {
    const double e = *(const double *)p;
    LARGEST(magnitude)
    window_unit unit[WIDE];
    vec sum[WIDE] = {{0}};
    EACH_VECTOR unit[u] = FN(unit)(best[u]);
    for (int64_t i = 0; i < l->count; i++) EACH_VECTOR {
        const vec r = FN(magnitude)(ELEMENT(0, i)) * unit[u].step * unit[u].inverse;
        sum[u] += l->share[i] * FN(power)(r, e, halves);
    }
    EACH_VECTOR PUT(0, FN(select)(FN(is_number)(best[u]), best[u] * FN(root)(sum[u], e, halves), best[u]));
}
POWER_VARIANT(reduce_lp, 0)

/* in: dy, y; here: x. `halves` is p - 1. */
ONE(spread_lp, int halves) {
    vec x[WIDE], sum[WIDE] = {{0}};
    EACH_VECTOR x[u] = HERE;
    for (int64_t i = 0; i < l->count; i++) EACH_VECTOR {
        const vec y = ELEMENT(1, i), slope = FN(power)(FN(magnitude)(x[u]) / y, *(const double *)p - 1, halves);
        sum[u] += FN(select)(y == 0, (vec){0}, l->share[i] * ELEMENT(0, i) * slope);
    }
    EACH_VECTOR PUT(0, FN(sign)(x[u]) * sum[u]);
}
POWER_VARIANT(spread_lp, -1)

/* p = inf */
ONE(reduce_peak) {
    PEAK(magnitude)
    EACH_VECTOR {
        PUT(0, best[u]);
        CHOOSE(won[u]);
    }
}
VARIANT(reduce_peak)

/* in: dy; chosen: winner; here: x. */
ONE(spread_peak) {
    vec sum[WIDE] = {{0}};
    for (int64_t i = 0; i < l->count; i++) EACH_VECTOR sum[u] += (vec)((ivec)ELEMENT(0, i) & WON(i));
    EACH_VECTOR PUT(0, FN(sign)(HERE) * sum[u]);
}
VARIANT(spread_peak)

/* --- expectation_pool ------------------------------------------------------------------------------------------- */

ONE(reduce_expectation, int halves) {
    const double e = *(const double *)p;
    LARGEST(positive)
    window_unit unit[WIDE];
    vec total[WIDE] = {{0}}, sum[WIDE] = {{0}};
    EACH_VECTOR unit[u] = FN(unit)(best[u]);
    for (int64_t i = 0; i < l->count; i++) EACH_VECTOR {
        const vec r = FN(positive)(ELEMENT(0, i)) * unit[u].step * unit[u].inverse, w = FN(power)(r, e, halves);
        total[u] += w;
        sum[u] += w * r;
    }
    EACH_VECTOR {
        const ivec number = FN(is_number)(best[u]);
        const vec share = sum[u] / total[u], most = FN(splat)((REAL)INFINITY);
        PUT(0, FN(select)(number, best[u] * share, best[u]));
        PUT(1, FN(select)(number, total[u] / FN(power)(share, e, halves), most));
    }
}
POWER_VARIANT(reduce_expectation, 0)

/* in: dy, y, total; here: x. With r = a / y, (power + 1) r^power - power r^(power-1); `halves` is power - 1. */
ONE(spread_expectation, int halves) {
    const double e = *(const double *)p;
    vec a[WIDE], sum[WIDE] = {{0}};
    EACH_VECTOR a[u] = FN(positive)(HERE);
    for (int64_t i = 0; i < l->count; i++) EACH_VECTOR {
        const vec y = ELEMENT(1, i), r = a[u] / y, share = ELEMENT(0, i) / ELEMENT(2, i);
        const vec slope = FN(power)(r, e - 1, halves) * ((REAL)(e + 1) * r - (REAL)e);
        sum[u] += FN(select)(y == 0, (vec){0}, slope * share);
    }
    EACH_VECTOR PUT(0, FN(select)(a[u] == 0, (vec){0}, sum[u]));
}
POWER_VARIANT(spread_expectation, -1)

/* --- entropy_pool: `share` holds 1 / n -------------------------------------------------------------------------- */

ONE(reduce_entropy) {
    PEAK(positive)
    window_unit unit[WIDE];
    vec mean[WIDE] = {{0}};
    EACH_VECTOR unit[u] = FN(unit)(best[u]);
    for (int64_t i = 0; i < l->count; i++)
        EACH_VECTOR mean[u] += l->share[i] * (FN(positive)(ELEMENT(0, i)) * unit[u].step * unit[u].inverse);
    EACH_VECTOR {
        const ivec number = FN(is_number)(best[u]);
        const vec ratio = 1 / mean[u];
        PUT(0, FN(select)(number, best[u] * ratio, best[u]));
        PUT(1, FN(select)(number, ratio, (vec){0}));
        CHOOSE(won[u] | (best[u] == 0)); /* -1 where no element is positive */
    }
}
VARIANT(reduce_entropy)

/* in: dy, ratio; chosen: winner; here: x. */
ONE(spread_entropy) {
    vec sum[WIDE] = {{0}};
    for (int64_t i = 0; i < l->count; i++) EACH_VECTOR {
        const vec dy = ELEMENT(0, i), ratio = ELEMENT(1, i);
        sum[u] += FN(select)(WON(i), 2 * ratio * dy, (vec){0}) - ratio * ratio * l->share[i] * dy;
    }
    EACH_VECTOR PUT(0, FN(select)(HERE <= 0, (vec){0}, sum[u]));
}
VARIANT(spread_entropy)

/* --- the kernels; a variant that needs an exponent gets a pointer to it as its parameters ------------------------- */

#define MEANS(backward) AS(backward, WEIGHTS, 0, INFINITY)

int64_t FN(lp_pool_forward)(cc_out y, cc_out winner, cc_in x, const cc_lp_pool *p, void *scratch) {
    const walk_kind kind = p->normalize ? (walk_kind)MEANS(0) : (walk_kind){0, ONES};
    const pool_tensors t = {.in = {x}, .out = {y}, .choice = isinf(p->p) ? winner : NULL};
    if (isinf(p->p)) return FN(pool)(t, &p->window, kind, FN(reduce_peak), NULL, scratch);
    return FN(pool)(t, &p->window, kind, FN(reduce_lp), &p->p, scratch);
}

int64_t FN(lp_pool_backward)(cc_out dx, cc_in dy, cc_in x, cc_in y, cc_in winner, const cc_lp_pool *p, void *scratch) {
    const walk_kind kind = p->normalize ? (walk_kind)MEANS(1) : (walk_kind){1, ONES};
    const pool_tensors peak = {.in = {dy}, .here = x, .chosen = winner, .out = {dx}};
    const pool_tensors t = {.in = {dy, y}, .here = x, .out = {dx}};
    if (isinf(p->p)) return FN(pool)(peak, &p->window, kind, FN(spread_peak), NULL, scratch);
    return FN(pool)(t, &p->window, kind, FN(spread_lp), &p->p, scratch);
}

int64_t FN(gaussian_lp_pool_forward)(cc_out y, cc_in x, const cc_gaussian_lp_pool *p, void *scratch) {
    POOL(AS(.in = {x}, .out = {y}), AS(0, WEIGHTS, 0, p->sigma), FN(reduce_lp), &p->p)
}

int64_t FN(gaussian_lp_pool_backward)(cc_out dx, cc_in dy, cc_in x, cc_in y, const cc_gaussian_lp_pool *p,
                                      void *scratch) {
    POOL(AS(.in = {dy, y}, .here = x, .out = {dx}), AS(1, WEIGHTS, 0, p->sigma), FN(spread_lp), &p->p)
}

int64_t FN(expectation_pool_forward)(cc_out y, cc_out total, cc_in x, const cc_expectation_pool *p, void *scratch) {
    POOL(AS(.in = {x}, .out = {y, total}), AS(0), FN(reduce_expectation), &p->power)
}

int64_t FN(expectation_pool_backward)(cc_out dx, cc_in dy, cc_in x, cc_in y, cc_in total, const cc_expectation_pool *p,
                                      void *scratch) {
    POOL(AS(.in = {dy, y, total}, .here = x, .out = {dx}), AS(1), FN(spread_expectation), &p->power)
}

int64_t FN(entropy_pool_forward)(cc_out y, cc_out ratio, cc_out winner, cc_in x, const cc_entropy_pool *p,
                                 void *scratch) {
    POOL(AS(.in = {x}, .out = {y, ratio}, .choice = winner), MEANS(0), FN(reduce_entropy), NULL)
}

int64_t FN(entropy_pool_backward)(cc_out dx, cc_in dy, cc_in x, cc_in ratio, cc_in winner, const cc_entropy_pool *p,
                                  void *scratch) {
    POOL(AS(.in = {dy, ratio}, .here = x, .chosen = winner, .out = {dx}), MEANS(1), FN(spread_entropy), NULL)
}
#endif
