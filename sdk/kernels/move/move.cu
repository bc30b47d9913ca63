/* See move_cuda.h. A block a layer, head and side (k or v). Its warps share the sequences out by their ids; each walks
 * the whole list in order and moves what is its own, so that a row is never read before an earlier move into it was
 * done. Warps look at 32 moves at a time and fetch the rows of up to four of them together, unless one reads what
 * another of them writes.
 *
 * Few rows move: bound by latency, about 1 us a group of four of one sequence; nothing to move: an empty launch. */
#include "device.cuh"
#include "move_cuda.h"

namespace {

enum { WARPS = 4, GROUP = 4 };

__device__ __forceinline__ char *row_of(char *pool, const int32_t *pages, int32_t slot, int shift, int64_t page_stride,
                                        int64_t row_stride) {
    return pool + pages[slot >> shift] * page_stride + (slot & ((1 << shift) - 1)) * row_stride;
}

/* Copies up to GROUP rows of `bytes` each: all are read before the first is written. */
__device__ __forceinline__ void copy_rows(char *const *from, char *const *to, int n, int bytes, int lane) {
    for (int i = 4 * lane; i < bytes; i += 128) {
        uint32_t x[GROUP];
#pragma unroll
        for (int g = 0; g < GROUP; g++)
            if (g < n)
                x[g] = *reinterpret_cast<const uint32_t *>(from[g] + i);
#pragma unroll
        for (int g = 0; g < GROUP; g++)
            if (g < n)
                *reinterpret_cast<uint32_t *>(to[g] + i) = x[g];
    }
}

} // namespace

SLK_KERNEL __launch_bounds__(32 * WARPS) slk_move_rows(const __grid_constant__ slk_move_params p) {
    slk::wait_for_predecessor();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int head = blockIdx.x;
    const bool is_v = blockIdx.y;
    const slk_move_layer &layer = p.layer[blockIdx.z];
    const int64_t *place = layer.head_places != nullptr ? layer.head_places + 4 * head : nullptr; /* SL_HEAD_FIELDS */
    char *pool = is_v ? layer.v_pool : layer.k_pool;
    pool += place != nullptr ? place[is_v] : head * (is_v ? p.v_head_stride : p.k_head_stride);
    const int32_t *table = layer.pages + (place != nullptr ? place[2] : head * p.pages_head_stride);
    const int64_t page_stride = is_v ? p.v_page_stride : p.k_page_stride;
    const int64_t row_stride = is_v ? p.v_row_stride : p.k_row_stride;
    const int bytes = is_v ? p.v_bytes : p.k_bytes;
    const int n = min(*p.n_moves, p.max_moves);

    for (int base = 0; base < n; base += 32) {
        const int m = base + lane;
        const int32_t seq = m < n ? p.seq[m] : -1, from = m < n ? p.from[m] : 0, to = m < n ? p.to[m] : 0;
        uint32_t mine = __ballot_sync(0xffffffffu, seq >= 0 && seq % WARPS == warp);
        while (mine != 0) {
            char *source[GROUP], *target[GROUP];
            int32_t written_seq[GROUP], written[GROUP];
            int count = 0;
#pragma unroll
            for (int g = 0; g < GROUP; g++) {
                if (mine == 0 || count < g)
                    continue;
                const int at = __ffs(mine) - 1;
                const int32_t s = __shfl_sync(0xffffffffu, seq, at), f = __shfl_sync(0xffffffffu, from, at);
                const int32_t t = __shfl_sync(0xffffffffu, to, at);
                bool reads_written = false;
#pragma unroll
                for (int e = 0; e < g; e++)
                    reads_written |= written_seq[e] == s && written[e] == f;
                if (reads_written)
                    continue;
                const int32_t *pages = table + s * p.pages_stride;
                const int32_t first = p.staged ? layer.n_rows[s * p.n_rows_stride + head * p.n_rows_head_stride] : 0;
                source[g] = row_of(pool, pages, first + f, p.page_shift, page_stride, row_stride);
                target[g] = row_of(pool, pages, first + t, p.page_shift, page_stride, row_stride);
                written_seq[g] = s, written[g] = t;
                mine &= mine - 1;
                count++;
            }
            copy_rows(source, target, count, bytes, lane);
        }
    }
}
