/* See random_cuda.h. Eight values a thread and turn, 16-byte stores. Two 64-bit products and three shifts a value are
 * about 30 integer operations: predicted 10 to 13 ms for 15 GB of bf16 on an H200, where the bytes alone need 4. */
#include "random_cuda.h"
#include "vec4.cuh"

namespace {

/* slk_random_value without its conversion, which runs at a quarter of the rate: of the 24 bits x, 1.m - 1 or 1.m - 2 is
 * x / 2^23 - 1, exactly. */
__device__ __forceinline__ float value(uint64_t seed, uint64_t i) {
    uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    const uint32_t x = (uint32_t)(z >> 40);
    return __uint_as_float(0x3f800000u | (x & 0x7fffffu)) - (x >> 23 ? 1.0f : 2.0f);
}

template <typename T> __device__ __forceinline__ void fill(const slk_random_params &p) {
    slk::wait_for_predecessor();
    T *y = static_cast<T *>(p.y);
    const int64_t step = 8 * (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = 8 * ((int64_t)blockIdx.x * blockDim.x + threadIdx.x); i < p.n; i += step) {
        slk::f4 v[2];
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k / 4].v[k % 4] = value(p.seed, i + k) * p.amplitude;
        if (i + 8 <= p.n) {
            slk::store4(y + i, v[0]);
            slk::store4(y + i + 4, v[1]);
        } else {
#pragma unroll
            for (int k = 0; k < 8; k++)
                if (i + k < p.n)
                    y[i + k] = slk::from_float<T>(v[k / 4].v[k % 4]);
        }
    }
}

} // namespace

SLK_KERNEL slk_random_fill_f32(const __grid_constant__ slk_random_params p) { fill<float>(p); }
SLK_KERNEL slk_random_fill_f16(const __grid_constant__ slk_random_params p) { fill<__half>(p); }
SLK_KERNEL slk_random_fill_bf16(const __grid_constant__ slk_random_params p) { fill<slk::bf16>(p); }
