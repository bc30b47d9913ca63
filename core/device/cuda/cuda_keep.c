/* sl_ops.keep: rows of one sequence and layer that stay, to the front of their heads. Quantised rows
 * and heads in places of their own: SL_E_UNIMPLEMENTED. */
#include "cuda_impl.h"

static int32_t element_bytes(sl_dtype dtype) {
    return dtype == SL_F32 ? 4 : dtype == SL_F16 || dtype == SL_BF16 ? 2 : 0;
}

sl_status sli_cuda_op_keep(const sl_host *host, const sl_op_keep *args) {
    (void)host;
    const sl_view_device *v = args->layer;
    const int32_t k_element = element_bytes(v->k_dtype), v_element = element_bytes(v->v_dtype);
    if (k_element == 0 || v_element == 0 || v->k_bits != 0 || v->v_bits != 0 || v->heads != NULL)
        return SL_E_UNIMPLEMENTED;
    const slk_keep_params p = {.k_pool = v->k_pool,
                               .v_pool = v->v_pool,
                               .pages = v->pages + args->seq * v->pages_stride,
                               .keep_begin = args->keep_begin,
                               .keep = args->keep,
                               .pages_head_stride = v->pages_head_stride,
                               .k_page_stride = v->k_page_stride,
                               .k_row_stride = v->k_row_stride,
                               .k_head_stride = v->k_head_stride,
                               .v_page_stride = v->v_page_stride,
                               .v_row_stride = v->v_row_stride,
                               .v_head_stride = v->v_head_stride,
                               .k_bytes = v->k_dim * k_element,
                               .v_bytes = v->v_dim * v_element,
                               .page_rows = v->page_rows};
    return slk_cuda_keep(&sli_cuda_of(args->lane)->k, args->lane, &p, v->n_heads);
}
