/* The activations of a gated block (SL_ACT_*). */
#ifndef SLUICE_KERNELS_LINEAR_ACT_CUH
#define SLUICE_KERNELS_LINEAR_ACT_CUH

#include "device.cuh"

namespace slk {

__device__ __forceinline__ float activate(uint32_t act, float x) {
    if (act == 0) /* silu */
        return x / (1.0f + __expf(-x));
    if (act == 2) /* relu */
        return fmaxf(x, 0.0f);
    if (act == 3) /* gelu */
        return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    /* (1 + tanh u) / 2 = 1 / (1 + exp(-2 u)) */
    return x / (1.0f + __expf(-1.5957691216057308f * (x + 0.044715f * x * x * x)));
}

} // namespace slk

#endif
