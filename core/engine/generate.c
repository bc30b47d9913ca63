/* Generating: requests begin, steps run until all have finished. */
#include "engine.h"

#include <inttypes.h>
#include <string.h>

#include "api.h"
#include "base/ledger.h"
#include "device_decide.h"
#include "draft_fork.h"
#include "prompt.h"
#include "sl_error.h"
#include "sources.h"
#include "transcript.h"

/* ---- requests
 * ---------------------------------------------------------------------------------------------------------- */

static void end_request(sluice_session *s) {
    sli_request *r = s->request;
    if (r == NULL)
        return;
    sli_stop_destroy(r->stop);
    sli_token_stream_close(r->stream);
    sli_output_free(&r->text);
    sli_free(r->bias_id);
    sli_free(r->bias);
    sli_free(r);
    s->request = NULL;
}

static sl_status copy_sampling(const sluice_engine *e, const sluice_sampling *p, sli_request *r, sl_error *err) {
    r->sampling = (sli_sampling){.temperature = p->temperature,
                                 .top_k = p->top_k,
                                 .top_p = p->top_p,
                                 .min_p = p->min_p,
                                 .repeat_penalty = p->repeat_penalty,
                                 .presence_penalty = p->presence_penalty,
                                 .frequency_penalty = p->frequency_penalty,
                                 .penalty_last_n = p->penalty_last_n,
                                 .n_bias = p->n_bias,
                                 .bias_id = p->bias_id,
                                 .bias = p->bias,
                                 .seed = {p->seed, p->sample, (uint32_t)(p->race != 0)}};
    SL_TRY(sli_sampling_check(&r->sampling, e->target.info->vocab, err));
    if (p->n_bias > 0) {
        r->bias_id = sli_calloc(SLI_TAG_MISC, (size_t)p->n_bias, sizeof *r->bias_id);
        r->bias = sli_calloc(SLI_TAG_MISC, (size_t)p->n_bias, sizeof *r->bias);
        if (r->bias_id == NULL || r->bias == NULL)
            return sl_fail(err, SL_E_NO_MEMORY, "no memory for logit biases");
        memcpy(r->bias_id, p->bias_id, sizeof *r->bias_id * (size_t)p->n_bias);
        memcpy(r->bias, p->bias, sizeof *r->bias * (size_t)p->n_bias);
        r->sampling.bias_id = r->bias_id;
        r->sampling.bias = r->bias;
    }
    r->random = sli_random_seeded(&r->sampling.seed);
    return SL_OK;
}

static sl_status begin_request(sluice_engine *e, sluice_session *s, const sluice_sampling *p, int index,
                               sl_error *err) {
    if (s->n == 0)
        return sl_fail(err, SL_E_STATE, "session %d has no token to continue from", index);
    SL_TRY(sli_engine_prompt(e, s, sli_shown_length(s), err));
    if (s->n == s->n_kv) { /* the logits of the last token are gone: its row is computed once more */
        SL_TRY(sli_network_seq_truncate(&e->target, s->id, s->n - 1, err));
        s->n_kv = s->n - 1;
        sli_sources_cut(e, s->id, s->n_kv);
        sli_engine_event(e, SL_EVENT_TRUNCATE, s->id, -1, s->n_kv);
    }
    sli_request *r = s->request = sli_alloc(SLI_TAG_MISC, sizeof *r);
    if (r == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for a request");
    r->index = index;
    r->ignore_eos = p->ignore_eos;
    int64_t room = sli_shown_room(s);
    r->n_limit = s->n + (p->max_tokens < 0 || p->max_tokens > room ? room : p->max_tokens);
    SL_TRY(copy_sampling(e, p, r, err));
    if (e->tokenizer != NULL)
        SL_TRY(sli_token_stream_open(e->tokenizer, SLI_SKIP_SPECIAL, &r->stream, err));
    else if (p->n_stop > 0)
        return sl_fail(err, SL_E_NOT_FOUND, "%s has no tokenizer.json: stop strings cannot be looked for",
                       e->target.info->name);
    if (p->n_stop > 0)
        SL_TRY(sli_stop_create(p->stop, p->n_stop, &r->stop, err));
    if (sli_output_reserve(&r->text, 64 * 1024) < 0)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for a request");
    int64_t rows = r->n_limit + e->limits.max_tree;
    SL_TRY(sli_session_grow(s, rows, err));
    if (e->draft.model != NULL && e->drafter.caps.needs_draft)
        SL_TRY(sli_network_seq_grow(&e->draft, s->id,
                                    rows < e->draft_limits.max_context ? rows : e->draft_limits.max_context, err));
    return SL_OK;
}

/* A request ends when its limit is reached; one that may generate nothing ends at once, its prompt still pending. */
static void end_if_full(sluice_session *s, sluice_chunk_fn fn, void *user) {
    sli_request *r = s->request;
    if (r->finish != SLUICE_RUNNING || s->n < r->n_limit)
        return;
    r->finish = SLUICE_FINISH_LENGTH;
    sluice_chunk chunk = {
        .index = r->index, .text = "", .finish = r->finish, .prompt_done = s->n_kv, .prompt_total = s->n};
    if (fn != NULL)
        fn(user, &chunk);
}

/* ---- the loop
 * ------------------------------------------------------------------------------------------------------------ */

static sl_status run(sluice_engine *e, sluice_session *const *sessions, int n, sluice_chunk_fn fn, void *user,
                     sl_error *err) {
    for (;;) {
        sluice_session *running[SLI_MAX_SESSIONS];
        int n_running = 0, n_active = 0;
        for (int i = 0; i < n; i++) {
            end_if_full(sessions[i], fn, user);
            if (sessions[i]->request->finish == SLUICE_RUNNING)
                running[n_running++] = sessions[i];
        }
        if (n_running == 0)
            return SL_OK;
        SL_TRY(sli_draft_forks_open(e, running, n_running, err));
        sli_engine_step_begin(e);
        sl_status status = sli_engine_step(e, running, n_running, fn, user, &n_active, err);
        sli_engine_step_end(e);
        SL_TRY(status);
        SL_TRY(sli_engine_settle(e, err));
        SL_TRY(sli_sources_run(e, err));
    }
}

int sluice_generate(sluice_engine *e, sluice_session *const *sessions, int n, const sluice_sampling *sampling,
                    int shared, sluice_chunk_fn fn, void *user, sluice_error *error) {
    SLI_API(err, error);
    sl_status status = n >= 1 && n <= e->max_sessions
                           ? SL_OK
                           : sl_fail(&err, SL_E_RANGE, "%d sessions; 1 to %d can run together", n, e->max_sessions);
    for (int i = 0; status >= 0 && i < n; i++)
        for (int j = 0; j < i; j++)
            if (sessions[i] == sessions[j])
                status = sl_fail(&err, SL_E_INVALID, "session %d stands twice in one call", i);
    int begun = 0;
    for (; status >= 0 && begun < n; begun++)
        status = begin_request(e, sessions[begun], shared ? sampling : &sampling[begun], begun, &err);
    if (status >= 0)
        status = run(e, sessions, n, fn, user, &err);
    sli_device_drop(e);
    for (int i = 0; i < begun; i++)
        end_request(sessions[i]);
    return status < 0 ? sli_api_fail(&err, status, error) : SLUICE_OK;
}
