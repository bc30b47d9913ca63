/* The k best of long rows on the device, best first, as select.h has them. */
#ifndef SLUICE_KERNELS_SELECT_CUDA_H
#define SLUICE_KERNELS_SELECT_CUDA_H

#include <stdint.h>

enum {
    SLK_TOPK_MAX = 4096,    /* largest k */
    SLK_TOPK_CLUSTER = 8,   /* most blocks of a row */
    SLK_TOPK_CACHED = 28672 /* most elements of a block that are kept in shared memory */
};

typedef struct slk_topk_params {
    const float *x; /* [rows, n] */
    int32_t *id;    /* [rows, k] */
    float *value;   /* [rows, k] or NULL */
    int64_t stride; /* elements between rows of x */
    int32_t n, k;
    /* set by the launcher */
    int32_t chunk; /* elements a block, a multiple of 4 */
    uint32_t wide, cached;
    uint32_t reserved0;
} slk_topk_params;

#define SLK_SELECT_KERNELS(X)                                                                                          \
    X(argmax, slk_topk_params, 0, SLK_TOPK_CLUSTER, select)                                                            \
    X(topk, slk_topk_params, 4 * SLK_TOPK_CACHED, SLK_TOPK_CLUSTER, select)

#ifndef __CUDACC__
#include "sluice/exec.h"
struct slk_cuda;
/* SL_E_RANGE: not 1 <= k <= n; SL_E_UNIMPLEMENTED: k > SLK_TOPK_MAX. */
sl_status slk_cuda_topk(const struct slk_cuda *k, const sl_lane *lane, const slk_topk_params *p, int64_t rows);
#endif

#endif
