/* f16 as bits: conversions of single values, round to nearest even. For packers; kernels have their own for vectors. */
#ifndef SLUICE_LIB_HALF_H
#define SLUICE_LIB_HALF_H

#include <math.h>
#include <stdint.h>

/* Exact. Inf and NaN come out as such. */
static inline float sl_f32_of_f16(uint16_t h) {
    int exponent = h >> 10 & 31, mantissa = h & 1023;
    float v = exponent == 0    ? ldexpf((float)mantissa, -24)
              : exponent == 31 ? (mantissa != 0 ? NAN : INFINITY)
                               : ldexpf((float)(mantissa + 1024), exponent - 25);
    return h & 0x8000 ? -v : v;
}

/* Values of 65520 and more become Inf. */
static inline uint16_t sl_f16_of_f32(float x) {
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    float a = fabsf(x);
    int exponent;
    if (isnan(x))
        return (uint16_t)(sign | 0x7e00);
    if (a >= 65520.0f)
        return (uint16_t)(sign | 0x7c00);
    if (a < 0x1p-14f) /* subnormal: a multiple of 2^-24; 1024 of them are the smallest normal number */
        return (uint16_t)(sign | (uint16_t)rintf(ldexpf(a, 24)));
    frexpf(a, &exponent);                                                    /* a = m 2^exponent, 0.5 <= m < 1 */
    uint32_t m = (uint32_t)rintf(ldexpf(a, 11 - exponent));                  /* 1024 .. 2048 */
    return (uint16_t)(sign | ((uint32_t)(exponent + 14) * 1024 + m - 1024)); /* m = 2048 carries into the exponent */
}

#endif
