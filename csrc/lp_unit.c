/* lp_unit: runs of units that are neighbours in a map are computed in vectors.
 *
 * A run's elements are fetched from maps that stand pixel beside pixel, row by row: element q of all its units lies side by
 * side, less the center, 0 where it is padding. Along axes where windows do nothing (kernel 1, stride 1) neighbouring
 * rows are one long row, so that units over pieces alone are fetched as they lie in memory. All elements of a run go
 * through logarithm and power in one flat loop, whose turns do not wait for each other.
 *
 * A task is a block of groups of one image, so that its dx is written by one thread: one group of contiguous maps; of
 * channels-last maps as many groups as fill a cache line, transposed into scratch. Sums over images run in order, in
 * double. */
#include "twice.h"

#ifdef REAL
#include "vmath.h"

#ifndef LP_UNIT_H
#define LP_UNIT_H
#define RUN 256          /* units at most, */
#define ELEMENTS 16384   /* and elements, so that they stay in cache */

/* The window with its last axes made one as far as it does nothing along them. */
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

/* Of the units from `first` on those in its row, `count` at most: their tap `tap` is real for low <= i < high, and there at
 * element at + i stride of a map. */
typedef struct { int64_t count, at, low, high; } tap_span;

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

/* One call, and what every thread has: a run, and maps where those of the call cannot be used as they are. */
#define unit_job FN(cc_unit_job)
typedef struct {
    cc_window w;
    int64_t pieces, taps, pixels, units, run, groups, block, blocks, tasks; /* block: groups of a task */
    int packed; /* channels last: maps are transposed on the way in and out */
    REAL *z, *y, *dy, *count, *most, *sum, *logs; /* of a run */
    REAL *x_maps, *dx_maps, *y_maps;
} unit_job;

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

/* One thread's part of the scratch; returns its bytes. */
static int64_t FN(unit_own)(unit_job *j, char *base, int backward) {
    cc_arena a = {base, 0};
    const int64_t run = j->run * (int64_t)sizeof(REAL), maps = j->block * j->pieces * j->pixels * (int64_t)sizeof(REAL);
    j->z = cc_take(&a, j->taps * j->pieces * run);
    j->y = cc_take(&a, run);
    j->dy = cc_take(&a, run);
    j->count = cc_take(&a, run);
    j->most = cc_take(&a, run);
    j->sum = cc_take(&a, run);
    j->logs = cc_take(&a, run);
    j->x_maps = cc_take(&a, j->packed ? maps : 0);
    j->dx_maps = cc_take(&a, backward ? maps : 0);
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

/* z of `count` units from `first` on, [tap][piece][run], and how many elements each has */
static void FN(fetch)(const unit_job *j, int64_t first, int64_t count, const REAL *maps, const REAL *center) {
    const int64_t step = j->w.stride[2], whole = cc_round_up(count, V);
    for (int64_t i = 0; i < whole; i++) j->count[i] = i < count ? 0 : 1;
    for (int64_t t = 0; t < j->taps; t++)
        for (int64_t done = 0; done < count;) {
            const tap_span s = span_of(&j->w, first + done, count - done, t);
            const int64_t last = done + s.count == count ? whole - done : s.count;
            for (int64_t i = s.low; i < s.high; i++) j->count[done + i] += (REAL)j->pieces;
            for (int64_t m = 0; m < j->pieces; m++) {
                const REAL *from = maps + m * j->pixels + s.at, c = center ? center[m] : 0;
                REAL *z = j->z + (t * j->pieces + m) * j->run + done;
                for (int64_t i = 0; i < s.low; i++) z[i] = 0;
                if (step == 1)
                    for (int64_t i = s.low; i < s.high; i++) z[i] = from[i] - c;
                else
                    for (int64_t i = s.low; i < s.high; i++) z[i] = from[i * step] - c;
                for (int64_t i = s.high; i < last; i++) z[i] = 0;
            }
            done += s.count;
        }
}

/* Of every unit: `most`, the largest |z|, NaN where one is NaN; `sum`, of t^p, and `logs`, of t^p log t (something, where
 * `most` is not finite). With `keep`, z becomes sign(z) t^(p-1). */
static void FN(sum_powers)(const unit_job *j, int64_t count, REAL above, int keep) {
    const int64_t elements = j->taps * j->pieces;
    const vec least = FN(splat)(REAL_IS_FLOAT ? (REAL)0x1p-126 : (REAL)0x1p-1022), zero = {0};
    for (int64_t i = 0; i < count; i += V) {
        vec most = zero;
        for (int64_t q = 0; q < elements; q++) {
            const vec a = FN(magnitude)(FN(load)(j->z + q * j->run + i));
            most = FN(select)((a <= most) | (most != most), most, a);
        }
        FN(store)(j->most + i, most);
        FN(store)(j->sum + i, zero);
        FN(store)(j->logs + i, zero);
    }
    for (int64_t q = 0; q < elements; q++)
        for (int64_t i = 0; i < count; i += V) {
            REAL *at = j->z + q * j->run + i;
            const vec z = FN(load)(at), most = FN(load)(j->most + i);
            vec t = FN(magnitude)(z) / most;
            t = FN(select)(t > least, t, least); /* also 0/0 */
            const vec log_t = FN(log_normal)(t);
            const vec slope = FN(select)(z == 0, zero, FN(exp)(above * log_t)), power = t * slope;
            FN(store)(j->sum + i, FN(load)(j->sum + i) + power);
            if (!keep) continue;
            FN(store)(j->logs + i, FN(load)(j->logs + i) + power * log_t);
            FN(store)(at, FN(select)(z < 0, -slope, slope));
        }
}

/* s, 1 where all z are 0, and s^(1/p), NaN where there are Inf or NaN */
INLINE vec FN(root_of)(const unit_job *j, int64_t i, REAL above, vec *mean, vec *log_root) {
    const vec most = FN(load)(j->most + i), zero = {0};
    *mean = FN(select)(most > zero, FN(load)(j->sum + i) / FN(load)(j->count + i), zero + 1);
    *log_root = FN(log_normal)(*mean) / (1 + above);
    return FN(select)(most < (REAL)INFINITY, FN(exp)(*log_root), zero + (REAL)NAN);
}

static void FN(lp_norms)(const unit_job *j, int64_t count, REAL above) {
    FN(sum_powers)(j, count, above, 0);
    for (int64_t i = 0; i < count; i += V) {
        vec mean, log_root;
        const vec most = FN(load)(j->most + i), root = FN(root_of)(j, i, above, &mean, &log_root);
        FN(store)(j->y + i, FN(select)(most == (REAL)INFINITY, most, most * root));
    }
}

/* z becomes the gradient to it; returns the sum of dy y (sum of t^p log t / (n s) - log(s) / p). */
static double FN(lp_slopes)(const unit_job *j, int64_t count, REAL above) {
    vec whole = {0};
    double total = 0;
    FN(sum_powers)(j, count, above, 1);
    for (int64_t i = 0; i < count; i += V) {
        vec mean, log_root;
        const vec root = FN(root_of)(j, i, above, &mean, &log_root), share = FN(load)(j->dy + i) / FN(load)(j->count + i);
        const vec y = FN(load)(j->most + i) * root, logs = FN(load)(j->logs + i) / mean;
        whole += share * y * (logs - FN(load)(j->count + i) * log_root);
        FN(store)(j->sum + i, share * (root / mean));
    }
    for (int64_t q = 0; q < j->taps * j->pieces; q++)
        for (int64_t i = 0; i < count; i += V) {
            REAL *z = j->z + q * j->run + i;
            FN(store)(z, FN(load)(z) * FN(load)(j->sum + i));
        }
    for (int k = 0; k < V; k++) total += (double)whole[k];
    return total;
}

/* The gradients of `count` units from `first` on to where their elements came from */
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
    double total = 0;
    for (int64_t first = 0; first < count; first += 64 * V) {
        const int64_t last = MIN(count, first + 64 * V);
        vec sum = {0};
        for (int64_t i = first; i < last; i += V) sum += FN(load_n)(a + i, last - i);
        for (int k = 0; k < V; k++) total += (double)sum[k];
    }
    return total;
}

static double FN(softplus)(double rho) { return rho > 0 ? rho + log1p(exp(-rho)) : log1p(exp(rho)); } /* p - 1 */

int64_t FN(lp_unit_forward)(cc_out y, cc_in x, cc_in rho, cc_in center, const cc_lp_unit *p, void *scratch) {
    unit_job job = FN(unit_plan)(x, y, p);
    const int64_t bytes = FN(unit_own)(&job, NULL, 0), channel = x->stride[1];
    if (!scratch) return bytes * cc_threads;
    PARALLEL_FOR
    for (int64_t task = 0; task < job.tasks; task++) {
        unit_job j = job;
        FN(unit_own)(&j, (char *)scratch + cc_thread() * bytes, 0);
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
                FN(fetch)(&j, unit, count, maps, c);
                FN(lp_norms)(&j, count, above);
                memcpy(map + unit, j.y, count * sizeof(REAL));
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
    char *base = cc_take(&arena, bytes * cc_threads);
    double *to_rho = cc_take(&arena, images * job.groups * (int64_t)sizeof(double));
    double *to_center = cc_take(&arena, images * channels * (int64_t)sizeof(double));
    if (!scratch) return arena.used;
    PARALLEL_FOR
    for (int64_t task = 0; task < job.tasks; task++) {
        unit_job j = job;
        FN(unit_own)(&j, base + cc_thread() * bytes, 1);
        const int64_t n = task / j.blocks, k0 = task % j.blocks * j.block, groups = MIN(j.block, j.groups - k0);
        const int64_t at = n * x->stride[0] + k0 * j.pieces * x->stride[1], count_maps = groups * j.pieces;
        const REAL *from = (const REAL *)x->data + at;
        const REAL *above_maps = (const REAL *)dy->data + n * dy->stride[0] + k0 * dy->stride[1];
        REAL *to = cc_wanted(dx) ? (REAL *)dx->data + at : NULL, *dx_maps = !to || j.packed ? j.dx_maps : to;
        if (j.packed) {
            FN(turn)(j.x_maps, j.pixels, from, x->stride[4], j.pixels, count_maps);
            FN(turn)(j.y_maps, j.units, above_maps, dy->stride[4], j.units, groups);
        }
        memset(dx_maps, 0, count_maps * j.pixels * sizeof(REAL));
        for (int64_t g = 0; g < groups; g++) {
            const REAL *maps = (j.packed ? j.x_maps : from) + g * j.pieces * j.pixels;
            const REAL *dys = (j.packed ? j.y_maps : above_maps) + g * j.units;
            const REAL *c = center ? (const REAL *)center->data + (k0 + g) * j.pieces : NULL;
            const REAL above = (REAL)FN(softplus)((double)((const REAL *)rho->data)[k0 + g]);
            double sum = 0;
            for (int64_t unit = 0; unit < j.units; unit += j.run) {
                const int64_t count = MIN(j.run, j.units - unit);
                for (int64_t i = 0; i < j.run; i++) j.dy[i] = i < count ? dys[unit + i] : 0;
                FN(fetch)(&j, unit, count, maps, c);
                sum += FN(lp_slopes)(&j, count, above);
                FN(scatter)(&j, unit, count, dx_maps + g * j.pieces * j.pixels);
            }
            to_rho[n * j.groups + k0 + g] = sum;
        }
        for (int64_t m = 0; cc_wanted(dcenter) && m < count_maps; m++)
            to_center[n * channels + k0 * j.pieces + m] = FN(sum_map)(dx_maps + m * j.pixels, j.pixels);
        if (j.packed && to) FN(turn)(to, x->stride[4], dx_maps, j.pixels, count_maps, j.pixels);
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
