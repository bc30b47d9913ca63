/* See embed_cuda.h. Blocks along the row, rows along y; bound by bytes (6 an element), by latency at one row. */
#include "embed_cuda.h"
#include "vec4.cuh"

namespace {

template <typename T> __device__ __forceinline__ void embed(const slk_embed_params &p) {
    const int64_t row = blockIdx.y;
    slk::let_successor_start();
    slk::wait_for_predecessor();
    const int i = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= p.n)
        return;
    const int32_t token = p.row_seq[row] < 0 ? -1 : p.token[row];
    slk::f4 v = {{0, 0, 0, 0}};
    if (token >= 0 && token < p.vocab)
        v = slk::load4(static_cast<const T *>(p.table) + token * p.ld_table, i, p.n, p.wide);
    slk::store4(p.x + row * p.ldx, i, p.n, p.wide, v);
}

} // namespace

SLK_KERNEL slk_embed_f32(const __grid_constant__ slk_embed_params p) { embed<float>(p); }
SLK_KERNEL slk_embed_f16(const __grid_constant__ slk_embed_params p) { embed<__half>(p); }
SLK_KERNEL slk_embed_bf16(const __grid_constant__ slk_embed_params p) { embed<slk::bf16>(p); }
