/* Max and average pooling: what they do with the list of a window. Lists: pool.h. Kernels: pool_walk.h. */
#include "twice.h"

#ifdef REAL
#include "pool.h"
#include "pool_walk.h"

ONE(reduce_max) {
    PEAK()
    EACH_VECTOR {
        PUT(0, best[u]);
        if (m->choice[0]) CHOOSE(0, won[u]);
    }
}
VARIANT(reduce_max)

/* The search begins at 0 with no tap (-1). So where no element is positive, no element wins. */
ONE(reduce_relu_max) {
    vec best[WIDE] = {{0}};
    ivec won[WIDE];
    EACH_VECTOR won[u] = ~(ivec){0};
    CLIMB(0, )
    EACH_VECTOR {
        PUT(0, best[u]);
        if (m->choice[0]) CHOOSE(0, won[u]);
    }
}
VARIANT(reduce_relu_max)
VARIANT(spread_winner)
DEEP_VARIANT(spread_winner)

ONE(reduce_avg) {
    SUM_LIST(1, EACH_VECTOR sum[0][u] += ELEMENT(0, i);)
    EACH_VECTOR PUT(0, sum[0][u] * l->share[0]);
}
VARIANT(reduce_avg)

ONE(spread_avg) {
    vec sum[WIDE] = {{0}};
    for (int64_t i = 0; i < l->count; i++) EACH_VECTOR sum[u] += ELEMENT(0, i) * l->share[i];
    EACH_VECTOR PUT(0, sum[u]);
}
VARIANT(spread_avg)
DEEP_VARIANT(spread_avg)

int64_t FN(max_pool_forward)(cc_out y, cc_out winner, cc_in x, const cc_max_pool *p, void *scratch) {
    POOL(AS(.in = {x}, .out = {y}, .choice = {winner}), AS(0), FN(reduce_max), NULL)
}

int64_t FN(max_pool_backward)(cc_out dx, cc_in dy, cc_in winner, const cc_max_pool *p, void *scratch) {
    POOL(AS(.in = {dy}, .chosen = {winner}, .out = {dx}, .deep = FN(spread_winner_deep)), AS(.backward = 1),
         FN(spread_winner), NULL)
}

int64_t FN(relu_max_pool_forward)(cc_out y, cc_out winner, cc_in x, const cc_max_pool *p, void *scratch) {
    POOL(AS(.in = {x}, .out = {y}, .choice = {winner}), AS(0), FN(reduce_relu_max), NULL)
}

int64_t FN(relu_max_pool_backward)(cc_out dx, cc_in dy, cc_in winner, const cc_max_pool *p, void *scratch) {
    return FN(max_pool_backward)(dx, dy, winner, p, scratch);
}

int64_t FN(avg_pool_forward)(cc_out y, cc_in x, const cc_avg_pool *p, void *scratch) {
    POOL(AS(.in = {x}, .out = {y}), AS(0, COUNTS, p->count_include_pad), FN(reduce_avg), NULL)
}

int64_t FN(avg_pool_backward)(cc_out dx, cc_in dy, const cc_avg_pool *p, void *scratch) {
    POOL(AS(.in = {dy}, .out = {dx}, .deep = FN(spread_avg_deep)), AS(1, COUNTS, p->count_include_pad),
         FN(spread_avg), NULL)
}
#endif
