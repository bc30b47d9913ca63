/* See embed_cuda.h. */
#include "slk_cuda.h"

enum { THREADS = 256, MAX_GRID_Y = 65535 };

sl_status slk_cuda_embed(const slk_cuda *k, const sl_lane *lane, const slk_embed_params *args, int64_t rows,
                         sl_dtype table_dtype) {
    slk_embed_params p = *args;
    if (p.n < 1 || rows < 0 || rows > MAX_GRID_Y)
        return SL_E_INVALID;
    const int kernel = table_dtype == SL_F32    ? SLK_CUDA_embed_f32
                       : table_dtype == SL_F16  ? SLK_CUDA_embed_f16
                       : table_dtype == SL_BF16 ? SLK_CUDA_embed_bf16
                                                : -1;
    if (kernel < 0)
        return SL_E_UNIMPLEMENTED;
    p.wide = p.n % 4 == 0 && (p.ld_table | p.ldx) % 4 == 0 && (uintptr_t)p.x % 16 == 0 &&
             (uintptr_t)p.table % (table_dtype == SL_F32 ? 16 : 8) == 0;
    slk_cuda_grid grid = {.x = (uint32_t)(p.n + 4 * THREADS - 1) / (4 * THREADS),
                          .y = (uint32_t)rows,
                          .z = 1,
                          .threads = THREADS,
                          .dependent = 1};
    return slk_cuda_launch(k, lane, kernel, &p, sizeof p, grid);
}
