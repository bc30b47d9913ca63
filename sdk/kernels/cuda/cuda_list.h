/* All shared device images and kernels, one line an operation. */
#ifndef SLUICE_KERNELS_CUDA_LIST_H
#define SLUICE_KERNELS_CUDA_LIST_H

#include "attend_few_cuda.h"
#include "gather_cuda.h"
#include "lse_merge_cuda.h"

/* X(image, architecture): 0 portable, 900 for compute capability 9.0 alone. Names are those of the build (meson.build).
 */
#define SLK_CUDA_IMAGES(X)                                                                                             \
    X(attend_few, 0)                                                                                                   \
    X(attend_few_any, 0)                                                                                               \
    X(attend_join, 0)                                                                                                  \
    X(gather, 0)                                                                                                       \
    X(lse_merge, 0)

#define SLK_CUDA_KERNELS(X)                                                                                            \
    SLK_ATTEND_FEW_KERNELS(X)                                                                                          \
    SLK_GATHER_KERNELS(X)                                                                                              \
    SLK_LSE_MERGE_KERNELS(X)

#endif
