/* duoattention - retrieval heads keep everything, streaming heads keep sinks and recent tokens.
 *
 * "DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads", arXiv 2410.10819. One object
 * in two roles: named in [attention] and [kvcache] it is the cache too; in [attention] alone it hides the same tokens
 * over a cache that keeps them. This file: parameters, life, and which sections go together. */
#include "duoattention.h"

#include <stdlib.h>
#include <string.h>

#include "duo_device.h"
#include "duo_pattern.h"
#include "sl_host_util.h"
#include "sl_params.h"
#include "sl_tensor.h"

/* ---- sections ---------------------------------------------------------------------------------------------------- */

static const sl_scope *scope_of(const sl_scope *scope, const char *role) {
    for (; scope != NULL && strcmp(scope->role, role) != 0;
         scope = SL_HAS(scope, sl_scope, also) ? scope->also : NULL) {
    }
    return scope;
}

/* Rows that streaming heads dropped are missed by every other attention plugin. */
static sl_status accepts(const sl_model_info *model, const sl_params *params, const sl_scope *scope, sl_error *err) {
    (void)params;
    const sl_scope *attention = scope_of(scope, "attention"), *store = scope_of(scope, "kvcache.store");
    for (int32_t l = 0; l < model->n_layers; l++) {
        uint32_t attends = attention != NULL ? attention->layer_stages[l] : 0;
        if (store != NULL && store->layer_stages[l] != 0 && attends != SL_STAGE_ALL)
            return sl_fail(err, SL_E_INVALID,
                           "layer %d: its cache keeps a window of some heads only, which this object must attend to in "
                           "every stage: choose duoattention in [attention] for the same layers, once, too",
                           l);
        if ((attends != 0 || (store != NULL && store->layer_stages[l] != 0)) &&
            strcmp(model->layers[l]->block, "gqa") != 0)
            return sl_fail(err, SL_E_UNIMPLEMENTED, "layer %d is a block \"%s\", which has no KV heads to divide", l,
                           model->layers[l]->block);
        if (attends != 0 && model->layers[l]->attn_softcap != 0)
            return sl_fail(err, SL_E_UNIMPLEMENTED, "layer %d caps its scores, which the host's kernel does not", l);
    }
    return SL_OK;
}

/* ---- create ------------------------------------------------------------------------------------------------------ */

static void destroy(sl_instance *self) {
    if (self == NULL)
        return;
    free(self->streams);
    free(self->runs);
    free(self->layers);
    free(self->ring_spans);
    free(self->served);
    free(self);
}

static int given(const sl_params *params, const char *name) { return sl_param_is_set(params, name); }

/* The window: what the INI says, else what the pattern's folder says, else the paper's deployment. */
static sl_status read_window(sl_instance *self, const sl_params *params, sl_error *err) {
    int64_t sink = -1, recent = -1;
    if (given(params, "pattern_file"))
        SL_TRY(duo_pattern_window(sl_param_text(params, "pattern_file"), &sink, &recent, err));
    self->sink = given(params, "sink_size") ? sl_param_int(params, "sink_size") : sink >= 0 ? sink : 64;
    self->recent = given(params, "recent_size") ? sl_param_int(params, "recent_size") : recent >= 0 ? recent : 256;
    if (self->recent < 1)
        return sl_fail(err, SL_E_INVALID, "recent_size = 0 in the config.json beside the pattern; 1 is the least");
    return SL_OK;
}

/* Which heads stream: by sparsity, by threshold if only that is given, 0.5 of them otherwise. */
static sl_status choose_heads(sl_instance *self, const sl_params *params, sl_error *err) {
    int by_threshold = given(params, "threshold");
    double sparsity = given(params, "sparsity") ? sl_param_real(params, "sparsity") : 0.5;
    if (by_threshold && given(params, "sparsity"))
        return sl_fail(err, SL_E_INVALID, "sparsity and threshold both choose the streaming heads; give one");
    if (!given(params, "pattern_file")) {
        if (by_threshold || (sparsity > 0 && sparsity < 1))
            return sl_fail(err, SL_E_INVALID,
                           "which heads stream? pattern_file must name the gates of this model (a TSV, made by "
                           "recipes/duoattention); only sparsity = 0 (none) and sparsity = 1 (all) need none");
        memset(self->streams, sparsity >= 1, (size_t)self->n_heads);
        return SL_OK;
    }
    int32_t n_layers = self->model->n_layers;
    int32_t *n_heads = calloc((size_t)n_layers, sizeof *n_heads);
    double *gate = calloc((size_t)self->n_heads + 1, sizeof *gate);
    sl_status s = n_heads != NULL && gate != NULL ? SL_OK : sl_fail(err, SL_E_NO_MEMORY, "out of memory");
    for (int32_t l = 0; s >= 0 && l < n_layers; l++)
        n_heads[l] = self->layers[l].n_heads;
    if (s >= 0)
        s = duo_pattern_read(sl_param_text(params, "pattern_file"), n_heads, n_layers, gate, err);
    if (s >= 0 && by_threshold)
        duo_pattern_by_threshold(gate, self->n_heads, sl_param_real(params, "threshold"), self->streams);
    else if (s >= 0)
        s = duo_pattern_by_sparsity(gate, self->n_heads, sparsity, self->streams);
    free(n_heads);
    free(gate);
    return s;
}

/* Ranks and runs of each layer. */
static void divide_layers(sl_instance *self) {
    int32_t first = 0;
    for (int32_t i = 0; i < self->model->n_layers; i++) {
        duo_layer *l = &self->layers[i];
        l->streams = self->streams + first;
        l->runs = self->runs + first;
        first += l->n_heads;
        for (int32_t h = 0; h < l->n_heads; h++) {
            int32_t *rank = l->streams[h] ? &l->n_streaming : &l->n_full;
            if (h == 0 || l->streams[h] != l->streams[h - 1])
                l->runs[l->n_runs++] = (duo_run){h, 0, *rank, l->streams[h]};
            l->runs[l->n_runs - 1].n_heads++;
            ++*rank;
        }
        self->n_streaming += l->n_streaming;
        self->max_runs = l->n_runs > self->max_runs ? l->n_runs : self->max_runs;
    }
}

static sl_status set_up(sl_instance *self, const sl_create_args *args, sl_error *err) {
    const sl_params *p = args->params;
    int32_t n_layers = self->model->n_layers;
    SL_TRY(sl_host_require(args->host, "duoattention", SL_MEM_ID, SL_FIELD_END(sl_mem, release),
                           (const void **)&self->mem, err));
    SL_TRY(sl_host_require(args->host, "duoattention", SL_OPS_ID, SL_FIELD_END(sl_ops, convert),
                           (const void **)&self->ops, err));
    SL_TRY(sl_host_require(args->host, "duoattention", SL_THREADS_ID, SL_FIELD_END(sl_threads, parallel_for),
                           (const void **)&self->threads, err));
    self->layers = calloc((size_t)n_layers, sizeof *self->layers);
    self->ring_spans = calloc(2 * (size_t)n_layers + 1, sizeof *self->ring_spans);
    self->served = calloc((size_t)n_layers + 1, sizeof *self->served);
    for (int32_t l = 0; self->layers != NULL && l < n_layers; l++) {
        const sl_layer_info *info = self->model->layers[l];
        self->layers[l] = (duo_layer){.n_heads = info->n_kv_heads, .d_k = info->head_dim, .d_v = info->v_head_dim};
        self->n_heads += info->n_kv_heads;
        self->max_heads = info->n_kv_heads > self->max_heads ? info->n_kv_heads : self->max_heads;
    }
    self->streams = calloc((size_t)self->n_heads + 1, sizeof *self->streams);
    self->runs = calloc((size_t)self->n_heads + 1, sizeof *self->runs);
    if (self->layers == NULL || self->ring_spans == NULL || self->streams == NULL || self->runs == NULL ||
        self->served == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "out of memory");
    static const sl_dtype dtypes[] = {SL_F32, SL_F32, SL_F16, SL_BF16}; /* auto is settled by activate */
    self->dtype_auto = sl_param_index(p, "dtype") == 0;
    self->dtype = dtypes[sl_param_index(p, "dtype")];
    self->page_rows = sl_param_int(p, "page");
    self->slack = sl_param_int(p, "slack");
    self->window = sl_param_index(p, "window");
    self->first_chunk = self->window == DUO_WINDOW_EXACT ? DUO_FIRST_STREAMING : sl_param_index(p, "first_chunk");
    self->prefill_chunk = sl_param_int(p, "prefill_chunk");
    const sl_param_value *first = sl_param_find(p, "first_chunk");
    if (self->window == DUO_WINDOW_EXACT &&
        ((first->is_given && first->integer == DUO_FIRST_DENSE) || self->prefill_chunk > 0))
        return sl_fail(err, SL_E_INVALID,
                       "window = exact gives every token the same window in every chunk, which %s contradicts",
                       self->prefill_chunk > 0 ? "prefill_chunk" : "first_chunk = dense");
    SL_TRY(read_window(self, p, err));
    SL_TRY(choose_heads(self, p, err));
    divide_layers(self);
    const sl_scope *store = scope_of(args->scope, "kvcache.store");
    for (int32_t l = 0; store != NULL && l < n_layers; l++)
        self->served[l] = store->layer_stages[l];
    self->on_device = args->scope != NULL && args->scope->device == SL_DEVICE_CUDA;
    return self->on_device ? duo_device_accepts(self, args->scope, err) : SL_OK;
}

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    sl_instance *self = calloc(1, sizeof *self);
    if (self == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "out of memory");
    self->host = args->host;
    self->model = args->model;
    self->has_store = scope_of(args->scope, "kvcache.store") != NULL;
    sl_status s = set_up(self, args, err);
    if (s < 0) {
        destroy(self);
        return s;
    }
    *out = self;
    return SL_OK;
}

/* ---- activate ---------------------------------------------------------------------------------------------------- */

/* Where the rows of each layer lie in a page and in a ring. */
static void lay_out(sl_instance *self) {
    int64_t page = 0, row = 0, element = sl_dtype_bits(self->dtype) / 8;
    self->full_row_bytes = 0;
    for (int32_t i = 0; i < self->model->n_layers; i++) {
        duo_layer *l = &self->layers[i];
        l->k_head = l->d_k * element;
        l->v_head = l->d_v * element;
        l->full_k_row = l->n_full * l->k_head;
        l->full_v_row = l->n_full * l->v_head;
        l->full_k_offset = page, page += l->full_k_row * self->page_rows;
        l->full_v_offset = page, page += l->full_v_row * self->page_rows;
        self->full_row_bytes += l->full_k_row + l->full_v_row;
        l->ring_k_row = l->n_streaming * l->k_head;
        l->ring_v_row = l->n_streaming * l->v_head;
        l->ring_offset = row;
        self->ring_spans[2 * i] = row, row += l->ring_k_row;
        self->ring_spans[2 * i + 1] = row, row += l->ring_v_row;
        self->ring_spans[2 * i + 2] = row;
    }
    self->page_bytes = page;
    self->ring.row_bytes = row;
}

static void deactivate(sl_instance *self) {
    duo_device_deactivate(self);
    for (int64_t i = 0; self->seqs != NULL && i < self->limits.max_seqs; i++)
        if (self->seqs[i].is_open)
            duo_forget(self, &self->seqs[i]);
    void **blocks[] = {(void **)&self->seqs,          (void **)&self->all_pages,    (void **)&self->chunk_k,
                       (void **)&self->chunk_v,       (void **)&self->k_pages,      (void **)&self->v_pages,
                       (void **)&self->k_rows,        (void **)&self->v_rows,       (void **)&self->token_index,
                       (void **)&self->segments,      (void **)&self->segment_ptrs, (void **)&self->seq_views,
                       (void **)&self->seq_view_ptrs, (void **)&self->interval,     (void **)&self->head_masks};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
        self->mem->release(self->host, SL_DEVICE_CPU, *blocks[i]);
        *blocks[i] = NULL;
    }
}

/* One of the instance's arrays. */
static void take(sl_instance *self, void *array, int64_t n, size_t size, int *ok) {
    void *p =
        *ok ? self->mem->alloc(self->host, SL_DEVICE_CPU, duo_max(n, 1) * (int64_t)size, 64, SL_MEM_PLUGIN) : NULL;
    memcpy(array, &p, sizeof p);
    *ok = p != NULL;
}

static int take_store(sl_instance *self) {
    int64_t n = self->limits.max_seqs, runs = n * self->max_runs, kept = self->ring.sink + self->ring.recent;
    int64_t k = 0, v = 0;
    int fits = 1;
    for (int32_t i = 0; i < self->model->n_layers; i++) {
        k = duo_max(k, self->layers[i].ring_k_row);
        v = duo_max(v, self->layers[i].ring_v_row);
    }
    take(self, &self->seqs, n, sizeof *self->seqs, &fits);
    take(self, &self->all_pages, n * self->max_pages, sizeof *self->all_pages, &fits);
    take(self, &self->chunk_k, self->limits.max_rows * k, 1, &fits);
    take(self, &self->chunk_v, self->limits.max_rows * v, 1, &fits);
    take(self, &self->k_pages, runs * self->max_pages, sizeof *self->k_pages, &fits);
    take(self, &self->v_pages, runs * self->max_pages, sizeof *self->v_pages, &fits);
    take(self, &self->k_rows, self->max_runs * (n * kept + self->limits.max_rows), sizeof *self->k_rows, &fits);
    take(self, &self->v_rows, self->max_runs * (n * kept + self->limits.max_rows), sizeof *self->v_rows, &fits);
    take(self, &self->token_index, n * kept, sizeof *self->token_index, &fits);
    take(self, &self->segments, runs, sizeof *self->segments, &fits);
    take(self, &self->segment_ptrs, runs, sizeof *self->segment_ptrs, &fits);
    take(self, &self->seq_views, n, sizeof *self->seq_views, &fits);
    take(self, &self->seq_view_ptrs, n, sizeof *self->seq_view_ptrs, &fits);
    for (int64_t i = 0; fits && i < n; i++)
        self->seqs[i].pages = self->all_pages + i * self->max_pages;
    return fits;
}

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    self->limits = *limits;
    if (self->dtype_auto)
        self->dtype = limits->compute == SL_BF16 ? SL_BF16 : SL_F32;
    /* a window beyond the context is the context */
    int64_t most = limits->max_context + limits->max_tree;
    self->sink = duo_min(self->sink, most);
    self->recent = duo_min(self->recent, most);
    self->ring.sink = self->sink;
    self->ring.recent = self->recent;
    self->ring.spare = limits->max_tree + self->slack;
    lay_out(self);
    self->max_pages = (most + 2 * self->page_rows - 1) / self->page_rows;
    int ok = 1;
    if (self->on_device) {
        sl_status s = duo_device_activate(self, err);
        if (s < 0) {
            deactivate(self);
            return s;
        }
    } else {
        take(self, &self->interval, 4 * limits->max_rows, sizeof *self->interval, &ok);
        take(self, &self->head_masks, self->max_heads, sizeof *self->head_masks, &ok);
        ok = ok && (!self->has_store || take_store(self));
    }
    if (!ok) {
        deactivate(self);
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for the tables of %lld sequences", (long long)limits->max_seqs);
    }
    sl_logf(self->host, SL_LOG_INFO, "%d of %d KV heads stream: %lld sinks and %lld recent tokens", self->n_streaming,
            self->n_heads, (long long)self->sink, (long long)self->recent);
    return SL_OK;
}

/* ---- the plugin -------------------------------------------------------------------------------------------------- */

static const void *query(sl_instance *self, const char *id) {
    if (strcmp(id, SL_ATTENTION_ID) == 0)
        return &duo_attention;
    if (strcmp(id, SL_COST_ID) == 0)
        return &duo_cost;
    return strcmp(id, SL_KV_STORE_ID) != 0 ? NULL : self->on_device ? &duo_device_store : &duo_store;
}

#define PARAM(name, type, fallback, choices, min, max, flags, doc)                                                     \
    &(const sl_param_def) { SL_SIZE(sl_param_def), name, doc, fallback, choices, min, max, type, flags }
static const char *const windows[] = {"chunk", "exact", NULL};
static const char *const first_chunks[] = {"dense", "streaming", NULL};
static const char *const dtypes[] = {"auto", "f32", "f16", "bf16", NULL};
static const sl_param_def *const params[] = {
    PARAM("pattern_file", SL_PARAM_PATH, NULL, NULL, 1, 0, 0,
          "gates of the KV heads: a TSV, a line a layer, a column a KV head; a config.json beside it may hold "
          "sink_size and recent_size"),
    PARAM("sparsity", SL_PARAM_FLOAT, NULL, NULL, 0, 1, 0,
          "share of KV heads that stream, those with the lowest gates; 0.5 unless threshold is given"),
    PARAM("threshold", SL_PARAM_FLOAT, NULL, NULL, 0, 1, 0,
          "heads with gates below it stream; in the place of sparsity"),
    PARAM("sink_size", SL_PARAM_INT, NULL, NULL, 0, 1e9, 0,
          "first tokens that streaming heads keep; default: that of config.json, else 64"),
    PARAM("recent_size", SL_PARAM_INT, NULL, NULL, 1, 1e9, 0,
          "last tokens that streaming heads keep; default: that of config.json, else 256"),
    PARAM("window", SL_PARAM_ENUM, "chunk", windows, 1, 0, 0,
          "what a prompt's token sees on streaming heads; chunk: recent tokens before its chunk, and the chunk; exact: "
          "its own last recent_size"),
    PARAM("first_chunk", SL_PARAM_ENUM, "dense", first_chunks, 1, 0, 0,
          "window = chunk: whether streaming heads see the whole first chunk or their own window"),
    PARAM("prefill_chunk", SL_PARAM_INT, "0", NULL, 0, 1e6, 0,
          "window = chunk: tokens of a chunk, cut at multiples of it; 0: the engine's chunks"),
    PARAM("slack", SL_PARAM_INT, "16", NULL, 1, 1e6, SL_PARAM_EXPERT,
          "tokens by which a sequence can be cut, or forked before its end; kept by streaming heads beside the window"),
    PARAM("page", SL_PARAM_INT, "64", NULL, 1, 4096, SL_PARAM_EXPERT, "cache: rows of one page of retrieval heads"),
    PARAM("dtype", SL_PARAM_ENUM, "auto", dtypes, 1, 0, SL_PARAM_EXPERT,
          "cache: how rows are stored; auto: as engine.compute"),
    NULL};
static const char *const roles[] = {"attention", "kvcache.store", NULL};
static const char *const needs[] = {SL_MEM_ID,          SL_OPS_ID,         SL_THREADS_ID, "sl.mask.heads/1",
                                    "sl.chunk.align/1", "sl.scope.also/1", NULL};
static const char *const none[] = {NULL};
static const char *const provides[] = {"sl.kv.rows/1", "sl.kv.perhead/1", NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "duoattention",
    .roles = roles,
    .version = "0.1.0",
    .summary = "retrieval heads keep all tokens, streaming heads keep sinks and recent ones",
    .paper = "DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads, arXiv 2410.10819",
    .vendor = "sluice",
    .license = "Apache-2.0",
    .params = params,
    .needs = needs,
    .wants = none,
    .provides = provides,
    .devices = SL_ON_CPU | SL_ON_CUDA,
    .accepts = accepts,
    .create = create,
    .destroy = destroy,
    .activate = activate,
    .deactivate = deactivate,
    .query = query,
};

SL_PACKAGE(&plugin)
