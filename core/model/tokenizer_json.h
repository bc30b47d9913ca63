/* Reading typed members of a JSON object of the tokenizer: the getters of base/json.h, for places that are known by
 * name
 * ("model.unk_token: expected a string, found 7"), and what else its components have in common. */
#ifndef SLUICE_CORE_TOKENIZER_JSON_H
#define SLUICE_CORE_TOKENIZER_JSON_H

#include "tokenizer_regex.h"

#include <jansson.h>

enum { SLI_WHERE_BYTES = 160 }; /* room for a path such as "pre_tokenizer.pretokenizers[0].pattern" */

/* A member that may be missing or null: *out then keeps its value and the status is SL_SKIPPED. */
sl_status sli_tokenizer_json_string(const json_t *object, const char *key, const char *where, const char **out,
                                    size_t *len, sl_error *err);
sl_status sli_tokenizer_json_bool(const json_t *object, const char *key, const char *where, int *out, sl_error *err);
sl_status sli_tokenizer_json_integer(const json_t *object, const char *key, const char *where, int64_t low,
                                     int64_t high, int64_t *out, sl_error *err);
sl_status sli_tokenizer_json_missing(const char *where, const char *key,
                                     sl_error *err); /* a member that must be there */

/* The member "pattern": {"String": text} or {"Regex": source}. */
sl_status sli_tokenizer_json_pattern(const json_t *object, const char *where, sli_pattern *out, sl_error *err);
/* A member that is one character; its UTF-8. */
sl_status sli_tokenizer_json_char(const json_t *object, const char *key, const char *where, char out[8], size_t *len,
                                  sl_error *err);

/* One kind of component ("type" member) and its reader. */
typedef struct sli_component {
    const char *type;
    sl_status (*read)(void *target, const json_t *object, const char *where, sl_error *err);
} sli_component;

/* Reads a component or a Sequence of them (its members stand under `list_key`) in order; null is an empty sequence.
 * A type that the table lacks is refused by name. */
sl_status sli_tokenizer_json_components(const json_t *value, const char *list_key, const sli_component *table, size_t n,
                                        void *target, const char *where, sl_error *err);

#endif
