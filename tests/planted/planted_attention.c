/* Dense attention that is not what it says: built as `twice` it reads keys and values a second time for nothing, as
 * `silent` it says no word about its cost. roofline_test looks for both in this folder. */
#include "sluice/attention.h"
#include "sluice/cost.h"
#include "sluice/ops.h"

#include <stdlib.h>
#include <string.h>

#include "sl_error.h"
#include "sl_host_util.h"

#ifdef TWICE
#define ID "twice"
#define TIMES 2
#else
#define ID "silent"
#define TIMES 1
#endif

struct sl_instance {
    const sl_host *host;
    const sl_ops *ops;
};

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    sl_instance *self = calloc(1, sizeof *self);
    if (self == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, ID ": out of memory");
    self->host = args->host;
    sl_status s =
        sl_host_require(args->host, ID, SL_OPS_ID, SL_FIELD_END(sl_ops, attend), (const void **)&self->ops, err);
    if (s < 0)
        free(self);
    else
        *out = self;
    return s;
}

static void destroy(sl_instance *self) { free(self); }

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    (void)self, (void)limits, (void)err;
    return SL_OK;
}

static void deactivate(sl_instance *self) { (void)self; }

static sl_status caps(sl_instance *self, int32_t layer, sl_attn_caps *out) {
    (void)self, (void)layer;
    out->flags = SL_ATTN_TREE | SL_ATTN_EXACT;
    out->segment_kinds = SL_SEGMENT_ROWS;
    out->key_states = 1u << SL_KEYS_ROTATED;
    return SL_OK;
}

static sl_status attend(sl_instance *self, const sl_attend *args) {
    for (int i = 0; i < TIMES; i++)
        SL_TRY(self->ops->attend(self->host, args));
    return SL_OK;
}

static const sl_attention attention = {.struct_size = SL_SIZE(sl_attention), .caps = caps, .attend = attend};

/* "As dense attention." */
static sl_status cost_layer(sl_instance *self, sl_cost_layer *io, sl_error *err) {
    (void)self, (void)io, (void)err;
    return SL_OK;
}

static const sl_cost cost = {.struct_size = SL_SIZE(sl_cost), .layer = cost_layer};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    if (strcmp(id, SL_COST_ID) == 0 && TIMES == 2)
        return &cost;
    return strcmp(id, SL_ATTENTION_ID) == 0 ? &attention : NULL;
}

static const sl_param_def *const params[] = {NULL};
static const char *const roles[] = {"attention", NULL};
static const char *const needs[] = {SL_OPS_ID, NULL};
static const char *const none[] = {NULL};
static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = ID,
    .roles = roles,
    .version = "0.1.0",
    .summary = "dense attention with a fault",
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
};

SL_PACKAGE(&plugin)
