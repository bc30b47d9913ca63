/* f16 as bits: conversions of single values, round to nearest even. For packers; kernels have their own for vectors. */
#ifndef SLUICE_LIB_HALF_H
#define SLUICE_LIB_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t sl_bits_of_f32(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
static inline float sl_f32_of_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* Exact. Inf and NaN come out as such. */
static inline float sl_f32_of_f16(uint16_t h) {
    uint32_t sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31u, mantissa = h & 1023u;
    if (exponent == 0) /* multiples of 2^-24 */
        return sl_f32_of_bits(sl_bits_of_f32((float)mantissa * 0x1p-24f) | sign);
    return sl_f32_of_bits(sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13);
}

/* Values of 65520 and more become Inf. */
static inline uint16_t sl_f16_of_f32(float x) {
    uint32_t u = sl_bits_of_f32(x), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) /* NaN */
        return (uint16_t)(sign | 0x7e00u);
    if (a >= 0x477ff000u) /* 65520 */
        return (uint16_t)(sign | 0x7c00u);
    if (a < 0x38800000u) /* below 2^-14: beside 0.5 only multiples of 2^-24 are left; 1024 are the smallest normal */
        return (uint16_t)(sign | (sl_bits_of_f32(sl_f32_of_bits(a) + 0.5f) - 0x3f000000u));
    a += 0xfffu + (a >> 13 & 1u); /* half of what is cut off, to even; may carry into the exponent */
    return (uint16_t)(sign | (a - 0x38000000u) >> 13);
}

#endif
