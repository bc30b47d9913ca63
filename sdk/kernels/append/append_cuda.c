/* See append_cuda.h. */
#include "slk_cuda.h"

#include "sluice/work.h"

_Static_assert(SL_MAP_DIAGONAL == 1 && SL_MAP_HADAMARD == 2 && SL_MAP_DENSE == 4, "as in append.cu");

enum { WARPS = 4, MAX_GRID_Y = 65535 };

static int is_power_of_two(int64_t n) { return n > 0 && (n & (n - 1)) == 0; }

static sl_status check_map(const slk_append_map *m, int32_t dim) {
    if (m->n < 2 || dim % m->n != 0)
        return SL_E_UNIMPLEMENTED;
    switch (m->kind) {
    case SL_MAP_DIAGONAL:
    case SL_MAP_DENSE: return m->a != NULL ? SL_OK : SL_E_INVALID;
    case SL_MAP_HADAMARD: return is_power_of_two(m->n) ? SL_OK : SL_E_UNIMPLEMENTED;
    default: return SL_E_UNIMPLEMENTED;
    }
}

sl_status slk_cuda_append(const slk_cuda *k, const sl_lane *lane, const slk_append_params *args, int64_t rows,
                          sl_dtype store_dtype) {
    slk_append_params p = *args;
    const int kernel = store_dtype == SL_F32    ? SLK_CUDA_append_f32
                       : store_dtype == SL_F16  ? SLK_CUDA_append_f16
                       : store_dtype == SL_BF16 ? SLK_CUDA_append_bf16
                                                : -1;
    if (kernel < 0 || p.k_dim > SLK_APPEND_MAX_DIM || (p.k_dim | p.v_dim | p.rope_dims) % 4 != 0 ||
        p.n_maps > SLK_APPEND_MAX_MAPS)
        return SL_E_UNIMPLEMENTED;
    for (int32_t i = 0; i < p.n_maps; i++) {
        const sl_status s = check_map(&p.map[i], p.k_dim);
        if (s < 0)
            return s;
    }
    const int64_t bytes = store_dtype == SL_F32 ? 4 : 2; /* of an element: k goes in by twos, v by fours */
    if (p.heads < 0 || p.kv_heads < 0 || p.k_dim < 0 || p.v_dim < 0 || p.rope_dims < 0 || p.rope_dims > p.k_dim ||
        rows < 0 || rows > MAX_GRID_Y || !is_power_of_two(p.page_rows) ||
        ((uintptr_t)p.q | (uintptr_t)p.k | (uintptr_t)p.v) % 8 != 0 ||
        (p.ldq | p.ldq_head | p.ldk | p.ldk_head | p.ldv | p.ldv_head) % 4 != 0 ||
        ((uintptr_t)p.k_pool | (uintptr_t)p.v_pool) % (uintptr_t)(4 * bytes) != 0 ||
        (p.k_page_stride | p.k_row_stride | p.k_head_stride | p.v_page_stride | p.v_row_stride | p.v_head_stride) %
                (4 * bytes) !=
            0)
        return SL_E_INVALID;
    for (p.page_shift = 0; 1 << p.page_shift < p.page_rows;)
        p.page_shift++;
    slk_cuda_grid grid = {.x = (uint32_t)(p.heads + 2 * p.kv_heads + WARPS - 1) / WARPS,
                          .y = (uint32_t)rows,
                          .z = 1,
                          .threads = 32 * WARPS,
                          .dependent = 1};
    return slk_cuda_launch(k, lane, kernel, &p, sizeof p, grid);
}
