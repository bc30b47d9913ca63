/* See records.h. */
#include "records.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PRECISION = JSON_REAL_PRECISION(10) };

int records_format_of(const char *text, record_format *out) {
    static const char *const names[] = {"md", "csv", "json", "jsonl"};
    for (int i = 0; i < 4; i++)
        if (strcmp(text, names[i]) == 0) {
            *out = (record_format)i;
            return 0;
        }
    return -1;
}

/* ---- CSV --------------------------------------------------------------------------------------------------------- */

/* In quotes where RFC 4180 wants them. */
static void print_quoted(const char *text) {
    if (strpbrk(text, ",\"\r\n") == NULL) {
        fputs(text, stdout);
        return;
    }
    putchar('"');
    for (; *text != '\0'; text++) {
        if (*text == '"')
            putchar('"');
        putchar(*text);
    }
    putchar('"');
}

/* Texts and numbers as they are, lists and objects as JSON, nothing for what is absent or null. */
static void print_value(const json_t *v) {
    if (v == NULL || json_is_null(v))
        return;
    char *text = json_is_string(v) ? NULL : json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | PRECISION);
    print_quoted(text != NULL ? text : json_is_string(v) ? json_string_value(v) : "");
    free(text);
}

static void print_csv(const records *r, const json_t *record) {
    for (int i = 0; r->n == 0 && r->keys[i] != NULL; i++)
        printf("%s%s", i > 0 ? "," : "", r->keys[i]);
    if (r->n == 0)
        fputs("\n", stdout);
    for (int i = 0; r->keys[i] != NULL; i++) {
        fputs(i > 0 ? "," : "", stdout);
        print_value(json_object_get(record, r->keys[i]));
    }
    fputs("\n", stdout);
}

/* ---- the table -----------------------------------------------------------------------------------------------------
 */

static void print_md(const records *r, json_t *record) {
    for (const record_column *c = r->columns; r->n == 0 && c->title != NULL; c++)
        if (!c->hidden)
            printf("| %s ", c->title);
    if (r->n == 0)
        fputs("|\n", stdout);
    for (const record_column *c = r->columns; r->n == 0 && c->title != NULL; c++)
        if (!c->hidden)
            fputs("|---", stdout);
    if (r->n == 0)
        fputs("|\n", stdout);
    for (const record_column *c = r->columns; c->title != NULL; c++) {
        char cell[160] = "";
        if (c->hidden)
            continue;
        c->cell(record, cell, sizeof cell);
        printf("| %s ", cell);
    }
    fputs("|\n", stdout);
}

/* --------------------------------------------------------------------------------------------------------------------
 */

void records_add(records *r, json_t *record) {
    switch (r->format) {
    case RECORDS_MD: print_md(r, record); break;
    case RECORDS_CSV: print_csv(r, record); break;
    case RECORDS_JSONL: json_dumpf(record, stdout, JSON_COMPACT | PRECISION), putchar('\n'); break;
    case RECORDS_JSON:
        if (r->all == NULL)
            r->all = json_array();
        json_array_append(r->all, record);
        break;
    }
    fflush(stdout);
    json_decref(record);
    r->n++;
}

void records_end(records *r) {
    if (r->all != NULL)
        json_dumpf(r->all, stdout, JSON_INDENT(2) | PRECISION), putchar('\n');
    json_decref(r->all);
    r->all = NULL;
}
