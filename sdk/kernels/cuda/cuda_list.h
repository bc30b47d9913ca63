/* All shared device images and kernels, one line an operation. */
#ifndef SLUICE_KERNELS_CUDA_LIST_H
#define SLUICE_KERNELS_CUDA_LIST_H

#include "attend_prefill_cuda.h"
#include "gather_cuda.h"

/* X(image, architecture): 0 portable, 900 for compute capability 9.0 alone. Names are those of the build (meson.build). */
#define SLK_CUDA_IMAGES(X)                                                                                             \
    X(gather, 0)                                                                                                       \
    X(attend_prefill, 0)                                                                                               \
    X(attend_prefill_hopper, 900)

#define SLK_CUDA_KERNELS(X)                                                                                            \
    SLK_GATHER_KERNELS(X)                                                                                              \
    SLK_ATTEND_PREFILL_KERNELS(X)

#endif
