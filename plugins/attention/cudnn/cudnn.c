/* cudnn - whole prompts attended to by cuDNN's fused kernel, everything else by the host's.
 *
 * A prompt that begins its sequence and is computed in one step needs nothing of the cache: its queries, keys and
 * values are the step's own rows, which the host notes just before it asks to attend. Plans are for fixed numbers of
 * rows; a prompt that is a little shorter is computed as if it had as many, since no row looks behind itself. */
#include "sluice/attention.h"
#include "sluice/cost.h"
#include "sluice/ops.h"

#include <stdlib.h>
#include <string.h>

#include "sl_error.h"
#include "sl_host_util.h"
#include "sl_params.h"

struct sl_instance {
    const sl_host *host;
    const sl_ops *ops;
    const sl_exec *exec;
    const sl_scratch *scratch;
    const sl_sdpa *sdpa;
    const sl_model_info *model;
    uint32_t *stages; /* [n_layers] of the scope */
    int64_t *sizes;   /* [n_sizes] ascending rows that are planned for; those beyond max_rows have no plan */
    int64_t n_sizes, padding;
    sl_sdpa_impl **plan; /* [n_layers, n_sizes] after activate; NULL: the host's kernel */
    sl_note noted;       /* rows of the layer that is attended to next */
};

static int ascending(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void destroy(sl_instance *self) {
    if (self == NULL)
        return;
    free(self->stages);
    free(self->sizes);
    free(self);
}

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    if (args->scope->device != SL_DEVICE_CUDA)
        return sl_fail(err, SL_E_UNIMPLEMENTED,
                       "cudnn: runs on CUDA devices only: take attention plugin dense on the CPU");
    sl_instance *self = calloc(1, sizeof *self);
    if (self == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "cudnn: out of memory");
    self->host = args->host;
    self->model = args->model;
    sl_status status =
        sl_host_require(args->host, "cudnn", SL_OPS_ID, SL_FIELD_END(sl_ops, attend), (const void **)&self->ops, err);
    if (status == SL_OK)
        status = sl_host_require(args->host, "cudnn", SL_EXEC_ID, SL_FIELD_END(sl_exec, fill),
                                 (const void **)&self->exec, err);
    if (status == SL_OK)
        status = sl_host_require(args->host, "cudnn", SL_SCRATCH_ID, SL_FIELD_END(sl_scratch, get),
                                 (const void **)&self->scratch, err);
    if (status == SL_OK)
        status = sl_host_require(args->host, "cudnn", SL_SDPA_ID, SL_FIELD_END(sl_sdpa, run),
                                 (const void **)&self->sdpa, err);
    const double *sizes = sl_param_list(args->params, "rows", &self->n_sizes);
    self->padding = sl_param_int(args->params, "padding");
    self->sizes = calloc((size_t)self->n_sizes + 1, sizeof *self->sizes);
    self->stages = calloc((size_t)args->scope->n_layers + 1, sizeof *self->stages);
    if (status == SL_OK && (self->sizes == NULL || self->stages == NULL))
        status = sl_fail(err, SL_E_NO_MEMORY, "cudnn: out of memory");
    if (status != SL_OK) {
        destroy(self);
        return status;
    }
    for (int64_t i = 0; i < self->n_sizes; i++)
        self->sizes[i] = (int64_t)sizes[i];
    qsort(self->sizes, (size_t)self->n_sizes, sizeof *self->sizes, ascending);
    memcpy(self->stages, args->scope->layer_stages, (size_t)args->scope->n_layers * sizeof *self->stages);
    *out = self;
    return SL_OK;
}

/* ---- plans ------------------------------------------------------------------------------------------------------- */

/* Rows of q, k and v lie in one buffer, [n, q | k | v]: what does not is left to the host's kernel when it comes. */
static sl_sdpa_desc shape_of(const sl_layer_info *l, int64_t rows) {
    const int64_t width = (int64_t)(l->n_heads + 2 * l->n_kv_heads) * l->head_dim, d = l->head_dim;
    return (sl_sdpa_desc){.struct_size = SL_SIZE(sl_sdpa_desc),
                          .n_q = rows,
                          .n_kv = rows,
                          .q_row = width,
                          .q_head = d,
                          .k_row = width,
                          .k_head = d,
                          .v_row = width,
                          .v_head = d,
                          .o_row = l->n_heads * d,
                          .o_head = d,
                          .scale = l->attn_scale,
                          .heads = l->n_heads,
                          .kv_heads = l->n_kv_heads,
                          .head_dim = l->head_dim,
                          .causal = 1};
}

static int serves(const sl_layer_info *l) {
    return l->n_kv_heads > 0 && l->head_dim == l->v_head_dim && l->head_dim % 8 == 0 && l->attn_softcap == 0;
}

static void deactivate(sl_instance *self) {
    for (int64_t i = 0; self->plan != NULL && i < self->model->n_layers * self->n_sizes; i++)
        if (self->plan[i] != NULL)
            self->sdpa->destroy(self->host, self->plan[i]);
    free(self->plan);
    self->plan = NULL;
}

static sl_status make_plans(sl_instance *self, const sl_limits *limits, sl_error *err) {
    const sl_lane *lane = self->exec->lane(self->host, SL_DEVICE_CUDA, 0);
    if (lane == NULL)
        return sl_fail(err, SL_E_NOT_FOUND, "cudnn: the host has no lane on a CUDA device");
    int64_t scratch = 0;
    int warned = 0;
    for (int32_t l = 0; l < self->model->n_layers; l++) {
        const sl_layer_info *info = self->model->layers[l];
        if (!(self->stages[l] & SL_STAGE_PREFILL) || !serves(info))
            continue;
        for (int64_t i = 0; i < self->n_sizes && self->sizes[i] <= limits->max_rows; i++) {
            sl_sdpa_impl **plan = &self->plan[l * self->n_sizes + i];
            const sl_sdpa_desc desc = shape_of(info, self->sizes[i]);
            SL_ERROR(why);
            sl_status status = self->sdpa->create(self->host, lane, &desc, plan, &why);
            if (status == SL_E_UNIMPLEMENTED) { /* the host's kernel does these */
                *plan = NULL;
                if (!warned++)
                    sl_logf(self->host, SL_LOG_WARNING,
                            "cudnn: %lld rows of layer %d are left to the host's kernel: %s", (long long)self->sizes[i],
                            l, why.text);
                continue;
            }
            if (status != SL_OK)
                return sl_fail(err, status, "cudnn: planning %lld rows: %s", (long long)self->sizes[i], why.text);
            const int64_t bytes = self->sdpa->workspace(*plan);
            scratch = bytes > scratch ? bytes : scratch;
        }
    }
    if (scratch > 0 && self->scratch->reserve(self->host, SL_DEVICE_CUDA, scratch, 0) != SL_OK)
        return sl_fail(err, SL_E_NO_MEMORY, "cudnn: %lld bytes of device scratch", (long long)scratch);
    return SL_OK;
}

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    if (limits->deterministic)
        return sl_fail(err, SL_E_UNIMPLEMENTED,
                       "cudnn: its sums are ordered by the number of rows, which engine.deterministic forbids: set "
                       "engine.deterministic = no, or take attention plugin dense");
    self->noted = (sl_note){.layer = -1};
    self->plan = calloc((size_t)(self->model->n_layers * self->n_sizes) + 1, sizeof(sl_sdpa_impl *));
    if (self->plan == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "cudnn: out of memory");
    sl_status status = make_plans(self, limits, err);
    if (status != SL_OK)
        deactivate(self);
    return status;
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static sl_status caps(sl_instance *self, int32_t layer, sl_attn_caps *out) {
    (void)self, (void)layer;
    out->flags = SL_ATTN_TREE | SL_ATTN_EXACT | SL_ATTN_NOTES_ROWS;
    out->segment_kinds = SL_SEGMENT_ROWS | SL_SEGMENT_QROWS;
    out->key_states = 1u << SL_KEYS_ROTATED;
    return SL_OK;
}

static sl_status note_rows(sl_instance *self, const sl_note *note) {
    self->noted = *note;
    return SL_OK;
}

static int lies_as(const sl_tensor *t, int64_t row, int64_t head) {
    return t->dtype == SL_BF16 && t->ndim == 3 && t->stride[0] == row && t->stride[1] == head && t->stride[2] == 1 &&
           (uintptr_t)t->data % 16 == 0;
}

/* Rows of the prompt if this call is one whole prompt that begins its sequence, and plain; else 0. */
static int64_t prompt_rows(const sl_instance *self, const sl_attend *a) {
    const sl_batch *b = a->rows->batch;
    const sl_view_device *v = a->view->device;
    if (a->lane->capturing || self->noted.layer != a->layer || self->noted.rows != a->rows || a->rows->index != NULL ||
        v == NULL || v->list != NULL || v->k_bits > 0 || v->v_bits > 0 || v->k_dtype != SL_BF16 ||
        v->v_dtype != SL_BF16)
        return 0;
    if (b->n_seqs != 1 || b->stage[0] != SL_STAGE_PREFILL || b->n_past[0] != 0)
        return 0;
    if (a->want != 0 || a->row_scale != NULL || a->head_masks != NULL || a->softcap != 0 || a->mask->interval != NULL ||
        a->mask->n_spans > 0 || a->mask->base != SL_MASK_CAUSAL)
        return 0;
    const int64_t n = b->row_begin[1] - b->row_begin[0];
    return a->mask->window == 0 || a->mask->window >= n ? n : 0;
}

/* The plan for n rows of a layer: of the next size, unless that would compute too much for nothing. */
static sl_sdpa_impl *plan_for(const sl_instance *self, int32_t layer, int64_t n, int64_t *size) {
    for (int64_t i = 0; n > 0 && i < self->n_sizes; i++)
        if (self->sizes[i] >= n) {
            *size = self->sizes[i];
            return 100 * (*size - n) <= self->padding * n ? self->plan[layer * self->n_sizes + i] : NULL;
        }
    return NULL;
}

/* Rows behind the prompt are multiplied by weights of zero, so they must hold numbers. */
static sl_status clear_padding(const sl_instance *self, const sl_attend *a, int64_t n, int64_t size) {
    const int64_t row = a->q.stride[0] * 2;
    return size > n ? self->exec->fill(a->lane, (char *)a->q.data + n * row, 0, (size - n) * row) : SL_OK;
}

static sl_status attend(sl_instance *self, const sl_attend *a) {
    int64_t size = 0;
    const int64_t n = prompt_rows(self, a);
    sl_sdpa_impl *plan = plan_for(self, a->layer, n, &size);
    if (plan == NULL)
        return self->ops->attend(self->host, a);
    const sl_sdpa_desc d = shape_of(self->model->layers[a->layer], size);
    const sl_tensor *k = &self->noted.k, *v = &self->noted.v;
    const char *const begin = a->q.data;
    const int64_t k_at = (const char *)k->data - begin, v_at = (const char *)v->data - begin;
    /* as planned, and rows of all three in one buffer, which is as long as the step may be */
    if (!lies_as(&a->q, d.q_row, d.q_head) || !lies_as(k, d.k_row, d.k_head) || !lies_as(v, d.v_row, d.v_head) ||
        !lies_as(&a->o, d.o_row, d.o_head) || k_at != 2 * d.heads * (int64_t)d.head_dim ||
        v_at != 2 * (d.heads + d.kv_heads) * (int64_t)d.head_dim || a->scale != d.scale)
        return self->ops->attend(self->host, a);
    SL_TRY(clear_padding(self, a, n, size));
    const sl_sdpa_run run = {
        .struct_size = SL_SIZE(sl_sdpa_run), .q = a->q.data, .k = k->data, .v = v->data, .o = a->o.data};
    return self->sdpa->run(a->lane, plan, &run, self->scratch->get(self->host, SL_DEVICE_CUDA));
}

static const sl_attention attention = {
    .struct_size = SL_SIZE(sl_attention), .caps = caps, .note_rows = note_rows, .attend = attend};

/* The work is dense attention's, whoever does it. */
static sl_status cost_layer(sl_instance *self, sl_cost_layer *io, sl_error *err) {
    (void)self, (void)io, (void)err;
    return SL_OK;
}

static const sl_cost cost = {.struct_size = SL_SIZE(sl_cost), .layer = cost_layer};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_ATTENTION_ID) == 0 ? (const void *)&attention : strcmp(id, SL_COST_ID) == 0 ? &cost : NULL;
}

static const sl_param_def rows = {.struct_size = SL_SIZE(sl_param_def),
                                  .name = "rows",
                                  .doc =
                                      "prompt lengths that plans are made for, in tokens; those beyond the rows of a "
                                      "step are left out",
                                  .fallback = "512,1024,2048,4096,8192,16384",
                                  .min = 1,
                                  .max = 1 << 24,
                                  .type = SL_PARAM_INT_LIST};
static const sl_param_def padding = {.struct_size = SL_SIZE(sl_param_def),
                                     .name = "padding",
                                     .doc = "how much shorter than a plan a prompt may be, in percent of its length",
                                     .fallback = "15",
                                     .min = 0,
                                     .max = 1000,
                                     .type = SL_PARAM_INT};
static const sl_param_def *const params[] = {&rows, &padding, NULL};
static const char *const roles[] = {"attention", NULL};
static const char *const needs[] = {SL_OPS_ID, SL_EXEC_ID, SL_SCRATCH_ID, SL_SDPA_ID, NULL};
static const char *const none[] = {NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "cudnn",
    .roles = roles,
    .version = "0.1.0",
    .summary = "whole prompts by cuDNN's attention, everything else by the host's",
    .paper = "FlashAttention-2, arXiv 2307.08691",
    .vendor = "sluice",
    .license = "Apache-2.0",
    .params = params,
    .needs = needs,
    .wants = none,
    .provides = none,
    .devices = SL_ON_CUDA,
    .create = create,
    .destroy = destroy,
    .activate = activate,
    .deactivate = deactivate,
    .query = query,
};

SL_PACKAGE(&plugin)
