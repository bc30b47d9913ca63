/* See gather_cuda.h. One block a row. */
#include "device.cuh"
#include "gather_cuda.h"

SLK_KERNEL slk_gather_f32(const __grid_constant__ slk_gather_params p) {
    slk::wait_for_predecessor();
    const float4 *x = reinterpret_cast<const float4 *>(p.x + p.row[blockIdx.x] * p.ldx);
    float4 *y = reinterpret_cast<float4 *>(p.y + blockIdx.x * p.ldy);
    for (int64_t i = threadIdx.x; i < p.width / 4; i += blockDim.x)
        y[i] = x[i];
}
