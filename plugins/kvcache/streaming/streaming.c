/* streaming - keeps the first rows (sinks) and the newest ones, for every layer and head alike.
 *
 * "Efficient Streaming Language Models with Attention Sinks", arXiv 2309.17453, section 3.2, as a policy: rows keep their
 * true positions. After a cut budget - 1 rows stay, so that the next token attends to `budget` rows, its own included
 * (the official class evicts before attention). */
#include "sluice/kv.h"

#include <string.h>

#include "sl_error.h"
#include "sl_params.h"
#include "sl_policy.h"

struct sl_instance {
    sl_policy_base base;
    int64_t sinks;
};

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    sl_instance got = {.base = sl_policy_base_of("streaming", args), .sinks = sl_param_int(args->params, "sinks")};
    double budget = got.base.budget;
    if (budget >= 1 && (int64_t)budget < got.sinks + 2)
        return sl_fail(err, SL_E_INVALID, "streaming: budget = %lld leaves no recent row besides %lld sinks and the new one", (long long)budget,
                       (long long)got.sinks);
    return sl_policy_new(&got, sizeof got, out, err);
}

static sl_status wants(sl_instance *self, int32_t layer, sl_kv_wants *out) {
    (void)layer;
    sl_policy_wants(self, out);
    out->want = 0;
    return SL_OK;
}

static sl_status choose(sl_instance *self, const sl_kv_scores *scores, const sl_kv_edit **out) {
    int64_t budget = sl_keep_budget(self->base.budget, scores->n_prompt) - 1;
    int64_t sinks = self->sinks < budget ? self->sinks : budget - 1, recent = budget - sinks;
    sl_keep_begin(&self->base.keep, scores);
    for (int32_t h = 0; h < self->base.model->layers[scores->layer]->n_kv_heads; h++) {
        int64_t n = sl_keep_rows(scores, h);
        if (n < 0)
            return SL_E_UNIMPLEMENTED;
        if (n <= budget || budget < 1) {
            sl_mark_range(0, n, self->base.keep.mark);
        } else {
            sl_mark_range(0, sinks, self->base.keep.mark);
            sl_mark_range(n - recent, n, self->base.keep.mark);
        }
        sl_keep_head(&self->base.keep, n);
    }
    return sl_keep_end(&self->base.keep, out);
}

static const sl_kv_policy policy = {.struct_size = SL_SIZE(sl_kv_policy), .wants = wants, .choose = choose, .schedule = sl_policy_schedule};

static sl_status cost_layer(sl_instance *self, sl_cost_layer *io, sl_error *err) {
    (void)err;
    io->kept = sl_policy_kept(&self->base, io, (double)sl_keep_budget(self->base.budget, (int64_t)sl_policy_prompt(&self->base, io)) - 1);
    return SL_OK;
}

static const sl_cost cost = {.struct_size = SL_SIZE(sl_cost), .layer = cost_layer};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_KV_POLICY_ID) == 0 ? (const void *)&policy : strcmp(id, SL_COST_ID) == 0 ? &cost : NULL;
}

static const char *const positions_choices[] = {"original", NULL};
static const sl_param_def budget = {SL_SIZE(sl_param_def), "budget",
                                    "rows that a token attends to, sinks and its own included; below 1: fraction of the prompt", "2048", NULL,
                                    0.001, 1e9, SL_PARAM_FLOAT, 0};
static const sl_param_def sinks = {SL_SIZE(sl_param_def), "sinks", "first rows, which always stay", "4", NULL, 0, 1e6, SL_PARAM_INT, 0};
static const sl_param_def positions = {SL_SIZE(sl_param_def), "positions", "rows keep their true positions", "original",
                                       positions_choices, 0, 0, SL_PARAM_ENUM, 0};
static const sl_param_def *const params[] = {&budget, &sinks, &sl_policy_decode_interval, &positions, &sl_policy_chunked, NULL};
static const char *const roles[] = {"kvcache.policy", NULL};
static const char *const needs[] = {"sl.kv.edit/1", "sl.event.commit/1", NULL};
static const char *const none[] = {NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "streaming",
    .roles = roles,
    .version = "0.1.0",
    .summary = "keeps attention sinks and the newest rows",
    .paper = "Efficient Streaming Language Models with Attention Sinks, arXiv 2309.17453",
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
