/* exp, log, pow, sigmoid and tanh of a vector, without branches and over the whole range. The error is at most 2 units
 * in the last place; for sigmoid and tanh of floats 2.5 (tests/test_vmath.py). Included by kernel files, after twice.h.
 *
 * x = n log 2 + r with n an integer and |r| <= log(2) / 2. So exp(x) = 2^n (1 + q), where q = exp(r) - 1 is the Taylor
 * series of r. log 2 is split into two numbers. The first has so few bits that n times it is exact. A NaN stays a NaN
 * through every step: limits are written so that a comparison with NaN keeps the NaN. */

#if REAL_IS_FLOAT
#define ROUNDER 0x1.8p23f /* adding it leaves the nearest integer in the last bits */
#define LOG2_HIGH 0x1.62e4p-1f
#define LOG2_LOW 0x1.7f7d1cp-20f
#define EXP_LEAST -105.0f /* exp of smaller numbers is 0, */
#define EXP_MOST 89.0f    /* exp of larger numbers is Inf, */
#define TANH_MOST 20.0f   /* tanh of larger numbers is 1 */
#define FRACTION_BITS 23
#define EXPONENT_BIAS 127
#define EXP_TERMS 7 /* r^8 / 8! < 2^-27 */
#define LEAST_NORMAL 0x1p-126f
#define ABOVE_SQRT_HALF 0x4afb0d /* the bits of 1 minus those of sqrt(1/2) */
#define LOWER_HALF 0xfff         /* of a fraction's bits */
#define LOG_TERMS 5              /* s^12 / 13 < 2^-34 */
#define TWO_THIRDS_HIGH 0x1.554p-1f
#define TWO_THIRDS_LOW 0x1.555556p-13f
#define POW_MOST 0x1p32f         /* for larger exponents x^e is 0, 1 or Inf */
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
#define LEAST_NORMAL 0x1p-1022
#define ABOVE_SQRT_HALF 0x95f619980c433
#define LOWER_HALF 0x7ffffff
#define LOG_TERMS 11 /* s^24 / 25 < 2^-65 */
#define TWO_THIRDS_HIGH 0x1.555555p-1
#define TWO_THIRDS_LOW 0x1.5555555555555p-27
#define POW_MOST 0x1p64
#endif

INLINE vec FN(splat)(REAL value) { return (vec){0} + value; }

INLINE vec FN(square_root)(vec x) { /* compilers make one instruction of it */
    UNROLL for (int i = 0; i < V; i++) x[i] = REAL_IS_FLOAT ? sqrtf(x[i]) : sqrt(x[i]);
    return x;
}

/* Returns r, and n as integers. EXP_LEAST <= x <= EXP_MOST, or x is NaN. */
INLINE vec FN(exp_reduce)(vec x, ivec *n) {
    const vec rounder = FN(splat)(ROUNDER), shifted = x * (REAL)0x1.71547652b82fep0 + rounder, whole = shifted - rounder;
    *n = (ivec)shifted - (ivec)rounder;
    return (x - whole * LOG2_HIGH) - whole * LOG2_LOW;
}

/* r + c[2] r^2 + c[3] r^3 + ... Even and odd powers are two chains that do not wait for each other. A processor looks
 * only some 130 instructions ahead, so a function with a shorter longest chain takes less time. */
INLINE vec FN(series)(vec r, const REAL *c) {
    const vec square = r * r;
    vec odd = FN(splat)(c[EXP_TERMS]), even = FN(splat)(c[EXP_TERMS - 1]);
    UNROLL for (int k = EXP_TERMS - 2; k > 1; k -= 2) {
        odd = odd * square + c[k];
        even = even * square + c[k - 1];
    }
    return r + square * (odd * r + even);
}

/* q = exp(r) - 1. */
INLINE vec FN(exp_series)(vec r) {
    static const REAL inverse[] = {0,        1,         1.0 / 2,    1.0 / 6,     1.0 / 24,     1.0 / 120,      1.0 / 720,
                                   1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800,
                                   1.0 / 479001600, 1.0 / 6227020800.0}; /* 1 / k! */
    return FN(series)(r, inverse);
}

/* 2^n. n is between the exponents of the smallest and the largest normal number. */
INLINE vec FN(power_of_two)(ivec n) { return (vec)((n + EXPONENT_BIAS) << FRACTION_BITS); }

/* The larger and the smaller of two numbers; b if either is NaN. On x86 that is one instruction. Of a select GCC would
 * make two. */
#if CC_VECTOR_BYTES == 64 && defined(__AVX512F__)
#define X86(name) \
    (REAL_IS_FLOAT ? (vec)_mm512_##name##_ps((__m512)a, (__m512)b) : (vec)_mm512_##name##_pd((__m512d)a, (__m512d)b))
#elif CC_VECTOR_BYTES == 32 && defined(__AVX2__)
#define X86(name) \
    (REAL_IS_FLOAT ? (vec)_mm256_##name##_ps((__m256)a, (__m256)b) : (vec)_mm256_##name##_pd((__m256d)a, (__m256d)b))
#elif CC_VECTOR_BYTES == 16 && defined(__SSE2__)
#define X86(name) \
    (REAL_IS_FLOAT ? (vec)_mm_##name##_ps((__m128)a, (__m128)b) : (vec)_mm_##name##_pd((__m128d)a, (__m128d)b))
#endif
#ifdef X86
INLINE vec FN(larger)(vec a, vec b) { return X86(max); }
INLINE vec FN(smaller)(vec a, vec b) { return X86(min); }
#undef X86
#else
INLINE vec FN(larger)(vec a, vec b) { return FN(select)(a > b, a, b); }
INLINE vec FN(smaller)(vec a, vec b) { return FN(select)(a < b, a, b); }
#endif

/* 2^n m. 2^n is split into two factors, since alone it may overflow, or lose the bits of a subnormal result. */
INLINE vec FN(scale)(vec m, ivec n) {
    const ivec half = n >> 1;
    return m * FN(power_of_two)(half) * FN(power_of_two)(n - half);
}

INLINE vec FN(between)(vec x, REAL least, REAL most) { /* NaN stays */
    return FN(smaller)(FN(splat)(most), FN(larger)(FN(splat)(least), x));
}

INLINE vec FN(exp)(vec x) {
    ivec n;
    const vec r = FN(exp_reduce)(FN(between)(x, EXP_LEAST, EXP_MOST), &n);
    return FN(scale)(1 + FN(exp_series)(r), n);
}

/* 2^64 exp(x), for x <= 0. It is never subnormal. */
#define LIFT (REAL)0x1p64
INLINE vec FN(exp_lifted)(vec x) {
    ivec n;
    const vec q = FN(exp_series)(FN(exp_reduce)(FN(larger)(FN(splat)(EXP_LEAST), x), &n));
    const vec power = FN(power_of_two)(n + 64);
    return power * q + power;
}

/* exp(x), for x <= 0. Only the last product can round to a subnormal. */
INLINE vec FN(exp_down)(vec x) { return FN(exp_lifted)(x) * (1 / LIFT); }

#define SIGN_BIT (((ivec){0} - 1) << (int)(8 * sizeof(REAL) - 1))
INLINE vec FN(magnitude)(vec x) { return (vec)((ivec)x & ~SIGN_BIT); }
INLINE vec FN(with_sign)(vec a, vec of) { return (vec)((ivec)a | ((ivec)of & SIGN_BIT)); } /* a >= 0 */

/* Sigmoid and tanh are cut into two halves. The second half has the division. A caller that takes many vectors through
 * the first half, and then through the second, has shorter chains. */

/* e = exp(-|x|) cannot overflow. Sigmoid is 1 / (1 + e), or for negative x e / (1 + e). Numerator and denominator are
 * multiplied by 2^64. */
INLINE vec FN(sigmoid_first)(vec x) { return FN(exp_lifted)((vec)((ivec)x | SIGN_BIT)); }
INLINE vec FN(sigmoid_last)(vec e, vec x) { return FN(select)((ivec)x < 0, e, FN(splat)(LIFT)) / (LIFT + e); }

/* tanh |x| = h / (h + 1) with h = (exp(2 |x|) - 1) / 2. |x| = n log(2) / 2 + r. The error of r matters less for larger
 * n, so log 2 is a single number here. h = 2^n q + (2^n - 1) / 2 with q = (exp(2 r) - 1) / 2. This form keeps the
 * precision of small x, where n = 0. */
INLINE vec FN(tanh_first)(vec x) {
    static const REAL inverse[] = {0,      1,        1.0,       2.0 / 3,    1.0 / 3,     2.0 / 15,      2.0 / 45,
                                   4.0 / 315, 1.0 / 315, 2.0 / 2835, 2.0 / 14175, 4.0 / 155925,
                                   2.0 / 467775, 4.0 / 6081075}; /* 2^(k-1) / k! */
    const vec a = FN(smaller)(FN(splat)(TANH_MOST), FN(magnitude)(x)), rounder = FN(splat)(ROUNDER);
    const vec shifted = a * (REAL)0x1.71547652b82fep1 + rounder, power = FN(power_of_two)((ivec)shifted - (ivec)rounder);
    const vec q = FN(series)(a - (shifted - rounder) * (REAL)0x1.62e42fefa39efp-2, inverse);
    return power * q + (power * (REAL)0.5 - (REAL)0.5);
}
INLINE vec FN(tanh_last)(vec h, vec x) { return FN(with_sign)(h / (h + 1), x); }

/* exp of `count` numbers, in place. */
INLINE void FN(exp_run)(REAL *x, int64_t count) {
    for (int64_t i = 0; i < count; i += V) FN(store_n)(x + i, FN(exp)(FN(load_n)(x + i, count - i)), count - i);
}

/* --- log and pow ---
 * x = 2^n m with sqrt(1/2) <= m < sqrt(2), and with s = (m - 1) / (m + 1)
 *
 *     log m = 2 artanh s = 2/3 s (3 + s^2 + 3/5 s^4 + 3/7 s^6 + ...),   log x = n log 2 + log m.
 *
 * x^e = exp(e log x) multiplies the relative error of the logarithm by up to 750. So the logarithm is a sum of two
 * numbers. */

/* high + low. `high` has so few bits that the product of two of them is exact. */
#define two_part FN(cc_two_part)
typedef struct { vec high, low; } two_part;

INLINE two_part FN(in_two)(vec a) {
    const vec high = (vec)((ivec)a & ~((ivec){0} + LOWER_HALF));
    return (two_part){high, a - high};
}

/* a + b, where b is at most as large as a few roundings of a. */
INLINE two_part FN(sum)(vec a, vec b) {
    const vec high = FN(in_two)(a + b).high;
    return (two_part){high, (a - high) + b};
}

INLINE two_part FN(product)(two_part a, two_part b) {
    return FN(sum)(a.high * b.high, a.low * (b.high + b.low) + a.high * b.low);
}

/* log x, 0 < x < Inf */
INLINE two_part FN(log_parts)(vec x) {
    const ivec small = x < LEAST_NORMAL; /* subnormals: they are multiplied to get a leading bit */
    const ivec bits = (ivec)FN(select)(small, x * (REAL)((INT)2 << FRACTION_BITS), x);
    const ivec exponent = ((bits + ABOVE_SQRT_HALF) >> FRACTION_BITS) - EXPONENT_BIAS;
    const vec f = (vec)(bits - (exponent << FRACTION_BITS)) - 1, rounder = FN(splat)(ROUNDER); /* m - 1, exact */
    const vec n = (vec)((ivec)rounder + exponent - (small & (FRACTION_BITS + 1))) - rounder;

    const vec inverse = 1 / (2 + f);
    const two_part above = FN(in_two)(f);
    two_part s = FN(in_two)(f * inverse);
    s.low = (((f - 2 * s.high) - s.high * above.high) - s.high * above.low) * inverse; /* f - s.high (2 + f) is exact */

    const vec whole = s.high + s.low, square = whole * whole;
    vec series = FN(splat)((REAL)(3.0 / (2 * LOG_TERMS + 1)));
    UNROLL for (int k = LOG_TERMS - 1; k > 1; k--) series = series * square + (REAL)(3.0 / (2 * k + 1));
    const vec exact = s.high * s.high, rest = s.low * (s.high + whole) + square * square * series;
    two_part factor = FN(in_two)(3 + (exact + rest));
    factor.low = (exact - (factor.high - 3)) + rest;
    const two_part thirds = {FN(splat)(TWO_THIRDS_HIGH), FN(splat)(TWO_THIRDS_LOW)};
    const two_part log_m = FN(product)(FN(product)(s, factor), thirds);

    const vec steps = n * LOG2_HIGH, sum = steps + log_m.high; /* steps is exact; it is 0, or larger than log_m */
    return FN(sum)(sum, ((steps - sum) + log_m.high) + (log_m.low + n * LOG2_LOW));
}

/* log (x / 2^below) for normal x, 0 < x < Inf. log m = f - s (f - 2/3 s^2 - 2/5 s^4 - ...) with f = m - 1. f is exact,
 * and it is the largest part of the result. */
INLINE vec FN(log_scaled)(vec x, ivec below) {
    const ivec exponent = (((ivec)x + ABOVE_SQRT_HALF) >> FRACTION_BITS) - EXPONENT_BIAS;
    const vec f = (vec)((ivec)x - (exponent << FRACTION_BITS)) - 1, rounder = FN(splat)(ROUNDER);
    const vec n = (vec)((ivec)rounder + exponent - below) - rounder, s = f / (2 + f), square = s * s;
    vec series = FN(splat)((REAL)(2.0 / (2 * LOG_TERMS + 1)));
    UNROLL for (int k = LOG_TERMS - 1; k > 0; k--) series = series * square + (REAL)(2.0 / (2 * k + 1));
    return n * LOG2_HIGH + (f - (s * (f - square * series) - n * LOG2_LOW));
}

/* log of a normal, finite x > 0 */
INLINE vec FN(log_normal)(vec x) { return FN(log_scaled)(x, (ivec){0}); }

/* log x; -Inf at 0, NaN for x < 0. */
INLINE vec FN(log)(vec x) {
    const vec infinity = FN(splat)((REAL)INFINITY), undefined = FN(splat)((REAL)NAN);
    const ivec small = x < LEAST_NORMAL; /* subnormals: they are multiplied to get a leading bit */
    const vec whole = FN(select)(small, x * (REAL)((INT)2 << FRACTION_BITS), x);
    const vec ends = FN(select)(x == 0, -infinity, FN(select)(x == infinity, infinity, undefined));
    return FN(select)((x > 0) & (x < infinity), FN(log_scaled)(whole, small & (FRACTION_BITS + 1)), ends);
}

/* x^e, NaN for x < 0. x^0 is 1 for every x. */
INLINE vec FN(pow)(vec x, vec e) {
    ivec n;
    const vec zero = {0}, infinity = FN(splat)((REAL)INFINITY), undefined = FN(splat)((REAL)NAN);
    const two_part z = FN(product)(FN(log_parts)(x), FN(in_two)(FN(between)(e, -POW_MOST, POW_MOST)));
    const vec whole = z.high + z.low, kept = FN(between)(whole, EXP_LEAST, EXP_MOST);
    const vec rest = (vec)((ivec)((z.high - whole) + z.low) & (whole == kept));
    const vec r = FN(exp_reduce)(kept, &n) + rest, power = FN(scale)(1 + FN(exp_series)(r), n);
    const vec ends = FN(select)((x == 0) == (e > 0), zero, infinity); /* of x = 0 and Inf */
    const vec some = FN(select)((x > 0) & (x < infinity), power, FN(select)(x >= 0, ends, undefined));
    return FN(select)((e < 0) | (e > 0), some, FN(select)(e == 0, FN(splat)(1), e));
}

#undef SIGN_BIT
#undef LIFT
#undef ROUNDER
#undef LOG2_HIGH
#undef LOG2_LOW
#undef EXP_LEAST
#undef EXP_MOST
#undef TANH_MOST
#undef FRACTION_BITS
#undef EXPONENT_BIAS
#undef EXP_TERMS
#undef LEAST_NORMAL
#undef ABOVE_SQRT_HALF
#undef LOWER_HALF
#undef LOG_TERMS
#undef TWO_THIRDS_HIGH
#undef TWO_THIRDS_LOW
#undef POW_MOST
