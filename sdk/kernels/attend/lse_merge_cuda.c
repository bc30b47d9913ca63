/* See lse_merge_cuda.h. */
#include "slk_cuda.h"

sl_status slk_cuda_lse_merge(const slk_cuda *k, const sl_lane *lane, const slk_lse_merge_params *p) {
    int64_t by = p->o_f32 ? 8 : 4, by2 = p->o2_f32 ? 8 : 4;
    if (p->dim % 2 != 0 || (p->o_row | p->o_head | p->o2_row | p->o2_head) % 2 != 0 ||
        (int64_t)(intptr_t)p->o % by != 0 || (int64_t)(intptr_t)p->o2 % by2 != 0)
        return SL_E_INVALID;
    int64_t pairs = (int64_t)p->rows * p->heads;
    slk_cuda_grid grid = {.x = (uint32_t)((pairs + 3) / 4), .y = 1, .z = 1, .threads = 128, .dependent = 1};
    return slk_cuda_launch(k, lane, SLK_CUDA_lse_merge, p, sizeof *p, grid);
}
