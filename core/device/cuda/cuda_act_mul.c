/* sl_ops.act_mul on a device: gate and up of one dtype, which may be two halves of one buffer; a residual of y's. */
#include "cuda_impl.h"

#include "cuda_tensor.h"

static int is_like(const sli_cuda_rows *a, const sli_cuda_rows *b) {
    return a->rows == b->rows && a->heads == b->heads && a->width == b->width;
}

sl_status sli_cuda_op_act_mul(const sl_host *host, const sl_op_act_mul *args) {
    (void)host;
    const sl_tensor *residual = SL_HAS(args, sl_op_act_mul, residual) ? args->residual : NULL;
    sli_cuda_rows gate, y, up = {0}, add = {0};
    if (!sli_cuda_rows_of(args->gate, &gate) || !sli_cuda_rows_of(args->y, &y) || gate.heads != 1 ||
        !is_like(&gate, &y))
        return SL_E_INVALID;
    if (args->up != NULL &&
        (!sli_cuda_rows_of(args->up, &up) || !is_like(&gate, &up) || args->up->dtype != args->gate->dtype))
        return SL_E_INVALID;
    if (residual != NULL &&
        (!sli_cuda_rows_of(residual, &add) || !is_like(&gate, &add) || residual->dtype != args->y->dtype))
        return SL_E_INVALID;
    const slk_act_mul_params p = {.gate = gate.data,
                                  .up = up.data,
                                  .y = y.data,
                                  .residual = add.data,
                                  .ld_gate = gate.ld,
                                  .ld_up = up.ld,
                                  .ldy = y.ld,
                                  .ldr = add.ld,
                                  .n = (int32_t)gate.width,
                                  .act = args->act};
    return slk_cuda_act_mul(&sli_cuda_of(args->lane)->k, args->lane, &p, gate.rows, args->gate->dtype, args->y->dtype);
}
