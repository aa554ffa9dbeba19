/* Every kernel file includes this file first. It compiles the kernel file once with REAL = float and once with REAL =
 * double. The body of the kernel file stands inside `#ifdef REAL`. */
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
