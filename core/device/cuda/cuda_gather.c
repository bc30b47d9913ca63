/* sl_ops.gather: f32 rows by index. */
#include "cuda_impl.h"

#include "cuda_tensor.h"

sl_status sli_cuda_op_gather(const sl_host *host, const sl_op_gather *args) {
    (void)host;
    sli_cuda_rows x, y;
    if (!sli_cuda_rows_of(args->x, &x) || !sli_cuda_rows_of(args->y, &y) || x.heads != 1 || y.heads != 1 ||
        x.width != y.width || args->x->dtype != SL_F32 || args->y->dtype != SL_F32 || y.rows > INT32_MAX)
        return SL_E_INVALID;
    const slk_gather_params p = {
        .x = x.data, .row = args->row, .y = y.data, .width = x.width, .ldx = x.ld, .ldy = y.ld, .n = (int32_t)y.rows};
    return slk_cuda_gather(&sli_cuda_of(args->lane)->k, args->lane, &p);
}
