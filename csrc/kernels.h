/* Every C prototype, once. cffi's cdef and the compiler read these same lines (kernels_build.py preprocesses them).
 *
 * A kernel exists in float (_f32) and double (_f64). Its arguments have a fixed order, so that cnncore/backends/ needs
 * no code per op:
 *
 *     forward:   results (outputs, then what backward reads), array arguments, parameters, scratch
 *     backward:  gradients of the differentiable arguments, dy, what forward saved, parameters, scratch
 *
 * A result or gradient that is NULL is not computed. An argument that is NULL was left out. With scratch = NULL a
 * kernel that needs scratch returns the number of bytes and does nothing else. Any other call does the work and returns
 * 0. Kernels trust their arguments: Python has checked them.
 *
 * All feature maps of a call have the same layout: contiguous (N, C, D, H, W), or channels last (the same logical axes,
 * with stride 1 for the channel). Both are dense. Parameters are contiguous. Axes that an array lacks are inserted
 * behind the second axis, with length 1: (N, C, W) arrives as (N, C, 1, 1, W). */
#ifndef CNNCORE_KERNELS_H
#define CNNCORE_KERNELS_H
#ifndef CNNCORE_CDEF
#include <stdint.h>
#endif

typedef struct {
    void *data;
    int64_t shape[5], stride[5]; /* strides in elements */
    uint64_t key[2]; /* uniforms with data NULL are drawn by the kernel; this is their key (seed, counter) */
    int64_t spare;   /* nobody reads this dy again, so the kernel may overwrite it */
} cc_tensor;

typedef const cc_tensor *cc_out; /* written */
typedef const cc_tensor *cc_in;  /* read */

/* The Window of ops/geometry.py. An axis that is missing has kernel, stride, dilation, size and out 1. */
typedef struct {
    int64_t kernel[3], stride[3], dilation[3], begin[3], end[3], size[3], out[3];
} cc_window;

typedef struct { cc_window window; int64_t groups, algorithm, relu; } cc_conv; /* conv_winograd.h; relu: max(y, 0) */
typedef struct { cc_window window; } cc_max_pool;
typedef struct { cc_window window; int64_t count_include_pad; } cc_avg_pool;
typedef struct { cc_window window; double p; int64_t normalize; } cc_lp_pool;
typedef struct { cc_window window; double p, sigma; } cc_gaussian_lp_pool;
typedef struct { cc_window window; double power; } cc_stochastic_pool;
typedef struct { cc_window window; double power; } cc_expectation_pool;
typedef struct { cc_window window; } cc_entropy_pool;
typedef struct { cc_window window; int64_t pieces; } cc_lp_unit;
typedef struct { cc_window window; int64_t pieces, pooled; } cc_maxout; /* pooled: 1 if there is a window */
typedef struct { double p; int64_t maps; } cc_dropout; /* maps: 1 if a map is dropped or kept as a whole */
typedef struct { int64_t count; } cc_add;
typedef struct { int64_t count, axis, rank; } cc_concat;
typedef struct { int64_t start, stop; } cc_slice;
typedef struct { int64_t before[4], after[4]; double alpha, beta, k; } cc_lrn; /* along C, D, H, W */
typedef struct { int64_t before[3], after[3]; double sigma[3]; } cc_subtractive_norm; /* along D, H, W */
typedef struct { int64_t before[3], after[3]; double sigma[3], floor; } cc_divisive_norm;
typedef struct { int64_t axis; } cc_softmax; /* one of the five */
typedef struct { double scale; } cc_softmax_cross_entropy;
typedef struct { double lr, momentum, weight_decay; int64_t nesterov; } cc_sgd_step;
typedef struct { double beta1, beta2, eps, weight_decay, rate, correction; } cc_adam_step;

#define KERNEL(name, ...)                      \
    int64_t name##_f32(__VA_ARGS__, void *scratch); \
    int64_t name##_f64(__VA_ARGS__, void *scratch);

/* conv.c (it calls conv_direct.c, conv_weights.c, conv_winograd.c, conv_winograd_weights.c) */
KERNEL(conv_forward, cc_out y, cc_in x, cc_in w, cc_in b, const cc_conv *p)
KERNEL(conv_backward, cc_out dx, cc_out dw, cc_out db, cc_in dy, cc_in x, cc_in w, const cc_conv *p)
KERNEL(conv_relu_forward, cc_out y, cc_in x, cc_in w, cc_in b, const cc_conv *p)
KERNEL(conv_relu_backward, cc_out dx, cc_out dw, cc_out db, cc_in dy, cc_in x, cc_in w, cc_in y, const cc_conv *p)

/* conv_versions.c: for `cnncore bench conv --versions` */
KERNEL(conv_v1_forward, cc_out y, cc_in x, cc_in w, cc_in b, const cc_conv *p)
KERNEL(conv_v2_forward, cc_out y, cc_in x, cc_in w, cc_in b, const cc_conv *p)

/* pool.c */
KERNEL(max_pool_forward, cc_out y, cc_out winner, cc_in x, const cc_max_pool *p)
KERNEL(max_pool_backward, cc_out dx, cc_in dy, cc_in winner, const cc_max_pool *p)
KERNEL(relu_max_pool_forward, cc_out y, cc_out winner, cc_in x, const cc_max_pool *p)
KERNEL(relu_max_pool_backward, cc_out dx, cc_in dy, cc_in winner, const cc_max_pool *p)
KERNEL(avg_pool_forward, cc_out y, cc_in x, const cc_avg_pool *p)
KERNEL(avg_pool_backward, cc_out dx, cc_in dy, const cc_avg_pool *p)

/* units.c */
KERNEL(maxout_forward, cc_out y, cc_out piece, cc_out winner, cc_in x, const cc_maxout *p)
KERNEL(maxout_backward, cc_out dx, cc_in dy, cc_in piece, cc_in winner, const cc_maxout *p)

/* pool_power.c */
KERNEL(lp_pool_forward, cc_out y, cc_out winner, cc_in x, const cc_lp_pool *p)
KERNEL(lp_pool_backward, cc_out dx, cc_in dy, cc_in x, cc_in y, cc_in winner, const cc_lp_pool *p)
KERNEL(gaussian_lp_pool_forward, cc_out y, cc_in x, const cc_gaussian_lp_pool *p)
KERNEL(gaussian_lp_pool_backward, cc_out dx, cc_in dy, cc_in x, cc_in y, const cc_gaussian_lp_pool *p)
KERNEL(expectation_pool_forward, cc_out y, cc_out total, cc_in x, const cc_expectation_pool *p)
KERNEL(expectation_pool_backward, cc_out dx, cc_in dy, cc_in x, cc_in y, cc_in total, const cc_expectation_pool *p)
KERNEL(entropy_pool_forward, cc_out y, cc_out ratio, cc_out winner, cc_in x, const cc_entropy_pool *p)
KERNEL(entropy_pool_backward, cc_out dx, cc_in dy, cc_in x, cc_in ratio, cc_in winner, const cc_entropy_pool *p)

/* pool_draw.c */
KERNEL(stochastic_pool_forward, cc_out y, cc_out winner, cc_in x, cc_in u, const cc_stochastic_pool *p)
KERNEL(stochastic_pool_backward, cc_out dx, cc_in dy, cc_in winner, const cc_stochastic_pool *p)

/* lp_unit.c */
KERNEL(lp_unit_forward, cc_out y, cc_in x, cc_in rho, cc_in center, const cc_lp_unit *p)
KERNEL(lp_unit_backward, cc_out dx, cc_out drho, cc_out dcenter, cc_in dy, cc_in x, cc_in rho, cc_in center,
       const cc_lp_unit *p)

/* pointwise.c. `xs` and `dxs` point at p->count tensors. A dx whose data is NULL is not computed. */
KERNEL(relu_forward, cc_out y, cc_in x, const void *p)
KERNEL(relu_backward, cc_out dx, cc_in dy, cc_in y, const void *p)
KERNEL(sigmoid_forward, cc_out y, cc_in x, const void *p)
KERNEL(sigmoid_backward, cc_out dx, cc_in dy, cc_in y, const void *p)
KERNEL(tanh_forward, cc_out y, cc_in x, const void *p)
KERNEL(tanh_backward, cc_out dx, cc_in dy, cc_in y, const void *p)
KERNEL(dropout_forward, cc_out y, cc_out kept, cc_in x, cc_in u, const cc_dropout *p)
KERNEL(dropout_backward, cc_out dx, cc_in dy, cc_in kept, const cc_dropout *p)
KERNEL(add_forward, cc_out y, cc_in xs, const cc_add *p)
KERNEL(add_backward, cc_out dxs, cc_in dy, const cc_add *p)
KERNEL(concat_forward, cc_out y, cc_in xs, const cc_concat *p)
KERNEL(concat_backward, cc_out dxs, cc_in dy, const cc_concat *p)
KERNEL(slice_forward, cc_out y, cc_in x, const cc_slice *p)
KERNEL(slice_backward, cc_out dx, cc_in dy, const cc_slice *p)

void cc_exp_f32(float *y, const float *x, int64_t count); /* vmath.h's functions, for their tests */
void cc_exp_f64(double *y, const double *x, int64_t count);
void cc_log_f32(float *y, const float *x, int64_t count);
void cc_log_f64(double *y, const double *x, int64_t count);
void cc_pow_f32(float *y, const float *x, const float *e, int64_t count);
void cc_pow_f64(double *y, const double *x, const double *e, int64_t count);

/* linear.c */
KERNEL(linear_forward, cc_out y, cc_in x, cc_in w, cc_in b, const void *p)
KERNEL(linear_backward, cc_out dx, cc_out dw, cc_out db, cc_in dy, cc_in x, cc_in w, const void *p)

/* dense.c */
KERNEL(softmax_forward, cc_out y, cc_in x, const cc_softmax *p)
KERNEL(softmax_backward, cc_out dx, cc_in dy, cc_in y, const cc_softmax *p)
KERNEL(softmax_cross_entropy_forward, cc_out y, cc_out probabilities, cc_in logits, cc_in labels,
       const cc_softmax_cross_entropy *p)
KERNEL(softmax_cross_entropy_backward, cc_out dlogits, cc_in dy, cc_in probabilities, cc_in labels,
       const cc_softmax_cross_entropy *p)

/* norm.c */
KERNEL(lrn_forward, cc_out y, cc_in x, const cc_lrn *p)
KERNEL(lrn_backward, cc_out dx, cc_in dy, cc_in x, const cc_lrn *p)
KERNEL(lrn_within_forward, cc_out y, cc_in x, const cc_lrn *p)
KERNEL(lrn_within_backward, cc_out dx, cc_in dy, cc_in x, const cc_lrn *p)

/* contrast.c */
KERNEL(subtractive_norm_forward, cc_out y, cc_in x, const cc_subtractive_norm *p)
KERNEL(subtractive_norm_backward, cc_out dx, cc_in dy, const cc_subtractive_norm *p)
KERNEL(divisive_norm_forward, cc_out y, cc_out local, cc_out divisor, cc_out winner, cc_in x,
       const cc_divisive_norm *p)
KERNEL(divisive_norm_backward, cc_out dx, cc_in dy, cc_in x, cc_in local, cc_in divisor, cc_in winner,
       const cc_divisive_norm *p)

/* steps.c. A result may be the argument itself: then the step runs in place. */
KERNEL(sgd_step_forward, cc_out value_, cc_out velocity_, cc_in value, cc_in grad, cc_in velocity,
       const cc_sgd_step *p)
KERNEL(adam_step_forward, cc_out value_, cc_out mean_, cc_out square_, cc_in value, cc_in grad, cc_in mean,
       cc_in square, const cc_adam_step *p)

/* layout.c: copies a map to the other layout */
KERNEL(relayout, cc_out to, cc_in from, const void *p)

/* random.c: the uniforms of the key (seed, counter), as in cnncore/ops/random.py */
void cc_uniform_f32(float *u, int64_t count, uint64_t seed, uint64_t counter);
void cc_uniform_f64(double *u, int64_t count, uint64_t seed, uint64_t counter);

/* runtime.c */
void cc_set_threads(int threads);
int cc_get_threads(void);
int cc_cpu_supports(const char *isa); /* "baseline", "avx2", "avx512" */

/* built.c: how the module was built */
const char *cc_sources(void); /* the digest of csrc/ */
const char *cc_compiler(void);
const char *cc_flags(void);
const char *cc_openmp(void); /* the flag, or why there is none */

/* floors.c */
int cc_vector_bytes(void);
double cc_peak_fma_f32(int64_t rounds); /* runs fused multiply-adds in registers on every thread; returns the FLOPs */
double cc_peak_fma_f64(int64_t rounds);
double cc_plain_pass_f32(void *to, int64_t written, const void *from, int64_t read, int streamed); /* whole vectors */
void cc_math_pass_f32(int64_t exponentials, int64_t logarithms, int64_t uniforms);

#endif
