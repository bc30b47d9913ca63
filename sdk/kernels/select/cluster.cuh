/* Blocks of one cluster working on one row: rank, barrier, each other's shared memory. Where there are no clusters
 * (before compute capability 9.0) a cluster is one block. */
#ifndef SLUICE_KERNELS_CLUSTER_CUH
#define SLUICE_KERNELS_CLUSTER_CUH

#include "device.cuh"

namespace slk {

__device__ __forceinline__ uint32_t cluster_rank() {
    uint32_t rank = 0;
#if __CUDA_ARCH__ >= 900
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
    return rank;
}
__device__ __forceinline__ uint32_t cluster_size() {
    uint32_t size = 1;
#if __CUDA_ARCH__ >= 900
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
#endif
    return size;
}
/* A barrier of all threads of the cluster; what was written before it, also into others' shared memory, is seen behind.
 */
__device__ __forceinline__ void cluster_sync() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
#else
    __syncthreads();
#endif
}
/* The same shared variable of another block. */
template <typename T> __device__ __forceinline__ T *of_rank(T *p, uint32_t rank) {
#if __CUDA_ARCH__ >= 900
    uint64_t out;
    asm volatile("mapa.u64 %0, %1, %2;" : "=l"(out) : "l"(reinterpret_cast<uint64_t>(p)), "r"(rank));
    return reinterpret_cast<T *>(out);
#else
    return p;
#endif
}

} // namespace slk

#endif
