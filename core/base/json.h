/* JSON objects from files, over jansson: parsing with "file:line:column: text", getters that check type and range and
 * say which key of which file is wrong, what was expected and what was found.
 *
 * jansson keeps its own allocator: json_set_alloc_funcs is process-wide and would break a host program that uses
 * jansson itself. Trees live only while a file is being read. */
#ifndef SLUICE_CORE_JSON_H
#define SLUICE_CORE_JSON_H

#include <jansson.h>

#include "sl_error.h"

enum { SLI_JSON_PATH_BYTES = 168 }; /* "pre_tokenizer.pretokenizers[0].pattern." */

/* An object inside a document, with what messages need. Plain data; owns nothing. */
typedef struct sli_json {
    json_t *value;                    /* always an object; borrowed from the document's root */
    const char *file;                 /* borrowed; NULL: whoever reads the document puts its name in front */
    char within[SLI_JSON_PATH_BYTES]; /* "" at the root, "rope_scaling." inside that key */
} sli_json;

/* Parses text[n]; the document must be an object. `flags` are jansson's (JSON_REJECT_DUPLICATES ...); the last of
 * duplicate keys counts otherwise, as in Python. *out is at the root; free it with sli_json_free.
 * SL_E_DATA: "<file>:<line>:<column>: <text>". `file` is borrowed as long as *out is used. */
sl_status sli_json_parse(const char *file, const char *text, size_t n, size_t flags, sli_json *out, sl_error *err);

/* The same from a file of at most max_bytes. */
sl_status sli_json_load(const char *path, size_t max_bytes, size_t flags, sli_json *out, sl_error *err);

void sli_json_free(sli_json *root);

/* All getters: SL_OK and *out written; SL_SKIPPED and *out untouched when an optional key is missing or null;
 * SL_E_DATA with a message otherwise. Ranges are inclusive. */
typedef enum { SLI_JSON_OPTIONAL, SLI_JSON_REQUIRED } sli_json_need;

/* As `min` of a number: anything above zero. */
#define SLI_JSON_ABOVE_ZERO 2.2250738585072014e-308

sl_status sli_json_int(const sli_json *at, const char *key, sli_json_need need, int64_t min, int64_t max, int64_t *out,
                       sl_error *err);
sl_status sli_json_number(const sli_json *at, const char *key, sli_json_need need, double min, double max, double *out,
                          sl_error *err);
sl_status sli_json_bool(const sli_json *at, const char *key, sli_json_need need, int *out, sl_error *err);
/* *out is borrowed from the document. */
sl_status sli_json_string(const sli_json *at, const char *key, sli_json_need need, const char **out, sl_error *err);
sl_status sli_json_object(const sli_json *at, const char *key, sli_json_need need, sli_json *out, sl_error *err);
sl_status sli_json_array(const sli_json *at, const char *key, sli_json_need need, json_t **out, sl_error *err);

/* Not NULL when the key is there and not null. */
json_t *sli_json_get(const sli_json *at, const char *key);

/* Fails with: <file>: "<key>": expected <expected>, found <value>; without a file: <key>: expected ... value may be NULL
 * (missing). Returns SL_E_DATA. */
sl_status sli_json_fail(const sli_json *at, const char *key, const json_t *value, sl_error *err, const char *expected,
                        ...) SL_PRINTF(5, 6);

#endif
