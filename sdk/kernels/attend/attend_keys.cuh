/* Which keys a row of the step sees: ranks, slots, bounds. Shared by the kernels of attend_few. */
#ifndef SLUICE_KERNELS_ATTEND_KEYS_CUH
#define SLUICE_KERNELS_ATTEND_KEYS_CUH

#include "attend_few_cuda.h"
#include "attend_raw.cuh"

namespace slk {

constexpr int kTreeWords = 4;  /* SL_MAX_TREE_NODES / 32 */
constexpr int kHeadFields = 4; /* SL_HEAD_FIELDS */
constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

/* 2^e of a whole number e <= 0: exact; 0 for what is not worth a number. */
__device__ __forceinline__ float pow2_whole(float e) {
    int i = static_cast<int>(fmaxf(e, -127.f));
    return __int_as_float((i + 127) << 23);
}

/* Keys of one KV head of one sequence (or of one row, when lists are a row's own). */
struct Keys {
    const int32_t *list;        /* slots by rank, or NULL */
    const int32_t *pages;       /* of this sequence and head */
    const int32_t *plain_pages; /* likewise, of slots that are not coded */
    int coded_k, coded_v;       /* slots in front of these are coded, where there are plain ones too */
    int n;                      /* committed slots: the step's rows begin there */
    int ranked;                 /* committed keys that have a rank */
    int past;                   /* token index of the sequence's first row */
    int first_row, rows;        /* rows of the sequence */
    int64_t k_at, v_at;         /* bytes to the head's rows */
    int64_t window;             /* 0: none */
    int sinks;                  /* ranks below it are seen beside the window */
    bool tree;
};

/* What the step says of a sequence; place may be one that holds none. */
struct Seat {
    int64_t seq;
    int first_row, rows, past;
    bool tree;
};

__device__ __forceinline__ Seat seat_of(const slk_attend_few_params &p, int place) {
    Seat s;
    s.seq = p.seq[place];
    s.first_row = p.row_begin[place];
    s.rows = p.row_begin[place + 1] - s.first_row;
    s.past = p.n_past[place];
    s.tree = p.is_tree != nullptr && p.is_tree[place] != 0;
    return s;
}

__device__ __forceinline__ Keys keys_of(const slk_attend_few_params &p, const Seat &s, int place, int row,
                                        int kv_head) {
    Keys k;
    k.first_row = s.first_row;
    k.rows = s.rows;
    k.past = s.past;
    k.n = p.n_rows != nullptr ? p.n_rows[s.seq * p.n_rows_stride + kv_head * p.n_rows_head_stride] : s.past;
    k.k_at = kv_head * p.k.head_stride;
    k.v_at = kv_head * p.v.head_stride;
    k.pages = p.pages + s.seq * p.pages_stride;
    k.window = p.window;
    k.sinks = p.window > 0 ? static_cast<int>(p.sinks) : 0;
    if (p.head_places == nullptr) {
        k.pages += kv_head * p.pages_head_stride;
    } else {
        const int64_t *head = p.head_places + kv_head * kHeadFields;
        k.k_at = head[0];
        k.v_at = head[1];
        k.pages += head[2];
        if (head[3] == 0)
            k.window = k.sinks = 0;
    }
    k.plain_pages = nullptr;
    k.coded_k = k.coded_v = 1 << 30;
    if (p.n_coded != nullptr) {
        k.plain_pages = p.plain_pages + s.seq * p.plain_pages_stride + kv_head * p.plain_pages_head_stride;
        k.coded_k = p.n_coded[2 * s.seq];
        k.coded_v = p.n_coded[2 * s.seq + 1];
    }
    k.tree = s.tree;
    k.list = nullptr;
    k.ranked = k.n;
    if (p.list != nullptr) {
        const int64_t of = static_cast<int64_t>(p.per_row ? row : place) * p.n_groups + (p.n_groups == 1 ? 0 : kv_head);
        k.list = p.list + of * p.list_stride;
        k.ranked = min(p.list_n[of], static_cast<int>(p.list_stride));
    }
    return k;
}

__device__ __forceinline__ int ancestor_count(const slk_attend_few_params &p, int row) {
    const uint32_t *bits = p.ancestors + static_cast<int64_t>(row) * kTreeWords;
    int n = 0;
#pragma unroll
    for (int w = 0; w < kTreeWords; w++)
        n += __popc(bits[w]);
    return n;
}

__device__ __forceinline__ bool sees(const slk_attend_few_params &p, int row, int j) {
    return (p.ancestors[static_cast<int64_t>(row) * kTreeWords + j / 32] >> (j % 32) & 1) != 0;
}

/* The row's ancestor number j, counted from the root. */
__device__ __forceinline__ int ancestor(const slk_attend_few_params &p, int row, int j) {
    const uint32_t *bits = p.ancestors + static_cast<int64_t>(row) * kTreeWords;
    for (int w = 0; w < kTreeWords; w++) {
        uint32_t word = bits[w];
        const int n = __popc(word);
        if (j < n) {
            for (; j > 0; j--)
                word &= word - 1;
            return 32 * w + __ffs(word) - 1;
        }
        j -= n;
    }
    return 0;
}

/* Depth of row i of the sequence: how many of the step's rows it sees besides itself. */
__device__ __forceinline__ int depth_of(const slk_attend_few_params &p, const Keys &k, int i) {
    return k.tree ? ancestor_count(p, k.first_row + i) - 1 : i;
}

/* First rank whose token index is at least `from`. Token index of a committed row: its slot. */
__device__ __forceinline__ int rank_of_token(const Keys &k, int64_t from) {
    if (from <= 0)
        return 0;
    if (from > k.past)
        return k.ranked + static_cast<int>(from - k.past);
    if (k.list == nullptr)
        return static_cast<int>(from < k.ranked ? from : k.ranked);
    int lo = 0, hi = k.ranked;
    while (lo < hi) {
        const int mid = (lo + hi) / 2;
        if (k.list[mid] < from)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The token at which the window of a row of this depth ends. */
__device__ __forceinline__ int64_t window_end(const slk_attend_few_params &p, const Keys &k, int depth) {
    const int64_t token = k.past + depth;
    if (p.window_chunk == 0 || k.tree)
        return token;
    int64_t begin = k.past;
    if (p.window_chunk <= token)
        begin = max(begin, token - token % p.window_chunk);
    return begin == 0 && p.window_first != 0 ? token : begin;
}

/* First rank that a row of this depth sees, sinks aside; the last one is ranked + depth. */
__device__ __forceinline__ int low_rank(const slk_attend_few_params &p, const Keys &k, int depth) {
    return k.window > 0 ? rank_of_token(k, window_end(p, k, depth) - k.window + 1) : 0;
}

/* paths: a row of a tree has ranks for its ancestors only. */
__device__ __forceinline__ int slot_of(const slk_attend_few_params &p, const Keys &k, int rank, int row, bool paths) {
    if (rank < k.ranked)
        return k.list != nullptr ? k.list[rank] : rank;
    return k.n + (paths ? ancestor(p, row, rank - k.ranked) : rank - k.ranked);
}

/* How the tiles of a sequence are cut into splits and shares. */
struct Cuts {
    int first, end; /* tiles that any row may see */
    int size;       /* of a split, where sizes follow the lengths; else 0 */
};

__device__ __forceinline__ Cuts cuts_of(const slk_attend_few_params &p, const Keys &k) {
    Cuts c;
    c.first = k.sinks > 0 ? 0 : low_rank(p, k, 0) / SLK_FEW_TILE;
    c.end = (k.ranked + k.rows + SLK_FEW_TILE - 1) / SLK_FEW_TILE;
    c.size = p.uniform ? max(1, (c.end - c.first + p.shares - 1) / p.shares) : 0;
    return c;
}

__device__ __forceinline__ int split_of(const Cuts &c, int tile) {
    return c.size > 0 ? (tile - c.first) / c.size : slk_few_split_of(tile);
}

__device__ __forceinline__ int split_end(const Cuts &c, int tile) {
    return c.size > 0 ? c.first + ((tile - c.first) / c.size + 1) * c.size : slk_few_split_end(tile);
}

__device__ __forceinline__ int split_begin(const Cuts &c, int tile) {
    return c.size > 0 ? c.first + (tile - c.first) / c.size * c.size : slk_few_split_begin(tile);
}

/* First tile of share b: the first split that begins in its part of the tiles. */
__device__ __forceinline__ int share_begin(const slk_attend_few_params &p, const Cuts &c, int b) {
    if (b == 0)
        return c.first;
    if (b >= p.shares)
        return c.end;
    const int tile = c.size > 0 ? c.first + b * c.size
                                : c.first + static_cast<int>(static_cast<int64_t>(c.end - c.first) * b / p.shares);
    if (tile >= c.end)
        return c.end;
    if (tile == c.first)
        return tile;
    return min(c.end, split_end(c, tile - 1));
}

__device__ __forceinline__ float soft_cap(const slk_attend_few_params &p, float s) {
    const float e =
        exp2f(__fmul_rn(__fdiv_rn(s, p.softcap), 2.f * kLog2e)); /* tanh by hand: fast mathematics have 11 bits */
    return __fmul_rn(p.softcap, __fsub_rn(1.f, __fdiv_rn(2.f, __fadd_rn(e, 1.f))));
}

/* Scaled score of a product, with the soft cap. */
__device__ __forceinline__ float score(const slk_attend_few_params &p, float product, float scale) {
    const float s = __fmul_rn(product, scale);
    return p.softcap > 0.f ? soft_cap(p, s) : s;
}

/* Channels [8 c, 8 c + 8) of a row as bf16. dim: channels of a head. */
__device__ __forceinline__ uint4 load8(const slk_side_device &s, int page, int row, int head, int dim, int c) {
    const char *at = s.pool + page * s.page_stride + row * s.row_stride + head * s.head_stride;
    if (s.kind != SLK_SIDE_CODES)
        return plain8(s, at, c);
    return codes8(s, reinterpret_cast<const unsigned char *>(at), c, scales_of(s, page, row), head * dim + 8 * c);
}

} // namespace slk

#endif
