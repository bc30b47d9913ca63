/* See sl_page_tables.h. */
#include "sl_page_tables.h"

#include <stdlib.h>
#include <string.h>

#include "sl_error.h"

/* Large, so that the ring rarely comes round, which is when the lane must have caught up. */
enum { RING_WORDS = 1 << 16 };

sl_status sl_ring_open(sl_ring *ring, const sl_host *host, const sl_mem *mem, const sl_exec *exec, const sl_lane *lane,
                       int64_t most) {
    *ring = (sl_ring){.host = host, .mem = mem, .exec = exec, .lane = lane, .n = RING_WORDS};
    while (ring->n < 4 * most)
        ring->n *= 2;
    ring->words = mem->alloc(host, SL_DEVICE_HOST_PINNED, ring->n * 4, 64, SL_MEM_PLUGIN);
    return ring->words != NULL ? SL_OK : SL_E_NO_MEMORY;
}

void sl_ring_close(sl_ring *ring) {
    if (ring->mem != NULL)
        ring->mem->release(ring->host, SL_DEVICE_HOST_PINNED, ring->words);
    *ring = (sl_ring){.host = NULL};
}

sl_status sl_ring_take(sl_ring *ring, int64_t n, int32_t **out, sl_error *err) {
    if (ring->at + n > ring->n) {
        SL_TRY(ring->exec->sync(ring->lane, err));
        ring->at = 0;
    }
    *out = ring->words + ring->at;
    ring->at += n;
    return SL_OK;
}

sl_status sl_ring_send(sl_ring *ring, int32_t *device, const int32_t *words, int64_t n, sl_error *err) {
    int32_t *way;
    SL_TRY(sl_ring_take(ring, n, &way, err));
    memcpy(way, words, (size_t)n * sizeof *way);
    sl_status s = ring->exec->copy(ring->lane, device, way, n * (int64_t)sizeof *way);
    return s < 0 ? sl_fail(err, s, "%lld words could not be copied to the device", (long long)n) : SL_OK;
}

sl_status sl_ring_send_moves(sl_ring *ring, const sl_commit *c, int32_t *device, int64_t most, sl_op_move *op,
                             sl_error *err) {
    int64_t n = 0;
    for (int32_t i = 0; i < c->batch->n_seqs; i++)
        for (int32_t k = c->path_begin[i]; k < c->path_begin[i + 1]; k++)
            n += c->path[k] != k - c->path_begin[i];
    op->n_moves = device;
    op->seq = device + 1;
    op->from = device + 1 + n;
    op->to = device + 1 + 2 * n;
    op->max_moves = (int32_t)n;
    if (n == 0)
        return SL_OK;
    if (n > most)
        return sl_fail(err, SL_E_RANGE, "%lld rows move, at most %lld can", (long long)n, (long long)most);
    int32_t *words;
    SL_TRY(sl_ring_take(ring, 1 + 3 * n, &words, err));
    int32_t *seq = words + 1, *from = seq + n, *to = from + n;
    words[0] = (int32_t)n;
    for (int32_t i = 0; i < c->batch->n_seqs; i++)
        for (int32_t k = c->path_begin[i]; k < c->path_begin[i + 1]; k++) {
            int32_t at = k - c->path_begin[i], past = (int32_t)c->batch->n_past[i];
            if (c->path[k] == at)
                continue;
            *seq++ = c->batch->seq[i];
            *from++ = past + c->path[k];
            *to++ = past + at;
        }
    sl_status s = ring->exec->copy(ring->lane, device, words, (1 + 3 * n) * (int64_t)sizeof *words);
    return s < 0 ? sl_fail(err, s, "moves of rows could not be copied to the device") : SL_OK;
}

sl_status sl_page_tables_open(sl_page_tables *t, const sl_ring *ring, int64_t n_seqs, int64_t stride) {
    *t = (sl_page_tables){.n_seqs = n_seqs, .stride = stride};
    t->dirty = calloc((size_t)(2 * n_seqs), sizeof *t->dirty);
    t->pages = ring->mem->alloc(ring->host, SL_DEVICE_CUDA, n_seqs * stride * 4, 256, SL_MEM_PLUGIN);
    return t->dirty != NULL && t->pages != NULL ? SL_OK : SL_E_NO_MEMORY;
}

void sl_page_tables_close(sl_page_tables *t, const sl_ring *ring) {
    if (ring->mem != NULL)
        ring->mem->release(ring->host, SL_DEVICE_CUDA, t->pages);
    free(t->dirty);
    *t = (sl_page_tables){.pages = NULL};
}

void sl_page_tables_touch(sl_page_tables *t, int32_t seq, int64_t begin, int64_t end) {
    if (begin >= end)
        return;
    int64_t *dirty = t->dirty + 2 * seq;
    int clean = dirty[0] >= dirty[1];
    dirty[0] = clean || begin < dirty[0] ? begin : dirty[0];
    dirty[1] = clean || end > dirty[1] ? end : dirty[1];
}

sl_status sl_page_tables_send(sl_page_tables *t, sl_ring *ring, int32_t seq, const int32_t *list, int64_t n,
                              sl_error *err) {
    int64_t *dirty = t->dirty + 2 * seq, begin = dirty[0], end = dirty[1] < n ? dirty[1] : n;
    if (end > begin)
        SL_TRY(sl_ring_send(ring, t->pages + seq * t->stride + begin, list + begin, end - begin, err));
    dirty[0] = dirty[1] = 0;
    return SL_OK;
}
