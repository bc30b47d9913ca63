/* The operations of all lanes: each call goes to the table of its lane's device. Packing has no lane and goes by the
 * format's target; it runs on the host either way. */
#include "device/cpu/cpu_ops.h"
#include "device/device.h"

static const sl_ops *of_lane(const sl_lane *lane) {
    const sli_cuda_api *module = sli_device_module();
    return lane != NULL && lane->device == SL_DEVICE_CUDA && module != NULL ? module->ops : &sli_ops_cpu;
}

static const sl_ops *of_format(const sl_q_format *format) {
    const sli_cuda_api *module = sli_device_module();
    return format->target == SL_Q_CUDA && module != NULL ? module->ops : &sli_ops_cpu;
}

/* X(operation, parameter struct) */
#define BY_LANE(X)                                                                                                     \
    X(gemm, sl_op_gemm)                                                                                                \
    X(qgemm, sl_op_qgemm)                                                                                              \
    X(norm, sl_op_norm)                                                                                                \
    X(rope, sl_op_rope)                                                                                                \
    X(attend, sl_attend)                                                                                               \
    X(act_mul, sl_op_act_mul)                                                                                          \
    X(topk, sl_op_topk)                                                                                                \
    X(lse_merge, sl_op_lse_merge)                                                                                      \
    X(colsum, sl_op_colsum)                                                                                            \
    X(map, sl_op_map)                                                                                                  \
    X(embed, sl_op_embed)                                                                                              \
    X(append, sl_op_append)                                                                                            \
    X(move, sl_op_move)                                                                                                \
    X(gather, sl_op_gather)                                                                                            \
    X(pick, sl_op_pick)                                                                                                \
    X(quantise, sl_op_quantise)                                                                                        \
    X(keep, sl_op_keep)

#define DISPATCH(op, type)                                                                                             \
    static sl_status any_##op(const sl_host *host, const type *args) {                                                 \
        const sl_ops *ops = of_lane(args->lane);                                                                       \
        return ops->op != NULL ? ops->op(host, args) : SL_E_UNIMPLEMENTED;                                             \
    }
BY_LANE(DISPATCH)
#undef DISPATCH

static int64_t any_q_bytes(const sl_q_format *format) {
    const sl_ops *ops = of_format(format);
    return ops->q_bytes != NULL ? ops->q_bytes(format) : 0; /* no such format */
}

static sl_status any_q_pack(const sl_host *host, const sl_q_format *format, const sl_tensor *w, void *blob,
                            sl_error *err) {
    const sl_ops *ops = of_format(format);
    return ops->q_pack != NULL ? ops->q_pack(host, format, w, blob, err) : SL_E_UNIMPLEMENTED;
}

static sl_status any_q_unpack(const sl_host *host, const sl_q_format *format, const void *blob, float *w) {
    const sl_ops *ops = of_format(format);
    return ops->q_unpack != NULL ? ops->q_unpack(host, format, blob, w) : SL_E_UNIMPLEMENTED;
}

static sl_status any_q_pack_codes(const sl_host *host, const sl_q_format *format, const uint8_t *code,
                                  const uint16_t *scale, const uint8_t *zero, void *blob, sl_error *err) {
    const sl_ops *ops = of_format(format);
    return ops->q_pack_codes != NULL ? ops->q_pack_codes(host, format, code, scale, zero, blob, err)
                                     : SL_E_UNIMPLEMENTED;
}

static sl_status any_convert(void *dst, sl_dtype dst_dtype, const void *src, sl_dtype src_dtype, int64_t n) {
    return sli_ops_cpu.convert(dst, dst_dtype, src, src_dtype, n); /* memory of the host */
}

const sl_ops sli_ops_any = {.struct_size = SL_SIZE(sl_ops),
                            .q_bytes = any_q_bytes,
                            .q_pack = any_q_pack,
                            .q_unpack = any_q_unpack,
                            .q_pack_codes = any_q_pack_codes,
                            .convert = any_convert,
#define ENTRY(op, type) .op = any_##op,
                            BY_LANE(ENTRY)
#undef ENTRY
};
