/* See rewrite.h. */
#include "engine/rewrite.h"

#include <inttypes.h>
#include <string.h>

#include "base/ledger.h"
#include "sl_error.h"
#include "sl_map.h"
#include "sl_tensor.h"

/* What a role is called, and the norm in front of it. */
static const struct {
    sli_weight_role role, norm;
    const char *name;
} names[] = {
    {SLI_ROLE_EMBED, SLI_ROLE_COUNT, "embed"},
    {SLI_ROLE_Q, SLI_ROLE_NORM_ATTN, "q"},
    {SLI_ROLE_K, SLI_ROLE_NORM_ATTN, "k"},
    {SLI_ROLE_V, SLI_ROLE_NORM_ATTN, "v"},
    {SLI_ROLE_O, SLI_ROLE_COUNT, "o"},
    {SLI_ROLE_GATE, SLI_ROLE_NORM_FFN, "gate"},
    {SLI_ROLE_UP, SLI_ROLE_NORM_FFN, "up"},
    {SLI_ROLE_DOWN, SLI_ROLE_COUNT, "down"},
    {SLI_ROLE_HEAD, SLI_ROLE_FINAL_NORM, "head"},
    {SLI_ROLE_Q_BIAS, SLI_ROLE_COUNT, "q.bias"},
    {SLI_ROLE_K_BIAS, SLI_ROLE_COUNT, "k.bias"},
    {SLI_ROLE_V_BIAS, SLI_ROLE_COUNT, "v.bias"},
    {SLI_ROLE_O_BIAS, SLI_ROLE_COUNT, "o.bias"},
    {SLI_ROLE_GATE_BIAS, SLI_ROLE_COUNT, "gate.bias"},
    {SLI_ROLE_UP_BIAS, SLI_ROLE_COUNT, "up.bias"},
    {SLI_ROLE_DOWN_BIAS, SLI_ROLE_COUNT, "down.bias"},
    {SLI_ROLE_NORM_ATTN, SLI_ROLE_COUNT, "norm.attn"},
    {SLI_ROLE_NORM_FFN, SLI_ROLE_COUNT, "norm.ffn"},
    {SLI_ROLE_FINAL_NORM, SLI_ROLE_COUNT, "norm.final"},
};
enum { N_NAMES = sizeof names / sizeof *names };

/* ---- setting up ----------------------------------------------------------------------------------------------------
 */

/* Width of the rows at a point; 0: no such point. */
static int64_t width_at(const sli_network *net, int32_t layer, uint32_t at) {
    const sl_layer_info *i = net->info->layers[layer];
    switch (at) {
    case SL_MAP_AT_QKV_IN:
    case SL_MAP_AT_GATE_UP_IN: return net->info->hidden;
    case SL_MAP_AT_QK_POST_ROPE:
    case SL_MAP_AT_Q_POST_ROPE:
    case SL_MAP_AT_K_POST_ROPE: return i->head_dim;
    case SL_MAP_AT_O_IN: return (int64_t)i->n_heads * i->v_head_dim;
    case SL_MAP_AT_V: return i->v_head_dim;
    case SL_MAP_AT_DOWN_IN: return i->ffn;
    default: return 0;
    }
}

/* An f32 copy of a vector of the checkpoint as it is. */
static sl_status copy_plain(const sli_network *net, int32_t layer, sli_weight_role role, float **out) {
    const sl_tensor *t = sli_model_weight(net->model, layer, role);
    *out = sli_calloc(SLI_TAG_WEIGHTS, (size_t)t->shape[0], sizeof **out);
    return *out == NULL ? SL_E_NO_MEMORY : net->ops->convert(*out, SL_F32, t->data, t->dtype, t->shape[0]);
}

/* A norm as the checkpoint has it. */
static const float *plain_norm(const sli_network *net, int32_t layer, sli_weight_role role) {
    int32_t n = net->info->n_layers;
    return net->plain_norms[role == SLI_ROLE_FINAL_NORM ? 2 * n : 2 * layer + (role == SLI_ROLE_NORM_FFN)];
}

sl_status sli_rewrite_begin(sli_network *net, sl_error *err) {
    const sli_rewriter *r = net->rewriter;
    if (r == NULL)
        return SL_OK;
    int32_t n = net->info->n_layers;
    net->maps = sli_calloc(SLI_TAG_MISC, (size_t)n, sizeof *net->maps);
    net->plain_norms = sli_calloc(SLI_TAG_MISC, 2 * (size_t)n + 1, sizeof *net->plain_norms);
    if (net->maps == NULL || net->plain_norms == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for maps");
    net->basis = r->api->basis(r->self);
    const char *fault = net->basis != NULL ? sl_map_fault(net->basis, net->info->hidden) : NULL;
    if (fault != NULL)
        return sl_fail(err, SL_E_INVALID, "[quant.rewrite]: the basis of the residual: %s", fault);
    for (int32_t l = 0; l < n; l++) {
        net->maps[l] = r->api->maps(r->self, l);
        for (const sl_map *const *m = net->maps[l]; m != NULL && *m != NULL; m++) {
            int64_t width = width_at(net, l, (*m)->at);
            fault = width == 0 ? "there is no such point" : sl_map_fault(*m, width);
            if (fault != NULL)
                return sl_fail(err, SL_E_INVALID, "[quant.rewrite]: layer %d, map at point %u: %s", l, (*m)->at, fault);
        }
    }
    for (int32_t i = 0; i <= 2 * n; i++)
        if (copy_plain(net, i < 2 * n ? i / 2 : -1,
                       i == 2 * n   ? SLI_ROLE_FINAL_NORM
                       : i % 2 == 0 ? SLI_ROLE_NORM_ATTN
                                    : SLI_ROLE_NORM_FFN,
                       &net->plain_norms[i]) < 0)
            return sl_fail(err, SL_E_NO_MEMORY, "no memory for the norms of a rotated model");
    return SL_OK;
}

void sli_rewrite_end(sli_network *net) {
    for (int32_t i = 0; net->plain_norms != NULL && i <= 2 * net->info->n_layers; i++)
        sli_free(net->plain_norms[i]);
    sli_free(net->plain_norms);
    sli_free((void *)net->maps);
    net->plain_norms = NULL;
    net->maps = NULL;
}

/* ---- tensors -------------------------------------------------------------------------------------------------------
 */

static sl_status ask(sli_network *net, int32_t layer, sli_weight_role role, sl_rewrite *t, sl_error *err) {
    int i = 0;
    while (i < N_NAMES && names[i].role != role)
        i++;
    if (i == N_NAMES)
        return SL_OK; /* norms of q and k stay in the head's own basis */
    t->struct_size = SL_SIZE(sl_rewrite);
    t->name = sli_model_weight_name(net->model, layer, role);
    t->role = names[i].name;
    t->norm = names[i].norm != SLI_ROLE_COUNT ? plain_norm(net, layer, names[i].norm) : NULL;
    t->layer = layer;
    sl_status s = net->rewriter->api->tensor(net->rewriter->self, t, err);
    return s < 0 ? sl_fail_within(err, s, "[quant.rewrite]: %s", t->name) : SL_OK;
}

sl_status sli_rewrite_matrix(sli_network *net, int32_t layer, sli_weight_role role, sl_tensor *w, void **owned,
                             sl_dtype *kept, sl_error *err) {
    *owned = NULL;
    *kept = w->dtype;
    if (net->rewriter == NULL)
        return SL_OK;
    if (w->data == NULL)
        return sl_fail(err, SL_E_INVALID, "[quant.rewrite]: %s is packed in the checkpoint already",
                       sli_model_weight_name(net->model, layer, role));
    int64_t n = w->shape[0] * w->shape[1];
    float *values = sli_alloc(SLI_TAG_WEIGHTS, sizeof *values * (size_t)n);
    if (values == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for %" PRId64 " weights to be rewritten", n);
    sl_status s = net->ops->convert(values, SL_F32, w->data, w->dtype, n);
    sl_rewrite t = {.values = values, .rows = w->shape[0], .cols = w->shape[1]};
    if (s >= 0)
        s = ask(net, layer, role, &t, err);
    if (s < 0 || !t.changed) {
        sli_free(values);
        return s;
    }
    *kept = t.dtype != 0 ? t.dtype : w->dtype;
    *owned = values;
    sl_tensor_make(w, values, SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){t.rows, t.cols});
    return SL_OK;
}

sl_status sli_rewrite_vector(sli_network *net, int32_t layer, sli_weight_role role, float *values, int64_t n,
                             sl_error *err) {
    sl_rewrite t = {.values = values, .rows = 1, .cols = n};
    return net->rewriter == NULL ? SL_OK : ask(net, layer, role, &t, err);
}

/* ---- activations ---------------------------------------------------------------------------------------------------
 */

static sl_status apply(const sli_network *net, const sl_map *map, int backwards, float *rows, int64_t n, int64_t heads,
                       int64_t width) {
    /* a map of one head's width acts on each head; one of the whole row's, on the row */
    sl_tensor x;
    sl_tensor_make(&x, rows, SL_F32, SL_DEVICE_CPU, 3, (int64_t[]){n, heads, width});
    sl_op_map op = {SL_SIZE(sl_op_map), net->lane, map, &x, (uint32_t)backwards, 0};
    return net->ops->map(net->host, &op);
}

sl_status sli_rewrite_apply(const sli_network *net, int32_t layer, uint32_t at, float *rows, int64_t n, int64_t heads,
                            int64_t width) {
    if (net->maps == NULL)
        return SL_OK;
    for (const sl_map *const *m = net->maps[layer]; m != NULL && *m != NULL; m++)
        if ((*m)->at == at)
            SL_TRY(apply(net, *m, 0, rows, n, heads, width));
    return SL_OK;
}

static sl_status undo(const sli_network *net, int32_t layer, uint32_t at, float *rows, int64_t n, int64_t heads,
                      int64_t width) {
    const sl_map *const *list = net->maps[layer];
    int count = 0;
    while (list != NULL && list[count] != NULL)
        count++;
    while (count-- > 0) /* the last one first */
        if (list[count]->at == at)
            SL_TRY(apply(net, list[count], 1, rows, n, heads, width));
    return SL_OK;
}

sl_status sli_rewrite_residual(const sli_network *net, int backwards, float *rows, int64_t n) {
    return net->basis == NULL ? SL_OK : apply(net, net->basis, backwards, rows, n, 1, net->info->hidden);
}

sl_status sli_rewrite_plain(const sli_network *net, uint32_t point, int32_t layer, float *rows, int64_t n,
                            int64_t heads, int64_t width) {
    if (net->maps == NULL)
        return SL_OK;
    const float *norm = NULL;
    switch (point) {
    case SL_TAP_Q:
        SL_TRY(undo(net, layer, SL_MAP_AT_Q_POST_ROPE, rows, n, heads, width));
        return undo(net, layer, SL_MAP_AT_QK_POST_ROPE, rows, n, heads, width);
    case SL_TAP_K:
        SL_TRY(undo(net, layer, SL_MAP_AT_K_POST_ROPE, rows, n, heads, width));
        return undo(net, layer, SL_MAP_AT_QK_POST_ROPE, rows, n, heads, width);
    case SL_TAP_V:
    case SL_TAP_ATTN_OUT: return undo(net, layer, SL_MAP_AT_V, rows, n, heads, width);
    case SL_TAP_Q_RAW:
    case SL_TAP_K_RAW:
    case SL_TAP_LOGITS: return SL_OK;
    case SL_TAP_ATTN_IN: norm = plain_norm(net, layer, SLI_ROLE_NORM_ATTN); break;
    case SL_TAP_FFN_IN: norm = plain_norm(net, layer, SLI_ROLE_NORM_FFN); break;
    case SL_TAP_FINAL_NORM: norm = plain_norm(net, -1, SLI_ROLE_FINAL_NORM); break;
    default: break;
    }
    if (net->basis == NULL) /* norms were not folded */
        return SL_OK;
    SL_TRY(sli_rewrite_residual(net, 1, rows, n));
    for (int64_t i = 0; norm != NULL && i < n; i++)
        for (int64_t j = 0; j < width; j++)
            rows[i * width + j] *= norm[j];
    return SL_OK;
}

sl_status sli_rewrite_head_in(sli_network *net, const float **rows, int64_t n) {
    if (net->basis == NULL)
        return SL_OK;
    int64_t E = net->info->hidden;
    const float *norm = plain_norm(net, -1, SLI_ROLE_FINAL_NORM);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < E; j++) /* a channel without weight is not seen by the head either */
            net->head_in[i * E + j] = norm[j] != 0 ? (*rows)[i * E + j] / norm[j] : 0;
    *rows = net->head_in;
    return sli_rewrite_residual(net, 0, net->head_in, n);
}

int sli_rewrite_turns_keys(const sli_network *net, int32_t layer) {
    if (net->maps == NULL)
        return 0;
    for (const sl_map *const *m = net->maps[layer]; m != NULL && *m != NULL; m++)
        if ((*m)->at == SL_MAP_AT_QK_POST_ROPE || (*m)->at == SL_MAP_AT_Q_POST_ROPE ||
            (*m)->at == SL_MAP_AT_K_POST_ROPE)
            return 1;
    return 0;
}
