/* Teacher forcing: computes pending tokens and looks at the logits in front of known ones. */
#include "engine.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "api.h"
#include "chunk.h"
#include "prompt.h"
#include "sl_error.h"
#include "sources.h"
#include "transcript.h"

/* Receives the logits after the token with that index. */
typedef void (*logits_fn)(void *user, int64_t token_index, const float *logits, int64_t vocab);

/* Computes one chunk of pending tokens, or one of them as a decode step. Logits are handed out for token indices >=
 * first, as many at once as the buffer holds. */
static sl_status chunk(sluice_engine *e, sluice_session *s, int64_t first, logits_fn fn, void *user, sl_error *err) {
    uint32_t stage = s->n_kv >= sli_prompt_end(s) ? SL_STAGE_DECODE : SL_STAGE_PREFILL;
    int64_t end = sli_prompt_end(s) < s->n ? sli_prompt_end(s) : s->n;
    int64_t rows = stage == SL_STAGE_DECODE
                       ? 1
                       : sli_prompt_chunk(s, sli_chunk_rows(&e->target, s->n_kv, end - s->n_kv, e->limits.max_rows));
    double begin = sli_now();
    sli_batch_clear(&e->batch, 0, ++e->target.step);
    sli_batch_add(&e->batch, s->id, s->n_kv, stage, s->tokens + s->n_kv, (int32_t)rows, NULL,
                  sli_session_positions(e, s, s->n_kv, (int32_t)rows, NULL));
    const sl_batch *b = &e->batch.view;
    e->n_prompt[0] = sli_prompt_end(s);
    SL_TRY(sli_network_begin(&e->target, b, err));
    SL_TRY(sli_network_forward(&e->target, &(sli_pass){.batch = b, .n_prompt = e->n_prompt}, err));
    for (int64_t r = first > s->n_kv ? first - s->n_kv : 0; r < rows; r += e->logit_rows) {
        int32_t n = (int32_t)(rows - r < e->logit_rows ? rows - r : e->logit_rows);
        for (int32_t i = 0; i < n; i++)
            e->path[i] = (int32_t)r + i;
        SL_TRY(sli_network_head(&e->target, e->path, n, e->logits, err));
        for (int32_t i = 0; i < n; i++)
            fn(user, s->n_kv + r + i, e->logits + (int64_t)i * e->target.info->vocab, e->target.info->vocab);
    }
    for (int32_t i = 0; i < rows; i++)
        e->path[i] = i;
    e->path_begin[0] = 0;
    e->path_begin[1] = (int32_t)rows;
    e->next[0] = -1;
    sl_commit commit = {SL_SIZE(sl_commit), b, e->path_begin, e->path, e->next};
    SL_TRY(sli_network_commit(&e->target, &commit, err));
    if (s->n_kv + rows >= s->n)
        SL_TRY(sli_network_wait(&e->target, err)); /* times are of work that is done */
    s->n_kv += rows;
    if (stage == SL_STAGE_DECODE) {
        e->stats.steps++;
        e->stats.decode_seconds += sli_now() - begin;
        return SL_OK;
    }
    e->stats.prompt_tokens += rows;
    e->stats.prompt_seconds += sli_now() - begin;
    return SL_OK;
}

static sl_status compute(sluice_session *s, int64_t first, logits_fn fn, void *user, sl_error *err) {
    sluice_engine *e = s->engine;
    SL_TRY(sli_session_grow(s, s->n, err));
    while (s->n_kv < s->n) {
        sli_engine_step_begin(e);
        sl_status status = chunk(e, s, first, fn, user, err);
        sli_engine_step_end(e);
        SL_TRY(status);
        SL_TRY(sli_engine_settle(e, err));
        SL_TRY(sli_sources_run(e, err));
    }
    return SL_OK;
}

/* What stands in front of the last n tokens is a prompt; those n are no part of it, and stay pending. */
static sl_status prompt_in_front(sluice_session *s, int64_t n, sl_error *err) {
    if (n < 0 || n > s->n - s->n_kv)
        return SL_OK; /* refused by the caller */
    return sli_engine_prompt(s->engine, s, sli_shown_length(s) - n, err);
}

typedef struct scorer {
    const sluice_session *s;
    int64_t first; /* token index of the first scored token */
    double *logprob;
    int32_t *best;
} scorer;

static void score_row(void *user, int64_t token_index, const float *logits, int64_t vocab) {
    const scorer *c = user;
    int64_t next = token_index + 1;
    if (next >= c->s->n)
        return;
    int32_t best = 0;
    for (int64_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = (int32_t)i;
    double sum = 0;
    for (int64_t i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - logits[best]);
    if (c->logprob != NULL)
        c->logprob[next - c->first] = (double)logits[c->s->tokens[next]] - logits[best] - log(sum);
    if (c->best != NULL)
        c->best[next - c->first] = best;
}

/* Hands out what predicts the last n_scored tokens. in_steps: they are decoded one by one. Only here is it known where
 * they begin, since a prompt transformer may have replaced what stands in front: *first gets their token index. */
static int teach(sluice_session *s, int64_t n_scored, int in_steps, int64_t *first, logits_fn fn, void *user,
                 sluice_error *error) {
    SLI_API(err, error);
    sl_status asked = prompt_in_front(s, n_scored, &err);
    if (asked < 0)
        return sli_api_fail(&err, asked, error);
    *first = s->n - n_scored;
    if (n_scored < 1 || *first < 1 || *first - 1 < s->n_kv)
        return sli_api_fail(&err,
                            sl_fail(&err, SL_E_RANGE,
                                    "%" PRId64 " tokens cannot be scored: %" PRId64 " of %" PRId64
                                    " are computed already, and one must stand in front",
                                    n_scored, s->n_kv, s->n),
                            error);
    s->prompt_end = in_steps ? *first : 0;
    sl_status status = compute(s, *first - 1, fn, user, &err);
    s->prompt_end = 0;
    return status < 0 ? sli_api_fail(&err, status, error) : SLUICE_OK;
}

static int score(sluice_session *s, int64_t n_scored, int in_steps, double *logprob, int32_t *best,
                 sluice_error *error) {
    scorer c = {s, 0, logprob, best};
    return teach(s, n_scored, in_steps, &c.first, score_row, &c, error);
}

int sluice_score(sluice_session *s, int64_t n_scored, double *logprob, int32_t *best, sluice_error *error) {
    return score(s, n_scored, 0, logprob, best, error);
}

int sluice_score_steps(sluice_session *s, int64_t n_scored, double *logprob, int32_t *best, sluice_error *error) {
    return score(s, n_scored, 1, logprob, best, error);
}

typedef struct visitor {
    int64_t first, n; /* token index of the first scored token; how many */
    sluice_logits_fn fn;
    void *user;
} visitor;

static void visit_row(void *user, int64_t token_index, const float *logits, int64_t vocab) {
    const visitor *v = user;
    int64_t row = token_index + 1 - v->first;
    if (row < v->n) /* behind the last token nothing is known */
        v->fn(v->user, row, logits, vocab);
}

int sluice_visit_logits(sluice_session *s, int64_t n_scored, int in_steps, sluice_logits_fn fn, void *user,
                        sluice_error *error) {
    visitor v = {0, n_scored, fn, user};
    return teach(s, n_scored, in_steps, &v.first, visit_row, &v, error);
}

static void no_row(void *user, int64_t token_index, const float *logits, int64_t vocab) {
    (void)user, (void)token_index, (void)logits, (void)vocab;
}

int sluice_prefill(sluice_session *s, int more, sluice_error *error) {
    SLI_API(err, error);
    sl_status asked = more != 0 ? SL_OK : prompt_in_front(s, 0, &err); /* a prompt that goes on is none yet */
    if (asked < 0)
        return sli_api_fail(&err, asked, error);
    s->prompt_end = more != 0 ? INT64_MAX : 0;
    sl_status status = compute(s, s->n, no_row, NULL, &err);
    s->prompt_end = 0;
    return status < 0 ? sli_api_fail(&err, status, error) : SLUICE_OK;
}

typedef struct copier {
    int64_t first;
    float *out;
} copier;

static void copy_row(void *user, int64_t token_index, const float *logits, int64_t vocab) {
    const copier *c = user;
    memcpy(c->out + (token_index - c->first) * vocab, logits, sizeof *logits * (size_t)vocab);
}

int sluice_logits(sluice_session *s, int64_t n, float *logits, sluice_error *error) {
    SLI_API(err, error);
    sl_status asked = prompt_in_front(s, n - 1, &err);
    if (asked < 0)
        return sli_api_fail(&err, asked, error);
    if (n < 1 || s->n - n < s->n_kv)
        return sli_api_fail(
            &err, sl_fail(&err, SL_E_RANGE, "logits of %" PRId64 " tokens: %" PRId64 " are pending", n, s->n - s->n_kv),
            error);
    copier c = {s->n - n, logits};
    sl_status status = compute(s, c.first, copy_row, &c, &err);
    return status < 0 ? sli_api_fail(&err, status, error) : SLUICE_OK;
}
