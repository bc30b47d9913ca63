/* sl_ops.embed: the rows of a step. */
#include "cuda_impl.h"

#include "cuda_tensor.h"

sl_status sli_cuda_op_embed(const sl_host *host, const sl_op_embed *args) {
    (void)host;
    sli_cuda_rows table, x;
    if (!sli_cuda_rows_of(args->table, &table) || !sli_cuda_rows_of(args->x, &x) || args->batch->device == NULL ||
        table.width != x.width || table.heads != 1 || x.heads != 1 || table.rows > INT32_MAX ||
        args->x->dtype != SL_F32)
        return SL_E_INVALID;
    const slk_embed_params p = {.table = table.data,
                                .x = x.data,
                                .row_seq = args->batch->device->row_seq,
                                .token = args->batch->device->token,
                                .ld_table = table.ld,
                                .ldx = x.ld,
                                .vocab = (int32_t)table.rows,
                                .n = (int32_t)x.width};
    return slk_cuda_embed(&sli_cuda_of(args->lane)->k, args->lane, &p, x.rows, args->table->dtype);
}
