/* See duo_ring.h. */
#include "duo_ring.h"

#include <string.h>

int duo_ring_holds(const duo_geometry *g, const duo_ring *r, int64_t n) {
    int64_t recent = n - g->recent > g->sink ? n - g->recent : g->sink;
    return g->row_bytes == 0 || n <= g->sink || recent >= r->oldest;
}

int64_t duo_ring_minimum(const duo_geometry *g, const duo_ring *r) {
    return g->row_bytes == 0 || r->oldest <= g->sink ? 0 : r->oldest + g->recent;
}

int duo_ring_can_stage(const duo_geometry *g, const duo_ring *r, int64_t n, int64_t n_new) {
    int64_t recent = n - g->recent > g->sink ? n - g->recent : g->sink;
    return g->row_bytes == 0 || n + n_new <= r->rows || n + n_new - recent <= r->rows - g->sink;
}

void duo_ring_written(const duo_geometry *g, duo_ring *r, int64_t end) {
    int64_t oldest = end - (r->rows - g->sink);
    if (g->row_bytes > 0 && oldest > r->oldest)
        r->oldest = oldest;
}

void duo_ring_cut(const duo_geometry *g, duo_ring *r, int64_t n) {
    if (n <= g->sink) /* what is written next is the first row behind the sinks */
        r->oldest = g->sink;
}

sl_status duo_ring_make(const duo_geometry *g, const sl_host *host, const sl_mem *mem, int64_t n, duo_ring *out) {
    *out = (duo_ring){.rows = g->row_bytes > 0 ? duo_ring_rows(g, n) : 0, .oldest = g->sink};
    if (out->rows == 0)
        return SL_OK;
    out->base = mem->alloc(host, SL_DEVICE_CPU, out->rows * g->row_bytes, 64, SL_MEM_KV);
    if (out->base == NULL)
        *out = (duo_ring){.oldest = g->sink};
    return out->base != NULL ? SL_OK : SL_E_NO_MEMORY;
}

void duo_ring_copy(const duo_geometry *g, const int64_t *spans, int32_t n_spans, const duo_ring *from, duo_ring *to,
                   int64_t n) {
    if (g->row_bytes == 0)
        return;
    duo_ring_written(g, to, n);
    if (n > g->sink && from->oldest > to->oldest)
        to->oldest = from->oldest;
    for (int64_t t = 0; t < n; t++) {
        if (t == g->sink && to->oldest > t)
            t = to->oldest;
        if (t >= n)
            break;
        int64_t a = duo_ring_place(g, from, t), b = duo_ring_place(g, to, t);
        for (int32_t i = 0; i < n_spans; i++) {
            int64_t width = spans[i + 1] - spans[i];
            memcpy(to->base + to->rows * spans[i] + b * width, from->base + from->rows * spans[i] + a * width,
                   (size_t)width);
        }
    }
}

void duo_ring_free(const sl_host *host, const sl_mem *mem, duo_ring *r) {
    mem->release(host, SL_DEVICE_CPU, r->base);
    *r = (duo_ring){0};
}
