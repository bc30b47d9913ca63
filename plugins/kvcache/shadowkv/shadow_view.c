/* Chunks that were selected -> pages that anybody can attend to (the paper's section 4.3, algorithm 2).
 *
 * A page of the view is a chunk. A chunk that is an outlier, or an exact row, is used where it lies. Of the others the
 * first row's selection lives in the sequence's region: what was there stays (a hit), what is new takes the place of
 * what is not selected any more. Rows behind the first (trees, prompts) find what they need beyond that in the wide
 * buffers. Values come from the second tier, record by record, while keys are rebuilt from the factors. */
#include "shadow.h"

#include <string.h>

#include "sl_tensor.h"

/* ---- keys from the factors ------------------------------------------------------------------------------------------
 */

int64_t shadow_view_scratch(const sl_instance *self) {
    int64_t rows = SHADOW_TILE_CHUNKS * self->chunk;
    return shadow_round(rows * self->max_rank * (int64_t)sizeof(float)) +
           shadow_round(rows * self->max_D * (int64_t)sizeof(float)) + shadow_round(rows * (int64_t)sizeof(float));
}

sl_status shadow_rebuild(sl_instance *self, const sl_lane *lane, const shadow_seq *s, int32_t layer, int32_t head,
                         const int32_t *chunk, char *const *dst, int64_t n) {
    const shadow_place *p = &self->places[layer];
    int64_t c = self->chunk, rows = SHADOW_TILE_CHUNKS * c;
    char *scratch = self->scratch->get(self->host, SL_DEVICE_CPU);
    float *u = (float *)(void *)scratch;
    float *k = (float *)(void *)(scratch + shadow_round(rows * self->max_rank * (int64_t)sizeof *u));
    float *position = (float *)(void *)((char *)k + shadow_round(rows * self->max_D * (int64_t)sizeof *k));
    for (int64_t first = 0, m; first < n; first += m) {
        int32_t within;
        const shadow_block *b = shadow_block_of(self, s, chunk[first], &within);
        const shadow_layer *y = &b->layers[layer];
        int64_t r = y->rank;
        for (m = 0; m < SHADOW_TILE_CHUNKS && first + m < n; m++) { /* chunks of one block */
            if (shadow_block_of(self, s, chunk[first + m], &within) != b)
                break;
            SL_TRY(self->ops->convert(u + m * c * r, SL_F32, y->u + within * c * r * self->factor_element,
                                      self->factor_dtype, c * r));
            memcpy(position + m * c, b->position + within * c, sizeof *position * (size_t)c);
        }
        sl_tensor x, w, out, rotated;
        sl_tensor_make(&x, u, SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){m * c, r});
        sl_tensor_make(&w, y->sv + (int64_t)head * p->D * r * self->factor_element, self->factor_dtype, SL_DEVICE_CPU,
                       2, (int64_t[]){p->D, r});
        sl_tensor_make(&out, k, SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){m * c, p->D});
        sl_tensor_make(&rotated, k, SL_F32, SL_DEVICE_CPU, 3, (int64_t[]){m * c, 1, p->D});
        sl_op_gemm gemm = {
            .struct_size = SL_SIZE(sl_op_gemm), .lane = lane, .x = &x, .w = &w, .y = &out, .compute = SL_F32};
        SL_TRY(self->ops->gemm(self->host, &gemm));
        if (p->rope != NULL) {
            sl_op_rope rope = {
                .struct_size = SL_SIZE(sl_op_rope), .lane = lane, .rope = p->rope, .position = position, .x = &rotated};
            SL_TRY(self->ops->rope(self->host, &rope));
        }
        for (int64_t i = 0; i < m; i++)
            SL_TRY(self->ops->convert(dst[first + i], self->dtype, k + i * c * p->D, SL_F32, c * p->D));
    }
    return SL_OK;
}

/* ---- which chunks, and where --------------------------------------------------------------------------------------
 */

/* What a head's chunk needs: bits of sl_instance.need. */
enum { NEEDED = 1, RESIDENT = 2, OUTLIER = 4 };

typedef struct view_job {
    sl_instance *self;
    const sl_lane *lane;
    const shadow_seq *s;
    const sl_rowset *tokens; /* NULL: everything */
    int32_t layer, at;
    int64_t n_rows, n_past, n_staged, n_factored; /* the last in chunks */
    int64_t wide;                                 /* chunks of the wide buffers in use */
} view_job;

static const int64_t *list_of(const view_job *j, int64_t row, int32_t head) {
    const sl_rowset *t = j->tokens;
    return t->list_begin + (t->per_row ? row : j->at) * t->n_groups + (t->n_groups == 1 ? 0 : head);
}

/* Fills need[chunk] of one head. */
static void mark_needed(const view_job *j, int32_t head, int32_t *need) {
    const sl_instance *self = j->self;
    for (int64_t i = 0; i < j->n_factored; i++)
        need[i] = j->tokens == NULL ? NEEDED : 0;
    int64_t n = j->tokens == NULL ? 0 : j->tokens->per_row ? j->n_rows : 1;
    for (int64_t r = 0; r < n; r++) {
        const int64_t *list = list_of(j, r, head);
        for (int64_t e = list[0]; e < list[1]; e++) {
            int64_t chunk = j->tokens->token[e] / self->chunk;
            if (chunk < j->n_factored)
                need[chunk] |= r == 0 ? NEEDED | RESIDENT : NEEDED;
        }
    }
    for (int32_t i = 0; i < j->s->n_blocks; i++) {
        const shadow_block *b = j->s->blocks[i];
        const int32_t *outlier = b->layers[j->layer].outlier + (int64_t)head * b->n_outliers;
        for (int32_t e = 0; e < b->n_outliers; e++)
            need[b->begin / self->chunk + outlier[e]] |= OUTLIER;
    }
}

/* Brings the region of a head to what `need` says is resident, and finds places for the rest. k[chunk], v[chunk] are
 * written for every needed chunk that is no outlier; missing[0 .. returned) must be filled. */
static int64_t place_chunks(view_job *j, int32_t head, const int32_t *need, char **k, char **v, int32_t *missing) {
    sl_instance *self = j->self;
    const shadow_place *p = &self->places[j->layer];
    const shadow_region *g = &j->s->regions[j->layer];
    int64_t n_missing = 0, first = (int64_t)head * j->s->n_slots, end = first + j->s->n_slots, slot = first;
    for (int64_t i = 0; i < j->n_factored; i++)
        k[i] = v[i] = NULL;
    for (int64_t i = first; i < end; i++) {
        if (g->chunk[i] < 0 || !(need[g->chunk[i]] & NEEDED))
            continue;
        k[g->chunk[i]] = g->k + i * p->k_chunk;
        v[g->chunk[i]] = g->v != NULL ? g->v + i * p->v_chunk : NULL;
    }
    for (int64_t i = 0; i < j->n_factored; i++) {
        if (!(need[i] & NEEDED) || (need[i] & OUTLIER) || k[i] != NULL)
            continue;
        missing[n_missing++] = (int32_t)i;
        if (!(need[i] & RESIDENT))
            continue;
        /* a place whose chunk the first row does not select; what other rows need of it is brought anew */
        while (slot < end && g->chunk[slot] >= 0 && (need[g->chunk[slot]] & RESIDENT))
            slot++;
        if (slot == end)
            continue;
        int32_t old = g->chunk[slot];
        if (old >= 0 && (need[old] & NEEDED)) {
            k[old] = v[old] = NULL;
            if (old < i)
                missing[n_missing++] = old;
        }
        g->chunk[slot] = (int32_t)i;
        k[i] = g->k + slot * p->k_chunk;
        v[i] = g->v != NULL ? g->v + slot * p->v_chunk : NULL;
        slot++;
    }
    for (int64_t i = 0; i < n_missing; i++) {
        int32_t chunk = missing[i];
        if (k[chunk] != NULL)
            continue;
        if (j->wide == self->wide.n_chunks)
            return -1;
        k[chunk] = self->wide.k + j->wide * self->chunk * self->max_D * self->element;
        v[chunk] = self->wide.v != NULL ? self->wide.v + j->wide * self->chunk * self->max_Dv * self->element : NULL;
        j->wide++;
    }
    return n_missing;
}

/* Values of the missing chunks are on their way while their keys are rebuilt. */
static sl_status fill_chunks(view_job *j, int32_t head, char **k, char **v, const int32_t *missing, int64_t n,
                             char **dst) {
    sl_instance *self = j->self;
    for (int64_t i = 0; i < n; i++) {
        int32_t within;
        const shadow_block *b = shadow_block_of(self, j->s, missing[i], &within);
        if (v[missing[i]] != NULL)
            SL_TRY(shadow_run_fetch(&self->tier, &b->layers[j->layer].values, (int64_t)head * b->n_chunks + within,
                                    v[missing[i]]));
        dst[i] = k[missing[i]];
    }
    return shadow_rebuild(self, j->lane, j->s, j->layer, head, missing, dst, n);
}

/* ---- the segment of a head
 * -------------------------------------------------------------------------------------------- */

/* Exact rows of a head. */
static int64_t tail_pages(const view_job *j, int32_t head, const void **k, const void **v) {
    const shadow_place *p = &j->self->places[j->layer];
    for (int64_t i = 0; i < j->s->n_pages; i++) {
        const char *page = shadow_page_data(j->s->pages[i]);
        k[i] = page + p->k + head * p->k_chunk;
        v[i] = page + p->v + head * p->v_chunk;
    }
    return j->s->n_pages;
}

static void make_segment(const view_job *j, sl_segment *g, const void **k, const void **v, const int64_t *token,
                         int64_t n_committed, int32_t head, int32_t n_heads) {
    const sl_instance *self = j->self;
    const shadow_place *p = &self->places[j->layer];
    *g = (sl_segment){
        .struct_size = SL_SIZE(sl_segment),
        .k_pages = k,
        .v_pages = v,
        .token_index = token,
        .n_committed = n_committed,
        .n_staged = j->n_staged,
        .page_rows = self->chunk,
        .k_row_stride = p->D * self->element,
        .k_head_stride = p->k_chunk,
        .v_row_stride = p->Dv * self->element,
        .v_head_stride = p->v_chunk,
        .head_begin = head,
        .n_heads = n_heads,
        .k_dtype = self->dtype,
        .v_dtype = self->dtype,
        .kind = SL_SEGMENT_ROWS,
        .key_state = SL_KEYS_ROTATED,
    };
}

/* Chunks that were selected, and those of them that had to be brought, are added to the counts. */
typedef struct view_counts {
    double selected, missed;
} view_counts;

static sl_status view_head(view_job *j, int32_t head, view_counts *counts) {
    sl_instance *self = j->self;
    const shadow_place *p = &self->places[j->layer];
    const void **k_pages = self->k_pages + head * self->max_pages, **v_pages = self->v_pages + head * self->max_pages;
    int64_t *token = self->token_index + head * self->max_pages * self->chunk, n = 0;
    int32_t *need = self->need + head * self->max_pages, *page_of = self->page_of + head * self->max_pages;
    char **k = self->chunk_k, **v = self->chunk_v, **dst = self->chunk_dst;
    mark_needed(j, head, need);
    int64_t n_missing = place_chunks(j, head, need, k, v, self->missing);
    if (n_missing < 0)
        return SL_E_NO_MEMORY;
    SL_TRY(fill_chunks(j, head, k, v, self->missing, n_missing, dst));
    counts->missed += (double)n_missing;
    for (int32_t i = 0; i < j->s->n_blocks; i++) {
        const shadow_block *b = j->s->blocks[i];
        const shadow_layer *y = &b->layers[j->layer];
        int64_t first = b->begin / self->chunk, e = (int64_t)head * b->n_outliers;
        for (int64_t c = 0; c < b->n_chunks; c++) {
            int32_t what = need[first + c];
            int64_t exact = e;
            e += (what & OUTLIER) != 0;
            page_of[first + c] = (int32_t)n;
            if (!(what & NEEDED))
                continue;
            counts->selected += (what & OUTLIER) == 0;
            if (what & OUTLIER) {
                k_pages[n] = y->outlier_k + exact * p->k_chunk;
                v_pages[n] = y->outlier_v + exact * p->v_chunk;
            } else {
                const char *direct = shadow_run_direct(&self->tier, &y->values, (int64_t)head * b->n_chunks + c);
                k_pages[n] = k[first + c];
                v_pages[n] = direct != NULL ? direct : v[first + c];
            }
            for (int64_t t = 0; t < self->chunk; t++)
                token[n * self->chunk + t] = b->begin + c * self->chunk + t;
            n++;
        }
    }
    int64_t gathered = n * self->chunk;
    for (int64_t t = j->s->n_factored; t < j->n_past; t++)
        token[gathered + t - j->s->n_factored] = t;
    tail_pages(j, head, k_pages + n, v_pages + n);
    make_segment(j, &self->segments[head], k_pages, v_pages, token, gathered + j->n_past - j->s->n_factored, head, 1);
    return SL_OK;
}

/* Lists of several rows, in slots of the view: a row sees its own chunks and the exact rows, not its neighbours'. */
static sl_status make_slots(view_job *j) {
    sl_instance *self = j->self;
    const shadow_place *p = &self->places[j->layer];
    int64_t n = 0;
    for (int64_t r = 0; r < j->n_rows; r++)
        for (int32_t h = 0; h < p->K; h++) {
            const int64_t *list = list_of(j, r, h);
            const int32_t *page_of = self->page_of + h * self->max_pages;
            int64_t committed = self->segments[h].n_committed, tail = j->n_past - j->s->n_factored;
            self->slot_begin[r * p->K + h] = n;
            if (n + (list[1] - list[0]) * self->chunk + tail > self->wide.n_slots)
                return SL_E_RANGE;
            for (int64_t e = list[0]; e < list[1]; e++) {
                int64_t chunk = j->tokens->token[e] / self->chunk;
                for (int32_t t = 0; chunk < j->n_factored && t < self->chunk; t++)
                    self->wide.slot[n++] = page_of[chunk] * (int32_t)self->chunk + t;
            }
            for (int64_t t = committed - tail; t < committed; t++)
                self->wide.slot[n++] = (int32_t)t;
        }
    self->slot_begin[j->n_rows * p->K] = n;
    self->slots = (sl_rowset){.struct_size = SL_SIZE(sl_rowset),
                              .list_begin = self->slot_begin,
                              .token = self->wide.slot,
                              .n_units = (int32_t)j->n_rows,
                              .n_groups = p->K,
                              .per_row = 1};
    return SL_OK;
}

/* ---- the view
 * ----------------------------------------------------------------------------------------------------------- */

static void count(sl_instance *self, const view_counts *counts, int64_t bytes_back) {
    if (self->metrics == NULL)
        return;
    self->metrics->add(self->host, "chunks_selected", counts->selected);
    self->metrics->add(self->host, "chunks_missed", counts->missed);
    self->metrics->add(self->host, "tier_bytes_back", (double)bytes_back);
}

sl_status shadow_view(sl_instance *self, const sl_lane *lane, int32_t layer, const sl_rows *rows,
                      const sl_rowset *tokens, const sl_view **out) {
    const sl_batch *b = rows->batch;
    const shadow_place *p = &self->places[layer];
    int32_t at = shadow_place_of(rows);
    if (at < 0 || (tokens != NULL && tokens->run != self->chunk))
        return SL_E_UNIMPLEMENTED;
    const shadow_seq *s = &self->seqs[b->seq[at]];
    view_job j = {self,
                  lane,
                  s,
                  tokens,
                  layer,
                  at,
                  rows->n,
                  b->n_past[at],
                  b->row_begin[at + 1] - b->row_begin[at],
                  s->n_factored / self->chunk,
                  0};
    int32_t n_segments = 1;
    const sl_rowset *slots = NULL;
    if (s->n_blocks == 0) {
        tail_pages(&j, 0, self->k_pages, self->v_pages);
        make_segment(&j, &self->segments[0], self->k_pages, self->v_pages, NULL, j.n_past, 0, p->K);
    } else {
        view_counts counts = {0};
        int64_t before = self->tier.bytes_back;
        for (int32_t h = 0; h < p->K; h++)
            SL_TRY(view_head(&j, h, &counts));
        SL_TRY(shadow_tier_wait(&self->tier, lane));
        count(self, &counts, self->tier.bytes_back - before);
        n_segments = p->K;
        if (tokens != NULL && tokens->per_row && j.n_rows > 1) {
            SL_TRY(make_slots(&j));
            slots = &self->slots;
        }
    }
    /* places that were not asked for have no rows, but heads: kernels take the shapes from any of them */
    sl_segment *none = &self->segments[self->max_K];
    view_job empty = j;
    empty.n_staged = 0;
    make_segment(&empty, none, self->k_pages, self->v_pages, NULL, 0, 0, p->K);
    self->segment_ptrs[self->max_K] = none;
    for (int32_t i = 0; i < b->n_seqs; i++) {
        self->seq_views[i] = (sl_seq_view){SL_SIZE(sl_seq_view), &self->segment_ptrs[self->max_K], 0, 1, b->seq[i]};
        self->seq_view_ptrs[i] = &self->seq_views[i];
    }
    int64_t n_visible = 0;
    for (int32_t i = 0; i < n_segments; i++) {
        int64_t n = self->segments[i].n_committed + self->segments[i].n_staged;
        n_visible = n > n_visible ? n : n_visible;
        self->segment_ptrs[i] = &self->segments[i];
    }
    self->seq_views[at] = (sl_seq_view){SL_SIZE(sl_seq_view), self->segment_ptrs, n_visible, n_segments, b->seq[at]};
    self->view = (sl_view){.struct_size = SL_SIZE(sl_view),
                           .seqs = self->seq_view_ptrs,
                           .slots = slots,
                           .n_seqs = b->n_seqs,
                           .kinds = SL_SEGMENT_ROWS};
    *out = &self->view;
    return SL_OK;
}
