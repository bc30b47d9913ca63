/* See bench_run.h. Text is in none of it; tokens are random. */
#include "bench_run.h"
#include "quantile.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void random_tokens(int32_t *tokens, int64_t n, int32_t vocab, uint64_t seed) {
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        tokens[i] = (int32_t)((seed >> 33) % (uint64_t)vocab);
    }
}

/* When each session's first token came. */
typedef struct first_tokens {
    double at[BENCH_MAX_BATCH];
} first_tokens;

static int note_chunk(void *user, const sluice_chunk *chunk) {
    first_tokens *f = user;
    if (chunk->n_tokens > 0 && f->at[chunk->index] == 0)
        f->at[chunk->index] = now();
    return 0;
}

/* One run: what it works on, and what came of it. */
typedef struct run {
    sluice_engine *e;
    const bench_test *t;
    sluice_session *session[BENCH_MAX_BATCH];
    int32_t *tokens; /* [depth + n_prompt + 1] */
    float *logits;
    uint64_t seed;
    double seconds, busy, first_token;
    sluice_stats before, after;
} run;

/* Puts the test's depth in front of what is measured. */
static int go_to_depth(run *r, int i, sluice_error *err) {
    const bench_test *t = r->t;
    if (t->depth == 0)
        return SLUICE_OK;
    if (t->synthetic)
        return sluice_session_fill(r->session[i], t->depth, r->seed + (uint64_t)i, err);
    int status = sluice_session_append(r->session[i], r->tokens, t->depth, err);
    return status < 0 ? status : sluice_prefill(r->session[i], 0, err);
}

static int append_all(run *r, const int32_t *tokens, int64_t n, sluice_error *err) {
    int status = SLUICE_OK;
    for (int i = 0; status >= 0 && i < r->t->batch; i++)
        status = sluice_session_append(r->session[i], tokens, n, err);
    return status;
}

static int compute_prompts(run *r, sluice_error *err) {
    int status = SLUICE_OK;
    for (int i = 0; status >= 0 && i < r->t->batch; i++)
        if ((status = sluice_session_append(r->session[i], r->tokens + r->t->depth, r->t->n_prompt, err)) >= 0)
            status = sluice_logits(r->session[i], 1, r->logits, err);
    return status;
}

static int generate(run *r, int64_t n, first_tokens *first, sluice_error *err) {
    sluice_sampling how;
    sluice_default_sampling(r->e, &how);
    how.temperature = r->t->sampled ? how.temperature : 0;
    how.ignore_eos = 1;
    how.n_stop = 0;
    how.max_tokens = (int32_t)n;
    return sluice_generate(r->e, r->session, r->t->batch, &how, 1, note_chunk, first, err);
}

/* Prompt and `n` decode steps' tokens behind the first token. */
static int answer_prompts(run *r, int64_t n, double begin, sluice_error *err) {
    first_tokens first = {{0}};
    int status = append_all(r, r->tokens + r->t->depth, r->t->n_prompt, err);
    if (status >= 0)
        status = generate(r, n + 1, &first, err);
    r->first_token = 0;
    for (int i = 0; i < r->t->batch; i++)
        if (first.at[i] == 0) /* the context is full: there is no token behind the prompt */
            r->first_token = NAN;
        else
            r->first_token += (first.at[i] - begin) / r->t->batch;
    return status;
}

/* A run in open sessions. first: the time to the first token of a test that else only computes prompts. */
static int run_in(run *r, int first, sluice_error *err) {
    const bench_test *t = r->t;
    /* Decoding at a depth goes on from a token that was decided, not from a turn. */
    int begun = t->depth > 0 && t->n_prompt == 0, status = SLUICE_OK;
    const int32_t *last = r->tokens + t->depth + t->n_prompt;
    first_tokens unused = {{0}};
    for (int i = 0; status >= 0 && i < t->batch; i++)
        status = go_to_depth(r, i, err);
    if (status >= 0 && begun && (status = append_all(r, last, 1, err)) >= 0)
        status = generate(r, 1, &unused, err);
    sluice_get_stats(r->e, &r->before);
    double begin = now();
    if (status >= 0 && (first || (t->n_prompt > 0 && t->n_gen > 0)))
        status = answer_prompts(r, t->n_gen, begin, err);
    else if (status >= 0 && t->n_prompt > 0)
        status = compute_prompts(r, err);
    else if (status >= 0 && (begun || (status = append_all(r, last, 1, err)) >= 0))
        status = generate(r, t->n_gen, &unused, err);
    r->seconds = now() - begin;
    sluice_get_stats(r->e, &r->after);
    r->busy = r->after.device_seconds - r->before.device_seconds;
    return status;
}

static void read_memory(sluice_engine *e, bench_result *out) {
    for (int place = 0; place < 3; place++)
        for (int i = 0; i < SLUICE_MEMORY_ROWS; i++)
            sluice_get_memory(e, place, i, &out->memory[place][i]);
    out->resident = resident_read();
}

static int run_once(run *r, uint64_t seed, int first, bench_result *memory, sluice_error *err) {
    sluice_info info;
    sluice_get_info(r->e, &info);
    const int64_t most = r->t->depth + r->t->n_prompt + 1;
    r->seed = seed;
    r->tokens = malloc(sizeof *r->tokens * (size_t)most);
    r->logits = malloc(sizeof *r->logits * (size_t)info.vocab);
    int status = r->tokens != NULL && r->logits != NULL ? SLUICE_OK : SLUICE_E_NO_MEMORY;
    if (status < 0)
        snprintf(err->text, sizeof err->text, "out of memory");
    else
        random_tokens(r->tokens, most, info.vocab, seed);
    memset(r->session, 0, sizeof r->session);
    for (int i = 0; status >= 0 && i < r->t->batch; i++)
        status = sluice_session_open(r->e, &r->session[i], err);
    if (status >= 0)
        status = run_in(r, first, err);
    if (status >= 0)
        read_memory(r->e, memory);
    for (int i = 0; i < r->t->batch; i++)
        sluice_session_close(r->session[i]);
    free(r->tokens);
    free(r->logits);
    return status;
}

static void count_first(const run *r, bench_result *out) {
    if (!isnan(r->first_token))
        out->first_token[out->n_first_tokens++] = r->first_token;
}

static void count_steps(const run *r, bench_result *out) {
    const sluice_stats *a = &r->before, *b = &r->after;
    out->steps += b->steps - a->steps;
    out->emitted += b->emitted - a->emitted;
    out->drafted += b->drafted - a->drafted;
    out->accepted += b->accepted - a->accepted;
    out->decode_seconds += b->decode_seconds - a->decode_seconds;
    for (int d = 0; d < SLUICE_MAX_DEPTH; d++) {
        out->drafted_by_depth[d] += b->drafted_by_depth[d] - a->drafted_by_depth[d];
        out->accepted_by_depth[d] += b->accepted_by_depth[d] - a->accepted_by_depth[d];
    }
}

int bench_measure(sluice_engine *e, const bench_test *t, int repetitions, bench_tell_fn tell, void *user,
                  bench_result *out, sluice_error *err) {
    run r = {.e = e, .t = t};
    sluice_stats first;
    const bench_result earlier = *out;
    sluice_get_stats(e, &first);
    *out = (bench_result){.repetitions = repetitions, .peak = earlier.peak, .gpu_peak = earlier.gpu_peak};
    out->peak = first.bytes_peak > out->peak ? first.bytes_peak : out->peak; /* loading is part of it */
    out->gpu_peak = first.gpu_bytes_peak > out->gpu_peak ? first.gpu_bytes_peak : out->gpu_peak;
    sluice_reset_peaks(e);
    resident_restart();
    tell(user, "warm-up", 1, 1);
    if (run_once(&r, 1, 0, out, err) < 0)
        return -1;
    sluice_reset_stats(e);
    const int prompts_only = t->n_prompt > 0 && t->n_gen == 0;
    for (int i = 0; i < repetitions; i++) {
        tell(user, "repetition", i + 1, repetitions);
        if (run_once(&r, 2 + (uint64_t)i, 0, out, err) < 0)
            return -1;
        out->seconds[i] = r.seconds;
        out->busy[i] = r.busy;
        if (t->n_prompt > 0 && !prompts_only)
            count_first(&r, out);
        count_steps(&r, out);
    }
    sluice_get_stats(e, &out->stats);
    const int n = repetitions < BENCH_FIRST_TOKENS ? repetitions : BENCH_FIRST_TOKENS;
    for (int i = 0; prompts_only && i < n; i++) {
        bench_result unused;
        tell(user, "first token", i + 1, n);
        if (run_once(&r, 2 + (uint64_t)i, 1, &unused, err) < 0)
            return -1;
        count_first(&r, out);
    }
    sluice_stats *s = &out->stats;
    s->graphs -= first.graphs;
    s->graph_nodes -= first.graph_nodes;
    s->graph_others -= first.graph_others;
    s->graph_edges -= first.graph_edges;
    s->graph_dependent -= first.graph_dependent;
    out->peak = s->bytes_peak > out->peak ? s->bytes_peak : out->peak;
    out->gpu_peak = s->gpu_bytes_peak > out->gpu_peak ? s->gpu_bytes_peak : out->gpu_peak;
    return 0;
}

/* ---- numbers ------------------------------------------------------------------------------------------------------
 */

double bench_mean(const double *v, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += v[i];
    return sum / n;
}

double bench_deviation(const double *v, int n) {
    double m = bench_mean(v, n), sum = 0;
    for (int i = 0; i < n; i++)
        sum += (v[i] - m) * (v[i] - m);
    return n > 1 ? sqrt(sum / (n - 1)) : 0;
}

double bench_median(const double *v, int n) {
    double sorted[BENCH_MAX_REPETITIONS];
    memcpy(sorted, v, sizeof *v * (size_t)n);
    sort_ascending(sorted, n);
    return median_of_sorted(sorted, n);
}
