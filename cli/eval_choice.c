/* sluice eval choice - multiple-choice questions, answered by what the model finds likely; see docs/eval.md. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "choice_items.h"
#include "eval.h"
#include "options.h"
#include "report.h"

/* How much of a prompt is computed together with its end, where something may happen to the cache there: more than any
 * policy's observation window. */
enum { TAIL = 256 };

#define FAIL(err, ...) (snprintf((err)->text, sizeof(err)->text, __VA_ARGS__), SLUICE_E_DATA)

typedef struct tokens {
    int32_t *id;
    int64_t n;
} tokens;

/* A question as the model sees it: the prompt, and the prompt with each choice behind it. */
typedef struct question {
    const choice_item *item;
    tokens prompt, with[CHOICE_MAX];
    int64_t bytes[CHOICE_MAX]; /* of each choice's text */
    int too_long;
    int picked, picked_by_sum; /* -1: too long */
    double p_right;            /* of the right choice, among the choices */
} question;

typedef struct task {
    sluice_engine *engine;
    choice_items items;
    question *question;    /* [n] behind the examples */
    const question *first; /* that fits the context */
    int n, shots, labels, steps;
    int64_t n_shared; /* tokens that all prompts begin with, as far as they are computed once */
    float *logits;    /* [vocab] */
} task;

/* ---- prompts ----------------------------------------------------------------------------------------------------- */

static int encode(task *t, const char *text, tokens *out, sluice_error *err) {
    size_t length = strlen(text);
    out->n = sluice_tokenize(t->engine, text, length, SLUICE_ADD_SPECIAL, NULL, 0, err);
    if (out->n < 0)
        return (int)out->n;
    out->id = malloc(sizeof *out->id * (size_t)(out->n + 1));
    if (out->id == NULL)
        return eval_no_memory(err);
    sluice_tokenize(t->engine, text, length, SLUICE_ADD_SPECIAL, out->id, out->n, err);
    return SLUICE_OK;
}

static int64_t alike(const tokens *a, const tokens *b) {
    int64_t n = 0;
    while (n < a->n && n < b->n && a->id[n] == b->id[n])
        n++;
    return n;
}

/* a and b in one string, both freed. */
static char *join(char *a, char *b) {
    char *out = NULL;
    if (a == NULL || b == NULL || asprintf(&out, "%s%s", a, b) < 0)
        out = NULL;
    free(a);
    free(b);
    return out;
}

/* The first questions with their answers, a blank line behind each. */
static char *examples(const task *t) {
    char *out = strdup("");
    for (int i = 0; i < t->shots; i++) {
        const choice_item *item = &t->items.item[i];
        out = join(out, join(choice_prompt(item, t->labels),
                             join(choice_answer(item, item->answer, t->labels), strdup("\n\n"))));
    }
    return out;
}

static int prepare(task *t, const char *front, const choice_item *item, question *q, sluice_error *err) {
    sluice_info info;
    sluice_get_info(t->engine, &info);
    *q = (question){.item = item, .picked = -1, .picked_by_sum = -1};
    char *prompt = join(strdup(front), choice_prompt(item, t->labels));
    int status = prompt != NULL ? encode(t, prompt, &q->prompt, err) : eval_no_memory(err);
    for (int i = 0; status >= 0 && i < item->n; i++) {
        char *text = join(strdup(prompt), choice_answer(item, i, t->labels));
        status = text != NULL ? encode(t, text, &q->with[i], err) : eval_no_memory(err);
        free(text);
        q->bytes[i] = (int64_t)strlen(item->choice[i]);
        q->too_long |= q->with[i].n > info.max_context;
        if (status >= 0 && t->labels &&
            (q->with[i].n != q->prompt.n + 1 || alike(&q->prompt, &q->with[i]) != q->prompt.n))
            status = FAIL(err, "question %d: \"%c\" behind the prompt is not one token of this model: --by likelihood",
                          (int)(item - t->items.item) + 1, 'A' + i);
    }
    free(prompt);
    return status;
}

/* All prompts, and how much they have in common. */
static int prepare_all(task *t, sluice_error *err) {
    char *front = examples(t);
    int status = front != NULL ? SLUICE_OK : eval_no_memory(err);
    t->question = calloc((size_t)t->items.n, sizeof *t->question);
    if (status >= 0 && t->question == NULL)
        status = eval_no_memory(err);
    t->n_shared = INT64_MAX;
    for (int i = t->shots; status >= 0 && i < t->items.n; i++, t->n++) {
        status = prepare(t, front, &t->items.item[i], &t->question[t->n], err);
        if (status < 0 || t->question[t->n].too_long)
            continue;
        t->first = t->first != NULL ? t->first : &t->question[t->n];
        int64_t n = alike(&t->first->prompt, &t->question[t->n].prompt);
        t->n_shared = n < t->n_shared ? n : t->n_shared;
    }
    free(front);
    t->n_shared = t->first != NULL && t->n_shared > TAIL ? t->n_shared - TAIL : 0;
    return status;
}

static void questions_free(task *t) {
    for (int i = 0; t->question != NULL && i < t->items.n; i++) {
        free(t->question[i].prompt.id);
        for (int k = 0; k < CHOICE_MAX; k++)
            free(t->question[i].with[k].id);
    }
    free(t->question);
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

static int best_of(const double *score, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (score[i] > score[best])
            best = i;
    return best;
}

static double share_of(const double *score, int n, int which) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += exp(score[i] - score[which]);
    return 1 / sum;
}

/* Logits of the letters behind the prompt. s: holds what is shared. */
static int by_labels(task *t, sluice_session *s, question *q, sluice_error *err) {
    double score[CHOICE_MAX];
    int status = sluice_session_append(s, q->prompt.id + t->n_shared, q->prompt.n - t->n_shared, err);
    if (status >= 0)
        status = sluice_logits(s, 1, t->logits, err);
    if (status < 0)
        return status;
    for (int i = 0; i < q->item->n; i++)
        score[i] = t->logits[q->with[i].id[q->prompt.n]];
    q->picked = q->picked_by_sum = best_of(score, q->item->n);
    q->p_right = share_of(score, q->item->n, q->item->answer);
    return SLUICE_OK;
}

/* Log-likelihood of each choice behind the prompt, by the bytes of its text. */
static int by_likelihood(task *t, sluice_session *s, question *q, sluice_error *err) {
    double sum[CHOICE_MAX] = {0}, mean[CHOICE_MAX];
    int64_t shared = q->prompt.n, tail = t->steps ? TAIL : 1, longest = 0;
    for (int i = 0; i < q->item->n; i++) {
        int64_t n = alike(&q->prompt, &q->with[i]);
        shared = n < shared ? n : shared;
        longest = q->with[i].n > longest ? q->with[i].n : longest;
    }
    shared = shared - tail > t->n_shared ? shared - tail : t->n_shared;
    int status = sluice_session_append(s, q->prompt.id + t->n_shared, shared - t->n_shared, err);
    if (status >= 0 && shared > t->n_shared)
        status = sluice_prefill(s, 1, err);
    double *logprob = malloc(sizeof *logprob * (size_t)(longest + 1));
    if (status >= 0 && logprob == NULL)
        status = eval_no_memory(err);
    for (int i = 0; status >= 0 && i < q->item->n; i++) {
        sluice_session *fork = NULL;
        int64_t scored = q->with[i].n - alike(&q->prompt, &q->with[i]);
        status = sluice_session_fork(s, -1, &fork, err);
        if (status >= 0)
            status = sluice_session_append(fork, q->with[i].id + shared, q->with[i].n - shared, err);
        if (status >= 0)
            status = t->steps ? sluice_score_steps(fork, scored, logprob, NULL, err)
                              : sluice_score(fork, scored, logprob, NULL, err);
        for (int64_t j = 0; status >= 0 && j < scored; j++)
            sum[i] += logprob[j];
        mean[i] = sum[i] / (double)q->bytes[i];
        sluice_session_close(fork);
    }
    free(logprob);
    if (status < 0)
        return status;
    q->picked = best_of(mean, q->item->n);
    q->picked_by_sum = best_of(sum, q->item->n);
    q->p_right = share_of(sum, q->item->n, q->item->answer);
    return SLUICE_OK;
}

static int answer_all(task *t, sluice_error *err) {
    sluice_info info;
    sluice_get_info(t->engine, &info);
    if (info.max_sessions < 3)
        return FAIL(err, "prompts are shared by forks: engine.max_seqs must be at least 3");
    t->logits = malloc(sizeof *t->logits * (size_t)info.vocab);
    sluice_session *front = NULL;
    int status = t->logits != NULL ? sluice_session_open(t->engine, &front, err) : eval_no_memory(err);
    if (status >= 0 && t->n_shared > 0)
        status = sluice_session_append(front, t->first->prompt.id, t->n_shared, err);
    if (status >= 0 && t->n_shared > 0)
        status = sluice_prefill(front, 1, err);
    for (int i = 0; status >= 0 && i < t->n; i++) {
        sluice_session *s = NULL;
        if (t->question[i].too_long)
            continue;
        status = t->n_shared > 0 ? sluice_session_fork(front, -1, &s, err) : sluice_session_open(t->engine, &s, err);
        if (status >= 0)
            status = t->labels ? by_labels(t, s, &t->question[i], err) : by_likelihood(t, s, &t->question[i], err);
        if (status >= 0 && !isfinite(t->question[i].p_right))
            status = FAIL(err, "question %d: the logits are not finite", t->shots + i + 1);
        sluice_session_close(s);
    }
    sluice_session_close(front);
    return status;
}

/* ---- reporting --------------------------------------------------------------------------------------------------- */

/* Accuracy of a category (-1: all) with Wilson's 95 % interval. */
static json_t *score_json(const task *t, int category) {
    double n = 0, right = 0, by_sum = 0, p = 0, chance = 0, z = 1.95996;
    for (int i = 0; i < t->n; i++) {
        const question *q = &t->question[i];
        if (q->too_long || (category >= 0 && q->item->category != category))
            continue;
        n++;
        right += q->picked == q->item->answer;
        by_sum += q->picked_by_sum == q->item->answer;
        p += q->p_right;
        chance += 1.0 / q->item->n;
    }
    if (n == 0)
        return json_pack("{s:i}", "questions", 0);
    double a = right / n, middle = (a + z * z / (2 * n)) / (1 + z * z / n),
           half = z / (1 + z * z / n) * sqrt(a * (1 - a) / n + z * z / (4 * n * n));
    json_t *o = json_pack("{s:I, s:I, s:f, s:f, s:f, s:f, s:f}", "questions", (json_int_t)n, "right", (json_int_t)right,
                          "accuracy", a, "low_95", fmax(middle - half, 0), "high_95", fmin(middle + half, 1), "chance",
                          chance / n, "p_right", p / n);
    if (!t->labels)
        json_object_set_new(o, "accuracy_by_sum", json_real(by_sum / n));
    return o;
}

static int compare(json_t *result, const task *t, const char *against, sluice_error *err) {
    static const char *const same[] = {"task", "by", "shots", "steps", "file_sha256", "questions", "too_long", NULL};
    json_t *before = eval_earlier(against, result, same, err);
    if (before == NULL)
        return SLUICE_E_DATA;
    json_t *then = json_object_get(before, "picked");
    double *d = calloc((size_t)t->n + 1, sizeof *d);
    int64_t n = 0, agree = 0;
    int status = d != NULL ? SLUICE_OK : eval_no_memory(err);
    if (status >= 0 && json_array_size(then) != (size_t)t->n)
        status = FAIL(err, "%s: picked must hold %d numbers", against, t->n);
    for (int i = 0; status >= 0 && i < t->n; i++) {
        const question *q = &t->question[i];
        json_int_t its = json_integer_value(json_array_get(then, (size_t)i));
        if (q->too_long)
            continue;
        d[n++] = (q->picked == q->item->answer) - (its == q->item->answer);
        agree += q->picked == its;
    }
    if (status >= 0) {
        eval_difference difference = eval_paired(d, NULL, n);
        json_t *o = eval_difference_json(against, &difference);
        json_object_set_new(o, "same_pick", json_real((double)agree / (double)n));
        json_object_set_new(result, "against", o);
    }
    free(d);
    json_decref(before);
    return status;
}

static int report(const task *t, const char *path, const char *digest, double seconds, const char *against,
                  sluice_error *err) {
    sluice_info info;
    sluice_get_info(t->engine, &info);
    json_t *picked = json_array(), *p_right = json_array(), *categories = json_array(), *all = score_json(t, -1);
    int too_long = 0;
    for (int i = 0; i < t->n; i++) {
        json_array_append_new(picked, json_integer(t->question[i].picked));
        json_array_append_new(p_right, json_real(t->question[i].p_right));
        too_long += t->question[i].too_long;
    }
    for (int c = 0; c < t->items.n_categories; c++) {
        json_t *o = score_json(t, c);
        json_object_set_new(o, "category", json_string(t->items.category[c]));
        json_array_append_new(categories, o);
    }
    json_t *result = json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:b, s:i}", "task", "choice", "model", info.model, "by",
                               t->labels ? "labels" : "likelihood", "file", path, "file_sha256", digest, "shots",
                               t->shots, "steps", t->steps, "too_long", too_long);
    if (result != NULL)
        json_object_update(result, all);
    json_decref(all);
    if (result == NULL || too_long == t->n) {
        json_decref(result);
        json_decref(picked);
        json_decref(p_right);
        json_decref(categories);
        return result == NULL ? FAIL(err, "%s: a file name that is no UTF-8", path)
                              : FAIL(err, "%s: no question fits the context of %d tokens", path, info.max_context);
    }
    json_object_set_new(result, "by_category", categories);
    json_object_set_new(result, "picked", picked);
    json_object_set_new(result, "p_right_by_question", p_right);
    json_object_set_new(result, "seconds", json_real(seconds));
    report_device_memory(t->engine, result);
    int status = against != NULL ? compare(result, t, against, err) : SLUICE_OK;
    if (status >= 0)
        return eval_print(result);
    json_decref(result);
    return status;
}

int eval_choice(int argc, char **argv) {
    common c = {0};
    task t = {0};
    const char *path = NULL, *by = "labels", *against = NULL;
    int64_t shots = 0, limit = 0;
    const option own[] = {
        {"--questions", "FILE",
         "JSON lines: \"question\" (or \"prompt\"), \"choices\", \"answer\" (index or letter), \"category\"", OPT_TEXT,
         NULL, &path},
        {"--by", "HOW", "labels: logits of the letters (default); likelihood: of each choice's text, by its bytes",
         OPT_TEXT, NULL, &by},
        {"--shots", "N", "the first N questions are examples in front of all others (default 0)", OPT_INT, NULL,
         &shots},
        {"--limit", "N", "ask the first N questions behind the examples (default: all)", OPT_INT, NULL, &limit},
        {"--steps", NULL, "likelihood: compute the choices as decode steps behind the prompt", OPT_FLAG, NULL,
         &t.steps},
        {"--against", "FILE", "JSON of an earlier run of these questions: adds the paired difference", OPT_TEXT, NULL,
         &against},
        {NULL, NULL, NULL, OPT_FLAG, NULL, NULL},
    };
    int n = options_parse(argc, argv, "sluice eval choice --questions FILE [options]", own, &c, NULL, 0);
    t.labels = strcmp(by, "labels") == 0;
    int good = path != NULL && (t.labels || strcmp(by, "likelihood") == 0) && !(t.labels && t.steps) && shots >= 0 &&
               limit >= 0;
    if (n < 0 || c.help || !good) {
        if (n >= 0 && !c.help)
            fprintf(stderr,
                    "sluice: eval choice needs --questions FILE, --by labels or likelihood, --shots and --limit "
                    "from 0, --steps with --by likelihood alone\n");
        options_free(&c);
        return c.help ? 0 : CLI_USAGE;
    }
    sluice_error err = {0};
    char digest[65] = "";
    int status = choice_items_read(path, &t.items, digest, &err);
    if (status >= 0 && shots >= t.items.n)
        status = FAIL(&err, "%s: %d questions, of which --shots %lld leaves none", path, t.items.n, (long long)shots);
    t.shots = (int)shots;
    if (status >= 0 && limit > 0 && limit < t.items.n - shots)
        t.items.n = (int)(shots + limit);
    sluice_options options = options_engine(&c);
    if (status >= 0)
        status = sluice_open(&options, &t.engine, &err);
    double begin = now();
    if (status >= 0)
        status = prepare_all(&t, &err);
    if (status >= 0)
        status = answer_all(&t, &err);
    if (status >= 0)
        status = report(&t, path, digest, now() - begin, against, &err);
    status = status < 0 ? fail(&err) : 0;
    questions_free(&t);
    free(t.logits);
    sluice_close(t.engine);
    choice_items_free(&t.items);
    options_free(&c);
    return status;
}
