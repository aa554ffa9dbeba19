/* Normalisation by local energy: lrn across maps, lrn_within inside a map. y = x / d^beta, d = k + alpha (sum over a
 * box of x^2). The arrays pass through the cache block by block, once. A block has four axes, the last with stride 1:
 *
 *     lrn          contiguous (1, 1, C, some pixels)          channels last (1, 1, some pixels, C)
 *     lrn_within   contiguous (some maps, D, H, W)            channels last (D, H, W, some maps)
 *
 * Boxes run along any axis, so both ops and both layouts are one computation. A buffer holds a block with zeros around
 * it. There a box sum is a sum of vectors `step` apart, over the whole buffer, without borders. Nothing is subtracted,
 * so nothing cancels, and an infinite element does not outlive its window.
 *
 *   v1  transposed blocks, van Herk's sums
 *   v2  blocks as above: 2 to 3.5 times as fast
 *   v3  half of the blocks per thread, non-temporal stores: lrn takes 0.40 to 0.64 of the time
 *   v4  powers from the processor's approximate root, one division: 0.79 to 0.89
 *   v5  rows at whole vectors, x and dy fetched apart: 0.90 to 1.03
 *   v6  overflow tested once per block: 0.91 to 1
 *   v7  six vectors at a time (AVX-512): 0.72 to 0.93
 *   v8  the block after the next is fetched: 0.7 to 0.9
 *
 * What limits it, measurements, and what did not help: docs/kernels/norm.md. */
#include "twice.h"

#ifdef REAL
#include "vmath.h"

#ifndef NORM_H
#define NORM_H
#define GROUP (CC_VECTOR_BYTES == 64 ? 6 : 4) /* vectors at a time, then FEW, then one */
#define FEW 2
#define SMALL 8192      /* bytes of a block that is one piece of memory */
#define LARGE 32768     /* bytes of a block of rows: long rows are fetched better, but larger blocks leave the cache */
#define DIRECT_WIDTH 8  /* wider boxes are made of four narrower boxes and a rest */
#define EACH UNROLL for (int l = 0; l < group; l++)
#define EACH_LINE UNROLL for (int l = 0; l < group; l += MAX(64 / CC_VECTOR_BYTES, 1))

typedef struct {
    int64_t count[4], stride[4], before[4], after[4]; /* of a block: lengths, strides in memory, reach of the box */
    int64_t front;                                    /* of a buffer: the number of zeros before a row, */
    int64_t step[4], length;                          /* strides, and the number of elements with the zeros */
    int64_t images, image;                            /* the four axes repeat `images` times, `image` apart */
    int64_t cut, whole, pieces;                       /* blocks are pieces of axis `cut`, which is `whole` long */
} norm_job;

static norm_job norm_axes(cc_in x, const cc_lrn *p, int across) {
    const int64_t n = x->shape[0], c = x->shape[1], d = x->shape[2], h = x->shape[3], w = x->shape[4];
    const int64_t *b = p->before, *a = p->after, pixels = d * h * w;
    const int last = x->stride[1] == 1;
    if (across && last)
        return (norm_job){{1, 1, n * pixels, c}, {0, 0, c, 1}, {0, 0, 0, b[0]}, {0, 0, 0, a[0]}, .images = 1, .cut = 2};
    if (across)
        return (norm_job){{1, 1, c, pixels}, {0, 0, pixels, 1}, {0, 0, b[0], 0}, {0, 0, a[0], 0},
                          .images = n, .image = c * pixels, .cut = 3};
    if (last)
        return (norm_job){{d, h, w, c}, {h * w * c, w * c, c, 1}, {b[1], b[2], b[3], 0}, {a[1], a[2], a[3], 0},
                          .images = n, .image = c * pixels, .cut = 3};
    return (norm_job){{n * c, d, h, w}, {pixels, h * w, w, 1}, {0, b[1], b[2], b[3]}, {0, a[1], a[2], a[3]},
                      .images = 1, .cut = 0};
}

/* The length of an axis in a buffer. Rows begin at whole vectors. The zeros behind a row are those before the next
 * row. */
static int64_t norm_extent(const norm_job *j, int axis, int64_t lanes) {
    if (axis == 3) return j->front + cc_round_up(j->count[3], lanes);
    return j->count[axis] + j->before[axis] + j->after[axis];
}

static norm_job norm_plan(cc_in x, const cc_lrn *p, int across, int64_t element) {
    norm_job j = norm_axes(x, p, across);
    const int64_t lanes = CC_VECTOR_BYTES / element;
    j.front = cc_round_up(MAX(j.before[3], j.after[3]), lanes);
    int64_t unit = element; /* bytes in a buffer for one step along the axis that is cut */
    for (int a = 0; a < 4; a++)
        if (a != j.cut) unit *= norm_extent(&j, a, lanes);
    int64_t piece = MAX((j.cut == 3 ? LARGE : SMALL) / unit, 1);
    if (j.cut == 3) piece = cc_round_up(piece, GROUP * lanes);
    j.whole = j.count[j.cut];
    j.count[j.cut] = MIN(piece, j.whole);
    j.pieces = cc_ceil_div(j.whole, j.count[j.cut]);
    j.length = 1;
    for (int a = 3; a >= 0; a--) {
        j.step[a] = j.length;
        j.length *= norm_extent(&j, a, lanes);
    }
    j.length += j.front;
    return j;
}

/* Where a block begins in a buffer that has `reach` zeros before every axis. A sum is stored at the place of the first
 * element of its box, so sums begin at 0. */
static int64_t norm_origin(const norm_job *j, const int64_t *reach) {
    int64_t at = j->front;
    for (int a = 0; a < 3; a++) at += reach[a] * j->step[a];
    return at;
}

/* Calls stage(vectors, lanes, at, i, ...) for all of a block, with at most `most` vectors at a time (GROUP or FEW).
 * `at` is the place in memory, `i` the place in a buffer. The last vector of a row overlaps the one before it and
 * computes some elements twice, so a stage must not read what it writes. Every copy of a stage takes time to compile,
 * so only float has groups of GROUP. */
#define MOST (REAL_IS_FLOAT ? GROUP : FEW)
#define EVERYWHERE(j, most, stage, ...)                                                                             \
    for (int64_t a0 = 0; a0 < (j)->count[0]; a0++)                                                                  \
        for (int64_t a1 = 0; a1 < (j)->count[1]; a1++)                                                              \
            for (int64_t a2 = 0; a2 < (j)->count[2]; a2++) {                                                        \
                const int64_t at = a0 * (j)->stride[0] + a1 * (j)->stride[1] + a2 * (j)->stride[2];                 \
                const int64_t i = a0 * (j)->step[0] + a1 * (j)->step[1] + a2 * (j)->step[2], n = (j)->count[3];     \
                int64_t k = 0;                                                                                      \
                if (most == GROUP)                                                                                  \
                    for (; k + GROUP * V <= n; k += GROUP * V) stage(GROUP, V, at + k, i + k, __VA_ARGS__);         \
                if (most >= FEW)                                                                                    \
                    for (; k + FEW * V <= n; k += FEW * V) stage(FEW, V, at + k, i + k, __VA_ARGS__);               \
                for (; k < n; k += V) {                                                                             \
                    const int64_t from = MAX(MIN(k, n - V), 0);                                                     \
                    stage(1, MIN(n, V), at + from, i + from, __VA_ARGS__);                                          \
                }                                                                                                   \
            }
#endif

/* --- box sums --- */

/* A box sum. The sum at i is that of `count` elements from first + i on, which are `apart` from each other, and of
 * `more` elements from rest + i on, which are `step` apart. There are `places` sums; behind them boxes would leave the
 * buffer. */
#undef box_sum
#define box_sum FN(cc_box_sum)
typedef struct {
    const REAL *first, *rest;
    int64_t count, apart, more, step, places;
} box_sum;

INLINE void FN(sum_at)(vec *v, const int group, box_sum s, int64_t i) {
    const REAL *first = s.first + i, *rest = s.rest + i;
    EACH v[l] = FN(load)(first + l * V);
    for (int64_t t = 1; t < s.count; t++) EACH v[l] += FN(load)(first + t * s.apart + l * V);
    for (int64_t t = 0; t < s.more; t++) EACH v[l] += FN(load)(rest + t * s.step + l * V);
}

/* Computes all sums. `to` may be s.first, since no sum reads elements before its place. */
static void FN(sum_up)(REAL *to, box_sum s) {
    const int group = GROUP;
    for (int64_t i = 0; i < s.places; i += GROUP * V) {
        vec v[GROUP];
        FN(sum_at)(v, GROUP, s, i);
        EACH FN(store)(to + i + l * V, v[l]);
    }
}

/* The box along one axis. A wide box is four boxes of a quarter of its width, whose sums are stored in `spare`, and up
 * to three elements. */
static box_sum FN(box_along)(const REAL *a, REAL *spare, int64_t width, int64_t step, int64_t length) {
    const int64_t places = length - (width - 1) * step, quarter = width / 4;
    if (width < DIRECT_WIDTH) return (box_sum){a, a, width, step, 0, step, places};
    FN(sum_up)(spare, FN(box_along)(a, spare, quarter, step, length));
    return (box_sum){spare, a + 4 * quarter * step, 4, quarter * step, width % 4, step, places};
}

/* The box along every axis of a block, one axis after the other. */
static box_sum FN(box)(const norm_job *j, const int64_t *reach, const REAL *a, REAL *one, REAL *two) {
    box_sum s = {a, a, 1, 0, 0, 0, j->length};
    for (int axis = 3; axis >= 0; axis--) {
        const int64_t width = j->before[axis] + j->after[axis] + 1;
        if (width == 1) continue;
        if (s.count > 1) {
            FN(sum_up)(one, s);
            a = one;
            one = two;
            two = (REAL *)a;
        }
        s = FN(box_along)(a, one, width, j->step[axis], j->length);
    }
    s.first += j->front - reach[3];
    s.rest += j->front - reach[3];
    return s;
}

/* --- powers --- */

/* q near d^(-1/4), for d that is at least the smallest normal number. Processors with an approximate d^(-1/2) of a
 * float apply it twice; the error of q is at most 2^-10. Otherwise it is at most 2^-12 (double: 2^-33). The bits of d,
 * read as an integer, are nearly its logarithm. So minus a quarter of them gives a q within 3.2 % (the constant
 * balances the error). With e = 1 - d q^4 the root is q (1 - e)^(-1/4) = q (1 + e/4 + 5/32 e^2 ...). A step takes the
 * terms up to e^2. */
#undef ROUGH_ROOT
#undef ROOT_GUESS
#undef ROOT_STEPS
#if REAL_IS_FLOAT && CC_VECTOR_BYTES == 64 && defined(__AVX512F__)
#define ROUGH_ROOT(d) (vec)_mm512_rsqrt14_ps((__m512)(d))
#elif REAL_IS_FLOAT && CC_VECTOR_BYTES == 32 && defined(__AVX2__)
#define ROUGH_ROOT(d) (vec)_mm256_rsqrt_ps((__m256)(d))
#elif REAL_IS_FLOAT && CC_VECTOR_BYTES == 16 && defined(__x86_64__)
#define ROUGH_ROOT(d) (vec)_mm_rsqrt_ps((__m128)(d))
#elif REAL_IS_FLOAT
#define ROOT_GUESS 0x4f583958
#define ROOT_STEPS 1
#else
#define ROOT_GUESS 0x4feb072b020c4c00
#define ROOT_STEPS 2
#endif
INLINE void FN(rough_fourth_roots)(vec *q, const int group, const vec *d) {
#ifdef ROUGH_ROOT
    EACH q[l] = ROUGH_ROOT(d[l]);
    EACH q[l] *= ROUGH_ROOT(q[l]);
#else
    EACH q[l] = (vec)(ROOT_GUESS - ((ivec)d[l] >> 2));
    UNROLL for (int step = 0; step < ROOT_STEPS; step++) {
        vec square[GROUP], e[GROUP];
        EACH square[l] = q[l] * q[l];
        EACH e[l] = 1 - d[l] * square[l] * square[l];
        EACH q[l] += q[l] * e[l] * (e[l] * (REAL)(5.0 / 32) + (REAL)0.25);
    }
#endif
}

/* d^-beta; 0 for d = Inf. `bounded` says that no d is Inf. `quarters` is 4 beta where that is 2, 3 or 4, else 0. With q
 * and e as above, d^-beta = q^quarters (1 - e)^-beta = q^quarters (1 + beta e + beta (beta + 1) / 2 e^2 ...). The term
 * of e^3 is below a rounding. e contains the error of q. So the error is at most 2 units in the last place. */
INLINE void FN(powers)(vec *power, const int group, const vec *d, REAL beta, const int quarters, const int bounded) {
    if (!quarters) {
        EACH power[l] = FN(pow)(d[l], FN(splat)(-beta));
        return;
    }
    const REAL first = (REAL)(quarters / 4.0), second = first * (first + 1) / 2;
    vec q[GROUP], square[GROUP], e[GROUP];
    FN(rough_fourth_roots)(q, group, d);
    EACH square[l] = q[l] * q[l];
    EACH e[l] = 1 - d[l] * square[l] * square[l]; /* multiplied from the left, since q^4 may be subnormal */
    EACH q[l] = quarters == 2 ? square[l] : quarters == 3 ? square[l] * q[l] : square[l] * square[l];
    EACH q[l] += q[l] * (e[l] * (e[l] * second + first));
    EACH power[l] = bounded ? q[l] : FN(select)(d[l] == (REAL)INFINITY, (vec){0}, q[l]);
}

/* --- the stages of a block --- */

#undef norm_block
#define norm_block FN(cc_norm_block)
typedef struct {
    const REAL *x, *dy;
    REAL *result;           /* y or dx */
    REAL *squares, *shared; /* buffers with zeros around: x^2; what an element gives to the dx of its neighbours */
    REAL *direct;           /* a buffer: dy / d^beta */
    REAL k, alpha, beta, factor;
    int64_t soon; /* distance to the block after the next, which is fetched into the second-level cache */
    int past;     /* result is written by non-temporal stores */
    int bounded;  /* no divisor is Inf */
    box_sum sum;  /* first of squares, then of shared */
} norm_block;

INLINE void FN(square)(const int group, int64_t lanes, int64_t at, int64_t i, const norm_block b, vec *total) {
    EACH {
        const vec v = FN(load_n)(b.x + at + l * V, lanes), square = v * v;
        FN(store_n)(b.squares + i + l * V, square, lanes);
        total[l] += square;
    }
    if (!b.past) EACH_LINE __builtin_prefetch(b.result + at + l * V, 1, 2);
}

/* Whether no divisor can be Inf. A divisor is at most k + alpha (the sum of all squares), and roundings cannot double
 * that. A NaN gives 0. */
INLINE int FN(is_bounded)(const vec *total, const norm_block b) {
    const int group = GROUP;
    REAL sum = 0;
    EACH for (int lane = 0; lane < V; lane++) sum += total[l][lane];
    return 2 * (b.k + b.alpha * sum) < (REAL)INFINITY;
}

INLINE void FN(divisors)(vec *d, const int group, int64_t i, const norm_block b) {
    FN(sum_at)(d, group, b.sum, i);
    EACH d[l] = b.k + b.alpha * d[l];
}

/* y = x / d^beta */
INLINE void FN(divide)(const int group, int64_t lanes, int64_t at, int64_t i, const norm_block b, const int quarters,
                       const int bounded) {
    vec d[GROUP], power[GROUP];
    FN(divisors)(d, group, i, b);
    FN(powers)(power, group, d, b.beta, quarters, bounded);
    EACH FN(stream_n)(b.result + at + l * V, FN(load_n)(b.x + at + l * V, lanes) * power[l], lanes, b.past);
    EACH_LINE __builtin_prefetch(b.x + at + b.soon + l * V, 0, 2);
}

/* direct = dy / d^beta, shared = direct x / d */
INLINE void FN(share)(const int group, int64_t lanes, int64_t at, int64_t i, const norm_block b, const int quarters,
                      const int bounded) {
    vec d[GROUP], power[GROUP];
    FN(divisors)(d, group, i, b);
    FN(powers)(power, group, d, b.beta, quarters, bounded);
    EACH {
        const vec x = FN(load_n)(b.x + at + l * V, lanes), direct = FN(load_n)(b.dy + at + l * V, lanes) * power[l];
        FN(store_n)(b.direct + i + l * V, direct, lanes);
        FN(store_n)(b.shared + i + l * V, direct * (x / d[l]), lanes);
    }
    EACH_LINE __builtin_prefetch(b.x + at + b.soon + l * V, 0, 2);
}

/* dx = direct - factor x (sum of shared over the reflected box) */
INLINE void FN(collect)(const int group, int64_t lanes, int64_t at, int64_t i, const norm_block b) {
    vec sum[GROUP];
    FN(sum_at)(sum, group, b.sum, i);
    EACH {
        const vec x = FN(load_n)(b.x + at + l * V, lanes), direct = FN(load_n)(b.direct + i + l * V, lanes);
        FN(stream_n)(b.result + at + l * V, direct - b.factor * x * sum[l], lanes, b.past);
    }
    EACH_LINE __builtin_prefetch(b.dy + at + b.soon + l * V, 0, 2);
}

#ifndef BY_POWER
#define BY_POWER(j, stage, b)                                                                                       \
    if (b.beta == (REAL)0.5) BY_BOUND(j, stage, b, 2)                                                               \
    else if (b.beta == (REAL)0.75) BY_BOUND(j, stage, b, 3)                                                         \
    else if (b.beta == 1) BY_BOUND(j, stage, b, 4)                                                                  \
    else EVERYWHERE(j, FEW, stage, b, 0, 0)
#define BY_BOUND(j, stage, b, quarters)                                                                             \
    {                                                                                                               \
        if (b.bounded) EVERYWHERE(j, MOST, stage, b, quarters, 1)                                                   \
        else EVERYWHERE(j, 1, stage, b, quarters, 0)                                                                \
    }
#endif

/* y; or dx, if dy is given. */
static int64_t FN(norm)(cc_out result, cc_in dy, cc_in x, const cc_lrn *p, int across, void *scratch) {
    const norm_job j = norm_plan(x, p, across, sizeof(REAL));
    const int64_t buffer = cc_round_up(j.length + GROUP * V, 64), buffers = dy ? 5 : 3;
    if (!scratch) return buffers * buffer * cc_threads * (int64_t)sizeof(REAL);
    const int past = cc_past_cache(cc_count(x) * (int64_t)sizeof(REAL));
    cc_tasks tasks = {.count = j.images * j.pieces};
    PARALLEL {
        REAL *squares = (REAL *)scratch + buffers * buffer * cc_thread(), *one = squares + buffer, *two = one + buffer;
        REAL *shared = two + buffer, *direct = shared + buffer; /* with dy alone */
        memset(squares, 0, buffer * sizeof(REAL));
        if (dy) memset(shared, 0, buffer * sizeof(REAL));
        EACH_TASK(task, tasks) {
            const int64_t first = task % j.pieces * j.count[j.cut];
            const int64_t from = task / j.pieces * j.image + first * j.stride[j.cut];
            norm_job part = j;
            part.count[j.cut] = MIN(j.count[j.cut], j.whole - first);
            norm_block b = {(const REAL *)x->data + from, dy ? (const REAL *)dy->data + from : NULL,
                            (REAL *)result->data + from, .squares = squares + norm_origin(&j, j.before),
                            .k = (REAL)p->k, .alpha = (REAL)p->alpha, .beta = (REAL)p->beta,
                            .factor = (REAL)(2 * p->alpha * p->beta), .soon = 2 * j.count[j.cut] * j.stride[j.cut],
                            .past = past};
            vec total[GROUP] = {{0}};
            EVERYWHERE(&part, MOST, FN(square), b, total)
            b.bounded = FN(is_bounded)(total, b);
            b.sum = FN(box)(&j, j.before, squares, one, two);
            if (!dy) {
                BY_POWER(&part, FN(divide), b)
                continue;
            }
            b.direct = direct;
            b.shared = shared + norm_origin(&j, j.after);
            BY_POWER(&part, FN(share), b)
            b.sum = FN(box)(&j, j.after, shared, one, two);
            EVERYWHERE(&part, MOST, FN(collect), b)
        }
    }
    return 0;
}

int64_t FN(lrn_forward)(cc_out y, cc_in x, const cc_lrn *p, void *scratch) {
    return FN(norm)(y, NULL, x, p, 1, scratch);
}

int64_t FN(lrn_backward)(cc_out dx, cc_in dy, cc_in x, const cc_lrn *p, void *scratch) {
    return FN(norm)(dx, dy, x, p, 1, scratch);
}

int64_t FN(lrn_within_forward)(cc_out y, cc_in x, const cc_lrn *p, void *scratch) {
    return FN(norm)(y, NULL, x, p, 0, scratch);
}

int64_t FN(lrn_within_backward)(cc_out dx, cc_in dy, cc_in x, const cc_lrn *p, void *scratch) {
    return FN(norm)(dx, dy, x, p, 0, scratch);
}
#endif
