/* A tensor of seeded values: y[i] = random_value(seed, i) * amplitude (random_value.h), rounded to nearest even. */
#ifndef SLUICE_KERNELS_RANDOM_CUDA_H
#define SLUICE_KERNELS_RANDOM_CUDA_H

#include <stdint.h>

typedef struct slk_random_params {
    void *y; /* [n] of the kernel's dtype, aligned to 16 bytes */
    int64_t n;
    uint64_t seed;
    float amplitude;
    uint32_t reserved0;
} slk_random_params;

#define SLK_RANDOM_KERNELS(X)                                                                                          \
    X(random_fill_f32, slk_random_params, 0, 1, random)                                                                \
    X(random_fill_f16, slk_random_params, 0, 1, random)                                                                \
    X(random_fill_bf16, slk_random_params, 0, 1, random)

#ifndef __CUDACC__
#include "sluice/exec.h"
struct slk_cuda;
/* SL_E_UNIMPLEMENTED: another dtype. */
sl_status slk_cuda_random(const struct slk_cuda *k, const sl_lane *lane, const slk_random_params *p, sl_dtype dtype);
#endif

#endif
