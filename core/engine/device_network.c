/* See device_network.h: life of a network's part on the device, and what is not served there. */
#include "device_network.h"

#include <inttypes.h>

#include "base/ledger.h"
#include "sl_error.h"

/* ---- what is served ---------------------------------------------------------------------------------------------- */

static sl_status refuse(int32_t layer, const char *what, sl_error *err) {
    return sl_fail(err, SL_E_UNIMPLEMENTED, "layer %d: %s not served on the device yet: set engine.device = cpu", layer,
                   what);
}

sl_status sli_device_layer_check(const sli_network *net, int32_t l, sl_error *err) {
    const sli_net_layer *layer = &net->layers[l];
    const sli_store *store = layer->store;
    uint32_t kinds = layer->layout.kinds & (SL_SEGMENT_ROWS | SL_SEGMENT_QROWS | SL_SEGMENT_OPAQUE);
    if (!(layer->layout.flags & SL_KV_FUSES_ROPE))
        return refuse(l, "a KV store that does not rotate keys itself (fuses_rope) is", err);
    if (layer->layout.flags & SL_KV_WANTS_RAW)
        return refuse(l, "a KV store that wants keys before RoPE too is", err);
    if (layer->layout.row_block > 0)
        return refuse(l, "a KV store that takes a few rows at once is", err);
    if (store->selector != NULL)
        return refuse(l, "a KV store that selects tokens is", err);
    if ((kinds & SL_SEGMENT_OPAQUE) && kinds != SL_SEGMENT_OPAQUE)
        return refuse(l, "a KV store with rows of its own form beside plain ones is", err);
    if (net->n_policies > 0 && layer->info->window > 0) /* behind an edit slots are no token indices */
        return refuse(l, "a policy that drops rows of a layer with a window is", err);
    for (int s = 0; s < SLI_STAGES; s++) {
        const sl_attn_caps *caps = &layer->caps[s];
        if (caps->row_block > 0)
            return refuse(l, "attention that takes a few rows at once is", err);
        if (layer->attender[s]->api->select != NULL)
            return refuse(l, "attention that selects tokens is", err);
        if (caps->flags & SL_ATTN_NOTES_RAW)
            return refuse(l, "attention that wants rows before RoPE is", err);
        if (caps->rope != NULL)
            return refuse(l, "attention with a rotary table of its own is", err);
        if (net->n_policies > 0 && layer->attender[s]->api->attend != NULL && !(caps->flags & SL_ATTN_COLSUM))
            return refuse(l, "a policy that drops rows under attention with kernels of its own is", err);
        if (layer->attender[s]->api->finish != NULL)
            return refuse(l, "attention that answers later is", err);
    }
    return SL_OK;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

typedef struct widths {
    int64_t qkv, o, ffn;
    int32_t heads, kv_heads, head_dim;
} widths;

static void larger(int32_t *most, int32_t n) { *most = n > *most ? n : *most; }

static widths widest(const sl_model_info *info) {
    widths w = {0};
    for (int32_t l = 0; l < info->n_layers; l++) {
        const sl_layer_info *i = info->layers[l];
        int64_t qkv = (int64_t)(i->n_heads + i->n_kv_heads) * i->head_dim + (int64_t)i->n_kv_heads * i->v_head_dim;
        int64_t o = (int64_t)i->n_heads * i->v_head_dim;
        w.qkv = qkv > w.qkv ? qkv : w.qkv;
        w.o = o > w.o ? o : w.o;
        w.ffn = i->ffn > w.ffn ? sli_device_width(i->ffn) : w.ffn;
        larger(&w.heads, i->n_heads);
        larger(&w.kv_heads, i->n_kv_heads);
        larger(&w.head_dim, i->head_dim > i->v_head_dim ? i->head_dim : i->v_head_dim);
    }
    return w;
}

static sl_status reserve_operations(const sli_network *net, const sli_device *device, sl_error *err) {
    widths w = widest(net->info);
    int64_t width = 2 * w.ffn; /* of gate above up */
    width = w.qkv > width ? w.qkv : width;
    width = w.o > width ? w.o : width;
    width = net->info->hidden > width ? net->info->hidden : width;
    sli_cuda_shapes shapes = {.max_rows = net->limits.max_rows,
                              .max_seqs = net->limits.max_seqs,
                              .max_context = net->limits.max_context + SL_MAX_TREE_NODES,
                              .max_tree = net->limits.max_tree,
                              .heads = w.heads,
                              .kv_heads = w.kv_heads,
                              .head_dim = w.head_dim,
                              .n_layers = net->info->n_layers,
                              .vocab = net->info->vocab,
                              .width = width,
                              .deterministic = net->limits.deterministic};
    return device->api->ops_reserve(device->cuda, &shapes, err);
}

sl_status sli_device_network_create(sli_network *net, const sli_device *device, int64_t max_logits, sl_error *err) {
    if (net->rewriter != NULL)
        return sl_fail(err, SL_E_UNIMPLEMENTED,
                       "[quant.rewrite]: rewritten models are not served on the device yet: set engine.device = cpu");
    sli_device_network *d = sli_alloc(SLI_TAG_MISC, sizeof *d);
    if (d == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for a network on the device");
    net->device = d;
    *d = (sli_device_network){
        .device = device, .exec = device->api->exec, .ops = device->api->ops, .lane = device->lane};
    SL_TRY(reserve_operations(net, device, err));
    return sli_device_step_create(&d->step, device, &net->limits, max_logits, err);
}

void sli_device_network_destroy(sli_network *net) {
    sli_device_network *d = net->device;
    if (d == NULL)
        return;
    const sli_cuda_api *api = d->device->api;
    sl_status waited = d->exec->sync(d->lane, NULL); /* whatever is in flight: memory goes */
    (void)waited;
    for (int i = 0; i < SLI_MAX_GRAPHS; i++)
        if (d->graphs[i].graph != NULL)
            api->graph_destroy(d->device->cuda, d->graphs[i].graph);
    SL_ERROR(ignored);
    if (d->ring.slot[0] != NULL)
        sli_device_send_end(d, &ignored);
    sli_device_step_destroy(&d->step);
    sli_device_sums_destroy(d);
    api->release(d->device->cuda, SL_DEVICE_HOST_PINNED, d->host_logits);
    api->release(d->device->cuda, SL_DEVICE_HOST_PINNED, d->host_best);
    api->release(d->device->cuda, SL_DEVICE_HOST_PINNED, d->host_token);
    api->release(d->device->cuda, SL_DEVICE_HOST_PINNED, d->host_rows);
    api->release(d->device->cuda, SL_DEVICE_HOST_PINNED, d->host_x);
    for (int32_t i = d->n_owned - 1; i >= 0; i--)
        api->release(d->device->cuda, SL_DEVICE_CUDA, d->owned[i]);
    sli_free(d->owned);
    sli_free(d->rows);
    sli_free(d->draw);
    sli_free(d);
    net->device = NULL;
}

/* ---- activations ------------------------------------------------------------------------------------------------- */

/* Is there a layer whose gate and up leave by themselves, to be joined by an operation? */
static int needs_gate_up(const sli_network *net) {
    for (int32_t l = 0; l < net->info->n_layers; l++) {
        const sli_slot *gate = &net->layers[l].linear[SLI_ROLE_GATE], *up = &net->layers[l].linear[SLI_ROLE_UP];
        if (gate->group != up->group || !(gate->group->claim.flags & SL_QUANT_FUSES_ACT_MUL))
            return 1;
    }
    return 0;
}

static sl_status take_activations(sli_network *net, sl_error *err) {
    sli_device_network *d = net->device;
    widths w = widest(net->info);
    int64_t n = net->limits.max_rows, L = d->step.max_logits, E = net->info->hidden, V = net->info->vocab;
    const struct {
        void *p; /* of a pointer */
        int64_t bytes;
    } buffers[] = {
        {&d->x, 4 * n * E},
        {&d->xn, 2 * (n > L ? n : L) * E},
        {&d->qkv, 2 * n * w.qkv},
        {&d->o, 2 * n * w.o},
        {&d->gate_up, needs_gate_up(net) ? 4 * n * w.ffn : 0},
        {&d->h, 2 * n * w.ffn},
        {&d->head_x, 4 * L * E},
        {&d->logits, 4 * L * V},
    };
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        if ((*(void **)buffers[i].p = sli_device_take(d, buffers[i].bytes, SL_MEM_SCRATCH)) == NULL)
            return sl_fail(err, SL_E_NO_MEMORY,
                           "no device memory for activations of %" PRId64 " rows (engine.max_rows)", n);
    d->host_logits = d->device->api->alloc(d->device->cuda, SL_DEVICE_HOST_PINNED, 4 * L * V, 256, SL_MEM_SCRATCH);
    d->host_rows = d->device->api->alloc(d->device->cuda, SL_DEVICE_HOST_PINNED, 2 * 4 * L, 256, SL_MEM_SCRATCH);
    d->rows = sli_calloc(SLI_TAG_SCRATCH, (size_t)L, sizeof *d->rows);
    d->draw = sli_calloc(SLI_TAG_SCRATCH, (size_t)L, sizeof *d->draw);
    if (d->host_logits == NULL || d->host_rows == NULL || d->rows == NULL || d->draw == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no pinned memory for %" PRId64 " rows of logits", L);
    return SL_OK;
}

sl_status sli_device_best_reserve(sli_network *net, int32_t n_best, int with_logits, sl_error *err) {
    sli_device_network *d = net->device;
    int64_t bytes = 2 * 4 * (int64_t)d->step.max_logits * n_best;
    d->n_best = n_best;
    d->with_best_logits = with_logits;
    d->best = sli_device_take(d, bytes, SL_MEM_SCRATCH);
    d->host_best = d->device->api->alloc(d->device->cuda, SL_DEVICE_HOST_PINNED, bytes, 256, SL_MEM_SCRATCH);
    d->host_token = d->device->api->alloc(d->device->cuda, SL_DEVICE_HOST_PINNED,
                                          4 * SLI_STEP_MIRRORS * (int64_t)d->step.max_logits, 256, SL_MEM_SCRATCH);
    return d->best != NULL && d->host_best != NULL && d->host_token != NULL
               ? SL_OK
               : sl_fail(err, SL_E_NO_MEMORY, "no device memory for the %d best ids of %d rows", n_best,
                         d->step.max_logits);
}

sl_status sli_device_head_reserve(sli_network *net, sl_error *err) {
    sli_device_network *d = net->device;
    int64_t L = d->step.max_logits;
    d->host_x =
        d->device->api->alloc(d->device->cuda, SL_DEVICE_HOST_PINNED, 2 * L * net->info->hidden, 256, SL_MEM_SCRATCH);
    return d->host_x != NULL ? SL_OK : sl_fail(err, SL_E_NO_MEMORY, "no pinned memory for %" PRId64 " hidden rows", L);
}

sl_status sli_device_network_ready(sli_network *net, sl_error *err) {
    SL_TRY(sli_device_ropes(net, err));
    SL_TRY(sli_device_send_end(net->device, err));
    return take_activations(net, err);
}
