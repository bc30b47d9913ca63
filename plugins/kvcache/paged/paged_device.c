/* See paged_device.h. Kernels are the host's: sl_ops.append and sl_ops.move. */
#include "paged_device.h"

#include <stdlib.h>
#include <string.h>

#include "sl_host_util.h"
#include "sl_tensor.h"

/* Words of pinned memory through which table entries and moves travel: large, so that it rarely comes round, which is
 * when the lane must have caught up. */
enum { RING_WORDS = 1 << 16 };

struct paged_device {
    const sl_exec *exec;
    const sl_lane *lane;
    sl_view_device *views;         /* [n_layers]; of layers that are not served: empty */
    const sl_view_device **served; /* [n_served] */
    int32_t n_served;
    int64_t table_stride; /* entries a sequence */
    int32_t *tables;      /* device [max_seqs, table_stride] */
    int32_t *moves;       /* device [1 + 3 max_moves] */
    int64_t max_moves;
    int32_t *ring; /* pinned [ring_words] */
    int64_t ring_words, ring_at;
    int64_t *dirty;           /* [max_seqs, 2] entries [begin, end) that changed */
    int64_t model_page_bytes; /* a page of all layers of the model, those of other stores included */
    int ready;                /* the pools are there */
    sl_view_device listed;    /* the last view through a row set */
    sl_view view;
};

/* ---- life -------------------------------------------------------------------------------------------------------- */

static int is_served(const sl_instance *self, int32_t layer) {
    return self->served == NULL || self->served[layer] != 0;
}

static void describe_views(sl_instance *self, paged_device *d) {
    self->page_bytes = 0;
    for (int32_t l = 0; l < self->model->n_layers; l++) {
        const paged_place *p = &self->places[l];
        const sl_layer_info *info = self->model->layers[l];
        int64_t k_page = p->k_row * self->page_rows, v_page = p->v_row * self->page_rows;
        d->model_page_bytes += k_page + v_page;
        if (!is_served(self, l) || info->n_kv_heads == 0)
            continue;
        self->page_bytes += k_page + v_page;
        d->views[l] = (sl_view_device){.struct_size = SL_SIZE(sl_view_device),
                                       .pages = d->tables,
                                       .pages_stride = d->table_stride,
                                       .k_page_stride = k_page,
                                       .k_row_stride = p->k_row,
                                       .k_head_stride = p->k_head,
                                       .v_page_stride = v_page,
                                       .v_row_stride = p->v_row,
                                       .v_head_stride = p->v_head,
                                       .page_rows = (int32_t)self->page_rows,
                                       .n_heads = info->n_kv_heads,
                                       .k_dim = info->head_dim,
                                       .v_dim = info->v_head_dim,
                                       .k_dtype = self->dtype,
                                       .v_dtype = self->dtype,
                                       .settled = 1};
        d->served[d->n_served++] = &d->views[l];
    }
}

sl_status paged_device_activate(sl_instance *self, sl_error *err) {
    size_t layers = (size_t)self->model->n_layers, seqs = (size_t)self->limits.max_seqs;
    paged_device *d = self->device = calloc(1, sizeof *d);
    if (d == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "paged: out of memory");
    d->exec = sl_host_service(self->host, SL_EXEC_ID, SL_FIELD_END(sl_exec, device_info));
    d->lane = d->exec != NULL ? d->exec->lane(self->host, SL_DEVICE_CUDA, 0) : NULL;
    if (d->lane == NULL || !SL_HAS_FN(self->ops, sl_ops, append) || !SL_HAS_FN(self->ops, sl_ops, move))
        return sl_fail(err, SL_E_NOT_FOUND, "paged: the host has no lane of the device, or no operations on it");
    d->table_stride = self->max_pages;
    d->max_moves = self->limits.max_rows;
    d->ring_words = RING_WORDS;
    while (d->ring_words < 4 * (1 + 3 * d->max_moves) || d->ring_words < 4 * d->table_stride)
        d->ring_words *= 2;
    d->views = calloc(layers, sizeof *d->views);
    d->served = calloc(layers, sizeof *d->served);
    d->dirty = calloc(2 * seqs, sizeof *d->dirty);
    d->tables = self->mem->alloc(self->host, SL_DEVICE_CUDA, (int64_t)seqs * d->table_stride * 4, 256, SL_MEM_PLUGIN);
    d->moves = self->mem->alloc(self->host, SL_DEVICE_CUDA, (1 + 3 * d->max_moves) * 4, 256, SL_MEM_PLUGIN);
    d->ring = self->mem->alloc(self->host, SL_DEVICE_HOST_PINNED, d->ring_words * 4, 64, SL_MEM_PLUGIN);
    if (d->views == NULL || d->served == NULL || d->dirty == NULL || d->tables == NULL || d->moves == NULL ||
        d->ring == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "paged: no memory for the page tables on the device");
    describe_views(self, d);
    return SL_OK;
}

static void release_pools(sl_instance *self) {
    paged_device *d = self->device;
    for (int32_t l = 0; d->views != NULL && l < self->model->n_layers; l++) {
        self->mem->release(self->host, SL_DEVICE_CUDA, d->views[l].k_pool);
        self->mem->release(self->host, SL_DEVICE_CUDA, d->views[l].v_pool);
        d->views[l].k_pool = d->views[l].v_pool = NULL;
    }
}

void paged_device_deactivate(sl_instance *self) {
    paged_device *d = self->device;
    if (d == NULL)
        return;
    release_pools(self);
    self->mem->release(self->host, SL_DEVICE_CUDA, d->tables);
    self->mem->release(self->host, SL_DEVICE_CUDA, d->moves);
    self->mem->release(self->host, SL_DEVICE_HOST_PINNED, d->ring);
    free(d->views);
    free(d->served);
    free(d->dirty);
    free(d);
    self->device = NULL;
}

/* ---- pools ------------------------------------------------------------------------------------------------------- */

static int take_pools(sl_instance *self, int64_t pages) {
    paged_device *d = self->device;
    for (int32_t l = 0; l < self->model->n_layers; l++) {
        sl_view_device *v = &d->views[l];
        if (v->n_heads == 0)
            continue;
        v->k_pool = self->mem->alloc(self->host, SL_DEVICE_CUDA, pages * v->k_page_stride, 256, SL_MEM_KV);
        v->v_pool = self->mem->alloc(self->host, SL_DEVICE_CUDA, pages * v->v_page_stride, 256, SL_MEM_KV);
        if (v->k_pool == NULL || v->v_pool == NULL) {
            release_pools(self);
            return 0;
        }
    }
    return 1;
}

/* Pages of which this store's layers may hold their share of so many bytes. */
static int64_t pages_in(const paged_device *d, int64_t bytes) {
    return d->model_page_bytes > 0 ? bytes / d->model_page_bytes : 0;
}

sl_status paged_device_pools(sl_instance *self, sl_error *err) {
    paged_device *d = self->device;
    if (d->ready)
        return SL_OK;
    sl_device_info info = {.struct_size = SL_SIZE(sl_device_info)};
    SL_TRY(d->exec->device_info(d->lane, &info));
    int64_t spare = info.memory / 32 + ((int64_t)64 << 20); /* graphs, libraries and others' needs */
    int64_t pages = self->limits.max_seqs * self->max_pages,
            room = pages_in(d, info.memory_free > spare ? info.memory_free - spare : 0);
    if (self->limits.kv_bytes > 0 && pages > pages_in(d, self->limits.kv_bytes))
        pages = pages_in(d, self->limits.kv_bytes);
    pages = pages < room ? pages : room;
    int64_t least = paged_pages_for(self, self->limits.max_rows + self->limits.max_tree);
    least = least < self->max_pages ? least : self->max_pages;
    /* less than what seemed free may be had: a cap, fragments */
    while (pages >= least && !take_pools(self, pages))
        pages -= pages / 8 + 1;
    if (pages < least)
        return sl_fail(err, SL_E_NO_MEMORY,
                       "paged: the cache needs %lld pages of %lld bytes at least; %lld bytes of the device are free, "
                       "engine.kv_memory_mb allows %lld bytes (0: all)",
                       (long long)least, (long long)self->page_bytes, (long long)info.memory_free,
                       (long long)self->limits.kv_bytes);
    if (sl_blocks_init_fixed(&self->pool, self->page_bytes, pages) < 0) {
        release_pools(self);
        return sl_fail(err, SL_E_NO_MEMORY, "paged: no memory for the books of %lld pages", (long long)pages);
    }
    d->ready = 1;
    return SL_OK;
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

/* Room for n words on their way to the device; before it is used again the lane has passed. */
static sl_status ring_take(paged_device *d, int64_t n, int32_t **out, sl_error *err) {
    if (d->ring_at + n > d->ring_words) {
        SL_TRY(d->exec->sync(d->lane, err));
        d->ring_at = 0;
    }
    *out = d->ring + d->ring_at;
    d->ring_at += n;
    return SL_OK;
}

void paged_device_touch(sl_instance *self, const paged_sequence *s, int64_t begin, int64_t end) {
    if (self->device == NULL || begin >= end)
        return;
    int64_t *dirty = self->device->dirty + 2 * (s - self->seqs);
    int clean = dirty[0] >= dirty[1];
    dirty[0] = clean || begin < dirty[0] ? begin : dirty[0];
    dirty[1] = clean || end > dirty[1] ? end : dirty[1];
}

void paged_device_copy_page(sl_instance *self, int32_t to, int32_t from) {
    const paged_device *d = self->device;
    for (int32_t i = 0; i < d->n_served; i++) {
        const sl_view_device *v = d->served[i];
        d->exec->copy(d->lane, (char *)v->k_pool + to * v->k_page_stride, (char *)v->k_pool + from * v->k_page_stride,
                      v->k_page_stride);
        d->exec->copy(d->lane, (char *)v->v_pool + to * v->v_page_stride, (char *)v->v_pool + from * v->v_page_stride,
                      v->v_page_stride);
    }
}

sl_status paged_device_flush(sl_instance *self, const sl_batch *batch, sl_error *err) {
    paged_device *d = self->device;
    for (int32_t i = 0; i < batch->n_seqs; i++) {
        int32_t seq = batch->seq[i];
        const paged_sequence *s = &self->seqs[seq];
        int64_t *dirty = d->dirty + 2 * seq, end = dirty[1] < s->n_pages ? dirty[1] : s->n_pages, n = end - dirty[0];
        int32_t *words;
        if (n > 0) {
            SL_TRY(ring_take(d, n, &words, err));
            memcpy(words, s->pages + dirty[0], (size_t)n * sizeof *words);
            sl_status status =
                d->exec->copy(d->lane, d->tables + seq * d->table_stride + dirty[0], words, n * (int64_t)sizeof *words);
            if (status < 0)
                return sl_fail(err, status, "paged: the page table of sequence %d could not be copied", seq);
        }
        dirty[0] = dirty[1] = 0;
    }
    return SL_OK;
}

/* ---- a step ------------------------------------------------------------------------------------------------------ */

sl_status paged_device_append(sl_instance *self, const sl_kv_append *args) {
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
                       .n_maps = args->n_maps,
                       .overwrite = args->overwrite};
    return self->ops->append(self->host, &op);
}

sl_status paged_device_view(sl_instance *self, int32_t layer, const sl_rowset *tokens, const sl_view **out) {
    paged_device *d = self->device;
    const sl_view_device *v = &d->views[layer];
    if (tokens != NULL) { /* slot = token index: lists need no translation */
        if (!SL_HAS(tokens, sl_rowset, device_stride) || tokens->device_token == NULL || tokens->own_rows ||
            tokens->run > 1 || (tokens->n_groups != 1 && tokens->n_groups != v->n_heads))
            return SL_E_UNIMPLEMENTED;
        d->listed = *v;
        d->listed.list = tokens->device_token;
        d->listed.list_n = tokens->device_n;
        d->listed.list_stride = tokens->device_stride;
        d->listed.n_groups = tokens->n_groups;
        d->listed.per_row = tokens->per_row;
        v = &d->listed;
    }
    d->view = (sl_view){.struct_size = SL_SIZE(sl_view), .kinds = SL_SEGMENT_ROWS, .device = v};
    *out = &d->view;
    return SL_OK;
}

sl_status paged_device_compact(sl_instance *self, const sl_commit *c, sl_error *err) {
    paged_device *d = self->device;
    int64_t n = 0;
    for (int32_t i = 0; i < c->batch->n_seqs; i++)
        for (int32_t k = c->path_begin[i]; k < c->path_begin[i + 1]; k++)
            n += c->path[k] != k - c->path_begin[i];
    if (n == 0)
        return SL_OK;
    if (n > d->max_moves)
        return sl_fail(err, SL_E_RANGE, "paged: %lld rows move, at most %lld can", (long long)n,
                       (long long)d->max_moves);
    int32_t *words;
    SL_TRY(ring_take(d, 1 + 3 * n, &words, err));
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
    sl_op_move op = {.struct_size = SL_SIZE(sl_op_move),
                     .lane = d->lane,
                     .layers = d->served,
                     .n_moves = d->moves,
                     .seq = d->moves + 1,
                     .from = d->moves + 1 + n,
                     .to = d->moves + 1 + 2 * n,
                     .n_layers = d->n_served,
                     .max_moves = (int32_t)n};
    sl_status s = d->exec->copy(d->lane, d->moves, words, (1 + 3 * n) * (int64_t)sizeof *words);
    if (s >= 0)
        s = self->ops->move(self->host, &op);
    return s < 0 ? sl_fail(err, s, "paged: accepted rows could not be moved") : SL_OK;
}

/* ---- export and import ------------------------------------------------------------------------------------------- */

/* One side (keys or values) of the rows, page by page, through a host buffer of stored rows. */
static sl_status copy_side(sl_instance *self, const paged_sequence *s, const sl_kv_copy *copy, char *pool,
                           int64_t page_stride, int64_t row, int64_t width, char *stored, char *dense, sl_error *err) {
    const paged_device *d = self->device;
    int64_t n = copy->end - copy->begin;
    int is_import = copy->direction == SL_COPY_IMPORT;
    if (is_import)
        SL_TRY(self->ops->convert(stored, self->dtype, dense, copy->dtype, n * width));
    for (int64_t i = 0, run; i < n; i += run) {
        int64_t slot = copy->begin + i, in_page = slot % self->page_rows;
        run = self->page_rows - in_page < n - i ? self->page_rows - in_page : n - i;
        char *at = pool + s->pages[slot / self->page_rows] * page_stride + in_page * row, *here = stored + i * row;
        SL_TRY(d->exec->copy(d->lane, is_import ? at : here, is_import ? here : at, run * row));
    }
    SL_TRY(d->exec->sync(d->lane, err));
    return is_import ? SL_OK : self->ops->convert(dense, copy->dtype, stored, self->dtype, n * width);
}

sl_status paged_device_copy_rows(sl_instance *self, const paged_sequence *s, const sl_kv_copy *copy, sl_error *err) {
    const sl_view_device *v = &self->device->views[copy->layer];
    const paged_place *p = &self->places[copy->layer];
    int64_t n = copy->end - copy->begin, element = sl_dtype_bits(copy->dtype) / 8;
    if (v->n_heads == 0)
        return sl_fail(err, SL_E_RANGE, "paged: layer %d is another store's", copy->layer);
    if (n == 0)
        return SL_OK;
    char *stored = malloc((size_t)(n * (p->k_row > p->v_row ? p->k_row : p->v_row)));
    if (stored == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "paged: no memory to copy %lld rows", (long long)n);
    char *k = copy->buffer;
    sl_status status = copy_side(self, s, copy, v->k_pool, v->k_page_stride, p->k_row, p->k_width, stored, k, err);
    if (status >= 0)
        status = copy_side(self, s, copy, v->v_pool, v->v_page_stride, p->v_row, p->v_width, stored,
                           k + n * p->k_width * element, err);
    free(stored);
    return status;
}
