/* See random_cuda.h. */
#include "slk_cuda.h"

enum { THREADS = 256, BLOCKS_OF_A_PROCESSOR = 8 };

sl_status slk_cuda_random(const slk_cuda *k, const sl_lane *lane, const slk_random_params *p, sl_dtype dtype) {
    const int kernel = dtype == SL_F32    ? SLK_CUDA_random_fill_f32
                       : dtype == SL_F16  ? SLK_CUDA_random_fill_f16
                       : dtype == SL_BF16 ? SLK_CUDA_random_fill_bf16
                                          : -1;
    if (kernel < 0)
        return SL_E_UNIMPLEMENTED;
    if (p->n < 0 || (uintptr_t)p->y % 16 != 0)
        return SL_E_INVALID;
    int64_t blocks = (p->n + 8 * THREADS - 1) / (8 * THREADS);
    const int64_t most = (int64_t)k->info.n_processors * BLOCKS_OF_A_PROCESSOR;
    if (blocks > most)
        blocks = most;
    slk_cuda_grid grid = {.x = (uint32_t)blocks, .y = 1, .z = 1, .threads = THREADS};
    return slk_cuda_launch(k, lane, kernel, p, sizeof *p, grid);
}
