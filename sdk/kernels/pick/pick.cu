/* See pick_cuda.h. One block a row and group: lists are short, and rows times groups fill a device when contexts are
 * long enough to matter.
 *
 * The first pass takes the largest score of the group's heads, keeps it in the place of the first head's as an unsigned
 * number of the same order, and counts its top 11 bits; two more passes count the next 11 and 10 bits of those that tie
 * with the cut. Then slots above the cut, and the first of those that equal it, are written in order: each warp owns a
 * run of slots, counts it, and knows from the warps in front where its own begin. Exact; equal scores: the lower slot.
 *
 * Bound by what one processor fetches from the L2: (heads / groups + 4) * 4 bytes a slot. Predicted at 100K slots: 27
 * us with four heads a group, 17 us with one. */
#include "device.cuh"
#include "pick_cuda.h"

namespace {

enum { THREADS = 1024, WARPS = THREADS / 32, BINS = 2048 };

/* Unsigned numbers in the order of the floats; both zeros are one. */
__device__ __forceinline__ uint32_t ordered(float x) {
    const uint32_t bits = __float_as_uint(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* Exclusive sum over the warps' values; *total gets the sum. Every thread calls it. */
__device__ __forceinline__ uint32_t before_warp(uint32_t of_warp, uint32_t *part, uint32_t *total) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    __syncthreads(); /* part may still be read */
    if (lane == 0)
        part[warp] = of_warp;
    __syncthreads();
    uint32_t before = 0, sum = 0;
    for (int w = 0; w < WARPS; w++) {
        before += w < warp ? part[w] : 0;
        sum += part[w];
    }
    *total = sum;
    return before;
}

/* Bin in which the need-th largest lies, and how many are wanted of it. */
__device__ __forceinline__ void find_bin(const uint32_t *hist, uint32_t need, uint32_t *part, uint32_t *found) {
    const int lane = threadIdx.x % 32;
    uint32_t count[BINS / THREADS], sum = 0;
#pragma unroll
    for (int j = 0; j < BINS / THREADS; j++) { /* largest first */
        count[j] = hist[BINS - 1 - (BINS / THREADS * threadIdx.x + j)];
        sum += count[j];
    }
    uint32_t up_to = sum;
#pragma unroll
    for (int i = 1; i < 32; i *= 2) {
        const uint32_t other = __shfl_up_sync(0xffffffffu, up_to, i);
        up_to += lane >= i ? other : 0;
    }
    uint32_t total;
    uint32_t before = before_warp(__shfl_sync(0xffffffffu, up_to, 31), part, &total) + up_to - sum;
#pragma unroll
    for (int j = 0; j < BINS / THREADS; j++) {
        if (before < need && before + count[j] >= need) {
            found[0] = BINS - 1 - (BINS / THREADS * threadIdx.x + j);
            found[1] = need - before;
        }
        before += count[j];
    }
    __syncthreads();
}

} // namespace

SLK_KERNEL __launch_bounds__(THREADS) slk_pick(const __grid_constant__ slk_pick_params p) {
    __shared__ uint32_t hist[BINS], part[WARPS], found[2];
    slk::let_successor_start();
    slk::wait_for_predecessor();
    const int64_t row = blockIdx.y, unit = row * p.groups + blockIdx.x;
    const int at = row < p.n_rows[0] ? p.row_seq[row] : -1;
    const int64_t n = at >= 0 ? p.n_past[at] : 0;
    int32_t *list = p.list + unit * p.list_stride;
    if (n <= p.all_up_to) {
        for (int64_t i = threadIdx.x; i < n; i += THREADS)
            list[i] = (int32_t)i;
        if (threadIdx.x == 0)
            p.list_n[unit] = (int32_t)n;
        return;
    }
    const int members = p.heads / p.groups;
    float *first = p.scores + (row * p.heads + (int64_t)blockIdx.x * members) * p.score_stride;
    uint32_t *key = reinterpret_cast<uint32_t *>(first);

    uint32_t cut = 0, need = (uint32_t)p.budget;
    int shift = 32;
    for (int pass = 0; pass < 3; pass++) {
        const int width = pass == 2 ? 10 : 11, above = shift;
        shift -= width;
        for (int i = threadIdx.x; i < BINS; i += THREADS)
            hist[i] = 0;
        __syncthreads();
        if (pass == 0) {
#pragma unroll 4
            for (int64_t i = threadIdx.x; i < n; i += THREADS) {
                float best = first[i];
                for (int m = 1; m < members; m++)
                    best = fmaxf(best, first[m * p.score_stride + i]);
                if (p.half)
                    best = __half2float(__float2half_rn(best));
                const uint32_t k = ordered(best);
                key[i] = k;
                atomicAdd(&hist[k >> shift], 1u);
            }
        } else {
#pragma unroll 4
            for (int64_t i = threadIdx.x; i < n; i += THREADS) {
                const uint32_t k = key[i];
                if (k >> above == cut)
                    atomicAdd(&hist[k >> shift & ((1u << width) - 1)], 1u);
            }
        }
        __syncthreads();
        find_bin(hist, need, part, found);
        cut = cut << width | found[0];
        need = found[1];
    }

    /* slots above the cut, and the first `need` of those that equal it */
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t below = (1u << lane) - 1;
    const int64_t run = ((n + WARPS - 1) / WARPS + 31) / 32 * 32, begin = warp * run,
                  end = begin + run < n ? begin + run : n;
    uint32_t larger = 0, equal = 0, total;
    for (int64_t i = begin + lane; i < end; i += 32) {
        const uint32_t k = key[i];
        larger += k > cut;
        equal += k == cut;
    }
#pragma unroll
    for (int i = 16; i > 0; i /= 2) {
        larger += __shfl_xor_sync(0xffffffffu, larger, i);
        equal += __shfl_xor_sync(0xffffffffu, equal, i);
    }
    uint32_t n_larger = before_warp(larger, part, &total), n_equal = before_warp(equal, part, &total);
    for (int64_t i = begin; i < end; i += 32) {
        const uint32_t k = i + lane < end ? key[i + lane] : 0;
        const bool above = i + lane < end && k > cut, tie = i + lane < end && k == cut;
        const uint32_t above_votes = __ballot_sync(0xffffffffu, above), tie_votes = __ballot_sync(0xffffffffu, tie);
        const uint32_t a = n_larger + __popc(above_votes & below), t = n_equal + __popc(tie_votes & below);
        if (above || (tie && t < need))
            list[a + (t < need ? t : need)] = (int32_t)(i + lane);
        n_larger += __popc(above_votes);
        n_equal += __popc(tie_votes);
    }
    if (threadIdx.x == 0)
        p.list_n[unit] = (int32_t)p.budget;
}
