/* coded_rows.h - rows of a sl_view_device as a device's kernels code and read them, for devices that are none.
 * Addresses are translated by whoever has them. */
#ifndef SLUICE_TEST_CODED_ROWS_H
#define SLUICE_TEST_CODED_ROWS_H

#include "sluice/kv.h"

#include "sl_half.h"
#include "sl_minmax.h"

/* Where `bytes` bytes at a device address are. */
typedef void *(*coded_at)(const void *address, int64_t bytes);

typedef struct coded_side {
    char *pool;
    const char *scale, *zero;
    int64_t page_stride, row_stride, head_stride, scale_page, scale_stride;
    int32_t dim, bits, group, axis;
    sl_dtype type;
} coded_side;

static inline coded_side coded_side_of(const sl_view_device *v, int values) {
    if (!values)
        return (coded_side){v->k_pool,
                            v->k_scale,
                            v->k_zero,
                            v->k_page_stride,
                            v->k_row_stride,
                            v->k_head_stride,
                            v->scale_page_stride_k,
                            v->scale_stride_k,
                            v->k_dim,
                            v->k_bits,
                            v->k_group,
                            (int32_t)v->k_axis,
                            v->k_dtype};
    return (coded_side){v->v_pool,
                        v->v_scale,
                        v->v_zero,
                        v->v_page_stride,
                        v->v_row_stride,
                        v->v_head_stride,
                        v->scale_page_stride_v,
                        v->scale_stride_v,
                        v->v_dim,
                        v->v_bits,
                        v->v_group,
                        (int32_t)v->v_axis,
                        v->v_dtype};
}

static inline int64_t coded_page(const sl_view_device *v, int32_t seq, int64_t h, int64_t slot, coded_at at) {
    return *(const int32_t *)at(v->pages + seq * v->pages_stride + h * v->pages_head_stride + slot / v->page_rows, 4);
}

static inline void coded_widen(float *to, const void *from, sl_dtype type, int64_t n) {
    for (int64_t d = 0; d < n; d++) {
        uint32_t bits = type == SL_F32 ? 0 : ((const uint16_t *)from)[d];
        bits <<= 16;
        if (type == SL_BF16)
            memcpy(&to[d], &bits, sizeof bits);
        else
            to[d] = type == SL_F32 ? ((const float *)from)[d] : sl_f32_of_f16(((const uint16_t *)from)[d]);
    }
}

/* Row `slot` of head h as floats: the view's codes, its plain rows, or those of v->plain. */
static inline void coded_read(const sl_view_device *v, int32_t seq, int64_t h, int64_t slot, int values, coded_at at,
                              float *out) {
    if (v->plain != NULL && slot >= *(const int32_t *)at(v->n_coded + 2 * seq + values, 4))
        v = v->plain;
    const coded_side s = coded_side_of(v, values);
    int64_t page = coded_page(v, seq, h, slot, at), r = slot % v->page_rows;
    const char *row = s.pool + page * s.page_stride + r * s.row_stride + h * s.head_stride;
    if (s.bits == 0) {
        int64_t bytes = s.dim * (s.type == SL_F32 ? 4 : 2);
        coded_widen(out, at(row, bytes), s.type, s.dim);
        return;
    }
    int by_channel = s.axis == SL_QUANT_PER_CHANNEL;
    int64_t scales = by_channel ? s.dim : s.dim / s.group,
            first = page * s.scale_page + (by_channel ? r / s.group : r) * s.scale_stride + 2 * h * scales;
    sl_minmax_values(at(row, s.dim * s.bits / 8), at(s.scale + first, 2 * scales), at(s.zero + first, 2 * scales),
                     s.dim, by_channel ? 1 : s.group, s.bits, out);
}

/* A job of sl_op_quantise, in one layer. */
static inline void coded_write(const sl_view_device *v, int32_t seq, int64_t begin, int64_t end, int values,
                               coded_at at) {
    enum { MOST = 128 * 256 };
    static float x[MOST];
    static uint8_t codes[MOST];
    const coded_side from = coded_side_of(v->plain, values), to = coded_side_of(v, values);
    int64_t n = end - begin, bytes = to.dim * to.bits / 8, r = begin % v->page_rows,
            element = from.type == SL_F32 ? 4 : 2;
    for (int64_t h = 0; h < v->n_heads; h++) {
        int64_t a = coded_page(v->plain, seq, h, begin, at), b = coded_page(v, seq, h, begin, at);
        int64_t scales = values ? to.dim / to.group : to.dim;
        for (int64_t i = 0; i < n; i++)
            coded_widen(x + i * to.dim,
                        at(from.pool + a * from.page_stride + (r + i) * from.row_stride + h * from.head_stride,
                           to.dim * element),
                        from.type, to.dim);
        for (int64_t i = 0; i < (values ? n : 1); i++) {
            int64_t first = b * to.scale_page + (values ? r + i : r / to.group) * to.scale_stride + 2 * h * scales;
            uint16_t *scale = at(to.scale + first, 2 * scales), *zero = at(to.zero + first, 2 * scales);
            if (values)
                sl_minmax_row(x + i * to.dim, to.dim, to.group, to.bits, codes + i * bytes, scale, zero);
            else
                sl_minmax_channels(x, n, to.dim, to.bits, codes, scale, zero);
        }
        for (int64_t i = 0; i < n; i++)
            memcpy(at(to.pool + b * to.page_stride + (r + i) * to.row_stride + h * to.head_stride, bytes),
                   codes + i * bytes, (size_t)bytes);
    }
}

#endif
