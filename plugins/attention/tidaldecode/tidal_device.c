/* Two launches beside attention itself make the lists of a selecting layer: dense attention leaves its raw scores in
 * scratch, and the host's pick kernel turns them into slots, ascending, for each row and KV head. The layers above
 * attend through those lists. Nothing of it depends on lengths, so a step of decoding can be replayed as a graph: rows
 * with short contexts have lists of everything.
 *
 * Steps that hold prompt rows are dense in all layers, decoding rows in them too: the rows of a step are attended to by
 * one launch. That is why results may depend on what shares a step, and engine.deterministic = yes is refused. Draft
 * trees are the CPU's. */
#include "tidal_device.h"

#include <inttypes.h>
#include <stdlib.h>

#include "sl_error.h"
#include "sl_host_util.h"
#include "sl_params.h"

struct tidal_device {
    int32_t *list, *list_n; /* [max_rows, max_groups, list_stride], [max_rows, max_groups] */
    int64_t max_rows, list_stride, score_stride;
    uint64_t step; /* of the lists */
    int32_t owner; /* the layer that they stand for; -1: none yet */
};

sl_status tidal_device_check(const sl_instance *self, const sl_create_args *args, sl_error *err) {
    const struct {
        int is_wrong;
        const char *what;
    } rules[] = {
        {self->rule.heads != TIDAL_KV_GROUP, "select_heads = kv_group"},
        {self->group_reduce != TIDAL_REDUCE_MAX, "group_reduce = max"},
        {!self->rule.force_current, "force_current = yes"},
        {self->correction_period != 0, "correction_period = 0"},
        {self->verify_select != TIDAL_VERIFY_ROW, "verify_select = row"},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (rules[i].is_wrong)
            return sl_fail(err, SL_E_UNIMPLEMENTED, "tidaldecode: on a GPU only %s is served", rules[i].what);
    if (!SL_HAS_FN(self->ops, sl_ops, pick))
        return sl_fail(err, SL_E_NOT_FOUND, "tidaldecode: the host has no operation that picks slots on a GPU");
    (void)args;
    return SL_OK;
}

static int64_t max_heads(const sl_instance *self) {
    int64_t heads = 1;
    for (int32_t l = 0; l < self->model->n_layers; l++)
        if (self->roles[l].owner >= 0 && self->model->layers[l]->n_heads > heads)
            heads = self->model->layers[l]->n_heads;
    return heads;
}

sl_status tidal_device_activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    if (limits->deterministic)
        return sl_fail(err, SL_E_INVALID,
                       "tidaldecode: on a GPU rows that share a step with a prompt are attended to densely, which "
                       "engine.deterministic = yes forbids: set engine.deterministic = no, or engine.device = cpu");
    tidal_device *d = self->device = calloc(1, sizeof *d);
    if (d == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "tidaldecode: out of memory");
    d->owner = -1;
    /* one row a sequence; graphs have a power of two of them */
    for (d->max_rows = 1; d->max_rows < limits->max_seqs && d->max_rows < limits->max_rows;)
        d->max_rows *= 2;
    int64_t keys = limits->max_context + limits->max_tree;
    d->list_stride = self->rule.min_context - 1 < keys ? self->rule.min_context - 1 : keys;
    d->list_stride = d->list_stride < self->rule.budget - 1 ? self->rule.budget - 1 : d->list_stride;
    d->score_stride = (keys + 3) / 4 * 4;
    int64_t lists = d->max_rows * self->max_groups;
    d->list = self->mem->alloc(self->host, SL_DEVICE_CUDA, lists * d->list_stride * (int64_t)sizeof *d->list, 256,
                               SL_MEM_PLUGIN);
    d->list_n = self->mem->alloc(self->host, SL_DEVICE_CUDA, lists * (int64_t)sizeof *d->list_n, 256, SL_MEM_PLUGIN);
    int64_t bytes = d->max_rows * max_heads(self) * d->score_stride * (int64_t)sizeof(float);
    sl_status s = d->list != NULL && d->list_n != NULL ? self->scratch->reserve(self->host, SL_DEVICE_CUDA, bytes, 0)
                                                       : SL_E_NO_MEMORY;
    if (s >= 0)
        return SL_OK;
    sl_fail(err, s,
            "tidaldecode: the device has no memory for %" PRId64 " lists of %" PRId64 " slots and %" PRId64
            " bytes of scores: lower engine.max_context or max_seqs",
            lists, d->list_stride, bytes);
    tidal_device_deactivate(self);
    return s;
}

void tidal_device_deactivate(sl_instance *self) {
    tidal_device *d = self->device;
    if (d == NULL)
        return;
    self->mem->release(self->host, SL_DEVICE_CUDA, d->list);
    self->mem->release(self->host, SL_DEVICE_CUDA, d->list_n);
    free(d);
    self->device = NULL;
}

static sl_status caps(sl_instance *self, int32_t layer, sl_attn_caps *out) {
    (void)self, (void)layer;
    out->flags = SL_ATTN_NEEDS_ORDER;
    out->segment_kinds = SL_SEGMENT_ROWS | SL_SEGMENT_QROWS;
    out->key_states = 1u << SL_KEYS_ROTATED;
    return SL_OK;
}

static int only_decodes(const sl_batch *b) {
    for (int32_t i = 0; i < b->n_seqs; i++)
        if (b->stage[i] != SL_STAGE_DECODE)
            return 0;
    return 1;
}

/* Dense attention, its scores, and the lists made of them. */
static sl_status select_layer(sl_instance *self, const sl_attend *args, int32_t owner) {
    tidal_device *d = self->device;
    tidal_heads h = tidal_heads_of(self, args->layer);
    sl_attend dense = *args;
    dense.want |= SL_WANT_SCORES;
    dense.scores = self->scratch->get(self->host, SL_DEVICE_CUDA);
    dense.score_stride = d->score_stride;
    SL_TRY(self->ops->attend(self->host, &dense));
    sl_op_pick pick = {.struct_size = SL_SIZE(sl_op_pick),
                       .lane = args->lane,
                       .rows = args->rows,
                       .scores = dense.scores,
                       .list = d->list,
                       .list_n = d->list_n,
                       .score_stride = d->score_stride,
                       .list_stride = d->list_stride,
                       .budget = self->rule.budget - 1, /* the current token is the last one */
                       .all_up_to = d->list_stride,
                       .heads = (int32_t)h.H,
                       .groups = (int32_t)h.K,
                       .half = (uint32_t)self->half_scores};
    SL_TRY(self->ops->pick(self->host, &pick));
    d->step = args->rows->batch->step;
    d->owner = owner;
    return SL_OK;
}

static sl_status attend(sl_instance *self, const sl_attend *args) {
    tidal_device *d = self->device;
    const tidal_role *role = &self->roles[args->layer];
    const sl_batch *b = args->rows->batch;
    if (role->kind == TIDAL_DENSE || !only_decodes(b))
        return self->ops->attend(self->host, args);
    if (args->rows->index != NULL || args->rows->n > d->max_rows || (args->want & SL_WANT_SCORES) ||
        args->view->device->n_rows != NULL) /* slots of one layer would not be those of another */
        return SL_E_UNIMPLEMENTED;
    if (role->kind == TIDAL_SELECT || d->owner != role->owner || d->step != b->step)
        return select_layer(self, args, role->owner);
    sl_view_device listed = *args->view->device;
    listed.list = d->list;
    listed.list_n = d->list_n;
    listed.list_stride = d->list_stride;
    listed.n_groups = (int32_t)tidal_heads_of(self, args->layer).n_lists;
    listed.per_row = 1;
    sl_view view = *args->view;
    view.device = &listed;
    sl_attend sparse = *args;
    sparse.view = &view;
    return self->ops->attend(self->host, &sparse);
}

const sl_attention tidal_device_attention = {.struct_size = SL_SIZE(sl_attention), .caps = caps, .attend = attend};
