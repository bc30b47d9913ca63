/* The table of operations on lanes of this module, and the memory they share. */
#include "cuda_cublaslt.h"

/* convert, colsum and map work on host memory: the core's own table has them. */
const sl_ops sli_cuda_ops = {
    .struct_size = SL_SIZE(sl_ops),
    .gemm = sli_cuda_op_gemm,
    .q_bytes = sli_cuda_q_bytes,
    .q_pack = sli_cuda_q_pack,
    .q_unpack = sli_cuda_q_unpack,
    .qgemm = sli_cuda_op_qgemm,
    .norm = sli_cuda_op_norm,
    .rope = sli_cuda_op_rope,
    .attend = sli_cuda_op_attend,
    .act_mul = sli_cuda_op_act_mul,
    .topk = sli_cuda_op_topk,
    .lse_merge = sli_cuda_op_lse_merge,
    .q_pack_codes = sli_cuda_q_pack_codes,
    .embed = sli_cuda_op_embed,
    .append = sli_cuda_op_append,
    .move = sli_cuda_op_move,
    .gather = sli_cuda_op_gather,
    .pick = sli_cuda_op_pick,
    .quantise = sli_cuda_op_quantise,
    .keep = sli_cuda_op_keep,
};

/* Operations of a lane run one after the other, so that they share one block as large as the greediest needs. */
sl_status sli_cuda_ops_reserve(sli_cuda *cuda, const sli_cuda_shapes *shapes, sl_error *err) {
    static int64_t (*const needs[])(const sli_cuda *, const sli_cuda_shapes *) = {sli_cuda_attend_workspace,
                                                                                  sli_cuda_linear_workspace};
    int64_t bytes = 0;
    for (size_t i = 0; i < sizeof needs / sizeof needs[0]; i++) {
        const int64_t need = needs[i] != NULL ? needs[i](cuda, shapes) : 0;
        if (need < 0)
            return sl_fail(err, SL_E_RANGE, "the workspace of operations cannot be counted for %lld rows, context %lld",
                           (long long)shapes->max_rows, (long long)shapes->max_context);
        bytes = need > bytes ? need : bytes;
    }
    cuda->shapes = *shapes;
    cuda->k.deterministic = (int32_t)shapes->deterministic;
    if (!shapes->deterministic)
        (void)sli_cublaslt_open(cuda,
                                NULL); /* a capture may come first, and cannot; whoever needs it says what is wrong */
    if (bytes <= cuda->workspace_bytes)
        return SL_OK;
    sli_cuda_release(cuda, SL_DEVICE_CUDA, cuda->workspace);
    cuda->workspace_bytes = 0;
    cuda->workspace = sli_cuda_alloc(cuda, SL_DEVICE_CUDA, bytes, 256, SL_MEM_SCRATCH);
    if (cuda->workspace == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no device memory for the operations' workspace of %lld bytes",
                       (long long)bytes);
    cuda->workspace_bytes = bytes;
    return SL_OK;
}
