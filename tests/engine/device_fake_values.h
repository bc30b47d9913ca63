/* device_fake_values.h - elements and rows of tensors in the memory of device_fake.h, for its kernels. */
#ifndef SLUICE_TEST_DEVICE_FAKE_VALUES_H
#define SLUICE_TEST_DEVICE_FAKE_VALUES_H

#include "device_fake.h"

#include <math.h>

#include "rows/half.h"

static inline int64_t size_of(sl_dtype dtype) { return dtype == SL_F32 ? 4 : 2; }

static inline float load(const void *p, sl_dtype dtype, int64_t i) {
    return dtype == SL_F32    ? ((const float *)p)[i]
           : dtype == SL_BF16 ? slk_f32_of_bf16(((const uint16_t *)p)[i])
                              : slk_f32_of_f16(((const uint16_t *)p)[i]);
}

static inline void store(void *p, sl_dtype dtype, int64_t i, float v) {
    if (dtype == SL_F32)
        ((float *)p)[i] = v;
    else
        ((uint16_t *)p)[i] = dtype == SL_BF16 ? slk_bf16_of_f32(v) : slk_f16_of_f32(v);
}

/* Row i of a tensor whose other dimensions are contiguous. */
static inline void *row_of(const sl_tensor *t, int64_t i, const char *who) {
    int64_t width = t->ndim == 1 ? t->shape[0] : t->ndim == 2 ? t->shape[1] : t->shape[1] * t->shape[2];
    return fake_at((const char *)t->data + i * t->stride[0] * size_of(t->dtype), width * size_of(t->dtype), who);
}

static inline const int32_t *ints(const int32_t *p, int64_t n, const char *who) { return fake_at(p, 4 * n, who); }

static inline int is_float(const sl_tensor *t) {
    return t->device == SL_DEVICE_CUDA && (t->dtype == SL_F32 || t->dtype == SL_BF16 || t->dtype == SL_F16);
}

static inline void norm_row(const void *x, sl_dtype from, const float *w, void *y, sl_dtype to, int64_t n, double eps) {
    double sum = 0;
    for (int64_t k = 0; k < n; k++)
        sum += (double)load(x, from, k) * load(x, from, k);
    float r = (float)(1 / sqrt(sum / (double)n + eps));
    for (int64_t k = 0; k < n; k++)
        store(y, to, k, load(x, from, k) * r * w[k]);
}

#endif
