/* Cases for tests of attention on a device: ragged batches over shuffled pages, with poison wherever no key lies, and
 * what should come out, computed in double from the same rounded numbers. What a row holds depends on its sequence's
 * name and its own alone, so that one sequence can be asked about in several ways. Run by attend_run_cuda_test.h. */
#ifndef SLUICE_KERNELS_ATTEND_CASE_CUDA_TEST_H
#define SLUICE_KERNELS_ATTEND_CASE_CUDA_TEST_H

#include "testhost_cmocka.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sl_half.h"

enum { CASE_SEQS = 6, CASE_ROWS = 128 };
enum { LIST_NONE = 0, LIST_LAYER = 1, LIST_HEAD = 2, LIST_ROW = 3 };

typedef struct case_seq {
    int32_t past, rows;
    int32_t name; /* what its numbers are drawn from */
    int32_t tree; /* 1: parent holds the tree */
    int32_t parent[CASE_ROWS];
    int32_t *key; /* [past + rows] names of the rows by slot; NULL: the slot */
} case_seq;

typedef struct attend_case {
    int32_t dim, kv_heads, group, n_seqs;
    case_seq seq[CASE_SEQS];
    int32_t page_rows, window, list;
    int32_t sinks, window_chunk, window_first; /* of sl_mask */
    int32_t apart; /* 1: heads in places of their own, every second one windowed, the others not */
    int32_t k_bits, v_bits, k_axis, v_axis, quant_group, zeros; /* codes */
    int32_t mixed, zero_is_min; /* mixed: the oldest keys and fewer of the oldest values are codes, the others plain */
    sl_dtype dtype;             /* of plain rows */
    float scale, softcap;
    int32_t fast, no_workspace, o_bf16, own_scale;
    uint32_t want; /* SL_WANT_SCORES, SL_WANT_COLSUM beside lse */
    int32_t colsum_apart, colsum_per_row;
    int32_t weighted, sums_alone; /* rows have weights in the sums; sums are made behind the attention, of its lse */
    int32_t by_head;              /* 1: head h holds less[h] rows fewer than the step says */
    int32_t less[8];
    int32_t q_ahead;     /* queries are those of so many slots further on */
    int32_t even_scales; /* 1: scales and zeros depend on the channel alone: a row means the same wherever it lies */
    /* Bounds beyond what is needed. */
    int32_t more_context, more_seqs, more_seq_rows, more_rows;
    uint64_t seed;
} attend_case;

typedef struct case_result {
    int32_t n_rows, heads, dim;
    int64_t stride; /* of scores and colsum */
    float *o, *lse, *scores, *colsum;
} case_result;

static inline int64_t case_max(int64_t a, int64_t b) { return a > b ? a : b; }

static inline uint64_t case_mix(uint64_t a, uint64_t b) {
    uint64_t x = (a ^ (b + 0x9e3779b97f4a7c15u + (a << 6))) * 0xbf58476d1ce4e5b9u;
    x ^= x >> 29;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 32);
}

static inline int32_t case_key(const case_seq *s, int32_t slot) { return s->key != NULL ? s->key[slot] : slot; }
static inline int32_t case_depth(const case_seq *s, int32_t i) {
    int32_t d = i;
    if (s->tree)
        for (d = 0; i > 0; i = s->parent[i])
            d++;
    return d;
}
static inline int case_sees(const case_seq *s, int32_t i, int32_t j) { /* staged row j by row i */
    if (!s->tree)
        return j <= i;
    while (i > j)
        i = s->parent[i];
    return i == j;
}

/* Query (which 0, of a query head), key (1), value (2): floats that bf16 holds; codes are made from those. */
static inline void case_values(const attend_case *c, const case_seq *s, int which, int32_t slot, int32_t head,
                               float *x) {
    slt_random(x, c->dim,
               case_mix(case_mix(c->seed * 3 + (uint64_t)which, (uint64_t)s->name),
                        case_mix((uint64_t)case_key(s, slot), (uint64_t)head)));
    for (int32_t d = 0; d < c->dim; d++)
        x[d] = slt_float(slt_bf16(x[d]));
}

static inline float case_weight(const attend_case *c, int32_t row) { return c->weighted ? 0.5f * (float)(row % 3) : 1; }

static inline int case_chosen(const attend_case *c, int32_t unit, int32_t head, int32_t slot) {
    return c->list == LIST_NONE ||
           case_mix(case_mix(c->seed + 77, (uint64_t)unit), case_mix((uint64_t)head, (uint64_t)slot)) % 3 == 0;
}

/* Scale and zero of codes: of a place in a page only, so that no data has to be scanned. */
static inline float case_scale_of(const attend_case *c, int64_t i) {
    return 0.01f + 0.001f * (float)(case_mix(c->seed, (uint64_t)i) % 32);
}
static inline float case_zero_of(const attend_case *c, int32_t bits, int64_t i) {
    return c->zeros ? (float)(case_mix(c->seed + 1, (uint64_t)i) % (1u << bits)) : (float)(1u << (bits - 1));
}

/* One side of the pool, and the values that its rows mean. */
typedef struct case_side {
    int32_t bits, axis;
    int64_t row_bytes, head_bytes, page_bytes, scale_page, scale_stride;
    uint8_t *pool, *scale, *zero;
    float *value; /* [all slots][kv_heads][dim] */
} case_side;

static inline void case_put(const attend_case *c, case_side *s, int32_t page, int32_t r, int32_t head, const float *x,
                            float *value) {
    uint8_t *row = s->pool + page * s->page_bytes + r * s->row_bytes + head * s->head_bytes;
    if (s->bits > 0)
        memset(row, 0, (size_t)(c->dim * s->bits / 8));
    for (int32_t d = 0; d < c->dim; d++) {
        if (s->bits == 0) {
            uint16_t half = c->dtype == SL_BF16 ? slt_bf16(x[d]) : sl_f16_of_f32(x[d]);
            if (c->dtype == SL_F32)
                memcpy(row + 4 * d, &x[d], 4);
            else
                memcpy(row + 2 * d, &half, 2);
            value[d] = c->dtype == SL_F16 ? slt_float(slt_bf16(sl_f32_of_f16(half))) : x[d];
            continue;
        }
        const int64_t channel = (int64_t)head * c->dim + d;
        const int64_t at = s->axis == SL_QUANT_PER_ROW ? r * (s->scale_stride / 2) + channel / c->quant_group
                                                       : (r / c->quant_group) * (s->scale_stride / 2) + channel;
        const int64_t draw = c->even_scales ? channel / c->quant_group : at + page * (int64_t)131;
        const uint16_t a16 = sl_f16_of_f32(case_scale_of(c, draw)), z16 = sl_f16_of_f32(case_zero_of(c, s->bits, draw));
        memcpy(s->scale + page * s->scale_page + 2 * at, &a16, 2);
        memcpy(s->zero + page * s->scale_page + 2 * at, &z16, 2);
        const uint32_t code = (uint32_t)((x[d] * 0.5f + 0.5f) * (float)(1u << s->bits)) & ((1u << s->bits) - 1);
        row[d * s->bits / 8] |= (uint8_t)(code << (d * s->bits % 8));
        const float z = c->zeros ? sl_f32_of_f16(z16) : (float)(1u << (s->bits - 1));
        const float a = sl_f32_of_f16(a16), product = a * (float)code;
        value[d] = slt_float(slt_bf16(c->zero_is_min ? product + z : a * ((float)code - z)));
    }
}

static inline void case_side_make(const attend_case *c, case_side *s, int32_t bits, int32_t axis, int64_t pages,
                                  int64_t slots) {
    const int64_t bytes = bits > 0 ? c->dim * bits / 8 : c->dim * (c->dtype == SL_F32 ? 4 : 2);
    memset(s, 0, sizeof *s);
    s->bits = bits;
    s->axis = axis;
    s->head_bytes = bytes;
    s->row_bytes = bytes * c->kv_heads + 16; /* a gap, poisoned */
    s->page_bytes = s->row_bytes * c->page_rows;
    s->pool = malloc((size_t)(s->page_bytes * pages));
    memset(s->pool, 0xff, (size_t)(s->page_bytes * pages));
    if (bits > 0) {
        const int64_t channels = (int64_t)c->kv_heads * c->dim;
        s->scale_stride = 2 * (axis == SL_QUANT_PER_ROW ? (channels + c->quant_group - 1) / c->quant_group : channels);
        s->scale_page =
            s->scale_stride *
            (axis == SL_QUANT_PER_ROW ? c->page_rows : (c->page_rows + c->quant_group - 1) / c->quant_group);
        s->scale = malloc((size_t)(s->scale_page * pages));
        s->zero = malloc((size_t)(s->scale_page * pages));
        memset(s->scale, 0xff, (size_t)(s->scale_page * pages));
        memset(s->zero, 0xff, (size_t)(s->scale_page * pages));
    }
    s->value = malloc((size_t)(slots * c->kv_heads * c->dim) * sizeof(float));
}

static inline void case_side_free(case_side *s) { free(s->pool), free(s->scale), free(s->zero), free(s->value); }

static inline void case_result_free(case_result *r) { free(r->o), free(r->lse), free(r->scores), free(r->colsum); }

#endif
