/* See gen_report.h. */
#include "gen_report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval.h"

enum { BINS = 10 };

static double number(const json_t *row, const char *key) { return json_number_value(json_object_get(row, key)); }

/* ---- groups of rows ---------------------------------------------------------------------------------------------- */

typedef struct tally {
    int64_t answers, right, tokens, tokens_right;
    double score, nll;
} tally;

static void count(tally *t, const json_t *row) {
    double score = number(row, "score");
    t->answers++;
    t->right += score >= 1;
    t->tokens += (int64_t)number(row, "tokens");
    t->tokens_right += (int64_t)number(row, "tokens_right");
    t->score += score;
    t->nll += number(row, "golden_nll");
}

/* Adds what a tally says. A group without answers has null for its shares. */
static void tell(json_t *o, const tally *t, int with_nll) {
    double n = (double)t->answers, tokens = (double)t->tokens;
    json_object_set_new(o, "answers", json_integer(t->answers));
    json_object_set_new(o, "answers_right", json_integer(t->right));
    json_object_set_new(o, "tokens", json_integer(t->tokens));
    json_object_set_new(o, "tokens_right", json_integer(t->tokens_right));
    json_object_set_new(o, "token_accuracy", tokens > 0 ? json_real((double)t->tokens_right / tokens) : json_null());
    json_object_set_new(o, "answer_accuracy", n > 0 ? json_real((double)t->right / n) : json_null());
    json_object_set_new(o, "score", n > 0 ? json_real(t->score / n) : json_null());
    if (with_nll)
        json_object_set_new(o, "golden_nll_per_token", tokens > 0 ? json_real(t->nll / tokens) : json_null());
}

/* Rows [begin, end) by tenth of the context in which the answer lies; those whose answer lies all over it are left out.
 */
static json_t *by_depth(const json_t *rows, size_t begin, size_t end, int with_nll) {
    tally bins[BINS] = {{0}};
    json_t *list = json_array();
    for (size_t i = begin; i < end; i++) {
        const json_t *row = json_array_get(rows, i), *depth = json_object_get(row, "depth");
        int bin = json_is_number(depth) ? (int)(json_number_value(depth) * BINS) : -1;
        if (bin >= 0)
            count(&bins[bin < BINS ? bin : BINS - 1], row);
    }
    for (int i = 0; i < BINS; i++) {
        if (bins[i].answers == 0)
            continue;
        json_t *one = json_pack("{s:f, s:f}", "from", (double)i / BINS, "to", (double)(i + 1) / BINS);
        tell(one, &bins[i], with_nll);
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *by_turn(const json_t *rows, size_t begin, size_t end, int with_nll) {
    tally turns[GEN_MAX_QUESTIONS] = {{0}};
    json_t *list = json_array();
    for (size_t i = begin; i < end; i++) {
        const json_t *row = json_array_get(rows, i);
        count(&turns[(int)number(row, "question")], row);
    }
    for (int i = 0; i < GEN_MAX_QUESTIONS && turns[i].answers > 0; i++) {
        json_t *one = json_pack("{s:i}", "turn", i + 1);
        tell(one, &turns[i], with_nll);
        json_array_append_new(list, one);
    }
    return list;
}

/* Behind the last row of the task and length that stand in row `begin`. */
static size_t group_end(const json_t *rows, size_t begin) {
    size_t end = begin;
    const json_t *first = json_array_get(rows, begin);
    while (end < json_array_size(rows) &&
           json_equal(json_object_get(json_array_get(rows, end), "task"), json_object_get(first, "task")) &&
           json_equal(json_object_get(json_array_get(rows, end), "length"), json_object_get(first, "length")))
        end++;
    return end;
}

static json_t *by_task(const json_t *rows, int with_nll) {
    json_t *list = json_array();
    for (size_t begin = 0, end; begin < json_array_size(rows); begin = end) {
        tally t = {0};
        const json_t *first = json_array_get(rows, begin);
        end = group_end(rows, begin);
        for (size_t i = begin; i < end; i++)
            count(&t, json_array_get(rows, i));
        json_t *one =
            json_pack("{s:O, s:O}", "task", json_object_get(first, "task"), "length", json_object_get(first, "length"));
        tell(one, &t, with_nll);
        json_object_set_new(one, "by_turn", by_turn(rows, begin, end, with_nll));
        json_object_set_new(one, "by_depth", by_depth(rows, begin, end, with_nll));
        json_array_append_new(list, one);
    }
    return list;
}

/* ---- measurements --------------------------------------------------------------------------------------------------
 */

static json_t *rate(double n, double seconds) { return seconds > 0 ? json_real(n / seconds) : json_null(); }

static void measured(const gen_run *r, json_t *result) {
    sluice_stats s;
    sluice_get_stats(r->engine, &s);
    json_object_set_new(result, "kv_bytes",
                        json_pack("{s:I, s:I}", "prefill", (json_int_t)r->kv_prefill, "peak", (json_int_t)r->kv_peak));
    json_object_set_new(result, "context_seconds",
                        r->contexts_computed > 0 ? json_real(r->context_seconds / (double)r->contexts_computed)
                                                 : json_null());
    json_object_set_new(result, "ttft_seconds",
                        r->first_answers > 0 ? json_real(r->first_seconds / (double)r->first_answers) : json_null());
    json_object_set_new(result, "prompt_tps", rate((double)s.prompt_tokens, s.prompt_seconds));
    json_object_set_new(result, "decode_tps", rate((double)s.emitted, s.decode_seconds));
    if (r->cache == NULL)
        return;
    json_t *cache = json_pack("{s:s, s:I, s:I}", "folder", r->cache->dir, "hits", (json_int_t)r->cache->hits, "misses",
                              (json_int_t)r->cache->misses);
    if (r->cache->why[0] != '\0')
        json_object_set_new(cache, "not_used", json_string(r->cache->why));
    json_object_set_new(result, "prefill_cache", cache);
}

int gen_report(const gen_run *r, json_t *result, sluice_error *err) {
    tally all = {0};
    int with_nll = r->golden || r->mode == GEN_FORCED;
    for (size_t i = 0; i < json_array_size(r->rows); i++)
        count(&all, json_array_get(r->rows, i));
    json_object_set_new(result, "contexts", json_integer(r->contexts));
    tell(result, &all, with_nll);
    measured(r, result);
    json_object_set_new(result, "by_task", by_task(r->rows, with_nll));
    json_object_set_new(result, "by_turn", by_turn(r->rows, 0, json_array_size(r->rows), with_nll));
    json_object_set_new(result, "by_depth", by_depth(r->rows, 0, json_array_size(r->rows), with_nll));
    return json_object_set(result, "by_question", r->rows) == 0 ? SLUICE_OK : gen_no_memory(err);
}

/* ---- differences
 * ----------------------------------------------------------------------------------------------------- */

static json_t *interval(double value) { return value == value ? json_real(value) : json_null(); }

/* Of rows [begin, end). d and context have room for all rows. */
static json_t *differences(const json_t *now, const json_t *before, size_t begin, size_t end, double *d,
                           int64_t *context) {
    size_t n = end - begin, same = 0, with_nll = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *a = json_array_get(now, begin + i), *b = json_array_get(before, begin + i);
        d[i] = number(a, "score") - number(b, "score");
        context[i] = (int64_t)number(a, "context");
        same += (size_t)json_equal(json_object_get(a, "got"), json_object_get(b, "got"));
        with_nll += json_object_get(a, "golden_nll") != NULL && json_object_get(b, "golden_nll") != NULL;
    }
    eval_difference difference = eval_paired(d, context, (int64_t)n);
    json_t *out = json_pack("{s:f, s:o, s:I, s:f}", "mean_difference", difference.mean, "half_width_95",
                            interval(difference.half_width), "clusters", (json_int_t)difference.n_clusters,
                            "same_answer", (double)same / (double)n);
    if (with_nll < n)
        return out;
    for (size_t i = 0; i < n; i++) {
        const json_t *a = json_array_get(now, begin + i), *b = json_array_get(before, begin + i);
        d[i] = (number(a, "golden_nll") - number(b, "golden_nll")) / number(a, "tokens");
    }
    difference = eval_paired(d, context, (int64_t)n);
    json_object_set_new(out, "golden_nll_difference", json_real(difference.mean));
    json_object_set_new(out, "golden_nll_half_width_95", interval(difference.half_width));
    return out;
}

int gen_compare(json_t *result, const char *against, sluice_error *err) {
    static const char *const same[] = {"task", "mode",     "own_history", "tasks",  "length",     "turns", "seed",
                                       "text", "contexts", "answers",     "tokens", "max_tokens", NULL};
    json_t *before = eval_earlier(against, result, same, err);
    if (before == NULL)
        return SLUICE_E_DATA;
    json_t *rows = json_object_get(result, "by_question"), *earlier = json_object_get(before, "by_question");
    size_t n = json_array_size(rows);
    double *d = malloc(sizeof *d * (n + 1));
    int64_t *context = malloc(sizeof *context * (n + 1));
    int status = d != NULL && context != NULL ? SLUICE_OK : gen_no_memory(err);
    if (status >= 0 && json_array_size(earlier) != n) {
        snprintf(err->text, sizeof err->text, "%s: by_question must hold %zu questions", against, n);
        status = SLUICE_E_DATA;
    }
    if (status >= 0) {
        json_t *out = json_pack("{s:s}", "file", against), *tasks = json_array();
        json_t *all = differences(rows, earlier, 0, n, d, context);
        json_object_update(out, all);
        json_decref(all);
        for (size_t begin = 0, end; begin < n; begin = end) {
            const json_t *first = json_array_get(rows, begin);
            end = group_end(rows, begin);
            json_t *one = differences(rows, earlier, begin, end, d, context);
            json_object_set(one, "task", json_object_get(first, "task"));
            json_object_set(one, "length", json_object_get(first, "length"));
            json_array_append_new(tasks, one);
        }
        json_object_set_new(out, "by_task", tasks);
        json_object_set_new(result, "against", out);
    }
    free(d);
    free(context);
    json_decref(before);
    return status;
}
