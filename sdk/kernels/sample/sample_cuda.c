/* See sample_cuda.h. */
#include "slk_cuda.h"

enum { THREADS = 512, MAX_GRID_Y = 65535, SHARED_OF_ITS_OWN = 17 * 1024, MAX_VOCAB = 1 << 22 };

sl_status slk_cuda_sample(const slk_cuda *k, const sl_lane *lane, const slk_sample_params *args, int64_t rows) {
    slk_sample_params p = *args;
    if (p.n < 1 || p.n > MAX_VOCAB || rows < 0 || rows > MAX_GRID_Y || p.stride < 0)
        return SL_E_INVALID;
    int32_t blocks = k->info.arch < 900 ? 1 : SLK_SAMPLE_CLUSTER;
    while (blocks > 1 && p.n < 1024 * blocks)
        blocks /= 2;
    p.chunk = (p.n + blocks - 1) / blocks;
    p.cached = p.chunk <= SLK_SAMPLE_CACHED && 4 * p.chunk + SHARED_OF_ITS_OWN <= k->info.max_shared;
    slk_cuda_grid grid = {.x = (uint32_t)blocks,
                          .y = (uint32_t)rows,
                          .z = 1,
                          .threads = THREADS,
                          .shared = p.cached ? 4 * (uint32_t)p.chunk : 0,
                          .dependent = 1,
                          .cluster = (uint32_t)blocks};
    return slk_cuda_launch(k, lane, SLK_CUDA_sample, &p, sizeof p, grid);
}
