/* Plain rows coded in place of their sequences (sl_op_quantise), bit by bit as sl_minmax.h does it. */
#ifndef SLUICE_KERNELS_QUANTISE_CUDA_H
#define SLUICE_KERNELS_QUANTISE_CUDA_H

#include <stdint.h>

enum { SLK_QUANTISE_LAYERS = 32 }; /* of one launch */

/* Keys or values: of the plain rows, and of the codes. Strides in bytes. */
typedef struct slk_quantise_side {
    int64_t plain_page, plain_row, plain_head;
    int64_t page, row, head;
    int64_t scale_page, scale_group; /* to the next group (keys), to the next row (values) */
    int32_t dim, bits, group;
    int32_t pad;
} slk_quantise_side;

typedef struct slk_quantise_layer {
    const char *plain[2]; /* keys, values: page 0 */
    char *codes[2], *scale[2], *zero[2];
} slk_quantise_layer;

typedef struct slk_quantise_params {
    const int32_t *seq, *begin, *end, *side; /* [n_jobs] */
    const int32_t *pages, *plain_pages;
    int64_t pages_stride, plain_pages_stride; /* of sequences */
    slk_quantise_side of[2];
    int32_t n_jobs, heads, n_layers;
    int32_t page_rows, page_shift; /* shift: set by the launcher */
    int32_t pad;
    slk_quantise_layer layer[SLK_QUANTISE_LAYERS]; /* of equal geometry */
} slk_quantise_params;

#define SLK_QUANTISE_KERNELS(X)                                                                                        \
    X(quantise_bf16, slk_quantise_params, 0, 1, quantise)                                                              \
    X(quantise_f16, slk_quantise_params, 0, 1, quantise)                                                               \
    X(quantise_f32, slk_quantise_params, 0, 1, quantise)

#ifndef __CUDACC__
#include "sluice/exec.h"
struct slk_cuda;
/* layers: [n_layers], in as many launches as they need; p->layer is not read. dtype: of the plain rows. bits[side] 0:
 * no job has that side. SL_E_INVALID: heads whose channels are no multiple of 32, groups that are none or do not
 * divide, or rows of codes that are not aligned to 4 bytes. SL_E_UNIMPLEMENTED: other dtypes; bits beside 2, 4, 8. */
sl_status slk_cuda_quantise(const struct slk_cuda *k, const sl_lane *lane, const slk_quantise_params *p,
                            const slk_quantise_layer *layers, int32_t n_layers, sl_dtype dtype);
#endif

#endif
