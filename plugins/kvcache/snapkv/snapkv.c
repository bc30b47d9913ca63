/* snapkv - at the end of a prompt keeps the rows that its last rows look at, and those last rows.
 *
 * "SnapKV: LLM Knows What You are Looking for Before Generation", arXiv 2404.14469, section 4: softmax probabilities of
 * the last `window` queries over all keys, summed over them, reduced over the query heads of a KV head, pooled over
 * neighbours; the best of what stands before the window stay, and the window. Unlike the official code, rows are chosen
 * per KV head, not per query head. Decoding drops nothing, unless decode_interval cuts again every N tokens: then the tokens
 * decoded since the last cut observe. head_budget = ada is AdaKV (arXiv 2407.11550) around it. */
#include "sluice/kv.h"

#include <string.h>

#include "sl_cost.h"
#include "sl_error.h"
#include "sl_params.h"
#include "sl_policy.h"

struct sl_instance {
    sl_policy_base base;
    int64_t window, sinks, kernel;
    int agg, pooling;
};

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    const sl_params *p = args->params;
    sl_instance got = {.base = sl_policy_base_of("snapkv", args), .window = sl_param_int(p, "window"),
                       .sinks = sl_param_int(p, "sinks"), .kernel = sl_param_int(p, "kernel"), .agg = sl_param_index(p, "group_agg"),
                       .pooling = sl_param_index(p, "pooling")};
    if (got.kernel % 2 == 0)
        return sl_fail(err, SL_E_INVALID, "snapkv: kernel = %lld; pooling takes an odd number of neighbours", (long long)got.kernel);
    if (got.base.budget >= 1 && (int64_t)got.base.budget < got.window + got.sinks + 1)
        return sl_fail(err, SL_E_INVALID, "snapkv: budget = %lld leaves no row besides a window of %lld and %lld sinks", (long long)got.base.budget,
                       (long long)got.window, (long long)got.sinks);
    return sl_policy_new(&got, sizeof got, out, err);
}

static sl_status wants(sl_instance *self, int32_t layer, sl_kv_wants *out) {
    (void)layer;
    sl_policy_wants(self, out);
    out->want = SL_WANT_COLSUM;
    out->last_rows = self->window;
    out->stages = self->base.schedule.interval > 0 ? SL_STAGE_ALL : SL_STAGE_PREFILL;
    out->query_heads = self->agg == SL_AGG_MAX;
    return SL_OK;
}

static sl_status choose(sl_instance *self, const sl_kv_scores *scores, const sl_kv_edit **out) {
    int64_t total = sl_keep_budget(self->base.budget, scores->n_prompt);
    total = total < self->window ? self->window : total; /* fractions of a short prompt */
    const sl_choice choice = {.total = total, .recent = self->window, .sinks = self->sinks, .kernel = self->kernel,
                              .agg = self->agg, .pooling = self->pooling, .shared = self->base.ada};
    return sl_keep_best(&self->base.keep, &choice, scores, self->base.model->layers[scores->layer]->n_kv_heads, out);
}

static const sl_kv_policy policy = {.struct_size = SL_SIZE(sl_kv_policy), .wants = wants, .choose = choose, .schedule = sl_policy_schedule};

/* The last rows of a prompt score all keys. */
static sl_status cost_layer(sl_instance *self, sl_cost_layer *io, sl_error *err) {
    const sl_layer_info *l = io->model->layers[io->layer];
    double total = (double)sl_keep_budget(self->base.budget, (int64_t)sl_policy_prompt(&self->base, io)), window = (double)self->window;
    int is_prompt = io->stage == SL_STAGE_PREFILL;
    (void)err;
    io->kept = sl_policy_kept(&self->base, io, total < window ? window : total);
    if (is_prompt ? io->last_chunk > 0 || self->base.schedule.chunks : self->base.schedule.interval > 0) {
        /* the window of a prompt is attended once more, decoded rows hand over what they computed */
        double seen = io->kept + io->n_new, each = is_prompt ? window * (2.0 * l->head_dim + 1) : io->n_new;
        sl_cost_add(io->sink, SL_COST_AT_ATTEND, "snapkv.sums", l->n_heads * seen * each, SL_COST_OTHER, 8.0 * l->n_heads * seen, 1);
    }
    return SL_OK;
}

static const sl_cost cost = {.struct_size = SL_SIZE(sl_cost), .layer = cost_layer};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_KV_POLICY_ID) == 0 ? (const void *)&policy : strcmp(id, SL_COST_ID) == 0 ? &cost : NULL;
}

static const sl_param_def window = {SL_SIZE(sl_param_def), "window", "rows at the end of the prompt that are observed and stay", "32", NULL, 1, 1e6, SL_PARAM_INT,
                                    0};
static const char *const pooling_choices[] = {"avg", "max", NULL};
static const sl_param_def kernel = {SL_SIZE(sl_param_def), "kernel", "neighbours that are pooled, odd; 1: none", "5", NULL, 1, 1023,
                                    SL_PARAM_INT, 0};
static const sl_param_def pooling = {SL_SIZE(sl_param_def), "pooling", "how neighbours are pooled", "avg", pooling_choices, 0, 0,
                                     SL_PARAM_ENUM, 0};
static const sl_param_def interval = {SL_SIZE(sl_param_def), "decode_interval",
                                      "cut every N decoded tokens, which are the ones that observe; 0: only at the end of a prompt", "0", NULL, 0,
                                      1e9, SL_PARAM_INT, 0};
static const sl_param_def *const params[] = {&sl_policy_budget,      &window,   &sl_policy_sinks, &sl_policy_group_agg, &kernel, &pooling,
                                             &sl_policy_head_budget, &interval, &sl_policy_chunked, NULL};
static const char *const roles[] = {"kvcache.policy", NULL};
static const char *const needs[] = {"sl.kv.edit/1", "sl.kv.perhead/1", "sl.stats/1", "sl.event.commit/1", NULL};
static const char *const none[] = {NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "snapkv",
    .roles = roles,
    .version = "0.1.0",
    .summary = "keeps what the end of the prompt looks at",
    .paper = "SnapKV: LLM Knows What You are Looking for Before Generation, arXiv 2404.14469",
    .vendor = "sluice",
    .license = "Apache-2.0",
    .params = params,
    .needs = needs,
    .wants = none,
    .provides = none,
    .devices = SL_ON_CPU | SL_ON_CUDA,
    .create = create,
    .destroy = sl_policy_destroy,
    .activate = sl_policy_activate,
    .deactivate = sl_policy_deactivate,
    .query = query,
    .event = sl_policy_event,
};

SL_PACKAGE(&plugin)
