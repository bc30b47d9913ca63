/* The selecting layer: dense attention whose raw scores are kept for a moment, and the lists made of them.
 *
 * The scores of a block of rows [rows, H, stride] stand in scratch: written by the host's kernel, read once by the
 * workers that make the lists, gone. Blocks are as large as the scratch allows; what a row gets does not depend on
 * them. */
#include "tidaldecode.h"

#include <string.h>

#include "sl_error.h"

/* What the host's kernel left of a block of rows. */
typedef struct block {
    sl_instance *self;
    const sl_attend *a; /* of all rows */
    tidal_heads heads;
    const float *scores; /* [rows of the block, H, stride] */
    const float *lse;    /* [rows of the block, H] */
    int64_t stride;
    int64_t begin, end;  /* rows of the block */
    int64_t slot;        /* of its first row */
    float *best;         /* by sequence: [H or K, stride] largest score of all rows so far */
    int64_t n_committed; /* by sequence: keys in `best` */
    int64_t seq_begin;   /* by sequence: its first row in the call */
} block;

/* Scratch is shared by all plugins, hence divided anew in each call: offsets in bytes. */
typedef struct layout {
    int64_t scores, best, lse;
    int64_t ids;   /* LAYER: [H, budget] */
    int64_t marks; /* LAYER: [max_keys] */
    int64_t bytes;
} layout;

typedef struct scratch {
    float *scores, *best, *lse;
    int32_t *ids;
    uint8_t *marks;
} scratch;

static int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

static layout layout_of(const sl_instance *self) {
    int64_t H = 1, by_seq = self->verify_select == TIDAL_VERIFY_SHARED, layer = self->rule.heads == TIDAL_LAYER;
    for (int32_t l = 0; l < self->model->n_layers; l++)
        H = self->model->layers[l]->n_heads > H ? self->model->layers[l]->n_heads : H;
    layout t = {.scores = 0};
    t.best = t.scores + 4 * padded(self->score_floats);
    t.lse = t.best + by_seq * 4 * H * padded(self->max_keys);
    t.ids = t.lse + 4 * padded(self->max_rows * H);
    t.marks = t.ids + layer * 4 * padded(H * self->rule.budget);
    t.bytes = t.marks + layer * self->max_keys;
    return t;
}

static scratch take_scratch(const sl_instance *self) {
    layout t = layout_of(self);
    char *p = self->scratch->get(self->host, SL_DEVICE_CPU);
    return (scratch){(float *)(p + t.scores), (float *)(p + t.best), (float *)(p + t.lse), (int32_t *)(p + t.ids),
                     (uint8_t *)(p + t.marks)};
}

void tidal_scratch_need(const sl_instance *self, int64_t *bytes, int64_t *bytes_per_worker) {
    *bytes = layout_of(self).bytes;
    *bytes_per_worker = TIDAL_BINS * (int64_t)sizeof(uint32_t) + padded(self->max_keys) * (int64_t)sizeof(float);
}

/* ---- keys ------------------------------------------------------------------------------------------------------ */

/* The keys of a head: segments whose token indices follow each other, through which slots, hence scores, count. */
typedef struct keys {
    const int64_t *token_index; /* NULL: token_base + slot */
    int64_t token_base, n_committed;
    int is_sound;
} keys;

static keys keys_of(const sl_seq_view *view, int64_t kv_head) {
    keys all = {0};
    for (int32_t i = 0; i < view->n_segments; i++) {
        const sl_segment *s = view->segments[i];
        if (kv_head < s->head_begin || kv_head >= s->head_begin + s->n_heads)
            continue;
        int is_first = all.n_committed == 0 && all.is_sound == 0;
        if (is_first)
            all = (keys){s->token_index, s->token_base, 0, 1};
        if (s->kind == SL_SEGMENT_OPAQUE ||
            (all.token_index != NULL ? s->token_index != all.token_index + all.n_committed
                                     : s->token_index != NULL || s->token_base != all.token_base + all.n_committed))
            return (keys){0};
        all.n_committed += s->n_committed;
    }
    return all;
}

/* Lists can be made where the score of rank r is that of the r-th key: the keys of every head are one run of slots,
 * under a plain causal mask. */
static sl_status check_view(const sl_instance *self, const sl_attend *a, const tidal_heads *h) {
    if (a->mask->interval != NULL || a->mask->n_spans > 0 || a->mask->window > 0 || a->mask->base != SL_MASK_CAUSAL ||
        (a->want & SL_WANT_COLSUM) || a->q.shape[1] != h->H)
        return SL_E_UNIMPLEMENTED;
    for (int64_t i = 0; i < a->rows->n; i++) {
        int32_t at = a->rows->batch->row_seq[tidal_row(a->rows, i)];
        if (at < 0)
            return SL_E_UNIMPLEMENTED;
        for (int64_t k = 0; k < h->K; k++) {
            keys s = keys_of(a->view->seqs[at], k), first = keys_of(a->view->seqs[at], 0);
            if (!s.is_sound || (self->rule.heads == TIDAL_LAYER &&
                                (s.n_committed != first.n_committed || s.token_index != first.token_index)))
                return SL_E_UNIMPLEMENTED;
        }
    }
    return SL_OK;
}

static int64_t kv_head_of(const sl_instance *self, const tidal_heads *h, int64_t list) {
    return self->rule.heads == TIDAL_QUERY ? list / h->G : self->rule.heads == TIDAL_KV_GROUP ? list : 0;
}

/* Keys that row r sees: committed ones, and those of its own ancestors, itself included. */
static int64_t count_keys(const sl_batch *b, const keys *s, int32_t r) {
    int32_t at = b->row_seq[r];
    return s->n_committed + b->token_index[r] - b->n_past[at] + 1;
}

static int is_dense(const sl_instance *self, int64_t n_keys) { return n_keys <= self->rule.min_context; }

/* Ranks of a row, ascending, become what a row set names: token indices, and n_past + node for staged rows. */
static void name_ranks(const sl_batch *b, const keys *s, int32_t r, int64_t n_keys, int32_t *list, int64_t n) {
    int32_t at = b->row_seq[r], node = r - b->row_begin[at];
    for (int64_t rank = n_keys - 1; n > 0 && list[n - 1] >= s->n_committed; n--) {
        for (; rank > list[n - 1]; rank--)
            node = b->tree[at] != NULL ? b->tree[at]->parent[node] : node - 1;
        list[n - 1] = (int32_t)(b->n_past[at] + node);
    }
    for (int64_t i = 0; i < n && (s->token_index != NULL || s->token_base != 0); i++)
        list[i] = (int32_t)(s->token_index != NULL ? s->token_index[list[i]] : s->token_base + list[i]);
}

/* ---- lists ----------------------------------------------------------------------------------------------------- */

/* Scores by which list `list` of row i of the block is chosen, n of them. */
static const float *contest(const block *j, int64_t i, int64_t list, int64_t n, float *buffer) {
    const tidal_heads *h = &j->heads;
    if (j->self->rule.heads != TIDAL_KV_GROUP || h->G == 1)
        return j->scores + (i * h->H + list) * j->stride;
    const float *x = j->scores + (i * h->H + list * h->G) * j->stride;
    if (j->self->group_reduce == TIDAL_REDUCE_MAX)
        memcpy(buffer, x, sizeof *buffer * (size_t)n);
    else
        memset(buffer, 0, sizeof *buffer * (size_t)n);
    for (int64_t g = 0; g < h->G; g++) {
        if (j->self->group_reduce == TIDAL_REDUCE_SUM_PROB)
            tidal_add_softmax(buffer, x + g * j->stride, j->lse[i * h->H + list * h->G + g], n);
        else if (g > 0)
            tidal_max(buffer, x + g * j->stride, n);
    }
    return buffer;
}

/* Parts of a list over a row of n keys, of which only the first `limit` may be named. */
typedef struct plan {
    int64_t sinks, middle, end; /* candidates are [sinks, end) */
    int64_t recents;            /* from here to limit */
    int64_t limit;
} plan;

static plan plan_of(const sl_instance *self, int64_t n, int64_t limit) {
    if (is_dense(self, n))
        return (plan){.limit = limit};
    tidal_split s = tidal_split_of(&self->rule);
    int64_t recents = n - s.recents;
    return (plan){s.sinks, s.middle, recents < limit ? recents : limit, recents < limit ? recents : limit, limit};
}

static int64_t plan_size(const plan *p) { return p->sinks + p->middle + p->limit - p->recents; }

static void fill_ends(const plan *p, int32_t *out) {
    for (int64_t i = 0; i < p->sinks; i++)
        out[i] = (int32_t)i;
    for (int64_t i = p->recents; i < p->limit; i++)
        out[p->sinks + p->middle + i - p->recents] = (int32_t)i;
}

static void fill_middle(const plan *p, const float *x, uint32_t *bins, int32_t *out) {
    int64_t n = tidal_topk(x + p->sinks, p->end - p->sinks, p->middle, bins, out + p->sinks);
    for (int64_t i = 0; i < n && p->sinks > 0; i++)
        out[p->sinks + i] += (int32_t)p->sinks;
}

static void worker_parts(const sl_instance *self, int32_t worker, uint32_t **bins, float **buffer) {
    *bins = self->scratch->worker(self->host, worker);
    *buffer = (float *)(*bins + TIDAL_BINS);
}

/* Items are (row of the block, list). */
static void rows_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    const block *j = user;
    const sl_instance *self = j->self;
    const sl_batch *b = j->a->rows->batch;
    uint32_t *bins;
    float *buffer;
    worker_parts(self, worker, &bins, &buffer);
    for (int64_t item = begin; item < end; item++) {
        int64_t i = item / j->heads.n_lists, list = item % j->heads.n_lists;
        int32_t r = tidal_row(j->a->rows, j->begin + i);
        keys s = keys_of(j->a->view->seqs[b->row_seq[r]], kv_head_of(self, &j->heads, list));
        int64_t n = count_keys(b, &s, r), at = self->lists.begin[(j->slot + i) * j->heads.n_lists + list];
        plan p = plan_of(self, n, n);
        int32_t *out = self->lists.token + at;
        fill_ends(&p, out);
        if (p.middle > 0 && self->rule.heads != TIDAL_LAYER)
            fill_middle(&p, contest(j, i, list, n, buffer), bins, out);
        if (self->rule.heads != TIDAL_LAYER)
            name_ranks(b, &s, r, n, out, plan_size(&p));
    }
}

/* One list for all heads, x [H, stride]: the best of each by the host's top-k, then rank by rank. */
static sl_status fill_layer(const block *j, const scratch *t, const plan *p, const float *x, int32_t *out) {
    const sl_instance *self = j->self;
    if (p->middle == 0)
        return SL_OK;
    sl_op_topk top = {.struct_size = SL_SIZE(sl_op_topk),
                      .lane = j->a->lane,
                      .x = x + p->sinks,
                      .id = t->ids,
                      .rows = j->heads.H,
                      .n = p->end - p->sinks,
                      .stride = j->stride,
                      .k = p->middle};
    SL_TRY(self->ops->topk(self->host, &top));
    tidal_interleave(t->ids, j->heads.H, p->middle, p->middle, top.n, (int32_t)p->sinks, t->marks, out + p->sinks);
    return SL_OK;
}

static sl_status lists_of_rows(block *j, const scratch *t) {
    const sl_instance *self = j->self;
    const sl_batch *b = j->a->rows->batch;
    self->threads->parallel_for(self->host, (j->end - j->begin) * j->heads.n_lists, 1, rows_range, j);
    for (int64_t i = 0; self->rule.heads == TIDAL_LAYER && i < j->end - j->begin; i++) {
        int32_t r = tidal_row(j->a->rows, j->begin + i);
        keys s = keys_of(j->a->view->seqs[b->row_seq[r]], 0);
        int64_t n = count_keys(b, &s, r);
        plan p = plan_of(self, n, n);
        int32_t *out = self->lists.token + self->lists.begin[j->slot + i];
        SL_TRY(fill_layer(j, t, &p, j->scores + i * j->heads.H * j->stride, out));
        name_ranks(b, &s, r, n, out, plan_size(&p));
    }
    return SL_OK;
}

/* Items are lists, or query heads for one list of the layer: their best scores take in those of the block's rows. */
static void best_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    const block *j = user;
    uint32_t *bins;
    float *buffer;
    worker_parts(j->self, worker, &bins, &buffer);
    for (int64_t list = begin; list < end; list++)
        for (int64_t i = 0; i < j->end - j->begin; i++) {
            const float *x = contest(j, i, list, j->n_committed, buffer);
            float *best = j->best + list * j->stride;
            if (j->begin + i == j->seq_begin)
                memcpy(best, x, sizeof *best * (size_t)j->n_committed);
            else
                tidal_max(best, x, j->n_committed);
        }
}

static void seq_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    const block *j = user;
    const sl_instance *self = j->self;
    const sl_batch *b = j->a->rows->batch;
    uint32_t *bins;
    float *buffer;
    worker_parts(self, worker, &bins, &buffer);
    int32_t r = tidal_row(j->a->rows, j->begin);
    for (int64_t list = begin; list < end; list++) {
        keys s = keys_of(j->a->view->seqs[b->row_seq[r]], kv_head_of(self, &j->heads, list));
        plan p = plan_of(self, s.n_committed + 1, s.n_committed);
        int32_t *out = self->lists.token + self->lists.begin[j->slot * j->heads.n_lists + list];
        fill_ends(&p, out);
        if (p.middle > 0 && self->rule.heads != TIDAL_LAYER)
            fill_middle(&p, j->best + list * j->stride, bins, out);
        if (self->rule.heads != TIDAL_LAYER)
            name_ranks(b, &s, r, s.n_committed, out, plan_size(&p));
    }
}

static sl_status lists_of_seq(block *j, const scratch *t) {
    const sl_instance *self = j->self;
    const sl_batch *b = j->a->rows->batch;
    self->threads->parallel_for(self->host, j->heads.n_lists, 1, seq_range, j);
    if (self->rule.heads != TIDAL_LAYER)
        return SL_OK;
    int32_t r = tidal_row(j->a->rows, j->begin);
    keys s = keys_of(j->a->view->seqs[b->row_seq[r]], 0);
    plan p = plan_of(self, s.n_committed + 1, s.n_committed);
    int32_t *out = self->lists.token + self->lists.begin[j->slot];
    SL_TRY(fill_layer(j, t, &p, j->best, out));
    name_ranks(b, &s, r, s.n_committed, out, plan_size(&p));
    return SL_OK;
}

/* ---- attending in blocks --------------------------------------------------------------------------------------- */

/* To f16 and back: what differs less than that is equal, and the lower position wins. */
static void round_scores(const sl_instance *self, const sl_attend *a, const block *j, float *scores) {
    const sl_batch *b = a->rows->batch;
    for (int64_t i = 0; i < (j->end - j->begin) * j->heads.H; i++) {
        int32_t r = tidal_row(a->rows, j->begin + i / j->heads.H);
        keys s = keys_of(a->view->seqs[b->row_seq[r]], i % j->heads.H / j->heads.G);
        int64_t n = count_keys(b, &s, r);
        tidal_round_half(self->ops, scores + i * j->stride, n);
    }
}

/* Rows [begin, end) of a call, with their scores. */
static sl_status attend_block(const sl_instance *self, const sl_attend *a, block *j, const scratch *t) {
    int64_t H = j->heads.H, begin = j->begin, n = j->end - begin;
    float *lse = a->lse != NULL ? a->lse + begin * H : t->lse,
          *scores = a->scores != NULL ? a->scores + begin * H * a->score_stride : t->scores;
    sl_rows rows = {SL_SIZE(sl_rows),
                    a->rows->batch,
                    (a->rows->index != NULL ? a->rows->index : self->iota) + begin,
                    NULL,
                    (int32_t)n,
                    0};
    sl_attend sub = *a;
    sub.rows = &rows;
    sub.q.data = (float *)a->q.data + begin * a->q.stride[0];
    sub.q.shape[0] = n;
    sub.o.data = (float *)a->o.data + begin * a->o.stride[0];
    sub.o.shape[0] = n;
    sub.row_scale = a->row_scale != NULL ? a->row_scale + begin : NULL;
    sub.lse = lse;
    sub.scores = scores;
    sub.score_stride = j->stride;
    sub.want = a->want | SL_WANT_SCORES | SL_WANT_LSE;
    j->scores = scores;
    j->lse = lse;
    if (self->half_scores && a->scores != NULL)
        return SL_E_UNIMPLEMENTED; /* the caller's scores are not ours to round */
    SL_TRY(self->ops->attend(self->host, &sub));
    if (self->half_scores)
        round_scores(self, a, j, scores);
    return SL_OK;
}

/* The longest row of a call, and whether all its rows are dense. */
static int64_t longest(const sl_instance *self, const sl_attend *a, const tidal_heads *h, int by_seq, int *all_dense) {
    const sl_batch *b = a->rows->batch;
    int64_t most = 0;
    *all_dense = 1;
    for (int64_t i = 0; i < a->rows->n; i++) {
        int32_t r = tidal_row(a->rows, i);
        for (int64_t k = 0; k < h->K; k++) {
            keys s = keys_of(a->view->seqs[b->row_seq[r]], k);
            int64_t n = count_keys(b, &s, r);
            most = n > most ? n : most;
            *all_dense &= is_dense(self, by_seq ? s.n_committed + 1 : n);
        }
    }
    return most;
}

/* Slots of one unit; its lists get their size. -1: more units than a step can have. */
static int64_t add_unit(sl_instance *self, const block *j, int64_t key, int32_t r, int by_seq, int everything) {
    const sl_batch *b = j->a->rows->batch;
    tidal_lists *l = &self->lists;
    int64_t slot = tidal_lists_add(l, key, everything);
    for (int64_t list = 0; slot >= 0 && list < j->heads.n_lists; list++) {
        keys s = keys_of(j->a->view->seqs[b->row_seq[r]], kv_head_of(self, &j->heads, list));
        int64_t n = by_seq ? s.n_committed + 1 : count_keys(b, &s, r),
                *begin = l->begin + slot * j->heads.n_lists + list;
        plan p = plan_of(self, n, by_seq ? s.n_committed : n);
        begin[1] = begin[0] + (everything ? 0 : plan_size(&p));
    }
    return slot;
}

/* Rows of one sequence that begin at row i of the call; `most` at most. */
static int64_t same_seq(const sl_rows *rows, int64_t i, int64_t most) {
    int64_t n = 1;
    while (n < most && i + n < rows->n &&
           rows->batch->row_seq[tidal_row(rows, i + n)] == rows->batch->row_seq[tidal_row(rows, i)])
        n++;
    return n;
}

sl_status tidal_attend_select(sl_instance *self, const sl_attend *a, int32_t owner, int by_seq) {
    block j = {.self = self, .a = a, .heads = tidal_heads_of(self, a->layer)};
    const sl_batch *b = a->rows->batch;
    int64_t n = a->rows->n, H = j.heads.H;
    int all_dense;
    scratch t = take_scratch(self);
    SL_TRY(check_view(self, a, &j.heads));
    int64_t most = longest(self, a, &j.heads, by_seq, &all_dense);
    if (most > self->max_keys || n > self->max_rows)
        return SL_E_RANGE;
    int32_t first = tidal_row(a->rows, 0);
    tidal_lists_begin(&self->lists, b->step, owner, (int32_t)j.heads.n_lists,
                      by_seq ? self->max_rows + b->row_seq[first] : first);
    if (all_dense) {
        for (int64_t i = 0; i < n; i += by_seq ? same_seq(a->rows, i, n) : 1) {
            int32_t r = tidal_row(a->rows, i);
            if (add_unit(self, &j, by_seq ? self->max_rows + b->row_seq[r] : r, r, by_seq, 1) < 0)
                return SL_E_RANGE;
        }
        return self->ops->attend(self->host, a);
    }
    j.stride = a->scores != NULL ? a->score_stride : padded(most);
    j.best = t.best;
    int64_t fit = self->score_floats / (H * j.stride);
    fit = a->scores != NULL || fit > n ? n : fit;
    for (; j.begin < n; j.begin = j.end) {
        j.end = j.begin + fit < n ? j.begin + fit : n;
        int32_t r = tidal_row(a->rows, j.begin), at = b->row_seq[r];
        if (by_seq) { /* the rows of a sequence come block by block, its lists when all are through */
            j.end = j.begin + same_seq(a->rows, j.begin, fit);
            j.n_committed = keys_of(a->view->seqs[at], 0).n_committed;
            if (j.begin == 0 || b->row_seq[tidal_row(a->rows, j.begin - 1)] != at) {
                j.seq_begin = j.begin;
                j.slot = add_unit(self, &j, self->max_rows + at, r, 1, 0);
            }
            if (j.slot < 0)
                return SL_E_RANGE;
            SL_TRY(attend_block(self, a, &j, &t));
            self->threads->parallel_for(self->host, self->rule.heads == TIDAL_KV_GROUP ? j.heads.K : H, 1, best_range,
                                        &j);
            if (j.end == n || b->row_seq[tidal_row(a->rows, j.end)] != at)
                SL_TRY(lists_of_seq(&j, &t));
            continue;
        }
        for (int64_t i = j.begin; i < j.end; i++) {
            int64_t slot = add_unit(self, &j, tidal_row(a->rows, i), tidal_row(a->rows, i), 0, 0);
            if (slot < 0)
                return SL_E_RANGE;
            j.slot = i == j.begin ? slot : j.slot;
        }
        SL_TRY(attend_block(self, a, &j, &t));
        SL_TRY(lists_of_rows(&j, &t));
    }
    tidal_count(self, "rows_selected", n);
    return SL_OK;
}
