/* exp, sigmoid and tanh of a vector: branch-free, within 2 units in the last place over the whole range (tests/test_vmath.py).
 * Included by kernel files, after twice.h.
 *
 * x = n log 2 + r with n an integer and |r| <= log(2) / 2, so exp(x) = 2^n (1 + q) with q = exp(r) - 1, r's Taylor series.
 * log 2 is split in two, the first with so few bits that n times it is exact. A NaN passes every step as a NaN: limits
 * are written so that a comparison with NaN keeps it. */

#if REAL_IS_FLOAT
#define ROUNDER 0x1.8p23f /* adding it leaves the nearest integer in the last bits */
#define LOG2_HIGH 0x1.62e4p-1f
#define LOG2_LOW 0x1.7f7d1cp-20f
#define EXP_LEAST -105.0f /* exp of less is 0, */
#define EXP_MOST 89.0f    /* and of more Inf */
#define TANH_MOST 20.0f   /* tanh of more is 1 */
#define FRACTION_BITS 23
#define EXPONENT_BIAS 127
#define EXP_TERMS 7 /* r^8 / 8! < 2^-27 */
#else
#define ROUNDER 0x1.8p52
#define LOG2_HIGH 0x1.62e42fefap-1
#define LOG2_LOW 0x1.cf79abc9e3b3ap-40
#define EXP_LEAST -746.0
#define EXP_MOST 710.0
#define TANH_MOST 22.0
#define FRACTION_BITS 52
#define EXPONENT_BIAS 1023
#define EXP_TERMS 13 /* r^14 / 14! < 2^-57 */
#endif

INLINE vec FN(splat)(REAL value) { return (vec){0} + value; }

/* q, and n as a vector of integers; EXP_LEAST <= x <= EXP_MOST, or NaN */
INLINE vec FN(exp_parts)(vec x, ivec *n) {
    static const REAL inverse[] = {0,        1,         1.0 / 2,    1.0 / 6,     1.0 / 24,     1.0 / 120,      1.0 / 720,
                                   1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800,
                                   1.0 / 479001600, 1.0 / 6227020800.0}; /* 1 / k! */
    const vec rounder = FN(splat)(ROUNDER), shifted = x * (REAL)0x1.71547652b82fep0 + rounder, whole = shifted - rounder;
    *n = (ivec)shifted - (ivec)rounder;
    const vec r = (x - whole * LOG2_HIGH) - whole * LOG2_LOW;
    vec series = FN(splat)(inverse[EXP_TERMS]);
    UNROLL for (int k = EXP_TERMS - 1; k > 1; k--) series = series * r + inverse[k];
    return r + r * r * series;
}

/* 2^n for n from the exponent of the smallest normal number to that of the largest */
INLINE vec FN(power_of_two)(ivec n) { return (vec)((n + EXPONENT_BIAS) << FRACTION_BITS); }

INLINE vec FN(exp)(vec x) {
    ivec n;
    x = FN(select)(x < EXP_LEAST, FN(splat)(EXP_LEAST), x);
    x = FN(select)(x > EXP_MOST, FN(splat)(EXP_MOST), x);
    const vec mantissa = 1 + FN(exp_parts)(x, &n);
    const ivec half = n >> 1; /* in two factors, since 2^n alone may overflow, or lose the bits of a subnormal result */
    return mantissa * FN(power_of_two)(half) * FN(power_of_two)(n - half);
}

#define SIGN_BIT (((ivec){0} - 1) << (int)(8 * sizeof(REAL) - 1))
INLINE vec FN(magnitude)(vec x) { return (vec)((ivec)x & ~SIGN_BIT); }

/* With e = exp(-|x|), which cannot overflow: 1 / (1 + e), or for negative x, e / (1 + e). */
INLINE vec FN(sigmoid)(vec x) {
    const vec e = FN(exp)(-FN(magnitude)(x));
    return FN(select)(x >= 0, FN(splat)(1), e) / (1 + e);
}

/* With m = exp(2 |x|) - 1: m / (m + 2). m = 2^n q + (2^n - 1) keeps the precision of small x, where n = 0. */
INLINE vec FN(tanh)(vec x) {
    ivec n;
    vec a = FN(magnitude)(x);
    a = FN(select)(a > TANH_MOST, FN(splat)(TANH_MOST), a);
    const vec q = FN(exp_parts)(a + a, &n), power = FN(power_of_two)(n), m = power * q + (power - 1);
    return (vec)((ivec)(m / (m + 2)) | ((ivec)x & SIGN_BIT));
}

/* exp of `count` numbers, in place */
INLINE void FN(exp_run)(REAL *x, int64_t count) {
    for (int64_t i = 0; i < count; i += V) FN(store_n)(x + i, FN(exp)(FN(load_n)(x + i, count - i)), count - i);
}

#undef SIGN_BIT
#undef ROUNDER
#undef LOG2_HIGH
#undef LOG2_LOW
#undef EXP_LEAST
#undef EXP_MOST
#undef TANH_MOST
#undef FRACTION_BITS
#undef EXPONENT_BIAS
#undef EXP_TERMS
