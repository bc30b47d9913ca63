/* See act_cuda.h. Four elements a thread, blocks along the row and rows along y. Bound by bytes: 6 an element in bf16.
 */
#include "act_cuda.h"
#include "vec4.cuh"

namespace {

/* SL_ACT_* of sluice/ops.h, which device code does not include; act_cuda.c checks that these are the same. */
enum { SILU = 0, GELU_TANH = 1, RELU = 2, GELU = 3 };

__device__ __forceinline__ float act(float g, uint32_t kind) {
    if (kind == RELU)
        return fmaxf(g, 0.0f);
    if (kind == GELU)
        return 0.5f * g * (1.0f + erff(g * 0.70710678f));
    const float u = kind == SILU ? g : 2.0f * 0.7978845608f * (g + 0.044715f * g * g * g);
    return __fdiv_rn(g, 1.0f + expf(-u));
}

template <typename X, typename Y> __device__ __forceinline__ void act_mul(const slk_act_mul_params &p) {
    slk::let_successor_start();
    slk::wait_for_predecessor();
    const int64_t row = blockIdx.y;
    const int i = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= p.n)
        return;
    const slk::f4 g = slk::load4(static_cast<const X *>(p.gate) + row * p.ld_gate, i, p.n, p.wide);
    slk::f4 y = {{1.0f, 1.0f, 1.0f, 1.0f}};
    slk::f4 add = {{0.0f, 0.0f, 0.0f, 0.0f}};
    if (p.up != nullptr)
        y = slk::load4(static_cast<const X *>(p.up) + row * p.ld_up, i, p.n, p.wide);
    if (p.residual != nullptr)
        add = slk::load4(static_cast<const Y *>(p.residual) + row * p.ldr, i, p.n, p.wide);
#pragma unroll
    for (int k = 0; k < 4; k++)
        y.v[k] = y.v[k] * act(g.v[k], p.act) + add.v[k];
    slk::store4(static_cast<Y *>(p.y) + row * p.ldy, i, p.n, p.wide, y);
}

} // namespace

SLK_KERNEL slk_act_mul_f32_f32(const __grid_constant__ slk_act_mul_params p) { act_mul<float, float>(p); }
SLK_KERNEL slk_act_mul_f32_bf16(const __grid_constant__ slk_act_mul_params p) { act_mul<float, slk::bf16>(p); }
SLK_KERNEL slk_act_mul_bf16_bf16(const __grid_constant__ slk_act_mul_params p) { act_mul<slk::bf16, slk::bf16>(p); }
