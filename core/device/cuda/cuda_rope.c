/* sl_ops.rope on a device: [T, H, D], F32 or BF16, in place. Positions lie in device memory: they cannot be checked
 * here, and one that the table does not hold gives NaN. */
#include "cuda_impl.h"

#include "cuda_tensor.h"

sl_status sli_cuda_op_rope(const sl_host *host, const sl_op_rope *args) {
    (void)host;
    const sl_rope *rope = args->rope;
    sli_cuda_rows x;
    if (args->x->ndim != 3 || !sli_cuda_rows_of(args->x, &x) || rope->style == SL_ROPE_NONE || rope->dims > x.width ||
        rope->n_positions > INT32_MAX)
        return SL_E_INVALID;
    if (rope->device_cos == NULL || rope->device_sin == NULL)
        return SL_E_UNIMPLEMENTED; /* no table on the device */
    const slk_rope_params p = {.x = x.data,
                               .position = args->position,
                               .cos = rope->device_cos,
                               .sin = rope->device_sin,
                               .ldx = x.ld,
                               .ldx_head = x.ld_head,
                               .heads = (int32_t)x.heads,
                               .n_rot = rope->dims,
                               .n_positions = (int32_t)rope->n_positions,
                               .interleaved = rope->style == SL_ROPE_INTERLEAVED,
                               .inverse = args->inverse};
    return slk_cuda_rope(&sli_cuda_of(args->lane)->k, args->lane, &p, x.rows, args->x->dtype);
}
