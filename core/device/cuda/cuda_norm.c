/* sl_ops.norm on a device: [T, E] or [T, H, D], F32 or BF16 on either side. */
#include "cuda_impl.h"

#include "cuda_tensor.h"

sl_status sli_cuda_op_norm(const sl_host *host, const sl_op_norm *args) {
    (void)host;
    sli_cuda_rows x, y;
    if (!sli_cuda_rows_of(args->x, &x) || !sli_cuda_rows_of(args->y, &y) || x.rows != y.rows || x.heads != y.heads ||
        x.width != y.width || args->w->ndim != 1 || args->w->shape[0] != x.width || args->w->stride[0] != 1)
        return SL_E_INVALID;
    if (args->w->dtype != SL_F32 && args->w->dtype != SL_BF16)
        return SL_E_UNIMPLEMENTED;
    const slk_norm_params p = {.x = x.data,
                               .w = args->w->data,
                               .y = y.data,
                               .ldx = x.ld,
                               .ldx_head = x.ld_head,
                               .ldy = y.ld,
                               .ldy_head = y.ld_head,
                               .heads = (int32_t)x.heads,
                               .n = (int32_t)x.width,
                               .eps = (float)args->eps,
                               .w_is_bf16 = args->w->dtype == SL_BF16};
    return slk_cuda_norm(&sli_cuda_of(args->lane)->k, args->lane, &p, x.rows, args->x->dtype, args->y->dtype);
}
