/* Local contrast normalisation: subtractive_norm and divisive_norm (formulas: cnncore/ops/contrast.py).
 *
 * A task is an image. Its maps are reduced to one plane. The plane is blurred. Then the maps are gone through once
 * more, most often from cache. The blur is separable and works on one plane, so it takes little time beside the maps.
 * Maps are gone through in the order of memory, plane by plane or pixel by pixel. The compiler vectorises those
 * loops. */
#include "twice.h"

#ifdef REAL

#if REAL_IS_FLOAT
#define SQRT sqrtf
#define EPS 0x1p-23f
#else
#define SQRT sqrt
#define EPS 0x1p-52
#endif

/* One call. weights[a] holds the Gaussian along axis a, for the distances -before ... after. `inverse` holds for every
 * pixel 1 over the sum of the weights that fall on real elements; that is a product over the axes. */
#define contrast_job FN(cc_contrast_job)
typedef struct {
    const int64_t *before, *after;
    int64_t images, maps, pixels, image, size[3], bytes, own_count;
    int last; /* channels last: maps are gone through pixel by pixel */
    REAL *weights[3], *inverse, *own; /* own, per thread: `planes` planes and a padded plane; */
    int64_t whole;                    /* from here on, if there are many maps, a plane of sums in double */
} contrast_job;

static contrast_job FN(contrast_plan)(cc_in x, const int64_t *before, const int64_t *after, const double *sigma,
                                      int planes, void *scratch) {
    cc_arena arena = {scratch, 0};
    const int64_t *size = x->shape + 2, pixels = size[0] * size[1] * size[2];
    contrast_job j = {before, after, x->shape[0], x->shape[1], pixels, x->stride[0], {size[0], size[1], size[2]}};
    int64_t longest = 0, inner = 1;
    j.last = x->stride[1] == 1;
    j.inverse = cc_take(&arena, pixels * (int64_t)sizeof(REAL));
    for (int64_t s = 0; scratch && s < pixels; s++) j.inverse[s] = 1;
    for (int a = 2; a >= 0; a--) {
        const int64_t n = size[a], reach = before[a] + after[a] + 1;
        REAL *g = j.weights[a] = cc_take(&arena, reach * (int64_t)sizeof(REAL));
        for (int64_t t = 0; scratch && t < reach; t++) g[t] = (REAL)exp(-0.5 * pow((double)(t - before[a]) / sigma[a], 2));
        for (int64_t i = 0; scratch && i < n; i++) {
            double sum = 0;
            for (int64_t t = MAX(i - before[a], 0); t <= MIN(i + after[a], n - 1); t++) sum += g[t - i + before[a]];
            for (int64_t first = i * inner; first < pixels; first += n * inner)
                for (int64_t s = first; s < first + inner; s++) j.inverse[s] /= (REAL)sum;
        }
        longest = MAX(longest, (n + reach) * inner);
        inner *= n;
    }
    j.whole = cc_round_up(pixels * planes + longest + V, 64);
    j.own_count = j.whole + (j.maps > SUM_RUN ? cc_round_up(pixels * 8 / (int64_t)sizeof(REAL), 64) : 0);
    j.own = cc_take(&arena, j.own_count * cc_threads * (int64_t)sizeof(REAL));
    j.bytes = arena.used;
    return j;
}

INLINE vec FN(sum_taps)(const REAL *a, const REAL *g, int64_t taps, int64_t inner, int step) {
    vec sum = {0};
    for (int64_t t = 0; t < taps; t++) sum += g[t * step] * FN(load)(a + t * inner);
    return sum;
}

/* a_k = sum over the distances d of g_d a_{k + d inner}, for `count` elements, in place. `padded` holds a between
 * zeros. */
static void FN(blur_line)(REAL *a, REAL *padded, const REAL *g, int64_t count, int64_t inner, int64_t before,
                          int64_t after, int step) {
    memset(padded, 0, before * inner * sizeof(REAL));
    memcpy(padded + before * inner, a, count * sizeof(REAL));
    memset(padded + before * inner + count, 0, (after * inner + V) * sizeof(REAL));
    const int64_t taps = before + after + 1;
    for (int64_t k = 0; k < count; k += V) {
        vec sum = FN(sum_taps)(padded + k, g, MIN(taps, SUM_RUN), inner, step);
        if (taps > SUM_RUN) {
            double whole[V] = {0};
            for (int64_t t = 0; t < taps; t += SUM_RUN) {
                sum = FN(sum_taps)(padded + t * inner + k, g + t * step, MIN(taps - t, SUM_RUN), inner, step);
                FN(end_run)(whole, sum);
            }
            sum = FN(end_run)(whole, (vec){0});
        }
        FN(store_n)(a + k, sum, count - k);
    }
}

/* The Gaussian mean around every element of a plane, in place. `turned`: the transposed operation, for backward. */
static void FN(blur)(const contrast_job *j, REAL *a, REAL *padded, int turned) {
    int64_t inner = 1;
    for (int64_t s = 0; turned && s < j->pixels; s++) a[s] *= j->inverse[s];
    for (int axis = 2; axis >= 0; axis--) {
        const int64_t n = j->size[axis], before = j->before[axis], after = j->after[axis], count = n * inner;
        const REAL *g = j->weights[axis];
        for (int64_t first = 0; before + after && first < j->pixels; first += count) {
            if (turned) FN(blur_line)(a + first, padded, g + before + after, count, inner, after, before, -1);
            else FN(blur_line)(a + first, padded, g, count, inner, before, after, 1);
        }
        inner = count;
    }
    for (int64_t s = 0; !turned && s < j->pixels; s++) a[s] *= j->inverse[s];
}

/* Sum over the maps of a pixel of a b; of a - less, if b is NULL. */
INLINE double FN(sum_pixel)(const REAL *a, const REAL *b, int64_t maps, REAL less) {
    double whole = 0;
    int64_t c = 0;
    while (c + V <= maps) {
        vec sums = {0};
        REAL run = 0;
        for (const int64_t end = MIN(c + SUM_RUN * V, maps); c + V <= end; c += V)
            sums += b ? FN(load)(a + c) * FN(load)(b + c) : FN(load)(a + c) - less;
        for (int i = 0; i < V; i++) run += sums[i];
        whole += (double)run;
    }
    for (; c < maps; c++) whole += (double)(b ? a[c] * b[c] : a[c] - less);
    return whole;
}

/* plane = (sum over the maps of a b) * scale; of a - less, if b is NULL. `whole`: see contrast_job. */
static void FN(sum_maps)(const contrast_job *j, REAL *plane, const REAL *a, const REAL *b, REAL less, REAL scale,
                         double *whole) {
    const int64_t pixels = j->pixels;
    if (j->last) {
        for (int64_t s = 0; s < pixels; s++) {
            const int64_t at = s * j->maps;
            plane[s] = (REAL)(FN(sum_pixel)(a + at, b ? b + at : NULL, j->maps, less) * (double)scale);
        }
        return;
    }
    const int many = j->maps > SUM_RUN;
    if (many) memset(whole, 0, pixels * sizeof(double));
    for (int64_t c = 0; c < j->maps;) {
        memset(plane, 0, pixels * sizeof(REAL));
        for (const int64_t end = MIN(c + SUM_RUN, j->maps); c < end; c++) {
            const REAL *p = a + c * pixels, *q = b + c * pixels;
            if (b) for (int64_t s = 0; s < pixels; s++) plane[s] += p[s] * q[s];
            else for (int64_t s = 0; s < pixels; s++) plane[s] += p[s] - less;
        }
        if (many) FN(add_run)(whole, plane, pixels);
    }
    if (many) FN(round_runs)(plane, whole, pixels);
    for (int64_t s = 0; s < pixels; s++) plane[s] *= scale;
}

/* Does `work` for every element of an image, in the order of memory. i is its place, s its pixel. */
#ifndef EACH
#define EACH(j, i, s, work)                                                                                       \
    if ((j)->last)                                                                                                 \
        for (int64_t s = 0; s < (j)->pixels; s++)                                                                  \
            for (int64_t i = s * (j)->maps; i < (s + 1) * (j)->maps; i++) work;                                    \
    else                                                                                                           \
        for (int64_t c = 0; c < (j)->maps; c++)                                                                    \
            for (int64_t s = 0, i = c * (j)->pixels; s < (j)->pixels; s++, i++) work
#endif

/* subtractive_norm, forward and backward. They differ in the direction of the blur. Forward also subtracts the first
 * element of x from every element, if it is finite: see cnncore/ops/contrast.py. */
static int64_t FN(subtract)(cc_out y, cc_in x, const cc_subtractive_norm *p, int turned, void *scratch) {
    const contrast_job j = FN(contrast_plan)(x, p->before, p->after, p->sigma, 1, scratch);
    if (!scratch) return j.bytes;
    PARALLEL_TASKS(n, j.images) {
        const REAL *from = (const REAL *)x->data + n * j.image;
        REAL *to = (REAL *)y->data + n * j.image, *mean = j.own + j.own_count * cc_thread();
        const REAL less = turned || from[0] - from[0] != 0 ? 0 : from[0];
        FN(sum_maps)(&j, mean, from, NULL, less, 1 / (REAL)j.maps, (double *)(mean + j.whole));
        FN(blur)(&j, mean, mean + j.pixels, turned);
        EACH(&j, i, s, to[i] = (from[i] - less) - mean[s]);
    }
    return 0;
}

int64_t FN(subtractive_norm_forward)(cc_out y, cc_in x, const cc_subtractive_norm *p, void *scratch) {
    return FN(subtract)(y, x, p, 0, scratch);
}

int64_t FN(subtractive_norm_backward)(cc_out dx, cc_in dy, const cc_subtractive_norm *p, void *scratch) {
    return FN(subtract)(dx, dy, p, 1, scratch);
}

/* d = max(r, mean of r, floor), and which of the three it is. Among equals the order is that of
 * cnncore/ops/contrast.py. NaN stays. */
#ifndef CONTRAST_WINNER
#define CONTRAST_WINNER
enum { RESPONSE, MEAN, FLOOR };
#endif
static void FN(divisors)(REAL *d, int32_t *winner, const REAL *r, int64_t count, REAL floor) {
    double total = 0;
    for (int64_t s = 0; s < count; s++) total += r[s];
    const REAL mean = (REAL)(total / count), least = mean < floor ? floor : mean, equal = 1 + 64 * EPS;
    const int below = mean > equal * floor ? MEAN : FLOOR;
    for (int64_t s = 0; s < count; s++) d[s] = r[s] < least || least != least ? least : r[s];
    for (int64_t s = 0; s < count; s++) winner[s] = r[s] > equal * least ? RESPONSE : below;
}

int64_t FN(divisive_norm_forward)(cc_out y, cc_out local, cc_out divisor, cc_out winner, cc_in x,
                                  const cc_divisive_norm *p, void *scratch) {
    const contrast_job j = FN(contrast_plan)(x, p->before, p->after, p->sigma, 0, scratch);
    if (!scratch) return j.bytes;
    PARALLEL_TASKS(n, j.images) {
        const REAL *from = (const REAL *)x->data + n * j.image;
        REAL *to = (REAL *)y->data + n * j.image, *padded = j.own + j.own_count * cc_thread();
        REAL *r = (REAL *)local->data + n * j.pixels, *d = (REAL *)divisor->data + n * j.pixels;
        FN(sum_maps)(&j, r, from, from, 0, 1 / (REAL)j.maps, (double *)(padded + j.whole));
        FN(blur)(&j, r, padded, 0);
        for (int64_t s = 0; s < j.pixels; s++) r[s] = SQRT(r[s]);
        FN(divisors)(d, (int32_t *)winner->data + n * j.pixels, r, j.pixels, (REAL)p->floor);
        EACH(&j, i, s, to[i] = from[i] / d[s]);
    }
    return 0;
}

int64_t FN(divisive_norm_backward)(cc_out dx, cc_in dy, cc_in x, cc_in local, cc_in divisor, cc_in winner,
                                   const cc_divisive_norm *p, void *scratch) {
    const contrast_job j = FN(contrast_plan)(x, p->before, p->after, p->sigma, 1, scratch);
    if (!scratch) return j.bytes;
    PARALLEL_TASKS(n, j.images) {
        const REAL *v = (const REAL *)x->data + n * j.image, *g = (const REAL *)dy->data + n * j.image;
        const REAL *r = (const REAL *)local->data + n * j.pixels, *d = (const REAL *)divisor->data + n * j.pixels;
        const int32_t *won = (const int32_t *)winner->data + n * j.pixels;
        REAL *to = (REAL *)dx->data + n * j.image, *e = j.own + j.own_count * cc_thread();
        double through_mean = 0;
        FN(sum_maps)(&j, e, g, v, 0, -1, (double *)(e + j.whole));
        for (int64_t s = 0; s < j.pixels; s++) {
            const REAL u = e[s] / d[s] / d[s];
            e[s] = won[s] == RESPONSE ? u : 0;
            through_mean += won[s] == MEAN ? u : 0;
        }
        const REAL shared = (REAL)(through_mean / j.pixels);
        for (int64_t s = 0; s < j.pixels; s++) e[s] = r[s] != 0 ? (e[s] + shared) / r[s] : 0;
        FN(blur)(&j, e, e + j.pixels, 1);
        for (int64_t s = 0; s < j.pixels; s++) e[s] /= j.maps;
        EACH(&j, i, s, to[i] = g[i] / d[s] + v[i] * e[s]);
    }
    return 0;
}
#undef SQRT
#undef EPS
#endif
