/* Few rows times plain weights. See linear_body.cuh. f16 and f32 are split into two or three bf16 parts that add up to
 * them exactly, so that x needs no other form. */
#include "linear_body.cuh"

namespace slk {

/* Rows of 16-byte pieces: a lane has inputs 8 t .. 8 t + 7 of each half of a chunk (f32: two pieces), of rows g, g + 8.
 */
template <int BYTES> struct plain_rows {
    static constexpr int pieces = BYTES / 2; /* for 8 inputs */
    static constexpr int chunk = SLK_LINEAR_CHUNK, w16 = 4 * pieces, x16 = 2, x_bytes = 2, x_rows = 8, scales = 0,
                         scale_bytes = 0;
    static constexpr bool zeros = false;
    static constexpr int ring(int) { return SLK_LINEAR_RING; }

    template <int MT> using walk = typename row_walk<BYTES, 2, pieces>::template of<MT>;
    __device__ static __forceinline__ float finish(const slk_linear_params &, float sum, int, int) { return sum; }
};

struct of_bf16 : plain_rows<2> {
    template <int MT, int NT>
    __device__ static __forceinline__ void add(const slk_linear_params &, float (&acc)[MT][NT][4], uint32_t w,
                                               uint32_t x, uint32_t, int rows) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint4 b[NT];
#pragma unroll
            for (int n = 0; n < NT; n++)
                b[n] = load_x(x + (n * 2 + half) * 512, n * 8 < rows);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                const uint4 low = load16(w + (m * 4 + half * 2) * 512), high = load16(w + (m * 4 + half * 2 + 1) * 512);
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    mma_rows(acc[m][n], {low.x, low.y}, {high.x, high.y}, {b[n].x, b[n].y});
                    mma_rows(acc[m][n], {low.z, low.w}, {high.z, high.w}, {b[n].z, b[n].w});
                }
            }
        }
    }
};

__device__ __forceinline__ uint32_t bits_of(__nv_bfloat162 x) { return *reinterpret_cast<uint32_t *>(&x); }

/* Two values as bf16 and what is left of them. */
__device__ __forceinline__ uint32_t take_part(float2 &v) {
    const __nv_bfloat162 part = __floats2bfloat162_rn(v.x, v.y);
    v.x -= __low2float(part);
    v.y -= __high2float(part);
    return bits_of(part);
}

/* Weights wider than bf16: PARTS products a fragment. W::values(address): the 8 values of a lane as four pairs. */
template <int BYTES, int PARTS, class Values> struct in_parts : plain_rows<BYTES> {
    using base = plain_rows<BYTES>;
    template <int MT, int NT>
    __device__ static __forceinline__ void add(const slk_linear_params &, float (&acc)[MT][NT][4], uint32_t w,
                                               uint32_t x, uint32_t, int rows) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint4 b[NT];
#pragma unroll
            for (int n = 0; n < NT; n++)
                b[n] = load_x(x + (n * 2 + half) * 512, n * 8 < rows);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                float2 low[4], high[4];
                const uint32_t from = w + (m * base::w16 + half * 2 * base::pieces) * 512;
                Values::get(low, from);
                Values::get(high, from + base::pieces * 512);
#pragma unroll
                for (int part = 0; part < PARTS; part++) {
                    uint32_t l[4], h[4];
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        l[i] = take_part(low[i]);
                        h[i] = take_part(high[i]);
                    }
#pragma unroll
                    for (int n = 0; n < NT; n++) {
                        mma_rows(acc[m][n], {l[0], l[1]}, {h[0], h[1]}, {b[n].x, b[n].y});
                        mma_rows(acc[m][n], {l[2], l[3]}, {h[2], h[3]}, {b[n].z, b[n].w});
                    }
                }
            }
        }
    }
};

struct f16_values {
    __device__ static __forceinline__ void get(float2 (&v)[4], uint32_t from) {
        uint4 u = load16(from);
        v[0] = __half22float2(*reinterpret_cast<__half2 *>(&u.x));
        v[1] = __half22float2(*reinterpret_cast<__half2 *>(&u.y));
        v[2] = __half22float2(*reinterpret_cast<__half2 *>(&u.z));
        v[3] = __half22float2(*reinterpret_cast<__half2 *>(&u.w));
    }
};
struct f32_values {
    __device__ static __forceinline__ void get(float2 (&v)[4], uint32_t from) {
        const uint4 u = load16(from), next = load16(from + 512);
        v[0] = {__uint_as_float(u.x), __uint_as_float(u.y)};
        v[1] = {__uint_as_float(u.z), __uint_as_float(u.w)};
        v[2] = {__uint_as_float(next.x), __uint_as_float(next.y)};
        v[3] = {__uint_as_float(next.z), __uint_as_float(next.w)};
    }
};
using of_f16 = in_parts<2, 2, f16_values>;
using of_f32 = in_parts<4, 3, f32_values>;

} // namespace slk

#define LINEAR(kind, mt, rows, blocks, ...)                                                                            \
    SLK_KERNEL __launch_bounds__(256, blocks)                                                                          \
        slk_linear_##kind##_##mt##x##rows(const __grid_constant__ slk_linear_params p) {                               \
        slk::linear<slk::__VA_ARGS__, mt, (rows + 7) / 8>(p);                                                          \
    }

LINEAR(bf16, 1, 8, 2, of_bf16)
LINEAR(bf16, 2, 8, 2, of_bf16)
LINEAR(bf16, 2, 16, 2, of_bf16)
LINEAR(f16, 2, 8, 2, of_f16)
LINEAR(f16, 2, 16, 2, of_f16)
LINEAR(f32, 1, 8, 2, of_f32)
LINEAR(f32, 1, 16, 2, of_f32)
