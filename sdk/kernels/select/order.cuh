/* Floats in the order of the selections as integers: larger value first, then lower id; NaN counts as -inf and -0 as 0.
 * Integers throughout: float comparisons would flush subnormal numbers here. */
#ifndef SLUICE_KERNELS_ORDER_CUH
#define SLUICE_KERNELS_ORDER_CUH

#include "device.cuh"

namespace slk {

__device__ __forceinline__ uint32_t ordered(float x) {
    uint32_t b = __float_as_uint(x);
    if ((b & 0x7fffffffu) > 0x7f800000u)
        b = 0xff800000u;
    if (b << 1 == 0)
        b = 0;
    return b >> 31 ? ~b : b | 0x80000000u;
}
__device__ __forceinline__ float of_ordered(uint32_t key) {
    return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}
/* Unique in a row; the best is the largest, and none is 0. */
__device__ __forceinline__ uint64_t ranked(uint32_t key, uint32_t id) { return (uint64_t)key << 32 | ~id; }

} // namespace slk

#endif
