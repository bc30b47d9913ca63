/* kivi - keys coded by channel over groups of tokens, values by token over groups of channels, newest rows plain.
 *
 * "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache", arXiv 2402.02750. Attention reads the codes: views
 * have segments of quantised rows (SL_SEGMENT_QROWS), so any attention plugin that reads those works on them, and lists
 * of tokens and policies too. Here: life, sequences, and the step; see kivi.h for how rows are kept.
 *
 * Rows are coded in the event that follows a commit, when policies have met them plain; a store whose network gets no
 * events (a draft model's) does it before its next decoding step, which is the same. */
#include "kivi_device.h"

#include <stdlib.h>
#include <string.h>

#include "sl_host_util.h"
#include "sl_params.h"
#include "sl_tensor.h"

/* ---- life ----------------------------------------------------------------------------------------------------------
 */

static void destroy(sl_instance *self) {
    if (self == NULL)
        return;
    free(self->layers);
    free(self->shapes);
    free(self->shape_of_list);
    free(self);
}

static int64_t element_bytes(const sl_instance *self) { return sl_dtype_bits(self->dtype) / 8; }

static kivi_shape *shape_for(sl_instance *self, int64_t d_k, int64_t d_v) {
    for (int32_t i = 0; i < self->n_shapes; i++)
        if (self->shapes[i].d[0] == d_k && self->shapes[i].d[1] == d_v)
            return &self->shapes[i];
    kivi_shape *sh = &self->shapes[self->n_shapes++];
    *sh = (kivi_shape){.d = {d_k, d_v}};
    return sh;
}

static void measure(sl_instance *self, kivi_shape *sh) {
    int64_t G = self->G, bytes[KIVI_POOLS];
    sh->scale_row = sh->d[1] / G * 2;
    for (int side = 0; side < 2; side++) {
        sh->plain_row[side] = sh->d[side] * element_bytes(self);
        sh->coded_row[side] = sh->d[side] * self->bits[side] / 8;
        sh->scales[side] = G * sh->coded_row[side];
        sh->minima[side] = sh->scales[side] + (side == 0 ? sh->d[0] * 2 : G * sh->scale_row);
        bytes[2 * side] = G * sh->plain_row[side];
        bytes[2 * side + 1] = 2 * sh->minima[side] - sh->scales[side];
    }
    for (int i = 0; i < KIVI_POOLS; i++)
        sl_blocks_init(&sh->pools[i], self->host, self->mem, bytes[i]);
}

/* Do the settings fit the model's heads? */
static sl_status check_heads(const sl_instance *self, sl_error *err) {
    if (self->R % self->G != 0 || self->R < self->G)
        return sl_fail(err, SL_E_INVALID, "kivi: residual = %lld is no multiple of group_size = %lld",
                       (long long)self->R, (long long)self->G);
    for (int32_t l = 0; l < self->n_layers; l++) {
        const sl_layer_info *info = self->model->layers[l];
        if (self->bits[1] < KIVI_PLAIN && info->v_head_dim % self->G != 0)
            return sl_fail(err, SL_E_INVALID,
                           "kivi: layer %d: values of %d channels do not divide into groups of group_size = %lld", l,
                           info->v_head_dim, (long long)self->G);
        if (info->head_dim * self->bits[0] % 8 != 0)
            return sl_fail(err, SL_E_INVALID, "kivi: layer %d: keys of %d channels do not fill bytes at %d bits", l,
                           info->head_dim, self->bits[0]);
    }
    return SL_OK;
}

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    static const sl_dtype dtypes[] = {SL_F32, SL_F32, SL_F16, SL_BF16}; /* auto is settled by activate */
    static const int bits[] = {2, 4, 8, KIVI_PLAIN};
    sl_instance *self = calloc(1, sizeof *self);
    if (self == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "kivi: out of memory");
    self->host = args->host;
    self->model = args->model;
    self->n_layers = args->model->n_layers;
    self->mem = sl_host_service(args->host, SL_MEM_ID, SL_FIELD_END(sl_mem, release));
    self->ops = sl_host_service(args->host, SL_OPS_ID, SL_FIELD_END(sl_ops, convert));
    self->threads = sl_host_service(args->host, SL_THREADS_ID, SL_FIELD_END(sl_threads, parallel_for));
    int both = sl_param_index(args->params, "bits"), k = sl_param_index(args->params, "bits_k"),
        v = sl_param_index(args->params, "bits_v");
    self->bits[0] = bits[k > 0 ? k - 1 : both];
    self->bits[1] = bits[v > 0 ? v - 1 : both];
    self->R = sl_param_int(args->params, "residual");
    self->chunked = sl_param_bool(args->params, "chunked");
    self->exact_cuts = sl_param_index(args->params, "truncate") == 1;
    self->dtype_auto = sl_param_index(args->params, "dtype") == 0;
    self->dtype = dtypes[sl_param_index(args->params, "dtype")];
    static const int64_t groups[] = {32, 64, 128};
    self->G = groups[sl_param_index(args->params, "group_size")];
    self->layers = calloc((size_t)self->n_layers, sizeof *self->layers);
    self->shapes = calloc((size_t)self->n_layers, sizeof *self->shapes);
    for (int32_t l = 0; self->layers != NULL && self->shapes != NULL && l < self->n_layers; l++) {
        const sl_layer_info *info = self->model->layers[l];
        self->layers[l] =
            (kivi_layer){info->n_kv_heads, self->n_lists, shape_for(self, info->head_dim, info->v_head_dim)};
        self->n_lists += info->n_kv_heads;
        self->max_heads = info->n_kv_heads > self->max_heads ? info->n_kv_heads : self->max_heads;
    }
    self->shape_of_list = calloc((size_t)self->n_lists + 1, sizeof(kivi_shape *));
    self->on_device = args->scope != NULL && args->scope->device == SL_DEVICE_CUDA;
    self->prompt_rows = sl_param_int(args->params, "prompt_rows");
    sl_status status = check_heads(self, err);
    if (status >= 0 && self->on_device)
        status = kivi_device_check(self, err);
    if (self->mem == NULL || self->ops == NULL || self->threads == NULL)
        status = sl_fail(err, SL_E_NOT_FOUND, "kivi: the host lacks a service this store needs");
    if (self->layers == NULL || self->shapes == NULL || self->shape_of_list == NULL)
        status = sl_fail(err, SL_E_NO_MEMORY, "kivi: out of memory");
    for (int32_t l = 0; status >= 0 && l < self->n_layers; l++)
        for (int32_t h = 0; h < self->layers[l].n_heads; h++)
            self->shape_of_list[self->layers[l].first_list + h] = self->layers[l].shape;
    if (status < 0) {
        destroy(self);
        return status;
    }
    *out = self;
    return SL_OK;
}

static void deactivate(sl_instance *self) {
    kivi_device_deactivate(self);
    for (int32_t i = 0; self->seqs != NULL && i < self->limits.max_seqs; i++)
        kivi_close(self, i);
    free(self->seqs);
    free(self->rows);
    self->seqs = NULL;
    self->rows = NULL;
    kivi_tables_free(self);
    for (int32_t i = 0; i < self->n_shapes; i++)
        for (int p = 0; p < KIVI_POOLS; p++)
            sl_blocks_finish(&self->shapes[i].pools[p]);
}

/* Is anything ever coded? */
static int is_plain(const sl_instance *self) {
    return (self->bits[0] == KIVI_PLAIN && self->bits[1] == KIVI_PLAIN) || self->limits.max_context <= self->R;
}

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    self->limits = *limits;
    if (limits->deterministic && self->chunked && !is_plain(self))
        return sl_fail(err, SL_E_UNIMPLEMENTED,
                       "kivi: chunked = yes codes rows between the chunks of a prompt, so tokens would depend on "
                       "engine.prefill_chunk: set chunked = no, or engine.deterministic = no");
    if (limits->deterministic && limits->max_tree > 1 && !is_plain(self))
        return sl_fail(err, SL_E_UNIMPLEMENTED,
                       "kivi: rows are coded between steps, so tokens would depend on how many drafts a step accepts: "
                       "leave speculation out, or set engine.deterministic = no");
    if (self->dtype_auto)
        self->dtype = limits->compute == SL_BF16 ? SL_BF16 : SL_F32;
    int64_t widest = 1, rows = limits->max_context + limits->max_tree;
    for (int32_t i = 0; i < self->n_shapes; i++) {
        measure(self, &self->shapes[i]);
        for (int side = 0; side < 2; side++)
            widest = self->shapes[i].d[side] > widest ? self->shapes[i].d[side] : widest;
    }
    if (self->on_device) {
        self->rows = calloc((size_t)widest, sizeof *self->rows);
        sl_status status =
            self->rows != NULL ? kivi_device_activate(self, err) : sl_fail(err, SL_E_NO_MEMORY, "kivi: out of memory");
        if (status < 0)
            deactivate(self);
        return status;
    }
    self->max_coded_parts = rows / self->R + 8;
    self->max_blocks = 2 * kivi_parts(rows, self->G) + self->max_coded_parts + 8;
    self->seqs = calloc((size_t)limits->max_seqs, sizeof *self->seqs);
    self->rows = calloc((size_t)(2 * self->G * widest), sizeof *self->rows);
    if (self->seqs == NULL || self->rows == NULL || kivi_tables_grow(self) < 0) {
        deactivate(self);
        return sl_fail(err, SL_E_NO_MEMORY, "kivi: no memory for the tables of %lld sequences",
                       (long long)limits->max_seqs);
    }
    return SL_OK;
}

static sl_status layout(sl_instance *self, int32_t layer, sl_kv_layout *out) {
    (void)layer;
    int is_coding = self->bits[0] < KIVI_PLAIN || self->bits[1] < KIVI_PLAIN;
    out->kinds = SL_SEGMENT_ROWS | (is_coding ? SL_SEGMENT_QROWS : 0);
    out->flags = SL_KV_FORKS | SL_KV_EXPORTS | SL_KV_EDITS | SL_KV_PER_HEAD | (self->exact_cuts ? 0 : SL_KV_TRUNCATES);
    if (self->on_device) /* append does what goes before; rows stay where they are put */
        out->flags = SL_KV_FORKS | SL_KV_EXPORTS | SL_KV_FUSES_ROPE;
    out->key_state = SL_KEYS_ROTATED;
    out->dtype = is_coding ? SL_F32 : self->dtype; /* as which rows are exported: values of codes are exact in f32 */
    return SL_OK;
}

/* ---- a step --------------------------------------------------------------------------------------------------------
 */

/* Codes what should be coded. Returns whether blocks of keys were. */
static int flush(sl_instance *self, kivi_sequence *s) {
    int keys = 0;
    for (int32_t i = 0; i < self->n_lists; i++)
        keys |= kivi_list_flush(self, self->shape_of_list[i], &s->lists[i]);
    return keys;
}

static void uncover(sl_instance *self, const kivi_sequence *s) {
    for (int32_t i = 0; i < self->n_lists; i++)
        kivi_list_uncover(self, self->shape_of_list[i], &s->lists[i]);
}

static sl_status reserve(sl_instance *self, const sl_batch *batch, sl_error *err) {
    if (self->device != NULL)
        return kivi_device_reserve(self, batch, err);
    for (int32_t i = 0; i < batch->n_seqs; i++) {
        kivi_sequence *s = &self->seqs[batch->seq[i]];
        int64_t n_new = batch->row_begin[i + 1] - batch->row_begin[i];
        if (s->lists == NULL || batch->n_past[i] != s->n_tokens)
            return sl_fail(err, SL_E_STATE, "kivi: sequence %d has no place for rows behind %lld", batch->seq[i],
                           (long long)batch->n_past[i]);
        if (batch->stage[i] != SL_STAGE_PREFILL)
            flush(self, s);
        sl_status status = SL_OK;
        for (int32_t k = 0; status >= 0 && k < self->n_lists; k++) {
            kivi_list *l = &s->lists[k];
            status = l->token != NULL && l->n + n_new > l->cap_tokens
                         ? SL_E_RANGE
                         : kivi_list_cover(self, self->shape_of_list[k], l, n_new);
        }
        if (status < 0) {
            for (int32_t k = 0; k <= i; k++)
                uncover(self, &self->seqs[batch->seq[k]]);
            return sl_fail(err, status == SL_E_RANGE ? SL_E_STATE : status,
                           "kivi: sequence %d has no place for rows up to %lld", batch->seq[i],
                           (long long)(batch->n_past[i] + n_new));
        }
    }
    return SL_OK;
}

typedef struct append_job {
    sl_instance *self;
    const sl_kv_append *args;
} append_job;

static void append_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    (void)worker;
    const append_job *job = user;
    const sl_instance *self = job->self;
    const sl_kv_append *args = job->args;
    const sl_batch *b = args->rows->batch;
    const kivi_layer *y = &self->layers[args->layer];
    const kivi_shape *sh = y->shape;
    for (int64_t i = begin; i < end; i++) {
        int32_t row = args->rows->index != NULL ? args->rows->index[i] : (int32_t)i, at = b->row_seq[row];
        for (int32_t h = 0; at >= 0 && h < y->n_heads; h++)
            kivi_list_put(self, y->shape, &self->seqs[b->seq[at]].lists[y->first_list + h], row - b->row_begin[at],
                          (const float *)args->k.data + (i * y->n_heads + h) * sh->d[0],
                          (const float *)args->v.data + (i * y->n_heads + h) * sh->d[1]);
    }
}

static sl_status append(sl_instance *self, const sl_kv_append *args) {
    append_job job = {self, args};
    if (self->device != NULL)
        return kivi_device_append(self, args);
    if (args->overwrite)
        return SL_E_UNIMPLEMENTED;
    if (args->rows->n < 32)
        append_range(&job, 0, args->rows->n, 0);
    else
        self->threads->parallel_for(self->host, args->rows->n, 8, append_range, &job);
    return SL_OK;
}

static sl_status commit(sl_instance *self, const sl_lane *lane, const sl_commit *c, sl_error *err) {
    (void)lane;
    if (self->device != NULL)
        return kivi_device_commit(self, c, err);
    for (int32_t i = 0; i < c->batch->n_seqs; i++) {
        kivi_sequence *s = &self->seqs[c->batch->seq[i]];
        int64_t n_path = c->path_begin[i + 1] - c->path_begin[i];
        for (int32_t k = 0; k < self->n_lists; k++)
            kivi_list_commit(self, self->shape_of_list[k], &s->lists[k], c->path + c->path_begin[i], n_path,
                             s->n_tokens);
        s->n_tokens += n_path;
    }
    return SL_OK;
}

/* The step is over and policies have chosen. */
static sl_status event(sl_instance *self, const sl_event *what, sl_error *err) {
    (void)err;
    int is_prompt = what->kind == SL_EVENT_PREFILL_END, is_chunk = what->kind == SL_EVENT_CHUNK_END && self->chunked;
    if ((!is_prompt && !is_chunk && what->kind != SL_EVENT_COMMIT) || what->seq < 0 ||
        what->seq >= self->limits.max_seqs)
        return SL_OK;
    if (self->device != NULL) {
        kivi_device_seq *on = &self->device->seqs[what->seq];
        on->decoding |= !is_chunk;
        if (on->is_open)
            kivi_device_flush(self, what->seq);
        return SL_OK;
    }
    if (self->seqs[what->seq].lists == NULL)
        return SL_OK;
    kivi_sequence *s = &self->seqs[what->seq];
    int began = !is_chunk && !s->decoding;
    if (!is_chunk)
        s->decoding = 1;
    if (flush(self, s) || began)
        kivi_trim(self);
    return SL_OK;
}

/* ---- the plugin ----------------------------------------------------------------------------------------------------
 */

static sl_status open_seq(sl_instance *self, int32_t seq, int32_t parent, int64_t upto, sl_error *err) {
    return (self->device != NULL ? kivi_device_open : kivi_open)(self, seq, parent, upto, err);
}

static void close_seq(sl_instance *self, int32_t seq) {
    (self->device != NULL ? kivi_device_close : kivi_close)(self, seq);
}

static sl_status grow(sl_instance *self, int32_t seq, int64_t n_tokens, sl_error *err) {
    return (self->device != NULL ? kivi_device_grow : kivi_grow)(self, seq, n_tokens, err);
}

static sl_status view(sl_instance *self, const sl_lane *lane, int32_t layer, const sl_rows *rows,
                      const sl_rowset *tokens, const sl_view **out) {
    return self->device != NULL ? kivi_device_view(self, lane, layer, tokens, out)
                                : kivi_view(self, lane, layer, rows, tokens, out);
}

static sl_status truncate_seq(sl_instance *self, int32_t seq, int64_t n, int64_t *minimum) {
    return (self->device != NULL ? kivi_device_truncate : kivi_truncate)(self, seq, n, minimum);
}

static sl_status edit(sl_instance *self, const sl_kv_edit *what) {
    return self->device != NULL ? SL_E_UNIMPLEMENTED : kivi_edit(self, what);
}

static sl_status copy_rows(sl_instance *self, const sl_kv_copy *what, sl_error *err) {
    return (self->device != NULL ? kivi_device_copy_rows : kivi_copy_rows)(self, what, err);
}

static sl_status length(sl_instance *self, int32_t seq, int64_t *n_tokens, int64_t *bytes) {
    return (self->device != NULL ? kivi_device_length : kivi_length)(self, seq, n_tokens, bytes);
}

static sl_status rows(sl_instance *self, int32_t layer, int32_t seq, int64_t *n_rows) {
    int64_t n = 0, bytes;
    if (self->device == NULL)
        return kivi_rows(self, layer, seq, n_rows);
    SL_TRY(kivi_device_length(self, seq, &n, &bytes));
    for (int32_t h = 0; layer >= 0 && layer < self->n_layers && h < self->layers[layer].n_heads; h++)
        n_rows[h] = n;
    return layer >= 0 && layer < self->n_layers ? SL_OK : SL_E_NOT_FOUND;
}

static sl_status quote(sl_instance *self, sl_kv_quote *io) {
    return (self->device != NULL ? kivi_device_quote : kivi_quote)(self, io);
}

static const sl_kv_store store = {
    .struct_size = SL_SIZE(sl_kv_store),
    .layout = layout,
    .quote = quote,
    .open = open_seq,
    .close = close_seq,
    .grow = grow,
    .reserve = reserve,
    .append = append,
    .view = view,
    .commit = commit,
    .truncate = truncate_seq,
    .edit = edit,
    .copy_rows = copy_rows,
    .length = length,
    .rows = rows,
};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_KV_STORE_ID) == 0 ? (const void *)&store : strcmp(id, SL_COST_ID) == 0 ? &kivi_cost : NULL;
}

static const char *const bit_choices[] = {"2", "4", "8", "16", NULL};
static const char *const own_bit_choices[] = {"same", "2", "4", "8", "16", NULL};
static const char *const group_choices[] = {"32", "64", "128", NULL};
static const char *const dtype_choices[] = {"auto", "f32", "f16", "bf16", NULL};
static const char *const cut_choices[] = {"stored", "exact", NULL};
static const sl_param_def bits_both = {
    SL_SIZE(sl_param_def), "bits", "bits of a number; 16: stays plain", "2", bit_choices, 0, 0, SL_PARAM_ENUM, 0};
static const sl_param_def bits_k = {SL_SIZE(sl_param_def), "bits_k", "bits of keys", "same", own_bit_choices, 0, 0,
                                    SL_PARAM_ENUM,         0};
static const sl_param_def bits_v = {SL_SIZE(sl_param_def), "bits_v", "bits of values", "same", own_bit_choices, 0, 0,
                                    SL_PARAM_ENUM,         0};
static const sl_param_def group_size = {SL_SIZE(sl_param_def),
                                        "group_size",
                                        "tokens (keys) or channels (values) that share a scale",
                                        "32",
                                        group_choices,
                                        0,
                                        0,
                                        SL_PARAM_ENUM,
                                        0};
static const sl_param_def residual = {
    SL_SIZE(sl_param_def), "residual", "newest rows that stay plain; a multiple of group_size", "128", NULL, 32, 1e9,
    SL_PARAM_INT,          0};
static const sl_param_def chunked = {SL_SIZE(sl_param_def),
                                     "chunked",
                                     "code rows after each chunk of a prompt: less memory, other tokens",
                                     "no",
                                     NULL,
                                     0,
                                     0,
                                     SL_PARAM_BOOL,
                                     0};
static const sl_param_def truncate_how = {SL_SIZE(sl_param_def),
                                          "truncate",
                                          "stored: a cut leaves rows as they are kept; exact: refuse cuts after which "
                                          "more would be coded than without them",
                                          "stored",
                                          cut_choices,
                                          0,
                                          0,
                                          SL_PARAM_ENUM,
                                          0};
static const sl_param_def dtype = {
    SL_SIZE(sl_param_def), "dtype", "how plain rows are stored; auto: as engine.compute", "auto", dtype_choices, 0, 0,
    SL_PARAM_ENUM,         0};
static const sl_param_def prompt_rows = {
    SL_SIZE(sl_param_def),
    "prompt_rows",
    "on a GPU: plain rows of all prompts together, until they end; 0: as many as fit",
    "0",
    NULL,
    0,
    1e9,
    SL_PARAM_INT,
    0};
static const sl_param_def *const params[] = {&bits_both, &bits_k,       &bits_v, &group_size,  &residual,
                                             &chunked,   &truncate_how, &dtype,  &prompt_rows, NULL};
static const char *const roles[] = {"kvcache.store", NULL};
static const char *const needs[] = {SL_MEM_ID, SL_OPS_ID, SL_THREADS_ID, NULL};
static const char *const wants[] = {"sl.event.commit/1", NULL};
static const char *const provides[] = {
    "sl.kv.qrows/1", "sl.kv.fork/1", "sl.kv.truncate/1", "sl.kv.export/1", "sl.kv.edit/1", "sl.kv.perhead/1", NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "kivi",
    .roles = roles,
    .version = "0.1.0",
    .summary = "keys in 2, 4 or 8 bits by channel, values by token, newest rows plain; attended as they are kept",
    .paper = "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache, arXiv 2402.02750",
    .vendor = "sluice",
    .license = "Apache-2.0",
    .params = params,
    .needs = needs,
    .wants = wants,
    .provides = provides,
    .devices = SL_ON_CPU | SL_ON_CUDA,
    .create = create,
    .destroy = destroy,
    .activate = activate,
    .deactivate = deactivate,
    .query = query,
    .event = event,
};

SL_PACKAGE(&plugin)
