/* Included first by every kernel file: compiles that file once with REAL = float, once with REAL = double.
 * The file's own body stands inside `#ifdef REAL`. */
#ifndef REAL
#define REAL float
#define REAL_IS_FLOAT 1
#include __BASE_FILE__
#undef REAL
#undef REAL_IS_FLOAT
#define REAL double
#define REAL_IS_FLOAT 0
#include __BASE_FILE__
#undef REAL
#undef REAL_IS_FLOAT
#else
#include "simd.h"
#endif
