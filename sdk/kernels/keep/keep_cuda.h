/* Rows that stay, gathered to the front of their heads (sl_op_keep): pages and slots are those of sl_view_device. */
#ifndef SLUICE_KERNELS_KEEP_CUDA_H
#define SLUICE_KERNELS_KEEP_CUDA_H

#include <stdint.h>

enum { SLK_KEEP_THREADS = 256, SLK_KEEP_ITEMS = 8 }; /* words that a thread holds at a time */

typedef struct slk_keep_params {
    char *k_pool, *v_pool;
    const int32_t *pages;             /* of the sequence */
    const int32_t *keep_begin, *keep; /* [heads + 1], slots of each head, ascending */
    int64_t pages_head_stride;
    int64_t k_page_stride, k_row_stride, k_head_stride, v_page_stride, v_row_stride, v_head_stride; /* bytes */
    int32_t k_bytes, v_bytes;      /* of one head's row; multiples of 4 */
    int32_t page_rows, page_shift; /* shift: set by the launcher */
} slk_keep_params;

#define SLK_KEEP_KERNELS(X)                                                                                            \
    X(keep_rows_4, slk_keep_params, 0, 1, keep)                                                                        \
    X(keep_rows_16, slk_keep_params, 0, 1, keep)

#ifndef __CUDACC__
#include "sluice/exec.h"
struct slk_cuda;
/* SL_E_INVALID: rows that are not aligned to 4 bytes, or pages that are no power of two; SL_E_UNIMPLEMENTED: rows of
 * more than 8 KiB. */
sl_status slk_cuda_keep(const struct slk_cuda *k, const sl_lane *lane, const slk_keep_params *p, int32_t heads);
#endif

#endif
