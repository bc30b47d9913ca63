/* tidaldecode - a few layers attend to everything and say which positions matter, the others attend to those.
 *
 * "TidalDecode: Fast and Accurate LLM Decoding with Position Persistent Sparse Attention", arXiv 2410.05076, section 3.
 * At decode, layers below sparse_layer_start are dense; that layer and the re-selection layers are dense too and make
 * lists of the positions with the largest raw scores; every other layer attends to the list of the selecting layer
 * below it. The cache keeps everything, prompts are dense. Lists live for one step: forks, truncation and rejected
 * drafts have nothing to undo. */
#include "tidal_device.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sl_error.h"
#include "sl_host_util.h"
#include "sl_params.h"

/* Scores of the selecting layer stand in scratch block by block; a block of rows takes no more than this, but one row
 * always fits. */
enum { SCORE_BYTES = 8 << 20 };

static const char *const counters[] = {"rows_selected", "rows_sparse", "layers_promoted", "rows_corrected", NULL};

void tidal_count(const sl_instance *self, const char *name, int64_t n) {
    if (self->metrics != NULL)
        self->metrics->add(self->host, name, (double)n);
}

/* ---- parameters ------------------------------------------------------------------------------------------------ */

static sl_status read_rule(const sl_params *params, tidal_rule *rule, sl_error *err) {
    static const struct {
        const char *name;
        int heads;
    } only[] = {{"group_reduce", TIDAL_KV_GROUP}, {"n_sink", TIDAL_LAYER}, {"middle_ratio", TIDAL_LAYER}};
    static const char *const modes[] = {"query", "kv_group", "layer"};
    *rule = (tidal_rule){.budget = sl_param_int(params, "token_budget"),
                         .n_sink = sl_param_int(params, "n_sink"),
                         .middle_ratio = sl_param_real(params, "middle_ratio"),
                         .heads = sl_param_index(params, "select_heads"),
                         .force_current = sl_param_bool(params, "force_current")};
    int64_t min_context = sl_param_int(params, "min_context");
    rule->min_context = min_context > rule->budget ? min_context : rule->budget;
    for (size_t i = 0; i < sizeof only / sizeof *only; i++)
        if (sl_param_find(params, only[i].name)->is_given && rule->heads != only[i].heads)
            return sl_fail(err, SL_E_INVALID, "tidaldecode: %s is for select_heads = %s only", only[i].name,
                           modes[only[i].heads]);
    return SL_OK;
}

/* A calibration is a safetensors file; its metadata says for which model it was made and what replaces the rule. */
static sl_status read_calibration(const sl_create_args *args, sl_artifact **out, const char **ids, sl_error *err) {
    const char *path = sl_param_text(args->params, "calibration");
    *out = NULL;
    *ids = NULL;
    if (path == NULL)
        return SL_OK;
    if (strcmp(sl_param_text(args->params, "reselect_layers"), "auto") != 0)
        return sl_fail(err, SL_E_INVALID, "tidaldecode: calibration is read with reselect_layers = auto only");
    const sl_artifacts *service;
    SL_TRY(sl_host_require(args->host, "tidaldecode", SL_ARTIFACT_ID, SL_FIELD_END(sl_artifacts, metadata),
                           (const void **)&service, err));
    SL_TRY(service->open(args->host, path, out, err));
    const char *model = service->metadata(args->host, *out, "fingerprint");
    *ids = service->metadata(args->host, *out, "reselect_layers");
    char expected[17];
    snprintf(expected, sizeof expected, "%016" PRIx64, args->model->fingerprint);
    sl_status s = SL_OK;
    if (*ids == NULL || model == NULL)
        s = sl_fail(err, SL_E_DATA, "%s: a calibration has the metadata \"fingerprint\" and \"reselect_layers\"", path);
    else if (strcmp(model, expected) != 0)
        s = sl_fail(err, SL_E_DATA, "%s: made for the model with fingerprint %s, this one has %s", path, model,
                    expected);
    else if (strcmp(*ids, "auto") == 0)
        s = sl_fail(err, SL_E_DATA, "%s: \"reselect_layers\" must be none, or layer ids with commas", path);
    if (s < 0)
        service->close(args->host, *out);
    return s;
}

static sl_status make_roles(sl_instance *self, const sl_create_args *args, sl_error *err) {
    sl_artifact *artifact;
    const char *calibrated;
    SL_TRY(read_calibration(args, &artifact, &calibrated, err));
    sl_status s = tidal_roles_make(args->model, sl_param_int(args->params, "sparse_layer_start"),
                                   sl_param_text(args->params, "reselect_layers"), calibrated, self->rule.heads,
                                   self->roles, err);
    if (artifact != NULL) {
        const sl_artifacts *service = sl_host_service(args->host, SL_ARTIFACT_ID, SL_FIELD_END(sl_artifacts, close));
        service->close(args->host, artifact);
        if (s < 0)
            return sl_fail_within(err, s, "tidaldecode: %s", sl_param_text(args->params, "calibration"));
    }
    return s < 0 ? sl_fail_within(err, s, "tidaldecode") : SL_OK;
}

/* Work sources are asked for the target only. */
static sl_status read_correction(sl_instance *self, const sl_create_args *args, sl_error *err) {
    self->correction_period = sl_param_int(args->params, "correction_period");
    self->correction_chunk = sl_param_int(args->params, "correction_chunk");
    if (self->correction_period == 0)
        return sl_param_find(args->params, "correction_chunk")->is_given
                   ? sl_fail(err, SL_E_INVALID, "tidaldecode: correction_chunk is for correction_period > 0 only")
                   : SL_OK;
    if (self->correction_period < 256)
        return sl_fail(err, SL_E_RANGE, "tidaldecode: correction_period = %" PRId64 " is neither 0 nor at least 256",
                       self->correction_period);
    const sl_model *models = sl_host_service(args->host, SL_MODEL_ID, SL_FIELD_END(sl_model, info));
    if (models != NULL && models->info(args->host, 0) != args->model)
        return sl_fail(err, SL_E_INVALID,
                       "tidaldecode: correction_period is for the target's cache; a draft model's "
                       "rows are not corrected");
    return SL_OK;
}

/* ---- life ------------------------------------------------------------------------------------------------------ */

static void destroy(sl_instance *self) {
    if (self == NULL)
        return;
    free(self->roles);
    free(self);
}

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    sl_instance *self = calloc(1, sizeof *self);
    if (self == NULL || (self->roles = calloc((size_t)args->model->n_layers, sizeof *self->roles)) == NULL) {
        destroy(self);
        return sl_fail(err, SL_E_NO_MEMORY, "tidaldecode: out of memory");
    }
    self->host = args->host;
    self->model = args->model;
    self->metrics = sl_host_service(args->host, SL_METRICS_ID, SL_FIELD_END(sl_metrics, add));
    self->group_reduce = sl_param_index(args->params, "group_reduce");
    self->verify_select = sl_param_index(args->params, "verify_select");
    self->start = sl_param_int(args->params, "sparse_layer_start");
    self->half_scores = sl_param_index(args->params, "score_dtype") == 0;
    const struct {
        const char *id;
        uint64_t size;
        const void **table;
    } services[] = {
        {SL_MEM_ID, SL_FIELD_END(sl_mem, release), (const void **)&self->mem},
        {SL_SCRATCH_ID, SL_FIELD_END(sl_scratch, worker), (const void **)&self->scratch},
        {SL_THREADS_ID, SL_FIELD_END(sl_threads, parallel_for), (const void **)&self->threads},
        {SL_OPS_ID, SL_FIELD_END(sl_ops, topk), (const void **)&self->ops},
    };
    sl_status s = SL_OK;
    for (size_t i = 0; s >= 0 && i < sizeof services / sizeof *services; i++)
        s = sl_host_require(args->host, "tidaldecode", services[i].id, services[i].size, services[i].table, err);
    if (s >= 0)
        s = read_rule(args->params, &self->rule, err);
    if (s >= 0)
        s = read_correction(self, args, err);
    if (s >= 0)
        s = make_roles(self, args, err);
    self->on_device = args->scope != NULL && args->scope->device == SL_DEVICE_CUDA;
    if (s >= 0 && self->on_device)
        s = tidal_device_check(self, args, err);
    if (s < 0) {
        destroy(self);
        return s;
    }
    *out = self;
    return SL_OK;
}

static void deactivate(sl_instance *self) {
    tidal_device_deactivate(self);
    tidal_correct_destroy(&self->corrector);
    tidal_calibrate_free(&self->calibrator);
    void **owned[] = {(void **)&self->lists.token, (void **)&self->lists.begin, (void **)&self->lists.everything,
                      (void **)&self->lists.slot,  (void **)&self->lists.stamp, (void **)&self->iota,
                      (void **)&self->shared_begin};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) {
        self->mem->release(self->host, SL_DEVICE_CPU, *owned[i]);
        *owned[i] = NULL;
    }
}

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    int64_t heads = 1, tree = limits->max_tree;
    self->max_groups = 1;
    for (int32_t l = 0; l < self->model->n_layers; l++)
        if (self->roles[l].owner >= 0) {
            tidal_heads h = tidal_heads_of(self, l);
            heads = h.H > heads ? h.H : heads;
            self->max_groups = h.n_lists > self->max_groups ? h.n_lists : self->max_groups;
        }
    if (self->on_device)
        return tidal_device_activate(self, limits, err);
    self->max_rows = limits->max_rows;
    self->max_keys = limits->max_context + tree;
    /* units: decoding rows, and nodes of trees; trees that a drafter has computed as work may be larger than its drafts
     */
    int64_t units = limits->max_seqs * tree < limits->max_rows ? limits->max_seqs * tree : limits->max_rows;
    units = tree > 1 && units < SL_MAX_TREE_NODES ? SL_MAX_TREE_NODES : units;
    int64_t longest = self->rule.min_context < self->max_keys ? self->rule.min_context : self->max_keys;
    int64_t n_lists = units * self->max_groups, row = heads * ((self->max_keys + 15) / 16 * 16);
    self->score_floats =
        row * units * (int64_t)sizeof(float) <= SCORE_BYTES ? row * units : SCORE_BYTES / (int64_t)sizeof(float);
    self->score_floats = self->score_floats < row ? row : self->score_floats;
    self->lists = (tidal_lists){.max_slots = units};
    const struct {
        void **p;
        int64_t bytes;
    } buffers[] = {
        {(void **)&self->lists.token, n_lists * longest * (int64_t)sizeof(int32_t)},
        {(void **)&self->lists.begin, (n_lists + 1) * (int64_t)sizeof(int64_t)},
        {(void **)&self->lists.everything, units},
        {(void **)&self->lists.slot, (limits->max_rows + limits->max_seqs) * (int64_t)sizeof(int32_t)},
        {(void **)&self->lists.stamp, (limits->max_rows + limits->max_seqs) * (int64_t)sizeof(uint64_t)},
        {(void **)&self->iota, limits->max_rows * (int64_t)sizeof(int32_t)},
        {(void **)&self->shared_begin, (limits->max_seqs * self->max_groups + 1) * (int64_t)sizeof(int64_t)},
    };
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        if ((*buffers[i].p = self->mem->alloc(self->host, SL_DEVICE_CPU, buffers[i].bytes, 64, SL_MEM_PLUGIN)) ==
            NULL) {
            deactivate(self);
            return sl_fail(err, SL_E_NO_MEMORY, "tidaldecode: no memory for %" PRId64 " lists of %" PRId64 " positions",
                           n_lists, longest);
        }
    self->corrector = (tidal_corrector){.host = self->host,
                                        .mem = self->mem,
                                        .period = self->correction_period,
                                        .chunk = self->correction_chunk,
                                        .max_seqs = limits->max_seqs,
                                        .min_context = self->rule.min_context};
    if (self->correction_period > 0 && tidal_correct_create(&self->corrector) < 0) {
        deactivate(self);
        return sl_fail(err, SL_E_NO_MEMORY, "tidaldecode: no memory for cache correction");
    }
    for (int64_t i = 0; i < limits->max_rows; i++)
        self->iota[i] = (int32_t)i;
    for (int i = 0; counters[i] != NULL; i++)
        tidal_count(self, counters[i], 0); /* a new name takes memory, hence not in a step */
    int64_t bytes, bytes_per_worker;
    tidal_scratch_need(self, &bytes, &bytes_per_worker);
    sl_status s = self->scratch->reserve(self->host, SL_DEVICE_CPU, bytes, bytes_per_worker);
    if (s < 0) {
        deactivate(self);
        return sl_fail(err, s, "tidaldecode: no scratch for the scores of a row of %" PRId64 " keys", self->max_keys);
    }
    return SL_OK;
}

/* ---- a layer --------------------------------------------------------------------------------------------------- */

static sl_status caps(sl_instance *self, int32_t layer, sl_attn_caps *out) {
    (void)self, (void)layer;
    out->flags = SL_ATTN_TREE | SL_ATTN_NEEDS_ORDER;
    out->segment_kinds = SL_SEGMENT_ROWS | SL_SEGMENT_QROWS;
    out->key_states = 1u << SL_KEYS_ROTATED;
    return SL_OK;
}

/* What happens to the rows of a call. */
typedef struct act {
    uint32_t kind; /* TIDAL_DENSE, TIDAL_SELECT; TIDAL_SPARSE: by lists */
    int by_seq;    /* lists are those of sequences */
    int64_t slot;  /* SPARSE: of the first unit */
} act;

/* A layer that should find lists of this step and finds none (the selecting layer was skipped) selects in its stead. */
static sl_status decide(const sl_instance *self, int32_t layer, const sl_rows *rows, act *out) {
    const sl_batch *b = rows->batch;
    const tidal_role *role = &self->roles[layer];
    int32_t first = tidal_row(rows, 0), last = tidal_row(rows, rows->n - 1), at = b->row_seq[first],
            end = b->row_seq[last];
    *out = (act){TIDAL_DENSE, 0, -1};
    if (at < 0 || end < 0)
        return SL_E_UNIMPLEMENTED;
    for (int32_t i = at; i <= end; i++)
        if (b->stage[i] != b->stage[at])
            return SL_E_INVALID; /* the rows of a call are of one stage */
    if (role->kind == TIDAL_DENSE || b->stage[at] == SL_STAGE_PREFILL)
        return SL_OK;
    if (self->calibrator.on) { /* everything is dense, and each layer says what it would choose */
        if (b->stage[at] == SL_STAGE_DECODE && rows->n == 1)
            out->kind = TIDAL_SELECT;
        return SL_OK;
    }
    out->by_seq = b->stage[at] == SL_STAGE_VERIFY && self->verify_select == TIDAL_VERIFY_SHARED;
    out->kind = TIDAL_SELECT;
    if (role->kind == TIDAL_SELECT || last - first != rows->n - 1)
        return SL_OK;
    out->slot = out->by_seq ? tidal_lists_find(&self->lists, b->step, role->owner, self->max_rows + at, end - at + 1)
                            : tidal_lists_find(&self->lists, b->step, role->owner, first, rows->n);
    if (out->slot < 0)
        return SL_OK;
    int64_t units = out->by_seq ? end - at + 1 : rows->n, everything = 0;
    for (int64_t i = 0; i < units; i++)
        everything += self->lists.everything[out->slot + i];
    if (everything == 0 || everything == units)
        out->kind = everything == 0 ? TIDAL_SPARSE : TIDAL_DENSE;
    return SL_OK;
}

static sl_status select_rows(sl_instance *self, const sl_select *args, const sl_rowset **out) {
    const sl_batch *b = args->rows->batch;
    const tidal_lists *l = &self->lists;
    act what;
    SL_TRY(decide(self, args->layer, args->rows, &what));
    if (what.kind != TIDAL_SPARSE)
        return SL_SKIPPED;
    self->rowset = (sl_rowset){.struct_size = SL_SIZE(sl_rowset),
                               .list_begin = l->begin + what.slot * l->n_groups,
                               .token = l->token,
                               .n_units = args->rows->n,
                               .n_groups = l->n_groups,
                               .per_row = 1,
                               .own_rows = 1};
    if (what.by_seq) { /* a unit for each sequence of the step; those of other calls have empty lists */
        int64_t first = b->row_seq[tidal_row(args->rows, 0)],
                last = b->row_seq[tidal_row(args->rows, args->rows->n - 1)];
        int64_t n = b->n_seqs * (int64_t)l->n_groups, used = (last - first + 1) * l->n_groups;
        for (int64_t i = 0; i <= n; i++) {
            int64_t from_first = i - first * l->n_groups, at = from_first < 0      ? 0
                                                               : from_first > used ? used
                                                                                   : from_first;
            self->shared_begin[i] = l->begin[what.slot * l->n_groups + at];
        }
        self->rowset.list_begin = self->shared_begin;
        self->rowset.n_units = b->n_seqs;
        self->rowset.per_row = self->rowset.own_rows = 0;
    }
    tidal_count(self, "rows_sparse", args->rows->n);
    *out = &self->rowset;
    return SL_OK;
}

static sl_status attend(sl_instance *self, const sl_attend *args) {
    act what;
    SL_TRY(decide(self, args->layer, args->rows, &what));
    if (what.kind != TIDAL_SELECT)
        return self->ops->attend(self->host, args); /* through the view's slots where there are lists */
    if (self->calibrator.on) {
        SL_TRY(tidal_attend_select(self, args, args->layer, 0));
        const sl_batch *b = args->rows->batch;
        tidal_calibrate_add(&self->calibrator, args->layer, &self->lists, b->step,
                            b->token_index[tidal_row(args->rows, 0)]);
        return SL_OK;
    }
    if (self->roles[args->layer].kind == TIDAL_SPARSE)
        tidal_count(self, "layers_promoted", 1);
    return tidal_attend_select(self, args, self->roles[args->layer].owner, what.by_seq);
}

static const sl_attention attention = {.struct_size = SL_SIZE(sl_attention),
                                       .caps = caps,
                                       .select = select_rows,
                                       .attend = attend,
                                       .commit = tidal_commit,
                                       .work = tidal_work};
static const void *query(sl_instance *self, const char *id) {
    if (strcmp(id, SL_COST_ID) == 0)
        return &tidal_cost;
    if (self->on_device)
        return strcmp(id, SL_ATTENTION_ID) == 0 ? &tidal_device_attention : NULL;
    return strcmp(id, SL_ATTENTION_ID) == 0      ? (const void *)&attention
           : strcmp(id, SL_ATTENTION_KV_ID) == 0 ? (const void *)&tidal_kv
           : strcmp(id, SL_CALIBRATE_ID) == 0    ? (const void *)&tidal_calibrate
                                                 : NULL;
}

/* ---- the plugin ------------------------------------------------------------------------------------------------ */

#define PARAM(id, type, fallback, choices, min, max, flags, doc)                                                       \
    static const sl_param_def id = {SL_SIZE(sl_param_def), #id, doc, fallback, choices, min, max, type, flags}

static const char *const head_modes[] = {"query", "kv_group", "layer", NULL};
static const char *const reductions[] = {"max", "sum_prob", NULL};
static const char *const score_types[] = {"f16", "f32", NULL};
static const char *const verify_modes[] = {"row", "shared", NULL};
PARAM(token_budget, SL_PARAM_INT, "256", NULL, 32, 1 << 24, 0, "positions of a list, the current token included");
PARAM(sparse_layer_start, SL_PARAM_INT, "2", NULL, 1, 1 << 16, 0, "dense layers below; this layer selects first");
PARAM(reselect_layers, SL_PARAM_STRING, "auto", NULL, 1, 0, 0,
      "layers that select again: ids with commas, none, or auto: what the calibration says, else layer L * 13 / 32");
PARAM(calibration, SL_PARAM_PATH, NULL, NULL, 1, 0, 0,
      "safetensors file whose metadata reselect_layers stands for auto");
PARAM(select_heads, SL_PARAM_ENUM, "kv_group", head_modes, 1, 0, 0,
      "whose list it is: one a query head, one a KV head, one for the layer");
PARAM(group_reduce, SL_PARAM_ENUM, "max", reductions, 1, 0, 0,
      "kv_group: how the scores of a KV head's query heads become one");
PARAM(force_current, SL_PARAM_BOOL, "yes", NULL, 1, 0, SL_PARAM_EXPERT,
      "the current token is always in, and no candidate");
PARAM(n_sink, SL_PARAM_INT, "0", NULL, 0, 1 << 20, 0,
      "layer: first positions that are always in, where the budget beside middle_ratio has room");
PARAM(middle_ratio, SL_PARAM_FLOAT, "1", NULL, 0, 1, 0,
      "layer: share of the budget chosen by score; the rest is sinks and the most recent");
PARAM(min_context, SL_PARAM_INT, NULL, NULL, 1, 1 << 30, 0,
      "up to this many tokens all layers are dense; unset: token_budget");
PARAM(verify_select, SL_PARAM_ENUM, "row", verify_modes, 1, 0, 0,
      "draft trees: lists of each row, as step by step; or shared by the rows of a sequence, which changes the output");
PARAM(score_dtype, SL_PARAM_ENUM, "f32", score_types, 1, 0, SL_PARAM_EXPERT,
      "type to which scores are rounded before they compete; f16: that of the paper's kernels");
PARAM(correction_period, SL_PARAM_INT, "0", NULL, 0, 1 << 30, 0,
      "decode steps after which sparsely decoded rows are computed again, densely; 0: never, else at least 256");
PARAM(correction_chunk, SL_PARAM_INT, "512", NULL, 1, 1 << 16, SL_PARAM_EXPERT, "rows of one piece of a correction");
static const sl_param_def *const params[] = {&token_budget,
                                             &sparse_layer_start,
                                             &reselect_layers,
                                             &calibration,
                                             &select_heads,
                                             &group_reduce,
                                             &force_current,
                                             &n_sink,
                                             &middle_ratio,
                                             &min_context,
                                             &verify_select,
                                             &score_dtype,
                                             &correction_period,
                                             &correction_chunk,
                                             NULL};
static const char *const roles[] = {"attention", NULL};
static const char *const needs[] = {SL_OPS_ID,          SL_MEM_ID,         SL_SCRATCH_ID,     SL_THREADS_ID,
                                    SL_ATTENTION_KV_ID, SL_WORK_SOURCE_ID, "sl.background/1", "sl.overwrite/1", NULL};
static const char *const wants[] = {SL_METRICS_ID, SL_ARTIFACT_ID, NULL};
static const char *const provides[] = {"sl.prefill.plain/1", NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "tidaldecode",
    .roles = roles,
    .version = "0.1.0",
    .summary = "a few layers select positions by exact scores, the others attend to those",
    .paper = "TidalDecode, arXiv 2410.05076",
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
};

SL_PACKAGE(&plugin)
