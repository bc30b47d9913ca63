/* Row helpers in plain C. */
#include "half.h"
#include "kernels_fill.h"

#include <math.h>

static float dot_ref(const float *a, const float *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return (float)sum;
}

static void axpy_ref(float alpha, const float *x, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        y[i] = fmaf(alpha, x[i], y[i]);
}

static void f32_of_f16_ref(float *dst, const uint16_t *src, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        dst[i] = slk_f32_of_f16(src[i]);
}

static void f32_of_bf16_ref(float *dst, const uint16_t *src, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        dst[i] = slk_f32_of_bf16(src[i]);
}

static void f16_of_f32_ref(uint16_t *dst, const float *src, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        dst[i] = slk_f16_of_f32(src[i]);
}

static void bf16_of_f32_ref(uint16_t *dst, const float *src, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        dst[i] = slk_bf16_of_f32(src[i]);
}

void slk_gather_rows(void *dst, int64_t dst_stride, const void *src, int64_t src_stride, const int32_t *index,
                     int64_t n, int64_t row_bytes) {
    for (int64_t i = 0; i < n; i++)
        memcpy((char *)dst + i * dst_stride, (const char *)src + index[i] * src_stride, (size_t)row_bytes);
}

void slk_rows_fill_ref(slk_kernels *k) {
    SLK_SET(k, dot, dot_ref);
    SLK_SET(k, axpy, axpy_ref);
    SLK_SET(k, f32_of_f16, f32_of_f16_ref);
    SLK_SET(k, f32_of_bf16, f32_of_bf16_ref);
    SLK_SET(k, f16_of_f32, f16_of_f32_ref);
    SLK_SET(k, bf16_of_f32, bf16_of_f32_ref);
}
