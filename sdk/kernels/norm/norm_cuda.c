/* See norm_cuda.h. */
#include "slk_cuda.h"

static int aligned4(const void *p, int64_t ld, int64_t ld_head, uint64_t element) {
    return (uintptr_t)p % (4 * element) == 0 && (ld | ld_head) % 4 == 0;
}

sl_status slk_cuda_norm(const slk_cuda *k, const sl_lane *lane, const slk_norm_params *args, int64_t rows,
                        sl_dtype x_dtype, sl_dtype y_dtype) {
    slk_norm_params p = *args;
    if (p.n < 1 || p.heads < 1 || rows < 0 || rows * p.heads > INT32_MAX)
        return SL_E_INVALID;
    if (p.n > SLK_NORM_MAX || (x_dtype != SL_F32 && x_dtype != SL_BF16) || (y_dtype != SL_F32 && y_dtype != SL_BF16))
        return SL_E_UNIMPLEMENTED;
    p.wide = p.n % 4 == 0 && aligned4(p.x, p.ldx, p.ldx_head, x_dtype == SL_F32 ? 4 : 2) &&
             aligned4(p.y, p.ldy, p.ldy_head, y_dtype == SL_F32 ? 4 : 2) && aligned4(p.w, 0, 0, p.w_is_bf16 ? 2 : 4);
    /* eight elements a thread up to 8192, then 16: a function of n alone */
    uint32_t threads = (uint32_t)(p.n + 7) / 8;
    threads = (threads + 31) / 32 * 32;
    if (threads > 1024)
        threads = 1024;
    const int kernel = x_dtype == SL_F32 ? (y_dtype == SL_F32 ? SLK_CUDA_norm_f32_f32 : SLK_CUDA_norm_f32_bf16)
                                         : (y_dtype == SL_F32 ? SLK_CUDA_norm_bf16_f32 : SLK_CUDA_norm_bf16_bf16);
    slk_cuda_grid grid = {.x = (uint32_t)(rows * p.heads), .y = 1, .z = 1, .threads = threads, .dependent = 1};
    return slk_cuda_launch(k, lane, kernel, &p, sizeof p, grid);
}
