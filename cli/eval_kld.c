/* sluice eval kld - what a configuration does to the distribution of the next token, against a saved run. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval.h"
#include "eval_windows.h"
#include "kld_file.h"
#include "kld_stats.h"
#include "options.h"
#include "report.h"
#include "sha256.h"

#define FAIL(err, ...) (snprintf((err)->text, sizeof(err)->text, __VA_ARGS__), SLUICE_E_DATA)

typedef struct task {
    sluice_engine *engine;
    const char *text_path, *save, *base, *against;
    eval_cut cut;
    int exact;
    eval_windows w;
    kld_file file;
    kld_stats stats;          /* of the comparison; while saving: of what the coding loses */
    double *before, *logprob; /* [vocab] of the base, of this run */
    double *kld, *ratio;      /* [n_windows] sums of the comparison */
    const int32_t *row;       /* the window that is computed */
    int64_t window, n_row, scored;
    double nll; /* of this run, while saving */
    int status; /* of the callback */
    sluice_error *err;
} task;

/* ---- one token --------------------------------------------------------------------------------------------------- */

static int not_finite(task *t, int64_t row) {
    return FAIL(t->err, "window %lld, row %lld: the logits are not finite", (long long)t->window, (long long)row);
}

static void save_row(void *user, int64_t row, const float *logits, int64_t vocab) {
    task *t = user;
    int32_t token = t->row[t->n_row - t->scored + row];
    if (t->status < 0)
        return;
    kld_log_softmax(logits, vocab, t->logprob);
    if (!isfinite(t->logprob[token])) {
        t->status = not_finite(t, row);
        return;
    }
    t->nll -= t->logprob[token];
    t->status = kld_file_put(&t->file, logits, t->err);
    if (t->exact || t->status < 0)
        return;
    kld_file_last(&t->file, t->before);
    kld_token loss = kld_of(t->before, t->logprob, vocab, token);
    if (kld_add(&t->stats, &loss) < 0)
        t->status = eval_no_memory(t->err);
}

static void compare_row(void *user, int64_t row, const float *logits, int64_t vocab) {
    task *t = user;
    if (t->status < 0)
        return;
    t->status = kld_file_get(&t->file, t->window, t->file.shape.rows - t->scored + row, t->before, t->err);
    if (t->status < 0)
        return;
    kld_log_softmax(logits, vocab, t->logprob);
    kld_token one = kld_of(t->before, t->logprob, vocab, t->row[t->n_row - t->scored + row]);
    if (!isfinite(one.kld) || !isfinite(one.nll) || !isfinite(one.nll_base)) {
        t->status = not_finite(t, row);
        return;
    }
    t->kld[t->window] += one.kld;
    t->ratio[t->window] += one.nll - one.nll_base;
    if (kld_add(&t->stats, &one) < 0)
        t->status = eval_no_memory(t->err);
}

static int run_windows(task *t, sluice_logits_fn fn, sluice_error *err) {
    int32_t *row = malloc(sizeof *row * (size_t)t->w.context);
    int status = row != NULL ? SLUICE_OK : eval_no_memory(err);
    t->row = row;
    t->err = err;
    for (t->window = 0; status >= 0 && t->window < t->w.n_windows; t->window++) {
        sluice_session *s = NULL;
        eval_span span;
        eval_windows_get(&t->w, t->window, row, &span);
        t->n_row = span.n;
        status = sluice_session_open(t->engine, &s, err);
        if (status >= 0)
            status = sluice_session_append(s, row, span.n, err);
        if (status >= 0)
            status = sluice_visit_logits(s, t->scored, t->cut.steps > 0, fn, t, err);
        sluice_session_close(s);
        status = status >= 0 ? t->status : status;
    }
    free(row);
    return status;
}

static int make_room(task *t, sluice_error *err) {
    sluice_info info;
    sluice_get_info(t->engine, &info);
    t->before = malloc(sizeof *t->before * (size_t)info.vocab);
    t->logprob = malloc(sizeof *t->logprob * (size_t)info.vocab);
    t->kld = calloc((size_t)t->w.n_windows, sizeof *t->kld);
    t->ratio = calloc((size_t)t->w.n_windows, sizeof *t->ratio);
    int good = t->before != NULL && t->logprob != NULL && t->kld != NULL && t->ratio != NULL;
    return good ? SLUICE_OK : eval_no_memory(err);
}

/* ---- saving ------------------------------------------------------------------------------------------------------ */

/* What another run of the same model has in common with this one, whatever its weights and techniques. */
static json_t *architecture(sluice_engine *e) {
    sluice_info info;
    sluice_get_info(e, &info);
    return json_pack("{s:s, s:i, s:i, s:i}", "model_type", info.model_type, "layers", info.layers, "hidden",
                     info.hidden, "vocab", info.vocab);
}

static json_t *coding_floor(const task *t) {
    double n = (double)t->stats.n, most = 0;
    for (int64_t i = 0; i < t->stats.n; i++)
        most = fmax(most, fabs(t->stats.kld[i]));
    return t->exact ? json_pack("{s:f, s:f, s:f}", "kld_mean", 0.0, "kld_max", 0.0, "same_top", 1.0)
                    : json_pack("{s:f, s:f, s:f}", "kld_mean", t->stats.kld_sum / n, "kld_max", most, "same_top",
                                (double)t->stats.same_top / n);
}

static int save(task *t, const char *text, size_t length, sluice_error *err) {
    sluice_info info;
    sluice_get_info(t->engine, &info);
    t->cut.protocol = "lcpp";
    int status = eval_windows_open(t->engine, t->text_path, text, length, &t->cut, &t->w, err);
    if (status < 0)
        return status;
    int64_t all = t->w.context - 1 - t->w.context / 2;
    t->scored = t->cut.steps > 0 ? t->cut.steps : all;
    if (!t->exact && t->scored != all)
        return FAIL(err, "--steps %lld: this format has all %lld rows of a chunk; fewer with --exact",
                    (long long)t->scored, (long long)all);
    if (t->w.n_windows > INT32_MAX / t->w.context)
        return FAIL(err, "%lld windows of %lld are too many for the file: --windows", (long long)t->w.n_windows,
                    (long long)t->w.context);
    kld_shape shape = {t->exact, (int32_t)t->w.context, info.vocab, (int32_t)t->w.n_windows, (int32_t)t->scored};
    double begin = now();
    status = make_room(t, err);
    if (status >= 0)
        status = kld_file_create(t->save, &shape, t->w.tokens, &t->file, err);
    if (status >= 0)
        status = run_windows(t, save_row, err);
    if (status < 0)
        return status;
    json_t *result =
        json_pack("{s:s, s:s, s:s, s:b}", "task", "kld", "model", info.model, "saved", t->save, "exact", t->exact);
    if (result == NULL)
        return FAIL(err, "%s: a file name that is no UTF-8", t->save);
    eval_windows_report(&t->w, result);
    int64_t n = t->w.n_windows * t->scored;
    json_object_set_new(result, "tokens", json_integer(n));
    json_object_set_new(result, "ppl_base", json_real(exp(t->nll / (double)n)));
    json_object_set_new(result, "coding_floor", coding_floor(t));
    report_device_memory(t->engine, result);
    json_t *about = json_deep_copy(result);
    json_object_del(about, "saved");
    json_object_set_new(about, "architecture", architecture(t->engine));
    json_object_set_new(about, "writer", json_string(sluice_version()));
    status = kld_file_finish(&t->file, about, err);
    json_decref(about);
    json_object_set_new(result, "seconds", json_real(now() - begin));
    if (status >= 0)
        return eval_print(result);
    json_decref(result);
    return status;
}

/* ---- comparing --------------------------------------------------------------------------------------------------- */

/* Is the file one of this model and, when there is one, of this text? */
static int same_base(task *t, const char *text, size_t length, sluice_error *err) {
    const kld_shape *s = &t->file.shape;
    sluice_info info;
    sluice_get_info(t->engine, &info);
    if (s->vocab != info.vocab)
        return FAIL(err, "%s: logits of %d tokens, the model has %d: a base of another model", t->base, s->vocab,
                    info.vocab);
    json_t *now_is = architecture(t->engine), *was = json_object_get(t->file.info, "architecture");
    int same = was == NULL || json_equal(was, now_is);
    json_decref(now_is);
    if (!same)
        return FAIL(err, "%s: a base of another model: %s of %lld layers, width %lld; this one: %s of %d, %d", t->base,
                    json_string_value(json_object_get(was, "model_type")),
                    (long long)json_integer_value(json_object_get(was, "layers")),
                    (long long)json_integer_value(json_object_get(was, "hidden")), info.model_type, info.layers,
                    info.hidden);
    int64_t n = (int64_t)s->chunks * s->context;
    if (t->cut.context != 0 && t->cut.context != s->context)
        return FAIL(err, "%s: its windows have %d tokens, not --context %lld", t->base, s->context,
                    (long long)t->cut.context);
    if (t->cut.steps > s->rows)
        return FAIL(err, "%s: it has %d rows of a window, not --steps %lld", t->base, s->rows, (long long)t->cut.steps);
    t->cut.context = s->context;
    t->cut.protocol = "lcpp";
    int status = eval_windows_of_tokens(t->engine, t->base, t->file.tokens, n, &t->cut, &t->w, err);
    if (status < 0 || text == NULL)
        return status;
    eval_windows of_text = {0};
    status = eval_windows_open(t->engine, t->text_path, text, length, &t->cut, &of_text, err);
    if (status >= 0) {
        int64_t i = 0;
        while (i < n && i < of_text.n && of_text.tokens[i] == t->file.tokens[i])
            i++;
        if (i < n)
            status = FAIL(err, "%s: not a base of %s: token %lld is another one", t->base, t->text_path, (long long)i);
        memcpy(t->w.sha256, of_text.sha256, sizeof t->w.sha256);
    }
    eval_windows_free(&of_text);
    return status;
}

static json_t *numbers(const double *v, int64_t n, double scale) {
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++)
        json_array_append_new(list, json_real(v[i] * scale));
    return list;
}

static int against_earlier(json_t *result, const task *t, sluice_error *err) {
    static const char *const same[] = {"task", "context", "steps", "windows", "tokens", "tokens_sha256", NULL};
    json_t *before = eval_earlier(t->against, result, same, err);
    if (before == NULL)
        return SLUICE_E_DATA;
    int64_t n = t->w.n_windows;
    double base = json_number_value(json_object_get(result, "ppl_base")),
           its = json_number_value(json_object_get(before, "ppl_base"));
    json_t *then = json_object_get(before, "kld_by_window");
    double *d = malloc(sizeof *d * (size_t)n);
    int status = d != NULL ? SLUICE_OK : eval_no_memory(err);
    if (status >= 0 && ((int64_t)json_array_size(then) != n || !(fabs(its / base - 1) < 1e-9)))
        status = FAIL(err, "%s: compared with another base: nothing to compare", t->against);
    for (int64_t i = 0; status >= 0 && i < n; i++)
        d[i] = t->kld[i] / (double)t->scored - json_number_value(json_array_get(then, (size_t)i));
    if (status >= 0) {
        eval_difference difference = eval_paired(d, NULL, n);
        json_object_set_new(result, "against", eval_difference_json(t->against, &difference));
    }
    free(d);
    json_decref(before);
    return status;
}

static void set_interval(json_t *result, const char *name, const double *sums, const task *t) {
    int64_t *count = malloc(sizeof *count * (size_t)t->w.n_windows);
    for (int64_t i = 0; count != NULL && i < t->w.n_windows; i++)
        count[i] = t->scored;
    if (count == NULL)
        return;
    eval_difference d = eval_paired_sums(sums, count, t->w.n_windows);
    json_object_set_new(result, name, isnan(d.half_width) ? json_null() : json_real(d.half_width));
    free(count);
}

static int compare(task *t, const char *text, size_t length, sluice_error *err) {
    sluice_info info;
    sluice_get_info(t->engine, &info);
    int status = same_base(t, text, length, err);
    if (status < 0)
        return status;
    t->scored = t->cut.steps > 0 ? t->cut.steps : t->file.shape.rows;
    double begin = now();
    status = make_room(t, err);
    if (status >= 0)
        status = run_windows(t, compare_row, err);
    if (status < 0)
        return status;
    json_t *floor_was = json_object_get(t->file.info, "coding_floor"), *its = json_object_get(t->file.info, "model");
    json_t *result = json_pack("{s:s, s:s, s:s, s:b, s:O?, s:O?}", "task", "kld", "model", info.model, "base", t->base,
                               "exact", t->file.shape.exact, "base_model", its, "coding_floor", floor_was);
    if (result == NULL)
        return FAIL(err, "%s: a file name that is no UTF-8", t->base);
    char digest[65];
    sha256_hex(t->w.tokens, sizeof *t->w.tokens * (size_t)(t->w.n_windows * t->w.context), digest);
    eval_windows_report(&t->w, result);
    json_object_set_new(result, "tokens_sha256", json_string(digest));
    kld_report(&t->stats, result);
    set_interval(result, "kld_half_width_95", t->kld, t);
    set_interval(result, "ln_ppl_ratio_half_width_95", t->ratio, t);
    json_object_set_new(result, "kld_by_window", numbers(t->kld, t->w.n_windows, 1 / (double)t->scored));
    json_object_set_new(result, "ln_ppl_ratio_by_window", numbers(t->ratio, t->w.n_windows, 1 / (double)t->scored));
    report_device_memory(t->engine, result);
    json_object_set_new(result, "seconds", json_real(now() - begin));
    status = t->against != NULL ? against_earlier(result, t, err) : SLUICE_OK;
    if (status >= 0)
        return eval_print(result);
    json_decref(result);
    return status;
}

/* ---- the command ------------------------------------------------------------------------------------------------- */

static const char *wrong_use(const task *t) {
    if ((t->save == NULL) == (t->base == NULL))
        return "eval kld needs --save FILE or --base FILE";
    if (t->save != NULL && t->text_path == NULL)
        return "eval kld --save needs --text FILE";
    if (t->base != NULL && t->exact)
        return "--exact belongs to --save: a base says itself what it is";
    if (t->save != NULL && t->against != NULL)
        return "--against belongs to --base";
    return NULL;
}

int eval_kld(int argc, char **argv) {
    common c = {0};
    task t = {0};
    const option own[] = {
        {"--save", "FILE", "run the text and keep the logits: the base that others are compared with", OPT_TEXT, NULL,
         &t.save},
        {"--base", "FILE", "compare with that run (also one of llama.cpp's --kl-divergence-base)", OPT_TEXT, NULL,
         &t.base},
        {"--text", "FILE", "plain text; with --base: checked to be the one that was saved", OPT_TEXT, NULL,
         &t.text_path},
        {"--exact", NULL, "save logits as they are (4 bytes), not as llama.cpp's codes (2 bytes)", OPT_FLAG, NULL,
         &t.exact},
        {"--context", "W", "tokens of a window, of which the second half is compared (default 512)", OPT_INT, NULL,
         &t.cut.context},
        {"--windows", "N", "the first N windows only", OPT_INT, NULL, &t.cut.windows},
        {"--steps", "N", "the last N tokens of each window alone, one decode step each", OPT_INT, NULL, &t.cut.steps},
        {"--against", "FILE", "JSON of an earlier run with this base: adds the paired difference of the divergence",
         OPT_TEXT, NULL, &t.against},
        {NULL, NULL, NULL, OPT_FLAG, NULL, NULL},
    };
    int n = options_parse(argc, argv,
                          "sluice eval kld --save FILE --text FILE [options]\n"
                          "       sluice eval kld --base FILE [--text FILE] [options]",
                          own, &c, NULL, 0);
    const char *wrong = wrong_use(&t);
    if (n < 0 || c.help || wrong != NULL) {
        if (n >= 0 && !c.help)
            fprintf(stderr, "sluice: %s\n", wrong);
        options_free(&c);
        return c.help ? 0 : CLI_USAGE;
    }
    size_t length = 0;
    char *text = t.text_path != NULL ? read_text(t.text_path, &length) : NULL;
    if (t.text_path != NULL && text == NULL) {
        options_free(&c);
        return 1;
    }
    sluice_error err = {0};
    sluice_options options = options_engine(&c);
    int status = t.base != NULL ? kld_file_open(t.base, &t.file, &err) : SLUICE_OK;
    if (status >= 0)
        status = sluice_open(&options, &t.engine, &err);
    if (status >= 0)
        status = t.save != NULL ? save(&t, text, length, &err) : compare(&t, text, length, &err);
    status = status < 0 ? fail(&err) : 0;
    sluice_close(t.engine);
    kld_file_close(&t.file);
    kld_stats_free(&t.stats);
    eval_windows_free(&t.w);
    free(t.before);
    free(t.logprob);
    free(t.kld);
    free(t.ratio);
    free(text);
    options_free(&c);
    return status;
}
