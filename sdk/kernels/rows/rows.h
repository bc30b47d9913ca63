/* Work on single rows: dot, axpy, conversions, gathers. */
#ifndef SLUICE_KERNELS_ROWS_H
#define SLUICE_KERNELS_ROWS_H

#include <stdint.h>

/* Sum of a[i] b[i]; the order depends on n and the instruction set only.  [any] */
typedef float (*slk_dot_fn)(const float *a, const float *b, int64_t n);

/* y[i] = fma(alpha, x[i], y[i]).  [any] */
typedef void (*slk_axpy_fn)(float alpha, const float *x, float *y, int64_t n);

/* dst f32 <- src, 16-bit floats as bits; exact. No overlap.  [any] */
typedef void (*slk_widen_fn)(float *dst, const uint16_t *src, int64_t n);

/* dst 16-bit floats as bits <- src f32, to nearest even; NaN stays NaN. No overlap.  [any] */
typedef void (*slk_narrow_fn)(uint16_t *dst, const float *src, int64_t n);

/* dst[i] = src[index[i]] for rows of row_bytes bytes; strides in bytes.  [any] */
void slk_gather_rows(void *dst, int64_t dst_stride, const void *src, int64_t src_stride, const int32_t *index,
                     int64_t n, int64_t row_bytes);

#endif
