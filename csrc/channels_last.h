/* A feature map in the form that kernels read: channels contiguous, zero padding in place. An array that has this form
 * is read where it stands. Others are packed into scratch once per call. Included by kernel files, after twice.h. */

#define map_view FN(cc_map_view)
typedef struct {
    const REAL *origin; /* element (n = 0, s = 0, 0, 0, c = 0) of the real, unpadded map */
    int64_t n, s[3];    /* strides of image and of the three spatial axes, in elements; a channel's is 1 */
} map_view;

/* Packs one row of an image: w pixels of c channels. Squares of V x V elements are transposed in registers, the rest
 * element by element. */
static void FN(pack_row)(REAL *to, const REAL *from, int64_t w, int64_t c, int64_t stride_w, int64_t stride_c) {
    if (stride_c == 1 || c == 1) {
        if (stride_w == c) memcpy(to, from, w * c * sizeof(REAL));
        else
            for (int64_t i = 0; i < w; i++) memcpy(to + i * c, from + i * stride_w, c * sizeof(REAL));
        return;
    }
    const int64_t even_w = stride_w == 1 ? w - w % V : 0, even_c = c - c % V;
    for (int64_t k = 0; k < even_c; k += V)
        for (int64_t i = 0; i < even_w; i += V) FN(transpose)(to + i * c + k, c, from + i + k * stride_c, stride_c);
    for (int64_t k = 0; k < c; k++)
        for (int64_t i = k < even_c ? even_w : 0; i < w; i++) to[i * c + k] = from[i * stride_w + k * stride_c];
}

/* A view of t with `low` zeros in front of every spatial axis and a size of `padded`. If a copy is needed, it is taken
 * from the arena. With an arena that only counts, nothing is read or written. */
static inline map_view FN(view)(cc_in t, const int64_t low[3], const int64_t padded[3], cc_arena *arena) {
    const int64_t *shape = t->shape, *stride = t->stride;
    const int64_t c = shape[1];
    int same = c == 1 || stride[1] == 1;
    for (int a = 0; a < 3; a++) same = same && low[a] == 0 && padded[a] == shape[2 + a];
    if (same) return (map_view){t->data, stride[0], {stride[2], stride[3], stride[4]}};

    const int64_t row = padded[2] * c, plane = padded[1] * row, image = padded[0] * plane;
    REAL *packed = cc_take(arena, (shape[0] * image) * (int64_t)sizeof(REAL));
    map_view v = {packed, image, {plane, row, c}};
    if (!packed) return v;
    PARALLEL_TASKS(np, shape[0] * padded[0]) {
        const int64_t n = np / padded[0], d = np % padded[0] - low[0];
        for (int64_t hp = 0; hp < padded[1]; hp++) {
            const int64_t h = hp - low[1];
            REAL *to = packed + np * plane + hp * row;
            if (d < 0 || d >= shape[2] || h < 0 || h >= shape[3]) {
                memset(to, 0, row * sizeof(REAL));
                continue;
            }
            const REAL *from = (const REAL *)t->data + n * stride[0] + d * stride[2] + h * stride[3];
            memset(to, 0, low[2] * c * sizeof(REAL));
            FN(pack_row)(to + low[2] * c, from, shape[4], c, stride[4], stride[1]);
            memset(to + (low[2] + shape[4]) * c, 0, (padded[2] - low[2] - shape[4]) * c * sizeof(REAL));
        }
    }
    v.origin += low[0] * plane + low[1] * row + low[2] * c;
    return v;
}
