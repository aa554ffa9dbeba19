/* The op conv: chooses which kernel computes what. In float, Winograd (conv_winograd.c) where it is asked for or
 * cheaper. Everything else goes to the direct kernels (conv_direct.c). */
#include "twice.h"

#ifdef REAL
#include "conv.h"
#include "conv_winograd.h"

int64_t FN(conv_forward)(cc_out y, cc_in x, cc_in w, cc_in b, const cc_conv *p, void *scratch) {
#if REAL_IS_FLOAT
    if (cc_winograd_chosen(p, y->shape[0], y->shape + 3, w->shape[1], w->shape[0] / p->groups, 1))
        return cc_winograd_forward(y, x, w, b, p, scratch);
#endif
    return FN(cc_direct_forward)(y, x, w, b, p, scratch);
}

/* Each gradient may take another way. They run one after the other in the same scratch. */
int64_t FN(conv_backward)(cc_out dx, cc_out dw, cc_out db, cc_in dy, cc_in x, cc_in w, const cc_conv *p,
                          void *scratch) {
    int64_t wanted = 0;
#if REAL_IS_FLOAT
    const int64_t channels = w->shape[1], maps = w->shape[0] / p->groups;
    if (cc_wanted(dx) && cc_winograd_chosen(p, dy->shape[0], dx->shape + 3, maps, channels, 1)) {
        wanted = cc_winograd_backward_data(dx, dy, w, p, scratch);
        dx = NULL;
    }
    if (cc_wanted(dw) && cc_winograd_chosen(p, dy->shape[0], dy->shape + 3, channels, maps, 0)) {
        const int64_t result = cc_winograd_backward_weights(dw, dy, x, p, scratch);
        wanted = MAX(wanted, result);
        if (scratch && !result) dw = NULL; /* if dw is not finite, the direct kernel computes it again */
    }
#endif
    const int64_t direct = FN(cc_direct_backward)(dx, dw, db, dy, x, w, p, scratch);
    return scratch ? 0 : MAX(wanted, direct);
}

int64_t FN(conv_relu_forward)(cc_out y, cc_in x, cc_in w, cc_in b, const cc_conv *p, void *scratch) {
    return FN(conv_forward)(y, x, w, b, p, scratch); /* p->relu is set */
}

/* The backward of conv, with a dy that is set to 0 where y is 0. */
int64_t FN(conv_relu_backward)(cc_out dx, cc_out dw, cc_out db, cc_in dy, cc_in x, cc_in w, cc_in y, const cc_conv *p,
                               void *scratch) {
    cc_arena arena = {scratch, 0};
    cc_tensor masked = *dy;
    if (!dy->spare) masked.data = cc_take(&arena, cc_count(dy) * (int64_t)sizeof(REAL));
    if (scratch) FN(relu_backward)(&masked, dy, y, NULL, NULL);
    void *rest = scratch ? arena.base + arena.used : NULL;
    return arena.used * !scratch + FN(conv_backward)(dx, dw, db, &masked, x, w, p, rest);
}
#endif
