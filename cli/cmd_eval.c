/* sluice eval ppl | retrieval - quality of what the INI configures. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "needles.h"
#include "options.h"
#include "report.h"

static const option no_options[] = {{NULL, NULL, NULL, OPT_FLAG, NULL, NULL}};

static int print_json(json_t *object) {
    json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    putchar('\n');
    json_decref(object);
    return 0;
}

static int no_memory(sluice_error *err) {
    snprintf(err->text, sizeof err->text, "out of memory");
    return SLUICE_E_NO_MEMORY;
}

static int32_t *tokenize(sluice_engine *e, const char *text, size_t length, int64_t *n, sluice_error *err) {
    *n = sluice_tokenize(e, text, length, 0, NULL, 0, err);
    int32_t *tokens = *n < 0 ? NULL : malloc(sizeof *tokens * (size_t)(*n + 1));
    if (tokens == NULL) {
        if (*n >= 0)
            no_memory(err);
        return NULL;
    }
    sluice_tokenize(e, text, length, 0, tokens, *n, err);
    return tokens;
}

/* ---- perplexity ----------------------------------------------------------------------------------------------------
 */

/* The text is cut into windows of W - 1 tokens, each behind a beginning-of-text token and on its own; all W - 1 tokens
 * are predicted. Only whole windows count. */
static int ppl(sluice_engine *e, const char *path, const char *text, size_t length, int64_t window, int64_t most,
               sluice_error *err) {
    sluice_info info;
    sluice_get_info(e, &info);
    int64_t n;
    int32_t *tokens = tokenize(e, text, length, &n, err);
    if (tokens == NULL)
        return SLUICE_E_DATA;
    int64_t windows = n / (window - 1);
    windows = most > 0 && most < windows ? most : windows;
    double *logprob = malloc(sizeof *logprob * (size_t)window), nll = 0;
    int32_t *row = malloc(sizeof *row * (size_t)window);
    json_t *by_window = json_array();
    int status = logprob != NULL && row != NULL ? SLUICE_OK : no_memory(err);
    if (status >= 0 && (windows == 0 || info.bos < 0)) {
        snprintf(err->text, sizeof err->text,
                 info.bos < 0 ? "the model has no beginning-of-text token"
                              : "%s has %lld tokens, less than one window of %lld",
                 path, (long long)n, (long long)window);
        status = SLUICE_E_RANGE;
    }
    double begin = now();
    for (int64_t w = 0; status >= 0 && w < windows; w++) {
        sluice_session *s = NULL;
        row[0] = info.bos;
        memcpy(row + 1, tokens + w * (window - 1), sizeof *row * (size_t)(window - 1));
        status = sluice_session_open(e, &s, err);
        if (status >= 0)
            status = sluice_session_append(s, row, window, err);
        if (status >= 0)
            status = sluice_score(s, window - 1, logprob, NULL, err);
        double sum = 0;
        for (int64_t i = 0; status >= 0 && i < window - 1; i++)
            sum -= logprob[i];
        nll += sum;
        json_array_append_new(by_window, json_real(sum));
        sluice_session_close(s);
    }
    if (status >= 0) {
        int64_t predicted = windows * (window - 1);
        print_json(json_pack("{s:s, s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:o}", "task", "ppl", "model", info.model,
                             "context", (json_int_t)window, "windows", (json_int_t)windows, "n_tokens",
                             (json_int_t)predicted, "nll_sum", nll, "ppl", exp(nll / (double)predicted), "seconds",
                             now() - begin, "nll_by_window", by_window));
    } else
        json_decref(by_window);
    free(logprob);
    free(row);
    free(tokens);
    return status;
}

static int cmd_ppl(int argc, char **argv) {
    common c = {0};
    const char *path = NULL;
    int64_t window = 0, windows = 0;
    const option own[] = {
        {"--text", "FILE", "plain text to predict", OPT_TEXT, NULL, &path},
        {"--context", "W", "tokens of a window, beginning of text included (default: the context)", OPT_INT, NULL,
         &window},
        {"--windows", "N", "measure the first N windows only", OPT_INT, NULL, &windows},
        no_options[0],
    };
    int n = options_parse(argc, argv, "sluice eval ppl --text FILE [options]", own, &c, NULL, 0);
    if (n < 0 || c.help || path == NULL) {
        if (n >= 0 && !c.help)
            fprintf(stderr, "sluice: eval ppl needs --text FILE\n");
        options_free(&c);
        return c.help ? 0 : CLI_USAGE;
    }
    size_t length = 0;
    char *text = read_text(path, &length);
    if (text == NULL) {
        options_free(&c);
        return 1;
    }
    sluice_engine *e = NULL;
    sluice_error err = {0};
    sluice_options options = options_engine(&c);
    int status = sluice_open(&options, &e, &err);
    if (status >= 0) {
        sluice_info info;
        sluice_get_info(e, &info);
        if (window == 0)
            window = info.max_context;
        if (window < 2 || window > info.max_context) {
            snprintf(err.text, sizeof err.text, "--context must be in [2, %d]", info.max_context);
            status = SLUICE_E_RANGE;
        } else
            status = ppl(e, path, text, length, window, windows, &err);
    }
    status = status < 0 ? fail(&err) : 0;
    sluice_close(e);
    free(text);
    options_free(&c);
    return status;
}

/* ---- retrieval -----------------------------------------------------------------------------------------------------
 */

typedef struct tally {
    int64_t answers, answers_right, tokens, tokens_right, contexts;
} tally;

static int ignore_chunk(void *user, const sluice_chunk *chunk) {
    (void)user, (void)chunk;
    return 0;
}

static void count(tally *t, const int32_t *right, const int32_t *got, int64_t n) {
    int64_t same = 0;
    for (int64_t i = 0; i < n; i++)
        same += right[i] == got[i];
    t->tokens += n;
    t->tokens_right += same;
    t->answers++;
    t->answers_right += same == n;
}

/* Teacher forcing: all questions and answers stand in one text; a token counts as right if it is the most likely one.
 */
static int forced(sluice_session *s, const needles_context *ctx, tally *t, sluice_error *err) {
    int64_t n = ctx->n_tokens, first = ctx->answers[0].begin;
    int32_t *best = malloc(sizeof *best * (size_t)(n - first));
    double *logprob = malloc(sizeof *logprob * (size_t)(n - first));
    int status = best != NULL && logprob != NULL ? SLUICE_OK : no_memory(err);
    if (status >= 0)
        status = sluice_session_append(s, ctx->tokens, n, err);
    if (status >= 0)
        status = sluice_score(s, n - first, logprob, best, err);
    for (int i = 0; status >= 0 && i < ctx->n_answers; i++)
        count(t, ctx->tokens + ctx->answers[i].begin, best + ctx->answers[i].begin - first, ctx->answers[i].n);
    free(best);
    free(logprob);
    return status;
}

/* Each question on its own, behind the shared context, answered greedily. */
static int generated(sluice_engine *e, sluice_session *s, const needles_context *ctx, tally *t, sluice_error *err) {
    sluice_sampling greedy;
    sluice_default_sampling(e, &greedy);
    greedy.temperature = 0;
    greedy.ignore_eos = 1;
    greedy.n_stop = 0;
    float *logits = NULL;
    sluice_info info;
    sluice_get_info(e, &info);
    int status = (logits = malloc(sizeof *logits * (size_t)info.vocab)) != NULL ? SLUICE_OK : no_memory(err);
    if (status >= 0)
        status = sluice_session_append(s, ctx->tokens, ctx->n_shared, err);
    if (status >= 0)
        status = sluice_logits(s, 1, logits, err); /* computes the context once */
    for (int i = 0; status >= 0 && i < ctx->n_answers; i++) {
        sluice_session *fork = NULL;
        const needles_answer *a = &ctx->answers[i];
        greedy.max_tokens = (int32_t)a->n;
        status = sluice_session_fork(s, -1, &fork, err);
        if (status >= 0)
            status = sluice_session_append(fork, ctx->tokens + a->question, a->begin - a->question, err);
        if (status >= 0)
            status = sluice_generate(e, &fork, 1, &greedy, 1, ignore_chunk, NULL, err);
        if (status >= 0)
            count(t, ctx->tokens + a->begin, sluice_session_tokens(fork) + sluice_session_length(fork) - a->n, a->n);
        sluice_session_close(fork);
    }
    free(logits);
    return status;
}

static int cmd_retrieval(int argc, char **argv) {
    common c = {0};
    const char *path = NULL, *mode = "forced";
    int64_t length = 0, answers = 200, needles = 20, seed = 1;
    const option own[] = {
        {"--text", "FILE", "plain text that the needles are hidden in", OPT_TEXT, NULL, &path},
        {"--length", "N", "tokens of a context, questions included (default: the context)", OPT_INT, NULL, &length},
        {"--needles", "N", "needles and questions in each context (default 20)", OPT_INT, NULL, &needles},
        {"--answers", "N", "answer tokens to measure at least (default 200)", OPT_INT, NULL, &answers},
        {"--mode", "MODE", "forced: all answers are given, the next token is judged; generated: greedy answers",
         OPT_TEXT, NULL, &mode},
        {"--seed", "N", "which keys, numbers and places (default 1)", OPT_INT, NULL, &seed},
        no_options[0],
    };
    int n = options_parse(argc, argv, "sluice eval retrieval --text FILE [options]", own, &c, NULL, 0);
    int is_forced = strcmp(mode, "forced") == 0;
    int good = path != NULL && (is_forced || strcmp(mode, "generated") == 0) && needles >= 1 && needles <= NEEDLES_MAX;
    if (n < 0 || c.help || !good) {
        if (n >= 0 && !c.help)
            fprintf(stderr, "sluice: eval retrieval needs --text FILE, --mode forced or generated, --needles 1 to %d\n",
                    NEEDLES_MAX);
        options_free(&c);
        return c.help ? 0 : CLI_USAGE;
    }
    sluice_engine *e = NULL;
    sluice_error err = {0};
    sluice_options options = options_engine(&c);
    size_t bytes = 0;
    char *text = read_text(path, &bytes);
    int status = text != NULL ? sluice_open(&options, &e, &err) : 1;
    if (text == NULL) {
        options_free(&c);
        return 1;
    }
    tally t = {0};
    double begin = now();
    sluice_info info = {0};
    if (status >= 0) {
        sluice_get_info(e, &info);
        length = length > 0 ? length : info.max_context;
    }
    while (status >= 0 && t.tokens < answers) {
        needles_context ctx;
        sluice_session *s = NULL;
        status = needles_make(e, text, bytes, length, (int)needles, (uint64_t)seed + (uint64_t)t.contexts, &ctx, &err);
        if (status >= 0)
            status = sluice_session_open(e, &s, &err);
        if (status >= 0)
            status = is_forced ? forced(s, &ctx, &t, &err) : generated(e, s, &ctx, &t, &err);
        sluice_session_close(s);
        needles_free(&ctx);
        t.contexts++;
    }
    if (status >= 0) {
        double p = (double)t.tokens_right / (double)t.tokens;
        json_t *report =
            json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f}", "task", "retrieval", "mode",
                      mode, "model", info.model, "length", (json_int_t)length, "contexts", (json_int_t)t.contexts,
                      "answers", (json_int_t)t.answers, "answers_right", (json_int_t)t.answers_right, "tokens",
                      (json_int_t)t.tokens, "tokens_right", (json_int_t)t.tokens_right, "token_accuracy", p,
                      "half_width_95", 1.96 * sqrt(p * (1 - p) / (double)t.tokens), "answer_accuracy",
                      (double)t.answers_right / (double)t.answers, "seconds", now() - begin);
        report_prompts(e, report);
        print_json(report);
    }
    status = status < 0 ? fail(&err) : 0;
    sluice_close(e);
    free(text);
    options_free(&c);
    return status;
}

int cmd_eval(int argc, char **argv) {
    if (argc >= 2 && strcmp(argv[1], "ppl") == 0)
        return cmd_ppl(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "retrieval") == 0)
        return cmd_retrieval(argc - 1, argv + 1);
    int help = argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
    fprintf(help ? stdout : stderr,
            "usage: sluice eval ppl --text FILE [options]\n       sluice eval retrieval --text FILE [options]\n\n"
            "`sluice eval ppl --help` and `sluice eval retrieval --help` list their options.\n");
    return help ? 0 : CLI_USAGE;
}
