/* See gather_cuda.h. */
#include "slk_cuda.h"

sl_status slk_cuda_gather(const slk_cuda *k, const sl_lane *lane, const slk_gather_params *p) {
    if ((p->width | p->ldx | p->ldy) % 4 != 0 || p->n < 0)
        return SL_E_INVALID;
    slk_cuda_grid grid = {.x = (uint32_t)p->n, .y = 1, .z = 1, .threads = 256};
    return slk_cuda_launch(k, lane, SLK_CUDA_gather_f32, p, sizeof *p, grid);
}
