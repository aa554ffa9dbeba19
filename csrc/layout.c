/* One memory format made of the other: what native.dense calls for a batch that is loaded, for Flatten, and for the
 * gradient behind it.
 *
 * Of every image a matrix is transposed, pixels of maps or maps of pixels, V x V elements at a time in registers
 * (pack_row). NumPy's copy goes element by element: contiguous to channels last and back, one thread up to 4 MiB, it
 * takes 0.22 and 0.15 ms for LeNet's (128, 64, 7, 7), 20.8 and 7.0 ms for (64, 96, 32, 32); this one 0.13 and 0.11, and
 * 2.4 and 4.5 ms. Two threads gain from 256 KiB on; of 8 KiB their start costs 1 us of 8. */
#include "twice.h"

#ifdef REAL
#include "channels_last.h"

int64_t FN(relayout)(cc_out to, cc_in from, const void *p, void *scratch) {
    const int64_t pixels = from->shape[2] * from->shape[3] * from->shape[4], maps = from->shape[1];
    const int last = from->stride[1] == 1; /* a row of `from` is a pixel's maps; else it is a map's pixels */
    const int64_t rows = last ? pixels : maps, length = last ? maps : pixels;
    const int64_t step = cc_round_up(cc_ceil_div(1 << 14, rows), V), steps = cc_ceil_div(length, step);
    PARALLEL_TASKS(task, from->shape[0] * steps) {
        const int64_t first = task % steps * step, image = task / steps * rows * length;
        FN(pack_row)((REAL *)to->data + image + first * rows, (const REAL *)from->data + image + first,
                     MIN(step, length - first), rows, 1, length);
    }
    return 0;
}
#endif
