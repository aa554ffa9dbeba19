/* The window walk of pooling, forward and backward.
 *
 * Channels are the vector: with the channel's stride 1, V maps are pooled at once, whatever kernel, stride, padding or
 * dilation. Channels-last maps are like that. Of contiguous maps, a block of BLOCK channels of one image is transposed
 * into scratch that stays in cache, pooled there, and transposed back; that costs about as much as the pooling, and far
 * less than pooling along a row with its strides and borders.
 *
 * forward    For every output pixel, the list of its window's real elements: (offset, tap).
 * backward   Gathers: for every pixel of dx, the list of the windows that hold it, as (output pixel, tap). Every dx is
 *            written once, by one thread: no zeroing, no races.
 *
 * Pixels of a kind (pool_axes.h) share one list, made once and held over rows and images: windows that lie inside the
 * image, say, or in backward all pixels of a global pool.
 *
 * A variant is a few lines over such a list for a run of channels, `reduce_*` or `spread_*` in pool.c, pool_power.c and
 * pool_draw.c; VARIANT makes of them the walk along a row of pixels. Included by those files, after twice.h.
 *
 * The limit is memory: of 2x2 windows, forward reads x and writes a quarter of it twice (y, winners), backward the
 * reverse. Steps there, 25 MB of x, channels last, forward / backward in ms with cold caches (one image in cache, one
 * thread, in us):
 *     a vector at a time, the maps moved to every one       1.6 / 2.1 (26 / 54)
 *     moved to the pixel, copies of list and maps           1.6 / 2.0 (21 / 36)
 *     VECTORS at a time: the list is read once for them     1.5 / 1.9 (16 / 31)
 *     dx past the caches                                    1.5 / 1.4
 *     tasks of TASK_BYTES in place of single rows           1.4 / 1.25
 *     variants walk a row, in place of a call per pixel     1.25 / 1.1 (13 / 19): a plain pass takes as long
 * And of global max pooling, where a window is an image and backward a list of one entry per pixel:
 *     as above, without the last step                       1.3 / 1.05 (14 / 34)
 *     the last step, and one list for pixels of a kind      1.2 / 0.6 (14 / 22)
 *     WIDE vectors at a time of a LONG list: one sweep      0.9 / 0.6 (16 / 22); avg 1.0 to 0.75, a plain pass
 *     its elements FETCHED entries ahead                    forward 0.91 of that (medians, in turns)
 * On another machine (AVX-512, Zen 4, memory twice as fast; best times of 25 MB, forward / backward in ms, in turns):
 *                                                         max 2x2      max 3x3      lp 4 3x3     global max
 *     as above                                            1.05 / 0.99  1.14 / 0.84  1.11 / 1.84  0.85 / 0.54
 *     six vectors at a time, then two, then one           0.96 / 0.97  1.07 / 0.81  1.10 / 1.80  0.64 / 0.47
 *     a pixel's share of the next row fetched             0.85         0.84         0.74 / 1.6   (a plain pass 0.9 / 0.95
 *                                                                                  of max, 0.7 / 1.5 of lp)
 *     every thread the same half of the tasks             forward 0.8 to 1, backward 0.9 to 1 times that
 *     windows that do not overlap fetched past the caches avg 2x2 forward 0.9, max and lp the same (windows that do
 *                                                         overlap: avg and max 3x3 1.05, lp 4 1.15, left out)
 *     tasks of 128 KiB in place of 256                    0.98 to 1
 * With AVX2 there, six vectors at a time in place of four: max backward 0.97, global max backward 0.94, gaussian 3x3
 * 0.97, expectation forward 1.05.
 * Caches fetch ahead within pages of 4 KiB, and windows read two or three pages side by side. Into the first cache, in
 * place of the second, lp 4 takes 1.03, and on the first machine it gained nothing.
 * What gained nothing: loops of a constant length for lists of 1, 2, 4 and 9 entries; sweeps of 16 entries at a time
 * over all channels, with what is summed kept in memory between them (0.05 ms slower than WIDE); WIDE for short lists
 * (3x3 max pooling a tenth slower).
 * Contiguous maps take about twice the time of channels last; turning them back in whole cache lines, past the caches,
 * made backward 1.2 times slower. */

#include "pool_axes.h"

#ifndef POOL_H
#define POOL_H
/* Of the larger map, in a task: threads that take single rows in turns break up each other's streams. */
#define TASK_BYTES ((int64_t)128 << 10)
#define LEAST_TASKS 32
#define MOST_HELD 16 /* lists; a power of two */
#define OWN_SCRATCH (64 << 10) /* bytes on the stack: asking for scratch takes 0.05 ms with cold caches */
#define LINES 2 /* vectors per transposed block: a cache line of 16 floats at least */
#endif
#define BLOCK (LINES * V)

/* One pixel's list: `at` offsets in elements (behind `base`), `tap` numbers in the window (above `turn`), `share` as
 * pool_axes.h says (of an average's forward there is one), `room` for the variant's use. */
#define pool_list FN(cc_pool_list)
typedef struct {
    int64_t kind, count, base, turn, *at, *tap;
    REAL *share;
    void *room;
} pool_list;

/* The maps of a walk, NULL where a variant has none: read at the list's offsets (`in`, and `chosen`, winners), read at
 * the pixel itself (`here`), written there (`out`, and `choice`, winners). Moved to a pixel, they lead to its first
 * channel. */
#define pool_maps FN(cc_pool_maps)
typedef struct {
    const REAL *in[3], *here;
    const int32_t *chosen;
    REAL *out[2];
    int32_t *choice;
    int past; /* results are streamed: FN(stream) */
} pool_maps;

INLINE pool_maps FN(move_maps)(const pool_maps *m, int64_t in, int64_t here) {
    pool_maps to = {{0}};
    for (int i = 0; i < 3; i++) to.in[i] = m->in[i] ? m->in[i] + in : NULL;
    for (int i = 0; i < 2; i++) to.out[i] = m->out[i] ? m->out[i] + here : NULL;
    to.here = m->here ? m->here + here : NULL;
    to.chosen = m->chosen ? m->chosen + in : NULL;
    to.choice = m->choice ? m->choice + here : NULL;
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
    int64_t most, held; /* entries of the longest list; lists that a thread holds */
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

/* A row of pixels, of `channels` channels that stand 1 apart: `in` the strides of what the lists point at, `here` its
 * first pixel in what is written, `step` from there to the next. `first` is the first row of its kind, `kind` the
 * number of its first pixel's list, `base` and `turn` how far this row's are from that. `lists`: what its thread holds, each
 * where its number leads. */
#define pool_row FN(cc_pool_row)
typedef struct {
    const pool_walk *walk;
    pool_maps maps;
    pool_list *lists;
    int64_t channels, first[2], kind, base, turn, in[3], here, step, share;
    const REAL *soon; /* what the next row's pixels read most of, `share` each */
    int once;         /* no other row reads it, and it is past the caches */
} pool_row;
typedef void FN(cc_pool_fn)(const pool_row *row, const void *p);
#define pool_fn FN(cc_pool_fn)

/* The list of a row's pixel x, the first of its kind. */
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

/* The list of a row's pixel x. */
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

/* A variant is ONE(name), for n vectors of a pixel's channels from c on (n is a constant; `lanes` of a vector are
 * there), and VARIANT(name), which walks the pixels of a row and their channels with it: VECTORS vectors, then single
 * ones, then what is left of one. The elements of a LONG list come from memory and are best read in the order in which
 * they lie there: WIDE vectors first. Every group takes time to compile, so double has groups of FEW and of one alone.
 * In ONE, EACH_VECTOR is the loop over u, ELEMENT(a, i) what in[a] holds at the list's entry i, HERE what stands at the
 * pixel itself, WON(i) where entry i is the winner, and PUT, CHOOSE write. The list and the maps are copies, so that
 * compilers keep them in registers over the stores. */
#if CC_VECTOR_BYTES == 64
#define VECTORS 6
#define WIDE 6 /* six cache lines already, in 32 registers */
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
#define MOST_SHARE 2048 /* elements per pixel that are fetched a row ahead */
#define ONE(name, ...)                                                                                              \
    INLINE void FN(name##_one)(const pool_list *l, const pool_maps *m, int64_t c, const void *p, const int n,       \
                               int64_t lanes, ##__VA_ARGS__)
#define EACH_VECTOR UNROLL for (int u = 0; u < n; u++)
/* sum[s][u], s < sums: what the statements add to it for every entry i of the list. See SUM_RUN; usual windows are one
 * run, and have a loop without any of that. */
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
#define WON(i) (FN(load_winner)(m->chosen + l->at[i] + c + u * V, lanes) == TAP(i))
#define TAP(i) ((ivec){0} + (INT)(l->tap[i] + l->turn))
#define PUT(a, v) FN(stream_n)(m->out[a] + c + u * V, v, lanes, m->past)
#define CHOOSE(v) FN(store_winner)(m->choice + c + u * V, v, lanes)

/* Pixel x's share of what the next row will read: into the second cache, since the first is full of this row's, but what
 * is read once into the first alone, whence it goes back to memory and pushes nothing out of the others. */
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

/* The walk in place of VARIANT(name) where lists are long, for what adds up what their entries give to out[0]: SUM_RUN of
 * them at a time, and the sums of these in double. */
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

/* Of a long list the elements some entries behind i: a loop of more than a few instructions per load sees too few loads
 * ahead of itself to cross from page to page without waiting. */
INLINE void FN(fetch_ahead)(const pool_list *l, const REAL *x, int64_t i, const int n) {
    if (n < VECTORS || l->count <= LONG) return;
    const REAL *soon = x + l->at[MIN(i + FETCHED, l->count - 1)];
    UNROLL for (int j = 0; j < n * V; j += 64 / (int)sizeof(REAL)) __builtin_prefetch(soon + j);
}

/* best[u]: the largest `of` the window's elements, and won[u], the tap of the first of the largest. A NaN beats every
 * number, and no later NaN beats it. CLIMB(first, of) goes on with entry `first` from a best and a won. */
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

/* dy to the element that won. in: dy; chosen: winner. */
ONE(spread_winner) {
    vec sum[WIDE] = {{0}};
    for (int64_t i = 0; i < l->count; i++) EACH_VECTOR sum[u] += (vec)((ivec)ELEMENT(0, i) & WON(i));
    EACH_VECTOR PUT(0, sum[u]);
}

/* --- layouts and tasks ------------------------------------------------------------------------------------------ */

/* [channels][pixels] to [pixels][BLOCK] and back. V x V elements at a time in registers, the rest one by one. */
static void FN(real_in)(REAL *to, const REAL *from, int64_t pixels, int64_t channels) {
    const int64_t even_p = pixels - pixels % V, even_c = channels - channels % V;
    for (int64_t c = 0; c < even_c; c += V)
        for (int64_t p = 0; p < even_p; p += V) FN(transpose)(to + p * BLOCK + c, BLOCK, from + c * pixels + p, pixels);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t p = c < even_c ? even_p : 0; p < pixels; p++) to[p * BLOCK + c] = from[c * pixels + p];
}

static void FN(real_out)(REAL *to, const REAL *from, int64_t pixels, int64_t channels) {
    const int64_t even_p = pixels - pixels % V, even_c = channels - channels % V;
    for (int64_t c = 0; c < even_c; c += V)
        for (int64_t p = 0; p < even_p; p += V) FN(transpose)(to + c * pixels + p, pixels, from + p * BLOCK + c, BLOCK);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t p = c < even_c ? even_p : 0; p < pixels; p++) to[c * pixels + p] = from[p * BLOCK + c];
}

/* The same for winners; a float's transpose moves any four bytes. */
static void FN(winner_in)(int32_t *to, const int32_t *from, int64_t pixels, int64_t channels) {
#if REAL_IS_FLOAT
    FN(real_in)((REAL *)to, (const REAL *)from, pixels, channels);
#else
    for (int64_t p0 = 0; p0 < pixels; p0 += 16)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t p = p0; p < MIN(p0 + 16, pixels); p++) to[p * BLOCK + c] = from[c * pixels + p];
#endif
}

static void FN(winner_out)(int32_t *to, const int32_t *from, int64_t pixels, int64_t channels) {
#if REAL_IS_FLOAT
    FN(real_out)((REAL *)to, (const REAL *)from, pixels, channels);
#else
    for (int64_t p0 = 0; p0 < pixels; p0 += 16)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t p = p0; p < MIN(p0 + 16, pixels); p++) to[c * pixels + p] = from[p * BLOCK + c];
#endif
}

/* The tensors of a call, as pool_maps names them. */
#ifndef POOL_TENSORS
#define POOL_TENSORS
typedef struct {
    cc_in in[3], here, chosen;
    cc_out out[2], choice;
    void *deep; /* a DEEP_VARIANT, or NULL */
} pool_tensors;
#endif

/* One call: the maps, and how its work is cut. */
#define pool_job FN(cc_pool_job)
typedef struct {
    pool_walk walk;
    pool_tensors t;
    int last; /* channels last: a task is `step` rows of images; else it is a block of channels of an image */
    int past, once; /* results are streamed; what is read is past the caches too, and no window reads another's */
    int64_t tasks, rows, step, blocks, ins, outs, share, room, list_bytes, own_bytes, bytes;
    char *own; /* per thread: lists, the variant's room, then the transposed blocks */
} pool_job;

/* Bytes of the transposed block of a map of `pixels` pixels and this many bytes per number; none of one that is not. */
static int64_t FN(block_bytes)(cc_in t, int64_t pixels, int64_t number) {
    return t ? cc_round_up(pixels * BLOCK * number, 64) : 0;
}

static pool_job FN(plan)(pool_tensors t, const cc_window *w, walk_kind kind, void *scratch) {
    cc_arena arena = {scratch, 0};
    pool_job j = {FN(start_walk)(w, &kind, &arena), t};
    const cc_in a = t.in[0], y = t.out[0];
    const int64_t entry = 2 * sizeof(int64_t) + sizeof(REAL);
    j.ins = a->shape[2] * a->shape[3] * a->shape[4];
    j.outs = y->shape[2] * y->shape[3] * y->shape[4];
    /* Both, since a contiguous map of one pixel has the channel's stride 1 as well. */
    j.last = (y->stride[1] == 1 && a->stride[1] == 1) || y->shape[1] == 1;
    j.rows = j.walk.size[0] * j.walk.size[1];
    j.blocks = cc_ceil_div(y->shape[1], BLOCK);
    const int64_t rows = y->shape[0] * j.rows, bytes = cc_count(j.ins > j.outs ? a : y) * (int64_t)sizeof(REAL);
    j.step = MAX(1, MIN(TASK_BYTES / cc_ceil_div(bytes, rows), rows / LEAST_TASKS));
    j.tasks = j.last ? cc_ceil_div(rows, j.step) : y->shape[0] * j.blocks;
    /* Channels-last maps are read in order, row by row, forward mostly x and backward, if at all, the map that stands
     * `here`; what long lists read they fetch themselves. */
    const cc_in large = kind.backward ? t.here : a;
    const int64_t share = large && j.last ? large->stride[0] / (j.rows * j.walk.size[2]) : 0;
    j.share = share <= MOST_SHARE ? share : 0;
    j.once = !kind.backward && cc_past_cache(cc_count(a) * (int64_t)sizeof(REAL));
    for (int i = 0; i < 3; i++) j.once = j.once && (w->kernel[i] - 1) * w->dilation[i] < w->stride[i];
    j.past = cc_past_cache(cc_count(y) * (int64_t)sizeof(REAL));
    j.room = cc_round_up(j.walk.held * (j.walk.most * entry + (int64_t)sizeof(pool_list)), 64);
    j.list_bytes = j.room + cc_round_up(j.walk.most * kind.room, 64);
    j.own_bytes = j.list_bytes;
    if (!j.last) {
        for (int i = 0; i < 3; i++) j.own_bytes += FN(block_bytes)(t.in[i], j.ins, sizeof(REAL));
        for (int i = 0; i < 2; i++) j.own_bytes += FN(block_bytes)(t.out[i], j.outs, sizeof(REAL));
        j.own_bytes += FN(block_bytes)(t.here, j.outs, sizeof(REAL));
        j.own_bytes += FN(block_bytes)(t.chosen, j.ins, sizeof(int32_t));
        j.own_bytes += FN(block_bytes)(t.choice, j.outs, sizeof(int32_t));
    }
    j.own = cc_take(&arena, j.own_bytes * cc_threads);
    j.bytes = arena.used;
    return j;
}

/* A thread's lists, none of them made yet. */
static void FN(start_lists)(const pool_job *j, char *own) {
    const int64_t held = j->walk.held, most = j->walk.most;
    pool_list *lists = (pool_list *)own;
    int64_t *pairs = (int64_t *)(lists + held);
    REAL *shares = (REAL *)(pairs + 2 * held * most);
    for (int64_t i = 0; i < held; i++)
        lists[i] = (pool_list){.kind = -1, .at = pairs + 2 * i * most, .tap = pairs + (2 * i + 1) * most,
                               .share = shares + i * most, .room = own + j->room};
}

/* Image i of a tensor, from channel c on; NULL stays NULL. */
INLINE REAL *FN(reals)(cc_in t, int64_t i, int64_t c) {
    return t ? (REAL *)t->data + i * t->stride[0] + c * t->stride[1] : NULL;
}
INLINE int32_t *FN(winners)(cc_in t, int64_t i, int64_t c) {
    return t ? (int32_t *)t->data + i * t->stride[0] + c * t->stride[1] : NULL;
}

/* The maps of image i, from channel c on, where they stand. */
INLINE pool_maps FN(maps_of)(const pool_tensors *t, int64_t i, int64_t c, int past) {
    return (pool_maps){{FN(reals)(t->in[0], i, c), FN(reals)(t->in[1], i, c), FN(reals)(t->in[2], i, c)},
                       FN(reals)(t->here, i, c), FN(winners)(t->chosen, i, c),
                       {FN(reals)(t->out[0], i, c), FN(reals)(t->out[1], i, c)}, FN(winners)(t->choice, i, c), past};
}

/* Row i (of size[0] * size[1]) of maps whose pixels stand `apart` times as far apart as those of the job's. */
static void FN(run_row)(const pool_job *j, pool_maps m, int64_t channels, int64_t apart, int64_t i, pool_list *lists,
                        pool_fn *variant, const void *p) {
    const axis_list *d = &j->walk.axis[0], *h = &j->walk.axis[1];
    const int64_t *in = j->t.in[0]->stride + 2, *here = j->t.out[0]->stride + 2, *kernel = j->walk.w->kernel;
    const int64_t at = i / j->walk.size[1], y = i % j->walk.size[1];
    const pool_row row = {
        &j->walk, m, lists, channels,
        .first = {d->maker[d->kind[at]], h->maker[h->kind[y]]},
        .kind = (d->kind[at] * h->kinds + h->kind[y]) * j->walk.axis[2].kinds,
        .base = (d->shift[at] * in[0] + h->shift[y] * in[1]) * apart,
        .turn = (d->turn[at] * kernel[1] + h->turn[y]) * kernel[2],
        .in = {in[0] * apart, in[1] * apart, in[2] * apart},
        .here = (at * here[0] + y * here[1]) * apart,
        .step = here[2] * apart,
        .share = j->share,
        .soon = j->share ? (j->walk.kind.backward ? m.here : m.in[0]) + (i + 1) * j->walk.size[2] * j->share : NULL,
        .once = j->once};
    variant(&row, p);
}

/* Transposes a map that is there into a new block (its own bytes of `to`), and returns the block. */
static REAL *FN(enter)(char **to, const REAL *from, int64_t pixels, int64_t channels) {
    REAL *block = (REAL *)*to;
    if (!from) return NULL;
    FN(real_in)(block, from, pixels, channels);
    *to += cc_round_up(pixels * BLOCK * (int64_t)sizeof(REAL), 64);
    return block;
}

static void *FN(reserve)(char **to, const void *target, int64_t pixels, int64_t number) {
    void *block = *to;
    if (!target) return NULL;
    *to += cc_round_up(pixels * BLOCK * number, 64);
    return block;
}

/* `step` rows of images, channels last. */
static void FN(run_rows)(const pool_job *j, int64_t task, pool_list *lists, pool_fn *variant, const void *p) {
    const int64_t *shape = j->t.out[0]->shape, end = MIN((task + 1) * j->step, shape[0] * j->rows);
    for (int64_t i = task * j->step; i < end; i++) {
        const pool_maps m = FN(maps_of)(&j->t, i / j->rows, 0, j->past);
        FN(run_row)(j, m, shape[1], 1, i % j->rows, lists, variant, p);
    }
}

/* A block of channels of an image of contiguous maps. `to`: room for the transposed blocks. */
static void FN(run_block)(const pool_job *j, int64_t task, char *to, pool_list *lists, pool_fn *variant,
                          const void *p) {
    const int64_t c = task % j->blocks * BLOCK, channels = MIN(BLOCK, j->t.out[0]->shape[1] - c);
    const pool_maps m = FN(maps_of)(&j->t, task / j->blocks, c, 0);
    pool_maps b = {{0}};
    for (int a = 0; a < 3; a++) b.in[a] = FN(enter)(&to, m.in[a], j->ins, channels);
    b.here = FN(enter)(&to, m.here, j->outs, channels);
    for (int a = 0; a < 2; a++) b.out[a] = FN(reserve)(&to, m.out[a], j->outs, sizeof(REAL));
    int32_t *chosen = FN(reserve)(&to, m.chosen, j->ins, sizeof(int32_t));
    if (m.chosen) FN(winner_in)(chosen, m.chosen, j->ins, channels);
    b.chosen = chosen;
    b.choice = FN(reserve)(&to, m.choice, j->outs, sizeof(int32_t));
    for (int64_t row = 0; row < j->rows; row++) FN(run_row)(j, b, channels, BLOCK, row, lists, variant, p);
    for (int a = 0; a < 2; a++)
        if (m.out[a]) FN(real_out)(m.out[a], b.out[a], j->outs, channels);
    if (m.choice) FN(winner_out)(m.choice, b.choice, j->outs, channels);
}

/* The body of a kernel. */
static int64_t FN(pool)(pool_tensors t, const cc_window *w, walk_kind kind, pool_fn *variant, const void *p,
                        void *scratch) {
    /* Another op's map in scratch is nowhere yet while that op only asks for its bytes. */
    const int there = t.in[0]->data && t.out[0]->data && (!t.here || t.here->data);
    _Alignas(64) char own[OWN_SCRATCH];
    const int64_t bytes = scratch ? 0 : FN(plan)(t, w, kind, NULL).bytes;
    if (bytes && (bytes > OWN_SCRATCH || !there)) return bytes;
    const pool_job job = FN(plan)(t, w, kind, scratch ? scratch : own);
    if (t.deep && job.walk.most > SUM_RUN) variant = (pool_fn *)t.deep;
    for (int thread = 0; thread < cc_threads; thread++) FN(start_lists)(&job, job.own + job.own_bytes * thread);
    PARALLEL_TASKS(task, job.tasks) {
        char *room = job.own + job.own_bytes * cc_thread();
        pool_list *lists = (pool_list *)room;
        if (job.last) FN(run_rows)(&job, task, lists, variant, p);
        else FN(run_block)(&job, task, room + job.list_bytes, lists, variant, p);
    }
    return 0;
}
#define POOL(tensors, kind, variant, params) \
    return FN(pool)((pool_tensors)tensors, &p->window, (walk_kind)kind, variant, params, scratch);
#define AS(...) {__VA_ARGS__}
