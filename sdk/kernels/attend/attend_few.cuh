/* The kernel of attend_few_cuda.h. A block takes one KV head of one sequence, MT x 16 rows of the matrix "query rows x
 * heads of the group", and a share of the keys: grid (share, KV head, sequence x block of rows).
 *
 * A tile is 64 keys; column w of four has keys 16 w .. 16 w + 15 of every tile, a ring of asynchronous copies of its
 * own and, for 16 rows, one warp: scores, softmax and sums of a column stay in the registers of that warp, and no warp
 * waits for another before a split ends. Then the four columns are added in order. So sums of a row have one order, and
 * it does not matter to a row how many others are in the block. With MT > 1 the warps of a column share its ring.
 *
 * Bound by the bytes of K and V: at 4.3 TB/s an SM of an H200 gets 16 keys of D = 128 (8 KiB) in 250 ns; 128 KiB are
 * in flight, of 50 that latency x bandwidth asks for. Measured there: a further tile of a block costs 1.85 us with two
 * blocks on each SM (4.5 TB/s), the first one 9 us with launch and join, and the end of a split some 1 to 3 us, which
 * is far more than its instructions account for. */
#ifndef SLUICE_KERNELS_ATTEND_FEW_CUH
#define SLUICE_KERNELS_ATTEND_FEW_CUH

#include "attend_keys.cuh"

namespace slk {

template <int D, int MT, bool ANY> struct Few {
    static constexpr int kThreads = 128 * MT, kMinBlocks = MT == 1 && D <= 128 ? 2 : 1;
    static constexpr int kRow = 2 * D, kSide = 16 * kRow, kStage = 2 * kSide;
    static constexpr int kStages = D == 256 && MT == 2 ? 2 : D == 64 || (ANY && D != 256) ? 4 : 3;
    static constexpr int kColumn = ANY ? kStage : kStages * kStage; /* bf16 rows of a column */
    static constexpr int kQ = 4 * kColumn, kSums = kQ + 16 * MT * kRow;
    /* With one share, what the splits so far come to: 24 registers, or where those are short, in shared memory. */
    static constexpr bool kFoldInShared = MT > 1 || D > 128;
    static constexpr int kFold = kSums + MT * 8192, kRaw = kFold + (kFoldInShared ? 64 * MT * D : 0);
    static constexpr int kTogether = 512 / D, kPasses = 16 / kTogether; /* rows whose columns are added at a time */
    static constexpr bool kQInRegisters = D <= 128 && MT == 1;
};

template <int D, int MT, bool ANY> __device__ __forceinline__ void attend_few(const slk_attend_few_params &p) {
    using S = Few<D, MT, ANY>;
    constexpr int kStages = S::kStages, kTile = SLK_FEW_TILE;
    extern __shared__ __align__(128) unsigned char shared[];
    __shared__ float2 stat[MT][4][16];  /* maximum and sum of each row of each column */
    __shared__ float2 all_stat[MT][16]; /* with one share, of all splits so far */
    __shared__ int2 where[ANY ? 4 : 1][ANY ? kStages : 1][2]
                         [16]; /* page and row of K and V of what a stage holds; page < 0: nothing */
    __shared__ int sinks_of[3];

    const int place = blockIdx.z / p.row_blocks, block = blockIdx.z % p.row_blocks, kv_head = blockIdx.y;
    const int thread = threadIdx.x, lane = thread % 32, column = thread / 32 % 4, mt = thread / 128;
    /* The kernel in front of the tails is the one of the other tiles: what that waited for is there. */
    bool waited = !p.early;
    auto wait = [&] {
        if (!p.tails)
            wait_for_predecessor();
        let_successor_start();
        waited = true;
    };
    if (waited)
        wait();
    const Seat seat = seat_of(p, place);
    if (place >= p.n_seqs[0] || (p.tails && !seat.tree))
        return;
    const int r0 = block * p.row_block, r1 = min(r0 + p.row_block, seat.rows);
    if (r0 >= r1)
        return;
    const Keys keys = keys_of(p, seat, place, seat.first_row + r0, kv_head);

    /* Which tiles, and which of their keys somebody looks at. */
    const Cuts cuts = cuts_of(p, keys);
    const bool paths = keys.tree && !p.masked; /* each row has keys of its own from the tail on */
    const int tail = !paths ? cuts.end : p.shares > 1 ? split_begin(cuts, keys.ranked / kTile) : cuts.first;
    const int share = p.shares - 1 - static_cast<int>(blockIdx.x);
    int low = low_rank(p, keys, r0), high = keys.ranked + r1;                 /* of any row */
    int all_low = low_rank(p, keys, r1 - 1), all_high = keys.ranked + r0 + 1; /* of every row */
    if (keys.tree) {
        low = low_rank(p, keys, 0);
        all_low = low_rank(p, keys, keys.rows);
        high = keys.ranked + keys.rows;
        all_high = keys.ranked;
    }
    if (p.tails) {
        const int depth = depth_of(p, keys, r0);
        low = low_rank(p, keys, depth);
        high = keys.ranked + depth + 1;
    }
    int begin = cuts.first, end = cuts.end;
    if (!p.tails) {
        begin = share_begin(p, cuts, share);
        end = min(share_begin(p, cuts, share + 1), tail);
    } else {
        begin = tail;
    }
    end = min(end, (high + kTile - 1) / kTile);
    /* Between the sinks and the window is a gap; without sinks it begins at 0. What the loop wants of it lies in shared
     * memory: registers are short, and most calls have no sinks. */
    const int gap_begin = (keys.sinks + kTile - 1) / kTile, gap = max(low / kTile - gap_begin, 0);
    if (begin >= gap_begin)
        begin = max(begin, gap_begin + gap);
    int items = end - begin;
    if (begin < gap_begin && items > gap_begin - begin)
        items = max(gap_begin - begin, items - gap);
    if (thread == 0 && p.sinks > 0) {
        sinks_of[0] = keys.sinks;
        sinks_of[1] = begin < gap_begin ? gap_begin - begin : 1 << 30; /* first item behind the gap */
        sinks_of[2] = gap;
    }
    if (p.sinks > 0)
        __syncthreads();
    auto tile_of = [&](int item) { return begin + item + (p.sinks > 0 && item >= sinks_of[1] ? sinks_of[2] : 0); };
    auto is_sink = [&](int rank) { return p.sinks > 0 && rank < sinks_of[0]; };
    if (items <= 0)
        return;

    const uint32_t base = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    const uint32_t ring = base + column * S::kColumn;
    const int chunks = p.head_dim / 8;

    /* Where keys lie: lanes 0 .. 15 have the keys, lanes 16 .. 31 the values of the column's part of a tile. */
    const slk_side_device &side = lane < 16 ? p.k : p.v;
    const char *const pool = side.pool + (lane < 16 ? keys.k_at : keys.v_at);
    const int64_t page_stride = side.page_stride, row_stride = side.row_stride;
    const int page_mask = (1 << p.page_shift) - 1;
    auto slot_in = [&](int item) { /* -1: nobody looks at it */
                                   const int rank = tile_of(item) * kTile + column * 16 + lane % 16;
                                   return item < items && (rank >= low || is_sink(rank)) && rank < high
                                              ? slot_of(p, keys, rank, keys.first_row + r0, paths)
                                              : -1;
    };
    const int coded = lane < 16 ? keys.coded_k : keys.coded_v;
    auto page_of = [&](int slot) {
        return slot >= 0 ? (ANY && slot >= coded ? keys.plain_pages : keys.pages)[slot >> p.page_shift] : -1;
    };
    auto fetch = [&](int item, int slot, int page) {
        const int stage = item % kStages;
        const bool plain = ANY && slot >= coded;
        const char *at = page >= 0 && !plain ? pool + page * page_stride + (slot & page_mask) * row_stride : nullptr;
        if constexpr (ANY) {
            if (mt == 0)
                where[column][stage][lane / 16][lane % 16] =
                    make_int2(page, (slot & page_mask) | (plain ? kPlainRow : 0));
            if (mt == 0 && !plain)
                fetch_scales(side, page, slot & page_mask, kv_head * p.head_dim);
            const uint32_t to = base + S::kRaw + (column * kStages + stage) * 16 * (p.k.raw + p.v.raw);
            fetch_raw(p.k, shuffle(at, lane / 2), to + lane / 2 * p.k.raw, lane % 2 + 2 * mt, 2 * MT);
            fetch_raw(p.v, shuffle(at, lane / 2 + 16), to + 16 * p.k.raw + lane / 2 * p.v.raw, lane % 2 + 2 * mt,
                      2 * MT);
        } else {
            const uint32_t to = ring + stage * S::kStage;
#pragma unroll
            for (int j = 0; j < 4 / MT; j++) {
                const int key = lane / 8 + 4 * (j * MT + mt);
                const char *const k = shuffle(at, key), *const v = shuffle(at, key + 16);
#pragma unroll
                for (int h = 0; h < D / 64; h++) {
                    const int c = lane % 8 + 8 * h;
                    const bool there = k != nullptr && c < chunks;
                    copy16<D>(to + tile_at<S::kRow>(key, c), k + 16 * c, there);
                    copy16<D>(to + S::kSide + tile_at<S::kRow>(key, c), v + 16 * c, there);
                }
            }
        }
    };

    /* Numbers of pages are looked up one tile ahead of the copy, slots of lists two. */
    int slot, page, next_slot;
    {
        int slots[kStages + 1], found[kStages];
#pragma unroll
        for (int i = 0; i <= kStages; i++)
            slots[i] = slot_in(i);
#pragma unroll
        for (int i = 0; i < kStages; i++)
            found[i] = page_of(slots[i]);
#pragma unroll
        for (int i = 0; i < kStages - 1; i++) {
            if (!waited && (tile_of(i) + 1) * kTile > keys.ranked)
                wait();
            if (i < items)
                fetch(i, slots[i], found[i]);
            commit();
        }
        if (!waited)
            wait();
        slot = slots[kStages - 1], page = found[kStages - 1], next_slot = slots[kStages];
    }

    const bf16 *q = static_cast<const bf16 *>(p.q);
    for (int at = thread; at < 2 * MT * D; at += S::kThreads) {
        const int m = at / (D / 8), c = at % (D / 8), i = r0 + m / p.group;
        uint4 x = make_uint4(0, 0, 0, 0);
        if (i < r1 && c < chunks)
            x = *reinterpret_cast<const uint4 *>(q + (keys.first_row + i) * p.q_row +
                                                 (kv_head * p.group + m % p.group) * p.q_head + 8 * c);
        *reinterpret_cast<uint4 *>(shared + S::kQ + tile_at<S::kRow>(m, c)) = x;
    }
    __syncthreads();
    uint32_t qa[S::kQInRegisters ? D / 16 : 1][4];
    const uint32_t q_at = base + S::kQ + tile_at<S::kRow>(mt * 16 + lane % 16, lane / 16);
    if constexpr (S::kQInRegisters) {
#pragma unroll
        for (int k = 0; k < D / 16; k++)
            ldmatrix4(qa[k], further(q_at, k));
    }

    /* Two rows a lane: lane / 4 and 8 further on. */
    const int used = (r1 - r0) * p.group - mt * 16; /* rows of these 16 that are some */
    const int m0 = mt * 16 + lane / 4;
    int first[2], last[2], of[2];
    float scale[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int i = r0 + (m0 + 8 * h) / p.group;
        of[h] = i < r1 ? i : -1;
        first[h] = last[h] = 0;
        scale[h] = p.scale;
        if (of[h] >= 0) {
            const int depth = depth_of(p, keys, i);
            last[h] = keys.tree && p.masked ? high : keys.ranked + depth + 1;
            first[h] = low_rank(p, keys, depth);
            if (p.row_scale != nullptr)
                scale[h] = __fmul_rn(p.scale, p.row_scale[keys.first_row + i]);
        }
    }
    float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f}, out[D / 8][4];
#pragma unroll
    for (int t = 0; t < D / 8; t++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            out[t][e] = 0.f;
    const int my_row = thread % 128 / (D / 4), my_channel = thread % (D / 4) * 4;
    /* Of the thread's row and channels in each pass: their sums, largest exponent, and the splits' total. */
    float4 *const fold = reinterpret_cast<float4 *>(shared + S::kFold + mt * 64 * D) + thread % 128;
    float4 fold_out[S::kFoldInShared ? 1 : S::kPasses];
    float2 fold_stat[S::kFoldInShared ? 1 : S::kPasses];
#pragma unroll
    for (int n = 0; n < S::kPasses; n++) {
        if constexpr (S::kFoldInShared) {
            if (p.shares == 1)
                fold[n * 128] = make_float4(0.f, 0.f, 0.f, 0.f);
            if (thread % 128 < 16)
                all_stat[mt][thread % 128] = make_float2(-INFINITY, 0.f);
        } else {
            fold_out[n] = make_float4(0.f, 0.f, 0.f, 0.f);
            fold_stat[n] = make_float2(-INFINITY, 0.f);
        }
    }

    const uint32_t k_lane = tile_at<S::kRow>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    const uint32_t v_lane = tile_at<S::kRow>(lane % 16, lane / 16);
    const bool capped = p.softcap > 0.f;
    int split = split_of(cuts, begin), next_split = split_end(cuts, begin);
    for (int item = 0; item < items; item++) {
        wait_copies<kStages - 2>();
        column_barrier<MT>(column);
        if (item + kStages - 1 < items)
            fetch(item + kStages - 1, slot, page);
        commit();
        slot = next_slot;
        page = page_of(slot);
        next_slot = slot_in(item + kStages + 1);

        uint32_t k_at = ring + k_lane, v_at = ring + S::kSide + v_lane;
        if constexpr (ANY) {
            const int stage = item % kStages;
            const int2 k_place = where[column][stage][0][lane / 2], v_place = where[column][stage][1][lane / 2];
            const unsigned char *raw = shared + S::kRaw + (column * kStages + stage) * 16 * (p.k.raw + p.v.raw);
            unsigned char *to = shared + column * S::kColumn;
            widen<D, MT>(p.k, p.plain_k, raw + lane / 2 * p.k.raw, k_place, kv_head, p.head_dim, to, mt, lane);
            widen<D, MT>(p.v, p.plain_v, raw + 16 * p.k.raw + lane / 2 * p.v.raw, v_place, kv_head, p.head_dim,
                         to + S::kSide, mt, lane);
            column_barrier<MT>(column);
        } else {
            k_at += item % kStages * S::kStage;
            v_at += item % kStages * S::kStage;
        }
        if (used > 0) {
            float s[2][4] = {}, odd[2][4] = {};
#pragma unroll
            for (int k = 0; k < D / 16; k++) {
                uint32_t b[4];
                ldmatrix4(b, further(k_at, k));
                if constexpr (S::kQInRegisters) {
                    mma(k % 2 ? odd[0] : s[0], qa[k], b[0], b[1]);
                    mma(k % 2 ? odd[1] : s[1], qa[k], b[2], b[3]);
                } else {
                    uint32_t a[4];
                    ldmatrix4(a, further(q_at, k));
                    mma(k % 2 ? odd[0] : s[0], a, b[0], b[1]);
                    mma(k % 2 ? odd[1] : s[1], a, b[2], b[3]);
                }
            }
            /* Scores in powers of two; what a row does not see is -inf. */
            const int rank = tile_of(item) * kTile + column * 16;
            const bool whole = rank >= all_low && rank + 16 <= all_high && p.scores == nullptr;
            float best[2] = {-INFINITY, -INFINITY};
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    s[n][e] = __fmul_rn(__fadd_rn(s[n][e], odd[n][e]), scale[e / 2]);
            if (capped) {
#pragma unroll
                for (int n = 0; n < 2; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        s[n][e] = soft_cap(p, s[n][e]);
            }
            if (!whole) {
#pragma unroll
                for (int n = 0; n < 2; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        const int h = e / 2, r = rank + 8 * n + e % 2 + lane % 4 * 2;
                        bool seen = (r >= first[h] || is_sink(r)) && r < last[h];
                        if (seen && keys.tree && p.masked && r >= keys.ranked)
                            seen = sees(p, keys.first_row + of[h], r - keys.ranked);
                        if (seen && p.scores != nullptr && r - first[h] < p.score_stride) {
                            const int64_t row = keys.first_row + of[h];
                            const int head = kv_head * p.group + (m0 + 8 * h) % p.group;
                            p.scores[(row * p.heads + head) * p.score_stride + r - first[h]] = s[n][e];
                        }
                        if (!seen)
                            s[n][e] = -INFINITY;
                    }
            }
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    s[n][e] = __fmul_rn(s[n][e], kLog2e);
                    best[e / 2] = fmaxf(best[e / 2], s[n][e]);
                }
            float shrink[2], anchor[2];
            bool higher = false;
#pragma unroll
            for (int h = 0; h < 2; h++) {
                best[h] = fmaxf(best[h], __shfl_xor_sync(0xffffffffu, best[h], 1));
                best[h] = fmaxf(best[h], __shfl_xor_sync(0xffffffffu, best[h], 2));
                const float now = fmaxf(top[h], ceilf(best[h])); /* whole: every rescaling is exact */
                shrink[h] = now > top[h] ? pow2_whole(top[h] - now) : 1.f;
                higher |= now > top[h];
                top[h] = now;
                anchor[h] = now == -INFINITY ? 0.f : now;
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
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    s[n][e] = exp2_fast(__fsub_rn(s[n][e], anchor[e / 2]));
#pragma unroll
            for (int h = 0; h < 2; h++)
                sum[h] = __fadd_rn(sum[h], __fadd_rn(__fadd_rn(s[0][2 * h], s[0][2 * h + 1]),
                                                     __fadd_rn(s[1][2 * h], s[1][2 * h + 1])));
            /* Sums of a product are laid out as the left side of the next one. */
            const uint32_t a[4] = {pack_bf16(s[0][0], s[0][1]), pack_bf16(s[0][2], s[0][3]),
                                   pack_bf16(s[1][0], s[1][1]), pack_bf16(s[1][2], s[1][3])};
#pragma unroll
            for (int t = 0; t < D / 8; t += 2) {
                uint32_t b[4];
                ldmatrix4_trans(b, further(v_at, t / 2));
                mma(out[t], a, b[0], b[1]);
                mma(out[t + 1], a, b[2], b[3]);
            }
        }
        if (tile_of(item + 1) < next_split && item + 1 < items)
            continue;
        if (used > 0) { /* a split ends: its columns are added, then it goes out or onto what the block has */
#pragma unroll
            for (int h = 0; h < 2; h++) {
                sum[h] = __fadd_rn(sum[h], __shfl_xor_sync(0xffffffffu, sum[h], 1));
                sum[h] = __fadd_rn(sum[h], __shfl_xor_sync(0xffffffffu, sum[h], 2));
                if (lane % 4 == 0)
                    stat[mt][column][lane / 4 + 8 * h] = make_float2(top[h], sum[h]);
            }
            rows_barrier<MT>(mt);
            float part[2];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int m = lane / 4 + 8 * h;
                const float highest =
                    fmaxf(fmaxf(stat[mt][0][m].x, stat[mt][1][m].x), fmaxf(stat[mt][2][m].x, stat[mt][3][m].x));
                part[h] = top[h] == -INFINITY ? 0.f : pow2_whole(top[h] - highest);
            }
            float *const sums = reinterpret_cast<float *>(shared + S::kSums + mt * 8192);
#pragma unroll
            for (int n = 0; n < S::kPasses; n++) {
                constexpr int kTogether = S::kTogether;
                const int h = n * kTogether / 8, at = lane / 4 - n * kTogether % 8;
                if (n * kTogether >= used)
                    break;
                if (at >= 0 && at < kTogether) {
#pragma unroll
                    for (int t = 0; t < D / 8; t++)
                        *reinterpret_cast<float2 *>(sums + column * 512 + at * D + 8 * t + lane % 4 * 2) =
                            make_float2(__fmul_rn(out[t][2 * h], part[h]), __fmul_rn(out[t][2 * h + 1], part[h]));
                }
                rows_barrier<MT>(mt);
                const int m = n * kTogether + my_row;
                float highest = -INFINITY, total = 0.f, x[4];
#pragma unroll
                for (int w = 0; w < 4; w++)
                    highest = fmaxf(highest, stat[mt][w][m].x);
#pragma unroll
                for (int w = 0; w < 4; w++) {
                    const float2 of_column = stat[mt][w][m];
                    if (of_column.x > -INFINITY)
                        total = __fmaf_rn(of_column.y, pow2_whole(of_column.x - highest), total);
                    const float4 y = *reinterpret_cast<const float4 *>(sums + w * 512 + my_row * D + my_channel);
                    x[0] = w == 0 ? y.x : __fadd_rn(x[0], y.x);
                    x[1] = w == 0 ? y.y : __fadd_rn(x[1], y.y);
                    x[2] = w == 0 ? y.z : __fadd_rn(x[2], y.z);
                    x[3] = w == 0 ? y.w : __fadd_rn(x[3], y.w);
                }
                if (p.shares > 1) {
                    if (m < used && my_channel < p.head_dim) {
                        const int64_t row = keys.first_row + r0 + (mt * 16 + m) / p.group;
                        const int head = kv_head * p.group + (mt * 16 + m) % p.group;
                        const int64_t to = (row * p.heads + head) * p.max_splits + split;
                        if (my_channel == 0)
                            *reinterpret_cast<float2 *>(p.part_ml + 2 * to) = make_float2(highest, total);
                        *reinterpret_cast<float4 *>(p.part_o + to * p.head_dim + my_channel) =
                            make_float4(x[0], x[1], x[2], x[3]);
                    }
                }
                float2 now = make_float2(-INFINITY, 0.f);
                if (p.shares == 1) {
                    const float2 before = S::kFoldInShared ? all_stat[mt][m] : fold_stat[S::kFoldInShared ? 0 : n];
                    float4 y = S::kFoldInShared ? fold[n * 128] : fold_out[S::kFoldInShared ? 0 : n];
                    now = before;
                    if (highest > -INFINITY) {
                        now.x = fmaxf(before.x, highest);
                        const float mine = pow2_whole(highest - now.x), old = pow2_whole(before.x - now.x);
                        now.y = __fmaf_rn(total, mine, __fmul_rn(before.y, old));
                        y.x = __fmaf_rn(x[0], mine, __fmul_rn(y.x, old));
                        y.y = __fmaf_rn(x[1], mine, __fmul_rn(y.y, old));
                        y.z = __fmaf_rn(x[2], mine, __fmul_rn(y.z, old));
                        y.w = __fmaf_rn(x[3], mine, __fmul_rn(y.w, old));
                    }
                    if constexpr (S::kFoldInShared) {
                        fold[n * 128] = y;
                    } else {
                        fold_out[n] = y;
                        fold_stat[n] = now;
                    }
                }
                rows_barrier<MT>(mt);
                if (S::kFoldInShared && p.shares == 1 && my_channel == 0)
                    all_stat[mt][m] = now;
            }
#pragma unroll
            for (int h = 0; h < 2; h++)
                top[h] = -INFINITY, sum[h] = 0.f;
#pragma unroll
            for (int t = 0; t < D / 8; t++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    out[t][e] = 0.f;
        }
        split++;
        if (item + 1 < items) {
            next_split = split_end(cuts, tile_of(item + 1));
            if (p.sinks > 0)
                split = split_of(cuts, tile_of(item + 1));
        }
    }
    if (p.shares == 1) {
        rows_barrier<MT>(mt);
#pragma unroll
        for (int n = 0; n < S::kPasses; n++) {
            const int m = n * S::kTogether + my_row;
            const float2 all = S::kFoldInShared ? all_stat[mt][m] : fold_stat[S::kFoldInShared ? 0 : n];
            const float4 y = S::kFoldInShared ? fold[n * 128] : fold_out[S::kFoldInShared ? 0 : n];
            if (m >= used || my_channel >= p.head_dim)
                continue;
            const int64_t row = keys.first_row + r0 + (mt * 16 + m) / p.group;
            const int head = kv_head * p.group + (mt * 16 + m) % p.group;
            if (p.lse != nullptr && my_channel == 0)
                p.lse[row * p.heads + head] = all.y > 0.f ? __fmul_rn(__fadd_rn(all.x, log2f(all.y)), kLn2) : -INFINITY;
            const float inverse = all.y > 0.f ? __fdiv_rn(1.f, all.y) : 0.f;
            const float x[4] = {__fmul_rn(y.x, inverse), __fmul_rn(y.y, inverse), __fmul_rn(y.z, inverse),
                                __fmul_rn(y.w, inverse)};
            const int64_t to = row * p.o_row + head * p.o_head + my_channel;
            if (p.o_f32)
                *reinterpret_cast<float4 *>(static_cast<float *>(p.o) + to) = make_float4(x[0], x[1], x[2], x[3]);
            else
                *reinterpret_cast<uint2 *>(static_cast<bf16 *>(p.o) + to) =
                    make_uint2(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]));
        }
    }
}

} // namespace slk

/* The tails end when the kernel of the other tiles has: who waits for them waits for both. Blocks that had nothing to
 * do may not have waited yet. */
#define SLK_FEW_KERNEL(name, d, mt, any)                                                                               \
    extern "C" __global__ void __launch_bounds__(128 * mt, (slk::Few<d, mt, any>::kMinBlocks))                         \
        slk_##name##_##d##_##mt(const __grid_constant__ slk_attend_few_params p) {                                     \
        slk::attend_few<d, mt, any>(p);                                                                                \
        if (p.tails || p.early)                                                                                        \
            slk::wait_for_predecessor();                                                                               \
    }

#endif
