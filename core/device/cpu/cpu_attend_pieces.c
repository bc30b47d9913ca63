/* See cpu_attend_pieces.h. */
#include "cpu_attend_pieces.h"

#include "sl_tensor.h"

static int holds(const sl_segment *s, int64_t kv_head) {
    return s->kind != SL_SEGMENT_OPAQUE && kv_head >= s->head_begin && kv_head < s->head_begin + s->n_heads;
}

static int is_float(sl_dtype t) { return t == SL_F32 || t == SL_F16 || t == SL_BF16; }

static int is_readable_quant(const sl_qrows *q, int64_t page_rows) {
    if (q == NULL)
        return 1;
    return (q->bits == 1 || q->bits == 2 || q->bits == 4 || q->bits == 8) && q->group > 0 && is_float(q->scale_dtype) &&
           q->scale_pages != NULL && (q->axis != SL_QUANT_PER_CHANNEL || page_rows % q->group == 0);
}

int sli_segment_is_readable(const sl_segment *s) {
    if (s->kind == SL_SEGMENT_OPAQUE)
        return 1; /* its store attends to it */
    if (s->key_state != SL_KEYS_ROTATED || (s->kind != SL_SEGMENT_ROWS && s->kind != SL_SEGMENT_QROWS))
        return 0;
    if (s->kind == SL_SEGMENT_ROWS)
        return 1;
    return is_readable_quant(s->k_quant, s->page_rows) && is_readable_quant(s->v_quant, s->page_rows) &&
           (s->k_quant != NULL || is_float(s->k_dtype)) && (s->v_quant != NULL || is_float(s->v_dtype));
}

int64_t sli_segments_join(const sl_seq_view *view, int64_t kv_head, int64_t at_most, sl_segment *whole) {
    int64_t n = 0;
    for (int32_t k = 0; k < view->n_segments; k++) {
        const sl_segment *s = view->segments[k];
        if (!holds(s, kv_head))
            continue;
        if (n++ == 0) {
            *whole = *s;
            continue;
        }
        const int64_t *next = whole->token_index != NULL ? whole->token_index + whole->n_committed : NULL;
        if (n > at_most || (whole->n_staged > 0 && s->n_committed > 0) || s->visible_to_all || whole->visible_to_all ||
            s->min_distance != 0 || s->max_distance != 0 || whole->min_distance != 0 || whole->max_distance != 0 ||
            s->token_index != next || (next == NULL && s->token_base != whole->token_base + whole->n_committed))
            return 0;
        whole->n_committed += s->n_committed;
        whole->n_staged += s->n_staged;
    }
    return n;
}

slk_paged sli_plain_rows(const void *const *pages, sl_dtype dtype, int64_t row_stride, int64_t head_stride,
                         int64_t head) {
    int64_t element = sl_dtype_bits(dtype) / 8;
    return (slk_paged){pages, head * head_stride / element, row_stride / element, dtype, NULL};
}

static slk_paged coded_rows(const void *const *pages, const sl_qrows *q, int64_t row_stride, int64_t head_stride,
                            int64_t head, int64_t d, slk_quant *out) {
    *out = (slk_quant){.scale_pages = q->scale_pages,
                       .zero_pages = q->zero_pages,
                       .scale_ld = q->scale_stride,
                       .first = head * d,
                       .group = q->group,
                       .bits = q->bits,
                       .scale_dtype = q->scale_dtype,
                       .per_channel = q->axis == SL_QUANT_PER_CHANNEL,
                       .zero_is_min = q->zero_is_min};
    return (slk_paged){pages, head * head_stride, row_stride, SL_U8, out};
}

int64_t sli_segments_pieces(const sl_seq_view *view, int64_t kv_head, int64_t d_k, int64_t d_v, slk_piece *pieces,
                            sli_piece *quants) {
    int64_t n = 0, slot = 0;
    for (int32_t k = 0; k < view->n_segments; k++) {
        const sl_segment *s = view->segments[k];
        int64_t rows = s->n_committed + s->n_staged, head = kv_head - s->head_begin;
        if (!holds(s, kv_head) || rows == 0)
            continue;
        const sl_qrows *kq = s->kind == SL_SEGMENT_QROWS ? s->k_quant : NULL,
                       *vq = s->kind == SL_SEGMENT_QROWS ? s->v_quant : NULL;
        slk_piece *p = &pieces[n];
        *p = (slk_piece){.begin = slot, .end = slot + rows, .page_rows = s->page_rows};
        p->k = kq != NULL ? coded_rows(s->k_pages, kq, s->k_row_stride, s->k_head_stride, head, d_k, &quants[n].k)
                          : sli_plain_rows(s->k_pages, s->k_dtype, s->k_row_stride, s->k_head_stride, head);
        p->v = vq != NULL ? coded_rows(s->v_pages, vq, s->v_row_stride, s->v_head_stride, head, d_v, &quants[n].v)
                          : sli_plain_rows(s->v_pages, s->v_dtype, s->v_row_stride, s->v_head_stride, head);
        slot += rows;
        n++;
    }
    return n;
}
