/* Building a network: linears bound to their quantizers, layers to stores and attention, activations allocated. */
#include "network.h"

#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/ledger.h"
#include "device_network.h"
#include "engine/rewrite.h"
#include "followers.h"
#include "sl_error.h"
#include "sl_tensor.h"
#include "sums.h"

/* ---- linear groups
 * --------------------------------------------------------------------------------------------------- */

/* Linears that read one input. */
static const struct {
    const char *name;
    sli_weight_role roles[3];
    int n;
} group_table[] = {
    {"attn.qkv", {SLI_ROLE_Q, SLI_ROLE_K, SLI_ROLE_V}, 3},
    {"attn.o", {SLI_ROLE_O}, 1},
    {"ffn.gate_up", {SLI_ROLE_GATE, SLI_ROLE_UP}, 2},
    {"ffn.down", {SLI_ROLE_DOWN}, 1},
};
enum { N_GROUPS = sizeof group_table / sizeof *group_table };

static const struct {
    sli_weight_role role, bias;
    const char *name;
} linear_table[] = {
    {SLI_ROLE_Q, SLI_ROLE_Q_BIAS, "q"},          {SLI_ROLE_K, SLI_ROLE_K_BIAS, "k"},
    {SLI_ROLE_V, SLI_ROLE_V_BIAS, "v"},          {SLI_ROLE_O, SLI_ROLE_O_BIAS, "o"},
    {SLI_ROLE_GATE, SLI_ROLE_GATE_BIAS, "gate"}, {SLI_ROLE_UP, SLI_ROLE_UP_BIAS, "up"},
    {SLI_ROLE_DOWN, SLI_ROLE_DOWN_BIAS, "down"}, {SLI_ROLE_HEAD, SLI_ROLE_COUNT, "head"},
};

/* An f32 copy of a vector of the checkpoint, or an empty tensor when the model has none. */
static sl_status copy_vector(sli_network *net, int32_t layer, sli_weight_role role, sl_tensor *out, sl_error *err) {
    const sl_tensor *t = role < SLI_ROLE_COUNT ? sli_model_weight(net->model, layer, role) : NULL;
    *out = (sl_tensor){0};
    if (t == NULL)
        return SL_OK;
    float *copy = sli_calloc(SLI_TAG_WEIGHTS, (size_t)t->shape[0], sizeof *copy);
    if (copy == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for %s", sli_model_weight_name(net->model, layer, role));
    sl_tensor_make(out, copy, SL_F32, SL_DEVICE_CPU, 1, t->shape);
    SL_TRY(net->ops->convert(copy, SL_F32, t->data, t->dtype, t->shape[0]));
    return sli_rewrite_vector(net, layer, role, copy, t->shape[0], err);
}

/* A rewritten matrix has the dtype of the checkpoint, or f32 where the rewriter says so. */
static sl_status narrow(sli_network *net, sl_tensor *w, void **owned, sl_dtype dtype, sl_error *err) {
    int64_t n = w->shape[0] * w->shape[1];
    if (*owned == NULL || dtype == SL_F32)
        return SL_OK;
    void *copy = sli_alloc(SLI_TAG_WEIGHTS, (size_t)n * (sl_dtype_bits(dtype) / 8));
    if (copy == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for %" PRId64 " rewritten weights", n);
    SL_TRY(net->ops->convert(copy, dtype, *owned, SL_F32, n));
    sli_free(*owned);
    *owned = copy;
    return sl_tensor_make(w, copy, dtype, SL_DEVICE_CPU, 2, (int64_t[]){w->shape[0], w->shape[1]});
}

static sl_status add_linear(sli_network *net, sli_group *g, int32_t layer, sli_weight_role role, sl_error *err) {
    int row = 0;
    while (linear_table[row].role != role)
        row++;
    int i = g->desc.n++;
    const sl_tensor *w = sli_model_weight(net->model, layer, role);
    g->linear[i] = (sl_linear){.struct_size = SL_SIZE(sl_linear),
                               .name = sli_model_weight_name(net->model, layer, role),
                               .role = linear_table[row].name,
                               .weight = *w};
    g->source[i] = *w;
    sl_dtype kept;
    SL_TRY(sli_rewrite_matrix(net, layer, role, &g->linear[i].weight, &g->rewritten[i], &kept, err));
    SL_TRY(narrow(net, &g->linear[i].weight, &g->rewritten[i], kept, err));
    SL_TRY(copy_vector(net, layer, linear_table[row].bias, &g->bias[i], err));
    if (g->bias[i].data != NULL)
        g->linear[i].bias = &g->bias[i];
    g->linears[i] = &g->linear[i];
    g->desc.linears = g->linears;
    g->desc.in = w->shape[1];
    return SL_OK;
}

/* The checkpoint's pages of packed tensors are not needed any more; they come back from the file if somebody asks. */
static void release_pages(sli_group *g) {
    int64_t page = sysconf(_SC_PAGESIZE);
    for (int32_t i = 0; g->is_mapped && i < g->desc.n; i++) {
        int64_t bytes;
        if (g->source[i].data == NULL) /* it is there in another form */
            continue;
        sl_tensor_bytes(&g->source[i], &bytes);
        uintptr_t begin = ((uintptr_t)g->source[i].data + (uintptr_t)page - 1) / (uintptr_t)page * (uintptr_t)page;
        uintptr_t end = ((uintptr_t)g->source[i].data + (uintptr_t)bytes) / (uintptr_t)page * (uintptr_t)page;
        if (end > begin && madvise((void *)begin, end - begin, MADV_DONTNEED) == 0)
            g->released_bytes += bytes;
    }
    sli_ledger_note(SLI_TAG_WEIGHTS, -g->released_bytes);
}

static sl_status pack(sli_group *g, sl_error *err) {
    const sl_quant *api = g->quantizer->api;
    sl_instance *self = g->quantizer->self;
    g->claim = (sl_quant_claim){.struct_size = SL_SIZE(sl_quant_claim)};
    SL_TRY(api->claim(self, &g->desc, &g->claim, err));
    if (g->claim.x_dtype != SL_F32 || (g->claim.flags & SL_QUANT_FUSES_NORM))
        return sl_fail(err, SL_E_UNIMPLEMENTED, "%s: this engine gives normed f32 inputs, the quantiser wants others",
                       g->linear[0].name);
    int64_t bytes = 0;
    SL_TRY(api->pack_size(self, &g->desc, &bytes, err));
    if (bytes > 0) {
        g->blob = sli_alloc(SLI_TAG_WEIGHTS, (size_t)bytes);
        if (g->blob == NULL)
            return sl_fail(err, SL_E_NO_MEMORY, "%s: no memory for %" PRId64 " bytes of packed weights",
                           g->linear[0].name, bytes);
        SL_TRY(api->pack_into(self, &g->desc, g->blob, err));
    }
    for (int32_t i = 0; bytes > 0 && i < g->desc.n; i++)
        if (g->rewritten[i] != NULL) {
            sli_free(g->rewritten[i]);
            g->rewritten[i] = NULL;
            g->linear[i].weight.data = NULL; /* the blob stands for it */
        }
    SL_TRY(api->bind(self, &g->desc, g->blob, &g->handle, err));
    if (bytes > 0 && strcmp(g->desc.name, "head") != 0) /* the head may be the embedding, which stays in use */
        release_pages(g);
    return SL_OK;
}

static void unpack(sli_group *g) {
    if (g->handle != NULL)
        g->quantizer->api->unbind(g->quantizer->self, g->handle);
    sli_free(g->blob);
    sli_ledger_note(SLI_TAG_WEIGHTS, g->released_bytes);
    g->handle = NULL;
    g->blob = NULL;
    g->released_bytes = 0;
}

sl_status sli_network_rebind(sli_group *g, const sli_quantizer *quantizer, sl_error *err) {
    unpack(g);
    g->quantizer = quantizer;
    return pack(g, err);
}

/* Groups of the given linears: one for each quantizer among them. */
static sl_status bind_linears(sli_network *net, const sli_network_plan *plan, int32_t layer, const char *name,
                              const sli_weight_role *roles, int n, sli_slot *slots, sl_error *err) {
    sli_group *first = &net->groups[net->n_groups];
    int32_t begin = net->n_groups;
    for (int i = 0; i < n; i++) {
        const sli_quantizer *q;
        SL_TRY(plan->quantizer(plan->user, layer, sli_model_weight_name(net->model, layer, roles[i]), &q, err));
        sli_group *g = first;
        while (g < &net->groups[net->n_groups] && g->quantizer != q)
            g++;
        if (g == &net->groups[net->n_groups]) {
            net->n_groups++;
            g->quantizer = q;
            g->is_mapped = sli_model_is_mapped(net->model);
            g->desc = (sl_linear_group){.struct_size = SL_SIZE(sl_linear_group), .name = name, .layer = layer};
        }
        slots[roles[i]] = (sli_slot){g, g->desc.n};
        SL_TRY(add_linear(net, g, layer, roles[i], err));
    }
    for (int32_t i = begin; i < net->n_groups; i++) {
        if (net->device == NULL) {
            SL_TRY(pack(&net->groups[i], err));
            continue;
        }
        SL_TRY(sli_device_pack(net, &net->groups[i], err));
        release_pages(&net->groups[i]);
    }
    return SL_OK;
}

/* ---- layers
 * ----------------------------------------------------------------------------------------------------------- */

/* Do store and attention of one layer fit each other? Their own declarations say. */
static sl_status check_layer(const sli_net_layer *layer, int32_t l, sl_error *err) {
    for (int s = 0; s < SLI_STAGES; s++) {
        const sl_attn_caps *caps = &layer->caps[s];
        uint32_t public_kinds = layer->layout.kinds & ~(uint32_t)SL_SEGMENT_OPAQUE;
        uint32_t own = caps->segment_kinds, hosts = SL_SEGMENT_ROWS | SL_SEGMENT_QROWS;
        uint32_t readable = layer->attender[s]->api->attend != NULL ? own : hosts;
        if (public_kinds & ~readable)
            return sl_fail(err, SL_E_INVALID,
                           "layer %d: the KV store keeps rows in a form that the attention plugin cannot read", l);
        if (public_kinds != 0 && !(caps->key_states & 1u << layer->layout.key_state))
            return sl_fail(err, SL_E_INVALID,
                           "layer %d: the KV store keeps keys %s RoPE, the attention plugin wants them %s", l,
                           layer->layout.key_state == SL_KEYS_RAW ? "before" : "after",
                           layer->layout.key_state == SL_KEYS_RAW ? "after" : "before");
        if ((layer->layout.kinds & SL_SEGMENT_OPAQUE) && layer->store->api->attend == NULL)
            return sl_fail(err, SL_E_INVALID, "layer %d: the KV store has rows of its own form and no attend", l);
        if (layer->store->selector != NULL && layer->attender[s]->api->select != NULL)
            return sl_fail(err, SL_E_INVALID, "layer %d: both the KV store and the attention plugin select tokens", l);
        if (caps->wants & SL_WANT_COLSUM)
            return sl_fail(err, SL_E_UNIMPLEMENTED,
                           "layer %d: the attention plugin wants column sums of others' attention, which this engine "
                           "does not hand out yet",
                           l);
    }
    return SL_OK;
}

/* Do store and attention of one layer go with policies on top of them? */
static sl_status check_policies(const sli_net_layer *layer, int32_t l, sl_error *err) {
    const sli_store *store = layer->store;
    if (!(layer->layout.flags & SL_KV_EDITS) || !SL_HAS_FN(store->api, sl_kv_store, edit))
        return sl_fail(err, SL_E_INVALID, "layer %d: a policy was chosen, and the KV store cannot drop rows", l);
    if ((layer->layout.flags & SL_KV_PER_HEAD) && !SL_HAS_FN(store->api, sl_kv_store, rows))
        return sl_fail(err, SL_E_INVALID, "layer %d: the KV store keeps lengths by head and does not tell them", l);
    if (store->selector != NULL)
        return sl_fail(err, SL_E_UNIMPLEMENTED,
                       "layer %d: a policy was chosen, and the KV store selects tokens for itself", l);
    if (layer->sum_heads > 0 && (layer->layout.kinds & SL_SEGMENT_OPAQUE))
        return sl_fail(err, SL_E_UNIMPLEMENTED,
                       "layer %d: the policy wants column sums, which the KV store's own attend does not tell", l);
    for (int s = 0; s < SLI_STAGES; s++) {
        const sl_attention *api = layer->attender[s]->api;
        if (api->select != NULL)
            return sl_fail(err, SL_E_UNIMPLEMENTED,
                           "layer %d: the attention plugin selects tokens, which this engine does not combine with a "
                           "policy that drops rows by head",
                           l);
        if (layer->sum_heads > 0 && api->attend != NULL && !(layer->caps[s].flags & SL_ATTN_COLSUM))
            return sl_fail(err, SL_E_INVALID,
                           "layer %d: the policy wants column sums, which the attention plugin's attend does not tell",
                           l);
    }
    return SL_OK;
}

static sl_status bind_layer(sli_network *net, const sli_network_plan *plan, int32_t l, sl_error *err) {
    sli_net_layer *layer = &net->layers[l];
    layer->info = net->info->layers[l];
    SL_TRY(copy_vector(net, l, SLI_ROLE_NORM_ATTN, &layer->norm_attn, err));
    SL_TRY(copy_vector(net, l, SLI_ROLE_NORM_FFN, &layer->norm_ffn, err));
    SL_TRY(copy_vector(net, l, SLI_ROLE_Q_NORM, &layer->q_norm, err));
    SL_TRY(copy_vector(net, l, SLI_ROLE_K_NORM, &layer->k_norm, err));
    sl_tensor *norms[] = {&layer->norm_attn, &layer->norm_ffn, &layer->q_norm, &layer->k_norm};
    for (size_t i = 0; net->device != NULL && i < sizeof norms / sizeof *norms; i++)
        SL_TRY(sli_device_vector(net, norms[i], err));
    for (int i = 0; i < N_GROUPS; i++)
        SL_TRY(bind_linears(net, plan, l, group_table[i].name, group_table[i].roles, group_table[i].n, layer->linear,
                            err));
    layer->store = plan->store(plan->user, l);
    layer->layout = (sl_kv_layout){.struct_size = SL_SIZE(sl_kv_layout)};
    SL_TRY(layer->store->api->layout(layer->store->self, l, &layer->layout));
    for (int s = 0; s < SLI_STAGES; s++) {
        layer->attender[s] = plan->attender(plan->user, l, 1u << s);
        layer->caps[s] = (sl_attn_caps){.struct_size = SL_SIZE(sl_attn_caps)};
        SL_TRY(layer->attender[s]->api->caps(layer->attender[s]->self, l, &layer->caps[s]));
    }
    if (sli_rewrite_turns_keys(net, l) &&
        (layer->layout.key_state == SL_KEYS_RAW || (layer->layout.flags & (SL_KV_WANTS_RAW | SL_KV_FUSES_ROPE))))
        return sl_fail(
            err, SL_E_INVALID,
            "layer %d: the KV store keeps keys before RoPE and turns them itself, but [quant.rewrite] rotates "
            "keys after RoPE: set kv_rotate = no",
            l);
    SL_TRY(check_layer(layer, l, err));
    return net->device != NULL ? sli_device_layer_check(net, l, err) : SL_OK;
}

/* ---- buffers
 * ------------------------------------------------------------------------------------------------------------ */

static sl_status take_buffers(sli_network *net, sl_error *err) {
    int64_t E = net->info->hidden, q = 0, k = 0, o = 0, heads = 0, ffn = 0, n = net->limits.max_rows;
    for (int32_t l = 0; l < net->info->n_layers; l++) {
        const sl_layer_info *i = net->info->layers[l];
        int64_t widths[] = {(int64_t)i->n_heads * i->head_dim, (int64_t)i->n_kv_heads * i->head_dim,
                            (int64_t)i->n_heads * i->v_head_dim};
        q = widths[0] > q ? widths[0] : q;
        k = widths[1] > k ? widths[1] : k;
        o = widths[2] > o ? widths[2] : o;
        heads = i->n_heads > heads ? i->n_heads : heads;
        ffn = i->ffn > ffn ? i->ffn : ffn;
    }
    const struct {
        float **p;
        int64_t width;
    } buffers[] = {{&net->x, E},       {&net->xn, E},      {&net->q, q},  {&net->k, k},       {&net->v, k},
                   {&net->q_raw, q},   {&net->k_raw, k},   {&net->o, o},  {&net->gate, ffn},  {&net->up, ffn},
                   {&net->head_in, E}, {&net->lse, heads}, {&net->o2, o}, {&net->lse2, heads}};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        if ((*buffers[i].p = sli_calloc(SLI_TAG_SCRATCH, (size_t)(n * buffers[i].width), sizeof(float))) == NULL)
            return sl_fail(err, SL_E_NO_MEMORY, "no memory for activations of %" PRId64 " rows (engine.max_rows)", n);
    net->row_index = sli_calloc(SLI_TAG_SCRATCH, (size_t)n, sizeof *net->row_index);
    if (net->row_index == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for activations");
    for (int32_t i = 0; i < n; i++)
        net->row_index[i] = i;
    return SL_OK;
}

/* ---- life
 * ----------------------------------------------------------------------------------------------------------------- */

sl_status sli_network_build(sli_network *net, const sli_network_plan *plan, int32_t max_seqs, sl_error *err) {
    int32_t n = net->info->n_layers;
    int64_t total = sli_model_bytes(net->model);
    net->layers = sli_calloc(SLI_TAG_MISC, (size_t)n, sizeof *net->layers);
    net->groups = sli_calloc(SLI_TAG_MISC, (size_t)n * SLI_ROLE_COUNT + 1, sizeof *net->groups);
    if (net->layers == NULL || net->groups == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for %d layers", n);
    net->act = sli_model_describe(net->model)->act == SLI_ACT_SILU ? SL_ACT_SILU : SL_ACT_GELU_TANH;
    sl_dtype kept;
    SL_TRY(sli_rewrite_begin(net, err));
    net->embed = *sli_model_weight(net->model, -1, SLI_ROLE_EMBED);
    SL_TRY(sli_rewrite_matrix(net, -1, SLI_ROLE_EMBED, &net->embed, &net->embed_rewritten, &kept, err));
    SL_TRY(narrow(net, &net->embed, &net->embed_rewritten, kept, err));
    SL_TRY(copy_vector(net, -1, SLI_ROLE_FINAL_NORM, &net->final_norm, err));
    if (net->device != NULL) {
        SL_TRY(sli_device_embed(net, err));
        SL_TRY(sli_device_vector(net, &net->final_norm, err));
    }
    for (int32_t l = 0; l < n; l++) {
        SL_TRY(bind_layer(net, plan, l, err));
        if (plan->progress != NULL)
            plan->progress(plan->progress_user, total * (l + 1) / (n + 1), total);
    }
    sli_slot slots[SLI_ROLE_COUNT];
    SL_TRY(bind_linears(net, plan, -1, "head", (const sli_weight_role[]){SLI_ROLE_HEAD}, 1, slots, err));
    net->head = slots[SLI_ROLE_HEAD];
    if (plan->progress != NULL)
        plan->progress(plan->progress_user, total, total);
    SL_TRY(sli_followers_layout(net, err));
    SL_TRY(net->device != NULL ? sli_device_network_ready(net, err) : take_buffers(net, err));
    SL_TRY(sli_sums_create(net, max_seqs, err));
    if (net->device != NULL && net->sums != NULL)
        SL_TRY(sli_device_sums_create(net, err));
    for (int32_t l = 0; net->n_policies > 0 && l < n; l++)
        SL_TRY(check_policies(&net->layers[l], l, err));
    return SL_OK;
}

/* Vectors of a device are given back with it. */
static void free_vector(sl_tensor *t) {
    if (t->device == SL_DEVICE_CPU)
        sli_free(t->data);
    t->data = NULL;
}

void sli_network_destroy(sli_network *net) {
    sli_sums_destroy(net->sums);
    net->sums = NULL;
    sli_rewrite_end(net);
    sli_free(net->embed_rewritten);
    net->embed_rewritten = NULL;
    for (int32_t i = 0; net->groups != NULL && i < net->n_groups; i++) {
        sli_group *g = &net->groups[i];
        unpack(g);
        for (int j = 0; j < 3; j++) {
            free_vector(&g->bias[j]);
            sli_free(g->rewritten[j]);
        }
    }
    for (int32_t l = 0; net->layers != NULL && l < net->info->n_layers; l++) {
        sl_tensor *norms[] = {&net->layers[l].norm_attn, &net->layers[l].norm_ffn, &net->layers[l].q_norm,
                              &net->layers[l].k_norm};
        for (size_t i = 0; i < sizeof norms / sizeof *norms; i++)
            free_vector(norms[i]);
    }
    free_vector(&net->final_norm);
    sli_device_network_destroy(net);
    void *owned[] = {net->groups,  net->layers,    net->x,     net->xn, net->q,    net->k,
                     net->v,       net->q_raw,     net->k_raw, net->o,  net->gate, net->up,
                     net->head_in, net->row_index, net->lse,   net->o2, net->lse2};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        sli_free(owned[i]);
    net->groups = NULL;
    net->layers = NULL;
    net->n_groups = 0;
}
