/* Behind attend_few: the splits of each row summed in order, and column sums. */
#include "attend_keys.cuh"

/* Block (row, head) of 256 threads: eight warps bring splits into shared memory, a batch while the one before it is
 * added up by a thread a channel. Reads back 1.6 % of the bytes of K and V at most: what it costs is its launch, about
 * a microsecond behind a dependent one, and a trip to the L2. All but the splits is there already: the kernel in front
 * waited for it. */
SLK_KERNEL __launch_bounds__(256) slk_attend_few_join(const __grid_constant__ slk_attend_few_params p) {
    constexpr int kBatch = 4096; /* floats */
    __shared__ float weight[SLK_FEW_MAX_SPLITS], total[SLK_FEW_MAX_SPLITS], tops[8];
    __shared__ __align__(16) float4 parts[kBatch / 4];
    const int row = blockIdx.x, head = blockIdx.y, place = p.row_seq[row], thread = threadIdx.x;
    /* Splits of the sinks, then those of the window: between them nothing was written. */
    int sink_splits = 0, skipped = 0, n = 0;
    if (p.cluster > 0) {
        n = p.max_splits;
    } else if (place >= 0) {
        const slk::Keys keys = slk::keys_of(p, slk::seat_of(p, place), place, row, head / p.group);
        const slk::Cuts cuts = slk::cuts_of(p, keys);
        const int depth = slk::depth_of(p, keys, row - keys.first_row);
        const int end = keys.ranked + (keys.tree && p.masked ? keys.rows : depth + 1);
        const int low = min(slk::low_rank(p, keys, depth), end - 1);
        const int window_split = slk::split_of(cuts, low / SLK_FEW_TILE);
        if (keys.sinks > 0)
            sink_splits = min(window_split, slk::split_of(cuts, (min(keys.sinks, end) - 1) / SLK_FEW_TILE) + 1);
        skipped = window_split - sink_splits;
        n = slk::split_of(cuts, (end - 1) / SLK_FEW_TILE) + 1 - skipped;
    }
    const int64_t part = (static_cast<int64_t>(row) * p.heads + head) * p.max_splits;
    const float4 *from = reinterpret_cast<const float4 *>(p.part_o + part * p.head_dim);
    const int quads = p.head_dim / 4, a_batch = kBatch / p.head_dim, pieces = a_batch * quads;
    slk::wait_for_predecessor();
    slk::let_successor_start();
    if (place < 0)
        return;
    float4 next[4];
    auto load = [&](int batch) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int at = thread + 256 * i, from_at = batch * pieces + at;
            if (at < pieces && from_at < n * quads)
                next[i] = __ldcg(from + from_at + (from_at < sink_splits * quads ? 0 : skipped * quads));
        }
    };
    load(0);
    float top = -INFINITY;
    for (int s = thread; s < n; s += 256) {
        const float2 ml =
            __ldcg(reinterpret_cast<const float2 *>(p.part_ml + 2 * (part + s + (s < sink_splits ? 0 : skipped))));
        weight[s] = ml.x;
        total[s] = ml.y;
        top = fmaxf(top, ml.x);
    }
    top = slk::warp_max(top);
    if (thread % 32 == 0)
        tops[thread / 32] = top;
    __syncthreads();
    for (int w = 0; w < 8; w++)
        top = fmaxf(top, tops[w]);
    for (int s = thread; s < n; s += 256)
        weight[s] = weight[s] == -INFINITY ? 0.f : slk::pow2_whole(weight[s] - top); /* whole powers of two: exact */
    float out = 0.f, sum = 0.f;
    for (int batch = 0; batch * a_batch < n; batch++) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (thread + 256 * i < pieces)
                parts[thread + 256 * i] = next[i];
        __syncthreads();
        if ((batch + 1) * a_batch < n)
            load(batch + 1);
        if (thread < p.head_dim) {
            const float *x = reinterpret_cast<const float *>(parts) + thread;
            const int s0 = batch * a_batch, count = min(a_batch, n - s0);
#pragma unroll 8
            for (int s = 0; s < count; s++) {
                out = __fmaf_rn(x[s * p.head_dim], weight[s0 + s], out);
                sum = __fmaf_rn(total[s0 + s], weight[s0 + s], sum);
            }
        }
    }
    if (thread >= p.head_dim)
        return;
    out = __fmul_rn(out, sum > 0.f ? __fdiv_rn(1.f, sum) : 0.f);
    if (p.lse != nullptr && thread == 0)
        p.lse[static_cast<int64_t>(row) * p.heads + head] =
            sum > 0.f ? __fmul_rn(__fadd_rn(top, log2f(sum)), slk::kLn2) : -INFINITY;
    const int64_t at = row * p.o_row + head * p.o_head + thread;
    if (p.o_f32)
        static_cast<float *>(p.o)[at] = out;
    else
        static_cast<slk::bf16 *>(p.o)[at] = __float2bfloat16_rn(out);
}

/* Block (64 slots, KV head, sequence or row), four threads a slot: softmax mass from q and lse. Rows and heads are
 * added in order. Products are computed again, in f32: memory bound for a decode step, 2 x rows x keys x channels
 * operations for prompts. */
SLK_KERNEL slk_attend_few_colsum(const __grid_constant__ slk_attend_few_params p) {
    slk::wait_for_predecessor();
    const int kv_head = blockIdx.y, slot = blockIdx.x * 64 + threadIdx.x / 4, part = threadIdx.x % 4;
    const int place = p.colsum_per_row ? p.row_seq[blockIdx.z] : static_cast<int>(blockIdx.z);
    const int kept = p.colsum_apart ? p.group : 1;
    const int heads_kept = p.kv_heads * kept;
    if (place < 0 || place >= p.n_seqs[0])
        return;
    const int chunks = p.head_dim / 8;
    const slk::Seat seat = slk::seat_of(p, place);
    slk::Keys keys = slk::keys_of(p, seat, place, seat.first_row, kv_head);
    const int begin = p.colsum_per_row ? static_cast<int>(blockIdx.z) - keys.first_row : 0;
    const int end = p.colsum_per_row ? begin + 1 : keys.rows;
    int first = begin; /* rows in front that do not count, 32 at a time */
    if (p.colsum_weight != nullptr)
        for (int at = threadIdx.x % 32; first < end; first += 32)
            if (__any_sync(0xffffffffu, first + at < end && p.colsum_weight[keys.first_row + first + at] != 0.f))
                break;
    const bool exists = slot < keys.n + keys.rows;
    uint4 key[8]; /* up to 64 channels a thread: chunks part, part + 4, ... */
    if (exists) {
        const bool coded = slot < keys.coded_k;
        const int page = (coded ? keys.pages : keys.plain_pages)[slot >> p.page_shift];
        const int in_page = slot & ((1 << p.page_shift) - 1);
        const slk_side_device &side = coded ? p.k : p.plain_k;
#pragma unroll
        for (int c = 0; c < 8; c++)
            if (part + 4 * c < chunks)
                key[c] = slk::load8(side, page, in_page, kv_head, p.head_dim, part + 4 * c);
    }
    float mass = 0.f;
    for (int g = 0; g < p.group; g++) {
        const int head = kv_head * p.group + g;
        for (int i = first; i < end; i++) {
            const int row = keys.first_row + i;
            const float weight = p.colsum_weight != nullptr ? p.colsum_weight[row] : 1.f;
            if (weight == 0.f)
                continue;
            if (p.per_row && p.list != nullptr)
                keys = slk::keys_of(p, seat, place, row, kv_head);
            const int depth = slk::depth_of(p, keys, i);
            const int64_t from = p.window > 0 ? keys.past + depth - p.window + 1 : 0;
            bool seen = exists;
            if (exists && slot < keys.n) {
                seen = slot >= from;
                if (seen && keys.list != nullptr) {
                    int lo = 0, hi = keys.ranked;
                    while (lo < hi) {
                        const int mid = (lo + hi) / 2;
                        if (keys.list[mid] < slot)
                            lo = mid + 1;
                        else
                            hi = mid;
                    }
                    seen = lo < keys.ranked && keys.list[lo] == slot;
                }
            } else if (exists) {
                const int j = slot - keys.n;
                if (keys.tree)
                    seen = slk::sees(p, row, j);
                else
                    seen = j <= i;
                seen = seen && keys.past + slk::depth_of(p, keys, j) >= from;
            }
            float dot = 0.f;
            if (seen) {
                const slk::bf16 *q = static_cast<const slk::bf16 *>(p.q) + row * p.q_row + head * p.q_head;
#pragma unroll
                for (int c = 0; c < 8; c++)
                    if (part + 4 * c < chunks) {
                        const uint4 x = *reinterpret_cast<const uint4 *>(q + 8 * (part + 4 * c));
                        const __nv_bfloat162 *a = reinterpret_cast<const __nv_bfloat162 *>(&x);
                        const __nv_bfloat162 *b = reinterpret_cast<const __nv_bfloat162 *>(&key[c]);
#pragma unroll
                        for (int e = 0; e < 4; e++) {
                            const float2 u = __bfloat1622float2(a[e]), v = __bfloat1622float2(b[e]);
                            dot = __fmaf_rn(u.x, v.x, dot);
                            dot = __fmaf_rn(u.y, v.y, dot);
                        }
                    }
            }
            dot += __shfl_xor_sync(0xffffffffu, dot, 1);
            dot += __shfl_xor_sync(0xffffffffu, dot, 2);
            if (seen) {
                const float scale = p.row_scale != nullptr ? __fmul_rn(p.scale, p.row_scale[row]) : p.scale;
                const float lse = p.lse[static_cast<int64_t>(row) * p.heads + head];
                mass = __fmaf_rn(weight, exp2f((slk::score(p, dot, scale) - lse) * slk::kLog2e), mass);
            }
        }
        if (p.colsum_apart || g == p.group - 1) {
            const int64_t unit = static_cast<int64_t>(blockIdx.z) * heads_kept + (p.colsum_apart ? head : kv_head);
            if (part == 0 && slot < p.score_stride)
                p.colsum[unit * p.score_stride + slot] = mass;
            mass = 0.f;
        }
    }
}
