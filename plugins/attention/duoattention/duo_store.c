/* The cache: retrieval heads in pages that sequences share, streaming heads in a ring of each sequence.
 *
 * New rows are staged behind the committed ones in both, and commit closes the gaps that rejected draft rows leave. A
 * prompt's chunk may be longer than the ring has room for (its rows see `recent` rows before the chunk and, in the
 * chunk, all before them): such rows go through a buffer for one layer, and settle moves those that stay into the ring
 * once the layer has attended to them. */
#include "duoattention.h"

#include <string.h>

static int64_t pages_for(const sl_instance *self, int64_t rows) {
    return self->full_row_bytes > 0 ? (rows + self->page_rows - 1) / self->page_rows : 0;
}

static duo_sequence *find(const sl_instance *self, int32_t seq) {
    return seq >= 0 && seq < self->limits.max_seqs && self->seqs[seq].is_open ? &self->seqs[seq] : NULL;
}

int duo_is_apart(const sl_instance *self, const sl_batch *b, int32_t at) {
    const duo_sequence *s = &self->seqs[b->seq[at]];
    return !duo_ring_can_stage(&self->ring, &s->ring, b->n_past[at], b->row_begin[at + 1] - b->row_begin[at]);
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

typedef struct kv_row {
    char *k, *v;
} kv_row;

static kv_row full_row(const sl_instance *self, const duo_layer *l, const duo_sequence *s, int64_t slot) {
    char *page = s->pages[slot / self->page_rows]->data;
    return (kv_row){page + l->full_k_offset + slot % self->page_rows * l->full_k_row,
                    page + l->full_v_offset + slot % self->page_rows * l->full_v_row};
}

static kv_row ring_row(const sl_instance *self, const duo_layer *l, const duo_sequence *s, int64_t token) {
    int64_t place = duo_ring_place(&self->ring, &s->ring, token);
    char *k = s->ring.base + s->ring.rows * l->ring_offset, *v = k + s->ring.rows * l->ring_k_row;
    return (kv_row){k + place * l->ring_k_row, v + place * l->ring_v_row};
}

static kv_row chunk_row(const sl_instance *self, const duo_layer *l, int64_t batch_row) {
    return (kv_row){self->chunk_k + batch_row * l->ring_k_row, self->chunk_v + batch_row * l->ring_v_row};
}

static void copy_row(const duo_layer *l, kv_row to, kv_row from) {
    memcpy(to.k, from.k, (size_t)l->ring_k_row);
    memcpy(to.v, from.v, (size_t)l->ring_v_row);
}

/* ---- sequences --------------------------------------------------------------------------------------------------- */

static void drop_pages(sl_instance *self, duo_sequence *s, int64_t keep) {
    while (s->n_pages > keep)
        duo_page_drop(self->host, self->mem, s->pages[--s->n_pages]);
}

void duo_forget(sl_instance *self, duo_sequence *s) {
    drop_pages(self, s, 0);
    duo_ring_free(self->host, self->mem, &s->ring);
    s->n_tokens = 0;
    s->is_open = 0;
}

/* Shares the full pages of the parent, copies the last one and the ring. */
static sl_status inherit(sl_instance *self, duo_sequence *s, const duo_sequence *p, int64_t n) {
    SL_TRY(duo_ring_make(&self->ring, self->host, self->mem, n, &s->ring));
    duo_ring_copy(&self->ring, self->ring_spans, 2 * self->model->n_layers, &p->ring, &s->ring, n);
    int64_t n_shared = self->full_row_bytes > 0 ? n / self->page_rows : 0;
    for (; s->n_pages < n_shared; s->n_pages++) {
        s->pages[s->n_pages] = p->pages[s->n_pages];
        s->pages[s->n_pages]->refs++;
    }
    if (s->n_pages < pages_for(self, n)) {
        duo_page *own = duo_page_make(self->host, self->mem, self->page_bytes);
        if (own == NULL)
            return SL_E_NO_MEMORY;
        memcpy(own->data, p->pages[s->n_pages]->data, (size_t)self->page_bytes);
        s->pages[s->n_pages++] = own;
    }
    s->n_tokens = n;
    return SL_OK;
}

static sl_status seq_open(sl_instance *self, int32_t seq, int32_t parent, int64_t upto, sl_error *err) {
    if (seq < 0 || seq >= self->limits.max_seqs || parent >= self->limits.max_seqs)
        return sl_fail(err, SL_E_RANGE, "duoattention: sequence %d (parent %d) is outside of [0, %lld)", seq, parent,
                       (long long)self->limits.max_seqs);
    duo_sequence *s = &self->seqs[seq];
    const duo_sequence *p = parent >= 0 ? &self->seqs[parent] : NULL;
    if (s->is_open || (p != NULL && (!p->is_open || upto < 0 || upto > p->n_tokens)))
        return sl_fail(err, SL_E_STATE, "duoattention: sequence %d cannot be opened from %d at %lld tokens", seq,
                       parent, (long long)upto);
    if (p != NULL && !duo_ring_holds(&self->ring, &p->ring, upto))
        return sl_fail(
            err, SL_E_RANGE,
            "duoattention: the first %lld of %lld tokens cannot be shared: streaming heads have dropped rows "
            "that they see (possible: up to %lld, and from %lld on; see slack)",
            (long long)upto, (long long)p->n_tokens, (long long)self->ring.sink,
            (long long)duo_ring_minimum(&self->ring, &p->ring));
    s->is_open = 1;
    sl_status status =
        p != NULL ? inherit(self, s, p, upto) : duo_ring_make(&self->ring, self->host, self->mem, 0, &s->ring);
    if (status < 0) {
        duo_forget(self, s);
        return sl_fail(err, status, "duoattention: no memory for a fork of %lld tokens", (long long)upto);
    }
    return SL_OK;
}

static void seq_close(sl_instance *self, int32_t seq) {
    duo_sequence *s = find(self, seq);
    if (s != NULL)
        duo_forget(self, s);
}

static sl_status grow(sl_instance *self, int32_t seq, int64_t n_tokens, sl_error *err) {
    duo_sequence *s = find(self, seq);
    if (s == NULL)
        return sl_fail(err, SL_E_STATE, "duoattention: sequence %d is not open", seq);
    int64_t n_pages = pages_for(self, n_tokens), before = s->n_pages;
    int64_t n_rows = self->ring.row_bytes > 0 ? duo_ring_rows(&self->ring, n_tokens) : 0;
    if (n_pages > self->max_pages)
        return sl_fail(err, SL_E_RANGE, "duoattention: %lld rows are more than the %lld of the largest context",
                       (long long)n_tokens, (long long)(self->max_pages * self->page_rows));
    sl_status status = SL_OK;
    while (status >= 0 && s->n_pages < n_pages) {
        duo_page *page = duo_page_make(self->host, self->mem, self->page_bytes);
        status = page != NULL ? SL_OK : SL_E_NO_MEMORY;
        if (page != NULL)
            s->pages[s->n_pages++] = page;
    }
    duo_ring wider;
    if (status >= 0 && n_rows > s->ring.rows &&
        (status = duo_ring_make(&self->ring, self->host, self->mem, n_tokens, &wider)) >= 0) {
        duo_ring_copy(&self->ring, self->ring_spans, 2 * self->model->n_layers, &s->ring, &wider, s->n_tokens);
        duo_ring_free(self->host, self->mem, &s->ring);
        s->ring = wider;
    }
    if (status >= 0)
        return SL_OK;
    drop_pages(self, s, before);
    return sl_fail(err, status,
                   "duoattention: the cache does not fit: %lld pages of %lld bytes and %lld streaming rows of %lld "
                   "bytes are needed",
                   (long long)n_pages, (long long)duo_page_memory(self->page_bytes), (long long)n_rows,
                   (long long)self->ring.row_bytes);
}

/* Pages from that of `slot` on become the sequence's own. Only the first of them holds rows that stay. */
static sl_status own_pages(sl_instance *self, duo_sequence *s, int64_t slot) {
    for (int64_t i = slot / self->page_rows; i < s->n_pages; i++) {
        duo_page *old = s->pages[i];
        if (old->refs == 1)
            continue;
        duo_page *own = duo_page_make(self->host, self->mem, self->page_bytes);
        if (own == NULL)
            return SL_E_NO_MEMORY;
        if (i == slot / self->page_rows)
            memcpy(own->data, old->data, (size_t)self->page_bytes);
        duo_page_drop(self->host, self->mem, old);
        s->pages[i] = own;
    }
    return SL_OK;
}

static sl_status truncate_seq(sl_instance *self, int32_t seq, int64_t n, int64_t *minimum) {
    duo_sequence *s = find(self, seq);
    if (s == NULL)
        return SL_E_NOT_FOUND;
    if (minimum != NULL)
        *minimum = duo_ring_minimum(&self->ring, &s->ring);
    if (n < 0 || n > s->n_tokens || !duo_ring_holds(&self->ring, &s->ring, n))
        return SL_E_RANGE;
    SL_TRY(own_pages(self, s, n));
    duo_ring_cut(&self->ring, &s->ring, n);
    s->n_tokens = n;
    return SL_OK;
}

static int64_t bytes_of(const sl_instance *self, int64_t n_pages, int64_t n_rows) {
    return n_pages * duo_page_memory(self->page_bytes) + n_rows * self->ring.row_bytes;
}

static sl_status length(sl_instance *self, int32_t seq, int64_t *n_tokens, int64_t *bytes) {
    const duo_sequence *s = find(self, seq);
    if (s == NULL)
        return SL_E_NOT_FOUND;
    *n_tokens = s->n_tokens;
    *bytes = bytes_of(self, s->n_pages, s->ring.rows);
    return SL_OK;
}

static sl_status rows_of(sl_instance *self, int32_t layer, int32_t seq, int64_t *n_rows) {
    const duo_sequence *s = find(self, seq);
    if (s == NULL || layer < 0 || layer >= self->model->n_layers)
        return SL_E_NOT_FOUND;
    const duo_layer *l = &self->layers[layer];
    for (int32_t h = 0; h < l->n_heads; h++)
        n_rows[h] = l->streams[h] ? duo_min(s->n_tokens, self->ring.sink + self->ring.recent) : s->n_tokens;
    return SL_OK;
}

static sl_status quote(sl_instance *self, sl_kv_quote *io) {
    int64_t n = io->n_tokens;
    io->bytes = io->bytes_peak = io->n_seqs * bytes_of(self, pages_for(self, n), duo_ring_rows(&self->ring, n));
    io->bytes_host = 0;
    io->bytes_next = self->full_row_bytes + (n < duo_ring_full(&self->ring) ? self->ring.row_bytes : 0);
    return SL_OK;
}

static sl_status layout(sl_instance *self, int32_t layer, sl_kv_layout *out) {
    (void)layer;
    out->kinds = SL_SEGMENT_ROWS;
    out->flags = SL_KV_PER_HEAD;
    out->key_state = SL_KEYS_ROTATED;
    out->dtype = self->dtype;
    return SL_OK;
}

/* ---- a step ------------------------------------------------------------------------------------------------------ */

static sl_status reserve(sl_instance *self, const sl_batch *b, sl_error *err) {
    for (int32_t i = 0; i < b->n_seqs; i++) {
        const duo_sequence *s = find(self, b->seq[i]);
        int64_t n = b->n_past[i], end = n + b->row_begin[i + 1] - b->row_begin[i];
        if (s == NULL || n != s->n_tokens || pages_for(self, end) > s->n_pages ||
            (self->ring.row_bytes > 0 && duo_ring_rows(&self->ring, end) > s->ring.rows))
            return sl_fail(err, SL_E_STATE, "duoattention: sequence %d has no place for rows up to %lld", b->seq[i],
                           (long long)end);
        if (!duo_ring_holds(&self->ring, &s->ring, n))
            return sl_fail(
                err, SL_E_STATE,
                "duoattention: sequence %d lost rows of its streaming heads in a step that failed; cut it to "
                "%lld tokens or less",
                b->seq[i], (long long)self->ring.sink);
        if (b->stage[i] != SL_STAGE_PREFILL && duo_is_apart(self, b, i))
            return sl_fail(err, SL_E_STATE,
                           "duoattention: %lld rows of sequence %d are more than engine and slack allow",
                           (long long)(end - n), b->seq[i]);
    }
    for (int32_t i = 0; i < b->n_seqs; i++)
        if (!duo_is_apart(self, b, i))
            duo_ring_written(&self->ring, &self->seqs[b->seq[i]].ring,
                             b->n_past[i] + b->row_begin[i + 1] - b->row_begin[i]);
    return SL_OK;
}

typedef struct append_job {
    sl_instance *self;
    const sl_kv_append *args;
} append_job;

static void append_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    (void)worker;
    const append_job *job = user;
    const sl_instance *self = job->self;
    const sl_kv_append *a = job->args;
    const sl_batch *b = a->rows->batch;
    const duo_layer *l = &self->layers[a->layer];
    for (int64_t i = begin; i < end; i++) {
        int32_t r = a->rows->index != NULL ? a->rows->index[i] : (int32_t)i, at = b->row_seq[r];
        if (at < 0)
            continue;
        const duo_sequence *s = &self->seqs[b->seq[at]];
        int64_t token = b->n_past[at] + r - b->row_begin[at]; /* in a tree: the node's place, not its index */
        kv_row full = {0}, ring = {0};
        if (l->n_full > 0)
            full = full_row(self, l, s, token);
        if (l->n_streaming > 0)
            ring = duo_is_apart(self, b, at) ? chunk_row(self, l, r) : ring_row(self, l, s, token);
        const float *k = (const float *)a->k.data + i * l->n_heads * l->d_k,
                    *v = (const float *)a->v.data + i * l->n_heads * l->d_v;
        for (int32_t g = 0; g < l->n_runs; g++) {
            const duo_run *run = &l->runs[g];
            kv_row to = run->is_streaming ? ring : full;
            self->ops->convert(to.k + run->rank * l->k_head, self->dtype, k + run->head_begin * l->d_k, SL_F32,
                               run->n_heads * l->d_k);
            self->ops->convert(to.v + run->rank * l->v_head, self->dtype, v + run->head_begin * l->d_v, SL_F32,
                               run->n_heads * l->d_v);
        }
    }
}

static sl_status append(sl_instance *self, const sl_kv_append *args) {
    append_job job = {self, args};
    if (args->overwrite)
        return SL_E_UNIMPLEMENTED;
    if (args->rows->n < 32)
        append_range(&job, 0, args->rows->n, 0);
    else
        self->threads->parallel_for(self->host, args->rows->n, 8, append_range, &job);
    return SL_OK;
}

/* A sequence's last rows have been attended to in this layer: those of its chunk that stay replace what they pushed
 * out. */
static sl_status settle(sl_instance *self, const sl_kv_side *side) {
    const sl_batch *b = side->rows->batch;
    const duo_layer *l = &self->layers[side->layer];
    if (l->n_streaming == 0)
        return SL_OK;
    for (int64_t i = 0; i < side->rows->n; i++) {
        int32_t r = side->rows->index != NULL ? side->rows->index[i] : (int32_t)i, at = b->row_seq[r];
        if (at < 0 || r != b->row_begin[at + 1] - 1 || !duo_is_apart(self, b, at))
            continue;
        duo_sequence *s = &self->seqs[b->seq[at]];
        int64_t n = b->n_past[at], end = n + b->row_begin[at + 1] - b->row_begin[at];
        duo_ring_written(&self->ring, &s->ring, end);
        for (int64_t t = n; t < end; t++)
            if (t < self->ring.sink || t >= s->ring.oldest)
                copy_row(l, ring_row(self, l, s, t), chunk_row(self, l, b->row_begin[at] + t - n));
    }
    return SL_OK;
}

/* Accepted rows move down to the front of the staged ones; sources ascend and lie at or behind their destination. */
static void compact(sl_instance *self, duo_sequence *s, const int32_t *path, int32_t n_path) {
    for (int32_t i = 0; i < n_path; i++) {
        if (path[i] == i)
            continue;
        int64_t to = s->n_tokens + i, from = s->n_tokens + path[i];
        for (int32_t k = 0; k < self->model->n_layers; k++) {
            const duo_layer *l = &self->layers[k];
            if (l->n_full > 0) {
                kv_row a = full_row(self, l, s, to), b = full_row(self, l, s, from);
                memcpy(a.k, b.k, (size_t)l->full_k_row);
                memcpy(a.v, b.v, (size_t)l->full_v_row);
            }
            if (l->n_streaming > 0)
                copy_row(l, ring_row(self, l, s, to), ring_row(self, l, s, from));
        }
    }
}

static sl_status commit(sl_instance *self, const sl_lane *lane, const sl_commit *c, sl_error *err) {
    (void)lane;
    for (int32_t i = 0; i < c->batch->n_seqs; i++) {
        duo_sequence *s = &self->seqs[c->batch->seq[i]];
        const int32_t *path = c->path + c->path_begin[i];
        int32_t n_path = c->path_begin[i + 1] - c->path_begin[i];
        if (duo_is_apart(self, c->batch, i)) { /* settled already */
            for (int32_t k = 0; k < n_path; k++)
                if (path[k] != k)
                    return sl_fail(err, SL_E_INVALID, "duoattention: rows of a prompt's chunk were kept out of order");
            if (!duo_ring_holds(&self->ring, &s->ring, s->n_tokens + n_path))
                return sl_fail(
                    err, SL_E_STATE,
                    "duoattention: %d of %d rows of a prompt's chunk are kept; streaming heads have rows for "
                    "at most the last %lld to go",
                    n_path, c->batch->row_begin[i + 1] - c->batch->row_begin[i], (long long)self->ring.spare);
        } else
            compact(self, s, path, n_path);
        s->n_tokens += n_path;
    }
    return SL_OK;
}

const sl_kv_store duo_store = {
    .struct_size = SL_SIZE(sl_kv_store),
    .layout = layout,
    .quote = quote,
    .open = seq_open,
    .close = seq_close,
    .grow = grow,
    .reserve = reserve,
    .append = append,
    .view = duo_view,
    .settle = settle,
    .commit = commit,
    .truncate = truncate_seq,
    .length = length,
    .rows = rows_of,
};
