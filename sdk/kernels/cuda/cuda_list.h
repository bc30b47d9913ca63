/* All shared device images and kernels, one line an operation. */
#ifndef SLUICE_KERNELS_CUDA_LIST_H
#define SLUICE_KERNELS_CUDA_LIST_H

#include "act_cuda.h"
#include "append_cuda.h"
#include "attend_few_cuda.h"
#include "attend_prefill_cuda.h"
#include "embed_cuda.h"
#include "gather_cuda.h"
#include "keep_cuda.h"
#include "linear_cuda.h"
#include "lse_merge_cuda.h"
#include "move_cuda.h"
#include "norm_cuda.h"
#include "pick_cuda.h"
#include "quantise_cuda.h"
#include "random_cuda.h"
#include "rope_cuda.h"
#include "sample_cuda.h"
#include "select_cuda.h"

/* X(image, architecture): 0 portable, 900 for compute capability 9.0 alone. Names are those of the build (meson.build). */
#define SLK_CUDA_IMAGES(X)                                                                                             \
    X(gather, 0)                                                                                                       \
    X(act, 0)                                                                                                          \
    X(append, 0)                                                                                                       \
    X(embed, 0)                                                                                                        \
    X(keep, 0)                                                                                                         \
    X(move, 0)                                                                                                         \
    X(norm, 0)                                                                                                         \
    X(pick, 0)                                                                                                         \
    X(quantise, 0)                                                                                                     \
    X(random, 0)                                                                                                       \
    X(rope, 0)                                                                                                         \
    X(select, 0)                                                                                                       \
    X(linear, 0)                                                                                                       \
    X(qlinear, 0)                                                                                                      \
    X(qlinear_one, 0)                                                                                                  \
    X(linear_batch, 900)                                                                                               \
    X(linear_many, 0)                                                                                                  \
    X(attend_few, 0)                                                                                                   \
    X(attend_few_any, 0)                                                                                               \
    X(attend_tall, 0)                                                                                                  \
    X(attend_packed, 900)                                                                                              \
    X(attend_join, 0)                                                                                                  \
    X(lse_merge, 0)                                                                                                    \
    X(attend_prefill, 0)                                                                                               \
    X(attend_prefill_hopper, 900)                                                                                      \
    X(sample, 0)

#define SLK_CUDA_KERNELS(X)                                                                                            \
    SLK_GATHER_KERNELS(X)                                                                                              \
    SLK_ACT_MUL_KERNELS(X)                                                                                             \
    SLK_APPEND_KERNELS(X)                                                                                              \
    SLK_EMBED_KERNELS(X)                                                                                               \
    SLK_KEEP_KERNELS(X)                                                                                                \
    SLK_MOVE_KERNELS(X)                                                                                                \
    SLK_NORM_KERNELS(X)                                                                                                \
    SLK_PICK_KERNELS(X)                                                                                                \
    SLK_QUANTISE_KERNELS(X)                                                                                            \
    SLK_RANDOM_KERNELS(X)                                                                                              \
    SLK_ROPE_KERNELS(X)                                                                                                \
    SLK_SELECT_KERNELS(X)                                                                                              \
    SLK_LINEAR_KERNELS(X)                                                                                              \
    SLK_ATTEND_FEW_KERNELS(X)                                                                                          \
    SLK_LSE_MERGE_KERNELS(X)                                                                                           \
    SLK_ATTEND_PREFILL_KERNELS(X)                                                                                      \
    SLK_SAMPLE_KERNELS(X)

#endif
