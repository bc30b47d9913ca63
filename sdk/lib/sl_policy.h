/* What eviction policies share besides the choice itself: life, schedule, and parameters of the same meaning.
 *
 * An instance begins with an sl_policy_base, so that the functions below serve in its tables as they stand. */
#ifndef SLUICE_LIB_POLICY_H
#define SLUICE_LIB_POLICY_H

#include "sluice/cost.h"

#include "sl_keep.h"
#include "sl_schedule.h"

typedef struct sl_policy_base {
    const char *id; /* of the plugin, for messages */
    const sl_model_info *model;
    double budget;
    sl_schedule schedule; /* interval 0: at the end of a prompt */
    int ada;              /* head_budget = ada: heads share their budgets (sl_keep_shared) */
    sl_keep keep;
} sl_policy_base;

/* Base of an instance from its parameters: "budget", and "decode_interval", "chunked" and "head_budget" where the plugin
 * has them. */
sl_policy_base sl_policy_base_of(const char *id, const sl_create_args *args);

/* A copy of the instance `from` points to, of `bytes` bytes. SL_E_NO_MEMORY. */
sl_status sl_policy_new(const void *from, size_t bytes, sl_instance **out, sl_error *err);

/* For sl_plugin. */
void sl_policy_destroy(sl_instance *self);
sl_status sl_policy_activate(sl_instance *self, const sl_limits *limits, sl_error *err);
void sl_policy_deactivate(sl_instance *self);
sl_status sl_policy_event(sl_instance *self, const sl_event *what, sl_error *err);
/* For sl_kv_policy; wants begins with sl_policy_wants, which says what the schedule does. */
void sl_policy_wants(const sl_instance *self, sl_kv_wants *out);
int32_t sl_policy_schedule(sl_instance *self, const sl_event *event);

/* For sl_cost.layer: tokens of the prompt that a fraction is of, where the rows in front of the step were last cut; rows
 * of them that are held, where a cut leaves `total`. */
double sl_policy_prompt(const sl_policy_base *base, const sl_cost_layer *io);
double sl_policy_kept(const sl_policy_base *base, const sl_cost_layer *io, double total);

/* Parameters: "budget", "sinks" (default 0), "group_agg", "decode_interval" (default 1), "chunked" (no), "head_budget"
 * (uniform). */
extern const sl_param_def sl_policy_budget, sl_policy_sinks, sl_policy_group_agg, sl_policy_decode_interval, sl_policy_chunked,
    sl_policy_head_budget;

#endif
