/* What a module says about its own build. kernels_build.py defines the strings. */
#include "kernels.h"

const char *cc_sources(void) { return CC_SOURCES; }
const char *cc_compiler(void) { return CC_COMPILER; }
const char *cc_flags(void) { return CC_FLAGS; }
const char *cc_openmp(void) { return CC_OPENMP; }
