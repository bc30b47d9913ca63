/* The modes: what the prompt is, and what is asked of it; see gen_run.h. */
#include "gen_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"

/* How much of a context is computed together with a question that belongs to the prompt: more than any policy's
 * observation window. */
enum { TAIL = 256 };

const char *const gen_mode_names[GEN_N_MODES] = {"forced", "single", "multi_turn", "multi_request"};

gen_mode gen_mode_named(const char *name) {
    int i = 0;
    while (i < GEN_N_MODES && strcmp(gen_mode_names[i], name) != 0)
        i++;
    return (gen_mode)i;
}

/* ---- what is written down -------------------------------------------------------------------------------------- */

static int64_t kv_bytes(const sluice_engine *engine) {
    sluice_stats s;
    sluice_get_stats(engine, &s);
    return s.bytes_kv + s.gpu_bytes_kv + s.bytes_kv_host;
}

static void see_peak(gen_run *r) {
    int64_t now = kv_bytes(r->engine);
    r->kv_peak = now > r->kv_peak ? now : r->kv_peak;
}

/* A context is computed. */
static void see_context(gen_run *r) {
    int64_t now = kv_bytes(r->engine);
    r->kv_prefill = now > r->kv_prefill ? now : r->kv_prefill;
    see_peak(r);
}

static char *text_of(sluice_engine *engine, const int32_t *tokens, int64_t n, sluice_error *err) {
    int64_t bytes = sluice_detokenize(engine, tokens, n, NULL, 0, err);
    char *text = bytes >= 0 ? calloc((size_t)bytes + 1, 1) : NULL;
    if (text != NULL)
        sluice_detokenize(engine, tokens, n, text, bytes, err);
    else if (bytes >= 0)
        gen_no_memory(err);
    return text;
}

/* The row of a question that was answered with n_got tokens. golden_nll: nats of the right answer; NULL: not known. */
static int note(gen_run *r, int question, const int32_t *got, int64_t n_got, const double *golden_nll,
                sluice_error *err) {
    const gen_question *q = &r->ctx->questions[question];
    int64_t right = 0;
    char *output = text_of(r->engine, got, n_got, err);
    if (output == NULL)
        return SLUICE_E_NO_MEMORY;
    json_t *ids = json_array();
    for (int64_t i = 0; i < n_got; i++) {
        right += i < q->n && r->ctx->tokens[q->begin + i] == got[i];
        json_array_append_new(ids, json_integer(got[i]));
    }
    /* forced answers: behind a wrong token the others still mean something */
    double score = r->mode == GEN_FORCED ? (double)right / (double)q->n : gen_score(r->task, r->ctx, q, output, right);
    json_t *one = json_pack("{s:s, s:I, s:I, s:i, s:o, s:I, s:I, s:f, s:o}", "task", r->task->name, "length",
                            (json_int_t)r->source->length, "context", (json_int_t)r->contexts, "question", question,
                            "depth", q->depth < 0 ? json_null() : json_real(q->depth), "tokens", (json_int_t)q->n,
                            "tokens_right", (json_int_t)right, "score", score, "got", ids);
    json_object_set_new(one, "right", json_stringn(r->ctx->text + q->text_answer, q->text_end - q->text_answer));
    json_t *text = r->task->metric != GEN_TOKENS && r->mode != GEN_FORCED ? json_string(output) : NULL;
    if (text != NULL) /* not what ends within a character */
        json_object_set_new(one, "output", text);
    if (golden_nll != NULL)
        json_object_set_new(one, "golden_nll", json_real(*golden_nll));
    free(output);
    return json_array_append_new(r->rows, one) == 0 ? SLUICE_OK : gen_no_memory(err);
}

/* ---- answers ---------------------------------------------------------------------------------------------------- */

/* Teacher forcing: all questions and answers stand in one text; a token counts as right if it is the most likely one.
 */
static int forced(gen_run *r, sluice_session *s, sluice_error *err) {
    const gen_context *ctx = r->ctx;
    int64_t n = ctx->n_tokens, first = ctx->questions[0].begin;
    int32_t *best = malloc(sizeof *best * (size_t)(n - first));
    double *logprob = malloc(sizeof *logprob * (size_t)(n - first));
    int status = best != NULL && logprob != NULL ? SLUICE_OK : gen_no_memory(err);
    if (status >= 0)
        status = sluice_session_append(s, ctx->tokens, n, err);
    if (status >= 0)
        status = sluice_score(s, n - first, logprob, best, err);
    see_context(r);
    for (int i = 0; status >= 0 && i < ctx->n_questions; i++) {
        const gen_question *q = &ctx->questions[i];
        double nll = 0;
        for (int64_t k = 0; k < q->n; k++)
            nll -= logprob[q->begin - first + k];
        status = note(r, i, best + q->begin - first, q->n, &nll, err);
    }
    free(best);
    free(logprob);
    return status;
}

typedef struct watch {
    gen_run *run;
    double begin;
    double first[GEN_MAX_QUESTIONS]; /* seconds until the first token; 0: none yet */
} watch;

static int on_chunk(void *user, const sluice_chunk *chunk) {
    watch *w = user;
    if (chunk->n_tokens > 0 && w->first[chunk->index] == 0)
        w->first[chunk->index] = now() - w->begin;
    see_peak(w->run);
    return 0;
}

/* Nats of the right answer behind tokens of s from `from` on and the question, answer tokens being decode steps. */
static int score_golden(gen_run *r, sluice_session *s, int64_t from, const gen_question *q, double *nll,
                        sluice_error *err) {
    const gen_context *ctx = r->ctx;
    double *logprob = malloc(sizeof *logprob * (size_t)q->n);
    sluice_session *fork = NULL;
    int status = logprob != NULL ? sluice_session_fork(s, -1, &fork, err) : gen_no_memory(err);
    if (status >= 0 && from < ctx->n_shared)
        status = sluice_session_append(fork, ctx->tokens + from, ctx->n_shared - from, err);
    if (status >= 0)
        status = sluice_session_append(fork, ctx->tokens + q->question, q->begin + q->n - q->question, err);
    if (status >= 0)
        status = sluice_score_steps(fork, q->n, logprob, NULL, err);
    *nll = 0;
    for (int64_t k = 0; status >= 0 && k < q->n; k++)
        *nll -= logprob[k];
    sluice_session_close(fork);
    free(logprob);
    return status;
}

/* Answers questions first .. first + n - 1 greedily, together, each in a fork of s behind tokens from `from` on and its
 * own question. keep: the only fork is not closed but stored there. */
static int answer(gen_run *r, sluice_session *s, int64_t from, int first, int n, sluice_session **keep,
                  sluice_error *err) {
    const gen_context *ctx = r->ctx;
    sluice_session *forks[GEN_MAX_QUESTIONS] = {0};
    sluice_sampling greedy[GEN_MAX_QUESTIONS] = {{0}};
    int64_t asked[GEN_MAX_QUESTIONS] = {0};
    watch w = {.run = r};
    double nll[GEN_MAX_QUESTIONS];
    int status = SLUICE_OK;
    for (int i = 0; status >= 0 && i < n && r->golden; i++)
        status = score_golden(r, s, from, &ctx->questions[first + i], &nll[i], err);
    for (int i = 0; status >= 0 && i < n; i++) {
        const gen_question *q = &ctx->questions[first + i];
        sluice_default_sampling(r->engine, &greedy[i]);
        greedy[i].temperature = 0;
        greedy[i].ignore_eos = 1;
        greedy[i].n_stop = 0;
        greedy[i].max_tokens = (int32_t)gen_answer_limit(r->task, r->source, q);
        status = sluice_session_fork(s, -1, &forks[i], err);
        if (status >= 0 && from < ctx->n_shared)
            status = sluice_session_append(forks[i], ctx->tokens + from, ctx->n_shared - from, err);
        if (status >= 0)
            status = sluice_session_append(forks[i], ctx->tokens + q->question, q->begin - q->question, err);
        asked[i] = status >= 0 ? sluice_session_length(forks[i]) : 0;
    }
    w.begin = now();
    if (status >= 0)
        status = sluice_generate(r->engine, forks, n, greedy, 0, on_chunk, &w, err);
    for (int i = 0; status >= 0 && i < n; i++) {
        r->first_seconds += w.first[i];
        r->first_answers += w.first[i] > 0;
        status = note(r, first + i, sluice_session_tokens(forks[i]) + asked[i],
                      sluice_session_length(forks[i]) - asked[i], r->golden ? &nll[i] : NULL, err);
    }
    for (int i = 0; i < n; i++)
        if (keep != NULL && status >= 0)
            *keep = forks[i];
        else
            sluice_session_close(forks[i]);
    return status;
}

/* As many forks as the engine has sessions answer at a time. */
static int answer_all(gen_run *r, sluice_session *s, int64_t from, sluice_error *err) {
    sluice_info info;
    sluice_get_info(r->engine, &info);
    int most = info.max_sessions - 1, status = SLUICE_OK;
    for (int i = 0; status >= 0 && i < r->ctx->n_questions; i += most)
        status = answer(r, s, from, i, r->ctx->n_questions - i < most ? r->ctx->n_questions - i : most, NULL, err);
    return status;
}

/* ---- prompts ---------------------------------------------------------------------------------------------------- */

/* The first n tokens of the context, as the beginning of a prompt (more) or as all of it. */
static int encode(gen_run *r, sluice_session *s, int64_t n, int more, sluice_error *err) {
    double begin = now();
    int loaded = 0;
    int status = prefill_cached(r->cache, s, r->ctx->tokens, n, more, &loaded, err);
    if (status >= 0 && !loaded) {
        r->context_seconds += now() - begin;
        r->contexts_computed++;
    }
    see_context(r);
    return status;
}

/* The context without its tail: what all prompts begin with. Its prompt goes on. */
static int begin_prompt(gen_run *r, sluice_session *s, int64_t *n, sluice_error *err) {
    *n = r->ctx->n_shared > TAIL ? r->ctx->n_shared - TAIL : 0;
    return encode(r, s, *n, 1, err);
}

/* Each prompt is the context and one question. */
static int single(gen_run *r, sluice_session *s, sluice_error *err) {
    int64_t n;
    int status = begin_prompt(r, s, &n, err);
    return status >= 0 ? answer_all(r, s, n, err) : status;
}

/* The context is the prompt, without any question; all questions are asked of it, each for itself. */
static int multi_request(gen_run *r, sluice_session *s, sluice_error *err) {
    int status = encode(r, s, r->ctx->n_shared, 0, err);
    return status >= 0 ? answer_all(r, s, r->ctx->n_shared, err) : status;
}

/* Context and first question are the prompt; then, turn by turn, the right answer and the next question follow. */
static int golden_turns(gen_run *r, sluice_session *s, sluice_error *err) {
    const gen_context *ctx = r->ctx;
    int64_t n;
    int status = begin_prompt(r, s, &n, err);
    for (int i = 0; status >= 0 && i < ctx->n_questions; i++) {
        const gen_question *q = &ctx->questions[i];
        if (i > 0) { /* this turn begins behind the right answer to the last one */
            status = sluice_session_append(s, ctx->tokens + n, q->question - n, err);
            n = q->question;
        }
        if (status >= 0)
            status = answer(r, s, n, i, 1, NULL, err);
        if (status >= 0)
            status = sluice_session_append(s, ctx->tokens + n, q->begin - n, err);
        if (status >= 0)
            status = sluice_prefill(s, 0, err);
        n = q->begin;
    }
    return status;
}

/* ... or whatever was answered. */
static int own_turns(gen_run *r, sluice_session *s, sluice_error *err) {
    const gen_context *ctx = r->ctx;
    sluice_session *turn = s, *next = NULL;
    int64_t n;
    int status = begin_prompt(r, s, &n, err);
    for (int i = 0; status >= 0 && i < ctx->n_questions; i++) {
        status = answer(r, turn, i == 0 ? n : ctx->n_shared, i, 1, &next, err);
        if (turn != s)
            sluice_session_close(turn);
        turn = status >= 0 ? next : s;
    }
    if (turn != s)
        sluice_session_close(turn);
    return status;
}

int gen_run_context(gen_run *r, const gen_task *task, const gen_source *source, const gen_context *ctx,
                    sluice_error *err) {
    static int (*const run[GEN_N_MODES])(gen_run *, sluice_session *,
                                         sluice_error *) = {[GEN_FORCED] = forced,
                                                            [GEN_SINGLE] = single,
                                                            [GEN_MULTI_TURN] = golden_turns,
                                                            [GEN_MULTI_REQUEST] = multi_request};
    sluice_info info;
    sluice_get_info(r->engine, &info);
    int own = r->mode == GEN_MULTI_TURN && source->own_history;
    if (info.max_sessions < 2 + own && r->mode != GEN_FORCED) {
        snprintf(err->text, sizeof err->text, "contexts are shared by forks: engine.max_seqs must be at least %d",
                 2 + own);
        return SLUICE_E_RANGE;
    }
    r->task = task;
    r->source = source;
    r->ctx = ctx;
    sluice_session *s = NULL;
    int status = sluice_session_open(r->engine, &s, err);
    if (status >= 0)
        status = own ? own_turns(r, s, err) : run[r->mode](r, s, err);
    sluice_session_close(s);
    r->contexts++;
    return status;
}
