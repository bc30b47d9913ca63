/* sl_ops.append: rows of a step into a store of plain rows. Refused with SL_E_UNIMPLEMENTED: a step whose layer has
 * rows of its own choice (sl_rows.index); quantised stores; keys and values of different dtypes; maps that are not of a
 * head's width or whose tensors are not on the device, Kronecker products, Hadamard matrices of other orders than
 * powers of two, one matrix a head, rounding; heads wider than SLK_APPEND_MAX_DIM; dims that are no multiples of four.
 */
#include "cuda_impl.h"

#include "cuda_tensor.h"

/* 0: nothing to do for this map; 1: it is in out. */
static sl_status take_map(const sl_map *map, slk_append_map *out) {
    uint32_t on;
    switch (map->at) {
    case SL_MAP_AT_QK_POST_ROPE: on = SLK_APPEND_ON_Q | SLK_APPEND_ON_K; break;
    case SL_MAP_AT_Q_POST_ROPE: on = SLK_APPEND_ON_Q; break;
    case SL_MAP_AT_K_POST_ROPE: on = SLK_APPEND_ON_K; break;
    case SL_MAP_AT_V: return 0; /* in the weights already */
    default: return SL_E_INVALID;
    }
    if (map->kind == SL_MAP_NONE)
        return 0;
    const int has_a = map->a.data != NULL, has_signs = map->signs.data != NULL;
    if (map->stride != 1 || map->n > SLK_APPEND_MAX_DIM || (has_a && map->a.device != SL_DEVICE_CUDA) ||
        (has_signs && map->signs.device != SL_DEVICE_CUDA) || (map->orders != NULL && map->orders[0] != 0))
        return SL_E_UNIMPLEMENTED;
    *out = (slk_append_map){.a = map->a.data,
                            .signs = map->signs.data,
                            .n = (int32_t)map->n,
                            .kind = map->kind,
                            .flags = on | (map->inverse ? SLK_APPEND_INVERSE : 0)};
    return 1;
}

sl_status sli_cuda_op_append(const sl_host *host, const sl_op_append *args) {
    (void)host;
    const sl_step_device *step = args->rows->batch->device;
    const sl_view_device *into = args->into;
    const sl_rope *rope = args->rope;
    const int rotates = rope != NULL && rope->style != SL_ROPE_NONE && rope->dims > 0;
    sli_cuda_rows q, k, v;
    if (step == NULL || !sli_cuda_rows_of(args->q, &q) || !sli_cuda_rows_of(args->k, &k) ||
        !sli_cuda_rows_of(args->v, &v) || args->q->ndim != 3 || args->k->ndim != 3 || args->v->ndim != 3 ||
        q.width != k.width || k.heads != into->n_heads || v.heads != into->n_heads || k.width != into->k_dim ||
        v.width != into->v_dim || args->q->dtype != SL_BF16 || args->k->dtype != SL_BF16 || args->v->dtype != SL_BF16 ||
        (args->q_norm != NULL && args->q_norm->dtype != SL_F32) ||
        (args->k_norm != NULL && args->k_norm->dtype != SL_F32))
        return SL_E_INVALID;
    if (args->rows->index != NULL || into->k_bits != 0 || into->v_bits != 0 || into->k_dtype != into->v_dtype ||
        (rotates && (rope->device_cos == NULL || rope->device_sin == NULL || rope->n_positions > INT32_MAX)))
        return SL_E_UNIMPLEMENTED;
    slk_append_params p = {
        .q = q.data,
        .k = k.data,
        .v = v.data,
        .ldq = q.ld,
        .ldq_head = q.ld_head,
        .ldk = k.ld,
        .ldk_head = k.ld_head,
        .ldv = v.ld,
        .ldv_head = v.ld_head,
        .q_norm = args->q_norm != NULL ? args->q_norm->data : NULL,
        .k_norm = args->k_norm != NULL ? args->k_norm->data : NULL,
        .cos = rotates ? rope->device_cos : NULL,
        .sin = rotates ? rope->device_sin : NULL,
        .n_active = args->rows->device_n,
        .row_seq = step->row_seq,
        .seq = step->seq,
        .row_begin = step->row_begin,
        .n_past = step->n_past,
        .token_index = step->token_index,
        .position = step->position,
        .k_pool = into->k_pool,
        .v_pool = into->v_pool,
        .pages = into->pages,
        .n_rows = into->n_rows,
        .head_places = into->heads,
        .pages_stride = into->pages_stride,
        .pages_head_stride = into->pages_head_stride,
        .n_rows_stride = into->n_rows_stride,
        .n_rows_head_stride = into->n_rows_head_stride,
        .k_page_stride = into->k_page_stride,
        .k_row_stride = into->k_row_stride,
        .k_head_stride = into->k_head_stride,
        .v_page_stride = into->v_page_stride,
        .v_row_stride = into->v_row_stride,
        .v_head_stride = into->v_head_stride,
        .heads = (int32_t)q.heads,
        .kv_heads = (int32_t)k.heads,
        .k_dim = (int32_t)k.width,
        .v_dim = (int32_t)v.width,
        .rope_dims = rotates ? rope->dims : 0,
        .n_positions = rotates ? (int32_t)rope->n_positions : 0,
        .page_rows = into->page_rows,
        .interleaved = rotates && rope->style == SL_ROPE_INTERLEAVED,
        .overwrite = args->overwrite,
        .eps = (float)args->norm_eps,
    };
    for (int32_t i = 0; i < args->n_maps; i++) {
        if (p.n_maps == SLK_APPEND_MAX_MAPS)
            return SL_E_UNIMPLEMENTED;
        const sl_status taken = take_map(args->maps[i], &p.map[p.n_maps]);
        if (taken < 0)
            return taken;
        p.n_maps += taken;
    }
    return slk_cuda_append(&sli_cuda_of(args->lane)->k, args->lane, &p, args->rows->n, into->k_dtype);
}
