/* What stands around a matrix library: epilogues, weights as bf16, rows as e4m3; and a plain read of memory. All bound
 * by memory, 16 bytes a lane where widths allow. */
#include "linear_act.cuh"
#include "linear_cuda.h"

namespace slk {

__device__ __forceinline__ void load_eight(float (&v)[8], const bf16 *from) {
    const uint4 u = *reinterpret_cast<const uint4 *>(from);
    const uint32_t pairs[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] = __uint_as_float(i % 2 ? pairs[i / 2] & 0xffff0000u : pairs[i / 2] << 16);
}
__device__ __forceinline__ void load_eight(float (&v)[8], const float *from) {
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
        const float4 u = *reinterpret_cast<const float4 *>(from + i);
        v[i] = u.x, v[i + 1] = u.y, v[i + 2] = u.z, v[i + 3] = u.w;
    }
}
__device__ __forceinline__ void store_eight(bf16 *to, const float (&v)[8]) {
    uint32_t pairs[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
        pairs[i] = *reinterpret_cast<const uint32_t *>(&pair);
    }
    *reinterpret_cast<uint4 *>(to) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}
__device__ __forceinline__ void store_eight(float *to, const float (&v)[8]) {
    *reinterpret_cast<float4 *>(to) = make_float4(v[0], v[1], v[2], v[3]);
    *reinterpret_cast<float4 *>(to + 4) = make_float4(v[4], v[5], v[6], v[7]);
}

/* Eight values a thread where everything is aligned; a gated block of a prompt is 2.5 % of it at the speed of memory.
 */
template <typename In, typename Out> __device__ __forceinline__ void finish_eights(const slk_finish_params &p) {
    const int n = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (n >= p.n)
        return;
    for (int64_t t = blockIdx.y; t < p.t; t += gridDim.y) {
        const In *in = static_cast<const In *>(p.in) + t * p.ldi + n;
        float v[8], up[8], add[8];
        load_eight(v, in);
        if (p.act_mul)
            load_eight(up, in + p.n);
        if (p.bias != nullptr) {
            load_eight(add, p.bias + n);
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[i] += add[i];
            if (p.act_mul) {
                load_eight(add, p.bias + p.n + n);
#pragma unroll
                for (int i = 0; i < 8; i++)
                    up[i] += add[i];
            }
        }
        if (p.act_mul)
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[i] = activate(p.act, v[i]) * up[i];
        if (p.residual != nullptr) {
            load_eight(add, p.residual + t * p.ldr + n);
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[i] += add[i];
        }
        store_eight(static_cast<Out *>(p.y) + t * p.ldy + n, v);
    }
}

template <typename In, typename Out> __device__ __forceinline__ void finish(const slk_finish_params &p) {
    wait_for_predecessor();
    let_successor_start();
    if (p.eights) {
        finish_eights<In, Out>(p);
        return;
    }
    const int n = blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= p.n)
        return;
    for (int64_t t = blockIdx.y; t < p.t; t += gridDim.y) {
        const In *in = static_cast<const In *>(p.in) + t * p.ldi;
        float v[2];
        for (int half = 0; half < (p.act_mul ? 2 : 1); half++) {
            const int column = n + half * p.n;
            v[half] = to_float(in[column]);
            if (p.col_scale != nullptr)
                v[half] *= p.row_scale[t] * p.col_scale[column];
            if (p.bias != nullptr)
                v[half] += p.bias[column];
        }
        float y = p.act_mul ? activate(p.act, v[0]) * v[1] : v[0];
        if (p.residual != nullptr)
            y += p.residual[t * p.ldr + n];
        static_cast<Out *>(p.y)[t * p.ldy + n] = from_float<Out>(y);
    }
}

template <typename In> __device__ __forceinline__ void widen_plain(const slk_widen_params &p) {
    wait_for_predecessor();
    let_successor_start();
    const In *w = static_cast<const In *>(p.w) + (p.row + static_cast<int64_t>(blockIdx.x)) * p.ldw;
    bf16 *out = static_cast<bf16 *>(p.out) + static_cast<int64_t>(blockIdx.x) * p.k;
    for (int k = threadIdx.x; k < p.k; k += blockDim.x)
        out[k] = __float2bfloat16_rn(to_float(w[k]));
}

/* One warp a tile of 16 rows and a chunk: a lane has the codes of rows g and g + 8, inputs 8 t .. 8 t + 7 of each half.
 */
template <int BITS> __device__ __forceinline__ void widen_blob(const slk_widen_params &p) {
    wait_for_predecessor();
    let_successor_start();
    const int chunks = (p.k + SLK_LINEAR_CHUNK - 1) / SLK_LINEAR_CHUNK;
    const int chunk = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (chunk >= chunks)
        return;
    const int64_t tile = p.row / SLK_LINEAR_TILE + static_cast<int64_t>(blockIdx.y);
    const uint4 *from = static_cast<const uint4 *>(p.w) + (tile * chunks + chunk) * (BITS / 4) * 32 + lane;
    const uint4 first = from[0], second = BITS == 8 ? from[32] : first;
    for (int half = 0; half < 2; half++) {
        const int k = chunk * SLK_LINEAR_CHUNK + half * 32 + lane % 4 * 8;
        if (k >= p.k)
            continue;
        const int64_t entry = (tile * p.groups + (k - lane % 4 * 8) / p.group) * 8 + lane / 4;
        const uint16_t *scales = static_cast<const uint16_t *>(p.scale) + entry * (p.asym ? 4 : 2);
        const uint4 c = half ? second : first;
        for (int high = 0; high < 2; high++) {
            const int row = static_cast<int>(blockIdx.y) * SLK_LINEAR_TILE + lane / 4 + high * 8;
            if (row >= p.rows)
                continue;
            const float s = __half2float(__ushort_as_half(scales[high]));
            float zero = BITS == 8 ? 128.0f : 136.0f;
            if (p.asym)
                zero = __bfloat162float(__ushort_as_bfloat16(scales[2 + high]));
            const float less = BITS == 8 ? zero : zero - 128.0f;
            uint32_t word[2] = {BITS == 8 ? (high ? c.z : c.x)
                                : half    ? (high ? c.w : c.z)
                                : high    ? c.y
                                          : c.x,
                                high ? c.w : c.y};
            if (BITS == 4)
                word[0] = __funnelshift_r(word[0], word[0], 3);
            __align__(16) bf16 v[8];
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const uint32_t code = BITS == 8 ? word[i / 4] >> (i % 2 * 16 + i / 2 % 2 * 8) & 255
                                                : word[0] >> (i / 2 * 4 + i % 2 * 16) & 15;
                v[i] = __float2bfloat16_rn((static_cast<float>(code) - less) * s);
            }
            *reinterpret_cast<uint4 *>(static_cast<bf16 *>(p.out) + static_cast<int64_t>(row) * p.k + k) =
                *reinterpret_cast<uint4 *>(v);
        }
    }
}

/* Two values as e4m3, nearest even, saturated. */
__device__ __forceinline__ uint32_t e4m3_pair(float low, float high) {
    uint16_t v = 0;
#if __CUDA_ARCH__ >= 890
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(v) : "f"(high), "f"(low));
#else
    __trap(); /* the launcher refuses such devices */
#endif
    return v;
}

/* Of eight bf16 values: the largest size, or `most`; e4m3 of them over scale. */
__device__ __forceinline__ float most_of(uint4 v, float most) {
    const uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++)
        most =
            fmaxf(most, fmaxf(fabsf(__uint_as_float(pairs[i] << 16)), fabsf(__uint_as_float(pairs[i] & 0xffff0000u))));
    return most;
}
__device__ __forceinline__ uint32_t e4m3_four(uint32_t a, uint32_t b, float scale) {
    const uint32_t low =
        e4m3_pair(__fdiv_rn(__uint_as_float(a << 16), scale), __fdiv_rn(__uint_as_float(a & 0xffff0000u), scale));
    return low |
           e4m3_pair(__fdiv_rn(__uint_as_float(b << 16), scale), __fdiv_rn(__uint_as_float(b & 0xffff0000u), scale))
               << 16;
}
__device__ __forceinline__ uint2 e4m3_of(uint4 v, float scale) {
    return make_uint2(e4m3_four(v.x, v.y, scale), e4m3_four(v.z, v.w, scale));
}

} // namespace slk

SLK_KERNEL slk_finish_bf16_bf16(const __grid_constant__ slk_finish_params p) { slk::finish<slk::bf16, slk::bf16>(p); }
SLK_KERNEL slk_finish_f32_bf16(const __grid_constant__ slk_finish_params p) { slk::finish<float, slk::bf16>(p); }
SLK_KERNEL slk_finish_f32_f32(const __grid_constant__ slk_finish_params p) { slk::finish<float, float>(p); }
SLK_KERNEL slk_widen_f16(const __grid_constant__ slk_widen_params p) { slk::widen_plain<__half>(p); }
SLK_KERNEL slk_widen_f32(const __grid_constant__ slk_widen_params p) { slk::widen_plain<float>(p); }
SLK_KERNEL slk_widen_int8(const __grid_constant__ slk_widen_params p) { slk::widen_blob<8>(p); }
SLK_KERNEL slk_widen_int4(const __grid_constant__ slk_widen_params p) { slk::widen_blob<4>(p); }

/* One block of 512 a row, which it keeps in registers up to 16384 values; few rows are bound by the way to memory and
 * back, which is gone once. */
SLK_KERNEL __launch_bounds__(512) slk_e4m3_rows(const __grid_constant__ slk_e4m3_rows_params p) {
    constexpr int kept = 4;
    __shared__ float largest[16];
    slk::let_successor_start();
    slk::wait_for_predecessor();
    const uint4 *x = reinterpret_cast<const uint4 *>(static_cast<const slk::bf16 *>(p.x) + blockIdx.x * p.ldx);
    const int pieces = p.k / 8, all = static_cast<int>(p.ldy / 8);
    uint4 mine[kept];
    float most = 0;
#pragma unroll
    for (int j = 0; j < kept; j++) {
        const int i = threadIdx.x + j * 512;
        mine[j] = i < pieces ? x[i] : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int j = 0; j < kept; j++)
        most = slk::most_of(mine[j], most);
    for (int i = threadIdx.x + kept * 512; i < pieces; i += 512)
        most = slk::most_of(x[i], most);
    most = slk::warp_max(most);
    if (threadIdx.x % 32 == 0)
        largest[threadIdx.x / 32] = most;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 16; i++)
        most = fmaxf(most, largest[i]);
    const float scale = most > 0 ? __fdiv_rn(most, 448.0f) : 1.0f;
    if (threadIdx.x == 0)
        p.scale[blockIdx.x] = scale;
    uint2 *y = reinterpret_cast<uint2 *>(static_cast<uint8_t *>(p.y) + blockIdx.x * p.ldy);
#pragma unroll
    for (int j = 0; j < kept; j++)
        if (threadIdx.x + j * 512 < all)
            y[threadIdx.x + j * 512] = slk::e4m3_of(mine[j], scale);
    for (int i = threadIdx.x + kept * 512; i < all; i += 512)
        y[i] = slk::e4m3_of(i < pieces ? x[i] : make_uint4(0, 0, 0, 0), scale);
}

SLK_KERNEL __launch_bounds__(512, 2) slk_stream_read(const __grid_constant__ slk_stream_params p) {
    constexpr int depth = 8;
    const int64_t n = p.bytes / 16, stride = static_cast<int64_t>(gridDim.x) * 512;
    const uint4 *x = static_cast<const uint4 *>(p.x);
    uint32_t all = 0;
    for (int64_t i = blockIdx.x * 512 + static_cast<int64_t>(threadIdx.x); i < n; i += stride * depth) {
        uint4 v[depth];
#pragma unroll
        for (int j = 0; j < depth; j++) {
            v[j] = {0, 0, 0, 0};
            if (i + j * stride < n)
                asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
                             : "=r"(v[j].x), "=r"(v[j].y), "=r"(v[j].z), "=r"(v[j].w)
                             : "l"(x + i + j * stride));
        }
#pragma unroll
        for (int j = 0; j < depth; j++)
            all ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    if (all == p.never)
        *p.out = all;
}
