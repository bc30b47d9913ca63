/* What the kernels of prompt attention share: where a block works, how rows of K and V reach shared memory. */
#ifndef SLUICE_KERNELS_ATTEND_PREFILL_CUH
#define SLUICE_KERNELS_ATTEND_PREFILL_CUH

#include <limits.h>

#include "attend_prefill_cuda.h"
#include "device.cuh"

namespace slk {

__device__ __forceinline__ uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

/* 16 bytes to shared memory, past the L1; zeros where there is nothing. */
__device__ __forceinline__ void copy16(uint32_t to, const void *from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

__device__ __forceinline__ uint32_t pack2(float lo, float hi) {
    __nv_bfloat162 x = __floats2bfloat162_rn(lo, hi);
    return *reinterpret_cast<uint32_t *>(&x);
}

/* c tanh(s / c), with an error of a few units of the last place of f32 (tanh.approx has only 11 bits). */
__device__ __forceinline__ float soft_cap(float s, float c) {
    return c - 2.0f * c / (exp2f(2.88539008f * s / c) + 1.0f);
}

/* The part of a block: queries [row0, row0 + rows) of a sequence for one head. */
struct prefill_place {
    int head, kv_head, place, sequence;
    int first;           /* the tile's first row, counted from the sequence's first */
    int row;             /* the same in the step */
    int rows;            /* rows of the tile that exist; 0: nothing to do */
    int slot;            /* slot of the tile's first row */
    int n_slots;         /* rows in the cache, staged ones included */
    int begin, end;      /* slots that some row of the tile sees; begin is rounded down to a tile of keys */
    int sinks, sink_end; /* slots [0, sinks) are seen besides; all of them on a head without a window. sink_end: rounded
                            up to a tile of keys, at most begin */
    int64_t k_at, v_at, pages_at; /* of the head: bytes, bytes, elements */

    /* Slot of tile t: those of the sinks, then those from begin on. */
    template <int KEYS> __device__ __forceinline__ int tile(int t) const {
        return t * KEYS < sink_end ? t * KEYS : begin + t * KEYS - sink_end;
    }
    template <int KEYS> __device__ __forceinline__ int tiles(int last) const {
        return (sink_end + last - begin + KEYS - 1) / KEYS;
    }
    /* First slot that the window of the row in this slot has. Looks the step up rather than keep registers. */
    __device__ __forceinline__ int low(const slk_attend_prefill_params &p, int query) const {
        int at = query;
        if (p.window_chunk > 0) {
            at = max(p.n_past[place], query - query % p.window_chunk);
            if (at == 0 && p.window_first)
                at = query;
        }
        return at - p.window + 1;
    }
};

/* Blocks start in the order of their number: within a round of heads, tiles with the most keys first. */
template <int QUERIES, int KEYS>
__device__ __forceinline__ prefill_place prefill_where(const slk_attend_prefill_params &p) {
    prefill_place w;
    const int per_round = p.tiles * p.heads_round;
    const int round = (int)blockIdx.x / per_round, rest = (int)blockIdx.x % per_round;
    const int heads = min(p.heads_round, p.heads - round * p.heads_round);
    w.head = round * p.heads_round + rest % heads;
    w.kv_head = w.head / p.group;
    w.place = blockIdx.y;
    w.rows = 0;
    if (w.place >= *p.n_seqs)
        return w;
    const int row_begin = p.row_begin[w.place], n = p.row_begin[w.place + 1] - row_begin;
    w.first = (p.tiles - 1 - rest / heads) * QUERIES;
    w.rows = max(0, min(QUERIES, n - w.first));
    w.row = row_begin + w.first;
    w.sequence = p.seq[w.place];
    const int past = p.n_rows == nullptr ? p.n_past[w.place]
                                         : p.n_rows[w.sequence * p.n_rows_stride + w.kv_head * p.n_rows_head_stride];
    w.slot = past + w.first;
    w.n_slots = past + n;
    bool windowed = p.window > 0;
    w.k_at = w.kv_head * p.k_head;
    w.v_at = w.kv_head * p.v_head;
    w.pages_at = w.kv_head * p.pages_head_stride;
    if (p.head_places != nullptr) {
        const int64_t *place = p.head_places + 4 * w.kv_head; /* SL_HEAD_FIELDS */
        w.k_at = place[0];
        w.v_at = place[1];
        w.pages_at = place[2];
        windowed = windowed && place[3] != 0;
    }
    w.sinks = windowed ? p.sinks : INT_MAX;
    w.begin = windowed ? max(0, w.low(p, w.slot)) / KEYS * KEYS : 0;
    w.sink_end = windowed ? min((p.sinks + KEYS - 1) / KEYS * KEYS, w.begin) : 0;
    w.end = w.slot + w.rows;
    return w;
}

/* Threads that bring tiles of KEYS rows (keys, or values) into shared memory, 16 bytes a thread and pass, in a layout
 * that the caller gives: where(row, chunk of 16 bytes). Page numbers are fetched a tile ahead. */
template <int D, int KEYS, int THREADS> struct prefill_loader {
    static constexpr int chunks = D / 8;
    static constexpr int lanes = D == 64 ? 8 : D <= 128 ? 16 : 32; /* threads of a row; those beyond chunks idle */
    static constexpr int stride = THREADS / lanes;                 /* rows of a pass */
    static constexpr int passes = KEYS / stride;
    static constexpr int runs = stride >= 16 ? passes : KEYS / 16; /* a page has 16 rows or more */
    static constexpr int passes_per_run = passes / runs;

    const int32_t *pages;
    int page[runs];
    int page_shift, page_mask, row, chunk;

    __device__ __forceinline__ void init(const slk_attend_prefill_params &p, const prefill_place &w, int thread) {
        pages = p.pages + w.sequence * p.pages_stride + w.pages_at;
        page_shift = p.page_shift;
        page_mask = (1 << p.page_shift) - 1;
        row = thread / lanes;
        chunk = thread % lanes;
    }
    /* Page numbers of the tile that begins at slot. Rows from n_slots on have none. */
    __device__ __forceinline__ void look_up(int slot, int n_slots) {
#pragma unroll
        for (int i = 0; i < runs; i++) {
            const int s = slot + row + i * passes_per_run * stride;
            page[i] = s < n_slots ? pages[s >> page_shift] : 0;
        }
    }
    template <typename F>
    __device__ __forceinline__ void load(const char *pool, int64_t page_bytes, int64_t row_bytes, int slot, int n_slots,
                                         F where) const {
        if (chunk >= chunks)
            return;
#pragma unroll
        for (int i = 0; i < runs; i++) {
            /* the run's rows lie behind one another; those that do not exist are not read */
            const int r = row + i * passes_per_run * stride, s = slot + r;
            const char *from = pool + page[i] * page_bytes + (s & page_mask) * row_bytes + chunk * 16;
#pragma unroll
            for (int j = 0; j < passes_per_run; j++) {
                copy16(where(r + j * stride, chunk), from, s + j * stride < n_slots);
                from += stride * row_bytes;
            }
        }
    }
};

} // namespace slk

#endif
