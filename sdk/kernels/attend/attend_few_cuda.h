/* Attention of few query rows a sequence - decode, verify trees, gather lists, quantised rows - over sl_view_device,
 * and the same kernel over many rows where results must not depend on their number.
 *
 * Keys are ranked: committed keys (or those of the list) in order, then the step's rows. 64 ranks make a tile, tiles
 * make splits; a split has a softmax of its own and the splits of a row are summed in order. Split sizes depend on the
 * rank alone (a 16th to a 32nd of it, so that blocks can share the work evenly at any length), not on lengths or on how
 * many blocks there are. In fast mode sizes follow the lengths. Row maxima are rounded up to whole powers of two, so
 * that every rescaling is exact: who joins splits, and when, changes no bit. A row of a tree meets its ancestors at the
 * ranks that they will have when it is accepted: it is bit-equal to the decode step that it stands for.
 *
 * In fast mode trees and chunks of more than 32 rows x heads of a group go through a kernel of their own where there is
 * one (Hopper, D 72 to 128, bf16 rows, no window): attend_packed.cu reads keys once for 128 rows of the matrix. In
 * deterministic mode attend_tall.cu does so, in the order of sums of this kernel, where there is room for all splits.
 */
#ifndef SLUICE_KERNELS_ATTEND_FEW_CUDA_H
#define SLUICE_KERNELS_ATTEND_FEW_CUDA_H

#include <stdint.h>

enum { SLK_FEW_TILE = 64, SLK_FEW_MAX_SPLITS = 1024 };
enum { SLK_SIDE_BF16 = 0, SLK_SIDE_F16 = 1, SLK_SIDE_F32 = 2, SLK_SIDE_CODES = 3 };

/* K or V rows: fields as in sl_view_device, strides in bytes. */
typedef struct slk_side_device {
    const char *pool, *scale, *zero;
    int64_t page_stride, row_stride, head_stride, scale_page_stride, scale_stride;
    int32_t kind, bits, group, per_channel;
    int32_t group_shift;    /* log2 of group; -1: no power of two */
    int32_t row_bytes, raw; /* codes of a head's row; what they take in shared memory, 0: they do not go there */
    int32_t piece;          /* bytes that rows may be copied by: 16, 8, 4 or 1 */
    int32_t zero_is_min, pad;
} slk_side_device;

typedef struct slk_attend_few_params {
    const void *q; /* bf16 */
    void *o;       /* bf16, or f32 with o_f32 */
    float *lse, *scores;
    const float *row_scale;
    int64_t q_row, q_head, o_row, o_head; /* elements */
    int64_t score_stride, window;
    int64_t sinks, window_chunk; /* of sl_mask */
    const int64_t *head_places;  /* heads of sl_view_device */
    /* the step */
    const int32_t *n_seqs, *seq, *row_begin, *n_past, *is_tree, *row_seq;
    const uint32_t *ancestors;
    /* the view */
    const int32_t *pages, *n_rows, *list, *list_n;
    int64_t pages_stride, pages_head_stride, n_rows_stride, n_rows_head_stride, list_stride;
    slk_side_device k, v;
    /* Slots that are not coded (sl_view_device.plain); n_coded NULL: k and v hold everything. */
    const int32_t *plain_pages, *n_coded;
    int64_t plain_pages_stride, plain_pages_head_stride;
    slk_side_device plain_k, plain_v;
    /* Results of splits: [rows, H, max_splits, D] and [rows, H, max_splits] {maximum, sum}. */
    float *part_o, *part_ml;
    /* Column sums (a kernel of their own). */
    float *colsum;
    const float *colsum_weight;
    float scale, softcap;
    int32_t page_shift, heads, kv_heads, group;
    int32_t n_groups, per_row;
    int32_t row_block, row_blocks; /* rows of a sequence that a block takes; blocks along a sequence's rows */
    int32_t shares;                /* blocks that share a row's keys */
    int32_t max_splits;
    int32_t uniform; /* 1: a split a share, sizes follow the lengths */
    int32_t masked;  /* 1: rows of a tree meet all rows of the step, and skip those that they do not see */
    int32_t tails;   /* 1: the launch for what rows of trees see from the split on in which the committed keys end */
    int32_t o_f32;
    int32_t colsum_apart, colsum_per_row;
    int32_t head_dim, window_first;
    int32_t cluster; /* of the packed kernel: blocks that join their shares, max_splits clusters a row; else 0 */
    int32_t early;   /* 1: tiles of committed keys are fetched while the kernel in front still runs */
} slk_attend_few_params;

/* The packed kernel, attend_packed.cu: rows of its matrix a block, keys a tile; 32 KiB of queries, three stages of keys
 * and values, barriers. */
enum { SLK_PACKED_ROWS = 128, SLK_PACKED_KEYS = 128 };
#define SLK_PACKED_SHARED (224 * 1024 + 128)

/* The tall kernel, attend_tall.cu: four stages of keys and values, queries. */
enum { SLK_TALL_ROWS = 128 };
#define SLK_TALL_SHARED (160 * 1024)

#define SLK_ATTEND_FEW_KERNELS(X)                                                                                      \
    X(attend_few_64_1, slk_attend_few_params, 74 * 1024, 1, attend_few)                                                \
    X(attend_few_64_4, slk_attend_few_params, 120 * 1024, 1, attend_few)                                               \
    X(attend_few_128_1, slk_attend_few_params, 108 * 1024, 1, attend_few)                                              \
    X(attend_few_128_2, slk_attend_few_params, 136 * 1024, 1, attend_few)                                              \
    X(attend_few_256_1, slk_attend_few_params, 224 * 1024, 1, attend_few)                                              \
    X(attend_few_256_2, slk_attend_few_params, 192 * 1024, 1, attend_few)                                              \
    X(attend_few_any_64_1, slk_attend_few_params, 58 * 1024, 1, attend_few_any)                                        \
    X(attend_few_any_64_4, slk_attend_few_params, 104 * 1024, 1, attend_few_any)                                       \
    X(attend_few_any_128_1, slk_attend_few_params, 108 * 1024, 1, attend_few_any)                                      \
    X(attend_few_any_128_2, slk_attend_few_params, 140 * 1024, 1, attend_few_any)                                      \
    X(attend_few_any_256_1, slk_attend_few_params, 192 * 1024, 1, attend_few_any)                                      \
    X(attend_few_any_256_2, slk_attend_few_params, 192 * 1024, 1, attend_few_any)                                      \
    X(attend_packed_128, slk_attend_few_params, SLK_PACKED_SHARED, 8, attend_packed)                                   \
    X(attend_tall_128, slk_attend_few_params, SLK_TALL_SHARED, 1, attend_tall)                                         \
    X(attend_few_join, slk_attend_few_params, 0, 1, attend_join)                                                       \
    X(attend_few_colsum, slk_attend_few_params, 0, 1, attend_join)

/* Splits by tile; host and device. Sizes in tiles: 2 up to tile 64, 4 up to 128, twice as large each time that the rank
 * has doubled. */
#ifdef __CUDACC__
#define SLK_FEW_FN __host__ __device__ __forceinline__
#else
#define SLK_FEW_FN static inline
#endif
SLK_FEW_FN int32_t slk_few_split_of(int32_t tile) {
    int32_t split = 32, begin = 64, size = 4;
    if (tile < 64)
        return tile / 2;
    for (; tile >= 2 * begin; begin *= 2, size *= 2)
        split += 16;
    return split + (tile - begin) / size;
}
SLK_FEW_FN int32_t slk_few_split_begin(int32_t tile) {
    int32_t size = 2, begin = 32;
    for (; tile >= 2 * begin; begin *= 2)
        size *= 2;
    return tile / size * size;
}
/* First tile of the split behind the one that tile is in. */
SLK_FEW_FN int32_t slk_few_split_end(int32_t tile) {
    int32_t size = 2, begin = 32;
    for (; tile >= 2 * begin; begin *= 2)
        size *= 2;
    return tile / size * size + size;
}

#ifndef __CUDACC__
#include "sluice/kv.h"
struct slk_cuda;

/* Bytes of workspace for calls up to these bounds; it need not be cleared, and holds nothing between calls. */
int64_t slk_cuda_attend_few_workspace(int64_t max_rows, int64_t max_context, int64_t heads, int64_t head_dim);

/* Attention over a->view->device. q bf16, o bf16 or f32; D = Dv a multiple of 8, at most 256. Where the workspace is
 * too small for splits, one block walks through all keys of a row. SL_E_UNIMPLEMENTED: intervals, spans, a full base,
 * head masks, an index of rows, other head sizes, codes whose groups are no multiple of 8 channels. SL_E_INVALID: q or
 * rows that are not aligned to 16 bytes. Sinks and heads in places of their own: with rows of bf16, without scores,
 * column sums and lists. */
sl_status slk_cuda_attend_few(const struct slk_cuda *k, const sl_lane *lane, const sl_attend *a, void *workspace,
                              int64_t workspace_bytes);
/* Column sums alone (a->colsum), from a->lse that another kernel left. */
sl_status slk_cuda_attend_colsum(const struct slk_cuda *k, const sl_lane *lane, const sl_attend *a);
#endif

#endif
