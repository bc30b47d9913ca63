/* See pick_cuda.h. */
#include "slk_cuda.h"

enum { THREADS = 1024, MAX_GRID_Y = 65535 };

sl_status slk_cuda_pick(const slk_cuda *k, const sl_lane *lane, const slk_pick_params *p, int64_t rows) {
    if (rows < 0 || rows > MAX_GRID_Y || p->groups < 1 || p->heads < p->groups || p->heads % p->groups != 0 ||
        p->budget < 1 || p->all_up_to < p->budget || p->list_stride < p->all_up_to || p->score_stride < 1)
        return SL_E_INVALID;
    slk_cuda_grid grid = {.x = (uint32_t)p->groups, .y = (uint32_t)rows, .z = 1, .threads = THREADS, .dependent = 1};
    return slk_cuda_launch(k, lane, SLK_CUDA_pick, p, sizeof *p, grid);
}
