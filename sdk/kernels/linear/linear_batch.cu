/* Batches of up to 64 rows times bf16 weights, in fast mode.
 *
 * Bound by memory still: each weight is read once and multiplied with all rows. A block has 128 rows of w (a gated
 * block: 64 gates and their 64 ups) and a part of K; the blocks of a cluster have the other parts and add theirs
 * through each other's shared memory, so that partial sums never leave the chip. Lanes find fragments as in
 * linear_body.cuh. Of a slab of 64 inputs four warps multiply the first half and four the second.
 *
 * A slab is 16 KB of w and 8 KB of x: 72 KB of shared memory's traffic, 560 cycles of 890 that its weights take to
 * come; products take 370. Predicted: 85 % of a streaming read.
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
__device__ __forceinline__ float load_of_block(uint32_t from, uint32_t rank) {
    float v;
    uint32_t there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(from), "r"(rank));
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(there) : "memory");
    return v;
}

struct batch {
    static constexpr int stages = 4, w_bytes = 16384, stage_bytes = w_bytes + 8192, slab = 64;
    static_assert(stages * stage_bytes == SLK_LINEAR_BATCH_SHARED, "shared memory");

    /* What a warp copies of a slab: 16 rows of w, 8 rows of x. */
    const char *w[2], *x;
    int w_there[2], x_there, k;

    __device__ __forceinline__ void set(const slk_linear_params &p, int tile, int first, int warp, int lane) {
        const int rows = p.act_mul ? 2 * p.n : p.n;
        const int row0 = p.act_mul ? tile * 64 + warp / 2 * 16 + warp % 2 * p.n : tile * 128 + warp * 16;
        /* The last gates' block has ups behind it, which nobody uses. */
        k = first * slab + lane % 4 * 8;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = row0 + i * 8 + lane / 4;
            w_there[i] = row < rows ? 16 : 0;
            w[i] = static_cast<const char *>(p.w) + (row * p.ldw + k) * 2;
        }
        const int row = warp * 8 + lane / 4;
        x_there = row < p.t ? 16 : 0;
        x = static_cast<const char *>(p.x) + (row * p.ldx + k) * 2;
    }
    __device__ __forceinline__ void ask_w(const slk_linear_params &p, uint32_t stage, int warp, int lane, int step,
                                          uint64_t policy) const {
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                copy_weights(stage + warp * 2048 + (half * 2 + i) * 512 + lane * 16,
                             w[i] + (step * slab + half * 32) * 2, k + step * slab + half * 32 < p.k ? w_there[i] : 0,
                             policy);
    }
    __device__ __forceinline__ void ask_x(const slk_linear_params &p, uint32_t stage, int warp, int lane,
                                          int step) const {
#pragma unroll
        for (int half = 0; half < 2; half++)
            copy16(stage + w_bytes + warp * 1024 + half * 512 + lane * 16, x + (step * slab + half * 32) * 2,
                   k + step * slab + half * 32 < p.k ? x_there : 0);
    }

    __device__ static __forceinline__ void write(const slk_linear_params &p, int tile, uint32_t sums, uint32_t rank) {
        const int outputs = p.act_mul ? 64 : 128, splits = p.blocks;
        const int n0 = tile * outputs, count = outputs * 64;
        for (int i = rank * 256 + threadIdx.x; i < count; i += splits * 256) {
            const int j = i % outputs, t = i / outputs, n = n0 + j;
            if (t >= p.t || n >= p.n)
                continue;
            float v[2];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                if (half == 1 && !p.act_mul)
                    break;
                const int m = p.act_mul ? j / 16 * 2 + half : j / 16;
                const uint32_t place = (m * 8 + t / 8) * 128 + (j % 16 / 8 * 2 + t % 2) * 32 + j % 8 * 4 + t % 8 / 2;
                float sum = 0;
                for (int r = 0; r < splits; r++)
                    sum += load_of_block(sums + place * 4, r);
                v[half] = p.bias != nullptr ? sum + p.bias[n + half * p.n] : sum;
            }
            float y = p.act_mul ? activate(p.act, v[0]) * v[1] : v[0];
            if (p.residual != nullptr)
                y += p.residual[t * p.ldr + n];
            if (p.y_bf16)
                static_cast<bf16 *>(p.y)[t * p.ldy + n] = __float2bfloat16_rn(y);
            else
                static_cast<float *>(p.y)[t * p.ldy + n] = y;
        }
    }

    __device__ static __forceinline__ void run(const slk_linear_params &p) {
        extern __shared__ __align__(16) char shared[];
        float *sums = reinterpret_cast<float *>(shared);
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, half = warp / 4, rows = warp % 4;
        const uint32_t base = shared_address(shared), rank = p.blocks == 1 ? 0 : rank_in_cluster();
        const int tile = blockIdx.x / p.blocks, first = rank * p.steps, slabs = (p.k + slab - 1) / slab;
        const int steps = min(p.steps, slabs - first);
        uint64_t policy;
        asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
        batch from;

        let_successor_start();
        from.set(p, tile, first, warp, lane);
#pragma unroll
        for (int s = 0; s < stages - 1; s++)
            if (s < steps)
                from.ask_w(p, base + s * stage_bytes, warp, lane, s, policy);
        wait_for_predecessor();
#pragma unroll
        for (int s = 0; s < stages - 1; s++) {
            if (s < steps)
                from.ask_x(p, base + s * stage_bytes, warp, lane, s);
            commit();
        }
        float acc[2][8][4] = {};
        int slot = 0;
#pragma unroll 1
        for (int s = 0; s < steps; s++) {
            wait_copies<stages - 2>();
            __syncthreads(); /* slab s is there for everyone, and slab s - 1 is used */
            const int next = s + stages - 1, free_slot = slot == 0 ? stages - 1 : slot - 1;
            if (next < steps) {
                from.ask_w(p, base + free_slot * stage_bytes, warp, lane, next, policy);
                from.ask_x(p, base + free_slot * stage_bytes, warp, lane, next);
            }
            commit();
            const uint32_t here = base + slot * stage_bytes + lane * 16;
            uint4 low[2], high[2];
#pragma unroll
            for (int m = 0; m < 2; m++) {
                low[m] = load16(here + (rows * 2 + m) * 2048 + half * 1024);
                high[m] = load16(here + (rows * 2 + m) * 2048 + half * 1024 + 512);
            }
#pragma unroll
            for (int n = 0; n < 8; n++) {
                if (n * 8 >= p.t)
                    break;
                const uint4 b = load16(here + w_bytes + n * 1024 + half * 512);
#pragma unroll
                for (int m = 0; m < 2; m++) {
                    mma_rows(acc[m][n], {low[m].x, low[m].y}, {high[m].x, high[m].y}, {b.x, b.y});
                    mma_rows(acc[m][n], {low[m].z, low[m].w}, {high[m].z, high[m].w}, {b.z, b.w});
                }
            }
            slot = slot + 1 == stages ? 0 : slot + 1;
        }
        wait_copies<0>();
        __syncthreads(); /* the ring becomes the sums */
#pragma unroll
        for (int turn = 1; turn >= 0; turn--) {
            if (half == turn)
#pragma unroll
                for (int i = 0; i < 64; i++) {
                    float *at = &sums[((rows * 2 + i / 32) * 8 + i / 4 % 8) * 128 + i % 4 * 32 + lane];
                    const float v = acc[i / 32][i / 4 % 8][i % 4];
                    *at = turn == 1 ? v : *at + v;
                }
            __syncthreads();
        }
        if (p.blocks > 1)
            meet_cluster();
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
