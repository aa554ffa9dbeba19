/* Normalisation by local energy: lrn across maps, lrn_within a map.
 *
 * Work is cut into blocks [lines][lanes] that stay in cache. Lines are what the box of neighbours runs over: the maps of
 * lrn, the pixels of lrn_within. Lanes are independent of each other and lie side by side: pixels, or maps. One of the
 * two has stride 1 in memory, whatever the layout; where it is the lines, the block is transposed on the way in and out.
 * So both ops and both layouts are one computation on a block, whose inner loops are plain and vectorise.
 *
 * A box sum takes three additions an element and axis, however wide the box (van Herk 1992, Gil & Werman 1993): running
 * sums up to and down to multiples of the width, of which every window needs one each. Nothing is ever subtracted, so
 * nothing cancels, and an infinite element does not outlive its window.
 */
#include "twice.h"

#ifdef REAL

#ifndef NORM_H
#define NORM_H
#define ACROSS_LANES (256 / (int)sizeof(REAL))
#define WITHIN_LANES (64 / (int)sizeof(REAL))
#endif
#if REAL_IS_FLOAT
#define SQRT sqrtf
#define POW powf
#else
#define SQRT sqrt
#define POW pow
#endif

/* One call. A task is one block: `lanes` of the `width` lanes of an image. */
#define norm_job FN(cc_norm_job)
typedef struct {
    const cc_lrn *p;
    int64_t size[3], before[3], after[3]; /* the lines as axes, and the box along them */
    int64_t lines, line, lanes, lane, width, image, tasks, blocks, bytes;
    REAL *own; /* per thread: `buffers` blocks */
    int64_t own_count;
} norm_job;

static norm_job FN(norm_plan)(cc_in x, const cc_lrn *p, int across, int buffers, void *scratch) {
    norm_job j = {p};
    const int64_t pixels = x->shape[2] * x->shape[3] * x->shape[4];
    for (int a = 0; a < 3; a++) {
        j.size[a] = across ? (a == 2 ? x->shape[1] : 1) : x->shape[2 + a];
        j.before[a] = across ? (a == 2 ? p->before[0] : 0) : p->before[1 + a];
        j.after[a] = across ? (a == 2 ? p->after[0] : 0) : p->after[1 + a];
    }
    j.lines = across ? x->shape[1] : pixels;
    j.width = across ? pixels : x->shape[1];
    j.line = across ? x->stride[1] : x->stride[4];
    j.lane = across ? x->stride[4] : x->stride[1];
    j.lanes = MIN(across ? ACROSS_LANES : WITHIN_LANES, cc_round_up(j.width, V));
    j.image = x->stride[0];
    j.blocks = cc_ceil_div(j.width, j.lanes);
    j.tasks = x->shape[0] * j.blocks;
    j.own = scratch;
    j.own_count = cc_round_up(j.lines * j.lanes * buffers, 64);
    j.bytes = j.own_count * cc_threads * (int64_t)sizeof(REAL);
    return j;
}

/* to = a + b, or a where b is NULL; count is a multiple of V. In vectors by hand: lines are short, and the compiler would
 * look at each whether its three arrays overlap. */
INLINE void FN(add_line)(REAL *to, const REAL *a, const REAL *b, int64_t count) {
    if (b)
        for (int64_t i = 0; i < count; i += V) FN(store)(to + i, FN(load)(a + i) + FN(load)(b + i));
    else
        for (int64_t i = 0; i < count; i += V) FN(store)(to + i, FN(load)(a + i));
}

/* The `count` real lanes of a block, from memory; the others become 0. */
static void FN(block_in)(const norm_job *j, REAL *to, const REAL *from, int64_t count) {
    const int64_t lanes = j->lanes, even_k = j->lane == 1 ? 0 : count - count % V, even_l = j->lines - j->lines % V;
    if (j->lane == 1) {
        const int64_t even = count - count % V;
        for (int64_t l = 0; l < j->lines; l++) {
            FN(add_line)(to + l * lanes, from + l * j->line, NULL, even);
            for (int64_t k = even; k < count; k++) to[l * lanes + k] = from[l * j->line + k];
        }
    } else {
        for (int64_t k = 0; k < even_k; k += V)
            for (int64_t l = 0; l < even_l; l += V)
                FN(transpose)(to + l * lanes + k, lanes, from + k * j->lane + l, j->lane);
        for (int64_t k = 0; k < count; k++)
            for (int64_t l = k < even_k ? even_l : 0; l < j->lines; l++) to[l * lanes + k] = from[k * j->lane + l];
    }
    for (int64_t l = 0; count < lanes && l < j->lines; l++)
        for (int64_t k = count; k < lanes; k++) to[l * lanes + k] = 0;
}

static void FN(block_out)(const norm_job *j, REAL *to, const REAL *from, int64_t count) {
    const int64_t lanes = j->lanes, even_k = count - count % V, even_l = j->lines - j->lines % V;
    if (j->lane == 1) {
        for (int64_t l = 0; l < j->lines; l++) {
            FN(add_line)(to + l * j->line, from + l * lanes, NULL, even_k);
            for (int64_t k = even_k; k < count; k++) to[l * j->line + k] = from[l * lanes + k];
        }
        return;
    }
    for (int64_t k = 0; k < even_k; k += V)
        for (int64_t l = 0; l < even_l; l += V)
            FN(transpose)(to + k * j->lane + l, j->lane, from + l * lanes + k, lanes);
    for (int64_t k = 0; k < count; k++)
        for (int64_t l = k < even_k ? even_l : 0; l < j->lines; l++) to[k * j->lane + l] = from[l * lanes + k];
}

/* Every line of a becomes the sum of the lines from `before` before it to `after` behind it. a has n lines of `inner`
 * elements, as have the two buffers. */
static void FN(box_line)(REAL *a, REAL *up, REAL *down, int64_t n, int64_t inner, int64_t before, int64_t after) {
    const int64_t w = before + after + 1;
    for (int64_t i = 0; i < n; i++)
        FN(add_line)(up + i * inner, a + i * inner, i % w ? up + (i - 1) * inner : NULL, inner);
    for (int64_t i = n - 1; i >= 0; i--)
        FN(add_line)(down + i * inner, a + i * inner, i + 1 < n && (i + 1) % w ? down + (i + 1) * inner : NULL, inner);
    for (int64_t i = 0; i < n; i++) {
        const int64_t low = MAX(i - before, 0), high = MIN(i + after, n - 1);
        if (low / w != high / w) FN(add_line)(a + i * inner, down + low * inner, up + high * inner, inner);
        else FN(add_line)(a + i * inner, low % w ? down + low * inner : up + high * inner, NULL, inner);
    }
}

/* Box sums of a block, in place. `turned` reaches `after` before and `before` after. */
static void FN(box)(const norm_job *j, REAL *a, REAL *up, REAL *down, int turned) {
    int64_t inner = j->lanes, outer = j->lines;
    for (int axis = 2; axis >= 0; axis--) {
        const int64_t n = j->size[axis], low = turned ? j->after[axis] : j->before[axis];
        const int64_t high = turned ? j->before[axis] : j->after[axis];
        outer /= n;
        for (int64_t o = 0; low + high && o < outer; o++) FN(box_line)(a + o * n * inner, up, down, n, inner, low, high);
        inner *= n;
    }
}

/* to = d^beta; the exponents in use need square roots alone */
static void FN(power)(REAL *to, const REAL *d, int64_t count, REAL beta) {
    if (beta == (REAL)0.75)
        for (int64_t i = 0; i < count; i++) to[i] = SQRT(d[i]) * SQRT(SQRT(d[i]));
    else if (beta == (REAL)0.5)
        for (int64_t i = 0; i < count; i++) to[i] = SQRT(d[i]);
    else if (beta == 1) memcpy(to, d, count * sizeof(REAL));
    else
        for (int64_t i = 0; i < count; i++) to[i] = POW(d[i], beta);
}

/* d = k + alpha * box sum of x^2 */
static void FN(divisor)(const norm_job *j, REAL *d, const REAL *x, REAL *up, REAL *down) {
    const int64_t count = j->lines * j->lanes;
    const REAL k = (REAL)j->p->k, alpha = (REAL)j->p->alpha;
    for (int64_t i = 0; i < count; i++) d[i] = x[i] * x[i];
    FN(box)(j, d, up, down, 0);
    for (int64_t i = 0; i < count; i++) d[i] = k + alpha * d[i];
}

static int64_t FN(norm_forward)(cc_out y, cc_in x, const cc_lrn *p, int across, void *scratch) {
    const norm_job j = FN(norm_plan)(x, p, across, 4, scratch);
    if (!scratch) return j.bytes;
    PARALLEL_FOR
    for (int64_t task = 0; task < j.tasks; task++) {
        const int64_t block = j.lines * j.lanes, first = task % j.blocks * j.lanes;
        const int64_t at = task / j.blocks * j.image + first * j.lane, count = MIN(j.lanes, j.width - first);
        REAL *a = j.own + j.own_count * cc_thread(), *d = a + block, *up = d + block, *down = up + block;
        FN(block_in)(&j, a, (const REAL *)x->data + at, count);
        FN(divisor)(&j, d, a, up, down);
        FN(power)(up, d, block, (REAL)p->beta);
        for (int64_t i = 0; i < block; i++) a[i] /= up[i];
        FN(block_out)(&j, (REAL *)y->data + at, a, count);
    }
    return 0;
}

static int64_t FN(norm_backward)(cc_out dx, cc_in dy, cc_in x, const cc_lrn *p, int across, void *scratch) {
    const norm_job j = FN(norm_plan)(x, p, across, 5, scratch);
    if (!scratch) return j.bytes;
    const REAL factor = (REAL)(2 * p->alpha * p->beta);
    PARALLEL_FOR
    for (int64_t task = 0; task < j.tasks; task++) {
        const int64_t block = j.lines * j.lanes, first = task % j.blocks * j.lanes;
        const int64_t at = task / j.blocks * j.image + first * j.lane, count = MIN(j.lanes, j.width - first);
        REAL *a = j.own + j.own_count * cc_thread(), *g = a + block, *d = g + block, *up = d + block, *down = up + block;
        FN(block_in)(&j, a, (const REAL *)x->data + at, count);
        FN(block_in)(&j, g, (const REAL *)dy->data + at, count);
        FN(divisor)(&j, d, a, up, down);
        FN(power)(up, d, block, (REAL)p->beta);
        for (int64_t i = 0; i < block; i++) {
            g[i] /= up[i];
            d[i] = g[i] * a[i] / d[i];
        }
        FN(box)(&j, d, up, down, 1);
        for (int64_t i = 0; i < block; i++) g[i] -= factor * a[i] * d[i];
        FN(block_out)(&j, (REAL *)dx->data + at, g, count);
    }
    return 0;
}

int64_t FN(lrn_forward)(cc_out y, cc_in x, const cc_lrn *p, void *scratch) {
    return FN(norm_forward)(y, x, p, 1, scratch);
}

int64_t FN(lrn_backward)(cc_out dx, cc_in dy, cc_in x, const cc_lrn *p, void *scratch) {
    return FN(norm_backward)(dx, dy, x, p, 1, scratch);
}

int64_t FN(lrn_within_forward)(cc_out y, cc_in x, const cc_lrn *p, void *scratch) {
    return FN(norm_forward)(y, x, p, 0, scratch);
}

int64_t FN(lrn_within_backward)(cc_out dx, cc_in dy, cc_in x, const cc_lrn *p, void *scratch) {
    return FN(norm_backward)(dx, dy, x, p, 0, scratch);
}
#undef SQRT
#undef POW
#endif
