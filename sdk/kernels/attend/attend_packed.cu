/* Attention of trees and short chunks for Hopper, D 128, fast mode: all rows of a sequence and all heads of a group are
 * one matrix of queries, see attend_few_cuda.h.
 *
 * A block takes 128 rows of the matrix "rows x heads of the group" of one KV head and a share of the keys: grid (share,
 * KV head, sequence x block of rows). Shares that a cluster takes are joined through distributed shared memory; where
 * one cluster has all of them, that is the result. Two warpgroups have 64 rows each, a third brings keys and values,
 * 128 a tile, through three stages. Rows see what is committed, and of the step's rows those of their mask.
 *
 * A tree of 64 rows over 4096 keys, 32 heads in 8 groups: 16.8 MB of keys and values (3.9 us at 4.3 TB/s), twice that
 * from the L2 (6 us at 5.5 TB/s), 4.3 GFLOP (5.4 us at 790 TFLOP/s, of which prompts reach 500); with a launch, the
 * first tile's way and the join 13 to 16 us are expected, where the kernel of few rows took 55.
 */
#include "attend_keys.cuh"
#include "hopper.cuh"

namespace {

using namespace slk;

constexpr int D = 128;
constexpr int KEYS = 128;
constexpr int ROWS = 64; /* of a warpgroup */
constexpr int STAGES = 3;
constexpr int THREADS = 384;
constexpr uint32_t Q_PANEL = ROWS * 128, KEY_PANEL = KEYS * 128;
constexpr uint32_t Q_BYTES = 2 * Q_PANEL, TILE = 2 * KEY_PANEL;
constexpr uint32_t KEYS_AT = 2 * Q_BYTES, VALUES_AT = KEYS_AT + STAGES * TILE, BARRIERS_AT = VALUES_AT + STAGES * TILE;
static_assert(BARRIERS_AT + 4 * STAGES * 8 <= SLK_PACKED_SHARED, "shared memory");
/* What a block has, for its cluster: [128] rows of sums in the place of keys, {top, sum} in that of queries. */
constexpr uint32_t SUMS_AT = KEYS_AT, STATS_AT = 0;
static_assert(2 * ROWS * D * 4 <= VALUES_AT - KEYS_AT, "shared memory");
/* Barriers, one of each for a stage. */
enum { KEYS_FULL = 0, VALUES_FULL = STAGES, KEYS_EMPTY = 2 * STAGES, VALUES_EMPTY = 3 * STAGES };

/* The block's part. */
struct Part {
    Keys keys;
    int kv_head, r0, r1; /* rows of the sequence */
    int begin, end;      /* ranks */
    int tiles;
};

/* 16 bytes chunk c of row r of the sums. Rows of a quad's eight lie in different banks. */
__device__ __forceinline__ uint32_t sum_at(int r, int c) { return SUMS_AT + r * (D * 4) + (c ^ (r & 7) << 1) * 16; }

/* A warp of the third warpgroup: one half of the rows of each tile of keys, or of values. */
__device__ __forceinline__ void bring(const slk_attend_few_params &p, const Part &w, uint32_t base, bool waited) {
    const int lane = threadIdx.x % 32, half = threadIdx.x / 32 % 2 * (KEYS / 2), chunk = lane % 16;
    const bool values = threadIdx.x / 64 % 2;
    const slk_side_device &side = values ? p.v : p.k;
    const char *const pool = side.pool + (values ? w.keys.v_at : w.keys.k_at);
    const int64_t page_stride = side.page_stride, row_stride = side.row_stride;
    const int page_mask = (1 << p.page_shift) - 1;
    const uint32_t at = base + (values ? VALUES_AT : KEYS_AT);
    const uint32_t full = base + BARRIERS_AT + (values ? VALUES_FULL : KEYS_FULL) * 8;
    const uint32_t empty = base + BARRIERS_AT + (values ? VALUES_EMPTY : KEYS_EMPTY) * 8;
    const bool has_chunk = chunk < p.head_dim / 8;
    const char *from[2]; /* the lane's rows of the tile that is fetched next: lane and lane + 32 of the half */

    auto look_up = [&](int t) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int rank = w.begin + t * KEYS + half + lane + 32 * i;
            from[i] = nullptr;
            if (t < w.tiles && rank < w.end) {
                const int slot = slot_of(p, w.keys, rank, 0, false);
                from[i] = pool + w.keys.pages[slot >> p.page_shift] * page_stride + (slot & page_mask) * row_stride;
            }
        }
    };
    auto fetch = [&](int t) {
        if (!waited && w.begin + (t + 1) * KEYS > w.keys.ranked) {
            wait_for_predecessor();
            waited = true;
        }
        const uint32_t to = at + t % STAGES * TILE;
#pragma unroll 8
        for (int j = 0; j < KEYS / 4; j++) {
            const int r = 2 * j + lane / 16;
            const char *row = shuffle(j < KEYS / 8 ? from[0] : from[1], r % 32);
            copy16<D>(to + place_of(half + r, chunk, KEY_PANEL), row + 16 * chunk, row != nullptr && has_chunk);
        }
        commit();
        look_up(t + 1);
    };
    look_up(0);
    int fetched = 0;
    for (; fetched < STAGES && fetched < w.tiles; fetched++)
        fetch(fetched);
    for (int t = 0; t < w.tiles; t++) {
        if (fetched - t > 2)
            wait_copies<2>();
        else if (fetched - t > 1)
            wait_copies<1>();
        else
            wait_copies<0>();
        fence_async();
        barrier_arrive(full + t % STAGES * 8);
        if (t > 0 && fetched < w.tiles) { /* into the stage of tile t - 1 */
            barrier_wait(empty + fetched % STAGES * 8, (fetched / STAGES - 1) & 1);
            fetch(fetched++);
        }
    }
}

/* Which of 32 keys from the staged row `from` on row i of the sequence sees; those in front of it 0 are committed. */
__device__ __forceinline__ uint32_t seen_word(const slk_attend_few_params &p, const Keys &keys, int i, int from) {
    if (from <= -32)
        return 0xffffffffu;
    if (!keys.tree) {
        const int n = i + 1 - from;
        return n >= 32 ? 0xffffffffu : n > 0 ? (1u << n) - 1u : 0u;
    }
    const uint32_t *bits = p.ancestors + static_cast<int64_t>(keys.first_row + i) * kTreeWords;
    const int word = from >> 5; /* -1: the last committed ones */
    const uint32_t low = word < 0 ? 0xffffffffu : word < kTreeWords ? bits[word] : 0u;
    const uint32_t high = word + 1 < kTreeWords ? bits[word + 1] : 0u;
    return __funnelshift_r(low, high, from & 31);
}

/* Running softmax of the two rows that a thread has a part of. Tops are whole: the join has powers of two. */
struct Softmax {
    float top[2], sum[2], shrink[2], to_log2[2];
    int row[2]; /* of the sequence */
};

/* Scores of the tile at rank become weights. */
__device__ __forceinline__ void weigh(const slk_attend_few_params &p, const Part &w, Softmax &m, float (&s)[64],
                                      int rank) {
    const int lane = threadIdx.x % 32;
    if (p.softcap > 0.f) {
#pragma unroll
        for (int i = 0; i < 64; i++)
            s[i] = soft_cap(p, s[i] * m.to_log2[i / 2 % 2]) * kLog2e;
    }
    if (rank + KEYS > w.end || rank + KEYS > w.keys.ranked) {
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int word = 0; word < 4; word++) {
                uint32_t seen = seen_word(p, w.keys, m.row[h], rank + 32 * word - w.keys.ranked);
                const int left = w.end - rank - 32 * word; /* behind the end the next share begins */
                seen &= left >= 32 ? 0xffffffffu : left > 0 ? (1u << left) - 1u : 0u;
                seen >>= lane % 4 * 2;
#pragma unroll
                for (int i = 0; i < 8; i++)
                    if (!(seen >> (i / 2 * 8 + i % 2) & 1u))
                        s[16 * word + i / 2 * 4 + 2 * h + i % 2] = -INFINITY;
            }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float to_log2 = p.softcap > 0.f ? 1.f : m.to_log2[h];
        float best = -INFINITY;
#pragma unroll
        for (int i = 0; i < 16; i++)
            best = fmaxf(best, fmaxf(s[4 * i + 2 * h], s[4 * i + 2 * h + 1]));
        best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 1));
        best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 2));
        best = fmaxf(ceilf(best * to_log2), m.top[h]);
        const float anchor = best == -INFINITY ? 0.f : best; /* nothing seen yet */
        m.shrink[h] = exp2_fast(m.top[h] - anchor);
        m.top[h] = best;
        float total = 0.f;
#pragma unroll
        for (int i = 0; i < 16; i++) {
            s[4 * i + 2 * h] = exp2_fast(fmaf(s[4 * i + 2 * h], to_log2, -anchor));
            s[4 * i + 2 * h + 1] = exp2_fast(fmaf(s[4 * i + 2 * h + 1], to_log2, -anchor));
            total += s[4 * i + 2 * h] + s[4 * i + 2 * h + 1];
        }
        m.sum[h] = m.sum[h] * m.shrink[h] + total; /* of this thread's columns; joined at the end */
    }
}

/* A warpgroup's 64 rows over the block's keys; leaves sums and stats in shared memory. */
__device__ __forceinline__ void attend(const slk_attend_few_params &p, const Part &w, unsigned char *shared,
                                       uint32_t base, int group) {
    const int thread = threadIdx.x % 128, lane = thread % 32, warp = thread / 32;
    const uint32_t q_at = base + group * Q_BYTES, barriers = base + BARRIERS_AT;

    const bf16 *q = static_cast<const bf16 *>(p.q);
    for (int at = thread; at < ROWS * (D / 8); at += 128) {
        const int r = at / (D / 8), c = at % (D / 8), m = group * ROWS + r, i = w.r0 + m / p.group;
        const bool there = i < w.r1 && c < p.head_dim / 8;
        const bf16 *from = q;
        if (there)
            from += (w.keys.first_row + i) * p.q_row + (w.kv_head * p.group + m % p.group) * p.q_head + 8 * c;
        copy16<D>(q_at + place_of(r, c, Q_PANEL), from, there);
    }
    commit();
    wait_copies<0>();
    fence_async();
    warpgroup_sync(group);

    float s[64], o[64];
    uint32_t share[32];
    Softmax m;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        m.row[h] = min(w.r0 + (group * ROWS + warp * 16 + lane / 4 + 8 * h) / p.group, w.r1 - 1);
        m.top[h] = -INFINITY;
        m.sum[h] = 0.f;
        const float scale = p.row_scale != nullptr ? p.scale * p.row_scale[w.keys.first_row + m.row[h]] : p.scale;
        m.to_log2[h] = p.softcap > 0.f ? scale : scale * kLog2e;
    }
#pragma unroll
    for (int i = 0; i < 64; i++)
        o[i] = 0.f;

    auto score = [&](int t) {
        const uint32_t k_at = base + KEYS_AT + t % STAGES * TILE;
        barrier_wait(barriers + (KEYS_FULL + t % STAGES) * 8, t / STAGES & 1);
        pin(s);
        products_begin();
#pragma unroll
        for (int d = 0; d < D / 16; d++)
            multiply_keys(s, matrix(q_at + (d / 4) * Q_PANEL + (d % 4) * 32, 0),
                          matrix(k_at + (d / 4) * KEY_PANEL + (d % 4) * 32, 0), d > 0);
        products_commit();
    };
    auto release = [&](int which, int t) {
        if (lane == 0) /* each warp for itself, once its products are through */
            barrier_arrive(barriers + (which + t % STAGES) * 8);
    };
    auto round_shares = [&]() {
#pragma unroll
        for (int i = 0; i < 32; i++)
            share[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
    };
    auto await_values = [&](int t) { barrier_wait(barriers + (VALUES_FULL + t % STAGES) * 8, t / STAGES & 1); };
    auto add_values = [&](int t) {
        const uint32_t v_at = base + VALUES_AT + t % STAGES * TILE;
        pin(share);
        pin(o);
        products_begin();
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++)
            multiply_values(o, share + 4 * k, matrix(v_at + k * 2048, KEY_PANEL));
        products_commit();
    };

    if (w.tiles > 0) {
        score(0);
        products_wait<0>();
        pin(s);
        release(KEYS_EMPTY, 0);
        weigh(p, w, m, s, w.begin);
        round_shares();
        await_values(0);
        for (int t = 1; t < w.tiles; t++) {
            score(t);
            add_values(t - 1);
            products_wait<1>(); /* the scores */
            pin(s);
            release(KEYS_EMPTY, t);
            weigh(p, w, m, s, w.begin + t * KEYS);
            await_values(t);    /* here, as in the kernel of prompts: exponentials stay in front of the wait */
            products_wait<0>(); /* the values */
            pin(o);
            pin(share);
            release(VALUES_EMPTY, t - 1);
#pragma unroll
            for (int i = 0; i < 64; i++)
                o[i] *= m.shrink[i / 2 % 2];
            round_shares();
        }
        add_values(w.tiles - 1);
        products_wait<0>();
        pin(o);
    }
    /* Both warpgroups are through with all keys: sums go in their place, stats in that of the queries. */
    named_barrier<256>(3);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int r = group * ROWS + warp * 16 + lane / 4 + 8 * h;
        float total = m.sum[h];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        if (lane % 4 == 0)
            *reinterpret_cast<float2 *>(shared + STATS_AT + r * 8) = make_float2(m.top[h], total);
#pragma unroll
        for (int i = 0; i < 16; i++)
            *reinterpret_cast<float2 *>(shared + sum_at(r, 2 * i + lane % 4 / 2) + lane % 2 * 8) =
                make_float2(o[4 * i + 2 * h], o[4 * i + 2 * h + 1]);
    }
}

/* The cluster's blocks share the rows: each adds up what all have of its own. A warp a row, four channels a lane. */
__device__ __forceinline__ void join(const slk_attend_few_params &p, const Part &w, uint32_t base) {
    const int blocks = p.cluster, rows = 2 * ROWS / blocks, first = static_cast<int>(cluster_rank()) * rows;
    const int lane = threadIdx.x % 32, channel = 4 * lane;
    for (int r = first + threadIdx.x / 32; r < first + rows; r += 8) {
        const int i = w.r0 + r / p.group, head = w.kv_head * p.group + r % p.group;
        if (i >= w.r1)
            break;
        float2 stat[8];
        float4 x[8];
        float top = -INFINITY, sum = 0.f;
#pragma unroll
        for (int b = 0; b < 8; b++)
            if (b < blocks) {
                const uint32_t there = in_block(base, b);
                stat[b] = load_remote2(there + STATS_AT + r * 8);
                x[b] = load_remote4(there + sum_at(r, lane));
                top = fmaxf(top, stat[b].x);
            }
        float4 all = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
        for (int b = 0; b < 8; b++)
            if (b < blocks && stat[b].x > -INFINITY) {
                const float weight = pow2_whole(stat[b].x - top);
                sum = fmaf(stat[b].y, weight, sum);
                all.x = fmaf(x[b].x, weight, all.x);
                all.y = fmaf(x[b].y, weight, all.y);
                all.z = fmaf(x[b].z, weight, all.z);
                all.w = fmaf(x[b].w, weight, all.w);
            }
        const int64_t row = w.keys.first_row + i;
        if (p.max_splits > 1) {
            const int64_t to = (row * p.heads + head) * p.max_splits + blockIdx.x / blocks;
            if (lane == 0)
                *reinterpret_cast<float2 *>(p.part_ml + 2 * to) = make_float2(top, sum);
            if (channel < p.head_dim)
                *reinterpret_cast<float4 *>(p.part_o + to * p.head_dim + channel) = all;
            continue;
        }
        const float inverse = sum > 0.f ? 1.f / sum : 0.f;
        const int64_t to = row * p.o_row + head * p.o_head + channel;
        if (lane == 0 && p.lse != nullptr)
            p.lse[row * p.heads + head] = sum > 0.f ? (top + log2f(sum)) * kLn2 : -INFINITY;
        if (channel >= p.head_dim)
            continue;
        if (p.o_f32)
            *reinterpret_cast<float4 *>(static_cast<float *>(p.o) + to) =
                make_float4(all.x * inverse, all.y * inverse, all.z * inverse, all.w * inverse);
        else
            *reinterpret_cast<uint2 *>(static_cast<bf16 *>(p.o) + to) =
                make_uint2(pack_bf16(all.x * inverse, all.y * inverse), pack_bf16(all.z * inverse, all.w * inverse));
    }
}

__device__ __forceinline__ void attend_packed(const slk_attend_few_params &p, unsigned char *shared) {
    if (!p.early)
        wait_for_predecessor();
    let_successor_start();
    const int place = blockIdx.z / p.row_blocks, block = blockIdx.z % p.row_blocks;
    if (place >= p.n_seqs[0])
        return;
    const Seat seat = seat_of(p, place);
    Part w;
    w.kv_head = blockIdx.y;
    w.r0 = block * p.row_block;
    w.r1 = min(w.r0 + p.row_block, seat.rows);
    if (w.r0 >= w.r1)
        return; /* and with it the whole cluster */
    w.keys = keys_of(p, seat, place, seat.first_row + w.r0, w.kv_head);
    /* Whole tiles, apart from the last one; rows of no tree see nothing behind themselves. */
    const int n = w.keys.ranked + (w.keys.tree ? w.keys.rows : w.r1), all = (n + KEYS - 1) / KEYS;
    const int share = p.shares - 1 - static_cast<int>(blockIdx.x);
    w.begin = static_cast<int>(static_cast<int64_t>(all) * share / p.shares) * KEYS;
    w.end = min(static_cast<int>(static_cast<int64_t>(all) * (share + 1) / p.shares) * KEYS, n);
    w.tiles = (max(w.end - w.begin, 0) + KEYS - 1) / KEYS;

    const uint32_t base = static_cast<uint32_t>(__cvta_generic_to_shared(shared)), barriers = base + BARRIERS_AT;
    if (threadIdx.x == 0) {
        if (base % 1024 != 0)
            __trap(); /* the swizzle goes by addresses */
        for (int i = 0; i < STAGES; i++) {
            barrier_init(barriers + (KEYS_FULL + i) * 8, 64);
            barrier_init(barriers + (VALUES_FULL + i) * 8, 64);
            barrier_init(barriers + (KEYS_EMPTY + i) * 8, 8);
            barrier_init(barriers + (VALUES_EMPTY + i) * 8, 8);
        }
        barriers_made();
    }
    __syncthreads();
    const int group = threadIdx.x / 128;
    if (group == 2) {
        registers_give<56>();
        bring(p, w, base, !p.early);
        cluster_barrier();
    } else {
        registers_take<224>();
        if (p.early)
            wait_for_predecessor();
        attend(p, w, shared, base, group);
        cluster_barrier();
        join(p, w, base);
    }
    cluster_barrier(); /* nobody leaves while others read from its memory */
}

} // namespace

/* Who waits for this kernel waits for those in front of it too, also where nothing was to be done. */
SLK_KERNEL __launch_bounds__(THREADS, 1) slk_attend_packed_128(const __grid_constant__ slk_attend_few_params p) {
    extern __shared__ __align__(1024) unsigned char shared[];
    attend_packed(p, shared);
    wait_for_predecessor();
}
