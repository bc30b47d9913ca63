/* none - linears as the checkpoint holds them, multiplied in place by the host's kernel: f32, f16 or bf16 weights, f32
 * or bf16 products. The yardstick of the family. On a device the linears of a group stand one behind the other, so that
 * all of them are one matrix. */
#include "sluice/cost.h"
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
    int on_device;
};

struct sl_quant_handle {
    sl_instance *owner;
    const sl_linear_group *group;
    sl_tensor all; /* on a device: [sum of out, in] */
};

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    const sl_ops *ops = sl_host_service(args->host, SL_OPS_ID, SL_FIELD_END(sl_ops, gemm));
    sl_instance *self = ops != NULL ? calloc(1, sizeof *self) : NULL;
    if (self == NULL)
        return sl_fail(err, ops == NULL ? SL_E_NOT_FOUND : SL_E_NO_MEMORY, "none: no " SL_OPS_ID " or no memory");
    self->host = args->host;
    self->ops = ops;
    self->compute = SL_F32;
    self->on_device = args->scope != NULL && args->scope->device == SL_DEVICE_CUDA;
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
    if (self->on_device) {
        for (int32_t i = 1; i < group->n; i++)
            if (group->linears[i]->weight.dtype != dtype)
                return sl_fail(err, SL_E_UNIMPLEMENTED, "none: %s and %s have different dtypes: on a GPU they are one",
                               group->linears[0]->name, group->linears[i]->name);
        out->flags |= SL_QUANT_FUSES_GROUP | SL_QUANT_FUSES_ACT_MUL;
        out->x_dtype = SL_BF16;
    }
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

/* The linears of a group as one matrix. */
static sl_status join(const sl_linear_group *group, sl_tensor *all, sl_error *err) {
    *all = group->linears[0]->weight;
    int64_t bytes = all->shape[1] * (sl_dtype_bits(all->dtype) / 8);
    for (int32_t i = 0; i < group->n; i++) {
        const sl_tensor *w = &group->linears[i]->weight;
        if (w->device != SL_DEVICE_CUDA || !sl_tensor_is_contiguous(w) ||
            (i > 0 && (const char *)w->data != (const char *)all->data + all->shape[0] * bytes))
            return sl_fail(err, SL_E_INVALID, "none: %s does not stand behind %s in the memory of the device",
                           group->linears[i]->name, group->linears[i > 0 ? i - 1 : 0]->name);
        all->shape[0] += i > 0 ? w->shape[0] : 0;
    }
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
    sl_status s = self->on_device ? join(group, &h->all, err) : SL_OK;
    if (s < 0)
        free(h);
    else
        *out = h;
    return s;
}

static void unbind(sl_instance *self, sl_quant_handle *handle) {
    (void)self;
    free(handle);
}

static sl_status matmul(sl_quant_handle *h, const sl_quant_matmul *args) {
    sl_tensor y = args->y;
    int whole = h->owner->on_device && (args->which == SL_QUANT_ALL || args->act_mul);
    sl_op_gemm op = {.struct_size = SL_SIZE(sl_op_gemm),
                     .lane = args->lane,
                     .x = &args->x,
                     .w = whole ? &h->all : &h->group->linears[args->which]->weight,
                     .y = &y,
                     .bias = args->bias,
                     .residual = args->residual,
                     .compute = h->owner->compute,
                     .act_mul = args->act_mul,
                     .act = args->act};
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

/* Weights as they are: what the host begins with. */
static sl_status cost_linear(sl_instance *self, sl_cost_linear *io, sl_error *err) {
    (void)self, (void)io, (void)err;
    return SL_OK;
}

static const sl_cost cost = {.struct_size = SL_SIZE(sl_cost), .linear = cost_linear};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_QUANT_ID) == 0 ? (const void *)&quant : strcmp(id, SL_COST_ID) == 0 ? &cost : NULL;
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
    .devices = SL_ON_CPU | SL_ON_CUDA,
    .create = create,
    .destroy = destroy,
    .activate = activate,
    .deactivate = deactivate,
    .query = query,
};

SL_PACKAGE(&plugin)
