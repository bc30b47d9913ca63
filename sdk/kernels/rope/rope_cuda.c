/* See rope_cuda.h. */
#include "slk_cuda.h"

enum { THREADS = 256, MAX_GRID_Y = 65535 };

sl_status slk_cuda_rope(const slk_cuda *k, const sl_lane *lane, const slk_rope_params *p, int64_t rows,
                        sl_dtype dtype) {
    if (dtype != SL_F32 && dtype != SL_BF16)
        return SL_E_UNIMPLEMENTED;
    if (p->n_rot < 2 || p->n_rot % 2 != 0 || p->heads < 1 || rows < 0 || rows > MAX_GRID_Y)
        return SL_E_INVALID;
    slk_cuda_grid grid = {.x = (uint32_t)(p->heads * (p->n_rot / 2) + THREADS - 1) / THREADS,
                          .y = (uint32_t)rows,
                          .z = 1,
                          .threads = THREADS,
                          .dependent = 1};
    return slk_cuda_launch(k, lane, dtype == SL_F32 ? SLK_CUDA_rope_f32 : SLK_CUDA_rope_bf16, p, sizeof *p, grid);
}
