/* One step: draft, lay out, compute, decide, commit, tell. What follows the commit is in policy.c. */
#include "engine.h"

#include <assert.h>
#include <string.h>

#include "chunk.h"
#include "decide.h"
#include "device_decide.h"
#include "draft.h"
#include "draft_taps.h"
#include "profile.h"
#include "prompt.h"
#include "sl_error.h"
#include "transcript.h"

/* Rows that wait to be computed: the pending part of the prompt, or the one token that was decided last. */
static int64_t pending(const sluice_session *s) { return s->n - s->n_kv; }
static int is_decoding(const sluice_session *s) { return pending(s) == 1 && s->n > s->n_prompt; }

/* ---- laying out
 * ------------------------------------------------------------------------------------------------------ */

static void place(sluice_engine *e, sluice_session *s, uint32_t stage, int32_t n_rows) {
    const sl_tree *tree = stage == SL_STAGE_VERIFY ? s->tree : NULL;
    const int32_t *tokens = tree != NULL ? tree->token : s->tokens + s->n_kv;
    s->n_rows = n_rows;
    s->place = sli_batch_add(&e->batch, s->id, s->n_kv, stage, tokens, n_rows, tree,
                             sli_session_positions(e, s, s->n_kv, n_rows, tree));
    s->wants_next = s->request != NULL && s->n_kv + n_rows >= s->n;
    e->active[s->place] = s;
    e->n_prompt[s->place] = sli_prompt_end(s);
}

static uint32_t stage_of(const sluice_session *s) {
    if (pending(s) == 0)
        return 0;
    return !is_decoding(s) ? SL_STAGE_PREFILL : s->tree != NULL ? SL_STAGE_VERIFY : SL_STAGE_DECODE;
}

/* Stages of the coming step: all that wait, or, where they have attention instances of their own on a device, one after
 * the other: what such an instance is called with are all rows of a step. */
static uint32_t choose_stages(sluice_engine *e, sluice_session *const *sessions, int n) {
    uint32_t waiting = 0;
    for (int i = 0; i < n; i++)
        waiting |= stage_of(sessions[i]);
    if (e->target.device == NULL || sli_device_one_part(&e->target, waiting))
        return waiting;
    do
        e->stage_turn = (e->stage_turn + 1) % SLI_STAGES;
    while (!(waiting & 1u << e->stage_turn));
    return 1u << e->stage_turn;
}

/* Prompt chunks first, then decoding rows, then trees: rows of one stage are neighbours. Decoding is never held up by
 * prompts: its rows are set aside before chunks are cut. */
static void lay_out(sluice_engine *e, sluice_session *const *sessions, int n, uint32_t stages) {
    int64_t room = e->limits.max_rows;
    for (int i = 0; i < n; i++)
        if (is_decoding(sessions[i]) && (stages & stage_of(sessions[i])))
            room -= sessions[i]->tree != NULL ? sessions[i]->tree->n_nodes : 1;
    sli_batch_clear(&e->batch, 0, ++e->target.step);
    for (int i = 0; i < n; i++) {
        sluice_session *s = sessions[i];
        if (!(stages & SL_STAGE_PREFILL) || stage_of(s) != SL_STAGE_PREFILL)
            continue;
        int64_t rows = sli_prompt_chunk(s, sli_chunk_rows(&e->target, s->n_kv, pending(s), room));
        if (rows > 0)
            place(e, s, SL_STAGE_PREFILL, (int32_t)rows);
        room -= rows > 0 ? rows : 0;
    }
    for (int verify = 0; verify < 2; verify++)
        for (int i = 0; i < n; i++)
            if ((stages & stage_of(sessions[i])) &&
                stage_of(sessions[i]) == (verify ? SL_STAGE_VERIFY : SL_STAGE_DECODE))
                place(e, sessions[i], verify ? SL_STAGE_VERIFY : SL_STAGE_DECODE,
                      verify ? sessions[i]->tree->n_nodes : 1);
}

/* ---- telling
 * ---------------------------------------------------------------------------------------------------------- */

static int is_eos(const sluice_engine *e, int32_t token) {
    for (int32_t i = 0; i < e->target.info->n_eos; i++)
        if (e->target.info->eos[i] == token)
            return 1;
    return 0;
}

/* Appends decided tokens and hands over their text. Returns how many were kept: a request may end among them. */
static sl_status emit(sluice_engine *e, sluice_session *s, const int32_t *tokens, int32_t n, int32_t *kept,
                      sluice_chunk_fn fn, void *user, sl_error *err) {
    sli_request *r = s->request;
    const char *text = "";
    size_t length = 0;
    sli_output_clear(&r->text);
    for (*kept = 0; *kept < n && r->finish == SLUICE_RUNNING;) {
        int32_t token = tokens[(*kept)++];
        sli_session_push(s, token);
        if (is_eos(e, token) && !r->ignore_eos) {
            r->finish = SLUICE_FINISH_EOS;
            break;
        }
        if (r->stream != NULL)
            SL_TRY(sli_token_stream_push(r->stream, token, &text, &length, err));
        int hit = sli_output_push(&r->text, r->stop, text, length);
        if (hit < 0)
            return sl_fail(err, SL_E_NO_MEMORY, "no memory for the text of a step");
        if (hit)
            r->finish = SLUICE_FINISH_STOP;
        else if (s->n >= r->n_limit)
            r->finish = SLUICE_FINISH_LENGTH;
    }
    if (r->finish != SLUICE_RUNNING && r->finish != SLUICE_FINISH_STOP) {
        length = 0;
        if (r->stream != NULL)
            SL_TRY(sli_token_stream_flush(r->stream, &text, &length, err));
        if (sli_output_push(&r->text, r->stop, text, length) < 0 || sli_output_end(&r->text, r->stop) < 0)
            return sl_fail(err, SL_E_NO_MEMORY, "no memory for the text of a step");
    }
    sluice_chunk chunk = {.index = r->index,
                          .n_tokens = *kept,
                          .tokens = s->tokens + s->n - *kept,
                          .text = r->text.data,
                          .length = r->text.n,
                          .finish = r->finish,
                          .prompt_done = s->n_prompt,
                          .prompt_total = s->n_prompt};
    if (fn != NULL && fn(user, &chunk) != 0 && r->finish == SLUICE_RUNNING)
        r->finish = SLUICE_FINISH_CANCELLED;
    return SL_OK;
}

/* Told before a token is decided behind the prompt, so that nothing comes behind a request's end. */
static void tell_prompt(sluice_session *s, sluice_chunk_fn fn, void *user) {
    if (s->request == NULL || fn == NULL)
        return;
    sluice_chunk chunk = {.index = s->request->index,
                          .finish = SLUICE_RUNNING,
                          .text = "",
                          .prompt_done = s->n_kv + s->n_rows,
                          .prompt_total = s->n};
    if (fn(user, &chunk) != 0)
        s->request->finish = SLUICE_FINISH_CANCELLED;
}

/* ---- deciding
 * --------------------------------------------------------------------------------------------------------- */

static void count_drafts(sluice_engine *e, const sluice_session *s, int32_t n_path) {
    if (s->tree == NULL)
        return;
    const int32_t *depth = s->draft->depth; /* s->tree is its rows */
    int64_t seen[SLUICE_MAX_DEPTH] = {0};
    for (int32_t i = 1; i < s->tree->n_nodes; i++)
        seen[depth[i] - 1] = 1;
    for (int i = 0; i < SLUICE_MAX_DEPTH; i++)
        e->stats.drafted_by_depth[i] += seen[i];
    e->stats.drafted += s->tree->n_nodes - 1;
    e->stats.accepted += n_path - 1;
    for (int32_t i = 1; i < n_path; i++)
        e->stats.accepted_by_depth[i - 1]++;
}

/* Logits of the rows after which a token is decided: the last of a chunk, every node of a tree. */
static sl_status compute_logits(sluice_engine *e, sl_error *err) {
    int32_t used = 0;
    for (int32_t i = 0; i < e->batch.view.n_seqs; i++) {
        sluice_session *s = e->active[i];
        s->first_logits = -1;
        if (!s->wants_next)
            continue;
        int32_t rows[SL_MAX_TREE_NODES], n = s->tree != NULL && e->batch.stage[i] == SL_STAGE_VERIFY ? s->n_rows : 1;
        for (int32_t j = 0; j < n; j++)
            rows[j] = e->batch.row_begin[i + 1] - n + j;
        assert(used + n <= e->logit_rows);
        SL_TRY(sli_network_head(&e->target, rows, n, e->logits + (int64_t)used * e->target.info->vocab, err));
        s->first_logits = used;
        used += n;
    }
    return SL_OK;
}

/* Path and next token of the session at place i; a request that ends inside the path cuts it there. */
static sl_status decide(sluice_engine *e, int32_t i, sluice_chunk_fn fn, void *user, sl_error *err) {
    sluice_session *s = e->active[i];
    int32_t *path = e->path + e->path_begin[i], n_path = s->n_rows, next = -1;
    int32_t decided[SL_MAX_TREE_NODES + 1], n_decided = 0, kept = 0;
    for (int32_t r = 0; r < s->n_rows; r++)
        path[r] = r;
    s->n_emitted = 0;
    if (e->batch.stage[i] == SL_STAGE_PREFILL)
        tell_prompt(s, fn, user);
    if (s->wants_next && s->request->finish == SLUICE_FINISH_CANCELLED)
        n_path--; /* the last row stays pending, so that the session can go on */
    else if (s->wants_next) {
        const float *logits = e->logits + (int64_t)s->first_logits * e->target.info->vocab;
        if (e->best != NULL)
            sli_device_decide(e, s, path, &n_path, &next);
        else
            SL_TRY(sli_decide(e, s, logits, path, &n_path, &next, err));
        int32_t n_draft = s->tree != NULL ? n_path - 1 : 0;
        count_drafts(e, s, n_path);
        for (int32_t j = 0; j < n_draft; j++)
            decided[n_decided++] = s->tree->token[path[j + 1]];
        decided[n_decided++] = next;
        SL_TRY(emit(e, s, decided, n_decided, &kept, fn, user, err));
        s->n_emitted = kept;
        if (s->tree != NULL && kept < n_decided) { /* rows up to the last token's parent are kept */
            n_path = kept;
            next = decided[kept - 1];
        }
    }
    e->path_begin[i + 1] = e->path_begin[i] + n_path;
    e->next[i] = next;
    return SL_OK;
}

/* ---- the step
 * --------------------------------------------------------------------------------------------------------- */

static void measure(sluice_engine *e, double seconds, int n_decoding) {
    int64_t prompt_rows = 0;
    for (int32_t i = 0; i < e->batch.view.n_seqs; i++)
        if (e->batch.stage[i] == SL_STAGE_PREFILL)
            prompt_rows += e->active[i]->n_rows;
    e->stats.prompt_tokens += prompt_rows;
    if (n_decoding == 0) {
        e->stats.prompt_seconds += seconds;
        return;
    }
    e->stats.decode_seconds += seconds;
    e->stats.steps++;
    e->step_ms = e->step_ms > 0 ? 0.9 * e->step_ms + 100 * seconds : 1e3 * seconds;
}

static sl_status compute_and_decide(sluice_engine *e, const sli_pass *pass, sluice_chunk_fn fn, void *user,
                                    sl_error *err) {
    if (e->target.device != NULL) {
        SL_TRY(sli_device_decide_step(e, pass, err)); /* begins it, unless it is on its way */
    } else {
        SL_TRY(sli_network_begin(&e->target, pass->batch, err));
        sli_lap(&e->target, SLI_SLOT_OTHER);
        SL_TRY(sli_network_forward(&e->target, pass, err));
        SL_TRY(compute_logits(e, err));
    }
    e->path_begin[0] = 0;
    for (int32_t i = 0; i < pass->batch->n_seqs; i++)
        SL_TRY(decide(e, i, fn, user, err));
    return SL_OK;
}

sl_status sli_engine_step(sluice_engine *e, sluice_session *const *sessions, int n, sluice_chunk_fn fn, void *user,
                          int *n_active, sl_error *err) {
    double begin = sli_now();
    sluice_session *decoding[SLI_MAX_SESSIONS];
    int n_decoding = 0, n_prompt_rows = 0;
    for (int i = 0; i < n; i++) {
        sessions[i]->tree = NULL;
        if (is_decoding(sessions[i]))
            decoding[n_decoding++] = sessions[i];
        else if (pending(sessions[i]) > 0) /* each needs at least one row, or a chunk that cannot be cut */
            n_prompt_rows += e->target.chunk_fixed > 0 && n_prompt_rows == 0
                                 ? (int)sli_chunk_rows(&e->target, sessions[i]->n_kv, pending(sessions[i]), INT32_MAX)
                                 : (int)e->target.chunk_align;
    }
    sli_profile *profile = e->target.profile;
    if (profile != NULL) {
        sli_profile_step(profile, n_decoding > 0);
        sli_profile_mute(profile);
    }
    sl_status drafted = sli_engine_draft(e, decoding, n_decoding, n_prompt_rows, err);
    if (profile != NULL)
        sli_profile_unmute(profile, SLI_SLOT_DRAFT);
    SL_TRY(drafted);
    double verify_begin = sli_now();
    uint32_t stages = choose_stages(e, sessions, n);
    lay_out(e, sessions, n, stages);
    sl_batch *b = &e->batch.view;
    *n_active = b->n_seqs;
    if (b->n_seqs == 0)
        return SL_OK;

    e->n_running = n;
    e->committed = 0;
    sli_pass pass = {.batch = b, .n_prompt = e->n_prompt};
    if (e->taps != NULL && e->target.device == NULL)
        pass.tap = sli_draft_taps_take, pass.tap_user = e->taps;
    sl_status status = compute_and_decide(e, &pass, fn, user, err);
    for (int32_t i = 0; status < 0 && e->committed && i < b->n_seqs; i++)
        e->active[i]->n_kv--; /* the token behind the row is not known */
    SL_TRY(status);
    sli_lap(&e->target, SLI_SLOT_DECIDE);
    sl_commit commit = {SL_SIZE(sl_commit), b, e->path_begin, e->path, e->next};
    if (!e->committed)
        SL_TRY(sli_network_commit(&e->target, &commit, err));
    sli_lap(&e->target, SLI_SLOT_SETTLE);
    for (int32_t i = 0; i < b->n_seqs; i++) {
        sluice_session *s = e->active[i];
        s->n_kv += e->committed ? 0 : e->path_begin[i + 1] - e->path_begin[i];
        e->stats.tokens += s->n_emitted;
        if (b->stage[i] != SL_STAGE_PREFILL)
            e->stats.emitted += s->n_emitted;
    }
    measure(e, sli_now() - begin, stages & (SL_STAGE_DECODE | SL_STAGE_VERIFY) ? n_decoding : 0);
    SL_TRY(sli_engine_observe(e, e->active, b->n_seqs, &commit, sli_now() - verify_begin, err));
    sli_lap(&e->target, SLI_SLOT_DRAFT);
    return SL_OK;
}
