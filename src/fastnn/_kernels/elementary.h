/* exp, expm1 and log1p, as straight-line code that vectorises in a loop.

   libm's own are calls, one number at a time, unless -ffast-math gives up NaN and infinity. These keep them, round within
   two units in the last place, and give the same bits on every instruction set (no contraction, see setup.py).

   exp(x) = 2^n e^r with n = round(x / ln 2) and |r| <= ln(2)/2; e^r by its Taylor series, cut where the rest is below half
   a unit. Adding 1.5 * 2^23 (2^52) rounds to an integer and leaves it in the low bits. */
#ifndef FASTNN_ELEMENTARY_H
#define FASTNN_ELEMENTARY_H

#include <stdint.h>
#include <string.h>

#include "simd.h"

/* Unsigned, so that whatever bits a NaN brings along wrap around instead of overflowing. */
FASTNN_INLINE uint32_t fastnn_bitsf(float f) { uint32_t i; memcpy(&i, &f, 4); return i; }
FASTNN_INLINE uint64_t fastnn_bits(double f) { uint64_t i; memcpy(&i, &f, 8); return i; }
FASTNN_INLINE float fastnn_pow2f(uint32_t n) { uint32_t i = (n + 127) << 23; float f; memcpy(&f, &i, 4); return f; }
FASTNN_INLINE double fastnn_pow2(uint64_t n) { uint64_t i = (n + 1023) << 52; double f; memcpy(&f, &i, 8); return f; }

/* (e^r - 1 - r) / r^2 */
FASTNN_INLINE float fastnn_exp_tailf(float r)
{
    return 1 / 2.f + r * (1 / 6.f + r * (1 / 24.f + r * (1 / 120.f + r * (1 / 720.f + r * (1 / 5040.f)))));
}

FASTNN_INLINE double fastnn_exp_tail(double r)
{
    return 1 / 2. + r * (1 / 6. + r * (1 / 24. + r * (1 / 120. + r * (1 / 720. + r * (1 / 5040. + r * (1 / 40320.
         + r * (1 / 362880. + r * (1 / 3628800. + r * (1 / 39916800. + r * (1 / 479001600. + r * (1 / 6227020800.)))))))))));
}

/* ln 2 as hi + lo: n * hi is exact for every n that occurs. */
#define FASTNN_REDUCEF(x, shifted, n, r) \
    float shifted = (x) * 1.44269504f + 12582912.f; \
    float n = shifted - 12582912.f; \
    float r = ((x) - n * 0.693359375f) - n * -2.12194440e-4f
#define FASTNN_REDUCE(x, shifted, n, r) \
    double shifted = (x) * 1.4426950408889634 + 6755399441055744.; \
    double n = shifted - 6755399441055744.; \
    double r = ((x) - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10

FASTNN_INLINE float fastnn_expf(float x)
{
    /* outside this range the result is infinite or zero; the comparisons let NaN through */
    x = x > 89.f ? 89.f : x;
    x = x < -104.f ? -104.f : x;
    FASTNN_REDUCEF(x, shifted, n, r);
    (void)n;
    /* 2^k in two factors, so that results below the normal range are rounded once */
    uint32_t k = fastnn_bitsf(shifted) - fastnn_bitsf(12582912.f), half = ((k + 512) >> 1) - 256;
    float p = 1 + (r + r * r * fastnn_exp_tailf(r));
    return p * fastnn_pow2f(half) * fastnn_pow2f(k - half);
}

FASTNN_INLINE double fastnn_exp(double x)
{
    x = x > 710. ? 710. : x;
    x = x < -746. ? -746. : x;
    FASTNN_REDUCE(x, shifted, n, r);
    (void)n;
    uint64_t k = fastnn_bits(shifted) - fastnn_bits(6755399441055744.), half = ((k + 4096) >> 1) - 2048;
    double p = 1 + (r + r * r * fastnn_exp_tail(r));
    return p * fastnn_pow2(half) * fastnn_pow2(k - half);
}

/* expm1(x) = 2^n (e^r - 1) + (2^n - 1), for x <= 0: all that the kernels need */
FASTNN_INLINE float fastnn_expm1_negativef(float x)
{
    x = x < -20.f ? -20.f : x;
    FASTNN_REDUCEF(x, shifted, n, r);
    (void)n;
    float s = fastnn_pow2f(fastnn_bitsf(shifted) - fastnn_bitsf(12582912.f));
    return s * (r + r * r * fastnn_exp_tailf(r)) + (s - 1);
}

FASTNN_INLINE double fastnn_expm1_negative(double x)
{
    x = x < -50. ? -50. : x;
    FASTNN_REDUCE(x, shifted, n, r);
    (void)n;
    double s = fastnn_pow2(fastnn_bits(shifted) - fastnn_bits(6755399441055744.));
    return s * (r + r * r * fastnn_exp_tail(r)) + (s - 1);
}

/* log1p(x) = 2 atanh(s), s = x / (2 + x) <= 1/3, for 0 <= x <= 1: all that the kernels need */
FASTNN_INLINE float fastnn_log1p_unitf(float x)
{
    float s = x / (2 + x), q = s * s;
    return 2 * s + 2 * s * q * (1 / 3.f + q * (1 / 5.f + q * (1 / 7.f + q * (1 / 9.f + q * (1 / 11.f + q * (1 / 13.f))))));
}

FASTNN_INLINE double fastnn_log1p_unit(double x)
{
    double s = x / (2 + x), q = s * s;
    return 2 * s + 2 * s * q * (1 / 3. + q * (1 / 5. + q * (1 / 7. + q * (1 / 9. + q * (1 / 11. + q * (1 / 13. + q * (1 / 15.
         + q * (1 / 17. + q * (1 / 19. + q * (1 / 21. + q * (1 / 23. + q * (1 / 25. + q * (1 / 27. + q * (1 / 29. + q * (1 / 31.
         + q * (1 / 33.))))))))))))))));
}

/* log1p(x) = log u + (what rounding took from u = 1 + x) / u, for finite x >= 0; log u = n ln 2 + 2 atanh(f / (2 + f)), with
   u = 2^n (1 + f) and sqrt(1/2) <= 1 + f < sqrt(2). A number below 2^52 is exact in the low bits of 2^52 + n. */
FASTNN_INLINE double fastnn_log1p_positive(double x)
{
    double u = 1 + x, v = u - 1, lost = (1 - (u - v)) + (x - v);
    uint64_t bits = fastnn_bits(u), n = (bits - 0x3fe6a09e667f3bcd) >> 52, m = bits - (n << 52), shifted = n | 0x4330000000000000;
    double f, k;
    memcpy(&f, &m, 8);
    memcpy(&k, &shifted, 8);
    f -= 1;
    k -= 4503599627370496.;
    double s = f / (2 + f), q = s * s;
    double tail = q * (1 / 3. + q * (1 / 5. + q * (1 / 7. + q * (1 / 9. + q * (1 / 11. + q * (1 / 13. + q * (1 / 15.
                + q * (1 / 17. + q * (1 / 19. + q * (1 / 21.))))))))));
    return k * 0.693147180369123816490 + (2 * s + (2 * s * tail + (k * 1.90821492927058770002e-10 + lost / u)));
}

#endif
