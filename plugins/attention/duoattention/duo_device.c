/* See duo_device.h: life of the cache on a device, and its pools. */
#include "duo_device_impl.h"

#include <stdlib.h>
#include <string.h>

#include "sl_host_util.h"
#include "sl_tensor.h"

/* ---- life -------------------------------------------------------------------------------------------------------- */

sl_status duo_device_accepts(const sl_instance *self, const sl_scope *scope, sl_error *err) {
    if (!self->has_store)
        return sl_fail(err, SL_E_UNIMPLEMENTED,
                       "duoattention: over another cache it runs on the CPU only; on a GPU choose it in [kvcache] too");
    if ((self->page_rows & (self->page_rows - 1)) != 0)
        return sl_fail(err, SL_E_INVALID, "duoattention: page = %lld: on a GPU pages have a power of two of rows",
                       (long long)self->page_rows);
    if (!self->dtype_auto && self->dtype != SL_BF16)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "duoattention: rows are bf16 on a GPU; say dtype = bf16 or auto");
    for (int32_t l = 0; l < self->model->n_layers; l++)
        if (self->layers[l].n_streaming > 0 && scope->layer_stages[l] != 0 && self->model->layers[l]->window > 0)
            return sl_fail(
                err, SL_E_UNIMPLEMENTED,
                "duoattention: layer %d has a window of its own, beside which streaming heads have none on a "
                "GPU; run on the CPU",
                l);
    return SL_OK;
}

static void describe(sl_instance *self) {
    duo_device *d = self->device;
    int64_t first = 0;
    for (int32_t i = 0; i < self->model->n_layers; i++) {
        const duo_layer *l = &self->layers[i];
        int64_t k_page = l->k_head * self->page_rows, v_page = l->v_head * self->page_rows;
        const int64_t *heads = d->heads + first * SL_HEAD_FIELDS;
        first += l->n_heads;
        if (!d->serves[i] || l->n_heads == 0) {
            d->others_bytes += l->n_heads * (k_page + v_page);
            continue;
        }
        d->page_bytes[FULL] += l->n_full * (k_page + v_page);
        d->page_bytes[STREAMING] += l->n_streaming * (k_page + v_page);
        d->views[i] = (sl_view_device){.struct_size = SL_SIZE(sl_view_device),
                                       .pages = d->tables,
                                       .pages_stride = self->max_pages,
                                       .k_page_stride = k_page,
                                       .k_row_stride = l->k_head,
                                       .v_page_stride = v_page,
                                       .v_row_stride = l->v_head,
                                       .page_rows = (int32_t)self->page_rows,
                                       .n_heads = l->n_heads,
                                       .k_dim = l->d_k,
                                       .v_dim = l->d_v,
                                       .k_dtype = self->dtype,
                                       .v_dtype = self->dtype,
                                       .heads = heads,
                                       .settled = 1,
                                       .n_windowed = (uint32_t)l->n_streaming};
        d->served[d->n_served++] = &d->views[i];
    }
}

static void *device_alloc(sl_instance *self, int64_t bytes) {
    return self->mem->alloc(self->host, SL_DEVICE_CUDA, duo_max(bytes, 16), 256, SL_MEM_PLUGIN);
}

sl_status duo_device_activate(sl_instance *self, sl_error *err) {
    size_t layers = (size_t)self->model->n_layers, seqs = (size_t)self->limits.max_seqs;
    int64_t entries = CLASSES * self->limits.max_seqs * self->max_pages, moves = 1 + 3 * self->limits.max_rows;
    duo_device *d = self->device = calloc(1, sizeof *d);
    if (d == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "duoattention: out of memory");
    d->exec = sl_host_service(self->host, SL_EXEC_ID, SL_FIELD_END(sl_exec, device_info));
    d->lane = d->exec != NULL ? d->exec->lane(self->host, SL_DEVICE_CUDA, 0) : NULL;
    if (d->lane == NULL || !SL_HAS_FN(self->ops, sl_ops, append) || !SL_HAS_FN(self->ops, sl_ops, move))
        return sl_fail(err, SL_E_NOT_FOUND, "duoattention: the host has no lane of the device, or no operations on it");
    d->serves = calloc(layers, sizeof *d->serves);
    d->views = calloc(layers, sizeof *d->views);
    d->served = calloc(layers, sizeof *d->served);
    d->seqs = calloc(seqs, sizeof *d->seqs);
    d->pages = calloc((size_t)entries, sizeof *d->pages);
    d->dirty = calloc(2 * CLASSES * seqs, sizeof *d->dirty);
    d->tables = device_alloc(self, entries * 4);
    d->heads = device_alloc(self, (int64_t)self->n_heads * SL_HEAD_FIELDS * 8);
    d->moves = device_alloc(self, moves * 4);
    sl_status s = sl_lane_words_make(&d->words, self->host, self->mem, d->exec, d->lane,
                                     duo_max(moves, duo_max(self->max_pages, 2L * SL_HEAD_FIELDS * self->n_heads)));
    if (s < 0 || d->serves == NULL || d->views == NULL || d->served == NULL || d->seqs == NULL || d->pages == NULL ||
        d->dirty == NULL || d->tables == NULL || d->heads == NULL || d->moves == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "duoattention: no memory for the page tables on the device");
    for (size_t i = 0; i < layers; i++)
        d->serves[i] = self->served[i];
    for (size_t i = 0; i < seqs; i++)
        for (size_t c = 0; c < CLASSES; c++)
            d->seqs[i].of[c].pages = d->pages + (c * seqs + i) * (size_t)self->max_pages;
    d->sink_pages = duo_pages_of(self, self->sink);
    d->quota = d->sink_pages + duo_pages_of(self, self->recent + self->slack + self->limits.max_tree) + 1;
    d->mask = (sl_mask){.struct_size = SL_SIZE(sl_mask),
                        .window = self->recent + 1,
                        .base = SL_MASK_CAUSAL,
                        .sinks = self->sink,
                        .window_first = self->first_chunk == DUO_FIRST_STREAMING};
    if (self->window == DUO_WINDOW_CHUNK)
        d->mask.window_chunk = self->prefill_chunk > 0 ? self->prefill_chunk : INT32_MAX;
    describe(self);
    int64_t least = duo_streaming_pages(self) * d->page_bytes[STREAMING];
    if (self->limits.kv_bytes > 0 && least > self->limits.kv_bytes)
        return sl_fail(err, SL_E_NO_MEMORY,
                       "duoattention: streaming heads of %lld sequences need %lld bytes, engine.kv_memory_mb allows "
                       "%lld; fewer sequences (engine.max_seqs) or smaller pages (page) need less",
                       (long long)self->limits.max_seqs, (long long)least, (long long)self->limits.kv_bytes);
    return SL_OK;
}

static void release_pools(sl_instance *self) {
    duo_device *d = self->device;
    for (int32_t l = 0; d->views != NULL && l < self->model->n_layers; l++) {
        self->mem->release(self->host, SL_DEVICE_CUDA, d->views[l].k_pool);
        self->mem->release(self->host, SL_DEVICE_CUDA, d->views[l].v_pool);
        d->views[l].k_pool = d->views[l].v_pool = NULL;
    }
    for (int c = 0; c < CLASSES; c++)
        sl_blocks_finish(&d->pool[c]);
}

void duo_device_deactivate(sl_instance *self) {
    duo_device *d = self->device;
    if (d == NULL)
        return;
    release_pools(self);
    self->mem->release(self->host, SL_DEVICE_CUDA, d->tables);
    self->mem->release(self->host, SL_DEVICE_CUDA, d->heads);
    self->mem->release(self->host, SL_DEVICE_CUDA, d->moves);
    sl_lane_words_free(&d->words);
    free(d->serves);
    free(d->views);
    free(d->served);
    free(d->seqs);
    free(d->pages);
    free(d->dirty);
    free(d);
    self->device = NULL;
}

/* ---- pools ------------------------------------------------------------------------------------------------------- */

/* One side of a layer's pool, n pages a head by class. Where nothing was written yet are zeros: kernels may read a tile
 * of which they need half. */
static char *take_side(sl_instance *self, const duo_layer *l, int64_t head_page, const int64_t *n) {
    int64_t bytes = (l->n_full * n[FULL] + l->n_streaming * n[STREAMING]) * head_page;
    char *pool = self->mem->alloc(self->host, SL_DEVICE_CUDA, bytes, 256, SL_MEM_KV);
    if (pool != NULL && l->n_streaming > 0)
        self->device->exec->fill(self->device->lane, pool + l->n_full * n[FULL] * head_page, 0,
                                 l->n_streaming * n[STREAMING] * head_page);
    return pool;
}

static int take_pools(sl_instance *self, const int64_t *n) {
    duo_device *d = self->device;
    for (int32_t i = 0; i < self->model->n_layers; i++) {
        sl_view_device *v = &d->views[i];
        if (v->n_heads == 0)
            continue;
        v->k_pool = take_side(self, &self->layers[i], v->k_page_stride, n);
        v->v_pool = take_side(self, &self->layers[i], v->v_page_stride, n);
        if (v->k_pool == NULL || v->v_pool == NULL) {
            release_pools(self);
            return 0;
        }
    }
    return 1;
}

/* Tells kernels where the heads are. */
static sl_status send_heads(sl_instance *self, const int64_t *n, sl_error *err) {
    duo_device *d = self->device;
    int64_t words = (int64_t)self->n_heads * SL_HEAD_FIELDS * 2;
    int64_t *all = calloc((size_t)self->n_heads * SL_HEAD_FIELDS, sizeof *all), *at = all;
    if (all == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "duoattention: out of memory");
    for (int32_t i = 0; i < self->model->n_layers; i++) {
        const duo_layer *l = &self->layers[i];
        int64_t k_page = l->k_head * self->page_rows, v_page = l->v_head * self->page_rows, rank[CLASSES] = {0};
        for (int32_t h = 0; h < l->n_heads; h++, at += SL_HEAD_FIELDS) {
            int c = l->streams[h] ? STREAMING : FULL;
            int64_t first = (c == STREAMING ? l->n_full * n[FULL] : 0) + rank[c]++ * n[c];
            at[SL_HEAD_K] = first * k_page;
            at[SL_HEAD_V] = first * v_page;
            at[SL_HEAD_PAGES] = c * self->limits.max_seqs * self->max_pages;
            at[SL_HEAD_WINDOWED] = c == STREAMING || l->n_streaming == 0; /* without them: the layer's own window */
        }
    }
    sl_status s = SL_OK;
    int32_t *to;
    if (words > 0 && (s = sl_lane_words_take(&d->words, words, &to, err)) >= 0) {
        memcpy(to, all, (size_t)words * sizeof *to);
        s = d->exec->copy(d->lane, d->heads, to, words * (int64_t)sizeof *to);
    }
    if (s >= 0)
        s = d->exec->fill(d->lane, d->tables, 0, CLASSES * self->limits.max_seqs * self->max_pages * 4);
    free(all);
    return s;
}

/* The pools, before the first rows. Streaming heads get what they can ever need; retrieval heads get the rest, up to
 * every sequence at its longest. */
sl_status duo_make_pools(sl_instance *self, sl_error *err) {
    duo_device *d = self->device;
    if (d->ready)
        return SL_OK;
    sl_device_info info = {.struct_size = SL_SIZE(sl_device_info)};
    SL_TRY(d->exec->device_info(d->lane, &info));
    int64_t spare = info.memory / 32 + ((int64_t)64 << 20), seqs = self->limits.max_seqs; /* spare: graphs, libraries */
    int64_t room = info.memory_free - spare, n[CLASSES] = {0, 0}, least = 0;
    if (self->limits.kv_bytes > 0)
        room = duo_min(room, self->limits.kv_bytes);
    n[STREAMING] = duo_streaming_pages(self);
    if (d->page_bytes[FULL] > 0) {
        int64_t left = room - n[STREAMING] * d->page_bytes[STREAMING];
        n[FULL] = duo_min(seqs * self->max_pages, left > 0 ? left / (d->page_bytes[FULL] + d->others_bytes) : 0);
        least = duo_min(duo_pages_of(self, self->limits.max_rows + self->limits.max_tree), self->max_pages);
    }
    int fits = n[STREAMING] * d->page_bytes[STREAMING] <= room, taken = 0;
    while (fits && n[FULL] >= least && !(taken = take_pools(self, n)) && n[FULL] > 0)
        n[FULL] -= n[FULL] / 8 + 1; /* less than what seemed free may be had: a cap, fragments */
    if (!taken)
        return sl_fail(err, SL_E_NO_MEMORY,
                       "duoattention: the cache needs %lld bytes for streaming heads and %lld at least for retrieval "
                       "heads; %lld bytes of the device are free, engine.kv_memory_mb allows %lld bytes (0: all)",
                       (long long)(n[STREAMING] * d->page_bytes[STREAMING]), (long long)(least * d->page_bytes[FULL]),
                       (long long)info.memory_free, (long long)self->limits.kv_bytes);
    sl_status s = SL_OK;
    for (int c = 0; c < CLASSES && s >= 0; c++)
        s = sl_blocks_init_fixed(&d->pool[c], d->page_bytes[c], n[c]);
    if (s >= 0)
        s = send_heads(self, n, err);
    if (s < 0) {
        release_pools(self);
        return sl_fail(err, s, "duoattention: the books of %lld pages could not be made",
                       (long long)(n[FULL] + n[STREAMING]));
    }
    d->ready = 1;
    return SL_OK;
}
