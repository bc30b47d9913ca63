/* A device in use, as the files of this module share it. */
#ifndef SLUICE_CORE_CUDA_IMPL_H
#define SLUICE_CORE_CUDA_IMPL_H

#include "cuda_api.h"
#include "slk_cuda.h"

struct sli_cuda {
    sli_cuda_options options;
    const sl_lane *lanes[2];  /* compute, copies */
    slk_cuda k;               /* the shared kernels, loaded */
    sli_cuda_shapes shapes;   /* after ops_reserve */
    void *workspace;          /* of the operations: partial results of split work; nothing in it survives an operation */
    int64_t workspace_bytes;
    struct sli_cuda_state *state; /* driver, allocations, graphs, libraries */
    struct sli_cuda_gemms *gemms; /* planned products (cuda_gemms.h); NULL until the first */
};

/* The device of a lane of this module. */
sli_cuda *sli_cuda_of(const sl_lane *lane);
/* The driver's stream of a lane (a CUstream), for libraries that queue work of their own. */
void *sli_cuda_stream(const sl_lane *lane);

/* The operations: one file each (cuda_<op>.c), launchers of sdk/kernels behind them. The table is in cuda_ops.c.
 * workspace: bytes that an operation may need for these shapes. */
int64_t sli_cuda_attend_workspace(const sli_cuda *cuda, const sli_cuda_shapes *shapes);
int64_t sli_cuda_linear_workspace(const sli_cuda *cuda, const sli_cuda_shapes *shapes);
void sli_cuda_gemms_release(sli_cuda *cuda); /* before the device is closed */
sl_status sli_cuda_op_gemm(const sl_host *host, const sl_op_gemm *args);
sl_status sli_cuda_op_qgemm(const sl_host *host, const sl_op_qgemm *args);
int64_t sli_cuda_q_bytes(const sl_q_format *format);
sl_status sli_cuda_q_pack(const sl_host *host, const sl_q_format *format, const sl_tensor *w, void *blob, sl_error *err);
sl_status sli_cuda_q_unpack(const sl_host *host, const sl_q_format *format, const void *blob, float *w);
sl_status sli_cuda_q_pack_codes(const sl_host *host, const sl_q_format *format, const uint8_t *code,
                                const uint16_t *scale, const uint8_t *zero, void *blob, sl_error *err);
sl_status sli_cuda_op_norm(const sl_host *host, const sl_op_norm *args);
sl_status sli_cuda_op_rope(const sl_host *host, const sl_op_rope *args);
sl_status sli_cuda_op_attend(const sl_host *host, const sl_attend *args);         /* picks one of the next two */
sl_status sli_cuda_attend_few(const sl_host *host, const sl_attend *args);        /* decode, verify, lists: cuda_attend.c */
sl_status sli_cuda_attend_prefill(const sl_host *host, const sl_attend *args);    /* cuda_prefill.c */
sl_status sli_cuda_op_act_mul(const sl_host *host, const sl_op_act_mul *args);
sl_status sli_cuda_op_topk(const sl_host *host, const sl_op_topk *args);
sl_status sli_cuda_op_lse_merge(const sl_host *host, const sl_op_lse_merge *args);
sl_status sli_cuda_op_embed(const sl_host *host, const sl_op_embed *args);
sl_status sli_cuda_op_append(const sl_host *host, const sl_op_append *args);
sl_status sli_cuda_op_move(const sl_host *host, const sl_op_move *args);
sl_status sli_cuda_op_gather(const sl_host *host, const sl_op_gather *args);
sl_status sli_cuda_op_pick(const sl_host *host, const sl_op_pick *args);
sl_status sli_cuda_op_quantise(const sl_host *host, const sl_op_quantise *args);
sl_status sli_cuda_op_keep(const sl_host *host, const sl_op_keep *args);
sl_status sli_cuda_random(sli_cuda *cuda, void *dst, sl_dtype dtype, int64_t n, uint64_t seed, float amplitude);
sl_status sli_cuda_sample(sli_cuda *cuda, const float *logits, const sli_cuda_draw *how, int32_t *token, int64_t rows,
                          int32_t n);
const void *sli_cuda_sdpa(sli_cuda *cuda, sl_error *err); /* cuda_cudnn.c */

#endif
