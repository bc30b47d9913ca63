/* One row times packed integers without zeros, in fast mode, on the tensor cores of integers.
 *
 * Codes of 4 bits become bytes with three instructions for eight of them, where bf16 wants seven: shifts and masks, of
 * which a multiprocessor does half as many as of other instructions, are what holds qlinear.cu back. x becomes whole
 * numbers of 22 bits, as fine as a 2^21st of the power of two above the largest of its chunk, of three digits of 8
 * bits: three columns of the product's eight, where other kernels have one in use. A group's sums are exact, and go to
 * f32 without a conversion; the digits' sums are put together at the end.
 *
 * Bound by memory. A block has 16 warps and 32 rows of w (16 gates and their ups), a warp every 16th chunk of 128
 * inputs, a ring of 6 KB and no barrier but one a tile. Two blocks fit a multiprocessor: of this kernel, or, where its
 * tiles are few, one of what follows, which asks for its weights meanwhile. For 2 KB of codes a warp issues about 270
 * instructions, 110 of them at half speed, of 440 slots that a quarter of a multiprocessor has while they come at 4.3
 * TB/s. Predicted: 88 % of a streaming read where weights are many; a layer of 9 MB 1.5 us above it.
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

    /* Along the weights of a block's tiles: the next chunk to ask for. */
    uint32_t tile, at, left, codes,
        scales; /* chunk; steps of the tile from this one on; bytes from the blob's places */

    __device__ __forceinline__ void begin(const slk_linear_one_params &a, uint32_t warp, uint32_t lane) {
        tile = blockIdx.x, at = warp, left = a.p.steps;
        codes = tile * a.tile_codes + warp * chunk_bytes + lane * 16;
        /* lanes 0 and 1 copy scales of the first 16 rows, 2 and 3 of the second */
        scales = tile * a.tile_scales + lane / 2 * a.pair_scales + lane % 2 * 16;
    }
    /* Asks for it if it is there, and goes on to the next one. */
    __device__ __forceinline__ void ask(const slk_linear_one_params &a, uint32_t to, uint32_t warp, uint32_t lane,
                                        uint64_t policy) {
        if (tile < static_cast<uint32_t>(a.p.tiles)) {
            if (at < a.chunks) {
                const bool second = a.p.act_mul || tile * rows + 16 < static_cast<uint32_t>(a.p.n);
                const char *low = static_cast<const char *>(a.p.w) + codes, *high = low + a.pair_codes;
                to += lane * 16;
                copy_weights(to, low, 16, policy);
                copy_weights(to + 512, low + 512, 16, policy);
                copy_weights(to + chunk_bytes, high, second ? 16 : 0, policy);
                copy_weights(to + chunk_bytes + 512, high + 512, second ? 16 : 0, policy);
                if (lane < (second ? 4 : 2)) {
                    const uint32_t group = __umulhi(at * (chunk / 32 * 2), a.p.magic);
                    copy16(to + scales_at, static_cast<const char *>(a.p.scale) + (scales + group * 32), 16);
                }
            }
            at += warps;
            codes += warps * chunk_bytes;
            if (--left == 0) {
                tile += gridDim.x, at = warp, left = a.p.steps;
                codes += a.jump_codes;
                scales += a.jump_scales;
            }
        }
        commit();
    }

    /* Four inputs of a chunk: lane 8 q + 2 t + h has what lanes t of the product want in word h of inputs 32 q .. 32 q
     * + 31, in the order that nibbles have: 8 t + 0 4 1 5, or 2 6 3 7. */
    __device__ static __forceinline__ uint2 load_inputs(const slk_linear_one_params &a, uint32_t of, uint32_t lane_at) {
        if (of >= a.chunks)
            return make_uint2(0, 0);
        const char *from = static_cast<const char *>(a.p.x) + (of * (chunk * 2) + lane_at);
        return make_uint2(*reinterpret_cast<const uint32_t *>(from), *reinterpret_cast<const uint32_t *>(from + 8));
    }

    /* Writes the digits of a chunk; what the product's sums are to be multiplied with, 1/8 for the codes' included.
     * Inputs over the power of two are at most 2^21, whole when 12582912 is added; 128 more in the lower digits, and 64
     * in the upper one, make them positive, which the bytes' highest bits take back. */
    __device__ static __forceinline__ float put_digits(uint32_t to, uint2 pairs) {
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
        /* Sums of 8 code, less those of 64, in integers from 12582912 on: these are bits of f32, whose difference is
         * exact. */
        constexpr int magic = 0x4b400000;
        int sum[2][4], less[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            sum[0][i] = sum[1][i] = less[i] = magic;
#pragma unroll
        for (int q = 0; q < 4; q++) {
            mma_s8(less, 0x40404040, 0x40404040, 0x40404040, 0x40404040, b[2 * q], b[2 * q + 1]);
#pragma unroll
            for (int m = 0; m < 2; m++) {
                const uint4 v = c[m][q / 2];
                const uint32_t low = q % 2 ? v.z : v.x, high = q % 2 ? v.w : v.y;
                mma_s8(sum[m], low & 0x78787878, high & 0x78787878, __funnelshift_r(low, low, 4) & 0x78787878,
                       __funnelshift_r(high, high, 4) & 0x78787878, b[2 * q], b[2 * q + 1]);
            }
        }
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                acc[m][i] = fmaf((i < 2 ? s[m].x : s[m].y) * times, __int_as_float(sum[m][i]) - __int_as_float(less[i]),
                                 acc[m][i]);
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

    __device__ static __forceinline__ void run(const slk_linear_one_params &a) {
        extern __shared__ __align__(16) char shared[];
        const slk_linear_params &p = a.p;
        float *sums = reinterpret_cast<float *>(shared + warps * warp_bytes); /* of two tiles in turn */
        const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const uint32_t ring = shared_address(shared) + warp * warp_bytes, x_slot = ring + stages * stage_bytes;
        const uint32_t x_to = x_slot + lane / 2 % 4 * 32 + lane / 8 * 8 + lane % 2 * 4;
        const uint32_t x_from = x_slot + min(lane / 4, 2u) * column + lane % 4 * 32;
        const uint32_t x_at = lane / 2 * 16 + lane % 2 * 4;
        uint64_t policy;
        asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));

        let_successor_start();
        one_row weights;
        weights.begin(a, warp, lane);
#pragma unroll 1
        for (int s = 0; s < stages; s++)
            weights.ask(a, ring + s * stage_bytes, warp, lane, policy);
        wait_for_predecessor();
        uint2 inputs = load_inputs(a, warp, x_at);

        float acc[2][4] = {};
        uint32_t here = ring, of = warp, turn = 0, tile = blockIdx.x;
        int step = p.steps;
        while (tile < static_cast<uint32_t>(p.tiles)) {
            wait_copies<stages - 1>();
            __syncwarp(); /* scales that others asked for are there; digits that others read are used */
            const bool there = of < a.chunks;
            float times = 0;
            if (there)
                times = put_digits(x_to, inputs);
            of = --step == 0 ? warp : of + warps;
            inputs = load_inputs(a, of, x_at);
            if (there) {
                __syncwarp();
                add(acc, here + lane * 16, x_from, here + scales_at + lane / 4 * 4, times);
            }
            __syncwarp(); /* all lanes have read the slot */
            weights.ask(a, here, warp, lane, policy);
            here = here + stage_bytes == x_slot ? ring : here + stage_bytes;
            if (step == 0) {
                step = p.steps;
                float *of_tile = sums + turn % 2 * (warps * rows);
                put_sums(of_tile + warp * rows, acc, lane);
#pragma unroll
                for (int i = 0; i < 8; i++)
                    acc[i / 4][i % 4] = 0;
                __syncthreads(); /* before the next but one of a tile its writer comes to the barrier between them */
                if (warp == turn)
                    write(p, tile, of_tile, lane);
                turn = (turn + 1) % warps;
                tile += gridDim.x;
            }
        }
    }
};

} // namespace slk

SLK_KERNEL __launch_bounds__(SLK_LINEAR_ONE_WARPS * 32, 2)
    slk_linear_int4_one(const __grid_constant__ slk_linear_one_params a) {
    slk::one_row::run(a);
}
