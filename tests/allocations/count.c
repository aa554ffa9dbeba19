/* Counts how often a process asks for 4 KiB of memory or more: loaded in front of the C library (LD_PRELOAD), each
 * function here counts and calls the one it hides. cc_large() is the count, cc_trace = 1 prints who asks. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { LARGE = 4096, DEPTH = 24 };
static atomic_long large;
int cc_trace = 0;

long cc_large(void) { return large; }

static void count(size_t size) {
    if (size < LARGE) return;
    large++;
    if (!cc_trace) return;
    cc_trace = 0; /* what follows may ask for memory itself */
    void *callers[DEPTH];
    backtrace_symbols_fd(callers, backtrace(callers, DEPTH), 2);
    cc_trace = 1;
}

#define HIDDEN(name)                          \
    static __typeof__(name) *hidden;          \
    if (!hidden) hidden = dlsym(RTLD_NEXT, #name);

void *malloc(size_t size) {
    HIDDEN(malloc)
    count(size);
    return hidden(size);
}

void *calloc(size_t items, size_t size) {
    static _Alignas(16) char early[4096]; /* for dlsym itself, which asks before it has found calloc */
    static size_t used;
    static int looking;
    static __typeof__(calloc) *hidden;
    if (looking) {
        char *piece = early + used;
        used += (items * size + 15) / 16 * 16;
        return piece;
    }
    if (!hidden) {
        looking = 1;
        hidden = dlsym(RTLD_NEXT, "calloc");
        looking = 0;
    }
    count(items * size);
    return hidden(items, size);
}

void *realloc(void *piece, size_t size) {
    HIDDEN(realloc)
    count(size);
    return hidden(piece, size);
}

int posix_memalign(void **piece, size_t alignment, size_t size) {
    HIDDEN(posix_memalign)
    count(size);
    return hidden(piece, alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    HIDDEN(aligned_alloc)
    count(size);
    return hidden(alignment, size);
}

void *mmap(void *at, size_t size, int protection, int flags, int file, off_t offset) {
    HIDDEN(mmap)
    count(size);
    return hidden(at, size, protection, flags, file, offset);
}
