/* Views, dtypes and counts; see sl_tensor.h. */
#include "sl_tensor.h"

#include <string.h>

static const struct {
    const char *name;
    int bits;
} dtypes[SL_DTYPE_END_] = {
#define ROW(constant, value, text, width) [value] = {text, width},
    SL_DTYPE_LIST(ROW)
#undef ROW
};

int sl_dtype_bits(sl_dtype dtype) { return dtype < SL_DTYPE_END_ ? dtypes[dtype].bits : 0; }

const char *sl_dtype_name(sl_dtype dtype) {
    return dtype < SL_DTYPE_END_ && dtypes[dtype].name != NULL ? dtypes[dtype].name : "?";
}

sl_dtype sl_dtype_from_name(const char *name) {
    for (sl_dtype d = SL_DTYPE_NONE + 1; d < SL_DTYPE_END_; d++)
        if (strcmp(dtypes[d].name, name) == 0)
            return d;
    return SL_DTYPE_NONE;
}

int sl_mul_ok(int64_t a, int64_t b, int64_t *out) {
    if (a < 0 || b < 0 || (b != 0 && a > INT64_MAX / b))
        return 0;
    *out = a * b;
    return 1;
}

int sl_add_ok(int64_t a, int64_t b, int64_t *out) {
    if (a < 0 || b < 0 || a > INT64_MAX - b)
        return 0;
    *out = a + b;
    return 1;
}

static uint64_t alignment_of(const void *p) {
    uint64_t bits = (uint64_t)(uintptr_t)p, align = 4096;
    while (align > 1 && bits % align != 0)
        align /= 2;
    return align;
}

sl_status sl_tensor_count(const sl_tensor *t, int64_t *n) {
    if (t->ndim > SL_MAX_DIMS)
        return SL_E_INVALID;
    for (uint32_t d = 0; d < t->ndim; d++)
        if (t->shape[d] < 0)
            return SL_E_INVALID;
    int64_t count = 1;
    for (uint32_t d = 0; d < t->ndim; d++)
        if (!sl_mul_ok(count, t->shape[d], &count))
            return SL_E_RANGE;
    *n = count;
    return SL_OK;
}

sl_status sl_tensor_bytes(const sl_tensor *t, int64_t *bytes) {
    int64_t n, bits;
    sl_status s = sl_tensor_count(t, &n);
    if (s < 0)
        return s;
    if (sl_dtype_bits(t->dtype) == 0)
        return SL_E_INVALID;
    if (!sl_mul_ok(n, sl_dtype_bits(t->dtype), &bits) || !sl_add_ok(bits, 7, &bits))
        return SL_E_RANGE;
    *bytes = bits / 8;
    return SL_OK;
}

sl_status sl_tensor_make(sl_tensor *out, void *data, sl_dtype dtype, uint32_t device, uint32_t ndim,
                         const int64_t *shape) {
    if (ndim > SL_MAX_DIMS || sl_dtype_bits(dtype) == 0)
        return SL_E_INVALID;
    sl_tensor t = {.struct_size = SL_SIZE(sl_tensor),
                   .data = data,
                   .align = alignment_of(data),
                   .dtype = dtype,
                   .ndim = ndim,
                   .device = device,
                   .flags = sl_dtype_bits(dtype) < 8 ? SL_TENSOR_PACKED : 0};
    int64_t bytes;
    for (uint32_t d = 0; d < ndim; d++)
        t.shape[d] = shape[d];
    sl_status s = sl_tensor_bytes(&t, &bytes);
    if (s < 0)
        return s;
    int64_t stride = 1;
    for (uint32_t d = ndim; d-- > 0;) {
        t.stride[d] = stride;
        if (!sl_mul_ok(stride, shape[d] > 0 ? shape[d] : 1, &stride))
            return SL_E_RANGE;
    }
    *out = t;
    return SL_OK;
}

int sl_tensor_is_contiguous(const sl_tensor *t) {
    int64_t stride = 1;
    for (uint32_t d = 0; d < t->ndim; d++)
        if (t->shape[d] == 0)
            return 1; /* no elements, no gaps */
    for (uint32_t d = t->ndim; d-- > 0;) {
        if (t->shape[d] != 1 && t->stride[d] != stride)
            return 0;
        if (!sl_mul_ok(stride, t->shape[d], &stride))
            return 0;
    }
    return 1;
}
