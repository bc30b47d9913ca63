/* sluice eval spec - what drafters give: tokens a step, acceptance by depth, speed-up over plain decoding in the same
 * process, and whether greedy output is what plain decoding gives. docs/eval-spec.md defines the numbers. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval.h"
#include "options.h"
#include "report.h"
#include "spec_loop.h"
#include "spec_prompts.h"
#include "spec_run.h"

enum { MAX_TEMPERATURES = 8, MAX_DRAFTERS = 16 };

/* Outputs and counts at every temperature. */
typedef struct measured {
    spec_output *output[MAX_TEMPERATURES]; /* [n prompts] */
    spec_tally *tally[MAX_TEMPERATURES];   /* [n categories] */
    double *pace[MAX_TEMPERATURES];        /* [n prompts] see spec_run.h */
} measured;

typedef struct task {
    spec_prompts prompts;
    spec_how how;
    double temperature[MAX_TEMPERATURES];
    int n_temperatures;
    int check, json, apart;
    json_t *runs;
    char odd[512]; /* the first greedy output that is not as it should be; empty: none */
} task;

/* ---- measuring --------------------------------------------------------------------------------------------------- */

static void measured_free(const task *t, measured *m) {
    for (int k = 0; k < MAX_TEMPERATURES; k++) {
        spec_outputs_free(m->output[k], t->prompts.n);
        free(m->output[k]);
        free(m->tally[k]);
        free(m->pace[k]);
    }
}

/* n engines in pairs of batches, each into its own m. */
static int measure(const task *t, sluice_engine *const *e, measured *const *m, int n, sluice_error *err) {
    int status = SLUICE_OK;
    sluice_info info;
    sluice_get_info(e[0], &info);
    if (t->how.batch > info.max_sessions) {
        snprintf(err->text, sizeof err->text, "--batch %d: engine.max_seqs = %d", t->how.batch, info.max_sessions);
        return SLUICE_E_RANGE;
    }
    for (int k = 0; status >= 0 && k < t->n_temperatures; k++) {
        spec_side side[2];
        for (int i = 0; i < n; i++) {
            m[i]->output[k] = calloc((size_t)t->prompts.n, sizeof *m[i]->output[k]);
            m[i]->tally[k] = calloc((size_t)t->prompts.n_categories, sizeof *m[i]->tally[k]);
            m[i]->pace[k] = calloc((size_t)t->prompts.n, sizeof *m[i]->pace[k]);
            if (m[i]->output[k] == NULL || m[i]->tally[k] == NULL || m[i]->pace[k] == NULL)
                return eval_no_memory(err);
            side[i] = (spec_side){e[i], m[i]->output[k], m[i]->tally[k], m[i]->pace[k]};
        }
        spec_how how = t->how;
        how.temperature = t->temperature[k];
        status = spec_run(side, n, &t->prompts, &how, err);
    }
    return status;
}

/* Id of the drafter, or NULL when none is configured; *stats holds it. */
static const char *drafter_of(sluice_engine *e, json_t **stats) {
    *stats = NULL;
    sluice_stats_json(e, report_take, stats, NULL);
    json_t *list = json_object_get(*stats, "plugins");
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *p = json_array_get(list, i);
        const char *role = json_string_value(json_object_get(p, "role")),
                   *id = json_string_value(json_object_get(p, "id"));
        if (role != NULL && id != NULL && strcmp(role, "speculation") == 0 && strcmp(id, "none") != 0)
            return id;
    }
    return NULL;
}

/* The same configuration without its drafter. Overrides that belong to it go, too. */
static void without_drafter(const common *c, sluice_options *options, const char **sets) {
    int n = 0;
    for (int i = 0; i < c->n_sets; i++)
        if (strncmp(c->sets[i], "speculation.", 12) != 0 && strncmp(c->sets[i], "draft.", 6) != 0)
            sets[n++] = c->sets[i];
    sets[n++] = "speculation.plugin=none";
    options->sets = sets;
    options->n_sets = n;
}

/* ---- reporting --------------------------------------------------------------------------------------------------- */

static double ratio(double a, double b) { return b > 0 ? a / b : 0; }

static json_t *part_json(int64_t tokens, int64_t steps) {
    return json_pack("{s:I, s:I, s:o}", "tokens", (json_int_t)tokens, "steps", (json_int_t)steps, "tokens_per_step",
                     steps > 0 ? json_real((double)tokens / (double)steps) : json_null());
}

/* [depth] shares, up to the deepest level that was drafted. */
static json_t *depths_json(const spec_tally *t, int what) {
    json_t *list = json_array();
    int n = SLUICE_MAX_DEPTH;
    while (n > 0 && t->drafted_by_depth[n - 1] == 0)
        n--;
    for (int d = 0; d < n; d++)
        json_array_append_new(
            list, what == 0   ? json_integer(t->drafted_by_depth[d])
                  : what == 1 ? json_integer(t->accepted_by_depth[d])
                              : json_real(ratio((double)t->accepted_by_depth[d], (double)t->drafted_by_depth[d])));
    return list;
}

/* Speed in pairs of batches of a category, or of all (-1). */
static void add_pairs(json_t *r, const task *t, const measured *plain, const measured *drafted, int k, int category) {
    double v[3];
    int n = spec_pairs(&t->prompts, plain->pace[k], drafted->pace[k], category, v);
    json_object_set_new(r, "pairs", json_integer(n));
    json_object_set_new(r, "speed_up_median", n > 0 ? json_real(v[0]) : json_null());
    json_object_set_new(r, "speed_up_quartiles", n > 0 ? json_pack("[f, f]", v[1], v[2]) : json_null());
    json_object_set_new(r, "ms_per_token", json_real(1e3 * spec_pace(&t->prompts, drafted->pace[k], category)));
    json_object_set_new(r, "plain_ms_per_token", json_real(1e3 * spec_pace(&t->prompts, plain->pace[k], category)));
}

static json_t *result_json(double temperature, const char *category, const spec_tally *t, const spec_tally *plain) {
    double rate = ratio(t->rates, (double)t->n_rates), plain_rate = ratio(plain->rates, (double)plain->n_rates);
    json_t *r =
        json_pack("{s:f, s:s, s:I, s:I, s:I, s:o, s:o, s:o, s:f, s:I, s:I, s:o, s:o, s:o, s:f, s:f, s:f, s:I, s:I}",
                  "temperature", temperature, "category", category, "prompts", (json_int_t)t->prompts, "too_long",
                  (json_int_t)t->too_long, "tokens", (json_int_t)t->tokens, "all",
                  part_json(t->emitted[0] + t->emitted[1], t->steps[0] + t->steps[1]), "fresh",
                  part_json(t->emitted[SPEC_FRESH], t->steps[SPEC_FRESH]), "looping",
                  part_json(t->emitted[SPEC_LOOPING], t->steps[SPEC_LOOPING]), "looping_share",
                  ratio((double)t->looping_tokens, (double)t->tokens), "drafted", (json_int_t)t->drafted, "accepted",
                  (json_int_t)t->accepted, "drafted_by_depth", depths_json(t, 0), "accepted_by_depth",
                  depths_json(t, 1), "acceptance_by_depth", depths_json(t, 2), "tokens_per_second", rate,
                  "plain_tokens_per_second", plain_rate, "speed_up", ratio(rate, plain_rate), "compared",
                  (json_int_t)t->compared, "identical", (json_int_t)t->identical);
    if (t->compared > t->identical)
        json_object_set_new(
            r, "first_difference",
            json_pack("{s:I, s:I}", "prompt", (json_int_t)t->odd_prompt, "token", (json_int_t)t->odd_token));
    return r;
}

static void print_cell(const json_t *part) {
    const json_t *v = json_object_get(part, "tokens_per_step");
    if (json_is_real(v))
        printf(" %.2f |", json_real_value(v));
    else
        printf(" - |");
}

static void print_run(json_t *run) {
    json_t *results = json_object_get(run, "results"), *r, *share;
    size_t i, d;
    printf("%s%s%s: %s%s\n\n", json_string_value(json_object_get(run, "drafter")),
           json_is_string(json_object_get(run, "config")) ? ", " : "",
           json_is_string(json_object_get(run, "config")) ? json_string_value(json_object_get(run, "config")) : "",
           json_is_true(json_object_get(run, "lossless")) ? "lossless" : "not lossless",
           json_is_true(json_object_get(run, "checked")) ? ", checked" : "");
    printf("| temperature | category | prompts | tokens | tokens/step | fresh | looping | looping text | accepted | "
           "speed-up | median | identical |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    json_array_foreach(results, i, r) {
        printf("| %g | %s | %lld | %lld |", json_real_value(json_object_get(r, "temperature")),
               json_string_value(json_object_get(r, "category")),
               (long long)json_integer_value(json_object_get(r, "prompts")),
               (long long)json_integer_value(json_object_get(r, "tokens")));
        print_cell(json_object_get(r, "all"));
        print_cell(json_object_get(r, "fresh"));
        print_cell(json_object_get(r, "looping"));
        const json_t *median = json_object_get(r, "speed_up_median");
        printf(" %.0f %% | %lld/%lld | %.2f |", 100 * json_real_value(json_object_get(r, "looping_share")),
               (long long)json_integer_value(json_object_get(r, "accepted")),
               (long long)json_integer_value(json_object_get(r, "drafted")),
               json_real_value(json_object_get(r, "speed_up")));
        if (json_is_real(median))
            printf(" %.2f |", json_real_value(median));
        else
            printf(" - |");
        printf(" %lld/%lld |\n", (long long)json_integer_value(json_object_get(r, "identical")),
               (long long)json_integer_value(json_object_get(r, "compared")));
    }
    putchar('\n');
    json_array_foreach(results, i, r) {
        if (strcmp(json_string_value(json_object_get(r, "category")), "all") != 0)
            continue;
        printf("acceptance by depth at temperature %g:", json_real_value(json_object_get(r, "temperature")));
        json_array_foreach(json_object_get(r, "acceptance_by_depth"), d, share) printf(" %.2f", json_real_value(share));
        putchar('\n');
    }
    putchar('\n');
}

/* Notes the first greedy output of a lossless drafter that differs from plain decoding. */
static void note_difference(task *t, const char *drafter, const spec_tally *c, const measured *plain,
                            const measured *drafted, int k) {
    if (t->odd[0] != '\0' || c->compared == c->identical)
        return;
    const spec_output *a = &plain->output[k][c->odd_prompt], *b = &drafted->output[k][c->odd_prompt];
    int64_t i = c->odd_token;
    snprintf(t->odd, sizeof t->odd,
             "%s: greedy output differs from plain decoding: prompt %lld, token %lld is %d, plain decoding has %d",
             drafter, (long long)c->odd_prompt, (long long)i, i < b->n ? b->token[i] : -1, i < a->n ? a->token[i] : -1);
}

static json_t *results_of(task *t, const char *drafter, const measured *plain, const measured *drafted, int lossless) {
    json_t *results = json_array();
    int n = t->prompts.n_categories;
    for (int k = 0; k < t->n_temperatures; k++) {
        spec_tally *all = calloc(2, sizeof *all);
        for (int c = 0; all != NULL && c < n; c++) {
            spec_tally *of = &drafted->tally[k][c];
            if (n > 1) {
                json_t *r = result_json(t->temperature[k], t->prompts.category[c], of, &plain->tally[k][c]);
                add_pairs(r, t, plain, drafted, k, c);
                json_array_append_new(results, r);
            }
            if (t->check && lossless && t->temperature[k] == 0)
                note_difference(t, drafter, of, plain, drafted, k);
            spec_add(&all[0], of);
            spec_add(&all[1], &plain->tally[k][c]);
        }
        if (all != NULL) {
            json_t *r = result_json(t->temperature[k], "all", &all[0], &all[1]);
            add_pairs(r, t, plain, drafted, k, -1);
            json_array_append_new(results, r);
        }
        free(all);
    }
    return results;
}

/* ---- one configuration ------------------------------------------------------------------------------------------- */

/* Both engines at once, so that their batches can take turns; one after the other where that was asked for, or where
 * there is no memory for both. *together says which it was. */
static int measure_both(const task *t, const sluice_options *with, const sluice_options *without, sluice_engine **e,
                        measured *plain, measured *drafted, int *together, sluice_error *err) {
    sluice_engine *plain_engine = NULL;
    int status = SLUICE_OK;
    *together = !t->apart;
    if (!t->apart && sluice_open(without, &plain_engine, err) >= 0)
        status = measure(t, (sluice_engine *[]){plain_engine, *e}, (measured *[]){plain, drafted}, 2, err);
    else {
        if (!t->apart)
            fprintf(stderr, "sluice: not in turns, plain decoding has no room beside the drafter: %s\n", err->text);
        *together = 0;
        sluice_close(*e);
        *e = NULL;
        status = sluice_open(without, &plain_engine, err);
        if (status >= 0)
            status = measure(t, &plain_engine, &plain, 1, err);
        sluice_close(plain_engine);
        plain_engine = NULL;
        if (status >= 0)
            status = sluice_open(with, e, err);
        if (status >= 0)
            status = measure(t, e, &drafted, 1, err);
    }
    sluice_close(plain_engine);
    return status;
}

static int run_config(task *t, const common *c, const char *config, sluice_error *err) {
    measured plain = {{NULL}, {NULL}, {NULL}}, drafted = {{NULL}, {NULL}, {NULL}};
    sluice_engine *e = NULL;
    const char *sets[CLI_MAX_SETS + 1];
    sluice_options options = options_engine(c);
    options.config = config;
    int together = 0;
    int status = sluice_open(&options, &e, err); /* a combination that does not fit is refused before hours of work */
    json_t *stats = NULL;
    if (status >= 0 && drafter_of(e, &stats) == NULL) {
        snprintf(err->text, sizeof err->text, "%s%sno drafter is configured: set speculation.plugin",
                 config != NULL ? config : "", config != NULL ? ": " : "");
        status = SLUICE_E_INVALID;
    }
    json_decref(stats);
    if (status >= 0) {
        sluice_options without = options;
        without_drafter(c, &without, sets);
        status = measure_both(t, &options, &without, &e, &plain, &drafted, &together, err);
    }
    if (status >= 0) {
        sluice_stats s;
        sluice_get_stats(e, &s);
        const char *drafter = drafter_of(e, &stats);
        for (int k = 0; k < t->n_temperatures; k++)
            spec_compare(&t->prompts, plain.output[k], drafted.output[k], drafted.tally[k]);
        json_t *run = json_pack("{s:s?, s:s, s:b, s:b, s:b, s:O, s:o}", "config", config, "drafter", drafter,
                                "lossless", s.lossless, "checked", t->check && s.lossless, "in_turns", together,
                                "metrics", json_object_get(stats, "metrics"), "results",
                                results_of(t, drafter, &plain, &drafted, s.lossless));
        if (!t->json)
            print_run(run);
        json_array_append_new(t->runs, run);
        json_decref(stats);
    }
    sluice_close(e);
    measured_free(t, &plain);
    measured_free(t, &drafted);
    return status;
}

/* ---- the command ------------------------------------------------------------------------------------------------- */

static int parse_temperatures(const char *text, task *t) {
    do {
        char *end;
        double v = strtod(text, &end);
        if (end == text || (*end != ',' && *end != '\0') || !(v >= 0) || t->n_temperatures == MAX_TEMPERATURES)
            return -1;
        t->temperature[t->n_temperatures++] = v;
        text = *end == ',' ? end + 1 : end;
    } while (*text != '\0');
    return 0;
}

int eval_spec(int argc, char **argv) {
    common c = {0};
    task t = {.check = 1, .runs = json_array()};
    const char *path = NULL, *temperatures = "0,0.8", *words[MAX_DRAFTERS];
    int64_t max_tokens = 128, limit = 0, batch = 1, warm_up = 1, seed = 1;
    int no_check = 0;
    const option own[] = {
        {"--prompts", "FILE", "a prompt a line, or JSON lines with \"prompt\" (or \"turns\") and \"category\"",
         OPT_TEXT, NULL, &path},
        {"--limit", "N", "first N prompts of each category (default: all)", OPT_INT, NULL, &limit},
        {"-n, --max-tokens", "N", "tokens to generate behind each prompt (default 128)", OPT_INT, NULL, &max_tokens},
        {"--temperatures", "T,T", "0: greedy (default 0,0.8)", OPT_TEXT, NULL, &temperatures},
        {"--batch", "N", "prompts of one category that run together (default 1)", OPT_INT, NULL, &batch},
        {"--warm-up", "N", "times that the first prompt is run before anything is measured (default 1)", OPT_INT, NULL,
         &warm_up},
        {"--seed", "N", "of the first prompt; the others follow (default 1)", OPT_INT, NULL, &seed},
        {"--apart", NULL, "one engine after the other, not in turns: for models that fit into memory once", OPT_FLAG,
         NULL, &t.apart},
        {"--no-check", NULL, "do not fail when greedy output of a lossless drafter differs from plain decoding",
         OPT_FLAG, NULL, &no_check},
        {"--json", NULL, "one JSON object instead of tables", OPT_FLAG, NULL, &t.json},
        {NULL, NULL, NULL, OPT_FLAG, NULL, NULL},
    };
    int n =
        options_parse(argc, argv, "sluice eval spec --prompts FILE [options] [INI ...]", own, &c, words, MAX_DRAFTERS);
    int good = path != NULL && parse_temperatures(temperatures, &t) == 0 && max_tokens >= 2 && max_tokens < 1 << 20 &&
               batch >= 1 && batch <= 256 && warm_up >= 0 && warm_up < 1000 && limit >= 0 &&
               !(n > 0 && c.config != NULL);
    if (n < 0 || c.help || !good) {
        if (n >= 0 && !c.help)
            fprintf(stderr,
                    "sluice: eval spec needs --prompts FILE, temperatures from 0 (at most %d), -n from 2, --batch 1 "
                    "to 256, and either --config or INI files as words\n",
                    MAX_TEMPERATURES);
        json_decref(t.runs);
        options_free(&c);
        return c.help ? 0 : CLI_USAGE;
    }
    t.check = !no_check;
    t.how = (spec_how){.seed = (uint64_t)seed,
                       .max_tokens = (int32_t)max_tokens,
                       .batch = (int32_t)batch,
                       .warm_up = (int32_t)warm_up};
    sluice_error err = {0};
    int status = spec_prompts_read(path, limit, &t.prompts, &err);
    for (int i = 0; status >= 0 && i < (n > 0 ? n : 1); i++)
        status = run_config(&t, &c, n > 0 ? words[i] : c.config, &err);
    if (status >= 0 && t.json)
        eval_print(json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:{s:i, s:i}, s:O}", "task", "spec", "prompts_file",
                             path, "prompts", (json_int_t)t.prompts.n, "max_tokens", (json_int_t)max_tokens, "batch",
                             (json_int_t)batch, "warm_up", (json_int_t)warm_up, "seed", (json_int_t)seed, "loop",
                             "tokens", LOOP_TOKENS, "period", LOOP_PERIOD, "runs", t.runs));
    if (status >= 0 && t.odd[0] != '\0') {
        snprintf(err.text, sizeof err.text, "%s", t.odd);
        status = SLUICE_E_DATA;
    }
    status = status < 0 ? fail(&err) : 0;
    spec_prompts_free(&t.prompts);
    json_decref(t.runs);
    options_free(&c);
    return status;
}
