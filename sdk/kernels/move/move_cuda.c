/* See move_cuda.h. */
#include "slk_cuda.h"

enum { WARPS = 4 };

sl_status slk_cuda_move(const slk_cuda *k, const sl_lane *lane, const slk_move_params *args,
                        const slk_move_layer *layers, int32_t n_layers) {
    slk_move_params p = *args;
    if (p.page_rows < 1 || (p.page_rows & (p.page_rows - 1)) != 0 || (p.k_bytes | p.v_bytes) % 4 != 0 ||
        (p.k_page_stride | p.k_row_stride | p.k_head_stride | p.v_page_stride | p.v_row_stride | p.v_head_stride) % 4 !=
            0)
        return SL_E_INVALID;
    for (p.page_shift = 0; 1 << p.page_shift < p.page_rows;)
        p.page_shift++;
    for (int32_t begin = 0; begin < n_layers; begin += SLK_MOVE_LAYERS) {
        const int32_t n = n_layers - begin < SLK_MOVE_LAYERS ? n_layers - begin : SLK_MOVE_LAYERS;
        for (int32_t i = 0; i < n; i++) {
            p.layer[i] = layers[begin + i];
            if (((uintptr_t)p.layer[i].k_pool | (uintptr_t)p.layer[i].v_pool) % 4 != 0)
                return SL_E_INVALID;
        }
        slk_cuda_grid grid = {.x = (uint32_t)p.heads, .y = 2, .z = (uint32_t)n, .threads = 32 * WARPS, .dependent = 1};
        const sl_status s = slk_cuda_launch(k, lane, SLK_CUDA_move_rows, &p, sizeof p, grid);
        if (s < 0)
            return s;
    }
    return SL_OK;
}
