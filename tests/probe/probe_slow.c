/* Dense attention that sleeps first, `milliseconds` in each layer of each step: a technique that must show up as slow.
 */
#include "sluice/attention.h"
#include "sluice/ops.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sl_error.h"
#include "sl_host_util.h"
#include "sl_params.h"

struct sl_instance {
    const sl_host *host;
    const sl_ops *ops;
    long milliseconds;
};

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    sl_instance *self = calloc(1, sizeof *self);
    if (self == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "slow: out of memory");
    self->host = args->host;
    self->milliseconds = (long)sl_param_int(args->params, "milliseconds");
    *out = self;
    return sl_host_require(args->host, "slow", SL_OPS_ID, SL_FIELD_END(sl_ops, attend), (const void **)&self->ops, err);
}

static void destroy(sl_instance *self) { free(self); }

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    (void)self, (void)limits, (void)err;
    return SL_OK;
}

static void deactivate(sl_instance *self) { (void)self; }

static sl_status caps(sl_instance *self, int32_t layer, sl_attn_caps *out) {
    (void)self, (void)layer;
    out->flags = SL_ATTN_EXACT;
    out->segment_kinds = SL_SEGMENT_ROWS;
    out->key_states = 1u << SL_KEYS_ROTATED;
    return SL_OK;
}

static sl_status attend(sl_instance *self, const sl_attend *args) {
    struct timespec left = {self->milliseconds / 1000, self->milliseconds % 1000 * 1000000};
    while (nanosleep(&left, &left) != 0) {
    } /* interrupted: the rest of it */
    return self->ops->attend(self->host, args);
}

static const sl_attention attention = {.struct_size = SL_SIZE(sl_attention), .caps = caps, .attend = attend};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_ATTENTION_ID) == 0 ? &attention : NULL;
}

static const sl_param_def milliseconds = {
    SL_SIZE(sl_param_def), "milliseconds", "slept in each layer of each step", "2", NULL, 0, 1000, SL_PARAM_INT, 0};
static const sl_param_def *const params[] = {&milliseconds, NULL};
static const char *const roles[] = {"attention", NULL};
static const char *const needs[] = {SL_OPS_ID, NULL};
static const char *const nothing[] = {NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "slow",
    .roles = roles,
    .version = "0.1.0",
    .summary = "dense attention that sleeps",
    .paper = "",
    .vendor = "sluice",
    .license = "Apache-2.0",
    .params = params,
    .needs = needs,
    .wants = nothing,
    .provides = nothing,
    .devices = SL_ON_CPU,
    .create = create,
    .destroy = destroy,
    .activate = activate,
    .deactivate = deactivate,
    .query = query,
};

SL_PACKAGE(&plugin)
