/* Prompt attention for Hopper, D 128: wgmma, see attend_prefill_cuda.h.
 *
 * Bound by the tensor cores: 4 D FLOP a query, head and visible key; 64 KiB of keys and values from the L2 for each 128
 * x 128 scores. Expected on an H200, 32K causal: 450 to 520 TFLOP/s (cuDNN: 615); what is missing is exp (16 a clock
 * and SM against 4096 FLOP: about a third of the products' time, of which the overlap below hides most) and the
 * diagonal.
 *
 * A block: two warpgroups with 64 query rows each, and one that brings keys (its first half) and values (the other)
 * into two stages of 128 rows each. While a warpgroup's shares of tile t are multiplied with values, it has the scores
 * of tile t + 1 and works on their softmax; and what one warpgroup leaves of the tensor cores' time the other takes.
 *
 * Shared memory is laid out as wgmma wants it: panels of 64 columns (128 bytes) with the 128-byte swizzle: chunk c of
 * row r at r * 128 + (c ^ r % 8) * 16.
 */
#include "attend_prefill.cuh"
#include "hopper.cuh"

namespace {

using namespace slk;

constexpr int D = 128;
constexpr int QUERIES = SLK_PREFILL_QUERIES(D);
constexpr int KEYS = 128;
constexpr int THREADS = 384;
constexpr int ROWS = 64; /* queries of a warpgroup */
constexpr uint32_t Q_PANEL = ROWS * 128, KEY_PANEL = KEYS * 128;
constexpr uint32_t Q_BYTES = 2 * Q_PANEL, TILE = 2 * KEY_PANEL;
constexpr uint32_t KEYS_AT = 2 * Q_BYTES, VALUES_AT = KEYS_AT + 2 * TILE, BARRIERS_AT = VALUES_AT + 2 * TILE;
static_assert(BARRIERS_AT + 64 <= SLK_PREFILL_HOPPER_SHARED, "shared memory");
/* Barriers, two of each, by stage. */
enum { KEYS_FULL = 0, VALUES_FULL = 2, KEYS_EMPTY = 4, VALUES_EMPTY = 6 };

/* One half of the third warpgroup: keys, or values. */
__device__ __forceinline__ void bring(const slk_attend_prefill_params &p, const prefill_place &w, uint32_t at,
                                      uint32_t full, uint32_t empty, const char *pool, int64_t page, int64_t row,
                                      int tiles) {
    prefill_loader<D, KEYS, 64> loader;
    loader.init(p, w, threadIdx.x % 64);
    loader.look_up(w.tile<KEYS>(0), w.n_slots);
#pragma unroll 1
    for (int t = 0; t < tiles; t++) {
        const int stage = t & 1, slot = w.tile<KEYS>(t);
        if (t >= 2)
            barrier_wait(empty + stage * 8, (t / 2 - 1) & 1);
        const uint32_t to = at + stage * TILE;
        loader.load(pool, page, row, slot, w.n_slots, [=](int r, int c) { return to + place_of(r, c, KEY_PANEL); });
        copies_commit();
        loader.look_up(w.tile<KEYS>(t + 1), w.n_slots);
        copies_wait<0>();
        fence_async();
        barrier_arrive(full + stage * 8);
    }
}

/* Running softmax of the two rows that a thread has a part of. */
struct softmax {
    float top[2], sum[2], shrink[2];
};

/* Scores become weights; shrink is what earlier sums must be multiplied with. */
__device__ __forceinline__ void weigh(const slk_attend_prefill_params &p, const prefill_place &w, softmax &m,
                                      float (&s)[64], int slot, int query, int last_low, float to_log2) {
    const int lane = threadIdx.x & 31;
    if (p.softcap > 0.0f) {
#pragma unroll
        for (int i = 0; i < 64; i++)
            s[i] = soft_cap(s[i] * p.scale, p.softcap);
    }
    /* query: slot of the warpgroup's first row. Is a score of this tile hidden from any of its 64? */
    if (slot + KEYS - 1 > query || (slot + KEYS > w.sinks && slot < last_low)) {
        const int mine = query + (threadIdx.x % 128) / 32 * 16 + lane / 4;
        const int low[2] = {w.low(p, mine), w.low(p, mine + 8)};
#pragma unroll
        for (int i = 0; i < 64; i++) {
            const int q = mine + ((i >> 1) & 1) * 8, key = slot + (i >> 2) * 8 + (lane & 3) * 2 + (i & 1);
            if (key > q || (key >= w.sinks && key < low[(i >> 1) & 1]))
                s[i] = -INFINITY;
        }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float best = -INFINITY;
#pragma unroll
        for (int i = 0; i < 16; i++)
            best = fmaxf(best, fmaxf(s[4 * i + 2 * h], s[4 * i + 2 * h + 1]));
        best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 1));
        best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 2));
        best = fmaxf(best * to_log2, m.top[h]);
        const float base = best == -INFINITY ? 0.0f : best; /* nothing seen yet: any finite base does */
        m.shrink[h] = exp2f(m.top[h] - base);
        m.top[h] = best;
        float total = 0.0f;
#pragma unroll
        for (int i = 0; i < 16; i++) {
            s[4 * i + 2 * h] = exp2f(fmaf(s[4 * i + 2 * h], to_log2, -base));
            s[4 * i + 2 * h + 1] = exp2f(fmaf(s[4 * i + 2 * h + 1], to_log2, -base));
            total += s[4 * i + 2 * h] + s[4 * i + 2 * h + 1];
        }
        m.sum[h] = m.sum[h] * m.shrink[h] + total; /* of this thread's columns; joined at the end */
    }
}

__device__ __forceinline__ void attend(const slk_attend_prefill_params &p, const prefill_place &w,
                                       unsigned char *shared, uint32_t base, int group) {
    const int thread = threadIdx.x % 128, lane = thread % 32, warp = thread / 32;
    const uint32_t q_at = base + group * Q_BYTES, barriers = base + BARRIERS_AT;
    const int first = group * ROWS;

    for (int i = thread; i < ROWS * (D / 8); i += 128) {
        const int r = i / (D / 8), c = i % (D / 8);
        const bool there = first + r < w.rows;
        const uint16_t *from = p.q;
        if (there)
            from += (w.row + first + r) * p.q_row + w.head * p.q_head + c * 8;
        copy16(q_at + place_of(r, c, Q_PANEL), from, there);
    }
    copies_commit();
    copies_wait<0>();
    fence_async();
    warpgroup_sync(group);

    const int query = w.slot + first;
    const int end = min(w.end, query + ROWS); /* at most one tile less than the block has: nobody waits for that one */
    const int tiles = w.tiles<KEYS>(end), last_low = w.low(p, query + ROWS - 1);
    const float to_log2 = p.softcap > 0.0f ? 1.44269504f : p.scale * 1.44269504f;
    float s[64], o[64];
    uint32_t share[32];
    softmax m = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}, {0.0f, 0.0f}};
#pragma unroll
    for (int i = 0; i < 64; i++)
        o[i] = 0.0f;

    auto score = [&](int t) {
        const uint32_t k_at = base + KEYS_AT + (t & 1) * TILE;
        barrier_wait(barriers + (KEYS_FULL + (t & 1)) * 8, (t / 2) & 1);
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
            barrier_arrive(barriers + (which + (t & 1)) * 8);
    };
    auto round_shares = [&]() {
#pragma unroll
        for (int i = 0; i < 32; i++)
            share[i] = pack2(s[2 * i], s[2 * i + 1]);
    };
    auto await_values = [&](int t) { barrier_wait(barriers + (VALUES_FULL + (t & 1)) * 8, (t / 2) & 1); };
    auto add_values = [&](int t) {
        const uint32_t v_at = base + VALUES_AT + (t & 1) * TILE;
        pin(share);
        pin(o);
        products_begin();
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++)
            multiply_values(o, share + 4 * k, matrix(v_at + k * 2048, KEY_PANEL));
        products_commit();
    };

    score(0);
    products_wait<0>();
    pin(s);
    release(KEYS_EMPTY, 0);
    weigh(p, w, m, s, w.tile<KEYS>(0), query, last_low, to_log2);
    round_shares();
    await_values(0);
    for (int t = 1; t < tiles; t++) {
        score(t);
        add_values(t - 1);
        products_wait<1>(); /* the scores */
        pin(s);
        release(KEYS_EMPTY, t);
        weigh(p, w, m, s, w.tile<KEYS>(t), query, last_low, to_log2);
        await_values(
            t); /* here, since the assembler takes the exponentials in front of this loop, not behind the wait */
        products_wait<0>(); /* the values */
        pin(o);
        pin(share);
        release(VALUES_EMPTY, t - 1);
#pragma unroll
        for (int i = 0; i < 64; i++)
            o[i] *= m.shrink[(i >> 1) & 1];
        round_shares();
    }
    add_values(tiles - 1);
    products_wait<0>();
    pin(o);
    warpgroup_sync(group); /* nobody reads queries any more: rows leave through their place */

    unsigned char *const out = shared + group * Q_BYTES;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float total = m.sum[h];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        const float inverse = 1.0f / total;
        const int r = warp * 16 + lane / 4 + h * 8;
#pragma unroll
        for (int i = 0; i < 16; i++)
            *reinterpret_cast<uint32_t *>(out + place_of(r, i, Q_PANEL) + (lane & 3) * 4) =
                pack2(o[4 * i + 2 * h] * inverse, o[4 * i + 2 * h + 1] * inverse);
        if (p.lse != nullptr && (lane & 3) == 0 && first + r < w.rows)
            p.lse[(int64_t)(w.row + first + r) * p.heads + w.head] = (m.top[h] + log2f(total)) * 0.693147181f;
    }
    __syncwarp();
    for (int i = lane; i < 16 * (D / 8); i += 32) {
        const int r = warp * 16 + i / (D / 8), c = i % (D / 8);
        if (first + r < w.rows)
            *reinterpret_cast<uint4 *>(p.o + (w.row + first + r) * p.o_row + w.head * p.o_head + c * 8) =
                *reinterpret_cast<const uint4 *>(out + place_of(r, c, Q_PANEL));
    }
}

} // namespace

SLK_KERNEL __launch_bounds__(THREADS, 1)
    slk_attend_prefill_hopper_128(const __grid_constant__ slk_attend_prefill_params p) {
    extern __shared__ __align__(1024) unsigned char shared[];
    wait_for_predecessor();
    const prefill_place w = prefill_where<QUERIES, KEYS>(p);
    if (w.rows == 0)
        return;
    const uint32_t base = shared_address(shared), barriers = base + BARRIERS_AT;
    if (threadIdx.x == 0) {
        if (base % 1024 != 0)
            __trap(); /* the swizzle goes by addresses */
        for (int i = 0; i < 2; i++) {
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
        const int tiles = w.tiles<KEYS>(w.end);
        if (threadIdx.x % 128 < 64)
            bring(p, w, base + KEYS_AT, barriers + KEYS_FULL * 8, barriers + KEYS_EMPTY * 8, p.k_pool + w.k_at,
                  p.k_page, p.k_row, tiles);
        else
            bring(p, w, base + VALUES_AT, barriers + VALUES_FULL * 8, barriers + VALUES_EMPTY * 8, p.v_pool + w.v_at,
                  p.v_page, p.v_row, tiles);
    } else {
        registers_take<224>();
        attend(p, w, shared, base, group);
    }
}
