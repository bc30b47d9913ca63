/* See sample_cuda.h. A cluster of up to eight blocks a row.
 *
 * Weights are exp((z - zmax) / temperature) in double, then integers in units of 2^-40 of the largest: sums of integers
 * do not depend on their order, so a row's token does not depend on how many blocks share it, and many threads may add.
 * The host's sampler sums doubles; the two differ where a draw, or the end of top-p, falls within about 1e-10 of a
 * border.
 *
 * top-k and top-p are radix selections as in select.cu, over counts and over weights. The draw is the first id, in
 * ascending order, whose prefix sum exceeds u times the sum. Predicted 25 us for 128256 logits with all three, 12 with
 * temperature alone: double exponentials of 16000 logits a processor, and a dozen cluster barriers. */
#include "cluster.cuh"
#include "order.cuh"
#include "sample_cuda.h"

namespace {

enum { THREADS = 512, BINS = 2048, PER = BINS / THREADS };

struct space {
    uint32_t low[BINS], high[BINS]; /* 64-bit sums by digit */
    uint64_t part[THREADS / 32], found[3], best, total;
    uint32_t bad;
};

/* Sum over the threads in front of this one; *all: over all. */
__device__ __forceinline__ uint64_t sum_before(uint64_t x, uint64_t *part, uint64_t *all) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint64_t sum = x, before = 0;
#pragma unroll
    for (int i = 1; i < 32; i *= 2) {
        const uint64_t other = __shfl_up_sync(0xffffffffu, sum, i);
        if (lane >= i)
            sum += other;
    }
    __syncthreads(); /* part may still be read from the last time */
    if (lane == 31)
        part[warp] = sum;
    __syncthreads();
    *all = 0;
    for (int w = 0; w < THREADS / 32; w++) {
        before += w < warp ? part[w] : 0;
        *all += part[w];
    }
    return before + sum - x;
}

/* Adds to a 64-bit sum by two 32-bit atomics, which shared memory has; the carry goes with whoever caused it. */
__device__ __forceinline__ void add(space &s, uint32_t bin, uint64_t x) {
    const uint32_t low = (uint32_t)x, old = atomicAdd(&s.low[bin], low);
    const uint32_t high = (uint32_t)(x >> 32) + (old + low < low ? 1u : 0u);
    if (high != 0)
        atomicAdd(&s.high[bin], high);
}

/* The elements that stay: those with a >> shift >= prefix. */
struct border {
    uint64_t prefix;
    int shift;
    __device__ __forceinline__ bool keeps(uint64_t a) const { return a >> shift >= prefix; }
};

/* The border below the shortest prefix, in the order of the selections, whose weights reach what is wanted: `want`, or
 * with MASS the share of their sum. weight(a): 0 for elements that do not count; equal for equal values. */
template <bool MASS, typename Key, typename Weight>
__device__ __forceinline__ border cut(space &s, int n, double want, Key key, Weight weight) {
    border b = {0, 64};
    uint64_t need = MASS ? 0 : (uint64_t)want;
    const uint32_t size = slk::cluster_size();
    for (int pass = 0; pass < 6; pass++) {
        const int width = pass % 3 == 2 ? 10 : 11, above = b.shift;
        b.shift -= width;
        for (int i = threadIdx.x; i < BINS; i += THREADS)
            s.low[i] = s.high[i] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < n; i += THREADS) {
            const uint64_t a = key(i);
            if (pass > 0 && a >> above != b.prefix)
                continue;
            const uint64_t w = weight(a);
            if (w != 0)
                add(s, (uint32_t)(a >> b.shift) & ((1u << width) - 1), w);
        }
        slk::cluster_sync();
        uint64_t sums[PER], sum = 0, all;
#pragma unroll
        for (int j = 0; j < PER; j++) { /* best digits first */
            const int bin = BINS - 1 - (PER * (int)threadIdx.x + j);
            sums[j] = 0;
            for (uint32_t r = 0; r < size; r++)
                sums[j] += (uint64_t)slk::of_rank(s.high, r)[bin] << 32 | slk::of_rank(s.low, r)[bin];
            sum += sums[j];
        }
        uint64_t before = sum_before(sum, s.part, &all);
        if (MASS && pass == 0) {
            need = (uint64_t)ceil(want * (double)all);
            need = need < 1 ? 1 : need > all ? all : need;
        }
#pragma unroll
        for (int j = 0; j < PER; j++) {
            if (before < need && before + sums[j] >= need) {
                s.found[0] = BINS - 1 - (PER * (int)threadIdx.x + j);
                s.found[1] = before;
                s.found[2] = sums[j];
            }
            before += sums[j];
        }
        slk::cluster_sync(); /* found is written, and all have read the sums */
        b.prefix = b.prefix << width | s.found[0];
        need -= s.found[1];
        if (need == s.found[2] || (MASS && pass == 2 && s.found[2] == weight(b.prefix << 32 | 0xffffffffu)))
            break;
    }
    return b;
}

} // namespace

SLK_KERNEL __launch_bounds__(THREADS) slk_sample(const __grid_constant__ slk_sample_params p) {
    extern __shared__ __align__(16) uint32_t cache[]; /* [chunk] ordered logits, where they fit */
    __shared__ space s;
    slk::let_successor_start();
    slk::wait_for_predecessor();
    const uint32_t rank = slk::cluster_rank(), size = slk::cluster_size();
    const int64_t begin = (int64_t)rank * p.chunk, left = p.n - begin;
    const int n = left <= 0 ? 0 : left < p.chunk ? (int)left : p.chunk;
    const float *z = p.logits + blockIdx.y * p.stride + begin;
    const slk_sample_row how = p.how[blockIdx.y];

    /* the largest, and what cannot be sampled */
    if (threadIdx.x == 0)
        s.best = 0, s.bad = 0;
    __syncthreads();
    uint64_t best = 0;
    bool bad = false;
#pragma unroll 8
    for (int i = threadIdx.x; i < n; i += THREADS) {
        const float v = z[i];
        const uint32_t bits = __float_as_uint(v), key = slk::ordered(v);
        bad |= (bits & 0x7fffffffu) > 0x7f800000u || bits == 0x7f800000u;
        const uint64_t a = slk::ranked(key, (uint32_t)begin + i);
        best = a > best ? a : best;
        if (p.cached)
            cache[i] = key;
    }
#pragma unroll
    for (int i = 16; i > 0; i /= 2) {
        const uint64_t other = __shfl_xor_sync(0xffffffffu, best, i);
        best = other > best ? other : best;
    }
    if (threadIdx.x % 32 == 0)
        atomicMax(reinterpret_cast<unsigned long long *>(&s.best), (unsigned long long)best);
    if (bad)
        atomicOr(&s.bad, 1u);
    slk::cluster_sync();
    best = 0;
    uint32_t any_bad = 0;
    for (uint32_t r = 0; r < size; r++) {
        const uint64_t other = *slk::of_rank(&s.best, r);
        best = other > best ? other : best;
        any_bad |= *slk::of_rank(&s.bad, r);
    }
    const float zmax = slk::of_ordered((uint32_t)(best >> 32));
    const bool none = any_bad != 0 || __float_as_uint(zmax) == 0xff800000u;
    if (none || how.temperature == 0) {
        if (rank == 0 && threadIdx.x == 0)
            p.token[blockIdx.y] = none ? -1 : (int32_t) ~(uint32_t)best;
        slk::cluster_sync(); /* nobody leaves while his shared memory is read */
        return;
    }

    auto key = [&](int i) { return slk::ranked(p.cached ? cache[i] : slk::ordered(z[i]), (uint32_t)begin + i); };
    const double scale = 1 / how.temperature;
    auto weight = [&](uint64_t a, double least) -> uint64_t {
        const double x = ((double)slk::of_ordered((uint32_t)(a >> 32)) - zmax) * scale;
        if (!(x > -29)) /* rounds to 0 */
            return 0;
        const double w = exp(x);
        return w < least ? 0 : (uint64_t)(w * 0x1p40 + 0.5);
    };

    border k_border = {0, 32}, p_border = {0, 32};
    if (how.top_k > 0 && how.top_k < p.n)
        k_border = cut<false>(s, n, how.top_k, key, [](uint64_t) -> uint64_t { return 1; });
    if (how.top_p > 0 && how.top_p < 1)
        p_border = cut<true>(s, n, how.top_p, key, [&](uint64_t a) { return k_border.keeps(a) ? weight(a, 0) : 0; });
    auto kept = [&](uint64_t a) { return k_border.keeps(a) && p_border.keeps(a) ? weight(a, how.min_p) : 0; };

    /* A thread has neighbouring ids, and begins at another one than its neighbours do: no two in one bank. */
    const int run = (p.chunk + THREADS - 1) / THREADS, first = run * threadIdx.x;
    uint64_t mine = 0, of_block;
    for (int j = 0; j < run; j++) {
        const int i = first + (j + threadIdx.x) % run;
        if (i < n)
            mine += kept(key(i));
    }
    uint64_t before = sum_before(mine, s.part, &of_block);
    if (threadIdx.x == 0)
        s.total = of_block;
    slk::cluster_sync();
    uint64_t sum = 0;
    for (uint32_t r = 0; r < size; r++) {
        const uint64_t other = *slk::of_rank(&s.total, r);
        before += r < rank ? other : 0;
        sum += other;
    }
    uint64_t target = (uint64_t)(how.u * (double)sum);
    target = target >= sum ? sum - 1 : target;
    if (before <= target && target < before + mine)
        for (int i = first; i < first + run && i < n; i++) {
            const uint64_t w = kept(key(i));
            if (target < before + w) {
                p.token[blockIdx.y] = (int32_t)begin + i;
                break;
            }
            before += w;
        }
    slk::cluster_sync();
}
