/* dense - softmax attention over everything visible, by the host's shared kernel.
 *
 * The yardstick of the family: it selects nothing, keeps nothing, and every other method must equal it when its budget
 * covers everything. Scaled dot-product attention as in "Attention Is All You Need", section 3.2.1. */
#include "sluice/attention.h"
#include "sluice/cost.h"
#include "sluice/ops.h"

#include <stdlib.h>
#include <string.h>

#include "sl_error.h"
#include "sl_host_util.h"

struct sl_instance {
    const sl_host *host;
    const sl_ops *ops;
};

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    const sl_ops *ops = sl_host_service(args->host, SL_OPS_ID, SL_FIELD_END(sl_ops, attend));
    if (ops == NULL)
        return sl_fail(err, SL_E_NOT_FOUND, "dense: the host offers no " SL_OPS_ID);
    sl_instance *self = calloc(1, sizeof *self);
    if (self == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "dense: out of memory");
    self->host = args->host;
    self->ops = ops;
    *out = self;
    return SL_OK;
}

static void destroy(sl_instance *self) { free(self); }

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    (void)self, (void)limits, (void)err;
    return SL_OK;
}

static void deactivate(sl_instance *self) { (void)self; }

static sl_status caps(sl_instance *self, int32_t layer, sl_attn_caps *out) {
    (void)self, (void)layer;
    out->flags = SL_ATTN_TREE | SL_ATTN_EXACT | SL_ATTN_COLSUM; /* which policies want */
    out->segment_kinds = SL_SEGMENT_ROWS | SL_SEGMENT_QROWS;
    out->key_states = 1u << SL_KEYS_ROTATED;
    return SL_OK;
}

static sl_status attend(sl_instance *self, const sl_attend *args) { return self->ops->attend(self->host, args); }

static const sl_attention attention = {.struct_size = SL_SIZE(sl_attention), .caps = caps, .attend = attend};

/* Everything visible: what the host begins with. */
static sl_status cost_layer(sl_instance *self, sl_cost_layer *io, sl_error *err) {
    (void)self, (void)io, (void)err;
    return SL_OK;
}

static const sl_cost cost = {.struct_size = SL_SIZE(sl_cost), .layer = cost_layer};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_ATTENTION_ID) == 0 ? (const void *)&attention : strcmp(id, SL_COST_ID) == 0 ? &cost : NULL;
}

static const sl_param_def *const params[] = {NULL};
static const char *const roles[] = {"attention", NULL};
static const char *const needs[] = {SL_OPS_ID, NULL};
static const char *const none[] = {NULL};
static const char *const provides[] = {"sl.prefill.plain/1", NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "dense",
    .roles = roles,
    .version = "0.1.0",
    .summary = "softmax attention over everything visible",
    .paper = "Attention Is All You Need, arXiv 1706.03762",
    .vendor = "sluice",
    .license = "Apache-2.0",
    .params = params,
    .needs = needs,
    .wants = none,
    .provides = provides,
    .devices = SL_ON_CPU | SL_ON_CUDA,
    .create = create,
    .destroy = destroy,
    .activate = activate,
    .deactivate = deactivate,
    .query = query,
};

SL_PACKAGE(&plugin)
