/* y = act(gate) * up + residual on the device, row by row. */
#ifndef SLUICE_KERNELS_ACT_CUDA_H
#define SLUICE_KERNELS_ACT_CUDA_H

#include <stdint.h>

typedef struct slk_act_mul_params {
    const void *gate, *up; /* [rows, n] of the kernel's first dtype; may be two halves of one buffer; up NULL: 1 */
    void *y;               /* [rows, n] of the second; may be gate or up */
    const void *residual;  /* [rows, n] of y's dtype, or NULL; may be y */
    int64_t ld_gate, ld_up, ldy, ldr; /* elements */
    int32_t n;
    uint32_t act;  /* SL_ACT_* */
    uint32_t wide; /* set by the launcher */
    uint32_t reserved0;
} slk_act_mul_params;

/* By dtype of gate and up, and of y. */
#define SLK_ACT_MUL_KERNELS(X)                                                                                         \
    X(act_mul_f32_f32, slk_act_mul_params, 0, 1, act)                                                                  \
    X(act_mul_f32_bf16, slk_act_mul_params, 0, 1, act)                                                                 \
    X(act_mul_bf16_bf16, slk_act_mul_params, 0, 1, act)

#ifndef __CUDACC__
#include "sluice/exec.h"
struct slk_cuda;
/* SL_E_UNIMPLEMENTED: other dtypes than those of the kernels; an unknown activation. */
sl_status slk_cuda_act_mul(const struct slk_cuda *k, const sl_lane *lane, const slk_act_mul_params *p, int64_t rows,
                           sl_dtype x_dtype, sl_dtype y_dtype);
#endif

#endif
