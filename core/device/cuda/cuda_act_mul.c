/* sl_ops.act_mul on a device: gate and up of one dtype, which may be two halves of one buffer. */
#include "cuda_impl.h"

#include "cuda_tensor.h"

sl_status sli_cuda_op_act_mul(const sl_host *host, const sl_op_act_mul *args) {
    (void)host;
    sli_cuda_rows gate, up, y;
    if (!sli_cuda_rows_of(args->gate, &gate) || !sli_cuda_rows_of(args->up, &up) || !sli_cuda_rows_of(args->y, &y) ||
        gate.heads != 1 || up.heads != 1 || y.heads != 1 || gate.width != up.width || gate.width != y.width ||
        gate.rows != up.rows || gate.rows != y.rows || args->gate->dtype != args->up->dtype)
        return SL_E_INVALID;
    const slk_act_mul_params p = {.gate = gate.data,
                                  .up = up.data,
                                  .y = y.data,
                                  .ld_gate = gate.ld,
                                  .ld_up = up.ld,
                                  .ldy = y.ld,
                                  .n = (int32_t)gate.width,
                                  .act = args->act};
    return slk_cuda_act_mul(&sli_cuda_of(args->lane)->k, args->lane, &p, gate.rows, args->gate->dtype, args->y->dtype);
}
