/* The report of a comparison as one JSON object; the pages are made of it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "build_commit.h"
#include "compare.h"

/* What is left out of the copies of results: one entry an item, kept in the result files. */
static const char *const long_members[] = {"by_question", "nll_by_window", "kld_by_token", "kld_by_window", "by_item"};

static void put_value(json_t *cell, const char *name, json_t *result, const char *path, double scale) {
    json_t *v = compare_member(result, path);
    if (json_is_number(v))
        json_object_set_new(cell, name, json_real(json_number_value(v) * (scale != 0 ? scale : 1)));
}

/* The figure of a column; NULL: the result has none. */
static json_t *cell_of(const compare_column *col, json_t *result) {
    json_t *v = compare_member(result, col->path);
    if (!json_is_number(v))
        return NULL;
    json_t *cell = json_object();
    put_value(cell, "value", result, col->path, col->scale);
    put_value(cell, "ratio", result, col->ratio, 1);
    put_value(cell, "ratio_low", result, col->ratio_low, 1);
    put_value(cell, "ratio_high", result, col->ratio_high, 1);
    put_value(cell, "difference", result, col->difference, col->scale);
    put_value(cell, "half_width", result, col->half_width, col->scale);
    if (col->n != NULL && json_is_number(compare_member(result, col->n))) {
        json_object_set(cell, "n", compare_member(result, col->n));
        json_object_set_new(cell, "n_unit", json_string(col->n_unit));
    }
    return cell;
}

/* Columns that some configuration has a figure for. */
static json_t *columns_of(const comparison *c) {
    json_t *columns = json_array();
    for (int k = 0; k < c->n_tasks; k++)
        for (const compare_column *col = c->task[k]->columns; col->key != NULL; col++) {
            const char *detail = NULL;
            int any = 0;
            for (int i = 0; i < c->n_configs; i++) {
                any |= json_is_number(compare_member(c->result[i][k], col->path));
                detail = detail == NULL ? json_string_value(compare_member(c->result[i][k], col->detail)) : detail;
            }
            if (any)
                json_array_append_new(columns,
                                      json_pack("{s:s, s:s, s:s, s:s, s:i, s:s?, s:s}", "key", col->key, "task",
                                                c->task[k]->name, "label", col->label, "unit", col->unit, "better",
                                                col->better, "detail", detail, "what", col->what));
        }
    return columns;
}

static json_t *tasks_of(const comparison *c) {
    json_t *tasks = json_array();
    for (int k = 0; k < c->n_tasks; k++)
        json_array_append_new(tasks,
                              json_pack("{s:s, s:s, s:s, s:s}", "name", c->task[k]->name, "title", c->task[k]->title,
                                        "arguments", c->arguments[k], "what", c->task[k]->what));
    return tasks;
}

/* A copy without what has one entry an item, the note of the run and the stored key taken apart. */
static json_t *task_row(json_t *result) {
    json_t *copy = json_copy(result), *about = json_object_get(result, "compare"), *row = json_copy(about);
    for (size_t i = 0; i < sizeof long_members / sizeof *long_members; i++)
        json_object_del(copy, long_members[i]);
    json_object_del(copy, "compare");
    json_object_del(row, "key");
    if (json_object_size(copy) > 0)
        json_object_set(row, "result", copy);
    json_decref(copy);
    return row;
}

/* Why a configuration has no or not all results: the first reason. */
static const char *reason_of(const comparison *c, int i) {
    if (c->config[i].settings == NULL)
        return c->config[i].refused;
    for (int k = 0; k < c->n_tasks; k++) {
        const char *state = json_string_value(compare_member(c->result[i][k], "compare.state"));
        const char *reason = json_string_value(compare_member(c->result[i][k], "compare.reason"));
        if (state != NULL && strcmp(state, "failed") == 0)
            return reason != NULL ? reason : "failed";
    }
    return NULL;
}

static json_t *row_of(const comparison *c, int i) {
    const compare_config *g = &c->config[i];
    json_t *cells = json_object(), *tasks = json_object();
    for (int k = 0; k < c->n_tasks; k++) {
        if (c->result[i][k] == NULL)
            continue;
        json_object_set_new(tasks, c->task[k]->name, task_row(c->result[i][k]));
        for (const compare_column *col = c->task[k]->columns; col->key != NULL; col++) {
            json_t *cell = cell_of(col, c->result[i][k]);
            if (cell != NULL)
                json_object_set_new(cells, col->key, cell);
        }
    }
    return json_pack("{s:s, s:s, s:s, s:s?, s:s, s:o, s:s, s:o, s:o}", "name", g->name, "title", g->title, "family",
                     g->settings != NULL ? compare_family(g, &c->config[0]) : "failed", "failed", reason_of(c, i),
                     "file", g->path, "plugins", compare_plugins(g), "ini", g->text, "cells", cells, "tasks", tasks);
}

static void describe_model(const comparison *c, json_t *report) {
    static const char *const kept[] = {"model_filename", "model_type", "model_n_params", "device",
                                       "device_name",    "isa",        "n_threads"};
    for (int i = 0; i < c->n_configs; i++)
        for (int k = 0; k < c->n_tasks; k++)
            for (size_t w = 0; w < sizeof kept / sizeof *kept; w++) {
                json_t *v = json_object_get(c->result[i][k], kept[w]);
                if (v != NULL && json_object_get(report, kept[w]) == NULL)
                    json_object_set(report, kept[w], v);
            }
    const char *path = compare_setting(&c->config[0], "model.path"), *slash = strrchr(path, '/');
    if (json_object_get(report, "model_filename") == NULL)
        json_object_set_new(report, "model_filename", json_string(slash != NULL ? slash + 1 : path));
}

/* Seconds of all children, in this run and in those that it took results of. */
static double seconds_of(const comparison *c) {
    double sum = 0;
    for (int i = 0; i < c->n_configs; i++)
        for (int k = 0; k < c->n_tasks; k++)
            sum += json_number_value(compare_member(c->result[i][k], "compare.seconds"));
    return sum;
}

json_t *compare_report(const comparison *c, int argc, char **argv) {
    json_t *command = json_array(), *rows = json_array();
    json_array_append_new(command, json_string("sluice"));
    for (int i = 0; i < argc; i++)
        json_array_append_new(command, json_string(argv[i]));
    for (int i = 0; i < c->n_configs; i++)
        json_array_append_new(rows, row_of(c, i));
    char date[32];
    time_t t = time(NULL);
    struct tm utc;
    strftime(date, sizeof date, "%Y-%m-%d", gmtime_r(&t, &utc));
    json_t *report =
        json_pack("{s:s, s:s, s:s, s:s, s:o, s:O, s:f, s:I, s:s, s:o, s:o, s:o}", "format", "sluice compare 1", "date",
                  date, "version", sluice_version(), "commit", BUILD_COMMIT, "command", command, "machine", c->machine,
                  "seconds", seconds_of(c), "pairs", (json_int_t)c->pairs, "base", c->config[0].name, "tasks",
                  tasks_of(c), "columns", columns_of(c), "rows", rows);
    describe_model(c, report);
    return report;
}
