/* Rows of all layers moved inside of their sequences (sl_op_move): pages and slots are those of sl_view_device. */
#ifndef SLUICE_KERNELS_MOVE_CUDA_H
#define SLUICE_KERNELS_MOVE_CUDA_H

#include <stdint.h>

enum { SLK_MOVE_LAYERS = 64 }; /* of one launch */

typedef struct slk_move_layer {
    char *k_pool, *v_pool;
    const int32_t *pages;
    const int64_t *head_places; /* heads of sl_view_device; NULL: by the strides */
    const int32_t *n_rows;      /* with staged: committed rows by sequence and head */
} slk_move_layer;

typedef struct slk_move_params {
    const int32_t *n_moves;         /* [1] */
    const int32_t *seq, *from, *to; /* [max_moves] */
    int64_t pages_stride, pages_head_stride, n_rows_stride, n_rows_head_stride;
    int64_t k_page_stride, k_row_stride, k_head_stride, v_page_stride, v_row_stride, v_head_stride; /* bytes */
    int32_t heads;
    int32_t k_bytes, v_bytes;      /* of one head's row; multiples of 4 */
    int32_t page_rows, page_shift; /* shift: set by the launcher */
    int32_t max_moves;
    int32_t staged, pad;                   /* 1: from and to count from the first staged row of each head */
    slk_move_layer layer[SLK_MOVE_LAYERS]; /* of equal geometry */
} slk_move_params;

#define SLK_MOVE_KERNELS(X) X(move_rows, slk_move_params, 0, 1, move)

#ifndef __CUDACC__
#include "sluice/exec.h"
struct slk_cuda;
/* layers: [n_layers], in as many launches as they need; p->layer is not read. SL_E_INVALID: rows that are not aligned
 * to 4 bytes. */
sl_status slk_cuda_move(const struct slk_cuda *k, const sl_lane *lane, const slk_move_params *p,
                        const slk_move_layer *layers, int32_t n_layers);
#endif

#endif
