/* Pools of powers: what they do with a window's list. The walk: pool.h. With m a window's largest magnitude, powers are
 * taken of |x| / m; where m is 0, infinite or NaN, y is m. See cnncore/ops/pool.py.
 *
 * No product is fused with a sum in this file: a draw must choose the same element as on every other backend. */
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif
#include "twice.h"

#ifdef REAL
#include "pool.h"

INLINE vec FN(magnitude)(vec v) { return FN(select)(v < 0, -v, v); }
INLINE vec FN(positive)(vec v) { return FN(select)(v <= 0, (vec){0}, v); } /* NaN stays */
INLINE vec FN(sign)(vec v) { return FN(select)(v > 0, (vec){0} + 1, FN(select)(v < 0, (vec){0} - 1, v)); }
INLINE ivec FN(is_number)(vec m) { return (m > 0) & (m < (REAL)INFINITY); }

/* v^e for v >= 0, lane by lane; small whole exponents without pow. */
INLINE vec FN(power)(vec v, double e) {
    const vec square = v * v;
    if (e == 0) return (vec){0} + 1;
    if (e == 1) return v;
    if (e == 2) return square;
    if (e == 3) return square * v;
    if (e == 4) return square * square;
    for (int i = 0; i < V; i++) v[i] = REAL_IS_FLOAT ? powf(v[i], (float)e) : pow(v[i], e);
    return v;
}

INLINE vec FN(square_root)(vec v) {
    for (int i = 0; i < V; i++) v[i] = REAL_IS_FLOAT ? sqrtf(v[i]) : sqrt(v[i]);
    return v;
}

INLINE vec FN(root)(vec v, double p) {
    if (p == 2) return FN(square_root)(v);
    if (p == 4) return FN(square_root)(FN(square_root)(v));
    return FN(power)(v, 1 / p);
}

/* The largest `of` the window's elements; a NaN beats every number. `won`: the tap of the first of the largest. */
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

/* --- lp_pool ---------------------------------------------------------------------------------------------------- */

INLINE void FN(reduce_lp)(const pool_list *l, const pool_maps *m, const void *params, int64_t lanes) {
    const cc_lp_pool *p = params;
    ivec won;
    const vec best = FN(peak)(l, m, FN(magnitude), &won, lanes);
    if (isinf(p->p)) {
        FN(store_n)(m->out[0], best, lanes);
        FN(store_winner)(m->choice, won, lanes);
        return;
    }
    vec sum = {0};
    for (int64_t i = 0; i < l->count; i++)
        sum += FN(power)(FN(magnitude)(FN(load_n)(m->in[0] + l->at[i], lanes)) / best, p->p);
    if (p->normalize) sum /= l->share[0];
    FN(store_n)(m->out[0], FN(select)(FN(is_number)(best), best * FN(root)(sum, p->p), best), lanes);
}

/* in: dy, y; here: x. */
INLINE void FN(spread_lp)(const pool_list *l, const pool_maps *m, const void *params, int64_t lanes) {
    const cc_lp_pool *p = params;
    const vec x = FN(load_n)(m->here, lanes), a = FN(magnitude)(x);
    vec sum = {0};
    for (int64_t i = 0; i < l->count; i++) {
        vec share = FN(load_n)(m->in[0] + l->at[i], lanes);
        if (isinf(p->p)) {
            const ivec won = FN(load_winner)(m->chosen + l->at[i], lanes) == (ivec){0} + (INT)l->tap[i];
            sum += (vec)((ivec)share & won);
            continue;
        }
        const vec y = FN(load_n)(m->in[1] + l->at[i], lanes);
        if (p->normalize) share /= l->share[i];
        sum += FN(select)(y == 0, (vec){0}, share * FN(power)(a / y, p->p - 1));
    }
    FN(store_n)(m->out[0], FN(sign)(x) * sum, lanes);
}

/* --- gaussian_lp_pool: `share` holds the envelope's weights ------------------------------------------------------- */

INLINE void FN(reduce_gaussian)(const pool_list *l, const pool_maps *m, const void *params, int64_t lanes) {
    const cc_gaussian_lp_pool *p = params;
    ivec won;
    const vec best = FN(peak)(l, m, FN(magnitude), &won, lanes);
    vec sum = {0};
    for (int64_t i = 0; i < l->count; i++)
        sum += l->share[i] * FN(power)(FN(magnitude)(FN(load_n)(m->in[0] + l->at[i], lanes)) / best, p->p);
    FN(store_n)(m->out[0], FN(select)(FN(is_number)(best), best * FN(root)(sum, p->p), best), lanes);
}

/* in: dy, y; here: x. */
INLINE void FN(spread_gaussian)(const pool_list *l, const pool_maps *m, const void *params, int64_t lanes) {
    const cc_gaussian_lp_pool *p = params;
    const vec x = FN(load_n)(m->here, lanes), a = FN(magnitude)(x);
    vec sum = {0};
    for (int64_t i = 0; i < l->count; i++) {
        const vec y = FN(load_n)(m->in[1] + l->at[i], lanes), dy = FN(load_n)(m->in[0] + l->at[i], lanes);
        sum += FN(select)(y == 0, (vec){0}, l->share[i] * dy * FN(power)(a / y, p->p - 1));
    }
    FN(store_n)(m->out[0], FN(sign)(x) * sum, lanes);
}

/* --- stochastic_pool -------------------------------------------------------------------------------------------- */

INLINE double FN(weight)(double a, double best, double power) {
    const double r = a / best;
    return power == 1 ? r : power == 2 ? r * r : pow(r, power);
}

/* here: u. Sums in double, in order, and without fused multiply-add (see the top): the same draw on every backend. */
INLINE void FN(reduce_stochastic)(const pool_list *l, const pool_maps *m, const void *params, int64_t lanes) {
    const double power = ((const cc_stochastic_pool *)params)->power;
    ivec won;
    const vec best = FN(peak)(l, m, FN(positive), &won, lanes);
    vec y = best;
    const vec u = FN(load_n)(m->here, lanes);
    double limit[V] = {0}, running[V] = {0};
    for (int64_t i = 0; i < l->count; i++) {
        const vec a = FN(positive)(FN(load_n)(m->in[0] + l->at[i], lanes));
        for (int j = 0; j < V; j++) limit[j] += FN(weight)(a[j], best[j], power);
    }
    for (int j = 0; j < V; j++) limit[j] *= u[j];
    ivec open = FN(is_number)(best); /* lanes that look for their element */
    for (int64_t i = 0; i < l->count; i++) {
        const vec a = FN(positive)(FN(load_n)(m->in[0] + l->at[i], lanes));
        ivec passed = {0}, some = {0};
        for (int j = 0; j < V; j++) {
            const double w = FN(weight)(a[j], best[j], power);
            running[j] += w;
            passed[j] = -(INT)(running[j] > limit[j]);
            some[j] = -(INT)(w > 0);
        }
        const ivec take = open & some; /* the last positive one so far, until the sum passes */
        y = FN(select)(take, a, y);
        won = FN(iselect)(take, (ivec){0} + (INT)l->tap[i], won);
        open &= ~passed;
    }
    won = FN(iselect)(best == 0, (ivec){0} - 1, won);
    FN(store_n)(m->out[0], y, lanes);
    FN(store_winner)(m->choice, won, lanes);
}

/* --- expectation_pool ------------------------------------------------------------------------------------------- */

INLINE void FN(reduce_expectation)(const pool_list *l, const pool_maps *m, const void *params, int64_t lanes) {
    const double power = ((const cc_expectation_pool *)params)->power;
    ivec won;
    const vec best = FN(peak)(l, m, FN(positive), &won, lanes);
    const ivec number = FN(is_number)(best);
    vec total = {0}, sum = {0};
    for (int64_t i = 0; i < l->count; i++) {
        const vec r = FN(positive)(FN(load_n)(m->in[0] + l->at[i], lanes)) / best, w = FN(power)(r, power);
        total += w;
        sum += w * r;
    }
    const vec share = sum / total, most = (vec){0} + (REAL)INFINITY;
    FN(store_n)(m->out[0], FN(select)(number, best * share, best), lanes);
    FN(store_n)(m->out[1], FN(select)(number, total / FN(power)(share, power), most), lanes);
}

/* in: dy, y, total; here: x. */
INLINE void FN(spread_expectation)(const pool_list *l, const pool_maps *m, const void *params, int64_t lanes) {
    const double power = ((const cc_expectation_pool *)params)->power;
    const vec x = FN(load_n)(m->here, lanes), a = FN(positive)(x);
    vec sum = {0};
    for (int64_t i = 0; i < l->count; i++) {
        const vec y = FN(load_n)(m->in[1] + l->at[i], lanes), r = a / y;
        const vec share = FN(load_n)(m->in[0] + l->at[i], lanes) / FN(load_n)(m->in[2] + l->at[i], lanes);
        const vec slope = (REAL)(power + 1) * FN(power)(r, power) - (REAL)power * FN(power)(r, power - 1);
        sum += FN(select)(y == 0, (vec){0}, slope * share);
    }
    FN(store_n)(m->out[0], FN(select)(x <= 0, (vec){0}, sum), lanes);
}

/* --- entropy_pool ----------------------------------------------------------------------------------------------- */

INLINE void FN(reduce_entropy)(const pool_list *l, const pool_maps *m, const void *params, int64_t lanes) {
    ivec won;
    const vec best = FN(peak)(l, m, FN(positive), &won, lanes);
    const ivec number = FN(is_number)(best);
    vec sum = {0};
    for (int64_t i = 0; i < l->count; i++) sum += FN(positive)(FN(load_n)(m->in[0] + l->at[i], lanes)) / best;
    const vec ratio = l->share[0] / sum;
    FN(store_n)(m->out[0], FN(select)(number, best * ratio, best), lanes);
    FN(store_n)(m->out[1], FN(select)(number, ratio, (vec){0}), lanes);
    FN(store_winner)(m->choice, FN(iselect)(best == 0, (ivec){0} - 1, won), lanes);
}

/* in: dy, ratio; chosen: winner; here: x. */
INLINE void FN(spread_entropy)(const pool_list *l, const pool_maps *m, const void *params, int64_t lanes) {
    const vec x = FN(load_n)(m->here, lanes);
    vec sum = {0};
    for (int64_t i = 0; i < l->count; i++) {
        const vec dy = FN(load_n)(m->in[0] + l->at[i], lanes), ratio = FN(load_n)(m->in[1] + l->at[i], lanes);
        const ivec won = FN(load_winner)(m->chosen + l->at[i], lanes) == (ivec){0} + (INT)l->tap[i];
        sum += FN(select)(won, 2 * ratio * dy, (vec){0}) - ratio * ratio / l->share[i] * dy;
    }
    FN(store_n)(m->out[0], FN(select)(x <= 0, (vec){0}, sum), lanes);
}

/* --- the kernels ------------------------------------------------------------------------------------------------ */

int64_t FN(lp_pool_forward)(cc_out y, cc_out winner, cc_in x, const cc_lp_pool *p, void *scratch) {
    POOL(AS(.in = {x}, .out = {y}, .choice = isinf(p->p) ? winner : NULL), AS(0, COUNTS), FN(reduce_lp))
}

int64_t FN(lp_pool_backward)(cc_out dx, cc_in dy, cc_in x, cc_in y, cc_in winner, const cc_lp_pool *p, void *scratch) {
    POOL(AS(.in = {dy, y}, .here = x, .chosen = isinf(p->p) ? winner : NULL, .out = {dx}), AS(1, COUNTS), FN(spread_lp))
}

int64_t FN(gaussian_lp_pool_forward)(cc_out y, cc_in x, const cc_gaussian_lp_pool *p, void *scratch) {
    POOL(AS(.in = {x}, .out = {y}), AS(0, WEIGHTS, 0, p->sigma), FN(reduce_gaussian))
}

int64_t FN(gaussian_lp_pool_backward)(cc_out dx, cc_in dy, cc_in x, cc_in y, const cc_gaussian_lp_pool *p,
                                      void *scratch) {
    POOL(AS(.in = {dy, y}, .here = x, .out = {dx}), AS(1, WEIGHTS, 0, p->sigma), FN(spread_gaussian))
}

int64_t FN(stochastic_pool_forward)(cc_out y, cc_out winner, cc_in x, cc_in u, const cc_stochastic_pool *p,
                                    void *scratch) {
    POOL(AS(.in = {x}, .here = u, .out = {y}, .choice = winner), AS(0), FN(reduce_stochastic))
}

int64_t FN(stochastic_pool_backward)(cc_out dx, cc_in dy, cc_in winner, const cc_stochastic_pool *p, void *scratch) {
    POOL(AS(.in = {dy}, .chosen = winner, .out = {dx}), AS(1), FN(spread_winner))
}

int64_t FN(expectation_pool_forward)(cc_out y, cc_out total, cc_in x, const cc_expectation_pool *p, void *scratch) {
    POOL(AS(.in = {x}, .out = {y, total}), AS(0), FN(reduce_expectation))
}

int64_t FN(expectation_pool_backward)(cc_out dx, cc_in dy, cc_in x, cc_in y, cc_in total, const cc_expectation_pool *p,
                                      void *scratch) {
    POOL(AS(.in = {dy, y, total}, .here = x, .out = {dx}), AS(1), FN(spread_expectation))
}

int64_t FN(entropy_pool_forward)(cc_out y, cc_out ratio, cc_out winner, cc_in x, const cc_entropy_pool *p,
                                 void *scratch) {
    POOL(AS(.in = {x}, .out = {y, ratio}, .choice = winner), AS(0, COUNTS), FN(reduce_entropy))
}

int64_t FN(entropy_pool_backward)(cc_out dx, cc_in dy, cc_in x, cc_in ratio, cc_in winner, const cc_entropy_pool *p,
                                  void *scratch) {
    POOL(AS(.in = {dy, ratio}, .here = x, .chosen = winner, .out = {dx}), AS(1, COUNTS), FN(spread_entropy))
}
#endif
