/* One row times packed integers without zeros, in fast mode, on the tensor cores of integers.
 *
 * Codes of 4 bits become bytes with three instructions for eight of them, where bf16 wants seven: shifts and masks, of
 * which a multiprocessor does half as many as of other instructions, are what holds qlinear.cu back. x becomes whole
 * numbers of 22 bits, as fine as a 2^21st of the power of two above the largest of its chunk, of three digits of 8
 * bits: three columns of the product's eight, where other kernels have one in use. A group's sums are exact, and go to
 * f32 without a conversion; the digits' sums are put together at the end.
 *
 * Bound by memory. A block has 16 warps and 32 rows of w (16 gates and their ups), a warp every 16th chunk of 128
 * inputs, a ring of 6 KB and no barrier but one a tile. Two blocks fit a multiprocessor, so that what follows has a
 * block of its own in each to ask for its weights while this one works. For 2 KB of codes a warp issues about 190
 * instructions, 90 of them at half speed: 720 cycles of the 1770 in which they come at 4.3 TB/s. Predicted: 90 % of a
 * streaming read where weights are many; a layer of 9 MB 1.5 us above it.
 */
#include "linear_body.cuh"

namespace slk {

__device__ __forceinline__ void mma_s8(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                       uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void store4(uint32_t to, uint32_t v) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(v) : "memory");
}

struct one_row {
    static constexpr int warps = SLK_LINEAR_ONE_WARPS, stages = 3, chunk = SLK_LINEAR_CHUNK_PACKED, chunk_bytes = 1024,
                         scales_at = 2 * chunk_bytes, stage_bytes = scales_at + 64, column = 144, x_bytes = 448,
                         warp_bytes = stages * stage_bytes + x_bytes, rows = 32;
    static_assert(warps * (warp_bytes + 2 * rows * 4) == SLK_LINEAR_ONE_SHARED, "shared memory");

    /* Along the weights of a tile. */
    const char *codes[2], *scale;
    int at; /* chunk */

    __device__ __forceinline__ void set(const slk_linear_params &p, int tile, int chunks, int warp, int lane) {
        const int all = p.act_mul ? 2 * p.n : p.n;
        at = warp;
#pragma unroll
        for (int m = 0; m < 2; m++) {
            const int row = tile * (p.act_mul ? 16 : rows) + m * p.pair;
            const int64_t of = (row < all ? row : 0) / SLK_LINEAR_TILE; /* beyond the end any numbers will do */
            codes[m] = static_cast<const char *>(p.w) + (of * chunks + warp) * chunk_bytes + lane * 16;
            if (lane / 2 == m) /* lanes 0 and 1 copy scales of the first tile, 2 and 3 of the second */
                scale = static_cast<const char *>(p.scale) + of * p.groups * 32 + lane % 2 * 16;
        }
    }
    __device__ __forceinline__ void ask(const slk_linear_params &p, uint32_t to, int chunks, int lane,
                                        uint64_t policy) const {
        if (at >= chunks)
            return;
#pragma unroll
        for (int i = 0; i < 4; i++)
            copy_weights(to + i * 512 + lane * 16, codes[i / 2] + i % 2 * 512, 16, policy);
        if (lane < 4) {
            const uint32_t group = static_cast<uint32_t>(static_cast<uint64_t>(at * (chunk / 32)) * p.magic >> 31);
            copy16(to + scales_at + lane * 16, scale + group * 32, 16);
        }
    }
    __device__ __forceinline__ void advance() {
        at += warps;
        codes[0] += warps * chunk_bytes;
        codes[1] += warps * chunk_bytes;
    }

    /* Four inputs of a chunk: lane 8 q + 2 t + h has what lanes t of the product want in word h of inputs 32 q .. 32 q
     * + 31, in the order that nibbles have: 8 t + 0 4 1 5, or 2 6 3 7. */
    __device__ static __forceinline__ uint2 load_inputs(const slk_linear_params &p, int of, int chunks, int lane) {
        if (of >= chunks)
            return make_uint2(0, 0);
        const char *from = static_cast<const char *>(p.x) + of * (chunk * 2) + lane / 2 * 16 + lane % 2 * 4;
        return make_uint2(*reinterpret_cast<const uint32_t *>(from), *reinterpret_cast<const uint32_t *>(from + 8));
    }

    /* Writes the digits of a chunk; what the product's sums are to be multiplied with, 1/8 for the codes' included.
     * Inputs over the power of two are at most 2^21, whole when 12582912 is added; 128 more in the lower digits, and 64
     * in the upper one, make them positive, which the bytes' highest bits take back. */
    __device__ static __forceinline__ float put_digits(uint32_t to, uint2 pairs, int lane) {
        const uint32_t both = __vmaxu2(pairs.x & 0x7fff7fff, pairs.y & 0x7fff7fff);
        const uint32_t size = __reduce_max_sync(0xffffffffu, max(both & 0xffff, both >> 16));
        const uint32_t exponent = max(size >> 7, 24u); /* |x| < 2^(exponent - 126) */
        const float times = __uint_as_float((274 - exponent) << 23);
        const float magic = 12582912.0f + 32896.0f;
        const uint32_t a = __float_as_uint(fmaf(__uint_as_float(pairs.x << 16), times, magic)),
                       b = __float_as_uint(fmaf(__uint_as_float(pairs.y << 16), times, magic)),
                       c = __float_as_uint(fmaf(__uint_as_float(pairs.x & 0xffff0000u), times, magic)),
                       d = __float_as_uint(fmaf(__uint_as_float(pairs.y & 0xffff0000u), times, magic));
        const uint32_t ab = __byte_perm(a, b, 0x5140), cd = __byte_perm(c, d, 0x5140);
        const uint32_t high = __byte_perm(__byte_perm(a, b, 0x0062), __byte_perm(c, d, 0x0062), 0x5410);
        store4(to, (high + 0x40404040u) ^ 0x80808080u);
        store4(to + column, __byte_perm(ab, cd, 0x7632) ^ 0x80808080u);
        store4(to + 2 * column, __byte_perm(ab, cd, 0x5410) ^ 0x80808080u);
        return __uint_as_float(size >= 0x7f80 ? 0x7fffffffu : (exponent - 23) << 23); /* not a number: likewise */
    }

    __device__ static __forceinline__ void add(float (&acc)[2][4], uint32_t w, uint32_t x, uint32_t scales,
                                               float times) {
        const uint4 first = load16(x), second = load16(x + 16);
        const uint32_t b[8] = {first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w};
        uint4 c[2][2];
        float2 s[2];
#pragma unroll
        for (int m = 0; m < 2; m++) {
            c[m][0] = load16(w + m * chunk_bytes);
            c[m][1] = load16(w + m * chunk_bytes + 512);
            const uint32_t entry = load4(scales + m * 32);
            s[m] = __half22float2(*reinterpret_cast<const __half2 *>(&entry));
        }
        /* 8 code - 64 is summed, in integers from 12582912 on, which are the bits of f32. */
        constexpr int magic = 0x4b400000;
        int sum[2][4], less[4] = {magic, magic, magic, magic};
#pragma unroll
        for (int q = 0; q < 4; q++)
            mma_s8(less, 0xc0c0c0c0u, 0xc0c0c0c0u, 0xc0c0c0c0u, 0xc0c0c0c0u, b[2 * q], b[2 * q + 1]);
#pragma unroll
        for (int i = 0; i < 8; i++)
            sum[i / 4][i % 4] = less[i % 4];
#pragma unroll
        for (int q = 0; q < 4; q++)
#pragma unroll
            for (int m = 0; m < 2; m++) {
                const uint4 v = c[m][q / 2];
                const uint32_t low = q % 2 ? v.z : v.x, high = q % 2 ? v.w : v.y;
                mma_s8(sum[m], low & 0x78787878, high & 0x78787878, __funnelshift_r(low, low, 4) & 0x78787878,
                       __funnelshift_r(high, high, 4) & 0x78787878, b[2 * q], b[2 * q + 1]);
            }
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                acc[m][i] = fmaf((i < 2 ? s[m].x : s[m].y) * times, __int_as_float(sum[m][i]) - 12582912.0f, acc[m][i]);
    }

    /* A warp's outputs, from the digits' sums: columns 0 and 1 are in lanes of t = 0, 2 in those of t = 1. */
    __device__ static __forceinline__ void put_sums(float *to, const float (&acc)[2][4], int lane) {
#pragma unroll
        for (int m = 0; m < 2; m++) {
            float v[2];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                v[r] = lane % 4 == 0 ? fmaf(acc[m][2 * r], 65536.0f, acc[m][2 * r + 1] * 256.0f) : acc[m][2 * r];
                v[r] += __shfl_xor_sync(0xffffffffu, v[r], 1);
            }
            if (lane % 4 == 0) {
                to[m * 16 + lane / 4] = v[0];
                to[m * 16 + 8 + lane / 4] = v[1];
            }
        }
    }

    __device__ static __forceinline__ void write(const slk_linear_params &p, int tile, const float *sums, int lane) {
        const int n = tile * (p.act_mul ? 16 : rows) + (p.act_mul ? lane % 16 : lane);
        const int row = p.act_mul && lane >= 16 ? n + p.n : n;
        const bool mine = n < p.n && !(p.act_mul && lane >= 16);
        const float add = mine && p.residual != nullptr ? p.residual[n] : 0.0f; /* on its way while sums are added */
        float sum = 0;
#pragma unroll
        for (int w = 0; w < warps; w++)
            sum += sums[w * rows + lane];
        if (p.bias != nullptr && n < p.n)
            sum += p.bias[row];
        const float up = __shfl_down_sync(0xffffffffu, sum, 16);
        if (!mine)
            return;
        const float y = (p.act_mul ? activate(p.act, sum) * up : sum) + add;
        if (p.y_bf16)
            static_cast<bf16 *>(p.y)[n] = __float2bfloat16_rn(y);
        else
            static_cast<float *>(p.y)[n] = y;
    }

    __device__ static __forceinline__ void run(const slk_linear_params &p) {
        extern __shared__ __align__(16) char shared[];
        float *sums = reinterpret_cast<float *>(shared + warps * warp_bytes); /* of two tiles in turn */
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, chunks = p.k / chunk, stride = gridDim.x;
        const uint32_t ring = shared_address(shared) + warp * warp_bytes, x_slot = ring + stages * stage_bytes;
        const uint32_t x_to = x_slot + lane / 2 % 4 * 32 + lane / 8 * 8 + lane % 2 * 4;
        const uint32_t x_from = x_slot + min(lane / 4, 2) * column + lane % 4 * 32;
        uint64_t policy;
        asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));

        let_successor_start();
        one_row weights;
        int asked = blockIdx.x, left = p.steps;
        weights.set(p, asked, chunks, warp, lane);
#pragma unroll 1
        for (int s = 0; s < stages; s++) {
            if (asked < p.tiles) {
                weights.ask(p, ring + s * stage_bytes, chunks, lane, policy);
                weights.advance();
                if (--left == 0) {
                    left = p.steps;
                    asked += stride;
                    weights.set(p, asked, chunks, warp, lane);
                }
            }
            commit();
        }
        wait_for_predecessor();
        uint2 inputs = load_inputs(p, warp, chunks, lane);

        float acc[2][4] = {};
        int slot = 0, step = 0, turn = 0, tile = blockIdx.x;
        while (tile < p.tiles) {
            const uint32_t here = ring + slot * stage_bytes;
            const int of = step * warps + warp;
            wait_copies<stages - 1>();
            __syncwarp(); /* scales that others asked for are there; digits that others read are used */
            if (of < chunks) {
                const float times = put_digits(x_to, inputs, lane);
                inputs = load_inputs(p, step + 1 == p.steps ? warp : of + warps, chunks, lane);
                __syncwarp();
                add(acc, here + lane * 16, x_from, here + scales_at + lane / 4 * 4, times);
            } else
                inputs = load_inputs(p, warp, chunks, lane); /* it was the last step */
            __syncwarp();                                    /* the slot is read */
            if (asked < p.tiles) {
                weights.ask(p, here, chunks, lane, policy);
                weights.advance();
                if (--left == 0) {
                    left = p.steps;
                    asked += stride;
                    weights.set(p, asked, chunks, warp, lane);
                }
            }
            commit();
            slot = slot + 1 == stages ? 0 : slot + 1;
            if (++step == p.steps) {
                step = 0;
                float *of_tile = sums + turn % 2 * (warps * rows);
                put_sums(of_tile + warp * rows, acc, lane);
#pragma unroll
                for (int i = 0; i < 8; i++)
                    acc[i / 4][i % 4] = 0;
                __syncthreads(); /* before the next but one of a tile its writer comes to the barrier between them */
                if (warp == turn)
                    write(p, tile, of_tile, lane);
                turn = (turn + 1) % warps;
                tile += stride;
            }
        }
    }
};

} // namespace slk

SLK_KERNEL __launch_bounds__(SLK_LINEAR_ONE_WARPS * 32, 2)
    slk_linear_int4_one(const __grid_constant__ slk_linear_params p) {
    slk::one_row::run(p);
}
