/* See sl_minmax.h. */
#include "sl_minmax.h"

#include <math.h>

#include "sl_half.h"

enum { MAX_ROWS = 128 };

/* The finite f16 next to x, ties to even; NaN: 0. */
static uint16_t f16_of(float x) { return fabsf(x) > 0 ? sl_f16_of_f32(fmaxf(-65504.0f, fminf(x, 65504.0f))) : 0; }

void sl_minmax_group(const float *x, int64_t stride, int64_t n, int bits, uint8_t *code, uint16_t *scale,
                         uint16_t *minimum) {
    const float most = (float)((1 << bits) - 1);
    float low = x[0], high = x[0];
    for (int64_t i = 1; i < n; i++) {
        low = x[i * stride] < low ? x[i * stride] : low;
        high = x[i * stride] > high ? x[i * stride] : high;
    }
    *minimum = f16_of(low);
    *scale = f16_of((high - low) / most);
    float m = sl_f32_of_f16(*minimum), s = sl_f32_of_f16(*scale);
    if (!(s > 0)) { /* nothing to tell apart in f16 */
        *scale = f16_of(1);
        for (int64_t i = 0; i < n; i++)
            code[i] = 0;
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        float t = (x[i * stride] - m) / s;
        code[i] = (uint8_t)(t > 0 ? rintf(t < most ? t : most) : 0); /* NaN: 0 */
    }
}

static void pack(uint8_t *codes, int64_t i, int bits, uint8_t code) {
    int64_t bit = i * bits;
    codes[bit / 8] = (uint8_t)((codes[bit / 8] & ~(((1 << bits) - 1) << bit % 8)) | code << bit % 8);
}

void sl_minmax_channels(const float *x, int64_t n, int64_t d, int bits, uint8_t *codes, uint16_t *scales,
                            uint16_t *minima) {
    uint8_t code[MAX_ROWS];
    for (int64_t c = 0; c < d; c++) {
        sl_minmax_group(x + c, d, n, bits, code, &scales[c], &minima[c]);
        for (int64_t i = 0; i < n; i++)
            pack(codes + i * d * bits / 8, c, bits, code[i]);
    }
}

void sl_minmax_row(const float *x, int64_t d, int64_t group, int bits, uint8_t *codes, uint16_t *scales,
                       uint16_t *minima) {
    uint8_t code[MAX_ROWS];
    for (int64_t g = 0; g < d / group; g++) {
        sl_minmax_group(x + g * group, 1, group, bits, code, &scales[g], &minima[g]);
        for (int64_t i = 0; i < group; i++)
            pack(codes, g * group + i, bits, code[i]);
    }
}

void sl_minmax_values(const uint8_t *codes, const uint16_t *scales, const uint16_t *minima, int64_t d, int64_t group,
                        int bits, float *x) {
    for (int64_t i = 0; i < d; i++) {
        int64_t bit = i * bits;
        float code = (float)(codes[bit / 8] >> bit % 8 & ((1 << bits) - 1));
        float product = sl_f32_of_f16(scales[i / group]) * code; /* exact: 11 bits by 8 */
        x[i] = product + sl_f32_of_f16(minima[i / group]);
    }
}
