/* Pooling, first part: the lists of a window walk, and the macros that a pooling variant is written with.
 *
 * The channels of a map are the lanes of a vector, so V maps are pooled at once. Every pixel has a list:
 *
 *   forward    the real elements of an output pixel's window, as pairs (offset, tap)
 *   backward   the windows that contain a pixel of dx, as pairs (output pixel, tap). So one thread writes each dx once:
 *              nothing is zeroed first, and there are no races.
 *
 *   v1  one vector of channels at a time, one call per pixel
 *   v2  the list and the pointers are local copies: compilers keep them in registers
 *   v3  VECTORS vectors at a time: the list is read once for them
 *   v4  a variant walks a row of pixels: 2x2 max pooling takes as long as a plain pass over memory
 *   v5  pixels of a kind share one list: with v4, backward of global max pooling takes 0.57 of the time
 *   v6  WIDE vectors of a LONG list, elements fetched ahead: memory is read in one sweep, forward takes 0.75
 *   v7  every pixel fetches its share of the next row: lp 4 with 3x3 windows takes 0.67 forward, 0.89 backward
 *
 * Limits and measurements: docs/kernels/pool.md. Included by pool*.c, after twice.h; pool_walk.h follows it. */

#include "pool_axes.h"

#ifndef POOL_H
#define POOL_H
#define MOST_HELD 16 /* lists that a thread holds; a power of two */
#define MOST_READ 4    /* maps of floats that a variant reads at the offsets of the list */
#define MOST_WRITTEN 3 /* maps of floats that it writes */
#define MOST_CHOSEN 3  /* maps of tap numbers that it writes in forward and reads in backward */
#endif

/* The list of one pixel. Entry i is the element at base + at[i]; its number in the window is turn + tap[i]. `share` is
 * what pool_axes.h says. Forward of an average has a single share, which serves all entries. `room` is scratch for the
 * variant. */
#define pool_list FN(cc_pool_list)
typedef struct {
    int64_t kind, count, base, turn, *at, *tap;
    REAL *share;
    void *room;
} pool_list;

/* The maps of a walk. A map that the variant does not use is NULL.
 *
 *   in, chosen     read at the offsets of the list; `chosen` holds winners (tap numbers)
 *   here           read at the pixel itself
 *   out, choice    written at the pixel itself; `choice` holds winners
 *
 * move_maps makes pointers to the first channel of a pixel. */
#define pool_maps FN(cc_pool_maps)
typedef struct {
    const REAL *in[MOST_READ], *here;
    const int32_t *chosen[MOST_CHOSEN];
    REAL *out[MOST_WRITTEN];
    int32_t *choice[MOST_CHOSEN];
    int past; /* results are written by non-temporal stores: FN(stream) */
} pool_maps;

INLINE pool_maps FN(move_maps)(const pool_maps *m, int64_t in, int64_t here) {
    pool_maps to = {{0}};
    for (int i = 0; i < MOST_READ; i++) to.in[i] = m->in[i] ? m->in[i] + in : NULL;
    for (int i = 0; i < MOST_WRITTEN; i++) to.out[i] = m->out[i] ? m->out[i] + here : NULL;
    to.here = m->here ? m->here + here : NULL;
    for (int i = 0; i < MOST_CHOSEN; i++) to.chosen[i] = m->chosen[i] ? m->chosen[i] + in : NULL;
    for (int i = 0; i < MOST_CHOSEN; i++) to.choice[i] = m->choice[i] ? m->choice[i] + here : NULL;
    to.past = m->past;
    return to;
}

INLINE ivec FN(load_winner)(const int32_t *p, int64_t lanes) {
    ivec v;
#if REAL_IS_FLOAT
    if (lanes >= V) {
        memcpy(&v, p, sizeof v);
        return v;
    }
#endif
    for (int64_t i = 0; i < V; i++) v[i] = i < lanes ? p[i] : -1;
    return v;
}

INLINE void FN(store_winner)(int32_t *p, ivec v, int64_t lanes) {
#if REAL_IS_FLOAT
    if (lanes >= V) {
        memcpy(p, &v, sizeof v);
        return;
    }
#endif
    for (int64_t i = 0; i < MIN(lanes, V); i++) p[i] = (int32_t)v[i];
}

/* --- the walk --------------------------------------------------------------------------------------------------- */

#define pool_walk FN(cc_pool_walk)
typedef struct {
    const cc_window *w;
    walk_kind kind;
    int64_t size[3]; /* the pixels that are written */
    axis_list axis[3];
    int64_t most, held; /* entries of the longest list; number of lists that a thread holds */
} pool_walk;

static pool_walk FN(start_walk)(const cc_window *w, const walk_kind *kind, cc_arena *arena) {
    pool_walk k = {w, *kind, {0}, {{0}}, 1, 1};
    const int backward = kind->backward;
    for (int a = 0; a < 3; a++) {
        const int64_t per = backward ? MIN(w->kernel[a], w->out[a]) : MIN(w->kernel[a], w->size[a]);
        k.size[a] = backward ? w->size[a] : w->out[a];
        k.most *= per;
        k.axis[a] = take_axis(w, a, backward, arena);
        if (!arena->base) continue;
        fill_axis(&k.axis[a], w, a, backward);
        fill_counted(&k.axis[a], w, a, kind->count_include_pad);
        fill_weights(&k.axis[a], w, a, kind);
        fill_kinds(&k.axis[a], k.size[a], backward);
    }
    while (2 * k.held <= MIN(MOST_HELD, k.size[0] * k.size[1] * k.size[2])) k.held *= 2;
    return k;
}

/* A row of pixels.
 *
 *   channels      how many channels; their stride is 1
 *   in            strides of the maps that lists point into
 *   here, step    the row's first pixel in the maps that are written; the distance to the next pixel
 *   first         depth and height of the first row of this kind (pool_axes.h)
 *   kind          the number of the list of the row's first pixel
 *   base, turn    what this row adds to the offsets and to the taps of that first row
 *   lists         the lists that the thread holds; list number k is in place k modulo `held` */
#define pool_row FN(cc_pool_row)
typedef struct {
    const pool_walk *walk;
    pool_maps maps;
    pool_list *lists;
    int64_t channels, first[2], kind, base, turn, in[3], here, step, share;
    const REAL *soon; /* what the next row mostly reads; each pixel fetches `share` elements of it */
    int once;         /* no other row reads these elements: fetch them by non-temporal prefetch */
} pool_row;
typedef void FN(cc_pool_fn)(const pool_row *row, const void *p);
#define pool_fn FN(cc_pool_fn)

/* Makes the list of pixel x of a row; x is the first pixel of its kind. */
static void FN(fill_list)(const pool_row *row, int64_t x, pool_list *l) {
    const axis_list *d = &row->walk->axis[0], *h = &row->walk->axis[1], *v = &row->walk->axis[2];
    const int64_t *kernel = row->walk->w->kernel, *at = row->first, first = v->first[x], last = v->first[x + 1];
    const int share = row->walk->kind.share, backward = row->walk->kind.backward;
    int64_t n = 0;
    for (int64_t i = d->first[at[0]]; i < d->first[at[0] + 1]; i++)
        for (int64_t j = h->first[at[1]]; j < h->first[at[1] + 1]; j++, n += last - first) {
            const int64_t place = d->index[i] * row->in[0] + h->index[j] * row->in[1];
            const int64_t number = (d->tap[i] * kernel[1] + h->tap[j]) * kernel[2];
            const double weight = d->weight[i] * h->weight[j];
            for (int64_t m = first; m < last; m++) l->at[n + m - first] = place + v->index[m] * row->in[2];
            for (int64_t m = first; m < last; m++) l->tap[n + m - first] = number + v->tap[m];
            if (share == ONES || share == WEIGHTS)
                for (int64_t m = first; m < last; m++) l->share[n + m - first] = (REAL)(weight * v->weight[m]);
            if (share == COUNTS && backward)
                for (int64_t m = first; m < last; m++)
                    l->share[n + m - first] = 1 / (REAL)(d->counted[d->index[i]] * h->counted[h->index[j]] *
                                                         v->counted[v->index[m]]);
        }
    if (share == COUNTS && !backward) l->share[0] = 1 / (REAL)(d->counted[at[0]] * h->counted[at[1]] * v->counted[x]);
    l->count = n;
}

/* The list of pixel x of a row, from those that the thread holds. */
INLINE pool_list FN(list_of)(const pool_row *row, int64_t x) {
    const axis_list *v = &row->walk->axis[2];
    const int64_t kind = row->kind + v->kind[x];
    pool_list *held = row->lists + (kind & (row->walk->held - 1));
    if (held->kind != kind) {
        FN(fill_list)(row, v->maker[v->kind[x]], held);
        held->kind = kind;
    }
    pool_list l = *held;
    l.base = row->base + v->shift[x] * row->in[2];
    l.turn = row->turn + v->turn[x];
    return l;
}

/* --- variants --------------------------------------------------------------------------------------------------- */

/* What the code of a variant sees: the macros, the names that they take from where they stand, and what they give.
 *
 *   macro               uses                  gives
 *   ONE(f)                                    the head of f_one(l, m, c, p, n, lanes): list, maps, first channel,
 *                                             parameters, number of vectors (a constant), lanes that a vector has
 *   EACH_VECTOR         n                     the loop over vectors u = 0 ... n - 1
 *   ELEMENT(a, i)       l m c u lanes         a vec: what map in[a] holds at entry i of the list
 *   HERE                m c u lanes           a vec: what map `here` holds at the pixel itself
 *   TAP(i), WON(k, i)   l; l m c u lanes      ivecs: the tap number of entry i; -1 in lanes where chosen[k] is that tap
 *   PUT(a, v)           m c u lanes           writes the vec v to map out[a] at the pixel
 *   CHOOSE(k, v)        m c u lanes           writes the ivec v to map choice[k] at the pixel
 *   SUM_LIST(s, code)   l n; gives code i     declares sum[s][u]: what code adds to it for every entry i
 *   PEAK(of)            l m c n lanes         declares best[u], the largest of(element), and won[u], its tap
 *   CLIMB(i, of)        the same, best, won   goes on with PEAK from entry i; `of` is a function or nothing
 *   EACH_PIXEL(code)    row                   declares pixels, channels, maps; code sees x, list, l, pixel, m, c = 0
 *   GROUPS(f, n, ...)   l m c p channels      calls f_one for n vectors while they fit, and moves c
 *   REST(f, ...)        l m c p channels      calls f_one for what is left of a vector
 *   VARIANT(f)          f_one                 defines f(row, p), the walk along a row
 *   DEEP_VARIANT(f)     f_one                 defines f_deep(row, p), the same for long lists: see below */

/* How many vectors of channels VARIANT takes at a time: VECTORS, then FEW, then one, then what is left of one. A LONG
 * list comes from memory, which is read best in order: there WIDE vectors come first. Every group takes time to
 * compile, so double has only groups of FEW and of one. */
#if CC_VECTOR_BYTES == 64
#define VECTORS 6
#define WIDE 6 /* six cache lines; there are 32 registers */
#elif CC_VECTOR_BYTES == 32
#define VECTORS 6
#define WIDE 12 /* six cache lines */
#else
#define VECTORS 4
#define WIDE 12
#endif
#define FEW 2
#define LONG 16
#define FETCHED 8
#define MOST_SHARE 2048 /* elements that a pixel fetches for the next row, at most */
#define ONE(name, ...)                                                                                              \
    INLINE void FN(name##_one)(const pool_list *l, const pool_maps *m, int64_t c, const void *p, const int n,       \
                               int64_t lanes, ##__VA_ARGS__)
#define EACH_VECTOR UNROLL for (int u = 0; u < n; u++)
/* Sums of more than SUM_RUN terms are cut into runs, and the runs are added up in double (simd.h). Usual windows are
 * one run and take the first loop, which has none of that. */
#define SUM_LIST(sums, ...)                                                                                         \
    vec sum[sums][WIDE];                                                                                            \
    EACH_SUM(sums) sum[s][u] = (vec){0};                                                                            \
    if (__builtin_expect(l->count <= SUM_RUN, 1)) {                                                                 \
        for (int64_t i = 0; i < l->count; i++) {                                                                    \
            __VA_ARGS__                                                                                             \
        }                                                                                                           \
    } else {                                                                                                        \
        double whole_[sums][WIDE * V];                                                                              \
        REAL run_[sums][WIDE * V];                                                                                  \
        memset(whole_, 0, sizeof whole_);                                                                           \
        for (int64_t i = 0; i < l->count;) {                                                                        \
            for (const int64_t end_ = MIN(i + SUM_RUN, l->count); i < end_; i++) {                                  \
                __VA_ARGS__                                                                                         \
            }                                                                                                       \
            EACH_SUM(sums) FN(store)(run_[s] + u * V, sum[s][u]);                                                   \
            EACH_SUM(sums) sum[s][u] = (vec){0};                                                                    \
            for (int s = 0; s < sums; s++) FN(add_run)(whole_[s], run_[s], n * V);                                  \
        }                                                                                                           \
        for (int s = 0; s < sums; s++) FN(round_runs)(run_[s], whole_[s], n * V);                                   \
        EACH_SUM(sums) sum[s][u] = FN(load)(run_[s] + u * V);                                                       \
    }
#define EACH_SUM(sums) UNROLL for (int s = 0; s < sums; s++) EACH_VECTOR
#define ELEMENT(a, i) FN(load_n)(m->in[a] + l->at[i] + c + u * V, lanes)
#define HERE FN(load_n)(m->here + c + u * V, lanes)
#define WON(k, i) (FN(load_winner)(m->chosen[k] + l->at[i] + c + u * V, lanes) == TAP(i))
#define TAP(i) ((ivec){0} + (INT)(l->tap[i] + l->turn))
#define PUT(a, v) FN(stream_n)(m->out[a] + c + u * V, v, lanes, m->past)
#define CHOOSE(k, v) FN(store_winner)(m->choice[k] + c + u * V, v, lanes)

/* Fetches the share of pixel x of what the next row will read. Data that several windows read goes to the second-level
 * cache, since the first is full of this row. Data that is read once is fetched by non-temporal prefetch: it stays out
 * of the outer cache levels and displaces nothing there. */
INLINE void FN(fetch_share)(const pool_row *row, int64_t x) {
    for (int64_t i = x * row->share; i < (x + 1) * row->share; i += 64 / (int64_t)sizeof(REAL)) {
        if (row->once) __builtin_prefetch(row->soon + i, 0, 0);
        else __builtin_prefetch(row->soon + i, 0, 2);
    }
}

#define EACH_PIXEL(...)                                                                                             \
    const int64_t pixels = row->walk->size[2], channels = row->channels;                                            \
    const pool_maps maps = row->maps;                                                                               \
    for (int64_t x = 0; x < pixels; x++) {                                                                          \
        const pool_list list = FN(list_of)(row, x), *l = &list;                                                     \
        const pool_maps pixel = FN(move_maps)(&maps, list.base, row->here + x * row->step), *m = &pixel;            \
        FN(fetch_share)(row, x);                                                                                    \
        int64_t c = 0;                                                                                              \
        __VA_ARGS__                                                                                                 \
    }
#define GROUPS(name, n, ...)                                                                                        \
    if (REAL_IS_FLOAT || (n) <= FEW)                                                                                \
        for (; c + (n) * V <= channels; c += (n) * V) FN(name##_one)(l, m, c, p, n, V, ##__VA_ARGS__);
#define REST(name, ...)                                                                                             \
    if (c < channels) FN(name##_one)(l, m, c, p, 1, channels - c, ##__VA_ARGS__);
#define VARIANT(name)                                                                                               \
    static void FN(name)(const pool_row *row, const void *p) {                                                      \
        EACH_PIXEL(if (WIDE > VECTORS && l->count > LONG) GROUPS(name, WIDE)                                        \
                   GROUPS(name, VECTORS) GROUPS(name, FEW) GROUPS(name, 1) REST(name))                              \
    }

/* The walk that takes the place of VARIANT(name) where lists are long, for variants whose out[0] is a sum over the
 * list. name_one gets pieces of SUM_RUN entries. The sums of the pieces are added up in double. */
#define DEEP_VARIANT(name, ...)                                                                                     \
    static void FN(name##_deep)(const pool_row *row, const void *p) {                                               \
        EACH_PIXEL(for (; c < channels; c += V) {                                                                   \
            const int64_t lanes = MIN(V, channels - c);                                                             \
            double whole[V] = {0};                                                                                  \
            REAL part[V];                                                                                           \
            pool_maps to = FN(move_maps)(m, c, c);                                                                  \
            to.out[0] = part, to.past = 0;                                                                          \
            for (int64_t i = 0; i < l->count; i += SUM_RUN) {                                                       \
                const pool_list some = FN(list_piece)(l, i);                                                        \
                FN(name##_one)(&some, &to, 0, p, 1, lanes, ##__VA_ARGS__);                                          \
                FN(add_run)(whole, part, lanes);                                                                    \
            }                                                                                                       \
            FN(round_runs)(m->out[0] + c, whole, lanes);                                                            \
        })                                                                                                          \
    }
static pool_list FN(list_piece)(const pool_list *l, int64_t first) {
    pool_list some = *l;
    some.count = MIN(SUM_RUN, l->count - first);
    some.at += first, some.tap += first, some.share += first;
    return some;
}

/* Fetches the elements that stand FETCHED entries behind entry i of a LONG list. A loop with more than a few
 * instructions per load has too few loads under way, and would wait at every new page. */
INLINE void FN(fetch_ahead)(const pool_list *l, const REAL *x, int64_t i, const int n) {
    if (n < VECTORS || l->count <= LONG) return;
    const REAL *soon = x + l->at[MIN(i + FETCHED, l->count - 1)];
    UNROLL for (int j = 0; j < n * V; j += 64 / (int)sizeof(REAL)) __builtin_prefetch(soon + j);
}

/* Among equal elements the first wins. A NaN beats every number, and the first NaN stays. */
#define PEAK(of)                                                                                                    \
    vec best[WIDE];                                                                                                 \
    ivec won[WIDE];                                                                                                 \
    EACH_VECTOR best[u] = of(ELEMENT(0, 0)), won[u] = TAP(0);                                                       \
    CLIMB(1, of)
#define CLIMB(first, of)                                                                                            \
    for (int64_t i = first; i < l->count; i++) {                                                                    \
        FN(fetch_ahead)(l, m->in[0] + c, i, n);                                                                     \
        EACH_VECTOR {                                                                                               \
            const vec v = of(ELEMENT(0, i));                                                                        \
            const ivec better = ~(v <= best[u]) & (best[u] == best[u]);                                             \
            best[u] = FN(select)(better, v, best[u]);                                                               \
            won[u] = FN(iselect)(better, TAP(i), won[u]);                                                           \
        }                                                                                                           \
    }

/* The gradient goes to the element that won. in: dy; chosen: winner. */
ONE(spread_winner) {
    vec sum[WIDE] = {{0}};
    for (int64_t i = 0; i < l->count; i++) EACH_VECTOR sum[u] += (vec)((ivec)ELEMENT(0, i) & WON(0, i));
    EACH_VECTOR PUT(0, sum[u]);
}
