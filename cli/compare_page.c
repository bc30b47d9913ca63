/* See compare_page.h. */
#include "compare_page.h"

#include <math.h>
#include <string.h>

static const char *const skeleton[] = {
#include "report_page_html.inc"
    NULL};
static const char *const style[] = {
#include "report_css.inc"
    NULL};
static const char *const script[] = {
#include "report_js.inc"
    NULL};

void page_text(FILE *f, const char *s) {
    for (; s != NULL && *s != '\0'; s++) {
        const char *escape = *s == '<'    ? "&lt;"
                             : *s == '>'  ? "&gt;"
                             : *s == '&'  ? "&amp;"
                             : *s == '"'  ? "&quot;"
                             : *s == '\'' ? "&#39;"
                                          : NULL;
        if (escape != NULL)
            fputs(escape, f);
        else
            fputc(*s, f);
    }
}

const char *page_string(json_t *object, const char *name) {
    const char *s = json_string_value(json_object_get(object, name));
    return s != NULL ? s : "";
}

double page_number(json_t *object, const char *name) {
    json_t *v = json_object_get(object, name);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

json_t *page_cell(json_t *row, const char *key) { return json_object_get(json_object_get(row, "cells"), key); }

json_t *page_column(json_t *report, const char *key) {
    size_t i;
    json_t *column;
    json_array_foreach(json_object_get(report, "columns"), i, column) {
        if (strcmp(page_string(column, "key"), key) == 0)
            return column;
    }
    return NULL;
}

static void lines(FILE *f, const char *const *text) {
    for (; *text != NULL; text++)
        fputs(*text, f);
}

static void put_style(FILE *f, json_t *report) {
    (void)report;
    lines(f, style);
}
static void put_script(FILE *f, json_t *report) {
    (void)report;
    lines(f, script);
}

static const struct {
    const char *name;
    void (*put)(FILE *f, json_t *report);
} parts[] = {
    {"title", page_title},
    {"style", put_style},
    {"lede", page_lede},
    {"run", page_run},
    {"hint", page_hint},
    {"table", page_table},
    {"failures", page_failures},
    {"figures", page_figures},
    {"details", page_details},
    {"methods", page_methods},
    {"footer", page_footer},
    {"script", put_script},
    {"highlights", page_highlights},
};

static void put_part(FILE *f, json_t *report, const char *name, size_t length) {
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strlen(parts[i].name) == length && strncmp(parts[i].name, name, length) == 0)
            parts[i].put(f, report);
}

int compare_html(FILE *f, void *report) {
    for (const char *const *line = skeleton; *line != NULL; line++) {
        const char *at = *line;
        for (const char *open; (open = strstr(at, "{{")) != NULL;) {
            const char *close = strstr(open, "}}");
            fwrite(at, 1, (size_t)(open - at), f);
            put_part(f, report, open + 2, (size_t)(close - open - 2));
            at = close + 2;
        }
        fputs(at, f);
    }
    return ferror(f) ? -1 : 0;
}
