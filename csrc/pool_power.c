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
 * Multiples of 1/2 up to 4 are products and a square root. Which one is wanted is decided once per pixel, so that no loop
 * asks. */

#ifndef POOL_POWER_H
#define POOL_POWER_H
enum { MOST_HALVES = 8, ANY_POWER };

static int halves_of(double e) {
    return e >= 0 && e <= MOST_HALVES / 2 && 2 * e == (int)(2 * e) ? (int)(2 * e) : ANY_POWER;
}

/* A variant that takes powers to e: `one(..., halves)`, as a constant wherever it is worth it. */
#define EACH_VECTOR_AT_POWER(one, e)                                                                                \
    const int halves = halves_of(e);                                                                                \
    int64_t c = 0;                                                                                                  \
    switch (halves) {                                                                                               \
    case 0: FULL_VECTORS(one, 0) break;                                                                             \
    case 1: FULL_VECTORS(one, 1) break;                                                                             \
    case 2: FULL_VECTORS(one, 2) break;                                                                             \
    case 3: FULL_VECTORS(one, 3) break;                                                                             \
    case 4: FULL_VECTORS(one, 4) break;                                                                             \
    case 5: FULL_VECTORS(one, 5) break;                                                                             \
    case 6: FULL_VECTORS(one, 6) break;                                                                             \
    case 7: FULL_VECTORS(one, 7) break;                                                                             \
    case 8: FULL_VECTORS(one, 8) break;                                                                             \
    default: FULL_VECTORS(one, ANY_POWER)                                                                           \
    }                                                                                                               \
    REST(one, halves)
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

/* The largest `of` the window's elements; a NaN beats every number. `of` gives no negative number and no NaN with a sign,
 * so that its bits, as integers, are in the same order. */
INLINE vec FN(largest)(const pool_list *l, const pool_maps *m, vec of(vec), int64_t lanes) {
    ivec best = {0};
    for (int64_t i = 0; i < l->count; i++) {
        const ivec v = (ivec)of(FN(load_n)(m->in[0] + l->at[i], lanes));
#if REAL_IS_FLOAT
        UNROLL for (int j = 0; j < V; j++) best[j] = v[j] > best[j] ? v[j] : best[j]; /* one instruction */
#else
        best = FN(iselect)(v > best, v, best);
#endif
    }
    return (vec)best;
}

/* The same, and the tap of the first of the largest. */
INLINE vec FN(peak)(const pool_list *l, const pool_maps *m, vec of(vec), ivec *won, int64_t lanes) {
    vec best = of(FN(load_n)(m->in[0] + l->at[0], lanes));
    *won = (ivec){0} + (INT)l->tap[0];
    for (int64_t i = 1; i < l->count; i++) {
        const vec v = of(FN(load_n)(m->in[0] + l->at[i], lanes));
        const ivec better = ~(v <= best) & (best == best);
        best = FN(select)(better, v, best);
        *won = FN(iselect)(better, (ivec){0} + (INT)l->tap[i], *won);
    }
    return best;
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

INLINE void FN(reduce_lp_one)(const pool_list *l, const pool_maps *m, const void *p, int64_t lanes, int halves) {
    const double e = *(const double *)p;
    const vec best = FN(largest)(l, m, FN(magnitude), lanes);
    const window_unit unit = FN(unit)(best);
    vec sum = {0};
    for (int64_t i = 0; i < l->count; i++) {
        const vec a = FN(magnitude)(FN(load_n)(m->in[0] + l->at[i], lanes));
        sum += l->share[i] * FN(power)(a * unit.step * unit.inverse, e, halves);
    }
    FN(store_n)(m->out[0], FN(select)(FN(is_number)(best), best * FN(root)(sum, e, halves), best), lanes);
}

static void FN(reduce_lp)(const pool_list *l, const pool_maps *m, int64_t here, const void *p, int64_t channels) {
    EACH_VECTOR_AT_POWER(FN(reduce_lp_one), *(const double *)p)
}

/* in: dy, y; here: x. `halves` is p - 1. */
INLINE void FN(spread_lp_one)(const pool_list *l, const pool_maps *m, const void *p, int64_t lanes, int halves) {
    const vec x = FN(load_n)(m->here, lanes), a = FN(magnitude)(x);
    vec sum = {0};
    for (int64_t i = 0; i < l->count; i++) {
        const vec y = FN(load_n)(m->in[1] + l->at[i], lanes), dy = FN(load_n)(m->in[0] + l->at[i], lanes);
        const vec slope = FN(power)(a / y, *(const double *)p - 1, halves);
        sum += FN(select)(y == 0, (vec){0}, l->share[i] * dy * slope);
    }
    FN(store_n)(m->out[0], FN(sign)(x) * sum, lanes);
}

static void FN(spread_lp)(const pool_list *l, const pool_maps *m, int64_t here, const void *p, int64_t channels) {
    EACH_VECTOR_AT_POWER(FN(spread_lp_one), *(const double *)p - 1)
}

/* p = inf */
INLINE void FN(reduce_peak_one)(const pool_list *l, const pool_maps *m, const void *p, int64_t lanes) {
    ivec won;
    FN(store_n)(m->out[0], FN(peak)(l, m, FN(magnitude), &won, lanes), lanes);
    FN(store_winner)(m->choice, won, lanes);
}
VARIANT(reduce_peak)

/* in: dy; chosen: winner; here: x. */
INLINE void FN(spread_peak_one)(const pool_list *l, const pool_maps *m, const void *p, int64_t lanes) {
    const vec x = FN(load_n)(m->here, lanes);
    FN(spread_winner_one)(l, m, p, lanes);
    FN(store_n)(m->out[0], FN(sign)(x) * FN(load_n)(m->out[0], lanes), lanes);
}
VARIANT(spread_peak)

/* --- expectation_pool ------------------------------------------------------------------------------------------- */

INLINE void FN(reduce_expectation_one)(const pool_list *l, const pool_maps *m, const void *p, int64_t lanes,
                                       int halves) {
    const double e = *(const double *)p;
    const vec best = FN(largest)(l, m, FN(positive), lanes), most = FN(splat)((REAL)INFINITY);
    const window_unit unit = FN(unit)(best);
    const ivec number = FN(is_number)(best);
    vec total = {0}, sum = {0};
    for (int64_t i = 0; i < l->count; i++) {
        const vec r = FN(positive)(FN(load_n)(m->in[0] + l->at[i], lanes)) * unit.step * unit.inverse;
        const vec w = FN(power)(r, e, halves);
        total += w;
        sum += w * r;
    }
    const vec share = sum / total;
    FN(store_n)(m->out[0], FN(select)(number, best * share, best), lanes);
    FN(store_n)(m->out[1], FN(select)(number, total / FN(power)(share, e, halves), most), lanes);
}

static void FN(reduce_expectation)(const pool_list *l, const pool_maps *m, int64_t here, const void *p,
                                   int64_t channels) {
    EACH_VECTOR_AT_POWER(FN(reduce_expectation_one), *(const double *)p)
}

/* in: dy, y, total; here: x. With r = a / y, (power + 1) r^power - power r^(power-1); `halves` is power - 1. */
INLINE void FN(spread_expectation_one)(const pool_list *l, const pool_maps *m, const void *p, int64_t lanes,
                                       int halves) {
    const double e = *(const double *)p;
    const vec x = FN(load_n)(m->here, lanes), a = FN(positive)(x);
    vec sum = {0};
    for (int64_t i = 0; i < l->count; i++) {
        const vec y = FN(load_n)(m->in[1] + l->at[i], lanes), r = a / y;
        const vec share = FN(load_n)(m->in[0] + l->at[i], lanes) / FN(load_n)(m->in[2] + l->at[i], lanes);
        const vec slope = FN(power)(r, e - 1, halves) * ((REAL)(e + 1) * r - (REAL)e);
        sum += FN(select)(y == 0, (vec){0}, slope * share);
    }
    FN(store_n)(m->out[0], FN(select)(x <= 0, (vec){0}, sum), lanes);
}

static void FN(spread_expectation)(const pool_list *l, const pool_maps *m, int64_t here, const void *p,
                                   int64_t channels) {
    EACH_VECTOR_AT_POWER(FN(spread_expectation_one), *(const double *)p - 1)
}

/* --- entropy_pool: `share` holds 1 / n -------------------------------------------------------------------------- */

INLINE void FN(reduce_entropy_one)(const pool_list *l, const pool_maps *m, const void *p, int64_t lanes) {
    ivec won;
    const vec best = FN(peak)(l, m, FN(positive), &won, lanes);
    const window_unit unit = FN(unit)(best);
    const ivec number = FN(is_number)(best);
    vec mean = {0};
    for (int64_t i = 0; i < l->count; i++)
        mean += l->share[i] * (FN(positive)(FN(load_n)(m->in[0] + l->at[i], lanes)) * unit.step * unit.inverse);
    const vec ratio = 1 / mean;
    FN(store_n)(m->out[0], FN(select)(number, best * ratio, best), lanes);
    FN(store_n)(m->out[1], FN(select)(number, ratio, (vec){0}), lanes);
    FN(store_winner)(m->choice, FN(iselect)(best == 0, (ivec){0} - 1, won), lanes);
}
VARIANT(reduce_entropy)

/* in: dy, ratio; chosen: winner; here: x. */
INLINE void FN(spread_entropy_one)(const pool_list *l, const pool_maps *m, const void *p, int64_t lanes) {
    const vec x = FN(load_n)(m->here, lanes);
    vec sum = {0};
    for (int64_t i = 0; i < l->count; i++) {
        const vec dy = FN(load_n)(m->in[0] + l->at[i], lanes), ratio = FN(load_n)(m->in[1] + l->at[i], lanes);
        const ivec won = FN(load_winner)(m->chosen + l->at[i], lanes) == (ivec){0} + (INT)l->tap[i];
        sum += FN(select)(won, 2 * ratio * dy, (vec){0}) - ratio * ratio * l->share[i] * dy;
    }
    FN(store_n)(m->out[0], FN(select)(x <= 0, (vec){0}, sum), lanes);
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
