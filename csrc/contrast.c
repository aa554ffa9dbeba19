/* Local contrast normalisation: subtractive_norm and divisive_norm.
 *
 * A task is an image: its maps are reduced to one plane, the plane is blurred, and the maps are gone through once more.
 * The blur is separable and works on a plane alone, so its time is small beside that of the maps. Maps are gone through
 * in the order of memory, plane by plane or pixel by pixel; the compiler vectorises the inner loops.
 */
#include "twice.h"

#ifdef REAL

#if REAL_IS_FLOAT
#define SQRT sqrtf
#else
#define SQRT sqrt
#endif

/* The blur: along each axis weights for the distances -before ... after, and at each position what the real ones of
 * them sum to. */
#define contrast_job FN(cc_contrast_job)
typedef struct {
    const int64_t *before, *after;
    int64_t images, maps, pixels, image, size[3], bytes, own_count;
    int last; /* pixel by pixel */
    REAL *weights[3], *whole[3], *own; /* own: per thread, planes */
} contrast_job;

static contrast_job FN(contrast_plan)(cc_in x, const int64_t *before, const int64_t *after, const double *sigma,
                                      int planes, void *scratch) {
    cc_arena arena = {scratch, 0};
    contrast_job j = {before, after, x->shape[0], x->shape[1], 1, x->stride[0]};
    j.last = x->stride[1] == 1;
    for (int a = 0; a < 3; a++) {
        const int64_t n = j.size[a] = x->shape[2 + a], reach = before[a] + after[a] + 1;
        j.pixels *= n;
        REAL *g = j.weights[a] = cc_take(&arena, reach * (int64_t)sizeof(REAL));
        REAL *whole = j.whole[a] = cc_take(&arena, n * (int64_t)sizeof(REAL));
        if (!scratch) continue;
        for (int64_t t = 0; t < reach; t++) g[t] = (REAL)exp(-0.5 * pow((double)(t - before[a]) / sigma[a], 2));
        for (int64_t s = 0; s < n; s++) {
            double sum = 0;
            for (int64_t t = MAX(s - before[a], 0); t <= MIN(s + after[a], n - 1); t++) sum += g[t - s + before[a]];
            whole[s] = (REAL)sum;
        }
    }
    j.own_count = cc_round_up(j.pixels * planes, 64);
    j.own = cc_take(&arena, j.own_count * cc_threads * (int64_t)sizeof(REAL));
    j.bytes = arena.used;
    return j;
}

/* The Gaussian mean around every element of a plane, in place; `turned`: its transpose. */
static void FN(blur)(const contrast_job *j, REAL *a, REAL *other, int turned) {
    int64_t inner = 1, outer = j->pixels;
    for (int axis = 2; axis >= 0; axis--) {
        const int64_t n = j->size[axis], before = turned ? j->after[axis] : j->before[axis];
        const int64_t after = turned ? j->before[axis] : j->after[axis];
        const REAL *g = j->weights[axis] + j->before[axis], *whole = j->whole[axis];
        outer /= n;
        for (int64_t o = 0; before + after && o < outer; o++) {
            REAL *in = a + o * n * inner, *out = other + o * n * inner;
            for (int64_t s = 0; turned && s < n; s++)
                for (int64_t i = 0; i < inner; i++) in[s * inner + i] /= whole[s];
            for (int64_t s = 0; s < n; s++) {
                REAL *to = out + s * inner;
                for (int64_t i = 0; i < inner; i++) to[i] = 0;
                for (int64_t t = MAX(s - before, 0); t <= MIN(s + after, n - 1); t++)
                    for (int64_t i = 0; i < inner; i++) to[i] += g[turned ? s - t : t - s] * in[t * inner + i];
                for (int64_t i = 0; !turned && i < inner; i++) to[i] /= whole[s];
            }
            memcpy(in, out, n * inner * sizeof(REAL));
        }
        inner *= n;
    }
}

/* plane = (sum over the maps of a b) * scale; of a alone where b is NULL */
static void FN(sum_maps)(const contrast_job *j, REAL *plane, const REAL *a, const REAL *b, REAL scale) {
    if (j->last) {
        for (int64_t s = 0; s < j->pixels; s++) {
            const REAL *p = a + s * j->maps, *q = b ? b + s * j->maps : NULL;
            vec sums = {0};
            REAL total = 0;
            for (int64_t c = 0; c < j->maps; c += V) {
                const vec v = FN(load_n)(p + c, j->maps - c);
                sums += q ? v * FN(load_n)(q + c, j->maps - c) : v;
            }
            for (int i = 0; i < V; i++) total += sums[i];
            plane[s] = total * scale;
        }
        return;
    }
    for (int64_t s = 0; s < j->pixels; s++) plane[s] = 0;
    for (int64_t c = 0; c < j->maps; c++) {
        const REAL *p = a + c * j->pixels, *q = b + c * j->pixels;
        if (b) for (int64_t s = 0; s < j->pixels; s++) plane[s] += p[s] * q[s];
        else for (int64_t s = 0; s < j->pixels; s++) plane[s] += p[s];
    }
    for (int64_t s = 0; s < j->pixels; s++) plane[s] *= scale;
}

/* Every element of an image, in the order of memory: `i` its place, `s` its pixel. */
#ifndef EACH
#define EACH(j, i, s, work)                                                                                       \
    if ((j)->last)                                                                                                 \
        for (int64_t s = 0; s < (j)->pixels; s++)                                                                  \
            for (int64_t i = s * (j)->maps; i < (s + 1) * (j)->maps; i++) work;                                    \
    else                                                                                                           \
        for (int64_t c = 0; c < (j)->maps; c++)                                                                    \
            for (int64_t s = 0, i = c * (j)->pixels; s < (j)->pixels; s++, i++) work
#endif

/* Forward and backward of subtractive_norm differ in the direction of the blur alone. */
static int64_t FN(subtract)(cc_out y, cc_in x, const cc_subtractive_norm *p, int turned, void *scratch) {
    const contrast_job j = FN(contrast_plan)(x, p->before, p->after, p->sigma, 2, scratch);
    if (!scratch) return j.bytes;
    PARALLEL_FOR
    for (int64_t n = 0; n < j.images; n++) {
        const REAL *from = (const REAL *)x->data + n * j.image;
        REAL *to = (REAL *)y->data + n * j.image, *mean = j.own + j.own_count * cc_thread();
        FN(sum_maps)(&j, mean, from, NULL, 1 / (REAL)j.maps);
        FN(blur)(&j, mean, mean + j.pixels, turned);
        EACH(&j, i, s, to[i] = from[i] - mean[s]);
    }
    return 0;
}

int64_t FN(subtractive_norm_forward)(cc_out y, cc_in x, const cc_subtractive_norm *p, void *scratch) {
    return FN(subtract)(y, x, p, 0, scratch);
}

int64_t FN(subtractive_norm_backward)(cc_out dx, cc_in dy, const cc_subtractive_norm *p, void *scratch) {
    return FN(subtract)(dx, dy, p, 1, scratch);
}

static REAL FN(mean_of)(const REAL *r, int64_t count) {
    double total = 0;
    for (int64_t s = 0; s < count; s++) total += r[s];
    return (REAL)(total / count);
}

/* d = max(r, least); NaN in either stays */
static void FN(divisors)(REAL *d, const REAL *r, int64_t count, REAL mean, REAL floor) {
    const REAL least = mean < floor ? floor : mean;
    for (int64_t s = 0; s < count; s++) d[s] = r[s] < least || least != least ? least : r[s];
}

int64_t FN(divisive_norm_forward)(cc_out y, cc_out local, cc_in x, const cc_divisive_norm *p, void *scratch) {
    const contrast_job j = FN(contrast_plan)(x, p->before, p->after, p->sigma, 2, scratch);
    if (!scratch) return j.bytes;
    PARALLEL_FOR
    for (int64_t n = 0; n < j.images; n++) {
        const REAL *from = (const REAL *)x->data + n * j.image;
        REAL *to = (REAL *)y->data + n * j.image, *r = (REAL *)local->data + n * j.pixels;
        REAL *d = j.own + j.own_count * cc_thread();
        FN(sum_maps)(&j, d, from, from, 1 / (REAL)j.maps);
        FN(blur)(&j, d, d + j.pixels, 0);
        for (int64_t s = 0; s < j.pixels; s++) r[s] = SQRT(d[s]);
        FN(divisors)(d, r, j.pixels, FN(mean_of)(r, j.pixels), (REAL)p->floor);
        EACH(&j, i, s, to[i] = from[i] / d[s]);
    }
    return 0;
}

int64_t FN(divisive_norm_backward)(cc_out dx, cc_in dy, cc_in x, cc_in local, const cc_divisive_norm *p,
                                   void *scratch) {
    const contrast_job j = FN(contrast_plan)(x, p->before, p->after, p->sigma, 3, scratch);
    if (!scratch) return j.bytes;
    const REAL floor = (REAL)p->floor;
    PARALLEL_FOR
    for (int64_t n = 0; n < j.images; n++) {
        const REAL *v = (const REAL *)x->data + n * j.image, *g = (const REAL *)dy->data + n * j.image;
        const REAL *r = (const REAL *)local->data + n * j.pixels, mean = FN(mean_of)(r, j.pixels);
        REAL *to = (REAL *)dx->data + n * j.image;
        REAL *d = j.own + j.own_count * cc_thread(), *e = d + j.pixels;
        double through_mean = 0;
        FN(divisors)(d, r, j.pixels, mean, floor);
        FN(sum_maps)(&j, e, g, v, -1);
        for (int64_t s = 0; s < j.pixels; s++) {
            const REAL u = e[s] / (d[s] * d[s]);
            const int own = r[s] >= mean && r[s] >= floor;
            e[s] = own ? u : 0;
            if (!own && mean >= floor) through_mean += u;
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
#endif
