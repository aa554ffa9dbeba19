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

static int filters_out(const layer *l, int64_t k, const float *from, int64_t stride, float *dw) {
    if (l->kernel == 3) return collect_filters(6, g3, 3, l, k, from, stride, dw);
    return collect_filters(8, g5, 5, l, k, from, stride, dw);
}

/* Memory of backward to w: tiles of x [point][tile][channel] and of dy [point][block][tile][lane], as many as stay in
 * L3, and the sums [point][block][channel][lane]. */
#define L3_FLOATS (512 * 1024)
typedef struct {
    int64_t tiles, row_tiles, channels, maps, row, from_matrix, above_matrix, sum_matrix;
    float *zeros, *from, *above, *sum;
} weight_space;

static weight_space take_weight_space(const layer *l, cc_arena *arena) {
    const int64_t points = l->alpha * l->alpha, all = count_tiles(l), both = l->channels + l->maps;
    /* tiles that fit, but so many that writing and reading them takes as long as adding to the sums */
    const int64_t most = MAX(L3_FLOATS / (points * both), l->channels * l->maps / both);
    weight_space s = {.tiles = cc_round_up(cc_ceil_div(all, cc_ceil_div(all, MAX(most, TERMS))), 8)};
    s.row_tiles = cc_ceil_div(l->channels, MR);
    s.channels = MAX(l->channels, s.row_tiles * (MR - 1));
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

/* One point's sums of a block of maps. Channels are cut into tiles of MR rows and of MR - 1, so that nearly none is
 * empty; a chunk of dy's tiles stays in L1 while they go by. */
static void multiply(const weight_space *s, int64_t count, const float *from, const float *above, float *sum, int add) {
    const int64_t full = s->channels - s->row_tiles * (MR - 1);
    for (int64_t t = 0; t < count; t += TERMS) {
        const int64_t terms = MIN(TERMS, count - t);
        int64_t row = 0;
        for (int64_t i = 0; i < s->row_tiles; i++) {
            fetch_factors(above + t * BLOCK, i, s->row_tiles);
            const float *at = from + t * s->row + row, *factor = above + t * BLOCK;
            if (i < full) multiply_tile(MR, sum + row * BLOCK, at, 1, s->row, factor, terms, add || t > 0);
            else multiply_tile(MR - 1, sum + row * BLOCK, at, 1, s->row, factor, terms, add || t > 0);
            row += i < full ? MR : MR - 1;
        }
    }
}

static int correlate(const layer *l, const layer *dy, const weight_space *s, float *dw) {
    const tile_layout x_layout = {MR * s->row, s->row, s->from_matrix, s->row, 0};
    const tile_layout dy_layout = {MR * BLOCK, BLOCK, s->above_matrix, BLOCK, s->tiles * BLOCK};
    const int64_t all = count_tiles(l), points = l->alpha * l->alpha;
    memset(s->zeros, 0, MAX(s->row, s->maps) * sizeof(float));
    for (int64_t first = 0; first < all; first += s->tiles) {
        const int64_t count = MIN(s->tiles, all - first);
        PARALLEL_FOR
        for (int64_t task = 0; task < cc_ceil_div(count, 8); task++) {
            const int64_t from = task * 8, few = MIN(8, count - from);
            tiles_in(l, 0, first + from, few, few, s->zeros, s->from + from * s->row, &x_layout);
            tiles_in(dy, 1, first + from, few, few, s->zeros, s->above + from * BLOCK, &dy_layout);
        }
        PARALLEL_FOR
        for (int64_t i = 0; i < points; i++)
            for (int64_t k = 0; k < s->maps; k += BLOCK)
                multiply(s, count, s->from + i * s->from_matrix, s->above + i * s->above_matrix + k * s->tiles,
                         s->sum + i * s->sum_matrix + k * s->channels, first > 0);
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
    layer above = l;
    above.in = view_f32(dy, none, dy->shape + 2, &arena);
    above.channels = l.maps;
    for (int a = 0; a < 2; a++) {
        above.size[a] = l.out_size[a];
        above.begin[a] = 0;
    }
    const weight_space s = take_weight_space(&l, &arena);
    if (!scratch) return arena.used;
    int bad = 0;
    for (int64_t group = 0; group < c->groups; group++) {
        bad |= correlate(&l, &above, &s, (float *)dw->data + group * l.maps * l.map_stride);
        l.in.origin += l.channels;
        above.in.origin += l.maps;
    }
    return bad;
}
