/* See quantise_cuda.h. */
#include "slk_cuda.h"

static sl_status check(const slk_quantise_side *s) {
    if (s->bits == 0)
        return SL_OK;
    if (s->bits != 2 && s->bits != 4 && s->bits != 8)
        return SL_E_UNIMPLEMENTED;
    if (s->dim < 32 || s->dim % 32 != 0 || (s->group != 32 && s->group != 64 && s->group != 128) ||
        (s->page | s->row | s->head) % 4 != 0 || (s->scale_page | s->scale_group) % 2 != 0)
        return SL_E_INVALID;
    return SL_OK;
}

sl_status slk_cuda_quantise(const slk_cuda *k, const sl_lane *lane, const slk_quantise_params *args,
                            const slk_quantise_layer *layers, int32_t n_layers, sl_dtype dtype) {
    slk_quantise_params p = *args;
    const int kernel = dtype == SL_BF16  ? SLK_CUDA_quantise_bf16
                       : dtype == SL_F16 ? SLK_CUDA_quantise_f16
                       : dtype == SL_F32 ? SLK_CUDA_quantise_f32
                                         : -1;
    sl_status s = kernel < 0 ? SL_E_UNIMPLEMENTED : check(&p.of[0]);
    s = s < 0 ? s : check(&p.of[1]);
    if (s < 0)
        return s;
    if (p.page_rows < 1 || (p.page_rows & (p.page_rows - 1)) != 0 ||
        (p.of[0].bits > 0 && p.page_rows % p.of[0].group != 0) ||
        (p.of[1].bits > 0 && p.of[1].dim % p.of[1].group != 0) || p.n_jobs < 0)
        return SL_E_INVALID;
    for (p.page_shift = 0; 1 << p.page_shift < p.page_rows;)
        p.page_shift++;
    for (int32_t begin = 0; begin < n_layers; begin += SLK_QUANTISE_LAYERS) {
        const int32_t n = n_layers - begin < SLK_QUANTISE_LAYERS ? n_layers - begin : SLK_QUANTISE_LAYERS;
        for (int32_t i = 0; i < n; i++)
            p.layer[i] = layers[begin + i];
        p.n_layers = n;
        slk_cuda_grid grid = {
            .x = (uint32_t)p.n_jobs, .y = (uint32_t)p.heads, .z = (uint32_t)n, .threads = 128, .dependent = 1};
        s = slk_cuda_launch(k, lane, kernel, &p, sizeof p, grid);
        if (s < 0)
            return s;
    }
    return SL_OK;
}
