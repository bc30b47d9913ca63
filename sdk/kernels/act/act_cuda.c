/* See act_cuda.h. */
#include "slk_cuda.h"

#include "sluice/ops.h"

_Static_assert(SL_ACT_SILU == 0 && SL_ACT_GELU_TANH == 1 && SL_ACT_RELU == 2 && SL_ACT_GELU == 3, "as in act.cu");

enum { THREADS = 256, MAX_GRID_Y = 65535 };

sl_status slk_cuda_act_mul(const slk_cuda *k, const sl_lane *lane, const slk_act_mul_params *args, int64_t rows,
                           sl_dtype x_dtype, sl_dtype y_dtype) {
    slk_act_mul_params p = *args;
    if (p.n < 1 || rows < 0 || rows > MAX_GRID_Y)
        return SL_E_INVALID;
    if (p.act > SL_ACT_GELU || (x_dtype != SL_F32 && x_dtype != SL_BF16) || (y_dtype != SL_BF16 && y_dtype != x_dtype))
        return SL_E_UNIMPLEMENTED;
    const uint64_t x_bytes = x_dtype == SL_F32 ? 16 : 8, y_bytes = y_dtype == SL_F32 ? 16 : 8;
    p.wide = p.n % 4 == 0 && (p.ld_gate | p.ld_up | p.ldy | p.ldr) % 4 == 0 &&
             ((uintptr_t)p.gate | (uintptr_t)p.up) % x_bytes == 0 &&
             ((uintptr_t)p.y | (uintptr_t)p.residual) % y_bytes == 0;
    const int kernel = x_dtype == SL_BF16  ? SLK_CUDA_act_mul_bf16_bf16
                       : y_dtype == SL_F32 ? SLK_CUDA_act_mul_f32_f32
                                           : SLK_CUDA_act_mul_f32_bf16;
    slk_cuda_grid grid = {.x = (uint32_t)(p.n + 4 * THREADS - 1) / (4 * THREADS),
                          .y = (uint32_t)rows,
                          .z = 1,
                          .threads = THREADS,
                          .dependent = 1};
    return slk_cuda_launch(k, lane, kernel, &p, sizeof p, grid);
}
