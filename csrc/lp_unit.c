/* lp_unit: the power mean of every unit's elements. Units that are neighbours in a map form a run and are computed in
 * vectors.
 *
 * Element q of all units of a run is fetched side by side, minus the center; padding is 0. Along axes where windows do
 * nothing (kernel 1, stride 1) neighbouring rows are one long row. The largest element of a unit has t = 1, so a unit
 * of n elements needs n - 1 logarithms and exponentials, and one of each for the root. A task is a block of groups of
 * one image, so that one thread writes its dx. Channels-last maps are transposed into scratch. Sums over images run in
 * order, in double.
 *
 *   v1  a logarithm and a power for every element, in one loop
 *   v2  the largest element needs neither; exp_down; roots in a loop of their own: 0.62 of the time (backward 0.74)
 *   v3  one function per loop, each 1 / n once, the next run is fetched: 0.78 (0.78)
 *   v4  no code of their own for Inf, NaN and 0; runs of 512 units: 0.88 (0.94)
 *
 * What limits it, measurements: docs/kernels/lp_unit.md. */
#include "twice.h"

#ifdef REAL
#include "vmath.h"

#ifndef LP_UNIT_H
#define LP_UNIT_H
#define RUN 512          /* units of a run, at most, */
#define ELEMENTS 16384   /* and elements of a run, at most: they stay in cache */

/* The window with its last axes merged into one, as far as the window does nothing along them. */
static cc_window merged(const cc_window *window) {
    cc_window w = *window;
    int plain[3];
    for (int a = 0; a < 3; a++) plain[a] = w.kernel[a] == 1 && w.stride[a] == 1 && w.size[a] == w.out[a];
    for (int a = 1; a >= 0 && plain[2] && plain[a]; a--) {
        w.size[2] = w.out[2] *= w.out[a];
        w.size[a] = w.out[a] = 1;
    }
    return w;
}

/* One tap of `count` units of a row. The tap of unit i is a real element for low <= i < high, and stands at element
 * at + i * stride of a map. */
typedef struct { int64_t count, at, low, high; } tap_span;

/* The span of tap number `tap` for the units from `unit` on that are in the same row, at most `count` of them. */
static tap_span span_of(const cc_window *w, int64_t unit, int64_t count, int64_t tap) {
    const int64_t row = unit / w->out[2], first = unit % w->out[2];
    const int64_t kh = tap / w->kernel[2] % w->kernel[1], kd = tap / w->kernel[2] / w->kernel[1];
    const int64_t d = row / w->out[1] * w->stride[0] - w->begin[0] + kd;
    const int64_t h = row % w->out[1] * w->stride[1] - w->begin[1] + kh;
    const int64_t start = first * w->stride[2] - w->begin[2] + tap % w->kernel[2], size = w->size[2];
    count = MIN(count, w->out[2] - first);
    if (d < 0 || d >= w->size[0] || h < 0 || h >= w->size[1]) return (tap_span){count, 0, count, count};
    const int64_t low = start >= 0 ? 0 : MIN(count, cc_ceil_div(-start, w->stride[2]));
    const int64_t high = start >= size ? 0 : MIN(count, cc_ceil_div(size - start, w->stride[2]));
    return (tap_span){count, (d * w->size[1] + h) * size + start, low, MAX(low, high)};
}
#endif

/* One call, and the scratch of a thread: the arrays of a run, and maps where those of the call have to be
 * transposed. */
#define unit_job FN(cc_unit_job)
typedef struct {
    cc_window w;
    int64_t pieces, taps, pixels, units, run, groups, block, blocks, tasks; /* block: groups of a task */
    int packed; /* channels last: maps are transposed on the way in and out */
    REAL *share;                                        /* of every unit of a map: 1 / (number of real elements) */
    REAL *z, *t, *log_t, *slope;                        /* of the elements of a run */
    REAL *most, *mean, *log_mean;                       /* of the units of a run */
    REAL *x_maps, *dx_maps, *y_maps;
} unit_job;

/* The distance in memory from a run of units to the next, which is in the same maps or in those of the next group.
 * Where units overlap, it is a little too short. */
static int64_t FN(ahead_of)(const unit_job *j, int64_t unit) {
    return unit + j->run < j->units ? j->run : j->pieces * j->pixels - unit;
}

static unit_job FN(unit_plan)(cc_in x, cc_in y, const cc_lp_unit *p) {
    unit_job j = {merged(&p->window), p->pieces};
    j.taps = j.w.kernel[0] * j.w.kernel[1] * j.w.kernel[2];
    j.pixels = x->shape[2] * x->shape[3] * x->shape[4];
    j.units = y->shape[2] * y->shape[3] * y->shape[4];
    j.run = MIN(MIN(RUN, cc_round_up(j.units, V)), MAX(V, ELEMENTS / (j.taps * j.pieces) / V * V));
    j.groups = y->shape[1];
    j.packed = x->stride[4] != 1;
    j.block = j.packed ? MIN(j.groups, cc_ceil_div(64 / (int64_t)sizeof(REAL), j.pieces)) : 1;
    j.blocks = cc_ceil_div(j.groups, j.block);
    j.tasks = x->shape[0] * j.blocks;
    return j;
}

/* Cuts the scratch of one thread into arrays. Returns its bytes. */
static int64_t FN(unit_own)(unit_job *j, char *base, int backward) {
    cc_arena a = {base, 0};
    const int64_t run = j->run * (int64_t)sizeof(REAL), maps = j->block * j->pieces * j->pixels * (int64_t)sizeof(REAL);
    REAL **element[] = {&j->z, &j->t, &j->log_t, &j->slope};
    REAL **unit[] = {&j->most, &j->mean, &j->log_mean};
    for (int i = 0; i < 4; i++) *element[i] = cc_take(&a, j->taps * j->pieces * run);
    for (int i = 0; i < 3; i++) *unit[i] = cc_take(&a, run);
    j->x_maps = cc_take(&a, j->packed ? maps : 0);
    j->dx_maps = cc_take(&a, backward ? maps : 0); /* where gradients are added up */
    j->y_maps = cc_take(&a, j->packed ? j->block * j->units * (int64_t)sizeof(REAL) : 0);
    return a.used;
}

/* to[c][r] = from[r][c] */
static void FN(turn)(REAL *to, int64_t to_row, const REAL *from, int64_t from_row, int64_t rows, int64_t columns) {
    const int64_t even_r = rows - rows % V, even_c = columns - columns % V;
    for (int64_t r = 0; r < even_r; r += V)
        for (int64_t c = 0; c < even_c; c += V)
            FN(transpose)(to + c * to_row + r, to_row, from + r * from_row + c, from_row);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = r < even_r ? even_c : 0; c < columns; c++) to[c * to_row + r] = from[r * from_row + c];
}

static void FN(count_shares)(const unit_job *j) {
    for (int64_t i = 0; i < cc_round_up(j->units, V); i++) j->share[i] = i < j->units ? 0 : 1;
    for (int64_t t = 0; t < j->taps; t++)
        for (int64_t done = 0; done < j->units;) {
            const tap_span s = span_of(&j->w, done, j->units - done, t);
            for (int64_t i = s.low; i < s.high; i++) j->share[done + i] += (REAL)j->pieces;
            done += s.count;
        }
    for (int64_t i = 0; i < j->units; i++) j->share[i] = 1 / j->share[i];
}

/* z of `count` units from `first` on, as [tap][piece][run]. The elements `ahead` of them are fetched into the cache. */
static void FN(fetch)(const unit_job *j, int64_t first, int64_t count, const REAL *maps, const REAL *center,
                      int64_t ahead) {
    const int64_t step = j->w.stride[2], whole = cc_round_up(count, V);
    for (int64_t t = 0; t < j->taps; t++)
        for (int64_t done = 0; done < count;) {
            const tap_span s = span_of(&j->w, first + done, count - done, t);
            const int64_t last = done + s.count == count ? whole - done : s.count;
            for (int64_t m = 0; m < j->pieces; m++) {
                const REAL *from = maps + m * j->pixels + s.at, c = center ? center[m] : 0;
                REAL *z = j->z + (t * j->pieces + m) * j->run + done;
                int64_t i = 0;
                for (; i < s.low; i++) z[i] = 0;
                for (; step == 1 && i + V <= s.high; i += V) {
                    FN(store)(z + i, FN(load)(from + i) - c);
                    __builtin_prefetch(from + i + ahead);
                }
                for (; i < s.high; i++) z[i] = from[i * step] - c;
                for (; i < last; i++) z[i] = 0;
            }
            done += s.count;
        }
}

/* At least the smallest normal number; for a NaN, that number. */
INLINE vec FN(normal)(vec t) { return FN(larger)(t, FN(splat)(REAL_IS_FLOAT ? (REAL)0x1p-126 : (REAL)0x1p-1022)); }

/* For every unit: most, the largest |z|; NaN if an element is a NaN. For every element but the first: t = |z| / most,
 * at least the smallest normal number. The largest element has t = 1 and needs no place. If it is not the first
 * element, its place holds the t of the first element. */
static void FN(ratios)(const unit_job *j, int64_t count) {
    const int64_t elements = j->taps * j->pieces, run = j->run;
    for (int64_t i = 0; i < count; i += V) {
        const REAL *z = j->z + i;
        REAL *t = j->t + i;
        const vec first = FN(magnitude)(FN(load)(z));
        vec most = first;
        for (int64_t q = 1; q < elements; q++) { /* as integers: there NaN is more than Inf */
            const vec a = FN(magnitude)(FN(load)(z + q * run));
            most = FN(select)((ivec)a > (ivec)most, a, most);
        }
        FN(store)(j->most + i, most);
        ivec found = first == most;
        for (int64_t q = 1; q < elements; q++) {
            const vec own = FN(magnitude)(FN(load)(z + q * run));
            const ivec largest = ~found & (own == most);
            FN(store)(t + q * run, FN(normal)(FN(select)(largest, first, own) / most));
            found |= largest;
        }
    }
}

/* t^(p-1) and log t. Each loop has one function: the iterations of a loop with more would be too long to overlap. */
static void FN(powers)(const unit_job *j, int64_t count, REAL above) {
    for (int64_t q = 1; q < j->taps * j->pieces; q++) {
        REAL *t = j->t + q * j->run, *log_t = j->log_t + q * j->run, *slope = j->slope + q * j->run;
        for (int64_t i = 0; i < count; i += V) FN(store)(log_t + i, FN(log_normal)(FN(load)(t + i)));
        for (int64_t i = 0; i < count; i += V) FN(store)(slope + i, FN(exp_down)(above * FN(load)(log_t + i)));
    }
}

/* For every unit: s and its logarithm. Where there is an Inf or a NaN, any values. t^p of z = 0 is below a rounding. */
static void FN(means)(const unit_job *j, int64_t count, const REAL *share) {
    const int64_t elements = j->taps * j->pieces, run = j->run;
    for (int64_t i = 0; i < count; i += V) {
        double whole[V] = {0};
        vec sum = FN(splat)(1);
        for (int64_t q = 1; q < elements; q++) {
            if (q % SUM_RUN == 0) {
                FN(end_run)(whole, sum);
                sum = (vec){0};
            }
            sum += FN(load)(j->t + q * run + i) * FN(load)(j->slope + q * run + i);
        }
        if (elements > SUM_RUN) sum = FN(end_run)(whole, sum);
        const vec mean = sum * FN(load)(share + i);
        FN(store)(j->mean + i, mean);
        FN(store)(j->log_mean + i, FN(log_normal)(mean));
    }
}

/* y of a run, from z. */
static void FN(lp_norms)(REAL *y, const unit_job *j, int64_t count, const REAL *share, REAL above) {
    const REAL inverse = 1 / (1 + above);
    FN(ratios)(j, count);
    FN(powers)(j, count, above);
    FN(means)(j, count, share);
    for (int64_t i = 0; i < count; i += V) {
        const vec root = FN(exp_down)(FN(load)(j->log_mean + i) * inverse);
        FN(store_n)(y + i, FN(load)(j->most + i) * root, count - i);
    }
}

/* sign(z) t^(p-1); 0 where z is 0. */
INLINE vec FN(signed_slope)(vec z, vec slope) { return FN(select)(z == 0, z, FN(with_sign)(slope, z)); }

/* Replaces z by the gradient to z. Returns the sum over units of dy y (sum of t^p log t / (n s) - log(s) / p). */
static double FN(lp_slopes)(const unit_job *j, int64_t count, const REAL *dys, const REAL *share, REAL above) {
    const int64_t elements = j->taps * j->pieces, run = j->run;
    const REAL inverse = 1 / (1 + above);
    const vec zero = {0}, one = zero + 1;
    vec to_p = zero;
    double total = 0;
    FN(ratios)(j, count);
    FN(powers)(j, count, above);
    FN(means)(j, count, share);
    for (int64_t i = 0; i < count; i += V) {
        REAL *z = j->z + i;
        const vec most = FN(load)(j->most + i), dy = FN(load_n)(dys + i, count - i);
        const vec log_root = FN(load)(j->log_mean + i) * inverse, undefined = zero + (REAL)NAN;
        const vec root = FN(select)(most < (REAL)INFINITY, FN(exp_down)(log_root), undefined);
        const vec per_mean = FN(load)(share + i) / FN(load)(j->mean + i), scale = dy * (root * per_mean);
        const vec first = FN(load)(z);
        double whole[V] = {0};
        vec logs = zero, of_first = one;
        ivec found = FN(magnitude)(first) == most;
        for (int64_t q = 1; q < elements; q++) {
            const int64_t at = q * run + i;
            const vec own = FN(load)(j->z + at), slope = FN(load)(j->slope + at);
            const ivec largest = ~found & (FN(magnitude)(own) == most);
            if (q % SUM_RUN == 0) {
                FN(end_run)(whole, logs);
                logs = zero;
            }
            logs += FN(load)(j->t + at) * slope * FN(load)(j->log_t + at);
            FN(store)(j->z + at, FN(signed_slope)(own, FN(select)(largest, one, slope)) * scale);
            of_first = FN(select)(largest, slope, of_first);
            found |= largest;
        }
        if (elements > SUM_RUN) logs = FN(end_run)(whole, logs);
        FN(store)(z, FN(signed_slope)(first, of_first) * scale);
        to_p += dy * (most * root) * (logs * per_mean - log_root);
    }
    for (int k = 0; k < V; k++) total += (double)to_p[k];
    return total;
}

/* Adds the gradients of `count` units from `first` on to the places their elements came from. */
static void FN(scatter)(const unit_job *j, int64_t first, int64_t count, REAL *maps) {
    const int64_t step = j->w.stride[2];
    for (int64_t t = 0; t < j->taps; t++)
        for (int64_t done = 0; done < count;) {
            const tap_span s = span_of(&j->w, first + done, count - done, t);
            for (int64_t m = 0; m < j->pieces; m++) {
                const REAL *z = j->z + (t * j->pieces + m) * j->run + done;
                REAL *to = maps + m * j->pixels + s.at;
                if (step == 1)
                    for (int64_t i = s.low; i < s.high; i++) to[i] += z[i];
                else
                    for (int64_t i = s.low; i < s.high; i++) to[i * step] += z[i];
            }
            done += s.count;
        }
}

static double FN(sum_map)(const REAL *a, int64_t count) {
    enum { CHAINS = 4, BLOCK = 16 * CHAINS * V };
    double total = 0;
    for (int64_t first = 0; first < count; first += BLOCK) {
        const int64_t last = MIN(count, first + BLOCK);
        vec sum[CHAINS] = {{0}};
        int64_t i = first;
        for (; i + CHAINS * V <= last; i += CHAINS * V)
            UNROLL for (int k = 0; k < CHAINS; k++) sum[k] += FN(load)(a + i + k * V);
        for (; i < last; i += V) sum[0] += FN(load_n)(a + i, last - i);
        const vec all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
        for (int k = 0; k < V; k++) total += (double)all[k];
    }
    return total;
}

static double FN(softplus)(double rho) { return rho > 0 ? rho + log1p(exp(-rho)) : log1p(exp(rho)); } /* p - 1 */

int64_t FN(lp_unit_forward)(cc_out y, cc_in x, cc_in rho, cc_in center, const cc_lp_unit *p, void *scratch) {
    unit_job job = FN(unit_plan)(x, y, p);
    cc_arena arena = {scratch, 0};
    const int64_t bytes = FN(unit_own)(&job, NULL, 0), channel = x->stride[1];
    job.share = cc_take(&arena, cc_round_up(job.units, V) * (int64_t)sizeof(REAL));
    char *base = cc_take(&arena, bytes * cc_threads);
    if (!scratch) return arena.used;
    FN(count_shares)(&job);
    PARALLEL_TASKS(task, job.tasks) {
        unit_job j = job;
        FN(unit_own)(&j, base + cc_thread() * bytes, 0);
        const int64_t n = task / j.blocks, k0 = task % j.blocks * j.block, groups = MIN(j.block, j.groups - k0);
        const REAL *from = (const REAL *)x->data + n * x->stride[0] + k0 * j.pieces * channel;
        REAL *to = (REAL *)y->data + n * y->stride[0] + k0 * y->stride[1];
        if (j.packed) FN(turn)(j.x_maps, j.pixels, from, x->stride[4], j.pixels, groups * j.pieces);
        for (int64_t g = 0; g < groups; g++) {
            const REAL *maps = (j.packed ? j.x_maps : from) + g * j.pieces * j.pixels;
            const REAL *c = center ? (const REAL *)center->data + (k0 + g) * j.pieces : NULL;
            const REAL above = (REAL)FN(softplus)((double)((const REAL *)rho->data)[k0 + g]);
            REAL *map = (j.packed ? j.y_maps : to) + g * j.units;
            for (int64_t unit = 0; unit < j.units; unit += j.run) {
                const int64_t count = MIN(j.run, j.units - unit);
                FN(fetch)(&j, unit, count, maps, c, FN(ahead_of)(&j, unit));
                FN(lp_norms)(map + unit, &j, count, j.share + unit, above);
            }
        }
        if (j.packed) FN(turn)(to, y->stride[4], j.y_maps, j.units, groups, j.units);
    }
    return 0;
}

int64_t FN(lp_unit_backward)(cc_out dx, cc_out drho, cc_out dcenter, cc_in dy, cc_in x, cc_in rho, cc_in center,
                             const cc_lp_unit *p, void *scratch) {
    unit_job job = FN(unit_plan)(x, dy, p);
    cc_arena arena = {scratch, 0};
    const int64_t bytes = FN(unit_own)(&job, NULL, 1), images = x->shape[0];
    const int64_t channels = x->shape[1];
    const int past = cc_past_cache(cc_count(x) * (int64_t)sizeof(REAL));
    job.share = cc_take(&arena, cc_round_up(job.units, V) * (int64_t)sizeof(REAL));
    char *base = cc_take(&arena, bytes * cc_threads);
    double *to_rho = cc_take(&arena, images * job.groups * (int64_t)sizeof(double));
    double *to_center = cc_take(&arena, images * channels * (int64_t)sizeof(double));
    if (!scratch) return arena.used;
    FN(count_shares)(&job);
    PARALLEL_TASKS(task, job.tasks) {
        unit_job j = job;
        FN(unit_own)(&j, base + cc_thread() * bytes, 1);
        const int64_t n = task / j.blocks, k0 = task % j.blocks * j.block, groups = MIN(j.block, j.groups - k0);
        const int64_t at = n * x->stride[0] + k0 * j.pieces * x->stride[1], count_maps = groups * j.pieces;
        const REAL *from = (const REAL *)x->data + at;
        const REAL *above_maps = (const REAL *)dy->data + n * dy->stride[0] + k0 * dy->stride[1];
        REAL *to = cc_wanted(dx) ? (REAL *)dx->data + at : NULL;
        if (j.packed) {
            FN(turn)(j.x_maps, j.pixels, from, x->stride[4], j.pixels, count_maps);
            FN(turn)(j.y_maps, j.units, above_maps, dy->stride[4], j.units, groups);
        }
        memset(j.dx_maps, 0, count_maps * j.pixels * sizeof(REAL));
        for (int64_t g = 0; g < groups; g++) {
            const REAL *maps = (j.packed ? j.x_maps : from) + g * j.pieces * j.pixels;
            const REAL *dys = (j.packed ? j.y_maps : above_maps) + g * j.units;
            const REAL *c = center ? (const REAL *)center->data + (k0 + g) * j.pieces : NULL;
            const REAL above = (REAL)FN(softplus)((double)((const REAL *)rho->data)[k0 + g]);
            double sum = 0;
            for (int64_t unit = 0; unit < j.units; unit += j.run) {
                const int64_t count = MIN(j.run, j.units - unit);
                FN(fetch)(&j, unit, count, maps, c, FN(ahead_of)(&j, unit));
                sum += FN(lp_slopes)(&j, count, dys + unit, j.share + unit, above);
                FN(scatter)(&j, unit, count, j.dx_maps + g * j.pieces * j.pixels);
            }
            to_rho[n * j.groups + k0 + g] = sum;
        }
        for (int64_t m = 0; cc_wanted(dcenter) && m < count_maps; m++)
            to_center[n * channels + k0 * j.pieces + m] = FN(sum_map)(j.dx_maps + m * j.pixels, j.pixels);
        if (to && j.packed) FN(turn)(to, x->stride[4], j.dx_maps, j.pixels, count_maps, j.pixels);
        else if (to) FN(copy)(to, j.dx_maps, count_maps * j.pixels, past);
    }
    for (int64_t k = 0; cc_wanted(drho) && k < job.groups; k++) {
        const double r = (double)((const REAL *)rho->data)[k];
        double sum = 0;
        for (int64_t n = 0; n < images; n++) sum += to_rho[n * job.groups + k];
        ((REAL *)drho->data)[k] = (REAL)(sum / (1 + FN(softplus)(r)) / (1 + exp(-r)));
    }
    for (int64_t m = 0; cc_wanted(dcenter) && m < channels; m++) {
        double sum = 0;
        for (int64_t n = 0; n < images; n++) sum -= to_center[n * channels + m];
        ((REAL *)dcenter->data)[m] = (REAL)sum;
    }
    return 0;
}
#endif
