/* The functions of conv_winograd.c and conv_winograd_weights.c. Conventions are those of kernels.h. */
#ifndef CNNCORE_CONV_WINOGRAD_H
#define CNNCORE_CONV_WINOGRAD_H
enum { AUTO, DIRECT, WINOGRAD }; /* cc_conv's algorithm */

int cc_winograd_chosen(const cc_conv *c, int64_t images, const int64_t out[2], int64_t channels, int64_t maps,
                       int are_rows);
int64_t cc_winograd_forward(cc_out y, cc_in x, cc_in w, cc_in bias, const cc_conv *c, void *scratch);
int64_t cc_winograd_backward_data(cc_out dx, cc_in dy, cc_in w, const cc_conv *c, void *scratch);
int64_t cc_winograd_backward_weights(cc_out dw, cc_in dy, cc_in x, const cc_conv *c, void *scratch);
#endif
