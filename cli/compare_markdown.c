/* The report as tables in Markdown. */
#include <string.h>

#include "compare.h"

/* Text of a table's cell. */
static void text(FILE *f, const char *s) {
    for (; s != NULL && *s != '\0'; s++)
        if (*s == '|' || *s == '\\' || *s == '<' || *s == '*' || *s == '_' || *s == '`')
            fprintf(f, "\\%c", *s);
        else
            fputc(*s == '\n' ? ' ' : *s, f);
}

static const char *string(json_t *object, const char *name) {
    const char *s = json_string_value(json_object_get(object, name));
    return s != NULL ? s : "";
}

static void header(FILE *f, json_t *columns) {
    size_t i;
    json_t *column;
    fputs("| configuration |", f);
    json_array_foreach(columns, i, column) {
        fprintf(f, " %s, %s", string(column, "label"), string(column, "unit"));
        if (json_object_get(column, "detail") != json_null())
            fprintf(f, " (%s)", string(column, "detail"));
        fputs(" |", f);
    }
    fputs("\n|---|", f);
    for (i = 0; i < json_array_size(columns); i++)
        fputs("---|", f);
    fputc('\n', f);
}

static void row(FILE *f, json_t *report, json_t *columns, json_t *r) {
    size_t i;
    json_t *column;
    fputs("| ", f);
    text(f, string(r, "name"));
    fputs(" |", f);
    json_array_foreach(columns, i, column) {
        json_t *cell = json_object_get(json_object_get(r, "cells"), string(column, "key"));
        char value[64], beside[128];
        if (cell == NULL) {
            fputs(" |", f);
            continue;
        }
        compare_number(value, sizeof value, json_number_value(json_object_get(cell, "value")));
        compare_beside(beside, sizeof beside, cell);
        const char *bold = compare_is_best(report, column, r) ? "**" : "";
        fprintf(f, " %s%s%s%s%s |", bold, value, bold, beside[0] != '\0' ? "<br>" : "", beside);
    }
    fputc('\n', f);
}

static void failures(FILE *f, json_t *rows) {
    size_t i;
    json_t *r;
    int n = 0;
    json_array_foreach(rows, i, r) {
        if (json_is_null(json_object_get(r, "failed")))
            continue;
        fprintf(f, "%s- **", n++ == 0 ? "\n## What did not run\n\n" : "");
        text(f, string(r, "name"));
        fputs("**: ", f);
        text(f, string(r, "failed"));
        fputc('\n', f);
    }
}

static void methods(FILE *f, json_t *report) {
    size_t i;
    json_t *task, *word;
    fputs("\n## How it was measured\n\n", f);
    json_array_foreach(json_object_get(report, "tasks"), i, task) {
        fprintf(f, "- **%s**: %s. `%s`\n", string(task, "title"), string(task, "what"), string(task, "arguments"));
    }
    fputs("\nIntervals are 95 %. The command:\n\n```\n", f);
    json_array_foreach(json_object_get(report, "command"), i, word) {
        const char *w = json_string_value(word);
        fprintf(f, strpbrk(w, " '\"") != NULL ? "%s\"%s\"" : "%s%s", i > 0 ? " " : "", w);
    }
    fputs("\n```\n", f);
}

int compare_markdown(FILE *f, void *report) {
    json_t *columns = json_object_get(report, "columns"), *rows = json_object_get(report, "rows"), *r;
    json_t *machine = json_object_get(report, "machine");
    size_t i;
    fputs("# What each configuration costs and gives\n\n", f);
    fprintf(f, "Model `%s`. %s, %lld cores", string(report, "model_filename"), string(machine, "cpu"),
            (long long)json_integer_value(json_object_get(machine, "cores")));
    if (json_object_get(report, "device_name") != NULL)
        fprintf(f, "; %s", string(report, "device_name"));
    fprintf(f, ". sluice %s, commit %s, %s; %.0f s of measuring.\n\n", string(report, "version"),
            string(report, "commit"), string(report, "date"), json_number_value(json_object_get(report, "seconds")));
    fputs("Every figure was measured in this run. `1.52×` is the ratio to the first row with its 95 % interval, `±` "
          "the half width "
          "of a 95 % interval; the best of a column is bold.\n\n",
          f);
    header(f, columns);
    json_array_foreach(rows, i, r) row(f, report, columns, r);
    failures(f, rows);
    fputs("\n## The configurations\n\n", f);
    json_array_foreach(rows, i, r) {
        fputs("- **", f);
        text(f, string(r, "name"));
        fputs("**", f);
        fputs(string(r, "title")[0] != '\0' ? ": " : "", f);
        text(f, string(r, "title"));
        fputc('\n', f);
    }
    methods(f, report);
    return ferror(f) ? -1 : 0;
}
