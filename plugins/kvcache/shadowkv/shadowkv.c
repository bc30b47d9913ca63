/* shadowkv - low-rank keys, values in a second tier, and the few chunks a query needs brought back.
 *
 * As in "ShadowKV: KV Cache in Shadows for High-Throughput Long-Context LLM Inference", arXiv 2410.21465, and its
 * official code. This file: parameters, life, what the store says about itself. The parts are listed in shadow.h. */
#include "shadow.h"

#include <stdlib.h>
#include <string.h>

#include "sl_host_util.h"
#include "sl_params.h"
#include "sl_tensor.h"

/* ---- life
 * ------------------------------------------------------------------------------------------------------------ */

static sl_status accepts(const sl_model_info *model, const sl_params *params, const sl_scope *scope, sl_error *err) {
    int64_t budget = sl_param_int(params, "sparse_budget"), chunk = sl_param_int(params, "chunk_size");
    if (budget % chunk != 0)
        return sl_fail(err, SL_E_INVALID, "shadowkv: sparse_budget = %lld is no multiple of chunk_size = %lld",
                       (long long)budget, (long long)chunk);
    for (int32_t l = 0; l < model->n_layers; l++) {
        const sl_layer_info *info = model->layers[l];
        if ((scope == NULL || scope->layer_stages == NULL || scope->layer_stages[l] != 0) && info->n_kv_heads > 0 &&
            strcmp(info->block, "gqa") != 0)
            return sl_fail(err, SL_E_UNIMPLEMENTED, "shadowkv: layer %d is of the kind %s; keys are factored for gqa",
                           l, info->block);
    }
    return SL_OK;
}

static void destroy(sl_instance *self) {
    if (self == NULL)
        return;
    free(self->places);
    free(self);
}

static void read_params(sl_instance *self, const sl_params *p) {
    static const sl_dtype dtypes[] = {SL_F32, SL_F32, SL_F16, SL_BF16}; /* auto is settled by activate */
    self->budget = sl_param_int(p, "sparse_budget");
    self->chunk = sl_param_int(p, "chunk_size");
    self->rank = sl_param_int(p, "rank");
    self->local_chunks = sl_param_int(p, "local_chunks");
    self->outlier_chunks = sl_param_int(p, "outlier_chunks");
    self->min_prompt = sl_param_int(p, "min_prompt");
    self->row_block = sl_param_int(p, "row_block");
    self->warm = sl_param_bool(p, "warm");
    self->refactor = sl_param_bool(p, "refactor");
    self->host_values = sl_param_bool(p, "host_values");
    self->verify_select = (uint32_t)sl_param_index(p, "verify_select");
    self->prompt_select = (uint32_t)sl_param_index(p, "prompt_select");
    self->dtype_auto = sl_param_index(p, "dtype") == 0;
    self->dtype = dtypes[sl_param_index(p, "dtype")];
    self->factor_auto = sl_param_index(p, "factor_dtype") == 0;
    self->factor_dtype = dtypes[sl_param_index(p, "factor_dtype")];
    self->factor.method = (uint32_t)sl_param_index(p, "svd");
}

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    SL_TRY(accepts(args->model, args->params, args->scope, err));
    sl_instance *self = calloc(1, sizeof *self);
    if (self != NULL)
        self->places = calloc((size_t)args->model->n_layers, sizeof *self->places);
    if (self == NULL || self->places == NULL) {
        destroy(self);
        return sl_fail(err, SL_E_NO_MEMORY, "shadowkv: out of memory");
    }
    self->host = args->host;
    self->model = args->model;
    static const struct {
        const char *id;
        uint64_t size;
    } services[4] = {{SL_MEM_ID, SL_FIELD_END(sl_mem, release)},
                     {SL_OPS_ID, SL_FIELD_END(sl_ops, convert)},
                     {SL_THREADS_ID, SL_FIELD_END(sl_threads, parallel_for)},
                     {SL_SCRATCH_ID, SL_FIELD_END(sl_scratch, worker)}};
    const void *tables[4];
    for (int i = 0; i < 4; i++) {
        sl_status s = sl_host_require(args->host, "shadowkv", services[i].id, services[i].size, &tables[i], err);
        if (s < 0) {
            destroy(self);
            return s;
        }
    }
    self->mem = tables[0];
    self->ops = tables[1];
    self->threads = tables[2];
    self->scratch = tables[3];
    self->metrics = sl_host_service(args->host, SL_METRICS_ID, SL_FIELD_END(sl_metrics, add));
    self->factor.host = self->host;
    self->factor.mem = self->mem;
    self->factor.threads = self->threads;
    read_params(self, args->params);
    for (int32_t l = 0; l < self->model->n_layers; l++)
        self->places[l].is_used =
            self->model->layers[l]->n_kv_heads > 0 &&
            (args->scope == NULL || args->scope->layer_stages == NULL || args->scope->layer_stages[l] != 0);
    *out = self;
    return SL_OK;
}

static int64_t set_aside(int64_t *bytes, int64_t size) {
    int64_t at = *bytes;
    *bytes += shadow_round(size);
    return at;
}

/* Places of rows in a page: positions, then each layer's raw keys, keys and values. */
static void lay_out_page(sl_instance *self) {
    int64_t bytes = SHADOW_PAGE_HEADER, c = self->chunk;
    self->element = sl_dtype_bits(self->dtype) / 8;
    self->factor_element = sl_dtype_bits(self->factor_dtype) / 8;
    self->max_K = self->max_D = self->max_Dv = 0;
    self->max_rank = self->q_width = 0;
    set_aside(&bytes, c * (int64_t)sizeof(float));
    for (int32_t l = 0; l < self->model->n_layers; l++) {
        const sl_layer_info *info = self->model->layers[l];
        shadow_place *p = &self->places[l];
        if (!p->is_used)
            continue;
        p->H = info->n_heads;
        p->K = info->n_kv_heads;
        p->D = info->head_dim;
        p->Dv = info->v_head_dim;
        p->scale = info->attn_scale;
        p->rope = info->rope >= 0 ? self->model->ropes[info->rope] : NULL;
        p->k_chunk = c * p->D * self->element;
        p->v_chunk = c * p->Dv * self->element;
        p->raw = set_aside(&bytes, p->K * p->k_chunk) - SHADOW_PAGE_HEADER;
        p->k = set_aside(&bytes, p->K * p->k_chunk) - SHADOW_PAGE_HEADER;
        p->v = set_aside(&bytes, p->K * p->v_chunk) - SHADOW_PAGE_HEADER;
        int64_t width = (int64_t)p->K * p->D, rank = self->rank < width ? self->rank : width;
        self->max_K = p->K > self->max_K ? p->K : self->max_K;
        self->max_D = p->D > self->max_D ? p->D : self->max_D;
        self->max_Dv = p->Dv > self->max_Dv ? p->Dv : self->max_Dv;
        self->max_rank = rank > self->max_rank ? rank : self->max_rank;
        self->q_width += (int64_t)p->H * p->D;
    }
    self->pool = (shadow_pool){.host = self->host, .mem = self->mem, .page_bytes = bytes};
}

/* Arrays that live from activate to deactivate. */
enum { MAX_ARRAYS = 24 };
typedef struct array {
    void *place; /* address of a pointer */
    int64_t bytes;
} array;

static int list_arrays(sl_instance *self, array *out) {
    int64_t pages = self->max_pages, heads = self->max_K, seqs = self->limits.max_seqs;
    int64_t units = (self->row_block > seqs ? self->row_block : seqs) * heads + 1;
    const array arrays[] = {
        {&self->seqs, seqs * (int64_t)sizeof *self->seqs},
        {&self->run_begin, units * (int64_t)sizeof *self->run_begin},
        {&self->slot_begin, units * (int64_t)sizeof *self->slot_begin},
        {&self->k_pages, heads * pages * (int64_t)sizeof *self->k_pages},
        {&self->v_pages, heads * pages * (int64_t)sizeof *self->v_pages},
        {&self->token_index, heads * pages * self->chunk * (int64_t)sizeof *self->token_index},
        {&self->need, heads * pages * (int64_t)sizeof *self->need},
        {&self->page_of, heads * pages * (int64_t)sizeof *self->page_of},
        {&self->missing, pages * (int64_t)sizeof *self->missing},
        {&self->chunk_k, pages * (int64_t)sizeof *self->chunk_k},
        {&self->chunk_v, pages * (int64_t)sizeof *self->chunk_v},
        {&self->chunk_dst, pages * (int64_t)sizeof *self->chunk_dst},
        {&self->segments, (heads + 1) * (int64_t)sizeof *self->segments},
        {&self->segment_ptrs, (heads + 1) * (int64_t)sizeof *self->segment_ptrs},
        {&self->seq_views, seqs * (int64_t)sizeof *self->seq_views},
        {&self->seq_view_ptrs, seqs * (int64_t)sizeof *self->seq_view_ptrs},
        {&self->page_tables, seqs * pages * (int64_t)sizeof *self->page_tables},
        {&self->queries, (self->warm ? seqs * self->q_width : 0) * (int64_t)sizeof *self->queries},
    };
    memcpy(out, arrays, sizeof arrays);
    return sizeof arrays / sizeof *arrays;
}

static void deactivate(sl_instance *self) {
    array arrays[MAX_ARRAYS];
    for (int32_t i = 0; self->seqs != NULL && i < self->limits.max_seqs; i++)
        shadow_close(self, i);
    shadow_wide_close(self);
    if (self->tier.exec != NULL)
        shadow_tier_close(&self->tier);
    for (int n = list_arrays(self, arrays); n-- > 0;) {
        shadow_give(self, *(void **)arrays[n].place);
        *(void **)arrays[n].place = NULL;
    }
}

/* What was asked for that the rest of the configuration forbids. */
static sl_status check_limits(const sl_instance *self, const sl_limits *limits, sl_error *err) {
    if (self->verify_select == SHADOW_SELECT_SHARED && limits->max_tree > self->row_block)
        return sl_fail(
            err, SL_E_INVALID,
            "shadowkv: verify_select = shared makes one list for a tree of up to %lld rows, which must not be "
            "cut: row_block = %lld is too small",
            (long long)limits->max_tree, (long long)self->row_block);
    if (self->verify_select == SHADOW_SELECT_SHARED && limits->max_tree > 1 && limits->deterministic)
        return sl_fail(err, SL_E_INVALID,
                       "shadowkv: verify_select = shared makes tokens depend on speculation, which "
                       "engine.deterministic = yes forbids");
    if (self->warm && limits->max_tree > 1 && limits->deterministic)
        return sl_fail(err, SL_E_INVALID,
                       "shadowkv: warm = yes keeps exact keys of chunks as long as they stay selected, so that tokens "
                       "depend on speculation, which engine.deterministic = yes forbids");
    return SL_OK;
}

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    SL_TRY(check_limits(self, limits, err));
    self->limits = *limits;
    if (self->dtype_auto)
        self->dtype = limits->compute == SL_BF16 ? SL_BF16 : SL_F32;
    if (self->factor_auto)
        self->factor_dtype = self->dtype;
    lay_out_page(self);
    self->max_pages = shadow_chunks(self, limits->max_context + limits->max_tree + self->chunk);
    SL_TRY(shadow_tier_open(&self->tier, self->host, self->mem, self->host_values, err));
    array arrays[MAX_ARRAYS];
    int ok = 1;
    for (int n = list_arrays(self, arrays); ok && n-- > 0;)
        ok = (*(void **)arrays[n].place = shadow_take(self, arrays[n].bytes, SL_MEM_PLUGIN)) != NULL;
    ok = ok &&
         self->scratch->reserve(self->host, SL_DEVICE_CPU, shadow_view_scratch(self), shadow_select_scratch(self)) >= 0;
    for (int64_t i = 0; ok && i < limits->max_seqs; i++) {
        self->seqs[i].pages = self->page_tables + i * self->max_pages;
        self->seqs[i].last_q = self->warm ? self->queries + i * self->q_width : NULL;
    }
    if (!ok) {
        deactivate(self);
        return sl_fail(err, SL_E_NO_MEMORY, "shadowkv: no memory for the page tables");
    }
    return SL_OK;
}

/* ---- what the store says
 * ---------------------------------------------------------------------------------------------- */

static sl_status layout(sl_instance *self, int32_t layer, sl_kv_layout *out) {
    (void)layer;
    out->row_block = self->row_block;
    out->kinds = SL_SEGMENT_ROWS;
    out->flags = SL_KV_WANTS_RAW | SL_KV_SELECTS;
    out->key_state = SL_KEYS_ROTATED;
    out->dtype = self->dtype;
    return SL_OK;
}

/* A prompt costs exact rows, and at its end, for a moment, its factors beside them; then only those and the newest
 * rows. */
static sl_status quote(sl_instance *self, sl_kv_quote *io) {
    int64_t n = shadow_factorable(self, io->n_tokens), rows = n * self->chunk;
    int64_t exact = shadow_chunks(self, io->n_tokens) * self->pool.page_bytes, device = 0, host = 0;
    int64_t kept = n - shadow_outliers(self),
            slots = self->budget / self->chunk < kept ? self->budget / self->chunk : kept;
    for (int32_t l = 0; n > 0 && l < self->model->n_layers; l++) {
        const shadow_place *p = &self->places[l];
        if (!p->is_used)
            continue;
        device += shadow_layer_bytes(self, p, n);
        *(self->host_values ? &host : &device) += p->K * n * p->v_chunk;
    }
    int64_t once = 0; /* shared by all sequences */
    if (n > 0) {
        device += rows * (int64_t)sizeof(float) + shadow_region_bytes(self, slots);
        once = self->limits.max_tree > 1 ? shadow_wide_bytes(self, kept) : 0;
    }
    int64_t tail = shadow_chunks(self, io->n_tokens - rows) * self->pool.page_bytes;
    int is_prompt = io->stage == SL_STAGE_PREFILL;
    io->bytes = io->n_seqs * (is_prompt ? exact : device + tail) + (is_prompt ? 0 : once);
    io->bytes_peak = io->n_seqs * (exact + device) + once;
    io->bytes_host = is_prompt ? 0 : io->n_seqs * host;
    io->bytes_next = self->pool.page_bytes / self->chunk;
    return SL_OK;
}

/* The end of a prompt is when rows become factors. If that cannot be done they stay exact: nothing is lost but memory.
 */
static sl_status event(sl_instance *self, const sl_event *what, sl_error *err) {
    (void)err;
    if (what->kind != SL_EVENT_PREFILL_END || what->seq < 0 || what->seq >= self->limits.max_seqs ||
        !self->seqs[what->seq].is_open)
        return SL_OK;
    SL_ERROR(why);
    sl_status s = shadow_compress(self, &self->seqs[what->seq], &why);
    if (s < 0 && !self->is_warned) {
        self->is_warned = 1;
        sl_logf(self->host, SL_LOG_WARNING, "%s; the rows of sequence %d stay exact", why.text, what->seq);
    }
    if (self->metrics != NULL)
        self->metrics->add(self->host,
                           s < 0        ? "prompts_not_factored"
                           : s == SL_OK ? "prompts_factored"
                                        : "prompts_short",
                           1);
    return SL_OK;
}

static sl_status state(sl_instance *self, sl_state_io *io, sl_error *err) {
    (void)self, (void)io;
    return sl_fail(err, SL_E_UNIMPLEMENTED, "shadowkv: factors of a sequence are not saved; compute it again");
}

/* ---- the plugin
 * ---------------------------------------------------------------------------------------------------------- */

static const sl_kv_store store = {
    .struct_size = SL_SIZE(sl_kv_store),
    .layout = layout,
    .quote = quote,
    .open = shadow_open,
    .close = shadow_close,
    .grow = shadow_grow,
    .reserve = shadow_reserve,
    .append = shadow_append,
    .view = shadow_view,
    .commit = shadow_commit,
    .truncate = shadow_truncate,
    .length = shadow_length,
};
static const sl_selector selector = {.struct_size = SL_SIZE(sl_selector), .select = shadow_select};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_KV_STORE_ID) == 0 ? (const void *)&store
           : strcmp(id, SL_SELECT_ID) == 0 ? (const void *)&selector
           : strcmp(id, SL_COST_ID) == 0   ? (const void *)&shadow_cost
                                           : NULL;
}

#define PARAM(var, name, doc, fallback, choices, low, high, type, flags)                                               \
    static const sl_param_def var = {SL_SIZE(sl_param_def), name, doc, fallback, choices, low, high, type, flags}

static const char *const svds[] = {"randomized", "exact", "gram", NULL};
static const char *const verifies[] = {"row", "shared", NULL};
static const char *const prompts[] = {"row", "all", NULL};
static const char *const dtypes[] = {"auto", "f32", "f16", "bf16", NULL};
PARAM(p_budget, "sparse_budget", "tokens that a row selects, for each KV head; a multiple of chunk_size", "2048", NULL,
      4, 1e9, SL_PARAM_INT, 0);
PARAM(p_chunk, "chunk_size", "tokens of a chunk: what one landmark stands for and one fetch brings", "8", NULL, 4, 32,
      SL_PARAM_INT, 0);
PARAM(p_rank, "rank", "rank of the keys, over all KV heads of a layer together; more than they have is all", "160",
      NULL, 1, 65536, SL_PARAM_INT, 0);
PARAM(p_local, "local_chunks", "newest whole chunks of a prompt that stay exact, beside what is left over", "4", NULL,
      1, 1e6, SL_PARAM_INT, 0);
PARAM(p_outlier, "outlier_chunks", "chunks that stay exact, for each KV head; -1: 24 for each 1024 of the budget", "-1",
      NULL, -1, 1e6, SL_PARAM_INT, 0);
PARAM(p_min, "min_prompt", "up to this many exact tokens at the end of a prompt stay exact", "4096", NULL, 0, 1e9,
      SL_PARAM_INT, 0);
PARAM(p_svd, "svd", "how keys are factored", "randomized", svds, 1, 0, SL_PARAM_ENUM, 0);
PARAM(p_host, "host_values", "values of factored tokens live in the second tier; no: on the device", "yes", NULL, 1, 0,
      SL_PARAM_BOOL, 0);
PARAM(p_warm, "warm", "begin decoding with exact keys of the chunks that the prompt's last token selects", "no", NULL,
      1, 0, SL_PARAM_BOOL, 0);
PARAM(p_refactor, "refactor", "later prompts' ends factor the exact tokens behind earlier factors, too", "yes", NULL, 1,
      0, SL_PARAM_BOOL, 0);
PARAM(p_prompt, "prompt_select", "rows of later prompts select one by one, or see all chunks, rebuilt", "row", prompts,
      1, 0, SL_PARAM_ENUM, 0);
PARAM(p_verify, "verify_select", "rows of draft trees select one by one, or together", "row", verifies, 1, 0,
      SL_PARAM_ENUM, 0);
PARAM(p_dtype, "dtype", "how exact rows, landmarks and values are stored; auto: as engine.compute", "auto", dtypes, 1,
      0, SL_PARAM_ENUM, 0);
PARAM(p_factors, "factor_dtype", "how factors are stored; auto: as dtype", "auto", dtypes, 1, 0, SL_PARAM_ENUM, 0);
PARAM(p_block, "row_block", "rows of one sequence that are attended to at once", "64", NULL, 1, 1024, SL_PARAM_INT,
      SL_PARAM_EXPERT);
static const sl_param_def *const params[] = {&p_budget, &p_chunk,   &p_rank,  &p_local,    &p_outlier, &p_min,
                                             &p_svd,    &p_host,    &p_warm,  &p_refactor, &p_prompt,  &p_verify,
                                             &p_dtype,  &p_factors, &p_block, NULL};
static const char *const roles[] = {"kvcache.store", NULL};
static const char *const needs[] = {SL_MEM_ID, SL_OPS_ID, SL_THREADS_ID, SL_SCRATCH_ID, SL_EXEC_ID, NULL};
static const char *const wants[] = {SL_METRICS_ID, NULL};
static const char *const provides[] = {"sl.kv.rows/1", "sl.kv.runs/1", SL_SELECT_ID, NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "shadowkv",
    .roles = roles,
    .version = "0.1.0",
    .summary = "low-rank keys, values in a second tier, and chunks rebuilt for those tokens that a query selects",
    .paper = "ShadowKV: KV Cache in Shadows for High-Throughput Long-Context LLM Inference, arXiv 2410.21465",
    .vendor = "sluice",
    .license = "Apache-2.0",
    .params = params,
    .needs = needs,
    .wants = wants,
    .provides = provides,
    .devices = SL_ON_CPU,
    .accepts = accepts,
    .create = create,
    .destroy = destroy,
    .activate = activate,
    .deactivate = deactivate,
    .query = query,
    .event = event,
    .state = state,
};

SL_PACKAGE(&plugin)
