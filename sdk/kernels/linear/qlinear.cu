/* Few rows times packed weights. See linear_body.cuh, and linear_pack.h for where a code stands.
 *
 * Codes minus their zero are whole numbers of at most 9 bits, exact in bf16; products of a group are summed as such,
 * then multiplied by the scale in f32. So nothing of a weight is rounded. */
#include "linear_body.cuh"

namespace slk {

/* Two halves of a chunk: entries of their scales, and of their zeros behind them. */
template <int BITS> struct of_integers {
    static constexpr int w16 = BITS / 4, x16 = 2, x_bytes = 2, scales = 16;

    __device__ static __forceinline__ float finish(const slk_linear_params &, float sum, int, int) { return sum; }

    /* Along the tiles of a blob. Beyond the end of a row or of the matrix any codes and scales will do, if they are
     * numbers: x, or the use of the output, is none. */
    template <int MT> struct walk {
        const char *codes[MT], *scale[MT];
        int k; /* of the chunk */

        __device__ __forceinline__ void set(const slk_linear_params &p, int n0, int warp, int lane) {
            const int rows = p.act_mul ? 2 * p.n : p.n;
            const int64_t chunks = (p.k + SLK_LINEAR_CHUNK - 1) / SLK_LINEAR_CHUNK;
            k = warp * SLK_LINEAR_CHUNK;
#pragma unroll
            for (int m = 0; m < MT; m++) {
                const int row = n0 + m * p.pair, tile = (row < rows ? row : 0) / SLK_LINEAR_TILE;
                codes[m] = static_cast<const char *>(p.w) + (tile * chunks + warp) * (w16 * 512) + lane * 16;
                scale[m] = static_cast<const char *>(p.scale) +
                           (static_cast<int64_t>(tile) * p.groups * 8 + lane / 4) * (p.asym ? 8 : 4);
            }
        }
        __device__ __forceinline__ void ask_scale(const slk_linear_params &p, int half, uint32_t to) const {
            const uint32_t unit = k / 32 + half;
            int group = static_cast<int>(static_cast<uint64_t>(unit) * p.magic >> 31);
            group = group < p.groups ? group : p.groups - 1;
#pragma unroll
            for (int m = 0; m < MT; m++)
                if (p.asym)
                    copy8(to + m * 128 + half * 8, scale[m] + static_cast<uint32_t>(group) * 64);
                else
                    copy4(to + m * 128 + half * 8, scale[m] + static_cast<uint32_t>(group) * 32);
        }
        __device__ __forceinline__ void ask(const slk_linear_params &p, uint32_t to, uint32_t scales_to,
                                            uint64_t policy) const {
            const int bytes = k < p.k ? 16 : 0;
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int i = 0; i < w16; i++)
                    copy_weights(to + (m * w16 + i) * 512, codes[m] + i * 512, bytes, policy);
            if (threadIdx.x % 4 == 0) {
                ask_scale(p, 0, scales_to);
                if (p.fine)
                    ask_scale(p, 1, scales_to);
            }
        }
        __device__ __forceinline__ void advance() {
            k += ROUND;
#pragma unroll
            for (int m = 0; m < MT; m++)
                codes[m] += SLK_LINEAR_WARPS * w16 * 512;
        }
    };

    template <int NT>
    __device__ static __forceinline__ void add_scaled(float (&acc)[NT][4], float (&part)[NT][4], uint32_t scale) {
        const float2 s = __half22float2(*reinterpret_cast<__half2 *>(&scale));
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                acc[n][i] = fmaf(i < 2 ? s.x : s.y, part[n][i], acc[n][i]);
                part[n][i] = 0;
            }
    }

    /* Eight codes of one row, less the zero, as four pairs. */
    __device__ static __forceinline__ void expand(uint32_t (&v)[4], uint2 codes, uint32_t zero);

    template <int MT, int NT>
    __device__ static __forceinline__ void add(const slk_linear_params &p, float (&acc)[MT][NT][4], uint32_t w,
                                               uint32_t x, uint32_t scales_from, int rows) {
        uint4 b[2][NT];
#pragma unroll
        for (int n = 0; n < NT; n++) {
            b[0][n] = load_x(x + n * 2 * 512, n * 8 < rows);
            b[1][n] = load_x(x + (n * 2 + 1) * 512, n * 8 < rows);
        }
#pragma unroll
        for (int m = 0; m < MT; m++) {
            float part[NT][4] = {};
            uint2 entry = load8(scales_from + m * 128);
            uint4 codes[w16];
#pragma unroll
            for (int i = 0; i < w16; i++)
                codes[i] = load16(w + (m * w16 + i) * 512);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                uint32_t zero = BITS == 4 ? 0x43084308u : 0x43004300u; /* 128 + 8; 128 */
                if (p.asym)
                    zero = entry.y;
                const uint4 c = codes[half * (w16 - 1)];
                const uint2 of_low = BITS == 8 ? make_uint2(c.x, c.y) : make_uint2(half ? c.z : c.x, 0);
                const uint2 of_high = BITS == 8 ? make_uint2(c.z, c.w) : make_uint2(half ? c.w : c.y, 0);
                uint32_t low[4], high[4];
                expand(low, of_low, __byte_perm(zero, 0, 0x1010));
                expand(high, of_high, __byte_perm(zero, 0, 0x3232));
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    mma_rows(part[n], {low[0], low[1]}, {high[0], high[1]}, {b[half][n].x, b[half][n].y});
                    mma_rows(part[n], {low[2], low[3]}, {high[2], high[3]}, {b[half][n].z, b[half][n].w});
                }
                if (half == 0 && p.fine) {
                    add_scaled<NT>(acc[m], part, entry.x);
                    entry = load8(scales_from + m * 128 + 8);
                }
            }
            add_scaled<NT>(acc[m], part, entry.x);
        }
    }
};

/* A nibble in the last bits of bf16 128.0 is 128 + code; zero is 128 + zero. */
template <> __device__ __forceinline__ void of_integers<4>::expand(uint32_t (&v)[4], uint2 codes, uint32_t zero) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t c;
        asm("lop3.b32 %0, %1, 0x000f000f, 0x43004300, 0xea;" : "=r"(c) : "r"(codes.x >> (4 * i)));
        const __nv_bfloat162 d =
            __hsub2(*reinterpret_cast<__nv_bfloat162 *>(&c), *reinterpret_cast<__nv_bfloat162 *>(&zero));
        v[i] = *reinterpret_cast<const uint32_t *>(&d);
    }
}
/* A byte in the last bits of 2^23 is 2^23 + code in f32. */
template <> __device__ __forceinline__ void of_integers<8>::expand(uint32_t (&v)[4], uint2 codes, uint32_t zero) {
    const float z = 8388608.0f + __uint_as_float(zero << 16);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t four = i < 2 ? codes.x : codes.y;
        const float a = __uint_as_float(__byte_perm(four, 0x4b000000u, i % 2 ? 0x7652 : 0x7650)) - z;
        const float b = __uint_as_float(__byte_perm(four, 0x4b000000u, i % 2 ? 0x7653 : 0x7651)) - z;
        const __nv_bfloat162 d = __floats2bfloat162_rn(a, b);
        v[i] = *reinterpret_cast<const uint32_t *>(&d);
    }
}
using of_int4 = of_integers<4>;
using of_int8 = of_integers<8>;

/* Both sides e4m3, weights in plain rows: a lane has inputs 16 t .. 16 t + 15 of a chunk, 32 inputs a product; each
 * product's sum is added in f32, whatever the tensor core keeps inside. */
struct of_e4m3 {
    static constexpr int w16 = 2, x16 = 1, x_bytes = 1, scales = 0;

    template <int MT> using walk = typename row_walk<1, 1, 1>::template of<MT>;
    template <int MT, int NT>
    __device__ static __forceinline__ void add(const slk_linear_params &, float (&acc)[MT][NT][4], uint32_t w,
                                               uint32_t x, uint32_t, int rows) {
        uint4 b[NT];
#pragma unroll
        for (int n = 0; n < NT; n++)
            b[n] = load_x(x + n * 512, n * 8 < rows);
#pragma unroll
        for (int m = 0; m < MT; m++) {
            const uint4 low = load16(w + m * 1024), high = load16(w + m * 1024 + 512);
#pragma unroll
            for (int n = 0; n < NT; n++) {
                float first[4] = {}, second[4] = {};
                mma_e4m3(first, low.x, high.x, low.y, high.y, b[n].x, b[n].y);
                mma_e4m3(second, low.z, high.z, low.w, high.w, b[n].z, b[n].w);
#pragma unroll
                for (int i = 0; i < 4; i++)
                    acc[m][n][i] = acc[m][n][i] + first[i] + second[i];
            }
        }
    }
    __device__ static __forceinline__ float finish(const slk_linear_params &p, float sum, int t, int row) {
        return sum * (p.x_scale[t] * static_cast<const float *>(p.scale)[row]);
    }
};

} // namespace slk

#define LINEAR(kind, mt, nt)                                                                                           \
    SLK_KERNEL __launch_bounds__(256, 2)                                                                               \
        slk_linear_##kind##_##mt##x##nt(const __grid_constant__ slk_linear_params p) {                                 \
        slk::linear<slk::of_##kind, mt, nt / 8>(p);                                                                    \
    }

LINEAR(int8, 1, 8)
LINEAR(int8, 2, 8)
LINEAR(int8, 2, 16)
LINEAR(int4, 1, 8)
LINEAR(int4, 2, 8)
LINEAR(int4, 2, 16)
LINEAR(e4m3, 1, 8)
LINEAR(e4m3, 2, 8)
LINEAR(e4m3, 2, 16)
