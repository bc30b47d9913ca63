/* Seeded values that host and device agree on: element i of a tensor, uniform in [-1, 1), by splitmix64. */
#ifndef SLUICE_KERNELS_RANDOM_VALUE_H
#define SLUICE_KERNELS_RANDOM_VALUE_H

#include <stdint.h>

#ifdef __CUDACC__
#define SLK_BOTH __host__ __device__ __forceinline__
#else
#define SLK_BOTH static inline
#endif

SLK_BOTH float slk_random_value(uint64_t seed, uint64_t i) {
    uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return (float)(int32_t)(z >> 40) * (1.0f / 8388608.0f) - 1.0f;
}

#endif
