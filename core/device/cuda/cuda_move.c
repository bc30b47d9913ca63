/* sl_ops.move: rows of all layers inside of their sequences. Layers of one geometry that follow each other share a
 * launch. Quantised rows: SL_E_UNIMPLEMENTED, their store moves them. */
#include "cuda_impl.h"

static int same_geometry(const sl_view_device *a, const sl_view_device *b) {
    return a->pages_stride == b->pages_stride && a->pages_head_stride == b->pages_head_stride &&
           a->n_rows_stride == b->n_rows_stride && a->n_rows_head_stride == b->n_rows_head_stride &&
           a->k_page_stride == b->k_page_stride && a->k_row_stride == b->k_row_stride &&
           a->k_head_stride == b->k_head_stride && a->v_page_stride == b->v_page_stride &&
           a->v_row_stride == b->v_row_stride && a->v_head_stride == b->v_head_stride && a->page_rows == b->page_rows &&
           a->n_heads == b->n_heads && a->k_dim == b->k_dim && a->v_dim == b->v_dim && a->k_dtype == b->k_dtype &&
           a->v_dtype == b->v_dtype;
}

static int32_t element_bytes(sl_dtype dtype) {
    return dtype == SL_F32 ? 4 : dtype == SL_F16 || dtype == SL_BF16 ? 2 : 0;
}

sl_status sli_cuda_op_move(const sl_host *host, const sl_op_move *args) {
    (void)host;
    const sl_view_device *const *views = args->layers;
    for (int32_t begin = 0, end; begin < args->n_layers; begin = end) {
        const sl_view_device *view = views[begin];
        const int32_t k_element = element_bytes(view->k_dtype), v_element = element_bytes(view->v_dtype);
        if (args->staged && view->n_rows == NULL)
            return SL_E_INVALID;
        if (k_element == 0 || v_element == 0 || view->k_bits != 0 || view->v_bits != 0)
            return SL_E_UNIMPLEMENTED;
        slk_move_layer layers[SLK_MOVE_LAYERS];
        for (end = begin; end < args->n_layers && end - begin < SLK_MOVE_LAYERS && same_geometry(view, views[end]);
             end++)
            layers[end - begin] = (slk_move_layer){views[end]->k_pool, views[end]->v_pool, views[end]->pages,
                                                   views[end]->heads, views[end]->n_rows};
        const slk_move_params p = {.n_moves = args->n_moves,
                                   .seq = args->seq,
                                   .from = args->from,
                                   .to = args->to,
                                   .pages_stride = view->pages_stride,
                                   .pages_head_stride = view->pages_head_stride,
                                   .n_rows_stride = view->n_rows_stride,
                                   .n_rows_head_stride = view->n_rows_head_stride,
                                   .k_page_stride = view->k_page_stride,
                                   .k_row_stride = view->k_row_stride,
                                   .k_head_stride = view->k_head_stride,
                                   .v_page_stride = view->v_page_stride,
                                   .v_row_stride = view->v_row_stride,
                                   .v_head_stride = view->v_head_stride,
                                   .heads = view->n_heads,
                                   .k_bytes = view->k_dim * k_element,
                                   .v_bytes = view->v_dim * v_element,
                                   .page_rows = view->page_rows,
                                   .max_moves = args->max_moves,
                                   .staged = args->staged != 0};
        const sl_status s = slk_cuda_move(&sli_cuda_of(args->lane)->k, args->lane, &p, layers, end - begin);
        if (s < 0)
            return s;
    }
    return SL_OK;
}
