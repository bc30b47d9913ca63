/* See duo_device.h: sequences and steps of the cache on a device, and its attention. */
#include "duo_device_impl.h"
#include "sl_lane_rows.h"

/* ---- sequences --------------------------------------------------------------------------------------------------- */

static sl_status device_seq_open(sl_instance *self, int32_t seq, int32_t parent, int64_t upto, sl_error *err) {
    if (seq < 0 || seq >= self->limits.max_seqs || parent >= self->limits.max_seqs)
        return sl_fail(err, SL_E_RANGE, "duoattention: sequence %d (parent %d) is outside of [0, %lld)", seq, parent,
                       (long long)self->limits.max_seqs);
    duo_device *d = self->device;
    duo_device_sequence *s = &d->seqs[seq];
    const duo_device_sequence *p = parent >= 0 ? &d->seqs[parent] : NULL;
    if (s->is_open || (p != NULL && (!p->is_open || upto < 0 || upto > p->n_tokens)))
        return sl_fail(err, SL_E_STATE, "duoattention: sequence %d cannot be opened from %d at %lld tokens", seq,
                       parent, (long long)upto);
    if (p != NULL && !duo_holds(self, p, upto))
        return sl_fail(
            err, SL_E_RANGE,
            "duoattention: the first %lld of %lld tokens cannot be shared: streaming heads have dropped rows "
            "that they see (possible: up to %lld, and from %lld on; see slack)",
            (long long)upto, (long long)p->n_tokens, (long long)self->sink, (long long)duo_shortest(self, p));
    SL_TRY(duo_make_pools(self, err));
    s->is_open = 1;
    s->n_tokens = s->n_wanted = p != NULL ? upto : 0;
    for (int c = 0; c < CLASSES; c++) {
        duo_held *h = &s->of[c];
        h->low = h->end = 0;
        if (p == NULL || d->page_bytes[c] == 0)
            continue;
        h->end = duo_min(p->of[c].end, duo_pages_of(self, upto));
        h->low = duo_max(p->of[c].low, duo_first_kept(self, c, upto));
        h->low = h->low < h->end ? h->low : 0;
        for (int64_t i = 0; i < h->end; i++)
            if (duo_is_held(self, h, i)) {
                h->pages[i] = p->of[c].pages[i];
                sl_blocks_share(&d->pool[c], h->pages[i]);
            }
        duo_touch(self, seq, c, 0, h->end);
    }
    return SL_OK;
}

static void device_seq_close(sl_instance *self, int32_t seq) {
    duo_device_sequence *s = duo_find(self, seq);
    if (s == NULL)
        return;
    for (int c = 0; c < CLASSES; c++) {
        duo_drop(self, &s->of[c], c, 0, s->of[c].end);
        s->of[c].low = s->of[c].end = 0;
    }
    s->n_tokens = s->n_wanted = 0;
    s->is_open = 0;
}

static sl_status device_grow(sl_instance *self, int32_t seq, int64_t n_tokens, sl_error *err) {
    duo_device_sequence *s = duo_find(self, seq);
    if (s == NULL)
        return sl_fail(err, SL_E_STATE, "duoattention: sequence %d is not open", seq);
    if (duo_pages_of(self, n_tokens) > self->max_pages)
        return sl_fail(err, SL_E_RANGE, "duoattention: %lld rows are more than the %lld of the largest context",
                       (long long)n_tokens, (long long)(self->max_pages * self->page_rows));
    int64_t before = s->n_wanted;
    s->n_wanted = duo_max(before, n_tokens);
    sl_status status = duo_have_free(self, s, duo_promised(self, s), err);
    if (status < 0)
        s->n_wanted = before;
    return status;
}

static sl_status device_truncate_seq(sl_instance *self, int32_t seq, int64_t n, int64_t *minimum) {
    duo_device_sequence *s = duo_find(self, seq);
    if (s == NULL)
        return SL_E_NOT_FOUND;
    if (minimum != NULL)
        *minimum = duo_shortest(self, s);
    if (n < 0 || n > s->n_tokens || !duo_holds(self, s, n))
        return SL_E_RANGE;
    duo_trim(self, s, n, 0);
    s->n_tokens = n;
    return SL_OK;
}

static sl_status device_length(sl_instance *self, int32_t seq, int64_t *n_tokens, int64_t *bytes) {
    const duo_device_sequence *s = duo_find(self, seq);
    if (s == NULL)
        return SL_E_NOT_FOUND;
    *n_tokens = s->n_tokens;
    *bytes = 0;
    for (int c = 0; c < CLASSES; c++)
        *bytes += duo_held_count(self, &s->of[c]) * self->device->page_bytes[c];
    return SL_OK;
}

static sl_status device_rows_of(sl_instance *self, int32_t layer, int32_t seq, int64_t *n_rows) {
    const duo_device_sequence *s = duo_find(self, seq);
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
        io->bytes += io->n_seqs * duo_pages_at(self, c, io->n_tokens) * d->page_bytes[c];
    io->bytes_peak = io->bytes; /* and, shared by all, the pages of a step's chunks */
    if (d->page_bytes[STREAMING] > 0 && d->quota < duo_pages_of(self, io->n_tokens))
        io->bytes_peak += (2 * io->n_seqs + duo_pages_of(self, self->limits.max_rows)) * d->page_bytes[STREAMING];
    io->bytes_host = 0;
    io->bytes_next = d->page_bytes[FULL] / self->page_rows +
                     (duo_pages_of(self, io->n_tokens) < d->quota ? d->page_bytes[STREAMING] / self->page_rows : 0);
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
            const duo_held *h = duo_held_by(self, b->seq[i], c);
            int64_t n = duo_min(dirty[1], h->end) - dirty[0];
            if (n > 0)
                SL_TRY(sl_lane_words_send(&d->words, d->tables + seq * self->max_pages + dirty[0], h->pages + dirty[0],
                                          n, err));
            dirty[0] = dirty[1] = 0;
        }
    return SL_OK;
}

static sl_status check_room(sl_instance *self, const sl_batch *b, int32_t i, sl_error *err) {
    duo_device_sequence *s = duo_find(self, b->seq[i]);
    duo_device *d = self->device;
    int64_t n = b->n_past[i], end = n + b->row_begin[i + 1] - b->row_begin[i];
    if (s == NULL || n != s->n_tokens || duo_pages_of(self, end) > self->max_pages)
        return sl_fail(err, SL_E_STATE, "duoattention: sequence %d has no place for rows up to %lld", b->seq[i],
                       (long long)end);
    duo_trim(self, s, n, 0); /* of a step that failed */
    if (d->page_bytes[FULL] > 0)
        SL_TRY(duo_have_free(self, s, duo_cover_cost(self, &s->of[FULL], FULL, n, end), err));
    if (d->page_bytes[STREAMING] > 0 &&
        duo_cover_cost(self, &s->of[STREAMING], STREAMING, n, end) > d->pool[STREAMING].n_free)
        return sl_fail(err, SL_E_NO_MEMORY, "duoattention: no pages for %lld rows of streaming heads of sequence %d",
                       (long long)(end - n), b->seq[i]);
    return SL_OK;
}

static sl_status device_reserve(sl_instance *self, const sl_batch *b, sl_error *err) {
    for (int32_t i = 0; i < b->n_seqs; i++) {
        sl_status status = check_room(self, b, i, err);
        if (status < 0) {
            while (i-- > 0)
                duo_trim(self, &self->device->seqs[b->seq[i]], b->n_past[i], 0);
            return status;
        }
        for (int c = 0; c < CLASSES; c++)
            if (self->device->page_bytes[c] > 0)
                duo_cover(self, b->seq[i], c, b->n_past[i], b->n_past[i] + b->row_begin[i + 1] - b->row_begin[i]);
    }
    return flush(self, b, err);
}

static sl_status device_append(sl_instance *self, const sl_kv_append *args) {
    return args->overwrite
               ? SL_E_UNIMPLEMENTED
               : sl_lane_append(self->host, self->ops, self->model, args, &self->device->views[args->layer]);
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
        duo_device_sequence *s = &d->seqs[c->batch->seq[i]];
        s->n_tokens += c->path_begin[i + 1] - c->path_begin[i];
        duo_trim(self, s, s->n_tokens, s->n_tokens);
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
