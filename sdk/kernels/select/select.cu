/* See select_cuda.h. A cluster of up to eight blocks a row, rows along y: one launch, no workspace.
 *
 * argmax: one pass. top-k: a radix selection finds the k-th best - digits of 11, 11 and 10 bits of the value, then of
 * the id where equal values must be cut; it stops as soon as the digits so far part exactly k from the rest. The
 * elements above are collected in the first block and sorted there. The row is read once where it fits into shared
 * memory. The result is exact, so it does not depend on how many blocks share a row.
 *
 * Predicted: argmax of 128256: 4 us (eight processors fetch 64 KB each); 4096 of 131072: 20 us, a third of it the sort.
 */
#include "cluster.cuh"
#include "order.cuh"
#include "select_cuda.h"

namespace {

enum { THREADS = 512, BINS = 2048 };

__device__ __forceinline__ uint64_t better(uint64_t a, uint64_t b) { return a > b ? a : b; }

__device__ __forceinline__ uint64_t warp_best(uint64_t x) {
#pragma unroll
    for (int i = 16; i > 0; i /= 2)
        x = better(x, __shfl_xor_sync(0xffffffffu, x, i));
    return x;
}

__device__ __forceinline__ int chunk_length(const slk_topk_params &p, int64_t begin) {
    const int64_t left = p.n - begin;
    return left <= 0 ? 0 : left < p.chunk ? (int)left : p.chunk;
}

/* Sum over the threads in front of this one. */
__device__ __forceinline__ uint32_t sum_before(uint32_t x, uint32_t *part) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t sum = x;
#pragma unroll
    for (int i = 1; i < 32; i *= 2) {
        const uint32_t other = __shfl_up_sync(0xffffffffu, sum, i);
        if (lane >= i)
            sum += other;
    }
    if (lane == 31)
        part[warp] = sum;
    __syncthreads();
    uint32_t before = 0;
    for (int w = 0; w < warp; w++)
        before += part[w];
    return before + sum - x;
}

} // namespace

SLK_KERNEL __launch_bounds__(THREADS) slk_argmax(const __grid_constant__ slk_topk_params p) {
    __shared__ uint64_t best[THREADS / 32], of_block;
    slk::let_successor_start();
    slk::wait_for_predecessor();
    const uint32_t rank = slk::cluster_rank(), size = slk::cluster_size();
    const int64_t begin = (int64_t)rank * p.chunk;
    const float *x = p.x + blockIdx.y * p.stride + begin;
    const int n = chunk_length(p, begin);
    uint64_t mine = 0;
    if (p.wide) {
#pragma unroll 8
        for (int i = 4 * threadIdx.x; i + 4 <= n; i += 4 * THREADS) {
            const float4 v = *reinterpret_cast<const float4 *>(x + i);
            const uint32_t id = (uint32_t)begin + i;
            mine = better(
                mine, better(better(slk::ranked(slk::ordered(v.x), id), slk::ranked(slk::ordered(v.y), id + 1)),
                             better(slk::ranked(slk::ordered(v.z), id + 2), slk::ranked(slk::ordered(v.w), id + 3))));
        }
    }
    for (int i = (p.wide ? n / 4 * 4 : 0) + threadIdx.x; i < n; i += THREADS)
        mine = better(mine, slk::ranked(slk::ordered(x[i]), (uint32_t)begin + i));
    mine = warp_best(mine);
    if (threadIdx.x % 32 == 0)
        best[threadIdx.x / 32] = mine;
    __syncthreads();
    if (threadIdx.x < 32) {
        mine = warp_best(threadIdx.x < THREADS / 32 ? best[threadIdx.x] : 0);
        if (threadIdx.x == 0)
            of_block = mine;
    }
    slk::cluster_sync();
    if (rank == 0 && threadIdx.x == 0) {
        for (uint32_t r = 1; r < size; r++)
            mine = better(mine, *slk::of_rank(&of_block, r));
        p.id[blockIdx.y] = (int32_t) ~(uint32_t)mine;
        if (p.value != nullptr)
            p.value[blockIdx.y] = slk::of_ordered((uint32_t)(mine >> 32));
    }
    slk::cluster_sync(); /* nobody leaves while his shared memory is read */
}

SLK_KERNEL __launch_bounds__(THREADS) slk_topk(const __grid_constant__ slk_topk_params p) {
    extern __shared__ __align__(16) uint32_t cache[]; /* [chunk] ordered values, where they fit */
    __shared__ uint32_t hist[BINS], part[THREADS / 32], found[3], n_selected;
    __shared__ uint64_t list[SLK_TOPK_MAX];
    slk::let_successor_start();
    slk::wait_for_predecessor();
    const uint32_t rank = slk::cluster_rank(), size = slk::cluster_size();
    const int64_t begin = (int64_t)rank * p.chunk;
    const float *x = p.x + blockIdx.y * p.stride + begin;
    const int n = chunk_length(p, begin);

    if (p.cached) {
        const int n4 = p.wide ? n / 4 * 4 : 0;
        for (int i = 4 * threadIdx.x; i < n4; i += 4 * THREADS) {
            const float4 v = *reinterpret_cast<const float4 *>(x + i);
            *reinterpret_cast<uint4 *>(cache + i) =
                make_uint4(slk::ordered(v.x), slk::ordered(v.y), slk::ordered(v.z), slk::ordered(v.w));
        }
        for (int i = n4 + threadIdx.x; i < n; i += THREADS)
            cache[i] = slk::ordered(x[i]);
    }
    if (threadIdx.x == 0)
        n_selected = 0;
    __syncthreads();
    auto key = [&](int i) { return slk::ranked(p.cached ? cache[i] : slk::ordered(x[i]), (uint32_t)begin + i); };

    uint64_t prefix = 0; /* the digits of the k-th best so far */
    uint32_t need = p.k; /* how many are wanted of those that begin with them */
    int shift = 64;
    for (int pass = 0; pass < 6; pass++) {
        const int width = pass % 3 == 2 ? 10 : 11;
        const int above = shift; /* digits above this bit are settled */
        shift -= width;
        for (int i = threadIdx.x; i < BINS; i += THREADS)
            hist[i] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < n; i += THREADS) {
            const uint64_t a = key(i);
            if (pass == 0 || a >> above == prefix)
                atomicAdd(&hist[(uint32_t)(a >> shift) & ((1u << width) - 1)], 1u);
        }
        slk::cluster_sync();
        uint32_t count[BINS / THREADS], sum = 0;
#pragma unroll
        for (int j = 0; j < BINS / THREADS; j++) { /* best digits first */
            count[j] = 0;
            for (uint32_t r = 0; r < size; r++)
                count[j] += slk::of_rank(hist, r)[BINS - 1 - (BINS / THREADS * threadIdx.x + j)];
            sum += count[j];
        }
        uint32_t before = sum_before(sum, part);
#pragma unroll
        for (int j = 0; j < BINS / THREADS; j++) {
            if (before < need && before + count[j] >= need) {
                found[0] = BINS - 1 - (BINS / THREADS * threadIdx.x + j);
                found[1] = before;
                found[2] = count[j];
            }
            before += count[j];
        }
        slk::cluster_sync(); /* found is written, and all have read the histograms */
        prefix = prefix << width | found[0];
        need -= found[1];
        if (need == found[2])
            break;
    }

    for (int base = 0; base < n; base += THREADS) {
        const int i = base + threadIdx.x;
        const uint64_t a = i < n ? key(i) : 0;
        const bool selected = i < n && a >> shift >= prefix;
        const uint32_t votes = __ballot_sync(0xffffffffu, selected);
        uint32_t at = 0;
        if (threadIdx.x % 32 == 0 && votes != 0)
            at = atomicAdd(&n_selected, __popc(votes));
        at = __shfl_sync(0xffffffffu, at, 0) + __popc(votes & ((1u << threadIdx.x % 32) - 1));
        if (selected)
            list[at] = a;
    }
    slk::cluster_sync();
    if (rank > 0) {
        uint32_t before = 0;
        for (uint32_t r = 0; r < rank; r++)
            before += *slk::of_rank(&n_selected, r);
        uint64_t *to = slk::of_rank(list, 0) + before;
        for (uint32_t i = threadIdx.x; i < n_selected; i += THREADS)
            to[i] = list[i];
    }
    slk::cluster_sync(); /* behind it each block touches its own memory only */
    if (rank > 0)
        return;

    /* bitonic, best first; 0 is worse than any element */
    int padded = 1;
    while (padded < p.k)
        padded *= 2;
    for (int i = p.k + threadIdx.x; i < padded; i += THREADS)
        list[i] = 0;
    __syncthreads();
    for (int run = 2; run <= padded; run *= 2)
        for (int step = run / 2; step > 0; step /= 2) {
            for (int t = threadIdx.x; t < padded / 2; t += THREADS) {
                const int i = 2 * t - (t & (step - 1)), j = i + step;
                const uint64_t a = list[i], b = list[j];
                if ((a < b) == ((i & run) == 0)) {
                    list[i] = b;
                    list[j] = a;
                }
            }
            __syncthreads();
        }
    for (int i = threadIdx.x; i < p.k; i += THREADS) {
        const int64_t at = (int64_t)blockIdx.y * p.k + i;
        p.id[at] = (int32_t) ~(uint32_t)list[i];
        if (p.value != nullptr)
            p.value[at] = slk::of_ordered((uint32_t)(list[i] >> 32));
    }
}
