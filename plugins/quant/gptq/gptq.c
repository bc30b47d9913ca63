/* gptq - weights of 2, 3, 4 or 8 bits, chosen column by column so that later columns make up for the error of earlier
 * ones, weighted with the second moments of the inputs. "GPTQ", Frantar et al., arXiv 2210.17323.
 *
 * Packs in a calibration run (`sluice quantize`), serves from its artifact or from a checkpoint of AutoGPTQ's layout.
 * This file is the plugin; the algorithm is in gptq_quant.c, files in gptq_file.c, memory in gptq_blob.c. */
#include "gptq.h"

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
    sl_pack_env env;
    gptq_settings settings;
    sl_decoder decoder;
    sl_packed_file file;
    const sl_model_info *model;
    int calibrates;
    uint32_t compute;
    char format[48], parameters[256];
    sl_cost_sizes sizes;
    /* what the last quantize made, and its tensors */
    const sl_linear_group *quantized;
    gptq_linear result[MAX_LINEARS];
    sl_pack_tensor tensor[MAX_LINEARS * GPTQ_TENSORS];
    char name[MAX_LINEARS * GPTQ_TENSORS][SL_PACKED_NAME_BYTES];
    const sl_pack_tensor *tensors[MAX_LINEARS * GPTQ_TENSORS];
};

/* A matrix of a bound group. */
typedef struct bound {
    gptq_header header;
    const uint8_t *data;   /* NULL: the checkpoint's own tensor */
    const uint32_t *order; /* NULL: as it is */
} bound;

struct sl_quant_handle {
    sl_instance *owner;
    const sl_linear_group *group;
    bound linear[MAX_LINEARS];
};

void gptq_linear_free(const sl_pack_env *env, gptq_linear *l) {
    sl_pack_release(env, l->code);
    sl_pack_release(env, l->scale);
    sl_pack_release(env, l->zero);
    sl_pack_release(env, l->order);
    *l = (gptq_linear){0};
}

/* ---- life ----------------------------------------------------------------------------------------------------------
 */

/* Without a file the weights are in the checkpoint, or there are none. */
static sl_status need_weights(const sl_instance *self, sl_error *err) {
    if (self->calibrates || self->file.path != NULL ||
        sl_packed_file_has(&self->file, "model.layers.0.self_attn.q_proj", ".qweight"))
        return SL_OK;
    return sl_fail(
        err, SL_E_INVALID,
        "gptq packs with data: set artifact to what `sluice quantize --config THIS --text FILE -o OUT` makes "
        "(the checkpoint holds no gptq tensors either)");
}

static sl_status start(sl_instance *self, const sl_create_args *args, sl_error *err) {
    const sl_host *host = args->host;
    self->model = args->model;
    self->env.host = host;
    SL_TRY(sl_host_require(host, "gptq", SL_OPS_ID, SL_FIELD_END(sl_ops, q_pack_codes), (const void **)&self->env.ops,
                           err));
    SL_TRY(sl_decoder_init(&self->decoder, host, "gptq", err));
    self->env.mem = self->decoder.mem;
    self->env.threads = self->decoder.threads;
    gptq_read_settings(&self->settings, args->params);
    if (self->settings.group_size == 0)
        return sl_fail(err, SL_E_RANGE, "group_size = 0: a number of inputs, or -1 for the whole row");
    if (self->settings.static_groups && self->settings.group_size < 0)
        return sl_fail(err, SL_E_INVALID, "static_groups = yes with group_size = -1: the whole row is static anyway");
    gptq_write_texts(&self->settings, self->format, sizeof self->format, self->parameters, sizeof self->parameters);
    self->calibrates = host->query(host, SL_CALIBRATION_ID) != NULL;
    SL_TRY(sl_packed_file_open(&self->file, host, "gptq", self->parameters, args->model,
                               self->calibrates ? NULL : sl_param_text(args->params, "artifact"), err));
    SL_TRY(need_weights(self, err));
    sl_packed_file_rest(&self->file);
    return SL_OK;
}

static void destroy(sl_instance *self) {
    if (self == NULL)
        return;
    sl_packed_file_close(&self->file);
    free(self->sizes.bytes);
    free(self);
}

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    sl_instance *self = calloc(1, sizeof *self);
    if (self == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "gptq: no memory");
    sl_status s = start(self, args, err);
    if (s < 0)
        destroy(self);
    else
        *out = self;
    return s;
}

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    self->compute = limits->compute;
    sl_status s = sl_decoder_activate(&self->decoder, self->model, limits);
    return s < 0 ? sl_fail(err, s, "no scratch for one row of weights") : SL_OK;
}

static void drop_tensors(sl_instance *self) {
    for (int i = 0; i < MAX_LINEARS * GPTQ_TENSORS; i++) {
        sl_pack_release(&self->env, self->tensor[i].tensor.data);
        self->tensor[i] = (sl_pack_tensor){0};
    }
}

static void drop_result(sl_instance *self) {
    drop_tensors(self);
    for (int i = 0; i < MAX_LINEARS; i++)
        gptq_linear_free(&self->env, &self->result[i]);
    self->quantized = NULL;
}

static void deactivate(sl_instance *self) {
    drop_result(self);
    sl_decoder_deactivate(&self->decoder);
}

/* ---- packing with data ---------------------------------------------------------------------------------------------
 */

static int stays(const sl_linear_group *group) { return strcmp(group->name, "head") == 0; }

static sl_status wants(sl_instance *self, const sl_linear_group *group, sl_calibration_wants *out, sl_error *err) {
    (void)err;
    out->kinds = SL_CALIBRATION_HESSIAN;
    out->in_order = (uint32_t)self->settings.true_sequential;
    return stays(group) ? SL_SKIPPED : SL_OK;
}

static sl_status quantize(sl_instance *self, const sl_linear_group *group, const sl_calibration *data, sl_error *err) {
    double loss;
    drop_result(self);
    if (group->n > MAX_LINEARS || data->hessian == NULL)
        return sl_fail(err, SL_E_INVALID, "a group of %d linears, or no Hessian", group->n);
    sl_status s = gptq_quantize(&self->env, &self->settings, group, data, self->result, &loss, err);
    if (s < 0)
        drop_result(self);
    else
        self->quantized = group;
    if (s >= 0)
        sl_logf(self->env.host, SL_LOG_INFO, "%s of layer %d: error %.6g a row of input", group->name, group->layer,
                data->n_rows > 0 ? loss / (double)data->n_rows : 0.0);
    return s;
}

static sl_status tensors(sl_instance *self, const sl_linear_group *group, const sl_pack_tensor *const **out, int32_t *n,
                         sl_error *err) {
    if (self->quantized != group)
        return sl_fail(err, SL_E_INVALID, "%s was not quantised last", group->name);
    drop_tensors(self);
    for (int32_t i = 0; i < group->n; i++)
        SL_TRY(gptq_write(&self->env, &self->settings, group->linears[i], &self->result[i],
                          self->tensor + i * GPTQ_TENSORS, self->name + i * GPTQ_TENSORS, err));
    *n = group->n * GPTQ_TENSORS;
    for (int32_t i = 0; i < *n; i++)
        self->tensors[i] = &self->tensor[i];
    *out = self->tensors;
    return SL_OK;
}

static const char *parameters(sl_instance *self) { return self->parameters; }

/* ---- claiming, packing ---------------------------------------------------------------------------------------------
 */

/* Matrices of a group: what quantize made, borrowed, or out of the file. list is freed by drop_list. */
static sl_status get_list(sl_instance *self, const sl_linear_group *group, int with_codes, gptq_linear *list,
                          sl_error *err) {
    memset(list, 0, sizeof *list * MAX_LINEARS);
    if (group->n > MAX_LINEARS)
        return sl_fail(err, SL_E_INVALID, "gptq: a group of %d linears", group->n);
    if (self->calibrates && self->quantized != group)
        return sl_fail(err, SL_E_INVALID, "%s is not quantised yet", group->name);
    SL_TRY(sl_packed_file_wake(&self->file, err));
    for (int32_t i = 0; i < group->n; i++) {
        if (self->calibrates) {
            list[i] = self->result[i];
            continue;
        }
        SL_TRY(sl_packed_file_check_source(&self->file, group->linears[i], err));
        SL_TRY(gptq_read(&self->env, &self->settings, &self->file, group->linears[i], with_codes, &list[i], err));
    }
    return SL_OK;
}

static void drop_list(sl_instance *self, gptq_linear *list) {
    for (int i = 0; i < MAX_LINEARS && !self->calibrates; i++)
        gptq_linear_free(&self->env, &list[i]);
}

static int64_t padded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

static int same_order(const gptq_linear *a, const gptq_linear *b) {
    return a->order != NULL && b->order != NULL && a->k == b->k &&
           memcmp(a->order, b->order, sizeof *a->order * (size_t)a->k) == 0;
}

/* Headers, then for each matrix its order, unless the one before has the same, and its data. */
static int64_t lay_out(const sl_instance *self, const sl_linear_group *group, const gptq_linear *list,
                       gptq_header *headers) {
    int64_t at = padded(group->n * (int64_t)sizeof *headers);
    for (int32_t i = 0; i < group->n; i++) {
        int64_t bytes = gptq_data_bytes(&self->env, &list[i], &headers[i]);
        if (i > 0 && same_order(&list[i], &list[i - 1]))
            headers[i].order_at = headers[i - 1].order_at;
        else if (list[i].order != NULL) {
            headers[i].order_at = at;
            at += padded(list[i].k * (int64_t)sizeof *list[i].order);
        }
        headers[i].data_at = at;
        at += padded(bytes);
    }
    return at;
}

static sl_status pack_size(sl_instance *self, const sl_linear_group *group, int64_t *bytes, sl_error *err) {
    gptq_linear list[MAX_LINEARS];
    gptq_header headers[MAX_LINEARS];
    *bytes = 0;
    if (stays(group))
        return SL_OK;
    sl_status s = get_list(self, group, 0, list, err);
    if (s >= 0)
        *bytes = lay_out(self, group, list, headers);
    drop_list(self, list);
    return s;
}

static sl_status claim(sl_instance *self, const sl_linear_group *group, sl_quant_claim *out, sl_error *err) {
    int64_t bytes, weights = 0;
    const sl_tensor *w = &group->linears[0]->weight;
    out->flags = SL_QUANT_FUSES_BIAS | SL_QUANT_FUSES_RESIDUAL;
    out->x_dtype = SL_F32;
    out->format = stays(group) ? sl_dtype_name(w->dtype) : self->format;
    out->bits_per_weight = sl_dtype_bits(w->dtype);
    if (stays(group))
        return w->data != NULL
                   ? SL_OK
                   : sl_fail(err, SL_E_UNIMPLEMENTED, "%s: a packed head is not supported", group->linears[0]->name);
    SL_TRY(pack_size(self, group, &bytes, err));
    for (int32_t i = 0; i < group->n; i++)
        weights += group->linears[i]->weight.shape[0] * group->linears[i]->weight.shape[1];
    out->bits_per_weight = 8.0 * (double)bytes / (double)weights;
    return SL_OK;
}

static sl_status pack_into(sl_instance *self, const sl_linear_group *group, void *blob, sl_error *err) {
    gptq_linear list[MAX_LINEARS];
    gptq_header headers[MAX_LINEARS];
    char *base = blob;
    sl_status s = get_list(self, group, 1, list, err);
    if (s >= 0) {
        memset(base, 0, (size_t)lay_out(self, group, list, headers));
        memcpy(base, headers, sizeof *headers * (size_t)group->n);
    }
    for (int32_t i = 0; s >= 0 && i < group->n; i++) {
        if (list[i].order != NULL)
            memcpy(base + headers[i].order_at, list[i].order, sizeof *list[i].order * (size_t)list[i].k);
        s = gptq_data_write(&self->env, &headers[i], &list[i], base + headers[i].data_at, err);
        if (s < 0)
            sl_fail_within(err, s, "%s", group->linears[i]->name);
    }
    drop_list(self, list);
    return s;
}

/* ---- multiplying ---------------------------------------------------------------------------------------------------
 */

static sl_status bind(sl_instance *self, const sl_linear_group *group, const void *blob, sl_quant_handle **out,
                      sl_error *err) {
    sl_quant_handle *h = group->n <= MAX_LINEARS ? calloc(1, sizeof *h) : NULL;
    if (h == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "gptq: a group of %d linears, or out of memory", group->n);
    h->owner = self;
    h->group = group;
    for (int32_t i = 0; i < group->n && !stays(group); i++) {
        bound *b = &h->linear[i];
        memcpy(&b->header, (const char *)blob + i * (int64_t)sizeof b->header, sizeof b->header);
        b->data = (const uint8_t *)blob + b->header.data_at;
        if (b->header.order_at > 0)
            b->order = (const uint32_t *)(const void *)((const char *)blob + b->header.order_at);
        if (b->order != NULL && sl_decoder_widen(&self->decoder, group->in) < 0) {
            free(h);
            return sl_fail(err, SL_E_NO_MEMORY, "gptq: no memory for %lld reordered inputs", (long long)group->in);
        }
    }
    sl_packed_file_rest(&self->file);
    *out = h;
    return SL_OK;
}

static void unbind(sl_instance *self, sl_quant_handle *handle) {
    (void)self;
    free(handle);
}

/* The input in the order of the group's matrices, which share it as they share the Hessian. */
static sl_status prepare(sl_quant_handle *h, const sl_quant_input *in, const sl_quant_prepared **out) {
    *out = NULL;
    if (h->linear[0].order != NULL) {
        sl_decoder_order(&h->owner->decoder, &in->x, h->linear[0].order, 1);
        *out = (const sl_quant_prepared *)h->linear[0].order;
    }
    return SL_OK;
}

static sl_status matmul(sl_quant_handle *h, const sl_quant_matmul *args) {
    const bound *b = &h->linear[args->which];
    sl_instance *self = h->owner;
    sl_tensor y = args->y;
    if (b->data == NULL) {
        sl_op_gemm op = {
            SL_SIZE(sl_op_gemm), args->lane,    &args->x, &h->group->linears[args->which]->weight, &y, args->bias,
            args->residual,      self->compute, 0, 0, 0};
        return self->env.ops->gemm(self->env.host, &op);
    }
    sl_tensor x = sl_decoder_order(&self->decoder, &args->x, b->order, args->prepared == NULL);
    if (b->header.is_decoded) {
        gptq_rows rows = {&b->header, b->data};
        sl_decoded m = {b->header.n, b->header.k, gptq_decode_row, &rows};
        return sl_decoded_matmul(&self->decoder, &m, args, &x);
    }
    sl_q_format f = gptq_q_format(&b->header);
    sl_op_qgemm op = {SL_SIZE(sl_op_qgemm), args->lane, &f, b->data, &x, &y, args->bias, args->residual, 0, 0};
    return self->env.ops->qgemm(self->env.host, &op);
}

static const sl_quant quant = {.struct_size = SL_SIZE(sl_quant),
                               .claim = claim,
                               .pack_size = pack_size,
                               .pack_into = pack_into,
                               .bind = bind,
                               .unbind = unbind,
                               .prepare = prepare,
                               .matmul = matmul};

static const sl_quant_packer packer = {SL_SIZE(sl_quant_packer), wants, quantize, tensors, parameters};

/* Bytes as they are in the file's matrices: ranges, orders are data. */
static sl_status cost_linear(sl_instance *self, sl_cost_linear *io, sl_error *err) {
    if (stays(io->group))
        return SL_OK;
    double *size = sl_cost_size_of(&self->sizes, self->model, io->group);
    if (size == NULL)
        return SL_E_NO_MEMORY;
    if (*size == 0) { /* not asked whether the file was made from these weights: a rewriter changes them on their way */
        gptq_linear list[MAX_LINEARS] = {0};
        gptq_header headers[MAX_LINEARS];
        sl_status s = io->group->n <= MAX_LINEARS ? sl_packed_file_wake(&self->file, err) : SL_E_INVALID;
        for (int32_t i = 0; s >= 0 && i < io->group->n; i++)
            s = gptq_read(&self->env, &self->settings, &self->file, io->group->linears[i], 0, &list[i], err);
        if (s >= 0)
            *size = (double)lay_out(self, io->group, list, headers);
        for (int i = 0; i < MAX_LINEARS; i++)
            gptq_linear_free(&self->env, &list[i]);
        SL_TRY(s);
    }
    sl_cost_packed(io, *size);
    return SL_OK;
}

static const sl_cost cost = {.struct_size = SL_SIZE(sl_cost), .linear = cost_linear};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_QUANT_ID) == 0          ? (const void *)&quant
           : strcmp(id, SL_QUANT_PACKER_ID) == 0 ? (const void *)&packer
           : strcmp(id, SL_COST_ID) == 0         ? (const void *)&cost
                                                 : NULL;
}

/* ---- description ---------------------------------------------------------------------------------------------------
 */

static const char *const roles[] = {"quant", NULL};
static const char *const needs[] = {SL_OPS_ID, SL_MODEL_ID, SL_ARTIFACT_ID, SL_CALIBRATION_ID, NULL};
static const char *const nothing[] = {NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "gptq",
    .roles = roles,
    .version = "0.1.0",
    .summary = "2, 3, 4 or 8 bits by groups with error feedback; packed with calibration data",
    .paper = "GPTQ, arXiv 2210.17323",
    .vendor = "sluice",
    .license = "Apache-2.0",
    .params = gptq_params,
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
