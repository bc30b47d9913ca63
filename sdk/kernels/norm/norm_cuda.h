/* RMS norm of rows on the device, as norm.h has it, without a residual: y = w * (x * rsqrt(mean(x^2) + eps)). */
#ifndef SLUICE_KERNELS_NORM_CUDA_H
#define SLUICE_KERNELS_NORM_CUDA_H

#include <stdint.h>

enum { SLK_NORM_MAX = 16384 }; /* longest row: it is kept in registers */

typedef struct slk_norm_params {
    const void *x, *w;                    /* x [rows, heads, n] of the kernel's first dtype, w [n] f32 or bf16 */
    void *y;                              /* [rows, heads, n] of the kernel's second dtype; may be x */
    int64_t ldx, ldx_head, ldy, ldy_head; /* elements */
    int32_t heads, n;
    float eps;
    uint32_t w_is_bf16;
    uint32_t wide; /* set by the launcher: rows and weights can be read four elements at a time */
    uint32_t reserved0;
} slk_norm_params;

/* By dtype of x and y. */
#define SLK_NORM_KERNELS(X)                                                                                            \
    X(norm_f32_f32, slk_norm_params, 0, 1, norm)                                                                       \
    X(norm_f32_bf16, slk_norm_params, 0, 1, norm)                                                                      \
    X(norm_bf16_f32, slk_norm_params, 0, 1, norm)                                                                      \
    X(norm_bf16_bf16, slk_norm_params, 0, 1, norm)

#ifndef __CUDACC__
#include "sluice/exec.h"
struct slk_cuda;
/* Dtypes: F32 or BF16. SL_E_UNIMPLEMENTED: other dtypes, or a row longer than SLK_NORM_MAX. */
sl_status slk_cuda_norm(const struct slk_cuda *k, const sl_lane *lane, const slk_norm_params *p, int64_t rows,
                        sl_dtype x_dtype, sl_dtype y_dtype);
#endif

#endif
