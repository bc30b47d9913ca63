/* A quantiser that looks at calibration data instead of using it: all statistics of a group must agree with the rows
 * that were captured, and the rows go into the file, where the test looks at them. Weights stay as they are, except
 * that one layer may be multiplied as if it were zero, so that the test sees who runs on quantised inputs. */
#include "sluice/ops.h"
#include "sluice/packing.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sl_error.h"
#include "sl_host_util.h"
#include "sl_params.h"
#include "sl_tensor.h"

struct sl_instance {
    const sl_host *host;
    const sl_ops *ops;
    int64_t zero;
    int in_order;
    char parameters[64], name[128];
    float *rows;
    sl_pack_tensor tensor;
    const sl_pack_tensor *list[1];
};

struct sl_quant_handle {
    sl_instance *owner;
    const sl_linear_group *group;
};

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    sl_instance *self = calloc(1, sizeof *self);
    self->host = args->host;
    self->zero = sl_param_int(args->params, "zero");
    self->in_order = sl_param_bool(args->params, "in_order");
    snprintf(self->parameters, sizeof self->parameters, "zero=%d", (int)self->zero);
    *out = self;
    return sl_host_require(args->host, "probe", SL_OPS_ID, SL_FIELD_END(sl_ops, gemm), (const void **)&self->ops, err);
}

static void destroy(sl_instance *self) { free(self); }

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    (void)self, (void)limits, (void)err;
    return SL_OK;
}

static void deactivate(sl_instance *self) {
    free(self->rows);
    self->rows = NULL;
}

static sl_status wants(sl_instance *self, const sl_linear_group *group, sl_calibration_wants *out, sl_error *err) {
    (void)err;
    out->kinds = SL_CALIBRATION_SUMS | SL_CALIBRATION_HESSIAN | SL_CALIBRATION_ROWS;
    out->max_rows = 1 << 20;
    out->in_order = (uint32_t)self->in_order;
    return group->layer < 2 || group->layer == 5 ? SL_OK : SL_SKIPPED;
}

static sl_status quantize(sl_instance *self, const sl_linear_group *group, const sl_calibration *d, sl_error *err) {
    int64_t in = group->in, n = d->n_kept;
    if (n != d->n_rows || d->n_samples < 1)
        return sl_fail(err, SL_E_INTERNAL, "%lld rows of %lld were kept", (long long)n, (long long)d->n_rows);
    for (int64_t i = 0; i < in; i++) {
        double sum = 0, sum_abs = 0, max = 0;
        for (int64_t t = 0; t < n; t++) {
            double x = d->rows[t * in + i];
            sum += x, sum_abs += fabs(x), max = fabs(x) > max ? fabs(x) : max;
        }
        if (!(fabs(sum - d->sum[i]) <= 1e-9 * (sum_abs + 1)) ||
            !(fabs(sum_abs - d->sum_abs[i]) <= 1e-9 * (sum_abs + 1)) || max != d->max_abs[i])
            return sl_fail(err, SL_E_INTERNAL, "%s of layer %d: sums of input %d", group->name, group->layer, (int)i);
    }
    for (int64_t i = 0; i < in; i += 3)
        for (int64_t j = 0; j < in; j += 5) {
            double h = 0, scale = sqrt(d->sum_sq[i] * d->sum_sq[j]);
            for (int64_t t = 0; t < n; t++)
                h += (double)d->rows[t * in + i] * d->rows[t * in + j];
            if (!(fabs(h - d->hessian[i * in + j]) <= 1e-5 * scale + 1e-12) ||
                d->hessian[i * in + j] != d->hessian[j * in + i])
                return sl_fail(err, SL_E_INTERNAL, "%s of layer %d: hessian of %d, %d is %g, rows say %g", group->name,
                               group->layer, (int)i, (int)j, d->hessian[i * in + j], h);
        }
    free(self->rows);
    self->rows = malloc(sizeof *self->rows * (size_t)(n * in));
    memcpy(self->rows, d->rows, sizeof *self->rows * (size_t)(n * in));
    snprintf(self->name, sizeof self->name, "layer%d.%s", group->layer, group->name);
    self->tensor = (sl_pack_tensor){.struct_size = SL_SIZE(sl_pack_tensor), .name = self->name};
    return sl_tensor_make(&self->tensor.tensor, self->rows, SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){n, in});
}

static sl_status tensors(sl_instance *self, const sl_linear_group *group, const sl_pack_tensor *const **out, int32_t *n,
                         sl_error *err) {
    (void)group, (void)err;
    self->list[0] = &self->tensor;
    *out = self->list;
    *n = 1;
    return SL_OK;
}

static const char *parameters(sl_instance *self) { return self->parameters; }

/* ---- plain products
 * -------------------------------------------------------------------------------------------------- */

static sl_status claim(sl_instance *self, const sl_linear_group *group, sl_quant_claim *out, sl_error *err) {
    (void)self, (void)err;
    out->format = "probe";
    out->bits_per_weight = sl_dtype_bits(group->linears[0]->weight.dtype);
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
    (void)blob, (void)err;
    *out = calloc(1, sizeof **out);
    **out = (sl_quant_handle){self, group};
    return SL_OK;
}

static void unbind(sl_instance *self, sl_quant_handle *h) {
    (void)self;
    free(h);
}

static sl_status matmul(sl_quant_handle *h, const sl_quant_matmul *a) {
    sl_tensor y = a->y;
    const sl_tensor *w = &h->group->linears[a->which]->weight;
    sl_op_gemm op = {.struct_size = SL_SIZE(sl_op_gemm),
                     .lane = a->lane,
                     .x = &a->x,
                     .w = w,
                     .y = &y,
                     .bias = a->bias,
                     .residual = a->residual,
                     .compute = SL_F32};
    if (h->group->layer != h->owner->zero)
        return h->owner->ops->gemm(h->owner->host, &op);
    for (int64_t t = 0; t < y.shape[0]; t++)
        for (int64_t i = 0; i < y.shape[1]; i++)
            ((float *)y.data)[t * y.stride[0] + i] =
                a->residual != NULL ? ((const float *)a->residual->data)[t * a->residual->stride[0] + i] : 0;
    return SL_OK;
}

static const sl_quant quant = {.struct_size = SL_SIZE(sl_quant),
                               .claim = claim,
                               .pack_size = pack_size,
                               .pack_into = pack_into,
                               .bind = bind,
                               .unbind = unbind,
                               .matmul = matmul};
static const sl_quant_packer packer = {SL_SIZE(sl_quant_packer), wants, quantize, tensors, parameters};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_QUANT_ID) == 0 ? (const void *)&quant : strcmp(id, SL_QUANT_PACKER_ID) == 0 ? &packer : NULL;
}

static const sl_param_def zero = {
    SL_SIZE(sl_param_def), "zero", "layer that is multiplied as zero", "-2", NULL, -2, 100, SL_PARAM_INT, 0};
static const sl_param_def in_order = {SL_SIZE(sl_param_def), "in_order", "true sequential", "no", NULL, 1, 0,
                                      SL_PARAM_BOOL,         0};
static const sl_param_def *const params[] = {&zero, &in_order, NULL};
static const char *const roles[] = {"quant", NULL};
static const char *const needs[] = {SL_CALIBRATION_ID, NULL};
static const char *const nothing[] = {NULL};
static const sl_plugin plugin = {.struct_size = SL_SIZE(sl_plugin),
                                 .id = "probe",
                                 .roles = roles,
                                 .version = "0.1.0",
                                 .summary = "looks at calibration data",
                                 .paper = "",
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
                                 .query = query};

SL_PACKAGE(&plugin)
