/* See duo_device_impl.h. */
#include "duo_device_impl.h"

/* ---- pages of a sequence ----------------------------------------------------------------------------------------- */

void duo_touch(sl_instance *self, int32_t seq, int c, int64_t begin, int64_t end) {
    int64_t *dirty = self->device->dirty + 2 * (c * self->limits.max_seqs + seq);
    int clean = dirty[0] >= dirty[1];
    if (begin >= end)
        return;
    dirty[0] = clean || begin < dirty[0] ? begin : dirty[0];
    dirty[1] = clean || end > dirty[1] ? end : dirty[1];
}

int duo_is_held(const sl_instance *self, const duo_held *h, int64_t page) {
    return page < h->end && (page >= h->low || page < self->device->sink_pages);
}

void duo_drop(sl_instance *self, duo_held *h, int c, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
        if (duo_is_held(self, h, i))
            sl_blocks_drop(&self->device->pool[c], h->pages[i]);
}

void duo_trim(sl_instance *self, duo_device_sequence *s, int64_t n, int64_t from) {
    for (int c = 0; c < CLASSES; c++) {
        duo_held *h = &s->of[c];
        int64_t end = duo_min(h->end, duo_pages_of(self, n)), low = duo_first_kept(self, c, from);
        duo_drop(self, h, c, end, h->end);
        h->end = end;
        if (h->low >= end) /* cut to its sinks: what comes next is the first behind them */
            h->low = 0;
        if (low > h->low && low < end) {
            duo_drop(self, h, c, duo_max(h->low, self->device->sink_pages), low);
            h->low = low;
        }
    }
}

/* A page of all heads of a class, in all layers. */
static void copy_page(sl_instance *self, int c, int32_t to, int32_t from) {
    const duo_device *d = self->device;
    int64_t n[CLASSES] = {d->pool[FULL].n_ids, d->pool[STREAMING].n_ids};
    for (int32_t i = 0; i < self->model->n_layers; i++) {
        const sl_view_device *v = &d->views[i];
        const duo_layer *l = &self->layers[i];
        int64_t first = c == STREAMING ? l->n_full * n[FULL] : 0, heads = c == STREAMING ? l->n_streaming : l->n_full;
        for (int64_t h = 0; h < (v->n_heads > 0 ? heads : 0); h++) {
            int64_t head = first + h * n[c];
            char *k = (char *)v->k_pool + head * v->k_page_stride, *w = (char *)v->v_pool + head * v->v_page_stride;
            d->exec->copy(d->lane, k + to * v->k_page_stride, k + from * v->k_page_stride, v->k_page_stride);
            d->exec->copy(d->lane, w + to * v->v_page_stride, w + from * v->v_page_stride, v->v_page_stride);
        }
    }
}

int64_t duo_cover_cost(const sl_instance *self, const duo_held *h, int c, int64_t first, int64_t rows) {
    int64_t need = duo_pages_of(self, rows), cost = duo_max(0, need - h->end);
    for (int64_t i = first / self->page_rows; i < h->end && i < need; i++)
        cost += self->device->pool[c].refs[h->pages[i]] > 1;
    return cost;
}

void duo_cover(sl_instance *self, int32_t seq, int c, int64_t first, int64_t rows) {
    duo_held *h = duo_held_by(self, seq, c);
    sl_blocks *pool = &self->device->pool[c];
    int64_t need = duo_pages_of(self, rows), begin = h->end;
    for (int64_t i = first / self->page_rows; i < h->end && i < need; i++) {
        int32_t old = h->pages[i];
        if (pool->refs[old] == 1)
            continue;
        h->pages[i] = sl_blocks_take(pool);
        copy_page(self, c, h->pages[i], old);
        sl_blocks_drop(pool, old);
        duo_touch(self, seq, c, i, i + 1);
    }
    for (; h->end < need; h->end++)
        h->pages[h->end] = sl_blocks_take(pool);
    duo_touch(self, seq, c, begin, h->end);
}

/* Pages of retrieval heads that a sequence may still ask for: those promised to it, and a shared one into which its
 * next row falls. */
int64_t duo_promised(const sl_instance *self, const duo_device_sequence *s) {
    const duo_held *h = &s->of[FULL];
    int64_t next = s->n_tokens / self->page_rows;
    if (!s->is_open || self->device->page_bytes[FULL] == 0)
        return 0;
    return duo_max(0, duo_pages_of(self, s->n_wanted) - h->end) +
           (next < h->end && self->device->pool[FULL].refs[h->pages[next]] > 1);
}

sl_status duo_have_free(sl_instance *self, const duo_device_sequence *except, int64_t need, sl_error *err) {
    const duo_device *d = self->device;
    for (int64_t i = 0; i < self->limits.max_seqs; i++)
        if (&d->seqs[i] != except)
            need += duo_promised(self, &d->seqs[i]);
    if (need <= d->pool[FULL].n_free)
        return SL_OK;
    return sl_fail(
        err, SL_E_NO_MEMORY,
        "duoattention: the cache does not fit: %lld more pages of %lld bytes are needed, %lld bytes are held",
        (long long)(need - d->pool[FULL].n_free), (long long)d->page_bytes[FULL],
        (long long)sl_blocks_bytes(&d->pool[FULL]));
}
