/* h2o - keeps heavy hitters, the rows that received most attention so far, and the newest ones.
 *
 * "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models", arXiv 2306.14048, algorithm 1,
 * as the official class that really drops rows: after the attention of each forward its column sums are added to the
 * scores; of what exceeds the budget the newest `recent` and the `heavy` highest others stay. decode_interval = 0 is the
 * one-shot form of long-context benchmarks: one cut at the end of the prompt, the last `window` rows stay. */
#include "sluice/kv.h"

#include <string.h>

#include "sl_cost.h"
#include "sl_error.h"
#include "sl_params.h"
#include "sl_policy.h"

struct sl_instance {
    sl_policy_base base;
    double heavy_ratio, recent_ratio;
    int64_t window, sinks;
    int agg;
};

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    const sl_params *p = args->params;
    sl_instance got = {.base = sl_policy_base_of("h2o", args), .heavy_ratio = sl_param_real(p, "heavy_ratio"),
                       .recent_ratio = sl_param_real(p, "recent_ratio"), .window = sl_param_int(p, "window"),
                       .sinks = sl_param_int(p, "sinks"), .agg = sl_param_index(p, "group_agg")};
    int one_shot = got.base.schedule.interval == 0, ratios = got.heavy_ratio > 0 && got.recent_ratio > 0;
    if ((got.heavy_ratio > 0) != (got.recent_ratio > 0))
        return sl_fail(err, SL_E_INVALID, "h2o: heavy_ratio and recent_ratio are given together or not at all");
    if (ratios && (one_shot || got.heavy_ratio + got.recent_ratio > 1))
        return sl_fail(err, SL_E_INVALID, one_shot ? "h2o: ratios say what stays while decoding; decode_interval = 0 takes budget and window"
                                                   : "h2o: heavy_ratio and recent_ratio are more than the whole prompt");
    int64_t recent = one_shot ? got.window : (int64_t)got.base.budget / 2;
    if (!ratios && got.base.budget >= 1 && (int64_t)got.base.budget < recent + got.sinks + 1)
        return sl_fail(err, SL_E_INVALID, "h2o: budget = %lld leaves no row besides %lld recent ones and %lld sinks", (long long)got.base.budget,
                       (long long)recent, (long long)got.sinks);
    return sl_policy_new(&got, sizeof got, out, err);
}

static sl_status wants(sl_instance *self, int32_t layer, sl_kv_wants *out) {
    (void)layer;
    sl_policy_wants(self, out);
    out->want = SL_WANT_COLSUM;
    out->last_rows = -1;
    out->stages = self->base.schedule.interval > 0 ? SL_STAGE_ALL : SL_STAGE_PREFILL;
    out->query_heads = self->agg == SL_AGG_MAX;
    return SL_OK;
}

/* Rows of one head that stay in all, and the newest among them. */
static void shares(const sl_instance *self, int64_t n_prompt, int64_t *total, int64_t *recent) {
    if (self->heavy_ratio > 0) {
        *recent = (int64_t)(self->recent_ratio * (double)n_prompt);
        *total = *recent + (int64_t)(self->heavy_ratio * (double)n_prompt);
    } else {
        *total = sl_keep_budget(self->base.budget, n_prompt);
        *recent = self->base.schedule.interval > 0 ? *total / 2 : self->window;
    }
    *recent = *recent < 1 ? 1 : *recent; /* fractions of a short prompt */
    *total = *total < *recent ? *recent : *total;
}

static sl_status choose(sl_instance *self, const sl_kv_scores *scores, const sl_kv_edit **out) {
    sl_choice choice = {.sinks = self->sinks, .kernel = 1, .agg = self->agg, .shared = self->base.ada};
    shares(self, scores->n_prompt, &choice.total, &choice.recent);
    return sl_keep_best(&self->base.keep, &choice, scores, self->base.model->layers[scores->layer]->n_kv_heads, out);
}

static const sl_kv_policy policy = {.struct_size = SL_SIZE(sl_kv_policy), .wants = wants, .choose = choose, .schedule = sl_policy_schedule};

/* Column sums of every row that is attended: a number a key, head and row, added to one that is read and written. */
static sl_status cost_layer(sl_instance *self, sl_cost_layer *io, sl_error *err) {
    const sl_layer_info *l = io->model->layers[io->layer];
    int64_t total, recent;
    (void)err;
    shares(self, (int64_t)sl_policy_prompt(&self->base, io), &total, &recent);
    io->kept = sl_policy_kept(&self->base, io, (double)total);
    if (io->stage == SL_STAGE_PREFILL || self->base.schedule.interval > 0)
        sl_cost_add(io->sink, SL_COST_AT_ATTEND, "h2o.sums", l->n_heads * (io->n_new * io->kept + io->inner), SL_COST_OTHER,
                    8.0 * l->n_heads * (io->kept + io->n_new), 1);
    return SL_OK;
}

static const sl_cost cost = {.struct_size = SL_SIZE(sl_cost), .layer = cost_layer};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_KV_POLICY_ID) == 0 ? (const void *)&policy : strcmp(id, SL_COST_ID) == 0 ? &cost : NULL;
}

static const sl_param_def window = {SL_SIZE(sl_param_def), "window", "newest rows that stay with decode_interval = 0", "32", NULL, 1, 1e6, SL_PARAM_INT,
                                    0};
static const sl_param_def heavy = {SL_SIZE(sl_param_def), "heavy_ratio", "heavy rows as a fraction of the prompt; with recent_ratio instead of budget",
                                   "0", NULL, 0, 1, SL_PARAM_FLOAT, 0};
static const sl_param_def recent_part = {SL_SIZE(sl_param_def), "recent_ratio", "newest rows as a fraction of the prompt", "0", NULL, 0, 1,
                                         SL_PARAM_FLOAT, 0};
static const sl_param_def *const params[] = {&sl_policy_budget, &window, &sl_policy_sinks, &sl_policy_group_agg, &heavy, &recent_part,
                                             &sl_policy_decode_interval, &sl_policy_head_budget, &sl_policy_chunked, NULL};
static const char *const roles[] = {"kvcache.policy", NULL};
static const char *const needs[] = {"sl.kv.edit/1", "sl.kv.perhead/1", "sl.stats/1", "sl.event.commit/1", NULL};
static const char *const none[] = {NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "h2o",
    .roles = roles,
    .version = "0.1.0",
    .summary = "keeps the rows that received most attention and the newest ones",
    .paper = "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models, arXiv 2306.14048",
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
