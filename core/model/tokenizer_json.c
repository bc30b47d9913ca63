/* See tokenizer_json.h. */
#include "tokenizer_json.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"

sl_status sli_tokenizer_json_missing(const char *where, const char *key, sl_error *err) {
    return sl_fail(err, SL_E_DATA, "%s.%s is missing", where, key);
}

static sli_json place(const json_t *object, const char *where) {
    sli_json at = {.value = (json_t *)(uintptr_t)object}; /* only read */
    snprintf(at.within, sizeof at.within, "%s.", where);
    return at;
}

static sl_status wrong(const json_t *object, const char *where, const char *key, const char *expected, sl_error *err) {
    sli_json at = place(object, where);
    return sli_json_fail(&at, key, json_object_get(object, key), err, "%s", expected);
}

sl_status sli_tokenizer_json_string(const json_t *object, const char *key, const char *where, const char **out,
                                    size_t *len, sl_error *err) {
    sli_json at = place(object, where);
    sl_status s = sli_json_string(&at, key, SLI_JSON_OPTIONAL, out, err);
    if (s == SL_OK)
        *len = json_string_length(json_object_get(object, key));
    return s;
}

sl_status sli_tokenizer_json_bool(const json_t *object, const char *key, const char *where, int *out, sl_error *err) {
    sli_json at = place(object, where);
    return sli_json_bool(&at, key, SLI_JSON_OPTIONAL, out, err);
}

sl_status sli_tokenizer_json_integer(const json_t *object, const char *key, const char *where, int64_t low,
                                     int64_t high, int64_t *out, sl_error *err) {
    sli_json at = place(object, where);
    return sli_json_int(&at, key, SLI_JSON_OPTIONAL, low, high, out, err);
}

sl_status sli_tokenizer_json_pattern(const json_t *object, const char *where, sli_pattern *out, sl_error *err) {
    const json_t *v = json_object_get(object, "pattern");
    if (v == NULL)
        return sli_tokenizer_json_missing(where, "pattern", err);
    const char *text;
    size_t len;
    char inner[SLI_WHERE_BYTES];
    snprintf(inner, sizeof inner, "%s.pattern", where);
    sl_status status = sli_tokenizer_json_string(v, "String", inner, &text, &len, err);
    if (status == SL_SKIPPED) {
        status = sli_tokenizer_json_string(v, "Regex", inner, &text, &len, err);
        if (status == SL_OK)
            status = sli_pattern_regex(text, len, out, err);
    } else if (status == SL_OK) {
        status = sli_pattern_literal(text, len, out, err);
    }
    if (status == SL_SKIPPED)
        return wrong(object, where, "pattern", "{\"String\": ...} or {\"Regex\": ...}", err);
    return status < 0 && status != SL_E_NO_MEMORY ? sl_fail_within(err, status, "%s", inner) : status;
}

sl_status sli_tokenizer_json_char(const json_t *object, const char *key, const char *where, char out[8], size_t *len,
                        sl_error *err) {
    const char *text;
    size_t n;
    uint32_t c;
    sl_status status = sli_tokenizer_json_string(object, key, where, &text, &n, err);
    if (status == SL_SKIPPED)
        return sli_tokenizer_json_missing(where, key, err);
    SL_TRY(status);
    if (n == 0 || sli_utf8_next(text, n, &c) != n)
        return wrong(object, where, key, "one character", err);
    memcpy(out, text, n);
    *len = n;
    return SL_OK;
}

static sl_status walk(const json_t *value, const char *list_key, const sli_component *table, size_t n, void *target,
                      const char *where, int depth, sl_error *err) {
    if (!json_is_object(value))
        return sl_fail(err, SL_E_DATA, "%s: expected an object or null", where);
    const char *type = NULL;
    size_t len = 0;
    sl_status found = sli_tokenizer_json_string(value, "type", where, &type, &len, err);
    SL_TRY(found);
    if (found == SL_SKIPPED)
        return sli_tokenizer_json_missing(where, "type", err);
    if (strcmp(type, "Sequence") != 0) {
        for (size_t i = 0; i < n; i++)
            if (strcmp(table[i].type, type) == 0)
                return table[i].read(target, value, where, err);
        return sl_fail(err, SL_E_UNIMPLEMENTED, "%s: '%.100s' is not supported", where, type);
    }
    const json_t *list = json_object_get(value, list_key);
    if (!json_is_array(list))
        return wrong(value, where, list_key, "an array", err);
    if (depth == 8)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "%s: sequences nested this deep are not supported", where);
    for (size_t i = 0; i < json_array_size(list); i++) {
        char inner[SLI_WHERE_BYTES];
        snprintf(inner, sizeof inner, "%s.%s[%zu]", where, list_key, i);
        SL_TRY(walk(json_array_get(list, i), list_key, table, n, target, inner, depth + 1, err));
    }
    return SL_OK;
}

sl_status sli_tokenizer_json_components(const json_t *value, const char *list_key, const sli_component *table, size_t n,
                              void *target, const char *where, sl_error *err) {
    if (value == NULL || json_is_null(value))
        return SL_OK;
    return walk(value, list_key, table, n, target, where, 0, err);
}
