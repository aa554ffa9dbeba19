/* Pooling, second part: layouts, tasks, and the body of every pooling kernel (POOL).
 *
 * Channels-last maps are pooled where they stand. A task is some rows of images, about TASK_BYTES of the larger map.
 * Of contiguous maps a task is BLOCK channels of one image: it transposes them into scratch that stays in cache, pools
 * them there, and transposes the results back.
 *
 *   v1  a task is a row
 *   v2  results of 16 MiB and more are written by non-temporal stores: backward of 2x2 windows takes 0.74 of the time
 *   v3  a task has TASK_BYTES bytes: 0.93 and 0.89 of the time, since threads no longer break up each other's streams
 *   v4  a thread has the same tasks in every call (simd.h): forward 0.8 to 1, backward 0.9 to 1
 *
 * Measurements: docs/kernels/pool.md. Included after pool.h. */
#ifndef POOL_WALK_H
#define POOL_WALK_H
#define TASK_BYTES ((int64_t)128 << 10) /* of the larger map, in a task */
#define LEAST_TASKS 32
#define OWN_SCRATCH (64 << 10) /* bytes on the stack: a call that asks for scratch takes 0.05 ms more, caches cold */
#define LINES 2                /* vectors per transposed block: a cache line of 16 floats at least */
#endif
#define BLOCK (LINES * V)

/* Transposes [channels][pixels] to [pixels][BLOCK], and back. Squares of V x V elements are transposed in registers,
 * the rest element by element. */
static void FN(real_in)(REAL *to, const REAL *from, int64_t pixels, int64_t channels) {
    const int64_t even_p = pixels - pixels % V, even_c = channels - channels % V;
    for (int64_t c = 0; c < even_c; c += V)
        for (int64_t p = 0; p < even_p; p += V) FN(transpose)(to + p * BLOCK + c, BLOCK, from + c * pixels + p, pixels);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t p = c < even_c ? even_p : 0; p < pixels; p++) to[p * BLOCK + c] = from[c * pixels + p];
}

static void FN(real_out)(REAL *to, const REAL *from, int64_t pixels, int64_t channels) {
    const int64_t even_p = pixels - pixels % V, even_c = channels - channels % V;
    for (int64_t c = 0; c < even_c; c += V)
        for (int64_t p = 0; p < even_p; p += V) FN(transpose)(to + c * pixels + p, pixels, from + p * BLOCK + c, BLOCK);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t p = c < even_c ? even_p : 0; p < pixels; p++) to[c * pixels + p] = from[p * BLOCK + c];
}

/* The same for winners, which are int32. Four bytes move like a float. */
static void FN(winner_in)(int32_t *to, const int32_t *from, int64_t pixels, int64_t channels) {
#if REAL_IS_FLOAT
    FN(real_in)((REAL *)to, (const REAL *)from, pixels, channels);
#else
    for (int64_t p0 = 0; p0 < pixels; p0 += 16)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t p = p0; p < MIN(p0 + 16, pixels); p++) to[p * BLOCK + c] = from[c * pixels + p];
#endif
}

static void FN(winner_out)(int32_t *to, const int32_t *from, int64_t pixels, int64_t channels) {
#if REAL_IS_FLOAT
    FN(real_out)((REAL *)to, (const REAL *)from, pixels, channels);
#else
    for (int64_t p0 = 0; p0 < pixels; p0 += 16)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t p = p0; p < MIN(p0 + 16, pixels); p++) to[c * pixels + p] = from[p * BLOCK + c];
#endif
}

/* The tensors of a call; the names are those of pool_maps. */
#ifndef POOL_TENSORS
#define POOL_TENSORS
typedef struct {
    cc_in in[MOST_READ], here, chosen[MOST_CHOSEN];
    cc_out out[MOST_WRITTEN], choice[MOST_CHOSEN];
    void *deep; /* the DEEP_VARIANT of the variant, or NULL */
} pool_tensors;
#endif

/* One call: its maps, and how its work is cut into tasks. */
#define pool_job FN(cc_pool_job)
typedef struct {
    pool_walk walk;
    pool_tensors t;
    int last;       /* channels last: a task is `step` rows of images. Else it is a block of channels of one image */
    int past, once; /* results are too large for the caches; so is what is read, and windows do not overlap */
    int64_t tasks, rows, step, blocks, ins, outs, share, room, list_bytes, own_bytes, bytes;
    char *own; /* per thread: lists, the variant's room, then the transposed blocks */
} pool_job;

/* Bytes of a transposed block of `pixels` pixels with `number` bytes per number. A map that does not exist needs
 * none. */
static int64_t FN(block_bytes)(cc_in t, int64_t pixels, int64_t number) {
    return t ? cc_round_up(pixels * BLOCK * number, 64) : 0;
}

static pool_job FN(plan)(pool_tensors t, const cc_window *w, walk_kind kind, void *scratch) {
    cc_arena arena = {scratch, 0};
    pool_job j = {FN(start_walk)(w, &kind, &arena), t};
    const cc_in a = t.in[0], y = t.out[0];
    const int64_t entry = 2 * sizeof(int64_t) + sizeof(REAL);
    j.ins = a->shape[2] * a->shape[3] * a->shape[4];
    j.outs = y->shape[2] * y->shape[3] * y->shape[4];
    /* Both maps are asked: a contiguous map of one pixel has channel stride 1, too. */
    j.last = (y->stride[1] == 1 && a->stride[1] == 1) || y->shape[1] == 1;
    j.rows = j.walk.size[0] * j.walk.size[1];
    j.blocks = cc_ceil_div(y->shape[1], BLOCK);
    const int64_t rows = y->shape[0] * j.rows, bytes = cc_count(j.ins > j.outs ? a : y) * (int64_t)sizeof(REAL);
    j.step = MAX(1, MIN(TASK_BYTES / cc_ceil_div(bytes, rows), rows / LEAST_TASKS));
    j.tasks = j.last ? cc_ceil_div(rows, j.step) : y->shape[0] * j.blocks;
    /* Channels-last maps are read row by row, in order. Forward mostly reads x. Backward reads the map `here`, if there
     * is one. Pixels fetch a share of these maps. Long lists fetch their own elements. */
    const cc_in large = kind.backward ? t.here : a;
    const int64_t share = large && j.last ? large->stride[0] / (j.rows * j.walk.size[2]) : 0;
    j.share = share <= MOST_SHARE ? share : 0;
    j.once = !kind.backward && cc_past_cache(cc_count(a) * (int64_t)sizeof(REAL));
    for (int i = 0; i < 3; i++) j.once = j.once && (w->kernel[i] - 1) * w->dilation[i] < w->stride[i];
    j.past = cc_past_cache(cc_count(y) * (int64_t)sizeof(REAL));
    j.room = cc_round_up(j.walk.held * (j.walk.most * entry + (int64_t)sizeof(pool_list)), 64);
    j.list_bytes = j.room + cc_round_up(j.walk.most * kind.room, 64);
    j.own_bytes = j.list_bytes;
    if (!j.last) {
        for (int i = 0; i < MOST_READ; i++) j.own_bytes += FN(block_bytes)(t.in[i], j.ins, sizeof(REAL));
        for (int i = 0; i < MOST_WRITTEN; i++) j.own_bytes += FN(block_bytes)(t.out[i], j.outs, sizeof(REAL));
        j.own_bytes += FN(block_bytes)(t.here, j.outs, sizeof(REAL));
        for (int i = 0; i < MOST_CHOSEN; i++) j.own_bytes += FN(block_bytes)(t.chosen[i], j.ins, sizeof(int32_t));
        for (int i = 0; i < MOST_CHOSEN; i++) j.own_bytes += FN(block_bytes)(t.choice[i], j.outs, sizeof(int32_t));
    }
    j.own = cc_take(&arena, j.own_bytes * cc_threads);
    j.bytes = arena.used;
    return j;
}

/* The lists of a thread, none of them filled yet. */
static void FN(start_lists)(const pool_job *j, char *own) {
    const int64_t held = j->walk.held, most = j->walk.most;
    pool_list *lists = (pool_list *)own;
    int64_t *pairs = (int64_t *)(lists + held);
    REAL *shares = (REAL *)(pairs + 2 * held * most);
    for (int64_t i = 0; i < held; i++)
        lists[i] = (pool_list){.kind = -1, .at = pairs + 2 * i * most, .tap = pairs + (2 * i + 1) * most,
                               .share = shares + i * most, .room = own + j->room};
}

/* Channel c of image i of a tensor; NULL stays NULL. */
INLINE REAL *FN(reals)(cc_in t, int64_t i, int64_t c) {
    return t ? (REAL *)t->data + i * t->stride[0] + c * t->stride[1] : NULL;
}
INLINE int32_t *FN(winners)(cc_in t, int64_t i, int64_t c) {
    return t ? (int32_t *)t->data + i * t->stride[0] + c * t->stride[1] : NULL;
}

/* The maps of image i from channel c on, in the caller's memory. */
INLINE pool_maps FN(maps_of)(const pool_tensors *t, int64_t i, int64_t c, int past) {
    pool_maps m = {.here = FN(reals)(t->here, i, c), .past = past};
    for (int k = 0; k < MOST_READ; k++) m.in[k] = FN(reals)(t->in[k], i, c);
    for (int k = 0; k < MOST_WRITTEN; k++) m.out[k] = FN(reals)(t->out[k], i, c);
    for (int k = 0; k < MOST_CHOSEN; k++) m.chosen[k] = FN(winners)(t->chosen[k], i, c);
    for (int k = 0; k < MOST_CHOSEN; k++) m.choice[k] = FN(winners)(t->choice[k], i, c);
    return m;
}

/* Runs row i of an image; there are size[0] * size[1] rows. The strides of `m` are `apart` times those of the job's
 * maps. */
static void FN(run_row)(const pool_job *j, pool_maps m, int64_t channels, int64_t apart, int64_t i, pool_list *lists,
                        pool_fn *variant, const void *p) {
    const axis_list *d = &j->walk.axis[0], *h = &j->walk.axis[1];
    const int64_t *in = j->t.in[0]->stride + 2, *here = j->t.out[0]->stride + 2, *kernel = j->walk.w->kernel;
    const int64_t at = i / j->walk.size[1], y = i % j->walk.size[1];
    const pool_row row = {
        &j->walk, m, lists, channels,
        .first = {d->maker[d->kind[at]], h->maker[h->kind[y]]},
        .kind = (d->kind[at] * h->kinds + h->kind[y]) * j->walk.axis[2].kinds,
        .base = (d->shift[at] * in[0] + h->shift[y] * in[1]) * apart,
        .turn = (d->turn[at] * kernel[1] + h->turn[y]) * kernel[2],
        .in = {in[0] * apart, in[1] * apart, in[2] * apart},
        .here = (at * here[0] + y * here[1]) * apart,
        .step = here[2] * apart,
        .share = j->share,
        .soon = j->share ? (j->walk.kind.backward ? m.here : m.in[0]) + (i + 1) * j->walk.size[2] * j->share : NULL,
        .once = j->once};
    variant(&row, p);
}

/* Takes a block from the bytes at `to`, transposes a map into it, and returns it. A map that does not exist gives
 * NULL. */
static REAL *FN(enter)(char **to, const REAL *from, int64_t pixels, int64_t channels) {
    REAL *block = (REAL *)*to;
    if (!from) return NULL;
    FN(real_in)(block, from, pixels, channels);
    *to += cc_round_up(pixels * BLOCK * (int64_t)sizeof(REAL), 64);
    return block;
}

/* Takes a block of the same size for a result. */
static void *FN(reserve)(char **to, const void *target, int64_t pixels, int64_t number) {
    void *block = *to;
    if (!target) return NULL;
    *to += cc_round_up(pixels * BLOCK * number, 64);
    return block;
}

/* A task of channels-last maps: `step` rows of images. */
static void FN(run_rows)(const pool_job *j, int64_t task, pool_list *lists, pool_fn *variant, const void *p) {
    const int64_t *shape = j->t.out[0]->shape, end = MIN((task + 1) * j->step, shape[0] * j->rows);
    for (int64_t i = task * j->step; i < end; i++) {
        const pool_maps m = FN(maps_of)(&j->t, i / j->rows, 0, j->past);
        FN(run_row)(j, m, shape[1], 1, i % j->rows, lists, variant, p);
    }
}

/* A task of contiguous maps: a block of channels of one image. `to` has room for the transposed blocks. */
static void FN(run_block)(const pool_job *j, int64_t task, char *to, pool_list *lists, pool_fn *variant,
                          const void *p) {
    const int64_t c = task % j->blocks * BLOCK, channels = MIN(BLOCK, j->t.out[0]->shape[1] - c);
    const pool_maps m = FN(maps_of)(&j->t, task / j->blocks, c, 0);
    pool_maps b = {{0}};
    for (int a = 0; a < MOST_READ; a++) b.in[a] = FN(enter)(&to, m.in[a], j->ins, channels);
    b.here = FN(enter)(&to, m.here, j->outs, channels);
    for (int a = 0; a < MOST_WRITTEN; a++) b.out[a] = FN(reserve)(&to, m.out[a], j->outs, sizeof(REAL));
    for (int a = 0; a < MOST_CHOSEN; a++) {
        int32_t *chosen = FN(reserve)(&to, m.chosen[a], j->ins, sizeof(int32_t));
        if (chosen) FN(winner_in)(chosen, m.chosen[a], j->ins, channels);
        b.chosen[a] = chosen;
        b.choice[a] = FN(reserve)(&to, m.choice[a], j->outs, sizeof(int32_t));
    }
    for (int64_t row = 0; row < j->rows; row++) FN(run_row)(j, b, channels, BLOCK, row, lists, variant, p);
    for (int a = 0; a < MOST_WRITTEN; a++)
        if (m.out[a]) FN(real_out)(m.out[a], b.out[a], j->outs, channels);
    for (int a = 0; a < MOST_CHOSEN; a++)
        if (m.choice[a]) FN(winner_out)(m.choice[a], b.choice[a], j->outs, channels);
}

/* The body of a kernel. */
static int64_t FN(pool)(pool_tensors t, const cc_window *w, walk_kind kind, pool_fn *variant, const void *p,
                        void *scratch) {
    /* Where another op only asks for its bytes, the map that it will have in scratch has no memory yet. */
    const int there = t.in[0]->data && t.out[0]->data && (!t.here || t.here->data);
    _Alignas(64) char own[OWN_SCRATCH];
    const int64_t bytes = scratch ? 0 : FN(plan)(t, w, kind, NULL).bytes;
    if (bytes && (bytes > OWN_SCRATCH || !there)) return bytes;
    const pool_job job = FN(plan)(t, w, kind, scratch ? scratch : own);
    if (t.deep && job.walk.most > SUM_RUN) variant = (pool_fn *)t.deep;
    for (int thread = 0; thread < cc_threads; thread++) FN(start_lists)(&job, job.own + job.own_bytes * thread);
    PARALLEL_TASKS(task, job.tasks) {
        char *room = job.own + job.own_bytes * cc_thread();
        pool_list *lists = (pool_list *)room;
        if (job.last) FN(run_rows)(&job, task, lists, variant, p);
        else FN(run_block)(&job, task, room + job.list_bytes, lists, variant, p);
    }
    return 0;
}
#define POOL(tensors, kind, variant, params) \
    return FN(pool)((pool_tensors)tensors, &p->window, (walk_kind)kind, variant, params, scratch);
#define AS(...) {__VA_ARGS__}
