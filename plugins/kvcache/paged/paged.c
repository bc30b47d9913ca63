/* paged - a dense KV cache in pages that sequences share.
 *
 * As in "Efficient Memory Management for Large Language Model Serving with PagedAttention", arXiv 2309.06180, section
 * 4: a table of pages a sequence, reference counts, copy on write. A page holds `page` rows of every layer; the slot of
 * a token is its index, until a policy drops rows (paged_heads.c). What a prefix cache or preemption needs (hashing,
 * swapping) is the scheduler's and not here. */
#include "paged_device.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "sluice/cost.h"

#include "sl_host_util.h"
#include "sl_params.h"
#include "sl_tensor.h"

/* Free pages that stay when a sequence ends: forks that draft a few rows take and leave them inside of steps. */
enum { SPARE_PAGES = 8 };

/* ---- life ----------------------------------------------------------------------------------------------------------
 */

static void lay_out(sl_instance *self) {
    int64_t bytes = 0, element = sl_dtype_bits(self->dtype) / 8;
    self->n_lists = self->max_heads = 0;
    for (int32_t l = 0; l < self->model->n_layers; l++) {
        const sl_layer_info *info = self->model->layers[l];
        paged_place *p = &self->places[l];
        p->n_kv_heads = info->n_kv_heads;
        p->first_list = self->n_lists;
        self->n_lists += info->n_kv_heads;
        self->max_heads = info->n_kv_heads > self->max_heads ? info->n_kv_heads : self->max_heads;
        p->k_width = (int64_t)info->n_kv_heads * info->head_dim;
        p->v_width = (int64_t)info->n_kv_heads * info->v_head_dim;
        p->k_head = info->head_dim * element;
        p->v_head = info->v_head_dim * element;
        p->k_row = p->k_width * element;
        p->v_row = p->v_width * element;
        p->k_offset = bytes, bytes += (p->k_row * self->page_rows + 63) / 64 * 64;
        p->v_offset = bytes, bytes += (p->v_row * self->page_rows + 63) / 64 * 64;
    }
    self->page_bytes = bytes;
}

static void destroy(sl_instance *self) {
    if (self == NULL)
        return;
    free(self->places);
    free(self->served);
    free(self);
}

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    static const sl_dtype dtypes[] = {SL_F32, SL_F32, SL_F16, SL_BF16}; /* auto is settled by activate */
    sl_instance *self = calloc(1, sizeof *self);
    if (self == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "paged: out of memory");
    self->host = args->host;
    self->model = args->model;
    self->mem = sl_host_service(args->host, SL_MEM_ID, SL_FIELD_END(sl_mem, release));
    self->ops = sl_host_service(args->host, SL_OPS_ID, SL_FIELD_END(sl_ops, convert));
    self->threads = sl_host_service(args->host, SL_THREADS_ID, SL_FIELD_END(sl_threads, parallel_for));
    self->places = calloc((size_t)args->model->n_layers, sizeof *self->places);
    const sl_scope *scope = args->scope;
    self->on_device = scope != NULL && scope->device == SL_DEVICE_CUDA;
    if (scope != NULL && scope->layer_stages != NULL && scope->n_layers == args->model->n_layers &&
        (self->served = calloc((size_t)scope->n_layers, sizeof *self->served)) != NULL)
        memcpy(self->served, scope->layer_stages, (size_t)scope->n_layers * sizeof *self->served);
    if (self->mem == NULL || self->ops == NULL || self->threads == NULL || self->places == NULL) {
        destroy(self);
        return sl_fail(err, SL_E_NOT_FOUND, "paged: the host lacks a service this store needs");
    }
    int64_t dtype = sl_param_int(args->params, "dtype");
    self->page_rows = sl_param_int(args->params, "page");
    self->dtype_auto = dtype == 0;
    self->dtype = dtypes[dtype];
    if (self->on_device && (self->page_rows & (self->page_rows - 1)) != 0) {
        sl_status s = sl_fail(err, SL_E_INVALID, "paged: page = %lld: on a GPU pages have a power of two of rows",
                              (long long)self->page_rows);
        destroy(self);
        return s;
    }
    *out = self;
    return SL_OK;
}

static void deactivate(sl_instance *self) {
    for (int64_t i = 0; self->seqs != NULL && i < self->limits.max_seqs; i++) {
        paged_heads_free(self, &self->seqs[i]);
        free(self->seqs[i].pages);
    }
    free(self->seqs);
    free(self->k_pages);
    free(self->v_pages);
    free(self->segments);
    free(self->segment_ptrs);
    free(self->seq_views);
    free(self->seq_view_ptrs);
    self->seqs = NULL;
    self->k_pages = self->v_pages = NULL;
    self->segments = NULL;
    self->segment_ptrs = NULL;
    self->seq_views = NULL;
    self->seq_view_ptrs = NULL;
    paged_device_deactivate(self);
    sl_blocks_finish(&self->pool);
}

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    self->limits = *limits;
    if (self->dtype_auto)
        self->dtype = limits->compute == SL_BF16 ? SL_BF16 : SL_F32;
    lay_out(self);
    sl_blocks_init(&self->pool, self->host, self->mem, self->page_bytes);
    self->max_pages = paged_pages_for(self, limits->max_context + limits->max_tree + self->page_rows);
    /* views of a device have tables of their own; of its rows one sequence is shown at a time */
    size_t n = (size_t)limits->max_seqs, heads = (self->on_device ? 1 : n) * (size_t)self->max_heads,
           tables = self->on_device ? 1 : heads * (size_t)self->max_pages;
    self->seqs = calloc(n, sizeof *self->seqs);
    self->k_pages = calloc(tables, sizeof *self->k_pages);
    self->v_pages = calloc(tables, sizeof *self->v_pages);
    self->segments = calloc(heads, sizeof *self->segments);
    self->segment_ptrs = calloc(heads, sizeof *self->segment_ptrs);
    self->seq_views = calloc(n, sizeof *self->seq_views);
    self->seq_view_ptrs = calloc(n, sizeof *self->seq_view_ptrs);
    int ok = self->seqs && self->k_pages && self->v_pages && self->segments && self->segment_ptrs && self->seq_views &&
             self->seq_view_ptrs;
    for (size_t i = 0; ok && i < n; i++)
        ok = (self->seqs[i].pages = calloc((size_t)self->max_pages, sizeof(int32_t))) != NULL;
    if (!ok) {
        deactivate(self);
        return sl_fail(err, SL_E_NO_MEMORY, "paged: no memory for the page tables");
    }
    sl_status s = self->on_device ? paged_device_activate(self, err) : SL_OK;
    if (s < 0)
        deactivate(self);
    return s;
}

/* ---- pages of a sequence
 * --------------------------------------------------------------------------------------------- */

/* Pages that a sequence will hold when it has all tokens that were promised to it: dropped rows need none. */
static int64_t wanted_pages(const sl_instance *self, const paged_sequence *s) {
    return paged_pages_for(self,
                           s->n_wanted > s->n_tokens ? s->n_wanted - s->n_tokens + paged_longest(s) : paged_longest(s));
}

/* Pages that a sequence may still ask for: those promised to it, and those shared ones into which its next rows fall.
 */
static int64_t promised(const sl_instance *self, const paged_sequence *s) {
    if (!s->is_open)
        return 0;
    int64_t more = wanted_pages(self, s) - s->n_pages;
    more = more > 0 ? more : 0;
    for (int64_t i = paged_shortest(s) / self->page_rows; i <= paged_longest(s) / self->page_rows && i < s->n_pages;
         i++)
        more += self->pool.refs[s->pages[i]] > 1;
    return more;
}

sl_status paged_have_free(sl_instance *self, const paged_sequence *except, int64_t need, sl_error *err) {
    for (int64_t i = 0; i < self->limits.max_seqs; i++)
        if (&self->seqs[i] != except)
            need += promised(self, &self->seqs[i]);
    int64_t missing = need - self->pool.n_free;
    if (missing <= 0)
        return SL_OK;
    if (sl_blocks_add(&self->pool, missing) < 0)
        return sl_fail(err, SL_E_NO_MEMORY,
                       "paged: the cache does not fit: %lld more pages of %lld bytes are needed, %lld bytes are held",
                       (long long)missing, (long long)self->page_bytes, (long long)sl_blocks_bytes(&self->pool));
    return SL_OK;
}

void paged_drop_pages(sl_instance *self, paged_sequence *s, int64_t keep) {
    while (s->n_pages > keep)
        sl_blocks_drop(&self->pool, s->pages[--s->n_pages]);
}

void paged_cover(sl_instance *self, paged_sequence *s, int64_t first, int64_t rows) {
    for (int64_t i = first / self->page_rows; i < s->n_pages && i < paged_pages_for(self, rows); i++) {
        int32_t old = s->pages[i];
        if (self->pool.refs[old] == 1)
            continue;
        int32_t own = sl_blocks_take(&self->pool);
        assert(own >= 0);
        if (self->device != NULL)
            paged_device_copy_page(self, own, old);
        else
            memcpy(self->pool.base[own], self->pool.base[old], (size_t)self->page_bytes);
        sl_blocks_drop(&self->pool, old);
        s->pages[i] = own;
        paged_device_touch(self, s, i, i + 1);
    }
    int64_t before = s->n_pages;
    while (s->n_pages < paged_pages_for(self, rows)) {
        int32_t page = sl_blocks_take(&self->pool);
        assert(page >= 0);
        s->pages[s->n_pages++] = page;
    }
    paged_device_touch(self, s, before, s->n_pages);
}

/* Pages that paged_cover() would take. */
int64_t paged_cover_cost(const sl_instance *self, const paged_sequence *s, int64_t first, int64_t rows) {
    int64_t end = paged_pages_for(self, rows), cost = end > s->n_pages ? end - s->n_pages : 0;
    for (int64_t i = first / self->page_rows; i < s->n_pages && i < end; i++)
        cost += self->pool.refs[s->pages[i]] > 1;
    return cost;
}

void paged_trim(sl_instance *self, int64_t keep) {
    for (int64_t i = 0; i < self->limits.max_seqs; i++)
        keep += promised(self, &self->seqs[i]);
    sl_blocks_trim(&self->pool, keep);
}

/* ---- sequences
 * --------------------------------------------------------------------------------------------------------- */

static sl_status seq_open(sl_instance *self, int32_t seq, int32_t parent, int64_t upto, sl_error *err) {
    if (seq < 0 || seq >= self->limits.max_seqs || parent >= self->limits.max_seqs)
        return sl_fail(err, SL_E_RANGE, "paged: sequence %d (parent %d) is outside of [0, %lld)", seq, parent,
                       (long long)self->limits.max_seqs);
    paged_sequence *s = &self->seqs[seq];
    const paged_sequence *p = parent >= 0 ? &self->seqs[parent] : NULL;
    if (s->is_open || (p != NULL && (!p->is_open || upto < 0 || upto > p->n_tokens)))
        return sl_fail(err, SL_E_STATE, "paged: sequence %d cannot be opened from %d at %lld tokens", seq, parent,
                       (long long)upto);
    if (self->device != NULL)
        SL_TRY(paged_device_pools(self, err));
    s->n_tokens = s->n_pages = s->n_wanted = 0;
    if (p != NULL) {
        SL_TRY(paged_heads_fork(self, s, p, upto, err));
        s->n_tokens = upto;
    }
    s->is_open = 1;
    s->n_pages = paged_pages_for(self, paged_longest(s));
    for (int64_t i = 0; i < s->n_pages; i++) {
        s->pages[i] = p->pages[i];
        sl_blocks_share(&self->pool, s->pages[i]);
    }
    paged_device_touch(self, s, 0, s->n_pages);
    return SL_OK;
}

static void seq_close(sl_instance *self, int32_t seq) {
    if (seq < 0 || seq >= self->limits.max_seqs || !self->seqs[seq].is_open)
        return;
    int64_t before = self->pool.n_free;
    paged_drop_pages(self, &self->seqs[seq], 0);
    paged_heads_free(self, &self->seqs[seq]);
    self->seqs[seq].is_open = 0;
    self->seqs[seq].n_tokens = self->seqs[seq].n_wanted = 0;
    if (self->pool.n_free - before > SPARE_PAGES) /* a whole sequence, not a fork of a few rows that comes every step */
        paged_trim(self, SPARE_PAGES);
}

static sl_status grow(sl_instance *self, int32_t seq, int64_t n_tokens, sl_error *err) {
    paged_sequence *s = &self->seqs[seq];
    int64_t before = s->n_wanted;
    if (paged_pages_for(self, n_tokens) > self->max_pages)
        return sl_fail(err, SL_E_RANGE, "paged: %lld rows are more than the %lld of the largest context",
                       (long long)n_tokens, (long long)(self->max_pages * self->page_rows));
    if (n_tokens > before)
        s->n_wanted = n_tokens;
    sl_status status = paged_have_free(self, s, promised(self, s), err);
    if (status >= 0 && (status = paged_heads_grow(self, s)) < 0)
        sl_fail(err, status, "paged: no memory for the lists of sequence %d", seq);
    if (status < 0)
        s->n_wanted = before;
    return status;
}

static sl_status truncate_seq(sl_instance *self, int32_t seq, int64_t n, int64_t *minimum) {
    paged_sequence *s = &self->seqs[seq];
    if (minimum != NULL)
        *minimum = paged_heads_minimum(s);
    if (n < 0 || n > s->n_tokens || (n > 0 && n < paged_heads_minimum(s)))
        return SL_E_RANGE;
    s->n_tokens = n;
    paged_heads_cut(self, s, n);
    paged_drop_pages(self, s, paged_pages_for(self, paged_longest(s)));
    return SL_OK;
}

static sl_status length(sl_instance *self, int32_t seq, int64_t *n_tokens, int64_t *bytes) {
    if (seq < 0 || seq >= self->limits.max_seqs || !self->seqs[seq].is_open)
        return SL_E_NOT_FOUND;
    *n_tokens = self->seqs[seq].n_tokens;
    *bytes = self->seqs[seq].n_pages * self->page_bytes;
    return SL_OK;
}

static sl_status quote(sl_instance *self, sl_kv_quote *io) {
    io->bytes = io->bytes_peak = io->n_seqs * paged_pages_for(self, io->n_tokens) * self->page_bytes;
    io->bytes_host = 0;
    io->bytes_next = self->page_bytes / self->page_rows;
    return SL_OK;
}

static sl_status layout(sl_instance *self, int32_t layer, sl_kv_layout *out) {
    (void)layer;
    out->kinds = SL_SEGMENT_ROWS;
    out->flags = SL_KV_FORKS | SL_KV_TRUNCATES | SL_KV_EXPORTS | SL_KV_EDITS | SL_KV_PER_HEAD | SL_KV_OVERWRITES;
    if (self->on_device) /* append does what goes before */
        out->flags |= SL_KV_FUSES_ROPE;
    out->key_state = SL_KEYS_ROTATED;
    out->dtype = self->dtype;
    return SL_OK;
}

/* ---- a step
 * -------------------------------------------------------------------------------------------------------------- */

static sl_status reserve(sl_instance *self, const sl_batch *batch, sl_error *err) {
    for (int32_t i = 0; i < batch->n_seqs; i++) {
        paged_sequence *s = &self->seqs[batch->seq[i]];
        int64_t n_new = batch->row_begin[i + 1] - batch->row_begin[i];
        int64_t first = s->heads != NULL ? paged_shortest(s) : batch->n_past[i];
        int64_t rows = s->heads != NULL ? paged_longest(s) + n_new : batch->n_past[i] + n_new;
        if (!s->is_open || batch->n_past[i] > s->n_tokens || (s->heads != NULL && batch->n_past[i] != s->n_tokens) ||
            paged_pages_for(self, rows) > self->max_pages || !paged_heads_have_room(self, s, n_new))
            return sl_fail(err, SL_E_STATE, "paged: sequence %d has no place for rows up to %lld", batch->seq[i],
                           (long long)(batch->n_past[i] + n_new));
        sl_status status = paged_have_free(self, s, paged_cover_cost(self, s, first, rows), err);
        if (status < 0) {
            while (i-- > 0) {
                s = &self->seqs[batch->seq[i]];
                paged_drop_pages(self, s, paged_pages_for(self, paged_longest(s)));
            }
            return status;
        }
        paged_cover(self, s, first, rows);
    }
    return self->device != NULL ? paged_device_flush(self, batch, err) : SL_OK;
}

typedef struct append_job {
    sl_instance *self;
    const sl_kv_append *args;
} append_job;

static void append_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    (void)worker;
    const append_job *job = user;
    const sl_instance *self = job->self;
    const sl_kv_append *args = job->args;
    const sl_batch *b = args->rows->batch;
    const paged_place *p = &self->places[args->layer];
    const float *k = args->k.data, *v = args->v.data;
    for (int64_t i = begin; i < end; i++) {
        int32_t row = args->rows->index != NULL ? args->rows->index[i] : (int32_t)i, at = b->row_seq[row];
        if (at < 0)
            continue;
        const paged_sequence *s = &self->seqs[b->seq[at]];
        int64_t slot = b->n_past[at] + row - b->row_begin[at];
        if (s->heads != NULL) {
            paged_heads_append(self, s, args->layer, row - b->row_begin[at], k + i * p->k_width, v + i * p->v_width);
            continue;
        }
        self->ops->convert(paged_row(self, s, slot, p->k_offset, p->k_row), self->dtype, k + i * p->k_width, SL_F32,
                           p->k_width);
        self->ops->convert(paged_row(self, s, slot, p->v_offset, p->v_row), self->dtype, v + i * p->v_width, SL_F32,
                           p->v_width);
    }
}

static sl_status append(sl_instance *self, const sl_kv_append *args) {
    append_job job = {self, args};
    if (self->device != NULL)
        return paged_device_append(self, args);
    if (args->rows->n < 32)
        append_range(&job, 0, args->rows->n, 0);
    else
        self->threads->parallel_for(self->host, args->rows->n, 8, append_range, &job);
    return SL_OK;
}

static sl_status view(sl_instance *self, const sl_lane *lane, int32_t layer, const sl_rows *rows,
                      const sl_rowset *tokens, const sl_view **out) {
    const sl_batch *b = rows->batch;
    if (self->device != NULL && lane->device != SL_DEVICE_CPU)
        return paged_device_view(self, layer, tokens, out);
    if (self->device != NULL && (b->n_seqs != 1 || tokens != NULL)) /* for policies: rows of heads, no pages */
        return SL_E_UNIMPLEMENTED;
    const paged_place *p = &self->places[layer];
    for (int32_t i = 0; i < b->n_seqs; i++) {
        const paged_sequence *s = &self->seqs[b->seq[i]];
        int64_t n_staged = b->row_begin[i + 1] - b->row_begin[i], first = (int64_t)i * self->max_heads;
        const void **k = NULL, **v = NULL;
        if (self->device == NULL)
            k = self->k_pages + first * self->max_pages, v = self->v_pages + first * self->max_pages;
        self->seq_view_ptrs[i] = &self->seq_views[i];
        if (s->heads != NULL) {
            if (tokens != NULL) /* a token then has another slot in each head */
                return SL_E_UNIMPLEMENTED;
            paged_heads_view(self, s, layer, i, n_staged, b->seq[i]);
            continue;
        }
        for (int64_t j = 0; j < s->n_pages && k != NULL; j++) {
            char *base = self->pool.base[s->pages[j]];
            k[j] = base + p->k_offset;
            v[j] = base + p->v_offset;
        }
        self->segments[first] = (sl_segment){
            .struct_size = SL_SIZE(sl_segment),
            .k_pages = k,
            .v_pages = v,
            .n_committed = b->n_past[i],
            .n_staged = n_staged,
            .page_rows = self->page_rows,
            .k_row_stride = p->k_row,
            .k_head_stride = p->k_head,
            .v_row_stride = p->v_row,
            .v_head_stride = p->v_head,
            .n_heads = p->n_kv_heads,
            .k_dtype = self->dtype,
            .v_dtype = self->dtype,
            .kind = SL_SEGMENT_ROWS,
            .key_state = SL_KEYS_ROTATED,
        };
        self->segment_ptrs[first] = &self->segments[first];
        self->seq_views[i] =
            (sl_seq_view){SL_SIZE(sl_seq_view), &self->segment_ptrs[first], b->n_past[i] + n_staged, 1, b->seq[i]};
    }
    /* slot = token index, and n_committed + row for staged rows: row sets need no translation */
    self->view = (sl_view){SL_SIZE(sl_view), self->seq_view_ptrs, tokens, b->n_seqs, SL_SEGMENT_ROWS, NULL};
    *out = &self->view;
    return SL_OK;
}

/* Accepted rows move down to the front of the staged ones; sources ascend and lie at or behind their destination. */
static void compact(sl_instance *self, paged_sequence *s, int64_t n_past, const int32_t *path, int32_t n_path) {
    for (int32_t i = 0; i < n_path; i++) {
        if (path[i] == i)
            continue;
        for (int32_t l = 0; l < self->model->n_layers; l++) {
            const paged_place *p = &self->places[l];
            memcpy(paged_row(self, s, n_past + i, p->k_offset, p->k_row),
                   paged_row(self, s, n_past + path[i], p->k_offset, p->k_row), (size_t)p->k_row);
            memcpy(paged_row(self, s, n_past + i, p->v_offset, p->v_row),
                   paged_row(self, s, n_past + path[i], p->v_offset, p->v_row), (size_t)p->v_row);
        }
    }
}

static sl_status commit(sl_instance *self, const sl_lane *lane, const sl_commit *c, sl_error *err) {
    (void)lane;
    if (self->device != NULL)
        SL_TRY(paged_device_compact(self, c, err));
    for (int32_t i = 0; i < c->batch->n_seqs; i++) {
        paged_sequence *s = &self->seqs[c->batch->seq[i]];
        int32_t n_path = c->path_begin[i + 1] - c->path_begin[i];
        if (s->heads != NULL)
            paged_heads_commit(self, s, c->path + c->path_begin[i], n_path);
        else if (self->device == NULL)
            compact(self, s, c->batch->n_past[i], c->path + c->path_begin[i], n_path);
        int64_t n = c->batch->n_past[i] + n_path;
        s->n_tokens = n > s->n_tokens ? n : s->n_tokens; /* rows that were overwritten lie below */
    }
    return SL_OK;
}

/* ---- export and import
 * ------------------------------------------------------------------------------------------------------ */

static sl_status copy_rows(sl_instance *self, const sl_kv_copy *copy, sl_error *err) {
    if (copy->layer < 0 || copy->layer >= self->model->n_layers || copy->seq < 0 || copy->seq >= self->limits.max_seqs)
        return sl_fail(err, SL_E_RANGE, "paged: no layer %d or sequence %d", copy->layer, copy->seq);
    paged_sequence *s = &self->seqs[copy->seq];
    const paged_place *p = &self->places[copy->layer];
    int64_t n = copy->end - copy->begin, element = sl_dtype_bits(copy->dtype) / 8;
    int is_import = copy->direction == SL_COPY_IMPORT;
    if (s->heads != NULL)
        return sl_fail(err, SL_E_RANGE,
                       "paged: rows of sequence %d were dropped by a policy; what is left is no range of tokens",
                       copy->seq);
    if (!s->is_open || copy->begin < 0 || n < 0 || copy->begin > s->n_tokens ||
        (!is_import && copy->end > s->n_tokens) || copy->bytes < n * (p->k_width + p->v_width) * element)
        return sl_fail(err, SL_E_RANGE, "paged: rows [%lld, %lld) of sequence %d cannot be copied through %lld bytes",
                       (long long)copy->begin, (long long)copy->end, copy->seq, (long long)copy->bytes);
    if (is_import) {
        SL_TRY(paged_have_free(self, s, paged_cover_cost(self, s, copy->begin, copy->end), err));
        paged_cover(self, s, copy->begin, copy->end);
    }
    char *k = copy->buffer, *v = k + n * p->k_width * element;
    if (self->device != NULL)
        SL_TRY(paged_device_copy_rows(self, s, copy, err));
    for (int64_t i = 0; i < n && self->device == NULL; i++) {
        void *rows[2] = {paged_row(self, s, copy->begin + i, p->k_offset, p->k_row),
                         paged_row(self, s, copy->begin + i, p->v_offset, p->v_row)};
        void *dense[2] = {k + i * p->k_width * element, v + i * p->v_width * element};
        int64_t width[2] = {p->k_width, p->v_width};
        for (int j = 0; j < 2; j++)
            SL_TRY(is_import ? self->ops->convert(rows[j], self->dtype, dense[j], copy->dtype, width[j])
                             : self->ops->convert(dense[j], copy->dtype, rows[j], self->dtype, width[j]));
    }
    if (is_import && copy->end > s->n_tokens)
        s->n_tokens = copy->end;
    return SL_OK;
}

/* ---- the plugin
 * ---------------------------------------------------------------------------------------------------------------- */

static const sl_kv_store store = {
    .struct_size = SL_SIZE(sl_kv_store),
    .layout = layout,
    .quote = quote,
    .open = seq_open,
    .close = seq_close,
    .grow = grow,
    .reserve = reserve,
    .append = append,
    .view = view,
    .commit = commit,
    .truncate = truncate_seq,
    .copy_rows = copy_rows,
    .edit = paged_edit,
    .length = length,
    .rows = paged_rows,
};

/* Everything, in one dtype. */
static sl_status cost_layer(sl_instance *self, sl_cost_layer *io, sl_error *err) {
    const sl_layer_info *l = io->model->layers[io->layer];
    sl_dtype dtype = self->dtype_auto ? io->compute : self->dtype;
    (void)err;
    io->row_bytes = io->write_bytes = l->n_kv_heads * (l->head_dim + l->v_head_dim) * (sl_dtype_bits(dtype) / 8.0);
    return SL_OK;
}

static const sl_cost cost = {.struct_size = SL_SIZE(sl_cost), .layer = cost_layer};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_KV_STORE_ID) == 0 ? (const void *)&store : strcmp(id, SL_COST_ID) == 0 ? &cost : NULL;
}

static const char *const dtypes[] = {"auto", "f32", "f16", "bf16", NULL};
static const sl_param_def page = {SL_SIZE(sl_param_def), "page", "rows of one page", "64", NULL, 1, 4096,
                                  SL_PARAM_INT,          0};
static const sl_param_def dtype = {
    SL_SIZE(sl_param_def), "dtype", "how rows are stored; auto: as engine.compute", "auto", dtypes, 1, 0,
    SL_PARAM_ENUM,         0};
static const sl_param_def *const params[] = {&page, &dtype, NULL};
static const char *const roles[] = {"kvcache.store", NULL};
static const char *const needs[] = {SL_MEM_ID, SL_OPS_ID, SL_THREADS_ID, NULL};
static const char *const wants[] = {NULL};
static const char *const provides[] = {"sl.kv.rows/1", "sl.kv.fork/1",    "sl.kv.truncate/1",  "sl.kv.export/1",
                                       "sl.kv.edit/1", "sl.kv.perhead/1", "sl.kv.overwrite/1", "sl.kv.export.exact/1", NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "paged",
    .roles = roles,
    .version = "0.1.0",
    .summary = "dense cache in pages, shared between sequences and copied on write",
    .paper = "Efficient Memory Management for Large Language Model Serving with PagedAttention, arXiv 2309.06180",
    .vendor = "sluice",
    .license = "Apache-2.0",
    .params = params,
    .needs = needs,
    .wants = wants,
    .provides = provides,
    .devices = SL_ON_CPU | SL_ON_CUDA,
    .create = create,
    .destroy = destroy,
    .activate = activate,
    .deactivate = deactivate,
    .query = query,
};

SL_PACKAGE(&plugin)
