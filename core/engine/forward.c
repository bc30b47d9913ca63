/* The forward pass: the order of a decoder layer, every act of it done by a plugin or by a shared operation. */
#include "network.h"

#include <assert.h>
#include <string.h>

#include "device_network.h"
#include "engine/rewrite.h"
#include "followers.h"
#include "profile.h"
#include "sl_error.h"
#include "sl_tensor.h"
#include "sums.h"

/* ---- small views ---------------------------------------------------------------------------------------------------
 */

static sl_tensor rows3(float *data, int64_t n, int64_t heads, int64_t width) {
    sl_tensor t;
    sl_tensor_make(&t, data, SL_F32, SL_DEVICE_CPU, 3, (int64_t[]){n, heads, width});
    return t;
}

static sl_tensor rows2(float *data, int64_t n, int64_t width) {
    sl_tensor t;
    sl_tensor_make(&t, data, SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){n, width});
    return t;
}

static int stage_number(uint32_t stage) { return stage == SL_STAGE_PREFILL ? 0 : stage == SL_STAGE_DECODE ? 1 : 2; }

/* Which tensors of a layer cover the rows [begin, begin + n) of a step. */
typedef struct part {
    sl_rows rows;
    int32_t begin;
    int stage;
} part;

static part part_of(const sli_network *net, const sl_batch *batch, int32_t begin, int32_t end, uint32_t stage) {
    part p = {{SL_SIZE(sl_rows), batch, NULL, NULL, end - begin, 0}, begin, stage_number(stage)};
    if (end - begin < batch->n_rows)
        p.rows.index = net->row_index + begin;
    return p;
}

/* ---- linears -------------------------------------------------------------------------------------------------------
 */

/* y[n, out] = W x + bias (+ residual) for one linear. prepared: of its group for this x, or NULL. */
static sl_status multiply(sli_network *net, sli_slot slot, const sl_quant_prepared *prepared, sl_tensor x, float *y,
                          float *residual) {
    sli_group *g = slot.group;
    int64_t n = x.shape[0], out = g->linear[slot.which].weight.shape[0];
    sl_tensor add = residual != NULL ? rows2(residual, n, out) : (sl_tensor){0};
    sl_quant_matmul args = {
        .struct_size = SL_SIZE(sl_quant_matmul),
        .lane = net->lane,
        .prepared = prepared,
        .x = x,
        .y = rows2(y, n, out),
        .bias = g->bias[slot.which].data != NULL ? &g->bias[slot.which] : NULL,
        .residual = residual != NULL ? &add : NULL,
        .which = slot.which,
    };
    return g->quantizer->api->matmul(g->handle, &args);
}

/* Linears that read one input. Those that share a group share its preparation. */
static sl_status multiply_all(sli_network *net, const sli_slot *slots, float *const *y, int n_slots, float *x,
                              int64_t n_rows, int64_t width, float *residual) {
    sl_tensor in = rows2(x, n_rows, width);
    const sli_group *current = NULL;
    const sl_quant_prepared *prepared = NULL;
    for (int i = 0; i < n_slots; i++) {
        sli_group *g = slots[i].group;
        if (g != current) {
            current = g;
            prepared = NULL;
            if (net->listener != NULL)
                SL_TRY(net->listener->input(net->listener->user, g, x, n_rows, width));
            if (g->quantizer->api->prepare != NULL) {
                sl_quant_input input = {.struct_size = SL_SIZE(sl_quant_input), .lane = net->lane, .x = in};
                SL_TRY(g->quantizer->api->prepare(g->handle, &input, &prepared));
            }
        }
        SL_TRY(multiply(net, slots[i], prepared, in, y[i], residual));
    }
    return SL_OK;
}

static sl_status norm_rows(sli_network *net, float *x, const sl_tensor *w, float *y, int64_t n, int64_t heads,
                           int64_t width) {
    sl_tensor in = rows3(x, n, heads, width), out = rows3(y, n, heads, width);
    sl_op_norm args = {SL_SIZE(sl_op_norm), net->lane, &in, w, &out, net->info->norm_eps};
    return net->ops->norm(net->host, &args);
}

/* What a rewritten model asks for at a point of the layer. */
static sl_status map(const sli_network *net, int32_t layer, uint32_t at, float *rows, int64_t n, int64_t heads,
                     int64_t width) {
    if (net->maps == NULL)
        return SL_OK;
    SL_TRY(sli_rewrite_apply(net, layer, at, rows, n, heads, width));
    sli_lap(net, SLI_SLOT_MAP);
    return SL_OK;
}

static void tell(const sli_pass *pass, uint32_t point, int32_t layer, const float *rows, int64_t width) {
    if (pass->tap != NULL)
        pass->tap(pass->tap_user, point, layer, rows, pass->batch->n_rows, width);
}

/* ---- attention -----------------------------------------------------------------------------------------------------
 */

/* Attends to a view whose segments may be public, opaque, or both; two parts are joined by their log-sum-exp. */
static sl_status attend(sli_network *net, const sli_net_layer *layer, const sli_attender *attender, sl_attend *args) {
    const sli_store *store = layer->store;
    uint32_t kinds = args->view->kinds;
    if (kinds == SL_SEGMENT_OPAQUE)
        return store->api->attend(store->self, args);
    int both = (kinds & SL_SEGMENT_OPAQUE) != 0;
    if (both)
        args->lse = net->lse, args->want |= SL_WANT_LSE;
    if (attender->api->attend == NULL)
        SL_TRY(net->ops->attend(net->host, args));
    else {
        sl_status s = attender->api->attend(attender->self, args);
        if (s == SL_PENDING)
            s = attender->api->finish(attender->self, args);
        SL_TRY(s);
    }
    if (!both)
        return SL_OK;
    sl_attend second = *args;
    second.o.data = net->o2;
    second.lse = net->lse2;
    SL_TRY(store->api->attend(store->self, &second));
    sl_op_lse_merge merge = {.struct_size = SL_SIZE(sl_op_lse_merge),
                             .lane = net->lane,
                             .o = &args->o,
                             .lse = args->lse,
                             .o2 = &second.o,
                             .lse2 = second.lse};
    return net->ops->lse_merge(net->host, &merge);
}

static sl_tensor slice(sl_tensor t, int64_t first, int64_t n) {
    t.data = (float *)t.data + first * t.stride[0];
    t.shape[0] = n;
    return t;
}

/* Attends; rows whose probabilities policies want to know go a few at a time, a sequence at a time. */
static sl_status attend_counting(sli_network *net, const sli_pass *pass, const sli_net_layer *layer,
                                 const sli_attender *attender, const part *p, sl_attend *args) {
    int32_t l = args->layer;
    if (layer->sum_heads == 0 || pass->n_prompt == NULL)
        return attend(net, layer, attender, args);
    const sl_batch *b = pass->batch;
    for (int32_t i = p->begin, end = p->begin + p->rows.n, j; i < end; i = j) {
        int wanted = sli_sums_want(net, pass, l, i);
        for (j = i + 1; j < end && sli_sums_want(net, pass, l, j) == wanted; j++)
            if (wanted && (j - i == SLI_SUM_ROWS || b->row_seq[j] != b->row_seq[i]))
                break;
        part some = part_of(net, b, i, j, b->stage[b->row_seq[i]]);
        sl_attend one = *args;
        one.rows = &some.rows;
        one.q = slice(args->q, i - p->begin, j - i);
        one.q_raw = slice(args->q_raw, i - p->begin, j - i);
        one.o = slice(args->o, i - p->begin, j - i);
        if (wanted)
            sli_sums_ask(net, &one);
        SL_TRY(attend(net, layer, attender, &one));
        if (wanted)
            sli_sums_take(net, pass, i, &one);
    }
    return SL_OK;
}

/* Select, locate and attend for rows of one stage. */
static sl_status attend_part(sli_network *net, const sli_pass *pass, int32_t l, const part *p) {
    sli_net_layer *layer = &net->layers[l];
    const sl_layer_info *info = layer->info;
    const sli_attender *attender = layer->attender[p->stage];
    const sl_attn_caps *caps = &layer->caps[p->stage];
    const sli_store *store = layer->store;
    int64_t n = p->rows.n, H = info->n_heads, K = info->n_kv_heads, D = info->head_dim, Dv = info->v_head_dim;
    sl_mask mask = {.struct_size = SL_SIZE(sl_mask), .window = info->window, .base = SL_MASK_CAUSAL};
    sl_tensor q = rows3(net->q + p->begin * H * D, n, H, D), k = rows3(net->k + p->begin * K * D, n, K, D);
    sl_tensor q_raw = rows3(net->q_raw + p->begin * H * D, n, H, D);
    sl_tensor k_raw = rows3(net->k_raw + p->begin * K * D, n, K, D);

    if ((caps->flags & SL_ATTN_NOTES_ROWS) && attender->api->note_rows != NULL) {
        sl_note note = {.struct_size = SL_SIZE(sl_note),
                        .lane = net->lane,
                        .rows = &p->rows,
                        .q = q,
                        .k = k,
                        .v = rows3(net->v + p->begin * K * Dv, n, K, Dv),
                        .layer = l};
        if (caps->flags & SL_ATTN_NOTES_RAW)
            note.q_raw = q_raw, note.k_raw = k_raw;
        SL_TRY(attender->api->note_rows(attender->self, &note));
        sli_lap(net, SLI_SLOT_NOTE);
    }

    const sl_rowset *chosen = NULL;
    if (store->selector != NULL || attender->api->select != NULL) {
        sl_select select = {.struct_size = SL_SIZE(sl_select),
                            .lane = net->lane,
                            .rows = &p->rows,
                            .mask = &mask,
                            .q = q,
                            .q_raw = q_raw,
                            .layer = l};
        if (store->selector == NULL && (caps->flags & SL_ATTN_SELECT_VIEW))
            SL_TRY(store->api->view(store->self, net->lane, l, &p->rows, NULL, &select.view));
        sl_status s = store->selector != NULL ? store->selector->select(store->self, &select, &chosen)
                                              : attender->api->select(attender->self, &select, &chosen);
        SL_TRY(s);
        if (s == SL_SKIPPED)
            chosen = NULL;
        sli_lap(net, SLI_SLOT_SELECT);
    }

    sl_attend args = {.struct_size = SL_SIZE(sl_attend),
                      .lane = net->lane,
                      .rows = &p->rows,
                      .mask = &mask,
                      .q = q,
                      .q_raw = q_raw,
                      .o = rows3(net->o + p->begin * H * Dv, n, H, Dv),
                      .scale = info->attn_scale,
                      .softcap = info->attn_softcap,
                      .layer = l};
    SL_TRY(store->api->view(store->self, net->lane, l, &p->rows, chosen, &args.view));
    SL_TRY(attend_counting(net, pass, layer, attender, p, &args));
    sli_lap(net, SLI_SLOT_ATTEND);
    if (store->api->settle != NULL) {
        sl_kv_side side = {.struct_size = SL_SIZE(sl_kv_side), .rows = &p->rows, .lse = args.lse, .q = &q, .layer = l};
        SL_TRY(store->api->settle(store->self, &side));
        sli_lap(net, SLI_SLOT_SETTLE);
    }
    return SL_OK;
}

static sl_status append_part(sli_network *net, const sli_pass *pass, int32_t l, const part *p) {
    sli_net_layer *layer = &net->layers[l];
    const sl_layer_info *info = layer->info;
    int64_t n = p->rows.n, H = info->n_heads, K = info->n_kv_heads, D = info->head_dim, Dv = info->v_head_dim;
    sl_kv_append args = {.struct_size = SL_SIZE(sl_kv_append),
                         .lane = net->lane,
                         .rows = &p->rows,
                         .k = rows3(net->k + p->begin * K * D, n, K, D),
                         .v = rows3(net->v + p->begin * K * Dv, n, K, Dv),
                         .q = rows3(net->q + p->begin * H * D, n, H, D),
                         .layer = l,
                         .overwrite = pass->overwrite};
    if (layer->layout.flags & SL_KV_WANTS_RAW)
        args.k_raw = rows3(net->k_raw + p->begin * K * D, n, K, D);
    SL_TRY(layer->store->api->append(layer->store->self, &args));
    sli_lap(net, SLI_SLOT_APPEND);
    return SL_OK;
}

/* Rows of one stage are neighbours (the step is laid out so), hence a part is a stretch of rows. A selector gets the
 * rows of one stage at a time, since a row set covers all rows of a call. A store or attention plugin that caps how
 * many rows it takes at once gets them sequence by sequence, block by block. */
static sl_status attend_rows(sli_network *net, const sli_pass *pass, int32_t l) {
    const sl_batch *b = pass->batch;
    sli_net_layer *layer = &net->layers[l];
    int64_t block = layer->layout.row_block;
    for (int s = 0; s < SLI_STAGES; s++)
        if (layer->caps[s].row_block > 0 && (block == 0 || layer->caps[s].row_block < block))
            block = layer->caps[s].row_block;

    if (block == 0) {
        part whole = part_of(net, b, 0, b->n_rows, b->stage[0]);
        SL_TRY(append_part(net, pass, l, &whole));
        for (int32_t i = 0; i < b->n_seqs;) {
            int32_t j = i + 1;
            const sli_attender *attender = layer->attender[stage_number(b->stage[i])];
            while (j < b->n_seqs && layer->attender[stage_number(b->stage[j])] == attender &&
                   (attender->api->select == NULL || b->stage[j] == b->stage[i]))
                j++;
            part p = part_of(net, b, b->row_begin[i], b->row_begin[j], b->stage[i]);
            SL_TRY(attend_part(net, pass, l, &p));
            i = j;
        }
        return SL_OK;
    }
    for (int32_t i = 0; i < b->n_seqs; i++)
        for (int64_t begin = b->row_begin[i]; begin < b->row_begin[i + 1]; begin += block) {
            int64_t end = begin + block < b->row_begin[i + 1] ? begin + block : b->row_begin[i + 1];
            part p = part_of(net, b, (int32_t)begin, (int32_t)end, b->stage[i]);
            SL_TRY(append_part(net, pass, l, &p));
            SL_TRY(attend_part(net, pass, l, &p));
        }
    return SL_OK;
}

static sl_status rotate(sli_network *net, const sl_batch *b, const sl_layer_info *info, float *rows, int64_t heads) {
    if (info->rope < 0)
        return SL_OK;
    sl_tensor x = rows3(rows, b->n_rows, heads, info->head_dim);
    sl_op_rope args = {SL_SIZE(sl_op_rope), net->lane, net->info->ropes[info->rope], b->position, &x, 0, 0};
    return net->ops->rope(net->host, &args);
}

static void tell_qkv(const sli_network *net, const sli_pass *pass, int32_t l) {
    const sl_layer_info *info = net->layers[l].info;
    int64_t q = (int64_t)info->n_heads * info->head_dim, k = (int64_t)info->n_kv_heads * info->head_dim;
    tell(pass, SL_TAP_Q_RAW, l, net->q_raw, q);
    tell(pass, SL_TAP_K_RAW, l, net->k_raw, k);
    tell(pass, SL_TAP_Q, l, net->q, q);
    tell(pass, SL_TAP_K, l, net->k, k);
    tell(pass, SL_TAP_V, l, net->v, (int64_t)info->n_kv_heads * info->v_head_dim);
}

/* is_end: nothing is wanted of the layer but its q, k and v. */
static sl_status attention_block(sli_network *net, const sli_pass *pass, int32_t l, int is_end) {
    sli_net_layer *layer = &net->layers[l];
    const sl_layer_info *info = layer->info;
    const sl_batch *b = pass->batch;
    int64_t n = b->n_rows, E = net->info->hidden, H = info->n_heads, K = info->n_kv_heads, D = info->head_dim;

    SL_TRY(norm_rows(net, net->x, &layer->norm_attn, net->xn, n, 1, E));
    tell(pass, SL_TAP_ATTN_IN, l, net->xn, E);
    sli_lap(net, SLI_SLOT_NORM);
    SL_TRY(map(net, l, SL_MAP_AT_QKV_IN, net->xn, n, 1, E));
    SL_TRY(multiply_all(net, &layer->linear[SLI_ROLE_Q], (float *const[]){net->q, net->k, net->v}, 3, net->xn, n, E,
                        NULL));
    sli_lap(net, SLI_SLOT_QKV);
    if (!(layer->layout.flags & SL_KV_FUSES_ROPE)) {
        if (layer->q_norm.data != NULL) {
            SL_TRY(norm_rows(net, net->q, &layer->q_norm, net->q, n, H, D));
            SL_TRY(norm_rows(net, net->k, &layer->k_norm, net->k, n, K, D));
        }
        memcpy(net->q_raw, net->q, sizeof(float) * (size_t)(n * H * D));
        memcpy(net->k_raw, net->k, sizeof(float) * (size_t)(n * K * D));
        SL_TRY(rotate(net, b, info, net->q, H));
        SL_TRY(rotate(net, b, info, net->k, K));
        sli_lap(net, SLI_SLOT_ROPE);
        SL_TRY(map(net, l, SL_MAP_AT_QK_POST_ROPE, net->q, n, H, D));
        SL_TRY(map(net, l, SL_MAP_AT_QK_POST_ROPE, net->k, n, K, D));
        SL_TRY(map(net, l, SL_MAP_AT_Q_POST_ROPE, net->q, n, H, D));
        SL_TRY(map(net, l, SL_MAP_AT_K_POST_ROPE, net->k, n, K, D));
    }
    if (!is_end)
        SL_TRY(attend_rows(net, pass, l)); /* a store that fuses RoPE rotates q and k here */
    tell_qkv(net, pass, l);
    if (is_end)
        return SL_OK;
    tell(pass, SL_TAP_ATTN_OUT, l, net->o, H * info->v_head_dim);
    SL_TRY(map(net, l, SL_MAP_AT_O_IN, net->o, n, 1, H * info->v_head_dim));
    SL_TRY(multiply_all(net, &layer->linear[SLI_ROLE_O], (float *const[]){net->x}, 1, net->o, n, H * info->v_head_dim,
                        net->x));
    sli_lap(net, SLI_SLOT_O);
    return SL_OK;
}

static sl_status ffn_block(sli_network *net, const sli_pass *pass, int32_t l) {
    sli_net_layer *layer = &net->layers[l];
    int64_t n = pass->batch->n_rows, E = net->info->hidden, F = layer->info->ffn;
    SL_TRY(norm_rows(net, net->x, &layer->norm_ffn, net->xn, n, 1, E));
    tell(pass, SL_TAP_FFN_IN, l, net->xn, E);
    sli_lap(net, SLI_SLOT_NORM);
    SL_TRY(map(net, l, SL_MAP_AT_GATE_UP_IN, net->xn, n, 1, E));
    SL_TRY(
        multiply_all(net, &layer->linear[SLI_ROLE_GATE], (float *const[]){net->gate, net->up}, 2, net->xn, n, E, NULL));
    sli_lap(net, SLI_SLOT_GATE_UP);
    sl_tensor gate = rows2(net->gate, n, F), up = rows2(net->up, n, F);
    sl_op_act_mul act = {SL_SIZE(sl_op_act_mul), net->lane, &gate, &up, &gate, net->act, 0, NULL};
    SL_TRY(net->ops->act_mul(net->host, &act));
    sli_lap(net, SLI_SLOT_ACT);
    SL_TRY(map(net, l, SL_MAP_AT_DOWN_IN, net->gate, n, 1, F));
    SL_TRY(multiply_all(net, &layer->linear[SLI_ROLE_DOWN], (float *const[]){net->x}, 1, net->gate, n, F, net->x));
    sli_lap(net, SLI_SLOT_DOWN);
    return SL_OK;
}

/* ---- the pass ------------------------------------------------------------------------------------------------------
 */

static sl_status embed_rows(sli_network *net, const sli_pass *pass, sl_error *err) {
    const sl_batch *b = pass->batch;
    int64_t E = net->info->hidden;
    if (pass->hidden != NULL) {
        memcpy(net->x, pass->hidden->data, sizeof(float) * (size_t)(b->n_rows * E));
        return sli_rewrite_residual(net, 0, net->x, b->n_rows);
    }
    int64_t row_bytes = E * (int64_t)(sl_dtype_bits(net->embed.dtype) / 8);
    for (int32_t i = 0; i < b->n_rows; i++) {
        int32_t token = b->token[i];
        if (token < 0 || token >= net->info->vocab)
            return sl_fail(err, SL_E_RANGE, "token id %d is outside of the vocabulary [0, %d)", token,
                           net->info->vocab);
        const char *row = (const char *)net->embed.data + token * row_bytes;
        SL_TRY(net->ops->convert(net->x + i * E, SL_F32, row, net->embed.dtype, E));
    }
    return SL_OK;
}

sl_status sli_network_forward(sli_network *net, const sli_pass *pass, sl_error *err) {
    assert(pass->batch->n_rows > 0 && pass->batch->n_rows <= net->limits.max_rows);
    if (net->device != NULL)
        return sli_device_forward(net, pass, err);
    SL_TRY(embed_rows(net, pass, err));
    sli_lap(net, SLI_SLOT_EMBED);
    if (pass->enter_layer == 0)
        tell(pass, SL_TAP_EMBED, -1, net->x, net->info->hidden);
    int32_t end = pass->exit_layer > 0 ? pass->exit_layer : net->info->n_layers;
    for (int32_t l = pass->enter_layer; l < end; l++) {
        sl_status s = SL_OK;
        tell(pass, SL_TAP_LAYER_IN, l, net->x, net->info->hidden);
        int is_end = pass->exit_at == SL_WORK_EXIT_QKV && l == end - 1;
        if (pass->attn_layers == NULL || pass->attn_layers[l])
            s = attention_block(net, pass, l, is_end);
        if (s >= 0 && !is_end)
            tell(pass, SL_TAP_MID, l, net->x, net->info->hidden);
        if (s >= 0 && !is_end && (pass->ffn_layers == NULL || pass->ffn_layers[l]))
            s = ffn_block(net, pass, l);
        if (s < 0)
            return sl_fail(err, s, "layer %d: %s", l, sl_status_text(s));
        if (!is_end)
            tell(pass, SL_TAP_LAYER_OUT, l, net->x, net->info->hidden);
    }
    return SL_OK;
}

sl_status sli_network_final_norm(sli_network *net, const int32_t *rows, int32_t n, float *out, sl_error *err) {
    int64_t E = net->info->hidden;
    if (net->device != NULL)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "hidden rows of the device stay there");
    for (int32_t i = 0; i < n; i++)
        memcpy(out + i * E, net->x + (rows != NULL ? rows[i] : i) * E, sizeof(float) * (size_t)E);
    sl_status s = norm_rows(net, out, &net->final_norm, out, n, 1, E);
    return s < 0 ? sl_fail(err, s, "final norm: %s", sl_status_text(s)) : SL_OK;
}

sl_status sli_network_project(sli_network *net, const float *x, int64_t n, float *logits, sl_error *err) {
    if (net->device != NULL)
        return sli_device_project(net, x, n, logits, err);
    float *in = (float *)(uintptr_t)x; /* only read */
    sl_status s = multiply_all(net, &net->head, (float *const[]){logits}, 1, in, n, net->info->hidden, NULL);
    return s < 0 ? sl_fail(err, s, "output head: %s", sl_status_text(s)) : SL_OK;
}

sl_status sli_network_head(sli_network *net, const int32_t *rows, int32_t n, float *logits, sl_error *err) {
    if (net->device != NULL)
        return sli_device_head(net, rows, n, logits, err);
    SL_TRY(sli_network_final_norm(net, rows, n, net->head_in, err));
    sli_lap(net, SLI_SLOT_NORM);
    SL_TRY(sli_network_project(net, net->head_in, n, logits, err));
    sli_lap(net, SLI_SLOT_HEAD);
    return SL_OK;
}

/* ---- the step in all plugins ----------------------------------------------------------------------------------------
 */

sl_status sli_network_begin(sli_network *net, const sl_batch *batch, sl_error *err) {
    int64_t longest = 0;
    int32_t most = 0;
    for (int32_t i = 0; i < batch->n_seqs; i++) {
        int32_t n = batch->row_begin[i + 1] - batch->row_begin[i];
        most = n > most ? n : most;
        longest = batch->n_past[i] + n > longest ? batch->n_past[i] + n : longest;
    }
    net->plan_variant = 0;
    for (int32_t i = 0; i < net->n_attenders; i++) {
        sli_attender *a = &net->attenders[i];
        sl_attn_plan plan = {
            .struct_size = SL_SIZE(sl_attn_plan), .batch = batch, .max_context = longest, .max_rows = most};
        sl_status s = a->api->plan != NULL ? a->api->plan(a->self, &plan) : SL_OK;
        if (s < 0)
            return sl_fail(err, s, "attention plan: %s", sl_status_text(s));
        net->plan_variant = net->plan_variant * 4 + (uint32_t)(plan.variant & 3);
    }
    for (int32_t i = 0; i < net->n_stores; i++)
        SL_TRY(net->stores[i].api->reserve(net->stores[i].self, batch, err));
    return SL_OK;
}

sl_status sli_network_commit(sli_network *net, const sl_commit *commit, sl_error *err) {
    const sl_lane *lane = net->device != NULL ? net->device->lane : net->lane;
    SL_TRY(sli_sums_commit(net, commit));
    for (int32_t i = 0; i < net->n_stores; i++)
        SL_TRY(net->stores[i].api->commit(net->stores[i].self, lane, commit, err));
    for (int32_t i = 0; i < net->n_attenders; i++) {
        sli_attender *a = &net->attenders[i];
        sl_status s = a->api->commit != NULL ? a->api->commit(a->self, commit) : SL_OK;
        if (s < 0)
            return sl_fail(err, s, "attention commit: %s", sl_status_text(s));
    }
    return SL_OK;
}

sl_status sli_network_wait(sli_network *net, sl_error *err) {
    return net->device != NULL ? sli_device_step_wait(&net->device->step, err) : SL_OK;
}

sl_status sli_network_seq_open(sli_network *net, int32_t seq, int32_t parent, int64_t upto, sl_error *err) {
    for (int32_t i = 0; i < net->n_stores; i++) {
        sl_status s = net->stores[i].api->open(net->stores[i].self, seq, parent, upto, err);
        if (s < 0) {
            while (i-- > 0)
                net->stores[i].api->close(net->stores[i].self, seq);
            return s;
        }
    }
    sl_status s = sli_sums_open(net, seq, parent, upto, err);
    if (s >= 0)
        s = sli_followers_open(net, seq, parent, upto, err);
    if (s < 0)
        sli_network_seq_close(net, seq);
    return s;
}

void sli_network_seq_close(sli_network *net, int32_t seq) {
    sli_followers_close(net, seq);
    sli_sums_close(net, seq);
    for (int32_t i = 0; i < net->n_stores; i++)
        net->stores[i].api->close(net->stores[i].self, seq);
}

sl_status sli_network_seq_grow(sli_network *net, int32_t seq, int64_t n_tokens, sl_error *err) {
    for (int32_t i = 0; i < net->n_stores; i++)
        SL_TRY(net->stores[i].api->grow(net->stores[i].self, seq, n_tokens, err));
    return sli_followers_grow(net, seq, n_tokens, err);
}

sl_status sli_network_seq_truncate(sli_network *net, int32_t seq, int64_t n, sl_error *err) {
    for (int32_t i = 0; i < net->n_stores; i++) {
        int64_t minimum = 0;
        sl_status s = net->stores[i].api->truncate(net->stores[i].self, seq, n, &minimum);
        if (s < 0)
            return sl_fail(err, s, "this KV store cannot be cut to %lld tokens (shortest: %lld)", (long long)n,
                           (long long)minimum);
    }
    sli_sums_cut(net, seq, n);
    sli_followers_cut(net, seq, n);
    return SL_OK;
}

sl_status sli_network_rows(sli_network *net, int32_t layer, int32_t seq, int64_t *n_rows) {
    const sli_store *store = net->layers[layer].store;
    if (SL_HAS_FN(store->api, sl_kv_store, rows))
        return store->api->rows(store->self, layer, seq, n_rows);
    int64_t n = 0, bytes;
    SL_TRY(store->api->length(store->self, seq, &n, &bytes));
    for (int32_t h = 0; h < net->info->layers[layer]->n_kv_heads; h++)
        n_rows[h] = n;
    return SL_OK;
}
