/* sluice compare - what configurations cost and give, measured side by side. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "commands.h"
#include "compare.h"

static int make_folder(const char *path) {
    if (mkdir(path, 0777) == 0 || errno == EEXIST)
        return 0;
    fprintf(stderr, "sluice: %s: %s\n", path, strerror(errno));
    return -1;
}

static int make_folders(const char *dir) {
    char *results = NULL;
    int status = asprintf(&results, "%s/results", dir) < 0 ? -1 : make_folder(dir);
    if (status == 0)
        status = make_folder(results);
    free(results);
    return status;
}

static void add_task(comparison *c, int which, const char *arguments) {
    c->task[c->n_tasks] = &compare_tasks[which];
    c->arguments[c->n_tasks++] = arguments != NULL ? arguments : compare_tasks[which].arguments;
}

/* "bench,ppl" into tasks, in the order of the table; NULL: those whose files were given. */
static int choose_tasks(comparison *c, const char *words, const char *const *arguments) {
    char chosen[COMPARE_MAX_TASKS] = {0};
    for (const char *p = words; p != NULL && *p != '\0';) {
        size_t n = strcspn(p, ",");
        int found = -1;
        for (int i = 0; i < compare_n_tasks; i++)
            if (strlen(compare_tasks[i].name) == n && strncmp(compare_tasks[i].name, p, n) == 0)
                found = i;
        if (found < 0) {
            fprintf(stderr, "sluice: --tasks: there is no task \"%.*s\"; there are", (int)n, p);
            for (int i = 0; i < compare_n_tasks; i++)
                fprintf(stderr, "%s %s", i > 0 ? "," : "", compare_tasks[i].name);
            fputc('\n', stderr);
            return -1;
        }
        chosen[found] = 1;
        p += n + (p[n] == ',');
    }
    for (int i = 0; i < compare_n_tasks; i++) {
        int flags = compare_tasks[i].flags,
            has_files = (!(flags & TASK_TEXT) || c->text != NULL) && (!(flags & TASK_PROMPTS) || c->prompts != NULL);
        if (words != NULL && chosen[i] && !has_files) {
            fprintf(stderr, "sluice: task %s needs %s FILE\n", compare_tasks[i].name,
                    flags & TASK_TEXT ? "--text" : "--prompts");
            return -1;
        }
        if (words != NULL ? chosen[i] : has_files)
            add_task(c, i, arguments[i]);
    }
    return 0;
}

static int open_configs(comparison *c, const char *const *paths, int n) {
    for (; c->n_configs < n; c->n_configs++) {
        compare_config *g = &c->config[c->n_configs];
        if (compare_config_open(g, paths[c->n_configs], c->shared, c->timeout) < 0)
            return -1;
        int same = 1;
        for (int i = 0; i < c->n_configs; i++)
            same += strcmp(c->config[i].name, g->name) == 0;
        char *numbered = NULL;
        if (same > 1 && asprintf(&numbered, "%s-%d", g->name, same) >= 0) {
            free(g->name);
            g->name = numbered;
        }
        if (g->settings == NULL)
            fprintf(stderr, "%s: refused: %s\n", g->name, g->refused);
    }
    return 0;
}

static json_t *digest_inputs(const comparison *c) {
    const char *const paths[] = {c->text, c->prompts};
    json_t *input = json_array();
    for (int i = 0; i < 2; i++) {
        json_t *digest = paths[i] != NULL ? compare_file_digest(paths[i]) : NULL;
        if (paths[i] != NULL && digest == NULL) {
            fprintf(stderr, "sluice: %s: cannot be read\n", paths[i]);
            json_decref(input);
            return NULL;
        }
        json_array_append_new(input, digest != NULL ? digest : json_null());
    }
    return input;
}

static int dump(FILE *f, void *report) {
    return json_dumpf(report, f, JSON_INDENT(1) | JSON_REAL_PRECISION(12)) == 0 && fputc('\n', f) != EOF ? 0 : -1;
}

static int write_reports(const comparison *c, int argc, char **argv) {
    static const struct {
        const char *name;
        int (*write)(FILE *f, void *report);
    } pages[] = {{"report.json", dump}, {"report.md", compare_markdown}, {"report.html", compare_html}};
    json_t *report = compare_report(c, argc, argv);
    int status = report != NULL ? 0 : -1;
    for (size_t i = 0; status == 0 && i < sizeof pages / sizeof *pages; i++) {
        char *path = NULL;
        if (asprintf(&path, "%s/%s", c->dir, pages[i].name) < 0)
            path = NULL;
        status = compare_write(path, pages[i].write, report);
        if (status == 0)
            printf("%s\n", path);
        free(path);
    }
    json_decref(report);
    return status;
}

static int run(comparison *c, const char *const *paths, int n, int argc, char **argv) {
    int status = make_folders(c->dir);
    c->machine = compare_machine();
    if (status == 0 && (c->input = digest_inputs(c)) == NULL)
        status = -1;
    if (status == 0)
        status = open_configs(c, paths, n);
    if (status == 0)
        status = compare_run(c);
    if (status == 0)
        status = write_reports(c, argc, argv);
    for (int i = 0; i < c->n_configs; i++) {
        compare_config_free(&c->config[i]);
        for (int k = 0; k < c->n_tasks; k++)
            json_decref(c->result[i][k]);
    }
    json_decref(c->machine);
    json_decref(c->input);
    return status < 0 ? 1 : 0;
}

int cmd_compare(int argc, char **argv) {
    common shared = {0};
    const char *tasks = NULL, *arguments[COMPARE_MAX_TASKS] = {NULL}, *paths[COMPARE_MAX_CONFIGS];
    static comparison c;
    c = (comparison){.shared = &shared, .dir = "compare", .pairs = 7, .timeout = 3600};
    const option own[] = {
        {"--tasks", "LIST", "of bench, ppl, kld, retrieval, spec (default: those whose files are given)", OPT_TEXT,
         NULL, &tasks},
        {"-o, --output", "DIR", "gets report.html, report.md, report.json and results/ (default compare)", OPT_TEXT,
         NULL, &c.dir},
        {"--text", "FILE", "plain text for ppl, kld and retrieval", OPT_TEXT, NULL, &c.text},
        {"--prompts", "FILE", "prompts for spec, as of `sluice eval spec`", OPT_TEXT, NULL, &c.prompts},
        {"--pairs", "N", "rounds of bench, each beside one of the first configuration (default 7)", OPT_INT, NULL,
         &c.pairs},
        {"--bench", "ARGUMENTS", "of `sluice bench`, instead of those that docs/compare.md lists", OPT_TEXT, NULL,
         &arguments[0]},
        {"--ppl", "ARGUMENTS", "of `sluice eval ppl`", OPT_TEXT, NULL, &arguments[1]},
        {"--kld", "ARGUMENTS", "of `sluice eval kld`", OPT_TEXT, NULL, &arguments[2]},
        {"--retrieval", "ARGUMENTS", "of `sluice eval retrieval`", OPT_TEXT, NULL, &arguments[3]},
        {"--spec", "ARGUMENTS", "of `sluice eval spec`", OPT_TEXT, NULL, &arguments[4]},
        {"--timeout", "SECONDS", "for one child process; 0: none (default 3600)", OPT_REAL, NULL, &c.timeout},
        {"--retry", NULL, "run what failed again; what is done is never run twice", OPT_FLAG, NULL, &c.retry},
        {NULL, NULL, NULL, OPT_FLAG, NULL, NULL},
    };
    int n = options_parse(argc, argv, "sluice compare BASE.ini OTHER.ini ... [options]", own, &shared, paths,
                          COMPARE_MAX_CONFIGS);
    int good = n > 0 && shared.config == NULL && c.pairs >= 1 && c.pairs <= 1000 && c.timeout >= 0;
    int status = CLI_USAGE;
    if (shared.help)
        status = 0;
    else if (n >= 0 && !good)
        fprintf(stderr,
                "sluice: compare needs INI files as words (the first one is the base), no --config, --pairs from 1 to "
                "1000\n");
    else if (n >= 0 && choose_tasks(&c, tasks, arguments) == 0)
        status = run(&c, paths, n, argc, argv);
    options_free(&shared);
    return status;
}
