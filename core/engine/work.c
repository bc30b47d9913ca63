/* Running work items: rows that plugins want computed. Items of one model that run alike share a batch. */
#include "engine.h"

#include "draft_fork.h"

#include <assert.h>
#include <string.h>

#include "branch.h"
#include "chunk.h"
#include "engine/rewrite.h"
#include "sl_error.h"
#include "transcript.h"

static sl_status refuse(sl_work_result *r, sl_status status) {
    r->status = status;
    return status;
}

/* A branch has rows of its own on the target, of the plugin's making. */
static sl_status check_branch(const sluice_engine *e, const sl_work *w) {
    int64_t n = e->by_id[w->seq]->n_branch;
    if (w->branch < 0 || w->branch > e->max_branches || w->model != 0)
        return SL_E_UNIMPLEMENTED;
    if (w->kv != SL_WORK_KV_OWN)
        return SL_E_INVALID;
    return w->begin > (n > 0 ? n : 0) ? SL_E_RANGE : SL_OK;
}

/* Is the item well formed? Everything a plugin could get wrong is answered with a status, never trusted. */
static sl_status check(const sluice_engine *e, const sl_work *w) {
    const sli_network *net = w->model == 0 ? &e->target : &e->draft;
    if (w->model < 0 || w->model > 1 || net->model == NULL)
        return SL_E_NOT_FOUND;
    if (w->seq < 0 || w->seq >= e->max_sessions || e->by_id[w->seq] == NULL)
        return SL_E_INVALID;
    if (w->n_rows < 1 || w->begin < 0 || w->begin + w->n_rows > net->limits.max_context)
        return SL_E_RANGE;
    if (w->enter_layer < 0 || w->enter_layer >= net->info->n_layers || w->exit_layer > net->info->n_layers)
        return SL_E_RANGE;
    if ((w->rows_kind == SL_WORK_IDS) != (w->token != NULL) || (w->enter_layer > 0 && w->rows_kind != SL_WORK_HIDDEN))
        return SL_E_INVALID;
    if (w->rows_kind != SL_WORK_IDS && w->embeddings == NULL)
        return SL_E_INVALID;
    if (w->when == SL_WORK_BACKGROUND)
        return SL_E_UNIMPLEMENTED; /* reserved capabilities, see docs/abi.md */
    if (w->kv >= SL_WORK_KV_OVERWRITE && (w->kv != SL_WORK_KV_DRAFT || w->model != 0 || e->forks == NULL))
        return SL_E_UNIMPLEMENTED;
    if (w->branch != 0)
        SL_TRY(check_branch(e, w));
    else if (w->model == 0 && w->kv == SL_WORK_KV_OWN)
        return SL_E_INVALID; /* only the verification commits rows of the target */
    if (w->exit_at > SL_WORK_EXIT_QKV || (w->exit_at == SL_WORK_EXIT_QKV && w->exit_layer <= w->enter_layer))
        return SL_E_INVALID;
    if (w->exit_at == SL_WORK_EXIT_QKV &&
        (w->logits != SL_WORK_LOGITS_NONE || (w->attn_layers != NULL && !w->attn_layers[w->exit_layer - 1])))
        return SL_E_INVALID;
    if (w->exit_at == SL_WORK_EXIT_QKV && (net->layers[w->exit_layer - 1].layout.flags & SL_KV_FUSES_ROPE))
        return SL_E_UNIMPLEMENTED; /* q and k would be those before RoPE */
    SL_TRY(sli_taps_check(net, w));
    if (w->exit_layer >= 0 && w->exit_layer < net->info->n_layers && w->logits != SL_WORK_LOGITS_NONE)
        return SL_E_INVALID;
    return SL_OK;
}

/* Opens or cuts the cache in which the item's rows are staged; returns the sequence id in *id. */
static sl_status prepare_cache(sluice_engine *e, const sl_work *w, int32_t *id, sl_error *err) {
    sluice_session *s = e->by_id[w->seq];
    sli_network *net = w->model == 0 ? &e->target : &e->draft;
    int64_t committed = w->model == 0 ? s->n_kv : s->n_draft;
    if (w->branch != 0)
        return sli_branch_prepare(e, s, w->begin, w->n_rows, id, err);
    if (w->begin > committed && w->kv != SL_WORK_KV_DRAFT)
        return SL_E_RANGE;
    if (w->kv == SL_WORK_KV_DRAFT)
        return sli_draft_fork_enter(e, w, id, err);
    if (w->kv == SL_WORK_KV_SCRATCH) {
        *id = sli_scratch_id(e->max_sessions);
        SL_TRY(sli_network_seq_open(net, *id, w->begin > 0 ? w->seq : -1, w->begin, err)); /* empty: nothing to share */
        sl_status status = sli_network_seq_grow(net, *id, w->begin + w->n_rows, err);
        if (status < 0)
            sli_network_seq_close(net, *id);
        return status;
    }
    *id = w->seq;
    if (w->begin < s->n_draft) {
        SL_TRY(sli_network_seq_truncate(net, w->seq, w->begin, err));
        s->n_draft = w->begin;
    }
    return SL_OK;
}

/* Does the item end in front of the head? Then its result is the residual, if there is one. */
static int ends_early(const sli_network *net, const sl_work *w) {
    return w->exit_layer > 0 && w->exit_layer < net->info->n_layers && w->exit_at == SL_WORK_EXIT_RESIDUAL;
}

/* Tree: verify; one row: decode; several: prefill, whatever is left of them behind the last whole chunk. */
static uint32_t stage_of(const sl_work *w) {
    return w->parent != NULL ? SL_STAGE_VERIFY : w->n_rows == 1 ? SL_STAGE_DECODE : SL_STAGE_PREFILL;
}

/* Stages, computes and commits items [0, n) of one model in one batch; a scratch fork is dropped by the caller. whole:
 * the first of them as it was before it was cut into chunks; feed: where rows of taps go, for an item alone, or NULL.
 */
static sl_status run_batch(sluice_engine *e, const sl_work *const *works, const int32_t *ids, int n,
                           const sl_work *whole, const int32_t *first_logits, float *hidden, sli_tap_feed *feed,
                           sl_error *err) {
    sli_network *net = works[0]->model == 0 ? &e->target : &e->draft;
    sli_batch *b = &e->work_batch;
    sl_tree trees[1];
    sli_batch_clear(b, works[0]->model, ++net->step);
    for (int i = 0; i < n; i++) {
        const sl_work *w = works[i];
        const sl_tree *tree = NULL;
        if (w->parent != NULL) { /* alone in its batch: see sli_engine_work */
            trees[0] = (sl_tree){
                .struct_size = SL_SIZE(sl_tree), .token = w->token, .parent = w->parent, .n_nodes = w->n_rows};
            tree = &trees[0];
        }
        const float *position = w->position;
        if (position == NULL && w->model == 0 && w->branch == 0 && whole->begin > 0) /* behind rows of the session */
            position = sli_session_positions(e, e->by_id[w->seq], w->begin, w->n_rows, tree);
        sli_batch_add(b, ids[i], w->begin, stage_of(whole), w->token, w->n_rows, tree, position);
    }
    const sl_work *w = works[0];
    b->view.attn_layers = w->attn_layers;
    b->view.ffn_layers = w->ffn_layers;
    SL_TRY(sli_network_begin(net, &b->view, err));
    sli_pass pass = {.batch = &b->view,
                     .hidden = w->rows_kind == SL_WORK_IDS ? NULL : w->embeddings,
                     .attn_layers = w->attn_layers,
                     .ffn_layers = w->ffn_layers,
                     .enter_layer = w->enter_layer,
                     .exit_layer = w->exit_layer > 0 ? w->exit_layer : 0,
                     .exit_at = w->exit_at};
    if (feed != NULL)
        pass.tap = sli_taps_take, pass.tap_user = feed;
    SL_TRY(sli_network_forward(net, &pass, err));
    if (feed != NULL)
        feed->done += b->view.n_rows;
    if (hidden != NULL)
        memcpy(hidden, net->x, sizeof *hidden * (size_t)b->view.n_rows * (size_t)net->info->hidden);
    if (hidden != NULL)
        SL_TRY(sli_rewrite_residual(net, 1, hidden, b->view.n_rows));
    for (int i = 0; i < n; i++) {
        if (works[i]->logits == SL_WORK_LOGITS_NONE)
            continue;
        int32_t rows[SL_MAX_TREE_NODES], count = 0;
        int32_t begin = works[i]->logits == SL_WORK_LOGITS_LAST ? b->row_begin[i + 1] - 1 : b->row_begin[i];
        float *to = e->work_logits + (int64_t)first_logits[i] * net->info->vocab;
        while (begin < b->row_begin[i + 1] && count < SL_MAX_TREE_NODES)
            rows[count++] = begin++;
        SL_TRY(sli_network_head(net, rows, count, to, err));
    }
    int32_t total = 0;
    e->path_begin[0] = 0;
    for (int i = 0; i < n; i++) {
        for (int32_t r = 0; r < works[i]->n_rows; r++)
            e->path[total++] = r;
        e->path_begin[i + 1] = total;
        e->next[i] = -1;
    }
    sl_commit commit = {SL_SIZE(sl_commit), &b->view, e->path_begin, e->path, e->next};
    SL_TRY(sli_network_commit(net, &commit, err));
    for (int i = 0; i < n && w->kv == SL_WORK_KV_OWN; i++) {
        sluice_session *s = e->by_id[works[i]->seq];
        *(w->branch != 0 ? &s->n_branch : &s->n_draft) = works[i]->begin + works[i]->n_rows;
    }
    return SL_OK;
}

/* Plain items over token ids may share a batch when the same layers run; everything else runs alone. */
static int is_plain(const sl_work *w) {
    return w->rows_kind == SL_WORK_IDS && w->parent == NULL && w->enter_layer == 0 && w->exit_layer < 0 &&
           w->n_taps == 0 && w->branch == 0;
}

/* May the item be computed chunk by chunk? Its residual is handed over from one pass alone. */
static int can_be_cut(const sli_network *net, const sl_work *w) {
    return w->rows_kind == SL_WORK_IDS && w->parent == NULL && w->enter_layer == 0 && !ends_early(net, w);
}

static int run_alike(const sl_work *a, const sl_work *b) {
    return is_plain(a) && is_plain(b) && a->model == b->model && a->kv == b->kv && a->kv != SL_WORK_KV_SCRATCH &&
           a->attn_layers == b->attn_layers && a->ffn_layers == b->ffn_layers && (a->n_rows == 1) == (b->n_rows == 1);
}

static int is_fork(const sl_work *w) { return w->kv == SL_WORK_KV_SCRATCH || w->kv == SL_WORK_KV_DRAFT; }

/* Feeds the head of an item that is longer than a chunk; *w becomes the rest, and *first_logits the row of the rest's
 * logits. */
static sl_status shorten(sluice_engine *e, sl_work *w, int32_t id, int32_t *first_logits, sli_tap_feed *feed,
                         sl_error *err) {
    sli_network *net = w->model == 0 ? &e->target : &e->draft;
    const sl_work whole = *w;
    int64_t most;
    while ((most = sli_chunk_rows(net, w->begin, w->n_rows, net->limits.max_rows)) < w->n_rows) {
        sl_work head = *w;
        head.n_rows = (int32_t)most;
        head.logits = w->logits == SL_WORK_LOGITS_ALL ? SL_WORK_LOGITS_ALL : SL_WORK_LOGITS_NONE;
        const sl_work *one = &head;
        SL_TRY(run_batch(e, &one, &id, 1, &whole, first_logits, NULL, feed, err));
        *first_logits += head.logits == SL_WORK_LOGITS_ALL ? (int32_t)most : 0;
        w->token += most, w->begin += most, w->n_rows -= (int32_t)most;
        if (w->position != NULL)
            w->position += most;
    }
    return SL_OK;
}

sl_status sli_engine_work(sluice_engine *e, const sl_work *const *works, int n, sl_work_result *results,
                          sl_error *err) {
    int32_t used_logits = 0;
    int64_t used_hidden = 0, tap_bytes = 0;
    for (int i = 0; i < n; i++) {
        results[i] = (sl_work_result){.struct_size = SL_SIZE(sl_work_result), .work = works[i]};
        sl_status s = check(e, works[i]);
        if (s < 0)
            refuse(&results[i], s);
        else if (works[i]->n_taps > 0)
            tap_bytes += sli_taps_bytes(works[i]->model == 0 ? &e->target : &e->draft, works[i]);
    }
    if (sli_taps_reserve(&e->work_taps, tap_bytes) < 0)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for %lld bytes of tapped rows", (long long)tap_bytes);
    for (int i = 0; i < n;) {
        if (results[i].status < 0) {
            i++;
            continue;
        }
        /* a run of items that can share a batch: same model and cache kind, different sequences */
        sl_work items[64];
        const sl_work *batch[64];
        int32_t ids[64], first[64];
        int count = 0;
        int64_t rows = 0;
        const sli_network *net = works[i]->model == 0 ? &e->target : &e->draft;
        sli_tap_feed feed, *taps = NULL;
        sl_status status = SL_OK;
        int j = i;
        for (; j < n && count < 64 && count < e->work_batch.max_seqs; j++) {
            const sl_work *w = works[j];
            if (results[j].status < 0)
                break;
            if (count > 0 && !run_alike(w, works[i]))
                break;
            int repeated = 0;
            for (int m = 0; m < count; m++)
                repeated |= batch[m]->seq == w->seq;
            int32_t want = w->logits == SL_WORK_LOGITS_NONE ? 0 : w->logits == SL_WORK_LOGITS_LAST ? 1 : w->n_rows;
            if (repeated || (count > 0 && rows + w->n_rows > net->limits.max_rows))
                break;
            if (used_logits + want > e->logit_rows || want > SL_MAX_TREE_NODES) {
                if (count > 0)
                    break;
                status = refuse(&results[j], SL_E_RANGE);
                j++;
                break;
            }
            if (ends_early(net, w) && used_hidden + w->n_rows * (int64_t)net->info->hidden > e->work_hidden_cap) {
                status = refuse(&results[j], SL_E_RANGE); /* alone in its batch: see is_plain */
                j++;
                break;
            }
            items[count] = *w;
            first[count] = used_logits;
            feed = (sli_tap_feed){.result = &results[j], .stage = stage_of(w)};
            taps = w->n_taps > 0 ? &feed : NULL; /* then the item is alone */
            status = prepare_cache(e, w, &ids[count], err);
            if (is_fork(w) && (status == SL_E_RANGE || status == SL_E_INVALID)) { /* the drafter goes on without */
                status = refuse(&results[j], status);
                j += count == 0;
                break;
            }
            if (taps != NULL)
                sli_taps_place(&e->work_taps, net, &results[j]);
            if (status >= 0 && can_be_cut(net, w))
                status = shorten(e, &items[count], ids[count], &first[count], taps, err);
            else if (status >= 0 && w->n_rows > net->limits.max_rows)
                status = SL_E_RANGE;
            if (status < 0 && w->kv == SL_WORK_KV_SCRATCH)
                sli_network_seq_close(works[j]->model == 0 ? &e->target : &e->draft, ids[count]);
            if (status < 0)
                return status == SL_E_RANGE
                           ? sl_fail(err, status, "work item: rows [%lld, +%d) do not fit the cache of sequence %d",
                                     (long long)w->begin, w->n_rows, w->seq)
                           : status;
            if (want > 0)
                results[j].logits = e->work_logits + (int64_t)used_logits * net->info->vocab;
            used_logits += want;
            batch[count] = &items[count];
            rows += items[count].n_rows;
            count++;
        }
        if (count > 0) {
            float *hidden = ends_early(net, batch[0]) ? e->work_hidden + used_hidden : NULL;
            status = run_batch(e, batch, ids, count, works[i], first, hidden, taps, err);
            if (status >= 0 && taps != NULL)
                status = sli_taps_finish(net, &results[i]);
            if (hidden != NULL) {
                results[i].hidden = hidden;
                used_hidden += batch[0]->n_rows * (int64_t)net->info->hidden;
            }
            if (batch[0]->kv == SL_WORK_KV_SCRATCH)
                sli_network_seq_close(works[i]->model == 0 ? &e->target : &e->draft, ids[0]);
            if (status < 0)
                return status;
        }
        i = j;
    }
    return SL_OK;
}
