/* Few rows times packed weights. See linear_body.cuh, and linear_pack.h for where a code stands.
 *
 * Codes become whole numbers of at most 9 bits, exact in bf16, with few instructions: 4 bits become 16 + code, so that
 * 16 + zero times the sum of x is too much, which a product with a row of ones gives; 8 bits become code - 128.
 * Products of a group are summed as such, then multiplied by the scale in f32. So nothing of a weight is rounded. */
#include "linear_body.cuh"

namespace slk {

/* ROWS: 1 or 8 rows of x. PLAIN: no zeros, groups and K are whole chunks: an entry of scales is f16 of rows g and g
 * + 8. Otherwise a chunk has four quarters of 32 inputs, each with such an entry and one of zeros behind it. */
template <int BITS, int ROWS, bool PLAIN> struct of_integers {
    static constexpr int chunk = SLK_LINEAR_CHUNK_PACKED, w16 = BITS / 2, x16 = 4, x_bytes = 2, x_rows = ROWS,
                         scales = PLAIN ? 32 : 256, scale_bytes = PLAIN ? 4 : 8;
    static constexpr bool zeros = ROWS == 8;
    static constexpr int ring(int mt) {
        return ROWS == 8 ? SLK_LINEAR_RING : mt == 1 ? SLK_LINEAR_RING_ONE_PACKED : SLK_LINEAR_RING_ONE;
    }

    __device__ static __forceinline__ float finish(const slk_linear_params &, float sum, int, int) { return sum; }

    /* Along the tiles of a blob. Beyond the end of a row or of the matrix any codes and scales will do, if they are
     * numbers: x, or the use of the output, is none. */
    template <int MT> struct walk {
        const char *codes[MT], *scale[PLAIN ? 1 : MT];
        int k; /* of the chunk */

        __device__ __forceinline__ void set(const slk_linear_params &p, int n0, int warp, int lane) {
            const int rows = p.act_mul ? 2 * p.n : p.n;
            const int64_t chunks = (p.k + SLK_LINEAR_CHUNK - 1) / SLK_LINEAR_CHUNK;
            k = warp * chunk;
#pragma unroll
            for (int m = 0; m < MT; m++) {
                const int row = n0 + m * p.pair, tile = (row < rows ? row : 0) / SLK_LINEAR_TILE;
                codes[m] =
                    static_cast<const char *>(p.w) + tile * chunks * (BITS * 128) + warp * (w16 * 512) + lane * 16;
                const char *of_tile =
                    static_cast<const char *>(p.scale) + static_cast<int64_t>(tile) * p.groups * (p.asym ? 64 : 32);
                if (!PLAIN)
                    scale[m] = of_tile + lane / 4 * (p.asym ? 8 : 4);
                else if (m == 0 || lane / 2 == m) /* lanes 0 and 1 copy of the first tile, 2 and 3 of the second */
                    scale[0] = of_tile + lane % 2 * 16;
            }
        }
        __device__ __forceinline__ int group_of(const slk_linear_params &p, uint32_t quarter) const {
            const int group =
                static_cast<int>(static_cast<uint64_t>((static_cast<uint32_t>(k) >> 5) + quarter) * p.magic >> 31);
            return group < p.groups ? group : p.groups - 1;
        }
        __device__ __forceinline__ void ask(const slk_linear_params &p, uint32_t to, uint32_t scales_to,
                                            uint64_t policy) const {
            const int first = k < p.k ? 16 : 0, second = PLAIN || k + SLK_LINEAR_CHUNK < p.k ? first : 0;
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int i = 0; i < w16; i++)
                    copy_weights(to + (m * w16 + i) * 512, codes[m] + i * 512, i < w16 / 2 ? first : second, policy);
            if (PLAIN) {
                const uint32_t lane = threadIdx.x % 32; /* scales_to is a lane's own place: g is 0 in those that copy */
                if (lane < 2 * MT)
                    copy16(scales_to + lane * 16, scale[0] + static_cast<uint32_t>(group_of(p, 0)) * 32, 16);
                return;
            }
            const uint32_t quarter = threadIdx.x % 4;
            if (p.fine || quarter == 0) {
                const uint32_t group = static_cast<uint32_t>(group_of(p, quarter));
#pragma unroll
                for (int m = 0; m < MT; m++)
                    if (p.asym)
                        copy8(scales_to + m * scales + quarter * 64, scale[PLAIN ? 0 : m] + group * 64);
                    else
                        copy4(scales_to + m * scales + quarter * 64, scale[PLAIN ? 0 : m] + group * 32);
            }
        }
        __device__ __forceinline__ void advance() {
            k += chunk * SLK_LINEAR_WARPS;
#pragma unroll
            for (int m = 0; m < MT; m++)
                codes[m] += SLK_LINEAR_WARPS * w16 * 512;
        }
    };

    /* Adds the products of a group, of which `ones` times the zero is too much. */
    __device__ static __forceinline__ void add_scaled(const slk_linear_params &p, float (&acc)[4],
                                                      const float (&part)[4], const float (&ones)[4], uint2 entry) {
        const float2 s = __half22float2(*reinterpret_cast<__half2 *>(&entry.x));
        float low = BITS == 4 ? 24.0f : 0.0f, high = low;
        if (!PLAIN && p.asym) { /* bf16 of 128 + zero, of zero */
            low = __uint_as_float(entry.y << 16) - (BITS == 4 ? 112.0f : 128.0f);
            high = __uint_as_float(entry.y & 0xffff0000u) - (BITS == 4 ? 112.0f : 128.0f);
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            acc[i] = fmaf(i < 2 ? s.x : s.y, fmaf(i < 2 ? -low : -high, ones[i], part[i]), acc[i]);
    }

    /* Eight codes of one row as four pairs. */
    __device__ static __forceinline__ void expand(uint32_t (&v)[4], uint2 codes) {
        if (BITS == 4) { /* the nibble becomes the upper bits of a mantissa: 16 (1 + code / 16) */
            const uint32_t c = codes.x;
            const uint32_t turned[4] = {c, c >> 4, c >> 8, __funnelshift_r(c, c, 12)};
#pragma unroll
            for (int i = 0; i < 4; i++)
                asm("lop3.b32 %0, %1, 0x00780078, 0x41804180, 0xea;" : "=r"(v[i]) : "r"(turned[i]));
        } else { /* (128 + lower seven bits) + (the highest bit ? -128 : -256) */
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t four = i < 2 ? codes.x : codes.y, two = i % 2 ? four >> 8 : four;
                uint32_t a, b;
                asm("lop3.b32 %0, %1, 0x007f007f, 0x43004300, 0xea;" : "=r"(a) : "r"(two));
                asm("lop3.b32 %0, %1, 0x00800080, 0xc300c300, 0xae;" : "=r"(b) : "r"(two));
                const __nv_bfloat162 sum =
                    __hadd2(*reinterpret_cast<__nv_bfloat162 *>(&a), *reinterpret_cast<__nv_bfloat162 *>(&b));
                v[i] = *reinterpret_cast<const uint32_t *>(&sum);
            }
        }
    }

    template <int MT, int NT>
    __device__ static __forceinline__ void add(const slk_linear_params &p, float (&acc)[MT][NT][4], uint32_t w,
                                               uint32_t x, uint32_t scales_from, int) {
        static_assert(NT == 1, "tiles of 8 rows");
        constexpr uint32_t one = 0x3f803f80u;
        const bool wants_ones = BITS == 4 || (!PLAIN && p.asym);
        float part[MT][4] = {}, ones[4] = {};
        uint2 entry[MT];
#pragma unroll
        for (int m = 0; m < MT; m++)
            entry[m] = PLAIN ? make_uint2(load4(scales_from + m * scales), 0) : load8(scales_from + m * scales);
#pragma unroll
        for (int q = 0; q < 4; q++) {
            const uint4 b = load16(x + q * (ROWS * 64));
            if (wants_ones) {
                mma_bf16(ones, one, one, one, one, b.x, b.y);
                mma_bf16(ones, one, one, one, one, b.z, b.w);
            }
#pragma unroll
            for (int m = 0; m < MT; m++) {
                uint32_t low[4], high[4];
                if (BITS == 4) {
                    const uint2 c = load8(w + (m * w16 + q / 2) * 512 + q % 2 * 8);
                    expand(low, make_uint2(c.x, 0));
                    expand(high, make_uint2(c.y, 0));
                } else {
                    const uint4 c = load16(w + (m * w16 + q) * 512);
                    expand(low, make_uint2(c.x, c.y));
                    expand(high, make_uint2(c.z, c.w));
                }
                mma_rows(part[m], {low[0], low[1]}, {high[0], high[1]}, {b.x, b.y});
                mma_rows(part[m], {low[2], low[3]}, {high[2], high[3]}, {b.z, b.w});
            }
            if (q == 3 || (!PLAIN && p.fine)) {
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    add_scaled(p, acc[m][0], part[m], ones, entry[m]);
                    if (q < 3)
                        entry[m] = load8(scales_from + m * scales + (q + 1) * 64);
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        part[m][i] = 0;
                }
#pragma unroll
                for (int i = 0; i < 4; i++)
                    ones[i] = 0;
            }
        }
    }
};
/* Both sides e4m3, weights in plain rows: a lane has inputs 16 t .. 16 t + 15 of a chunk, 32 inputs a product; each
 * product's sum is added in f32, whatever the tensor core keeps inside. */
struct of_e4m3 {
    static constexpr int chunk = SLK_LINEAR_CHUNK, w16 = 2, x16 = 1, x_bytes = 1, x_rows = 8, scales = 0,
                         scale_bytes = 0;
    static constexpr bool zeros = false;
    static constexpr int ring(int) { return SLK_LINEAR_RING; }

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

#define LINEAR(kind, mt, rows, blocks, ...)                                                                            \
    SLK_KERNEL __launch_bounds__(256, blocks)                                                                          \
        slk_linear_##kind##_##mt##x##rows(const __grid_constant__ slk_linear_params p) {                               \
        slk::linear<slk::__VA_ARGS__, mt, (rows + 7) / 8>(p);                                                          \
    }

#define INTEGERS(bits, rows, one, two)                                                                                 \
    LINEAR(int##bits, 1, rows, one, of_integers<bits, rows, false>)                                                    \
    LINEAR(int##bits, 2, rows, two, of_integers<bits, rows, false>)                                                    \
    LINEAR(int##bits##_plain, 1, rows, one, of_integers<bits, rows, true>)                                             \
    LINEAR(int##bits##_plain, 2, rows, two, of_integers<bits, rows, true>)

INTEGERS(8, 1, 4, 2)
INTEGERS(8, 8, 2, 2)
INTEGERS(4, 1, 4, 3)
INTEGERS(4, 8, 2, 2)
LINEAR(e4m3, 1, 8, 2, of_e4m3)
LINEAR(e4m3, 2, 8, 2, of_e4m3)
LINEAR(e4m3, 2, 16, 2, of_e4m3)
