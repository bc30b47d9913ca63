/* See norm_cuda.h. One block a row; each thread keeps its values of the row and of the weights in registers, so that x
 * is read once. Which thread adds what follows from n alone: a row's bits do not depend on what else is in the call.
 *
 * Bound by latency at one row (a read, two barriers, a write: predicted 2 to 2.5 us for 4096), by bytes at many (6
 * bytes an element from f32 to bf16). Weights do not come from the kernel in front: they are fetched before the wait.
 */
#include "norm_cuda.h"
#include "vec4.cuh"

namespace {

enum { CHUNKS = 4 }; /* of four elements a thread: 16384 with 1024 threads */

template <typename X, typename Y> __device__ __forceinline__ void norm_row(const slk_norm_params &p) {
    __shared__ float part[32];
    const int64_t row = blockIdx.x / p.heads, head = blockIdx.x % p.heads;
    const X *x = static_cast<const X *>(p.x) + row * p.ldx + head * p.ldx_head;
    Y *y = static_cast<Y *>(p.y) + row * p.ldy + head * p.ldy_head;
    const int step = 4 * blockDim.x, at = 4 * threadIdx.x;

    slk::f4 w[CHUNKS], v[CHUNKS];
#pragma unroll
    for (int c = 0; c < CHUNKS; c++)
        w[c] = p.w_is_bf16 ? slk::load4(static_cast<const slk::bf16 *>(p.w), at + c * step, p.n, p.wide)
                           : slk::load4(static_cast<const float *>(p.w), at + c * step, p.n, p.wide);
    slk::let_successor_start();
    slk::wait_for_predecessor();

#pragma unroll
    for (int c = 0; c < CHUNKS; c++)
        v[c] = slk::load4(x, at + c * step, p.n, p.wide);
    float sum = 0;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++)
#pragma unroll
        for (int k = 0; k < 4; k++)
            sum = fmaf(v[c].v[k], v[c].v[k], sum);
    sum = slk::warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = sum;
    __syncthreads();
    const int lane = threadIdx.x % 32;
    sum = slk::warp_sum(lane < blockDim.x / 32 ? part[lane] : 0.0f);
    const float inv = rsqrtf(sum / (float)p.n + p.eps);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
        for (int k = 0; k < 4; k++)
            v[c].v[k] = w[c].v[k] * (v[c].v[k] * inv);
        slk::store4(y, at + c * step, p.n, p.wide, v[c]);
    }
}

} // namespace

#define NORM(name, X, Y)                                                                                               \
    SLK_KERNEL __launch_bounds__(1024) slk_norm_##name(const __grid_constant__ slk_norm_params p) { norm_row<X, Y>(p); }
NORM(f32_f32, float, float)
NORM(f32_bf16, float, slk::bf16)
NORM(bf16_f32, slk::bf16, float)
NORM(bf16_bf16, slk::bf16, slk::bf16)
