/* Batches of up to 64 rows times bf16 weights: each weight is read once and multiplied with all rows.
 *
 * Bound by memory still. A block has 128 rows of w (a gated block: 64 gates and their 64 ups) and a part of K; the
 * blocks of a cluster have the other parts and add theirs through each other's shared memory, in ascending order, so
 * that partial sums never leave the chip. A slab of 64 inputs is a panel of rows of 128 bytes, swizzled, of w and of
 * x; each of two warpgroups multiplies 64 rows of w with 64 rows of x. Rows of x that are not there are zeros and cost
 * no traffic; a row's sums have one order whatever T is.
 *
 * A slab is 16 KB of w, which takes 880 cycles to come where every multiprocessor has a block (1770 with two); its
 * products take 200 from one barrier to the next. One thread of a ninth warp asks for panels, by maps of both matrices.
 * x comes from the L2, half as many bytes as w at 64 rows. Predicted: 90 % of a streaming read for few rows; 85 % at
 * 64, whose rows and sums go 1.5 us a layer.
 */
#include "hopper.cuh"
#include "linear_body.cuh"

namespace slk {

/* c [64, 64] += a [64, 16] b [64, 16]^T. */
__device__ __forceinline__ void multiply(float (&c)[32], uint64_t a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "%32, %33, 1, 1, 1, 0, 0;"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]),
                   "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]),
                   "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]),
                   "+f"(c[23]), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]),
                   "+f"(c[30]), "+f"(c[31])
                 : "l"(a), "l"(b));
}
/* The arrival of a thread that announces so many bytes. */
__device__ __forceinline__ void barrier_expect(uint32_t barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
/* 64 inputs from `input` on of 64 rows, as a panel; what is outside of the matrix is zeros. */
__device__ __forceinline__ void bring(uint32_t to, const slk_tensor_map &map, int input, int row, uint32_t full,
                                      uint64_t policy) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(&map), "r"(input), "r"(row), "r"(full), "l"(policy)
                 : "memory");
}

struct batch {
    static constexpr int stages = 4, panel_bytes = 8192, w_bytes = 2 * panel_bytes, stage_bytes = 3 * panel_bytes,
                         slab = 64, outputs = 128, sums_row = outputs + 4, most_splits = 4, warps = 8;
    static constexpr int barriers_at = stages * stage_bytes;
    static_assert(barriers_at + 64 == SLK_LINEAR_BATCH_SHARED && stages * 16 <= 64, "shared memory");
    static_assert(SLK_LINEAR_BATCH_ROWS * sums_row * 4 <= barriers_at, "shared memory");

    /* Four outputs of a row of x from the blocks' sums. */
    __device__ static __forceinline__ float4 sum_of(uint32_t at, int splits) {
        float4 part[most_splits];
#pragma unroll
        for (int r = 0; r < most_splits; r++)
            if (r < splits)
                part[r] = load_remote4(in_block(at, r));
        float4 sum = part[0];
#pragma unroll
        for (int r = 1; r < most_splits; r++)
            if (r < splits)
                sum.x += part[r].x, sum.y += part[r].y, sum.z += part[r].z, sum.w += part[r].w;
        return sum;
    }

    __device__ static __forceinline__ void write(const slk_linear_params &p, int tile, uint32_t sums, uint32_t rank) {
        const int splits = p.blocks, width = p.act_mul ? outputs / 2 : outputs, fours = width / 4;
        const bool wide =
            p.n % 4 == 0 && p.ldy % 4 == 0 && reinterpret_cast<uint64_t>(p.y) % 16 == 0 &&
            (p.residual == nullptr || (p.ldr % 4 == 0 && reinterpret_cast<uint64_t>(p.residual) % 16 == 0));
        for (int i = rank * 256 + threadIdx.x; i < fours * p.t; i += splits * 256) {
            const int j = i % fours * 4, t = i / fours, n = tile * width + j;
            if (n >= p.n)
                continue;
            const uint32_t at = sums + (t * sums_row + j) * 4;
            const int64_t to = t * p.ldy + n, from = t * p.ldr + n;
            float4 add = {0, 0, 0, 0}; /* on its way while sums are added */
            if (p.residual != nullptr && wide)
                add = *reinterpret_cast<const float4 *>(p.residual + from);
            const float4 first = sum_of(at, splits), second = p.act_mul ? sum_of(at + 256, splits) : first;
            float y[4] = {first.x, first.y, first.z, first.w};
            const float up[4] = {second.x, second.y, second.z, second.w}, more[4] = {add.x, add.y, add.z, add.w};
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if (n + e >= p.n)
                    break;
                if (p.bias != nullptr)
                    y[e] += p.bias[n + e];
                if (p.act_mul)
                    y[e] = activate(p.act, y[e]) * (p.bias != nullptr ? up[e] + p.bias[n + e + p.n] : up[e]);
                if (p.residual != nullptr)
                    y[e] += wide ? more[e] : p.residual[from + e];
                if (!wide && p.y_bf16)
                    static_cast<bf16 *>(p.y)[to + e] = __float2bfloat16_rn(y[e]);
                else if (!wide)
                    static_cast<float *>(p.y)[to + e] = y[e];
            }
            if (wide && p.y_bf16) {
                const __nv_bfloat162 low = __floats2bfloat162_rn(y[0], y[1]), high = __floats2bfloat162_rn(y[2], y[3]);
                *reinterpret_cast<uint2 *>(static_cast<bf16 *>(p.y) + to) =
                    make_uint2(*reinterpret_cast<const uint32_t *>(&low), *reinterpret_cast<const uint32_t *>(&high));
            } else if (wide)
                *reinterpret_cast<float4 *>(static_cast<float *>(p.y) + to) = make_float4(y[0], y[1], y[2], y[3]);
        }
    }

    /* One thread asks for everything: weights as far as there is room, and x once it is there. */
    __device__ static __forceinline__ void ask(const slk_linear_batch_params &a, uint32_t base, int tile, int first,
                                               int steps) {
        const slk_linear_params &p = a.p;
        const int row0 = p.act_mul ? tile * 64 : tile * outputs, row1 = p.act_mul ? p.n + row0 : row0 + 64;
        uint64_t once, again;
        asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(once));
        asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(again));
        auto ask_w = [&](int s, uint32_t to, uint32_t full) {
            barrier_expect(full, stage_bytes);
            bring(to, a.w, (first + s) * slab, row0, full, once);
            bring(to + panel_bytes, a.w, (first + s) * slab, row1, full, once);
        };
        asm volatile("prefetch.tensormap [%0];" ::"l"(&a.x) : "memory");
#pragma unroll 1
        for (int s = 0; s < stages && s < steps; s++)
            ask_w(s, base + s * stage_bytes, base + barriers_at + s * 8);
        wait_for_predecessor();
#pragma unroll 1
        for (int s = 0; s < steps; s++) {
            const int slot = s % stages;
            const uint32_t to = base + slot * stage_bytes, full = base + barriers_at + slot * 8;
            if (s >= stages) {
                barrier_wait(full + stages * 8, (s / stages - 1) & 1);
                ask_w(s, to, full);
            }
            bring(to + w_bytes, a.x, (first + s) * slab, 0, full, again);
        }
    }

    __device__ static __forceinline__ void run(const slk_linear_batch_params &a) {
        extern __shared__ __align__(1024) char shared[];
        const slk_linear_params &p = a.p;
        float *sums = reinterpret_cast<float *>(shared);
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const uint32_t base = shared_address(shared), rank = p.blocks == 1 ? 0 : cluster_rank();
        const int tile = blockIdx.x / p.blocks, first = rank * p.steps, slabs = (p.k + slab - 1) / slab;
        const int steps = min(p.steps, slabs - first);

        let_successor_start();
        if (threadIdx.x == 0) {
            if (base % 1024 != 0)
                __trap(); /* the swizzle goes by addresses */
            for (int s = 0; s < stages; s++) {
                barrier_init(base + barriers_at + s * 8, 1);
                barrier_init(base + barriers_at + (stages + s) * 8, warps);
            }
            barriers_made();
        }
        __syncthreads();
        if (warp == warps) {
            if (lane == 0)
                ask(a, base, tile, first, steps);
            __syncwarp();
        }
        wait_for_predecessor();
        float acc[32] = {};
        if (warp < warps) {
#pragma unroll 1
            for (int s = 0; s < steps; s++) {
                const int slot = s % stages;
                const uint32_t here = base + slot * stage_bytes, full = base + barriers_at + slot * 8;
                barrier_wait(full, s / stages & 1);
                pin(acc);
                products_begin();
#pragma unroll
                for (int i = 0; i < slab / 16; i++)
                    multiply(acc, matrix(here + warp / 4 * panel_bytes + i * 32, 0),
                             matrix(here + w_bytes + i * 32, 0));
                products_commit();
                products_wait<0>();
                pin(acc);
                if (lane == 0)
                    barrier_arrive(full + stages * 8);
            }
        }
        __syncthreads(); /* the ring becomes the sums: [row of x, output] */
        if (warp < warps) {
#pragma unroll
            for (int i = 0; i < 32; i++)
                if (i / 4 * 8 < p.t)
                    sums[(i / 4 * 8 + lane % 4 * 2 + i % 2) * sums_row + warp * 16 + i / 2 % 2 * 8 + lane / 4] = acc[i];
        }
        if (p.blocks > 1)
            cluster_barrier_of_warps();
        else
            __syncthreads();
        if (warp < warps)
            write(p, tile, base, rank);
        if (p.blocks > 1)
            cluster_barrier_of_warps(); /* nobody goes while its sums are read */
    }
};

} // namespace slk

SLK_KERNEL __launch_bounds__(288, 2) slk_linear_batch(const __grid_constant__ slk_linear_batch_params a) {
#if __CUDA_ARCH__ >= 900
    slk::batch::run(a);
#endif
}
