/* Linear layers of this module: one product, however its weights are stored. */
#ifndef SLUICE_CORE_CUDA_LINEAR_H
#define SLUICE_CORE_CUDA_LINEAR_H

#include "cuda_impl.h"

/* Products with more rows go to the matrix library, others, and all in deterministic mode, to the kernel of few rows.
 * Packed integers would first have to be widened. */
enum { SLI_CUDA_FEW_ROWS = 16, SLI_CUDA_FEW_ROWS_PACKED = 32 };

/* x, y and epilogue of an operation into p; w_rows: rows of the weight matrix. SL_E_INVALID: dtypes, shapes or strides
 * that a device does not take (sluice/ops.h). */
sl_status sli_cuda_linear_fill(slk_linear_params *p, const sl_tensor *x, const sl_tensor *y, const sl_tensor *bias,
                               const sl_tensor *residual, int64_t w_rows, int64_t k, uint32_t act_mul, uint32_t act);
/* p as for slk_cuda_linear, x in bf16 for all kinds. */
sl_status sli_cuda_linear_run(sli_cuda *cuda, const sl_lane *lane, int kind, const slk_linear_params *p);

#endif
