/* conv_winograd.c: conventions as in kernels.h. */
int cc_winograd_can(const cc_window *w);
int64_t cc_winograd_forward(cc_out y, cc_in x, cc_in w, cc_in bias, const cc_conv *c, void *scratch);
int64_t cc_winograd_backward_data(cc_out dx, cc_in dy, cc_in w, const cc_conv *c, void *scratch);
int64_t cc_winograd_backward_weights(cc_out dw, cc_in dy, cc_in x, const cc_conv *c, void *scratch);
