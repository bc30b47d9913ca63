/* The account of one step; see costs.h. The order is that in which plugins act. */
#include "costs.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "sl_error.h"
#include "sl_tensor.h"

/* New rows that one read of a key serves, where keys leave the cache in between: on a GPU those of all query heads of a
 * KV head together. */
enum { CPU_TILE = 16, GPU_TILE = 64 };

/* A step on its way: what all acts of it need. */
typedef struct account {
    const sli_costing *c;
    const sli_cost_step *step;
    sli_costs *out;
    sl_error *err;
    const sli_network *net;
    const sli_binding *plugins;
    sli_network_plan plan;
    sl_dtype act, compute; /* of activations, of products */
    double n;              /* rows of the step */
    sl_linear linear[3];
    const sl_linear *linears[3];
    /* of the plugin that is asked */
    const char *id, *section;
    sli_slot_id slot; /* where rows without an act of their own go; SLI_SLOTS: by the act */
    double times;
} account;

static double width(sl_dtype t) { return sl_dtype_bits(t) / 8.0; }

/* ---- rows ---------------------------------------------------------------------------------------------------------
 */

static void row(const account *a, sli_slot_id slot, const char *name, const char *by, double flops, const double *bytes,
                double launches, sl_dtype compute, const char *unknown) {
    if (a->step->pass != NULL) /* a pass is one row: its parts are those of a step */
        slot = a->step->pass_slot, name = a->step->pass, by = a->step->pass_by;
    sli_cost_row_add(a->c, a->out, slot, name, by, flops, bytes, launches, compute, unknown);
}

static void core_row(const account *a, sli_slot_id slot, double flops, double weights, double activations,
                     double launches) {
    const double bytes[SL_COST_KINDS] = {[SL_COST_WEIGHTS] = weights, [SL_COST_ACTIVATIONS] = activations};
    row(a, slot, sli_slot_name(slot), "", flops, bytes, launches, a->act, NULL);
}

static void take(void *user, const sl_cost_op *op) {
    static const sli_slot_id slots[SL_COST_AT_END] = {
        [SL_COST_AT_PREPARE] = SLI_SLOT_MAP,   [SL_COST_AT_APPEND] = SLI_SLOT_APPEND,
        [SL_COST_AT_NOTE] = SLI_SLOT_NOTE,     [SL_COST_AT_SELECT] = SLI_SLOT_SELECT,
        [SL_COST_AT_ATTEND] = SLI_SLOT_ATTEND, [SL_COST_AT_SETTLE] = SLI_SLOT_SETTLE,
        [SL_COST_AT_POLICY] = SLI_SLOT_POLICY, [SL_COST_AT_DRAFT] = SLI_SLOT_DRAFT,
        [SL_COST_AT_PROMPT] = SLI_SLOT_PROMPT};
    const account *a = user;
    double bytes[SL_COST_KINDS];
    for (int k = 0; k < SL_COST_KINDS; k++)
        bytes[k] = op->bytes[k] * a->times;
    sli_slot_id slot = a->slot != SLI_SLOTS ? a->slot : op->at < SL_COST_AT_END ? slots[op->at] : SLI_SLOT_OTHER;
    row(a, slot, op->name, a->id, op->flops * a->times, bytes, op->launches, op->compute != 0 ? op->compute : a->act,
        NULL);
}

static const sl_cost *table_of(account *a, const sl_instance *self) {
    return sli_binding_table(a->plugins, self, SL_COST_ID, SL_FIELD_END(sl_cost, layer), &a->id, &a->section);
}

/* Whose part is missing, and why. */
static const char *reason(const account *a, const sl_error *why, char *text, size_t n) {
    snprintf(text, n, "[%s] %s: %s", a->section, a->id,
             why != NULL && why->text[0] != '\0' ? why->text : "the plugin does not say what it costs");
    return text;
}

static void change(const account *a, const char *term, double before, double after) {
    sli_cost_change_add(a->out, a->id, a->section, term, before, after);
}

/* ---- linears ------------------------------------------------------------------------------------------------------
 */

typedef struct group_row {
    const char *name;
    sli_slot_id slot;
    sli_weight_role roles[3];
    const char *names[3];
    sli_weight_role bias[3];
    int n;
    int adds; /* the residual is added to what comes out */
} group_row;

static const group_row group_rows[] = {
    {"attn.qkv",
     SLI_SLOT_QKV,
     {SLI_ROLE_Q, SLI_ROLE_K, SLI_ROLE_V},
     {"q", "k", "v"},
     {SLI_ROLE_Q_BIAS, SLI_ROLE_K_BIAS, SLI_ROLE_V_BIAS},
     3,
     0},
    {"attn.o", SLI_SLOT_O, {SLI_ROLE_O}, {"o"}, {SLI_ROLE_O_BIAS}, 1, 1},
    {"ffn.gate_up",
     SLI_SLOT_GATE_UP,
     {SLI_ROLE_GATE, SLI_ROLE_UP},
     {"gate", "up"},
     {SLI_ROLE_GATE_BIAS, SLI_ROLE_UP_BIAS},
     2,
     0},
    {"ffn.down", SLI_SLOT_DOWN, {SLI_ROLE_DOWN}, {"down"}, {SLI_ROLE_DOWN_BIAS}, 1, 1},
    {"head", SLI_SLOT_HEAD, {SLI_ROLE_HEAD}, {"head"}, {SLI_ROLE_COUNT}, 1, 0},
};
enum { GROUP_QKV, GROUP_O, GROUP_GATE_UP, GROUP_DOWN, GROUP_HEAD };

/* Some linears of a group, served by one quantiser; q NULL: by none. */
static sl_status one_group(account *a, const group_row *g, int32_t layer, uint32_t which, const sli_quantizer *q,
                           double n, int is_last, int *fused) {
    const sli_model *m = a->net->model;
    sl_linear_group desc = {
        .struct_size = SL_SIZE(sl_linear_group), .name = g->name, .linears = a->linears, .layer = layer};
    double flops = 0, weights = 0, biases = 0, out = 0;
    for (int i = 0; i < g->n; i++) {
        if (!(which & 1u << i))
            continue;
        const sl_tensor *w = sli_model_weight(m, layer, g->roles[i]);
        const sl_tensor *b = g->bias[i] < SLI_ROLE_COUNT ? sli_model_weight(m, layer, g->bias[i]) : NULL;
        a->linear[desc.n] = (sl_linear){.struct_size = SL_SIZE(sl_linear),
                                        .name = sli_model_weight_name(m, layer, g->roles[i]),
                                        .role = g->names[i],
                                        .weight = *w,
                                        .bias = b};
        a->linears[desc.n] = &a->linear[desc.n];
        desc.n++;
        desc.in = w->shape[1];
        out += (double)w->shape[0];
        flops += 2 * n * (double)w->shape[0] * (double)w->shape[1];
        weights += (double)w->shape[0] * (double)w->shape[1] * (w->dtype != 0 ? width(w->dtype) : width(a->compute));
        biases += b != NULL ? 4.0 * (double)b->shape[0] : 0;
    }
    sl_cost_sink sink = {SL_SIZE(sl_cost_sink), a, take};
    sl_cost_linear io = {.struct_size = SL_SIZE(sl_cost_linear),
                         .model = a->net->info,
                         .group = &desc,
                         .sink = &sink,
                         .device = a->c->device,
                         .activations = a->act,
                         .n_rows = n,
                         .flops = flops,
                         .weight_bytes = weights,
                         .memory = -1,
                         .compute = a->compute,
                         .fuses = a->c->device == SL_DEVICE_CUDA ? SL_QUANT_FUSES_GROUP | SL_QUANT_FUSES_ACT_MUL : 0};
    const char *unknown = NULL;
    char text[160];
    const sli_rewriter *rewriter = a->c->dense ? NULL : a->net->rewriter;
    for (int i = 0; i < 2; i++) { /* the rewriter hands its tensors to the quantiser */
        const sl_instance *self = i == 0 ? (rewriter != NULL ? rewriter->self : NULL) : (q != NULL ? q->self : NULL);
        if (self == NULL)
            continue;
        const sl_cost *cost = table_of(a, self);
        SL_ERROR(why);
        double before = io.weight_bytes;
        a->slot = g->slot, a->times = 1;
        int has = SL_HAS_FN(cost, sl_cost, linear);
        if ((i == 1 && !has) || (has && cost->linear((sl_instance *)(uintptr_t)self, &io, &why) < 0))
            unknown = reason(a, &why, text, sizeof text);
        else
            change(a, "weight bytes", before, io.weight_bytes);
    }
    int act_inside = g->slot == SLI_SLOT_GATE_UP && (io.fuses & SL_QUANT_FUSES_ACT_MUL) && desc.n == 2;
    int whole = (io.fuses & SL_QUANT_FUSES_GROUP) || act_inside;
    double in_bytes = n * (double)desc.in * width(a->act) * (whole ? 1 : desc.n);
    /* what comes out: logits and the residual stream are f32 everywhere */
    double out_bytes = n * (act_inside ? out / 2 : out) * (g->adds || layer < 0 ? 4 : width(a->act));
    double bytes[SL_COST_KINDS] = {
        [SL_COST_WEIGHTS] = io.weight_bytes + biases, [SL_COST_ACTIVATIONS] = in_bytes + out_bytes * (g->adds ? 2 : 1)};
    io.flops += g->adds ? n * out : 0;
    row(a, g->slot, g->name, "", io.flops, bytes, whole ? 1 : desc.n, io.compute, unknown);
    double memory = (io.memory >= 0 ? io.memory : io.weight_bytes) + biases;
    if (!(layer < 0 && a->net->info->tied && memory == weights)) /* a tied head in place is the embedding */
        *(a->step->draft ? &a->out->draft_weights : &a->out->weights) += memory;
    *fused = act_inside && is_last;
    return SL_OK;
}

static sl_status linears(account *a, int group, int32_t layer, double n, int *fused) {
    const group_row *g = &group_rows[group];
    uint32_t left = (1u << g->n) - 1;
    *fused = 0;
    while (left != 0) {
        const sli_quantizer *first = NULL;
        uint32_t which = 0;
        for (int i = 0; i < g->n; i++) {
            const sli_quantizer *q = NULL;
            if (!(left & 1u << i))
                continue;
            if (!a->c->dense)
                SL_TRY(a->plan.quantizer(a->plan.user, layer, sli_model_weight_name(a->net->model, layer, g->roles[i]),
                                         &q, a->err));
            if (which == 0 || q == first)
                first = q, which |= 1u << i;
        }
        left &= ~which;
        SL_TRY(one_group(a, g, layer, which, first, n, left == 0, fused));
    }
    return SL_OK;
}

/* ---- attention ----------------------------------------------------------------------------------------------------
 */

/* Asks one instance about the layer. Returns a text when its part is unknown. */
static const char *ask(account *a, const sl_instance *self, const char *role, sl_cost_layer *io, char *text, size_t n) {
    const sl_cost *cost = table_of(a, self);
    sl_cost_layer before = *io;
    SL_ERROR(why);
    a->slot = SLI_SLOTS, a->times = a->step->n_seqs, io->role = role;
    if (!SL_HAS_FN(cost, sl_cost, layer) || cost->layer((sl_instance *)(uintptr_t)self, io, &why) < 0)
        return reason(a, &why, text, n);
    double all = before.attended < 0 ? before.kept : before.attended;
    change(a, "kept rows", before.kept, io->kept);
    change(a, "bytes of a row", before.row_bytes, io->row_bytes);
    change(a, "attended rows", io->attended < 0 ? 0 : all, io->attended < 0 ? 0 : io->attended);
    change(a, "pairs of new rows", before.inner, io->inner);
    return NULL;
}

/* What is left open becomes what is usual. */
static void settle(const account *a, const sl_layer_info *l, sl_cost_layer *io) {
    double n = io->n_new, window = (double)l->window;
    if (io->attended < 0 || io->attended > io->kept)
        io->attended = io->kept;
    if (window > 0 && io->attended > window - 1)
        io->attended = window - 1;
    if (window > 0 && n > window)
        io->inner = fmin(io->inner, window * n - window * (window - 1) / 2);
    if (io->read < 0) {
        double gpu = (double)GPU_TILE * l->n_kv_heads / l->n_heads;
        double tile = a->c->device == SL_DEVICE_CUDA ? gpu : CPU_TILE, tiles = ceil(n / (tile > 1 ? tile : 1));
        double head = io->row_bytes / l->n_kv_heads * (io->attended + n);
        io->read = io->attended * (head <= a->c->hardware->cache ? 1 : tiles);
        if (window > 0 && n > 1) /* each tile has a window of its own */
            io->read = fmin(io->read + n, io->kept);
    }
}

static void attention(account *a, int32_t l) {
    const sl_layer_info *info = a->net->info->layers[l];
    const sli_cost_step *s = a->step;
    double H = info->n_heads, K = info->n_kv_heads, D = info->head_dim, Dv = info->v_head_dim, n = s->n_new,
           B = s->n_seqs;
    double aw = width(a->act);
    sl_cost_sink sink = {SL_SIZE(sl_cost_sink), a, take};
    sl_cost_layer io = {.struct_size = SL_SIZE(sl_cost_layer),
                        .model = a->net->info,
                        .sink = &sink,
                        .layer = l,
                        .stage = s->stage,
                        .device = a->c->device,
                        .activations = a->act,
                        .compute = a->compute,
                        .n_past = s->n_past,
                        .n_new = n,
                        .n_prompt = s->n_prompt,
                        .last_chunk = s->last_chunk,
                        .kept = s->n_past,
                        .row_bytes = K * (D + Dv) * width(a->compute),
                        .write_bytes = K * (D + Dv) * width(a->compute),
                        .attended = -1,
                        .read = -1,
                        .inner = s->inner > 0 ? s->inner : n * (n + 1) / 2,
                        .memory = -1};
    const char *unknown = NULL, *said;
    char text[160];
    if (!a->c->dense) {
        const sli_store *store = a->plan.store(a->plan.user, l);
        const sli_attender *attender = a->plan.attender(a->plan.user, l, s->stage);
        if ((said = ask(a, store->self, "kvcache.store", &io, text, sizeof text)) != NULL)
            unknown = said;
        for (int32_t i = 0; i < a->net->n_policies && !s->draft; i++)
            if ((said = ask(a, a->net->policies[i].self, "kvcache.policy", &io, text, sizeof text)) != NULL)
                unknown = said;
        if ((said = ask(a, attender->self, "attention", &io, text, sizeof text)) != NULL)
            unknown = said;
        if (a->net->rewriter != NULL &&
            (said = ask(a, a->net->rewriter->self, "quant.rewrite", &io, text, sizeof text)) != NULL)
            unknown = said;
    }
    settle(a, info, &io);
    double pairs = n * io.attended + io.inner;
    double write[SL_COST_KINDS] = {
        [SL_COST_ACTIVATIONS] = B * n * K * (D + Dv) * aw, [SL_COST_KV_WRITE] = B * n * io.write_bytes};
    double attend[SL_COST_KINDS] = {
        [SL_COST_ACTIVATIONS] = B * n * H * (D + Dv) * aw, [SL_COST_KV_READ] = B * (io.read + n) * io.row_bytes};
    row(a, SLI_SLOT_APPEND, "append", "", 0, write, 1, a->act, unknown);
    row(a, SLI_SLOT_ATTEND, "attend", "", B * pairs * H * (2 * (D + Dv) + 5), attend, 1, a->act, unknown);
    if (!s->draft && s->pass == NULL) {
        a->out->kv += B * (io.memory >= 0 ? io.memory : (io.kept + n) * io.row_bytes);
        a->out->kv_host += B * io.memory_host;
    }
}

/* ---- the step -----------------------------------------------------------------------------------------------------
 */

static void norm(const account *a, double n, double w) {
    /* the residual stream is f32; what a norm gives is an activation */
    core_row(a, SLI_SLOT_NORM, 4 * n * w, 4 * w, n * w * (4 + width(a->act)), 1);
}

static sl_status layer(account *a, int32_t l, double attn, double ffn) {
    const sl_layer_info *info = a->net->info->layers[l];
    double n = a->n, E = a->net->info->hidden, heads = info->n_heads + info->n_kv_heads, D = info->head_dim;
    double scale = a->out->scale, F = info->ffn;
    int fused = 0, cuda = a->c->device == SL_DEVICE_CUDA;
    if (attn > 0 && info->n_heads > 0) {
        a->out->scale = scale * attn;
        norm(a, n, E);
        SL_TRY(linears(a, GROUP_QKV, l, n, &fused));
        if (info->rope >= 0 || info->qk_norm) { /* on a device inside of append */
            double bytes = 2 * n * heads * D * width(a->act), copies = cuda ? 0 : bytes;
            core_row(a, SLI_SLOT_ROPE,
                     n * heads * D * (info->rope >= 0 ? 3 : 0) + (info->qk_norm ? 4 * n * heads * D : 0),
                     info->qk_norm ? 8 * D : 0, cuda ? 0 : bytes * (info->qk_norm ? 2 : 1) + copies,
                     cuda            ? 0
                     : info->qk_norm ? 4
                                     : 2);
        }
        attention(a, l);
        SL_TRY(linears(a, GROUP_O, l, n, &fused));
    }
    if (ffn > 0 && F > 0) {
        a->out->scale = scale * ffn;
        norm(a, n, E);
        SL_TRY(linears(a, GROUP_GATE_UP, l, n, &fused));
        core_row(a, SLI_SLOT_ACT, 5 * n * F, 0, fused ? 0 : 3 * n * F * width(a->act), fused ? 0 : 1);
        SL_TRY(linears(a, GROUP_DOWN, l, n, &fused));
    }
    a->out->scale = scale;
    return SL_OK;
}

static sl_status head(account *a) {
    double r = a->step->logits * a->step->n_seqs, E = a->net->info->hidden, V = a->net->info->vocab;
    int fused;
    if (r <= 0)
        return SL_OK;
    norm(a, r, E);
    SL_TRY(linears(a, GROUP_HEAD, -1, r, &fused));
    core_row(a, SLI_SLOT_DECIDE, r * V, 0, r * V * 4, a->c->device == SL_DEVICE_CUDA ? 1 : 0);
    return SL_OK;
}

sl_status sli_cost_step_add(const sli_costing *c, const sli_cost_step *step, sli_costs *out, sl_error *err) {
    sluice_engine *e = c->engine;
    sli_binding *plugins = step->draft ? e->draft_plugins : e->target_plugins;
    int bf16 = e->limits.compute == SL_BF16;
    account a = {.c = c,
                 .step = step,
                 .out = out,
                 .err = err,
                 .net = step->draft ? &e->draft : &e->target,
                 .plugins = plugins,
                 .plan = sli_binding_plan(plugins),
                 .act = c->device == SL_DEVICE_CUDA ? SL_BF16 : SL_F32,
                 .compute = bf16 ? SL_BF16 : SL_F32,
                 .n = step->n_seqs * step->n_new};
    const sl_model_info *info = a.net->info;
    const sl_tensor *embed = sli_model_weight(a.net->model, -1, SLI_ROLE_EMBED);
    double E = info->hidden, *weights = step->draft ? &out->draft_weights : &out->weights;
    int32_t end = step->exit_layer > 0 ? step->exit_layer : info->n_layers;
    double kept = *weights;
    *weights = 0;
    if (step->pass == NULL)
        out->kv = out->kv_host = 0;
    core_row(&a, SLI_SLOT_EMBED, 0, a.n * E * width(embed->dtype), a.n * E * 4, 1);
    double attn = step->attn_layers < 0 ? 1 : step->attn_layers / end,
           ffn = step->ffn_layers < 0 ? 1 : step->ffn_layers / end;
    for (int32_t l = 0; l < end; l++)
        SL_TRY(layer(&a, l, attn, ffn));
    SL_TRY(head(&a));
    if (step->pass != NULL && !step->draft)
        *weights = kept;
    else
        *weights += (double)info->vocab * E * width(embed->dtype) + 4 * E * (2.0 * info->n_layers + 1);
    return SL_OK;
}
