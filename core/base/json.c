/* See json.h. */
#include "json.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/printable.h"

sl_status sli_json_parse(const char *file, const char *text, size_t n, size_t flags, sli_json *out, sl_error *err) {
    json_error_t e = {0};
    json_t *root = json_loadb(text, n, flags, &e);
    if (root == NULL) {
        char shown[SLI_PRINTABLE_BYTES];
        return sl_fail(err, json_error_code(&e) == json_error_out_of_memory ? SL_E_NO_MEMORY : SL_E_DATA,
                       "%s:%d:%d: %s", file, e.line, e.column, sli_printable(shown, e.text));
    }
    if (!json_is_object(root)) {
        json_decref(root);
        return sl_fail(err, SL_E_DATA, "%s:1:1: expected an object", file);
    }
    *out = (sli_json){.value = root, .file = file};
    return SL_OK;
}

sl_status sli_json_load(const char *path, size_t max_bytes, size_t flags, sli_json *out, sl_error *err) {
    char *text;
    size_t n;
    SL_TRY(sli_file_read(path, max_bytes, &text, &n, err));
    sl_status s = sli_json_parse(path, text, n, flags, out, err);
    sli_free(text);
    return s;
}

void sli_json_free(sli_json *root) {
    json_decref(root->value); /* NULL is legal */
    root->value = NULL;
}

json_t *sli_json_get(const sli_json *at, const char *key) {
    json_t *v = json_object_get(at->value, key);
    return json_is_null(v) ? NULL : v;
}

/* Writes a value for a message; containers by kind only, since they may be large. */
static void describe(char *buf, size_t n, const json_t *v) {
    char shown[SLI_PRINTABLE_BYTES];
    if (v == NULL)
        snprintf(buf, n, "nothing");
    else if (json_is_string(v))
        snprintf(buf, n, "\"%s\"", sli_printable(shown, json_string_value(v)));
    else if (json_is_integer(v))
        snprintf(buf, n, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    else if (json_is_real(v))
        snprintf(buf, n, "%.17g", json_real_value(v));
    else
        snprintf(buf, n, "%s",
                 json_is_object(v)  ? "an object"
                 : json_is_array(v) ? "an array"
                 : json_is_true(v)  ? "true"
                 : json_is_false(v) ? "false"
                                    : "null");
}

sl_status sli_json_fail(const sli_json *at, const char *key, const json_t *value, sl_error *err, const char *expected,
                        ...) {
    char want[256], found[SLI_PRINTABLE_BYTES + 8], name[SLI_PRINTABLE_BYTES];
    va_list ap;
    va_start(ap, expected);
    vsnprintf(want, sizeof want, expected, ap);
    va_end(ap);
    describe(found, sizeof found, value);
    if (at->file == NULL)
        return sl_fail(err, SL_E_DATA, "%s%s: expected %s, found %s", at->within, sli_printable(name, key), want, found);
    return sl_fail(err, SL_E_DATA, "%s: \"%s%s\": expected %s, found %s", at->file, at->within,
                   sli_printable(name, key), want, found);
}

/* The value, or NULL with *s saying why there is none to look at. */
static json_t *value_of(const sli_json *at, const char *key, sli_json_need need, const char *want, sl_status *s,
                        sl_error *err) {
    json_t *v = sli_json_get(at, key);
    *s = SL_OK;
    if (v == NULL)
        *s = need == SLI_JSON_OPTIONAL ? SL_SKIPPED
                                       : sli_json_fail(at, key, json_object_get(at->value, key), err, "%s", want);
    return v;
}

/* "integer >= 1", "integer from 0 to 7" */
static void range_text(char buf[96], const char *kind, int open_end, double min, double max, int integer) {
    const char *low = !integer && min == SLI_JSON_ABOVE_ZERO ? " > 0" : NULL;
    if (low != NULL && open_end)
        snprintf(buf, 96, "%s%s", kind, low);
    else if (low != NULL)
        snprintf(buf, 96, "%s%s and <= %.15g", kind, low, max);
    else if (open_end)
        snprintf(buf, 96, "%s >= %.15g", kind, min);
    else
        snprintf(buf, 96, "%s from %.15g to %.15g", kind, min, max);
}

sl_status sli_json_int(const sli_json *at, const char *key, sli_json_need need, int64_t min, int64_t max, int64_t *out,
                       sl_error *err) {
    char want[96];
    range_text(want, "integer", max == INT64_MAX, (double)min, (double)max, 1);
    sl_status s;
    json_t *v = value_of(at, key, need, want, &s, err);
    if (v == NULL)
        return s;
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
        return sli_json_fail(at, key, v, err, "%s", want);
    *out = json_integer_value(v);
    return SL_OK;
}

sl_status sli_json_number(const sli_json *at, const char *key, sli_json_need need, double min, double max, double *out,
                          sl_error *err) {
    char want[96];
    range_text(want, "number", isinf(max), min, max, 0);
    sl_status s;
    json_t *v = value_of(at, key, need, want, &s, err);
    if (v == NULL)
        return s;
    double x = json_number_value(v);
    if (!json_is_number(v) || !(x >= min && x <= max))
        return sli_json_fail(at, key, v, err, "%s", want);
    *out = x;
    return SL_OK;
}

sl_status sli_json_bool(const sli_json *at, const char *key, sli_json_need need, int *out, sl_error *err) {
    sl_status s;
    json_t *v = value_of(at, key, need, "true or false", &s, err);
    if (v == NULL)
        return s;
    if (!json_is_boolean(v))
        return sli_json_fail(at, key, v, err, "true or false");
    *out = json_is_true(v);
    return SL_OK;
}

sl_status sli_json_string(const sli_json *at, const char *key, sli_json_need need, const char **out, sl_error *err) {
    sl_status s;
    json_t *v = value_of(at, key, need, "a string", &s, err);
    if (v == NULL)
        return s;
    if (!json_is_string(v))
        return sli_json_fail(at, key, v, err, "a string");
    *out = json_string_value(v);
    return SL_OK;
}

sl_status sli_json_object(const sli_json *at, const char *key, sli_json_need need, sli_json *out, sl_error *err) {
    sl_status s;
    json_t *v = value_of(at, key, need, "an object", &s, err);
    if (v == NULL)
        return s;
    if (!json_is_object(v))
        return sli_json_fail(at, key, v, err, "an object");
    *out = (sli_json){.value = v, .file = at->file};
    int n = snprintf(out->within, sizeof out->within, "%s%s.", at->within, key);
    if (n < 0 || (size_t)n >= sizeof out->within)
        snprintf(out->within, sizeof out->within, "%.40s... .", key);
    return SL_OK;
}

sl_status sli_json_array(const sli_json *at, const char *key, sli_json_need need, json_t **out, sl_error *err) {
    sl_status s;
    json_t *v = value_of(at, key, need, "an array", &s, err);
    if (v == NULL)
        return s;
    if (!json_is_array(v))
        return sli_json_fail(at, key, v, err, "an array");
    *out = v;
    return SL_OK;
}
