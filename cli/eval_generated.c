/* sluice eval retrieval | ruler | scbench - questions about generated contexts; see docs/eval-generated.md. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval.h"
#include "gen_qa.h"
#include "gen_report.h"
#include "options.h"
#include "report.h"

enum { MAX_TASKS = 32, MAX_LENGTHS = 32 };

typedef struct suite {
    const char *name;
    const gen_task *tasks;
    const char *task_option,
        *tasks_of; /* how its tasks are chosen, and which are without that; NULL: all that can be made */
    const char *mode, *turn_option; /* turn_option NULL: one question a context */
    int64_t turns, questions, seed;
} suite;

static const suite retrieval = {"retrieval", gen_formats, "--format, --formats",
                                "needle",    "forced",    "--needles",
                                8,           200,         1},
                   ruler = {"ruler", gen_ruler, "--task, --tasks", NULL, "single", NULL, 1, 20, 42},
                   scbench = {"scbench", gen_scbench, "--task, --tasks", NULL, "multi_turn", "--turns", 4, 40, 1};

typedef struct job {
    const suite *suite;
    const gen_task *tasks[MAX_TASKS];
    int64_t lengths[MAX_LENGTHS];
    int n_tasks, n_lengths;
    const char *text_path, *task_list, *length_list, *mode_name, *cache_dir, *paragraphs_path, *against;
    int64_t turns, questions, seed, max_tokens;
    int own_history, golden;
    gen_source source;
    char *text;
    gen_paragraphs *paragraphs;
    json_t *left_out;
} job;

/* ---- what is to be asked ---------------------------------------------------------------------------------------- */

/* What a task lacks, NULL: nothing. */
static const char *lacks(const job *j, const gen_task *t) {
    if (t->needs & GEN_TEXT && j->source.bytes == 0)
        return "needs running text: --text FILE";
    if (t->needs & GEN_PARAGRAPHS && j->paragraphs == NULL)
        return "needs paragraphs and questions: --paragraphs FILE";
    if (t->needs & GEN_PARAGRAPHS && !gen_paragraphs_ask(j->paragraphs, *(const int *)t->how))
        return "finds no question of its kind in the paragraphs";
    return NULL;
}

static int add_task(job *j, const char *name, size_t n, sluice_error *err) {
    for (const gen_task *t = j->suite->tasks; t->name != NULL; t++) {
        if (strlen(t->name) != n || strncmp(t->name, name, n) != 0)
            continue;
        const char *why = lacks(j, t);
        if (why == NULL && j->n_tasks < MAX_TASKS) {
            j->tasks[j->n_tasks++] = t;
            return SLUICE_OK;
        }
        snprintf(err->text, sizeof err->text, "eval %s: %s %s", j->suite->name, t->name,
                 why != NULL ? why : "is one task too many");
        return SLUICE_E_INVALID;
    }
    size_t used = (size_t)snprintf(err->text, sizeof err->text, "eval %s: no task \"%.*s\"; there are", j->suite->name,
                                   (int)n, name);
    for (const gen_task *t = j->suite->tasks; t->name != NULL && used < sizeof err->text; t++)
        used += (size_t)snprintf(err->text + used, sizeof err->text - used, " %s", t->name);
    return SLUICE_E_INVALID;
}

static int choose_tasks(job *j, sluice_error *err) {
    int status = SLUICE_OK;
    const char *list = j->task_list != NULL ? j->task_list : j->suite->tasks_of;
    for (const char *p = list; status >= 0 && p != NULL; p = *p == ',' ? p + 1 : NULL) {
        size_t n = strcspn(p, ",");
        status = add_task(j, p, n, err);
        p += n;
    }
    for (const gen_task *t = j->suite->tasks; list == NULL && t->name != NULL; t++)
        if (lacks(j, t) == NULL)
            j->tasks[j->n_tasks++] = t;
        else
            json_object_set_new(j->left_out, t->name, json_string(lacks(j, t)));
    return status;
}

/* "1024,4096"; NULL: the longest context. */
static int choose_lengths(job *j, int64_t max_context, sluice_error *err) {
    const char *p = j->length_list;
    if (p == NULL)
        j->lengths[j->n_lengths++] = max_context;
    while (p != NULL) {
        char *end;
        long long n = strtoll(p, &end, 10);
        if (end == p || (*end != '\0' && *end != ',') || n < 1 || j->n_lengths == MAX_LENGTHS) {
            snprintf(err->text, sizeof err->text, "--length: expected at most %d numbers of tokens, found \"%s\"",
                     MAX_LENGTHS, j->length_list);
            return SLUICE_E_INVALID;
        }
        if (n > max_context) {
            snprintf(err->text, sizeof err->text, "--length: %lld tokens are longer than the context of %lld", n,
                     (long long)max_context);
            return SLUICE_E_RANGE;
        }
        j->lengths[j->n_lengths++] = n;
        p = *end == ',' ? end + 1 : NULL;
    }
    return SLUICE_OK;
}

static int read_sources(job *j, sluice_error *err) {
    j->source = (gen_source){.turns = (int)j->turns,
                             .seed = (uint64_t)j->seed,
                             .own_history = j->own_history,
                             .max_tokens = (int32_t)j->max_tokens};
    if (j->text_path != NULL && (j->text = read_text(j->text_path, &j->source.bytes)) == NULL)
        return CLI_USAGE; /* said already */
    if (j->text != NULL && j->source.bytes < 256) {
        snprintf(err->text, sizeof err->text, "%s: %zu bytes are no text to hide anything in", j->text_path,
                 j->source.bytes);
        return SLUICE_E_DATA;
    }
    j->source.text = j->text;
    if (j->paragraphs_path != NULL && (j->paragraphs = gen_paragraphs_read(j->paragraphs_path, err)) == NULL)
        return SLUICE_E_DATA;
    j->source.paragraphs = j->paragraphs;
    return choose_tasks(j, err);
}

/* ---- the run ------------------------------------------------------------------------------------------------------
 */

static int ask_all(job *j, gen_run *r, sluice_error *err) {
    int status = SLUICE_OK;
    for (int t = 0; t < j->n_tasks; t++)
        for (int l = 0; l < j->n_lengths; l++) {
            size_t first = json_array_size(r->rows);
            j->source.length = j->lengths[l];
            for (j->source.number = 0; status >= 0 && (int64_t)(json_array_size(r->rows) - first) < j->questions;
                 j->source.number++) {
                gen_context ctx = {0};
                status = gen_make(r->engine, j->tasks[t], &j->source, &ctx, err);
                if (status >= 0)
                    status = gen_run_context(r, j->tasks[t], &j->source, &ctx, err);
                gen_context_free(&ctx);
            }
        }
    return status;
}

static uint64_t fingerprint(const char *text, size_t n) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)text[i]) * 0x100000001b3u;
    return h;
}

static int report(const job *j, const gen_run *r, double seconds, sluice_error *err) {
    sluice_info info;
    sluice_get_info(r->engine, &info);
    json_t *tasks = json_array(), *lengths = json_array();
    for (int i = 0; i < j->n_tasks; i++)
        json_array_append_new(tasks, json_string(j->tasks[i]->name));
    for (int i = 0; i < j->n_lengths; i++)
        json_array_append_new(lengths, json_integer(j->lengths[i]));
    char text[32] = "";
    if (j->text != NULL)
        snprintf(text, sizeof text, "%016llx", (unsigned long long)fingerprint(j->text, j->source.bytes));
    json_t *result = json_pack("{s:s, s:s, s:s, s:o, s:O, s:I, s:I, s:s, s:b, s:I, s:f}", "task", j->suite->name,
                               "mode", gen_mode_names[r->mode], "model", info.model, "tasks", tasks, "length",
                               j->n_lengths == 1 ? json_array_get(lengths, 0) : lengths, "turns", (json_int_t)j->turns,
                               "seed", (json_int_t)j->seed, "text", text, "own_history", j->own_history, "max_tokens",
                               (json_int_t)j->max_tokens, "seconds", seconds);
    json_decref(lengths);
    if (j->suite == &retrieval)
        json_object_set_new(result, "needles", json_integer(j->turns));
    if (json_object_size(j->left_out) > 0)
        json_object_set(result, "left_out", j->left_out);
    int status = gen_report(r, result, err);
    report_device_memory(r->engine, result);
    report_prompts(r->engine, result);
    if (status >= 0 && j->against != NULL)
        status = gen_compare(result, j->against, err);
    if (status >= 0)
        return eval_print(result);
    json_decref(result);
    return status;
}

static int run(job *j, const common *c, gen_mode mode) {
    sluice_error err = {0};
    sluice_options options = options_engine(c);
    sluice_info info;
    prefill_cache cache = {0};
    gen_run r = {.mode = mode, .golden = j->golden, .rows = json_array()};
    int status = read_sources(j, &err);
    if (status == CLI_USAGE)
        goto done;
    if (status >= 0)
        status = sluice_open(&options, &r.engine, &err);
    if (status >= 0) {
        sluice_get_info(r.engine, &info);
        status = choose_lengths(j, info.max_context, &err);
    }
    if (status >= 0 && j->cache_dir != NULL && (status = prefill_cache_open(&cache, r.engine, j->cache_dir, &err)) >= 0)
        r.cache = &cache;
    double begin = now();
    if (status >= 0)
        status = ask_all(j, &r, &err);
    if (status >= 0)
        status = report(j, &r, now() - begin, &err);
    status = status < 0 ? fail(&err) : 0;
done:
    json_decref(r.rows);
    prefill_cache_close(&cache);
    sluice_close(r.engine);
    free(j->text);
    gen_paragraphs_free(j->paragraphs);
    return status != 0 ? 1 : 0;
}

static void print_tasks(const suite *s) {
    printf("\ntasks:\n");
    for (const gen_task *t = s->tasks; t->name != NULL; t++)
        printf("  %-28s %s%s%s\n", t->name, t->what, t->needs & GEN_TEXT ? " (--text)" : "",
               t->needs & GEN_PARAGRAPHS ? " (--paragraphs)" : "");
}

static int command(const suite *s, int argc, char **argv) {
    common c = {0};
    job j = {.suite = s, .mode_name = s->mode, .turns = s->turns, .questions = s->questions, .seed = s->seed};
    char tasks_help[128], turns_help[96], questions_help[96], mode_help[320], seed_help[64], usage[96];
    snprintf(tasks_help, sizeof tasks_help, "which, comma separated (default: %s)",
             s->tasks_of != NULL ? s->tasks_of : "all that what is given suffices for");
    snprintf(turns_help, sizeof turns_help, "questions in each context (default %lld)", (long long)s->turns);
    snprintf(questions_help, sizeof questions_help, "to ask at least, of each task at each length (default %lld)",
             (long long)s->questions);
    snprintf(mode_help, sizeof mode_help,
             "forced: all answers are given, the next token is judged; single: a prompt is context and question; "
             "multi_turn: question after question; multi_request: the prompt is the context alone (default %s)",
             s->mode);
    snprintf(seed_help, sizeof seed_help, "which keys, numbers and places (default %lld)", (long long)s->seed);
    snprintf(usage, sizeof usage, "sluice eval %s %s[options]", s->name, s == &retrieval ? "--text FILE " : "");
    const option own[] = {
        {s->task_option, "LIST", tasks_help, OPT_TEXT, NULL, &j.task_list},
        {"--text", "FILE", "plain text that things are hidden in; begins anew where it is too short", OPT_TEXT, NULL,
         &j.text_path},
        {"--length, --lengths", "LIST", "tokens of a context, questions and answers included (default: the context)",
         OPT_TEXT, NULL, &j.length_list},
        {"--questions", "N", questions_help, OPT_INT, NULL, &j.questions},
        {"--mode", "MODE", mode_help, OPT_TEXT, NULL, &j.mode_name},
        {"--own-history", NULL, "multi_turn: later turns follow what was answered, not the right answers", OPT_FLAG,
         NULL, &j.own_history},
        {"--golden", NULL, "also the log probability of the right answers, their tokens being decode steps", OPT_FLAG,
         NULL, &j.golden},
        {"--max-tokens", "N", "of an answer (default: the task's; answers of retrieval are as long as the right one)",
         OPT_INT, NULL, &j.max_tokens},
        {"--prefill-cache", "DIR", "keeps computed contexts there; later runs whose prompt pass is the same load them",
         OPT_TEXT, NULL, &j.cache_dir},
        {"--seed", "N", seed_help, OPT_INT, NULL, &j.seed},
        {"--against", "FILE", "JSON of an earlier run of these questions: adds the paired differences", OPT_TEXT, NULL,
         &j.against},
        {s->turn_option != NULL ? s->turn_option : "--paragraphs", s->turn_option != NULL ? "N" : "FILE",
         s->turn_option != NULL ? turns_help : "JSON lines of paragraphs and questions, for qa_1 and qa_2",
         s->turn_option != NULL ? OPT_INT : OPT_TEXT, NULL,
         s->turn_option != NULL ? (void *)&j.turns : (void *)&j.paragraphs_path},
        {NULL, NULL, NULL, OPT_FLAG, NULL, NULL},
    };
    int n = options_parse(argc, argv, usage, own, &c, NULL, 0);
    gen_mode mode = gen_mode_named(j.mode_name);
    const char *wrong = n < 0 || c.help                          ? NULL
                        : s == &retrieval && j.text_path == NULL ? "--text FILE"
                        : mode == GEN_N_MODES                    ? "--mode forced, single, multi_turn or multi_request"
                        : j.turns < 1 || j.turns > GEN_MAX_QUESTIONS   ? "1 to 64 questions in a context"
                        : j.questions < 1                              ? "--questions of at least 1"
                        : j.max_tokens < 0 || j.max_tokens > INT32_MAX ? "--max-tokens of at least 0"
                        : j.own_history && mode != GEN_MULTI_TURN      ? "--mode multi_turn for --own-history"
                                                                       : NULL;
    if (wrong != NULL)
        fprintf(stderr, "sluice: eval %s needs %s\n", s->name, wrong);
    if (c.help)
        print_tasks(s);
    int status = c.help ? 0 : CLI_USAGE;
    if (n >= 0 && !c.help && wrong == NULL) {
        j.left_out = json_object();
        status = run(&j, &c, mode);
        json_decref(j.left_out);
    }
    options_free(&c);
    return status;
}

int eval_retrieval(int argc, char **argv) { return command(&retrieval, argc, argv); }
int eval_ruler(int argc, char **argv) { return command(&ruler, argc, argv); }
int eval_scbench(int argc, char **argv) { return command(&scbench, argc, argv); }
