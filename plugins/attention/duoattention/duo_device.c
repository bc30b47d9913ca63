/* See duo_device.h. Kernels are the host's: sl_ops.append, attend and move. */
#include "duo_device.h"

#include <stdlib.h>
#include <string.h>

#include "sl_blocks.h"
#include "sl_host_util.h"
#include "sl_lane_words.h"
#include "sl_tensor.h"

enum { FULL = 0, STREAMING = 1, CLASSES = 2 };

/* A sequence's pages of one class, by page index: [0, sinks) and [low, end); low 0: no gap. */
typedef struct held {
    int32_t *pages; /* [max_pages] */
    int64_t low, end;
} held;

typedef struct device_sequence {
    held of[CLASSES];
    int64_t n_tokens;
    int64_t n_wanted; /* tokens that grow promised place for */
    int is_open;
} device_sequence;

struct duo_device {
    const sl_exec *exec;
    const sl_lane *lane;
    sl_lane_words words;
    sl_view_device *views; /* [n_layers]; of layers that are not served: empty */
    const sl_view_device **served;
    int32_t n_served;
    uint32_t *serves; /* [n_layers] */
    sl_mask mask;     /* of streaming heads */
    device_sequence *seqs;
    int32_t *pages;  /* [CLASSES, max_seqs, max_pages] */
    int64_t *dirty;  /* [CLASSES, max_seqs, 2] entries [begin, end) that changed */
    int32_t *tables; /* device [CLASSES, max_seqs, max_pages] */
    int64_t *heads;  /* device [KV heads of all layers, SL_HEAD_FIELDS] */
    int32_t *moves;  /* device [1 + 3 max_rows] */
    sl_blocks pool[CLASSES];
    int64_t page_bytes[CLASSES]; /* a page of all served layers */
    int64_t others_bytes;        /* a page of the layers of other stores */
    int64_t sink_pages, quota;   /* of streaming heads; quota: most pages of a sequence outside of long chunks */
    int ready;                   /* the pools are there */
    sl_view view;
};

/* ---- places ------------------------------------------------------------------------------------------------------ */

static int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t pages_of(const sl_instance *self, int64_t rows) { return up(rows, self->page_rows); }

/* First page that a sequence of n tokens keeps behind its sinks; 0: it keeps all. */
static int64_t first_kept(const sl_instance *self, int c, int64_t n) {
    int64_t token = n - self->recent - self->slack, page = token / self->page_rows;
    return c == FULL || token <= self->sink || page <= self->device->sink_pages ? 0 : page;
}

static int64_t count(const sl_instance *self, const held *h) {
    return h->low == 0 ? h->end : self->device->sink_pages + h->end - h->low;
}

/* Pages that a sequence of n tokens holds between steps. */
static int64_t pages_at(const sl_instance *self, int c, int64_t n) {
    const held h = {.low = first_kept(self, c, n), .end = pages_of(self, n)};
    return self->device->page_bytes[c] == 0 ? 0 : count(self, &h);
}

/* What all sequences can ever need of streaming pages: those that they hold, and those of a step's long chunks. */
static int64_t streaming_pages(const sl_instance *self) {
    const duo_device *d = self->device;
    if (d->page_bytes[STREAMING] == 0)
        return 0;
    return self->limits.max_seqs * (duo_min(self->max_pages, d->quota) + 1) + pages_of(self, self->limits.max_rows);
}

static held *held_by(const sl_instance *self, int32_t seq, int c) { return &self->device->seqs[seq].of[c]; }

static device_sequence *device_find(const sl_instance *self, int32_t seq) {
    return seq >= 0 && seq < self->limits.max_seqs && self->device->seqs[seq].is_open ? &self->device->seqs[seq] : NULL;
}

/* Are all rows there that a sequence of n tokens sees? */
static int holds(const sl_instance *self, const device_sequence *s, int64_t n) {
    return s->of[STREAMING].low == 0 || n <= self->sink ||
           duo_first_recent(self, n) >= s->of[STREAMING].low * self->page_rows;
}

static int64_t shortest(const sl_instance *self, const device_sequence *s) {
    return s->of[STREAMING].low == 0 ? 0 : s->of[STREAMING].low * self->page_rows + self->recent;
}

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
                                       .heads = heads};
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
    d->sink_pages = pages_of(self, self->sink);
    d->quota = d->sink_pages + pages_of(self, self->recent + self->slack + self->limits.max_tree) + 1;
    d->mask = (sl_mask){.struct_size = SL_SIZE(sl_mask),
                        .window = self->recent + 1,
                        .base = SL_MASK_CAUSAL,
                        .sinks = self->sink,
                        .window_first = self->first_chunk == DUO_FIRST_STREAMING};
    if (self->window == DUO_WINDOW_CHUNK)
        d->mask.window_chunk = self->prefill_chunk > 0 ? self->prefill_chunk : INT32_MAX;
    describe(self);
    int64_t least = streaming_pages(self) * d->page_bytes[STREAMING];
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
static sl_status make_pools(sl_instance *self, sl_error *err) {
    duo_device *d = self->device;
    if (d->ready)
        return SL_OK;
    sl_device_info info = {.struct_size = SL_SIZE(sl_device_info)};
    SL_TRY(d->exec->device_info(d->lane, &info));
    int64_t spare = info.memory / 32 + ((int64_t)64 << 20), seqs = self->limits.max_seqs; /* spare: graphs, libraries */
    int64_t room = info.memory_free - spare, n[CLASSES] = {0, 0}, least = 0;
    if (self->limits.kv_bytes > 0)
        room = duo_min(room, self->limits.kv_bytes);
    n[STREAMING] = streaming_pages(self);
    if (d->page_bytes[FULL] > 0) {
        int64_t left = room - n[STREAMING] * d->page_bytes[STREAMING];
        n[FULL] = duo_min(seqs * self->max_pages, left > 0 ? left / (d->page_bytes[FULL] + d->others_bytes) : 0);
        least = duo_min(pages_of(self, self->limits.max_rows + self->limits.max_tree), self->max_pages);
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

/* ---- pages of a sequence ----------------------------------------------------------------------------------------- */

static void touch(sl_instance *self, int32_t seq, int c, int64_t begin, int64_t end) {
    int64_t *dirty = self->device->dirty + 2 * (c * self->limits.max_seqs + seq);
    int clean = dirty[0] >= dirty[1];
    if (begin >= end)
        return;
    dirty[0] = clean || begin < dirty[0] ? begin : dirty[0];
    dirty[1] = clean || end > dirty[1] ? end : dirty[1];
}

static int is_held(const sl_instance *self, const held *h, int64_t page) {
    return page < h->end && (page >= h->low || page < self->device->sink_pages);
}

/* Lets pages [begin, end) go. */
static void drop(sl_instance *self, held *h, int c, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
        if (is_held(self, h, i))
            sl_blocks_drop(&self->device->pool[c], h->pages[i]);
}

/* Keeps what a sequence of n tokens may have, and of its window what `from` tokens on would keep. */
static void trim(sl_instance *self, device_sequence *s, int64_t n, int64_t from) {
    for (int c = 0; c < CLASSES; c++) {
        held *h = &s->of[c];
        int64_t end = duo_min(h->end, pages_of(self, n)), low = first_kept(self, c, from);
        drop(self, h, c, end, h->end);
        h->end = end;
        if (h->low >= end) /* cut to its sinks: what comes next is the first behind them */
            h->low = 0;
        if (low > h->low && low < end) {
            drop(self, h, c, duo_max(h->low, self->device->sink_pages), low);
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

/* Pages that cover() takes of a class. */
static int64_t cover_cost(const sl_instance *self, const held *h, int c, int64_t first, int64_t rows) {
    int64_t need = pages_of(self, rows), cost = duo_max(0, need - h->end);
    for (int64_t i = first / self->page_rows; i < h->end && i < need; i++)
        cost += self->device->pool[c].refs[h->pages[i]] > 1;
    return cost;
}

/* Gives the sequence pages for rows up to `rows`, and makes those that hold rows from `first` on its own. The pages are
 * free. */
static void cover(sl_instance *self, int32_t seq, int c, int64_t first, int64_t rows) {
    held *h = held_by(self, seq, c);
    sl_blocks *pool = &self->device->pool[c];
    int64_t need = pages_of(self, rows), begin = h->end;
    for (int64_t i = first / self->page_rows; i < h->end && i < need; i++) {
        int32_t old = h->pages[i];
        if (pool->refs[old] == 1)
            continue;
        h->pages[i] = sl_blocks_take(pool);
        copy_page(self, c, h->pages[i], old);
        sl_blocks_drop(pool, old);
        touch(self, seq, c, i, i + 1);
    }
    for (; h->end < need; h->end++)
        h->pages[h->end] = sl_blocks_take(pool);
    touch(self, seq, c, begin, h->end);
}

/* Pages of retrieval heads that a sequence may still ask for: those promised to it, and a shared one into which its
 * next row falls. */
static int64_t promised(const sl_instance *self, const device_sequence *s) {
    const held *h = &s->of[FULL];
    int64_t next = s->n_tokens / self->page_rows;
    if (!s->is_open || self->device->page_bytes[FULL] == 0)
        return 0;
    return duo_max(0, pages_of(self, s->n_wanted) - h->end) +
           (next < h->end && self->device->pool[FULL].refs[h->pages[next]] > 1);
}

static sl_status have_free(sl_instance *self, const device_sequence *except, int64_t need, sl_error *err) {
    const duo_device *d = self->device;
    for (int64_t i = 0; i < self->limits.max_seqs; i++)
        if (&d->seqs[i] != except)
            need += promised(self, &d->seqs[i]);
    if (need <= d->pool[FULL].n_free)
        return SL_OK;
    return sl_fail(
        err, SL_E_NO_MEMORY,
        "duoattention: the cache does not fit: %lld more pages of %lld bytes are needed, %lld bytes are held",
        (long long)(need - d->pool[FULL].n_free), (long long)d->page_bytes[FULL],
        (long long)sl_blocks_bytes(&d->pool[FULL]));
}

/* ---- sequences --------------------------------------------------------------------------------------------------- */

static sl_status device_seq_open(sl_instance *self, int32_t seq, int32_t parent, int64_t upto, sl_error *err) {
    if (seq < 0 || seq >= self->limits.max_seqs || parent >= self->limits.max_seqs)
        return sl_fail(err, SL_E_RANGE, "duoattention: sequence %d (parent %d) is outside of [0, %lld)", seq, parent,
                       (long long)self->limits.max_seqs);
    duo_device *d = self->device;
    device_sequence *s = &d->seqs[seq];
    const device_sequence *p = parent >= 0 ? &d->seqs[parent] : NULL;
    if (s->is_open || (p != NULL && (!p->is_open || upto < 0 || upto > p->n_tokens)))
        return sl_fail(err, SL_E_STATE, "duoattention: sequence %d cannot be opened from %d at %lld tokens", seq,
                       parent, (long long)upto);
    if (p != NULL && !holds(self, p, upto))
        return sl_fail(
            err, SL_E_RANGE,
            "duoattention: the first %lld of %lld tokens cannot be shared: streaming heads have dropped rows "
            "that they see (possible: up to %lld, and from %lld on; see slack)",
            (long long)upto, (long long)p->n_tokens, (long long)self->sink, (long long)shortest(self, p));
    SL_TRY(make_pools(self, err));
    s->is_open = 1;
    s->n_tokens = s->n_wanted = p != NULL ? upto : 0;
    for (int c = 0; c < CLASSES; c++) {
        held *h = &s->of[c];
        h->low = h->end = 0;
        if (p == NULL || d->page_bytes[c] == 0)
            continue;
        h->end = duo_min(p->of[c].end, pages_of(self, upto));
        h->low = duo_max(p->of[c].low, first_kept(self, c, upto));
        h->low = h->low < h->end ? h->low : 0;
        for (int64_t i = 0; i < h->end; i++)
            if (is_held(self, h, i)) {
                h->pages[i] = p->of[c].pages[i];
                sl_blocks_share(&d->pool[c], h->pages[i]);
            }
        touch(self, seq, c, 0, h->end);
    }
    return SL_OK;
}

static void device_seq_close(sl_instance *self, int32_t seq) {
    device_sequence *s = device_find(self, seq);
    if (s == NULL)
        return;
    for (int c = 0; c < CLASSES; c++) {
        drop(self, &s->of[c], c, 0, s->of[c].end);
        s->of[c].low = s->of[c].end = 0;
    }
    s->n_tokens = s->n_wanted = 0;
    s->is_open = 0;
}

static sl_status device_grow(sl_instance *self, int32_t seq, int64_t n_tokens, sl_error *err) {
    device_sequence *s = device_find(self, seq);
    if (s == NULL)
        return sl_fail(err, SL_E_STATE, "duoattention: sequence %d is not open", seq);
    if (pages_of(self, n_tokens) > self->max_pages)
        return sl_fail(err, SL_E_RANGE, "duoattention: %lld rows are more than the %lld of the largest context",
                       (long long)n_tokens, (long long)(self->max_pages * self->page_rows));
    int64_t before = s->n_wanted;
    s->n_wanted = duo_max(before, n_tokens);
    sl_status status = have_free(self, s, promised(self, s), err);
    if (status < 0)
        s->n_wanted = before;
    return status;
}

static sl_status device_truncate_seq(sl_instance *self, int32_t seq, int64_t n, int64_t *minimum) {
    device_sequence *s = device_find(self, seq);
    if (s == NULL)
        return SL_E_NOT_FOUND;
    if (minimum != NULL)
        *minimum = shortest(self, s);
    if (n < 0 || n > s->n_tokens || !holds(self, s, n))
        return SL_E_RANGE;
    trim(self, s, n, 0);
    s->n_tokens = n;
    return SL_OK;
}

static sl_status device_length(sl_instance *self, int32_t seq, int64_t *n_tokens, int64_t *bytes) {
    const device_sequence *s = device_find(self, seq);
    if (s == NULL)
        return SL_E_NOT_FOUND;
    *n_tokens = s->n_tokens;
    *bytes = 0;
    for (int c = 0; c < CLASSES; c++)
        *bytes += count(self, &s->of[c]) * self->device->page_bytes[c];
    return SL_OK;
}

static sl_status device_rows_of(sl_instance *self, int32_t layer, int32_t seq, int64_t *n_rows) {
    const device_sequence *s = device_find(self, seq);
    if (s == NULL || layer < 0 || layer >= self->model->n_layers)
        return SL_E_NOT_FOUND;
    const duo_layer *l = &self->layers[layer];
    for (int32_t h = 0; h < l->n_heads; h++)
        n_rows[h] = l->streams[h] ? duo_min(s->n_tokens, self->sink + self->recent) : s->n_tokens;
    return SL_OK;
}

static sl_status device_quote(sl_instance *self, sl_kv_quote *io) {
    const duo_device *d = self->device;
    io->bytes = 0;
    for (int c = 0; c < CLASSES; c++)
        io->bytes += io->n_seqs * pages_at(self, c, io->n_tokens) * d->page_bytes[c];
    io->bytes_peak = io->bytes; /* and, shared by all, the pages of a step's chunks */
    if (d->page_bytes[STREAMING] > 0 && d->quota < pages_of(self, io->n_tokens))
        io->bytes_peak += (2 * io->n_seqs + pages_of(self, self->limits.max_rows)) * d->page_bytes[STREAMING];
    io->bytes_host = 0;
    io->bytes_next = d->page_bytes[FULL] / self->page_rows +
                     (pages_of(self, io->n_tokens) < d->quota ? d->page_bytes[STREAMING] / self->page_rows : 0);
    return SL_OK;
}

static sl_status device_layout(sl_instance *self, int32_t layer, sl_kv_layout *out) {
    (void)layer;
    out->kinds = SL_SEGMENT_ROWS;
    out->flags = SL_KV_PER_HEAD | SL_KV_FUSES_ROPE;
    out->key_state = SL_KEYS_ROTATED;
    out->dtype = self->dtype;
    return SL_OK;
}

/* ---- a step ------------------------------------------------------------------------------------------------------ */

/* The tables' entries that changed. */
static sl_status flush(sl_instance *self, const sl_batch *b, sl_error *err) {
    duo_device *d = self->device;
    for (int32_t i = 0; i < b->n_seqs; i++)
        for (int c = 0; c < CLASSES; c++) {
            int64_t seq = c * self->limits.max_seqs + b->seq[i], *dirty = d->dirty + 2 * seq;
            const held *h = held_by(self, b->seq[i], c);
            int64_t n = duo_min(dirty[1], h->end) - dirty[0];
            if (n > 0)
                SL_TRY(sl_lane_words_send(&d->words, d->tables + seq * self->max_pages + dirty[0], h->pages + dirty[0],
                                          n, err));
            dirty[0] = dirty[1] = 0;
        }
    return SL_OK;
}

static sl_status check_room(sl_instance *self, const sl_batch *b, int32_t i, sl_error *err) {
    device_sequence *s = device_find(self, b->seq[i]);
    duo_device *d = self->device;
    int64_t n = b->n_past[i], end = n + b->row_begin[i + 1] - b->row_begin[i];
    if (s == NULL || n != s->n_tokens || pages_of(self, end) > self->max_pages)
        return sl_fail(err, SL_E_STATE, "duoattention: sequence %d has no place for rows up to %lld", b->seq[i],
                       (long long)end);
    trim(self, s, n, 0); /* of a step that failed */
    if (d->page_bytes[FULL] > 0)
        SL_TRY(have_free(self, s, cover_cost(self, &s->of[FULL], FULL, n, end), err));
    if (d->page_bytes[STREAMING] > 0 &&
        cover_cost(self, &s->of[STREAMING], STREAMING, n, end) > d->pool[STREAMING].n_free)
        return sl_fail(err, SL_E_NO_MEMORY, "duoattention: no pages for %lld rows of streaming heads of sequence %d",
                       (long long)(end - n), b->seq[i]);
    return SL_OK;
}

static sl_status device_reserve(sl_instance *self, const sl_batch *b, sl_error *err) {
    for (int32_t i = 0; i < b->n_seqs; i++) {
        sl_status status = check_room(self, b, i, err);
        if (status < 0) {
            while (i-- > 0)
                trim(self, &self->device->seqs[b->seq[i]], b->n_past[i], 0);
            return status;
        }
        for (int c = 0; c < CLASSES; c++)
            if (self->device->page_bytes[c] > 0)
                cover(self, b->seq[i], c, b->n_past[i], b->n_past[i] + b->row_begin[i + 1] - b->row_begin[i]);
    }
    return flush(self, b, err);
}

static sl_status device_append(sl_instance *self, const sl_kv_append *args) {
    int32_t rope = self->model->layers[args->layer]->rope;
    sl_op_append op = {.struct_size = SL_SIZE(sl_op_append),
                       .lane = args->lane,
                       .rows = args->rows,
                       .rope = rope >= 0 ? self->model->ropes[rope] : NULL,
                       .q = &args->q,
                       .k = &args->k,
                       .v = &args->v,
                       .q_norm = args->q_norm,
                       .k_norm = args->k_norm,
                       .maps = args->maps,
                       .into = &self->device->views[args->layer],
                       .norm_eps = args->norm_eps,
                       .n_maps = args->n_maps};
    return args->overwrite ? SL_E_UNIMPLEMENTED : self->ops->append(self->host, &op);
}

static sl_status device_view(sl_instance *self, const sl_lane *lane, int32_t layer, const sl_rows *rows,
                             const sl_rowset *tokens, const sl_view **out) {
    (void)lane, (void)rows;
    if (tokens != NULL) /* a token has no row in heads that dropped it */
        return SL_E_UNIMPLEMENTED;
    self->device->view =
        (sl_view){.struct_size = SL_SIZE(sl_view), .kinds = SL_SEGMENT_ROWS, .device = &self->device->views[layer]};
    *out = &self->device->view;
    return SL_OK;
}

static sl_status device_commit(sl_instance *self, const sl_lane *lane, const sl_commit *c, sl_error *err) {
    duo_device *d = self->device;
    (void)lane;
    SL_TRY(sl_lane_close_ranks(&d->words, self->ops, d->served, d->n_served, d->moves, self->limits.max_rows, c, err));
    for (int32_t i = 0; i < c->batch->n_seqs; i++) {
        device_sequence *s = &d->seqs[c->batch->seq[i]];
        s->n_tokens += c->path_begin[i + 1] - c->path_begin[i];
        trim(self, s, s->n_tokens, s->n_tokens);
    }
    return SL_OK;
}

const sl_kv_store duo_device_store = {
    .struct_size = SL_SIZE(sl_kv_store),
    .layout = device_layout,
    .quote = device_quote,
    .open = device_seq_open,
    .close = device_seq_close,
    .grow = device_grow,
    .reserve = device_reserve,
    .append = device_append,
    .view = device_view,
    .commit = device_commit,
    .truncate = device_truncate_seq,
    .length = device_length,
    .rows = device_rows_of,
};

sl_status duo_device_attend(sl_instance *self, const sl_attend *args) {
    if (self->layers[args->layer].n_streaming == 0)
        return self->ops->attend(self->host, args);
    sl_attend both = *args;
    both.mask = &self->device->mask;
    return self->ops->attend(self->host, &both);
}
