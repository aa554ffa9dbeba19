/* Optimiser steps. Every array is read and written once. A result may be one of the arguments: steps run in place. */
#include "twice.h"

#ifdef REAL

int64_t FN(sgd_step_forward)(cc_out value_, cc_out velocity_, cc_in value, cc_in grad, cc_in velocity,
                             const cc_sgd_step *p, void *scratch) {
    const REAL lr = (REAL)p->lr, momentum = (REAL)p->momentum, decay = (REAL)p->weight_decay;
    const REAL *w = value->data, *g = grad->data, *v = velocity->data;
    REAL *w_ = value_->data, *v_ = velocity_->data;
    const int64_t count = cc_count(value);
    const int nesterov = p->nesterov != 0;
    PARALLEL_PIECES(i0, i1, count, PIECE) {
        _Pragma("omp simd")
        for (int64_t i = i0; i < i1; i++) {
            const REAL step = g[i] + decay * w[i], speed = momentum * v[i] + step;
            w_[i] = w[i] - lr * (nesterov ? step + momentum * speed : speed);
            v_[i] = speed;
        }
    }
    return 0;
}

int64_t FN(adam_step_forward)(cc_out value_, cc_out mean_, cc_out square_, cc_in value, cc_in grad, cc_in mean,
                              cc_in square, const cc_adam_step *p, void *scratch) {
    const REAL beta1 = (REAL)p->beta1, beta2 = (REAL)p->beta2, eps = (REAL)p->eps, decay = (REAL)p->weight_decay;
    const REAL rate = (REAL)p->rate, correction = (REAL)p->correction;
    const REAL fresh1 = (REAL)(1 - p->beta1), fresh2 = (REAL)(1 - p->beta2);
    const REAL *w = value->data, *g = grad->data, *m = mean->data, *s = square->data;
    REAL *w_ = value_->data, *m_ = mean_->data, *s_ = square_->data;
    const int64_t count = cc_count(value);
    PARALLEL_PIECES(i0, i1, count, PIECE) {
        _Pragma("omp simd")
        for (int64_t i = i0; i < i1; i++) {
            const REAL step = g[i] + decay * w[i];
            const REAL first = beta1 * m[i] + fresh1 * step, second = beta2 * s[i] + fresh2 * step * step;
            w_[i] = w[i] - rate * first / ((REAL)sqrt(second) * correction + eps);
            m_[i] = first;
            s_[i] = second;
        }
    }
    return 0;
}
#endif
