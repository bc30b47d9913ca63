/* Scalar conversions between f32 and the 16-bit formats, round to nearest even; NaN stays NaN (quiet). */
#ifndef SLUICE_KERNELS_HALF_H
#define SLUICE_KERNELS_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t slk_bits_of_f32(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
static inline float slk_f32_of_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline float slk_f32_of_bf16(uint16_t h) { return slk_f32_of_bits((uint32_t)h << 16); }
static inline uint16_t slk_bf16_of_f32(float x) {
    const uint32_t u = slk_bits_of_f32(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

static inline float slk_f32_of_f16(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = h >> 10 & 31, man = h & 1023;
    if (exp == 31)
        return slk_f32_of_bits(sign | 0x7f800000u | man << 13 | (man ? 0x400000u : 0));
    if (exp == 0) /* zero or subnormal: man * 2^-24, exact */
        return slk_f32_of_bits(sign | slk_bits_of_f32((float)man * 0x1p-24f));
    return slk_f32_of_bits(sign | (exp + 112) << 23 | man << 13);
}
static inline uint16_t slk_f16_of_f32(float x) {
    const uint32_t u = slk_bits_of_f32(x), sign = u >> 16 & 0x8000, a = u & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
    if (a >= 0x477ff000u) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (a <
        0x38800000u) { /* below 2^-14: adding 0.5 leaves the subnormal's bits, rounded, at the end of the mantissa */
        const float shifted = slk_f32_of_bits(a) + 0.5f;
        return (uint16_t)(sign | (slk_bits_of_f32(shifted) - 0x3f000000u));
    }
    return (uint16_t)(sign | ((a + 0xfffu + (a >> 13 & 1) - 0x38000000u) >> 13));
}

#endif
