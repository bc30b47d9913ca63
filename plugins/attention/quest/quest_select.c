/* One layer, one call: bring the bounds up to date, score pages, write lists.
 *
 * A unit is what gets one list a head or group: a row, or (verify_select = shared) the rows of a sequence. A row sees
 * ranks 0 .. n, where rank n is the row itself: committed tokens first, then its own ancestors. Its pages are runs of P
 * ranks, so a path of a tree has the pages that it would have if its tokens were decoded one by one. */
#include "quest.h"

#include <math.h>
#include <string.h>

#include "quest_score.h"
#include "sl_error.h"

enum { CHUNK = 64 }; /* pages of one item of work */

typedef struct call {
    sl_instance *self;
    const sl_select *args;
    const sl_batch *b;
    int64_t H, K, G, D;
    int64_t groups;   /* lists of a unit */
    int32_t first_at; /* place of the first sequence */
    int by_seq;
    int64_t n_units;
    /* A block of units. */
    int64_t unit_begin, unit_end;
    int64_t stride, n_chunks;
    float *scores;  /* [units of the block, groups, stride] */
    int32_t *ids;   /* [units of the block, groups, k] */
    uint8_t *marks; /* [max_pages] */
} call;

typedef struct unit {
    int32_t at;           /* place of its sequence */
    int64_t row, n_rows;  /* rows of the call */
    int64_t n;            /* rank of the row itself; by_seq: committed tokens */
    int64_t n_pages;      /* N */
    int64_t n_candidates; /* pages that compete */
} unit;

static int32_t row_of(const sl_rows *rows, int64_t i) { return rows->index != NULL ? rows->index[i] : (int32_t)i; }
static int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

void quest_scratch_need(const sl_instance *self, int64_t *bytes, int64_t *bytes_per_worker) {
    int64_t dim = 1;
    for (int32_t l = 0; l < self->model->n_layers; l++)
        dim = self->model->layers[l]->head_dim > dim ? self->model->layers[l]->head_dim : dim;
    *bytes = 2 * padded(self->score_floats) * (int64_t)sizeof(float) + padded(self->max_pages);
    *bytes_per_worker = 3 * padded(dim) * (int64_t)sizeof(float);
}

/* ---- the view -------------------------------------------------------------------------------------------------- */

/* The segment that holds the keys of a head; NULL: none does, or not as one run of plain rows, or tokens are missing.
 */
static const sl_segment *segment_of(const sl_seq_view *view, int64_t head, int64_t n_past) {
    const sl_segment *found = NULL;
    for (int32_t i = 0; i < view->n_segments; i++) {
        const sl_segment *s = view->segments[i];
        if (head < s->head_begin || head >= s->head_begin + s->n_heads)
            continue;
        if (found != NULL || s->kind != SL_SEGMENT_ROWS || s->token_index != NULL || s->token_base != 0 ||
            s->n_committed != n_past)
            return NULL;
        found = s;
    }
    return found;
}

static void read_key(const sl_instance *self, const sl_segment *s, int64_t head, int64_t slot, int64_t d, float *out) {
    const char *page = s->k_pages[slot / s->page_rows];
    self->ops->convert(out, SL_F32,
                       page + slot % s->page_rows * s->k_row_stride + (head - s->head_begin) * s->k_head_stride,
                       s->k_dtype, d);
}

/* What of a batch's sequence at `at` stands in the call. */
static sl_status check_rows(const call *c) {
    const sl_select *a = c->args;
    for (int64_t i = 0; i < a->rows->n; i++) {
        int32_t at = c->b->row_seq[row_of(a->rows, i)];
        if (at < 0)
            return SL_E_UNIMPLEMENTED;
        for (int64_t k = 0; k < c->K && (i == 0 || at != c->b->row_seq[row_of(a->rows, i - 1)]); k++)
            if (segment_of(a->view->seqs[at], k, c->b->n_past[at]) == NULL)
                return SL_E_UNIMPLEMENTED;
    }
    return SL_OK;
}

/* ---- bounds of committed rows ---------------------------------------------------------------------------------- */

typedef struct catch_up_job {
    const call *c;
    int32_t at;
    int64_t from, to;
} catch_up_job;

/* Items are KV heads. */
static void add_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    const catch_up_job *j = user;
    const call *c = j->c;
    sl_instance *self = c->self;
    float *key = self->scratch->worker(self->host, worker);
    for (int64_t h = begin; h < end; h++) {
        const sl_segment *s = segment_of(c->args->view->seqs[j->at], h, c->b->n_past[j->at]);
        for (int64_t t = j->from; t < j->to; t++) {
            read_key(self, s, h, t, c->D, key);
            quest_meta_add(&self->meta, c->b->seq[j->at], c->args->layer, (int32_t)h, t, key, key + c->D);
        }
    }
}

/* Committed tokens that are not yet in the bounds of this layer. Rows at or behind n_past are computed (again): what
 * the bounds say about them is old. */
static void catch_up(const call *c, int32_t at) {
    sl_instance *self = c->self;
    int32_t seq = c->b->seq[at], layer = c->args->layer;
    int64_t n_past = c->b->n_past[at];
    quest_meta_cut(&self->meta, seq, layer, n_past);
    catch_up_job j = {c, at, quest_meta_done(&self->meta, seq, layer),
                      quest_meta_room(&self->meta, seq, layer, n_past)};
    if (j.from >= j.to)
        return;
    if (j.to - j.from < 8)
        add_range(&j, 0, c->K, 0);
    else
        self->threads->parallel_for(self->host, c->K, 1, add_range, &j);
    self->meta.seqs[seq].n[layer] = j.to;
}

/* ---- units and their pages ------------------------------------------------------------------------------------- */

static unit unit_of(const call *c, int64_t u) {
    const sl_instance *self = c->self;
    const sl_batch *b = c->b;
    int32_t first = row_of(c->args->rows, 0);
    unit x = {.n_rows = 1};
    if (c->by_seq) {
        x.at = c->first_at + (int32_t)u;
        int64_t begin = b->row_begin[x.at] - first, end = b->row_begin[x.at + 1] - first;
        x.row = begin < 0 ? 0 : begin;
        x.n_rows = (end > c->args->rows->n ? c->args->rows->n : end) - x.row;
        x.n = b->n_past[x.at];
    } else {
        int32_t r = row_of(c->args->rows, u);
        x.row = u;
        x.at = b->row_seq[r];
        x.n = b->token_index[r];
    }
    x.n_pages = x.n / self->page + 1;
    x.n_candidates = x.n_pages - (self->force_last ? 1 : 0);
    return x;
}

static int is_sparse(const sl_instance *self, const unit *x) { return x->n_pages > self->most_pages; }

/* Row of the sequence, counted from its first one, that has a rank behind the committed ones for row r. */
static int64_t staged_row(const sl_batch *b, int32_t r, int64_t rank) {
    int32_t at = b->row_seq[r], node = r - b->row_begin[at];
    const sl_tree *tree = b->tree[at];
    if (tree == NULL)
        return rank - b->n_past[at];
    for (int64_t i = b->token_index[r]; i > rank; i--)
        node = tree->parent[node];
    return node;
}

/* Bounds of a page as the unit sees it: kept ones, or, where rows of the step are in it, made of the rows. */
static void page_bounds(const call *c, const unit *x, int64_t head, int64_t page, float *key, float *bounds) {
    const sl_instance *self = c->self;
    const sl_batch *b = c->b;
    int32_t seq = b->seq[x->at], layer = c->args->layer;
    int64_t P = self->page, n_past = b->n_past[x->at];
    if ((page + 1) * P <= quest_meta_done(&self->meta, seq, layer)) {
        quest_meta_read(&self->meta, seq, layer, (int32_t)head, page, bounds);
        return;
    }
    const sl_segment *s = segment_of(c->args->view->seqs[x->at], head, n_past);
    int32_t r = row_of(c->args->rows, x->row);
    for (int64_t t = page * P; t < (page + 1) * P && t <= x->n; t++) {
        read_key(self, s, head, t < n_past ? t : n_past + staged_row(b, r, t), c->D, key);
        quest_widen(bounds, key, c->D, t == page * P);
    }
    quest_round_out(self->ops, self->dtype[layer], bounds, c->D);
}

/* ---- scores ---------------------------------------------------------------------------------------------------- */

/* Items are (unit of the block, KV head, chunk of pages). */
static void score_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    const call *c = user;
    const sl_instance *self = c->self;
    const sl_tensor *q = &c->args->q;
    float *key = self->scratch->worker(self->host, worker), *bounds = key + c->D;
    for (int64_t item = begin; item < end; item++) {
        int64_t chunk = item % c->n_chunks, head = item / c->n_chunks % c->K, u = item / c->n_chunks / c->K;
        unit x = unit_of(c, c->unit_begin + u);
        int64_t stop = (chunk + 1) * CHUNK < c->stride ? (chunk + 1) * CHUNK : c->stride;
        for (int64_t g = 0; g < c->G; g++) { /* places of pages that do not compete lose */
            float *to = c->scores + (u * c->groups + (c->groups == c->K ? head : head * c->G + g)) * c->stride;
            for (int64_t page = chunk * CHUNK; page < stop; page++)
                to[page] = -INFINITY;
        }
        if (!is_sparse(self, &x))
            continue;
        for (int64_t page = chunk * CHUNK; page < stop && page < x.n_candidates; page++) {
            page_bounds(c, &x, head, page, key, bounds);
            for (int64_t i = 0; i < x.n_rows * c->G; i++) {
                int64_t h = head * c->G + i % c->G, list = c->groups == c->K ? head : h;
                float *to = c->scores + (u * c->groups + list) * c->stride + page;
                float score = quest_bound((const float *)q->data + (x.row + i / c->G) * q->stride[0] + h * q->stride[1],
                                          bounds, c->D);
                *to = score > *to ? score : *to;
            }
        }
    }
}

/* ---- lists ----------------------------------------------------------------------------------------------------- */

/* Writes the tokens of page `page` that the unit sees behind out; returns the end. */
static int32_t *name_page(const call *c, const unit *x, int64_t page, int32_t *out) {
    const sl_batch *b = c->b;
    int64_t P = c->self->page, n_past = b->n_past[x->at], end = x->n + !c->by_seq;
    int32_t r = row_of(c->args->rows, x->row);
    for (int64_t t = page * P; t < (page + 1) * P && t < end; t++)
        *out++ = (int32_t)(t < n_past ? t : n_past + staged_row(b, r, t));
    return out;
}

static int32_t *write_list(const call *c, const unit *x, const int32_t *ids, int64_t k, int32_t *out) {
    int everything = !is_sparse(c->self, x);
    if (!everything) {
        memset(c->marks, 0, (size_t)x->n_pages);
        for (int64_t i = 0; i < k; i++)
            c->marks[ids[i]] = 1;
        if (c->self->force_last)
            c->marks[x->n_pages - 1] = 1;
    }
    for (int64_t page = 0; page < x->n_pages; page++)
        if (everything || c->marks[page])
            out = name_page(c, x, page, out);
    return out;
}

static sl_status lists_of_block(call *c, int64_t *n_lists) {
    sl_instance *self = c->self;
    int64_t n = c->unit_end - c->unit_begin, k = self->most_pages - self->force_last;
    c->n_chunks = (c->stride + CHUNK - 1) / CHUNK;
    self->threads->parallel_for(self->host, n * c->K * c->n_chunks, 1, score_range, c);
    if (k > 0) {
        sl_op_topk top = {.struct_size = SL_SIZE(sl_op_topk),
                          .lane = c->args->lane,
                          .x = c->scores,
                          .id = c->ids,
                          .rows = n * c->groups,
                          .n = c->stride,
                          .stride = c->stride,
                          .k = k};
        SL_TRY(self->ops->topk(self->host, &top));
    }
    for (int64_t i = 0; i < n * c->groups; i++, ++*n_lists) {
        unit x = unit_of(c, c->unit_begin + i / c->groups);
        int32_t *end = write_list(c, &x, c->ids + i * k, k, self->token + self->begin[*n_lists]);
        self->begin[*n_lists + 1] = end - self->token;
    }
    return SL_OK;
}

/* Places in the rowset of sequences that are not in the call have empty lists. */
static void skip_lists(sl_instance *self, int64_t n, int64_t *n_lists) {
    for (int64_t i = 0; i < n; i++, ++*n_lists)
        self->begin[*n_lists + 1] = self->begin[*n_lists];
}

sl_status quest_select(sl_instance *self, const sl_select *a, const sl_rowset **out) {
    const sl_layer_info *info = self->model->layers[a->layer];
    const sl_batch *b = a->rows->batch;
    call c = {.self = self, .args = a, .b = b, .H = info->n_heads, .K = info->n_kv_heads, .D = info->head_dim};
    c.G = c.H / c.K;
    c.groups = self->heads == QUEST_QUERY ? c.H : c.K;
    if (a->view == NULL || a->mask->base != SL_MASK_CAUSAL || a->mask->interval != NULL || a->mask->n_spans > 0)
        return SL_E_UNIMPLEMENTED;
    SL_TRY(check_rows(&c));
    c.first_at = b->row_seq[row_of(a->rows, 0)];
    int32_t last_at = b->row_seq[row_of(a->rows, a->rows->n - 1)];
    for (int32_t at = c.first_at; at <= last_at; at++)
        catch_up(&c, at);
    if (b->stage[c.first_at] == SL_STAGE_PREFILL)
        return SL_SKIPPED;
    c.by_seq = b->stage[c.first_at] == SL_STAGE_VERIFY && self->verify == QUEST_VERIFY_SHARED;
    c.n_units = c.by_seq ? last_at - c.first_at + 1 : a->rows->n;
    if (c.n_units > self->max_units || b->n_seqs > self->meta.max_seqs)
        return SL_E_RANGE;
    int64_t n_sparse = 0;
    for (int64_t u = 0; u < c.n_units; u++) {
        unit x = unit_of(&c, u);
        n_sparse += is_sparse(self, &x);
        c.stride = x.n_candidates > c.stride ? x.n_candidates : c.stride;
    }
    if (n_sparse == 0)
        return SL_SKIPPED;
    c.scores = self->scratch->get(self->host, SL_DEVICE_CPU);
    c.ids = (int32_t *)(c.scores + padded(self->score_floats));
    c.marks = (uint8_t *)(c.ids + padded(self->score_floats));
    int64_t fit = self->score_floats / (c.groups * c.stride), n_lists = 0;
    if (c.stride > self->max_pages || fit < 1)
        return SL_E_RANGE;
    self->begin[0] = 0;
    skip_lists(self, c.by_seq ? c.first_at * c.groups : 0, &n_lists);
    for (; c.unit_begin < c.n_units; c.unit_begin = c.unit_end) {
        c.unit_end = c.unit_begin + fit < c.n_units ? c.unit_begin + fit : c.n_units;
        SL_TRY(lists_of_block(&c, &n_lists));
    }
    skip_lists(self, c.by_seq ? (b->n_seqs - 1 - last_at) * c.groups : 0, &n_lists);
    self->rowset = (sl_rowset){.struct_size = SL_SIZE(sl_rowset),
                               .list_begin = self->begin,
                               .token = self->token,
                               .n_units = c.by_seq ? b->n_seqs : a->rows->n,
                               .n_groups = (int32_t)c.groups,
                               .per_row = !c.by_seq,
                               .own_rows = !c.by_seq};
    if (self->metrics != NULL)
        self->metrics->add(self->host, "rows_sparse", (double)n_sparse);
    *out = &self->rowset;
    return SL_OK;
}
