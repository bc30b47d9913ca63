/* Causal attention of many new rows over paged rows: prompts. Tensor cores, f32 sums; q, k, v and o are bf16.
 *
 * Row i of a sequence sits in slot n + i (n: committed rows) and sees slots [max(0, n + i - window + 1), n + i], or
 * where sl_mask says a window begins, and sinks. Tiles between those are passed over, pages and all. Its sums run over
 * tiles of 64 (portable) or 128 (Hopper) slots counted from slot 0, so a row's result depends on its keys alone.
 */
#ifndef SLUICE_KERNELS_ATTEND_PREFILL_CUDA_H
#define SLUICE_KERNELS_ATTEND_PREFILL_CUDA_H

#include <stdint.h>

typedef struct slk_attend_prefill_params {
    const uint16_t *q; /* [n, H, D] */
    uint16_t *o;       /* [n, H, D] */
    float *lse;        /* [n, H] natural log, or NULL */
    const char *k_pool, *v_pool;
    const int32_t *pages;                             /* by sequence id */
    const int32_t *n_rows;                            /* committed rows by sequence id and head; NULL: n_past */
    const int32_t *n_seqs, *seq, *row_begin, *n_past; /* of the step, by place */
    int64_t q_row, q_head, o_row, o_head;             /* elements */
    int64_t pages_stride, pages_head_stride, n_rows_stride, n_rows_head_stride;
    int64_t k_page, k_row, k_head, v_page, v_row, v_head; /* bytes */
    float scale, softcap;                                 /* softcap 0: none */
    int32_t window;                                       /* 0: none */
    int32_t heads, group;                                 /* query heads; those of one KV head */
    int32_t page_shift;
    int32_t tiles;       /* bound: tiles of query rows of one sequence */
    int32_t heads_round; /* heads that run beside one another, so that their keys stay in the L2 */
    int32_t sinks, window_chunk, window_first; /* of sl_mask */
    const int64_t *head_places;                /* heads of sl_view_device */
} slk_attend_prefill_params;

/* Dynamic shared bytes. Portable: 128 query rows (64 for D 256), two stages of 64 keys and values. Hopper: 128 query
 * rows, two stages of 128 keys and values, barriers. */
#define SLK_PREFILL_PITCH(d) ((d) == 64 ? 128 : (d) <= 128 ? 256 : 512)
#define SLK_PREFILL_QUERIES(d) ((d) == 256 ? 64 : 128)
#define SLK_PREFILL_SHARED(d) ((SLK_PREFILL_QUERIES(d) + 256) * SLK_PREFILL_PITCH(d))

#define SLK_PREFILL_HOPPER_SHARED (128 * 256 + 4 * 128 * 256 + 64)

#define SLK_ATTEND_PREFILL_KERNELS(X)                                                                                  \
    X(attend_prefill_64, slk_attend_prefill_params, SLK_PREFILL_SHARED(64), 1, attend_prefill)                         \
    X(attend_prefill_96, slk_attend_prefill_params, SLK_PREFILL_SHARED(96), 1, attend_prefill)                         \
    X(attend_prefill_128, slk_attend_prefill_params, SLK_PREFILL_SHARED(128), 1, attend_prefill)                       \
    X(attend_prefill_256, slk_attend_prefill_params, SLK_PREFILL_SHARED(256), 1, attend_prefill)                       \
    X(attend_prefill_hopper_128, slk_attend_prefill_params, SLK_PREFILL_HOPPER_SHARED, 1, attend_prefill_hopper)

#ifndef __CUDACC__
#include "sluice/kv.h"
struct slk_cuda;
/* The whole of an attention call on a device lane, or SL_E_UNIMPLEMENTED where it is none of this kernel's: trees,
 * chosen rows, quantised or f16 or f32 rows, scores, column sums, active rows other than the step's, masks that are not
 * causal, sizes other than 64, 96, 128, 256. Nothing was queued then. portable: never the Hopper kernel. */
sl_status slk_cuda_attend_prefill(const struct slk_cuda *k, const sl_attend *args, int portable);
#endif

#endif
