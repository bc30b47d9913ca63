/* The body of every product with few rows.
 *
 * Bound by memory: each weight is read once, and used on the tensor cores (16 rows of w as the A operand, 8 rows of x
 * as the B operand), so that 16 rows cost what one costs while x's way from the L2 is not longer than w's. Lanes copy
 * to a ring in shared memory that nobody else touches: no barrier in the loop, 24 to 64 KB on their way for each
 * block, two blocks a multiprocessor, and the ring runs on over the end of a tile. Weights are asked for before the
 * kernel in front has finished.
 *
 * Predicted: 90 % of a streaming read for bf16 and e4m3. Integers have instructions to issue as well: about 80 (tiles
 * of 16 rows) or 65 (of 32) for 512 bytes of plain 4-bit codes, of 116 slots at that speed; 8 bits need half of them.
 *
 * The order of inputs inside of a chunk is whatever makes a lane's 16 bytes whole fragments; x has the same order.
 */
#ifndef SLUICE_KERNELS_LINEAR_BODY_CUH
#define SLUICE_KERNELS_LINEAR_BODY_CUH

#include "device.cuh"
#include "linear_act.cuh"
#include "linear_cuda.h"

namespace slk {

__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/* 16 bytes to shared memory, of which `bytes` (16 or 0) are read and the others zero. Weights have a policy. */
__device__ __forceinline__ void copy_weights(uint32_t to, const void *from, int bytes, uint64_t policy) {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;" ::"r"(to), "l"(from),
                 "r"(bytes), "l"(policy)
                 : "memory");
}
__device__ __forceinline__ void copy16(uint32_t to, const void *from, int bytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy8(uint32_t to, const void *from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void copy4(uint32_t to, const void *from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
__device__ __forceinline__ uint4 load16(uint32_t from) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(from)
                 : "memory");
    return v;
}
__device__ __forceinline__ uint32_t load4(uint32_t from) {
    uint32_t v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(from) : "memory");
    return v;
}
__device__ __forceinline__ uint2 load8(uint32_t from) {
    uint2 v;
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(from) : "memory");
    return v;
}

__device__ __forceinline__ void mma_bf16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                         uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma_e4m3(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                         uint32_t b1) {
#if __CUDA_ARCH__ >= 890
    asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
    __trap(); /* the launcher refuses such devices */
#endif
}

/* 16 inputs of rows g and g + 8, 4 of each a lane, times 8 rows of x. */
__device__ __forceinline__ void mma_rows(float (&c)[4], uint2 low, uint2 high, uint2 x) {
    mma_bf16(c, low.x, high.x, low.y, high.y, x.x, x.y);
}

/* W: how weights are stored. W::chunk: inputs of a chunk; W::w16, W::x16: 16-byte pieces a lane has of it, for 16 rows
 * of w, for 8 rows of x; W::x_rows: 1 or 8, rows of x there is room for; W::scales: bytes of scales for 16 rows of w.
 * W::walk<MT> goes along the weights of a tile: set, ask, advance by eight chunks; W::add multiplies. Addresses are
 * made once a tile; a copy of no bytes may have any. */
template <class W, int MT, int NT> struct ring {
    static constexpr int x_piece = W::x_rows * 64; /* bytes of one piece of all lanes */
    static constexpr int x_at = MT * W::w16 * 512, scales_at = x_at + NT * W::x16 * x_piece,
                         bytes = scales_at + MT * W::scales;
    static constexpr int stages = SLK_LINEAR_STAGES(bytes, W::ring(MT));
    static constexpr int all = SLK_LINEAR_WARPS * stages * bytes; /* then the sums */
    static_assert(all + MT * NT * 4096 <= SLK_LINEAR_SHARED, "shared memory");
};

/* Along rows of x. */
template <class W, int NT> struct x_walk {
    const char *row[NT];
    bool there[NT]; /* rows that are not are never read either, or read as zeros */
    int k;

    __device__ __forceinline__ void set(const slk_linear_params &p, int tile, int warp, int lane) {
        const int row0 = p.blocks == 1 ? 0 : tile % p.blocks * (NT * 8);
        k = warp * W::chunk + (W::x_rows == 1 ? lane : lane % 4) * (16 / W::x_bytes);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const int r = W::x_rows == 1 ? 0 : row0 + n * 8 + lane / 4;
            there[n] = W::x_rows == 1 ? lane < 4 * W::x16 : r < p.t;
            row[n] = static_cast<const char *>(p.x) + (r * p.ldx + k) * W::x_bytes;
        }
    }
    __device__ __forceinline__ void ask(const slk_linear_params &p, uint32_t to) const {
        if constexpr (W::x_rows == 1) { /* a piece a lane */
            if (there[0])
                copy16(to, row[0], k < p.k ? 16 : 0);
        } else {
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int i = 0; i < W::x16; i++)
                    if (W::zeros || there[n])
                        copy16(to + (n * W::x16 + i) * 512, row[n] + i * 32 * W::x_bytes,
                               k + i * 32 < p.k && there[n] ? 16 : 0);
        }
    }
    __device__ __forceinline__ void advance() {
        constexpr int round = W::chunk * SLK_LINEAR_WARPS;
        k += round;
#pragma unroll
        for (int n = 0; n < NT; n++)
            row[n] += round * W::x_bytes;
    }
};

/* Along plain rows of w: PIECES 16-byte pieces of each of HALVES halves of a chunk, of rows g and g + 8. */
template <int BYTES, int HALVES, int PIECES> struct row_walk {
    template <int MT> struct of {
        const char *row[MT][2];
        int bytes[MT][2];
        int k;

        __device__ __forceinline__ void set(const slk_linear_params &p, int n0, int warp, int lane) {
            const int rows = p.act_mul ? 2 * p.n : p.n;
            k = warp * SLK_LINEAR_CHUNK + lane % 4 * (PIECES * 16 / BYTES);
#pragma unroll
            for (int i = 0; i < MT * 2; i++) {
                const int n = n0 + i / 2 * p.pair + i % 2 * 8 + lane / 4;
                bytes[i / 2][i % 2] = n < rows ? 16 : 0;
                row[i / 2][i % 2] = static_cast<const char *>(p.w) + (n * p.ldw + k) * BYTES;
            }
        }
        __device__ __forceinline__ void ask(const slk_linear_params &p, uint32_t to, uint32_t, uint64_t policy) const {
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int i = 0; i < HALVES * 2 * PIECES; i++) { /* half, row, piece */
                    const int half = i / (2 * PIECES), r = i / PIECES % 2;
                    copy_weights(to + (m * HALVES * 2 * PIECES + i) * 512,
                                 row[m][r] + half * 32 * BYTES + i % PIECES * 16, k + half * 32 < p.k ? bytes[m][r] : 0,
                                 policy);
                }
        }
        __device__ __forceinline__ void advance() {
            constexpr int round = SLK_LINEAR_CHUNK * SLK_LINEAR_WARPS;
            k += round;
#pragma unroll
            for (int i = 0; i < MT * 2; i++)
                row[i / 2][i % 2] += round * BYTES;
        }
    };
};

/* Rows of x in a tile, less this lane's first. */
template <int NT> __device__ __forceinline__ int rows_from(const slk_linear_params &p, int tile, int lane) {
    return p.t - (p.blocks == 1 ? 0 : tile % p.blocks * (NT * 8)) - lane / 4;
}
__device__ __forceinline__ uint4 load_x(uint32_t from, bool there) {
    uint4 v = {0, 0, 0, 0};
    if (there)
        v = load16(from);
    return v;
}

/* First row of w of a tile. */
template <int MT> __device__ __forceinline__ int first_row(const slk_linear_params &p, int tile) {
    return (p.blocks == 1 ? tile : tile / p.blocks) * (p.act_mul ? SLK_LINEAR_TILE : MT * SLK_LINEAR_TILE);
}

/* The warps' sums of a tile, added and written: 16 outputs (act_mul: 16 pairs) a tile of w, for 8 rows a tile of x. */
template <class W, int MT, int NT>
__device__ __forceinline__ void write_tile(const slk_linear_params &p, int tile, const float *sums) {
    const int n0 = first_row<MT>(p, tile);
    const int row0 = tile % p.blocks * (NT * 8);
    const int count = (p.act_mul ? 1 : MT) * NT * 128;
    for (int i = threadIdx.x; i < count; i += SLK_LINEAR_WARPS * 32) {
        const int j = i % 16, column = i / 16 % 8, nt = i / 128 % NT, m = i / (128 * NT);
        const int t = row0 + nt * 8 + column, n = n0 + m * 16 + j;
        if (t >= p.t || n >= p.n)
            continue;
        const int place = (j / 8 * 2 + column % 2) * 32 + j % 8 * 4 + column / 2;
        float v[2];
#pragma unroll
        for (int half = 0; half < (MT == 2 ? 2 : 1); half++) {
            if (half == 1 && !p.act_mul)
                break;
            const float *s = sums + ((m + half) * NT + nt) * 128 + place;
            float sum = 0;
#pragma unroll
            for (int w = 0; w < SLK_LINEAR_WARPS; w++)
                sum += s[w * MT * NT * 128];
            const int row = n + half * p.n;
            sum = W::finish(p, sum, t, row);
            v[half] = p.bias != nullptr ? sum + p.bias[row] : sum;
        }
        float y = v[0];
        if (MT == 2 && p.act_mul)
            y = activate(p.act, v[0]) * v[1];
        if (p.residual != nullptr)
            y += p.residual[t * p.ldr + n];
        if (p.y_bf16)
            static_cast<bf16 *>(p.y)[t * p.ldy + n] = __float2bfloat16_rn(y);
        else
            static_cast<float *>(p.y)[t * p.ldy + n] = y;
    }
}

template <class W, int MT, int NT> __device__ __forceinline__ void linear(const slk_linear_params &p) {
    using R = ring<W, MT, NT>;
    extern __shared__ __align__(16) char shared[];
    float *sums = reinterpret_cast<float *>(shared + R::all);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t mine = shared_address(shared) + warp * (R::stages * R::bytes) + lane * 16;
    const uint32_t mine_scales = mine - lane * 16 + R::scales_at + lane / 4 * W::scale_bytes;
    /* Where there is room for one row, all columns are that row; the first is kept. */
    const uint32_t mine_x = mine + R::x_at - (W::x_rows == 1 ? lane / 4 * 64 : 0);
    uint64_t policy;
    if (p.blocks == 1)
        asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    else /* other blocks of rows want the same weights */
        asm("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));

    let_successor_start();
    /* Weights and x are asked for apart at first, then side by side; `left` counts the chunks of a tile. */
    const int stride = gridDim.x;
    typename W::template walk<MT> weights;
    x_walk<W, NT> inputs;
    int asked = blockIdx.x, left = p.steps;
    weights.set(p, first_row<MT>(p, asked), warp, lane);
#pragma unroll 1
    for (int s = 0; s < R::stages; s++) {
        if (asked >= p.tiles)
            break;
        weights.ask(p, mine + s * R::bytes, mine_scales + s * R::bytes, policy);
        weights.advance();
        if (--left == 0) {
            left = p.steps;
            asked += stride;
            weights.set(p, first_row<MT>(p, asked), warp, lane);
        }
    }
    wait_for_predecessor();
    asked = blockIdx.x, left = p.steps;
    inputs.set(p, asked, warp, lane);
#pragma unroll 1
    for (int s = 0; s < R::stages; s++) {
        if (asked < p.tiles) {
            inputs.ask(p, mine + s * R::bytes + R::x_at);
            inputs.advance();
            if (--left == 0) {
                left = p.steps;
                asked += stride;
                inputs.set(p, asked, warp, lane);
            }
        }
        commit();
    }

    float acc[MT][NT][4] = {};
    int slot = 0, tile = blockIdx.x, step = 0;
    int rows = rows_from<NT>(p, tile, lane);
    while (tile < p.tiles) {
        const uint32_t here = slot * R::bytes;
        wait_copies<R::stages - 1>();
        if (W::scales > 0 || W::x_rows == 1)
            __syncwarp(); /* lanes read what others asked for */
        W::template add<MT, NT>(p, acc, mine + here, mine_x + here, mine_scales + here, rows);
        /* The fragments are in registers by now, so that the slot can be written. */
        if (asked < p.tiles) {
            weights.ask(p, mine + here, mine_scales + here, policy);
            inputs.ask(p, mine + here + R::x_at);
            weights.advance();
            inputs.advance();
            if (--left == 0) {
                left = p.steps;
                asked += stride;
                weights.set(p, first_row<MT>(p, asked), warp, lane);
                inputs.set(p, asked, warp, lane);
            }
        }
        commit();
        slot = slot + 1 == R::stages ? 0 : slot + 1;

        if (++step == p.steps) {
            step = 0;
            float *own = sums + warp * MT * NT * 128 + lane;
#pragma unroll
            for (int i = 0; i < MT * NT * 4; i++) {
                own[i * 32] = acc[i / (NT * 4)][i / 4 % NT][i % 4];
                acc[i / (NT * 4)][i / 4 % NT][i % 4] = 0;
            }
            __syncthreads();
            write_tile<W, MT, NT>(p, tile, sums);
            __syncthreads();
            tile += stride;
            rows = rows_from<NT>(p, tile, lane);
        }
    }
}

} // namespace slk

#endif
