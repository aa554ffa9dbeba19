/* Winograd convolution (see winograd.h), backward to w.
 *
 * Tiles of x and of dy, as many as stay in L3, are transformed; then each of the alpha^2 products is one task's. */
#include "winograd.h"

/* dw of the V maps from k on, from sums [point][channel][lane] of theirs; returns whether it is not finite. */
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

static void above_in(const layer *l, const float *const *pixel, float *to, int64_t stride, int64_t block) {
    if (l->kernel == 3) spread_tile(6, a3, M, pixel, l->maps, to, stride, BLOCK, block);
    else spread_tile(8, a5, M, pixel, l->maps, to, stride, BLOCK, block);
}
static int filters_out(const layer *l, int64_t k, const float *from, int64_t stride, float *dw) {
    if (l->kernel == 3) return collect_filters(6, g3, 3, l, k, from, stride, dw);
    return collect_filters(8, g5, 5, l, k, from, stride, dw);
}

/* Memory of backward to w: tiles of x [point][tile][channel] and of dy [point][block][tile][lane], as many as stay in
 * L3, and the sums [point][block][channel][lane]. */
#define L3_FLOATS (512 * 1024)
typedef struct {
    int64_t tiles, channels, maps, row, from_matrix, above_matrix, sum_matrix;
    float *zeros, *from, *above, *sum;
} weight_space;

static weight_space take_weight_space(const layer *l, cc_arena *arena) {
    const int64_t points = l->alpha * l->alpha, all = count_tiles(l), both = l->channels + l->maps;
    /* tiles that fit, but so many that writing and reading them takes as long as adding to the sums */
    const int64_t most = MAX(L3_FLOATS / (points * both), l->channels * l->maps / both);
    weight_space s = {cc_round_up(cc_ceil_div(all, cc_ceil_div(all, MAX(most, TERMS))), 8)};
    s.channels = cc_round_up(l->channels, MR);
    s.maps = cc_round_up(l->maps, BLOCK);
    s.row = MAX(s.channels, cc_round_up(l->channels, V)) + PAD;
    s.from_matrix = s.tiles * s.row;
    s.above_matrix = s.tiles * s.maps + PAD;
    s.sum_matrix = s.channels * s.maps + PAD;
    s.zeros = cc_take(arena, MAX(s.row, s.maps) * sizeof(float));
    s.from = cc_take(arena, points * s.from_matrix * sizeof(float));
    s.above = cc_take(arena, points * s.above_matrix * sizeof(float));
    s.sum = cc_take(arena, points * s.sum_matrix * sizeof(float));
    return s;
}

static int correlate(const layer *l, const weight_space *s, const map_view *dy, float *dw) {
    const int64_t all = count_tiles(l), points = l->alpha * l->alpha;
    memset(s->zeros, 0, MAX(s->row, s->maps) * sizeof(float));
    for (int64_t first = 0; first < all; first += s->tiles) {
        const int64_t count = MIN(s->tiles, all - first);
        PARALLEL_FOR
        for (int64_t task = 0; task < cc_ceil_div(count, 8); task++)
            for (int64_t i = task * 8; i < MIN(task * 8 + 8, count); i++) {
                const float *pixel[MOST * MOST];
                int64_t n, at[2];
                locate_tile(l, first + i, &n, at);
                locate_pixels(pixel, M, dy, n, l->out_size, at, s->zeros);
                above_in(l, pixel, s->above + i * BLOCK, s->above_matrix, s->tiles * BLOCK);
                at[0] -= l->begin[0];
                at[1] -= l->begin[1];
                locate_pixels(pixel, l->alpha, &l->in, n, l->size, at, s->zeros);
                tile_in(l, pixel, s->from + i * s->row, s->from_matrix, s->row, 0);
            }
        PARALLEL_FOR
        for (int64_t i = 0; i < points; i++)
            multiply(s->sum + i * s->sum_matrix, s->channels, s->from + i * s->from_matrix, 1, s->row, TERMS * s->row,
                     s->above + i * s->above_matrix, s->tiles * BLOCK, count, s->maps / BLOCK, first > 0);
    }
    int bad = 0;
    PARALLEL_FOR
    for (int64_t k = 0; k < l->maps; k += V)
        if (filters_out(l, k, s->sum + k / BLOCK * s->channels * BLOCK + k % BLOCK, s->sum_matrix, dw)) {
            _Pragma("omp atomic write") bad = 1;
        }
    return bad;
}

/* Returns 1 where dw is not finite: NaN or Inf would have spread over the taps of a filter. */
int64_t cc_winograd_backward_weights(cc_out dw, cc_in dy, cc_in x, const cc_conv *c, void *scratch) {
    cc_arena arena = {scratch, 0};
    const int64_t none[3] = {0};
    layer l = forward_layer(c, x, dy, dw, &arena);
    map_view above = view_f32(dy, none, dy->shape + 2, &arena);
    const weight_space s = take_weight_space(&l, &arena);
    if (!scratch) return arena.used;
    int bad = 0;
    for (int64_t group = 0; group < c->groups; group++) {
        bad |= correlate(&l, &s, &above, (float *)dw->data + group * l.maps * l.map_stride);
        l.in.origin += l.channels;
        above.origin += l.maps;
    }
    return bad;
}
