/* Attention of few query rows a sequence - decode, verify trees, gather lists, quantised rows - over sl_view_device,
 * and the same kernel over many rows where results must not depend on their number.
 *
 * Keys are ranked: committed keys (or those of the list) in order, then the step's rows. 64 ranks make a tile, tiles
 * make splits; a split has a softmax of its own and the splits of a row are summed in order. Split sizes depend on the
 * rank alone (they grow with it, so that a row has about 32 of the last size), not on lengths or on how many blocks
 * share the work. Row maxima are rounded up to whole powers of two, so that every rescaling is exact: who joins splits,
 * and when, changes no bit. A row of a tree meets its ancestors at the ranks that they will have when it is accepted:
 * it is bit-equal to the decode step that it stands for.
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
} slk_side_device;

typedef struct slk_attend_few_params {
    const void *q; /* bf16 */
    void *o;       /* bf16, or f32 with o_f32 */
    float *lse, *scores;
    const float *row_scale;
    int64_t q_row, q_head, o_row, o_head; /* elements */
    int64_t score_stride, window;
    /* the step */
    const int32_t *n_seqs, *seq, *row_begin, *n_past, *is_tree, *row_seq;
    const uint32_t *ancestors;
    /* the view */
    const int32_t *pages, *n_rows, *list, *list_n;
    int64_t pages_stride, pages_head_stride, n_rows_stride, n_rows_head_stride, list_stride;
    slk_side_device k, v;
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
    int32_t o_f32;
    int32_t colsum_apart, colsum_per_row;
    int32_t head_dim, pad;
} slk_attend_few_params;

#define SLK_ATTEND_FEW_KERNELS(X)                                                                                      \
    X(attend_few_64_1, slk_attend_few_params, 70 * 1024, 1, attend_few)                                                \
    X(attend_few_64_4, slk_attend_few_params, 82 * 1024, 1, attend_few)                                                \
    X(attend_few_96_1, slk_attend_few_params, 86 * 1024, 1, attend_few)                                                \
    X(attend_few_96_4, slk_attend_few_params, 126 * 1024, 1, attend_few)                                               \
    X(attend_few_128_1, slk_attend_few_params, 102 * 1024, 1, attend_few)                                              \
    X(attend_few_128_4, slk_attend_few_params, 152 * 1024, 1, attend_few)                                              \
    X(attend_few_256_1, slk_attend_few_params, 202 * 1024, 1, attend_few)                                              \
    X(attend_few_256_2, slk_attend_few_params, 212 * 1024, 1, attend_few)                                              \
    X(attend_few_any_64_1, slk_attend_few_params, 36 * 1024, 1, attend_few_any)                                        \
    X(attend_few_any_64_4, slk_attend_few_params, 48 * 1024, 1, attend_few_any)                                        \
    X(attend_few_any_96_1, slk_attend_few_params, 60 * 1024, 1, attend_few_any)                                        \
    X(attend_few_any_96_4, slk_attend_few_params, 74 * 1024, 1, attend_few_any)                                        \
    X(attend_few_any_128_1, slk_attend_few_params, 70 * 1024, 1, attend_few_any)                                       \
    X(attend_few_any_128_4, slk_attend_few_params, 88 * 1024, 1, attend_few_any)                                       \
    X(attend_few_any_256_1, slk_attend_few_params, 138 * 1024, 1, attend_few_any)                                      \
    X(attend_few_any_256_2, slk_attend_few_params, 148 * 1024, 1, attend_few_any)                                      \
    X(attend_few_join, slk_attend_few_params, 0, 1, attend_join)                                                       \
    X(attend_few_colsum, slk_attend_few_params, 0, 1, attend_join)

/* Splits of the first `tiles` tiles; host and device. Sizes in tiles: 4 up to tile 64, then twice as large each time
 * the rank is four times as large. */
#ifdef __CUDACC__
#define SLK_FEW_FN __host__ __device__ __forceinline__
#else
#define SLK_FEW_FN static inline
#endif
SLK_FEW_FN int32_t slk_few_split_of(int32_t tile) {
    int32_t split = 0, begin = 0, size = 4, end = 64;
    while (tile >= end && size < 1024) {
        split += (end - begin) / size;
        begin = end;
        end *= 4;
        size *= 2;
    }
    return split + (tile - begin) / size;
}
/* First tile of the split behind the one that tile is in. */
SLK_FEW_FN int32_t slk_few_split_end(int32_t tile) {
    int32_t begin = 0, size = 4, end = 64;
    while (tile >= end && size < 1024) {
        begin = end;
        end *= 4;
        size *= 2;
    }
    return tile - (tile - begin) % size + size;
}

#ifndef __CUDACC__
#include "sluice/kv.h"
struct slk_cuda;

/* Bytes of workspace for calls up to these bounds; it need not be cleared, and holds nothing between calls. */
int64_t slk_cuda_attend_few_workspace(int64_t max_rows, int64_t max_context, int64_t heads, int64_t head_dim);

/* Attention over a->view->device. q bf16, o bf16 or f32; D = Dv of 64, 96, 128, 256. Where the workspace is too small
 * for splits, one block walks through all keys of a row. SL_E_UNIMPLEMENTED: intervals, spans, a full base, head masks,
 * an index of rows, other head sizes, codes whose groups are no multiple of 8 channels. SL_E_INVALID: q or rows that
 * are not aligned to 16 bytes. */
sl_status slk_cuda_attend_few(const struct slk_cuda *k, const sl_lane *lane, const sl_attend *a, void *workspace,
                              int64_t workspace_bytes);
/* Column sums alone (a->colsum), from a->lse that another kernel left. */
sl_status slk_cuda_attend_colsum(const struct slk_cuda *k, const sl_lane *lane, const sl_attend *a);
#endif

#endif
