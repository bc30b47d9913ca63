/* See select_cuda.h. */
#include "slk_cuda.h"

enum { THREADS = 512, MAX_GRID_Y = 65535 };

static int64_t chunk_of(int32_t n, int32_t blocks) { return (((int64_t)n + blocks - 1) / blocks + 3) / 4 * 4; }

/* Blocks that share a row: all where rows are few; never so few that a chunk that could fit into shared memory does
 * not. */
static int32_t blocks_of_a_row(const slk_cuda *k, const slk_topk_params *p, int64_t rows) {
    if (k->info.arch < 900)
        return 1;
    int32_t blocks = SLK_TOPK_CLUSTER;
    while (blocks > 1 && (rows * blocks > 2 * (int64_t)k->info.n_processors || p->n < 2048 * blocks) &&
           (p->k == 1 || chunk_of(p->n, blocks / 2) <= SLK_TOPK_CACHED))
        blocks /= 2;
    return blocks;
}

sl_status slk_cuda_topk(const slk_cuda *k, const sl_lane *lane, const slk_topk_params *args, int64_t rows) {
    slk_topk_params p = *args;
    if (p.k < 1 || p.k > p.n)
        return SL_E_RANGE;
    if (p.k > SLK_TOPK_MAX)
        return SL_E_UNIMPLEMENTED;
    if (rows < 0 || rows > MAX_GRID_Y || p.stride < 0)
        return SL_E_INVALID;
    const int32_t blocks = blocks_of_a_row(k, &p, rows);
    p.chunk = (int32_t)chunk_of(p.n, blocks);
    p.wide = (uintptr_t)p.x % 16 == 0 && (p.stride % 4 == 0 || rows <= 1);
    const int kernel = p.k == 1 ? SLK_CUDA_argmax : SLK_CUDA_topk;
    p.cached = p.k > 1 && p.chunk <= SLK_TOPK_CACHED && 4 * p.chunk + 48 * 1024 <= k->info.max_shared;
    slk_cuda_grid grid = {.x = (uint32_t)blocks,
                          .y = (uint32_t)rows,
                          .z = 1,
                          .threads = THREADS,
                          .shared = p.cached ? 4 * (uint32_t)p.chunk : 0,
                          .dependent = 1,
                          .cluster = (uint32_t)blocks};
    return slk_cuda_launch(k, lane, kernel, &p, sizeof p, grid);
}
