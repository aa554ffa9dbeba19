/* Winograd convolution (see winograd.h), backward to w.
 *
 * Tiles of x and of dy, as many as stay in L3, are transformed; then each of the alpha^2 products is one task's. */
#include "winograd.h"

/* to[channel][map] = sum over tiles of from[tile][channel] above[block][tile][lane], or that added. Channels a multiple
 * of MR, blocks of `above` stand `above_block` apart. */
static void multiply_tiles(float *to, int64_t to_stride, const float *from, int64_t from_stride, const float *above,
                           int64_t above_block, int64_t tiles, int64_t channels, int64_t blocks, int add) {
    for (int64_t c = 0; c < channels; c += MR)
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t i = 0; i < tiles; i += TERMS)
                multiply_tile(to + c * to_stride + b * BLOCK, to_stride, from + i * from_stride + c, 1, from_stride,
                              above + b * above_block + i * BLOCK, MIN(TERMS, tiles - i), add || i > 0);
}

/* dw of channel c from the sums [point][channel][map]. */
INLINE void collect_filters(int alpha, const table t, int n, const layer *l, int64_t c, const float *from,
                            int64_t stride, float *dw) {
    for (int64_t k = 0; k < l->maps; k += V) {
        vec points[MOST * MOST], out[MOST * MOST];
        float *to = dw + k * l->map_stride + c * l->channel_stride;
        for (int i = 0; i < alpha * alpha; i++) points[i] = load_f32(from + i * stride + k);
        collect_square(alpha, t, n, points, out);
        for (int64_t j = 0; j < MIN(V, l->maps - k); j++)
            for (int tap = 0; tap < n * n; tap++) to[j * l->map_stride + tap] = out[tap][j];
    }
}

static void above_in(const layer *l, const float *const *pixel, float *to, int64_t stride, int64_t block) {
    if (l->kernel == 3) spread_tile(6, a3, M, pixel, l->maps, to, stride, BLOCK, block);
    else spread_tile(8, a5, M, pixel, l->maps, to, stride, BLOCK, block);
}
static void filters_out(const layer *l, int64_t c, const float *from, int64_t stride, float *dw) {
    if (l->kernel == 3) collect_filters(6, g3, 3, l, c, from, stride, dw);
    else collect_filters(8, g5, 5, l, c, from, stride, dw);
}

/* Memory of backward to w: tiles of x and of dy, as many as stay in L3, and the sums. */
#define L3_FLOATS (2048 * 1024)
typedef struct {
    int64_t tiles, channels, maps, row, from_matrix, above_matrix, sum_matrix;
    float *zeros, *from, *above, *sum;
} weight_space;

static weight_space take_weight_space(const layer *l, cc_arena *arena) {
    const int64_t points = l->alpha * l->alpha, fit = L3_FLOATS / (points * (l->channels + l->maps));
    weight_space s = {MIN(cc_round_up(count_tiles(l), 8), cc_round_up(fit, TERMS))};
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

static void correlate(const layer *l, const weight_space *s, const map_view *dy, float *dw) {
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
                tile_in(l, pixel, s->from + i * s->row, s->from_matrix, s->row);
            }
        PARALLEL_FOR
        for (int64_t i = 0; i < points; i++)
            multiply_tiles(s->sum + i * s->sum_matrix, s->maps, s->from + i * s->from_matrix, s->row,
                           s->above + i * s->above_matrix, s->tiles * BLOCK, count, s->channels, s->maps / BLOCK,
                           first > 0);
    }
    PARALLEL_FOR
    for (int64_t c = 0; c < l->channels; c++) filters_out(l, c, s->sum + c * s->maps, s->sum_matrix, dw);
}

/* Returns 1 where dw is not finite: NaN or Inf would have spread over the taps of a filter. */
int64_t cc_winograd_backward_weights(cc_out dw, cc_in dy, cc_in x, const cc_conv *c, void *scratch) {
    cc_arena arena = {scratch, 0};
    const int64_t none[3] = {0};
    layer l = make_layer(c, x, dy, dw, &arena);
    map_view above = view_f32(dy, none, dy->shape + 2, &arena);
    l.channels = dw->shape[1];
    l.maps = dw->shape[0] / c->groups;
    l.channel_stride = l.kernel * l.kernel;
    l.map_stride = l.channels * l.channel_stride;
    for (int a = 0; a < 2; a++) l.begin[a] = c->window.begin[1 + a];
    const weight_space s = take_weight_space(&l, &arena);
    if (!scratch) return arena.used;
    for (int64_t group = 0; group < c->groups; group++) {
        correlate(&l, &s, &above, (float *)dw->data + group * l.maps * l.map_stride);
        l.in.origin += l.channels;
        above.origin += l.maps;
    }
    const float *filter = dw->data;
    float zero = 0;
    for (int64_t i = 0; i < cc_count(dw); i++) zero += 0 * filter[i];
    return zero != 0;
}
