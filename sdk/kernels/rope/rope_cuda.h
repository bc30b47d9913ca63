/* Rotary embedding on the device, in place, as rope.h has it, with positions looked up in a table. */
#ifndef SLUICE_KERNELS_ROPE_CUDA_H
#define SLUICE_KERNELS_ROPE_CUDA_H

#include <stdint.h>

typedef struct slk_rope_params {
    void *x;                /* [rows, heads, D] of the kernel's dtype */
    const float *position;  /* [rows] whole numbers that the table holds; others give NaN */
    const float *cos, *sin; /* [n_positions, n_rot / 2] */
    int64_t ldx, ldx_head;  /* elements */
    int32_t heads, n_rot, n_positions;
    uint32_t interleaved, inverse;
    uint32_t reserved0;
} slk_rope_params;

#define SLK_ROPE_KERNELS(X)                                                                                            \
    X(rope_f32, slk_rope_params, 0, 1, rope)                                                                           \
    X(rope_bf16, slk_rope_params, 0, 1, rope)

#ifndef __CUDACC__
#include "sluice/exec.h"
struct slk_cuda;
/* SL_E_UNIMPLEMENTED: another dtype than F32 and BF16. */
sl_status slk_cuda_rope(const struct slk_cuda *k, const sl_lane *lane, const slk_rope_params *p, int64_t rows,
                        sl_dtype dtype);
#endif

#endif
