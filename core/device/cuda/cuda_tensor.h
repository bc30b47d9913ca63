/* Tensors as rows of heads: what the operations on rows hand to their kernels. */
#ifndef SLUICE_CORE_CUDA_TENSOR_H
#define SLUICE_CORE_CUDA_TENSOR_H

#include "sluice/sl.h"

typedef struct sli_cuda_rows {
    void *data;
    int64_t rows, heads, width;
    int64_t ld, ld_head; /* elements */
} sli_cuda_rows;

/* [T, W] (one head) or [T, H, W], elements of a row next to each other. 0: it is none of these. */
static inline int sli_cuda_rows_of(const sl_tensor *t, sli_cuda_rows *out) {
    if (t->ndim < 2 || t->ndim > 3 || t->shape[t->ndim - 1] > INT32_MAX || t->shape[t->ndim - 2] > INT32_MAX)
        return 0;
    const int three = t->ndim == 3;
    *out = (sli_cuda_rows){.data = t->data,
                           .rows = t->shape[0],
                           .heads = three ? t->shape[1] : 1,
                           .width = t->shape[t->ndim - 1],
                           .ld = t->stride[0],
                           .ld_head = three ? t->stride[1] : 0};
    return t->stride[t->ndim - 1] == 1 || out->width <= 1;
}

#endif
