/* Max and average pooling: what they do with a window's list. The walk: pool.h. */
#include "twice.h"

#ifdef REAL
#include "pool.h"

/* The first of equals wins; a NaN beats every number, and no later NaN beats it. */
INLINE void FN(reduce_max_one)(const pool_list *l, const pool_maps *m, const void *p, int64_t lanes) {
    vec best = FN(load_n)(m->in[0] + l->at[0], lanes);
    ivec won = (ivec){0} + (INT)l->tap[0];
    for (int64_t i = 1; i < l->count; i++) {
        vec v = FN(load_n)(m->in[0] + l->at[i], lanes);
        ivec better = ~(v <= best) & (best == best);
        best = FN(select)(better, v, best);
        won = FN(iselect)(better, (ivec){0} + (INT)l->tap[i], won);
    }
    FN(store_n)(m->out[0], best, lanes);
    if (m->choice) FN(store_winner)(m->choice, won, lanes);
}
VARIANT(reduce_max)
VARIANT(spread_winner)

INLINE void FN(reduce_avg_one)(const pool_list *l, const pool_maps *m, const void *p, int64_t lanes) {
    vec sum = {0};
    for (int64_t i = 0; i < l->count; i++) sum += FN(load_n)(m->in[0] + l->at[i], lanes);
    FN(store_n)(m->out[0], sum / l->share[0], lanes);
}
VARIANT(reduce_avg)

INLINE void FN(spread_avg_one)(const pool_list *l, const pool_maps *m, const void *p, int64_t lanes) {
    vec sum = {0};
    for (int64_t i = 0; i < l->count; i++) sum += FN(load_n)(m->in[0] + l->at[i], lanes) / l->share[i];
    FN(store_n)(m->out[0], sum, lanes);
}
VARIANT(spread_avg)

int64_t FN(max_pool_forward)(cc_out y, cc_out winner, cc_in x, const cc_max_pool *p, void *scratch) {
    POOL(AS(.in = {x}, .out = {y}, .choice = winner), AS(0), FN(reduce_max), NULL)
}

int64_t FN(max_pool_backward)(cc_out dx, cc_in dy, cc_in winner, const cc_max_pool *p, void *scratch) {
    POOL(AS(.in = {dy}, .chosen = winner, .out = {dx}), AS(.backward = 1), FN(spread_winner), NULL)
}

int64_t FN(avg_pool_forward)(cc_out y, cc_in x, const cc_avg_pool *p, void *scratch) {
    POOL(AS(.in = {x}, .out = {y}), AS(0, COUNTS, p->count_include_pad), FN(reduce_avg), NULL)
}

int64_t FN(avg_pool_backward)(cc_out dx, cc_in dy, const cc_avg_pool *p, void *scratch) {
    POOL(AS(.in = {dy}, .out = {dx}), AS(1, COUNTS, p->count_include_pad), FN(spread_avg), NULL)
}
#endif
