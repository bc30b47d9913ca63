/* See rope_cuda.h. A thread a pair; rows along y. The path of a step is append.cu; this one serves plugins that rotate
 * by themselves, and is bound by bytes. */
#include "device.cuh"
#include "rope_cuda.h"

namespace {

template <typename T> __device__ __forceinline__ void rope(const slk_rope_params &p) {
    slk::let_successor_start();
    slk::wait_for_predecessor();
    const int half = p.n_rot / 2, i = blockIdx.x * blockDim.x + threadIdx.x;
    const int64_t row = blockIdx.y;
    if (i >= p.heads * half)
        return;
    const int head = i / half, pair = i % half;
    const float position = p.position[row];
    const int at = (int)position;
    const bool held = position >= 0.0f && at < p.n_positions && (float)at == position;
    const int64_t k = (int64_t)(held ? at : 0) * half + pair;
    const float c = held ? p.cos[k] : __int_as_float(0x7fffffff), s = p.inverse ? -p.sin[k] : p.sin[k];
    T *a = static_cast<T *>(p.x) + row * p.ldx + head * p.ldx_head + (p.interleaved ? 2 * pair : pair);
    T *b = a + (p.interleaved ? 1 : half);
    const float x = slk::to_float(*a), y = slk::to_float(*b);
    /* each product rounded before the sum, as on the CPU */
    *a = slk::from_float<T>(__fsub_rn(__fmul_rn(x, c), __fmul_rn(y, s)));
    *b = slk::from_float<T>(__fadd_rn(__fmul_rn(y, c), __fmul_rn(x, s)));
}

} // namespace

SLK_KERNEL slk_rope_f32(const __grid_constant__ slk_rope_params p) { rope<float>(p); }
SLK_KERNEL slk_rope_bf16(const __grid_constant__ slk_rope_params p) { rope<slk::bf16>(p); }
