/* Winograd convolution (see winograd.h), backward to w.
 *
 * A task has up to WIDTH channels of x, up to WIDTH maps of dy, and a part of the tiles. It transforms the tiles
 * portion by portion and adds their alpha^2 products to its own sums. In the end the sums of all parts are added and
 * transformed back. With many channels and maps a tile is transformed several times. But no thread waits for another,
 * and no data goes from one core's caches to another's.
 *
 *   v1  all threads transform a portion, then share out its products
 *   v2  a task has its own channels, maps, tiles and sums: the same time where threads share a last-level cache, and
 *       0.6 to 0.95 of the time where they do not
 *
 * Measurements, and what did not help: docs/kernels/winograd.md. */
#include "winograd.h"

/* dw of the V maps from k on, from their sums [point][channel][lane]. Returns 1 if dw is not finite. */
INLINE int collect_filters(int alpha, const table t, int n, const layer *l, int64_t k, const float *from,
                           int64_t stride, float *dw) {
    const int64_t taps = n * n, maps = MIN(V, l->maps - k);
    int bad = 0;
    for (int64_t c = 0; c < l->channels; c += STRIP) {
        vec strip[STRIP * 25];
        const int64_t channels = MIN(STRIP, l->channels - c);
        for (int64_t i = 0; i < channels; i++)
            collect_square(alpha, t, n, from + (c + i) * BLOCK, stride, strip + i * taps);
        bad |= spoilt(strip, channels * taps);
        turn(dw + k * l->map_stride + c * taps, l->map_stride, (const float *)strip, V, channels * taps, maps);
    }
    return bad;
}

static int filters_out(const layer *l, int64_t k, const float *from, int64_t stride, float *dw) {
    if (l->kernel == 3) return collect_filters(6, g3, 3, l, k, from, stride, dw);
    return collect_filters(8, g5, 5, l, k, from, stride, dw);
}

/* How the work is cut, and its scratch. A thread has the tiles of a portion: of x [point][tile][channel], of dy
 * [point][block][tile][lane]. A task has sums [point][block][channel][lane]. */
#define WIDTH 96
#define PORTION TERMS
#define LEAST_TASKS 8 /* if there are enough tiles. More parts would mean more sums to add in the end */
typedef struct {
    int64_t channel_cuts, map_cuts, cuts, parts, channels, maps; /* channels, maps: of a task, at most */
    int64_t row, from_matrix, above_matrix, sum_matrix, own, sum;
    int64_t deep; /* parts are long: sums of DEEP_PARTS portions are added up in double */
    float *zeros, *portions, *sums;
    double *whole;
} weight_space;

static weight_space take_weight_space(const layer *l, int64_t groups, cc_arena *arena) {
    const int64_t points = l->alpha * l->alpha;
    weight_space s = {cc_ceil_div(l->channels, WIDTH), cc_ceil_div(l->maps, WIDTH)};
    s.cuts = groups * s.channel_cuts * s.map_cuts;
    s.parts = cc_ceil_div(LEAST_TASKS, s.cuts);
    s.parts += s.parts * s.cuts % 2; /* an even number of tasks: of 9 tasks, two threads would take 5 and 4 */
    s.parts = MAX(1, MIN(s.parts, count_tiles(l) / (2 * PORTION)));
    s.channels = cc_round_up(cc_ceil_div(l->channels, s.channel_cuts), V);
    s.maps = cc_round_up(cc_ceil_div(l->maps, s.map_cuts), BLOCK);
    s.row = cc_round_up(s.channels, MR) + PAD;
    s.from_matrix = PORTION * s.row;
    s.above_matrix = PORTION * s.maps + PAD;
    s.sum_matrix = s.row * s.maps + PAD;
    s.own = points * (s.from_matrix + s.above_matrix);
    s.sum = points * s.sum_matrix;
    s.zeros = cc_take(arena, MAX(s.row, s.maps) * sizeof(float));
    s.portions = cc_take(arena, cc_threads * s.own * sizeof(float));
    s.sums = cc_take(arena, s.cuts * s.parts * s.sum * sizeof(float));
    s.deep = count_tiles(l) / s.parts > DEEP_PARTS * PORTION;
    s.whole = cc_take(arena, s.deep ? cc_threads * s.sum * sizeof(double) : 0);
    return s;
}

/* The channels and maps of x, dy and dw that belong to one cut. */
typedef struct {
    layer x, dy;
    float *dw;
} slice;

static slice cut_slice(const layer *x, const layer *dy, float *dw, const weight_space *s, int64_t cut) {
    const int64_t c = cut % s->channel_cuts * s->channels, k = cut / s->channel_cuts % s->map_cuts * s->maps;
    const int64_t group = cut / s->channel_cuts / s->map_cuts;
    slice part = {*x, *dy, dw + (group * x->maps + k) * x->map_stride + c * x->channel_stride};
    part.x.in.origin += group * x->channels + c;
    part.dy.in.origin += group * x->maps + k;
    part.x.channels = MIN(s->channels, x->channels - c);
    part.x.maps = part.dy.channels = MIN(s->maps, x->maps - k);
    return part;
}

/* The sums of one point and a block of maps, over a portion. Channels are cut into tiles of MR rows and of MR - 1 rows,
 * so that hardly a row is empty. The tiles of dy stay in L1 while the channels go by. */
static void multiply(const weight_space *s, int64_t channels, int64_t count, const float *from, const float *above,
                     float *sum, int add) {
    const int64_t row_tiles = cc_ceil_div(channels, MR), full = channels - row_tiles * (MR - 1);
    for (int64_t i = 0, row = 0; i < row_tiles; i++) {
        fetch_factors(above, i, row_tiles);
        if (i < full) multiply_tile(MR, sum + row * BLOCK, from + row, 1, s->row, above, count, add);
        else multiply_tile(MR - 1, sum + row * BLOCK, from + row, 1, s->row, above, count, add);
        row += i < full ? MR : MR - 1;
    }
}

/* The sums of tiles `first` to `last` - 1. */
static void correlate(const slice *l, const weight_space *s, int64_t first, int64_t last, float *from, float *sums) {
    double *whole = s->whole + cc_thread() * s->sum;
    int fresh = 1;
    const tile_layout x_layout = {MR * s->row, s->row, s->from_matrix, s->row, 0};
    const tile_layout dy_layout = {MR * BLOCK, BLOCK, s->above_matrix, BLOCK, PORTION * BLOCK};
    const int64_t points = l->x.alpha * l->x.alpha;
    float *above = from + points * s->from_matrix;
    for (int64_t tile = first; tile < last; tile += PORTION) {
        const int64_t count = MIN(PORTION, last - tile);
        tiles_in(&l->x, 0, tile, count, count, s->zeros, from, &x_layout);
        tiles_in(&l->dy, 1, tile, count, count, s->zeros, above, &dy_layout);
        for (int64_t i = 0; i < points; i++)
            for (int64_t k = 0; k < l->x.maps; k += BLOCK)
                multiply(s, l->x.channels, count, from + i * s->from_matrix, above + i * s->above_matrix + k * PORTION,
                         sums + i * s->sum_matrix + k * s->row, !fresh);
        fresh = 0;
        if (!s->deep || (tile + PORTION < last && (tile - first) / PORTION % DEEP_PARTS < DEEP_PARTS - 1)) continue;
        if ((tile - first) / PORTION < DEEP_PARTS) memset(whole, 0, s->sum * sizeof(double));
        add_run_f32(whole, sums, s->sum);
        if (tile + PORTION < last) fresh = 1;
        else round_runs_f32(sums, whole, s->sum);
    }
}

/* dw of a block of maps, from the sums of all parts. Returns 1 if dw is not finite. */
static int filters_of(const slice *l, const weight_space *s, int64_t k, float *sums) {
    const int64_t points = l->x.alpha * l->x.alpha, length = l->x.channels * BLOCK;
    int bad = 0;
    sums += k * s->row;
    for (int64_t i = 0; i < points; i++)
        for (int64_t part = 1; part < s->parts; part++) {
            float *to = sums + i * s->sum_matrix;
            for (int64_t j = 0; j < length; j++) to[j] += to[part * s->sum + j];
        }
    for (int64_t v = 0; v < BLOCK && k + v < l->x.maps; v += V)
        bad |= filters_out(&l->x, k + v, sums + v, s->sum_matrix, l->dw);
    return bad;
}

/* Returns 1 if dw is not finite: a NaN or an Inf would have spread over all taps of a filter. */
int64_t cc_winograd_backward_weights(cc_out dw, cc_in dy, cc_in x, const cc_conv *c, void *scratch) {
    cc_arena arena = {scratch, 0};
    const int64_t none[3] = {0};
    layer l = forward_layer(c, x, dy, dw, &arena);
    layer above = l;
    above.in = view_f32(dy, none, dy->shape + 2, &arena);
    for (int a = 0; a < 2; a++) {
        above.size[a] = l.out_size[a];
        above.begin[a] = 0;
    }
    const weight_space s = take_weight_space(&l, c->groups, &arena);
    if (!scratch) return arena.used;
    const int64_t tiles = count_tiles(&l), blocks = s.maps / BLOCK;
    int bad = 0;
    memset(s.zeros, 0, MAX(s.row, s.maps) * sizeof(float));
    PARALLEL_TASKS(task, s.cuts * s.parts) {
        const int64_t part = task % s.parts;
        const slice own = cut_slice(&l, &above, dw->data, &s, task / s.parts);
        correlate(&own, &s, tiles * part / s.parts, tiles * (part + 1) / s.parts, s.portions + cc_thread() * s.own,
                  s.sums + task * s.sum);
    }
    PARALLEL_TASKS(task, s.cuts * blocks) {
        const slice own = cut_slice(&l, &above, dw->data, &s, task / blocks);
        const int64_t k = task % blocks * BLOCK;
        if (k < own.x.maps && filters_of(&own, &s, k, s.sums + task / blocks * s.parts * s.sum)) {
            _Pragma("omp atomic write") bad = 1;
        }
    }
    return bad;
}
