/* spqr - weights of 2 to 4 bits in small groups whose scales and zeros are quantised too, and the few weights that
 * would hurt most in f16 beside them. "SpQR", Dettmers et al., arXiv 2306.03078.
 *
 * Packs in a calibration run (`sluice quantize`), serves from its artifact or from the official layout. This file is
 * the plugin; the algorithm is in spqr_quant.c, memory in spqr_pack.c, files in spqr_file.c and spqr_official.c. */
#include "spqr.h"

#include <math.h>
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
    spqr_settings settings;
    sl_decoder decoder;
    sl_packed_file file;
    const sl_model_info *model;
    int calibrates;
    uint32_t compute;
    char format[48], parameters[256];
    sl_cost_sizes sizes;
    /* the matrices of one group: what quantize made, or the file holds */
    const sl_linear_group *current;
    spqr_matrix matrix[MAX_LINEARS];
    spqr_tensors written[MAX_LINEARS];
    const sl_pack_tensor *tensors[MAX_LINEARS * SPQR_TENSORS];
};

/* Begins the bytes of each matrix in a blob. */
typedef struct header {
    int64_t n, k, group, tile, nnz, order_at, parts_at; /* places from the blob's begin; order_at 0: none */
    int32_t bits, scale_bits, zero_bits, reserved0;
    int64_t reserved1[7];
} header;

struct sl_quant_handle {
    sl_instance *owner;
    const sl_linear_group *group;
    spqr_matrix linear[MAX_LINEARS]; /* codes NULL: the checkpoint's own tensor */
};

/* ---- life ----------------------------------------------------------------------------------------------------------
 */

/* Without a file the weights are in the checkpoint, or there are none. */
static sl_status need_weights(const sl_instance *self, sl_error *err) {
    if (self->calibrates || self->file.path != NULL ||
        sl_packed_file_has(&self->file, "model.layers.0.self_attn.q_proj", ".dense_weights"))
        return SL_OK;
    return sl_fail(
        err, SL_E_INVALID,
        "spqr packs with data: set artifact to what `sluice quantize --config THIS --text FILE -o OUT` makes "
        "(the checkpoint holds no spqr tensors either)");
}

static sl_status start(sl_instance *self, const sl_create_args *args, sl_error *err) {
    const sl_host *host = args->host;
    self->model = args->model;
    SL_TRY(sl_host_require(host, "spqr", SL_OPS_ID, SL_FIELD_END(sl_ops, convert), (const void **)&self->env.ops, err));
    SL_TRY(sl_decoder_init(&self->decoder, host, "spqr", err));
    self->env.host = host;
    self->env.mem = self->decoder.mem;
    self->env.threads = self->decoder.threads;
    spqr_read_settings(&self->settings, args->params);
    SL_TRY(spqr_check_settings(&self->settings, err));
    spqr_write_texts(&self->settings, self->format, sizeof self->format, self->parameters, sizeof self->parameters);
    self->calibrates = host->query(host, SL_CALIBRATION_ID) != NULL;
    SL_TRY(sl_packed_file_open(&self->file, host, "spqr", self->parameters, args->model,
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
        return sl_fail(err, SL_E_NO_MEMORY, "spqr: no memory");
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

static void drop_written(sl_instance *self) {
    for (int i = 0; i < MAX_LINEARS; i++) {
        sl_pack_release(&self->env, self->written[i].owned);
        self->written[i] = (spqr_tensors){.n = 0};
    }
}

static void drop(sl_instance *self) {
    drop_written(self);
    for (int i = 0; i < MAX_LINEARS; i++)
        spqr_free(&self->env, &self->matrix[i]);
    self->current = NULL;
}

static void deactivate(sl_instance *self) {
    drop(self);
    sl_decoder_deactivate(&self->decoder);
}

/* ---- packing with data ---------------------------------------------------------------------------------------------
 */

static int stays(const sl_linear_group *group) { return strcmp(group->name, "head") == 0; }

static sl_status wants(sl_instance *self, const sl_linear_group *group, sl_calibration_wants *out, sl_error *err) {
    out->kinds = SL_CALIBRATION_HESSIAN;
    out->in_order = (uint32_t)self->settings.true_sequential;
    for (int32_t i = 0; self->settings.writes_official && !stays(group) && i < group->n; i++)
        SL_TRY(spqr_official_fits(&self->settings, group->linears[i], err));
    return stays(group) ? SL_SKIPPED : SL_OK;
}

static sl_status quantize(sl_instance *self, const sl_linear_group *group, const sl_calibration *data, sl_error *err) {
    double loss, outliers = 0, weights = 0;
    drop(self);
    if (group->n > MAX_LINEARS || data->hessian == NULL)
        return sl_fail(err, SL_E_INVALID, "a group of %d linears, or no Hessian", group->n);
    sl_status s = spqr_quantize(&self->env, &self->settings, group, data, self->matrix, &loss, err);
    if (s < 0) {
        drop(self);
        return s;
    }
    self->current = group;
    for (int32_t i = 0; i < group->n; i++) {
        outliers += (double)self->matrix[i].nnz;
        weights += (double)self->matrix[i].n * (double)self->matrix[i].k;
    }
    sl_logf(self->env.host, SL_LOG_INFO, "%s of layer %d: %.2f %% outliers, error %.6g a row of input", group->name,
            group->layer, 100 * outliers / weights, data->n_rows > 0 ? loss / (double)data->n_rows : 0.0);
    return SL_OK;
}

static sl_status tensors(sl_instance *self, const sl_linear_group *group, const sl_pack_tensor *const **out, int32_t *n,
                         sl_error *err) {
    if (self->current != group)
        return sl_fail(err, SL_E_INVALID, "%s was not quantised last", group->name);
    drop_written(self);
    *n = 0;
    for (int32_t i = 0; i < group->n; i++) {
        spqr_tensors *t = &self->written[i];
        SL_TRY(self->settings.writes_official
                   ? spqr_official_write(&self->env, &self->settings, group->linears[i], &self->matrix[i], t, err)
                   : spqr_write(group->linears[i], &self->matrix[i], t, err));
        for (int j = 0; j < t->n; j++)
            self->tensors[(*n)++] = &t->tensor[j];
    }
    *out = self->tensors;
    return SL_OK;
}

static const char *parameters(sl_instance *self) { return self->parameters; }

/* ---- claiming, packing ---------------------------------------------------------------------------------------------
 */

static sl_status read_group(sl_instance *self, const sl_linear_group *group, sl_error *err) {
    if (group->n > MAX_LINEARS)
        return sl_fail(err, SL_E_INVALID, "spqr: a group of %d linears", group->n);
    drop(self);
    SL_TRY(sl_packed_file_wake(&self->file, err));
    for (int32_t i = 0; i < group->n; i++)
        SL_TRY(spqr_read(&self->env, &self->settings, &self->file, group->linears[i], &self->matrix[i], err));
    return SL_OK;
}

static sl_status load(sl_instance *self, const sl_linear_group *group, sl_error *err) {
    if (self->current == group)
        return SL_OK;
    if (self->calibrates)
        return sl_fail(err, SL_E_INVALID, "%s is not quantised yet", group->name);
    SL_TRY(sl_packed_file_wake(&self->file, err));
    for (int32_t i = 0; i < group->n; i++)
        SL_TRY(sl_packed_file_check_source(&self->file, group->linears[i], err));
    SL_TRY(read_group(self, group, err));
    self->current = group;
    return SL_OK;
}

static int64_t padded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

static int same_order(const spqr_matrix *a, const spqr_matrix *b) {
    return a->order != NULL && b->order != NULL && memcmp(a->order, b->order, sizeof *a->order * (size_t)a->k) == 0;
}

/* Headers, then for each matrix its order, unless the one before has the same, and its parts. */
static int64_t lay_out(const sl_linear_group *group, spqr_matrix *list, header *headers) {
    int64_t at = padded(group->n * (int64_t)sizeof *headers);
    for (int32_t i = 0; i < group->n; i++) {
        spqr_matrix *m = &list[i];
        headers[i] = (header){.n = m->n,
                              .k = m->k,
                              .group = m->group,
                              .tile = m->tile,
                              .nnz = m->nnz,
                              .bits = m->bits,
                              .scale_bits = m->scale_bits,
                              .zero_bits = m->zero_bits};
        if (i > 0 && same_order(m, m - 1))
            headers[i].order_at = headers[i - 1].order_at;
        else if (m->order != NULL) {
            headers[i].order_at = at;
            at += padded(m->k * (int64_t)sizeof *m->order);
        }
        headers[i].parts_at = at;
        at += padded(spqr_place(m, NULL, 0));
    }
    return at;
}

static sl_status pack_size(sl_instance *self, const sl_linear_group *group, int64_t *bytes, sl_error *err) {
    header headers[MAX_LINEARS];
    *bytes = 0;
    if (stays(group))
        return SL_OK;
    SL_TRY(load(self, group, err));
    *bytes = lay_out(group, self->matrix, headers);
    return SL_OK;
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

/* Copies the parts of a matrix, all but its order, into a block. */
static void copy_parts(const spqr_matrix *from, void *block) {
    spqr_matrix to = *from;
    int64_t bytes[SPQR_PARTS];
    spqr_place(&to, block, 0);
    spqr_part_bytes(from, bytes);
    const void *const source[] = {from->codes, from->stat, from->second, from->rowptr, from->col, from->val};
    const void *const target[] = {to.codes, to.stat, to.second, to.rowptr, to.col, to.val};
    for (int i = 0; i < SPQR_ORDER; i++)
        if (bytes[i] > 0)
            memcpy((void *)(uintptr_t)target[i], source[i], (size_t)bytes[i]);
}

static sl_status pack_into(sl_instance *self, const sl_linear_group *group, void *blob, sl_error *err) {
    header headers[MAX_LINEARS];
    char *base = blob;
    SL_TRY(load(self, group, err));
    memset(base, 0, (size_t)lay_out(group, self->matrix, headers));
    memcpy(base, headers, sizeof *headers * (size_t)group->n);
    for (int32_t i = 0; i < group->n; i++) {
        const spqr_matrix *m = &self->matrix[i];
        if (m->order != NULL)
            memcpy(base + headers[i].order_at, m->order, sizeof *m->order * (size_t)m->k);
        copy_parts(m, base + headers[i].parts_at);
    }
    return SL_OK;
}

/* ---- multiplying ---------------------------------------------------------------------------------------------------
 */

static sl_status bind(sl_instance *self, const sl_linear_group *group, const void *blob, sl_quant_handle **out,
                      sl_error *err) {
    sl_quant_handle *h = group->n <= MAX_LINEARS ? calloc(1, sizeof *h) : NULL;
    if (h == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "spqr: a group of %d linears, or out of memory", group->n);
    h->owner = self;
    h->group = group;
    for (int32_t i = 0; i < group->n && !stays(group); i++) {
        header head;
        const char *base = blob;
        spqr_matrix *m = &h->linear[i];
        memcpy(&head, base + i * (int64_t)sizeof head, sizeof head);
        spqr_settings shape = {.bits = head.bits,
                               .scale_bits = head.scale_bits,
                               .zero_bits = head.zero_bits,
                               .group = head.group,
                               .tile = head.tile};
        spqr_shape(m, head.n, head.k, &shape);
        m->nnz = head.nnz;
        spqr_place(m, (void *)(uintptr_t)(base + head.parts_at), 0);
        m->order = head.order_at > 0 ? (const void *)(base + head.order_at) : NULL;
        if (m->order != NULL && sl_decoder_widen(&self->decoder, group->in) < 0) {
            free(h);
            return sl_fail(err, SL_E_NO_MEMORY, "spqr: no memory for %lld reordered inputs", (long long)group->in);
        }
    }
    if (!self->calibrates) /* the blob has all of it; a calibration still writes the file */
        drop(self);
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
    const spqr_matrix *m = &h->linear[args->which];
    sl_instance *self = h->owner;
    if (m->codes == NULL) {
        sl_tensor y = args->y;
        sl_op_gemm op = {
            SL_SIZE(sl_op_gemm), args->lane,    &args->x, &h->group->linears[args->which]->weight, &y, args->bias,
            args->residual,      self->compute, 0, 0, 0};
        return self->env.ops->gemm(self->env.host, &op);
    }
    sl_tensor x = sl_decoder_order(&self->decoder, &args->x, m->order, args->prepared == NULL);
    sl_decoded rows = {m->n, m->k, spqr_decode_row, m};
    return sl_decoded_matmul(&self->decoder, &rows, args, &x);
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

/* Bytes as they are in the file's matrices: ranges, orders and outliers are data. */
static sl_status cost_linear(sl_instance *self, sl_cost_linear *io, sl_error *err) {
    if (stays(io->group))
        return SL_OK;
    double *size = sl_cost_size_of(&self->sizes, self->model, io->group);
    if (size == NULL)
        return SL_E_NO_MEMORY;
    if (*size == 0) { /* not asked whether the file was made from these weights: a rewriter changes them on their way */
        header headers[MAX_LINEARS];
        sl_status s = read_group(self, io->group, err);
        if (s >= 0)
            *size = (double)lay_out(io->group, self->matrix, headers);
        drop(self);
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
    .id = "spqr",
    .roles = roles,
    .version = "0.1.0",
    .summary = "2 to 4 bits with quantised scales and sparse f16 outliers; packed with calibration data",
    .paper = "SpQR, arXiv 2306.03078",
    .vendor = "sluice",
    .license = "Apache-2.0",
    .params = spqr_params,
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
