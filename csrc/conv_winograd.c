/* Winograd convolution (see winograd.h): the choice of algorithm, forward, backward to x.
 *
 * A task transforms tiles that fit L2, multiplies them by all filters, and transforms the products back. */
#include "winograd.h"

/* The filters of the block of maps from k on to alpha^2 matrices [channel][lane], `stride` apart. */
INLINE void spread_filters(int alpha, const table t, int n, const layer *l, int64_t k, float *to, int64_t stride) {
    for (int64_t c = 0; c < l->channels; c++)
        for (int64_t v = 0; v < BLOCK; v += V) {
            const float *w = l->w + (k + v) * l->map_stride + c * l->channel_stride;
            vec from[MOST * MOST], points[MOST * MOST];
            for (int tap = 0; tap < n * n; tap++) {
                const int source = l->turned ? n * n - 1 - tap : tap;
                float lane[V] = {0};
                for (int64_t j = 0; j < MIN(V, l->maps - k - v); j++) lane[j] = w[j * l->map_stride + source];
                from[tap] = load_f32(lane);
            }
            spread_square(alpha, t, n, from, points);
            for (int i = 0; i < alpha * alpha; i++) store_f32(to + i * stride + c * BLOCK + v, points[i]);
        }
}

/* to[tile][map] = sum over channels of from[tile][channel] filters[block][channel][lane]; tiles a multiple of MR. */
static void multiply_channels(float *to, int64_t to_stride, const float *from, int64_t from_stride,
                              const float *filters, int64_t tiles, int64_t channels, int64_t blocks) {
    for (int64_t b = 0; b < blocks; b++, to += BLOCK, filters += channels * BLOCK)
        for (int64_t c = 0; c < channels; c += TERMS)
            for (int64_t i = 0; i < tiles; i += MR)
                multiply_tile(to + i * to_stride, to_stride, from + i * from_stride + c, from_stride, 1,
                              filters + c * BLOCK, MIN(TERMS, channels - c), c > 0);
}

/* The sum that defines one output: for tiles that NaN, Inf or overflow has reached. Padding takes part forward, as 0;
 * what lies outside dy does not exist. */
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

/* One tile of y from its alpha^2 products, `stride` apart. */
INLINE void collect_tile(int alpha, const table t, const layer *l, int64_t tile, const float *from, int64_t stride,
                         const float *bias, float *y) {
    int64_t n, at[2];
    locate_tile(l, tile, &n, at);
    const int64_t rows = MIN(M, l->out_size[0] - at[0]), columns = MIN(M, l->out_size[1] - at[1]);
    float *to = y + n * l->out_n + at[0] * l->out_s[0] + at[1] * l->out_s[1];
    for (int64_t k = 0; k < l->maps; k += V) {
        const int64_t lanes = MIN(V, l->maps - k);
        const vec offset = bias ? load_n_f32(bias + k, lanes) : (vec){0};
        vec points[MOST * MOST], out[M * M], zero = {0};
        for (int i = 0; i < alpha * alpha; i++) points[i] = load_f32(from + i * stride + k);
        collect_square(alpha, t, M, points, out);
        for (int i = 0; i < M * M; i++) zero += 0 * out[i]; /* NaN where one is not finite */
        for (int64_t j = 0; j < lanes; j++) {
            if (zero[j] == 0) continue;
            for (int64_t i = 0; i < rows * columns; i++)
                out[i / columns * M + i % columns][j] = exact(l, n, at[0] + i / columns, at[1] + i % columns, k + j);
        }
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++) {
                float *pixel = to + i * l->out_s[0] + j * l->out_s[1] + k * l->out_channel;
                const vec value = out[i * M + j] + offset;
                if (l->out_channel == 1) store_n_f32(pixel, value, lanes);
                else
                    for (int64_t v = 0; v < lanes; v++) pixel[v * l->out_channel] = value[v];
            }
    }
}

/* How tiles are cut: `tiles` per task, so that a task's tiles and products stay in L2 but filters, read once per task,
 * are used often; tasks in pairs. */
#define TILES_LEAST (8 * MR)
#define L2_FLOATS (96 * 1024)
static int64_t tiles_per_task(const layer *l) {
    const int64_t all = count_tiles(l), points = l->alpha * l->alpha;
    const int64_t fit = MAX(TILES_LEAST, L2_FLOATS / (points * (l->channels + l->maps)));
    const int64_t tasks = cc_round_up(cc_ceil_div(all, fit), 2);
    return cc_round_up(cc_ceil_div(all, tasks), MR);
}

/* Memory of a forward product: filters, and per thread the tiles and their products. */
typedef struct {
    int64_t tiles, channels, maps, filter_matrix, from_matrix, to_matrix;
    float *filters, *zeros, *own;
} space;

static space take_space(const layer *l, cc_arena *arena) {
    const int64_t points = l->alpha * l->alpha;
    space s = {tiles_per_task(l), cc_round_up(l->channels, V) + PAD, cc_round_up(l->maps, BLOCK)};
    s.filter_matrix = l->channels * s.maps + PAD;
    s.from_matrix = s.tiles * s.channels + PAD;
    s.to_matrix = s.tiles * (s.maps + PAD) + PAD;
    s.filters = cc_take(arena, points * s.filter_matrix * sizeof(float));
    s.zeros = cc_take(arena, s.channels * sizeof(float));
    s.own = cc_take(arena, cc_threads * points * (s.from_matrix + s.to_matrix) * sizeof(float));
    return s;
}

static void filters_in(const layer *l, int64_t k, float *to, int64_t stride) {
    if (l->kernel == 3) spread_filters(6, g3, 3, l, k, to, stride);
    else spread_filters(8, g5, 5, l, k, to, stride);
}
static void tile_out(const layer *l, int64_t tile, const float *from, int64_t stride, const float *bias, float *y) {
    if (l->kernel == 3) collect_tile(6, a3, l, tile, from, stride, bias, y);
    else collect_tile(8, a5, l, tile, from, stride, bias, y);
}

static void convolve(const layer *l, const space *s, const float *bias, float *y) {
    const int64_t all = count_tiles(l), points = l->alpha * l->alpha;
    memset(s->zeros, 0, s->channels * sizeof(float));
    PARALLEL_FOR
    for (int64_t k = 0; k < s->maps; k += BLOCK) filters_in(l, k, s->filters + k * l->channels, s->filter_matrix);
    PARALLEL_FOR
    for (int64_t first = 0; first < all; first += s->tiles) {
        const int64_t count = MIN(s->tiles, all - first), rounded = cc_round_up(count, MR);
        float *from = s->own + cc_thread() * points * (s->from_matrix + s->to_matrix);
        float *to = from + points * s->from_matrix;
        for (int64_t i = 0; i < rounded; i++) {
            const float *pixel[MOST * MOST];
            int64_t n, at[2];
            locate_tile(l, first + MIN(i, count - 1), &n, at);
            at[0] -= l->begin[0];
            at[1] -= l->begin[1];
            locate_pixels(pixel, l->alpha, &l->in, n, l->size, at, s->zeros);
            tile_in(l, pixel, from + i * s->channels, s->from_matrix, s->channels);
        }
        for (int64_t i = 0; i < points; i++)
            multiply_channels(to + i * s->to_matrix, s->maps + PAD, from + i * s->from_matrix, s->channels,
                              s->filters + i * s->filter_matrix, rounded, l->channels, s->maps / BLOCK);
        for (int64_t i = 0; i < count; i++) tile_out(l, first + i, to + i * (s->maps + PAD), s->to_matrix, bias, y);
    }
}

/* Without fused multiply-add, 5x5 on the smallest maps misses its bound in tests/test_winograd.py: 1.2e-5 of the
 * largest |dx|, 1e-5 allowed. */
#if defined(__FMA__) || defined(__aarch64__)
#define LARGEST 5
#else
#define LARGEST 3
#endif

/* Whether there is a way at all: what conv.py's rule asks of algorithm="winograd", and LARGEST. */
static int possible(const cc_window *w) {
    for (int a = 0; a < 3; a++)
        if (w->stride[a] != 1 || w->dilation[a] != 1) return 0;
    return w->size[0] == 1 && w->out[0] == 1 && w->kernel[0] == 1 && w->kernel[1] == w->kernel[2] &&
           (w->kernel[1] == 3 || w->kernel[1] == 5) && w->kernel[1] <= LARGEST;
}

/* The cost model of algorithm="auto", in multiply-adds. Transforms cost TILE of them per element of a tile, FILTER per
 * element of a filter, and the products run at two thirds of the direct kernel's rate, as measured. Tiles count whole.
 * With few channels or maps the direct kernel has better ways. */
#define TILE 8
#define FILTER 30
int cc_winograd_chosen(const cc_conv *c, int64_t images, const int64_t out[2], int64_t channels, int64_t maps) {
    if (c->algorithm == DIRECT || !possible(&c->window)) return 0;
    if (c->algorithm == WINOGRAD) return 1;
    const int64_t taps = c->window.kernel[1] * c->window.kernel[2], alpha = M + c->window.kernel[1] - 1;
    const int64_t tiles = images * cc_ceil_div(out[0], M) * cc_ceil_div(out[1], M);
    const int64_t elements = tiles * (channels * maps + TILE * (channels + maps)) + FILTER * channels * maps;
    const int64_t direct = images * out[0] * out[1] * taps * channels * maps;
    return channels >= 8 && maps >= 16 && 3 * alpha * alpha * elements < 2 * direct;
}

int64_t cc_winograd_forward(cc_out y, cc_in x, cc_in w, cc_in bias, const cc_conv *c, void *scratch) {
    cc_arena arena = {scratch, 0};
    layer l = make_layer(c, x, y, w, &arena);
    l.channels = w->shape[1];
    l.maps = w->shape[0] / c->groups;
    l.channel_stride = l.kernel * l.kernel;
    l.map_stride = l.channels * l.channel_stride;
    for (int a = 0; a < 2; a++) l.begin[a] = c->window.begin[1 + a];
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
    layer l = make_layer(c, dy, dx, w, &arena);
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
