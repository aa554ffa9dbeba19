/* The same variant in C: what csrc/pool.c would hold. */
ONE(reduce_top_two) {
    vec a[WIDE], b[WIDE];
    ivec first[WIDE], second[WIDE];
    EACH_VECTOR {
        a[u] = b[u] = (vec){0} - (REAL)INFINITY;
        first[u] = second[u] = TAP(0);
    }
    for (int64_t i = 0; i < l->count; i++) EACH_VECTOR {
        const vec v = ELEMENT(0, i);
        const ivec best = v > a[u], next = ~best & (v > b[u]);
        b[u] = FN(select)(best, a[u], FN(select)(next, v, b[u]));
        second[u] = FN(iselect)(best, first[u], FN(iselect)(next, TAP(i), second[u]));
        a[u] = FN(select)(best, v, a[u]);
        first[u] = FN(iselect)(best, TAP(i), first[u]);
    }
    EACH_VECTOR {
        PUT(0, l->count == 1 ? a[u] : (a[u] + b[u]) / 2);
        CHOOSE(0, first[u]);
        CHOOSE(1, l->count == 1 ? first[u] : second[u]);
    }
}
VARIANT(reduce_top_two)

/* Half of dy for each of the two; all of it where they are one and the same. in: dy; chosen: first, second. */
ONE(spread_top_two) {
    vec sum[WIDE] = {{0}};
    for (int64_t i = 0; i < l->count; i++) EACH_VECTOR {
        const vec half = ELEMENT(0, i) / 2;
        sum[u] += (vec)((ivec)half & WON(0, i)) + (vec)((ivec)half & WON(1, i));
    }
    EACH_VECTOR PUT(0, sum[u]);
}
VARIANT(spread_top_two)
DEEP_VARIANT(spread_top_two)

int64_t FN(top_two_pool_forward)(cc_out y, cc_out first, cc_out second, cc_in x, const cc_max_pool *p, void *scratch) {
    POOL(AS(.in = {x}, .out = {y}, .choice = {first, second}), AS(0), FN(reduce_top_two), NULL)
}

int64_t FN(top_two_pool_backward)(cc_out dx, cc_in dy, cc_in first, cc_in second, const cc_max_pool *p, void *scratch) {
    POOL(AS(.in = {dy}, .chosen = {first, second}, .out = {dx}, .deep = FN(spread_top_two_deep)), AS(.backward = 1),
         FN(spread_top_two), NULL)
}
