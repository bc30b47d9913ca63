/* sluice eval ppl - perplexity of a text. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "eval.h"
#include "eval_windows.h"
#include "options.h"
#include "report.h"

/* Negative log-likelihoods, natural. */
typedef struct tally {
    double *by_window; /* [n_windows] sums */
    int64_t *scored;   /* [n_windows] */
    double sum, squares;
    int64_t n;
} tally;

/* Differences of the windows, in nats a token. */
static int compare(json_t *result, const char *against, const tally *t, sluice_error *err) {
    static const char *const same[] = {"task",    "protocol", "context",     "stride", "steps",
                                       "windows", "n_tokens", "text_sha256", NULL};
    json_t *before = eval_earlier(against, result, same, err);
    if (before == NULL)
        return SLUICE_E_DATA;
    json_t *then = json_object_get(before, "nll_by_window");
    size_t n = json_array_size(json_object_get(result, "nll_by_window"));
    double *d = malloc(sizeof *d * (n + 1));
    int status = d != NULL ? SLUICE_OK : eval_no_memory(err);
    if (status >= 0 && json_array_size(then) != n) {
        snprintf(err->text, sizeof err->text, "%s: nll_by_window must hold %zu numbers", against, n);
        status = SLUICE_E_DATA;
    }
    if (status >= 0) {
        for (size_t i = 0; i < n; i++)
            d[i] = t->by_window[i] - json_number_value(json_array_get(then, i));
        eval_difference difference = eval_paired_sums(d, t->scored, (int64_t)n);
        json_t *against_json = eval_difference_json(against, &difference);
        json_object_set_new(against_json, "ppl_ratio", json_real(exp(difference.mean)));
        json_object_set_new(result, "against", against_json);
    }
    free(d);
    json_decref(before);
    return status;
}

static int score_window(sluice_engine *e, const eval_windows *w, int64_t i, int32_t *row, double *logprob, tally *t,
                        sluice_error *err) {
    sluice_session *s = NULL;
    eval_span span;
    eval_windows_get(w, i, row, &span);
    int status = sluice_session_open(e, &s, err);
    if (status >= 0)
        status = sluice_session_append(s, row, span.n, err);
    if (status >= 0)
        status = w->steps > 0 ? sluice_score_steps(s, span.scored, logprob, NULL, err)
                              : sluice_score(s, span.scored, logprob, NULL, err);
    sluice_session_close(s);
    if (status < 0)
        return status;
    double sum = 0, squares = 0;
    for (int64_t j = 0; j < span.scored; j++) {
        sum -= logprob[j];
        squares += logprob[j] * logprob[j];
    }
    if (!isfinite(sum)) {
        snprintf(err->text, sizeof err->text, "window %lld: the model's logits are not finite", (long long)i);
        return SLUICE_E_DATA;
    }
    t->by_window[i] = sum;
    t->scored[i] = span.scored;
    t->sum += sum;
    t->squares += squares;
    t->n += span.scored;
    return SLUICE_OK;
}

static int report(sluice_engine *e, const char *path, const eval_windows *w, const tally *t, double seconds,
                  const char *against, sluice_error *err) {
    sluice_info info;
    sluice_get_info(e, &info);
    double n = (double)t->n, mean = t->sum / n, value = exp(mean);
    double spread = sqrt(fmax(t->squares / n - mean * mean, 0) / (n - 1)); /* as if tokens were independent */
    json_t *by_window = json_array(),
           *result = json_pack("{s:s, s:s, s:s}", "task", "ppl", "model", info.model, "text", path);
    if (result == NULL) { /* the only way it can fail */
        json_decref(by_window);
        snprintf(err->text, sizeof err->text, "%s: a file name that is no UTF-8", path);
        return SLUICE_E_DATA;
    }
    for (int64_t i = 0; i < w->n_windows; i++)
        json_array_append_new(by_window, json_real(t->by_window[i]));
    eval_windows_report(w, result);
    json_object_set_new(result, "n_tokens", json_integer(t->n));
    json_object_set_new(result, "nll_sum", json_real(t->sum));
    json_object_set_new(result, "mean_nll", json_real(mean));
    json_object_set_new(result, "ppl", json_real(value));
    json_object_set_new(result, "ppl_pm", t->n > 1 ? json_real(value * spread) : json_null());
    json_object_set_new(result, "seconds", json_real(seconds));
    json_object_set_new(result, "nll_by_window", by_window);
    report_device_memory(e, result);
    int status = against != NULL ? compare(result, against, t, err) : SLUICE_OK;
    if (status >= 0)
        return eval_print(result);
    json_decref(result);
    return status;
}

static int ppl(sluice_engine *e, const char *path, const char *text, size_t length, const eval_cut *cut,
               const char *against, sluice_error *err) {
    eval_windows w = {0};
    tally t = {0};
    int status = eval_windows_open(e, path, text, length, cut, &w, err);
    double *logprob = NULL;
    int32_t *row = NULL;
    if (status >= 0) {
        logprob = malloc(sizeof *logprob * (size_t)w.context);
        row = malloc(sizeof *row * (size_t)w.context);
        t.by_window = calloc((size_t)w.n_windows, sizeof *t.by_window);
        t.scored = calloc((size_t)w.n_windows, sizeof *t.scored);
        if (logprob == NULL || row == NULL || t.by_window == NULL || t.scored == NULL)
            status = eval_no_memory(err);
    }
    double begin = now();
    for (int64_t i = 0; status >= 0 && i < w.n_windows; i++)
        status = score_window(e, &w, i, row, logprob, &t, err);
    if (status >= 0)
        status = report(e, path, &w, &t, now() - begin, against, err);
    free(logprob);
    free(row);
    free(t.by_window);
    free(t.scored);
    eval_windows_free(&w);
    return status;
}

int eval_ppl(int argc, char **argv) {
    common c = {0};
    const char *path = NULL, *against = NULL;
    eval_cut cut = {0};
    const option own[] = {
        {"--text", "FILE", "plain text to predict", OPT_TEXT, NULL, &path},
        {"--protocol", "NAME",
         "bos (default): windows behind a beginning-of-text token; gptq: windows of the text as it is; lcpp: the "
         "second "
         "half of each window; strided: a sliding window",
         OPT_TEXT, NULL, &cut.protocol},
        {"--context", "W", "tokens of a window (default: gptq 2048, lcpp 512, otherwise the context)", OPT_INT, NULL,
         &cut.context},
        {"--stride", "N", "strided: tokens between the beginnings of two windows (default 512)", OPT_INT, NULL,
         &cut.stride},
        {"--windows", "N", "measure the first N windows only", OPT_INT, NULL, &cut.windows},
        {"--steps", "N", "predict the last N tokens of each window alone, one decode step each", OPT_INT, NULL,
         &cut.steps},
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
    if (status >= 0)
        status = ppl(e, path, text, length, &cut, against, &err);
    status = status < 0 ? fail(&err) : 0;
    sluice_close(e);
    free(text);
    options_free(&c);
    return status;
}
