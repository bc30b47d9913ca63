/* quest - upper bounds of pages say where a query's large scores can be; only those pages are attended to.
 *
 * "Quest: Query-Aware Sparsity for Efficient Long-Context LLM Inference", arXiv 2406.10774, section 3. For each page of
 * P tokens and KV head the largest and smallest value of each channel of the keys are kept. At decode the sum of max(q
 * most, q least) bounds the score of q with any key of the page; each head attends to the pages with the largest bounds
 * and to the page that is being written. The cache keeps everything, prompts and the first layers are dense. */
#include "quest.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "sl_error.h"
#include "sl_host_util.h"
#include "sl_params.h"

/* Bounds of a block of units stand in scratch; a block takes no more than this, but one unit always fits. */
enum { SCORE_BYTES = 4 << 20 };

/* ---- life ------------------------------------------------------------------------------------------------------ */

static void destroy(sl_instance *self) {
    if (self == NULL)
        return;
    free(self->sparse);
    free(self->dtype);
    free(self);
}

static sl_status read_params(sl_instance *self, const sl_params *params, sl_error *err) {
    int64_t budget = sl_param_int(params, "token_budget"), least = sl_param_int(params, "min_pages");
    int64_t dense = sl_param_int(params, "dense_layers"), n = self->model->n_layers;
    self->page = sl_param_int(params, "page_size");
    self->force_last = sl_param_bool(params, "force_last");
    self->heads = sl_param_index(params, "select_heads");
    self->verify = sl_param_index(params, "verify_select");
    self->meta_type = sl_param_index(params, "meta_dtype");
    if (budget % self->page != 0)
        return sl_fail(err, SL_E_INVALID, "quest: token_budget = %" PRId64 " is no multiple of page_size = %" PRId64,
                       budget, self->page);
    if (dense > n)
        return sl_fail(err, SL_E_RANGE, "quest: dense_layers = %" PRId64 " is outside of 0 .. %" PRId64, dense, n);
    if (!self->force_last && self->verify == QUEST_VERIFY_SHARED)
        return sl_fail(err, SL_E_INVALID,
                       "quest: verify_select = shared always attends to the pages of the drafts; it has no force_last "
                       "= no");
    self->most_pages = budget / self->page > least ? budget / self->page : least;
    for (int32_t l = 0; l < n; l++) { /* a layer that sees a window only stays dense */
        const sl_layer_info *info = self->model->layers[l];
        self->sparse[l] = l >= dense && info->n_heads > 0 && info->window == 0;
        self->dtype[l] = self->meta_type == QUEST_F16 ? SL_F16 : SL_F32;
    }
    return SL_OK;
}

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    sl_instance *self = calloc(1, sizeof *self);
    size_t n = (size_t)args->model->n_layers;
    if (self == NULL || (self->sparse = calloc(n, sizeof *self->sparse)) == NULL ||
        (self->dtype = calloc(n, sizeof *self->dtype)) == NULL) {
        destroy(self);
        return sl_fail(err, SL_E_NO_MEMORY, "quest: out of memory");
    }
    self->host = args->host;
    self->model = args->model;
    self->metrics = sl_host_service(args->host, SL_METRICS_ID, SL_FIELD_END(sl_metrics, add));
    const struct {
        const char *id;
        uint64_t size;
        const void **table;
    } services[] = {
        {SL_MEM_ID, SL_FIELD_END(sl_mem, release), (const void **)&self->mem},
        {SL_SCRATCH_ID, SL_FIELD_END(sl_scratch, worker), (const void **)&self->scratch},
        {SL_THREADS_ID, SL_FIELD_END(sl_threads, parallel_for), (const void **)&self->threads},
        {SL_OPS_ID, SL_FIELD_END(sl_ops, convert), (const void **)&self->ops},
    };
    sl_status s = SL_OK;
    for (size_t i = 0; s >= 0 && i < sizeof services / sizeof *services; i++)
        s = sl_host_require(args->host, "quest", services[i].id, services[i].size, services[i].table, err);
    if (s >= 0)
        s = read_params(self, args->params, err);
    if (s < 0) {
        destroy(self);
        return s;
    }
    *out = self;
    return SL_OK;
}

static void deactivate(sl_instance *self) {
    quest_meta_destroy(&self->meta);
    self->mem->release(self->host, SL_DEVICE_CPU, self->token);
    self->mem->release(self->host, SL_DEVICE_CPU, self->begin);
    self->token = NULL;
    self->begin = NULL;
}

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    int64_t tree = limits->max_tree, heads = 1, max_tokens = limits->max_context + tree;
    self->max_groups = 1;
    for (int32_t l = 0; l < self->model->n_layers; l++) {
        const sl_layer_info *info = self->model->layers[l];
        int64_t groups = self->heads == QUEST_QUERY ? info->n_heads : info->n_kv_heads;
        if (!self->sparse[l])
            continue;
        heads = info->n_heads > heads ? info->n_heads : heads;
        self->max_groups = groups > self->max_groups ? groups : self->max_groups;
    }
    self->max_pages = max_tokens / self->page + 1;
    /* decoding rows, and nodes of trees; trees that a drafter has computed as work may be larger than its drafts */
    self->max_units = limits->max_seqs * tree < limits->max_rows ? limits->max_seqs * tree : limits->max_rows;
    self->max_units = tree > 1 && self->max_units < SL_MAX_TREE_NODES ? SL_MAX_TREE_NODES : self->max_units;
    int64_t row = self->max_groups * self->max_pages, most = SCORE_BYTES / (int64_t)sizeof(float);
    self->score_floats = row * self->max_units < most ? row * self->max_units : row > most ? row : most;
    int64_t n_lists = (self->max_units > limits->max_seqs ? self->max_units : limits->max_seqs) * self->max_groups;
    int64_t longest = self->most_pages * self->page < max_tokens ? self->most_pages * self->page : max_tokens;
    self->meta = (quest_meta){.host = self->host,
                              .mem = self->mem,
                              .ops = self->ops,
                              .model = self->model,
                              .kept = self->sparse,
                              .dtype = self->dtype,
                              .page = self->page,
                              .max_tokens = max_tokens,
                              .max_seqs = limits->max_seqs};
    sl_status s = quest_meta_create(&self->meta);
    self->token =
        self->mem->alloc(self->host, SL_DEVICE_CPU,
                         self->max_units * self->max_groups * longest * (int64_t)sizeof(int32_t), 64, SL_MEM_PLUGIN);
    self->begin =
        self->mem->alloc(self->host, SL_DEVICE_CPU, (n_lists + 1) * (int64_t)sizeof(int64_t), 64, SL_MEM_PLUGIN);
    if (s < 0 || self->token == NULL || self->begin == NULL) {
        deactivate(self);
        return sl_fail(err, SL_E_NO_MEMORY, "quest: no memory for %" PRId64 " lists of %" PRId64 " tokens", n_lists,
                       longest);
    }
    if (self->metrics != NULL)
        self->metrics->add(self->host, "rows_sparse", 0); /* a new name takes memory, hence not in a step */
    int64_t bytes, bytes_per_worker;
    quest_scratch_need(self, &bytes, &bytes_per_worker);
    s = self->scratch->reserve(self->host, SL_DEVICE_CPU, bytes, bytes_per_worker);
    if (s < 0) {
        deactivate(self);
        return sl_fail(err, s, "quest: no scratch for the bounds of %" PRId64 " pages", self->max_pages);
    }
    return SL_OK;
}

/* ---- a layer --------------------------------------------------------------------------------------------------- */

static sl_status caps(sl_instance *self, int32_t layer, sl_attn_caps *out) {
    out->flags = SL_ATTN_TREE | (self->sparse[layer] ? SL_ATTN_SELECT_VIEW : 0u);
    out->segment_kinds = SL_SEGMENT_ROWS;
    out->key_states = 1u << SL_KEYS_ROTATED;
    return SL_OK;
}

static sl_status select_rows(sl_instance *self, const sl_select *args, const sl_rowset **out) {
    return self->sparse[args->layer] ? quest_select(self, args, out) : SL_SKIPPED;
}

static const sl_attention attention = {.struct_size = SL_SIZE(sl_attention), .caps = caps, .select = select_rows};

/* ---- beside the cache ------------------------------------------------------------------------------------------ */

static sl_status told_layout(sl_instance *self, int32_t layer, const sl_kv_layout *layout, sl_error *err) {
    if (self->meta_type != QUEST_KV || !self->sparse[layer])
        return SL_OK;
    if (layout->dtype != SL_F32 && layout->dtype != SL_F16 && layout->dtype != SL_BF16)
        return sl_fail(err, SL_E_INVALID,
                       "quest: meta_dtype = kv: the store keeps rows that are neither f32, f16 nor bf16");
    self->dtype[layer] = layout->dtype;
    return SL_OK;
}

static sl_status seq_open(sl_instance *self, int32_t seq, int32_t parent, int64_t upto, sl_error *err) {
    sl_status s = quest_meta_open(&self->meta, seq, parent, upto);
    return s < 0 ? sl_fail(err, s, "quest: no bounds for sequence %d (parent %d at %" PRId64 " tokens)", seq, parent,
                           upto)
                 : SL_OK;
}

static void seq_close(sl_instance *self, int32_t seq) { quest_meta_close(&self->meta, seq); }

static sl_status seq_grow(sl_instance *self, int32_t seq, int64_t n_tokens, sl_error *err) {
    sl_status s = quest_meta_grow(&self->meta, seq, n_tokens);
    return s < 0 ? sl_fail(err, s,
                           "quest: no memory for the bounds of %" PRId64 " tokens (%" PRId64 " bytes for each %" PRId64
                           " of them)",
                           n_tokens, self->meta.block_bytes, self->page * QUEST_BLOCK_PAGES)
                 : SL_OK;
}

static void seq_truncate(sl_instance *self, int32_t seq, int64_t n) { quest_meta_cut(&self->meta, seq, -1, n); }

static const sl_attention_kv beside = {.struct_size = SL_SIZE(sl_attention_kv),
                                       .layout = told_layout,
                                       .open = seq_open,
                                       .close = seq_close,
                                       .grow = seq_grow,
                                       .truncate = seq_truncate};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_ATTENTION_ID) == 0      ? (const void *)&attention
           : strcmp(id, SL_ATTENTION_KV_ID) == 0 ? (const void *)&beside
           : strcmp(id, SL_COST_ID) == 0         ? (const void *)&quest_cost
                                                 : NULL;
}

/* ---- the plugin ------------------------------------------------------------------------------------------------ */

#define PARAM(id, type, fallback, choices, min, max, flags, doc)                                                       \
    static const sl_param_def id = {SL_SIZE(sl_param_def), #id, doc, fallback, choices, min, max, type, flags}

static const char *const head_modes[] = {"query", "kv_group", NULL};
static const char *const meta_types[] = {"f16", "f32", "kv", NULL};
static const char *const verify_modes[] = {"row", "shared", NULL};
PARAM(page_size, SL_PARAM_INT, "16", NULL, 1, 64, 0, "tokens of a page, which is chosen or left as a whole");
PARAM(token_budget, SL_PARAM_INT, "1024", NULL, 1, 1 << 24, 0,
      "tokens of the pages that a query attends to, the page being written included; a multiple of page_size");
PARAM(dense_layers, SL_PARAM_INT, "2", NULL, 0, 1 << 16, 0, "leading layers that attend to everything");
PARAM(min_pages, SL_PARAM_INT, "3", NULL, 1, 1 << 20, 0,
      "pages that are attended to at least, however small the budget");
PARAM(force_last, SL_PARAM_BOOL, "yes", NULL, 1, 0, SL_PARAM_EXPERT,
      "the page being written is always in; no: it competes with the others");
PARAM(select_heads, SL_PARAM_ENUM, "kv_group", head_modes, 1, 0, 0,
      "whose list it is: one a query head, or one a KV head (by the largest bound of its query heads)");
PARAM(meta_dtype, SL_PARAM_ENUM, "f16", meta_types, 1, 0, 0,
      "type of the bounds, rounded outward; kv: that of the stored keys, then they are exact");
PARAM(verify_select, SL_PARAM_ENUM, "row", verify_modes, 1, 0, 0,
      "draft trees: pages of each row, as step by step; or shared by the rows of a sequence, which changes the output");
static const sl_param_def *const params[] = {&page_size,    &token_budget, &dense_layers,  &min_pages, &force_last,
                                             &select_heads, &meta_dtype,   &verify_select, NULL};
static const char *const roles[] = {"attention", NULL};
static const char *const needs[] = {SL_OPS_ID,      SL_MEM_ID,          SL_SCRATCH_ID,      SL_THREADS_ID,
                                    "sl.kv.rows/1", "sl.kv.truncate/1", SL_ATTENTION_KV_ID, NULL};
static const char *const wants[] = {SL_METRICS_ID, NULL};
static const char *const provides[] = {"sl.prefill.plain/1", NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "quest",
    .roles = roles,
    .version = "0.1.0",
    .summary = "attends to the pages whose key bounds promise the largest scores",
    .paper = "Quest: Query-Aware Sparsity for Efficient Long-Context LLM Inference, arXiv 2406.10774",
    .vendor = "sluice",
    .license = "Apache-2.0",
    .params = params,
    .needs = needs,
    .wants = wants,
    .provides = provides,
    .devices = SL_ON_CPU,
    .create = create,
    .destroy = destroy,
    .activate = activate,
    .deactivate = deactivate,
    .query = query,
};

SL_PACKAGE(&plugin)
