/* See sl_policy.h. */
#include "sl_policy.h"

#include <stdlib.h>
#include <string.h>

#include "sl_error.h"
#include "sl_params.h"

static sl_policy_base *base_of(sl_instance *self) { return (sl_policy_base *)self; } /* its first member */

sl_policy_base sl_policy_base_of(const char *id, const sl_create_args *args) {
    sl_policy_base base = {.id = id, .model = args->model, .budget = sl_param_real(args->params, "budget")};
    for (int64_t i = 0; i < args->params->n; i++) {
        const sl_param_value *p = args->params->values[i];
        if (strcmp(p->name, "decode_interval") == 0)
            base.schedule.interval = p->integer;
        else if (strcmp(p->name, "chunked") == 0)
            base.schedule.chunks = p->integer != 0;
        else if (strcmp(p->name, "head_budget") == 0)
            base.ada = p->integer == 1;
    }
    return base;
}

sl_status sl_policy_new(const void *from, size_t bytes, sl_instance **out, sl_error *err) {
    void *self = malloc(bytes);
    if (self == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "%s: out of memory", ((const sl_policy_base *)from)->id);
    memcpy(self, from, bytes);
    *out = self;
    return SL_OK;
}

void sl_policy_destroy(sl_instance *self) { free(self); }

void sl_policy_deactivate(sl_instance *self) {
    sl_keep_free(&base_of(self)->keep);
    sl_schedule_free(&base_of(self)->schedule);
}

sl_status sl_policy_activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    sl_policy_base *base = base_of(self);
    SL_TRY(sl_schedule_check(&base->schedule, limits, base->id, err));
    if (sl_keep_init(&base->keep, base->model, limits, base->ada) && sl_schedule_init(&base->schedule, limits->max_seqs))
        return SL_OK;
    sl_policy_deactivate(self);
    return sl_fail(err, SL_E_NO_MEMORY, "%s: no memory for %lld rows", base->id, (long long)limits->max_context);
}

sl_status sl_policy_event(sl_instance *self, const sl_event *what, sl_error *err) {
    (void)err;
    sl_schedule_note(&base_of(self)->schedule, what);
    return SL_OK;
}

void sl_policy_wants(const sl_instance *self, sl_kv_wants *out) {
    out->flags = ((const sl_policy_base *)self)->schedule.chunks ? SL_KV_WANTS_CHUNKS : 0;
}

int32_t sl_policy_schedule(sl_instance *self, const sl_event *event) {
    return sl_schedule_is_due(&base_of(self)->schedule, event);
}

double sl_policy_prompt(const sl_policy_base *base, const sl_cost_layer *io) {
    return io->stage == SL_STAGE_PREFILL && base->schedule.chunks ? io->n_past : io->n_prompt;
}

double sl_policy_kept(const sl_policy_base *base, const sl_cost_layer *io, double total) {
    double interval = (double)base->schedule.interval, kept;
    if (io->stage == SL_STAGE_PREFILL) /* no cut so far, or one behind each chunk */
        kept = base->schedule.chunks ? total : io->kept;
    else if (interval == 0) /* one cut, then every row stays */
        kept = (io->n_prompt < total ? io->n_prompt : total) + io->n_past - io->n_prompt;
    else /* between two cuts, in the mean */
        kept = total + (interval - 1) / 2;
    return kept < io->kept ? kept : io->kept;
}

/* ---- parameters ------------------------------------------------------------------------------------------------- */

static const char *const agg_choices[] = {"mean", "max", "sum", NULL}; /* SL_AGG_* */

const sl_param_def sl_policy_budget = {
    .struct_size = SL_SIZE(sl_param_def),
    .name = "budget",
    .doc = "rows kept per KV head, everything included; below 1: fraction of the prompt",
    .fallback = "2048",
    .min = 0.001,
    .max = 1e9,
    .type = SL_PARAM_FLOAT,
};
const sl_param_def sl_policy_sinks = {
    .struct_size = SL_SIZE(sl_param_def),
    .name = "sinks",
    .doc = "first rows, which always stay (counted in budget)",
    .fallback = "0",
    .max = 1e6,
    .type = SL_PARAM_INT,
};
const sl_param_def sl_policy_group_agg = {
    .struct_size = SL_SIZE(sl_param_def),
    .name = "group_agg",
    .doc = "how scores of the query heads of one KV head become one",
    .fallback = "mean",
    .choices = agg_choices,
    .type = SL_PARAM_ENUM,
};
const sl_param_def sl_policy_decode_interval = {
    .struct_size = SL_SIZE(sl_param_def),
    .name = "decode_interval",
    .doc = "cut every N decoded tokens; 0: only at the end of a prompt",
    .fallback = "1",
    .max = 1e9,
    .type = SL_PARAM_INT,
};
const sl_param_def sl_policy_chunked = {
    .struct_size = SL_SIZE(sl_param_def),
    .name = "chunked",
    .doc = "drop rows at the end of every chunk of a prompt, as if it ended there",
    .fallback = "no",
    .type = SL_PARAM_BOOL,
};
static const char *const head_budget_choices[] = {"uniform", "ada", NULL};
const sl_param_def sl_policy_head_budget = {
    .struct_size = SL_SIZE(sl_param_def),
    .name = "head_budget",
    .doc = "uniform: each KV head keeps as many rows; ada: the best rows of all heads together, a fifth of each head's first",
    .fallback = "uniform",
    .choices = head_budget_choices,
    .type = SL_PARAM_ENUM,
};
