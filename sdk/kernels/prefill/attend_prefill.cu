/* Prompt attention for every architecture: mma.sync, see attend_prefill_cuda.h.
 *
 * Bound by the tensor cores: 4 D FLOP a query, head and visible key; keys come from the L2. mma.sync reaches about two
 * thirds of what wgmma does on Hopper, so 300 to 350 TFLOP/s are expected of D 128 on an H200, 32K causal; the kernel
 * for that chip is attend_prefill_hopper.cu.
 *
 * 4 warps; a warp owns 32 query rows (16 for D 256), so that each fragment of K and V read from shared memory serves
 * two products: with 16 rows shared memory would be the bound. Sums stay in registers (online softmax, base 2), Q is
 * read from shared memory again for each tile of 64 keys. While a tile is multiplied the next one is copied.
 */
#include "attend_prefill.cuh"

namespace {

using namespace slk;

constexpr int KEYS = 64;
constexpr int THREADS = 128;

__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
}
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Byte offset of a chunk of 16 bytes: eight rows' equal chunks lie in eight bank groups. */
template <int D> __device__ __forceinline__ uint32_t place_of(int row, int chunk) {
    return row * SLK_PREFILL_PITCH(D) + ((chunk ^ (row & 7)) << 4);
}

template <int D> __device__ __forceinline__ void attend_prefill(const slk_attend_prefill_params &p) {
    constexpr int QUERIES = SLK_PREFILL_QUERIES(D);
    constexpr int M = QUERIES / 64; /* products of 16 rows a warp */
    constexpr uint32_t TILE = KEYS * SLK_PREFILL_PITCH(D);
    extern __shared__ __align__(1024) unsigned char shared[];
    wait_for_predecessor();

    const prefill_place w = prefill_where<QUERIES, KEYS>(p);
    if (w.rows == 0)
        return;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t q_shared = shared_address(shared), k_shared = q_shared + QUERIES * SLK_PREFILL_PITCH(D);
    const char *const k_pool = p.k_pool + w.k_at, *const v_pool = p.v_pool + w.v_at;

    for (int i = threadIdx.x; i < QUERIES * (D / 8); i += THREADS) {
        const int r = i / (D / 8), c = i % (D / 8);
        const bool there = r < w.rows;
        const uint16_t *from = p.q;
        if (there)
            from += (w.row + r) * p.q_row + w.head * p.q_head + c * 8;
        copy16(q_shared + place_of<D>(r, c), from, there);
    }
    prefill_loader<D, KEYS, THREADS> loader;
    loader.init(p, w, threadIdx.x);
    auto bring = [&](int tile, int slot) {
        const uint32_t k_to = k_shared + (tile & 1) * 2 * TILE;
        loader.load(k_pool, p.k_page, p.k_row, slot, w.n_slots, [=](int r, int c) { return k_to + place_of<D>(r, c); });
        loader.load(v_pool, p.v_page, p.v_row, slot, w.n_slots,
                    [=](int r, int c) { return k_to + TILE + place_of<D>(r, c); });
        copies_commit();
    };
    loader.look_up(w.tile<KEYS>(0), w.n_slots);
    bring(0, w.tile<KEYS>(0));
    loader.look_up(w.tile<KEYS>(1), w.n_slots);

    float o[M][D / 8][4], top[M][2], sum[M][2];
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int i = 0; i < D / 8; i++)
            o[m][i][0] = o[m][i][1] = o[m][i][2] = o[m][i][3] = 0.0f;
        top[m][0] = top[m][1] = -INFINITY;
        sum[m][0] = sum[m][1] = 0.0f;
    }
    /* the warp's first query, and the places in fragments that this lane reads */
    const int q0 = warp * 16 * M;
    const int a_row = (lane & 7) + ((lane >> 3) & 1) * 8, a_chunk = lane >> 4;       /* Q, and V transposed */
    const int b_row = (lane & 7) + ((lane >> 4) & 1) * 8, b_chunk = (lane >> 3) & 1; /* K */
    const float to_log2 = p.softcap > 0.0f ? 1.44269504f : p.scale * 1.44269504f;

    const int tiles = w.tiles<KEYS>(w.end);
    const int mine = w.slot + q0; /* slot of the warp's first query; it has 16 M */
    const int first_low = w.low(p, mine), last_low = w.low(p, mine + 16 * M - 1);
    for (int t = 0; t < tiles; t++) {
        const int slot = w.tile<KEYS>(t);
        if (t + 1 < tiles) {
            bring(t + 1, w.tile<KEYS>(t + 1));
            loader.look_up(w.tile<KEYS>(t + 2), w.n_slots);
            copies_wait<1>();
        } else {
            copies_wait<0>();
        }
        __syncthreads();
        const uint32_t k_at = k_shared + (t & 1) * 2 * TILE, v_at = k_at + TILE;
        const bool seen = slot < mine + 16 * M && (slot < w.sinks || slot + KEYS > first_low);
        if (!seen) { /* a tile that is hidden from all of them would change nothing */
            __syncthreads();
            continue;
        }

        float s[M][KEYS / 8][4];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < KEYS / 8; i++)
                s[m][i][0] = s[m][i][1] = s[m][i][2] = s[m][i][3] = 0.0f;
#pragma unroll
        for (int d = 0; d < D / 16; d++) {
            uint32_t a[M][4];
#pragma unroll
            for (int m = 0; m < M; m++)
                load_matrices(a[m], q_shared + place_of<D>(q0 + m * 16 + a_row, d * 2 + a_chunk));
#pragma unroll
            for (int n = 0; n < KEYS / 16; n++) {
                uint32_t b[4];
                load_matrices(b, k_at + place_of<D>(n * 16 + b_row, d * 2 + b_chunk));
#pragma unroll
                for (int m = 0; m < M; m++) {
                    multiply(s[m][2 * n], a[m], b[0], b[1]);
                    multiply(s[m][2 * n + 1], a[m], b[2], b[3]);
                }
            }
        }

        if (p.softcap > 0.0f) {
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int i = 0; i < KEYS / 8; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        s[m][i][j] = soft_cap(s[m][i][j] * p.scale, p.softcap);
        }
        /* is any score of this tile hidden from one of the warp's queries? */
        if (slot + KEYS - 1 > mine || (slot + KEYS > w.sinks && slot < last_low)) {
#pragma unroll
            for (int m = 0; m < M; m++) {
                const int first = mine + m * 16 + lane / 4;
                const int low[2] = {w.low(p, first), w.low(p, first + 8)};
#pragma unroll
                for (int i = 0; i < KEYS / 8; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        const int query = first + (j >> 1) * 8, key = slot + i * 8 + (lane & 3) * 2 + (j & 1);
                        if (key > query || (key >= w.sinks && key < low[j >> 1]))
                            s[m][i][j] = -INFINITY;
                    }
            }
        }

#pragma unroll
        for (int m = 0; m < M; m++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float best = -INFINITY;
#pragma unroll
                for (int i = 0; i < KEYS / 8; i++)
                    best = fmaxf(best, fmaxf(s[m][i][2 * h], s[m][i][2 * h + 1]));
                best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 1));
                best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 2));
                best = fmaxf(best * to_log2, top[m][h]);
                /* nothing seen yet: any finite base does */
                const float base = best == -INFINITY ? 0.0f : best;
                const float shrink = exp2f(top[m][h] - base);
                top[m][h] = best;
                float total = 0.0f;
#pragma unroll
                for (int i = 0; i < KEYS / 8; i++) {
                    s[m][i][2 * h] = exp2f(fmaf(s[m][i][2 * h], to_log2, -base));
                    s[m][i][2 * h + 1] = exp2f(fmaf(s[m][i][2 * h + 1], to_log2, -base));
                    total += s[m][i][2 * h] + s[m][i][2 * h + 1];
                }
                sum[m][h] = sum[m][h] * shrink + total; /* of this lane's columns; joined at the end */
#pragma unroll
                for (int i = 0; i < D / 8; i++) {
                    o[m][i][2 * h] *= shrink;
                    o[m][i][2 * h + 1] *= shrink;
                }
            }
        }

#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            uint32_t a[M][4];
#pragma unroll
            for (int m = 0; m < M; m++) {
                a[m][0] = pack2(s[m][2 * n][0], s[m][2 * n][1]);
                a[m][1] = pack2(s[m][2 * n][2], s[m][2 * n][3]);
                a[m][2] = pack2(s[m][2 * n + 1][0], s[m][2 * n + 1][1]);
                a[m][3] = pack2(s[m][2 * n + 1][2], s[m][2 * n + 1][3]);
            }
#pragma unroll
            for (int d = 0; d < D / 16; d++) {
                uint32_t b[4];
                load_matrices_transposed(b, v_at + place_of<D>(n * 16 + a_row, d * 2 + a_chunk));
#pragma unroll
                for (int m = 0; m < M; m++) {
                    multiply(o[m][2 * d], a[m], b[0], b[1]);
                    multiply(o[m][2 * d + 1], a[m], b[2], b[3]);
                }
            }
        }
        __syncthreads(); /* the stage may be overwritten */
    }
    let_successor_start();

    /* Out through the warp's own part of Q, so that rows leave in pieces of 16 bytes. */
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float total = sum[m][h];
            total += __shfl_xor_sync(0xffffffffu, total, 1);
            total += __shfl_xor_sync(0xffffffffu, total, 2);
            const float inverse = 1.0f / total;
            const int r = q0 + m * 16 + lane / 4 + h * 8;
#pragma unroll
            for (int i = 0; i < D / 8; i++)
                *reinterpret_cast<uint32_t *>(shared + place_of<D>(r, i) + (lane & 3) * 4) =
                    pack2(o[m][i][2 * h] * inverse, o[m][i][2 * h + 1] * inverse);
            if (p.lse != nullptr && (lane & 3) == 0 && r < w.rows)
                p.lse[(int64_t)(w.row + r) * p.heads + w.head] = (top[m][h] + log2f(total)) * 0.693147181f;
        }
    }
    __syncwarp();
    for (int i = lane; i < 16 * M * (D / 8); i += 32) {
        const int r = q0 + i / (D / 8), c = i % (D / 8);
        if (r < w.rows)
            *reinterpret_cast<uint4 *>(p.o + (w.row + r) * p.o_row + w.head * p.o_head + c * 8) =
                *reinterpret_cast<const uint4 *>(shared + place_of<D>(r, c));
    }
}

} // namespace

#define KERNEL(d, blocks)                                                                                              \
    SLK_KERNEL __launch_bounds__(THREADS, blocks)                                                                      \
        slk_attend_prefill_##d(const __grid_constant__ slk_attend_prefill_params p) {                                  \
        attend_prefill<d>(p);                                                                                          \
    }
KERNEL(64, 2)
KERNEL(96, 2)
KERNEL(128, 2)
KERNEL(256, 1)
