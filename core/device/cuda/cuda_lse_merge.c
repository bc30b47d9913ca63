/* Partial results joined: sl_ops.lse_merge. */
#include "cuda_impl.h"

static int any_float(const sl_tensor *t) { return t->dtype == SL_F32 || t->dtype == SL_BF16; }

sl_status sli_cuda_op_lse_merge(const sl_host *host, const sl_op_lse_merge *args) {
    (void)host;
    const sl_tensor *o = args->o, *o2 = args->o2;
    if (!any_float(o) || !any_float(o2))
        return SL_E_UNIMPLEMENTED;
    if (o->ndim != 3 || o2->ndim != 3 || o->stride[2] != 1 || o2->stride[2] != 1)
        return SL_E_INVALID;
    slk_lse_merge_params p = {
        .o = o->data,
        .o2 = o2->data,
        .lse = args->lse,
        .lse2 = args->lse2,
        .o_row = o->stride[0],
        .o_head = o->stride[1],
        .o2_row = o2->stride[0],
        .o2_head = o2->stride[1],
        .rows = (int32_t)o->shape[0],
        .heads = (int32_t)o->shape[1],
        .dim = (int32_t)o->shape[2],
        .o_f32 = o->dtype == SL_F32,
        .o2_f32 = o2->dtype == SL_F32,
    };
    return slk_cuda_lse_merge(&sli_cuda_of(args->lane)->k, args->lane, &p);
}
