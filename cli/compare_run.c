/* Running what a comparison lacks, see compare.h. One child at a time: what is measured is speed. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "build_commit.h"
#include "compare.h"
#include "compare_child.h"

/* The words of a child's command; those made for it are owned. */
typedef struct command {
    const char *argv[COMPARE_MAX_WORDS + 1];
    char *split; /* the arguments, cut into words */
    int n;
} command;

static void push(command *m, const char *word) {
    if (m->n < COMPARE_MAX_WORDS)
        m->argv[m->n++] = word;
}

/* Cuts at blanks; '...' and "..." hold a word together. */
static void push_words(command *m, const char *text) {
    char *to = m->split = strdup(text);
    for (const char *p = text; to != NULL && *(p += strspn(p, " \t")) != '\0';) {
        char quote = 0;
        push(m, to);
        for (; *p != '\0' && (quote != 0 || (*p != ' ' && *p != '\t')); p++) {
            if (*p == quote)
                quote = 0;
            else if (quote == 0 && (*p == '\'' || *p == '"'))
                quote = *p;
            else
                *to++ = *p;
        }
        *to++ = '\0';
        if (*p == '\0')
            break;
    }
}

static command command_of(const comparison *c, int i, int k) {
    const compare_task *t = c->task[k];
    command m = {.n = 0};
    for (int w = 0; w < 6 && t->words[w] != NULL; w++)
        push(&m, t->words[w]);
    push_words(&m, c->arguments[k]);
    if (t->flags & TASK_TEXT)
        push(&m, "--text"), push(&m, c->text);
    if (t->flags & TASK_PROMPTS)
        push(&m, "--prompts"), push(&m, c->prompts);
    push(&m, "--config"), push(&m, c->config[i].path);
    for (int s = 0; s < c->shared->n_sets; s++)
        push(&m, "--set"), push(&m, c->shared->sets[s]);
    return m;
}

static json_t *words_of(const command *m) {
    json_t *words = json_array();
    json_array_append_new(words, json_string("sluice"));
    for (int i = 0; i < m->n; i++)
        json_array_append_new(words, json_string(m->argv[i]));
    return words;
}

/* Everything that shapes a result. base: the stored result that it is compared with, NULL: none; round < 0: none. */
static json_t *key_of(const comparison *c, int i, int k, const char *base, int round) {
    const compare_config *g = &c->config[i];
    const char *slash = base != NULL ? strrchr(base, '/') : NULL;
    return json_pack("{s:s, s:s, s:O, s:s, s:s, s:O, s:O, s:O, s:s?, s:i}", "version", sluice_version(), "commit",
                     BUILD_COMMIT, "machine", c->machine, "task", c->task[k]->name, "arguments", c->arguments[k],
                     "settings", g->settings, "files", g->files, "input", c->input, "base",
                     slash != NULL ? slash + 1 : base, "round", round);
}

static json_t *date(void) {
    char text[32];
    time_t t = time(NULL);
    struct tm utc;
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &utc));
    return json_string(text);
}

/* Notes in a result (stolen, NULL: none) how it came about. */
static json_t *note(json_t *result, json_t *key, const char *state, const char *reason, double seconds, json_t *words) {
    result = json_is_object(result) ? result : json_object();
    json_object_set_new(result, "compare",
                        json_pack("{s:O?, s:s, s:s?, s:f, s:o, s:o?}", "key", key, "state", state, "reason", reason,
                                  "seconds", seconds, "date", key != NULL ? date() : json_null(), "command", words));
    return result;
}

/* Runs a command and reads its JSON. NULL: *reason says why. Some of a bench's tests may have failed. */
static json_t *run_json(const comparison *c, const command *m, double *seconds, char *reason, size_t cap) {
    const char *argv[COMPARE_MAX_WORDS + 1];
    child_result r;
    for (int i = 0; i < m->n; i++)
        argv[i] = m->argv[i];
    argv[m->n] = NULL;
    reason[0] = '\0';
    int status = child_run(argv, c->timeout, &r, reason, cap);
    *seconds = r.seconds;
    json_t *json = r.out != NULL ? json_loads(r.out, 0, NULL) : NULL;
    if (status < 0 && (r.status != 1 || !json_is_array(json) || json_array_size(json) == 0)) {
        json_decref(json);
        json = NULL;
    } else if (json == NULL)
        snprintf(reason, cap, "its output was no JSON: %.60s", r.out);
    child_free(&r);
    return json;
}

static int is_done(json_t *result) {
    const char *state = json_string_value(compare_member(result, "compare.state"));
    return state != NULL && strcmp(state, "done") == 0;
}

/* A stored result; failures count unless they are to be run again. */
static json_t *stored(const comparison *c, const char *path, json_t *key) {
    json_t *result = compare_load(path, key);
    if (result != NULL && c->retry && !is_done(result)) {
        json_decref(result);
        return NULL;
    }
    return result;
}

/* ---- speed ------------------------------------------------------------------------------------------------------- */

static json_t *bench_once(comparison *c, int i, int k, double *seconds, char *reason, size_t cap) {
    command m = command_of(c, i, k);
    double took = 0;
    json_t *tests = run_json(c, &m, &took, reason, cap);
    *seconds += took;
    free(m.split);
    return tests;
}

typedef struct rounds {
    json_t *of[COMPARE_MAX_CONFIGS]; /* the units of each configuration */
    json_t *failed[COMPARE_MAX_CONFIGS];
    json_t *fresh; /* a run of the base that no neighbour was paired with yet */
} rounds;

/* One round of a configuration: its own run beside one of the base, which two neighbours may share. */
static int bench_unit(comparison *c, int i, int k, int round, rounds *all) {
    char name[160], label[200], reason[COMPARE_REASON] = "", unused[COMPARE_REASON];
    snprintf(name, sizeof name, "%.80s.%s.r%d", c->config[i].name, c->task[k]->name, round + 1);
    snprintf(label, sizeof label, "%.80s %s %d/%d", c->config[i].name, c->task[k]->name, round + 1, (int)c->pairs);
    json_t *base_key = i > 0 && c->config[0].settings != NULL ? key_of(c, 0, k, NULL, -1) : NULL;
    char *base = base_key != NULL ? compare_path(c, "", base_key, "") : NULL;
    json_t *key = key_of(c, i, k, base, round);
    char *path = compare_path(c, name, key, ".json");
    json_t *unit = stored(c, path, key);
    int status = 0;
    if (unit == NULL) {
        double seconds = 0;
        compare_progress_begin(c, label);
        json_t *own = bench_once(c, i, k, &seconds, reason, sizeof reason), *beside = NULL;
        int pairs = own != NULL && i > 0 && c->config[0].settings != NULL && all->failed[0] == NULL;
        if (pairs && all->fresh != NULL) {
            beside = all->fresh;
            all->fresh = NULL;
        } else if (pairs)
            all->fresh = json_incref(beside = bench_once(c, 0, k, &seconds, unused, sizeof unused));
        else if (i == 0)
            all->fresh = json_incref(own);
        command m = command_of(c, i, k);
        json_t *result = own != NULL ? json_pack("{s:o, s:o?}", "own", own, "base", beside) : NULL;
        unit = note(result, key, own != NULL ? "done" : "failed", reason[0] != '\0' ? reason : NULL, seconds,
                    words_of(&m));
        free(m.split);
        status = compare_save(path, unit);
        c->n_ran++;
        compare_progress(c, label, own != NULL ? "" : reason, seconds);
    } else
        compare_progress(c, NULL, "", 0);
    if (is_done(unit))
        json_array_append_new(all->of[i], unit);
    else
        all->failed[i] = unit;
    json_decref(key);
    json_decref(base_key);
    free(base);
    free(path);
    return status;
}

static json_t *bench_result(json_t *units, json_t *failed) {
    if (failed != NULL)
        return json_deep_copy(failed);
    json_t *last = json_object_get(json_array_get(units, json_array_size(units) - 1), "compare"), *unit;
    double seconds = 0;
    size_t i;
    json_array_foreach(units, i, unit) seconds += json_number_value(compare_member(unit, "compare.seconds"));
    json_t *result = compare_bench(units);
    json_object_set_new(result, "compare", json_deep_copy(last));
    json_object_set_new(json_object_get(result, "compare"), "seconds", json_real(seconds));
    return result;
}

/* Forward and backward by turns, so that what drifts does not favour one end. */
static int run_rounds(comparison *c, int k) {
    rounds all = {{NULL}, {NULL}, NULL};
    int status = 0, n = c->n_configs;
    for (int i = 0; i < n; i++)
        all.of[i] = json_array();
    for (int round = 0; status == 0 && round < c->pairs; round++) {
        for (int j = 0; status == 0 && j < n; j++) {
            int i = j == 0 || round % 2 == 0 ? j : n - j;
            if (c->config[i].settings != NULL && all.failed[i] == NULL)
                status = bench_unit(c, i, k, round, &all);
            else
                compare_progress(c, NULL, "", 0);
        }
        json_decref(all.fresh);
        all.fresh = NULL;
    }
    for (int i = 0; i < n; i++) {
        if (status == 0 && c->config[i].settings != NULL)
            c->result[i][k] = bench_result(all.of[i], all.failed[i]);
        json_decref(all.of[i]);
        json_decref(all.failed[i]);
    }
    return status;
}

/* ---- other tasks ------------------------------------------------------------------------------------------------- */

static int has_drafter(const compare_config *g) {
    const char *drafter = compare_setting(g, "speculation.plugin");
    return drafter[0] != '\0' && strcmp(drafter, "none") != 0;
}

/* base: the stored result of the base, NULL when there is none to compare with. */
static int run_task(comparison *c, int i, int k, const char *base, char **stored_at) {
    const compare_task *t = c->task[k];
    char name[160], label[200], reason[COMPARE_REASON] = "";
    snprintf(name, sizeof name, "%.80s.%s", c->config[i].name, t->name);
    snprintf(label, sizeof label, "%.80s %s", c->config[i].name, t->name);
    json_t *key = key_of(c, i, k, base, -1);
    char *path = compare_path(c, name, key, ".json"), *file = NULL;
    if ((t->flags & TASK_BASE) && asprintf(&file, "%s.data", i == 0 ? path : base) < 0)
        file = NULL;
    struct stat s;
    json_t *result = file != NULL && i == 0 && stat(file, &s) != 0 ? NULL : stored(c, path, key);
    int status = 0;
    if (result == NULL) {
        double seconds;
        command m = command_of(c, i, k);
        if ((t->flags & TASK_AGAINST) && base != NULL)
            push(&m, "--against"), push(&m, base);
        if (file != NULL)
            push(&m, i == 0 ? "--save" : "--base"), push(&m, file);
        if (file != NULL && i == 0)
            push(&m, "--exact");
        compare_progress_begin(c, label);
        json_t *json = run_json(c, &m, &seconds, reason, sizeof reason);
        int good = json_is_object(json);
        result = note(json, key, good ? "done" : "failed", reason[0] != '\0' ? reason : NULL, seconds, words_of(&m));
        free(m.split);
        status = compare_save(path, result);
        c->n_ran++;
        compare_progress(c, label, good ? "" : reason, seconds);
    } else
        compare_progress(c, NULL, "", 0);
    c->result[i][k] = result;
    *stored_at = status == 0 && is_done(result) ? path : NULL;
    if (*stored_at == NULL)
        free(path);
    free(file);
    json_decref(key);
    return status;
}

static int run_each(comparison *c, int k) {
    char *base = NULL, *path = NULL;
    int status = 0;
    for (int i = 0; status == 0 && i < c->n_configs; i++) {
        const compare_config *g = &c->config[i];
        int flags = c->task[k]->flags;
        if (g->settings == NULL) {
            compare_progress(c, NULL, "", 0);
        } else if ((flags & TASK_DRAFTER) && !has_drafter(g)) {
            c->result[i][k] = note(NULL, NULL, "none", "no drafter", 0, NULL);
            compare_progress(c, NULL, "", 0);
        } else if ((flags & TASK_BASE) && i > 0 && base == NULL) {
            c->result[i][k] = note(NULL, NULL, "failed", "the base has no result to compare with", 0, NULL);
            compare_progress(c, NULL, "", 0);
        } else {
            status = run_task(c, i, k, flags & (TASK_AGAINST | TASK_BASE) ? base : NULL, &path);
            if (i == 0)
                base = path;
            else
                free(path);
        }
    }
    free(base);
    return status;
}

/* A ratio's interval out of the difference of logarithms. */
static void add_ratio_ends(json_t *result) {
    json_t *against = json_object_get(result, "against");
    json_t *mean = json_object_get(against, "mean_difference"), *half = json_object_get(against, "half_width_95");
    if (json_object_get(against, "ppl_ratio") == NULL || !json_is_number(half))
        return;
    double m = json_number_value(mean), h = json_number_value(half);
    json_object_set_new(against, "ppl_ratio_low", json_real(exp(m - h)));
    json_object_set_new(against, "ppl_ratio_high", json_real(exp(m + h)));
}

int compare_run(comparison *c) {
    int status = 0;
    c->begin = now();
    for (int k = 0; k < c->n_tasks; k++)
        c->n_all += c->n_configs * (c->task[k]->flags & TASK_PAIRS ? c->pairs : 1);
    for (int k = 0; status == 0 && k < c->n_tasks; k++)
        status = c->task[k]->flags & TASK_PAIRS ? run_rounds(c, k) : run_each(c, k);
    compare_progress_end();
    for (int i = 0; i < c->n_configs; i++)
        for (int k = 0; k < c->n_tasks; k++)
            add_ratio_ends(c->result[i][k]);
    return status;
}
