/* Two partial results of the same rows joined by their log-sum-exp. */
#ifndef SLUICE_KERNELS_LSE_MERGE_CUDA_H
#define SLUICE_KERNELS_LSE_MERGE_CUDA_H

#include <stdint.h>

typedef struct slk_lse_merge_params {
    void *o; /* [rows, H, D] in and out */
    const void *o2;
    float *lse; /* [rows, H] in and out; -inf: an empty set */
    const float *lse2;
    int64_t o_row, o_head, o2_row, o2_head; /* elements */
    int32_t rows, heads, dim;
    int32_t o_f32, o2_f32; /* 1: f32; 0: bf16 */
    int32_t pad;
} slk_lse_merge_params;

#define SLK_LSE_MERGE_KERNELS(X) X(lse_merge, slk_lse_merge_params, 0, 1, lse_merge)

#ifndef __CUDACC__
#include "sluice/exec.h"
struct slk_cuda;
/* SL_E_INVALID: a head of an odd number of channels, or rows that are not aligned to two elements. */
sl_status slk_cuda_lse_merge(const struct slk_cuda *k, const sl_lane *lane, const slk_lse_merge_params *p);
#endif

#endif
