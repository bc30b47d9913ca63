/* What attention sees of the cache: a segment for each run of heads of one class.
 *
 * Slots of a retrieval segment are token indices. A streaming segment has a page a row, listed in token order: the
 * sinks, the `recent` rows before the step, the step's rows - wherever in the ring, or in the chunk's buffer, they
 * stand. */
#include "duoattention.h"

/* Rows that a streaming segment lists of a sequence of n tokens: [0, sinks) and [first, n). */
typedef struct listed {
    int64_t sinks, first, n;
} listed;

static listed list_of(const sl_instance *self, int64_t n) {
    return (listed){duo_min(n, self->ring.sink), duo_min(n, duo_first_recent(self, n)), n};
}

static int64_t listed_rows(const listed *k) { return k->sinks + k->n - k->first; }

static void list_pages(const duo_layer *l, const duo_run *run, const duo_sequence *s, const void **k, const void **v) {
    for (int64_t i = 0; i < s->n_pages; i++) {
        k[i] = s->pages[i]->data + l->full_k_offset + run->rank * l->k_head;
        v[i] = s->pages[i]->data + l->full_v_offset + run->rank * l->v_head;
    }
}

static void list_rows(const sl_instance *self, const duo_layer *l, const duo_run *run, const sl_batch *b, int32_t at,
                      const listed *had, const void **k, const void **v) {
    const duo_sequence *s = &self->seqs[b->seq[at]];
    const char *ring_k = s->ring.base + s->ring.rows * l->ring_offset + run->rank * l->k_head,
               *ring_v = s->ring.base + s->ring.rows * (l->ring_offset + l->ring_k_row) + run->rank * l->v_head;
    int apart = duo_is_apart(self, b, at);
    int64_t n = 0, end = had->n + b->row_begin[at + 1] - b->row_begin[at];
    for (int64_t t = 0; t < end; t++) {
        t = t == had->sinks ? had->first : t;
        if (t >= end)
            break;
        if (t >= had->n && apart) {
            int64_t r = b->row_begin[at] + t - had->n;
            k[n] = self->chunk_k + r * l->ring_k_row + run->rank * l->k_head;
            v[n++] = self->chunk_v + r * l->ring_v_row + run->rank * l->v_head;
            continue;
        }
        int64_t place = duo_ring_place(&self->ring, &s->ring, t);
        k[n] = ring_k + place * l->ring_k_row;
        v[n++] = ring_v + place * l->ring_v_row;
    }
}

/* Token indices of the rows listed; NULL where they are 0, 1, 2 ... */
static const int64_t *list_tokens(const sl_instance *self, int32_t at, const listed *had) {
    int64_t *out = self->token_index + at * (self->ring.sink + self->ring.recent), n = 0;
    if (had->sinks == had->first)
        return NULL;
    for (int64_t t = 0; t < had->sinks; t++)
        out[n++] = t;
    for (int64_t t = had->first; t < had->n; t++)
        out[n++] = t;
    return out;
}

sl_status duo_view(sl_instance *self, const sl_lane *lane, int32_t layer, const sl_rows *rows, const sl_rowset *tokens,
                   const sl_view **out) {
    (void)lane;
    const sl_batch *b = rows->batch;
    const duo_layer *l = &self->layers[layer];
    if (tokens != NULL) /* a token has another slot in each class, or none */
        return SL_E_UNIMPLEMENTED;
    int64_t per_run = self->limits.max_seqs * (self->ring.sink + self->ring.recent) + self->limits.max_rows, used = 0;
    for (int32_t i = 0; i < b->n_seqs; i++) {
        const duo_sequence *s = &self->seqs[b->seq[i]];
        int64_t n_new = b->row_begin[i + 1] - b->row_begin[i], first = (int64_t)i * self->max_runs;
        listed had = list_of(self, b->n_past[i]);
        const int64_t *token_index = l->n_streaming > 0 ? list_tokens(self, i, &had) : NULL;
        for (int32_t g = 0; g < l->n_runs; g++) {
            const duo_run *run = &l->runs[g];
            sl_segment *e = &self->segments[first + g];
            *e = (sl_segment){.struct_size = SL_SIZE(sl_segment),
                              .n_staged = n_new,
                              .head_begin = run->head_begin,
                              .n_heads = run->n_heads,
                              .k_head_stride = l->k_head,
                              .v_head_stride = l->v_head,
                              .k_dtype = self->dtype,
                              .v_dtype = self->dtype,
                              .kind = SL_SEGMENT_ROWS,
                              .key_state = SL_KEYS_ROTATED};
            self->segment_ptrs[first + g] = e;
            if (run->is_streaming) {
                const void **k = self->k_rows + g * per_run + used, **v = self->v_rows + g * per_run + used;
                list_rows(self, l, run, b, i, &had, k, v);
                e->k_pages = k;
                e->v_pages = v;
                e->token_index = token_index;
                e->n_committed = listed_rows(&had);
                e->page_rows = 1;
                e->k_row_stride = l->ring_k_row;
                e->v_row_stride = l->ring_v_row;
                continue;
            }
            const void **k = self->k_pages + (first + g) * self->max_pages,
                       **v = self->v_pages + (first + g) * self->max_pages;
            list_pages(l, run, s, k, v);
            e->k_pages = k;
            e->v_pages = v;
            e->n_committed = b->n_past[i];
            e->page_rows = self->page_rows;
            e->k_row_stride = l->full_k_row;
            e->v_row_stride = l->full_v_row;
        }
        used += listed_rows(&had) + n_new;
        self->seq_view_ptrs[i] = &self->seq_views[i];
        self->seq_views[i] =
            (sl_seq_view){SL_SIZE(sl_seq_view), &self->segment_ptrs[first],
                          (l->n_full > 0 ? b->n_past[i] : listed_rows(&had)) + n_new, l->n_runs, b->seq[i]};
    }
    self->view = (sl_view){
        .struct_size = SL_SIZE(sl_view), .seqs = self->seq_view_ptrs, .n_seqs = b->n_seqs, .kinds = SL_SEGMENT_ROWS};
    *out = &self->view;
    return SL_OK;
}
