/* sluice eval ppl - perplexity of a text. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval.h"
#include "options.h"
#include "report.h"

static int32_t *tokenize(sluice_engine *e, const char *text, size_t length, int64_t *n, sluice_error *err) {
    *n = sluice_tokenize(e, text, length, 0, NULL, 0, err);
    int32_t *tokens = *n < 0 ? NULL : malloc(sizeof *tokens * (size_t)(*n + 1));
    if (tokens == NULL) {
        if (*n >= 0)
            eval_no_memory(err);
        return NULL;
    }
    sluice_tokenize(e, text, length, 0, tokens, *n, err);
    return tokens;
}

/* Differences of the windows' mean negative log-likelihoods, in nats a token. */
static int compare(json_t *result, const char *against, int64_t scored, sluice_error *err) {
    static const char *const same[] = {"task", "context", "steps", "windows", "n_tokens", NULL};
    json_t *before = eval_earlier(against, result, same, err);
    if (before == NULL)
        return SLUICE_E_DATA;
    json_t *now = json_object_get(result, "nll_by_window"), *then = json_object_get(before, "nll_by_window");
    size_t n = json_array_size(now);
    double *d = malloc(sizeof *d * (n + 1));
    int status = d != NULL ? SLUICE_OK : eval_no_memory(err);
    if (status >= 0 && json_array_size(then) != n) {
        snprintf(err->text, sizeof err->text, "%s: nll_by_window must hold %zu numbers", against, n);
        status = SLUICE_E_DATA;
    }
    if (status >= 0) {
        for (size_t i = 0; i < n; i++)
            d[i] = (json_number_value(json_array_get(now, i)) - json_number_value(json_array_get(then, i))) /
                   (double)scored;
        eval_difference difference = eval_paired(d, NULL, (int64_t)n);
        json_t *against_json = eval_difference_json(against, &difference);
        json_object_set_new(against_json, "ppl_ratio", json_real(exp(difference.mean)));
        json_object_set_new(result, "against", against_json);
    }
    free(d);
    json_decref(before);
    return status;
}

/* The text is cut into windows of W - 1 tokens, each behind a beginning-of-text token and on its own; all W - 1 tokens
 * are predicted. Only whole windows count. steps > 0: the last of them alone, as decode steps. */
static int ppl(sluice_engine *e, const char *path, const char *text, size_t length, int64_t window, int64_t most,
               int64_t steps, const char *against, sluice_error *err) {
    sluice_info info;
    sluice_get_info(e, &info);
    int64_t n;
    int32_t *tokens = tokenize(e, text, length, &n, err);
    if (tokens == NULL)
        return SLUICE_E_DATA;
    int64_t windows = n / (window - 1), scored = steps > 0 ? steps : window - 1;
    windows = most > 0 && most < windows ? most : windows;
    double *logprob = malloc(sizeof *logprob * (size_t)window), nll = 0;
    int32_t *row = malloc(sizeof *row * (size_t)window);
    json_t *by_window = json_array();
    int status = logprob != NULL && row != NULL ? SLUICE_OK : eval_no_memory(err);
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
            status = steps > 0 ? sluice_score_steps(s, steps, logprob, NULL, err)
                               : sluice_score(s, scored, logprob, NULL, err);
        double sum = 0;
        for (int64_t i = 0; status >= 0 && i < scored; i++)
            sum -= logprob[i];
        nll += sum;
        json_array_append_new(by_window, json_real(sum));
        sluice_session_close(s);
    }
    if (status >= 0) {
        int64_t predicted = windows * scored;
        json_t *result = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:o}", "task", "ppl", "model",
                                   info.model, "context", (json_int_t)window, "steps", (json_int_t)steps, "windows",
                                   (json_int_t)windows, "n_tokens", (json_int_t)predicted, "nll_sum", nll, "ppl",
                                   exp(nll / (double)predicted), "seconds", now() - begin, "nll_by_window", by_window);
        report_device_memory(e, result);
        status = against != NULL ? compare(result, against, scored, err) : SLUICE_OK;
        if (status >= 0)
            eval_print(result);
        else
            json_decref(result);
    } else
        json_decref(by_window);
    free(logprob);
    free(row);
    free(tokens);
    return status;
}

int eval_ppl(int argc, char **argv) {
    common c = {0};
    const char *path = NULL, *against = NULL;
    int64_t window = 0, windows = 0, steps = 0;
    const option own[] = {
        {"--text", "FILE", "plain text to predict", OPT_TEXT, NULL, &path},
        {"--context", "W", "tokens of a window, beginning of text included (default: the context)", OPT_INT, NULL,
         &window},
        {"--windows", "N", "measure the first N windows only", OPT_INT, NULL, &windows},
        {"--steps", "N", "predict the last N tokens of each window alone, one decode step each", OPT_INT, NULL, &steps},
        {"--against", "FILE", "JSON of an earlier run of these windows: adds the paired difference", OPT_TEXT, NULL,
         &against},
        {NULL, NULL, NULL, OPT_FLAG, NULL, NULL},
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
        if (window < 2 || window > info.max_context || steps < 0 || steps > window - 2) {
            snprintf(err.text, sizeof err.text, "--context must be in [2, %d], --steps in [0, context - 2]",
                     info.max_context);
            status = SLUICE_E_RANGE;
        } else
            status = ppl(e, path, text, length, window, windows, steps, against, &err);
    }
    status = status < 0 ? fail(&err) : 0;
    sluice_close(e);
    free(text);
    options_free(&c);
    return status;
}
