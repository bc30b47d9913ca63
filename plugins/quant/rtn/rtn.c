/* rtn - round to nearest: integers of 8 or 4 bits with a scale for each group of inputs. Needs no data; packs at load.
 *
 * The baseline of every weight quantiser (GPTQ, arXiv 2210.17323, section 4, measures against it). Rounding is to
 * nearest even, scales are stored in f16 and codes are computed with the rounded scale, so that packer and kernel
 * agree. Packed weights are multiplied packed. The output head stays as it is unless `head = yes`. On a device a group
 * of linears is packed as one matrix, and `format = e4m3` rounds weights and inputs to 8-bit floats. */
#include "sluice/cost.h"
#include "sluice/ops.h"
#include "sluice/quant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sl_cost.h"
#include "sl_error.h"
#include "sl_host_util.h"
#include "sl_params.h"
#include "sl_tensor.h"

enum { MAX_LINEARS = 3 };

struct sl_instance {
    const sl_host *host;
    const sl_ops *ops;
    int64_t bits, group;
    int asymmetric, head;
    int on_device, is_e4m3;
    const sl_exec *exec; /* on a device: weights may be there already */
    uint32_t compute;
    char format[32];
};

struct sl_quant_handle {
    sl_instance *owner;
    const sl_linear_group *group;
    sl_q_format format[MAX_LINEARS]; /* on a device: the first one, of all linears together */
    const char *blob[MAX_LINEARS];   /* NULL: the checkpoint's own tensor */
};

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    const sl_ops *ops = sl_host_service(args->host, SL_OPS_ID, SL_FIELD_END(sl_ops, qgemm));
    sl_instance *self = ops != NULL ? calloc(1, sizeof *self) : NULL;
    if (self == NULL)
        return sl_fail(err, ops == NULL ? SL_E_NOT_FOUND : SL_E_NO_MEMORY, "rtn: no " SL_OPS_ID " or no memory");
    self->host = args->host;
    self->ops = ops;
    self->bits = sl_param_int(args->params, "bits") == 0 ? 8 : 4;
    self->group = sl_param_int(args->params, "group");
    self->asymmetric = sl_param_int(args->params, "scheme") == 1;
    self->head = sl_param_int(args->params, "head") != 0;
    self->compute = SL_F32;
    self->on_device = args->scope != NULL && args->scope->device == SL_DEVICE_CUDA;
    self->exec = self->on_device ? sl_host_service(args->host, SL_EXEC_ID, SL_FIELD_END(sl_exec, sync)) : NULL;
    self->is_e4m3 = sl_param_int(args->params, "format") == 1;
    if ((self->is_e4m3 && !self->on_device) || (self->on_device && self->exec == NULL)) {
        sl_status s = self->on_device
                          ? sl_fail(err, SL_E_NOT_FOUND, "rtn: the host offers no " SL_EXEC_ID)
                          : sl_fail(err, SL_E_UNIMPLEMENTED, "rtn: format = e4m3 is multiplied on a GPU only");
        free(self);
        return s;
    }
    if (self->is_e4m3) {
        self->bits = 8;
        self->group = 0;
        self->asymmetric = 0;
        snprintf(self->format, sizeof self->format, "e4m3 row");
    } else if (self->group > 0)
        snprintf(self->format, sizeof self->format, "int%d%s g%d", (int)self->bits, self->asymmetric ? "a" : "",
                 (int)self->group);
    else
        snprintf(self->format, sizeof self->format, "int%d%s row", (int)self->bits, self->asymmetric ? "a" : "");
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

/* Packed matrices of a group: its linears, or on a device all of them together. */
static int32_t n_matrices(const sl_instance *self, const sl_linear_group *group) {
    return self->on_device ? 1 : group->n;
}

static sl_q_format format_of(const sl_instance *self, const sl_linear_group *group, int32_t i) {
    int64_t k = group->linears[i]->weight.shape[1], n = group->linears[i]->weight.shape[0];
    for (int32_t j = 1; self->on_device && j < group->n; j++)
        n += group->linears[j]->weight.shape[0];
    return (sl_q_format){.struct_size = SL_SIZE(sl_q_format),
                         .n = n,
                         .k = k,
                         .group = self->group > 0 ? self->group : self->on_device ? (k + 31) / 32 * 32 : k,
                         .bits = (uint32_t)self->bits,
                         .asymmetric = (uint32_t)self->asymmetric,
                         .target = self->on_device ? SL_Q_CUDA : SL_Q_CPU,
                         .kind = self->is_e4m3 ? SL_Q_E4M3 : SL_Q_INTEGER};
}

static int stays(const sl_instance *self, const sl_linear_group *group) {
    return !self->head && strcmp(group->name, "head") == 0;
}

static int64_t padded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

static sl_status claim(sl_instance *self, const sl_linear_group *group, sl_quant_claim *out, sl_error *err) {
    const sl_tensor *w = &group->linears[0]->weight;
    for (int32_t i = 0; i < group->n; i++)
        if (group->linears[i]->weight.data == NULL)
            return sl_fail(err, SL_E_INVALID,
                           "rtn: %s is packed in the checkpoint: choose the plugin that reads its form",
                           group->linears[i]->name);
    out->flags = SL_QUANT_FUSES_BIAS | SL_QUANT_FUSES_RESIDUAL;
    out->x_dtype = SL_F32;
    if (self->on_device) {
        out->flags |= stays(self, group) ? 0 : SL_QUANT_FUSES_GROUP | SL_QUANT_FUSES_ACT_MUL;
        out->x_dtype = SL_BF16;
    }
    out->format = stays(self, group) ? sl_dtype_name(w->dtype) : self->format;
    if (stays(self, group)) {
        out->bits_per_weight = sl_dtype_bits(w->dtype);
        return SL_OK;
    }
    for (int32_t i = 0; i < n_matrices(self, group); i++) {
        sl_q_format f = format_of(self, group, i);
        int64_t bytes = self->ops->q_bytes(&f);
        if (bytes == 0)
            return sl_fail(err, SL_E_INVALID, "rtn: %s has %lld inputs: no packed format has groups of %lld",
                           group->linears[i]->name, (long long)f.k, (long long)f.group);
        out->bits_per_weight = 8.0 * (double)bytes / ((double)f.n * (double)f.k);
    }
    return SL_OK;
}

static sl_status pack_size(sl_instance *self, const sl_linear_group *group, int64_t *bytes, sl_error *err) {
    (void)err;
    *bytes = 0;
    for (int32_t i = 0; i < n_matrices(self, group) && !stays(self, group); i++) {
        sl_q_format f = format_of(self, group, i);
        *bytes += padded(self->ops->q_bytes(&f));
    }
    return SL_OK;
}

/* A group of the device: its linears one below the other, brought together on the host, packed as one matrix. */
static sl_status pack_together(sl_instance *self, const sl_linear_group *group, void *blob, sl_error *err) {
    sl_q_format f = format_of(self, group, 0);
    sl_tensor all = group->linears[0]->weight;
    int64_t row = f.k * (sl_dtype_bits(all.dtype) / 8);
    const sl_lane *lane = self->exec->lane(self->host, SL_DEVICE_CUDA, 0);
    char *rows = lane != NULL ? malloc((size_t)(f.n * row)) : NULL, *at = rows;
    if (rows == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "rtn: no lane, or no memory for %lld bytes of weights to pack",
                       (long long)(f.n * row));
    sl_status s = SL_OK;
    for (int32_t i = 0; s >= 0 && i < group->n; i++) {
        const sl_tensor *w = &group->linears[i]->weight;
        int64_t bytes = w->shape[0] * row;
        if (w->dtype != all.dtype || !sl_tensor_is_contiguous(w))
            s = sl_fail(err, SL_E_UNIMPLEMENTED, "rtn: %s is not of the dtype of %s", group->linears[i]->name,
                        group->linears[0]->name);
        else if (w->device == SL_DEVICE_CUDA)
            s = self->exec->copy(lane, at, w->data, bytes);
        else
            memcpy(at, w->data, (size_t)bytes);
        at += bytes;
    }
    if (s >= 0)
        s = self->exec->sync(lane, err);
    const int64_t shape[2] = {f.n, f.k};
    if (s >= 0)
        s = sl_tensor_make(&all, rows, all.dtype, SL_DEVICE_CPU, 2, shape);
    if (s >= 0 && (s = self->ops->q_pack(self->host, &f, &all, blob, err)) < 0)
        sl_fail_within(err, s, "rtn: %s", group->linears[0]->name);
    free(rows);
    return s;
}

static sl_status pack_into(sl_instance *self, const sl_linear_group *group, void *blob, sl_error *err) {
    char *at = blob;
    if (self->on_device && !stays(self, group))
        return pack_together(self, group, blob, err);
    for (int32_t i = 0; i < group->n && !stays(self, group); i++) {
        sl_q_format f = format_of(self, group, i);
        sl_status s = self->ops->q_pack(self->host, &f, &group->linears[i]->weight, at, err);
        if (s < 0)
            return sl_fail_within(err, s, "rtn: %s", group->linears[i]->name);
        at += padded(self->ops->q_bytes(&f));
    }
    return SL_OK;
}

static sl_status bind(sl_instance *self, const sl_linear_group *group, const void *blob, sl_quant_handle **out,
                      sl_error *err) {
    sl_quant_handle *h = group->n <= MAX_LINEARS ? calloc(1, sizeof *h) : NULL;
    if (h == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "rtn: a group of %d linears, or out of memory", group->n);
    const char *at = blob;
    h->owner = self;
    h->group = group;
    for (int32_t i = 0; i < n_matrices(self, group) && !stays(self, group); i++) {
        h->format[i] = format_of(self, group, i);
        h->blob[i] = at;
        at += padded(self->ops->q_bytes(&h->format[i]));
    }
    *out = h;
    return SL_OK;
}

static void unbind(sl_instance *self, sl_quant_handle *handle) {
    (void)self;
    free(handle);
}

static sl_status matmul(sl_quant_handle *h, const sl_quant_matmul *args) {
    sl_tensor y = args->y;
    int whole = args->which == SL_QUANT_ALL || args->act_mul;
    int32_t which = whole ? 0 : args->which;
    if (h->blob[0] == NULL) {
        sl_op_gemm op = {.struct_size = SL_SIZE(sl_op_gemm),
                         .lane = args->lane,
                         .x = &args->x,
                         .w = &h->group->linears[which]->weight,
                         .y = &y,
                         .bias = args->bias,
                         .residual = args->residual,
                         .compute = h->owner->compute};
        return h->owner->ops->gemm(h->owner->host, &op);
    }
    if (h->owner->on_device && h->group->n > 1 && !whole)
        return SL_E_UNIMPLEMENTED; /* they are one matrix: see claim */
    sl_op_qgemm op = {.struct_size = SL_SIZE(sl_op_qgemm),
                      .lane = args->lane,
                      .format = &h->format[which],
                      .blob = h->blob[which],
                      .x = &args->x,
                      .y = &y,
                      .bias = args->bias,
                      .residual = args->residual,
                      .act_mul = args->act_mul,
                      .act = args->act};
    return h->owner->ops->qgemm(h->owner->host, &op);
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

static sl_status cost_linear(sl_instance *self, sl_cost_linear *io, sl_error *err) {
    int64_t bytes = 0;
    if (stays(self, io->group)) {
        io->fuses = 0;
        return SL_OK;
    }
    for (int32_t i = 0; i < n_matrices(self, io->group); i++) {
        sl_q_format f = format_of(self, io->group, i);
        int64_t packed = self->ops->q_bytes(&f), groups = (f.k + f.group - 1) / f.group;
        if (packed == 0 && !self->on_device)
            return sl_fail(err, SL_E_INVALID, "no packed format has groups of %lld", (long long)f.group);
        if (packed == 0) /* the GPU's kernels are not here: codes, and f16 scales and zeros (of e4m3 f32 scales) */
            packed = f.n * (f.k * f.bits / 8 + (self->is_e4m3 ? 4 : groups * 2 * (1 + (int64_t)f.asymmetric)));
        bytes += padded(packed);
    }
    sl_cost_packed(io, (double)bytes);
    if (self->is_e4m3)
        io->compute = SL_F8_E4M3;
    return SL_OK;
}

static const sl_cost cost = {.struct_size = SL_SIZE(sl_cost), .linear = cost_linear};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_QUANT_ID) == 0 ? (const void *)&quant : strcmp(id, SL_COST_ID) == 0 ? &cost : NULL;
}

static const char *const formats[] = {"integer", "e4m3", NULL};
static const char *const widths[] = {"8", "4", NULL};
static const char *const schemes[] = {"symmetric", "asymmetric", NULL};
static const sl_param_def bits = {SL_SIZE(sl_param_def), "bits", "bits of a weight", "4", widths, 1, 0,
                                  SL_PARAM_ENUM,         0};
static const sl_param_def group = {
    SL_SIZE(sl_param_def), "group", "inputs that share a scale: 32, 64, 128; 0: the whole row", "32", NULL, 0, 1 << 20,
    SL_PARAM_INT,          0};
static const sl_param_def scheme = {SL_SIZE(sl_param_def),
                                    "scheme",
                                    "range of a group: around zero, or from its minimum to its maximum",
                                    "symmetric",
                                    schemes,
                                    1,
                                    0,
                                    SL_PARAM_ENUM,
                                    0};
static const sl_param_def head = {
    SL_SIZE(sl_param_def), "head", "whether the output head is packed too", "no", NULL, 1, 0, SL_PARAM_BOOL, 0};
static const sl_param_def format = {
    SL_SIZE(sl_param_def),
    "format",
    "integer: codes of `bits`; e4m3: 8-bit floats with a scale for each row of weights and of inputs (GPU only)",
    "integer",
    formats,
    1,
    0,
    SL_PARAM_ENUM,
    0};
static const sl_param_def *const params[] = {&bits, &group, &scheme, &head, &format, NULL};
static const char *const roles[] = {"quant", NULL};
static const char *const needs[] = {SL_OPS_ID, NULL};
static const char *const nothing[] = {NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "rtn",
    .roles = roles,
    .version = "0.1.0",
    .summary = "round to nearest: int8 or int4 by groups, packed at load, multiplied packed",
    .paper = "the baseline of GPTQ, arXiv 2210.17323",
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
