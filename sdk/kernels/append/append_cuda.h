/* The rows of a step on their way into a store of plain rows: norms of q and k, RoPE, maps of a head's width, then k
 * and v into their slots (sl_op_append). q and k are changed in place. Slots and pages are those of sl_view_device.
 *
 * The step's arrays and the page tables are read before the kernel in front has ended: they are written by copies (as
 * the engine and the stores do), never by kernels of the same step. Row counts (n_rows), q, k and v may come from
 * kernels.
 */
#ifndef SLUICE_KERNELS_APPEND_CUDA_H
#define SLUICE_KERNELS_APPEND_CUDA_H

#include <stdint.h>

enum { SLK_APPEND_MAX_DIM = 256, SLK_APPEND_MAX_MAPS = 4 };
enum { SLK_APPEND_ON_Q = 1, SLK_APPEND_ON_K = 2, SLK_APPEND_INVERSE = 4 };

typedef struct slk_append_map {
    const float *a;     /* DIAGONAL [n], DENSE [n, n]; device memory */
    const float *signs; /* HADAMARD [n] or NULL */
    int32_t n;          /* divides the head */
    uint32_t kind;      /* SL_MAP_DIAGONAL, SL_MAP_HADAMARD (n a power of two), SL_MAP_DENSE */
    uint32_t flags;     /* SLK_APPEND_* */
    uint32_t reserved0;
} slk_append_map;

typedef struct slk_append_params {
    void *q;                                             /* bf16 [rows, heads, k_dim]; NULL with heads = 0 */
    void *k;                                             /* bf16 [rows, kv_heads, k_dim] */
    const void *v;                                       /* bf16 [rows, kv_heads, v_dim] */
    int64_t ldq, ldq_head, ldk, ldk_head, ldv, ldv_head; /* elements */
    const float *q_norm, *k_norm;                        /* [k_dim] or NULL */
    const float *cos, *sin;                              /* [n_positions, rope_dims / 2] */
    /* the step (sl_step_device) */
    const int32_t *n_active; /* [1] rows of this layer, or NULL */
    const int32_t *row_seq, *seq, *row_begin, *n_past, *token_index;
    const float *position;
    /* the store (sl_view_device) */
    char *k_pool, *v_pool;
    const int32_t *pages, *n_rows;
    const int64_t *head_places; /* heads of sl_view_device; NULL: by the strides */
    int64_t pages_stride, pages_head_stride, n_rows_stride, n_rows_head_stride;
    int64_t k_page_stride, k_row_stride, k_head_stride, v_page_stride, v_row_stride, v_head_stride; /* bytes */
    int32_t heads, kv_heads, k_dim, v_dim; /* dims: multiples of 4 */
    int32_t rope_dims;                     /* a multiple of 4; 0: no RoPE */
    int32_t n_positions;
    int32_t page_rows; /* a power of two; the launcher turns it into page_shift */
    int32_t page_shift;
    uint32_t interleaved, overwrite;
    float eps;
    int32_t n_maps;
    slk_append_map map[SLK_APPEND_MAX_MAPS];
} slk_append_params;

/* By dtype of the store. */
#define SLK_APPEND_KERNELS(X)                                                                                          \
    X(append_f32, slk_append_params, 0, 1, append)                                                                     \
    X(append_f16, slk_append_params, 0, 1, append)                                                                     \
    X(append_bf16, slk_append_params, 0, 1, append)

#ifndef __CUDACC__
#include "sluice/exec.h"
struct slk_cuda;
/* SL_E_UNIMPLEMENTED: a head wider than SLK_APPEND_MAX_DIM, dims that are no multiples of 4, another dtype or map.
 * SL_E_INVALID: rows that are not aligned to 8 bytes (f32 stores: pools too). */
sl_status slk_cuda_append(const struct slk_cuda *k, const sl_lane *lane, const slk_append_params *p, int64_t rows,
                          sl_dtype store_dtype);
#endif

#endif
