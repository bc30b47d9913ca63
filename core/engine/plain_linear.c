/* See plain_linear.h. */
#include "plain_linear.h"

#include "base/ledger.h"
#include "sl_error.h"
#include "sl_tensor.h"

struct sl_quant_handle {
    const sli_network *net;
    const sl_linear_group *group;
};

static sl_status claim(sl_instance *self, const sl_linear_group *group, sl_quant_claim *out, sl_error *err) {
    (void)self;
    const sl_linear *first = group->linears[0];
    if (first->weight.data == NULL)
        return sl_fail(err, SL_E_INVALID, "%s is packed already: only a checkpoint of plain weights can be quantised",
                       first->name);
    out->format = sl_dtype_name(first->weight.dtype);
    out->bits_per_weight = sl_dtype_bits(first->weight.dtype);
    out->x_dtype = SL_F32;
    return SL_OK;
}

static sl_status pack_size(sl_instance *self, const sl_linear_group *group, int64_t *bytes, sl_error *err) {
    (void)self, (void)group, (void)err;
    *bytes = 0;
    return SL_OK;
}

static sl_status pack_into(sl_instance *self, const sl_linear_group *group, void *blob, sl_error *err) {
    (void)self, (void)group, (void)blob, (void)err;
    return SL_OK;
}

static sl_status bind(sl_instance *self, const sl_linear_group *group, const void *blob, sl_quant_handle **out,
                      sl_error *err) {
    (void)blob;
    sl_quant_handle *h = sli_alloc(SLI_TAG_MISC, sizeof *h);
    if (h == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for a group of linears");
    h->net = (const sli_network *)self;
    h->group = group;
    *out = h;
    return SL_OK;
}

static void unbind(sl_instance *self, sl_quant_handle *h) {
    (void)self;
    sli_free(h);
}

static sl_status matmul(sl_quant_handle *h, const sl_quant_matmul *args) {
    sl_tensor y = args->y;
    sl_op_gemm op = {.struct_size = SL_SIZE(sl_op_gemm),
                     .lane = args->lane,
                     .x = &args->x,
                     .w = &h->group->linears[args->which]->weight,
                     .y = &y,
                     .bias = args->bias,
                     .residual = args->residual,
                     .compute = h->net->limits.compute};
    return h->net->ops->gemm(h->net->host, &op);
}

const sl_quant sli_plain_linear = {.struct_size = SL_SIZE(sl_quant),
                                   .claim = claim,
                                   .pack_size = pack_size,
                                   .pack_into = pack_into,
                                   .bind = bind,
                                   .unbind = unbind,
                                   .matmul = matmul};
