/* lp_unit: the elements of RUN units at a time are gathered side by side, padding as 0, and computed in vectors.
 *
 * A task is a group of maps of one image, so that its dx is written by one thread. Where a unit's elements stand is the
 * same for all of them, and listed once. Sums over images run in order, in double. */
#include "twice.h"

#ifdef REAL
#include "vmath.h"

#ifndef LP_UNIT_H
#define LP_UNIT_H
#define RUN 64
#endif

/* For every tap and unit, the pixel of x or -1; for every unit, how many elements it has. */
#define lp_places FN(cc_lp_places)
typedef struct { int64_t units, taps, *at; REAL *count; } lp_places;

static lp_places FN(find_places)(const cc_window *w, int64_t pieces, cc_arena *arena) {
    const int64_t units = w->out[0] * w->out[1] * w->out[2], taps = w->kernel[0] * w->kernel[1] * w->kernel[2];
    lp_places l = {units, taps, cc_take(arena, units * taps * sizeof(int64_t)), cc_take(arena, units * sizeof(REAL))};
    for (int64_t u = 0; arena->base && u < units; u++) {
        const int64_t o[3] = {u / w->out[2] / w->out[1], u / w->out[2] % w->out[1], u % w->out[2]};
        l.count[u] = 0;
        for (int64_t t = 0; t < taps; t++) {
            const int64_t k[3] = {t / w->kernel[2] / w->kernel[1], t / w->kernel[2] % w->kernel[1], t % w->kernel[2]};
            int64_t pixel = 0;
            for (int a = 0; a < 3; a++) {
                const int64_t i = o[a] * w->stride[a] + k[a] - w->begin[a];
                pixel = pixel < 0 || i < 0 || i >= w->size[a] ? -1 : pixel * w->size[a] + i;
            }
            l.at[t * units + u] = pixel;
            l.count[u] += pixel < 0 ? 0 : pieces;
        }
    }
    return l;
}

/* z of `count` units from `first` on, [tap][piece][RUN] */
static void FN(gather)(REAL *z, const lp_places *l, int64_t first, int64_t count, const REAL *x, int64_t pixel,
                       int64_t channel, const REAL *center, int64_t pieces) {
    for (int64_t t = 0; t < l->taps; t++)
        for (int64_t j = 0; j < pieces; j++, z += RUN) {
            const int64_t *at = l->at + t * l->units + first;
            const REAL c = center ? center[j] : 0;
            for (int64_t i = 0; i < count; i++) z[i] = at[i] < 0 ? 0 : x[at[i] * pixel + j * channel] - c;
            for (int64_t i = count; i < RUN; i++) z[i] = 0;
        }
}

/* log, with the smallest normal number for what is below it */
INLINE vec FN(log_positive)(vec x) {
    const vec least = FN(splat)(REAL_IS_FLOAT ? (REAL)0x1p-126 : (REAL)0x1p-1022);
    return FN(log)(FN(select)(x < least, least, x));
}

static void FN(lp_norms)(REAL *y, const REAL *z, const REAL *count, int64_t elements, REAL norm) {
    for (int64_t i = 0; i < RUN; i += V) {
        vec most = {0}, sum = {0};
        ivec nan = {0};
        for (int64_t q = 0; q < elements; q++) {
            const vec a = FN(magnitude)(FN(load)(z + q * RUN + i));
            most = FN(select)(a > most, a, most);
            nan |= a != a;
        }
        const vec scale = FN(select)(most > 0, most, FN(splat)(1));
        for (int64_t q = 0; q < elements; q++) {
            const vec r = FN(magnitude)(FN(load)(z + q * RUN + i)) / scale;
            sum += FN(select)(r > 0, FN(exp)(norm * FN(log_positive)(r)), (vec){0});
        }
        vec value = most * FN(exp)(FN(log_positive)(sum / FN(load)(count + i)) / norm);
        value = FN(select)(most > 0, value, most);
        value = FN(select)(most == (REAL)INFINITY, most, value);
        FN(store)(y + i, FN(select)(nan, FN(splat)((REAL)NAN), value));
    }
}

INLINE REAL FN(norm_of)(REAL rho) { return (REAL)(1 + (rho > 0 ? rho + log1p(exp(-rho)) : log1p(exp(rho)))); }

/* Pieces of scratch that every thread has */
#define lp_own FN(cc_lp_own)
typedef struct { REAL *z, *y, *dy, *count; int64_t bytes; } lp_own;

static lp_own FN(own)(char *base, int64_t elements) {
    cc_arena a = {base, 0};
    lp_own o = {cc_take(&a, elements * RUN * sizeof(REAL)), cc_take(&a, RUN * sizeof(REAL)),
                cc_take(&a, RUN * sizeof(REAL)), cc_take(&a, RUN * sizeof(REAL)), 0};
    o.bytes = a.used;
    return o;
}

int64_t FN(lp_unit_forward)(cc_out y, cc_in x, cc_in rho, cc_in center, const cc_lp_unit *p, void *scratch) {
    cc_arena arena = {scratch, 0};
    const int64_t k = y->shape[1], pieces = p->pieces;
    const lp_places l = FN(find_places)(&p->window, pieces, &arena);
    const int64_t bytes = FN(own)(NULL, l.taps * pieces).bytes;
    char *base = cc_take(&arena, bytes * cc_threads);
    if (!scratch) return arena.used;
    PARALLEL_FOR
    for (int64_t task = 0; task < y->shape[0] * k; task++) {
        const lp_own own = FN(own)(base + cc_thread() * bytes, l.taps * pieces);
        const int64_t n = task / k, m = task % k;
        const REAL *from = (const REAL *)x->data + n * x->stride[0] + m * pieces * x->stride[1];
        const REAL *c = center ? (const REAL *)center->data + m * pieces : NULL;
        REAL *to = (REAL *)y->data + n * y->stride[0] + m * y->stride[1];
        const REAL norm = FN(norm_of)(((const REAL *)rho->data)[m]);
        for (int64_t first = 0; first < l.units; first += RUN) {
            const int64_t count = MIN(RUN, l.units - first);
            FN(gather)(own.z, &l, first, count, from, x->stride[4], x->stride[1], c, pieces);
            for (int64_t i = 0; i < RUN; i++) own.count[i] = i < count ? l.count[first + i] : 1;
            FN(lp_norms)(own.y, own.z, own.count, l.taps * pieces, norm);
            for (int64_t i = 0; i < count; i++) to[(first + i) * y->stride[4]] = own.y[i];
        }
    }
    return 0;
}

/* z becomes the gradient to it; returns the sum of dy y (sum of r^p log r) / n. */
static double FN(lp_slopes)(REAL *z, const REAL *y, const REAL *dy, const REAL *count, int64_t elements, REAL norm) {
    double total = 0;
    for (int64_t i = 0; i < RUN; i += V) {
        const vec size = FN(load)(y + i), share = FN(load)(dy + i) / FN(load)(count + i);
        const vec scale = FN(select)(size == 0, FN(splat)(1), size);
        vec sum = {0};
        for (int64_t q = 0; q < elements; q++) {
            REAL *at = z + q * RUN + i;
            const vec v = FN(load)(at), r = FN(magnitude)(v) / scale, log_r = FN(log_positive)(r);
            const vec slope = FN(select)(v == 0, (vec){0}, FN(exp)((norm - 1) * log_r));
            sum += FN(select)(v == 0, (vec){0}, r * slope * log_r);
            FN(store)(at, share * FN(signed_as)(slope, v));
        }
        sum *= share * size;
        for (int j = 0; j < V; j++) total += (double)sum[j];
    }
    return total;
}

int64_t FN(lp_unit_backward)(cc_out dx, cc_out drho, cc_out dcenter, cc_in dy, cc_in x, cc_in rho, cc_in center,
                             cc_in y, const cc_lp_unit *p, void *scratch) {
    cc_arena arena = {scratch, 0};
    const int64_t k = y->shape[1], pieces = p->pieces, images = x->shape[0], tasks = images * k;
    const lp_places l = FN(find_places)(&p->window, pieces, &arena);
    const int64_t bytes = FN(own)(NULL, l.taps * pieces).bytes, pixels = x->shape[2] * x->shape[3] * x->shape[4];
    char *base = cc_take(&arena, bytes * cc_threads);
    double *to_norm = cc_take(&arena, tasks * sizeof(double));
    double *to_center = cc_take(&arena, tasks * pieces * sizeof(double));
    if (!scratch) return arena.used;
    PARALLEL_FOR
    for (int64_t task = 0; task < tasks; task++) {
        const lp_own own = FN(own)(base + cc_thread() * bytes, l.taps * pieces);
        const int64_t n = task / k, m = task % k, in = n * x->stride[0] + m * pieces * x->stride[1];
        const REAL *c = center ? (const REAL *)center->data + m * pieces : NULL;
        REAL *to = cc_wanted(dx) ? (REAL *)dx->data + in : NULL;
        const REAL norm = FN(norm_of)(((const REAL *)rho->data)[m]);
        to_norm[task] = 0;
        for (int64_t j = 0; j < pieces; j++) {
            to_center[task * pieces + j] = 0;
            for (int64_t i = 0; to && i < pixels; i++) to[i * x->stride[4] + j * x->stride[1]] = 0;
        }
        for (int64_t first = 0; first < l.units; first += RUN) {
            const int64_t count = MIN(RUN, l.units - first), out = n * y->stride[0] + m * y->stride[1];
            FN(gather)(own.z, &l, first, count, (const REAL *)x->data + in, x->stride[4], x->stride[1], c, pieces);
            for (int64_t i = 0; i < RUN; i++) {
                const int64_t at = out + (first + i) * y->stride[4];
                own.y[i] = i < count ? ((const REAL *)y->data)[at] : 0;
                own.dy[i] = i < count ? ((const REAL *)dy->data)[at] : 0;
                own.count[i] = i < count ? l.count[first + i] : 1;
            }
            to_norm[task] += FN(lp_slopes)(own.z, own.y, own.dy, own.count, l.taps * pieces, norm);
            const REAL *g = own.z;
            for (int64_t t = 0; t < l.taps; t++)
                for (int64_t j = 0; j < pieces; j++, g += RUN)
                    for (int64_t i = 0; i < count; i++) {
                        const int64_t at = l.at[t * l.units + first + i];
                        if (at < 0) continue;
                        if (to) to[at * x->stride[4] + j * x->stride[1]] += g[i];
                        to_center[task * pieces + j] -= (double)g[i];
                    }
        }
    }
    for (int64_t m = 0; cc_wanted(drho) && m < k; m++) {
        double sum = 0;
        const double r = (double)((const REAL *)rho->data)[m];
        for (int64_t n = 0; n < images; n++) sum += to_norm[n * k + m];
        ((REAL *)drho->data)[m] = (REAL)(sum / (double)FN(norm_of)((REAL)r) / (1 + exp(-r)));
    }
    for (int64_t c = 0; cc_wanted(dcenter) && c < k * pieces; c++) {
        double sum = 0;
        for (int64_t n = 0; n < images; n++) sum += to_center[n * k * pieces + c];
        ((REAL *)dcenter->data)[c] = (REAL)sum;
    }
    return 0;
}
#endif
