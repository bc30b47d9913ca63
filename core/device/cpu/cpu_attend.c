/* The attend operation: turns views, masks, trees and row sets into ordered key lists for the kernel, and splits the
 * work over workers by KV head and tiles of rows. */
#include "cpu_attend_pieces.h"
#include "cpu_ops.h"

#include <string.h>

#include "sl_tensor.h"

enum { TILE = SLI_ATTEND_TILE };

/* What all work items of one call share. */
typedef struct job {
    sli_ops_context *ctx;
    const sl_host *host;
    const sl_attend *a;
    const sl_batch *batch;
    int64_t n_rows, H, K, D, Dv, G;
    int64_t tile;
    int64_t n_tiles;           /* over all sequences */
    int32_t first_seq, n_seqs; /* places that have active rows */
    int apart;                 /* query heads one by one in the column sums */
} job;

static int32_t row_at(const sl_rows *rows, int64_t i) { return rows->index != NULL ? rows->index[i] : (int32_t)i; }

/* Active rows are ascending, hence those of one sequence neighbours: the stretch [*begin, *end) of place `at`. */
static void rows_of(const job *j, int32_t at, int64_t *begin, int64_t *end) {
    const sl_batch *b = j->batch;
    int32_t first = row_at(j->a->rows, 0);
    *begin = b->row_begin[at] - first;
    *end = b->row_begin[at + 1] - first;
    *begin = *begin < 0 ? 0 : *begin;
    *end = *end > j->n_rows ? j->n_rows : *end;
}

/* ---- which keys
 * ------------------------------------------------------------------------------------------------------ */

/* First committed slot whose token index is at least `token`. */
static int64_t slot_of_token(const sl_segment *s, int64_t token) {
    if (s->token_index == NULL) {
        int64_t slot = token - s->token_base;
        return slot < 0 ? 0 : slot > s->n_committed ? s->n_committed : slot;
    }
    int64_t lo = 0, hi = s->n_committed;
    while (lo < hi) {
        int64_t mid = (lo + hi) / 2;
        if (s->token_index[mid] < token)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Staged rows that row r (of the sequence at place `at`) sees, as slots in token order: ancestors, or all up to itself.
 */
static int64_t staged_slots(const job *j, const sl_segment *s, int32_t at, int32_t r, int64_t from_token,
                            int32_t *out) {
    const sl_batch *b = j->batch;
    const sl_tree *tree = b->tree[at];
    int32_t first = b->row_begin[at];
    int64_t n = 0;
    if (s->n_staged == 0) /* they stand in another segment */
        return 0;
    if (tree == NULL) {
        for (int32_t i = first; i <= r; i++)
            if (b->token_index[i] >= from_token)
                out[n++] = (int32_t)(s->n_committed + i - first);
        return n;
    }
    for (int32_t node = r - first; node >= 0 && b->token_index[first + node] >= from_token; node = tree->parent[node])
        n++;
    int64_t at_slot = n;
    for (int32_t node = r - first; at_slot > 0; node = tree->parent[node])
        out[--at_slot] = (int32_t)(s->n_committed + node);
    return n;
}

static const sl_mask *mask_of(const sl_attend *a, int64_t kv_head) {
    return a->head_masks != NULL ? a->head_masks[kv_head] : a->mask;
}

/* First slot of a chain whose token index is at least `token`: the staged rows stand behind the committed ones. */
static int64_t slot_of_chain(const sl_segment *s, int64_t first_staged, int64_t token) {
    return token <= first_staged ? slot_of_token(s, token) : s->n_committed + (token - first_staged);
}

/* The ordered keys of one row. buffer: room for a list and the staged slots. */
static slk_visible visible(const job *j, const sl_segment *s, int32_t at, int64_t i, int64_t head, int32_t *buffer) {
    const sl_batch *b = j->batch;
    const sl_mask *mask = mask_of(j->a, head / j->G);
    const sl_rowset *set = j->a->view->slots;
    int32_t r = row_at(j->a->rows, i), first = b->row_begin[at];
    int64_t t = b->token_index[r], from = mask->window > 0 && t >= mask->window ? t - mask->window + 1 : 0;
    int64_t lo = from > 0 && !s->visible_to_all ? slot_of_token(s, from) : 0;
    slk_visible out = {.slots = buffer};
    if (set != NULL) {
        int64_t unit = set->per_row ? i : at, group = set->n_groups == 1      ? 0
                                                      : set->n_groups == j->K ? head / j->G
                                                                              : head;
        const int64_t *list = &set->list_begin[unit * set->n_groups + group];
        for (int64_t k = list[0]; k < list[1]; k++)
            if (set->token[k] >= lo)
                buffer[out.n_slots++] = set->token[k];
        if (!set->own_rows)
            out.n_slots += staged_slots(j, s, at, r, from, buffer + out.n_slots);
        return out;
    }
    if (mask->interval != NULL) {
        const int64_t *interval = mask->interval + 4 * (int64_t)r, staged = b->token_index[first];
        for (int k = 0; k < 2 && b->tree[at] == NULL; k++) {
            int64_t begin = interval[2 * k] > from ? interval[2 * k] : from,
                    end = interval[2 * k + 1] < t + 1 ? interval[2 * k + 1] : t + 1;
            out.lo[k] = (int32_t)slot_of_chain(s, staged, begin);
            out.hi[k] = (int32_t)(end > begin ? slot_of_chain(s, staged, end) : out.lo[k]);
        }
        if (b->tree[at] == NULL)
            return out;
        for (int k = 0; k < 2; k++) {
            int64_t begin = slot_of_token(s, interval[2 * k]);
            out.lo[k] = (int32_t)(begin < lo ? lo : begin);
            out.hi[k] = (int32_t)slot_of_token(s, interval[2 * k + 1]);
        }
        int64_t n = staged_slots(j, s, at, r, from, buffer);
        for (int64_t k = 0; k < n; k++) {
            int64_t token = b->token_index[first + buffer[k] - s->n_committed];
            if ((token >= interval[0] && token < interval[1]) || (token >= interval[2] && token < interval[3]))
                buffer[out.n_slots++] = buffer[k];
        }
        return out;
    }
    out.lo[0] = (int32_t)lo;
    out.hi[0] = (int32_t)s->n_committed;
    if (b->tree[at] != NULL) {
        out.n_slots = staged_slots(j, s, at, r, from, buffer);
        return out;
    }
    /* a chain: staged tokens count up from the first one */
    int64_t skip = from > b->token_index[first] ? from - b->token_index[first] : 0;
    out.lo[1] = (int32_t)(s->n_committed + skip);
    out.hi[1] = (int32_t)(s->n_staged > 0 ? s->n_committed + (r - first) + 1 : 0);
    return out;
}

/* ---- one work item
 * ----------------------------------------------------------------------------------------------------- */

/* Where the column sums of query heads [head, ...) go: a stretch for each sequence or row, and in it for each head. */
static float *colsum_of(const job *j, int32_t at, int64_t row, int64_t head) {
    int64_t unit = j->a->colsum_per_row ? row : at, kept = j->apart ? head : head / j->G;
    return j->a->colsum + (unit * (j->apart ? j->H : j->K) + kept) * j->a->score_stride;
}

/* Does the row count in the column sums? Rows have their own stretch, or weights of 0 and 1 (see check). */
static int counts(const job *j, int64_t row) {
    return (j->a->want & SL_WANT_COLSUM) && (j->a->colsum_weight == NULL || j->a->colsum_weight[row] != 0);
}

/* Rows [begin, end) of the sequence at place `at`, query heads [head, head + g) of one KV head: one segment of plain
 * rows, or, with pieces, the segments that make up s. */
static void attend_segment(const job *j, const sl_segment *s, const slk_piece *pieces, int64_t n_pieces, int32_t at,
                           int64_t begin, int64_t end, int64_t head, int64_t g, float *o, float *lse, int64_t o_row,
                           int64_t lse_row, int32_t worker) {
    const sl_attend *a = j->a;
    char *scratch = j->ctx->worker_scratch[worker];
    int32_t *slots = (int32_t *)(scratch + j->ctx->slots_offset);
    int64_t kv_head = head / j->G;
    slk_visible rows[TILE];
    for (int64_t i = begin; i < end; i++) {
        rows[i - begin] = visible(j, s, at, i, head, slots);
        slots += rows[i - begin].n_slots;
    }
    slk_attend args = {
        .q = (const float *)a->q.data + (begin * j->H + head) * j->D,
        .q_row = j->H * j->D,
        .q_head = j->D,
        .o = o,
        .o_row = o_row,
        .o_head = j->Dv,
        .lse = lse,
        .lse_row = lse_row,
        .page_rows = s->page_rows,
        .pieces = pieces,
        .n_pieces = n_pieces,
        .rows = rows,
        .n_rows = end - begin,
        .group = g,
        .d_k = j->D,
        .d_v = j->Dv,
        .scale = (float)a->scale,
        .scratch = scratch,
    };
    if (n_pieces == 0) {
        args.k = sli_plain_rows(s->k_pages, s->k_dtype, s->k_row_stride, s->k_head_stride, kv_head - s->head_begin);
        args.v = sli_plain_rows(s->v_pages, s->v_dtype, s->v_row_stride, s->v_head_stride, kv_head - s->head_begin);
    }
    if (a->scores != NULL) {
        args.scores = a->scores + (begin * j->H + head) * a->score_stride;
        args.scores_row = j->H * a->score_stride;
        args.scores_head = a->score_stride;
    }
    if (counts(j, begin)) {
        if (a->scores == NULL) {
            args.scores = (float *)(scratch + j->ctx->scores_offset);
            args.scores_head = j->ctx->max_keys;
            args.scores_row = g * j->ctx->max_keys;
        }
        args.prob_sum = colsum_of(j, at, begin, head);
        if (a->colsum_per_row && (j->apart || head % j->G == 0))
            memset(args.prob_sum, 0, sizeof(float) * (size_t)(s->n_committed + s->n_staged));
    }
    j->ctx->kernels->attend(&args);
    if (args.prob_sum != NULL && a->colsum_per_row && a->colsum_weight != NULL && (j->apart || head % j->G == j->G - g))
        for (int64_t i = 0; i < s->n_committed + s->n_staged; i++)
            args.prob_sum[i] *= a->colsum_weight[begin];
}

/* All public segments that hold this KV head. Those that follow each other are one run of slots; the parts of others
 * are joined by their log-sum-exp. */
static void attend_heads(const job *j, int32_t at, int64_t begin, int64_t end, int64_t head, int64_t g,
                         int32_t worker) {
    const sl_seq_view *view = j->a->view->seqs[at];
    slk_piece *pieces = (slk_piece *)((char *)j->ctx->worker_scratch[worker] + j->ctx->pieces_offset);
    sli_piece *quants = (sli_piece *)(pieces + j->ctx->max_pieces);
    sl_segment whole;
    int64_t n_joined = sli_segments_join(view, head / j->G, j->ctx->max_pieces, &whole);
    if (n_joined > 0) {
        int in_pieces = n_joined > 1 || whole.kind == SL_SEGMENT_QROWS;
        int64_t n = in_pieces ? sli_segments_pieces(view, head / j->G, j->D, j->Dv, pieces, quants) : 0;
        attend_segment(j, &whole, pieces, n, at, begin, end, head, g,
                       (float *)j->a->o.data + (begin * j->H + head) * j->Dv,
                       j->a->lse != NULL ? j->a->lse + begin * j->H + head : NULL, j->H * j->Dv, j->H, worker);
        return;
    }
    float *o = (float *)j->a->o.data + (begin * j->H + head) * j->Dv;
    float *lse = j->a->lse != NULL ? j->a->lse + begin * j->H + head : NULL;
    float *part_o = (float *)((char *)j->ctx->worker_scratch[worker] + j->ctx->part_offset),
          *part_lse = part_o + TILE * j->H * j->Dv;
    float *first_lse = part_lse + TILE * j->H;
    int n_public = 0, seen = 0;
    int64_t kv_head = head / j->G;
    for (int32_t k = 0; k < view->n_segments; k++)
        n_public += view->segments[k]->kind != SL_SEGMENT_OPAQUE && kv_head >= view->segments[k]->head_begin &&
                    kv_head < view->segments[k]->head_begin + view->segments[k]->n_heads;
    int64_t lse_row = j->H;
    if (n_public > 1 && lse == NULL)
        lse = first_lse, lse_row = g;
    for (int32_t k = 0; k < view->n_segments; k++) {
        const sl_segment *s = view->segments[k];
        if (s->kind == SL_SEGMENT_OPAQUE || kv_head < s->head_begin || kv_head >= s->head_begin + s->n_heads)
            continue;
        sl_seq_view alone = {SL_SIZE(sl_seq_view), &view->segments[k], 0, 1, 0};
        int64_t n_pieces =
            s->kind == SL_SEGMENT_QROWS ? sli_segments_pieces(&alone, kv_head, j->D, j->Dv, pieces, quants) : 0;
        if (seen++ == 0) {
            attend_segment(j, s, pieces, n_pieces, at, begin, end, head, g, o, lse, j->H * j->Dv, lse_row, worker);
            continue;
        }
        attend_segment(j, s, pieces, n_pieces, at, begin, end, head, g, part_o, part_lse, g * j->Dv, g, worker);
        for (int64_t i = 0; i < end - begin; i++)
            for (int64_t h = 0; h < g; h++)
                j->ctx->kernels->lse_merge(o + (i * j->H + h) * j->Dv, &lse[i * lse_row + h],
                                           part_o + (i * g + h) * j->Dv, &part_lse[i * g + h], 1, j->Dv);
    }
}

/* Column sums over rows are added up by one worker a head. */
static int whole_heads(const sl_attend *a) { return (a->want & SL_WANT_COLSUM) && !a->colsum_per_row; }

/* Items are numbered KV head by KV head, so that workers get whole heads and causal tiles spread evenly. */
static void attend_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    const job *j = user;
    int64_t per_head = whole_heads(j->a) ? j->n_tiles : 1;
    for (int64_t item = begin * per_head; item < end * per_head; item++) {
        int64_t kv_head = item / j->n_tiles, tile = item % j->n_tiles;
        for (int32_t at = j->first_seq; at < j->first_seq + j->n_seqs; at++) {
            int64_t first, last;
            rows_of(j, at, &first, &last);
            int64_t n = (last - first + j->tile - 1) / j->tile;
            if (tile >= n) {
                tile -= n;
                continue;
            }
            int64_t row = first + tile * j->tile, stop = row + j->tile < last ? row + j->tile : last;
            const sl_rowset *set = j->a->view->slots;
            if ((set != NULL && set->n_groups > j->K) || ((j->a->want & SL_WANT_COLSUM) && j->apart))
                for (int64_t h = 0; h < j->G; h++)
                    attend_heads(j, at, row, stop, kv_head * j->G + h, 1, worker);
            else
                attend_heads(j, at, row, stop, kv_head * j->G, j->G, worker);
            break;
        }
    }
}

/* Column sums, scores and row sets speak of slots, hence of heads whose segments are one run of them; summed rows count
 * whole or not at all. */
static sl_status check_slots(const sli_ops_context *ctx, const sl_attend *a) {
    if ((a->want & SL_WANT_COLSUM) && !a->colsum_per_row && a->colsum_weight != NULL)
        for (int64_t i = 0; i < a->rows->n; i++)
            if (a->colsum_weight[i] != 0 && a->colsum_weight[i] != 1)
                return SL_E_UNIMPLEMENTED;
    for (int32_t i = 0; i < a->view->n_seqs; i++) {
        const sl_seq_view *v = a->view->seqs[i];
        int by_slots = (a->want & SL_WANT_COLSUM) || a->scores != NULL || a->view->slots != NULL;
        int32_t n_heads = 0;
        for (int32_t k = 0; by_slots && k < v->n_segments; k++) {
            int32_t end = v->segments[k]->head_begin + v->segments[k]->n_heads;
            n_heads = v->segments[k]->kind != SL_SEGMENT_OPAQUE && end > n_heads ? end : n_heads;
        }
        for (int32_t h = 0; h < n_heads; h++) {
            sl_segment whole;
            if (sli_segments_join(v, h, ctx->max_pieces, &whole) == 0)
                return SL_E_UNIMPLEMENTED;
        }
    }
    return SL_OK;
}

static int64_t heads_of(const sl_seq_view *v) {
    int64_t most = 0;
    for (int32_t k = 0; k < v->n_segments; k++) {
        int64_t heads = v->segments[k]->head_begin + v->segments[k]->n_heads;
        most = heads > most ? heads : most;
    }
    return most;
}

/* Can these kernels read the view? */
static sl_status check(const sli_ops_context *ctx, const sl_attend *a) {
    if (a->rows->n < 1 || a->q.ndim != 3 || a->o.ndim != 3 || a->softcap != 0)
        return SL_E_UNIMPLEMENTED;
    for (int64_t k = 0, n = a->head_masks != NULL ? heads_of(a->view->seqs[0]) : 1; k < n; k++)
        if (mask_of(a, k)->n_spans > 0 || mask_of(a, k)->base != SL_MASK_CAUSAL)
            return SL_E_UNIMPLEMENTED;
    for (int32_t i = 0; i < a->view->n_seqs; i++)
        for (int32_t k = 0; k < a->view->seqs[i]->n_segments; k++)
            if (!sli_segment_is_readable(a->view->seqs[i]->segments[k]))
                return SL_E_UNIMPLEMENTED;
    return check_slots(ctx, a);
}

sl_status sli_op_attend(const sl_host *host, const sl_attend *a) {
    sli_ops_context *ctx = sli_ops_context_of(host);
    SL_TRY(check(ctx, a));
    job j = {.ctx = ctx,
             .host = host,
             .a = a,
             .batch = a->rows->batch,
             .n_rows = a->rows->n,
             .H = a->q.shape[1],
             .D = a->q.shape[2],
             .Dv = a->o.shape[2],
             .tile = a->view->slots != NULL || (a->want & SL_WANT_COLSUM) ? 1 : TILE};
    j.K = heads_of(a->view->seqs[0]);
    j.G = j.H / j.K;
    j.apart = a->colsum_heads > j.K;
    j.first_seq = j.batch->row_seq[row_at(a->rows, 0)];
    j.n_seqs = j.batch->row_seq[row_at(a->rows, j.n_rows - 1)] - j.first_seq + 1;
    for (int32_t at = j.first_seq; at < j.first_seq + j.n_seqs; at++) {
        int64_t first, last;
        rows_of(&j, at, &first, &last);
        j.n_tiles += (last - first + j.tile - 1) / j.tile;
    }
    sli_pool_parallel_for(ctx->pool, whole_heads(a) ? j.K : j.K * j.n_tiles, 1, attend_range, &j);
    return SL_OK;
}
