/* See lse_merge_cuda.h. A warp a head's row, two channels a lane and step. Memory bound: reads both results, writes
 * one. */
#include "device.cuh"
#include "lse_merge_cuda.h"

namespace {

__device__ __forceinline__ float2 load2(const void *x, int64_t at, bool f32) {
    if (f32)
        return *reinterpret_cast<const float2 *>(static_cast<const float *>(x) + at);
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162 *>(static_cast<const slk::bf16 *>(x) + at));
}

} // namespace

SLK_KERNEL slk_lse_merge(const __grid_constant__ slk_lse_merge_params p) {
    slk::wait_for_predecessor();
    slk::let_successor_start();
    const int64_t at = static_cast<int64_t>(blockIdx.x) * 4 + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (at >= static_cast<int64_t>(p.rows) * p.heads)
        return;
    const float a = p.lse[at], b = p.lse2[at], top = fmaxf(a, b);
    __syncwarp();
    if (b == -INFINITY)
        return; /* nothing to add, and o2 need not be there */
    const float wa = a == -INFINITY ? 0.f : expf(a - top), wb = expf(b - top), sum = wa + wb;
    const int64_t row = at / p.heads, head = at % p.heads;
    const int64_t o = row * p.o_row + head * p.o_head, o2 = row * p.o2_row + head * p.o2_head;
    for (int d = 2 * lane; d < p.dim; d += 64) {
        float2 x = make_float2(0.f, 0.f);
        const float2 y = load2(p.o2, o2 + d, p.o2_f32 != 0);
        if (wa > 0.f)
            x = load2(p.o, o + d, p.o_f32 != 0);
        x.x = (wa * x.x + wb * y.x) / sum;
        x.y = (wa * x.y + wb * y.y) / sum;
        if (p.o_f32)
            *reinterpret_cast<float2 *>(static_cast<float *>(p.o) + o + d) = x;
        else
            *reinterpret_cast<__nv_bfloat162 *>(static_cast<slk::bf16 *>(p.o) + o + d) =
                __floats2bfloat162_rn(x.x, x.y);
    }
    if (lane == 0)
        p.lse[at] = top + logf(sum);
}
