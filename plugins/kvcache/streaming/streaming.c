/* streaming - keeps the first rows (sinks) and the newest ones, for every layer and head alike.
 *
 * "Efficient Streaming Language Models with Attention Sinks", arXiv 2309.17453, section 3.2, as a policy: rows keep their
 * true positions. After a cut budget - 1 rows stay, so that the next token attends to `budget` rows, its own included
 * (the official class evicts before attention). */
#include "sluice/kv.h"

#include <stdlib.h>
#include <string.h>

#include "sl_error.h"
#include "sl_keep.h"
#include "sl_params.h"
#include "sl_schedule.h"

struct sl_instance {
    const sl_model_info *model;
    double budget;
    int64_t sinks;
    sl_schedule schedule;
    sl_keep keep;
};

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    double budget = sl_param_real(args->params, "budget");
    int64_t sinks = sl_param_int(args->params, "sinks");
    if (budget >= 1 && (int64_t)budget < sinks + 2)
        return sl_fail(err, SL_E_INVALID, "streaming: budget = %lld leaves no recent row besides %lld sinks and the new one", (long long)budget,
                       (long long)sinks);
    sl_instance *self = calloc(1, sizeof *self);
    if (self == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "streaming: out of memory");
    self->model = args->model;
    self->budget = budget;
    self->sinks = sinks;
    self->schedule.interval = sl_param_int(args->params, "decode_interval");
    *out = self;
    return SL_OK;
}

static void destroy(sl_instance *self) { free(self); }

static void deactivate(sl_instance *self) {
    sl_keep_free(&self->keep);
    sl_schedule_free(&self->schedule);
}

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    SL_TRY(sl_schedule_check(&self->schedule, limits, "streaming", err));
    if (sl_keep_init(&self->keep, self->model, limits) && sl_schedule_init(&self->schedule, limits->max_seqs))
        return SL_OK;
    deactivate(self);
    return sl_fail(err, SL_E_NO_MEMORY, "streaming: no memory for %lld rows", (long long)limits->max_context);
}

static sl_status wants(sl_instance *self, int32_t layer, sl_kv_wants *out) {
    (void)self, (void)layer;
    out->want = 0;
    return SL_OK;
}

static sl_status choose(sl_instance *self, const sl_kv_scores *scores, const sl_kv_edit **out) {
    int64_t budget = sl_keep_budget(self->budget, scores->n_prompt) - 1;
    int64_t sinks = self->sinks < budget ? self->sinks : budget - 1, recent = budget - sinks;
    sl_keep_begin(&self->keep, scores);
    for (int32_t h = 0; h < self->model->layers[scores->layer]->n_kv_heads; h++) {
        int64_t n = sl_keep_rows(scores, h);
        if (n < 0)
            return SL_E_UNIMPLEMENTED;
        if (n <= budget || budget < 1) {
            sl_mark_range(0, n, self->keep.mark);
        } else {
            sl_mark_range(0, sinks, self->keep.mark);
            sl_mark_range(n - recent, n, self->keep.mark);
        }
        sl_keep_head(&self->keep, n);
    }
    return sl_keep_end(&self->keep, out);
}

static int32_t schedule(sl_instance *self, const sl_event *event) { return sl_schedule_is_due(&self->schedule, event); }

static sl_status event(sl_instance *self, const sl_event *what, sl_error *err) {
    (void)err;
    sl_schedule_note(&self->schedule, what);
    return SL_OK;
}

static const sl_kv_policy policy = {.struct_size = SL_SIZE(sl_kv_policy), .wants = wants, .choose = choose, .schedule = schedule};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_KV_POLICY_ID) == 0 ? &policy : NULL;
}

static const char *const positions_choices[] = {"original", NULL};
static const sl_param_def budget = {SL_SIZE(sl_param_def), "budget",
                                    "rows that a token attends to, sinks and its own included; below 1: fraction of the prompt", "2048", NULL,
                                    0.001, 1e9, SL_PARAM_FLOAT, 0};
static const sl_param_def sinks = {SL_SIZE(sl_param_def), "sinks", "first rows, which always stay", "4", NULL, 0, 1e6, SL_PARAM_INT, 0};
static const sl_param_def interval = {SL_SIZE(sl_param_def), "decode_interval",
                                      "cut every N decoded tokens; 0: only at the end of a prompt", "1", NULL, 0, 1e9, SL_PARAM_INT, 0};
static const sl_param_def positions = {SL_SIZE(sl_param_def), "positions", "rows keep their true positions", "original",
                                       positions_choices, 0, 0, SL_PARAM_ENUM, 0};
static const sl_param_def *const params[] = {&budget, &sinks, &interval, &positions, NULL};
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
    .devices = SL_ON_CPU,
    .create = create,
    .destroy = destroy,
    .activate = activate,
    .deactivate = deactivate,
    .query = query,
    .event = event,
};

SL_PACKAGE(&plugin)
