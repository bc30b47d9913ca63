/* The kernel of attend_few_cuda.h. A block takes one KV head of one sequence, MT x 16 rows of the matrix "query rows x
 * heads of the group", and a share of the keys: grid (share, KV head, sequence x block of rows).
 *
 * Tiles of 64 keys come through a ring of shared memory (asynchronous copies, page numbers looked up ahead). Of a tile,
 * warp w of the four that own 16 rows computes the scores of keys 16 w .. 16 w + 15; maxima and probabilities go
 * through shared memory; then each warp adds up a quarter of the channels over all 64 keys. So a warp keeps little,
 * sums of a row have one order, and it does not matter to a row how many others are in the block.
 *
 * Bound by the bytes of K and V: at 4.1 TB/s an SM of an H200 gets a tile of D = 128 (32 KiB) in about 1050 ns and
 * needs about half of that to compute it. Two blocks of 96 KiB in flight an SM cover latency x bandwidth (some 40 KiB)
 * twice. Results of splits cost 1.6 % of the bytes at most (2 of 128 KiB for four heads), and less where splits are
 * longer. */
#ifndef SLUICE_KERNELS_ATTEND_FEW_CUH
#define SLUICE_KERNELS_ATTEND_FEW_CUH

#include <type_traits>

#include "attend_keys.cuh"

namespace slk {

template <int D, int MT, bool ANY> struct Few {
    static constexpr int kThreads = 128 * MT;
    static constexpr int kChunks = D / 8;                         /* 16-byte pieces of a row */
    static constexpr int kRow = D % 64 == 0 ? 2 * D : 2 * D + 16; /* bytes; an odd number of chunks needs no swizzle */
    static constexpr int kSide = SLK_FEW_TILE * kRow;
    static constexpr int kStages = ANY ? 2 : D == 256 || (MT == 1 && D != 64) ? 3 : 4;
    static constexpr int kQ = 2 * kSide * kStages, kP = kQ + 16 * MT * kRow;
    static constexpr int kColumns = D / 4, kTiles = kColumns / 8; /* of a warp's part of the output */
    /* Pages of a key's K and V, row, and which of the two are coded; or the bytes to its K and V. The first is negative
     * where nobody looks at it. */
    using Place = typename std::conditional<ANY, int4, longlong2>::type;
    using Page = typename std::conditional<ANY, int4, int2>::type;
    static constexpr int kMinBlocks = MT == 1 && D <= 128 ? 2 : 1;
};

/* Byte of chunk c of a row in a tile: eight rows' equal chunks lie in different banks. */
template <int CHUNKS, int ROW> __device__ __forceinline__ uint32_t tile_at(int row, int c) {
    return row * ROW + (CHUNKS % 8 == 0 ? (c ^ (row & 7)) : c) * 16;
}

__device__ __forceinline__ void copy16(uint32_t to, const void *from, bool there) {
    const int bytes = there ? 16 : 0; /* the rest is zeroed */
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void ldmatrix4(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
__device__ __forceinline__ void ldmatrix4_trans(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
__device__ __forceinline__ void ldmatrix2_trans(uint32_t &a, uint32_t &b, uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(a), "=r"(b)
                 : "r"(at)
                 : "memory");
}
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <int MT> __device__ __forceinline__ void group_barrier(int group) { /* the four warps that own 16 rows */
    if constexpr (MT == 1)
        __syncthreads();
    else
        asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory");
}
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* The order in which a block meets tiles: ascending; from the tile on in which rows of a tree begin, each row has keys
 * of its own and is alone with its tile. */
struct Walk {
    int tile, row;
};
struct WalkEnds {
    int end, tail, row_begin, row_end; /* tail: first tile of that kind */
};
__device__ __forceinline__ void advance(Walk &w, const WalkEnds &e) {
    if (w.tile >= e.tail) {
        if (++w.row < e.row_end)
            return;
        w.row = e.row_begin;
    }
    w.tile++;
}

template <int D, int MT, bool ANY> __device__ __forceinline__ void attend_few(const slk_attend_few_params &p) {
    using S = Few<D, MT, ANY>;
    constexpr int kStages = S::kStages, kTile = SLK_FEW_TILE, kRows = 16 * MT, kPieces = kTile * S::kChunks;
    constexpr bool kQInRegisters = D <= 128 && MT == 1;
    extern __shared__ __align__(128) unsigned char shared[];
    __shared__ typename S::Place where[kStages][kTile]; /* of each key of a tile */
    __shared__ int row_low[kRows], row_end[kRows], row_of[kRows];
    __shared__ int block_low, block_end;
    __shared__ float warp_top[MT][4][16], warp_total[MT][4][16];

    wait_for_predecessor();
    const int place = blockIdx.z / p.row_blocks, block = blockIdx.z % p.row_blocks, kv_head = blockIdx.y;
    if (place >= p.n_seqs[0])
        return;
    const int r0 = block * p.row_block;
    const Keys keys = keys_of(p, place, p.row_begin[place] + r0, kv_head);
    const int r1 = min(r0 + p.row_block, keys.rows);
    if (r0 >= r1)
        return;

    /* What each row sees. */
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32 % 4, mt = thread / 128;
    if (thread == 0)
        block_low = 1 << 30, block_end = 0;
    __syncthreads();
    if (thread < kRows) {
        const int i = r0 + thread / p.group;
        int low = 0, end = 0;
        if (i < r1) {
            const int depth = depth_of(p, keys, i);
            end = keys.ranked + depth + 1;
            low = min(low_rank(p, keys, depth), end);
            if (thread % p.group == 0) {
                atomicMin(&block_low, low);
                atomicMax(&block_end, end);
            }
        }
        row_low[thread] = low;
        row_end[thread] = end;
        row_of[thread] = i < r1 ? i : -1;
    }
    __syncthreads();
    const Cuts cuts = cuts_of(p, keys);
    const int share = p.shares - 1 - static_cast<int>(blockIdx.x); /* the last ones may have a tree's tail: first */
    const int low = block_low, high = block_end;
    WalkEnds ends;
    ends.end = min(share_begin(p, cuts, share + 1), (high + kTile - 1) / kTile);
    ends.tail = keys.tree ? keys.ranked / kTile : 1 << 30;
    ends.row_begin = r0;
    ends.row_end = r1;
    Walk now = {max(share_begin(p, cuts, share), low / kTile), r0};
    if (now.tile >= ends.end)
        return;
    int items = 0;
    {
        const int plain = min(ends.end, ends.tail) - now.tile, alone = ends.end - max(now.tile, ends.tail);
        items = max(plain, 0) + max(alone, 0) * (r1 - r0);
    }

    /* Queries. */
    const uint32_t base = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    const bf16 *q = static_cast<const bf16 *>(p.q);
    for (int at = thread; at < kRows * S::kChunks; at += S::kThreads) {
        const int m = at / S::kChunks, c = at % S::kChunks, i = row_of[m];
        uint4 x = make_uint4(0, 0, 0, 0);
        if (i >= 0)
            x = *reinterpret_cast<const uint4 *>(q + (keys.first_row + i) * p.q_row +
                                                 (kv_head * p.group + m % p.group) * p.q_head + 8 * c);
        *reinterpret_cast<uint4 *>(shared + S::kQ + tile_at<S::kChunks, S::kRow>(m, c)) = x;
    }

    /* Where a key of a tile lies. */
    const int page_mask = (1 << p.page_shift) - 1;
    auto slot_in = [&](const Walk &w, int key) { /* -1: nobody looks at it */
                                                 const int rank = w.tile * kTile + key;
                                                 const int row = keys.first_row + w.row;
                                                 const int end =
                                                     w.tile >= ends.tail ? row_end[(w.row - r0) * p.group] : high;
                                                 return rank >= low && rank < end ? slot_of(p, keys, rank, row) : -1;
    };
    auto page_in = [&](int slot) -> typename S::Page {
        if constexpr (ANY) {
            if (slot < 0)
                return make_int4(-1, -1, 0, 0);
            const bool k_coded = slot < keys.coded_k, v_coded = slot < keys.coded_v;
            const int entry = slot >> p.page_shift;
            const int k_page = (k_coded ? keys.pages : keys.plain_pages)[entry];
            const int v_page = v_coded == k_coded ? k_page : (v_coded ? keys.pages : keys.plain_pages)[entry];
            return make_int4(k_page, v_page, slot & page_mask, (k_coded ? 1 : 0) | (v_coded ? 2 : 0));
        } else
            return slot >= 0 ? make_int2(keys.pages[slot >> p.page_shift], slot & page_mask) : make_int2(-1, 0);
    };
    auto place_at = [&](typename S::Page key) -> typename S::Place { /* the multiplications once a key */
        if constexpr (ANY)
            return key;
        else if (key.x < 0)
            return make_longlong2(-1, -1);
        else
            return make_longlong2(
                key.x * p.k.page_stride + key.y * p.k.row_stride + kv_head * p.k.head_stride,
                key.x * p.v.page_stride + key.y * p.v.row_stride + kv_head * p.v.head_stride);
    };
    auto fetch = [&](int item) {
        const int stage = item % kStages;
        const uint32_t to = base + 2 * S::kSide * stage;
#pragma unroll(ANY ? 2 : 4)
        for (int n = 0; n < (kPieces + S::kThreads - 1) / S::kThreads; n++) {
            const int at = thread + n * S::kThreads, key = at / S::kChunks, c = at % S::kChunks;
            if (kPieces % S::kThreads != 0 && at >= kPieces)
                break;
            const typename S::Place at_key = where[stage][key];
            const uint32_t offset = tile_at<S::kChunks, S::kRow>(key, c);
            const bool there = at_key.x >= 0;
            if constexpr (ANY) {
                uint4 a = make_uint4(0, 0, 0, 0), b = a;
                if (there) {
                    a = load8(at_key.w & 1 ? p.k : p.plain_k, at_key.x, at_key.z, kv_head, D, c);
                    b = load8(at_key.w & 2 ? p.v : p.plain_v, at_key.y, at_key.z, kv_head, D, c);
                }
                *reinterpret_cast<uint4 *>(shared + 2 * S::kSide * stage + offset) = a;
                *reinterpret_cast<uint4 *>(shared + 2 * S::kSide * stage + S::kSide + offset) = b;
            } else {
                copy16(to + offset, p.k.pool + (there ? at_key.x + 16 * c : 0), there);
                copy16(to + S::kSide + offset, p.v.pool + (there ? at_key.y + 16 * c : 0), there);
            }
        }
    };
    auto commit = [&] { asm volatile("cp.async.commit_group;" ::: "memory"); };

    Walk ahead = now; /* the tile whose keys are looked up next */
    for (int item = 0; item < kStages; item++) {
        if (thread / kTile == item % (S::kThreads / kTile))
            where[item][thread % kTile] = place_at(page_in(item < items ? slot_in(ahead, thread % kTile) : -1));
        advance(ahead, ends);
    }
    int next_slot = kStages < items && thread < kTile ? slot_in(ahead, thread) : -1; /* of item kStages */
    __syncthreads();
    for (int item = 0; item < kStages - 1; item++) {
        if (item < items)
            fetch(item);
        commit();
    }

    uint32_t qa[kQInRegisters ? D / 16 : 1][4];
    const uint32_t q_at = base + S::kQ;
    if constexpr (kQInRegisters) {
#pragma unroll
        for (int k = 0; k < D / 16; k++)
            ldmatrix4(qa[k], q_at + tile_at<S::kChunks, S::kRow>(mt * 16 + lane % 16, 2 * k + lane / 16));
    }

    /* Two rows a lane: lane / 4 and 8 further on. */
    const int m0 = mt * 16 + lane / 4;
    int first[2], last[2], of[2];
    float scale[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int m = m0 + 8 * h;
        first[h] = row_low[m], last[h] = row_end[m], of[h] = row_of[m];
        scale[h] = p.scale;
        if (p.row_scale != nullptr && of[h] >= 0)
            scale[h] = __fmul_rn(p.scale, p.row_scale[keys.first_row + of[h]]);
    }
    float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f}, out[S::kTiles][4];
    float all_top[2] = {-INFINITY, -INFINITY}, all_sum[2] = {0.f, 0.f}, all_out[S::kTiles][4];
#pragma unroll
    for (int t = 0; t < S::kTiles; t++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            out[t][e] = all_out[t][e] = 0.f;

    const uint32_t p_at = base + S::kP + mt * 16 * 128;
    for (int item = 0; item < items; item++) {
        asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2) : "memory");
        __syncthreads();
        if (item + kStages - 1 < items)
            fetch(item + kStages - 1);
        commit();
        typename S::Page found = page_in(-1); /* keys of item + kStages */
        if (thread < kTile) {
            found = page_in(next_slot);
            advance(ahead, ends);
            next_slot = item + kStages + 1 < items ? slot_in(ahead, thread) : -1;
        }

        const bool alone = now.tile >= ends.tail;
        const int m_begin = (now.row - r0) * p.group; /* the rows of the one that is alone */
        if (!alone || (m_begin < mt * 16 + 16 && m_begin + p.group > mt * 16)) {
            const uint32_t k_at = base + 2 * S::kSide * (item % kStages), v_at = k_at + S::kSide;
            float s[2][4] = {};
#pragma unroll
            for (int k = 0; k < D / 16; k++) {
                uint32_t b[4];
                ldmatrix4(
                    b, k_at + tile_at<S::kChunks, S::kRow>(warp * 16 + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
                if constexpr (kQInRegisters) {
                    mma(s[0], qa[k], b[0], b[1]);
                    mma(s[1], qa[k], b[2], b[3]);
                } else {
                    uint32_t a[4];
                    ldmatrix4(a, q_at + tile_at<S::kChunks, S::kRow>(mt * 16 + lane % 16, 2 * k + lane / 16));
                    mma(s[0], a, b[0], b[1]);
                    mma(s[1], a, b[2], b[3]);
                }
            }
            /* Scores in powers of two; what a row does not see is -inf. */
            const int rank = now.tile * kTile + warp * 16 + lane % 4 * 2;
            float best[2] = {-INFINITY, -INFINITY};
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int h = e / 2, r = rank + 8 * n + e % 2;
                    const bool seen = r >= first[h] && r < last[h] && (!alone || of[h] == now.row);
                    const float value = score(p, s[n][e], scale[h]);
                    if (seen && p.scores != nullptr && r - first[h] < p.score_stride) {
                        const int64_t row = keys.first_row + of[h];
                        const int head = kv_head * p.group + (m0 + 8 * h) % p.group;
                        p.scores[(row * p.heads + head) * p.score_stride + r - first[h]] = value;
                    }
                    s[n][e] = seen ? __fmul_rn(value, kLog2e) : -INFINITY;
                    best[h] = fmaxf(best[h], s[n][e]);
                }
#pragma unroll
            for (int h = 0; h < 2; h++) {
                best[h] = fmaxf(best[h], __shfl_xor_sync(0xffffffffu, best[h], 1));
                best[h] = fmaxf(best[h], __shfl_xor_sync(0xffffffffu, best[h], 2));
                if (lane % 4 == 0)
                    warp_top[mt][warp][lane / 4 + 8 * h] = best[h];
            }
            group_barrier<MT>(mt);
            float shrink[2], anchor[2];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int m = lane / 4 + 8 * h;
                const float of_tile =
                    fmaxf(fmaxf(warp_top[mt][0][m], warp_top[mt][1][m]), fmaxf(warp_top[mt][2][m], warp_top[mt][3][m]));
                const float higher = fmaxf(top[h], ceilf(of_tile)); /* whole: every rescaling is exact */
                shrink[h] = higher > top[h] ? pow2_whole(top[h] - higher) : 1.f;
                top[h] = higher;
                anchor[h] = higher == -INFINITY ? 0.f : higher;
                sum[h] = __fmul_rn(sum[h], shrink[h]);
            }
#pragma unroll
            for (int n = 0; n < 2; n++) {
#pragma unroll
                for (int e = 0; e < 4; e++)
                    s[n][e] = exp2_fast(__fsub_rn(s[n][e], anchor[e / 2]));
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    sum[h] = __fadd_rn(sum[h], __fadd_rn(s[n][2 * h], s[n][2 * h + 1]));
                    *reinterpret_cast<uint32_t *>(shared + S::kP + mt * 16 * 128 +
                                                  tile_at<8, 128>(lane / 4 + 8 * h, warp * 2 + n) + lane % 4 * 4) =
                        pack_bf16(s[n][2 * h], s[n][2 * h + 1]);
                }
            }
#pragma unroll
            for (int t = 0; t < S::kTiles; t++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    out[t][e] = __fmul_rn(out[t][e], shrink[e / 2]);
            group_barrier<MT>(mt);
#pragma unroll
            for (int k = 0; k < kTile / 16; k++) {
                uint32_t a[4];
                ldmatrix4(a, p_at + tile_at<8, 128>(lane % 16, 2 * k + lane / 16));
#pragma unroll
                for (int t = 0; t + 1 < S::kTiles; t += 2) {
                    uint32_t b[4];
                    ldmatrix4_trans(
                        b, v_at + tile_at<S::kChunks, S::kRow>(k * 16 + lane % 16, warp * S::kTiles + t + lane / 16));
                    mma(out[t], a, b[0], b[1]);
                    mma(out[t + 1], a, b[2], b[3]);
                }
                if constexpr (S::kTiles % 2 != 0) {
                    uint32_t b0, b1;
                    ldmatrix2_trans(
                        b0, b1,
                        v_at + tile_at<S::kChunks, S::kRow>(k * 16 + lane % 16, warp * S::kTiles + S::kTiles - 1));
                    mma(out[S::kTiles - 1], a, b0, b1);
                }
            }
        }
        /* Keys of the tile that takes this stage's place; the last readers of this entry were in front of the barrier
         * at the top. */
        if (thread < kTile)
            where[item % kStages][thread] = place_at(found);

        const int tile = now.tile;
        advance(now, ends);
        if (now.tile == tile || (now.tile < ends.end && split_of(cuts, now.tile) == split_of(cuts, tile)))
            continue;

            /* A split ends: its sums over lanes and warps, then out or onto what the block has. */
#pragma unroll
        for (int h = 0; h < 2; h++) {
            sum[h] = __fadd_rn(sum[h], __shfl_xor_sync(0xffffffffu, sum[h], 1));
            sum[h] = __fadd_rn(sum[h], __shfl_xor_sync(0xffffffffu, sum[h], 2));
            if (lane % 4 == 0)
                warp_total[mt][warp][lane / 4 + 8 * h] = sum[h];
        }
        group_barrier<MT>(mt);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int m = lane / 4 + 8 * h;
            const float total =
                __fadd_rn(__fadd_rn(__fadd_rn(warp_total[mt][0][m], warp_total[mt][1][m]), warp_total[mt][2][m]),
                          warp_total[mt][3][m]);
            if (p.shares > 1) {
                if (of[h] >= 0) {
                    const int64_t row = keys.first_row + of[h];
                    const int head = kv_head * p.group + (m0 + 8 * h) % p.group;
                    const int64_t part = (row * p.heads + head) * p.max_splits + split_of(cuts, tile);
                    if (warp == 0 && lane % 4 == 0)
                        *reinterpret_cast<float2 *>(p.part_ml + 2 * part) = make_float2(top[h], total);
#pragma unroll
                    for (int t = 0; t < S::kTiles; t++)
                        *reinterpret_cast<float2 *>(p.part_o + part * D + warp * S::kColumns + 8 * t + lane % 4 * 2) =
                            make_float2(out[t][2 * h], out[t][2 * h + 1]);
                }
            } else if (top[h] > -INFINITY) {
                const float higher = fmaxf(all_top[h], top[h]);
                const float mine = pow2_whole(top[h] - higher), old = pow2_whole(all_top[h] - higher);
                all_top[h] = higher;
                all_sum[h] = __fmaf_rn(total, mine, __fmul_rn(all_sum[h], old));
#pragma unroll
                for (int t = 0; t < S::kTiles; t++)
#pragma unroll
                    for (int e = 2 * h; e < 2 * h + 2; e++)
                        all_out[t][e] = __fmaf_rn(out[t][e], mine, __fmul_rn(all_out[t][e], old));
            }
            top[h] = -INFINITY;
            sum[h] = 0.f;
#pragma unroll
            for (int t = 0; t < S::kTiles; t++)
                out[t][2 * h] = out[t][2 * h + 1] = 0.f;
        }
    }
    let_successor_start();
    if (p.shares > 1)
        return;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (of[h] < 0)
            continue;
        const int64_t row = keys.first_row + of[h];
        const int head = kv_head * p.group + (m0 + 8 * h) % p.group;
        const float share_of = all_sum[h] > 0.f ? __fdiv_rn(1.f, all_sum[h]) : 0.f;
        if (p.lse != nullptr && warp == 0 && lane % 4 == 0)
            p.lse[row * p.heads + head] =
                all_sum[h] > 0.f ? __fmul_rn(__fadd_rn(all_top[h], log2f(all_sum[h])), kLn2) : -INFINITY;
        const int64_t at = row * p.o_row + head * p.o_head + warp * S::kColumns + lane % 4 * 2;
#pragma unroll
        for (int t = 0; t < S::kTiles; t++) {
            const float a = __fmul_rn(all_out[t][2 * h], share_of), b = __fmul_rn(all_out[t][2 * h + 1], share_of);
            if (p.o_f32)
                *reinterpret_cast<float2 *>(static_cast<float *>(p.o) + at + 8 * t) = make_float2(a, b);
            else
                *reinterpret_cast<uint32_t *>(static_cast<bf16 *>(p.o) + at + 8 * t) = pack_bf16(a, b);
        }
    }
}

} // namespace slk

#define SLK_FEW_KERNEL(name, d, mt, any)                                                                               \
    extern "C" __global__ void __launch_bounds__(128 * mt, (slk::Few<d, mt, any>::kMinBlocks))                         \
        slk_##name##_##d##_##mt(const __grid_constant__ slk_attend_few_params p) {                                     \
        slk::attend_few<d, mt, any>(p);                                                                                \
    }

#endif
