/* Deterministic attention of trees and chunks, D 128: what attend_few.cuh does, operation for operation, for 128 rows
 * of the matrix "rows x heads of a group" at once.
 *
 * There four warps take a column of 16 keys of each tile and meet at the end of a split. Here a warp has 16 rows and
 * all columns of a split one after another: the keys come in that order, 64 at a time, through a ring that all warps
 * share. So sums of a row have the order that they have there, keys are read once for 128 rows and not once for 32, and
 * no split ends with a barrier. Results of splits go to the same places; rows' own paths through a tree are left to the
 * launch for tails.
 *
 * A tree of 64 rows over 4096 keys, 32 heads in 8 groups: 33 MB from the L2 (6 us), 4.3 GFLOP by mma.sync (12 to 15
 * us), 33 MB of sums of 32 splits written (7 us, beside the products), then tails and the join of before. */
#include "attend_keys.cuh"

namespace {

using namespace slk;

constexpr int D = 128, ROW = 2 * D, STAGES = 4, TILE = SLK_FEW_TILE;
constexpr uint32_t SIDE = TILE * ROW, STAGE = 2 * SIDE, Q_AT = STAGES * STAGE;
constexpr int THREADS = 2 * SLK_TALL_ROWS, PASSES = TILE * (D / 8) / THREADS;
static_assert(Q_AT + SLK_TALL_ROWS * ROW <= SLK_TALL_SHARED, "shared memory");

/* The split that a tile is in, as far as the block has it: the order of its keys. */
struct Stretch {
    int begin, end; /* tiles */
    __device__ __forceinline__ void enter(int tile, int last) {
        begin = tile;
        end = min(slk_few_split_end(tile), last);
    }
    /* Rank of the first of 16 keys: piece `piece` of the split's 4 (end - begin), columns first. */
    __device__ __forceinline__ int rank(int piece) const {
        const int n = end - begin;
        return (begin + piece % n) * TILE + piece / n * 16;
    }
};

__device__ __forceinline__ void attend_tall(const slk_attend_few_params &p, unsigned char *shared) {
    /* The launch for tails does not wait: it may start once all blocks here have. */
    bool waited = false;
    auto wait = [&] {
        if (!waited) {
            wait_for_predecessor();
            let_successor_start();
        }
        waited = true;
    };
    if (!p.early)
        wait();
    const int place = blockIdx.z / p.row_blocks, block = blockIdx.z % p.row_blocks, kv_head = blockIdx.y;
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    if (place >= p.n_seqs[0])
        return;
    const Seat seat = seat_of(p, place);
    const int r0 = block * p.row_block, r1 = min(r0 + p.row_block, seat.rows);
    if (r0 >= r1)
        return;
    const Keys keys = keys_of(p, seat, place, seat.first_row + r0, kv_head);
    const Cuts cuts = cuts_of(p, keys);
    const int share = p.shares - 1 - static_cast<int>(blockIdx.x);
    const int begin = share_begin(p, cuts, share);
    int end = share_begin(p, cuts, share + 1);
    end = min(end, keys.tree ? split_begin(cuts, keys.ranked / TILE) : (keys.ranked + r1 + TILE - 1) / TILE);
    if (begin >= end)
        return;

    const uint32_t base = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    const int chunk = thread % (D / 8), page_mask = (1 << p.page_shift) - 1;
    const bool has_chunk = chunk < p.head_dim / 8;
    const char *const k_pool = p.k.pool + keys.k_at + 16 * chunk, *const v_pool = p.v.pool + keys.v_at + 16 * chunk;

    /* Rows of the next tile's worth of keys, counted over all pages; -1: nobody looks at it. */
    Stretch coming;
    int coming_tile = begin, at[PASSES];
    coming.enter(begin, end);
    auto look_up = [&]() {
#pragma unroll
        for (int j = 0; j < PASSES; j++) {
            const int r = thread / (D / 8) + j * (THREADS / (D / 8));
            at[j] = -1;
            if (coming_tile < end) {
                const int rank = coming.rank(4 * (coming_tile - coming.begin) + r / 16) + r % 16;
                if (rank < keys.ranked + r1) {
                    const int slot = slot_of(p, keys, rank, 0, false);
                    at[j] = keys.pages[slot >> p.page_shift] << p.page_shift | (slot & page_mask);
                }
            }
        }
    };
    auto fetch = [&]() {
        if (coming_tile < end) {
            if (coming.end * TILE > keys.ranked)
                wait();
            const uint32_t to = base + (coming_tile - begin) % STAGES * STAGE;
#pragma unroll
            for (int j = 0; j < PASSES; j++) {
                const int r = thread / (D / 8) + j * (THREADS / (D / 8)), page = at[j] >> p.page_shift;
                const bool there = at[j] >= 0 && has_chunk;
                const int64_t row = at[j] & page_mask;
                copy16<D>(to + tile_at<ROW>(r, chunk),
                          there ? k_pool + page * p.k.page_stride + row * p.k.row_stride : k_pool, there);
                copy16<D>(to + SIDE + tile_at<ROW>(r, chunk),
                          there ? v_pool + page * p.v.page_stride + row * p.v.row_stride : v_pool, there);
            }
            if (++coming_tile == coming.end && coming_tile < end)
                coming.enter(coming_tile, end);
            look_up();
        }
        commit();
    };
    look_up();
#pragma unroll 1
    for (int i = 0; i < STAGES - 1; i++)
        fetch();
    wait();

    const bf16 *q = static_cast<const bf16 *>(p.q);
    for (int i = thread; i < SLK_TALL_ROWS * (D / 8); i += THREADS) {
        const int m = i / (D / 8), c = i % (D / 8), row = r0 + m / p.group;
        uint4 x = make_uint4(0, 0, 0, 0);
        if (row < r1 && c < p.head_dim / 8)
            x = *reinterpret_cast<const uint4 *>(q + (keys.first_row + row) * p.q_row +
                                                 (kv_head * p.group + m % p.group) * p.q_head + 8 * c);
        *reinterpret_cast<uint4 *>(shared + Q_AT + tile_at<ROW>(m, c)) = x;
    }
    __syncthreads();
    uint32_t qa[D / 16][4];
    const uint32_t q_at = base + Q_AT + tile_at<ROW>(warp * 16 + lane % 16, lane / 16);
#pragma unroll
    for (int k = 0; k < D / 16; k++)
        ldmatrix4(qa[k], further(q_at, k));

    /* Two rows a lane: lane / 4 and 8 further on. */
    int last[2];
    float scale[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int i = min(r0 + (warp * 16 + lane / 4 + 8 * h) / p.group, r1 - 1);
        last[h] = keys.tree ? keys.ranked : keys.ranked + i + 1;
        scale[h] = p.row_scale != nullptr ? __fmul_rn(p.scale, p.row_scale[keys.first_row + i]) : p.scale;
    }
    const bool used = r0 + warp * 16 / p.group < r1;
    const int all_last = keys.tree ? keys.ranked : keys.ranked + r0 + 1;
    /* Of a column, and of the columns of the split so far. */
    float top[2], sum[2], out[D / 8][4], all_top[2], all_sum[2], all[D / 8][4];
    const uint32_t k_lane = tile_at<ROW>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    const uint32_t v_lane = SIDE + tile_at<ROW>(lane % 16, lane / 16);
    Stretch now;
    now.enter(begin, end);
    for (int tile = begin; tile < end; tile++) {
        wait_copies<STAGES - 2>();
        __syncthreads();
        fetch();
        if (tile == now.end)
            now.enter(tile, end);
        if (!used)
            continue;
        const uint32_t stage = base + (tile - begin) % STAGES * STAGE;
        const int n = now.end - now.begin;
#pragma unroll 1
        for (int j = 0; j < 4; j++) {
            const int piece = 4 * (tile - now.begin) + j, rank = now.rank(piece);
            const uint32_t k_at = stage + k_lane + j * 16 * ROW, v_at = stage + v_lane + j * 16 * ROW;
            if (piece % n == 0) {
#pragma unroll
                for (int h = 0; h < 2; h++)
                    top[h] = -INFINITY, sum[h] = 0.f;
#pragma unroll
                for (int t = 0; t < D / 8; t++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        out[t][e] = 0.f;
            }
            float s[2][4] = {}, odd[2][4] = {};
#pragma unroll
            for (int k = 0; k < D / 16; k++) {
                uint32_t b[4];
                ldmatrix4(b, further(k_at, k));
                mma(k % 2 ? odd[0] : s[0], qa[k], b[0], b[1]);
                mma(k % 2 ? odd[1] : s[1], qa[k], b[2], b[3]);
            }
            float best[2] = {-INFINITY, -INFINITY};
#pragma unroll
            for (int c = 0; c < 2; c++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    s[c][e] = __fmul_rn(__fadd_rn(s[c][e], odd[c][e]), scale[e / 2]);
            if (p.softcap > 0.f) {
#pragma unroll
                for (int c = 0; c < 2; c++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        s[c][e] = soft_cap(p, s[c][e]);
            }
            if (rank + 16 > all_last) {
#pragma unroll
                for (int c = 0; c < 2; c++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        if (rank + 8 * c + e % 2 + lane % 4 * 2 >= last[e / 2])
                            s[c][e] = -INFINITY;
            }
#pragma unroll
            for (int c = 0; c < 2; c++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    s[c][e] = __fmul_rn(s[c][e], kLog2e);
                    best[e / 2] = fmaxf(best[e / 2], s[c][e]);
                }
            float shrink[2], anchor[2];
            bool higher = false;
#pragma unroll
            for (int h = 0; h < 2; h++) {
                best[h] = fmaxf(best[h], __shfl_xor_sync(0xffffffffu, best[h], 1));
                best[h] = fmaxf(best[h], __shfl_xor_sync(0xffffffffu, best[h], 2));
                const float now_top = fmaxf(top[h], ceilf(best[h])); /* whole: every rescaling is exact */
                shrink[h] = now_top > top[h] ? pow2_whole(top[h] - now_top) : 1.f;
                higher |= now_top > top[h];
                top[h] = now_top;
                anchor[h] = now_top == -INFINITY ? 0.f : now_top;
            }
            if (__any_sync(0xffffffffu, higher)) {
#pragma unroll
                for (int h = 0; h < 2; h++)
                    sum[h] = __fmul_rn(sum[h], shrink[h]);
#pragma unroll
                for (int t = 0; t < D / 8; t++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        out[t][e] = __fmul_rn(out[t][e], shrink[e / 2]);
            }
#pragma unroll
            for (int c = 0; c < 2; c++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    s[c][e] = exp2_fast(__fsub_rn(s[c][e], anchor[e / 2]));
#pragma unroll
            for (int h = 0; h < 2; h++)
                sum[h] = __fadd_rn(sum[h], __fadd_rn(__fadd_rn(s[0][2 * h], s[0][2 * h + 1]),
                                                     __fadd_rn(s[1][2 * h], s[1][2 * h + 1])));
            const uint32_t a[4] = {pack_bf16(s[0][0], s[0][1]), pack_bf16(s[0][2], s[0][3]),
                                   pack_bf16(s[1][0], s[1][1]), pack_bf16(s[1][2], s[1][3])};
#pragma unroll
            for (int t = 0; t < D / 8; t += 2) {
                uint32_t b[4];
                ldmatrix4_trans(b, further(v_at, t / 2));
                mma(out[t], a, b[0], b[1]);
                mma(out[t + 1], a, b[2], b[3]);
            }
            if (piece % n < n - 1)
                continue;
            /* A column ends. There the four are brought to the highest exponent and added; here those so far. */
            float mine[2], old[2];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                sum[h] = __fadd_rn(sum[h], __shfl_xor_sync(0xffffffffu, sum[h], 1));
                sum[h] = __fadd_rn(sum[h], __shfl_xor_sync(0xffffffffu, sum[h], 2));
                if (piece < n)
                    all_top[h] = -INFINITY, all_sum[h] = 0.f;
                const float highest = fmaxf(all_top[h], top[h]);
                mine[h] = top[h] == -INFINITY ? 0.f : pow2_whole(top[h] - highest);
                old[h] = all_top[h] == -INFINITY ? 0.f : pow2_whole(all_top[h] - highest);
                all_sum[h] = __fmaf_rn(sum[h], mine[h], __fmul_rn(all_sum[h], old[h]));
                all_top[h] = highest;
            }
#pragma unroll
            for (int t = 0; t < D / 8; t++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const float x = __fmul_rn(out[t][e], mine[e / 2]);
                    all[t][e] = piece < n ? x : __fadd_rn(__fmul_rn(all[t][e], old[e / 2]), x);
                }
        }
        if (tile + 1 < now.end)
            continue;
        const int split = slk_few_split_of(tile);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int m = warp * 16 + lane / 4 + 8 * h, i = r0 + m / p.group, channel = lane % 4 * 2;
            if (i >= r1)
                continue;
            const int64_t to =
                (static_cast<int64_t>(keys.first_row + i) * p.heads + kv_head * p.group + m % p.group) * p.max_splits +
                split;
            if (channel == 0)
                *reinterpret_cast<float2 *>(p.part_ml + 2 * to) = make_float2(all_top[h], all_sum[h]);
#pragma unroll
            for (int t = 0; t < D / 8; t++)
                if (8 * t < p.head_dim)
                    *reinterpret_cast<float2 *>(p.part_o + to * p.head_dim + 8 * t + channel) =
                        make_float2(all[t][2 * h], all[t][2 * h + 1]);
        }
    }
}

} // namespace

/* Who waits for this kernel waits for those in front of it too, also where nothing was to be done. */
SLK_KERNEL __launch_bounds__(THREADS, 1) slk_attend_tall_128(const __grid_constant__ slk_attend_few_params p) {
    extern __shared__ __align__(128) unsigned char shared[];
    attend_tall(p, shared);
    wait_for_predecessor();
}
