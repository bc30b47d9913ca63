/* Attention of query rows over the rows of a key-value store, one KV head a call.
 *
 * Keys are named by *slots*. A slot is row (slot % page_rows) of page (slot / page_rows); a contiguous store is one big
 * page. What a query row sees is an ordered list of slots: two intervals and an explicit list, in this order. The index
 * in that list is the key's *rank*.
 *
 * A store that keeps some rows plain and some quantised is a list of *pieces*, through which its slots count. Codes
 * become values a block at a time, in scratch; results are those of plain f32 rows with the same values, bit by bit.
 *
 * Determinism: ranks are taken in blocks of SLK_ATTEND_BLOCK with a running softmax, and SLK_ATTEND_SEGMENT ranks make
 * a part with a softmax of its own; parts are joined in order. So, within one instruction set and dtype, o and lse of a
 * row depend on its ordered list of keys and values only: not on slots, pages, intervals against lists, other rows of
 * the call, the group size, or which worker computed which part.
 */
#ifndef SLUICE_KERNELS_ATTEND_H
#define SLUICE_KERNELS_ATTEND_H

#include "sluice/sl.h"

enum { SLK_ATTEND_BLOCK = 32, SLK_ATTEND_SEGMENT = 1024 };

/* How the codes of quantised rows become values: scale * (code - zero), or scale * code + zero. Scales and zeros of a
 * page are parallel to its codes. Codes of a row are unsigned and packed along its channels, lowest bits first. */
typedef struct slk_quant {
    const void *const *scale_pages, *const *zero_pages; /* zero_pages NULL: zero = 2^(bits - 1) */
    int64_t scale_ld;     /* bytes from row to row, or from group of rows to group of rows */
    int64_t first;        /* channel 0 of this head among the channels that a row of scales covers */
    int32_t group;        /* channels, or rows, that share a scale */
    uint32_t bits;        /* 1, 2, 4, 8 */
    uint32_t scale_dtype; /* SL_F32, SL_F16, SL_BF16 */
    uint32_t per_channel; /* 1: scales of row r stand at r / group, one a channel; 0: at r, one a group of channels */
    uint32_t zero_is_min; /* 1: value = scale * code + zero */
} slk_quant;

/* Rows of K or V of one head. */
typedef struct slk_paged {
    const void *const *pages; /* base address of each page */
    int64_t offset;           /* elements from a page's base to row 0 of this head; of codes: bytes */
    int64_t ld;               /* elements between rows of a page; of codes: bytes */
    uint32_t dtype;           /* SL_F32, SL_F16, SL_BF16; rows aligned to their element; SL_U8: codes */
    const slk_quant *quant;   /* of codes; else NULL */
} slk_paged;

/* Slots [begin, end) of a store that keeps its rows in several forms: slot begin is row 0 of page 0. */
typedef struct slk_piece {
    int64_t begin, end;
    int64_t page_rows;
    slk_paged k, v;
} slk_piece;

/* Slots that one query row sees: [lo[0], hi[0]), then [lo[1], hi[1]), then slots[0..n_slots). Empty intervals: hi <=
 * lo. */
typedef struct slk_visible {
    int32_t lo[2], hi[2];
    const int32_t *slots;
    int64_t n_slots;
} slk_visible;

typedef struct slk_attend {
    const float *q; /* query r, head g of the group: q + r * q_row + g * q_head, d_k elements */
    int64_t q_row, q_head;
    float *o; /* the same way, d_v elements; zeros for a row that sees nothing */
    int64_t o_row, o_head;
    float *lse; /* log(sum(exp(scaled scores))) at r * lse_row + g, -inf for a row that sees nothing; or NULL */
    int64_t lse_row;
    slk_paged k, v;          /* v may name the same rows as k */
    int64_t page_rows;       /* > 0 */
    const slk_piece *pieces; /* [n_pieces] ascending, without gaps from slot 0 on; instead of k, v and page_rows */
    int64_t n_pieces;        /* 0: k, v and page_rows */
    const slk_visible *rows; /* [n_rows] */
    int64_t n_rows;
    int64_t group; /* query heads that share this KV head */
    int64_t d_k, d_v;
    float scale;   /* scores = scale * q.k */
    float *scores; /* raw scaled scores of rank i at r * scores_row + g * scores_head + i; or NULL */
    int64_t scores_row, scores_head;
    float *prob_sum; /* prob_sum[slot] += softmax probability, over all rows and heads of the call; needs scores; or
                        NULL */
    float *parts;    /* not NULL: write parts instead of o, lse and prob_sum, see below */
    int64_t first_part, n_parts;
    void *scratch; /* slk_attend_scratch_bytes(), aligned to 64; for this call alone */
} slk_attend;

/* Bytes of scratch for a call with this group and head sizes, any number of rows. */
int64_t slk_attend_scratch_bytes(int64_t group, int64_t d_k, int64_t d_v);

/* Number of keys a row sees, and of parts it makes. */
static inline int64_t slk_visible_count(const slk_visible *v) {
    const int64_t a = (int64_t)v->hi[0] - v->lo[0], b = (int64_t)v->hi[1] - v->lo[1];
    return (a > 0 ? a : 0) + (b > 0 ? b : 0) + v->n_slots;
}
static inline int64_t slk_attend_parts(int64_t n_keys) {
    return (n_keys + SLK_ATTEND_SEGMENT - 1) / SLK_ATTEND_SEGMENT;
}

/* All rows of the call. With `parts`: only parts [first_part, first_part + n_parts) of each row, so that workers can
 * share a long row. Part p of (r, g) goes to parts + ((r * group + g) * n_parts + p - first_part) * (2 + d_v): the
 * largest score, the sum of exponentials and the weighted sum of values; -inf, 0 and zeros where the row has no such
 * part.  [worker] */
typedef void (*slk_attend_fn)(const slk_attend *p);

/* Joins n parts, ascending from part 0 and one behind the other, into o [d_v] and *lse (or NULL). Bit-equal to
 * computing the row in one call.  [worker] */
typedef void (*slk_attend_join_fn)(const float *parts, int64_t n, int64_t d_v, float *o, float *lse);

/* (o_a, lse_a) of one set of keys and (o_b, lse_b) of another -> that of the union, into o_a and lse_a; n rows of d.
 * lse of -inf: an empty set.  [worker] */
typedef void (*slk_lse_merge_fn)(float *o_a, float *lse_a, const float *o_b, const float *lse_b, int64_t n, int64_t d);

#endif
