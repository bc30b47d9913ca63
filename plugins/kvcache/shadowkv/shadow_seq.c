/* Sequences: blocks that forks share, exact rows in pages, and the working buffers that grow with them. */
#include "shadow.h"

#include <assert.h>
#include <string.h>

/* ---- working buffers -----------------------------------------------------------------------------------------------
 */

int64_t shadow_region_bytes(const sl_instance *self, int64_t n_slots) {
    int64_t bytes = 0;
    for (int32_t l = 0; l < self->model->n_layers; l++) {
        const shadow_place *p = &self->places[l];
        if (p->is_used)
            bytes +=
                p->K * n_slots * (p->k_chunk + (self->host_values ? p->v_chunk : 0) + (int64_t)sizeof(int32_t)) + 192;
    }
    return bytes;
}

static int64_t slots_of(const sl_instance *self, const shadow_seq *s) {
    int64_t kept = shadow_kept(s), slots = self->budget / self->chunk;
    return slots < kept ? slots : kept;
}

static char *cut(char **from, int64_t bytes) {
    char *p = *from;
    *from += shadow_round(bytes);
    return p;
}

sl_status shadow_region_open(sl_instance *self, shadow_seq *s) {
    int32_t n = (int32_t)slots_of(self, s);
    int64_t bytes = shadow_region_bytes(self, n);
    shadow_region *regions = shadow_take(self, self->model->n_layers * (int64_t)sizeof *regions, SL_MEM_PLUGIN);
    char *memory = shadow_take(self, bytes, SL_MEM_KV);
    if (regions == NULL || memory == NULL) {
        shadow_give(self, regions);
        shadow_give(self, memory);
        s->region_memory = NULL;
        s->regions = NULL;
        return SL_E_NO_MEMORY;
    }
    s->n_slots = n;
    s->region_memory = memory;
    s->region_bytes = bytes;
    s->regions = regions;
    for (int32_t l = 0; l < self->model->n_layers; l++) {
        const shadow_place *p = &self->places[l];
        shadow_region *g = &regions[l];
        if (!p->is_used)
            continue;
        int64_t chunks = (int64_t)p->K * n;
        g->chunk = (int32_t *)(void *)cut(&memory, chunks * (int64_t)sizeof *g->chunk);
        g->k = cut(&memory, chunks * p->k_chunk);
        if (self->host_values)
            g->v = cut(&memory, chunks * p->v_chunk);
        for (int64_t i = 0; i < chunks; i++)
            g->chunk[i] = -1;
    }
    return SL_OK;
}

void shadow_region_close(sl_instance *self, shadow_seq *s) {
    if (s->region_memory == NULL)
        return;
    shadow_give(self, s->region_memory);
    shadow_give(self, s->regions);
    s->region_memory = NULL;
    s->regions = NULL;
    s->region_bytes = 0;
    s->n_slots = 0;
}

/* Grows an array of the wide buffers; the old one stays on failure. */
static int widen(sl_instance *self, void *array, int64_t bytes, uint32_t tag) {
    void *wider = shadow_take(self, bytes, tag);
    if (wider == NULL)
        return 0;
    shadow_give(self, *(void **)array);
    *(void **)array = wider;
    return 1;
}

/* The two arrays are one question: nothing is taken when the second fails. */
static int widen_chunks(sl_instance *self, int64_t chunks) {
    shadow_wide *w = &self->wide;
    int64_t k_bytes = chunks * self->chunk * self->max_D * self->element;
    int64_t v_bytes = self->host_values ? chunks * self->chunk * self->max_Dv * self->element : 0;
    char *k = shadow_take(self, k_bytes, SL_MEM_KV), *v = v_bytes > 0 ? shadow_take(self, v_bytes, SL_MEM_KV) : NULL;
    if (k == NULL || (v_bytes > 0 && v == NULL)) {
        shadow_give(self, k);
        shadow_give(self, v);
        return 0;
    }
    shadow_give(self, w->k);
    shadow_give(self, w->v);
    w->k = k;
    w->v = v;
    w->n_chunks = chunks;
    w->bytes = k_bytes + v_bytes;
    return 1;
}

int64_t shadow_wide_bytes(const sl_instance *self, int64_t n_kept) {
    return n_kept * self->max_K * self->chunk * (self->max_D + (self->host_values ? self->max_Dv : 0)) * self->element;
}

sl_status shadow_wide_cover(sl_instance *self, const shadow_seq *s, int64_t n_tokens, int64_t n_rows) {
    shadow_wide *w = &self->wide;
    int64_t chunks = n_rows > 1 ? shadow_kept(s) * self->max_K : 0, units = n_rows * self->max_K;
    int64_t listed =
        slots_of(self, s) + s->n_blocks * shadow_outliers(self) + shadow_chunks(self, n_tokens - s->n_factored) + 1;
    int64_t n_slots = n_rows > 1 ? units * listed * self->chunk : 0;
    if (chunks > w->n_chunks && !widen_chunks(self, chunks))
        return SL_E_NO_MEMORY;
    if (units * listed > w->n_runs) {
        if (!widen(self, &w->run, units * listed * (int64_t)sizeof *w->run, SL_MEM_PLUGIN))
            return SL_E_NO_MEMORY;
        w->n_runs = units * listed;
    }
    if (n_slots > w->n_slots) {
        if (!widen(self, &w->slot, n_slots * (int64_t)sizeof *w->slot, SL_MEM_PLUGIN))
            return SL_E_NO_MEMORY;
        w->n_slots = n_slots;
    }
    return SL_OK;
}

void shadow_wide_close(sl_instance *self) {
    shadow_wide *w = &self->wide;
    shadow_give(self, w->k);
    shadow_give(self, w->v);
    shadow_give(self, w->run);
    shadow_give(self, w->slot);
    *w = (shadow_wide){0};
}

/* ---- pages ------------------------------------------------------------------------------------------------------- */

static void drop_pages(sl_instance *self, shadow_seq *s, int64_t keep) {
    while (s->n_pages > keep)
        shadow_pool_drop(&self->pool, s->pages[--s->n_pages]);
}

/* Pages for rows up to n_tokens; those that new rows will be written into belong to nobody else. */
static sl_status cover(sl_instance *self, shadow_seq *s, int64_t first, int64_t n_tokens) {
    int64_t before = s->n_pages, end = shadow_chunks(self, n_tokens - s->n_factored);
    for (int64_t i = (first - s->n_factored) / self->chunk; i < s->n_pages && i < end; i++) {
        if (s->pages[i]->refs == 1)
            continue;
        shadow_page *own = shadow_pool_take(&self->pool);
        if (own == NULL)
            return SL_E_NO_MEMORY;
        memcpy(shadow_page_data(own), shadow_page_data(s->pages[i]),
               (size_t)(self->pool.page_bytes - SHADOW_PAGE_HEADER));
        shadow_pool_drop(&self->pool, s->pages[i]);
        s->pages[i] = own;
    }
    while (s->n_pages < end) {
        shadow_page *page = shadow_pool_take(&self->pool);
        if (page == NULL) {
            drop_pages(self, s, before);
            return SL_E_NO_MEMORY;
        }
        s->pages[s->n_pages++] = page;
    }
    return SL_OK;
}

/* ---- life of a sequence -------------------------------------------------------------------------------------------
 */

/* Blocks of a sequence that is cut to n tokens, or -1: it cannot be cut there. */
static int32_t blocks_at(const sl_instance *self, const shadow_seq *s, int64_t n) {
    if (n >= s->n_factored)
        return s->n_blocks;
    for (int32_t i = 0; i < s->n_blocks; i++)
        if (s->blocks[i]->begin == n)
            return i;
    (void)self;
    return -1;
}

sl_status shadow_open(sl_instance *self, int32_t seq, int32_t parent, int64_t upto, sl_error *err) {
    if (seq < 0 || seq >= self->limits.max_seqs || parent >= self->limits.max_seqs)
        return sl_fail(err, SL_E_RANGE, "shadowkv: sequence %d (parent %d) is outside of [0, %lld)", seq, parent,
                       (long long)self->limits.max_seqs);
    shadow_seq *s = &self->seqs[seq];
    const shadow_seq *p = parent >= 0 ? &self->seqs[parent] : NULL;
    if (s->is_open || (p != NULL && (!p->is_open || upto < 0 || upto > p->n_tokens)))
        return sl_fail(err, SL_E_STATE, "shadowkv: sequence %d cannot be opened from %d at %lld tokens", seq, parent,
                       (long long)upto);
    int32_t n_blocks = p != NULL ? blocks_at(self, p, upto) : 0;
    if (n_blocks < 0)
        return sl_fail(
            err, SL_E_RANGE,
            "shadowkv: the first %lld tokens of sequence %d are factored; it can be shared at %lld tokens or "
            "more, not at %lld",
            (long long)p->n_factored, parent, (long long)p->n_factored, (long long)upto);
    s->n_tokens = s->n_factored = s->n_pages = s->n_blocks = 0;
    if (p != NULL) {
        s->n_factored = n_blocks == p->n_blocks ? p->n_factored : upto;
        int64_t rows = upto - s->n_factored, whole = rows / self->chunk, rest = rows % self->chunk;
        shadow_page *own = rest > 0 ? shadow_pool_take(&self->pool) : NULL;
        if (rest > 0 && own == NULL)
            return sl_fail(err, SL_E_NO_MEMORY, "shadowkv: no memory for a page of %lld bytes",
                           (long long)self->pool.page_bytes);
        for (int32_t i = 0; i < n_blocks; i++) {
            s->blocks[s->n_blocks++] = p->blocks[i];
            p->blocks[i]->refs++;
        }
        for (int64_t i = 0; i < whole; i++)
            s->pages[s->n_pages++] = shadow_pool_share(p->pages[i]);
        if (own != NULL) { /* both will write into it */
            memcpy(shadow_page_data(own), shadow_page_data(p->pages[whole]),
                   (size_t)(self->pool.page_bytes - SHADOW_PAGE_HEADER));
            s->pages[s->n_pages++] = own;
        }
        s->n_tokens = upto;
        if (s->last_q != NULL && p->last_q != NULL)
            memcpy(s->last_q, p->last_q, sizeof *s->last_q * (size_t)self->q_width);
    }
    s->is_open = 1;
    return SL_OK;
}

static void drop_blocks(sl_instance *self, shadow_seq *s, int32_t keep) {
    while (s->n_blocks > keep) {
        s->n_factored = s->blocks[--s->n_blocks]->begin;
        shadow_block_drop(self, s->blocks[s->n_blocks]);
    }
}

void shadow_close(sl_instance *self, int32_t seq) {
    if (seq < 0 || seq >= self->limits.max_seqs || !self->seqs[seq].is_open)
        return;
    shadow_seq *s = &self->seqs[seq];
    drop_pages(self, s, 0);
    drop_blocks(self, s, 0);
    shadow_region_close(self, s);
    s->is_open = 0;
    s->n_tokens = 0;
    for (int64_t i = 0; i < self->limits.max_seqs; i++)
        if (self->seqs[i].is_open && self->seqs[i].n_blocks > 0)
            return;
    shadow_wide_close(self);
}

sl_status shadow_grow(sl_instance *self, int32_t seq, int64_t n_tokens, sl_error *err) {
    shadow_seq *s = &self->seqs[seq];
    if (shadow_chunks(self, n_tokens) > self->max_pages)
        return sl_fail(err, SL_E_RANGE, "shadowkv: %lld rows are more than the %lld of the largest context",
                       (long long)n_tokens, (long long)(self->max_pages * self->chunk));
    int64_t before = s->n_pages;
    sl_status status = cover(self, s, s->n_tokens, n_tokens);
    if (status >= 0 && s->n_blocks > 0 && s->region_memory == NULL)
        status = shadow_region_open(self, s);
    if (status >= 0 && s->n_blocks > 0)
        status = shadow_wide_cover(self, s, n_tokens, self->row_block);
    if (status < 0) {
        drop_pages(self, s, before);
        return sl_fail(err, status,
                       "shadowkv: the cache does not fit: sequence %d needs %lld pages of %lld bytes and its working "
                       "buffers, %lld pages are held",
                       seq, (long long)shadow_chunks(self, n_tokens - s->n_factored), (long long)self->pool.page_bytes,
                       (long long)self->pool.n_pages);
    }
    return SL_OK;
}

sl_status shadow_truncate(sl_instance *self, int32_t seq, int64_t n, int64_t *minimum) {
    shadow_seq *s = &self->seqs[seq];
    if (minimum != NULL)
        *minimum = s->n_factored;
    int32_t n_blocks = n < 0 || n > s->n_tokens ? -1 : blocks_at(self, s, n);
    if (n_blocks < 0)
        return SL_E_RANGE;
    if (n_blocks < s->n_blocks) { /* back to where a block began: nothing behind it is left */
        drop_pages(self, s, 0);
        drop_blocks(self, s, n_blocks);
        shadow_region_close(self, s);
    }
    s->n_tokens = n;
    drop_pages(self, s, shadow_chunks(self, n - s->n_factored));
    return SL_OK;
}

sl_status shadow_length(sl_instance *self, int32_t seq, int64_t *n_tokens, int64_t *bytes) {
    if (seq < 0 || seq >= self->limits.max_seqs || !self->seqs[seq].is_open)
        return SL_E_NOT_FOUND;
    const shadow_seq *s = &self->seqs[seq];
    *n_tokens = s->n_tokens;
    *bytes = s->n_pages * self->pool.page_bytes + s->region_bytes;
    for (int32_t i = 0; i < s->n_blocks; i++)
        *bytes += s->blocks[i]->bytes;
    return SL_OK;
}

/* ---- rows of a step ------------------------------------------------------------------------------------------------
 */

sl_status shadow_reserve(sl_instance *self, const sl_batch *batch, sl_error *err) {
    if (batch->n_axes > 1)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "shadowkv: positions of %d axes; keys are rebuilt for one",
                       batch->n_axes);
    for (int32_t i = 0; i < batch->n_seqs; i++) {
        shadow_seq *s = &self->seqs[batch->seq[i]];
        int64_t n = batch->n_past[i] + batch->row_begin[i + 1] - batch->row_begin[i];
        if (!s->is_open || batch->n_past[i] != s->n_tokens || shadow_chunks(self, n) > self->max_pages ||
            (s->n_blocks > 0 && s->region_memory == NULL))
            return sl_fail(err, SL_E_STATE, "shadowkv: sequence %d has no place for rows up to %lld", batch->seq[i],
                           (long long)n);
        sl_status status = cover(self, s, s->n_tokens, n);
        if (status < 0)
            return sl_fail(err, status, "shadowkv: no memory for %lld rows of sequence %d", (long long)n,
                           batch->seq[i]);
    }
    return SL_OK;
}

typedef struct append_job {
    const sl_instance *self;
    const sl_kv_append *args;
} append_job;

/* Rows to their pages: raw keys side by side, rotated keys and values head by head. */
static void append_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    (void)worker;
    const append_job *j = user;
    const sl_instance *self = j->self;
    const sl_kv_append *args = j->args;
    const sl_batch *b = args->rows->batch;
    const shadow_place *p = &self->places[args->layer];
    int64_t width = (int64_t)p->K * p->D, v_width = (int64_t)p->K * p->Dv;
    for (int64_t i = begin; i < end; i++) {
        int32_t row = args->rows->index != NULL ? args->rows->index[i] : (int32_t)i, at = b->row_seq[row];
        if (at < 0)
            continue;
        const shadow_seq *s = &self->seqs[b->seq[at]];
        int64_t slot = b->n_past[at] + row - b->row_begin[at] - s->n_factored, r = slot % self->chunk;
        char *page = shadow_page_data(s->pages[slot / self->chunk]);
        const float *k = (const float *)args->k.data + i * width, *v = (const float *)args->v.data + i * v_width;
        ((float *)(void *)page)[r] = b->position[row];
        self->ops->convert(page + p->raw + r * width * self->element, self->dtype,
                           (const float *)args->k_raw.data + i * width, SL_F32, width);
        for (int64_t h = 0; h < p->K; h++) {
            self->ops->convert(page + p->k + h * p->k_chunk + r * p->D * self->element, self->dtype, k + h * p->D,
                               SL_F32, p->D);
            self->ops->convert(page + p->v + h * p->v_chunk + r * p->Dv * self->element, self->dtype, v + h * p->Dv,
                               SL_F32, p->Dv);
        }
    }
}

/* The newest prompt row's query of each sequence, for warming the region. */
static void keep_queries(const sl_instance *self, const sl_kv_append *args) {
    const sl_batch *b = args->rows->batch;
    int64_t at_q = 0, width = (int64_t)self->places[args->layer].H * self->places[args->layer].D;
    for (int32_t l = 0; l < args->layer; l++)
        at_q += self->places[l].is_used ? (int64_t)self->places[l].H * self->places[l].D : 0;
    for (int32_t i = 0; i < args->rows->n; i++) {
        int32_t row = args->rows->index != NULL ? args->rows->index[i] : i, at = b->row_seq[row];
        if (at >= 0 && b->stage[at] == SL_STAGE_PREFILL)
            memcpy(self->seqs[b->seq[at]].last_q + at_q, (const float *)args->q.data + i * width,
                   sizeof(float) * (size_t)width);
    }
}

sl_status shadow_append(sl_instance *self, const sl_kv_append *args) {
    if (args->overwrite)
        return SL_E_UNIMPLEMENTED;
    if (args->k_raw.data == NULL)
        return SL_E_INVALID;
    append_job job = {self, args};
    if (args->rows->n < 32)
        append_range(&job, 0, args->rows->n, 0);
    else
        self->threads->parallel_for(self->host, args->rows->n, 8, append_range, &job);
    if (self->warm && args->q.data != NULL)
        keep_queries(self, args);
    return SL_OK;
}

static void move_row(const sl_instance *self, const shadow_seq *s, int64_t to, int64_t from) {
    int64_t c = self->chunk, element = self->element;
    char *dst = shadow_page_data(s->pages[to / c]), *src = shadow_page_data(s->pages[from / c]);
    ((float *)(void *)dst)[to % c] = ((const float *)(void *)src)[from % c];
    for (int32_t l = 0; l < self->model->n_layers; l++) {
        const shadow_place *p = &self->places[l];
        if (!p->is_used)
            continue;
        int64_t raw = (int64_t)p->K * p->D * element, k = p->D * element, v = p->Dv * element;
        memcpy(dst + p->raw + to % c * raw, src + p->raw + from % c * raw, (size_t)raw);
        for (int64_t h = 0; h < p->K; h++) {
            memcpy(dst + p->k + h * p->k_chunk + to % c * k, src + p->k + h * p->k_chunk + from % c * k, (size_t)k);
            memcpy(dst + p->v + h * p->v_chunk + to % c * v, src + p->v + h * p->v_chunk + from % c * v, (size_t)v);
        }
    }
}

sl_status shadow_commit(sl_instance *self, const sl_lane *lane, const sl_commit *commit, sl_error *err) {
    (void)lane, (void)err;
    for (int32_t i = 0; i < commit->batch->n_seqs; i++) {
        shadow_seq *s = &self->seqs[commit->batch->seq[i]];
        const int32_t *path = commit->path + commit->path_begin[i];
        int32_t n_path = commit->path_begin[i + 1] - commit->path_begin[i];
        int64_t first = commit->batch->n_past[i] - s->n_factored;
        for (int32_t r = 0; r < n_path; r++)
            if (path[r] != r)
                move_row(self, s, first + r, first + path[r]);
        s->n_tokens = commit->batch->n_past[i] + n_path;
    }
    return SL_OK;
}
