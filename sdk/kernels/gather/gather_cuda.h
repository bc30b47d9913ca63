/* Rows by index: y[i] = x[row[i]]. */
#ifndef SLUICE_KERNELS_GATHER_CUDA_H
#define SLUICE_KERNELS_GATHER_CUDA_H

#include <stdint.h>

typedef struct slk_gather_params {
    const float *x;     /* [*, width] */
    const int32_t *row; /* [n] */
    float *y;           /* [n, width] */
    int64_t width, ldx, ldy; /* elements; width and strides are multiples of 4 */
    int32_t n, pad;
} slk_gather_params;

#define SLK_GATHER_KERNELS(X) X(gather_f32, slk_gather_params, 0, 1, gather)

#ifndef __CUDACC__
#include "sluice/exec.h"
struct slk_cuda;
/* SL_E_INVALID: a width or stride that is no multiple of 4. */
sl_status slk_cuda_gather(const struct slk_cuda *k, const sl_lane *lane, const slk_gather_params *p);
#endif

#endif
