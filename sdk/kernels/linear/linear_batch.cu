/* Batches of up to 64 rows times bf16 weights: each weight is read once and multiplied with all rows.
 *
 * Bound by memory still. A block has 128 rows of w (a gated block: 64 gates and their 64 ups) and a part of K; the
 * blocks of a cluster have the other parts and add theirs through each other's shared memory, in ascending order, so
 * that partial sums never leave the chip. A slab of 64 inputs is a panel of rows of 128 bytes, swizzled, of w and of
 * x; each of two warpgroups multiplies 64 rows of w with 64 rows of x. Rows of x that are not there are never copied:
 * what a column computes does not touch the others, and a row's sums have one order whatever T is.
 *
 * A slab is 16 KB of w, which takes 880 cycles to come where every multiprocessor has a block (1770 with two); its
 * products take 260 from one barrier to the next, its copies 24 instructions a thread. x comes from the L2, half as
 * many bytes as w at 64 rows. Predicted: 90 % of a streaming read for few rows; 85 % at 64, whose rows and sums go 1.5
 * us a layer.
 */
#include "linear_body.cuh"

namespace slk {

__device__ __forceinline__ uint32_t rank_in_cluster() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
__device__ __forceinline__ void meet_cluster() {
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ __forceinline__ float4 load_of_block(uint32_t from, uint32_t rank) {
    float4 v;
    uint32_t there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(from), "r"(rank));
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(there)
                 : "memory");
    return v;
}

/* A panel: rows of 128 bytes, 128-byte swizzle, eight rows 1024 bytes from the next eight. */
__device__ __forceinline__ uint64_t panel(uint32_t at) {
    return (uint64_t)((at & 0x3ffff) >> 4) | (uint64_t)(1024 >> 4) << 32 | 1ull << 62;
}
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
/* Keeps the compiler from moving what it does with registers that products in flight write. */
__device__ __forceinline__ void pin(float (&c)[32]) {
#pragma unroll
    for (int i = 0; i < 32; i++)
        asm volatile("" : "+f"(c[i])::"memory");
}

struct batch {
    static constexpr int stages = 4, w_bytes = 16384, stage_bytes = w_bytes + 8192, slab = 64, outputs = 128,
                         sums_row = outputs + 4, most_splits = 4;
    static_assert(stages * stage_bytes == SLK_LINEAR_BATCH_SHARED, "shared memory");
    static_assert(SLK_LINEAR_BATCH_ROWS * sums_row * 4 <= SLK_LINEAR_BATCH_SHARED, "shared memory");

    /* A thread copies one piece of 16 bytes of every 32nd row. */
    const char *w[2], *x; /* of rows 0, 32 and 64, 96 */
    int64_t w_stride, x_stride;
    uint32_t w_there, x_there; /* a bit a row */
    int k;

    __device__ __forceinline__ void set(const slk_linear_params &p, int tile, int first) {
        const int row = threadIdx.x / 8, all = p.act_mul ? 2 * p.n : p.n;
        k = first * slab + threadIdx.x % 8 * 8;
        w_stride = 32 * p.ldw * 2;
        x_stride = 32 * p.ldx * 2;
        w_there = 0;
#pragma unroll
        for (int i = 0; i < 2; i++) { /* the last gates' block has ups behind it, which nobody uses */
            const int from = p.act_mul ? tile * 64 + i * p.n + row : tile * outputs + i * 64 + row;
            w[i] = static_cast<const char *>(p.w) + (from * p.ldw + k) * 2;
            w_there |= (from < all ? 1u : 0u) << 2 * i | (from + 32 < all ? 2u : 0u) << 2 * i;
        }
        x_there = (row < p.t ? 1u : 0u) | (row + 32 < p.t ? 2u : 0u);
        x = static_cast<const char *>(p.x) + (row * p.ldx + k) * 2;
    }
    __device__ __forceinline__ void ask_w(const slk_linear_params &p, uint32_t to, int step, uint64_t policy) const {
        const bool inside = k + step * slab < p.k;
#pragma unroll
        for (int i = 0; i < 4; i++)
            copy_weights(to + i * 4096, w[i / 2] + i % 2 * w_stride + step * (slab * 2),
                         inside && (w_there >> i & 1) ? 16 : 0, policy);
    }
    __device__ __forceinline__ void ask_x(const slk_linear_params &p, uint32_t to, int step) const {
        const int bytes = k + step * slab < p.k ? 16 : 0;
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (x_there >> i & 1)
                copy16(to + w_bytes + i * 4096, x + i * x_stride + step * (slab * 2), bytes);
    }

    /* Four outputs of a row of x from the blocks' sums. */
    __device__ static __forceinline__ float4 sum_of(uint32_t at, int splits) {
        float4 part[most_splits];
#pragma unroll
        for (int r = 0; r < most_splits; r++)
            if (r < splits)
                part[r] = load_of_block(at, r);
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
            const float4 first = sum_of(at, splits), second = p.act_mul ? sum_of(at + 256, splits) : first;
            float y[4] = {first.x, first.y, first.z, first.w};
            const float up[4] = {second.x, second.y, second.z, second.w};
            const int64_t to = t * p.ldy + n, from = t * p.ldr + n;
            float add[4] = {};
            if (p.residual != nullptr && wide)
                *reinterpret_cast<float4 *>(add) = *reinterpret_cast<const float4 *>(p.residual + from);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if (n + e >= p.n)
                    break;
                if (p.bias != nullptr)
                    y[e] += p.bias[n + e];
                if (p.act_mul)
                    y[e] = activate(p.act, y[e]) * (p.bias != nullptr ? up[e] + p.bias[n + e + p.n] : up[e]);
                if (p.residual != nullptr)
                    y[e] += wide ? add[e] : p.residual[from + e];
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

    __device__ static __forceinline__ void run(const slk_linear_params &p) {
        extern __shared__ __align__(1024) char shared[];
        float *sums = reinterpret_cast<float *>(shared);
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = warp / 4;
        const uint32_t base = shared_address(shared), rank = p.blocks == 1 ? 0 : rank_in_cluster();
        const uint32_t mine = threadIdx.x / 8 * 128 + ((threadIdx.x % 8 ^ threadIdx.x / 8 % 8) << 4);
        const int tile = blockIdx.x / p.blocks, first = rank * p.steps, slabs = (p.k + slab - 1) / slab;
        const int steps = min(p.steps, slabs - first);
        uint64_t policy;
        asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
        if (base % 1024 != 0)
            __trap(); /* the swizzle goes by addresses */
        batch from;

        let_successor_start();
        from.set(p, tile, first);
#pragma unroll
        for (int s = 0; s < stages - 1; s++)
            if (s < steps)
                from.ask_w(p, base + s * stage_bytes + mine, s, policy);
        wait_for_predecessor();
#pragma unroll
        for (int s = 0; s < stages - 1; s++) {
            if (s < steps)
                from.ask_x(p, base + s * stage_bytes + mine, s);
            commit();
        }
        float acc[32] = {};
        int slot = 0;
#pragma unroll 1
        for (int s = 0; s < steps; s++) {
            wait_copies<stages - 2>();
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
            __syncthreads(); /* slab s is there for everyone, and slab s - 1 is used */
            const uint32_t here = base + slot * stage_bytes;
            pin(acc);
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
            for (int i = 0; i < slab / 16; i++)
                multiply(acc, panel(here + group * 8192 + i * 32), panel(here + w_bytes + i * 32));
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            const int next = s + stages - 1, free_slot = slot == 0 ? stages - 1 : slot - 1;
            if (next < steps) {
                from.ask_w(p, base + free_slot * stage_bytes + mine, next, policy);
                from.ask_x(p, base + free_slot * stage_bytes + mine, next);
            }
            commit();
            slot = slot + 1 == stages ? 0 : slot + 1;
            asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
            pin(acc);
        }
        __syncthreads(); /* the ring becomes the sums: [row of x, output] */
#pragma unroll
        for (int i = 0; i < 32; i++)
            if (i / 4 * 8 < p.t)
                sums[(i / 4 * 8 + lane % 4 * 2 + i % 2) * sums_row + warp * 16 + i / 2 % 2 * 8 + lane / 4] = acc[i];
        if (p.blocks > 1)
            meet_cluster();
        else
            __syncthreads();
        write(p, tile, base, rank);
        if (p.blocks > 1)
            meet_cluster(); /* nobody goes while its sums are read */
    }
};

} // namespace slk

SLK_KERNEL __launch_bounds__(256, 2) slk_linear_batch(const __grid_constant__ slk_linear_params p) {
#if __CUDA_ARCH__ >= 900
    slk::batch::run(p);
#endif
}
