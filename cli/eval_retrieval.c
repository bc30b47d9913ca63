/* sluice eval retrieval - numbers hidden in running text, asked for at its end; see docs/eval.md. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval.h"
#include "needles.h"
#include "options.h"
#include "report.h"

/* How much of a context is computed together with a question that belongs to the prompt: more than any policy's
 * observation window. */
enum { TAIL = 256 };

typedef struct run {
    sluice_engine *engine;
    const needles_context *ctx;
    json_t *by_question;
    int64_t context; /* number of the context */
    int64_t answers, answers_right, tokens, tokens_right;
} run;

static int count(run *r, int question, const int32_t *got, sluice_error *err) {
    const needles_answer *a = &r->ctx->answers[question];
    int64_t right = 0;
    json_t *ids = json_array();
    for (int64_t i = 0; i < a->n; i++) {
        right += r->ctx->tokens[a->begin + i] == got[i];
        json_array_append_new(ids, json_integer(got[i]));
    }
    r->tokens += a->n;
    r->tokens_right += right;
    r->answers++;
    r->answers_right += right == a->n;
    json_t *one = json_pack("{s:I, s:i, s:I, s:I, s:o}", "context", (json_int_t)r->context, "question", question,
                            "tokens", (json_int_t)a->n, "tokens_right", (json_int_t)right, "got", ids);
    return json_array_append_new(r->by_question, one) == 0 ? SLUICE_OK : eval_no_memory(err);
}

/* Teacher forcing: all questions and answers stand in one text; a token counts as right if it is the most likely one.
 */
static int forced(run *r, sluice_session *s, sluice_error *err) {
    const needles_context *ctx = r->ctx;
    int64_t n = ctx->n_tokens, first = ctx->answers[0].begin;
    int32_t *best = malloc(sizeof *best * (size_t)(n - first));
    double *logprob = malloc(sizeof *logprob * (size_t)(n - first));
    int status = best != NULL && logprob != NULL ? SLUICE_OK : eval_no_memory(err);
    if (status >= 0)
        status = sluice_session_append(s, ctx->tokens, n, err);
    if (status >= 0)
        status = sluice_score(s, n - first, logprob, best, err);
    for (int i = 0; status >= 0 && i < ctx->n_answers; i++)
        status = count(r, i, best + ctx->answers[i].begin - first, err);
    free(best);
    free(logprob);
    return status;
}

static int ignore_chunk(void *user, const sluice_chunk *chunk) {
    (void)user, (void)chunk;
    return 0;
}

/* Answers questions first .. first + n - 1 greedily, together, each in a fork of s behind tokens from `from` on and its
 * own question. */
static int answer(run *r, sluice_session *s, int64_t from, int first, int n, sluice_error *err) {
    const needles_context *ctx = r->ctx;
    sluice_session *forks[NEEDLES_MAX] = {0};
    sluice_sampling greedy[NEEDLES_MAX] = {{0}};
    int status = SLUICE_OK;
    for (int i = 0; status >= 0 && i < n; i++) {
        const needles_answer *a = &ctx->answers[first + i];
        sluice_default_sampling(r->engine, &greedy[i]);
        greedy[i].temperature = 0;
        greedy[i].ignore_eos = 1;
        greedy[i].n_stop = 0;
        greedy[i].max_tokens = (int32_t)a->n;
        status = sluice_session_fork(s, -1, &forks[i], err);
        if (status >= 0 && from < ctx->n_shared)
            status = sluice_session_append(forks[i], ctx->tokens + from, ctx->n_shared - from, err);
        if (status >= 0)
            status = sluice_session_append(forks[i], ctx->tokens + a->question, a->begin - a->question, err);
    }
    if (status >= 0)
        status = sluice_generate(r->engine, forks, n, greedy, 0, ignore_chunk, NULL, err);
    for (int i = 0; status >= 0 && i < n; i++)
        status =
            count(r, first + i,
                  sluice_session_tokens(forks[i]) + sluice_session_length(forks[i]) - ctx->answers[first + i].n, err);
    for (int i = 0; i < n; i++)
        sluice_session_close(forks[i]);
    return status;
}

/* As many forks as the engine has sessions answer at a time. */
static int answer_all(run *r, sluice_session *s, int64_t from, sluice_error *err) {
    sluice_info info;
    sluice_get_info(r->engine, &info);
    int most = info.max_sessions - 1, status = SLUICE_OK;
    if (most < 1) {
        snprintf(err->text, sizeof err->text, "contexts are shared by forks: engine.max_seqs must be at least 2");
        return SLUICE_E_RANGE;
    }
    for (int i = 0; status >= 0 && i < r->ctx->n_answers; i += most)
        status = answer(r, s, from, i, r->ctx->n_answers - i < most ? r->ctx->n_answers - i : most, err);
    return status;
}

/* The context without its tail: what all prompts begin with. Its prompt goes on. */
static int begin_prompt(const run *r, sluice_session *s, int64_t *n, sluice_error *err) {
    *n = r->ctx->n_shared > TAIL ? r->ctx->n_shared - TAIL : 0;
    int status = sluice_session_append(s, r->ctx->tokens, *n, err);
    return status >= 0 && *n > 0 ? sluice_prefill(s, 1, err) : status;
}

/* Each prompt is the context and one question. */
static int single(run *r, sluice_session *s, sluice_error *err) {
    int64_t n;
    int status = begin_prompt(r, s, &n, err);
    return status >= 0 ? answer_all(r, s, n, err) : status;
}

/* The context is the prompt, without any question; all questions are asked of it, each for itself. */
static int multi_request(run *r, sluice_session *s, sluice_error *err) {
    int status = sluice_session_append(s, r->ctx->tokens, r->ctx->n_shared, err);
    if (status >= 0)
        status = sluice_prefill(s, 0, err);
    return status >= 0 ? answer_all(r, s, r->ctx->n_shared, err) : status;
}

/* Context and first question are the prompt; then, turn by turn, the right answer and the next question follow. */
static int multi_turn(run *r, sluice_session *s, sluice_error *err) {
    const needles_context *ctx = r->ctx;
    int64_t n;
    int status = begin_prompt(r, s, &n, err);
    for (int i = 0; status >= 0 && i < ctx->n_answers; i++) {
        const needles_answer *a = &ctx->answers[i];
        if (i > 0) { /* this turn begins behind the right answer to the last one */
            status = sluice_session_append(s, ctx->tokens + n, a->question - n, err);
            n = a->question;
        }
        if (status >= 0)
            status = answer(r, s, n, i, 1, err);
        if (status >= 0)
            status = sluice_session_append(s, ctx->tokens + n, a->begin - n, err);
        if (status >= 0)
            status = sluice_prefill(s, 0, err);
        n = a->begin;
    }
    return status;
}

static const struct mode {
    const char *name;
    int (*run)(run *r, sluice_session *s, sluice_error *err);
} modes[] = {{"forced", forced}, {"single", single}, {"multi_turn", multi_turn}, {"multi_request", multi_request}};

static const struct mode *mode_named(const char *name) {
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (strcmp(modes[i].name, name) == 0)
            return &modes[i];
    return NULL;
}

/* Share of a question's answer tokens that are right, where answers are forced; 1 or 0 for a whole answer, where they
 * are generated: behind a wrong digit the others mean nothing. */
static double points(const json_t *question, int is_forced) {
    double n = json_number_value(json_object_get(question, "tokens"));
    double right = json_number_value(json_object_get(question, "tokens_right"));
    return is_forced ? right / n : right == n;
}

static int compare(json_t *result, const char *against, int is_forced, sluice_error *err) {
    static const char *const same[] = {"task", "mode", "length", "needles", "seed", "contexts", "tokens", NULL};
    json_t *before = eval_earlier(against, result, same, err);
    if (before == NULL)
        return SLUICE_E_DATA;
    json_t *questions = json_object_get(result, "by_question"), *earlier = json_object_get(before, "by_question");
    size_t n = json_array_size(questions), agree = 0;
    double *d = malloc(sizeof *d * (n + 1));
    int64_t *context = malloc(sizeof *context * (n + 1));
    int status = d != NULL && context != NULL ? SLUICE_OK : eval_no_memory(err);
    if (status >= 0 && json_array_size(earlier) != n) {
        snprintf(err->text, sizeof err->text, "%s: by_question must hold %zu questions", against, n);
        status = SLUICE_E_DATA;
    }
    if (status >= 0) {
        for (size_t i = 0; i < n; i++) {
            const json_t *q = json_array_get(questions, i), *e = json_array_get(earlier, i);
            d[i] = points(q, is_forced) - points(e, is_forced);
            context[i] = json_integer_value(json_object_get(q, "context"));
            agree += (size_t)json_equal(json_object_get(q, "got"), json_object_get(e, "got"));
        }
        eval_difference difference = eval_paired(d, context, (int64_t)n);
        json_t *against_json = eval_difference_json(against, &difference);
        json_object_set_new(against_json, "same_answer", json_real((double)agree / (double)n));
        json_object_set_new(result, "against", against_json);
    }
    free(d);
    free(context);
    json_decref(before);
    return status;
}

static int report(const run *r, const struct mode *mode, int64_t length, int64_t needles, int64_t seed, double seconds,
                  const char *against, sluice_error *err) {
    sluice_info info;
    sluice_get_info(r->engine, &info);
    int is_forced = mode->run == forced;
    json_t *result = json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:O}", "task", "retrieval", "mode",
        mode->name, "model", info.model, "length", (json_int_t)length, "needles", (json_int_t)needles, "seed",
        (json_int_t)seed, "contexts", (json_int_t)r->context, "answers", (json_int_t)r->answers, "answers_right",
        (json_int_t)r->answers_right, "tokens", (json_int_t)r->tokens, "tokens_right", (json_int_t)r->tokens_right,
        "token_accuracy", (double)r->tokens_right / (double)r->tokens, "answer_accuracy",
        (double)r->answers_right / (double)r->answers, "seconds", seconds, "by_question", r->by_question);
    report_device_memory(r->engine, result);
    report_prompts(r->engine, result);
    int status = against != NULL ? compare(result, against, is_forced, err) : SLUICE_OK;
    if (status >= 0)
        return eval_print(result);
    json_decref(result);
    return status;
}

int eval_retrieval(int argc, char **argv) {
    common c = {0};
    const char *path = NULL, *mode_name = "forced", *against = NULL;
    int64_t length = 0, questions = 200, needles = 8, seed = 1;
    const option own[] = {
        {"--text", "FILE", "plain text that the needles are hidden in", OPT_TEXT, NULL, &path},
        {"--length", "N", "tokens of a context, questions included (default: the context)", OPT_INT, NULL, &length},
        {"--needles", "N", "needles and questions in each context (default 8)", OPT_INT, NULL, &needles},
        {"--questions", "N", "questions to ask at least (default 200)", OPT_INT, NULL, &questions},
        {"--mode", "MODE",
         "forced: all answers are given, the next token is judged; single: a prompt is context and question; "
         "multi_turn: question after question; multi_request: the prompt is the context alone",
         OPT_TEXT, NULL, &mode_name},
        {"--seed", "N", "which keys, numbers and places (default 1)", OPT_INT, NULL, &seed},
        {"--against", "FILE", "JSON of an earlier run of these questions: adds the paired difference", OPT_TEXT, NULL,
         &against},
        {NULL, NULL, NULL, OPT_FLAG, NULL, NULL},
    };
    int n = options_parse(argc, argv, "sluice eval retrieval --text FILE [options]", own, &c, NULL, 0);
    const struct mode *mode = mode_named(mode_name);
    if (n < 0 || c.help || path == NULL || mode == NULL || needles < 1 || needles > NEEDLES_MAX) {
        if (n >= 0 && !c.help)
            fprintf(stderr,
                    "sluice: eval retrieval needs --text FILE, --mode forced, single, multi_turn or multi_request, "
                    "--needles 1 to %d\n",
                    NEEDLES_MAX);
        options_free(&c);
        return c.help ? 0 : CLI_USAGE;
    }
    size_t bytes = 0;
    char *text = read_text(path, &bytes);
    if (text == NULL) {
        options_free(&c);
        return 1;
    }
    sluice_error err = {0};
    sluice_options options = options_engine(&c);
    run r = {.by_question = json_array()};
    int status = sluice_open(&options, &r.engine, &err);
    double begin = now();
    if (status >= 0 && length == 0) {
        sluice_info info;
        sluice_get_info(r.engine, &info);
        length = info.max_context;
    }
    for (; status >= 0 && r.answers < questions; r.context++) {
        needles_context ctx;
        sluice_session *s = NULL;
        status =
            needles_make(r.engine, text, bytes, length, (int)needles, (uint64_t)seed + (uint64_t)r.context, &ctx, &err);
        r.ctx = &ctx;
        if (status >= 0)
            status = sluice_session_open(r.engine, &s, &err);
        if (status >= 0)
            status = mode->run(&r, s, &err);
        sluice_session_close(s);
        needles_free(&ctx);
    }
    if (status >= 0)
        status = report(&r, mode, length, needles, seed, now() - begin, against, &err);
    status = status < 0 ? fail(&err) : 0;
    json_decref(r.by_question);
    sluice_close(r.engine);
    free(text);
    options_free(&c);
    return status;
}
