/* All shared device images and kernels, one line an operation. */
#ifndef SLUICE_KERNELS_CUDA_LIST_H
#define SLUICE_KERNELS_CUDA_LIST_H

#include "gather_cuda.h"
#include "pick_cuda.h"

/* X(image, architecture): 0 portable, 900 for compute capability 9.0 alone. Names are those of the build (meson.build). */
#define SLK_CUDA_IMAGES(X)                                                                                             \
    X(gather, 0)                                                                                                       \
    X(pick, 0)

#define SLK_CUDA_KERNELS(X)                                                                                            \
    SLK_GATHER_KERNELS(X)                                                                                              \
    SLK_PICK_KERNELS(X)

#endif
