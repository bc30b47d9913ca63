/* See attend_prefill_cuda.h. */
#include "slk_cuda.h"

static int power_of_two(int64_t x) { return x > 0 && (x & (x - 1)) == 0; }

/* Rows of a head as 16-byte pieces. */
static int pieces(const sl_tensor *t, int64_t dim) {
    return t->dtype == SL_BF16 && t->ndim == 3 && t->shape[2] == dim && t->stride[2] == 1 && t->stride[0] % 8 == 0 &&
           t->stride[1] % 8 == 0 && (uintptr_t)t->data % 16 == 0;
}

/* Sinks, or windows of chunks? */
static int streams(const sl_mask *m) {
    return SL_HAS(m, sl_mask, window_first) && (m->sinks > 0 || m->window_chunk > 0);
}

static int serves(const sl_attend *a, const sl_step_device *step, const sl_view_device *v) {
    if (a->rows->index != NULL || (a->rows->device_n != NULL && a->rows->device_n != step->n_rows) ||
        (step->stages & SL_STAGE_VERIFY))
        return 0;
    if ((a->want & ~(uint32_t)SL_WANT_LSE) || a->row_scale != NULL || a->head_masks != NULL)
        return 0;
    if (a->mask->interval != NULL || a->mask->n_spans > 0 || a->mask->base != SL_MASK_CAUSAL)
        return 0;
    if ((v->heads != NULL || streams(a->mask)) && v->n_rows != NULL)
        return 0;
    if (v->list != NULL || v->k_bits > 0 || v->v_bits > 0 || v->k_dtype != SL_BF16 || v->v_dtype != SL_BF16)
        return 0;
    if (!power_of_two(v->page_rows) || v->page_rows < 16 || v->k_dim != v->v_dim)
        return 0;
    const int64_t strides = v->k_page_stride | v->k_row_stride | v->k_head_stride | v->v_page_stride | v->v_row_stride |
                            v->v_head_stride | (int64_t)(uintptr_t)v->k_pool | (int64_t)(uintptr_t)v->v_pool;
    return strides % 16 == 0 && pieces(&a->q, v->k_dim) && pieces(&a->o, v->v_dim) && v->n_heads > 0 &&
           a->q.shape[1] % v->n_heads == 0 && a->mask->window < INT32_MAX;
}

sl_status slk_cuda_attend_prefill(const slk_cuda *k, const sl_attend *a, int portable) {
    const sl_step_device *step = a->rows->batch->device;
    const sl_view_device *v = a->view->device;
    if (step == NULL || v == NULL)
        return SL_E_INVALID;
    if (!serves(a, step, v))
        return SL_E_UNIMPLEMENTED;
    int kernel, queries = SLK_PREFILL_QUERIES(v->k_dim), threads = 128, shared = SLK_PREFILL_SHARED(v->k_dim);
    switch (v->k_dim) {
    case 64: kernel = SLK_CUDA_attend_prefill_64; break;
    case 96: kernel = SLK_CUDA_attend_prefill_96; break;
    case 128: kernel = SLK_CUDA_attend_prefill_128; break;
    case 256: kernel = SLK_CUDA_attend_prefill_256; break;
    default: return SL_E_UNIMPLEMENTED;
    }
    if (v->k_dim == 128 && !portable && k->function[SLK_CUDA_attend_prefill_hopper_128] != NULL) {
        kernel = SLK_CUDA_attend_prefill_hopper_128;
        threads = 384;
        shared = SLK_PREFILL_HOPPER_SHARED;
    }
    slk_attend_prefill_params p = {
        .q = a->q.data,
        .o = a->o.data,
        .lse = a->want & SL_WANT_LSE ? a->lse : NULL,
        .k_pool = v->k_pool,
        .v_pool = v->v_pool,
        .pages = v->pages,
        .n_rows = v->n_rows,
        .n_seqs = step->n_seqs,
        .seq = step->seq,
        .row_begin = step->row_begin,
        .n_past = step->n_past,
        .q_row = a->q.stride[0],
        .q_head = a->q.stride[1],
        .o_row = a->o.stride[0],
        .o_head = a->o.stride[1],
        .pages_stride = v->pages_stride,
        .pages_head_stride = v->pages_head_stride,
        .n_rows_stride = v->n_rows_stride,
        .n_rows_head_stride = v->n_rows_head_stride,
        .k_page = v->k_page_stride,
        .k_row = v->k_row_stride,
        .k_head = v->k_head_stride,
        .v_page = v->v_page_stride,
        .v_row = v->v_row_stride,
        .v_head = v->v_head_stride,
        .scale = (float)a->scale,
        .softcap = (float)a->softcap,
        .window = (int32_t)a->mask->window,
        .heads = (int32_t)a->q.shape[1],
    };
    p.head_places = v->heads;
    if (SL_HAS(a->mask, sl_mask, window_first)) {
        p.sinks = (int32_t)a->mask->sinks;
        p.window_chunk = (int32_t)a->mask->window_chunk;
        p.window_first = (int32_t)a->mask->window_first;
    }
    p.group = p.heads / v->n_heads;
    while (1 << p.page_shift < v->page_rows)
        p.page_shift++;
    p.tiles = (step->max_seq_rows + queries - 1) / queries;
    /* heads whose keys and values fill at most half of the L2 run beside one another */
    const int64_t head_bytes = step->max_context * (v->k_dim + v->v_dim) * 2;
    int64_t round = head_bytes > 0 ? k->info.l2_bytes / 2 / head_bytes : 1;
    if (round < 1)
        round = 1;
    if (round > v->n_heads)
        round = v->n_heads;
    p.heads_round = (int32_t)round * p.group;
    slk_cuda_grid grid = {.x = (uint32_t)(p.tiles * p.heads),
                          .y = (uint32_t)step->max_seqs,
                          .z = 1,
                          .threads = (uint32_t)threads,
                          .shared = (uint32_t)shared,
                          .dependent = 1};
    return slk_cuda_launch(k, a->lane, kernel, &p, sizeof p, grid);
}
