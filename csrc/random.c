/* The uniforms of a key, written to an array. */
#include "twice.h"

#ifdef REAL
#include "channels_last.h"
#include "philox.h"

void FN(cc_uniform)(REAL *u, int64_t count, uint64_t seed, uint64_t counter) {
    const philox_key key = spread_key((uint64_t[]){seed, counter});
    const int64_t piece = 64 * AT_ONCE;
    PARALLEL_PIECES(first, last, count, piece) FN(uniforms)(u + first, first, last - first, &key);
}
#endif
