/* See paged_device.h. Kernels are the host's: sl_ops.append, move and keep. */
#include "paged_device.h"

#include <stdlib.h>
#include <string.h>

#include "sl_host_util.h"
#include "sl_lane_rows.h"
#include "sl_page_tables.h"
#include "sl_tensor.h"

struct paged_device {
    const sl_exec *exec;
    const sl_lane *lane;
    sl_view_device *views;         /* [n_layers]; of layers that are not served: empty */
    const sl_view_device **served; /* [n_served] */
    int32_t n_served;
    sl_lane_words words;
    sl_page_tables tables;
    int32_t *moves; /* device [1 + 3 max_moves] */
    int64_t max_moves;
    /* With the first edit: rows by head. */
    sl_lane_words lists;
    int32_t *n_rows;          /* device [max_seqs, n_lists] committed rows; NULL: there was no edit yet */
    int32_t *rows_sent;       /* the same on the host, as it was sent last */
    int32_t *keep;            /* device [heads + 1 + rows] the lists of one edit */
    int64_t model_page_bytes; /* a page of all layers of the model, those of other stores included */
    int ready;                /* the pools are there */
    sl_view_device listed;    /* the last view through a row set */
    sl_view view;
};

/* ---- life -------------------------------------------------------------------------------------------------------- */

static int is_served(const sl_instance *self, int32_t layer) {
    return self->served == NULL || self->served[layer] != 0;
}

/* In a page the rows of a head lie behind one another: who attends reads them head by head. */
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
                                       .pages = d->tables.pages,
                                       .pages_stride = d->tables.stride,
                                       .k_page_stride = k_page,
                                       .k_row_stride = p->k_head,
                                       .k_head_stride = p->k_head * self->page_rows,
                                       .v_page_stride = v_page,
                                       .v_row_stride = p->v_head,
                                       .v_head_stride = p->v_head * self->page_rows,
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
    size_t layers = (size_t)self->model->n_layers;
    paged_device *d = self->device = calloc(1, sizeof *d);
    if (d == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "paged: out of memory");
    d->exec = sl_host_service(self->host, SL_EXEC_ID, SL_FIELD_END(sl_exec, device_info));
    d->lane = d->exec != NULL ? d->exec->lane(self->host, SL_DEVICE_CUDA, 0) : NULL;
    if (d->lane == NULL || !SL_HAS_FN(self->ops, sl_ops, append) || !SL_HAS_FN(self->ops, sl_ops, move))
        return sl_fail(err, SL_E_NOT_FOUND, "paged: the host has no lane of the device, or no operations on it");
    d->max_moves = self->limits.max_rows;
    int64_t most = 1 + 3 * d->max_moves;
    d->views = calloc(layers, sizeof *d->views);
    d->served = calloc(layers, sizeof *d->served);
    d->moves = self->mem->alloc(self->host, SL_DEVICE_CUDA, most * 4, 256, SL_MEM_PLUGIN);
    if (sl_lane_words_make(&d->words, self->host, self->mem, d->exec, d->lane,
                           most > self->max_pages ? most : self->max_pages) < 0 ||
        sl_page_tables_open(&d->tables, &d->words, self->limits.max_seqs, self->max_pages) < 0 || d->views == NULL ||
        d->served == NULL || d->moves == NULL)
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

static void release_lists(sl_instance *self) {
    paged_device *d = self->device;
    self->mem->release(self->host, SL_DEVICE_CUDA, d->n_rows);
    self->mem->release(self->host, SL_DEVICE_CUDA, d->keep);
    sl_lane_words_free(&d->lists);
    self->mem->release(self->host, SL_DEVICE_CPU, d->rows_sent);
    d->n_rows = d->rows_sent = d->keep = NULL;
}

void paged_device_deactivate(sl_instance *self) {
    paged_device *d = self->device;
    if (d == NULL)
        return;
    release_pools(self);
    self->mem->release(self->host, SL_DEVICE_CUDA, d->moves);
    release_lists(self);
    sl_page_tables_close(&d->tables, &d->words);
    sl_lane_words_free(&d->words);
    free(d->views);
    free(d->served);
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

void paged_device_touch(sl_instance *self, const paged_sequence *s, int64_t begin, int64_t end) {
    if (self->device != NULL)
        sl_page_tables_touch(&self->device->tables, (int32_t)(s - self->seqs), begin, end);
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

static sl_status flush_table(sl_instance *self, int32_t seq, sl_error *err) {
    paged_device *d = self->device;
    const paged_sequence *s = &self->seqs[seq];
    return sl_page_tables_send(&d->tables, &d->words, seq, s->pages, s->n_pages, err);
}

/* Row counts of the step's sequences, as one copy from the first that changed to the last. */
static sl_status flush_rows(sl_instance *self, const sl_batch *batch, sl_error *err) {
    paged_device *d = self->device;
    int64_t n = self->n_lists, begin = self->limits.max_seqs, end = 0;
    for (int32_t i = 0; i < batch->n_seqs; i++) {
        int32_t seq = batch->seq[i], *sent = d->rows_sent + seq * n, *words;
        SL_TRY(sl_lane_words_take(&d->lists, n, &words, err));
        paged_heads_counts(self, &self->seqs[seq], batch->n_past[i], words);
        d->lists.at -= n; /* on trial */
        if (memcmp(sent, words, (size_t)n * sizeof *words) == 0)
            continue;
        memcpy(sent, words, (size_t)n * sizeof *words);
        begin = seq < begin ? seq : begin;
        end = seq + 1 > end ? seq + 1 : end;
    }
    if (begin >= end)
        return SL_OK;
    int32_t *words;
    SL_TRY(sl_lane_words_take(&d->lists, (end - begin) * n, &words, err));
    memcpy(words, d->rows_sent + begin * n, (size_t)((end - begin) * n) * sizeof *words);
    sl_status s = d->exec->copy(d->lane, d->n_rows + begin * n, words, (end - begin) * n * (int64_t)sizeof *words);
    return s < 0 ? sl_fail(err, s, "paged: the row counts of a step could not be copied") : SL_OK;
}

sl_status paged_device_flush(sl_instance *self, const sl_batch *batch, sl_error *err) {
    for (int32_t i = 0; i < batch->n_seqs; i++)
        SL_TRY(flush_table(self, batch->seq[i], err));
    return self->device->n_rows != NULL ? flush_rows(self, batch, err) : SL_OK;
}

/* ---- a step ------------------------------------------------------------------------------------------------------ */

sl_status paged_device_append(sl_instance *self, const sl_kv_append *args) {
    return sl_lane_append(self->host, self->ops, self->model, args, &self->device->views[args->layer]);
}

sl_status paged_device_view(sl_instance *self, int32_t layer, const sl_rowset *tokens, const sl_view **out) {
    paged_device *d = self->device;
    const sl_view_device *v = &d->views[layer];
    if (tokens != NULL) {
        if (d->n_rows != NULL) /* then slots are not token indices */
            return SL_E_UNIMPLEMENTED;
        SL_TRY(sl_lane_list(&d->listed, v, tokens));
        v = &d->listed;
    }
    d->view = (sl_view){.struct_size = SL_SIZE(sl_view), .kinds = SL_SEGMENT_ROWS, .device = v};
    *out = &d->view;
    return SL_OK;
}

sl_status paged_device_compact(sl_instance *self, const sl_commit *c, sl_error *err) {
    paged_device *d = self->device;
    return sl_lane_close_ranks(&d->words, self->ops, d->served, d->n_served, d->moves, d->max_moves, c, err);
}

/* ---- rows that a policy keeps ------------------------------------------------------------------------------------ */

sl_status paged_device_edit_begin(sl_instance *self) {
    paged_device *d = self->device;
    if (d->n_rows != NULL)
        return SL_OK;
    if (!SL_HAS_FN(self->ops, sl_ops, keep))
        return SL_E_UNIMPLEMENTED;
    int64_t counts = self->limits.max_seqs * self->n_lists;
    int64_t keep = self->max_heads * (1 + self->max_pages * self->page_rows) + 1;
    sl_status words = sl_lane_words_make(&d->lists, self->host, self->mem, d->exec, d->lane,
                                         counts > keep / 4 + 1 ? counts : keep / 4 + 1);
    d->n_rows = self->mem->alloc(self->host, SL_DEVICE_CUDA, 4 * counts, 256, SL_MEM_PLUGIN);
    d->keep = self->mem->alloc(self->host, SL_DEVICE_CUDA, 4 * keep, 256, SL_MEM_PLUGIN);
    d->rows_sent = self->mem->alloc(self->host, SL_DEVICE_CPU, 4 * counts, 64, SL_MEM_PLUGIN);
    if (d->n_rows == NULL || d->keep == NULL || d->rows_sent == NULL || words < 0) {
        release_lists(self);
        return SL_E_NO_MEMORY;
    }
    memset(d->rows_sent, 0xff, 4 * (size_t)counts); /* nobody has -1 rows */
    for (int32_t l = 0; l < self->model->n_layers; l++) {
        d->views[l].n_rows = d->n_rows + self->places[l].first_list;
        d->views[l].n_rows_stride = self->n_lists;
        d->views[l].n_rows_head_stride = 1;
    }
    return SL_OK;
}

sl_status paged_device_edit(sl_instance *self, const sl_kv_edit *e) {
    paged_device *d = self->device;
    int32_t K = self->places[e->layer].n_kv_heads, *words;
    int64_t n = e->keep_begin[K], all = K + 1 + n;
    SL_TRY(flush_table(self, e->seq, NULL));
    SL_TRY(sl_lane_words_take(&d->lists, all, &words, NULL));
    for (int32_t h = 0; h <= K; h++)
        words[h] = (int32_t)e->keep_begin[h];
    memcpy(words + K + 1, e->keep, (size_t)n * sizeof *words);
    SL_TRY(d->exec->copy(d->lane, d->keep, words, all * (int64_t)sizeof *words));
    sl_op_keep op = {.struct_size = SL_SIZE(sl_op_keep),
                     .lane = d->lane,
                     .layer = &d->views[e->layer],
                     .keep_begin = d->keep,
                     .keep = d->keep + K + 1,
                     .seq = e->seq};
    return self->ops->keep(self->host, &op);
}

/* ---- export and import ------------------------------------------------------------------------------------------- */

/* One side of a layer: keys or values. */
typedef struct copied_side {
    char *pool, *dense;
    int64_t page_stride, head_stride, head, heads; /* bytes; head: of a row */
} copied_side;

/* Between rows of all heads and pages of one head after another, on the host. */
static void reorder(const copied_side *c, char *to_page, int64_t in_page, int64_t run, char *row, int is_import) {
    for (int64_t i = 0; i < run; i++)
        for (int64_t h = 0; h < c->heads; h++) {
            char *a = to_page + h * c->head_stride + (in_page + i) * c->head, *b = row + (i * c->heads + h) * c->head;
            memcpy(is_import ? a : b, is_import ? b : a, (size_t)c->head);
        }
}

/* One side of the rows, page by page: whole pages at once, pieces of others a head at a time. rows and pages: host
 * buffers of the rows as they are stored, and of all pages that hold some. */
static sl_status copy_side(sl_instance *self, const paged_sequence *s, const sl_kv_copy *copy, const copied_side *c,
                           char *rows, char *pages, sl_error *err) {
    const paged_device *d = self->device;
    const int64_t n = copy->end - copy->begin, row = c->heads * c->head;
    const int64_t first = copy->begin / self->page_rows, width = row * 8 / sl_dtype_bits(self->dtype);
    const int is_import = copy->direction == SL_COPY_IMPORT;
    if (is_import)
        SL_TRY(self->ops->convert(rows, self->dtype, c->dense, copy->dtype, n * width));
    for (int turn = 0; turn < 2; turn++) { /* an import fills the buffer first, an export reads it last */
        for (int64_t i = 0, run; i < n; i += run) {
            const int64_t slot = copy->begin + i, in_page = slot % self->page_rows;
            run = self->page_rows - in_page < n - i ? self->page_rows - in_page : n - i;
            char *there = c->pool + s->pages[slot / self->page_rows] * c->page_stride;
            char *here = pages + (slot / self->page_rows - first) * c->page_stride;
            if (turn != is_import) {
                reorder(c, here, in_page, run, rows + i * row, is_import);
                continue;
            }
            const int whole = run == self->page_rows;
            const int64_t bytes = whole ? c->page_stride : run * c->head;
            for (int64_t h = 0; h < (whole ? 1 : c->heads); h++) {
                const int64_t at = h * c->head_stride + in_page * c->head;
                SL_TRY(d->exec->copy(d->lane, is_import ? there + at : here + at, is_import ? here + at : there + at,
                                     bytes));
            }
        }
        if (turn == is_import)
            SL_TRY(d->exec->sync(d->lane, err));
    }
    return is_import ? SL_OK : self->ops->convert(c->dense, copy->dtype, rows, self->dtype, n * width);
}

sl_status paged_device_copy_rows(sl_instance *self, const paged_sequence *s, const sl_kv_copy *copy, sl_error *err) {
    const sl_view_device *v = &self->device->views[copy->layer];
    const paged_place *p = &self->places[copy->layer];
    int64_t n = copy->end - copy->begin, element = sl_dtype_bits(copy->dtype) / 8;
    if (v->n_heads == 0)
        return sl_fail(err, SL_E_RANGE, "paged: layer %d is another store's", copy->layer);
    if (n == 0)
        return SL_OK;
    const copied_side sides[2] = {
        {v->k_pool, copy->buffer, v->k_page_stride, v->k_head_stride, p->k_head, v->n_heads},
        {v->v_pool, (char *)copy->buffer + n * p->k_width * element, v->v_page_stride, v->v_head_stride, p->v_head,
         v->n_heads},
    };
    const int64_t row = p->k_row > p->v_row ? p->k_row : p->v_row;
    const int64_t pages = (copy->end - 1) / self->page_rows - copy->begin / self->page_rows + 1;
    char *stored = malloc((size_t)((n + pages * self->page_rows) * row));
    if (stored == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "paged: no memory to copy %lld rows", (long long)n);
    sl_status status = SL_OK;
    for (int i = 0; i < 2 && status >= 0; i++)
        status = copy_side(self, s, copy, &sides[i], stored, stored + n * row, err);
    free(stored);
    return status;
}
