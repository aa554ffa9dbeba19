/* Winograd convolution (see winograd.h): the choice of algorithm, forward, backward to x.
 *
 * A task transforms its tiles. Then for each block of maps it multiplies the tiles by the filters and transforms the
 * products back. The tiles, the products of a block and the filters that pass by share L2. */
#include "winograd.h"

/* Copies the taps of STRIP channels from c on and V maps from k on to a strip. Maps that do not exist are 0. */
static void fill_strip(const layer *l, int64_t k, int64_t c, float *strip) {
    const int64_t taps = l->kernel * l->kernel, channels = MIN(STRIP, l->channels - c), maps = MIN(V, l->maps - k);
    const float *w = l->w + k * l->map_stride + c * l->channel_stride;
    if (maps < V) memset(strip, 0, STRIP_FLOATS * sizeof(float));
    if (l->channel_stride == taps) turn(strip, V, w, l->map_stride, maps, channels * taps);
    else
        for (int64_t i = 0; i < channels; i++)
            turn(strip + i * taps * V, V, w + i * l->channel_stride, l->map_stride, maps, taps);
}

/* Transforms the filters of the block of maps from k on to alpha^2 matrices [channel][lane], `stride` apart. */
INLINE void spread_filters(int alpha, const table t, int n, const layer *l, int64_t k, float *to, int64_t stride) {
    for (int64_t v = 0; v < BLOCK; v += V)
        for (int64_t c = 0; c < l->channels; c++) {
            vec half[MOST * MOST];
            float strip[STRIP_FLOATS];
            if (c % STRIP == 0) fill_strip(l, k + v, c, strip);
            const float *taps = strip + c % STRIP * n * n * V;
            UNROLL for (int j = 0; j < n; j++) {
                vec column[MOST];
                UNROLL for (int i = 0; i < n; i++) {
                    const int tap = i * n + j;
                    column[i] = load_f32(taps + (l->turned ? n * n - 1 - tap : tap) * V);
                }
                spread(alpha, t, n, column, 1, half + j, n);
            }
            spread_rows(alpha, t, n, half, to + c * BLOCK + v, stride);
        }
}

/* One output, computed by its definition. It is for tiles that a NaN, an Inf or an overflow has reached. Forward,
 * padding takes part as 0. Backward, elements outside dy do not take part. */
static float exact(const layer *l, int64_t n, int64_t row, int64_t column, int64_t k) {
    const int taps = l->kernel * l->kernel;
    float sum = 0;
    for (int t = 0; t < taps; t++) {
        const int64_t h = row + t / l->kernel - l->begin[0], v = column + t % l->kernel - l->begin[1];
        const int inside = h >= 0 && h < l->size[0] && v >= 0 && v < l->size[1];
        if (!inside && l->turned) continue;
        const float *x = l->in.origin + n * l->in.n + h * l->in.s[1] + v * l->in.s[2];
        const float *w = l->w + k * l->map_stride + (l->turned ? taps - 1 - t : t);
        for (int64_t c = 0; c < l->channels; c++) sum += (inside ? x[c] : 0) * w[c * l->channel_stride];
    }
    return sum;
}

/* Computes the outputs of the tile at `at` that are not finite again, by their definition, for maps from k on. */
static void repair(const layer *l, int64_t n, const int64_t at[2], int64_t rows, int64_t columns, int64_t k,
                   int64_t lanes, vec out[M * M]) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            for (int64_t v = 0; v < lanes; v++)
                if (0 * out[i * M + j][v] != 0) out[i * M + j][v] = exact(l, n, at[0] + i, at[1] + j, k + v);
}

/* Makes one tile of y, for the block of maps from `first` on, from alpha^2 products that are `stride` apart. */
INLINE void collect_tile(int alpha, const table t, const layer *l, int64_t tile, int64_t first, const float *from,
                         int64_t stride, const float *bias, float *y) {
    int64_t n, at[2];
    locate_tile(l, tile, &n, at);
    const int64_t rows = MIN(M, l->out_size[0] - at[0]), columns = MIN(M, l->out_size[1] - at[1]);
    if (l->out_channel == 1)
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++)
                __builtin_prefetch(y + n * l->out_n + (at[0] + i) * l->out_s[0] + (at[1] + j) * l->out_s[1] + first, 1);
    for (int64_t k = first; k < MIN(first + BLOCK, l->maps); k += V) {
        const int64_t lanes = MIN(V, l->maps - k);
        const vec offset = bias ? load_n_f32(bias + k, lanes) : (vec){0};
        vec out[M * M];
        collect_square(alpha, t, M, from + k - first, stride, out);
        if (spoilt(out, M * M)) repair(l, n, at, rows, columns, k, lanes, out);
        for (int i = 0; i < M * M; i++) {
            out[i] += offset;
            if (l->relu) out[i] = rectify_f32(out[i]);
        }
        float *to = y + n * l->out_n + at[0] * l->out_s[0] + at[1] * l->out_s[1] + k * l->out_channel;
        if (l->out_channel == 1) {
            for (int64_t i = 0; i < rows; i++)
                for (int64_t j = 0; j < columns; j++) {
                    float *at = to + i * l->out_s[0] + j * l->out_s[1];
                    if (lanes == V) store_f32(at, out[i * M + j]);
                    else store_n_f32(at, out[i * M + j], lanes);
                }
        } else {
            float turned[V * M * M]; /* [map][pixel] */
            for (int i = 0; i < M * M; i += V) transpose_f32(turned + i, M * M, (const float *)(out + i), V);
            for (int64_t v = 0; v < lanes; v++)
                for (int64_t i = 0; i < rows; i++)
                    memcpy(to + v * l->out_channel + i * l->out_s[0], turned + (v * M + i) * M, columns * sizeof(float));
        }
    }
}

/* A task has about TILES tiles. They are few enough for L2. They are enough to hide the reading of the filters, which
 * every task reads once, behind the products. The number of tasks is even. */
#define TILES cc_round_up(18, MR)
static int64_t tiles_per_task(const layer *l) {
    const int64_t all = count_tiles(l);
    return cc_ceil_div(all, cc_round_up(cc_ceil_div(all, TILES), 2));
}

/* Scratch of a forward product: filters [block][point][channel][lane]; per thread, tiles [panel][point][chunk of
 * channels][row][channel] and the products of a block [panel][point][row][lane]. Points are an odd number of cache
 * lines apart. The distance of panels is no multiple of 64 lines. */
#define TO_POINT (MR * BLOCK + PAD)
typedef struct {
    int64_t tiles, panels, filter_block, to_panel;
    tile_layout in;
    float *filters, *zeros, *own;
} space;

static space take_space(const layer *l, cc_arena *arena) {
    const int64_t points = l->alpha * l->alpha, channels = cc_round_up(l->channels, TERMS);
    space s = {tiles_per_task(l)};
    s.panels = cc_ceil_div(s.tiles, MR);
    s.filter_block = points * l->channels * BLOCK;
    s.in = (tile_layout){.row = TERMS, .point = MR * channels + PAD, .width = TERMS, .block = MR * TERMS};
    s.in.panel = (points + 1) * s.in.point;
    s.to_panel = (points + 1) * TO_POINT;
    s.filters = cc_take(arena, cc_ceil_div(l->maps, BLOCK) * s.filter_block * sizeof(float));
    s.zeros = cc_take(arena, channels * sizeof(float));
    s.own = cc_take(arena, cc_threads * s.panels * (s.in.panel + s.to_panel) * sizeof(float));
    return s;
}

/* The products of one point and a block of maps, panel by panel. A chunk of filters stays in L1 while the panels go
 * by. */
static void multiply(const layer *l, const space *s, int64_t panels, const float *from, const float *filters,
                     float *to) {
    for (int64_t c = 0; c < l->channels; c += TERMS)
        for (int64_t i = 0; i < panels; i++) {
            fetch_factors(filters + c * BLOCK, i, panels);
            multiply_tile(MR, to + i * s->to_panel, from + i * s->in.panel + c * MR, TERMS, 1, filters + c * BLOCK,
                          MIN(TERMS, l->channels - c), c > 0);
        }
}

static void filters_in(const layer *l, int64_t k, float *to, int64_t stride) {
    if (l->kernel == 3) spread_filters(6, g3, 3, l, k, to, stride);
    else spread_filters(8, g5, 5, l, k, to, stride);
}
static void tile_out(const layer *l, int64_t tile, int64_t k, const float *from, const float *bias, float *y) {
    if (l->kernel == 3) collect_tile(6, a3, l, tile, k, from, TO_POINT, bias, y);
    else collect_tile(8, a5, l, tile, k, from, TO_POINT, bias, y);
}

static void convolve(const layer *l, const space *s, const float *bias, float *y) {
    const int64_t all = count_tiles(l), points = l->alpha * l->alpha;
    memset(s->zeros, 0, l->channels * sizeof(float));
    PARALLEL_TASKS(b, cc_ceil_div(l->maps, BLOCK))
        filters_in(l, b * BLOCK, s->filters + b * s->filter_block, l->channels * BLOCK);
    PARALLEL_PIECES(first, last, all, s->tiles) {
        const int64_t count = last - first, panels = cc_ceil_div(count, MR);
        float *from = s->own + cc_thread() * s->panels * (s->in.panel + s->to_panel);
        float *to = from + s->panels * s->in.panel;
        tiles_in(l, 0, first, count, panels * MR, s->zeros, from, &s->in);
        for (int64_t k = 0; k < l->maps; k += BLOCK) {
            const float *filters = s->filters + k / BLOCK * s->filter_block;
            for (int64_t i = 0; i < points; i++)
                multiply(l, s, panels, from + i * s->in.point, filters + i * l->channels * BLOCK, to + i * TO_POINT);
            for (int64_t i = 0; i < count; i++)
                tile_out(l, first + i, k, to + i / MR * s->to_panel + i % MR * BLOCK, bias, y);
        }
    }
}

/* Whether Winograd can be used: the conditions of conv.py's rule for algorithm="winograd" hold, and for 5x5 the output
 * fills a tile along both axes. With a smaller output the error passes the bound in tests/test_winograd.py: for a
 * single output pixel the largest error of dx or dw is 1.5e-5 of the largest result for one seed in ten, and 1e-5 is
 * allowed. */
static int possible(const cc_window *w) {
    for (int a = 0; a < 3; a++)
        if (w->stride[a] != 1 || w->dilation[a] != 1) return 0;
    return w->size[0] == 1 && w->out[0] == 1 && w->kernel[0] == 1 && w->kernel[1] == w->kernel[2] &&
           (w->kernel[1] == 3 || (w->kernel[1] == 5 && MIN(w->out[1], w->out[2]) >= M));
}

/* The cost model of algorithm="auto". The unit is a multiply-add, which takes as long as one of the direct kernel.
 * bench/algorithms.py measures how good the model is. Transforms cost TILE units per element of a tile and FILTER units
 * per element of a filter. Tiles at the border count whole. Where tiles are the rows of a product (all but backward to
 * w), their number is rounded up to the rows of two tasks.
 *
 * With few channels or maps the direct kernel is faster. Sums of few terms stay direct, too: they round so little that
 * the error of the transforms would show (tests/test_backends.py bounds an error by the number of terms). */
#define TILE 6
#define FILTER 4
#define FEWEST 8
#define LEAST_TERMS 64
#define MOST_CHANNELS 4096 /* their products are added up TERMS at a time; sums over more would lose digits */
int cc_winograd_chosen(const cc_conv *c, int64_t images, const int64_t out[2], int64_t channels, int64_t maps,
                       int are_rows) {
    if (c->algorithm == DIRECT || !possible(&c->window)) return 0;
    if (are_rows && channels > MOST_CHANNELS) return 0;
    if (c->algorithm == WINOGRAD) return 1;
    const int64_t taps = c->window.kernel[1] * c->window.kernel[2], alpha = M + c->window.kernel[1] - 1;
    const int64_t pixels = images * out[0] * out[1], terms = are_rows ? channels * taps : pixels;
    if (MIN(channels, maps) < FEWEST || terms < LEAST_TERMS) return 0;
    const int64_t tiles = cc_round_up(images * cc_ceil_div(out[0], M) * cc_ceil_div(out[1], M), are_rows ? 2 * MR : 1);
    const int64_t elements = tiles * (channels * maps + TILE * (channels + maps)) + FILTER * channels * maps;
    return alpha * alpha * elements < pixels * taps * channels * maps;
}

int64_t cc_winograd_forward(cc_out y, cc_in x, cc_in w, cc_in bias, const cc_conv *c, void *scratch) {
    cc_arena arena = {scratch, 0};
    layer l = forward_layer(c, x, y, w, &arena);
    l.relu = c->relu != 0;
    const space s = take_space(&l, &arena);
    if (!scratch) return arena.used;
    const float *origin = l.in.origin;
    for (int64_t group = 0; group < c->groups; group++) {
        const int64_t k = group * l.maps;
        l.in.origin = origin + group * l.channels;
        l.w = (const float *)w->data + k * l.map_stride;
        convolve(&l, &s, bias ? (const float *)bias->data + k : NULL, (float *)y->data + k * l.out_channel);
    }
    return 0;
}

int64_t cc_winograd_backward_data(cc_out dx, cc_in dy, cc_in w, const cc_conv *c, void *scratch) {
    cc_arena arena = {scratch, 0};
    layer l = make_layer(c, dy, dx, &arena);
    l.turned = 1;
    l.channels = w->shape[0] / c->groups;
    l.maps = w->shape[1];
    l.map_stride = l.kernel * l.kernel;
    l.channel_stride = l.maps * l.map_stride;
    for (int a = 0; a < 2; a++) l.begin[a] = l.kernel - 1 - c->window.begin[1 + a];
    const space s = take_space(&l, &arena);
    if (!scratch) return arena.used;
    const float *origin = l.in.origin;
    for (int64_t group = 0; group < c->groups; group++) {
        l.in.origin = origin + group * l.channels;
        l.w = (const float *)w->data + group * l.channels * l.channel_stride;
        convolve(&l, &s, NULL, (float *)dx->data + group * l.maps * l.out_channel);
    }
    return 0;
}
