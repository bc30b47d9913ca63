/* records.h - records of measurements as they come: a markdown table, CSV, a JSON array, or a JSON object a line. */
#ifndef SLUICE_CLI_RECORDS_H
#define SLUICE_CLI_RECORDS_H

#include <jansson.h>
#include <stddef.h>

#define RECORDS_FORMATS "md, csv, json, jsonl"

typedef enum { RECORDS_MD, RECORDS_CSV, RECORDS_JSON, RECORDS_JSONL } record_format;

/* A column of the markdown table. */
typedef struct record_column {
    const char *title;
    void (*cell)(json_t *row, char *out, size_t cap);
    int hidden;
} record_column;

typedef struct records {
    record_format format;
    const char *const *keys;      /* columns of CSV, ended by NULL: every key that a record may have */
    const record_column *columns; /* ended by title = NULL */
    json_t *all;                  /* of RECORDS_JSON */
    int n;
} records;

/* 0; -1 when it is not one of RECORDS_FORMATS. */
int records_format_of(const char *text, record_format *out);
/* Prints a record (stolen), with what stands above the first one. JSON waits for the end. */
void records_add(records *r, json_t *record);
/* Ends the output. Without any record nothing was and is printed. */
void records_end(records *r);

#endif
