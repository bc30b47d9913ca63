/* none - linears as the checkpoint holds them, multiplied in place by the host's kernel: f32, f16 or bf16 weights, f32
 * or bf16 products. The yardstick of the family. */
#include "sluice/ops.h"
#include "sluice/quant.h"

#include <stdlib.h>
#include <string.h>

#include "sl_error.h"
#include "sl_host_util.h"
#include "sl_tensor.h"

struct sl_instance {
    const sl_host *host;
    const sl_ops *ops;
    uint32_t compute;
};

struct sl_quant_handle {
    sl_instance *owner;
    const sl_linear_group *group;
};

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    const sl_ops *ops = sl_host_service(args->host, SL_OPS_ID, SL_FIELD_END(sl_ops, gemm));
    sl_instance *self = ops != NULL ? calloc(1, sizeof *self) : NULL;
    if (self == NULL)
        return sl_fail(err, ops == NULL ? SL_E_NOT_FOUND : SL_E_NO_MEMORY, "none: no " SL_OPS_ID " or no memory");
    self->host = args->host;
    self->ops = ops;
    self->compute = SL_F32;
    *out = self;
    return SL_OK;
}

static void destroy(sl_instance *self) { free(self); }

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    (void)err;
    self->compute = limits->compute;
    return SL_OK;
}

static void deactivate(sl_instance *self) { (void)self; }

static sl_status claim(sl_instance *self, const sl_linear_group *group, sl_quant_claim *out, sl_error *err) {
    (void)self;
    for (int32_t i = 0; i < group->n; i++)
        if (group->linears[i]->weight.data == NULL)
            return sl_fail(err, SL_E_INVALID,
                           "none: %s is packed in the checkpoint: choose the plugin that reads its form",
                           group->linears[i]->name);
    sl_dtype dtype = group->linears[0]->weight.dtype;
    out->format = sl_dtype_name(dtype);
    out->bits_per_weight = sl_dtype_bits(dtype);
    out->flags = SL_QUANT_FUSES_BIAS | SL_QUANT_FUSES_RESIDUAL;
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
    sl_quant_handle *h = calloc(1, sizeof *h);
    if (h == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "none: out of memory");
    h->owner = self;
    h->group = group;
    *out = h;
    return SL_OK;
}

static void unbind(sl_instance *self, sl_quant_handle *handle) {
    (void)self;
    free(handle);
}

static sl_status matmul(sl_quant_handle *h, const sl_quant_matmul *args) {
    sl_tensor y = args->y;
    sl_op_gemm op = {
        SL_SIZE(sl_op_gemm), args->lane,        &args->x, &h->group->linears[args->which]->weight, &y, args->bias,
        args->residual,      h->owner->compute, 0};
    return h->owner->ops->gemm(h->owner->host, &op);
}

static const sl_quant quant = {
    .struct_size = SL_SIZE(sl_quant),
    .claim = claim,
    .pack_size = pack_size,
    .pack_into = pack_into,
    .bind = bind,
    .unbind = unbind,
    .matmul = matmul,
};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_QUANT_ID) == 0 ? &quant : NULL;
}

static const sl_param_def *const params[] = {NULL};
static const char *const roles[] = {"quant", NULL};
static const char *const needs[] = {SL_OPS_ID, NULL};
static const char *const nothing[] = {NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "none",
    .roles = roles,
    .version = "0.1.0",
    .summary = "weights as the checkpoint holds them, used in place",
    .vendor = "sluice",
    .license = "Apache-2.0",
    .params = params,
    .needs = needs,
    .wants = nothing,
    .provides = nothing,
    .devices = SL_ON_CPU,
    .create = create,
    .destroy = destroy,
    .activate = activate,
    .deactivate = deactivate,
    .query = query,
};

SL_PACKAGE(&plugin)
