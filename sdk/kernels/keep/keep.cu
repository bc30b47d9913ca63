/* See keep_cuda.h. A block a head and side (k or v). It goes through the head's rows in tiles of 256 x 8 words: all of
 * a tile is read before any of it is written. Slots ascend, so that rows of later tiles lie behind what this one
 * writes, and those tiles need no more than the barrier between reading and writing.
 *
 * Bound by latency, as one block has 32 KiB in flight: about 2 us a tile (128 rows of 256 bytes), 30 us for 2048 rows a
 * head; once a prompt and layer. */
#include "device.cuh"
#include "keep_cuda.h"

namespace {

template <typename W> __device__ __forceinline__ void keep_rows(const slk_keep_params &p) {
    slk::wait_for_predecessor();
    slk::let_successor_start();
    const int head = blockIdx.x;
    const bool is_v = blockIdx.y;
    char *pool = is_v ? p.v_pool + head * p.v_head_stride : p.k_pool + head * p.k_head_stride;
    const int64_t page_stride = is_v ? p.v_page_stride : p.k_page_stride;
    const int64_t row_stride = is_v ? p.v_row_stride : p.k_row_stride;
    const int words = (is_v ? p.v_bytes : p.k_bytes) / (int)sizeof(W);
    const int32_t *pages = p.pages + head * p.pages_head_stride;
    const int32_t *keep = p.keep + p.keep_begin[head];
    const int n = p.keep_begin[head + 1] - p.keep_begin[head];
    const int tile = SLK_KEEP_THREADS * SLK_KEEP_ITEMS / words; /* rows */
    auto at = [&](int slot, int word) {
        return reinterpret_cast<W *>(pool + pages[slot >> p.page_shift] * page_stride +
                                     (slot & (p.page_rows - 1)) * row_stride) +
               word;
    };
    for (int begin = 0; begin < n; begin += tile) {
        const int rows = min(tile, n - begin);
        if (keep[begin + rows - 1] == begin + rows - 1) /* all of them stand where they belong */
            continue;
        W x[SLK_KEEP_ITEMS];
#pragma unroll
        for (int i = 0; i < SLK_KEEP_ITEMS; i++) {
            const int item = threadIdx.x + i * SLK_KEEP_THREADS, row = item / words;
            if (row < rows)
                x[i] = *at(keep[begin + row], item % words);
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < SLK_KEEP_ITEMS; i++) {
            const int item = threadIdx.x + i * SLK_KEEP_THREADS, row = item / words;
            if (row < rows)
                *at(begin + row, item % words) = x[i];
        }
    }
}

} // namespace

SLK_KERNEL __launch_bounds__(SLK_KEEP_THREADS) slk_keep_rows_4(const __grid_constant__ slk_keep_params p) {
    keep_rows<uint32_t>(p);
}
SLK_KERNEL __launch_bounds__(SLK_KEEP_THREADS) slk_keep_rows_16(const __grid_constant__ slk_keep_params p) {
    keep_rows<uint4>(p);
}
