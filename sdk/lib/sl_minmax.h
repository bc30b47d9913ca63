/* The min-max quantiser of cached rows: one group of numbers, a group of rows channel by channel, a row group by group.
 *
 * KIVI (arXiv 2402.02750), section 3.1, as in the official code: m = min, s = (max - min) / (2^b - 1), both rounded to
 * f16; code = round((x - m) / s) against the rounded m and s, in f32; x^ = code s + m. Scales come before minima, and
 * codes of a row are packed along its channels, lowest bits first, as sl_qrows wants them. sl_ops.quantise does the
 * same on a device, bit by bit. No memory, no state. */
#ifndef SLUICE_LIB_MINMAX_H
#define SLUICE_LIB_MINMAX_H

#include <stdint.h>

/* n numbers, `stride` floats apart. A constant group (s = 0 after rounding): s = 1, codes 0. Never NaN. */
void sl_minmax_group(const float *x, int64_t stride, int64_t n, int bits, uint8_t *code, uint16_t *scale,
                     uint16_t *minimum);

/* Rows x [n, d] become codes [n, d bits / 8] with a scale and a minimum for each channel [d]. n <= 128. */
void sl_minmax_channels(const float *x, int64_t n, int64_t d, int bits, uint8_t *codes, uint16_t *scales,
                        uint16_t *minima);
/* One row x [d] becomes codes [d bits / 8] with a scale and a minimum for each group of channels [d / group]. */
void sl_minmax_row(const float *x, int64_t d, int64_t group, int bits, uint8_t *codes, uint16_t *scales,
                   uint16_t *minima);

/* One row of either; group: channels that share a scale (1: each has its own). */
void sl_minmax_values(const uint8_t *codes, const uint16_t *scales, const uint16_t *minima, int64_t d, int64_t group,
                      int bits, float *x);

#endif
