/* See taps.h. */
#include "taps.h"

#include <string.h>

#include "base/ledger.h"
#include "engine/rewrite.h"
#include "sl_error.h"
#include "sl_tensor.h"

enum { ALIGN = 64 };

static int64_t rounded(int64_t bytes) { return (bytes + ALIGN - 1) / ALIGN * ALIGN; }

/* Shape of one row: heads and width of a head, or 1 and the width. 0: no such point in a layer. */
static int shape_of(const sl_model_info *info, const sl_tap *tap, int64_t *heads, int64_t *width) {
    const sl_layer_info *layer = tap->layer >= 0 && tap->layer < info->n_layers ? info->layers[tap->layer] : NULL;
    *heads = 1;
    *width = info->hidden;
    if (tap->point == SL_TAP_EMBED)
        return tap->layer < 0;
    if (layer == NULL)
        return 0;
    switch (tap->point) {
    case SL_TAP_LAYER_IN:
    case SL_TAP_ATTN_IN:
    case SL_TAP_FFN_IN:
    case SL_TAP_LAYER_OUT:
    case SL_TAP_MID: return 1;
    case SL_TAP_Q:
    case SL_TAP_Q_RAW: *heads = layer->n_heads, *width = layer->head_dim; return 1;
    case SL_TAP_K:
    case SL_TAP_K_RAW: *heads = layer->n_kv_heads, *width = layer->head_dim; return 1;
    case SL_TAP_V: *heads = layer->n_kv_heads, *width = layer->v_head_dim; return 1;
    case SL_TAP_ATTN_OUT: *heads = layer->n_heads, *width = layer->v_head_dim; return 1;
    default: return 0;
    }
}

/* Points of the attention and of the FFN: a layer whose half is skipped does not meet them. */
static const uint32_t attention_points = 1u << SL_TAP_ATTN_IN | 1u << SL_TAP_Q | 1u << SL_TAP_K | 1u << SL_TAP_V |
                                         1u << SL_TAP_Q_RAW | 1u << SL_TAP_K_RAW | 1u << SL_TAP_ATTN_OUT;
static const uint32_t ffn_points = 1u << SL_TAP_FFN_IN;
/* What a layer meets that ends at its q, k and v. */
static const uint32_t qkv_points = 1u << SL_TAP_LAYER_IN | 1u << SL_TAP_ATTN_IN | 1u << SL_TAP_Q | 1u << SL_TAP_K |
                                   1u << SL_TAP_V | 1u << SL_TAP_Q_RAW | 1u << SL_TAP_K_RAW;

sl_status sli_taps_check(const sli_network *net, const sl_work *w) {
    if (w->n_taps < 0 || (w->n_taps > 0 && w->taps == NULL))
        return SL_E_INVALID;
    int32_t end = w->exit_layer > 0 ? w->exit_layer : net->info->n_layers;
    for (int32_t i = 0; i < w->n_taps; i++) {
        const sl_tap *t = w->taps[i];
        int64_t heads, width;
        if (t == NULL || t->rows > SL_TAP_ROWS_ACCEPTED)
            return SL_E_INVALID;
        if (t->point == SL_TAP_FINAL_NORM || t->point == SL_TAP_LOGITS || t->point > SL_TAP_MID)
            return SL_E_UNIMPLEMENTED;
        if (!shape_of(net->info, t, &heads, &width))
            return SL_E_INVALID;
        uint32_t bit = 1u << t->point;
        if (t->point == SL_TAP_EMBED) {
            if (w->enter_layer > 0)
                return SL_E_INVALID;
            continue;
        }
        if (t->layer < w->enter_layer || t->layer >= end)
            return SL_E_INVALID;
        if (((bit & attention_points) && w->attn_layers != NULL && !w->attn_layers[t->layer]) ||
            ((bit & ffn_points) && w->ffn_layers != NULL && !w->ffn_layers[t->layer]) ||
            (w->exit_at == SL_WORK_EXIT_QKV && t->layer == end - 1 && !(bit & qkv_points)))
            return SL_E_INVALID;
    }
    return SL_OK;
}

static int64_t n_rows_of(const sl_work *w, const sl_tap *t) { return t->rows == SL_TAP_ROWS_LAST ? 1 : w->n_rows; }

static int64_t data_bytes(const sli_network *net, const sl_work *w, const sl_tap *t) {
    int64_t heads, width;
    shape_of(net->info, t, &heads, &width);
    return rounded(n_rows_of(w, t) * heads * width * (int64_t)sizeof(float));
}

int64_t sli_taps_bytes(const sli_network *net, const sl_work *w) {
    int64_t bytes = 0;
    for (int32_t i = 0; i < w->n_taps; i++)
        bytes += data_bytes(net, w, w->taps[i]) + rounded(n_rows_of(w, w->taps[i]) * (int64_t)sizeof(int64_t));
    return bytes + rounded(w->n_taps * (int64_t)(sizeof(sl_tap_rows) + sizeof(sl_tap_rows *)));
}

sl_status sli_taps_reserve(sli_tap_store *store, int64_t bytes) {
    store->used = 0;
    if (bytes <= store->size)
        return SL_OK;
    sli_taps_release(store);
    store->bytes = sli_alloc(SLI_TAG_SCRATCH, (size_t)bytes);
    if (store->bytes == NULL)
        return SL_E_NO_MEMORY;
    store->size = bytes;
    return SL_OK;
}

void sli_taps_release(sli_tap_store *store) {
    sli_free(store->bytes);
    *store = (sli_tap_store){0};
}

static void *carve(sli_tap_store *store, int64_t bytes) {
    void *p = store->bytes + store->used;
    store->used += rounded(bytes);
    return p;
}

void sli_taps_place(sli_tap_store *store, const sli_network *net, sl_work_result *result) {
    const sl_work *w = result->work;
    if (w->n_taps == 0)
        return;
    sl_tap_rows *rows = carve(store, w->n_taps * (int64_t)(sizeof *rows + sizeof(sl_tap_rows *)));
    const sl_tap_rows **list = (const sl_tap_rows **)(void *)(rows + w->n_taps);
    for (int32_t i = 0; i < w->n_taps; i++) {
        const sl_tap *t = w->taps[i];
        int64_t heads, width, n = n_rows_of(w, t);
        int64_t *index = carve(store, n * (int64_t)sizeof *index);
        shape_of(net->info, t, &heads, &width);
        rows[i] = (sl_tap_rows){.struct_size = SL_SIZE(sl_tap_rows), .tap = t, .token_index = index, .seq = w->seq};
        int is_flat = heads == 1 && width == net->info->hidden;
        sl_tensor_make(&rows[i].rows, carve(store, data_bytes(net, w, t)), SL_F32, SL_DEVICE_CPU, is_flat ? 2 : 3,
                       is_flat ? (int64_t[]){n, width, 0} : (int64_t[]){n, heads, width});
        for (int64_t j = 0; j < n; j++)
            index[j] = w->begin + (t->rows == SL_TAP_ROWS_LAST ? w->n_rows - 1 : j);
        for (int64_t j = 1; j < n && w->parent != NULL; j++) /* a tree: the index is the depth */
            index[j] = w->parent[j] < 0 ? w->begin : index[w->parent[j]] + 1;
        list[i] = &rows[i];
    }
    result->taps = list;
}

void sli_taps_take(void *user, uint32_t point, int32_t layer, const float *rows, int32_t n_rows, int64_t width) {
    const sli_tap_feed *feed = user;
    const sl_work *w = feed->result->work;
    for (int32_t i = 0; i < w->n_taps; i++) {
        const sl_tap *t = w->taps[i];
        if (t->point != point || t->layer != layer)
            continue;
        sl_tensor *to = (sl_tensor *)(uintptr_t)&feed->result->taps[i]->rows; /* this file's own memory */
        if (t->stages != 0 && !(t->stages & feed->stage))
            to->shape[0] = 0;
        else if (t->rows != SL_TAP_ROWS_LAST)
            memcpy((float *)to->data + feed->done * width, rows, sizeof *rows * (size_t)(n_rows * width));
        else if (feed->done + n_rows == w->n_rows)
            memcpy(to->data, rows + (n_rows - 1) * width, sizeof *rows * (size_t)width);
    }
}

sl_status sli_taps_finish(const sli_network *net, const sl_work_result *result) {
    for (int32_t i = 0; i < result->work->n_taps; i++) {
        const sl_tap *t = result->work->taps[i];
        int64_t heads, width;
        shape_of(net->info, t, &heads, &width);
        const sl_tensor *rows = &result->taps[i]->rows;
        SL_TRY(sli_rewrite_plain(net, t->point, t->layer, rows->data, rows->shape[0], heads, width));
    }
    return SL_OK;
}
