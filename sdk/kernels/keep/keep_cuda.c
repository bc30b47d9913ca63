/* See keep_cuda.h. */
#include "slk_cuda.h"

sl_status slk_cuda_keep(const slk_cuda *k, const sl_lane *lane, const slk_keep_params *args, int32_t heads) {
    slk_keep_params p = *args;
    const int64_t by = (int64_t)((uintptr_t)p.k_pool | (uintptr_t)p.v_pool) | p.k_page_stride | p.k_row_stride |
                       p.k_head_stride | p.v_page_stride | p.v_row_stride | p.v_head_stride | p.k_bytes | p.v_bytes;
    if (p.page_rows < 1 || (p.page_rows & (p.page_rows - 1)) != 0 || by % 4 != 0 || p.k_bytes <= 0 || p.v_bytes <= 0)
        return SL_E_INVALID;
    if (p.k_bytes > 4 * SLK_KEEP_THREADS * SLK_KEEP_ITEMS || p.v_bytes > 4 * SLK_KEEP_THREADS * SLK_KEEP_ITEMS)
        return SL_E_UNIMPLEMENTED;
    for (p.page_shift = 0; 1 << p.page_shift < p.page_rows;)
        p.page_shift++;
    slk_cuda_grid grid = {.x = (uint32_t)heads, .y = 2, .z = 1, .threads = SLK_KEEP_THREADS, .dependent = 1};
    return slk_cuda_launch(k, lane, by % 16 == 0 ? SLK_CUDA_keep_rows_16 : SLK_CUDA_keep_rows_4, &p, sizeof p, grid);
}
