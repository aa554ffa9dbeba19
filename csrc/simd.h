/* One vector type per instruction set and REAL, from the vector extensions of GCC and clang. `vec` holds V numbers;
 * `ivec` holds V integers of the same width, which is what comparisons give. Compiler flags choose the width. Nothing
 * else differs between instruction sets, so the AVX-512 source can be tested on any machine (CC_VECTOR_BYTES=64). This
 * file is included once per REAL, so names have a suffix: FN(name) is name_f32 or name_f64. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_thread_num() 0
#define omp_get_num_threads() 1
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels.h"

#ifndef CNNCORE_SIMD_H
#define CNNCORE_SIMD_H

#ifndef CC_VECTOR_BYTES
#if defined(__AVX512F__)
#define CC_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define CC_VECTOR_BYTES 32
#else
#define CC_VECTOR_BYTES 16
#endif
#endif

#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)
#define INLINE static inline __attribute__((always_inline))
#define OUT_OF_LINE static __attribute__((noinline, unused))
#ifdef __clang__ /* it ignores GCC's pragma without a warning, and arrays of vectors would stay in memory */
#define UNROLL _Pragma("clang loop unroll(full)")
#define UNROLL_8 _Pragma("clang loop unroll_count(8)")
#pragma STDC FP_CONTRACT ON /* otherwise clang before version 14 fuses no product with a sum */
#else
#define UNROLL _Pragma("GCC unroll 16")
#define UNROLL_8 _Pragma("GCC unroll 8")
#endif
/* Keeps the vector v in a register, where a compiler would load it again for every use. */
#if defined(__x86_64__)
#define IN_REGISTER(v) __asm__("" : "+v"(v))
#else
#define IN_REGISTER(v)
#endif
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

#define SUM_RUN 64 /* terms that are added up in REAL, at most: see add_run */

extern int cc_threads; /* runtime.c */
/* PARALLEL_TASKS(task, count) { ... } runs its body for every task below count, on all threads. Tasks are cut by shape,
 * never by the number of threads, so results are the same for every number of threads.
 *
 * Each thread begins with its own share of the tasks. In every call with so many tasks that is the same share, in the
 * same order, so the thread finds in its caches what it left there (docs/kernels/conv.md). Then it helps with the
 * shares of the other threads. */
#define PARALLEL _Pragma("omp parallel num_threads(cc_threads) if (cc_threads > 1)")
#define EACH_TASK(task, tasks) for (int64_t task = 0, end_ = 0; (task = cc_next_task(&tasks, task, &end_)) >= 0;)
#define PARALLEL_TASKS(task, number)                                                                                \
    for (cc_tasks tasks_ = {.count = (number)}, *once_ = &tasks_; once_; once_ = NULL)                               \
        _Pragma("omp parallel num_threads(cc_threads) if (cc_threads > 1 && tasks_.count > 1)") EACH_TASK(task, tasks_)
/* The same for pieces [i0, i1) of `count` elements. A piece has `size` elements; PIECE is large enough to be a task. */
#define PIECE 16384
#define PARALLEL_PIECES(i0, i1, count, size)                                                                        \
    PARALLEL_TASKS(piece_, cc_ceil_div(count, size))                                                                \
        for (int64_t i0 = piece_ * (size), i1 = MIN(i0 + (size), (count)), one_ = 1; one_; one_ = 0)

INLINE int cc_thread(void) { return omp_get_thread_num(); }
INLINE int64_t cc_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; } /* a >= 0, b > 0 */
INLINE int64_t cc_round_up(int64_t a, int64_t b) { return cc_ceil_div(a, b) * b; }
INLINE int64_t cc_count(cc_in t) { return t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3] * t->shape[4]; }
INLINE int cc_wanted(cc_out t) { return t && t->data; }

#define SHARES 32 /* at most; if there are more threads, some begin with the same share */
#define PARTS 4   /* a thread takes 1 / PARTS of the tasks that a share still has: it waits rarely, and ends evenly */
typedef struct {
    int64_t count;
    struct { int64_t taken, line[7]; } share[SHARES]; /* every share has a cache line of its own */
} cc_tasks;
/* The next task of a thread, which has taken the tasks before `end` already; -1 if no task is left. A thread takes
 * several tasks of a share at once, since an atomic instruction waits for its non-temporal stores. */
static inline int64_t cc_next_task(cc_tasks *t, int64_t task, int64_t *end) {
    if (task + 1 < *end) return task + 1;
    const int64_t shares = MIN(omp_get_num_threads(), SHARES), own = omp_get_thread_num() % shares;
    for (int64_t i = 0; i < shares; i++) {
        const int64_t s = (own + i) % shares, last = t->count * (s + 1) / shares;
        int64_t *next = &t->share[s].taken, first = t->count * s / shares;
        const int64_t left = last - first - __atomic_load_n(next, __ATOMIC_RELAXED), some = MAX(1, left / PARTS);
        if (left <= 0) continue;
        first += __atomic_fetch_add(next, some, __ATOMIC_RELAXED);
        if (first >= last) continue;
        *end = MIN(first + some, last);
        return first;
    }
#if defined(__x86_64__)
    _mm_sfence(); /* the thread's non-temporal stores are done before the next parallel region */
#endif
    return -1;
}

/* Whether a result of so many bytes is written by non-temporal stores. The limit is half of a usual last-level cache
 * (32 MiB). A result of that size has left the cache before it is read: its own end, and the data that was read for it,
 * displace its beginning. (What the system says about the cache does not help: it is the sum over all cores, or on
 * virtual machines nothing.) */
INLINE int cc_past_cache(int64_t bytes) { return bytes >= (int64_t)16 << 20; }

/* Scratch is one block. cc_take gives out pieces of whole cache lines. With base NULL it only counts bytes. */
typedef struct { char *base; int64_t used; } cc_arena;
INLINE void *cc_take(cc_arena *arena, int64_t bytes) {
    void *piece = arena->base ? arena->base + arena->used : NULL;
    arena->used += cc_round_up(bytes, 64);
    return piece;
}
#endif

#undef FN
#undef vec
#undef ivec
#undef V
#undef INT
#if REAL_IS_FLOAT
#define FN(name) CAT(name, _f32)
#define INT int32_t
#else
#define FN(name) CAT(name, _f64)
#define INT int64_t
#endif
#define vec FN(cc_vec)
#define ivec FN(cc_ivec)
#define V (CC_VECTOR_BYTES / (int)sizeof(REAL))

typedef REAL vec __attribute__((vector_size(CC_VECTOR_BYTES)));
typedef INT ivec __attribute__((vector_size(CC_VECTOR_BYTES)));
typedef REAL FN(cc_unaligned) __attribute__((vector_size(CC_VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));

INLINE vec FN(load)(const REAL *p) { return *(const FN(cc_unaligned) *)p; }
INLINE void FN(store)(REAL *p, vec v) { *(FN(cc_unaligned) *)p = v; }
/* The first n lanes. load_n gives 0 in the others; store_n does not write them. */
INLINE vec FN(load_n)(const REAL *p, int64_t n) {
    if (n >= V) return FN(load)(p);
    vec v = {0};
    for (int64_t i = 0; i < n; i++) v[i] = p[i];
    return v;
}
INLINE void FN(store_n)(REAL *p, vec v, int64_t n) {
    if (n >= V) {
        FN(store)(p, v);
        return;
    }
    for (int64_t i = 0; i < n; i++) p[i] = v[i];
}
/* A non-temporal store, if `past` and p is aligned to a vector. It is for results so large (cc_past_cache) that their
 * next reader finds them in memory anyway. A plain store would read the cache line first. cc_next_task waits for these
 * stores when a thread has no more tasks. */
INLINE void FN(stream)(REAL *p, vec v, int past) {
#if defined(__x86_64__)
    if (past && (uintptr_t)p % sizeof v == 0) {
#if CC_VECTOR_BYTES == 64 && defined(__AVX512F__)
        _mm512_stream_si512((void *)p, (__m512i)v);
#elif CC_VECTOR_BYTES == 32 && defined(__AVX2__)
        _mm256_stream_si256((void *)p, (__m256i)v);
#elif CC_VECTOR_BYTES == 16
        _mm_stream_si128((void *)p, (__m128i)v);
#else
        FN(store)(p, v);
#endif
        return;
    }
#endif
    FN(store)(p, v);
}
/* Stores the first n lanes. A whole vector is streamed. */
INLINE void FN(stream_n)(REAL *p, vec v, int64_t n, int past) {
    if (n >= V) FN(stream)(p, v, past);
    else FN(store_n)(p, v, n);
}
/* A copy, streamed if `past`. */
INLINE void FN(copy)(REAL *to, const REAL *from, int64_t count, int past) {
    int64_t i = 0;
    if (past)
        for (; i + V <= count; i += V) FN(stream)(to + i, FN(load)(from + i), past);
    memcpy(to + i, from + i, (count - i) * sizeof(REAL));
}
/* mask ? a : b, lane by lane. Lanes of the mask are 0 or -1. */
INLINE vec FN(select)(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }
INLINE ivec FN(iselect)(ivec mask, ivec a, ivec b) { return (mask & a) | (~mask & b); }
/* Whether any bit is set */
INLINE int FN(any)(ivec mask) {
    uint64_t part[sizeof mask / sizeof(uint64_t)], some = 0;
    memcpy(part, &mask, sizeof mask);
    for (int j = 0; j < (int)(sizeof mask / sizeof(uint64_t)); j++) some |= part[j];
    return some != 0;
}
/* a / b, for use in a select. With AVX-512, GCC would divide twice: once plainly, and once under the mask of the
 * select. */
INLINE vec FN(quotient)(vec a, vec b) {
    vec q = a / b;
    IN_REGISTER(q);
    return q;
}
/* A sum of many terms is cut into runs. A run has at most SUM_RUN terms, which are added up in REAL. The sums of the
 * runs are added up in double. So the error is that of one run, however many terms there are. A sum that is one run
 * needs none of these functions. */
OUT_OF_LINE void FN(add_run)(double *whole, const REAL *run, int64_t count) {
    for (int64_t i = 0; i < count; i++) whole[i] += (double)run[i];
}
OUT_OF_LINE void FN(round_runs)(REAL *sum, const double *whole, int64_t count) {
    for (int64_t i = 0; i < count; i++) sum[i] = (REAL)whole[i];
}
/* Adds a run to each of V sums. Returns the sums so far. */
OUT_OF_LINE vec FN(end_run)(double whole[V], vec run) {
    REAL lane[V];
    FN(store)(lane, run);
    FN(add_run)(whole, lane, V);
    FN(round_runs)(lane, whole, V);
    return FN(load)(lane);
}
INLINE vec FN(rectify)(vec v) { return FN(select)(v <= 0, (vec){0}, v); } /* max(0, v); NaN stays */

/* a[first] b[first] a[first + 1] b[first + 1] ..., for a constant first */
INLINE vec FN(interleave)(vec a, vec b, const int first) {
#ifdef __clang__ /* it has no shuffle by a vector of lanes, but makes one shuffle of these single lanes */
    vec both;
    UNROLL for (int i = 0; i < V; i++) both[i] = (i % 2 ? b : a)[first + i / 2];
    return both;
#else
    ivec lanes;
    UNROLL for (int i = 0; i < V; i++) lanes[i] = first + i / 2 + i % 2 * V;
    return __builtin_shuffle(a, b, lanes);
#endif
}

/* V x V elements, transposed: log2(V) rounds of interleaving row i with row i + V/2. */
INLINE void FN(transpose)(REAL *to, int64_t to_stride, const REAL *from, int64_t from_stride) {
    vec r[V], s[V];
    UNROLL for (int i = 0; i < V; i++) r[i] = FN(load)(from + i * from_stride);
    UNROLL for (int round = 1; round < V; round *= 2) {
        UNROLL for (int i = 0; i < V / 2; i++) {
            s[2 * i] = FN(interleave)(r[i], r[i + V / 2], 0);
            s[2 * i + 1] = FN(interleave)(r[i], r[i + V / 2], V / 2);
        }
        UNROLL for (int i = 0; i < V; i++) r[i] = s[i];
    }
    UNROLL for (int i = 0; i < V; i++) FN(store)(to + i * to_stride, r[i]);
}
