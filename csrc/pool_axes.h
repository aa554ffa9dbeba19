/* Pooling along one axis: which elements belong to which output, forward and backward. pool.h makes its lists from
 * these, all axes together. */
#ifndef POOL_AXES_H
#define POOL_AXES_H

/* The lists of the pixels along one axis. The list of pixel i is the pairs (index, tap) from first[i] to first[i + 1].
 *
 * Two pixels share a list when their windows differ by a shift alone: add `shift` to every input index and `turn` to
 * every tap number of the first pixel's list to get the second's. The elements that an average counts must agree, too.
 * Such pixels form a kind. A kind has a number, and maker[kind] is its first pixel. Away from the borders, pixels that
 * are `period` apart are of one kind. */
typedef struct {
    int64_t *first, *index, *tap, *counted, *kind, *shift, *turn, period;
    int64_t *maker, kinds; /* the first pixel of every kind; the number of kinds */
    double *weight;        /* of every pair: 1, or the weight in a Gaussian envelope */
    int64_t *low, *high;   /* for WEIGHTS: taps low[o] to high[o] - 1 of output o are real elements, */
    double *total;         /* and total[o] is the sum of its envelope */
} axis_list;

/* What the `share` of a list entry holds: nothing; 1; 1 / n of an average; the weight in a Gaussian envelope. With
 * sigma = Inf the envelope is flat, and the weights make a mean. */
enum { NO_SHARE, ONES, COUNTS, WEIGHTS };

/* What a walk is asked to do. */
typedef struct {
    int backward, share;
    int64_t count_include_pad;
    double sigma; /* of the envelope, in elements */
    int64_t room; /* bytes of scratch per list entry that the variant wants */
} walk_kind;

static axis_list take_axis(const cc_window *w, int a, int backward, cc_arena *arena) {
    const int64_t pixels = backward ? w->size[a] : w->out[a];
    const int64_t pairs = pixels * MIN(w->kernel[a], backward ? w->out[a] : w->size[a]);
    const int64_t per_pixel = pixels * sizeof(int64_t), per_pair = pairs * sizeof(int64_t);
    axis_list l = {.period = backward ? MIN(w->stride[a], pixels) : 1};
    l.first = cc_take(arena, per_pixel + sizeof(int64_t));
    l.index = cc_take(arena, per_pair), l.tap = cc_take(arena, per_pair), l.weight = cc_take(arena, per_pair);
    l.kind = cc_take(arena, per_pixel), l.maker = cc_take(arena, per_pixel);
    l.shift = cc_take(arena, per_pixel), l.turn = cc_take(arena, per_pixel);
    l.counted = cc_take(arena, w->out[a] * sizeof(int64_t)), l.low = cc_take(arena, w->out[a] * sizeof(int64_t));
    l.high = cc_take(arena, w->out[a] * sizeof(int64_t)), l.total = cc_take(arena, w->out[a] * sizeof(double));
    return l;
}

/* The real inputs of every output (backward = 0), or the outputs that hold every input (backward = 1). */
static void fill_axis(axis_list *l, const cc_window *w, int a, int backward) {
    int64_t used = 0;
    for (int64_t i = 0; i < (backward ? w->size[a] : w->out[a]); i++) {
        l->first[i] = used;
        for (int64_t t = 0; t < w->kernel[a]; t++) {
            const int64_t shift = t * w->dilation[a] - w->begin[a];
            const int64_t at = backward ? (i - shift) / w->stride[a] : i * w->stride[a] + shift;
            if (backward && ((i - shift) % w->stride[a] || i < shift || at >= w->out[a])) continue;
            if (!backward && (at < 0 || at >= w->size[a])) continue;
            l->index[used] = at;
            l->tap[used++] = t;
        }
        l->first[i + 1] = used;
    }
}

/* How many elements of a window an average counts along one axis. These are the real elements. With count_include_pad,
 * padding counts, too, but not what ceil_mode adds behind the padding. */
static void fill_counted(axis_list *l, const cc_window *w, int a, int64_t count_include_pad) {
    for (int64_t o = 0; o < w->out[a]; o++) {
        const int64_t start = o * w->stride[a] - w->begin[a], d = w->dilation[a];
        const int64_t stop = w->size[a] + (count_include_pad ? w->end[a] : 0);
        const int64_t skipped = count_include_pad || start >= 0 ? 0 : cc_ceil_div(-start, d);
        l->counted[o] = MIN(w->kernel[a], cc_ceil_div(stop - start, d)) - skipped;
    }
}

/* The value at `tap` of a Gaussian envelope over the real taps [first, last) of a window, before the division by the
 * sum. The envelope is 1 at the real tap that is nearest to the centre, so the weights cannot all underflow to 0. */
static double envelope(const cc_window *w, int a, double sigma, int64_t first, int64_t last, int64_t tap) {
    const double centre = (w->kernel[a] - 1) / 2.0, far = fabs(tap - centre);
    const double nearest = fabs(MIN(MAX(floor(centre), first), last - 1) - centre);
    return exp(-((far - nearest) / sigma) * ((far + nearest) / sigma) / 2);
}

static void fill_weights(axis_list *l, const cc_window *w, int a, const walk_kind *kind) {
    const int64_t pixels = kind->backward ? w->size[a] : w->out[a], d = w->dilation[a];
    if (kind->share != WEIGHTS) {
        for (int64_t j = 0; j < l->first[pixels]; j++) l->weight[j] = 1;
        return;
    }
    for (int64_t o = 0; o < w->out[a]; o++) {
        const int64_t start = o * w->stride[a] - w->begin[a];
        l->low[o] = start >= 0 ? 0 : cc_ceil_div(-start, d);
        l->high[o] = MIN(w->kernel[a], cc_ceil_div(w->size[a] - start, d));
        l->total[o] = 0;
        for (int64_t t = l->low[o]; t < l->high[o]; t++)
            l->total[o] += envelope(w, a, kind->sigma, l->low[o], l->high[o], t);
    }
    for (int64_t i = 0; i < pixels; i++)
        for (int64_t j = l->first[i]; j < l->first[i + 1]; j++) {
            const int64_t o = kind->backward ? l->index[j] : i;
            l->weight[j] = envelope(w, a, kind->sigma, l->low[o], l->high[o], l->tap[j]) / l->total[o];
        }
}

static void fill_kinds(axis_list *l, int64_t pixels, int backward) {
    for (int64_t i = 0; i < pixels; i++) {
        const int64_t before = i - l->period, now = l->first[i], count = l->first[i + 1] - now;
        const int64_t then = before < 0 ? 0 : l->first[before];
        int same = before >= 0 && count == l->first[before + 1] - then &&
                   (backward || l->counted[i] == l->counted[before]);
        const int64_t shift = same && count ? l->index[now] - l->index[then] : 0;
        const int64_t turn = same && count ? l->tap[now] - l->tap[then] : 0;
        for (int64_t j = 0; same && j < count; j++)
            same = l->index[now + j] == l->index[then + j] + shift && l->tap[now + j] == l->tap[then + j] + turn &&
                   l->weight[now + j] == l->weight[then + j] &&
                   (!backward || l->counted[l->index[now + j]] == l->counted[l->index[then + j]]);
        l->kind[i] = same ? l->kind[before] : l->kinds;
        l->shift[i] = same ? l->shift[before] + shift : 0;
        l->turn[i] = same ? l->turn[before] + turn : 0;
        if (!same) l->maker[l->kinds++] = i;
    }
}
#endif
