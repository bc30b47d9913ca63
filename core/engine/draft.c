/* Asking the drafter: rounds of propose and work until the trees are there, and telling it what became of them. */
#include "draft.h"

#include <string.h>

#include "base/ledger.h"
#include "draft_taps.h"
#include "draft_fork.h"
#include "engine.h"
#include "sl_error.h"

enum { MAX_ROUNDS = 256, MAX_WORKS = 256 };

struct sli_draft_buffers {
    sl_spec_seq *seqs;
    const sl_spec_seq **seq_ptrs;
    sl_work_result *results;
    const sl_work_result **result_ptrs;
    int32_t *topk;
    float *topk_logit;
    double draft_seconds;
};

sl_status sli_draft_buffers_create(sli_draft_buffers **out, int32_t max_seqs, int64_t max_rows, int32_t topk) {
    sli_draft_buffers *d = *out = sli_alloc(SLI_TAG_SCRATCH, sizeof *d);
    if (d == NULL)
        return SL_E_NO_MEMORY;
    d->seqs = sli_calloc(SLI_TAG_SCRATCH, (size_t)max_seqs, sizeof *d->seqs);
    d->seq_ptrs = sli_calloc(SLI_TAG_SCRATCH, (size_t)max_seqs, sizeof *d->seq_ptrs);
    d->results = sli_calloc(SLI_TAG_SCRATCH, MAX_WORKS, sizeof *d->results);
    d->result_ptrs = sli_calloc(SLI_TAG_SCRATCH, MAX_WORKS, sizeof *d->result_ptrs);
    d->topk = sli_calloc(SLI_TAG_SCRATCH, (size_t)(max_rows * topk + 1), sizeof *d->topk);
    d->topk_logit = sli_calloc(SLI_TAG_SCRATCH, (size_t)(max_rows * topk + 1), sizeof *d->topk_logit);
    if (d->seqs && d->seq_ptrs && d->results && d->result_ptrs && d->topk && d->topk_logit)
        return SL_OK;
    sli_draft_buffers_destroy(d);
    *out = NULL;
    return SL_E_NO_MEMORY;
}

void sli_draft_buffers_destroy(sli_draft_buffers *d) {
    if (d == NULL)
        return;
    sli_free(d->seqs);
    sli_free(d->seq_ptrs);
    sli_free(d->results);
    sli_free(d->result_ptrs);
    sli_free(d->topk);
    sli_free(d->topk_logit);
    sli_free(d);
}

void sli_spec_describe(const sluice_engine *e, const sluice_session *s, int32_t max_nodes, sl_spec_seq *out) {
    const sli_request *r = s->request;
    int64_t room = r->n_limit - s->n; /* tokens that may still be generated */
    *out = (sl_spec_seq){.struct_size = SL_SIZE(sl_spec_seq),
                         .token = s->tokens,
                         .n = s->n,
                         .seed = r->sampling.seed.seed,
                         .temperature = r->sampling.temperature,
                         .n_prompt = (int32_t)s->n_prompt,
                         .seq = s->id,
                         .sample = r->sampling.seed.sample};
    out->max_depth = (int32_t)(room - 1 < SL_MAX_TREE_NODES - 1 ? room - 1 : SL_MAX_TREE_NODES - 1);
    if (out->max_depth < 0)
        out->max_depth = 0;
    int64_t left = e->limits.max_context - s->n + 1; /* rows that the cache can still take */
    out->max_nodes = out->max_depth == 0 ? 1 : max_nodes < left ? max_nodes : (int32_t)left;
}

static int32_t budget(sluice_engine *e, int n, int n_other_rows) {
    int32_t most = (int32_t)e->limits.max_tree;
    if (n > 0 && (e->limits.max_rows - n_other_rows) / n < most)
        most = (int32_t)((e->limits.max_rows - n_other_rows) / n);
    if (e->drafter.api->budget == NULL || most <= 1)
        return most < 1 ? 1 : most;
    sl_spec_budget b = {SL_SIZE(sl_spec_budget), n, n_other_rows, e->step_ms, e->row_ms, most, most};
    if (e->drafter.api->budget(e->drafter.self, &b) < 0)
        return 1;
    return b.nodes < 1 ? 1 : b.nodes > most ? most : b.nodes;
}

/* Makes a drafter's tree ready for the step, or says what is wrong with it. */
static sl_status take_tree(const sluice_engine *e, sluice_session *s, const sl_spec_seq *seq, const sl_tree *t,
                           sl_error *err) {
    if (t->n_nodes > seq->max_nodes)
        return sl_fail(err, SL_E_RANGE, "the drafter gave a tree of %d nodes, %d are allowed", t->n_nodes,
                       seq->max_nodes);
    if (t->n_forced != 0)
        return sl_fail(err, SL_E_INVALID, "the drafter forced %d nodes, but no committed token waits for its row",
                       t->n_forced);
    SL_TRY(sli_tree_build(t, s->tokens[s->n - 1], e->target.info->vocab, s->draft, err));
    for (int32_t i = 0; i < s->draft->rows.n_nodes; i++)
        if (s->draft->depth[i] > seq->max_depth)
            return sl_fail(err, SL_E_RANGE, "the drafter gave a tree of depth %d, %d is allowed", s->draft->depth[i],
                           seq->max_depth);
    s->tree = s->draft->rows.n_nodes > 1 ? &s->draft->rows : NULL;
    return SL_OK;
}

static sl_status ask_drafter(sluice_engine *e, sluice_session **sessions, int n, int n_other_rows, sl_error *err) {
    for (int i = 0; i < n; i++)
        sessions[i]->tree = NULL;
    if (e->drafter.self == NULL || n == 0)
        return SL_OK;
    sli_draft_buffers *d = e->drafts;
    double begin = sli_now();
    int32_t nodes = budget(e, n, n_other_rows);
    for (int i = 0; i < n; i++) {
        sli_spec_describe(e, sessions[i], nodes, &d->seqs[i]);
        d->seq_ptrs[i] = &d->seqs[i];
        sli_request *r = sessions[i]->request;
        r->draws = (sli_draft_draw){.random = &r->random, .position = (uint32_t)sessions[i]->n};
    }
    sl_propose io = {.struct_size = SL_SIZE(sl_propose), .seqs = d->seq_ptrs, .n_seqs = n};
    if (nodes <= 1)
        return SL_OK;
    for (;;) {
        sl_status s = e->drafter.api->propose(e->drafter.self, &io, err);
        if (s < 0)
            return sl_fail_within(err, s, "drafter");
        if (s != SL_PENDING)
            break;
        if (io.n_works < 1 || io.n_works > MAX_WORKS || io.round >= MAX_ROUNDS)
            return sl_fail(err, SL_E_RANGE, "drafter: %d work items in round %d", io.n_works, io.round);
        SL_TRY(sli_engine_work(e, io.works, io.n_works, d->results, err));
        for (int i = 0; i < io.n_works; i++)
            d->result_ptrs[i] = &d->results[i];
        io.results = d->result_ptrs;
        io.n_results = io.n_works;
        io.n_works = 0;
        io.round++;
    }
    for (int i = 0; i < n && io.trees != NULL; i++) {
        const sl_tree *t = io.trees[i];
        if (t == NULL || t->n_nodes == 1)
            continue;
        sl_status s = take_tree(e, sessions[i], &d->seqs[i], t, err);
        if (s < 0)
            return sl_fail_within(err, s, "drafter, sequence %d", sessions[i]->id);
    }
    d->draft_seconds = sli_now() - begin;
    return SL_OK;
}

sl_status sli_engine_draft(sluice_engine *e, sluice_session **sessions, int n, int n_other_rows, sl_error *err) {
    sl_status status = ask_drafter(e, sessions, n, n_other_rows, err);
    sli_draft_forks_close(e); /* the rows of the step go into pages that the forks have shared */
    return status;
}

/* ---- telling
 * ---------------------------------------------------------------------------------------------------------- */

/* The k best of n rows of logits, as the batch's rows from `row` on. */
static sl_status best_of(sluice_engine *e, const float *logits, int64_t n, int64_t row) {
    int64_t V = e->target.info->vocab, k = e->drafter.caps.topk;
    sl_op_topk op = {.struct_size = SL_SIZE(sl_op_topk),
                     .lane = e->target.lane,
                     .x = logits,
                     .id = e->drafts->topk + row * k,
                     .value = e->drafts->topk_logit + row * k,
                     .rows = n,
                     .n = V,
                     .stride = V,
                     .k = k};
    return e->target.ops->topk(e->target.host, &op);
}

/* The same where the device has chosen them. */
static void best_on_device(sluice_engine *e, int64_t first, int64_t n, int64_t row) {
    int64_t k = e->drafter.caps.topk;
    memcpy(e->drafts->topk + row * k, e->best + first * k, sizeof *e->best * (size_t)(n * k));
    memcpy(e->drafts->topk_logit + row * k, sli_device_best_logits(e->target.device) + first * k,
           sizeof(float) * (size_t)(n * k));
}

/* Prompt rows have no logits but the last one's: they are computed here, as many at once as the buffer of work holds.
 */
static sl_status best_of_prompt(sluice_engine *e, int32_t row, int32_t end, sl_error *err) {
    int32_t rows[SL_MAX_TREE_NODES],
        most = e->logit_rows < SL_MAX_TREE_NODES ? (int32_t)e->logit_rows : SL_MAX_TREE_NODES;
    int64_t k = e->drafter.caps.topk;
    for (; row < end; row += most) {
        int32_t n = end - row < most ? end - row : most;
        for (int32_t i = 0; i < n; i++)
            rows[i] = row + i;
        if (e->target.device != NULL) {
            SL_TRY(
                sli_device_best(&e->target, rows, n, e->drafts->topk + row * k, e->drafts->topk_logit + row * k, err));
            continue;
        }
        SL_TRY(sli_network_head(&e->target, rows, n, e->work_logits, err));
        SL_TRY(best_of(e, e->work_logits, n, row));
    }
    return SL_OK;
}

/* The k best ids of every row with logits; -1 for the others. */
static sl_status find_best(sluice_engine *e, sluice_session **sessions, const sl_batch *b, sl_error *err) {
    sli_draft_buffers *d = e->drafts;
    for (int64_t i = 0; i < (int64_t)b->n_rows * e->drafter.caps.topk; i++) {
        d->topk[i] = -1;
        d->topk_logit[i] = 0;
    }
    for (int32_t turn = 0; turn < 2 * b->n_seqs;
         turn++) { /* computing others' logits may overwrite those of the step */
        int32_t i = turn % b->n_seqs, begin = b->row_begin[i], end = b->row_begin[i + 1];
        const sluice_session *s = sessions[i];
        int in_prompt = b->stage[i] == SL_STAGE_PREFILL, computed = in_prompt && e->drafter.caps.topk_prompt;
        if (computed != (turn >= b->n_seqs))
            continue;
        if (computed) {
            SL_TRY(best_of_prompt(e, begin, end, err));
        } else if (s->first_logits >= 0) {
            int32_t n = in_prompt ? 1 : end - begin;
            if (e->best != NULL) {
                best_on_device(e, s->first_logits, n, end - n);
                continue;
            }
            SL_TRY(best_of(e, e->logits + (int64_t)s->first_logits * e->target.info->vocab, n, end - n));
        }
    }
    return SL_OK;
}

sl_status sli_engine_observe(sluice_engine *e, sluice_session **sessions, int n, const sl_commit *commit,
                             double verify_seconds, sl_error *err) {
    if (e->drafter.self == NULL || e->drafter.api->observe == NULL)
        return SL_OK;
    int drafted = 0;
    for (int i = 0; i < n; i++)
        drafted = drafted || commit->batch->stage[i] != SL_STAGE_PREFILL;
    if (!drafted && e->drafter.caps.topk == 0 && !sli_draft_taps_want_prompt(e->taps))
        return SL_OK; /* nothing was drafted, and of a prompt nothing was asked for */
    sli_draft_buffers *d = e->drafts;
    for (int i = 0; i < n; i++) {
        sli_spec_describe(e, sessions[i], (int32_t)e->limits.max_tree, &d->seqs[i]);
        d->seq_ptrs[i] = &d->seqs[i];
    }
    sl_observe seen = {.struct_size = SL_SIZE(sl_observe),
                       .commit = commit,
                       .seqs = d->seq_ptrs,
                       .n_seqs = n,
                       .draft_ms = drafted ? 1e3 * d->draft_seconds : 0,
                       .verify_ms = 1e3 * verify_seconds};
    if (e->drafter.caps.topk > 0) {
        SL_TRY(find_best(e, sessions, commit->batch, err));
        seen.topk = d->topk;
        seen.topk_logit = d->topk_logit;
    }
    if (e->taps != NULL)
        SL_TRY(sli_draft_taps_hand_over(e->taps, &e->target, commit, &seen.taps, &seen.n_taps, err));
    sl_status s = e->drafter.api->observe(e->drafter.self, &seen);
    return s < 0 ? sl_fail(err, s, "drafter: observe: %s", sl_status_text(s)) : SL_OK;
}
