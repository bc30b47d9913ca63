/* y = epilogue(x dequantised(blob)^T) on a device, and the packers of its blobs (linear_pack.h). */
#include "cuda_linear.h"
#include "linear_pack.h"
#include "sl_error.h"

int64_t sli_cuda_q_bytes(const sl_q_format *format) { return slk_linear_pack_bytes(format); }

sl_status sli_cuda_q_pack(const sl_host *host, const sl_q_format *format, const sl_tensor *w, void *blob,
                          sl_error *err) {
    return slk_linear_pack(host, format, w, blob, err);
}

sl_status sli_cuda_q_unpack(const sl_host *host, const sl_q_format *format, const void *blob, float *w) {
    (void)host;
    return slk_linear_unpack(format, blob, w);
}

sl_status sli_cuda_q_pack_codes(const sl_host *host, const sl_q_format *format, const uint8_t *code,
                                const uint16_t *scale, const uint8_t *zero, void *blob, sl_error *err) {
    (void)host;
    return slk_linear_pack_codes(format, code, scale, zero, blob, err);
}

sl_status sli_cuda_op_qgemm(const sl_host *host, const sl_op_qgemm *a) {
    (void)host;
    const sl_q_format *f = a->format;
    slk_linear_params p;
    if (slk_linear_pack_bytes(f) == 0)
        return SL_E_UNIMPLEMENTED;
    if (f->target != SL_Q_CUDA || (a->act_mul && a->residual != NULL))
        return SL_E_INVALID;
    SL_TRY(sli_cuda_linear_fill(&p, a->x, a->y, a->bias, a->residual, f->n, f->k, a->act_mul, a->act));
    p.w = a->blob;
    p.scale = (const char *)a->blob + slk_linear_scales_at(f);
    p.ldw = slk_linear_e4m3_stride(f);
    p.group = (int32_t)slk_linear_group(f);
    p.asym = f->asymmetric;
    return sli_cuda_linear_run(sli_cuda_of(a->lane), a->lane,
                               f->kind == SL_Q_E4M3 ? SLK_LINEAR_E4M3
                               : f->bits == 8       ? SLK_LINEAR_INT8
                                                    : SLK_LINEAR_INT4,
                               &p);
}
