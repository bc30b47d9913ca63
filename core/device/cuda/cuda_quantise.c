/* sl_ops.quantise: plain rows of all layers coded where they stand. Layers of one geometry that follow each other share
 * a launch. Refused with SL_E_UNIMPLEMENTED: codes of other axes than keys by channel and values by row, without the
 * flag zero_is_min, without zeros; page tables by head; keys and values of different dtypes. */
#include "cuda_impl.h"

static slk_quantise_side side_of(const sl_view_device *v, int side) {
    const sl_view_device *p = v->plain;
    if (side == 0)
        return (slk_quantise_side){.plain_page = p->k_page_stride,
                                   .plain_row = p->k_row_stride,
                                   .plain_head = p->k_head_stride,
                                   .page = v->k_page_stride,
                                   .row = v->k_row_stride,
                                   .head = v->k_head_stride,
                                   .scale_page = v->scale_page_stride_k,
                                   .scale_group = v->scale_stride_k,
                                   .dim = v->k_dim,
                                   .bits = v->k_bits,
                                   .group = v->k_group};
    return (slk_quantise_side){.plain_page = p->v_page_stride,
                               .plain_row = p->v_row_stride,
                               .plain_head = p->v_head_stride,
                               .page = v->v_page_stride,
                               .row = v->v_row_stride,
                               .head = v->v_head_stride,
                               .scale_page = v->scale_page_stride_v,
                               .scale_group = v->scale_stride_v,
                               .dim = v->v_dim,
                               .bits = v->v_bits,
                               .group = v->v_group};
}

static int is_supported(const sl_view_device *v) {
    const sl_view_device *p = v->plain;
    if (p == NULL || !v->zero_is_min || v->pages_head_stride != 0 || p->pages_head_stride != 0 ||
        p->k_dtype != p->v_dtype || p->page_rows != v->page_rows)
        return 0;
    return (v->k_bits == 0 || (v->k_axis == SL_QUANT_PER_CHANNEL && v->k_scale != NULL && v->k_zero != NULL)) &&
           (v->v_bits == 0 || (v->v_axis == SL_QUANT_PER_ROW && v->v_scale != NULL && v->v_zero != NULL));
}

static int same_side(const slk_quantise_side *a, const slk_quantise_side *b) {
    return a->plain_page == b->plain_page && a->plain_row == b->plain_row && a->plain_head == b->plain_head &&
           a->page == b->page && a->row == b->row && a->head == b->head && a->scale_page == b->scale_page &&
           a->scale_group == b->scale_group && a->dim == b->dim && a->bits == b->bits && a->group == b->group;
}

static int same_geometry(const sl_view_device *a, const sl_view_device *b) {
    for (int side = 0; side < 2; side++) {
        const slk_quantise_side x = side_of(a, side), y = side_of(b, side);
        if (!same_side(&x, &y))
            return 0;
    }
    return a->pages == b->pages && a->pages_stride == b->pages_stride && a->plain->pages == b->plain->pages &&
           a->plain->pages_stride == b->plain->pages_stride && a->page_rows == b->page_rows &&
           a->n_heads == b->n_heads && a->plain->k_dtype == b->plain->k_dtype;
}

/* What the caller may not write through is written here: codes and their scales. */
static slk_quantise_layer layer_of(const sl_view_device *v) {
    return (slk_quantise_layer){.plain = {v->plain->k_pool, v->plain->v_pool},
                                .codes = {v->k_pool, v->v_pool},
                                .scale = {(char *)(uintptr_t)v->k_scale, (char *)(uintptr_t)v->v_scale},
                                .zero = {(char *)(uintptr_t)v->k_zero, (char *)(uintptr_t)v->v_zero}};
}

sl_status sli_cuda_op_quantise(const sl_host *host, const sl_op_quantise *args) {
    (void)host;
    const sl_view_device *const *views = args->layers;
    for (int32_t i = 0; i < args->n_layers; i++)
        if (!is_supported(views[i]))
            return SL_E_UNIMPLEMENTED;
    for (int32_t begin = 0, end; begin < args->n_layers; begin = end) {
        const sl_view_device *v = views[begin];
        slk_quantise_layer layers[SLK_QUANTISE_LAYERS];
        for (end = begin; end < args->n_layers && end - begin < SLK_QUANTISE_LAYERS && same_geometry(v, views[end]);
             end++)
            layers[end - begin] = layer_of(views[end]);
        const slk_quantise_params p = {.seq = args->seq,
                                       .begin = args->begin,
                                       .end = args->end,
                                       .side = args->side,
                                       .pages = v->pages,
                                       .plain_pages = v->plain->pages,
                                       .pages_stride = v->pages_stride,
                                       .plain_pages_stride = v->plain->pages_stride,
                                       .of = {side_of(v, 0), side_of(v, 1)},
                                       .n_jobs = args->n_jobs,
                                       .heads = v->n_heads,
                                       .page_rows = v->page_rows};
        const sl_status s =
            slk_cuda_quantise(&sli_cuda_of(args->lane)->k, args->lane, &p, layers, end - begin, v->plain->k_dtype);
        if (s < 0)
            return s;
    }
    return SL_OK;
}
