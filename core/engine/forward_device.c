/* The forward pass on a device: the order of a decoder layer in eight launches where the plugins fuse what they may.
 * Nothing here waits, and nothing that differs between steps of one graph is decided: counts are bounds
 * (device_step.h). */
#include "device_network.h"
#include "profile.h"

#include "sl_error.h"
#include "sl_tensor.h"

/* ---- small views ------------------------------------------------------------------------------------------------- */

static sl_tensor view2(void *data, sl_dtype dtype, int64_t n, int64_t width, int64_t stride) {
    sl_tensor t;
    sl_tensor_make(&t, data, dtype, SL_DEVICE_CUDA, 2, (int64_t[]){n, width});
    t.stride[0] = stride;
    return t;
}

static sl_tensor view3(void *data, sl_dtype dtype, int64_t n, int64_t heads, int64_t width, int64_t stride) {
    sl_tensor t;
    sl_tensor_make(&t, data, dtype, SL_DEVICE_CUDA, 3, (int64_t[]){n, heads, width});
    t.stride[0] = stride;
    return t;
}

static void *element(void *data, sl_dtype dtype, int64_t i) {
    return (char *)data + i * (int64_t)(sl_dtype_bits(dtype) / 8);
}

static int stage_number(uint32_t stage) { return stage == SL_STAGE_PREFILL ? 0 : stage == SL_STAGE_DECODE ? 1 : 2; }

/* ---- norms and linears ------------------------------------------------------------------------------------------- */

static sl_status norm_to(sli_network *net, float *x, const sl_tensor *w, int64_t n, void *to) {
    sli_device_network *d = net->device;
    int64_t E = net->info->hidden;
    sl_tensor in = view2(x, SL_F32, n, E, E), out = view2(to, SL_BF16, n, E, E);
    sl_op_norm args = {SL_SIZE(sl_op_norm), d->lane, &in, w, &out, net->info->norm_eps};
    return d->ops->norm(net->host, &args);
}

static sl_status norm(sli_network *net, float *x, const sl_tensor *w, int64_t n) {
    return norm_to(net, x, w, n, net->device->xn);
}

/* What the linears of one call read and write. y: [n, sum of out], linear after linear; with act_mul [n, out]. */
typedef struct product {
    sl_tensor x;
    void *y;
    sl_dtype dtype;
    int64_t stride;
    float *residual; /* NULL, or [n, out] */
    uint32_t act_mul;
} product;

static sl_status prepare(const sli_device_network *d, const sli_group *g, const product *p,
                         const sl_quant_prepared **out) {
    *out = NULL;
    if (g->quantizer->api->prepare == NULL)
        return SL_OK;
    sl_quant_input input = {.struct_size = SL_SIZE(sl_quant_input), .lane = d->lane, .x = p->x};
    return g->quantizer->api->prepare(g->handle, &input, out);
}

static sl_status multiply(sli_network *net, const sli_group *g, const sl_quant_prepared *prepared, const product *p,
                          int32_t which, int64_t at, int64_t width) {
    int64_t n = p->x.shape[0];
    const sl_tensor *bias = which == SL_QUANT_ALL ? &g->bias_all : &g->bias[which];
    sl_tensor y = view2(element(p->y, p->dtype, at), p->dtype, n, width, p->stride), add = y;
    add.data = p->residual;
    sl_quant_matmul args = {.struct_size = SL_SIZE(sl_quant_matmul),
                            .lane = net->device->lane,
                            .prepared = prepared,
                            .x = p->x,
                            .y = y,
                            .bias = bias->data != NULL ? bias : NULL,
                            .residual = p->residual != NULL ? &add : NULL,
                            .which = which,
                            .act_mul = p->act_mul,
                            .act = p->act_mul ? net->act : 0};
    return g->quantizer->api->matmul(g->handle, &args);
}

static int is_whole_group(const sli_slot *slots, int n) {
    for (int i = 0; i < n; i++)
        if (slots[i].group != slots[0].group || slots[i].which != i)
            return 0;
    return slots[0].group->desc.n == n && (n == 1 || (slots[0].group->claim.flags & SL_QUANT_FUSES_GROUP));
}

static int64_t out_of(const sli_slot *slot) { return slot->group->linear[slot->which].weight.shape[0]; }

/* Linears that read one input: as one product where their group allows it. */
static sl_status multiply_all(sli_network *net, const sli_slot *slots, int n, const product *p) {
    const sl_quant_prepared *prepared = NULL;
    if (is_whole_group(slots, n)) {
        int64_t width = 0;
        for (int i = 0; i < n; i++)
            width += out_of(&slots[i]);
        SL_TRY(prepare(net->device, slots[0].group, p, &prepared));
        return multiply(net, slots[0].group, prepared, p, n == 1 ? 0 : SL_QUANT_ALL, 0, width);
    }
    const sli_group *current = NULL;
    int64_t at = 0;
    for (int i = 0; i < n; at += out_of(&slots[i++])) {
        if (slots[i].group != current) {
            current = slots[i].group;
            SL_TRY(prepare(net->device, current, p, &prepared));
        }
        SL_TRY(multiply(net, current, prepared, p, slots[i].which, at, out_of(&slots[i])));
    }
    return SL_OK;
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

/* Rows of q, k, v and o of a layer, [n, heads, width] each. */
typedef struct heads {
    sl_tensor q, k, v, o;
} heads;

static heads heads_of(const sli_network *net, const sl_layer_info *info, int64_t n) {
    const sli_device_network *d = net->device;
    int64_t H = info->n_heads, K = info->n_kv_heads, D = info->head_dim, Dv = info->v_head_dim;
    int64_t width = (H + K) * D + K * Dv;
    void *row = d->qkv;
    return (heads){.q = view3(row, SL_BF16, n, H, D, width),
                   .k = view3(element(row, SL_BF16, H * D), SL_BF16, n, K, D, width),
                   .v = view3(element(row, SL_BF16, (H + K) * D), SL_BF16, n, K, Dv, width),
                   .o = view3(d->o, SL_BF16, n, H, Dv, H * Dv)};
}

static sl_status append(sli_network *net, const sli_pass *pass, int32_t l, const sl_rows *rows) {
    sli_net_layer *layer = &net->layers[l];
    heads h = heads_of(net, layer->info, rows->n);
    sl_kv_append args = {.struct_size = SL_SIZE(sl_kv_append),
                         .lane = net->device->lane,
                         .rows = rows,
                         .k = h.k,
                         .v = h.v,
                         .q = h.q,
                         .q_norm = layer->q_norm.data != NULL ? &layer->q_norm : NULL,
                         .k_norm = layer->k_norm.data != NULL ? &layer->k_norm : NULL,
                         .layer = l,
                         .overwrite = pass->overwrite,
                         .norm_eps = net->info->norm_eps};
    return layer->store->api->append(layer->store->self, &args);
}

static sl_status note_rows(sli_network *net, const sli_attender *attender, int stage, int32_t l, const sl_rows *rows) {
    const sli_net_layer *layer = &net->layers[l];
    if (!(layer->caps[stage].flags & SL_ATTN_NOTES_ROWS) || attender->api->note_rows == NULL)
        return SL_OK;
    heads h = heads_of(net, layer->info, rows->n);
    sl_note note = {.struct_size = SL_SIZE(sl_note),
                    .lane = net->device->lane,
                    .rows = rows,
                    .q = h.q,
                    .k = h.k,
                    .v = h.v,
                    .layer = l};
    return attender->api->note_rows(attender->self, &note);
}

/* Locate and attend. */
static sl_status attend(sli_network *net, int32_t l, int stage, const sl_rows *rows) {
    sli_net_layer *layer = &net->layers[l];
    const sli_attender *attender = layer->attender[stage];
    const sli_store *store = layer->store;
    const sl_lane *lane = net->device->lane;
    heads h = heads_of(net, layer->info, rows->n);
    sl_mask mask = {.struct_size = SL_SIZE(sl_mask), .window = layer->info->window, .base = SL_MASK_CAUSAL};
    SL_TRY(note_rows(net, attender, stage, l, rows));
    sl_attend args = {.struct_size = SL_SIZE(sl_attend),
                      .lane = lane,
                      .rows = rows,
                      .mask = &mask,
                      .q = h.q,
                      .o = h.o,
                      .scale = layer->info->attn_scale,
                      .softcap = layer->info->attn_softcap,
                      .layer = l};
    SL_TRY(store->api->view(store->self, lane, l, rows, NULL, &args.view));
    if (layer->sum_heads > 0)
        sli_device_sums_ask(net, &args);
    if (args.view->kinds == SL_SEGMENT_OPAQUE)
        SL_TRY(store->api->attend(store->self, &args));
    else if (attender->api->attend != NULL)
        SL_TRY(attender->api->attend(attender->self, &args));
    else
        SL_TRY(net->device->ops->attend(net->host, &args));
    if (args.want & SL_WANT_COLSUM)
        SL_TRY(sli_device_sums_fetch(net, l));
    if (store->api->settle == NULL)
        return SL_OK;
    sl_kv_side side = {.struct_size = SL_SIZE(sl_kv_side), .rows = rows, .q = &h.q, .layer = l, .view = args.view};
    return store->api->settle(store->self, &side);
}

int sli_device_one_part(const sli_network *net, uint32_t stages) {
    for (int32_t l = 0; l < net->info->n_layers; l++) {
        const sli_attender *one = NULL;
        for (int s = 0; s < SLI_STAGES; s++) {
            if (!(stages & 1u << s))
                continue;
            if (one != NULL && net->layers[l].attender[s] != one)
                return 0;
            one = net->layers[l].attender[s];
        }
    }
    return 1;
}

/* All rows, whose true number is the device's to know, through the one instance that serves their stages. */
static sl_status attend_rows(sli_network *net, const sli_pass *pass, int32_t l) {
    const sl_batch *b = pass->batch;
    const sl_step_device *step = &net->device->step.view;
    sl_rows rows = {SL_SIZE(sl_rows), b, NULL, step->n_rows, step->max_rows, 0};
    SL_TRY(append(net, pass, l, &rows));
    sli_lap(net, SLI_SLOT_APPEND);
    SL_TRY(attend(net, l, stage_number(b->stage[0]), &rows));
    sli_lap(net, SLI_SLOT_ATTEND);
    return SL_OK;
}

sl_status sli_device_append_rows(sli_network *net, const sl_batch *b, int32_t l) {
    const sl_step_device *step = &net->device->step.view;
    sli_net_layer *layer = &net->layers[l];
    int stage = stage_number(b->stage[0]);
    sl_rows rows = {SL_SIZE(sl_rows), b, NULL, step->n_rows, step->max_rows, 0};
    SL_TRY(append(net, &(sli_pass){.batch = b}, l, &rows));
    SL_TRY(note_rows(net, layer->attender[stage], stage, l, &rows));
    if (layer->store->api->settle == NULL)
        return SL_OK;
    heads h = heads_of(net, layer->info, rows.n);
    sl_kv_side side = {.struct_size = SL_SIZE(sl_kv_side), .rows = &rows, .q = &h.q, .layer = l};
    return layer->store->api->settle(layer->store->self, &side);
}

/* ---- a layer ----------------------------------------------------------------------------------------------------- */

static sl_status attention_block(sli_network *net, const sli_pass *pass, int32_t l) {
    sli_device_network *d = net->device;
    sli_net_layer *layer = &net->layers[l];
    const sl_layer_info *info = layer->info;
    int64_t n = d->step.view.max_rows, E = net->info->hidden, o = (int64_t)info->n_heads * info->v_head_dim;
    int64_t width =
        (int64_t)(info->n_heads + info->n_kv_heads) * info->head_dim + (int64_t)info->n_kv_heads * info->v_head_dim;
    SL_TRY(norm(net, d->x, &layer->norm_attn, n));
    sli_lap(net, SLI_SLOT_NORM);
    product qkv = {.x = view2(d->xn, SL_BF16, n, E, E), .y = d->qkv, .dtype = SL_BF16, .stride = width};
    SL_TRY(multiply_all(net, &layer->linear[SLI_ROLE_Q], 3, &qkv));
    sli_lap(net, SLI_SLOT_QKV);
    SL_TRY(attend_rows(net, pass, l));
    product back = {.x = view2(d->o, SL_BF16, n, o, o), .y = d->x, .dtype = SL_F32, .stride = E, .residual = d->x};
    SL_TRY(multiply_all(net, &layer->linear[SLI_ROLE_O], 1, &back));
    sli_lap(net, SLI_SLOT_O);
    return SL_OK;
}

static sl_status gate_up(sli_network *net, sli_net_layer *layer, int64_t n) {
    sli_device_network *d = net->device;
    int64_t E = net->info->hidden, F = layer->info->ffn;
    const sli_slot *slots = &layer->linear[SLI_ROLE_GATE];
    product p = {
        .x = view2(d->xn, SL_BF16, n, E, E), .y = d->h, .dtype = SL_BF16, .stride = sli_device_width(F), .act_mul = 1};
    if (slots[0].group == slots[1].group && slots[0].group->desc.n == 2 &&
        (slots[0].group->claim.flags & SL_QUANT_FUSES_ACT_MUL)) {
        const sl_quant_prepared *prepared;
        SL_TRY(prepare(d, slots[0].group, &p, &prepared));
        return multiply(net, slots[0].group, prepared, &p, SL_QUANT_ALL, 0, F);
    }
    p.y = d->gate_up, p.stride = 2 * F, p.act_mul = 0;
    SL_TRY(multiply_all(net, slots, 2, &p));
    sl_tensor gate = view2(d->gate_up, SL_BF16, n, F, 2 * F), y = view2(d->h, SL_BF16, n, F, sli_device_width(F));
    sl_tensor up = view2(element(d->gate_up, SL_BF16, F), SL_BF16, n, F, 2 * F);
    sl_op_act_mul act = {SL_SIZE(sl_op_act_mul), d->lane, &gate, &up, &y, net->act, 0, NULL};
    return d->ops->act_mul(net->host, &act);
}

static sl_status ffn_block(sli_network *net, int32_t l) {
    sli_device_network *d = net->device;
    sli_net_layer *layer = &net->layers[l];
    int64_t n = d->step.view.max_rows, E = net->info->hidden, F = sli_device_width(layer->info->ffn);
    SL_TRY(norm(net, d->x, &layer->norm_ffn, n));
    sli_lap(net, SLI_SLOT_NORM);
    SL_TRY(gate_up(net, layer, n));
    sli_lap(net, SLI_SLOT_GATE_UP);
    product down = {.x = view2(d->h, SL_BF16, n, F, F), .y = d->x, .dtype = SL_F32, .stride = E, .residual = d->x};
    SL_TRY(multiply_all(net, &layer->linear[SLI_ROLE_DOWN], 1, &down));
    sli_lap(net, SLI_SLOT_DOWN);
    return SL_OK;
}

/* ---- the pass ---------------------------------------------------------------------------------------------------- */

sl_status sli_device_queue_layers(sli_network *net, const sli_pass *pass, sl_error *err) {
    sli_device_network *d = net->device;
    int64_t n = d->step.view.max_rows, E = net->info->hidden;
    sl_tensor x = view2(d->x, SL_F32, n, E, E);
    sl_op_embed embed = {SL_SIZE(sl_op_embed), d->lane, pass->batch, &net->embed, &x};
    sl_status s = d->ops->embed(net->host, &embed);
    if (s < 0)
        return sl_fail(err, s, "embedding: %s", sl_status_text(s));
    sli_lap(net, SLI_SLOT_EMBED);
    int32_t end = pass->exit_layer > 0 ? pass->exit_layer : net->info->n_layers;
    for (int32_t l = 0; l < end; l++) {
        if (pass->attn_layers == NULL || pass->attn_layers[l])
            s = attention_block(net, pass, l);
        if (s >= 0 && (pass->ffn_layers == NULL || pass->ffn_layers[l]))
            s = ffn_block(net, l);
        if (s < 0)
            return sl_fail(err, s, "layer %d: %s", l, sl_status_text(s));
    }
    return SL_OK;
}

/* Rows step.logit_row of the residual, to head_x. */
static sl_status gather_rows(sli_network *net, int32_t n) {
    sli_device_network *d = net->device;
    int64_t E = net->info->hidden;
    sl_tensor x = view2(d->x, SL_F32, d->step.max_rows, E, E), y = view2(d->head_x, SL_F32, n, E, E);
    sl_op_gather gather = {SL_SIZE(sl_op_gather), d->lane, &x, d->step.logit_row, &y};
    return d->ops->gather(net->host, &gather);
}

sl_status sli_device_queue_logits(sli_network *net, int32_t n, int identity, sl_error *err) {
    sli_device_network *d = net->device;
    int64_t E = net->info->hidden, V = net->info->vocab;
    sl_status s = identity ? SL_OK : gather_rows(net, n);
    if (s >= 0)
        s = norm(net, identity ? d->x : d->head_x, &net->final_norm, n);
    sli_lap(net, SLI_SLOT_NORM);
    product head = {.x = view2(d->xn, SL_BF16, n, E, E), .y = d->logits, .dtype = SL_F32, .stride = V};
    if (s >= 0)
        s = multiply_all(net, &net->head, 1, &head);
    sli_lap(net, SLI_SLOT_HEAD);
    return s < 0 ? sl_fail(err, s, "output head: %s", sl_status_text(s)) : SL_OK;
}

sl_status sli_device_queue_normed(sli_network *net, int32_t n, void *out, sl_error *err) {
    sl_status s = gather_rows(net, n);
    if (s >= 0)
        s = norm_to(net, net->device->head_x, &net->final_norm, n, out);
    return s < 0 ? sl_fail(err, s, "hidden rows: %s", sl_status_text(s)) : SL_OK;
}

sl_status sli_device_queue_project(sli_network *net, const sl_tensor *x, const sl_tensor *logits, sl_error *err) {
    int64_t most = net->device->step.max_logits;
    for (int64_t i = 0, n; i < x->shape[0]; i += n) {
        n = x->shape[0] - i < most ? x->shape[0] - i : most;
        product head = {.x = view2(element(x->data, SL_BF16, i * x->stride[0]), SL_BF16, n, x->shape[1], x->stride[0]),
                        .y = element(logits->data, SL_F32, i * logits->stride[0]),
                        .dtype = SL_F32,
                        .stride = logits->stride[0]};
        sl_status s = multiply_all(net, &net->head, 1, &head);
        if (s < 0)
            return sl_fail(err, s, "output head: %s", sl_status_text(s));
    }
    return SL_OK;
}
