/* See spec_run.h. */
#include "spec_run.h"

#include <stdlib.h>
#include <string.h>

#include "eval.h"
#include "quantile.h"
#include "spec_loop.h"

enum { MAX_BATCH = 256 };

/* One sequence while it is generated. */
typedef struct stream {
    spec_loop loop;
    spec_tally *tally;
    spec_output *out;
    int n_chunks, no_memory;
} stream;

static int count_chunk(void *user, const sluice_chunk *chunk) {
    stream *s = (stream *)user + chunk->index;
    if (chunk->n_tokens == 0)
        return 0;
    int32_t *wider = realloc(s->out->token, sizeof *wider * (size_t)(s->out->n + chunk->n_tokens));
    if (wider == NULL) {
        s->no_memory = 1;
        return 1;
    }
    s->out->token = wider;
    int kind = SPEC_FRESH;
    for (int32_t i = 0; i < chunk->n_tokens; i++) {
        int looping = spec_loop_push(&s->loop, chunk->tokens[i]);
        kind = i == 0 && looping ? SPEC_LOOPING : kind;
        s->tally->looping_tokens += looping;
        s->out->token[s->out->n++] = chunk->tokens[i];
    }
    s->tally->tokens += chunk->n_tokens;
    if (s->n_chunks++ > 0) { /* the first one is the prompt's */
        s->tally->steps[kind]++;
        s->tally->emitted[kind] += chunk->n_tokens;
    }
    return 0;
}

/* A session with the prompt in it, or none when it does not fit. */
static int open_prompt(sluice_engine *e, const char *text, int32_t max_tokens, sluice_session **out,
                       sluice_error *err) {
    sluice_info info;
    sluice_get_info(e, &info);
    *out = NULL;
    int64_t n = sluice_tokenize(e, text, strlen(text), SLUICE_ADD_SPECIAL, NULL, 0, err);
    if (n < 0)
        return (int)n;
    if (n == 0 || n + max_tokens > info.max_context)
        return SLUICE_OK;
    int32_t *tokens = malloc(sizeof *tokens * (size_t)n);
    if (tokens == NULL)
        return eval_no_memory(err);
    sluice_tokenize(e, text, strlen(text), SLUICE_ADD_SPECIAL, tokens, n, err);
    int status = sluice_session_open(e, out, err);
    if (status >= 0)
        status = sluice_session_append(*out, tokens, n, err);
    free(tokens);
    return status;
}

/* What came between two looks. The engine's counts are not reset: those of plugins would go with them. */
static void take_stats(const sluice_stats *before, const sluice_stats *s, spec_tally *t, double *pace) {
    int64_t emitted = s->emitted - before->emitted;
    double seconds = s->decode_seconds - before->decode_seconds;
    t->drafted += s->drafted - before->drafted;
    t->accepted += s->accepted - before->accepted;
    for (int d = 0; d < SLUICE_MAX_DEPTH; d++) {
        t->drafted_by_depth[d] += s->drafted_by_depth[d] - before->drafted_by_depth[d];
        t->accepted_by_depth[d] += s->accepted_by_depth[d] - before->accepted_by_depth[d];
    }
    if (emitted > 0 && seconds > 0) {
        *pace = seconds / (double)emitted;
        t->rates += (double)emitted / seconds;
        t->n_rates++;
    }
}

/* Prompts [first, first + n) together. */
static int run_batch(sluice_engine *e, const spec_prompts *prompts, const spec_how *how, int first, int n,
                     spec_output *output, spec_tally *tally, double *pace, sluice_error *err) {
    sluice_session *session[MAX_BATCH] = {NULL};
    sluice_sampling sampling[MAX_BATCH];
    stream *streams = calloc((size_t)n, sizeof *streams);
    int status = streams != NULL ? SLUICE_OK : eval_no_memory(err), m = 0;
    for (int i = 0; status >= 0 && i < n; i++) {
        status = open_prompt(e, prompts->prompt[first + i].text, how->max_tokens, &session[m], err);
        tally->prompts++;
        if (status >= 0 && session[m] == NULL) {
            output[i].too_long = 1;
            tally->too_long++;
            continue;
        }
        if (status < 0)
            break;
        spec_loop_begin(&streams[m].loop);
        streams[m].tally = tally;
        streams[m].out = &output[i];
        sluice_default_sampling(e, &sampling[m]);
        sampling[m].temperature = how->temperature;
        sampling[m].max_tokens = how->max_tokens;
        sampling[m].seed = how->seed + (uint64_t)(first + i);
        m++;
    }
    sluice_stats before, stats;
    sluice_get_stats(e, &before);
    if (status >= 0 && m > 0)
        status = sluice_generate(e, session, m, sampling, 0, count_chunk, streams, err);
    sluice_get_stats(e, &stats);
    take_stats(&before, &stats, tally, pace);
    for (int i = 0; i < n; i++) {
        sluice_session_close(session[i]);
        if (status >= 0 && streams[i].no_memory)
            status = eval_no_memory(err);
    }
    free(streams);
    return status;
}

static int warm_up(sluice_engine *e, const spec_prompts *prompts, const spec_how *how, sluice_error *err) {
    spec_output unused = {0};
    double pace;
    spec_tally *nowhere = calloc(1, sizeof *nowhere);
    int status = nowhere != NULL ? run_batch(e, prompts, how, 0, 1, &unused, nowhere, &pace, err) : eval_no_memory(err);
    spec_outputs_free(&unused, 1);
    free(nowhere);
    return status;
}

int spec_run(spec_side *side, int n, const spec_prompts *prompts, const spec_how *how, sluice_error *err) {
    int status = SLUICE_OK, batch = 0;
    for (int i = 0; status >= 0 && i < how->warm_up * n; i++)
        status = warm_up(side[i % n].engine, prompts, how, err);
    for (int i = 0, together; status >= 0 && i < prompts->n; i += together, batch++) {
        int category = prompts->prompt[i].category;
        for (together = 1;
             together < how->batch && i + together < prompts->n && prompts->prompt[i + together].category == category;)
            together++;
        for (int k = 0; status >= 0 && k < n; k++) {
            spec_side *s = &side[(batch + k) % n];
            status =
                run_batch(s->engine, prompts, how, i, together, s->output + i, &s->tally[category], &s->pace[i], err);
        }
    }
    return status;
}

/* Paces of a, or with b their ratios, sorted. */
static int gather(const spec_prompts *prompts, const double *a, const double *b, int category, double **out) {
    int n = 0;
    *out = malloc(sizeof **out * (size_t)(prompts->n + 1));
    for (int i = 0; *out != NULL && i < prompts->n; i++)
        if ((category < 0 || prompts->prompt[i].category == category) && a[i] > 0 && (b == NULL || b[i] > 0))
            (*out)[n++] = b == NULL ? a[i] : a[i] / b[i];
    sort_ascending(*out, n);
    return n;
}

int spec_pairs(const spec_prompts *prompts, const double *pace_a, const double *pace_b, int category, double v[3]) {
    double *all;
    int n = gather(prompts, pace_a, pace_b, category, &all);
    for (int k = 0; n > 0 && k < 3; k++)
        v[k] = quantile_of_sorted(all, n, k == 0 ? 0.5 : k == 1 ? 0.25 : 0.75);
    free(all);
    return n;
}

double spec_pace(const spec_prompts *prompts, const double *pace, int category) {
    double *all;
    int n = gather(prompts, pace, NULL, category, &all);
    double v = n > 0 ? quantile_of_sorted(all, n, 0.5) : 0;
    free(all);
    return v;
}

void spec_outputs_free(spec_output *output, int n) {
    for (int i = 0; output != NULL && i < n; i++)
        free(output[i].token);
}

void spec_compare(const spec_prompts *prompts, const spec_output *plain, const spec_output *output, spec_tally *tally) {
    for (int c = 0; c < prompts->n_categories; c++)
        tally[c].odd_prompt = tally[c].odd_token = -1;
    for (int i = 0; i < prompts->n; i++) {
        spec_tally *t = &tally[prompts->prompt[i].category];
        if (plain[i].too_long || output[i].too_long)
            continue;
        int64_t same = 0;
        while (same < plain[i].n && same < output[i].n && plain[i].token[same] == output[i].token[same])
            same++;
        t->compared++;
        if (same == plain[i].n && same == output[i].n)
            t->identical++;
        else if (t->odd_prompt < 0)
            t->odd_prompt = i, t->odd_token = same;
    }
}

void spec_add(spec_tally *a, const spec_tally *b) {
    int first = a->compared == 0;
    a->prompts += b->prompts;
    a->too_long += b->too_long;
    a->tokens += b->tokens;
    a->looping_tokens += b->looping_tokens;
    for (int k = 0; k < 2; k++) {
        a->steps[k] += b->steps[k];
        a->emitted[k] += b->emitted[k];
    }
    a->drafted += b->drafted;
    a->accepted += b->accepted;
    for (int d = 0; d < SLUICE_MAX_DEPTH; d++) {
        a->drafted_by_depth[d] += b->drafted_by_depth[d];
        a->accepted_by_depth[d] += b->accepted_by_depth[d];
    }
    a->rates += b->rates;
    a->n_rates += b->n_rates;
    if (first || a->odd_prompt < 0)
        a->odd_prompt = b->odd_prompt, a->odd_token = b->odd_token;
    a->identical += b->identical;
    a->compared += b->compared;
}
