/* sl_ops.topk on a device; k = 1 is argmax. */
#include "cuda_impl.h"

sl_status sli_cuda_op_topk(const sl_host *host, const sl_op_topk *args) {
    (void)host;
    if (args->n > INT32_MAX || args->k > INT32_MAX)
        return SL_E_UNIMPLEMENTED;
    const slk_topk_params p = {.x = args->x,
                               .id = args->id,
                               .value = args->value,
                               .stride = args->stride,
                               .n = (int32_t)args->n,
                               .k = (int32_t)args->k};
    return slk_cuda_topk(&sli_cuda_of(args->lane)->k, args->lane, &p, args->rows);
}
